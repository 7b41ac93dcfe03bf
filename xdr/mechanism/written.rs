//! Carries what a module wrote through the pointers of a mechanism parameter back to the application.

use zeroize::Zeroizing;

use crate::codec::{DecodeError, Decoder, Encoder, Wire};
use crate::integers::{CkRv, ObjectHandle};
use crate::word_size::{Abi, narrow, wide};

use super::memory::{Memory, OutputKind, OutputPlace};
use super::notation::Use;
use super::structure::LookAtKey;
use super::structure::Secret;
use super::{LONGEST_PARAMETER, Mechanism};

/// What a module wrote: one value for each field that the module writes, depth first, in the order of the table.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Written {
    values: Vec<WrittenValue>,
}

/// Bytes to be written to the application's memory.
#[derive(Clone, Eq, PartialEq)]
pub struct Change {
    /// Where the first byte goes.
    pub address: usize,
    /// The bytes.
    pub bytes: Zeroizing<Vec<u8>>,
}

#[derive(Clone, Eq, PartialEq)]
pub(super) enum WrittenValue {
    Number(u64),
    Bytes(Secret),
}

impl Written {
    pub(super) fn new(values: Vec<WrittenValue>) -> Written {
        Written { values }
    }

    /// Whether the parameter has nothing that a module writes, or the call failed.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Every number that the module wrote: handles of keys, and lengths.
    pub fn numbers(&self) -> impl Iterator<Item = ObjectHandle> {
        self.values.iter().filter_map(|value| match value {
            WrittenValue::Number(number) => Some(ObjectHandle(*number)),
            WrittenValue::Bytes(_) => None,
        })
    }

    /// Passes each handle of a key that a module wrote into the parameter of this mechanism to `look`, which may change
    /// it, except handles of
    /// 0. Returns the error of `look`, if any.
    ///
    /// CKR_GENERAL_ERROR if these are not the values that a module writes there.
    pub fn each_key_mut(
        &mut self,
        mechanism: &Mechanism,
        usage: Use,
        look: &mut LookAtKey<'_>,
    ) -> Result<(), CkRv> {
        let keys: Vec<bool> = mechanism.assemble(usage, true)?.written_keys().collect();
        if keys.len() != self.values.len() {
            return Err(CkRv::GENERAL_ERROR);
        }
        for (value, is_key) in self.values.iter_mut().zip(keys) {
            match value {
                WrittenValue::Number(number) if is_key && *number != 0 => {
                    let mut key = ObjectHandle(*number);
                    look(&mut key)?;
                    *number = key.0;
                }
                WrittenValue::Bytes(_) if is_key => return Err(CkRv::GENERAL_ERROR),
                WrittenValue::Number(_) | WrittenValue::Bytes(_) => {}
            }
        }
        Ok(())
    }

    /// Returns the address and the new bytes of each place whose content changes. What the module left alone is not
    /// written again, because it may be a constant of the application. No change is longer than its place.
    ///
    /// CKR_GENERAL_ERROR if the values are not those of these places, or a handle does not fit into a
    /// CK_ULONG. Without any value nothing changes.
    pub fn changes(
        &self,
        places: &[OutputPlace],
        memory: &dyn Memory,
    ) -> Result<Vec<Change>, CkRv> {
        if self.values.is_empty() {
            return Ok(Vec::new());
        }
        if self.values.len() != places.len() {
            return Err(CkRv::GENERAL_ERROR);
        }
        let mut changes = Vec::new();
        for (place, value) in places.iter().zip(&self.values) {
            let bytes = match (place.kind, value) {
                (OutputKind::Bytes, WrittenValue::Bytes(bytes)) => bytes.clone(),
                (OutputKind::Number, WrittenValue::Number(number))
                    if wide(narrow(*number)) == *number =>
                {
                    let mut bytes = vec![0; Abi::HOST.word];
                    Abi::HOST.write(*number, &mut bytes);
                    bytes.into()
                }
                _ => return Err(CkRv::GENERAL_ERROR),
            };
            if bytes.len() > place.length {
                return Err(CkRv::GENERAL_ERROR);
            }
            if !bytes.is_empty() && memory.read(place.address, bytes.len())? != **bytes {
                changes.push(Change {
                    address: place.address,
                    bytes,
                });
            }
        }
        Ok(changes)
    }
}

impl<'a> Wire<'a> for Written {
    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        match u32::try_from(self.values.len()) {
            Ok(count) => output.word(count),
            Err(_) => output.fail(),
        }
        for value in &self.values {
            match value {
                WrittenValue::Number(number) => {
                    output.word(NUMBER);
                    output.hyper(*number);
                }
                WrittenValue::Bytes(bytes) => {
                    output.word(BYTES);
                    output.opaque(bytes);
                }
            }
        }
    }

    /// The values are bounded like the parameter that they belong to.
    fn read(input: &mut Decoder<'a>) -> Result<Written, DecodeError> {
        let count = input.word()?;
        let mut left = LONGEST_PARAMETER;
        let mut values = Vec::new();
        for _ in 0..count {
            let value = match input.word()? {
                NUMBER => WrittenValue::Number(input.number()?),
                BYTES => WrittenValue::Bytes(input.opaque()?.to_vec().into()),
                _ => return Err(DecodeError::Invalid),
            };
            let length = match &value {
                WrittenValue::Number(_) => Abi::HOST.word,
                WrittenValue::Bytes(bytes) => bytes.len(),
            };
            left = left
                .checked_sub(length.max(1))
                .ok_or(DecodeError::TooLong)?;
            values.push(value);
        }
        Ok(Written { values })
    }
}

/// The arms of the union `WrittenValue`.
const NUMBER: u32 = 0;
const BYTES: u32 = 1;
