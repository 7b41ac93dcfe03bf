//! Runs a worker process: it gives up its privileges, waits for one client, serves it, and exits.
//!
//! The controller forks it ahead of need. The worker closes its descriptors (in `bindings::sys::fork_child`), detaches
//! itself from the controller, drops its privileges, and enters what the section `sandbox` configures
//! (`crate::sandbox`). `ARCHITECTURE.md` lists all steps in their order. The worker reads a PROXY header and does a TLS
//! handshake only afterwards. There is one exception: if a profile has a sandbox of its own, the last step waits until
//! the client's profile is known (`crate::profiles`), but still comes before the module is loaded. A worker never
//! serves a second client, because PKCS#11 login state belongs to the process.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::io::Read;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bindings::leaving;
use filter::Rules;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getppid, initgroups, setgroups, setpgid, setresgid, setresuid};
use socket2::{Domain, Socket};
use transport::halves::Halves;
use transport::{Deadline, TimedSocket};
use xdr::record::LARGE;

use crate::activity::Activity;
use crate::audit::records::{FromWorker, RecordSender};
use crate::audit::trail::Trail;
use crate::channel::{Cause, WorkerEnd};
use crate::config::{Identity, Service};
use crate::connection::{self, ConnectionError, Limits};
use crate::failed_logins::FailedLogins;
use crate::gateway::{Gateway, Granted};
use crate::logging::{self, Severity, log};
use crate::login_limit::{Guard, Guesser};
use crate::metrics::Meter;
use crate::opening::{self, FirstCall};
use crate::parallel;
use crate::policy::ProfileRules;
use crate::profiles::limits::ClientLimits;
use crate::profiles::usage::Usage;
use crate::profiles::{self, Fingerprint, Otherwise};
use crate::proxy::{self, Origin};
use crate::record_memory::Share;
use crate::sandbox::{self, Sandbox, StepError};
use crate::sockets::Peer;
use crate::tls::acceptor::{Acceptor, Certificate, Refusal};

/// The exit status of a worker that ends as intended. It is not 0, since a module may call `exit(0)`
/// within a call.
pub const DONE: i32 = 100;

/// The exit status of a worker that could not give up its privileges.
const NOT_CONFINED: i32 = 71;

/// How long the connection of a refused client stays open, so that the client can read the reason.
const LEAVE_TIME: Duration = Duration::from_millis(200);

/// What a worker inherits from the controller.
pub struct Setup<'a> {
    /// The service its client belongs to.
    pub service: Arc<Service>,
    /// The filter rules at the time of the fork.
    pub rules: Arc<Rules>,
    /// The filter rules of the profiles that have their own.
    pub profile_rules: ProfileRules,
    /// What the clients of each profile use; `None` if the worker's client gets no profile.
    pub usage: Option<Usage>,
    /// Its place in the memory that workers share.
    pub place: usize,
    /// The TLS acceptor at the time of the fork; `None` without TLS.
    pub tls: Option<Arc<Acceptor>>,
    /// Whether its client's connection begins with a PROXY header.
    pub has_header: bool,
    /// Its share of the memory for large records.
    pub memory: Share,
    /// Where it notes its state and its current call.
    pub activity: Activity,
    /// Where it counts and measures its calls.
    pub meter: Meter,
    /// The failed logins of all clients; `None` if there is no limit.
    pub logins: Option<FailedLogins>,
    /// Sends the records of its calls to the auditor; `None` without an audit log.
    pub audit: Option<&'a RecordSender>,
    /// Whether calls are logged (`-debug-pkcs11`).
    pub trace: bool,
    /// The controller's process id. If a worker has another parent, the controller has ended.
    pub controller: Pid,
}

