//! The controller: accepts clients, keeps workers ready, hands each client to one, reaps, reloads,
//! stops.
//!
//! One thread, one event loop over listeners, signals and worker channels. It reads no byte a client
//! sent, loads no module, and stays small so that a fork costs little.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::channel::{self, ControllerEnd, Message};
use crate::config::Service;
use crate::logging::{Loggers, Record, Route, Severity, log};
use crate::policy::Policy;
use crate::sockets::{Accepted, Listener, Peer};
use crate::throttle::{RefusalLog, Throttle};
use crate::worker::{self, Setup};

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

const SIGNAL_TOKEN: Token = Token(0);

/// Log records taken from one worker before the others have their turn.
const RECORDS_A_TURN: usize = 64;

/// Turns that a worker's last records get: more than its channel can hold. A process that its module
/// left behind may go on writing.
const LAST_TURNS: usize = 64;

/// Connections accepted for a service before everything else has its turn.
const ACCEPTS_A_TURN: usize = 64;

/// How long workers have to end after SIGTERM before they are killed.
const GRACE: Duration = Duration::from_secs(2);

/// Workers that ended in a row without having had a client, after which forking pauses.
const EARLY_ENDS: u32 = 10;

/// How long forking pauses then.
const FORK_PAUSE: Duration = Duration::from_secs(1);

/// How long a TLS handshake may take when all workers are taken and other clients wait.
const HANDSHAKE_GRACE: Duration = Duration::from_millis(250);

/// Handshakes that are ended at once then.
const EVICTIONS_A_TURN: usize = 8;

/// A service as it runs.
struct Running {
    service: Service,
    policy: Policy,
    listeners: Vec<ListenerState>,
    /// Tokens of workers that wait for a client.
    idle: VecDeque<Token>,
    /// Workers altogether.
    workers: usize,
    /// Clients by peer, for `max_connections_per_peer`.
    peers: HashMap<Peer, usize>,
    early_ends: u32,
    /// When accepting and forking may go on.
    paused_until: Option<Instant>,
    /// A client for whom no worker could be forked. It is the next to get one.
    held: Option<Accepted>,
    full_warning: Throttle,
    peer_warning: Throttle,
    refusals: RefusalLog,
}

struct ListenerState {
    listener: Listener,
    token: Token,
    /// Whether connections may be waiting: the event said so and accepting has not run dry since.
    is_ready: bool,
}

struct Worker {
    pid: Pid,
    channel: ControllerEnd,
    service: usize,
    state: WorkerState,
    /// Who its client is, for the log.
    client: String,
}

enum WorkerState {
    Idle,
    Serving(Peer),
    /// With a client since then whose TLS handshake has not succeeded yet.
    ShakingHands(Peer, Instant),
    /// Ended within a handshake, to make room for another client.
    Evicted(Peer),
    /// Told to end while idle, to make room for one with newer rules.
    Retired,
}

/// Why the event loop ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Turn {
    GoOn,
    Stop,
}

