/*
 * unload LIBRARY finalize|leave|exit: an application that uses OpenSSL (libssl.so.3) and loads, uses and
 * unloads a PKCS#11 library forty times; with `leave` without C_Finalize, with `exit` once and without
 * unloading it. Its own TLS objects have to work in between and after.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <pkcs11.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *(*SSL_CTX_new)(const void *), *(*SSL_new)(void *);
static const void *(*TLS_method)(void);
static void (*SSL_CTX_free)(void *), (*SSL_free)(void *);

static void check(const char *what, int round, int holds)
{
    if (!holds)
        printf("%s in round %d -> NO\n", what, round);
}

static void own_objects(int round)
{
    void *context = SSL_CTX_new(TLS_method());
    void *ssl = context ? SSL_new(context) : NULL;
    check("SSL_new", round, ssl != NULL);
    SSL_free(ssl);
    SSL_CTX_free(context);
}

static int descriptors(void)
{
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    while (directory && readdir(directory))
        count++;
    closedir(directory);
    return count;
}

static long resident(void)
{
    char line[256];
    long kib = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        sscanf(line, "VmRSS: %ld", &kib);
    fclose(status);
    return kib;
}

static int is_mapped(const char *path)
{
    char line[1024];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps))
        found |= strstr(line, path) != NULL;
    fclose(maps);
    return found;
}

int main(int argc, char **argv)
{
    void *libssl = dlopen("libssl.so.3", RTLD_NOW | RTLD_GLOBAL);
    if (argc < 3 || !libssl)
        return 2;
    *(void **)&SSL_CTX_new = dlsym(libssl, "SSL_CTX_new");
    *(void **)&SSL_new = dlsym(libssl, "SSL_new");
    *(void **)&TLS_method = dlsym(libssl, "TLS_method");
    *(void **)&SSL_CTX_free = dlsym(libssl, "SSL_CTX_free");
    *(void **)&SSL_free = dlsym(libssl, "SSL_free");
    own_objects(-1);
    int open_before = 0, rounds = strcmp(argv[2], "exit") == 0 ? 1 : 40;
    long memory_before = 0;
    for (int round = 0; round < rounds; round++) {
        void *library = dlopen(argv[1], RTLD_NOW);
        CK_C_GetFunctionList list = library ? (CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList") : NULL;
        CK_FUNCTION_LIST_PTR p11;
        CK_ULONG count = 0;
        if (!list || list(&p11) != CKR_OK)
            return 3;
        check("C_Initialize", round, p11->C_Initialize(NULL) == CKR_OK);
        own_objects(round);
        check("C_GetSlotList", round, p11->C_GetSlotList(CK_TRUE, NULL, &count) == CKR_OK && count > 0);
        if (rounds == 1)
            break;
        if (strcmp(argv[2], "finalize") == 0)
            check("C_Finalize", round, p11->C_Finalize(NULL) == CKR_OK);
        dlclose(library);
        check("unloading", round, !is_mapped(argv[1]));
        own_objects(round);
        if (round == 9) {
            open_before = descriptors();
            memory_before = resident();
        }
    }
    if (rounds > 1) {
        check("no descriptor more", rounds, descriptors() == open_before);
        printf("%ld KiB a round\n", (resident() - memory_before) / 30);
        check("memory", rounds, resident() - memory_before < 30 * 1024);
    }
    return 0;
}
