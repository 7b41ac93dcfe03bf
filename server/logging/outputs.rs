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
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    fn record(severity: Severity, subchannel: &'static str) -> Record<'static> {
        Record {
            severity,
            component: "svc",
            subchannel,
            message: "text",
        }
    }

    /// A directory of the test's own.
    fn directory(name: &str) -> PathBuf {
        let directory =
            std::env::temp_dir().join(format!("pkcs11proxyd-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    fn selection(component: &str, subchannel: &str, max_level: Severity) -> Selection {
        Selection {
            component: component.into(),
            subchannel: subchannel.into(),
            max_level,
        }
    }

    fn template() -> LineFormat {
        LineFormat::parse("$level $message").unwrap()
    }

    fn loggers(max_level: Severity, selection: Selection, sink: Sink) -> Loggers {
        let loggers = vec![Logger { selection, sink }];
        Loggers {
            configuration: "/etc/p.conf".into(),
            max_level,
            loggers,
        }
    }

    #[test]
    fn matches_with_stars_only() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*a", "a", false),
            ("*b*d", "abcd", true),
            ("*bd*", "abcd", false),
            ("a.c", "abc", false),
            ("**", "x", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn applies_both_levels_and_the_selection() {
        let taken = selection("s*", "", Severity::Warning);
        assert!(taken.takes(&record(Severity::Warning, "")));
        assert!(!taken.takes(&record(Severity::Info, "")));
        assert!(!taken.takes(&record(Severity::Err, "filter")));
        let all = loggers(Severity::Err, taken, Sink::Stderr(template()));
        assert_eq!(Route::max_level(&all), Severity::Err);
    }

    #[test]
    fn appends_to_a_file_and_opens_it_again() {
        let directory = directory("file");
        let path = directory.join("log");
        fs::write(&path, "old\n").unwrap();
        let file = Sink::File(template(), LogFile::new(&path), Place::default());
        let loggers = loggers(Severity::Info, selection("*", "*", Severity::Debug), file);
        loggers.write(&record(Severity::Info, ""));
        loggers.write(&record(Severity::Debug, ""));
        fs::rename(&path, directory.join("rotated")).unwrap();
        loggers.write(&record(Severity::Err, ""));
        loggers.reopen().unwrap();
        loggers.write(&record(Severity::Crit, ""));
        let rotated = fs::read_to_string(directory.join("rotated")).unwrap();
        assert_eq!(rotated, "old\ninfo text\nerr text\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "crit text\n");
        fs::remove_dir_all(directory).unwrap();
    }

    /// What a pipe holds; its reader does not wait.
    fn content(mut reader: &File) -> String {
        let mut bytes = Vec::new();
        let _ = io::Read::read_to_end(&mut reader, &mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_reader_who_stops_reading_loses_lines_and_stops_nobody() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        nix::fcntl::fcntl(&reader, nix::fcntl::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let (reader, mut writer) = (File::from(reader), File::from(writer));
        let lost = AtomicU64::new(0);
        let line = format!("{}\n", "x".repeat(2 * PIECE));
        for _ in 0..1000 {
            write_patiently(&mut writer, &line, &lost);
        }
        let count = lost.load(Ordering::Relaxed);
        assert!((900..1000).contains(&count), "{count}");
        let mut start = [0; PIECE];
        io::Read::read_exact(&mut &reader, &mut start).unwrap();
        assert!(line.as_bytes().starts_with(&start));
        // Room for that many were lost, not for a line more.
        write_patiently(&mut writer, &line, &lost);
        assert_eq!(lost.load(Ordering::Relaxed), 1);
        let told = format!("{count} lines were lost here: nobody read them\n");
        assert!(content(&reader).contains(&told));
        write_patiently(&mut writer, "next\n", &lost);
        let expected = "1 lines were lost here: nobody read them\nnext\n";
        assert_eq!(content(&reader), expected);
        drop(reader);
        write_patiently(&mut writer, "for nobody\n", &lost);
        assert_eq!(lost.load(Ordering::Relaxed), 0);
    }

    /// There poll has room for a byte, and a write waits until the whole line has some.
    #[test]
    fn a_terminal_that_nobody_reads_loses_lines_and_stops_nobody() {
        let terminal = nix::pty::openpty(None, None).unwrap();
        let (reader, writer) = (File::from(terminal.master), File::from(terminal.slave));
        let mut reopened = reopened_terminal(&writer).unwrap();
        let lost = AtomicU64::new(0);
        for length in (1..1000).cycle().take(2000) {
            write_patiently(&mut reopened, &format!("{:>length$}\n", "x"), &lost);
        }
        let count = lost.load(Ordering::Relaxed);
        assert!((1000..2000).contains(&count), "{count}");
        nix::fcntl::fcntl(&reader, nix::fcntl::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        assert!(content(&reader).starts_with("x\r\n x\r\n"));
        assert!(reopened_terminal(&File::open("/dev/null").unwrap()).is_none());
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_no_log_file() {
        let directory = directory("pipe");
        let path = directory.join("log");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let file = LogFile::new(&path);
        assert!(file.reopen().is_err());
        let reader = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&path)
            .unwrap();
        file.reopen().unwrap();
        file.write("line\n");
        assert_eq!(content(&reader), "line\n");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn refuses_a_file_it_cannot_open() {
        let place = Place {
            line: 7,
            option: "netplex.controller.logging[0]".into(),
        };
        let file = Sink::File(
            template(),
            LogFile::new(Path::new("/nonexistent/log")),
            place,
        );
        let loggers = loggers(Severity::Info, selection("*", "*", Severity::Debug), file);
        let message = loggers.reopen().unwrap_err().to_string();
        let expected = "/etc/p.conf:7: netplex.controller.logging[0]: cannot open /nonexistent/log";
        assert!(message.starts_with(expected), "{message}");
    }

    #[test]
    fn writes_to_every_matching_file_once() {
        let directory = directory("multi");
        let file = |name: &str, subchannel: &str, level| {
            let selection = selection("*", subchannel, level);
            (selection, template(), LogFile::new(&directory.join(name)))
        };
        let files = Sink::MultiFile(vec![
            file("all", "*", Severity::Debug),
            file("all", "*", Severity::Err),
            file("filter", "filter", Severity::Debug),
            file("unused", "x", Severity::Debug),
        ]);
        let loggers = loggers(Severity::Debug, selection("*", "*", Severity::Debug), files);
        loggers.write(&record(Severity::Err, "filter"));
        loggers.write(&record(Severity::Info, ""));
        assert_eq!(
            fs::read_to_string(directory.join("all")).unwrap(),
            "err text\ninfo text\n"
        );
        assert_eq!(
            fs::read_to_string(directory.join("filter")).unwrap(),
            "err text\n"
        );
        assert!(!directory.join("unused").exists());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn speaks_to_the_system_logger_as_the_original_does() {
        let directory = directory("syslog");
        let path = directory.join("log");
        let receiver = UnixDatagram::bind(&path).unwrap();
        receiver
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let receive = |socket: &UnixDatagram| {
            let mut buffer = [0; 9000];
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        let now = "2026-11-02T08:07:11[UTC]".parse().unwrap();
        let mut syslog = Syslog::new(&path, "", Facility::USER);
        syslog.program = "pkcs11proxyd".into();
        syslog.write(&record(Severity::Info, ""), &now);
        assert_eq!(receive(&receiver), "<14>Nov  2 08:07:11 pkcs11proxyd: text");

        // After a restart of the system logger.
        fs::remove_file(&path).unwrap();
        let restarted = UnixDatagram::bind(&path).unwrap();
        drop(receiver);
        syslog.prefix = "id: ".into();
        syslog.facility = Facility::from_name("local7").unwrap();
        let message = "é".repeat(LONGEST_DATAGRAM);
        let long = Record {
            message: &message,
            ..record(Severity::Emerg, "")
        };
        syslog.write(&long, &now);
        let received = receive(&restarted);
        assert!(received.starts_with("<184>Nov  2 08:07:11 pkcs11proxyd: id: éé"));
        assert!(received.len() <= LONGEST_DATAGRAM);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn knows_the_facilities() {
        assert_eq!(Facility::from_name("Default"), Some(Facility::USER));
        assert_eq!(Facility::from_name("local0"), Some(Facility(16)));
        for unknown in ["", "local", "local8", "local-1", "local00", "auth"] {
            assert_eq!(Facility::from_name(unknown), None, "{unknown}");
        }
    }
}
