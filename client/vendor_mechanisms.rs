//! Adds the structures of a site's `mechanisms.toml` to the table of this process.
//!
//! The text comes from [`settings`](crate::settings). The daemon needs the same file.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use xdr::mechanism::parameters::{self, TableError, VendorTable};

use crate::settings::MechanismsFile;

/// The hash of the text that is installed; 0 if none is. It is atomic so that a forked child, which has its parent's
/// table, needs no lock: another thread of the parent may have held it at the fork.
static INSTALLED: AtomicU64 = AtomicU64::new(0);

/// Installs the table, unless it is installed already. The caller holds the lock of C_Initialize.
pub(crate) fn install(file: &MechanismsFile) -> Result<(), TableError> {
    let mut hasher = DefaultHasher::new();
    file.text.hash(&mut hasher);
    let number = hasher.finish().max(1);
    if INSTALLED.load(Ordering::Acquire) != number {
        let table = VendorTable::parse(&file.path.to_string_lossy(), &file.text)?;
        parameters::install(table);
        INSTALLED.store(number, Ordering::Release);
    }
    Ok(())
}
