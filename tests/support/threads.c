/*
 * threads LIBRARY threads|fork|forkbusy|closed|death|memory|secrets|loop [ARGUMENT]: an
 * application that uses a PKCS#11 library
 * from threads, in forked children, and while its peer dies. Prints one line for each thing it
 * checks, `what -> yes` or `what -> NO`, and exits with 1 if there was a NO.
 *
 *   threads   eight threads, each signing in a session of its own
 *   fork      children that exit, that call exit(3), and that use the library for themselves
 *   forkbusy  the same while another thread of the parent is inside a call
 *   closed    every descriptor is closed, and sockets of this program have the numbers
 *   death     every child of the process ARGUMENT is killed; then the library has to say
 *             CKR_DEVICE_ERROR, and C_Finalize and C_Initialize have to bring it back
 *   memory    large data both ways while the process may take no more memory: an answer, not an end
 *   secrets   looks through its own memory for what PINs, keys and plaintext left in it
 *   loop      signs until the file ARGUMENT exists and prints `signed COUNT, last 0xRV`; a first line
 *             `signing` says that it began; after a failure it ends at once with status 3
 *
 * SIGPIPE keeps its default disposition: a library that lets it happen ends this program.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "signer.h"

/* ---- threads ---------------------------------------------------------------------------- */

static void *signer(void *result)
{
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE key;
    CK_BYTE mac[32];
    CK_RV rv = whole_round(&session, &key, mac);
    for (int i = 0; rv == CKR_OK && i < 100; i++) {
        memset(mac, 0, sizeof mac);
        rv = sign(session, key, mac);
        if (rv == CKR_OK && memcmp(mac, expected, sizeof mac) != 0)
            rv = CKR_SIGNATURE_INVALID;
    }
    if (rv == CKR_OK)
        rv = p11->C_CloseSession(session);
    *(CK_RV *)result = rv;
    return NULL;
}

static void mode_threads(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key)
{
    pthread_t threads[8];
    CK_RV results[8];
    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, signer, &results[i]);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 8; i++)
        check_rv("a thread signs 100 times", CKR_OK, results[i]);
    CK_BYTE mac[32];
    check_rv("the first session signs", CKR_OK, sign(session, key, mac));
}

/* ---- fork ------------------------------------------------------------------------------- */

/* What a child that wants to use the library goes through; its exit status says where it failed. */
static int life_of_a_child(CK_SESSION_HANDLE inherited, CK_OBJECT_HANDLE inherited_key)
{
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE key;
    CK_INFO info;
    CK_BYTE mac[32];
    alarm(20);
    if (sign(inherited, inherited_key, mac) != CKR_CRYPTOKI_NOT_INITIALIZED)
        return 2;
    if (p11->C_GetInfo(&info) != CKR_CRYPTOKI_NOT_INITIALIZED)
        return 3;
    if (p11->C_Finalize(NULL) != CKR_CRYPTOKI_NOT_INITIALIZED)
        return 4;
    if (initialize() != CKR_OK)
        return 5;
    memset(mac, 0, sizeof mac);
    if (whole_round(&session, &key, mac) != CKR_OK)
        return 6;
    if (memcmp(mac, expected, sizeof mac) != 0)
        return 7;
    return p11->C_Finalize(NULL) == CKR_OK ? 0 : 8;
}

static int outcome(pid_t child)
{
    int status = -1;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}
static void check_child(const char *what, pid_t child)
{
    int code = outcome(child);
    check(what, code == 0);
    if (code != 0)
        printf("# the child's status is %d\n", code);
}
static void check_parent(const char *what, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key)
{
    CK_BYTE mac[32] = { 0 };
    check_rv(what, CKR_OK, sign(session, key, mac));
    check("  and its signature is right", memcmp(mac, expected, sizeof mac) == 0);
}

static void mode_fork(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    check_child("a child ends with _exit", child);
    check_parent("the parent signs after it", session, key);
    child = fork();
    if (child == 0) {
        fclose(stdout);
        exit(0);
    }
    check_child("a child ends with exit, destructors and all", child);
    check_parent("the parent signs after it", session, key);
    for (int i = 0; i < 2; i++) {
        child = fork();
        if (child == 0)
            _exit(life_of_a_child(session, key));
        check_child("a child has to initialise, and can", child);
        check_parent("the parent signs after it", session, key);
    }
    child = fork();
    if (child == 0) {
        pid_t grandchild = fork();
        if (grandchild == 0)
            _exit(life_of_a_child(session, key));
        _exit(outcome(grandchild) == 0 ? 0 : 9);
    }
    check_child("so does a grandchild", child);
    check_parent("the parent signs after it", session, key);
}

static atomic_int enough;
static atomic_ulong calls;

