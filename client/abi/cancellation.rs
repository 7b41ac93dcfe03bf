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

/// The thread's own setting, for when the call is over.
pub(super) struct Uncancelled(c_int);

impl Uncancelled {
    /// Nobody cancels this thread until the value is dropped.
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
    // SAFETY: `before` is writable. It fails for an unknown state only, and a thread that is cancelled at its next
    // point of cancellation is not cancelled in here.
    let _ = unsafe { pthread_setcancelstate(state, before) };
}

#[cfg(not(target_os = "linux"))]
fn set(_: c_int, _: &mut c_int) {}
