//! Represents an error in a configuration file with its place: the file, the line and the option.
//!
//! The deserializer and the checks that follow it make a [`Fault`], which knows line and option. [`load`](crate::load)
//! and its callers add the file, which makes an [`struct@Error`] for the user. serde's own errors are reworded here in
//! terms of the file instead of Rust. No message shows a value, because it may be a key.

use crate::tokenizer;
use serde::de;
use std::fmt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The place of a value: its line, and the path of its option such as `netplex.service[0].protocol[0].name`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// Line in the file, from 1.
    pub line: u32,
    /// Path of the option.
    pub option: String,
}

impl Place {
    /// Makes a fault of the value at this place.
    pub fn fault(&self, message: impl Into<String>) -> Fault {
        Fault {
            place: Some(self.clone()),
            message: message.into(),
        }
    }
}

/// A fault in a file: what is wrong, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    place: Option<Place>,
    message: String,
}

impl Fault {
    /// Makes a fault of the syntax, before any option is known.
    pub fn in_line(line: u32, message: impl Into<String>) -> Fault {
        Place {
            line,
            option: String::new(),
        }
        .fault(message)
    }

    /// Completes the error, once the file is known.
    pub fn in_file(self, file: &Path) -> Error {
        Error {
            file: file.to_path_buf(),
            fault: self,
        }
    }

    pub(crate) fn or_at(mut self, place: &Place) -> Fault {
        self.place.get_or_insert_with(|| place.clone());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { line, option }) = &self.place {
            write!(f, "{line}: ")?;
            if !option.is_empty() {
                write!(f, "{option}: ")?;
            }
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl From<tokenizer::Error> for Fault {
    fn from(error: tokenizer::Error) -> Fault {
        Fault::in_line(error.line, error.message)
    }
}

/// A configuration error or warning: `file:line: option: what was expected`.
#[derive(Clone, Debug, Error, PartialEq)]
pub struct Error {
    file: PathBuf,
    fault: Fault,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = if self.fault.place.is_none() { " " } else { "" };
        write!(f, "{}:{space}{}", self.file.display(), self.fault)
    }
}

impl Error {
    /// Makes an error of the file as a whole.
    pub fn of_file(file: &Path, message: impl Into<String>) -> Error {
        Fault {
            place: None,
            message: message.into(),
        }
        .in_file(file)
    }
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Fault {
            place: None,
            message: message.to_string(),
        }
    }

    /// Names the types and not the values, since a value may be a key.
    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match found {
            de::Unexpected::Bool(_) => "a boolean",
            de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) => "an integer",
            de::Unexpected::Float(_) => "a number with a decimal point",
            de::Unexpected::Char(_) | de::Unexpected::Str(_) => "a string",
            de::Unexpected::Bytes(_) => "a string that is not UTF-8",
            de::Unexpected::Map => "a section or tuple",
            de::Unexpected::Seq => "a list or section",
            _ => "something else",
        };
        de::Error::custom(format!("expected {}, found {found}", in_words(expected)))
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        match found {
            de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) => {
                de::Error::custom("an integer out of range")
            }
            other => de::Error::invalid_type(other, expected),
        }
    }

    fn missing_field(field: &'static str) -> Self {
        de::Error::custom(format!("`{field}` is missing"))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        de::Error::custom(match did_you_mean(field, expected) {
            Some(hint) => format!("unknown option; {hint}"),
            None if expected.is_empty() => "unknown option; no option is allowed here".into(),
            None => format!(
                "unknown option; the options here are {}",
                expected.join(", ")
            ),
        })
    }
}

/// Returns a question with the names that an unknown one was probably meant to be.
pub fn did_you_mean(name: &str, known: &[&str]) -> Option<String> {
    let alike = known.iter().find(|known| {
        known.eq_ignore_ascii_case(name) || name.len() > 3 && distance(name, known) <= 2
    });
    let longer: Vec<_> = known
        .iter()
        .filter(|known| !name.is_empty() && known.starts_with(name))
        .collect();
    match (alike, longer.as_slice()) {
        (Some(known), _) => Some(format!("did you mean `{known}`?")),
        (None, [known]) => Some(format!("did you mean `{known}`?")),
        (None, [first, second, ..]) => Some(format!("did you mean `{first}` or `{second}`?")),
        (None, []) => None,
    }
}

/// Translates the names of Rust's types, which serde uses, into the words of a file.
pub(crate) fn in_words(expected: &dyn de::Expected) -> String {
    match expected.to_string().as_str() {
        "i64" | "i32" | "u64" | "u32" | "u16" | "usize" => "an integer".into(),
        "a sequence" => "a list".into(),
        other => other.into(),
    }
}

/// The edit distance: how many bytes to insert, delete or replace to turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut next = vec![i + 1];
        for ((y, diagonal), above) in b.bytes().zip(&row).zip(row.iter().skip(1)) {
            let left = next.last().copied().unwrap_or(0);
            next.push(
                (diagonal + usize::from(x != y))
                    .min(above + 1)
                    .min(left + 1),
            );
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
