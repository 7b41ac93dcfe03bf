//! Tests that calls of version 4 carry exactly what the application passed, and that outputs are exactly what the
//! module wrote.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex};

use cryptoki_sys::*;
use xdr::{
    Answer, Answers, AttributeType, AttributesResult, Call, CkRv, Found, Input, KeyPairResult,
    KeyResult, MechanismListResult, ObjectHandle, ObjectListResult, OutputResult, Query, Reply,
    Room, SlotId, SlotListResult, Template, Ulong, Value, WantedRoom,
};

use crate::daemon::{Act, Daemon};
use crate::harness::{Loaded, initialized, run};

fn input(input: &Input<'_>) -> String {
    match input {
        Input::Null { length } => format!("NULL/{length}"),
        Input::NullOrEmpty => "NULL or empty".to_owned(),
        Input::Bytes(bytes) => format!("{bytes:?}"),
    }
}

fn room(room: &Room) -> String {
    match room {
        Room::Unbounded => "unbounded".to_owned(),
        Room::NoLength => "no length".to_owned(),
        Room::Null { length } => format!("NULL/{length}"),
        Room::Buffer(room) => format!("room/{room}"),
    }
}

fn template(template: &Template) -> String {
    let attribute = |attribute: &xdr::Attribute| {
        let value = match &attribute.value {
            Value::Null { length } => format!("NULL/{length}"),
            Value::Bytes(bytes) => format!("{bytes:?}"),
            Value::Template(nested) => self::template(nested),
        };
        format!("{:#x}={value}", attribute.attribute_type.0)
    };
    let attributes: Vec<String> = template.0.iter().map(attribute).collect();
    format!("{{{}}}", attributes.join(", "))
}

fn query(query: &Query) -> String {
    let wanted = |wanted: &xdr::Wanted| {
        let room = match &wanted.room {
            WantedRoom::Null { length } => format!("NULL/{length}"),
            WantedRoom::Buffer { room, .. } => format!("room/{room}"),
            WantedRoom::Template(nested) => self::query(nested),
        };
        format!("{:#x}={room}", wanted.attribute_type.0)
    };
    let wanted: Vec<String> = query.0.iter().map(wanted).collect();
    format!("{{{}}}", wanted.join(", "))
}

fn or_null<T>(value: &Option<T>, describe: fn(&T) -> String) -> String {
    value.as_ref().map_or("NULL".to_owned(), describe)
}

/// Describes a call in words; `None` for the calls that every connection makes.
fn describe(call: &Call<'_>) -> Option<String> {
    let name = call.function().name();
    let arguments = match call {
        Call::C_Login(_, _, pin) | Call::C_InitPIN(_, pin) => input(pin),
        Call::C_LoginUser(_, _, pin, name) => format!("{}, {}", input(pin), input(name)),
        Call::C_SetPIN(_, old, new) => format!("{}, {}", input(old), input(new)),
        Call::C_InitToken(_, pin, label) => format!("{}, {}", input(pin), input(label)),
        Call::C_DigestUpdate(_, part) | Call::C_SeedRandom(_, part) => input(part),
        Call::C_Verify(_, data, signature) => format!("{}, {}", input(data), input(signature)),
        Call::C_Encrypt(_, data, place) | Call::C_Digest(_, data, place) => {
            format!("{}, {}", input(data), room(place))
        }
        Call::C_EncryptFinal(_, place)
        | Call::C_DigestFinal(_, place)
        | Call::C_GenerateRandom(_, place)
        | Call::C_FindObjects(_, place)
        | Call::C_GetSlotList(_, place)
        | Call::C_GetMechanismList(_, place) => room(place),
        Call::C_DigestInit(_, mechanism) => match mechanism {
            Some(mechanism) => format!("{mechanism:?}"),
            None => "NULL".to_owned(),
        },
        Call::C_CreateObject(_, values)
        | Call::C_FindObjectsInit(_, values)
        | Call::C_SetAttributeValue(_, _, values) => or_null(values, template),
        Call::C_GetAttributeValue(_, _, wanted) => or_null(wanted, query),
        Call::C_OpenSession(_, _, notify) => format!("{notify}"),
        Call::C_Initialize(flags) => format!("{}", flags.0),
        _ => return None,
    };
    Some(format!("{name}: {arguments}"))
}

