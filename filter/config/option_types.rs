//! Declares the types of single values in filter.conf: texts, patterns, switches, and names from a table.
//!
//! `options` uses them, and serde fills them with values from `config_file`. A value of the wrong type is refused here,
//! where its line is known.

use crate::actions::{self, ACTIONS, Row};
use crate::parameter_rules::{Comparison, OPERATIONS};
use crate::regexp::Regexp;
use config_file::{At, Bytes, Place, did_you_mean};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use std::fmt;
use xdr::facts::Family;
use xdr::mechanism_names;
use xdr::{Function, MechanismType};

/// A word or string, or an integer in decimal. The original converts numbers with a point as well,
/// after which `1.0` would be the pattern `1.`; those need quotes here.
pub(crate) struct Text(pub(crate) Vec<u8>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl Visitor<'_> for TextVisitor {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.as_bytes().to_vec()))
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Text, E> {
                Ok(Text(bytes.to_vec()))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Text, E> {
                Ok(Text(value.to_string().into_bytes()))
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

/// A pattern, compiled when it is read.
pub(crate) struct Pattern {
    pub(crate) regexp: Regexp,
    pub(crate) text: Vec<u8>,
    pub(crate) place: Place,
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let At {
            value: Text(text),
            place,
        } = At::deserialize(deserializer)?;
        let regexp = Regexp::new(&text)
            .map_err(|error| de::Error::custom(format!("invalid pattern: {error}")))?;
        Ok(Pattern {
            regexp,
            text,
            place,
        })
    }
}

/// A switch: `true yes y 1` or `false no n 0` in any case, or an integer, of which 0 is no.
pub(crate) struct Choice(pub(crate) bool);

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ChoiceVisitor;
        impl Visitor<'_> for ChoiceVisitor {
            type Value = Choice;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("yes or no")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Choice, E> {
                match text.to_ascii_lowercase().as_str() {
                    "true" | "yes" | "y" | "1" => Ok(Choice(true)),
                    "false" | "no" | "n" | "0" => Ok(Choice(false)),
                    _ => Err(E::custom("expected yes or no, found another word")),
                }
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Choice, E> {
                Ok(Choice(value != 0))
            }
        }
        deserializer.deserialize_any(ChoiceVisitor)
    }
}

/// A mechanism: `CKM_` or `cKM_` and its name, or a number, which the original does not take.
pub(crate) struct MechanismName(pub(crate) MechanismType);

/// A mechanism, or `any`.
pub(crate) struct AnyMechanism(pub(crate) Option<MechanismType>);

impl<'de> Deserialize<'de> for AnyMechanism {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyVisitor;
        impl Visitor<'_> for AnyVisitor {
            type Value = AnyMechanism;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mechanism such as CKM_AES_GCM, its number, or any")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<AnyMechanism, E> {
                match text {
                    "any" => Ok(AnyMechanism(None)),
                    text => MechanismVisitor
                        .visit_str(text)
                        .map(|name| AnyMechanism(Some(name.0))),
                }
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<AnyMechanism, E> {
                let named = MechanismVisitor.visit_i64(value);
                named.map(|name| AnyMechanism(Some(name.0)))
            }
        }
        deserializer.deserialize_any(AnyVisitor)
    }
}

struct MechanismVisitor;

impl Visitor<'_> for MechanismVisitor {
    type Value = MechanismName;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mechanism such as CKM_RSA_X_509, or its number")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<MechanismName, E> {
        let number = mechanism(text)
            .ok_or_else(|| E::custom(format!("unknown mechanism `{}`", text.escape_debug())))?;
        Ok(MechanismName(MechanismType(number)))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<MechanismName, E> {
        let number =
            u64::try_from(value).map_err(|_| E::custom("expected the number of a mechanism"))?;
        Ok(MechanismName(MechanismType(number)))
    }
}

impl<'de> Deserialize<'de> for MechanismName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MechanismVisitor)
    }
}

fn mechanism(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        return plain.then(|| u64::from_str_radix(digits, 16).ok())?;
    }
    if !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit()) {
        return text.parse().ok();
    }
    let name = text.strip_prefix('c').map(|rest| format!("C{rest}"));
    mechanism_names::by_name(name.as_deref().unwrap_or(text))
}

/// Reads a name and finds it in a table.
fn named<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    what: &str,
    known: &[&str],
    find: impl Fn(&str) -> Option<T>,
) -> Result<T, D::Error> {
    let Bytes(name) = Bytes::deserialize(deserializer)?;
    let name = String::from_utf8_lossy(&name);
    find(&name).ok_or_else(|| {
        let hint = did_you_mean(&name, known);
        let own = "one that a site has added to Caml Crush does not exist here: remove the couple";
        let hint = hint.or_else(|| (what == "action").then(|| own.to_owned()));
        let hint = hint.map_or_else(String::new, |hint| format!("; {hint}"));
        de::Error::custom(format!("unknown {what} `{}`{hint}", name.escape_debug()))
    })
}

/// A function that can be forbidden or given an action, as the standard spells it.
pub(crate) struct FunctionName(pub(crate) Function);

impl<'de> Deserialize<'de> for FunctionName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let can_be_named = |function: &Function| *function != Function::C_SetupArch;
        let known = Function::ALL.iter().copied().filter(can_be_named);
        let known: Vec<&str> = known.map(Function::name).collect();
        let find = |name: &str| Function::from_name(name).filter(can_be_named);
        named(deserializer, "function", &known, find).map(FunctionName)
    }
}

/// A kind of operation in `remove_padding_oracles`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Operation {
    /// C_WrapKey.
    Wrap,
    /// C_UnwrapKey.
    Unwrap,
    /// C_EncryptInit.
    Encrypt,
    /// C_SignInit.
    Sign,
    /// C_DecryptInit. The original never checks it, so `all` means the four above.
    Decrypt,
}

