/*
 * states LIBRARY MODE [ARGUMENT]: an application that uses a PKCS#11 library while its process is in an unusual
 * state. Prints one line for each thing it checks, `what -> yes` or `what -> NO`, and exits with 1 if there was a
 * NO.
 *
 *   timer     a timer interrupts it a thousand times a second, with and without SA_RESTART, connecting included
 *   stop      another process stops and continues it all the time
 *   clock     the clock steps by days, forward and back, at each look
 *   signals   all signals are blocked; SIGCHLD has a handler and children end; a handler is on a stack of its own
 *   files     it may open no more descriptors, then again; then it has 2000 open
 *   memory    it gets no more memory from the system, at each step of C_Initialize and of calls
 *   alone     it may start no thread and no process (as the user nobody)
 *   chroot    it goes into the empty directory ARGUMENT and becomes the user nobody, after C_Initialize
 *   odd       no HOME, no working directory, a umask that lets nobody in, numbers with commas
 *   setenv    another thread of it changes the environment, between calls of C_Initialize
 */
#define _GNU_SOURCE
#include "signer.h"
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY 65534

static CK_SESSION_HANDLE session;
static CK_OBJECT_HANDLE key;

static void check_signing(const char *what)
{
    CK_BYTE mac[32] = { 0 };
    check_rv(what, CKR_OK, sign(session, key, mac));
    check("  and its signature is right", memcmp(mac, expected, sizeof mac) == 0);
}

/* From C_Initialize to C_Finalize. */
static CK_RV life(void)
{
    CK_BYTE mac[32] = { 0 };
    CK_RV rv = initialize();
    if (rv != CKR_OK)
        return rv;
    rv = whole_round(&session, &key, mac);
    if (rv == CKR_OK && memcmp(mac, expected, sizeof mac) != 0)
        rv = CKR_SIGNATURE_INVALID;
    CK_RV finalized = p11->C_Finalize(NULL);
    return rv == CKR_OK ? finalized : rv;
}

static void check_lives(const char *what, int count)
{
    CK_RV rv = CKR_OK;
    for (int i = 0; rv == CKR_OK && i < count; i++)
        rv = life();
    check_rv(what, CKR_OK, rv);
}

/* Ends the first life, of which `expected` comes. */
static void finalize(void) { check_rv("C_Finalize", CKR_OK, p11->C_Finalize(NULL)); }

static void begin(void)
{
    CK_BYTE mac[32];
    check_rv("C_Initialize", CKR_OK, initialize());
    check_rv("and a session signs", CKR_OK, whole_round(&session, &key, mac));
    check("  and its signature is right", memcmp(mac, expected, sizeof mac) == 0);
}

/* ---- timer ------------------------------------------------------------------------------ */

static atomic_int interruptions;
static void on_signal(int number)
{
    (void)number;
    atomic_fetch_add(&interruptions, 1);
}

static void handle(int number, int flags)
{
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = flags };
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

static void mode_timer(void)
{
    static const struct { const char *name; int flags; } HOW[] = { { "without SA_RESTART", 0 }, { "with SA_RESTART", SA_RESTART } };
    finalize();
    for (int i = 0; i < 2; i++) {
        const struct itimerval often = { { 0, 1000 }, { 0, 1000 } }, never = { 0 };
        printf("# a timer %s\n", HOW[i].name);
        handle(SIGALRM, HOW[i].flags);
        atomic_store(&interruptions, 0);
        setitimer(ITIMER_REAL, &often, NULL);
        check_lives("twenty lives under a timer", 20);
        begin();
        CK_BYTE bytes[65536], mac[32];
        CK_RV rv = CKR_OK;
        for (int count = 0; rv == CKR_OK && count < 300; count++) {
            rv = p11->C_GenerateRandom(session, bytes, sizeof bytes);
            if (rv == CKR_OK)
                rv = sign(session, key, mac);
        }
        check_rv("300 calls under a timer", CKR_OK, rv);
        finalize();
        setitimer(ITIMER_REAL, &never, NULL);
        check("they were interrupted", atomic_load(&interruptions) > 50);
    }
    signal(SIGALRM, SIG_DFL);
    begin();
}

