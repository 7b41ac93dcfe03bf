/*
 * every_call LIBRARY [STATE]: calls every function of PKCS#11 3.2 that the library exports, in four states: before
 * C_Initialize, after C_Finalize, without a login and with one. In each state every function is called as it should
 * be, with each pointer NULL in turn and with all, with each buffer too small (0, 1, one byte less than needed), each
 * input empty, and each handle 0, -1, closed, or one of the other kind. STATE is one of them, `before`, `after`,
 * `public` or `user`; all if there is none.
 *
 * Prints one line for each call, `STATE FUNCTION CHANGE -> 0xRV`, with the numbers of the arguments behind which
 * memory was written after `wrote`. Two libraries that are alike print the same lines. Each buffer ends where memory
 * that cannot be touched begins. If a call ends the process, its line ends with `killed by` and the signal; another
 * process goes on.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pkcs11.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATTERN 0xa5
#define MOST_ARGUMENTS 12
#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- Memory that ends where it must ------------------------------------------------------------- */

enum { ROOM = 16384 };
static CK_BYTE *areas[16];
static size_t areas_used;

/* The last `size` bytes in front of memory that cannot be touched, with the pattern in front of them. */
static void *fenced(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (areas_used == COUNT(areas) || size > ROOM)
        abort();
    CK_BYTE **area = &areas[areas_used++];
    if (*area == NULL) {
        *area = mmap(NULL, ROOM + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(*area + ROOM, page, PROT_NONE);
    }
    memset(*area, PATTERN, ROOM);
    return *area + ROOM - size;
}

/* ---- What the functions take --------------------------------------------------------------------- */

enum kind {
    END,
    NUMBER,    /* `size` is its value */
    SLOT,
    SESSION,
    OBJECT,    /* a key for AES */
    MAC_KEY,   /* a key for HMAC */
    INPUT,     /* bytes and their count, `size` of them: two arguments */
    PIN,       /* the same, the user's; `size` is 0 for a wrong one */
    OUTPUT,    /* room for `size` bytes, and a place for the length: two arguments */
    ROOM_OF,   /* room for `size` bytes, and the size as a number: two arguments */
    LIST,      /* room for `size` numbers, and a place for their count: two arguments */
    ARRAY,     /* room for `size` numbers, their count as a number, and a place for it: three arguments */
    PLACE,     /* for `size` bytes that the function writes */
    MECHANISM, /* `size` is its type */
    TEMPLATE,  /* attributes and their count; `size` says which: two arguments */
    WANTED,    /* attributes with room for values, and their count: two arguments */
    LABEL,     /* 32 bytes */
    NOTHING,   /* a pointer that has to be NULL */
};
struct argument { enum kind kind; CK_ULONG size; };
enum templates { AES_KEY, SECRET, NO_ATTRIBUTES };
enum before { NO_OPERATION, ENCRYPTS, DECRYPTS, DIGESTS, SIGNS, VERIFIES, FINDS };

#define MESSAGE SESSION, 0 }, { INPUT, 16 }, { INPUT, 20
static const struct function {
    const char *name;
    struct argument arguments[MOST_ARGUMENTS];
    enum before before;
} FUNCTIONS[] = {
    { "C_Initialize", { { NOTHING, 0 } }, 0 },
    { "C_GetInfo", { { PLACE, sizeof(CK_INFO) } }, 0 },
    { "C_GetFunctionList", { { PLACE, sizeof(void *) } }, 0 },
    { "C_GetSlotList", { { NUMBER, CK_TRUE }, { LIST, 8 } }, 0 },
    { "C_GetSlotInfo", { { SLOT, 0 }, { PLACE, sizeof(CK_SLOT_INFO) } }, 0 },
    { "C_GetTokenInfo", { { SLOT, 0 }, { PLACE, sizeof(CK_TOKEN_INFO) } }, 0 },
    { "C_GetMechanismList", { { SLOT, 0 }, { LIST, 200 } }, 0 },
    { "C_GetMechanismInfo", { { SLOT, 0 }, { NUMBER, CKM_AES_CBC }, { PLACE, sizeof(CK_MECHANISM_INFO) } }, 0 },
    { "C_InitToken", { { SLOT, 0 }, { PIN, 0 }, { LABEL, 0 } }, 0 },
    { "C_InitPIN", { { SESSION, 0 }, { PIN, 1 } }, 0 },
    { "C_SetPIN", { { SESSION, 0 }, { PIN, 0 }, { PIN, 1 } }, 0 },
    { "C_OpenSession", { { SLOT, 0 }, { NUMBER, CKF_SERIAL_SESSION }, { NOTHING, 0 }, { NOTHING, 0 }, { PLACE, 8 } }, 0 },
    { "C_CloseSession", { { SESSION, 0 } }, 0 },
    { "C_CloseAllSessions", { { SLOT, 0 } }, 0 },
    { "C_GetSessionInfo", { { SESSION, 0 }, { PLACE, sizeof(CK_SESSION_INFO) } }, 0 },
    { "C_GetOperationState", { { SESSION, 0 }, { OUTPUT, 1000 } }, DIGESTS },
    { "C_SetOperationState", { { SESSION, 0 }, { INPUT, 32 }, { OBJECT, 0 }, { NUMBER, 0 } }, 0 },
    { "C_Login", { { SESSION, 0 }, { NUMBER, CKU_USER }, { PIN, 1 } }, 0 },
    { "C_Logout", { { SESSION, 0 } }, 0 },
    { "C_CreateObject", { { SESSION, 0 }, { TEMPLATE, AES_KEY }, { PLACE, 8 } }, 0 },
    { "C_CopyObject", { { SESSION, 0 }, { OBJECT, 0 }, { TEMPLATE, NO_ATTRIBUTES }, { PLACE, 8 } }, 0 },
    { "C_DestroyObject", { { SESSION, 0 }, { OBJECT, 0 } }, 0 },
    { "C_GetObjectSize", { { SESSION, 0 }, { OBJECT, 0 }, { PLACE, 8 } }, 0 },
    { "C_GetAttributeValue", { { SESSION, 0 }, { OBJECT, 0 }, { WANTED, 0 } }, 0 },
    { "C_SetAttributeValue", { { SESSION, 0 }, { OBJECT, 0 }, { TEMPLATE, NO_ATTRIBUTES } }, 0 },
    { "C_FindObjectsInit", { { SESSION, 0 }, { TEMPLATE, NO_ATTRIBUTES } }, 0 },
    { "C_FindObjects", { { SESSION, 0 }, { ARRAY, 4 } }, FINDS },
    { "C_FindObjectsFinal", { { SESSION, 0 } }, FINDS },
    { "C_EncryptInit", { { SESSION, 0 }, { MECHANISM, CKM_AES_CBC_PAD }, { OBJECT, 0 } }, 0 },
    { "C_Encrypt", { { SESSION, 0 }, { INPUT, 20 }, { OUTPUT, 32 } }, ENCRYPTS },
    { "C_EncryptUpdate", { { SESSION, 0 }, { INPUT, 20 }, { OUTPUT, 16 } }, ENCRYPTS },
    { "C_EncryptFinal", { { SESSION, 0 }, { OUTPUT, 16 } }, ENCRYPTS },
    { "C_DecryptInit", { { SESSION, 0 }, { MECHANISM, CKM_AES_CBC_PAD }, { OBJECT, 0 } }, 0 },
    { "C_Decrypt", { { SESSION, 0 }, { INPUT, 32 }, { OUTPUT, 32 } }, DECRYPTS },
    { "C_DecryptUpdate", { { SESSION, 0 }, { INPUT, 32 }, { OUTPUT, 32 } }, DECRYPTS },
    { "C_DecryptFinal", { { SESSION, 0 }, { OUTPUT, 16 } }, DECRYPTS },
    { "C_DigestInit", { { SESSION, 0 }, { MECHANISM, CKM_SHA256 } }, 0 },
    { "C_Digest", { { SESSION, 0 }, { INPUT, 20 }, { OUTPUT, 32 } }, DIGESTS },
    { "C_DigestUpdate", { { SESSION, 0 }, { INPUT, 20 } }, DIGESTS },
    { "C_DigestKey", { { SESSION, 0 }, { MAC_KEY, 0 } }, DIGESTS },
    { "C_DigestFinal", { { SESSION, 0 }, { OUTPUT, 32 } }, DIGESTS },
    { "C_SignInit", { { SESSION, 0 }, { MECHANISM, CKM_SHA256_HMAC }, { MAC_KEY, 0 } }, 0 },
    { "C_Sign", { { SESSION, 0 }, { INPUT, 20 }, { OUTPUT, 32 } }, SIGNS },
    { "C_SignUpdate", { { SESSION, 0 }, { INPUT, 20 } }, SIGNS },
    { "C_SignFinal", { { SESSION, 0 }, { OUTPUT, 32 } }, SIGNS },
    { "C_SignRecoverInit", { { SESSION, 0 }, { MECHANISM, CKM_RSA_PKCS }, { OBJECT, 0 } }, 0 },
    { "C_SignRecover", { { SESSION, 0 }, { INPUT, 20 }, { OUTPUT, 32 } }, 0 },
    { "C_VerifyInit", { { SESSION, 0 }, { MECHANISM, CKM_SHA256_HMAC }, { MAC_KEY, 0 } }, 0 },
    { "C_Verify", { { SESSION, 0 }, { INPUT, 20 }, { INPUT, 32 } }, VERIFIES },
    { "C_VerifyUpdate", { { SESSION, 0 }, { INPUT, 20 } }, VERIFIES },
    { "C_VerifyFinal", { { SESSION, 0 }, { INPUT, 32 } }, VERIFIES },
    { "C_VerifyRecoverInit", { { SESSION, 0 }, { MECHANISM, CKM_RSA_PKCS }, { OBJECT, 0 } }, 0 },
    { "C_VerifyRecover", { { SESSION, 0 }, { INPUT, 20 }, { OUTPUT, 32 } }, 0 },
    { "C_DigestEncryptUpdate", { { SESSION, 0 }, { INPUT, 20 }, { OUTPUT, 32 } }, ENCRYPTS },
    { "C_DecryptDigestUpdate", { { SESSION, 0 }, { INPUT, 32 }, { OUTPUT, 32 } }, DECRYPTS },
    { "C_SignEncryptUpdate", { { SESSION, 0 }, { INPUT, 20 }, { OUTPUT, 32 } }, ENCRYPTS },
    { "C_DecryptVerifyUpdate", { { SESSION, 0 }, { INPUT, 32 }, { OUTPUT, 32 } }, DECRYPTS },
    { "C_GenerateKey", { { SESSION, 0 }, { MECHANISM, CKM_AES_KEY_GEN }, { TEMPLATE, SECRET }, { PLACE, 8 } }, 0 },
    { "C_GenerateKeyPair", { { SESSION, 0 }, { MECHANISM, CKM_EC_KEY_PAIR_GEN }, { TEMPLATE, NO_ATTRIBUTES },
                             { TEMPLATE, NO_ATTRIBUTES }, { PLACE, 8 }, { PLACE, 8 } }, 0 },
    { "C_WrapKey", { { SESSION, 0 }, { MECHANISM, CKM_AES_KEY_WRAP }, { OBJECT, 0 }, { MAC_KEY, 0 }, { OUTPUT, 40 } }, 0 },
    { "C_UnwrapKey", { { SESSION, 0 }, { MECHANISM, CKM_AES_KEY_WRAP }, { OBJECT, 0 }, { INPUT, 40 }, { TEMPLATE, SECRET },
                       { PLACE, 8 } }, 0 },
    { "C_DeriveKey", { { SESSION, 0 }, { MECHANISM, CKM_SHA256_KEY_DERIVATION }, { OBJECT, 0 }, { TEMPLATE, SECRET }, { PLACE, 8 } }, 0 },
    { "C_SeedRandom", { { SESSION, 0 }, { INPUT, 20 } }, 0 },
    { "C_GenerateRandom", { { SESSION, 0 }, { ROOM_OF, 20 } }, 0 },
    { "C_GetFunctionStatus", { { SESSION, 0 } }, 0 },
    { "C_CancelFunction", { { SESSION, 0 } }, 0 },
    { "C_WaitForSlotEvent", { { NUMBER, CKF_DONT_BLOCK }, { PLACE, 8 }, { NOTHING, 0 } }, 0 },
    { "C_GetInterfaceList", { { LIST, 9 } }, 0 },
    { "C_GetInterface", { { NOTHING, 0 }, { NOTHING, 0 }, { PLACE, 8 }, { NUMBER, 0 } }, 0 },
    { "C_LoginUser", { { SESSION, 0 }, { NUMBER, CKU_USER }, { PIN, 1 }, { INPUT, 5 } }, 0 },
    { "C_SessionCancel", { { SESSION, 0 }, { NUMBER, 0 } }, ENCRYPTS },
    { "C_MessageEncryptInit", { { SESSION, 0 }, { MECHANISM, CKM_AES_GCM }, { OBJECT, 0 } }, 0 },
    { "C_EncryptMessage", { { MESSAGE }, { INPUT, 20 }, { OUTPUT, 40 } }, 0 },
    { "C_EncryptMessageBegin", { { MESSAGE } }, 0 },
    { "C_EncryptMessageNext", { { SESSION, 0 }, { INPUT, 16 }, { INPUT, 20 }, { OUTPUT, 40 }, { NUMBER, 0 } }, 0 },
    { "C_MessageEncryptFinal", { { SESSION, 0 } }, 0 },
    { "C_MessageDecryptInit", { { SESSION, 0 }, { MECHANISM, CKM_AES_GCM }, { OBJECT, 0 } }, 0 },
    { "C_DecryptMessage", { { MESSAGE }, { INPUT, 20 }, { OUTPUT, 40 } }, 0 },
    { "C_DecryptMessageBegin", { { MESSAGE } }, 0 },
    { "C_DecryptMessageNext", { { SESSION, 0 }, { INPUT, 16 }, { INPUT, 20 }, { OUTPUT, 40 }, { NUMBER, 0 } }, 0 },
    { "C_MessageDecryptFinal", { { SESSION, 0 } }, 0 },
    { "C_MessageSignInit", { { SESSION, 0 }, { MECHANISM, CKM_SHA256_HMAC }, { MAC_KEY, 0 } }, 0 },
    { "C_SignMessage", { { MESSAGE }, { OUTPUT, 32 } }, 0 },
    { "C_SignMessageBegin", { { SESSION, 0 }, { INPUT, 16 } }, 0 },
    { "C_SignMessageNext", { { MESSAGE }, { OUTPUT, 32 } }, 0 },
    { "C_MessageSignFinal", { { SESSION, 0 } }, 0 },
    { "C_MessageVerifyInit", { { SESSION, 0 }, { MECHANISM, CKM_SHA256_HMAC }, { MAC_KEY, 0 } }, 0 },
    { "C_VerifyMessage", { { MESSAGE }, { INPUT, 32 } }, 0 },
    { "C_VerifyMessageBegin", { { SESSION, 0 }, { INPUT, 16 } }, 0 },
    { "C_VerifyMessageNext", { { MESSAGE }, { INPUT, 32 } }, 0 },
    { "C_MessageVerifyFinal", { { SESSION, 0 } }, 0 },
    { "C_EncapsulateKey", { { SESSION, 0 }, { MECHANISM, CKM_AES_ECB }, { OBJECT, 0 }, { TEMPLATE, SECRET }, { OUTPUT, 64 },
                            { PLACE, 8 } }, 0 },
    { "C_DecapsulateKey", { { SESSION, 0 }, { MECHANISM, CKM_AES_ECB }, { OBJECT, 0 }, { TEMPLATE, SECRET }, { INPUT, 64 },
                            { PLACE, 8 } }, 0 },
    { "C_VerifySignatureInit", { { SESSION, 0 }, { MECHANISM, CKM_SHA256_HMAC }, { MAC_KEY, 0 }, { INPUT, 32 } }, 0 },
    { "C_VerifySignature", { { SESSION, 0 }, { INPUT, 20 } }, 0 },
    { "C_VerifySignatureUpdate", { { SESSION, 0 }, { INPUT, 20 } }, 0 },
    { "C_VerifySignatureFinal", { { SESSION, 0 } }, 0 },
    { "C_GetSessionValidationFlags", { { SESSION, 0 }, { NUMBER, 1 }, { PLACE, 8 } }, 0 },
    { "C_AsyncComplete", { { SESSION, 0 }, { LABEL, 0 }, { PLACE, 48 } }, 0 },
    { "C_AsyncGetID", { { SESSION, 0 }, { LABEL, 0 }, { PLACE, 8 } }, 0 },
    { "C_AsyncJoin", { { SESSION, 0 }, { LABEL, 0 }, { NUMBER, 1 }, { INPUT, 16 } }, 0 },
    { "C_WrapKeyAuthenticated", { { SESSION, 0 }, { MECHANISM, CKM_AES_KEY_WRAP }, { OBJECT, 0 }, { MAC_KEY, 0 }, { INPUT, 9 },
                                  { OUTPUT, 60 } }, 0 },
    { "C_UnwrapKeyAuthenticated", { { SESSION, 0 }, { MECHANISM, CKM_AES_KEY_WRAP }, { OBJECT, 0 }, { INPUT, 40 },
                                    { TEMPLATE, SECRET }, { INPUT, 9 }, { PLACE, 8 } }, 0 },
    { "C_Finalize", { { NOTHING, 0 } }, 0 },
};
_Static_assert(COUNT(FUNCTIONS) == 104, "every function of PKCS#11 3.2");

/* ---- States -------------------------------------------------------------------------------------- */

static const char *const STATES[] = { "before", "after", "public", "user" };
enum state { BEFORE, AFTER, PUBLIC, USER };

typedef CK_RV (*any_function)(CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG,
                              CK_ULONG, CK_ULONG, CK_ULONG);
static void *library;
static CK_FUNCTION_LIST_PTR p11;
static CK_SLOT_ID slot;
static CK_SESSION_HANDLE session, closed;
static CK_OBJECT_HANDLE aes_key, mac_key;
static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
static CK_BYTE BYTES[32] = "bytes of a key or of an input  ";

static void need(const char *what, CK_RV rv)
{
    if (rv != CKR_OK) {
        printf("cannot prepare, %s: 0x%lx\n", what, rv);
        fflush(stdout);
        _exit(9);
    }
}

static CK_OBJECT_HANDLE import(CK_KEY_TYPE type)
{
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_OBJECT_HANDLE made;
    CK_BBOOL *of_aes = type == CKK_AES ? &yes : &no, *of_mac = type == CKK_AES ? &no : &yes;
    CK_ATTRIBUTE template[] = {
        { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &type, sizeof type }, { CKA_VALUE, BYTES, 32 },
        { CKA_ENCRYPT, of_aes, 1 }, { CKA_DECRYPT, of_aes, 1 }, { CKA_WRAP, of_aes, 1 }, { CKA_UNWRAP, of_aes, 1 },
        { CKA_SIGN, of_mac, 1 }, { CKA_VERIFY, of_mac, 1 }, { CKA_PRIVATE, &no, 1 }, { CKA_EXTRACTABLE, &yes, 1 },
        { CKA_SENSITIVE, &no, 1 }, { CKA_DERIVE, &yes, 1 },
    };
    need("C_CreateObject", p11->C_CreateObject(session, template, COUNT(template), &made));
    return made;
}

static void to_state(enum state state)
{
    CK_SLOT_ID slots[16];
    CK_ULONG count = 16;
    CK_RV rv = CKR_OK;
    if (state == BEFORE || state == AFTER) {
        p11->C_Finalize(NULL);
        return;
    }
    for (int attempt = 0; attempt < 40; attempt++) {
        rv = p11->C_Initialize(NULL);
        if (rv == CKR_OK || rv == CKR_CRYPTOKI_ALREADY_INITIALIZED)
            break;
        nanosleep(&(struct timespec){ 0, 25000000 }, NULL); /* SoftHSM's file locks race */
    }
    if (rv == CKR_OK) {
        CK_TOKEN_INFO token;
        need("C_GetSlotList", p11->C_GetSlotList(CK_TRUE, slots, &count));
        for (CK_ULONG i = 0; i < count; i++) {
            slot = slots[i];
            if (p11->C_GetTokenInfo(slot, &token) == CKR_OK && token.flags & CKF_TOKEN_INITIALIZED)
                break;
        }
    } else if (rv != CKR_CRYPTOKI_ALREADY_INITIALIZED)
        need("C_Initialize", rv);
    need("C_CloseAllSessions", p11->C_CloseAllSessions(slot));
    need("C_OpenSession", p11->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &closed));
    need("C_OpenSession", p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));
    need("C_CloseSession", p11->C_CloseSession(closed));
    if (state == USER) {
        CK_BYTE pin[] = "1234";
        need("C_Login", p11->C_Login(session, CKU_USER, pin, 4));
    }
    aes_key = import(CKK_AES);
    mac_key = import(CKK_GENERIC_SECRET);
}