/// Starts a daemon that records the calls that `describe` describes, and answers CKR_OK and nothing else.
fn noting() -> (Daemon, Arc<Mutex<Vec<String>>>) {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = calls.clone();
    let daemon = Daemon::start(move |call| {
        noted.lock().expect("no panic").extend(describe(call));
        None
    });
    (daemon, calls)
}

#[test]
fn null_and_empty_and_rooms_arrive_as_they_were_passed() {
    let (daemon, calls) = noting();
    run("exact_arguments", &daemon);
    let expected = [
        "C_Initialize: 0",
        "C_InitToken: NULL/9, NULL/32",
        "C_InitToken: [], [32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, \
         32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32]",
        "C_InitPIN: NULL/9",
        "C_InitPIN: []",
        "C_SetPIN: NULL/0, [1]",
        "C_Login: NULL/4",
        "C_Login: [1]",
        "C_LoginUser: NULL/0, [1]",
        "C_LoginUser: [], NULL/2",
        "C_DigestUpdate: NULL/0",
        "C_DigestUpdate: NULL/1",
        "C_DigestUpdate: []",
        "C_SeedRandom: [1]",
        "C_Verify: NULL/1, []",
        "C_Encrypt: NULL/1, no length",
        "C_Encrypt: [], NULL/77",
        "C_Encrypt: [1], room/0",
        "C_EncryptFinal: no length",
        "C_EncryptFinal: room/5",
        "C_GenerateRandom: NULL/3",
        "C_GenerateRandom: room/0",
        "C_FindObjects: no length",
        "C_FindObjects: NULL/3",
        "C_FindObjects: room/0",
        "C_GetSlotList: no length",
        "C_GetSlotList: NULL/77",
        "C_GetMechanismList: room/0",
        "C_DigestInit: NULL",
        "C_DigestInit: CKM_SHA256, NULL with length 5",
        "C_DigestInit: CKM_SHA256, 0 bytes",
        "C_DigestInit: CKM_RSA_PKCS, 99 bytes",
        "C_CreateObject: NULL",
        "C_CreateObject: {}",
        "C_FindObjectsInit: NULL",
        "C_SetAttributeValue: NULL",
        "C_SetAttributeValue: {0x3=NULL/4, 0x3=[], 0x3=[1], 0x0=[]}",
        "C_GetAttributeValue: NULL",
        "C_GetAttributeValue: {}",
        "C_OpenSession: false",
        "C_OpenSession: true",
        "C_OpenSession: false",
        "C_CreateObject: NULL",
    ];
    // An input that is too long is not sent, and ends its operation.
    let ending = ["C_DigestFinal: room/1048576", "C_Digest: [], room/1048576"];
    let expected = [&expected[..], &ending.repeat(4)].concat();
    assert_eq!(*calls.lock().expect("no panic"), expected);
}

fn attribute(kind: CK_ATTRIBUTE_TYPE, value: *mut c_void, length: usize) -> CK_ATTRIBUTE {
    CK_ATTRIBUTE {
        type_: kind,
        pValue: value,
        ulValueLen: length as CK_ULONG,
    }
}

