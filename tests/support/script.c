/*
 * script LIBRARY SECTION...: loads a PKCS#11 library, makes the calls of each named section and
 * prints a transcript, one line a call: `C_Name arguments -> 0xRV outputs`.
 *
 * Two libraries in front of equal tokens must print the same lines. So no handle is printed, slots
 * are named s0 (the token "e2e") and s1 (the free slot), and random values appear as their length
 * and a check (`verifies`, `same plain text`). Outputs are printed only where the standard defines
 * them: after CKR_OK and CKR_BUFFER_TOO_SMALL, and for C_GetAttributeValue after its own errors.
 *
 * Output buffers are filled with a pattern first; a line ends in `TOUCHED` if a call wrote into a
 * buffer it called too small, or beyond the capacity it was given.
 *
 * The file is one list of sections, SECTIONS at its end names them; only the helpers at its head are shared.
 *
 * Expects the token "e2e" with the PINs below and a free slot. Compares nothing: tests/e2e does.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pkcs11.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static CK_BYTE USER_PIN[] = "1234", SO_PIN[] = "12345678";
#define PIN(p) (p), sizeof(p) - 1
#define RO CKF_SERIAL_SESSION
#define RW (CKF_SERIAL_SESSION | CKF_RW_SESSION)
#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static CK_FUNCTION_LIST_PTR p11;
static CK_SLOT_ID s0, s1;

/* ---- What is printed -------------------------------------------------------------------- */

/* A formatted string that lives until sixteen more were made. */
__attribute__((format(printf, 1, 2))) static const char *text(const char *format, ...)
{
    static char ring[16][2048];
    static unsigned next;
    char *here = ring[next++ % COUNT(ring)];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(here, sizeof ring[0], format, arguments);
    va_end(arguments);
    return here;
}

/* Like text(), but empty unless `rv` is one after which outputs are defined. */
#define WHEN(rv, ...) ((rv) == CKR_OK || (rv) == CKR_BUFFER_TOO_SMALL ? text(__VA_ARGS__) : "")

static CK_RV show(const char *call, CK_RV rv, const char *outputs)
{
    printf("%s -> 0x%lx%s%s\n", call, rv, *outputs ? " " : "", outputs);
    return rv;
}
#define PLAIN(call, rv) show(call, rv, "")

static void check(const char *what, int holds) { printf("check %s -> %s\n", what, holds ? "yes" : "NO"); }

/* Up to 64 bytes in full, else length and FNV-1a. */
static const char *hex(const CK_BYTE *bytes, CK_ULONG count)
{
    if (count > 64) {
        unsigned long long hash = 0xcbf29ce484222325;
        for (CK_ULONG i = 0; i < count; i++)
            hash = (hash ^ bytes[i]) * 0x100000001b3;
        return text("fnv:%016llx", hash);
    }
    char digits[129] = "";
    for (CK_ULONG i = 0; i < count; i++)
        snprintf(digits + 2 * i, 3, "%02x", bytes[i]);
    return text("%s", digits);
}
static const char *hidden(const CK_BYTE *bytes, CK_ULONG count) { (void)bytes, (void)count; return "*"; }

/* A blank- or zero-padded field with quotes, so that a wrong padding shows. */
static const char *field(const CK_BYTE *bytes, CK_ULONG count)
{
    char quoted[256] = "\"";
    CK_ULONG at = 1;
    for (CK_ULONG i = 0; i < count && at < sizeof quoted - 8; i++)
        at += (CK_ULONG)snprintf(quoted + at, 5, bytes[i] >= ' ' && bytes[i] < 127 ? "%c" : "\\x%02x", bytes[i]);
    return text("%s\"", quoted);
}

static const char *slot(CK_SLOT_ID id) { return id == s0 ? "s0" : id == s1 ? "s1" : "s?"; }

/* ---- Output buffers and the two-call convention ------------------------------------------ */

static CK_BYTE room[16384], *out;
static CK_ULONG len;

static CK_BYTE *arm(CK_ULONG capacity)
{
    memset(room, 0xa5, sizeof room);
    len = capacity;
    return room;
}
static const char *touched(CK_RV rv, CK_ULONG capacity)
{
    for (CK_ULONG i = rv == CKR_OK ? capacity : 0; i < sizeof room; i++)
        if (room[i] != 0xa5)
            return " TOUCHED";
    return "";
}

/* One call with a buffer of `capacity` bytes; `expression` uses `out` and `&len`. */
#define INTO(capacity, call, shown, expression) \
    do { \
        CK_ULONG capacity_ = (capacity); \
        out = arm(capacity_); \
        CK_RV rv_ = (expression); \
        show(text("%s room=%lu", call, capacity_), rv_, \
             WHEN(rv_, "len=%lu %s%s", len, rv_ == CKR_OK ? shown(room, len) : "", touched(rv_, capacity_))); \
    } while (0)

/* Asks for the size, offers one byte, then enough. The result stays in `room` and `len`. */
#define FETCH(call, shown, expression) \
    do { \
        out = NULL, len = 0; \
        CK_RV rv_ = (expression); \
        show(text("%s room=NULL", call), rv_, WHEN(rv_, "len=%lu", len)); \
        out = arm(1); \
        rv_ = (expression); \
        show(text("%s room=1", call), rv_, WHEN(rv_, "len=%lu%s", len, touched(rv_, 1))); \
        out = arm(sizeof room - 64); \
        rv_ = (expression); \
        show(text("%s room=enough", call), rv_, \
             WHEN(rv_, "len=%lu %s%s", len, rv_ == CKR_OK ? shown(room, len) : "", touched(rv_, sizeof room - 64))); \
    } while (0)

/* ---- Templates --------------------------------------------------------------------------- */

#define NUMBER(type, n) { type, &(CK_ULONG){ n }, sizeof(CK_ULONG) }
#define BOOL(type, b) { type, &(CK_BBOOL){ b }, sizeof(CK_BBOOL) }
#define TEXT(type, s) { type, (void *)(s), sizeof(s) - 1 }
#define BYTES(type, a) { type, (void *)(a), sizeof(a) }
#define VALUE(type, p, n) { type, (void *)(p), n }

static CK_BYTE KEY32[32] = { 0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                             16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31 };
static CK_BYTE IV[16] = { 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f };
static CK_BYTE P256[] = { 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07 };
static CK_BYTE EXPONENT[] = { 1, 0, 1 };
static CK_BYTE DATA[4096]; /* 0, 1, 2 ... */

/* An RSA key of 1024 bits (openssl genrsa) and a safe prime of 512 (openssl prime): test material. */
static CK_BYTE N[128], D[128], P[64], Q[64], DP[64], DQ[64], QI[64], PRIME[64], BASE[] = { 2 };
static const struct { CK_BYTE *into; const char *digits; } NUMBERS[] = {
    { N, "e06b97ee1a7372178b8ee7f073248735c6b57aeb7847cf16ec660e8965d973bf2db4002c6982890bc63d5f3999307bdc"
         "7fee945bf7ddfbff04c340c0811403fd78dd7a9407aa45d6a4b241fc4c494c65296672df30623dea37992c1e9848df01"
         "fcfb65841922b3b7f05fe7cfa6ad219aa0add12db276cef5bb343a9ed73ee7a3" },
    { D, "a28146a2c3c494f937b5637e59e23986573d52a4ef941001296d3d5980c6d569ba4e7d51ab953a67ac45048f50be2af2"
         "a030c27d561f083ac1d8212b444c9a15b62d3f78a2e5bded837671a259785675b87cd9385ae25c3ff0630bd2d2f06a1c"
         "eb4e6fe1d1225f7d0637a0c5d2d87beec53afb033cde0dd2814b26a3d22c6001" },
    { P, "f0e5b3eb924db85a30dcce1e95fe595dfbecd73b27b3591939bf4fa3617e9fbf13f06914679cf78cd7db23888d4585de"
         "4431b9937bfbd2f2ac1500120c416881" },
    { Q, "ee7d712d89bd63c7b568c2469b64695f227fe645ac5bbcc1632a26c38cbd24c73258b141f15ece1fd83101becb3731b4"
         "c273ce1317bf1ce4c4bbed7ab4ce9e23" },
    { DP, "4f9bf99b8e1bf52289274f4eb84ef805a12da1eb40b17a6e65b11d8666bfcbd6ffa5e17406d1ced552b86ec3bfbc0c03"
          "6a11ecbc1aab1c096a68fe3ef8a1dd01" },
    { DQ, "865b233cad6185ea07984a02af1e658294140bed6a8990103ec68b6a154aa5829729824b0d2904e4c9cdea16cbb37f8c"
          "3f14309f6efc5ad1c2c7c0a525615593" },
    { QI, "c700b0db6d55baf5ce5c1bd6d75a8dbff7f20922b804193d514513f9067f32110a4b809d664d19b00b7bac913b97d9e1"
          "4d130e012a1036b557db7894563dfc81" },
    { PRIME, "dbd0bd0b8eec35ce64528b4db4e085f3ec70421ac4b1970dffe685dfd3a8256c063e0056e91971af0ada498250e5d98f"
             "8ea53f404abee583c28217cba11d03b3" },
};

static void prepare_constants(void)
{
    for (size_t i = 0; i < COUNT(NUMBERS); i++)
        for (size_t at = 0; NUMBERS[i].digits[2 * at]; at++)
            sscanf(NUMBERS[i].digits + 2 * at, "%2hhx", NUMBERS[i].into + at);
    for (size_t i = 0; i < sizeof DATA; i++)
        DATA[i] = (CK_BYTE)i;
}

static CK_MECHANISM *mechanism(CK_MECHANISM_TYPE type, void *parameter, CK_ULONG length)
{
    static CK_MECHANISM one;
    one = (CK_MECHANISM){ type, parameter, length };
    return &one;
}
#define BARE(type) mechanism(type, NULL, 0)

/* ---- Reaching the state a section starts from -------------------------------------------- */

/* SoftHSM's file locks race when processes start at once: a few tries. */
static CK_RV initialize(void)
{
    CK_RV rv = CKR_OK;
    for (int attempt = 0; attempt < 40; attempt++) {
        rv = p11->C_Initialize(NULL);
        if (rv != CKR_GENERAL_ERROR && rv != CKR_FUNCTION_FAILED)
            break;
        nanosleep(&(struct timespec){ 0, 25000000 }, NULL);
    }
    return rv;
}
static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_BYTE *pin, CK_ULONG pin_length)
{
    CK_RV rv = CKR_OK;
    for (int attempt = 0; attempt < 40; attempt++) {
        rv = p11->C_Login(session, user, pin, pin_length);
        if (rv != CKR_GENERAL_ERROR)
            break;
        nanosleep(&(struct timespec){ 0, 25000000 }, NULL);
    }
    return rv;
}

/* Gives s0 and s1 their ids. */
static int name_slots(void)
{
    CK_SLOT_ID ids[16];
    CK_ULONG count = COUNT(ids);
    int found = 0;
    if (p11->C_GetSlotList(CK_FALSE, ids, &count) != CKR_OK)
        return 0;
    for (CK_ULONG i = 0; i < count && i < COUNT(ids); i++) {
        CK_TOKEN_INFO token;
        if (p11->C_GetTokenInfo(ids[i], &token) != CKR_OK)
            continue;
        if (!(token.flags & CKF_TOKEN_INITIALIZED))
            s1 = ids[i], found |= 2;
        else if (memcmp(token.label, "e2e ", 4) == 0)
            s0 = ids[i], found |= 1;
    }
    return found == 3;
}
static int start(void)
{
    CK_RV rv = initialize();
    if (rv != CKR_OK)
        PLAIN("C_Initialize (the section needs it)", rv);
    else if (!name_slots())
        check("the token and a free slot are there", 0);
    else
        return 1;
    return 0;
}
static CK_SESSION_HANDLE open_session(CK_FLAGS flags)
{
    CK_SESSION_HANDLE session = 0;
    CK_RV rv = p11->C_OpenSession(s0, flags, NULL, NULL, &session);
    if (rv != CKR_OK)
        PLAIN("C_OpenSession (the section needs it)", rv);
    return session;
}
static CK_SESSION_HANDLE logged_in(void)
{
    CK_SESSION_HANDLE session = open_session(RW);
    CK_RV rv = login(session, CKU_USER, PIN(USER_PIN));
    if (rv != CKR_OK)
        PLAIN("C_Login (the section needs it)", rv);
    return session;
}
static void stop(void) { PLAIN("C_Finalize", p11->C_Finalize(NULL)); }

static CK_OBJECT_HANDLE create(CK_SESSION_HANDLE session, const char *what, CK_ATTRIBUTE *template, CK_ULONG count)
{
    CK_OBJECT_HANDLE object = 0;
    CK_RV rv = p11->C_CreateObject(session, template, count, &object);
    show(text("C_CreateObject %s", what), rv, rv == CKR_OK && object == 0 ? "no handle" : "");
    return object;
}
static CK_OBJECT_HANDLE aes_key(CK_SESSION_HANDLE session, CK_ULONG bytes)
{
    CK_ATTRIBUTE template[] = {
        NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), VALUE(CKA_VALUE, KEY32, bytes),
        BOOL(CKA_TOKEN, 0), BOOL(CKA_PRIVATE, 0), BOOL(CKA_ENCRYPT, 1), BOOL(CKA_DECRYPT, 1), BOOL(CKA_WRAP, 1),
        BOOL(CKA_UNWRAP, 1), BOOL(CKA_EXTRACTABLE, 1), BOOL(CKA_SENSITIVE, 0), TEXT(CKA_LABEL, "aes"),
    };
    return create(session, text("aes-%lu", 8 * bytes), template, COUNT(template));
}
static CK_OBJECT_HANDLE hmac_key(CK_SESSION_HANDLE session)
{
    CK_ATTRIBUTE template[] = {
        NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_GENERIC_SECRET), VALUE(CKA_VALUE, DATA, 64),
        BOOL(CKA_TOKEN, 0), BOOL(CKA_PRIVATE, 0), BOOL(CKA_SIGN, 1), BOOL(CKA_VERIFY, 1), BOOL(CKA_EXTRACTABLE, 1),
        BOOL(CKA_SENSITIVE, 0),
    };
    return create(session, "generic secret", template, COUNT(template));
}
static CK_OBJECT_HANDLE rsa_public(CK_SESSION_HANDLE session)
{
    CK_ATTRIBUTE template[] = {
        NUMBER(CKA_CLASS, CKO_PUBLIC_KEY), NUMBER(CKA_KEY_TYPE, CKK_RSA), BYTES(CKA_MODULUS, N),
        BYTES(CKA_PUBLIC_EXPONENT, EXPONENT), BOOL(CKA_TOKEN, 0), BOOL(CKA_PRIVATE, 0), BOOL(CKA_VERIFY, 1),
        BOOL(CKA_ENCRYPT, 1), BOOL(CKA_WRAP, 1),
    };
    return create(session, "rsa public", template, COUNT(template));
}
static CK_OBJECT_HANDLE rsa_private(CK_SESSION_HANDLE session)
{
    CK_ATTRIBUTE template[] = {
        NUMBER(CKA_CLASS, CKO_PRIVATE_KEY), NUMBER(CKA_KEY_TYPE, CKK_RSA), BYTES(CKA_MODULUS, N),
        BYTES(CKA_PUBLIC_EXPONENT, EXPONENT), BYTES(CKA_PRIVATE_EXPONENT, D), BYTES(CKA_PRIME_1, P),
        BYTES(CKA_PRIME_2, Q), BYTES(CKA_EXPONENT_1, DP), BYTES(CKA_EXPONENT_2, DQ), BYTES(CKA_COEFFICIENT, QI),
        BOOL(CKA_TOKEN, 0), BOOL(CKA_PRIVATE, 1), BOOL(CKA_SIGN, 1), BOOL(CKA_DECRYPT, 1), BOOL(CKA_UNWRAP, 1),
        BOOL(CKA_SENSITIVE, 1), BOOL(CKA_EXTRACTABLE, 1),
    };
    return create(session, "rsa private", template, COUNT(template));
}
static CK_RV ec_pair(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *public, CK_OBJECT_HANDLE *private)
{
    CK_ATTRIBUTE for_public[] = { BYTES(CKA_EC_PARAMS, P256), BOOL(CKA_VERIFY, 1), BOOL(CKA_TOKEN, 0) };
    CK_ATTRIBUTE for_private[] = { BOOL(CKA_SIGN, 1), BOOL(CKA_DERIVE, 1), BOOL(CKA_TOKEN, 0), BOOL(CKA_PRIVATE, 1) };
    CK_RV rv = p11->C_GenerateKeyPair(session, BARE(CKM_EC_KEY_PAIR_GEN), for_public, COUNT(for_public), for_private,
                                      COUNT(for_private), public, private);
    return PLAIN("C_GenerateKeyPair EC P-256", rv);
}

/* C_GetAttributeValue: every attribute as type=length:value, -1 for "not available". */
static CK_RV attributes(const char *call, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *t, CK_ULONG count)
{
    char line[1600] = "";
    CK_RV rv = p11->C_GetAttributeValue(session, object, t, count);
    for (CK_ULONG i = 0; i < count; i++) {
        const char *value = "";
        if (t[i].pValue && t[i].ulValueLen != (CK_ULONG)-1 && (rv == CKR_OK || rv == CKR_ATTRIBUTE_SENSITIVE ||
            rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_BUFFER_TOO_SMALL))
            value = hex(t[i].pValue, t[i].ulValueLen);
        snprintf(line + strlen(line), sizeof line - strlen(line), "%s0x%lx=%ld%s%s", i ? " " : "", t[i].type,
                 (long)t[i].ulValueLen, *value ? ":" : "", value);
    }
    return show(text("C_GetAttributeValue %s", call), rv, line);
}

static void session_info(const char *call, CK_SESSION_HANDLE session)
{
    CK_SESSION_INFO info;
    memset(&info, 0xa5, sizeof info);
    CK_RV rv = p11->C_GetSessionInfo(session, &info);
    show(text("C_GetSessionInfo %s", call), rv,
         WHEN(rv, "%s state=%lu flags=0x%lx error=%lu", slot(info.slotID), info.state, info.flags, info.ulDeviceError));
}

/* ---- Sections ---------------------------------------------------------------------------- */

