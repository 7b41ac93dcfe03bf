//! Writes lines to standard error without waiting long for its reader.
//!
//! If the reader of a pipe or terminal has stopped reading, lines are dropped and counted, and their number is written
//! later. If standard error is the journal, each line begins with its priority in angle brackets, as sd-daemon(3)
//! describes.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;

use super::record::Severity;

/// Writes to standard error. That is the last resort: there is nowhere to report a failure to.
pub(super) fn to_stderr(severity: Severity, text: &str) {
    static LOST: AtomicU64 = AtomicU64::new(0);
    static TERMINAL: OnceLock<Option<File>> = OnceLock::new();
    static IS_JOURNAL: OnceLock<bool> = OnceLock::new();
    let text = match IS_JOURNAL.get_or_init(|| is_journal(&io::stderr())) {
        true => &with_priority(severity, text),
        false => text,
    };
    match TERMINAL.get_or_init(|| reopened_terminal(&io::stderr())) {
        Some(terminal) => write_patiently(&mut &*terminal, text, &LOST),
        None => write_patiently(&mut io::stderr(), text, &LOST),
    }
}

/// Whether the service manager has connected this to the journal: `JOURNAL_STREAM` has its device and inode
/// (systemd.exec(5)). Both are compared, because a later redirection does not change the variable.
fn is_journal(of: &impl AsFd) -> bool {
    let told = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let is = |(device, inode): (u64, u64)| told == format!("{device}:{inode}");
    fstat(of).is_ok_and(|found| is((found.st_dev, found.st_ino)))
}

fn with_priority(severity: Severity, text: &str) -> String {
    let code = severity.code();
    let lines = text.lines();
    lines.map(|line| format!("<{code}>{line}\n")).collect()
}

/// Opens a terminal again, non-blocking, for this process alone. A terminal is writable for poll as soon as it has room
/// for one byte, so a blocking write of a line could wait.
fn reopened_terminal(of: &(impl AsFd + IsTerminal)) -> Option<File> {
    let path = format!("/proc/self/fd/{}", of.as_fd().as_raw_fd());
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut options = OpenOptions::new();
    let options = options.write(true).custom_flags(flags.bits());
    of.is_terminal().then(|| options.open(path).ok()).flatten()
}

/// How long a line waits for a reader that is behind. The next lines do not wait until the reader has gone on.
const PATIENCE: Duration = Duration::from_millis(100);

/// Bytes that a pipe takes without blocking if poll says that it is writable (PIPE_BUF).
const PIECE: usize = 4096;

/// Writes a line to a descriptor whose reader may have stopped reading. Other processes write to it too, so it cannot
/// be made non-blocking. A line that finds no room is dropped and counted.
fn write_patiently(to: &mut (impl AsFd + Write), line: &str, lost: &AtomicU64) {
    let mut before = lost.load(Ordering::Relaxed);
    let (note, patience) = match before {
        0 => (String::new(), PATIENCE),
        _ => (
            format!("{before} lines were dropped here because they were not read\n"),
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
                true => to.write(rest.get(..PIECE).unwrap_or(rest)),
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
        before = 0; // reported now
    }
    lost.store(0, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads what a pipe contains, without blocking.
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
        // There is room for the number of lost lines, but not for another line.
        write_patiently(&mut writer, &line, &lost);
        assert_eq!(lost.load(Ordering::Relaxed), 1);
        let told = format!("{count} lines were dropped here because they were not read\n");
        assert!(content(&reader).contains(&told));
        write_patiently(&mut writer, "next\n", &lost);
        let expected = "1 lines were dropped here because they were not read\nnext\n";
        assert_eq!(content(&reader), expected);
        drop(reader);
        write_patiently(&mut writer, "for nobody\n", &lost);
        assert_eq!(lost.load(Ordering::Relaxed), 0);
    }

    /// A terminal is writable for poll if it has room for one byte, but a blocking write waits for room for the whole
    /// line.
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
}
