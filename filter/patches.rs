//! The actions that filter.conf can name, one file for each patch of the original and of its name.
//!
//! `hooks` holds those that protect nothing. A file states its tables, then which calls they are
//! held against; `actions` has the names. What two of them share is here.

pub mod conflicting_attributes_patch;
pub mod existing_sensitive_keys_patch;
pub mod hooks;
pub mod non_local_objects_patch;
pub mod sanitize_creation_templates_patch;
pub mod secure_templates_patch;
pub mod sensitive_leak_patch;
pub mod sticky_attributes_patch;
pub mod wrapping_format_patch;

use bindings::ck::{narrow, wide};
use cryptoki_sys::CKM_CONCATENATE_BASE_AND_KEY;
use xdr::{Call, CkRv, Function, Mechanism, ObjectHandle, SessionHandle};

use crate::actions::{Context, Verdict};
use crate::attributes::Setting;

/// The functions that use a key which is there already.
///
/// C_SetOperationState is ours: the original lets any key be named there.
pub(crate) const KEY_USES: &[Function] = &[
    Function::C_EncryptInit,
    Function::C_DecryptInit,
    Function::C_SignInit,
    Function::C_SignRecoverInit,
    Function::C_VerifyInit,
    Function::C_VerifyRecoverInit,
    Function::C_DigestKey,
    Function::C_DeriveKey,
    Function::C_WrapKey,
    Function::C_UnwrapKey,
    Function::C_SetOperationState,
    Function::C_FindObjects,
];

/// The keys that a call of [`KEY_USES`] names; C_FindObjects names none.
pub(crate) fn keys_used(call: &Call<'_>) -> Option<(SessionHandle, Vec<ObjectHandle>)> {
    Some(match call {
        Call::C_EncryptInit(session, _, key)
        | Call::C_DecryptInit(session, _, key)
        | Call::C_SignInit(session, _, key)
        | Call::C_SignRecoverInit(session, _, key)
        | Call::C_VerifyInit(session, _, key)
        | Call::C_VerifyRecoverInit(session, _, key)
        | Call::C_DigestKey(session, key)
        | Call::C_UnwrapKey(session, _, key, ..) => (*session, vec![*key]),
        Call::C_WrapKey(session, _, wrapping, wrapped) => (*session, vec![*wrapping, *wrapped]),
        Call::C_DeriveKey(session, mechanism, base, _) => {
            let others = key_in_parameter(mechanism);
            (*session, [*base].into_iter().chain(others).collect())
        }
        Call::C_SetOperationState(session, _, encryption, authentication) => {
            // No handle: the operation has no such key.
            let keys = [*encryption, *authentication].into_iter();
            (*session, keys.filter(|key| key.0 != 0).collect())
        }
        _ => return None,
    })
}

/// The second key of a derivation that concatenates two.
fn key_in_parameter(mechanism: &Mechanism) -> Option<ObjectHandle> {
    if narrow(mechanism.mechanism_type.0) != CKM_CONCATENATE_BASE_AND_KEY {
        return None;
    }
    let handle = mechanism.parameter[..].try_into().ok()?;
    Some(ObjectHandle(wide(std::ffi::c_ulong::from_ne_bytes(handle))))
}

/// The CK_RV for an object whose attributes cannot be read: what the module said of the session,
/// the handle, the device or the library, else the `policy` of the action.
pub(crate) fn unreadable(rv: CkRv, policy: CkRv) -> CkRv {
    match rv {
        CkRv::HOST_MEMORY
        | CkRv::SLOT_ID_INVALID
        | CkRv::GENERAL_ERROR
        | CkRv::FUNCTION_FAILED
        | CkRv::DEVICE_ERROR
        | CkRv::DEVICE_MEMORY
        | CkRv::DEVICE_REMOVED
        | CkRv::KEY_HANDLE_INVALID
        | CkRv::OBJECT_HANDLE_INVALID
        | CkRv::SESSION_CLOSED
        | CkRv::SESSION_HANDLE_INVALID
        | CkRv::TOKEN_NOT_PRESENT
        | CkRv::TOKEN_NOT_RECOGNIZED
        | CkRv::USER_NOT_LOGGED_IN
        | CkRv::CRYPTOKI_NOT_INITIALIZED => rv,
        _ => policy,
    }
}

/// Refuses a call on an object whose attributes cannot be read.
pub(crate) fn refuse_unreadable(
    call: &Call<'_>,
    context: &Context<'_>,
    rv: CkRv,
    policy: CkRv,
) -> Verdict {
    context.refuse(
        call,
        unreadable(rv, policy),
        format_args!("the module answers {rv} to the object's attributes"),
    )
}

/// A setting as a log line shows it.
pub(crate) struct Shown(pub Setting);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (boolean, value) = self.0;
        let value = if value { "TRUE" } else { "FALSE" };
        write!(f, "{}={value}", boolean.name())
    }
}