/* Every function but C_Initialize and C_GetFunctionList, with arguments that are in order. */
static void every_call(CK_SESSION_HANDLE h)
{
    CK_INFO info;
    CK_SLOT_ID id = 0;
    CK_SLOT_INFO slot_info;
    CK_TOKEN_INFO token_info;
    CK_MECHANISM_INFO mechanism_info;
    CK_SESSION_INFO about;
    CK_MECHANISM_TYPE types[4];
    CK_OBJECT_HANDLE objects[4];
    CK_ULONG n;
    CK_ATTRIBUTE t[] = { NUMBER(CKA_CLASS, CKO_DATA) };
    CK_BYTE b[64] = { 0 };
    n = 0, PLAIN("C_GetSlotList NULL", p11->C_GetSlotList(CK_TRUE, NULL, &n));
    PLAIN("C_GetInfo", p11->C_GetInfo(&info));
    PLAIN("C_GetSlotInfo", p11->C_GetSlotInfo(0, &slot_info));
    PLAIN("C_GetTokenInfo", p11->C_GetTokenInfo(0, &token_info));
    PLAIN("C_WaitForSlotEvent", p11->C_WaitForSlotEvent(CKF_DONT_BLOCK, &id, NULL));
    n = 4, PLAIN("C_GetMechanismList", p11->C_GetMechanismList(0, types, &n));
    PLAIN("C_GetMechanismInfo", p11->C_GetMechanismInfo(0, CKM_RSA_PKCS, &mechanism_info));
    PLAIN("C_InitToken", p11->C_InitToken(0, PIN(SO_PIN), (CK_BYTE *)"12345678901234567890123456789012"));
    PLAIN("C_InitPIN", p11->C_InitPIN(h, PIN(USER_PIN)));
    PLAIN("C_SetPIN", p11->C_SetPIN(h, PIN(USER_PIN), PIN(USER_PIN)));
    PLAIN("C_OpenSession", p11->C_OpenSession(0, RW, NULL, NULL, &n));
    PLAIN("C_CloseSession", p11->C_CloseSession(h));
    PLAIN("C_CloseAllSessions", p11->C_CloseAllSessions(0));
    PLAIN("C_GetSessionInfo", p11->C_GetSessionInfo(h, &about));
    len = sizeof room, PLAIN("C_GetOperationState", p11->C_GetOperationState(h, room, &len));
    PLAIN("C_SetOperationState", p11->C_SetOperationState(h, b, sizeof b, 0, 0));
    PLAIN("C_Login", p11->C_Login(h, CKU_USER, PIN(USER_PIN)));
    PLAIN("C_Logout", p11->C_Logout(h));
    PLAIN("C_CreateObject", p11->C_CreateObject(h, t, 1, &n));
    PLAIN("C_CopyObject", p11->C_CopyObject(h, 1, t, 1, &n));
    PLAIN("C_DestroyObject", p11->C_DestroyObject(h, 1));
    PLAIN("C_GetObjectSize", p11->C_GetObjectSize(h, 1, &n));
    PLAIN("C_GetAttributeValue", p11->C_GetAttributeValue(h, 1, t, 1));
    PLAIN("C_SetAttributeValue", p11->C_SetAttributeValue(h, 1, t, 1));
    PLAIN("C_FindObjectsInit", p11->C_FindObjectsInit(h, t, 1));
    PLAIN("C_FindObjects", p11->C_FindObjects(h, objects, 4, &n));
    PLAIN("C_FindObjectsFinal", p11->C_FindObjectsFinal(h));
    PLAIN("C_EncryptInit", p11->C_EncryptInit(h, mechanism(CKM_AES_CBC, IV, 16), 1));
    len = sizeof room, PLAIN("C_Encrypt", p11->C_Encrypt(h, b, 16, room, &len));
    len = sizeof room, PLAIN("C_EncryptUpdate", p11->C_EncryptUpdate(h, b, 16, room, &len));
    len = sizeof room, PLAIN("C_EncryptFinal", p11->C_EncryptFinal(h, room, &len));
    PLAIN("C_DecryptInit", p11->C_DecryptInit(h, mechanism(CKM_AES_CBC, IV, 16), 1));
    len = sizeof room, PLAIN("C_Decrypt", p11->C_Decrypt(h, b, 16, room, &len));
    len = sizeof room, PLAIN("C_DecryptUpdate", p11->C_DecryptUpdate(h, b, 16, room, &len));
    len = sizeof room, PLAIN("C_DecryptFinal", p11->C_DecryptFinal(h, room, &len));
    PLAIN("C_DigestInit", p11->C_DigestInit(h, BARE(CKM_SHA256)));
    len = sizeof room, PLAIN("C_Digest", p11->C_Digest(h, b, 16, room, &len));
    PLAIN("C_DigestUpdate", p11->C_DigestUpdate(h, b, 16));
    PLAIN("C_DigestKey", p11->C_DigestKey(h, 1));
    len = sizeof room, PLAIN("C_DigestFinal", p11->C_DigestFinal(h, room, &len));
    PLAIN("C_SignInit", p11->C_SignInit(h, BARE(CKM_SHA256_HMAC), 1));
    len = sizeof room, PLAIN("C_Sign", p11->C_Sign(h, b, 16, room, &len));
    PLAIN("C_SignUpdate", p11->C_SignUpdate(h, b, 16));
    len = sizeof room, PLAIN("C_SignFinal", p11->C_SignFinal(h, room, &len));
    PLAIN("C_SignRecoverInit", p11->C_SignRecoverInit(h, BARE(CKM_RSA_PKCS), 1));
    len = sizeof room, PLAIN("C_SignRecover", p11->C_SignRecover(h, b, 16, room, &len));
    PLAIN("C_VerifyInit", p11->C_VerifyInit(h, BARE(CKM_SHA256_HMAC), 1));
    PLAIN("C_Verify", p11->C_Verify(h, b, 16, b, 32));
    PLAIN("C_VerifyUpdate", p11->C_VerifyUpdate(h, b, 16));
    PLAIN("C_VerifyFinal", p11->C_VerifyFinal(h, b, 32));
    PLAIN("C_VerifyRecoverInit", p11->C_VerifyRecoverInit(h, BARE(CKM_RSA_PKCS), 1));
    len = sizeof room, PLAIN("C_VerifyRecover", p11->C_VerifyRecover(h, b, 16, room, &len));
    len = sizeof room, PLAIN("C_DigestEncryptUpdate", p11->C_DigestEncryptUpdate(h, b, 16, room, &len));
    len = sizeof room, PLAIN("C_DecryptDigestUpdate", p11->C_DecryptDigestUpdate(h, b, 16, room, &len));
    len = sizeof room, PLAIN("C_SignEncryptUpdate", p11->C_SignEncryptUpdate(h, b, 16, room, &len));
    len = sizeof room, PLAIN("C_DecryptVerifyUpdate", p11->C_DecryptVerifyUpdate(h, b, 16, room, &len));
    PLAIN("C_GenerateKey", p11->C_GenerateKey(h, BARE(CKM_AES_KEY_GEN), t, 1, &n));
    PLAIN("C_GenerateKeyPair", p11->C_GenerateKeyPair(h, BARE(CKM_RSA_PKCS_KEY_PAIR_GEN), t, 1, t, 1, &n, &n));
    len = sizeof room, PLAIN("C_WrapKey", p11->C_WrapKey(h, BARE(CKM_RSA_PKCS), 1, 1, room, &len));
    PLAIN("C_UnwrapKey", p11->C_UnwrapKey(h, BARE(CKM_RSA_PKCS), 1, b, 16, t, 1, &n));
    PLAIN("C_DeriveKey", p11->C_DeriveKey(h, mechanism(CKM_DH_PKCS_DERIVE, IV, 16), 1, t, 1, &n));
    PLAIN("C_SeedRandom", p11->C_SeedRandom(h, b, 16));
    PLAIN("C_GenerateRandom", p11->C_GenerateRandom(h, b, 16));
    PLAIN("C_GetFunctionStatus", p11->C_GetFunctionStatus(h));
    PLAIN("C_CancelFunction", p11->C_CancelFunction(h));
}

static void section_uninitialised(void)
{
    CK_FUNCTION_LIST_PTR again = NULL;
    PLAIN("C_GetFunctionList", p11->C_GetFunctionList(&again));
    check("C_GetFunctionList gives the same list", again == p11);
    every_call(1);
    PLAIN("C_Finalize before C_Initialize", p11->C_Finalize(NULL));
    if (!start())
        return;
    PLAIN("C_Initialize again", p11->C_Initialize(NULL));
    PLAIN("C_Finalize reserved", p11->C_Finalize(room));
    CK_SESSION_HANDLE session = open_session(RO);
    PLAIN("C_Finalize", p11->C_Finalize(NULL));
    PLAIN("C_Finalize again", p11->C_Finalize(NULL));
    puts("# after C_Finalize");
    every_call(session);
    PLAIN("C_Initialize after C_Finalize", initialize());
    session_info("of the session from before", session);
    stop();
}

static CK_RV no_mutex(void **mutex) { (void)mutex; return CKR_OK; }
static CK_RV no_lock(void *mutex) { (void)mutex; return CKR_OK; }

static void section_initargs(void)
{
    static const struct { const char *what; int create, rest; CK_FLAGS flags; int reserved; } tries[] = {
        { "empty", 0, 0, 0, 0 },
        { "CKF_OS_LOCKING_OK", 0, 0, CKF_OS_LOCKING_OK, 0 },
        { "CKF_LIBRARY_CANT_CREATE_OS_THREADS", 0, 0, CKF_LIBRARY_CANT_CREATE_OS_THREADS, 0 },
        { "four callbacks", 1, 1, 0, 0 },
        { "four callbacks and CKF_OS_LOCKING_OK", 1, 1, CKF_OS_LOCKING_OK, 0 },
        { "one callback", 1, 0, 0, 0 },
        { "three callbacks", 0, 1, 0, 0 },
        { "reserved", 0, 0, 0, 1 },
    };
    for (size_t i = 0; i < COUNT(tries); i++) {
        CK_C_INITIALIZE_ARGS arguments = { .flags = tries[i].flags, .pReserved = tries[i].reserved ? room : NULL };
        if (tries[i].create)
            arguments.CreateMutex = no_mutex;
        if (tries[i].rest)
            arguments.DestroyMutex = arguments.LockMutex = arguments.UnlockMutex = no_lock;
        CK_RV rv = CKR_OK;
        for (int attempt = 0; attempt < 20 && (attempt == 0 || rv == CKR_GENERAL_ERROR); attempt++)
            rv = p11->C_Initialize(&arguments);
        PLAIN(text("C_Initialize %s", tries[i].what), rv);
        if (rv == CKR_OK)
            p11->C_Finalize(NULL);
    }
}

static void section_info(void)
{
    CK_INFO info;
    CK_RV rv;
    if (!start())
        return;
    show("C_GetFunctionList", CKR_OK, text("version=%d.%d", p11->version.major, p11->version.minor));
    memset(&info, 0xa5, sizeof info);
    rv = p11->C_GetInfo(&info);
    show("C_GetInfo", rv, WHEN(rv, "cryptoki=%d.%d manufacturer=%s flags=0x%lx description=%s library=%d.%d",
         info.cryptokiVersion.major, info.cryptokiVersion.minor, field(info.manufacturerID, 32), info.flags,
         field(info.libraryDescription, 32), info.libraryVersion.major, info.libraryVersion.minor));

    for (CK_BBOOL present = 0; present < 2; present++) {
        CK_SLOT_ID ids[18];
        CK_ULONG n = 0;
        rv = p11->C_GetSlotList(present, NULL, &n);
        show(text("C_GetSlotList present=%d NULL", present), rv, text("count=%lu", n));
        for (CK_ULONG capacity = 2; capacity <= 16; capacity += 14) {
            memset(ids, 0xa5, sizeof ids);
            n = capacity;
            rv = p11->C_GetSlotList(present, ids, &n);
            show(text("C_GetSlotList present=%d capacity=%lu", present, capacity), rv,
                 WHEN(rv, "count=%lu %s %s", n, slot(ids[0]), slot(ids[1])));
            check("entries after the last are as they were", ids[n] == (CK_ULONG)0xa5a5a5a5a5a5a5a5);
        }
    }

    CK_SLOT_ID ids[] = { s0, s1, 4711, (CK_SLOT_ID)-1, 0x1122334455667788 };
    const char *names[] = { "s0", "s1", "4711", "-1", "0x1122334455667788" };
    for (size_t i = 0; i < COUNT(ids); i++) {
        CK_SLOT_INFO about;
        CK_TOKEN_INFO token;
        memset(&about, 0xa5, sizeof about);
        rv = p11->C_GetSlotInfo(ids[i], &about);
        show(text("C_GetSlotInfo %s", names[i]), rv, WHEN(rv, "description=%s manufacturer=%s flags=0x%lx hardware=%d.%d firmware=%d.%d",
             field(about.slotDescription, 64), field(about.manufacturerID, 32), about.flags,
             about.hardwareVersion.major, about.hardwareVersion.minor, about.firmwareVersion.major, about.firmwareVersion.minor));
        memset(&token, 0xa5, sizeof token);
        rv = p11->C_GetTokenInfo(ids[i], &token);
        show(text("C_GetTokenInfo %s", names[i]), rv,
             WHEN(rv, "label=%s manufacturer=%s model=%s serial=%s flags=0x%lx sessions=%lu/%lu rw=%lu/%lu pin=%lu..%lu "
                  "memory=%ld/%ld %ld/%ld hardware=%d.%d firmware=%d.%d time=%c*",
             field(token.label, 32), field(token.manufacturerID, 32), field(token.model, 16), field(token.serialNumber, 16),
             token.flags, token.ulSessionCount, token.ulMaxSessionCount, token.ulRwSessionCount, token.ulMaxRwSessionCount,
             token.ulMinPinLen, token.ulMaxPinLen, (long)token.ulTotalPublicMemory, (long)token.ulFreePublicMemory,
             (long)token.ulTotalPrivateMemory, (long)token.ulFreePrivateMemory, token.hardwareVersion.major,
             token.hardwareVersion.minor, token.firmwareVersion.major, token.firmwareVersion.minor, token.utcTime[0]));
    }

    CK_MECHANISM_TYPE types[512];
    CK_ULONG all = 0, capacities[] = { 0, 3, 0, 510 };
    rv = p11->C_GetMechanismList(s0, NULL, &all);
    show("C_GetMechanismList s0 NULL", rv, WHEN(rv, "count=%lu", all));
    capacities[2] = all;
    for (size_t i = 0; i < COUNT(capacities); i++) {
        CK_ULONG n = capacities[i];
        memset(types, 0xa5, sizeof types);
        rv = p11->C_GetMechanismList(s0, types, &n);
        show(text("C_GetMechanismList s0 %s", (const char *[]){ "zero", "short", "exact", "long" }[i]), rv, WHEN(rv, "count=%lu", n));
        CK_ULONG written = rv == CKR_OK ? n : 0;
        check("types after the last are as they were", written < COUNT(types) && types[written] == (CK_ULONG)0xa5a5a5a5a5a5a5a5);
    }
    CK_ULONG n = 4;
    PLAIN("C_GetMechanismList 4711", p11->C_GetMechanismList(4711, types, &n));
    n = 512;
    if (p11->C_GetMechanismList(s0, types, &n) != CKR_OK)
        n = 0;
    for (CK_ULONG i = 0; i < n; i++) {
        CK_MECHANISM_INFO about;
        memset(&about, 0, sizeof about); /* SoftHSM adds to the flags it finds */
        rv = p11->C_GetMechanismInfo(s0, types[i], &about);
        show(text("C_GetMechanismInfo s0 0x%lx", types[i]), rv, WHEN(rv, "%lu..%lu flags=0x%lx", about.ulMinKeySize, about.ulMaxKeySize, about.flags));
    }
    CK_MECHANISM_INFO about;
    PLAIN("C_GetMechanismInfo s0 0x80001234", p11->C_GetMechanismInfo(s0, 0x80001234, &about));
    PLAIN("C_GetMechanismInfo 4711 CKM_RSA_PKCS", p11->C_GetMechanismInfo(4711, CKM_RSA_PKCS, &about));
    stop();
}

/* C_GetSlotList with a list but no answer to put into it crashes the original client. */
static void section_slotroom(void)
{
    CK_SLOT_ID unused[4];
    CK_ULONG four = 4;
    PLAIN("C_GetSlotList before C_Initialize", p11->C_GetSlotList(CK_FALSE, unused, &four));
    if (!start())
        return;
    for (CK_ULONG capacity = 0; capacity < 2; capacity++) {
        CK_SLOT_ID ids[2] = { 4711, 4711 };
        CK_ULONG n = capacity;
        CK_RV rv = p11->C_GetSlotList(CK_FALSE, ids, &n);
        show(text("C_GetSlotList capacity=%lu", capacity), rv, WHEN(rv, "count=%lu", n));
        check("the list is as it was", ids[0] == 4711 && ids[1] == 4711);
    }
    stop();
}

static void section_sessions(void)
{
    CK_SESSION_HANDLE a = 0, b = 0, c = 0;
    if (!start())
        return;
    PLAIN("C_OpenSession s0 RO", p11->C_OpenSession(s0, RO, NULL, NULL, &a));
    PLAIN("C_OpenSession s0 RW", p11->C_OpenSession(s0, RW, NULL, NULL, &b));
    check("handles differ and are not zero", a && b && a != b);
    PLAIN("C_OpenSession s0 not serial", p11->C_OpenSession(s0, CKF_RW_SESSION, NULL, NULL, &c));
    PLAIN("C_OpenSession s0 RO with application data", p11->C_OpenSession(s0, RO, room, NULL, &c));
    PLAIN("C_OpenSession s1 (not initialised)", p11->C_OpenSession(s1, RW, NULL, NULL, &c));
    PLAIN("C_OpenSession 4711", p11->C_OpenSession(4711, RW, NULL, NULL, &c));
    session_info("RO", a);
    session_info("RW", b);
    CK_TOKEN_INFO token;
    CK_RV rv = p11->C_GetTokenInfo(s0, &token);
    show("C_GetTokenInfo s0", rv, WHEN(rv, "sessions=%lu rw=%lu", token.ulSessionCount, token.ulRwSessionCount));
    PLAIN("C_CloseSession RO", p11->C_CloseSession(a));
    PLAIN("C_CloseSession RO again", p11->C_CloseSession(a));
    session_info("RO after closing", a);
    PLAIN("C_CloseSession 0", p11->C_CloseSession(0));
    PLAIN("C_CloseSession 4711", p11->C_CloseSession(4711));
    PLAIN("C_CloseAllSessions 4711", p11->C_CloseAllSessions(4711));
    session_info("RW", b);
    PLAIN("C_CloseAllSessions s0", p11->C_CloseAllSessions(s0));
    session_info("RW after closing all", b);
    PLAIN("C_CloseAllSessions s0 again", p11->C_CloseAllSessions(s0));
    CK_SESSION_HANDLE many[64] = { 0 };
    int opened = 0, closed = 0;
    for (size_t i = 0; i < COUNT(many); i++)
        opened += p11->C_OpenSession(s0, i % 2 ? RO : RW, NULL, NULL, &many[i]) == CKR_OK;
    for (size_t i = 0; i < COUNT(many); i++)
        closed += p11->C_CloseSession(many[i]) == CKR_OK;
    check("64 sessions open and close", opened == 64 && closed == 64);
    stop();
}

static void section_login(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE rw = open_session(RW), other = open_session(RO);
    PLAIN("C_Logout nobody is logged in", p11->C_Logout(rw));
    PLAIN("C_Login user wrong", p11->C_Login(rw, CKU_USER, (CK_BYTE *)"9999", 4));
    PLAIN("C_Login user too short", p11->C_Login(rw, CKU_USER, (CK_BYTE *)"1", 1));
    PLAIN("C_Login unknown user type", p11->C_Login(rw, 77, PIN(USER_PIN)));
    PLAIN("C_Login context specific", p11->C_Login(rw, CKU_CONTEXT_SPECIFIC, PIN(USER_PIN)));
    PLAIN("C_Login bad session", p11->C_Login(4711, CKU_USER, PIN(USER_PIN)));
    PLAIN("C_Login SO beside an RO session", p11->C_Login(rw, CKU_SO, PIN(SO_PIN)));
    PLAIN("C_Login user", login(rw, CKU_USER, PIN(USER_PIN)));
    session_info("RW", rw);
    session_info("RO", other);
    PLAIN("C_Login user again", p11->C_Login(rw, CKU_USER, PIN(USER_PIN)));
    PLAIN("C_Login user again in the other session", p11->C_Login(other, CKU_USER, PIN(USER_PIN)));
    PLAIN("C_Login SO while the user is", p11->C_Login(rw, CKU_SO, PIN(SO_PIN)));
    PLAIN("C_Logout", p11->C_Logout(other));
    session_info("RW", rw);
    PLAIN("C_Logout again", p11->C_Logout(rw));
    PLAIN("C_CloseSession RO", p11->C_CloseSession(other));
    PLAIN("C_Login SO wrong", p11->C_Login(rw, CKU_SO, (CK_BYTE *)"99999999", 8));
    PLAIN("C_Login SO", login(rw, CKU_SO, PIN(SO_PIN)));
    session_info("RW", rw);
    CK_SESSION_HANDLE none = 0;
    PLAIN("C_OpenSession RO while SO", p11->C_OpenSession(s0, RO, NULL, NULL, &none));
    PLAIN("C_Logout SO", p11->C_Logout(rw));
    CK_TOKEN_INFO token;
    CK_RV rv = p11->C_GetTokenInfo(s0, &token);
    show("C_GetTokenInfo s0", rv, WHEN(rv, "flags=0x%lx", token.flags));
    PLAIN("C_Login user empty", p11->C_Login(rw, CKU_USER, room, 0));
    PLAIN("C_Login user NULL", p11->C_Login(rw, CKU_USER, NULL, 0));
    PLAIN("C_Login user", login(rw, CKU_USER, PIN(USER_PIN)));
    PLAIN("C_CloseSession the last one", p11->C_CloseSession(rw));
    rw = open_session(RW);
    session_info("a new RW one is logged out", rw);
    stop();
}

