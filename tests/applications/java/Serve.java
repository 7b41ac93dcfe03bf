// Serves TLS with a key of a PKCS#11 token, with a thread for each client. Arguments: the configuration of SunPKCS11,
// the PIN, the key's alias, the port of the loopback address.

import java.net.InetAddress;
import java.net.Socket;
import java.security.KeyStore;
import java.security.Principal;
import java.security.PrivateKey;
import java.security.Provider;
import java.security.Security;
import java.security.cert.X509Certificate;
import javax.net.ssl.KeyManager;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.X509ExtendedKeyManager;
import javax.net.ssl.SSLEngine;

public class Serve {
    public static void main(String[] arguments) throws Exception {
        Provider provider = Security.getProvider("SunPKCS11").configure(arguments[0]);
        Security.addProvider(provider);
        KeyStore store = KeyStore.getInstance("PKCS11", provider);
        store.load(null, arguments[1].toCharArray());
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(new KeyManager[] {new Only(store, arguments[2])}, null, null);
        SSLServerSocket listener = (SSLServerSocket) context.getServerSocketFactory()
                .createServerSocket(Integer.parseInt(arguments[3]), 50, InetAddress.getByName("127.0.0.1"));
        while (true) {
            SSLSocket client = (SSLSocket) listener.accept();
            new Thread(() -> serve(client)).start();
        }
    }

    static void serve(SSLSocket client) {
        try (client) {
            client.startHandshake();
            client.getOutputStream().write("from the token\n".getBytes());
        } catch (Exception error) {
            System.err.println(error);
        }
    }

    /** Chooses one key of the store, whatever the client asks for. */
    static class Only extends X509ExtendedKeyManager {
        private final String alias;
        private final PrivateKey key;
        private final X509Certificate[] chain;

        Only(KeyStore store, String alias) throws Exception {
            this.alias = alias;
            key = (PrivateKey) store.getKey(alias, null);
            chain = new X509Certificate[] {(X509Certificate) store.getCertificate(alias)};
        }

        public String chooseServerAlias(String type, Principal[] issuers, Socket socket) {
            return type.equals(key.getAlgorithm()) ? alias : null;
        }

        public String chooseEngineServerAlias(String type, Principal[] issuers, SSLEngine engine) {
            return chooseServerAlias(type, issuers, null);
        }

        public String[] getServerAliases(String type, Principal[] issuers) {
            return new String[] {alias};
        }

        public String chooseClientAlias(String[] types, Principal[] issuers, Socket socket) {
            return null;
        }

        public String[] getClientAliases(String type, Principal[] issuers) {
            return null;
        }

        public PrivateKey getPrivateKey(String alias) {
            return key;
        }

        public X509Certificate[] getCertificateChain(String alias) {
            return chain;
        }
    }
}