impl Operation {
    /// Returns the kind of operation that functions of this family do, if the option has a name for it.
    pub(crate) fn of(family: Family) -> Option<Operation> {
        match family {
            Family::Wrap => Some(Operation::Wrap),
            Family::Unwrap => Some(Operation::Unwrap),
            Family::Encrypt => Some(Operation::Encrypt),
            Family::Sign => Some(Operation::Sign),
            Family::Decrypt => Some(Operation::Decrypt),
            Family::Digest
            | Family::SignRecover
            | Family::Verify
            | Family::VerifyRecover
            | Family::Search
            | Family::Derive
            | Family::Generate
            | Family::OperationState => None,
        }
    }

    /// The name in filter.conf.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::Wrap => "wrap",
            Operation::Unwrap => "unwrap",
            Operation::Encrypt => "encrypt",
            Operation::Sign => "sign",
            Operation::Decrypt => "decrypt",
        }
    }
}

/// The names that `remove_padding_oracles` accepts, and the kinds of operation that each of them means.
pub const PADDING_KINDS: &[(&str, &[Operation])] = {
    use Operation::{Decrypt, Encrypt, Sign, Unwrap, Wrap};
    &[
        ("wrap", &[Wrap]),
        ("unwrap", &[Unwrap]),
        ("encrypt", &[Encrypt]),
        ("sign", &[Sign]),
        ("decrypt", &[Decrypt]),
        ("all", &[Wrap, Unwrap, Encrypt, Sign]),
    ]
};

/// A kind of operation of `remove_padding_oracles`; `all` means several.
pub(crate) struct PaddingKind(pub(crate) &'static [Operation]);

impl<'de> Deserialize<'de> for PaddingKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let known: Vec<&str> = PADDING_KINDS.iter().map(|(name, _)| *name).collect();
        named(deserializer, "kind of operation", &known, |name| {
            let row = PADDING_KINDS.iter().find(|(known, _)| *known == name);
            row.map(|(_, kinds)| PaddingKind(kinds))
        })
    }
}

/// A kind of operation in `mechanism_parameters`; `any` means all of them.
pub(crate) struct OperationName(pub(crate) Option<&'static [Family]>);

impl<'de> Deserialize<'de> for OperationName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let known: Vec<&str> = OPERATIONS.iter().map(|(name, _)| *name).collect();
        named(deserializer, "kind of operation", &known, |name| {
            let row = OPERATIONS.iter().find(|(known, _)| *known == name);
            row.map(|(_, families)| OperationName(*families))
        })
    }
}

/// How a field compares: `=`, `!=`, `>=` or `<=`.
pub(crate) struct ComparisonSign(pub(crate) Comparison, pub(crate) String);

impl<'de> Deserialize<'de> for ComparisonSign {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        named(deserializer, "comparison", &[], |sign| {
            Some(ComparisonSign(Comparison::of(sign)?, sign.to_owned()))
        })
    }
}

/// A value, or a list of values.
pub(crate) struct OneOrMore(pub(crate) Vec<Text>);

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMoreVisitor;
        impl<'de> Visitor<'de> for OneOrMoreVisitor {
            type Value = OneOrMore;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, a name or a list of them")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMore, E> {
                Ok(OneOrMore(vec![Text(text.as_bytes().to_vec())]))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<OneOrMore, E> {
                Ok(OneOrMore(vec![Text(value.to_string().into_bytes())]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMore, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                Ok(OneOrMore(values))
            }
        }
        deserializer.deserialize_any(OneOrMoreVisitor)
    }
}

/// The name of an action.
pub(crate) struct ActionName(pub(crate) &'static Row);

impl<'de> Deserialize<'de> for ActionName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let known: Vec<&str> = ACTIONS.iter().map(|row| row.name).collect();
        named(deserializer, "action", &known, actions::row).map(ActionName)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names that the original takes with an upper-case C, and their numbers in hexadecimal:
    /// PKCS#11 v2.20 with its amendments.
    const ORIGINAL: &str = include_str!("../tests/mechanisms.txt");

    #[test]
    fn knows_the_mechanisms_of_the_original_in_both_spellings() {
        let mut count = 0;
        for word in ORIGINAL.split_whitespace() {
            let (name, number) = word.split_once('=').unwrap();
            let number = u64::from_str_radix(number, 16).unwrap();
            assert_eq!(mechanism(&format!("CKM_{name}")), Some(number), "{name}");
            assert_eq!(mechanism(&format!("cKM_{name}")), Some(number), "{name}");
            count += 1;
        }
        assert_eq!(count, 232);
        assert_eq!(mechanism("cKM_SHA224_RSA_PKCS"), Some(0x46));
        assert_eq!(mechanism("cKM_SHA224_RSA_PKCS_PSS"), Some(0x47));
        assert_eq!(mechanism("cKM_TLS_PRF"), Some(0x378));
    }

    #[test]
    fn knows_newer_mechanisms_and_numbers() {
        for (text, number) in [
            ("CKM_AES_GCM", Some(0x1087)),
            ("CKM_SHA224_HMAC", Some(0x256)),
            ("CKM_ML_DSA", Some(0x1d)),
            ("0x80000001", Some(0x8000_0001)),
            ("0X1f", Some(0x1f)),
            ("4229", Some(4229)),
            ("", None),
            ("0x", None),
            ("0x+1", None),
            ("-1", None),
            ("0x10000000000000000", None),
            ("AES_GCM", None),
            ("ckm_AES_GCM", None),
            ("ccKM_AES_GCM", None),
            ("CKM_FOO", None),
        ] {
            assert_eq!(mechanism(text), number, "{text}");
        }
    }
}