static void section_token(void)
{
    CK_BYTE label[33] = "fresh                           ", pin[] = "4321", newer[] = "87654321", so[] = "so-secret";
    CK_SESSION_HANDLE session = 0;
    CK_TOKEN_INFO token;
    if (!start())
        return;
    PLAIN("C_InitToken 4711", p11->C_InitToken(4711, PIN(so), label));
    PLAIN("C_InitToken s1 empty PIN", p11->C_InitToken(s1, room, 0, label));
    PLAIN("C_InitToken s1 NULL PIN", p11->C_InitToken(s1, NULL, 0, label));
    PLAIN("C_InitToken s1", p11->C_InitToken(s1, PIN(so), label));
    CK_RV rv = p11->C_GetTokenInfo(s1, &token);
    show("C_GetTokenInfo s1", rv, WHEN(rv, "label=%s flags=0x%lx", field(token.label, 32), token.flags));
    PLAIN("C_OpenSession s1 RW", p11->C_OpenSession(s1, RW, NULL, NULL, &session));
    PLAIN("C_InitToken s1 with a session open", p11->C_InitToken(s1, PIN(so), label));
    PLAIN("C_Login user before there is a PIN", p11->C_Login(session, CKU_USER, PIN(pin)));
    PLAIN("C_InitPIN logged out", p11->C_InitPIN(session, PIN(pin)));
    PLAIN("C_Login SO", login(session, CKU_SO, PIN(so)));
    PLAIN("C_InitPIN too short", p11->C_InitPIN(session, (CK_BYTE *)"1", 1));
    PLAIN("C_InitPIN empty", p11->C_InitPIN(session, room, 0));
    PLAIN("C_InitPIN NULL", p11->C_InitPIN(session, NULL, 0));
    PLAIN("C_InitPIN", p11->C_InitPIN(session, PIN(pin)));
    PLAIN("C_SetPIN SO wrong", p11->C_SetPIN(session, (CK_BYTE *)"wrong-one", 9, PIN(SO_PIN)));
    PLAIN("C_SetPIN SO", p11->C_SetPIN(session, PIN(so), PIN(SO_PIN)));
    PLAIN("C_Logout SO", p11->C_Logout(session));
    PLAIN("C_Login SO with the old one", p11->C_Login(session, CKU_SO, PIN(so)));
    PLAIN("C_Login SO with the new one", login(session, CKU_SO, PIN(SO_PIN)));
    PLAIN("C_Logout SO", p11->C_Logout(session));
    PLAIN("C_Login user", login(session, CKU_USER, PIN(pin)));
    PLAIN("C_InitPIN as user", p11->C_InitPIN(session, PIN(pin)));
    PLAIN("C_SetPIN user wrong", p11->C_SetPIN(session, PIN(newer), PIN(newer)));
    PLAIN("C_SetPIN user too short", p11->C_SetPIN(session, PIN(pin), (CK_BYTE *)"1", 1));
    PLAIN("C_SetPIN user new one empty", p11->C_SetPIN(session, PIN(pin), room, 0));
    PLAIN("C_SetPIN user both empty", p11->C_SetPIN(session, room, 0, room, 0));
    PLAIN("C_SetPIN user both NULL", p11->C_SetPIN(session, NULL, 0, NULL, 0));
    PLAIN("C_SetPIN user", p11->C_SetPIN(session, PIN(pin), PIN(newer)));
    PLAIN("C_Logout user", p11->C_Logout(session));
    PLAIN("C_SetPIN logged out", p11->C_SetPIN(session, PIN(newer), PIN(newer)));
    PLAIN("C_Login user with the old one", p11->C_Login(session, CKU_USER, PIN(pin)));
    PLAIN("C_Login user with the new one", login(session, CKU_USER, PIN(newer)));
    PLAIN("C_CloseAllSessions s1", p11->C_CloseAllSessions(s1));
    PLAIN("C_OpenSession s1 RO", p11->C_OpenSession(s1, RO, NULL, NULL, &session));
    PLAIN("C_SetPIN in an RO session", p11->C_SetPIN(session, PIN(newer), PIN(newer)));
    PLAIN("C_CloseAllSessions s1", p11->C_CloseAllSessions(s1));
    PLAIN("C_InitToken s1 again, wrong SO PIN", p11->C_InitToken(s1, PIN(pin), label));
    memcpy(label, "other", 5);
    PLAIN("C_InitToken s1 again", p11->C_InitToken(s1, PIN(SO_PIN), label));
    rv = p11->C_GetTokenInfo(s1, &token);
    show("C_GetTokenInfo s1", rv, WHEN(rv, "label=%s flags=0x%lx", field(token.label, 32), token.flags));
    stop();
    if (!start())
        return;
    CK_ULONG n = 0;
    rv = p11->C_GetSlotList(CK_FALSE, NULL, &n);
    show("C_GetSlotList NULL", rv, text("count=%lu", n));
    stop();
}

static void section_keygen(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = 0, public = 0, private = 0;
    CK_ULONG sizes[] = { 16, 24, 32, 17 };
    for (size_t i = 0; i < COUNT(sizes); i++) {
        CK_ATTRIBUTE template[] = { NUMBER(CKA_VALUE_LEN, sizes[i]), BOOL(CKA_TOKEN, 0), BOOL(CKA_ENCRYPT, 1), TEXT(CKA_LABEL, "made") };
        key = 0;
        CK_RV rv = p11->C_GenerateKey(session, BARE(CKM_AES_KEY_GEN), template, COUNT(template), &key);
        show(text("C_GenerateKey AES %lu", sizes[i]), rv, "");
        if (rv != CKR_OK)
            continue;
        CK_ULONG class, type, length, made_by;
        CK_BBOOL local, sensitive, never, always, token, encrypt;
        CK_BYTE label[8];
        CK_ATTRIBUTE read[] = { { CKA_CLASS, &class, 8 }, { CKA_KEY_TYPE, &type, 8 }, { CKA_VALUE_LEN, &length, 8 },
            { CKA_KEY_GEN_MECHANISM, &made_by, 8 }, { CKA_LOCAL, &local, 1 }, { CKA_SENSITIVE, &sensitive, 1 },
            { CKA_NEVER_EXTRACTABLE, &never, 1 }, { CKA_ALWAYS_SENSITIVE, &always, 1 }, { CKA_TOKEN, &token, 1 },
            { CKA_ENCRYPT, &encrypt, 1 }, { CKA_LABEL, label, 8 } };
        attributes(text("of the AES key of %lu", sizes[i]), session, key, read, COUNT(read));
    }
    PLAIN("C_GenerateKey AES no template", p11->C_GenerateKey(session, BARE(CKM_AES_KEY_GEN), NULL, 0, &key));
    CK_ATTRIBUTE sixteen[] = { NUMBER(CKA_VALUE_LEN, 16), BOOL(CKA_TOKEN, 0) };
    PLAIN("C_GenerateKey unknown mechanism", p11->C_GenerateKey(session, BARE(0x80001234), sixteen, COUNT(sixteen), &key));
    PLAIN("C_GenerateKey mechanism of another kind", p11->C_GenerateKey(session, BARE(CKM_SHA256), sixteen, COUNT(sixteen), &key));
    PLAIN("C_GenerateKey bad session", p11->C_GenerateKey(4711, BARE(CKM_AES_KEY_GEN), sixteen, COUNT(sixteen), &key));
    CK_ATTRIBUTE contrary[] = { NUMBER(CKA_VALUE_LEN, 16), NUMBER(CKA_CLASS, CKO_DATA) };
    PLAIN("C_GenerateKey AES of class data", p11->C_GenerateKey(session, BARE(CKM_AES_KEY_GEN), contrary, COUNT(contrary), &key));

    CK_ATTRIBUTE for_public[] = { NUMBER(CKA_MODULUS_BITS, 2048), BYTES(CKA_PUBLIC_EXPONENT, EXPONENT), BOOL(CKA_TOKEN, 0),
        BOOL(CKA_VERIFY, 1), BOOL(CKA_PRIVATE, 0), TEXT(CKA_ID, "\x01\x02") };
    CK_ATTRIBUTE for_private[] = { BOOL(CKA_TOKEN, 0), BOOL(CKA_SIGN, 1), BOOL(CKA_SENSITIVE, 1), TEXT(CKA_ID, "\x01\x02") };
    PLAIN("C_GenerateKeyPair RSA 2048", p11->C_GenerateKeyPair(session, BARE(CKM_RSA_PKCS_KEY_PAIR_GEN), for_public,
          COUNT(for_public), for_private, COUNT(for_private), &public, &private));
    check("the two handles differ", public && private && public != private);
    CK_ULONG bits = 0, class = 0;
    CK_BYTE exponent[8], id[8];
    CK_ATTRIBUTE read_public[] = { { CKA_CLASS, &class, 8 }, { CKA_MODULUS_BITS, &bits, 8 }, { CKA_PUBLIC_EXPONENT, exponent, 8 },
        { CKA_MODULUS, NULL, 0 }, { CKA_ID, id, 8 } };
    attributes("of the RSA public key", session, public, read_public, COUNT(read_public));
    CK_ATTRIBUTE read_private[] = { { CKA_CLASS, &class, 8 }, { CKA_MODULUS, NULL, 0 }, { CKA_PRIVATE_EXPONENT, room, 512 } };
    attributes("of the RSA private key", session, private, read_private, COUNT(read_private));
    PLAIN("C_SignInit with it", p11->C_SignInit(session, BARE(CKM_SHA256_RSA_PKCS), private));
    INTO(256, "C_Sign with it", hidden, p11->C_Sign(session, DATA, 100, out, &len));
    PLAIN("C_VerifyInit with it", p11->C_VerifyInit(session, BARE(CKM_SHA256_RSA_PKCS), public));
    PLAIN("C_Verify with it", p11->C_Verify(session, DATA, 100, room, 256));

    CK_ATTRIBUTE no_bits[] = { BYTES(CKA_PUBLIC_EXPONENT, EXPONENT), BOOL(CKA_TOKEN, 0) };
    PLAIN("C_GenerateKeyPair RSA without a size", p11->C_GenerateKeyPair(session, BARE(CKM_RSA_PKCS_KEY_PAIR_GEN), no_bits,
          COUNT(no_bits), for_private, COUNT(for_private), &public, &private));
    CK_ATTRIBUTE two[] = { NUMBER(CKA_MODULUS_BITS, 2), BYTES(CKA_PUBLIC_EXPONENT, EXPONENT), BOOL(CKA_TOKEN, 0) };
    PLAIN("C_GenerateKeyPair RSA of 2 bits", p11->C_GenerateKeyPair(session, BARE(CKM_RSA_PKCS_KEY_PAIR_GEN), two, COUNT(two),
          for_private, COUNT(for_private), &public, &private));
    if (ec_pair(session, &public, &private) == CKR_OK) {
        CK_BYTE curve[16];
        CK_ATTRIBUTE read[] = { { CKA_EC_PARAMS, curve, 16 }, { CKA_EC_POINT, NULL, 0 } };
        attributes("of the EC public key", session, public, read, COUNT(read));
    }
    CK_ATTRIBUTE no_curve[] = { BOOL(CKA_TOKEN, 0) };
    PLAIN("C_GenerateKeyPair EC without a curve", p11->C_GenerateKeyPair(session, BARE(CKM_EC_KEY_PAIR_GEN), no_curve, 1,
          for_private, COUNT(for_private), &public, &private));
    CK_SESSION_HANDLE ro = open_session(RO);
    CK_ATTRIBUTE on_token[] = { NUMBER(CKA_VALUE_LEN, 16), BOOL(CKA_TOKEN, 1) };
    PLAIN("C_GenerateKey AES on the token, RO", p11->C_GenerateKey(ro, BARE(CKM_AES_KEY_GEN), on_token, COUNT(on_token), &key));
    CK_RV rv = p11->C_GenerateKey(session, BARE(CKM_AES_KEY_GEN), on_token, COUNT(on_token), &key);
    PLAIN("C_GenerateKey AES on the token", rv);
    PLAIN("C_DestroyObject of it", p11->C_DestroyObject(session, key));
    stop();
}

static void section_import(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = open_session(RW), ro = open_session(RO);
    aes_key(session, 16);
    aes_key(session, 24);
    aes_key(session, 32);
    aes_key(session, 17);
    hmac_key(session);
    rsa_public(session);
    CK_ATTRIBUTE data[] = { NUMBER(CKA_CLASS, CKO_DATA), BOOL(CKA_TOKEN, 1), BOOL(CKA_PRIVATE, 0), TEXT(CKA_LABEL, "note"),
        TEXT(CKA_APPLICATION, "e2e"), TEXT(CKA_OBJECT_ID, "\x06\x01\x2a"), VALUE(CKA_VALUE, DATA, 3000) };
    CK_OBJECT_HANDLE note = create(session, "data on the token", data, COUNT(data));
    CK_BYTE value[3000], label[16];
    CK_ATTRIBUTE read[] = { { CKA_VALUE, value, sizeof value }, { CKA_LABEL, label, sizeof label } };
    attributes("of the data", ro, note, read, COUNT(read));
    check("the value is what was stored", memcmp(value, DATA, sizeof value) == 0);
    PLAIN("C_DestroyObject RO", p11->C_DestroyObject(ro, note));
    PLAIN("C_DestroyObject", p11->C_DestroyObject(session, note));
    create(ro, "data on the token, RO", data, COUNT(data));
    data[1] = (CK_ATTRIBUTE)BOOL(CKA_TOKEN, 0);
    create(ro, "data of the session, RO", data, COUNT(data));
    data[6].ulValueLen = 0;
    note = create(session, "data with an empty value", data, COUNT(data));
    read[0].ulValueLen = sizeof value, read[1].ulValueLen = sizeof label;
    attributes("of the data with an empty value", session, note, read, COUNT(read));
    data[2] = (CK_ATTRIBUTE)BOOL(CKA_PRIVATE, 1);
    create(session, "private data, logged out", data, COUNT(data));
    create(session, "nothing", data, 0);
    CK_ATTRIBUTE no_class[] = { TEXT(CKA_LABEL, "x") };
    create(session, "without a class", no_class, 1);
    CK_ATTRIBUTE only_class[] = { NUMBER(CKA_CLASS, CKO_SECRET_KEY), BOOL(CKA_TOKEN, 0) };
    create(session, "a secret key of no type", only_class, 2);
    CK_ATTRIBUTE no_value[] = { NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), BOOL(CKA_PRIVATE, 0) };
    create(session, "an AES key without a value", no_value, COUNT(no_value));
    CK_ATTRIBUTE stranger[] = { NUMBER(CKA_CLASS, CKO_DATA), BOOL(CKA_PRIVATE, 0), NUMBER(0x80001234, 1) };
    create(session, "with an unknown attribute", stranger, COUNT(stranger));
    CK_ATTRIBUTE misfit[] = { NUMBER(CKA_CLASS, CKO_DATA), BOOL(CKA_PRIVATE, 0), TEXT(CKA_MODULUS, "x") };
    create(session, "with another class's attribute", misfit, COUNT(misfit));
    CK_ATTRIBUTE short_class[] = { VALUE(CKA_CLASS, DATA, 4), BOOL(CKA_PRIVATE, 0) };
    create(session, "with a class of four bytes", short_class, COUNT(short_class));
    CK_ATTRIBUTE long_bool[] = { NUMBER(CKA_CLASS, CKO_DATA), NUMBER(CKA_PRIVATE, 0) };
    create(session, "with a boolean of eight bytes", long_bool, COUNT(long_bool));
    create(4711, "bad session", data, COUNT(data));
    PLAIN("C_Login user", login(session, CKU_USER, PIN(USER_PIN)));
    create(session, "private data", data, COUNT(data));
    rsa_private(session);
    stop();
}

static int by_label(const void *a, const void *b) { return strcmp(a, b); }

/* Drains a search: the calls' counts, then the labels in order. */
static void search(const char *what, CK_SESSION_HANDLE session, CK_ATTRIBUTE *template, CK_ULONG count, CK_ULONG step)
{
    char labels[32][16] = { { 0 } };
    size_t found = 0;
    PLAIN(text("C_FindObjectsInit %s", what), p11->C_FindObjectsInit(session, template, count));
    for (int i = 0; i < 8; i++) {
        CK_OBJECT_HANDLE objects[20];
        CK_ULONG n = 4711;
        memset(objects, 0xa5, sizeof objects);
        CK_RV rv = p11->C_FindObjects(session, objects, step, &n);
        show(text("C_FindObjects %s max=%lu", what, step), rv, WHEN(rv, "count=%lu", n));
        if (rv != CKR_OK || n == 0 || n > step)
            break;
        check("handles after the last are as they were", objects[n] == (CK_ULONG)0xa5a5a5a5a5a5a5a5);
        for (CK_ULONG k = 0; k < n && found < COUNT(labels); k++, found++) {
            CK_ATTRIBUTE label = { CKA_LABEL, labels[found], 15 };
            p11->C_GetAttributeValue(session, objects[k], &label, 1);
        }
    }
    qsort(labels, found, sizeof labels[0], by_label);
    printf("found %s ->", what);
    for (size_t i = 0; i < found; i++)
        printf(" %s", labels[i]);
    puts("");
    PLAIN(text("C_FindObjectsFinal %s", what), p11->C_FindObjectsFinal(session));
}

static CK_SESSION_HANDLE ten_objects(void)
{
    CK_SESSION_HANDLE session = open_session(RW);
    for (char i = '0'; i <= '9'; i++) {
        char label[] = { 'd', 'a', 't', 'a', i };
        CK_ATTRIBUTE data[] = { NUMBER(CKA_CLASS, CKO_DATA), BOOL(CKA_TOKEN, 0), BOOL(CKA_PRIVATE, 0), BYTES(CKA_LABEL, label),
            VALUE(CKA_APPLICATION, i % 2 ? "odd" : "even", i % 2 ? 3 : 4) };
        CK_OBJECT_HANDLE object;
        p11->C_CreateObject(session, data, COUNT(data), &object);
    }
    return session;
}

static void section_find(void)
{
    if (!start())
        return;
    CK_OBJECT_HANDLE object = 0;
    CK_ULONG n = 0;
    CK_SESSION_HANDLE session = ten_objects();
    CK_ATTRIBUTE all[] = { NUMBER(CKA_CLASS, CKO_DATA) };
    CK_ATTRIBUTE odd[] = { NUMBER(CKA_CLASS, CKO_DATA), TEXT(CKA_APPLICATION, "odd") };
    CK_ATTRIBUTE none[] = { TEXT(CKA_LABEL, "nobody") };
    CK_ATTRIBUTE keys[] = { NUMBER(CKA_CLASS, CKO_SECRET_KEY) };
    PLAIN("C_FindObjects without a search", p11->C_FindObjects(session, &object, 1, &n));
    PLAIN("C_FindObjectsFinal without a search", p11->C_FindObjectsFinal(session));
    search("data", session, all, 1, 3);
    search("data at once", session, all, 1, 16);
    search("data exactly", session, all, 1, 10);
    search("data one by one", session, odd, 2, 1);
    search("odd", session, odd, 2, 16);
    search("label nobody has", session, none, 1, 16);
    search("secret keys", session, keys, 1, 16);
    search("everything", session, NULL, 0, 16);
    PLAIN("C_FindObjectsInit data", p11->C_FindObjectsInit(session, all, 1));
    PLAIN("C_FindObjectsInit again", p11->C_FindObjectsInit(session, all, 1));
    CK_RV rv = p11->C_FindObjects(session, &object, 0, &n);
    show("C_FindObjects max=0", rv, WHEN(rv, "count=%lu", n));
    PLAIN("C_FindObjectsFinal", p11->C_FindObjectsFinal(session));
    PLAIN("C_FindObjectsFinal again", p11->C_FindObjectsFinal(session));
    PLAIN("C_FindObjectsInit bad session", p11->C_FindObjectsInit(4711, all, 1));
    stop();
}

