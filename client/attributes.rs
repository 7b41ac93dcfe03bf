//! Implements C_GetAttributeValue: sends the room for each attribute and sorts what comes back.
//!
//! The protocol tells the room by sending that many bytes. We send zeros; the original sends the
//! application's memory. The reply becomes one [`Found`] for each attribute asked for, which `abi`
//! writes to the application. The semantics are those of PKCS#11 v2.20, section 11.7, as far as an
//! original daemon supports them. Nested templates hold addresses: only their size is asked for, and a value
//! is had of an empty one only.

use std::collections::TryReserveError;

use xdr::attribute_types::is_nested;
use xdr::{
    Attribute, AttributeType, Call, CkRv, Cryptoki, LONGEST_BYTES, ObjectHandle, Reply,
    SessionHandle, Template, TemplateResult,
};

use crate::pending::Room;

/// Up to this room, in bytes, sending zeros is cheaper than asking for the size first.
const LARGEST_ROOM_SENT: usize = 64 << 10;

/// An attribute the caller asks for.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// Which one.
    pub attribute_type: AttributeType,
    /// `None` asks for the size.
    pub room: Room,
}

/// What becomes of an attribute the caller asked for.
#[derive(PartialEq)]
pub(crate) enum Found {
    /// The caller's attribute stays as it is.
    Untouched,
    /// Its length becomes CK_UNAVAILABLE_INFORMATION.
    Unavailable,
    /// Its length becomes this.
    Size(usize),
    /// The value, which fits.
    Value(Attribute),
}

/// Asks for attributes of an object. The answers are in the order of `wanted`.
pub(crate) fn values(
    remote: &impl Cryptoki,
    session: SessionHandle,
    object: ObjectHandle,
    wanted: &[Wanted],
) -> (CkRv, Vec<Found>) {
    let sent: Vec<Wanted> = wanted.iter().map(without_addresses).collect();
    let ask = |rooms: &[Wanted]| query(remote, session, object, rooms);
    let (rv, values) = if sent.iter().any(|wanted| is_large(wanted.room)) {
        // Sizes first: the room a caller claims may be most of its address space.
        let sizes: Vec<Wanted> = sent.iter().map(size_query).collect();
        let (rv, found) = ask(&sizes);
        if !answers_template(rv) {
            return (rv, untouched(wanted));
        }
        let mut found = found.iter();
        let exact: Vec<Wanted> = sent
            .iter()
            .map(|wanted| bounded(*wanted, found.next()))
            .collect();
        ask(&exact)
    } else {
        ask(&sent)
    };
    if !answers_template(rv) {
        return (rv, untouched(wanted));
    }
    if rv.is_ok() && values.len() < sent.len() {
        // The rest would pass for values.
        return (CkRv::DEVICE_ERROR, untouched(wanted));
    }

    let zero = Zero::beside(rv, &values);
    let mut values = values.into_iter();
    let mut rv = rv;
    let found = wanted
        .iter()
        .map(|wanted| {
            let (found, verdict) = match values.next() {
                Some(value) if is_nested(wanted.attribute_type) => {
                    sort_nested(&value, wanted.room, zero)
                }
                Some(value) => sort(value, wanted.room, zero),
                None => (Found::Unavailable, CkRv::OK),
            };
            if rv.is_ok() {
                rv = verdict;
            }
            found
        })
        .collect();
    (rv, found)
}

fn untouched(wanted: &[Wanted]) -> Vec<Found> {
    wanted.iter().map(|_| Found::Untouched).collect()
}

/// The CK_RVs with which C_GetAttributeValue still answers the other attributes.
fn answers_template(rv: CkRv) -> bool {
    [
        CkRv::OK,
        CkRv::ATTRIBUTE_SENSITIVE,
        CkRv::ATTRIBUTE_TYPE_INVALID,
        CkRv::BUFFER_TOO_SMALL,
    ]
    .contains(&rv)
}

fn is_large(room: Room) -> bool {
    room.is_some_and(|room| room > LARGEST_ROOM_SENT)
}

/// What is asked for: of a nested template, the size.
fn without_addresses(wanted: &Wanted) -> Wanted {
    if is_nested(wanted.attribute_type) {
        size_query(wanted)
    } else {
        *wanted
    }
}

fn size_query(wanted: &Wanted) -> Wanted {
    Wanted {
        room: None,
        ..*wanted
    }
}

