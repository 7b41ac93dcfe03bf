//! Lists the sections and parameters that a type reads, and the type of each, without a file.
//!
//! serde's derive tells a deserializer the names of a struct's fields, and each field asks for its own type. The
//! deserializer here records each request, and answers with a value of the requested type. So the documents are made
//! from what the parser accepts. Optional values count as present, and a list has one element.

use crate::deserializer::AT;
use crate::fault::Fault;
use serde::de::value::{StrDeserializer, StringDeserializer, U32Deserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

/// A parameter or section that a type reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outline {
    /// Its name; empty for the whole file.
    pub name: &'static str,
    /// `string`, `integer`, `float`, `switch` or `section`. If several are possible, the first of them in this order.
    pub kind: &'static str,
    /// What a section contains, in the order of the declaration.
    pub inside: Vec<Outline>,
}

/// Returns what the type reads. Fails if the type refuses values of the right types.
pub fn outline<T: DeserializeOwned>() -> Result<Outline, Fault> {
    let mut root = Outline::default();
    T::deserialize(Recorder(&mut root))?;
    Ok(root)
}

/// A deserializer that records what it is asked for.
struct Recorder<'a>(&'a mut Outline);

impl<'de> Deserializer<'de> for Recorder<'_> {
    type Error = Fault;

    /// The visitor of a type that takes several kinds of values says which kinds.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let expected = (&visitor as &dyn de::Expected).to_string();
        match expected.as_str() {
            text if text.contains("sections") => {
                self.0.kind = "string";
                visitor.visit_seq(Once(Some(self)))
            }
            text if text.contains("string") => self.deserialize_string(visitor),
            text if text.contains("decimal point") => self.deserialize_f64(visitor),
            text => Err(de::Error::custom(format!("no outline of {text}"))),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.0.kind = "switch";
        visitor.visit_bool(false)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.0.kind = "integer";
        visitor.visit_i64(0)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.0.kind = "float";
        visitor.visit_f64(0.0)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.0.kind = "string";
        visitor.visit_str("")
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_seq(Once(Some(self)))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if self.0.kind.is_empty() {
            self.0.kind = "section";
        }
        visitor.visit_map(Fields {
            names: fields.iter(),
            section: self.0,
        })
    }

    /// [`At`](crate::At): a line, an option and then the value itself.
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match name {
            AT => visitor.visit_seq(Parts(0, Some(self))),
            other => Err(de::Error::custom(format!("no outline of {other}"))),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u64 u128 f32 char str bytes byte_buf unit unit_struct
        newtype_struct tuple map enum identifier ignored_any
    }
}

/// A list with one element.
struct Once<'a>(Option<Recorder<'a>>);

impl<'de> de::SeqAccess<'de> for Once<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let element = self.0.take().map(|recorder| seed.deserialize(recorder));
        element.transpose()
    }
}

/// The parts of [`At`](crate::At).
struct Parts<'a>(u8, Option<Recorder<'a>>);

impl<'de> de::SeqAccess<'de> for Parts<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        self.0 = self.0.saturating_add(1);
        let part = match self.0 {
            1 => {
                let line: U32Deserializer<Fault> = 1_u32.into_deserializer();
                Some(seed.deserialize(line))
            }
            2 => {
                let option: StringDeserializer<Fault> = String::new().into_deserializer();
                Some(seed.deserialize(option))
            }
            _ => self.1.take().map(|recorder| seed.deserialize(recorder)),
        };
        part.transpose()
    }
}

/// A section that contains each field once.
struct Fields<'a> {
    names: std::slice::Iter<'static, &'static str>,
    section: &'a mut Outline,
}

impl<'de> de::MapAccess<'de> for Fields<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some(&name) = self.names.next() else {
            return Ok(None);
        };
        self.section.inside.push(Outline {
            name,
            ..Outline::default()
        });
        let key: StrDeserializer<'_, Fault> = name.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        match self.section.inside.last_mut() {
            Some(field) => seed.deserialize(Recorder(field)),
            None => Err(de::Error::custom("a value without its key")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{At, Float};
    use serde::Deserialize;

    #[derive(Deserialize)]
    #[allow(dead_code, reason = "only what is read matters")]
    struct Sample {
        switch: Option<bool>,
        number: At<i64>,
        real: Option<At<Float>>,
        #[serde(default)]
        many: Vec<At<Inner>>,
    }

    #[derive(Deserialize)]
    #[allow(dead_code, reason = "only what is read matters")]
    struct Inner {
        #[serde(rename = "name")]
        _renamed: Option<String>,
    }

    #[test]
    fn tells_names_and_types_of_all_levels() {
        let found = outline::<Sample>().unwrap();
        let told: Vec<_> = found.inside.iter().map(|it| (it.name, it.kind)).collect();
        let expected = [
            ("switch", "switch"),
            ("number", "integer"),
            ("real", "float"),
            ("many", "section"),
        ];
        assert_eq!(told, expected);
        let many = &found.inside[3].inside;
        assert_eq!((many[0].name, many[0].kind), ("name", "string"));
    }
}
