/*
 * exact LIBRARY SECTION...          makes the calls of each named section
 * exact LIBRARY random SEED COUNT   makes COUNT calls that SEED determines (exact_walk.h)
 *
 * Loads a PKCS#11 library by its path and prints every call with its answer in the form of
 * exact_calls.h. The calls are those in which pointers matter: NULL, empty, room and too little of
 * it, arrays in attributes, mechanism parameters with pointers, the functions of PKCS#11 3.0 and 3.2.
 * The same calls of a module and of a library that passes them on to the module print the same
 * lines. With recorder.c as the module, each call also stands in its log as it is printed here.
 *
 * Uses the first slot whose token is initialised, with the PIN 1234. The interface is the highest
 * that C_GetInterface gives; EXACT_INTERFACE=2.40 (C_GetFunctionList), 3.0 or 3.2 asks for that one.
 * EXACT_INIT_ARGS is what a module needs in pReserved when nobody is between who gives it (NSS); it is
 * not printed. Compares nothing: tests/exact does.
 */
#define _GNU_SOURCE
#include "exact_calls.h"
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#define RO CKF_SERIAL_SESSION
#define RW (CKF_SERIAL_SESSION | CKF_RW_SESSION)
#define PIN STR("1234")
#define SO_PIN STR("12345678")

/* ---- Material ------------------------------------------------------------------------------------ */

#define NUMBER(type, n) { type, &(CK_ULONG){ n }, sizeof(CK_ULONG) }
#define BOOL(type, b) { type, &(CK_BBOOL){ b }, sizeof(CK_BBOOL) }
#define TEXT(type, s) { type, (void *)(uintptr_t)(s), sizeof(s) - 1 }
#define VALUE(type, p, n) { type, (void *)(uintptr_t)(p), n }
#define ARRAY(type, a) { type, a, sizeof(a) }
#define T(...) ((CK_ATTRIBUTE[]){ __VA_ARGS__ }), COUNT(((CK_ATTRIBUTE[]){ __VA_ARGS__ }))
#define M(type) (&(CK_MECHANISM){ type, NULL, 0 })
#define MP(type, p) (&(CK_MECHANISM){ type, &(p), sizeof(p) })
#define MB(type, p, n) (&(CK_MECHANISM){ type, (void *)(uintptr_t)(p), n })

static CK_BYTE DATA[8192], IV[16], P256[] = { 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07 };
static CK_SLOT_ID slot;

/* The generator of P-256: a public key whose private key is 1. */
static const CK_BYTE POINT[] = {
    0x04, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2, 0x77, 0x03, 0x7d, 0x81, 0x2d,
    0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96, 0x4f, 0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb,
    0x4a, 0x7c, 0x0f, 0x9e, 0x16, 0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5,
};

/* An RSA key of 1024 bits (openssl genrsa): test material. */
static CK_BYTE N[128], D[128], P[64], Q[64], DP[64], DQ[64], QI[64], E[] = { 1, 0, 1 };
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
};

static void prepare_constants(void)
{
    for (size_t i = 0; i < COUNT(NUMBERS); i++)
        for (size_t at = 0; NUMBERS[i].digits[2 * at]; at++)
            sscanf(NUMBERS[i].digits + 2 * at, "%2hhx", NUMBERS[i].into + at);
    for (size_t i = 0; i < sizeof DATA; i++)
        DATA[i] = (CK_BYTE)(i ^ i >> 8);
    for (size_t i = 0; i < sizeof IV; i++)
        IV[i] = (CK_BYTE)(0x10 + i);
}

/* ---- Reaching the state a section starts from ---------------------------------------------------------- */

static void sleep_ms(long ms) { nanosleep(&(struct timespec){ ms / 1000, ms % 1000 * 1000000 }, NULL); }

/* SoftHSM's file locks race when processes start at once: a few tries, of which the last is printed. */
static int start_with(CK_C_INITIALIZE_ARGS *arguments)
{
    CK_RV rv = CKR_OK;
    CK_SLOT_ID slots[32];
    CK_ULONG count = 0;
    CK_C_INITIALIZE_ARGS given = { 0 };
    const char *reserved = getenv("EXACT_INIT_ARGS");
    if (arguments)
        given = *arguments;
    given.pReserved = (void *)(uintptr_t)reserved;
    for (int attempt = 0; attempt < 40; attempt++) {
        rv = CALL(C_Initialize, reserved ? &given : arguments);
        if (rv != CKR_GENERAL_ERROR && rv != CKR_FUNCTION_FAILED)
            break;
        sleep_ms(25);
    }
    start_call("C_Initialize");
    show_initialize(arguments);
    end_call(rv);
    if (rv == CKR_OK && get_info(1) == CKR_OK && get_slot_list(CK_TRUE, SPACE(COUNT(slots))) == CKR_OK) {
        count = *len;
        memcpy(slots, out, count * sizeof *slots);
    }
    for (CK_ULONG i = 0; i < count; i++) {
        slot = slots[i];
        if (get_token_info(slot, 1) == CKR_OK && token_flags & CKF_TOKEN_INITIALIZED)
            return 1;
    }
    printf("no initialised token\n");
    return 0;
}

static int start(void) { return start_with(NULL); }

static CK_SESSION_HANDLE opened(CK_FLAGS flags)
{
    CK_SESSION_HANDLE session = 0;
    open_session(slot, flags, 0, 0, &session);
    return session;
}
/* A second session, of the keys: the operations' one comes and goes. */
static CK_SESSION_HANDLE keeper;
static CK_SESSION_HANDLE logged_in(void)
{
    keeper = opened(RW);
    login(keeper, CKU_USER, PIN);
    return opened(RW);
}
static void stop(void) { finalize(NULL); }

/* An operation that a call left behind would change what the next one answers. */
static CK_SESSION_HANDLE renewed(CK_SESSION_HANDLE session)
{
    CK_SESSION_HANDLE next = opened(RW);
    plain("C_CloseSession", session);
    return next;
}

static CK_OBJECT_HANDLE secret(CK_KEY_TYPE type, CK_ULONG bytes)
{
    CK_OBJECT_HANDLE key = 0;
    create_object(keeper,
                  T(NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, type), VALUE(CKA_VALUE, DATA, bytes), BOOL(CKA_TOKEN, 0),
                    BOOL(CKA_PRIVATE, 0), BOOL(CKA_ENCRYPT, 1), BOOL(CKA_DECRYPT, 1), BOOL(CKA_WRAP, 1), BOOL(CKA_UNWRAP, 1),
                    BOOL(CKA_SIGN, 1), BOOL(CKA_VERIFY, 1), BOOL(CKA_DERIVE, 1), BOOL(CKA_EXTRACTABLE, 1), BOOL(CKA_SENSITIVE, 0)),
                  &key);
    return key;
}
static CK_OBJECT_HANDLE rsa_public(void)
{
    CK_OBJECT_HANDLE key = 0;
    create_object(keeper,
                  T(NUMBER(CKA_CLASS, CKO_PUBLIC_KEY), NUMBER(CKA_KEY_TYPE, CKK_RSA), VALUE(CKA_MODULUS, N, sizeof N),
                    VALUE(CKA_PUBLIC_EXPONENT, E, sizeof E), BOOL(CKA_TOKEN, 0), BOOL(CKA_PRIVATE, 0), BOOL(CKA_VERIFY, 1),
                    BOOL(CKA_ENCRYPT, 1), BOOL(CKA_WRAP, 1)),
                  &key);
    return key;
}
static CK_OBJECT_HANDLE rsa_private(void)
{
    CK_OBJECT_HANDLE key = 0;
    create_object(keeper,
                  T(NUMBER(CKA_CLASS, CKO_PRIVATE_KEY), NUMBER(CKA_KEY_TYPE, CKK_RSA), VALUE(CKA_MODULUS, N, sizeof N),
                    VALUE(CKA_PUBLIC_EXPONENT, E, sizeof E), VALUE(CKA_PRIVATE_EXPONENT, D, sizeof D), VALUE(CKA_PRIME_1, P, sizeof P),
                    VALUE(CKA_PRIME_2, Q, sizeof Q), VALUE(CKA_EXPONENT_1, DP, sizeof DP), VALUE(CKA_EXPONENT_2, DQ, sizeof DQ),
                    VALUE(CKA_COEFFICIENT, QI, sizeof QI), BOOL(CKA_TOKEN, 0), BOOL(CKA_PRIVATE, 0), BOOL(CKA_SIGN, 1),
                    BOOL(CKA_DECRYPT, 1), BOOL(CKA_UNWRAP, 1), BOOL(CKA_SENSITIVE, 0), BOOL(CKA_EXTRACTABLE, 1)),
                  &key);
    return key;
}
static CK_OBJECT_HANDLE ec_private(void)
{
    CK_OBJECT_HANDLE key = 0;
    create_object(keeper,
                  T(NUMBER(CKA_CLASS, CKO_PRIVATE_KEY), NUMBER(CKA_KEY_TYPE, CKK_EC), VALUE(CKA_EC_PARAMS, P256, sizeof P256),
                    VALUE(CKA_VALUE, DATA + 1, 32), BOOL(CKA_TOKEN, 0), BOOL(CKA_PRIVATE, 0), BOOL(CKA_SIGN, 1), BOOL(CKA_DERIVE, 1),
                    BOOL(CKA_SENSITIVE, 0), BOOL(CKA_EXTRACTABLE, 1)),
                  &key);
    return key;
}

/* ---- Sections: rooms and NULL for every shape of call ----------------------------------------------------- */

/* All rooms for an answer of `size` bytes, from one operation each. Ends with one that is given. */
#define ROOMS(begin, call_with_room, size) \
    do { \
        const struct room rooms_[] = { NOWHERE, SPACE(0), SPACE(1), SPACE((size) - 1), SPACE(size), NO_LENGTH, NOTHING, SPACE(2 * (size) + 40), SPACE(3000) }; \
        int active_ = 0; \
        for (size_t i_ = 0; i_ < COUNT(rooms_); i_++) { \
            struct room room = rooms_[i_]; \
            if (!active_) \
                begin; \
            CK_RV rv_ = call_with_room; \
            active_ = rv_ == CKR_BUFFER_TOO_SMALL || (rv_ == CKR_OK && !room.has_pointer); \
        } \
    } while (0)

static void section_interfaces(void);

static void section_general(void)
{
    get_info(1);
    plain("C_Logout", 1);
    finalize(NULL);
    get_slot_list(CK_FALSE, NOWHERE);
    session_cancel(1, CKF_ENCRYPT);
    wait_for_slot_event(CKF_DONT_BLOCK, 1, NULL);
    if (!start())
        return;
    initialize(NULL);
    finalize(&slot);
    get_info(0);
    get_info(1);
    for (int present = 0; present <= 1; present++) {
        get_slot_list(present ? CK_TRUE : CK_FALSE, NOWHERE);
        get_slot_list(present ? CK_TRUE : CK_FALSE, NULL_ROOM(7));
        get_slot_list(present ? CK_TRUE : CK_FALSE, SPACE(0));
        get_slot_list(present ? CK_TRUE : CK_FALSE, SPACE(1));
        get_slot_list(present ? CK_TRUE : CK_FALSE, SPACE(2));
        get_slot_list(present ? CK_TRUE : CK_FALSE, SPACE(20));
        get_slot_list(present ? CK_TRUE : CK_FALSE, NO_LENGTH);
        get_slot_list(present ? CK_TRUE : CK_FALSE, NOTHING);
    }
    get_slot_info(slot, 0);
    get_slot_info(slot, 1);
    get_slot_info(4711, 1);
    get_token_info(slot, 0);
    get_token_info(slot, 1);
    get_token_info(4711, 1);
    get_mechanism_list(slot, NOWHERE);
    get_mechanism_list(slot, NULL_ROOM(3));
    get_mechanism_list(slot, SPACE(0));
    get_mechanism_list(slot, SPACE(1));
    get_mechanism_list(slot, SPACE(500));
    get_mechanism_list(slot, NO_LENGTH);
    get_mechanism_list(slot, NOTHING);
    get_mechanism_list(4711, SPACE(500));
    get_mechanism_info(slot, CKM_AES_GCM, 0);
    get_mechanism_info(slot, CKM_AES_GCM, 1);
    get_mechanism_info(slot, CKM_AES_CBC, 1);
    get_mechanism_info(slot, 0x80001234, 1);
    get_mechanism_info(slot, 0xfedcba9800000001, 1);
    wait_for_slot_event(CKF_DONT_BLOCK, 1, NULL);
    wait_for_slot_event(CKF_DONT_BLOCK, 0, NULL);
    wait_for_slot_event(CKF_DONT_BLOCK, 1, DATA);
    stop();
}

/* Blocks where the module has events; then after its time it tells one. */
static void section_events(void)
{
    if (!start())
        return;
    wait_for_slot_event(0, 1, NULL);
    wait_for_slot_event(0, 0, NULL);
    stop();
}

static void section_initargs(void)
{
    CK_C_INITIALIZE_ARGS arguments = { .flags = CKF_OS_LOCKING_OK };
    initialize(&arguments);
    finalize(NULL);
    arguments.flags = 0;
    initialize(&arguments);
    finalize(NULL);
    arguments.flags = CKF_OS_LOCKING_OK | CKF_LIBRARY_CANT_CREATE_OS_THREADS;
    initialize(&arguments);
    finalize(NULL);
}

