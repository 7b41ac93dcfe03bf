/* nss-init.c: a PKCS#11 module that is NSS's softokn, initialised with the string that it requires.
 *
 * NSS wants a string in pReserved of C_Initialize, which applications do not give. This module loads the one that
 * NSS_INIT_MODULE names and hands out its function lists, unchanged but for C_Initialize. The string opens the database
 * in NSS_INIT_DIRECTORY. For tests: one thread initialises it. */

#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long CK_RV;

/* Of a function list, all that this file knows: C_Initialize comes first, and how many functions follow. */
struct list {
    unsigned char version[2];
    CK_RV (*initialize)(void *);
    void *others[91];
};
enum { FUNCTIONS_2_40 = 68, FUNCTIONS_3_0 = 92, GENERAL_ERROR = 5 };

struct interface {
    char *name;
    struct list *list;
    unsigned long flags;
};

struct initialize_args {
    void *mutex_functions[4];
    unsigned long flags;
    void *reserved;
    void *end; /* softokn's own declaration has one more member. */
};

static CK_RV (*real_initialize)(void *);

static void *symbol(const char *name)
{
    static void *module;
    const char *path = getenv("NSS_INIT_MODULE");
    if (module == NULL)
        module = dlopen(path ? path : "libsoftokn3.so", RTLD_NOW | RTLD_LOCAL);
    return module ? dlsym(module, name) : NULL;
}

static CK_RV initialize(void *given)
{
    enum { OS_LOCKING_OK = 2 };
    static char text[4200];
    struct initialize_args args = {{NULL}, OS_LOCKING_OK, text, NULL};
    const char *directory = getenv("NSS_INIT_DIRECTORY");
    if (given != NULL)
        memcpy(&args, given, offsetof(struct initialize_args, reserved));
    snprintf(text, sizeof text, "configdir='sql:%s' certPrefix='' keyPrefix='' secmod='' flags=",
             directory ? directory : "");
    return real_initialize(&args);
}

static struct list *changed(struct list *copy, const struct list *original)
{
    size_t functions = original->version[0] >= 3 ? FUNCTIONS_3_0 : FUNCTIONS_2_40;
    memcpy(copy, original, offsetof(struct list, initialize) + functions * sizeof(void *));
    real_initialize = original->initialize;
    copy->initialize = initialize;
    return copy;
}

CK_RV C_GetFunctionList(struct list **list)
{
    static struct list copy;
    CK_RV (*get)(struct list **) = (CK_RV(*)(struct list **))symbol("C_GetFunctionList");
    CK_RV rv = get ? get(list) : GENERAL_ERROR;
    if (rv == 0)
        *list = changed(&copy, *list);
    return rv;
}

/* Vendor interfaces have no C_Initialize. */
static void change_interface(struct interface *interface)
{
    static struct list copies[2];
    if (strcmp(interface->name, "PKCS 11") == 0)
        interface->list = changed(&copies[interface->list->version[0] >= 3], interface->list);
}

CK_RV C_GetInterface(char *name, unsigned char *version, struct interface **interface, unsigned long flags)
{
    static struct interface copies[2];
    CK_RV (*get)(char *, unsigned char *, struct interface **, unsigned long) =
        (CK_RV(*)(char *, unsigned char *, struct interface **, unsigned long))symbol("C_GetInterface");
    CK_RV rv = get ? get(name, version, interface, flags) : GENERAL_ERROR;
    if (rv == 0 && strcmp((*interface)->name, "PKCS 11") == 0) {
        struct interface *copy = &copies[(*interface)->list->version[0] >= 3];
        *copy = **interface;
        change_interface(copy);
        *interface = copy;
    }
    return rv;
}

CK_RV C_GetInterfaceList(struct interface *interfaces, unsigned long *count)
{
    CK_RV (*get)(struct interface *, unsigned long *) =
        (CK_RV(*)(struct interface *, unsigned long *))symbol("C_GetInterfaceList");
    CK_RV rv = get ? get(interfaces, count) : GENERAL_ERROR;
    if (rv == 0 && interfaces != NULL)
        for (unsigned long i = 0; i < *count; i++)
            change_interface(&interfaces[i]);
    return rv;
}