/* What is left of a search that was not drained (the original keeps a store). */
static void section_findrest(void)
{
    if (!start())
        return;
    CK_OBJECT_HANDLE objects[16];
    CK_ULONG n = 0;
    CK_SESSION_HANDLE session = ten_objects(), other = open_session(RO);
    CK_ATTRIBUTE all[] = { NUMBER(CKA_CLASS, CKO_DATA) };
    CK_ATTRIBUTE none[] = { TEXT(CKA_LABEL, "nobody") };
    PLAIN("C_FindObjectsInit data", p11->C_FindObjectsInit(session, all, 1));
    CK_RV rv = p11->C_FindObjects(session, objects, 3, &n);
    show("C_FindObjects max=3", rv, WHEN(rv, "count=%lu", n));
    PLAIN("C_FindObjectsFinal with seven left", p11->C_FindObjectsFinal(session));
    rv = p11->C_FindObjects(session, objects, 2, &n);
    show("C_FindObjects after C_FindObjectsFinal", rv, WHEN(rv, "count=%lu", n));
    PLAIN("C_FindObjectsInit nobody", p11->C_FindObjectsInit(session, none, 1));
    rv = p11->C_FindObjects(session, objects, 16, &n);
    show("C_FindObjects nobody", rv, WHEN(rv, "count=%lu", n));
    PLAIN("C_FindObjectsFinal nobody", p11->C_FindObjectsFinal(session));

    PLAIN("C_FindObjectsInit data", p11->C_FindObjectsInit(session, all, 1));
    rv = p11->C_FindObjects(session, objects, 3, &n);
    show("C_FindObjects max=3", rv, WHEN(rv, "count=%lu", n));
    rv = p11->C_FindObjects(other, objects, 16, &n);
    show("C_FindObjects in a session without a search", rv, WHEN(rv, "count=%lu", n));
    rv = p11->C_FindObjects(session, objects, 16, &n);
    show("C_FindObjects the other seven", rv, WHEN(rv, "count=%lu", n));
    PLAIN("C_FindObjectsFinal", p11->C_FindObjectsFinal(session));

    PLAIN("C_FindObjectsInit data here", p11->C_FindObjectsInit(session, all, 1));
    PLAIN("C_FindObjectsInit nobody there", p11->C_FindObjectsInit(other, none, 1));
    rv = p11->C_FindObjects(session, objects, 3, &n);
    show("C_FindObjects here", rv, WHEN(rv, "count=%lu", n));
    rv = p11->C_FindObjects(other, objects, 16, &n);
    show("C_FindObjects there", rv, WHEN(rv, "count=%lu", n));
    rv = p11->C_FindObjects(session, objects, 16, &n);
    show("C_FindObjects here, the rest", rv, WHEN(rv, "count=%lu", n));
    PLAIN("C_FindObjectsFinal there", p11->C_FindObjectsFinal(other));
    PLAIN("C_FindObjectsFinal here", p11->C_FindObjectsFinal(session));
    stop();
}

static void section_attributes(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE private = rsa_private(session), key = aes_key(session, 16);
    CK_ATTRIBUTE hide[] = { NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), VALUE(CKA_VALUE, KEY32, 16),
        BOOL(CKA_TOKEN, 0), BOOL(CKA_SENSITIVE, 1), BOOL(CKA_EXTRACTABLE, 0), TEXT(CKA_LABEL, "secret"), TEXT(CKA_ID, "") };
    CK_OBJECT_HANDLE secret = create(session, "sensitive AES key", hide, COUNT(hide));
    CK_BYTE a[256], b[256], c[256];
#define ASK(call, object, ...) \
    do { \
        CK_ATTRIBUTE ask_[] = { __VA_ARGS__ }; \
        memset(a, 0xa5, sizeof a), memset(b, 0xa5, sizeof b), memset(c, 0xa5, sizeof c); \
        attributes(call, session, object, ask_, COUNT(ask_)); \
    } while (0)
    ASK("sizes", key, { CKA_CLASS, NULL, 0 }, { CKA_LABEL, NULL, 999 }, { CKA_VALUE, NULL, (CK_ULONG)-1 });
    ASK("sizes of booleans and numbers", key, { CKA_TOKEN, NULL, 0 }, { CKA_KEY_TYPE, NULL, 0 }, { CKA_VALUE_LEN, NULL, 0 });
    ASK("exact", key, { CKA_CLASS, a, 8 }, { CKA_LABEL, b, 3 }, { CKA_VALUE, c, 16 });
    ASK("long", key, { CKA_CLASS, a, 99 }, { CKA_LABEL, b, 99 }, { CKA_VALUE, c, 256 });
    check("bytes after the values are as they were", a[8] == 0xa5 && b[3] == 0xa5 && c[16] == 0xa5);
    ASK("one short", key, { CKA_LABEL, a, 2 }, { CKA_VALUE, b, 16 });
    check("the short buffer is as it was", a[0] == 0xa5);
    ASK("one short, the other way round", key, { CKA_VALUE, b, 16 }, { CKA_LABEL, a, 2 });
    ASK("a short number", key, { CKA_KEY_TYPE, a, 4 });
    ASK("room of no bytes", key, { CKA_LABEL, a, 0 });
    ASK("sensitive", secret, { CKA_VALUE, a, 16 });
    check("nothing of the sensitive value came", a[0] == 0xa5);
    ASK("sensitive, size only", secret, { CKA_VALUE, NULL, 0 });
    ASK("sensitive and available", secret, { CKA_VALUE, a, 16 }, { CKA_LABEL, b, 16 }, { CKA_KEY_TYPE, c, 8 });
    ASK("available and sensitive", secret, { CKA_LABEL, b, 16 }, { CKA_VALUE, a, 16 });
    ASK("sensitive and empty", secret, { CKA_VALUE, a, 16 }, { CKA_ID, b, 16 });
    ASK("invalid", key, { CKA_MODULUS, a, 16 });
    ASK("unknown", key, { 0x80001234, a, 16 });
    ASK("invalid and available", key, { CKA_MODULUS, a, 16 }, { CKA_LABEL, b, 16 });
    ASK("available, sensitive, invalid and short", secret, { CKA_LABEL, a, 16 }, { CKA_VALUE, b, 16 }, { CKA_MODULUS, c, 16 }, { CKA_KEY_TYPE, c + 64, 8 });
    ASK("empty", secret, { CKA_ID, a, 16 });
    ASK("empty, size only", secret, { CKA_ID, NULL, 0 });
    ASK("a date nobody set", key, { CKA_START_DATE, a, 8 });
    ASK("twice the same", key, { CKA_LABEL, a, 3 }, { CKA_LABEL, b, 99 });
    ASK("of the RSA private key", private, { CKA_MODULUS, a, 256 }, { CKA_PRIVATE_EXPONENT, b, 256 }, { CKA_PUBLIC_EXPONENT, c, 8 });
    ASK("bad object, sizes", 4711, { CKA_LABEL, NULL, 5 }, { CKA_VALUE, NULL, 6 });
    ASK("bad object", 4711, { CKA_LABEL, a, 16 });
    check("the buffer is as it was", a[0] == 0xa5);
    ASK("bad object, size of a class", 4711, { CKA_CLASS, NULL, 0 });
    ASK("object 0", 0, { CKA_LABEL, a, 16 });
    CK_ATTRIBUTE bad[] = { { CKA_LABEL, a, 16 } };
    attributes("bad session", 4711, key, bad, 1);
    attributes("no attributes", session, key, bad, 0);
    attributes("no attributes, NULL", session, key, NULL, 0);
    stop();
}

/* Templates within templates that are empty, which hold no pointers. */
static void section_nested(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_BYTE a[256], b[256];
    static const struct { const char *name; CK_ATTRIBUTE_TYPE type; } kinds[] = {
        { "WRAP_TEMPLATE", CKA_WRAP_TEMPLATE }, { "UNWRAP_TEMPLATE", CKA_UNWRAP_TEMPLATE }, { "DERIVE_TEMPLATE", CKA_DERIVE_TEMPLATE },
        { "unknown array", CKF_ARRAY_ATTRIBUTE | 0x7ff }, { "vendor's array", CKF_ARRAY_ATTRIBUTE | 0x80000001 },
    };
    CK_OBJECT_HANDLE key = aes_key(session, 16), private = rsa_private(session), object;
    for (size_t i = 0; i < COUNT(kinds); i++) {
        CK_ATTRIBUTE_TYPE type = kinds[i].type;
        const char *name = kinds[i].name;
        CK_ATTRIBUTE size[] = { { type, NULL, 0 } }, room[] = { { type, a, sizeof a } }, none[] = { { type, a, 0 } };
        memset(a, 0xa5, sizeof a), memset(b, 0xa5, sizeof b);
        attributes(text("size of %s", name), session, key, size, 1);
        attributes(text("%s", name), session, key, room, 1);
        attributes(text("%s without room", name), session, key, none, 1);
        CK_ATTRIBUTE mixed[] = { { CKA_LABEL, b, sizeof b }, { type, NULL, 0 }, { CKA_VALUE, NULL, 0 } };
        attributes(text("size of %s and others", name), session, key, mixed, COUNT(mixed));
        CK_ATTRIBUTE more[] = { { type, a, sizeof a }, { CKA_LABEL, b, sizeof b } };
        attributes(text("%s and others", name), session, key, more, COUNT(more));
        CK_ATTRIBUTE there[] = { { type, NULL, 0 } };
        attributes(text("size of %s of a private key", name), session, private, there, 1);
        check("the buffer is as it was", a[0] == 0xa5);
        for (int has_address = 0; has_address < 2; has_address++) {
            CK_ATTRIBUTE aes[] = { NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), VALUE(CKA_VALUE, KEY32, 16),
                BOOL(CKA_TOKEN, 0), BOOL(CKA_PRIVATE, 0), BOOL(CKA_WRAP, 1), { type, has_address ? a : NULL, 0 } };
            CK_OBJECT_HANDLE made = create(session, text("AES with empty %s, %s", name, has_address ? "address" : "NULL"), aes, COUNT(aes));
            CK_ATTRIBUTE told[] = { { type, NULL, 0 } };
            if (made)
                attributes(text("size of %s of it", name), session, made, told, 1);
            CK_ATTRIBUTE change[] = { { type, has_address ? a : NULL, 0 } };
            PLAIN(text("C_SetAttributeValue %s", name), p11->C_SetAttributeValue(session, key, change, 1));
            PLAIN(text("C_CopyObject %s", name), p11->C_CopyObject(session, key, change, 1, &object));
            PLAIN(text("C_FindObjectsInit %s", name), p11->C_FindObjectsInit(session, change, 1));
            CK_ULONG n = 0;
            CK_OBJECT_HANDLE found[16];
            CK_RV rv = p11->C_FindObjects(session, found, 16, &n);
            show(text("C_FindObjects %s", name), rv, WHEN(rv, "count=%lu", n));
            PLAIN("C_FindObjectsFinal", p11->C_FindObjectsFinal(session));
            CK_ATTRIBUTE generate[] = { NUMBER(CKA_VALUE_LEN, 16), BOOL(CKA_TOKEN, 0), { type, has_address ? a : NULL, 0 } };
            PLAIN(text("C_GenerateKey %s", name), p11->C_GenerateKey(session, BARE(CKM_AES_KEY_GEN), generate, COUNT(generate), &object));
        }
    }
    stop();
}

/* Leaves a key on the token that has templates: no proxy carries them. */
static void section_nestedkey(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_ATTRIBUTE inner[] = { BOOL(CKA_EXTRACTABLE, 1), NUMBER(CKA_KEY_TYPE, CKK_AES) };
    CK_ATTRIBUTE aes[] = { NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), VALUE(CKA_VALUE, KEY32, 16),
        BOOL(CKA_TOKEN, 1), BOOL(CKA_PRIVATE, 0), BOOL(CKA_WRAP, 1), TEXT(CKA_LABEL, "nested"), BYTES(CKA_WRAP_TEMPLATE, inner) };
    create(session, "AES with a template", aes, COUNT(aes));
    stop();
}

/* Reads that key. */
static void section_nestedread(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = open_session(RO);
    CK_ATTRIBUTE label[] = { TEXT(CKA_LABEL, "nested") };
    CK_OBJECT_HANDLE key = 0;
    CK_ULONG n = 0;
    PLAIN("C_FindObjectsInit", p11->C_FindObjectsInit(session, label, 1));
    PLAIN("C_FindObjects", p11->C_FindObjects(session, &key, 1, &n));
    PLAIN("C_FindObjectsFinal", p11->C_FindObjectsFinal(session));
    CK_BYTE name[16];
    CK_ATTRIBUTE sizes[] = { { CKA_WRAP_TEMPLATE, NULL, 0 }, { CKA_LABEL, name, sizeof name }, { CKA_UNWRAP_TEMPLATE, NULL, 0 } };
    attributes("sizes", session, key, sizes, COUNT(sizes));
    CK_ATTRIBUTE inner[4] = { { 4711, NULL, 4711 }, { 4711, NULL, 4711 }, { 4711, NULL, 4711 }, { 4711, NULL, 4711 } };
    CK_ATTRIBUTE room[] = { BYTES(CKA_WRAP_TEMPLATE, inner) };
    CK_RV rv = p11->C_GetAttributeValue(session, key, room, 1);
    show("C_GetAttributeValue with room", rv, text("length=%ld first=0x%lx", (long)room[0].ulValueLen, inner[0].type));
    check("the rest of the room is as it was", inner[2].type == 4711 && inner[3].ulValueLen == 4711);
    stop();
}

/* Values longer than what one packet, one buffer or one answer to a size query holds. */
static void section_longvalues(void)
{
    static CK_BYTE value[300000], back[300064];
    if (!start())
        return;
    CK_SESSION_HANDLE session = open_session(RW);
    for (size_t i = 0; i < sizeof value; i++)
        value[i] = (CK_BYTE)(i * 7 + i / 251);
    CK_ATTRIBUTE data[] = { NUMBER(CKA_CLASS, CKO_DATA), BOOL(CKA_TOKEN, 0), BOOL(CKA_PRIVATE, 0), BYTES(CKA_VALUE, value),
        VALUE(CKA_APPLICATION, value, 40000), VALUE(CKA_LABEL, value, 50000) };
    CK_OBJECT_HANDLE object = create(session, "data of 300000 bytes", data, COUNT(data));
    CK_ATTRIBUTE sizes[] = { { CKA_LABEL, NULL, 0 }, { CKA_VALUE, NULL, 0 }, { CKA_APPLICATION, NULL, 0 }, { CKA_CLASS, NULL, 0 } };
    attributes("sizes", session, object, sizes, COUNT(sizes));
    CK_ULONG rooms[] = { sizeof back, sizeof value, sizeof value - 1, 70000 };
    for (size_t i = 0; i < COUNT(rooms); i++) {
        CK_ATTRIBUTE read[] = { { CKA_VALUE, back, rooms[i] } };
        memset(back, 0xa5, sizeof back);
        attributes(text("room=%lu", rooms[i]), session, object, read, 1);
        check("nothing after the end", back[rooms[i] < sizeof value ? 0 : sizeof value] == 0xa5);
    }
    CK_BYTE small[16];
    CK_ATTRIBUTE mixed[] = { { CKA_VALUE, NULL, 0 }, { CKA_CLASS, small, sizeof small } };
    attributes("size of the value, and a class", session, object, mixed, COUNT(mixed));
    stop();
}

