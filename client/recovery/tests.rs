//! Tests recovery with simulated modules: how often each call is made, and which object is recognised as which.

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Instant;

use xdr::{Attribute, AttributeType, Input, ObjectHandle, Room, SlotId, Template, Ulong, UserType};

use super::*;
use crate::fake::{self, Scripted};
use crate::link::StartError;
use crate::remote::ask;
use crate::settings::Endpoint;

fn not_started(error: StartError) -> InitializeError {
    InitializeError::Start(Endpoint::Unix("/fake".into()), error)
}

mod copies;
mod faults;
mod identity;
mod keepers;
mod module;
mod searches;
mod slots;

use module::*;

type Fake = Recovery<Arc<Scripted>>;

fn open(recovery: &Fake) -> SessionHandle {
    let opened = ask!(recovery, C_OpenSession(SlotId(5), Flags(4), false)).unwrap();
    assert_eq!(opened.rv, CkRv::OK);
    opened.session
}

fn log_in(recovery: &Fake, session: SessionHandle, pin: &str) -> CkRv {
    let call = Call::C_Login(session, UserType(1), Input::Bytes(pin.as_bytes()));
    recovery.call(call).rv()
}

fn find(recovery: &Fake, session: SessionHandle) -> Vec<ObjectHandle> {
    let begun = recovery.call(Call::C_FindObjectsInit(session, None));
    assert_eq!(begun.rv(), CkRv::OK);
    let found = ask!(recovery, C_FindObjects(session, Room::Buffer(9))).unwrap();
    assert_eq!(
        recovery.call(Call::C_FindObjectsFinal(session)).rv(),
        CkRv::OK
    );
    found.objects
}

fn begin(recovery: &Fake, session: SessionHandle, key: ObjectHandle) -> CkRv {
    recovery.call(Call::C_SignInit(session, None, key)).rv()
}

fn sign(recovery: &Fake, session: SessionHandle) -> CkRv {
    let call = Call::C_Sign(session, Input::Bytes(b"data"), Room::Buffer(9));
    recovery.call(call).rv()
}

/// Makes a module, and an application that has logged in and found its key.
fn ready() -> (Arc<Module>, Fake, SessionHandle, ObjectHandle) {
    let module = Module::new();
    let recovery = module.recovery(true);
    let session = open(&recovery);
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    let [key] = find(&recovery, session)[..] else {
        panic!("there is one key");
    };
    (module, recovery, session, key)
}

#[test]
fn what_is_lost_between_operations_comes_back_without_an_error() {
    let (module, recovery, session, key) = ready();
    for round in 2..5 {
        module.cut();
        // The handle is a different one on this connection.
        module.change(|state| state.objects = vec![(10 * round, private_key("key", b"n"))]);
        assert_eq!(begin(&recovery, session, key), CkRv::OK);
        assert_eq!(sign(&recovery, session), CkRv::OK);
        assert_eq!(module.connects.load(Ordering::SeqCst), round as usize);
    }
    assert_eq!(module.calls(Function::C_Login), 4);
}

/// Handles are not reused after C_Finalize and C_Initialize or in a forked child either, because applications remember
/// them.
#[test]
fn no_handle_is_given_twice_in_a_process() {
    let (_, recovery, session, key) = ready();
    recovery.finish().unwrap();
    let (_, _, other_session, other_key) = ready();
    assert_ne!(session, other_session);
    assert_ne!(key, other_key);
}

/// The signature may have been made, so the call is not repeated.
#[test]
fn no_signature_is_made_twice() {
    let (module, recovery, session, key) = ready();
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    module.change(|state| state.breaks_at = Some(Function::C_Sign));
    assert_eq!(sign(&recovery, session), CkRv::DEVICE_ERROR);
    assert_eq!(module.calls(Function::C_Sign), 1);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    assert_eq!(sign(&recovery, session), CkRv::OK);
    assert_eq!(module.calls(Function::C_Sign), 2);
}

/// The list is written by hand: whatever else may be repeated, these calls must not be.
#[test]
fn what_has_effects_is_never_repeated() {
    let repeated: Vec<&str> = Function::ALL
        .iter()
        .filter(|function| may_be_repeated(**function))
        .map(|function| function.name())
        .collect();
    for name in [
        "C_Sign",
        "C_SignFinal",
        "C_SignMessage",
        "C_Login",
        "C_LoginUser",
        "C_GenerateKey",
        "C_GenerateKeyPair",
        "C_CreateObject",
        "C_CopyObject",
        "C_DestroyObject",
        "C_SetAttributeValue",
        "C_DeriveKey",
        "C_UnwrapKey",
        "C_WrapKey",
        "C_EncapsulateKey",
        "C_DecapsulateKey",
        "C_InitToken",
        "C_InitPIN",
        "C_SetPIN",
        "C_Encrypt",
        "C_Decrypt",
        "C_DigestUpdate",
        "C_FindObjects",
    ] {
        assert!(!repeated.contains(&name), "{name}");
    }
    for name in [
        "C_SignInit",
        "C_GetSlotList",
        "C_GenerateRandom",
        "C_GetAttributeValue",
    ] {
        assert!(repeated.contains(&name), "{name}");
    }
}