static void *caller(void *result)
{
    CK_SESSION_HANDLE session;
    CK_BYTE bytes[4096];
    CK_RV rv = open_session(&session);
    while (rv == CKR_OK && !atomic_load(&enough)) {
        rv = p11->C_GenerateRandom(session, bytes, sizeof bytes);
        atomic_fetch_add(&calls, 1);
    }
    *(CK_RV *)result = rv;
    return NULL;
}

static void mode_forkbusy(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key)
{
    pthread_t threads[2];
    CK_RV results[2];
    fflush(stdout);
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, caller, &results[i]);
    for (int i = 0; i < 10; i++) {
        pause_ms(20 + 3 * i);
        pid_t child = fork();
        if (child == 0)
            _exit(life_of_a_child(session, key));
        check_child("a child of a busy parent has to initialise, and can", child);
        check_parent("the parent signs after it", session, key);
    }
    atomic_store(&enough, 1);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        check_rv("the busy thread never failed", CKR_OK, results[i]);
    }
    check("the threads were busy", atomic_load(&calls) > 20);
}

/* ---- closed ----------------------------------------------------------------------------- */

enum { OWN = 6 };

/* Whether this end is open, and nothing came but what this program sends. */
static int is_untouched(int end, int other)
{
    char byte;
    return recv(end, &byte, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN && send(other, "x", 1, MSG_NOSIGNAL) == 1
           && recv(end, &byte, 1, MSG_DONTWAIT) == 1 && byte == 'x';
}

static void check_own(const char *what, int own[OWN][2])
{
    int untouched = 1;
    for (int i = 0; i < OWN; i++)
        untouched &= is_untouched(own[i][0], own[i][1]) && is_untouched(own[i][1], own[i][0]);
    check(what, untouched);
}

static void mode_closed(CK_SESSION_HANDLE session)
{
    CK_OBJECT_HANDLE key;
    CK_BYTE mac[32] = { 0 };
    int own[OWN][2];
    for (int number = 3; number < 256; number++)
        close(number);
    for (int i = 0; i < OWN; i++)
        check("a socket of the program's own", socketpair(AF_UNIX, SOCK_STREAM, 0, own[i]) == 0);
    check_rv("C_Login is CKR_DEVICE_ERROR", CKR_DEVICE_ERROR, p11->C_Login(session, CKU_USER, PIN, sizeof PIN - 1));
    check_own("the library leaves the sockets alone", own);
    check_rv("C_Finalize", CKR_OK, p11->C_Finalize(NULL));
    check_own("so does C_Finalize", own);
    check_rv("C_Initialize works again", CKR_OK, initialize());
    check_rv("and so does a new session", CKR_OK, whole_round(&session, &key, mac));
    check("its signature is right", memcmp(mac, expected, sizeof mac) == 0);
    check_own("the sockets are still alone", own);
}

/* ---- death ------------------------------------------------------------------------------ */

static int kill_children_of(pid_t parent)
{
    int killed = 0;
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; proc && (entry = readdir(proc));) {
        char path[300], line[512] = "";
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
        FILE *stat = fopen(path, "r");
        if (!stat)
            continue;
        char *rest = fgets(line, sizeof line, stat) ? strrchr(line, ')') : NULL;
        int of = 0;
        if (rest && sscanf(rest, ") %*c %d", &of) == 1 && of == parent)
            killed += kill((pid_t)atoi(entry->d_name), SIGKILL) == 0;
        fclose(stat);
    }
    if (proc)
        closedir(proc);
    return killed;
}

static void mode_death(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, pid_t daemon)
{
    CK_BYTE mac[32] = { 0 };
    CK_SESSION_INFO info;
    check("the daemon's children are killed", kill_children_of(daemon) > 0);
    pause_ms(200);
    fflush(stdout);
    check_rv("the next call is CKR_DEVICE_ERROR", CKR_DEVICE_ERROR, p11->C_GetSessionInfo(session, &info));
    fflush(stdout);
    check_rv("and the one after it", CKR_DEVICE_ERROR, sign(session, key, mac));
    CK_RV rv = p11->C_Finalize(NULL);
    check("C_Finalize is CKR_OK or CKR_DEVICE_ERROR", rv == CKR_OK || rv == CKR_DEVICE_ERROR);
    check_rv("C_Initialize works again", CKR_OK, initialize());
    check_rv("and so does a new session", CKR_OK, whole_round(&session, &key, mac));
    check("its signature is right", memcmp(mac, expected, sizeof mac) == 0);
}

/* ---- memory ----------------------------------------------------------------------------- */

enum { LARGE = 24 << 20 };

