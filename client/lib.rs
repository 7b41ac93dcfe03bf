//! Implements `libp11client.so`, the PKCS#11 library that applications load: it sends each call to `pkcs11proxyd` and
//! returns what the module there answers.
//!
//! Calls arrive in [`abi`], which makes values from the application's pointers; no pointer goes further. `library`
//! remembers what it must of the application's sessions. With `recover = true`, `recovery` lets them survive the loss
//! of a connection. `link` knows which version of the protocol is spoken. In version 4, calls go to the daemon
//! unchanged. In version 3, `version3` implements what that version leaves to the client: sizes, lists, attributes,
//! waiting for slot events. `connection` sends the calls, over `tls` where that is configured. `interfaces` knows which
//! interfaces the module has. If the application asks before C_Initialize, it makes a connection of its own to ask the
//! daemon.
//!
//! Loading the library does nothing: it connects in C_Initialize and disconnects in C_Finalize. It never ends the
//! process, prints only if `PKCS11PROXY_LOG` asks for it, and does not touch signals. It starts no thread, except one
//! that resolves a host name while it connects.

#![deny(unsafe_code)]
#![deny(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used
)]
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::unwrap_used
    )
)]

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use xdr::mechanism::parameters::TableError;
use xdr::{CkRv, Flags, Function};

#[allow(unsafe_code)]
pub mod abi;
mod advice;
mod certificate;
mod connection;
pub mod doctor;
mod failure;
#[cfg(test)]
mod fake;
mod files;
mod interfaces;
mod landing;
mod library;
mod link;
mod logging;
mod mechanism;
mod notifications;
mod recovery;
mod remote;
mod sessions;
mod settings;
mod socket;
mod structures;
mod tls;
mod vendor_mechanisms;
mod version3;

/// Every option of the settings file, with the environment variable that takes precedence over it.
pub use settings::OPTIONS as SETTINGS;

use advice::Advice;
use bindings::openssl_context;
use bindings::process::PerProcess;
use connection::{ConnectError, Connection, Notify};
use library::Library;
use link::{DistantModule, Link, StartError};
use notifications::Notifications;
use recovery::{Connect, Reached, Recovery};
use settings::{Daemon, Endpoint, Environment, RecoverySettings, Settings, SettingsError};
use socket::Purpose;
use transport::Deadline;

/// The state of the library in one process: initialised or not. A forked child gets a new instance, so that no lock in
/// it is held by a thread that does not exist in the child.
pub(crate) struct Instance {
    /// Held during C_Initialize and C_Finalize, so that only one thread at a time executes them.
    changing: Mutex<()>,
    /// Locked for as long as it takes to copy the `Arc`, not for a call.
    library: RwLock<Option<Arc<Library>>>,
}

/// The instance of this process. A forked child has that of its parent until it gets its own.
pub(crate) static INSTANCE: PerProcess<Instance> = PerProcess::new();

/// Whether the library is being unloaded from a process that continues, so that everything must be freed.
pub(crate) static IS_UNLOADED: AtomicBool = AtomicBool::new(false);

/// Returns the instance of this process. Never blocks.
pub(crate) fn instance() -> &'static Instance {
    INSTANCE.get(Instance::new, Instance::abandon)
}

