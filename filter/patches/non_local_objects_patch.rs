//! `non_local_objects_patch`: refuses wrapping and unwrapping with a key whose value came from outside the token.

use cryptoki_sys::*;
use xdr::word_size::narrow;
use xdr::{Attribute, Call, CkRv};

use crate::actions::{Action, Context, Verdict};
use crate::attributes::{Attributes, Boolean, Class, Setting};
use crate::patches::sensitive_leak_patch::is_value;
use crate::patches::{Change, Refused, Shown, Written};

/// Settings that a key from outside may not have.
const DANGEROUS: [Setting; 3] = [
    (Boolean::Unwrap, true),
    (Boolean::Wrap, true),
    (Boolean::Local, true),
];

/// Attributes that a client may not set on a key from outside: they are set by the token, or by its security officer.
const CLAIMS: [CK_ATTRIBUTE_TYPE; 3] = [CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE, CKA_TRUSTED];

/// The action.
pub struct NonLocalObjects;

impl Action for NonLocalObjects {
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        Refused::verdict(judge(call, context), context)
    }
}

fn judge(call: &Call<'_>, context: &Context<'_>) -> Result<(), Refused> {
    match Written::by(call, context, CkRv::GENERAL_ERROR)? {
        Written::Nothing => Ok(()),
        Written::New(made) => made
            .iter()
            .filter(|new| new.class.is_some_and(Class::is_key))
            .try_for_each(|new| refuse_dangerous(new, call)),
        Written::Change(change) => judge_change(&change, call),
    }
}

fn judge_change(change: &Change, call: &Call<'_>) -> Result<(), Refused> {
    if !(change.is_of_key() || change.new.class.is_some_and(Class::is_key)) {
        return Ok(());
    }
    // A key without CKA_LOCAL counts as one from outside; the original does not treat it as a key.
    if !change.old.booleans.has((Boolean::Local, true)) {
        refuse_dangerous(&change.new, call)?;
    }
    // If the client gives it a new value, even a local key is from outside, and it may be able to wrap already.
    let key = change.result();
    if brings_a_key(call) && DANGEROUS.into_iter().any(|it| key.has(it)) {
        let reason = "a new value for a key that wraps, unwraps or was made on the token";
        return Err(Refused::new(CkRv::ATTRIBUTE_READ_ONLY, reason));
    }
    Ok(())
}

/// Returns the attributes in the call's templates.
fn said<'a>(call: &'a Call<'_>) -> impl Iterator<Item = &'a Attribute> {
    call.values().flat_map(|template| &template.0)
}

/// Whether a call brings a part of a key, secret or public.
fn brings_a_key(call: &Call<'_>) -> bool {
    const PUBLIC: [CK_ATTRIBUTE_TYPE; 9] = [
        CKA_CLASS,
        CKA_KEY_TYPE,
        CKA_MODULUS,
        CKA_PUBLIC_EXPONENT,
        CKA_PRIME,
        CKA_BASE,
        CKA_EC_PARAMS,
        CKA_EC_POINT,
        CKA_PUBLIC_KEY_INFO,
    ];
    let mut kinds = said(call).map(|it| it.attribute_type);
    kinds.any(|kind| is_value(kind) || PUBLIC.contains(&narrow(kind.0)))
}

fn refuse_dangerous(new: &Attributes, call: &Call<'_>) -> Result<(), Refused> {
    if let Some(setting) = DANGEROUS.into_iter().find(|it| new.booleans.has(*it)) {
        return Err(Refused::new(
            CkRv::TEMPLATE_INCONSISTENT,
            format!(
                "{} for a key that was not made on the token",
                Shown(setting)
            ),
        ));
    }
    let is_claim = |said: &Attribute| {
        CLAIMS.contains(&narrow(said.attribute_type.0)) && said.bytes().iter().any(|it| *it != 0)
    };
    if said(call).any(is_claim) {
        let reason = "ALWAYS_SENSITIVE, NEVER_EXTRACTABLE or TRUSTED claimed for a key that was not made on the token";
        return Err(Refused::new(CkRv::ATTRIBUTE_READ_ONLY, reason));
    }
    Ok(())
}
