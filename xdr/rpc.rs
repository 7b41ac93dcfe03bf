//! Reads and writes the ONC RPC headers (RFC 5531, section 9) of calls and replies, for program 4 version 3.
//!
//! The daemon's side answers unusual calls with the same statuses as the original, but for another version
//! of RPC; the client's side accepts any accepted reply to its own xid. `call` reads what follows the headers.

use crate::call::{Call, Function, PROGRAM, Reply, VERSION};
use crate::codec::{DecodeError, Decoder, EncodeError, Encoder, Slices, Wire};
use crate::facts::Role;
use crate::integers::{Architecture, SessionHandle};

const CALL: u32 = 0;
const REPLY: u32 = 1;
const RPC_VERSION: u32 = 2;
const MSG_ACCEPTED: u32 = 0;
const MSG_DENIED: u32 = 1;
const RPC_MISMATCH: u32 = 0;
const AUTH_ERROR: u32 = 1;
const AUTH_TOOWEAK: u32 = 5;
const AUTH_NONE: u32 = 0;

/// Authentication flavours whose form is known: AUTH_NONE, AUTH_SYS, AUTH_SHORT, AUTH_DH,
/// RPCSEC_GSS. Others make a header unreadable.
const KNOWN_FLAVOURS: [u32; 5] = [AUTH_NONE, 1, 2, 3, 6];

/// Bytes of a credential or verifier at the most (RFC 5531, section 8.2).
const AUTH_BODY_LIMIT: usize = 400;

/// The identifier that pairs a reply with its call; never interpreted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Xid(pub u32);

/// Why a call was not executed: what its reply says instead of a result.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rejection {
    /// Another program than ours.
    ProgramUnavailable,
    /// Another version of the program; the reply tells that 3 is the only one.
    ProgramMismatch,
    /// No such procedure.
    ProcedureUnavailable,
    /// The message is no call, or its arguments are not those of the procedure.
    GarbageArguments,
    /// A failure of ours.
    SystemError,
    /// Another version of RPC; the reply tells that 2 is the only one. The original answers it with
    /// SystemError.
    RpcMismatch,
    /// A credential other than AUTH_NONE.
    AuthenticationTooWeak,
}

impl Rejection {
    /// The words of the reply after REPLY.
    fn words(self) -> &'static [u32] {
        match self {
            Rejection::ProgramUnavailable => &[MSG_ACCEPTED, AUTH_NONE, 0, 1],
            Rejection::ProgramMismatch => &[MSG_ACCEPTED, AUTH_NONE, 0, 2, VERSION, VERSION],
            Rejection::ProcedureUnavailable => &[MSG_ACCEPTED, AUTH_NONE, 0, 3],
            Rejection::GarbageArguments => &[MSG_ACCEPTED, AUTH_NONE, 0, 4],
            Rejection::SystemError => &[MSG_ACCEPTED, AUTH_NONE, 0, 5],
            Rejection::RpcMismatch => &[MSG_DENIED, RPC_MISMATCH, RPC_VERSION, RPC_VERSION],
            Rejection::AuthenticationTooWeak => &[MSG_DENIED, AUTH_ERROR, AUTH_TOOWEAK],
        }
    }
}

/// What a record asks of the daemon.
#[derive(Debug)]
pub enum Request<'a> {
    /// A complete call of one of our procedures.
    Call(Xid, Call<'a>),
    /// Something that gets a reply without being executed.
    Rejected(Xid, Rejection),
    /// Too short to hold even an xid: nothing can be answered.
    Unanswerable,
}

/// Reads a record as the daemon receives it from a client of this architecture.
pub fn read_request(record: &[u8], client: Architecture) -> Request<'_> {
    let mut input = Decoder::new(record, client);
    let Ok(xid) = input.word().map(Xid) else {
        return Request::Unanswerable;
    };
    match read_call(input) {
        Ok(call) => Request::Call(xid, call),
        Err(rejection) => Request::Rejected(xid, rejection),
    }
}

/// What the beginning of a record asks for, whatever follows it.
#[derive(Debug)]
pub enum Beginning {
    /// A call of this procedure, and the session that it is made in, if it is made in one.
    Call(Xid, Function, Option<SessionHandle>),
    /// See [`Request::Rejected`].
    Rejected(Xid, Rejection),
    /// See [`Request::Unanswerable`].
    Unanswerable,
}

/// Reads the header of a record, of which more may follow, and the first argument if it is a session.
pub fn read_beginning(record: &[u8]) -> Beginning {
    let mut input = Decoder::new(record, Architecture::host());
    let Ok(xid) = input.word().map(Xid) else {
        return Beginning::Unanswerable;
    };
    match read_function(&mut input) {
        Ok(function) => {
            let is_in_session = function.facts().roles.first() == Some(&Role::Session);
            let session = is_in_session.then(|| SessionHandle::read(&mut input).ok());
            Beginning::Call(xid, function, session.flatten())
        }
        Err(rejection) => Beginning::Rejected(xid, rejection),
    }
}

/// Whether a record that begins like this can be a call of RPC: its second word says so. True if that has
/// not come yet.
pub fn may_be_call(record: &[u8]) -> bool {
    let mut input = Decoder::new(record, Architecture::host());
    let _xid = input.word();
    input.word().is_ok_and(|message| message == CALL) || record.len() < 8
}

