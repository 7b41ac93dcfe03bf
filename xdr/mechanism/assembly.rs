//! Builds the C structures of a mechanism parameter, and reads back what the module wrote into them.
//!
//! The result is blocks of memory and a list of the pointers between them. `bindings` fills in the pointers, because
//! only it knows addresses, and makes the call.

use zeroize::Zeroize;

use super::memory::CK_MECHANISM;
use super::notation::{Direction, Extent, Field, Kind, Target, Use};
use super::parameters::layouts;
use super::structure::{Secret, Structure, Value, size_of_case};
use super::written::{Written, WrittenValue};
use super::{LONGEST_PARAMETER, Mechanism, Parameter, templates};
use crate::integers::CkRv;
use crate::word_size::{Abi, narrow, wide};

/// Zeros behind a parameter, as 8-byte words: more than the longest structure of the standard. A module
/// that reads a whole structure where the parameter is shorter finds zeros behind it.
const PARAMETER_SPARE: usize = 32;

/// Zeros behind everything else, so that a block without bytes has an address too.
const SPARE: usize = 1;

/// The C memory of a mechanism parameter.
#[derive(Default)]
pub struct Assembly {
    blocks: Vec<Block>,
    pointers: Vec<PointerPlace>,
    root: Option<usize>,
    length: u64,
    outputs: Vec<Output>,
}

/// 8-byte aligned memory, which is wiped when it is dropped: it may hold a password.
struct Block(Vec<u64>);

impl Drop for Block {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A pointer that has to be filled in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PointerPlace {
    /// The index of the block that contains the pointer.
    pub block: usize,
    /// Where in the block it is, in bytes. The pointer lies within the block.
    pub offset: usize,
    /// The index of the block that it refers to.
    pub target: usize,
}

/// Something that the module writes.
#[derive(Clone, Copy)]
enum Output {
    /// Bytes in a block with this much room. If a number in another block says so, they are fewer.
    Bytes {
        block: usize,
        room: usize,
        /// The block began with the application's bytes, so the bytes that the module leaves alone are valid, too.
        was_sent: bool,
        /// Where the pointer to that number is: its block, and its offset there.
        length: Option<(usize, usize)>,
    },
    /// A CK_ULONG: the handle of a key, or a length or other number.
    Number {
        block: usize,
        offset: usize,
        is_key: bool,
    },
}

impl Mechanism {
    /// Builds the parameter for a C call on this host; `usage` says for which kind of function. `is_flat` says that a
    /// vendor's parameter may pass: the site lists the mechanism as one without addresses.
    ///
    /// The result is CKR_MECHANISM_PARAM_INVALID if a module could use bytes of a client as an address: the parameter
    /// could not be decoded, is of another use, or refers to data that was not sent. It is the same if a number does
    /// not fit into a CK_ULONG.
    pub fn assemble(&self, usage: Use, is_flat: bool) -> Result<Assembly, CkRv> {
        let mut builder = Builder::default();
        let (root, length) = builder.parameter(self, usage, is_flat, PARAMETER_SPARE)?;
        builder.0.root = root;
        builder.0.length = length;
        Ok(builder.0)
    }
}

impl Assembly {
    /// Returns the address of each block. The addresses stay the same for as long as the assembly lives, and each block
    /// can be read and written through its address up to its end.
    pub fn addresses(&mut self) -> Vec<*mut u64> {
        let blocks = self.blocks.iter_mut();
        blocks.map(|block| block.0.as_mut_ptr()).collect()
    }

    /// The size of all blocks together, in bytes.
    pub fn size(&self) -> usize {
        self.blocks
            .iter()
            .map(|block| size_of_val(block.0.as_slice()))
            .sum()
    }

    /// The pointers to be filled in. Each lies within its block.
    pub fn pointers(&self) -> &[PointerPlace] {
        &self.pointers
    }

