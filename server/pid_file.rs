//! Writes the pid file (`-pid`) and removes it when the daemon ends.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The most bytes of a file that may have held a number.
const LONGEST: usize = 4096;

/// The pid file. It is removed when this is dropped, unless another process has overwritten it.
pub struct PidFile {
    path: PathBuf,
    content: String,
    /// The old content, which is put back when this is dropped.
    before: Option<String>,
}

impl PidFile {
    /// Writes this process's id to the file. One that is there never becomes empty, so that whoever reads it during an
    /// upgrade finds the number of a daemon.
    pub fn write(path: PathBuf) -> Result<PidFile, String> {
        let content = format!("{}\n", std::process::id());
        match overwrite(&path, &content) {
            Ok(()) => Ok(PidFile {
                path,
                content,
                before: None,
            }),
            Err(error) => {
                let message = format!("cannot write pid file {}: {error}", path.display());
                // Removes the file if it is empty, as when the disk is full.
                drop(PidFile {
                    path,
                    content: String::new(),
                    before: None,
                });
                Err(message)
            }
        }
    }

    /// Writes this process's id to the file as [`PidFile::write`] does. Unless [`PidFile::keep`] is called, the old
    /// content is put back at the end: it is the process id of a daemon that may continue.
    pub fn write_over(path: PathBuf) -> Result<PidFile, String> {
        let before = std::fs::read_to_string(&path).ok();
        let mut file = PidFile::write(path)?;
        file.before = before;
        Ok(file)
    }

    /// Forgets the old content, because this process is the daemon from now on.
    pub fn keep(&mut self) {
        self.before = None;
    }

    /// Whether it is a file with this content. A device is nobody's.
    fn is_ours(path: &Path, content: &str) -> bool {
        let is_file = std::fs::metadata(path).is_ok_and(|file| file.is_file());
        is_file && std::fs::read_to_string(path).is_ok_and(|found| found == content)
    }
}

/// Makes this the content of a file, which may be a device or a pipe, too. Line feeds take the place of the rest of a
/// longer content before it is cut off, so that nobody reads a second number there.
fn overwrite(path: &Path, content: &str) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(path)?;
    let before = file.metadata()?;
    if !before.is_file() {
        return file.write_all(content.as_bytes());
    }
    let size = usize::try_from(before.len()).map_or(LONGEST, |size| size.min(LONGEST));
    let mut bytes = content.as_bytes().to_vec();
    bytes.resize(bytes.len().max(size), b'\n');
    file.write_all(&bytes)?;
    file.set_len(content.len() as u64)
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if PidFile::is_ours(&self.path, &self.content) {
            let _ = match &self.before {
                Some(before) => overwrite(&self.path, before),
                None => std::fs::remove_file(&self.path),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_the_file_is_replaced_and_comes_back() {
        let path = std::env::temp_dir().join(format!("pkcs11proxyd-{}-pid", std::process::id()));
        let before = "a content that is longer than the number\n";
        std::fs::write(&path, before).unwrap();
        let file = PidFile::write_over(path.clone()).unwrap();
        let number = format!("{}\n", std::process::id());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), number);
        drop(file);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_device_is_a_pid_file_too_and_stays() {
        drop(PidFile::write("/dev/null".into()).unwrap());
        assert!(PidFile::write("/dev/full".into()).is_err());
        assert!(Path::new("/dev/null").exists() && Path::new("/dev/full").exists());
    }
}
