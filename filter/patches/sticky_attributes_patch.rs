//! `sticky_attributes_patch`: forbids to change certain attributes of an object, also in a copy.

use xdr::attribute_types::is_nested;
use xdr::{Call, CkRv};

use crate::actions::{Action, Context, Verdict};
use crate::attributes::{Boolean, Booleans, Setting};
use crate::patches::{Refused, Shown, Written};

const T: bool = true;
const F: bool = false;

/// Settings of an object that cannot be changed any more.
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

/// More such settings, where key usage is segregated.
pub const STICKY_SEGREGATED: &[Setting] = &[
    (Boolean::Sign, T),
    (Boolean::Verify, T),
    (Boolean::SignRecover, T),
    (Boolean::VerifyRecover, T),
];

/// Returns the first of these settings that an object has and that `new` takes away.
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
        Refused::verdict(judge(call, context), context)
    }
}

fn judge(call: &Call<'_>, context: &Context<'_>) -> Result<(), Refused> {
    let change = match Written::by(call, context, CkRv::ATTRIBUTE_VALUE_INVALID)? {
        Written::Change(change) => change,
        Written::Nothing | Written::New(_) => return Ok(()),
    };
    // An empty array in place of CKA_WRAP_TEMPLATE or CKA_UNWRAP_TEMPLATE would lift the restrictions of a key. Arrays
    // that are not empty were refused before.
    let mut types = call.values().flat_map(|template| template.0.iter());
    if types.any(|attribute| is_nested(attribute.attribute_type)) {
        let reason = "a template of the key cannot be changed";
        return Err(Refused::new(CkRv::ATTRIBUTE_VALUE_INVALID, reason));
    }
    let more = if context.is_segregated() {
        STICKY_SEGREGATED
    } else {
        &[]
    };
    let settings = STICKY.iter().chain(more).copied();
    match taken_away(settings, change.old.booleans, change.new.booleans) {
        Some(setting) => Err(Refused::new(
            CkRv::ATTRIBUTE_VALUE_INVALID,
            format!("{} cannot be changed", Shown(setting)),
        )),
        None => Ok(()),
    }
}
