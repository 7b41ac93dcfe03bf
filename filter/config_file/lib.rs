//! Reads configuration files into typed values that know their line.
//!
//! [`load`] reads a file and lets a [`config::Format`] turn it into [`config::Value`]s, whose origin is their line. The
//! module `deserializer` converts those into the types that the caller declares with serde. A [`Fault`] names the line
//! and the option; [`At`] keeps both with a value, for the checks that follow. What the options mean is decided by the
//! callers: the daemon and the filter.
//!
//! `config` takes text, but the original reads bytes. So [`latin1_text`] turns each byte into the character of its
//! number (Latin-1), and [`latin1_bytes`] turns it back. A field of type `String` then requires UTF-8; one of type
//! [`Bytes`] takes any bytes.

#![forbid(unsafe_code)]
#![deny(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used
)]
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::unwrap_used
    )
)]

mod deserializer;
mod fault;
mod outline;
pub mod tokenizer;
mod types;

use config::{Format, Value, ValueKind};
use deserializer::Node;
use serde::de::{DeserializeOwned, Error as _};
use std::fs::File;
use std::io::Read;
use std::path::Path;

pub use fault::{Error, Fault, Place, did_you_mean};
pub use outline::{Outline, outline};
pub use types::{At, Bytes, Float};

/// The key of a table with one entry that represents a tuple. Its brackets are not in Latin-1, so no
/// file can contain it.
pub const TUPLE: &str = "\u{27e8}tuple\u{27e9}";

/// The upper bound on the size of a file: a wrong path must not fill the memory.
const LONGEST_FILE: u64 = 16 << 20;

/// Reads `file` in the given syntax into a typed value. Anything except a regular file, such as a pipe, is an error, so
/// that no read blocks.
pub fn load<T: DeserializeOwned>(file: &Path, format: &impl Format) -> Result<T, Error> {
    let unreadable = |error| Error::of_file(file, format!("cannot be read: {error}"));
    // Checked before the file is opened: opening a pipe blocks until somebody writes to it.
    if !std::fs::metadata(file).map_err(unreadable)?.is_file() {
        return Err(Error::of_file(file, "expected a file"));
    }
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|opened| opened.take(LONGEST_FILE + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LONGEST_FILE {
        return Err(Error::of_file(
            file,
            format!("is longer than {LONGEST_FILE} bytes"),
        ));
    }
    parse(&bytes, format).map_err(|fault| fault.in_file(file))
}

/// Does the same as [`load`], for the bytes of a file.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], format: &impl Format) -> Result<T, Fault> {
    let table = format.parse(None, &latin1_text(bytes)).map_err(|error| {
        match error.downcast::<Fault>() {
            Ok(fault) => *fault,
            Err(other) => Fault::custom(other),
        }
    })?;
    T::deserialize(Node::root(table))
}

