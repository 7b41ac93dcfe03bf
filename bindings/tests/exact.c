/*
 * A PKCS#11 module of version 3.2 for what version 4 of the protocol can say: NULL beside empty, the caller's
 * room, arrays of attributes, messages, threads, notifications.
 *
 * TOLD | ... is a return value that carries what a function was called with. Which way a function behaves is told
 * by its session, slot or object handle. C_GetInfo tells what C_Initialize got and how many calls were in the
 * module at once. Compiled with
 *
 *   -DCANT_LOCK       C_Initialize refuses to lock
 *   -DNO_ARGUMENTS    C_Initialize takes NULL only
 *   -DNO_EVENTS       C_WaitForSlotEvent is not supported
 *   -DNEVER           no slot event comes
 *   -DMINOR=0         the newest interface is 3.0; -DMINOR=1 likewise
 *   -DODD             C_GetInterface answers CKR_OK and NULL for 3.2, another name for 3.1, and for 3.0 a list
 *                     whose version is 2.40
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <pkcs11.h>

#define TOLD 0x80000000UL
#define TOLD_NULL 0x10000UL    /* the pointer is null */
#define TOLD_WRONG 0x40000UL   /* something that must never be */
#define UNAVAILABLE CK_UNAVAILABLE_INFORMATION

#ifndef MINOR
#define MINOR 2
#endif

static CK_RV told(const void *address, CK_ULONG length)
{
    return TOLD | (address ? 0 : TOLD_NULL) | length;
}

/* ---- Threads ------------------------------------------------------------------------------------- */

static struct {
    int initialized, got_null, refused;
    CK_FLAGS flags;
    char string[32];
} state;

static atomic_int inside, most;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t finalized = PTHREAD_COND_INITIALIZER;
static atomic_int polls;

static CK_RV initialize(void *pointer)
{
    /* NSS's structure: a string, and a reserved pointer behind it. */
    struct { CK_C_INITIALIZE_ARGS standard; void *reserved; } *arguments = pointer;
    if (state.initialized)
        return CKR_CRYPTOKI_ALREADY_INITIALIZED;
    memset(state.string, ' ', sizeof state.string);
    state.got_null = arguments == NULL;
    state.flags = 0;
    if (arguments) {
        CK_C_INITIALIZE_ARGS *standard = &arguments->standard;
        if (standard->CreateMutex || standard->DestroyMutex || standard->LockMutex ||
            standard->UnlockMutex || arguments->reserved)
            return TOLD | TOLD_WRONG;
        state.flags = standard->flags;
        if (standard->pReserved)
            memcpy(state.string, standard->pReserved, strlen(standard->pReserved));
#ifdef CANT_LOCK
        if (state.flags & CKF_OS_LOCKING_OK)
            return state.refused++, CKR_CANT_LOCK;
#endif
#ifdef NO_ARGUMENTS
        return state.refused++, CKR_ARGUMENTS_BAD;
#endif
    }
    state.initialized = 1;
    return CKR_OK;
}

static CK_RV finalize(void *reserved)
{
    if (reserved)
        return TOLD | TOLD_WRONG;
    if (!state.initialized)
        return CKR_CRYPTOKI_NOT_INITIALIZED;
    if (inside)
        return TOLD | TOLD_WRONG;
    pthread_mutex_lock(&lock);
    state.initialized = 0;
    pthread_cond_broadcast(&finalized);
    pthread_mutex_unlock(&lock);
    return CKR_OK;
}

/* The flags: those of C_Initialize, 0x100 if it got NULL, 0x10000 for each call that was in the module
 * at once. The library's version: how often it refused. */
static CK_RV get_info(CK_INFO *info)
{
    memset(info, ' ', sizeof *info);
    info->flags = state.flags | (state.got_null ? 0x100 : 0) | (CK_FLAGS)most << 16;
    info->cryptokiVersion = (CK_VERSION){ 3, MINOR };
    info->libraryVersion = (CK_VERSION){ 0, state.refused };
    memcpy(info->libraryDescription, state.string, 32);
    return CKR_OK;
}

