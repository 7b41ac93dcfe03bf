//! The original's logger types: standard error, files, and syslog.
//!
//! [`Loggers`] is made out of the configuration by the controller, which writes the records of all
//! processes. A message that cannot be delivered goes to standard error: it must not be lost, and
//! logging must not stop the service.

use crate::config::{Configuration, LogFileConfig, LoggerConfig, LoggerKind};
use crate::logging::line_format::{self, LineFormat};
use crate::logging::{Record, Route, Severity};
use config_file::{Error, Place};
use jiff::Zoned;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Where the system logger listens.
const SYSLOG_SOCKET: &str = "/dev/log";

/// What a datagram may hold; the rest of a message is cut off.
const LONGEST_DATAGRAM: usize = 8192;

/// All loggers of the configuration.
pub struct Loggers {
    configuration: PathBuf,
    max_level: Severity,
    loggers: Vec<Logger>,
}

struct Logger {
    selection: Selection,
    sink: Sink,
}

/// Which records a logger or file takes.
struct Selection {
    component: String,
    subchannel: String,
    max_level: Severity,
}

enum Sink {
    Stderr(LineFormat),
    File(LineFormat, LogFile, Place),
    MultiFile(Vec<(Selection, LineFormat, LogFile)>),
    Syslog(Syslog),
}

impl Loggers {
    /// Opens the log files; those of a `multi_file` logger, and syslog, when first needed.
    pub fn open(configuration: &Configuration) -> Result<Loggers, Error> {
        let loggers = configuration.loggers.iter().map(Logger::new).collect();
        let loggers = Loggers {
            configuration: configuration.file.clone(),
            max_level: configuration.max_level,
            loggers,
        };
        loggers.reopen()?;
        Ok(loggers)
    }

    /// Hands a record to every logger that takes it.
    pub fn write(&self, record: &Record<'_>) {
        if record.severity > self.max_level {
            return;
        }
        let mut now = None;
        for logger in &self.loggers {
            if logger.selection.takes(record) {
                logger
                    .sink
                    .write(record, now.get_or_insert_with(Zoned::now));
            }
        }
    }

    /// Opens the log files again, after they were rotated. Where one cannot be opened, the old one
    /// stays in use; the others are opened all the same.
    pub fn reopen(&self) -> Result<(), Error> {
        let mut result = Ok(());
        for logger in &self.loggers {
            match &logger.sink {
                Sink::File(_, file, place) => {
                    if let Err(error) = file.reopen() {
                        let message = format!("cannot open {}: {error}", file.path.display());
                        result = result.and(Err(place.fault(message).in_file(&self.configuration)));
                    }
                }
                Sink::MultiFile(files) => files.iter().for_each(|(_, _, file)| file.close()),
                Sink::Stderr(_) | Sink::Syslog(_) => {}
            }
        }
        result
    }
}

impl Route for Loggers {
    fn record(&self, record: &Record<'_>) {
        self.write(record);
    }

    fn max_level(&self) -> Severity {
        let finest = self
            .loggers
            .iter()
            .map(|logger| logger.selection.max_level)
            .max();
        self.max_level.min(finest.unwrap_or(Severity::Emerg))
    }
}

impl Logger {
    fn new(config: &LoggerConfig) -> Logger {
        let template = config.format.clone();
        let sink = match &config.kind {
            LoggerKind::Stderr => Sink::Stderr(template),
            LoggerKind::File(path) => {
                Sink::File(template, LogFile::new(path), config.place.clone())
            }
            LoggerKind::MultiFile(files) => {
                let file = |file: &LogFileConfig| {
                    let selection = Selection {
                        component: file.component.clone(),
                        subchannel: file.subchannel.clone(),
                        max_level: file.max_level,
                    };
                    (selection, file.format.clone(), LogFile::new(&file.path))
                };
                Sink::MultiFile(files.iter().map(file).collect())
            }
            LoggerKind::Syslog {
                identifier,
                facility,
            } => Sink::Syslog(Syslog::new(Path::new(SYSLOG_SOCKET), identifier, *facility)),
        };
        let selection = Selection {
            component: config.component.clone(),
            subchannel: config.subchannel.clone(),
            max_level: config.max_level,
        };
        Logger { selection, sink }
    }
}

impl Selection {
    fn takes(&self, record: &Record<'_>) -> bool {
        record.severity <= self.max_level
            && matches(&self.component, record.component)
            && matches(&self.subchannel, record.subchannel)
    }
}

/// Whole-string match; `*` stands for anything, the rest for itself.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(start) else {
        return false;
    };
    let mut parts = rest.split('*');
    let end = parts.next_back().unwrap_or_default();
    for part in parts {
        match text.split_once(part) {
            Some((_, after)) => text = after,
            None => return false,
        }
    }
    text.ends_with(end)
}

impl Sink {
    fn write(&self, record: &Record<'_>, now: &Zoned) {
        match self {
            Sink::Stderr(template) => to_stderr(&template.render(record, now)),
            Sink::File(template, file, _) => file.write(&template.render(record, now)),
            Sink::MultiFile(files) => {
                let mut written: Vec<&Path> = Vec::new();
                for (selection, template, file) in files {
                    if selection.takes(record) && !written.contains(&file.path.as_path()) {
                        file.write(&template.render(record, now));
                        written.push(&file.path);
                    }
                }
            }
            Sink::Syslog(syslog) => syslog.write(record, now),
        }
    }
}