/// The controller's whole state.
pub struct Controller {
    poll: Poll,
    signals: SignalFd,
    services: Vec<Running>,
    workers: HashMap<Token, Worker>,
    tokens: HashMap<Pid, Token>,
    next_token: usize,
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
        let poll = Poll::new()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&signals(), flags)?;
        let source = signals.as_fd().as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&source), SIGNAL_TOKEN, Interest::READABLE)?;

        let (workers, tokens) = (HashMap::new(), HashMap::new());
        let mut controller = Controller {
            poll,
            signals,
            services: Vec::new(),
            workers,
            tokens,
            next_token: SIGNAL_TOKEN.0 + 1,
            conf,
            loggers,
            trace,
        };
        for (service, policy, listeners) in services {
            let listeners = listeners
                .into_iter()
                .map(|listener| controller.listen(listener));
            let running = Running {
                listeners: listeners.collect::<io::Result<_>>()?,
                service,
                policy,
                idle: VecDeque::new(),
                workers: 0,
                peers: HashMap::new(),
                early_ends: 0,
                paused_until: None,
                held: None,
                full_warning: Throttle::default(),
                peer_warning: Throttle::default(),
                refusals: RefusalLog::default(),
            };
            controller.services.push(running);
        }
        Ok(controller)
    }

    fn listen(&mut self, listener: Listener) -> io::Result<ListenerState> {
        let token = self.new_token();
        let source = listener.as_fd().as_raw_fd();
        self.poll
            .registry()
            .register(&mut SourceFd(&source), token, Interest::READABLE)?;
        Ok(ListenerState {
            listener,
            token,
            is_ready: false,
        })
    }

    fn new_token(&mut self) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        token
    }

    /// Runs until a signal stops it; then ends every worker and removes the sockets.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        for service in 0..self.services.len() {
            self.fill(service);
        }
        loop {
            match self.poll.poll(&mut events, self.next_wake()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    SIGNAL_TOKEN => {
                        if self.take_signals()? == Turn::Stop {
                            return self.stop();
                        }
                    }
                    token if self.workers.contains_key(&token) => {
                        self.take_records(token);
                    }
                    token => self.mark_ready(token),
                }
            }
            for service in 0..self.services.len() {
                self.accept(service);
                self.fill(service);
            }
        }
    }

    /// How long the loop may sleep: not at all when a listener was left with clients waiting that
    /// can be served, until the pause ends when forking pauses, until a handshake takes too long
    /// when others wait for its worker.
    fn next_wake(&self) -> Option<Duration> {
        let wakes = self
            .services
            .iter()
            .enumerate()
            .filter_map(|(service, running)| {
                if running.is_awaited() {
                    if running.can_accept() {
                        return Some(Duration::ZERO);
                    }
                    if let Some((since, _)) = self
                        .handshakes(service)
                        .into_iter()
                        .min_by_key(|(since, _)| *since)
                    {
                        return Some(HANDSHAKE_GRACE.saturating_sub(since.elapsed()));
                    }
                }
                running
                    .paused_until
                    .map(|until| until.saturating_duration_since(Instant::now()))
            });
        wakes.min()
    }

    fn mark_ready(&mut self, token: Token) {
        let listeners = self
            .services
            .iter_mut()
            .flat_map(|running| &mut running.listeners);
        for listener in listeners.filter(|listener| listener.token == token) {
            listener.is_ready = true;
        }
    }

    /// Accepts what can be served now. At the limit of workers the rest waits in the kernel's queue.
    fn accept(&mut self, service: usize) {
        for _ in 0..ACCEPTS_A_TURN {
            let running = &mut self.services[service];
            if !running.is_awaited() {
                return;
            }
            if !running.can_accept() {
                self.evict(service);
                let running = &mut self.services[service];
                let limit = running.service.workload.max_workers;
                if running.workers >= limit && running.full_warning.passes(Instant::now()) {
                    let name = &running.service.name;
                    log(
                        Severity::Alert,
                        format_args!("{name}: all {limit} workers are busy, clients wait"),
                    );
                }
                return;
            }
            if let Some(client) = running.held.take() {
                self.admit(service, client);
                continue;
            }
            let Some(at) = running.listeners.iter().position(|l| l.is_ready) else {
                return;
            };
            // The others have their turn first: the queue of one may never become empty.
            running.listeners[at..].rotate_left(1);
            let Some(turn) = running.listeners.last_mut() else {
                return;
            };
            match turn.listener.accept() {
                Ok(accepted) => self.admit(service, accepted),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => turn.is_ready = false,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        log(Severity::Crit, format_args!("cannot accept: {error}"));
                        running.paused_until = Some(Instant::now() + FORK_PAUSE);
                        return;
                    }
                },
            }
        }
    }

    /// With all workers taken and clients waiting, ends those whose TLS handshake has taken longest,
    /// so that peers that never finish it keep nobody out. SIGCHLD makes their places free.
    fn evict(&mut self, service: usize) {
        let mut shaking = self.handshakes(service);
        shaking.sort_by_key(|(since, _)| *since);
        shaking.retain(|(since, _)| since.elapsed() >= HANDSHAKE_GRACE);
        for (_, token) in shaking.into_iter().take(EVICTIONS_A_TURN) {
            self.end_handshake(token);
        }
    }

    /// Workers that could be evicted one day, and since when they shake hands; none as long as
    /// places of evicted ones are becoming free.
    fn handshakes(&self, service: usize) -> Vec<(Instant, Token)> {
        let mut shaking = Vec::new();
        for (token, worker) in self
            .workers
            .iter()
            .filter(|(_, worker)| worker.service == service)
        {
            match worker.state {
                WorkerState::ShakingHands(_, since) => shaking.push((since, *token)),
                WorkerState::Evicted(_) => return Vec::new(),
                _ => {}
            }
        }
        shaking
    }

    fn end_handshake(&mut self, token: Token) {
        let Some(worker) = self.workers.get_mut(&token) else {
            return;
        };
        if let WorkerState::ShakingHands(peer, since) = &worker.state {
            let message = format!(
                "client {peer}: TLS handshake ended after {:.1} s: all workers are busy and others wait",
                since.elapsed().as_secs_f32()
            );
            worker.state = WorkerState::Evicted(peer.clone());
            // One that ended just now is reaped next.
            let _ = kill(worker.pid, Signal::SIGKILL);
            let service = worker.service;
            self.log_refusal(service, Severity::Warning, &message);
        }
    }

    /// Hands a client to an idle worker, or to a new one. While none can be forked, which pauses
    /// accepting too, the client waits.
    fn admit(&mut self, service: usize, client: Accepted) {
        let running = &mut self.services[service];
        let limit = running.service.processor.max_connections_per_peer;
        let connected = running.peers.get(&client.peer).copied().unwrap_or(0);
        if limit > 0 && connected >= limit {
            if running.peer_warning.passes(Instant::now()) {
                let name = &client.name;
                log(
                    Severity::Warning,
                    format_args!("client {name} refused: has {connected} connections"),
                );
            }
            return;
        }
        loop {
            let running = &mut self.services[service];
            let Some(token) = running.idle.pop_front() else {
                match self.fork(service) {
                    Ok(()) => continue,
                    Err(error) => {
                        self.fork_failed(service, &error);
                        self.services[service].held = Some(client);
                        return;
                    }
                }
            };
            let Some(worker) = self.workers.get_mut(&token) else {
                continue;
            };
            // A worker that died meanwhile: SIGCHLD is on its way, try another.
            if worker
                .channel
                .hand_over(client.socket.as_fd(), &client.name)
                .is_ok()
            {
                *running.peers.entry(client.peer.clone()).or_default() += 1;
                running.early_ends = 0;
                worker.client = client.name;
                worker.state = match running.policy.tls {
                    None => WorkerState::Serving(client.peer),
                    Some(_) => WorkerState::ShakingHands(client.peer, Instant::now()),
                };
                return;
            }
        }
    }

    /// Forks until the configured number of workers waits for clients.
    fn fill(&mut self, service: usize) {
        loop {
            let running = &mut self.services[service];
            if running
                .paused_until
                .is_some_and(|until| Instant::now() < until)
            {
                return;
            }
            running.paused_until = None;
            let workload = &running.service.workload;
            if running.idle.len() >= workload.spare || running.workers >= workload.max_workers {
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
        self.services[service].paused_until = Some(Instant::now() + FORK_PAUSE);
    }

    fn fork(&mut self, service: usize) -> io::Result<()> {
        let (channel, theirs) = channel::pair()?;
        let token = self.new_token();
        let source = channel.as_fd().as_raw_fd();
        self.poll
            .registry()
            .register(&mut SourceFd(&source), token, Interest::READABLE)?;
        let running = &mut self.services[service];
        let setup = Setup {
            service: &running.service,
            rules: running.policy.rules.clone(),
            tls: running.policy.tls.clone(),
            trace: self.trace,
            controller: nix::unistd::getpid(),
        };
        let pid = bindings::sys::fork_child(theirs, |theirs| worker::run(&setup, theirs))?;
        running.workers += 1;
        running.idle.push_back(token);
        self.tokens.insert(pid, token);
        self.workers.insert(
            token,
            Worker {
                pid,
                channel,
                service,
                state: WorkerState::Idle,
                client: String::new(),
            },
        );
        Ok(())
    }

    /// Takes a turn's worth of a worker's messages; whether more may wait.
    fn take_records(&mut self, token: Token) -> bool {
        for _ in 0..RECORDS_A_TURN {
            let Some(worker) = self.workers.get_mut(&token) else {
                return false;
            };
            let service = worker.service;
            let component = &self.services[service].service.name;
            match worker.channel.next_message() {
                Ok(Some(Message::Log(record))) => {
                    self.loggers.record(&record.for_component(component));
                }
                Ok(Some(Message::Refusal(record))) => {
                    let record = record.for_component("");
                    self.log_refusal(service, record.severity, record.message);
                }
                Ok(Some(Message::Established)) => {
                    if let WorkerState::ShakingHands(peer, _) = &worker.state {
                        worker.state = WorkerState::Serving(peer.clone());
                    }
                }
                // The worker is gone: SIGCHLD tells more.
                Ok(None) | Err(_) => return false,
            }
        }
        let Some(worker) = self.workers.get(&token) else {
            return false;
        };
        // More may wait, and the event will not come again by itself.
        let source = worker.channel.as_fd().as_raw_fd();
        let interest = Interest::READABLE;
        if let Err(error) = self
            .poll
            .registry()
            .reregister(&mut SourceFd(&source), token, interest)
        {
            log(
                Severity::Err,
                format_args!("cannot watch worker {}: {error}", worker.pid),
            );
        }
        true
    }

    /// Takes what a worker that ended logged last.
    fn take_last_records(&mut self, token: Token) {
        (0..LAST_TURNS).all(|_| self.take_records(token));
    }

    fn log_refusal(&mut self, service: usize, severity: Severity, message: &str) {
        let Running {
            service, refusals, ..
        } = &mut self.services[service];
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
            match self.next_ended() {
                Ok(Some((pid, end))) => self.bury(pid, end),
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

    fn bury(&mut self, pid: Pid, end: End) {
        let Some(token) = self.tokens.remove(&pid) else {
            return;
        };
        self.take_last_records(token);
        let Some(worker) = self.workers.remove(&token) else {
            return;
        };
        let source = worker.channel.as_fd().as_raw_fd();
        // Closing the channel takes it out of the poll as well.
        let _ = self.poll.registry().deregister(&mut SourceFd(&source));
        let running = &mut self.services[worker.service];
        running.workers -= 1;
        match worker.state {
            WorkerState::Serving(ref peer)
            | WorkerState::ShakingHands(ref peer, _)
            | WorkerState::Evicted(ref peer) => {
                if let Some(connected) = running.peers.get_mut(peer) {
                    *connected -= 1;
                    if *connected == 0 {
                        running.peers.remove(peer);
                    }
                }
            }
            WorkerState::Idle => {
                running.idle.retain(|idle| *idle != token);
                running.early_ends += 1;
                if running.early_ends >= EARLY_ENDS {
                    running.early_ends = 0;
                    running.paused_until = Some(Instant::now() + FORK_PAUSE);
                }
            }
            WorkerState::Retired => {}
        }
        let is_expected = matches!(worker.state, WorkerState::Retired | WorkerState::Evicted(_));
        if !is_expected && end != End::Exit(worker::DONE) {
            let name = &running.service.name;
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

    /// Reads the filter files and what TLS needs again; anything bad in a service's leaves both as
    /// they are. Clients that are connected keep what they have.
    fn reload(&mut self) {
        self.reopen_logs();
        for service in 0..self.services.len() {
            let running = &mut self.services[service];
            match Policy::load(&running.service, &self.conf) {
                Ok(policy) => {
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
                    for token in running.idle.drain(..) {
                        if let Some(worker) = self.workers.get_mut(&token) {
                            worker.state = WorkerState::Retired;
                            let _ = kill(worker.pid, Signal::SIGTERM);
                        }
                    }
                }
                Err(error) => log(
                    Severity::Err,
                    format_args!("filter rules and TLS stay as they are: {error}"),
                ),
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
        self.signal_workers(Signal::SIGTERM);
        let killed_at = Instant::now() + GRACE;
        let mut events = Events::with_capacity(256);
        while !self.workers.is_empty() {
            let left = killed_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.signal_workers(Signal::SIGKILL);
            }
            // After SIGKILL only the kernel is waited for.
            let wait = if left.is_zero() { GRACE } else { left };
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            while self.signals.read_signal()?.is_some() {}
            self.reap_quietly();
        }
        Ok(())
    }

    fn signal_workers(&self, signal: Signal) {
        for worker in self.workers.values() {
            // One that ended just now is reaped next.
            let _ = kill(worker.pid, signal);
        }
    }

    /// Reaps a child that ended, if one did. What a worker's module left behind in its process group
    /// ends with it: such a process would keep the client's socket open. While the worker is not
    /// reaped, the group's number is no other's. Other children are those of whoever started us, and,
    /// of process 1, all that lost their parents.
    fn next_ended(&self) -> Result<Option<(Pid, End)>, Errno> {
        let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        loop {
            let pid = match waitid(Id::All, ended | WaitPidFlag::WNOWAIT) {
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => pid,
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(None),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => return Err(error),
            };
            if self.tokens.contains_key(&pid) {
                // Mostly nobody is left.
                let _ = killpg(pid, Signal::SIGKILL);
            }
            match waitid(Id::Pid(pid), ended) {
                Ok(WaitStatus::Exited(_, status)) => return Ok(Some((pid, End::Exit(status)))),
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    return Ok(Some((pid, End::Signal(signal))));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn reap_quietly(&mut self) {
        while let Ok(Some((pid, _))) = self.next_ended() {
            if let Some(token) = self.tokens.remove(&pid) {
                self.take_last_records(token);
                self.workers.remove(&token);
            }
        }
    }
}

impl Running {
    /// Whether a client waits, as far as is known.
    fn is_awaited(&self) -> bool {
        self.held.is_some() || self.listeners.iter().any(|l| l.is_ready)
    }

    /// Whether a client can be served at once.
    fn can_accept(&self) -> bool {
        let paused = self
            .paused_until
            .is_some_and(|until| Instant::now() < until);
        !paused && (!self.idle.is_empty() || self.workers < self.service.workload.max_workers)
    }
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Exit(i32),
    Signal(Signal),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Exit(status) => write!(f, "with exit code {status}"),
            End::Signal(signal) => write!(f, "by signal {signal}"),
        }
    }
}
