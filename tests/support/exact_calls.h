/*
 * Makes calls of a PKCS#11 library and prints each with its answer: `CALL -> 0xRV ANSWER`.
 *
 * The call is in the form of describe.h, handles numbered in the order in which the library gave
 * them, so that recorder.c behind the library must have recorded the same text. The answer has what
 * the standard defines after that CK_RV, and as `(undefined: ...)` what it does not: lengths and
 * buffers after an error, and the rest of a buffer that was not filled. Memory beyond the room that
 * was offered, or of an input, is checked: TOUCHED.
 *
 * A function that the library's interface lacks answers CKR_FUNCTION_NOT_SUPPORTED.
 */
#include "describe.h"

static CK_FUNCTION_LIST_3_2 *p11;
static size_t list_size; /* of the interface in use */
static int deterministic; /* the library is in front of recorder.c: nothing is random */
static int hidden; /* outputs are random: only their length is shown */

#define FN(name) offsetof(CK_FUNCTION_LIST_3_2, name)
static int has(size_t offset)
{
    return offset < list_size && pointer_at(p11, offset) != NULL;
}
#define CALL(name, ...) (has(FN(name)) ? p11->name(__VA_ARGS__) : CKR_FUNCTION_NOT_SUPPORTED)

/* ---- Handles ------------------------------------------------------------------------------------- */

#define NO_HANDLE 0x5a5a5a5aUL
#define MOST_HANDLES 20000
static struct handles { unsigned long values[MOST_HANDLES], count; } session_handles, object_handles;

static unsigned long number_of(const struct handles *handles, unsigned long value)
{
    for (unsigned long i = handles->count; i > 0; i--)
        if (handles->values[i - 1] == value)
            return i;
    return value;
}
static void add_handle(struct handles *handles, unsigned long value)
{
    if (handles->count == MOST_HANDLES)
        abort();
    handles->values[handles->count++] = value;
}
static unsigned long session_name(CK_SESSION_HANDLE session) { return number_of(&session_handles, session); }
static unsigned long object_name(CK_OBJECT_HANDLE object) { return number_of(&object_handles, object); }

/* ---- Arguments ----------------------------------------------------------------------------------- */

struct in { const void *bytes; CK_ULONG count; };
static const CK_BYTE NONE_HERE[1] = { 0x77 };
#define NO ((struct in){ NULL, 0 })
#define HOLLOW(n) ((struct in){ NULL, n })
#define EMPTY ((struct in){ NONE_HERE, 0 })
#define B(p, n) ((struct in){ p, n })
#define STR(s) ((struct in){ s, sizeof(s) - 1 })
#define IN(in) (CK_BYTE *)(uintptr_t)(in).bytes, (in).count

struct room { int has_pointer, has_length; CK_ULONG size; };
#define NOWHERE ((struct room){ 0, 1, 0 })       /* asks for the length */
#define NULL_ROOM(n) ((struct room){ 0, 1, n })  /* the same with a length already there */
#define SPACE(n) ((struct room){ 1, 1, n })
#define NO_LENGTH ((struct room){ 1, 0, 64 })
#define NOTHING ((struct room){ 0, 0, 0 })

#define PATTERN 0xa5
static CK_BYTE area[1 << 20];
static CK_ULONG area_used, length_cell;

/* Memory with the pattern in it and after it; lives until the next call has been printed. */
static CK_BYTE *fresh(CK_ULONG count)
{
    CK_BYTE *here = area + area_used;
    CK_ULONG whole = (count + 16 + 15) / 16 * 16;
    if (whole > sizeof area - area_used)
        abort();
    area_used += whole;
    memset(here, PATTERN, whole);
    return here;
}
static int untouched(const CK_BYTE *bytes, CK_ULONG count)
{
    for (CK_ULONG i = 0; i < count; i++)
        if (bytes[i] != PATTERN)
            return 0;
    return 1;
}

static CK_BYTE *out;
static CK_ULONG *len;

static void arm(struct room room)
{
    area_used = 0;
    out = room.has_pointer ? fresh(room.size) : NULL;
    length_cell = room.size;
    len = room.has_length ? &length_cell : NULL;
}
static void put_armed(struct text *to)
{
    if (!len)
        put(to, out ? "<no length>" : "<NULL, no length>");
    else
        put_room(to, out, *len);
}

/* ---- Printing -------------------------------------------------------------------------------------- */

static struct text call, answer;

__attribute__((format(printf, 1, 2))) static void start_call(const char *format, ...)
{
    char head[128];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(head, sizeof head, format, arguments);
    va_end(arguments);
    call.length = answer.length = 0;
    put(&call, "%s", head), put(&answer, "%s", "");
}
#define IN_SESSION(name, session) start_call("%s session=%lu", name, session_name(session))
#define SHOW_BYTES(name, in) (put(&call, " %s=", name), put_bytes(&call, (in).bytes, (in).count))
#define SHOW_OUTPUT(name) (put(&call, " %s=", name), put_armed(&call))
#define SHOW_NUMBER(name, number) put(&call, " %s=0x%lx", name, (unsigned long)(number))
#define SHOW_OBJECT(name, object) put(&call, " %s=%lu", name, object_name(object))
#define SHOW_TEMPLATE(name, t, n) (put(&call, " %s=", name), put_template(&call, t, n))
#define SHOW_POINTER(name, pointer) put(&call, " %s=%s", name, (pointer) ? "<>" : "<NULL>")

static CK_RV end_call(CK_RV rv)
{
    printf("%s -> 0x%lx%s\n", call.bytes, rv, answer.bytes);
    return rv;
}

static void answer_bytes(const CK_BYTE *bytes, CK_ULONG count)
{
    if (hidden && !deterministic)
        put(&answer, "%lu:*", count);
    else
        put_hex(&answer, bytes, count);
}

/* The last output that is not random: input for verification, decryption, unwrapping. */
static CK_BYTE kept[512];
static CK_ULONG kept_length;

/* What became of the armed room. */
static void answer_output(CK_RV rv, CK_ULONG room)
{
    CK_ULONG length = len ? *len : room;
    int defined = rv == CKR_OK || rv == CKR_BUFFER_TOO_SMALL;
    if (len && defined)
        put(&answer, " len=%lu", length);
    else if (len && length != room)
        put(&answer, " (undefined: len=%lu)", length);
    if (!out)
        return;
    if (rv == CKR_OK && length > room) {
        put(&answer, " MORE THAN THE ROOM");
    } else if (rv == CKR_OK && len) {
        put(&answer, " "), answer_bytes(out, length);
        if (!hidden && length <= sizeof kept)
            memcpy(kept, out, kept_length = length);
        if (!untouched(out + length, room - length))
            put(&answer, " (undefined: the rest is written)");
    } else if (!untouched(out, room)) {
        put(&answer, " (undefined: written)");
    }
    if (!untouched(out + room, 16))
        put(&answer, " TOUCHED");
}

