//! Encodes mechanisms for version 4 of the protocol, and decodes them.
//!
//! A structure is sent with its name, field by field, and each field with its type. So a peer needs no table to decode
//! it. The decoder then compares it with the table. A structure that differs from the table is an error. One whose name
//! the table does not have for this mechanism becomes [`Parameter::Unread`], which no module ever gets.

use crate::codec::{DecodeError, Decoder, Encoder, Wire};
use crate::integers::MechanismType;
use crate::mechanism_names;
use crate::templates::Template;
use crate::word_size::{Abi, narrow};

use super::notation::{Case, DEEPEST, Kind, Layout, MOST_FIELDS, Ref, Target, Use};
use super::parameters::layouts;
use super::structure::{Secret, Structure, Value};
use super::{LONGEST_PARAMETER, Mechanism, Parameter, PlainBytes, templates};

/// The arms of the union `Parameter`.
mod parameter {
    pub const NULL: u32 = 0;
    pub const BYTES: u32 = 1;
    pub const STRUCTURE: u32 = 2;
}

/// The arms of the union `ParameterField`.
mod field {
    pub const NUMBER: u32 = 0;
    pub const BYTES: u32 = 1;
    pub const NULL_POINTER: u32 = 2;
    pub const TO_BYTES: u32 = 3;
    pub const TO_ROOM: u32 = 4;
    pub const TO_NUMBER: u32 = 5;
    pub const TO_STRUCTURES: u32 = 6;
    pub const TO_TEMPLATE: u32 = 7;
    pub const TO_MECHANISM: u32 = 8;
}

impl<'a> Wire<'a> for Mechanism {
    /// Makes the record fail if the parameter could not be read, or refers to data that version 3 did not carry.
    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        output.hyper(self.mechanism_type.0);
        match &self.parameter {
            Parameter::None { length } => {
                output.word(parameter::NULL);
                output.hyper(*length);
            }
            Parameter::Bytes(bytes) | Parameter::Vendor(bytes) => {
                output.word(parameter::BYTES);
                output.opaque(&bytes.0);
            }
            Parameter::Structure(structure) => {
                output.word(parameter::STRUCTURE);
                structure.write(output);
            }
            Parameter::Unread(_) => output.fail(),
        }
    }

    /// Accepts a structure of any [`Use`]; [`Mechanism::assemble`] accepts only those of the function that is called.
    fn read(input: &mut Decoder<'a>) -> Result<Mechanism, DecodeError> {
        Reading {
            left: LONGEST_PARAMETER,
        }
        .mechanism(input, 1)
    }
}

impl Structure {
    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        output.opaque(self.layout.name.as_bytes());
        write_count(output, self.values.len());
        for (_, value) in self.fields() {
            value.write(output);
        }
    }
}

fn write_count(output: &mut Encoder<'_>, count: usize) {
    match u32::try_from(count) {
        Ok(count) => output.word(count),
        Err(_) => output.fail(),
    }
}

impl Value {
    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        match self {
            Value::Number(number) => {
                output.word(field::NUMBER);
                output.hyper(*number);
            }
            Value::Bytes(bytes) => {
                output.word(field::BYTES);
                output.opaque(bytes);
            }
            Value::Null => output.word(field::NULL_POINTER),
            Value::Data(bytes) => {
                output.word(field::TO_BYTES);
                output.opaque(bytes);
            }
            Value::Room(room) => {
                output.word(field::TO_ROOM);
                output.hyper(*room);
            }
            Value::Word(number) => {
                output.word(field::TO_NUMBER);
                output.hyper(*number);
            }
            Value::Structures(structures) => {
                output.word(field::TO_STRUCTURES);
                write_count(output, structures.len());
                structures.iter().for_each(|inner| inner.write(output));
            }
            Value::Template(template) => {
                output.word(field::TO_TEMPLATE);
                template.write(output);
            }
            Value::Mechanism(mechanism) => {
                output.word(field::TO_MECHANISM);
                mechanism.write(output);
            }
            Value::Elsewhere => output.fail(),
        }
    }
}