static void begin(enum before before)
{
    CK_MECHANISM cbc = { CKM_AES_CBC_PAD, BYTES, 16 }, digest = { CKM_SHA256, NULL, 0 }, hmac = { CKM_SHA256_HMAC, NULL, 0 };
    switch (before) {
    case NO_OPERATION: break;
    case ENCRYPTS: need("C_EncryptInit", p11->C_EncryptInit(session, &cbc, aes_key)); break;
    case DECRYPTS: need("C_DecryptInit", p11->C_DecryptInit(session, &cbc, aes_key)); break;
    case DIGESTS: need("C_DigestInit", p11->C_DigestInit(session, &digest)); break;
    case SIGNS: need("C_SignInit", p11->C_SignInit(session, &hmac, mac_key)); break;
    case VERIFIES: need("C_VerifyInit", p11->C_VerifyInit(session, &hmac, mac_key)); break;
    case FINDS: need("C_FindObjectsInit", p11->C_FindObjectsInit(session, NULL, 0)); break;
    }
}

/* ---- One call ------------------------------------------------------------------------------------ */

/* The values of a call, and what there is to change about each. */
static struct value {
    CK_ULONG value;
    enum { PLAIN, POINTER, COUNT_OF, LENGTH_AT, OF_SESSION, OF_OBJECT } is;
    CK_ULONG written_size; /* of memory that the function may write */
    CK_BYTE before[2048];  /* its content */
} values[MOST_ARGUMENTS];
static size_t value_count;