static void section_sessions(void)
{
    CK_SESSION_HANDLE a, b;
    if (!start())
        return;
    open_session(slot, RW, 0, 0, &a);
    open_session(slot, RO, 1, 1, &b);
    open_session(slot, RO, 0, 1, &b);
    open_session(slot, RO, 1, 0, &b);
    open_session(slot, RO, 0, 0, NULL);
    open_session(slot, CKF_RW_SESSION, 0, 0, &b);
    open_session(4711, RW, 0, 0, &b);
    get_session_info(a, 1);
    get_session_info(a, 0);
    get_session_info(4711, 1);
    login(a, CKU_USER, NO);
    login(a, CKU_USER, EMPTY);
    login(a, CKU_USER, STR("wrong"));
    login(a, 4711, PIN);
    login(a, CKU_CONTEXT_SPECIFIC, PIN);
    login(a, CKU_USER, PIN);
    login(a, CKU_USER, PIN);
    get_session_info(a, 1);
    get_session_info(b, 1);
    plain("C_Logout", a);
    plain("C_Logout", a);
    login_user(a, CKU_USER, PIN, NO);
    login_user(a, CKU_USER, PIN, STR("somebody"));
    plain("C_Logout", a);
    login_user(a, CKU_USER, NO, EMPTY);
    plain("C_Logout", a);
    validation_flags(a, CKS_LAST_VALIDATION_OK, 1);
    validation_flags(a, CKS_LAST_VALIDATION_OK, 0);
    validation_flags(4711, CKS_LAST_VALIDATION_OK, 1);
    session_cancel(a, 0);
    session_cancel(a, CKF_FIND_OBJECTS);
    session_cancel(4711, CKF_FIND_OBJECTS);
    plain("C_GetFunctionStatus", a);
    plain("C_CancelFunction", a);
    plain("C_GetFunctionStatus", 4711);
    plain("C_CloseSession", b);
    plain("C_CloseSession", b);
    close_all(slot);
    close_all(4711);
    get_session_info(a, 1);
    stop();
}

static void section_pins(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = opened(RW);
    update("C_InitPIN", session, PIN);
    two("C_SetPIN", session, STR("wrong"), STR("12345"));
    two("C_SetPIN", session, EMPTY, EMPTY);
    two("C_SetPIN", session, PIN, EMPTY);
    login(session, CKU_SO, SO_PIN);
    update("C_InitPIN", session, EMPTY);
    update("C_InitPIN", session, NO);
    update("C_InitPIN", session, PIN);
    plain("C_Logout", session);
    login(session, CKU_USER, PIN);
    two("C_SetPIN", session, PIN, PIN);
    two("C_SetPIN", session, NO, NO);
    init_token(4711, SO_PIN, "a label                         ");
    stop();
}

static void section_digest(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = secret(CKK_GENERIC_SECRET, 32);
    const struct in inputs[] = { NO, EMPTY, B(DATA, 1), B(DATA, 64), B(DATA, 5000) };
    for (size_t i = 0; i < COUNT(inputs); i++)
        ROOMS(digest_init(session, M(CKM_SHA256)), transform("C_Digest", session, inputs[i], room), 32);
    session = renewed(session);
    for (size_t i = 0; i < COUNT(inputs); i++) {
        digest_init(session, M(CKM_SHA256));
        update("C_DigestUpdate", session, inputs[i]);
        update("C_DigestUpdate", session, B(DATA, 3));
        last("C_DigestFinal", session, NOWHERE);
        last("C_DigestFinal", session, SPACE(31));
        last("C_DigestFinal", session, SPACE(32));
    }
    ROOMS((digest_init(session, M(CKM_SHA256)), update("C_DigestUpdate", session, B(DATA, 9))), last("C_DigestFinal", session, room), 32);
    session = renewed(session);
    digest_init(session, M(CKM_SHA256));
    digest_key(session, key);
    digest_key(session, 4711);
    last("C_DigestFinal", session, SPACE(64));
    session = renewed(session);
    transform("C_Digest", session, B(DATA, 4), SPACE(64));
    update("C_DigestUpdate", session, B(DATA, 4));
    last("C_DigestFinal", session, SPACE(64));
    transform("C_Digest", 4711, B(DATA, 4), SPACE(64));
    digest_init(session, M(CKM_SHA256));
    digest_init(session, M(CKM_SHA256));
    session = renewed(session);
    digest_init(session, MB(CKM_SHA256, DATA, 0));
    session = renewed(session);
    digest_init(session, MB(CKM_SHA256, DATA, 8));
    session = renewed(session);
    digest_init(session, M(0x80004711));
    digest_init(session, M(CKM_RSA_PKCS));
    stop();
}

static void section_sign(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE mac = secret(CKK_GENERIC_SECRET, 32), private = rsa_private(), public = rsa_public();
    const struct in inputs[] = { NO, EMPTY, B(DATA, 20) };
    for (size_t i = 0; i < COUNT(inputs); i++) {
        ROOMS(init("C_SignInit", session, M(CKM_SHA256_HMAC), mac), transform("C_Sign", session, inputs[i], room), 32);
        session = renewed(session);
        ROOMS(init("C_SignInit", session, M(CKM_SHA256_RSA_PKCS), private), transform("C_Sign", session, inputs[i], room), 128);
        session = renewed(session);
    }
    ROOMS((init("C_SignInit", session, M(CKM_SHA256_HMAC), mac), update("C_SignUpdate", session, B(DATA, 7))), last("C_SignFinal", session, room), 32);
    session = renewed(session);
    init("C_SignInit", session, M(CKM_SHA256_HMAC), mac);
    update("C_SignUpdate", session, NO);
    session = renewed(session);
    init("C_SignInit", session, M(CKM_SHA256_HMAC), mac);
    update("C_SignUpdate", session, EMPTY);
    last("C_SignFinal", session, SPACE(100));
    init("C_SignInit", session, M(CKM_SHA256_HMAC), mac);
    transform("C_Sign", session, B(DATA, 20), SPACE(100));
    init("C_VerifyInit", session, M(CKM_SHA256_HMAC), mac);
    two("C_Verify", session, B(DATA, 20), B(kept, kept_length));
    init("C_SignInit", session, M(CKM_SHA256_RSA_PKCS), private);
    transform("C_Sign", session, B(DATA, 20), SPACE(200));
    init("C_VerifyInit", session, M(CKM_SHA256_RSA_PKCS), public);
    two("C_Verify", session, B(DATA, 20), B(kept, kept_length));
    const struct in signatures[] = { NO, EMPTY, B(DATA, 32), B(DATA, 64), B(DATA, 128), STR("\xff") };
    for (size_t i = 0; i < COUNT(signatures); i++) {
        init("C_VerifyInit", session, M(CKM_SHA256_HMAC), mac);
        two("C_Verify", session, B(DATA, 20), signatures[i]);
        session = renewed(session);
        init("C_VerifyInit", session, M(CKM_SHA256_HMAC), mac);
        two("C_Verify", session, i % 2 ? NO : EMPTY, signatures[i]);
        session = renewed(session);
        init("C_VerifyInit", session, M(CKM_SHA256_RSA_PKCS), public);
        update("C_VerifyUpdate", session, B(DATA, 20));
        update("C_VerifyUpdate", session, EMPTY);
        update("C_VerifyFinal", session, signatures[i]);
        session = renewed(session);
    }
    CK_RSA_PKCS_PSS_PARAMS pss = { CKM_SHA256, CKG_MGF1_SHA256, 20 };
    hidden = 1;
    ROOMS(init("C_SignInit", session, MP(CKM_SHA256_RSA_PKCS_PSS, pss), private), transform("C_Sign", session, B(DATA, 20), room), 128);
    hidden = 0;
    session = renewed(session);
    init("C_SignRecoverInit", session, M(CKM_RSA_PKCS), private);
    transform("C_SignRecover", session, B(DATA, 20), NOWHERE);
    transform("C_SignRecover", session, B(DATA, 20), SPACE(128));
    init("C_VerifyRecoverInit", session, M(CKM_RSA_PKCS), public);
    transform("C_VerifyRecover", session, B(DATA, 128), NOWHERE);
    transform("C_VerifyRecover", session, B(DATA, 128), SPACE(128));
    transform("C_VerifyRecover", session, EMPTY, SPACE(128));
    session = renewed(session);
    init("C_SignInit", session, M(CKM_SHA256_HMAC), 4711);
    init("C_SignInit", session, M(0x80004711), mac);
    init("C_SignInit", 4711, M(CKM_SHA256_HMAC), mac);
    transform("C_Sign", session, B(DATA, 20), SPACE(100));
    stop();
}

static void section_encrypt(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = secret(CKK_AES, 16);
    CK_AES_CTR_PARAMS counter = { 128, { 1, 2, 3 } };
    CK_GCM_PARAMS gcm = { IV, 12, 96, DATA, 20, 128 };
    CK_MECHANISM mechanisms[] = {
        { CKM_AES_ECB, NULL, 0 }, { CKM_AES_CBC, IV, 16 }, { CKM_AES_CBC_PAD, IV, 16 }, { CKM_AES_CTR, &counter, sizeof counter }, { CKM_AES_GCM, &gcm, sizeof gcm },
    };
    const struct in inputs[] = { NO, EMPTY, B(DATA, 16), B(DATA, 15), B(DATA, 4096) };
    for (size_t m = 0; m < COUNT(mechanisms); m++) {
        for (size_t i = 0; i < COUNT(inputs); i++) {
            ROOMS(init("C_EncryptInit", session, &mechanisms[m], key), transform("C_Encrypt", session, inputs[i], room), 16);
            session = renewed(session);
        }
        for (size_t i = 0; i < COUNT(inputs); i++) {
            ROOMS(init("C_DecryptInit", session, &mechanisms[m], key), transform("C_Decrypt", session, inputs[i], room), 16);
            session = renewed(session);
        }
        for (size_t i = 0; i < COUNT(inputs); i++) {
            init("C_EncryptInit", session, &mechanisms[m], key);
            transform("C_EncryptUpdate", session, inputs[i], NOWHERE);
            transform("C_EncryptUpdate", session, inputs[i], SPACE(3));
            transform("C_EncryptUpdate", session, inputs[i], SPACE(5000));
            transform("C_EncryptUpdate", session, B(DATA, 5), SPACE(16));
            last("C_EncryptFinal", session, NOWHERE);
            last("C_EncryptFinal", session, SPACE(3));
            last("C_EncryptFinal", session, SPACE(64));
            session = renewed(session);
            init("C_DecryptInit", session, &mechanisms[m], key);
            transform("C_DecryptUpdate", session, inputs[i], NOWHERE);
            transform("C_DecryptUpdate", session, inputs[i], SPACE(5000));
            transform("C_DecryptUpdate", session, B(DATA, 32), SPACE(48));
            last("C_DecryptFinal", session, NOWHERE);
            last("C_DecryptFinal", session, SPACE(64));
            session = renewed(session);
        }
    }
    init("C_EncryptInit", session, MB(CKM_AES_CBC, NULL, 0), key);
    session = renewed(session);
    init("C_EncryptInit", session, MB(CKM_AES_CBC, IV, 0), key);
    session = renewed(session);
    init("C_EncryptInit", session, MB(CKM_AES_CBC, IV, 8), key);
    session = renewed(session);
    init("C_EncryptInit", session, MB(CKM_AES_GCM, &gcm, 8), key);
    session = renewed(session);
    init("C_EncryptInit", session, M(CKM_AES_GCM), key);
    session = renewed(session);
    init("C_EncryptInit", session, MB(CKM_AES_ECB, DATA, 3), key);
    stop();
}

/* The parameters of encryption that have pointers. */
static void section_aead(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = secret(CKK_AES, 32), private = rsa_private(), public = rsa_public();
    CK_BYTE iv[64], zeros[12] = { 0 };
    memcpy(iv, DATA, sizeof iv);
    CK_GCM_PARAMS gcms[] = {
        { iv, 12, 96, NULL, 0, 128 }, { iv, 12, 96, DATA, 0, 128 }, { iv, 12, 96, DATA, 300, 96 }, { iv, 12, 0, DATA, 1, 120 },
        { iv, 64, 512, DATA, 1, 32 }, { iv, 0, 0, DATA, 1, 128 }, { NULL, 0, 0, DATA, 1, 128 }, { zeros, 12, 96, NULL, 0, 128 },
        { iv, 12, 96, NULL, 0, 0 }, { iv, 12, 96, NULL, 0, 129 }, { iv, 12, 96, NULL, 0, 7 },
    };
    for (size_t i = 0; i < COUNT(gcms); i++) {
        memset(zeros, 0, sizeof zeros);
        init("C_EncryptInit", session, MP(CKM_AES_GCM, gcms[i]), key);
        transform("C_Encrypt", session, B(DATA, 33), NOWHERE);
        transform("C_Encrypt", session, B(DATA, 33), SPACE(40));
        kept_length = 0;
        transform("C_Encrypt", session, B(DATA, 33), SPACE(49));
        session = renewed(session);
        init("C_DecryptInit", session, MP(CKM_AES_GCM, gcms[i]), key);
        transform("C_Decrypt", session, B(kept, kept_length), SPACE(49));
        session = renewed(session);
        init("C_DecryptInit", session, MP(CKM_AES_GCM, gcms[i]), key);
        transform("C_Decrypt", session, B(DATA, 33), SPACE(40));
        session = renewed(session);
    }
    CK_CCM_PARAMS ccms[] = { { 33, iv, 12, NULL, 0, 16 }, { 33, iv, 7, DATA, 5, 4 }, { 0, NULL, 0, DATA, 0, 16 } };
    for (size_t i = 0; i < COUNT(ccms); i++) {
        init("C_EncryptInit", session, MP(CKM_AES_CCM, ccms[i]), key);
        transform("C_Encrypt", session, B(DATA, 33), SPACE(60));
        session = renewed(session);
    }
    CK_RSA_PKCS_OAEP_PARAMS oaeps[] = {
        { CKM_SHA_1, CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, NULL, 0 }, { CKM_SHA_1, CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, DATA, 0 },
        { CKM_SHA_1, CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, DATA, 9 }, { CKM_SHA256, CKG_MGF1_SHA256, CKZ_DATA_SPECIFIED, DATA, 9 },
        { CKM_SHA_1, CKG_MGF1_SHA1, 0, NULL, 0 }, { 0, 0, 0, NULL, 0 },
    };
    for (size_t i = 0; i < COUNT(oaeps); i++) {
        hidden = 1;
        init("C_EncryptInit", session, MP(CKM_RSA_PKCS_OAEP, oaeps[i]), public);
        transform("C_Encrypt", session, B(DATA, 16), NOWHERE);
        transform("C_Encrypt", session, B(DATA, 16), SPACE(128));
        hidden = 0;
        session = renewed(session);
        init("C_DecryptInit", session, MP(CKM_RSA_PKCS_OAEP, oaeps[i]), private);
        transform("C_Decrypt", session, B(N, 128), SPACE(128));
        session = renewed(session);
    }
    CK_SALSA20_CHACHA20_POLY1305_PARAMS poly = { iv, 12, DATA, 5 };
    CK_CHACHA20_PARAMS chacha = { iv, 32, iv + 4, 96 };
    CK_SALSA20_PARAMS salsa = { iv, iv + 8, 64 };
    CK_RC5_CBC_PARAMS rc5 = { 4, 12, iv, 8 };
    init("C_EncryptInit", session, MP(CKM_CHACHA20_POLY1305, poly), key);
    session = renewed(session);
    init("C_EncryptInit", session, MP(CKM_CHACHA20, chacha), key);
    session = renewed(session);
    init("C_EncryptInit", session, MP(CKM_SALSA20, salsa), key);
    session = renewed(session);
    init("C_EncryptInit", session, MP(CKM_RC5_CBC, rc5), key);
    stop();
}

