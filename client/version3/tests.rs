//! Tests lists and slot events over version 3, and calls that version 3 cannot express.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use xdr::version3::{Call, Reply};
use xdr::{
    Attribute, AttributeType, Cryptoki, Input, Mechanism, ObjectHandle, SessionHandle, SlotId,
    SlotResult, Template, UserType, Value,
};

use super::*;
use crate::fake::{self, FakeLibrary, Scripted, only};
use crate::remote::ask;

/// The result that the application gets.
#[derive(Debug, PartialEq)]
enum Answer {
    Size(u64),
    TooSmall(u64),
    Whole(usize),
}

fn slots(rv: CkRv, sent: u64, count: u64, room: Option<u64>) -> Result<Answer, CkRv> {
    let library = fake::library_of_version3(move |call| match call {
        Call::C_GetSlotList(Ulong(0), asked) => {
            assert_eq!(asked.0, room.unwrap_or(0).min(65536));
            Reply::C_GetSlotList(SlotListResult {
                rv,
                slots: (0..sent).map(SlotId).collect(),
                count: Ulong(count),
            })
        }
        call => only(call.function(), CkRv::OK),
    });
    let place = room.map_or(Room::QUESTION, Room::Buffer);
    let answer = ask!(&library, C_GetSlotList(Ulong(0), place))?;
    match (answer.rv, room) {
        (CkRv::OK, Some(room)) => {
            assert!(answer.count.0 == answer.slots.len() as u64 && answer.count.0 <= room);
            Ok(Answer::Whole(answer.slots.len()))
        }
        (CkRv::OK, None) if answer.slots.is_empty() => Ok(Answer::Size(answer.count.0)),
        (CkRv::BUFFER_TOO_SMALL, Some(_)) if answer.slots.is_empty() => {
            Ok(Answer::TooSmall(answer.count.0))
        }
        (rv, _) => Err(rv),
    }
}

/// As C_GetSlotList and C_GetMechanismList were observed to work in the original's library.
#[test]
fn lists_keep_to_the_room_there_is() {
    let too_small = CkRv::BUFFER_TOO_SMALL;
    assert_eq!(slots(CkRv::OK, 0, 70, None), Ok(Answer::Size(70)));
    assert_eq!(slots(CkRv::OK, 0, 70, Some(0)), Ok(Answer::TooSmall(70)));
    assert_eq!(slots(CkRv::OK, 0, 0, Some(0)), Ok(Answer::Whole(0)));
    assert_eq!(slots(too_small, 0, 70, Some(3)), Ok(Answer::TooSmall(70)));
    assert_eq!(slots(CkRv::OK, 70, 70, Some(200)), Ok(Answer::Whole(70)));
    assert_eq!(
        slots(CkRv::OK, 70, 70, Some(u64::MAX)),
        Ok(Answer::Whole(70))
    );
    // The count that comes with an error means nothing.
    assert_eq!(
        slots(CkRv::SLOT_ID_INVALID, 0, 70, None),
        Err(CkRv::SLOT_ID_INVALID)
    );
    // A server that sends more than was asked for, or reports more than it sends.
    assert_eq!(slots(CkRv::OK, 4, 4, Some(3)), Err(CkRv::DEVICE_ERROR));
    assert_eq!(slots(CkRv::OK, 4, 4, Some(0)), Err(CkRv::DEVICE_ERROR));
    assert_eq!(slots(CkRv::OK, 2, 3, Some(3)), Ok(Answer::Whole(2)));
    for rv in [CkRv::OK, too_small] {
        for count in [MOST_ELEMENTS + 1, u64::MAX] {
            for room in [None, Some(3)] {
                assert_eq!(slots(rv, 0, count, room), Err(CkRv::DEVICE_ERROR));
            }
        }
    }
    assert_eq!(
        slots(CkRv::SLOT_ID_INVALID, 0, u64::MAX, None),
        Err(CkRv::SLOT_ID_INVALID)
    );
}

/// Makes a daemon that reports this many times that there is no event.
fn no_events(polls: Arc<AtomicUsize>, times: usize) -> Scripted {
    fake::version3(move |call| match call {
        Call::C_WaitForSlotEvent(flags) => {
            assert_eq!(flags, Flags(1), "the daemon is never blocked");
            let none = polls.fetch_add(1, Ordering::SeqCst) < times;
            Reply::C_WaitForSlotEvent(SlotResult {
                rv: if none { CkRv::NO_EVENT } else { CkRv::OK },
                slot_id: if none { SlotId::NONE } else { SlotId(7) },
            })
        }
        call => only(call.function(), CkRv::OK),
    })
}