static void add(CK_ULONG value, int is, CK_ULONG written_size)
{
    struct value *place = &values[value_count++];
    place->value = value;
    place->is = is;
    place->written_size = written_size;
}
static void *add_pointer(size_t size, CK_ULONG written_size)
{
    void *memory = fenced(size);
    add((CK_ULONG)memory, POINTER, written_size);
    return memory;
}
static void add_bytes(const void *bytes, CK_ULONG count)
{
    memcpy(add_pointer(count, 0), bytes, count);
    add(count, COUNT_OF, 0);
}
static void add_length_place(CK_ULONG length)
{
    memcpy(fenced(sizeof length), &length, sizeof length);
    add((CK_ULONG)areas[areas_used - 1] + ROOM - sizeof length, LENGTH_AT, sizeof length);
}

static void add_template(enum templates which)
{
    static CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    static CK_KEY_TYPE aes = CKK_AES, generic = CKK_GENERIC_SECRET;
    static CK_ULONG size = 32;
    const CK_ATTRIBUTE of_aes[] = { { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &aes, sizeof aes },
                                    { CKA_VALUE, BYTES, 32 }, { CKA_PRIVATE, &no, 1 } };
    const CK_ATTRIBUTE secret[] = { { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &generic, sizeof generic },
                                    { CKA_VALUE_LEN, &size, sizeof size }, { CKA_PRIVATE, &no, 1 } };
    const CK_ATTRIBUTE label[] = { { CKA_LABEL, BYTES, 9 } };
    const CK_ATTRIBUTE *from = which == AES_KEY ? of_aes : which == SECRET ? secret : label;
    CK_ULONG count = which == NO_ATTRIBUTES ? 1 : 4;
    memcpy(add_pointer(count * sizeof *from, 0), from, count * sizeof *from);
    add(count, COUNT_OF, 0);
}

