/*
 * A PKCS#11 module without state that tells what it was called with, and misbehaves on demand.
 *
 * tests/module.rs compiles it. TOLD | ... is a return value that carries what was seen. Which way a
 * function misbehaves is told by its session, slot or object handle. Compiled with -DEMPTY_LIST the
 * function list is empty, with -DMISSING_SYMBOL a function calls one that is nowhere; -DREFUSES,
 * -DNULL_LIST and -DNO_SYMBOL are modules that cannot be loaded. With -DPARALLEL it takes calls in parallel, and a
 * C_Encrypt stays in it until C_CancelFunction is called; C_GetFunctionStatus waits until it is there.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <pkcs11.h>

#define TOLD 0x80000000UL
#define TOLD_NULL 0x10000UL       /* the value, PIN or parameter is null */
#define TOLD_TEMPLATE 0x20000UL   /* the template is null */
#define TOLD_WRONG 0x40000UL      /* something that must never be */
#define UNAVAILABLE (~0UL)

#define BIG 100000UL

static CK_RV told(const void *address, CK_ULONG length)
{
    return TOLD | (address ? 0 : TOLD_NULL) | length;
}

static CK_RV told_mechanism(CK_MECHANISM *mechanism)
{
    const unsigned char *parameter = mechanism->pParameter;
    CK_ULONG position;
    if (parameter == NULL)
        return told(parameter, mechanism->ulParameterLen);
    if ((unsigned long)parameter % 8 != 0)
        return TOLD | TOLD_WRONG;
    for (position = mechanism->ulParameterLen; position < 256; position++)
        if (parameter[position] != 0)
            return TOLD | TOLD_WRONG;
    return told(parameter, mechanism->ulParameterLen);
}

static CK_RV told_template(CK_ATTRIBUTE *template, CK_ULONG count)
{
    if (template == NULL)
        return TOLD | TOLD_TEMPLATE | count;
    return count == 0 ? TOLD : told(template[0].pValue, template[0].ulValueLen);
}

/* By session: 1 echoes, 2 tells more than fits, 3 wants BIG bytes, 4 always wants one more, 5 fails
 * after scribbling, 6 wants 2^40 bytes, 7 tells of the input, 8 of the room, which must be zeros. */
static CK_RV put(CK_SESSION_HANDLE session, const unsigned char *in, CK_ULONG in_length,
                 unsigned char *out, CK_ULONG *out_length)
{
    CK_ULONG position, room = *out_length;
    switch (session) {
    case 1:
        memcpy(out, in, in_length);
        *out_length = in_length;
        return CKR_OK;
    case 2:
        *out_length = room + 1;
        return CKR_OK;
    case 3:
        *out_length = BIG;
        if (room < BIG)
            return CKR_BUFFER_TOO_SMALL;
        memset(out, 'B', BIG);
        return CKR_OK;
    case 4:
        *out_length = room + 1;
        return CKR_BUFFER_TOO_SMALL;
    case 6:
        *out_length = 1UL << 40;
        return CKR_BUFFER_TOO_SMALL;
    case 7:
        return told(in, in_length);
    case 8:
        for (position = 0; position < room; position++)
            if (out[position] != 0)
                return TOLD | TOLD_WRONG;
        return TOLD | room;
    default:
        memset(out, 'S', room);
        return CKR_DEVICE_ERROR;
    }
}

#ifdef MISSING_SYMBOL
extern void nowhere(void);
#endif

static CK_RV initialize(void *arguments)
{
#ifdef MISSING_SYMBOL
    nowhere();
#endif
#ifdef PARALLEL
    return CKR_OK;
#endif
    return arguments == NULL ? CKR_OK : TOLD | TOLD_WRONG;
}

static CK_RV get_slot_info(CK_SLOT_ID slot, CK_SLOT_INFO *info)
{
    return CKR_SLOT_ID_INVALID;
}

