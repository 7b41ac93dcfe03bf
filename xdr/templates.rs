//! Represents templates: attributes with values, requests for attributes, and the answers to them.
//!
//! In memory, a value is laid out as in C on this host. On the wire of version 4, numbers and arrays of attributes are
//! encoded as such, so that word size and byte order do not matter; [`attribute_types`] says which attributes have
//! them. A template may contain another; the depth is bounded.

use zeroize::Zeroize;

use crate::attribute_types::{self, Kind};
use crate::call::MOST_ELEMENTS;
use crate::codec::{DecodeError, Decoder, Encoder, Wire, copied};
use crate::integers::AttributeType;
use crate::wire_types::DEEPEST_NESTING;
use crate::word_size::Abi;

/// The value of an attribute.
#[derive(Clone, Eq, PartialEq)]
pub enum Value {
    /// `pValue` is NULL.
    Null {
        /// `ulValueLen`, in bytes of this host.
        length: u64,
    },
    /// Bytes, as this host lays them out.
    Bytes(Vec<u8>),
    /// An array of attributes.
    Template(Template),
}

/// An attribute with its value: CK_ATTRIBUTE.
#[derive(Clone, Eq, PartialEq)]
pub struct Attribute {
    /// Which attribute.
    pub attribute_type: AttributeType,
    /// Its value.
    pub value: Value,
}

/// Attributes with their values.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Template(pub Vec<Attribute>);

impl Attribute {
    /// An attribute with these bytes.
    pub fn new(attribute_type: AttributeType, value: Vec<u8>) -> Attribute {
        Attribute {
            attribute_type,
            value: Value::Bytes(value),
        }
    }

    /// The bytes of the value; none where it is NULL, or an array of attributes.
    pub fn bytes(&self) -> &[u8] {
        match &self.value {
            Value::Bytes(bytes) => bytes,
            Value::Null { .. } | Value::Template(_) => &[],
        }
    }

    /// The attributes in its value, if it is an array of attributes.
    pub fn nested(&self) -> Option<&Template> {
        match &self.value {
            Value::Template(template) => Some(template),
            Value::Null { .. } | Value::Bytes(_) => None,
        }
    }
}

/// A value may be key material.
impl Drop for Value {
    fn drop(&mut self) {
        if let Value::Bytes(bytes) = self {
            bytes.zeroize();
        }
    }
}

/// What a template may still have, at all its depths together. Elements take more memory than they have bytes on the
/// wire, so that a bound on each array alone would leave that memory unbounded.
struct Left {
    elements: u64,
    /// Bytes of values.
    bytes: usize,
}

impl Left {
    /// What a template of a call or a reply may have: its values are bounded by the record.
    const fn whole() -> Left {
        Left {
            elements: MOST_ELEMENTS,
            bytes: usize::MAX,
        }
    }

    /// Reads the number of elements of an array. No memory is reserved for them before their bytes arrive.
    fn count(&mut self, input: &mut Decoder<'_>) -> Result<u32, DecodeError> {
        let count = input.word()?;
        let left = self.elements.checked_sub(count.into());
        self.elements = left.ok_or(DecodeError::TooLong)?;
        Ok(count)
    }

    /// Reads bytes and copies them.
    fn bytes(&mut self, input: &mut Decoder<'_>) -> Result<Vec<u8>, DecodeError> {
        let bytes = input.opaque()?;
        self.take(bytes.len())?;
        copied(bytes)
    }

    fn take(&mut self, bytes: usize) -> Result<(), DecodeError> {
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.ok_or(DecodeError::TooLong)?;
        Ok(())
    }

    /// Reads an array.
    fn array<'a, T>(
        &mut self,
        input: &mut Decoder<'a>,
        mut element: impl FnMut(&mut Left, &mut Decoder<'a>) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let mut elements = Vec::new();
        for _ in 0..self.count(input)? {
            let element = element(self, input)?;
            elements.try_reserve(1).map_err(|_| DecodeError::Memory)?;
            elements.push(element);
        }
        Ok(elements)
    }
}

/// Writes the number of elements of an array.
fn write_count(output: &mut Encoder<'_>, count: usize) {
    match u32::try_from(count) {
        Ok(count) if u64::from(count) <= MOST_ELEMENTS => output.word(count),
        _ => output.fail(),
    }
}

