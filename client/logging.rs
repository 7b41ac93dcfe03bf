//! Writes log messages to standard error, a file, or the system logger, depending on the settings.
//!
//! `PKCS11PROXY_LOG` has the syntax of env_logger: levels, for the library or for its modules (`p11client::tls=debug`),
//! and a text that messages must contain. Each message is one write, and takes no lock that a forked child could
//! inherit (env_logger locks std's stderr). No file stays open, because the application may close every descriptor, and
//! so that a program that rotates the file need not notify the library. A message that cannot be written is lost. No
//! message contains a PIN, a key, an attribute's value or data.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use bindings::process::{PerProcess, without_signals_of_writing};
use env_filter::{Builder, Filter};
use log::{Level, Log, Metadata, Record};
use nix::unistd::{AccessFlags, eaccess};

use crate::settings::{Environment, LogSettings, Settings};

/// The socket of the system logger.
pub(crate) const SYSLOG: &str = "/dev/log";

/// The facility of the messages to it: user (RFC 5424, section 6.2.1).
const USER: u8 = 1;

/// The longest message to it, in bytes.
const LONGEST_DATAGRAM: usize = 8192;

/// Where the log goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LogTo {
    Stderr,
    Syslog,
    File(PathBuf),
}

impl LogTo {
    /// Parses `stderr`, `syslog` or an absolute path.
    pub fn parse(text: &Path) -> Option<LogTo> {
        match text.to_str() {
            Some("stderr") => Some(LogTo::Stderr),
            Some("syslog") => Some(LogTo::Syslog),
            _ => text.is_absolute().then(|| LogTo::File(text.into())),
        }
    }
}

/// The filter of messages, and the destination of the log.
pub(crate) struct Output {
    filter: Filter,
    to: LogTo,
}

/// The present output. A forked child has none until its own C_Initialize.
pub(crate) static OUTPUT: PerProcess<RwLock<Option<Output>>> = PerProcess::new();

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let Some(output) = OUTPUT.existing() else {
            return;
        };
        // Locked only while another thread changes it.
        let Ok(output) = output.try_read() else {
            return;
        };
        if let Some(output) = output.as_ref().filter(|it| it.filter.matches(record)) {
            // If the message is lost, there is nobody to tell.
            let _ = output.write(record);
        }
    }

    fn flush(&self) {}
}

impl Output {
    fn write(&self, record: &Record<'_>) -> io::Result<()> {
        let (level, process) = (record.level(), std::process::id());
        let text = escaped(&record.args().to_string());
        match &self.to {
            LogTo::Stderr => {
                let line = format!("p11client[{process}] {level}: {text}\n");
                let line = line.as_bytes();
                without_signals_of_writing(|| Ok(nix::unistd::write(io::stderr(), line)?))?;
            }
            LogTo::File(path) => {
                let now = jiff::Timestamp::now();
                let line = format!("{now:.3} p11client[{process}] {level}: {text}\n");
                let mut file = opened(path)?;
                without_signals_of_writing(|| file.write_all(line.as_bytes()))?;
            }
            LogTo::Syslog => {
                let priority = USER * 8 + severity(level);
                let message = format!("<{priority}>p11client[{process}]: {level}: {text}");
                to_syslog(Path::new(SYSLOG), &message)?;
            }
        }
        Ok(())
    }
}

/// Checks whether the system logger accepts messages. Sends none.
pub(crate) fn reach_syslog(path: &Path) -> io::Result<()> {
    UnixDatagram::unbound()?.connect(path)
}

/// Sends a message to the system logger. Never waits for it.
fn to_syslog(path: &Path, message: &str) -> io::Result<()> {
    let most = message.len().min(LONGEST_DATAGRAM);
    let end = (0..=most).rfind(|place| message.is_char_boundary(*place));
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    let sent = message.get(..end.unwrap_or(0)).unwrap_or_default();
    socket.send_to(sent.as_bytes(), path).map(|_| ())
}

/// Returns the severity that the system logger has for a level (RFC 5424, section 6.2.1).
fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Escapes control characters, so that the text stays on one line whatever a daemon or a setting put into it.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => escaped.extend(character.escape_default()),
            false => escaped.push(character),
        }
    }
    escaped
}

/// Opens a log file for appending. Does not wait for the reader of a pipe.
fn opened(path: &Path) -> io::Result<File> {
    let file = to_append().create(true).mode(0o600).open(path)?;
    // What the application prints must not end up in the log: std gives a copy of a descriptor a number of at least 3.
    match file.as_raw_fd() {
        0..=2 => file.try_clone(),
        _ => Ok(file),
    }
}

fn to_append() -> OpenOptions {
    let mut options = File::options();
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    options.append(true).custom_flags(flags);
    options
}