/* The parameters of signatures that have pointers. */
static void section_signatures(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = secret(CKK_GENERIC_SECRET, 32);
    CK_EDDSA_PARAMS ed[] = { { 0, 0, NULL }, { 1, 3, DATA }, { 0, 255, DATA }, { 1, 0, DATA } };
    CK_SIGN_ADDITIONAL_CONTEXT ml[] = { { CKH_HEDGE_PREFERRED, NULL, 0 }, { CKH_HEDGE_REQUIRED, DATA, 0 }, { CKH_DETERMINISTIC_REQUIRED, DATA, 255 } };
    CK_HASH_SIGN_ADDITIONAL_CONTEXT hash = { CKH_HEDGE_REQUIRED, DATA, 5, CKM_SHA512 };
    CK_XEDDSA_PARAMS xed = { 7 };
    CK_TLS_MAC_PARAMS tls = { CKM_SHA256, 12, 1 };
    CK_UTF8CHAR challenge[] = "challenge";
    CK_OTP_PARAM otp_values[] = { { CK_OTP_CHALLENGE, challenge, 9 }, { CK_OTP_COUNTER, DATA, 8 }, { CK_OTP_FLAGS, &(CK_ULONG){ CKF_NEXT_OTP }, sizeof(CK_ULONG) } };
    CK_OTP_PARAMS otp = { otp_values, 3 };
    CK_MECHANISM inner = { CKM_SHA256_HMAC, NULL, 0 };
    CK_KIP_PARAMS kip = { &inner, key, DATA, 6 };
    for (size_t i = 0; i < COUNT(ed); i++) {
        init("C_SignInit", session, MP(CKM_EDDSA, ed[i]), key);
        session = renewed(session);
    }
    for (size_t i = 0; i < COUNT(ml); i++) {
        init("C_SignInit", session, MP(CKM_ML_DSA, ml[i]), key);
        transform("C_Sign", session, B(DATA, 5), SPACE(64));
        init("C_VerifyInit", session, MP(CKM_SLH_DSA, ml[i]), key);
        init("C_SignInit", session, MP(CKM_HASH_ML_DSA_SHA512, ml[i]), key);
        session = renewed(session);
    }
    init("C_SignInit", session, MP(CKM_HASH_ML_DSA, hash), key);
    init("C_VerifyInit", session, MP(CKM_HASH_SLH_DSA, hash), key);
    session = renewed(session);
    init("C_SignInit", session, MP(CKM_XEDDSA, xed), key);
    session = renewed(session);
    init("C_SignInit", session, MP(CKM_TLS_MAC, tls), key);
    session = renewed(session);
    init("C_SignInit", session, MP(CKM_HOTP, otp), key);
    session = renewed(session);
    otp.ulCount = 0;
    init("C_SignInit", session, MP(CKM_HOTP, otp), key);
    session = renewed(session);
    init("C_SignInit", session, MP(CKM_KIP_MAC, kip), key);
    session = renewed(session);
    init("C_SignInit", session, MB(CKM_AES_CMAC_GENERAL, &(CK_ULONG){ 8 }, sizeof(CK_ULONG)), key);
    session = renewed(session);
    init("C_SignInit", session, MB(0x80004711, DATA, 100), key);
    stop();
}

static void section_dual(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = secret(CKK_AES, 16), mac = secret(CKK_GENERIC_SECRET, 32);
    static const char *const names[] = { "C_DigestEncryptUpdate", "C_DecryptDigestUpdate", "C_SignEncryptUpdate", "C_DecryptVerifyUpdate" };
    digest_init(session, M(CKM_SHA256));
    init("C_EncryptInit", session, MB(CKM_AES_CBC, IV, 16), key);
    init("C_DecryptInit", session, MB(CKM_AES_CBC, IV, 16), key);
    init("C_SignInit", session, M(CKM_SHA256_HMAC), mac);
    init("C_VerifyInit", session, M(CKM_SHA256_HMAC), mac);
    for (size_t i = 0; i < COUNT(names); i++) {
        transform(names[i], session, B(DATA, 32), NOWHERE);
        transform(names[i], session, B(DATA, 32), SPACE(31));
        transform(names[i], session, B(DATA, 32), SPACE(32));
        transform(names[i], session, EMPTY, SPACE(32));
        transform(names[i], session, NO, SPACE(32));
        transform(names[i], session, B(DATA, 32), NO_LENGTH);
    }
    last("C_GetOperationState", session, NOWHERE);
    last("C_GetOperationState", session, SPACE(4));
    last("C_GetOperationState", session, SPACE(100));
    last("C_GetOperationState", session, NO_LENGTH);
    set_operation_state(session, B(DATA, 40), key, mac);
    set_operation_state(session, B(DATA, 40), 0, 0);
    set_operation_state(session, EMPTY, 0, 0);
    set_operation_state(session, NO, 0, 0);
    stop();
}

static void section_random_numbers(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = opened(RO);
    generate_random(session, SPACE(0));
    generate_random(session, SPACE(1));
    generate_random(session, SPACE(5000));
    generate_random(session, NOWHERE);
    generate_random(4711, SPACE(4));
    update("C_SeedRandom", session, B(DATA, 20));
    update("C_SeedRandom", session, EMPTY);
    update("C_SeedRandom", session, NO);
    stop();
}

/* ---- Sections: attributes and objects ------------------------------------------------------------------ */

/* A generic secret with the array attributes that follow it. */
#define SECRET \
    NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_GENERIC_SECRET), VALUE(CKA_VALUE, DATA, 16), BOOL(CKA_TOKEN, 0), \
        BOOL(CKA_PRIVATE, 0), BOOL(CKA_SENSITIVE, 0), BOOL(CKA_EXTRACTABLE, 1)

/* Asks for one array attribute in all the ways an application does. */
static void read_array(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type)
{
    CK_ATTRIBUTE one = { type, NULL, 0 }, inner[8], deep[8];
    CK_RV rv = get_attributes(session, object, &one, 1);
    CK_ULONG size = rv == CKR_OK ? one.ulValueLen : 2 * sizeof *inner, count = size / sizeof *inner;
    if (count > COUNT(inner))
        return;
    memset(inner, 0, sizeof inner), memset(deep, 0, sizeof deep);
    one = (CK_ATTRIBUTE){ type, inner, size };
    get_attributes(session, object, &one, 1);
    /* Now the types are known, and the lengths. */
    area_used = 0;
    for (CK_ULONG i = 0; i < count; i++) {
        if (is_template(inner[i].type)) {
            inner[i].pValue = deep;
            inner[i].ulValueLen = inner[i].ulValueLen <= sizeof deep ? inner[i].ulValueLen : 0;
        } else {
            inner[i].ulValueLen = inner[i].ulValueLen < 1000 ? inner[i].ulValueLen + (i % 2) : 4;
            inner[i].pValue = fresh(inner[i].ulValueLen);
        }
    }
    one = (CK_ATTRIBUTE){ type, inner, size };
    get_attributes(session, object, &one, 1);
    /* Too little room inside, and for the array itself. */
    area_used = 0;
    memset(inner, 0, sizeof inner);
    for (CK_ULONG i = 0; i < count; i++)
        inner[i].pValue = fresh(0);
    one = (CK_ATTRIBUTE){ type, inner, size };
    get_attributes(session, object, &one, 1);
    memset(inner, 0, sizeof inner);
    one = (CK_ATTRIBUTE){ type, inner, 0 };
    get_attributes(session, object, &one, 1);
    if (size > sizeof *inner) {
        one = (CK_ATTRIBUTE){ type, inner, size - sizeof *inner };
        get_attributes(session, object, &one, 1);
    }
    one = (CK_ATTRIBUTE){ type, inner, size + sizeof *inner <= sizeof inner ? size + sizeof *inner : size };
    get_attributes(session, object, &one, 1);
}

static void section_arrays(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE object;
    CK_ATTRIBUTE two_inside[] = { NUMBER(CKA_KEY_TYPE, CKK_AES), TEXT(CKA_LABEL, "wrapped") };
    CK_ATTRIBUTE many[] = { NUMBER(CKA_CLASS, CKO_SECRET_KEY), BOOL(CKA_EXTRACTABLE, 0), TEXT(CKA_ID, ""), { CKA_LABEL, NULL, 0 }, BOOL(CKA_SENSITIVE, 1) };
    CK_ATTRIBUTE deep_inside[] = { ARRAY(CKA_WRAP_TEMPLATE, two_inside), BOOL(CKA_TOKEN, 0) };
    CK_ATTRIBUTE deeper[] = { ARRAY(CKA_UNWRAP_TEMPLATE, deep_inside) };
    CK_ATTRIBUTE numbers[] = { { CKA_ALLOWED_MECHANISMS, (CK_MECHANISM_TYPE[]){ CKM_AES_GCM, CKM_AES_CBC }, 2 * sizeof(CK_MECHANISM_TYPE) } };
    CK_ATTRIBUTE odd[] = { { CKA_WRAP_TEMPLATE, two_inside, sizeof two_inside - 1 } };
    CK_ATTRIBUTE cases[][1] = {
        { ARRAY(CKA_WRAP_TEMPLATE, two_inside) }, { ARRAY(CKA_UNWRAP_TEMPLATE, two_inside) }, { ARRAY(CKA_DERIVE_TEMPLATE, two_inside) },
        { ARRAY(CKA_ENCAPSULATE_TEMPLATE, two_inside) }, { ARRAY(CKA_DECAPSULATE_TEMPLATE, two_inside) }, { ARRAY(CKA_WRAP_TEMPLATE, many) },
        { { CKA_WRAP_TEMPLATE, NULL, 0 } }, { { CKA_WRAP_TEMPLATE, two_inside, 0 } }, { ARRAY(CKA_WRAP_TEMPLATE, deep_inside) },
        { ARRAY(CKA_WRAP_TEMPLATE, deeper) }, { ARRAY(CKA_UNWRAP_TEMPLATE, numbers) }, { odd[0] },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        CK_ATTRIBUTE_TYPE type = cases[i]->type;
        CK_RV rv = create_object(session, T(SECRET, cases[i][0]), &object);
        if (rv != CKR_OK)
            continue;
        read_array(session, object, type);
        find_init(session, cases[i], 1);
        find_objects(session, 1, 5, 1);
        plain("C_FindObjectsFinal", session);
        destroy_object(session, object);
    }
    CK_MECHANISM_TYPE allowed[] = { CKM_SHA256_HMAC, CKM_AES_GCM, 0x80004711 }, room[5];
    const CK_ULONG counts[] = { 0, 1, 3 };
    for (size_t i = 0; i < COUNT(counts); i++) {
        create_object(session, T(SECRET, { CKA_ALLOWED_MECHANISMS, allowed, counts[i] * sizeof *allowed }), &object);
        for (CK_ULONG bytes = 0; bytes <= sizeof room; bytes += bytes == 24 ? 1 : 8) {
            memset(room, PATTERN, sizeof room);
            get_attributes(session, object, T({ CKA_ALLOWED_MECHANISMS, bytes ? room : NULL, bytes }));
            if (bytes % 8)
                break;
        }
    }
    create_object(session, T(SECRET, { CKA_ALLOWED_MECHANISMS, NULL, 0 }), &object);
    create_object(session, T(SECRET, { CKA_ALLOWED_MECHANISMS, allowed, 7 }), &object);
    /* Several arrays among other attributes, in one call. */
    create_object(session, T(SECRET, ARRAY(CKA_WRAP_TEMPLATE, two_inside), ARRAY(CKA_UNWRAP_TEMPLATE, many), TEXT(CKA_LABEL, "both")), &object);
    CK_ATTRIBUTE inner[5] = { 0 };
    area_used = 0;
    get_attributes(session, object, T({ CKA_LABEL, fresh(10), 10 }, { CKA_WRAP_TEMPLATE, inner, 2 * sizeof *inner }, { CKA_ID, NULL, 0 }, { CKA_UNWRAP_TEMPLATE, NULL, 0 }));
    set_attributes(session, object, T(ARRAY(CKA_WRAP_TEMPLATE, many)));
    copy_object(session, object, T(TEXT(CKA_LABEL, "copy"), ARRAY(CKA_UNWRAP_TEMPLATE, two_inside)), &object);
    stop();
}

