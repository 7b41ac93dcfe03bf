/*
 * A PKCS#11 3.2 module that records exactly what each function was called with, one line a call in
 * the form of describe.h, and answers by a rule instead of by cryptography:
 *
 * - data are a function of the input of the call and of the calls before it in the operation, so that
 *   a byte that arrives changed comes back changed. All lengths follow the two-call convention:
 *   encryption keeps the length, digests have 32 bytes, signatures 64, wrapped keys 24 (40 when
 *   authenticated), ciphertexts of an encapsulated key 48. Signatures of 64 bytes verify unless the
 *   first is 0xff.
 * - objects keep the template they were made with and give it back; handles of sessions and objects
 *   count from 1. What the standard has a module write into a parameter is written: an IV of zeros in
 *   CK_GCM_PARAMS, generated IVs and tags of messages, TLS key material and version, the output of
 *   CKM_TLS_PRF, additional keys of SP 800-108, the IV of CK_PBE_PARAMS.
 * - slot 5 has the token "recorder" (PIN 1234, SO PIN 12345678), slot 0x80000007 has none.
 * - a restored state has no operation on messages in it.
 * - in a session with CKF_ASYNC_SESSION, C_Sign and C_GenerateKeyPair answer CKR_PENDING, and so does
 *   the first C_AsyncComplete.
 *
 * A parameter that has not the length of its structure is CKR_MECHANISM_PARAM_INVALID.
 *
 * The log also has a line `OVERLAP C_Name ...` when two calls run at once though C_Initialize allowed
 * no threads, or in one session (C_SessionCancel, C_CancelFunction and C_GetFunctionStatus may), or
 * beside C_Finalize (a waiting C_WaitForSlotEvent may). With C_Finalize it tells how many calls ran at
 * once, waiting ones not counted.
 *
 * The environment, as it is when the module is loaded, changes it:
 *
 *   RECORDER_LOG=FILE               where the lines go; without it nothing is recorded
 *   RECORDER_RV=C_Sign=0x30,...     the function answers that and does nothing; `crash` dies of SIGSEGV,
 *                                   `hang` never returns
 *   RECORDER_DELAY_MS=N             C_Sign and C_Digest take that long
 *   RECORDER_CANT_LOCK=1            C_Initialize answers CKR_CANT_LOCK when it is asked to lock
 *   RECORDER_NOTIFY=1               C_Sign calls the session's Notify with CKN_SURRENDER, and answers
 *                                   CKR_FUNCTION_CANCELED if that says CKR_CANCEL; `otp`: with
 *                                   CKN_OTP_CHANGED; `other`: with that, but of all other sessions
 *   RECORDER_MAX_VERSION=3.0        the highest interface: 2.40, 3.0 or 3.2
 *   RECORDER_SLOT_EVENT_MS=N        a blocking C_WaitForSlotEvent reports slot 5 after that time, with
 *                                   -1 never; without it, it answers CKR_FUNCTION_NOT_SUPPORTED
 */
#define _GNU_SOURCE
#include "describe.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

static unsigned long object_name(CK_OBJECT_HANDLE object) { return object; }

#define TOKEN_SLOT 5UL
#define EMPTY_SLOT 0x80000007UL
#define MOST_SESSIONS 4096
#define UNAVAILABLE CK_UNAVAILABLE_INFORMATION

/* ---- What the environment says, and the log ----------------------------------------------------- */

static struct {
    const char *log, *rv, *notify, *version, *slot_event;
    long delay;
    int cant_lock;
} script;
static CK_VERSION highest = { 3, 2 };

static void prepare_lists(void);

__attribute__((constructor)) static void read_environment(void)
{
    const char *delay = getenv("RECORDER_DELAY_MS");
    script.log = getenv("RECORDER_LOG");
    script.rv = getenv("RECORDER_RV");
    script.notify = getenv("RECORDER_NOTIFY");
    script.version = getenv("RECORDER_MAX_VERSION");
    script.slot_event = getenv("RECORDER_SLOT_EVENT_MS");
    script.delay = delay ? atol(delay) : 0;
    script.cant_lock = getenv("RECORDER_CANT_LOCK") != NULL;
    if (script.version && sscanf(script.version, "%hhu.%hhu", &highest.major, &highest.minor) != 2)
        abort();
    prepare_lists();
}

/* Each line is one write, so that threads and processes do not mix theirs. */
static void record(const struct text *line)
{
    static atomic_int file = -1;
    if (!script.log)
        return;
    if (file < 0)
        file = open(script.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0 || write(file, line->bytes, line->length) < 0)
        fprintf(stderr, "recorder: %s: %s\n", script.log, strerror(errno));
}

