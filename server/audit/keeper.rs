//! Syncs the log to disk after each signature, in a thread of its own.
//!
//! Files come from `writer`, which asks whether a sync has failed before it writes the next lines. Only this thread
//! waits for the disk, and the auditor when the daemon ends.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use nix::errno::Errno;

use crate::logging::{Severity, log};

/// Syncs a file's data to disk. Does nothing on a file system that cannot sync.
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

/// Syncs files to disk in a thread of its own.
#[derive(Default)]
pub(super) struct Keeper {
    /// The thread's queue; none until the first file comes.
    thread: Option<SyncSender<File>>,
    failed: Arc<AtomicBool>,
}

impl Keeper {
    /// Queues a file to be synced. Does not wait.
    pub(super) fn keep(&mut self, file: File) {
        if self.thread.is_none() {
            self.thread = self.start().ok();
        }
        // If a file is queued already, its sync covers these lines too.
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

    /// Notes that a file could not be queued.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::SeqCst);
    }

    /// Whether a sync has failed since this was last asked.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.swap(false, Ordering::SeqCst)
    }
}
