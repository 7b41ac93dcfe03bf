//! Turns signals into requests to the controller.
//!
//! Signals are blocked and read from a descriptor (signalfd), so that no handler interrupts anything.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What a signal asks of the controller.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request {
    /// SIGTERM, SIGINT, SIGQUIT: end everything.
    Stop,
    /// SIGCHLD: a child process has ended.
    Reap,
    /// SIGHUP: load rules, keys and certificates again.
    Reload,
    /// SIGUSR1: open the log files again.
    ReopenLogs,
    /// SIGUSR2: accept no more clients, and end when the present ones have left.
    Drain,
}

/// The signals that are handled.
const SIGNALS: [(Signal, Request); 7] = [
    (Signal::SIGTERM, Request::Stop),
    (Signal::SIGINT, Request::Stop),
    (Signal::SIGQUIT, Request::Stop),
    (Signal::SIGCHLD, Request::Reap),
    (Signal::SIGHUP, Request::Reload),
    (Signal::SIGUSR1, Request::ReopenLogs),
    (Signal::SIGUSR2, Request::Drain),
];

fn all() -> SigSet {
    SIGNALS.into_iter().map(|(signal, _)| signal).collect()
}

/// Blocks the signals until the controller reads them. Must be called before there are sockets and a pid file, so that
/// a signal during the start still leads to an orderly end.
pub fn hold_signals() -> io::Result<()> {
    bindings::sys::notice_children()?;
    Ok(all().thread_block()?)
}

/// The descriptor that signals are read from.
pub struct Signals(SignalFd);

impl Signals {
    /// Opens a descriptor for the signals that [`hold_signals`] blocks.
    pub fn new() -> io::Result<Signals> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Signals(SignalFd::with_flags(&all(), flags)?))
    }

    /// Reads the next request, without waiting.
    pub fn next_request(&self) -> io::Result<Option<Request>> {
        while let Some(taken) = self.0.read_signal()? {
            let number = i32::try_from(taken.ssi_signo);
            let known = |(signal, _): &&(Signal, Request)| number == Ok(*signal as i32);
            if let Some((_, request)) = SIGNALS.iter().find(known) {
                return Ok(Some(*request));
            }
        }
        Ok(None)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