static void add_argument(struct argument argument)
{
    CK_ULONG size = argument.size;
    switch (argument.kind) {
    case END: break;
    case NUMBER: add(size, PLAIN, 0); break;
    case SLOT: add(slot, PLAIN, 0); break;
    case SESSION: add(session, OF_SESSION, 0); break;
    case OBJECT: add(aes_key, OF_OBJECT, 0); break;
    case MAC_KEY: add(mac_key, OF_OBJECT, 0); break;
    case INPUT: {
        CK_BYTE bytes[128] = "input";
        add_bytes(bytes, size);
        break;
    }
    case PIN: add_bytes(size ? "1234" : "wrong", size ? 4 : 5); break;
    case LABEL: {
        char label[33];
        memset(label, ' ', sizeof label);
        memcpy(label, "label", 6);
        memcpy(add_pointer(32, 0), label, 32);
        break;
    }
    case OUTPUT:
        add_pointer(size, size);
        add_length_place(size);
        break;
    case ROOM_OF:
        add_pointer(size, size);
        add(size, COUNT_OF, 0);
        break;
    case LIST:
        add_pointer(size * sizeof(CK_ULONG), size * sizeof(CK_ULONG));
        add_length_place(size);
        break;
    case ARRAY:
        add_pointer(size * sizeof(CK_ULONG), size * sizeof(CK_ULONG));
        add(size, COUNT_OF, 0);
        add_pointer(sizeof(CK_ULONG), sizeof(CK_ULONG));
        break;
    case PLACE: add_pointer(size, size); break;
    case MECHANISM: {
        CK_MECHANISM mechanism = { size, NULL, 0 };
        if (size == CKM_AES_CBC_PAD)
            mechanism = (CK_MECHANISM){ size, memcpy(fenced(16), BYTES, 16), 16 };
        memcpy(add_pointer(sizeof mechanism, 0), &mechanism, sizeof mechanism);
        break;
    }
    case TEMPLATE: add_template((enum templates)size); break;
    case WANTED: {
        CK_ATTRIBUTE wanted[] = { { CKA_CLASS, fenced(8), 8 }, { CKA_VALUE, fenced(31), 31 }, { CKA_LABEL, NULL, 0 } };
        memcpy(add_pointer(sizeof wanted, sizeof wanted), wanted, sizeof wanted);
        add(3, COUNT_OF, 0);
        break;
    }
    case NOTHING: add(0, PLAIN, 0); break;
    }
}