static void section_attributes(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE data = 0, key = 0, other;
    create_object(session, T(NUMBER(CKA_CLASS, CKO_DATA), BOOL(CKA_TOKEN, 0), BOOL(CKA_PRIVATE, 0), TEXT(CKA_LABEL, "a label"), TEXT(CKA_APPLICATION, ""), VALUE(CKA_VALUE, DATA, 3000)), &data);
    create_object(session, T(NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), VALUE(CKA_VALUE, DATA, 16), BOOL(CKA_TOKEN, 0), BOOL(CKA_PRIVATE, 0), BOOL(CKA_SENSITIVE, 1), BOOL(CKA_EXTRACTABLE, 1), { CKA_LABEL, NULL, 0 }, VALUE(CKA_ID, DATA, 0)), &key);
    const CK_ULONG rooms[] = { 0, 1, 6, 7, 8, 4000 };
    for (size_t i = 0; i < COUNT(rooms); i++) {
        area_used = 0;
        get_attributes(session, data, T({ CKA_LABEL, fresh(rooms[i]), rooms[i] }));
        area_used = 0;
        get_attributes(session, data, T({ CKA_LABEL, fresh(rooms[i]), rooms[i] }, { CKA_APPLICATION, fresh(5), 5 }, { CKA_VALUE, fresh(rooms[i]), rooms[i] }, { CKA_CLASS, fresh(8), 8 }));
        area_used = 0;
        get_attributes(session, key, T({ CKA_LABEL, fresh(rooms[i]), rooms[i] }, { CKA_ID, fresh(rooms[i]), rooms[i] }, { CKA_VALUE, fresh(rooms[i]), rooms[i] }, { CKA_KEY_TYPE, fresh(rooms[i]), rooms[i] }));
    }
    get_attributes(session, data, T({ CKA_LABEL, NULL, 0 }, { CKA_APPLICATION, NULL, 0 }, { CKA_VALUE, NULL, 0 }, { CKA_CLASS, NULL, 0 }));
    get_attributes(session, key, T({ CKA_LABEL, NULL, 0 }, { CKA_VALUE, NULL, 0 }, { CKA_MODULUS, NULL, 0 }, { CKA_KEY_TYPE, NULL, 0 }));
    area_used = 0;
    get_attributes(session, key, T({ CKA_VALUE, fresh(16), 16 }));
    area_used = 0;
    get_attributes(session, key, T({ CKA_MODULUS, fresh(16), 16 }, { CKA_VALUE, fresh(16), 16 }, { 0x80004711, fresh(4), 4 }, { CKA_CLASS, fresh(8), 8 }));
    area_used = 0;
    get_attributes(session, key, T({ CKA_CLASS, fresh(7), 7 }, { CKA_VALUE, fresh(4), 4 }));
    area_used = 0;
    get_attributes(session, 4711, T({ CKA_CLASS, fresh(8), 8 }));
    get_attributes(session, data, NULL, 0);
    get_attributes(4711, data, T({ CKA_LABEL, NULL, 0 }));
    get_object_size(session, data, 1);
    get_object_size(session, data, 0);
    get_object_size(session, 4711, 1);
    set_attributes(session, data, T(TEXT(CKA_LABEL, "another")));
    set_attributes(session, data, T({ CKA_LABEL, NULL, 0 }));
    set_attributes(session, data, T(VALUE(CKA_LABEL, DATA, 0)));
    set_attributes(session, data, NULL, 0);
    set_attributes(session, data, T(NUMBER(CKA_CLASS, CKO_DATA)));
    set_attributes(session, 4711, T(TEXT(CKA_LABEL, "another")));
    area_used = 0;
    get_attributes(session, data, T({ CKA_LABEL, fresh(20), 20 }));
    copy_object(session, data, NULL, 0, &other);
    copy_object(session, data, T(TEXT(CKA_LABEL, "copy")), &other);
    copy_object(session, data, T({ CKA_LABEL, NULL, 0 }), NULL);
    copy_object(session, 4711, T(TEXT(CKA_LABEL, "copy")), &other);
    create_object(session, NULL, 0, &other);
    create_object(session, T(NUMBER(CKA_CLASS, CKO_DATA)), NULL);
    create_object(session, T({ CKA_CLASS, NULL, 0 }), &other);
    create_object(session, T({ CKA_CLASS, DATA, 0 }), &other);
    create_object(session, T(VALUE(CKA_CLASS, DATA, 4), BOOL(CKA_TOKEN, 0)), &other);
    create_object(session, T(NUMBER(CKA_CLASS, CKO_DATA), VALUE(CKA_TOKEN, DATA, 8)), &other);
    create_object(session, T(NUMBER(CKA_CLASS, CKO_DATA), VALUE(CKA_TOKEN, DATA + 2, 1), TEXT(CKA_LABEL, "two is no truth value")), &other);
    create_object(session, T(NUMBER(CKA_CLASS, CKO_DATA), BOOL(CKA_TOKEN, 0), VALUE(0x80004711, DATA, 5)), &other);
    create_object(session, T(NUMBER(CKA_CLASS, CKO_DATA), BOOL(CKA_TOKEN, 0), TEXT(CKA_LABEL, "1"), TEXT(CKA_LABEL, "2")), &other);
    create_object(session, T(NUMBER(CKA_CLASS, 0xfedcba9876543210), BOOL(CKA_TOKEN, 0)), &other);
    destroy_object(session, data);
    destroy_object(session, data);
    stop();
}

static void section_find(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE object;
    for (CK_BYTE i = 0; i < 5; i++)
        create_object(session, T(NUMBER(CKA_CLASS, CKO_DATA), BOOL(CKA_TOKEN, 0), BOOL(CKA_PRIVATE, 0), TEXT(CKA_LABEL, "found"), VALUE(CKA_VALUE, DATA + i, i), TEXT(CKA_APPLICATION, "")), &object);
    find_init(session, NULL, 0);
    find_objects(session, 1, 0, 1);
    find_objects(session, 1, 1, 1);
    find_objects(session, 1, 2, 1);
    find_objects(session, 1, 100, 1);
    find_objects(session, 1, 100, 1);
    plain("C_FindObjectsFinal", session);
    plain("C_FindObjectsFinal", session);
    find_objects(session, 1, 1, 1);
    find_init(session, T(TEXT(CKA_LABEL, "found"), NUMBER(CKA_CLASS, CKO_DATA)));
    find_init(session, T(TEXT(CKA_LABEL, "found")));
    find_objects(session, 1, 3, 1);
    plain("C_FindObjectsFinal", session);
    find_init(session, T(VALUE(CKA_VALUE, DATA, 0)));
    find_objects(session, 1, 30, 1);
    plain("C_FindObjectsFinal", session);
    find_init(session, T({ CKA_VALUE, NULL, 0 }));
    find_objects(session, 1, 30, 1);
    plain("C_FindObjectsFinal", session);
    find_init(session, T(NUMBER(CKA_CLASS, CKO_DATA), { CKA_APPLICATION, NULL, 0 }));
    find_objects(session, 1, 30, 0);
    find_objects(session, 0, 0, 1);
    find_objects(session, 0, 3, 1);
    plain("C_FindObjectsFinal", session);
    find_init(4711, NULL, 0);
    find_objects(4711, 1, 1, 1);
    plain("C_FindObjectsFinal", 4711);
    stop();
}

/* ---- Sections: keys -------------------------------------------------------------------------------------- */

static void section_keys(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = secret(CKK_AES, 16), private = rsa_private(), public = rsa_public(), made, other;
    generate_key(session, M(CKM_AES_KEY_GEN), T(NUMBER(CKA_VALUE_LEN, 16), BOOL(CKA_TOKEN, 0)), &made);
    generate_key(session, M(CKM_AES_KEY_GEN), NULL, 0, &made);
    generate_key(session, M(CKM_AES_KEY_GEN), T(NUMBER(CKA_VALUE_LEN, 16), BOOL(CKA_TOKEN, 0)), NULL);
    generate_key(session, MB(CKM_AES_KEY_GEN, DATA, 0), T(NUMBER(CKA_VALUE_LEN, 16), BOOL(CKA_TOKEN, 0)), &made);
    generate_key(session, M(0x80004711), T(NUMBER(CKA_VALUE_LEN, 16)), &made);
    CK_BYTE vector[8];
    memset(vector, PATTERN, sizeof vector);
    CK_PBE_PARAMS pbe = { vector, (CK_UTF8CHAR *)"password", 8, DATA, 4, 1000 };
    generate_key(session, MP(CKM_PBE_SHA1_DES3_EDE_CBC, pbe), T(BOOL(CKA_TOKEN, 0)), &made);
    pbe = (CK_PBE_PARAMS){ NULL, NULL, 0, DATA, 0, 1 };
    generate_key(session, MP(CKM_PBE_SHA1_DES3_EDE_CBC, pbe), T(BOOL(CKA_TOKEN, 0)), &made);
    /* It is ignored, so anything may be there. */
    pbe = (CK_PBE_PARAMS){ (CK_BYTE *)3, (CK_UTF8CHAR *)"password", 8, DATA, 4, 1000 };
    generate_key(session, MP(CKM_PBA_SHA1_WITH_SHA1_HMAC, pbe), T(BOOL(CKA_TOKEN, 0)), &made);
    generate_key(session, MP(CKM_PBE_SHA1_RC4_128, pbe), T(BOOL(CKA_TOKEN, 0)), &made);
    CK_PKCS5_PBKD2_PARAMS2 pbkd2 = { CKZ_SALT_SPECIFIED, DATA, 16, 1000, CKP_PKCS5_PBKD2_HMAC_SHA256, NULL, 0, (CK_UTF8CHAR *)"password", 8 };
    generate_key(session, MP(CKM_PKCS5_PBKD2, pbkd2), T(NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), NUMBER(CKA_VALUE_LEN, 16)), &made);
    CK_DSA_PARAMETER_GEN_PARAM dsa = { CKM_SHA256, DATA, 20, 1 };
    generate_key(session, MP(CKM_DSA_FIPS_G_GEN, dsa), T(BOOL(CKA_TOKEN, 0)), &made);
    generate_key_pair(session, M(CKM_EC_KEY_PAIR_GEN), T(VALUE(CKA_EC_PARAMS, P256, sizeof P256), BOOL(CKA_TOKEN, 0)), T(BOOL(CKA_TOKEN, 0), BOOL(CKA_SIGN, 1)), &made, &other);
    generate_key_pair(session, M(CKM_EC_KEY_PAIR_GEN), T(VALUE(CKA_EC_PARAMS, P256, sizeof P256), BOOL(CKA_TOKEN, 0)), NULL, 0, &made, &other);
    generate_key_pair(session, M(CKM_EC_KEY_PAIR_GEN), NULL, 0, NULL, 0, &made, &other);
    generate_key_pair(session, M(CKM_EC_KEY_PAIR_GEN), T(VALUE(CKA_EC_PARAMS, P256, sizeof P256), BOOL(CKA_TOKEN, 0)), T(BOOL(CKA_TOKEN, 0)), NULL, &other);
    generate_key_pair(session, M(CKM_EC_KEY_PAIR_GEN), T(VALUE(CKA_EC_PARAMS, P256, sizeof P256), BOOL(CKA_TOKEN, 0)), T(BOOL(CKA_TOKEN, 0)), &made, NULL);
    const struct room rooms[] = { NOWHERE, SPACE(0), SPACE(23), SPACE(24), SPACE(200), NO_LENGTH, NOTHING };
    for (size_t i = 0; i < COUNT(rooms); i++) {
        wrap_key(session, M(CKM_AES_KEY_WRAP), key, key, rooms[i]);
        wrap_authenticated(session, M(CKM_AES_KEY_WRAP), key, key, i % 2 ? NO : B(DATA, 9), rooms[i]);
    }
    wrap_key(session, M(CKM_AES_KEY_WRAP), key, key, SPACE(100));
    unwrap_key(session, M(CKM_AES_KEY_WRAP), key, B(kept, kept_length), T(NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), BOOL(CKA_TOKEN, 0), BOOL(CKA_SENSITIVE, 0), BOOL(CKA_EXTRACTABLE, 1)), &made);
    area_used = 0;
    get_attributes(session, made, T({ CKA_VALUE, fresh(32), 32 }));
    wrap_key(session, M(CKM_AES_KEY_WRAP), key, 4711, SPACE(100));
    wrap_key(session, M(CKM_AES_KEY_WRAP), 4711, key, SPACE(100));
    hidden = 1;
    CK_RSA_PKCS_OAEP_PARAMS oaep = { CKM_SHA_1, CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, DATA, 5 };
    wrap_key(session, MP(CKM_RSA_PKCS_OAEP, oaep), public, key, SPACE(128));
    CK_RSA_AES_KEY_WRAP_PARAMS rsa_aes = { 256, &oaep };
    wrap_key(session, MP(CKM_RSA_AES_KEY_WRAP, rsa_aes), public, private, SPACE(2000));
    rsa_aes.pOAEPParams = NULL;
    wrap_key(session, MP(CKM_RSA_AES_KEY_WRAP, rsa_aes), public, private, SPACE(2000));
    CK_ECDH_AES_KEY_WRAP_PARAMS ecdh_aes = { 256, CKD_NULL, 3, DATA };
    wrap_key(session, MP(CKM_ECDH_AES_KEY_WRAP, ecdh_aes), public, key, SPACE(2000));
    CK_GOSTR3410_KEY_WRAP_PARAMS gost = { DATA, 5, DATA, 8, key };
    wrap_key(session, MP(CKM_GOSTR3410_KEY_WRAP, gost), public, key, SPACE(2000));
    CK_KEY_WRAP_SET_OAEP_PARAMS set = { 3, DATA, 5 };
    wrap_key(session, MP(CKM_KEY_WRAP_SET_OAEP, set), public, key, SPACE(2000));
    CK_SKIPJACK_PRIVATE_WRAP_PARAMS skipjack = { 4, DATA, 5, DATA, 6, 7, 8, DATA, DATA, DATA, DATA };
    wrap_key(session, MP(CKM_SKIPJACK_PRIVATE_WRAP, skipjack), public, key, SPACE(2000));
    CK_SKIPJACK_RELAYX_PARAMS relay = { 1, DATA, 2, DATA, 3, DATA, 4, DATA, 5, DATA, 6, DATA, 7, DATA };
    wrap_key(session, MP(CKM_SKIPJACK_RELAYX, relay), public, key, SPACE(2000));
    hidden = 0;
    const struct in wrapped[] = { NO, EMPTY, B(DATA, 8), B(DATA, 24), B(DATA, 500) };
    for (size_t i = 0; i < COUNT(wrapped); i++) {
        unwrap_key(session, M(CKM_AES_KEY_WRAP), key, wrapped[i], T(NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), BOOL(CKA_TOKEN, 0)), &made);
        unwrap_key(session, M(CKM_AES_KEY_WRAP), key, wrapped[i], NULL, 0, &made);
        unwrap_authenticated(session, M(CKM_AES_KEY_WRAP), key, wrapped[i], T(NUMBER(CKA_CLASS, CKO_SECRET_KEY)), i % 2 ? EMPTY : B(DATA, 3), &made);
    }
    unwrap_key(session, M(CKM_AES_KEY_WRAP), key, B(DATA, 24), T(NUMBER(CKA_CLASS, CKO_SECRET_KEY)), NULL);
    CK_BYTE iv[12] = { 0 };
    CK_GCM_WRAP_PARAMS gcm = { iv, 12, 32, CKG_GENERATE_RANDOM, NULL, 0, 128 };
    wrap_authenticated(session, MP(CKM_AES_GCM, gcm), key, key, B(DATA, 3), NOWHERE);
    wrap_authenticated(session, MP(CKM_AES_GCM, gcm), key, key, B(DATA, 3), SPACE(100));
    unwrap_authenticated(session, MP(CKM_AES_GCM, gcm), key, B(DATA, 40), T(NUMBER(CKA_CLASS, CKO_SECRET_KEY)), B(DATA, 3), &made);
    CK_CCM_WRAP_PARAMS ccm = { 16, iv, 12, 20, CKG_GENERATE, DATA, 3, 16 };
    wrap_authenticated(session, MP(CKM_AES_CCM, ccm), key, key, EMPTY, SPACE(100));
    wrap_key(session, MP(CKM_AES_CCM, ccm), key, key, SPACE(100));
    generate_key(session, MB(0x80004711, DATA, 24), T(NUMBER(CKA_VALUE_LEN, 16)), &made);
    stop();
}