/// Turns each byte into the character with that number.
pub fn latin1_text(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// Turns a text made by [`latin1_text`] back into bytes; `None` if it has a character beyond Latin-1.
pub fn latin1_bytes(text: &str) -> Option<Vec<u8>> {
    text.chars()
        .map(|character| u8::try_from(u32::from(character)).ok())
        .collect()
}

/// Makes a value for a [`config::Format`], with its line as its origin.
pub fn value_at(line: u32, kind: impl Into<ValueKind>) -> Value {
    Value::new(Some(&line.to_string()), kind)
}

/// Returns the line that [`value_at`] recorded.
pub fn line_of(value: &Value) -> u32 {
    value
        .origin()
        .and_then(|origin| origin.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::Map;
    use serde::Deserialize;
    use std::error::Error as StdError;

    /// A format that returns the table that it was made with.
    struct Fixed(Vec<(&'static str, Value)>);

    impl Format for Fixed {
        fn parse(
            &self,
            _uri: Option<&String>,
            _text: &str,
        ) -> Result<Map<String, Value>, Box<dyn StdError + Send + Sync>> {
            Ok(self
                .0
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()))
                .collect())
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only whether it can be filled matters")]
    struct Sample {
        switch: Option<bool>,
        number: Option<At<u16>>,
        real: Option<Float>,
        name: Option<String>,
        raw: Option<Bytes>,
        couple: Option<(i64, String)>,
        log_subchannel: Option<String>,
    }

    fn sample(key: &'static str, value: Value) -> Result<Sample, String> {
        parse(b"", &Fixed(vec![(key, value)])).map_err(|fault| fault.to_string())
    }

    fn tuple(members: Vec<Value>) -> Value {
        value_at(
            7,
            ValueKind::Table([(TUPLE.to_owned(), Value::from(members))].into()),
        )
    }

    #[test]
    fn takes_exact_types_only() {
        assert_eq!(
            sample("switch", value_at(1, true)).unwrap().switch,
            Some(true)
        );
        assert_eq!(
            sample("real", value_at(1, 2.5)).unwrap().real,
            Some(Float(2.5))
        );
        for (key, value, expected) in [
            (
                "switch",
                value_at(1, "yes"),
                "1: switch: expected a boolean, found a string",
            ),
            (
                "switch",
                value_at(2, 1_i64),
                "2: switch: expected a boolean, found an integer",
            ),
            (
                "number",
                value_at(3, "3"),
                "3: number: expected an integer, found a string",
            ),
            (
                "number",
                value_at(3, 1.0),
                "3: number: expected an integer, found a number with a decimal point",
            ),
            (
                "real",
                value_at(4, 1_i64),
                "4: real: expected a number with a decimal point such as 60.0, found an integer",
            ),
            (
                "name",
                value_at(5, 1_i64),
                "5: name: expected a string, found an integer",
            ),
            (
                "couple",
                value_at(6, vec![1_i64, 2]),
                "6: couple: expected a tuple of 2 members, found a list",
            ),
            (
                "couple",
                tuple(vec![1_i64.into()]),
                "7: couple: expected a tuple of 2 members, found 1",
            ),
            (
                "couple",
                tuple(vec![value_at(8, "a"), "b".into()]),
                "8: couple[0]: expected an integer, found a string",
            ),
        ] {
            assert_eq!(sample(key, value).unwrap_err(), expected);
        }
    }

    #[test]
    fn knows_where_a_value_stands() {
        let number = sample("number", value_at(9, 65_535_i64))
            .unwrap()
            .number
            .unwrap();
        assert_eq!(number.value, 65_535);
        assert_eq!(
            number.fault("too large").to_string(),
            "9: number: too large"
        );
        let message = sample("number", value_at(9, 65_536_i64)).unwrap_err();
        assert_eq!(message, "9: number: an integer out of range");
    }

    #[test]
    fn carries_any_byte() {
        let raw = sample("raw", value_at(1, latin1_text(b"\x00\xff\xc3\xa9")))
            .unwrap()
            .raw
            .unwrap();
        assert_eq!(raw.0, b"\x00\xff\xc3\xa9");
        let name = sample("name", value_at(1, latin1_text("\u{e9}".as_bytes())))
            .unwrap()
            .name
            .unwrap();
        assert_eq!(name, "\u{e9}");
        let refused = sample("name", value_at(1, latin1_text(b"\xff"))).unwrap_err();
        assert_eq!(
            refused,
            "1: name: expected a string, found a string that is not UTF-8"
        );
    }

    #[test]
    fn names_the_line_of_an_unknown_option_and_what_may_be_meant() {
        for (key, hint) in [
            ("log_subchanel", "did you mean `log_subchannel`?"),
            ("Name", "did you mean `name`?"),
            ("log", "did you mean `log_subchannel`?"),
            (
                "elsewhere",
                "the options here are switch, number, real, name, raw, couple, log_subchannel",
            ),
        ] {
            let message = sample(key, value_at(4, 1_i64)).unwrap_err();
            assert!(
                message.starts_with(&format!("4: {key}: unknown option")),
                "{message}"
            );
            assert!(message.ends_with(hint), "{message}");
        }
    }
}
