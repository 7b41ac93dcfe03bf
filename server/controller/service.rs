//! Accepts the clients of one service, hands each to a worker, and forks workers ahead of need.
//!
//! Carries out what `admission` and `queue` decide, and logs it. Clients come from the service's listeners; their
//! sockets go to workers, without a byte being read.

mod report;
mod rules;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bindings::children::Ended;
use nix::sys::signal::Signal;
use nix::unistd::{geteuid, getpid};

use super::admission::{Admission, Eviction, Limits, Placement, ROOM, Reason, Stage, WorkerId};
use super::auditing::{Auditing, Records};
use super::departures::Departures;
use super::event::{Source, Watch};
use super::queue::{Next, Queue};
use super::workers::{End, Reaped, Serving, Workers};
use crate::activity::Activities;
use crate::audit::records::{Given, Told};
use crate::channel::{Cause, Message};
use crate::config::Service;
use crate::counts::{Counts, Heritage, Label, Table};
use crate::failed_logins::FailedLogins;
use crate::logging::{Loggers, Record, Route, Severity, log};
use crate::metrics::{Meter, Meters};
use crate::places::{Places, SURPLUS};
use crate::policy::Policy;
use crate::profiles::usage::Usage;
use crate::proxy::Origin;
use crate::record_memory::Budget;
use crate::sockets::{Accepted, Listener, Peer};
use crate::throttle::{RefusalLog, Throttle};
use crate::tls::acceptor::Acceptor;
use crate::worker::{self, Setup};

/// Upper bound on the connections accepted for a service in one turn of the event loop.
const ACCEPTS_A_TURN: usize = 64;

/// How long the worker of a readiness check may live. `pkcs11proxyctl ready` waits for less.
const PROBE_TIME: Duration = Duration::from_secs(30);

/// What all services share.
pub struct Shared {
    /// The workers of all services.
    pub workers: Workers,
    /// The descriptors that wake the controller.
    pub watch: Watch,
    /// Detects which clients have gone.
    pub departures: Departures,
    /// The loggers, for the log records of workers.
    pub loggers: Arc<Loggers>,
    /// Whether workers log calls (`-debug-pkcs11`).
    pub trace: bool,
    /// The auditor; none without an audit log.
    pub auditing: Option<Auditing>,
}

/// Numbers of clients that were turned away, by reason.
#[derive(Clone, Copy, Default)]
struct TurnedAway {
    /// Their peer had as many connections as it may have.
    over_limit: u64,
    /// Others waited, and they were not established in time, or had sent nothing.
    to_make_room: u64,
    /// They were not established in time, though nobody waited.
    too_slow: u64,
    /// Their handshake failed.
    by_tls: u64,
    /// No profile matched, or theirs had as many connections as it may have.
    by_profile: u64,
    /// They are not a load balancer, or sent no PROXY header.
    by_proxy: u64,
}

/// A running service.
pub struct RunningService {
    /// Its position among the services.
    position: usize,
    /// The `service` section.
    pub settings: Arc<Service>,
    policy: Policy,
    /// Indexed by their numbers in `queue`.
    listeners: Vec<Listener>,
    queue: Queue<Accepted>,
    admission: Admission<Peer>,
    places: Places<WorkerId>,
    memory: Budget,
    activities: Activities,
    /// Counts and times of calls; none if nobody can ask for them.
    meters: Option<Meters>,
    /// Clients that were handed to a worker.
    connections: u64,
    turned_away: TurnedAway,
    logins: Option<FailedLogins>,
    /// None without profiles.
    usage: Option<Usage>,
    /// The memory of the counts in `logins` and `usage`, for the daemon that takes over.
    handed_over: Vec<(Table, OwnedFd)>,
    full_warning: Throttle,
    peer_warning: Throttle,
    refusals: RefusalLog,
    /// The workers of readiness checks, and when each has to have ended.
    probes: Vec<(WorkerId, Instant)>,
}

