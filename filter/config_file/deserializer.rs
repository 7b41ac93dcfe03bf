//! Converts the values of a configuration file into typed ones: a deserializer for serde.
//!
//! `config` has one as well, but that turns "yes" into 1 and 3 into "3", drops surplus tuple members and forgets lines.
//! Here a value must have exactly the type that is asked for, a struct is filled in the order of its fields, and every
//! [`Fault`] has the line and the option.

use crate::fault::{Fault, Place, in_words};
use crate::{TUPLE, latin1_bytes, line_of};
use config::{Map, Value, ValueKind};
use serde::de::{self, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use std::collections::VecDeque;

/// The name under which [`At`](crate::At) asks for the place of a value.
pub(crate) const AT: &str = "config_file::At";

/// A value that serde reads, and its place.
pub(crate) struct Node {
    value: Value,
    place: Place,
}

impl Node {
    /// Makes the node of the whole file.
    pub(crate) fn root(table: Map<String, Value>) -> Node {
        Node {
            value: Value::from(ValueKind::Table(table)),
            place: Place {
                line: 1,
                option: String::new(),
            },
        }
    }

    fn new(value: Value, option: String) -> Node {
        let line = line_of(&value);
        Node {
            value,
            place: Place { line, option },
        }
    }

    /// Unwraps a list with a single section. The daemon's syntax has sections in lists, since they may repeat.
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
                Err(place.fault(format!("already given in line {first}")))
            }
            (None, _) => Err(self.place.fault("expected a section")),
        }
    }

    fn refuse<T>(self, expected: &dyn de::Expected) -> Result<T, Fault> {
        let found = match &self.value.kind {
            ValueKind::Boolean(_) => "a boolean",
            ValueKind::Float(_) => "a number with a decimal point",
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
            ValueKind::String(text) => match latin1_bytes(&text).map(String::from_utf8) {
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

    /// Accepts a tuple of exactly `length` members and nothing else.
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

    /// Passes on the fields of a section in the order in which the struct declares them, unknown ones first.
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

    /// Passes on the parts of [`At`](crate::At), the only tuple struct: its line, its option and then the value itself.
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
        let key = latin1_bytes(key).map_or_else(
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

/// The parts of [`At`](crate::At): its line, its option, its value.
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
