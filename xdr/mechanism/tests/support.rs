//! Provides simulated memory and random mechanisms of every structure.

use std::collections::BTreeMap;

#[allow(unused_imports)]
use crate::codec::{DecodeError, Decoder, Encoder, Wire as _};
use crate::mechanism::notation::{
    Case, Direction, Extent, Field, Kind, Layout, List, Ref, Tag, Target,
};
use crate::mechanism::structure::{Structure, Value};
use crate::mechanism::*;
use crate::mechanism_names::MECHANISMS;
use crate::{Attribute, AttributeType};

/// Byte strings at addresses.
#[derive(Default)]
pub struct FakeMemory {
    regions: BTreeMap<usize, Vec<u8>>,
}

/// The address of the first region: one where a process has memory, and too large for a length.
const BASE: usize = 0x7000_0000;

/// The distance from one region to the next.
const STEP: usize = 0x0010_0000;

impl FakeMemory {
    fn next_address(&self) -> usize {
        BASE + STEP * self.regions.len()
    }

    /// Puts a region at an address.
    pub fn map(&mut self, address: usize, bytes: &[u8]) {
        self.regions.insert(address, bytes.to_vec());
    }

    /// Adds a region. The result is its address.
    pub fn add(&mut self, bytes: &[u8]) -> usize {
        let address = self.next_address();
        self.map(address, bytes);
        address
    }

    /// Adds the memory of an assembly, with its pointers. The result is the address of pParameter.
    pub fn add_assembly(&mut self, assembly: &Assembly) -> usize {
        let mut images = assembly.images();
        let start = self.next_address();
        let address = |block: usize| start + STEP * block;
        for place in assembly.pointers() {
            let pointer = address(place.target).to_ne_bytes();
            let end = place.offset + pointer.len();
            images[place.block][place.offset..end].copy_from_slice(&pointer);
        }
        for image in &images {
            self.add(image);
        }
        assembly.root().map_or(0, address)
    }
}

impl Memory for FakeMemory {
    fn read(&self, address: usize, length: usize) -> Result<Vec<u8>, CkRv> {
        assert!(address != 0 && length != 0);
        let (start, bytes) = self.regions.range(..=address).next_back().expect("mapped");
        let start = address - start;
        let bytes = bytes.get(start..start + length);
        Ok(bytes.expect("nothing beyond the region is read").to_vec())
    }
}

/// A small generator of numbers, the same in each run (xorshift).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// A number that fits into a CK_ULONG of 4 bytes, or all ones.
    fn number(&mut self) -> u64 {
        match self.below(8) {
            0 => u64::MAX,
            1 => 0,
            _ => self.below(1 << 32),
        }
    }

    /// A structure in which about one pointer of five is NULL.
    pub fn structure(&mut self, layout: &'static Layout) -> Structure {
        self.structure_in(layout, None)
    }

    fn structure_in(&mut self, layout: &'static Layout, bits_around: Option<u64>) -> Structure {
        let fields = layout.fields.0;
        // Numbers first. Those that are lengths or counts of other fields are small.
        let mut numbers: Vec<u64> = (0..fields.len())
            .map(|index| match role(fields, index) {
                Role::Length => self.below(40),
                Role::Count => self.below(3),
                Role::Tag => 1 + self.below(7),
                // The mechanism has another structure, with a pointer in the place of some of the numbers.
                Role::None if layout.name.starts_with("CK_GCM_") => self.below(1 << 20),
                Role::None if layout.name.starts_with("CK_CCM_") => self.below(1 << 20),
                Role::None => self.number(),
            })
            .collect();
        let mut values = Vec::new();
        for field in fields {
            let number = numbers[values.len()];
            let value = match field.kind {
                Kind::Number | Kind::Mechanism | Kind::Key | Kind::Length => Value::Number(number),
                Kind::Flag | Kind::Byte => Value::Number(number & 0xff),
                Kind::Bytes(size) => Value::Bytes(self.bytes(size as u64).into()),
                // If it were NULL, CK_PKCS5_PBKD2_PARAMS would look like CK_PKCS5_PBKD2_PARAMS2 in memory.
                Kind::Pointer(Target::Length) => Value::Word(number),
                Kind::Pointer(_) if self.below(5) == 0 => Value::Null,
                Kind::Pointer(target) => {
                    self.target(field, target, layout, &mut numbers, bits_around)
                }
            };
            values.push(value);
        }
        for (index, field) in fields.iter().enumerate() {
            if let Kind::Pointer(Target::Tagged(tag)) = field.kind {
                if matches!(values[index], Value::Word(_) | Value::Structures(_)) {
                    values[tag.length] = Value::Number(0);
                }
            }
        }
        Structure { layout, values }
    }

    fn target(
        &mut self,
        field: &Field,
        target: Target,
        layout: &'static Layout,
        numbers: &mut [u64],
        bits_around: Option<u64>,
    ) -> Value {
        match target {
            Target::Unknown | Target::Ignored => Value::Null,
            Target::Text => Value::Data(b"text/plain".to_vec().into()),
            Target::Number | Target::Length | Target::Key => Value::Word(self.number()),
            Target::Bytes(extent) => {
                let length = match extent {
                    Extent::Fixed(size) => size as u64,
                    Extent::Bytes(index) | Extent::Pointee(index) => numbers[index],
                    Extent::Bits(index) => numbers[index].div_ceil(8),
                    Extent::OuterBits(_) => bits_around.expect("inside").div_ceil(8),
                };
                match field.direction {
                    Direction::Out => Value::Room(length),
                    Direction::In | Direction::InOut => Value::Data(self.bytes(length).into()),
                }
            }
            Target::Structure(Ref(inner)) => {
                let bits = layout
                    .fields
                    .0
                    .iter()
                    .position(|f| f.name == "ulIVSizeInBits");
                let bits = bits.map(|index| numbers[index]);
                Value::Structures(vec![self.structure_in(inner, bits)])
            }
            Target::Structures(Ref(inner), count) => {
                let structures = (0..numbers[count]).map(|_| self.structure_in(inner, None));
                Value::Structures(structures.collect())
            }
            Target::Mechanism => Value::Mechanism(Box::new(self.inner_mechanism())),
            Target::Template(count) => {
                let mut label = || {
                    let length = 1 + self.below(9);
                    Attribute::new(AttributeType(3), self.bytes(length))
                };
                let attributes = (0..numbers[count]).map(|index| match index {
                    // CKA_WRAP_TEMPLATE.
                    1 => Attribute {
                        attribute_type: AttributeType(0x4000_0211),
                        value: crate::Value::Template(Template(vec![label(), label()])),
                    },
                    _ => label(),
                });
                Value::Template(Template(attributes.collect()))
            }
            Target::Tagged(tag) => self.tagged(tag, numbers),
        }
    }

    fn tagged(&mut self, tag: Tag, numbers: &[u64]) -> Value {
        let List(cases) = tag.cases;
        match cases.iter().find(|(of, _)| *of == numbers[tag.field]) {
            Some((_, Case::Number | Case::Key)) => Value::Word(self.number()),
            Some((_, Case::Structure(Ref(inner)))) => {
                Value::Structures(vec![self.structure_in(inner, None)])
            }
            None => Value::Data(self.bytes(numbers[tag.length]).into()),
        }
    }

    fn inner_mechanism(&mut self) -> Mechanism {
        let (name, parameter) = match self.below(4) {
            0 => ("CKM_SHA256", Parameter::None { length: 0 }),
            1 => (
                "CKM_AES_CBC",
                Parameter::Bytes(PlainBytes(self.bytes(16).into())),
            ),
            2 => (
                "CKM_AES_CBC",
                Parameter::Bytes(PlainBytes(Vec::new().into())),
            ),
            _ => {
                let layout = layout("CK_RSA_PKCS_OAEP_PARAMS");
                (
                    "CKM_RSA_PKCS_OAEP",
                    Parameter::Structure(self.structure(layout)),
                )
            }
        };
        mechanism(name, parameter)
    }
}

