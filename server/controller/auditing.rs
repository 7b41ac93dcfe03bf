//! Starts the auditor, tells it which client each worker serves, and starts it again if it dies.
//!
//! [`crate::audit`] describes what the auditor does. The controller creates a socket and memory for each worker's
//! records. It keeps the descriptors until the auditor says that all records of that worker are written, so that the
//! next auditor could read them. The controller does not have the key, and reads no record. It waits for the auditor
//! only when the daemon ends.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use filter::Rules;
use jiff::Timestamp;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::event::{Source, Watch};
use super::workers::End;
use crate::audit::AuditConfig;
use crate::audit::auditor::{self, Inheritance};
use crate::audit::records::{self, Flags, Given, RecordSender, Told};
use crate::audit::ring;
use crate::channel::{self, ControllerEnd, Message};
use crate::logging::{Loggers, Route, Severity, log};

/// How long to wait before sending a message again that the auditor had no room for.
const SOON: Duration = Duration::from_millis(20);

/// The shortest time between the starts of two auditors, if the first has died.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the auditor may take to write the rest when the daemon ends.
const GRACE: Duration = Duration::from_secs(5);

/// Upper bound on the calls of a worker that are in flight at a time: `max_parallel_calls` is 256 at the most, 64 of
/// C_WaitForSlotEvent may wait, and one is being read.
const MOST_IN_FLIGHT: usize = 256 + 64 + 1;

/// Upper bound on the ended workers whose records are not all written. At the bound no more clients are accepted,
/// because each of these workers takes two descriptors.
const MOST_DEPARTED: usize = 256;

/// The descriptors of a worker's records: the auditor's end of the socket, and the memory.
pub struct Records {
    socket: OwnedFd,
    memory: OwnedFd,
}

impl Records {
    /// Duplicates both descriptors.
    pub fn try_clone(&self) -> io::Result<Records> {
        Ok(Records {
            socket: self.socket.try_clone()?,
            memory: self.memory.try_clone()?,
        })
    }
}

/// A worker that was reaped, and whose records may not all be written.
struct Departed {
    given: Given,
    records: Records,
    end: String,
}

/// What the auditor needs of the configuration.
pub struct Configured {
    /// The section `audit`.
    pub config: AuditConfig,
    /// The configuration file.
    pub conf: PathBuf,
    /// The services, with their rules at the daemon's start.
    pub services: Vec<(String, Arc<Rules>)>,
}

/// The state of the auditor, and the messages for it.
pub struct Auditing {
    configured: Configured,
    flags: Flags,
    running: Option<Running>,
    /// Messages that the auditor has no room for yet.
    waiting: VecDeque<(Vec<u8>, Option<Records>)>,
    /// Workers that have ended, by the numbers of their connections.
    departed: HashMap<usize, Departed>,
    /// When this daemon was started.
    daemon_started: Timestamp,
    /// How many auditors were started.
    count: u32,
    /// Whether another daemon writes the file of the log.
    is_aside: bool,
    started: Instant,
    /// When to start it, if it does not run.
    start_at: Option<Instant>,
}

struct Running {
    process: Pid,
    channel: ControllerEnd,
}

impl Auditing {
    /// Starts the auditor.
    pub fn start(configured: Configured, watch: &mut Watch) -> io::Result<Auditing> {
        let flags = Flags::new()?;
        // The audit log takes two more descriptors for each worker here, and one in the auditor.
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        let mut auditing = Auditing {
            configured,
            flags,
            running: None,
            waiting: VecDeque::new(),
            departed: HashMap::new(),
            daemon_started: Timestamp::now(),
            count: 0,
            is_aside: false,
            started: Instant::now(),
            start_at: None,
        };
        auditing.fork(watch, Vec::new())?;
        Ok(auditing)
    }

