//! The connection to the daemon: one socket, one call at a time, each call within its deadline.
//!
//! Calls come from `library`, as values; records go out in one `sendmsg` and come back in one
//! `recv` in the common case, with or without TLS. Any failure after which call and reply could get out of step ends
//! the connection for good: sessions and operations lived in it, so nothing is ever reconnected
//! behind the application's back. Touches neither signal mask nor handlers; SIGPIPE is not raised.

use std::collections::TryReserveError;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, IoSlice, Read};
use std::net::{IpAddr, Shutdown, SocketAddr, ToSocketAddrs};
use std::os::fd::IntoRawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Type};
use xdr::codec::{DecodeError, EncodeError};
use xdr::record::{Records, TooLong};
use xdr::rpc::{self, ReplyError, Xid};
use xdr::{Call, CkRv, Cryptoki, Function, Reply};
use zeroize::Zeroize;

use crate::abi::process::{self, Process};
use crate::library::Remote;
use crate::settings::{Endpoint, TlsSettings};
use crate::tls::{Stream, TlsError};
use crate::turns::Turns;

/// The longest reply taken, in bytes. Memory follows the bytes that came, not the announced length.
const LONGEST_REPLY: usize = 1 << 30;

/// What the buffer of calls keeps of its memory from one call to the next, in bytes.
const LARGEST_KEPT: usize = 64 << 10;

/// A connected daemon.
pub(crate) struct Connection {
    turns: Turns,
    /// Locked by whose turn it is.
    wire: Mutex<Wire>,
    lost: AtomicBool,
}

/// What one call at a time has for itself.
struct Wire {
    transport: Transport,
    records: Records,
    sending: Vec<u8>,
    next_xid: u32,
    timeout: Duration,
    state: State,
}