/* Registers and prints a handle that the call gave, or says that it gave one with an error. */
static void answer_handle(const char *name, CK_RV rv, struct handles *handles, unsigned long value)
{
    if (rv != CKR_OK) {
        if (value != NO_HANDLE)
            put(&answer, " (undefined: %s)", name);
        return;
    }
    if (number_of(handles, value) == value)
        add_handle(handles, value);
    put(&answer, " %s=%lu", name, number_of(handles, value));
}

/* A number that the call writes. */
static void answer_number(const char *name, CK_RV rv, unsigned long value)
{
    if (rv == CKR_OK)
        put(&answer, " %s=0x%lx", name, value);
    else if (value != NO_HANDLE)
        put(&answer, " (undefined: %s=0x%lx)", name, value);
}

/* Keys that a parameter received. */
static void add_written_handles(CK_RV rv, const CK_MECHANISM *mechanism)
{
    const struct layout *layout = mechanism ? layout_of(mechanism->mechanism, mechanism->ulParameterLen, PLAIN) : NULL;
    if (rv != CKR_OK || !layout || !mechanism->pParameter || mechanism->ulParameterLen != layout->size)
        return;
    for (const struct field *field = layout->fields; field->name; field++) {
        int is_material = field->shape == MATERIAL || field->shape == SAFE_MATERIAL;
        void *pointer = is_material || field->shape == WTLS_MATERIAL || field->shape == KEYS
                            ? pointer_at(mechanism->pParameter, field->offset) : NULL;
        if (!pointer)
            continue;
        if (is_material) {
            CK_SSL3_KEY_MAT_OUT *material = pointer;
            add_handle(&object_handles, material->hClientMacSecret), add_handle(&object_handles, material->hServerMacSecret);
            add_handle(&object_handles, material->hClientKey), add_handle(&object_handles, material->hServerKey);
        } else if (field->shape == WTLS_MATERIAL) {
            add_handle(&object_handles, ((CK_WTLS_KEY_MAT_OUT *)pointer)->hMacSecret);
            add_handle(&object_handles, ((CK_WTLS_KEY_MAT_OUT *)pointer)->hKey);
        } else {
            CK_ULONG count = number_at(mechanism->pParameter, field->other);
            for (CK_ULONG i = 0; i < count; i++)
                if (((CK_DERIVED_KEY *)pointer)[i].phKey)
                    add_handle(&object_handles, *((CK_DERIVED_KEY *)pointer)[i].phKey);
        }
    }
}

static struct text mechanism_before;
static void show_mechanism(const CK_MECHANISM *mechanism, int use)
{
    mechanism_before.length = 0;
    put_mechanism(&mechanism_before, mechanism, use);
    put(&call, " pMechanism=%s", mechanism_before.bytes);
}
/* Only if the parameter has something that is written, or was written. */
static void answer_mechanism(const CK_MECHANISM *mechanism, int use)
{
    struct text after = { 0 };
    put_mechanism(&after, mechanism, use | AFTER);
    if (strcmp(after.bytes, mechanism_before.bytes) != 0)
        put(&answer, " pMechanism=%s", after.bytes);
    free(after.bytes);
}

static void show_parameter(CK_MECHANISM_TYPE type, struct in parameter, int use)
{
    mechanism_before.length = 0;
    put_parameter(&mechanism_before, type, parameter.bytes, parameter.count, MESSAGE | use);
    put(&call, " pParameter=%s", mechanism_before.bytes);
}
static void answer_parameter(CK_MECHANISM_TYPE type, struct in parameter, int use)
{
    struct text after = { 0 };
    put_parameter(&after, type, parameter.bytes, parameter.count, MESSAGE | use | AFTER);
    if (strcmp(after.bytes, mechanism_before.bytes) != 0)
        put(&answer, " pParameter=%s", hidden && !deterministic ? "*" : after.bytes);
    free(after.bytes);
}

/* A template is the application's: no call but C_GetAttributeValue may change it. */
static void check_template(const char *before, const CK_ATTRIBUTE *template, CK_ULONG count)
{
    struct text after = { 0 };
    put_template(&after, template, count);
    if (!strstr(before, after.bytes))
        put(&answer, " TOUCHED %s", after.bytes);
    free(after.bytes);
}

/* ---- Calls of one shape ------------------------------------------------------------------------------- */

struct function { const char *name; size_t offset; const char *in, *out; };
#define ROW(name, in, out) { #name, FN(name), in, out }
static const struct function FUNCTIONS[] = {
    ROW(C_Encrypt, "pData", "pEncryptedData"), ROW(C_EncryptUpdate, "pPart", "pEncryptedPart"),
    ROW(C_Decrypt, "pEncryptedData", "pData"), ROW(C_DecryptUpdate, "pEncryptedPart", "pPart"),
    ROW(C_Digest, "pData", "pDigest"), ROW(C_Sign, "pData", "pSignature"), ROW(C_SignRecover, "pData", "pSignature"),
    ROW(C_VerifyRecover, "pSignature", "pData"), ROW(C_DigestEncryptUpdate, "pPart", "pEncryptedPart"),
    ROW(C_DecryptDigestUpdate, "pEncryptedPart", "pPart"), ROW(C_SignEncryptUpdate, "pPart", "pEncryptedPart"),
    ROW(C_DecryptVerifyUpdate, "pEncryptedPart", "pPart"),
    ROW(C_EncryptFinal, NULL, "pLastEncryptedPart"), ROW(C_DecryptFinal, NULL, "pLastPart"), ROW(C_DigestFinal, NULL, "pDigest"),
    ROW(C_SignFinal, NULL, "pSignature"), ROW(C_GetOperationState, NULL, "pOperationState"),
    ROW(C_DigestUpdate, "pPart", NULL), ROW(C_SignUpdate, "pPart", NULL), ROW(C_VerifyUpdate, "pPart", NULL),
    ROW(C_VerifyFinal, "pSignature", NULL), ROW(C_SeedRandom, "pSeed", NULL), ROW(C_InitPIN, "pPin", NULL),
    ROW(C_VerifySignature, "pData", NULL), ROW(C_VerifySignatureUpdate, "pPart", NULL),
    ROW(C_Verify, "pData", "pSignature"), ROW(C_SetPIN, "pOldPin", "pNewPin"),
    ROW(C_CloseSession, NULL, NULL), ROW(C_Logout, NULL, NULL), ROW(C_FindObjectsFinal, NULL, NULL),
    ROW(C_VerifySignatureFinal, NULL, NULL), ROW(C_MessageEncryptFinal, NULL, NULL), ROW(C_MessageDecryptFinal, NULL, NULL),
    ROW(C_MessageSignFinal, NULL, NULL), ROW(C_MessageVerifyFinal, NULL, NULL), ROW(C_GetFunctionStatus, NULL, NULL),
    ROW(C_CancelFunction, NULL, NULL),
    ROW(C_EncryptInit, NULL, NULL), ROW(C_DecryptInit, NULL, NULL), ROW(C_SignInit, NULL, NULL), ROW(C_SignRecoverInit, NULL, NULL),
    ROW(C_VerifyInit, NULL, NULL), ROW(C_VerifyRecoverInit, NULL, NULL), ROW(C_MessageEncryptInit, NULL, NULL),
    ROW(C_MessageDecryptInit, NULL, NULL), ROW(C_MessageSignInit, NULL, NULL), ROW(C_MessageVerifyInit, NULL, NULL),
};