/// Writes to standard error. That is the last resort: there is nowhere to report a failure to.
fn to_stderr(line: &str) {
    static LOST: AtomicU64 = AtomicU64::new(0);
    static TERMINAL: OnceLock<Option<File>> = OnceLock::new();
    match TERMINAL.get_or_init(|| reopened_terminal(&io::stderr())) {
        Some(terminal) => write_patiently(&mut &*terminal, line, &LOST),
        None => write_patiently(&mut io::stderr(), line, &LOST),
    }
}

/// A terminal once more, for this process alone. It has room for a line when it has room for a byte,
/// as far as poll knows, so that only a non-blocking write does not wait.
fn reopened_terminal(of: &(impl AsFd + IsTerminal)) -> Option<File> {
    let path = format!("/proc/self/fd/{}", of.as_fd().as_raw_fd());
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut options = OpenOptions::new();
    let options = options.write(true).custom_flags(flags.bits());
    of.is_terminal().then(|| options.open(path).ok()).flatten()
}

/// How long a line waits for a reader that is behind; the next ones not at all until it went on.
const PATIENCE: Duration = Duration::from_millis(100);

/// What a pipe takes without blocking when it takes anything (PIPE_BUF).
const PIECE: usize = 4096;

/// Writes a line where a reader may have stopped reading, and where others write too, so that it
/// cannot be made non-blocking. What finds no room is dropped and counted.
fn write_patiently(to: &mut (impl AsFd + Write), line: &str, lost: &AtomicU64) {
    let mut before = lost.load(Ordering::Relaxed);
    let (note, patience) = match before {
        0 => (String::new(), PATIENCE),
        _ => (
            format!("{before} lines were lost here: nobody read them\n"),
            Duration::ZERO,
        ),
    };
    let until = Instant::now() + patience;
    for text in [&note, line] {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            let has_room = {
                let mut room = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
                let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
                poll(&mut room, left) != Ok(0)
            };
            let written = match has_room {
                true => to.write(&rest[..rest.len().min(PIECE)]),
                false => Err(io::ErrorKind::WouldBlock.into()),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    lost.store(before + 1, Ordering::Relaxed);
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            }
        }
        before = 0; // told now
    }
    lost.store(0, Ordering::Relaxed);
}

struct LogFile {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl LogFile {
    fn new(path: &Path) -> LogFile {
        LogFile {
            path: path.to_owned(),
            file: Mutex::new(None),
        }
    }

    fn open(&self) -> io::Result<File> {
        // A pipe that nobody reads is an error, not a reason to wait.
        OpenOptions::new()
            .append(true)
            .create(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&self.path)
    }

    fn reopen(&self) -> io::Result<()> {
        let file = self.open()?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }

    fn close(&self) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// One `write` for each line, so that lines of several processes do not mix.
    fn write(&self, line: &str) {
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match slot.take().map_or_else(|| self.open(), Ok) {
            Ok(mut file) => {
                let result = file.write_all(line.as_bytes());
                *slot = Some(file);
                result
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            to_stderr(&format!("{}: {error}\n{line}", self.path.display()));
        }
    }
}

/// Sends `<priority>time program: message`, as the C library does, in one datagram.
struct Syslog {
    path: PathBuf,
    program: String,
    prefix: String,
    facility: Facility,
    socket: Mutex<Option<UnixDatagram>>,
}

/// A syslog facility, by its number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facility(u8);

impl Facility {
    /// `user`.
    pub const USER: Facility = Facility(1);

    /// The facility of this name, in any case.
    pub fn from_name(name: &str) -> Option<Facility> {
        let name = name.to_ascii_lowercase();
        if let Some(local) = name.strip_prefix("local") {
            let digit = local
                .parse::<u8>()
                .ok()
                .filter(|digit| *digit < 8 && local.len() == 1)?;
            return Some(Facility(16 + digit));
        }
        let code = match name.as_str() {
            "kern" => 0,
            "user" | "default" => 1,
            "mail" => 2,
            "daemon" => 3,
            "syslog" => 5,
            "lpr" => 6,
            "news" => 7,
            "uucp" => 8,
            "cron" => 9,
            "authpriv" => 10,
            "ftp" => 11,
            _ => return None,
        };
        Some(Facility(code))
    }
}

impl Syslog {
    fn new(path: &Path, identifier: &str, facility: Facility) -> Syslog {
        let program = std::env::args_os().next().and_then(|name| {
            Path::new(&name)
                .file_name()
                .map(|name| name.to_string_lossy().into())
        });
        let prefix = if identifier.is_empty() {
            String::new()
        } else {
            format!("{identifier}: ")
        };
        Syslog {
            path: path.to_owned(),
            program: program.unwrap_or_else(|| "pkcs11proxyd".into()),
            prefix,
            facility,
            socket: Mutex::new(None),
        }
    }

    fn write(&self, record: &Record<'_>, now: &Zoned) {
        let priority = u16::from(self.facility.0) * 8 + u16::from(record.severity.code());
        let mut text = format!(
            "<{priority}>{} {}: {}{}",
            line_format::time(now, "%b %e %H:%M:%S"),
            self.program,
            line_format::escape(&self.prefix),
            line_format::escape(record.message),
        );
        let mut end = LONGEST_DATAGRAM;
        while !text.is_char_boundary(end.min(text.len())) {
            end -= 1;
        }
        text.truncate(end);
        if let Err(error) = self.send(text.as_bytes()) {
            to_stderr(&format!("{}: {error}\n{text}\n", self.path.display()));
        }
    }

    /// The system logger may have been restarted since the last message, so tries twice. It never
    /// waits: a stuck logger must not stop the controller.
    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let mut slot = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = slot.as_ref() {
            match socket.send(datagram) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => {}
            }
        }
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        let sent = socket.send(datagram).map(|_| ());
        *slot = Some(socket);
        sent
    }
}

#[cfg(test)]
mod tests;
