//! Reads and writes the ONC RPC headers (RFC 5531, section 9) of calls and replies, for versions 3 and 4 of program 4.
//!
//! The daemon answers unusual calls with the same statuses as the original, except where the RPC version is wrong. The
//! client accepts any accepted reply to its own xid. In version 4, `call` reads what follows the headers; in version 3,
//! `version3` does.

mod arriving;
mod notifications;

use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::buffers::NullPlaces;
use crate::call::{Call, Function, PROGRAM, Reply, VERSION};
use crate::codec::{DecodeError, Decoder, EncodeError, Encoder, Slices, Wire};
use crate::data::Data;
use crate::facts::Role;
use crate::integers::{Architecture, SessionHandle};
use crate::record::Taken;
use crate::version3;

pub use arriving::{Arriving, read_arriving};
pub use notifications::{
    Notification, read_notification, read_notified, write_notification, write_notified,
};

const CALL: u32 = 0;
const REPLY: u32 = 1;
const RPC_VERSION: u32 = 2;
const MSG_ACCEPTED: u32 = 0;
const MSG_DENIED: u32 = 1;
const RPC_MISMATCH: u32 = 0;
const AUTH_ERROR: u32 = 1;
const AUTH_TOOWEAK: u32 = 5;
const AUTH_NONE: u32 = 0;

/// The authentication flavours that are known: AUTH_NONE, AUTH_SYS, AUTH_SHORT, AUTH_DH, RPCSEC_GSS. A call with any
/// other one gets [`Rejection::GarbageArguments`].
const KNOWN_FLAVOURS: [u32; 5] = [AUTH_NONE, 1, 2, 3, 6];

/// Upper bound on the bytes of a credential or verifier (RFC 5531, section 8.2).
const AUTH_BODY_LIMIT: usize = 400;

/// The identifier that pairs a reply with its call; never interpreted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Xid(pub u32);

/// Why a call was not executed. The reply says this instead of a result.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rejection {
    /// The call is for another program.
    ProgramUnavailable,
    /// The version of the program is not supported; the reply tells the lowest and the highest that are.
    ProgramMismatch(u32, u32),
    /// No such procedure.
    ProcedureUnavailable,
    /// The message is no call, or its arguments are not those of the procedure.
    GarbageArguments,
    /// The daemon itself failed.
    SystemError,
    /// The version of RPC is not supported; the reply tells that 2 is the only one. The original answers SystemError.
    RpcMismatch,
    /// The credential is not AUTH_NONE.
    AuthenticationTooWeak,
}