#[test]
fn a_pin_that_was_refused_or_not_answered_is_not_tried_again() {
    let (module, recovery, session, key) = ready();
    module.change(|state| state.pin = "4321");
    for _ in 0..3 {
        module.cut();
        assert_eq!(begin(&recovery, session, key), CkRv::USER_NOT_LOGGED_IN);
    }
    assert_eq!(module.calls(Function::C_Login), 2); // the application's, and one more
    assert_eq!(log_in(&recovery, session, "4321"), CkRv::OK);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);

    module.cut();
    module.change(|state| state.breaks_at = Some(Function::C_Login));
    assert_eq!(begin(&recovery, session, key), CkRv::USER_NOT_LOGGED_IN);
    assert_eq!(module.calls(Function::C_Login), 4);
}

#[test]
fn a_login_is_not_repeated_after_the_application_has_ended_it() {
    let (module, recovery, session, _) = ready();
    assert_eq!(recovery.call(Call::C_Logout(session)).rv(), CkRv::OK);
    module.cut();
    assert_eq!(
        recovery.call(Call::C_GetSessionInfo(session)).rv(),
        CkRv::OK
    );
    assert_eq!(module.calls(Function::C_Login), 1);

    // The login also ends with the last session.
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    assert_eq!(recovery.call(Call::C_CloseSession(session)).rv(), CkRv::OK);
    module.cut();
    let session = open(&recovery);
    assert_eq!(
        recovery.call(Call::C_GetSessionInfo(session)).rv(),
        CkRv::OK
    );
    assert_eq!(module.calls(Function::C_Login), 2);
}

#[test]
fn an_object_is_found_by_what_it_is_and_never_by_its_place() {
    // The objects after the connection was lost, and whether one of them is recognised as the key.
    let key = || private_key("key", b"n");
    let with_id = |id: &[u8]| {
        let mut attributes = key();
        attributes.push((UNIQUE_ID, id.to_vec()));
        attributes
    };
    let renamed = |mut attributes: Attributes| {
        attributes.retain(|(it, _)| *it != LABEL);
        attributes.push((LABEL, b"new name".to_vec()));
        attributes
    };
    let of_class = |class: u64, mut attributes: Attributes| {
        attributes.retain(|(it, _)| *it != CLASS);
        attributes.push((CLASS, class.to_ne_bytes().to_vec()));
        attributes
    };
    for (before, after, is_found) in [
        (
            key(),
            vec![(70, private_key("other", b"n")), (71, key())],
            true,
        ),
        // The same handle belongs to another object.
        (key(), vec![(70, private_key("key", b"another n"))], false),
        (key(), vec![(70, private_key("other", b"n"))], false),
        // Two objects match, so neither is recognised.
        (key(), vec![(70, key()), (71, key())], false),
        (key(), vec![], false),
        // The unique id distinguishes them.
        (
            with_id(b"1"),
            vec![(70, with_id(b"2")), (71, with_id(b"1"))],
            true,
        ),
        (with_id(b"1"), vec![(70, with_id(b"2"))], false),
        // The key may have a new label.
        (
            with_id(b"1"),
            vec![(70, renamed(with_id(b"1"))), (71, with_id(b"2"))],
            true,
        ),
        // But it cannot have become a certificate.
        (with_id(b"1"), vec![(70, of_class(1, with_id(b"1")))], false),
    ] {
        let module = Module::new();
        module.change(|state| state.objects = vec![(70, before)]);
        let recovery = module.recovery(true);
        let session = open(&recovery);
        assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
        let [key] = find(&recovery, session)[..] else {
            panic!("there is one key");
        };
        module.cut();
        module.change(|state| state.objects.clone_from(&after));
        let expected = if is_found {
            CkRv::OK
        } else {
            CkRv::OBJECT_HANDLE_INVALID
        };
        assert_eq!(begin(&recovery, session, key), expected, "{after:?}");
    }
}

