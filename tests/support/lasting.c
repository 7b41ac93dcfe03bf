/*
 * lasting LIBRARY: an application that knows nothing of daemons and lives long. It initialises, opens a session, logs in
 * with the PIN 1234 and looks for the key pair labelled e2e-rsa, once. Then it reads a command from each line of standard input,
 * does it with what it has, and prints one line: the command and what each call returned, in hexadecimal.
 *
 *   sign            C_SignInit, C_Sign, C_VerifyInit, C_Verify
 *   begin, end      C_SignInit; C_Sign
 *   begin-ec        C_SignInit for a key on an elliptic curve
 *   session-key     C_GenerateKey: an AES key that is a session object
 *   token-key       the same on the token
 *   encrypt         C_EncryptInit with the last of these, C_Encrypt
 *   search, next, done   C_FindObjectsInit for everything; C_FindObjects, and how many; C_FindObjectsFinal
 *   random          C_GenerateRandom
 *   state           C_GetSessionInfo, and the state
 *   slots           C_GetSlotList, and how many have a token
 *   slot            C_GetSlotInfo of the session's, and whether it has a token
 *   token           C_GetTokenInfo of that slot
 *   login PIN, logout   C_Login; C_Logout
 *   close, close-all, open   C_CloseSession; C_CloseAllSessions; C_OpenSession
 *   load N          N threads sign, each in a session of its own, until `stop` is read: prints `stop`, how many signatures
 *                   were made and verified, and how many times each other value was returned
 *   quit            C_Finalize
 */
#include <dlfcn.h>
#include <pkcs11.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_THREADS 64
#define MOST_VALUES 16

static CK_FUNCTION_LIST *p11;
static CK_SLOT_ID slot;
static CK_SESSION_HANDLE session;
static CK_OBJECT_HANDLE public_key, private_key, secret_key;

/* What is signed next: never the same twice. */
static CK_ULONG next_data(CK_BYTE data[64])
{
    static atomic_ulong number;

    return (CK_ULONG)snprintf((char *)data, 64, "what is signed, %lu", atomic_fetch_add(&number, 1));
}

static CK_OBJECT_HANDLE key_of(CK_OBJECT_CLASS class)
{
    CK_ATTRIBUTE wanted[] = { { CKA_CLASS, &class, sizeof class }, { CKA_LABEL, "e2e-rsa", 7 } };
    CK_OBJECT_HANDLE key = 0;
    CK_ULONG count = 0;

    if (p11->C_FindObjectsInit(session, wanted, 2) == CKR_OK)
        p11->C_FindObjects(session, &key, 1, &count);
    p11->C_FindObjectsFinal(session);
    return count == 1 ? key : 0;
}

static CK_RV open_session(CK_SESSION_HANDLE *opened)
{
    return p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, opened);
}

/* The first value that is not CKR_OK of a signature and its verification. */
static CK_RV sign(CK_SESSION_HANDLE with, CK_RV values[4])
{
    CK_MECHANISM mechanism = { CKM_SHA256_RSA_PKCS, NULL, 0 };
    CK_BYTE signature[512], data[64];
    CK_ULONG length = sizeof signature, size = next_data(data);

    memset(values, 0, 4 * sizeof *values);
    if ((values[0] = p11->C_SignInit(with, &mechanism, private_key)))
        return values[0];
    if ((values[1] = p11->C_Sign(with, data, size, signature, &length)))
        return values[1];
    if ((values[2] = p11->C_VerifyInit(with, &mechanism, public_key)))
        return values[2];
    return values[3] = p11->C_Verify(with, data, size, signature, length);
}

static CK_RV generate(CK_BBOOL on_token)
{
    CK_MECHANISM mechanism = { CKM_AES_KEY_GEN, NULL, 0 };
    CK_ULONG size = 16;
    CK_BBOOL yes = CK_TRUE;
    CK_ATTRIBUTE template[] = {
        { CKA_VALUE_LEN, &size, sizeof size }, { CKA_ENCRYPT, &yes, 1 }, { CKA_TOKEN, &on_token, 1 },
        { CKA_LABEL, on_token ? "lasting" : "passing", 7 },
    };

    return p11->C_GenerateKey(session, &mechanism, template, 4, &secret_key);
}