static const struct function *function_named(const char *name)
{
    for (size_t i = 0; i < COUNT(FUNCTIONS); i++)
        if (strcmp(FUNCTIONS[i].name, name) == 0)
            return &FUNCTIONS[i];
    abort();
}
#define POINTER(type, function) ((type)pointer_at(p11, (function)->offset))

/* C_Encrypt and all with its arguments: bytes in, bytes out. */
static CK_RV transform(const char *name, CK_SESSION_HANDLE session, struct in in, struct room room)
{
    const struct function *f = function_named(name);
    arm(room);
    IN_SESSION(name, session);
    SHOW_BYTES(f->in, in);
    SHOW_OUTPUT(f->out);
    CK_RV rv = has(f->offset) ? POINTER(CK_C_Encrypt, f)(session, IN(in), out, len) : CKR_FUNCTION_NOT_SUPPORTED;
    answer_output(rv, room.size);
    return end_call(rv);
}

/* C_EncryptFinal and all with its arguments: bytes out. */
static CK_RV last(const char *name, CK_SESSION_HANDLE session, struct room room)
{
    const struct function *f = function_named(name);
    arm(room);
    IN_SESSION(name, session);
    SHOW_OUTPUT(f->out);
    CK_RV rv = has(f->offset) ? POINTER(CK_C_EncryptFinal, f)(session, out, len) : CKR_FUNCTION_NOT_SUPPORTED;
    answer_output(rv, room.size);
    return end_call(rv);
}

/* C_DigestUpdate and all with its arguments: bytes in. */
static CK_RV update(const char *name, CK_SESSION_HANDLE session, struct in in)
{
    const struct function *f = function_named(name);
    IN_SESSION(name, session);
    SHOW_BYTES(f->in, in);
    return end_call(has(f->offset) ? POINTER(CK_C_DigestUpdate, f)(session, IN(in)) : CKR_FUNCTION_NOT_SUPPORTED);
}

/* C_Verify, C_SetPIN: two times bytes in. */
static CK_RV two(const char *name, CK_SESSION_HANDLE session, struct in first, struct in second)
{
    const struct function *f = function_named(name);
    IN_SESSION(name, session);
    SHOW_BYTES(f->in, first);
    SHOW_BYTES(f->out, second);
    return end_call(has(f->offset) ? POINTER(CK_C_Verify, f)(session, IN(first), IN(second)) : CKR_FUNCTION_NOT_SUPPORTED);
}

/* C_Logout and all with its argument: the session alone. */
static CK_RV plain(const char *name, CK_SESSION_HANDLE session)
{
    const struct function *f = function_named(name);
    IN_SESSION(name, session);
    return end_call(has(f->offset) ? POINTER(CK_C_Logout, f)(session) : CKR_FUNCTION_NOT_SUPPORTED);
}

/* C_EncryptInit and all with its arguments. */
static CK_RV init(const char *name, CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key)
{
    const struct function *f = function_named(name);
    int use = strncmp(name, "C_Message", 9) == 0 ? MESSAGE : PLAIN;
    IN_SESSION(name, session);
    show_mechanism(mechanism, use);
    SHOW_OBJECT("hKey", key);
    CK_RV rv = has(f->offset) ? POINTER(CK_C_EncryptInit, f)(session, mechanism, key) : CKR_FUNCTION_NOT_SUPPORTED;
    answer_mechanism(mechanism, use);
    return end_call(rv);
}

static CK_RV digest_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism)
{
    IN_SESSION("C_DigestInit", session);
    show_mechanism(mechanism, PLAIN);
    CK_RV rv = CALL(C_DigestInit, session, mechanism);
    answer_mechanism(mechanism, PLAIN);
    return end_call(rv);
}

static CK_RV digest_key(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key)
{
    IN_SESSION("C_DigestKey", session);
    SHOW_OBJECT("hKey", key);
    return end_call(CALL(C_DigestKey, session, key));
}

/* ---- General, slots, sessions -------------------------------------------------------------------------- */

static void show_initialize(const CK_C_INITIALIZE_ARGS *arguments)
{
    if (arguments)
        put(&call, " pInitArgs=(functions=%d flags=0x%lx pReserved=%s)",
            !!arguments->CreateMutex + !!arguments->DestroyMutex + !!arguments->LockMutex + !!arguments->UnlockMutex,
            arguments->flags, arguments->pReserved ? "set" : "NULL");
    else
        put(&call, " pInitArgs=NULL");
}

static CK_RV initialize(CK_C_INITIALIZE_ARGS *arguments)
{
    start_call("C_Initialize");
    show_initialize(arguments);
    return end_call(CALL(C_Initialize, arguments));
}

static CK_RV finalize(void *reserved)
{
    start_call("C_Finalize pReserved=%s", reserved ? "set" : "NULL");
    CK_RV rv = CALL(C_Finalize, reserved);
    if (rv == CKR_OK)
        session_handles.count = object_handles.count = 0;
    return end_call(rv);
}

static void answer_text(const char *name, const CK_BYTE *bytes, size_t count)
{
    put(&answer, " %s=\"", name);
    for (size_t i = 0; i < count; i++)
        put(&answer, bytes[i] >= ' ' && bytes[i] < 127 ? "%c" : "\\x%02x", bytes[i]);
    put(&answer, "\"");
}
#define FIELD(name) answer_text(#name, info.name, sizeof info.name)

static CK_RV get_info(int has_pointer)
{
    CK_INFO info;
    memset(&info, PATTERN, sizeof info);
    start_call("C_GetInfo");
    SHOW_POINTER("pInfo", has_pointer);
    CK_RV rv = CALL(C_GetInfo, has_pointer ? &info : NULL);
    if (rv == CKR_OK) {
        deterministic = memcmp(info.manufacturerID, "recorder ", 9) == 0;
        put(&answer, " cryptokiVersion=%u.%u", info.cryptokiVersion.major, info.cryptokiVersion.minor);
        FIELD(manufacturerID), FIELD(libraryDescription);
        put(&answer, " flags=0x%lx libraryVersion=%u.%u", info.flags, info.libraryVersion.major, info.libraryVersion.minor);
    } else if (!untouched((CK_BYTE *)&info, sizeof info)) {
        put(&answer, " (undefined: written)");
    }
    return end_call(rv);
}

