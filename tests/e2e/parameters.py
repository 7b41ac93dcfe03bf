"""Makes calls with mechanism parameters and templates through Debian's PyKCS11, and prints a line for each result.

Arguments: the PKCS#11 library, the user's PIN, and which calls: flat, gcm, ecdh, oaep or nested. A line has what the
token answered in hexadecimal, or the CKR_ name of its error. Keys are given and not generated, so that two runs print
the same. `parameters.rs` compares them, and checks published values.
"""

import sys

import PyKCS11
from PyKCS11 import PyKCS11 as P

TEXT = b"what an application encrypts and"
AES_KEY = bytes.fromhex("feffe9928665731c6d6a8f9467308308")

# Test case 4 of McGrew and Viega, "The Galois/Counter Mode of Operation".
GCM_IV = bytes.fromhex("cafebabefacedbaddecaf888")
GCM_DATA = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
GCM_TEXT = bytes.fromhex(
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)

# RFC 5903, section 8.1: the private key i and the public key of r, on P-256.
EC_CURVE = bytes.fromhex("06082a8648ce3d030107")
EC_PRIVATE = bytes.fromhex("c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433")
EC_PUBLIC = bytes.fromhex(
    "04d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63"
    "56fbf3ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab"
)


def fresh():
    """A session of its own for each operation: SoftHSM leaves some that failed active."""
    return MODULE.openSession(SLOT)


def call(name, run):
    try:
        answer = run()
    except PyKCS11.PyKCS11Error as error:
        answer = error
    if isinstance(answer, (list, tuple, PyKCS11.ckbytelist)):
        answer = bytes(answer).hex()
    print(f"{name}: {answer}", flush=True)
    return bytes.fromhex(answer) if isinstance(answer, str) else b""


def secret_key(session, kind, value, *more):
    template = [
        (P.CKA_CLASS, P.CKO_SECRET_KEY), (P.CKA_KEY_TYPE, kind), (P.CKA_TOKEN, False), (P.CKA_VALUE, value),
        (P.CKA_ENCRYPT, True), (P.CKA_DECRYPT, True), (P.CKA_SIGN, True), (P.CKA_VERIFY, True),
        (P.CKA_WRAP, True), (P.CKA_UNWRAP, True),
    ]
    return session.createObject(template + list(more))


def both_ways(name, key, mechanism, text):
    encrypted = call(f"{name}, encrypted", lambda: fresh().encrypt(key, text, mechanism))
    call(f"{name}, decrypted", lambda: fresh().decrypt(key, encrypted, mechanism))


def flat(session):
    """Parameters that are plain bytes, or a structure without pointers."""
    key = secret_key(session, P.CKK_AES, AES_KEY)
    for name in ("AES_ECB", "AES_CBC", "AES_CBC_PAD"):
        iv = None if name == "AES_ECB" else bytes(range(16))
        both_ways(name, key, PyKCS11.Mechanism(getattr(P, f"CKM_{name}"), iv), TEXT)
    call("AES_CBC, a short IV", lambda: fresh().encrypt(key, TEXT, PyKCS11.Mechanism(P.CKM_AES_CBC, b"short")))
    mac = secret_key(session, P.CKK_GENERIC_SECRET, AES_KEY * 4)
    for name in ("SHA_1_HMAC", "SHA256_HMAC", "SHA512_HMAC"):
        call(name, lambda: session.sign(mac, TEXT, PyKCS11.Mechanism(getattr(P, f"CKM_{name}"))))
    public, private = rsa(session)
    pss = PyKCS11.RSA_PSS_Mechanism(P.CKM_SHA256_RSA_PKCS_PSS, P.CKM_SHA256, P.CKG_MGF1_SHA256, 32)
    signature = session.sign(private, TEXT, pss)
    print("RSA PSS verifies:", session.verify(public, TEXT, signature, pss))
    oaep(session, (None,), (public, private))


def gcm(session):
    key = secret_key(session, P.CKK_AES, AES_KEY)
    for bits in (128, 96):
        mechanism = PyKCS11.AES_GCM_Mechanism(GCM_IV, GCM_DATA, bits)
        both_ways(f"GCM, tag of {bits} bits", key, mechanism, GCM_TEXT)
    both_ways("GCM, no data", key, PyKCS11.AES_GCM_Mechanism(GCM_IV, b"", 128), GCM_TEXT)
    both_ways("GCM, no text", key, PyKCS11.AES_GCM_Mechanism(GCM_IV, GCM_DATA, 128), b"")
    both_ways("GCM, long data", key, PyKCS11.AES_GCM_Mechanism(GCM_IV, bytes(70000), 128), GCM_TEXT)
    call("GCM, a tag of 7 bits", lambda: fresh().encrypt(key, TEXT, PyKCS11.AES_GCM_Mechanism(GCM_IV, b"", 7)))
    call("GCM, no IV", lambda: fresh().encrypt(key, TEXT, PyKCS11.AES_GCM_Mechanism(b"", b"", 128)))
    sealed = bytearray(fresh().encrypt(key, TEXT, PyKCS11.AES_GCM_Mechanism(GCM_IV, GCM_DATA, 128)))
    sealed[3] ^= 1
    call("GCM, changed", lambda: fresh().decrypt(key, bytes(sealed), PyKCS11.AES_GCM_Mechanism(GCM_IV, GCM_DATA, 128)))


