// Makes the calls of Java's SunPKCS11 and of Bouncy Castle that EJBCA makes with a crypto token, but without EJBCA: keys are
// made and stored with a certificate that they sign themselves, listed, tried, used for a root, for a certificate and for a
// revocation list, for decryption, and deleted. Arguments: SunPKCS11's configuration, the PIN.

import java.math.BigInteger;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.Provider;
import java.security.PublicKey;
import java.security.Security;
import java.security.Signature;
import java.security.cert.X509Certificate;
import java.security.spec.ECGenParameterSpec;
import java.util.Arrays;
import java.util.Date;
import javax.crypto.Cipher;
import org.bouncycastle.asn1.x500.X500Name;
import org.bouncycastle.asn1.x509.BasicConstraints;
import org.bouncycastle.asn1.x509.CRLReason;
import org.bouncycastle.asn1.x509.Extension;
import org.bouncycastle.asn1.x509.KeyUsage;
import org.bouncycastle.cert.X509CRLHolder;
import org.bouncycastle.cert.X509v2CRLBuilder;
import org.bouncycastle.cert.jcajce.JcaX509CertificateConverter;
import org.bouncycastle.cert.jcajce.JcaX509v3CertificateBuilder;
import org.bouncycastle.operator.ContentSigner;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.operator.jcajce.JcaContentVerifierProviderBuilder;

public class EjbcaCalls {
    private static Provider hsm;
    private static KeyStore store;

    public static void main(String[] arguments) throws Exception {
        hsm = Security.getProvider("SunPKCS11").configure(arguments[0]);
        Security.addProvider(hsm);
        store = KeyStore.getInstance("PKCS11", hsm);
        store.load(null, arguments[1].toCharArray());

        KeyPairGenerator rsa = KeyPairGenerator.getInstance("RSA", hsm);
        rsa.initialize(2048);
        keep("signKey", rsa.generateKeyPair(), "SHA256withRSA");
        keep("defaultKey", rsa.generateKeyPair(), "SHA256withRSA");
        KeyPairGenerator ec = KeyPairGenerator.getInstance("EC", hsm);
        ec.initialize(new ECGenParameterSpec("secp256r1"));
        keep("signKeyEc", ec.generateKeyPair(), "SHA256withECDSA");

        // As a restart does.
        store = KeyStore.getInstance("PKCS11", hsm);
        store.load(null, arguments[1].toCharArray());
        for (String alias : java.util.Collections.list(store.aliases())) {
            System.out.println("key " + alias + " " + store.getCertificate(alias).getPublicKey().getAlgorithm());
        }
        test("signKey", "SHA256withRSA");
        test("signKeyEc", "SHA256withECDSA");
        authority("signKey", "SHA256withRSA");
        authority("signKeyEc", "SHA256withECDSA");
        decrypt("defaultKey");
        for (String alias : new String[] {"signKey", "defaultKey", "signKeyEc"}) {
            store.deleteEntry(alias);
        }
        System.out.println("keys left: " + store.size());
    }

    /** A key needs a certificate to be in the key store. */
    private static void keep(String alias, KeyPair pair, String algorithm) throws Exception {
        X509Certificate own = issue("CN=" + alias, pair.getPublic(), "CN=" + alias, pair.getPrivate(), algorithm, true);
        store.setKeyEntry(alias, pair.getPrivate(), null, new X509Certificate[] {own});
        System.out.println("made " + alias);
    }

    private static PrivateKey key(String alias) throws Exception {
        return (PrivateKey) store.getKey(alias, null);
    }

    private static PublicKey publicKey(String alias) throws Exception {
        return store.getCertificate(alias).getPublicKey();
    }

    private static void test(String alias, String algorithm) throws Exception {
        byte[] data = "a message".getBytes();
        Signature signing = Signature.getInstance(algorithm, hsm);
        signing.initSign(key(alias));
        signing.update(data);
        byte[] signed = signing.sign();
        // Without the token.
        Signature checking = Signature.getInstance(algorithm, alias.endsWith("Ec") ? "SunEC" : "SunRsaSign");
        checking.initVerify(publicKey(alias));
        checking.update(data);
        if (!checking.verify(signed)) {
            throw new Exception(alias + ": wrong signature");
        }
        System.out.println("tested " + alias);
    }

    private static ContentSigner signer(PrivateKey key, String algorithm) throws Exception {
        return new JcaContentSignerBuilder(algorithm).setProvider(hsm).build(key);
    }

    private static X509Certificate issue(String subject, PublicKey key, String issuer, PrivateKey by, String algorithm,
            boolean authority) throws Exception {
        Date now = new Date();
        JcaX509v3CertificateBuilder builder = new JcaX509v3CertificateBuilder(new X500Name(issuer),
                BigInteger.valueOf(now.getTime()), now, new Date(now.getTime() + 86400000L), new X500Name(subject), key);
        builder.addExtension(Extension.basicConstraints, true, new BasicConstraints(authority));
        builder.addExtension(Extension.keyUsage, true,
                new KeyUsage(authority ? KeyUsage.keyCertSign | KeyUsage.cRLSign : KeyUsage.digitalSignature));
        return new JcaX509CertificateConverter().getCertificate(builder.build(signer(by, algorithm)));
    }

    /** A root, a certificate of it, and a revocation list. */
    private static void authority(String alias, String algorithm) throws Exception {
        String name = "CN=Root of " + alias;
        X509Certificate root = issue(name, publicKey(alias), name, key(alias), algorithm, true);
        root.verify(root.getPublicKey());
        KeyPairGenerator user = KeyPairGenerator.getInstance("RSA", "SunRsaSign");
        user.initialize(2048);
        X509Certificate certificate =
                issue("CN=user", user.generateKeyPair().getPublic(), name, key(alias), algorithm, false);
        certificate.verify(root.getPublicKey());
        Date now = new Date();
        X509v2CRLBuilder list = new X509v2CRLBuilder(new X500Name(name), now);
        list.setNextUpdate(new Date(now.getTime() + 86400000L));
        list.addCRLEntry(certificate.getSerialNumber(), now, CRLReason.keyCompromise);
        X509CRLHolder revoked = list.build(signer(key(alias), algorithm));
        if (!revoked.isSignatureValid(new JcaContentVerifierProviderBuilder().build(root.getPublicKey()))) {
            throw new Exception(alias + ": wrong signature of the revocation list");
        }
        System.out.println("issued by " + alias);
    }

    /** As for the recovery of users' keys. */
    private static void decrypt(String alias) throws Exception {
        byte[] secret = "a key of a user".getBytes();
        Cipher cipher = Cipher.getInstance("RSA/ECB/PKCS1Padding", "SunJCE");
        cipher.init(Cipher.ENCRYPT_MODE, publicKey(alias));
        byte[] encrypted = cipher.doFinal(secret);
        cipher = Cipher.getInstance("RSA/ECB/PKCS1Padding", hsm);
        cipher.init(Cipher.DECRYPT_MODE, key(alias));
        if (!Arrays.equals(cipher.doFinal(encrypted), secret)) {
            throw new Exception(alias + ": wrong decryption");
        }
        System.out.println("decrypted by " + alias);
    }
}
