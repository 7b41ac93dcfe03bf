//! Reads files that the settings name, within a time limit: a file may be a pipe whose writer is late or never comes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use transport::Deadline;
use zeroize::Zeroizing;

/// Reads a file, or a pipe until its writer closes it. Fails if there are more than `most` bytes, and with
/// [`io::ErrorKind::TimedOut`] if it takes too long.
pub(crate) fn read(path: &Path, most: u64, deadline: Deadline) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = open(path, deadline)?;
    // Reserved at once: a buffer that moves when it grows would leave a copy of a key behind.
    let size = file.metadata()?.len().clamp(SMALL, most.max(SMALL));
    let mut bytes = Zeroizing::new(Vec::new());
    bytes.try_reserve_exact(usize::try_from(size).unwrap_or(usize::MAX))?;
    let mut file = file.take(most.saturating_add(1));
    loop {
        wait(file.get_ref(), deadline)?;
        match file.read_to_end(&mut bytes) {
            Ok(_) if bytes.len() as u64 > most => {
                let text = format!("is longer than {most} bytes");
                return Err(io::Error::other(text));
            }
            Ok(_) => return Ok(bytes),
            // The bytes that were read so far are kept. `poll` reports every file that is not a pipe as readable, even
            // one whose read returns this error.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    }
}

/// Opens a file with O_NONBLOCK. Without that flag, opening a pipe would wait for its writer. With it, opening a file
/// on which another host has a lease fails at first, so it is tried again.
fn open(path: &Path, deadline: Deadline) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).custom_flags(nix::libc::O_NONBLOCK);
    loop {
        match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                deadline.remaining()?;
                thread::sleep(PAUSE);
            }
            opened => return opened,
        }
    }
}

/// The pause before a file that is not available at once is tried again.
const PAUSE: Duration = Duration::from_millis(10);

/// A size that is enough for most certificates and keys, in bytes.
const SMALL: u64 = 16 << 10;

/// Waits until there is data to read, or the writer has closed the pipe.
fn wait(file: &File, deadline: Deadline) -> io::Result<()> {
    loop {
        let remaining = deadline.remaining()?.as_millis();
        let timeout = PollTimeout::try_from(remaining).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use nix::sys::stat::Mode;

    use super::*;

    const TIME: Duration = Duration::from_millis(200);

    /// Makes a pipe, runs `then` with its path, and removes it.
    fn with_pipe(name: &str, then: impl FnOnce(&Path)) {
        let name = format!("p11client-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        then(&path);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_pipe_without_a_writer_holds_nobody_up() {
        with_pipe("alone", |path| {
            let start = Instant::now();
            let error = read(path, 100, Deadline::after(TIME)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(start.elapsed() < 20 * TIME);
        });
    }

    #[test]
    fn a_writer_may_come_late_and_take_its_time() {
        with_pipe("late", |path| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(TIME);
                    let mut pipe = File::options().write(true).open(path).unwrap();
                    for part in ["one", "two", "three"] {
                        io::Write::write_all(&mut pipe, part.as_bytes()).unwrap();
                        thread::sleep(TIME / 4);
                    }
                });
                let read = read(path, 11, Deadline::after(100 * TIME)).unwrap();
                assert_eq!(*read, b"onetwothree");
            });
        });
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let path = std::env::temp_dir().join(format!("p11client-file-{}", std::process::id()));
        fs::write(&path, [7; 50_000]).unwrap();
        for (most, is_read) in [(10, false), (49_999, false), (50_000, true), (60_000, true)] {
            let read = read(&path, most, Deadline::after(TIME));
            assert_eq!(read.is_ok_and(|bytes| bytes.len() == 50_000), is_read);
        }
        fs::remove_file(&path).unwrap();
    }
}