impl RunningService {
    /// Creates a service and watches its listeners. No worker is forked yet.
    pub fn new(
        position: usize,
        settings: Service,
        policy: Policy,
        listeners: Vec<Listener>,
        heritage: &mut Heritage,
        watch: &mut Watch,
    ) -> io::Result<RunningService> {
        for (listener, socket) in listeners.iter().enumerate() {
            let service = position;
            watch.add(Source::Listener { service, listener }, socket)?;
        }
        let limits = Limits {
            workers: settings.workload.max_workers,
            spare: settings.workload.spare,
            per_peer: settings.processor.max_connections_per_peer,
            first_call: settings.processor.first_call_timeout,
            abandoned: settings.processor.abandoned_call_timeout,
        };
        let memory = Budget::new(
            settings.processor.record_memory,
            limits.workers.saturating_add(SURPLUS),
        )?;
        let mut handed_over = Vec::new();
        let mut counts = |table| -> io::Result<Counts> {
            let (counts, file) = heritage.take(&settings.name, table)?;
            handed_over.push((table, file));
            Ok(counts)
        };
        let logins = match settings.processor.failed_logins {
            Some(limits) => Some(FailedLogins::new(limits, counts(Table::FailedLogins)?)),
            None => None,
        };
        let usage = match settings.processor.profiles.is_empty() {
            false => Some(Usage::new(limits.workers, counts(Table::Signatures)?)?),
            true => None,
        };
        Ok(RunningService {
            position,
            settings: Arc::new(settings),
            policy,
            queue: Queue::new(listeners.len()),
            listeners,
            admission: Admission::new(limits),
            places: Places::default(),
            memory,
            activities: Activities::new(limits.workers.saturating_add(SURPLUS))?,
            meters: None,
            connections: 0,
            turned_away: TurnedAway::default(),
            logins,
            usage,
            handed_over,
            full_warning: Throttle::default(),
            peer_warning: Throttle::default(),
            refusals: RefusalLog::default(),
            probes: Vec::new(),
        })
    }

    /// Has the calls of its workers counted and measured.
    pub fn counted(mut self) -> io::Result<RunningService> {
        self.meters = Some(Meters::new()?);
        Ok(self)
    }

    /// Notes that connections may be waiting at the listener of this number.
    pub fn listener_is_ready(&mut self, number: usize) {
        self.queue.listener_is_ready(number);
    }

    /// How long the controller may sleep before this service needs it.
    pub fn next_wake(&self, now: Instant) -> Option<Duration> {
        let admission = self.admission.next_wake(now, self.queue.is_awaited());
        self.probe_ends(now).into_iter().chain(admission).min()
    }

    /// Does the same while the daemon drains, so that the service accepts no more clients.
    pub fn next_wake_while_draining(&self, now: Instant) -> Option<Duration> {
        let admission = self.admission.next_overdue(now);
        self.probe_ends(now).into_iter().chain(admission).min()
    }

    /// How long the next readiness check may still take.
    fn probe_ends(&self, now: Instant) -> Option<Duration> {
        let ends = self.probes.iter();
        ends.map(|(_, end)| end.saturating_duration_since(now))
            .min()
    }

    /// Accepts and serves the clients that can be served now. At the limit of workers, the other clients wait in the
    /// listener's backlog.
    pub fn accept(&mut self, shared: &mut Shared) {
        for _ in 0..ACCEPTS_A_TURN {
            if !self.queue.is_awaited() {
                return;
            }
            if !self.admission.can_accept(Instant::now()) {
                return self.make_room(shared);
            }
            match self.next_client() {
                Ok(Some(client)) => self.admit(client, shared),
                Ok(None) => {}
                Err(error) => {
                    log(Severity::Crit, format_args!("cannot accept: {error}"));
                    return self.admission.pause(Instant::now());
                }
            }
        }
    }

