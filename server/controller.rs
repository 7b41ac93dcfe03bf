//! Runs the controller: accepts clients, keeps workers ready, hands each client to one, reaps, reloads, stops.
//!
//! One thread runs one event loop over listeners, signals and worker channels (`event`). The loop passes on each event:
//! `service` serves the clients of one service, as `queue` and `admission` decide; `workers` forks and reaps; this file
//! does what signals ask for. The controller reads no byte that a client sent, loads no module, never blocks, and stays
//! small so that a fork costs little.

mod administrators;
mod admission;
mod auditing;
mod conversation;
mod departures;
mod edits;
mod event;
mod orders;
mod queue;
mod scrapers;
mod service;
mod signals;
mod successor;
mod workers;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::audit::AuditConfig;
use crate::audit::records::Told;
use crate::channel::Message;
use crate::config::Service;
use crate::counts::Heritage;
use crate::logging::{Loggers, Severity, log};
use crate::policy::Policy;
use crate::proxy;
use crate::sandbox::{self, StepError};
use crate::service_manager::ServiceManager;
use crate::sockets::Listener;

use administrators::Administrators;
use admission::WorkerId;
use auditing::{Auditing, Configured};
use departures::Departures;
use edits::Edits;
use event::{Source, Watch};
use scrapers::Scrapers;
use service::{RunningService, Shared};
pub use signals::hold_signals;
use signals::{Request, Signals};
pub use successor::Origin;
use workers::{Child, End, Workers};

/// How long workers may take to end after SIGTERM before they are killed.
const GRACE: Duration = Duration::from_secs(2);

/// The interval at which workers are repeatedly asked to leave their clients while the daemon drains: the shortest, at
/// the beginning, and the longest.
const ASKING: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The upper bound on the time of draining if the clock cannot represent the end of the configured time.
const LONGEST_DRAIN: Duration = Duration::from_secs(365 * 24 * 3600);

/// Whether the event loop goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Turn {
    GoOn,
    Stop,
}

/// What belongs to the daemon as a whole, not to one of its services.
pub struct Own {
    /// The socket for administrators.
    pub control_socket: Option<Listener>,
    /// The socket for monitoring systems.
    pub metrics: Option<Listener>,
    /// How the daemon was started.
    pub origin: Origin,
    /// The configuration file, for messages.
    pub conf: PathBuf,
    /// How long clients may take to leave when the daemon drains.
    pub drain_time: Duration,
    /// The counts of the previous daemon.
    pub heritage: Heritage,
}

/// The controller's whole state.
pub struct Controller {
    signals: Signals,
    services: Vec<RunningService>,
    shared: Shared,
    service_manager: ServiceManager,
    /// Watches the filter files, by the position of their service; `None` if the system cannot watch them.
    edits: Option<Edits>,
    /// The administrators who are connected to the control socket, if there is one.
    administrators: Option<Administrators>,
    /// The monitoring systems that are connected, if there is a socket for them.
    scrapers: Option<Scrapers>,
    /// When the daemon started.
    since: SystemTime,
    /// How the daemon was started.
    origin: Origin,
    /// The new daemon that is starting to take over, and the administrator who waits for that.
    successor: Option<(Pid, usize)>,
    /// The file descriptors that are sent with the next reply.
    enclosed: Vec<OwnedFd>,
    /// The administrator that has copies of the listening sockets.
    handed_to: Option<usize>,
    /// The configuration file, for messages.
    conf: PathBuf,
    /// How long clients may take to leave when the daemon drains.
    drain_time: Duration,
    /// While the daemon drains: when draining ends.
    drained_at: Option<Instant>,
    /// While the daemon drains: when workers were first and last asked to leave their clients.
    asked_at: Option<(Instant, Instant)>,
}

impl Controller {
    /// Takes over the listeners; no worker is started yet. Expects [`hold_signals`] before.
    pub fn new(
        services: Vec<(Service, Policy, Vec<Listener>)>,
        mut own: Own,
        loggers: Arc<Loggers>,
        trace: bool,
    ) -> io::Result<Controller> {
        let signals = Signals::new()?;
        let mut watch = Watch::new()?;
        watch.add(Source::Signals, &signals)?;
        let is_counted = own.control_socket.is_some() || own.metrics.is_some();
        let departures = Departures::new()?;
        watch.add(Source::Departures, &departures)?;
        let mut running = Vec::new();
        for (position, (settings, policy, listeners)) in services.into_iter().enumerate() {
            let service = RunningService::new(
                position,
                settings,
                policy,
                listeners,
                &mut own.heritage,
                &mut watch,
            )?;
            let service = match is_counted {
                true => service.counted()?,
                false => service,
            };
            running.push(service);
        }
        let edits = watch_filter_files(&running, &mut watch);
        let administrators = own.control_socket;
        let administrators = administrators
            .map(|listener| Administrators::new(listener, &mut watch))
            .transpose()?;
        let scrapers = own.metrics;
        let scrapers = scrapers
            .map(|listener| Scrapers::new(listener, &mut watch))
            .transpose()?;
        Ok(Controller {
            signals,
            services: running,
            shared: Shared {
                workers: Workers::default(),
                watch,
                departures,
                loggers,
                trace,
                auditing: None,
            },
            service_manager: ServiceManager::new(Instant::now()),
            edits,
            administrators,
            scrapers,
            since: SystemTime::now(),
            origin: own.origin,
            successor: None,
            enclosed: Vec::new(),
            handed_to: None,
            conf: own.conf,
            drain_time: own.drain_time,
            drained_at: None,
            asked_at: None,
        })
    }

