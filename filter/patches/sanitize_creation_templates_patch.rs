//! `sanitize_creation_templates_patch`: completes the templates of new keys with safe values, so that no default of the
//! module applies.
//!
//! The action calls the module itself, with the completed templates. So no later action of its chain runs.

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

/// Adds defaults for the attributes that a template does not have, for an object of this class, after those that it
/// has.
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

/// The action. A C_CopyObject, which the original's configuration lists, is left unchanged: it copies what the object
/// has.
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

/// Completes the templates of a call. For generation, the function says which class is made; otherwise the template
/// does.
fn sanitized(mut call: Call<'_>) -> Result<Call<'_>, CkRv> {
    let is_generated = call.function().facts().is_of(Family::Generate);
    let mut templates = call.values_mut();
    // A template that is NULL is completed like an empty one.
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
