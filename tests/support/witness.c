/* witness.c: a PKCS#11 module that is SoftHSM, and writes down what was signed and decrypted and who logged in.
 *
 * Beside the file that SOFTHSM2_CONF names, FILE.calls gets a line for each call of C_Login, and for each call that has
 * given a signature or a plaintext: the function, the CK_RV in hexadecimal, and a checksum of what was signed or decrypted,
 * so that the same twice can be seen. A line is there before the caller can have the result. Where there is no such file,
 * nothing is written. WITNESS_PAUSE=MS makes what gives a signature or a plaintext take so many milliseconds more, after the
 * line: a process that is killed meanwhile has signed, and nobody has been told.
 *
 * SoftHSM writes the file of its token anew at each login, in place, and reads it without waiting for the writer. When
 * several processes log in at once, as workers of a server do, some find no token, or C_Login returns
 * CKR_GENERAL_ERROR. So this module locks FILE.lock, if it exists, while a function that reads or writes the token's file
 * runs. Every other function is SoftHSM's own. */

#define _DEFAULT_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pkcs11.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#ifndef SOFTHSM
#define SOFTHSM "/usr/lib/softhsm/libsofthsm2.so"
#endif

static CK_FUNCTION_LIST *softhsm;
static CK_FUNCTION_LIST list;

/* The file beside that of SOFTHSM2_CONF with this ending; -1 if there is none. */
static int beside(const char *ending, int flags)
{
    char path[4096];
    const char *configuration = getenv("SOFTHSM2_CONF");
    snprintf(path, sizeof path, "%s%s", configuration ? configuration : "", ending);
    return open(path, flags | O_CLOEXEC);
}

/* ---- One at a time -------------------------------------------------------------------------------- */

static int locked(void)
{
    int file = beside(".lock", O_RDONLY);
    if (file >= 0)
        while (flock(file, LOCK_EX) != 0)
            ;
    return file;
}

#define ALONE(call)             \
    do {                        \
        int file = locked();    \
        rv = softhsm->call;     \
        if (file >= 0)          \
            close(file);        \
    } while (0)

static CK_RV initialize(void *arguments)
{
    CK_RV rv;
    ALONE(C_Initialize(arguments));
    return rv;
}

static CK_RV slot_list(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    CK_RV rv;
    ALONE(C_GetSlotList(present, slots, count));
    return rv;
}

static CK_RV token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
    CK_RV rv;
    ALONE(C_GetTokenInfo(slot, info));
    return rv;
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify,
                          CK_SESSION_HANDLE *session)
{
    CK_RV rv;
    ALONE(C_OpenSession(slot, flags, application, notify, session));
    return rv;
}

/* ---- What is written down ------------------------------------------------------------------------- */

typedef unsigned long long checksum;

/* FNV-1a, of the parts of each session's operation. Sessions are few: none shares its place with another. */
#define BEGINNING 0xcbf29ce484222325ULL
#define PLACES 65536
static checksum parts[PLACES];

static checksum *parts_of(CK_SESSION_HANDLE session)
{
    return &parts[session % PLACES];
}

static checksum add(checksum sum, const unsigned char *data, CK_ULONG length)
{
    for (CK_ULONG i = 0; data != NULL && i < length; i++)
        sum = (sum ^ data[i]) * 0x100000001b3ULL;
    return sum;
}

static CK_RV write_down(const char *function, CK_RV rv, checksum sum)
{
    char line[128];
    int length = snprintf(line, sizeof line, "%s %#lx %016llx\n", function, (unsigned long)rv, sum);
    int file = beside(".calls", O_WRONLY | O_APPEND);
    if (file >= 0) {
        if (write(file, line, (size_t)length) != length)
            abort(); /* a count that is wrong is worse than none */
        close(file);
    }
    return rv;
}

static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, unsigned char *pin, CK_ULONG length)
{
    CK_RV rv;
    ALONE(C_Login(session, user, pin, length));
    return write_down("C_Login", rv, 0);
}

