/*
 * Stands in for the system's resolver, by LD_PRELOAD: a name in .test has the addresses that RESOLVER_ADDRESSES lists,
 * after RESOLVER_DELAY milliseconds. Before that, RESOLVER_CALLS has it call C_Initialize of that library, which has to
 * answer CKR_FUNCTION_FAILED. While NO_THREADS is set, there are no threads to be had.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        dlsym(RTLD_NEXT, "getaddrinfo");
    const char *addresses = getenv("RESOLVER_ADDRESSES"), *delay = getenv("RESOLVER_DELAY");
    const char *library = getenv("RESOLVER_CALLS");
    char *list, *rest, *address;

    if (!name || !strstr(name, ".test"))
        return real(name, service, hints, found);
    if (library) {
        void *handle = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
        unsigned long (*initialize)(void *) = handle ? dlsym(handle, "C_Initialize") : NULL;
        if (!initialize || initialize(NULL) != 6)
            abort();
        dlclose(handle);
    }
    usleep(1000 * (delay ? atoi(delay) : 0));
    list = rest = strdup(addresses ? addresses : "");
    while ((address = strsep(&rest, ","))) {
        if (real(address, service, hints, found) != 0)
            return EAI_NONAME;
        found = &(*found)->ai_next;
    }
    free(list);
    return 0;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
        dlsym(RTLD_NEXT, "pthread_create");
    return getenv("NO_THREADS") ? EAGAIN : real(thread, attributes, start, argument);
}