def ecdh(session):
    private = session.createObject([
        (P.CKA_CLASS, P.CKO_PRIVATE_KEY), (P.CKA_KEY_TYPE, P.CKK_EC), (P.CKA_TOKEN, False),
        (P.CKA_EC_PARAMS, EC_CURVE), (P.CKA_VALUE, EC_PRIVATE), (P.CKA_DERIVE, True),
    ])
    template = [
        (P.CKA_CLASS, P.CKO_SECRET_KEY), (P.CKA_KEY_TYPE, P.CKK_GENERIC_SECRET), (P.CKA_TOKEN, False),
        (P.CKA_VALUE_LEN, 32), (P.CKA_SENSITIVE, False), (P.CKA_EXTRACTABLE, True),
    ]

    def derive(point, **more):
        key = session.deriveKey(private, template, PyKCS11.ECDH1_DERIVE_Mechanism(point, **more))
        return session.getAttributeValue(key, [P.CKA_VALUE])[0]

    call("ECDH", lambda: derive(EC_PUBLIC))
    call("ECDH, DER", lambda: derive(bytes([4, len(EC_PUBLIC)]) + EC_PUBLIC))
    call("ECDH, shared data", lambda: derive(EC_PUBLIC, sharedData=b"shared"))
    call("ECDH, KDF", lambda: derive(EC_PUBLIC, kdf=P.CKD_SHA1_KDF, sharedData=b"shared"))
    call("ECDH, no point", lambda: derive(b""))


def rsa(session):
    pair = session.findObjects([(P.CKA_LABEL, "e2e-rsa")])
    kinds = {session.getAttributeValue(key, [P.CKA_CLASS])[0]: key for key in pair}
    return kinds[P.CKO_PUBLIC_KEY], kinds[P.CKO_PRIVATE_KEY]


def oaep(session, labels=(b"a label",), pair=None):
    public, private = pair or rsa(session)
    for label in labels:
        mechanism = PyKCS11.RSAOAEPMechanism(P.CKM_SHA_1, P.CKG_MGF1_SHA1, label)
        try:
            encrypted = fresh().encrypt(public, TEXT, mechanism)
        except PyKCS11.PyKCS11Error as error:
            print(f"OAEP, label {label}, encryption: {error}")
            encrypted = bytes(256)
        call(f"OAEP, label {label}, decryption", lambda: fresh().decrypt(private, encrypted, mechanism))


def nested(session):
    """CKA_WRAP_TEMPLATE and CKA_UNWRAP_TEMPLATE, which hold templates."""
    inner = [(P.CKA_SENSITIVE, True), (P.CKA_EXTRACTABLE, True)]
    wanted = [(P.CKA_SENSITIVE, False), (P.CKA_EXTRACTABLE, True)]
    key = secret_key(session, P.CKK_AES, AES_KEY, (P.CKA_WRAP_TEMPLATE, wanted), (P.CKA_UNWRAP_TEMPLATE, inner))
    wrapping = PyKCS11.Mechanism(P.CKM_AES_KEY_WRAP)
    plain = secret_key(session, P.CKK_AES, AES_KEY, *wanted)
    hidden = secret_key(session, P.CKK_AES, AES_KEY, *inner)
    wrapped = call("wrap what CKA_WRAP_TEMPLATE describes", lambda: session.wrapKey(key, plain, wrapping))
    call("wrap what it does not", lambda: session.wrapKey(key, hidden, wrapping))
    template = [(P.CKA_CLASS, P.CKO_SECRET_KEY), (P.CKA_KEY_TYPE, P.CKK_AES), (P.CKA_TOKEN, False)]

    def unwrap(more):
        unwrapped = session.unwrapKey(key, wrapped, template + more, wrapping)
        return [int(flag) for flag in session.getAttributeValue(unwrapped, [P.CKA_SENSITIVE, P.CKA_EXTRACTABLE])]

    call("unwrap as CKA_UNWRAP_TEMPLATE says", lambda: unwrap(inner))
    call("unwrap as it does not say", lambda: unwrap(wanted))


LIBRARY, PIN, CALLS = sys.argv[1:]
MODULE = PyKCS11.PyKCS11Lib()
MODULE.load(LIBRARY)
SLOT = MODULE.getSlotList(tokenPresent=True)[0]
SESSION = MODULE.openSession(SLOT, P.CKF_RW_SESSION)
SESSION.login(PIN)
{"flat": flat, "gcm": gcm, "ecdh": ecdh, "oaep": oaep, "nested": nested}[CALLS](SESSION)
SESSION.logout()