/* A call that only asks for the length has given nothing yet. */
static CK_RV given(const char *function, CK_RV rv, const unsigned char *result, checksum sum)
{
    const char *pause = getenv("WITNESS_PAUSE");
    if (rv == CKR_OK && result != NULL) {
        write_down(function, rv, sum);
        if (pause != NULL)
            usleep((useconds_t)atoi(pause) * 1000);
    }
    return rv;
}

/* An operation that begins, in parts or not. */
#define BEGINS(name, Function)                                                                     \
    static CK_RV name##_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key) \
    {                                                                                              \
        *parts_of(session) = BEGINNING;                                                            \
        return softhsm->Function##Init(session, mechanism, key);                                   \
    }
#define GIVES(name, Function)                                                                      \
    static CK_RV name(CK_SESSION_HANDLE session, unsigned char *data, CK_ULONG length, unsigned char *result, \
                      CK_ULONG *room)                                                              \
    {                                                                                              \
        checksum sum = add(BEGINNING, data, length);                                               \
        CK_RV rv = softhsm->Function(session, data, length, result, room);                         \
        return given(#Function, rv, result, sum);                                                      \
    }
#define GIVES_LAST(name, Function)                                                                 \
    static CK_RV name##_final(CK_SESSION_HANDLE session, unsigned char *result, CK_ULONG *room)    \
    {                                                                                              \
        CK_RV rv = softhsm->Function##Final(session, result, room);                                \
        return given(#Function "Final", rv, result, *parts_of(session));                               \
    }

BEGINS(sign, C_Sign)
GIVES(sign, C_Sign)
GIVES(sign_recover, C_SignRecover)
GIVES_LAST(sign, C_Sign)
BEGINS(decrypt, C_Decrypt)
GIVES(decrypt, C_Decrypt)
GIVES_LAST(decrypt, C_Decrypt)

static CK_RV sign_update(CK_SESSION_HANDLE session, unsigned char *part, CK_ULONG length)
{
    *parts_of(session) = add(*parts_of(session), part, length);
    return softhsm->C_SignUpdate(session, part, length);
}

static CK_RV decrypt_update(CK_SESSION_HANDLE session, unsigned char *part, CK_ULONG length, unsigned char *result,
                            CK_ULONG *room)
{
    *parts_of(session) = add(*parts_of(session), part, length);
    return softhsm->C_DecryptUpdate(session, part, length, result, room);
}

/* ---- The module ----------------------------------------------------------------------------------- */

__attribute__((constructor)) static void load(void)
{
    void *module = dlopen(SOFTHSM, RTLD_NOW | RTLD_LOCAL);
    CK_C_GetFunctionList get = module ? (CK_C_GetFunctionList)dlsym(module, "C_GetFunctionList") : NULL;
    if (get == NULL || get(&softhsm) != CKR_OK) {
        softhsm = NULL;
        return;
    }
    list = *softhsm;
    list.C_GetFunctionList = C_GetFunctionList;
    list.C_Initialize = initialize;
    list.C_GetSlotList = slot_list;
    list.C_GetTokenInfo = token_info;
    list.C_OpenSession = open_session;
    list.C_Login = login;
    list.C_SignInit = sign_init;
    list.C_Sign = sign;
    list.C_SignUpdate = sign_update;
    list.C_SignFinal = sign_final;
    list.C_SignRecover = sign_recover;
    list.C_DecryptInit = decrypt_init;
    list.C_Decrypt = decrypt;
    list.C_DecryptUpdate = decrypt_update;
    list.C_DecryptFinal = decrypt_final;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST **given)
{
    if (softhsm == NULL)
        return CKR_GENERAL_ERROR;
    *given = &list;
    return CKR_OK;
}

/* Old programs look these two up by name. */
CK_RV C_Initialize(void *arguments)
{
    return softhsm ? initialize(arguments) : CKR_GENERAL_ERROR;
}

CK_RV C_Finalize(void *reserved)
{
    return softhsm ? softhsm->C_Finalize(reserved) : CKR_GENERAL_ERROR;
}
