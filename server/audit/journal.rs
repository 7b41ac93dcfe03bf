//! Copies lines of the log to the journal of systemd, in its native protocol, with searchable fields.
//!
//! Lines come from `writer` after they are written to the file, which stays authoritative. Lines that the journal does
//! not take are counted, and the daemon's log says how many. The auditor waits for the journal only for a moment, and
//! no call waits for it.

use std::borrow::Cow;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Deserialize;

use super::Copied;
use crate::logging::{Severity, log};

/// Where the journal listens (systemd's `docs/JOURNAL_NATIVE_PROTOCOL.md`).
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// The identifier of the audit log's lines in the journal, for `journalctl -t`.
const IDENTIFIER: &str = "pkcs11proxyd-audit";

/// How long a line waits for a journal that is behind. If that is not enough, no line is sent for [`AGAIN`].
const PATIENCE: Duration = Duration::from_millis(100);

/// How long to wait before the next try after the journal has failed to take a line.
const AGAIN: Duration = Duration::from_secs(1);

/// The connection to the journal.
pub(super) struct Journal {
    path: PathBuf,
    copied: Copied,
    socket: Option<UnixDatagram>,
    /// When to try again, if the journal did not take the last line.
    failing: Option<Instant>,
    lost: u64,
}

/// The members of a line that become fields.
#[derive(Deserialize)]
struct Members<'a> {
    seq: u64,
    #[serde(borrow)]
    event: Cow<'a, str>,
    connection: Option<u64>,
    #[serde(borrow)]
    peer: Option<Cow<'a, str>>,
    #[serde(borrow)]
    user: Option<Cow<'a, str>>,
    #[serde(borrow)]
    service: Option<Cow<'a, str>>,
    #[serde(borrow)]
    profile: Option<Cow<'a, str>>,
    #[serde(borrow)]
    function: Option<Cow<'a, str>>,
    #[serde(borrow)]
    result: Option<Cow<'a, str>>,
    refused: Option<serde::de::IgnoredAny>,
}

impl Journal {
    /// Creates the connection; it is opened for the first line.
    pub(super) fn new(path: &Path, copied: Copied) -> Journal {
        Journal {
            path: path.to_owned(),
            copied,
            socket: None,
            failing: None,
            lost: 0,
        }
    }

    /// Copies the lines that the configuration wants in the journal.
    pub(super) fn copy(&mut self, lines: &[u8]) {
        for line in lines.split(|byte| *byte == b'\n') {
            let Ok(members) = serde_json::from_slice::<Members<'_>>(line) else {
                continue;
            };
            if self.copied == Copied::Signatures && members.event == "call" {
                continue;
            }
            self.send(&entry(line, &members));
        }
    }

    fn send(&mut self, entry: &[u8]) {
        let is_early = |at: Instant| Instant::now() < at;
        if self.failing.is_some_and(is_early) {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        let sent = self.try_to_send(entry);
        let path = self.path.display();
        match sent {
            Ok(()) if self.lost > 0 => {
                let lost = self.lost;
                log(
                    Severity::Warning,
                    format_args!("{path}: {lost} lines of the audit log are not in the journal"),
                );
                (self.failing, self.lost) = (None, 0);
            }
            Ok(()) => self.failing = None,
            Err(error) => {
                if self.failing.is_none() {
                    log(
                        Severity::Err,
                        format_args!("{path}: takes no line of the audit log: {error}"),
                    );
                }
                self.lost = self.lost.saturating_add(1);
                self.failing = Some(Instant::now() + AGAIN);
            }
        }
    }

    /// Sends an entry. Connects again if the journal was restarted since the last line.
    fn try_to_send(&mut self, entry: &[u8]) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            match send(socket, entry) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                sent => return sent,
            }
        }
        self.socket = None;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        send(&socket, entry)?;
        self.socket = Some(socket);
        Ok(())
    }
}

fn send(socket: &UnixDatagram, entry: &[u8]) -> io::Result<()> {
    match socket.send(entry) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let mut room = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::ZERO);
            poll(&mut room, patience)?;
            socket.send(entry).map(drop)
        }
        sent => sent.map(drop),
    }
}

