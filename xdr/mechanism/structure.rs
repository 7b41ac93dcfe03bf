//! Represents a structure of a mechanism parameter as its fields, with the data that its pointers refer to.
//!
//! The two conversions for version 3 are here, too. Version 3 sends only the bytes of the structure: a pointer in them
//! is an address in the client's process, and the data behind it is not sent.

use zeroize::Zeroizing;

use super::Mechanism;
use super::notation::{Case, Direction, Extent, Field, Kind, Layout, List, Ref, Tag, Target};
use crate::integers::{CkRv, ObjectHandle};
use crate::templates::Template;
use crate::word_size::Abi;

/// Bytes that may be a secret. They are wiped when they are dropped.
pub(super) type Secret = Zeroizing<Vec<u8>>;

/// Gets the handle of a key, and may change it; an error stops the iteration.
pub type LookAtKey<'l> = dyn FnMut(&mut ObjectHandle) -> Result<(), CkRv> + 'l;

/// A structure of the table, field by field.
#[derive(Clone, Eq, PartialEq)]
pub struct Structure {
    pub(super) layout: &'static Layout,
    /// One for each field.
    pub(super) values: Vec<Value>,
}

/// The value of one field.
#[derive(Clone, Eq, PartialEq)]
pub(super) enum Value {
    /// A number, a handle, a length, a flag, a byte. The length in bytes of a structure or number
    /// that a pointer refers to is 0, because it depends on the word size.
    Number(u64),
    /// Bytes in the structure itself.
    Bytes(Secret),
    /// A pointer to bytes.
    Data(Secret),
    /// A pointer to room for this many bytes, which the module fills.
    Room(u64),
    /// A pointer to a number, a handle or a length.
    Word(u64),
    /// A pointer to one structure or to an array of structures.
    Structures(Vec<Structure>),
    /// A pointer to an array of attributes.
    Template(Template),
    /// A pointer to a mechanism.
    Mechanism(Box<Mechanism>),
    /// A null pointer.
    Null,
    /// A pointer that is not null, or its length: the data lies in the client's process, and
    /// version 3 cannot carry it.
    Elsewhere,
}

