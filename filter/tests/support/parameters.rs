//! Builds mechanisms with C structures as their parameters, from memory that exists only in this file.

use xdr::mechanism::Memory;
use xdr::{CkRv, Mechanism, MechanismType, Use};

/// Memory with the structures and the data that they point to.
#[derive(Default)]
pub struct Arena(Vec<(usize, Vec<u8>)>);

impl Memory for Arena {
    fn read(&self, address: usize, length: usize) -> Result<Vec<u8>, CkRv> {
        let found = self.0.iter().find(|(start, _)| *start == address);
        let bytes = found.and_then(|(_, bytes)| bytes.get(..length));
        Ok(bytes.expect("an address that was given out").to_vec())
    }
}

impl Arena {
    /// Adds these bytes and returns their address.
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let address = 0x1000 * (self.0.len() + 1);
        self.0.push((address, bytes.to_vec()));
        address
    }

    /// Adds a structure of CK_ULONGs and pointers, which have the same size here, and returns its address.
    pub fn words(&mut self, words: &[usize]) -> usize {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.put(&bytes)
    }

    /// Makes a mechanism whose parameter is a structure of these words.
    pub fn mechanism(mut self, kind: u64, words: &[usize], usage: Use) -> Option<Mechanism> {
        let address = self.words(words);
        let length = size_of_val(words);
        let kind = MechanismType(kind);
        let read = Mechanism::from_memory(kind, address, length, usage, &self);
        Some(read.expect("a sound structure").0)
    }
}