    /// The index of the block that pParameter refers to; `None` for NULL.
    pub fn root(&self) -> Option<usize> {
        self.root
    }

    /// ulParameterLen.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Which of the values that a module writes are handles of keys, in the order of [`Assembly::written`].
    pub(super) fn written_keys(&self) -> impl Iterator<Item = bool> {
        let is_key = |output: &Output| matches!(output, Output::Number { is_key: true, .. });
        self.outputs.iter().map(is_key)
    }

    /// Returns what the module wrote, or left as it was, in the order of the table. If the call failed, the value of a
    /// room whose content was not sent is empty, because the module may not have filled it.
    pub fn written(&self, succeeded: bool) -> Written {
        let value = |output: &Output| match *output {
            Output::Bytes { was_sent, .. } if !was_sent && !succeeded => {
                WrittenValue::Bytes(Secret::default())
            }
            Output::Bytes {
                block,
                room,
                length,
                was_sent: _,
            } => {
                let told = length.map_or(u64::MAX, |place| self.number_behind(place));
                let length = usize::try_from(told).unwrap_or(usize::MAX).min(room);
                WrittenValue::Bytes(self.bytes(block, 0, length))
            }
            Output::Number { block, offset, .. } => {
                WrittenValue::Number(self.number(block, offset))
            }
        };
        Written::new(self.outputs.iter().map(value).collect())
    }

    fn bytes(&self, block: usize, offset: usize, length: usize) -> Secret {
        let words = self.blocks.get(block).map_or(&[][..], |block| &block.0);
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
        let mut copy = Vec::with_capacity(length);
        copy.extend(bytes.skip(offset).take(length));
        copy.into()
    }

    /// Returns the number that the pointer at this place refers to; 0 for NULL.
    fn number_behind(&self, (block, offset): (usize, usize)) -> u64 {
        let mut pointers = self.pointers.iter();
        let pointer = pointers.find(|pointer| (pointer.block, pointer.offset) == (block, offset));
        pointer.map_or(0, |pointer| self.number(pointer.target, 0))
    }

    fn number(&self, block: usize, offset: usize) -> u64 {
        let bytes = self.bytes(block, offset, Abi::HOST.word);
        wide(narrow(Abi::HOST.read(&bytes)))
    }
}

/// Collects the blocks.
#[derive(Default)]
pub(super) struct Builder(Assembly);

impl Builder {
    /// Adds a block of this many zero bytes, and returns its index.
    pub(super) fn block(&mut self, length: usize) -> usize {
        self.block_with_spare(length, SPARE)
    }

    fn block_with_spare(&mut self, length: usize, spare: usize) -> usize {
        let words = vec![0; length.div_ceil(8) + spare];
        self.0.blocks.push(Block(words));
        self.0.blocks.len() - 1
    }

    /// Adds a block of these bytes, and returns its index.
    pub(super) fn block_of(&mut self, bytes: &[u8]) -> usize {
        let block = self.block(bytes.len());
        self.put(block, 0, bytes);
        block
    }

    fn put(&mut self, block: usize, offset: usize, bytes: &[u8]) {
        let Some(block) = self.0.blocks.get_mut(block) else {
            return;
        };
        for (position, byte) in (offset..).zip(bytes) {
            if let Some(word) = block.0.get_mut(position / 8) {
                let mut copy = word.to_ne_bytes();
                if let Some(place) = copy.get_mut(position % 8) {
                    *place = *byte;
                }
                *word = u64::from_ne_bytes(copy);
            }
        }
    }

    /// Writes a CK_ULONG.
    pub(super) fn put_number(
        &mut self,
        block: usize,
        offset: usize,
        number: u64,
    ) -> Result<(), CkRv> {
        let narrowed = narrow(number);
        if wide(narrowed) != number {
            return Err(CkRv::MECHANISM_PARAM_INVALID);
        }
        self.put(block, offset, &narrowed.to_ne_bytes());
        Ok(())
    }

