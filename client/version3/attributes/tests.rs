//! Tests C_GetAttributeValue over version 3, for each kind of answer that a daemon gives.

use std::slice::from_ref;
use std::sync::{Arc, Mutex};

use xdr::version3::{Attribute, Call, Reply, Template, TemplateResult};
use xdr::{
    AttributeType, CkRv, Found, LONGEST_BYTES, ObjectHandle, Query, SessionHandle, Ulong, Wanted,
    WantedRoom,
};

use super::LARGEST_ROOM_SENT;
use crate::fake::{self, FakeLibrary, only};
use crate::remote::ask;

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

fn answering(rv: CkRv, template: &[Attribute]) -> FakeLibrary {
    let template = Template(template.to_vec());
    fake::library_of_version3(move |call| {
        let Call::C_GetAttributeValue(..) = call else {
            return only(call.function(), CkRv::OK);
        };
        let template = template.clone();
        Reply::C_GetAttributeValue(TemplateResult { rv, template })
    })
}

fn wanted(attribute_type: AttributeType, room: Option<u64>) -> Wanted {
    let room = match room {
        Some(room) => WantedRoom::Buffer {
            room,
            content: None,
        },
        None => WantedRoom::Null { length: 0 },
    };
    Wanted {
        attribute_type,
        room,
    }
}

fn ask(library: &FakeLibrary, wanted: &[Wanted]) -> (CkRv, Vec<Found>) {
    let query = Some(Query(wanted.to_vec()));
    let (session, object) = (SessionHandle(1), ObjectHandle(2));
    let answer = ask!(library, C_GetAttributeValue(session, object, query));
    let answer = answer.expect("a reply to what was asked");
    let types = |found: &xdr::Answer| found.attribute_type;
    let answers = answer.answers.0;
    assert!(
        answers.iter().map(types).eq(wanted
            .iter()
            .map(|wanted| wanted.attribute_type)
            .take(answers.len()))
    );
    if answers.is_empty() {
        // The application's template is not changed.
        return (answer.rv, vec![Found::Untouched; wanted.len()]);
    }
    (
        answer.rv,
        answers.into_iter().map(|answer| answer.found).collect(),
    )
}

/// Converts results to numbers, because `Found` has no Debug: it contains values.
fn lengths(found: &[Found]) -> Vec<i64> {
    let length = |found: &Found| match found {
        Found::Untouched => -2,
        Found::Unavailable => -1,
        Found::Length(size) => *size as i64,
        Found::Bytes(value) => 100 + value.len() as i64,
        Found::TemplateLength(count) => -3 - *count as i64,
        Found::Template(_) => {
            panic!("version 3 has no templates in templates")
        }
    };
    found.iter().map(length).collect()
}

fn check(
    (rv, template): (CkRv, &[Attribute]),
    rooms: &[(AttributeType, Option<u64>)],
    expected: (CkRv, &[i64]),
) {
    let rooms: Vec<_> = rooms
        .iter()
        .map(|(kind, room)| wanted(*kind, *room))
        .collect();
    let (rv, found) = ask(&answering(rv, template), &rooms);
    assert_eq!((rv, lengths(&found).as_slice()), expected);
}

/// Covers each kind of answer of an original daemon.
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
    // any other error leaves the template unchanged, whatever came with it
    let rv = CkRv::OBJECT_HANDLE_INVALID;
    check((rv, &[label]), &[(LABEL, Some(9))], (rv, &[-2]));
    check((rv, &[]), &[(LABEL, None)], (rv, &[-2]));
    // no attribute was asked for
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
    // Extra answers are ignored. If answers are missing, the lengths in the template would be wrong.
    let fits = received(LABEL, b"label", 5);
    check((CkRv::OK, &[fits, long]), &rooms, (CkRv::OK, &[105]));
    check((CkRv::OK, &[]), &rooms, (CkRv::DEVICE_ERROR, &[-2]));
    let rv = CkRv::ATTRIBUTE_SENSITIVE;
    check((rv, &[]), &rooms, (rv, &[-1]));
    // A length without its bytes is not a value.
    let promised = received(LABEL, b"", 4);
    check(
        (CkRv::OK, from_ref(&promised)),
        &rooms,
        (CkRv::DEVICE_ERROR, &[-1]),
    );
    check((CkRv::OK, &[promised]), &[(LABEL, None)], (CkRv::OK, &[4]));
    // Nor is a length that no value has, if CKR_OK says that there is a value.
    for told in [u64::MAX, i64::MAX as u64, LONGEST_BYTES + 1] {
        let absurd = received(LABEL, b"", told);
        for room in [None, Some(5)] {
            let answer = (CkRv::OK, from_ref(&absurd));
            let expected = (CkRv::ATTRIBUTE_TYPE_INVALID, &[-1][..]);
            check(answer, &[(LABEL, room)], expected);
        }
    }
}

