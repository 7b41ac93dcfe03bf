//! Makes the structures of a site's `mechanisms.toml` known to the daemon.
//!
//! There is one table for the process: the rules of every service are checked against it, and workers inherit it when
//! they are forked. It is read once, at start, so that a reload cannot change the meaning of rules in use.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;
use xdr::mechanism::parameters::{self, TableError, VendorTable};

/// Upper bound on the size of the file, in bytes.
const LONGEST_FILE: u64 = 1 << 20;

/// Why a description cannot be used.
#[derive(Debug, Error)]
pub enum MechanismsError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {cause}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The error of the operating system.
        cause: io::Error,
    },
    /// The content of the file is wrong. The message names the file and the line.
    #[error(transparent)]
    Wrong(#[from] TableError),
}

/// Reads the file, if there is one, and installs its structures. Called before any filter file is read.
pub fn install(file: Option<&Path>) -> Result<(), MechanismsError> {
    let Some(file) = file else {
        return Ok(());
    };
    let text = read(file).map_err(|cause| MechanismsError::Unreadable {
        file: file.to_path_buf(),
        cause,
    })?;
    parameters::install(VendorTable::parse(&file.to_string_lossy(), &text)?);
    Ok(())
}

fn read(file: &Path) -> io::Result<String> {
    // Checked first, because opening a FIFO would block until it has a writer.
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("expected a file"));
    }
    let mut bytes = Vec::new();
    File::open(file)?
        .take(LONGEST_FILE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(io::Error::other(format!(
            "longer than {LONGEST_FILE} bytes"
        )));
    }
    String::from_utf8(bytes).map_err(io::Error::other)
}