pub fn exact_arguments() {
    let loaded = initialized();
    let mut byte = 1u8;
    let byte = &raw mut byte;
    let mut number: CK_ULONG = 77;
    let number = &raw mut number;
    let set = |value: CK_ULONG| {
        // SAFETY: `number` is a variable of this function.
        unsafe { number.write(value) };
        number
    };
    let mechanism = |kind, parameter, length| CK_MECHANISM {
        mechanism: kind,
        pParameter: parameter,
        ulParameterLen: length,
    };
    unsafe extern "C" fn notify(_: CK_SESSION_HANDLE, _: CK_NOTIFICATION, _: *mut c_void) -> CK_RV {
        CKR_OK
    }
    let label = [b' '; 32].as_mut_ptr();
    let mut values = [
        attribute(CKA_LABEL, null_mut(), 4),
        attribute(CKA_LABEL, byte.cast(), 0),
        attribute(CKA_LABEL, byte.cast(), 1),
        attribute(CKA_CLASS, byte.cast(), usize::MAX),
    ];
    let values = values.as_mut_ptr();
    let rvs = [
        call!(loaded.C_InitToken(0, null_mut(), 9, null_mut())),
        call!(loaded.C_InitToken(0, byte, 0, label)),
        call!(loaded.C_InitPIN(1, null_mut(), 9)),
        call!(loaded.C_InitPIN(1, byte, 0)),
        call!(loaded.C_SetPIN(1, null_mut(), 0, byte, 1)),
        call!(loaded.C_Login(1, 1, null_mut(), 4)),
        call!(loaded.C_Login(1, 1, byte, 1)),
        call!(loaded.C_LoginUser(1, 1, null_mut(), 0, byte, 1)),
        call!(loaded.C_LoginUser(1, 1, byte, 0, null_mut(), 2)),
        call!(loaded.C_DigestUpdate(1, null_mut(), 0)),
        call!(loaded.C_DigestUpdate(1, null_mut(), 1)),
        call!(loaded.C_DigestUpdate(1, byte, 0)),
        call!(loaded.C_SeedRandom(1, byte, 1)),
        call!(loaded.C_Verify(1, null_mut(), 1, byte, 0)),
        call!(loaded.C_Encrypt(1, null_mut(), 1, byte, null_mut())),
        call!(loaded.C_Encrypt(1, byte, 0, null_mut(), set(77))),
        call!(loaded.C_Encrypt(1, byte, 1, byte, set(0))),
        call!(loaded.C_EncryptFinal(1, byte, null_mut())),
        call!(loaded.C_EncryptFinal(1, byte, set(5))),
        call!(loaded.C_GenerateRandom(1, null_mut(), 3)),
        call!(loaded.C_GenerateRandom(1, byte, 0)),
        call!(loaded.C_FindObjects(1, number, 1, null_mut())),
        call!(loaded.C_FindObjects(1, null_mut(), 3, number)),
        call!(loaded.C_FindObjects(1, byte.cast(), 0, number)),
        call!(loaded.C_GetSlotList(1, number, null_mut())),
        call!(loaded.C_GetSlotList(1, null_mut(), set(77))),
        call!(loaded.C_GetMechanismList(1, byte.cast(), set(0))),
        call!(loaded.C_DigestInit(1, null_mut())),
        call!(loaded.C_DigestInit(1, &mut mechanism(CKM_SHA256, null_mut(), 5))),
        call!(loaded.C_DigestInit(1, &mut mechanism(CKM_SHA256, byte.cast(), 0))),
        // Some applications pass garbage there.
        call!(loaded.C_DigestInit(1, &mut mechanism(CKM_RSA_PKCS, 8 as *mut c_void, 99))),
        call!(loaded.C_CreateObject(1, null_mut(), 0, number)),
        call!(loaded.C_CreateObject(1, values, 0, number)),
        call!(loaded.C_FindObjectsInit(1, null_mut(), 0)),
        call!(loaded.C_SetAttributeValue(1, 2, null_mut(), 0)),
        call!(loaded.C_SetAttributeValue(1, 2, values, 4)),
        call!(loaded.C_GetAttributeValue(1, 2, null_mut(), 0)),
        call!(loaded.C_GetAttributeValue(1, 2, values, 0)),
        call!(loaded.C_OpenSession(0, 4, null_mut(), None, number)),
        call!(loaded.C_OpenSession(0, 4, null_mut(), Some(notify), number)),
    ];
    assert_eq!(rvs, [CKR_OK; 40]);

    // If the place of a single value is NULL, nothing is written.
    let placeless = [
        call!(loaded.C_GetInfo(null_mut())),
        call!(loaded.C_GetSessionInfo(1, null_mut())),
        call!(loaded.C_OpenSession(0, 4, null_mut(), None, null_mut())),
        call!(loaded.C_CreateObject(1, null_mut(), 0, null_mut())),
        call!(loaded.C_GetObjectSize(1, 2, null_mut())),
        call!(loaded.C_WaitForSlotEvent(1, null_mut(), null_mut())),
    ];
    assert_eq!(placeless, [CKR_OK; 6]);

    // These are never sent: the protocol has no form for them, or no record can carry them.
    let refused = [
        call!(loaded.C_CreateObject(1, null_mut(), 1, number)),
        call!(loaded.C_GetAttributeValue(1, 2, null_mut(), 1)),
        call!(loaded.C_WaitForSlotEvent(1, number, byte.cast())),
    ];
    assert_eq!(refused, [CKR_ARGUMENTS_BAD; 3]);
    for length in [0xffff_ffff, CK_ULONG::MAX - 1, CK_ULONG::MAX] {
        let mut value = attribute(CKA_LABEL, byte.cast(), length as usize);
        assert_eq!(
            call!(loaded.C_CreateObject(1, &mut value, 1, number)),
            CKR_ATTRIBUTE_VALUE_INVALID
        );
        assert_eq!(
            call!(loaded.C_DigestUpdate(1, byte, length)),
            CKR_DATA_LEN_RANGE
        );
    }
    // Longer than the daemon accepts (1 MiB), as its reply to C_SetupArch says.
    let mut long = vec![0u8; 2 << 20];
    assert_eq!(
        call!(loaded.C_DigestUpdate(1, long.as_mut_ptr(), 2 << 20)),
        CKR_DATA_LEN_RANGE
    );
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
}

