//! `non_local_objects_patch`: a key whose value came from outside neither wraps nor unwraps.

use xdr::{Call, CkRv, ObjectHandle, SessionHandle, Template};

use crate::actions::{Action, Context, Verdict};
use crate::attributes::{Attributes, Boolean, Class, Setting};
use crate::patches::{Shown, refuse_unreadable};

/// What a key from outside may not be given.
const DANGEROUS: [Setting; 3] = [
    (Boolean::Unwrap, true),
    (Boolean::Wrap, true),
    (Boolean::Local, true),
];

/// The action.
pub struct NonLocalObjects;

impl Action for NonLocalObjects {
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        match call {
            Call::C_CreateObject(_, template) => created(call, context, template),
            Call::C_CopyObject(session, object, template)
            | Call::C_SetAttributeValue(session, object, template) => {
                changed(call, context, *session, *object, template)
            }
            _ => Verdict::Continue,
        }
    }
}

fn created(call: &Call<'_>, context: &Context<'_>, template: &Template) -> Verdict {
    let new = match Attributes::of_template(template) {
        Ok(new) => new,
        Err(rv) => return context.refuse(call, rv, format_args!("an unsound template")),
    };
    if new.class.is_some_and(Class::is_key) {
        refuse_dangerous(call, context, new)
    } else {
        Verdict::Continue
    }
}

fn changed(
    call: &Call<'_>,
    context: &Context<'_>,
    session: SessionHandle,
    object: ObjectHandle,
    template: &Template,
) -> Verdict {
    let old = match context.attributes(session, object) {
        Ok(old) => old,
        Err(rv) => return refuse_unreadable(call, context, rv, CkRv::GENERAL_ERROR),
    };
    let new = match Attributes::of_template(template) {
        Ok(new) => new,
        Err(rv) => return context.refuse(call, rv, format_args!("an unsound template")),
    };
    // A key that does not say where it is from is from outside; the original takes it for no key.
    let is_local = old.booleans.has((Boolean::Local, true));
    if is_local || !old.class.is_none_or(Class::is_key) {
        return Verdict::Continue;
    }
    refuse_dangerous(call, context, new)
}

fn refuse_dangerous(call: &Call<'_>, context: &Context<'_>, new: Attributes) -> Verdict {
    match DANGEROUS.into_iter().find(|it| new.booleans.has(*it)) {
        Some(setting) => context.refuse(
            call,
            CkRv::TEMPLATE_INCONSISTENT,
            format_args!("{} for a key that is not local", Shown(setting)),
        ),
        None => Verdict::Continue,
    }
}
