//! From a configuration file to typed values that know where they stand.
//!
//! [`load`] reads a file, lets a [`config::Format`] turn it into [`config::Value`]s whose origin is
//! their line, and hands those to serde. The deserialiser is ours, not `config`'s, which turns
//! "yes" into 1 and 3 into "3", drops surplus tuple members and forgets lines. Here a type is met
//! exactly or refused, a struct is filled in the order of its fields, and every [`Fault`] has the
//! line and the option at fault. [`At`] keeps both with a value for the checks that follow.
//!
//! `config` takes text, the original reads bytes. So each byte travels as the character of its
//! number (Latin-1) through [`widen`] and back through [`narrow`]; a field of type `String` then
//! demands UTF-8, one of type [`Bytes`] takes anything.

#![forbid(unsafe_code)]

pub mod tokenizer;

use config::{Format, Value, ValueKind};
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The key of a one-entry table that stands for a tuple. It is no Latin-1, so no file can spell it.
pub const TUPLE: &str = "\u{27e8}tuple\u{27e9}";

/// No configuration is longer; a wrong path such as a device must not fill the memory.
const LONGEST_FILE: u64 = 16 << 20;

/// The name under which [`At`] asks the deserialiser for the place of a value.
const AT: &str = "config_file::At";

/// Where a value stands: its line, and the path of its option such as
/// `netplex.service[0].protocol[0].name`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// Line in the file, from 1.
    pub line: u32,
    /// Path of the option.
    pub option: String,
}

impl Place {
    /// Something wrong with the value that stands here.
    pub fn fault(&self, message: impl Into<String>) -> Fault {
        Fault {
            place: Some(self.clone()),
            message: message.into(),
        }
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

impl<T> At<T> {
    /// Something wrong with this value.
    pub fn fault(&self, message: impl Into<String>) -> Fault {
        self.place.fault(message)
    }
}

/// What is wrong, and where in its file.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    place: Option<Place>,
    message: String,
}

impl Fault {
    /// A fault of the syntax, before any option is known.
    pub fn in_line(line: u32, message: impl Into<String>) -> Fault {
        Place {
            line,
            option: String::new(),
        }
        .fault(message)
    }

    /// The complete error, once the file is known.
    pub fn in_file(self, file: &Path) -> Error {
        Error {
            file: file.to_path_buf(),
            fault: self,
        }
    }

