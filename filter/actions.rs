//! Skeleton, to be replaced: what an action is, and the table of their names. An action that is not
//! written yet refuses every call it is attached to.

use std::sync::atomic::{AtomicBool, Ordering};

use xdr::{Call, CkRv, Cryptoki, Function, ObjectHandle, Reply, SessionHandle};

use crate::{log, refusal};

/// What an action says of a call.
pub enum Verdict {
    /// The next check decides.
    Continue,
    /// This is the answer.
    Decide(Reply),
}

/// What an action may use; built by the engine for each call.
pub struct Context<'a> {
    /// The module, not filtered again.
    pub backend: &'a dyn Cryptoki,
    /// The name the client asked for.
    pub module: &'a [u8],
    /// Key usage segregation, for this connection.
    pub segregation: &'a AtomicBool,
    /// `wrapping_format_key`.
    pub wrapping_key: Option<&'a WrappingKey>,
    /// The configured level, for [`crate::log`].
    pub debug: u8,
}

/// Something done with calls beyond the rules.
pub trait Action: Send + Sync {
    /// Looks at a call; the default continues.
    fn judge(&self, _call: &Call<'_>, _context: &Context<'_>) -> Verdict {
        Verdict::Continue
    }

    /// Whether a found object is to be kept from the client (C_FindObjects).
    fn hides(
        &self,
        _session: SessionHandle,
        _object: ObjectHandle,
        _context: &Context<'_>,
    ) -> bool {
        false
    }
}

/// One action.
pub struct Row {
    /// What filter.conf calls it.
    pub name: &'static str,
    /// The functions it may be attached to; `None`: any.
    pub functions: Option<&'static [Function]>,
    /// Makes it.
    pub make: fn() -> Box<dyn Action>,
}

struct Logs;

impl Action for Logs {
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        log::debug(
            1,
            context.debug,
            format_args!("{} is called", call.function().name()),
        );
        Verdict::Continue
    }
}

struct Segregates;

impl Action for Segregates {
    fn judge(&self, _call: &Call<'_>, context: &Context<'_>) -> Verdict {
        context.segregation.store(true, Ordering::Relaxed);
        Verdict::Continue
    }
}

struct Unwritten;

impl Action for Unwritten {
    fn judge(&self, call: &Call<'_>, _context: &Context<'_>) -> Verdict {
        if call.function() == Function::C_FindObjects {
            return Verdict::Continue;
        }
        Verdict::Decide(refusal::refuse(call.function(), CkRv::FUNCTION_FAILED))
    }

    fn hides(
        &self,
        _session: SessionHandle,
        _object: ObjectHandle,
        _context: &Context<'_>,
    ) -> bool {
        true
    }
}

const EXISTING: &[Function] = &[
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
    Function::C_FindObjects,
];

const CREATION: &[Function] = &[
    Function::C_CreateObject,
    Function::C_CopyObject,
    Function::C_GenerateKey,
    Function::C_GenerateKeyPair,
    Function::C_UnwrapKey,
    Function::C_DeriveKey,
    Function::C_SetAttributeValue,
];

const fn unwritten(name: &'static str, functions: &'static [Function]) -> Row {
    Row {
        name,
        functions: Some(functions),
        make: || Box::new(Unwritten),
    }
}

/// The table.
pub const ACTIONS: &[Row] = &[
    Row {
        name: "identity",
        functions: None,
        make: || Box::new(Logs),
    },
    Row {
        name: "c_Initialize_hook",
        functions: None,
        make: || Box::new(Logs),
    },
    unwritten("c_Login_hook", &[Function::C_Login]),
    Row {
        name: "do_segregate_usage",
        functions: None,
        make: || Box::new(Segregates),
    },
    unwritten(
        "non_local_objects_patch",
        &[
            Function::C_CreateObject,
            Function::C_CopyObject,
            Function::C_SetAttributeValue,
        ],
    ),
    unwritten(
        "prevent_sensitive_leak_patch",
        &[Function::C_GetAttributeValue, Function::C_SetAttributeValue],
    ),
    unwritten("conflicting_attributes_patch", CREATION),
    unwritten("conflicting_attributes_patch_on_existing_objects", EXISTING),
    unwritten("dangerous_sensitive_keys_paranoid", EXISTING),
    unwritten("dangerous_sensitive_keys_escrow_encrypt", EXISTING),
    unwritten("dangerous_sensitive_keys_escrow_all", EXISTING),
    unwritten(
        "sticky_attributes_patch",
        &[Function::C_CopyObject, Function::C_SetAttributeValue],
    ),
    unwritten(
        "wrapping_format_patch",
        &[Function::C_WrapKey, Function::C_UnwrapKey],
    ),
    unwritten("secure_templates_patch", CREATION),
    unwritten("sanitize_creation_templates_patch", CREATION),
];

/// The action of this name.
pub fn row(name: &str) -> Option<&'static Row> {
    ACTIONS.iter().find(|row| row.name == name)
}

/// The key of `wrapping_format_patch`.
pub struct WrappingKey;

impl WrappingKey {
    /// From 32 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<WrappingKey> {
        (text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .then_some(WrappingKey)
    }
}