/* A short buffer for a translated attribute of a bad object: the original's worker exits. */
static void section_badclass(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = open_session(RW);
    CK_BYTE a[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    CK_ATTRIBUTE ask[] = { { CKA_CLASS, a, 4 } };
    attributes("bad object, class in four bytes", session, 4711, ask, 1);
    check("the buffer is as it was", a[0] == 1 && a[3] == 4);
    session_info("the session goes on", session);
    stop();
}

static void section_objects(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = open_session(RW);
    CK_OBJECT_HANDLE key = aes_key(session, 16), copy = 0;
    CK_BYTE label[16], value[16];
    CK_ULONG size = 0;
    CK_ATTRIBUTE read[] = { { CKA_LABEL, label, sizeof label }, { CKA_VALUE, value, sizeof value } };
    CK_ATTRIBUTE rename[] = { TEXT(CKA_LABEL, "renamed"), TEXT(CKA_ID, "\x07") };
    PLAIN("C_SetAttributeValue label and id", p11->C_SetAttributeValue(session, key, rename, 2));
    attributes("after it", session, key, read, 2);
    CK_ATTRIBUTE class[] = { NUMBER(CKA_CLASS, CKO_DATA) };
    PLAIN("C_SetAttributeValue class", p11->C_SetAttributeValue(session, key, class, 1));
    CK_ATTRIBUTE unknown[] = { NUMBER(0x80001234, 1) };
    PLAIN("C_SetAttributeValue unknown", p11->C_SetAttributeValue(session, key, unknown, 1));
    PLAIN("C_SetAttributeValue bad object", p11->C_SetAttributeValue(session, 4711, rename, 2));
    PLAIN("C_SetAttributeValue nothing", p11->C_SetAttributeValue(session, key, rename, 0));
    CK_ATTRIBUTE empty[] = { TEXT(CKA_ID, "") };
    PLAIN("C_SetAttributeValue empty id", p11->C_SetAttributeValue(session, key, empty, 1));
    CK_ATTRIBUTE id[] = { { CKA_ID, label, sizeof label } };
    attributes("after it", session, key, id, 1);

    CK_ATTRIBUTE other[] = { TEXT(CKA_LABEL, "copy") };
    PLAIN("C_CopyObject", p11->C_CopyObject(session, key, other, 1, &copy));
    check("the copy is another object", copy && copy != key);
    read[0].ulValueLen = sizeof label, read[1].ulValueLen = sizeof value;
    attributes("of the copy", session, copy, read, 2);
    PLAIN("C_CopyObject no template", p11->C_CopyObject(session, key, NULL, 0, &copy));
    PLAIN("C_CopyObject class", p11->C_CopyObject(session, key, class, 1, &copy));
    PLAIN("C_CopyObject bad object", p11->C_CopyObject(session, 4711, other, 1, &copy));
    CK_RV rv = p11->C_GetObjectSize(session, key, &size);
    show("C_GetObjectSize", rv, WHEN(rv, "%ld", (long)size));
    PLAIN("C_GetObjectSize bad object", p11->C_GetObjectSize(session, 4711, &size));
    PLAIN("C_DestroyObject", p11->C_DestroyObject(session, key));
    PLAIN("C_DestroyObject again", p11->C_DestroyObject(session, key));
    read[0].ulValueLen = sizeof label, read[1].ulValueLen = sizeof value;
    attributes("of the destroyed one", session, key, read, 2);
    PLAIN("C_DestroyObject 0", p11->C_DestroyObject(session, 0));
    PLAIN("C_DestroyObject bad session", p11->C_DestroyObject(4711, copy));
    CK_ATTRIBUTE frozen[] = { NUMBER(CKA_CLASS, CKO_DATA), BOOL(CKA_TOKEN, 0), BOOL(CKA_PRIVATE, 0), BOOL(CKA_MODIFIABLE, 0), TEXT(CKA_LABEL, "x") };
    CK_OBJECT_HANDLE fixed = create(session, "data not modifiable", frozen, COUNT(frozen));
    PLAIN("C_SetAttributeValue not modifiable", p11->C_SetAttributeValue(session, fixed, other, 1));
    stop();
}

/* Signs DATA[0..n) in one call and in parts, and verifies it, a changed signature and changed data. */
static void sign_and_verify(const char *name, CK_SESSION_HANDLE session, CK_MECHANISM mech, CK_OBJECT_HANDLE private, CK_OBJECT_HANDLE public,
                            CK_ULONG n, int parts, const char *(*shown)(const CK_BYTE *, CK_ULONG))
{
    CK_BYTE signature[512];
    CK_ULONG length;
    CK_MECHANISM before = mech;
    PLAIN(text("C_SignInit %s", name), p11->C_SignInit(session, &mech, private));
    check("the mechanism is as it was", memcmp(&mech, &before, sizeof mech) == 0);
    FETCH(text("C_Sign %s", name), shown, p11->C_Sign(session, DATA, n, out, &len));
    length = len < sizeof signature ? len : 0;
    memcpy(signature, room, length);
    PLAIN(text("C_Sign %s after the last", name), (len = sizeof room, p11->C_Sign(session, DATA, n, room, &len)));
    PLAIN(text("C_VerifyInit %s", name), p11->C_VerifyInit(session, &mech, public));
    PLAIN(text("C_Verify %s", name), p11->C_Verify(session, DATA, n, signature, length));
    PLAIN(text("C_Verify %s after the last", name), p11->C_Verify(session, DATA, n, signature, length));
    signature[length / 2] ^= 1;
    PLAIN(text("C_VerifyInit %s", name), p11->C_VerifyInit(session, &mech, public));
    PLAIN(text("C_Verify %s wrong signature", name), p11->C_Verify(session, DATA, n, signature, length));
    signature[length / 2] ^= 1;
    PLAIN(text("C_VerifyInit %s", name), p11->C_VerifyInit(session, &mech, public));
    PLAIN(text("C_Verify %s wrong data", name), p11->C_Verify(session, DATA + 1, n, signature, length));
    PLAIN(text("C_VerifyInit %s", name), p11->C_VerifyInit(session, &mech, public));
    PLAIN(text("C_Verify %s short signature", name), p11->C_Verify(session, DATA, n, signature, length ? length - 1 : 0));
    if (!parts)
        return;
    PLAIN(text("C_SignInit %s parts", name), p11->C_SignInit(session, &mech, private));
    PLAIN(text("C_SignUpdate %s", name), p11->C_SignUpdate(session, DATA, 10));
    PLAIN(text("C_SignUpdate %s rest", name), p11->C_SignUpdate(session, DATA + 10, n - 10));
    FETCH(text("C_SignFinal %s", name), shown, p11->C_SignFinal(session, out, &len));
    length = len < sizeof signature ? len : 0;
    memcpy(signature, room, length);
    PLAIN(text("C_SignFinal %s again", name), (len = sizeof room, p11->C_SignFinal(session, room, &len)));
    PLAIN(text("C_VerifyInit %s parts", name), p11->C_VerifyInit(session, &mech, public));
    PLAIN(text("C_VerifyUpdate %s", name), p11->C_VerifyUpdate(session, DATA, n - 1));
    PLAIN(text("C_VerifyUpdate %s rest", name), p11->C_VerifyUpdate(session, DATA + n - 1, 1));
    PLAIN(text("C_VerifyFinal %s", name), p11->C_VerifyFinal(session, signature, length));
    PLAIN(text("C_VerifyInit %s parts", name), p11->C_VerifyInit(session, &mech, public));
    PLAIN(text("C_VerifyUpdate %s less", name), p11->C_VerifyUpdate(session, DATA, n - 1));
    PLAIN(text("C_VerifyFinal %s", name), p11->C_VerifyFinal(session, signature, length));
}

/* The same keys in a session in which nothing is under way. */
static CK_SESSION_HANDLE renewed(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *private, CK_OBJECT_HANDLE *mac)
{
    PLAIN("C_CloseSession", p11->C_CloseSession(session));
    session = logged_in();
    if (private)
        *private = rsa_private(session);
    *mac = hmac_key(session);
    return session;
}

static void section_sign(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE private = rsa_private(session), public = rsa_public(session), mac = hmac_key(session), ec_private = 0, ec_public = 0;
    ec_pair(session, &ec_public, &ec_private);
    sign_and_verify("RSA_PKCS", session, *BARE(CKM_RSA_PKCS), private, public, 35, 0, hex);
    sign_and_verify("SHA256_RSA_PKCS", session, *BARE(CKM_SHA256_RSA_PKCS), private, public, 3000, 1, hex);
    CK_RSA_PKCS_PSS_PARAMS pss = { CKM_SHA256, CKG_MGF1_SHA256, 32 };
    sign_and_verify("RSA_PKCS_PSS", session, *mechanism(CKM_RSA_PKCS_PSS, &pss, sizeof pss), private, public, 32, 0, hidden);
    sign_and_verify("SHA256_RSA_PKCS_PSS", session, *mechanism(CKM_SHA256_RSA_PKCS_PSS, &pss, sizeof pss), private, public, 500, 1, hidden);
    sign_and_verify("ECDSA", session, *BARE(CKM_ECDSA), ec_private, ec_public, 32, 0, hidden);
    sign_and_verify("SHA256_HMAC", session, *BARE(CKM_SHA256_HMAC), mac, mac, 100, 1, hex);
    sign_and_verify("SHA512_HMAC", session, *BARE(CKM_SHA512_HMAC), mac, mac, 100, 1, hex);

    PLAIN("C_Sign without an operation", (len = sizeof room, p11->C_Sign(session, DATA, 10, room, &len)));
    PLAIN("C_SignUpdate without an operation", p11->C_SignUpdate(session, DATA, 10));
    PLAIN("C_SignFinal without an operation", (len = sizeof room, p11->C_SignFinal(session, room, &len)));
    PLAIN("C_Verify without an operation", p11->C_Verify(session, DATA, 10, DATA, 32));
    PLAIN("C_SignInit unknown mechanism", p11->C_SignInit(session, BARE(0x80001234), mac));
    PLAIN("C_SignInit bad key", p11->C_SignInit(session, BARE(CKM_SHA256_HMAC), 4711));
    PLAIN("C_SignInit key of another type", p11->C_SignInit(session, BARE(CKM_ECDSA), mac));
    session = renewed(session, &private, &mac);
    PLAIN("C_SignInit PSS without parameters", p11->C_SignInit(session, BARE(CKM_RSA_PKCS_PSS), private));
    session = renewed(session, &private, &mac);
    PLAIN("C_SignInit PSS with short parameters", p11->C_SignInit(session, mechanism(CKM_RSA_PKCS_PSS, &pss, 8), private));
    session = renewed(session, &private, &mac);
    PLAIN("C_SignInit RSA_PKCS with a stray parameter", p11->C_SignInit(session, mechanism(CKM_RSA_PKCS, IV, 16), private));
    INTO(128, "C_Sign RSA_PKCS with it", hex, p11->C_Sign(session, DATA, 35, out, &len));
    PLAIN("C_SignInit HMAC", p11->C_SignInit(session, BARE(CKM_SHA256_HMAC), mac));
    PLAIN("C_SignInit HMAC again", p11->C_SignInit(session, BARE(CKM_SHA256_HMAC), mac));
    INTO(32, "C_Sign of nothing", hex, p11->C_Sign(session, DATA, 0, out, &len));
    PLAIN("C_SignInit HMAC", p11->C_SignInit(session, BARE(CKM_SHA256_HMAC), mac));
    PLAIN("C_SignUpdate nothing", p11->C_SignUpdate(session, DATA, 0));
    INTO(32, "C_SignFinal of nothing", hex, p11->C_SignFinal(session, out, &len));
    PLAIN("C_SignInit HMAC", p11->C_SignInit(session, BARE(CKM_SHA256_HMAC), mac));
    PLAIN("C_SignUpdate NULL", p11->C_SignUpdate(session, NULL, 0));
    INTO(32, "C_SignFinal of NULL", hex, p11->C_SignFinal(session, out, &len));
    PLAIN("C_SignInit RSA_PKCS", p11->C_SignInit(session, BARE(CKM_RSA_PKCS), private));
    PLAIN("C_Sign RSA_PKCS too much data", (len = sizeof room, p11->C_Sign(session, DATA, 200, room, &len)));
    PLAIN("C_SignRecoverInit", p11->C_SignRecoverInit(session, BARE(CKM_RSA_PKCS), private));
    PLAIN("C_VerifyRecoverInit", p11->C_VerifyRecoverInit(session, BARE(CKM_RSA_PKCS), public));
    stop();
}

/* Encrypts and decrypts DATA[0..n), in one call and in parts of 1, 15, 16, 17 and the rest. */
static void encrypt_and_decrypt(const char *name, CK_SESSION_HANDLE session, CK_MECHANISM mech, CK_OBJECT_HANDLE encrypting,
                                CK_OBJECT_HANDLE decrypting, CK_ULONG n, int parts, const char *(*shown)(const CK_BYTE *, CK_ULONG))
{
    CK_BYTE hidden_text[1024], again[1024];
    CK_ULONG length, total = 0, at = 0, steps[] = { 1, 15, 16, 17, 0 };
    PLAIN(text("C_EncryptInit %s", name), p11->C_EncryptInit(session, &mech, encrypting));
    FETCH(text("C_Encrypt %s", name), shown, p11->C_Encrypt(session, DATA, n, out, &len));
    length = len <= sizeof hidden_text ? len : 0;
    memcpy(hidden_text, room, length);
    PLAIN(text("C_Encrypt %s after the last", name), (len = sizeof room, p11->C_Encrypt(session, DATA, n, room, &len)));
    PLAIN(text("C_DecryptInit %s", name), p11->C_DecryptInit(session, &mech, decrypting));
    FETCH(text("C_Decrypt %s", name), hex, p11->C_Decrypt(session, hidden_text, length, out, &len));
    check("same plain text", len == n && memcmp(room, DATA, n) == 0);
    PLAIN(text("C_Decrypt %s after the last", name), (len = sizeof room, p11->C_Decrypt(session, hidden_text, length, room, &len)));
    if (!parts)
        return;
    PLAIN(text("C_EncryptInit %s parts", name), p11->C_EncryptInit(session, &mech, encrypting));
    for (size_t i = 0; i < COUNT(steps); i++) {
        CK_ULONG step = steps[i] ? steps[i] : n - at;
        INTO(sizeof room - 64, text("C_EncryptUpdate %s %lu bytes", name, step), hex, p11->C_EncryptUpdate(session, DATA + at, step, out, &len));
        at += step;
        if (len <= sizeof again - total)
            memcpy(again + total, room, len), total += len;
    }
    INTO(sizeof room - 64, text("C_EncryptFinal %s", name), hex, p11->C_EncryptFinal(session, out, &len));
    if (len <= sizeof again - total)
        memcpy(again + total, room, len), total += len;
    check("the parts make the same cipher text", total == length && memcmp(again, hidden_text, length) == 0);
    PLAIN(text("C_EncryptFinal %s again", name), (len = sizeof room, p11->C_EncryptFinal(session, room, &len)));
    PLAIN(text("C_DecryptInit %s parts", name), p11->C_DecryptInit(session, &mech, decrypting));
    for (size_t i = total = at = 0; i < COUNT(steps); i++) {
        CK_ULONG step = steps[i] ? steps[i] : length - at;
        INTO(sizeof room - 64, text("C_DecryptUpdate %s %lu bytes", name, step), hex, p11->C_DecryptUpdate(session, hidden_text + at, step, out, &len));
        at += step;
        if (len <= sizeof again - total)
            memcpy(again + total, room, len), total += len;
    }
    INTO(sizeof room - 64, text("C_DecryptFinal %s", name), hex, p11->C_DecryptFinal(session, out, &len));
    if (len <= sizeof again - total)
        memcpy(again + total, room, len), total += len;
    check("the parts make the same plain text", total == n && memcmp(again, DATA, n) == 0);
}

static void section_encrypt(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = aes_key(session, 16), key256 = aes_key(session, 32), private = rsa_private(session), public = rsa_public(session);
    CK_AES_CTR_PARAMS ctr = { .ulCounterBits = 128 };
    memcpy(ctr.cb, IV, 16);
    encrypt_and_decrypt("AES_ECB", session, *BARE(CKM_AES_ECB), key, key, 64, 1, hex);
    encrypt_and_decrypt("AES_CBC", session, *mechanism(CKM_AES_CBC, IV, 16), key, key, 512, 1, hex);
    encrypt_and_decrypt("AES_CBC_PAD", session, *mechanism(CKM_AES_CBC_PAD, IV, 16), key256, key256, 100, 1, hex);
    encrypt_and_decrypt("AES_CTR", session, *mechanism(CKM_AES_CTR, &ctr, sizeof ctr), key, key, 100, 1, hex);
    CK_RSA_PKCS_OAEP_PARAMS oaep = { CKM_SHA_1, CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, NULL, 0 };
    encrypt_and_decrypt("RSA_PKCS", session, *BARE(CKM_RSA_PKCS), public, private, 50, 0, hidden);
    encrypt_and_decrypt("RSA_PKCS_OAEP", session, *mechanism(CKM_RSA_PKCS_OAEP, &oaep, sizeof oaep), public, private, 50, 0, hidden);

    PLAIN("C_Encrypt without an operation", (len = sizeof room, p11->C_Encrypt(session, DATA, 16, room, &len)));
    PLAIN("C_EncryptUpdate without an operation", (len = sizeof room, p11->C_EncryptUpdate(session, DATA, 16, room, &len)));
    PLAIN("C_EncryptFinal without an operation", (len = sizeof room, p11->C_EncryptFinal(session, room, &len)));
    PLAIN("C_Decrypt without an operation", (len = sizeof room, p11->C_Decrypt(session, DATA, 16, room, &len)));
    PLAIN("C_EncryptInit CBC without an IV", p11->C_EncryptInit(session, BARE(CKM_AES_CBC), key));
    PLAIN("C_EncryptInit CBC with a short IV", p11->C_EncryptInit(session, mechanism(CKM_AES_CBC, IV, 8), key));
    PLAIN("C_EncryptInit bad key", p11->C_EncryptInit(session, mechanism(CKM_AES_CBC, IV, 16), 4711));
    PLAIN("C_EncryptInit mechanism of another kind", p11->C_EncryptInit(session, BARE(CKM_SHA256), key));
    PLAIN("C_EncryptInit CBC", p11->C_EncryptInit(session, mechanism(CKM_AES_CBC, IV, 16), key));
    PLAIN("C_EncryptInit CBC again", p11->C_EncryptInit(session, mechanism(CKM_AES_CBC, IV, 16), key));
    PLAIN("C_Encrypt CBC of 15 bytes", (len = sizeof room, p11->C_Encrypt(session, DATA, 15, room, &len)));
    PLAIN("C_EncryptInit CBC_PAD", p11->C_EncryptInit(session, mechanism(CKM_AES_CBC_PAD, IV, 16), key));
    INTO(64, "C_Encrypt CBC_PAD of nothing", hex, p11->C_Encrypt(session, DATA, 0, out, &len));
    PLAIN("C_DecryptInit CBC_PAD", p11->C_DecryptInit(session, mechanism(CKM_AES_CBC_PAD, IV, 16), key));
    PLAIN("C_Decrypt CBC_PAD of rubbish", (len = sizeof room, p11->C_Decrypt(session, DATA, 32, room, &len)));
    PLAIN("C_DecryptInit CBC_PAD", p11->C_DecryptInit(session, mechanism(CKM_AES_CBC_PAD, IV, 16), key));
    PLAIN("C_Decrypt CBC_PAD of 15 bytes", (len = sizeof room, p11->C_Decrypt(session, DATA, 15, room, &len)));
    /* Size query, one byte, enough, of each step: the result of each arrives once. */
    PLAIN("C_EncryptInit CBC_PAD steps", p11->C_EncryptInit(session, mechanism(CKM_AES_CBC_PAD, IV, 16), key));
    FETCH("C_EncryptUpdate CBC_PAD 40 bytes", hex, p11->C_EncryptUpdate(session, DATA, 40, out, &len));
    FETCH("C_EncryptFinal CBC_PAD", hex, p11->C_EncryptFinal(session, out, &len));
    PLAIN("C_EncryptInit CBC_PAD 40 bytes", p11->C_EncryptInit(session, mechanism(CKM_AES_CBC_PAD, IV, 16), key));
    INTO(48, "C_Encrypt CBC_PAD 40 bytes", hex, p11->C_Encrypt(session, DATA, 40, out, &len));
    CK_BYTE cipher[48];
    memcpy(cipher, room, 48);
    PLAIN("C_DecryptInit CBC_PAD steps", p11->C_DecryptInit(session, mechanism(CKM_AES_CBC_PAD, IV, 16), key));
    FETCH("C_DecryptUpdate CBC_PAD 48 bytes", hex, p11->C_DecryptUpdate(session, cipher, 48, out, &len));
    FETCH("C_DecryptFinal CBC_PAD", hex, p11->C_DecryptFinal(session, out, &len));
    PLAIN("C_EncryptInit CBC_PAD", p11->C_EncryptInit(session, mechanism(CKM_AES_CBC_PAD, IV, 16), key));
    INTO(64, "C_Encrypt CBC_PAD of NULL", hex, p11->C_Encrypt(session, NULL, 0, out, &len));
    stop();
}

/* Payloads around the sizes where buffers end: one call each way. */
static void section_sizes(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = open_session(RW);
    CK_OBJECT_HANDLE key = aes_key(session, 16);
    CK_ULONG sizes[] = { 1, 2, 3, 4, 5, 3980, 4000, 4096, 8192, 8800, 9000, 16368, 16384, 16400, 65536, 262144 };
    for (size_t i = 0; i < COUNT(sizes); i++) {
        CK_BYTE *plain = malloc(sizes[i]), *cipher = malloc(sizes[i] + 64), *back = malloc(sizes[i] + 64);
        CK_AES_CTR_PARAMS ctr = { .ulCounterBits = 128 };
        for (CK_ULONG k = 0; k < sizes[i]; k++)
            plain[k] = (CK_BYTE)(k * 7 + k / 251);
        CK_MECHANISM *mech = mechanism(CKM_AES_CTR, &ctr, sizeof ctr);
        CK_ULONG n = sizes[i] + 64, m = sizes[i] + 64;
        p11->C_EncryptInit(session, mech, key);
        CK_RV rv = p11->C_Encrypt(session, plain, sizes[i], cipher, &n);
        show(text("C_Encrypt AES_CTR %lu", sizes[i]), rv, WHEN(rv, "len=%lu %s", n, hex(cipher, n)));
        p11->C_DecryptInit(session, mech, key);
        PLAIN(text("C_Decrypt AES_CTR %lu", sizes[i]), p11->C_Decrypt(session, cipher, n, back, &m));
        check("same plain text", m == sizes[i] && memcmp(back, plain, m) == 0);
        p11->C_DigestInit(session, BARE(CKM_SHA256));
        INTO(32, text("C_Digest SHA256 %lu", sizes[i]), hex, p11->C_Digest(session, plain, sizes[i], out, &len));
        free(plain), free(cipher), free(back);
    }
    stop();
}

/* Single calls of 100 MiB, and what follows them. */
static void section_longdata(void)
{
    CK_ULONG n = 100 << 20, m = n;
    CK_BYTE *data = malloc(n), *cipher = malloc(n);
    CK_AES_CTR_PARAMS ctr = { .ulCounterBits = 128 };
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = aes_key(session, 16), mac = hmac_key(session);
    for (CK_ULONG i = 0; i < n; i++)
        data[i] = (CK_BYTE)(i * 7 + i / 251);
    PLAIN("C_DigestInit", p11->C_DigestInit(session, BARE(CKM_SHA256)));
    INTO(32, "C_Digest 100 MiB", hex, p11->C_Digest(session, data, n, out, &len));
    session_info("after it", session);
    PLAIN("C_DigestInit after it", p11->C_DigestInit(session, BARE(CKM_SHA256)));
    INTO(32, "C_Digest 1000 bytes", hex, p11->C_Digest(session, data, 1000, out, &len));
    PLAIN("C_SignInit", p11->C_SignInit(session, BARE(CKM_SHA256_HMAC), mac));
    PLAIN("C_SignUpdate 100 MiB", p11->C_SignUpdate(session, data, n));
    INTO(32, "C_SignFinal 100 MiB", hex, p11->C_SignFinal(session, out, &len));
    PLAIN("C_EncryptInit", p11->C_EncryptInit(session, mechanism(CKM_AES_CTR, &ctr, sizeof ctr), key));
    CK_RV rv = p11->C_Encrypt(session, data, n, cipher, &m);
    show("C_Encrypt 100 MiB", rv, WHEN(rv, "len=%lu %s", m, hex(cipher, m)));
    memset(cipher, 0, n);
    PLAIN("C_GenerateRandom 100 MiB", p11->C_GenerateRandom(session, cipher, n));
    check("the end is filled too", memcmp(cipher + n - 16, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16) != 0);
    session_info("after all", session);
    free(data), free(cipher);
    stop();
}

static void section_digest(void)
{
    static const struct { const char *name; CK_MECHANISM_TYPE type; } digests[] = {
        { "MD5", CKM_MD5 }, { "SHA_1", CKM_SHA_1 }, { "SHA256", CKM_SHA256 }, { "SHA384", CKM_SHA384 }, { "SHA512", CKM_SHA512 },
    };
    if (!start())
        return;
    CK_SESSION_HANDLE session = open_session(RW);
    CK_OBJECT_HANDLE key = hmac_key(session);
    for (size_t i = 0; i < COUNT(digests); i++) {
        PLAIN(text("C_DigestInit %s", digests[i].name), p11->C_DigestInit(session, BARE(digests[i].type)));
        FETCH(text("C_Digest %s", digests[i].name), hex, p11->C_Digest(session, DATA, 1000, out, &len));
        PLAIN(text("C_DigestInit %s parts", digests[i].name), p11->C_DigestInit(session, BARE(digests[i].type)));
        PLAIN("C_DigestUpdate", p11->C_DigestUpdate(session, DATA, 1));
        PLAIN("C_DigestUpdate", p11->C_DigestUpdate(session, DATA + 1, 999));
        FETCH(text("C_DigestFinal %s", digests[i].name), hex, p11->C_DigestFinal(session, out, &len));
    }
    PLAIN("C_DigestFinal after the last", (len = sizeof room, p11->C_DigestFinal(session, room, &len)));
    PLAIN("C_Digest without an operation", (len = sizeof room, p11->C_Digest(session, DATA, 10, room, &len)));
    PLAIN("C_DigestUpdate without an operation", p11->C_DigestUpdate(session, DATA, 10));
    PLAIN("C_DigestKey without an operation", p11->C_DigestKey(session, key));
    PLAIN("C_DigestInit unknown mechanism", p11->C_DigestInit(session, BARE(0x80001234)));
    PLAIN("C_DigestInit bad session", p11->C_DigestInit(4711, BARE(CKM_SHA256)));
    PLAIN("C_DigestInit key", p11->C_DigestInit(session, BARE(CKM_SHA256)));
    PLAIN("C_DigestInit again", p11->C_DigestInit(session, BARE(CKM_SHA256)));
    PLAIN("C_DigestUpdate", p11->C_DigestUpdate(session, DATA, 3));
    PLAIN("C_DigestKey", p11->C_DigestKey(session, key));
    PLAIN("C_DigestUpdate nothing", p11->C_DigestUpdate(session, DATA, 0));
    PLAIN("C_DigestUpdate NULL", p11->C_DigestUpdate(session, NULL, 0));
    INTO(32, "C_DigestFinal with the key", hex, p11->C_DigestFinal(session, out, &len));
    PLAIN("C_DigestInit bad key", p11->C_DigestInit(session, BARE(CKM_SHA256)));
    PLAIN("C_DigestKey bad key", p11->C_DigestKey(session, 4711));
    INTO(32, "C_Digest of nothing", hex, p11->C_Digest(session, DATA, 0, out, &len));
    PLAIN("C_DigestInit short", p11->C_DigestInit(session, BARE(CKM_SHA256)));
    INTO(31, "C_Digest", hex, p11->C_Digest(session, DATA, 10, out, &len));
    INTO(32, "C_Digest", hex, p11->C_Digest(session, DATA, 10, out, &len));
    INTO(32, "C_Digest", hex, p11->C_Digest(session, DATA, 10, out, &len));
    PLAIN("C_DigestInit in two sessions", p11->C_DigestInit(session, BARE(CKM_SHA256)));
    CK_SESSION_HANDLE other = open_session(RO);
    PLAIN("C_DigestInit in two sessions", p11->C_DigestInit(other, BARE(CKM_SHA256)));
    PLAIN("C_DigestUpdate here", p11->C_DigestUpdate(session, (CK_BYTE *)"here", 4));
    PLAIN("C_DigestUpdate there", p11->C_DigestUpdate(other, (CK_BYTE *)"there", 5));
    FETCH("C_DigestFinal here", hex, p11->C_DigestFinal(session, out, &len));
    FETCH("C_DigestFinal there", hex, p11->C_DigestFinal(other, out, &len));
    PLAIN("C_DigestInit", p11->C_DigestInit(session, BARE(CKM_SHA256)));
    INTO(32, "C_Digest of NULL", hex, p11->C_Digest(session, NULL, 0, out, &len));
    stop();
}

/* Results asked for and not fetched (what the original's cache gets wrong). */
static void section_pending(void)
{
    if (!start())
        return;
    CK_BYTE input[4] = { 'a', 'b', 'c', 'd' };
    CK_SESSION_HANDLE session = open_session(RW);
    PLAIN("C_DigestInit", p11->C_DigestInit(session, BARE(CKM_SHA256)));
    PLAIN("C_DigestUpdate a", p11->C_DigestUpdate(session, (CK_BYTE *)"a", 1));
    len = 0, PLAIN("C_DigestFinal size only", p11->C_DigestFinal(session, NULL, &len));
    PLAIN("C_DigestInit while one is pending", p11->C_DigestInit(session, BARE(CKM_SHA256)));
    INTO(32, "C_DigestFinal a", hex, p11->C_DigestFinal(session, out, &len));

    PLAIN("C_DigestInit", p11->C_DigestInit(session, BARE(CKM_SHA256)));
    len = 0, PLAIN("C_Digest abcd size only", p11->C_Digest(session, input, 4, NULL, &len));
    input[0] = 'x';
    out = arm(32);
    CK_RV rv = p11->C_Digest(session, input, 4, out, &len);
    check("C_Digest after the input changed never gives the first one's digest",
          rv != CKR_OK || memcmp(room, "\x88\xd4\x26\x6f\xd4\xe6\x33\x8d", 8) != 0);
    p11->C_CloseSession(session);

    session = open_session(RW);
    PLAIN("C_DigestInit", p11->C_DigestInit(session, BARE(CKM_SHA256)));
    len = 0, PLAIN("C_Digest size only", p11->C_Digest(session, DATA, 4, NULL, &len));
    PLAIN("C_CloseSession with one pending", p11->C_CloseSession(session));
    PLAIN("C_Digest in the closed session", (len = sizeof room, p11->C_Digest(session, DATA, 4, room, &len)));

    session = open_session(RW);
    CK_OBJECT_HANDLE mac = hmac_key(session);
    PLAIN("C_SignInit", p11->C_SignInit(session, BARE(CKM_SHA256_HMAC), mac));
    len = 0, PLAIN("C_Sign size only", p11->C_Sign(session, DATA, 4, NULL, &len));
    PLAIN("C_CloseAllSessions with one pending", p11->C_CloseAllSessions(s0));
    PLAIN("C_Sign in the closed session", (len = sizeof room, p11->C_Sign(session, DATA, 4, room, &len)));

    session = open_session(RW);
    PLAIN("C_DigestInit", p11->C_DigestInit(session, BARE(CKM_SHA256)));
    len = 0, PLAIN("C_Digest size only", p11->C_Digest(session, DATA, 4, NULL, &len));
    stop();
    if (!start())
        return;
    session = open_session(RW);
    PLAIN("C_DigestInit after C_Finalize with one pending", p11->C_DigestInit(session, BARE(CKM_SHA256)));
    INTO(32, "C_Digest", hex, p11->C_Digest(session, DATA + 1, 5, out, &len));
    p11->C_CloseSession(session);

    CK_SESSION_HANDLE three[3];
    for (int i = 0; i < 3; i++) {
        three[i] = open_session(RO);
        PLAIN(text("C_DigestInit session %d", i), p11->C_DigestInit(three[i], BARE(CKM_SHA256)));
        len = 0, PLAIN(text("C_Digest session %d size only", i), p11->C_Digest(three[i], DATA, 10 + (CK_ULONG)i, NULL, &len));
    }
    for (int i = 0; i < 3; i++)
        INTO(32, text("C_Digest session %d", i), hex, p11->C_Digest(three[i], DATA, 10 + (CK_ULONG)i, out, &len));
    stop();
}

/* Not tried without bytes: what RSA makes of any others depends on OpenSSL, since 3.2 a random key. */
static void unwrap(const char *name, CK_SESSION_HANDLE session, CK_MECHANISM *mech, CK_OBJECT_HANDLE with, CK_BYTE *wrapped, CK_ULONG length)
{
    if (length == 0) {
        printf("C_UnwrapKey %s -> nothing to unwrap\n", name);
        printf("C_GetAttributeValue of the unwrapped key, %s -> nothing to unwrap\n", name);
        return;
    }
    CK_ATTRIBUTE template[] = { NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), BOOL(CKA_TOKEN, 0), BOOL(CKA_SENSITIVE, 0),
        BOOL(CKA_EXTRACTABLE, 1), BOOL(CKA_ENCRYPT, 1) };
    CK_OBJECT_HANDLE key = 0;
    CK_BYTE value[64];
    CK_ATTRIBUTE read[] = { { CKA_VALUE, value, sizeof value } };
    PLAIN(text("C_UnwrapKey %s", name), p11->C_UnwrapKey(session, mech, with, wrapped, length, template, COUNT(template), &key));
    attributes(text("of the unwrapped key, %s", name), session, key, read, 1);
}

