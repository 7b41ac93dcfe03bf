//! Checks the settings that need no daemon: whether the log can be written, and whether a PIN can be kept.

use std::path::Path;

use bindings::locked::LockedSecret;

use super::report::Report;
use crate::InitializeError;
use crate::logging::{self, LogTo, SYSLOG};
use crate::settings::{LogSettings, RecoverySettings, Settings};

/// Checks these settings. Returns false if C_Initialize would fail in any case, whatever the daemons do.
pub(super) fn examine(settings: &Settings, report: &mut Report<'_>) -> bool {
    let is_usable = settings.log.as_ref().is_none_or(|log| can_log(log, report));
    if let Some(RecoverySettings { keep_pin }) = settings.recovery {
        match keep_pin {
            true => lock_memory(report),
            false => report.more("keep_pin", &NO_PIN),
        }
    }
    if settings.spread && settings.daemons.len() == 1 {
        report.more("spread", &"has no effect with one endpoint");
    }
    is_usable
}

const NO_PIN: &str = "not set: after a reconnect, calls that need a login return CKR_USER_NOT_LOGGED_IN until the application logs in";

/// Checks whether the library can write its log, if that goes to a file or the system logger.
fn can_log(log: &LogSettings, report: &mut Report<'_>) -> bool {
    if log.is_off() {
        return true;
    }
    match &log.to {
        LogTo::Stderr => true,
        LogTo::Syslog => {
            match logging::reach_syslog(Path::new(SYSLOG)) {
                Ok(()) => report.good("log", &format_args!("{SYSLOG} accepts messages")),
                Err(error) => report.failed(
                    "log",
                    &format_args!("{SYSLOG}: {error}; messages are lost"),
                    Some("start the system logger, or set log_to to a file"),
                ),
            }
            true
        }
        LogTo::File(path) => match logging::could_open(path) {
            Ok(true) => {
                report.good("log", &format_args!("{} can be written", path.display()));
                true
            }
            Ok(false) => {
                let text = "does not exist yet, and can be created";
                report.good("log", &format_args!("{} {text}", path.display()));
                true
            }
            Err(error) => {
                let error = InitializeError::Log(path.clone(), error);
                report.failed("log", &error, error.advice());
                false
            }
        },
    }
}

/// Checks whether memory can be locked. A process that may not lock memory keeps no PIN, but does not fail.
fn lock_memory(report: &mut Report<'_>) {
    match LockedSecret::new(&[]) {
        Ok(_) => report.good("keep_pin", &"memory for the PIN can be locked"),
        Err(error) => report.failed(
            "keep_pin",
            &format_args!(
                "memory for the PIN cannot be locked, so that a login cannot be repeated: {error}"
            ),
            Some("raise the limit on locked memory (ulimit -l, LimitMEMLOCK= of systemd)"),
        ),
    }
}
