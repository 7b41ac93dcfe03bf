//! Records each call in a log that shows whether a line was removed, changed, moved or cut off.
//!
//! Workers say what they have executed (`trail`, `objects`) and send it (`records`) to a process of its own
//! (`auditor`), which knows from the controller whose worker that is. It writes a line for each call, with a hash over
//! the line before, and signs the last hash now and then (`chain`, `book`). `verify` finds out what was done to a log,
//! with the public key alone. [`crate::controller`] starts the auditor, and tells it about workers.
//!
//! No PIN, data, key or attribute value is recorded, but for labels and identifiers.

pub mod auditor;
pub mod book;
pub mod chain;
mod lines;
mod objects;
pub mod records;
pub mod trail;
pub mod verify;

use std::path::PathBuf;
use std::time::Duration;

use config_file::Place;

/// The section `audit`.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditConfig {
    /// `file`: the log. If relative, to the directory of the configuration file.
    pub file: PathBuf,
    /// Where that stands, for messages.
    pub file_place: Place,
    /// `key`: the private key, Ed25519, in PEM. If relative, to the directory of the configuration file.
    pub key: PathBuf,
    /// Where that stands, for messages.
    pub key_place: Place,
    /// `sign_lines`: lines after which the log is signed at the latest. Default 1000.
    pub sign_lines: u64,
    /// `sign_interval`: seconds after which a line is signed at the latest. Default 60.0.
    pub sign_interval: Duration,
    /// `when_full`: what happens while no line can be written.
    pub when_full: WhenFull,
}

/// What happens while no line can be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WhenFull {
    /// No call is executed. What was executed before is written later.
    Refuse,
    /// Calls are executed, and counted.
    Count,
}

/// Text that may come from a client, as a line shows it: letters and digits of any alphabet and printable ASCII as
/// they are; otherwise all of it as [`filter::log::Printable`] does.
pub fn printable(text: &[u8]) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || (' '..='~').contains(&c) && c != '\\';
    match std::str::from_utf8(text) {
        Ok(text) if text.chars().all(is_plain) => text.to_owned(),
        _ => filter::log::Printable(text).to_string(),
    }
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut digits = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing into a string does not fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

/// The bytes of hexadecimal digits.
fn unhex(digits: &str) -> Option<Vec<u8>> {
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