/// Reduces a large room to the size of the value. If the value does not fit, the room becomes small
/// enough for the daemon to answer that it is too small.
fn bounded(wanted: Wanted, size: Option<&Attribute>) -> Wanted {
    let size = size.and_then(length).unwrap_or(0);
    let room = wanted.room.map(|room| {
        if !is_large(Some(room)) {
            room
        } else if size <= room {
            size.max(1)
        } else {
            LARGEST_ROOM_SENT
        }
    });
    Wanted { room, ..wanted }
}

fn query(
    remote: &impl Cryptoki,
    session: SessionHandle,
    object: ObjectHandle,
    wanted: &[Wanted],
) -> (CkRv, Vec<Attribute>) {
    let request = wanted.iter().map(|wanted| {
        let mut zeros = Vec::new();
        let room = wanted.room.unwrap_or(0);
        zeros.try_reserve_exact(room)?;
        zeros.resize(room, 0);
        Ok(Attribute::new(wanted.attribute_type, zeros))
    });
    let request: Result<Vec<Attribute>, TryReserveError> = request.collect();
    let Ok(request) = request else {
        return (CkRv::HOST_MEMORY, Vec::new());
    };
    match remote.call(Call::C_GetAttributeValue(
        session,
        object,
        Template(request),
    )) {
        Reply::C_GetAttributeValue(TemplateResult { rv, template }) => (rv, template.0),
        reply => (crate::remote::refusal(&reply), Vec::new()),
    }
}

/// The length the daemon tells; `None` for "unavailable". A size query is answered with that many
/// zeros by the original; others may leave them out.
fn length(received: &Attribute) -> Option<usize> {
    match (received.value.len(), received.value_len.0) {
        (0, told) if told > LONGEST_BYTES => None,
        (0, told) => usize::try_from(told).ok(),
        (length, _) => Some(length),
    }
}

/// What a length of 0 means.
#[derive(Clone, Copy, PartialEq)]
enum Zero {
    Empty,
    Unavailable,
}

impl Zero {
    /// An original daemon sends a length of 0 both for an unavailable attribute and for an empty
    /// value. A daemon that sends any length of all ones distinguishes them.
    fn beside(rv: CkRv, received: &[Attribute]) -> Zero {
        if rv.is_ok() || received.iter().any(|attribute| length(attribute).is_none()) {
            Zero::Empty
        } else {
            Zero::Unavailable
        }
    }
}

/// What a received attribute means to the caller, and the CK_RV if the daemon's was CKR_OK.
fn sort(received: Attribute, room: Room, zero: Zero) -> (Found, CkRv) {
    match (length(&received), room) {
        // Beside CKR_OK an application would take the -1 for a length.
        (None, _) => (Found::Unavailable, CkRv::ATTRIBUTE_TYPE_INVALID),
        (Some(0), _) if zero == Zero::Unavailable => (Found::Unavailable, CkRv::OK),
        (Some(size), None) => (Found::Size(size), CkRv::OK),
        (Some(size), Some(room)) if size > room => (Found::Unavailable, CkRv::BUFFER_TOO_SMALL),
        (Some(size), Some(_)) if size != received.value.len() => {
            (Found::Unavailable, CkRv::DEVICE_ERROR)
        }
        (Some(_), Some(_)) => (Found::Value(received), CkRv::OK),
    }
}