    /// Creates the socket and the memory for a worker's records. Returns the auditor's side, then the worker's.
    pub fn connect(&self) -> io::Result<(Records, RecordSender)> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (socket, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        // With credentials, an empty message differs from end of file.
        setsockopt(&socket, sockopt::PassCred, &true)?;
        let (ring, memory) = ring::create(MOST_IN_FLIGHT)?;
        let when_full = self.configured.config.when_full;
        let sender = RecordSender::new(theirs, ring, self.flags, when_full);
        Ok((Records { socket, memory }, sender))
    }

    fn fork(&mut self, watch: &mut Watch, serving: Vec<(Given, Records)>) -> io::Result<()> {
        let (channel, theirs) = channel::pair()?;
        watch.add(Source::Auditor, &channel)?;
        let Configured {
            config,
            conf,
            services,
        } = &self.configured;
        let services = services.iter();
        let inheritance = Inheritance {
            config,
            flags: self.flags,
            conf,
            services: services
                .map(|(name, rules)| (name.as_str(), rules.clone()))
                .collect(),
            controller: std::process::id(),
            started: format!("{:.6}", self.daemon_started),
            auditors_before: self.count,
            is_aside: self.is_aside,
        };
        let run = |theirs| auditor::run(&inheritance, theirs);
        let process = bindings::sys::fork_child(theirs, &[], run)
            .inspect_err(|_| watch.remove(Source::Auditor, &channel))?;
        self.running = Some(Running { process, channel });
        self.started = Instant::now();
        self.start_at = None;
        self.waiting.clear();
        self.count += 1;
        for (given, records) in serving {
            self.tell_of(given, records);
        }
        // If no descriptors are left for them, records are kept for the next auditor.
        let departed = self.departed.values().filter_map(|departed| {
            let Departed { given, end, .. } = departed;
            let records = departed.records.try_clone().ok()?;
            Some((given.clone(), records, end.clone()))
        });
        for (given, records, end) in departed.collect::<Vec<_>>() {
            let connection = given.connection;
            self.tell_of(given, records);
            self.tell(&Told::Left { connection, end });
        }
        self.tell(&Told::Ready);
        self.flags.set_running(true);
        Ok(())
    }