/// Reads one parameter.
struct Reading {
    /// How many bytes its structures, and what they refer to, may still have in C.
    left: usize,
}

impl Reading {
    fn account(&mut self, length: u64) -> Result<(), DecodeError> {
        let length = usize::try_from(length).map_err(|_| DecodeError::TooLong)?;
        self.left = self.left.checked_sub(length).ok_or(DecodeError::TooLong)?;
        Ok(())
    }

    fn bytes(&mut self, input: &mut Decoder<'_>) -> Result<Secret, DecodeError> {
        let bytes = input.opaque()?;
        self.account(bytes.len() as u64)?;
        Ok(bytes.to_vec().into())
    }

    fn mechanism(
        &mut self,
        input: &mut Decoder<'_>,
        depth: usize,
    ) -> Result<Mechanism, DecodeError> {
        let mechanism_type = MechanismType::read(input)?;
        let parameter = match input.word()? {
            parameter::NULL => Parameter::None {
                length: input.number()?,
            },
            parameter::BYTES => classify(mechanism_type, self.bytes(input)?),
            parameter::STRUCTURE => self.root(input, mechanism_type, depth)?,
            _ => return Err(DecodeError::Invalid),
        };
        Ok(Mechanism {
            mechanism_type,
            parameter,
        })
    }

    fn root(
        &mut self,
        input: &mut Decoder<'_>,
        mechanism_type: MechanismType,
        depth: usize,
    ) -> Result<Parameter, DecodeError> {
        let name = input.opaque()?;
        let mut known = Use::ALL
            .iter()
            .flat_map(|(usage, _)| layouts(mechanism_type, *usage));
        let Some(layout) = known.find(|layout| layout.name.as_bytes() == name) else {
            self.skip_fields(input, depth)?;
            return Ok(Parameter::Unread(Vec::new()));
        };
        let structure = self.fields(input, layout, depth)?;
        match structure.is_sound(None) {
            true => Ok(Parameter::Structure(structure)),
            false => Err(DecodeError::Invalid),
        }
    }

    /// Reads the fields of a structure, each of which has to be of a kind that the layout allows.
    fn fields(
        &mut self,
        input: &mut Decoder<'_>,
        layout: &'static Layout,
        depth: usize,
    ) -> Result<Structure, DecodeError> {
        if depth > DEEPEST {
            return Err(DecodeError::Invalid);
        }
        self.account(layout.size(Abi::HOST) as u64)?;
        if input.word()? as usize != layout.fields.0.len() {
            return Err(DecodeError::Invalid);
        }
        let mut values = Vec::with_capacity(layout.fields.0.len());
        for field in layout.fields.0 {
            values.push(match input.word()? {
                field::NUMBER => Value::Number(input.number()?),
                field::BYTES => Value::Bytes(self.bytes(input)?),
                field::NULL_POINTER => Value::Null,
                field::TO_BYTES => Value::Data(self.bytes(input)?),
                field::TO_ROOM => {
                    let room = input.number()?;
                    self.account(room)?;
                    Value::Room(room)
                }
                field::TO_NUMBER => Value::Word(input.number()?),
                field::TO_STRUCTURES => self.structures(input, field.kind, depth + 1)?,
                field::TO_TEMPLATE => Value::Template(self.template(input, depth)?),
                field::TO_MECHANISM => {
                    Value::Mechanism(Box::new(self.mechanism_inside(input, depth)?))
                }
                _ => return Err(DecodeError::Invalid),
            });
        }
        Ok(Structure { layout, values })
    }

    fn template(&mut self, input: &mut Decoder<'_>, depth: usize) -> Result<Template, DecodeError> {
        let template = Template::read_inside(input, depth, self.left)?;
        self.account(templates::weight(&template))?;
        Ok(template)
    }