/// The value of a field, for a rule that looks at it.
#[derive(Clone, Copy, Eq, PartialEq)]
pub enum FieldValue<'a> {
    /// A number, a mechanism, a handle, a length, a flag, a byte, in the structure or behind a
    /// pointer. All ones, as of CK_UNAVAILABLE_INFORMATION, are all ones.
    Number(u64),
    /// Bytes, in the structure or behind a pointer.
    Bytes(&'a [u8]),
    /// Room for this many bytes that the module fills.
    Room(u64),
    /// A pointer to structures. One of an array cannot be named.
    Structures(&'a [Structure]),
    /// A pointer to an array of attributes.
    Template(&'a Template),
    /// A pointer to a mechanism.
    Mechanism(&'a Mechanism),
    /// A null pointer.
    Null,
    /// A pointer that is not null, or its length, from version 3: nothing is known about the value.
    Elsewhere,
}

impl Structure {
    /// The name of the C type.
    pub fn name(&self) -> &'static str {
        self.layout.name
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static Field, &Value)> {
        self.layout.fields.0.iter().zip(&self.values)
    }

    /// A field by its name in C. A dot leads into a structure that a pointer refers to:
    /// `pOAEPParams.hashAlg`.
    pub fn field(&self, path: &str) -> Option<FieldValue<'_>> {
        if let Some((_, value)) = self.fields().find(|(field, _)| field.name == path) {
            return Some(value.shown());
        }
        let (outer, inner) = path.split_once('.')?;
        let outer = self.field(outer)?;
        if let FieldValue::Structures([structure]) = outer {
            return structure.field(inner);
        }
        match outer {
            FieldValue::Mechanism(mechanism) => mechanism.parameter().field(inner),
            FieldValue::Number(_)
            | FieldValue::Bytes(_)
            | FieldValue::Room(_)
            | FieldValue::Structures(_)
            | FieldValue::Template(_)
            | FieldValue::Null
            | FieldValue::Elsewhere => None,
        }
    }

    /// Collects the handles of keys and certificates that the mechanism uses, those in structures,
    /// mechanisms and numbers behind pointers included.
    pub(super) fn collect_handles(&self, found: &mut Vec<ObjectHandle>) -> Result<(), CkRv> {
        for (field, value) in self.fields() {
            match value {
                Value::Number(number) if field.names_key() => found.push(ObjectHandle(*number)),
                Value::Word(number) if self.points_to_key(field) => {
                    found.push(ObjectHandle(*number));
                }
                Value::Structures(inner) => {
                    for inner in inner {
                        inner.collect_handles(found)?;
                    }
                }
                Value::Mechanism(inner) => found.extend(inner.named_keys()?),
                Value::Number(_)
                | Value::Bytes(_)
                | Value::Data(_)
                | Value::Room(_)
                | Value::Word(_)
                | Value::Template(_)
                | Value::Null
                | Value::Elsewhere => {}
            }
        }
        Ok(())
    }

    /// Passes the same handles to `look`, which may change them. Leaves out handles of 0, which name nothing.
    pub(super) fn each_key_mut(&mut self, look: &mut LookAtKey<'_>) -> Result<(), CkRv> {
        let is_key: Vec<bool> = self
            .fields()
            .map(|(field, value)| match value {
                Value::Number(number) => *number != 0 && field.names_key(),
                Value::Word(number) => *number != 0 && self.points_to_key(field),
                Value::Bytes(_)
                | Value::Data(_)
                | Value::Room(_)
                | Value::Structures(_)
                | Value::Template(_)
                | Value::Mechanism(_)
                | Value::Null
                | Value::Elsewhere => false,
            })
            .collect();
        for (value, is_key) in self.values.iter_mut().zip(is_key) {
            match value {
                Value::Number(number) | Value::Word(number) if is_key => {
                    let mut key = ObjectHandle(*number);
                    look(&mut key)?;
                    *number = key.0;
                }
                Value::Structures(inner) => {
                    for inner in inner {
                        inner.each_key_mut(look)?;
                    }
                }
                Value::Mechanism(inner) => inner.each_key_mut(look)?,
                Value::Number(_)
                | Value::Bytes(_)
                | Value::Data(_)
                | Value::Room(_)
                | Value::Word(_)
                | Value::Template(_)
                | Value::Null
                | Value::Elsewhere => {}
            }
        }
        Ok(())
    }

    /// Passes every value to `look`, those behind pointers included.
    pub(super) fn each_value<'a>(&'a self, look: &mut dyn FnMut(&'a Value)) {
        for value in &self.values {
            look(value);
            if let Value::Structures(inner) = value {
                inner.iter().for_each(|inner| inner.each_value(look));
            }
            if let Value::Mechanism(inner) = value {
                inner.parameter.each_value(look);
            }
        }
    }

    /// Whether a field points to a handle that the mechanism uses.
    fn points_to_key(&self, field: &Field) -> bool {
        let is_output =
            field.kind == Kind::Pointer(Target::Key) && field.direction != Direction::In;
        self.is_pointer_to_key(field) && !is_output
    }

    /// Whether a field points to the handle of a key, used or made.
    pub(super) fn is_pointer_to_key(&self, field: &Field) -> bool {
        if let Kind::Pointer(Target::Tagged(tag)) = field.kind {
            return self.scope(None).case(tag) == Some(Case::Key);
        }
        field.kind == Kind::Pointer(Target::Key)
    }

    pub(super) fn scope<'a>(&'a self, outer: Option<&'a Scope<'a>>) -> Scope<'a> {
        Scope {
            layout: self.layout,
            values: &self.values,
            outer,
        }
    }

    /// Whether the values fit the layout: kinds, counts and lengths.
    pub(super) fn is_sound(&self, outer: Option<&Scope<'_>>) -> bool {
        let scope = self.scope(outer);
        let mut fields = self.fields();
        self.values.len() == self.layout.fields.0.len()
            && fields.all(|(field, value)| scope.admits(field, value))
    }

    /// Reads what a client of this architecture laid out as these bytes.
    pub(super) fn read(bytes: &[u8], layout: &'static Layout, abi: Abi) -> Structure {
        let value = |(field, place): (&Field, std::ops::Range<usize>)| {
            let bytes = bytes.get(place).unwrap_or_default();
            match field.kind {
                Kind::Bytes(_) => Value::Bytes(bytes.to_vec().into()),
                Kind::Pointer(_) if bytes.iter().all(|byte| *byte == 0) => Value::Null,
                Kind::Length if bytes.iter().any(|byte| *byte != 0) => Value::Elsewhere,
                Kind::Pointer(_) => Value::Elsewhere,
                Kind::Number
                | Kind::Mechanism
                | Kind::Key
                | Kind::Length
                | Kind::Flag
                | Kind::Byte => Value::Number(abi.read(bytes)),
            }
        };
        let values = layout.places(abi).map(value).collect();
        Structure { layout, values }
    }

    /// Returns the bytes of the C structure for version 3. Numbers lose their upper half where words are shorter.
    /// `None` if the structure refers to data, or tells the length of data, because version 3 cannot carry that.
    pub(super) fn lay_out(&self, abi: Abi) -> Option<Vec<u8>> {
        let mut bytes = vec![0; self.layout.size(abi)];
        for ((field, place), value) in self.layout.places(abi).zip(&self.values) {
            let target = bytes.get_mut(place)?;
            match value {
                Value::Number(0) => {}
                Value::Number(_) if field.kind == Kind::Length => return None,
                Value::Number(number) => abi.write(*number, target),
                Value::Bytes(value) => target.copy_from_slice(value),
                Value::Null => {}
                Value::Data(_)
                | Value::Room(_)
                | Value::Word(_)
                | Value::Structures(_)
                | Value::Template(_)
                | Value::Mechanism(_)
                | Value::Elsewhere => return None,
            }
        }
        Some(bytes)
    }
}