fn read_call(mut input: Decoder<'_>) -> Result<Call<'_>, Rejection> {
    let function = read_function(&mut input)?;
    Call::read(function, input).map_err(|_| Rejection::GarbageArguments)
}

/// The checks stand in the order in which the original makes them.
fn read_function(input: &mut Decoder<'_>) -> Result<Function, Rejection> {
    let header = read_call_header(input).map_err(|_| Rejection::GarbageArguments)?;
    let [
        message,
        rpc_version,
        program,
        version,
        procedure,
        credential,
        verifier,
    ] = header;
    let known = |flavour| KNOWN_FLAVOURS.contains(&flavour);
    if message != CALL || !known(credential) || !known(verifier) {
        return Err(Rejection::GarbageArguments);
    }
    if rpc_version != RPC_VERSION {
        return Err(Rejection::RpcMismatch);
    }
    if credential != AUTH_NONE {
        return Err(Rejection::AuthenticationTooWeak);
    }
    if program != PROGRAM {
        return Err(Rejection::ProgramUnavailable);
    }
    if version != VERSION {
        return Err(Rejection::ProgramMismatch);
    }
    Function::from_number(procedure).ok_or(Rejection::ProcedureUnavailable)
}

/// Message type, RPC version, program, version, procedure, credential and verifier flavour.
fn read_call_header(input: &mut Decoder<'_>) -> Result<[u32; 7], DecodeError> {
    let mut header = [0; 7];
    for word in &mut header[..5] {
        *word = input.word()?;
    }
    for flavour in &mut header[5..] {
        *flavour = input.word()?;
        read_auth_body(input)?;
    }
    Ok(header)
}

fn read_auth_body(input: &mut Decoder<'_>) -> Result<(), DecodeError> {
    let body = input.opaque()?;
    if body.len() > AUTH_BODY_LIMIT {
        Err(DecodeError::TooLong)
    } else {
        Ok(())
    }
}

/// Lays out the reply to an executed call, record mark included, for a client of this architecture.
pub fn write_reply<'b>(
    xid: Xid,
    reply: &'b Reply,
    client: Architecture,
    buffer: &'b mut Vec<u8>,
) -> Result<Slices<'b>, EncodeError> {
    let mut output = Encoder::new(buffer, client);
    for word in [xid.0, REPLY, MSG_ACCEPTED, AUTH_NONE, 0, 0] {
        output.word(word);
    }
    reply.write(&mut output);
    output.finish()
}

/// Lays out the reply to a call that was not executed, record mark included.
pub fn write_rejection<'b>(
    xid: Xid,
    rejection: Rejection,
    buffer: &'b mut Vec<u8>,
) -> Result<Slices<'b>, EncodeError> {
    let mut output = Encoder::new(buffer, Architecture::host());
    for word in [xid.0, REPLY].iter().chain(rejection.words()) {
        output.word(*word);
    }
    output.finish()
}

/// Lays out a call as the client sends it, record mark included.
pub fn write_call<'b>(
    xid: Xid,
    call: &'b Call<'_>,
    buffer: &'b mut Vec<u8>,
) -> Result<Slices<'b>, EncodeError> {
    let mut output = Encoder::new(buffer, Architecture::host());
    let function = call.function().number();
    let none = [AUTH_NONE, 0, AUTH_NONE, 0];
    for word in [xid.0, CALL, RPC_VERSION, PROGRAM, VERSION, function]
        .into_iter()
        .chain(none)
    {
        output.word(word);
    }
    call.write(&mut output);
    output.finish()
}

/// Why a record is not the result of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReplyError {
    /// The record is no reply, or not one of the function's form.
    Malformed(DecodeError),
    /// The daemon denied the call; the RFC's reject status.
    Denied(u32),
    /// The daemon accepted the call without executing it; the RFC's accept status.
    NotExecuted(u32),
}

impl std::fmt::Display for ReplyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReplyError::Malformed(cause) => write!(f, "malformed reply: {cause}"),
            ReplyError::Denied(status) => write!(f, "call denied, RPC reject status {status}"),
            ReplyError::NotExecuted(status) => {
                write!(f, "call not executed, RPC accept status {status}")
            }
        }
    }
}

impl std::error::Error for ReplyError {}

impl From<DecodeError> for ReplyError {
    fn from(cause: DecodeError) -> ReplyError {
        ReplyError::Malformed(cause)
    }
}

/// Reads a record as the client receives it; `None` when it answers another xid.
pub fn read_reply(
    xid: Xid,
    function: Function,
    record: &[u8],
) -> Option<Result<Reply, ReplyError>> {
    let mut input = Decoder::new(record, Architecture::host());
    match input.word() {
        Ok(word) if word != xid.0 => None,
        Ok(_) => Some(read_reply_body(input, function)),
        Err(short) => Some(Err(short.into())),
    }
}

fn read_reply_body(mut input: Decoder<'_>, function: Function) -> Result<Reply, ReplyError> {
    if input.word()? != REPLY {
        return Err(ReplyError::Malformed(DecodeError::Trailing));
    }
    if input.word()? != MSG_ACCEPTED {
        return Err(ReplyError::Denied(input.word()?));
    }
    input.word()?;
    read_auth_body(&mut input)?;
    match input.word()? {
        0 => Ok(Reply::read(function, input)?),
        status => Err(ReplyError::NotExecuted(status)),
    }
}