/// Runs the worker; returns its exit status.
pub fn run(setup: &Setup<'_>, channel: WorkerEnd) -> i32 {
    let channel = Arc::new(channel);
    // The controller blocks SIGUSR2 in its children until they set their own signal mask.
    if let Err(error) = leaving::take_signal() {
        log(
            Severity::Err,
            format_args!("worker cannot handle SIGUSR2: {error}"),
        );
        return NOT_CONFINED;
    }
    bindings::sys::free_at_once(LARGE);
    logging::switch(channel.clone(), &setup.service.name);
    logging::set_filter_subchannel(&setup.rules.log_subchannel);
    if !setup.has_header {
        setup.rules.announce();
    }
    let sandbox = match confine(setup) {
        Ok(sandbox) => sandbox,
        Err(error) => {
            log(
                Severity::Crit,
                format_args!("worker cannot give up its privileges: {error}"),
            );
            return NOT_CONFINED;
        }
    };
    match channel.client() {
        Ok(Some((socket, name))) => {
            let socket = socket.into();
            if let Some(connected) = identify(setup, &channel, &socket, name) {
                serve(setup, &channel, socket, connected, sandbox);
            }
        }
        Ok(None) => {}
        Err(error) => log(
            Severity::Err,
            format_args!("worker did not receive a client: {error}"),
        ),
    }
    DONE
}

/// How far the worker is confined before the client is known.
enum Confinement {
    /// The worker is in the sandbox of the service.
    Done,
    /// The client's profile decides on the sandbox. Has the file that system calls are written to, if they are.
    ByProfile(Option<File>),
}

/// The client, as far as its connection identifies it.
struct Connected {
    /// The client's name in the log.
    name: String,
    /// The peer for which limits count the client.
    peer: Peer,
    /// What is known so far of the properties that decide on its profile; nothing if no profile is chosen.
    client: profiles::Client,
}

/// Identifies the client, from the PROXY header if there is one. Returns `None` if it is not served.
fn identify(
    setup: &Setup<'_>,
    channel: &WorkerEnd,
    socket: &Socket,
    name: String,
) -> Option<Connected> {
    let origin = match setup.has_header {
        false => Origin::Balancer,
        true => read_header(setup, channel, socket, &name)?,
    };
    if setup.has_header {
        // Only now, so that it is not logged for each health check.
        setup.rules.announce();
    }
    let (name, peer, client) = match origin {
        Origin::Client(address) => {
            let client = profiles::Client::at(address.ip());
            let name = proxy::name(address, &name);
            (name, Peer::at(address.ip()), client)
        }
        Origin::Balancer => {
            let (Ok(peer), Ok(client)) = (Peer::of(socket), profiles::Client::of(socket)) else {
                // The calls that it has sent could still be read, but no rule would know whose they are.
                log(
                    Severity::Info,
                    format_args!("client {name} has left before it was served"),
                );
                return None;
            };
            (name, peer, client)
        }
    };
    let client = match &setup.usage {
        Some(_) => client,
        None => profiles::Client::default(),
    };
    Some(Connected { name, peer, client })
}

/// Reads the PROXY header. Returns `None` if the client is refused, or if the connection is a health check.
fn read_header(
    setup: &Setup<'_>,
    channel: &WorkerEnd,
    socket: &Socket,
    name: &str,
) -> Option<Origin> {
    opening::tell_if_header_waits(channel, socket);
    let origin = match proxy::read(socket) {
        Ok(origin) => origin,
        Err(refusal @ proxy::Refusal::Silent) => {
            log(
                Severity::Debug,
                format_args!("client {name}: {refusal}: a health check"),
            );
            return None;
        }
        Err(refusal) => {
            channel.refused(
                Cause::Proxy,
                Severity::Warning,
                &format!("client {name} refused: {refusal}"),
            );
            return None;
        }
    };
    // Without this message the controller could not count the client for its address, and would end it later.
    if !channel.header_came(origin) {
        return None;
    }
    if let Some(audit) = setup.audit {
        audit.send(&FromWorker::Peer(match origin {
            Origin::Client(address) => proxy::name(address, name),
            Origin::Balancer => name.to_owned(),
        }));
    }
    // Before a handshake, the controller takes a worker for one that limits the time itself.
    let processor = &setup.service.processor;
    let limit = setup.tls.as_ref().map(|_| processor.handshake_timeout);
    let comes = || -> io::Result<bool> {
        socket.set_read_timeout(limit)?;
        let count = socket.peek(&mut [MaybeUninit::uninit()])?;
        socket.set_read_timeout(None)?;
        Ok(count > 0)
    };
    let is_over = || !comes().unwrap_or(false);
    if origin == Origin::Balancer && is_over() {
        log(
            Severity::Debug,
            format_args!("client {name}: a health check of the load balancer"),
        );
        return None;
    }
    Some(origin)
}