    /// Gives up the privileges that only the start needs; returns a description of those that are left. To be called
    /// before [`Controller::run`].
    pub fn give_up_privileges(&self) -> Result<String, StepError> {
        sandbox::controller::give_up(
            self.services
                .iter()
                .map(|service| service.settings.as_ref()),
        )
    }

    /// Takes over the files of the sockets from the daemon that has been replaced. Logs an error.
    pub fn own_files(&mut self) {
        let administrators = self.administrators.as_mut();
        let control = administrators.and_then(Administrators::listener_mut);
        let services = self.services.iter_mut();
        let listeners = services.flat_map(RunningService::listeners_mut);
        for listener in listeners.chain(control) {
            if let Err(error) = listener.own_file() {
                log(
                    Severity::Err,
                    format_args!("cannot take over the file of a socket: {error}"),
                );
            }
        }
    }

    /// Starts the auditor, before any worker is started.
    pub fn audit(&mut self, config: AuditConfig) -> io::Result<()> {
        let services = self.services.iter();
        let configured = Configured {
            config,
            conf: self.conf.clone(),
            services: services.flat_map(RunningService::rules).collect(),
        };
        let auditing = Auditing::start(configured, &mut self.shared.watch)?;
        self.shared.auditing = Some(auditing);
        Ok(())
    }

    /// Runs until a signal or an administrator stops it, or draining is over; then ends every worker and removes the
    /// sockets.
    pub fn run(mut self) -> io::Result<()> {
        for service in &mut self.services {
            service.fill(&mut self.shared);
        }
        self.service_manager.ready();
        loop {
            let next = self.next_wake();
            for source in self.shared.watch.wait(next)? {
                match source {
                    Source::Signals => {
                        if self.take_signals()? == Turn::Stop {
                            return self.stop();
                        }
                    }
                    Source::Edits => {
                        if let Some(edits) = &mut self.edits {
                            edits.take_reports(Instant::now());
                        }
                    }
                    Source::ControlSocket => {
                        if let Some(administrators) = &mut self.administrators {
                            administrators.accept(&mut self.shared.watch);
                        }
                    }
                    Source::MetricsSocket => {
                        if let Some(scrapers) = &mut self.scrapers {
                            scrapers.accept(&mut self.shared.watch);
                        }
                    }
                    Source::Scraper(number) => self.serve_scraper(number),
                    Source::Administrator(number) => {
                        if self.serve_administrator(number) == Turn::Stop {
                            return self.stop();
                        }
                    }
                    Source::Listener { service, listener } => {
                        if let Some(service) = self.services.get_mut(service) {
                            service.listener_is_ready(listener);
                        }
                    }
                    Source::Departures => self.take_departures()?,
                    Source::Worker(worker) => self.take_messages(worker),
                    Source::Auditor => {
                        if let Some(auditing) = &mut self.shared.auditing {
                            auditing.take_messages(&self.shared.loggers);
                        }
                    }
                }
            }
            self.proceed_with_audit();
            self.service_manager.alive(Instant::now());
            for service in &mut self.services {
                service.end_overdue(&self.shared);
            }
            match self.drained_at {
                None => {
                    self.load_edited_rules();
                    for service in &mut self.services {
                        service.accept(&mut self.shared);
                        service.fill(&mut self.shared);
                    }
                }
                Some(end) if self.shared.workers.is_empty() || Instant::now() >= end => {
                    return self.stop();
                }
                Some(_) => self.ask_workers_to_leave(),
            }
        }
    }

    fn proceed_with_audit(&mut self) {
        let Shared {
            auditing: Some(auditing),
            workers,
            watch,
            ..
        } = &mut self.shared
        else {
            return;
        };
        let services = self.services.iter();
        auditing.proceed(watch, || {
            services
                .flat_map(|service| service.given(workers))
                .collect()
        });
    }

