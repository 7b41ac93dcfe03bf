//! Logs on standard error, if `PKCS11PROXY_LOG` names a level.
//!
//! Each message is one write without a lock. A logger that locks (env_logger locks std's stderr)
//! can be locked by another thread at the moment of a fork, and its first message would hang the
//! child. No message holds a PIN, a key, an attribute's value or data.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};

use crate::settings::Environment;

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (level, process) = (record.level(), std::process::id());
        let mut line = Vec::new();
        let written = writeln!(line, "p11client[{process}] {level}: {}", record.args());
        if written.is_ok() {
            // There is nobody to tell that the message is lost.
            let _ = nix::unistd::write(std::io::stderr(), &line);
        }
    }

    fn flush(&self) {}
}

/// Sets the level, if `PKCS11PROXY_LOG` names one of `error`, `warn`, `info`, `debug` and `trace`.
pub(crate) fn set_level(environment: &Environment<'_>) {
    let level = (environment.variable)("PKCS11PROXY_LOG");
    let level = level.as_ref().and_then(|level| level.to_str());
    let Some(level) = level.and_then(|level| level.parse::<LevelFilter>().ok()) else {
        return;
    };
    // Fails where a logger is in place: our own since the last C_Initialize, or, where this crate is
    // linked into a program, the program's.
    let _ = log::set_logger(&Stderr);
    log::set_max_level(level);
}
