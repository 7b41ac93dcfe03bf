//! `secure_templates_patch`: allows new keys only with a few sets of roles that are safe together, and forbids to
//! change the roles of a key.

use xdr::facts::{Facts, Family};
use xdr::{Call, CkRv, Function};

use crate::actions::{Action, Context, Verdict};
use crate::attributes::{Attributes, Boolean, Booleans, Class, Setting};
use crate::patches::sticky_attributes_patch::taken_away;
use crate::patches::{Change, Refused, Shown, Written, added_by_key};

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

/// The sets of settings, one of which a template must agree with, each together with [`SENSITIVE`]. What the template
/// does not mention is left to `sanitize_creation_templates_patch`.
type Secure = &'static [&'static [&'static [Setting]]];

/// For keys made by the token: to wrap, or to encrypt.
const GENERATED: Secure = &[&[&NO_ENCRYPTION], &[&NO_WRAPPING]];
/// The same with segregated key usage: to wrap, to encrypt, or to sign.
const GENERATED_SEGREGATED: Secure = &[
    &[&NO_ENCRYPTION, &NO_SIGNING],
    &[&NO_WRAPPING, &NO_SIGNING],
    &[&NO_WRAPPING, &NO_ENCRYPTION],
];
/// For keys whose value came from elsewhere: to encrypt and unwrap.
const IMPORT: Secure = &[&[&IMPORTED]];
/// The same with segregated key usage: to encrypt and unwrap, or to sign.
const IMPORT_SEGREGATED: Secure = &[&[&IMPORTED, &NO_SIGNING], &[&IMPORTED_TO_SIGN]];

fn is_secure(booleans: Booleans, (all, segregated): (Secure, Secure), is_segregated: bool) -> bool {
    let templates = if is_segregated { segregated } else { all };
    let conforms = |(boolean, value): Setting| !booleans.has((boolean, !value));
    conforms(SENSITIVE)
        && templates
            .iter()
            .any(|parts| parts.iter().copied().flatten().copied().all(conforms))
}

/// The secure templates for each way of making a key.
const BY_GENERATION: (Secure, Secure) = (GENERATED, GENERATED_SEGREGATED);
const BY_IMPORT: (Secure, Secure) = (IMPORT, IMPORT_SEGREGATED);

/// Attributes of an existing key that cannot be changed, whether true or false.
const KEPT: &[Boolean] = &[
    Boolean::Wrap,
    Boolean::Unwrap,
    Boolean::Decrypt,
    Boolean::Encrypt,
    Boolean::Sensitive,
];

/// More such attributes, where key usage is segregated.
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
        Refused::verdict(judge(call, context), context)
    }
}

fn judge(call: &Call<'_>, context: &Context<'_>) -> Result<(), Refused> {
    let segregated = context.is_segregated();
    let policy = CkRv::GENERAL_ERROR;
    match Written::by(call, context, policy)? {
        Written::Nothing => Ok(()),
        Written::New(mut made) => {
            let facts = call.function().facts();
            allow(are_secure(&made, facts, segregated))?;
            made.extend(added_by_key(call, context, policy)?);
            allow(are_secure(&made, facts, segregated))
        }
        Written::Change(change) if !change.is_of_key() => Ok(()),
        Written::Change(change) if call.function() == Function::C_CopyObject => {
            allow(is_secure_copy(&change, segregated))
        }
        Written::Change(change) => refuse_change(&change, segregated),
    }
}

fn allow(is_allowed: bool) -> Result<(), Refused> {
    match is_allowed {
        true => Ok(()),
        false => Err(Refused::new(
            CkRv::TEMPLATE_INCONSISTENT,
            "the template matches no secure template",
        )),
    }
}

/// Whether new objects have secure templates. Those of a key pair are judged together.
fn are_secure(made: &[Attributes], function: &Facts, segregated: bool) -> bool {
    let booleans = made.iter().fold(Booleans::default(), |all, new| {
        all.together_with(new.booleans)
    });
    if function.is_of(Family::Generate) {
        return is_secure(booleans, BY_GENERATION, segregated);
    }
    // C_CreateObject also makes objects that are no keys.
    let are_keys = !function.families.is_empty()
        || made.iter().any(|new| new.class.is_some_and(Class::is_key));
    !are_keys || is_secure(booleans, BY_IMPORT, segregated)
}

/// Whether a copy is secure. Its template must be secure for an import, as in the original. In addition, the source and
/// the result must be secure for a key, so that a key with two roles does not become two keys with one each. A source
/// that is not sensitive is accepted if the copy is.
fn is_secure_copy(change: &Change, segregated: bool) -> bool {
    let (old, new) = (change.old.booleans, change.new.booleans);
    // A key without roles must not become two keys with one each, either.
    let roles = both_values(KEPT.iter().chain(KEPT_SEGREGATED));
    if segregated && taken_away(roles, old, new).is_some() {
        return false;
    }
    let source = old.overridden_by([SENSITIVE].into_iter().collect());
    is_secure(new, BY_IMPORT, segregated)
        && [source, change.result()]
            .into_iter()
            .all(|key| is_secure(key, BY_GENERATION, segregated))
}

fn refuse_change(change: &Change, segregated: bool) -> Result<(), Refused> {
    let more = if segregated { KEPT_SEGREGATED } else { &[] };
    let kept = both_values(KEPT.iter().chain(more));
    match taken_away(kept, change.old.booleans, change.new.booleans) {
        Some(setting) => Err(Refused::new(
            CkRv::ATTRIBUTE_READ_ONLY,
            format!("{} cannot be changed", Shown(setting)),
        )),
        None => Ok(()),
    }
}

fn both_values<'a>(booleans: impl Iterator<Item = &'a Boolean>) -> impl Iterator<Item = Setting> {
    booleans.flat_map(|boolean| [(*boolean, T), (*boolean, F)])
}
