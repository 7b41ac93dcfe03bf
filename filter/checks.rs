//! The checks of single arguments: objects, mechanisms, templates, users.
//!
//! `lib` says which of them a function has, and in which order; each answers with a [`Refusal`] that
//! knows the rule it comes from. The attributes that a rule is about are read from the module at
//! every use, so that a changed label counts at once.

use xdr::word_size::{narrow, wide};
use xdr::{
    AttributeType, Call, CkRv, Mechanism, MechanismType, ObjectHandle, SessionHandle, Template,
    UserType,
};

use crate::config::Operation;
use crate::context::Context;
use crate::log::{self, Printable};
use crate::module_rules::{AllowList, Source};
use crate::patches::UNKNOWN_PARAMETER;

/// CKA_LABEL.
const LABEL: AttributeType = AttributeType(0x3);
/// CKA_ID.
const ID: AttributeType = AttributeType(0x102);

/// The security officer, and the user of a single operation.
const ADMINISTRATORS: [u64; 2] = [0, 2];

/// Why a call is refused.
pub(crate) struct Refusal {
    /// What the client is told.
    pub(crate) rv: CkRv,
    /// What is refused, such as `label 'x'`.
    pub(crate) what: String,
    /// The rule; none for a refusal that no rule asks for.
    pub(crate) source: Option<Source>,
}

impl Refusal {
    /// Logs what is refused, with which CK_RV, and the rule.
    pub(crate) fn log(&self, context: &Context<'_>) {
        let Refusal { rv, what, source } = self;
        match source {
            Some(source) => context.log_rule(*source, format_args!("{what} is FILTERED with {rv}")),
            None => context.log_call(1, format_args!("{what} is FILTERED with {rv}")),
        }
    }
}

/// The function as a whole.
pub(crate) fn check_function(context: &Context<'_>) -> Result<(), Refusal> {
    match context.rules.functions.get(&context.function) {
        Some(source) => Err(refusal(
            CkRv::FUNCTION_NOT_SUPPORTED,
            "the function".into(),
            *source,
        )),
        None => Ok(()),
    }
}

/// The checks of each function, in the order in which they are made; the first that refuses decides.
pub(crate) fn check_arguments(call: &Call<'_>, context: &Context<'_>) -> Result<(), Refusal> {
    use Operation::{Decrypt, Encrypt, Sign, Unwrap, Wrap};
    use xdr::Call::*;

    const INVALID: CkRv = CkRv::OBJECT_HANDLE_INVALID;
    match call {
        C_GetMechanismInfo(_, mechanism) => check_mechanism(context, *mechanism),
        C_InitToken(..) | C_InitPIN(..) => check_administration(context),
        C_Login(_, user, _) => check_user(context, *user),
        C_SetOperationState(session, _, encryption, authentication) => {
            let mut named = [encryption, authentication]
                .into_iter()
                .filter(|key| key.0 != 0);
            named.try_for_each(|key| check_object(context, *session, *key, INVALID))
        }

        C_CreateObject(_, template) => check_template(context, template),
        C_CopyObject(session, object, template)
        | C_SetAttributeValue(session, object, template) => {
            check_object(context, *session, *object, INVALID)?;
            check_template(context, template)
        }
        C_DestroyObject(session, object)
        | C_GetObjectSize(session, object)
        | C_GetAttributeValue(session, object, _)
        | C_DigestKey(session, object) => check_object(context, *session, *object, INVALID),

        C_EncryptInit(session, mechanism, key) => {
            check_object(context, *session, *key, INVALID)?;
            check_use_of(context, *session, mechanism)?;
            check_padding(context, Encrypt, mechanism)
        }
        C_DecryptInit(session, mechanism, key) => {
            check_object(context, *session, *key, INVALID)?;
            check_use_of(context, *session, mechanism)?;
            check_padding(context, Decrypt, mechanism)
        }
        C_SignInit(session, mechanism, key) => {
            check_object(context, *session, *key, INVALID)?;
            check_use_of(context, *session, mechanism)?;
            check_padding(context, Sign, mechanism)
        }
        C_SignRecoverInit(session, mechanism, key)
        | C_VerifyInit(session, mechanism, key)
        | C_VerifyRecoverInit(session, mechanism, key) => {
            check_object(context, *session, *key, INVALID)?;
            check_use_of(context, *session, mechanism)
        }
        C_DigestInit(session, mechanism) => check_use_of(context, *session, mechanism),

        C_GenerateKey(session, mechanism, template) => {
            check_use_of(context, *session, mechanism)?;
            check_template(context, template)
        }
        C_GenerateKeyPair(session, mechanism, public, private) => {
            check_use_of(context, *session, mechanism)?;
            check_template(context, public)?;
            check_template(context, private)
        }
        C_WrapKey(session, mechanism, wrapping, key) => {
            check_object(
                context,
                *session,
                *wrapping,
                CkRv::WRAPPING_KEY_HANDLE_INVALID,
            )?;
            check_object(context, *session, *key, INVALID)?;
            check_use_of(context, *session, mechanism)?;
            check_padding(context, Wrap, mechanism)
        }
        C_UnwrapKey(session, mechanism, unwrapping, _, template) => {
            check_object(
                context,
                *session,
                *unwrapping,
                CkRv::UNWRAPPING_KEY_HANDLE_INVALID,
            )?;
            check_use_of(context, *session, mechanism)?;
            check_padding(context, Unwrap, mechanism)?;
            check_template(context, template)
        }
        C_DeriveKey(session, mechanism, base, template) => {
            check_object(context, *session, *base, INVALID)?;
            check_use_of(context, *session, mechanism)?;
            check_template(context, template)
        }
        _ => Ok(()),
    }
}

