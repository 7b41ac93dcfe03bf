//! Limits the memory of large calls, and refuses a call that is too long, or has no memory left, without ending the
//! connection, its sessions or its login.
//!
//! [`crate::connection`] asks this module before it receives more of a record, and before a call with room for a large
//! result is executed. The beginning of a refused record is kept, and the rest is read and dropped. The beginning says
//! which function was called, and the answer has the form of that function's reply. The module is not called, except to
//! end the operation that the call belongs to. A long record that cannot be a call ends the connection. Small records
//! take nothing from the service's budget while calls are executed one at a time. A call that is executed while others
//! are received counts from [`COUNTED`] bytes on.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bindings::module::{LONGEST_RANDOM, OUTPUT_LIMIT};
use filter::replies;
use xdr::ending::calls_that_end;
use xdr::facts::{Argument, Family, Role};
use xdr::record::{LARGE, Records, TooLong};
use xdr::rpc::{self, Beginning, Peer, Rejection, Version, Xid};
use xdr::{Call, CkRv, Function, Query, Reply, Room, SessionHandle, WantedRoom};

use crate::connection::{ConnectionError, Served};
use crate::logging::{Severity, log};
use crate::record_memory::Portion;

/// Upper bound on the bytes of one record that are read and dropped: the longest byte string in XDR. In most cases
/// `record_timeout` ends such a record earlier.
pub const MOST_DROPPED: u64 = 1 << 32;

/// Records that are executed while others are received, and room for results, are counted from this size on, in bytes.
const COUNTED: u64 = 64 << 10;

/// Decides which records of one connection are refused, and takes memory for the others.
pub struct LargeRecords {
    /// `max_record_size`.
    limit: usize,
    /// The memory of the current record.
    memory: Portion,
    /// Why the current record is refused.
    refusal: Option<Refusal>,
}

/// Why a record is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// It is longer than `max_record_size`.
    OverLimit(usize),
    /// It needs this much memory, in bytes, which is more than `record_memory`.
    OverBudget(u64),
    /// It needs this much memory, in bytes, and other calls leave less.
    NoMemory(u64),
}

impl Refusal {
    /// Returns the CK_RV with which the call is answered.
    fn rv(self) -> CkRv {
        match self {
            Refusal::OverLimit(_) | Refusal::OverBudget(_) => CkRv::DATA_LEN_RANGE,
            // CKR_HOST_MEMORY would be about the computer that the client library runs on.
            Refusal::NoMemory(_) => CkRv::DEVICE_MEMORY,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::OverLimit(limit) => write!(f, "max_record_size is {limit}"),
            Refusal::OverBudget(bytes) => {
                write!(
                    f,
                    "which takes {bytes} bytes of memory, more than record_memory"
                )
            }
            Refusal::NoMemory(bytes) => write!(
                f,
                "which takes {bytes} bytes of memory, and other large calls leave less of record_memory"
            ),
        }
    }
}

impl LargeRecords {
    /// Starts a connection on which a record may have up to `limit` bytes.
    pub fn new(limit: usize, memory: Portion) -> LargeRecords {
        LargeRecords {
            limit,
            memory,
            refusal: None,
        }
    }

    /// Handles a record that exceeds the limit, or the bound on bytes that are dropped.
    pub fn too_long(&mut self, records: &mut Records) -> Result<(), ConnectionError> {
        if records.is_passed_over() {
            return Err(ConnectionError::TooLong(MOST_DROPPED));
        }
        self.refuse(records, Refusal::OverLimit(self.limit))
    }

    /// Takes memory for a large record or refuses it, and gives back memory that is no longer needed. Called before
    /// more of a record is received.
    pub fn prepare(
        &mut self,
        records: &mut Records,
        served: &dyn Served,
    ) -> Result<(), ConnectionError> {
        if records.announced() <= LARGE && !records.is_passed_over() && self.memory.is_free() {
            return Ok(());
        }
        if records.is_begun() && !rpc::may_be_call(records.record()) {
            return Err(ConnectionError::NoCall);
        }
        if records.size().max(records.needed()) <= LARGE {
            self.memory.release();
        } else if !records.is_passed_over() {
            if let Some(why) = self.find_memory(records, &served.peer()) {
                return self.refuse(records, why);
            }
        }
        Ok(())
    }

