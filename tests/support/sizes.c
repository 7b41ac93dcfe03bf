/*
 * sizes LIBRARY: has a module that gives back its input (nullmodule) encrypt data of many sizes, from 1
 * byte to 1 MB, and compares what comes back. Prints `SIZE -> yes` or `SIZE -> NO, 0xRV`.
 */
#include <dlfcn.h>
#include <pkcs11.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static CK_BYTE in[1 << 20], out[1 << 20];
static const CK_ULONG SIZES[] = { 1, 2, 3, 4, 100, 1000, 3900, 3950, 3952, 3956, 3960, 3961, 3964, 3996, 4000, 4092, 4096, 4097,
    4100, 5000, 7992, 8000, 8192, 10000, 12000, 16000, 16340, 16348, 16352, 16380, 16384, 16385, 16500, 20000, 32768, 50000,
    65000, 65536, 100000, 262144, 500001, 1000000, 1 << 20 };

int main(int argc, char **argv)
{
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
    CK_C_GetFunctionList list = library ? (CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList") : NULL;
    CK_FUNCTION_LIST_PTR p11;
    CK_SESSION_HANDLE session;
    CK_MECHANISM mechanism = { CKM_AES_ECB, NULL, 0 };
    if (!list || list(&p11) != CKR_OK || p11->C_Initialize(NULL) != CKR_OK)
        return 2;
    if (p11->C_OpenSession(0, CKF_SERIAL_SESSION, NULL, NULL, &session) != CKR_OK)
        return 3;
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (CK_BYTE)(i * 2654435761u >> 13);
    int failures = 0;
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++) {
        CK_ULONG size = SIZES[i], length = sizeof out;
        memset(out, 0, sizeof out);
        CK_RV rv = p11->C_EncryptInit(session, &mechanism, 1);
        if (rv == CKR_OK)
            rv = p11->C_Encrypt(session, in, size, out, &length);
        if (rv == CKR_OK && length == size && memcmp(in, out, size) == 0)
            printf("%lu -> yes\n", size);
        else
            printf("%lu -> NO, 0x%lx\n", size, rv);
        failures += rv != CKR_OK || length != size || memcmp(in, out, size) != 0;
    }
    p11->C_Finalize(NULL);
    return failures ? 1 : 0;
}