static void section_derive(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE base = secret(CKK_GENERIC_SECRET, 48), aes = secret(CKK_AES, 16), ec = ec_private(), made, extra[3];
#define NEW T(NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_GENERIC_SECRET), NUMBER(CKA_VALUE_LEN, 16), BOOL(CKA_TOKEN, 0), BOOL(CKA_SENSITIVE, 0), BOOL(CKA_EXTRACTABLE, 1))
#define DERIVE(mechanism, from) \
    do { \
        if (derive_key(session, mechanism, from, NEW, &made) == CKR_OK && made != NO_HANDLE) \
            area_used = 0, get_attributes(session, made, T({ CKA_VALUE, fresh(64), 64 }, { CKA_VALUE_LEN, fresh(8), 8 })); \
    } while (0)
    CK_ECDH1_DERIVE_PARAMS ecdh[] = {
        { CKD_NULL, 0, NULL, sizeof POINT, (CK_BYTE *)(uintptr_t)POINT }, { CKD_NULL, 0, DATA, sizeof POINT, (CK_BYTE *)(uintptr_t)POINT },
        { CKD_SHA256_KDF, 5, DATA, sizeof POINT, (CK_BYTE *)(uintptr_t)POINT }, { CKD_NULL, 0, NULL, 0, NULL },
        { CKD_NULL, 0, NULL, 0, DATA }, { CKD_NULL, 0, NULL, 20, DATA },
    };
    for (size_t i = 0; i < COUNT(ecdh); i++)
        DERIVE(MP(CKM_ECDH1_DERIVE, ecdh[i]), ec);
    DERIVE(M(CKM_ECDH1_DERIVE), ec);
    DERIVE(MP(CKM_ECDH1_COFACTOR_DERIVE, ecdh[0]), ec);
    CK_AES_CBC_ENCRYPT_DATA_PARAMS cbc[] = { { { 1, 2 }, DATA, 32 }, { { 1, 2 }, DATA, 0 }, { { 0 }, NULL, 0 }, { { 3 }, DATA, 15 } };
    for (size_t i = 0; i < COUNT(cbc); i++)
        DERIVE(MP(CKM_AES_CBC_ENCRYPT_DATA, cbc[i]), aes);
    CK_DES_CBC_ENCRYPT_DATA_PARAMS des = { { 1, 2 }, DATA, 32 };
    DERIVE(MP(CKM_DES3_CBC_ENCRYPT_DATA, des), aes);
    CK_KEY_DERIVATION_STRING_DATA strings[] = { { DATA, 32 }, { DATA, 0 }, { NULL, 0 } };
    for (size_t i = 0; i < COUNT(strings); i++) {
        DERIVE(MP(CKM_AES_ECB_ENCRYPT_DATA, strings[i]), aes);
        DERIVE(MP(CKM_CONCATENATE_BASE_AND_DATA, strings[i]), base);
        DERIVE(MP(CKM_XOR_BASE_AND_DATA, strings[i]), base);
    }
    DERIVE(MB(CKM_CONCATENATE_BASE_AND_KEY, &aes, sizeof aes), base);
    DERIVE(MB(CKM_EXTRACT_KEY_FROM_KEY, &(CK_ULONG){ 3 }, sizeof(CK_ULONG)), base);
    CK_HKDF_PARAMS hkdf[] = {
        { 1, 1, CKM_SHA256, CKF_HKDF_SALT_DATA, DATA, 8, 0, DATA, 4 }, { 0, 1, CKM_SHA256, CKF_HKDF_SALT_NULL, NULL, 0, 0, NULL, 0 },
        { 1, 0, CKM_SHA256, CKF_HKDF_SALT_KEY, NULL, 0, aes, DATA, 0 },
    };
    for (size_t i = 0; i < COUNT(hkdf); i++)
        DERIVE(MP(CKM_HKDF_DERIVE, hkdf[i]), base);
    CK_SP800_108_COUNTER_FORMAT counter;
    CK_SP800_108_DKM_LENGTH_FORMAT length;
    memset(&counter, 0, sizeof counter), memset(&length, 0, sizeof length);
    counter.ulWidthInBits = 32, length.dkmLengthMethod = CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS, length.bLittleEndian = 1, length.ulWidthInBits = 16;
    CK_PRF_DATA_PARAM data[] = {
        { CK_SP800_108_ITERATION_VARIABLE, &counter, sizeof counter }, { CK_SP800_108_BYTE_ARRAY, DATA, 7 },
        { CK_SP800_108_DKM_LENGTH, &length, sizeof length }, { CK_SP800_108_KEY_HANDLE, &aes, sizeof aes }, { CK_SP800_108_BYTE_ARRAY, DATA, 0 },
    };
    CK_ATTRIBUTE first[] = { NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_VALUE_LEN, 24) }, inside[] = { BOOL(CKA_EXTRACTABLE, 0) }, second[] = { ARRAY(CKA_WRAP_TEMPLATE, inside) };
    for (size_t i = 0; i < COUNT(extra); i++)
        extra[i] = NO_HANDLE;
    CK_DERIVED_KEY keys[] = { { first, 2, &extra[0] }, { second, 1, &extra[1] }, { NULL, 0, &extra[2] } };
    CK_SP800_108_KDF_PARAMS kdf[] = { { CKM_SHA256_HMAC, 5, data, 3, keys }, { CKM_SHA256_HMAC, 1, data, 0, NULL }, { CKM_AES_CMAC, 0, NULL, 0, keys } };
    for (size_t i = 0; i < COUNT(kdf); i++)
        DERIVE(MP(CKM_SP800_108_COUNTER_KDF, kdf[i]), base);
    data[0] = (CK_PRF_DATA_PARAM){ CK_SP800_108_ITERATION_VARIABLE, NULL, 0 };
    CK_SP800_108_FEEDBACK_KDF_PARAMS feedback = { CKM_SHA256_HMAC, 2, data, 16, IV, 1, keys };
    DERIVE(MP(CKM_SP800_108_FEEDBACK_KDF, feedback), base);
    feedback.pIV = NULL, feedback.ulIVLen = 0;
    DERIVE(MP(CKM_SP800_108_FEEDBACK_KDF, feedback), base);
    CK_SSL3_RANDOM_DATA randoms = { DATA, 32, DATA + 32, 28 };
    CK_VERSION version = { 9, 9 };
    CK_SSL3_MASTER_KEY_DERIVE_PARAMS master = { randoms, &version };
    DERIVE(MP(CKM_TLS_MASTER_KEY_DERIVE, master), base);
    master.pVersion = NULL;
    DERIVE(MP(CKM_TLS_MASTER_KEY_DERIVE_DH, master), base);
    version = (CK_VERSION){ 9, 9 };
    CK_TLS12_MASTER_KEY_DERIVE_PARAMS master12 = { randoms, &version, CKM_SHA256 };
    DERIVE(MP(CKM_TLS12_MASTER_KEY_DERIVE, master12), base);
    version = (CK_VERSION){ 9, 9 };
    CK_TLS12_EXTENDED_MASTER_KEY_DERIVE_PARAMS extended = { CKM_SHA256, DATA, 32, &version };
    DERIVE(MP(CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE, extended), base);
    CK_BYTE client[16], server[16];
    memset(client, PATTERN, 16), memset(server, PATTERN, 16);
    CK_SSL3_KEY_MAT_OUT material = { NO_HANDLE, NO_HANDLE, NO_HANDLE, NO_HANDLE, client, server };
    CK_SSL3_KEY_MAT_PARAMS key_material = { 160, 128, 120, 0, randoms, &material };
    derive_key(session, MP(CKM_TLS_KEY_AND_MAC_DERIVE, key_material), base, NULL, 0, NULL);
    material = (CK_SSL3_KEY_MAT_OUT){ NO_HANDLE, NO_HANDLE, NO_HANDLE, NO_HANDLE, NULL, server };
    CK_TLS12_KEY_MAT_PARAMS key_material12 = { 160, 128, 64, 1, randoms, &material, CKM_SHA384 };
    derive_key(session, MP(CKM_TLS12_KEY_AND_MAC_DERIVE, key_material12), base, NEW, NULL);
    key_material12.pReturnedKeyMaterial = NULL;
    derive_key(session, MP(CKM_TLS12_KEY_AND_MAC_DERIVE, key_material12), base, NULL, 0, NULL);
    /* Its IVs are ignored, so anything may be there, whatever ulIVSizeInBits says. */
    material = (CK_SSL3_KEY_MAT_OUT){ NO_HANDLE, NO_HANDLE, NO_HANDLE, NO_HANDLE, (CK_BYTE *)3, (CK_BYTE *)5 };
    key_material12 = (CK_TLS12_KEY_MAT_PARAMS){ 160, 128, 128, 0, randoms, &material, CKM_SHA256 };
    derive_key(session, MP(CKM_TLS12_KEY_SAFE_DERIVE, key_material12), base, NULL, 0, NULL);
    CK_WTLS_KEY_MAT_OUT wireless = { NO_HANDLE, NO_HANDLE, client };
    CK_WTLS_KEY_MAT_PARAMS wtls = { CKM_SHA_1, 160, 128, 64, 7, 0, { DATA, 16, DATA, 16 }, &wireless };
    derive_key(session, MP(CKM_WTLS_SERVER_KEY_AND_MAC_DERIVE, wtls), base, NULL, 0, NULL);
    CK_BYTE wtls_version = 9;
    CK_WTLS_MASTER_KEY_DERIVE_PARAMS wtls_master = { CKM_SHA_1, { DATA, 16, NULL, 0 }, &wtls_version };
    DERIVE(MP(CKM_WTLS_MASTER_KEY_DERIVE, wtls_master), base);
    CK_BYTE output[40];
    CK_ULONG output_length = 33;
    memset(output, PATTERN, sizeof output);
    CK_TLS_PRF_PARAMS prf = { DATA, 20, (CK_BYTE *)"label", 5, output, &output_length };
    derive_key(session, MP(CKM_TLS_PRF, prf), base, NULL, 0, NULL);
    prf = (CK_TLS_PRF_PARAMS){ NULL, 0, NULL, 0, NULL, &output_length };
    derive_key(session, MP(CKM_TLS_PRF, prf), base, NULL, 0, NULL);
    prf.pulOutputLen = NULL;
    derive_key(session, MP(CKM_TLS_PRF, prf), base, NULL, 0, NULL);
    CK_WTLS_PRF_PARAMS wtls_prf = { CKM_SHA_1, DATA, 20, (CK_BYTE *)"label", 5, output, &output_length };
    derive_key(session, MP(CKM_WTLS_PRF, wtls_prf), base, NULL, 0, NULL);
    CK_TLS_KDF_PARAMS tls_kdf = { CKM_SHA256, (CK_BYTE *)"label", 5, randoms, DATA, 3 };
    DERIVE(MP(CKM_TLS_KDF, tls_kdf), base);
    CK_IKE_PRF_DERIVE_PARAMS ike = { CKM_SHA256_HMAC, 1, 0, DATA, 8, DATA, 9, aes };
    DERIVE(MP(CKM_IKE_PRF_DERIVE, ike), base);
    CK_IKE1_PRF_DERIVE_PARAMS ike1 = { CKM_SHA256_HMAC, 1, aes, base, DATA, 8, DATA, 8, 2 };
    DERIVE(MP(CKM_IKE1_PRF_DERIVE, ike1), base);
    CK_IKE1_EXTENDED_DERIVE_PARAMS ike1_extended = { CKM_SHA256_HMAC, 0, 0, DATA, 8 };
    DERIVE(MP(CKM_IKE1_EXTENDED_DERIVE, ike1_extended), base);
    CK_IKE2_PRF_PLUS_DERIVE_PARAMS ike2 = { CKM_SHA256_HMAC, 1, aes, DATA, 30 };
    DERIVE(MP(CKM_IKE2_PRF_PLUS_DERIVE, ike2), base);
    CK_ECMQV_DERIVE_PARAMS mqv = { CKD_SHA1_KDF, 2, DATA, 65, (CK_BYTE *)(uintptr_t)POINT, 32, ec, 65, (CK_BYTE *)(uintptr_t)POINT, base };
    DERIVE(MP(CKM_ECMQV_DERIVE, mqv), ec);
    CK_X9_42_DH1_DERIVE_PARAMS dh1 = { CKD_NULL, 0, NULL, 64, DATA };
    DERIVE(MP(CKM_X9_42_DH_DERIVE, dh1), base);
    CK_X9_42_DH2_DERIVE_PARAMS dh2 = { CKD_SHA1_KDF_ASN1, 3, DATA, 64, DATA, 20, aes, 65, DATA };
    DERIVE(MP(CKM_X9_42_DH_HYBRID_DERIVE, dh2), base);
    CK_X9_42_MQV_DERIVE_PARAMS dh3 = { CKD_SHA1_KDF_ASN1, 3, DATA, 64, DATA, 20, aes, 65, DATA, ec };
    DERIVE(MP(CKM_X9_42_MQV_DERIVE, dh3), base);
    CK_KEA_DERIVE_PARAMS kea = { 1, 16, DATA, DATA + 16, 64, DATA };
    DERIVE(MP(CKM_KEA_DERIVE, kea), base);
    CK_GOSTR3410_DERIVE_PARAMS gost = { CKD_CPDIVERSIFY_KDF, DATA, 64, DATA, 8 };
    DERIVE(MP(CKM_GOSTR3410_DERIVE, gost), base);
    CK_MECHANISM kip_mechanism = { CKM_AES_CBC, IV, 16 };
    CK_KIP_PARAMS kip = { &kip_mechanism, aes, DATA, 5 };
    DERIVE(MP(CKM_KIP_DERIVE, kip), base);
    kip = (CK_KIP_PARAMS){ NULL, aes, NULL, 0 };
    DERIVE(MP(CKM_KIP_DERIVE, kip), base);
    derive_key(session, MP(CKM_AES_ECB_ENCRYPT_DATA, strings[0]), aes, NULL, 0, &made);
    derive_key(session, MP(CKM_AES_ECB_ENCRYPT_DATA, strings[0]), aes, NEW, NULL);
    derive_key(session, MB(0x80004711, DATA, 33), aes, NEW, &made);
    stop();
}