#[test]
fn threads_are_allowed_by_the_flag_or_by_mutex_functions() {
    let (daemon, calls) = noting();
    run("exact_threads", &daemon);
    let expected = [
        "C_Initialize: 0",
        "C_Initialize: 0",
        "C_Initialize: 2",
        "C_Initialize: 2",
    ];
    assert_eq!(*calls.lock().expect("no panic"), expected);
}

pub fn exact_threads() {
    unsafe extern "C" fn create(_: *mut *mut c_void) -> CK_RV {
        CKR_OK
    }
    unsafe extern "C" fn other(_: *mut c_void) -> CK_RV {
        CKR_OK
    }
    let loaded = Loaded::new();
    let initialize = |arguments: *mut CK_C_INITIALIZE_ARGS| {
        assert_eq!(call!(loaded.C_Initialize(arguments.cast())), CKR_OK);
        assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
    };
    initialize(null_mut());
    let mut arguments = CK_C_INITIALIZE_ARGS::default();
    initialize(&mut arguments);
    arguments.flags = CKF_OS_LOCKING_OK;
    initialize(&mut arguments);
    arguments.flags = 0;
    arguments.CreateMutex = Some(create);
    arguments.DestroyMutex = Some(other);
    arguments.LockMutex = Some(other);
    arguments.UnlockMutex = Some(other);
    initialize(&mut arguments);
}

