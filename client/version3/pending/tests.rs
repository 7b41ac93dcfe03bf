//! Tests the two-call convention over version 3, against a daemon that executes operations as the original's does.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use xdr::{
    Architecture, Call, Cryptoki, Flags, Input, Mechanism, MechanismType, ObjectHandle, Reply, Room,
};

use super::Pending;
use crate::fake::{self, FakeLibrary, Module};
use crate::version3::output_of;
use xdr::{CkRv, Function, NullPlaces, SessionHandle, SlotId};

const SLOT: SlotId = SlotId(1);

/// The result that the application gets.
#[derive(Debug, PartialEq)]
enum Answer {
    Size(u64),
    TooSmall(u64),
    Whole(Vec<u8>),
}

type Outcome = Result<Answer, CkRv>;

fn with_module() -> (FakeLibrary, Arc<Module>) {
    let module = Arc::new(Module::default());
    let behind = module.clone();
    let library = fake::library_of_version3(move |call| behind.call(call));
    (library, module)
}

fn open(library: &FakeLibrary) -> SessionHandle {
    open_at(library, SLOT)
}

fn open_at(library: &FakeLibrary, slot: SlotId) -> SessionHandle {
    let session = library.open_session(slot, Flags(4), None, NullPlaces::NONE);
    session.expect("the module opens any number")
}

fn mechanism(parameter: &[u8]) -> Option<Mechanism> {
    Some(Mechanism::laid_out(
        MechanismType(0x250),
        parameter.to_vec(),
        Architecture::host(),
    ))
}

fn init(library: &FakeLibrary, session: SessionHandle) -> Result<(), CkRv> {
    library.only(Call::C_DigestInit(session, mechanism(&[])))
}

fn update(library: &FakeLibrary, session: SessionHandle, part: &[u8]) {
    let call = Call::C_DigestUpdate(session, Input::Bytes(part));
    assert_eq!(library.only(call), Ok(()));
}

fn room(room: Option<u64>) -> Room {
    room.map_or(Room::QUESTION, Room::Buffer)
}

fn run(library: &FakeLibrary, call: Call<'_>) -> Outcome {
    let room = call.room();
    let mut reply: Reply = library.call(call);
    let output = output_of(&mut reply).map(|(rv, length, data)| (*rv, length, data));
    match (output, room) {
        (Some((CkRv::OK, length, data)), Some(Room::Buffer(room))) => {
            assert!(data.len() as u64 == length.0 && length.0 <= room);
            Ok(Answer::Whole(data.to_vec()))
        }
        (Some((CkRv::OK, length, data)), _) if data.is_empty() => Ok(Answer::Size(length.0)),
        (Some((CkRv::BUFFER_TOO_SMALL, length, data)), Some(Room::Buffer(_))) => {
            assert!(data.is_empty());
            Ok(Answer::TooSmall(length.0))
        }
        _ => Err(reply.rv()),
    }
}

fn digest(
    library: &FakeLibrary,
    session: SessionHandle,
    input: &[u8],
    size: Option<u64>,
) -> Outcome {
    run(
        library,
        Call::C_Digest(session, Input::Bytes(input), room(size)),
    )
}

fn digest_final(library: &FakeLibrary, session: SessionHandle, size: Option<u64>) -> Outcome {
    run(library, Call::C_DigestFinal(session, room(size)))
}

fn close(library: &FakeLibrary, session: SessionHandle) {
    assert_eq!(library.only(Call::C_CloseSession(session)), Ok(()));
}

/// Returns the answer of the fake module.
fn whole(function: Function, bytes: &[u8]) -> Outcome {
    Ok(Answer::Whole([&[function.number() as u8], bytes].concat()))
}

#[test]
fn size_then_too_small_then_all_with_one_call() {
    let (library, module) = with_module();
    let session = open(&library);
    init(&library, session).unwrap();
    assert_eq!(digest(&library, session, b"abc", None), Ok(Answer::Size(4)));
    assert_eq!(digest(&library, session, b"abc", None), Ok(Answer::Size(4)));
    assert_eq!(
        digest(&library, session, b"abc", Some(3)),
        Ok(Answer::TooSmall(4))
    );
    let all = digest(&library, session, b"abc", Some(4));
    assert_eq!(all, whole(Function::C_Digest, b"abc"));
    let digests = module.calls();
    let digests = digests.iter().filter(|call| **call == Function::C_Digest);
    assert_eq!(digests.count(), 1);
    // The operation is over.
    assert_eq!(
        digest(&library, session, b"abc", Some(4)),
        Err(CkRv::OPERATION_NOT_INITIALIZED)
    );
}

