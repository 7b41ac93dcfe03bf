/*
 * copies LIBRARY OTHER [apart]: an application that has two PKCS#11 libraries loaded at once, such as two files that
 * are copies of each other, and uses them in turn and at the same time; with `apart`, also the first one once more
 * in a namespace of its own (dlmopen). OpenSSL cannot be in two namespaces: each has a C library, and they give
 * the same keys of thread-specific data to different owners. Prints one line for each thing it checks, `what -> yes` or `what -> NO`; exits with 1 if there
 * was a NO.
 */
#define _GNU_SOURCE
#define P11_IS static _Thread_local
#include "signer.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

static struct side { CK_FUNCTION_LIST_PTR functions; CK_SESSION_HANDLE session; CK_OBJECT_HANDLE key; } one, other, apart;
static atomic_int enough;

static CK_RV sign_with(struct side *side)
{
    CK_BYTE mac[32] = { 0 };
    p11 = side->functions;
    CK_RV rv = sign(side->session, side->key, mac);
    return rv == CKR_OK && memcmp(mac, expected, sizeof mac) != 0 ? CKR_SIGNATURE_INVALID : rv;
}

static void begin(struct side *side)
{
    CK_BYTE mac[32] = { 0 };
    p11 = side->functions;
    check_rv("C_Initialize", CKR_OK, initialize());
    check_rv("and a session signs", CKR_OK, whole_round(&side->session, &side->key, mac));
    if (side == &one)
        memcpy(expected, mac, sizeof mac);
    check("  and its signature is right", memcmp(mac, expected, sizeof mac) == 0);
}

static void end(struct side *side)
{
    CK_INFO info;
    check_rv("C_Finalize", CKR_OK, side->functions->C_Finalize(NULL));
    check_rv("  after which it is not initialised", CKR_CRYPTOKI_NOT_INITIALIZED, side->functions->C_GetInfo(&info));
}

/* Counts in its result how often it signed; 0 after a failure. */
static void *signs(void *side)
{
    static _Atomic long counts[3];
    long count = 0;
    while (!atomic_load(&enough) && sign_with(side) == CKR_OK)
        count++;
    atomic_long *place = &counts[side == &one ? 0 : side == &other ? 1 : 2];
    atomic_store(place, atomic_load(&enough) ? count : 0);
    return (void *)place;
}

/* Ends and begins one side, while another thread signs with the other. */
static void check_apart(struct side *stays, struct side *ends)
{
    pthread_t thread;
    void *count = NULL;
    atomic_store(&enough, 0);
    pthread_create(&thread, NULL, signs, stays);
    for (int i = 0; i < 10; i++) {
        end(ends);
        begin(ends);
    }
    atomic_store(&enough, 1);
    pthread_join(thread, &count);
    check("the other has signed all the time", atomic_load((atomic_long *)count) > 10);
}

static void in_turn(struct side *a, struct side *b)
{
    CK_RV rv = CKR_OK;
    for (int i = 0; rv == CKR_OK && i < 100; i++)
        rv = sign_with(i % 2 ? a : b);
    check_rv("signing with one and the other in turn", CKR_OK, rv);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_DFL);
    if (argc < 3)
        return 2;
    void *libraries[2] = { dlopen(argv[1], RTLD_NOW | RTLD_LOCAL), dlopen(argv[2], RTLD_NOW | RTLD_LOCAL) };
    one.functions = functions_of(libraries[0]);
    other.functions = functions_of(libraries[1]);
    if (one.functions == NULL || other.functions == NULL)
        return 2;
    check("the two are apart", one.functions != other.functions);
    begin(&one);
    begin(&other);
    in_turn(&one, &other);
    check_apart(&one, &other);
    check_apart(&other, &one);
    if (argc > 3) {
        apart.functions = functions_of(dlmopen(LM_ID_NEWLM, argv[1], RTLD_NOW | RTLD_LOCAL));
        if (apart.functions == NULL)
            return 2;
        begin(&apart);
        in_turn(&one, &apart);
        check_apart(&one, &apart);
        check_apart(&apart, &other);
    }
    end(&other);
    dlclose(libraries[1]);
    in_turn(&one, &one);
    if (argc > 3)
        end(&apart);
    in_turn(&one, &one);
    end(&one);
    return failures != 0;
}