/* Calls that stay in the module for a while, so that others come in meanwhile. */
static void stay(void)
{
    int now = ++inside, before = most;
    while (now > before && !atomic_compare_exchange_weak(&most, &before, now))
        ;
    usleep(50000);
    inside--;
}

static CK_RV wait_for_slot_event(CK_FLAGS flags, CK_SLOT_ID *slot, void *reserved)
{
    if (reserved)
        return TOLD | TOLD_WRONG;
#ifdef NO_EVENTS
    return CKR_FUNCTION_NOT_SUPPORTED;
#endif
    if (flags & CKF_DONT_BLOCK) {
#ifdef NEVER
        return CKR_NO_EVENT;
#endif
        if (polls++ < 3)
            return CKR_NO_EVENT;
        *slot = 6;
        return CKR_OK;
    }
    pthread_mutex_lock(&lock);
    while (state.initialized)
        pthread_cond_wait(&finalized, &lock);
    pthread_mutex_unlock(&lock);
    return CKR_CRYPTOKI_NOT_INITIALIZED;
}

/* ---- Lists and outputs ---------------------------------------------------------------------------- */

static CK_RV get_slot_list(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    if (count == NULL)
        return told(slots, 77);
    if (slots == NULL && present == 1)
        return told(slots, *count); /* leaves the count alone */
    if (slots != NULL && *count < 2) {
        *count = 2;
        return CKR_BUFFER_TOO_SMALL;
    }
    if (slots != NULL)
        slots[0] = 5, slots[1] = 0x80000007UL;
    *count = 2;
    return CKR_OK;
}

static CK_RV get_mechanism_list(CK_SLOT_ID slot, CK_MECHANISM_TYPE *list, CK_ULONG *count)
{
    return told(list, count ? *count : 77);
}

static CK_RV find_objects(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *objects, CK_ULONG room,
                          CK_ULONG *count)
{
    if (count == NULL)
        return told(objects, room | 0x100);
    if (objects == NULL) {
        *count = 3;
        return told(objects, room);
    }
    *count = room < 3 ? room : 3;
    for (CK_ULONG position = 0; position < *count; position++)
        objects[position] = 100 + position;
    return CKR_OK;
}

static CK_RV init_token(CK_SLOT_ID slot, CK_UTF8CHAR *pin, CK_ULONG length, CK_UTF8CHAR *label)
{
    if (label == NULL)
        return told(pin, length | 0x100);
    return label[4] == 0 && label[31] == 'x' ? told(pin, length) : TOLD | TOLD_WRONG;
}

static CK_RV login_user(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR *pin,
                        CK_ULONG length, CK_UTF8CHAR *name, CK_ULONG name_length)
{
    return told(pin, length << 4 | name_length | (name ? 0 : 0x100));
}

static CK_RV digest(CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG length, CK_BYTE *out,
                    CK_ULONG *out_length)
{
    if (out_length == NULL)
        return told(out, 0x700);
    if (out == NULL)
        return told(out, *out_length);
    memset(out, 'D', length);
    *out_length = length;
    return session == 5 ? CKR_DEVICE_ERROR : CKR_OK;
}

static CK_RV generate_random(CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG length)
{
    return told(data, length);
}

/* ---- Objects -------------------------------------------------------------------------------------- */

/* How deep templates nest, and how many attributes all of them have together. */
static void count_attributes(CK_ATTRIBUTE *template, CK_ULONG count, CK_ULONG depth, CK_ULONG *all,
                             CK_ULONG *deepest)
{
    if (depth > *deepest)
        *deepest = depth;
    for (CK_ULONG position = 0; position < count; position++) {
        CK_ATTRIBUTE *attribute = &template[position];
        ++*all;
        if (attribute->type == CKA_WRAP_TEMPLATE && attribute->pValue)
            count_attributes(attribute->pValue, attribute->ulValueLen / sizeof *template,
                             depth + 1, all, deepest);
    }
}

/* By session: 1 tells of the first attribute, 2 of the whole, 3 of the template itself, 4 fails after writing 0 to
 * the handle. */