/// Only its class is known, so any object of the class would match.
#[test]
fn an_object_without_a_name_or_public_value_is_not_guessed() {
    let module = Module::new();
    let secret = vec![(CLASS, 4u64.to_ne_bytes().to_vec()), (TOKEN, vec![1])];
    module.change(|state| state.objects = vec![(70, secret)]);
    let recovery = module.recovery(true);
    let session = open(&recovery);
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    let key = find(&recovery, session)[0];
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    module.cut();
    assert_eq!(begin(&recovery, session, key), CkRv::OBJECT_HANDLE_INVALID);
}

#[test]
fn a_token_is_found_in_another_slot_and_not_taken_for_another() {
    let (module, recovery, session, key) = ready();
    module.cut();
    module.change(|state| state.slot = 8);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    let info = ask!(&recovery, C_GetSessionInfo(session)).unwrap();
    assert_eq!(info.rv, CkRv::OK);
    // The application continues to use the slot number that it knows.
    let token = ask!(&recovery, C_GetTokenInfo(SlotId(5))).unwrap();
    assert_eq!(token.rv, CkRv::OK);

    // The same daemon shows another token with that label: it does not get the PIN.
    let logins = module.calls(Function::C_Login);
    module.cut();
    module.change(|state| state.serial = "2");
    assert_eq!(begin(&recovery, session, key), CkRv::DEVICE_REMOVED);
    assert_eq!(module.calls(Function::C_Login), logins);
    // Another daemon of the list has a copy of the token.
    module.cut();
    module.change(|state| state.daemon = 1);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    assert_eq!(module.calls(Function::C_Login), logins + 1);
}

#[test]
fn handles_that_the_application_made_up_reach_no_object() {
    let (module, recovery, session, key) = ready();
    assert_ne!(key, ObjectHandle(70));
    for invented in [ObjectHandle(70), ObjectHandle(0), ObjectHandle(u64::MAX)] {
        assert_eq!(
            begin(&recovery, session, invented),
            CkRv::OBJECT_HANDLE_INVALID
        );
    }
    let call = Call::C_GetSessionInfo(SessionHandle(1001));
    assert_eq!(recovery.call(call).rv(), CkRv::SESSION_HANDLE_INVALID);
    assert_eq!(module.calls(Function::C_SignInit), 3);
}

#[test]
fn an_object_of_the_session_is_lost_and_one_on_the_token_is_not() {
    let (module, recovery, session, _) = ready();
    let create = |on_token: u8| {
        let label = [b'0' + on_token];
        let attributes = [
            (CLASS, 4u64.to_ne_bytes().to_vec()),
            (TOKEN, vec![on_token]),
            (LABEL, label.to_vec()),
        ];
        let attributes = attributes.map(|(it, value)| Attribute::new(AttributeType(it), value));
        let template = Some(Template(attributes.to_vec()));
        ask!(&recovery, C_CreateObject(session, template))
            .unwrap()
            .object
            .unwrap()
    };
    let (passing, lasting) = (create(0), create(1));
    assert_eq!(begin(&recovery, session, passing), CkRv::OK);
    module.cut();
    assert_eq!(begin(&recovery, session, passing), CkRv::DEVICE_ERROR);
    assert_eq!(
        begin(&recovery, session, passing),
        CkRv::OBJECT_HANDLE_INVALID
    );
    assert_eq!(begin(&recovery, session, lasting), CkRv::OK);
}

#[test]
fn a_daemon_that_comes_back_in_time_is_waited_for() {
    let (module, recovery, session, key) = ready();
    module.is_down.store(true, Ordering::SeqCst);
    module.cut();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            module.is_down.store(false, Ordering::SeqCst);
        });
        assert_eq!(begin(&recovery, session, key), CkRv::OK);
    });
    // But the wait is limited.
    module.is_down.store(true, Ordering::SeqCst);
    module.cut();
    let start = Instant::now();
    assert_eq!(begin(&recovery, session, key), CkRv::DEVICE_ERROR);
    assert!(
        start.elapsed() >= Duration::from_millis(500),
        "{:?}",
        start.elapsed()
    );
    module.is_down.store(false, Ordering::SeqCst);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
}

/// The daemon answers, but its HSM is not there yet.
#[test]
fn a_module_that_cannot_start_yet_is_waited_for() {
    let (module, recovery, session, key) = ready();
    module.cut();
    module.change(|state| state.failing_starts = 3);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    assert_eq!(module.calls(Function::C_Initialize), 5);
}

#[test]
fn finalising_ends_waiting_for_a_daemon() {
    let (module, recovery, session, key) = ready();
    module.is_down.store(true, Ordering::SeqCst);
    module.cut();
    std::thread::scope(|scope| {
        let (sender, receiver) = channel();
        let recovery = &recovery;
        scope.spawn(move || sender.send(begin(recovery, session, key)));
        while module.connects.load(Ordering::SeqCst) < 3 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(recovery.finish(), Ok(()));
        let rv = receiver.recv_timeout(Duration::from_millis(500));
        assert_eq!(rv, Ok(CkRv::CRYPTOKI_NOT_INITIALIZED));
    });
    let call = Call::C_GetSessionInfo(session);
    assert_eq!(recovery.call(call).rv(), CkRv::CRYPTOKI_NOT_INITIALIZED);
}