/// The same for a nested template, of which the size was asked for. What it contains cannot be had.
fn sort_nested(received: &Attribute, room: Room, zero: Zero) -> (Found, CkRv) {
    match (length(received), room) {
        (None, _) => (Found::Unavailable, CkRv::ATTRIBUTE_TYPE_INVALID),
        (Some(0), _) if zero == Zero::Unavailable => (Found::Unavailable, CkRv::OK),
        (Some(size), None) => (Found::Size(size), CkRv::OK),
        (Some(0), Some(_)) => (Found::Size(0), CkRv::OK),
        (Some(_), Some(_)) => (Found::Unavailable, CkRv::ATTRIBUTE_TYPE_INVALID),
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;
    use std::sync::{Arc, Mutex};

    use xdr::Ulong;

    use super::*;
    use crate::fake::{self, Scripted};
    use crate::library::Library;

    const LABEL: AttributeType = AttributeType(3);
    const VALUE: AttributeType = AttributeType(0x11);
    const WRAP_TEMPLATE: AttributeType = AttributeType(0x4000_0211);

    fn received(attribute_type: AttributeType, value: &[u8], value_len: u64) -> Attribute {
        Attribute {
            attribute_type,
            value: value.to_vec(),
            value_len: Ulong(value_len),
        }
    }

    fn answering(rv: CkRv, template: &[Attribute]) -> Library<Scripted> {
        let template = Template(template.to_vec());
        fake::library(move |call| {
            let Call::C_GetAttributeValue(..) = call else {
                return Reply::only(call.function(), CkRv::OK);
            };
            let template = template.clone();
            Reply::C_GetAttributeValue(TemplateResult { rv, template })
        })
    }

    fn wanted(attribute_type: AttributeType, room: Room) -> Wanted {
        Wanted {
            attribute_type,
            room,
        }
    }

    fn ask(remote: &Library<Scripted>, wanted: &[Wanted]) -> (CkRv, Vec<Found>) {
        values(remote, SessionHandle(1), ObjectHandle(2), wanted)
    }

    /// `Found` has no Debug: it holds values.
    fn lengths(found: &[Found]) -> Vec<i64> {
        let length = |found: &Found| match found {
            Found::Untouched => -2,
            Found::Unavailable => -1,
            Found::Size(size) => *size as i64,
            Found::Value(attribute) => 100 + attribute.value.len() as i64,
        };
        found.iter().map(length).collect()
    }

    fn check(
        (rv, template): (CkRv, &[Attribute]),
        rooms: &[(AttributeType, Room)],
        expected: (CkRv, &[i64]),
    ) {
        let rooms: Vec<_> = rooms
            .iter()
            .map(|(kind, room)| wanted(*kind, *room))
            .collect();
        let (rv, found) = ask(&answering(rv, template), &rooms);
        assert_eq!((rv, lengths(&found).as_slice()), expected);
    }

    /// Each kind of answer of an original daemon.
    #[test]
    fn what_an_original_daemon_answers() {
        let label = received(LABEL, b"label", 5);
        let zeros = received(LABEL, &[0; 5], 5);
        let gone = received(VALUE, b"", 0);
        // size query
        check((CkRv::OK, &[zeros]), &[(LABEL, None)], (CkRv::OK, &[5]));
        // exact and larger buffers
        for room in [5, 6, 4000] {
            let rooms = [(LABEL, Some(room))];
            check((CkRv::OK, from_ref(&label)), &rooms, (CkRv::OK, &[105]));
        }
        // one too small, one sensitive, one of an invalid type; another fine
        let rooms = [(VALUE, Some(1)), (LABEL, Some(5))];
        for rv in [
            CkRv::BUFFER_TOO_SMALL,
            CkRv::ATTRIBUTE_SENSITIVE,
            CkRv::ATTRIBUTE_TYPE_INVALID,
        ] {
            let template = [gone.clone(), label.clone()];
            check((rv, &template), &rooms, (rv, &[-1, 105]));
        }
        // an empty value alone, and beside an error
        check(
            (CkRv::OK, from_ref(&gone)),
            &[(VALUE, Some(9))],
            (CkRv::OK, &[100]),
        );
        check((CkRv::OK, &[gone]), &[(VALUE, None)], (CkRv::OK, &[0]));
        // any other error leaves the template alone, whatever came with it
        let rv = CkRv::OBJECT_HANDLE_INVALID;
        check((rv, &[label]), &[(LABEL, Some(9))], (rv, &[-2]));
        check((rv, &[]), &[(LABEL, None)], (rv, &[-2]));
        // nothing asked
        check((CkRv::OK, &[]), &[], (CkRv::OK, &[]));
    }

    #[test]
    fn all_ones_beside_an_error_tell_unavailable_from_empty() {
        let gone = received(VALUE, b"", u64::MAX);
        let empty = received(LABEL, b"", 0);
        let rooms = [(VALUE, Some(5)), (LABEL, None)];
        let rv = CkRv::ATTRIBUTE_SENSITIVE;
        check((rv, &[gone, empty]), &rooms, (rv, &[-1, 0]));
    }

    #[test]
    fn no_room_means_too_small_unless_the_size_was_asked_for() {
        let zeros = received(LABEL, &[0; 5], 5);
        check(
            (CkRv::OK, &[zeros]),
            &[(LABEL, Some(0))],
            (CkRv::BUFFER_TOO_SMALL, &[-1]),
        );
    }

    #[test]
    fn a_hostile_answer_stays_within_the_room() {
        let long = received(LABEL, &[1; 5000], 3);
        let rooms = [(LABEL, Some(5))];
        let refused = (CkRv::BUFFER_TOO_SMALL, &[-1][..]);
        check((CkRv::OK, from_ref(&long)), &rooms, refused);
        // More than asked for is not looked at; less would leave lengths that were never true.
        let fits = received(LABEL, b"label", 5);
        check((CkRv::OK, &[fits, long]), &rooms, (CkRv::OK, &[105]));
        check((CkRv::OK, &[]), &rooms, (CkRv::DEVICE_ERROR, &[-2]));
        let rv = CkRv::ATTRIBUTE_SENSITIVE;
        check((rv, &[]), &rooms, (rv, &[-1]));
        // A length without its bytes is no value.
        let promised = received(LABEL, b"", 4);
        check(
            (CkRv::OK, from_ref(&promised)),
            &rooms,
            (CkRv::DEVICE_ERROR, &[-1]),
        );
        check((CkRv::OK, &[promised]), &[(LABEL, None)], (CkRv::OK, &[4]));
        // Nor is one that no value has, where CKR_OK says that there is one.
        for told in [u64::MAX, i64::MAX as u64, LONGEST_BYTES + 1] {
            let absurd = received(LABEL, b"", told);
            for room in [None, Some(5)] {
                let answer = (CkRv::OK, from_ref(&absurd));
                let expected = (CkRv::ATTRIBUTE_TYPE_INVALID, &[-1][..]);
                check(answer, &[(LABEL, room)], expected);
            }
        }
    }

    /// Answers like a module with one value of `size` bytes for each attribute; notes requests.
    fn module(size: usize) -> (Library<Scripted>, Arc<Mutex<Vec<Template>>>) {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let noted = requests.clone();
        let library = fake::library(move |call| {
            let Call::C_GetAttributeValue(_, _, mut template) = call else {
                return Reply::only(call.function(), CkRv::OK);
            };
            noted.lock().unwrap().push(template.clone());
            let mut rv = CkRv::OK;
            for attribute in &mut template.0 {
                let fits = attribute.value.is_empty() || attribute.value.len() >= size;
                if !fits {
                    rv = CkRv::BUFFER_TOO_SMALL;
                }
                let length = if fits { size } else { 0 };
                *attribute = received(attribute.attribute_type, &vec![7; length], length as u64);
            }
            Reply::C_GetAttributeValue(TemplateResult { rv, template })
        });
        (library, requests)
    }

    #[test]
    fn room_is_told_by_zeros() {
        let (library, requests) = module(5);
        ask(&library, &[wanted(LABEL, Some(9)), wanted(VALUE, None)]);
        let request = requests.lock().unwrap()[0].clone();
        assert!(request.0 == [received(LABEL, &[0; 9], 9), received(VALUE, b"", 0)]);
    }

    #[test]
    fn claimed_room_costs_no_memory() {
        for (size, room, expected) in [
            (5, usize::MAX, (CkRv::OK, 105)),
            (0, usize::MAX, (CkRv::OK, 100)),
            (200_000, 300_000, (CkRv::OK, 200_100)),
            (300_000, 200_000, (CkRv::BUFFER_TOO_SMALL, -1)),
        ] {
            let (library, requests) = module(size);
            let (rv, found) = ask(&library, &[wanted(LABEL, Some(room))]);
            assert_eq!((rv, lengths(&found)[0]), expected);
            for request in requests.lock().unwrap().iter() {
                assert!(request.0[0].value.len() <= size.max(LARGEST_ROOM_SENT));
            }
        }
    }

    /// The room for one would hold the application's addresses, or zeros that a module takes for some.
    #[test]
    fn only_the_size_of_nested_templates_is_asked_for() {
        for (size, expected) in [
            (5, (CkRv::ATTRIBUTE_TYPE_INVALID, [-1, 105, 5, -1])),
            (0, (CkRv::OK, [0, 100, 0, 0])),
        ] {
            let (library, requests) = module(size);
            let rooms = [
                wanted(WRAP_TEMPLATE, Some(48)),
                wanted(LABEL, Some(5)),
                wanted(WRAP_TEMPLATE, None),
                wanted(WRAP_TEMPLATE, Some(usize::MAX)),
            ];
            let (rv, found) = ask(&library, &rooms);
            assert_eq!(
                (rv, lengths(&found).as_slice()),
                (expected.0, &expected.1[..])
            );
            let requests = requests.lock().unwrap();
            assert_eq!(requests.len(), 1);
            let asked = || received(WRAP_TEMPLATE, b"", 0);
            let label = received(LABEL, &[0; 5], 5);
            assert!(requests[0].0 == [asked(), label, asked(), asked()]);
        }
    }
}
