//! `sticky_attributes_patch`: what an object is and does, or may not do, stays so, also in a copy.

use xdr::{Call, CkRv, ObjectHandle, SessionHandle, Template};

use crate::actions::{Action, Context, Verdict};
use crate::attributes::{Attributes, Boolean, Booleans, Setting};
use crate::patches::{Shown, refuse_unreadable};

const T: bool = true;
const F: bool = false;

/// What does not change once it is so.
pub const STICKY: &[Setting] = &[
    (Boolean::Wrap, T),
    (Boolean::Unwrap, T),
    (Boolean::Decrypt, T),
    (Boolean::Encrypt, T),
    (Boolean::Sensitive, T),
    (Boolean::Extractable, F),
    (Boolean::AlwaysSensitive, T),
    (Boolean::NeverExtractable, T),
];

/// And neither, where key usage is segregated.
pub const STICKY_SEGREGATED: &[Setting] = &[
    (Boolean::Sign, T),
    (Boolean::Verify, T),
    (Boolean::SignRecover, T),
    (Boolean::VerifyRecover, T),
];

/// The first of these settings that an object has and that `new` takes away.
pub(crate) fn taken_away(
    settings: impl IntoIterator<Item = Setting>,
    old: Booleans,
    new: Booleans,
) -> Option<Setting> {
    let mut settings = settings.into_iter();
    settings.find(|(boolean, value)| old.has((*boolean, *value)) && new.has((*boolean, !value)))
}

/// The action.
pub struct StickyAttributes;

impl Action for StickyAttributes {
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        match call {
            Call::C_CopyObject(session, object, template)
            | Call::C_SetAttributeValue(session, object, template) => {
                changed(context, *session, *object, template)
            }
            _ => Verdict::Continue,
        }
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
        Err(rv) => return refuse_unreadable(context, rv, CkRv::ATTRIBUTE_VALUE_INVALID),
    };
    let new = match Attributes::of_template(template) {
        Ok(new) => new,
        Err(rv) => return context.refuse(rv, format_args!("an unsound template")),
    };
    let more = if context.is_segregated() {
        STICKY_SEGREGATED
    } else {
        &[]
    };
    let settings = STICKY.iter().chain(more).copied();
    match taken_away(settings, old.booleans, new.booleans) {
        Some(setting) => context.refuse(
            CkRv::ATTRIBUTE_VALUE_INVALID,
            format_args!("{} stays", Shown(setting)),
        ),
        None => Verdict::Continue,
    }
}
