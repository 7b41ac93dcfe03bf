//! `conflicting_attributes_patch`: no key gets two roles that together give keys away;
//! `conflicting_attributes_patch_on_existing_objects`: one that has them is not used.

use xdr::{Call, CkRv, ObjectHandle, SessionHandle, Template};

use crate::actions::{Action, Context, Verdict};
use crate::attributes::{Attributes, Boolean, Booleans, Class, Setting};
use crate::compatibility::Switch;
use crate::patches::{Shown, UNKNOWN_PARAMETER, keys_used, refuse_unreadable};

const T: bool = true;
const F: bool = false;

/// What no key may be at once.
pub const CONFLICTS: &[(Setting, Setting)] = &[
    ((Boolean::Wrap, T), (Boolean::Decrypt, T)),
    ((Boolean::Unwrap, T), (Boolean::Encrypt, T)),
    ((Boolean::Sensitive, F), (Boolean::Extractable, F)),
    ((Boolean::Sensitive, F), (Boolean::AlwaysSensitive, T)),
    ((Boolean::Extractable, T), (Boolean::NeverExtractable, T)),
    ((Boolean::Wrap, T), (Boolean::Sensitive, F)),
    ((Boolean::Wrap, T), (Boolean::AlwaysSensitive, F)),
];

/// And neither, where key usage is segregated.
pub const CONFLICTS_SEGREGATED: &[(Setting, Setting)] = &[
    ((Boolean::Encrypt, T), (Boolean::Sign, T)),
    ((Boolean::Encrypt, T), (Boolean::SignRecover, T)),
    ((Boolean::Decrypt, T), (Boolean::Verify, T)),
    ((Boolean::Decrypt, T), (Boolean::VerifyRecover, T)),
    ((Boolean::Encrypt, T), (Boolean::Verify, T)),
    ((Boolean::Encrypt, T), (Boolean::VerifyRecover, T)),
    ((Boolean::Decrypt, T), (Boolean::Sign, T)),
    ((Boolean::Decrypt, T), (Boolean::SignRecover, T)),
    ((Boolean::Encrypt, T), (Boolean::Wrap, T)),
    ((Boolean::Decrypt, T), (Boolean::Unwrap, T)),
];

/// What a key is given when it is made or never. A copy, the other half of a pair or a key that was
/// wrapped before may have the role that conflicts, and is not seen when the role is set.
const FROM_THE_BEGINNING: &[Boolean] = &[Boolean::Wrap, Boolean::Decrypt];

/// And these, where key usage is segregated.
const FROM_THE_BEGINNING_SEGREGATED: &[Boolean] = &[
    Boolean::Encrypt,
    Boolean::Unwrap,
    Boolean::Sign,
    Boolean::Verify,
    Boolean::SignRecover,
    Boolean::VerifyRecover,
];

/// The first pair of settings that these attributes should not have at once.
fn conflict(booleans: Booleans, is_segregated: bool) -> Option<(Setting, Setting)> {
    let more = if is_segregated {
        CONFLICTS_SEGREGATED
    } else {
        &[]
    };
    let mut rows = CONFLICTS.iter().chain(more).copied();
    rows.find(|(one, other)| booleans.has(*one) && booleans.has(*other))
}

/// What is made or changed.
pub struct ConflictingAttributes;

impl Action for ConflictingAttributes {
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        match call {
            Call::C_CreateObject(_, template)
            | Call::C_GenerateKey(_, _, template)
            | Call::C_UnwrapKey(_, _, _, _, template)
            | Call::C_DeriveKey(_, _, _, template) => new(call, context, &[template]),
            Call::C_GenerateKeyPair(_, _, public, private) => {
                new(call, context, &[public, private])
            }
            Call::C_CopyObject(session, object, template)
            | Call::C_SetAttributeValue(session, object, template) => {
                changed(context, *session, *object, template)
            }
            _ => Verdict::Continue,
        }
    }
}

