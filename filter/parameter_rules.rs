//! Checks the fields of mechanism parameters, and the attributes in templates, against the option
//! `mechanism_parameters`.
//!
//! A [`Requirement`] is one row of the option. It says how a field or attribute must compare with given values, for a
//! mechanism and a kind of operation. `config` makes requirements from the file; `checks` asks whether a call meets
//! them. A field whose value cannot be read meets none.

use std::fmt;

use xdr::attribute_types::{self, Kind};
use xdr::facts::{Family, Step};
use xdr::mechanism::{FieldKind, FieldName, FieldValue, fields};
use xdr::word_size::{Abi, narrow, wide};
use xdr::{Attribute, AttributeType, Call, Function, Mechanism, Parameter, Template, Use};

use crate::attributes::is_same;
use crate::curves::Curve;
use crate::log;
use crate::module_rules::canonical;

/// One row of `mechanism_parameters`.
#[derive(Clone, Debug)]
pub struct Requirement {
    /// The mechanism that it applies to; `None` for all.
    pub mechanism: Option<xdr::MechanismType>,
    /// The operations that it applies to; `None` for all, and for calls without an operation.
    pub families: Option<&'static [Family]>,
    /// What is compared.
    pub subject: Subject,
    /// The comparison.
    pub comparison: Comparison,
    /// The values to compare with.
    pub values: Values,
    /// The row as it is shown, such as `ulTagBits >= 96`.
    pub text: String,
}

/// What a requirement is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Subject {
    /// A field of a structure, by its name in C, or by its path.
    Field(String),
    /// An attribute in the templates of a call.
    Attribute(AttributeType),
}

/// How a value has to compare.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Comparison {
    /// It is one of the values.
    Equal,
    /// It is none of the values.
    Different,
    /// It is not less than the value.
    AtLeast,
    /// It is not more than the value.
    AtMost,
}

/// What a value is compared with.
#[derive(Clone, Debug)]
pub enum Values {
    /// Numbers.
    Numbers(Vec<u64>),
    /// Byte strings.
    Bytes(Vec<Vec<u8>>),
    /// Elliptic curves, by any of the encodings that name them.
    Curves(Vec<&'static Curve>),
}

impl Comparison {
    /// Returns the comparison that filter.conf writes like this.
    pub fn of(text: &str) -> Option<Comparison> {
        Some(match text {
            "=" => Comparison::Equal,
            "!=" => Comparison::Different,
            ">=" => Comparison::AtLeast,
            "<=" => Comparison::AtMost,
            _ => return None,
        })
    }
}

/// Why a call does not meet a requirement, for the log. No value is shown.
pub(crate) struct Unmet {
    pub(crate) what: String,
    /// Whether the requirement is about an attribute.
    pub(crate) is_attribute: bool,
}

impl Requirement {
    /// Whether `field` is what the requirement is about: by its path, or by its name wherever it is.
    pub fn is_about(&self, field: &FieldName) -> bool {
        let Subject::Field(name) = &self.subject else {
            return false;
        };
        let last = field.path.strip_suffix(name.as_str());
        last.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    }

    /// Whether the requirement applies to calls of this function.
    fn is_for(&self, function: Function) -> bool {
        let Some(families) = self.families else {
            return true;
        };
        let is_of = |family: &Family| {
            // Encapsulating a key counts as wrapping, and decapsulating as unwrapping.
            function.facts().is_of(*family)
                || function == Function::C_EncapsulateKey && *family == Family::Wrap
                || function == Function::C_DecapsulateKey && *family == Family::Unwrap
        };
        families.iter().any(is_of)
    }

    fn is_for_mechanism(&self, mechanism: &Mechanism) -> bool {
        let called = canonical(mechanism.mechanism_type());
        self.mechanism.is_none_or(|it| canonical(it) == called)
    }

    /// Checks that the call meets the requirement.
    pub(crate) fn check(&self, call: &Call<'_>) -> Result<(), Unmet> {
        if !self.is_for(call.function()) {
            return Ok(());
        }
        match &self.subject {
            Subject::Field(_) => {
                let mechanism = call.mechanism();
                let inner = mechanism.map(Mechanism::inner_mechanisms);
                let mut all = mechanism.into_iter().chain(inner.into_iter().flatten());
                all.try_for_each(|mechanism| self.check_parameter(mechanism, call.function()))
            }
            Subject::Attribute(attribute_type) => {
                let mechanism = call.mechanism();
                let is_for_it = match mechanism {
                    Some(mechanism) => self.is_for_mechanism(mechanism),
                    None => self.mechanism.is_none(),
                };
                if !is_for_it {
                    return Ok(());
                }
                let inner = mechanism.map(Mechanism::inner_templates);
                let mut templates = call.values().chain(inner.into_iter().flatten());
                templates.try_for_each(|template| self.check_template(template, *attribute_type))
            }
        }
    }