static int is_pointer(const struct value *value) { return value->is == POINTER || value->is == LENGTH_AT; }

/* The changes of a call, by number; a name for the one that is made, or NULL when there are no more. */
static const char *change(CK_ULONG number)
{
    static char name[64];
    if (number == 0)
        return "as it should be";
    number--;
    int pointers = 0;
    for (size_t i = 0; i < value_count; i++)
        pointers += is_pointer(&values[i]);
    if (pointers > 1 && number-- == 0) {
        for (size_t i = 0; i < value_count; i++)
            if (is_pointer(&values[i]))
                values[i].value = 0;
        return "all NULL";
    }
    for (size_t i = 0; i < value_count; i++) {
        struct value *value = &values[i];
        CK_ULONG size, others[4] = { 0, (CK_ULONG)-1, closed, aes_key };
        if (is_pointer(value) && number-- == 0) {
            value->value = 0;
            snprintf(name, sizeof name, "%zu=NULL", i + 1);
            return name;
        }
        switch (value->is) {
        case LENGTH_AT:
            memcpy(&size, (void *)value->value, sizeof size);
            for (CK_ULONG less = 0; less < 3; less++)
                if (number-- == 0) {
                    CK_ULONG room = less == 0 ? 0 : less == 1 ? 1 : size - 1;
                    memcpy((void *)value->value, &room, sizeof room);
                    snprintf(name, sizeof name, "*%zu=%lu", i + 1, room);
                    return name;
                }
            break;
        case COUNT_OF:
            for (CK_ULONG less = 0; less < 2; less++)
                if (number-- == 0) {
                    value->value = less ? value->value - 1 : 0;
                    snprintf(name, sizeof name, "%zu=%lu", i + 1, value->value);
                    return name;
                }
            break;
        case OF_OBJECT:
            others[2] = session;
            others[3] = 4711;
            /* fall through */
        case OF_SESSION:
            for (size_t other = 0; other < 4; other++)
                if (number-- == 0) {
                    static const char *const OF_SESSIONS[] = { "0", "-1", "closed", "an object" };
                    static const char *const OF_OBJECTS[] = { "0", "-1", "a session", "none" };
                    const char *what = value->is == OF_SESSION ? OF_SESSIONS[other] : OF_OBJECTS[other];
                    snprintf(name, sizeof name, "%zu is %s", i + 1, what);
                    value->value = others[other];
                    return name;
                }
            break;
        default: break;
        }
    }
    return NULL;
}

