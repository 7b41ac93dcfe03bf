//! Notices that filter files were edited, so that new clients get the new rules without a signal.
//!
//! The kernel reports changes in the files' directories (inotify). A file counts as edited when its directory has been
//! quiet for a moment and its inode, size or times differ from the file that was loaded last. So a file is not loaded
//! while it is being written. Changes that another machine makes on a network file system are not reported; SIGHUP
//! loads those.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::policy::FileVersion;

/// How long the directories have to be quiet before edited files are loaded.
const QUIET: Duration = Duration::from_millis(100);

/// The files that are watched.
pub struct Edits {
    inotify: Inotify,
    files: Vec<Watched>,
    /// The time of the last reported change, if it was not looked at yet.
    noticed_at: Option<Instant>,
}

struct Watched {
    service: usize,
    path: PathBuf,
    loaded: Option<FileVersion>,
}

impl Edits {
    /// Watches these files. Each comes with the position of its service and the version that was loaded, since when it
    /// may have been edited.
    pub fn watch(
        files: impl IntoIterator<Item = (usize, (PathBuf, Option<FileVersion>))>,
    ) -> io::Result<Edits> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let files = files.into_iter();
        let edits = Edits {
            inotify,
            files: files
                .map(|(service, (path, loaded))| Watched {
                    service,
                    path,
                    loaded,
                })
                .collect(),
            noticed_at: Some(Instant::now()),
        };
        edits.watch_directories();
        Ok(edits)
    }

    /// Notes that every file was loaded just now.
    pub fn loaded_all(&mut self) {
        self.files.iter_mut().for_each(|file| {
            file.is_edited();
        });
        self.watch_directories();
    }

    /// Reads the kernel's reports.
    pub fn take_reports(&mut self, now: Instant) {
        loop {
            match self.inotify.read_events() {
                Ok(_) => self.noticed_at = Some(now),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// How long the controller may sleep before [`Edits::edited`] has to be asked.
    pub fn next_wake(&self, now: Instant) -> Option<Duration> {
        let quiet = now.saturating_duration_since(self.noticed_at?);
        Some(QUIET.saturating_sub(quiet))
    }

    /// Returns the services whose files were edited and have to be loaded now. Reports each edit once.
    pub fn edited(&mut self, now: Instant) -> Vec<usize> {
        if self.next_wake(now).is_none_or(|left| !left.is_zero()) {
            return Vec::new();
        }
        self.noticed_at = None;
        self.watch_directories();
        let mut services = Vec::new();
        for file in &mut self.files {
            if file.is_edited() {
                services.push(file.service);
            }
        }
        services
    }

    /// Watches the directories of all files. A path may be a symbolic link: its own directory is watched, and that of
    /// the target. Both may have changed with an edit. Watching a directory again has no effect.
    fn watch_directories(&self) {
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        for file in &self.files {
            let target = file.path.canonicalize().ok();
            for path in [Some(file.path.as_path()), target.as_deref()] {
                let Some(directory) = path.and_then(Path::parent) else {
                    continue;
                };
                if let Err(error) = self.inotify.add_watch(directory, changes) {
                    let directory = directory.display();
                    log::warn!("edits in {directory} are not noticed without SIGHUP: {error}");
                }
            }
        }
    }
}

impl Watched {
    /// Returns whether the file differs from the version that was loaded. Its present version counts as loaded from now
    /// on.
    fn is_edited(&mut self) -> bool {
        let found = FileVersion::of(&self.path);
        std::mem::replace(&mut self.loaded, found) != found
    }
}

impl AsFd for Edits {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// Returns what is reported about the only file after a step.
    fn told(edits: &mut Edits, step: impl FnOnce()) -> Vec<usize> {
        step();
        let now = Instant::now();
        edits.take_reports(now);
        assert_eq!(edits.edited(now), [0; 0], "before it is quiet");
        let told = edits.edited(now + QUIET);
        assert_eq!(edits.edited(now + QUIET), [0; 0], "only once");
        told
    }

    #[test]
    fn every_way_to_edit_a_file_is_noticed_and_nothing_else() {
        let directory =
            std::env::temp_dir().join(format!("pkcs11proxyd-{}-edits", std::process::id()));
        let _none = fs::remove_dir_all(&directory);
        for name in ["", "first", "second", "away"] {
            fs::create_dir_all(directory.join(name)).unwrap();
        }
        let at = |name: &str| directory.join(name);
        fs::write(at("file"), "a").unwrap();
        let version = FileVersion::of(&at("file"));
        let mut edits = Edits::watch([(0, (at("file"), version))]).unwrap();
        let edits = &mut edits;
        assert_eq!(told(edits, || ()), [0; 0]);
        assert_eq!(edits.next_wake(Instant::now()), None);
        assert_eq!(told(edits, || fs::write(at("file"), "b").unwrap()), [0]);
        assert_eq!(told(edits, || fs::write(at("other"), "c").unwrap()), [0; 0]);
        let rename = |from: &str, to: &str| fs::rename(at(from), at(to)).unwrap();
        assert_eq!(told(edits, || rename("other", "file")), [0]);
        assert_eq!(told(edits, || fs::remove_file(at("file")).unwrap()), [0]);
        fs::write(at("first/real"), "d").unwrap();
        let link = || symlink("first/real", at("file")).unwrap();
        assert_eq!(told(edits, link), [0]);
        let real = || fs::write(at("first/real"), "e").unwrap();
        assert_eq!(told(edits, real), [0]);
        // As Kubernetes replaces a volume: a link in the middle of the path changes.
        fs::write(at("second/real"), "f").unwrap();
        symlink("first", at("data")).unwrap();
        let through = || {
            symlink("data/real", at("new")).unwrap();
            rename("new", "file");
        };
        assert_eq!(told(edits, through), [0; 0], "the same file");
        let swap = || {
            symlink("second", at("new")).unwrap();
            rename("new", "data");
        };
        assert_eq!(told(edits, swap), [0]);
        assert_eq!(
            told(edits, || fs::write(at("second/real"), "g").unwrap()),
            [0]
        );
        // The file was edited at the start, between loading and watching.
        let mut late = Edits::watch([(0, (at("file"), version))]).unwrap();
        assert_eq!(told(&mut late, || ()), [0]);
        fs::remove_dir_all(&directory).unwrap();
    }
}
