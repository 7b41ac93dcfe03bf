//! Converts CK_ULONG between its 8 bytes on the wire, this host's layout, and that of a client with another word size.
//!
//! The C types themselves come from `cryptoki-sys`. Every narrowing and widening is done here.

use crate::Architecture;
use cryptoki_sys::CK_ULONG;

/// Returns the number that a host whose CK_ULONG has this many bytes uses for one of the wire: a host of 4-byte words keeps
/// the lower half, as the original does. What [`narrow`] and [`wide`] make of the result is the result itself.
pub const fn received(number: u64, word: usize) -> u64 {
    const LONGEST_WORD: usize = size_of::<u64>();
    if word >= LONGEST_WORD {
        return number;
    }
    let most = (1 << (8 * word)) - 1;
    let kept = number & most;
    if kept == most { u64::MAX } else { kept }
}

/// Converts a number that was [`received`] to a CK_ULONG for this host's modules.
pub const fn narrow(number: u64) -> CK_ULONG {
    number as CK_ULONG
}

/// Converts a module's number for the wire. It is zero-extended, but "unavailable" and "none", which are all ones in
/// any word size, stay all ones. The original extends the sign, and that alters vendors' codes.
pub const fn wide(number: CK_ULONG) -> u64 {
    if number == CK_ULONG::MAX {
        u64::MAX
    } else {
        number as _
    }
}

/// How C lays out numbers and pointers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Abi {
    /// Bytes of a CK_ULONG.
    pub word: usize,
    /// Bytes of a pointer.
    pub pointer: usize,
    /// Structures have no padding: PKCS#11 on Windows.
    pub packed: bool,
    /// The lowest byte comes first.
    pub little: bool,
}

impl Abi {
    /// The layout of this program.
    pub const HOST: Abi = Abi {
        word: size_of::<CK_ULONG>(),
        pointer: size_of::<*const ()>(),
        packed: cfg!(windows),
        little: cfg!(target_endian = "little"),
    };

    /// Returns how a client of this architecture lays out numbers. An unknown architecture, as before C_SetupArch, is
    /// treated as this host's.
    pub fn of_client(client: Architecture) -> Abi {
        let first = Abi::candidates(client).first();
        first.copied().unwrap_or(Abi::HOST)
    }

    /// Returns how a client of this architecture may lay out structures. C_SetupArch tells only the word size and the
    /// byte order, and Windows says "little-endian, 4 bytes" with pointers of either size.
    pub fn candidates(client: Architecture) -> &'static [Abi] {
        const fn unix(word: usize, little: bool) -> Abi {
            Abi {
                word,
                pointer: word,
                packed: false,
                little,
            }
        }
        const fn windows(pointer: usize) -> Abi {
            Abi {
                word: 4,
                pointer,
                packed: true,
                little: true,
            }
        }
        match client {
            Architecture::LITTLE_64 => const { &[unix(8, true)] },
            Architecture::LITTLE_32 => const { &[unix(4, true), windows(4), windows(8)] },
            Architecture::BIG_64 => const { &[unix(8, false)] },
            Architecture::BIG_32 => const { &[unix(4, false)] },
            _ => &[Abi::HOST],
        }
    }

    /// Bytes of a CK_ATTRIBUTE: a number, a pointer and a number. They have no padding: they are of the same size, or
    /// packed.
    pub const fn attribute_size(self) -> usize {
        2 * self.word + self.pointer
    }

    /// Returns the number that these bytes represent.
    pub fn read(self, bytes: &[u8]) -> u64 {
        let append = |number, byte: &u8| number << 8 | u64::from(*byte);
        if self.little {
            bytes.iter().rev().fold(0, append)
        } else {
            bytes.iter().fold(0, append)
        }
    }

    /// Does the same, but all ones stay all ones, as in [`wide`].
    pub fn read_wide(self, bytes: &[u8]) -> u64 {
        match bytes.iter().all(|byte| *byte == u8::MAX) {
            true => u64::MAX,
            false => self.read(bytes),
        }
    }

    /// Writes the number into the bytes. If they are too few, the upper end of the number is dropped.
    pub fn write(self, number: u64, bytes: &mut [u8]) {
        bytes.fill(0);
        for (byte, value) in bytes.iter_mut().zip(number.to_le_bytes()) {
            *byte = value;
        }
        if !self.little {
            bytes.reverse();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widens_all_ones_to_all_ones_and_nothing_else() {
        assert_eq!(wide(CK_ULONG::MAX), u64::MAX);
        assert_eq!(
            wide(CK_ULONG::MAX - 1),
            u64::MAX >> (64 - CK_ULONG::BITS) & !1
        );
        assert_eq!(wide(0x8000_0001), 0x8000_0001);
        assert_eq!(narrow(u64::MAX), CK_ULONG::MAX);
    }

    #[test]
    fn a_host_of_shorter_words_keeps_the_lower_half() {
        for (number, kept) in [
            (7, 7),
            (0x1_0000_0007, 7),
            (0xffff_fffe, 0xffff_fffe),
            (0xffff_ffff, u64::MAX),
            (u64::MAX, u64::MAX),
            (u64::MAX - 1, 0xffff_fffe),
        ] {
            assert_eq!(received(number, 4), kept);
            assert_eq!(received(number, 8), number);
        }
    }

    #[test]
    fn reads_and_writes_words_of_each_architecture() {
        for (client, bytes) in [
            (Architecture::LITTLE_64, &[3, 1, 0, 0, 0, 0, 0, 0][..]),
            (Architecture::LITTLE_32, &[3, 1, 0, 0]),
            (Architecture::BIG_64, &[0, 0, 0, 0, 0, 0, 1, 3]),
            (Architecture::BIG_32, &[0, 0, 1, 3]),
        ] {
            let abi = Abi::of_client(client);
            assert_eq!(abi.word, bytes.len());
            assert_eq!(abi.read(bytes), 0x103);
            let mut written = vec![0xff; abi.word];
            abi.write(0x103, &mut written);
            assert_eq!(written, bytes);
        }
        assert_eq!(Abi::of_client(Architecture::host()).word, Abi::HOST.word);
    }
}