/// Returns the depth one level deeper; fails at the bound.
fn deeper(depth: u32) -> Result<u32, DecodeError> {
    match depth < DEEPEST_NESTING {
        true => Ok(depth + 1),
        false => Err(DecodeError::TooDeep),
    }
}

/// Reads CK_ULONGs into this host's layout. They take no more memory than on the wire, so each array may have as many as
/// a template has attributes.
fn numbers(input: &mut Decoder<'_>, left: &mut Left) -> Result<Vec<u8>, DecodeError> {
    let count = Left::whole().count(input)?;
    left.take(count as usize * Abi::HOST.word)?;
    let mut bytes = Vec::new();
    for _ in 0..count {
        bytes
            .try_reserve(Abi::HOST.word)
            .map_err(|_| DecodeError::Memory)?;
        bytes.extend_from_slice(&number(input)?);
    }
    Ok(bytes)
}

/// Reads a CK_ULONG into this host's layout.
fn number(input: &mut Decoder<'_>) -> Result<Vec<u8>, DecodeError> {
    let number = input.number()?;
    let mut bytes = vec![0; Abi::HOST.word];
    Abi::HOST.write(number, &mut bytes);
    Ok(bytes)
}

/// Writes CK_ULONGs of this host, without their count.
fn write_numbers(bytes: &[u8], output: &mut Encoder<'_>) {
    for word in bytes.chunks(Abi::HOST.word) {
        output.hyper(Abi::HOST.read_wide(word));
    }
}

/// Returns how a value of this many bytes is encoded.
fn wire_kind(attribute_type: AttributeType, length: usize) -> Kind {
    match attribute_types::kind(attribute_type) {
        Kind::Number if length == Abi::HOST.word => Kind::Number,
        Kind::Numbers if length % Abi::HOST.word == 0 => Kind::Numbers,
        Kind::Bytes | Kind::Boolean | Kind::Number | Kind::Numbers | Kind::Template => Kind::Bytes,
    }
}

impl Value {
    const NULL: u32 = 0;
    const BYTES: u32 = 1;
    const NUMBER: u32 = 2;
    const NUMBERS: u32 = 3;
    const TEMPLATE: u32 = 4;
}

impl Attribute {
    fn read_at(
        input: &mut Decoder<'_>,
        depth: u32,
        left: &mut Left,
    ) -> Result<Attribute, DecodeError> {
        let attribute_type = AttributeType::read(input)?;
        let kind = attribute_types::kind(attribute_type);
        let value = match (input.word()?, kind) {
            (Value::NULL, _) => Value::Null {
                length: input.number()?,
            },
            // A module would take the bytes for addresses.
            (Value::BYTES, Kind::Template) => return Err(DecodeError::Kind),
            (Value::BYTES, _) => Value::Bytes(left.bytes(input)?),
            (Value::NUMBER, Kind::Number) => Value::Bytes(number(input)?),
            (Value::NUMBERS, Kind::Numbers) => Value::Bytes(numbers(input, left)?),
            (Value::TEMPLATE, Kind::Template) => {
                Value::Template(Template::read_at(input, deeper(depth)?, left)?)
            }
            _ => return Err(DecodeError::Kind),
        };
        Ok(Attribute {
            attribute_type,
            value,
        })
    }
}

impl Template {
    /// Reads a template that a structure of a mechanism parameter points to, at this depth of the parameter. Its values
    /// have at most this many bytes.
    pub(crate) fn read_inside(
        input: &mut Decoder<'_>,
        depth: usize,
        bytes: usize,
    ) -> Result<Self, DecodeError> {
        let depth = u32::try_from(depth).map_err(|_| DecodeError::TooDeep)?;
        let mut left = Left {
            bytes,
            ..Left::whole()
        };
        Template::read_at(input, deeper(depth)?, &mut left)
    }

    fn read_at(
        input: &mut Decoder<'_>,
        depth: u32,
        left: &mut Left,
    ) -> Result<Template, DecodeError> {
        let element =
            |left: &mut Left, input: &mut Decoder<'_>| Attribute::read_at(input, depth, left);
        left.array(input, element).map(Template)
    }
}

