//! Forks workers, hands them clients, reads their messages, and reaps them.
//!
//! `admission` decides which worker gets which client; [`crate::worker`] is what runs in a worker. Waits
//! for no worker.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::SystemTime;

use bindings::children::{self, Ended};
use filter::Rules;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::admission::WorkerId;
use super::auditing::Records;
use super::event::{Source, Watch};
use crate::channel::{self, ControllerEnd, Message};
use crate::logging::{Severity, log};
use crate::policy::ProfileRules;
use crate::proxy;
use crate::sockets::Accepted;
use crate::worker::{self, Setup};

/// Messages read from one worker before the others have their turn.
const MESSAGES_A_TURN: usize = 64;

/// Upper bound on the messages read from a worker that has ended; more than its channel can hold. A
/// process that its module left behind may go on writing.
const LAST_MESSAGES: usize = 64 * MESSAGES_A_TURN;

/// A worker process that is not removed yet.
struct Worker {
    pid: Pid,
    /// The channel for its messages, and for handing over its client.
    channel: ControllerEnd,
    /// Its service, by position.
    service: usize,
    /// Its client, for the log; empty without one.
    client: String,
    /// The client's identity by TLS; otherwise empty.
    user: String,
    /// When it got its client.
    since: Option<SystemTime>,
    /// The rules of the service, which apply unless its client's profile has its own.
    rules: Arc<Rules>,
    /// The descriptors of its records for the audit log, if there is a log.
    records: Option<Records>,
    /// The rules of the profiles.
    profiles: ProfileRules,
}

/// A worker that has a client, as administrators see it.
pub struct Serving<'a> {
    /// Its number.
    pub id: WorkerId,
    /// Its process id.
    pub pid: Pid,
    /// Its client.
    pub client: &'a str,
    /// The client's identity by TLS; otherwise empty.
    pub user: &'a str,
    /// When it got its client.
    pub since: SystemTime,
    /// The rules of the service, which apply unless its client's profile has its own.
    pub rules: &'a Rules,
    /// The descriptors of its records for the audit log, if there is a log.
    pub records: Option<&'a Records>,
    /// The rules of the profiles.
    pub profiles: &'a [Option<Arc<Rules>>],
}

