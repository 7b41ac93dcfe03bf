//! Refuses calls whose record is too long, so that the connection, its sessions and its login live on.
//!
//! [`crate::connection`] asks before it receives more of a record. The rest of a record that is too long is
//! read and dropped. Then its call is answered, in the form of its function's reply, from the beginning
//! that was kept. The module is not called, except to end the operation that the call belongs to. A long
//! record that cannot be a call ends the connection.

use std::panic::{AssertUnwindSafe, catch_unwind};

use filter::replies;
use xdr::facts::{Family, Role, Step};
use xdr::record::{LARGE, Records, TooLong};
use xdr::rpc::{self, Rejection};
use xdr::{Call, CkRv, Cryptoki, Function, Reply, SessionHandle};

use crate::connection::ConnectionError;
use crate::logging::{Severity, log};

/// How much of one record is read and dropped at most, in bytes: the longest byte string that XDR has.
/// `record_timeout` ends most longer ones earlier.
pub const MOST_DROPPED: u64 = 1 << 32;

/// Decides about the records of one connection.
pub struct LargeRecords {
    /// `max_record_size`.
    limit: usize,
    /// Why the present record is refused.
    refusal: Option<Refusal>,
}

/// Why a record is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// It is longer than `max_record_size`.
    OverLimit(usize),
}

impl Refusal {
    /// What its call answers.
    fn rv(self) -> CkRv {
        match self {
            Refusal::OverLimit(_) => CkRv::DATA_LEN_RANGE,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::OverLimit(limit) => write!(f, "max_record_size is {limit}"),
        }
    }
}

impl LargeRecords {
    /// A connection on which a record may have this many bytes.
    pub fn new(limit: usize) -> LargeRecords {
        LargeRecords {
            limit,
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

    /// More of a record is to be received: refuses it if it is too long.
    pub fn check(&mut self, records: &Records) -> Result<(), ConnectionError> {
        let is_large = records.is_passed_over() || records.announced() > LARGE;
        if is_large && !rpc::may_be_call(records.record()) {
            return Err(ConnectionError::NoCall);
        }
        Ok(())
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

/// Ends the operations that a refused call belongs to: by PKCS#11 (v2.20, sections 11.8 to 11.12) a failing
/// call does, and without that the session could not begin another one. What comes out is dropped.
fn end_operations(function: Function, session: SessionHandle, served: &dyn Cryptoki) {
    let facts = function.facts();
    if !matches!(facts.step, Some(Step::Update | Step::End)) {
        return;
    }
    for call in facts.families.iter().flat_map(|of| ending(*of, session)) {
        // A panic says that the module is in trouble; the next call will tell.
        let _ = catch_unwind(AssertUnwindSafe(|| served.call(call).wipe()));
    }
}

/// Calls that end an operation of this kind. The first ends one in parts; the second ends one in a single
/// call, or what a module did not end at the first.
fn ending(family: Family, session: SessionHandle) -> Vec<Call<'static>> {
    match family {
        Family::Digest => vec![Call::C_DigestFinal(session), Call::C_Digest(session, &[])],
        Family::Sign => vec![Call::C_SignFinal(session), Call::C_Sign(session, &[])],
        Family::SignRecover => vec![Call::C_SignRecover(session, &[])],
        Family::Verify => vec![
            Call::C_VerifyFinal(session, &[]),
            Call::C_Verify(session, &[], &[]),
        ],
        Family::VerifyRecover => vec![Call::C_VerifyRecover(session, &[])],
        Family::Encrypt => vec![Call::C_EncryptFinal(session), Call::C_Encrypt(session, &[])],
        Family::Decrypt => vec![Call::C_DecryptFinal(session), Call::C_Decrypt(session, &[])],
        // A search, or an operation that is one call.
        Family::Search
        | Family::Wrap
        | Family::Unwrap
        | Family::Derive
        | Family::Generate
        | Family::OperationState => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Notes what is called.
    struct Noting(Mutex<Vec<Function>>);

    impl Cryptoki for Noting {
        fn call(&self, call: Call<'_>) -> Reply {
            self.0.lock().unwrap().push(call.function());
            Reply::only(call.function(), CkRv::OK)
        }
    }

    #[test]
    fn a_refused_call_ends_its_operations() {
        use Function::*;
        let ended_by = |function| {
            let served = Noting(Mutex::default());
            end_operations(function, SessionHandle(1), &served);
            served.0.into_inner().unwrap()
        };
        assert_eq!(ended_by(C_Digest), [C_DigestFinal, C_Digest]);
        assert_eq!(ended_by(C_VerifyUpdate), [C_VerifyFinal, C_Verify]);
        assert_eq!(
            ended_by(C_DecryptDigestUpdate),
            [C_DecryptFinal, C_Decrypt, C_DigestFinal, C_Digest]
        );
        for function in [C_DigestInit, C_CreateObject, C_WrapKey, C_FindObjectsInit] {
            assert_eq!(ended_by(function), [], "{function:?}");
        }
    }

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
