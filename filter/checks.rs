//! Checks a call against the rules for functions, objects, mechanisms, templates and users.
//!
//! `xdr::facts` says which arguments a function has, and in which role. A check that fails returns a [`Refusal`], which
//! names the rule. Labels and identifiers are read from the module at every use, so that a change of a label takes
//! effect at once.

use std::fmt::{self, Write};

use xdr::facts::{Argument, Effect, Step};
use xdr::word_size::{narrow, wide};
use xdr::{
    AttributeType, Call, CkRv, Function, Mechanism, MechanismType, ObjectHandle, SessionHandle,
    Template, UserType,
};

use crate::config::Operation;
use crate::context::Context;
use crate::log::{self, Excerpt, LONGEST_EXCERPT};
use crate::module_rules::{AllowList, Source};
use crate::patches::UNKNOWN_PARAMETER;

/// CKA_LABEL.
pub(crate) const LABEL: AttributeType = AttributeType(0x3);
/// CKA_ID.
pub(crate) const ID: AttributeType = AttributeType(0x102);

/// CKF_ASYNC_SESSION.
const ASYNC_SESSION: u64 = wide(cryptoki_sys::CKF_ASYNC_SESSION);

/// The security officer, and the user of a single operation.
const ADMINISTRATORS: [u64; 2] = [0, 2];

/// Why a call is refused.
pub(crate) struct Refusal {
    /// The CK_RV for the client.
    pub(crate) rv: CkRv,
    /// What is refused, such as `label 'x'`.
    pub(crate) what: String,
    /// The rule, if the refusal follows from one.
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

/// Refuses a forbidden function.
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

/// Refuses templates inside templates, and templates in mechanism parameters, if an action attached to the function
/// judges or completes templates. Such an action does not see the keys that these inner templates are for.
pub(crate) fn check_nesting(call: &Call<'_>, context: &Context<'_>) -> Result<(), Refusal> {
    let chains = [&context.rules.pre, &context.rules.post];
    let mut steps = chains
        .iter()
        .filter_map(|chains| chains.get(&context.function))
        .flatten();
    let Some(step) = steps.find(|step| step.action.judges_templates()) else {
        return Ok(());
    };
    let refused = |rv, what: &str| {
        let what = format!("{what}, which action '{}' does not judge,", step.name);
        Err(refusal(rv, what, step.source))
    };
    let inside = call.values().flat_map(|template| &template.0);
    let mut inside = inside.filter_map(|attribute| attribute.nested());
    if inside.any(|template| !template.0.is_empty()) {
        return refused(CkRv::ATTRIBUTE_TYPE_INVALID, "a template inside a template");
    }
    let in_parameter = call.mechanism().map(Mechanism::inner_templates);
    if in_parameter.is_some_and(|templates| !templates.is_empty()) {
        let what = "a template in a mechanism's parameter";
        return refused(CkRv::MECHANISM_PARAM_INVALID, what);
    }
    Ok(())
}

/// Checks the arguments of a call by their roles. The order is the same for every function: the caller's rights,
/// objects and keys, the mechanism, templates. The first check that refuses decides.
pub(crate) fn check_arguments(call: &Call<'_>, context: &Context<'_>) -> Result<(), Refusal> {
    let facts = call.function().facts();
    if facts.has(Effect::Administers) {
        check_administration(context)?;
    }
    check_asynchrony(call, context)?;
    let session = call.session().unwrap_or_default();
    for argument in call.arguments() {
        match argument {
            Argument::User(user) => check_user(context, user)?,
            Argument::MechanismType(mechanism) => check_mechanism(context, mechanism)?,
            Argument::Key(key, _) if cancels_operation(call, key) => {}
            Argument::Object(object, rv) | Argument::Key(object, rv) => {
                check_object(context, session, object, rv)?;
            }
            // Checked below, after all objects.
            Argument::Mechanism(_) | Argument::Values(_) => {}
            // What a search finds is checked object by object. A query has no values.
            Argument::Session(_) | Argument::Selection(_) | Argument::Query(_) => {}
        }
    }
    if let Some(mechanism) = call.mechanism() {
        let inner = mechanism.inner_mechanisms();
        for mechanism in std::iter::once(mechanism).chain(inner.iter().copied()) {
            check_mechanism(context, mechanism.mechanism_type())?;
        }
        check_parameter(context, session, mechanism)?;
        for operation in operations(call.function()) {
            for mechanism in std::iter::once(mechanism).chain(inner.iter().copied()) {
                check_padding(context, operation, mechanism)?;
            }
        }
        let templates = mechanism.inner_templates();
        let mut templates = templates.into_iter();
        templates.try_for_each(|template| check_template(context, template))?;
    }
    call.values()
        .try_for_each(|template| check_template(context, template))?;
    check_requirements(call, context)
}

/// Refuses mechanism parameters and templates that do not meet the option `mechanism_parameters`.
fn check_requirements(call: &Call<'_>, context: &Context<'_>) -> Result<(), Refusal> {
    for (requirement, source) in &context.rules.requirements {
        requirement.check(call).map_err(|unmet| {
            let rv = match unmet.is_attribute {
                true => CkRv::ATTRIBUTE_VALUE_INVALID,
                false => CkRv::MECHANISM_PARAM_INVALID,
            };
            refusal(rv, unmet.what, *source)
        })?;
    }
    Ok(())
}

/// Whether a call that could begin an operation has neither a mechanism nor a key. Such a call ends the operation
/// (PKCS#11 v3.0, section 5.8).
pub(crate) fn cancels_operation(call: &Call<'_>, key: ObjectHandle) -> bool {
    let begins = call.function().facts().step == Some(Step::Init);
    begins && call.mechanism().is_none() && key.0 == 0
}

/// Refuses asynchronous sessions and the functions for them, if rules look at what a call works on or returns. The
/// results of an asynchronous call are returned by C_AsyncComplete, which does not say what the call was.
fn check_asynchrony(call: &Call<'_>, context: &Context<'_>) -> Result<(), Refusal> {
    let rv = if let Call::C_OpenSession(_, flags, _) = call {
        (flags.0 & ASYNC_SESSION != 0).then_some(CkRv::SESSION_ASYNC_NOT_SUPPORTED)
    } else if let Call::C_AsyncComplete(..) | Call::C_AsyncGetID(..) | Call::C_AsyncJoin(..) = call
    {
        Some(CkRv::FUNCTION_NOT_SUPPORTED)
    } else {
        None
    };
    match (rv, context.rules.looks_at_objects()) {
        (Some(rv), Some(source)) => {
            let what = "an asynchronous session or call";
            Err(refusal(rv, what.to_owned(), source))
        }
        _ => Ok(()),
    }
}

/// Returns the operations of a function to which `remove_padding_oracles` applies. Encapsulating a key counts as
/// wrapping, and decapsulating as unwrapping: an RSA padding fails in the same way.
pub(crate) fn operations(function: Function) -> impl Iterator<Item = Operation> {
    let of_a_key = if function == Function::C_EncapsulateKey {
        Some(Operation::Wrap)
    } else if function == Function::C_DecapsulateKey {
        Some(Operation::Unwrap)
    } else {
        None
    };
    let families = function.facts().families.iter().copied();
    families.filter_map(Operation::of).chain(of_a_key)
}

/// Refuses, with this CK_RV, an object whose label or identifier is not allowed.
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
        what: format!("the object's attributes cannot be read ({told})"),
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
    for ((kind, list), value) in wanted.into_iter().zip(values) {
        check_value(context, kind, &value, list, rv)?;
    }
    Ok(())
}

