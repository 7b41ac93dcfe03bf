//! Writes the pid file (`-pid`) and removes it when the daemon ends.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The pid file. It is removed when this is dropped, unless another process has overwritten it.
pub struct PidFile {
    path: PathBuf,
    content: String,
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
            Ok(()) => Ok(PidFile { path, content }),
            Err(error) => {
                let message = format!("cannot write pid file {}: {error}", path.display());
                // Empty when the disk is full.
                drop(PidFile {
                    path,
                    content: String::new(),
                });
                Err(message)
            }
        }
    }

    fn is_ours(path: &Path, content: &str) -> bool {
        std::fs::read_to_string(path).is_ok_and(|found| found == content)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if PidFile::is_ours(&self.path, &self.content) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