/* Wrapping mechanisms without a parameter: the original hands the module a pointer to no bytes. */
static void section_wrapbare(void)
{
    CK_BYTE wrapped[512];
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE with = aes_key(session, 32), key = aes_key(session, 16), public = rsa_public(session), private = rsa_private(session);
    FETCH("C_WrapKey AES_KEY_WRAP", hex, p11->C_WrapKey(session, BARE(CKM_AES_KEY_WRAP), with, key, out, &len));
    memcpy(wrapped, room, 512);
    CK_ULONG length = len;
    unwrap("AES_KEY_WRAP", session, BARE(CKM_AES_KEY_WRAP), with, wrapped, length < 512 ? length : 0);
    wrapped[0] ^= 1;
    unwrap("AES_KEY_WRAP damaged", session, BARE(CKM_AES_KEY_WRAP), with, wrapped, length < 512 ? length : 0);
    FETCH("C_WrapKey RSA_PKCS", hidden, p11->C_WrapKey(session, BARE(CKM_RSA_PKCS), public, key, out, &len));
    memcpy(wrapped, room, 512);
    unwrap("RSA_PKCS", session, BARE(CKM_RSA_PKCS), private, wrapped, len < 512 ? len : 0);
    /* A size for one key, then a fetch of another: the second one's bytes. */
    CK_OBJECT_HANDLE other = hmac_key(session);
    len = 0, PLAIN("C_WrapKey AES_KEY_WRAP size only", p11->C_WrapKey(session, BARE(CKM_AES_KEY_WRAP), with, key, NULL, &len));
    INTO(96, "C_WrapKey AES_KEY_WRAP another key", hex, p11->C_WrapKey(session, BARE(CKM_AES_KEY_WRAP), with, other, out, &len));
    stop();
}

static void section_wrap(void)
{
    CK_BYTE wrapped[512];
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE with = aes_key(session, 32), key = aes_key(session, 16), public = rsa_public(session), private = rsa_private(session);
    CK_RSA_PKCS_OAEP_PARAMS oaep = { CKM_SHA_1, CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, NULL, 0 };
    FETCH("C_WrapKey RSA_PKCS_OAEP", hidden, p11->C_WrapKey(session, mechanism(CKM_RSA_PKCS_OAEP, &oaep, sizeof oaep), public, key, out, &len));
    memcpy(wrapped, room, 512);
    unwrap("RSA_PKCS_OAEP", session, mechanism(CKM_RSA_PKCS_OAEP, &oaep, sizeof oaep), private, wrapped, len < 512 ? len : 128);
    len = sizeof room, PLAIN("C_WrapKey unknown mechanism", p11->C_WrapKey(session, BARE(0x80001234), with, key, room, &len));
    len = sizeof room, PLAIN("C_WrapKey bad wrapping key", p11->C_WrapKey(session, BARE(CKM_AES_KEY_WRAP), 4711, key, room, &len));
    len = sizeof room, PLAIN("C_WrapKey bad key", p11->C_WrapKey(session, mechanism(CKM_RSA_PKCS_OAEP, &oaep, sizeof oaep), public, 4711, room, &len));
    CK_ATTRIBUTE stuck[] = { NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), VALUE(CKA_VALUE, KEY32, 16), BOOL(CKA_TOKEN, 0), BOOL(CKA_EXTRACTABLE, 0) };
    CK_OBJECT_HANDLE fixed = create(session, "AES key not extractable", stuck, COUNT(stuck));
    len = sizeof room, PLAIN("C_WrapKey not extractable", p11->C_WrapKey(session, mechanism(CKM_RSA_PKCS_OAEP, &oaep, sizeof oaep), public, fixed, room, &len));
    len = sizeof room, PLAIN("C_WrapKey bad session", p11->C_WrapKey(4711, mechanism(CKM_RSA_PKCS_OAEP, &oaep, sizeof oaep), public, key, room, &len));
    unwrap("RSA_PKCS_OAEP of rubbish", session, mechanism(CKM_RSA_PKCS_OAEP, &oaep, sizeof oaep), private, DATA, 128);
    CK_ATTRIBUTE none[] = { BOOL(CKA_TOKEN, 0) };
    CK_OBJECT_HANDLE object;
    PLAIN("C_UnwrapKey template without a class", p11->C_UnwrapKey(session, mechanism(CKM_RSA_PKCS_OAEP, &oaep, sizeof oaep), private, wrapped, 128, none, 1, &object));
    stop();
}

static void section_derive(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE public[2] = { 0 }, private[2] = { 0 }, secret[2] = { 0 };
    CK_BYTE values[2][128], made[2][64];
    CK_ULONG lengths[2] = { 0 };
    for (int i = 0; i < 2; i++) {
        CK_ATTRIBUTE for_public[] = { BYTES(CKA_PRIME, PRIME), BYTES(CKA_BASE, BASE), BOOL(CKA_TOKEN, 0), BOOL(CKA_PRIVATE, 0) };
        CK_ATTRIBUTE for_private[] = { BOOL(CKA_TOKEN, 0), BOOL(CKA_DERIVE, 1), BOOL(CKA_SENSITIVE, 1) };
        PLAIN("C_GenerateKeyPair DH", p11->C_GenerateKeyPair(session, BARE(CKM_DH_PKCS_KEY_PAIR_GEN), for_public, COUNT(for_public),
              for_private, COUNT(for_private), &public[i], &private[i]));
        CK_ATTRIBUTE value = { CKA_VALUE, values[i], sizeof values[i] };
        PLAIN("C_GetAttributeValue of the public value", p11->C_GetAttributeValue(session, public[i], &value, 1));
        lengths[i] = value.ulValueLen <= 128 ? value.ulValueLen : 0;
    }
    CK_ATTRIBUTE template[] = { NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_GENERIC_SECRET), NUMBER(CKA_VALUE_LEN, 32),
        BOOL(CKA_TOKEN, 0), BOOL(CKA_SENSITIVE, 0), BOOL(CKA_EXTRACTABLE, 1) };
    for (int i = 0; i < 2; i++) {
        PLAIN("C_DeriveKey DH", p11->C_DeriveKey(session, mechanism(CKM_DH_PKCS_DERIVE, values[1 - i], lengths[1 - i]), private[i], template, COUNT(template), &secret[i]));
        CK_ATTRIBUTE value = { CKA_VALUE, made[i], sizeof made[i] };
        CK_RV rv = p11->C_GetAttributeValue(session, secret[i], &value, 1);
        show("C_GetAttributeValue of the secret", rv, WHEN(rv, "len=%lu", value.ulValueLen));
    }
    check("both sides derive the same", memcmp(made[0], made[1], 32) == 0);
    PLAIN("C_DeriveKey DH bad key", p11->C_DeriveKey(session, mechanism(CKM_DH_PKCS_DERIVE, values[0], lengths[0]), 4711, template, COUNT(template), &secret[0]));
    PLAIN("C_DeriveKey unknown mechanism", p11->C_DeriveKey(session, BARE(0x80001234), private[0], template, COUNT(template), &secret[0]));
    stop();
}

/* Mechanism parameters that hold pointers: useless on another machine. The original's worker crashes. */
static void section_pointers(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = aes_key(session, 16), public = rsa_public(session), ec_public = 0, ec_private = 0, secret = 0;
    CK_GCM_PARAMS gcm = { IV, 12, 96, NULL, 0, 128 };
    PLAIN("C_EncryptInit AES_GCM", p11->C_EncryptInit(session, mechanism(CKM_AES_GCM, &gcm, sizeof gcm), key));
    p11->C_CloseSession(session), session = logged_in();
    key = aes_key(session, 16), public = rsa_public(session);
    CK_RSA_PKCS_OAEP_PARAMS oaep = { CKM_SHA_1, CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, "label", 5 };
    PLAIN("C_EncryptInit RSA_PKCS_OAEP with a label", p11->C_EncryptInit(session, mechanism(CKM_RSA_PKCS_OAEP, &oaep, sizeof oaep), public));
    ec_pair(session, &ec_public, &ec_private);
    CK_BYTE point[128];
    CK_ATTRIBUTE read = { CKA_EC_POINT, point, sizeof point };
    PLAIN("C_GetAttributeValue of the point", p11->C_GetAttributeValue(session, ec_public, &read, 1));
    CK_ECDH1_DERIVE_PARAMS ecdh = { CKD_NULL, 0, NULL, read.ulValueLen, point };
    CK_ATTRIBUTE template[] = { NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_GENERIC_SECRET), NUMBER(CKA_VALUE_LEN, 32), BOOL(CKA_TOKEN, 0) };
    PLAIN("C_DeriveKey ECDH1", p11->C_DeriveKey(session, mechanism(CKM_ECDH1_DERIVE, &ecdh, sizeof ecdh), ec_private, template, COUNT(template), &secret));
    session_info("the session goes on", session);
    stop();
}

static void section_random(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = open_session(RO);
    CK_BYTE a[4096], b[4096];
    CK_ULONG sizes[] = { 1, 5, 32, 4000 };
    for (size_t i = 0; i < COUNT(sizes); i++) {
        memset(a, 0xa5, sizeof a), memset(b, 0xa5, sizeof b);
        PLAIN(text("C_GenerateRandom %lu", sizes[i]), p11->C_GenerateRandom(session, a, sizes[i]));
        PLAIN(text("C_GenerateRandom %lu", sizes[i]), p11->C_GenerateRandom(session, b, sizes[i]));
        check("nothing after the end", a[sizes[i]] == 0xa5 && a[4095] == 0xa5);
        check("two values differ", sizes[i] < 8 || memcmp(a, b, sizes[i]) != 0);
        check("the end is filled too", sizes[i] < 8 || memcmp(a + sizes[i] - 4, "\xa5\xa5\xa5\xa5", 4) != 0);
    }
    PLAIN("C_GenerateRandom 0", p11->C_GenerateRandom(session, a, 0));
    PLAIN("C_GenerateRandom bad session", p11->C_GenerateRandom(4711, a, 4));
    PLAIN("C_SeedRandom", p11->C_SeedRandom(session, DATA, 20));
    PLAIN("C_SeedRandom nothing", p11->C_SeedRandom(session, DATA, 0));
    PLAIN("C_SeedRandom bad session", p11->C_SeedRandom(4711, DATA, 20));
    stop();
}

