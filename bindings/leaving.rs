//! Lets a process that serves one client end the connection when it is asked to by a signal (SIGUSR2).
//!
//! When no operation and no unanswered call is in the way, the process stops sending, so that the client finds the end
//! of the connection after all replies. It goes on reading for a while: if it closed the socket, a client that sends at
//! this moment would get an error before it has read the replies. The signal has to be sent repeatedly; at the second
//! one after this, the process stops reading, too.
//!
//! Operations and calls in the way are counted. The signal has no effect on a process whose client cannot reconnect, as
//! most cannot.

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Whether the process was asked to end the connection.
static IS_ASKED: AtomicBool = AtomicBool::new(false);

/// Whether the connection may be ended.
static IS_ALLOWED: AtomicBool = AtomicBool::new(false);

/// How many operations and calls are in the way.
static IN_THE_WAY: AtomicUsize = AtomicUsize::new(0);

/// Whether the connection was ended.
static HAS_LEFT: AtomicBool = AtomicBool::new(false);

/// How often the signal has come since the connection was ended.
static ASKED_SINCE: AtomicUsize = AtomicUsize::new(0);

/// The client's socket; -1 before there is one.
static SOCKET: AtomicI32 = AtomicI32::new(-1);

/// Handles the signal from now on. Without this it would end the process.
pub fn take_signal() -> io::Result<()> {
    let handler = SigHandler::Handler(asked);
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler makes one system call, which a handler may make, and uses atomics.
    unsafe { sigaction(Signal::SIGUSR2, &action) }?;
    Ok(())
}

/// Sets the socket of the client. The descriptor is a separate one, which stays open to the end of the process.
pub fn serve(socket: OwnedFd) {
    SOCKET.store(socket.into_raw_fd(), Ordering::SeqCst);
    leave_if_possible();
}

/// Allows the process to end the connection.
pub fn allow() {
    IS_ALLOWED.store(true, Ordering::SeqCst);
    leave_if_possible();
}

/// Whether the process was asked to end the connection, and may do so.
pub fn is_leaving() -> bool {
    IS_ASKED.load(Ordering::SeqCst) && IS_ALLOWED.load(Ordering::SeqCst)
}

/// Counts one more thing that is in the way.
pub fn enter() {
    IN_THE_WAY.fetch_add(1, Ordering::SeqCst);
}

/// Counts as in the way as long as this lives.
pub struct InTheWay(());

impl InTheWay {
    /// Counts one more until the value is dropped.
    pub fn begin() -> InTheWay {
        enter();
        InTheWay(())
    }
}

/// Runs `work` without counting the [`InTheWay`] that the caller holds: the work may last for ever, and the client
/// repeats it.
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    /// Counts it again, also if the work panics.
    struct Again;
    impl Drop for Again {
        fn drop(&mut self) {
            enter();
        }
    }
    leave();
    let _again = Again;
    work()
}

impl Drop for InTheWay {
    fn drop(&mut self) {
        leave();
    }
}

/// Counts one thing less that is in the way. Must be called once for each [`enter`].
pub fn leave() {
    IN_THE_WAY.fetch_sub(1, Ordering::SeqCst);
    leave_if_possible();
}

/// Whether the connection was ended, so that it is no error if nothing can be sent to the client.
pub fn has_left() -> bool {
    HAS_LEFT.load(Ordering::SeqCst)
}

extern "C" fn asked(_: i32) {
    IS_ASKED.store(true, Ordering::SeqCst);
    if has_left() && ASKED_SINCE.fetch_add(1, Ordering::SeqCst) > 0 {
        shut_down(libc::SHUT_RD);
    }
    leave_if_possible();
}

/// Ends the connection, if nothing is in the way. Uses only atomics and one system call.
fn leave_if_possible() {
    let is_free = IN_THE_WAY.load(Ordering::SeqCst) == 0;
    let has_socket = SOCKET.load(Ordering::SeqCst) >= 0;
    if is_free && has_socket && is_leaving() && !HAS_LEFT.swap(true, Ordering::SeqCst) {
        shut_down(libc::SHUT_WR);
    }
}

/// Uses only atomics and one system call. Restores errno, because the signal may have interrupted a call.
fn shut_down(direction: i32) {
    let errno = Errno::last();
    let socket = SOCKET.load(Ordering::SeqCst);
    // SAFETY: the descriptor is passed as a number; `serve` gave it away for good. A failure needs no handling.
    unsafe { libc::shutdown(socket, direction) };
    errno.set();
}