/// A worker that was reaped.
pub struct Reaped {
    /// Its process id, which another process may have by now.
    pub pid: Pid,
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
        let audit = setup.audit.map(AsFd::as_fd);
        let run = |theirs| worker::run(setup, theirs);
        let pid = bindings::sys::fork_child(theirs, audit.as_slice(), run)
            .inspect_err(|_| watch.remove(Source::Worker(id), &channel))?;
        self.next += 1;
        self.by_pid.insert(pid, id);
        self.workers.insert(
            id,
            Worker {
                pid,
                channel,
                service,
                client: String::new(),
                user: String::new(),
                since: None,
                rules: setup.rules.clone(),
                records: None,
                profiles: setup.profile_rules.clone(),
            },
        );
        Ok(id)
    }

    /// The service of a worker, by position.
    pub fn service(&self, id: WorkerId) -> Option<usize> {
        self.workers.get(&id).map(|worker| worker.service)
    }

    /// Keeps the descriptors of a worker's records for the audit log.
    pub fn keep_records(&mut self, id: WorkerId, records: Records) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.records = Some(records);
        }
    }

    /// The process id of a worker, and the descriptors of its records for the audit log.
    pub fn records(&self, id: WorkerId) -> Option<(Pid, &Records)> {
        let worker = self.workers.get(&id)?;
        Some((worker.pid, worker.records.as_ref()?))
    }

    /// Hands a client to a worker. Fails if the worker is gone.
    pub fn hand_over(&mut self, id: WorkerId, client: &Accepted) -> io::Result<()> {
        let worker = self.workers.get_mut(&id);
        let worker = worker.ok_or(io::ErrorKind::NotConnected)?;
        let channel = &worker.channel;
        channel.hand_over(client.socket.as_fd(), &client.name)?;
        worker.client.clone_from(&client.name);
        worker.since = Some(SystemTime::now());
        Ok(())
    }

    /// Sets the address of a worker's client, which a PROXY header has named. Until then only the balancer was known.
    pub fn set_client(&mut self, id: WorkerId, client: SocketAddr) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.client = proxy::name(client, &worker.client);
        }
    }

    /// Sets the identity of a worker's client, which TLS has found. Only once: later a worker may send anything.
    pub fn set_user(&mut self, id: WorkerId, user: String) {
        let worker = self.workers.get_mut(&id);
        if let Some(worker) = worker.filter(|worker| worker.user.is_empty()) {
            worker.user = user;
        }
    }

    /// The workers of a service that have a client.
    pub fn serving(&self, service: usize) -> impl Iterator<Item = Serving<'_>> {
        let workers = self.workers.iter();
        let workers = workers.filter(move |(_, worker)| worker.service == service);
        workers.filter_map(|(id, worker)| worker.serving(*id))
    }

    /// A worker, if it has a client.
    pub fn serving_as(&self, id: WorkerId) -> Option<Serving<'_>> {
        self.workers.get(&id)?.serving(id)
    }

    /// Reads a batch of a worker's messages. If more may wait, its event comes again.
    pub fn receive(&self, id: WorkerId, watch: &Watch, take: impl FnMut(Message)) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        if worker.receive(MESSAGES_A_TURN, take) {
            return;
        }
        if let Err(error) = watch.again(Source::Worker(id), &worker.channel) {
            log(
                Severity::Err,
                format_args!("cannot watch worker {}: {error}", worker.pid),
            );
        }
    }

    /// Reads the last messages of a worker that was reaped, and forgets it.
    pub fn remove(
        &mut self,
        id: WorkerId,
        watch: &mut Watch,
        take: impl FnMut(Message),
    ) -> Option<Reaped> {
        let worker = self.workers.remove(&id)?;
        worker.receive(LAST_MESSAGES, take);
        watch.remove(Source::Worker(id), &worker.channel);
        Some(Reaped {
            pid: worker.pid,
            client: worker.client,
        })
    }

    /// Whether every worker was reaped.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// Sends a signal to a worker.
    pub fn signal(&self, id: WorkerId, signal: Signal) {
        if let Some(worker) = self.workers.get(&id) {
            // This fails if the worker has just ended; it is reaped next.
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
    /// Before reaping a worker, kills the processes that its module has left in its process group, because they would
    /// keep the client's socket open. After the reaping, the group's number could already be in use again. Children
    /// that are not workers are the auditor, the daemon's successor, children of whoever started the daemon, or, for
    /// process 1, orphans of other processes.
    pub fn reap(&mut self) -> Result<Option<(Child, End)>, Errno> {
        let Some(pid) = children::ended()? else {
            return Ok(None);
        };
        if self.by_pid.contains_key(&pid) {
            // Usually no process is left.
            let _ = killpg(pid, Signal::SIGKILL);
        }
        let Some(ended) = children::reap(pid)? else {
            return Ok(None);
        };
        let worker = self.by_pid.remove(&pid);
        let child = worker.map_or(Child::Other(pid), Child::Worker);
        Ok(Some((child, End(ended))))
    }
}

impl Worker {
    fn serving(&self, id: WorkerId) -> Option<Serving<'_>> {
        Some(Serving {
            id,
            pid: self.pid,
            client: &self.client,
            user: &self.user,
            since: self.since?,
            rules: &self.rules,
            records: self.records.as_ref(),
            profiles: &self.profiles,
        })
    }

    /// Reads at most this many messages. Returns whether those were all.
    fn receive(&self, most: usize, mut take: impl FnMut(Message)) -> bool {
        for _ in 0..most {
            match self.channel.next_message() {
                Ok(Some(message)) => take(message),
                // An error means that the worker is gone. Its end is handled at SIGCHLD.
                Ok(None) | Err(_) => return true,
            }
        }
        false
    }
}

/// A child that was reaped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Child {
    /// A worker.
    Worker(WorkerId),
    /// Another process, which had this process id.
    Other(Pid),
}

/// How a child ended, for the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct End(pub Ended);

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ended::Exit(status) => write!(f, "with exit code {status}"),
            Ended::Signal(number) => match Signal::try_from(number) {
                Ok(signal) => write!(f, "by signal {signal}"),
                // A real-time signal, which has no name.
                Err(_) => write!(f, "by signal {number}"),
            },
        }
    }
}