static CK_RV create_object(CK_SESSION_HANDLE session, CK_ATTRIBUTE *template, CK_ULONG count,
                           CK_OBJECT_HANDLE *object)
{
    CK_ULONG all = 0, deepest = 0;
    switch (session) {
    case 1:
        return told(template[0].pValue, template[0].ulValueLen);
    case 2:
        count_attributes(template, count, 1, &all, &deepest);
        return TOLD | deepest << 8 | all;
    case 3:
        return told(template, count);
    case 4:
        *object = 0;
        return CKR_DEVICE_ERROR;
    default:
        return CKR_OK;
    }
}

static void answer(CK_ATTRIBUTE *attribute, const void *value, CK_ULONG length, CK_RV *rv)
{
    if (attribute->pValue != NULL && attribute->ulValueLen < length) {
        attribute->ulValueLen = UNAVAILABLE;
        *rv = CKR_BUFFER_TOO_SMALL;
        return;
    }
    if (attribute->pValue != NULL)
        memcpy(attribute->pValue, value, length);
    attribute->ulValueLen = length;
}

/* The wrap template: CKA_SENSITIVE, then CKA_LABEL. */
static void answer_template(CK_ATTRIBUTE *attribute, CK_RV *rv)
{
    static const CK_BBOOL yes = CK_TRUE;
    CK_ATTRIBUTE *inner = attribute->pValue;
    if (inner != NULL && attribute->ulValueLen < 2 * sizeof *inner) {
        attribute->ulValueLen = UNAVAILABLE;
        *rv = CKR_BUFFER_TOO_SMALL;
        return;
    }
    attribute->ulValueLen = 2 * sizeof *inner;
    if (inner == NULL)
        return;
    inner[0].type = CKA_SENSITIVE;
    answer(&inner[0], &yes, 1, rv);
    inner[1].type = CKA_LABEL;
    answer(&inner[1], "inner", 5, rv);
}

/* By object: 1 answers; 2 does not exist; 3 stops at the first attribute; 4 fails after it has changed a length; 5
 * claims more than fits; 6 tells of the first attribute; 7 puts templates where bytes are expected;
 * 8 has an odd length of a template; 9 tells of the template itself; 10 fails after it has changed an
 * attribute of a template. */
static CK_RV get_attribute_value(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object,
                                 CK_ATTRIBUTE *template, CK_ULONG count)
{
    CK_RV rv = CKR_OK;
    CK_ATTRIBUTE *inner;
    CK_ULONG position, class = CKO_SECRET_KEY;
    switch (object) {
    case 2:
        return CKR_OBJECT_HANDLE_INVALID;
    case 3:
        template[0].ulValueLen = UNAVAILABLE;
        return CKR_ATTRIBUTE_SENSITIVE;
    case 4:
        template[0].ulValueLen = 3;
        return CKR_DEVICE_ERROR;
    case 5:
        template[0].ulValueLen += 1;
        return CKR_OK;
    case 6:
        return told(template[0].pValue, template[0].ulValueLen);
    case 7:
        inner = template[0].pValue;
        inner[0].type = CKA_UNWRAP_TEMPLATE;
        inner[0].ulValueLen = sizeof *inner;
        /* As a module does with a template: it follows the pointers that are there. */
        if (((CK_ATTRIBUTE *)inner[0].pValue)->pValue != NULL)
            return TOLD | TOLD_WRONG;
        ((CK_ATTRIBUTE *)inner[0].pValue)->pValue = inner;
        template[0].ulValueLen = sizeof *inner;
        return CKR_OK;
    case 8:
        template[0].ulValueLen = sizeof *inner + 1;
        return CKR_OK;
    case 9:
        return told(template, count);
    case 10:
        inner = template[0].pValue;
        inner[0].ulValueLen = UNAVAILABLE;
        return CKR_GENERAL_ERROR;
    }
    for (position = 0; position < count; position++) {
        CK_ATTRIBUTE *attribute = &template[position];
        switch (attribute->type) {
        case CKA_CLASS: answer(attribute, &class, sizeof class, &rv); break;
        case CKA_LABEL: answer(attribute, "label", 5, &rv); break;
        case CKA_WRAP_TEMPLATE: answer_template(attribute, &rv); break;
        case CKA_VALUE: attribute->ulValueLen = UNAVAILABLE, rv = CKR_ATTRIBUTE_SENSITIVE; break;
        default: abort();
        }
    }
    return rv;
}

