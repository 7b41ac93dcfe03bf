//! Reads a mechanism from the memory of this process, and copies back what the module wrote.
//!
//! The client does this with the application's CK_MECHANISM. The table of structures says where pointers are, and all
//! of them are followed; a structure that the table does not describe is refused. Every length is bounded before
//! anything is read. The implementor of [`Memory`] does the reading itself.

use crate::integers::{CkRv, MechanismType};
use crate::mechanism_names;
use crate::word_size::{Abi, narrow, wide};

use super::notation::{Case, DEEPEST, Direction, Field, Kind, Layout, List, Ref, Target, Use};
use super::parameters::layouts;
use super::structure::{Scope, Secret, Structure, Value, size_of_case};
use super::{LONGEST_PARAMETER, Mechanism, Parameter, PlainBytes, templates};

/// Memory that C pointers refer to.
pub trait Memory {
    /// A copy of `length` bytes at `address`, which is not null. `length` is not 0.
    fn read(&self, address: usize, length: usize) -> Result<Vec<u8>, CkRv>;
}

/// A place in memory to which a value is copied that the module wrote.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OutputPlace {
    /// Where it is.
    pub address: usize,
    /// Its size in bytes.
    pub length: usize,
    /// What is written there.
    pub kind: OutputKind,
}

/// What is written to an [`OutputPlace`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OutputKind {
    /// Bytes, at most as many as the place has.
    Bytes,
    /// A CK_ULONG.
    Number,
}

impl Mechanism {
    /// Reads the parameter of a mechanism: `pParameter` and `ulParameterLen` of a CK_MECHANISM, or of a
    /// function of messages. The result includes the places that a module writes to, in the order in
    /// which [`Written`](super::Written) has the values.
    ///
    /// Errors: CKR_MECHANISM_PARAM_INVALID for a structure that the table does not describe or that
    /// nests too deep, CKR_DATA_LEN_RANGE for more than [`LONGEST_PARAMETER`] bytes, and what `memory`
    /// answers.
    pub fn from_memory(
        mechanism_type: MechanismType,
        address: usize,
        length: usize,
        usage: Use,
        memory: &dyn Memory,
    ) -> Result<(Mechanism, Vec<OutputPlace>), CkRv> {
        let mut reader = Reader {
            memory,
            left: LONGEST_PARAMETER,
            places: Vec::new(),
        };
        let mechanism = reader.mechanism(mechanism_type, address, length, usage, 1)?;
        Ok((mechanism, reader.places))
    }
}

/// Reads one parameter.
pub(super) struct Reader<'a> {
    memory: &'a dyn Memory,
    /// How many bytes may still be read or be room for outputs.
    left: usize,
    /// Where the module writes.
    places: Vec<OutputPlace>,
}

