//! Sends records to the system logger (`/dev/log`).
//!
//! Never waits for the system logger. A record that cannot be sent goes to standard error.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Zoned;

use super::line_format;
use super::record::Record;
use super::settings::Facility;
use super::stderr::to_stderr;

/// Where the system logger listens.
pub(super) const SYSLOG_SOCKET: &str = "/dev/log";

/// Upper bound on the bytes of a datagram. A longer message is cut off.
const LONGEST_DATAGRAM: usize = 8192;

/// Sends `<priority>time program: message`, as the C library does, in one datagram.
pub(super) struct Syslog {
    path: PathBuf,
    program: String,
    prefix: String,
    facility: Facility,
    socket: Mutex<Option<UnixDatagram>>,
}

impl Syslog {
    /// Sends to the socket at `path`; `identifier` is put in front of each message.
    pub(super) fn new(path: &Path, identifier: &str, facility: Facility) -> Syslog {
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

    /// Sends a record; on failure it goes to standard error.
    pub(super) fn write(&self, record: &Record<'_>, now: &Zoned) {
        let priority = u16::from(self.facility.code()) * 8 + u16::from(record.severity.code());
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
            let text = format!("{}: {error}\n{text}\n", self.path.display());
            to_stderr(record.severity, &text);
        }
    }

    /// Sends a datagram. Connects again if that fails, because the system logger may have been restarted. Never waits:
    /// a stuck logger must not stop the controller.
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
    use super::super::record::Severity;
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

    #[test]
    fn speaks_to_the_system_logger_as_the_original_does() {
        let directory =
            std::env::temp_dir().join(format!("pkcs11proxyd-{}-syslog", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
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
}