    /// Returns the next client; `None` if there was none at the listener whose turn it was.
    fn next_client(&mut self) -> io::Result<Option<Accepted>> {
        let number = match self.queue.take_next() {
            Some(Next::Held(client)) => return Ok(Some(client)),
            Some(Next::Listener(number)) => number,
            None => return Ok(None),
        };
        let Some(listener) = self.listeners.get(number) else {
            return Ok(None);
        };
        match listener.accept() {
            Ok(client) => Ok(Some(client)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => {
                    self.queue.listener_is_empty(number);
                    Ok(None)
                }
                io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Makes room if clients wait and cannot be served: ends clients that are not established, and warns if all workers
    /// are busy. Their places become free when SIGCHLD comes.
    fn make_room(&mut self, shared: &Shared) {
        let now = Instant::now();
        for eviction in self.admission.make_room(now) {
            self.evict(&eviction, shared);
        }
        if self.admission.is_full() && self.full_warning.passes(now) {
            let limit = self.settings.workload.max_workers;
            let name = &self.settings.name;
            log(
                Severity::Alert,
                format_args!("{name}: all {limit} workers are busy; clients have to wait"),
            );
        }
    }

    /// Ends the workers whose clients have made no call in time, or have gone and left calls that do not end.
    pub fn end_overdue(&mut self, shared: &Shared) {
        let now = Instant::now();
        for eviction in self.admission.overdue(now) {
            self.evict(&eviction, shared);
        }
        // The module does not answer, and whoever asked has been told so.
        self.probes.retain(|(worker, end)| {
            let is_in_time = now < *end;
            if !is_in_time {
                let name = &self.settings.name;
                log(
                    Severity::Warning,
                    format_args!("{name}: a readiness check is ended: its module does not answer"),
                );
                shared.workers.signal(*worker, Signal::SIGKILL);
            }
            is_in_time
        });
    }

    /// Ends a worker with its client. Clients can cause this at will, so the rate of the messages is limited.
    pub fn evict(&mut self, eviction: &Eviction<Peer>, shared: &Shared) {
        shared.workers.signal(eviction.worker, Signal::SIGKILL);
        match eviction.reason {
            Reason::GivesWay(_) => self.turned_away.to_make_room += 1,
            Reason::TooSlow(_) => self.turned_away.too_slow += 1,
            Reason::OverLimit(_) => self.turned_away.over_limit += 1,
            // The client has left by itself.
            Reason::Abandoned => {}
        }
        let severity = match eviction.reason {
            Reason::Abandoned => Severity::Err,
            _ => Severity::Warning,
        };
        self.log_refusal(severity, &eviction.to_string(), &shared.loggers);
    }

    /// Notes that the client of one of the service's workers has gone.
    pub fn client_gone(&mut self, worker: WorkerId) {
        self.admission.client_gone(worker, Instant::now());
    }

    /// Returns whether a silent client is turned away before it gets a worker, because others wait. In an attack there
    /// are many silent clients, and forking for each would take time.
    fn turns_away(&mut self, client: &Accepted, loggers: &Loggers) -> bool {
        let silent = || client.silent_for();
        let Some(silent) = self.admission.turns_away(silent, Instant::now()) else {
            return false;
        };
        if !self.listeners.iter().any(Listener::is_awaited) {
            return false;
        }
        self.turned_away.to_make_room += 1;
        let (name, taken) = (&client.name, silent.as_secs_f32());
        let message =
            format!("client {name}: turned away after {taken:.1} s without a byte, {ROOM}");
        self.log_refusal(Severity::Warning, &message, loggers);
        true
    }

    /// Returns whether a client is refused because it is not a load balancer. Its PROXY header could claim any address.
    fn is_no_balancer(&mut self, client: &Accepted, loggers: &Loggers) -> bool {
        let Some(balancers) = &self.settings.processor.balancers else {
            return false;
        };
        let is_balancer = client.address.is_some_and(|at| balancers.contain(at));
        if !is_balancer {
            self.turned_away.by_proxy += 1;
            let message = format!("client {} refused: it is not in proxy_from", client.name);
            self.log_refusal(Severity::Warning, &message, loggers);
        }
        !is_balancer
    }

    /// Hands a client to an idle worker, or to a new one. If none can be forked, accepting pauses and the client waits.
    fn admit(&mut self, client: Accepted, shared: &mut Shared) {
        if self.is_no_balancer(&client, &shared.loggers)
            || self.turns_away(&client, &shared.loggers)
        {
            return;
        }
        if shared.auditing.as_ref().is_some_and(|it| !it.has_room()) {
            // The auditor has to hear of the client before its first call.
            self.admission.pause(Instant::now());
            return self.queue.hold(client);
        }
        let stage = match self.settings.processor.balancers {
            None => self.stage(),
            Some(_) => Stage::Header,
        };
        loop {
            let placement = match stage {
                Stage::Header => self.admission.place_anyone(),
                _ => self.admission.place(&client.peer),
            };
            let worker = match placement {
                Placement::Worker(worker) => worker,
                Placement::Fork => match self.fork(shared) {
                    Ok(()) => continue,
                    Err(error) => {
                        self.fork_failed(&error);
                        return self.queue.hold(client);
                    }
                },
                Placement::Refuse(connected) => return self.refuse(&client, connected),
            };
            match self.hand_over(worker, &client, shared) {
                Ok(()) => {
                    self.connections += 1;
                    // If the client cannot be watched, its calls may take any time after it has gone.
                    let _ = shared.departures.watch(worker, &client.socket);
                    let (peer, now) = (client.peer, Instant::now());
                    return self.admission.given(worker, peer, stage, now);
                }
                // SIGCHLD will come. The loop tries another worker.
                Err(error) if has_died(&error) => {}
                Err(error) => {
                    // It is no longer among the idle ones, so nobody would use it.
                    shared.workers.signal(worker, Signal::SIGKILL);
                    log(
                        Severity::Crit,
                        format_args!("cannot hand a client to a worker: {error}"),
                    );
                    self.admission.pause(Instant::now());
                    return self.queue.hold(client);
                }
            }
        }
    }

    fn refuse(&mut self, client: &Accepted, connected: usize) {
        self.turned_away.over_limit += 1;
        if self.peer_warning.passes(Instant::now()) {
            let name = &client.name;
            log(
                Severity::Warning,
                format_args!("client {name} refused: it already has {connected} connections"),
            );
        }
    }

    /// Forks until the configured number of workers waits for clients.
    pub fn fill(&mut self, shared: &mut Shared) {
        while self.admission.needs_spare(Instant::now()) {
            if let Err(error) = self.fork(shared) {
                return self.fork_failed(&error);
            }
        }
    }

    fn fork_failed(&mut self, error: &io::Error) {
        log(
            Severity::Crit,
            format_args!("cannot start a worker: {error}"),
        );
        self.admission.pause(Instant::now());
    }

    /// Forks a worker for a readiness check, and returns the socket that it serves. It has no TLS and no profiles, and
    /// does not count towards the limit of workers.
    pub fn probe(&mut self, shared: &mut Shared) -> io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        let worker = self.fork_with(None, None, false, shared)?;
        let client = Accepted {
            socket: theirs.into(),
            peer: Peer::User(geteuid()),
            address: None,
            name: "readiness check".to_owned(),
        };
        if let Err(error) = self.hand_over(worker, &client, shared) {
            shared.workers.signal(worker, Signal::SIGKILL);
            return Err(error);
        }
        self.probes.push((worker, Instant::now() + PROBE_TIME));
        Ok(ours.into())
    }

    /// Tells the auditor of a client, then hands the client to a worker.
    fn hand_over(
        &self,
        worker: WorkerId,
        client: &Accepted,
        shared: &mut Shared,
    ) -> io::Result<()> {
        let Shared {
            workers, auditing, ..
        } = shared;
        if let (Some(auditing), Some((process, records))) = (auditing, workers.records(worker)) {
            let given = Given {
                pid: process.as_raw(),
                connection: worker.0,
                peer: client.name.clone(),
                // A readiness check sends no header.
                awaits_header: self.settings.processor.balancers.is_some()
                    && client.address.is_some(),
                user: String::new(),
                profile: String::new(),
                service: self.settings.name.clone(),
            };
            auditing.tell_of(given, records.try_clone()?);
            return workers.hand_over(worker, client).inspect_err(|_| {
                // Otherwise the auditor would keep its descriptors: without a client, its end is not told.
                auditing.tell(&Told::Left {
                    connection: worker.0,
                    end: "before it had a client".to_owned(),
                });
            });
        }
        workers.hand_over(worker, client)
    }

    fn fork(&mut self, shared: &mut Shared) -> io::Result<()> {
        let has_header = self.settings.processor.balancers.is_some();
        let (tls, usage) = (self.policy.tls.clone(), self.usage.clone());
        let worker = self.fork_with(tls, usage, has_header, shared)?;
        self.admission.forked(worker);
        Ok(())
    }

    fn fork_with(
        &mut self,
        tls: Option<Arc<Acceptor>>,
        usage: Option<Usage>,
        has_header: bool,
        shared: &mut Shared,
    ) -> io::Result<WorkerId> {
        let Shared {
            workers,
            watch,
            auditing,
            trace,
            ..
        } = shared;
        let audit = auditing.as_ref().map(Auditing::connect).transpose()?;
        let setup = Setup {
            service: self.settings.clone(),
            rules: self.policy.rules.clone(),
            profile_rules: self.policy.profiles.clone(),
            usage,
            place: self.places.next(),
            tls,
            has_header,
            memory: self.memory.share(self.places.next()),
            activity: self.activities.share(self.places.next()),
            meter: self.meters.map_or(Meter::OFF, Meters::share),
            logins: self.logins.clone(),
            audit: audit.as_ref().map(|(_, sender)| sender),
            trace: *trace,
            controller: getpid(),
        };
        let worker = workers.fork(watch, self.position, &setup)?;
        self.places.given_to(worker);
        if let Some((records, _)) = audit {
            workers.keep_records(worker, records);
        }
        Ok(worker)
    }

    /// Returns the address of a worker's client, if this message names it.
    pub fn client_named(&self, worker: WorkerId, message: &Message) -> Option<SocketAddr> {
        match message {
            // Only once: later a worker may send anything.
            Message::Header(Origin::Client(client)) if self.admission.awaits_header(worker) => {
                Some(*client)
            }
            _ => None,
        }
    }

    /// Handles a message of one of the service's workers. Returns an eviction if the worker has to be ended with its
    /// client.
    pub fn take_message(
        &mut self,
        worker: WorkerId,
        message: &Message,
        loggers: &Loggers,
    ) -> Option<Eviction<Peer>> {
        match message {
            Message::Log(record) => loggers.record(&record.for_component(&self.settings.name)),
            Message::Refusal(cause, record) => {
                match cause {
                    Cause::Proxy => self.turned_away.by_proxy += 1,
                    Cause::Tls => self.turned_away.by_tls += 1,
                    Cause::Profile => self.turned_away.by_profile += 1,
                    // The client stays.
                    Cause::Logins => {}
                }
                let record = record.for_component("");
                self.log_refusal(record.severity, record.message, loggers);
            }
            Message::ShookHands => self.admission.shook_hands(worker, Instant::now()),
            Message::Waits(idle) => self.admission.waits(worker, *idle, Instant::now()),
            Message::Established => self.admission.established(worker),
            Message::Header(origin) => {
                let (stage, now) = (self.stage(), Instant::now());
                let client = match origin {
                    Origin::Client(address) => Some(Peer::at(address.ip())),
                    Origin::Balancer => None,
                };
                return self.admission.header_came(worker, client, stage, now);
            }
            // The controller handles the first itself; the second comes only from the auditor.
            Message::User(_) | Message::Written(_) | Message::Unknown => {}
        }
        None
    }

    /// The first stage of clients, after the PROXY header if there is one.
    fn stage(&self) -> Stage {
        match self.policy.tls {
            None => Stage::FirstCall,
            Some(_) => Stage::Handshake,
        }
    }

    fn log_refusal(&mut self, severity: Severity, message: &str, loggers: &Loggers) {
        let (passes, left_out) = self.refusals.passes(Instant::now());
        let log = |severity, message: &str| {
            loggers.record(&Record {
                severity,
                component: &self.settings.name,
                subchannel: "",
                message,
            });
        };
        if let Some(left_out) = left_out {
            log(
                Severity::Warning,
                &format!("{left_out} more refused clients were not logged"),
            );
        }
        if passes {
            log(severity, message);
        }
    }

    /// Handles the end of one of the service's workers: frees its place and its memory, and logs an unexpected end.
    pub fn worker_ended(&mut self, worker: WorkerId, end: End, reaped: &Reaped) {
        if let Some(place) = self.places.left_by(&worker) {
            self.memory.reclaim(place);
            if let Some(usage) = &self.usage {
                usage.leave(place);
            }
        }
        self.probes.retain(|(probe, _)| *probe != worker);
        let is_expected = self.admission.ended(worker, Instant::now());
        if !is_expected && end.0 != Ended::Exit(worker::DONE) {
            let (pid, name) = (reaped.pid, &self.settings.name);
            let client = match reaped.client.as_str() {
                "" => String::new(),
                client => format!("; its client was {client}"),
            };
            log(
                Severity::Alert,
                format_args!("Process {pid} for service {name} terminated {end}{client}"),
            );
        }
    }

    /// Ends the connection of a worker's client, for an administrator. Returns whether there is one.
    pub fn disconnect(&mut self, worker: WorkerId, workers: &Workers) -> bool {
        let has_client = self.admission.disconnect(worker);
        if has_client {
            workers.signal(worker, Signal::SIGKILL);
        }
        has_client
    }

    /// Describes the workers that have a client, for the auditor.
    pub fn given(&self, workers: &Workers) -> Vec<(Given, Records)> {
        let serving = workers.serving(self.position);
        serving.filter_map(|it| self.given_to(&it)).collect()
    }

    /// Describes a worker that has a client, for the auditor; none without an audit log.
    pub fn given_to(&self, serving: &Serving<'_>) -> Option<(Given, Records)> {
        let place = self.places.of(&serving.id);
        let profile = place.and_then(|place| self.profile(place));
        let given = Given {
            pid: serving.pid.as_raw(),
            connection: serving.id.0,
            peer: serving.client.to_owned(),
            awaits_header: self.admission.awaits_header(serving.id),
            user: serving.user.to_owned(),
            profile: self.profile_name(profile),
            service: self.settings.name.clone(),
        };
        Some((given, serving.records?.try_clone().ok()?))
    }

    /// Ends the workers that have no client.
    pub fn end_idle(&mut self, workers: &Workers) {
        for worker in self.admission.retire_idle() {
            workers.signal(worker, Signal::SIGTERM);
        }
    }

    /// Returns the counts so far, for the daemon that takes over.
    pub fn counts(&self) -> impl Iterator<Item = (Label, BorrowedFd<'_>)> {
        self.handed_over.iter().map(|(table, file)| {
            let label = Label {
                service: self.settings.name.clone(),
                table: *table,
            };
            (label, file.as_fd())
        })
    }

    /// The sockets that it listens on.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The same, mutable.
    pub fn listeners_mut(&mut self) -> &mut [Listener] {
        &mut self.listeners
    }

    /// Closes the listeners without removing their files, because another daemon has taken over their sockets.
    pub fn leave_listeners(&mut self) {
        for listener in &mut self.listeners {
            listener.leave_file();
        }
        self.stop_listening();
    }

    /// Closes the listeners, which removes their files, and the connection of a client that is held.
    pub fn stop_listening(&mut self) {
        self.listeners.clear();
        self.queue.release();
    }
}

/// Whether a client could not be handed to a worker because the worker has died.
fn has_died(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
}