/* ---- Sessions and notifications ------------------------------------------------------------------- */

#define MOST_SESSIONS 64
static struct { int open; CK_SLOT_ID slot; CK_NOTIFY notify; void *application; CK_MECHANISM_TYPE message; }
    sessions[MOST_SESSIONS];

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify,
                          CK_SESSION_HANDLE *session)
{
    CK_ULONG number;
    if (flags & CKF_ASYNC_SESSION && MINOR >= 2)
        abort();
    if ((application != NULL) != (notify != NULL))
        return TOLD | TOLD_WRONG;
    for (number = 1; number < MOST_SESSIONS && sessions[number].open; number++)
        ;
    sessions[number].open = 1;
    sessions[number].slot = slot;
    sessions[number].notify = notify;
    sessions[number].application = application;
    sessions[number].message = 0;
    *session = number;
    return CKR_OK;
}

static CK_RV known(CK_SESSION_HANDLE session)
{
    return session < MOST_SESSIONS && sessions[session].open ? CKR_OK : CKR_SESSION_HANDLE_INVALID;
}

static CK_RV get_session_info(CK_SESSION_HANDLE session, CK_SESSION_INFO *info)
{
    memset(info, 0, sizeof *info);
    return known(session);
}

static CK_RV close_session(CK_SESSION_HANDLE session)
{
    CK_RV rv = known(session);
    if (rv == CKR_OK)
        sessions[session].open = 0;
    return rv;
}

static CK_RV close_all_sessions(CK_SLOT_ID slot)
{
    for (CK_ULONG number = 1; number < MOST_SESSIONS; number++)
        if (sessions[number].slot == slot)
            sessions[number].open = 0;
    return CKR_OK;
}

/* Stays for a while. In a session with a callback: asks it. */
static CK_RV sign(CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG length, CK_BYTE *out,
                  CK_ULONG *out_length)
{
    if (known(session) == CKR_OK && sessions[session].notify) {
        CK_RV rv = sessions[session].notify(session, data[0], sessions[session].application);
        return rv == CKR_OK ? CKR_OK : rv == CKR_CANCEL ? CKR_FUNCTION_CANCELED : TOLD | rv;
    }
    stay();
    *out_length = 0;
    return CKR_OK;
}

/* A state of 9 bytes is refused. */
static CK_RV set_operation_state(CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG length,
                                 CK_OBJECT_HANDLE encryption, CK_OBJECT_HANDLE authentication)
{
    return length == 9 ? CKR_SAVED_STATE_INVALID : CKR_OK;
}

/* ---- Messages ------------------------------------------------------------------------------------- */

/* Key 9 is refused. */
static CK_RV message_encrypt_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism,
                                  CK_OBJECT_HANDLE key)
{
    CK_RV rv = known(session);
    if (rv != CKR_OK || key == 9)
        return rv != CKR_OK ? rv : CKR_KEY_HANDLE_INVALID;
    if (mechanism != NULL && sessions[session].message != 0)
        return CKR_OPERATION_ACTIVE;
    sessions[session].message = mechanism ? mechanism->mechanism : 0;
    return CKR_OK;
}

/* CKM_AES_GCM only: writes IV and tag. Ciphertext is plaintext. Any parameter without an operation is wrong: we
 * cannot know what it is. */
static CK_RV encrypt_message(CK_SESSION_HANDLE session, void *parameter, CK_ULONG parameter_length,
                             CK_BYTE *associated, CK_ULONG associated_length, CK_BYTE *plaintext,
                             CK_ULONG plaintext_length, CK_BYTE *out, CK_ULONG *out_length)
{
    CK_GCM_MESSAGE_PARAMS *gcm = parameter;
    if (known(session) != CKR_OK || sessions[session].message != CKM_AES_GCM ||
        parameter_length != sizeof *gcm)
        return TOLD | TOLD_WRONG;
    if (*out_length < plaintext_length)
        return *out_length = plaintext_length, CKR_BUFFER_TOO_SMALL;
    memset(gcm->pIv, 'I', gcm->ulIvLen);
    memset(gcm->pTag, 'T', gcm->ulTagBits / 8);
    memcpy(out, plaintext, plaintext_length);
    *out_length = plaintext_length;
    return CKR_OK;
}

