//! Reads and writes the ONC RPC headers (RFC 5531, section 9) of calls and replies, for versions 3 and 4 of program 4.
//!
//! The daemon's side answers unusual calls with the same statuses as the original; the client's side
//! accepts any accepted reply to its own xid. `call` reads what follows the headers in version 4, `version3` in
//! version 3.

mod notifications;

use std::ops::RangeInclusive;

use crate::call::{Call, Function, PROGRAM, Reply, VERSION};
use crate::codec::{DecodeError, Decoder, EncodeError, Encoder, Slices};
use crate::integers::Architecture;
use crate::version3;

pub use notifications::{
    Notification, read_notification, read_notified, write_notification, write_notified,
};

const CALL: u32 = 0;
const REPLY: u32 = 1;
const RPC_VERSION: u32 = 2;
const MSG_ACCEPTED: u32 = 0;
const MSG_DENIED: u32 = 1;
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
    /// Another version of the program; the reply tells the lowest and the highest that are spoken.
    ProgramMismatch(u32, u32),
    /// No such procedure.
    ProcedureUnavailable,
    /// The message is no call, or its arguments are not those of the procedure.
    GarbageArguments,
    /// Another version of RPC (as the original answers it), or a failure of ours.
    SystemError,
    /// A credential other than AUTH_NONE.
    AuthenticationTooWeak,
}

impl Rejection {
    /// The words of the reply after its verifier.
    fn status(self) -> ([u32; 3], usize) {
        match self {
            Rejection::ProgramUnavailable => ([1, 0, 0], 1),
            Rejection::ProgramMismatch(lowest, highest) => ([2, lowest, highest], 3),
            Rejection::ProcedureUnavailable => ([3, 0, 0], 1),
            Rejection::GarbageArguments => ([4, 0, 0], 1),
            Rejection::SystemError => ([5, 0, 0], 1),
            Rejection::AuthenticationTooWeak => ([0; 3], 0),
        }
    }
}

/// A version of the protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// The original's.
    Three,
    /// Our own.
    Four,
}

impl Version {
    /// Its number.
    pub const fn number(self) -> u32 {
        match self {
            Version::Three => version3::VERSION,
            Version::Four => VERSION,
        }
    }

    fn from_number(number: u32) -> Option<Version> {
        let versions = [Version::Three, Version::Four];
        versions
            .into_iter()
            .find(|version| version.number() == number)
    }
}

/// What the daemon knows of a client before it reads a call.
#[derive(Clone, Debug)]
pub struct Peer {
    /// How the client lays out numbers, in version 3.
    pub architecture: Architecture,
    /// The versions that it may speak.
    pub versions: RangeInclusive<u32>,
}

/// A call with what its header says.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// Pairs the reply with it.
    pub xid: Xid,
    /// The version that it came by, and that its reply goes by.
    pub version: Version,
    /// Whether other calls of the client may come before this one is answered.
    pub overlaps: bool,
    /// The call.
    pub call: Call<'a>,
}

/// What a record asks of the daemon.
#[derive(Debug)]
pub enum Request<'a> {
    /// A complete call of one of our procedures.
    Call(Incoming<'a>),
    /// Something that gets a reply without being executed.
    Rejected(Xid, Rejection),
    /// Too short to hold even an xid: nothing can be answered.
    Unanswerable,
}

/// Reads a record as the daemon receives it from this client.
pub fn read_request<'a>(record: &'a [u8], peer: &Peer) -> Request<'a> {
    let mut input = Decoder::new(record, peer.architecture);
    let Ok(xid) = input.word().map(Xid) else {
        return Request::Unanswerable;
    };
    match read_call(xid, input, peer) {
        Ok(call) => Request::Call(call),
        Err(rejection) => Request::Rejected(xid, rejection),
    }
}

/// Whether a record is a call of version 4 that other calls may overtake, by its flags or because it waits for
/// something to happen. Reads no more of it than that takes.
pub fn is_overtaken(record: &[u8]) -> bool {
    let mut input = Decoder::new(record, Architecture::host());
    let mut is_overtaken = || {
        input.word()?;
        let [.., version, procedure, _, _] = read_call_header(&mut input)?;
        if version != Version::Four.number() {
            return Ok(false);
        }
        let flags = input.word()?;
        let waits =
            procedure == Function::C_WaitForSlotEvent.number() && input.hyper()? & DONT_BLOCK == 0;
        Ok::<bool, DecodeError>(flags & CALL_OVERLAPS != 0 || waits)
    };
    is_overtaken().unwrap_or(false)
}