    fn check_parameter(&self, mechanism: &Mechanism, function: Function) -> Result<(), Unmet> {
        if !self.is_for_mechanism(mechanism) {
            return Ok(());
        }
        let parameter = mechanism.parameter();
        // The parameter comes with each message instead.
        let begins_messages = function.parameter_use() == Use::Message
            && function.facts().step == Some(Step::Init)
            && matches!(parameter, Parameter::None { .. });
        let fields = fields(mechanism.mechanism_type());
        let mut fields = fields
            .iter()
            .filter(|field| self.is_about(field))
            .peekable();
        if begins_messages || fields.peek().is_none() {
            return Ok(());
        }
        let values = fields.filter_map(|field| parameter.field(&field.path));
        let met: Vec<bool> = values.map(|value| self.is_met_by(value)).collect();
        match !met.is_empty() && met.iter().all(|met| *met) {
            true => Ok(()),
            false => Err(Unmet {
                what: format!(
                    "the parameter of '{}', which needs {},",
                    log::mechanism(mechanism.mechanism_type()),
                    self.text
                ),
                is_attribute: false,
            }),
        }
    }

    /// Checks the attribute wherever it is: in the template and in those inside it.
    fn check_template(
        &self,
        template: &Template,
        attribute_type: AttributeType,
    ) -> Result<(), Unmet> {
        for attribute in &template.0 {
            if let Some(inside) = attribute.nested() {
                self.check_template(inside, attribute_type)?;
            } else if is_same(attribute.attribute_type, attribute_type) && !self.allows(attribute) {
                return Err(Unmet {
                    what: format!("a template, which needs {},", self.text),
                    is_attribute: true,
                });
            }
        }
        Ok(())
    }

    fn is_met_by(&self, value: FieldValue<'_>) -> bool {
        match value {
            FieldValue::Number(number) => self.compare_number(number),
            FieldValue::Bytes(bytes) => self.compare_bytes(bytes),
            FieldValue::Null => self.compare_bytes(&[]),
            FieldValue::Room(_)
            | FieldValue::Structures(_)
            | FieldValue::Template(_)
            | FieldValue::Mechanism(_)
            | FieldValue::Elsewhere => false,
        }
    }

    fn allows(&self, attribute: &Attribute) -> bool {
        let bytes = attribute.bytes();
        match (attribute_types::kind(attribute.attribute_type), bytes) {
            (Kind::Boolean, [byte]) => self.compare_number(u64::from(*byte)),
            (Kind::Number, bytes) if bytes.len() == Abi::HOST.word => {
                self.compare_number(Abi::HOST.read_wide(bytes))
            }
            (Kind::Bytes, bytes) => self.compare_bytes(bytes),
            (Kind::Boolean | Kind::Number | Kind::Numbers | Kind::Template, _) => false,
        }
    }

    fn compare_number(&self, number: u64) -> bool {
        let Values::Numbers(numbers) = &self.values else {
            return false;
        };
        let number = wide(narrow(number));
        match self.comparison {
            Comparison::Equal => numbers.contains(&number),
            Comparison::Different => !numbers.contains(&number),
            Comparison::AtLeast => numbers.iter().all(|least| number >= *least),
            Comparison::AtMost => numbers.iter().all(|most| number <= *most),
        }
    }

    fn compare_bytes(&self, bytes: &[u8]) -> bool {
        let is_listed = match &self.values {
            Values::Numbers(_) => return false,
            Values::Bytes(values) => values.iter().any(|value| value == bytes),
            Values::Curves(curves) => curves.iter().any(|curve| curve.is_named_by(bytes)),
        };
        match self.comparison {
            Comparison::Equal => is_listed,
            Comparison::Different => !is_listed,
            Comparison::AtLeast | Comparison::AtMost => false,
        }
    }
}

/// The kind of an attribute's value, as far as requirements distinguish them.
pub fn kind_of(attribute_type: AttributeType) -> FieldKind {
    match attribute_types::kind(attribute_type) {
        Kind::Number | Kind::Boolean => FieldKind::Number,
        Kind::Bytes => FieldKind::Bytes,
        Kind::Numbers | Kind::Template => FieldKind::Other,
    }
}

/// The names of operations in filter.conf, with the families of functions that they stand for.
pub const OPERATIONS: &[(&str, Option<&[Family]>)] = &[
    ("any", None),
    ("encrypt", Some(&[Family::Encrypt])),
    ("decrypt", Some(&[Family::Decrypt])),
    ("sign", Some(&[Family::Sign, Family::SignRecover])),
    ("verify", Some(&[Family::Verify, Family::VerifyRecover])),
    ("digest", Some(&[Family::Digest])),
    ("wrap", Some(&[Family::Wrap])),
    ("unwrap", Some(&[Family::Unwrap])),
    ("derive", Some(&[Family::Derive])),
    ("generate", Some(&[Family::Generate])),
];

/// The row, for `pkcs11proxyd -check` and the log.
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mechanism = self.mechanism.map(log::mechanism);
        let mechanism = mechanism.as_deref().unwrap_or("every mechanism");
        let row = OPERATIONS.iter().find(|(_, it)| *it == self.families);
        match (row, self.families) {
            (Some((name, _)), Some(_)) => write!(f, "{mechanism} to {name} needs {}", self.text),
            _ => write!(f, "{mechanism} needs {}", self.text),
        }
    }
}
