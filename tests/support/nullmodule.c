/*
 * A PKCS#11 module that answers at once and keeps nothing: one slot, one token, no files. For
 * benchmarks (the module's share of a call is nothing) and for tests of what reaches a module.
 *
 * C_Digest gives 32 bytes of 0xd1, C_Sign 256 bytes of 0x51, C_GenerateRandom 0x42s; C_Encrypt and
 * its relatives give back their input; every signature verifies; object 1 exists, with attributes
 * of 16 zero bytes (CKA_CLASS: a secret key, CKA_LABEL: "null", booleans: false). All lengths
 * follow the two-call convention.
 *
 * The environment changes it:
 *
 *   NULLMODULE_LOG=FILE                appends a line a call: arguments as numbers, pointers as
 *                                      NULL or ptr, contents never
 *   NULLMODULE_FAIL=C_Sign:0x80000123  the function returns that; several after commas
 *   NULLMODULE_SLEEP=C_Sign:250        the function sleeps first, milliseconds; several likewise
 *   NULLMODULE_CRASH=C_Sign            the function dies of SIGSEGV; several likewise
 *   NULLMODULE_PROCESS=1               C_Initialize appends to NULLMODULE_LOG what the process has: the
 *                                      number of its descriptors, its working directory
 *   NULLMODULE_PROTECTED=1             the token has a protected authentication path
 *   NULLMODULE_OBEY=1                  C_Sign does what its data say: `crash`, `sleep MS`, `rv 0xN`,
 *                                      `size N` (the length of the signature), `exit N`, `signal N`, `fork` (a
 *                                      process that lives a minute; its id goes to NULLMODULE_LOG),
 *                                      `forge` (false records for the audit log, as connection 0)
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <pkcs11.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wunused-parameter"

static atomic_ulong opened, closed, searches;
static atomic_int initialised;

/* ---- Hooks ------------------------------------------------------------------------------ */

/* Whether any hook was set when the module was loaded: a benchmark pays for none. */
static int has_hooks;
extern char **environ;

__attribute__((constructor)) static void look_for_hooks(void)
{
    for (char **variable = environ; variable && *variable; variable++)
        has_hooks |= strncmp(*variable, "NULLMODULE_", 11) == 0;
}

static const char *environment(const char *name)
{
    return has_hooks ? getenv(name) : NULL;
}

__attribute__((format(printf, 1, 2))) static void record(const char *format, ...)
{
    const char *path = environment("NULLMODULE_LOG");
    if (!path)
        return;
    char line[4096];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length < 0)
        return;
    if (length > (int)sizeof line - 2)
        length = (int)sizeof line - 2;
    line[length++] = '\n';
    /* One write, so that lines of several processes stay whole. */
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file >= 0 && write(file, line, (size_t)length) < 0)
        abort();
    if (file >= 0)
        close(file);
}

/* The value of `function` in a list `NAME:VALUE,NAME:VALUE` of the environment, or NULL. */
static const char *told(const char *variable, const char *function)
{
    size_t length = strlen(function);
    for (const char *at = environment(variable); at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : "")
        if (strncmp(at, function, length) == 0 && (at[length] == ':' || at[length] == ',' || !at[length]))
            return at + length + (at[length] == ':');
    return NULL;
}
static void sleep_ms(unsigned long ms) { nanosleep(&(struct timespec){ (time_t)(ms / 1000), (long)(ms % 1000) * 1000000 }, NULL); }
static void crash(void)
{
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
}
static CK_RV hooks(const char *function)
{
    const char *value = told("NULLMODULE_SLEEP", function);
    if (value)
        sleep_ms(strtoul(value, NULL, 0));
    if (told("NULLMODULE_CRASH", function))
        crash();
    value = told("NULLMODULE_FAIL", function);
    return value ? strtoul(value, NULL, 0) : CKR_OK;
}

#define P(pointer) ((pointer) ? "ptr" : "NULL")
#define M(m) (m) ? (m)->mechanism : 0, P((m) && (m)->pParameter), (m) ? (m)->ulParameterLen : 0
#define MECHANISM "mechanism=0x%lx/%s/%lu"