#[test]
fn a_buffer_that_is_too_small_at_first_loses_nothing() {
    let (library, _) = with_module();
    let session = open(&library);
    init(&library, session).unwrap();
    assert_eq!(
        digest(&library, session, b"abc", Some(0)),
        Ok(Answer::TooSmall(4))
    );
    let all = digest(&library, session, b"abc", Some(100));
    assert_eq!(all, whole(Function::C_Digest, b"abc"));
}

/// In the original, a result outlives its session.
#[test]
fn nothing_is_fetched_after_the_session_was_closed() {
    let (library, _) = with_module();
    let session = open(&library);
    init(&library, session).unwrap();
    digest(&library, session, b"abc", None).unwrap();
    close(&library, session);
    assert_eq!(
        digest(&library, session, b"abc", Some(9)),
        Err(CkRv::OPERATION_NOT_INITIALIZED)
    );
}

#[test]
fn closing_all_sessions_drops_the_results_of_that_slot_only() {
    let (library, _) = with_module();
    let here = open(&library);
    let there = open_at(&library, SlotId(2));
    for session in [here, there] {
        init(&library, session).unwrap();
        digest(&library, session, b"abc", None).unwrap();
    }
    library.only(Call::C_CloseAllSessions(SLOT)).unwrap();
    assert_eq!(
        digest(&library, here, b"abc", Some(9)),
        Err(CkRv::OPERATION_NOT_INITIALIZED)
    );
    assert_eq!(
        digest(&library, there, b"abc", Some(9)),
        whole(Function::C_Digest, b"abc")
    );
}

/// In the original, a reused handle inherits the results of the earlier session.
#[test]
fn a_handle_that_comes_again_inherits_nothing() {
    let mut sessions = Pending::default();
    let session = SessionHandle(1);
    sessions.opened(session, SLOT);
    let number = sessions.number(session);
    let keep = |sessions: &mut Pending| {
        let kept = sessions.keep((session, number), Function::C_Digest, b"abc", vec![1]);
        kept.unwrap();
        sessions.answer(session, Function::C_DigestInit, &[], None)
    };
    let is_active = keep(&mut sessions);
    assert!(matches!(is_active, Some(Err(CkRv::OPERATION_ACTIVE))));
    sessions.opened(session, SLOT);
    let init = sessions.answer(session, Function::C_DigestInit, &[], None);
    assert!(init.is_none());
    // The reply to a call of the earlier session comes late.
    assert!(keep(&mut sessions).is_none());
}

/// In the original, the digest of an abandoned operation is returned.
#[test]
fn a_final_result_that_was_not_fetched_is_not_given_for_another_operation() {
    let (library, _) = with_module();
    let session = open(&library);
    init(&library, session).unwrap();
    update(&library, session, b"a");
    assert_eq!(digest_final(&library, session, None), Ok(Answer::Size(2)));
    // For the application, the operation is still active.
    assert_eq!(init(&library, session), Err(CkRv::OPERATION_ACTIVE));
    assert_eq!(
        library.only(Call::C_DigestUpdate(session, Input::Bytes(b"b"))),
        Err(CkRv::OPERATION_ACTIVE)
    );
    // That error ended the operation.
    init(&library, session).unwrap();
    update(&library, session, b"b");
    assert_eq!(
        digest_final(&library, session, Some(9)),
        whole(Function::C_DigestFinal, b"b")
    );
}

/// The original compares the address of the input, not its content.
#[test]
fn a_result_is_given_for_the_same_content_wherever_it_lies_and_for_no_other() {
    let (library, _) = with_module();
    let session = open(&library);
    init(&library, session).unwrap();
    let mut input = b"old".to_vec();
    digest(&library, session, &input, None).unwrap();
    let elsewhere = input.clone();
    assert_eq!(
        digest(&library, session, &elsewhere, None),
        Ok(Answer::Size(4))
    );
    input.copy_from_slice(b"new");
    assert_eq!(
        digest(&library, session, &input, Some(9)),
        Err(CkRv::OPERATION_ACTIVE)
    );
    // The session is not blocked.
    init(&library, session).unwrap();
    assert_eq!(
        digest(&library, session, b"new", Some(9)),
        whole(Function::C_Digest, b"new")
    );
}

/// In the original, another part at the same address gets the result of the part before.
#[test]
fn a_part_waits_until_it_is_fetched() {
    let (library, _) = with_module();
    let session = open(&library);
    let encrypt = |part: &[u8], size| {
        let call = Call::C_EncryptUpdate(session, Input::Bytes(part), room(size));
        run(&library, call)
    };
    assert_eq!(encrypt(b"one", None), Ok(Answer::Size(4)));
    assert_eq!(encrypt(b"two", Some(9)), Err(CkRv::OPERATION_ACTIVE));
    let call = Call::C_EncryptFinal(session, Room::Buffer(9));
    assert_eq!(run(&library, call), Err(CkRv::OPERATION_ACTIVE));
    assert_eq!(
        encrypt(b"one", Some(9)),
        whole(Function::C_EncryptUpdate, b"one")
    );
    assert_eq!(
        encrypt(b"two", Some(9)),
        whole(Function::C_EncryptUpdate, b"two")
    );
}