    fn or_at(mut self, place: &Place) -> Fault {
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
    /// An error of the file as a whole.
    pub fn of_file(file: &Path, message: impl Into<String>) -> Error {
        Fault {
            place: None,
            message: message.into(),
        }
        .in_file(file)
    }
}

/// Reads `file` in the given syntax into a typed value. Waits for nobody: anything but a file, such as
/// a pipe, is an error.
pub fn load<T: DeserializeOwned>(file: &Path, format: &impl Format) -> Result<T, Error> {
    let unreadable = |error| Error::of_file(file, format!("cannot be read: {error}"));
    // Asked first, since to open a pipe would wait for its writer.
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

/// As [`load`], for the bytes of a file.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], format: &impl Format) -> Result<T, Fault> {
    let table =
        format
            .parse(None, &widen(bytes))
            .map_err(|error| match error.downcast::<Fault>() {
                Ok(fault) => *fault,
                Err(other) => Fault {
                    place: None,
                    message: other.to_string(),
                },
            })?;
    let place = Place {
        line: 1,
        option: String::new(),
    };
    T::deserialize(Node {
        value: Value::from(ValueKind::Table(table)),
        place,
    })
}

/// Each byte as the character of its number.
pub fn widen(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// The bytes of a text made by [`widen`]; characters beyond Latin-1 give `None`.
pub fn narrow(text: &str) -> Option<Vec<u8>> {
    text.chars()
        .map(|character| u8::try_from(u32::from(character)).ok())
        .collect()
}

/// A value for the formats to build: its origin is its line.
pub fn value_at(line: u32, kind: impl Into<ValueKind>) -> Value {
    Value::new(Some(&line.to_string()), kind)
}

/// The line [`value_at`] recorded.
pub fn line_of(value: &Value) -> u32 {
    value
        .origin()
        .and_then(|origin| origin.parse().ok())
        .unwrap_or(0)
}

/// A value on its way into serde.
struct Node {
    value: Value,
    place: Place,
}

impl Node {
    fn new(value: Value, option: String) -> Node {
        let line = line_of(&value);
        Node {
            value,
            place: Place { line, option },
        }
    }

    /// Sections may repeat, so the daemon's syntax has them in lists; a lone one may stand for itself.
    fn only_section(mut self) -> Result<Node, Fault> {
        let sections = match &mut self.value.kind {
            ValueKind::Array(sections) if sections.iter().all(is_table) => sections,
            _ => return Ok(self),
        };
        match (sections.pop(), sections.pop()) {
            (Some(section), None) => Ok(Node::new(section, self.place.option)),
            (Some(last), Some(_)) => {
                let first = self.place.line;
                let place = Place {
                    line: line_of(&last),
                    ..self.place
                };
                Err(place.fault(format!("given again; the first one is in line {first}")))
            }
            (None, _) => Err(self.place.fault("expected a section")),
        }
    }

    fn refuse<T>(self, expected: &dyn de::Expected) -> Result<T, Fault> {
        let found = match &self.value.kind {
            ValueKind::Boolean(_) => "a boolean",
            ValueKind::Float(_) => "a number with a point",
            ValueKind::String(_) => "a string",
            ValueKind::Table(table) if table.contains_key(TUPLE) => "a tuple",
            ValueKind::Table(_) => "a section",
            ValueKind::Array(_) => "a list",
            _ => "an integer",
        };
        Err(self
            .place
            .fault(format!("expected {}, found {found}", in_words(expected))))
    }
}

fn is_table(value: &Value) -> bool {
    matches!(&value.kind, ValueKind::Table(table) if !table.contains_key(TUPLE))
}

impl<'de> Deserializer<'de> for Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let place = self.place.clone();
        let result = match self.value.kind {
            ValueKind::Nil => visitor.visit_unit(),
            ValueKind::Boolean(value) => visitor.visit_bool(value),
            ValueKind::I64(value) => visitor.visit_i64(value),
            ValueKind::I128(value) => visitor.visit_i128(value),
            ValueKind::U64(value) => visitor.visit_u64(value),
            ValueKind::U128(value) => visitor.visit_u128(value),
            ValueKind::Float(value) => visitor.visit_f64(value),
            ValueKind::String(text) => match narrow(&text).map(String::from_utf8) {
                Some(Ok(text)) => visitor.visit_string(text),
                Some(Err(bytes)) => visitor.visit_byte_buf(bytes.into_bytes()),
                None => visitor.visit_string(text),
            },
            ValueKind::Array(items) => visitor.visit_seq(Items::new(items, &place)),
            ValueKind::Table(table) => {
                visitor.visit_map(Entries::new(table.into_iter().collect(), &place))
            }
        };
        result.map_err(|fault| fault.or_at(&place))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value.kind {
            ValueKind::Array(_) => self.deserialize_any(visitor),
            _ => self.refuse(&visitor),
        }
    }

    /// Only a tuple of exactly `length` members will do.
    fn deserialize_tuple<V: Visitor<'de>>(
        mut self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let members = match &mut self.value.kind {
            ValueKind::Table(table) => table.remove(TUPLE),
            _ => None,
        };
        match members.map(|members| members.kind) {
            Some(ValueKind::Array(members)) if members.len() == length => visitor
                .visit_seq(Items::new(members, &self.place))
                .map_err(|fault| fault.or_at(&self.place)),
            Some(ValueKind::Array(members)) => Err(self.place.fault(format!(
                "expected a tuple of {length} members, found {}",
                members.len()
            ))),
            _ => self.refuse(&format!("a tuple of {length} members").as_str()),
        }
    }