/* Functions few modules have: dual operations, operation state, status, slot events. */
static void section_rare(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = aes_key(session, 16), mac = hmac_key(session);
    CK_SLOT_ID id = 4711;
    PLAIN("C_DigestInit", p11->C_DigestInit(session, BARE(CKM_SHA256)));
    PLAIN("C_EncryptInit beside it", p11->C_EncryptInit(session, mechanism(CKM_AES_CBC, IV, 16), key));
    PLAIN("C_SignInit beside them", p11->C_SignInit(session, BARE(CKM_SHA256_HMAC), mac));
    len = sizeof room, PLAIN("C_DigestEncryptUpdate", p11->C_DigestEncryptUpdate(session, DATA, 16, room, &len));
    len = sizeof room, PLAIN("C_SignEncryptUpdate", p11->C_SignEncryptUpdate(session, DATA, 16, room, &len));
    len = sizeof room, PLAIN("C_DecryptDigestUpdate", p11->C_DecryptDigestUpdate(session, DATA, 16, room, &len));
    len = sizeof room, PLAIN("C_DecryptVerifyUpdate", p11->C_DecryptVerifyUpdate(session, DATA, 16, room, &len));
    len = 0, PLAIN("C_GetOperationState size only", p11->C_GetOperationState(session, NULL, &len));
    len = sizeof room, PLAIN("C_GetOperationState", p11->C_GetOperationState(session, room, &len));
    PLAIN("C_SetOperationState", p11->C_SetOperationState(session, DATA, 64, 0, 0));
    PLAIN("C_GetOperationState bad session", (len = sizeof room, p11->C_GetOperationState(4711, room, &len)));
    PLAIN("C_GetFunctionStatus", p11->C_GetFunctionStatus(session));
    PLAIN("C_CancelFunction", p11->C_CancelFunction(session));
    PLAIN("C_GetFunctionStatus bad session", p11->C_GetFunctionStatus(4711));
    PLAIN("C_CancelFunction bad session", p11->C_CancelFunction(4711));
    PLAIN("C_WaitForSlotEvent not blocking", p11->C_WaitForSlotEvent(CKF_DONT_BLOCK, &id, NULL));
    PLAIN("C_WaitForSlotEvent reserved", p11->C_WaitForSlotEvent(CKF_DONT_BLOCK, &id, room));
    len = sizeof room, PLAIN("C_SignRecover", p11->C_SignRecover(session, DATA, 16, room, &len));
    len = sizeof room, PLAIN("C_VerifyRecover", p11->C_VerifyRecover(session, DATA, 16, room, &len));
    INTO(32, "C_Digest", hex, p11->C_Digest(session, DATA, 16, out, &len));
    INTO(16, "C_Encrypt", hex, p11->C_Encrypt(session, DATA, 16, out, &len));
    stop();
}

/* NULL where a pointer is needed, as far as the original survives it. */
static void section_arguments(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_ATTRIBUTE t[] = { NUMBER(CKA_CLASS, CKO_DATA) };
    CK_OBJECT_HANDLE key = aes_key(session, 16), mac = hmac_key(session), object;
    CK_ULONG n = 1;
    PLAIN("C_GetFunctionList NULL", p11->C_GetFunctionList(NULL));
    PLAIN("C_GetInfo NULL", p11->C_GetInfo(NULL));
    PLAIN("C_GetSlotList count NULL", p11->C_GetSlotList(CK_FALSE, NULL, NULL));
    PLAIN("C_GetSlotInfo NULL", p11->C_GetSlotInfo(s0, NULL));
    PLAIN("C_GetTokenInfo NULL", p11->C_GetTokenInfo(s0, NULL));
    PLAIN("C_GetMechanismList count NULL", p11->C_GetMechanismList(s0, NULL, NULL));
    PLAIN("C_GetMechanismInfo NULL", p11->C_GetMechanismInfo(s0, CKM_RSA_PKCS, NULL));
    PLAIN("C_OpenSession NULL", p11->C_OpenSession(s0, RW, NULL, NULL, NULL));
    PLAIN("C_GetSessionInfo NULL", p11->C_GetSessionInfo(session, NULL));
    PLAIN("C_GetOperationState length NULL", p11->C_GetOperationState(session, room, NULL));
    PLAIN("C_GetAttributeValue NULL count=1", p11->C_GetAttributeValue(session, key, NULL, 1));
    PLAIN("C_SetAttributeValue NULL count=1", p11->C_SetAttributeValue(session, key, NULL, 1));
    PLAIN("C_FindObjectsInit NULL count=1", p11->C_FindObjectsInit(session, NULL, 1));
    PLAIN("C_FindObjectsInit", p11->C_FindObjectsInit(session, t, 1));
    PLAIN("C_FindObjects objects NULL", p11->C_FindObjects(session, NULL, 1, &n));
    PLAIN("C_FindObjects count NULL", p11->C_FindObjects(session, &object, 1, NULL));
    PLAIN("C_FindObjectsFinal", p11->C_FindObjectsFinal(session));
    PLAIN("C_EncryptInit", p11->C_EncryptInit(session, BARE(CKM_AES_ECB), key));
    PLAIN("C_Encrypt length NULL", p11->C_Encrypt(session, DATA, 16, room, NULL));
    session = renewed(session, NULL, &mac), key = aes_key(session, 16);
    PLAIN("C_EncryptInit", p11->C_EncryptInit(session, BARE(CKM_AES_ECB), key));
    PLAIN("C_EncryptUpdate length NULL", p11->C_EncryptUpdate(session, DATA, 16, room, NULL));
    session = renewed(session, NULL, &mac), key = aes_key(session, 16);
    PLAIN("C_EncryptInit", p11->C_EncryptInit(session, BARE(CKM_AES_ECB), key));
    PLAIN("C_EncryptFinal length NULL", p11->C_EncryptFinal(session, room, NULL));
    session = renewed(session, NULL, &mac), key = aes_key(session, 16);
    PLAIN("C_DecryptInit", p11->C_DecryptInit(session, BARE(CKM_AES_ECB), key));
    PLAIN("C_Decrypt length NULL", p11->C_Decrypt(session, DATA, 16, room, NULL));
    session = renewed(session, NULL, &mac);
    PLAIN("C_DigestInit", p11->C_DigestInit(session, BARE(CKM_SHA256)));
    PLAIN("C_Digest length NULL", p11->C_Digest(session, DATA, 16, room, NULL));
    session = renewed(session, NULL, &mac), key = aes_key(session, 16);
    PLAIN("C_SignInit", p11->C_SignInit(session, BARE(CKM_SHA256_HMAC), mac));
    PLAIN("C_Sign length NULL", p11->C_Sign(session, DATA, 16, room, NULL));
    PLAIN("C_WrapKey length NULL", p11->C_WrapKey(session, BARE(CKM_AES_KEY_WRAP), key, key, room, NULL));
    PLAIN("C_GenerateRandom NULL", p11->C_GenerateRandom(session, NULL, 16));
    stop();
}

/* The rest: each of these crashes the original in the application. */
static void section_nulls(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_ATTRIBUTE t[] = { NUMBER(CKA_CLASS, CKO_DATA) };
    CK_ATTRIBUTE aes[] = { NUMBER(CKA_VALUE_LEN, 16), BOOL(CKA_TOKEN, 0) };
    CK_OBJECT_HANDLE key = aes_key(session, 16), mac = hmac_key(session), object;
    PLAIN("C_InitToken label NULL", p11->C_InitToken(s1, PIN(SO_PIN), NULL));
    PLAIN("C_Login PIN NULL length=4", p11->C_Login(session, CKU_USER, NULL, 4));
    PLAIN("C_SetOperationState NULL length=4", p11->C_SetOperationState(session, NULL, 4, 0, 0));
    PLAIN("C_CreateObject NULL count=1", p11->C_CreateObject(session, NULL, 1, &object));
    PLAIN("C_CreateObject handle NULL", p11->C_CreateObject(session, t, 1, NULL));
    PLAIN("C_CopyObject NULL count=1", p11->C_CopyObject(session, key, NULL, 1, &object));
    PLAIN("C_CopyObject handle NULL", p11->C_CopyObject(session, key, NULL, 0, NULL));
    PLAIN("C_GetObjectSize NULL", p11->C_GetObjectSize(session, key, NULL));
    PLAIN("C_EncryptInit NULL", p11->C_EncryptInit(session, NULL, key));
    PLAIN("C_DecryptInit NULL", p11->C_DecryptInit(session, NULL, key));
    PLAIN("C_DigestInit NULL", p11->C_DigestInit(session, NULL));
    PLAIN("C_SignInit NULL", p11->C_SignInit(session, NULL, mac));
    PLAIN("C_VerifyInit NULL", p11->C_VerifyInit(session, NULL, mac));
    PLAIN("C_SignRecoverInit NULL", p11->C_SignRecoverInit(session, NULL, mac));
    PLAIN("C_VerifyRecoverInit NULL", p11->C_VerifyRecoverInit(session, NULL, mac));
    PLAIN("C_DigestInit parameter NULL length=4", p11->C_DigestInit(session, mechanism(CKM_SHA256, NULL, 4)));
    session = renewed(session, NULL, &mac), key = aes_key(session, 16);
    PLAIN("C_DigestInit", p11->C_DigestInit(session, BARE(CKM_SHA256)));
    PLAIN("C_DigestUpdate NULL length=4", p11->C_DigestUpdate(session, NULL, 4));
    len = 64, PLAIN("C_Digest NULL length=4", p11->C_Digest(session, NULL, 4, room, &len));
    session = renewed(session, NULL, &mac), key = aes_key(session, 16);
    PLAIN("C_SignInit", p11->C_SignInit(session, BARE(CKM_SHA256_HMAC), mac));
    PLAIN("C_SignUpdate NULL length=4", p11->C_SignUpdate(session, NULL, 4));
    session = renewed(session, NULL, &mac), key = aes_key(session, 16);
    PLAIN("C_VerifyInit", p11->C_VerifyInit(session, BARE(CKM_SHA256_HMAC), mac));
    PLAIN("C_Verify data NULL length=4", p11->C_Verify(session, NULL, 4, DATA, 32));
    session = renewed(session, NULL, &mac), key = aes_key(session, 16);
    PLAIN("C_VerifyInit", p11->C_VerifyInit(session, BARE(CKM_SHA256_HMAC), mac));
    PLAIN("C_Verify signature NULL length=32", p11->C_Verify(session, DATA, 4, NULL, 32));
    session = renewed(session, NULL, &mac), key = aes_key(session, 16);
    PLAIN("C_EncryptInit", p11->C_EncryptInit(session, BARE(CKM_AES_ECB), key));
    len = 64, PLAIN("C_Encrypt NULL length=16", p11->C_Encrypt(session, NULL, 16, room, &len));
    session = renewed(session, NULL, &mac), key = aes_key(session, 16);
    PLAIN("C_GenerateKey mechanism NULL", p11->C_GenerateKey(session, NULL, aes, 2, &object));
    PLAIN("C_GenerateKey template NULL count=1", p11->C_GenerateKey(session, BARE(CKM_AES_KEY_GEN), NULL, 1, &object));
    PLAIN("C_GenerateKey handle NULL", p11->C_GenerateKey(session, BARE(CKM_AES_KEY_GEN), aes, 2, NULL));
    PLAIN("C_GenerateKeyPair mechanism NULL", p11->C_GenerateKeyPair(session, NULL, aes, 2, aes, 2, &object, &object));
    PLAIN("C_GenerateKeyPair handles NULL", p11->C_GenerateKeyPair(session, BARE(CKM_RSA_PKCS_KEY_PAIR_GEN), aes, 2, aes, 2, NULL, NULL));
    len = 64, PLAIN("C_WrapKey mechanism NULL", p11->C_WrapKey(session, NULL, key, key, room, &len));
    PLAIN("C_UnwrapKey mechanism NULL", p11->C_UnwrapKey(session, NULL, key, DATA, 24, t, 1, &object));
    PLAIN("C_UnwrapKey wrapped NULL", p11->C_UnwrapKey(session, BARE(CKM_AES_KEY_WRAP), key, NULL, 24, t, 1, &object));
    PLAIN("C_UnwrapKey handle NULL", p11->C_UnwrapKey(session, BARE(CKM_AES_KEY_WRAP), key, DATA, 24, t, 1, NULL));
    PLAIN("C_DeriveKey mechanism NULL", p11->C_DeriveKey(session, NULL, key, t, 1, &object));
    PLAIN("C_SeedRandom NULL length=4", p11->C_SeedRandom(session, NULL, 4));
    PLAIN("C_WaitForSlotEvent slot NULL", p11->C_WaitForSlotEvent(CKF_DONT_BLOCK, NULL, NULL));
    CK_ATTRIBUTE hollow[] = { { CKA_LABEL, NULL, 4 } };
    PLAIN("C_FindObjectsInit value NULL length=4", p11->C_FindObjectsInit(session, hollow, 1));
    stop();
}

/* Lengths that no value can have, where SoftHSM answers. The original's client crashes on most of them. */
static void section_lengths(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = aes_key(session, 16), mac = hmac_key(session), object;
    CK_BYTE b[64] = "12345678";
    CK_BBOOL yes = 1;
    CK_ULONG class = CKO_DATA, lengths[] = { 0xffffffff, (CK_ULONG)-1, (CK_ULONG)1 << 40, 0x100000005 };
    for (size_t i = 0; i < COUNT(lengths); i++) {
        CK_ULONG n = lengths[i];
        printf("# length 0x%lx\n", n);
        CK_ATTRIBUTE odd_class[] = { { CKA_CLASS, &class, n } }, odd_token[] = { NUMBER(CKA_CLASS, CKO_DATA), { CKA_TOKEN, &yes, n } };
        PLAIN("C_CreateObject class", p11->C_CreateObject(session, odd_class, 1, &object));
        PLAIN("C_CreateObject token", p11->C_CreateObject(session, odd_token, 2, &object));
        CK_ATTRIBUTE odd_use[] = { NUMBER(CKA_VALUE_LEN, 16), BOOL(CKA_TOKEN, 0), { CKA_ENCRYPT, &yes, n } }, odd_size[] = { { CKA_VALUE_LEN, &class, n } };
        PLAIN("C_GenerateKey usage", p11->C_GenerateKey(session, BARE(CKM_AES_KEY_GEN), odd_use, 3, &object));
        PLAIN("C_GenerateKey size", p11->C_GenerateKey(session, BARE(CKM_AES_KEY_GEN), odd_size, 1, &object));
        CK_ATTRIBUTE nothing[] = { { CKA_LABEL, NULL, n } }, wide[] = { { CKA_LABEL, b, n } };
        PLAIN("C_SetAttributeValue label NULL", p11->C_SetAttributeValue(session, key, nothing, 1));
        CK_ULONG found = 0;
        PLAIN("C_FindObjectsInit class", p11->C_FindObjectsInit(session, odd_class, 1));
        CK_RV rv = p11->C_FindObjects(session, &object, 1, &found);
        show("C_FindObjects", rv, WHEN(rv, "count=%lu", found));
        PLAIN("C_FindObjectsFinal", p11->C_FindObjectsFinal(session));
        PLAIN("C_FindObjectsInit label", p11->C_FindObjectsInit(session, wide, 1));
        p11->C_FindObjectsFinal(session);
        attributes("label", session, key, wide, 1);
        PLAIN("C_SetPIN new", p11->C_SetPIN(session, PIN(USER_PIN), b, n));
        PLAIN("C_UnwrapKey", p11->C_UnwrapKey(session, BARE(CKM_AES_KEY_WRAP), key, b, n | 1, odd_use, 2, &object));
        /* Each failing call ends its operation. */
        PLAIN("C_EncryptInit", p11->C_EncryptInit(session, mechanism(CKM_AES_CBC, IV, 16), key));
        PLAIN("C_Encrypt", (len = sizeof room, p11->C_Encrypt(session, b, n | 1, room, &len)));
        PLAIN("C_DecryptInit", p11->C_DecryptInit(session, mechanism(CKM_AES_CBC, IV, 16), key));
        PLAIN("C_Decrypt", (len = sizeof room, p11->C_Decrypt(session, b, n | 1, room, &len)));
        PLAIN("C_VerifyInit", p11->C_VerifyInit(session, BARE(CKM_SHA256_HMAC), mac));
        PLAIN("C_Verify signature", p11->C_Verify(session, b, 8, b, n));
        PLAIN("C_VerifyInit", p11->C_VerifyInit(session, BARE(CKM_SHA256_HMAC), mac));
        PLAIN("C_VerifyUpdate", p11->C_VerifyUpdate(session, b, 8));
        PLAIN("C_VerifyFinal", p11->C_VerifyFinal(session, b, n));
        PLAIN("C_VerifyInit", p11->C_VerifyInit(session, BARE(CKM_SHA256_HMAC), mac));
        PLAIN("C_Verify", p11->C_Verify(session, b, 8, b, 32));
        PLAIN("C_DigestInit parameter", p11->C_DigestInit(session, mechanism(CKM_SHA256, IV, n)));
        len = sizeof room, p11->C_Digest(session, b, 8, room, &len);
        CK_SLOT_ID ids[64];
        CK_MECHANISM_TYPE types[512];
        len = n, rv = p11->C_GetSlotList(CK_FALSE, ids, &len), show("C_GetSlotList", rv, WHEN(rv, "count=%lu", len));
        len = n, rv = p11->C_GetMechanismList(s0, types, &len), show("C_GetMechanismList", rv, WHEN(rv, "count=%lu", len));
    }
    session_info("the session goes on", session);
    stop();
}

/* Odd arguments, legal or not, to which SoftHSM has an answer: rooms of 0, signatures of other lengths, operations
 * that go on in the wrong way, templates without attributes, values of odd shapes. */
static struct { CK_SESSION_HANDLE session; CK_OBJECT_HANDLE key, mac, public, private; } odd;

/* Nothing is under way, whatever failed before. */
static void odd_afresh(void)
{
    if (odd.session)
        p11->C_CloseSession(odd.session);
    odd.session = logged_in();
    odd.key = aes_key(odd.session, 16), odd.mac = hmac_key(odd.session);
    odd.public = rsa_public(odd.session), odd.private = rsa_private(odd.session);
}

/* With an address and room for 0 bytes, then with enough. */
#define ROOM_OF_0(call, expression) \
    do { \
        out = arm(0); \
        CK_RV rv_ = (expression); \
        show(call " room=0", rv_, WHEN(rv_, "len=%lu%s", len, touched(rv_, 0))); \
        out = arm(600); \
        rv_ = (expression); \
        show(call " room=600", rv_, WHEN(rv_, "len=%lu", len)); \
    } while (0)

