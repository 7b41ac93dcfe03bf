//! Knows which operations a session has begun and not ended, as far as calls and their CK_RVs tell.
//!
//! It may take an operation for active that a failing call has ended, and never the other way round: whoever uses this
//! decides what may be given up. Makes no call and looks at no data.

use crate::buffers::Room;
use crate::call::Function;
use crate::facts::{Family, Step};
use crate::integers::CkRv;

/// The operations of one session.
#[derive(Debug, Default)]
pub struct Operations(Vec<Family>);

impl Operations {
    /// Notes what a call of the session did, with this room for its result, by its answer. Tells whether the call has
    /// begun anything.
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

    /// Operations of these kinds are over.
    pub fn forget(&mut self, families: &[Family]) {
        self.0.retain(|family| !families.contains(family));
    }

    /// Takes over those of another session.
    pub fn append(&mut self, other: &mut Operations) {
        self.0.append(&mut other.0);
    }

    /// Whether there is one of these kinds.
    pub fn has_any(&self, families: &[Family]) -> bool {
        self.0.iter().any(|family| families.contains(family))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them are over.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Function::{C_DigestInit, C_FindObjectsFinal, C_FindObjectsInit, C_Sign, C_SignInit};

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
