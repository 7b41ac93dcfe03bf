//! The checks of single arguments: objects, mechanisms, templates, users.
//!
//! `lib` says which of them a function has, and in which order; each answers with a [`Refusal`] that
//! knows the rule it comes from. The attributes that a rule is about are read from the module at
//! every use, so that a changed label counts at once.

use std::fmt;

use xdr::word_size::{narrow, wide};
use xdr::{
    AttributeType, CkRv, Function, Mechanism, MechanismType, ObjectHandle, SessionHandle, Template,
    UserType,
};

use crate::config::Operation;
use crate::log::{self, Printable};
use crate::module_rules::{AllowList, ModuleRules, Source, Step};
use crate::object_reader::ObjectReader;
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

/// One call in front of the rules.
pub(crate) struct Check<'a> {
    /// What applies.
    pub(crate) rules: &'a ModuleRules,
    /// The name the client asked for.
    pub(crate) module: &'a [u8],
    /// The configured level.
    pub(crate) debug: u8,
    /// Reads the module's objects.
    pub(crate) objects: &'a ObjectReader<'a>,
    /// What is called.
    pub(crate) function: Function,
}

impl Check<'_> {
    /// Logs with the function and the alias that it is about.
    pub(crate) fn log(&self, level: u8, text: fmt::Arguments<'_>) {
        let (function, alias) = (self.function.name(), Printable(self.module));
        log::debug(
            level,
            self.debug,
            format_args!("{function}: {text} for alias '{alias}'"),
        );
    }

    /// Logs a refusal: what, which code, and the rule.
    pub(crate) fn report(&self, refusal: &Refusal) {
        let Refusal { rv, what, source } = refusal;
        match source {
            Some(source) => {
                self.log_with_source(*source, format_args!("{what} is FILTERED with {rv}"))
            }
            None => self.log(1, format_args!("{what} is FILTERED with {rv}")),
        }
    }

    /// Logs what an action answered in the module's place.
    pub(crate) fn decided(&self, step: &Step, rv: CkRv) {
        let name = step.name;
        self.log_with_source(step.source, format_args!("action '{name}' answers {rv}"));
    }

    fn log_with_source(&self, Source { option, line }: Source, text: fmt::Arguments<'_>) {
        let (function, alias) = (self.function.name(), Printable(self.module));
        let file = self.rules.file.display();
        log::debug(
            1,
            self.debug,
            format_args!("{function}: {text} for alias '{alias}' ({file}:{line}: {option})"),
        );
    }

    /// The function as a whole.
    pub(crate) fn function(&self) -> Result<(), Refusal> {
        match self.rules.functions.get(&self.function) {
            Some(source) => Err(refusal(
                CkRv::FUNCTION_NOT_SUPPORTED,
                "the function".into(),
                *source,
            )),
            None => Ok(()),
        }
    }

    /// An object that the client names: `rv` if it may not.
    pub(crate) fn object(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        rv: CkRv,
    ) -> Result<(), Refusal> {
        if !self.rules.guards_objects() {
            return Ok(());
        }
        let unreadable = |told: CkRv, source: Option<Source>| Refusal {
            rv: if concerns_the_session(told) { told } else { rv },
            what: format!("an object whose attributes cannot be read ({told})"),
            source,
        };
        let lists = [(LABEL, &self.rules.labels), (ID, &self.rules.ids)];
        let wanted: Vec<(AttributeType, &AllowList)> = lists
            .into_iter()
            .filter_map(|(kind, list)| Some((kind, list.as_ref()?)))
            .collect();
        let source = wanted.first().map(|(_, list)| list.source);
        let types: Vec<AttributeType> = wanted.iter().map(|(kind, _)| *kind).collect();
        let values = self
            .objects
            .values(session, object, &types)
            .map_err(|told| unreadable(told, source))?;
        for ((kind, list), value) in wanted.into_iter().zip(&values.0) {
            self.value(kind, &value.value, list, rv)?;
        }
        Ok(())
    }

    /// The keys that a mechanism's parameter names, beside the key of the call.
    pub(crate) fn parameter(
        &self,
        session: SessionHandle,
        mechanism: &Mechanism,
    ) -> Result<(), Refusal> {
        if !self.rules.guards_objects() {
            return Ok(());
        }
        let keys = mechanism.named_keys().map_err(|rv| Refusal {
            rv,
            what: UNKNOWN_PARAMETER.into(),
            source: None,
        })?;
        let mut named = keys.into_iter().filter(|key| key.0 != 0);
        named.try_for_each(|key| self.object(session, key, CkRv::OBJECT_HANDLE_INVALID))
    }

    /// A value of CKA_LABEL or CKA_ID against what is allowed.
    fn value(
        &self,
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
        self.log(level, format_args!("{what} is allowed"));
        Ok(())
    }

    /// Labels and identifiers in a template that the client supplies.
    pub(crate) fn template(&self, template: &Template) -> Result<(), Refusal> {
        for (kind, list) in [(LABEL, &self.rules.labels), (ID, &self.rules.ids)] {
            let Some(list) = list else { continue };
            for attribute in template
                .0
                .iter()
                .filter(|a| wide(narrow(a.attribute_type.0)) == kind.0)
            {
                self.value(kind, &attribute.value, list, CkRv::ATTRIBUTE_VALUE_INVALID)?;
            }
        }
        Ok(())
    }

    /// A mechanism that is to be used, and the keys in its parameter.
    pub(crate) fn use_of(
        &self,
        session: SessionHandle,
        mechanism: &Mechanism,
    ) -> Result<(), Refusal> {
        self.mechanism(mechanism.mechanism_type)?;
        self.parameter(session, mechanism)
    }

    /// A mechanism.
    pub(crate) fn mechanism(&self, mechanism: MechanismType) -> Result<(), Refusal> {
        let what = || format!("mechanism '{}'", log::mechanism(mechanism));
        match self.rules.forbids(mechanism) {
            Some(source) => Err(refusal(CkRv::MECHANISM_INVALID, what(), source)),
            None if self.debug < 2 => Ok(()),
            None => {
                self.log(2, format_args!("{} is not forbidden", what()));
                Ok(())
            }
        }
    }

    /// A mechanism with a padding oracle.
    pub(crate) fn padding(
        &self,
        operation: Operation,
        mechanism: &Mechanism,
    ) -> Result<(), Refusal> {
        let mechanism = mechanism.mechanism_type;
        let kind = operation.name();
        if let Some(source) = self.rules.forbids_padding(operation, mechanism) {
            let what = format!("padding of '{}' to {kind}", log::mechanism(mechanism));
            return Err(refusal(CkRv::MECHANISM_INVALID, what, source));
        }
        match self.rules.padding.contains_key(&operation) {
            true => self.log(1, format_args!("padding removal is active to {kind}")),
            false => self.log(2, format_args!("padding removal is not active to {kind}")),
        }
        Ok(())
    }

    /// Who logs in.
    pub(crate) fn user(&self, user: UserType) -> Result<(), Refusal> {
        match self.rules.no_admin {
            Some(source) if ADMINISTRATORS.contains(&wide(narrow(user.0))) => {
                let what = format!("login of user type {}", user.0);
                Err(refusal(CkRv::USER_TYPE_INVALID, what, source))
            }
            Some(_) => Ok(()),
            None => {
                self.log(2, format_args!("administration is not forbidden"));
                Ok(())
            }
        }
    }

    /// Administration by other means than C_Login.
    pub(crate) fn administration(&self) -> Result<(), Refusal> {
        match self.rules.no_admin {
            Some(source) if !self.rules.admin_is_login_only => Err(refusal(
                CkRv::FUNCTION_NOT_SUPPORTED,
                "administration".into(),
                source,
            )),
            _ => Ok(()),
        }
    }

    /// Whether a session is to be read-only.
    pub(crate) fn read_only(&self) -> bool {
        match self.rules.read_only {
            Some(source) => {
                self.log_with_source(source, format_args!("read-only sessions are enforced"));
            }
            None => self.log(2, format_args!("read-only sessions are not enforced")),
        }
        self.rules.read_only.is_some()
    }
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