/* ---- Sections: PKCS#11 3.0 and 3.2 ------------------------------------------------------------------------ */

static void section_messages(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = secret(CKK_AES, 16);
    CK_BYTE iv[16], tag[32];
#define FRESH_PARAMETER do { memcpy(iv, DATA, sizeof iv); memset(tag, PATTERN, sizeof tag); } while (0)
    const struct { CK_GENERATOR_FUNCTION generator; CK_ULONG fixed, tag_bits; } ways[] = {
        { CKG_NO_GENERATE, 0, 128 }, { CKG_GENERATE_RANDOM, 0, 96 }, { CKG_GENERATE_COUNTER, 36, 128 }, { CKG_GENERATE, 96, 0 },
    };
    for (size_t i = 0; i < COUNT(ways); i++) {
        CK_GCM_MESSAGE_PARAMS gcm = { iv, 12, ways[i].fixed, ways[i].generator, tag, ways[i].tag_bits };
        struct in parameter = B(&gcm, sizeof gcm);
        FRESH_PARAMETER;
        hidden = ways[i].generator != CKG_NO_GENERATE;
        init("C_MessageEncryptInit", session, M(CKM_AES_GCM), key);
        whole_message("C_EncryptMessage", session, CKM_AES_GCM, parameter, NO, B(DATA, 20), NOWHERE);
        whole_message("C_EncryptMessage", session, CKM_AES_GCM, parameter, NO, B(DATA, 20), SPACE(19));
        FRESH_PARAMETER;
        whole_message("C_EncryptMessage", session, CKM_AES_GCM, parameter, EMPTY, B(DATA, 20), SPACE(20));
        FRESH_PARAMETER;
        whole_message("C_EncryptMessage", session, CKM_AES_GCM, parameter, B(DATA, 7), NO, SPACE(20));
        FRESH_PARAMETER;
        whole_message("C_EncryptMessage", session, CKM_AES_GCM, parameter, B(DATA, 7), EMPTY, SPACE(20));
        FRESH_PARAMETER;
        begin_message("C_EncryptMessageBegin", session, CKM_AES_GCM, parameter, B(DATA, 5));
        next_message("C_EncryptMessageNext", session, CKM_AES_GCM, parameter, B(DATA, 16), NOWHERE, 0);
        next_message("C_EncryptMessageNext", session, CKM_AES_GCM, parameter, B(DATA, 16), SPACE(16), 0);
        next_message("C_EncryptMessageNext", session, CKM_AES_GCM, parameter, EMPTY, SPACE(16), 0);
        next_message("C_EncryptMessageNext", session, CKM_AES_GCM, parameter, B(DATA, 4), SPACE(16), CKF_END_OF_MESSAGE);
        plain("C_MessageEncryptFinal", session);
        hidden = 0;
        FRESH_PARAMETER;
        init("C_MessageDecryptInit", session, MP(CKM_AES_GCM, gcm), key);
        whole_message("C_DecryptMessage", session, CKM_AES_GCM, parameter, NO, B(DATA, 20), NOWHERE);
        whole_message("C_DecryptMessage", session, CKM_AES_GCM, parameter, B(DATA, 2), B(DATA, 20), SPACE(30));
        begin_message("C_DecryptMessageBegin", session, CKM_AES_GCM, parameter, NO);
        next_message("C_DecryptMessageNext", session, CKM_AES_GCM, parameter, B(DATA, 16), SPACE(16), 0);
        next_message("C_DecryptMessageNext", session, CKM_AES_GCM, parameter, NO, SPACE(16), CKF_END_OF_MESSAGE);
        plain("C_MessageDecryptFinal", session);
        plain("C_MessageDecryptFinal", session);
        session = renewed(session);
    }
    FRESH_PARAMETER;
    CK_GCM_MESSAGE_PARAMS bare = { NULL, 0, 0, CKG_NO_GENERATE, NULL, 0 };
    init("C_MessageEncryptInit", session, MP(CKM_AES_GCM, bare), key);
    whole_message("C_EncryptMessage", session, CKM_AES_GCM, B(&bare, sizeof bare), NO, B(DATA, 20), SPACE(20));
    whole_message("C_EncryptMessage", session, CKM_AES_GCM, NO, NO, B(DATA, 20), SPACE(20));
    whole_message("C_EncryptMessage", session, CKM_AES_GCM, EMPTY, NO, B(DATA, 20), SPACE(20));
    session = renewed(session);
    CK_CCM_MESSAGE_PARAMS ccm = { 20, iv, 12, 16, CKG_GENERATE_COUNTER, tag, 16 };
    hidden = 1;
    init("C_MessageEncryptInit", session, M(CKM_AES_CCM), key);
    whole_message("C_EncryptMessage", session, CKM_AES_CCM, B(&ccm, sizeof ccm), B(DATA, 3), B(DATA, 20), SPACE(20));
    hidden = 0;
    FRESH_PARAMETER;
    init("C_MessageDecryptInit", session, M(CKM_AES_CCM), key);
    whole_message("C_DecryptMessage", session, CKM_AES_CCM, B(&ccm, sizeof ccm), B(DATA, 3), B(DATA, 20), SPACE(20));
    session = renewed(session);
    FRESH_PARAMETER;
    CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS poly = { iv, 12, tag };
    init("C_MessageEncryptInit", session, M(CKM_CHACHA20_POLY1305), key);
    whole_message("C_EncryptMessage", session, CKM_CHACHA20_POLY1305, B(&poly, sizeof poly), B(DATA, 3), B(DATA, 20), SPACE(20));
    poly.pTag = NULL;
    whole_message("C_EncryptMessage", session, CKM_CHACHA20_POLY1305, B(&poly, sizeof poly), B(DATA, 3), B(DATA, 20), SPACE(20));
    session = renewed(session);
    init("C_MessageSignInit", session, M(CKM_SHA256_HMAC), key);
    sign_message(session, CKM_SHA256_HMAC, NO, B(DATA, 20), NOWHERE, 0);
    sign_message(session, CKM_SHA256_HMAC, NO, B(DATA, 20), SPACE(10), 0);
    sign_message(session, CKM_SHA256_HMAC, EMPTY, B(DATA, 20), SPACE(64), 0);
    sign_message(session, CKM_SHA256_HMAC, B(DATA, 5), EMPTY, SPACE(64), 0);
    begin_signature(session, CKM_SHA256_HMAC, NO, 0);
    sign_message(session, CKM_SHA256_HMAC, NO, B(DATA, 20), NOTHING, 1);
    sign_message(session, CKM_SHA256_HMAC, NO, EMPTY, NOTHING, 1);
    sign_message(session, CKM_SHA256_HMAC, NO, B(DATA, 2), NOWHERE, 1);
    sign_message(session, CKM_SHA256_HMAC, NO, B(DATA, 2), SPACE(64), 1);
    plain("C_MessageSignFinal", session);
    init("C_MessageVerifyInit", session, M(CKM_SHA256_HMAC), key);
    verify_message(session, CKM_SHA256_HMAC, NO, B(DATA, 20), B(DATA, 64), 0);
    verify_message(session, CKM_SHA256_HMAC, NO, EMPTY, EMPTY, 0);
    begin_signature(session, CKM_SHA256_HMAC, B(DATA, 3), 1);
    verify_message(session, CKM_SHA256_HMAC, NO, B(DATA, 20), NO, 1);
    verify_message(session, CKM_SHA256_HMAC, NO, B(DATA, 20), EMPTY, 1);
    verify_message(session, CKM_SHA256_HMAC, NO, B(DATA, 20), B(DATA, 64), 1);
    plain("C_MessageVerifyFinal", session);
    plain("C_MessageVerifyFinal", session);
    /* What is encrypted with an IV of the application's comes back. */
    CK_GCM_MESSAGE_PARAMS own = { iv, 12, 0, CKG_NO_GENERATE, tag, 128 };
    FRESH_PARAMETER;
    init("C_MessageEncryptInit", session, M(CKM_AES_GCM), key);
    init("C_MessageDecryptInit", session, M(CKM_AES_GCM), key);
    whole_message("C_EncryptMessage", session, CKM_AES_GCM, B(&own, sizeof own), B(DATA, 5), B(DATA, 20), SPACE(20));
    whole_message("C_DecryptMessage", session, CKM_AES_GCM, B(&own, sizeof own), B(DATA, 5), B(kept, kept_length), SPACE(20));
    session = renewed(session);
    /* Without an operation, nobody knows what a parameter is. */
    whole_message("C_EncryptMessage", session, CKM_AES_GCM, NO, NO, B(DATA, 20), SPACE(20));
    begin_message("C_DecryptMessageBegin", session, CKM_AES_GCM, NO, NO);
    sign_message(session, CKM_SHA256_HMAC, NO, B(DATA, 20), SPACE(64), 0);
    begin_signature(session, CKM_SHA256_HMAC, NO, 1);
    init("C_MessageEncryptInit", session, NULL, 0);
    init("C_MessageEncryptInit", session, M(CKM_AES_GCM), key);
    init("C_MessageEncryptInit", session, M(CKM_AES_GCM), key);
    session_cancel(session, CKF_MESSAGE_ENCRYPT);
    init("C_MessageEncryptInit", session, M(CKM_AES_GCM), key);
    init("C_MessageEncryptInit", session, NULL, 0);
    init("C_MessageEncryptInit", session, M(0x80004711), key);
    stop();
}

/* The message functions without a place for the length, which is no way to ask for more. */
static void section_nolength(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = secret(CKK_AES, 16);
    CK_BYTE iv[16] = { 0 }, tag[16] = { 0 };
    CK_GCM_MESSAGE_PARAMS gcm = { iv, 12, 0, CKG_NO_GENERATE, tag, 128 };
    struct in parameter = B(&gcm, sizeof gcm);
    init("C_MessageEncryptInit", session, M(CKM_AES_GCM), key);
    whole_message("C_EncryptMessage", session, CKM_AES_GCM, parameter, B(DATA, 7), B(DATA, 20), NO_LENGTH);
    next_message("C_EncryptMessageNext", session, CKM_AES_GCM, parameter, B(DATA, 20), NO_LENGTH, 0);
    init("C_MessageDecryptInit", session, M(CKM_AES_GCM), key);
    whole_message("C_DecryptMessage", session, CKM_AES_GCM, parameter, B(DATA, 7), B(DATA, 20), NOTHING);
    init("C_MessageSignInit", session, M(CKM_SHA256_HMAC), key);
    sign_message(session, CKM_SHA256_HMAC, NO, B(DATA, 20), NO_LENGTH, 0);
    sign_message(session, CKM_SHA256_HMAC, NO, B(DATA, 20), NO_LENGTH, 1);
    stop();
}