impl<'a> Wire<'a> for Attribute {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        Attribute::read_at(input, 1, &mut Left::whole())
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        self.attribute_type.write(output);
        match &self.value {
            Value::Null { length } => {
                output.word(Value::NULL);
                output.hyper(*length);
            }
            Value::Bytes(bytes) => match wire_kind(self.attribute_type, bytes.len()) {
                Kind::Number => {
                    output.word(Value::NUMBER);
                    write_numbers(bytes, output);
                }
                Kind::Numbers => {
                    output.word(Value::NUMBERS);
                    write_count(output, bytes.len() / Abi::HOST.word);
                    write_numbers(bytes, output);
                }
                Kind::Bytes | Kind::Boolean | Kind::Template => {
                    output.word(Value::BYTES);
                    output.opaque(bytes);
                }
            },
            Value::Template(template) => {
                output.word(Value::TEMPLATE);
                template.write(output);
            }
        }
    }
}

impl<'a> Wire<'a> for Template {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        Template::read_at(input, 1, &mut Left::whole())
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        write_count(output, self.0.len());
        for attribute in &self.0 {
            attribute.write(output);
        }
    }
}

/// The room for an attribute that is asked for.
#[derive(Clone, Eq, PartialEq)]
pub enum WantedRoom {
    /// `pValue` is NULL, so that the length is asked for.
    Null {
        /// What `ulValueLen` was before the call, in bytes of this host.
        length: u64,
    },
    /// A buffer.
    Buffer {
        /// Its size in bytes of this host.
        room: u64,
        /// What it holds before the call: version 3 sends that, and sends it back where the module wrote
        /// nothing. Not on the wire of version 4.
        content: Option<Vec<u8>>,
    },
    /// An array of attributes, each with its own room.
    Template(Query),
}

/// An attribute that is asked for.
#[derive(Clone, Eq, PartialEq)]
pub struct Wanted {
    /// Which attribute.
    pub attribute_type: AttributeType,
    /// The room for its value.
    pub room: WantedRoom,
}

/// What C_GetAttributeValue asks for.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Query(pub Vec<Wanted>);

impl Wanted {
    /// Asks for the length.
    pub fn length(attribute_type: AttributeType) -> Wanted {
        Wanted {
            attribute_type,
            room: WantedRoom::Null { length: 0 },
        }
    }

    /// Asks for the value, with a buffer of this many bytes.
    pub fn value(attribute_type: AttributeType, room: usize) -> Wanted {
        Wanted {
            attribute_type,
            room: WantedRoom::Buffer {
                room: room as u64,
                content: None,
            },
        }
    }
}

impl Drop for WantedRoom {
    fn drop(&mut self) {
        if let WantedRoom::Buffer {
            content: Some(content),
            ..
        } = self
        {
            content.zeroize();
        }
    }
}

impl WantedRoom {
    const NULL: u32 = 0;
    const BYTES: u32 = 1;
    const NUMBERS: u32 = 2;
    const TEMPLATE: u32 = 3;
}

impl Query {
    fn read_at(input: &mut Decoder<'_>, depth: u32, left: &mut Left) -> Result<Query, DecodeError> {
        left.array(input, |left, input| {
            let attribute_type = AttributeType::read(input)?;
            let kind = attribute_types::kind(attribute_type);
            let room = match (input.word()?, kind) {
                (WantedRoom::NULL, _) => WantedRoom::Null {
                    length: input.number()?,
                },
                // A module would write addresses there.
                (WantedRoom::BYTES, Kind::Template) => return Err(DecodeError::Kind),
                (WantedRoom::BYTES, _) => WantedRoom::Buffer {
                    room: input.number()?,
                    content: None,
                },
                (WantedRoom::NUMBERS, Kind::Number | Kind::Numbers) => WantedRoom::Buffer {
                    room: input.number()?.saturating_mul(Abi::HOST.word as u64),
                    content: None,
                },
                (WantedRoom::TEMPLATE, Kind::Template) => {
                    WantedRoom::Template(Query::read_at(input, deeper(depth)?, left)?)
                }
                _ => return Err(DecodeError::Kind),
            };
            Ok(Wanted {
                attribute_type,
                room,
            })
        })
        .map(Query)
    }
}

