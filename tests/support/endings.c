/*
 * endings LIBRARY MODE: an application that starts programs, ends threads, and ends itself while it uses a PKCS#11
 * library. Prints one line for each thing it checks, `what -> yes` or `what -> NO`; exits with 1 if there was a NO.
 *
 *   spawn       starts programs by fork, vfork and posix_spawn, in the middle of calls of other threads and while
 *               one connects: none has a socket of the library's
 *   daemon      calls daemon(3), and starts anew there
 *   cancel      cancels threads that are in a call, with and without C_WaitForSlotEvent
 *   slow        calls C_Finalize while another thread has a key made
 *   atexit, before, destructor, thread, never, busy
 *               ends by exit(3), with C_Finalize in a function of atexit(3), in one that was registered before
 *               OpenSSL's, in a destructor, in another thread, nowhere, nowhere while other threads are in calls
 *   sockets     is the program that `spawn` starts: its status is the number of its sockets
 */
#define _GNU_SOURCE
#include "signer.h"
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static CK_SESSION_HANDLE session;
static CK_OBJECT_HANDLE key;
static char *self;
static atomic_int enough, calls;

static int sockets(void)
{
    int count = 0;
    for (int number = 0; number < 256; number++) {
        struct stat file;
        count += fstat(number, &file) == 0 && S_ISSOCK(file.st_mode);
    }
    return count;
}

static void *caller(void *nothing)
{
    CK_SESSION_HANDLE own;
    CK_BYTE bytes[1024];
    if (open_session(&own) == CKR_OK)
        while (!atomic_load(&enough) && p11->C_GenerateRandom(own, bytes, sizeof bytes) == CKR_OK)
            atomic_fetch_add(&calls, 1);
    return nothing;
}

static void wait_for_calls(int more)
{
    for (int from = atomic_load(&calls); atomic_load(&calls) - from < more;)
        pause_ms(1);
}

static void check_signing(const char *what)
{
    CK_BYTE mac[32] = { 0 };
    check_rv(what, CKR_OK, sign(session, key, mac));
    check("  and its signature is right", memcmp(mac, expected, sizeof mac) == 0);
}

/* ---- spawn ------------------------------------------------------------------------------ */

static void *lives(void *nothing)
{
    while (!atomic_load(&enough)) {
        if (initialize() == CKR_OK) {
            atomic_fetch_add(&calls, 1);
            p11->C_Finalize(NULL);
        }
    }
    return nothing;
}

static void check_started(const char *how, pid_t child)
{
    int status = -1;
    waitpid(child, &status, 0);
    check(how, WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void start_programs(void)
{
    char *arguments[] = { self, (char *)"none", (char *)"sockets", NULL };
    extern char **environ;
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            execv(self, arguments);
            _exit(100);
        }
        check_started("a program started by fork has no socket", child);
        child = vfork();
        if (child == 0) {
            execv(self, arguments);
            _exit(100);
        }
        check_started("nor one started by vfork", child);
        if (posix_spawn(&child, self, NULL, NULL, arguments, environ) == 0)
            check_started("nor one started by posix_spawn", child);
        else
            check("posix_spawn", 0);
    }
}

static void mode_spawn(void)
{
    pthread_t threads[3];
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, caller, NULL);
    wait_for_calls(10);
    start_programs();
    check_signing("signing after that");
    atomic_store(&enough, 1);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    check_rv("C_Finalize", CKR_OK, p11->C_Finalize(NULL));
    atomic_store(&enough, 0);
    pthread_create(&threads[2], NULL, lives, NULL);
    wait_for_calls(1);
    start_programs();
    atomic_store(&enough, 1);
    pthread_join(threads[2], NULL);
    check("it came and went meanwhile", atomic_load(&calls) > 5);
}