static CK_RV get_slot_list(CK_BBOOL present, struct room room)
{
    arm((struct room){ room.has_pointer, room.has_length, room.size * sizeof(CK_SLOT_ID) });
    length_cell = room.size;
    start_call("C_GetSlotList");
    SHOW_NUMBER("tokenPresent", present);
    SHOW_OUTPUT("pSlotList");
    CK_RV rv = CALL(C_GetSlotList, present, (CK_SLOT_ID *)out, len);
    if (len && (rv == CKR_OK || rv == CKR_BUFFER_TOO_SMALL || *len != room.size))
        put(&answer, rv == CKR_OK || rv == CKR_BUFFER_TOO_SMALL ? " count=%lu" : " (undefined: count=%lu)", *len);
    if (out && rv == CKR_OK && len)
        for (CK_ULONG i = 0; i < *len && i < room.size; i++)
            put(&answer, " 0x%lx", number_at(out, i * sizeof(CK_SLOT_ID)));
    else if (out && !untouched(out, room.size * sizeof(CK_SLOT_ID)))
        put(&answer, " (undefined: written)");
    if (out && !untouched(out + room.size * sizeof(CK_SLOT_ID), 16))
        put(&answer, " TOUCHED");
    return end_call(rv);
}

static CK_RV get_mechanism_list(CK_SLOT_ID slot, struct room room)
{
    arm((struct room){ room.has_pointer, room.has_length, room.size * sizeof(CK_MECHANISM_TYPE) });
    length_cell = room.size;
    start_call("C_GetMechanismList");
    SHOW_NUMBER("slotID", slot);
    SHOW_OUTPUT("pMechanismList");
    CK_RV rv = CALL(C_GetMechanismList, slot, (CK_MECHANISM_TYPE *)out, len);
    if (len && (rv == CKR_OK || rv == CKR_BUFFER_TOO_SMALL || *len != room.size))
        put(&answer, rv == CKR_OK || rv == CKR_BUFFER_TOO_SMALL ? " count=%lu" : " (undefined: count=%lu)", *len);
    if (out && rv == CKR_OK && len)
        for (CK_ULONG i = 0; i < *len && i < room.size; i++)
            put(&answer, " 0x%lx", number_at(out, i * sizeof(CK_MECHANISM_TYPE)));
    else if (out && !untouched(out, room.size * sizeof(CK_MECHANISM_TYPE)))
        put(&answer, " (undefined: written)");
    if (out && !untouched(out + room.size * sizeof(CK_MECHANISM_TYPE), 16))
        put(&answer, " TOUCHED");
    return end_call(rv);
}

static CK_RV get_slot_info(CK_SLOT_ID slot, int has_pointer)
{
    CK_SLOT_INFO info;
    start_call("C_GetSlotInfo");
    SHOW_NUMBER("slotID", slot);
    SHOW_POINTER("pInfo", has_pointer);
    CK_RV rv = CALL(C_GetSlotInfo, slot, has_pointer ? &info : NULL);
    if (rv == CKR_OK) {
        FIELD(slotDescription), FIELD(manufacturerID);
        put(&answer, " flags=0x%lx hardwareVersion=%u.%u firmwareVersion=%u.%u", info.flags, info.hardwareVersion.major,
            info.hardwareVersion.minor, info.firmwareVersion.major, info.firmwareVersion.minor);
    }
    return end_call(rv);
}

static CK_FLAGS token_flags; /* of the last token that was looked at */
static CK_RV get_token_info(CK_SLOT_ID slot, int has_pointer)
{
    CK_TOKEN_INFO info;
    start_call("C_GetTokenInfo");
    SHOW_NUMBER("slotID", slot);
    SHOW_POINTER("pInfo", has_pointer);
    CK_RV rv = CALL(C_GetTokenInfo, slot, has_pointer ? &info : NULL);
    if (rv == CKR_OK) {
        token_flags = info.flags;
        FIELD(label), FIELD(manufacturerID), FIELD(model), FIELD(serialNumber);
        put(&answer, " flags=0x%lx sessions=%lx/%lx rw=%lx/%lx pin=%lu..%lu public=%lx/%lx private=%lx/%lx hardware=%u.%u firmware=%u.%u",
            info.flags, info.ulSessionCount, info.ulMaxSessionCount, info.ulRwSessionCount, info.ulMaxRwSessionCount,
            info.ulMinPinLen, info.ulMaxPinLen, info.ulFreePublicMemory, info.ulTotalPublicMemory, info.ulFreePrivateMemory,
            info.ulTotalPrivateMemory, info.hardwareVersion.major, info.hardwareVersion.minor, info.firmwareVersion.major,
            info.firmwareVersion.minor);
        if (deterministic)
            FIELD(utcTime);
    }
    return end_call(rv);
}

static CK_RV get_mechanism_info(CK_SLOT_ID slot, CK_MECHANISM_TYPE type, int has_pointer)
{
    /* SoftHSM 2.6.1 adds its flags for CKM_AES_GCM to what is there. */
    CK_MECHANISM_INFO info = { 0 };
    start_call("C_GetMechanismInfo");
    SHOW_NUMBER("slotID", slot);
    SHOW_NUMBER("type", type);
    SHOW_POINTER("pInfo", has_pointer);
    CK_RV rv = CALL(C_GetMechanismInfo, slot, type, has_pointer ? &info : NULL);
    if (rv == CKR_OK)
        put(&answer, " keys=%lu..%lu flags=0x%lx", info.ulMinKeySize, info.ulMaxKeySize, info.flags);
    return end_call(rv);
}

static CK_RV init_token(CK_SLOT_ID slot, struct in pin, const char *label)
{
    start_call("C_InitToken");
    SHOW_NUMBER("slotID", slot);
    SHOW_BYTES("pPin", pin);
    SHOW_BYTES("pLabel", B(label, label ? 32 : 0));
    return end_call(CALL(C_InitToken, slot, IN(pin), (CK_UTF8CHAR *)(uintptr_t)label));
}

static int notified_application;
static CK_RV notify_answer;
static CK_RV notified(CK_SESSION_HANDLE session, CK_NOTIFICATION event, void *application)
{
    printf("Notify session=%lu event=%lu pApplication=%s -> 0x%lx\n", session_name(session), event,
           application == &notified_application ? "ours" : application ? "ANOTHER" : "NULL", notify_answer);
    return notify_answer;
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, int application, int notify, CK_SESSION_HANDLE *session)
{
    CK_SESSION_HANDLE handle = NO_HANDLE;
    start_call("C_OpenSession");
    SHOW_NUMBER("slotID", slot);
    SHOW_NUMBER("flags", flags);
    put(&call, " pApplication=%s Notify=%s", application ? "set" : "NULL", notify ? "set" : "NULL");
    SHOW_POINTER("phSession", session);
    CK_RV rv = CALL(C_OpenSession, slot, flags, application ? &notified_application : NULL, notify ? notified : NULL,
                    session ? &handle : NULL);
    answer_handle("phSession", rv, &session_handles, handle);
    if (session)
        *session = handle;
    return end_call(rv);
}

