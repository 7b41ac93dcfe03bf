//! Holds the bytes of a result: in memory of their own, or where they were received.
//!
//! A long result is read from its record without a copy: [`Data`] then shares the record ([`Taken`]), whose memory goes
//! back to the connection when the last of its users is dropped.

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

    /// The bytes of `record` at these positions; none if there are no such.
    pub(crate) fn received(record: &Arc<Taken>, place: Range<usize>) -> Data {
        Data(Bytes::Received(Arc::clone(record), place))
    }

    /// Returns the bytes as a vector; copies them if they are part of a record.
    pub fn into_vec(self) -> Vec<u8> {
        match self.0 {
            Bytes::Own(bytes) => bytes,
            received @ Bytes::Received(..) => Data(received).to_vec(),
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
        let mut stream = (100_000_u32 | 1 << 31).to_be_bytes().to_vec();
        stream.resize(4 + 100_000, byte);
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let space = records.space().unwrap();
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            records.received(count);
            rest = &rest[count..];
            if records.advance().unwrap() {
                return Arc::new(records.lend(false).unwrap());
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
        assert!(data == [7; 10] && data.clone().into_vec() == [7; 10]);
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