/* Where the process is, which one that takes over has to know. */
static struct progress { unsigned state, function, change, is_calling; } *progress;

static void call(any_function function)
{
    CK_ULONG a[MOST_ARGUMENTS] = { 0 };
    for (size_t i = 0; i < value_count; i++) {
        a[i] = values[i].value;
        if (is_pointer(&values[i]) && a[i] != 0)
            memcpy(values[i].before, (void *)a[i], values[i].written_size);
    }
    fflush(stdout);
    progress->is_calling = 1;
    CK_RV rv = function(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11]);
    progress->is_calling = 0;
    printf(" -> 0x%lx", rv);
    int written = 0;
    for (size_t i = 0; i < value_count; i++)
        if (is_pointer(&values[i]) && a[i] != 0 && memcmp(values[i].before, (void *)a[i], values[i].written_size) != 0)
            printf("%s %zu", written++ ? "" : " wrote", i + 1);
    putchar('\n');
}

/* All calls from where `progress` is. */
static void go_on(unsigned last_state)
{
    for (; progress->state <= last_state; progress->state++, progress->function = 0) {
        for (; progress->function < COUNT(FUNCTIONS); progress->function++, progress->change = 0) {
            const struct function *row = &FUNCTIONS[progress->function];
            any_function function;
            *(void **)&function = dlsym(library, row->name);
            for (; function != NULL; progress->change++) {
                to_state((enum state)progress->state);
                areas_used = value_count = 0;
                for (size_t i = 0; i < MOST_ARGUMENTS; i++)
                    add_argument(row->arguments[i]);
                const char *what = change(progress->change);
                if (what == NULL)
                    break;
                if (progress->state == PUBLIC || progress->state == USER)
                    begin(row->before);
                printf("%s %s %s", STATES[progress->state], row->name, what);
                call(function);
            }
            if (function == NULL)
                printf("%s %s is not there\n", STATES[progress->state], row->name);
        }
    }
    p11->C_Finalize(NULL);
}

