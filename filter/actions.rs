//! Defines actions, which filter.conf attaches to PKCS#11 functions, and lists them in a table.
//!
//! The engine builds a [`Context`] for each call and runs the actions at its function one after the
//! other, before or after the checks. The first that decides ends the call. The configuration finds
//! the names in [`ACTIONS`]; the actions themselves are in `patches`.
//!
//! A new action is a type in a file of its own and a row of the table:
//!
//! ```
//! use filter::actions::{Action, Context, Row, Verdict};
//! use xdr::{Call, CkRv, Function, Room};
//!
//! /// Refuses random numbers of more than 64 bytes.
//! struct ShortRandom;
//!
//! impl Action for ShortRandom {
//!     fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
//!         match call {
//!             Call::C_GenerateRandom(_, Room::Buffer(length)) if *length > 64 => {
//!                 context.refuse(CkRv::ARGUMENTS_BAD, format_args!("more than 64 bytes"))
//!             }
//!             _ => Verdict::Continue,
//!         }
//!     }
//! }
//!
//! const ROW: Row = Row {
//!     name: "short_random",
//!     fits: |function| function == Function::C_GenerateRandom,
//!     makes_the_call: false,
//!     make: || Box::new(ShortRandom),
//! };
//! # assert_eq!(ROW.name, "short_random");
//! ```

use xdr::facts::Role;
use xdr::{Call, Function, ObjectHandle, Reply, SessionHandle, Template};

use Function::*;

use crate::patches::*;

pub use crate::context::Context;
pub use crate::patches::wrapping_format_patch::WrappingKey;

/// The decision of an action about a call.
#[allow(clippy::large_enum_variant)] // it lives on the stack, as a Reply does everywhere
#[derive(Debug)]
pub enum Verdict {
    /// The next action or check decides, or the call goes to the module.
    Continue,
    /// This is the reply; nothing else is done. The action has executed the call itself, possibly changed.
    Decide(Reply),
    /// This is the reply, and it refuses the call or a part of it; nothing else is done.
    Refuse(Reply),
}

/// A rule in code that filter.conf attaches to a function.
pub trait Action: Send + Sync {
    /// Judges a call, which has its templates in canonical form. The default continues.
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        let _ = (call, context);
        Verdict::Continue
    }

    /// Whether the action judges or completes templates with values, which is the default. Where it is attached, a
    /// template inside such a template is refused, because the action sees only the outer one.
    fn judges_templates(&self) -> bool {
        true
    }

    /// Whether the action, attached to `function`, watches a search with this template. By default,
    /// one that is attached to C_FindObjects watches every search.
    fn watches(&self, function: Function, template: &Template) -> bool {
        let _ = template;
        function == C_FindObjects
    }

    /// Whether to hide an object from the client, which was found by a search that the action watches.
    fn hides(&self, session: SessionHandle, object: ObjectHandle, context: &Context<'_>) -> bool {
        let _ = (session, object, context);
        false
    }
}

/// An action that the configuration can name.
pub struct Row {
    /// Its name in the configuration.
    pub name: &'static str,
    /// Whether it may be attached to this function.
    pub fits: fn(Function) -> bool,
    /// Whether it makes the call itself, or refuses it, always: what comes after it never runs.
    pub makes_the_call: bool,
    /// Makes an instance of the action.
    pub make: fn() -> Box<dyn Action>,
}

/// Whether a function makes or changes objects by the values in a template.
pub(crate) fn takes_values(function: Function) -> bool {
    function.facts().roles.contains(&Role::Values)
}

/// Whether a function reads, copies, changes or destroys an object.
pub(crate) fn takes_object(function: Function) -> bool {
    let mut roles = function.facts().roles.iter();
    roles.any(|role| matches!(role, Role::Object(_)))
}