static void mode_daemon(void)
{
    int pipe_of_child[2], failed = 1;
    if (pipe(pipe_of_child) != 0)
        exit(2);
    pid_t child = fork();
    if (child == 0) {
        CK_BYTE mac[32] = { 0 };
        check_rv("C_Initialize", CKR_OK, initialize());
        if (daemon(0, 1) == 0) {
            check_rv("after daemon(3) the library is not initialised", CKR_CRYPTOKI_NOT_INITIALIZED, sign(session, key, mac));
            check("no socket of the parent's is open", sockets() == 0);
            check_rv("C_Initialize", CKR_OK, initialize());
            check_rv("a session signs", CKR_OK, whole_round(&session, &key, mac));
            check("its signature is right", memcmp(mac, expected, sizeof mac) == 0);
            check_rv("C_Finalize", CKR_OK, p11->C_Finalize(NULL));
        }
        fflush(stdout);
        if (write(pipe_of_child[1], &failures, sizeof failures) < 0)
            _exit(1);
        exit(0);
    }
    close(pipe_of_child[1]);
    waitpid(child, NULL, 0);
    check("the daemon has lived", read(pipe_of_child[0], &failed, sizeof failed) == sizeof failed && failed == 0);
    check_signing("signing in the first process");
}

/* ---- cancel ----------------------------------------------------------------------------- */

static void *waiter(void *nothing)
{
    CK_SLOT_ID slot;
    p11->C_WaitForSlotEvent(0, &slot, NULL);
    return nothing;
}

static atomic_int cleaned;
static void on_cancel(void *nothing)
{
    (void)nothing;
    atomic_fetch_add(&cleaned, 1);
}

static void *cancelled(void *how)
{
    pthread_cleanup_push(on_cancel, NULL);
    ((void *(*)(void *))how)(NULL);
    for (;;)
        pause(); /* a cancellation point */
    pthread_cleanup_pop(0);
    return NULL;
}

static void mode_cancel(void)
{
    pthread_t other, threads[4];
    pthread_create(&other, NULL, caller, NULL);
    wait_for_calls(5);
    for (int i = 0; i < 10; i++) {
        void *result = NULL;
        for (int j = 0; j < 4; j++)
            pthread_create(&threads[j], NULL, cancelled, (void *)caller);
        wait_for_calls(20 + 5 * i);
        for (int j = 0; j < 4; j++)
            pthread_cancel(threads[j]);
        /* The call ends first. Its session stays open, as nobody closes it. */
        atomic_store(&enough, 1);
        for (int j = 0; j < 4; j++) {
            pthread_join(threads[j], &result);
            check("a thread is cancelled", result == PTHREAD_CANCELED);
        }
        if (i == 0)
            pthread_join(other, NULL); /* before `enough` is 0 again, or it may never see it */
        atomic_store(&enough, 0);
        check_signing("another signs");
        if (i == 0)
            pthread_create(&other, NULL, caller, NULL);
    }
    check("handlers of cancellation ran", atomic_load(&cleaned) == 40);
    pthread_t waiting;
    void *result = NULL;
    pthread_create(&waiting, NULL, cancelled, (void *)waiter);
    pause_ms(200);
    pthread_cancel(waiting);
    check_signing("another signs while one waits that is cancelled");
    check_rv("C_Finalize ends the wait", CKR_OK, p11->C_Finalize(NULL));
    pthread_join(waiting, &result);
    check("then it is cancelled", result == PTHREAD_CANCELED);
    pthread_join(other, NULL);
    CK_BYTE mac[32];
    check_rv("C_Initialize", CKR_OK, initialize());
    check_rv("and a session signs", CKR_OK, whole_round(&session, &key, mac));
}

/* ---- slow ------------------------------------------------------------------------------- */

static void *generator(void *answer)
{
    CK_MECHANISM generate = { CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0 };
    CK_ULONG bits = 16384;
    CK_ATTRIBUTE public[] = { { CKA_MODULUS_BITS, &bits, sizeof bits } };
    CK_OBJECT_HANDLE private_key, public_key;
    *(CK_RV *)answer = p11->C_GenerateKeyPair(session, &generate, public, 1, NULL, 0, &public_key, &private_key);
    return NULL;
}

