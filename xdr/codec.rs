//! Decodes and encodes XDR (RFC 4506), without I/O.
//!
//! A [`Decoder`] reads the arguments or the result from one record. It allocates memory only for bytes that have
//! arrived, whatever length the peer announced. A value that ends early is an error, and so are bytes left over
//! ([`Decoder::finish`]). An [`Encoder`] builds one record. It copies short values into one buffer, and sends a long
//! byte string from where it already is in memory.

use std::collections::TryReserveError;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use zeroize::Zeroize;

use crate::call::MOST_ELEMENTS;
use crate::data::Data;
use crate::integers::Architecture;
use crate::record::{self, Taken};
use crate::word_size::{Abi, received};

/// Why a value could not be decoded. Does not contain the bytes themselves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DecodeError {
    /// The record ends before the value does.
    Short,
    /// A length exceeds the bound of its type.
    TooLong,
    /// Bytes are left after the last value.
    Trailing,
    /// There is no memory for the value.
    Memory,
    /// A union has an unknown kind, or one that contradicts the other values.
    Kind,
    /// A value contains others, more levels deep than is allowed.
    TooDeep,
    /// A number does not fit into this host's CK_ULONG.
    Range,
    /// The value is not valid for its type.
    Invalid,
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DecodeError::Short => "record ends within a value",
            DecodeError::TooLong => "length above the limit of its type",
            DecodeError::Trailing => "bytes left after the last value",
            DecodeError::Memory => "no memory for the value",
            DecodeError::Kind => "value of the wrong type",
            DecodeError::TooDeep => "values nested too deeply",
            DecodeError::Range => "number too large for this host",
            DecodeError::Invalid => "not a value of its type",
        })
    }
}

impl std::error::Error for DecodeError {}

/// A value that can be read from a record and written to one. `'a` is the record's lifetime: a byte
/// string read is a slice of it.
pub trait Wire<'a>: Sized {
    /// Reads the value at the decoder's place.
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError>;
    /// Appends the value.
    fn write<'b>(&'b self, output: &mut Encoder<'b>);
}

/// A cursor over the bytes of one record.
pub struct Decoder<'a> {
    rest: &'a [u8],
    client: Architecture,
    /// The record, if results may share its memory.
    record: Option<&'a Arc<Taken>>,
    cuts_numbers: bool,
}

impl<'a> Decoder<'a> {
    /// Decodes `bytes`. Numbers inside of byte strings have the layout of a client of this architecture.
    pub fn new(bytes: &'a [u8], client: Architecture) -> Decoder<'a> {
        Decoder {
            rest: bytes,
            client,
            record: None,
            cuts_numbers: false,
        }
    }

    /// Starts at the first byte of a record. A long [`Data`] shares its memory.
    pub fn sharing(record: &'a Arc<Taken>, client: Architecture) -> Decoder<'a> {
        Decoder {
            rest: record,
            client,
            record: Some(record),
            cuts_numbers: false,
        }
    }

    /// Cuts numbers that do not fit into this host's CK_ULONG, as the original does, instead of failing.
    pub(crate) fn cut_numbers(&mut self) {
        self.cuts_numbers = true;
    }

    /// How the client lays out numbers and structures inside of byte strings.
    pub fn client(&self) -> Architecture {
        self.client
    }

    /// Checks that every byte was read.
    pub fn finish(self) -> Result<(), DecodeError> {
        self.end()
    }

    /// Checks that every byte was read.
    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing)
        }
    }

    /// Returns how many bytes were not read yet.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Reads an XDR unsigned integer.
    pub fn word(&mut self) -> Result<u32, DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// Reads an XDR unsigned hyper.
    pub fn hyper(&mut self) -> Result<u64, DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(u64::from_be_bytes(*bytes))
    }

    /// Reads a CK_ULONG.
    pub fn number(&mut self) -> Result<u64, DecodeError> {
        let sent = self.hyper()?;
        let number = received(sent, Abi::HOST.word);
        match number == sent || self.cuts_numbers {
            true => Ok(number),
            false => Err(DecodeError::Range),
        }
    }

    /// Reads a variable-length opaque as a slice of the record. Padding may hold anything, as in the original.
    pub fn opaque(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.word()? as usize;
        let value = self.take(length)?;
        self.take(padding(length))?;
        Ok(value)
    }

    /// Reads a variable-length opaque and copies it.
    pub fn opaque_copy(&mut self) -> Result<Vec<u8>, DecodeError> {
        self.opaque().and_then(copied)
    }

    /// Reads a variable-length opaque of a result.
    pub(crate) fn data(&mut self) -> Result<Data, DecodeError> {
        let Some(record) = self.record else {
            return self.opaque_copy().map(Data::from);
        };
        let before = self.rest.len();
        let value = self.opaque()?;
        if value.len() < SENT_IN_PLACE {
            return copied(value).map(Data::from);
        }
        let start = record.len() - before + size_of::<u32>();
        Ok(Data::received(record, start..start + value.len()))
    }

    /// Reads an array of structures with the code that xdrgen made for them; `bound` is its bound in elements.
    pub(crate) fn unpack_array<T: xdr_codec::Unpack<Self>>(
        &mut self,
        bound: Option<usize>,
    ) -> Result<Vec<T>, DecodeError> {
        unpacked(unpack_flex(self, bound))
    }

    /// Reads a structure of an interface with the code that xdrgen made for it.
    pub(crate) fn unpack<T: xdr_codec::Unpack<Self>>(&mut self) -> Result<T, DecodeError> {
        unpacked(T::unpack(self))
    }
}