fn serve(
    setup: &Setup<'_>,
    channel: &Arc<WorkerEnd>,
    socket: Socket,
    connected: Connected,
    sandbox: Confinement,
) {
    let Connected {
        name,
        peer,
        mut client,
    } = connected;
    let processor = &setup.service.processor;
    // A failure only makes the connection slower, so the client is served nevertheless.
    if socket.domain().is_ok_and(|domain| domain != Domain::UNIX) {
        let _ = socket.set_tcp_nodelay(true);
    }
    // A draining daemon ends the connection through this copy. Without one, the client is served until it disconnects.
    if let Ok(socket) = socket.try_clone() {
        leaving::serve(socket.into());
    }
    let guesser = Guesser::Peer(peer);
    let peer = name.as_str();
    match &setup.tls {
        None => {
            let terms = match terms(setup, &client, &guesser, peer, sandbox) {
                Ok(terms) => terms,
                Err(refusal) => {
                    refusal.log(channel, peer);
                    return drain_refused(&socket);
                }
            };
            opening::tell_if_it_waits(channel, &socket);
            let plain = Halves::plain(TimedSocket::new(socket));
            // An error has been logged, and without TLS there is no closing alert to send.
            let _ = serve_calls(setup, channel, plain, peer, guesser, terms);
        }
        Some(tls) => {
            let refused = socket.try_clone();
            match tls.accept(socket, processor.handshake_timeout) {
                Ok(accepted) => {
                    channel.shook_hands();
                    let user = &accepted.user;
                    channel.user(user);
                    if let Some(audit) = setup.audit {
                        audit.send(&FromWorker::User(user.clone()));
                    }
                    log(
                        Severity::Info,
                        format_args!("user={user} is authenticated and connected"),
                    );
                    let closer = accepted.halves.closer.clone();
                    let guesser = match accepted.certificate {
                        Some(Certificate {
                            fingerprint,
                            counted_as,
                            issuer,
                        }) => {
                            client.certificate = Some(Fingerprint(fingerprint));
                            client.subject = Some(accepted.user.clone());
                            client.issuer = Some(issuer);
                            Guesser::Certificate(counted_as, accepted.user)
                        }
                        None => {
                            client.psk = Some(accepted.user.clone());
                            Guesser::Identity(accepted.user)
                        }
                    };
                    let terms = match terms(setup, &client, &guesser, peer, sandbox) {
                        Ok(terms) => terms,
                        Err(refusal) => {
                            refusal.log(channel, peer);
                            closer.farewell(Deadline::after(LEAVE_TIME));
                            if let Ok(socket) = refused {
                                drain_refused(&socket);
                            }
                            return;
                        }
                    };
                    drop(refused);
                    if serve_calls(setup, channel, accepted.halves, peer, guesser, terms).is_ok() {
                        closer.farewell(Deadline::after(processor.record_timeout));
                    }
                }
                // A scan, or a probe of a load balancer.
                Err(Refusal::Silent) => log(
                    Severity::Debug,
                    format_args!("client {peer}: {}", Refusal::Silent),
                ),
                Err(refusal) => {
                    let severity = match refusal {
                        Refusal::NotAllowed { .. } | Refusal::NobodyConnects => Severity::Err,
                        _ => Severity::Warning,
                    };
                    channel.refused(Cause::Tls, severity, &format!("client {peer}: {refusal}"));
                    if let Ok(socket) = refused {
                        drain_refused(&socket);
                    }
                }
            }
        }
    }
}

/// Lets a refused client read the alert that gives the reason. Closing a connection with unread bytes
/// resets it, and a client with TLS 1.3 has sent its first call by then.
fn drain_refused(socket: &Socket) {
    let end = Instant::now() + LEAVE_TIME;
    // This may fail if the client has already disconnected.
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.set_read_timeout(Some(LEAVE_TIME));
    let mut from = socket;
    while Instant::now() < end && from.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
}