    /// Notes that there is a pointer to the block `target` at this place.
    pub(super) fn put_pointer(&mut self, block: usize, offset: usize, target: usize) {
        self.0.pointers.push(PointerPlace {
            block,
            offset,
            target,
        });
    }

    /// Builds a parameter. The result is its block, and its length.
    fn parameter(
        &mut self,
        mechanism: &Mechanism,
        usage: Use,
        is_flat: bool,
        spare: usize,
    ) -> Result<(Option<usize>, u64), CkRv> {
        let invalid = CkRv::MECHANISM_PARAM_INVALID;
        match &mechanism.parameter {
            Parameter::None { length } => Ok((None, *length)),
            Parameter::Unread(_) => Err(invalid),
            Parameter::Vendor(_) if !is_flat => Err(invalid),
            Parameter::Bytes(bytes) | Parameter::Vendor(bytes) => {
                let block = self.block_with_spare(bytes.0.len(), spare);
                self.put(block, 0, &bytes.0);
                Ok((Some(block), bytes.0.len() as u64))
            }
            Parameter::Structure(structure) => {
                let known = layouts(mechanism.mechanism_type, usage);
                if !known.contains(&structure.layout) {
                    return Err(invalid);
                }
                let size = structure.layout.size(Abi::HOST);
                let block = self.block_with_spare(size, spare);
                self.structure(structure, block, 0)?;
                let pointers = known.iter().flat_map(|other| other.pointers());
                for place in pointers.filter(|place| place.end <= size) {
                    // A module that takes the parameter for another structure of the mechanism finds a pointer where
                    // this one has a number. A number below this limit is no address in any process.
                    if self.0.number(block, place.start) >= LONGEST_PARAMETER as u64 {
                        return Err(invalid);
                    }
                }
                Ok((Some(block), size as u64))
            }
        }
    }

    /// Writes a structure into a block, and everything that it refers to into others.
    fn structure(&mut self, structure: &Structure, block: usize, start: usize) -> Result<(), CkRv> {
        let places = structure.layout.places(Abi::HOST);
        for ((field, place), value) in places.zip(&structure.values) {
            let offset = start + place.start;
            let target = match value {
                Value::Null => continue,
                Value::Number(number) => {
                    self.number(field, block, offset, *number)?;
                    continue;
                }
                Value::Bytes(bytes) => {
                    self.put(block, offset, bytes);
                    continue;
                }
                Value::Data(bytes) => self.block_of(bytes),
                Value::Room(room) => {
                    let room = usize::try_from(*room).map_err(|_| CkRv::DATA_LEN_RANGE)?;
                    self.block(room)
                }
                Value::Word(number) => {
                    let target = self.block(Abi::HOST.word);
                    self.put_number(target, 0, *number)?;
                    target
                }
                Value::Structures(structures) => self.structures(structures)?,
                Value::Template(template) => templates::assemble(self, template)?,
                Value::Mechanism(inner) => self.mechanism(inner)?,
                Value::Elsewhere => return Err(CkRv::MECHANISM_PARAM_INVALID),
            };
            self.put_pointer(block, offset, target);
            let Some(of) = field.kind.target() else {
                continue;
            };
            let place_of = |index| {
                let field = structure.layout.places(Abi::HOST).nth(index);
                field.map(|(_, place)| start + place.start)
            };
            if let (Target::Tagged(tag), Value::Word(_) | Value::Structures(_)) = (of, value) {
                let case = structure.scope(None).case(tag);
                if let (Some(place), Some(case)) = (place_of(tag.length), case) {
                    self.put_number(block, place, size_of_case(case) as u64)?;
                }
            }
            if field.direction == Direction::In {
                continue;
            }
            let output = |room, was_sent| Output::Bytes {
                block: target,
                room,
                was_sent,
                length: length_of(of).and_then(place_of).map(|place| (block, place)),
            };
            match value {
                Value::Word(_) => self.0.outputs.push(Output::Number {
                    block: target,
                    offset: 0,
                    is_key: structure.is_pointer_to_key(field),
                }),
                Value::Data(bytes) => self.0.outputs.push(output(bytes.len(), true)),
                Value::Room(room) => {
                    let room = usize::try_from(*room).map_err(|_| CkRv::DATA_LEN_RANGE)?;
                    self.0.outputs.push(output(room, false));
                }
                Value::Number(_)
                | Value::Bytes(_)
                | Value::Structures(_)
                | Value::Template(_)
                | Value::Mechanism(_)
                | Value::Null
                | Value::Elsewhere => {}
            }
        }
        Ok(())
    }