/* By `present`: 0 has three slots, 1 tells more than fits, 3 fails, 4 fails and tells a number. */
static CK_RV get_slot_list(unsigned char present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    CK_ULONG room = *count;
    switch (present) {
    case 0:
        *count = 3;
        if (slots == NULL)
            return CKR_OK;
        if (room < 3)
            return CKR_BUFFER_TOO_SMALL;
        slots[0] = 5, slots[1] = 6, slots[2] = 0x80000007UL;
        return CKR_OK;
    case 1:
        *count = room + 1;
        return CKR_OK;
    case 3:
        return CKR_DEVICE_ERROR;
    case 4:
        *count = 9;
        return CKR_DEVICE_ERROR;
    default:
        return TOLD | present;
    }
}

/* Fails, and scribbles where a size query expects the count. */
static CK_RV get_mechanism_list(CK_SLOT_ID slot, CK_MECHANISM_TYPE *list, CK_ULONG *count)
{
    if (list == NULL)
        *count = 4242;
    return list == NULL ? CKR_SLOT_ID_INVALID : TOLD | *count;
}

/* Slot 1 has a keypad, slot 2 none, slot 3 does not answer. */
static CK_RV get_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
    if (slot == 3)
        return CKR_SLOT_ID_INVALID;
    memset(info, ' ', 96);
    info->flags = slot == 1 ? CKF_PROTECTED_AUTHENTICATION_PATH : CKF_RNG;
    info->ulTotalPublicMemory = UNAVAILABLE;
    info->ulMaxPinLen = 255;
    return CKR_OK;
}

/* Session N is of slot N; session 9 fails after scribbling. */
static CK_RV get_session_info(CK_SESSION_HANDLE session, CK_SESSION_INFO *info)
{
    info->slotID = session;
    info->state = 3;
    return session == 9 ? CKR_SESSION_HANDLE_INVALID : CKR_OK;
}

static CK_RV init_token(CK_SLOT_ID slot, unsigned char *pin, unsigned long length,
                         unsigned char *label)
{
    if (memcmp(label, "gate                            ", 32) != 0)
        return TOLD | TOLD_WRONG;
    return told(pin, length);
}

static CK_RV init_pin(CK_SESSION_HANDLE session, unsigned char *pin, unsigned long length)
{
    return told(pin, length);
}

static CK_RV set_pin(CK_SESSION_HANDLE session, unsigned char *old, unsigned long old_length,
                     unsigned char *new, unsigned long new_length)
{
    if ((old == NULL) != (new == NULL))
        return TOLD | TOLD_WRONG;
    return told(old, old_length * 16 + new_length);
}

static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, unsigned char *pin,
                   unsigned long length)
{
    return told(pin, length);
}

/* Slot 9 fails after scribbling. */
static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify,
                          CK_SESSION_HANDLE *session)
{
    if (application != NULL || notify != NULL)
        return TOLD | TOLD_WRONG;
    *session = 0x80000001UL; /* OPENED */
    return slot == 9 ? CKR_DEVICE_ERROR : CKR_OK;
}

static CK_RV wait_for_slot_event(CK_FLAGS flags, CK_SLOT_ID *slot, void *reserved)
{
    *slot = 4;
    return reserved != NULL ? TOLD | TOLD_WRONG : flags == CKF_DONT_BLOCK ? CKR_NO_EVENT : CKR_OK;
}

static CK_RV create_object(CK_SESSION_HANDLE session, CK_ATTRIBUTE *template, unsigned long count,
                           CK_OBJECT_HANDLE *object)
{
    *object = 7;
    return told_template(template, count);
}

static CK_RV find_objects_init(CK_SESSION_HANDLE session, CK_ATTRIBUTE *template,
                               unsigned long count)
{
    return told_template(template, count);
}

/* Session 1 finds up to three objects, 2 tells more than fits, 3 fails after scribbling. */
static CK_RV find_objects(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *objects, unsigned long room,
                          unsigned long *count)
{
    CK_ULONG position;
    if (objects == NULL)
        return TOLD | TOLD_WRONG;
    *count = session == 2 ? room + 1 : room < 3 ? room : 3;
    for (position = 0; position < room && position < 3; position++)
        objects[position] = 100 + position;
    return session == 3 ? CKR_DEVICE_ERROR : CKR_OK;
}