/* Every function starts with one of these. */
#define ALWAYS(format, ...) \
    do { \
        record("%s" format, __func__, ##__VA_ARGS__); \
        CK_RV told_ = hooks(__func__); \
        if (told_ != CKR_OK) \
            return told_; \
    } while (0)
#define ENTER(format, ...) \
    do { \
        ALWAYS(format, ##__VA_ARGS__); \
        if (!initialised) \
            return CKR_CRYPTOKI_NOT_INITIALIZED; \
    } while (0)
#define IN_SESSION(format, ...) \
    do { \
        ENTER(" session=%lu" format, h, ##__VA_ARGS__); \
        if (h == 0 || h > opened) \
            return CKR_SESSION_HANDLE_INVALID; \
    } while (0)

static const char *template(const CK_ATTRIBUTE *t, CK_ULONG n)
{
    static _Thread_local char lines[2][1024];
    static _Thread_local unsigned next;
    char *text = lines[next++ % 2];
    size_t at = (size_t)snprintf(text, sizeof lines[0], "%s/%lu", P(t), n);
    for (CK_ULONG i = 0; t && i < n && at < sizeof lines[0] - 64; i++)
        at += (size_t)snprintf(text + at, sizeof lines[0] - at, ",0x%lx:%s/%ld", t[i].type, P(t[i].pValue), (long)t[i].ulValueLen);
    return text;
}

/* `size` bytes for the caller: from `from`, or all `fill` if that is NULL. */
static CK_RV give(CK_BYTE *out, CK_ULONG *len, const CK_BYTE *from, CK_ULONG size, int fill)
{
    if (!len)
        return CKR_ARGUMENTS_BAD;
    if (!out) {
        *len = size;
        return CKR_OK;
    }
    if (*len < size) {
        *len = size;
        return CKR_BUFFER_TOO_SMALL;
    }
    *len = size;
    if (from)
        memmove(out, from, size);
    else
        memset(out, fill, size);
    return CKR_OK;
}
static void pad(CK_BYTE *field, size_t size, const char *text)
{
    memset(field, ' ', size);
    memcpy(field, text, strlen(text));
}

/* ---- General ---------------------------------------------------------------------------- */

static void fork_one(void)
{
    pid_t child = fork();
    if (child == 0) {
        sleep(60);
        _exit(0);
    }
    record("forked %d", (int)child);
}

/* A process that others may not look at can look at itself. */
static void record_process(void)
{
    char directory[1024];
    DIR *descriptors = opendir("/proc/self/fd");
    int count = 0;
    while (descriptors && readdir(descriptors))
        count++;
    if (descriptors)
        closedir(descriptors);
    /* But ., .. and the one just closed. */
    record("process descriptors=%d directory=%s", count - 3, getcwd(directory, sizeof directory) ? directory : "?");
}

CK_RV C_Initialize(void *a)
{
    const CK_C_INITIALIZE_ARGS *args = a;
    if (environment("NULLMODULE_PROCESS"))
        record_process();
    ALWAYS(" args=%s flags=0x%lx", P(a), args ? args->flags : 0);
    return atomic_exchange(&initialised, 1) ? CKR_CRYPTOKI_ALREADY_INITIALIZED : CKR_OK;
}
CK_RV C_Finalize(void *reserved)
{
    ENTER(" reserved=%s", P(reserved));
    initialised = 0;
    opened = closed = 0;
    return CKR_OK;
}
CK_RV C_GetInfo(CK_INFO *info)
{
    ENTER(" info=%s", P(info));
    memset(info, 0, sizeof *info);
    info->cryptokiVersion = (struct _CK_VERSION){ 2, 20 };
    pad(info->manufacturerID, 32, "nobody");
    pad(info->libraryDescription, 32, "null module");
    info->libraryVersion = (struct _CK_VERSION){ 1, 7 };
    return CKR_OK;
}
CK_RV C_GetSlotList(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    ENTER(" present=%d slots=%s count=%s/%lu", present, P(slots), P(count), count && slots ? *count : 0);
    CK_ULONG room = *count;
    *count = 1;
    if (!slots)
        return CKR_OK;
    if (room < 1)
        return CKR_BUFFER_TOO_SMALL;
    slots[0] = 0;
    return CKR_OK;
}
#define SLOT(id) \
    if (id != 0) \
    return CKR_SLOT_ID_INVALID
CK_RV C_GetSlotInfo(CK_SLOT_ID id, CK_SLOT_INFO *info)
{
    ENTER(" slot=%lu info=%s", id, P(info));
    SLOT(id);
    memset(info, 0, sizeof *info);
    pad(info->slotDescription, 64, "null slot");
    pad(info->manufacturerID, 32, "nobody");
    info->flags = CKF_TOKEN_PRESENT;
    return CKR_OK;
}
CK_RV C_GetTokenInfo(CK_SLOT_ID id, CK_TOKEN_INFO *info)
{
    ENTER(" slot=%lu info=%s", id, P(info));
    SLOT(id);
    memset(info, 0, sizeof *info);
    pad(info->label, 32, "null");
    pad(info->manufacturerID, 32, "nobody");
    pad(info->model, 16, "null");
    pad(info->serialNumber, 16, "0");
    info->flags = CKF_RNG | CKF_LOGIN_REQUIRED | CKF_USER_PIN_INITIALIZED | CKF_TOKEN_INITIALIZED |
                  (environment("NULLMODULE_PROTECTED") ? CKF_PROTECTED_AUTHENTICATION_PATH : 0);
    info->ulSessionCount = info->ulRwSessionCount = opened - closed;
    info->ulMinPinLen = 4, info->ulMaxPinLen = 255;
    pad(info->utcTime, 16, "");
    return CKR_OK;
}
static const CK_MECHANISM_TYPE mechanisms[] = { CKM_RSA_PKCS_KEY_PAIR_GEN, CKM_RSA_PKCS, CKM_SHA256_RSA_PKCS, CKM_SHA256, CKM_SHA256_HMAC,
                                                CKM_EC_KEY_PAIR_GEN, CKM_ECDSA, CKM_AES_KEY_GEN, CKM_AES_ECB, CKM_AES_CBC, CKM_AES_CTR };
#define MECHANISMS (sizeof mechanisms / sizeof mechanisms[0])
CK_RV C_GetMechanismList(CK_SLOT_ID id, CK_MECHANISM_TYPE *list, CK_ULONG *count)
{
    ENTER(" slot=%lu list=%s count=%s/%lu", id, P(list), P(count), count && list ? *count : 0);
    SLOT(id);
    CK_ULONG room = *count;
    *count = MECHANISMS;
    if (!list)
        return CKR_OK;
    if (room < MECHANISMS)
        return CKR_BUFFER_TOO_SMALL;
    memcpy(list, mechanisms, sizeof mechanisms);
    return CKR_OK;
}
CK_RV C_GetMechanismInfo(CK_SLOT_ID id, CK_MECHANISM_TYPE type, CK_MECHANISM_INFO *info)
{
    ENTER(" slot=%lu type=0x%lx info=%s", id, type, P(info));
    SLOT(id);
    for (size_t i = 0; i < MECHANISMS; i++)
        if (mechanisms[i] == type) {
            *info = (CK_MECHANISM_INFO){ 16, 4096, CKF_ENCRYPT | CKF_DECRYPT | CKF_SIGN | CKF_VERIFY };
            return CKR_OK;
        }
    return CKR_MECHANISM_INVALID;
}
CK_RV C_InitToken(CK_SLOT_ID id, CK_BYTE *pin, CK_ULONG pin_len, CK_BYTE *label)
{
    ENTER(" slot=%lu pin=%s/%lu label=%s", id, P(pin), pin_len, P(label));
    SLOT(id);
    return CKR_OK;
}
CK_RV C_WaitForSlotEvent(CK_FLAGS flags, CK_SLOT_ID *slot, void *reserved)
{
    ENTER(" flags=0x%lx slot=%s reserved=%s", flags, P(slot), P(reserved));
    return CKR_NO_EVENT;
}

/* ---- Sessions --------------------------------------------------------------------------- */

CK_RV C_OpenSession(CK_SLOT_ID id, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE *session)
{
    ENTER(" slot=%lu flags=0x%lx application=%s notify=%s", id, flags, P(application), P(notify));
    SLOT(id);
    *session = atomic_fetch_add(&opened, 1) + 1;
    return CKR_OK;
}
CK_RV C_CloseSession(CK_SESSION_HANDLE h)
{
    IN_SESSION("");
    closed++;
    return CKR_OK;
}
CK_RV C_CloseAllSessions(CK_SLOT_ID id)
{
    ENTER(" slot=%lu", id);
    SLOT(id);
    closed = opened;
    return CKR_OK;
}
CK_RV C_GetSessionInfo(CK_SESSION_HANDLE h, CK_SESSION_INFO *info)
{
    IN_SESSION(" info=%s", P(info));
    *info = (CK_SESSION_INFO){ 0, CKS_RW_USER_FUNCTIONS, CKF_SERIAL_SESSION | CKF_RW_SESSION, 0 };
    return CKR_OK;
}
CK_RV C_Login(CK_SESSION_HANDLE h, CK_USER_TYPE user, CK_BYTE *pin, CK_ULONG n)
{
    IN_SESSION(" user=%lu pin=%s/%lu", user, P(pin), n);
    return CKR_OK;
}
CK_RV C_Logout(CK_SESSION_HANDLE h) { IN_SESSION(""); return CKR_OK; }
CK_RV C_InitPIN(CK_SESSION_HANDLE h, CK_BYTE *pin, CK_ULONG n)
{
    IN_SESSION(" pin=%s/%lu", P(pin), n);
    return CKR_OK;
}
CK_RV C_SetPIN(CK_SESSION_HANDLE h, CK_BYTE *old, CK_ULONG old_len, CK_BYTE *new, CK_ULONG new_len)
{
    IN_SESSION(" old=%s/%lu new=%s/%lu", P(old), old_len, P(new), new_len);
    return CKR_OK;
}
CK_RV C_GetOperationState(CK_SESSION_HANDLE h, CK_BYTE *state, CK_ULONG *n)
{
    IN_SESSION(" state=%s/%lu", P(state), state && n ? *n : 0);
    return give(state, n, NULL, 48, 0x57);
}
CK_RV C_SetOperationState(CK_SESSION_HANDLE h, CK_BYTE *state, CK_ULONG n, CK_OBJECT_HANDLE encryption, CK_OBJECT_HANDLE authentication)
{
    IN_SESSION(" state=%s/%lu encryption=%lu authentication=%lu", P(state), n, encryption, authentication);
    return CKR_OK;
}
CK_RV C_GetFunctionStatus(CK_SESSION_HANDLE h) { IN_SESSION(""); return CKR_FUNCTION_NOT_PARALLEL; }
CK_RV C_CancelFunction(CK_SESSION_HANDLE h) { IN_SESSION(""); return CKR_FUNCTION_NOT_PARALLEL; }

/* ---- Objects ---------------------------------------------------------------------------- */

CK_RV C_CreateObject(CK_SESSION_HANDLE h, CK_ATTRIBUTE *t, CK_ULONG n, CK_OBJECT_HANDLE *object)
{
    IN_SESSION(" template=%s", template(t, n));
    *object = 1;
    return CKR_OK;
}
CK_RV C_CopyObject(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *t, CK_ULONG n, CK_OBJECT_HANDLE *copy)
{
    IN_SESSION(" object=%lu template=%s", object, template(t, n));
    *copy = 2;
    return CKR_OK;
}
CK_RV C_DestroyObject(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE object)
{
    IN_SESSION(" object=%lu", object);
    return CKR_OK;
}
CK_RV C_GetObjectSize(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE object, CK_ULONG *size)
{
    IN_SESSION(" object=%lu size=%s", object, P(size));
    *size = 64;
    return CKR_OK;
}
CK_RV C_GetAttributeValue(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *t, CK_ULONG n)
{
    static const CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    static const CK_KEY_TYPE type = CKK_GENERIC_SECRET;
    static const CK_ULONG sixteen = 16;
    static const CK_BYTE zeros[16];
    CK_RV rv = CKR_OK;
    IN_SESSION(" object=%lu template=%s", object, template(t, n));
    for (CK_ULONG i = 0; i < n; i++) {
        const void *value = zeros;
        CK_ULONG length = sizeof zeros;
        switch (t[i].type) {
        case CKA_CLASS: value = &class, length = sizeof class; break;
        case CKA_KEY_TYPE: value = &type, length = sizeof type; break;
        case CKA_VALUE_LEN: value = &sixteen, length = sizeof sixteen; break;
        case CKA_LABEL: value = "null", length = 4; break;
        case CKA_ID: length = 1; break;
        case CKA_TOKEN: case CKA_PRIVATE: case CKA_SENSITIVE: case CKA_ENCRYPT: case CKA_DECRYPT: case CKA_WRAP: case CKA_UNWRAP:
        case CKA_SIGN: case CKA_VERIFY: case CKA_DERIVE: case CKA_EXTRACTABLE: case CKA_LOCAL: case CKA_MODIFIABLE:
        case CKA_ALWAYS_AUTHENTICATE: case CKA_NEVER_EXTRACTABLE: case CKA_ALWAYS_SENSITIVE: case CKA_WRAP_WITH_TRUSTED:
            length = 1;
            break;
        default: break;
        }
        if (t[i].pValue && t[i].ulValueLen < length) {
            t[i].ulValueLen = (CK_ULONG)-1;
            rv = CKR_BUFFER_TOO_SMALL;
            continue;
        }
        if (t[i].pValue)
            memcpy(t[i].pValue, value, length);
        t[i].ulValueLen = length;
    }
    return rv;
}
CK_RV C_SetAttributeValue(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *t, CK_ULONG n)
{
    IN_SESSION(" object=%lu template=%s", object, template(t, n));
    return CKR_OK;
}
CK_RV C_FindObjectsInit(CK_SESSION_HANDLE h, CK_ATTRIBUTE *t, CK_ULONG n)
{
    IN_SESSION(" template=%s", template(t, n));
    searches = 1;
    return CKR_OK;
}
CK_RV C_FindObjects(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE *objects, CK_ULONG max, CK_ULONG *count)
{
    IN_SESSION(" objects=%s/%lu", P(objects), max);
    *count = 0;
    if (max > 0 && atomic_exchange(&searches, 0))
        objects[0] = 1, *count = 1;
    return CKR_OK;
}
CK_RV C_FindObjectsFinal(CK_SESSION_HANDLE h) { IN_SESSION(""); return CKR_OK; }

/* ---- Operations ------------------------------------------------------------------------- */

#define INIT(name) \
    CK_RV name(CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_OBJECT_HANDLE key) \
    { \
        IN_SESSION(" " MECHANISM " key=%lu", M(m), key); \
        return CKR_OK; \
    }
#define UPDATE(name) \
    CK_RV name(CK_SESSION_HANDLE h, CK_BYTE *data, CK_ULONG n) \
    { \
        IN_SESSION(" data=%s/%lu", P(data), n); \
        return CKR_OK; \
    }
#define ECHO(name) \
    CK_RV name(CK_SESSION_HANDLE h, CK_BYTE *data, CK_ULONG n, CK_BYTE *out, CK_ULONG *len) \
    { \
        IN_SESSION(" data=%s/%lu out=%s/%lu", P(data), n, P(out), out && len ? *len : 0); \
        return give(out, len, n ? data : NULL, n, 0); \
    }
#define FINAL(name, size, fill) \
    CK_RV name(CK_SESSION_HANDLE h, CK_BYTE *out, CK_ULONG *len) \
    { \
        IN_SESSION(" out=%s/%lu", P(out), out && len ? *len : 0); \
        return give(out, len, NULL, size, fill); \
    }

INIT(C_EncryptInit)
ECHO(C_Encrypt)
ECHO(C_EncryptUpdate)
FINAL(C_EncryptFinal, 0, 0)
INIT(C_DecryptInit)
ECHO(C_Decrypt)
ECHO(C_DecryptUpdate)
FINAL(C_DecryptFinal, 0, 0)
CK_RV C_DigestInit(CK_SESSION_HANDLE h, CK_MECHANISM *m)
{
    IN_SESSION(" " MECHANISM, M(m));
    return CKR_OK;
}
CK_RV C_Digest(CK_SESSION_HANDLE h, CK_BYTE *data, CK_ULONG n, CK_BYTE *out, CK_ULONG *len)
{
    IN_SESSION(" data=%s/%lu out=%s/%lu", P(data), n, P(out), out && len ? *len : 0);
    return give(out, len, NULL, 32, 0xd1);
}
UPDATE(C_DigestUpdate)
CK_RV C_DigestKey(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE key)
{
    IN_SESSION(" key=%lu", key);
    return CKR_OK;
}
FINAL(C_DigestFinal, 32, 0xd1)
/* Sends whoever listens to the worker what could pass for the record of another connection, and what could not. */
/* Appends a call that was never made to the memory that the worker shares with the auditor (server/audit/ring.rs), and
 * returns that memory. */
static volatile unsigned long *forge_record(void)
{
    static const unsigned char forged[] = {
        77, 0, 0, 0, 0, 0, 0, 0,              /* its number */
        0, 0, 0, 0, 0, 0, 0, 0,               /* when it began */
        28, 0, 0, 0,                          /* C_CreateObject */
        6, 0, 'f', 'o', 'r', 'g', 'e', 'd',   /* its module */
        0, 0, 0, 0,                           /* no session, mechanism, objects, attributes */
        1, 0, 0, 0, 0, 0, 0, 0, 0,            /* CKR_OK */
        0,                                    /* not refused */
    };
    char line[512];
    unsigned long start = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps && !start && fgets(line, sizeof line, maps))
        if (strstr(line, "/memfd:pkcs11proxyd audit"))
            start = strtoul(line, NULL, 16);
    if (maps)
        fclose(maps);
    if (!start)
        return NULL;
    volatile unsigned long *words = (volatile unsigned long *)start, head = words[0];
    unsigned long count = (sizeof forged + 7) / 8;
    words[64 + head % 4096] = sizeof forged;
    for (unsigned long i = 0; i < count; i++) {
        unsigned long word = 0;
        for (unsigned long b = 0; b < 8 && 8 * i + b < sizeof forged; b++)
            word |= (unsigned long)forged[8 * i + b] << 8 * b;
        words[64 + (head + 1 + i) % 4096] = word;
    }
    words[0] = head + 1 + count;
    return words;
}

static void forge(void)
{
    static const char *const messages[] = {
        "{\"call\":{\"call\":1,\"function\":42,\"module\":\"\",\"rv\":0,\"connection\":0}}",
        "{\"user\":\"CN=somebody else\"}",
        "{\"profile\":\"of somebody else\"}",
        "{\"Given\":{\"pid\":1,\"connection\":0,\"peer\":\"\",\"user\":\"\",\"service\":\"\"}}",
        "\n\"}{\"seq\":1}",
        "",
    };
    volatile unsigned long *words = forge_record();
    for (int fd = 3; fd < 64; fd++) {
        int type = 0;
        socklen_t size = sizeof type;
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_SEQPACKET)
            continue;
        /* Before the worker overwrites it with the record of this call. */
        send(fd, "\"wake\"", 6, MSG_NOSIGNAL);
        for (int i = 0; words && words[0] != words[8] && i < 1000; i++)
            sleep_ms(1);
        for (size_t i = 0; i < sizeof messages / sizeof *messages; i++)
            send(fd, messages[i], strlen(messages[i]), MSG_NOSIGNAL);
        static char much[64 << 10];
        send(fd, much, sizeof much, MSG_NOSIGNAL);
        /* What it shares with others would be of no use to them either. */
        fcntl(fd, F_SETFL, O_NONBLOCK);
        shutdown(fd, SHUT_RDWR);
    }
}

INIT(C_SignInit)
CK_RV C_Sign(CK_SESSION_HANDLE h, CK_BYTE *data, CK_ULONG n, CK_BYTE *out, CK_ULONG *len)
{
    CK_ULONG size = 256;
    IN_SESSION(" data=%s/%lu out=%s/%lu", P(data), n, P(out), out && len ? *len : 0);
    if (environment("NULLMODULE_OBEY") && data && n < 64) {
        char order[64] = "";
        memcpy(order, data, n);
        if (strcmp(order, "crash") == 0)
            crash();
        else if (strncmp(order, "sleep ", 6) == 0)
            sleep_ms(strtoul(order + 6, NULL, 0));
        else if (strncmp(order, "rv ", 3) == 0)
            return strtoul(order + 3, NULL, 0);
        else if (strncmp(order, "size ", 5) == 0)
            size = strtoul(order + 5, NULL, 0);
        else if (strncmp(order, "exit ", 5) == 0)
            exit(atoi(order + 5));
        else if (strncmp(order, "signal ", 7) == 0)
            raise(atoi(order + 7));
        else if (strcmp(order, "fork") == 0)
            fork_one();
        else if (strcmp(order, "forge") == 0)
            forge();
    }
    return give(out, len, NULL, size, 0x51);
}
UPDATE(C_SignUpdate)
FINAL(C_SignFinal, 256, 0x51)
INIT(C_SignRecoverInit)
ECHO(C_SignRecover)
INIT(C_VerifyInit)
CK_RV C_Verify(CK_SESSION_HANDLE h, CK_BYTE *data, CK_ULONG n, CK_BYTE *signature, CK_ULONG len)
{
    IN_SESSION(" data=%s/%lu signature=%s/%lu", P(data), n, P(signature), len);
    return CKR_OK;
}
UPDATE(C_VerifyUpdate)
UPDATE(C_VerifyFinal)
INIT(C_VerifyRecoverInit)
ECHO(C_VerifyRecover)
ECHO(C_DigestEncryptUpdate)
ECHO(C_DecryptDigestUpdate)
ECHO(C_SignEncryptUpdate)
ECHO(C_DecryptVerifyUpdate)

/* ---- Keys ------------------------------------------------------------------------------- */

CK_RV C_GenerateKey(CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_ATTRIBUTE *t, CK_ULONG n, CK_OBJECT_HANDLE *key)
{
    IN_SESSION(" " MECHANISM " template=%s", M(m), template(t, n));
    *key = 1;
    return CKR_OK;
}
CK_RV C_GenerateKeyPair(CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_ATTRIBUTE *t, CK_ULONG n, CK_ATTRIBUTE *u, CK_ULONG k,
                        CK_OBJECT_HANDLE *public, CK_OBJECT_HANDLE *private)
{
    IN_SESSION(" " MECHANISM " public=%s private=%s", M(m), template(t, n), template(u, k));
    *public = 1, *private = 2;
    return CKR_OK;
}
CK_RV C_WrapKey(CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_OBJECT_HANDLE with, CK_OBJECT_HANDLE key, CK_BYTE *out, CK_ULONG *len)
{
    IN_SESSION(" " MECHANISM " with=%lu key=%lu out=%s/%lu", M(m), with, key, P(out), out && len ? *len : 0);
    return give(out, len, NULL, 24, 0x77);
}
CK_RV C_UnwrapKey(CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_OBJECT_HANDLE with, CK_BYTE *wrapped, CK_ULONG length, CK_ATTRIBUTE *t,
                  CK_ULONG n, CK_OBJECT_HANDLE *key)
{
    IN_SESSION(" " MECHANISM " with=%lu wrapped=%s/%lu template=%s", M(m), with, P(wrapped), length, template(t, n));
    *key = 1;
    return CKR_OK;
}
CK_RV C_DeriveKey(CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_OBJECT_HANDLE base, CK_ATTRIBUTE *t, CK_ULONG n, CK_OBJECT_HANDLE *key)
{
    IN_SESSION(" " MECHANISM " base=%lu template=%s", M(m), base, template(t, n));
    *key = 1;
    return CKR_OK;
}
UPDATE(C_SeedRandom)
CK_RV C_GenerateRandom(CK_SESSION_HANDLE h, CK_BYTE *out, CK_ULONG n)
{
    IN_SESSION(" out=%s/%lu", P(out), n);
    memset(out, 0x42, n);
    return CKR_OK;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list)
{
    static CK_FUNCTION_LIST functions = {
        { 2, 20 }, C_Initialize, C_Finalize, C_GetInfo, C_GetFunctionList, C_GetSlotList, C_GetSlotInfo, C_GetTokenInfo, C_GetMechanismList,
        C_GetMechanismInfo, C_InitToken, C_InitPIN, C_SetPIN, C_OpenSession, C_CloseSession, C_CloseAllSessions, C_GetSessionInfo,
        C_GetOperationState, C_SetOperationState, C_Login, C_Logout, C_CreateObject, C_CopyObject, C_DestroyObject, C_GetObjectSize,
        C_GetAttributeValue, C_SetAttributeValue, C_FindObjectsInit, C_FindObjects, C_FindObjectsFinal, C_EncryptInit, C_Encrypt,
        C_EncryptUpdate, C_EncryptFinal, C_DecryptInit, C_Decrypt, C_DecryptUpdate, C_DecryptFinal, C_DigestInit, C_Digest, C_DigestUpdate,
        C_DigestKey, C_DigestFinal, C_SignInit, C_Sign, C_SignUpdate, C_SignFinal, C_SignRecoverInit, C_SignRecover, C_VerifyInit, C_Verify,
        C_VerifyUpdate, C_VerifyFinal, C_VerifyRecoverInit, C_VerifyRecover, C_DigestEncryptUpdate, C_DecryptDigestUpdate,
        C_SignEncryptUpdate, C_DecryptVerifyUpdate, C_GenerateKey, C_GenerateKeyPair, C_WrapKey, C_UnwrapKey, C_DeriveKey, C_SeedRandom,
        C_GenerateRandom, C_GetFunctionStatus, C_CancelFunction, C_WaitForSlotEvent,
    };
    if (!list)
        return CKR_ARGUMENTS_BAD;
    *list = &functions;
    return CKR_OK;
}