/// An object that the client names: `rv` if it may not.
pub(crate) fn check_object(
    context: &Context<'_>,
    session: SessionHandle,
    object: ObjectHandle,
    rv: CkRv,
) -> Result<(), Refusal> {
    if !context.rules.guards_objects() {
        return Ok(());
    }
    let unreadable = |told: CkRv, source: Option<Source>| Refusal {
        rv: if concerns_the_session(told) { told } else { rv },
        what: format!("an object whose attributes cannot be read ({told})"),
        source,
    };
    let lists = [(LABEL, &context.rules.labels), (ID, &context.rules.ids)];
    let wanted: Vec<(AttributeType, &AllowList)> = lists
        .into_iter()
        .filter_map(|(kind, list)| Some((kind, list.as_ref()?)))
        .collect();
    let source = wanted.first().map(|(_, list)| list.source);
    let types: Vec<AttributeType> = wanted.iter().map(|(kind, _)| *kind).collect();
    let values = context
        .objects
        .values(session, object, &types)
        .map_err(|told| unreadable(told, source))?;
    for ((kind, list), value) in wanted.into_iter().zip(&values.0) {
        check_value(context, kind, &value.value, list, rv)?;
    }
    Ok(())
}

/// The keys that a mechanism's parameter names, beside the key of the call.
fn check_parameter(
    context: &Context<'_>,
    session: SessionHandle,
    mechanism: &Mechanism,
) -> Result<(), Refusal> {
    if !context.rules.guards_objects() {
        return Ok(());
    }
    let keys = mechanism.named_keys().map_err(|rv| Refusal {
        rv,
        what: UNKNOWN_PARAMETER.into(),
        source: None,
    })?;
    let mut named = keys.into_iter().filter(|key| key.0 != 0);
    named.try_for_each(|key| check_object(context, session, key, CkRv::OBJECT_HANDLE_INVALID))
}

/// A value of CKA_LABEL or CKA_ID against what is allowed.
fn check_value(
    context: &Context<'_>,
    kind: AttributeType,
    value: &[u8],
    list: &AllowList,
    rv: CkRv,
) -> Result<(), Refusal> {
    let (allowed, what, level) = match kind {
        LABEL => (
            list.allows(value),
            format!("label '{}'", Printable(value)),
            1,
        ),
        _ => {
            let id: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            (list.allows(id.as_bytes()), format!("id '{id}'"), 2)
        }
    };
    if !allowed {
        return Err(refusal(rv, what, list.source));
    }
    context.log_call(level, format_args!("{what} is allowed"));
    Ok(())
}