static void section_latest(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = secret(CKK_GENERIC_SECRET, 32), made;
    const struct room rooms[] = { NOWHERE, SPACE(0), SPACE(47), SPACE(48), SPACE(2000), NO_LENGTH, NOTHING };
    for (size_t i = 0; i < COUNT(rooms); i++)
        encapsulate_key(session, M(CKM_ML_KEM), key, T(NUMBER(CKA_CLASS, CKO_SECRET_KEY), TEXT(CKA_LABEL, "kem")), rooms[i], &made);
    encapsulate_key(session, M(CKM_ML_KEM), key, NULL, 0, SPACE(100), &made);
    encapsulate_key(session, M(CKM_ML_KEM), key, NULL, 0, SPACE(100), NULL);
    const struct in ciphertexts[] = { NO, EMPTY, B(DATA, 48), B(DATA, 1568) };
    for (size_t i = 0; i < COUNT(ciphertexts); i++)
        decapsulate_key(session, M(CKM_ML_KEM), key, T(NUMBER(CKA_CLASS, CKO_SECRET_KEY)), ciphertexts[i], &made);
    decapsulate_key(session, M(CKM_ML_KEM), key, NULL, 0, B(DATA, 48), NULL);
    const struct in signatures[] = { NO, EMPTY, B(DATA, 64), B(DATA, 63), B(DATA, 4000) };
    for (size_t i = 0; i < COUNT(signatures); i++) {
        verify_signature_init(session, M(CKM_SHA256_HMAC), key, signatures[i]);
        update("C_VerifySignature", session, B(DATA, 9));
        verify_signature_init(session, M(CKM_SHA256_HMAC), key, signatures[i]);
        update("C_VerifySignatureUpdate", session, B(DATA, 9));
        update("C_VerifySignatureUpdate", session, i % 2 ? NO : EMPTY);
        plain("C_VerifySignatureFinal", session);
    }
    CK_SIGN_ADDITIONAL_CONTEXT context = { CKH_HEDGE_PREFERRED, DATA, 11 };
    verify_signature_init(session, MP(CKM_ML_DSA, context), key, B(DATA, 64));
    update("C_VerifySignature", session, EMPTY);
    plain("C_VerifySignatureFinal", session);
    update("C_VerifySignature", session, NO);
    verify_signature_init(session, NULL, 0, NO);
    generate_key_pair(session, M(CKM_ML_KEM_KEY_PAIR_GEN), T(NUMBER(CKA_PARAMETER_SET, CKP_ML_KEM_768), BOOL(CKA_ENCAPSULATE, 1)), T(BOOL(CKA_DECAPSULATE, 1)), &made, &made);
    /* NULL as mechanism ends an operation, since 3.0. */
    digest_init(session, M(CKM_SHA256));
    session_cancel(session, CKF_DIGEST);
    last("C_DigestFinal", session, SPACE(32));
    async_get_id(session, "C_Sign", 1);
    async_complete(session, "C_Sign", &(CK_ASYNC_DATA){ .ulVersion = 0 }, NULL, 0);
    async_complete(session, NULL, NULL, NULL, 0);
    stop();
}

/* NULL as mechanism: an error before 3.0, the end of the operation since. */
static void section_nomechanism(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = secret(CKK_AES, 16), made, other;
    static const char *const names[] = { "C_EncryptInit", "C_DecryptInit", "C_SignInit", "C_VerifyInit", "C_SignRecoverInit", "C_VerifyRecoverInit" };
    for (size_t i = 0; i < COUNT(names); i++)
        init(names[i], session, NULL, key);
    digest_init(session, NULL);
    init("C_EncryptInit", session, M(CKM_AES_ECB), key);
    init("C_EncryptInit", session, NULL, 0);
    transform("C_Encrypt", session, B(DATA, 16), SPACE(16));
    generate_key(session, NULL, T(NUMBER(CKA_VALUE_LEN, 16)), &made);
    generate_key_pair(session, NULL, T(BOOL(CKA_TOKEN, 0)), T(BOOL(CKA_TOKEN, 0)), &made, &other);
    wrap_key(session, NULL, key, key, SPACE(100));
    unwrap_key(session, NULL, key, B(DATA, 24), T(NUMBER(CKA_CLASS, CKO_SECRET_KEY)), &made);
    derive_key(session, NULL, key, T(NUMBER(CKA_CLASS, CKO_SECRET_KEY)), &made);
    stop();
}

/* NULL with a length: what no application should say, and the module answers for itself. */
static void section_hollow(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = secret(CKK_AES, 16), mac = secret(CKK_GENERIC_SECRET, 32), made;
    digest_init(session, M(CKM_SHA256));
    transform("C_Digest", session, HOLLOW(4), SPACE(64));
    session = renewed(session);
    digest_init(session, M(CKM_SHA256));
    update("C_DigestUpdate", session, HOLLOW(4));
    session = renewed(session);
    digest_init(session, MB(CKM_SHA256, NULL, 4));
    session = renewed(session);
    init("C_EncryptInit", session, M(CKM_AES_ECB), key);
    transform("C_Encrypt", session, HOLLOW(16), SPACE(64));
    session = renewed(session);
    init("C_EncryptInit", session, M(CKM_AES_ECB), key);
    transform("C_EncryptUpdate", session, HOLLOW(16), SPACE(64));
    session = renewed(session);
    init("C_DecryptInit", session, M(CKM_AES_ECB), key);
    transform("C_Decrypt", session, HOLLOW(16), SPACE(64));
    session = renewed(session);
    init("C_SignInit", session, M(CKM_SHA256_HMAC), mac);
    transform("C_Sign", session, HOLLOW(4), SPACE(64));
    session = renewed(session);
    init("C_SignInit", session, M(CKM_SHA256_HMAC), mac);
    update("C_SignUpdate", session, HOLLOW(4));
    session = renewed(session);
    init("C_VerifyInit", session, M(CKM_SHA256_HMAC), mac);
    two("C_Verify", session, HOLLOW(4), B(DATA, 32));
    session = renewed(session);
    init("C_VerifyInit", session, M(CKM_SHA256_HMAC), mac);
    two("C_Verify", session, B(DATA, 4), HOLLOW(32));
    session = renewed(session);
    update("C_SeedRandom", session, HOLLOW(4));
    generate_random(session, NULL_ROOM(4));
    set_operation_state(session, HOLLOW(4), 0, 0);
    two("C_SetPIN", session, HOLLOW(4), HOLLOW(4));
    unwrap_key(session, M(CKM_AES_KEY_WRAP), key, HOLLOW(24), T(NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES)), &made);
    create_object(session, NULL, 2, &made);
    copy_object(session, key, NULL, 2, &made);
    get_attributes(session, key, NULL, 2);
    set_attributes(session, key, NULL, 2);
    find_init(session, NULL, 2);
    generate_key(session, M(CKM_AES_KEY_GEN), NULL, 2, &made);
    find_init(session, T({ CKA_LABEL, NULL, 4 }));
    session = renewed(session);
    set_attributes(session, key, T({ CKA_LABEL, NULL, 4 }));
    create_object(session, T(NUMBER(CKA_CLASS, CKO_DATA), BOOL(CKA_TOKEN, 0), { CKA_LABEL, NULL, 4 }), &made);
    plain("C_Logout", session);
    login(session, CKU_USER, HOLLOW(4));
    stop();
}

/* The same where SoftHSM does not survive it, and of the functions since 3.0: for the recorder. */
static void section_hollow3(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = secret(CKK_AES, 16), made;
    CK_GCM_PARAMS gcm = { NULL, 12, 96, NULL, 20, 128 };
    init("C_EncryptInit", session, MP(CKM_AES_GCM, gcm), key);
    session = renewed(session);
    CK_ECDH1_DERIVE_PARAMS ecdh = { CKD_NULL, 5, NULL, 65, NULL };
    derive_key(session, MP(CKM_ECDH1_DERIVE, ecdh), key, T(NUMBER(CKA_CLASS, CKO_SECRET_KEY)), &made);
    CK_SP800_108_KDF_PARAMS kdf = { CKM_SHA256_HMAC, 2, NULL, 0, NULL };
    derive_key(session, MP(CKM_SP800_108_COUNTER_KDF, kdf), key, T(NUMBER(CKA_CLASS, CKO_SECRET_KEY)), &made);
    CK_GCM_MESSAGE_PARAMS message = { NULL, 12, 0, CKG_GENERATE, NULL, 128 };
    init("C_MessageEncryptInit", session, M(CKM_AES_GCM), key);
    whole_message("C_EncryptMessage", session, CKM_AES_GCM, B(&message, sizeof message), HOLLOW(3), B(DATA, 20), SPACE(20));
    whole_message("C_EncryptMessage", session, CKM_AES_GCM, HOLLOW(48), NO, B(DATA, 20), SPACE(20));
    whole_message("C_EncryptMessage", session, CKM_AES_GCM, NO, NO, HOLLOW(20), SPACE(20));
    login_user(session, CKU_USER, HOLLOW(4), HOLLOW(8));
    decapsulate_key(session, M(CKM_ML_KEM), key, NULL, 0, HOLLOW(48), &made);
    verify_signature_init(session, M(CKM_SHA256_HMAC), key, HOLLOW(64));
    wrap_authenticated(session, M(CKM_AES_KEY_WRAP), key, key, HOLLOW(9), SPACE(100));
    create_object(session, T({ CKA_WRAP_TEMPLATE, NULL, 48 }), &made);
    create_object(session, T({ CKA_CLASS, NULL, 8 }), &made);
    unwrap_key(session, M(CKM_AES_KEY_WRAP), key, EMPTY, NULL, 2, &made);
    stop();
}

/* Parameters for mechanisms that take none. Their bytes are zeros, because our pair carries the length only. */
static void section_parameterless(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = secret(CKK_AES, 16);
    static const CK_BYTE zeros[64];
    const CK_MECHANISM_TYPE types[] = { CKM_RSA_PKCS, CKM_RSA_X_509, CKM_SHA256_RSA_PKCS, CKM_DSA, CKM_DSA_SHA1 };
    for (size_t i = 0; i < COUNT(types); i++) {
        init("C_SignInit", session, MB(types[i], zeros, 0), key);
        init("C_VerifyInit", session, MB(types[i], zeros, 5), key);
        init("C_EncryptInit", session, MB(types[i], NULL, 7), key);
        wrap_key(session, MB(types[i], zeros, 64), key, key, SPACE(100));
        session = renewed(session);
    }
    stop();
}

/* A length beside a pointer that asks for the length: the module ignores it. */
static void section_nullroom(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE key = secret(CKK_AES, 16), mac = secret(CKK_GENERIC_SECRET, 32);
    const CK_ULONG lengths[] = { 1, 64, 0xffffffff, CK_UNAVAILABLE_INFORMATION };
    for (size_t i = 0; i < COUNT(lengths); i++) {
        digest_init(session, M(CKM_SHA256));
        transform("C_Digest", session, B(DATA, 4), NULL_ROOM(lengths[i]));
        last("C_DigestFinal", session, NULL_ROOM(lengths[i]));
        session = renewed(session);
        init("C_SignInit", session, M(CKM_SHA256_HMAC), mac);
        transform("C_Sign", session, B(DATA, 4), NULL_ROOM(lengths[i]));
        session = renewed(session);
        init("C_EncryptInit", session, MB(CKM_AES_CBC, IV, 16), key);
        transform("C_Encrypt", session, B(DATA, 16), NULL_ROOM(lengths[i]));
        session = renewed(session);
        wrap_key(session, M(CKM_AES_KEY_WRAP), key, key, NULL_ROOM(lengths[i]));
        encapsulate_key(session, M(CKM_ML_KEM), key, NULL, 0, NULL_ROOM(lengths[i]), &(CK_OBJECT_HANDLE){ 0 });
        get_attributes(session, key, T({ CKA_LABEL, NULL, lengths[i] }, { CKA_CLASS, NULL, lengths[i] }, { CKA_MODULUS, NULL, lengths[i] }));
        get_slot_list(CK_TRUE, NULL_ROOM(lengths[i]));
        get_mechanism_list(slot, NULL_ROOM(lengths[i]));
    }
    stop();
}

/* Lengths that cannot be. What is behind the pointer ends long before. */
static void section_absurd(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session = logged_in();
    CK_OBJECT_HANDLE made;
    const CK_ULONG lengths[] = { 0xffffffff, CK_UNAVAILABLE_INFORMATION };
    for (size_t i = 0; i < COUNT(lengths); i++) {
        create_object(session, T({ CKA_CLASS, DATA, lengths[i] }), &made);
        create_object(session, T(NUMBER(CKA_CLASS, CKO_DATA), { CKA_TOKEN, DATA, lengths[i] }), &made);
    }
    stop();
}

/* ---- Sections: what RECORDER_... asks for ----------------------------------------------------------------- */

