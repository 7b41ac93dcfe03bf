//! Makes calls to the daemon over one socket: one call at a time, each within its deadline.
//!
//! Calls come from `library`, as values. A record goes out in one `sendmsg` and usually comes back in
//! one `recv`, with or without TLS. A failure after which call and reply could get out of step ends
//! the connection for good. Its sessions and operations end with it, so nothing reconnects without the
//! application's knowledge. Signal mask and handlers stay as they are; SIGPIPE is not raised.

use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use transport::Deadline;
use xdr::codec::DecodeError;
use xdr::record::{Records, TooLong};
use xdr::rpc::{self, Asking, ReplyError, Xid};
use xdr::{Call, CkRv, Function, Hello, HelloResult, Reply, version3};
use zeroize::Zeroize;

use crate::failure::Failure;
use crate::remote::Remote;
use crate::settings::{Endpoint, TlsSettings};
use crate::socket::Socket;
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
    let [a, b, c, d, ..] = random.to_ne_bytes(); // any half is as good as the other
    u32::from_ne_bytes([a, b, c, d])
}

/// A reply of either version that carries a CK_RV alone.
trait Only: Sized {
    fn only_rv(function: Function, rv: CkRv) -> Self;
}

impl Only for Reply {
    fn only_rv(function: Function, rv: CkRv) -> Reply {
        Reply::only(function, rv)
    }
}

impl Only for version3::Reply {
    fn only_rv(function: Function, rv: CkRv) -> version3::Reply {
        version3::Reply::only(function, rv).unwrap_or(version3::Reply::C_Finalize(rv))
    }
}

impl Connection {
    fn make<C: Asking<Reply: Only>>(&self, call: &C) -> C::Reply {
        let function = call.function();
        let _turn = self.turns.take();
        // A panic in the middle of a call leaves the stream at an unknown place.
        let Ok(mut wire) = self.wire.lock() else {
            self.lost.store(true, Ordering::Release);
            return C::Reply::only_rv(function, CkRv::DEVICE_ERROR);
        };
        match wire.state {
            State::Open => {}
            State::Lost => return C::Reply::only_rv(function, CkRv::DEVICE_ERROR),
            State::Closed => return C::Reply::only_rv(function, CkRv::CRYPTOKI_NOT_INITIALIZED),
        }
        let failure = match wire.exchange(call) {
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
        log::log!(level, "{}: {failure}; returning {rv}", function.name());
        C::Reply::only_rv(function, rv)
    }
}

impl Remote for Connection {
    fn negotiate(&self, hello: Hello) -> Result<Option<HelloResult>, CkRv> {
        let reply = {
            let _turn = self.turns.take();
            let mut wire = self.wire.lock().map_err(|_| CkRv::DEVICE_ERROR)?;
            wire.exchange(&Call::C_SetupArch(hello))
        };
        match reply {
            Ok(Reply::C_SetupArch(result)) => Ok(Some(result)),
            Ok(_) => Err(CkRv::GENERAL_ERROR),
            Err(Failure::Reply(ReplyError::NotExecuted(2))) => Ok(None),
            Err(failure) => {
                log::error!("C_SetupArch: {failure}");
                self.lost.store(true, Ordering::Release);
                Err(CkRv::DEVICE_ERROR)
            }
        }
    }

    fn call(&self, call: Call<'_>) -> Reply {
        self.make(&call)
    }

    fn call_version3(&self, call: version3::Call<'_>) -> version3::Reply {
        self.make(&call)
    }

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
    fn exchange<C: Asking>(&mut self, call: &C) -> Result<C::Reply, Failure> {
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
            if let Some(reply) = self.received_reply::<C>(xid, function)? {
                return reply.map_err(Failure::from);
            }
            let space = self.records.space()?;
            let received = match &mut self.transport {
                Transport::Plain(socket) => socket.receive(space, deadline)?,
                Transport::Tls(stream) => stream.receive(space, deadline)?,
            };
            match received {
                0 => return Err(Failure::Closed),
                count => self.records.received(count),
            }
        }
    }

    fn send<C: Asking>(&mut self, xid: Xid, call: &C, deadline: Deadline) -> Result<(), Failure> {
        let mut record = rpc::write_call(xid, call, false, &mut self.sending)?;
        match &mut self.transport {
            Transport::Plain(socket) => Ok(socket.send_record(&mut record, deadline)?),
            Transport::Tls(stream) => stream.send(&mut record, deadline),
        }
    }

    /// The reply to `xid`, if it has come; replies to other xids are passed over.
    fn received_reply<C: Asking>(
        &mut self,
        xid: Xid,
        function: Function,
    ) -> Result<Option<Result<C::Reply, ReplyError>>, TooLong> {
        while let Some(record) = self.records.next()? {
            if let Some(reply) = rpc::read_reply::<C>(xid, function, record) {
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

#[cfg(test)]
mod tests;