int main(int argc, char **argv)
{
    unsigned first = 0, last = USER;
    for (unsigned i = 0; argc > 2 && i < COUNT(STATES); i++)
        if (strcmp(argv[2], STATES[i]) == 0)
            first = last = i;
    progress = mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    progress->state = first;
    signal(SIGPIPE, SIG_DFL);
    for (;;) {
        fflush(stdout);
        /* EVERY_CALL_ALONE: in this process, as a checker of memory wants it. */
        pid_t child = getenv("EVERY_CALL_ALONE") ? 0 : fork();
        if (child == 0) {
            library = dlopen(argc > 1 ? argv[1] : "", RTLD_NOW | RTLD_LOCAL);
            CK_C_GetFunctionList list = NULL;
            if (library)
                *(void **)&list = dlsym(library, "C_GetFunctionList");
            if (!list || list(&p11) != CKR_OK)
                return 2;
            alarm(600);
            go_on(last);
            /* It stays loaded, for the names in a report. What unloading leaves behind, unload.c tells. */
            return 0;
        }
        int status = 0;
        waitpid(child, &status, 0);
        if (WIFEXITED(status))
            return WEXITSTATUS(status);
        if (!progress->is_calling || WTERMSIG(status) == SIGALRM)
            return 3;
        printf(" -> killed by %d\n", WTERMSIG(status));
        progress->is_calling = 0;
        progress->change++;
    }
}