    fn tell_auditor(&mut self, told: &Told) {
        if let Some(auditing) = &mut self.shared.auditing {
            auditing.tell(told);
        }
    }

    /// Returns how long the loop may sleep; `None` for any time.
    fn next_wake(&self) -> Option<Duration> {
        let now = Instant::now();
        let auditing = self.shared.auditing.as_ref();
        let alive = self.service_manager.next_wake(now);
        let alive = alive
            .into_iter()
            .chain(auditing.and_then(|auditing| auditing.next_wake(now)))
            .min();
        let services = self.services.iter();
        if let Some(end) = self.drained_at {
            let left = end.saturating_duration_since(now).min(self.asking(now));
            let services = services.filter_map(|service| service.next_wake_while_draining(now));
            return services.chain(alive).chain([left]).min();
        }
        let services = services.filter_map(|service| service.next_wake(now));
        let edits = self.edits.as_ref().and_then(|edits| edits.next_wake(now));
        services.chain(alive).chain(edits).min()
    }

    fn take_signals(&mut self) -> io::Result<Turn> {
        while let Some(request) = self.signals.next_request()? {
            match request {
                Request::Stop => return Ok(Turn::Stop),
                Request::Reap => self.reap(),
                Request::Reload => drop(self.reload()),
                Request::ReopenLogs => self.reopen_logs(),
                Request::Drain => self.drain(),
            }
        }
        Ok(Turn::GoOn)
    }

    fn take_departures(&mut self) -> io::Result<()> {
        for worker in self.shared.departures.take()? {
            if let Some(service) = service_of(&mut self.services, &self.shared.workers, worker) {
                service.client_gone(worker);
            }
        }
        Ok(())
    }

    fn take_messages(&mut self, worker: WorkerId) {
        let Shared {
            workers,
            watch,
            loggers,
            ..
        } = &self.shared;
        let Some(service) = service_of(&mut self.services, workers, worker) else {
            return;
        };
        let (mut user, mut client) = (None, None);
        workers.receive(worker, watch, |message| {
            client = client.or(service.client_named(worker, &message));
            if let Some(eviction) = service.take_message(worker, &message, loggers) {
                service.evict(&eviction, &self.shared);
            }
            if let Message::User(name) = message {
                user.get_or_insert(name);
            }
        });
        if let Some(client) = client {
            self.shared.workers.set_client(worker, client);
        }
        if let Some(user) = user {
            self.shared.workers.set_user(worker, user);
        }
    }

