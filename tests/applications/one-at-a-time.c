/* one-at-a-time.c: a PKCS#11 module that is SoftHSM, except that no two processes log in at the same time.
 *
 * SoftHSM writes the file of its token anew at each login, in place, and reads it without waiting for the writer. When
 * several processes log in at once, as workers of a server do, some find no token, or C_Login returns
 * CKR_GENERAL_ERROR. This module loads the one that SOFTHSM names at compile time. It locks the file SOFTHSM2_CONF.lock
 * while a function that reads or writes the token's file runs, and hands on every other function unchanged. */

#include <dlfcn.h>
#include <fcntl.h>
#include <p11-kit/pkcs11.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

static CK_FUNCTION_LIST *softhsm;
static CK_FUNCTION_LIST list;

/* A descriptor that is to be closed, or -1. */
static int locked(void)
{
    char path[4096];
    const char *configuration = getenv("SOFTHSM2_CONF");
    snprintf(path, sizeof path, "%s.lock", configuration ? configuration : "");
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0)
        while (flock(file, LOCK_EX) != 0)
            ;
    return file;
}

#define ALONE(call)                      \
    do {                                 \
        int file = locked();             \
        CK_RV rv = CKR_GENERAL_ERROR;    \
        if (file >= 0) {                 \
            rv = softhsm->call;          \
            close(file);                 \
        }                                \
        return rv;                       \
    } while (0)

static CK_RV initialize(void *arguments)
{
    ALONE(C_Initialize(arguments));
}

static CK_RV slot_list(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    ALONE(C_GetSlotList(present, slots, count));
}

static CK_RV token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
    ALONE(C_GetTokenInfo(slot, info));
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify,
                          CK_SESSION_HANDLE *session)
{
    ALONE(C_OpenSession(slot, flags, application, notify, session));
}

static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, unsigned char *pin, CK_ULONG length)
{
    ALONE(C_Login(session, user, pin, length));
}

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
