//! Reads the settings that are compiled into a library: endpoint, alias, transport, TLS files.
//!
//! They are one block of bytes. The library reads it like any other source of settings, and p11client-doctor finds it
//! in a library's file, so both see the same values. A block consists of a mark and, for each value, its length and its
//! bytes.

use std::hint::black_box;
use std::io;
use std::path::Path;

/// The values that are compiled into a library; `None` if a value is not set.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct BuiltIn<'a> {
    /// The endpoint.
    pub socket: Option<&'a str>,
    /// The alias, in a library that is built for one module.
    pub libname: Option<&'a str>,
    /// The transport, in a library that is built for one transport.
    pub transport: Option<&'a str>,
    pub tls: TlsFiles,
}

/// The TLS files that are compiled in: paths, or contents in PEM.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct TlsFiles {
    pub authority: Option<&'static str>,
    pub certificate: Option<&'static str>,
    pub key: Option<&'static str>,
    pub pinned: Option<&'static str>,
}

const COUNT: usize = 7;

const VALUES: [Option<&str>; COUNT] = [
    option_env!("P11CLIENT_SOCKET"),
    option_env!("P11CLIENT_LIBNAME"),
    option_env!("P11CLIENT_TRANSPORT"),
    option_env!("P11CLIENT_TLS_CA"),
    option_env!("P11CLIENT_TLS_CERT"),
    option_env!("P11CLIENT_TLS_KEY"),
    option_env!("P11CLIENT_TLS_PINNED"),
];

/// The mark. It begins with a byte that is rare in programs and does not occur in text.
const MARK: &[u8] = b"\xf5p11client: compiled-in values, version 1\n";

/// The size of the length in front of each value, in bytes. The length is little-endian; without a value it is
/// [`UNSET`].
const LENGTH_SIZE: usize = 4;
const UNSET: [u8; LENGTH_SIZE] = [0xff; LENGTH_SIZE];

/// The longest value that is read from a file, in bytes.
const LONGEST_VALUE: usize = 1 << 20;

/// The longest library in which a block is searched for, in bytes.
const LONGEST_LIBRARY: u64 = 1 << 30;

const fn block_size() -> usize {
    let mut size = MARK.len() + COUNT * LENGTH_SIZE;
    let mut values: &[Option<&str>] = &VALUES;
    while let [first, rest @ ..] = values {
        if let Some(value) = first {
            size += value.len();
        }
        values = rest;
    }
    size
}

/// Copies bytes to a position, and returns the position after them.
#[allow(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, which refuses a place outside"
)]
const fn put(block: &mut [u8], mut place: usize, mut bytes: &[u8]) -> usize {
    while let [first, rest @ ..] = bytes {
        block[place] = *first;
        place += 1;
        bytes = rest;
    }
    place
}

static BLOCK: [u8; block_size()] = {
    let mut block = [0; block_size()];
    let mut place = put(&mut block, 0, MARK);
    let mut values: &[Option<&str>] = &VALUES;
    while let [first, rest @ ..] = values {
        match first {
            None => place = put(&mut block, place, &UNSET),
            Some(value) => {
                assert!(
                    value.len() <= LONGEST_VALUE,
                    "a compiled-in value is too long"
                );
                #[allow(clippy::cast_possible_truncation, reason = "checked above")]
                let length = value.len() as u32;
                place = put(&mut block, place, &length.to_le_bytes());
                place = put(&mut block, place, value.as_bytes());
            }
        }
        values = rest;
    }
    block
};