/// Checks the keys that a mechanism's parameter names.
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

/// Refuses a value of CKA_LABEL or CKA_ID that is not allowed.
fn check_value(
    context: &Context<'_>,
    kind: AttributeType,
    value: &[u8],
    list: &AllowList,
    rv: CkRv,
) -> Result<(), Refusal> {
    let (allowed, level) = match kind {
        LABEL => (list.allows(value), 1),
        _ => (list.allows(hexadecimal(value).as_bytes()), 2),
    };
    let what = Shown { kind, value };
    if !allowed {
        return Err(refusal(rv, what.to_string(), list.source));
    }
    context.log_call(level, format_args!("{what} is allowed"));
    Ok(())
}

/// A value of CKA_LABEL or CKA_ID, in the form that log lines show.
struct Shown<'a> {
    kind: AttributeType,
    value: &'a [u8],
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            LABEL => write!(f, "label '{}'", Excerpt(self.value)),
            _ => {
                let beginning = self.value.get(..LONGEST_EXCERPT).unwrap_or(self.value);
                let digits = hexadecimal(beginning);
                write!(f, "id '{}'", Excerpt(digits.as_bytes()))
            }
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Checks the labels and identifiers in a template of the client, and in the templates inside it, which are for
/// keys made later.
pub(crate) fn check_template(context: &Context<'_>, template: &Template) -> Result<(), Refusal> {
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
                attribute.bytes(),
                list,
                CkRv::ATTRIBUTE_VALUE_INVALID,
            )?;
        }
    }
    let mut inside = template.0.iter().filter_map(|it| it.nested());
    inside.try_for_each(|template| check_template(context, template))
}

/// Refuses a forbidden mechanism.
pub(crate) fn check_mechanism(
    context: &Context<'_>,
    mechanism: MechanismType,
) -> Result<(), Refusal> {
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

/// Refuses a mechanism with a padding oracle for this kind of operation.
pub(crate) fn check_padding(
    context: &Context<'_>,
    operation: Operation,
    mechanism: &Mechanism,
) -> Result<(), Refusal> {
    let mechanism = mechanism.mechanism_type();
    let kind = operation.name();
    if let Some(source) = context.rules.forbids_padding(operation, mechanism) {
        let what = format!("padding of '{}' for {kind}", log::mechanism(mechanism));
        return Err(refusal(CkRv::MECHANISM_INVALID, what, source));
    }
    match context.rules.padding.contains_key(&operation) {
        true => context.log_call(1, format_args!("padding oracles are refused for {kind}")),
        false => context.log_call(2, format_args!("padding oracles are allowed for {kind}")),
    }
    Ok(())
}

/// Refuses the login of an administrator.
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

/// Refuses administration by other functions than C_Login.
pub(crate) fn check_administration(context: &Context<'_>) -> Result<(), Refusal> {
    match context.rules.no_admin {
        Some(source) if !context.rules.admin_is_login_only => Err(refusal(
            CkRv::FUNCTION_NOT_SUPPORTED,
            "administration".into(),
            source,
        )),
        _ => Ok(()),
    }
}

/// Whether sessions must be read-only; logs the rule.
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

/// Whether a CK_RV of the module is about the session or the token and not about the object. Such a CK_RV reveals
/// nothing about an object that the client may not use.
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
