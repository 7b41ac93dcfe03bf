//! Applies the two-call convention (PKCS#11 v2.20, section 11.2) to results that the filter makes.
//!
//! Some rules need the whole result of the module before they can answer, such as the list of mechanisms. They ask the
//! module for all of it, and answer the client according to the room that it has, as a module would.

use xdr::{CkRv, Room, Ulong};

/// Answers a client that has this room with a result: the CK_RV, the length, and the elements, unless they do not fit
/// or the client only asks for the length.
pub(crate) fn within<T>(room: Room, whole: Vec<T>) -> (CkRv, Ulong, Vec<T>) {
    let length = whole.len() as u64;
    match room {
        Room::Unbounded => (CkRv::OK, Ulong(length), whole),
        Room::Buffer(room) if room >= length => (CkRv::OK, Ulong(length), whole),
        Room::Buffer(_) => (CkRv::BUFFER_TOO_SMALL, Ulong(length), Vec::new()),
        Room::Null { .. } => (CkRv::OK, Ulong(length), Vec::new()),
        Room::NoLength => (CkRv::ARGUMENTS_BAD, Ulong(0), Vec::new()),
    }
}

/// Returns the length as it was before the call, which a module leaves unchanged if the call fails.
pub(crate) fn length_before(room: Room) -> Ulong {
    match room {
        Room::Null { length } | Room::Buffer(length) => Ulong(length),
        Room::Unbounded | Room::NoLength => Ulong(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_a_module_does() {
        let of = |room| within(room, vec![7, 8, 9]);
        let whole = (CkRv::OK, Ulong(3), vec![7, 8, 9]);
        for room in [Room::Unbounded, Room::Buffer(3), Room::Buffer(u64::MAX)] {
            assert_eq!(of(room), whole, "{room:?}");
        }
        for room in [Room::QUESTION, Room::Null { length: 9 }] {
            assert_eq!(of(room), (CkRv::OK, Ulong(3), vec![]));
        }
        for room in [0, 2].map(Room::Buffer) {
            assert_eq!(of(room), (CkRv::BUFFER_TOO_SMALL, Ulong(3), vec![]));
        }
        assert_eq!(of(Room::NoLength), (CkRv::ARGUMENTS_BAD, Ulong(0), vec![]));
        assert_eq!(
            within(Room::Buffer(0), Vec::<u8>::new()),
            (CkRv::OK, Ulong(0), vec![])
        );
        assert_eq!(length_before(Room::Null { length: 9 }), Ulong(9));
    }
}
