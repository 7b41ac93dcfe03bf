//! The controller: accepts clients, keeps workers ready, hands each client to one, reaps, reloads,
//! stops.
//!
//! One thread runs one event loop over listeners, signals and worker channels (`event`). What is
//! decided about clients and workers is decided in `admission`; processes are forked and reaped in
//! `workers`; this file carries out and logs. The controller reads no byte that a client sent, loads no
//! module, waits for nobody, and stays small so that a fork costs little.

mod admission;
mod event;
mod workers;

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Events;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::channel::Message;
use crate::config::Service;
use crate::logging::{Loggers, Record, Route, Severity, log};
use crate::policy::Policy;
use crate::sockets::{Accepted, Listener, Peer};
use crate::throttle::{RefusalLog, Throttle};
use crate::worker::{self, Setup};

use admission::{Admission, Limits, Placement, WorkerId};
use event::{Source, Watch};
use workers::{End, Workers};

/// The signals the controller takes from a descriptor instead of a handler.
const SIGNALS: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGCHLD,
    Signal::SIGHUP,
    Signal::SIGUSR1,
];

fn signals() -> SigSet {
    SIGNALS.into_iter().collect()
}

/// Keeps signals until the controller takes them, so that one that comes during the start ends what
/// was started: to be called before there are sockets and a pid file.
pub fn hold_signals() -> io::Result<()> {
    bindings::sys::notice_children()?;
    Ok(signals().thread_block()?)
}

/// Log records read from one worker before the others have their turn.
const RECORDS_A_TURN: usize = 64;

/// Upper bound on the batches of log records read from a worker that has ended; more than its channel
/// can hold. A process that its module left behind may go on writing.
const LAST_TURNS: usize = 64;

/// Connections accepted for a service before everything else has its turn.
const ACCEPTS_A_TURN: usize = 64;

/// How long workers have to end after SIGTERM before they are killed.
const GRACE: Duration = Duration::from_secs(2);

/// A service as it runs.
struct Running {
    service: Service,
    policy: Policy,
    listeners: Vec<ListenerState>,
    admission: Admission<Peer>,
    /// A client for whom no worker could be forked. It is the next to get one.
    held: Option<Accepted>,
    full_warning: Throttle,
    peer_warning: Throttle,
    refusals: RefusalLog,
}

struct ListenerState {
    listener: Listener,
    /// Its position at start; they take turns, and change places.
    number: usize,
    /// Whether connections may be waiting: the event said so and accepting has not run dry since.
    is_ready: bool,
}

/// Whether the event loop goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Turn {
    GoOn,
    Stop,
}

/// The controller's whole state.
pub struct Controller {
    watch: Watch,
    signals: SignalFd,
    services: Vec<Running>,
    workers: Workers,
    /// The configuration file, for messages.
    conf: PathBuf,
    loggers: Arc<Loggers>,
    trace: bool,
}