__attribute__((format(printf, 1, 2))) static void record_line(const char *format, ...)
{
    char bytes[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(bytes, sizeof bytes, format, arguments);
    va_end(arguments);
    record(&(struct text){ bytes, (size_t)length, 0 });
}

static void sleep_ms(long ms) { nanosleep(&(struct timespec){ ms / 1000, ms % 1000 * 1000000 }, NULL); }

/* ---- State ------------------------------------------------------------------------------------ */

enum kind { ENCRYPT, DECRYPT, DIGEST, SIGN, SIGN_RECOVER, VERIFY, VERIFY_RECOVER, VERIFY_SIGNATURE,
            MESSAGE_ENCRYPT, MESSAGE_DECRYPT, MESSAGE_SIGN, MESSAGE_VERIFY, FIND, KINDS };

struct operation { int active; uint64_t hash; CK_MECHANISM_TYPE mechanism; CK_ULONG signature_length; CK_BYTE signature_start; };

struct session {
    int open;
    CK_SESSION_HANDLE handle;
    CK_SLOT_ID slot;
    CK_FLAGS flags;
    CK_NOTIFY notify;
    void *application;
    atomic_int running;
    struct operation operations[KINDS];
    CK_OBJECT_HANDLE *found;
    CK_ULONG found_count, found_given;
    struct { char function[64]; int polls; uint64_t hash; CK_BYTE *room; CK_ULONG size; CK_OBJECT_HANDLE objects[2]; } pending;
};

struct object { CK_OBJECT_HANDLE handle; CK_ATTRIBUTE *template; CK_ULONG count; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static pthread_cond_t finalized = PTHREAD_COND_INITIALIZER;
static struct session sessions[MOST_SESSIONS];
static struct object *objects;
static CK_ULONG object_count, object_room;
static CK_OBJECT_HANDLE last_object;
static CK_SESSION_HANDLE last_session;
static unsigned long initializations;
static int logged_in; /* 0, or 1 + the user type */

static atomic_int initialized, threads, running, waiting, most_running;

/* ---- A call ------------------------------------------------------------------------------------- */

struct call {
    const char *name;
    struct text line;
    CK_SESSION_HANDLE handle;
    struct session *session;
    int wants_session, beside_others; /* of its session */
    int odd_parameter; /* not of its structure's length */
    uint64_t hash;
    CK_RV rv;
};

#define BEGIN(function) \
    struct call call = { .name = #function }; \
    put(&call.line, #function)
#define BEGIN_IN(function, in) \
    struct call call = { .name = #function, .handle = (in), .wants_session = 1, .session = session_of(in) }; \
    put(&call.line, #function " session=%lu", (in))
#define RUN(expression) \
    do { \
        if (enter(&call)) \
            call.rv = (expression); \
        return leave(&call); \
    } while (0)

#define NUMBER_IN(name, value) put(&call.line, " " name "=0x%lx", (unsigned long)(value))
#define OBJECT_IN(name, value) put(&call.line, " " name "=%lu", (unsigned long)(value))
#define BYTES_IN(name, bytes, count) (put(&call.line, " " name "="), put_bytes(&call.line, bytes, count))
#define ROOM_FOR(name, bytes, length) (put(&call.line, " " name "="), put_output(&call.line, bytes, length))
#define VALUE_OUT(name, pointer) put(&call.line, " " name "=%s", (pointer) ? "<>" : "<NULL>")
#define TEMPLATE_IN(name, t, count) (put(&call.line, " " name "="), put_template(&call.line, t, count))
#define ROOMS_IN(name, t, count) (put(&call.line, " " name "="), put_rooms(&call.line, t, count, 0))
#define MECHANISM_IN(mechanism, use) mechanism_in(&call, mechanism, use)
#define TRY(expression) do { CK_RV rv_ = (expression); if (rv_ != CKR_OK) return rv_; } while (0)

static void put_output(struct text *to, const void *bytes, const CK_ULONG *length)
{
    if (!length)
        put(to, bytes ? "<no length>" : "<NULL, no length>");
    else
        put_room(to, bytes, *length);
}

static void look_at_parameter(struct call *call, CK_MECHANISM_TYPE type, const void *parameter, CK_ULONG length, int use)
{
    const struct layout *layout = layout_of(type, length, use);
    call->odd_parameter |= layout && parameter && length != 0 && length != layout->size;
}

static void mechanism_in(struct call *call, const CK_MECHANISM *mechanism, int use)
{
    put(&call->line, " pMechanism=");
    put_mechanism(&call->line, mechanism, use);
    if (mechanism)
        look_at_parameter(call, mechanism->mechanism, mechanism->pParameter, mechanism->ulParameterLen, use);
}

static struct session *session_of(CK_SESSION_HANDLE handle)
{
    struct session *found = NULL;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < MOST_SESSIONS && handle != 0; i++)
        if (sessions[i].open && sessions[i].handle == handle) {
            found = &sessions[i];
            break;
        }
    pthread_mutex_unlock(&lock);
    return found;
}

/* The input: the line without what stands in angle brackets. */
static uint64_t hash_of(const struct text *line)
{
    uint64_t hash = FNV_START;
    int depth = 0;
    for (size_t i = 0; i < line->length; i++) {
        depth -= line->bytes[i] == '>';
        if (depth == 0)
            hash = fnv(hash, &line->bytes[i], 1);
        depth += line->bytes[i] == '<';
    }
    return hash;
}

/* Whether RECORDER_RV names the function; then call->rv is what it says. */
static int scripted(struct call *call)
{
    size_t length = strlen(call->name);
    for (const char *at = script.rv; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        if (strncmp(at, call->name, length) != 0 || at[length] != '=')
            continue;
        at += length + 1;
        /* A fault, no raise(): Rust's handler of the daemon's process returns to what faulted. */
        if (strncmp(at, "crash", 5) == 0)
            *(volatile int *)NULL = 0;
        while (strncmp(at, "hang", 4) == 0)
            pause();
        call->rv = strtoul(at, NULL, 0);
        return 1;
    }
    return 0;
}

static int enter(struct call *call)
{
    int others = atomic_fetch_add(&running, 1);
    for (int most = most_running; others - waiting >= most && !atomic_compare_exchange_weak(&most_running, &most, others - waiting + 1);)
        ;
    call->hash = hash_of(&call->line);
    put(&call->line, "\n");
    record(&call->line);
    if (others > 0 && !threads)
        record_line("OVERLAP %s session=%lu: C_Initialize allowed no threads\n", call->name, call->handle);
    if (call->session && !call->beside_others && atomic_fetch_add(&call->session->running, 1) > 0)
        record_line("OVERLAP %s session=%lu: another call of the session runs\n", call->name, call->handle);
    if (scripted(call))
        return 0;
    if (!initialized && strcmp(call->name, "C_Initialize") != 0)
        call->rv = CKR_CRYPTOKI_NOT_INITIALIZED;
    else if (call->wants_session && !call->session)
        call->rv = CKR_SESSION_HANDLE_INVALID;
    else if (call->odd_parameter)
        call->rv = CKR_MECHANISM_PARAM_INVALID;
    else
        return 1;
    return 0;
}

static CK_RV leave(struct call *call)
{
    if (call->session && !call->beside_others)
        atomic_fetch_sub(&call->session->running, 1);
    atomic_fetch_sub(&running, 1);
    free(call->line.bytes);
    return call->rv;
}

/* ---- Answers ------------------------------------------------------------------------------------ */

static void fill(CK_BYTE *out, CK_ULONG size, uint64_t seed)
{
    for (CK_ULONG i = 0; i < size; i++) {
        if (i % 8 == 0)
            seed = (seed ^ seed >> 29) * 0xbf58476d1ce4e5b9 + 1;
        out[i] = (CK_BYTE)(seed >> 8 * (i % 8));
    }
}

/* The two-call convention; `*given` says whether data were written. */
static CK_RV give(CK_BYTE *out, CK_ULONG *length, CK_ULONG size, uint64_t seed, int *given)
{
    CK_ULONG room = length ? *length : 0;
    *given = 0;
    if (!length)
        return CKR_ARGUMENTS_BAD;
    *length = size;
    if (!out)
        return CKR_OK;
    if (room < size)
        return CKR_BUFFER_TOO_SMALL;
    fill(out, size, seed);
    *given = 1;
    return CKR_OK;
}

static struct operation *operation(struct call *call, enum kind kind) { return &call->session->operations[kind]; }

static CK_RV begin(struct call *call, enum kind kind, CK_MECHANISM *mechanism)
{
    struct operation *one = operation(call, kind);
    if (!mechanism) {
        one->active = 0;
        return CKR_OK;
    }
    if (one->active)
        return CKR_OPERATION_ACTIVE;
    *one = (struct operation){ .active = 1, .hash = call->hash, .mechanism = mechanism->mechanism };
    CK_GCM_PARAMS *gcm = mechanism->pParameter;
    if (kind == ENCRYPT && mechanism->mechanism == CKM_AES_GCM && gcm && mechanism->ulParameterLen == sizeof *gcm && gcm->pIv) {
        CK_ULONG zeros = 0;
        while (zeros < gcm->ulIvLen && zeros < 256 && gcm->pIv[zeros] == 0)
            zeros++;
        if (zeros > 0 && zeros == gcm->ulIvLen)
            fill(gcm->pIv, zeros, call->hash);
    }
    return CKR_OK;
}

enum end { ENDS, GOES_ON };

/* Data from one operation, which then ends or goes on. */
static CK_RV answer(struct call *call, enum kind kind, CK_BYTE *out, CK_ULONG *length, CK_ULONG size, enum end end)
{
    struct operation *one = operation(call, kind);
    int given;
    if (!one->active)
        return CKR_OPERATION_NOT_INITIALIZED;
    if (size > MOST_BYTES)
        return CKR_DATA_LEN_RANGE;
    uint64_t seed = fnv(one->hash, &call->hash, sizeof call->hash);
    CK_RV rv = give(out, length, size, seed, &given);
    if (end == ENDS && (given || (rv != CKR_OK && rv != CKR_BUFFER_TOO_SMALL)))
        one->active = 0;
    else if (end == GOES_ON && given)
        one->hash = seed;
    return rv;
}

static CK_RV absorb(struct call *call, enum kind kind)
{
    struct operation *one = operation(call, kind);
    if (!one->active)
        return CKR_OPERATION_NOT_INITIALIZED;
    one->hash = fnv(one->hash, &call->hash, sizeof call->hash);
    return CKR_OK;
}

static CK_RV verdict(const CK_BYTE *signature, CK_ULONG length)
{
    if (!signature || length != 64)
        return CKR_SIGNATURE_LEN_RANGE;
    return signature[0] == 0xff ? CKR_SIGNATURE_INVALID : CKR_OK;
}

static CK_RV verify(struct call *call, enum kind kind, const CK_BYTE *signature, CK_ULONG length)
{
    TRY(absorb(call, kind));
    operation(call, kind)->active = 0;
    return verdict(signature, length);
}

static CK_RV finish(struct call *call, enum kind kind)
{
    if (!operation(call, kind)->active)
        return CKR_OPERATION_NOT_INITIALIZED;
    operation(call, kind)->active = 0;
    return CKR_OK;
}

/* ---- Objects: with the lock held ------------------------------------------------------------------ */

static void free_template(CK_ATTRIBUTE *template, CK_ULONG count)
{
    for (CK_ULONG i = 0; i < count; i++) {
        if (holds_attributes(&template[i]))
            free_template(template[i].pValue, template[i].ulValueLen / sizeof(CK_ATTRIBUTE));
        else
            free(template[i].pValue);
    }
    free(template);
}

static CK_RV copy_template(const CK_ATTRIBUTE *from, CK_ULONG count, CK_ATTRIBUTE **to, int depth)
{
    if ((!from && count > 0) || count > MOST_ATTRIBUTES)
        return CKR_ARGUMENTS_BAD;
    CK_ATTRIBUTE *copy = calloc(count + 1, sizeof *copy);
    for (CK_ULONG i = 0; i < count; i++) {
        copy[i] = (CK_ATTRIBUTE){ from[i].type, NULL, 0 };
        CK_RV rv = CKR_OK;
        if (depth > 8 || from[i].ulValueLen > MOST_BYTES || (!from[i].pValue && from[i].ulValueLen > 0) ||
            (from[i].type == CKA_CLASS && from[i].ulValueLen != sizeof(CK_OBJECT_CLASS)) ||
            (from[i].type == CKA_TOKEN && from[i].ulValueLen != sizeof(CK_BBOOL)) ||
            (is_template(from[i].type) && from[i].pValue && !holds_attributes(&from[i]))) {
            rv = CKR_ATTRIBUTE_VALUE_INVALID;
        } else if (holds_attributes(&from[i])) {
            CK_ATTRIBUTE *inner = NULL;
            rv = copy_template(from[i].pValue, from[i].ulValueLen / sizeof *from, &inner, depth + 1);
            if (rv == CKR_OK)
                copy[i].pValue = inner;
        } else {
            copy[i].pValue = malloc(from[i].ulValueLen + 1);
            if (from[i].pValue)
                memcpy(copy[i].pValue, from[i].pValue, from[i].ulValueLen);
        }
        if (rv != CKR_OK) {
            free_template(copy, i);
            return rv;
        }
        copy[i].ulValueLen = from[i].ulValueLen;
    }
    *to = copy;
    return CKR_OK;
}

static struct object *object_of(CK_OBJECT_HANDLE handle)
{
    for (CK_ULONG i = 0; i < object_count; i++)
        if (objects[i].handle == handle)
            return &objects[i];
    return NULL;
}

static CK_ATTRIBUTE *attribute_of(CK_ATTRIBUTE *template, CK_ULONG count, CK_ATTRIBUTE_TYPE type)
{
    for (CK_ULONG i = 0; i < count; i++)
        if (template[i].type == type)
            return &template[i];
    return NULL;
}

static CK_OBJECT_HANDLE keep(CK_ATTRIBUTE *template, CK_ULONG count)
{
    if (object_count == object_room)
        objects = realloc(objects, (object_room = 2 * object_room + 64) * sizeof *objects);
    objects[object_count++] = (struct object){ ++last_object, template, count };
    return last_object;
}

static CK_RV create(const CK_ATTRIBUTE *template, CK_ULONG count, CK_OBJECT_HANDLE *handle)
{
    CK_ATTRIBUTE *copy;
    if (!handle)
        return CKR_ARGUMENTS_BAD;
    TRY(copy_template(template, count, &copy, 0));
    *handle = keep(copy, count);
    return CKR_OK;
}

/* A key that a mechanism made shows what it was made of: a value, if its template has none. */
static CK_RV create_key(const CK_ATTRIBUTE *template, CK_ULONG count, CK_OBJECT_HANDLE *handle, uint64_t seed)
{
    TRY(create(template, count, handle));
    struct object *object = &objects[object_count - 1];
    CK_ATTRIBUTE *value = &object->template[object->count];
    if (attribute_of(object->template, object->count, CKA_VALUE))
        return CKR_OK;
    *value = (CK_ATTRIBUTE){ CKA_VALUE, malloc(16), 16 };
    fill(value->pValue, 16, seed);
    object->count++;
    return CKR_OK;
}

static CK_RV change(struct object *object, const CK_ATTRIBUTE *template, CK_ULONG count)
{
    CK_ATTRIBUTE *copy;
    TRY(copy_template(template, count, &copy, 0));
    object->template = realloc(object->template, (object->count + count + 1) * sizeof *copy);
    for (CK_ULONG i = 0; i < count; i++) {
        CK_ATTRIBUTE *old = attribute_of(object->template, object->count, copy[i].type);
        if (!old) {
            object->template[object->count++] = copy[i];
        } else {
            CK_ATTRIBUTE *gone = malloc(sizeof *gone);
            *gone = *old;
            free_template(gone, 1);
            *old = copy[i];
        }
    }
    free(copy);
    return CKR_OK;
}

static CK_RV read_attribute(const CK_ATTRIBUTE *kept, CK_ATTRIBUTE *asked)
{
    CK_RV rv = CKR_OK;
    CK_ULONG room = asked->ulValueLen, inner = kept->ulValueLen / sizeof *kept;
    if (asked->pValue && room < kept->ulValueLen) {
        asked->ulValueLen = UNAVAILABLE;
        return CKR_BUFFER_TOO_SMALL;
    }
    asked->ulValueLen = kept->ulValueLen;
    if (!asked->pValue)
        return CKR_OK;
    if (!holds_attributes(kept)) {
        memcpy(asked->pValue, kept->pValue, kept->ulValueLen);
        return CKR_OK;
    }
    for (CK_ULONG i = 0; i < inner; i++) {
        CK_ATTRIBUTE *to = (CK_ATTRIBUTE *)asked->pValue + i;
        to->type = ((CK_ATTRIBUTE *)kept->pValue)[i].type;
        CK_RV one = read_attribute((CK_ATTRIBUTE *)kept->pValue + i, to);
        rv = rv == CKR_OK ? one : rv;
    }
    return rv;
}

static CK_RV read_attributes(struct object *object, CK_ATTRIBUTE *template, CK_ULONG count)
{
    CK_ATTRIBUTE *sensitive = attribute_of(object->template, object->count, CKA_SENSITIVE);
    int hidden = sensitive && sensitive->ulValueLen == 1 && *(CK_BBOOL *)sensitive->pValue;
    CK_RV rv = CKR_OK;
    for (CK_ULONG i = 0; i < count; i++) {
        CK_ATTRIBUTE *kept = attribute_of(object->template, object->count, template[i].type);
        CK_RV one = !kept ? CKR_ATTRIBUTE_TYPE_INVALID
                    : hidden && template[i].type == CKA_VALUE ? CKR_ATTRIBUTE_SENSITIVE : CKR_OK;
        if (one != CKR_OK)
            template[i].ulValueLen = UNAVAILABLE;
        else
            one = read_attribute(kept, &template[i]);
        rv = rv == CKR_OK ? one : rv;
    }
    return rv;
}

static int equal(const CK_ATTRIBUTE *kept, const CK_ATTRIBUTE *sought)
{
    if (kept->ulValueLen != sought->ulValueLen || (!sought->pValue && sought->ulValueLen))
        return 0;
    if (!holds_attributes(kept))
        return kept->ulValueLen == 0 || memcmp(kept->pValue, sought->pValue, kept->ulValueLen) == 0;
    for (CK_ULONG i = 0; i < kept->ulValueLen / sizeof *kept; i++) {
        const CK_ATTRIBUTE *a = (CK_ATTRIBUTE *)kept->pValue + i, *b = (CK_ATTRIBUTE *)sought->pValue + i;
        if (a->type != b->type || !equal(a, b))
            return 0;
    }
    return 1;
}

static int matches(struct object *object, CK_ATTRIBUTE *template, CK_ULONG count)
{
    for (CK_ULONG i = 0; i < count; i++) {
        CK_ATTRIBUTE *kept = attribute_of(object->template, object->count, template[i].type);
        if (!kept || !equal(kept, &template[i]))
            return 0;
    }
    return 1;
}

#define LOCKED(expression) (pthread_mutex_lock(&lock), locked_rv = (expression), pthread_mutex_unlock(&lock), locked_rv)
static _Thread_local CK_RV locked_rv;

/* ---- What a module writes into parameters ---------------------------------------------------------- */

/* An IV of which the first `fixed` bits are the application's. */
static void generate_iv(CK_BYTE *iv, CK_ULONG length, CK_ULONG fixed, CK_GENERATOR_FUNCTION generator, uint64_t seed)
{
    CK_BYTE made[256];
    if (!iv || generator == CKG_NO_GENERATE || length > sizeof made)
        return;
    fill(made, length, seed);
    for (CK_ULONG i = 0; i < length; i++) {
        CK_BYTE mask = fixed >= 8 * (i + 1) ? 0 : fixed <= 8 * i ? 0xff : (CK_BYTE)(0xff >> (fixed - 8 * i));
        iv[i] = (CK_BYTE)((iv[i] & ~mask) | (made[i] & mask));
    }
}

static void write_message(CK_MECHANISM_TYPE type, void *parameter, CK_ULONG length, int iv, int tag, uint64_t seed)
{
    const struct layout *layout = layout_of(type, length, MESSAGE);
    if (!parameter || !layout || layout->size != length)
        return;
    if (layout == IS(CK_GCM_MESSAGE_PARAMS)) {
        CK_GCM_MESSAGE_PARAMS *gcm = parameter;
        if (iv)
            generate_iv(gcm->pIv, gcm->ulIvLen, gcm->ulIvFixedBits, gcm->ivGenerator, seed);
        if (tag && gcm->pTag && gcm->ulTagBits <= 256)
            fill(gcm->pTag, (gcm->ulTagBits + 7) / 8, seed + 1);
    } else if (layout == IS(CK_CCM_MESSAGE_PARAMS)) {
        CK_CCM_MESSAGE_PARAMS *ccm = parameter;
        if (iv)
            generate_iv(ccm->pNonce, ccm->ulNonceLen, ccm->ulNonceFixedBits, ccm->nonceGenerator, seed);
        if (tag && ccm->pMAC && ccm->ulMACLen <= 32)
            fill(ccm->pMAC, ccm->ulMACLen, seed + 1);
    } else if (layout == IS(CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS)) {
        CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS *poly = parameter;
        if (tag && poly->pTag)
            fill(poly->pTag, 16, seed + 1);
    }
}

static void write_wrapping(CK_MECHANISM *mechanism, uint64_t seed)
{
    const struct layout *layout = layout_of(mechanism->mechanism, mechanism->ulParameterLen, WRAPPING);
    if (mechanism->pParameter && layout == IS(CK_GCM_WRAP_PARAMS)) {
        CK_GCM_WRAP_PARAMS *gcm = mechanism->pParameter;
        generate_iv(gcm->pIv, gcm->ulIvLen, gcm->ulIvFixedBits, gcm->ivGenerator, seed);
    } else if (mechanism->pParameter && layout == IS(CK_CCM_WRAP_PARAMS)) {
        CK_CCM_WRAP_PARAMS *ccm = mechanism->pParameter;
        generate_iv(ccm->pNonce, ccm->ulNonceLen, ccm->ulNonceFixedBits, ccm->nonceGenerator, seed);
    }
}

static void write_version(CK_VERSION *version)
{
    if (version)
        *version = (CK_VERSION){ 3, 3 };
}

static CK_RV write_prf(CK_BYTE *out, CK_ULONG *length, uint64_t seed)
{
    if (!out || !length || *length > 4096)
        return CKR_MECHANISM_PARAM_INVALID;
    fill(out, *length, seed);
    return CKR_OK;
}

static CK_RV write_keys(CK_DERIVED_KEY *keys, CK_ULONG count, uint64_t seed)
{
    for (CK_ULONG i = 0; keys && i < count && count <= MOST_ATTRIBUTES; i++)
        TRY(create_key(keys[i].pTemplate, keys[i].ulAttributeCount, keys[i].phKey, seed + i));
    return CKR_OK;
}

/* The four keys and two IVs of SSL and TLS; the IVs have `bits` bits. */
static CK_RV write_material(CK_SSL3_KEY_MAT_OUT *out, CK_ULONG bits, uint64_t seed)
{
    if (!out || bits > 2048)
        return CKR_MECHANISM_PARAM_INVALID;
    TRY(create(NULL, 0, &out->hClientMacSecret));
    TRY(create(NULL, 0, &out->hServerMacSecret));
    TRY(create(NULL, 0, &out->hClientKey));
    TRY(create(NULL, 0, &out->hServerKey));
    if (out->pIVClient)
        fill(out->pIVClient, (bits + 7) / 8, seed);
    if (out->pIVServer)
        fill(out->pIVServer, (bits + 7) / 8, seed + 1);
    return CKR_OK;
}

/* C_DeriveKey. What is derived into the parameter alone has no key of its own. */
static CK_RV derive(CK_MECHANISM *mechanism, CK_ATTRIBUTE *template, CK_ULONG count, CK_OBJECT_HANDLE *key, uint64_t seed)
{
    void *parameter = mechanism ? mechanism->pParameter : NULL;
    const struct layout *layout = mechanism ? layout_of(mechanism->mechanism, mechanism->ulParameterLen, PLAIN) : NULL;
    if (!mechanism)
        return CKR_ARGUMENTS_BAD;
    if (parameter && layout && layout->size == mechanism->ulParameterLen) {
        if (layout == IS(CK_SSL3_KEY_MAT_PARAMS)) {
            CK_SSL3_KEY_MAT_PARAMS *p = parameter;
            return write_material(p->pReturnedKeyMaterial, p->ulIVSizeInBits, seed);
        }
        if (layout == IS(CK_TLS12_KEY_MAT_PARAMS)) {
            CK_TLS12_KEY_MAT_PARAMS *p = parameter;
            return write_material(p->pReturnedKeyMaterial, p->ulIVSizeInBits, seed);
        }
        if (layout == IS(CK_TLS12_KEY_SAFE_PARAMS)) {
            CK_TLS12_KEY_SAFE_PARAMS *p = parameter;
            return write_material(p->pReturnedKeyMaterial, 0, seed);
        }
        if (layout == IS(CK_WTLS_KEY_MAT_PARAMS)) {
            CK_WTLS_KEY_MAT_PARAMS *p = parameter;
            CK_WTLS_KEY_MAT_OUT *out = p->pReturnedKeyMaterial;
            if (!out || p->ulIVSizeInBits > 2048)
                return CKR_MECHANISM_PARAM_INVALID;
            TRY(create(NULL, 0, &out->hMacSecret));
            TRY(create(NULL, 0, &out->hKey));
            if (out->pIV)
                fill(out->pIV, (p->ulIVSizeInBits + 7) / 8, seed);
            return CKR_OK;
        }
        if (layout == IS(CK_TLS_PRF_PARAMS)) {
            CK_TLS_PRF_PARAMS *p = parameter;
            return write_prf(p->pOutput, p->pulOutputLen, seed);
        }
        if (layout == IS(CK_WTLS_PRF_PARAMS)) {
            CK_WTLS_PRF_PARAMS *p = parameter;
            return write_prf(p->pOutput, p->pulOutputLen, seed);
        }
    }
    TRY(create_key(template, count, key, seed));
    if (!parameter || !layout || layout->size != mechanism->ulParameterLen)
        return CKR_OK;
    if (layout == IS(CK_SSL3_MASTER_KEY_DERIVE_PARAMS))
        write_version(((CK_SSL3_MASTER_KEY_DERIVE_PARAMS *)parameter)->pVersion);
    else if (layout == IS(CK_TLS12_MASTER_KEY_DERIVE_PARAMS))
        write_version(((CK_TLS12_MASTER_KEY_DERIVE_PARAMS *)parameter)->pVersion);
    else if (layout == IS(CK_TLS12_EXTENDED_MASTER_KEY_DERIVE_PARAMS))
        write_version(((CK_TLS12_EXTENDED_MASTER_KEY_DERIVE_PARAMS *)parameter)->pVersion);
    else if (layout == IS(CK_WTLS_MASTER_KEY_DERIVE_PARAMS) && ((CK_WTLS_MASTER_KEY_DERIVE_PARAMS *)parameter)->pVersion)
        *((CK_WTLS_MASTER_KEY_DERIVE_PARAMS *)parameter)->pVersion = 1;
    else if (layout == IS(CK_SP800_108_KDF_PARAMS))
        return write_keys(((CK_SP800_108_KDF_PARAMS *)parameter)->pAdditionalDerivedKeys,
                          ((CK_SP800_108_KDF_PARAMS *)parameter)->ulAdditionalDerivedKeys, seed);
    else if (layout == IS(CK_SP800_108_FEEDBACK_KDF_PARAMS))
        return write_keys(((CK_SP800_108_FEEDBACK_KDF_PARAMS *)parameter)->pAdditionalDerivedKeys,
                          ((CK_SP800_108_FEEDBACK_KDF_PARAMS *)parameter)->ulAdditionalDerivedKeys, seed);
    return CKR_OK;
}

static CK_RV generate(CK_MECHANISM *mechanism, CK_ATTRIBUTE *template, CK_ULONG count, CK_OBJECT_HANDLE *key, uint64_t seed)
{
    if (!mechanism)
        return CKR_ARGUMENTS_BAD;
    TRY(create_key(template, count, key, seed));
    CK_PBE_PARAMS *pbe = mechanism->pParameter;
    if (pbe && layout_of(mechanism->mechanism, sizeof *pbe, PLAIN) == IS(CK_PBE_PARAMS) &&
        mechanism->ulParameterLen == sizeof *pbe && pbe->pInitVector)
        fill(pbe->pInitVector, 8, seed);
    return CKR_OK;
}

/* ---- Asynchronous sessions --------------------------------------------------------------------------- */

static int is_asynchronous(struct call *call) { return call->session && call->session->flags & CKF_ASYNC_SESSION; }

static CK_RV postpone(struct call *call, CK_BYTE *room, CK_ULONG size, CK_OBJECT_HANDLE first, CK_OBJECT_HANDLE second)
{
    snprintf(call->session->pending.function, sizeof call->session->pending.function, "%s", call->name);
    call->session->pending.polls = 0;
    call->session->pending.hash = call->hash;
    call->session->pending.room = room;
    call->session->pending.size = size;
    call->session->pending.objects[0] = first;
    call->session->pending.objects[1] = second;
    return CKR_PENDING;
}

static int is_pending(struct call *call, const CK_UTF8CHAR *function)
{
    return function && call->session->pending.function[0] && strcmp((const char *)function, call->session->pending.function) == 0;
}

static CK_RV complete(struct call *call, const CK_UTF8CHAR *function, CK_ASYNC_DATA *result)
{
    if (!is_pending(call, function))
        return CKR_OPERATION_NOT_INITIALIZED;
    if (!result || result->ulVersion != 0)
        return CKR_ARGUMENTS_BAD;
    if (call->session->pending.polls++ == 0)
        return CKR_PENDING;
    if (call->session->pending.room)
        fill(call->session->pending.room, call->session->pending.size, call->session->pending.hash);
    result->pValue = call->session->pending.room;
    result->ulValue = call->session->pending.size;
    result->hObject = call->session->pending.objects[0];
    result->hAdditionalObject = call->session->pending.objects[1];
    call->session->pending.function[0] = 0;
    return CKR_OK;
}

/* ---- General, slots, sessions --------------------------------------------------------------------------- */

static void pad(CK_BYTE *field, size_t size, const char *content)
{
    memset(field, ' ', size);
    memcpy(field, content, strlen(content));
}

CK_RV C_Initialize(void *arguments)
{
    BEGIN(C_Initialize);
    CK_C_INITIALIZE_ARGS *given = arguments;
    int functions = 0;
    if (!given) {
        put(&call.line, " pInitArgs=NULL");
    } else {
        functions = !!given->CreateMutex + !!given->DestroyMutex + !!given->LockMutex + !!given->UnlockMutex;
        put(&call.line, " pInitArgs=(functions=%d flags=0x%lx pReserved=", functions, given->flags);
        if (given->pReserved)
            put(&call.line, "\"%.1000s\")", (const char *)given->pReserved);
        else
            put(&call.line, "NULL)");
    }
    int wanted = given && (functions == 4 || given->flags & CKF_OS_LOCKING_OK);
    if (enter(&call)) {
        if (functions != 0 && functions != 4)
            call.rv = CKR_ARGUMENTS_BAD;
        else if (wanted && script.cant_lock)
            call.rv = CKR_CANT_LOCK;
        else if (atomic_exchange(&initialized, 1))
            call.rv = CKR_CRYPTOKI_ALREADY_INITIALIZED;
        else {
            threads = wanted;
            initializations++;
        }
    }
    return leave(&call);
}

CK_RV C_Finalize(void *reserved)
{
    BEGIN(C_Finalize);
    put(&call.line, " pReserved=%s", reserved ? "set" : "NULL");
    if (enter(&call)) {
        if (running - 1 - waiting > 0)
            record_line("OVERLAP C_Finalize session=0: other calls run\n");
        if (reserved) {
            call.rv = CKR_ARGUMENTS_BAD;
            return leave(&call);
        }
        pthread_mutex_lock(&lock);
        for (CK_ULONG i = 0; i < object_count; i++)
            free_template(objects[i].template, objects[i].count);
        free(objects);
        objects = NULL, object_count = object_room = 0;
        last_object = last_session = 0, logged_in = 0;
        for (size_t i = 0; i < MOST_SESSIONS; i++) {
            free(sessions[i].found);
            memset(sessions[i].operations, 0, sizeof sessions[i].operations);
            sessions[i].found = NULL, sessions[i].open = 0;
        }
        initialized = 0;
        threads = 0;
        record_line("C_Finalize returns: at most %d calls ran at once\n", atomic_exchange(&most_running, 0));
        pthread_cond_broadcast(&finalized);
        pthread_mutex_unlock(&lock);
    }
    return leave(&call);
}

CK_RV C_GetInfo(CK_INFO *info)
{
    BEGIN(C_GetInfo);
    VALUE_OUT("pInfo", info);
    if (enter(&call)) {
        if (!info) {
            call.rv = CKR_ARGUMENTS_BAD;
        } else {
            *info = (CK_INFO){ .cryptokiVersion = highest, .libraryVersion = { 7, 9 } };
            pad(info->manufacturerID, 32, "recorder");
            pad(info->libraryDescription, 32, "records what it is called with");
        }
    }
    return leave(&call);
}

CK_RV C_GetSlotList(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    static const CK_SLOT_ID all[] = { TOKEN_SLOT, EMPTY_SLOT };
    BEGIN(C_GetSlotList);
    NUMBER_IN("tokenPresent", present);
    ROOM_FOR("pSlotList", slots, count);
    if (enter(&call)) {
        CK_ULONG room = count ? *count : 0, wanted = present ? 1 : 2;
        if (!count)
            call.rv = CKR_ARGUMENTS_BAD;
        else if ((*count = wanted) > room && slots)
            call.rv = CKR_BUFFER_TOO_SMALL;
        else if (slots)
            memcpy(slots, all, wanted * sizeof *slots);
    }
    return leave(&call);
}

CK_RV C_GetSlotInfo(CK_SLOT_ID slot, CK_SLOT_INFO *info)
{
    BEGIN(C_GetSlotInfo);
    NUMBER_IN("slotID", slot);
    VALUE_OUT("pInfo", info);
    if (enter(&call)) {
        if (!info) {
            call.rv = CKR_ARGUMENTS_BAD;
        } else if (slot != TOKEN_SLOT && slot != EMPTY_SLOT) {
            call.rv = CKR_SLOT_ID_INVALID;
        } else {
            *info = (CK_SLOT_INFO){ .hardwareVersion = { 1, 2 }, .firmwareVersion = { 3, 4 },
                                    .flags = CKF_REMOVABLE_DEVICE | (slot == TOKEN_SLOT ? CKF_TOKEN_PRESENT : 0) };
            pad(info->slotDescription, 64, slot == TOKEN_SLOT ? "a slot" : "an empty slot");
            pad(info->manufacturerID, 32, "recorder");
        }
    }
    return leave(&call);
}

CK_RV C_GetTokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
    BEGIN(C_GetTokenInfo);
    NUMBER_IN("slotID", slot);
    VALUE_OUT("pInfo", info);
    if (enter(&call)) {
        if (!info) {
            call.rv = CKR_ARGUMENTS_BAD;
        } else if (slot != TOKEN_SLOT) {
            call.rv = slot == EMPTY_SLOT ? CKR_TOKEN_NOT_PRESENT : CKR_SLOT_ID_INVALID;
        } else {
            *info = (CK_TOKEN_INFO){
                .flags = CKF_RNG | CKF_LOGIN_REQUIRED | CKF_USER_PIN_INITIALIZED | CKF_TOKEN_INITIALIZED,
                .ulMaxSessionCount = CK_EFFECTIVELY_INFINITE, .ulSessionCount = UNAVAILABLE, .ulMaxRwSessionCount = MOST_SESSIONS,
                .ulRwSessionCount = UNAVAILABLE, .ulMaxPinLen = 255, .ulMinPinLen = 4, .ulTotalPublicMemory = UNAVAILABLE,
                .ulFreePublicMemory = 0x123456789aUL, .ulTotalPrivateMemory = 0xffffffffUL, .ulFreePrivateMemory = UNAVAILABLE,
                .hardwareVersion = { 5, 6 }, .firmwareVersion = { 7, 8 },
            };
            pad(info->label, 32, "recorder");
            pad(info->manufacturerID, 32, "recorder");
            pad(info->model, 16, "recorder");
            pad(info->serialNumber, 16, "0123456789abcdef");
            pad(info->utcTime, 16, "2026010203040500");
        }
    }
    return leave(&call);
}

static const CK_MECHANISM_TYPE WITHOUT_STRUCTURE[] = {
    CKM_RSA_PKCS_KEY_PAIR_GEN, CKM_RSA_PKCS, CKM_SHA256, CKM_SHA256_HMAC, CKM_GENERIC_SECRET_KEY_GEN, CKM_EC_KEY_PAIR_GEN,
    CKM_ECDSA, CKM_AES_KEY_GEN, CKM_AES_ECB, CKM_AES_CBC, CKM_AES_CBC_PAD, CKM_AES_KEY_WRAP, CKM_ML_KEM_KEY_PAIR_GEN, CKM_ML_KEM,
};

CK_RV C_GetMechanismList(CK_SLOT_ID slot, CK_MECHANISM_TYPE *list, CK_ULONG *count)
{
    BEGIN(C_GetMechanismList);
    NUMBER_IN("slotID", slot);
    ROOM_FOR("pMechanismList", list, count);
    if (enter(&call)) {
        CK_ULONG room = count ? *count : 0, plain = COUNT(WITHOUT_STRUCTURE), wanted = plain + COUNT(MECHANISMS);
        if (!count) {
            call.rv = CKR_ARGUMENTS_BAD;
        } else if (slot != TOKEN_SLOT) {
            call.rv = slot == EMPTY_SLOT ? CKR_TOKEN_NOT_PRESENT : CKR_SLOT_ID_INVALID;
        } else if ((*count = wanted) > room && list) {
            call.rv = CKR_BUFFER_TOO_SMALL;
        } else if (list) {
            for (CK_ULONG i = 0; i < wanted; i++)
                list[i] = i < plain ? WITHOUT_STRUCTURE[i] : MECHANISMS[i - plain].first;
        }
    }
    return leave(&call);
}

CK_RV C_GetMechanismInfo(CK_SLOT_ID slot, CK_MECHANISM_TYPE type, CK_MECHANISM_INFO *info)
{
    BEGIN(C_GetMechanismInfo);
    NUMBER_IN("slotID", slot);
    NUMBER_IN("type", type);
    VALUE_OUT("pInfo", info);
    if (enter(&call)) {
        if (!info)
            call.rv = CKR_ARGUMENTS_BAD;
        else if (slot != TOKEN_SLOT)
            call.rv = slot == EMPTY_SLOT ? CKR_TOKEN_NOT_PRESENT : CKR_SLOT_ID_INVALID;
        else
            *info = (CK_MECHANISM_INFO){ 16 + type % 7, 32 + type % 1000, (call.hash & 0x3fffff00) | CKF_MESSAGE_ENCRYPT };
    }
    return leave(&call);
}

CK_RV C_InitToken(CK_SLOT_ID slot, CK_UTF8CHAR *pin, CK_ULONG length, CK_UTF8CHAR *label)
{
    BEGIN(C_InitToken);
    NUMBER_IN("slotID", slot);
    BYTES_IN("pPin", pin, length);
    BYTES_IN("pLabel", label, label ? 32 : 0);
    RUN(slot == TOKEN_SLOT ? CKR_OK : CKR_SLOT_ID_INVALID);
}

CK_RV C_InitPIN(CK_SESSION_HANDLE session, CK_UTF8CHAR *pin, CK_ULONG length)
{
    BEGIN_IN(C_InitPIN, session);
    BYTES_IN("pPin", pin, length);
    RUN(logged_in == 1 + (int)CKU_SO ? CKR_OK : CKR_USER_NOT_LOGGED_IN);
}

CK_RV C_SetPIN(CK_SESSION_HANDLE session, CK_UTF8CHAR *old, CK_ULONG old_length, CK_UTF8CHAR *new, CK_ULONG new_length)
{
    BEGIN_IN(C_SetPIN, session);
    BYTES_IN("pOldPin", old, old_length);
    BYTES_IN("pNewPin", new, new_length);
    RUN(old && (old_length != 4 || memcmp(old, "1234", 4) != 0) ? CKR_PIN_INCORRECT : CKR_OK);
}

static CK_RV open_one(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE *handle)
{
    if (!handle)
        return CKR_ARGUMENTS_BAD;
    if (slot != TOKEN_SLOT)
        return slot == EMPTY_SLOT ? CKR_TOKEN_NOT_PRESENT : CKR_SLOT_ID_INVALID;
    if (!(flags & CKF_SERIAL_SESSION))
        return CKR_SESSION_PARALLEL_NOT_SUPPORTED;
    for (size_t i = 0; i < MOST_SESSIONS; i++)
        if (!sessions[i].open) {
            free(sessions[i].found);
            memset(sessions[i].operations, 0, sizeof sessions[i].operations);
            sessions[i].found = NULL, sessions[i].pending.function[0] = 0;
            sessions[i].slot = slot, sessions[i].flags = flags;
            sessions[i].notify = notify, sessions[i].application = application;
            *handle = sessions[i].handle = ++last_session;
            sessions[i].open = 1;
            return CKR_OK;
        }
    return CKR_SESSION_COUNT;
}

CK_RV C_OpenSession(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE *handle)
{
    BEGIN(C_OpenSession);
    NUMBER_IN("slotID", slot);
    NUMBER_IN("flags", flags);
    put(&call.line, " pApplication=%s Notify=%s", application ? "set" : "NULL", notify ? "set" : "NULL");
    VALUE_OUT("phSession", handle);
    RUN(LOCKED(open_one(slot, flags, application, notify, handle)));
}

static CK_RV close_sessions(struct session *only)
{
    int left = 0;
    for (size_t i = 0; i < MOST_SESSIONS; i++) {
        if (!only || &sessions[i] == only)
            sessions[i].open = 0;
        left |= sessions[i].open;
    }
    logged_in = left ? logged_in : 0;
    return CKR_OK;
}

CK_RV C_CloseSession(CK_SESSION_HANDLE session)
{
    BEGIN_IN(C_CloseSession, session);
    RUN(LOCKED(close_sessions(call.session)));
}

CK_RV C_CloseAllSessions(CK_SLOT_ID slot)
{
    BEGIN(C_CloseAllSessions);
    NUMBER_IN("slotID", slot);
    RUN(slot == TOKEN_SLOT ? LOCKED(close_sessions(NULL)) : CKR_SLOT_ID_INVALID);
}

CK_RV C_GetSessionInfo(CK_SESSION_HANDLE session, CK_SESSION_INFO *info)
{
    BEGIN_IN(C_GetSessionInfo, session);
    VALUE_OUT("pInfo", info);
    if (enter(&call)) {
        int writes = call.session->flags & CKF_RW_SESSION;
        if (!info)
            call.rv = CKR_ARGUMENTS_BAD;
        else
            *info = (CK_SESSION_INFO){
                call.session->slot,
                logged_in == 1 + (int)CKU_SO ? CKS_RW_SO_FUNCTIONS
                : logged_in ? (writes ? CKS_RW_USER_FUNCTIONS : CKS_RO_USER_FUNCTIONS)
                            : (writes ? CKS_RW_PUBLIC_SESSION : CKS_RO_PUBLIC_SESSION),
                call.session->flags, 0x4711,
            };
    }
    return leave(&call);
}

CK_RV C_GetOperationState(CK_SESSION_HANDLE session, CK_BYTE *state, CK_ULONG *length)
{
    BEGIN_IN(C_GetOperationState, session);
    ROOM_FOR("pOperationState", state, length);
    int given;
    RUN(give(state, length, 40, call.hash, &given));
}

CK_RV C_SetOperationState(CK_SESSION_HANDLE session, CK_BYTE *state, CK_ULONG length, CK_OBJECT_HANDLE encryption, CK_OBJECT_HANDLE authentication)
{
    BEGIN_IN(C_SetOperationState, session);
    BYTES_IN("pOperationState", state, length);
    OBJECT_IN("hEncryptionKey", encryption);
    OBJECT_IN("hAuthenticationKey", authentication);
    if (enter(&call)) {
        if (!state || length != 40)
            call.rv = CKR_SAVED_STATE_INVALID;
        else
            for (enum kind kind = MESSAGE_ENCRYPT; kind <= MESSAGE_VERIFY; kind++)
                operation(&call, kind)->active = 0;
    }
    return leave(&call);
}

static CK_RV login(CK_USER_TYPE user, const CK_UTF8CHAR *pin, CK_ULONG length)
{
    const char *right = user == CKU_SO ? "12345678" : "1234";
    if (user > CKU_CONTEXT_SPECIFIC)
        return CKR_USER_TYPE_INVALID;
    if (logged_in && user != CKU_CONTEXT_SPECIFIC)
        return logged_in == 1 + (int)user ? CKR_USER_ALREADY_LOGGED_IN : CKR_USER_ANOTHER_ALREADY_LOGGED_IN;
    if (pin && (length != strlen(right) || memcmp(pin, right, length) != 0))
        return CKR_PIN_INCORRECT;
    if (user != CKU_CONTEXT_SPECIFIC)
        logged_in = 1 + (int)user;
    return CKR_OK;
}

CK_RV C_Login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR *pin, CK_ULONG length)
{
    BEGIN_IN(C_Login, session);
    NUMBER_IN("userType", user);
    BYTES_IN("pPin", pin, length);
    RUN(LOCKED(login(user, pin, length)));
}

CK_RV C_LoginUser(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR *pin, CK_ULONG length, CK_UTF8CHAR *name, CK_ULONG name_length)
{
    BEGIN_IN(C_LoginUser, session);
    NUMBER_IN("userType", user);
    BYTES_IN("pPin", pin, length);
    BYTES_IN("pUsername", name, name_length);
    RUN(LOCKED(login(user, pin, length)));
}

CK_RV C_Logout(CK_SESSION_HANDLE session)
{
    BEGIN_IN(C_Logout, session);
    if (enter(&call)) {
        pthread_mutex_lock(&lock);
        call.rv = logged_in ? CKR_OK : CKR_USER_NOT_LOGGED_IN;
        logged_in = 0;
        pthread_mutex_unlock(&lock);
    }
    return leave(&call);
}

CK_RV C_SessionCancel(CK_SESSION_HANDLE session, CK_FLAGS flags)
{
    static const struct { CK_FLAGS flag; enum kind kind; } CANCELS[] = {
        { CKF_ENCRYPT, ENCRYPT }, { CKF_DECRYPT, DECRYPT }, { CKF_DIGEST, DIGEST }, { CKF_SIGN, SIGN },
        { CKF_SIGN_RECOVER, SIGN_RECOVER }, { CKF_VERIFY, VERIFY }, { CKF_VERIFY, VERIFY_SIGNATURE },
        { CKF_VERIFY_RECOVER, VERIFY_RECOVER }, { CKF_MESSAGE_ENCRYPT, MESSAGE_ENCRYPT }, { CKF_MESSAGE_DECRYPT, MESSAGE_DECRYPT },
        { CKF_MESSAGE_SIGN, MESSAGE_SIGN }, { CKF_MESSAGE_VERIFY, MESSAGE_VERIFY }, { CKF_FIND_OBJECTS, FIND },
    };
    BEGIN_IN(C_SessionCancel, session);
    call.beside_others = 1;
    NUMBER_IN("flags", flags);
    if (enter(&call))
        for (size_t i = 0; i < COUNT(CANCELS); i++)
            if (flags & CANCELS[i].flag)
                operation(&call, CANCELS[i].kind)->active = 0;
    return leave(&call);
}

CK_RV C_GetSessionValidationFlags(CK_SESSION_HANDLE session, CK_SESSION_VALIDATION_FLAGS_TYPE type, CK_FLAGS *flags)
{
    BEGIN_IN(C_GetSessionValidationFlags, session);
    NUMBER_IN("type", type);
    VALUE_OUT("pFlags", flags);
    if (enter(&call)) {
        if (!flags)
            call.rv = CKR_ARGUMENTS_BAD;
        else
            *flags = 0x600000000UL + type;
    }
    return leave(&call);
}

/* ---- Objects ------------------------------------------------------------------------------------------- */

CK_RV C_CreateObject(CK_SESSION_HANDLE session, CK_ATTRIBUTE *template, CK_ULONG count, CK_OBJECT_HANDLE *object)
{
    BEGIN_IN(C_CreateObject, session);
    TEMPLATE_IN("pTemplate", template, count);
    VALUE_OUT("phObject", object);
    RUN(LOCKED(create(template, count, object)));
}

static CK_RV copy(CK_OBJECT_HANDLE from, CK_ATTRIBUTE *template, CK_ULONG count, CK_OBJECT_HANDLE *to)
{
    struct object *source = object_of(from);
    if (!source)
        return CKR_OBJECT_HANDLE_INVALID;
    CK_OBJECT_HANDLE made;
    if (!to)
        return CKR_ARGUMENTS_BAD;
    TRY(create(source->template, source->count, &made));
    CK_RV rv = change(object_of(made), template, count);
    if (rv == CKR_OK) {
        *to = made;
    } else {
        free_template(objects[object_count - 1].template, objects[object_count - 1].count);
        object_count--, last_object--;
    }
    return rv;
}

CK_RV C_CopyObject(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *template, CK_ULONG count, CK_OBJECT_HANDLE *copied)
{
    BEGIN_IN(C_CopyObject, session);
    OBJECT_IN("hObject", object);
    TEMPLATE_IN("pTemplate", template, count);
    VALUE_OUT("phNewObject", copied);
    RUN(LOCKED(copy(object, template, count, copied)));
}

static CK_RV destroy(CK_OBJECT_HANDLE handle)
{
    struct object *object = object_of(handle);
    if (!object)
        return CKR_OBJECT_HANDLE_INVALID;
    free_template(object->template, object->count);
    memmove(object, object + 1, (size_t)(objects + --object_count - object) * sizeof *object);
    return CKR_OK;
}

CK_RV C_DestroyObject(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object)
{
    BEGIN_IN(C_DestroyObject, session);
    OBJECT_IN("hObject", object);
    RUN(LOCKED(destroy(object)));
}

static CK_RV size_of(CK_OBJECT_HANDLE handle, CK_ULONG *size)
{
    struct object *object = object_of(handle);
    if (!object)
        return CKR_OBJECT_HANDLE_INVALID;
    if (!size)
        return CKR_ARGUMENTS_BAD;
    *size = object->count == 0 ? UNAVAILABLE : 100 + object->count;
    return CKR_OK;
}

CK_RV C_GetObjectSize(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ULONG *size)
{
    BEGIN_IN(C_GetObjectSize, session);
    OBJECT_IN("hObject", object);
    VALUE_OUT("pulSize", size);
    RUN(LOCKED(size_of(object, size)));
}

static CK_RV read_object(CK_OBJECT_HANDLE handle, CK_ATTRIBUTE *template, CK_ULONG count)
{
    struct object *object = object_of(handle);
    if ((!template && count > 0) || count > MOST_ATTRIBUTES)
        return CKR_ARGUMENTS_BAD;
    return object ? read_attributes(object, template, count) : CKR_OBJECT_HANDLE_INVALID;
}

CK_RV C_GetAttributeValue(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *template, CK_ULONG count)
{
    BEGIN_IN(C_GetAttributeValue, session);
    OBJECT_IN("hObject", object);
    ROOMS_IN("pTemplate", template, count);
    RUN(LOCKED(read_object(object, template, count)));
}

CK_RV C_SetAttributeValue(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *template, CK_ULONG count)
{
    BEGIN_IN(C_SetAttributeValue, session);
    OBJECT_IN("hObject", object);
    TEMPLATE_IN("pTemplate", template, count);
    RUN(LOCKED(object_of(object) ? change(object_of(object), template, count) : CKR_OBJECT_HANDLE_INVALID));
}

static CK_RV find(struct session *session, CK_ATTRIBUTE *template, CK_ULONG count)
{
    if ((!template && count > 0) || count > MOST_ATTRIBUTES)
        return CKR_ARGUMENTS_BAD;
    if (session->operations[FIND].active)
        return CKR_OPERATION_ACTIVE;
    free(session->found);
    session->found = calloc(object_count + 1, sizeof *session->found);
    session->found_count = session->found_given = 0;
    for (CK_ULONG i = 0; i < object_count; i++)
        if (matches(&objects[i], template, count))
            session->found[session->found_count++] = objects[i].handle;
    session->operations[FIND].active = 1;
    return CKR_OK;
}

CK_RV C_FindObjectsInit(CK_SESSION_HANDLE session, CK_ATTRIBUTE *template, CK_ULONG count)
{
    BEGIN_IN(C_FindObjectsInit, session);
    TEMPLATE_IN("pTemplate", template, count);
    RUN(LOCKED(find(call.session, template, count)));
}

CK_RV C_FindObjects(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *found, CK_ULONG room, CK_ULONG *count)
{
    BEGIN_IN(C_FindObjects, session);
    put(&call.line, " phObject="), put_room(&call.line, found, room);
    VALUE_OUT("pulObjectCount", count);
    if (enter(&call)) {
        struct session *in = call.session;
        if (!count || (!found && room > 0)) {
            call.rv = CKR_ARGUMENTS_BAD;
        } else if (!in->operations[FIND].active) {
            call.rv = CKR_OPERATION_NOT_INITIALIZED;
        } else {
            CK_ULONG left = in->found_count - in->found_given;
            *count = left < room ? left : room;
            if (*count)
                memcpy(found, in->found + in->found_given, *count * sizeof *found);
            in->found_given += *count;
        }
    }
    return leave(&call);
}

CK_RV C_FindObjectsFinal(CK_SESSION_HANDLE session)
{
    BEGIN_IN(C_FindObjectsFinal, session);
    RUN(finish(&call, FIND));
}

/* ---- Operations ------------------------------------------------------------------------------------------ */

#define INIT(function, kind) \
    CK_RV function(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key) \
    { \
        BEGIN_IN(function, session); \
        MECHANISM_IN(mechanism, PLAIN); \
        OBJECT_IN("hKey", key); \
        RUN(begin(&call, kind, mechanism)); \
    }
#define TRANSFORM(function, kind, in_name, out_name, size, end) \
    CK_RV function(CK_SESSION_HANDLE session, CK_BYTE *in, CK_ULONG count, CK_BYTE *out, CK_ULONG *length) \
    { \
        BEGIN_IN(function, session); \
        BYTES_IN(in_name, in, count); \
        ROOM_FOR(out_name, out, length); \
        RUN(answer(&call, kind, out, length, size, end)); \
    }
#define LAST(function, kind, out_name, size) \
    CK_RV function(CK_SESSION_HANDLE session, CK_BYTE *out, CK_ULONG *length) \
    { \
        BEGIN_IN(function, session); \
        ROOM_FOR(out_name, out, length); \
        RUN(answer(&call, kind, out, length, size, ENDS)); \
    }
#define UPDATE(function, kind, in_name) \
    CK_RV function(CK_SESSION_HANDLE session, CK_BYTE *in, CK_ULONG count) \
    { \
        BEGIN_IN(function, session); \
        BYTES_IN(in_name, in, count); \
        RUN(absorb(&call, kind)); \
    }
#define DUAL(function, first, second, in_name, out_name) \
    CK_RV function(CK_SESSION_HANDLE session, CK_BYTE *in, CK_ULONG count, CK_BYTE *out, CK_ULONG *length) \
    { \
        BEGIN_IN(function, session); \
        BYTES_IN(in_name, in, count); \
        ROOM_FOR(out_name, out, length); \
        RUN(operation(&call, first)->active ? answer(&call, second, out, length, count, GOES_ON) : CKR_OPERATION_NOT_INITIALIZED); \
    }

INIT(C_EncryptInit, ENCRYPT)
TRANSFORM(C_Encrypt, ENCRYPT, "pData", "pEncryptedData", count, ENDS)
TRANSFORM(C_EncryptUpdate, ENCRYPT, "pPart", "pEncryptedPart", count, GOES_ON)
LAST(C_EncryptFinal, ENCRYPT, "pLastEncryptedPart", 5)
INIT(C_DecryptInit, DECRYPT)
TRANSFORM(C_Decrypt, DECRYPT, "pEncryptedData", "pData", count, ENDS)
TRANSFORM(C_DecryptUpdate, DECRYPT, "pEncryptedPart", "pPart", count, GOES_ON)
LAST(C_DecryptFinal, DECRYPT, "pLastPart", 5)
UPDATE(C_DigestUpdate, DIGEST, "pPart")
LAST(C_DigestFinal, DIGEST, "pDigest", 32)
INIT(C_SignInit, SIGN)
UPDATE(C_SignUpdate, SIGN, "pPart")
LAST(C_SignFinal, SIGN, "pSignature", 64)
INIT(C_SignRecoverInit, SIGN_RECOVER)
TRANSFORM(C_SignRecover, SIGN_RECOVER, "pData", "pSignature", 64, ENDS)
INIT(C_VerifyInit, VERIFY)
UPDATE(C_VerifyUpdate, VERIFY, "pPart")
INIT(C_VerifyRecoverInit, VERIFY_RECOVER)
TRANSFORM(C_VerifyRecover, VERIFY_RECOVER, "pSignature", "pData", count / 2, ENDS)
DUAL(C_DigestEncryptUpdate, DIGEST, ENCRYPT, "pPart", "pEncryptedPart")
DUAL(C_DecryptDigestUpdate, DIGEST, DECRYPT, "pEncryptedPart", "pPart")
DUAL(C_SignEncryptUpdate, SIGN, ENCRYPT, "pPart", "pEncryptedPart")
DUAL(C_DecryptVerifyUpdate, VERIFY, DECRYPT, "pEncryptedPart", "pPart")

CK_RV C_DigestInit(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism)
{
    BEGIN_IN(C_DigestInit, session);
    MECHANISM_IN(mechanism, PLAIN);
    RUN(begin(&call, DIGEST, mechanism));
}

CK_RV C_Digest(CK_SESSION_HANDLE session, CK_BYTE *in, CK_ULONG count, CK_BYTE *out, CK_ULONG *length)
{
    BEGIN_IN(C_Digest, session);
    BYTES_IN("pData", in, count);
    ROOM_FOR("pDigest", out, length);
    RUN((sleep_ms(script.delay), answer(&call, DIGEST, out, length, 32, ENDS)));
}

CK_RV C_DigestKey(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key)
{
    BEGIN_IN(C_DigestKey, session);
    OBJECT_IN("hKey", key);
    RUN(absorb(&call, DIGEST));
}

/* Calls one session's Notify; what it said. */
static CK_RV notify_one(struct call *call, struct session *session, CK_NOTIFICATION event)
{
    if (!session->notify)
        return CKR_OK;
    CK_RV said = session->notify(session->handle, event, session->application);
    record_line("%s session=%lu: Notify session=%lu event=%lu -> 0x%lx\n", call->name, call->handle, session->handle, event, said);
    return said;
}

static CK_RV notify(struct call *call)
{
    CK_RV said = CKR_OK;
    if (!script.notify)
        return CKR_OK;
    if (strcmp(script.notify, "other") == 0) {
        for (size_t i = 0; i < MOST_SESSIONS; i++)
            if (sessions[i].open && &sessions[i] != call->session)
                notify_one(call, &sessions[i], CKN_OTP_CHANGED);
    } else if (strcmp(script.notify, "otp") == 0) {
        notify_one(call, call->session, CKN_OTP_CHANGED);
    } else {
        said = notify_one(call, call->session, CKN_SURRENDER);
    }
    return said == CKR_CANCEL ? CKR_FUNCTION_CANCELED : said;
}

static CK_RV sign(struct call *call, CK_BYTE *out, CK_ULONG *length)
{
    sleep_ms(script.delay);
    CK_RV said = notify(call);
    if (said != CKR_OK) {
        operation(call, SIGN)->active = 0;
        return said;
    }
    if (is_asynchronous(call) && out && length && *length >= 64 && operation(call, SIGN)->active) {
        operation(call, SIGN)->active = 0;
        return postpone(call, out, 64, 0, 0);
    }
    return answer(call, SIGN, out, length, 64, ENDS);
}

CK_RV C_Sign(CK_SESSION_HANDLE session, CK_BYTE *in, CK_ULONG count, CK_BYTE *out, CK_ULONG *length)
{
    BEGIN_IN(C_Sign, session);
    BYTES_IN("pData", in, count);
    ROOM_FOR("pSignature", out, length);
    RUN(sign(&call, out, length));
}

CK_RV C_Verify(CK_SESSION_HANDLE session, CK_BYTE *in, CK_ULONG count, CK_BYTE *signature, CK_ULONG length)
{
    BEGIN_IN(C_Verify, session);
    BYTES_IN("pData", in, count);
    BYTES_IN("pSignature", signature, length);
    RUN(verify(&call, VERIFY, signature, length));
}

CK_RV C_VerifyFinal(CK_SESSION_HANDLE session, CK_BYTE *signature, CK_ULONG length)
{
    BEGIN_IN(C_VerifyFinal, session);
    BYTES_IN("pSignature", signature, length);
    RUN(verify(&call, VERIFY, signature, length));
}

CK_RV C_VerifySignatureInit(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key, CK_BYTE *signature, CK_ULONG length)
{
    BEGIN_IN(C_VerifySignatureInit, session);
    MECHANISM_IN(mechanism, PLAIN);
    OBJECT_IN("hKey", key);
    BYTES_IN("pSignature", signature, length);
    if (enter(&call)) {
        call.rv = begin(&call, VERIFY_SIGNATURE, mechanism);
        if (call.rv == CKR_OK && mechanism) {
            operation(&call, VERIFY_SIGNATURE)->signature_length = signature ? length : 0;
            operation(&call, VERIFY_SIGNATURE)->signature_start = signature && length ? *signature : 0;
        }
    }
    return leave(&call);
}

static CK_RV verify_kept(struct call *call)
{
    struct operation *one = operation(call, VERIFY_SIGNATURE);
    return verify(call, VERIFY_SIGNATURE, &one->signature_start, one->signature_length);
}

CK_RV C_VerifySignature(CK_SESSION_HANDLE session, CK_BYTE *in, CK_ULONG count)
{
    BEGIN_IN(C_VerifySignature, session);
    BYTES_IN("pData", in, count);
    RUN(verify_kept(&call));
}
UPDATE(C_VerifySignatureUpdate, VERIFY_SIGNATURE, "pPart")
CK_RV C_VerifySignatureFinal(CK_SESSION_HANDLE session)
{
    BEGIN_IN(C_VerifySignatureFinal, session);
    RUN(verify_kept(&call));
}

/* ---- Keys --------------------------------------------------------------------------------------------------- */

CK_RV C_GenerateKey(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_ATTRIBUTE *template, CK_ULONG count, CK_OBJECT_HANDLE *key)
{
    BEGIN_IN(C_GenerateKey, session);
    MECHANISM_IN(mechanism, PLAIN);
    TEMPLATE_IN("pTemplate", template, count);
    VALUE_OUT("phKey", key);
    RUN(LOCKED(generate(mechanism, template, count, key, call.hash)));
}

static CK_RV generate_pair(struct call *call, CK_MECHANISM *mechanism, CK_ATTRIBUTE *public, CK_ULONG public_count,
                           CK_ATTRIBUTE *private, CK_ULONG private_count, CK_OBJECT_HANDLE *public_key, CK_OBJECT_HANDLE *private_key)
{
    CK_OBJECT_HANDLE first, second;
    if (!mechanism || !public_key || !private_key)
        return CKR_ARGUMENTS_BAD;
    TRY(create(public, public_count, &first));
    CK_RV rv = create(private, private_count, &second);
    if (rv != CKR_OK) {
        destroy(first), last_object--;
        return rv;
    }
    if (is_asynchronous(call))
        return postpone(call, NULL, 0, first, second);
    *public_key = first, *private_key = second;
    return CKR_OK;
}

CK_RV C_GenerateKeyPair(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_ATTRIBUTE *public, CK_ULONG public_count,
                        CK_ATTRIBUTE *private, CK_ULONG private_count, CK_OBJECT_HANDLE *public_key, CK_OBJECT_HANDLE *private_key)
{
    BEGIN_IN(C_GenerateKeyPair, session);
    MECHANISM_IN(mechanism, PLAIN);
    TEMPLATE_IN("pPublicKeyTemplate", public, public_count);
    TEMPLATE_IN("pPrivateKeyTemplate", private, private_count);
    VALUE_OUT("phPublicKey", public_key);
    VALUE_OUT("phPrivateKey", private_key);
    RUN(LOCKED(generate_pair(&call, mechanism, public, public_count, private, private_count, public_key, private_key)));
}

static CK_RV wrap(struct call *call, CK_MECHANISM *mechanism, CK_BYTE *out, CK_ULONG *length, CK_ULONG size)
{
    int given;
    if (!mechanism)
        return CKR_ARGUMENTS_BAD;
    CK_RV rv = give(out, length, size, call->hash, &given);
    if (given)
        write_wrapping(mechanism, call->hash);
    return rv;
}

CK_RV C_WrapKey(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key, CK_BYTE *out, CK_ULONG *length)
{
    BEGIN_IN(C_WrapKey, session);
    MECHANISM_IN(mechanism, WRAPPING);
    OBJECT_IN("hWrappingKey", wrapping);
    OBJECT_IN("hKey", key);
    ROOM_FOR("pWrappedKey", out, length);
    RUN(wrap(&call, mechanism, out, length, 24));
}

CK_RV C_WrapKeyAuthenticated(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key,
                             CK_BYTE *data, CK_ULONG data_length, CK_BYTE *out, CK_ULONG *length)
{
    BEGIN_IN(C_WrapKeyAuthenticated, session);
    MECHANISM_IN(mechanism, WRAPPING);
    OBJECT_IN("hWrappingKey", wrapping);
    OBJECT_IN("hKey", key);
    BYTES_IN("pAssociatedData", data, data_length);
    ROOM_FOR("pWrappedKey", out, length);
    RUN(wrap(&call, mechanism, out, length, 40));
}

static CK_RV unwrap(struct call *call, CK_MECHANISM *mechanism, const CK_BYTE *wrapped, CK_ULONG length, CK_ATTRIBUTE *template, CK_ULONG count, CK_OBJECT_HANDLE *key)
{
    if (!mechanism)
        return CKR_ARGUMENTS_BAD;
    if (!wrapped || length == 0)
        return wrapped ? CKR_WRAPPED_KEY_LEN_RANGE : CKR_WRAPPED_KEY_INVALID;
    return create_key(template, count, key, call->hash);
}

CK_RV C_UnwrapKey(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE unwrapping, CK_BYTE *wrapped, CK_ULONG length,
                  CK_ATTRIBUTE *template, CK_ULONG count, CK_OBJECT_HANDLE *key)
{
    BEGIN_IN(C_UnwrapKey, session);
    MECHANISM_IN(mechanism, WRAPPING);
    OBJECT_IN("hUnwrappingKey", unwrapping);
    BYTES_IN("pWrappedKey", wrapped, length);
    TEMPLATE_IN("pTemplate", template, count);
    VALUE_OUT("phKey", key);
    RUN(LOCKED(unwrap(&call, mechanism, wrapped, length, template, count, key)));
}

CK_RV C_UnwrapKeyAuthenticated(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE unwrapping, CK_BYTE *wrapped, CK_ULONG length,
                               CK_ATTRIBUTE *template, CK_ULONG count, CK_BYTE *data, CK_ULONG data_length, CK_OBJECT_HANDLE *key)
{
    BEGIN_IN(C_UnwrapKeyAuthenticated, session);
    MECHANISM_IN(mechanism, WRAPPING);
    OBJECT_IN("hUnwrappingKey", unwrapping);
    BYTES_IN("pWrappedKey", wrapped, length);
    TEMPLATE_IN("pTemplate", template, count);
    BYTES_IN("pAssociatedData", data, data_length);
    VALUE_OUT("phKey", key);
    RUN(LOCKED(unwrap(&call, mechanism, wrapped, length, template, count, key)));
}

CK_RV C_DeriveKey(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE base, CK_ATTRIBUTE *template, CK_ULONG count, CK_OBJECT_HANDLE *key)
{
    BEGIN_IN(C_DeriveKey, session);
    MECHANISM_IN(mechanism, PLAIN);
    OBJECT_IN("hBaseKey", base);
    TEMPLATE_IN("pTemplate", template, count);
    VALUE_OUT("phKey", key);
    RUN(LOCKED(derive(mechanism, template, count, key, call.hash)));
}

static CK_RV encapsulate(struct call *call, CK_MECHANISM *mechanism, CK_ATTRIBUTE *template, CK_ULONG count, CK_BYTE *out, CK_ULONG *length, CK_OBJECT_HANDLE *key)
{
    int given;
    if (!mechanism || !key)
        return CKR_ARGUMENTS_BAD;
    CK_RV rv = give(out, length, 48, call->hash, &given);
    return given ? create_key(template, count, key, call->hash) : rv;
}

CK_RV C_EncapsulateKey(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE public, CK_ATTRIBUTE *template, CK_ULONG count,
                       CK_BYTE *out, CK_ULONG *length, CK_OBJECT_HANDLE *key)
{
    BEGIN_IN(C_EncapsulateKey, session);
    MECHANISM_IN(mechanism, PLAIN);
    OBJECT_IN("hPublicKey", public);
    TEMPLATE_IN("pTemplate", template, count);
    ROOM_FOR("pCiphertext", out, length);
    VALUE_OUT("phKey", key);
    RUN(LOCKED(encapsulate(&call, mechanism, template, count, out, length, key)));
}

CK_RV C_DecapsulateKey(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE private, CK_ATTRIBUTE *template, CK_ULONG count,
                       CK_BYTE *in, CK_ULONG length, CK_OBJECT_HANDLE *key)
{
    BEGIN_IN(C_DecapsulateKey, session);
    MECHANISM_IN(mechanism, PLAIN);
    OBJECT_IN("hPrivateKey", private);
    TEMPLATE_IN("pTemplate", template, count);
    BYTES_IN("pCiphertext", in, length);
    VALUE_OUT("phKey", key);
    RUN(LOCKED(unwrap(&call, mechanism, in, length, template, count, key)));
}

CK_RV C_SeedRandom(CK_SESSION_HANDLE session, CK_BYTE *seed, CK_ULONG length)
{
    BEGIN_IN(C_SeedRandom, session);
    BYTES_IN("pSeed", seed, length);
    RUN(CKR_OK);
}

CK_RV C_GenerateRandom(CK_SESSION_HANDLE session, CK_BYTE *out, CK_ULONG length)
{
    BEGIN_IN(C_GenerateRandom, session);
    put(&call.line, " RandomData="), put_room(&call.line, out, length);
    if (enter(&call)) {
        if ((!out && length > 0) || length > MOST_BYTES)
            call.rv = CKR_ARGUMENTS_BAD;
        else if (out)
            fill(out, length, call.hash);
    }
    return leave(&call);
}

CK_RV C_GetFunctionStatus(CK_SESSION_HANDLE session)
{
    BEGIN_IN(C_GetFunctionStatus, session);
    call.beside_others = 1;
    RUN(CKR_FUNCTION_NOT_PARALLEL);
}

CK_RV C_CancelFunction(CK_SESSION_HANDLE session)
{
    BEGIN_IN(C_CancelFunction, session);
    call.beside_others = 1;
    RUN(CKR_FUNCTION_NOT_PARALLEL);
}

/* Until `ms` have passed or C_Finalize ends it. */
static CK_RV wait_for_event(long ms, CK_SLOT_ID *slot)
{
    struct timespec end;
    int over = 0;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_nsec += ms % 1000 * 1000000;
    end.tv_sec += ms / 1000 + end.tv_nsec / 1000000000;
    end.tv_nsec %= 1000000000;
    atomic_fetch_add(&waiting, 1);
    pthread_mutex_lock(&lock);
    unsigned long mine = initializations;
    while (initialized && initializations == mine && !over)
        over = ms < 0 ? pthread_cond_wait(&finalized, &lock) : pthread_cond_timedwait(&finalized, &lock, &end) == ETIMEDOUT;
    int alive = initialized && initializations == mine;
    pthread_mutex_unlock(&lock);
    atomic_fetch_sub(&waiting, 1);
    if (alive && slot)
        *slot = TOKEN_SLOT;
    record_line("C_WaitForSlotEvent returns: %s\n", alive ? "an event" : "C_Finalize was called");
    return alive ? CKR_OK : CKR_CRYPTOKI_NOT_INITIALIZED;
}

CK_RV C_WaitForSlotEvent(CK_FLAGS flags, CK_SLOT_ID *slot, void *reserved)
{
    BEGIN(C_WaitForSlotEvent);
    NUMBER_IN("flags", flags);
    VALUE_OUT("pSlot", slot);
    put(&call.line, " pReserved=%s", reserved ? "set" : "NULL");
    RUN(!slot || reserved           ? CKR_ARGUMENTS_BAD
        : flags & CKF_DONT_BLOCK    ? CKR_NO_EVENT
        : !script.slot_event        ? CKR_FUNCTION_NOT_SUPPORTED
                                    : wait_for_event(atol(script.slot_event), slot));
}

/* ---- Messages ------------------------------------------------------------------------------------------------- */

/* What the parameter is, the operation says; without one nobody knows. */
static void parameter_in(struct call *call, enum kind kind, const void *parameter, CK_ULONG length, int use)
{
    struct operation *one = call->session ? operation(call, kind) : NULL;
    put(&call->line, " pParameter=");
    if (one && one->active) {
        put_parameter(&call->line, one->mechanism, parameter, length, MESSAGE | use);
        look_at_parameter(call, one->mechanism, parameter, length, MESSAGE | use);
    } else {
        put_bytes(&call->line, parameter, parameter && length ? ~0UL : length);
    }
}
#define PARAMETER_IN(kind, use) parameter_in(&call, kind, parameter, parameter_length, use)

#define MESSAGE_INIT(function, kind) \
    CK_RV function(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key) \
    { \
        BEGIN_IN(function, session); \
        MECHANISM_IN(mechanism, MESSAGE); \
        OBJECT_IN("hKey", key); \
        RUN(begin(&call, kind, mechanism)); \
    }
#define MESSAGE_FINAL(function, kind) \
    CK_RV function(CK_SESSION_HANDLE session) \
    { \
        BEGIN_IN(function, session); \
        RUN(finish(&call, kind)); \
    }

MESSAGE_INIT(C_MessageEncryptInit, MESSAGE_ENCRYPT)
MESSAGE_INIT(C_MessageDecryptInit, MESSAGE_DECRYPT)
MESSAGE_INIT(C_MessageSignInit, MESSAGE_SIGN)
MESSAGE_INIT(C_MessageVerifyInit, MESSAGE_VERIFY)
MESSAGE_FINAL(C_MessageEncryptFinal, MESSAGE_ENCRYPT)
MESSAGE_FINAL(C_MessageDecryptFinal, MESSAGE_DECRYPT)
MESSAGE_FINAL(C_MessageSignFinal, MESSAGE_SIGN)
MESSAGE_FINAL(C_MessageVerifyFinal, MESSAGE_VERIFY)

static CK_RV encrypt_message(struct call *call, void *parameter, CK_ULONG parameter_length, CK_BYTE *out, CK_ULONG *length, CK_ULONG size, int iv, int tag)
{
    CK_RV rv = answer(call, MESSAGE_ENCRYPT, out, length, size, GOES_ON);
    if (rv == CKR_OK && out)
        write_message(operation(call, MESSAGE_ENCRYPT)->mechanism, parameter, parameter_length, iv, tag, call->hash);
    return rv;
}

CK_RV C_EncryptMessage(CK_SESSION_HANDLE session, void *parameter, CK_ULONG parameter_length, CK_BYTE *data, CK_ULONG data_length,
                       CK_BYTE *in, CK_ULONG count, CK_BYTE *out, CK_ULONG *length)
{
    BEGIN_IN(C_EncryptMessage, session);
    PARAMETER_IN(MESSAGE_ENCRYPT, ENCRYPTING);
    BYTES_IN("pAssociatedData", data, data_length);
    BYTES_IN("pPlaintext", in, count);
    ROOM_FOR("pCiphertext", out, length);
    RUN(encrypt_message(&call, parameter, parameter_length, out, length, count, 1, 1));
}

CK_RV C_EncryptMessageBegin(CK_SESSION_HANDLE session, void *parameter, CK_ULONG parameter_length, CK_BYTE *data, CK_ULONG data_length)
{
    BEGIN_IN(C_EncryptMessageBegin, session);
    PARAMETER_IN(MESSAGE_ENCRYPT, ENCRYPTING);
    BYTES_IN("pAssociatedData", data, data_length);
    if (enter(&call)) {
        call.rv = absorb(&call, MESSAGE_ENCRYPT);
        if (call.rv == CKR_OK)
            write_message(operation(&call, MESSAGE_ENCRYPT)->mechanism, parameter, parameter_length, 1, 0, call.hash);
    }
    return leave(&call);
}

CK_RV C_EncryptMessageNext(CK_SESSION_HANDLE session, void *parameter, CK_ULONG parameter_length, CK_BYTE *in, CK_ULONG count,
                           CK_BYTE *out, CK_ULONG *length, CK_FLAGS flags)
{
    BEGIN_IN(C_EncryptMessageNext, session);
    PARAMETER_IN(MESSAGE_ENCRYPT, ENCRYPTING);
    BYTES_IN("pPlaintextPart", in, count);
    ROOM_FOR("pCiphertextPart", out, length);
    NUMBER_IN("flags", flags);
    RUN(encrypt_message(&call, parameter, parameter_length, out, length, count, 0, (flags & CKF_END_OF_MESSAGE) != 0));
}

CK_RV C_DecryptMessage(CK_SESSION_HANDLE session, void *parameter, CK_ULONG parameter_length, CK_BYTE *data, CK_ULONG data_length,
                       CK_BYTE *in, CK_ULONG count, CK_BYTE *out, CK_ULONG *length)
{
    BEGIN_IN(C_DecryptMessage, session);
    PARAMETER_IN(MESSAGE_DECRYPT, PLAIN);
    BYTES_IN("pAssociatedData", data, data_length);
    BYTES_IN("pCiphertext", in, count);
    ROOM_FOR("pPlaintext", out, length);
    RUN(answer(&call, MESSAGE_DECRYPT, out, length, count, GOES_ON));
}

CK_RV C_DecryptMessageBegin(CK_SESSION_HANDLE session, void *parameter, CK_ULONG parameter_length, CK_BYTE *data, CK_ULONG data_length)
{
    BEGIN_IN(C_DecryptMessageBegin, session);
    PARAMETER_IN(MESSAGE_DECRYPT, PLAIN);
    BYTES_IN("pAssociatedData", data, data_length);
    RUN(absorb(&call, MESSAGE_DECRYPT));
}

CK_RV C_DecryptMessageNext(CK_SESSION_HANDLE session, void *parameter, CK_ULONG parameter_length, CK_BYTE *in, CK_ULONG count,
                           CK_BYTE *out, CK_ULONG *length, CK_FLAGS flags)
{
    BEGIN_IN(C_DecryptMessageNext, session);
    PARAMETER_IN(MESSAGE_DECRYPT, PLAIN);
    BYTES_IN("pCiphertextPart", in, count);
    ROOM_FOR("pPlaintextPart", out, length);
    NUMBER_IN("flags", flags);
    RUN(answer(&call, MESSAGE_DECRYPT, out, length, count, GOES_ON));
}

CK_RV C_SignMessage(CK_SESSION_HANDLE session, void *parameter, CK_ULONG parameter_length, CK_BYTE *in, CK_ULONG count, CK_BYTE *out, CK_ULONG *length)
{
    BEGIN_IN(C_SignMessage, session);
    PARAMETER_IN(MESSAGE_SIGN, PLAIN);
    BYTES_IN("pData", in, count);
    ROOM_FOR("pSignature", out, length);
    RUN(answer(&call, MESSAGE_SIGN, out, length, 64, GOES_ON));
}

CK_RV C_SignMessageBegin(CK_SESSION_HANDLE session, void *parameter, CK_ULONG parameter_length)
{
    BEGIN_IN(C_SignMessageBegin, session);
    PARAMETER_IN(MESSAGE_SIGN, PLAIN);
    RUN(absorb(&call, MESSAGE_SIGN));
}

/* Without a pointer to a length there is more of the message to come. */
CK_RV C_SignMessageNext(CK_SESSION_HANDLE session, void *parameter, CK_ULONG parameter_length, CK_BYTE *in, CK_ULONG count, CK_BYTE *out, CK_ULONG *length)
{
    BEGIN_IN(C_SignMessageNext, session);
    PARAMETER_IN(MESSAGE_SIGN, PLAIN);
    BYTES_IN("pDataPart", in, count);
    ROOM_FOR("pSignature", out, length);
    RUN(length ? answer(&call, MESSAGE_SIGN, out, length, 64, GOES_ON) : absorb(&call, MESSAGE_SIGN));
}

CK_RV C_VerifyMessage(CK_SESSION_HANDLE session, void *parameter, CK_ULONG parameter_length, CK_BYTE *in, CK_ULONG count, CK_BYTE *signature, CK_ULONG length)
{
    BEGIN_IN(C_VerifyMessage, session);
    PARAMETER_IN(MESSAGE_VERIFY, PLAIN);
    BYTES_IN("pData", in, count);
    BYTES_IN("pSignature", signature, length);
    CK_RV rv;
    RUN((rv = absorb(&call, MESSAGE_VERIFY)) == CKR_OK ? verdict(signature, length) : rv);
}

CK_RV C_VerifyMessageBegin(CK_SESSION_HANDLE session, void *parameter, CK_ULONG parameter_length)
{
    BEGIN_IN(C_VerifyMessageBegin, session);
    PARAMETER_IN(MESSAGE_VERIFY, PLAIN);
    RUN(absorb(&call, MESSAGE_VERIFY));
}

/* Without a signature there is more of the message to come. */
CK_RV C_VerifyMessageNext(CK_SESSION_HANDLE session, void *parameter, CK_ULONG parameter_length, CK_BYTE *in, CK_ULONG count, CK_BYTE *signature, CK_ULONG length)
{
    BEGIN_IN(C_VerifyMessageNext, session);
    PARAMETER_IN(MESSAGE_VERIFY, PLAIN);
    BYTES_IN("pDataPart", in, count);
    BYTES_IN("pSignature", signature, length);
    CK_RV rv;
    RUN((rv = absorb(&call, MESSAGE_VERIFY)) == CKR_OK && signature ? verdict(signature, length) : rv);
}

/* ---- Asynchronous functions -------------------------------------------------------------------------------------- */

static void function_in(struct call *call, const CK_UTF8CHAR *function)
{
    if (function)
        put(&call->line, " pFunctionName=\"%.64s\"", (const char *)function);
    else
        put(&call->line, " pFunctionName=NULL");
}

CK_RV C_AsyncComplete(CK_SESSION_HANDLE session, CK_UTF8CHAR *function, CK_ASYNC_DATA *result)
{
    BEGIN_IN(C_AsyncComplete, session);
    function_in(&call, function);
    if (result)
        put(&call.line, " pResult=(ulVersion=0x%lx)", result->ulVersion);
    else
        put(&call.line, " pResult=NULL");
    RUN(complete(&call, function, result));
}

CK_RV C_AsyncGetID(CK_SESSION_HANDLE session, CK_UTF8CHAR *function, CK_ULONG *id)
{
    BEGIN_IN(C_AsyncGetID, session);
    function_in(&call, function);
    VALUE_OUT("pulID", id);
    if (enter(&call)) {
        if (!id)
            call.rv = CKR_ARGUMENTS_BAD;
        else if (!is_pending(&call, function))
            call.rv = CKR_OPERATION_NOT_INITIALIZED;
        else
            *id = 77;
    }
    return leave(&call);
}

CK_RV C_AsyncJoin(CK_SESSION_HANDLE session, CK_UTF8CHAR *function, CK_ULONG id, CK_BYTE *room, CK_ULONG length)
{
    BEGIN_IN(C_AsyncJoin, session);
    function_in(&call, function);
    NUMBER_IN("ulID", id);
    put(&call.line, " pData="), put_room(&call.line, room, length);
    if (enter(&call)) {
        if (!is_pending(&call, function) || id != 77)
            call.rv = CKR_OPERATION_NOT_INITIALIZED;
        else if (length < call.session->pending.size)
            call.rv = CKR_BUFFER_TOO_SMALL;
        else
            call.session->pending.room = room;
    }
    return leave(&call);
}

/* ---- Interfaces ------------------------------------------------------------------------------------------------------- */

static CK_FUNCTION_LIST list_2_40;
static CK_FUNCTION_LIST_3_0 list_3_0;
#define F(name) .name = name
static CK_FUNCTION_LIST_3_2 list_3_2 = {
    { 3, 2 },
    F(C_Initialize), F(C_Finalize), F(C_GetInfo), F(C_GetFunctionList), F(C_GetSlotList), F(C_GetSlotInfo), F(C_GetTokenInfo),
    F(C_GetMechanismList), F(C_GetMechanismInfo), F(C_InitToken), F(C_InitPIN), F(C_SetPIN), F(C_OpenSession), F(C_CloseSession),
    F(C_CloseAllSessions), F(C_GetSessionInfo), F(C_GetOperationState), F(C_SetOperationState), F(C_Login), F(C_Logout),
    F(C_CreateObject), F(C_CopyObject), F(C_DestroyObject), F(C_GetObjectSize), F(C_GetAttributeValue), F(C_SetAttributeValue),
    F(C_FindObjectsInit), F(C_FindObjects), F(C_FindObjectsFinal), F(C_EncryptInit), F(C_Encrypt), F(C_EncryptUpdate),
    F(C_EncryptFinal), F(C_DecryptInit), F(C_Decrypt), F(C_DecryptUpdate), F(C_DecryptFinal), F(C_DigestInit), F(C_Digest),
    F(C_DigestUpdate), F(C_DigestKey), F(C_DigestFinal), F(C_SignInit), F(C_Sign), F(C_SignUpdate), F(C_SignFinal),
    F(C_SignRecoverInit), F(C_SignRecover), F(C_VerifyInit), F(C_Verify), F(C_VerifyUpdate), F(C_VerifyFinal),
    F(C_VerifyRecoverInit), F(C_VerifyRecover), F(C_DigestEncryptUpdate), F(C_DecryptDigestUpdate), F(C_SignEncryptUpdate),
    F(C_DecryptVerifyUpdate), F(C_GenerateKey), F(C_GenerateKeyPair), F(C_WrapKey), F(C_UnwrapKey), F(C_DeriveKey), F(C_SeedRandom),
    F(C_GenerateRandom), F(C_GetFunctionStatus), F(C_CancelFunction), F(C_WaitForSlotEvent), F(C_GetInterfaceList), F(C_GetInterface),
    F(C_LoginUser), F(C_SessionCancel), F(C_MessageEncryptInit), F(C_EncryptMessage), F(C_EncryptMessageBegin),
    F(C_EncryptMessageNext), F(C_MessageEncryptFinal), F(C_MessageDecryptInit), F(C_DecryptMessage), F(C_DecryptMessageBegin),
    F(C_DecryptMessageNext), F(C_MessageDecryptFinal), F(C_MessageSignInit), F(C_SignMessage), F(C_SignMessageBegin),
    F(C_SignMessageNext), F(C_MessageSignFinal), F(C_MessageVerifyInit), F(C_VerifyMessage), F(C_VerifyMessageBegin),
    F(C_VerifyMessageNext), F(C_MessageVerifyFinal), F(C_EncapsulateKey), F(C_DecapsulateKey), F(C_VerifySignatureInit),
    F(C_VerifySignature), F(C_VerifySignatureUpdate), F(C_VerifySignatureFinal), F(C_GetSessionValidationFlags), F(C_AsyncComplete),
    F(C_AsyncGetID), F(C_AsyncJoin), F(C_WrapKeyAuthenticated), F(C_UnwrapKeyAuthenticated),
};
_Static_assert(offsetof(CK_FUNCTION_LIST_3_2, C_WaitForSlotEvent) == offsetof(CK_FUNCTION_LIST, C_WaitForSlotEvent), "2.40 begins the list");
_Static_assert(offsetof(CK_FUNCTION_LIST_3_2, C_MessageVerifyFinal) == offsetof(CK_FUNCTION_LIST_3_0, C_MessageVerifyFinal), "so does 3.0");

static CK_INTERFACE interfaces[] = {
    { (CK_UTF8CHAR *)"PKCS 11", &list_3_2, 0 },
    { (CK_UTF8CHAR *)"PKCS 11", &list_3_0, 0 },
    { (CK_UTF8CHAR *)"PKCS 11", &list_2_40, 0 },
};
static CK_INTERFACE *first_interface = interfaces;

static void prepare_lists(void)
{
    memcpy(&list_3_0, &list_3_2, sizeof list_3_0);
    memcpy(&list_2_40, &list_3_2, sizeof list_2_40);
    list_3_0.version = (CK_VERSION){ 3, 0 };
    list_2_40.version = (CK_VERSION){ 2, 40 };
    first_interface = interfaces + (highest.major < 3 ? 2 : highest.minor < 2 ? 1 : 0);
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list)
{
    if (!list)
        return CKR_ARGUMENTS_BAD;
    *list = &list_2_40;
    return CKR_OK;
}

CK_RV C_GetInterfaceList(CK_INTERFACE *list, CK_ULONG *count)
{
    CK_ULONG room = count ? *count : 0, there = (CK_ULONG)(interfaces + COUNT(interfaces) - first_interface);
    if (!count)
        return CKR_ARGUMENTS_BAD;
    *count = there;
    if (list && room < there)
        return CKR_BUFFER_TOO_SMALL;
    if (list)
        memcpy(list, first_interface, there * sizeof *list);
    return CKR_OK;
}

CK_RV C_GetInterface(CK_UTF8CHAR *name, CK_VERSION *version, CK_INTERFACE **interface, CK_FLAGS flags)
{
    if (!interface)
        return CKR_ARGUMENTS_BAD;
    for (CK_INTERFACE *one = first_interface; one < interfaces + COUNT(interfaces); one++) {
        CK_VERSION *its = one->pFunctionList;
        if ((!name || strcmp((char *)name, (char *)one->pInterfaceName) == 0) && (flags & ~one->flags) == 0 &&
            (!version || (version->major == its->major && version->minor == its->minor))) {
            *interface = one;
            return CKR_OK;
        }
    }
    return CKR_ARGUMENTS_BAD;
}
