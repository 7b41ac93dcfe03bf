//! `non_local_objects_patch`: a key whose value came from outside neither wraps nor unwraps.

use cryptoki_sys::*;
use xdr::word_size::narrow;
use xdr::{Attribute, Call, CkRv, ObjectHandle, SessionHandle, Template};

use crate::actions::{Action, Context, Verdict};
use crate::attributes::{Attributes, Boolean, Booleans, Class, Setting};
use crate::patches::sensitive_leak_patch::is_value;
use crate::patches::{Shown, refuse_unreadable};

/// What a key from outside may not be given.
const DANGEROUS: [Setting; 3] = [
    (Boolean::Unwrap, true),
    (Boolean::Wrap, true),
    (Boolean::Local, true),
];

/// What a key from outside may not claim; a token says these itself, or its officer does.
const CLAIMS: [CK_ATTRIBUTE_TYPE; 3] = [CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE, CKA_TRUSTED];

/// The action.
pub struct NonLocalObjects;

impl Action for NonLocalObjects {
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        match call {
            Call::C_CreateObject(_, template) => created(context, template),
            Call::C_CopyObject(session, object, template)
            | Call::C_SetAttributeValue(session, object, template) => {
                changed(context, *session, *object, template)
            }
            _ => Verdict::Continue,
        }
    }
}

fn created(context: &Context<'_>, template: &Template) -> Verdict {
    let new = match Attributes::of_template(template) {
        Ok(new) => new,
        Err(rv) => return context.refuse(rv, format_args!("an unsound template")),
    };
    if new.class.is_some_and(Class::is_key) {
        refuse_dangerous(context, new, template)
    } else {
        Verdict::Continue
    }
}

fn changed(
    context: &Context<'_>,
    session: SessionHandle,
    object: ObjectHandle,
    template: &Template,
) -> Verdict {
    let old = match context.objects.attributes(session, object) {
        Ok(old) => old,
        Err(rv) => return refuse_unreadable(context, rv, CkRv::GENERAL_ERROR),
    };
    let new = match Attributes::of_template(template) {
        Ok(new) => new,
        Err(rv) => return context.refuse(rv, format_args!("an unsound template")),
    };
    if !(old.class.is_none_or(Class::is_key) || new.class.is_some_and(Class::is_key)) {
        return Verdict::Continue;
    }
    // A key that does not say where it is from is from outside; the original takes it for no key.
    let is_local = old.booleans.has((Boolean::Local, true));
    let is_dangerous = |key: Booleans| DANGEROUS.into_iter().any(|it| key.has(it));
    if !is_local {
        if let refused @ Verdict::Decide(_) = refuse_dangerous(context, new, template) {
            return refused;
        }
    }
    // A local key with a value of the client's is from outside as well, and may wrap already.
    if brings_a_key(template) && is_dangerous(old.booleans.overridden_by(new.booleans)) {
        let reason = format_args!("another value for a key that wraps, unwraps or is local");
        return context.refuse(CkRv::ATTRIBUTE_READ_ONLY, reason);
    }
    Verdict::Continue
}

/// Whether a template has a part of a key, be it secret or public.
fn brings_a_key(template: &Template) -> bool {
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
    let mut kinds = template.0.iter().map(|it| it.attribute_type);
    kinds.any(|kind| is_value(kind) || PUBLIC.contains(&narrow(kind.0)))
}

fn refuse_dangerous(context: &Context<'_>, new: Attributes, template: &Template) -> Verdict {
    if let Some(setting) = DANGEROUS.into_iter().find(|it| new.booleans.has(*it)) {
        return context.refuse(
            CkRv::TEMPLATE_INCONSISTENT,
            format_args!("{} for a key that is not local", Shown(setting)),
        );
    }
    let is_claim = |said: &Attribute| {
        CLAIMS.contains(&narrow(said.attribute_type.0)) && said.value.iter().any(|it| *it != 0)
    };
    if template.0.iter().any(is_claim) {
        let reason = format_args!("a claim of where a key is from that is not local");
        return context.refuse(CkRv::ATTRIBUTE_READ_ONLY, reason);
    }
    Verdict::Continue
}
