/*
 * parallel LIBRARY sign|wait|finalize|crash|hang|fork [THREADS CALLS]: an application whose threads call a PKCS#11
 * library all at once, each in a session of its own, while something happens in another. The module is
 * recorder.c, which gives a session the same signature for the same data, and no other.
 *
 * Prints `what -> yes` or `what -> NO` for each thing it checks, some with 0xRV of the call, and exits with 1 if there was
 * a NO. Other lines are for the test.
 *
 *   sign      THREADS threads make CALLS signatures each
 *   wait      so do they while another waits for a slot event, which has to come; `waiting` when all are done
 *   finalize  C_Finalize while they sign, and begin again
 *   crash     C_Digest, which kills the module (RECORDER_RV), while they sign, and begin again
 *   hang      C_Digest, which never returns, while they sign, and begin again
 *   fork      a child while they sign; the child uses the library, too
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pkcs11.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_THREADS 128

static CK_FUNCTION_LIST *p11;
static int failures;
static CK_SLOT_ID slot;
static CK_OBJECT_HANDLE key;

static void check(const char *what, int holds)
{
    printf("%s -> %s\n", what, holds ? "yes" : "NO");
    failures += !holds;
}
static void check_rv(const char *what, CK_RV got, CK_RV expected)
{
    printf("%s 0x%lx -> %s\n", what, got, got == expected ? "yes" : "NO");
    failures += got != expected;
}
static void sleep_ms(long ms) { nanosleep(&(struct timespec){ ms / 1000, ms % 1000 * 1000000 }, NULL); }
static long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- Threads that sign -------------------------------------------------------------------------- */

struct signer {
    CK_SESSION_HANDLE session;
    CK_BYTE signature[2][64]; /* of its two texts */
    unsigned long calls;      /* how many it makes; 0: until one fails or `enough` */
    unsigned long good;
    CK_RV last;
    int wrong;
};

static struct signer signers[MOST_THREADS];
static pthread_t threads[MOST_THREADS];
static atomic_int enough;

static CK_RV sign(CK_SESSION_HANDLE session, unsigned long text, CK_BYTE *signature)
{
    CK_BYTE data[20] = { (CK_BYTE)text };
    CK_ULONG length = 64;
    CK_MECHANISM mechanism = { CKM_SHA256_HMAC, NULL, 0 };
    CK_RV rv = p11->C_SignInit(session, &mechanism, key);
    if (rv == CKR_OK)
        rv = p11->C_Sign(session, data, sizeof data, signature, &length);
    return rv;
}

static void *sign_repeatedly(void *argument)
{
    struct signer *signer = argument;
    for (unsigned long i = 0; signer->calls ? i < signer->calls : !enough; i++) {
        CK_BYTE signature[64] = { 0 };
        signer->last = sign(signer->session, i % 2, signature);
        if (signer->last != CKR_OK)
            break;
        signer->wrong |= memcmp(signature, signer->signature[i % 2], 64) != 0;
        signer->good++;
    }
    return NULL;
}

static CK_SESSION_HANDLE opened(void)
{
    CK_SESSION_HANDLE session = 0;
    CK_RV rv = p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session);
    if (rv != CKR_OK)
        check_rv("C_OpenSession", rv, CKR_OK);
    return session;
}

/* C_Initialize and what the threads need. */
static void begin(void)
{
    CK_C_INITIALIZE_ARGS arguments = { .flags = CKF_OS_LOCKING_OK };
    CK_ULONG count = 1;
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_GENERIC_SECRET;
    CK_ATTRIBUTE template[] = { { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &type, sizeof type } };
    check_rv("C_Initialize", p11->C_Initialize(&arguments), CKR_OK);
    check_rv("C_GetSlotList", p11->C_GetSlotList(CK_TRUE, &slot, &count), CKR_OK);
    check_rv("C_CreateObject", p11->C_CreateObject(opened(), template, 2, &key), CKR_OK);
}

/* Gives each thread a session, and learns its signatures. */
static void prepare(int count, unsigned long calls)
{
    int good = 1;
    enough = 0;
    for (int i = 0; i < count; i++) {
        signers[i] = (struct signer){ .session = opened(), .calls = calls };
        for (unsigned long text = 0; text < 2; text++)
            good &= sign(signers[i].session, text, signers[i].signature[text]) == CKR_OK;
        good &= memcmp(signers[i].signature[0], signers[i].signature[1], 64) != 0;
        good &= i == 0 || memcmp(signers[i].signature[0], signers[i - 1].signature[0], 64) != 0;
    }
    check("every session has signatures of its own", good);
}
static void start(int count)
{
    for (int i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, sign_repeatedly, &signers[i]) != 0)
            abort();
}
/* Waits for them; `last`: what the last call of each has to answer. */
static void join(int count, CK_RV last)
{
    unsigned long good = 0;
    int wrong = 0, other = 0;
    CK_RV got = last;
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        good += signers[i].good;
        wrong |= signers[i].wrong;
        if (signers[i].last != last)
            other++, got = signers[i].last;
    }
    printf("%lu signatures\n", good);
    check("each signature is that of its session and text", !wrong);
    printf("%d threads ended with 0x%lx, %d otherwise, such as 0x%lx -> %s\n", count - other, last, other, got, other ? "NO" : "yes");
    failures += other != 0;
}
static void again(void)
{
    CK_BYTE signature[64];
    begin();
    check_rv("afterwards it signs", sign(opened(), 0, signature), CKR_OK);
    check_rv("C_Finalize", p11->C_Finalize(NULL), CKR_OK);
}

