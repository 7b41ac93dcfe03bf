/*
 * unload LIBRARY finalize|leave|exit|thread|bare ROUNDS: an application that uses OpenSSL (libssl.so.3) and loads,
 * uses and unloads a PKCS#11 library that often; with `leave` without C_Finalize, with `exit` once and without
 * unloading it, with `thread` in a thread that goes on for ten rounds more, with `bare` without OpenSSL of its own.
 * Its own TLS objects have to work in between and after, and its memory must not grow.
 */
#define _GNU_SOURCE
#include "signer.h"
#include <dirent.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

/* How many bytes a round may leave behind. */
#define LEFT_BEHIND 1024

static void *(*SSL_CTX_new)(const void *), *(*SSL_new)(void *);
static const void *(*TLS_method)(void);
static void (*SSL_CTX_free)(void *), (*SSL_free)(void *);
static const char *path, *mode;

static void expect(const char *what, int round, int holds)
{
    if (!holds)
        printf("%s in round %d -> NO\n", what, round);
    failures += !holds;
}

static void own_objects(int round)
{
    if (strcmp(mode, "bare") == 0)
        return;
    void *context = SSL_CTX_new(TLS_method());
    void *ssl = context ? SSL_new(context) : NULL;
    expect("SSL_new", round, ssl != NULL);
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

static long in_use(void) { return (long)(mallinfo2().uordblks + mallinfo2().hblkhd); }

static int is_mapped(void)
{
    char line[1024];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps))
        found |= strstr(line, path) != NULL;
    fclose(maps);
    return found;
}

static void use(int round, int is_unloaded)
{
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE key;
    CK_BYTE mac[32];
    void *library = dlopen(path, RTLD_NOW);
    p11 = functions_of(library);
    if (p11 == NULL)
        exit(3);
    expect("C_Initialize", round, initialize() == CKR_OK);
    own_objects(round);
    expect("signing", round, whole_round(&session, &key, mac) == CKR_OK);
    if (round == 0)
        memcpy(expected, mac, sizeof mac);
    expect("the same signature", round, memcmp(expected, mac, sizeof mac) == 0);
    if (!is_unloaded)
        return;
    if (strcmp(mode, "leave") != 0)
        expect("C_Finalize", round, p11->C_Finalize(NULL) == CKR_OK);
    dlclose(library);
    expect("unloading", round, !is_mapped());
    own_objects(round);
}

struct task { int round; pthread_barrier_t used, over; };

static void *in_thread(void *task)
{
    struct task *own = task;
    use(own->round, 1);
    pthread_barrier_wait(&own->used);
    pthread_barrier_wait(&own->over);
    return NULL;
}

/* The threads of ten rounds end when the library has been unloaded for long. */
static void use_in_threads(int round)
{
    static pthread_t threads[10];
    static struct task tasks[10];
    struct task *task = &tasks[round % 10];
    task->round = round;
    pthread_barrier_init(&task->used, NULL, 2);
    pthread_barrier_init(&task->over, NULL, 2);
    pthread_create(&threads[round % 10], NULL, in_thread, task);
    pthread_barrier_wait(&task->used);
    for (int i = 0; round % 10 == 9 && i < 10; i++) {
        pthread_barrier_wait(&tasks[i].over);
        pthread_join(threads[i], NULL);
        own_objects(round);
    }
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    path = argv[1];
    mode = argv[2];
    int rounds = atoi(argv[3]), open_before = 0;
    if (strcmp(mode, "bare") != 0) {
        void *libssl = dlopen("libssl.so.3", RTLD_NOW | RTLD_GLOBAL);
        if (!libssl)
            return 2;
        *(void **)&SSL_CTX_new = dlsym(libssl, "SSL_CTX_new");
        *(void **)&SSL_new = dlsym(libssl, "SSL_new");
        *(void **)&TLS_method = dlsym(libssl, "TLS_method");
        *(void **)&SSL_CTX_free = dlsym(libssl, "SSL_CTX_free");
        *(void **)&SSL_free = dlsym(libssl, "SSL_free");
    }
    own_objects(-1);
    if (strcmp(mode, "exit") == 0) {
        use(0, 0);
        return failures != 0;
    }
    long before = 0, grown;
    for (int round = 0; round < rounds; round++) {
        if (strcmp(mode, "thread") == 0)
            use_in_threads(round);
        else
            use(round, 1);
        if (round == rounds / 2 - 1) {
            open_before = descriptors();
            before = in_use();
        }
    }
    grown = (in_use() - before) / (rounds - rounds / 2);
    printf("%ld bytes a round\n", grown);
    expect("no descriptor more", rounds, descriptors() == open_before);
    expect("memory", rounds, grown < LEFT_BEHIND);
    return failures != 0;
}