static CK_RV encrypt_message_next(CK_SESSION_HANDLE session, void *parameter,
                                  CK_ULONG parameter_length, CK_BYTE *part, CK_ULONG part_length,
                                  CK_BYTE *out, CK_ULONG *out_length, CK_FLAGS flags)
{
    return told(out, part_length << 8 | flags);
}

static CK_RV message_encrypt_final(CK_SESSION_HANDLE session)
{
    sessions[session].message = 0;
    return CKR_OK;
}

static CK_RV session_cancel(CK_SESSION_HANDLE session, CK_FLAGS flags)
{
    sessions[session].message = 0;
    return CKR_OK;
}

static CK_RV message_verify_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism,
                                 CK_OBJECT_HANDLE key)
{
    return CKR_OK;
}

static CK_RV verify_message_next(CK_SESSION_HANDLE session, void *parameter,
                                 CK_ULONG parameter_length, CK_BYTE *part, CK_ULONG part_length,
                                 CK_BYTE *signature, CK_ULONG signature_length)
{
    return told(signature, part_length << 8 | signature_length);
}

/* ---- Version 3.2 ---------------------------------------------------------------------------------- */

static CK_RV encapsulate_key(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism,
                             CK_OBJECT_HANDLE public_key, CK_ATTRIBUTE *template, CK_ULONG count,
                             CK_BYTE *out, CK_ULONG *out_length, CK_OBJECT_HANDLE *key)
{
    CK_ULONG room = *out_length;
    *out_length = 4;
    if (out == NULL || room < 4)
        return out ? CKR_BUFFER_TOO_SMALL : CKR_OK;
    memcpy(out, "text", 4);
    *key = public_key + count;
    return CKR_OK;
}

static CK_RV decapsulate_key(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism,
                             CK_OBJECT_HANDLE private_key, CK_ATTRIBUTE *template, CK_ULONG count,
                             CK_BYTE *text, CK_ULONG length, CK_OBJECT_HANDLE *key)
{
    return told(text, private_key << 8 | count << 4 | length);
}

static CK_RV wrap_key_authenticated(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism,
                                    CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key,
                                    CK_BYTE *associated, CK_ULONG associated_length, CK_BYTE *out,
                                    CK_ULONG *out_length)
{
    return told(associated, wrapping << 12 | key << 8 | associated_length << 4 | *out_length);
}

static CK_RV unwrap_key_authenticated(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism,
                                      CK_OBJECT_HANDLE key, CK_BYTE *wrapped, CK_ULONG length,
                                      CK_ATTRIBUTE *template, CK_ULONG count, CK_BYTE *associated,
                                      CK_ULONG associated_length, CK_OBJECT_HANDLE *unwrapped)
{
    return told(associated, key << 12 | length << 8 | count << 4 | associated_length);
}

static CK_RV verify_signature_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism,
                                   CK_OBJECT_HANDLE key, CK_BYTE *signature, CK_ULONG length)
{
    return told(signature, key << 8 | length);
}

static CK_RV get_session_validation_flags(CK_SESSION_HANDLE session,
                                          CK_SESSION_VALIDATION_FLAGS_TYPE kind, CK_FLAGS *flags)
{
    *flags = kind + 40;
    return session == 9 ? CKR_SESSION_HANDLE_INVALID : CKR_OK;
}