static void section_odd(void)
{
    static CK_BYTE b[600] = "0123456789abcdef0123456789abcdef", eight[8] = { 1 }, two = 2, ff = 0xff;
    if (!start())
        return;
    CK_MECHANISM cbc = { CKM_AES_CBC, IV, 16 }, sha = { CKM_SHA256, NULL, 0 }, hmac = { CKM_SHA256_HMAC, NULL, 0 }, rsa = { CKM_RSA_PKCS, NULL, 0 },
        x509 = { CKM_RSA_X_509, NULL, 0 }, generate = { CKM_AES_KEY_GEN, NULL, 0 }, pair = { CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0 }, dh = { CKM_DH_PKCS_DERIVE, IV, 16 };
    CK_ULONG n = 77;
    CK_SLOT_ID ids[8];
    CK_OBJECT_HANDLE object = 0, other = 0;
    CK_RV rv = p11->C_GetSlotList(CK_FALSE, NULL, &n);
    show("C_GetSlotList NULL count=77", rv, text("count=%lu", n));
    n = 0, rv = p11->C_GetSlotList(2, NULL, &n), show("C_GetSlotList present=2", rv, text("count=%lu", n));
    n = 1, rv = p11->C_GetSlotList(CK_FALSE, ids, &n), show("C_GetSlotList one too few", rv, text("count=%lu", n));
    n = 77, rv = p11->C_GetMechanismList(s0, NULL, &n), show("C_GetMechanismList NULL count=77", rv, text("count=%lu", n));

    odd_afresh();
    p11->C_DigestInit(odd.session, &sha);
    ROOM_OF_0("C_Digest", p11->C_Digest(odd.session, b, 16, out, &len));
    p11->C_DigestInit(odd.session, &sha);
    ROOM_OF_0("C_DigestFinal", p11->C_DigestFinal(odd.session, out, &len));
    p11->C_SignInit(odd.session, &hmac, odd.mac);
    ROOM_OF_0("C_Sign", p11->C_Sign(odd.session, b, 16, out, &len));
    p11->C_SignInit(odd.session, &hmac, odd.mac);
    ROOM_OF_0("C_SignFinal", p11->C_SignFinal(odd.session, out, &len));
    p11->C_EncryptInit(odd.session, &cbc, odd.key);
    ROOM_OF_0("C_Encrypt", p11->C_Encrypt(odd.session, b, 16, out, &len));
    p11->C_EncryptInit(odd.session, &cbc, odd.key);
    ROOM_OF_0("C_Encrypt of nothing", p11->C_Encrypt(odd.session, b, 0, out, &len));
    p11->C_EncryptInit(odd.session, &cbc, odd.key);
    ROOM_OF_0("C_EncryptUpdate", p11->C_EncryptUpdate(odd.session, b, 16, out, &len));
    ROOM_OF_0("C_EncryptFinal", p11->C_EncryptFinal(odd.session, out, &len));
    p11->C_EncryptInit(odd.session, &cbc, odd.key);
    ROOM_OF_0("C_EncryptUpdate less than a block", p11->C_EncryptUpdate(odd.session, b, 7, out, &len));
    ROOM_OF_0("C_EncryptUpdate of nothing", p11->C_EncryptUpdate(odd.session, b, 0, out, &len));
    ROOM_OF_0("C_EncryptFinal within a block", p11->C_EncryptFinal(odd.session, out, &len));
    p11->C_DecryptInit(odd.session, &cbc, odd.key);
    ROOM_OF_0("C_Decrypt", p11->C_Decrypt(odd.session, b, 16, out, &len));
    p11->C_DecryptInit(odd.session, &cbc, odd.key);
    ROOM_OF_0("C_DecryptUpdate", p11->C_DecryptUpdate(odd.session, b, 16, out, &len));
    ROOM_OF_0("C_DecryptFinal", p11->C_DecryptFinal(odd.session, out, &len));
    PLAIN("C_SeedRandom NULL", p11->C_SeedRandom(odd.session, NULL, 0));
    PLAIN("C_GenerateRandom NULL", p11->C_GenerateRandom(odd.session, NULL, 0));

    CK_ULONG lengths[] = { 0, 1, 31, 33, 300 };
    for (size_t i = 0; i < COUNT(lengths); i++) {
        PLAIN("C_VerifyInit", p11->C_VerifyInit(odd.session, &hmac, odd.mac));
        PLAIN(text("C_Verify signature of %lu", lengths[i]), p11->C_Verify(odd.session, b, 16, b, lengths[i]));
        PLAIN("C_VerifyInit RSA", p11->C_VerifyInit(odd.session, &rsa, odd.public));
        PLAIN(text("C_Verify RSA signature of %lu", lengths[i]), p11->C_Verify(odd.session, b, 16, b, lengths[i]));
        PLAIN("C_VerifyInit parts", p11->C_VerifyInit(odd.session, &hmac, odd.mac));
        PLAIN(text("C_VerifyFinal signature of %lu", lengths[i]), p11->C_VerifyFinal(odd.session, b, lengths[i]));
    }
    PLAIN("C_VerifyInit", p11->C_VerifyInit(odd.session, &hmac, odd.mac));
    PLAIN("C_Verify signature NULL", p11->C_Verify(odd.session, b, 16, NULL, 0));

    odd_afresh();
    PLAIN("C_SignInit RSA", p11->C_SignInit(odd.session, &rsa, odd.private));
    PLAIN("C_SignUpdate RSA", p11->C_SignUpdate(odd.session, b, 16));
    PLAIN("C_SignInit RSA after it", p11->C_SignInit(odd.session, &rsa, odd.private));
    odd_afresh();
    PLAIN("C_SignInit RSA", p11->C_SignInit(odd.session, &rsa, odd.private));
    PLAIN("C_SignFinal RSA", (len = 600, p11->C_SignFinal(odd.session, room, &len)));
    PLAIN("C_SignInit RSA after it", p11->C_SignInit(odd.session, &rsa, odd.private));
    odd_afresh();
    PLAIN("C_EncryptInit RSA", p11->C_EncryptInit(odd.session, &rsa, odd.public));
    PLAIN("C_EncryptUpdate RSA", (len = 600, p11->C_EncryptUpdate(odd.session, b, 16, room, &len)));
    PLAIN("C_EncryptInit RSA after it", p11->C_EncryptInit(odd.session, &rsa, odd.public));
    odd_afresh();
    PLAIN("C_SignInit X.509", p11->C_SignInit(odd.session, &x509, odd.private));
    INTO(600, "C_Sign X.509 of nothing", hex, p11->C_Sign(odd.session, b, 0, out, &len));
    PLAIN("C_EncryptInit X.509", p11->C_EncryptInit(odd.session, &x509, odd.public));
    INTO(600, "C_Encrypt X.509", hex, p11->C_Encrypt(odd.session, b, 16, out, &len));
    PLAIN("C_DecryptInit RSA", p11->C_DecryptInit(odd.session, &rsa, odd.private));
    PLAIN("C_Decrypt RSA of rubbish", (len = 600, p11->C_Decrypt(odd.session, b, 128, room, &len)));
    PLAIN("C_DecryptInit RSA", p11->C_DecryptInit(odd.session, &rsa, odd.private));
    PLAIN("C_Decrypt RSA of 100 bytes", (len = 600, p11->C_Decrypt(odd.session, b, 100, room, &len)));
    PLAIN("C_DigestInit", p11->C_DigestInit(odd.session, &sha));
    PLAIN("C_DigestUpdate", p11->C_DigestUpdate(odd.session, b, 4));
    PLAIN("C_Digest after it", (len = 600, p11->C_Digest(odd.session, b, 4, room, &len)));
    PLAIN("C_DigestFinal after that", (len = 600, p11->C_DigestFinal(odd.session, room, &len)));
    odd_afresh();
    PLAIN("C_SignInit", p11->C_SignInit(odd.session, &hmac, odd.mac));
    PLAIN("C_SignUpdate", p11->C_SignUpdate(odd.session, b, 4));
    PLAIN("C_Sign after it", (len = 600, p11->C_Sign(odd.session, b, 4, room, &len)));
    PLAIN("C_FindObjectsInit beside it", p11->C_FindObjectsInit(odd.session, NULL, 0));
    odd_afresh();
    PLAIN("C_EncryptInit", p11->C_EncryptInit(odd.session, &cbc, odd.key));
    PLAIN("C_DestroyObject the key in use", p11->C_DestroyObject(odd.session, odd.key));
    PLAIN("C_EncryptUpdate with it", (len = 600, p11->C_EncryptUpdate(odd.session, b, 16, room, &len)));
    odd_afresh();
    PLAIN("C_SignInit RSA", p11->C_SignInit(odd.session, &rsa, odd.private));
    PLAIN("C_Logout", p11->C_Logout(odd.session));
    PLAIN("C_Sign after it", (len = 600, p11->C_Sign(odd.session, b, 4, room, &len)));
    PLAIN("C_SignInit RSA after it", p11->C_SignInit(odd.session, &rsa, odd.private));
    PLAIN("C_Login", login(odd.session, CKU_USER, PIN(USER_PIN)));
    PLAIN("C_SignInit RSA after it", p11->C_SignInit(odd.session, &rsa, odd.private));

    odd_afresh();
    CK_ATTRIBUTE none[] = { BOOL(CKA_TOKEN, 0) };
    CK_ATTRIBUTE twice[] = { NUMBER(CKA_CLASS, CKO_DATA), TEXT(CKA_LABEL, "a"), TEXT(CKA_LABEL, "b"), BOOL(CKA_TOKEN, 0), BOOL(CKA_PRIVATE, 0) };
    CK_ATTRIBUTE label[] = { { CKA_LABEL, b + 100, 9 } };
    CK_SESSION_HANDLE s = odd.session;
    PLAIN("C_CreateObject label twice", p11->C_CreateObject(s, twice, COUNT(twice), &object));
    attributes("label twice", s, object, label, 1);
    PLAIN("C_CopyObject no attributes", p11->C_CopyObject(s, object, none, 0, &other));
    PLAIN("C_SetAttributeValue no attributes", p11->C_SetAttributeValue(s, object, none, 0));
    for (int has_address = 0; has_address < 2; has_address++) {
        CK_ATTRIBUTE *t = has_address ? none : NULL;
        CK_BYTE *bytes = has_address ? b : NULL;
        const char *what = has_address ? "no attributes" : "NULL";
        PLAIN(text("C_CreateObject %s", what), p11->C_CreateObject(s, t, 0, &object));
        PLAIN(text("C_GenerateKey %s", what), p11->C_GenerateKey(s, &generate, t, 0, &other));
        PLAIN(text("C_GenerateKeyPair %s", what), p11->C_GenerateKeyPair(s, &pair, t, 0, t, 0, &object, &other));
        PLAIN(text("C_DeriveKey %s", what), p11->C_DeriveKey(s, &dh, odd.private, t, 0, &other));
        PLAIN(text("C_UnwrapKey %s", what), p11->C_UnwrapKey(s, &cbc, odd.key, b, 24, t, 0, &other));
        PLAIN(text("C_UnwrapKey no bytes, %s", what), p11->C_UnwrapKey(s, &cbc, odd.key, bytes, 0, none, 1, &other));
        PLAIN(text("C_FindObjectsInit %s", what), p11->C_FindObjectsInit(s, t, 0));
        PLAIN("C_FindObjectsFinal", p11->C_FindObjectsFinal(s));
    }
    CK_DATE date = { "2024", "01", "02" };
    CK_ATTRIBUTE shapes[] = {
        { CKA_ENCRYPT, &two, 1 }, { CKA_ENCRYPT, &ff, 1 }, { CKA_ENCRYPT, eight, 8 }, { CKA_ENCRYPT, eight, 0 }, { CKA_TOKEN, eight, 0 },
        { CKA_KEY_TYPE, eight, 4 }, { CKA_KEY_TYPE, eight, 0 }, { CKA_VALUE_LEN, eight, 8 }, { CKA_KEY_GEN_MECHANISM, eight, 8 },
        { CKA_START_DATE, &date, 8 }, { CKA_START_DATE, &date, 0 }, { CKA_START_DATE, NULL, 0 }, { CKA_LABEL, NULL, 0 }, { CKA_ID, eight, 0 },
        { CKA_ALLOWED_MECHANISMS, eight, 8 }, { CKA_ALLOWED_MECHANISMS, eight, 0 }, { CKA_ALLOWED_MECHANISMS, eight, 4 },
        { CKA_MODIFIABLE, eight, 1 }, { CKA_COPYABLE, eight, 1 }, { CKA_DESTROYABLE, eight, 1 }, { CKA_TRUSTED, eight, 1 }, { CKA_LOCAL, eight, 1 },
        { CKA_ALWAYS_SENSITIVE, eight, 1 }, { CKA_CHECK_VALUE, eight, 3 }, { CKA_CHECK_VALUE, eight, 0 }, { CKA_MODULUS, eight, 8 },
        { 0x80000001, eight, 4 }, { 0xce534351, eight, 4 },
    };
    for (size_t i = 0; i < COUNT(shapes); i++) {
        CK_ATTRIBUTE *shape = &shapes[i];
        const char *name = text("%zu, 0x%lx of %lu", i, shape->type, shape->ulValueLen);
        CK_ATTRIBUTE t[] = { NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), VALUE(CKA_VALUE, KEY32, 16), BOOL(CKA_TOKEN, 0), *shape };
        object = create(s, name, t, COUNT(t));
        CK_ATTRIBUTE read[] = { { shape->type, b + 200, 64 } }, size[] = { { shape->type, NULL, 0 } }, little[] = { { shape->type, b + 300, 1 } };
        if (object) {
            attributes(text("of %s", name), s, object, read, 1);
            attributes(text("size of %s", name), s, object, size, 1);
            attributes(text("room of 1 for %s", name), s, object, little, 1);
        }
        PLAIN(text("C_SetAttributeValue %s", name), p11->C_SetAttributeValue(s, odd.key, shape, 1));
        PLAIN(text("C_CopyObject %s", name), p11->C_CopyObject(s, odd.key, shape, 1, &other));
        CK_OBJECT_HANDLE found[64];
        PLAIN(text("C_FindObjectsInit %s", name), p11->C_FindObjectsInit(s, shape, 1));
        n = 0, rv = p11->C_FindObjects(s, found, 64, &n);
        show("C_FindObjects", rv, WHEN(rv, "count=%lu", n));
        p11->C_FindObjectsFinal(s);
    }

    PLAIN("C_SetPIN of 300 bytes", p11->C_SetPIN(s, PIN(USER_PIN), b, 300));
    PLAIN("C_SetPIN the same", p11->C_SetPIN(s, PIN(USER_PIN), PIN(USER_PIN)));
    PLAIN("C_SetPIN old NULL", p11->C_SetPIN(s, NULL, 0, PIN(USER_PIN)));
    PLAIN("C_SetPIN new NULL", p11->C_SetPIN(s, PIN(USER_PIN), NULL, 0));
    PLAIN("C_Login context specific", p11->C_Login(s, CKU_CONTEXT_SPECIFIC, PIN(USER_PIN)));
    PLAIN("C_Logout", p11->C_Logout(s));
    PLAIN("C_Login of 300 bytes", p11->C_Login(s, CKU_USER, b, 300));
    PLAIN("C_Login type -1", p11->C_Login(s, (CK_ULONG)-1, PIN(USER_PIN)));
    PLAIN("C_OpenSession flags -1", p11->C_OpenSession(s0, (CK_FLAGS)-1, NULL, NULL, &other));
    CK_ULONG handles[] = { 0, (CK_ULONG)-1, 0x80000000 };
    for (size_t i = 0; i < COUNT(handles); i++) {
        PLAIN(text("C_OpenSession slot %lx", handles[i]), i ? p11->C_OpenSession(handles[i], RW, NULL, NULL, &other) : CKR_OK);
        PLAIN(text("C_DigestInit session %lx", handles[i]), p11->C_DigestInit(handles[i], &sha));
        PLAIN(text("C_DestroyObject %lx", handles[i]), p11->C_DestroyObject(s, handles[i]));
        PLAIN(text("C_GetObjectSize %lx", handles[i]), p11->C_GetObjectSize(s, handles[i], &n));
    }
    odd.session = 0;
    stop();
}

/* Handles of 64 bits arrive whole. */
static void section_handles(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = open_session(RW), wide = session | 0x1122334400000000;
    CK_OBJECT_HANDLE mac = hmac_key(session), wide_mac = mac | 0xfedcba9800000000;
    CK_ATTRIBUTE class = NUMBER(CKA_CLASS, CKO_DATA);
    CK_ULONG n;
    session_info("low half right, high half not", wide);
    PLAIN("C_CloseSession wide", p11->C_CloseSession(wide));
    PLAIN("C_SignInit wide session", p11->C_SignInit(wide, BARE(CKM_SHA256_HMAC), mac));
    PLAIN("C_SignInit wide key", p11->C_SignInit(session, BARE(CKM_SHA256_HMAC), wide_mac));
    PLAIN("C_SignInit wide mechanism", p11->C_SignInit(session, BARE(CKM_SHA256_HMAC | 0x1122334400000000), mac));
    PLAIN("C_GetAttributeValue wide object", p11->C_GetAttributeValue(session, wide_mac, &class, 1));
    PLAIN("C_DestroyObject wide", p11->C_DestroyObject(session, wide_mac));
    PLAIN("C_OpenSession wide slot", p11->C_OpenSession(s0 | 0x1122334400000000, RW, NULL, NULL, &n));
    PLAIN("C_CloseAllSessions wide slot", p11->C_CloseAllSessions(s0 | 0x1122334400000000));
    PLAIN("C_Login wide user type", p11->C_Login(session, CKU_USER | 0x1122334400000000, PIN(USER_PIN)));
    class.type |= 0x1122334400000000;
    attributes("wide type", session, mac, &class, 1);
    PLAIN("C_OpenSession wide flags", p11->C_OpenSession(s0, RW | 0x1122334400000000, NULL, NULL, &n));
    session_info("the session goes on", session);
    stop();
}

static const struct { const char *name; void (*run)(void); } SECTIONS[] = {
    { "uninitialised", section_uninitialised }, { "initargs", section_initargs }, { "info", section_info }, { "slotroom", section_slotroom },
    { "sessions", section_sessions }, { "login", section_login }, { "token", section_token }, { "keygen", section_keygen },
    { "import", section_import }, { "find", section_find }, { "findrest", section_findrest }, { "attributes", section_attributes },
    { "longvalues", section_longvalues },
    { "nested", section_nested }, { "nestedkey", section_nestedkey }, { "nestedread", section_nestedread },
    { "badclass", section_badclass }, { "objects", section_objects }, { "sign", section_sign }, { "encrypt", section_encrypt },
    { "sizes", section_sizes }, { "longdata", section_longdata }, { "digest", section_digest }, { "pending", section_pending }, { "wrap", section_wrap },
    { "wrapbare", section_wrapbare }, { "derive", section_derive }, { "pointers", section_pointers }, { "random", section_random },
    { "rare", section_rare }, { "arguments", section_arguments }, { "nulls", section_nulls }, { "lengths", section_lengths }, { "odd", section_odd }, { "handles", section_handles },
};

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: script LIBRARY SECTION...; sections:");
        for (size_t i = 0; i < COUNT(SECTIONS); i++)
            fprintf(stderr, " %s", SECTIONS[i].name);
        fputc('\n', stderr);
        return 2;
    }
    /* Each line at once: the transcript of a crash ends where it crashed. */
    setvbuf(stdout, NULL, _IOLBF, 0);
    /* A dead peer shows as a CK_RV in every line after it; threads.c tests the signal. */
    signal(SIGPIPE, SIG_IGN);
    prepare_constants();
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "script: %s\n", dlerror());
        return 2;
    }
    CK_C_GetFunctionList list = NULL;
    *(void **)&list = dlsym(library, "C_GetFunctionList");
    if (!list || list(&p11) != CKR_OK) {
        fprintf(stderr, "script: %s has no C_GetFunctionList\n", argv[1]);
        return 2;
    }
    for (int i = 2; i < argc; i++) {
        size_t k = 0;
        while (k < COUNT(SECTIONS) && strcmp(SECTIONS[k].name, argv[i]) != 0)
            k++;
        if (k == COUNT(SECTIONS)) {
            fprintf(stderr, "script: no section %s\n", argv[i]);
            return 2;
        }
        printf("== %s\n", argv[i]);
        SECTIONS[k].run();
    }
    dlclose(library);
    return 0;
}
