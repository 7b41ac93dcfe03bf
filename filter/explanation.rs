//! Replays a recorded call through the current rules, step by step.
//!
//! The call comes from a line of the audit log, which has its function, mechanism, labels and identifiers. The checks
//! are those of `checks`, in the engine's order. When they ask the module, the record answers. But rules can depend on
//! more than the record has: actions, requirements on fields and attributes, and the user type of a login. The
//! explanation says where something is missing.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use xdr::facts::{Effect, Role};
use xdr::{
    Answer, Answers, Attribute, AttributesResult, Call, CkRv, Cryptoki, Found, Function, Mechanism,
    MechanismType, NullPlaces, ObjectHandle, Reply, SessionHandle, Template,
};

use crate::checks::{self, ID, LABEL, Refusal};
use crate::context::Context;
use crate::module_rules::{ModuleRules, Source, Step};
use crate::object_reader::ObjectReader;
use crate::{Rules, replies};

/// A call, as far as it is recorded.
#[derive(Clone, Debug)]
pub struct Past {
    /// The function.
    pub function: Function,
    /// The mechanism of its operation, or the one that it asks about.
    pub mechanism: Option<MechanismType>,
    /// The objects that it named by handles, in their order.
    pub objects: Vec<PastObject>,
    /// What its templates said about objects.
    pub templates: Vec<PastObject>,
}

/// An object, as far as it is recorded.
#[derive(Clone, Debug, Default)]
pub struct PastObject {
    /// CKA_LABEL.
    pub label: Option<Vec<u8>>,
    /// CKA_ID.
    pub id: Option<Vec<u8>>,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Judgement {
    /// It lets the call pass.
    Passes,
    /// It refuses the call.
    Refuses(CkRv),
    /// The check needs something that is not recorded.
    Unknown,
}

/// A check of the call.
#[derive(Clone, Debug)]
pub struct Check {
    /// What is checked.
    pub text: String,
    /// The rule, if one applies.
    pub source: Option<Source>,
    /// The result.
    pub judgement: Judgement,
}

/// Answers for the objects of a past call; their handles are their positions, from 1.
struct Remembered<'a>(&'a [PastObject]);

impl Cryptoki for Remembered<'_> {
    fn call(&self, call: Call<'_>) -> Reply {
        let function = call.function();
        let Call::C_GetAttributeValue(_, object, Some(query)) = call else {
            return replies::refused(function, CkRv::FUNCTION_NOT_SUPPORTED);
        };
        let position = usize::try_from(object.0)
            .ok()
            .and_then(|at| at.checked_sub(1));
        let object = position.and_then(|at| self.0.get(at));
        let mut rv = CkRv::OK;
        let answers = query.0.iter().map(|wanted| {
            let value = object.and_then(|object| match wanted.attribute_type {
                LABEL => object.label.clone(),
                ID => object.id.clone(),
                _ => None,
            });
            let found = value.map_or_else(
                || {
                    rv = CkRv::ATTRIBUTE_TYPE_INVALID;
                    Found::Unavailable
                },
                Found::Bytes,
            );
            Answer {
                attribute_type: wanted.attribute_type,
                found,
            }
        });
        let answers = Answers(answers.collect());
        Reply::C_GetAttributeValue(AttributesResult { rv, answers })
    }
}

/// Makes the checks of a call one after the other, until one refuses it.
struct Replay<'a> {
    context: &'a Context<'a>,
    checks: Vec<Check>,
}

impl Replay<'_> {
    fn note(&mut self, text: String, source: Option<Source>, judgement: Judgement) {
        self.checks.push(Check {
            text,
            source,
            judgement,
        });
    }

    /// Adds a check whose result is known. The replay ends if the check refuses.
    fn made(
        &mut self,
        text: String,
        source: Option<Source>,
        result: Result<(), Refusal>,
    ) -> Option<()> {
        match result {
            Ok(()) => {
                self.note(text, source, Judgement::Passes);
                Some(())
            }
            Err(Refusal { rv, what, source }) => {
                self.note(format!("{text}: {what}"), source, Judgement::Refuses(rv));
                None
            }
        }
    }

    fn actions(&mut self, when: &str, steps: Option<&Vec<Step>>) {
        for step in steps.into_iter().flatten() {
            let text = format!("action '{}' {when} the checks", step.name);
            self.note(text, Some(step.source), Judgement::Unknown);
        }
    }

    fn run(&mut self, past: &Past) -> Option<()> {
        let (context, function) = (self.context, past.function);
        let (rules, facts) = (context.rules, function.facts());
        self.actions("before", rules.pre.get(&function));
        let source = rules.functions.get(&function).copied();
        self.made(
            "the function".to_owned(),
            source,
            checks::check_function(context),
        )?;
        if facts.has(Effect::Administers) {
            let result = checks::check_administration(context);
            self.made("administration".to_owned(), rules.no_admin, result)?;
        }
        if facts.roles.contains(&Role::User) && rules.no_admin.is_some() {
            let text = "the user type of the login".to_owned();
            self.note(text, rules.no_admin, Judgement::Unknown);
        }
        self.objects(past)?;
        if let Some(kind) = past.mechanism.filter(|_| names_mechanism(function)) {
            let text = format!("mechanism {}", xdr::mechanism_names::printed(kind.0));
            self.made(text, None, checks::check_mechanism(context, kind))?;
            for operation in checks::operations(function) {
                let result = checks::check_padding(context, operation, &Mechanism::bare(kind));
                let text = format!("padding oracles for {}", operation.name());
                let source = rules.padding.get(&operation).copied();
                self.made(text, source, result)?;
            }
        }
        for object in &past.templates {
            let values = [(LABEL, &object.label), (ID, &object.id)];
            let values = values
                .into_iter()
                .filter_map(|(kind, value)| Some(Attribute::new(kind, value.clone()?)));
            let template = Template(values.collect());
            let source = list(rules);
            let text = "label and identifier in a template".to_owned();
            self.made(text, source, checks::check_template(context, &template))?;
        }
        for (requirement, source) in &rules.requirements {
            if requirement.mechanism.is_none() || requirement.mechanism == past.mechanism {
                self.note(requirement.text.clone(), Some(*source), Judgement::Unknown);
            }
        }
        self.actions("after", rules.post.get(&function));
        Some(())
    }

    fn objects(&mut self, past: &Past) -> Option<()> {
        let (context, roles) = (self.context, past.function.facts().roles);
        if !context.rules.guards_objects() {
            return Some(());
        }
        let mut refusals = roles.iter().filter_map(|role| {
            if let Role::Object(rv) | Role::Key(rv) | Role::KeyOrNone(rv) = role {
                Some(*rv)
            } else {
                None
            }
        });
        for (object, handle) in past.objects.iter().zip(1..) {
            // The objects beyond the arguments are named by the mechanism's parameter.
            let rv = refusals.next().unwrap_or(CkRv::OBJECT_HANDLE_INVALID);
            let shown = |value: &Option<Vec<u8>>| {
                let value = value.as_deref().unwrap_or(b"none");
                crate::log::Printable(value).to_string()
            };
            let text = format!("the object with label '{}'", shown(&object.label));
            let result = checks::check_object(context, SessionHandle(1), ObjectHandle(handle), rv);
            self.made(text, list(context.rules), result)?;
        }
        Some(())
    }
}