/// The templates alone, as one: of a key pair, one key may not do what undoes the other's work.
fn new(call: &Call<'_>, context: &Context<'_>, templates: &[&Template]) -> Verdict {
    let mut booleans = Booleans::default();
    // The same derivation again gives the same key.
    let is_derived = matches!(call, Call::C_DeriveKey(..))
        && !context.compatibility.has(Switch::DerivedKeysWrap);
    for template in templates {
        match Attributes::of_template(template) {
            Ok(new) => booleans = booleans.together_with(new.booleans),
            Err(rv) => return context.refuse(rv, format_args!("an unsound template")),
        }
    }
    if is_derived && booleans.has((Boolean::Wrap, T)) {
        let reason = format_args!("a derived key wraps, and may be derived again to decrypt");
        return context.refuse(CkRv::ATTRIBUTE_VALUE_INVALID, reason);
    }
    refuse_conflict(context, booleans)
}

/// What the object or its copy would have. The original looks at a copy's template alone.
fn changed(
    context: &Context<'_>,
    session: SessionHandle,
    object: ObjectHandle,
    template: &Template,
) -> Verdict {
    let old = match context.objects.attributes(session, object) {
        Ok(old) => old,
        Err(rv) => return refuse_unreadable(context, rv, CkRv::ATTRIBUTE_VALUE_INVALID),
    };
    let new = match Attributes::of_template(template) {
        Ok(new) => new,
        Err(rv) => return context.refuse(rv, format_args!("an unsound template")),
    };
    let more = if context.is_segregated() {
        FROM_THE_BEGINNING_SEGREGATED
    } else {
        &[]
    };
    let mut roles = FROM_THE_BEGINNING.iter().chain(more).map(|role| (*role, T));
    let given = roles.find(|role| new.booleans.has(*role) && !old.booleans.has(*role));
    let are_held =
        old.class.is_none_or(Class::is_key) && !context.compatibility.has(Switch::RolesSetLater);
    if let Some(role) = given.filter(|_| are_held) {
        return context.refuse(
            CkRv::ATTRIBUTE_VALUE_INVALID,
            format_args!("{} for a key that was made without", Shown(role)),
        );
    }
    refuse_conflict(context, old.booleans.overridden_by(new.booleans))
}

fn refuse_conflict(context: &Context<'_>, booleans: Booleans) -> Verdict {
    match conflict(booleans, context.is_segregated()) {
        Some((one, other)) => context.refuse(
            CkRv::ATTRIBUTE_VALUE_INVALID,
            format_args!("{} conflicts with {}", Shown(one), Shown(other)),
        ),
        None => Verdict::Continue,
    }
}

/// What was there before, or was made by other ways.
pub struct OnExistingObjects;

impl Action for OnExistingObjects {
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        let (session, keys) = match keys_used(call) {
            Ok(Some(used)) => used,
            Ok(None) => return Verdict::Continue,
            Err(rv) => return context.refuse(rv, format_args!("{UNKNOWN_PARAMETER}")),
        };
        for key in keys {
            let attributes = match context.objects.attributes(session, key) {
                Ok(attributes) => attributes,
                Err(rv) => {
                    return refuse_unreadable(context, rv, CkRv::OBJECT_HANDLE_INVALID);
                }
            };
            if let Some((one, other)) = conflict(attributes.booleans, context.is_segregated()) {
                return context.refuse(
                    CkRv::OBJECT_HANDLE_INVALID,
                    format_args!("the key has {} and {}", Shown(one), Shown(other)),
                );
            }
        }
        Verdict::Continue
    }

    fn hides(&self, session: SessionHandle, object: ObjectHandle, context: &Context<'_>) -> bool {
        let attributes = context.objects.attributes(session, object);
        attributes.is_err()
            || attributes.is_ok_and(|it| conflict(it.booleans, context.is_segregated()).is_some())
    }
}
