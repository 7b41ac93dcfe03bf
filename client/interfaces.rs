//! Knows which interfaces the module has, and asks the daemon if an application wants to know before C_Initialize.
//!
//! C_LoadModule tells it. What one connection of this process was told is kept, also for its forked children: it is a
//! fact about the module. If there was none yet, a connection is made for the question, with the settings that
//! C_Initialize would use. No lock is held meanwhile: of two threads that ask at the same time, each makes a connection.
//! What could not be found out is asked again the next time.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use bindings::openssl_context;
use xdr::rpc::Version;
use xdr::{Flags, INTERFACE_2_40};

use crate::settings::{Environment, Settings};
use crate::{ask_interfaces, logging};

/// What the last connection was told: `INTERFACE_*` of `pkcs11_rpc_v4.x`; 0 as long as there was none.
static KNOWN: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this thread is asking. What it calls for that, such as the system's resolver, may call C_GetInterface.
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
    let settings = Settings::read(environment).ok()?;
    if settings.protocol == Some(Version::Three) {
        return Some(Flags(INTERFACE_2_40)); // all that a daemon can tell
    }
    if settings.tls.is_some() {
        // May call C_GetInterface, which then asks.
        openssl_context::prepare();
    }
    if known().is_none() && !ASKING.replace(true) {
        logging::set_level(environment);
        let asked = ask_interfaces(&settings);
        ASKING.set(false);
        match asked {
            Ok(interfaces) => learn(interfaces),
            Err(error) => log::info!("C_GetInterface: {error}; offering all interfaces"),
        }
    }
    known()
}

fn known() -> Option<Flags> {
    match KNOWN.load(Ordering::Relaxed) {
        0 => None,
        interfaces => Some(Flags(interfaces)),
    }
}