/// Why a client is refused after its profile was looked up.
#[derive(Debug, thiserror::Error)]
enum Unserved {
    /// It has no profile, and `without_profile` refuses such clients.
    #[error("refused: no profile matches {0}")]
    NoProfile(String),
    /// The clients of its profile have as many connections as `max_connections` allows.
    #[error("refused: its profile {0} already has max_connections, {1}")]
    Full(String, usize),
    /// The worker could not enter its sandbox. This is a fault of the system: the steps were tried at start.
    #[error("refused: the worker cannot give up its privileges: {0}")]
    Sandbox(#[from] StepError),
}

impl Unserved {
    fn log(&self, channel: &WorkerEnd, peer: &str) {
        let severity = match self {
            Unserved::NoProfile(_) | Unserved::Full(..) => Severity::Warning,
            Unserved::Sandbox(_) => Severity::Crit,
        };
        channel.refused(Cause::Profile, severity, &format!("client {peer}: {self}"));
    }
}

/// The rules and limits that apply to a client.
struct Terms {
    rules: Arc<Rules>,
    /// How many of its calls are executed at the same time.
    parallel_calls: usize,
    granted: Granted,
}

/// Finds the client's profile, and enters the sandbox if that depends on it.
fn terms(
    setup: &Setup<'_>,
    client: &profiles::Client,
    guesser: &Guesser,
    peer: &str,
    sandbox: Confinement,
) -> Result<Terms, Unserved> {
    let processor = &setup.service.processor;
    let mut terms = Terms {
        rules: setup.rules.clone(),
        parallel_calls: processor.max_parallel_calls,
        granted: Granted::default(),
    };
    let usage = setup.usage.as_ref();
    let chosen = usage.and_then(|_| profiles::choose(&processor.profiles, client));
    let chosen = chosen.and_then(|at| Some((at, processor.profiles.get(at)?)));
    if let (Some(usage), Some((position, profile))) = (usage, chosen) {
        let name = &profile.name.value;
        if !usage.enter(setup.place, position, profile.max_connections) {
            let most = profile.max_connections.unwrap_or_default();
            return Err(Unserved::Full(name.clone(), most));
        }
        if let Some(audit) = setup.audit {
            audit.send(&FromWorker::Profile(name.clone()));
        }
        log(
            Severity::Info,
            format_args!("client {peer}: profile {name}"),
        );
        if let Some(rules) = setup.profile_rules.get(position).and_then(Option::as_ref) {
            logging::set_filter_subchannel(&rules.log_subchannel);
            rules.announce();
            terms.rules = rules.clone();
        }
        let limits = profile.limits;
        terms.parallel_calls = limits.calls_in_flight.unwrap_or(terms.parallel_calls);
        terms.granted.modules = profile.modules.as_ref().map(|at| at.value.clone());
        if limits.concern_calls() {
            let key = usage.key(&(name, guesser));
            let limits = ClientLimits::new(limits, usage.clone(), key, peer, name);
            terms.granted.limits = Some(limits);
        }
    } else if usage.is_some() && processor.without_profile == Otherwise::Refuse {
        return Err(Unserved::NoProfile(client.to_string()));
    }
    if let Confinement::ByProfile(recording) = sandbox {
        let own = chosen.and_then(|(_, profile)| profile.sandbox.as_ref());
        let sandbox = own.unwrap_or(&processor.sandbox);
        let rules = &terms.rules;
        let modules = rules.modules.iter();
        let modules = modules.filter(|entry| terms.granted.includes(rules, entry));
        let modules = modules.map(|entry| entry.path.as_path());
        enter(&setup.service, sandbox, modules, recording)?;
    }
    Ok(terms)
}

/// Serves the client until it leaves. Returns an error, which is logged, if it is cut off.
fn serve_calls(
    setup: &Setup<'_>,
    channel: &Arc<WorkerEnd>,
    halves: Halves,
    peer: &str,
    guesser: Guesser,
    terms: Terms,
) -> Result<(), ConnectionError> {
    let service = setup.service.clone();
    let limits = Limits {
        record_size: service.processor.max_record_size,
        record_time: service.processor.record_timeout,
        parallel_calls: terms.parallel_calls,
    };
    let first_call = FirstCall::new(channel.clone());
    let rules = terms.rules;
    let logins = setup.logins.clone();
    let logins = logins.map(|logins| Guard::new(logins, guesser, peer, channel.clone()));
    let (activity, meter, trace) = (setup.activity, setup.meter, setup.trace);
    let trail = setup.audit.cloned().map(Trail::new);
    let gateway = Gateway::new(rules, service, activity, meter, trace, first_call, logins);
    let gateway = gateway
        .recorded(trail)
        .with_profile(terms.granted, terms.parallel_calls);
    let gateway = Arc::new(gateway);
    let (incoming, outgoing) = connection::timed(halves, limits.record_time);
    let memory = setup.memory.clone();
    let result = parallel::serve(incoming, outgoing, gateway.clone(), limits, memory);
    if let Err(error) = &result {
        log(Severity::Warning, format_args!("client {peer}: {error}"));
    }
    // The module ends with the process, without C_Finalize, as in the original. Unloading it first would run its code
    // once more to no purpose.
    std::mem::forget(gateway);
    result
}

/// Gives up all privileges that serving a client of this service does not need, in the order of ARCHITECTURE.md. If the
/// client's profile decides on the sandbox, that step is left to [`terms`].
fn confine(setup: &Setup<'_>) -> Result<Confinement, StepError> {
    let service = &setup.service;
    let processor = &service.processor;
    let recording = give_up_privileges(service, setup.controller)?;
    let mut profiles = processor.profiles.iter();
    if setup.usage.is_some() && profiles.any(|profile| profile.sandbox.is_some()) {
        sandbox::drop_capabilities(processor.sandboxes())?;
        return Ok(Confinement::ByProfile(recording));
    }
    let rules = std::iter::once(&setup.rules).chain(setup.profile_rules.iter().flatten());
    let modules = rules.flat_map(|rules| &rules.modules);
    let modules = modules.map(|entry| entry.path.as_path());
    enter(service, &processor.sandbox, modules, recording)?;
    Ok(Confinement::Done)
}

/// Gives up the privileges that do not depend on the choice of a sandbox. Returns the file that system calls are
/// written to, if they are.
pub fn give_up_privileges(service: &Service, controller: Pid) -> Result<Option<File>, StepError> {
    let processor = &service.processor;
    let recording = processor.sandbox.open_recording()?;
    leave_controller(controller).map_err(StepError::of("process"))?;
    if let Some(identity) = &service.identity {
        take_groups(identity).map_err(StepError::of("groups"))?;
    }
    processor.sandbox.change_root()?;
    sandbox::drop_bounding_capabilities(processor.sandboxes())?;
    if let Some(identity) = &service.identity {
        become_user(identity).map_err(StepError::of("user"))?;
        // A change of user clears the parent-death signal.
        die_with(controller).map_err(StepError::of("user"))?;
    }
    prctl::set_dumpable(false).map_err(StepError::of("core dumps"))?;
    prctl::set_no_new_privs().map_err(StepError::of("no_new_privs"))?;
    Ok(recording)
}

/// Enters a sandbox in which these modules can be loaded.
pub fn enter<'a>(
    service: &Service,
    sandbox: &Sandbox,
    modules: impl Iterator<Item = &'a Path>,
    recording: Option<File>,
) -> Result<(), StepError> {
    let processor = &service.processor;
    let certificates = processor.tls.as_ref().filter(|_| processor.use_tls);
    let certificates = certificates.and_then(|tls| tls.allowed.as_deref());
    sandbox.enter(modules, certificates, recording)?;
    let preset = sandbox.preset.name();
    log(
        Severity::Debug,
        format_args!("worker is confined, preset {preset}"),
    );
    Ok(())
}

/// Separates this process from the controller: parent-death signal, process group, signal mask, no core dumps.
fn leave_controller(controller: Pid) -> nix::Result<()> {
    die_with(controller)?;
    // A process group of its own, so that the controller can also kill what the module has forked.
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    // Only SIGTTOU stays blocked. So the module can write to a terminal that otherwise stops background processes
    // which write (`stty tostop`).
    SigSet::from(Signal::SIGTTOU).thread_set_mask()?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
}

/// Has the kernel kill this process when the controller dies.
fn die_with(controller: Pid) -> nix::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() == controller {
        Ok(())
    } else {
        Err(Errno::ESRCH)
    }
}

/// Sets the supplementary groups to those of the configured user. None of root's groups remain; the original keeps them
/// (DIFFERENCES.md).
pub(crate) fn take_groups(identity: &Identity) -> nix::Result<()> {
    setgroups(&[])?;
    let name = CString::new(identity.user.as_str()).map_err(|_| Errno::EINVAL)?;
    initgroups(&name, identity.gid)
}

/// Switches to the configured user and group.
pub(crate) fn become_user(identity: &Identity) -> nix::Result<()> {
    let Identity { uid, gid, .. } = *identity;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}