/// Labels and identifiers in a template that the client supplies.
fn check_template(context: &Context<'_>, template: &Template) -> Result<(), Refusal> {
    for (kind, list) in [(LABEL, &context.rules.labels), (ID, &context.rules.ids)] {
        let Some(list) = list else { continue };
        for attribute in template
            .0
            .iter()
            .filter(|a| wide(narrow(a.attribute_type.0)) == kind.0)
        {
            check_value(
                context,
                kind,
                &attribute.value,
                list,
                CkRv::ATTRIBUTE_VALUE_INVALID,
            )?;
        }
    }
    Ok(())
}

/// A mechanism that is to be used, and the keys in its parameter.
fn check_use_of(
    context: &Context<'_>,
    session: SessionHandle,
    mechanism: &Mechanism,
) -> Result<(), Refusal> {
    check_mechanism(context, mechanism.mechanism_type)?;
    check_parameter(context, session, mechanism)
}

/// A mechanism.
fn check_mechanism(context: &Context<'_>, mechanism: MechanismType) -> Result<(), Refusal> {
    let what = || format!("mechanism '{}'", log::mechanism(mechanism));
    match context.rules.forbids(mechanism) {
        Some(source) => Err(refusal(CkRv::MECHANISM_INVALID, what(), source)),
        None if context.debug < 2 => Ok(()),
        None => {
            context.log_call(2, format_args!("{} is not forbidden", what()));
            Ok(())
        }
    }
}

/// A mechanism with a padding oracle.
fn check_padding(
    context: &Context<'_>,
    operation: Operation,
    mechanism: &Mechanism,
) -> Result<(), Refusal> {
    let mechanism = mechanism.mechanism_type;
    let kind = operation.name();
    if let Some(source) = context.rules.forbids_padding(operation, mechanism) {
        let what = format!("padding of '{}' to {kind}", log::mechanism(mechanism));
        return Err(refusal(CkRv::MECHANISM_INVALID, what, source));
    }
    match context.rules.padding.contains_key(&operation) {
        true => context.log_call(1, format_args!("padding removal is active to {kind}")),
        false => context.log_call(2, format_args!("padding removal is not active to {kind}")),
    }
    Ok(())
}

/// Who logs in.
fn check_user(context: &Context<'_>, user: UserType) -> Result<(), Refusal> {
    match context.rules.no_admin {
        Some(source) if ADMINISTRATORS.contains(&wide(narrow(user.0))) => {
            let what = format!("login of user type {}", user.0);
            Err(refusal(CkRv::USER_TYPE_INVALID, what, source))
        }
        Some(_) => Ok(()),
        None => {
            context.log_call(2, format_args!("administration is not forbidden"));
            Ok(())
        }
    }
}

/// Administration by other means than C_Login.
fn check_administration(context: &Context<'_>) -> Result<(), Refusal> {
    match context.rules.no_admin {
        Some(source) if !context.rules.admin_is_login_only => Err(refusal(
            CkRv::FUNCTION_NOT_SUPPORTED,
            "administration".into(),
            source,
        )),
        _ => Ok(()),
    }
}

/// Whether a session is to be read-only.
pub(crate) fn is_read_only(context: &Context<'_>) -> bool {
    match context.rules.read_only {
        Some(source) => {
            context.log_rule(source, format_args!("read-only sessions are enforced"));
        }
        None => context.log_call(2, format_args!("read-only sessions are not enforced")),
    }
    context.rules.read_only.is_some()
}

fn refusal(rv: CkRv, what: String, source: Source) -> Refusal {
    Refusal {
        rv,
        what,
        source: Some(source),
    }
}

/// What a module says of the session or the token, whatever the object: the client may know.
pub(crate) fn concerns_the_session(rv: CkRv) -> bool {
    [
        CkRv::HOST_MEMORY,
        CkRv::DEVICE_ERROR,
        CkRv::DEVICE_MEMORY,
        CkRv::DEVICE_REMOVED,
        CkRv::SESSION_CLOSED,
        CkRv::SESSION_HANDLE_INVALID,
        CkRv::TOKEN_NOT_PRESENT,
        CkRv::TOKEN_NOT_RECOGNIZED,
        CkRv::CRYPTOKI_NOT_INITIALIZED,
    ]
    .contains(&rv)
}