/* Lets the process take `more` bytes of address space, or any amount. */
static void allow(rlim_t more)
{
    unsigned long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (statm && fscanf(statm, "%lu", &pages) == 1 && more != RLIM_INFINITY)
        more += pages * (rlim_t)sysconf(_SC_PAGESIZE);
    if (statm)
        fclose(statm);
    struct rlimit limit;
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = more;
    check("the limit is set", setrlimit(RLIMIT_AS, &limit) == 0);
}

static int speaks_version_3(void)
{
    const char *protocol = getenv("PKCS11PROXY_PROTOCOL");
    return protocol != NULL && strcmp(protocol, "3") == 0;
}

static void mode_memory(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key)
{
    CK_MECHANISM mechanism = { CKM_SHA256_HMAC, NULL, 0 };
    CK_BYTE *large = calloc(1, LARGE), mac[32] = { 0 };
    CK_ULONG length = 0;
    CK_ATTRIBUTE label = { CKA_LABEL, large, LARGE };
    CK_OBJECT_CLASS class = CKO_DATA;
    CK_ATTRIBUTE object[] = { { CKA_CLASS, &class, sizeof class }, label };
    CK_OBJECT_HANDLE made;

    allow(LARGE / 2);
    check_rv("no memory for an attribute", CKR_HOST_MEMORY, p11->C_CreateObject(session, object, 2, &made));
    check_rv("C_SignInit", CKR_OK, p11->C_SignInit(session, &mechanism, key));
    if (speaks_version_3()) {
        /* Version 4 keeps nothing. */
        check_rv("no memory to keep a result by its input", CKR_HOST_MEMORY, p11->C_Sign(session, large, LARGE, NULL, &length));
        check_rv("signing goes on", CKR_OK, sign(session, key, mac));
    } else {
        check_rv("the length of a signature", CKR_OK, p11->C_Sign(session, large, LARGE, NULL, &length));
        length = sizeof mac;
        check_rv("the operation goes on", CKR_OK, p11->C_Sign(session, large, 32, mac, &length));
    }
    check_rv("no memory for a reply", CKR_HOST_MEMORY, p11->C_GenerateRandom(session, large, LARGE));
    check_rv("which ends the connection", CKR_DEVICE_ERROR, sign(session, key, mac));
    allow(RLIM_INFINITY);
    check_rv("C_Finalize", CKR_OK, p11->C_Finalize(NULL));
    check_rv("C_Initialize works again", CKR_OK, initialize());
    check_rv("and so does a new session", CKR_OK, whole_round(&session, &key, mac));
    check_rv("with as much data", CKR_OK, p11->C_GenerateRandom(session, large, LARGE));
    free(large);
}

/* ---- secrets ---------------------------------------------------------------------------- */

enum { PART = 16 }; /* of a secret, for which the memory is searched */

/* So long that the library leaves it where it was received until the application has it. */
static CK_BYTE secret[100000], masked[100000];

/* Bytes that are nowhere else, and the same in a form that is not found. */
static CK_BYTE *new_secret(size_t length)
{
    static unsigned seed = 1;
    for (size_t i = 0; i < length; i++) {
        seed = seed * 1103515245 + 12345;
        secret[i] = (CK_BYTE)(seed >> 16);
        masked[i] = secret[i] ^ 0x55;
    }
    return secret;
}

/* Wipes the secret where this program has it and looks for it elsewhere. */
static void check_gone(const char *what, size_t from)
{
    explicit_bzero(secret, sizeof secret);
    struct { CK_BYTE *first, *end; } areas[512];
    size_t count = 0, found = 0;
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && count < 512 && fgets(line, sizeof line, maps)) {
        unsigned long first, end;
        if (sscanf(line, "%lx-%lx rw", &first, &end) == 2 && strstr(line, " rw") && !strstr(line, "[v")) {
            areas[count].first = (CK_BYTE *)first;
            areas[count++].end = (CK_BYTE *)end;
        }
    }
    if (maps)
        fclose(maps);
    for (size_t area = 0; area < count; area++)
        for (CK_BYTE *at = areas[area].first; at + PART <= areas[area].end; at++) {
            size_t same = 0;
            while (same < PART && (at[same] ^ 0x55) == masked[from + same])
                same++;
            found += same == PART;
        }
    check(what, count > 0 && found == 0);
}

/* The same for the beginning, the middle and the end of a secret. */
static void check_all_gone(const char *what, size_t size)
{
    check_gone(what, 0);
    check_gone(what, (size - PART) / 2);
    check_gone(what, size - PART);
}