/// Copies bytes of a record.
pub(crate) fn copied(received: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut copy = Vec::new();
    let room = copy.try_reserve_exact(received.len());
    room.map_err(|_| DecodeError::Memory)?;
    copy.extend_from_slice(received);
    Ok(copy)
}

fn unpacked<T>(unpacked: xdr_codec::Result<(T, usize)>) -> Result<T, DecodeError> {
    match unpacked {
        Ok((value, _)) => Ok(value),
        Err(xdr_codec::Error(xdr_codec::ErrorKind::InvalidLen(_), _)) => Err(DecodeError::TooLong),
        Err(xdr_codec::Error(xdr_codec::ErrorKind::IOError(cause), _))
            if cause.kind() == io::ErrorKind::OutOfMemory =>
        {
            Err(DecodeError::Memory)
        }
        Err(_) => Err(DecodeError::Short),
    }
}

/// Unlike reading from a slice, asking past the end is an error, not zero bytes.
impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_exact(buffer).map(|()| buffer.len())
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let taken = self
            .take(buffer.len())
            .map_err(|_| io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(taken);
        Ok(())
    }
}

/// Bytes read in one step of a byte string: the most that an announced length reserves in advance.
const STEP: usize = 4096;

/// Reads a variable opaque for the generated code; `bound` is its bound in bytes.
pub(crate) fn unpack_opaque_flex<In: Read>(
    input: &mut In,
    bound: Option<usize>,
) -> xdr_codec::Result<(Vec<u8>, usize)> {
    let length = bounded_length(input, bound)?;
    let mut value = Vec::new();
    while value.len() < length {
        let start = value.len();
        let step = STEP.max(start).min(length - start);
        value.try_reserve_exact(step).map_err(io::Error::from)?;
        value.resize(start + step, 0);
        input.read_exact(value.get_mut(start..).unwrap_or_default())?;
    }
    let padding = padding(length);
    let mut filled = [0; 3];
    input.read_exact(filled.get_mut(..padding).unwrap_or_default())?;
    Ok((value, 4 + length + padding))
}

/// Reads a variable array for the generated code; `bound` is its bound in elements.
pub(crate) fn unpack_flex<In: Read, T: xdr_codec::Unpack<In>>(
    input: &mut In,
    bound: Option<usize>,
) -> xdr_codec::Result<(Vec<T>, usize)> {
    let length = bounded_length(input, bound)?;
    let mut values = Vec::new();
    let mut size = 4;
    for _ in 0..length {
        let (value, value_size) = T::unpack(input)?;
        values.try_reserve(1).map_err(io::Error::from)?;
        values.push(value);
        size += value_size;
    }
    Ok((values, size))
}

