//! Logs on standard error, if `PKCS11PROXY_LOG` or the settings file names a level.
//!
//! Each message is one write without a lock. A logger that locks (env_logger locks std's stderr)
//! can be locked by another thread at the moment of a fork, and its first message would hang the
//! child. No message holds a PIN, a key, an attribute's value or data.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};

use crate::settings::{Environment, LOG, Settings};

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

/// Sets the level that `PKCS11PROXY_LOG` names, before the settings are read. Where it cannot be understood, errors are
/// logged, of which that is the first.
pub(crate) fn set_level(environment: &Environment<'_>) {
    let level = (environment.variable)(LOG).filter(|level| !level.is_empty());
    if let Some(level) = level {
        let level = level.to_str().and_then(|level| level.parse().ok());
        set(level.unwrap_or(LevelFilter::Error));
    }
}

/// Sets the level that the settings name.
pub(crate) fn follow(settings: &Settings) {
    if let Some(level) = settings.log {
        set(level);
    }
}

fn set(level: LevelFilter) {
    // Fails where a logger is in place: our own since the last C_Initialize, or, where this crate is
    // linked into a program, the program's.
    let _ = log::set_logger(&Stderr);
    log::set_max_level(level);
}
