//! Connects to the daemon, and keeps the socket apart from those of forked children and of the application.
//!
//! An application may close descriptors that are not its own, as programs do that close all of them to become daemons.
//! The number of the socket may then be that of a file of the application's. So before each use the socket is
//! compared with what it was when it was connected (fstat), and is left alone if it is another file. A thread that
//! receives the reply to what it has just sent does not compare again. If another thread of the application closes the
//! descriptor between the comparison and the use, nobody can notice. The socket's number is above those of standard
//! input, output and error: an application that has closed them may still write there.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use bindings::process::{self, FileIdentity, Process};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockAddr, Socket, Type};
use transport::{Deadline, TimedSocket};

use crate::settings::Endpoint;

/// The socket of a connection, as long as it belongs to the process that connected it. To be dropped before the
/// other parts of the connection.
pub(crate) struct Registered {
    socket: Arc<Socket>,
    made: Made,
}

/// A descriptor as this library has made it.
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

    /// An error if another process has made it, or if it is another file now.
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
    /// Whether this process connected it.
    pub fn is_ours(&self) -> bool {
        self.made.process == Process::current()
    }

    /// Whether the other side has closed the connection. What it sent before may still be there.
    pub fn has_ended(&self) -> bool {
        let ended = CLOSED | PollFlags::POLLHUP | PollFlags::POLLERR;
        let mut asked = [PollFd::new(self.socket.as_fd(), ended)];
        let polled = poll(&mut asked, PollTimeout::ZERO);
        let [asked] = asked;
        polled.is_ok()
            && asked
                .revents()
                .is_none_or(|events| events.intersects(ended))
    }

    /// Whether this process connected it, and the application has not closed it.
    pub fn is_intact(&self) -> bool {
        self.made.check().is_ok()
    }
}

/// In a forked child the connection is the parent's: its descriptor was closed at the fork. There, and where the
/// application has closed the descriptor, the number may be another file's by now, and nothing may be sent or closed.
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

/// That the other side sends no more.
#[cfg(target_os = "linux")]
const CLOSED: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);
#[cfg(not(target_os = "linux"))]
const CLOSED: PollFlags = PollFlags::empty();

/// What a connection is for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Purpose {
    /// What the application does between C_Initialize and C_Finalize. There is one such connection.
    Application,
    /// A question of this library's. It is answered within moments, and the connection ended for the daemon; a child
    /// that another thread forks meanwhile keeps a descriptor of no use.
    Question,
}

/// Connects, to each address of a name in turn.
pub(crate) fn connect(
    endpoint: &Endpoint,
    purpose: Purpose,
    deadline: Deadline,
) -> io::Result<(TimedSocket, Registered)> {
    match endpoint {
        Endpoint::Unix(path) => connect_to(Domain::UNIX, &SockAddr::unix(path)?, purpose, deadline),
        Endpoint::Tcp { host, port } => {
            let mut last = io::Error::other("the name resolves to no address");
            for address in addresses(host, *port)? {
                match connect_to(
                    Domain::for_address(address),
                    &address.into(),
                    purpose,
                    deadline,
                ) {
                    Ok(connected) => return Ok(connected),
                    Err(failure) => last = failure,
                }
            }
            Err(last)
        }
    }
}

fn connect_to(
    domain: Domain,
    address: &SockAddr,
    purpose: Purpose,
    deadline: Deadline,
) -> io::Result<(TimedSocket, Registered)> {
    let remaining = remaining(deadline)?;
    // close-on-exec from the start
    let socket = Socket::new(domain, Type::STREAM, None)?;
    let socket = Socket::from(process::above_standard(socket.into())?);
    let made = Made::here(&socket)?;
    if purpose == Purpose::Application {
        process::remember(&socket, made.file);
    }
    let mut timed = TimedSocket::guarded(socket, Arc::new(move || made.check()));
    let registered = Registered {
        socket: timed.socket().clone(),
        made,
    };
    timed.limit_both(remaining)?;
    if domain == Domain::UNIX {
        // Waits, within the send limit, while the listener's queue is full.
        while let Err(failure) = timed.socket().connect(address) {
            if failure.kind() != io::ErrorKind::Interrupted {
                return Err(failure);
            }
            timed.limit_both(self::remaining(deadline)?)?;
        }
    } else {
        timed.socket().connect_timeout(address, remaining)?;
        timed.socket().set_tcp_nodelay(true)?;
    }
    Ok((timed, registered))
}

/// Why there is no time left, as it is told of a connection that is not made.
fn remaining(deadline: Deadline) -> io::Result<std::time::Duration> {
    let no_reply = |_| io::Error::other("no reply in time");
    deadline.remaining().map_err(no_reply)
}

/// Without a look at the resolver where the host is an address.
fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(vec![SocketAddr::new(address, port)]),
        Err(_) => Ok((host, port).to_socket_addrs()?.collect()),
    }
}