/* In session 1, a module that has a result in memory of its own. */
static CK_RV async_complete(CK_SESSION_HANDLE session, CK_UTF8CHAR *function, CK_ASYNC_DATA *data)
{
    if (data->pValue || data->ulValue || strcmp((char *)function, "C_Sign") != 0)
        return TOLD | TOLD_WRONG;
    data->pValue = session == 1 ? (CK_BYTE *)16 : NULL;
    data->ulValue = 5;
    data->hObject = 7;
    return session == 3 ? CKR_OPERATION_NOT_INITIALIZED : CKR_OK;
}

static CK_RV async_join(CK_SESSION_HANDLE session, CK_UTF8CHAR *function, CK_ULONG id, CK_BYTE *data,
                        CK_ULONG length)
{
    return told(data, id << 8 | length);
}

/* ---- Lists of functions --------------------------------------------------------------------------- */

#define OLD_FUNCTIONS \
    .C_Initialize = initialize, .C_Finalize = finalize, .C_GetInfo = get_info, \
    .C_GetSlotList = get_slot_list, .C_GetMechanismList = get_mechanism_list, \
    .C_WaitForSlotEvent = wait_for_slot_event, .C_InitToken = init_token, \
    .C_FindObjects = find_objects, .C_Digest = digest, .C_Sign = sign, .C_Decrypt = digest, \
    .C_GenerateRandom = generate_random, .C_CreateObject = create_object, \
    .C_GetAttributeValue = get_attribute_value, .C_OpenSession = open_session, \
    .C_CloseSession = close_session, .C_CloseAllSessions = close_all_sessions, \
    .C_GetSessionInfo = get_session_info, .C_SetOperationState = set_operation_state

#define FUNCTIONS_OF_3_0 \
    .C_LoginUser = login_user, .C_SessionCancel = session_cancel, \
    .C_MessageEncryptInit = message_encrypt_init, .C_EncryptMessage = encrypt_message, \
    .C_EncryptMessageNext = encrypt_message_next, .C_MessageEncryptFinal = message_encrypt_final, \
    .C_MessageVerifyInit = message_verify_init, .C_VerifyMessageNext = verify_message_next

static CK_FUNCTION_LIST oldest = { .version = { 2, 40 }, OLD_FUNCTIONS };

static CK_FUNCTION_LIST_3_0 middle = {
#ifdef ODD
    .version = { 2, 40 },
#else
    .version = { 3, MINOR < 2 ? MINOR : 0 },
#endif
    OLD_FUNCTIONS, FUNCTIONS_OF_3_0
};

static CK_FUNCTION_LIST_3_2 newest = {
    .version = { 3, 2 },
    OLD_FUNCTIONS, FUNCTIONS_OF_3_0,
    .C_EncapsulateKey = encapsulate_key, .C_DecapsulateKey = decapsulate_key,
    .C_WrapKeyAuthenticated = wrap_key_authenticated,
    .C_UnwrapKeyAuthenticated = unwrap_key_authenticated,
    .C_VerifySignatureInit = verify_signature_init,
    .C_GetSessionValidationFlags = get_session_validation_flags,
    .C_AsyncComplete = async_complete, .C_AsyncJoin = async_join,
};

CK_RV C_GetFunctionList(CK_FUNCTION_LIST **result)
{
    *result = &oldest;
    return CKR_OK;
}

CK_RV C_GetInterface(CK_UTF8CHAR *name, CK_VERSION *version, CK_INTERFACE **result, CK_FLAGS flags)
{
    static CK_INTERFACE of_3_2 = { (CK_CHAR *)"PKCS 11", &newest, 0 };
    static CK_INTERFACE of_3_0 = { (CK_CHAR *)"PKCS 11", &middle, 0 };
    if (strcmp((char *)name, "PKCS 11") != 0 || version == NULL || flags != 0)
        abort();
#ifdef ODD
    static CK_INTERFACE other = { (CK_CHAR *)"PKCS 11 vendor", &newest, 0 };
    *result = version->minor == 2 ? NULL : version->minor == 1 ? &other : &of_3_0;
    return CKR_OK;
#endif
    if (version->major != 3 || version->minor > MINOR || (MINOR < 2 && version->minor != MINOR))
        return CKR_FUNCTION_FAILED;
    *result = version->minor == 2 ? &of_3_2 : &of_3_0;
    return CKR_OK;
}
