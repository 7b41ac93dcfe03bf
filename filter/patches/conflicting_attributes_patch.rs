//! `conflicting_attributes_patch`: refuses to give a key two roles that together reveal keys.
//!
//! `conflicting_attributes_patch_on_existing_objects` refuses to use a key that already has them.

use xdr::facts::Family;
use xdr::{Call, CkRv, ObjectHandle, SessionHandle};

use crate::actions::{Action, Context, Verdict};
use crate::attributes::{Attributes, Boolean, Booleans, Setting};
use crate::compatibility::Switch;
use crate::patches::{Change, Refused, Shown, Written, added_by_key, judge_keys};

const T: bool = true;
const F: bool = false;

/// Pairs of settings that no key may have at once.
pub const CONFLICTS: &[(Setting, Setting)] = &[
    ((Boolean::Wrap, T), (Boolean::Decrypt, T)),
    ((Boolean::Unwrap, T), (Boolean::Encrypt, T)),
    ((Boolean::Sensitive, F), (Boolean::Extractable, F)),
    ((Boolean::Sensitive, F), (Boolean::AlwaysSensitive, T)),
    ((Boolean::Extractable, T), (Boolean::NeverExtractable, T)),
    ((Boolean::Wrap, T), (Boolean::Sensitive, F)),
    ((Boolean::Wrap, T), (Boolean::AlwaysSensitive, F)),
];

/// More such pairs, where key usage is segregated.
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

/// Roles that a key can only get when it is made. A copy, the other half of a pair or a key that was wrapped before may
/// have the conflicting role, and is not seen when the role is set.
const FROM_THE_BEGINNING: &[Boolean] = &[Boolean::Wrap, Boolean::Decrypt];

/// More such roles, where key usage is segregated.
const FROM_THE_BEGINNING_SEGREGATED: &[Boolean] = &[
    Boolean::Encrypt,
    Boolean::Unwrap,
    Boolean::Sign,
    Boolean::Verify,
    Boolean::SignRecover,
    Boolean::VerifyRecover,
];

/// Returns the first pair of settings that these attributes have and should not have at once.
fn conflict(booleans: Booleans, is_segregated: bool) -> Option<(Setting, Setting)> {
    let more = if is_segregated {
        CONFLICTS_SEGREGATED
    } else {
        &[]
    };
    let mut rows = CONFLICTS.iter().chain(more).copied();
    rows.find(|(one, other)| booleans.has(*one) && booleans.has(*other))
}

/// `conflicting_attributes_patch`.
pub struct ConflictingAttributes;

impl Action for ConflictingAttributes {
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        Refused::verdict(judge(call, context), context)
    }
}

/// Judges the attributes of a new object, and those that a change or copy results in. The original looks at a copy's
/// template alone.
fn judge(call: &Call<'_>, context: &Context<'_>) -> Result<(), Refused> {
    let policy = CkRv::ATTRIBUTE_VALUE_INVALID;
    match Written::by(call, context, policy)? {
        Written::Nothing => Ok(()),
        Written::New(mut made) => {
            refuse_conflict(of_new(call, context, &made)?, context)?;
            made.extend(added_by_key(call, context, policy)?);
            refuse_conflict(of_new(call, context, &made)?, context)
        }
        Written::Change(change) => {
            refuse_new_role(&change, context)?;
            refuse_conflict(change.result(), context)
        }
    }
}

fn refuse_conflict(booleans: Booleans, context: &Context<'_>) -> Result<(), Refused> {
    match conflict(booleans, context.is_segregated()) {
        Some((one, other)) => Err(Refused::new(
            CkRv::ATTRIBUTE_VALUE_INVALID,
            format!("{} conflicts with {}", Shown(one), Shown(other)),
        )),
        None => Ok(()),
    }
}

/// Returns the booleans of all templates together: neither key of a pair may undo the other's work.
fn of_new(
    call: &Call<'_>,
    context: &Context<'_>,
    made: &[Attributes],
) -> Result<Booleans, Refused> {
    let booleans = made.iter().fold(Booleans::default(), |all, new| {
        all.together_with(new.booleans)
    });
    // The same derivation can be repeated, and gives the same key.
    let is_derived = call.function().facts().is_of(Family::Derive)
        && !context.compatibility.has(Switch::DerivedKeysWrap);
    if is_derived && booleans.has((Boolean::Wrap, T)) {
        let reason = "WRAP for a derived key, which could be derived again with DECRYPT";
        return Err(Refused::new(CkRv::ATTRIBUTE_VALUE_INVALID, reason));
    }
    Ok(booleans)
}

/// Refuses to give a key a role that it was made without.
fn refuse_new_role(change: &Change, context: &Context<'_>) -> Result<(), Refused> {
    let more = if context.is_segregated() {
        FROM_THE_BEGINNING_SEGREGATED
    } else {
        &[]
    };
    let (old, new) = (change.old.booleans, change.new.booleans);
    let mut roles = FROM_THE_BEGINNING.iter().chain(more).map(|role| (*role, T));
    let given = roles.find(|role| new.has(*role) && !old.has(*role));
    let are_held = change.is_of_key() && !context.compatibility.has(Switch::RolesSetLater);
    match given.filter(|_| are_held) {
        Some(role) => Err(Refused::new(
            CkRv::ATTRIBUTE_VALUE_INVALID,
            format!(
                "{} switched on in a key that was made without it",
                Shown(role)
            ),
        )),
        None => Ok(()),
    }
}

/// `conflicting_attributes_patch_on_existing_objects`.
pub struct OnExistingObjects;

impl Action for OnExistingObjects {
    fn judges_templates(&self) -> bool {
        false
    }

    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        let judge = |key: Attributes| match conflict(key.booleans, context.is_segregated()) {
            Some((one, other)) => Err(Refused::new(
                CkRv::OBJECT_HANDLE_INVALID,
                format!("the key has {} and {}", Shown(one), Shown(other)),
            )),
            None => Ok(()),
        };
        Refused::verdict(judge_keys(call, context, judge), context)
    }

    fn hides(&self, session: SessionHandle, object: ObjectHandle, context: &Context<'_>) -> bool {
        let conflicts = |it: Attributes| conflict(it.booleans, context.is_segregated()).is_some();
        let attributes = context.objects.attributes(session, object);
        attributes.map_or(true, conflicts)
    }
}