impl BuiltIn<'static> {
    /// Returns the values that are compiled into this library.
    pub fn own() -> BuiltIn<'static> {
        // Hides the block's contents from the compiler, which would otherwise leave the block out of the file.
        let block = black_box(&BLOCK);
        block
            .strip_prefix(MARK)
            .and_then(values)
            .unwrap_or_default()
    }

    /// Returns the values that are compiled into the library in this file. They are never freed.
    pub fn of_file(path: &Path) -> io::Result<BuiltIn<'static>> {
        use io::Read;
        let file = std::fs::File::open(path)?;
        let mut bytes = Vec::new();
        file.take(LONGEST_LIBRARY).read_to_end(&mut bytes)?;
        let found = find(bytes.leak());
        found.ok_or_else(|| io::Error::other("it is no client library of this project"))
    }
}

/// Finds the first block in these bytes. The mark alone is not a block.
fn find(mut bytes: &'static [u8]) -> Option<BuiltIn<'static>> {
    let (first, _) = MARK.split_first()?;
    loop {
        let place = bytes.iter().position(|byte| byte == first)?;
        bytes = bytes.get(place..)?;
        if let Some(found) = bytes.strip_prefix(MARK).and_then(values) {
            return Some(found);
        }
        bytes = bytes.get(1..)?;
    }
}

/// Reads the values after a mark.
fn values(mut bytes: &'static [u8]) -> Option<BuiltIn<'static>> {
    let mut next = || {
        let (length, rest) = bytes.split_first_chunk::<LENGTH_SIZE>()?;
        if *length == UNSET {
            bytes = rest;
            return Some(None);
        }
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (value, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        let value = std::str::from_utf8(value).ok()?;
        (length <= LONGEST_VALUE).then_some(Some(value))
    };
    Some(BuiltIn {
        socket: next()?.filter(|socket| !socket.is_empty()),
        libname: next()?,
        transport: next()?,
        tls: TlsFiles {
            authority: next()?,
            certificate: next()?,
            key: next()?,
            pinned: next()?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_holds_what_was_set_at_build_time() {
        let own = BuiltIn::own();
        assert_eq!(own.libname, option_env!("P11CLIENT_LIBNAME"));
        assert_eq!(own.transport, option_env!("P11CLIENT_TRANSPORT"));
        assert_eq!(own.tls.pinned, option_env!("P11CLIENT_TLS_PINNED"));
    }

    fn find(bytes: &[u8]) -> Option<BuiltIn<'static>> {
        super::find(bytes.to_vec().leak())
    }

    fn block(values: &[Option<&str>]) -> Vec<u8> {
        let mut block = MARK.to_vec();
        for value in values {
            match value {
                None => block.extend(UNSET),
                Some(value) => {
                    block.extend((value.len() as u32).to_le_bytes());
                    block.extend(value.as_bytes());
                }
            }
        }
        block
    }

    #[test]
    fn a_block_is_found_behind_marks_that_are_none() {
        let wanted = block(&[
            Some("[::1]:1"),
            Some(""),
            Some("tcp"),
            None,
            Some("-----BEGIN\n"),
            None,
            None,
        ]);
        let file = [
            b"ELF".as_slice(),
            MARK,
            b"\0",
            MARK,
            b"text",
            &wanted,
            b"more",
        ]
        .concat();
        let expected = BuiltIn {
            socket: Some("[::1]:1"),
            libname: Some(""),
            transport: Some("tcp"),
            tls: TlsFiles {
                certificate: Some("-----BEGIN\n"),
                ..TlsFiles::default()
            },
        };
        assert_eq!(find(&file), Some(expected));
        // A block that is cut off anywhere is not a block.
        for length in 0..wanted.len() {
            assert_eq!(find(&wanted[..length]), None, "{length}");
        }
    }

    #[test]
    fn values_that_are_too_long_or_no_text_are_none() {
        let mut long = [MARK, &u32::MAX.wrapping_sub(1).to_le_bytes()].concat();
        long.extend([b'a'; 100]);
        assert_eq!(find(&long), None);
        let mut binary = block(&[Some("aa"), None, None, None, None, None, None]);
        binary[MARK.len() + LENGTH_SIZE] = 0xff;
        assert_eq!(find(&binary), None);
    }
}
