//! Closes the connection when the library is unloaded, and frees the memory that only this library uses.
//!
//! An application may unload the library without C_Finalize. After `dlclose`, no descriptor, OpenSSL object or library
//! context of this library is left. With TLS, one table of the crate `openssl` stays (116 bytes), which nothing outside
//! of that crate can free. At exit nothing is freed: the kernel frees everything, and OpenSSL may already have cleaned
//! up.

use std::sync::atomic::{AtomicU8, Ordering};

use bindings::openssl_context;

use crate::logging::OUTPUT;
use crate::socket::resolver::THREADS;
use crate::{INSTANCE, IS_UNLOADED};

/// Whether the process is exiting. Only [`RUNNING`] says that it is not.
static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const RUNNING: u8 = 1;
const EXITING: u8 = 2;

/// Runs before [`at_unload`] at exit, but after it at `dlclose`: the linker puts the function that runs the atexit
/// handlers of this object first into .fini_array, and .fini_array is run from its end.
#[cfg(target_os = "linux")]
extern "C" fn at_exit() {
    STATE.store(EXITING, Ordering::Relaxed);
}

/// Makes exit and `dlclose` distinguishable from now on. Must be called before there is anything to be freed.
pub(super) fn watch_exit() {
    let (order, state) = (Ordering::Relaxed, &STATE);
    #[cfg(target_os = "linux")]
    if state.load(order) == UNKNOWN
        && state
            .compare_exchange(UNKNOWN, RUNNING, order, order)
            .is_ok()
    {
        // SAFETY: the function belongs to this object, and glibc registers it for this object: `dlclose` runs and
        // forgets it.
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
        // SAFETY: no thread may use it any more, because that thread would run code that is unmapped after this.
        unsafe { OUTPUT.free() };
        // SAFETY: the same.
        unsafe { INSTANCE.free() };
        // SAFETY: a thread in the resolver keeps the library loaded.
        unsafe { THREADS.free() };
    }
}

// SAFETY: the dynamic linker calls each pointer in .fini_array as a function without arguments, which `at_unload` is.
// It ignores the arguments that the linker passes beyond that.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".fini_array")]
static AT_UNLOAD: extern "C" fn() = at_unload;