/* ---- stop ------------------------------------------------------------------------------- */

/* A process that stops its parent and continues it, often. */
static pid_t stopper(long ms, int times)
{
    pid_t parent = getpid(), child = fork();
    if (child != 0)
        return child;
    for (int i = 0; i < times; i++) {
        kill(parent, SIGSTOP);
        pause_ms(ms);
        kill(parent, SIGCONT);
        pause_ms(ms);
    }
    _exit(0);
}

static void mode_stop(void)
{
    CK_BYTE bytes[4096];
    CK_RV rv = CKR_OK;
    int status = 0, calls = 0;
    pid_t child = stopper(5, 100);
    while (rv == CKR_OK && waitpid(child, &status, WNOHANG) == 0) {
        rv = p11->C_GenerateRandom(session, bytes, sizeof bytes);
        calls++;
    }
    check_rv("calls while it is stopped and continued", CKR_OK, rv);
    check("  there were some", calls > 20);
    check_signing("signing after that");
    finalize();
    child = stopper(3, 150);
    rv = CKR_OK;
    while (rv == CKR_OK && waitpid(child, &status, WNOHANG) == 0)
        rv = life();
    check_rv("lives while it is stopped and continued", CKR_OK, rv);
    begin();
}

/* ---- clock ------------------------------------------------------------------------------ */

static atomic_int stepping, looks;

/* Takes the place of the C library's, for the library under test as well. */
int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (clock == CLOCK_REALTIME && atomic_load(&stepping))
        time->tv_sec += atomic_fetch_add(&looks, 1) % 2 ? 86400L * 300 : -86400L * 300;
    return result;
}

static void mode_clock(void)
{
    finalize();
    atomic_store(&stepping, 1);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    check_lives("five lives while the clock steps", 5);
    begin();
    for (int i = 0; i < 20; i++) {
        CK_BYTE mac[32];
        if (sign(session, key, mac) != CKR_OK)
            check("signing while the clock steps", 0);
    }
}

/* ---- signals ---------------------------------------------------------------------------- */

static void *blocked(void *result)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    *(CK_RV *)result = life();
    return NULL;
}

static void mode_signals(void)
{
    pthread_t thread;
    CK_RV rv = CKR_OK;
    finalize();
    pthread_create(&thread, NULL, blocked, &rv);
    pthread_join(thread, NULL);
    check_rv("a life with all signals blocked", CKR_OK, rv);

    handle(SIGCHLD, 0);
    pid_t children[20];
    for (int i = 0; i < 20; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            pause_ms(3 * i);
            _exit(0);
        }
    }
    check_lives("lives while children end", 3);
    for (int i = 0; i < 20; i++) {
        int status = -1;
        pid_t waited;
        do {
            waited = waitpid(children[i], &status, 0);
        } while (waited < 0 && errno == EINTR); // another child has ended
        check("a child is there to be waited for", waited == children[i] && status == 0);
    }
    static char space[65536];
    stack_t other = { .ss_sp = space, .ss_size = sizeof space };
    sigaltstack(&other, NULL);
    handle(SIGALRM, SA_ONSTACK);
    const struct itimerval often = { { 0, 2000 }, { 0, 2000 } }, never = { 0 };
    setitimer(ITIMER_REAL, &often, NULL);
    check_lives("lives with a handler on a stack of its own", 5);
    setitimer(ITIMER_REAL, &never, NULL);
    stack_t now;
    sigaltstack(NULL, &now);
    check("the stack is still that handler's", now.ss_sp == space);
    for (int number = 1; number < 32; number++) {
        struct sigaction action;
        int was_set = number == SIGCHLD || number == SIGALRM || number == SIGPIPE || number == SIGKILL || number == SIGSTOP;
        sigaction(number, NULL, &action);
        if (!was_set && action.sa_handler != SIG_DFL)
            check("the library sets no handler", 0);
    }
    begin();
}

