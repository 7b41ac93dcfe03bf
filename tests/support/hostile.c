/*
 * A PKCS#11 module that tries what a module has no business to do. One slot, one token, no files. C_Sign does what its
 * data say and gives back `done`, or the error it met:
 *
 *   tcp PORT       connect to 127.0.0.1
 *   unix PATH      connect to a Unix socket
 *   datagram PATH  send a datagram to a Unix socket, through one half of a socketpair
 *   run PATH       run /bin/true, which creates nothing; `done` if its exit status is 0
 *   read PATH      read a byte of a file
 *   write PATH     create a file
 *   cut PATH       cut a file to length 0
 *   cut-open PATH  the same, by opening it for reading
 *   open-2 PATH    open a file with openat2
 *   mode PATH      make a file readable for everybody
 *   namespace      become root in a user namespace
 *   namespace-3    the same with clone3
 *   ptrace PID     attach to a process
 *   signal PID     send signal 0, which only asks whether a signal could be sent
 *   sigio PID      have the kernel send it SIGIO
 *   fork N         fork that many processes, which end at once
 *   thread         start a thread and wait for it
 *   limit          raise the limit on core files
 *   dumpable       have its memory written to core files
 *   ring           make an io_uring
 *   keyring        add a key to a keyring
 *   capability     bind a raw socket, for which CAP_NET_RAW is needed
 *   own            signal itself
 *   memory N       allocate that many MiB
 *   files N        open that many
 *   flood          from now on, send the controller messages that mean nothing, as fast as it can
 *   crash, hang    as they say
 *
 * HOSTILE_THREADS=1 has C_Initialize start a thread, which C_Sign `thread` needs to be alive.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pkcs11.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wunused-parameter"

/* ---- Attempts: 0 if it worked, otherwise errno -------------------------------------------- */

static int outcome(long result)
{
    return result < 0 ? errno : 0;
}

static struct sockaddr_un at(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    return address;
}

static int try_tcp(const char *port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int file = socket(AF_INET, SOCK_STREAM, 0);
    if (file < 0)
        return errno;
    return outcome(connect(file, (struct sockaddr *)&address, sizeof address));
}

static int try_unix(const char *path)
{
    struct sockaddr_un address = at(path);
    int file = socket(AF_UNIX, SOCK_STREAM, 0);
    if (file < 0)
        return errno;
    return outcome(connect(file, (struct sockaddr *)&address, sizeof address));
}

static int try_datagram(const char *path)
{
    struct sockaddr_un address = at(path);
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) < 0)
        return errno;
    return outcome(sendto(pair[0], "x", 1, 0, (struct sockaddr *)&address, sizeof address));
}

static int try_run(const char *path)
{
    pid_t child = fork();
    if (child < 0)
        return errno;
    if (child == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(errno & 127);
    }
    int status = 0;
    if (waitpid(child, &status, 0) < 0)
        return errno;
    return WIFEXITED(status) ? WEXITSTATUS(status) : ECANCELED;
}

static int try_read(const char *path)
{
    char byte;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return errno;
    return read(file, &byte, 1) == 1 ? 0 : EIO;
}

static int try_write(const char *path)
{
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0)
        return errno;
    return write(file, "x", 1) == 1 ? 0 : EIO;
}

static int in_a_child(int (*attempt)(void))
{
    pid_t child = fork();
    if (child < 0)
        return errno;
    if (child == 0)
        _exit(attempt());
    int status = 0;
    if (waitpid(child, &status, 0) < 0)
        return errno;
    return WIFEXITED(status) ? WEXITSTATUS(status) : ECANCELED;
}

static int namespace(void)
{
    return outcome(unshare(CLONE_NEWUSER));
}

/* A process with more than one thread cannot do it, so a child does, if there can be one. */
static int try_namespace(const char *unused)
{
    int result = in_a_child(namespace);
    return result == 0 ? 0 : namespace() == 0 ? 0 : result;
}

