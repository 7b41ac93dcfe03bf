//! Implements `pkcs11proxyctl audit verify`, which checks whether the files of an audit log were changed.
//!
//! Needs the public key and no daemon. What it looks for is in [`crate::audit::verify`].

use std::io::{self, Read};
use std::path::PathBuf;

use super::table::printable;
use super::{NOT_DONE, print};
use crate::audit::chain;
use crate::audit::verify::{STANDARD_INPUT, Verifier};

/// A log that is to be verified.
pub(super) struct Log {
    /// The public key.
    pub(super) key: PathBuf,
    /// Its files, in the order in which they were written; `-` is standard input.
    pub(super) files: Vec<PathBuf>,
    /// Whether the daemon still writes the last one.
    pub(super) is_running: bool,
}

/// Verifies a log and prints the findings. Returns the exit status: 0 if there are none.
pub(super) fn verify(log: &Log) -> Result<i32, String> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))
    };
    if log.files.is_empty() {
        return Err("audit verify: expected the files of a log".to_owned());
    }
    let key = chain::public_key(&read(&log.key)?);
    let key = key.map_err(|error| format!("{}: {error}", log.key.display()))?;
    let mut verifier = Verifier::new(key);
    for path in &log.files {
        if path.as_os_str() == "-" {
            let mut lines = Vec::new();
            let read = io::stdin().read_to_end(&mut lines);
            read.map_err(|error| format!("standard input: cannot be read: {error}"))?;
            verifier.file(STANDARD_INPUT, &lines);
            continue;
        }
        verifier.file(&path.display().to_string(), &read(path)?);
    }
    let report = verifier.finish(log.is_running);
    let mut text = String::new();
    for line in &report.findings {
        text += &format!("{}\n", printable(line));
    }
    for line in &report.notes {
        text += &format!("note: {}\n", printable(line));
    }
    let (lines, signed) = (report.lines, report.signed);
    text += &format!("{lines} lines, signed up to number {signed}\n");
    print(&text);
    match report.findings.is_empty() {
        true => Ok(0),
        false => Ok(NOT_DONE),
    }
}
