/*
 * An application whose calls are timed, for benchmarks: application LIBRARY.
 *
 * It initialises the library, opens a session with the first token, reads lines `TASK COUNT` from standard input, and answers
 * each with the nanoseconds that COUNT calls took, or ends. `idle` makes none; `threads-N` makes COUNT
 * calls of C_Sign in each of N threads, with a session each.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pkcs11.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MEBIBYTE ((CK_ULONG)1 << 20)
#define MOST_THREADS 64

static CK_FUNCTION_LIST *p11;
static CK_BYTE data[MEBIBYTE], room[MEBIBYTE];

static void must(const char *what, CK_RV rv)
{
    if (rv != CKR_OK) {
        fprintf(stderr, "application: %s: 0x%lx\n", what, rv);
        exit(1);
    }
}

static CK_SESSION_HANDLE open_session(void)
{
    CK_SESSION_HANDLE session;
    CK_SLOT_ID slots[16];
    CK_ULONG count = 16;
    must("C_GetSlotList", p11->C_GetSlotList(CK_TRUE, slots, &count));
    must("the first slot", count > 0 ? CKR_OK : CKR_TOKEN_NOT_PRESENT);
    must("C_OpenSession", p11->C_OpenSession(slots[0], CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));
    return session;
}

static void sign(CK_SESSION_HANDLE session)
{
    CK_BYTE signature[512];
    CK_ULONG length = sizeof signature;
    must("C_Sign", p11->C_Sign(session, data, 32, signature, &length));
}

static void digest(CK_SESSION_HANDLE session)
{
    CK_ULONG length = 64;
    must("C_Digest", p11->C_Digest(session, data, sizeof data, room, &length));
}

static void encrypt(CK_SESSION_HANDLE session)
{
    CK_ULONG length = sizeof room;
    must("C_Encrypt", p11->C_Encrypt(session, data, sizeof data, room, &length));
}

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static long calls_of_a_thread;
static pthread_barrier_t all_have_started;

struct caller {
    pthread_t thread;
    CK_SESSION_HANDLE session;
    long long start;
};

/* The first call is not measured: it is the one for which a proxy may start a thread of its own. */
static void *sign_often(void *argument)
{
    struct caller *caller = argument;
    sign(caller->session);
    pthread_barrier_wait(&all_have_started);
    caller->start = now();
    for (long i = 0; i < calls_of_a_thread; i++)
        sign(caller->session);
    return NULL;
}

/* Returns the time from the first measured call of all threads to the end of the last one. */
static long long in_threads(const CK_SESSION_HANDLE *sessions, size_t threads, long count)
{
    struct caller callers[MOST_THREADS];
    calls_of_a_thread = count;
    if (pthread_barrier_init(&all_have_started, NULL, threads) != 0)
        must("no barrier", CKR_HOST_MEMORY);
    for (size_t i = 0; i < threads; i++) {
        callers[i].session = sessions[i];
        if (pthread_create(&callers[i].thread, NULL, sign_often, &callers[i]) != 0)
            must("no thread", CKR_HOST_MEMORY);
    }
    for (size_t i = 0; i < threads; i++)
        pthread_join(callers[i].thread, NULL);
    long long end = now(), start = end;
    for (size_t i = 0; i < threads; i++)
        if (callers[i].start < start)
            start = callers[i].start;
    pthread_barrier_destroy(&all_have_started);
    return end - start;
}

int main(int argc, char **argv)
{
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    CK_C_GetFunctionList list = NULL;
    if (library)
        *(void **)&list = dlsym(library, "C_GetFunctionList");
    must("no library", list ? list(&p11) : CKR_GENERAL_ERROR);
    CK_C_INITIALIZE_ARGS arguments = { .flags = CKF_OS_LOCKING_OK };
    must("C_Initialize", p11->C_Initialize(&arguments));
    CK_SESSION_HANDLE sessions[MOST_THREADS];
    sessions[0] = open_session();
    size_t opened = 1;
    char task[32];
    long count;
    while (scanf("%31s %ld", task, &count) == 2) {
        size_t threads = strncmp(task, "threads-", 8) == 0 ? strtoul(task + 8, NULL, 10) : 0;
        if (threads > MOST_THREADS)
            must(task, CKR_ARGUMENTS_BAD);
        while (opened < threads)
            sessions[opened++] = open_session();
        void (*call)(CK_SESSION_HANDLE) = strcmp(task, "sign") == 0    ? sign
                                          : strcmp(task, "digest") == 0  ? digest
                                          : strcmp(task, "encrypt") == 0 ? encrypt
                                                                         : NULL;
        long long start = now();
        for (long i = 0; call && i < count; i++)
            call(sessions[0]);
        printf("%lld\n", threads > 0 ? in_threads(sessions, threads, count) : now() - start);
        fflush(stdout);
    }
    return 0;
}