/* ---- What happens besides ------------------------------------------------------------------------------- */

static void *wait_for_event(void *rv)
{
    CK_SLOT_ID event = 0;
    *(CK_RV *)rv = p11->C_WaitForSlotEvent(0, &event, NULL);
    if (*(CK_RV *)rv == CKR_OK && event != slot)
        *(CK_RV *)rv = CKR_GENERAL_ERROR;
    return NULL;
}

static CK_RV digest(void)
{
    CK_BYTE data[] = "abc", value[32];
    CK_ULONG length = sizeof value;
    CK_MECHANISM mechanism = { CKM_SHA256, NULL, 0 };
    CK_SESSION_HANDLE session = opened();
    CK_RV rv = p11->C_DigestInit(session, &mechanism);
    return rv != CKR_OK ? rv : p11->C_Digest(session, data, 3, value, &length);
}
static void *digest_in_a_thread(void *rv)
{
    *(CK_RV *)rv = digest();
    return NULL;
}

static void sign_and_measure(int count, unsigned long calls)
{
    long from = now_ms();
    start(count);
    join(count, CKR_OK);
    printf("took %ld ms\n", now_ms() - from);
    unsigned long good = 0;
    for (int i = 0; i < count; i++)
        good += signers[i].good;
    check("every call was answered", good == (unsigned long)count * calls);
}

static void run(const char *what, int count, unsigned long calls)
{
    pthread_t other;
    CK_RV rv = CKR_GENERAL_ERROR;
    begin();
    if (strcmp(what, "sign") == 0) {
        prepare(count, calls);
        sign_and_measure(count, calls);
        check_rv("C_Finalize", p11->C_Finalize(NULL), CKR_OK);
    } else if (strcmp(what, "wait") == 0) {
        prepare(count, calls);
        pthread_create(&other, NULL, wait_for_event, &rv);
        sign_and_measure(count, calls);
        printf("waiting\n");
        fflush(stdout);
        pthread_join(other, NULL);
        check_rv("C_WaitForSlotEvent", rv, CKR_OK);
        check_rv("C_Finalize", p11->C_Finalize(NULL), CKR_OK);
    } else if (strcmp(what, "finalize") == 0) {
        prepare(count, 0);
        start(count);
        sleep_ms(100);
        long from = now_ms();
        check_rv("C_Finalize", p11->C_Finalize(NULL), CKR_OK);
        join(count, CKR_CRYPTOKI_NOT_INITIALIZED);
        check("nothing waits long", now_ms() - from < 5000);
        again();
    } else if (strcmp(what, "crash") == 0) {
        prepare(count, 0);
        start(count);
        sleep_ms(100);
        long from = now_ms();
        check_rv("C_Digest", digest(), CKR_DEVICE_ERROR);
        join(count, CKR_DEVICE_ERROR);
        check("nothing waits long", now_ms() - from < 5000);
        check_rv("C_Finalize", p11->C_Finalize(NULL), CKR_OK);
        again();
    } else if (strcmp(what, "hang") == 0) {
        prepare(count, calls);
        pthread_create(&other, NULL, digest_in_a_thread, &rv);
        sleep_ms(100);
        sign_and_measure(count, calls);
        printf("hanging\n");
        pthread_join(other, NULL);
        check_rv("C_Digest", rv, CKR_DEVICE_ERROR);
        check_rv("C_Finalize", p11->C_Finalize(NULL), CKR_OK);
        again();
    } else if (strcmp(what, "fork") == 0) {
        prepare(count, 0);
        start(count);
        for (int i = 0; i < 5; i++) {
            sleep_ms(30);
            fflush(stdout);
            pid_t child = fork();
            if (child == 0) {
                CK_BYTE signature[64];
                failures = 0;
                check_rv("child: C_SignInit", sign(signers[0].session, 0, signature), CKR_CRYPTOKI_NOT_INITIALIZED);
                again();
                fflush(stdout);
                _exit(failures != 0);
            }
            int status = -1;
            waitpid(child, &status, 0);
            check("the child could use the library", status == 0);
        }
        enough = 1;
        join(count, CKR_OK);
        check_rv("C_Finalize", p11->C_Finalize(NULL), CKR_OK);
    } else {
        check(what, 0);
    }
}

int main(int argc, char **argv)
{
    CK_C_GetFunctionList get_list = NULL;
    void *library = argc >= 3 ? dlopen(argv[1], RTLD_NOW) : NULL;
    if (library)
        *(void **)&get_list = dlsym(library, "C_GetFunctionList");
    if (!get_list || get_list(&p11) != CKR_OK) {
        fprintf(stderr, "usage: parallel LIBRARY sign|wait|finalize|crash|hang|fork [THREADS CALLS]\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    int count = argc > 3 ? atoi(argv[3]) : 8;
    run(argv[2], count < MOST_THREADS ? count : MOST_THREADS, argc > 4 ? strtoul(argv[4], NULL, 10) : 10);
    return failures != 0;
}