static CK_RV close_all(CK_SLOT_ID slot)
{
    start_call("C_CloseAllSessions");
    SHOW_NUMBER("slotID", slot);
    return end_call(CALL(C_CloseAllSessions, slot));
}

static CK_RV get_session_info(CK_SESSION_HANDLE session, int has_pointer)
{
    CK_SESSION_INFO info;
    IN_SESSION("C_GetSessionInfo", session);
    SHOW_POINTER("pInfo", has_pointer);
    CK_RV rv = CALL(C_GetSessionInfo, session, has_pointer ? &info : NULL);
    if (rv == CKR_OK)
        put(&answer, " slotID=0x%lx state=%lu flags=0x%lx ulDeviceError=0x%lx", info.slotID, info.state, info.flags, info.ulDeviceError);
    return end_call(rv);
}

static CK_RV set_operation_state(CK_SESSION_HANDLE session, struct in state, CK_OBJECT_HANDLE encryption, CK_OBJECT_HANDLE authentication)
{
    IN_SESSION("C_SetOperationState", session);
    SHOW_BYTES("pOperationState", state);
    SHOW_OBJECT("hEncryptionKey", encryption);
    SHOW_OBJECT("hAuthenticationKey", authentication);
    return end_call(CALL(C_SetOperationState, session, IN(state), encryption, authentication));
}

static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, struct in pin)
{
    IN_SESSION("C_Login", session);
    SHOW_NUMBER("userType", user);
    SHOW_BYTES("pPin", pin);
    return end_call(CALL(C_Login, session, user, IN(pin)));
}

static CK_RV login_user(CK_SESSION_HANDLE session, CK_USER_TYPE user, struct in pin, struct in name)
{
    IN_SESSION("C_LoginUser", session);
    SHOW_NUMBER("userType", user);
    SHOW_BYTES("pPin", pin);
    SHOW_BYTES("pUsername", name);
    return end_call(CALL(C_LoginUser, session, user, IN(pin), IN(name)));
}

static CK_RV session_cancel(CK_SESSION_HANDLE session, CK_FLAGS flags)
{
    IN_SESSION("C_SessionCancel", session);
    SHOW_NUMBER("flags", flags);
    return end_call(CALL(C_SessionCancel, session, flags));
}

static CK_RV validation_flags(CK_SESSION_HANDLE session, CK_SESSION_VALIDATION_FLAGS_TYPE type, int has_pointer)
{
    CK_FLAGS flags = NO_HANDLE;
    IN_SESSION("C_GetSessionValidationFlags", session);
    SHOW_NUMBER("type", type);
    SHOW_POINTER("pFlags", has_pointer);
    CK_RV rv = CALL(C_GetSessionValidationFlags, session, type, has_pointer ? &flags : NULL);
    answer_number("pFlags", rv, flags);
    return end_call(rv);
}

static CK_RV wait_for_slot_event(CK_FLAGS flags, int has_pointer, void *reserved)
{
    CK_SLOT_ID slot = NO_HANDLE;
    start_call("C_WaitForSlotEvent");
    SHOW_NUMBER("flags", flags);
    SHOW_POINTER("pSlot", has_pointer);
    put(&call, " pReserved=%s", reserved ? "set" : "NULL");
    CK_RV rv = CALL(C_WaitForSlotEvent, flags, has_pointer ? &slot : NULL, reserved);
    answer_number("pSlot", rv, slot);
    return end_call(rv);
}

/* ---- Objects ------------------------------------------------------------------------------------------- */

static CK_RV create_object(CK_SESSION_HANDLE session, CK_ATTRIBUTE *t, CK_ULONG n, CK_OBJECT_HANDLE *object)
{
    CK_OBJECT_HANDLE handle = NO_HANDLE;
    IN_SESSION("C_CreateObject", session);
    SHOW_TEMPLATE("pTemplate", t, n);
    SHOW_POINTER("phObject", object);
    CK_RV rv = CALL(C_CreateObject, session, t, n, object ? &handle : NULL);
    answer_handle("phObject", rv, &object_handles, handle);
    check_template(call.bytes, t, n);
    if (object)
        *object = handle;
    return end_call(rv);
}

static CK_RV copy_object(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *t, CK_ULONG n, CK_OBJECT_HANDLE *copied)
{
    CK_OBJECT_HANDLE handle = NO_HANDLE;
    IN_SESSION("C_CopyObject", session);
    SHOW_OBJECT("hObject", object);
    SHOW_TEMPLATE("pTemplate", t, n);
    SHOW_POINTER("phNewObject", copied);
    CK_RV rv = CALL(C_CopyObject, session, object, t, n, copied ? &handle : NULL);
    answer_handle("phNewObject", rv, &object_handles, handle);
    check_template(call.bytes, t, n);
    if (copied)
        *copied = handle;
    return end_call(rv);
}

static CK_RV destroy_object(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object)
{
    IN_SESSION("C_DestroyObject", session);
    SHOW_OBJECT("hObject", object);
    return end_call(CALL(C_DestroyObject, session, object));
}

static CK_RV get_object_size(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, int has_pointer)
{
    CK_ULONG size = NO_HANDLE;
    IN_SESSION("C_GetObjectSize", session);
    SHOW_OBJECT("hObject", object);
    SHOW_POINTER("pulSize", has_pointer);
    CK_RV rv = CALL(C_GetObjectSize, session, object, has_pointer ? &size : NULL);
    answer_number("pulSize", rv, size);
    return end_call(rv);
}

/* Values are defined after these, attribute by attribute. */
static int reads(CK_RV rv)
{
    return rv == CKR_OK || rv == CKR_ATTRIBUTE_SENSITIVE || rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_BUFFER_TOO_SMALL;
}

/* A copy of a template with the arrays in it, whose pValue then is the copy. */
static CK_ATTRIBUTE copies[1024];
static CK_ATTRIBUTE *copy_of(const CK_ATTRIBUTE *t, CK_ULONG n, size_t *used)
{
    CK_ATTRIBUTE *copy = copies + *used;
    *used += n;
    if (*used > COUNT(copies))
        abort();
    for (CK_ULONG i = 0; i < n; i++) {
        copy[i] = t[i];
        if (holds_attributes(&t[i]))
            copy[i].pValue = copy_of(t[i].pValue, t[i].ulValueLen / sizeof *t, used);
    }
    return copy;
}

