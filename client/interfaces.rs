//! Remembers which interfaces the module has, and asks the daemon if an application wants to know before C_Initialize.
//!
//! The reply of C_LoadModule lists them. The answer from the first connection of this process is kept, also for forked
//! children, because the module's interfaces do not change. If there was no connection yet, one is made to ask, with
//! the settings that C_Initialize would use. No lock is held meanwhile: if two threads ask at the same time, each makes
//! a connection. A failed attempt is repeated the next time, unless it took all the time allowed for it: an application
//! that only lists libraries must not wait again and again.

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

/// The interfaces that the last connection reported: `INTERFACE_*` of `pkcs11_rpc_v4.x`; 0 if there was no connection
/// yet.
static KNOWN: AtomicU64 = AtomicU64::new(0);

/// When the daemon last answered the question, in milliseconds of [`milliseconds`]; 0 for never.
static ANSWERED: AtomicU64 = AtomicU64::new(0);

/// How long after the answer the daemon may still count that connection.
const COUNTS: Duration = Duration::from_secs(1);

/// Whether the daemon did not answer in time.
static IS_SILENT: AtomicBool = AtomicBool::new(false);

/// The upper bound on the time for connecting and for each call; the configured timeout may be shorter.
const LONGEST: Duration = Duration::from_secs(5);

thread_local! {
    /// Whether this thread is asking. The code that it calls meanwhile may call C_GetInterface. So may the system's
    /// resolver, which has a thread of its own.
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Stores the interfaces that a connection reported.
pub(crate) fn learn(interfaces: Flags) {
    KNOWN.store(interfaces.0 | INTERFACE_2_40, Ordering::Relaxed);
}

/// Returns which interfaces the module has; `None` if that cannot be found out. C_Initialize reports why.
pub(crate) fn of_module(environment: &Environment<'_>) -> Option<Flags> {
    if let Some(known) = known() {
        return Some(known);
    }
    let mut settings = Settings::read(environment).ok()?;
    settings.timeout = settings.timeout.min(LONGEST);
    if settings.protocol == Some(Version::Three) {
        return Some(Flags(INTERFACE_2_40)); // version 3 cannot report more
    }
    if settings.has_tls() {
        // OpenSSL may call C_GetInterface here, which then asks.
        openssl_context::prepare();
    }
    if known().is_none()
        && !IS_SILENT.load(Ordering::Relaxed)
        && !is_resolving()
        && !ASKING.replace(true)
    {
        // If the log cannot be written, C_Initialize says so.
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

/// Returns whether the daemon may still count the connection that asked, as it does until it has reaped the worker.
/// Until then, a daemon that allows a peer few connections may refuse another one.
pub(crate) fn may_still_count() -> bool {
    let passed = milliseconds().checked_sub(ANSWERED.load(Ordering::Relaxed));
    passed.is_some_and(|passed| Duration::from_millis(passed) < COUNTS)
}

/// Returns milliseconds of a monotonic clock.
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
