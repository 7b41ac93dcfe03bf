/*
 * An OpenSSL provider without algorithms that uses the PKCS#11 library RECURSING_LIBRARY while OpenSSL
 * activates it, as pkcs11-provider does when told to load its module early.
 */
#include <dlfcn.h>
#include <pkcs11.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

int OSSL_provider_init(const void *handle, const void *in, const void **out, void **context);

int OSSL_provider_init(const void *handle, const void *in, const void **out, void **context)
{
    static const struct { int id; void (*function)(void); } none[] = { { 0, NULL } };
    const char *path = getenv("RECURSING_LIBRARY");
    void *library = path ? dlopen(path, RTLD_NOW) : NULL;
    CK_C_GetFunctionList list = library ? (CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList") : NULL;
    CK_FUNCTION_LIST_PTR p11;
    CK_SLOT_ID slots[16];
    CK_ULONG count = 16;
    (void)in;
    CK_RV rv = list && list(&p11) == CKR_OK ? p11->C_Initialize(NULL) : CKR_GENERAL_ERROR;
    if (rv == CKR_OK)
        rv = p11->C_GetSlotList(CK_TRUE, slots, &count);
    printf("C_Initialize within the provider -> %s, 0x%lx\n", rv == CKR_OK ? "yes" : "NO", rv);
    *out = none;
    *context = (void *)(size_t)handle;
    return 1;
}