static void answer_attributes(const CK_ATTRIBUTE *t, const CK_ATTRIBUTE *before, CK_ULONG n, CK_RV rv)
{
    for (CK_ULONG i = 0; i < n; i++) {
        CK_ULONG room = before[i].ulValueLen, length = t[i].ulValueLen;
        put(&answer, "%s0x%lx=", i ? ", " : "", t[i].type);
        if (!reads(rv)) {
            put(&answer, length == room ? "" : "(undefined: %ld)", (long)length);
        } else if (length == CK_UNAVAILABLE_INFORMATION) {
            put(&answer, "-1");
            if (t[i].pValue && before[i].pValue == t[i].pValue && !untouched(t[i].pValue, room))
                put(&answer, " (undefined: written)");
        } else if (!t[i].pValue) {
            put(&answer, "<%lu>", length);
        } else if (length > room) {
            put(&answer, "MORE THAN THE ROOM");
        } else if (holds_attributes(&before[i])) {
            put(&answer, "%lu(", length);
            answer_attributes(t[i].pValue, before[i].pValue, length / sizeof *t, rv);
            put(&answer, ")");
        } else {
            answer_bytes(t[i].pValue, length);
            if (!untouched((CK_BYTE *)t[i].pValue + length, room - length))
                put(&answer, " (undefined: the rest is written)");
        }
    }
}

static CK_RV get_attributes(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *t, CK_ULONG n)
{
    size_t used = 0;
    const CK_ATTRIBUTE *before = t ? copy_of(t, n, &used) : NULL;
    IN_SESSION("C_GetAttributeValue", session);
    SHOW_OBJECT("hObject", object);
    put(&call, " pTemplate="), put_rooms(&call, t, n, 0);
    CK_RV rv = CALL(C_GetAttributeValue, session, object, t, n);
    if (t)
        put(&answer, " "), answer_attributes(t, before, n, rv);
    return end_call(rv);
}

static CK_RV set_attributes(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *t, CK_ULONG n)
{
    IN_SESSION("C_SetAttributeValue", session);
    SHOW_OBJECT("hObject", object);
    SHOW_TEMPLATE("pTemplate", t, n);
    CK_RV rv = CALL(C_SetAttributeValue, session, object, t, n);
    check_template(call.bytes, t, n);
    return end_call(rv);
}

static CK_RV find_init(CK_SESSION_HANDLE session, CK_ATTRIBUTE *t, CK_ULONG n)
{
    IN_SESSION("C_FindObjectsInit", session);
    SHOW_TEMPLATE("pTemplate", t, n);
    CK_RV rv = CALL(C_FindObjectsInit, session, t, n);
    check_template(call.bytes, t, n);
    return end_call(rv);
}

static CK_RV find_objects(CK_SESSION_HANDLE session, int has_pointer, CK_ULONG room, int has_count)
{
    CK_ULONG count = NO_HANDLE;
    arm((struct room){ has_pointer, 1, room * sizeof(CK_OBJECT_HANDLE) });
    IN_SESSION("C_FindObjects", session);
    put(&call, " phObject="), put_room(&call, out, room);
    SHOW_POINTER("pulObjectCount", has_count);
    CK_RV rv = CALL(C_FindObjects, session, (CK_OBJECT_HANDLE *)out, room, has_count ? &count : NULL);
    answer_number("pulObjectCount", rv, count);
    if (rv == CKR_OK && count > room) {
        put(&answer, " MORE THAN THE ROOM");
    } else if (out && rv == CKR_OK) {
        for (CK_ULONG i = 0; i < count && deterministic; i++)
            put(&answer, " %lu", object_name(number_at(out, i * sizeof(CK_OBJECT_HANDLE))));
        if (!untouched(out + count * sizeof(CK_OBJECT_HANDLE), (room - count) * sizeof(CK_OBJECT_HANDLE)))
            put(&answer, " (undefined: the rest is written)");
    } else if (out && !untouched(out, room * sizeof(CK_OBJECT_HANDLE))) {
        put(&answer, " (undefined: written)");
    }
    if (out && !untouched(out + room * sizeof(CK_OBJECT_HANDLE), 16))
        put(&answer, " TOUCHED");
    return end_call(rv);
}

/* ---- Keys ------------------------------------------------------------------------------------------------ */

static CK_RV generate_key(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_ATTRIBUTE *t, CK_ULONG n, CK_OBJECT_HANDLE *key)
{
    CK_OBJECT_HANDLE handle = NO_HANDLE;
    IN_SESSION("C_GenerateKey", session);
    show_mechanism(mechanism, PLAIN);
    SHOW_TEMPLATE("pTemplate", t, n);
    SHOW_POINTER("phKey", key);
    CK_RV rv = CALL(C_GenerateKey, session, mechanism, t, n, key ? &handle : NULL);
    answer_handle("phKey", rv, &object_handles, handle);
    answer_mechanism(mechanism, PLAIN);
    check_template(call.bytes, t, n);
    if (key)
        *key = handle;
    return end_call(rv);
}

static CK_RV generate_key_pair(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_ATTRIBUTE *public, CK_ULONG public_count,
                               CK_ATTRIBUTE *private, CK_ULONG private_count, CK_OBJECT_HANDLE *public_key, CK_OBJECT_HANDLE *private_key)
{
    CK_OBJECT_HANDLE first = NO_HANDLE, second = NO_HANDLE;
    IN_SESSION("C_GenerateKeyPair", session);
    show_mechanism(mechanism, PLAIN);
    SHOW_TEMPLATE("pPublicKeyTemplate", public, public_count);
    SHOW_TEMPLATE("pPrivateKeyTemplate", private, private_count);
    SHOW_POINTER("phPublicKey", public_key);
    SHOW_POINTER("phPrivateKey", private_key);
    CK_RV rv = CALL(C_GenerateKeyPair, session, mechanism, public, public_count, private, private_count,
                    public_key ? &first : NULL, private_key ? &second : NULL);
    answer_handle("phPublicKey", rv, &object_handles, first);
    answer_handle("phPrivateKey", rv, &object_handles, second);
    answer_mechanism(mechanism, PLAIN);
    check_template(call.bytes, public, public_count);
    check_template(call.bytes, private, private_count);
    if (public_key)
        *public_key = first;
    if (private_key)
        *private_key = second;
    return end_call(rv);
}

static CK_RV wrap_key(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key, struct room room)
{
    arm(room);
    IN_SESSION("C_WrapKey", session);
    show_mechanism(mechanism, WRAPPING);
    SHOW_OBJECT("hWrappingKey", wrapping);
    SHOW_OBJECT("hKey", key);
    SHOW_OUTPUT("pWrappedKey");
    CK_RV rv = CALL(C_WrapKey, session, mechanism, wrapping, key, out, len);
    answer_output(rv, room.size);
    answer_mechanism(mechanism, WRAPPING);
    return end_call(rv);
}

