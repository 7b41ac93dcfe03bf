//! Exports the functions for sessions and logins: PKCS#11 v3.0, section 5.6, and the obsolete functions of 5.20.

use cryptoki_sys::{
    CK_BYTE, CK_FLAGS, CK_NOTIFY, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_SESSION_INFO,
    CK_SESSION_VALIDATION_FLAGS_TYPE, CK_SLOT_ID, CK_ULONG, CK_USER_TYPE, CK_UTF8CHAR, CK_VOID_PTR,
};
use std::sync::Arc;

use xdr::word_size::{narrow, wide};
use xdr::{Call, CkRv, Flags, Function, Ulong, UserType};

use super::memory;
use super::memory::{Place, Places};
use super::{enter, object_handle, put_output, session_handle, slot_id};
use crate::notifications::Callback;
use crate::remote::{ask, result};
use crate::structures;

information! {
    /// Describes a session.
    C_GetSessionInfo(session: CK_SESSION_HANDLE => session_handle(session)) -> CK_SESSION_INFO
        = |answer: &xdr::SessionInfoResult| structures::session_info(&answer.info);
    /// Returns which validations apply to the operations of a session.
    C_GetSessionValidationFlags(
        session: CK_SESSION_HANDLE => session_handle(session),
        kind: CK_SESSION_VALIDATION_FLAGS_TYPE => Ulong(wide(kind))
    ) -> CK_FLAGS = |answer: &xdr::FlagsResult| structures::number(answer.flags.0);
}

/// Opens a session. The callback gets `application`, and runs in a thread that has a call in progress.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: CK_VOID_PTR,
    notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(session) };
        let callback = callback(notify, application);
        let (slot, flags) = (slot_id(slot), Flags(wide(flags)));
        let session = library.open_session(slot, flags, callback, place.nulls())?;
        place.put(structures::number(session.0)?);
        Ok(())
    })
}

/// The pointer that the application's callback gets. This library never follows it.
struct Application(CK_VOID_PTR);

// SAFETY: this library only passes the pointer back, in whichever thread a notification arrives; PKCS#11 (v2.20,
// section 11.17) asks the application to expect that.
unsafe impl Send for Application {}

// SAFETY: as above.
unsafe impl Sync for Application {}

fn callback(notify: CK_NOTIFY, application: CK_VOID_PTR) -> Option<Callback> {
    let notify = notify?;
    let application = Application(application);
    Some(Arc::new(move |session, event| {
        let Application(application) = &application;
        // SAFETY: the application passed this function to be called like this, for as long as its session lives.
        let rv = unsafe { notify(narrow(session.0), narrow(event), *application) };
        CkRv(wide(rv))
    }))
}

/// Closes a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CloseSession(session: CK_SESSION_HANDLE) -> CK_RV {
    enter(|library| library.only(Call::C_CloseSession(session_handle(session))))
}

/// Closes all sessions with a token.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CloseAllSessions(slot: CK_SLOT_ID) -> CK_RV {
    enter(|library| library.only(Call::C_CloseAllSessions(slot_id(slot))))
}

/// Logs in. With a null PIN, the token asks for the PIN itself (protected authentication path).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    length: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let pin = unsafe { memory::input(pin, length, CkRv::PIN_INCORRECT) }?;
        let user = UserType(wide(user));
        library.only(Call::C_Login(session_handle(session), user, pin))
    })
}

/// Logs in a user by name. With a null PIN, the token asks for the PIN itself (protected authentication path).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_LoginUser(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    pin_length: CK_ULONG,
    name: *mut CK_UTF8CHAR,
    name_length: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let pin = unsafe { memory::input(pin, pin_length, CkRv::PIN_INCORRECT) }?;
        // SAFETY: the contract of this module.
        let name = unsafe { memory::input(name, name_length, CkRv::ARGUMENTS_BAD) }?;
        let (session, user) = (session_handle(session), UserType(wide(user)));
        library.only(Call::C_LoginUser(session, user, pin, name))
    })
}

/// Cancels operations of a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SessionCancel(session: CK_SESSION_HANDLE, flags: CK_FLAGS) -> CK_RV {
    enter(|library| {
        let (session, flags) = (session_handle(session), Flags(wide(flags)));
        library.only(Call::C_SessionCancel(session, flags))
    })
}

of_session! {
    /// Logs out.
    C_Logout;
    /// Obsolete; the module answers it.
    C_GetFunctionStatus;
    /// Obsolete; the module answers it.
    C_CancelFunction;
}

to_bytes! {
    /// Saves the state of the session's operation.
    C_GetOperationState;
}

/// Restores the state of an operation that was saved earlier.
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
        let state = unsafe { memory::input(state, length, CkRv::SAVED_STATE_INVALID) }?;
        let session = session_handle(session);
        let keys = (
            object_handle(encryption_key),
            object_handle(authentication_key),
        );
        let call = Call::C_SetOperationState(session, state, keys.0, keys.1);
        library.only(call)
    })
}
