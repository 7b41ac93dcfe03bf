//! Sessions and logging in: PKCS#11 v2.20, section 11.6, and the obsolete functions of 11.16.

use cryptoki_sys::{
    CK_BYTE, CK_FLAGS, CK_NOTIFY, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_SESSION_INFO,
    CK_SLOT_ID, CK_ULONG, CK_USER_TYPE, CK_UTF8CHAR, CK_VOID_PTR,
};
use xdr::{Call, CkRv, Cryptoki, Flags, UserType};

use super::memory;
use super::memory::{Place, Places};
use super::{enter, object_handle, session_handle, slot_id};
use crate::remote::ask;
use crate::structures;
use xdr::word_size::{narrow, wide};

information! {
    /// About a session.
    C_GetSessionInfo(session: CK_SESSION_HANDLE => session_handle(session)) -> CK_SESSION_INFO
        = |result: &xdr::SessionInfoResult| structures::session_info(&result.info);
}

/// Opens a session. Notifications do not cross: `application` and `notify` are not used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    _application: CK_VOID_PTR,
    _notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(session) }?;
        let session = library.open_session(slot_id(slot), Flags(wide(flags)))?;
        place.put(narrow(session.0));
        Ok(())
    })
}

/// Closes a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CloseSession(session: CK_SESSION_HANDLE) -> CK_RV {
    enter(|library| library.close_session(session_handle(session)))
}

/// Closes the sessions with a token.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CloseAllSessions(slot: CK_SLOT_ID) -> CK_RV {
    enter(|library| library.close_all_sessions(slot_id(slot)))
}

/// Logs in. A null PIN without length asks for the token's own way of entry.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    length: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let pin = unsafe { memory::bytes(pin, length, CkRv::PIN_INCORRECT) }?;
        let user = UserType(wide(user));
        library.only(Call::C_Login(session_handle(session), user, pin))
    })
}

of_session! {
    /// Logs out.
    C_Logout;
    /// Obsolete; the module answers.
    C_GetFunctionStatus;
    /// Obsolete; the module answers.
    C_CancelFunction;
}

to_bytes! {
    /// Reads out the session's operation.
    C_GetOperationState;
}

/// Puts back an operation read out earlier.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SetOperationState(
    session: CK_SESSION_HANDLE,
    state: *mut CK_BYTE,
    length: CK_ULONG,
    encryption_key: CK_OBJECT_HANDLE,
    authentication_key: CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let state = unsafe { memory::bytes(state, length, CkRv::SAVED_STATE_INVALID) }?;
        let session = session_handle(session);
        let keys = (
            object_handle(encryption_key),
            object_handle(authentication_key),
        );
        let call = Call::C_SetOperationState(session, state, keys.0, keys.1);
        library.set_operation_state(session, call)
    })
}
