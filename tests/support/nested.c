/*
 * nested LIBRARY [fork]: an application that uses no OpenSSL. Its C_Initialize may find the library
 * initialised by what OpenSSL's configuration loaded meanwhile; either way it has to work afterwards.
 * With `fork`, a child is forked and exits in between.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pkcs11.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
    CK_C_GetFunctionList list = library ? (CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList") : NULL;
    CK_FUNCTION_LIST_PTR p11;
    CK_SLOT_ID slots[16];
    if (!list || list(&p11) != CKR_OK)
        return 2;
    for (int round = 0; round < 2; round++) {
        CK_ULONG count = 16;
        CK_RV rv = p11->C_Initialize(NULL);
        int holds = rv == CKR_OK || (round == 0 && rv == CKR_CRYPTOKI_ALREADY_INITIALIZED);
        printf("C_Initialize -> %s, 0x%lx\n", holds ? "yes" : "NO", rv);
        if (argc > 2) {
            pid_t child = fork();
            if (child == 0)
                exit(0);
            waitpid(child, NULL, 0);
        }
        rv = p11->C_GetSlotList(CK_TRUE, slots, &count);
        printf("C_GetSlotList -> %s, 0x%lx\n", rv == CKR_OK && count > 0 ? "yes" : "NO", rv);
        rv = p11->C_Finalize(NULL);
        printf("C_Finalize -> %s, 0x%lx\n", rv == CKR_OK ? "yes" : "NO", rv);
    }
    return 0;
}