static int try_namespace_3(const char *unused)
{
    struct {
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
    } arguments = { .flags = CLONE_NEWUSER, .exit_signal = SIGCHLD };
    long child = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child == 0)
        _exit(0);
    int result = outcome(child);
    if (child > 0)
        waitpid((pid_t)child, NULL, 0);
    return result;
}

static int try_ptrace(const char *process)
{
    pid_t pid = atoi(process);
    int result = outcome(ptrace(PTRACE_SEIZE, pid, NULL, NULL));
    if (result == 0) {
        ptrace(PTRACE_INTERRUPT, pid, NULL, NULL);
        waitpid(pid, NULL, 0);
        ptrace(PTRACE_DETACH, pid, NULL, NULL);
    }
    return result;
}

static int try_signal(const char *process)
{
    return outcome(kill(atoi(process), SIGURG));
}

/* Whether the signal arrives is not seen from here. */
static int try_sigio(const char *process)
{
    int ends[2];
    if (pipe(ends) < 0)
        return errno;
    if (fcntl(ends[0], F_SETSIG, SIGUSR1) < 0 || fcntl(ends[0], F_SETOWN, atoi(process)) < 0)
        return errno;
    if (fcntl(ends[0], F_SETFL, O_ASYNC) < 0)
        return errno;
    return write(ends[1], "x", 1) == 1 ? 0 : EIO;
}

static int try_fork(const char *number)
{
    int failed = 0;
    for (int left = atoi(number); left > 0 && !failed; left--) {
        pid_t child = fork();
        if (child == 0) {
            pause();
            _exit(0);
        }
        failed = outcome(child);
    }
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    signal(SIGTERM, SIG_DFL);
    while (waitpid(-1, NULL, 0) > 0) {
    }
    return failed;
}

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int asked, answered;

static void *answer(void *unused)
{
    pthread_mutex_lock(&turn);
    for (;;) {
        while (asked == answered)
            pthread_cond_wait(&changed, &turn);
        answered = asked;
        pthread_cond_broadcast(&changed);
    }
    return NULL;
}

static int start_thread(void)
{
    pthread_t thread;
    int failed = pthread_create(&thread, NULL, answer, NULL);
    return failed ? failed : pthread_detach(thread);
}

static int try_thread(const char *unused)
{
    int failed = getenv("HOSTILE_THREADS") ? 0 : start_thread();
    if (failed)
        return failed;
    pthread_mutex_lock(&turn);
    asked++;
    pthread_cond_broadcast(&changed);
    while (asked != answered)
        pthread_cond_wait(&changed, &turn);
    pthread_mutex_unlock(&turn);
    return 0;
}

static int try_limit(const char *unused)
{
    struct rlimit limit = { 4096, 4096 };
    return outcome(setrlimit(RLIMIT_CORE, &limit));
}

static int try_keyring(const char *unused)
{
    return outcome(syscall(SYS_add_key, "user", "hostile", "x", (size_t)1, -3 /* the process's */));
}

static int try_ring(const char *unused)
{
    uint32_t parameters[30] = { 0 };
    return outcome(syscall(SYS_io_uring_setup, 4, parameters));
}