    /// A section, its fields in the order in which the struct declares them; unknown ones first.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let node = self.only_section()?;
        match node.value.kind {
            ValueKind::Table(table) if !table.contains_key(TUPLE) => {
                let mut entries: Vec<_> = table.into_iter().collect();
                entries.sort_by_key(|(key, value)| {
                    let rank = fields.iter().position(|field| *field == key.as_str());
                    (rank.map_or(0, |rank| rank + 1), line_of(value))
                });
                visitor
                    .visit_map(Entries::new(entries, &node.place))
                    .map_err(|fault| fault.or_at(&node.place))
            }
            _ => node.refuse(&"a section"),
        }
    }

    /// Only [`At`] asks for a tuple struct: line and option, then the value itself.
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if name != AT {
            return self.deserialize_tuple(length, visitor);
        }
        visitor.visit_seq(Parts {
            next: 0,
            node: Some(self),
        })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct map enum identifier ignored_any
    }
}

/// The members of a list or tuple.
struct Items {
    items: std::iter::Enumerate<std::vec::IntoIter<Value>>,
    option: String,
}

impl Items {
    fn new(items: Vec<Value>, place: &Place) -> Items {
        Items {
            items: items.into_iter().enumerate(),
            option: place.option.clone(),
        }
    }
}

impl<'de> de::SeqAccess<'de> for Items {
    type Error = Fault;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some((index, value)) = self.items.next() else {
            return Ok(None);
        };
        let node = Node::new(value, format!("{}[{index}]", self.option));
        let place = node.place.clone();
        seed.deserialize(node)
            .map(Some)
            .map_err(|fault| fault.or_at(&place))
    }
}

/// The entries of a section.
struct Entries {
    entries: VecDeque<(String, Value)>,
    prefix: String,
}

impl Entries {
    fn new(entries: Vec<(String, Value)>, place: &Place) -> Entries {
        let dot = if place.option.is_empty() { "" } else { "." };
        Entries {
            entries: entries.into(),
            prefix: format!("{}{dot}", place.option),
        }
    }

    fn option(&self, key: &str) -> String {
        let key = narrow(key).map_or_else(
            || key.to_owned(),
            |bytes| String::from_utf8_lossy(&bytes).escape_debug().to_string(),
        );
        format!("{}{key}", self.prefix)
    }
}

impl<'de> de::MapAccess<'de> for Entries {
    type Error = Fault;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some((key, value)) = self.entries.front() else {
            return Ok(None);
        };
        let place = Place {
            line: line_of(value),
            option: self.option(key),
        };
        let key: de::value::StrDeserializer<'_, Fault> = key.as_str().into_deserializer();
        seed.deserialize(key)
            .map(Some)
            .map_err(|fault| fault.or_at(&place))
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((key, value)) = self.entries.pop_front() else {
            return Err(de::Error::custom("a value without its key"));
        };
        let node = Node::new(value, self.option(&key));
        let place = node.place.clone();
        seed.deserialize(node).map_err(|fault| fault.or_at(&place))
    }
}

/// What [`At`] is made of: its line, its option, its value.
struct Parts {
    next: u8,
    node: Option<Node>,
}