static void section_notify(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE a, b, c;
    open_session(slot, RW, 1, 1, &a);
    open_session(slot, RW, 0, 1, &b);
    open_session(slot, RW, 0, 0, &c);
    keeper = a;
    CK_OBJECT_HANDLE key = secret(CKK_GENERIC_SECRET, 32);
    const CK_SESSION_HANDLE all[] = { a, b, c };
    for (size_t i = 0; i < 3; i++)
        for (int cancels = 0; cancels <= 1; cancels++) {
            notify_answer = cancels ? CKR_CANCEL : CKR_OK;
            init("C_SignInit", all[i], M(CKM_SHA256_HMAC), key);
            transform("C_Sign", all[i], B(DATA, 4), SPACE(64));
            transform("C_Sign", all[i], B(DATA, 4), SPACE(64));
        }
    notify_answer = CKR_OK;
    stop();
}

static void section_async(void)
{
    if (!start())
        return;
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE first = 0, second = 0;
    CK_BYTE buffer[80];
    CK_ULONG length = sizeof buffer;
    if (open_session(slot, RW | CKF_ASYNC_SESSION, 0, 0, &session) != CKR_OK) {
        stop();
        return;
    }
    keeper = session;
    CK_OBJECT_HANDLE key = secret(CKK_GENERIC_SECRET, 32);
    init("C_SignInit", session, M(CKM_SHA256_HMAC), key);
    transform("C_Sign", session, B(DATA, 9), NOWHERE);
    memset(buffer, PATTERN, sizeof buffer);
    IN_SESSION("C_Sign", session);
    SHOW_BYTES("pData", B(DATA, 9));
    put(&call, " pSignature=<%zu>", sizeof buffer);
    end_call(CALL(C_Sign, session, DATA, 9, buffer, &length));
    CK_ASYNC_DATA result = { 0, NULL, 0, 0, 0 };
    async_get_id(session, "C_Sign", 1);
    async_get_id(session, "C_Sign", 0);
    async_get_id(session, "C_Encrypt", 1);
    async_complete(session, "C_Encrypt", &result, buffer, sizeof buffer);
    async_complete(session, "C_Sign", &result, buffer, sizeof buffer);
    async_complete(session, "C_Sign", &result, buffer, sizeof buffer);
    async_complete(session, "C_Sign", &result, buffer, sizeof buffer);
    init("C_SignInit", session, M(CKM_SHA256_HMAC), key);
    length = sizeof buffer;
    IN_SESSION("C_Sign", session);
    SHOW_BYTES("pData", B(DATA, 10));
    put(&call, " pSignature=<%zu>", sizeof buffer);
    end_call(CALL(C_Sign, session, DATA, 10, buffer, &length));
    CK_BYTE another[64];
    memset(another, PATTERN, sizeof another);
    async_join(session, "C_Sign", 77, another, 8);
    async_join(session, "C_Sign", 77, another, sizeof another);
    async_complete(session, "C_Sign", &result, another, sizeof another);
    async_complete(session, "C_Sign", &result, another, sizeof another);
    generate_key_pair(session, M(CKM_EC_KEY_PAIR_GEN), T(VALUE(CKA_EC_PARAMS, P256, sizeof P256)), T(BOOL(CKA_SIGN, 1)), &first, &second);
    async_complete(session, "C_GenerateKeyPair", &result, NULL, 0);
    async_complete(session, "C_GenerateKeyPair", &result, NULL, 0);
    stop();
}

/* The few functions that odd_interface.c has. */
static void section_oddly(void)
{
    CK_SESSION_HANDLE session;
    initialize(NULL);
    get_info(1);
    get_slot_list(CK_FALSE, SPACE(8));
    if (open_session(1, RO, 0, 0, &session) == CKR_OK) {
        generate_random(session, SPACE(4));
        validation_flags(session, CKS_LAST_VALIDATION_OK, 1);
        session_cancel(session, CKF_ENCRYPT);
        plain("C_CloseSession", session);
    }
    finalize(NULL);
}

/* ---- Sections: threads. What they call is not printed, only what became of it. ----------------------------- */

struct signer { CK_SESSION_HANDLE session; CK_OBJECT_HANDLE key; int calls, good; };

static void *sign_repeatedly(void *argument)
{
    struct signer *signer = argument;
    CK_BYTE signature[64];
    for (int i = 0; i < signer->calls; i++) {
        CK_ULONG length = sizeof signature;
        if (CALL(C_SignInit, signer->session, M(CKM_SHA256_HMAC), signer->key) == CKR_OK &&
            CALL(C_Sign, signer->session, DATA, 20, signature, &length) == CKR_OK)
            signer->good++;
    }
    return NULL;
}

/* The signatures that `threads` threads made of `calls` calls each; `shared`: all in one session. */
static int signatures_of(int threads, int calls, int shared)
{
    struct signer signers[64];
    pthread_t ids[64];
    int good = 0;
    CK_SESSION_HANDLE one = logged_in();
    CK_OBJECT_HANDLE key = secret(CKK_GENERIC_SECRET, 32);
    for (int i = 0; i < threads; i++)
        signers[i] = (struct signer){ shared ? one : opened(RO), key, calls, 0 };
    for (int i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, sign_repeatedly, &signers[i]) != 0)
            abort();
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        good += signers[i].good;
    }
    return good;
}

static void section_parallel(void)
{
    if (!start_with(&(CK_C_INITIALIZE_ARGS){ .flags = CKF_OS_LOCKING_OK }))
        return;
    printf("signatures of 16 threads, 5 each: %d\n", signatures_of(16, 5, 0));
    stop();
}

static void *wait_blocking(void *rv)
{
    CK_SLOT_ID event = 0;
    *(CK_RV *)rv = CALL(C_WaitForSlotEvent, 0, &event, NULL);
    return NULL;
}

/* One thread waits for a slot event that never comes while others sign; C_Finalize ends it. */
static void section_waiting(void)
{
    pthread_t waiter;
    CK_RV rv = CKR_OK;
    if (!start_with(&(CK_C_INITIALIZE_ARGS){ .flags = CKF_OS_LOCKING_OK }))
        return;
    if (pthread_create(&waiter, NULL, wait_blocking, &rv) != 0)
        abort();
    sleep_ms(50);
    printf("signatures of 4 threads, 5 each: %d\n", signatures_of(4, 5, 0));
    stop();
    pthread_join(waiter, NULL);
    printf("C_WaitForSlotEvent ended with 0x%lx\n", rv);
}

/* What no application may do, to see whether it is noticed. */
static void section_unlocked(void)
{
    if (start())
        signatures_of(4, 5, 0), stop();
}
static void section_onesession(void)
{
    if (start_with(&(CK_C_INITIALIZE_ARGS){ .flags = CKF_OS_LOCKING_OK }))
        signatures_of(4, 5, 1), stop();
}

#include "exact_walk.h"

/* ---- The library and its interfaces ------------------------------------------------------------------------- */

static CK_C_GetInterfaceList get_interface_list;
static CK_C_GetInterface get_interface;

static void print_interface(const CK_INTERFACE *one)
{
    const CK_VERSION *version = one ? one->pFunctionList : NULL;
    printf(" (%s", one && one->pInterfaceName ? (const char *)one->pInterfaceName : "no name");
    printf(version ? " %u.%u" : " no list", version ? version->major : 0, version ? version->minor : 0);
    printf(" 0x%lx)", one ? one->flags : 0);
}

static void list_interfaces(int has_pointer, CK_ULONG room, int has_count)
{
    CK_INTERFACE list[16];
    CK_ULONG count = room;
    memset(list, PATTERN, sizeof list);
    memset(list, 0, room * sizeof *list);
    CK_RV rv = get_interface_list(has_pointer ? list : NULL, has_count ? &count : NULL);
    printf("C_GetInterfaceList <%s%lu> -> 0x%lx count=%lu", has_pointer ? "" : "NULL:", room, rv, count);
    for (CK_ULONG i = 0; rv == CKR_OK && has_pointer && i < count && i < room; i++)
        print_interface(&list[i]);
    if (has_pointer && !untouched((CK_BYTE *)(list + room), sizeof list - room * sizeof *list))
        printf(" TOUCHED");
    printf("\n");
}

static void ask_interface(const char *name, int major, int minor, CK_FLAGS flags, int has_pointer)
{
    CK_VERSION version = { (CK_BYTE)major, (CK_BYTE)minor };
    CK_INTERFACE *one = NULL;
    CK_RV rv = get_interface((CK_UTF8CHAR *)(uintptr_t)name, major < 0 ? NULL : &version, has_pointer ? &one : NULL, flags);
    printf("C_GetInterface \"%s\" %d.%d 0x%lx -> 0x%lx", name ? name : "NULL", major, minor, flags, rv);
    if (rv == CKR_OK && has_pointer)
        print_interface(one);
    printf("\n");
}

static void section_interfaces(void)
{
    if (!get_interface || !get_interface_list) {
        printf("no C_GetInterface or no C_GetInterfaceList\n");
        return;
    }
    list_interfaces(0, 0, 1);
    list_interfaces(0, 9, 1);
    list_interfaces(1, 0, 1);
    list_interfaces(1, 1, 1);
    list_interfaces(1, 3, 1);
    list_interfaces(1, 9, 1);
    list_interfaces(1, 9, 0);
    list_interfaces(0, 0, 0);
    ask_interface(NULL, -1, 0, 0, 1);
    ask_interface("PKCS 11", -1, 0, 0, 1);
    const int versions[][2] = { { 3, 2 }, { 3, 1 }, { 3, 0 }, { 2, 40 }, { 2, 20 }, { 0, 0 }, { 255, 255 } };
    for (size_t i = 0; i < COUNT(versions); i++) {
        ask_interface("PKCS 11", versions[i][0], versions[i][1], 0, 1);
        ask_interface(NULL, versions[i][0], versions[i][1], 0, 1);
    }
    ask_interface("Vendor nobody", -1, 0, 0, 1);
    ask_interface("PKCS 1", -1, 0, 0, 1);
    ask_interface("PKCS 11 ", -1, 0, 0, 1);
    ask_interface("PKCS 11", 3, 0, 0x80000000, 1);
    ask_interface("PKCS 11", 3, 0, 0, 0);
}

static int use_interface(CK_BYTE major, CK_BYTE minor, size_t size)
{
    CK_VERSION version = { major, minor };
    CK_INTERFACE *one = NULL;
    if (!get_interface || get_interface((CK_UTF8CHAR *)"PKCS 11", &version, &one, 0) != CKR_OK || !one || !one->pFunctionList)
        return 0;
    p11 = one->pFunctionList, list_size = size;
    return 1;
}

static const struct { const char *name; void (*run)(void); } SECTIONS[] = {
    { "interfaces", section_interfaces }, { "general", section_general }, { "events", section_events }, { "initargs", section_initargs },
    { "sessions", section_sessions }, { "pins", section_pins }, { "digest", section_digest }, { "sign", section_sign },
    { "encrypt", section_encrypt }, { "aead", section_aead }, { "signatures", section_signatures }, { "dual", section_dual },
    { "randomnumbers", section_random_numbers }, { "arrays", section_arrays }, { "attributes", section_attributes }, { "find", section_find },
    { "keys", section_keys }, { "derive", section_derive }, { "messages", section_messages }, { "nolength", section_nolength }, { "latest", section_latest },
    { "nomechanism", section_nomechanism }, { "hollow", section_hollow }, { "hollow3", section_hollow3 }, { "nullroom", section_nullroom },
    { "parameterless", section_parameterless }, { "absurd", section_absurd }, { "notify", section_notify }, { "async", section_async },
    { "oddly", section_oddly }, { "parallel", section_parallel }, { "waiting", section_waiting }, { "unlocked", section_unlocked }, { "onesession", section_onesession },
};

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: exact LIBRARY SECTION...\n       exact LIBRARY random SEED COUNT\nsections:");
        for (size_t i = 0; i < COUNT(SECTIONS); i++)
            fprintf(stderr, " %s", SECTIONS[i].name);
        fputc('\n', stderr);
        return 2;
    }
    /* Each line at once: the transcript of a crash ends where it crashed. */
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    prepare_constants();
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "exact: %s\n", dlerror());
        return 2;
    }
    CK_C_GetFunctionList get_list = NULL;
    *(void **)&get_list = dlsym(library, "C_GetFunctionList");
    *(void **)&get_interface = dlsym(library, "C_GetInterface");
    *(void **)&get_interface_list = dlsym(library, "C_GetInterfaceList");
    const char *wanted = getenv("EXACT_INTERFACE");
    if (!((!wanted || strcmp(wanted, "3.2") == 0) && use_interface(3, 2, sizeof(CK_FUNCTION_LIST_3_2))) &&
        !((!wanted || strcmp(wanted, "3.0") == 0) && use_interface(3, 0, sizeof(CK_FUNCTION_LIST_3_0)))) {
        CK_FUNCTION_LIST *list = NULL;
        if ((wanted && strcmp(wanted, "2.40") != 0) || !get_list || get_list(&list) != CKR_OK || !list) {
            fprintf(stderr, "exact: %s has no such interface\n", argv[1]);
            return 2;
        }
        p11 = (CK_FUNCTION_LIST_3_2 *)(void *)list, list_size = sizeof(CK_FUNCTION_LIST);
    }
    if (argc == 5 && strcmp(argv[2], "random") == 0) {
        walk(strtoull(argv[3], NULL, 10), strtoul(argv[4], NULL, 10));
        return 0;
    }
    for (int i = 2; i < argc; i++) {
        size_t k = 0;
        while (k < COUNT(SECTIONS) && strcmp(SECTIONS[k].name, argv[i]) != 0)
            k++;
        if (k == COUNT(SECTIONS)) {
            fprintf(stderr, "exact: no section %s\n", argv[i]);
            return 2;
        }
        printf("== %s\n", argv[i]);
        SECTIONS[k].run();
    }
    dlclose(library);
    return 0;
}