enum Transport {
    Plain(Socket),
    Tls(Stream),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("{0}")]
    Tls(#[from] TlsError),
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Open,
    /// A call failed on the way; only C_Finalize and C_Initialize help.
    Lost,
    /// C_Finalize came while this call waited for its turn.
    Closed,
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("no reply in time")]
    Timeout,
    #[error("the daemon closed the connection")]
    Closed,
    #[error("{0}")]
    Record(#[from] TooLong),
    #[error("{0}")]
    Memory(#[from] TryReserveError),
    #[error("{0}")]
    Encode(#[from] EncodeError),
    #[error("{0}")]
    Reply(#[from] ReplyError),
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        match failure {
            Failure::Socket(error) => error,
            Failure::Timeout => io::ErrorKind::TimedOut.into(),
            other => io::Error::other(other),
        }
    }
}

impl Connection {
    /// Connects within `timeout`, which is then the time each call has, the TLS handshake included. The time that
    /// resolving a name takes is the resolver's.
    pub fn open(
        endpoint: &Endpoint,
        tls: Option<&TlsSettings>,
        timeout: Duration,
    ) -> Result<Connection, ConnectError> {
        let deadline = Deadline::after(timeout);
        let socket = Socket::connect(endpoint, deadline)?;
        let transport = match tls {
            None => Transport::Plain(socket),
            Some(tls) => Transport::Tls(Stream::connect(socket, tls, deadline)?),
        };
        Ok(Connection {
            turns: Turns::default(),
            wire: Mutex::new(Wire {
                transport,
                records: Records::new(LONGEST_REPLY),
                sending: Vec::new(),
                next_xid: first_xid(),
                timeout,
                state: State::Open,
            }),
            lost: AtomicBool::new(false),
        })
    }
}

/// Tells connections apart in a capture; nothing depends on it being unpredictable.
fn first_xid() -> u32 {
    let random = std::hash::RandomState::new().build_hasher().finish();
    random as u32 // the low half is as good as any
}

impl Cryptoki for Connection {
    fn call(&self, call: Call<'_>) -> Reply {
        let function = call.function();
        let _turn = self.turns.take();
        // A panic in the middle of a call leaves the stream at an unknown place.
        let Ok(mut wire) = self.wire.lock() else {
            self.lost.store(true, Ordering::Release);
            return Reply::only(function, CkRv::DEVICE_ERROR);
        };
        match wire.state {
            State::Open => {}
            State::Lost => return Reply::only(function, CkRv::DEVICE_ERROR),
            State::Closed => return Reply::only(function, CkRv::CRYPTOKI_NOT_INITIALIZED),
        }
        let failure = match wire.exchange(&call) {
            Ok(reply) => return reply,
            Err(failure) => failure,
        };
        let rv = match &failure {
            // Nothing was sent.
            Failure::Encode(_) => CkRv::HOST_MEMORY,
            // The daemon is well and executed nothing; the connection stays, as in the original.
            Failure::Reply(ReplyError::NotExecuted(_) | ReplyError::Denied(_)) => {
                CkRv::FUNCTION_FAILED
            }
            // The reply is here, but there is no room for what it carries.
            Failure::Reply(ReplyError::Malformed(DecodeError::Memory)) => CkRv::HOST_MEMORY,
            _ => {
                wire.end(State::Lost);
                self.lost.store(true, Ordering::Release);
                match failure {
                    Failure::Memory(_) => CkRv::HOST_MEMORY,
                    _ => CkRv::DEVICE_ERROR,
                }
            }
        };
        // Why C_Initialize fails is said at the same level as that it does.
        let level = match function {
            Function::C_SetupArch | Function::C_LoadModule => log::Level::Error,
            _ => log::Level::Warn,
        };
        log::log!(level, "{}: {failure}; answering {rv}", function.name());
        Reply::only(function, rv)
    }
}

impl Remote for Connection {
    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    fn close(&self) {
        let _turn = self.turns.take();
        let wire = self.wire.lock();
        wire.unwrap_or_else(|poisoned| poisoned.into_inner())
            .end(State::Closed);
    }
}

impl Wire {
    fn exchange(&mut self, call: &Call<'_>) -> Result<Reply, Failure> {
        let deadline = Deadline::after(self.timeout);
        let function = call.function();
        let xid = Xid(self.next_xid);
        self.next_xid = self.next_xid.wrapping_add(1);

        let sent = self.send(xid, call, deadline);
        self.sending.as_mut_slice().zeroize(); // PINs and attribute values were copied here
        self.sending.clear();
        self.sending.shrink_to(LARGEST_KEPT);
        sent?;
        loop {
            if let Some(reply) = self.received_reply(xid, function)? {
                return reply.map_err(Failure::from);
            }
            let space = self.records.space()?;
            let received = match &mut self.transport {
                Transport::Plain(socket) => socket.receive(space, deadline),
                Transport::Tls(stream) => stream.receive(space, deadline),
            };
            match received? {
                0 => return Err(Failure::Closed),
                count => self.records.received(count),
            }
        }
    }

    fn send(&mut self, xid: Xid, call: &Call<'_>, deadline: Deadline) -> Result<(), Failure> {
        let mut record = rpc::write_call(xid, call, &mut self.sending)?;
        let socket = match &mut self.transport {
            Transport::Plain(socket) => socket,
            Transport::Tls(stream) => return stream.send(&mut record, deadline),
        };
        while !record.is_sent() {
            match socket.send(record.unsent(), deadline)? {
                0 => return Err(Failure::Closed),
                count => record.advance(count),
            }
        }
        Ok(())
    }

    /// The reply to `xid`, if it has come; replies to other xids are passed over.
    fn received_reply(
        &mut self,
        xid: Xid,
        function: Function,
    ) -> Result<Option<Result<Reply, ReplyError>>, TooLong> {
        while let Some(record) = self.records.next()? {
            if let Some(reply) = rpc::read_reply(xid, function, record) {
                if function.hands_out_secrets() {
                    self.records.wipe();
                }
                return Ok(Some(reply));
            }
        }
        Ok(None)
    }

    /// Ends the connection for the daemon at once; the descriptor goes with the last user.
    fn end(&mut self, state: State) {
        let is_sound = self.state == State::Open && state == State::Closed;
        self.state = state;
        match &mut self.transport {
            Transport::Plain(socket) => socket.shut_down(),
            Transport::Tls(stream) => stream.close(is_sound),
        }
    }
}

/// When an exchange has to be over.
#[derive(Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub fn after(timeout: Duration) -> Deadline {
        Deadline(Instant::now() + timeout)
    }

    fn remaining(self) -> Result<Duration, Failure> {
        self.remaining_at(Instant::now())
    }

    fn remaining_at(self, now: Instant) -> Result<Duration, Failure> {
        let remaining = self.0.saturating_duration_since(now);
        if remaining < SHORTEST {
            Err(Failure::Timeout)
        } else {
            Ok(remaining)
        }
    }
}

/// Less is no time: the kernel's limits count microseconds, and 0 of them is for ever.
const SHORTEST: Duration = Duration::from_millis(1);

/// How far the kernel's time limit may be off before it is set again.
const SLACK: Duration = Duration::from_millis(100);

/// A connected stream socket whose blocking calls end at a deadline.
pub(crate) struct Socket {
    /// `None` only while it is dropped.
    socket: Option<socket2::Socket>,
    owner: Process,
    /// The limits the kernel was given, for sending and for receiving.
    limits: [Duration; 2],
}