static void mode_slow(void)
{
    pthread_t thread;
    CK_RV rv = CKR_OK;
    struct timespec start, end;
    pthread_create(&thread, NULL, generator, &rv);
    pause_ms(300);
    clock_gettime(CLOCK_MONOTONIC, &start);
    check_rv("C_Finalize", CKR_OK, p11->C_Finalize(NULL));
    clock_gettime(CLOCK_MONOTONIC, &end);
    pthread_join(thread, NULL);
    check_rv("the key is not waited for", CKR_CRYPTOKI_NOT_INITIALIZED, rv);
    long ms = (end.tv_sec - start.tv_sec) * 1000 + (end.tv_nsec - start.tv_nsec) / 1000000;
    printf("# C_Finalize took %ld ms\n", ms);
    check("nor for long", ms < 5000);
}

/* ---- ends ------------------------------------------------------------------------------- */

static CK_RV answered = CKR_OK;
static int is_to_finalize, is_first_registered;

static void finalize_at_exit(void)
{
    if (is_to_finalize)
        answered = p11->C_Finalize(NULL);
    if (answered != CKR_OK)
        _exit(4);
}

static void finalize_if_first(void)
{
    if (is_first_registered)
        finalize_at_exit();
}

static int in_destructor;
__attribute__((destructor)) static void destructor(void)
{
    if (in_destructor)
        finalize_at_exit();
}

static void *exiting(void *nothing)
{
    (void)nothing;
    exit(failures != 0);
}

static void end(const char *how)
{
    pthread_t thread;
    fflush(stdout);
    if (strcmp(how, "atexit") == 0)
        is_to_finalize = atexit(finalize_at_exit) == 0;
    else if (strcmp(how, "before") == 0)
        is_to_finalize = is_first_registered = 1;
    else if (strcmp(how, "destructor") == 0)
        is_to_finalize = in_destructor = 1;
    else if (strcmp(how, "thread") == 0) {
        is_to_finalize = atexit(finalize_at_exit) == 0;
        pthread_create(&thread, NULL, exiting, NULL);
        pthread_join(thread, NULL);
    } else if (strcmp(how, "busy") == 0) {
        for (int i = 0; i < 4; i++)
            pthread_create(&thread, NULL, i == 0 ? waiter : caller, NULL);
        wait_for_calls(20);
    }
    exit(failures != 0);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_DFL);
    if (argc < 3)
        return 2;
    if (strcmp(argv[2], "sockets") == 0)
        return sockets();
    self = argv[0];
    atexit(finalize_if_first);
    /* An application that uses OpenSSL, which then cleans up at exit, before what was registered earlier. */
    void *libcrypto = getenv("ENDINGS_OPENSSL") ? dlopen("libcrypto.so.3", RTLD_NOW | RTLD_GLOBAL) : NULL;
    if (libcrypto) {
        int (*init)(unsigned long long, const void *);
        *(void **)&init = dlsym(libcrypto, "OPENSSL_init_crypto");
        check("OpenSSL starts", init(0, NULL) == 1);
    }
    if ((p11 = functions_of(dlopen(argv[1], RTLD_NOW | RTLD_LOCAL))) == NULL)
        return 2;
    check_rv("C_Initialize", CKR_OK, initialize());
    check_rv("the first session signs", CKR_OK, whole_round(&session, &key, expected));
    static const struct { const char *name; void (*run)(void); } MODES[] = {
        { "spawn", mode_spawn }, { "daemon", mode_daemon }, { "cancel", mode_cancel }, { "slow", mode_slow },
    };
    int known = 0;
    for (size_t i = 0; failures == 0 && i < sizeof MODES / sizeof *MODES; i++)
        if (strcmp(argv[2], MODES[i].name) == 0) {
            MODES[i].run();
            known = 1;
        }
    if (!known)
        end(argv[2]);
    CK_RV rv = p11->C_Finalize(NULL);
    check("C_Finalize at the end", rv == CKR_OK || rv == CKR_CRYPTOKI_NOT_INITIALIZED);
    return failures != 0;
}