static void answer(CK_ATTRIBUTE *attribute, const void *value, CK_ULONG length)
{
    if (attribute->pValue == NULL) {
        attribute->ulValueLen = length;
    } else if (attribute->ulValueLen < length) {
        attribute->ulValueLen = UNAVAILABLE;
    } else {
        memcpy(attribute->pValue, value, length);
        attribute->ulValueLen = length;
    }
}

/* Object 9 does not exist. CKA_VALUE is sensitive; CKA_OWNER and CKA_SUBJECT have absurd lengths,
 * CKA_AC_ISSUER one of 60 MB. CKA_WRAP_TEMPLATE has two attributes, CKA_UNWRAP_TEMPLATE none; room for either
 * would hold addresses of a client. */
static CK_RV get_attribute_value(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object,
                                 CK_ATTRIBUTE *template, unsigned long count)
{
    CK_ULONG position, class = CKO_SECRET_KEY;
    CK_RV rv = CKR_OK;
    if (object == 9)
        return CKR_OBJECT_HANDLE_INVALID;
    for (position = 0; position < count; position++) {
        CK_ATTRIBUTE *attribute = &template[position];
        switch (attribute->type) {
        case CKA_CLASS: answer(attribute, &class, sizeof class); break;
        case CKA_LABEL: answer(attribute, "label", 5); break;
        case CKA_APPLICATION: answer(attribute, "", 0); break;
        case CKA_ALLOWED_MECHANISMS: answer(attribute, "12345678", 8); break;
        case CKA_VALUE: attribute->ulValueLen = UNAVAILABLE; rv = CKR_ATTRIBUTE_SENSITIVE; break;
        case CKA_OWNER: attribute->ulValueLen = 1UL << 40; break;
        case CKA_SUBJECT: attribute->ulValueLen += 1; break;
        case CKA_AC_ISSUER: attribute->ulValueLen = 60000000; break;
        case CKA_WRAP_TEMPLATE:
        case CKA_UNWRAP_TEMPLATE:
            if (attribute->pValue || attribute->ulValueLen)
                abort();
            attribute->ulValueLen = attribute->type == CKA_WRAP_TEMPLATE ? 2 * sizeof(CK_ATTRIBUTE) : 0;
            break;
        default: abort();
        }
    }
    return rv;
}

static CK_RV set_attribute_value(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object,
                                 CK_ATTRIBUTE *template, unsigned long count)
{
    return told_template(template, count);
}

/* Object 9 fails after scribbling. */
static CK_RV get_object_size(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ULONG *size)
{
    *size = object == 1 ? UNAVAILABLE : 17;
    return object == 9 ? CKR_OBJECT_HANDLE_INVALID : CKR_OK;
}

/* What C_OpenSession gives. Its operations with OAEP go on reading the label where C_EncryptInit found it. Key 2 fails. */
#define OPENED 0x80000001UL

static CK_RSA_PKCS_OAEP_PARAMS oaep;

#ifdef PARALLEL
static atomic_int has_entered, goes_on;

static CK_RV wait_until_entered(CK_SESSION_HANDLE session)
{
    while (!has_entered)
        usleep(1000);
    return CKR_OK;
}

static CK_RV go_on(CK_SESSION_HANDLE session)
{
    goes_on = 1;
    return CKR_OK;
}

static CK_RV close_all_sessions(CK_SLOT_ID slot)
{
    return CKR_OK;
}
#endif

static CK_RV init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key)
{
    if (session == OPENED && mechanism->mechanism == CKM_RSA_PKCS_OAEP) {
        if (key == 2)
            return CKR_KEY_HANDLE_INVALID;
        oaep = *(CK_RSA_PKCS_OAEP_PARAMS *)mechanism->pParameter;
        return CKR_OK;
    }
    return told_mechanism(mechanism);
}

static CK_RV digest_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism)
{
    return told_mechanism(mechanism);
}

static CK_RV transform(CK_SESSION_HANDLE session, unsigned char *in, unsigned long in_length,
                       unsigned char *out, unsigned long *out_length)
{
#ifdef PARALLEL
    for (has_entered = 1; !goes_on;)
        usleep(1000);
#endif
    if (session == OPENED && oaep.pSourceData)
        return put(1, oaep.pSourceData, oaep.ulSourceDataLen, out, out_length);
    return put(session, in, in_length, out, out_length);
}