/// Every action: the original's in the order of its documentation, then ours.
pub const ACTIONS: &[Row] = &[
    Row {
        name: "identity",
        fits: |_| true,
        makes_the_call: false,
        make: || Box::new(example_hooks::Identity),
    },
    Row {
        name: "c_Initialize_hook",
        fits: |_| true,
        makes_the_call: false,
        make: || Box::new(example_hooks::InitializeHook),
    },
    Row {
        name: "c_Login_hook",
        fits: |function| function.older() == C_Login,
        makes_the_call: false,
        make: || Box::new(example_hooks::LoginHook),
    },
    Row {
        name: "do_segregate_usage",
        fits: |_| true,
        makes_the_call: false,
        make: || Box::new(do_segregate_usage::SegregateUsage),
    },
    Row {
        name: "non_local_objects_patch",
        fits: |function| {
            let older = function.older();
            matches!(older, C_CreateObject | C_CopyObject | C_SetAttributeValue)
        },
        makes_the_call: false,
        make: || Box::new(non_local_objects_patch::NonLocalObjects),
    },
    Row {
        name: "prevent_sensitive_leak_patch",
        fits: |function| matches!(function.older(), C_GetAttributeValue | C_SetAttributeValue),
        makes_the_call: false,
        make: || Box::new(sensitive_leak_patch::SensitiveLeak),
    },
    Row {
        name: "conflicting_attributes_patch",
        fits: takes_values,
        makes_the_call: false,
        make: || Box::new(conflicting_attributes_patch::ConflictingAttributes),
    },
    Row {
        name: "conflicting_attributes_patch_on_existing_objects",
        fits: |function| function.uses_keys() || function == C_FindObjects,
        makes_the_call: false,
        make: || Box::new(conflicting_attributes_patch::OnExistingObjects),
    },
    Row {
        name: "dangerous_sensitive_keys_paranoid",
        fits: |function| function.uses_keys() || function == C_FindObjects,
        makes_the_call: false,
        make: || Box::new(existing_sensitive_keys_patch::Escrow::Nothing),
    },
    Row {
        name: "dangerous_sensitive_keys_escrow_encrypt",
        fits: |function| function.uses_keys() || function == C_FindObjects,
        makes_the_call: false,
        make: || Box::new(existing_sensitive_keys_patch::Escrow::EncryptionKeys),
    },
    Row {
        name: "dangerous_sensitive_keys_escrow_all",
        fits: |function| function.uses_keys() || function == C_FindObjects,
        makes_the_call: false,
        make: || Box::new(existing_sensitive_keys_patch::Escrow::AllKeys),
    },
    Row {
        name: "sticky_attributes_patch",
        fits: |function| takes_values(function) && takes_object(function),
        makes_the_call: false,
        make: || Box::new(sticky_attributes_patch::StickyAttributes),
    },
    Row {
        name: "wrapping_format_patch",
        fits: |function| matches!(function.older(), C_WrapKey | C_UnwrapKey),
        makes_the_call: true,
        make: || Box::new(wrapping_format_patch::WrappingFormat),
    },
    Row {
        name: "secure_templates_patch",
        fits: takes_values,
        makes_the_call: false,
        make: || Box::new(secure_templates_patch::SecureTemplates),
    },
    Row {
        name: "sanitize_creation_templates_patch",
        // C_CopyObject is listed in the original's configuration; a copy keeps all that the object has.
        fits: |function| takes_values(function) && function != C_SetAttributeValue,
        makes_the_call: true,
        make: || Box::new(sanitize_creation_templates_patch::SanitizeCreationTemplates),
    },
    Row {
        name: "strong_wrapping_keys",
        fits: |function| matches!(function.older(), C_WrapKey | C_UnwrapKey),
        makes_the_call: false,
        make: || Box::new(strong_wrapping_keys::StrongWrappingKeys),
    },
];

/// The action of this name.
pub fn row(name: &str) -> Option<&'static Row> {
    ACTIONS.iter().find(|row| row.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_each_action_once_under_its_name() {
        assert_eq!(ACTIONS.len(), 16);
        for known in ACTIONS {
            assert_eq!(row(known.name).map(|row| row.name), Some(known.name));
            let same = ACTIONS.iter().filter(|other| other.name == known.name);
            assert_eq!(same.count(), 1, "{}", known.name);
        }
        assert!(row("Identity").is_none());
    }

    /// Written by hand, so that it checks what the rows derive from the facts of the functions.
    #[test]
    fn each_action_fits_these_functions() {
        let changes = vec![C_CopyObject, C_SetAttributeValue];
        let made = [
            C_CreateObject,
            C_GenerateKey,
            C_GenerateKeyPair,
            C_UnwrapKey,
            C_DeriveKey,
            C_EncapsulateKey,
            C_DecapsulateKey,
            C_UnwrapKeyAuthenticated,
        ];
        let uses = vec![
            C_EncryptInit,
            C_DecryptInit,
            C_SignInit,
            C_SignRecoverInit,
            C_VerifyInit,
            C_VerifyRecoverInit,
            C_DigestKey,
            C_DeriveKey,
            C_WrapKey,
            C_UnwrapKey,
            C_SetOperationState,
            C_FindObjects,
            C_MessageEncryptInit,
            C_MessageDecryptInit,
            C_MessageSignInit,
            C_MessageVerifyInit,
            C_EncapsulateKey,
            C_DecapsulateKey,
            C_VerifySignatureInit,
            C_WrapKeyAuthenticated,
            C_UnwrapKeyAuthenticated,
        ];
        let written = [made.as_slice(), &changes].concat();
        for known in ACTIONS {
            let mut expected = match known.name {
                "identity" | "c_Initialize_hook" | "do_segregate_usage" => Function::ALL.to_vec(),
                "c_Login_hook" => vec![C_Login, C_LoginUser],
                "non_local_objects_patch" => {
                    vec![C_CreateObject, C_CopyObject, C_SetAttributeValue]
                }
                "prevent_sensitive_leak_patch" => vec![C_GetAttributeValue, C_SetAttributeValue],
                "conflicting_attributes_patch" | "secure_templates_patch" => written.clone(),
                "conflicting_attributes_patch_on_existing_objects"
                | "dangerous_sensitive_keys_paranoid"
                | "dangerous_sensitive_keys_escrow_encrypt"
                | "dangerous_sensitive_keys_escrow_all" => uses.clone(),
                "sticky_attributes_patch" => changes.clone(),
                "wrapping_format_patch" => vec![
                    C_WrapKey,
                    C_UnwrapKey,
                    C_WrapKeyAuthenticated,
                    C_UnwrapKeyAuthenticated,
                ],
                // C_CopyObject is listed in the original's configuration; a copy keeps all that the object has.
                "sanitize_creation_templates_patch" => [made.as_slice(), &[C_CopyObject]].concat(),
                "strong_wrapping_keys" => vec![
                    C_WrapKey,
                    C_UnwrapKey,
                    C_WrapKeyAuthenticated,
                    C_UnwrapKeyAuthenticated,
                ],
                other => panic!("{other}"),
            };
            expected.sort();
            let all = Function::ALL.iter().copied();
            let mut fits: Vec<Function> = all.filter(|it| (known.fits)(*it)).collect();
            fits.sort();
            assert_eq!(fits, expected, "{}", known.name);
        }
    }
}
