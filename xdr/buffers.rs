//! Represents the buffers of a C call: the inputs, and the room for each output.
//!
//! `client::abi` makes these values from the application's pointers and lengths. `bindings` turns them into arguments
//! of the module's functions. Both distinguish NULL from empty. They contain no address.

use crate::codec::{DecodeError, Decoder, Encoder, Wire};

/// An input: a pointer and a length in C.
#[derive(Clone, Copy, Eq, PartialEq)]
pub enum Input<'a> {
    /// NULL, with the length that was passed beside it.
    Null {
        /// Normally 0.
        length: u64,
    },
    /// NULL or an empty byte string: version 3 cannot distinguish them in PINs, where it matters. Not on the wire of
    /// version 4.
    NullOrEmpty,
    /// Bytes, of the record or of the caller's buffer.
    Bytes(&'a [u8]),
}

impl<'a> Input<'a> {
    /// NULL without a length.
    pub const NULL: Input<'static> = Input::Null { length: 0 };

    /// The bytes; none where there is no buffer.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Input::Bytes(bytes) => bytes,
            Input::Null { .. } | Input::NullOrEmpty => &[],
        }
    }
}

impl<'a> From<&'a [u8]> for Input<'a> {
    fn from(bytes: &'a [u8]) -> Input<'a> {
        Input::Bytes(bytes)
    }
}

impl<'a, const SIZE: usize> From<&'a [u8; SIZE]> for Input<'a> {
    fn from(bytes: &'a [u8; SIZE]) -> Input<'a> {
        Input::Bytes(bytes)
    }
}

impl<'a> Wire<'a> for Input<'a> {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        match input.word()? {
            0 => Ok(Input::Null {
                length: input.number()?,
            }),
            1 => Ok(Input::Bytes(input.opaque()?)),
            _ => Err(DecodeError::Kind),
        }
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        match self {
            Input::Null { length } => {
                output.word(0);
                output.hyper(*length);
            }
            Input::NullOrEmpty => output.fail(),
            Input::Bytes(bytes) => {
                output.word(1);
                output.opaque(bytes);
            }
        }
    }
}

/// Tells which pointers to single results are NULL. Such a result is a handle, a number or a structure;
/// [`Function::places`](crate::Function::places) says how many there are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NullPlaces {
    /// The first one, or the only one.
    pub first: bool,
    /// The second one: the private key of C_GenerateKeyPair.
    pub second: bool,
}

impl NullPlaces {
    /// No pointer is NULL.
    pub const NONE: NullPlaces = NullPlaces {
        first: false,
        second: false,
    };
}

/// The room for an output. In C, this is a pointer to a buffer and a pointer to its length.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Room {
    /// As much as the output needs: version 3 does not say how much there is. Not on the wire of version 4.
    #[default]
    Unbounded,
    /// The pointer to the length is NULL.
    NoLength,
    /// The buffer is NULL, so that the call asks for the length.
    Null {
        /// What the length was before the call.
        length: u64,
    },
    /// A buffer for this many elements: bytes, slots, mechanisms or objects.
    Buffer(u64),
}

impl Room {
    /// The question for the length.
    pub const QUESTION: Room = Room::Null { length: 0 };
}

impl<'a> Wire<'a> for Room {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        match input.word()? {
            0 => Ok(Room::NoLength),
            1 => Ok(Room::Null {
                length: input.number()?,
            }),
            2 => Ok(Room::Buffer(input.number()?)),
            _ => Err(DecodeError::Kind),
        }
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        match self {
            Room::Unbounded => output.fail(),
            Room::NoLength => output.word(0),
            Room::Null { length } => {
                output.word(1);
                output.hyper(*length);
            }
            Room::Buffer(room) => {
                output.word(2);
                output.hyper(*room);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::integers::Architecture;
    use crate::record::MARK_SIZE;

    fn encoded<'b>(value: &'b impl Wire<'b>) -> Option<Vec<u8>> {
        let mut buffer = Vec::new();
        let mut encoder = Encoder::new(&mut buffer, Architecture::host());
        value.write(&mut encoder);
        Some(encoder.finish().ok()?.to_vec().split_off(MARK_SIZE))
    }

    #[test]
    fn null_and_empty_differ_on_the_wire() {
        let null = encoded(&Input::Null { length: 5 });
        assert_eq!(null, Some(vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]));
        let empty = encoded(&Input::Bytes(&[]));
        assert_eq!(empty, Some(vec![0, 0, 0, 1, 0, 0, 0, 0]));
        let some = encoded(&Input::Bytes(b"ab"));
        let bytes = vec![0, 0, 0, 1, 0, 0, 0, 2, b'a', b'b', 0, 0];
        assert!(
            Input::read(&mut Decoder::new(&bytes, Architecture::host())) == Ok(Input::Bytes(b"ab"))
        );
        assert_eq!(some, Some(bytes));
        let room = encoded(&Room::Buffer(3));
        assert_eq!(room, Some(vec![0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3]));
        assert_eq!(encoded(&Room::NoLength), Some(vec![0; 4]));
    }

    #[test]
    fn what_only_version_3_has_is_not_sent() {
        assert!(encoded(&Input::NullOrEmpty).is_none());
        assert!(encoded(&Room::Unbounded).is_none());
    }

    #[test]
    fn other_kinds_are_refused() {
        for kind in [2, u32::MAX] {
            let bytes = [&kind.to_be_bytes()[..], &[0; 8]].concat();
            assert!(
                Input::read(&mut Decoder::new(&bytes, Architecture::host()))
                    == Err(DecodeError::Kind)
            );
        }
        let bytes = [0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(
            Room::read(&mut Decoder::new(&bytes, Architecture::host())),
            Err(DecodeError::Kind)
        );
    }
}