    /// Whether the auditor has room to hear of another client.
    pub fn has_room(&self) -> bool {
        let Some(running) = &self.running else {
            return false;
        };
        let mut channel = [PollFd::new(running.channel.as_fd(), PollFlags::POLLOUT)];
        let is_writable = poll(&mut channel, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        self.waiting.is_empty() && is_writable && self.departed.len() < MOST_DEPARTED
    }

    /// Tells the auditor something, as soon as it has room.
    pub fn tell(&mut self, told: &Told) {
        self.is_aside |= matches!(told, Told::MoveAside);
        self.waiting.push_back((records::message(told), None));
        self.flush();
    }

    /// Tells the auditor of a worker that is about to get a client, and passes the descriptors of its records.
    pub fn tell_of(&mut self, given: Given, records: Records) {
        let message = records::message(&Told::Given(given));
        self.waiting.push_back((message, Some(records)));
        self.flush();
    }

    /// Tells the auditor that a worker was reaped, and how it ended. Its records are kept until they are written.
    pub fn left(&mut self, given: Given, records: Records, end: String) {
        let connection = given.connection;
        self.tell(&Told::Left {
            connection,
            end: end.clone(),
        });
        let departed = Departed {
            given,
            records,
            end,
        };
        self.departed.insert(connection, departed);
    }

    fn flush(&mut self) {
        let Some(running) = &self.running else { return };
        while let Some((message, records)) = self.waiting.front() {
            let records = records.as_ref();
            let descriptors =
                records.map(|records| [records.socket.as_fd(), records.memory.as_fd()]);
            let told = running
                .channel
                .tell(message, descriptors.as_ref().map_or(&[], |both| &both[..]));
            match told.map_err(|error| error.raw_os_error().map(Errno::from_raw)) {
                // ETOOMANYREFS: the auditor has not yet received the descriptors of earlier messages.
                Err(Some(Errno::EAGAIN | Errno::ETOOMANYREFS)) => return,
                // Another error means that the auditor is gone. Its end is handled at SIGCHLD.
                _ => drop(self.waiting.pop_front()),
            }
        }
    }

    /// How long the controller may sleep before [`Auditing::proceed`] has to be called.
    pub fn next_wake(&self, now: Instant) -> Option<Duration> {
        let start = self.start_at.map(|at| at.saturating_duration_since(now));
        let waiting = !self.waiting.is_empty() && self.running.is_some();
        start.or(waiting.then_some(SOON))
    }

    /// Sends the waiting messages, and starts the auditor again if it is time for that. `serving` returns the workers
    /// that have a client.
    pub fn proceed(&mut self, watch: &mut Watch, serving: impl FnOnce() -> Vec<(Given, Records)>) {
        self.flush();
        if self.start_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        match self.fork(watch, serving()) {
            Ok(()) => log(Severity::Notice, format_args!("the auditor runs again")),
            Err(error) => {
                log(
                    Severity::Crit,
                    format_args!("cannot start the auditor: {error}"),
                );
                self.start_at = Some(Instant::now() + PAUSE);
            }
        }
    }

    /// Logs the auditor's messages, and forgets the workers whose records are all written.
    pub fn take_messages(&mut self, loggers: &Loggers) {
        let Some(running) = &self.running else { return };
        while let Ok(Some(message)) = running.channel.next_message() {
            match message {
                Message::Log(record) => loggers.record(&record.for_component("audit")),
                Message::Written(connection) => drop(self.departed.remove(&connection)),
                _ => {}
            }
        }
    }

    /// Handles the end of a child. If it was the auditor, schedules the start of another one and returns true.
    pub fn ended(&mut self, process: Pid, end: End, watch: &mut Watch, loggers: &Loggers) -> bool {
        let is_it = |running: &mut Running| running.process == process;
        if self.running.as_mut().is_none_or(|running| !is_it(running)) {
            return false;
        }
        self.take_messages(loggers);
        if let Some(running) = self.running.take() {
            watch.remove(Source::Auditor, &running.channel);
        }
        self.flags.set_running(false);
        log(
            Severity::Alert,
            format_args!("the auditor (process {process}) terminated {end}; it is started again"),
        );
        let now = Instant::now();
        let lived = now.saturating_duration_since(self.started);
        self.start_at = Some(now + PAUSE.saturating_sub(lived));
        true
    }

    /// Has the auditor write the rest, sign it and end. All workers must have ended. If the auditor has died, another
    /// one does this.
    pub fn finish(mut self, watch: &mut Watch, loggers: &Loggers) {
        self.let_end(loggers);
        if !self.departed.is_empty() {
            match self.fork(watch, Vec::new()) {
                Ok(()) => self.let_end(loggers),
                Err(error) => log(
                    Severity::Crit,
                    format_args!("cannot start the auditor: {error}"),
                ),
            }
        }
        let lost = self.departed.len();
        if lost > 0 {
            log(
                Severity::Alert,
                format_args!("calls of {lost} connections may be missing in the audit log"),
            );
        }
    }

    fn let_end(&mut self, loggers: &Loggers) {
        self.tell(&Told::End);
        let Some(process) = self.running.as_ref().map(|running| running.process) else {
            return;
        };
        let killed_at = Instant::now() + GRACE;
        loop {
            self.flush();
            // The auditor may be waiting for room for its messages.
            self.take_messages(loggers);
            match waitpid(process, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
                Ok(_) | Err(_) => break,
            }
            if Instant::now() >= killed_at {
                // Usually it waits for a disk.
                let _ = kill(process, Signal::SIGKILL);
                log(
                    Severity::Alert,
                    format_args!("the auditor did not end in time: the audit log has no end"),
                );
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.take_messages(loggers);
    }
}
