//! Connects to the daemon. Ensures that a forked child does not use the parent's socket, and that the socket's
//! descriptor is not used when it has become that of another file.
//!
//! `resolver` finds the addresses of a name, `schedule` decides in which order they are tried, and `race` tries them in
//! parallel. All of it ends at the deadline.
//!
//! An application may close descriptors that are not its own, as programs do that become daemons. The descriptor's
//! number may then be that of a file of the application. So before each use the file is compared with the socket that
//! was connected (fstat), and is not used if it is another one. A thread that receives the reply to a call that it has
//! just sent does not compare again. If another thread of the application closes the descriptor between the comparison
//! and the use, this is not noticed. While a thread polls for its reply (at most 30 microseconds), it does not compare
//! before each attempt. The descriptor's number is above those of standard input, output and error,
//! because an application that has closed these may still write to them.

mod race;
pub(crate) mod resolver;
mod schedule;

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use bindings::process::{self, FileIdentity, Process};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockAddr, Socket, Type};
use transport::{Deadline, TimedSocket};

use crate::settings::Endpoint;

pub(crate) use race::Failures;
pub(crate) use resolver::{OwnThreads, is_resolving};

/// The socket of a connection, as long as it belongs to the process that connected it. Must be dropped before the other
/// parts of the connection.
pub(crate) struct Registered {
    socket: Arc<Socket>,
    made: Made,
}

/// The identity of a descriptor when this library made it.
#[derive(Clone, Copy)]
struct Made {
    process: Process,
    descriptor: RawFd,
    file: FileIdentity,
}

impl Made {
    fn here(socket: &Socket) -> io::Result<Made> {
        Ok(Made {
            process: Process::current(),
            descriptor: socket.as_raw_fd(),
            file: FileIdentity::of(socket)?,
        })
    }

    /// Returns an error if another process has made the descriptor, or if it refers to another file now.
    fn check(&self) -> io::Result<()> {
        if self.process != Process::current() {
            return Err(io::Error::other("the connection is the parent process's"));
        }
        match FileIdentity::of(&self.descriptor) {
            Ok(file) if file == self.file => Ok(()),
            _ => Err(io::Error::other(
                "the application has closed the connection's descriptor; C_Finalize and C_Initialize connect again",
            )),
        }
    }
}

impl Registered {
    /// Returns whether this process connected it.
    pub fn is_ours(&self) -> bool {
        self.made.process == Process::current()
    }

    /// Returns whether the other side has closed the connection, or the application has closed its descriptor. Data
    /// that the other side sent before that may still be unread.
    pub fn has_ended(&self) -> bool {
        if !self.is_intact() {
            return true;
        }
        let ended = CLOSED | PollFlags::POLLHUP | PollFlags::POLLERR;
        let mut asked = [PollFd::new(self.socket.as_fd(), ended)];
        let polled = poll(&mut asked, PollTimeout::ZERO);
        let [asked] = asked;
        polled.is_ok()
            && asked
                .revents()
                .is_none_or(|events| events.intersects(ended))
    }

    /// Returns whether this process connected it and the application has not closed it.
    pub fn is_intact(&self) -> bool {
        self.made.check().is_ok()
    }
}

/// In a forked child, the parent's descriptor was closed at the fork. There, and if the application has closed the
/// descriptor, the number may be another file's by now. So nothing may be sent to it, and it may not be closed.
impl Drop for Registered {
    fn drop(&mut self) {
        if self.is_ours() {
            process::forget(&*self.socket);
        }
        if !self.is_intact() {
            mem::forget(self.socket.clone());
        }
    }
}

/// The event that the other side sends no more data.
#[cfg(target_os = "linux")]
const CLOSED: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);
#[cfg(not(target_os = "linux"))]
const CLOSED: PollFlags = PollFlags::empty();

/// The purpose of a connection.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Purpose {
    /// For the calls of the application between C_Initialize and C_Finalize. There is one such connection.
    Application,
    /// For a question of the library's own. It is answered within moments, and then the daemon sees the connection end.
    /// A child that another thread forks meanwhile keeps a useless descriptor.
    Question,
}

/// Why connecting failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("the name cannot be resolved: {0}")]
    Name(io::Error),
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// None of the addresses of a name could be connected to.
    #[error("{0}")]
    Addresses(Failures),
}

/// A connected socket.
pub(crate) struct Connected {
    pub registered: Registered,
    pub timed: TimedSocket,
}

impl Connected {
    /// Makes a socket that is not connected yet.
    fn new(domain: Domain, purpose: Purpose) -> io::Result<Connected> {
        // close-on-exec from the start
        let socket = Socket::new(domain, Type::STREAM, None)?;
        let socket = Socket::from(process::above_standard(socket.into())?);
        let made = Made::here(&socket)?;
        if purpose == Purpose::Application {
            process::remember(&socket, made.file);
        }
        let timed = TimedSocket::guarded(socket, Arc::new(move || made.check()));
        let registered = Registered {
            socket: timed.socket().clone(),
            made,
        };
        Ok(Connected { registered, timed })
    }
}

/// An endpoint with its addresses.
pub(crate) enum Resolved<'a> {
    Unix(&'a Path),
    /// The endpoint is this address itself.
    Address(SocketAddr),
    /// The endpoint is a name with these addresses.
    Addresses(Vec<SocketAddr>),
}

/// Finds the addresses of an endpoint.
pub(crate) fn resolve(
    endpoint: &Endpoint,
    threads: OwnThreads,
    deadline: Deadline,
) -> Result<Resolved<'_>, SocketError> {
    match endpoint {
        Endpoint::Unix(path) => Ok(Resolved::Unix(path)),
        Endpoint::Tcp { host, port } => match host.parse::<IpAddr>() {
            Ok(address) => Ok(Resolved::Address(SocketAddr::new(address, *port))),
            Err(_) => resolver::addresses(host, *port, threads, deadline)
                .map(Resolved::Addresses)
                .map_err(SocketError::Name),
        },
    }
}

/// Connects to the first of the addresses that accepts.
pub(crate) fn connect(
    resolved: &Resolved<'_>,
    purpose: Purpose,
    deadline: Deadline,
) -> Result<Connected, SocketError> {
    match resolved {
        Resolved::Unix(path) => Ok(connect_to_path(path, purpose, deadline)?),
        Resolved::Address(address) => {
            let connected = race::connect(&[*address], purpose, deadline);
            connected.map_err(|failures| SocketError::Socket(failures.into_last()))
        }
        Resolved::Addresses(addresses) => {
            race::connect(addresses, purpose, deadline).map_err(SocketError::Addresses)
        }
    }
}

fn connect_to_path(path: &Path, purpose: Purpose, deadline: Deadline) -> io::Result<Connected> {
    let address = SockAddr::unix(path)?;
    let mut connected = Connected::new(Domain::UNIX, purpose)?;
    let timed = &mut connected.timed;
    timed.limit_both(remaining(deadline)?)?;
    // Waits, within the send limit, while the listener's queue is full.
    while let Err(failure) = timed.socket().connect(&address) {
        match failure.kind() {
            io::ErrorKind::Interrupted => timed.limit_both(remaining(deadline)?)?,
            io::ErrorKind::WouldBlock => return Err(no_answer()),
            _ => return Err(failure),
        }
    }
    Ok(connected)
}

/// Returns the remaining time; when it is over, the error for a connection that could not be made.
fn remaining(deadline: Deadline) -> io::Result<std::time::Duration> {
    deadline.remaining().map_err(|_| no_answer())
}

fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

#[cfg(test)]
mod tests;
