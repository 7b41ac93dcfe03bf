//! Appends lines to a log file. The file is opened when it is first needed, and again after a rotation.
//!
//! A line that cannot be written goes to standard error.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::OFlag;

use super::record::Severity;
use super::stderr::to_stderr;

/// A log file, which is opened by the first line or by [`LogFile::reopen`].
pub(super) struct LogFile {
    /// Its path.
    pub(super) path: PathBuf,
    file: Mutex<Option<File>>,
}

impl LogFile {
    pub(super) fn new(path: &Path) -> LogFile {
        LogFile {
            path: path.to_owned(),
            file: Mutex::new(None),
        }
    }

    fn open(&self) -> io::Result<File> {
        // A pipe that nobody reads causes an error instead of blocking.
        OpenOptions::new()
            .append(true)
            .create(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&self.path)
    }

    /// Opens the file again. If that fails, the old one stays in use.
    pub(super) fn reopen(&self) -> io::Result<()> {
        let file = self.open()?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }

    /// Closes the file. The next line opens it again.
    pub(super) fn close(&self) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Writes a line with one `write`, so that lines of several processes do not mix.
    pub(super) fn write(&self, line: &str) {
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
            let text = format!("{}: {error}\n{line}", self.path.display());
            to_stderr(Severity::Err, &text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Read as _};

    #[test]
    fn a_pipe_that_nobody_reads_is_no_log_file() {
        let directory =
            std::env::temp_dir().join(format!("pkcs11proxyd-{}-pipe", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("log");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let file = LogFile::new(&path);
        assert!(file.reopen().is_err());
        let mut reader = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&path)
            .unwrap();
        file.reopen().unwrap();
        file.write("line\n");
        let mut content = [0; 9];
        let length = reader.read(&mut content).unwrap();
        assert_eq!(&content[..length], b"line\n");
        fs::remove_dir_all(directory).unwrap();
    }
}
