//! Tests message functions: which parameters reach the module, and what it writes into them.

use cryptoki_sys::{
    CK_CCM_MESSAGE_PARAMS, CK_GCM_MESSAGE_PARAMS, CKF_DIGEST, CKF_END_OF_MESSAGE,
    CKF_MESSAGE_ENCRYPT, CKM_AES_CCM, CKM_AES_GCM,
};
use xdr::mechanism::OutputPlace;
use xdr::{Call, Input, Mechanism, Reply, Room, Use};

use super::exact_module::{EXACT, mechanism, parameter, rv, written};
use super::{CkRv, Cryptoki, Flags, ObjectHandle, SessionHandle, SlotId, TOLD, TOLD_NULL};

/// The parameter of a message with room for an IV of 12 bytes and a tag of 16.
fn gcm() -> (Mechanism, Vec<OutputPlace>) {
    let (mut iv, mut tag) = ([0; 12], [0; 16]);
    let mut structure = CK_GCM_MESSAGE_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: 12,
        ulIvFixedBits: 0,
        ivGenerator: 1, // CKG_GENERATE
        pTag: tag.as_mut_ptr(),
        ulTagBits: 128,
    };
    iv.as_mut_ptr().expose_provenance();
    tag.as_mut_ptr().expose_provenance();
    parameter(CKM_AES_GCM, Use::Message, &mut structure)
}

/// A parameter with a number of the client where CK_GCM_MESSAGE_PARAMS has a pointer.
fn ccm() -> Mechanism {
    let mut structure = CK_CCM_MESSAGE_PARAMS {
        ulDataLen: 0x4141,
        ..Default::default()
    };
    parameter(CKM_AES_CCM, Use::Message, &mut structure).0
}

fn open(slot: u64) -> SessionHandle {
    let call = Call::C_OpenSession(SlotId(slot), Flags(4), false);
    let result = result!(C_OpenSession, EXACT.call(call));
    assert_eq!(result.rv, CkRv::OK);
    result.session
}

fn init(session: SessionHandle, number: u64, key: u64) -> CkRv {
    let mechanism = Some(mechanism(number));
    let call = Call::C_MessageEncryptInit(session, mechanism, ObjectHandle(key));
    EXACT.call(call).rv()
}

fn encrypt(session: SessionHandle, parameter: Mechanism) -> CkRv {
    let (aad, text) = (Input::Bytes(b"aad"), Input::Bytes(b"text"));
    let call = Call::C_EncryptMessage(session, parameter, aad, text, Room::Buffer(9));
    EXACT.call(call).rv()
}

#[test]
fn a_message_brings_back_what_the_module_wrote_into_its_parameter() {
    let session = open(101);
    assert_eq!(init(session, CKM_AES_GCM, 1), CkRv::OK);
    let (parameter, places) = gcm();
    let (aad, text) = (Input::Bytes(b"aad"), Input::Bytes(b"text"));
    let encrypt = |room| {
        let call = Call::C_EncryptMessage(session, parameter.clone(), aad, text, room);
        result!(C_EncryptMessage, EXACT.call(call))
    };
    let result = encrypt(Room::Buffer(9));
    assert_eq!(
        (result.rv, result.data.to_vec()),
        (CkRv::OK, b"text".to_vec())
    );
    let written = written(&result.written, &places);
    assert_eq!(written, [vec![b'I'; 12], vec![b'T'; 16]]);
    let result = encrypt(Room::Buffer(3));
    assert_eq!((result.rv, result.length.0), (CkRv::BUFFER_TOO_SMALL, 4));
}