impl<'de> de::SeqAccess<'de> for Parts {
    type Error = Fault;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        self.next = self.next.saturating_add(1);
        match (self.next, &self.node) {
            (1, Some(node)) => seed
                .deserialize(node.place.line.into_deserializer())
                .map(Some),
            (2, Some(node)) => {
                let option = node.place.option.clone();
                seed.deserialize(option.into_deserializer()).map(Some)
            }
            _ => self
                .node
                .take()
                .map(|node| seed.deserialize(node))
                .transpose(),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AtVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for AtVisitor<T> {
            type Value = At<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value and its place")
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut parts: A) -> Result<At<T>, A::Error> {
                let absent = || de::Error::custom("a value without its place");
                let line = parts.next_element()?.ok_or_else(absent)?;
                let option = parts.next_element()?.ok_or_else(absent)?;
                let value = parts.next_element()?.ok_or_else(absent)?;
                Ok(At {
                    value,
                    place: Place { line, option },
                })
            }
        }
        deserializer.deserialize_tuple_struct(AT, 3, AtVisitor(PhantomData))
    }
}

/// A string of any bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bytes(pub Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                Ok(Bytes(text.as_bytes().to_vec()))
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_any(BytesVisitor)
    }
}

/// A number with a point. Serde's own `f64` would take an integer, which the original refuses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Float(pub f64);

impl<'de> Deserialize<'de> for Float {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FloatVisitor;
        impl Visitor<'_> for FloatVisitor {
            type Value = Float;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number with a point such as 60.0")
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Float, E> {
                Ok(Float(value))
            }
        }
        deserializer.deserialize_any(FloatVisitor)
    }
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Fault {
            place: None,
            message: message.to_string(),
        }
    }

    /// Says the types and not the values: one of them may be a key.
    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match found {
            de::Unexpected::Bool(_) => "a boolean",
            de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) => "an integer",
            de::Unexpected::Float(_) => "a number with a point",
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
        let alike = expected.iter().find(|known| {
            known.eq_ignore_ascii_case(field) || field.len() > 3 && distance(field, known) <= 2
        });
        let longer: Vec<_> = expected
            .iter()
            .filter(|known| known.starts_with(field))
            .collect();
        de::Error::custom(match (alike, longer.as_slice()) {
            (Some(known), _) => format!("unknown option; is `{known}` meant?"),
            (None, [known]) => format!("unknown option; is `{known}` meant?"),
            (None, [first, second, ..]) => {
                format!("unknown option; is `{first}` or `{second}` meant?")
            }
            (None, []) if expected.is_empty() => "unknown option; none is known here".into(),
            (None, []) => format!("unknown option; known here: {}", expected.join(", ")),
        })
    }
}

/// Serde names Rust's types; a file has others.
fn in_words(expected: &dyn de::Expected) -> String {
    match expected.to_string().as_str() {
        "i64" | "i32" | "u64" | "u32" | "u16" | "usize" => "an integer".into(),
        "a sequence" => "a list".into(),
        other => other.into(),
    }
}

/// How many bytes to insert, delete or replace to make `b` of `a`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use config::Map;
    use std::error::Error as StdError;

    /// A format that gives the table it was made with.
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
                "3: number: expected an integer, found a number with a point",
            ),
            (
                "real",
                value_at(4, 1_i64),
                "4: real: expected a number with a point such as 60.0, found an integer",
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
        let raw = sample("raw", value_at(1, widen(b"\x00\xff\xc3\xa9")))
            .unwrap()
            .raw
            .unwrap();
        assert_eq!(raw.0, b"\x00\xff\xc3\xa9");
        let name = sample("name", value_at(1, widen("\u{e9}".as_bytes())))
            .unwrap()
            .name
            .unwrap();
        assert_eq!(name, "\u{e9}");
        let refused = sample("name", value_at(1, widen(b"\xff"))).unwrap_err();
        assert_eq!(
            refused,
            "1: name: expected a string, found a string that is not UTF-8"
        );
    }

    #[test]
    fn names_the_line_of_an_unknown_option_and_what_may_be_meant() {
        for (key, hint) in [
            ("log_subchanel", "is `log_subchannel` meant?"),
            ("Name", "is `name` meant?"),
            ("log", "is `log_subchannel` meant?"),
            (
                "elsewhere",
                "known here: switch, number, real, name, raw, couple, log_subchannel",
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
