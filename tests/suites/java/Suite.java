import java.io.ByteArrayOutputStream;
import java.lang.ref.Reference;
import java.security.*;
import java.security.spec.*;
import java.util.*;
import java.util.concurrent.*;
import javax.crypto.*;
import javax.crypto.spec.*;

/**
 * Uses a PKCS#11 token through SunPKCS11 and prints a line for each test: its name, a tab, and "ok" or the exception.
 * What the token makes is checked by Java's own providers, and the other way round. Arguments: SunPKCS11's configuration
 * and the PIN.
 */
public final class Suite {
    private static final byte[] TEXT = "what an application signs and seals".getBytes();
    private static final int THREADS = 16;

    private static Provider token;
    private static KeyStore store;
    private static SecretKey kept;

    private interface Test {
        void run() throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        token = Security.getProvider("SunPKCS11").configure(arguments[0]);
        test("log in", () -> {
            store = KeyStore.getInstance("PKCS11", token);
            store.load(null, arguments[1].toCharArray());
        });
        // SunPKCS11 closes sessions without objects, and the last session takes the login along: keep one with an object.
        test("key that is kept", () -> kept = KeyGenerator.getInstance("AES", token).generateKey());
        services();
        random();
        digests();
        ciphers();
        macs();
        signatures();
        agreements();
        wrapping();
        keyStore();
        test("log out", () -> ((AuthProvider) token).logout());
        Reference.reachabilityFence(kept);
    }

    private static void test(String name, Test test) {
        String result = "ok";
        try {
            test.run();
        } catch (Throwable error) {
            StringBuilder causes = new StringBuilder();
            for (Throwable cause = error; cause != null; cause = cause.getCause()) {
                causes.append(causes.isEmpty() ? "" : ", because ").append(cause);
            }
            result = causes.toString().replaceAll("\\s+", " ").replaceAll("@[0-9a-f]+", "");
            error.printStackTrace();
        }
        System.out.println(name + "\t" + result);
    }

    private static void atOnce(String name, Test test) {
        test(name + ", threads", () -> {
            ExecutorService pool = Executors.newFixedThreadPool(THREADS);
            List<Future<?>> runs = new ArrayList<>();
            for (int i = 0; i < THREADS * 5; i++) {
                runs.add(pool.submit(() -> {
                    test.run();
                    return null;
                }));
            }
            pool.shutdown();
            for (Future<?> run : runs) {
                run.get();
            }
        });
    }

    private static void check(boolean right) {
        if (!right) {
            throw new AssertionError("a wrong result");
        }
    }

    private static void same(byte[] given, byte[] expected) {
        check(Arrays.equals(given, expected));
    }

    /** Algorithms are offered for which the module has mechanisms. */
    private static void services() {
        for (Provider.Service service : token.getServices()) {
            System.out.println("service " + service.getType() + " " + service.getAlgorithm() + "\toffered");
        }
    }

    private static void random() {
        test("SecureRandom", () -> {
            byte[] some = new byte[1000];
            SecureRandom.getInstance("PKCS11", token).nextBytes(some);
            check(!Arrays.equals(some, new byte[1000]));
        });
    }

    private static void digests() {
        for (String name : List.of("MD5", "SHA-1", "SHA-224", "SHA-256", "SHA-384", "SHA-512")) {
            test("MessageDigest " + name, () -> {
                MessageDigest digest = MessageDigest.getInstance(name, token);
                digest.update(TEXT, 0, 10);
                digest.update(TEXT, 10, TEXT.length - 10);
                same(digest.digest(), MessageDigest.getInstance(name, "SUN").digest(TEXT));
                same(digest.digest(new byte[300_000]), MessageDigest.getInstance(name, "SUN").digest(new byte[300_000]));
            });
        }
    }

