/*
 * What the programs have in common that check what a library is good for: they load it, sign with it, and print
 * a line for each thing that they check, `what -> yes` or `what -> NO`.
 *
 * A program in which each thread uses a library of its own defines P11_IS as `static _Thread_local`.
 */
#include <dlfcn.h>
#include <pkcs11.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* The library's functions. */
#ifndef P11_IS
#define P11_IS static
#endif
P11_IS CK_FUNCTION_LIST_PTR p11;
static CK_BYTE PIN[] = "1234", DATA[200], KEY[32] = { 1, 2, 3 };
static int failures;

/* What a signature has to be: that of the first session. */
static CK_BYTE expected[32] __attribute__((unused));

static inline void check(const char *what, int holds)
{
    printf("%s -> %s\n", what, holds ? "yes" : "NO");
    failures += !holds;
}
static inline void check_rv(const char *what, CK_RV expected, CK_RV got)
{
    if (expected == got)
        printf("%s -> yes\n", what);
    else
        printf("%s -> NO, 0x%lx\n", what, got);
    failures += expected != got;
}
static inline void pause_ms(long ms) { nanosleep(&(struct timespec){ ms / 1000, ms % 1000 * 1000000 }, NULL); }

/* SoftHSM's file locks race when processes start at once: a few tries. */
static inline CK_RV initialize(void)
{
    CK_C_INITIALIZE_ARGS arguments = { .flags = CKF_OS_LOCKING_OK };
    CK_RV rv = CKR_OK;
    for (int attempt = 0; attempt < 40; attempt++) {
        rv = p11->C_Initialize(&arguments);
        if (rv != CKR_GENERAL_ERROR && rv != CKR_FUNCTION_FAILED)
            break;
        pause_ms(25);
    }
    return rv;
}

static inline CK_RV open_session(CK_SESSION_HANDLE *session)
{
    CK_SLOT_ID slots[16];
    CK_ULONG count = 16;
    CK_RV rv = p11->C_GetSlotList(CK_TRUE, slots, &count);
    for (CK_ULONG i = 0; rv == CKR_OK && i < count; i++) {
        CK_TOKEN_INFO token;
        rv = p11->C_GetTokenInfo(slots[i], &token);
        if (rv == CKR_OK && memcmp(token.label, "e2e ", 4) == 0)
            return p11->C_OpenSession(slots[i], CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, session);
    }
    return rv == CKR_OK ? CKR_TOKEN_NOT_PRESENT : rv;
}

/* One HMAC under a fixed key: 32 bytes that everybody agrees on. */
static inline CK_RV sign(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, CK_BYTE *mac)
{
    CK_MECHANISM hmac = { CKM_SHA256_HMAC, NULL, 0 };
    CK_ULONG length = 32;
    CK_RV rv = p11->C_SignInit(session, &hmac, key);
    return rv != CKR_OK ? rv : p11->C_Sign(session, DATA, sizeof DATA, mac, &length);
}
static inline CK_RV import(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *key)
{
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_GENERIC_SECRET;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_ATTRIBUTE template[] = { { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &type, sizeof type }, { CKA_VALUE, KEY, sizeof KEY },
        { CKA_SIGN, &yes, 1 }, { CKA_VERIFY, &yes, 1 }, { CKA_PRIVATE, &no, 1 }, { CKA_TOKEN, &no, 1 } };
    return p11->C_CreateObject(session, template, sizeof template / sizeof template[0], key);
}
/* From C_GetSlotList to a signature. */
static inline CK_RV whole_round(CK_SESSION_HANDLE *session, CK_OBJECT_HANDLE *key, CK_BYTE *mac)
{
    CK_RV rv = open_session(session);
    for (int attempt = 0; rv == CKR_OK && attempt < 40; attempt++) {
        rv = p11->C_Login(*session, CKU_USER, PIN, sizeof PIN - 1);
        if (rv == CKR_USER_ALREADY_LOGGED_IN)
            rv = CKR_OK;
        if (rv != CKR_GENERAL_ERROR)
            break;
        pause_ms(25);
    }
    if (rv == CKR_OK)
        rv = import(*session, key);
    return rv == CKR_OK ? sign(*session, *key, mac) : rv;
}

/* The functions of the library in this file; a message and NULL if there are none. */
static inline CK_FUNCTION_LIST_PTR functions_of(void *library)
{
    CK_C_GetFunctionList list = NULL;
    CK_FUNCTION_LIST_PTR functions = NULL;
    if (library)
        *(void **)&list = dlsym(library, "C_GetFunctionList");
    if (list && list(&functions) == CKR_OK)
        return functions;
    fprintf(stderr, "cannot use the library: %s\n", library ? "no function list" : dlerror());
    return NULL;
}