    /// Takes memory for the part of the current record that is received next, or returns why it cannot.
    fn find_memory(&mut self, records: &Records, peer: &Peer) -> Option<Refusal> {
        let copies = match rpc::read_beginning(records.record(), peer) {
            Beginning::Call { function, .. } => copies(function),
            Beginning::Rejected(..) | Beginning::Unanswerable => 1,
        };
        let whole = records.announced().max(records.size()) as u64 * copies;
        if whole > self.memory.limit() {
            return Some(Refusal::OverBudget(whole));
        }
        let next = records.needed().max(records.size()) as u64 * copies;
        let next = next.min(self.memory.limit());
        (!self.memory.take(next)).then_some(Refusal::NoMemory(whole))
    }

    /// Returns the memory of the complete record, which is about to be taken out of its [`Records`], so that others are
    /// received while its call is executed. Returns `None` if there is no memory left for the copy of a small record.
    pub fn hand_over(&mut self, record: &[u8], served: &dyn Served) -> Option<Portion> {
        let length = record.len() as u64;
        if record.len() > LARGE || length < COUNTED {
            return Some(self.memory.hand_over());
        }
        let copies = match rpc::read_beginning(record, &served.peer()) {
            Beginning::Call { function, .. } => copies(function),
            Beginning::Rejected(..) | Beginning::Unanswerable => 1,
        };
        let mut memory = self.memory.another();
        memory.take(length * copies).then_some(memory)
    }

    fn refuse(&mut self, records: &mut Records, why: Refusal) -> Result<(), ConnectionError> {
        self.refusal = Some(why);
        let passed_over = records.pass_over(MOST_DROPPED);
        passed_over.map_err(|TooLong| ConnectionError::TooLong(MOST_DROPPED))
    }

    /// Returns what is needed to answer the complete record, if it is refused.
    pub fn take_refused(&mut self, records: &Records, served: &dyn Served) -> Option<Refused> {
        let why = self.refusal.take()?;
        Some(Refused {
            why,
            beginning: rpc::read_beginning(records.record(), &served.peer()),
            length: records.length_passed_over(),
            overlaps: rpc::overlaps(records.record()),
        })
    }
}

/// Returns an upper bound on the copies of a large call's bytes that are in memory at the same time. These are its
/// record; the values of a template, which actions of the filter may copy once more, and the reply with them; and the
/// output that grows with the input.
fn copies(function: Function) -> u64 {
    let facts = function.facts();
    let has_template = |role: &Role| matches!(role, Role::Values | Role::Selection | Role::Query);
    let grows = [Family::Encrypt, Family::Decrypt, Family::VerifyRecover];
    if facts.roles.iter().any(has_template) {
        5
    } else if grows.iter().any(|family| facts.is_of(*family)) {
        2
    } else {
        1
    }
}

/// A refused record, of which only the beginning was kept.
pub struct Refused {
    why: Refusal,
    beginning: Beginning,
    length: u64,
    overlaps: bool,
}

/// The answer to a refused record.
pub struct Answer {
    /// The xid of the call.
    pub xid: Xid,
    /// The reply and its protocol version, or the reason why the call was rejected.
    pub reply: Result<(Reply, Version), Rejection>,
}

impl Refused {
    /// Whether other calls may come before it is answered.
    pub fn overlaps(&self) -> bool {
        self.overlaps
    }

    /// Returns the function and the session of the call, if it has a session.
    pub fn in_session(&self) -> Option<(Function, SessionHandle)> {
        match self.beginning {
            Beginning::Call {
                function,
                session: Some(session),
                ..
            } => Some((function, session)),
            _ => None,
        }
    }

    /// Returns the answer, or `None` if the record cannot be answered. Ends the operation that the call belongs to.
    pub fn answer(&self, served: &dyn Served) -> Option<Answer> {
        match self.beginning {
            Beginning::Unanswerable => None,
            Beginning::Rejected(xid, rejection) => Some(Answer {
                xid,
                reply: Err(rejection),
            }),
            Beginning::Call { xid, function, .. } if !has_bytes(function) => Some(Answer {
                xid,
                reply: Err(Rejection::GarbageArguments),
            }),
            Beginning::Call {
                xid,
                version,
                function,
                session,
            } => {
                let (name, rv) = (function.name(), self.why.rv());
                let (length, why) = (self.length, self.why);
                log(
                    Severity::Warning,
                    format_args!("{name} refused with {rv}: its record has {length} bytes, {why}"),
                );
                end_operations(function, session, served);
                Some(Answer {
                    xid,
                    reply: Ok((replies::refused(function, rv), version)),
                })
            }
        }
    }
}

