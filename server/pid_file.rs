//! Writes the pid file (`-pid`) and removes it when the daemon ends.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The pid file. It is removed when this is dropped, unless another process has overwritten it.
pub struct PidFile {
    path: PathBuf,
    content: String,
    /// What was in it before, and is put back when this is dropped.
    before: Option<String>,
}

impl PidFile {
    /// Writes this process's id to the file.
    pub fn write(path: PathBuf) -> Result<PidFile, String> {
        let content = format!("{}\n", std::process::id());
        let mut options = std::fs::File::options();
        let file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&path);
        match file.and_then(|mut file| file.write_all(content.as_bytes())) {
            Ok(()) => Ok(PidFile {
                path,
                content,
                before: None,
            }),
            Err(error) => {
                let message = format!("cannot write pid file {}: {error}", path.display());
                // Empty when the disk is full.
                drop(PidFile {
                    path,
                    content: String::new(),
                    before: None,
                });
                Err(message)
            }
        }
    }

    /// As [`PidFile::write`], but what was in the file is put back unless [`PidFile::keep`] is called: it is the
    /// number of a daemon that may go on.
    pub fn write_over(path: PathBuf) -> Result<PidFile, String> {
        let before = std::fs::read_to_string(&path).ok();
        let mut file = PidFile::write(path)?;
        file.before = before;
        Ok(file)
    }

    /// This process is the daemon from now on.
    pub fn keep(&mut self) {
        self.before = None;
    }

    fn is_ours(path: &Path, content: &str) -> bool {
        std::fs::read_to_string(path).is_ok_and(|found| found == content)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if PidFile::is_ours(&self.path, &self.content) {
            let _ = match &self.before {
                Some(before) => std::fs::write(&self.path, before),
                None => std::fs::remove_file(&self.path),
            };
        }
    }
}