static int try_capability(const char *unused)
{
    return outcome(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
}

static int try_cut(const char *path)
{
    return outcome(truncate(path, 0));
}

static int try_cut_open(const char *path)
{
    return outcome(open(path, O_RDONLY | O_TRUNC | O_CLOEXEC));
}

static int try_open_2(const char *path)
{
    uint64_t how[3] = { O_RDONLY | O_CLOEXEC };
    return outcome(syscall(SYS_openat2, AT_FDCWD, path, how, sizeof how));
}

static int try_mode(const char *path)
{
    return outcome(chmod(path, 0644));
}

static int try_dumpable(const char *unused)
{
    return outcome(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
}

static int try_own(const char *unused)
{
    signal(SIGUSR1, SIG_IGN);
    return raise(SIGUSR1) ? errno : outcome(kill(getpid(), SIGUSR1));
}

static int try_memory(const char *size)
{
    size_t bytes = (size_t)atoi(size) << 20;
    void *room = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return errno;
    munmap(room, bytes);
    return 0;
}

static int try_files(const char *number)
{
    int first = -1, failed = 0, left = atoi(number);
    for (; left > 0 && !failed; left--) {
        int file = open("/dev/null", O_RDONLY | O_CLOEXEC);
        failed = outcome(file);
        if (first < 0)
            first = file;
    }
    if (first >= 0)
        close_range((unsigned)first, ~0u, 0);
    return failed;
}

/* The worker's sockets that keep message boundaries lead to the controller, or to the auditor. */
static void *send_without_end(void *unused)
{
    static const char longer[8000] = { 1 };
    for (;;)
        for (int file = 3; file < 64; file++) {
            int type = 0;
            socklen_t size = sizeof type;
            if (getsockopt(file, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET) {
                send(file, "\xff", 1, MSG_NOSIGNAL);
                send(file, longer, sizeof longer, MSG_NOSIGNAL);
            }
        }
    return NULL;
}

static int try_flood(const char *unused)
{
    int failed = 0;
    for (int left = 8; left > 0 && !failed; left--) {
        pthread_t thread;
        failed = pthread_create(&thread, NULL, send_without_end, NULL);
    }
    return failed;
}

static const struct {
    const char *name;
    int (*attempt)(const char *argument);
} ATTEMPTS[] = {
    { "tcp", try_tcp }, { "unix", try_unix }, { "datagram", try_datagram }, { "run", try_run },
    { "read", try_read }, { "write", try_write }, { "cut", try_cut }, { "cut-open", try_cut_open }, { "open-2", try_open_2 }, { "mode", try_mode },
    { "namespace", try_namespace }, { "namespace-3", try_namespace_3 }, { "ptrace", try_ptrace },
    { "signal", try_signal }, { "sigio", try_sigio }, { "fork", try_fork }, { "thread", try_thread },
    { "limit", try_limit }, { "dumpable", try_dumpable }, { "ring", try_ring }, { "keyring", try_keyring },
    { "capability", try_capability }, { "own", try_own }, { "memory", try_memory }, { "files", try_files },
    { "flood", try_flood },
};

static const char *obey(char *order)
{
    if (strcmp(order, "crash") == 0)
        *(volatile int *)NULL = 1;
    while (strcmp(order, "hang") == 0)
        pause();
    char *argument = strchr(order, ' ');
    if (argument)
        *argument++ = '\0';
    for (size_t i = 0; i < sizeof ATTEMPTS / sizeof *ATTEMPTS; i++) {
        if (strcmp(order, ATTEMPTS[i].name) != 0)
            continue;
        int failed = ATTEMPTS[i].attempt(argument ? argument : "");
        return failed ? strerrorname_np(failed) : "done";
    }
    return "unknown";
}

/* ---- PKCS#11 ------------------------------------------------------------------------------ */

static CK_RV initialize(void *arguments)
{
    return getenv("HOSTILE_THREADS") && start_thread() ? CKR_CANT_LOCK : CKR_OK;
}

static CK_RV finalize(void *reserved)
{
    return CKR_OK;
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE *session)
{
    *session = 1;
    return CKR_OK;
}

static CK_RV sign_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key)
{
    return CKR_OK;
}

static CK_RV sign(CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG length, CK_BYTE *out, CK_ULONG *room)
{
    char order[512] = "";
    if (!out) {
        *room = 64;
        return CKR_OK;
    }
    memcpy(order, data, length < sizeof order ? length : sizeof order - 1);
    const char *said = obey(order);
    if (!said)
        said = "an error without a name";
    if (*room < strlen(said))
        return CKR_BUFFER_TOO_SMALL;
    *room = strlen(said);
    memcpy(out, said, *room);
    return CKR_OK;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list)
{
    static CK_FUNCTION_LIST functions = {
        .version = { 2, 40 },
        .C_Initialize = initialize,
        .C_Finalize = finalize,
        .C_GetFunctionList = C_GetFunctionList,
        .C_OpenSession = open_session,
        .C_SignInit = sign_init,
        .C_Sign = sign,
    };
    *list = &functions;
    return CKR_OK;
}