static CK_RV wrap_authenticated(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key, struct in data, struct room room)
{
    arm(room);
    IN_SESSION("C_WrapKeyAuthenticated", session);
    show_mechanism(mechanism, WRAPPING);
    SHOW_OBJECT("hWrappingKey", wrapping);
    SHOW_OBJECT("hKey", key);
    SHOW_BYTES("pAssociatedData", data);
    SHOW_OUTPUT("pWrappedKey");
    CK_RV rv = CALL(C_WrapKeyAuthenticated, session, mechanism, wrapping, key, IN(data), out, len);
    answer_output(rv, room.size);
    answer_mechanism(mechanism, WRAPPING);
    return end_call(rv);
}

static CK_RV unwrap_key(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE unwrapping, struct in wrapped,
                        CK_ATTRIBUTE *t, CK_ULONG n, CK_OBJECT_HANDLE *key)
{
    CK_OBJECT_HANDLE handle = NO_HANDLE;
    IN_SESSION("C_UnwrapKey", session);
    show_mechanism(mechanism, WRAPPING);
    SHOW_OBJECT("hUnwrappingKey", unwrapping);
    SHOW_BYTES("pWrappedKey", wrapped);
    SHOW_TEMPLATE("pTemplate", t, n);
    SHOW_POINTER("phKey", key);
    CK_RV rv = CALL(C_UnwrapKey, session, mechanism, unwrapping, IN(wrapped), t, n, key ? &handle : NULL);
    answer_handle("phKey", rv, &object_handles, handle);
    answer_mechanism(mechanism, WRAPPING);
    check_template(call.bytes, t, n);
    if (key)
        *key = handle;
    return end_call(rv);
}

static CK_RV unwrap_authenticated(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE unwrapping, struct in wrapped,
                                  CK_ATTRIBUTE *t, CK_ULONG n, struct in data, CK_OBJECT_HANDLE *key)
{
    CK_OBJECT_HANDLE handle = NO_HANDLE;
    IN_SESSION("C_UnwrapKeyAuthenticated", session);
    show_mechanism(mechanism, WRAPPING);
    SHOW_OBJECT("hUnwrappingKey", unwrapping);
    SHOW_BYTES("pWrappedKey", wrapped);
    SHOW_TEMPLATE("pTemplate", t, n);
    SHOW_BYTES("pAssociatedData", data);
    SHOW_POINTER("phKey", key);
    CK_RV rv = CALL(C_UnwrapKeyAuthenticated, session, mechanism, unwrapping, IN(wrapped), t, n, IN(data), key ? &handle : NULL);
    answer_handle("phKey", rv, &object_handles, handle);
    answer_mechanism(mechanism, WRAPPING);
    check_template(call.bytes, t, n);
    if (key)
        *key = handle;
    return end_call(rv);
}

/* What only writes into its parameter gives no key: `key` stays NO_HANDLE. */
static CK_RV derive_key(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE base, CK_ATTRIBUTE *t, CK_ULONG n, CK_OBJECT_HANDLE *key)
{
    CK_OBJECT_HANDLE handle = NO_HANDLE;
    IN_SESSION("C_DeriveKey", session);
    show_mechanism(mechanism, PLAIN);
    SHOW_OBJECT("hBaseKey", base);
    SHOW_TEMPLATE("pTemplate", t, n);
    SHOW_POINTER("phKey", key);
    CK_RV rv = CALL(C_DeriveKey, session, mechanism, base, t, n, key ? &handle : NULL);
    if (handle != NO_HANDLE)
        answer_handle("phKey", rv, &object_handles, handle);
    add_written_handles(rv, mechanism);
    answer_mechanism(mechanism, PLAIN);
    check_template(call.bytes, t, n);
    if (key)
        *key = handle;
    return end_call(rv);
}

static CK_RV encapsulate_key(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE public, CK_ATTRIBUTE *t, CK_ULONG n, struct room room, CK_OBJECT_HANDLE *key)
{
    CK_OBJECT_HANDLE handle = NO_HANDLE;
    arm(room);
    IN_SESSION("C_EncapsulateKey", session);
    show_mechanism(mechanism, PLAIN);
    SHOW_OBJECT("hPublicKey", public);
    SHOW_TEMPLATE("pTemplate", t, n);
    SHOW_OUTPUT("pCiphertext");
    SHOW_POINTER("phKey", key);
    CK_RV rv = CALL(C_EncapsulateKey, session, mechanism, public, t, n, out, len, key ? &handle : NULL);
    answer_output(rv, room.size);
    if (handle != NO_HANDLE)
        answer_handle("phKey", rv, &object_handles, handle);
    answer_mechanism(mechanism, PLAIN);
    check_template(call.bytes, t, n);
    if (key)
        *key = handle;
    return end_call(rv);
}

static CK_RV decapsulate_key(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE private, CK_ATTRIBUTE *t, CK_ULONG n, struct in ciphertext, CK_OBJECT_HANDLE *key)
{
    CK_OBJECT_HANDLE handle = NO_HANDLE;
    IN_SESSION("C_DecapsulateKey", session);
    show_mechanism(mechanism, PLAIN);
    SHOW_OBJECT("hPrivateKey", private);
    SHOW_TEMPLATE("pTemplate", t, n);
    SHOW_BYTES("pCiphertext", ciphertext);
    SHOW_POINTER("phKey", key);
    CK_RV rv = CALL(C_DecapsulateKey, session, mechanism, private, t, n, IN(ciphertext), key ? &handle : NULL);
    answer_handle("phKey", rv, &object_handles, handle);
    answer_mechanism(mechanism, PLAIN);
    check_template(call.bytes, t, n);
    if (key)
        *key = handle;
    return end_call(rv);
}

static CK_RV verify_signature_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key, struct in signature)
{
    IN_SESSION("C_VerifySignatureInit", session);
    show_mechanism(mechanism, PLAIN);
    SHOW_OBJECT("hKey", key);
    SHOW_BYTES("pSignature", signature);
    CK_RV rv = CALL(C_VerifySignatureInit, session, mechanism, key, IN(signature));
    answer_mechanism(mechanism, PLAIN);
    return end_call(rv);
}

static CK_RV generate_random(CK_SESSION_HANDLE session, struct room room)
{
    arm(room);
    IN_SESSION("C_GenerateRandom", session);
    put(&call, " RandomData="), put_room(&call, out, room.size);
    CK_RV rv = CALL(C_GenerateRandom, session, out, room.size);
    if (rv == CKR_OK && out) {
        int kept = hidden;
        hidden = 1;
        put(&answer, " "), answer_bytes(out, room.size);
        hidden = kept;
    }
    if (out && !untouched(out + room.size, 16))
        put(&answer, " TOUCHED");
    return end_call(rv);
}

/* ---- Messages: `type` is the mechanism of the operation that the session has ------------------------------- */

