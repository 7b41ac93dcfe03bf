//! `sanitize_creation_templates_patch`: completes the templates of new keys with safe values, so that no default of the
//! module applies.
//!
//! The action calls the module itself, with the complete templates. So it is the last of its chain.

use xdr::facts::Family;
use xdr::{Attribute, Call, CkRv, Template};

use crate::actions::{Action, Context, Verdict, takes_object, takes_values};
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

/// Adds what a template does not say of an object of this class, behind what it says.
pub(crate) fn complete(template: &mut Template, class: Class) {
    let defaults = match class {
        Class::SECRET_KEY => SECRET_KEY,
        Class::PRIVATE_KEY => PRIVATE_KEY,
        Class::PUBLIC_KEY => PUBLIC_KEY,
        _ => &[],
    };
    let said = template.0.len();
    for (boolean, value) in defaults {
        let attribute_type = boolean.attribute_type();
        let is_said = |said: &Attribute| is_same(said.attribute_type, attribute_type);
        if !template.0.iter().take(said).any(is_said) {
            let value = vec![u8::from(*value)];
            template.0.push(Attribute::new(attribute_type, value));
        }
    }
}

/// The action. C_CopyObject, which the original's configuration lists, copies what there is.
pub struct SanitizeCreationTemplates;

impl Action for SanitizeCreationTemplates {
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        let function = call.function();
        if takes_object(function) || !takes_values(function) {
            return Verdict::Continue;
        }
        match sanitized(call.clone()) {
            Ok(sanitized) => Verdict::Decide(context.execute(sanitized)),
            Err(rv) => context.refuse(
                rv,
                format_args!("no CKA_CLASS, or malformed or repeated attributes in the template"),
            ),
        }
    }
}

/// The call with complete templates. Generation gives the class of what it makes; everywhere else the
/// template does.
fn sanitized(mut call: Call<'_>) -> Result<Call<'_>, CkRv> {
    let is_generated = call.function().facts().is_of(Family::Generate);
    let mut templates = call.values_mut();
    // NULL says nothing, and is completed like an empty template.
    let mut templates: Vec<&mut Template> = templates
        .iter_mut()
        .map(|template| template.get_or_insert_default())
        .collect();
    match (is_generated, templates.as_mut_slice()) {
        (true, [secret]) => complete(secret, Class::SECRET_KEY),
        (true, [public, private]) => {
            complete(public, Class::PUBLIC_KEY);
            complete(private, Class::PRIVATE_KEY);
        }
        (_, templates) => {
            for template in templates {
                let class = Attributes::of_template(template)?.class;
                complete(template, class.ok_or(CkRv::TEMPLATE_INCOMPLETE)?);
            }
        }
    }
    Ok(call)
}
