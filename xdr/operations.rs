//! Tracks which operations of a session are active, as far as calls and their CK_RVs tell.
//!
//! It may report an operation as active that a failing call has ended, but never the other way round: its users decide
//! by it what may be given up. Makes no call and looks at no data.

use cryptoki_sys::{
    CKF_DECRYPT, CKF_DIGEST, CKF_ENCRYPT, CKF_FIND_OBJECTS, CKF_MESSAGE_DECRYPT,
    CKF_MESSAGE_ENCRYPT, CKF_MESSAGE_SIGN, CKF_MESSAGE_VERIFY, CKF_SIGN, CKF_SIGN_RECOVER,
    CKF_VERIFY, CKF_VERIFY_RECOVER,
};

use crate::buffers::Room;
use crate::call::Function;
use crate::facts::{Family, Step};
use crate::integers::{CkRv, Flags};
use crate::word_size::wide;

/// The flags of C_SessionCancel (PKCS#11 v3.0, section 5.6.5) and what they end. Operations on messages are of the same
/// families as others.
const CANCELS: [(u64, Family); 12] = [
    (wide(CKF_MESSAGE_ENCRYPT), Family::Encrypt),
    (wide(CKF_MESSAGE_DECRYPT), Family::Decrypt),
    (wide(CKF_MESSAGE_SIGN), Family::Sign),
    (wide(CKF_MESSAGE_VERIFY), Family::Verify),
    (wide(CKF_FIND_OBJECTS), Family::Search),
    (wide(CKF_ENCRYPT), Family::Encrypt),
    (wide(CKF_DECRYPT), Family::Decrypt),
    (wide(CKF_DIGEST), Family::Digest),
    (wide(CKF_SIGN), Family::Sign),
    (wide(CKF_SIGN_RECOVER), Family::SignRecover),
    (wide(CKF_VERIFY), Family::Verify),
    (wide(CKF_VERIFY_RECOVER), Family::VerifyRecover),
];

/// The operations of one session.
#[derive(Debug, Default)]
pub struct Operations(Vec<Family>);

impl Operations {
    /// Notes what a call of the session did, by its CK_RV and the room for its result. Returns whether the call has
    /// begun an operation.
    pub fn note(&mut self, function: Function, room: Option<Room>, rv: CkRv) -> bool {
        let facts = function.facts();
        match facts.step {
            Some(Step::Init) if rv.is_ok() => {
                self.forget(facts.families);
                self.0.extend(facts.families);
                true
            }
            Some(Step::End) => {
                let asks_for_size = rv.is_ok() && matches!(room, Some(Room::Null { .. }));
                if !asks_for_size && rv != CkRv::BUFFER_TOO_SMALL {
                    self.forget(facts.families);
                }
                false
            }
            _ => false,
        }
    }

    /// Removes the operations that C_SessionCancel has ended, according to its flags.
    pub fn cancel(&mut self, flags: Flags) {
        let is_named = |family: &Family| {
            let mut named = CANCELS.iter().filter(|(flag, _)| flags.0 & flag != 0);
            named.any(|(_, ended)| ended == family)
        };
        self.0.retain(|family| !is_named(family));
    }

    /// Removes operations of these kinds, which are over.
    pub fn forget(&mut self, families: &[Family]) {
        self.0.retain(|family| !families.contains(family));
    }

    /// Adds the operations of another session.
    pub fn append(&mut self, other: &mut Operations) {
        self.0.append(&mut other.0);
    }

    /// Whether an operation of one of these kinds is active.
    pub fn has_any(&self, families: &[Family]) -> bool {
        self.0.iter().any(|family| families.contains(family))
    }

    /// Whether no operation is active.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes all operations, which are over.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Function::{C_DigestInit, C_FindObjectsFinal, C_FindObjectsInit, C_Sign, C_SignInit};

    #[test]
    fn c_session_cancel_ends_what_its_flags_name() {
        let mut operations = Operations::default();
        operations.note(C_FindObjectsInit, None, CkRv::OK);
        operations.note(C_DigestInit, None, CkRv::OK);
        operations.cancel(Flags(wide(CKF_SIGN)));
        operations.cancel(Flags(wide(CKF_DIGEST | CKF_SIGN)));
        assert!(operations.has_any(&[Family::Search]));
        assert!(!operations.has_any(&[Family::Digest]));
        operations.cancel(Flags(wide(CKF_FIND_OBJECTS)));
        assert!(operations.is_empty());
    }

    #[test]
    fn an_operation_lasts_until_its_result_is_there() {
        let mut operations = Operations::default();
        assert!(!operations.note(C_SignInit, None, CkRv::KEY_HANDLE_INVALID));
        assert!(operations.is_empty());
        assert!(operations.note(C_SignInit, None, CkRv::OK));
        for (room, rv, is_over) in [
            (Room::Null { length: 0 }, CkRv::OK, false),
            (Room::Buffer(1), CkRv::BUFFER_TOO_SMALL, false),
            (Room::Buffer(99), CkRv::OK, true),
        ] {
            operations.note(C_Sign, Some(room), rv);
            assert_eq!(operations.is_empty(), is_over);
        }
        // A failing call ends it, and beginning again begins one.
        operations.note(C_SignInit, None, CkRv::OK);
        operations.note(C_SignInit, None, CkRv::OK);
        operations.note(C_Sign, Some(Room::Buffer(99)), CkRv::DATA_LEN_RANGE);
        assert!(operations.is_empty());
    }

    #[test]
    fn operations_of_other_kinds_go_on() {
        let mut operations = Operations::default();
        operations.note(C_FindObjectsInit, None, CkRv::OK);
        operations.note(C_DigestInit, None, CkRv::OK);
        assert!(operations.has_any(&[Family::Search]));
        operations.note(C_FindObjectsFinal, None, CkRv::OK);
        assert!(!operations.has_any(&[Family::Search]));
        assert!(operations.has_any(&[Family::Digest]));
    }
}