/// Formats a line as a journal entry. Neither a line nor any of its texts contains a line feed.
fn entry(line: &[u8], members: &Members<'_>) -> Vec<u8> {
    let severity = match &*members.event {
        "call" if members.refused.is_none() => Severity::Info,
        "signed" => Severity::Info,
        "start" | "continue" | "rotated" | "end" => Severity::Notice,
        _ => Severity::Warning,
    };
    let mut entry = b"MESSAGE=".to_vec();
    entry.extend_from_slice(line);
    let (seq, priority) = (members.seq.to_string(), severity.code().to_string());
    let connection = members.connection.map(|number| number.to_string());
    let text = |text: &'_ Option<Cow<'_, str>>| text.as_deref().map(str::to_owned);
    for (name, value) in [
        ("PRIORITY", Some(priority)),
        ("SYSLOG_IDENTIFIER", Some(IDENTIFIER.to_owned())),
        ("PKCS11_AUDIT_SEQ", Some(seq)),
        ("PKCS11_AUDIT_EVENT", Some(members.event.to_string())),
        ("PKCS11_CONNECTION", connection),
        ("PKCS11_PEER", text(&members.peer)),
        ("PKCS11_USER", text(&members.user)),
        ("PKCS11_SERVICE", text(&members.service)),
        ("PKCS11_PROFILE", text(&members.profile)),
        ("PKCS11_FUNCTION", text(&members.function)),
        ("PKCS11_RESULT", text(&members.result)),
    ] {
        if let Some(value) = value.filter(|value| !value.contains('\n')) {
            entry.extend_from_slice(format!("\n{name}={value}").as_bytes());
        }
    }
    entry.push(b'\n');
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_to_the_journal_as_they_are_with_fields_and_after_its_restart() {
        let name = format!("audit-journal-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listen = || {
            let _ = std::fs::remove_file(&path);
            let socket = UnixDatagram::bind(&path).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            socket
        };
        let next = |socket: &UnixDatagram| {
            let mut buffer = [0; 9000];
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        let call = r#"{"seq":7,"event":"call","peer":"127.0.0.1:5","profile":"a \"b\"","function":"C_Sign","connection":3,"result":"CKR_OK","objects":[{"label":"x\\\\"}]}"#;
        let refused = r#"{"seq":8,"event":"call","function":"C_Login","refused":{},"result":"CKR_PIN_LOCKED"}"#;
        let signed = r#"{"seq":9,"event":"signed"}"#;
        let lines = format!("{call}\n{refused}\n{signed}\n");

        let mut journal = Journal::new(&path, Copied::All);
        // Nobody listens: the lines are counted, and logged later.
        journal.copy(lines.as_bytes());
        assert_eq!(journal.lost, 3);
        journal.failing = None;
        let listener = listen();
        journal.copy(lines.as_bytes());
        assert_eq!(journal.lost, 0);
        let entry = next(&listener);
        let mut fields = entry.lines();
        assert_eq!(fields.next(), Some(format!("MESSAGE={call}").as_str()));
        let fields: Vec<&str> = fields.collect();
        assert_eq!(
            fields,
            [
                "PRIORITY=6",
                "SYSLOG_IDENTIFIER=pkcs11proxyd-audit",
                "PKCS11_AUDIT_SEQ=7",
                "PKCS11_AUDIT_EVENT=call",
                "PKCS11_CONNECTION=3",
                "PKCS11_PEER=127.0.0.1:5",
                "PKCS11_PROFILE=a \"b\"",
                "PKCS11_FUNCTION=C_Sign",
                "PKCS11_RESULT=CKR_OK",
            ]
        );
        assert!(next(&listener).contains("\nPRIORITY=4\n"));
        assert!(next(&listener).contains("\nPKCS11_AUDIT_EVENT=signed\n"));
        drop(listener);
        let listener = listen();
        journal.copied = Copied::Signatures;
        journal.copy(lines.as_bytes());
        assert!(next(&listener).contains("\"event\":\"signed\""));
        listener.set_nonblocking(true).unwrap();
        assert!(listener.recv(&mut [0; 9]).is_err());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_journal_that_reads_nothing_is_not_waited_for_again_and_again() {
        let (listener, socket) = UnixDatagram::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut journal = Journal::new(Path::new("/nonexistent"), Copied::All);
        journal.socket = Some(socket);
        let line = b"{\"seq\":1,\"event\":\"call\"}\n".repeat(20_000);
        let start = Instant::now();
        journal.copy(&line);
        assert!(start.elapsed() < 10 * PATIENCE);
        assert!(journal.lost > 10_000);
        drop(listener);
    }
}
