//! Takes memory for large records out of the budget of the service, and refuses calls whose record is too
//! long or finds no memory, so that the connection, its sessions and its login live on.
//!
//! [`crate::connection`] asks before it receives more of a record. The rest of a record that is refused is
//! read and dropped. Then its call is answered, in the form of its function's reply, from the beginning
//! that was kept. The module is not called, except to end the operation that the call belongs to. A long
//! record that cannot be a call ends the connection. Small records take nothing out of the budget.

use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bindings::module::LONGEST_RANDOM;
use filter::replies;
use xdr::ending::calls_that_end;
use xdr::facts::{Family, Role};
use xdr::record::{LARGE, Records, TooLong};
use xdr::rpc::{self, Beginning, Rejection};
use xdr::{Call, CkRv, Cryptoki, Function, Reply, SessionHandle, Ulong};

use crate::connection::ConnectionError;
use crate::logging::{Severity, log};
use crate::record_memory::Share;

/// How much of one record is read and dropped at most, in bytes: the longest byte string that XDR has.
/// `record_timeout` ends most longer ones earlier.
pub const MOST_DROPPED: u64 = 1 << 32;

/// Memory is taken in multiples of this, in bytes, so that a record in small fragments does not ask often.
const STEP: u64 = 1 << 20;

/// Decides about the records of one connection.
pub struct LargeRecords {
    /// `max_record_size`.
    limit: usize,
    /// What is taken out of the service's budget.
    memory: Share,
    /// Why the present record is refused.
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
    /// What its call answers.
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
                "which takes {bytes} bytes of memory, and large calls of other clients leave less of record_memory"
            ),
        }
    }
}

impl LargeRecords {
    /// A connection on which a record may have this many bytes.
    pub fn new(limit: usize, memory: Share) -> LargeRecords {
        LargeRecords {
            limit,
            memory,
            refusal: None,
        }
    }

    /// The present record is longer than the limit, or than what is dropped of one.
    pub fn too_long(&mut self, records: &mut Records) -> Result<(), ConnectionError> {
        if records.is_passed_over() {
            return Err(ConnectionError::TooLong(MOST_DROPPED));
        }
        self.refuse(records, Refusal::OverLimit(self.limit))
    }

    /// More of a record, or another record, is to be received. Takes memory for a large one or refuses it,
    /// and gives back what is not needed any more.
    pub fn prepare(&mut self, records: &mut Records) -> Result<(), ConnectionError> {
        if records.announced() <= LARGE && !records.is_passed_over() && self.memory.is_free() {
            return Ok(());
        }
        if records.is_begun() && !rpc::may_be_call(records.record()) {
            return Err(ConnectionError::NoCall);
        }
        if records.size().max(records.needed()) <= LARGE {
            self.memory.release();
        } else if !records.is_passed_over() {
            if let Some(why) = self.find_memory(records) {
                return self.refuse(records, why);
            }
        }
        Ok(())
    }

    /// Takes memory for as much of the present record as is to be received next, or says why not.
    fn find_memory(&mut self, records: &Records) -> Option<Refusal> {
        let copies = match rpc::read_beginning(records.record()) {
            Beginning::Call(_, function, _) => copies(function),
            Beginning::Rejected(..) | Beginning::Unanswerable => 1,
        };
        let whole = records.announced().max(records.size()) as u64 * copies;
        if whole > self.memory.limit() {
            return Some(Refusal::OverBudget(whole));
        }
        let next = records.needed().max(records.size()) as u64 * copies;
        let next = next.next_multiple_of(STEP).min(self.memory.limit());
        (!self.memory.take(next)).then_some(Refusal::NoMemory(whole))
    }

    /// Takes memory for the result of a call, if that is large although the call is small; the reply if there
    /// is none. It is given back with the next [`LargeRecords::prepare`].
    pub fn refuse_result(&mut self, call: &Call<'_>) -> Option<Reply> {
        // What is longer is refused without taking memory.
        const LARGE_RESULT: RangeInclusive<u64> = LARGE as u64 + 1..=LONGEST_RANDOM as u64;
        match call {
            Call::C_GenerateRandom(_, Ulong(length)) if LARGE_RESULT.contains(length) => {
                let refusal = || replies::refused(call.function(), CkRv::DEVICE_MEMORY);
                (!self.memory.take(*length)).then(refusal)
            }
            _ => None,
        }
    }

    fn refuse(&mut self, records: &mut Records, why: Refusal) -> Result<(), ConnectionError> {
        self.refusal = Some(why);
        let passed_over = records.pass_over(MOST_DROPPED);
        passed_over.map_err(|TooLong| ConnectionError::TooLong(MOST_DROPPED))
    }

    /// Why the record that is complete now is refused, if it is.
    pub fn take_refusal(&mut self) -> Option<Refusal> {
        self.refusal.take()
    }
}

/// How many times the bytes of a large call are in memory at once, at most: its record; the values of a
/// template, which actions of the filter may copy once more, and the reply with them; the output that
/// grows with the input.
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

/// The reply to a refused call. Ends the operation that the call belongs to.
pub fn reply(
    function: Function,
    session: Option<SessionHandle>,
    length: u64,
    why: Refusal,
    served: &dyn Cryptoki,
) -> Result<Reply, Rejection> {
    if !has_bytes(function) {
        return Err(Rejection::GarbageArguments);
    }
    let (name, rv) = (function.name(), why.rv());
    log(
        Severity::Warning,
        format_args!("{name} refused with {rv}: its record has {length} bytes, {why}"),
    );
    if let Some(session) = session {
        end_operations(function, session, served);
    }
    Ok(replies::refused(function, rv))
}

/// Whether calls of the function differ in length.
fn has_bytes(function: Function) -> bool {
    let has_bytes = |role: &Role| match role {
        Role::Mechanism
        | Role::Values
        | Role::Selection
        | Role::Query
        | Role::Pin
        | Role::Secret
        | Role::Data => true,
        Role::Session
        | Role::Plain
        | Role::MechanismType
        | Role::Object(_)
        | Role::Key(_)
        | Role::KeyOrNone(_)
        | Role::User => false,
    };
    function.facts().roles.iter().any(has_bytes)
}

/// Ends the operations that a refused call belongs to. What comes out is dropped.
fn end_operations(function: Function, session: SessionHandle, served: &dyn Cryptoki) {
    for call in calls_that_end(function, session) {
        // A panic says that the module is in trouble; the next call will tell.
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
