//! Implements the actions that filter.conf can name: one file for each patch of the original, under its name, and
//! `strong_wrapping_keys`, which the original does not have.
//!
//! Each file begins with its tables, then says which calls are judged by them; `actions` has the names. This file has
//! what the actions share: how they refuse a call, which keys a call uses, and which objects it makes or changes. The
//! latter two come from the arguments' roles in `xdr::facts`.

pub mod conflicting_attributes_patch;
pub mod do_segregate_usage;
pub mod example_hooks;
pub mod existing_sensitive_keys_patch;
pub mod non_local_objects_patch;
pub mod sanitize_creation_templates_patch;
pub mod secure_templates_patch;
pub mod sensitive_leak_patch;
pub mod sticky_attributes_patch;
pub mod strong_wrapping_keys;
pub mod wrapping_format_patch;

use cryptoki_sys::{
    CKA_DECAPSULATE_TEMPLATE, CKA_DERIVE_TEMPLATE, CKA_ENCAPSULATE_TEMPLATE, CKA_UNWRAP_TEMPLATE,
};
use xdr::facts::{Argument, Role};
use xdr::word_size::wide;
use xdr::{AttributeType, Call, CkRv, Function, ObjectHandle, SessionHandle};

use crate::actions::{Context, Verdict};
use crate::attributes::{Attributes, Booleans, Class, Setting};
use crate::checks::cancels_operation;

/// Why a call is refused if its mechanism may name keys that the filter cannot see.
pub(crate) const UNKNOWN_PARAMETER: &str =
    "a parameter that may name keys and does not have the standard's size";

/// Why an action refuses a call.
pub(crate) struct Refused {
    rv: CkRv,
    reason: String,
}

impl Refused {
    /// Refuses with this CK_RV; the reason is for the log.
    pub(crate) fn new(rv: CkRv, reason: impl Into<String>) -> Refused {
        Refused {
            rv,
            reason: reason.into(),
        }
    }

    /// Refuses a call on an object whose attributes cannot be read.
    pub(crate) fn unreadable(rv: CkRv, policy: CkRv) -> Refused {
        let reason = format!("reading the object's attributes failed with {rv}");
        Refused::new(unreadable(rv, policy), reason)
    }

    /// Refuses malformed or repeated attributes in the template.
    pub(crate) fn unsound(rv: CkRv) -> Refused {
        Refused::new(rv, "malformed or repeated attributes in the template")
    }

    /// Returns the verdict of an action that either refuses or continues.
    pub(crate) fn verdict(result: Result<(), Refused>, context: &Context<'_>) -> Verdict {
        match result {
            Ok(()) => Verdict::Continue,
            Err(Refused { rv, reason }) => context.refuse(rv, format_args!("{reason}")),
        }
    }
}

/// Returns the CK_RV for an object whose attributes cannot be read: the module's, if it is about the session, the
/// handle, the device or the library, else the `policy` of the action.
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

/// Judges each existing key that the call uses, including those in its mechanism's parameter. A parameter that may name
/// keys that the filter cannot see is refused.
pub(crate) fn judge_keys(
    call: &Call<'_>,
    context: &Context<'_>,
    judge: impl Fn(Attributes) -> Result<(), Refused>,
) -> Result<(), Refused> {
    let keys = call.keys().filter(|key| !cancels_operation(call, *key));
    let mut keys: Vec<ObjectHandle> = keys.collect();
    if let Some(mechanism) = call.mechanism() {
        let named = mechanism.named_keys();
        let named = named.map_err(|rv| Refused::new(rv, UNKNOWN_PARAMETER))?;
        keys.extend(named.into_iter().filter(|key| key.0 != 0));
    }
    let session = call.session().unwrap_or_default();
    for key in keys {
        let attributes = context.objects.attributes(session, key);
        judge(attributes.map_err(|rv| Refused::unreadable(rv, CkRv::OBJECT_HANDLE_INVALID))?)?;
    }
    Ok(())
}

/// What a call does with the values in its templates.
pub(crate) enum Written {
    /// The call has no such template.
    Nothing,
    /// The call makes an object of each template.
    New(Vec<Attributes>),
    /// The call changes an object, or makes a changed copy of it.
    Change(Change),
}

/// The attributes of an object that a call changes or copies.
pub(crate) struct Change {
    /// What the object has.
    pub(crate) old: Attributes,
    /// What the template says.
    pub(crate) new: Attributes,
}