fn wait(library: &FakeLibrary, flags: u64) -> Result<SlotId, CkRv> {
    let event = ask!(library, C_WaitForSlotEvent(Flags(flags)))?;
    crate::remote::result(event.rv).map(|()| event.slot_id)
}

#[test]
fn waiting_for_a_slot_event_polls_until_there_is_one() {
    let polls = Arc::new(AtomicUsize::new(0));
    let library = fake::started(no_events(polls.clone(), 3), &fake::settings(None));
    assert_eq!(wait(&library, 1), Err(CkRv::NO_EVENT));
    assert_eq!(wait(&library, 0), Ok(SlotId(7)));
    assert_eq!(polls.load(Ordering::SeqCst), 4);
}

#[test]
fn finalising_wakes_who_waits_at_once() {
    let mut settings = fake::settings(None);
    settings.slot_event_period = Duration::from_secs(3600);
    let polls = Arc::new(AtomicUsize::new(0));
    let library = fake::started(no_events(polls.clone(), usize::MAX), &settings);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| wait(&library, 0));
        while polls.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        let started = Instant::now();
        library.finish().unwrap();
        let woken = waiter.join().unwrap();
        assert_eq!(woken, Err(CkRv::CRYPTOKI_NOT_INITIALIZED));
        assert!(started.elapsed() < Duration::from_secs(60));
    });
}

/// As it was for applications before there was a version 4.
#[test]
fn what_version_3_has_no_form_for_is_refused_without_a_call() {
    type Current<'a> = xdr::Call<'a>;
    let library = fake::library_of_version3(|call| panic!("{call:?}"));
    let (session, object) = (SessionHandle(1), ObjectHandle(2));
    let null = Input::Null { length: 1 };
    let label = Input::NULL;
    let mechanism = || Some(Mechanism::default());
    let nested = Attribute {
        attribute_type: AttributeType(0x4000_0211),
        value: Value::Template(Template(vec![Attribute::new(AttributeType(0), vec![1])])),
    };
    let null_value = |kind| {
        let value = Value::Null { length: 4 };
        let attribute_type = AttributeType(kind);
        Some(Template(vec![Attribute {
            attribute_type,
            value,
        }]))
    };
    let bad = CkRv::ARGUMENTS_BAD;
    let calls = [
        (Current::C_Login(session, UserType(1), null), bad),
        (Current::C_InitToken(SlotId(1), Input::NULL, label), bad),
        (Current::C_SetAttributeValue(session, object, None), bad),
        (Current::C_GetAttributeValue(session, object, None), bad),
        (Current::C_GetSlotList(Ulong(1), Room::NoLength), bad),
        (Current::C_GetMechanismList(SlotId(1), Room::NoLength), bad),
        (Current::C_FindObjects(session, Room::NoLength), bad),
        (Current::C_FindObjects(session, Room::QUESTION), bad),
        (Current::C_GenerateRandom(session, Room::QUESTION), bad),
        (Current::C_Encrypt(session, null, Room::QUESTION), bad),
        (
            Current::C_Encrypt(session, Input::NULL, Room::NoLength),
            bad,
        ),
        (Current::C_EncryptFinal(session, Room::NoLength), bad),
        (
            Current::C_WrapKey(session, mechanism(), object, object, Room::NoLength),
            bad,
        ),
        (Current::C_DigestUpdate(session, null), bad),
        (Current::C_Verify(session, Input::NULL, null), bad),
        (Current::C_DigestInit(session, None), bad),
        (Current::C_GenerateKey(session, None, None), bad),
        (
            Current::C_CreateObject(session, Some(Template(vec![nested]))),
            CkRv::ATTRIBUTE_TYPE_INVALID,
        ),
        (
            Current::C_CreateObject(session, null_value(0x4000_0211)),
            CkRv::ATTRIBUTE_TYPE_INVALID,
        ),
        // Version 3 would search for objects with an empty value.
        (
            Current::C_FindObjectsInit(session, null_value(0x3)),
            CkRv::ATTRIBUTE_VALUE_INVALID,
        ),
        (
            Current::C_SessionCancel(session, Flags(1)),
            CkRv::FUNCTION_NOT_SUPPORTED,
        ),
        (
            Current::C_MessageEncryptInit(session, mechanism(), object),
            CkRv::FUNCTION_NOT_SUPPORTED,
        ),
    ];
    for (call, rv) in calls {
        let name = call.function().name();
        assert_eq!(library.call(call).rv(), rv, "{name}");
    }
}