impl<'a> Wire<'a> for Query {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        Query::read_at(input, 1, &mut Left::whole())
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        write_count(output, self.0.len());
        for wanted in &self.0 {
            wanted.attribute_type.write(output);
            match &wanted.room {
                WantedRoom::Null { length } => {
                    output.word(WantedRoom::NULL);
                    output.hyper(*length);
                }
                WantedRoom::Buffer { room, .. } => {
                    let kind = attribute_types::kind(wanted.attribute_type);
                    let word = Abi::HOST.word as u64;
                    match kind {
                        Kind::Number | Kind::Numbers if room % word == 0 => {
                            output.word(WantedRoom::NUMBERS);
                            output.hyper(room / word);
                        }
                        Kind::Bytes
                        | Kind::Boolean
                        | Kind::Number
                        | Kind::Numbers
                        | Kind::Template => {
                            output.word(WantedRoom::BYTES);
                            output.hyper(*room);
                        }
                    }
                }
                WantedRoom::Template(query) => {
                    output.word(WantedRoom::TEMPLATE);
                    query.write(output);
                }
            }
        }
    }
}

/// What a module answered for an attribute.
#[derive(Clone, Eq, PartialEq)]
pub enum Found {
    /// The module left the attribute as it was.
    Untouched,
    /// `ulValueLen` is CK_UNAVAILABLE_INFORMATION.
    Unavailable,
    /// A length in bytes of this host, and no value.
    Length(u64),
    /// A number of attributes in an array, and no value.
    TemplateLength(u64),
    /// The value, as this host lays it out.
    Bytes(Vec<u8>),
    /// The attributes of an array.
    Template(Answers),
}

/// The answer for one attribute.
#[derive(Clone, Eq, PartialEq)]
pub struct Answer {
    /// Which attribute.
    pub attribute_type: AttributeType,
    /// The answer.
    pub found: Found,
}

/// What C_GetAttributeValue answers: one answer for each attribute of the question, in the same order.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Answers(pub Vec<Answer>);

impl Answer {
    /// The bytes of the value, if there is a value.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.found {
            Found::Bytes(bytes) => Some(bytes),
            Found::Untouched
            | Found::Unavailable
            | Found::Length(_)
            | Found::TemplateLength(_)
            | Found::Template(_) => None,
        }
    }
}

/// A value may be key material.
impl Drop for Found {
    fn drop(&mut self) {
        if let Found::Bytes(bytes) = self {
            bytes.zeroize();
        }
    }
}

impl Found {
    const UNTOUCHED: u32 = 0;
    const UNAVAILABLE: u32 = 1;
    const LENGTH: u32 = 2;
    const NUMBERS_LENGTH: u32 = 3;
    const TEMPLATE_LENGTH: u32 = 4;
    const BYTES: u32 = 5;
    const NUMBERS: u32 = 6;
    const TEMPLATE: u32 = 7;
}

impl Answers {
    fn read_at(
        input: &mut Decoder<'_>,
        depth: u32,
        left: &mut Left,
    ) -> Result<Answers, DecodeError> {
        let word = Abi::HOST.word as u64;
        left.array(input, |left, input| {
            let attribute_type = AttributeType::read(input)?;
            let kind = attribute_types::kind(attribute_type);
            let found = match (input.word()?, kind) {
                (Found::UNTOUCHED, _) => Found::Untouched,
                (Found::UNAVAILABLE, _) => Found::Unavailable,
                (Found::LENGTH, _) => Found::Length(input.number()?),
                (Found::NUMBERS_LENGTH, Kind::Number | Kind::Numbers) => {
                    let length = input.number()?.checked_mul(word);
                    Found::Length(length.ok_or(DecodeError::Range)?)
                }
                (Found::TEMPLATE_LENGTH, Kind::Template) => Found::TemplateLength(input.number()?),
                // The application would take the bytes for addresses.
                (Found::BYTES, Kind::Template) => return Err(DecodeError::Kind),
                (Found::BYTES, _) => Found::Bytes(left.bytes(input)?),
                (Found::NUMBERS, Kind::Number | Kind::Numbers) => {
                    Found::Bytes(numbers(input, left)?)
                }
                (Found::TEMPLATE, Kind::Template) => {
                    Found::Template(Answers::read_at(input, deeper(depth)?, left)?)
                }
                _ => return Err(DecodeError::Kind),
            };
            Ok(Answer {
                attribute_type,
                found,
            })
        })
        .map(Answers)
    }
}