fn bounded_length<In: Read>(input: &mut In, bound: Option<usize>) -> xdr_codec::Result<usize> {
    let (length, _): (u32, _) = xdr_codec::Unpack::unpack(input)?;
    let length = length as usize;
    match bound {
        Some(bound) if length > bound => Err(xdr_codec::ErrorKind::InvalidLen(bound).into()),
        Some(_) => Ok(length),
        None => Err("build.rs gives every length a bound".into()),
    }
}

/// How many bytes fill `length` up to a multiple of four.
const fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

/// Returns the length of a byte string of `length` bytes together with its padding.
pub(crate) fn padded(length: usize) -> Option<usize> {
    length.checked_add(padding(length))
}

/// The zeros that fill `length` up to a multiple of four.
const fn fill(length: usize) -> &'static [u8] {
    match padding(length) {
        0 => &[],
        1 => &[0],
        2 => &[0; 2],
        _ => &[0; 3],
    }
}

/// A byte string of this length or more is sent from its own place instead of being copied.
const SENT_IN_PLACE: usize = 4096;

/// How many byte strings of one record can be sent in place: C_Verify has two.
const MOST_IN_PLACE: usize = 2;

/// Room that a buffer of records has at first, in bytes: most calls and replies need no more.
const FIRST_ROOM: usize = 512;

/// Lays out one record, its record mark included.
pub struct Encoder<'b> {
    /// The mark, and every byte that was copied.
    copied: &'b mut Vec<u8>,
    /// Byte strings sent in place, each with the number of copied bytes that go before it.
    in_place: [(usize, &'b [u8]); MOST_IN_PLACE],
    used: usize,
    failed: bool,
    client: Architecture,
}

impl<'b> Encoder<'b> {
    /// Starts a record in `buffer`, whose content is dropped and whose memory is used again.
    ///
    /// Numbers inside of byte strings are laid out as a client of this architecture has them.
    pub fn new(buffer: &'b mut Vec<u8>, client: Architecture) -> Encoder<'b> {
        buffer.clear();
        let failed = make_room(buffer, FIRST_ROOM).is_err();
        if !failed {
            buffer.extend_from_slice(&[0; record::MARK_SIZE]);
        }
        Encoder {
            copied: buffer,
            in_place: [(0, &[]); MOST_IN_PLACE],
            used: 0,
            failed,
            client,
        }
    }

    /// How the client lays out numbers and structures inside of byte strings.
    pub fn client(&self) -> Architecture {
        self.client
    }

    /// Makes [`Encoder::finish`] fail: a value cannot be represented in the protocol.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    /// Appends an XDR unsigned integer.
    #[inline]
    pub fn word(&mut self, number: u32) {
        self.copy(&number.to_be_bytes());
    }

    /// Appends an XDR unsigned hyper.
    pub fn hyper(&mut self, number: u64) {
        self.copy(&number.to_be_bytes());
    }

    /// Appends a variable-length opaque.
    pub fn opaque(&mut self, value: &'b [u8]) {
        let Ok(length) = u32::try_from(value.len()) else {
            self.failed = true;
            return;
        };
        self.word(length);
        match self.in_place.get_mut(self.used) {
            Some(place) if value.len() >= SENT_IN_PLACE => {
                *place = (self.copied.len(), value);
                self.used += 1;
            }
            _ => self.copy(value),
        }
        self.copy(fill(value.len()));
    }

    /// Appends a copy of a variable-length opaque, which need not live as long as the record.
    pub fn opaque_copy(&mut self, value: &[u8]) {
        match u32::try_from(value.len()) {
            Ok(length) => {
                self.word(length);
                self.copy(value);
                self.copy(fill(value.len()));
            }
            Err(_) => self.failed = true,
        }
    }

    #[inline]
    fn copy(&mut self, bytes: &[u8]) {
        if make_room(self.copied, bytes.len()).is_ok() {
            self.copied.extend_from_slice(bytes);
        } else {
            self.failed = true;
        }
    }

    /// Appends an array of structures with the code that xdrgen made for them.
    pub(crate) fn pack_array<T: xdr_codec::Pack<Self>>(&mut self, values: &[T]) {
        match u32::try_from(values.len()) {
            Ok(count) if u64::from(count) <= MOST_ELEMENTS => self.word(count),
            _ => self.fail(),
        }
        values.iter().for_each(|value| self.pack(value));
    }

    /// Appends a structure of an interface with the code that xdrgen made for it.
    pub(crate) fn pack<T: xdr_codec::Pack<Self>>(&mut self, value: &T) {
        self.failed |= value.pack(self).is_err();
    }

    /// Completes the record. Fails if a value exceeds its bound, if the record exceeds what one fragment can carry (2
    /// GiB less one byte), or if there was no memory for it.
    pub fn finish(self) -> Result<Slices<'b>, EncodeError> {
        let in_place = self.in_place.get(..self.used).unwrap_or_default();
        let length = self.copied.len().saturating_sub(record::MARK_SIZE)
            + in_place.iter().map(|(_, value)| value.len()).sum::<usize>();
        let mark = record::mark_of_one_fragment(length).filter(|_| !self.failed);
        let mark = mark.ok_or(EncodeError)?;
        let place = self.copied.first_chunk_mut();
        *place.ok_or(EncodeError)? = mark;

        let mut slices = Slices {
            parts: [IoSlice::new(&[]); 2 * MOST_IN_PLACE + 1],
            sent: 0,
            used: 2 * in_place.len() + 1,
        };
        let mut rest: &'b [u8] = self.copied;
        let mut before = 0;
        let mut parts = slices.parts.iter_mut();
        let mut push = |bytes: &'b [u8]| {
            if let Some(part) = parts.next() {
                *part = IoSlice::new(bytes);
            }
        };
        for (position, value) in in_place {
            let (head, tail) = rest.split_at(position - before);
            push(head);
            push(value);
            rest = tail;
            before = *position;
        }
        push(rest);
        Ok(slices)
    }
}