static CK_RV whole_message(const char *name, CK_SESSION_HANDLE session, CK_MECHANISM_TYPE type, struct in parameter, struct in data, struct in in, struct room room)
{
    int encrypts = strcmp(name, "C_EncryptMessage") == 0, use = encrypts ? ENCRYPTING : PLAIN;
    arm(room);
    IN_SESSION(name, session);
    show_parameter(type, parameter, use);
    SHOW_BYTES("pAssociatedData", data);
    SHOW_BYTES(encrypts ? "pPlaintext" : "pCiphertext", in);
    SHOW_OUTPUT(encrypts ? "pCiphertext" : "pPlaintext");
    CK_RV rv = encrypts ? CALL(C_EncryptMessage, session, IN(parameter), IN(data), IN(in), out, len)
                        : CALL(C_DecryptMessage, session, IN(parameter), IN(data), IN(in), out, len);
    answer_output(rv, room.size);
    answer_parameter(type, parameter, use);
    return end_call(rv);
}

static CK_RV begin_message(const char *name, CK_SESSION_HANDLE session, CK_MECHANISM_TYPE type, struct in parameter, struct in data)
{
    int encrypts = strcmp(name, "C_EncryptMessageBegin") == 0, use = encrypts ? ENCRYPTING : PLAIN;
    IN_SESSION(name, session);
    show_parameter(type, parameter, use);
    SHOW_BYTES("pAssociatedData", data);
    CK_RV rv = encrypts ? CALL(C_EncryptMessageBegin, session, IN(parameter), IN(data))
                        : CALL(C_DecryptMessageBegin, session, IN(parameter), IN(data));
    answer_parameter(type, parameter, use);
    return end_call(rv);
}

static CK_RV next_message(const char *name, CK_SESSION_HANDLE session, CK_MECHANISM_TYPE type, struct in parameter, struct in in, struct room room, CK_FLAGS flags)
{
    int encrypts = strcmp(name, "C_EncryptMessageNext") == 0, use = encrypts ? ENCRYPTING : PLAIN;
    arm(room);
    IN_SESSION(name, session);
    show_parameter(type, parameter, use);
    SHOW_BYTES(encrypts ? "pPlaintextPart" : "pCiphertextPart", in);
    SHOW_OUTPUT(encrypts ? "pCiphertextPart" : "pPlaintextPart");
    SHOW_NUMBER("flags", flags);
    CK_RV rv = encrypts ? CALL(C_EncryptMessageNext, session, IN(parameter), IN(in), out, len, flags)
                        : CALL(C_DecryptMessageNext, session, IN(parameter), IN(in), out, len, flags);
    answer_output(rv, room.size);
    answer_parameter(type, parameter, use);
    return end_call(rv);
}

static CK_RV sign_message(CK_SESSION_HANDLE session, CK_MECHANISM_TYPE type, struct in parameter, struct in in, struct room room, int next)
{
    arm(room);
    IN_SESSION(next ? "C_SignMessageNext" : "C_SignMessage", session);
    show_parameter(type, parameter, PLAIN);
    SHOW_BYTES(next ? "pDataPart" : "pData", in);
    SHOW_OUTPUT("pSignature");
    CK_RV rv = next ? CALL(C_SignMessageNext, session, IN(parameter), IN(in), out, len)
                    : CALL(C_SignMessage, session, IN(parameter), IN(in), out, len);
    answer_output(rv, room.size);
    answer_parameter(type, parameter, PLAIN);
    return end_call(rv);
}

static CK_RV verify_message(CK_SESSION_HANDLE session, CK_MECHANISM_TYPE type, struct in parameter, struct in in, struct in signature, int next)
{
    IN_SESSION(next ? "C_VerifyMessageNext" : "C_VerifyMessage", session);
    show_parameter(type, parameter, PLAIN);
    SHOW_BYTES(next ? "pDataPart" : "pData", in);
    SHOW_BYTES("pSignature", signature);
    return end_call(next ? CALL(C_VerifyMessageNext, session, IN(parameter), IN(in), IN(signature))
                         : CALL(C_VerifyMessage, session, IN(parameter), IN(in), IN(signature)));
}

static CK_RV begin_signature(CK_SESSION_HANDLE session, CK_MECHANISM_TYPE type, struct in parameter, int verifies)
{
    IN_SESSION(verifies ? "C_VerifyMessageBegin" : "C_SignMessageBegin", session);
    show_parameter(type, parameter, PLAIN);
    return end_call(verifies ? CALL(C_VerifyMessageBegin, session, IN(parameter)) : CALL(C_SignMessageBegin, session, IN(parameter)));
}

/* ---- Asynchronous functions ----------------------------------------------------------------------------------- */

static void show_function(const char *function)
{
    put(&call, function ? " pFunctionName=\"%s\"" : " pFunctionName=NULL", function);
}

/* `buffer`: what the postponed call was given, of `size` bytes. */
static CK_RV async_complete(CK_SESSION_HANDLE session, const char *function, CK_ASYNC_DATA *result, const CK_BYTE *buffer, CK_ULONG size)
{
    IN_SESSION("C_AsyncComplete", session);
    show_function(function);
    if (result)
        put(&call, " pResult=(ulVersion=0x%lx)", result->ulVersion);
    else
        put(&call, " pResult=NULL");
    CK_RV rv = CALL(C_AsyncComplete, session, (CK_UTF8CHAR *)(uintptr_t)function, result);
    if (rv == CKR_OK && result) {
        put(&answer, " pValue=%s", !result->pValue ? "NULL" : result->pValue == buffer ? "ours" : "ANOTHER");
        put(&answer, " ulValue=%lu", result->ulValue);
        if (result->hObject)
            answer_handle("hObject", rv, &object_handles, result->hObject);
        if (result->hAdditionalObject)
            answer_handle("hAdditionalObject", rv, &object_handles, result->hAdditionalObject);
        if (buffer)
            put(&answer, " "), put_hex(&answer, buffer, size);
    }
    return end_call(rv);
}

static CK_RV async_get_id(CK_SESSION_HANDLE session, const char *function, int has_pointer)
{
    CK_ULONG id = NO_HANDLE;
    IN_SESSION("C_AsyncGetID", session);
    show_function(function);
    SHOW_POINTER("pulID", has_pointer);
    CK_RV rv = CALL(C_AsyncGetID, session, (CK_UTF8CHAR *)(uintptr_t)function, has_pointer ? &id : NULL);
    answer_number("pulID", rv, id);
    return end_call(rv);
}

static CK_RV async_join(CK_SESSION_HANDLE session, const char *function, CK_ULONG id, CK_BYTE *buffer, CK_ULONG size)
{
    IN_SESSION("C_AsyncJoin", session);
    show_function(function);
    SHOW_NUMBER("ulID", id);
    put(&call, " pData="), put_room(&call, buffer, size);
    return end_call(CALL(C_AsyncJoin, session, (CK_UTF8CHAR *)(uintptr_t)function, id, buffer, size));
}