/// Why C_Initialize fails.
#[derive(Debug, thiserror::Error)]
enum InitializeError {
    #[error("{0}")]
    Settings(#[from] SettingsError),
    #[error("the log cannot be written to {0}: {1}")]
    Log(PathBuf, io::Error),
    #[error("PKCS11PROXY_MECHANISMS_FILE: {0}")]
    Mechanisms(#[from] TableError),
    #[error("cannot connect to {0}: {1}")]
    Connect(Endpoint, ConnectError),
    #[error("{0}: {1}")]
    Start(Endpoint, StartError),
}

impl From<&InitializeError> for CkRv {
    fn from(error: &InitializeError) -> CkRv {
        match error {
            InitializeError::Start(_, StartError::Initialize(rv)) => *rv,
            InitializeError::Start(_, StartError::Call(Function::C_Initialize, failure)) => {
                failure.rv()
            }
            _ => CkRv::DEVICE_ERROR,
        }
    }
}

impl InitializeError {
    /// Returns whether it makes sense to try another daemon.
    fn is_unreachable(&self) -> bool {
        match self {
            InitializeError::Connect(..) => true,
            InitializeError::Start(_, error) => error.is_lost_at_once(),
            _ => false,
        }
    }

    /// Returns whether another attempt a moment later may succeed, because a daemon has started, has forgotten a
    /// connection, or has its HSM back.
    fn may_pass(&self) -> bool {
        self.is_unreachable()
            || matches!(self, InitializeError::Start(_, StartError::Initialize(_)))
    }

    /// Returns whether a daemon that refuses a peer with too many connections fails like this: it closes the new
    /// connection.
    fn may_be_refusal(&self) -> bool {
        match self {
            InitializeError::Start(_, error) => error.is_lost_at_once(),
            InitializeError::Connect(_, cause) => matches!(cause, ConnectError::Tls(_)),
            _ => false,
        }
    }
}

impl Instance {
    fn new() -> Instance {
        Instance {
            changing: Mutex::new(()),
            library: RwLock::new(None),
        }
    }

    /// Returns the library between C_Initialize and C_Finalize; an error otherwise.
    fn library(&self) -> Result<Arc<Library>, CkRv> {
        let library = self.library.read().unwrap_or_else(PoisonError::into_inner);
        library.clone().ok_or(CkRv::CRYPTOKI_NOT_INITIALIZED)
    }

    /// Executes C_Initialize, after its arguments were checked. `threads`: whether the application may call from
    /// several threads.
    fn initialize(&self, environment: &Environment<'_>, threads: bool) -> Result<(), CkRv> {
        if socket::is_resolving() {
            // The resolver calls this, while another thread of this library waits for the resolver.
            return Err(CkRv::FUNCTION_FAILED);
        }
        if self.library().is_err() && Settings::read(environment).is_ok_and(|it| it.has_tls()) {
            // OpenSSL may call C_Initialize here, so this comes before any lock.
            openssl_context::prepare();
        }
        let _changing = self.changing.lock();
        if self.library().is_ok() {
            return Err(CkRv::CRYPTOKI_ALREADY_INITIALIZED);
        }
        logging::begin(environment);
        let mut started = start(environment, threads);
        // If a peer may have only one connection, it is refused while the daemon still counts the one that asked for
        // interfaces.
        let mut pause = Duration::from_millis(5);
        while started.as_ref().is_err_and(InitializeError::may_be_refusal)
            && interfaces::may_still_count()
        {
            thread::sleep(pause);
            pause *= 2;
            started = start(environment, threads);
        }
        match started {
            Ok(library) => {
                interfaces::learn(library.interfaces());
                self.replace(Some(Arc::new(library)));
                Ok(())
            }
            Err(error) => {
                let rv = CkRv::from(&error);
                let advice = Advice(error.advice());
                log::error!("C_Initialize: {error}; returning {rv}{advice}");
                Err(rv)
            }
        }
    }

    /// Executes C_Finalize, after its arguments were checked. The call is sent to the daemon. The connection ends when
    /// the daemon has answered, or after a second if calls of other threads hold it up. All calls that are in flight or
    /// wait for their turn end with it.
    fn finalize(&self) -> Result<(), CkRv> {
        let _changing = self.changing.lock();
        let library = self.library()?;
        self.replace(None);
        let result = library.finish();
        log::info!("disconnected");
        result
    }

    fn replace(&self, library: Option<Arc<Library>>) {
        *self.library.write().unwrap_or_else(PoisonError::into_inner) = library;
    }

    /// Closes the connection without C_Finalize and without waiting, if no thread uses it.
    fn abandon(&self) {
        if let Ok(mut library) = self.library.try_write() {
            drop(library.take());
        }
    }
}

fn start(environment: &Environment<'_>, threads: bool) -> Result<Library, InitializeError> {
    let settings = Settings::read(environment)
        .inspect_err(|_| logging::begin_with_invalid_settings(environment))?;
    logging::follow(&settings).map_err(|(path, error)| InitializeError::Log(path, error))?;
    if let Some(file) = &settings.mechanisms {
        vendor_mechanisms::install(file)?;
    }
    let notifications = Arc::new(Notifications::default());
    let module: Box<dyn DistantModule> = match settings.recovery {
        None => {
            let delivered = &notifications;
            let notify = || -> Notify {
                let delivered = delivered.clone();
                Box::new(move |session, event| delivered.deliver(session, event))
            };
            Box::new(reach(&settings, threads, settings.timeout, &notify)?.link)
        }
        Some(RecoverySettings { keep_pin }) => {
            let timeout = settings.timeout;
            let connect: Connect<Connection> = Box::new(move |deadline, notify| {
                let time = deadline.remaining().unwrap_or_default();
                reach(&settings, threads, time.min(timeout), notify)
            });
            let delivered = notifications.clone();
            Box::new(Recovery::start(connect, timeout, keep_pin, delivered)?)
        }
    };
    Ok(Library::new(module, notifications))
}

/// Connects to the first daemon that can be reached, within this time. The first calls have the same time limit.
/// `notify` makes the callback to the application, for each attempt.
fn reach(
    settings: &Settings,
    threads: bool,
    time: Duration,
    notify: &dyn Fn() -> Notify,
) -> Result<Reached<Connection>, InitializeError> {
    first_of(settings, time, |place, daemon, deadline| {
        let purpose = Purpose::Application;
        let connection = connect(settings, daemon, deadline, purpose, notify())?;
        connection.set_timeout(time);
        let started = Link::start(connection, settings, threads);
        let endpoint = || daemon.endpoint.clone();
        let link = started.map_err(|error| InitializeError::Start(endpoint(), error))?;
        link.remote().set_timeout(settings.timeout);
        let version = link.version().number();
        let transport = if daemon.tls.is_some() {
            "with"
        } else {
            "without"
        };
        log::info!(
            "connected to {} {transport} TLS, {}; version {version} of the protocol",
            daemon.endpoint,
            daemon.reason
        );
        Ok(Reached {
            link,
            daemon: place,
        })
    })
}

/// Returns the result of the first daemon that can be reached. The settings say which one is tried first, or that it is
/// chosen at random. Trying all of them takes no longer than `time`: each attempt gets an equal part of the remaining
/// time.
fn first_of<T>(
    settings: &Settings,
    time: Duration,
    attempt: impl Fn(usize, &Daemon, Deadline) -> Result<T, InitializeError>,
) -> Result<T, InitializeError> {
    let start = Instant::now();
    let count = settings.daemons.len();
    let first = match settings.spread {
        true => random_number().checked_rem(count).unwrap_or(0),
        false => 0,
    };
    let places = settings.daemons.iter().enumerate();
    let mut daemons = places.cycle().skip(first).take(count);
    loop {
        let Some((place, daemon)) = daemons.next() else {
            return Err(SettingsError::NoDaemon.into());
        };
        let left = || time.saturating_sub(start.elapsed());
        let others = u32::try_from(daemons.size_hint().0).unwrap_or(u32::MAX - 1);
        match attempt(place, daemon, Deadline::after(left() / (others + 1))) {
            // Each attempt takes a minimum of time, so there may be no time left for the last of many daemons.
            Err(error) if error.is_unreachable() && others > 0 && !left().is_zero() => {
                let advice = Advice(error.advice());
                log::warn!("{error}; trying the next daemon{advice}");
            }
            result => return result,
        }
    }
}

/// Returns a random number that spreads processes over daemons. It need not be unpredictable.
fn random_number() -> usize {
    let random = RandomState::new().build_hasher().finish();
    usize::try_from(random >> 33).unwrap_or(0)
}

fn connect(
    settings: &Settings,
    daemon: &Daemon,
    deadline: Deadline,
    purpose: Purpose,
    notify: Notify,
) -> Result<Connection, InitializeError> {
    let opened = Connection::open(daemon, settings, deadline, purpose, notify);
    opened.map_err(|cause| InitializeError::Connect(daemon.endpoint.clone(), cause))
}

/// Asks the daemon which interfaces the module has, over a connection of its own. Takes no lock that C_Initialize
/// holds.
fn ask_interfaces(settings: &Settings) -> Result<Flags, InitializeError> {
    first_of(settings, settings.timeout, |_, daemon, deadline| {
        let nothing = |_, _| CkRv::OK; // there is no session
        let connection = connect(
            settings,
            daemon,
            deadline,
            Purpose::Question,
            Box::new(nothing),
        )?;
        let asked = Link::ask_interfaces(connection, settings);
        asked.map_err(|error| InitializeError::Start(daemon.endpoint.clone(), error))
    })
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::HashSet;

    use socket::SocketError;

    use super::*;

    /// Each daemon is the first one sometimes, and all are tried.
    #[test]
    fn daemons_are_tried_in_order_or_from_any_of_them_on() {
        let mut settings = fake::settings(None);
        let nobody = || fake::daemon(Endpoint::Unix("/nobody".into()), None);
        settings.daemons = vec![nobody(), nobody(), nobody()];
        let mut seen = HashSet::new();
        for spread in [false, true] {
            settings.spread = spread;
            for _ in 0..200 {
                let tried = RefCell::new(Vec::new());
                let reached = first_of(&settings, settings.timeout, |place, daemon, _| {
                    tried.borrow_mut().push(place);
                    let nobody = io::Error::from(io::ErrorKind::ConnectionRefused);
                    let nobody = SocketError::from(nobody);
                    Err::<(), _>(InitializeError::Connect(
                        daemon.endpoint.clone(),
                        nobody.into(),
                    ))
                });
                assert!(reached.is_err());
                seen.insert((spread, tried.into_inner()));
            }
        }
        let expected = [
            (false, vec![0, 1, 2]),
            (true, vec![0, 1, 2]),
            (true, vec![1, 2, 0]),
            (true, vec![2, 0, 1]),
        ];
        assert_eq!(seen, HashSet::from(expected));
    }

    /// With any number of daemons.
    #[test]
    fn connecting_to_nobody_takes_the_timeout() {
        const SHORTEST: Duration = Duration::from_millis(10); // an attempt's, see `Deadline::after`
        let mut settings = fake::settings(None);
        settings.timeout = 10 * SHORTEST;
        let nobody = || fake::daemon(Endpoint::Unix("/nobody".into()), None);
        for (daemons, most) in [(1, 1), (3, 3), (1000, 12)] {
            settings.daemons = std::iter::repeat_with(nobody).take(daemons).collect();
            let attempts = Cell::new(0);
            let connected = first_of(&settings, settings.timeout, |_, daemon, deadline| {
                attempts.set(attempts.get() + 1);
                while deadline.remaining().is_ok() {
                    thread::sleep(Duration::from_millis(1));
                }
                let late = SocketError::from(io::Error::from(io::ErrorKind::TimedOut));
                Err::<(), _>(InitializeError::Connect(
                    daemon.endpoint.clone(),
                    late.into(),
                ))
            });
            assert!(matches!(connected, Err(InitializeError::Connect(..))));
            assert!((1..=most).contains(&attempts.get()), "{}", attempts.get());
        }
    }
}
