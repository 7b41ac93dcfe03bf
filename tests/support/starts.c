/* starts LIBRARY: calls C_Initialize and C_Finalize, and prints what the first returns, in hexadecimal. */
#include <dlfcn.h>
#include <stdio.h>

int main(int count, char **arguments)
{
    void *library = count == 2 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    unsigned long (*initialize)(void *), (*finalize)(void *);
    unsigned long rv;

    if (library == NULL) {
        fprintf(stderr, "starts: %s\n", count == 2 ? dlerror() : "expected a library");
        return 2;
    }
    *(void **)&initialize = dlsym(library, "C_Initialize");
    *(void **)&finalize = dlsym(library, "C_Finalize");
    if (initialize == NULL || finalize == NULL)
        return 2;
    rv = initialize(NULL);
    printf("%#lx\n", rv);
    if (rv == 0)
        finalize(NULL);
    return 0;
}