/// Applications list many objects but use few of them.
#[test]
fn the_first_objects_of_a_search_are_looked_at_and_others_when_they_are_used() {
    let module = Module::new();
    let objects =
        |first: u64| (0..40).map(move |it| (first + it, private_key(&it.to_string(), b"n")));
    module.change(|state| state.objects = objects(70).collect());
    let recovery = module.recovery(true);
    let session = open(&recovery);
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    let begun = recovery.call(Call::C_FindObjectsInit(session, None));
    assert_eq!(begun.rv(), CkRv::OK);
    let mut found = Vec::new();
    for room in [1, 10, 20, 20] {
        let more = ask!(&recovery, C_FindObjects(session, Room::Buffer(room))).unwrap();
        found.extend(more.objects);
    }
    assert_eq!(
        recovery.call(Call::C_FindObjectsFinal(session)).rv(),
        CkRv::OK
    );
    assert_eq!(found.len(), 40);
    let asked = || module.calls(Function::C_GetAttributeValue);
    assert_eq!(asked(), 2 * 16);
    assert_eq!(begin(&recovery, session, found[30]), CkRv::OK);
    assert_eq!(begin(&recovery, session, found[30]), CkRv::OK);
    assert_eq!(asked(), 2 * 17);
    module.cut();
    module.change(|state| state.objects = objects(170).collect());
    assert_eq!(begin(&recovery, session, found[0]), CkRv::OK);
    assert_eq!(begin(&recovery, session, found[30]), CkRv::OK);
    let unknown = begin(&recovery, session, found[31]);
    assert_eq!(unknown, CkRv::OBJECT_HANDLE_INVALID);
}

#[test]
fn a_module_that_ends_at_the_first_missing_attribute_is_asked_for_each() {
    let module = Module::new();
    module.change(|state| state.is_impatient = true);
    let recovery = module.recovery(true);
    let session = open(&recovery);
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    let key = find(&recovery, session)[0];
    module.cut();
    module.change(|state| state.objects = vec![(71, private_key("key", b"another"))]);
    assert_eq!(begin(&recovery, session, key), CkRv::OBJECT_HANDLE_INVALID);
    module.change(|state| state.objects = vec![(71, private_key("key", b"n"))]);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
}

/// Each thread uses a session of its own; one connects, and one logs in.
#[test]
fn of_many_threads_one_connects_and_one_logs_in() {
    let (module, recovery, _, key) = ready();
    let sessions: Vec<_> = (0..8).map(|_| open(&recovery)).collect();
    module.cut();
    std::thread::scope(|scope| {
        for session in &sessions {
            scope.spawn(|| assert_eq!(begin(&recovery, *session, key), CkRv::OK));
        }
    });
    assert_eq!(module.connects.load(Ordering::SeqCst), 2);
    assert_eq!(module.calls(Function::C_Login), 2);
}

/// Applications open and close sessions for years, so the tables must not grow.
#[test]
fn what_is_remembered_does_not_grow_with_use() {
    let (module, recovery, session, _) = ready();
    assert_eq!(recovery.call(Call::C_CloseSession(session)).rv(), CkRv::OK);
    for round in 0..3000_u64 {
        let session = open(&recovery);
        assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
        module.change(|state| state.objects[0].0 = 1000 + round);
        assert_eq!(find(&recovery, session).len(), 1);
        assert_eq!(recovery.call(Call::C_CloseSession(session)).rv(), CkRv::OK);
    }
    let state = recovery.shared.state();
    let (sessions, objects) = state.tables.sizes();
    assert!(sessions == 0 && objects <= 1000, "{sessions} {objects}");
}

#[test]
fn a_daemon_that_ends_every_connection_is_not_asked_for_ever() {
    let (module, recovery, session, key) = ready();
    for _ in 0..2 {
        module.change(|state| state.breaks_at = Some(Function::C_SignInit));
        assert_eq!(begin(&recovery, session, key), CkRv::OK);
    }
    let connects = module.connects.load(Ordering::SeqCst);
    module.change(|state| state.always_breaks_at = Some(Function::C_SignInit));
    assert_eq!(begin(&recovery, session, key), CkRv::DEVICE_ERROR);
    let made = module.connects.load(Ordering::SeqCst) - connects;
    assert!(made <= ATTEMPTS, "{made}");
}
