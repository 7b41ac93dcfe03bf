/*
 * optional LIBRARY: makes one call of each function that SoftHSM does not support, through a PKCS#11
 * library with nullmodule.c behind it: recovery, functions that do two things at once, operation
 * states. Prints each call's CK_RV. tests/wire/capture.rs keeps what passes between the original's
 * halves.
 */
#include <dlfcn.h>
#include <pkcs11.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    CK_C_GetFunctionList list = NULL;
    if (library)
        *(void **)&list = dlsym(library, "C_GetFunctionList");
    CK_FUNCTION_LIST_PTR p11 = NULL;
    if (!list || list(&p11) != CKR_OK) {
        fprintf(stderr, "usage: optional LIBRARY, which has to be a PKCS#11 library\n");
        return 2;
    }
    CK_BYTE data[] = "sixteen bytes...", room[4096];
    CK_MECHANISM rsa = { CKM_RSA_PKCS, NULL, 0 };
    CK_SESSION_HANDLE session = 0;
    CK_ULONG length;
#define CALL(expression) (length = sizeof room, printf("%s -> 0x%lx\n", #expression, (expression)))
    CALL(p11->C_Initialize(NULL));
    CALL(p11->C_OpenSession(0, CKF_SERIAL_SESSION, NULL, NULL, &session));
    CALL(p11->C_SignRecoverInit(session, &rsa, 1));
    CALL(p11->C_SignRecover(session, data, 16, room, &length));
    CALL(p11->C_VerifyRecoverInit(session, &rsa, 1));
    CALL(p11->C_VerifyRecover(session, data, 16, room, &length));
    CALL(p11->C_DigestEncryptUpdate(session, data, 16, room, &length));
    CALL(p11->C_SignEncryptUpdate(session, data, 16, room, &length));
    CALL(p11->C_DecryptDigestUpdate(session, data, 16, room, &length));
    CALL(p11->C_DecryptVerifyUpdate(session, data, 16, room, &length));
    CALL(p11->C_GetOperationState(session, room, &length));
    CALL(p11->C_SetOperationState(session, data, 16, 1, 1));
    CALL(p11->C_Finalize(NULL));
    return 0;
}