    /// Reads a mechanism inside of a structure. It counts as a level, whether it has a structure or not.
    fn mechanism_inside(
        &mut self,
        input: &mut Decoder<'_>,
        depth: usize,
    ) -> Result<Mechanism, DecodeError> {
        match depth < DEEPEST {
            true => self.mechanism(input, depth + 1),
            false => Err(DecodeError::Invalid),
        }
    }

    /// Reads the structures that a field of this kind points to.
    fn structures(
        &mut self,
        input: &mut Decoder<'_>,
        kind: Kind,
        depth: usize,
    ) -> Result<Value, DecodeError> {
        let mut structures = Vec::new();
        for _ in 0..input.word()? {
            let name = input.opaque()?;
            let of_name = |layout: &&'static Layout| layout.name.as_bytes() == name;
            let layout = inner_layouts(kind).into_iter().find(of_name);
            let layout = layout.ok_or(DecodeError::Invalid)?;
            structures.push(self.fields(input, layout, depth)?);
        }
        Ok(Value::Structures(structures))
    }

    /// Skips the fields of a structure that the table does not have.
    fn skip_fields(&mut self, input: &mut Decoder<'_>, depth: usize) -> Result<(), DecodeError> {
        let count = input.word()? as usize;
        if depth > DEEPEST || count > MOST_FIELDS {
            return Err(DecodeError::Invalid);
        }
        for _ in 0..count {
            match input.word()? {
                field::NULL_POINTER => {}
                field::NUMBER | field::TO_ROOM | field::TO_NUMBER => {
                    input.number()?;
                }
                field::BYTES | field::TO_BYTES => {
                    input.opaque()?;
                }
                field::TO_STRUCTURES => {
                    for _ in 0..input.word()? {
                        input.opaque()?;
                        self.skip_fields(input, depth + 1)?;
                    }
                }
                field::TO_TEMPLATE => {
                    self.template(input, depth)?;
                }
                field::TO_MECHANISM => {
                    self.mechanism_inside(input, depth)?;
                }
                _ => return Err(DecodeError::Invalid),
            }
        }
        Ok(())
    }
}

/// Returns the structures that a field of this kind may point to.
fn inner_layouts(kind: Kind) -> Vec<&'static Layout> {
    if let Kind::Pointer(Target::Structure(Ref(layout)) | Target::Structures(Ref(layout), _)) = kind
    {
        return vec![layout];
    }
    let Kind::Pointer(Target::Tagged(tag)) = kind else {
        return Vec::new();
    };
    let cases = tag.cases.0.iter().filter_map(|(_, case)| match case {
        Case::Structure(Ref(layout)) => Some(*layout),
        Case::Number | Case::Key => None,
    });
    cases.collect()
}

/// Returns what bytes are as the parameter of this mechanism: the structure of numbers that a module would take them
/// for, or bytes. If the mechanism takes a structure with addresses, the module could take some of the bytes for an
/// address, so they become [`Parameter::Unread`].
fn classify(mechanism_type: MechanismType, bytes: Secret) -> Parameter {
    let uses = Use::ALL.iter();
    let known: Vec<_> = uses
        .flat_map(|(usage, _)| layouts(mechanism_type, *usage))
        .collect();
    if bytes.is_empty() {
        return Parameter::Bytes(PlainBytes(bytes));
    }
    if known.iter().any(|layout| layout.has_pointers()) {
        return Parameter::Unread(Vec::new());
    }
    let mut fitting = known.iter();
    if let Some(layout) = fitting.find(|layout| layout.size(Abi::HOST) == bytes.len()) {
        return Parameter::Structure(Structure::read(&bytes, layout, Abi::HOST));
    }
    let standard = mechanism_names::is_standard(narrow(mechanism_type.0));
    match standard || !known.is_empty() {
        true => Parameter::Bytes(PlainBytes(bytes)),
        false => Parameter::Vendor(PlainBytes(bytes)),
    }
}