/// What other fields use a number for.
enum Role {
    Length,
    Count,
    Tag,
    None,
}

fn role(fields: &'static [Field], index: usize) -> Role {
    for field in fields {
        let Kind::Pointer(target) = field.kind else {
            continue;
        };
        match target {
            Target::Bytes(Extent::Bytes(of) | Extent::Bits(of) | Extent::Pointee(of))
                if of == index =>
            {
                return Role::Length;
            }
            Target::Structures(_, of) | Target::Template(of) if of == index => return Role::Count,
            Target::Tagged(tag) if tag.field == index => return Role::Tag,
            Target::Tagged(tag) if tag.length == index => return Role::Length,
            Target::Structure(Ref(inner)) => {
                let needed = inner.fields.0.iter().any(|inner| {
                    let Kind::Pointer(Target::Bytes(Extent::OuterBits(name))) = inner.kind else {
                        return false;
                    };
                    fields[index].name == name
                });
                if needed {
                    return Role::Length;
                }
            }
            _ => {}
        }
    }
    Role::None
}

pub fn layout(name: &str) -> &'static Layout {
    let mut all = parameters::structures().iter();
    all.find(|layout| layout.name == name)
        .expect("in the table")
}

pub fn number_of(mechanism: &str) -> MechanismType {
    MechanismType(mechanism_names::by_name(mechanism).expect("in the standard"))
}

pub fn mechanism(name: &str, parameter: Parameter) -> Mechanism {
    Mechanism {
        mechanism_type: number_of(name),
        parameter,
    }
}

/// Returns every mechanism with each structure that it takes, and the use of that structure.
pub fn all_takers() -> Vec<(&'static str, Use, &'static Layout)> {
    let mut takers = Vec::new();
    for &(name, number) in MECHANISMS {
        for (usage, _) in Use::ALL {
            for layout in parameters::layouts(MechanismType(number), usage) {
                takers.push((name, usage, layout));
            }
        }
    }
    takers
}

/// Returns one mechanism for every structure that is a parameter.
pub fn takers() -> Vec<(&'static str, Use, &'static Layout)> {
    let mut takers: Vec<(&str, Use, &'static Layout)> = Vec::new();
    for taker in all_takers() {
        if !takers.iter().any(|(_, _, layout)| *layout == taker.2) {
            takers.push(taker);
        }
    }
    takers
}

/// The bytes of a mechanism on the wire of version 4.
pub fn encoded(mechanism: &Mechanism) -> Option<Vec<u8>> {
    let mut buffer = Vec::new();
    let mut output = Encoder::new(&mut buffer, Architecture::host());
    mechanism.write(&mut output);
    let record = output.finish().ok()?.to_vec();
    Some(record[crate::record::MARK_SIZE..].to_vec())
}

/// Decodes these bytes. Fails if a byte is left over.
pub fn decoded(bytes: &[u8]) -> Result<Mechanism, DecodeError> {
    let mut input = Decoder::new(bytes, Architecture::host());
    let mechanism = Mechanism::read(&mut input)?;
    input.finish()?;
    Ok(mechanism)
}