/// The output of the module depends on the number of the session.
#[test]
fn outputs_are_what_the_module_left() {
    let daemon = Daemon::start(|call| {
        let session = call.session().map_or(0, |session| session.0);
        let rv = |rvs: [CkRv; 3]| rvs[session as usize % 3];
        let rv = rv([CkRv::OK, CkRv::BUFFER_TOO_SMALL, CkRv::DATA_LEN_RANGE]);
        let lengths = [2, 9, 4, 0, 9, 0];
        let length = Ulong(lengths[session as usize % 6]);
        let data = match session {
            0 => vec![7, 7],
            _ => Vec::new(),
        };
        let handle = |number| (session < 2).then_some(ObjectHandle(number));
        Some(Act::Answer(Box::new(match call {
            Call::C_EncryptFinal(..) => Reply::C_EncryptFinal(OutputResult {
                rv,
                length,
                data: data.into(),
            }),
            Call::C_FindObjects(..) => Reply::C_FindObjects(ObjectListResult {
                rv,
                objects: data.iter().map(|_| ObjectHandle(7)).collect(),
                count: length,
            }),
            Call::C_GetSlotList(..) => Reply::C_GetSlotList(SlotListResult {
                rv: CkRv::OK,
                slots: vec![SlotId(5)],
                count: Ulong(1),
            }),
            Call::C_GetMechanismList(..) => Reply::C_GetMechanismList(MechanismListResult {
                rv: CkRv::BUFFER_TOO_SMALL,
                mechanisms: Vec::new(),
                count: Ulong(70),
            }),
            Call::C_GenerateKey(..) => Reply::C_GenerateKey(KeyResult {
                rv,
                object: handle(7),
                ..Default::default()
            }),
            Call::C_GenerateKeyPair(..) => Reply::C_GenerateKeyPair(KeyPairResult {
                rv,
                public_key: handle(7),
                private_key: None,
                ..Default::default()
            }),
            _ => return None,
        })))
    });
    run("exact_outputs", &daemon);
}

pub fn exact_outputs() {
    let loaded = initialized();
    // Returns the CK_RV, the length and the bytes after a call with 4 bytes of room, followed by 4 other bytes.
    let encrypted = |session, room: CK_ULONG| {
        let mut output = [1u8; 8];
        let mut length = room;
        let rv = call!(loaded.C_EncryptFinal(session, output.as_mut_ptr(), &mut length));
        (rv, length, output)
    };
    let untouched = [1u8; 8];
    assert_eq!(encrypted(0, 4), (CKR_OK, 2, [7, 7, 1, 1, 1, 1, 1, 1]));
    assert_eq!(encrypted(1, 4), (CKR_BUFFER_TOO_SMALL, 9, untouched));
    assert_eq!(encrypted(2, 4), (CKR_DATA_LEN_RANGE, 4, untouched));
    // The length in the reply to a refused call means nothing.
    assert_eq!(encrypted(5, 4), (CKR_DATA_LEN_RANGE, 4, untouched));
    assert_eq!(encrypted(3, 4), (CKR_OK, 0, untouched));
    let mut length = 4;
    assert_eq!(
        call!(loaded.C_EncryptFinal(1, null_mut(), &mut length)),
        CKR_BUFFER_TOO_SMALL
    );
    assert_eq!(length, 9);

    let found = |session| {
        let mut objects = [1; 4];
        let mut count = 3;
        let rv = call!(loaded.C_FindObjects(session, objects.as_mut_ptr(), 2, &mut count));
        (rv, count, objects)
    };
    assert_eq!(found(0), (CKR_OK, 2, [7, 7, 1, 1]));
    assert_eq!(found(2), (CKR_DATA_LEN_RANGE, 4, [1; 4]));
    assert_eq!(found(5), (CKR_DATA_LEN_RANGE, 3, [1; 4]));

    let mut slots = [1; 3];
    let mut count = 2;
    assert_eq!(
        call!(loaded.C_GetSlotList(1, slots.as_mut_ptr(), &mut count)),
        CKR_OK
    );
    assert_eq!((count, slots), (1, [5, 1, 1]));
    assert_eq!(
        call!(loaded.C_GetMechanismList(1, slots.as_mut_ptr(), &mut count)),
        CKR_BUFFER_TOO_SMALL
    );
    assert_eq!((count, slots), (70, [5, 1, 1]));

    let made = |session| {
        let (mut key, mut public, mut private) = (1, 1, 1);
        let mut mechanism = CK_MECHANISM {
            mechanism: CKM_AES_KEY_GEN,
            pParameter: null_mut(),
            ulParameterLen: 0,
        };
        let (mechanism, none) = (&raw mut mechanism, null_mut());
        let rvs = [
            call!(loaded.C_GenerateKey(session, mechanism, none, 0, &mut key)),
            call!(loaded.C_GenerateKeyPair(
                session,
                mechanism,
                none,
                0,
                none,
                0,
                &mut public,
                &mut private
            )),
        ];
        (rvs, [key, public, private])
    };
    assert_eq!(made(0), ([CKR_OK; 2], [7, 7, 1]));
    assert_eq!(made(1), ([CKR_BUFFER_TOO_SMALL; 2], [7, 7, 1]));
    assert_eq!(made(2), ([CKR_DATA_LEN_RANGE; 2], [1, 1, 1]));
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
}