#[test]
fn a_dual_function_counts_for_both_its_families() {
    let (library, _) = with_module();
    let session = open(&library);
    init(&library, session).unwrap();
    let call = |size| Call::C_DigestEncryptUpdate(session, Input::Bytes(b"part"), room(size));
    let asked = run(&library, call(None));
    assert_eq!(asked, Ok(Answer::Size(5)));
    assert_eq!(
        digest_final(&library, session, Some(9)),
        Err(CkRv::OPERATION_ACTIVE)
    );
    let fetched = run(&library, call(Some(9)));
    assert_eq!(fetched, whole(Function::C_DigestEncryptUpdate, b"part"));
    assert_eq!(
        digest_final(&library, session, Some(9)),
        whole(Function::C_DigestFinal, b"part")
    );
}

/// In the original the wrapped value of one key is returned for another.
#[test]
fn a_wrapped_key_is_given_for_the_same_keys_and_mechanism_only() {
    let (library, module) = with_module();
    let session = open(&library);
    let wrap = |parameter: &[u8], with, key, size| {
        let (with, key) = (ObjectHandle(with), ObjectHandle(key));
        let call = Call::C_WrapKey(session, mechanism(parameter), with, key, room(size));
        run(&library, call)
    };
    let asked = [(&b"p"[..], 1, 2), (b"p", 1, 3), (b"p", 4, 2), (b"q", 1, 2)];
    for (parameter, with, key) in asked {
        assert_eq!(wrap(b"p", 1, 2, None), Ok(Answer::Size(4)));
        let all = [parameter, &[with as u8, key as u8]].concat();
        assert_eq!(
            wrap(parameter, with, key, Some(9)),
            whole(Function::C_WrapKey, &all)
        );
    }
    let wraps = module.calls();
    let wraps = wraps.iter().filter(|call| **call == Function::C_WrapKey);
    assert_eq!(wraps.count(), 1 + 2 + 2 + 2);
}

/// In the original the state of the size query is returned after the operation has moved on.
#[test]
fn an_operation_state_is_of_the_moment_it_is_fetched() {
    let (library, _) = with_module();
    let session = open(&library);
    init(&library, session).unwrap();
    update(&library, session, b"a");
    let state = |size| run(&library, Call::C_GetOperationState(session, room(size)));
    assert_eq!(state(None), Ok(Answer::Size(2)));
    update(&library, session, b"b");
    assert_eq!(state(Some(9)), whole(Function::C_GetOperationState, b"ab"));
}

/// In the original the second of three results is lost.
#[test]
fn any_number_of_sessions_can_have_results_waiting() {
    let (library, _) = with_module();
    let sessions: Vec<_> = (0..100).map(|_| open(&library)).collect();
    for session in &sessions {
        init(&library, *session).unwrap();
        let input = session.0.to_be_bytes();
        assert_eq!(
            digest(&library, *session, &input, None),
            Ok(Answer::Size(9))
        );
    }
    for session in &sessions {
        let input = session.0.to_be_bytes();
        assert_eq!(
            digest(&library, *session, &input, Some(9)),
            whole(Function::C_Digest, &input)
        );
    }
}

#[test]
fn families_do_not_hinder_each_other() {
    let (library, _) = with_module();
    let session = open(&library);
    init(&library, session).unwrap();
    digest(&library, session, b"abc", None).unwrap();
    let call = Call::C_EncryptUpdate(session, Input::Bytes(b"part"), Room::Buffer(9));
    let encrypted = run(&library, call);
    assert_eq!(encrypted, whole(Function::C_EncryptUpdate, b"part"));
    assert_eq!(
        digest(&library, session, b"abc", Some(9)),
        whole(Function::C_Digest, b"abc")
    );
}

#[test]
fn finalising_and_losing_the_connection_drop_everything() {
    for finalise in [true, false] {
        let (library, _) = with_module();
        let session = open(&library);
        init(&library, session).unwrap();
        digest(&library, session, b"abc", None).unwrap();
        if finalise {
            library.finish().unwrap();
        } else {
            library.module().remote().lost.store(true, Ordering::SeqCst);
            let _ = library.only(Call::C_Logout(session));
        }
        assert_eq!(
            digest(&library, session, b"abc", Some(9)),
            Err(CkRv::OPERATION_NOT_INITIALIZED)
        );
    }
}
