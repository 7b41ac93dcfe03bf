//! One client's connection: read a record, decode the call, have it answered, write the reply.
//!
//! Bytes come from the worker's socket; calls go to a [`Cryptoki`] and its replies back. One blocking
//! read and one write serve a call. A record that has begun must be complete within a time limit;
//! between two records a client may idle for ever.

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::sys::socket::MsgFlags;
use socket2::Socket;
use xdr::codec::Slices;
use xdr::record::Records;
use xdr::rpc::{self, Rejection, Request};
use xdr::{Cryptoki, Function};

use crate::logging::{Severity, log};

/// What a peer may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one record at the most.
    pub record_size: usize,
    /// How long a record may take from its first byte to its last, and a reply to be taken.
    pub record_time: Duration,
}

/// Why a connection ended without the client closing it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The record limit.
    #[error("a record over the limit of {0} bytes was announced")]
    TooLong(usize),
    /// The time limit, in either direction.
    #[error("a record was not complete within {} s", .0.as_secs_f32())]
    TooSlow(Duration),
    /// The transport.
    #[error("{0}")]
    Transport(#[from] io::Error),
}

/// Serves the client at the other end of `socket` until it closes the connection.
pub fn serve(
    socket: &Socket,
    cryptoki: &dyn Cryptoki,
    limits: Limits,
) -> Result<(), ConnectionError> {
    let mut records = Records::new(limits.record_size);
    let mut output = Vec::new();
    socket.set_write_timeout(Some(limits.record_time))?;
    loop {
        let function = match receive(socket, &mut records, limits)? {
            None => return Ok(()),
            Some(record) => answer(socket, record, cryptoki, &mut output, limits)?,
        };
        if function.is_some_and(carries_secrets) {
            records.wipe();
        }
    }
}

/// Answers one record; tells which procedure was called.
fn answer(
    socket: &Socket,
    record: &[u8],
    cryptoki: &dyn Cryptoki,
    output: &mut Vec<u8>,
    limits: Limits,
) -> Result<Option<Function>, ConnectionError> {
    let rejected = |xid, rejection, output| {
        let slices = rpc::write_rejection(xid, rejection, output).map_err(io::Error::other)?;
        send(socket, slices, limits)
    };
    match rpc::read_request(record) {
        Request::Unanswerable => Ok(None),
        Request::Rejected(xid, rejection) => rejected(xid, rejection, output).map(|()| None),
        Request::Call(xid, call) => {
            let function = call.function();
            let reply = catch_unwind(AssertUnwindSafe(|| cryptoki.call(call)));
            if let Ok(reply) = &reply {
                if let Ok(slices) = rpc::write_reply(xid, reply, output) {
                    return send(socket, slices, limits).map(|()| Some(function));
                }
            }
            log(
                Severity::Crit,
                format_args!("{}: internal error", function.name()),
            );
            rejected(xid, Rejection::SystemError, output).map(|()| Some(function))
        }
    }
}

/// The next record; `None` when the client closed the connection.
fn receive<'r>(
    socket: &Socket,
    records: &'r mut Records,
    limits: Limits,
) -> Result<Option<&'r [u8]>, ConnectionError> {
    let mut deadline = None;
    let ended = loop {
        match records.advance() {
            Err(_) => return Err(ConnectionError::TooLong(limits.record_size)),
            Ok(true) => break false,
            Ok(false) => {}
        }
        if records.is_begun() {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + limits.record_time);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ConnectionError::TooSlow(limits.record_time));
            }
            socket.set_read_timeout(Some(left))?;
        }
        let mut from = socket;
        match from.read(records.space()) {
            Ok(0) => break true,
            Ok(count) => records.received(count),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => {
                    return Err(ConnectionError::TooSlow(limits.record_time));
                }
                io::ErrorKind::ConnectionReset => break true,
                _ => return Err(error.into()),
            },
        }
    };
    if deadline.is_some() {
        socket.set_read_timeout(None)?;
    }
    if ended {
        return Ok(None);
    }
    Ok(Some(records.record()))
}

fn send(socket: &Socket, mut slices: Slices<'_>, limits: Limits) -> Result<(), ConnectionError> {
    let mut deadline = None;
    loop {
        let flags = MsgFlags::MSG_NOSIGNAL.bits();
        let unsent = slices.unsent();
        let sent = match unsent {
            [one] => socket.send_with_flags(one, flags),
            parts => socket.send_vectored_with_flags(parts, flags),
        };
        match sent {
            Ok(count) => slices.advance(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(ConnectionError::TooSlow(limits.record_time));
            }
            Err(error) => return Err(error.into()),
        }
        if slices.is_sent() {
            return Ok(());
        }
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + limits.record_time);
        if Instant::now() > deadline {
            return Err(ConnectionError::TooSlow(limits.record_time));
        }
    }
}

/// Whether the arguments may hold a PIN or a key, so that they are wiped after the call.
fn carries_secrets(function: Function) -> bool {
    use Function::{
        C_CopyObject, C_CreateObject, C_DeriveKey, C_GenerateKey, C_GenerateKeyPair, C_InitPIN,
        C_InitToken, C_Login, C_SetAttributeValue, C_SetPIN, C_UnwrapKey,
    };
    matches!(
        function,
        C_CopyObject
            | C_CreateObject
            | C_DeriveKey
            | C_GenerateKey
            | C_GenerateKeyPair
            | C_InitPIN
            | C_InitToken
            | C_Login
            | C_SetAttributeValue
            | C_SetPIN
            | C_UnwrapKey
    )
}
