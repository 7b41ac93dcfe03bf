/*
 * A PKCS#11 module whose C_GetInterface and C_GetInterfaceList answer as no standard says, each as a
 * module in use does or could. Its functions are few: C_GetInfo tells which function list it was
 * called through, in libraryVersion; C_GenerateRandom gives zeros. ODD_INTERFACE, a list of words,
 * says how it is odd:
 *
 *   null       C_GetInterface answers CKR_OK and a NULL interface for a version it does not have
 *   untouched  C_GetInterface answers CKR_OK for a version it does not have and writes nothing
 *   null-list  C_GetInterface answers CKR_OK and an interface without a function list
 *   no-name    the interfaces have no name
 *   keep       C_GetInterfaceList leaves the count as it is when there is more room than interfaces
 *   garbage    C_GetInterfaceList answers CKR_OK and a count of 2^40, whatever the room
 *   one-more   C_GetInterfaceList tells one interface more than it wrote
 *   refuse     both answer CKR_FUNCTION_NOT_SUPPORTED
 *   liar       the list of version 3.2 has the version 2.40 in it
 *   holes      the functions of 3.0 and 3.2 are NULL in the lists of 3.0 and 3.2
 *   only-2.40  there are no interfaces but 2.40
 *
 * Without it the module is an ordinary one of 2.40, 3.0 and 3.2.
 */
#include <pkcs11.h>
#include <stdlib.h>
#include <string.h>

static CK_FUNCTION_LIST list_2_40;
static CK_FUNCTION_LIST_3_0 list_3_0;
static CK_FUNCTION_LIST_3_2 list_3_2;
static CK_INTERFACE interfaces[3];
static CK_ULONG first;

static int is(const char *how)
{
    const char *all = getenv("ODD_INTERFACE");
    size_t length = strlen(how);
    for (; all && *all; all = strchr(all, ',') ? strchr(all, ',') + 1 : NULL)
        if (strncmp(all, how, length) == 0 && (all[length] == ',' || all[length] == 0))
            return 1;
    return 0;
}

static CK_RV fine(void *ignored) { (void)ignored; return CKR_OK; }

static CK_RV info(CK_INFO *to, CK_BYTE major, CK_BYTE minor)
{
    if (!to)
        return CKR_ARGUMENTS_BAD;
    memset(to, ' ', sizeof *to);
    to->cryptokiVersion = to->libraryVersion = (CK_VERSION){ major, minor };
    to->flags = 0;
    return CKR_OK;
}
static CK_RV info_2_40(CK_INFO *to) { return info(to, 2, 40); }
static CK_RV info_3_0(CK_INFO *to) { return info(to, 3, 0); }
static CK_RV info_3_2(CK_INFO *to) { return info(to, 3, 2); }

static CK_RV get_slot_list(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    (void)present;
    if (!count)
        return CKR_ARGUMENTS_BAD;
    if (slots && *count < 1)
        return CKR_BUFFER_TOO_SMALL;
    if (slots)
        *slots = 1;
    *count = 1;
    return CKR_OK;
}
static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE *session)
{
    (void)slot, (void)flags, (void)application, (void)notify;
    if (!session)
        return CKR_ARGUMENTS_BAD;
    *session = 1;
    return CKR_OK;
}
static CK_RV close_session(CK_SESSION_HANDLE session) { return session == 1 ? CKR_OK : CKR_SESSION_HANDLE_INVALID; }
static CK_RV generate_random(CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG length)
{
    if (data)
        memset(data, 0, length);
    return close_session(session);
}
static CK_RV session_cancel(CK_SESSION_HANDLE session, CK_FLAGS flags) { (void)flags; return close_session(session); }
static CK_RV validation_flags(CK_SESSION_HANDLE session, CK_SESSION_VALIDATION_FLAGS_TYPE type, CK_FLAGS *flags)
{
    (void)type;
    if (!flags)
        return CKR_ARGUMENTS_BAD;
    *flags = 0x32;
    return close_session(session);
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
    CK_ULONG there = 3 - first, room = count ? *count : 0;
    if (is("refuse"))
        return CKR_FUNCTION_NOT_SUPPORTED;
    if (!count)
        return CKR_ARGUMENTS_BAD;
    if (is("garbage")) {
        *count = 1UL << 40;
        return CKR_OK;
    }
    if (!list) {
        *count = there;
        return CKR_OK;
    }
    if (room < there) {
        *count = there;
        return CKR_BUFFER_TOO_SMALL;
    }
    memcpy(list, interfaces + first, there * sizeof *list);
    if (!is("keep"))
        *count = is("one-more") ? there + 1 : there;
    return CKR_OK;
}

CK_RV C_GetInterface(CK_UTF8CHAR *name, CK_VERSION *version, CK_INTERFACE **interface, CK_FLAGS flags)
{
    if (is("refuse"))
        return CKR_FUNCTION_NOT_SUPPORTED;
    if (!interface)
        return CKR_ARGUMENTS_BAD;
    for (CK_ULONG i = first; i < 3 && flags == 0 && (!name || strcmp((char *)name, "PKCS 11") == 0); i++) {
        const CK_VERSION its[3] = { { 3, 2 }, { 3, 0 }, { 2, 40 } };
        if (version && (version->major != its[i].major || version->minor != its[i].minor))
            continue;
        *interface = &interfaces[i];
        return CKR_OK;
    }
    if (is("null"))
        *interface = NULL;
    return is("null") || is("untouched") ? CKR_OK : CKR_FUNCTION_FAILED;
}

__attribute__((constructor)) static void prepare(void)
{
    list_3_2.version = is("liar") ? (CK_VERSION){ 2, 40 } : (CK_VERSION){ 3, 2 };
    list_3_2.C_Initialize = list_3_2.C_Finalize = fine;
    list_3_2.C_GetFunctionList = C_GetFunctionList;
    list_3_2.C_GetSlotList = get_slot_list;
    list_3_2.C_OpenSession = open_session;
    list_3_2.C_CloseSession = close_session;
    list_3_2.C_GenerateRandom = generate_random;
    list_3_2.C_GetInfo = info_3_2;
    memcpy(&list_2_40, &list_3_2, sizeof list_2_40);
    list_2_40.version = (CK_VERSION){ 2, 40 };
    list_2_40.C_GetInfo = info_2_40;
    if (!is("holes")) {
        list_3_2.C_GetInterfaceList = C_GetInterfaceList;
        list_3_2.C_GetInterface = C_GetInterface;
        list_3_2.C_SessionCancel = session_cancel;
        list_3_2.C_GetSessionValidationFlags = validation_flags;
    }
    memcpy(&list_3_0, &list_3_2, sizeof list_3_0);
    list_3_0.version = (CK_VERSION){ 3, 0 };
    list_3_0.C_GetInfo = info_3_0;
    void *lists[] = { &list_3_2, &list_3_0, &list_2_40 };
    for (int i = 0; i < 3; i++)
        interfaces[i] = (CK_INTERFACE){ is("no-name") ? NULL : (CK_UTF8CHAR *)"PKCS 11", is("null-list") ? NULL : lists[i], 0 };
    first = is("only-2.40") ? 2 : 0;
}
