//! Closes the connection when the library is unloaded, and frees what the library does not share.
//!
//! An application may unload the library without C_Finalize. At `dlclose` it is then left without a descriptor, an
//! OpenSSL object or a library context of this library. With TLS, one table of the crate `openssl` stays (116 bytes),
//! which nothing outside of that crate can free. At exit nothing is freed: the kernel frees everything, and OpenSSL may
//! already be gone.

use std::sync::atomic::{AtomicU8, Ordering};

use bindings::openssl_context;

use crate::logging::OUTPUT;
use crate::socket::resolver::THREADS;
use crate::{INSTANCE, IS_UNLOADED};

/// Whether the process ends: as long as this is not [`RUNNING`], it may.
static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const RUNNING: u8 = 1;
const EXITING: u8 = 2;

/// At exit this runs before [`at_unload`], at `dlclose` after it: the linker puts what runs such functions first into
/// .fini_array, which is run from its end.
#[cfg(target_os = "linux")]
extern "C" fn at_exit() {
    STATE.store(EXITING, Ordering::Relaxed);
}

/// To be called before there is anything to be freed: tells exit from `dlclose` from then on.
pub(super) fn watch_exit() {
    let (order, state) = (Ordering::Relaxed, &STATE);
    #[cfg(target_os = "linux")]
    if state.load(order) == UNKNOWN
        && state
            .compare_exchange(UNKNOWN, RUNNING, order, order)
            .is_ok()
    {
        // SAFETY: the function is of this object, for which glibc registers it; `dlclose` runs and forgets it.
        if unsafe { libc::atexit(at_exit) } != 0 {
            state.store(EXITING, order);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (state, order, UNKNOWN, RUNNING, EXITING);
}

/// Runs at `dlclose` and at exit. Waits for no thread that is still in a call.
#[cfg(target_os = "linux")]
extern "C" fn at_unload() {
    let is_unloaded = STATE.load(Ordering::Relaxed) == RUNNING;
    IS_UNLOADED.store(is_unloaded, Ordering::Relaxed);
    if let Some(instance) = INSTANCE.existing() {
        instance.abandon();
    }
    if is_unloaded {
        openssl_context::free();
        // SAFETY: a thread that used it would run code that is unmapped after this.
        unsafe { OUTPUT.free() };
        // SAFETY: the same.
        unsafe { INSTANCE.free() };
        // SAFETY: a thread in the resolver keeps the library loaded.
        unsafe { THREADS.free() };
    }
}

// SAFETY: the dynamic linker calls each pointer in .fini_array as a function without arguments,
// which `at_unload` is; what it is passed beyond that is ignored.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".fini_array")]
static AT_UNLOAD: extern "C" fn() = at_unload;