    private static void ciphers() {
        byte[] value = Arrays.copyOf("0123456789abcdef0123456789abcdef".getBytes(), 32);
        SecretKey outside = new SecretKeySpec(value, "AES");
        byte[] iv = "0123456789abcdef".getBytes();
        Map<String, AlgorithmParameterSpec> modes = new LinkedHashMap<>();
        modes.put("AES/ECB/PKCS5Padding", null);
        modes.put("AES/CBC/PKCS5Padding", new IvParameterSpec(iv));
        modes.put("AES/CTR/NoPadding", new IvParameterSpec(iv));
        modes.put("AES/GCM/NoPadding", new GCMParameterSpec(128, iv, 0, 12));
        modes.forEach((mode, parameters) -> {
            boolean gcm = mode.contains("GCM");
            for (int size : new int[] {0, 16, 35, 100_000}) {
                byte[] text = new byte[size];
                Arrays.fill(text, (byte) 7);
                test("Cipher " + mode + " of " + size, () -> {
                    byte[] encrypted = crypt(Cipher.ENCRYPT_MODE, mode, token, outside, parameters, text, null);
                    same(encrypted, crypt(Cipher.ENCRYPT_MODE, mode, null, outside, parameters, text, null));
                    same(crypt(Cipher.DECRYPT_MODE, mode, token, outside, parameters, encrypted, null), text);
                });
            }
            if (gcm) {
                byte[] data = "additional data".getBytes();
                test("Cipher " + mode + " with data", () -> {
                    byte[] encrypted = crypt(Cipher.ENCRYPT_MODE, mode, token, outside, parameters, TEXT, data);
                    same(encrypted, crypt(Cipher.ENCRYPT_MODE, mode, null, outside, parameters, TEXT, data));
                    same(crypt(Cipher.DECRYPT_MODE, mode, token, outside, parameters, encrypted, data), TEXT);
                    encrypted[3] ^= 1;
                    try {
                        crypt(Cipher.DECRYPT_MODE, mode, token, outside, parameters, encrypted, data);
                        check(false);
                    } catch (GeneralSecurityException expected) {
                        // What was changed is refused.
                    }
                });
                test("Cipher " + mode + " with a tag of 96 bits", () -> {
                    GCMParameterSpec shorter = new GCMParameterSpec(96, iv, 0, 12);
                    byte[] encrypted = crypt(Cipher.ENCRYPT_MODE, mode, token, outside, shorter, TEXT, data);
                    same(encrypted, crypt(Cipher.ENCRYPT_MODE, mode, null, outside, shorter, TEXT, data));
                    same(crypt(Cipher.DECRYPT_MODE, mode, token, outside, shorter, encrypted, data), TEXT);
                });
            }
            test("Cipher " + mode + " with a key of the token", () -> {
                KeyGenerator generator = KeyGenerator.getInstance("AES", token);
                generator.init(256);
                SecretKey inside = generator.generateKey();
                byte[] encrypted = crypt(Cipher.ENCRYPT_MODE, mode, token, inside, parameters, TEXT, null);
                same(crypt(Cipher.DECRYPT_MODE, mode, token, inside, parameters, encrypted, null), TEXT);
            });
            atOnce("Cipher " + mode, () -> {
                byte[] encrypted = crypt(Cipher.ENCRYPT_MODE, mode, token, outside, parameters, TEXT, null);
                same(crypt(Cipher.DECRYPT_MODE, mode, token, outside, parameters, encrypted, null), TEXT);
            });
        });
        test("Cipher RSA/ECB/PKCS1Padding", () -> {
            KeyPair pair = pair("RSA", new RSAKeyGenParameterSpec(2048, RSAKeyGenParameterSpec.F4));
            Cipher cipher = Cipher.getInstance("RSA/ECB/PKCS1Padding", token);
            cipher.init(Cipher.ENCRYPT_MODE, pair.getPublic());
            byte[] encrypted = cipher.doFinal(TEXT);
            cipher.init(Cipher.DECRYPT_MODE, pair.getPrivate());
            same(cipher.doFinal(encrypted), TEXT);
        });
    }