impl<'a> Wire<'a> for Answers {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        Answers::read_at(input, 1, &mut Left::whole())
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        let word = Abi::HOST.word as u64;
        write_count(output, self.0.len());
        for answer in &self.0 {
            answer.attribute_type.write(output);
            let has_numbers = matches!(
                attribute_types::kind(answer.attribute_type),
                Kind::Number | Kind::Numbers
            );
            match &answer.found {
                Found::Untouched => output.word(Found::UNTOUCHED),
                Found::Unavailable => output.word(Found::UNAVAILABLE),
                Found::Length(length) if has_numbers && length % word == 0 => {
                    output.word(Found::NUMBERS_LENGTH);
                    output.hyper(length / word);
                }
                Found::Length(length) => {
                    output.word(Found::LENGTH);
                    output.hyper(*length);
                }
                Found::TemplateLength(length) => {
                    output.word(Found::TEMPLATE_LENGTH);
                    output.hyper(*length);
                }
                Found::Bytes(bytes) if has_numbers && bytes.len() as u64 % word == 0 => {
                    output.word(Found::NUMBERS);
                    write_count(output, bytes.len() / Abi::HOST.word);
                    write_numbers(bytes, output);
                }
                Found::Bytes(bytes) => {
                    output.word(Found::BYTES);
                    output.opaque(bytes);
                }
                Found::Template(answers) => {
                    output.word(Found::TEMPLATE);
                    answers.write(output);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::integers::Architecture;

    /// A template of this many attributes without a value.
    fn decoded(count: u32) -> Result<Template, DecodeError> {
        let attribute = [&3_u64.to_be_bytes()[..], &[0; 4], &[0; 8]].concat();
        let attributes = attribute.repeat(count as usize);
        let bytes = [&count.to_be_bytes()[..], &attributes].concat();
        Template::read(&mut Decoder::new(&bytes, Architecture::host()))
    }

    #[test]
    fn a_template_has_no_more_attributes_than_allowed() {
        let most = u32::try_from(MOST_ELEMENTS).unwrap();
        assert!(decoded(most).is_ok_and(|template| template.0.len() == most as usize));
        assert!(decoded(most + 1) == Err(DecodeError::TooLong));
        // No memory is reserved for attributes that do not arrive.
        let bytes = most.to_be_bytes();
        let short = Template::read(&mut Decoder::new(&bytes, Architecture::host()));
        assert!(short == Err(DecodeError::Short));
    }

    #[test]
    fn the_attributes_of_all_depths_are_counted() {
        const WRAP_TEMPLATE: u64 = 0x4000_0211;
        let nested = |arm: u32, empty: &[u8], count: u32, arrays: u32| {
            let mut bytes = arrays.to_be_bytes().to_vec();
            for _ in 0..arrays {
                bytes.extend(WRAP_TEMPLATE.to_be_bytes());
                bytes.extend(arm.to_be_bytes());
                bytes.extend(count.to_be_bytes());
                bytes.extend(empty.repeat(count as usize));
            }
            bytes
        };
        let attribute = [&3_u64.to_be_bytes()[..], &[0; 4], &[0; 8]].concat();
        let half = u32::try_from(MOST_ELEMENTS / 2).unwrap();
        for (count, result) in [
            (half - 1, Ok(())),
            (half, Err(DecodeError::TooLong)),
            (u32::MAX, Err(DecodeError::TooLong)),
        ] {
            let sent = count.min(half);
            let mut template = nested(Value::TEMPLATE, &attribute, sent, 2);
            let mut query = nested(WantedRoom::TEMPLATE, &attribute, sent, 2);
            let mut answers = nested(
                Found::TEMPLATE,
                &[&3_u64.to_be_bytes()[..], &[0; 4]].concat(),
                sent,
                2,
            );
            for bytes in [&mut template, &mut query, &mut answers] {
                bytes[16..20].copy_from_slice(&count.to_be_bytes());
            }
            let decoder = |bytes| Decoder::new(bytes, Architecture::host());
            assert!(Template::read(&mut decoder(&template)).map(drop) == result);
            assert!(Query::read(&mut decoder(&query)).map(drop) == result);
            assert!(Answers::read(&mut decoder(&answers)).map(drop) == result);
        }
    }
}
