//! `secure_templates_patch`: new keys have one of the few sets of roles that are safe together, and
//! keep it.

use xdr::{Call, CkRv, ObjectHandle, SessionHandle, Template};

use crate::actions::{Action, Context, Verdict};
use crate::attributes::{Attributes, Boolean, Booleans, Class, Setting};
use crate::patches::sticky_attributes_patch::taken_away;
use crate::patches::{Shown, refuse_unreadable};

const T: bool = true;
const F: bool = false;

const SENSITIVE: Setting = (Boolean::Sensitive, T);
const NO_ENCRYPTION: [Setting; 2] = [(Boolean::Encrypt, F), (Boolean::Decrypt, F)];
const NO_WRAPPING: [Setting; 2] = [(Boolean::Wrap, F), (Boolean::Unwrap, F)];
const NO_SIGNING: [Setting; 4] = [
    (Boolean::Sign, F),
    (Boolean::SignRecover, F),
    (Boolean::Verify, F),
    (Boolean::VerifyRecover, F),
];
const IMPORTED: [Setting; 2] = [(Boolean::Wrap, F), (Boolean::Decrypt, F)];
const IMPORTED_TO_SIGN: [Setting; 3] = [
    (Boolean::Wrap, F),
    (Boolean::Decrypt, F),
    (Boolean::Encrypt, F),
];

/// What a template says is one of these, each with [`SENSITIVE`]; what it does not say is left to
/// `sanitize_creation_templates_patch`.
type Secure = &'static [&'static [&'static [Setting]]];

/// Keys made by the token: to wrap, or to encrypt.
const GENERATED: Secure = &[&[&NO_ENCRYPTION], &[&NO_WRAPPING]];
/// To wrap, to encrypt, or to sign.
const GENERATED_SEGREGATED: Secure = &[
    &[&NO_ENCRYPTION, &NO_SIGNING],
    &[&NO_WRAPPING, &NO_SIGNING],
    &[&NO_WRAPPING, &NO_ENCRYPTION],
];
/// Keys whose value came from elsewhere: to encrypt and unwrap.
const IMPORT: Secure = &[&[&IMPORTED]];
/// To encrypt and unwrap, or to sign.
const IMPORT_SEGREGATED: Secure = &[&[&IMPORTED, &NO_SIGNING], &[&IMPORTED_TO_SIGN]];

fn is_secure(booleans: Booleans, (all, segregated): (Secure, Secure), is_segregated: bool) -> bool {
    let templates = if is_segregated { segregated } else { all };
    let conforms = |(boolean, value): Setting| !booleans.has((boolean, !value));
    conforms(SENSITIVE)
        && templates
            .iter()
            .any(|parts| parts.iter().copied().flatten().copied().all(conforms))
}

/// Which templates are secure for what is made.
const BY_GENERATION: (Secure, Secure) = (GENERATED, GENERATED_SEGREGATED);
const BY_IMPORT: (Secure, Secure) = (IMPORT, IMPORT_SEGREGATED);

/// What an existing key keeps, be it true or false.
const KEPT: &[Boolean] = &[
    Boolean::Wrap,
    Boolean::Unwrap,
    Boolean::Decrypt,
    Boolean::Encrypt,
    Boolean::Sensitive,
];

/// And this, where key usage is segregated.
const KEPT_SEGREGATED: &[Boolean] = &[
    Boolean::Sign,
    Boolean::Verify,
    Boolean::SignRecover,
    Boolean::VerifyRecover,
];

/// The action.
pub struct SecureTemplates;

impl Action for SecureTemplates {
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        match judge(call, context) {
            Ok(verdict) => verdict,
            Err(rv) => context.refuse(rv, format_args!("an unsound template")),
        }
    }
}