static CK_RV final(CK_SESSION_HANDLE session, unsigned char *out, unsigned long *out_length)
{
    return put(session, (const unsigned char *)"end", 3, out, out_length);
}

static CK_RV update(CK_SESSION_HANDLE session, unsigned char *in, unsigned long length)
{
    return told(in, length);
}

static CK_RV generate_key(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism,
                          CK_ATTRIBUTE *template, unsigned long count, CK_OBJECT_HANDLE *key)
{
    return told_mechanism(mechanism) | (template == NULL ? TOLD_TEMPLATE : 0);
}

static CK_RV generate_key_pair(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism,
                               CK_ATTRIBUTE *public, unsigned long public_count,
                               CK_ATTRIBUTE *private, unsigned long private_count,
                               CK_OBJECT_HANDLE *public_key, CK_OBJECT_HANDLE *private_key)
{
    *public_key = *private_key = 3;
    return told_mechanism(mechanism) | (public == NULL && private == NULL ? TOLD_TEMPLATE : 0);
}

static CK_RV wrap_key(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE wrapping,
                      CK_OBJECT_HANDLE key, unsigned char *wrapped, unsigned long *length)
{
    return session == 7 ? told_mechanism(mechanism) : final(session, wrapped, length);
}

static CK_RV unwrap_key(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key,
                        unsigned char *wrapped, unsigned long length, CK_ATTRIBUTE *template,
                        unsigned long count, CK_OBJECT_HANDLE *unwrapped)
{
    return told_mechanism(mechanism) | (template == NULL || wrapped == NULL ? TOLD_WRONG : 0);
}

static CK_RV derive_key(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE base,
                        CK_ATTRIBUTE *template, unsigned long count, CK_OBJECT_HANDLE *key)
{
    return told_mechanism(mechanism) | (template == NULL ? TOLD_WRONG : 0);
}

static CK_RV generate_random(CK_SESSION_HANDLE session, unsigned char *data, unsigned long length)
{
    memset(data, 'R', length);
    return session == 1 ? CKR_OK : CKR_DEVICE_ERROR;
}

static CK_FUNCTION_LIST list = {
    .version = { 2, 40 },
#ifndef EMPTY_LIST
    .C_Initialize = initialize,
    .C_Finalize = initialize,
    .C_GetSlotList = get_slot_list,
    .C_GetSlotInfo = get_slot_info,
    .C_GetTokenInfo = get_token_info,
    .C_GetMechanismList = get_mechanism_list,
    .C_GetSessionInfo = get_session_info,
    .C_WaitForSlotEvent = wait_for_slot_event,
    .C_InitToken = init_token,
    .C_InitPIN = init_pin,
    .C_SetPIN = set_pin,
    .C_Login = login,
    .C_OpenSession = open_session,
    .C_CreateObject = create_object,
    .C_FindObjectsInit = find_objects_init,
    .C_FindObjects = find_objects,
    .C_GetAttributeValue = get_attribute_value,
    .C_SetAttributeValue = set_attribute_value,
    .C_GetObjectSize = get_object_size,
    .C_EncryptInit = init,
    .C_SignInit = init,
    .C_DigestInit = digest_init,
    .C_Encrypt = transform,
    .C_Sign = transform,
    .C_SignFinal = final,
    .C_DigestUpdate = update,
    .C_GenerateKey = generate_key,
    .C_GenerateKeyPair = generate_key_pair,
    .C_WrapKey = wrap_key,
    .C_UnwrapKey = unwrap_key,
    .C_DeriveKey = derive_key,
    .C_GenerateRandom = generate_random,
#ifdef PARALLEL
    .C_GetFunctionStatus = wait_until_entered,
    .C_CancelFunction = go_on,
    .C_CloseAllSessions = close_all_sessions,
#endif
#endif
};

#ifndef NO_SYMBOL
CK_RV C_GetFunctionList(CK_FUNCTION_LIST **result)
{
#ifdef REFUSES
    return CKR_CANT_LOCK;
#endif
#ifndef NULL_LIST
    *result = &list;
#endif
    return CKR_OK;
}
#else
void *unused(void)
{
    return &list;
}
#endif
