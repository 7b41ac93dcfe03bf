//! Makes temporary directories that are removed when their value is dropped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A new directory, private to this test. Its path is short: Unix socket paths end at 107 bytes.
pub struct Directory(PathBuf);

impl Directory {
    /// Makes an empty directory.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("p11e2e-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Self(path),
                // Left by a test that was killed, whose process id came round again.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("cannot make {}: {error}", path.display()),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of something in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Copies a directory tree of plain files into a new one.
    pub fn copy_of(source: &Path) -> Self {
        let copy = Self::new();
        copy_tree(source, copy.path())
            .unwrap_or_else(|error| panic!("cannot copy {}: {error}", source.display()));
        copy
    }

    /// Replaces a directory in it by that of the same name in `source`.
    pub fn restore(&self, name: &str, source: &Path) {
        let target = self.join(name);
        fs::remove_dir_all(&target)
            .and_then(|()| fs::create_dir(&target))
            .and_then(|()| copy_tree(&source.join(name), &target))
            .unwrap_or_else(|error| panic!("cannot restore {}: {error}", target.display()));
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if std::env::var_os("E2E_KEEP").is_some() {
            eprintln!("kept: {}", self.0.display());
        } else if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