    /// Writes a number, a flag or a byte of a structure. A 0 is there already. The length of a structure or number
    /// behind a pointer is 0 among the values; it is written with the pointer.
    fn number(
        &mut self,
        field: &Field,
        block: usize,
        offset: usize,
        number: u64,
    ) -> Result<(), CkRv> {
        if matches!(field.kind, Kind::Flag | Kind::Byte) {
            let byte = u8::try_from(number).map_err(|_| CkRv::MECHANISM_PARAM_INVALID)?;
            self.put(block, offset, &[byte]);
        } else if number != 0 {
            self.put_number(block, offset, number)?;
        }
        if field.direction != Direction::In {
            let is_key = field.kind == Kind::Key;
            self.0.outputs.push(Output::Number {
                block,
                offset,
                is_key,
            });
        }
        Ok(())
    }

    fn structures(&mut self, structures: &[Structure]) -> Result<usize, CkRv> {
        let size_of = |inner: &Structure| inner.layout.size(Abi::HOST);
        let block = self.block(structures.iter().map(size_of).sum());
        let mut start = 0;
        for inner in structures {
            self.structure(inner, block, start)?;
            start += size_of(inner);
        }
        Ok(block)
    }

    /// Builds a CK_MECHANISM.
    fn mechanism(&mut self, mechanism: &Mechanism) -> Result<usize, CkRv> {
        let block = self.block(CK_MECHANISM.size(Abi::HOST));
        // The site's list of flat mechanisms is about the mechanism of the call.
        let (parameter, length) = self.parameter(mechanism, Use::Operation, false, SPARE)?;
        let mut offsets = CK_MECHANISM.places(Abi::HOST).map(|(_, place)| place.start);
        let mut next = || offsets.next().ok_or(CkRv::GENERAL_ERROR);
        let (kind, pointer, told) = (next()?, next()?, next()?);
        self.put_number(block, kind, mechanism.mechanism_type.0)?;
        if let Some(parameter) = parameter {
            self.put_pointer(block, pointer, parameter);
        }
        self.put_number(block, told, length)?;
        Ok(block)
    }
}

/// The index of the field that points to the number of bytes.
fn length_of(target: Target) -> Option<usize> {
    if let Target::Bytes(Extent::Pointee(index)) = target {
        return Some(index);
    }
    None
}

#[cfg(test)]
impl Assembly {
    /// What pParameter refers to, with zeros for its pointers.
    pub(super) fn root_bytes(&self) -> Vec<u8> {
        let length = usize::try_from(self.length).unwrap();
        let root = self.root.map(|root| self.bytes(root, 0, length).to_vec());
        root.unwrap_or_default()
    }

    /// The bytes of every block, with zeros for pointers.
    pub(super) fn images(&self) -> Vec<Vec<u8>> {
        let size = |block: &Block| block.0.len() * 8;
        let blocks = self.blocks.iter().enumerate();
        blocks
            .map(|(index, block)| self.bytes(index, 0, size(block)).to_vec())
            .collect()
    }

    /// Acts as a module that fills every block with this byte.
    pub(super) fn fill(&mut self, byte: u8) {
        for block in &mut self.blocks {
            block.0.fill(u64::from_ne_bytes([byte; 8]));
        }
    }
}