impl Rejection {
    /// Appends the words of the reply after REPLY.
    fn write(self, output: &mut Encoder<'_>) {
        const ACCEPTED: [u32; 3] = [MSG_ACCEPTED, AUTH_NONE, 0];
        let accepted = |status: &[u32]| [&ACCEPTED, status].concat();
        let words = match self {
            Rejection::ProgramUnavailable => accepted(&[1]),
            Rejection::ProgramMismatch(lowest, highest) => accepted(&[2, lowest, highest]),
            Rejection::ProcedureUnavailable => accepted(&[3]),
            Rejection::GarbageArguments => accepted(&[4]),
            Rejection::SystemError => accepted(&[5]),
            Rejection::RpcMismatch => vec![MSG_DENIED, RPC_MISMATCH, RPC_VERSION, RPC_VERSION],
            Rejection::AuthenticationTooWeak => vec![MSG_DENIED, AUTH_ERROR, AUTH_TOOWEAK],
        };
        for word in words {
            output.word(word);
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

    /// Whether this version has the procedure.
    fn has(self, function: Function) -> bool {
        match self {
            Version::Three => version3::FUNCTIONS.contains(&function),
            Version::Four => true,
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

/// A call and the contents of its header.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// Pairs the reply with the call.
    pub xid: Xid,
    /// The version of the protocol that the call uses, and that its reply must use.
    pub version: Version,
    /// Whether other calls of the client may come before this one is answered.
    pub overlaps: bool,
    /// Which of the client's pointers to results are NULL.
    pub nulls: NullPlaces,
    /// The call.
    pub call: Call<'a>,
}

/// What a record asks of the daemon.
#[derive(Debug)]
pub enum Request<'a> {
    /// A complete call of one of our procedures.
    Call(Incoming<'a>),
    /// A record that gets a reply without being executed.
    Rejected(Xid, Rejection),
    /// A record too short for an xid, so that it cannot be answered.
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

/// What a record asks for, as far as its beginning tells.
#[derive(Debug)]
pub enum Beginning {
    /// A call.
    Call {
        /// Pairs the reply with the call.
        xid: Xid,
        /// The version of the protocol that the call uses, and that its reply must use.
        version: Version,
        /// The procedure.
        function: Function,
        /// The session that the call is made in, if it is made in one.
        session: Option<SessionHandle>,
    },
    /// See [`Request::Rejected`].
    Rejected(Xid, Rejection),
    /// See [`Request::Unanswerable`].
    Unanswerable,
}

/// Reads the header of a record of this client, and the first argument if it is a session. The record may be
/// incomplete.
pub fn read_beginning(record: &[u8], peer: &Peer) -> Beginning {
    let mut input = Decoder::new(record, peer.architecture);
    let Ok(xid) = input.word().map(Xid) else {
        return Beginning::Unanswerable;
    };
    match read_called(&mut input, peer) {
        Ok(called) => {
            let function = called.function;
            let is_in_session = function.facts().roles.first() == Some(&Role::Session);
            let session = is_in_session.then(|| SessionHandle::read(&mut input).ok());
            Beginning::Call {
                xid,
                version: called.version,
                function,
                session: session.flatten(),
            }
        }
        Err(rejection) => Beginning::Rejected(xid, rejection),
    }
}

/// Whether a record that begins like this can be an RPC call, by its second word. True if that word has not arrived
/// yet.
pub fn may_be_call(record: &[u8]) -> bool {
    let mut input = Decoder::new(record, Architecture::host());
    let _xid = input.word();
    input.word().is_ok_and(|message| message == CALL) || record.len() < 8
}

/// Whether a record is a call of version 4 with which other calls may overlap, because its flags say so or because it waits
/// for an event. Reads only as much of the record as needed.
pub fn overlaps(record: &[u8]) -> bool {
    let mut input = Decoder::new(record, Architecture::host());
    let mut overlaps = || {
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
    overlaps().unwrap_or(false)
}

/// CKF_DONT_BLOCK of C_WaitForSlotEvent.
const DONT_BLOCK: u64 = 1;

fn read_call<'a>(xid: Xid, mut input: Decoder<'a>, peer: &Peer) -> Result<Incoming<'a>, Rejection> {
    let Called {
        version,
        function,
        flags,
    } = read_called(&mut input, peer)?;
    let call = match version {
        Version::Three => {
            let call = version3::Call::read(function, input);
            let call = call.ok_or(Rejection::ProcedureUnavailable)?;
            call.map(version3::Call::into_current)
        }
        Version::Four => Call::read(function, input),
    };
    Ok(Incoming {
        xid,
        version,
        overlaps: flags.overlaps,
        nulls: flags.nulls,
        call: call.map_err(|_| Rejection::GarbageArguments)?,
    })
}

/// The header of a call, before its arguments.
struct Called {
    version: Version,
    function: Function,
    flags: CallFlags,
}

/// Reads the header of a call. The checks are in the order in which the original makes them.
fn read_called(input: &mut Decoder<'_>, peer: &Peer) -> Result<Called, Rejection> {
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
    let spoken = Version::from_number(version).filter(|_| peer.versions.contains(&version));
    let Some(version) = spoken else {
        let (lowest, highest) = (*peer.versions.start(), *peer.versions.end());
        return Err(Rejection::ProgramMismatch(lowest, highest));
    };
    let function = Function::from_number(procedure).filter(|function| version.has(*function));
    let function = function.ok_or(Rejection::ProcedureUnavailable)?;
    let flags = match version {
        Version::Three => CallFlags::default(),
        Version::Four => {
            let word = input.word().map_err(|_| Rejection::GarbageArguments)?;
            CallFlags::from_word(word, function).ok_or(Rejection::GarbageArguments)?
        }
    };
    Ok(Called {
        version,
        function,
        flags,
    })
}

/// The flags of a call of version 4, which come before its arguments.
#[derive(Clone, Copy, Default)]
struct CallFlags {
    overlaps: bool,
    nulls: NullPlaces,
}

/// Other calls may come before this one is answered.
const CALL_OVERLAPS: u32 = 1;
/// The pointer to the first or only single value that the function writes is NULL.
const CALL_NULL_PLACE: u32 = 2;
/// The pointer to the second single value is NULL.
const CALL_NULL_SECOND_PLACE: u32 = 4;

impl CallFlags {
    /// Decodes the flags; `None` if a flag is unknown, or is about a pointer that the function does not have.
    fn from_word(word: u32, function: Function) -> Option<CallFlags> {
        let places = [0, CALL_NULL_PLACE, CALL_NULL_PLACE | CALL_NULL_SECOND_PLACE];
        let known = CALL_OVERLAPS | places.get(function.places())?;
        (word & !known == 0).then_some(CallFlags {
            overlaps: word & CALL_OVERLAPS != 0,
            nulls: NullPlaces {
                first: word & CALL_NULL_PLACE != 0,
                second: word & CALL_NULL_SECOND_PLACE != 0,
            },
        })
    }

    fn word(self) -> u32 {
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        flag(self.overlaps, CALL_OVERLAPS)
            | flag(self.nulls.first, CALL_NULL_PLACE)
            | flag(self.nulls.second, CALL_NULL_SECOND_PLACE)
    }
}

/// Reads the message type, RPC version, program, version, procedure, and the flavours of credential and verifier.
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

/// A reply in the form of one version of the protocol.
pub enum Outgoing {
    /// In version 3.
    Three(version3::Reply),
    /// In version 4.
    Four(Reply),
}

impl Outgoing {
    /// Converts the reply to this version; `None` if the version does not have the procedure.
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
    pub fn take_data(&mut self) -> Data {
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
    rejection.write(&mut output);
    output.finish()
}

/// A call of one version of the protocol, as the client sends it.
pub trait Asking {
    /// The type of its reply.
    type Reply;
    /// The version.
    const VERSION: Version;

    /// Which procedure is called.
    fn function(&self) -> Function;

    /// Which of the caller's pointers to results are NULL. Only version 4 transmits this.
    fn nulls(&self) -> NullPlaces {
        NullPlaces::NONE
    }

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

/// A call of version 4, and which of the caller's pointers to results are NULL.
impl Asking for (Call<'_>, NullPlaces) {
    type Reply = Reply;
    const VERSION: Version = Version::Four;

    fn function(&self) -> Function {
        self.0.function()
    }

    fn nulls(&self) -> NullPlaces {
        self.1
    }

    fn write_arguments<'b>(&'b self, output: &mut Encoder<'b>) {
        self.0.write(output);
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

/// Lays out a call as the client sends it, record mark included. In version 4 it says whether other calls may come
/// before this one is answered.
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
        let nulls = call.nulls();
        output.word(CallFlags { overlaps, nulls }.word());
    }
    call.write_arguments(&mut output);
    output.finish()
}

/// Why a record is not the result of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReplyError {
    /// The record is not a reply, or its result does not have the form of the function's.
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
    let input = Decoder::new(record, Architecture::host());
    read_reply_from::<C>(xid, function, input)
}

/// The same; the result may share the record's memory.
pub fn read_shared_reply<C: Asking>(
    xid: Xid,
    function: Function,
    record: &Arc<Taken>,
) -> Option<Result<C::Reply, ReplyError>> {
    let input = Decoder::sharing(record, Architecture::host());
    read_reply_from::<C>(xid, function, input)
}

fn read_reply_from<C: Asking>(
    xid: Xid,
    function: Function,
    mut input: Decoder<'_>,
) -> Option<Result<C::Reply, ReplyError>> {
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

/// Reads the part of a reply between the message type and the result. Fails if the call was not executed.
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

#[cfg(test)]
mod tests;