fn list(rules: &ModuleRules) -> Option<Source> {
    let mut lists = [&rules.labels, &rules.ids].into_iter().flatten();
    lists.next().map(|list| list.source)
}

/// Whether the mechanism in the record belongs to the call itself, and not to an operation that the call continues.
fn names_mechanism(function: Function) -> bool {
    let roles = function.facts().roles;
    roles.iter().any(|role| {
        matches!(
            role,
            Role::Mechanism | Role::MessageMechanism | Role::MessageParameter | Role::MechanismType
        )
    })
}

/// Returns the checks of a call to the module of this name, up to the one that refuses it.
pub fn explain(rules: &Arc<Rules>, module: &[u8], past: &Past) -> Vec<Check> {
    let applying = ModuleRules::new(rules, module);
    let backend = Remembered(&past.objects);
    let context = Context {
        backend: &backend,
        objects: ObjectReader::new(&backend),
        function: past.function,
        nulls: NullPlaces::NONE,
        module,
        rules: &applying,
        segregation: &AtomicBool::new(false),
        wrapping_key: None,
        compatibility: &rules.compatibility,
        debug: 0,
    };
    let mut replay = Replay {
        context: &context,
        checks: Vec::new(),
    };
    // However the replay ended, the last check says it.
    let _ = replay.run(past);
    replay.checks
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Compatibility;

    fn explained(rules: &str, past: &Past) -> Vec<(String, Judgement)> {
        let text = format!("modules = [(m, n)]\n{rules}");
        let rules = Rules::parse(text.as_bytes(), Path::new("f"), &Compatibility::default());
        let checks = explain(&Arc::new(rules.unwrap()), b"m", past);
        let check = |check: Check| {
            let rule = check.source.map_or_else(String::new, |source| {
                format!("{} {}: ", source.line, source.option)
            });
            (format!("{rule}{}", check.text), check.judgement)
        };
        checks.into_iter().map(check).collect()
    }

    #[test]
    fn the_check_that_refuses_is_the_last_and_names_its_rule() {
        let key = |label: &[u8]| PastObject {
            label: Some(label.to_vec()),
            id: None,
        };
        let mut past = Past {
            function: Function::C_SignInit,
            mechanism: Some(MechanismType(1)),
            objects: vec![key(b"good")],
            templates: Vec::new(),
        };
        let rules = "allowed_labels = [(m, [good])]\nforbidden_mechanisms = [(m, [CKM_RSA_PKCS])]";
        let checks = explained(rules, &past);
        assert_eq!(checks[0].1, Judgement::Passes);
        assert_eq!(
            checks[1].0,
            "2 allowed_labels: the object with label 'good'"
        );
        let (text, judgement) = checks.last().unwrap();
        assert!(
            text.starts_with("3 forbidden_mechanisms: mechanism CKM_RSA_PKCS"),
            "{text}"
        );
        assert_eq!(*judgement, Judgement::Refuses(CkRv::MECHANISM_INVALID));

        past.objects = vec![key(b"bad")];
        let checks = explained(rules, &past);
        assert_eq!(checks.len(), 2);
        assert_eq!(checks[1].1, Judgement::Refuses(CkRv::OBJECT_HANDLE_INVALID));
        // The record does not have it.
        past.objects = vec![PastObject::default()];
        assert!(matches!(
            explained(rules, &past)[1].1,
            Judgement::Refuses(_)
        ));

        let rules = "filter_actions_pre = [(m, [(C_SignInit, identity)])]";
        let checks = explained(rules, &past);
        let action = "2 filter_actions_pre: action 'identity' before the checks";
        assert_eq!(checks[0], (action.to_owned(), Judgement::Unknown));
        assert_eq!(checks.last().unwrap().1, Judgement::Passes);
    }
}