/// Takes memory for the result of a call, if the client has room for a large one. If no memory is left, ends the
/// operation that the call belongs to and returns the reply.
///
/// `length` is the size of the record in bytes, for which memory has been taken already.
pub fn refuse_result(
    call: &Call<'_>,
    length: usize,
    memory: &mut Portion,
    served: &dyn Served,
) -> Option<Reply> {
    let reckoned = (copies(call.function()) - 1) * length as u64;
    let room = result_room(call).saturating_sub(reckoned);
    if room < COUNTED || memory.take(room) {
        return None;
    }
    let (function, rv) = (call.function(), CkRv::DEVICE_MEMORY);
    let name = function.name();
    log(
        Severity::Warning,
        format_args!(
            "{name} refused with {rv}: its result may take {room} bytes of memory, and other large calls leave less of record_memory"
        ),
    );
    end_operations(function, call.session(), served);
    Some(replies::refused(function, rv))
}

/// Returns an upper bound on the memory for the result of a call, in bytes: the room that the client has. A module
/// cannot write more than its input into a longer output, except for data that it has kept. Room that is not written to
/// takes no memory.
fn result_room(call: &Call<'_>) -> u64 {
    let room = match call.room() {
        // The module fills all of it. More than the longest is refused without taking memory.
        Some(Room::Buffer(room)) if call.function() == Function::C_GenerateRandom => {
            return match room > LONGEST_RANDOM as u64 {
                true => 0,
                false => room,
            };
        }
        // A list is short, however much room there is.
        Some(Room::Buffer(_)) if is_list(call.function()) => 0,
        Some(Room::Buffer(room)) => room,
        Some(Room::Unbounded | Room::NoLength | Room::Null { .. }) | None => 0,
    };
    let query = call.arguments().map(|argument| match argument {
        Argument::Query(query) => query_room(query),
        _ => 0,
    });
    room.max(query.sum()).min(OUTPUT_LIMIT as u64)
}

/// Whether room is counted in entries of a list.
fn is_list(function: Function) -> bool {
    matches!(
        function,
        Function::C_GetSlotList | Function::C_GetMechanismList | Function::C_FindObjects
    )
}

/// Returns the room in a request for attributes, in bytes and at all depths, except for room whose content was sent.
fn query_room(query: &Query) -> u64 {
    let rooms = query.0.iter().map(|wanted| match &wanted.room {
        WantedRoom::Buffer {
            room,
            content: None,
        } => *room,
        WantedRoom::Template(query) => query_room(query),
        WantedRoom::Buffer { .. } | WantedRoom::Null { .. } => 0,
    });
    rooms.fold(0, u64::saturating_add)
}

/// Whether calls of the function differ in length.
fn has_bytes(function: Function) -> bool {
    let has_bytes = |role: &Role| match role {
        Role::Mechanism
        | Role::MessageMechanism
        | Role::MessageParameter
        | Role::Values
        | Role::Selection
        | Role::Query
        | Role::Pin
        | Role::NewPin
        | Role::Secret
        | Role::Data
        | Role::Name => true,
        Role::Session
        | Role::Plain
        | Role::Slot
        | Role::MechanismType
        | Role::Object(_)
        | Role::Key(_)
        | Role::KeyOrNone(_)
        | Role::User
        | Role::Room => false,
    };
    function.facts().roles.iter().any(has_bytes)
}

/// Ends the operations that a refused call belongs to, and drops their output.
fn end_operations(function: Function, session: Option<SessionHandle>, served: &dyn Served) {
    let calls = session.map(|session| calls_that_end(function, session, Room::Unbounded));
    for call in calls.into_iter().flatten() {
        // A panic means that the module is in trouble. The next call will show that.
        let _ = catch_unwind(AssertUnwindSafe(|| served.call(call).wipe()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_one_length_only_are_never_that_long() {
        for function in [Function::C_SetupArch, Function::C_GetSlotInfo] {
            assert!(!has_bytes(function));
        }
        for function in [Function::C_LoadModule, Function::C_Login, Function::C_Sign] {
            assert!(has_bytes(function));
        }
    }
}