/// CKF_DONT_BLOCK of C_WaitForSlotEvent.
const DONT_BLOCK: u64 = 1;

/// The checks stand in the order in which the original makes them.
fn read_call<'a>(xid: Xid, mut input: Decoder<'a>, peer: &Peer) -> Result<Incoming<'a>, Rejection> {
    let header = read_call_header(&mut input).map_err(|_| Rejection::GarbageArguments)?;
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
        return Err(Rejection::SystemError);
    }
    if credential != AUTH_NONE {
        return Err(Rejection::AuthenticationTooWeak);
    }
    if program != PROGRAM {
        return Err(Rejection::ProgramUnavailable);
    }
    let spoken = Version::from_number(version).filter(|_| peer.versions.contains(&version));
    let Some(version) = spoken else {
        let (lowest, highest) = (*peer.versions.start(), *peer.versions.end());
        return Err(Rejection::ProgramMismatch(lowest, highest));
    };
    let function = Function::from_number(procedure).ok_or(Rejection::ProcedureUnavailable)?;
    let garbage = |_| Rejection::GarbageArguments;
    let (overlaps, call) = match version {
        Version::Three => {
            let call = version3::Call::read(function, input);
            let call = call.ok_or(Rejection::ProcedureUnavailable)?;
            (false, call.map_err(garbage)?.into_current())
        }
        Version::Four => {
            let flags = input.word().map_err(garbage)?;
            if flags & !CALL_OVERLAPS != 0 {
                return Err(Rejection::GarbageArguments);
            }
            let call = Call::read(function, input).map_err(garbage)?;
            (flags & CALL_OVERLAPS != 0, call)
        }
    };
    Ok(Incoming {
        xid,
        version,
        overlaps,
        call,
    })
}

/// The flag of a call of version 4 that says that others may come before it is answered.
const CALL_OVERLAPS: u32 = 1;

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

/// A reply as a version of the protocol says it.
pub enum Outgoing {
    /// In version 3.
    Three(version3::Reply),
    /// In version 4.
    Four(Reply),
}

impl Outgoing {
    /// The reply in this version; `None` if the version does not have the procedure.
    pub fn new(reply: Reply, version: Version) -> Option<Outgoing> {
        match version {
            Version::Three => version3::Reply::of(reply).map(Outgoing::Three),
            Version::Four => Some(Outgoing::Four(reply)),
        }
    }

    /// Wipes the bytes it carries; attribute values are wiped when they are dropped.
    pub fn wipe(&mut self) {
        match self {
            Outgoing::Three(reply) => reply.wipe(),
            Outgoing::Four(reply) => reply.wipe(),
        }
    }

    /// Takes the bytes it carries, so that their memory can be used again.
    pub fn take_data(&mut self) -> Vec<u8> {
        match self {
            Outgoing::Three(reply) => reply.take_data(),
            Outgoing::Four(reply) => reply.take_data(),
        }
    }
}

/// Lays out the reply to an executed call, record mark included, for a client of this architecture.
pub fn write_reply<'b>(
    xid: Xid,
    reply: &'b Outgoing,
    client: Architecture,
    buffer: &'b mut Vec<u8>,
) -> Result<Slices<'b>, EncodeError> {
    let mut output = Encoder::new(buffer, client);
    for word in [xid.0, REPLY, MSG_ACCEPTED, AUTH_NONE, 0, 0] {
        output.word(word);
    }
    match reply {
        Outgoing::Three(reply) => reply.write(&mut output),
        Outgoing::Four(reply) => reply.write(&mut output),
    }
    output.finish()
}

/// Lays out the reply to a call that was not executed, record mark included.
pub fn write_rejection<'b>(
    xid: Xid,
    rejection: Rejection,
    buffer: &'b mut Vec<u8>,
) -> Result<Slices<'b>, EncodeError> {
    let mut output = Encoder::new(buffer, Architecture::host());
    output.word(xid.0);
    output.word(REPLY);
    let state: &[u32] = match rejection {
        Rejection::AuthenticationTooWeak => &[MSG_DENIED, AUTH_ERROR, AUTH_TOOWEAK],
        Rejection::ProgramUnavailable
        | Rejection::ProgramMismatch(..)
        | Rejection::ProcedureUnavailable
        | Rejection::GarbageArguments
        | Rejection::SystemError => &[MSG_ACCEPTED, AUTH_NONE, 0],
    };
    let (status, words) = rejection.status();
    for word in state.iter().chain(status.iter().take(words)) {
        output.word(*word);
    }
    output.finish()
}

