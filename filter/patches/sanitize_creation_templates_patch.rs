//! `sanitize_creation_templates_patch`: what a client does not say of a new key is said for it, so
//! that no module's own defaults apply.
//!
//! The action makes the call itself, with the completed template, and so is the last of its list.

use xdr::{Attribute, Call, CkRv, Template};

use crate::actions::{Action, Context, Verdict};
use crate::attributes::{Attributes, Boolean, Class, Setting, is_same};

const T: bool = true;
const F: bool = false;

const SECRET_KEY: &[Setting] = &[
    (Boolean::Wrap, F),
    (Boolean::Unwrap, F),
    (Boolean::Encrypt, F),
    (Boolean::Decrypt, F),
    (Boolean::Sign, F),
    (Boolean::Verify, F),
    (Boolean::Sensitive, T),
    (Boolean::Extractable, F),
    (Boolean::Derive, F),
    (Boolean::Private, T),
];

const PRIVATE_KEY: &[Setting] = &[
    (Boolean::Unwrap, F),
    (Boolean::Decrypt, F),
    (Boolean::Sign, F),
    (Boolean::SignRecover, F),
    (Boolean::Sensitive, T),
    (Boolean::Extractable, F),
    (Boolean::Derive, F),
    (Boolean::Private, T),
];

const PUBLIC_KEY: &[Setting] = &[
    (Boolean::Wrap, F),
    (Boolean::Encrypt, F),
    (Boolean::Verify, F),
    (Boolean::VerifyRecover, F),
    (Boolean::Derive, F),
];

/// The template with what it does not say of an object of this class, behind what it says.
pub(crate) fn completed(template: &Template, class: Class) -> Template {
    let defaults = match class {
        Class::SECRET_KEY => SECRET_KEY,
        Class::PRIVATE_KEY => PRIVATE_KEY,
        Class::PUBLIC_KEY => PUBLIC_KEY,
        _ => &[],
    };
    let mut completed = template.clone();
    for (boolean, value) in defaults {
        let attribute_type = boolean.attribute_type();
        let is_said = |said: &Attribute| is_same(said.attribute_type, attribute_type);
        if !template.0.iter().any(is_said) {
            let value = vec![u8::from(*value)];
            completed.0.push(Attribute::new(attribute_type, value));
        }
    }
    completed
}

/// The action. C_CopyObject, which the original's configuration lists, copies what there is.
pub struct SanitizeCreationTemplates;

impl Action for SanitizeCreationTemplates {
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        match sanitized(call) {
            Ok(Some(sanitized)) => Verdict::Decide(context.backend.call(sanitized)),
            Ok(None) => Verdict::Continue,
            Err(rv) => context.refuse(rv, format_args!("no class, or an unsound template")),
        }
    }
}

fn sanitized<'a>(call: &Call<'a>) -> Result<Option<Call<'a>>, CkRv> {
    let by_its_class = |template: &Template| match Attributes::of_template(template)?.class {
        Some(class) => Ok(completed(template, class)),
        None => Err(CkRv::TEMPLATE_INCOMPLETE),
    };
    Ok(Some(match call {
        Call::C_CreateObject(session, template) => {
            Call::C_CreateObject(*session, by_its_class(template)?)
        }
        Call::C_UnwrapKey(session, mechanism, key, wrapped, template) => Call::C_UnwrapKey(
            *session,
            mechanism.clone(),
            *key,
            wrapped,
            by_its_class(template)?,
        ),
        Call::C_DeriveKey(session, mechanism, key, template) => {
            let template = by_its_class(template)?;
            Call::C_DeriveKey(*session, mechanism.clone(), *key, template)
        }
        Call::C_GenerateKey(session, mechanism, template) => {
            let template = completed(template, Class::SECRET_KEY);
            Call::C_GenerateKey(*session, mechanism.clone(), template)
        }
        Call::C_GenerateKeyPair(session, mechanism, public, private) => Call::C_GenerateKeyPair(
            *session,
            mechanism.clone(),
            completed(public, Class::PUBLIC_KEY),
            completed(private, Class::PRIVATE_KEY),
        ),
        _ => return Ok(None),
    }))
}
