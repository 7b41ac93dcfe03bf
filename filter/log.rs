//! Writes the filter's log lines, with its prefix and its levels 0 to 3, and without control characters.
//!
//! Lines go to the `log` crate under the target `filter`. The daemon's logger writes that target to the subchannel of
//! `log_subchannel`.

use std::fmt::{self, Write as _};
use xdr::MechanismType;
use xdr::mechanism_names;

/// The target of every line.
pub const TARGET: &str = "filter";

/// Logs at a level from 0 to 3, if the option `debug`, here `configured`, is at least that.
pub fn debug(level: u8, configured: u8, text: fmt::Arguments<'_>) {
    if level <= configured {
        let pid = std::process::id();
        log::info!(
            target: TARGET,
            "[PKCS#11 FILTER pid {pid}] [DEBUG_LEVEL {level}/{configured}] {text}"
        );
    }
}

/// Logs an error, whatever the level.
pub fn error(text: fmt::Arguments<'_>) {
    log::error!(target: TARGET, "[PKCS#11 FILTER pid {}] ERROR: {text}", std::process::id());
}

/// Bytes chosen by a client, in the form that log lines show: printable ASCII as it is, the rest as `\xNN`.
pub struct Printable<'a>(pub &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            match byte {
                b' '..=b'~' if *byte != b'\\' => f.write_char(char::from(*byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        Ok(())
    }
}

/// Upper bound on the bytes that an [`Excerpt`] shows.
pub(crate) const LONGEST_EXCERPT: usize = 256;

/// The beginning of bytes chosen by a client, as [`Printable`]; dots say that there are more. A log line takes several
/// times as much memory as the bytes that it shows.
pub struct Excerpt<'a>(pub &'a [u8]);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get(..LONGEST_EXCERPT) {
            Some(beginning) if beginning.len() < self.0.len() => {
                write!(f, "{}...", Printable(beginning))
            }
            _ => write!(f, "{}", Printable(self.0)),
        }
    }
}

/// Returns the name of a mechanism as the original prints it: `cKM_RSA_PKCS`. For a mechanism without a name, the
/// original leaves out the number.
pub fn mechanism(mechanism: MechanismType) -> String {
    match mechanism_names::name(mechanism.0) {
        Some(name) => format!("c{}", name.trim_start_matches('C')),
        None => format!("cKM_UNKNOWN! ({:#x})", mechanism.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short() {
        let bytes = [0; LONGEST_EXCERPT + 1];
        let shown = |count| Excerpt(&bytes[..count]).to_string();
        assert_eq!(shown(LONGEST_EXCERPT), "\\x00".repeat(LONGEST_EXCERPT));
        let longer = shown(LONGEST_EXCERPT + 1);
        assert_eq!(longer, shown(LONGEST_EXCERPT) + "...");
        assert_eq!(Excerpt(b"short").to_string(), "short");
    }

    #[test]
    fn shows_control_characters_and_escapes_of_a_client_escaped() {
        let text = Printable(b"soft\nhsm \\x\x1b[0m\xe9").to_string();
        assert_eq!(text, "soft\\x0ahsm \\x5cx\\x1b[0m\\xe9");
    }

    #[test]
    fn names_mechanisms_as_the_original_does() {
        assert_eq!(mechanism(MechanismType(1)), "cKM_RSA_PKCS");
        assert_eq!(
            mechanism(MechanismType(0x8000_0001)),
            "cKM_UNKNOWN! (0x80000001)"
        );
    }
}