/// Answers like a module with a value of `size` bytes for each attribute; records the requests.
fn module(size: usize) -> (FakeLibrary, Arc<Mutex<Vec<Template>>>) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let noted = requests.clone();
    let library = fake::library_of_version3(move |call| {
        let Call::C_GetAttributeValue(_, _, mut template) = call else {
            return only(call.function(), CkRv::OK);
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
        (5, u64::MAX, (CkRv::OK, 105)),
        (0, u64::MAX, (CkRv::OK, 100)),
        (200_000, 300_000, (CkRv::OK, 200_100)),
        (300_000, 200_000, (CkRv::BUFFER_TOO_SMALL, -1)),
    ] {
        let (library, requests) = module(size);
        let (rv, found) = ask(&library, &[wanted(LABEL, Some(room))]);
        assert_eq!((rv, lengths(&found)[0]), expected);
        for request in requests.lock().unwrap().iter() {
            assert!(request.0[0].value.len() <= size.max(LARGEST_ROOM_SENT as usize));
        }
    }
}

/// An original daemon answers with a size of 0, or with as many zeros as the template has bytes.
#[test]
fn of_nested_templates_only_the_size_is_asked_for() {
    for (size, rv, nested) in [
        (48, CkRv::ATTRIBUTE_TYPE_INVALID, [-1, -3 - 2]),
        (0, CkRv::OK, [-3, -3]),
    ] {
        let (library, requests) = module(size);
        let rooms = [
            wanted(WRAP_TEMPLATE, Some(48)),
            wanted(LABEL, Some(50)),
            wanted(WRAP_TEMPLATE, None),
        ];
        let (answered, found) = ask(&library, &rooms);
        assert_eq!(answered, rv);
        assert_eq!(lengths(&found), [nested[0], 100 + size as i64, nested[1]]);
        let requests = requests.lock().unwrap();
        let asked = || received(WRAP_TEMPLATE, b"", 0);
        assert!(requests[0].0 == [asked(), received(LABEL, &[0; 50], 50), asked()]);
        assert_eq!(requests.len(), 1);
    }
}

/// Our daemon reports an unavailable attribute with a length of all ones, the original with 0.
#[test]
fn an_empty_nested_template_beside_one_that_is_not_there_is_told_apart_if_it_can_be() {
    let other = AttributeType(0x4000_0212);
    for (absent, expected) in [(u64::MAX, [-1, -3]), (0, [-1, -1])] {
        let library = fake::library_of_version3(move |call| {
            let Call::C_GetAttributeValue(_, _, template) = call else {
                return only(call.function(), CkRv::OK);
            };
            let rv = match template.0.is_empty() {
                true => CkRv::OK,
                false => CkRv::ATTRIBUTE_TYPE_INVALID,
            };
            let answer = |(attribute, length): (Attribute, u64)| {
                received(attribute.attribute_type, b"", length)
            };
            let answers = template.0.into_iter().zip([absent, 0]).map(answer);
            let template = Template(answers.collect());
            Reply::C_GetAttributeValue(TemplateResult { rv, template })
        });
        let (rv, found) = ask(
            &library,
            &[wanted(WRAP_TEMPLATE, None), wanted(other, None)],
        );
        assert_eq!(rv, CkRv::ATTRIBUTE_TYPE_INVALID);
        assert_eq!(lengths(&found), expected);
    }
}