fn answer(number: CK_ATTRIBUTE_TYPE, found: Found) -> Answer {
    Answer {
        attribute_type: AttributeType(xdr::word_size::wide(number)),
        found,
    }
}

#[test]
fn templates_in_templates_go_and_come() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = calls.clone();
    let daemon = Daemon::start(move |call| {
        noted.lock().expect("no panic").extend(describe(call));
        let Call::C_GetAttributeValue(session, _, wanted) = call else {
            return None;
        };
        let inner = vec![
            answer(CKA_LABEL, Found::Bytes(b"ab".to_vec())),
            answer(CKA_CLASS, Found::Length(8)),
            answer(CKA_VALUE, Found::Unavailable),
        ];
        let found = match session.0 {
            1 => Found::TemplateLength(3),
            2 => Found::Template(Answers(inner)),
            3 => Found::TemplateLength(0),
            _ => Found::Untouched,
        };
        let count = wanted.as_ref().map_or(0, |wanted| wanted.0.len());
        let mut answers = vec![answer(CKA_WRAP_TEMPLATE, found)];
        answers.extend(
            [
                answer(CKA_ID, Found::Untouched),
                answer(CKA_LABEL, Found::Unavailable),
                answer(CKA_SUBJECT, Found::Length(3)),
            ]
            .into_iter()
            .take(count - 1),
        );
        let rv = match session.0 {
            2 => CkRv::ATTRIBUTE_SENSITIVE,
            _ => CkRv::OK,
        };
        let answers = Answers(answers);
        Some(Act::Answer(Box::new(Reply::C_GetAttributeValue(
            AttributesResult { rv, answers },
        ))))
    });
    run("exact_templates", &daemon);
    let expected = [
        "C_Initialize: 0",
        "C_CreateObject: {0x40000211={0x3=[1], 0x40000212={0x104=NULL/0}}, 0x40000211={}}",
        "C_GetAttributeValue: {0x40000211=NULL/0}",
        "C_GetAttributeValue: {0x40000211={0x0=room/4, 0x0=NULL/0, 0x0=room/1}, 0x102=room/1, \
         0x3=room/1, 0x101=NULL/0}",
        "C_GetAttributeValue: {0x40000211={0x0=room/4}}",
        "C_GetAttributeValue: {0x40000211={0x0=room/4}}",
    ];
    assert_eq!(*calls.lock().expect("no panic"), expected);
}

