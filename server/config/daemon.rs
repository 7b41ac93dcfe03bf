//! Reads the parameters of the section `daemon` that need more than a line: `audit` and `metrics`.
//!
//! They come from `sections`, with their places; their values go to the checker. Opens nothing.

use std::net::SocketAddr;
use std::path::Path;

use config_file::{At, Fault};

use super::sections::AuditSection;
use super::values::{path, required, seconds, within};
use crate::audit::{AuditConfig, Copied, WhenFull};

/// Parses a loopback address. Whoever can reach it is not asked for a password or certificate.
pub(super) fn loopback(at: At<String>) -> Result<SocketAddr, Fault> {
    let address = at.value.parse::<SocketAddr>().ok();
    address
        .filter(|address| address.ip().is_loopback())
        .ok_or_else(|| {
            at.fault("expected an address and port of this machine, such as 127.0.0.1:9464")
        })
}

/// Checks the section `audit`. Relative paths are relative to `base`, the directory of the configuration file.
pub(super) fn audit(section: At<AuditSection>, base: &Path) -> Result<AuditConfig, Fault> {
    let At {
        value: section,
        place,
    } = section;
    let file = required(section.file, "file", &place)?;
    let key = required(section.key, "key", &place)?;
    let sign_lines = within(section.sign_lines, 1000, 1, 1_000_000)?;
    Ok(AuditConfig {
        file: path(&file, Some(base))?,
        file_place: file.place,
        key: path(&key, Some(base))?,
        key_place: key.place,
        sign_lines: u64::try_from(sign_lines).unwrap_or(1000),
        sign_interval: seconds(section.sign_interval, 60)?,
        journal: match section.journal {
            None => None,
            Some(At { value, place }) => match value.as_str() {
                "none" => None,
                "signatures" => Some((Copied::Signatures, place)),
                "all" => Some((Copied::All, place)),
                _ => return Err(place.fault("expected none, signatures or all")),
            },
        },
        when_full: match section.when_full {
            None => WhenFull::Refuse,
            Some(at) => match at.value.as_str() {
                "refuse" => WhenFull::Refuse,
                "count" => WhenFull::Count,
                _ => return Err(at.fault("expected refuse or count")),
            },
        },
    })
}
