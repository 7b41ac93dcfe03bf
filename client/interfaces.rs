//! Remembers which interfaces the module has, and asks the daemon if an application wants to know before C_Initialize.
//!
//! The reply of C_LoadModule lists them. The answer from the first connection of this process is kept, also for forked
//! children, because it is a fact about the module. If there was no connection yet, one is made for the question, with
//! the settings that C_Initialize would use. No lock is held meanwhile: if two threads ask at the same time, each makes
//! a connection. A question that failed is asked again the next time, unless it took all the time allowed for it: an
//! application that only lists libraries must not wait again and again.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bindings::openssl_context;
use nix::time::{ClockId, clock_gettime};
use xdr::rpc::Version;
use xdr::{Flags, INTERFACE_2_40};

use crate::advice::Advice;
use crate::settings::{Environment, Settings};
use crate::socket::is_resolving;
use crate::{ask_interfaces, logging};

/// What the last connection was told: `INTERFACE_*` of `pkcs11_rpc_v4.x`; 0 as long as there was none.
static KNOWN: AtomicU64 = AtomicU64::new(0);

/// When the daemon last answered the question, in milliseconds by the clock of [`milliseconds`]; 0: never.
static ANSWERED: AtomicU64 = AtomicU64::new(0);

/// For how long after an answer its connection may still count at the daemon.
const COUNTS: Duration = Duration::from_secs(1);

/// Whether the daemon did not answer the question in time.
static IS_SILENT: AtomicBool = AtomicBool::new(false);

/// How long connecting may take, and each call, if the timeout of calls is not shorter.
const LONGEST: Duration = Duration::from_secs(5);

thread_local! {
    /// Whether this thread is asking. What it calls for that may call C_GetInterface; the system's resolver, too, which
    /// has a thread of its own.
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Keeps what a connection was told.
pub(crate) fn learn(interfaces: Flags) {
    KNOWN.store(interfaces.0 | INTERFACE_2_40, Ordering::Relaxed);
}

/// Which interfaces the module has; `None` if that cannot be found out. C_Initialize reports why.
pub(crate) fn of_module(environment: &Environment<'_>) -> Option<Flags> {
    if let Some(known) = known() {
        return Some(known);
    }
    let mut settings = Settings::read(environment).ok()?;
    settings.timeout = settings.timeout.min(LONGEST);
    if settings.protocol == Some(Version::Three) {
        return Some(Flags(INTERFACE_2_40)); // all that a daemon can tell
    }
    if settings.has_tls() {
        // May call C_GetInterface, which then asks.
        openssl_context::prepare();
    }
    if known().is_none()
        && !IS_SILENT.load(Ordering::Relaxed)
        && !is_resolving()
        && !ASKING.replace(true)
    {
        // C_Initialize says if the log cannot be written.
        let _ = logging::follow(&settings);
        let start = Instant::now();
        let asked = ask_interfaces(&settings);
        ASKING.set(false);
        match asked {
            Ok(interfaces) => {
                ANSWERED.store(milliseconds(), Ordering::Relaxed);
                learn(interfaces);
            }
            Err(error) => {
                let advice = Advice(error.advice());
                log::info!("C_GetInterface: {error}; offering all interfaces{advice}");
                IS_SILENT.fetch_or(start.elapsed() >= settings.timeout, Ordering::Relaxed);
            }
        }
    }
    known()
}

/// Whether the daemon may still count the connection of the question, as it does until it has reaped the worker. A peer
/// that may have few connections is refused until then.
pub(crate) fn may_still_count() -> bool {
    let passed = milliseconds().checked_sub(ANSWERED.load(Ordering::Relaxed));
    passed.is_some_and(|passed| Duration::from_millis(passed) < COUNTS)
}

/// Milliseconds by a clock that does not step.
fn milliseconds() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| {
        u64::try_from(Duration::from(now).as_millis()).unwrap_or(u64::MAX)
    })
}

fn known() -> Option<Flags> {
    match KNOWN.load(Ordering::Relaxed) {
        0 => None,
        interfaces => Some(Flags(interfaces)),
    }
}
