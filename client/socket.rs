//! Connects to the daemon, and keeps the socket apart from those of forked children.

use bindings::process::{self, Process};
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, ToSocketAddrs};
use std::os::fd::IntoRawFd;

use socket2::{Domain, SockAddr, Type};
use transport::{Deadline, TimedSocket};
use xdr::codec::Slices;

use crate::settings::Endpoint;

/// A connected stream socket whose blocking calls end at a deadline.
pub(crate) struct Socket {
    /// `None` only while it is dropped.
    socket: Option<TimedSocket>,
    owner: Process,
}

impl Socket {
    /// Connects, to each address of a name in turn.
    pub fn connect(endpoint: &Endpoint, deadline: Deadline) -> io::Result<Socket> {
        match endpoint {
            Endpoint::Unix(path) => {
                let address = SockAddr::unix(path)?;
                Socket::connect_to(Domain::UNIX, &address, deadline)
            }
            Endpoint::Tcp { host, port } => {
                let mut last = io::Error::other("the name resolves to no address");
                for address in addresses(host, *port)? {
                    let domain = Domain::for_address(address);
                    match Socket::connect_to(domain, &address.into(), deadline) {
                        Ok(socket) => return Ok(socket),
                        Err(failure) => last = failure,
                    }
                }
                Err(last)
            }
        }
    }

    fn connect_to(domain: Domain, address: &SockAddr, deadline: Deadline) -> io::Result<Socket> {
        let remaining = remaining(deadline)?;
        // close-on-exec from the start
        let socket = socket2::Socket::new(domain, Type::STREAM, None)?;
        process::remember(&socket);
        let mut socket = Socket {
            socket: Some(TimedSocket::new(socket)),
            owner: Process::current(),
        };
        let timed = socket.timed()?;
        timed.limit_both(remaining)?;
        if domain == Domain::UNIX {
            // Waits, within the send limit, while the listener's queue is full.
            while let Err(failure) = timed.get_ref().connect(address) {
                if failure.kind() != io::ErrorKind::Interrupted {
                    return Err(failure);
                }
                timed.limit_both(self::remaining(deadline)?)?;
            }
        } else {
            timed.get_ref().connect_timeout(address, remaining)?;
            timed.get_ref().set_tcp_nodelay(true)?;
        }
        Ok(socket)
    }

    fn timed(&mut self) -> io::Result<&mut TimedSocket> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        self.socket.as_mut().ok_or_else(gone)
    }

    /// Sends a whole record.
    pub fn send_record(&mut self, record: &mut Slices<'_>, deadline: Deadline) -> io::Result<()> {
        self.timed()?.send_record(record, deadline)
    }

    /// Sends all of these bytes.
    pub fn send_all(&mut self, bytes: &[u8], deadline: Deadline) -> io::Result<()> {
        self.timed()?.send_all(bytes, deadline)
    }

    /// Receives some bytes; none when the daemon closed the connection.
    pub fn receive(&mut self, space: &mut [u8], deadline: Deadline) -> io::Result<usize> {
        self.timed()?.receive(space, Some(deadline))
    }

    /// Whether this process connected it.
    pub fn is_ours(&self) -> bool {
        self.owner == Process::current()
    }

    /// Ends the connection for both sides; the descriptor stays. Does nothing in a forked child.
    pub fn shut_down(&self) {
        if let Some(socket) = self.socket.as_ref().filter(|_| self.is_ours()) {
            // Fails when the peer was faster; the connection is over either way.
            let _ = socket.get_ref().shutdown(Shutdown::Both);
        }
    }
}

/// In a forked child the connection is the parent's: its descriptor was closed at the fork, the
/// number may be another file's by now, and nothing may be sent.
impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take().map(TimedSocket::into_inner) {
            if self.is_ours() {
                process::forget(&socket);
            } else {
                let _ = socket.into_raw_fd();
            }
        }
    }
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
