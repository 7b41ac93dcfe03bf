//! Tests how keys without a visible public value are told apart.

use xdr::{Answer, Found, Wanted};

use super::*;
use crate::recovery::counterparts::tests::certificate;

const VALUE: u64 = 0x11;
const CHECK_VALUE: u64 = 0x90;
const PUBLIC_KEY_INFO: u64 = 0x129;
const EC_POINT: u64 = 0x181;

/// Makes an object with the label and CKA_ID of the key.
fn object(class: u64, (shown, value): (u64, &[u8])) -> Attributes {
    vec![
        (CLASS, class.to_ne_bytes().to_vec()),
        (TOKEN, vec![1]),
        (LABEL, b"key".to_vec()),
        (ID, vec![7]),
        (shown, value.to_vec()),
    ]
}

fn certified(serial: u8, key: &[u8]) -> Attributes {
    object(1, (VALUE, &certificate(serial, key)))
}

fn public(point: &[u8]) -> Attributes {
    object(2, (EC_POINT, point))
}

/// Makes a private key that shows no part of its public value.
fn private() -> Attributes {
    object(3, (PRIVATE, &[1]))
}

/// Makes a module with these objects, and an application that has found and used its key, the first of them.
fn with_objects(objects: Vec<Attributes>) -> (Arc<Module>, Fake, SessionHandle, ObjectHandle) {
    let module = Module::new();
    module.change(|state| state.objects = (70..).zip(objects).collect());
    let recovery = module.recovery(true);
    let session = open(&recovery);
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    let key = find(&recovery, session)[0];
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    (module, recovery, session, key)
}

#[test]
fn a_private_key_is_told_from_others_by_what_belongs_to_it() {
    for (before, after, is_found) in [
        (vec![public(b"p")], vec![public(b"p")], true),
        (vec![public(b"p")], vec![public(b"q")], false),
        (vec![public(b"p")], vec![], false),
        // Two objects match, so neither is recognised.
        (vec![public(b"p")], vec![public(b"p"), public(b"q")], false),
        (vec![public(b"p"), public(b"p")], vec![public(b"p")], true),
        // A public key takes precedence over a certificate.
        (
            vec![public(b"p"), certified(1, b"p")],
            vec![public(b"p"), certified(1, b"q")],
            true,
        ),
        (vec![certified(1, b"p")], vec![certified(1, b"p")], true),
        // The certificate was renewed.
        (vec![certified(1, b"p")], vec![certified(2, b"p")], true),
        (vec![certified(1, b"p")], vec![certified(1, b"q")], false),
        (
            vec![certified(1, b"p")],
            vec![certified(2, b"p"), certified(1, b"p")],
            true,
        ),
        // Nothing distinguishes the key from others.
        (vec![], vec![], true),
        (vec![], vec![public(b"q")], true),
        (vec![public(b"p"), public(b"q")], vec![public(b"r")], true),
    ] {
        let objects = |others: &Vec<Attributes>| {
            let mut objects = vec![private()];
            objects.extend_from_slice(others);
            objects
        };
        let (module, recovery, session, key) = with_objects(objects(&before));
        for round in 2..4 {
            module.cut();
            module.change(|state| state.objects = (10 * round..).zip(objects(&after)).collect());
            let expected = match is_found {
                true => CkRv::OK,
                false => CkRv::OBJECT_HANDLE_INVALID,
            };
            assert_eq!(
                begin(&recovery, session, key),
                expected,
                "{before:?} {after:?}"
            );
        }
    }
}

/// The counterpart is looked for once, and only for keys that do not show their public value.
#[test]
fn what_belongs_to_a_private_key_is_looked_for_once() {
    let searches = |module: &Arc<Module>| module.calls(Function::C_FindObjectsInit);
    let (module, recovery, session, key) = with_objects(vec![private(), public(b"p")]);
    assert_eq!(searches(&module), 2); // the application's, and one more
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    assert_eq!(searches(&module), 2);

    let (module, _, _, _) = with_objects(vec![object(3, (PUBLIC_KEY_INFO, b"p")), public(b"p")]);
    assert_eq!(searches(&module), 1);
    let (module, _, _, _) = with_objects(vec![private_key("key", b"n"), public(b"p")]);
    assert_eq!(searches(&module), 1);
}

#[test]
fn a_later_search_takes_nothing_from_what_is_known_of_a_key() {
    // What belongs to it.
    let (module, recovery, session, key) = with_objects(vec![private(), public(b"p")]);
    assert_eq!(find(&recovery, session)[0], key);
    module.cut();
    module.change(|state| state.objects = (80..).zip([private(), public(b"q")]).collect());
    assert_eq!(begin(&recovery, session, key), CkRv::OBJECT_HANDLE_INVALID);

    // The key itself, which is one of many now.
    let (module, recovery, session, key) = with_objects(vec![private_key("key", b"n")]);
    let others = (100..140).map(|number| (number, private_key("other", &[number as u8])));
    let many = |key: u64| others.clone().chain([(key, private_key("key", b"n"))]);
    module.change(|state| state.objects = many(70).collect());
    let begun = recovery.call(Call::C_FindObjectsInit(session, None));
    assert_eq!(begun.rv(), CkRv::OK);
    let found = ask!(&recovery, C_FindObjects(session, Room::Buffer(99))).unwrap();
    assert_eq!(found.objects.last(), Some(&key));
    recovery.call(Call::C_FindObjectsFinal(session));
    module.cut();
    module.change(|state| state.objects = many(71).collect());
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
}

