//! Records each call in a log that shows whether a line was removed, changed, moved or cut off.
//!
//! Workers write records of what they execute (`trail`, `objects`, `call_record`) to memory (`ring`) that they share
//! with a separate process, the auditor (`auditor`). The controller tells the auditor which client each worker serves
//! (`records`). The auditor writes a line for each call (`lines`, `writer`), with a hash over the line before. From
//! time to time it signs the last hash (`chain`, `book`). `verify` checks a log with the public key alone, and says how
//! it was changed. [`crate::controller`] starts the auditor.
//!
//! No PIN, data, key or attribute value is recorded, except for labels and identifiers.

pub mod auditor;
pub mod book;
mod call_record;
pub mod chain;
mod connection;
mod journal;
mod keeper;
mod lines;
mod objects;
pub mod records;
pub mod ring;
pub mod trail;
pub mod verify;
mod writer;

use std::path::PathBuf;
use std::time::Duration;

use config_file::Place;

/// The section `audit`.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditConfig {
    /// `file`: the log. A relative path starts at the directory of the configuration file.
    pub file: PathBuf,
    /// Where that stands, for messages.
    pub file_place: Place,
    /// `key`: the private key, Ed25519, in PEM. A relative path starts at the directory of the configuration file.
    pub key: PathBuf,
    /// Where that stands, for messages.
    pub key_place: Place,
    /// `sign_lines`: number of lines after which the log is signed at the latest. Default 1000.
    pub sign_lines: u64,
    /// `sign_interval`: seconds after which a line is signed at the latest. Default 60.0.
    pub sign_interval: Duration,
    /// `journal`: which lines are copied to the journal of systemd, and where that stands; none by default.
    pub journal: Option<(Copied, Place)>,
    /// `when_full`: what happens while no line can be written.
    pub when_full: WhenFull,
}

/// Which lines are copied to the journal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Copied {
    /// All of them.
    All,
    /// All but those of completed calls: starts, ends, signatures, and anything unusual.
    Signatures,
}

/// What happens while no line can be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WhenFull {
    /// No call is executed. The lines of calls that were executed before are written later.
    Refuse,
    /// Calls are executed. The log later says how many were not recorded.
    Count,
}

/// Returns text that may come from a client, if a line can show it as it is: letters and digits of any alphabet, and
/// printable ASCII except the backslash.
fn plain(text: &[u8]) -> Option<&str> {
    let is_ascii = |byte: &u8| (b' '..=b'~').contains(byte) && *byte != b'\\';
    let is_plain = |c: char| c.is_alphanumeric() || (' '..='~').contains(&c) && c != '\\';
    let is_shown = text.iter().all(is_ascii);
    let text = std::str::from_utf8(text).ok()?;
    (is_shown || text.chars().all(is_plain)).then_some(text)
}

/// Converts such text to the form in a line: [`plain`] text unchanged, other text as [`filter::log::Printable`] does.
pub fn printable(text: &[u8]) -> String {
    match plain(text) {
        Some(text) => text.to_owned(),
        None => filter::log::Printable(text).to_string(),
    }
}

/// Returns the bytes that [`printable`] shows like this.
pub fn unprintable(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("\\x") {
        let (plain, escape) = rest.split_at(start);
        bytes.extend_from_slice(plain.as_bytes());
        let Some(byte) = escape.get(2..4).and_then(unhex) else {
            break;
        };
        bytes.extend(byte);
        rest = escape.get(4..).unwrap_or_default();
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// Returns the hexadecimal digits of bytes, in lower case.
fn digits(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let digit = |value: u8| match value {
        0..=9 => b'0' + value,
        _ => b'a' - 10 + value,
    };
    bytes
        .iter()
        .flat_map(move |byte| [digit(byte >> 4), digit(byte & 15)])
}

/// Converts bytes to hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    digits(bytes).map(char::from).collect()
}

/// Converts hexadecimal digits to bytes. Returns `None` if they are malformed.
pub fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    if digits.len() % 2 != 0 {
        return None;
    }
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let byte = |pair: &[u8]| {
        let [high, low] = pair else { return None };
        u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()
    };
    digits.chunks_exact(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_tells_the_bytes() {
        for bytes in [
            &b"a key"[..],
            b"\\x41",
            b"\xff\n\"",
            "gr\u{fc}n".as_bytes(),
            "\u{202e}\u{9b}".as_bytes(),
            b"",
        ] {
            let shown = printable(bytes);
            assert_eq!(unprintable(&shown), bytes, "{shown}");
            assert!(!shown.contains(char::is_control));
        }
        assert_eq!(printable("gr\u{fc}n".as_bytes()), "gr\u{fc}n");
        assert_eq!(unhex("0aF"), None);
        assert_eq!(unhex("0aFf"), Some(vec![10, 255]));
        assert_eq!(unhex("+1"), None);
    }
}