/// Returns whether a log file exists and can be opened for appending; an error if it cannot. Does not create it.
pub(crate) fn could_open(path: &Path) -> io::Result<bool> {
    match to_append().open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or(path);
            eaccess(directory, AccessFlags::W_OK | AccessFlags::X_OK)?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Parses a filter in env_logger's syntax; `None` if it is invalid, or names something that is not a module of this
/// library.
pub(crate) fn parsed(text: &str) -> Option<Filter> {
    const MODULES: [&str; 4] = ["p11client", "transport", "bindings", "xdr"];
    let directives = text.split('/').next().unwrap_or_default().split(',');
    let is_known = |directive: &str| {
        let name = directive.split('=').next().unwrap_or_default().trim();
        let first = name.split("::").next().unwrap_or_default();
        name.is_empty() || MODULES.contains(&first) || is_level(name) && !directive.contains('=')
    };
    if !directives.into_iter().all(is_known) {
        return None;
    }
    let mut builder = Builder::new();
    builder.try_parse(text).ok()?;
    Some(builder.build())
}

fn is_level(name: &str) -> bool {
    name.parse::<log::LevelFilter>().is_ok()
}

/// Begins to log as the variables say, before the settings are read. If the variables are invalid, only errors are
/// logged, and the first of them is about that.
pub(crate) fn begin(environment: &Environment<'_>) {
    if let Some(log) = LogSettings::of_variables(environment) {
        // If the file cannot be opened, that is reported when the settings are read.
        let _ = follow_log(&log);
    }
}

/// Begins to log as the settings file says, whose settings are invalid, so that this can be told.
pub(crate) fn begin_with_invalid_settings(environment: &Environment<'_>) {
    if let Some(log) = LogSettings::of_invalid_settings(environment) {
        // If the file cannot be opened, the messages go to standard error.
        let _ = follow_log(&log);
    }
}

/// Logs as the settings say. If the log file cannot be opened, returns an error, and logs to standard error.
pub(crate) fn follow(settings: &Settings) -> Result<(), (PathBuf, io::Error)> {
    settings.log.as_ref().map_or(Ok(()), follow_log)
}

fn follow_log(log: &LogSettings) -> Result<(), (PathBuf, io::Error)> {
    let Some(filter) = parsed(&log.filter) else {
        return Ok(()); // the settings were refused because of it
    };
    let level = filter.filter();
    let (to, checked) = match &log.to {
        LogTo::File(path) if level != log::LevelFilter::Off => match opened(path) {
            Ok(_) => (log.to.clone(), Ok(())),
            Err(error) => (LogTo::Stderr, Err((path.clone(), error))),
        },
        to => (to.clone(), Ok(())),
    };
    let output = OUTPUT.get(|| RwLock::new(None), |_| {});
    // Locked only by a thread that logs or changes it.
    if let Ok(mut output) = output.write() {
        *output = Some(Output { filter, to });
    }
    // Fails if a logger is already set: our own from an earlier C_Initialize or, if this crate is linked into a
    // program, the program's.
    let _ = log::set_logger(&Logger);
    log::set_max_level(level);
    checked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_have_env_loggers_syntax() {
        let level = |text| parsed(text).map(|filter| filter.filter().to_string());
        for (text, expected) in [
            ("warn", "WARN"),
            ("Debug", "DEBUG"),
            ("off", "OFF"),
            ("error,p11client::tls=trace", "TRACE"),
            ("p11client=info", "INFO"),
            ("info/connected", "INFO"),
        ] {
            assert_eq!(level(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "loud",
            "p11client=loud",
            "warn,loud",
            "other=debug",
            "warn=info",
        ] {
            assert_eq!(level(text), None, "{text}");
        }
    }

    #[test]
    fn a_message_stays_one_line() {
        assert_eq!(escaped("a\nb\u{1b}[m\u{85}é"), "a\\nb\\u{1b}[m\\u{85}é");
    }

    #[test]
    fn the_system_logger_gets_what_fits() {
        let path = std::env::temp_dir().join(format!("p11client-log-{}", std::process::id()));
        let logger = UnixDatagram::bind(&path).unwrap();
        let receive = || {
            let mut buffer = [0; 9000];
            let count = logger.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..count].to_vec()).unwrap()
        };
        to_syslog(&path, "<11>p11client[7]: ERROR: text").unwrap();
        assert_eq!(receive(), "<11>p11client[7]: ERROR: text");
        to_syslog(&path, &format!("-{}", "é".repeat(LONGEST_DATAGRAM))).unwrap();
        assert_eq!(receive().len(), LONGEST_DATAGRAM - 1);
        std::fs::remove_file(&path).unwrap();
        assert!(to_syslog(&path, "text").is_err());
        let severities = [Level::Error, Level::Warn, Level::Info, Level::Debug].map(severity);
        assert_eq!(severities, [3, 4, 6, 7]);
    }
}