impl Socket {
    fn connect(endpoint: &Endpoint, deadline: Deadline) -> io::Result<Socket> {
        match endpoint {
            Endpoint::Unix(path) => {
                let address = SockAddr::unix(path)?;
                Socket::connect_to(Domain::UNIX, &address, deadline)
            }
            Endpoint::Tcp { host, port } => {
                let mut last = io::Error::other("the name has no address");
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
        let remaining = deadline.remaining().map_err(io::Error::other)?;
        // close-on-exec from the start
        let socket = socket2::Socket::new(domain, Type::STREAM, None)?;
        let socket = Socket::owned(socket, remaining);
        let inner = socket.inner()?;
        inner.set_write_timeout(Some(remaining))?;
        inner.set_read_timeout(Some(remaining))?;
        if domain == Domain::UNIX {
            // Waits, within the send limit, while the listener's queue is full.
            while let Err(failure) = inner.connect(address) {
                if failure.kind() != io::ErrorKind::Interrupted {
                    return Err(failure);
                }
                let remaining = deadline.remaining().map_err(io::Error::other)?;
                inner.set_write_timeout(Some(remaining))?;
            }
        } else {
            inner.connect_timeout(address, remaining)?;
            inner.set_tcp_nodelay(true)?;
        }
        Ok(socket)
    }

    fn owned(socket: socket2::Socket, limit: Duration) -> Socket {
        process::remember(&socket);
        Socket {
            socket: Some(socket),
            owner: Process::current(),
            limits: [limit; 2],
        }
    }

    fn inner(&self) -> io::Result<&socket2::Socket> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        self.socket.as_ref().ok_or_else(gone)
    }

    pub fn send(&mut self, parts: &[IoSlice<'_>], deadline: Deadline) -> Result<usize, Failure> {
        loop {
            self.limit(Direction::Send, deadline)?;
            let sent = match parts {
                [one] => self.inner()?.send_with_flags(one, NO_SIGNAL),
                parts => self.inner()?.send_vectored_with_flags(parts, NO_SIGNAL),
            };
            if let Some(result) = finished(sent) {
                return result;
            }
        }
    }

    pub fn receive(&mut self, space: &mut [u8], deadline: Deadline) -> Result<usize, Failure> {
        loop {
            self.limit(Direction::Receive, deadline)?;
            let mut socket = self.inner()?;
            if let Some(result) = finished(socket.read(space)) {
                return result;
            }
        }
    }

    /// Makes the kernel give up at the deadline, give or take [`SLACK`]. A call that comes and goes
    /// at once finds the limit of the one before good enough.
    fn limit(&mut self, direction: Direction, deadline: Deadline) -> Result<(), Failure> {
        let remaining = deadline.remaining()?;
        let limit = &mut self.limits[direction as usize];
        if limit.abs_diff(remaining) > SLACK {
            *limit = remaining;
            match direction {
                Direction::Send => self.inner()?.set_write_timeout(Some(remaining))?,
                Direction::Receive => self.inner()?.set_read_timeout(Some(remaining))?,
            }
        }
        Ok(())
    }

    /// Whether this process connected it.
    pub fn is_ours(&self) -> bool {
        self.owner == Process::current()
    }

    pub fn shut_down(&self) {
        if self.is_ours() {
            if let Ok(socket) = self.inner() {
                // Fails when the peer was faster; the connection is over either way.
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }
}

/// In a forked child the connection is the parent's: its descriptor was closed at the fork, the
/// number may be another file's by now, and nothing may be sent.
impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            if self.is_ours() {
                process::forget(&socket);
            } else {
                let _ = socket.into_raw_fd();
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Send,
    Receive,
}

/// `sendmsg` flags: no SIGPIPE. Where the flag is missing, socket2 has set SO_NOSIGPIPE.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: i32 = libc::MSG_NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: i32 = 0;

/// `None` when the call was interrupted and is to be made again.
fn finished(result: io::Result<usize>) -> Option<Result<usize, Failure>> {
    match result {
        Ok(count) => Some(Ok(count)),
        Err(error) => match error.kind() {
            io::ErrorKind::Interrupted => None,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Some(Err(Failure::Timeout)),
            _ => Some(Err(error.into())),
        },
    }
}

/// Without a look at the resolver where the host is an address.
fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(vec![SocketAddr::new(address, port)]),
        Err(_) => Ok((host, port).to_socket_addrs()?.collect()),
    }
}

#[cfg(test)]
mod tests;
