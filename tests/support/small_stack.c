/*
 * small_stack LIBRARY KIB [START_KIB]: an application whose threads have KIB of stack (16 is the least there is), and
 * calls all kinds of functions in them; C_Initialize in one with START_KIB. Prints how much of its stack each call
 * touched, `BYTES NAME`, and one line for each thing it checks, `what -> yes` or `what -> NO`; exits with 1 if there
 * was a NO. Without a limit (KIB is 0), it measures only.
 */
#define _GNU_SOURCE
#include "signer.h"
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAINT 0xa7
#define MOST ((size_t)1 << 20)

static CK_SESSION_HANDLE session;
static CK_OBJECT_HANDLE key, aes, public_key, private_key, found[8];
static CK_BYTE space[70000];
static CK_ULONG length;

struct call { const char *name; CK_RV (*run)(void); CK_RV rv; };

static void *in_thread(void *call)
{
    struct call *own = call;
    own->rv = own->run ? own->run() : CKR_OK;
    return NULL;
}

/* Runs it in a thread with that much stack; gives how many bytes of the stack were touched. */
static size_t touched_by(struct call *call, size_t size)
{
    pthread_t thread;
    pthread_attr_t attributes;
    size_t guard = (size_t)sysconf(_SC_PAGESIZE), clean = 0;
    CK_BYTE *area = mmap(NULL, guard + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    mprotect(area, guard, PROT_NONE);
    memset(area + guard, PAINT, size);
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, area + guard, size);
    call->rv = CKR_GENERAL_ERROR;
    if (pthread_create(&thread, &attributes, in_thread, call) != 0)
        check("the thread starts", 0);
    else
        pthread_join(thread, NULL);
    while (clean < size && area[guard + clean] == PAINT)
        clean++;
    munmap(area, guard + size);
    return size - clean;
}

static CK_MECHANISM mechanism(CK_MECHANISM_TYPE type, void *parameter, CK_ULONG size)
{
    return (CK_MECHANISM){ type, parameter, size };
}
static CK_BBOOL yes = CK_TRUE;
static CK_BYTE iv[16];
static CK_MECHANISM key_wrap = { CKM_AES_KEY_WRAP_PAD, NULL, 0 };
static CK_MECHANISM cbc = { CKM_AES_CBC_PAD, iv, sizeof iv };

