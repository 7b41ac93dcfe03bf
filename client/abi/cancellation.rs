//! Postpones the cancellation of a thread (`pthread_cancel`) until its call is over.
//!
//! A cancellation in the middle of a call would unwind the stack through this library, and Rust would then end the
//! process. Waiting for the network is a cancellation point, so cancellation has to be disabled meanwhile. This costs
//! no system call.

use std::ffi::c_int;

#[cfg(target_os = "linux")]
unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}

/// PTHREAD_CANCEL_DISABLE of Linux's C libraries.
const DISABLE: c_int = 1;

/// Disables cancellation of this thread while it lives; holds the previous setting.
pub(super) struct Uncancelled(c_int);

impl Uncancelled {
    /// Disables cancellation of this thread until the value is dropped.
    pub fn new() -> Uncancelled {
        let mut before = DISABLE;
        set(DISABLE, &mut before);
        Uncancelled(before)
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        set(self.0, &mut 0);
    }
}

#[cfg(target_os = "linux")]
fn set(state: c_int, before: &mut c_int) {
    // SAFETY: `before` is writable. The function fails only for an unknown state. With deferred cancellation, the
    // thread cannot be cancelled in here, because this is no cancellation point.
    let _ = unsafe { pthread_setcancelstate(state, before) };
}

#[cfg(not(target_os = "linux"))]
fn set(_: c_int, _: &mut c_int) {}