pub fn exact_templates() {
    let loaded = initialized();
    let size = size_of::<CK_ATTRIBUTE>();
    let mut byte = 1u8;
    let byte: *mut c_void = (&raw mut byte).cast();
    let mut innermost = [attribute(CKA_ENCRYPT, null_mut(), 0)];
    let mut inner = [
        attribute(CKA_LABEL, byte, 1),
        attribute(CKA_UNWRAP_TEMPLATE, innermost.as_mut_ptr().cast(), size),
    ];
    let mut outer = [
        attribute(CKA_WRAP_TEMPLATE, inner.as_mut_ptr().cast(), 2 * size),
        attribute(CKA_WRAP_TEMPLATE, inner.as_mut_ptr().cast(), 0),
    ];
    let mut object = 0;
    assert_eq!(
        call!(loaded.C_CreateObject(1, outer.as_mut_ptr(), 2, &mut object)),
        CKR_OK
    );
    // A length that is no multiple of the size of an attribute, and a template that is nested without end.
    outer[0].ulValueLen -= 1;
    assert_eq!(
        call!(loaded.C_CreateObject(1, outer.as_mut_ptr(), 2, &mut object)),
        CKR_ATTRIBUTE_VALUE_INVALID
    );
    let mut endless = attribute(CKA_WRAP_TEMPLATE, null_mut(), size);
    endless.pValue = (&raw mut endless).cast();
    assert_eq!(
        call!(loaded.C_CreateObject(1, &mut endless, 1, &mut object)),
        CKR_DATA_LEN_RANGE
    );
    assert_eq!(
        call!(loaded.C_GetAttributeValue(1, 2, &mut endless, 1)),
        CKR_DATA_LEN_RANGE
    );

    // Asks for the length, in bytes.
    let mut asked = attribute(CKA_WRAP_TEMPLATE, null_mut(), 0);
    assert_eq!(
        call!(loaded.C_GetAttributeValue(1, 2, &mut asked, 1)),
        CKR_OK
    );
    assert_eq!(asked.ulValueLen as usize, 3 * size);
    // Asks for the values; the module says which attributes they belong to.
    let mut value = [1u8; 6];
    let value = value.as_mut_ptr();
    let mut nested = [
        attribute(0, value.cast(), 4),
        attribute(0, null_mut(), 0),
        attribute(0, value.wrapping_add(5).cast(), 1),
        attribute(99, null_mut(), 98),
    ];
    let first = nested.as_mut_ptr();
    let mut asked = [
        attribute(CKA_WRAP_TEMPLATE, first.cast(), 3 * size),
        attribute(CKA_ID, value.cast(), 1),
        attribute(CKA_LABEL, value.cast(), 1),
        attribute(CKA_SUBJECT, null_mut(), 0),
    ];
    assert_eq!(
        call!(loaded.C_GetAttributeValue(2, 2, asked.as_mut_ptr(), 4)),
        CKR_ATTRIBUTE_SENSITIVE
    );
    let unavailable = CK_UNAVAILABLE_INFORMATION;
    assert_eq!(
        asked.map(|asked| asked.ulValueLen),
        [3 * size as CK_ULONG, 1, unavailable, 3]
    );
    assert_eq!(
        nested.map(|nested| (nested.type_, nested.ulValueLen)),
        [
            (CKA_LABEL, 2),
            (CKA_CLASS, 8),
            (CKA_VALUE, unavailable),
            (99, 98)
        ]
    );
    // SAFETY: the six bytes of `value`.
    let bytes = unsafe { std::slice::from_raw_parts(value, 6) };
    assert_eq!(bytes, [b'a', b'b', 1, 1, 1, 1]);
    // An empty template, and one that the module has not changed.
    for (session, length) in [(3, 0), (4, size as CK_ULONG)] {
        let mut nested = attribute(0, value.cast(), 4);
        let place = (&raw mut nested).cast();
        let mut asked = attribute(CKA_WRAP_TEMPLATE, place, size);
        assert_eq!(
            call!(loaded.C_GetAttributeValue(session, 2, &mut asked, 1)),
            CKR_OK
        );
        assert_eq!((asked.ulValueLen, nested.ulValueLen), (length, 4));
    }
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
}