#[test]
fn a_key_that_shows_its_public_value_or_check_value_is_known_by_it() {
    for (class, shown) in [(3, PUBLIC_KEY_INFO), (4, CHECK_VALUE)] {
        let (module, recovery, session, key) = with_objects(vec![object(class, (shown, b"p"))]);
        module.cut();
        module.change(|state| state.objects = vec![(80, object(class, (shown, b"q")))]);
        assert_eq!(begin(&recovery, session, key), CkRv::OBJECT_HANDLE_INVALID);
        module.change(|state| state.objects = vec![(81, object(class, (shown, b"p")))]);
        assert_eq!(begin(&recovery, session, key), CkRv::OK);
    }
}

/// There may be no time, or no session, for the search.
#[test]
fn a_key_is_used_although_what_belongs_to_it_cannot_be_looked_for() {
    let module = Module::new();
    module.change(|state| {
        state.objects = (70..).zip([private(), public(b"p")]).collect();
        state.most_sessions = Some(1);
    });
    let recovery = module.recovery(true);
    let session = open(&recovery);
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    let begun = recovery.call(Call::C_FindObjectsInit(session, None));
    assert_eq!(begun.rv(), CkRv::OK);
    let found = ask!(&recovery, C_FindObjects(session, Room::Buffer(9))).unwrap();
    assert_eq!(begin(&recovery, session, found.objects[0]), CkRv::OK);
    assert_eq!(module.calls(Function::C_FindObjectsInit), 1);
}

/// So that a program that does everything anew for each signature is not slowed down each time.
#[test]
fn what_belongs_to_a_private_key_is_remembered_between_searches_and_sessions() {
    let (module, recovery, session, _) = with_objects(vec![private(), public(b"p")]);
    let searches = || module.calls(Function::C_FindObjectsInit);
    let own = searches() - 1;
    for round in 2..5 {
        let key = find(&recovery, session)[0];
        assert_eq!(begin(&recovery, session, key), CkRv::OK);
        assert_eq!(searches(), round + own);
    }
    assert_eq!(recovery.call(Call::C_CloseSession(session)).rv(), CkRv::OK);
    for round in 5..8 {
        let session = open(&recovery);
        assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
        let key = find(&recovery, session)[0];
        assert_eq!(begin(&recovery, session, key), CkRv::OK);
        assert_eq!(searches(), round + own);
        assert_eq!(recovery.call(Call::C_CloseSession(session)).rv(), CkRv::OK);
    }
    // But only on this connection: after it, the key may be another one.
    let session = open(&recovery);
    module.cut();
    module.change(|state| state.objects = (90..).zip([private(), public(b"q")]).collect());
    let info = recovery.call(Call::C_GetSessionInfo(session));
    assert_eq!(info.rv(), CkRv::OK);
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    let key = find(&recovery, session)[0];
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    module.cut();
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
}

/// Otherwise a daemon that lies could fill the memory with values that nobody has asked for.
#[test]
fn values_that_were_not_asked_for_are_not_kept() {
    let longer = |answers: &mut Vec<Answer>| {
        for answer in answers {
            answer.found = Found::Bytes(vec![1; 4097]);
        }
    };
    let of_another_type = |answers: &mut Vec<Answer>| {
        for answer in answers {
            answer.attribute_type.0 += 0x1000;
        }
    };
    let too_many = |answers: &mut Vec<Answer>| {
        let found = Found::Bytes(vec![1]);
        answers.extend((0..100).map(|it| Answer {
            attribute_type: AttributeType(0x1000 + it),
            found: found.clone(),
        }));
    };
    let lies: [fn(&mut Vec<Answer>); 3] = [longer, of_another_type, too_many];
    for (lie, kept) in lies.into_iter().zip([0, 0, 2]) {
        let (module, recovery, ..) = ready();
        module.change(|state| state.lies = Some(lie));
        let live = recovery.live(Function::C_GetSlotList, Deadline::after(PAUSES.1));
        let live = live.unwrap_or_else(|rv| panic!("{rv}"));
        let session = module.change(|state| *state.connection.sessions.iter().next().unwrap());
        let wanted = [LABEL, MODULUS].map(|it| Wanted::value(AttributeType(it), 4096));
        let values = live.values(SessionHandle(session), ObjectHandle(70), wanted.to_vec());
        let values = values.unwrap_or_else(|_| panic!("the module has answered"));
        assert_eq!(values.len(), kept);
    }
}