/* ---- files ------------------------------------------------------------------------------ */

static void mode_files(void)
{
    static int open_here[4096];
    int count = 0;
    struct rlimit limit;
    finalize();
    getrlimit(RLIMIT_NOFILE, &limit);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = 64;
    setrlimit(RLIMIT_NOFILE, &limit);
    while (count < 4096 && (open_here[count] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
        count++;
    check("no descriptor is left", count > 0 && errno == EMFILE);
    check_rv("C_Initialize is CKR_DEVICE_ERROR", CKR_DEVICE_ERROR, p11->C_Initialize(NULL));
    for (int free = 1; free < 4; free++) {
        close(open_here[--count]);
        CK_RV rv = p11->C_Initialize(NULL);
        check("with few it fails or works", rv == CKR_OK || rv == CKR_DEVICE_ERROR);
        if (rv == CKR_OK)
            finalize();
    }
    while (count > 0)
        close(open_here[--count]);
    check_rv("later it works", CKR_OK, life());
    limit.rlim_cur = before;
    setrlimit(RLIMIT_NOFILE, &limit);

    limit.rlim_cur = limit.rlim_max < 4096 ? limit.rlim_max : 4096;
    setrlimit(RLIMIT_NOFILE, &limit);
    while (count < 2000 && (open_here[count] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
        count++;
    check("more than 1024 are open", count > 1024);
    check_rv("a life among them", CKR_OK, life());
    begin();
    while (count > 0)
        close(open_here[--count]);
}

/* ---- memory ----------------------------------------------------------------------------- */

/* Lets the process take `more` bytes of address space, or any amount. */
static void allow(rlim_t more)
{
    char text[64] = "";
    int file = open("/proc/self/statm", O_RDONLY);
    if (read(file, text, sizeof text - 1) <= 0)
        check("the size of the process is known", 0);
    close(file);
    struct rlimit limit;
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = more == RLIM_INFINITY ? more : more + strtoul(text, NULL, 10) * (rlim_t)sysconf(_SC_PAGESIZE);
    setrlimit(RLIMIT_AS, &limit);
}

/* Takes what the C library has in reserve, so that the next allocations ask the system; gives it back at the end. */
static void *taken[100000];
static int take_all(void)
{
    int count = 0;
    for (size_t size = 1 << 20; size >= 16; size /= 2)
        while (count < 100000 && (taken[count] = malloc(size)) != NULL)
            count++;
    return count;
}

static void mode_memory(void)
{
    finalize();
    /* Each in a child: an end is seen, and the rest goes on. */
    for (rlim_t more = 0; more <= 4 << 20; more = more ? more * 2 : 4096) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            alarm(60);
            allow(more);
            int count = take_all();
            /* As much as `more` is left for the library. */
            for (rlim_t given = 0; given < more && count > 0; given += 1024)
                free(taken[--count]);
            CK_RV rv = p11->C_Initialize(NULL);
            if (rv == CKR_OK) {
                CK_BYTE mac[32];
                rv = whole_round(&session, &key, mac);
                p11->C_Finalize(NULL);
            }
            while (count > 0)
                free(taken[--count]);
            allow(RLIM_INFINITY);
            if (rv != CKR_OK)
                rv = life();
            _exit(rv == CKR_OK ? 0 : 3);
        }
        int status = -1;
        waitpid(child, &status, 0);
        printf("# %lu bytes more\n", (unsigned long)more);
        check("it goes on without memory, and works with it", status == 0);
        if (status != 0)
            printf("# status %#x\n", status);
    }
    begin();
}

/* ---- alone, chroot, odd, setenv ------------------------------------------------------------------ */

static void mode_alone(void)
{
    finalize();
    const struct rlimit none = { 0, 0 };
    check("it is nobody", setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
    setrlimit(RLIMIT_NPROC, &none);
    check("it may start no process", fork() == -1);
    check_rv("a life", CKR_OK, life());
    begin();
}

static void mode_chroot(const char *directory)
{
    check("it is in an empty directory", chroot(directory) == 0 && chdir("/") == 0);
    check("it is nobody", setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
    check("there is no /proc", access("/proc/self", F_OK) != 0);
    check_signing("signing there");
    finalize();
    CK_RV rv = p11->C_Initialize(NULL);
    printf("# C_Initialize there: 0x%lx\n", rv);
    check("C_Initialize works there or says why not", rv == CKR_OK || rv == CKR_DEVICE_ERROR);
    if (rv != CKR_OK)
        return;
    finalize();
    begin();
}

static void mode_odd(void)
{
    char directory[] = "/tmp/states-XXXXXX";
    finalize();
    check("no HOME", unsetenv("HOME") == 0);
    check("no working directory", mkdtemp(directory) && chdir(directory) == 0 && rmdir(directory) == 0);
    umask(0777);
    const char *locales[] = { "de_DE.UTF-8", "fr_FR.UTF-8", "tr_TR.UTF-8", "C.UTF-8" };
    for (size_t i = 0; i < 4; i++) {
        const char *set = setlocale(LC_ALL, locales[i]);
        printf("# locale %s: %s\n", locales[i], set ? "there" : "not installed");
        check_rv("a life", CKR_OK, life());
    }
    begin();
}

static atomic_int enough;
static pthread_mutex_t environment = PTHREAD_MUTEX_INITIALIZER;
static void *setter(void *nothing)
{
    for (int i = 0; !atomic_load(&enough); i++) {
        char name[32], value[64];
        snprintf(name, sizeof name, "NAME_%d", i % 500);
        snprintf(value, sizeof value, "value %d of a variable", i);
        pthread_mutex_lock(&environment);
        setenv(name, value, 1);
        if (i % 7 == 0)
            unsetenv(name);
        pthread_mutex_unlock(&environment);
    }
    return nothing;
}

/* C forbids setenv beside getenv in another thread; calls other than C_Initialize may go on beside it. */
static void mode_setenv(void)
{
    pthread_t thread;
    CK_BYTE mac[32];
    CK_RV rv = CKR_OK;
    pthread_create(&thread, NULL, setter, NULL);
    for (int i = 0; rv == CKR_OK && i < 300; i++)
        rv = sign(session, key, mac);
    check_rv("calls beside setenv", CKR_OK, rv);
    finalize();
    for (int i = 0; i < 20; i++) {
        pthread_mutex_lock(&environment);
        rv = initialize();
        pthread_mutex_unlock(&environment);
        check_rv("C_Initialize between", CKR_OK, rv);
        if (rv == CKR_OK)
            finalize();
    }
    atomic_store(&enough, 1);
    pthread_join(thread, NULL);
    begin();
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_DFL);
    if (argc < 3 || (p11 = functions_of(dlopen(argv[1], RTLD_NOW | RTLD_LOCAL))) == NULL)
        return 2;
    const char *argument = argc > 3 ? argv[3] : "";
    check_rv("C_Initialize", CKR_OK, initialize());
    check_rv("the first session signs", CKR_OK, whole_round(&session, &key, expected));
    static const struct { const char *name; void (*run)(void); } MODES[] = {
        { "timer", mode_timer }, { "stop", mode_stop }, { "clock", mode_clock }, { "signals", mode_signals }, { "files", mode_files },
        { "memory", mode_memory }, { "alone", mode_alone }, { "odd", mode_odd }, { "setenv", mode_setenv },
    };
    int known = 1;
    if (failures == 0 && strcmp(argv[2], "chroot") == 0)
        mode_chroot(argument);
    else
        known = 0;
    for (size_t i = 0; failures == 0 && !known && i < sizeof MODES / sizeof *MODES; i++)
        if (strcmp(argv[2], MODES[i].name) == 0) {
            MODES[i].run();
            known = 1;
        }
    check("the mode is known", known);
    CK_RV rv = p11->C_Finalize(NULL);
    check("C_Finalize at the end", rv == CKR_OK || rv == CKR_CRYPTOKI_NOT_INITIALIZED);
    return failures != 0;
}