/// A call of one version of the protocol, as the client sends it.
pub trait Asking {
    /// What answers it.
    type Reply;
    /// The version.
    const VERSION: Version;

    /// Which procedure is called.
    fn function(&self) -> Function;

    /// Appends the arguments.
    fn write_arguments<'b>(&'b self, output: &mut Encoder<'b>);

    /// Reads the result of `function`: all that is left of the record.
    fn read_result(function: Function, input: Decoder<'_>) -> Result<Self::Reply, DecodeError>;
}

impl Asking for Call<'_> {
    type Reply = Reply;
    const VERSION: Version = Version::Four;

    fn function(&self) -> Function {
        Call::function(self)
    }

    fn write_arguments<'b>(&'b self, output: &mut Encoder<'b>) {
        self.write(output);
    }

    fn read_result(function: Function, input: Decoder<'_>) -> Result<Reply, DecodeError> {
        Reply::read(function, input)
    }
}

impl Asking for version3::Call<'_> {
    type Reply = version3::Reply;
    const VERSION: Version = Version::Three;

    fn function(&self) -> Function {
        version3::Call::function(self)
    }

    fn write_arguments<'b>(&'b self, output: &mut Encoder<'b>) {
        self.write(output);
    }

    fn read_result(function: Function, input: Decoder<'_>) -> Result<Self::Reply, DecodeError> {
        let reply = version3::Reply::read(function, input);
        reply.unwrap_or(Err(DecodeError::Kind))
    }
}

/// Lays out a call as the client sends it, record mark included. Version 4 tells whether other calls may
/// come before this one is answered.
pub fn write_call<'b, C: Asking>(
    xid: Xid,
    call: &'b C,
    overlaps: bool,
    buffer: &'b mut Vec<u8>,
) -> Result<Slices<'b>, EncodeError> {
    let mut output = Encoder::new(buffer, Architecture::host());
    let function = call.function().number();
    let none = [AUTH_NONE, 0, AUTH_NONE, 0];
    for word in [
        xid.0,
        CALL,
        RPC_VERSION,
        PROGRAM,
        C::VERSION.number(),
        function,
    ]
    .into_iter()
    .chain(none)
    {
        output.word(word);
    }
    if C::VERSION == Version::Four {
        output.word(if overlaps { CALL_OVERLAPS } else { 0 });
    }
    call.write_arguments(&mut output);
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

/// The xid of a record that the client receives.
pub fn xid_of(record: &[u8]) -> Result<Xid, DecodeError> {
    Decoder::new(record, Architecture::host()).word().map(Xid)
}

/// Reads a record as the client receives it; `None` when it answers another xid.
pub fn read_reply<C: Asking>(
    xid: Xid,
    function: Function,
    record: &[u8],
) -> Option<Result<C::Reply, ReplyError>> {
    let mut input = Decoder::new(record, Architecture::host());
    match input.word() {
        Ok(word) if word != xid.0 => None,
        Ok(_) => Some(read_reply_body::<C>(input, function)),
        Err(short) => Some(Err(short.into())),
    }
}

fn read_reply_body<C: Asking>(
    mut input: Decoder<'_>,
    function: Function,
) -> Result<C::Reply, ReplyError> {
    if input.word()? != REPLY {
        return Err(ReplyError::Malformed(DecodeError::Trailing));
    }
    accepted(&mut input)?;
    Ok(C::read_result(function, input)?)
}

/// Reads what a reply has between its kind of message and its result.
fn accepted(input: &mut Decoder<'_>) -> Result<(), ReplyError> {
    if input.word()? != MSG_ACCEPTED {
        return Err(ReplyError::Denied(input.word()?));
    }
    input.word()?;
    read_auth_body(input)?;
    match input.word()? {
        0 => Ok(()),
        status => Err(ReplyError::NotExecuted(status)),
    }
}