impl Value {
    fn shown(&self) -> FieldValue<'_> {
        match self {
            Value::Number(number) | Value::Word(number) => FieldValue::Number(*number),
            Value::Bytes(bytes) | Value::Data(bytes) => FieldValue::Bytes(bytes),
            Value::Room(room) => FieldValue::Room(*room),
            Value::Structures(structures) => FieldValue::Structures(structures),
            Value::Template(template) => FieldValue::Template(template),
            Value::Mechanism(mechanism) => FieldValue::Mechanism(mechanism),
            Value::Null => FieldValue::Null,
            Value::Elsewhere => FieldValue::Elsewhere,
        }
    }
}

/// The values of a structure, possibly not yet all of them, and of the structure that points to it.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) layout: &'static Layout,
    pub(super) values: &'a [Value],
    pub(super) outer: Option<&'a Scope<'a>>,
}

impl Scope<'_> {
    /// The number in the field with this index.
    pub(super) fn number(&self, index: usize) -> Option<u64> {
        if let Value::Number(number) = self.values.get(index)? {
            return Some(*number);
        }
        None
    }

    fn number_named(&self, name: &str) -> Option<u64> {
        let mut fields = self.layout.fields.0.iter();
        self.number(fields.position(|field| field.name == name)?)
    }

    /// How many bytes a pointer refers to. Behind a null pointer to the length there are none.
    pub(super) fn length(&self, extent: Extent) -> Option<u64> {
        match extent {
            Extent::Fixed(size) => Some(size as u64),
            Extent::Bytes(index) => self.number(index),
            Extent::Bits(index) => self.number(index).map(|bits| bits.div_ceil(8)),
            Extent::OuterBits(name) => {
                let bits = self.outer?.number_named(name)?;
                Some(bits.div_ceil(8))
            }
            Extent::Pointee(index) => {
                let value = self.values.get(index)?;
                if let Value::Word(length) = value {
                    return Some(*length);
                }
                (*value == Value::Null).then_some(0)
            }
        }
    }

    /// Returns what a pointer refers to according to the value of another field; `None` for bytes.
    pub(super) fn case(&self, tag: Tag) -> Option<Case> {
        let value = self.number(tag.field)?;
        let List(cases) = tag.cases;
        let found = cases.iter().find(|(of, _)| *of == value);
        found.map(|(_, case)| *case)
    }

    /// Whether the field can have this value.
    fn admits(&self, field: &Field, value: &Value) -> bool {
        let Kind::Pointer(target) = field.kind else {
            return match (field.kind, value) {
                (Kind::Flag | Kind::Byte, Value::Number(number)) => *number <= 0xff,
                (Kind::Bytes(size), Value::Bytes(bytes)) => bytes.len() == size,
                (Kind::Bytes(_), _) => false,
                (_, Value::Number(_)) => true,
                _ => false,
            };
        };
        let all_of = |structures: &[Structure], Ref(layout): Ref| {
            let mut structures = structures.iter();
            structures.all(|inner| inner.layout == layout && inner.is_sound(Some(self)))
        };
        match (target, value) {
            (_, Value::Null) => true,
            (Target::Bytes(extent), Value::Data(bytes)) => {
                field.direction != Direction::Out && self.length(extent) == Some(bytes.len() as u64)
            }
            (Target::Bytes(extent), Value::Room(room)) => {
                field.direction == Direction::Out && self.length(extent) == Some(*room)
            }
            (Target::Text, Value::Data(bytes)) => !bytes.contains(&0),
            (Target::Number | Target::Length | Target::Key, Value::Word(_)) => true,
            (Target::Structure(of), Value::Structures(found)) => {
                found.len() == 1 && all_of(found, of)
            }
            (Target::Structures(of, count), Value::Structures(found)) => {
                self.number(count) == Some(found.len() as u64) && all_of(found, of)
            }
            (Target::Template(count), Value::Template(template)) => {
                self.number(count) == Some(template.0.len() as u64)
            }
            (Target::Mechanism, Value::Mechanism(_)) => true,
            (Target::Tagged(tag), value) => match (self.case(tag), value) {
                (Some(Case::Number | Case::Key), Value::Word(_)) => {
                    self.number(tag.length) == Some(0)
                }
                (Some(Case::Structure(of)), Value::Structures(found)) => {
                    self.number(tag.length) == Some(0) && found.len() == 1 && all_of(found, of)
                }
                // The size is not that of the case: the module will judge it.
                (None | Some(Case::Number | Case::Structure(_)), Value::Data(bytes)) => {
                    self.number(tag.length) == Some(bytes.len() as u64)
                }
                _ => false,
            },
            _ => false,
        }
    }
}

/// Returns the size in bytes of such a target on this host. It depends on the word size.
pub(super) fn size_of_case(case: Case) -> usize {
    match case {
        Case::Number | Case::Key => Abi::HOST.word,
        Case::Structure(Ref(layout)) => layout.size(Abi::HOST),
    }
}
