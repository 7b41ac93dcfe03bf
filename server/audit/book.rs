//! Reads and writes one file of the log: finds its last line, appends lines, and notices when it was renamed.
//!
//! Lines come from `writer`. If a write fails half-way, the file is cut back to its last whole line. A lock on the file
//! makes sure that only one process writes it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use super::chain::{Head, LONGEST_LINE, Line};

/// An open file of the log.
pub struct Book {
    file: Flock<File>,
    path: PathBuf,
    /// The length of the file in bytes, up to its last whole line.
    length: u64,
}

/// Why a file cannot be the log.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The system cannot open or read it.
    #[error("cannot be opened: {0}")]
    Io(#[from] io::Error),
    /// It is not a regular file.
    #[error("expected a regular file")]
    NoFile,
    /// Another process has locked it.
    #[error("another daemon writes it")]
    InUse,
    /// Its last line is not a line of an audit log.
    #[error("expected an audit log, or no file: its last line is something else")]
    NoLog,
}

/// A file that was opened.
pub struct Opened {
    /// The file.
    pub book: Book,
    /// Its last line.
    pub head: Head,
    /// Bytes of an unfinished line at its end, which were cut off.
    pub cut: u64,
}

impl Book {
    /// Opens and locks a file, or creates it for this user only. Cuts off an unfinished line at its end.
    pub fn open(path: &Path) -> Result<Opened, Unusable> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            // Opening a device, such as a serial line, could block.
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Err(Unusable::NoFile);
        }
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((_, Errno::EWOULDBLOCK)) => return Err(Unusable::InUse),
            Err((_, error)) => return Err(Unusable::Io(error.into())),
        };
        let (head, length) = last_line(&mut file)?;
        let cut = file.metadata()?.len().saturating_sub(length);
        if cut > 0 {
            file.set_len(length)?;
        }
        let path = path.to_owned();
        Ok(Opened {
            book: Book { file, path, length },
            head,
            cut,
        })
    }

    /// Appends lines: all of them, or nothing.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(lines);
        match written {
            Ok(()) => {
                self.length = self.length.saturating_add(lines.len() as u64);
                Ok(())
            }
            Err(error) => {
                // If this fails too, the next line is appended to a part of these, and `verify` reports it as changed.
                self.file.set_len(self.length)?;
                Err(error)
            }
        }
    }

    /// Returns the last whole lines of the file, at most this many bytes.
    pub fn end(&self, most: usize) -> io::Result<Vec<u8>> {
        let window = self.length.min(most as u64);
        let mut bytes = vec![0; usize::try_from(window).unwrap_or(0)];
        let start = self.length - window;
        self.file.read_exact_at(&mut bytes, start)?;
        if start > 0 {
            let first = bytes.iter().position(|byte| *byte == b'\n');
            bytes.drain(..first.map_or(bytes.len(), |first| first + 1));
        }
        Ok(bytes)
    }

    /// A duplicate of the file's descriptor, for syncing it to disk.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Whether the file was renamed or removed since it was opened.
    pub fn was_moved(&self) -> bool {
        let identity = |found: io::Result<std::fs::Metadata>| {
            let found = found.ok()?;
            Some((found.dev(), found.ino()))
        };
        identity(self.file.metadata()) != identity(self.path.metadata())
    }

    /// Its name.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Returns the last line that ends with a line feed, and the length of the file up to there.
fn last_line(file: &mut File) -> Result<(Head, u64), Unusable> {
    let length = file.metadata()?.len();
    // Enough for an unfinished line and the one before it.
    let window = length.min(2 * LONGEST_LINE as u64);
    file.seek(SeekFrom::Start(length - window))?;
    let mut bytes = Vec::new();
    file.take(window).read_to_end(&mut bytes)?;
    if length == 0 {
        return Ok((Head::default(), 0));
    }
    let is_feed = |byte: &u8| *byte == b'\n';
    let end = bytes.iter().rposition(is_feed).ok_or(Unusable::NoLog)?;
    let unfinished = (bytes.len() - end - 1) as u64;
    let whole = bytes.get(..end).unwrap_or_default();
    let last = whole.rsplit(is_feed).next().unwrap_or_default();
    let line = Line::read(last).map_err(|_| Unusable::NoLog)?;
    Ok((line.head, length - unfinished))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        let name = format!("audit-book-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        path
    }

    #[test]
    fn a_file_goes_on_behind_its_last_whole_line_and_has_one_writer() {
        let path = path("goes-on");
        let event = serde_json::json!({"event": "call"});
        let Opened { mut book, head, .. } = Book::open(&path).unwrap();
        assert_eq!(head, Head::default());
        let (first, head) = head.next("t", &event);
        let (second, last) = head.next("t", &event);
        book.append(&first).unwrap();
        book.append(&second).unwrap();
        assert!(matches!(Book::open(&path), Err(Unusable::InUse)));
        drop(book);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"seq\":3,").unwrap();
        let opened = Book::open(&path).unwrap();
        assert_eq!((opened.head, opened.cut), (last, 9));
        let length = std::fs::metadata(&path).unwrap().len();
        assert_eq!(length, (first.len() + second.len()) as u64);
        assert_eq!(
            opened.book.end(1 << 20).unwrap(),
            [&*first, &second].concat()
        );
        assert_eq!(opened.book.end(second.len() + 1).unwrap(), second);
        assert_eq!(opened.book.end(second.len() - 1).unwrap(), b"");
        assert!(!opened.book.was_moved());
        std::fs::remove_file(&path).unwrap();
        assert!(opened.book.was_moved());
    }

    #[test]
    fn other_files_are_left_alone() {
        let path = path("other");
        for content in ["precious", "precious\n", "{\"seq\":1}\n", "\n"] {
            std::fs::write(&path, content).unwrap();
            assert!(matches!(Book::open(&path), Err(Unusable::NoLog)));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(
            Book::open(Path::new("/dev/null")),
            Err(Unusable::NoFile)
        ));
    }
}
