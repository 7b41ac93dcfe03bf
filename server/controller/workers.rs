//! Forks workers, holds their channels, and reaps them.

use std::collections::HashMap;
use std::fmt;
use std::io;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::admission::WorkerId;
use super::event::{Source, Watch};
use crate::channel::{self, ControllerEnd};
use crate::worker::{self, Setup};

/// A worker process that is not reaped yet.
pub struct Worker {
    /// Its process id.
    pub pid: Pid,
    /// What it says, and where its client is handed over.
    pub channel: ControllerEnd,
    /// Its service, by position.
    pub service: usize,
    /// Its client, for the log; empty without one.
    pub client: String,
}

/// The workers of all services.
#[derive(Default)]
pub struct Workers {
    workers: HashMap<WorkerId, Worker>,
    by_pid: HashMap<Pid, WorkerId>,
    next: usize,
}

impl Workers {
    /// Forks a worker and watches its channel. In the child this never returns.
    pub fn fork(
        &mut self,
        watch: &mut Watch,
        service: usize,
        setup: &Setup<'_>,
    ) -> io::Result<WorkerId> {
        let id = WorkerId(self.next);
        let (channel, theirs) = channel::pair()?;
        watch.add(Source::Worker(id), &channel)?;
        let pid = bindings::sys::fork_child(theirs, |theirs| worker::run(setup, theirs))
            .inspect_err(|_| watch.remove(Source::Worker(id), &channel))?;
        self.next += 1;
        self.by_pid.insert(pid, id);
        let client = String::new();
        self.workers.insert(
            id,
            Worker {
                pid,
                channel,
                service,
                client,
            },
        );
        Ok(id)
    }

    /// The worker, unless it was reaped.
    pub fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.workers.get_mut(&id)
    }

    /// Whether every worker was reaped.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// Forgets a worker that was reaped.
    pub fn remove(&mut self, id: WorkerId) -> Option<Worker> {
        self.workers.remove(&id)
    }

    /// Sends a signal to a worker.
    pub fn signal(&self, id: WorkerId, signal: Signal) {
        if let Some(worker) = self.workers.get(&id) {
            // One that ended just now is reaped next.
            let _ = kill(worker.pid, signal);
        }
    }

    /// Sends a signal to every worker.
    pub fn signal_all(&self, signal: Signal) {
        for id in self.workers.keys() {
            self.signal(*id, signal);
        }
    }

    /// Reaps a child that ended, if there is one. Its worker stays until [`Workers::remove`], so that
    /// its last messages can be read.
    ///
    /// Processes that the worker's module left in its process group are killed, since they would keep
    /// the client's socket open. This comes before the reaping: until then the group's number is not
    /// used again. Children that are not workers belong to whoever started the daemon, or, for
    /// process 1, are orphans of other processes. They are reaped and passed over.
    pub fn reap(&mut self) -> Result<Option<(WorkerId, End)>, Errno> {
        let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        loop {
            let pid = match waitid(Id::All, ended | WaitPidFlag::WNOWAIT) {
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => pid,
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(None),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => return Err(error),
            };
            if self.by_pid.contains_key(&pid) {
                // Mostly nobody is left.
                let _ = killpg(pid, Signal::SIGKILL);
            }
            let end = match waitid(Id::Pid(pid), ended) {
                Ok(WaitStatus::Exited(_, status)) => End::Exit(status),
                Ok(WaitStatus::Signaled(_, signal, _)) => End::Signal(signal),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => return Err(error),
            };
            if let Some(id) = self.by_pid.remove(&pid) {
                return Ok(Some((id, end)));
            }
        }
    }
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// By exiting, with this status.
    Exit(i32),
    /// By this signal.
    Signal(Signal),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exit(status) => write!(f, "with exit code {status}"),
            End::Signal(signal) => write!(f, "by signal {signal}"),
        }
    }
}