fn judge(call: &Call<'_>, context: &Context<'_>) -> Result<Verdict, CkRv> {
    let segregated = context.is_segregated();
    Ok(match call {
        Call::C_GenerateKey(_, _, template) => {
            let new = Attributes::of_template(template)?.booleans;
            allow(is_secure(new, BY_GENERATION, segregated), context)
        }
        Call::C_GenerateKeyPair(_, _, public, private) => {
            let public = Attributes::of_template(public)?.booleans;
            let new = public.together_with(Attributes::of_template(private)?.booleans);
            allow(is_secure(new, BY_GENERATION, segregated), context)
        }
        Call::C_UnwrapKey(_, _, _, _, template) | Call::C_DeriveKey(_, _, _, template) => {
            let new = Attributes::of_template(template)?.booleans;
            allow(is_secure(new, BY_IMPORT, segregated), context)
        }
        Call::C_CreateObject(_, template) => {
            let new = Attributes::of_template(template)?;
            let is_key = new.class.is_some_and(Class::is_key);
            let is_secure = is_secure(new.booleans, BY_IMPORT, segregated);
            allow(!is_key || is_secure, context)
        }
        Call::C_CopyObject(session, object, template) => {
            copied(context, *session, *object, template)?
        }
        Call::C_SetAttributeValue(session, object, template) => {
            changed(context, *session, *object, template)?
        }
        _ => Verdict::Continue,
    })
}

fn allow(is_allowed: bool, context: &Context<'_>) -> Verdict {
    if is_allowed {
        return Verdict::Continue;
    }
    let reason = format_args!("no secure template");
    context.refuse(CkRv::TEMPLATE_INCONSISTENT, reason)
}

/// The template is held against those for imports, as in the original, and what is copied and what
/// the copy would be against those of keys: the original looks at neither. Out of a key with two
/// roles come no two keys with one each; that it was not sensitive, the copy can mend.
fn copied(
    context: &Context<'_>,
    session: SessionHandle,
    object: ObjectHandle,
    template: &Template,
) -> Result<Verdict, CkRv> {
    let old = match context.objects.attributes(session, object) {
        Ok(old) => old,
        Err(rv) => return Ok(refuse_unreadable(context, rv, CkRv::GENERAL_ERROR)),
    };
    if !old.class.is_none_or(Class::is_key) {
        return Ok(Verdict::Continue);
    }
    let new = Attributes::of_template(template)?.booleans;
    let copy = old.booleans.overridden_by(new);
    let segregated = context.is_segregated();
    // A key without roles is copied to keys with one each no more than a key with two.
    let roles = KEPT.iter().chain(KEPT_SEGREGATED);
    let kept = roles.flat_map(|boolean| [(*boolean, true), (*boolean, false)]);
    if segregated && taken_away(kept, old.booleans, new).is_some() {
        return Ok(allow(false, context));
    }
    let source = old
        .booleans
        .overridden_by([SENSITIVE].into_iter().collect());
    let is_allowed = is_secure(new, BY_IMPORT, segregated)
        && [source, copy]
            .into_iter()
            .all(|key| is_secure(key, BY_GENERATION, segregated));
    Ok(allow(is_allowed, context))
}

fn changed(
    context: &Context<'_>,
    session: SessionHandle,
    object: ObjectHandle,
    template: &Template,
) -> Result<Verdict, CkRv> {
    let old = match context.objects.attributes(session, object) {
        Ok(old) => old,
        Err(rv) => return Ok(refuse_unreadable(context, rv, CkRv::GENERAL_ERROR)),
    };
    if !old.class.is_none_or(Class::is_key) {
        return Ok(Verdict::Continue);
    }
    let new = Attributes::of_template(template)?.booleans;
    let more = if context.is_segregated() {
        KEPT_SEGREGATED
    } else {
        &[]
    };
    let kept = KEPT.iter().chain(more);
    let both = kept.flat_map(|boolean| [(*boolean, true), (*boolean, false)]);
    Ok(match taken_away(both, old.booleans, new) {
        Some(setting) => context.refuse(
            CkRv::ATTRIBUTE_READ_ONLY,
            format_args!("{} stays", Shown(setting)),
        ),
        None => Verdict::Continue,
    })
}