/// Wipes a buffer that may be megabytes long. `zeroize` writes byte by byte and would cost as much
/// as six copies; this fills at the speed of memory. `black_box` keeps the compiler from dropping
/// the writes.
pub fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

/// Makes room for `more` bytes. The content may be a PIN or a key, so the old buffer is wiped when
/// it moves.
#[inline]
pub fn make_room(buffer: &mut Vec<u8>, more: usize) -> Result<(), TryReserveError> {
    match buffer.capacity() - buffer.len() < more {
        true => move_to_room(buffer, more),
        false => Ok(()),
    }
}

#[cold]
fn move_to_room(buffer: &mut Vec<u8>, more: usize) -> Result<(), TryReserveError> {
    let mut larger = Vec::new();
    larger.try_reserve(buffer.len() + more.max(buffer.len()))?;
    larger.extend_from_slice(buffer);
    buffer.zeroize();
    *buffer = larger;
    Ok(())
}

impl Write for Encoder<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.copy(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A value or a record is larger than the protocol, or memory, can carry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EncodeError;

impl std::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("value too large for the protocol or for memory")
    }
}

impl std::error::Error for EncodeError {}

/// A complete record, ready for one vectored write.
pub struct Slices<'b> {
    parts: [IoSlice<'b>; 2 * MOST_IN_PLACE + 1],
    /// Parts that were sent whole.
    sent: usize,
    /// Number of parts.
    used: usize,
}

impl<'b> Slices<'b> {
    /// The parts that are still to be sent; empty if everything was sent.
    pub fn unsent(&self) -> &[IoSlice<'b>] {
        self.parts.get(self.sent..self.used).unwrap_or_default()
    }

    /// Whether everything was sent.
    pub fn is_sent(&self) -> bool {
        self.unsent().iter().all(|part| part.is_empty())
    }

    /// Notes that `count` more bytes were sent.
    pub fn advance(&mut self, count: usize) {
        let mut unsent = self.parts.get_mut(self.sent..self.used).unwrap_or_default();
        let before = unsent.len();
        IoSlice::advance_slices(&mut unsent, count);
        self.sent += before - unsent.len();
    }

    /// How many bytes are still to be sent.
    #[allow(clippy::len_without_is_empty)] // that is `is_sent`
    pub fn len(&self) -> usize {
        self.unsent().iter().map(|part| part.len()).sum()
    }