    fn reap(&mut self) {
        loop {
            match self.shared.workers.reap() {
                Ok(Some((Child::Worker(worker), end))) => self.bury(worker, Some(end)),
                Ok(Some((Child::Other(process), end))) => {
                    let Shared {
                        auditing,
                        watch,
                        loggers,
                        ..
                    } = &mut self.shared;
                    let auditing = auditing.as_mut();
                    if !auditing.is_some_and(|it| it.ended(process, end, watch, loggers)) {
                        self.other_ended(process, end);
                    }
                }
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

    /// Takes the last messages of a worker that was reaped, and removes it. If there is an `end`, tells the service how
    /// the worker has ended.
    fn bury(&mut self, worker: WorkerId, end: Option<End>) {
        let Shared {
            workers,
            watch,
            loggers,
            auditing,
            ..
        } = &mut self.shared;
        let Some(service) = service_of(&mut self.services, workers, worker) else {
            return;
        };
        let serving = workers.serving_as(worker);
        let given = serving.and_then(|serving| service.given_to(&serving));
        let mut client = None;
        let mut reaped = workers.remove(worker, watch, |message| {
            client = client.or(service.client_named(worker, &message));
            // The client need not be evicted: its worker has ended.
            let _ = service.take_message(worker, &message, loggers);
        });
        if let (Some(reaped), Some(client)) = (&mut reaped, client) {
            reaped.client = proxy::name(client, &reaped.client);
        }
        if let (Some((given, records)), Some(auditing)) = (given, auditing) {
            let end = end.map_or_else(|| "with the daemon".to_owned(), |end| end.to_string());
            auditing.left(given, records, end);
        }
        if let (Some(reaped), Some(end)) = (reaped, end) {
            service.worker_ended(worker, end, &reaped);
        }
    }

    /// Loads the filter files and the files for TLS again. A service with an error in any of them keeps all of its old
    /// ones. The workers of connected clients keep theirs in any case. Returns the errors, a line each.
    fn reload(&mut self) -> Result<(), String> {
        self.service_manager.reloading();
        self.reopen_logs();
        if let Some(edits) = &mut self.edits {
            // Before the files are loaded, so that an edit during that loads them again.
            edits.loaded_all();
        }
        let mut errors = Vec::new();
        for service in &mut self.services {
            let reloaded = service.reload(&self.conf, &self.shared.workers);
            errors.extend(reloaded.err().map(|error| error.to_string()));
        }
        self.service_manager.ready();
        match errors.is_empty() {
            true => Ok(()),
            false => Err(errors.join("\n")),
        }
    }

    /// Loads the filter files that were edited. A service with an error in its file keeps its old rules.
    fn load_edited_rules(&mut self) {
        let Some(edits) = &mut self.edits else {
            return;
        };
        let mut services = edits.edited(Instant::now());
        services.dedup();
        for position in services {
            if let Some(service) = self.services.get_mut(position) {
                service.load_rules(&self.conf, &self.shared.workers);
            }
        }
    }

    fn reopen_logs(&mut self) {
        self.tell_auditor(&Told::Reopen);
        if let Err(error) = self.shared.loggers.reopen() {
            log(Severity::Err, format_args!("{error}"));
        }
    }

    /// Stops accepting clients, and asks workers to leave the clients that can reconnect. The other clients have some
    /// time to leave.
    fn drain(&mut self) {
        if self.drained_at.is_some() {
            return;
        }
        let seconds = self.drain_time.as_secs_f32();
        log(
            Severity::Notice,
            format_args!("draining: clients have {seconds} s to leave"),
        );
        self.service_manager.stopping();
        let now = Instant::now();
        let end = now.checked_add(self.drain_time);
        self.drain_until(end.unwrap_or(now + LONGEST_DRAIN));
    }

    fn drain_until(&mut self, end: Instant) {
        self.drained_at = Some(end);
        for service in &mut self.services {
            service.stop_listening();
            service.end_idle(&self.shared.workers);
        }
        self.ask_workers_to_leave();
    }

    /// Returns the interval at which workers are asked to leave their clients. It grows with time, because a client
    /// that cannot reconnect may stay for months after an upgrade.
    fn asking(&self, now: Instant) -> Duration {
        let (soon, late) = ASKING;
        let first = self.asked_at.map_or(now, |(first, _)| first);
        (now.saturating_duration_since(first) / 8).clamp(soon, late)
    }

    /// Asks the workers to leave their clients, if that is due. A worker with a call in progress leaves later, and may
    /// need more than one signal for it (`bindings::leaving`).
    fn ask_workers_to_leave(&mut self) {
        let now = Instant::now();
        let asking = self.asking(now);
        let is_due = |(_, last): (Instant, Instant)| now.saturating_duration_since(last) >= asking;
        if self.asked_at.is_none_or(is_due) {
            let first = self.asked_at.map_or(now, |(first, _)| first);
            self.asked_at = Some((first, now));
            self.shared.workers.signal_all(Signal::SIGUSR2);
        }
    }

    /// Stops listening, ends every worker, waits until the last one has ended, then for the auditor.
    fn stop(mut self) -> io::Result<()> {
        self.service_manager.stopping();
        for service in &mut self.services {
            service.stop_listening();
        }
        self.shared.workers.signal_all(Signal::SIGTERM);
        let killed_at = Instant::now() + GRACE;
        while !self.shared.workers.is_empty() {
            let left = killed_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.shared.workers.signal_all(Signal::SIGKILL);
            }
            // After SIGKILL, the end of the workers depends only on the kernel.
            let wait = if left.is_zero() { GRACE } else { left };
            self.shared.watch.wait(Some(wait))?;
            while self.signals.next_request()?.is_some() {}
            while let Ok(Some((child, _))) = self.shared.workers.reap() {
                // All workers were told to end, so their exit status has no meaning.
                if let Child::Worker(worker) = child {
                    self.bury(worker, None);
                }
            }
        }
        if let Some(auditing) = self.shared.auditing {
            auditing.finish(&mut self.shared.watch, &self.shared.loggers);
        }
        Ok(())
    }
}

/// Watches the filter files of each service. If the system cannot do that, edited files are loaded only at SIGHUP.
fn watch_filter_files(services: &[RunningService], watch: &mut Watch) -> Option<Edits> {
    let services = services.iter().enumerate();
    let files = services.flat_map(|(position, service)| {
        let files = service.filter_files().iter();
        files.map(move |file| (position, file.clone()))
    });
    let edits = Edits::watch(files).and_then(|edits| {
        watch.add(Source::Edits, &edits)?;
        Ok(edits)
    });
    edits
        .inspect_err(|error| {
            log(
                Severity::Warning,
                format_args!(
                    "cannot watch filter files, so that edits are loaded only at SIGHUP: {error}"
                ),
            );
        })
        .ok()
}

/// Returns the service of a worker.
fn service_of<'a>(
    services: &'a mut [RunningService],
    workers: &Workers,
    worker: WorkerId,
) -> Option<&'a mut RunningService> {
    services.get_mut(workers.service(worker)?)
}