    /** With a provider of null, Java's own. Text goes in two parts, but for GCM, where JDK 17 would lose the first. */
    private static byte[] crypt(int way, String mode, Provider provider, SecretKey key, AlgorithmParameterSpec parameters,
            byte[] text, byte[] data) throws Exception {
        Cipher cipher = provider == null ? Cipher.getInstance(mode, "SunJCE") : Cipher.getInstance(mode, provider);
        cipher.init(way, key, parameters);
        if (data != null) {
            cipher.updateAAD(data);
        }
        ByteArrayOutputStream all = new ByteArrayOutputStream();
        int half = mode.contains("GCM") ? 0 : text.length / 2;
        byte[] part = half > 0 ? cipher.update(text, 0, half) : null;
        if (part != null) {
            all.write(part);
        }
        all.write(cipher.doFinal(text, half, text.length - half));
        return all.toByteArray();
    }

    private static void macs() {
        for (String name : List.of("HmacSHA1", "HmacSHA256", "HmacSHA512")) {
            Test mac = () -> {
                SecretKey key = new SecretKeySpec(new byte[64], name);
                Mac inside = Mac.getInstance(name, token);
                Mac outside = Mac.getInstance(name, "SunJCE");
                inside.init(key);
                outside.init(key);
                same(inside.doFinal(TEXT), outside.doFinal(TEXT));
            };
            test("Mac " + name, mac);
            atOnce("Mac " + name, mac);
        }
    }

    private static KeyPair pair(String algorithm, AlgorithmParameterSpec parameters) throws Exception {
        KeyPairGenerator generator = KeyPairGenerator.getInstance(algorithm, token);
        generator.initialize(parameters);
        return generator.generateKeyPair();
    }

    private static void signatures() throws Exception {
        for (String name : List.of("SHA1withRSA", "SHA256withRSA", "SHA512withRSA", "RSASSA-PSS")) {
            signature(name, "RSA", new RSAKeyGenParameterSpec(2048, RSAKeyGenParameterSpec.F4), "SunRsaSign");
        }
        // Not secp521r1: with SoftHSM, SunPKCS11 now and then makes or takes a wrong signature.
        for (String curve : List.of("secp256r1", "secp384r1")) {
            for (String name : List.of("NONEwithECDSA", "SHA1withECDSA", "SHA256withECDSA", "SHA384withECDSA")) {
                signature(name, "EC", new ECGenParameterSpec(curve), "SunEC");
            }
        }
    }

    private static void signature(String name, String algorithm, AlgorithmParameterSpec parameters, String verifier) {
        String title = "Signature " + name
                + (parameters instanceof ECGenParameterSpec curve ? " " + curve.getName() : "");
        KeyPair[] pair = new KeyPair[1];
        test(title + ": key", () -> pair[0] = pair(algorithm, parameters));
        if (pair[0] == null) {
            return;
        }
        byte[] text = Arrays.copyOf(TEXT, 32);
        Test signs = () -> {
            Signature inside = Signature.getInstance(name, token);
            Signature outside = Signature.getInstance(name, verifier);
            PublicKey exported = KeyFactory.getInstance(algorithm, verifier)
                    .generatePublic(new X509EncodedKeySpec(pair[0].getPublic().getEncoded()));
            if (name.equals("RSASSA-PSS")) {
                PSSParameterSpec pss = new PSSParameterSpec("SHA-256", "MGF1", MGF1ParameterSpec.SHA256, 32, 1);
                inside.setParameter(pss);
                outside.setParameter(pss);
            }
            inside.initSign(pair[0].getPrivate());
            inside.update(text);
            byte[] signature = inside.sign();
            outside.initVerify(exported);
            outside.update(text);
            check(outside.verify(signature));
            inside.initVerify(pair[0].getPublic());
            inside.update(text);
            check(inside.verify(signature));
        };
        test(title, signs);
        atOnce(title, signs);
    }