    /// The next bytes to be sent, at most `size`, as one slice, for a transport that has no vectored
    /// write. They are copied to `buffer` only if they are not contiguous.
    pub fn piece<'a>(&'a self, size: usize, buffer: &'a mut Vec<u8>) -> &'a [u8] {
        let mut parts = self.unsent().iter().filter(|part| !part.is_empty());
        let first: &[u8] = parts.next().map_or(&[], |part| part);
        if let Some(piece) = first.get(..size) {
            return piece;
        }
        let Some(second) = parts.next() else {
            return first;
        };
        buffer.clear();
        // at once: a buffer that moves would leave a copy behind
        buffer.reserve_exact(size.min(self.len()));
        for part in [first, second].into_iter().chain(parts.map(|part| &**part)) {
            let room = size - buffer.len();
            buffer.extend_from_slice(part.get(..room).unwrap_or(part));
        }
        buffer
    }

    /// Appends what is still to be sent. A buffer that moves is wiped.
    pub fn append_to(&self, buffer: &mut Vec<u8>) -> Result<(), TryReserveError> {
        make_room(buffer, self.len())?;
        for part in self.unsent() {
            buffer.extend_from_slice(part);
        }
        Ok(())
    }

    /// The whole record in one piece, for tests and tools.
    pub fn to_vec(&self) -> Vec<u8> {
        self.unsent()
            .iter()
            .flat_map(|part| part.iter().copied())
            .collect()
    }
}

/// Whole records in one piece, their marks included.
impl<'b> From<&'b [u8]> for Slices<'b> {
    fn from(records: &'b [u8]) -> Slices<'b> {
        let mut parts = [IoSlice::new(&[]); 2 * MOST_IN_PLACE + 1];
        parts[0] = IoSlice::new(records);
        Slices {
            parts,
            sent: 0,
            used: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Announces a length, then fails, and notes how many bytes it was asked for.
    struct Announcing {
        length: [u8; 4],
        told: bool,
        asked: usize,
    }

    impl Read for Announcing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.read_exact(buffer).map(|()| buffer.len())
        }

        fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
            if std::mem::replace(&mut self.told, true) {
                self.asked = self.asked.max(buffer.len());
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer.copy_from_slice(&self.length);
            Ok(())
        }
    }

    #[test]
    fn an_announced_length_reserves_one_step_only() {
        let length = (1u32 << 30).to_be_bytes();
        let mut input = Announcing {
            length,
            told: false,
            asked: 0,
        };
        assert!(unpack_opaque_flex(&mut input, Some(1 << 30)).is_err());
        assert_eq!(input.asked, STEP);
    }

    #[test]
    fn a_length_over_its_bound_is_refused_before_reading_on() {
        let mut input = Announcing {
            length: [0, 0, 0, 33],
            told: false,
            asked: 0,
        };
        assert!(unpack_opaque_flex(&mut input, Some(32)).is_err());
        assert_eq!(input.asked, 0);
    }

    #[test]
    fn pieces_make_up_the_record_and_long_ones_are_not_copied() {
        let values = [vec![1; 50_001], vec![2; 7], vec![3; 20_000]];
        for size in [1, 5, 3996, 16384, 1 << 20] {
            let (mut copied, mut buffer) = (Vec::new(), Vec::new());
            let mut encoder = Encoder::new(&mut copied, Architecture::host());
            values.iter().for_each(|value| encoder.opaque(value));
            let mut slices = encoder.finish().unwrap();
            let whole = slices.to_vec();
            assert_eq!(slices.len(), whole.len());
            let mut sent = Vec::new();
            while !slices.is_sent() {
                let piece = slices.piece(size, &mut buffer);
                assert_eq!(piece.len(), size.min(whole.len() - sent.len()));
                sent.extend_from_slice(piece);
                let count = piece.len();
                slices.advance(count);
            }
            assert!(sent == whole, "by {size}");
            assert_eq!(slices.piece(size, &mut buffer), [0; 0]);
        }
    }

    #[test]
    fn long_byte_strings_arrive_whole() {
        let value: Vec<u8> = (0..50_001).map(|n| (n % 253) as u8).collect();
        let mut bytes = 50_001u32.to_be_bytes().to_vec();
        bytes.extend_from_slice(&value);
        bytes.extend_from_slice(&[0; 3]);
        let (read, size) = unpack_opaque_flex(
            &mut Decoder::new(&bytes, Architecture::host()),
            Some(1 << 20),
        )
        .unwrap();
        assert!(read == value && size == bytes.len());
    }
}