impl Controller {
    /// Takes over the listeners; no worker is forked yet. Expects [`hold_signals`] before.
    pub fn new(
        services: Vec<(Service, Policy, Vec<Listener>)>,
        conf: PathBuf,
        loggers: Arc<Loggers>,
        trace: bool,
    ) -> io::Result<Controller> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&signals(), flags)?;
        let mut watch = Watch::new()?;
        watch.add(Source::Signals, &signals)?;
        let mut running = Vec::new();
        for (service, (settings, policy, listeners)) in services.into_iter().enumerate() {
            for (listener, socket) in listeners.iter().enumerate() {
                watch.add(Source::Listener { service, listener }, socket)?;
            }
            running.push(Running::new(settings, policy, listeners));
        }
        Ok(Controller {
            watch,
            signals,
            services: running,
            workers: Workers::default(),
            conf,
            loggers,
            trace,
        })
    }

    /// Runs until a signal stops it; then ends every worker and removes the sockets.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        for service in 0..self.services.len() {
            self.fill(service);
        }
        loop {
            let next = self.next_wake();
            self.watch.wait(&mut events, next)?;
            for source in self.watch.sources(&events) {
                match source {
                    Source::Signals => {
                        if self.take_signals()? == Turn::Stop {
                            return self.stop();
                        }
                    }
                    Source::Listener { service, listener } => self.mark_ready(service, listener),
                    Source::Worker(worker) => {
                        self.take_records(worker);
                    }
                }
            }
            for service in 0..self.services.len() {
                self.accept(service);
                self.fill(service);
            }
        }
    }

    /// How long the loop may sleep.
    fn next_wake(&self) -> Option<Duration> {
        let now = Instant::now();
        let wake = |running: &Running| running.admission.next_wake(now, running.is_awaited());
        self.services.iter().filter_map(wake).min()
    }

    fn mark_ready(&mut self, service: usize, number: usize) {
        let Some(running) = self.services.get_mut(service) else {
            return;
        };
        for listener in &mut running.listeners {
            if listener.number == number {
                listener.is_ready = true;
            }
        }
    }

    /// Accepts what can be served now. At the limit of workers the rest waits in the kernel's queue.
    fn accept(&mut self, service: usize) {
        for _ in 0..ACCEPTS_A_TURN {
            let Some(running) = self.services.get_mut(service) else {
                return;
            };
            if !running.is_awaited() {
                return;
            }
            if !running.admission.can_accept(Instant::now()) {
                return self.make_room(service);
            }
            match running.next_client() {
                Ok(Some(client)) => self.admit(service, client),
                Ok(None) => {}
                Err(error) => {
                    log(Severity::Crit, format_args!("cannot accept: {error}"));
                    return running.admission.pause(Instant::now());
                }
            }
        }
    }

    /// Clients wait and cannot be served: ends handshakes that take too long, and warns when all workers
    /// are busy. The places become free with SIGCHLD.
    fn make_room(&mut self, service: usize) {
        let Some(running) = self.services.get_mut(service) else {
            return;
        };
        let now = Instant::now();
        let evictions = running.admission.evict(now);
        let is_full = running.admission.is_full();
        let warning = (is_full && running.full_warning.passes(now)).then(|| {
            let limit = running.service.workload.max_workers;
            let name = &running.service.name;
            format!("{name}: all {limit} workers are busy, clients wait")
        });
        for eviction in evictions {
            self.workers.signal(eviction.worker, Signal::SIGKILL);
            let message = format!(
                "client {}: TLS handshake ended after {:.1} s: all workers are busy and others wait",
                eviction.peer,
                eviction.taken.as_secs_f32()
            );
            self.log_refusal(service, Severity::Warning, &message);
        }
        if let Some(warning) = warning {
            log(Severity::Alert, format_args!("{warning}"));
        }
    }

    /// Hands a client to an idle worker, or to a new one. While none can be forked, which pauses
    /// accepting too, the client waits.
    fn admit(&mut self, service: usize, client: Accepted) {
        loop {
            let Some(running) = self.services.get_mut(service) else {
                return;
            };
            let id = match running.admission.place(&client.peer) {
                Placement::Worker(id) => id,
                Placement::Fork => match self.fork(service) {
                    Ok(()) => continue,
                    Err(error) => {
                        self.fork_failed(service, &error);
                        if let Some(running) = self.services.get_mut(service) {
                            running.held = Some(client);
                        }
                        return;
                    }
                },
                Placement::Refuse(connected) => {
                    if running.peer_warning.passes(Instant::now()) {
                        let name = &client.name;
                        log(
                            Severity::Warning,
                            format_args!("client {name} refused: has {connected} connections"),
                        );
                    }
                    return;
                }
            };
            let Some(worker) = self.workers.get_mut(id) else {
                continue;
            };
            // A worker that died meanwhile: SIGCHLD is on its way, try another.
            let handed_over = worker
                .channel
                .hand_over(client.socket.as_fd(), &client.name);
            if handed_over.is_ok() {
                worker.client = client.name;
                let handshake = running.policy.tls.as_ref().map(|_| Instant::now());
                running.admission.given(id, client.peer, handshake);
                return;
            }
        }
    }

    /// Forks until the configured number of workers waits for clients.
    fn fill(&mut self, service: usize) {
        while let Some(running) = self.services.get_mut(service) {
            if !running.admission.needs_spare(Instant::now()) {
                return;
            }
            if let Err(error) = self.fork(service) {
                return self.fork_failed(service, &error);
            }
        }
    }

    fn fork_failed(&mut self, service: usize, error: &io::Error) {
        log(
            Severity::Crit,
            format_args!("cannot start a worker: {error}"),
        );
        if let Some(running) = self.services.get_mut(service) {
            running.admission.pause(Instant::now());
        }
    }

    fn fork(&mut self, service: usize) -> io::Result<()> {
        let Some(running) = self.services.get_mut(service) else {
            return Ok(());
        };
        let setup = Setup {
            service: &running.service,
            rules: running.policy.rules.clone(),
            tls: running.policy.tls.clone(),
            trace: self.trace,
            controller: nix::unistd::getpid(),
        };
        let id = self.workers.fork(&mut self.watch, service, &setup)?;
        running.admission.forked(id);
        Ok(())
    }

    /// Reads a batch of a worker's messages. Returns whether more may wait.
    fn take_records(&mut self, id: WorkerId) -> bool {
        for _ in 0..RECORDS_A_TURN {
            let Some(worker) = self.workers.get(id) else {
                return false;
            };
            let service = worker.service;
            let Some(running) = self.services.get_mut(service) else {
                return false;
            };
            match worker.channel.next_message() {
                Ok(Some(Message::Log(record))) => {
                    let component = &running.service.name;
                    self.loggers.record(&record.for_component(component));
                }
                Ok(Some(Message::Refusal(record))) => {
                    let record = record.for_component("");
                    self.log_refusal(service, record.severity, record.message);
                }
                Ok(Some(Message::Established)) => running.admission.established(id),
                // The worker is gone: SIGCHLD tells more.
                Ok(None) | Err(_) => return false,
            }
        }
        let Some(worker) = self.workers.get(id) else {
            return false;
        };
        // More may wait, and the event will not come again by itself.
        if let Err(error) = self.watch.again(Source::Worker(id), &worker.channel) {
            log(
                Severity::Err,
                format_args!("cannot watch worker {}: {error}", worker.pid),
            );
        }
        true
    }

    /// Reads what a worker that ended logged last.
    fn take_last_records(&mut self, id: WorkerId) {
        (0..LAST_TURNS).all(|_| self.take_records(id));
    }

    fn log_refusal(&mut self, service: usize, severity: Severity, message: &str) {
        let Some(Running {
            service, refusals, ..
        }) = self.services.get_mut(service)
        else {
            return;
        };
        let (passes, left_out) = refusals.passes(Instant::now());
        let log = |severity, message: &str| {
            let (component, subchannel) = (service.name.as_str(), "");
            self.loggers.record(&Record {
                severity,
                component,
                subchannel,
                message,
            });
        };
        if let Some(left_out) = left_out {
            log(
                Severity::Warning,
                &format!("{left_out} clients more were refused before"),
            );
        }
        if passes {
            log(severity, message);
        }
    }

    fn take_signals(&mut self) -> io::Result<Turn> {
        while let Some(signal) = self.signals.read_signal()? {
            match i32::try_from(signal.ssi_signo)
                .ok()
                .and_then(|n| Signal::try_from(n).ok())
            {
                Some(Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT) => return Ok(Turn::Stop),
                Some(Signal::SIGCHLD) => self.reap(),
                Some(Signal::SIGHUP) => self.reload(),
                Some(Signal::SIGUSR1) => self.reopen_logs(),
                _ => {}
            }
        }
        Ok(Turn::GoOn)
    }

    fn reap(&mut self) {
        loop {
            match self.workers.reap() {
                Ok(Some((id, end))) => self.bury(id, end),
                Ok(None) => return,
                Err(error) => {
                    log(
                        Severity::Err,
                        format_args!("cannot wait for workers: {error}"),
                    );
                    return;
                }
            }
        }
    }

    /// Frees the place of a worker that was reaped, and logs an unexpected end.
    fn bury(&mut self, id: WorkerId, end: End) {
        self.take_last_records(id);
        let Some(worker) = self.workers.remove(id) else {
            return;
        };
        self.watch.remove(Source::Worker(id), &worker.channel);
        let Some(running) = self.services.get_mut(worker.service) else {
            return;
        };
        let is_expected = running.admission.ended(id, Instant::now());
        if !is_expected && end != End::Exit(worker::DONE) {
            let (pid, name) = (worker.pid, &running.service.name);
            let client = match worker.client.as_str() {
                "" => String::new(),
                client => format!("; its client was {client}"),
            };
            log(
                Severity::Alert,
                format_args!("Process {pid} for service {name} terminated {end}{client}"),
            );
        }
    }

    /// Reads every service's filter file and TLS files again. If any of them is bad, nothing changes for
    /// any service. Clients that are connected keep the rules they have.
    fn reload(&mut self) {
        self.reopen_logs();
        let load = |running: &Running| Policy::load(&running.service, &self.conf);
        let (mut policies, mut faults) = (Vec::new(), Vec::new());
        for loaded in self.services.iter().map(load) {
            match loaded {
                Ok(policy) => policies.push(policy),
                Err(error) => faults.push(error),
            }
        }
        for error in &faults {
            log(
                Severity::Err,
                format_args!("filter rules and TLS stay as they are: {error}"),
            );
        }
        if !faults.is_empty() {
            return;
        }
        for (running, policy) in self.services.iter_mut().zip(policies) {
            policy.report_warnings();
            running.policy = policy;
            let name = &running.service.name;
            log(
                Severity::Notice,
                format_args!("{name}: filter configuration loaded"),
            );
            if running.policy.tls.is_some() {
                log(
                    Severity::Notice,
                    format_args!("{name}: TLS keys and certificates loaded"),
                );
            }
            for worker in running.admission.retire_idle() {
                self.workers.signal(worker, Signal::SIGTERM);
            }
        }
    }

    fn reopen_logs(&self) {
        if let Err(error) = self.loggers.reopen() {
            log(Severity::Err, format_args!("{error}"));
        }
    }

    /// Stops listening, ends every worker, waits until the last one is gone.
    fn stop(mut self) -> io::Result<()> {
        for running in &mut self.services {
            running.listeners.clear();
            running.held = None;
        }
        self.workers.signal_all(Signal::SIGTERM);
        let killed_at = Instant::now() + GRACE;
        let mut events = Events::with_capacity(256);
        while !self.workers.is_empty() {
            let left = killed_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.workers.signal_all(Signal::SIGKILL);
            }
            // After SIGKILL only the kernel is waited for.
            let wait = if left.is_zero() { GRACE } else { left };
            self.watch.wait(&mut events, Some(wait))?;
            while self.signals.read_signal()?.is_some() {}
            self.reap_quietly();
        }
        Ok(())
    }

    fn reap_quietly(&mut self) {
        while let Ok(Some((id, _))) = self.workers.reap() {
            self.take_last_records(id);
            self.workers.remove(id);
        }
    }
}

