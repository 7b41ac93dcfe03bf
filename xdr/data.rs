//! Holds the bytes of a result: in memory of their own, or where they were received.
//!
//! If the thread that made a call reads a long result itself, it does so without a copy: [`Data`] then shares the record
//! ([`Taken`]), whose memory goes back to the connection when the last of its users is dropped.

use std::collections::TryReserveError;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use zeroize::Zeroize;

use crate::codec::wipe;
use crate::record::Taken;

/// The bytes of a result, such as a signature or a ciphertext.
#[derive(Clone, Default)]
pub struct Data(Bytes);

#[derive(Clone)]
enum Bytes {
    Own(Vec<u8>),
    /// A part of a record.
    Received(Arc<Taken>, Range<usize>),
}

impl Default for Bytes {
    fn default() -> Bytes {
        Bytes::Own(Vec::new())
    }
}

impl Data {
    /// No bytes.
    pub const fn new() -> Data {
        Data(Bytes::Own(Vec::new()))
    }

    /// The bytes of `record` at these positions; none if the range is outside the record.
    pub(crate) fn received(record: &Arc<Taken>, place: Range<usize>) -> Data {
        Data(Bytes::Received(Arc::clone(record), place))
    }

    /// Returns the bytes as a vector. Copies them if they are part of a record, and fails if there is no memory for that.
    pub fn into_vec(self) -> Result<Vec<u8>, TryReserveError> {
        match self.0 {
            Bytes::Own(bytes) => Ok(bytes),
            received @ Bytes::Received(..) => {
                let mut copy = Vec::new();
                let received = Data(received);
                copy.try_reserve_exact(received.len())?;
                copy.extend_from_slice(&received);
                Ok(copy)
            }
        }
    }

    /// Wipes the bytes, or drops them and has the record wiped with its last user.
    pub fn wipe(&mut self) {
        match &mut self.0 {
            Bytes::Own(bytes) => wipe(bytes),
            Bytes::Received(record, _) => {
                record.wipe_at_end();
                self.0 = Bytes::default();
            }
        }
    }
}

/// Tells the length only: the bytes may be a key.
impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Own(bytes) => bytes,
            Bytes::Received(record, place) => record.get(place.clone()).unwrap_or_default(),
        }
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Data {
        Data(Bytes::Own(bytes))
    }
}

impl Zeroize for Data {
    fn zeroize(&mut self) {
        self.wipe();
    }
}

impl<Other: AsRef<[u8]> + ?Sized> PartialEq<Other> for Data {
    fn eq(&self, other: &Other) -> bool {
        **self == *other.as_ref()
    }
}

impl AsRef<[u8]> for Data {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Eq for Data {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Records;

    /// Receives a record of 100,000 bytes, all of them `byte`.
    fn receive(records: &mut Records, byte: u8) -> Arc<Taken> {
        receive_with(records, (100_000, byte), &[], false)
    }

    /// Receives a record of this many bytes, and bytes behind it.
    fn receive_with(
        records: &mut Records,
        (length, byte): (u32, u8),
        behind: &[u8],
        is_secret: bool,
    ) -> Arc<Taken> {
        let mut stream = (length | 1 << 31).to_be_bytes().to_vec();
        stream.resize(4 + length as usize, byte);
        stream.extend_from_slice(behind);
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let space = records.space().unwrap();
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            records.received(count);
            rest = &rest[count..];
            if records.advance().unwrap() {
                return Arc::new(records.lend(is_secret).unwrap());
            }
        }
        unreachable!("the record is complete");
    }

    #[test]
    fn a_part_of_a_record_is_seen_and_its_memory_comes_back() {
        let mut records = Records::new(1 << 20);
        let first = receive(&mut records, 7);
        let data = Data::received(&first, 10..20);
        let memory = first.as_ptr();
        drop(first);
        assert!(data == [7; 10] && data.clone().into_vec().unwrap() == [7; 10]);
        // Another record arrives while the first is in use.
        let second = receive(&mut records, 8);
        assert!(data == [7; 10] && second.iter().all(|byte| *byte == 8));
        drop(second);
        drop(data);
        for _ in 0..40 {
            let next = receive(&mut records, 9);
            assert!(next.iter().all(|byte| *byte == 9));
            assert_eq!(next.as_ptr(), memory);
        }
    }

    #[test]
    fn a_secret_record_is_wiped_and_what_came_behind_it_is_there() {
        let mut records = Records::new(1 << 20);
        // From then on there is room for both.
        drop(receive_with(&mut records, (150_000, 1), &[], false));
        let behind = [&[0x80, 0, 0, 8][..], &[5; 8]].concat();
        let record = receive_with(&mut records, (100_000, 7), &behind, true);
        let data = Data::received(&record, 0..100_000);
        drop(record);
        assert!(data == [7; 100_000]);
        assert_eq!(records.next().unwrap(), Some(&[5; 8][..]));
        drop(data);
        for _ in 0..2 {
            let mut short = || receive_with(&mut records, (50_000, 1), &[], false);
            let both = (short(), short());
            drop(both);
            let space = records.space().unwrap();
            assert!(!space.contains(&7) && !space.contains(&5));
        }
    }

    #[test]
    fn wiped_bytes_are_gone() {
        let mut records = Records::new(1 << 20);
        let record = receive(&mut records, 7);
        let mut data = Data::received(&record, 0..100_000);
        data.wipe();
        assert!(data.is_empty());
        drop(record);
        assert!(!records.space().unwrap().contains(&7));
        let mut own = Data::from(vec![7; 3]);
        own.wipe();
        assert!(own == [0; 3]);
        assert!(Data::received(&receive(&mut records, 1), 99_999..100_001).is_empty());
    }
}