/* ---- Threads ------------------------------------------------------------------------------------ */

struct counts {
    unsigned long good;
    CK_RV values[MOST_VALUES];
    unsigned long times[MOST_VALUES];
};

static atomic_int enough;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct counts all;

static void count(CK_RV value)
{
    pthread_mutex_lock(&lock);
    if (value == CKR_OK) {
        all.good++;
    } else {
        for (int i = 0; i < MOST_VALUES; i++) {
            if (all.times[i] == 0 || all.values[i] == value) {
                all.values[i] = value;
                all.times[i]++;
                break;
            }
        }
    }
    pthread_mutex_unlock(&lock);
}

static void *signer(void *unused)
{
    CK_SESSION_HANDLE own = 0;
    CK_RV values[4];

    if (open_session(&own) != CKR_OK) {
        count(0xdead);
        return unused;
    }
    while (!atomic_load(&enough))
        count(sign(own, values));
    p11->C_CloseSession(own);
    return unused;
}

static void load(int threads)
{
    pthread_t signers[MOST_THREADS];
    char line[64];

    if (threads > MOST_THREADS)
        threads = MOST_THREADS;
    memset(&all, 0, sizeof all);
    atomic_store(&enough, 0);
    for (int i = 0; i < threads; i++)
        pthread_create(&signers[i], NULL, signer, NULL);
    while (fgets(line, sizeof line, stdin) && strcmp(line, "stop\n") != 0) {
        pthread_mutex_lock(&lock);
        printf("good %lu\n", all.good);
        pthread_mutex_unlock(&lock);
    }
    atomic_store(&enough, 1);
    for (int i = 0; i < threads; i++)
        pthread_join(signers[i], NULL);
    printf("stop %lu", all.good);
    for (int i = 0; i < MOST_VALUES && all.times[i]; i++)
        printf(" %#lx:%lu", all.values[i], all.times[i]);
    printf("\n");
}