impl Running {
    fn new(service: Service, policy: Policy, listeners: Vec<Listener>) -> Running {
        let limits = Limits {
            workers: service.workload.max_workers,
            spare: service.workload.spare,
            per_peer: service.processor.max_connections_per_peer,
        };
        let listeners = listeners.into_iter().enumerate();
        let listeners = listeners.map(|(number, listener)| ListenerState {
            listener,
            number,
            is_ready: false,
        });
        Running {
            listeners: listeners.collect(),
            service,
            policy,
            admission: Admission::new(limits),
            held: None,
            full_warning: Throttle::default(),
            peer_warning: Throttle::default(),
            refusals: RefusalLog::default(),
        }
    }

    /// Whether a client waits, as far as is known.
    fn is_awaited(&self) -> bool {
        self.held.is_some() || self.listeners.iter().any(|l| l.is_ready)
    }

    /// The next client: the one that is held, else one of a listener. Each listener has its turn, as the
    /// queue of one may never become empty.
    fn next_client(&mut self) -> io::Result<Option<Accepted>> {
        if let Some(client) = self.held.take() {
            return Ok(Some(client));
        }
        let Some(at) = self.listeners.iter().position(|l| l.is_ready) else {
            return Ok(None);
        };
        if let Some(others) = self.listeners.get_mut(at..) {
            others.rotate_left(1);
        }
        let Some(turn) = self.listeners.last_mut() else {
            return Ok(None);
        };
        match turn.listener.accept() {
            Ok(client) => Ok(Some(client)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => {
                    turn.is_ready = false;
                    Ok(None)
                }
                io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => Ok(None),
                _ => Err(error),
            },
        }
    }
}