impl Written {
    /// Reads the templates, and the object if there is one. If its attributes cannot be read, the call
    /// is refused with the `policy` of the action.
    pub(crate) fn by(
        call: &Call<'_>,
        context: &Context<'_>,
        policy: CkRv,
    ) -> Result<Written, Refused> {
        let templates = templates_of(call.function());
        if templates == 0 {
            return Ok(Written::Nothing);
        }
        let old = match object(call) {
            Some((session, object)) => {
                let old = context.objects.attributes(session, object);
                Some(old.map_err(|rv| Refused::unreadable(rv, policy))?)
            }
            None => None,
        };
        let new = call.values().map(Attributes::of_template);
        let new: Result<Vec<Attributes>, CkRv> = new.collect();
        let mut new = new.map_err(Refused::unsound)?;
        // A template that is NULL sets no attribute.
        new.resize(templates, Attributes::default());
        match (old, new.as_slice()) {
            (None, _) => Ok(Written::New(new)),
            (Some(old), [new]) => Ok(Written::Change(Change { old, new: *new })),
            // No function takes an object and two templates.
            (Some(_), _) => Err(Refused::unsound(CkRv::TEMPLATE_INCONSISTENT)),
        }
    }
}

impl Change {
    /// Whether the object is a key. An object without a class is treated as a key.
    pub(crate) fn is_of_key(&self) -> bool {
        self.old.class.is_none_or(Class::is_key)
    }

    /// The booleans that the object or the copy has afterwards.
    pub(crate) fn result(&self) -> Booleans {
        self.old.booleans.overridden_by(self.new.booleans)
    }
}

/// Returns the attributes that a new key gets in addition to those in the call's template, because the key that it is
/// made with asks for them (CKA_UNWRAP_TEMPLATE and the like). `None` if there are none.
pub(crate) fn added_by_key(
    call: &Call<'_>,
    context: &Context<'_>,
    policy: CkRv,
) -> Result<Option<Attributes>, Refused> {
    let key = call.arguments().find_map(|argument| {
        if let Argument::Key(key, rv) = argument {
            Some((key, rv))
        } else {
            None
        }
    });
    let attribute_type = template_of_new_keys(call.function());
    let Some((attribute_type, (key, invalid))) = attribute_type.zip(key) else {
        return Ok(None);
    };
    let session = call.session().unwrap_or_default();
    let added = context.objects.template(session, key, attribute_type);
    added.map_err(|rv| match rv {
        // A module may answer this for a key that does not exist.
        CkRv::OBJECT_HANDLE_INVALID | CkRv::KEY_HANDLE_INVALID => {
            Refused::new(invalid, "there is no such key")
        }
        rv => Refused::unreadable(rv, policy),
    })
}

/// Returns the attribute that, in a key, lists attributes of the keys that this function makes with it.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "other functions make no keys with keys: a test compares with xdr::facts"
)]
fn template_of_new_keys(function: Function) -> Option<AttributeType> {
    let number = match function {
        Function::C_UnwrapKey | Function::C_UnwrapKeyAuthenticated => CKA_UNWRAP_TEMPLATE,
        Function::C_DeriveKey => CKA_DERIVE_TEMPLATE,
        Function::C_EncapsulateKey => CKA_ENCAPSULATE_TEMPLATE,
        Function::C_DecapsulateKey => CKA_DECAPSULATE_TEMPLATE,
        _ => return None,
    };
    Some(AttributeType(wide(number)))
}

/// How many templates with values a function takes.
fn templates_of(function: Function) -> usize {
    let roles = function.facts().roles.iter();
    roles.filter(|role| **role == Role::Values).count()
}

/// The object that a call reads or changes, and its session.
fn object(call: &Call<'_>) -> Option<(SessionHandle, ObjectHandle)> {
    let object = call.arguments().find_map(|argument| {
        if let Argument::Object(object, _) = argument {
            Some(object)
        } else {
            None
        }
    });
    call.session().zip(object)
}

/// A setting in the form that log lines show.
pub(crate) struct Shown(pub Setting);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (boolean, value) = self.0;
        let value = if value { "TRUE" } else { "FALSE" };
        write!(f, "{}={value}", boolean.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_that_makes_keys_with_a_key_has_its_template() {
        for function in Function::ALL.iter().copied() {
            let makes_keys = function.uses_keys() && templates_of(function) > 0;
            let is_listed = template_of_new_keys(function).is_some();
            assert_eq!(is_listed, makes_keys, "{}", function.name());
        }
    }
}
