//! The actions that filter.conf can name, one file for each patch of the original and of its name,
//! and `strong_wrapping_keys`, which the original does not have.
//!
//! `example_hooks` holds those that protect nothing. A file states its tables, then which calls they are
//! held against; `actions` has the names. What two of them share is here.

pub mod conflicting_attributes_patch;
pub mod example_hooks;
pub mod existing_sensitive_keys_patch;
pub mod non_local_objects_patch;
pub mod sanitize_creation_templates_patch;
pub mod secure_templates_patch;
pub mod sensitive_leak_patch;
pub mod sticky_attributes_patch;
pub mod strong_wrapping_keys;
pub mod wrapping_format_patch;

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

/// Why a call is refused whose keys are not to be told.
pub(crate) const UNKNOWN_PARAMETER: &str =
    "a parameter that may name keys and is not the standard's";

/// The keys that a call of [`KEY_USES`] names, in its mechanism's parameter too; C_FindObjects names
/// none. A parameter that might name any is refused with its CK_RV.
pub(crate) fn keys_used(
    call: &Call<'_>,
) -> Result<Option<(SessionHandle, Vec<ObjectHandle>)>, CkRv> {
    let (session, mechanism, mut keys): (_, Option<&Mechanism>, _) = match call {
        Call::C_EncryptInit(session, mechanism, key)
        | Call::C_DecryptInit(session, mechanism, key)
        | Call::C_SignInit(session, mechanism, key)
        | Call::C_SignRecoverInit(session, mechanism, key)
        | Call::C_VerifyInit(session, mechanism, key)
        | Call::C_VerifyRecoverInit(session, mechanism, key)
        | Call::C_UnwrapKey(session, mechanism, key, ..)
        | Call::C_DeriveKey(session, mechanism, key, _) => (session, Some(mechanism), vec![*key]),
        Call::C_DigestKey(session, key) => (session, None, vec![*key]),
        Call::C_WrapKey(session, mechanism, wrapping, wrapped) => {
            (session, Some(mechanism), vec![*wrapping, *wrapped])
        }
        Call::C_SetOperationState(session, _, encryption, authentication) => {
            // No handle: the operation has no such key.
            let keys = [*encryption, *authentication].into_iter();
            (session, None, keys.filter(|key| key.0 != 0).collect())
        }
        _ => return Ok(None),
    };
    if let Some(mechanism) = mechanism {
        let named = mechanism.named_keys()?;
        keys.extend(named.into_iter().filter(|key| key.0 != 0));
    }
    Ok(Some((*session, keys)))
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
pub(crate) fn refuse_unreadable(context: &Context<'_>, rv: CkRv, policy: CkRv) -> Verdict {
    context.refuse(
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