    private static void agreements() {
        for (String curve : List.of("secp256r1", "secp384r1", "secp521r1")) {
            Test agrees = () -> {
                KeyPair inside = pair("EC", new ECGenParameterSpec(curve));
                KeyPairGenerator generator = KeyPairGenerator.getInstance("EC", "SunEC");
                generator.initialize(new ECGenParameterSpec(curve));
                KeyPair outside = generator.generateKeyPair();
                KeyAgreement here = KeyAgreement.getInstance("ECDH", token);
                here.init(inside.getPrivate());
                here.doPhase(outside.getPublic(), true);
                KeyAgreement there = KeyAgreement.getInstance("ECDH", "SunEC");
                there.init(outside.getPrivate());
                there.doPhase(KeyFactory.getInstance("EC", "SunEC")
                        .generatePublic(new X509EncodedKeySpec(inside.getPublic().getEncoded())), true);
                same(here.generateSecret(), there.generateSecret());
            };
            test("KeyAgreement ECDH " + curve, agrees);
            atOnce("KeyAgreement ECDH " + curve, agrees);
        }
        test("KeyAgreement DH", () -> {
            KeyPairGenerator generator = KeyPairGenerator.getInstance("DH", "SunJCE");
            generator.initialize(2048);
            KeyPair outside = generator.generateKeyPair();
            KeyPair inside = pair("DH", ((javax.crypto.interfaces.DHPublicKey) outside.getPublic()).getParams());
            KeyAgreement here = KeyAgreement.getInstance("DH", token);
            here.init(inside.getPrivate());
            here.doPhase(outside.getPublic(), true);
            KeyAgreement there = KeyAgreement.getInstance("DH", "SunJCE");
            there.init(outside.getPrivate());
            there.doPhase(KeyFactory.getInstance("DH", "SunJCE")
                    .generatePublic(new X509EncodedKeySpec(inside.getPublic().getEncoded())), true);
            same(here.generateSecret(), there.generateSecret());
        });
    }

    private static void wrapping() {
        test("wrap and unwrap an AES key with RSA", () -> {
            KeyPair pair = pair("RSA", new RSAKeyGenParameterSpec(2048, RSAKeyGenParameterSpec.F4));
            SecretKey key = new SecretKeySpec(new byte[16], "AES");
            Cipher cipher = Cipher.getInstance("RSA/ECB/PKCS1Padding", token);
            cipher.init(Cipher.WRAP_MODE, pair.getPublic());
            byte[] wrapped = cipher.wrap(key);
            cipher.init(Cipher.UNWRAP_MODE, pair.getPrivate());
            Key unwrapped = cipher.unwrap(wrapped, "AES", Cipher.SECRET_KEY);
            same(crypt(Cipher.ENCRYPT_MODE, "AES/ECB/PKCS5Padding", token, (SecretKey) unwrapped, null, TEXT, null),
                    crypt(Cipher.ENCRYPT_MODE, "AES/ECB/PKCS5Padding", null, key, null, TEXT, null));
        });
    }

    private static void keyStore() {
        test("key store", () -> {
            store.setEntry("stored", new KeyStore.SecretKeyEntry(new SecretKeySpec(new byte[32], "AES")), null);
            check(store.isKeyEntry("stored"));
            SecretKey key = (SecretKey) store.getKey("stored", null);
            same(crypt(Cipher.ENCRYPT_MODE, "AES/ECB/PKCS5Padding", token, key, null, TEXT, null),
                    crypt(Cipher.ENCRYPT_MODE, "AES/ECB/PKCS5Padding", null, new SecretKeySpec(new byte[32], "AES"), null,
                            TEXT, null));
            store.deleteEntry("stored");
            check(!store.containsAlias("stored"));
        });
    }
}
