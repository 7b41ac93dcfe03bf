//! Turns the rows of the option `mechanism_parameters` into requirements.
//!
//! A row that could never apply is an error, and so is one that compares a field with a value of the wrong type. Such a
//! row would only look like protection.

use config_file::{At, Fault};
use xdr::mechanism::{FieldKind, fields};
use xdr::mechanism_names::MECHANISMS;
use xdr::word_size::{narrow, wide};
use xdr::{AttributeType, MechanismType, names};

use super::Lined;
use super::option_types::{AnyMechanism, ComparisonSign, OneOrMore, OperationName, Text};
use super::options::NeedRow;
use crate::curves::{CURVES, Curve};
use crate::parameter_rules::{Comparison, Requirement, Subject, Values, kind_of};

/// CKA_EC_PARAMS.
const EC_PARAMS: AttributeType = AttributeType(wide(cryptoki_sys::CKA_EC_PARAMS));

/// Converts one row.
pub(super) fn requirement(row: NeedRow) -> Result<Lined<Requirement>, Fault> {
    let At {
        value: (AnyMechanism(mechanism), OperationName(families), field, sign, values),
        place,
    } = row;
    let name = String::from_utf8_lossy(&field.value.0).into_owned();
    let subject = match name.starts_with("CKA_") {
        true => names::attribute(&name)
            .map(|number| Subject::Attribute(AttributeType(number)))
            .ok_or_else(|| field.fault(format!("unknown attribute `{name}`")))?,
        false => Subject::Field(name.clone()),
    };
    let ComparisonSign(comparison, sign_text) = &sign.value;
    let mut requirement = Requirement {
        mechanism,
        families,
        subject,
        comparison: *comparison,
        values: Values::Numbers(Vec::new()),
        text: format!("{name} {sign_text} {}", in_words(&values.value)),
    };
    let kind = kind(&requirement).map_err(|message| field.fault(message))?;
    requirement.values = converted(&requirement, kind, &sign, &values)?;
    Ok(Lined {
        value: requirement,
        line: place.line,
    })
}

fn in_words(OneOrMore(values): &OneOrMore) -> String {
    let words = values
        .iter()
        .map(|Text(text)| text.escape_ascii().to_string());
    words.collect::<Vec<_>>().join(" or ")
}

/// Returns the kind of the values that the field or attribute has.
fn kind(requirement: &Requirement) -> Result<FieldKind, String> {
    let name = match &requirement.subject {
        Subject::Attribute(attribute_type) => return Ok(kind_of(*attribute_type)),
        Subject::Field(name) => name.escape_debug(),
    };
    let all = || MECHANISMS.iter().map(|(_, number)| MechanismType(*number));
    let mechanisms: Vec<MechanismType> =
        (requirement.mechanism).map_or_else(|| all().collect(), |one| vec![one]);
    let fields = mechanisms.into_iter().flat_map(fields);
    let mut kinds = fields.filter(|field| requirement.is_about(field));
    let Some(first) = kinds.next() else {
        let whose = match requirement.mechanism {
            Some(_) => "the parameter of this mechanism",
            None => "the parameter of any mechanism",
        };
        return Err(format!("{whose} has no field `{name}`"));
    };
    match kinds.all(|other| other.kind == first.kind) {
        true => Ok(first.kind),
        false => Err(format!("`{name}` has several meanings; name the mechanism")),
    }
}

/// Converts the values for a field of this kind.
fn converted(
    requirement: &Requirement,
    kind: FieldKind,
    sign: &At<ComparisonSign>,
    values: &At<OneOrMore>,
) -> Result<Values, Fault> {
    let ordered = matches!(
        requirement.comparison,
        Comparison::AtLeast | Comparison::AtMost
    );
    let OneOrMore(texts) = &values.value;
    if texts.is_empty() {
        return Err(values.fault("expected at least one value"));
    }
    if ordered && texts.len() != 1 {
        return Err(values.fault("expected one number, found a list"));
    }
    let each = |convert: &dyn Fn(&str) -> Option<u64>, expected: &str| {
        let number = |Text(text): &Text| {
            let text = String::from_utf8_lossy(text);
            convert(&text)
                .ok_or_else(|| values.fault(format!("expected {expected}, found `{text}`")))
        };
        texts.iter().map(number).collect::<Result<Vec<_>, Fault>>()
    };
    match kind {
        FieldKind::Other => Err(values.fault("this field has no value that can be compared")),
        FieldKind::Number => {
            let numbers = each(
                &number,
                "a number, or the name of a constant such as CKD_NULL",
            )?;
            Ok(Values::Numbers(numbers))
        }
        FieldKind::Bytes if ordered => Err(sign.fault("expected `=` or `!=`: this field is bytes")),
        FieldKind::Bytes => bytes_or_curves(requirement, sign, values),
    }
}

fn bytes_or_curves(
    requirement: &Requirement,
    sign: &At<ComparisonSign>,
    values: &At<OneOrMore>,
) -> Result<Values, Fault> {
    let OneOrMore(texts) = &values.value;
    let text = |Text(text): &Text| String::from_utf8_lossy(text).into_owned();
    let bytes: Option<Vec<Vec<u8>>> = texts.iter().map(|it| hexadecimal(&text(it))).collect();
    let is_of_curves = requirement.subject == Subject::Attribute(EC_PARAMS);
    // A curve has more encodings than a list of forbidden ones could have.
    if is_of_curves && requirement.comparison == Comparison::Different {
        return Err(sign.fault("expected `=`, with the curves that are allowed"));
    }
    if let Some(bytes) = bytes {
        return Ok(Values::Bytes(bytes));
    }
    let curves: Option<Vec<_>> = texts.iter().map(|it| Curve::of(&text(it))).collect();
    match curves.filter(|_| is_of_curves) {
        Some(curves) => Ok(Values::Curves(curves)),
        None if is_of_curves => {
            let names: Vec<&str> = CURVES.iter().map(|curve| curve.name).collect();
            let names = names.join(", ");
            let message = format!("expected bytes such as 0x06052b81040022, or curves of {names}");
            Err(values.fault(message))
        }
        None => Err(values.fault("expected bytes such as 0x06052b81040022")),
    }
}

/// Decodes `0x` and an even number of digits.
fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x")?;
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        let digit = |at: usize| char::from(*pair.get(at)?).to_digit(16);
        u8::try_from(digit(0)? << 4 | digit(1)?).ok()
    };
    pairs.map(byte).collect()
}

/// Reads a number in decimal or after `0x`, the name of a constant, or yes or no for a boolean.
fn number(text: &str) -> Option<u64> {
    let number = match text {
        "yes" | "true" => 1,
        "no" | "false" => 0,
        text => match text.strip_prefix("0x") {
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
                u64::from_str_radix(digits, 16).ok()?
            }
            Some(_) => return None,
            None if text.bytes().all(|digit| digit.is_ascii_digit()) => text.parse().ok()?,
            None => names::value(text)?,
        },
    };
    Some(wide(narrow(number))).filter(|same| *same == number)
}