static CK_RV first_interface(void)
{
    CK_RV (*get)(CK_UTF8CHAR *, CK_VERSION *, void **, CK_FLAGS);
    void *interface;
    *(void **)&get = dlsym(RTLD_DEFAULT, "C_GetInterface");
    return get ? get(NULL, NULL, &interface, 0) : CKR_FUNCTION_NOT_SUPPORTED;
}
static CK_RV get_info(void)
{
    CK_INFO info;
    return p11->C_GetInfo(&info);
}
static CK_RV new_session(void)
{
    CK_BYTE mac[32];
    return whole_round(&session, &key, mac);
}
static CK_RV mechanisms(void)
{
    CK_SLOT_ID slots[8];
    CK_ULONG count = 8;
    CK_RV rv = p11->C_GetSlotList(CK_TRUE, slots, &count);
    count = sizeof space / sizeof(CK_MECHANISM_TYPE);
    return rv == CKR_OK ? p11->C_GetMechanismList(slots[0], (CK_MECHANISM_TYPE *)(void *)space, &count) : rv;
}
static CK_RV sign_once(void)
{
    CK_BYTE mac[32];
    return sign(session, key, mac);
}
static CK_RV generate(void)
{
    CK_MECHANISM how = mechanism(CKM_AES_KEY_GEN, NULL, 0);
    CK_ULONG size = 32;
    CK_ATTRIBUTE template[] = { { CKA_VALUE_LEN, &size, sizeof size }, { CKA_ENCRYPT, &yes, 1 }, { CKA_DECRYPT, &yes, 1 },
                                { CKA_WRAP, &yes, 1 }, { CKA_UNWRAP, &yes, 1 } };
    return p11->C_GenerateKey(session, &how, template, 5, &aes);
}
static CK_RV generate_pair(void)
{
    static CK_BYTE P256[] = { 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07 };
    CK_MECHANISM how = mechanism(CKM_EC_KEY_PAIR_GEN, NULL, 0);
    CK_ATTRIBUTE public[] = { { CKA_EC_PARAMS, P256, sizeof P256 } };
    CK_ATTRIBUTE private[] = { { CKA_DERIVE, &yes, 1 }, { CKA_EXTRACTABLE, &yes, 1 } };
    return p11->C_GenerateKeyPair(session, &how, public, 1, private, 2, &public_key, &private_key);
}
static CK_RV encrypt(void)
{
    CK_RV rv = p11->C_EncryptInit(session, &cbc, aes);
    length = sizeof space;
    return rv == CKR_OK ? p11->C_Encrypt(session, space, 65536, space, &length) : rv;
}
static CK_RV decrypt(void)
{
    CK_RV rv = p11->C_DecryptInit(session, &cbc, aes);
    CK_ULONG room = sizeof space;
    return rv == CKR_OK ? p11->C_Decrypt(session, space, length, space, &room) : rv;
}
static CK_RV wrap(void)
{
    length = sizeof space;
    return p11->C_WrapKey(session, &key_wrap, aes, private_key, space, &length);
}
static CK_RV unwrap(void)
{
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_KEY_TYPE type = CKK_EC;
    CK_ATTRIBUTE template[] = { { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &type, sizeof type } };
    CK_OBJECT_HANDLE made;
    return p11->C_UnwrapKey(session, &key_wrap, aes, space, length, template, 2, &made);
}
static CK_RV derive(void)
{
    CK_BYTE point[128];
    CK_ATTRIBUTE of_public = { CKA_EC_POINT, point, sizeof point };
    CK_RV rv = p11->C_GetAttributeValue(session, public_key, &of_public, 1);
    CK_ECDH1_DERIVE_PARAMS parameter = { CKD_NULL, 0, NULL, of_public.ulValueLen, point };
    CK_MECHANISM how = mechanism(CKM_ECDH1_DERIVE, &parameter, sizeof parameter);
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_GENERIC_SECRET;
    CK_ULONG size = 32;
    CK_ATTRIBUTE template[] = { { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &type, sizeof type },
                                { CKA_VALUE_LEN, &size, sizeof size } };
    CK_OBJECT_HANDLE made;
    return rv == CKR_OK ? p11->C_DeriveKey(session, &how, private_key, template, 3, &made) : rv;
}
static CK_RV find(void)
{
    CK_ULONG count;
    CK_RV rv = p11->C_FindObjectsInit(session, NULL, 0);
    if (rv == CKR_OK)
        rv = p11->C_FindObjects(session, found, 8, &count);
    return rv == CKR_OK ? p11->C_FindObjectsFinal(session) : rv;
}
static CK_RV random_bytes(void) { return p11->C_GenerateRandom(session, space, sizeof space); }
static CK_RV failing(void)
{
    /* A refusal, and what the log says of it. */
    CK_MECHANISM how = mechanism(0x80001234, space, 100);
    return p11->C_EncryptInit(session, &how, aes) == CKR_OK ? CKR_GENERAL_ERROR : CKR_OK;
}
static CK_RV close_session(void) { return p11->C_CloseSession(session); }
static CK_RV finalize(void) { return p11->C_Finalize(NULL); }

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_DFL);
    if (argc < 3 || (p11 = functions_of(dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL))) == NULL)
        return 2;
    size_t limit = strtoul(argv[2], NULL, 10) * 1024, start = argc > 3 ? strtoul(argv[3], NULL, 10) * 1024 : limit;
    struct call calls[] = {
        { "C_GetInterface", first_interface, 0 }, { "C_Initialize", initialize, 0 }, { "C_GetInfo", get_info, 0 },
        { "C_OpenSession, C_Login, C_CreateObject, C_Sign", new_session, 0 }, { "C_GetMechanismList", mechanisms, 0 },
        { "C_Sign", sign_once, 0 }, { "C_GenerateKey", generate, 0 }, { "C_GenerateKeyPair", generate_pair, 0 },
        { "C_Encrypt", encrypt, 0 }, { "C_Decrypt", decrypt, 0 }, { "C_WrapKey", wrap, 0 }, { "C_UnwrapKey", unwrap, 0 },
        { "C_DeriveKey", derive, 0 }, { "C_FindObjects", find, 0 }, { "C_GenerateRandom", random_bytes, 0 },
        { "a refused mechanism", failing, 0 }, { "C_CloseSession", close_session, 0 }, { "C_Finalize", finalize, 0 },
        { "C_Initialize again", initialize, 0 }, { "C_Finalize again", finalize, 0 },
    };
    struct call nothing = { "nothing", NULL, 0 };
    printf("%zu touched by a thread that does nothing\n", touched_by(&nothing, MOST));
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        int is_start = i < 2 || strcmp(calls[i].name, "C_Initialize again") == 0;
        size_t size = is_start ? start : limit;
        size_t touched = touched_by(&calls[i], size ? size : MOST);
        printf("%zu %s\n", touched, calls[i].name);
        check_rv(calls[i].name, CKR_OK, calls[i].rv);
    }
    return failures != 0;
}