/// The module aborts or answers TOLD_WRONG when it is called with another parameter than it expects.
#[test]
fn a_parameter_of_another_mechanism_reaches_no_module() {
    let (good, wrong) = (|| gcm().0, ccm);
    let none = CkRv::OPERATION_NOT_INITIALIZED;
    let session = open(102);
    assert_eq!(encrypt(session, good()), none);
    assert_eq!(init(session, CKM_AES_GCM, 9), CkRv::KEY_HANDLE_INVALID);
    assert_eq!(encrypt(session, good()), none);
    assert_eq!(init(session, CKM_AES_GCM, 1), CkRv::OK);
    assert_eq!(encrypt(session, good()), CkRv::OK);
    assert_eq!(encrypt(session, wrong()), CkRv::ARGUMENTS_BAD);
    let none_at_all = mechanism(CKM_AES_CCM);
    assert_eq!(encrypt(session, none_at_all), CkRv::ARGUMENTS_BAD);
    // An Init that fails changes nothing.
    assert_eq!(init(session, CKM_AES_CCM, 1), CkRv::OPERATION_ACTIVE);
    assert_eq!(encrypt(session, wrong()), CkRv::ARGUMENTS_BAD);
    assert_eq!(encrypt(session, good()), CkRv::OK);
    // Other directions and other sessions are other operations.
    let sign = Call::C_SignMessageBegin(session, good());
    assert_eq!(EXACT.call(sign).rv(), CkRv::FUNCTION_NOT_SUPPORTED);
    let (data, signature) = (Input::Bytes(b"data"), Input::NULL);
    let verify = || Call::C_VerifyMessageNext(session, good(), data, signature);
    assert_eq!(EXACT.call(verify()).rv(), none);
    assert_eq!(encrypt(open(102), good()), none);
    let invalid = CkRv::SESSION_HANDLE_INVALID;
    assert_eq!(encrypt(SessionHandle(5000), good()), invalid);

    let begin = Call::C_MessageVerifyInit(session, Some(mechanism(CKM_AES_GCM)), ObjectHandle(1));
    assert_eq!(EXACT.call(begin).rv(), CkRv::OK);
    assert_eq!(rv(&EXACT, verify()), TOLD | TOLD_NULL | 0x400);
    let next = |room, flags| {
        Call::C_EncryptMessageNext(session, good(), Input::Bytes(b"part"), room, Flags(flags))
    };
    let end = CKF_END_OF_MESSAGE;
    assert_eq!(rv(&EXACT, next(Room::Buffer(4), end)), TOLD | 0x401);
    assert_eq!(
        rv(&EXACT, next(Room::QUESTION, 0)),
        TOLD | TOLD_NULL | 0x400
    );
}

#[test]
fn an_operation_is_forgotten_when_it_ends() {
    let good = || gcm().0;
    let none = CkRv::OPERATION_NOT_INITIALIZED;
    let ended = |slot, call: &dyn Fn(SessionHandle) -> Call<'static>, expected: CkRv| {
        let session = open(slot);
        assert_eq!(init(session, CKM_AES_GCM, 1), CkRv::OK);
        let call = call(session);
        let name = format!("{call:?}");
        assert_eq!(EXACT.call(call).rv(), CkRv::OK, "{name}");
        assert_eq!(encrypt(session, good()), expected, "{name}");
    };
    ended(103, &Call::C_MessageEncryptFinal, none);
    let cancel = |flags| move |session| Call::C_SessionCancel(session, Flags(flags));
    ended(103, &cancel(CKF_MESSAGE_ENCRYPT | CKF_DIGEST), none);
    let null = |session| Call::C_MessageEncryptInit(session, None, ObjectHandle(0));
    ended(103, &null, none);
    // The restored operation may have another mechanism.
    let restore =
        |session| Call::C_SetOperationState(session, Input::NULL, ObjectHandle(0), ObjectHandle(0));
    ended(103, &restore, none);
    // A restoration that fails ends nothing.
    let session = open(107);
    assert_eq!(init(session, CKM_AES_GCM, 1), CkRv::OK);
    let state = Input::Bytes(b"no state.");
    let restore = Call::C_SetOperationState(session, state, ObjectHandle(0), ObjectHandle(0));
    assert_eq!(EXACT.call(restore).rv(), CkRv::SAVED_STATE_INVALID);
    assert_eq!(encrypt(session, good()), CkRv::OK);

    let invalid = CkRv::SESSION_HANDLE_INVALID;
    ended(103, &Call::C_CloseSession, invalid);
    ended(104, &|_| Call::C_CloseAllSessions(SlotId(104)), invalid);

    // The operations of sessions of other slots go on.
    let session = open(105);
    assert_eq!(init(session, CKM_AES_GCM, 1), CkRv::OK);
    EXACT.call(Call::C_CloseAllSessions(SlotId(104)));
    assert_eq!(encrypt(session, good()), CkRv::OK);
}

/// A parameter that belongs to another use of the mechanism is another structure.
#[test]
fn a_structure_of_another_use_reaches_no_module() {
    let session = open(106);
    let message = gcm().0;
    let call = Call::C_WrapKeyAuthenticated(
        session,
        Some(message),
        ObjectHandle(1),
        ObjectHandle(2),
        Input::NULL,
        Room::Buffer(9),
    );
    assert_eq!(EXACT.call(call).rv(), CkRv::MECHANISM_PARAM_INVALID);
}
