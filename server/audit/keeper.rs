//! Has the disk keep the log where it is signed, in a thread of its own.
//!
//! Files come from `writer`, which asks whether that has failed before it writes the next lines. Nobody waits for the disk but
//! this thread, and the auditor at the daemon's end.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use nix::errno::Errno;

use crate::logging::{Severity, log};

/// Waits until the disk has a file, on a file system that can tell.
pub(super) fn sync(file: &File) -> io::Result<()> {
    let is_unsupported = |error: &io::Error| {
        let known = error.raw_os_error().map(Errno::from_raw);
        matches!(
            known,
            Some(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP)
        )
    };
    match file.sync_data() {
        Err(error) if is_unsupported(&error) => Ok(()),
        synced => synced,
    }
}

/// Has the disk keep files, in a thread of its own.
#[derive(Default)]
pub(super) struct Keeper {
    /// None until the first file comes.
    thread: Option<SyncSender<File>>,
    failed: Arc<AtomicBool>,
}

impl Keeper {
    /// Has the disk keep what this file has now. Waits for nothing.
    pub(super) fn keep(&mut self, file: File) {
        if self.thread.is_none() {
            self.thread = self.start().ok();
        }
        // If one waits already, it has these lines, too.
        match &self.thread {
            Some(thread) => drop(thread.try_send(file)),
            None => self.fail(),
        }
    }

    fn start(&self) -> io::Result<SyncSender<File>> {
        let (sender, files) = sync_channel::<File>(1);
        let failed = self.failed.clone();
        let work = move || {
            for file in files {
                if let Err(error) = sync(&file) {
                    log(Severity::Alert, format_args!("cannot sync: {error}"));
                    failed.store(true, Ordering::SeqCst);
                }
            }
        };
        thread::Builder::new().stack_size(128 << 10).spawn(work)?;
        Ok(sender)
    }

    /// The file could not be had.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::SeqCst);
    }

    /// Whether it has failed since it was asked the last time.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.swap(false, Ordering::SeqCst)
    }
}