int main(int arguments, char **argument)
{
    void *library = arguments == 2 ? dlopen(argument[1], RTLD_NOW) : NULL;
    CK_C_INITIALIZE_ARGS threads = { .flags = CKF_OS_LOCKING_OK };
    CK_RV (*list)(CK_FUNCTION_LIST **);
    CK_SLOT_ID with_token[8];
    CK_ULONG slots = 8;
    CK_RV values[4];
    char line[64];

    if (library == NULL) {
        fprintf(stderr, "lasting: %s\n", arguments == 2 ? dlerror() : "expected a library");
        return 2;
    }
    *(void **)&list = dlsym(library, "C_GetFunctionList");
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (list == NULL || list(&p11) != CKR_OK || p11->C_Initialize(&threads) != CKR_OK
        || p11->C_GetSlotList(CK_TRUE, with_token, &slots) != CKR_OK || slots == 0
        || (slot = with_token[0], open_session(&session)) != CKR_OK
        || p11->C_Login(session, CKU_USER, (CK_UTF8CHAR *)"1234", 4) != CKR_OK) {
        fprintf(stderr, "lasting: cannot begin\n");
        return 2;
    }
    public_key = key_of(CKO_PUBLIC_KEY);
    private_key = key_of(CKO_PRIVATE_KEY);
    printf("ready %d\n", public_key != 0 && private_key != 0);
    while (fgets(line, sizeof line, stdin)) {
        CK_MECHANISM sha_rsa = { CKM_SHA256_RSA_PKCS, NULL, 0 }, aes = { CKM_AES_ECB, NULL, 0 };
        CK_BYTE bytes[512] = { 0 };
        CK_ULONG length = sizeof bytes;
        CK_OBJECT_HANDLE objects[4];
        CK_SESSION_INFO info = { 0 };

        line[strcspn(line, "\n")] = '\0';
        if (strcmp(line, "sign") == 0) {
            sign(session, values);
            printf("sign %#lx %#lx %#lx %#lx\n", values[0], values[1], values[2], values[3]);
        } else if (strcmp(line, "begin") == 0) {
            printf("begin %#lx\n", p11->C_SignInit(session, &sha_rsa, private_key));
        } else if (strcmp(line, "begin-ec") == 0) {
            CK_MECHANISM ecdsa = { CKM_ECDSA, NULL, 0 };
            printf("begin-ec %#lx\n", p11->C_SignInit(session, &ecdsa, private_key));
        } else if (strcmp(line, "end") == 0) {
            CK_BYTE data[64];
            CK_ULONG size = next_data(data);
            printf("end %#lx\n", p11->C_Sign(session, data, size, bytes, &length));
        } else if (strcmp(line, "session-key") == 0) {
            printf("session-key %#lx\n", generate(CK_FALSE));
        } else if (strcmp(line, "token-key") == 0) {
            printf("token-key %#lx\n", generate(CK_TRUE));
        } else if (strcmp(line, "encrypt") == 0) {
            CK_RV begun = p11->C_EncryptInit(session, &aes, secret_key);
            printf("encrypt %#lx %#lx\n", begun, begun ? 0 : p11->C_Encrypt(session, bytes, 16, bytes, &length));
        } else if (strcmp(line, "search") == 0) {
            printf("search %#lx\n", p11->C_FindObjectsInit(session, NULL, 0));
        } else if (strcmp(line, "next") == 0) {
            CK_ULONG found = 0;
            CK_RV value = p11->C_FindObjects(session, objects, 1, &found);
            printf("next %#lx %lu\n", value, found);
        } else if (strcmp(line, "done") == 0) {
            printf("done %#lx\n", p11->C_FindObjectsFinal(session));
        } else if (strcmp(line, "random") == 0) {
            printf("random %#lx\n", p11->C_GenerateRandom(session, bytes, 16));
        } else if (strcmp(line, "state") == 0) {
            CK_RV value = p11->C_GetSessionInfo(session, &info);
            printf("state %#lx %lu\n", value, info.state);
        } else if (strcmp(line, "slots") == 0) {
            CK_ULONG number = 0;
            CK_RV value = p11->C_GetSlotList(CK_TRUE, NULL, &number);
            printf("slots %#lx %lu\n", value, number);
        } else if (strcmp(line, "slot") == 0) {
            CK_SLOT_INFO seen = { .flags = 0 };
            CK_RV value = p11->C_GetSlotInfo(slot, &seen);
            printf("slot %#lx %d\n", value, (seen.flags & CKF_TOKEN_PRESENT) != 0);
        } else if (strcmp(line, "token") == 0) {
            CK_TOKEN_INFO seen;
            printf("token %#lx\n", p11->C_GetTokenInfo(slot, &seen));
        } else if (strncmp(line, "login ", 6) == 0) {
            printf("login %#lx\n", p11->C_Login(session, CKU_USER, (CK_UTF8CHAR *)line + 6, strlen(line + 6)));
        } else if (strcmp(line, "logout") == 0) {
            printf("logout %#lx\n", p11->C_Logout(session));
        } else if (strcmp(line, "close") == 0) {
            printf("close %#lx\n", p11->C_CloseSession(session));
        } else if (strcmp(line, "close-all") == 0) {
            printf("close-all %#lx\n", p11->C_CloseAllSessions(slot));
        } else if (strcmp(line, "open") == 0) {
            printf("open %#lx\n", open_session(&session));
        } else if (strncmp(line, "load ", 5) == 0) {
            load(atoi(line + 5));
        } else if (strcmp(line, "quit") == 0) {
            printf("quit %#lx\n", p11->C_Finalize(NULL));
        } else {
            printf("unknown %s\n", line);
        }
    }
    return 0;
}