static void mode_secrets(CK_SESSION_HANDLE session)
{
    static const CK_ULONG sizes[] = { 32, 512, 1520, 3904, 98304 };
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE generic = CKK_GENERIC_SECRET, aes = CKK_AES;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_OBJECT_HANDLE object;
    CK_MECHANISM mechanism = { CKM_AES_ECB, NULL, 0 };
    static CK_BYTE ciphertext[sizeof secret];

    new_secret(2 * 64);
    check_rv("C_SetPIN", CKR_PIN_INCORRECT, p11->C_SetPIN(session, secret, 64, secret + 64, 64));
    check_gone("the old PIN is gone", 0);
    check_gone("the new PIN is gone", 64);
    CK_ATTRIBUTE key[] = { { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &aes, sizeof aes }, { CKA_VALUE, KEY, 32 },
                           { CKA_ENCRYPT, &yes, 1 }, { CKA_DECRYPT, &yes, 1 }, { CKA_PRIVATE, &no, 1 } };
    check_rv("C_CreateObject", CKR_OK, p11->C_CreateObject(session, key, 6, &object));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        CK_ULONG size = sizes[i], length = sizeof ciphertext;
        new_secret(size);
        CK_RV rv = p11->C_EncryptInit(session, &mechanism, object);
        if (rv == CKR_OK)
            rv = p11->C_Encrypt(session, secret, size, ciphertext, &length);
        check_rv("C_Encrypt", CKR_OK, rv);
        check_all_gone("what was encrypted is gone", size);
        rv = p11->C_DecryptInit(session, &mechanism, object);
        CK_ULONG told = 0;
        if (rv == CKR_OK)
            rv = p11->C_Decrypt(session, ciphertext, length, NULL, &told);
        if (rv == CKR_OK)
            rv = p11->C_Decrypt(session, ciphertext, length, secret, &told);
        check_rv("C_Decrypt", CKR_OK, rv);
        check_all_gone("what was decrypted is gone", size);

        new_secret(size);
        CK_OBJECT_HANDLE made;
        CK_ATTRIBUTE value = { CKA_VALUE, secret, size };
        CK_ATTRIBUTE template[] = { { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &generic, sizeof generic }, value,
                                    { CKA_SENSITIVE, &no, 1 }, { CKA_EXTRACTABLE, &yes, 1 }, { CKA_PRIVATE, &no, 1 } };
        check_rv("C_CreateObject", CKR_OK, p11->C_CreateObject(session, template, 6, &made));
        check_all_gone("the value is gone", size);
        check_rv("C_GetAttributeValue", CKR_OK, p11->C_GetAttributeValue(session, made, &value, 1));
        check_all_gone("the value that was read is gone", size);
    }
}

/* ---- loop ------------------------------------------------------------------------------- */

static void mode_loop(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, const char *until)
{
    CK_BYTE mac[32];
    CK_RV rv = CKR_OK;
    unsigned long count = 0;
    puts("signing");
    fflush(stdout);
    do {
        rv = sign(session, key, mac);
        if (rv == CKR_OK && memcmp(mac, expected, sizeof mac) != 0)
            rv = CKR_SIGNATURE_INVALID;
        count += rv == CKR_OK;
    } while (rv == CKR_OK && access(until, F_OK) != 0);
    printf("signed %lu, last 0x%lx\n", count, rv);
    fflush(stdout);
    if (rv != CKR_OK)
        _exit(3);
}

int main(int argc, char **argv)
{
    CK_SESSION_HANDLE session = 0;
    CK_OBJECT_HANDLE key = 0;
    if (argc < 3) {
        fprintf(stderr, "usage: threads LIBRARY threads|fork|forkbusy|closed|death|memory|secrets|loop [ARGUMENT]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_DFL);
    p11 = functions_of(dlopen(argv[1], RTLD_NOW | RTLD_LOCAL));
    if (p11 == NULL)
        return 2;
    check_rv("C_Initialize", CKR_OK, initialize());
    check_rv("the first session signs", CKR_OK, whole_round(&session, &key, expected));
    if (failures == 0 && strcmp(argv[2], "threads") == 0)
        mode_threads(session, key);
    else if (failures == 0 && strcmp(argv[2], "fork") == 0)
        mode_fork(session, key);
    else if (failures == 0 && strcmp(argv[2], "forkbusy") == 0)
        mode_forkbusy(session, key);
    else if (failures == 0 && strcmp(argv[2], "closed") == 0)
        mode_closed(session);
    else if (failures == 0 && strcmp(argv[2], "death") == 0 && argc > 3)
        mode_death(session, key, (pid_t)atoi(argv[3]));
    else if (failures == 0 && strcmp(argv[2], "memory") == 0)
        mode_memory(session, key);
    else if (failures == 0 && strcmp(argv[2], "secrets") == 0)
        mode_secrets(session);
    else if (failures == 0 && strcmp(argv[2], "loop") == 0 && argc > 3)
        mode_loop(session, key, argv[3]);
    else if (failures == 0)
        return 2;
    check_rv("C_Finalize", CKR_OK, p11->C_Finalize(NULL));
    return failures != 0;
}