impl Reader<'_> {
    /// Counts bytes against the limit of the parameter.
    fn account(&mut self, length: u64) -> Result<usize, CkRv> {
        let length = usize::try_from(length).map_err(|_| CkRv::DATA_LEN_RANGE)?;
        self.left = self.left.checked_sub(length).ok_or(CkRv::DATA_LEN_RANGE)?;
        Ok(length)
    }

    pub(super) fn read(&mut self, address: usize, length: u64) -> Result<Secret, CkRv> {
        let length = self.account(length)?;
        if length == 0 {
            return Ok(Secret::default());
        }
        let bytes = Secret::new(self.memory.read(address, length)?);
        match bytes.len() == length {
            true => Ok(bytes),
            false => Err(CkRv::GENERAL_ERROR),
        }
    }

    fn word(&mut self, address: usize) -> Result<u64, CkRv> {
        let bytes = self.read(address, Abi::HOST.word as u64)?;
        Ok(host_number(&bytes))
    }

    fn text(&mut self, address: usize) -> Result<Secret, CkRv> {
        let mut text = Secret::default();
        loop {
            let next = address.checked_add(text.len()).ok_or(CkRv::ARGUMENTS_BAD)?;
            match self.read(next, 1)?.first() {
                Some(0) | None => return Ok(text),
                Some(byte) => text.push(*byte),
            }
        }
    }

    fn mechanism(
        &mut self,
        mechanism_type: MechanismType,
        address: usize,
        length: usize,
        usage: Use,
        depth: usize,
    ) -> Result<Mechanism, CkRv> {
        let parameter = self.parameter(mechanism_type, address, length, usage, depth)?;
        Ok(Mechanism {
            mechanism_type,
            parameter,
        })
    }

    fn parameter(
        &mut self,
        mechanism_type: MechanismType,
        address: usize,
        length: usize,
        usage: Use,
        depth: usize,
    ) -> Result<Parameter, CkRv> {
        if address == 0 {
            let length = wide(narrow(length as u64));
            return Ok(Parameter::None { length });
        }
        let bytes = self.read(address, length as u64)?;
        let known = layouts(mechanism_type, usage);
        if known.is_empty() || bytes.is_empty() {
            let standard = mechanism_names::is_standard(narrow(mechanism_type.0));
            return Ok(match standard || bytes.is_empty() {
                true => Parameter::Bytes(PlainBytes(bytes)),
                false => Parameter::Vendor(PlainBytes(bytes)),
            });
        }
        let fits = |layout: &&&'static Layout| layout.size(Abi::HOST) == bytes.len();
        let fitting: Vec<_> = known.iter().filter(fits).collect();
        // Of two structures of the same size, takes the one with a pointer to the length, if that can be an address.
        let plausible = |layout: &&&&'static Layout| {
            let mut places = layout.pointers_to_lengths();
            places.all(|place| pointer(bytes.get(place).unwrap_or_default()) >= LONGEST_PARAMETER)
        };
        match fitting.iter().find(plausible).or(fitting.last()) {
            Some(layout) => {
                let structure = self.structure(layout, &bytes, address, None, depth)?;
                Ok(Parameter::Structure(structure))
            }
            None if known.iter().any(|layout| layout.has_pointers()) => {
                Err(CkRv::MECHANISM_PARAM_INVALID)
            }
            None => Ok(Parameter::Bytes(PlainBytes(bytes))),
        }
    }

    /// Reads a structure of which `bytes` were read at `address`.
    fn structure(
        &mut self,
        layout: &'static Layout,
        bytes: &[u8],
        address: usize,
        outer: Option<&Scope<'_>>,
        depth: usize,
    ) -> Result<Structure, CkRv> {
        if depth > DEEPEST {
            return Err(CkRv::MECHANISM_PARAM_INVALID);
        }
        // First all numbers, because a length may follow its pointer.
        let mut values = Vec::with_capacity(layout.fields.0.len());
        for (field, place) in layout.places(Abi::HOST) {
            let bytes = bytes.get(place).unwrap_or_default();
            values.push(match field.kind {
                Kind::Bytes(_) => Value::Bytes(bytes.to_vec().into()),
                Kind::Flag | Kind::Byte => Value::Number(Abi::HOST.read(bytes)),
                Kind::Pointer(target) => match (pointer(bytes), target) {
                    (0, _) | (_, Target::Ignored) => Value::Null,
                    (address, Target::Number | Target::Length | Target::Key) => {
                        Value::Word(self.word(address)?)
                    }
                    _ => Value::Elsewhere, // until it is read below
                },
                Kind::Number | Kind::Mechanism | Kind::Key | Kind::Length => {
                    Value::Number(host_number(bytes))
                }
            });
        }
        for (index, (field, place)) in layout.places(Abi::HOST).enumerate() {
            let start = address
                .checked_add(place.start)
                .ok_or(CkRv::ARGUMENTS_BAD)?;
            let bytes = bytes.get(place).unwrap_or_default();
            let scope = Scope {
                layout,
                values: &values,
                outer,
            };
            let Kind::Pointer(target) = field.kind else {
                if field.direction != Direction::In {
                    self.number_is_written_to(start);
                }
                continue;
            };
            let Some(Value::Elsewhere) = values.get(index) else {
                // A null pointer, or a number that was read already.
                if let (Some(Value::Word(_)), true) =
                    (values.get(index), field.direction != Direction::In)
                {
                    self.number_is_written_to(pointer(bytes));
                }
                continue;
            };
            let value = self.follow(field.direction, target, pointer(bytes), &scope, depth)?;
            if let (Target::Tagged(tag), Value::Word(_) | Value::Structures(_)) = (target, &value) {
                if let Some(length) = values.get_mut(tag.length) {
                    *length = Value::Number(0);
                }
            }
            if let Some(place) = values.get_mut(index) {
                *place = value;
            }
        }
        Ok(Structure { layout, values })
    }

    fn number_is_written_to(&mut self, address: usize) {
        self.places.push(OutputPlace {
            address,
            length: Abi::HOST.word,
            kind: OutputKind::Number,
        });
    }

    /// Reads the target of a pointer that is not null.
    fn follow(
        &mut self,
        direction: Direction,
        target: Target,
        address: usize,
        scope: &Scope<'_>,
        depth: usize,
    ) -> Result<Value, CkRv> {
        let invalid = CkRv::MECHANISM_PARAM_INVALID;
        match target {
            Target::Bytes(extent) => {
                let length = scope.length(extent).ok_or(invalid)?;
                let value = match direction {
                    Direction::Out => {
                        self.account(length)?;
                        Value::Room(length)
                    }
                    Direction::In | Direction::InOut => Value::Data(self.read(address, length)?),
                };
                if direction != Direction::In {
                    self.places.push(OutputPlace {
                        address,
                        length: usize::try_from(length).map_err(|_| CkRv::DATA_LEN_RANGE)?,
                        kind: OutputKind::Bytes,
                    });
                }
                Ok(value)
            }
            Target::Text => self.text(address).map(Value::Data),
            Target::Number | Target::Length | Target::Key => self.word(address).map(Value::Word),
            Target::Structure(of) => self.structures(of, 1, address, scope, depth),
            Target::Structures(of, count) => {
                let count = scope.number(count).ok_or(invalid)?;
                self.structures(of, count, address, scope, depth)
            }
            Target::Mechanism => self.inner_mechanism(address, depth),
            Target::Template(count) => {
                let count = scope.number(count).ok_or(invalid)?;
                templates::from_memory(self, address, count, depth + 1).map(Value::Template)
            }
            Target::Tagged(tag) => {
                let length = scope.number(tag.length).ok_or(invalid)?;
                match scope.case(tag) {
                    Some(case) if length == size_of_case(case) as u64 => match case {
                        Case::Number | Case::Key => self.word(address).map(Value::Word),
                        Case::Structure(of) => self.structures(of, 1, address, scope, depth),
                    },
                    // A module that ignores the length would take the bytes for a handle.
                    Some(Case::Key) => Err(invalid),
                    Some(Case::Number | Case::Structure(_)) | None => {
                        self.read(address, length).map(Value::Data)
                    }
                }
            }
            Target::Unknown | Target::Ignored => Err(invalid),
        }
    }

    fn structures(
        &mut self,
        Ref(layout): Ref,
        count: u64,
        address: usize,
        scope: &Scope<'_>,
        depth: usize,
    ) -> Result<Value, CkRv> {
        let size = layout.size(Abi::HOST);
        let length = count.checked_mul(size as u64).ok_or(CkRv::DATA_LEN_RANGE)?;
        let bytes = self.read(address, length)?;
        let mut structures = Vec::new();
        for (index, bytes) in bytes.chunks(size).enumerate() {
            let address = address
                .checked_add(index * size)
                .ok_or(CkRv::ARGUMENTS_BAD)?;
            structures.push(self.structure(layout, bytes, address, Some(scope), depth + 1)?);
        }
        Ok(Value::Structures(structures))
    }

    fn inner_mechanism(&mut self, address: usize, depth: usize) -> Result<Value, CkRv> {
        if depth >= DEEPEST {
            return Err(CkRv::MECHANISM_PARAM_INVALID);
        }
        let bytes = self.read(address, CK_MECHANISM.size(Abi::HOST) as u64)?;
        let mut places = CK_MECHANISM.places(Abi::HOST);
        let mut next = || {
            let place = places.next().map(|(_, place)| place);
            place.and_then(|place| bytes.get(place)).unwrap_or_default()
        };
        let (mechanism_type, address, length) = (next(), next(), next());
        let mechanism = self.mechanism(
            MechanismType(host_number(mechanism_type)),
            pointer(address),
            pointer(length),
            Use::Operation,
            depth + 1,
        )?;
        Ok(Value::Mechanism(Box::new(mechanism)))
    }
}

/// The structure that a pointer to a mechanism refers to.
pub(super) static CK_MECHANISM: Layout = Layout {
    name: "CK_MECHANISM",
    fields: List(&[
        plain("mechanism", Kind::Mechanism),
        plain("pParameter", Kind::Pointer(Target::Unknown)),
        plain("ulParameterLen", Kind::Length),
    ]),
};

pub(super) const fn plain(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        direction: Direction::In,
    }
}

/// Returns the number that these bytes represent on this host.
fn host_number(bytes: &[u8]) -> u64 {
    wide(narrow(Abi::HOST.read(bytes)))
}

fn pointer(bytes: &[u8]) -> usize {
    usize::try_from(Abi::HOST.read(bytes)).unwrap_or(usize::MAX)
}
