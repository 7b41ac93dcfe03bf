//! Tests what only version 4 can express: NULL as opposed to empty, the caller's room, arrays of attributes.

use xdr::{
    Answer, Answers, Attribute, Call, Found, Input, Query, Reply, Room, Template, Value, Wanted,
    WantedRoom,
};

use super::exact_module::{EXACT, mechanism, parameter, rv};
use super::{
    CKA_CLASS, CKA_LABEL, CKA_VALUE, CKA_WRAP_TEMPLATE, CkRv, Cryptoki, Flags, ObjectHandle,
    RECORDER, SlotId, TOLD, TOLD_NULL, Ulong, UserType, session,
};
use cryptoki_sys::{
    CK_RSA_PKCS_OAEP_PARAMS, CK_ULONG, CKG_MGF1_SHA1, CKM_RSA_PKCS_OAEP, CKM_SHA_1,
    CKZ_DATA_SPECIFIED,
};
use xdr::AttributeType;
use xdr::Use;

const CKA_UNWRAP_TEMPLATE: u64 = 0x4000_0212;
const CKA_SENSITIVE: u64 = 0x103;

#[test]
fn an_input_is_null_with_a_length_or_has_an_address() {
    let encrypt = |input| Call::C_Encrypt(session(7), input, Room::Buffer(9));
    let told = |input| RECORDER.0.call(encrypt(input)).rv().0;
    assert_eq!(told(Input::NULL), TOLD | TOLD_NULL);
    assert_eq!(told(Input::Null { length: 5 }), TOLD | TOLD_NULL | 5);
    assert_eq!(told(Input::Bytes(b"")), TOLD);
    assert_eq!(told(Input::Bytes(b"four")), TOLD | 4);
}

#[test]
fn an_empty_pin_is_no_null_pin() {
    let told = |call| RECORDER.0.call(call).rv().0;
    let empty = Input::Bytes(b"");
    let login = |pin| told(Call::C_Login(session(1), UserType(1), pin));
    assert_eq!(login(empty), TOLD);
    assert_eq!(login(Input::Null { length: 3 }), TOLD | TOLD_NULL | 3);
    // Session 2 is of a token without a keypad. From version 3, these PINs do not reach the module.
    assert_eq!(told(Call::C_InitPIN(session(2), empty)), TOLD);
    assert_eq!(
        told(Call::C_InitPIN(session(2), Input::NULL)),
        TOLD | TOLD_NULL
    );
    assert_eq!(told(Call::C_SetPIN(session(2), empty, empty)), TOLD);
    let user = |pin, name| {
        rv(
            &EXACT,
            Call::C_LoginUser(session(1), UserType(1), pin, name),
        )
    };
    assert_eq!(user(Input::Bytes(b"12"), Input::Bytes(b"abc")), TOLD | 0x23);
    assert_eq!(user(Input::NULL, empty), TOLD | TOLD_NULL);
    assert_eq!(user(empty, Input::NULL), TOLD | 0x100);
}

#[test]
fn a_label_is_32_bytes_as_they_are_or_null() {
    let mut label = [b'x'; 32];
    label[4] = 0;
    let init = |label| {
        let pin = Input::Bytes(b"1234");
        rv(&EXACT, Call::C_InitToken(SlotId(1), pin, label))
    };
    assert_eq!(init(Input::Bytes(&label)), TOLD | 4);
    assert_eq!(init(Input::NULL), TOLD | 0x104);
}

#[test]
fn an_output_gets_the_room_that_the_caller_has() {
    let encrypt = |number, room| {
        let call = Call::C_Encrypt(session(number), Input::Bytes(b"data"), room);
        let result = result!(C_Encrypt, RECORDER.0.call(call));
        (result.rv, result.length.0, result.data.to_vec())
    };
    let no = Vec::new;
    // The module sees the room, and a length that it leaves unchanged is returned.
    for room in [0, 4, 5, 20_480, 20_481, 100_000, 9_000_000] {
        let told = encrypt(8, Room::Buffer(room));
        assert_eq!(told, (CkRv(TOLD | room), room, no()), "{room}");
    }
    let unlimited = encrypt(7, Room::Buffer(u64::MAX));
    assert_eq!(unlimited, (CkRv(TOLD | 4), u64::MAX, no()));
    assert_eq!(encrypt(1, Room::Buffer(4)), (CkRv::OK, 4, b"data".to_vec()));
    let roomy = encrypt(1, Room::Buffer(100_000));
    assert_eq!(roomy, (CkRv::OK, 4, b"data".to_vec()));
    // There is only one call, whatever the module answers.
    let small = encrypt(3, Room::Buffer(10));
    assert_eq!(small, (CkRv::BUFFER_TOO_SMALL, 100_000, no()));
    let enough = encrypt(3, Room::Buffer(100_000));
    assert_eq!(enough, (CkRv::OK, 100_000, vec![b'B'; 100_000]));
    assert_eq!(
        encrypt(4, Room::Buffer(10)),
        (CkRv::BUFFER_TOO_SMALL, 11, no())
    );
    for room in [10, 30_000] {
        let lie = encrypt(2, Room::Buffer(room));
        assert_eq!(lie, (CkRv::GENERAL_ERROR, room + 1, no()));
        let failed = encrypt(5, Room::Buffer(room));
        assert_eq!(failed, (CkRv::DEVICE_ERROR, room, no()));
    }
    // A call that asks for the length.
    let question = encrypt(3, Room::Null { length: 0 });
    assert_eq!(question, (CkRv::BUFFER_TOO_SMALL, 100_000, no()));
    let digest = |room| {
        let call = Call::C_Digest(session(1), Input::NULL, room);
        let result = result!(C_Digest, EXACT.call(call));
        (result.rv.0, result.length.0)
    };
    let untouched = digest(Room::Null { length: 77 });
    assert_eq!(untouched, (TOLD | TOLD_NULL | 77, 77));
    assert_eq!(digest(Room::NoLength), (TOLD | TOLD_NULL | 0x700, 0));
}

#[test]
fn random_numbers_may_have_no_buffer() {
    let random = |room| {
        let call = Call::C_GenerateRandom(session(1), room);
        let result = result!(C_GenerateRandom, EXACT.call(call));
        (result.rv.0, result.data.to_vec())
    };
    assert_eq!(random(Room::Buffer(5)), (TOLD | 5, vec![]));
    assert_eq!(
        random(Room::Null { length: 5 }),
        (TOLD | TOLD_NULL | 5, vec![])
    );
}

#[test]
fn lists_get_the_room_that_the_caller_has() {
    let slots = |present, room| {
        let call = Call::C_GetSlotList(Ulong(present), room);
        let result = result!(C_GetSlotList, EXACT.call(call));
        let slots: Vec<u64> = result.slots.iter().map(|slot| slot.0).collect();
        (result.rv.0, slots, result.count.0)
    };
    let all = vec![5, 0x8000_0007];
    assert_eq!(slots(0, Room::Null { length: 9 }), (0, vec![], 2));
    let untouched = slots(1, Room::Null { length: 9 });
    assert_eq!(untouched, (TOLD | TOLD_NULL | 9, vec![], 9));
    assert_eq!(slots(0, Room::NoLength), (TOLD | TOLD_NULL | 77, vec![], 0));
    let too_small = CkRv::BUFFER_TOO_SMALL.0;
    assert_eq!(slots(0, Room::Buffer(0)), (too_small, vec![], 2));
    assert_eq!(slots(0, Room::Buffer(1)), (too_small, vec![], 2));
    assert_eq!(slots(0, Room::Buffer(2)), (0, all.clone(), 2));
    assert_eq!(slots(0, Room::Buffer(u64::MAX)), (0, all.clone(), 2));
    assert_eq!(slots(0, Room::Unbounded), (0, all, 2));

    let mechanisms = |room| {
        let call = Call::C_GetMechanismList(SlotId(1), room);
        let result = result!(C_GetMechanismList, EXACT.call(call));
        (result.rv.0, result.count.0)
    };
    assert_eq!(mechanisms(Room::Buffer(0)), (TOLD, 0));
    assert_eq!(mechanisms(Room::Buffer(1 << 61)), (TOLD | 65536, 1 << 61));
    assert_eq!(mechanisms(Room::QUESTION), (TOLD | TOLD_NULL, 0));

    let find = |room| {
        let call = Call::C_FindObjects(session(1), room);
        let result = result!(C_FindObjects, EXACT.call(call));
        (result.rv.0, result.objects.len(), result.count.0)
    };
    assert_eq!(find(Room::Buffer(2)), (0, 2, 2));
    assert_eq!(find(Room::Buffer(0)), (0, 0, 0));
    let null = Room::Null { length: 7 };
    assert_eq!(find(null), (TOLD | TOLD_NULL | 7, 0, 3));
    assert_eq!(find(Room::NoLength), (TOLD | TOLD_NULL | 0x100, 0, 0));
}

#[test]
fn a_handle_is_absent_where_a_module_wrote_none() {
    let create = |number| {
        let call = Call::C_CreateObject(session(number), Some(Template::default()));
        let result = result!(C_CreateObject, EXACT.call(call));
        (result.rv.0, result.object)
    };
    assert_eq!(create(3), (TOLD, None));
    assert_eq!(create(4), (CkRv::DEVICE_ERROR.0, Some(ObjectHandle(0))));
    // A module may claim success and write no handle.
    assert_eq!(create(9), (0, None));
    let call = Call::C_CreateObject(session(1), Some(Template::default()));
    let result = result!(C_CreateObject, RECORDER.0.call(call));
    assert_eq!((result.rv.0, result.object), (TOLD, Some(ObjectHandle(7))));
}

fn attribute(number: u64, value: Value) -> Attribute {
    Attribute {
        attribute_type: AttributeType(number),
        value,
    }
}

fn create(number: u64, template: Option<Template>) -> u64 {
    rv(&EXACT, Call::C_CreateObject(session(number), template))
}

#[test]
fn a_template_is_null_or_has_an_address() {
    assert_eq!(create(3, None), TOLD | TOLD_NULL);
    assert_eq!(create(3, Some(Template::default())), TOLD);
    let one = |value| Some(Template(vec![attribute(CKA_LABEL, value)]));
    assert_eq!(create(3, one(Value::Bytes(vec![]))), TOLD | 1);
    assert_eq!(create(1, one(Value::Bytes(vec![]))), TOLD);
    assert_eq!(create(1, one(Value::Bytes(vec![1; 3]))), TOLD | 3);
    let null = one(Value::Null { length: 6 });
    assert_eq!(create(1, null), TOLD | TOLD_NULL | 6);
}

/// Returns a template that nests this deep, with two attributes at each depth.
fn nested(depth: u32) -> Template {
    let label = attribute(CKA_LABEL, Value::Bytes(b"label".to_vec()));
    let value = match depth {
        1 => Value::Template(Template::default()),
        depth => Value::Template(nested(depth - 1)),
    };
    Template(vec![label, attribute(CKA_WRAP_TEMPLATE, value)])
}

#[test]
fn an_array_of_attributes_is_built_of_its_values() {
    assert_eq!(create(2, Some(nested(1))), TOLD | 2 << 8 | 2);
    assert_eq!(create(2, Some(nested(3))), TOLD | 4 << 8 | 6);
    assert_eq!(create(2, Some(nested(4))), CkRv::DATA_LEN_RANGE.0);
    let of = |value| Some(Template(vec![attribute(CKA_WRAP_TEMPLATE, value)]));
    let size = 24;
    let one = Template(vec![attribute(CKA_LABEL, Value::Null { length: 0 })]);
    assert_eq!(create(1, of(Value::Template(one))), TOLD | size);
    assert_eq!(create(1, of(Value::Template(Template::default()))), TOLD);
    assert_eq!(create(1, of(Value::Bytes(vec![]))), TOLD);
    // No bytes of a client become addresses, however deep they are.
    let invalid = CkRv::ATTRIBUTE_TYPE_INVALID.0;
    assert_eq!(create(1, of(Value::Bytes(vec![0x41; 24]))), invalid);
    let inner = of(Value::Bytes(vec![0x41; 24])).expect("a template");
    assert_eq!(create(1, of(Value::Template(inner))), invalid);
}

fn length(number: u64) -> Wanted {
    Wanted::length(AttributeType(number))
}

fn value(number: u64, room: usize) -> Wanted {
    Wanted::value(AttributeType(number), room)
}

fn template(number: u64, wanted: Vec<Wanted>) -> Wanted {
    Wanted {
        attribute_type: AttributeType(number),
        room: WantedRoom::Template(Query(wanted)),
    }
}

fn read(object: u64, wanted: Vec<Wanted>) -> (CkRv, Vec<Answer>) {
    let query = Some(Query(wanted));
    let call = Call::C_GetAttributeValue(session(1), ObjectHandle(object), query);
    let result = result!(C_GetAttributeValue, EXACT.call(call));
    (result.rv, result.answers.0)
}

fn found(object: u64, wanted: Vec<Wanted>) -> (CkRv, Vec<Found>) {
    let (rv, answers) = read(object, wanted);
    (
        rv,
        answers.iter().map(|answer| answer.found.clone()).collect(),
    )
}

/// Compares values, which cannot be printed.
#[track_caller]
fn assert_found(actual: (CkRv, Vec<Found>), rv: CkRv, expected: &[Found]) {
    assert_eq!(actual.0, rv);
    let positions = 0..actual.1.len().max(expected.len());
    let differs = |at: &usize| actual.1.get(*at) != expected.get(*at);
    assert_eq!(positions.filter(differs).collect::<Vec<_>>(), []);
}

fn bytes(value: &[u8]) -> Found {
    Found::Bytes(value.to_vec())
}

#[test]
fn attributes_are_what_the_module_left() {
    let class = 4_u64.to_ne_bytes();
    assert_found(
        found(
            1,
            vec![length(CKA_LABEL), value(CKA_LABEL, 9), value(CKA_CLASS, 8)],
        ),
        CkRv::OK,
        &[Found::Length(5), bytes(b"label"), bytes(&class)],
    );
    assert_found(
        found(
            1,
            vec![value(CKA_VALUE, 9), value(CKA_LABEL, 5), length(CKA_VALUE)],
        ),
        CkRv::ATTRIBUTE_SENSITIVE,
        &[Found::Unavailable, bytes(b"label"), Found::Unavailable],
    );
    assert_found(
        found(
            1,
            vec![value(CKA_LABEL, 4), value(CKA_LABEL, 0), length(CKA_CLASS)],
        ),
        CkRv::BUFFER_TOO_SMALL,
        &[Found::Unavailable, Found::Unavailable, Found::Length(8)],
    );
    let null = Wanted {
        room: WantedRoom::Null { length: 6 },
        ..length(CKA_LABEL)
    };
    assert_eq!(read(6, vec![null]).0.0, TOLD | TOLD_NULL | 6);
    assert_eq!(read(6, vec![value(CKA_LABEL, 6)]).0.0, TOLD | 6);
    assert_eq!(read(6, vec![value(CKA_LABEL, 0)]).0.0, TOLD);
    assert_eq!(read(9, vec![]).0.0, TOLD);
    let call = Call::C_GetAttributeValue(session(1), ObjectHandle(9), None);
    assert_eq!(rv(&EXACT, call), TOLD | TOLD_NULL);
}

#[test]
fn attributes_that_a_failing_call_leaves_alone_are_untouched() {
    let asked = || vec![length(CKA_LABEL), value(CKA_LABEL, 3), value(CKA_CLASS, 8)];
    assert_found(
        found(2, asked()),
        CkRv::OBJECT_HANDLE_INVALID,
        &[Found::Untouched, Found::Untouched, Found::Untouched],
    );
    assert_found(
        found(3, asked()),
        CkRv::ATTRIBUTE_SENSITIVE,
        &[Found::Unavailable, Found::Untouched, Found::Untouched],
    );
    assert_found(
        found(4, vec![value(CKA_LABEL, 9), value(CKA_LABEL, 3)]),
        CkRv::DEVICE_ERROR,
        &[Found::Length(3), Found::Untouched],
    );
    assert_found(
        found(4, vec![length(CKA_LABEL)]),
        CkRv::DEVICE_ERROR,
        &[Found::Length(3)],
    );
}

#[test]
fn no_more_is_read_than_there_was_room_for() {
    let lie = found(5, vec![value(CKA_LABEL, 9)]);
    assert_found(lie, CkRv::OK, &[Found::Unavailable]);
    let lie = found(
        5,
        vec![template(CKA_WRAP_TEMPLATE, vec![value(CKA_LABEL, 9)])],
    );
    assert_found(lie, CkRv::OK, &[Found::Unavailable]);
    // Room without end becomes as much as there is left, and the others keep theirs.
    let endless = || value(CKA_LABEL, usize::MAX);
    assert_found(
        found(1, vec![endless(), value(CKA_LABEL, 5), endless()]),
        CkRv::OK,
        &[bytes(b"label"), bytes(b"label"), bytes(b"label")],
    );
    // A length that the module leaves unchanged is not the room that it got.
    let asked = vec![value(CKA_LABEL, usize::MAX)];
    let untouched = found(2, asked);
    assert_found(untouched, CkRv::OBJECT_HANDLE_INVALID, &[Found::Untouched]);
}

fn answers(found: Found) -> Vec<Answer> {
    match found {
        Found::Template(Answers(ref answers)) => answers.clone(),
        _ => panic!("no template"),
    }
}

#[test]
fn arrays_of_attributes_are_read_with_their_types_and_values() {
    let lengths = vec![length(CKA_WRAP_TEMPLATE)];
    assert_found(found(1, lengths), CkRv::OK, &[Found::TemplateLength(2)]);

    // Room for three; the module has two, and says which.
    let inner = vec![value(0, 1), value(0, 9), value(0, 9)];
    let (rv, mut found_all) = found(1, vec![template(CKA_WRAP_TEMPLATE, inner)]);
    assert_eq!(rv, CkRv::OK);
    let inner = answers(found_all.remove(0));
    let types: Vec<u64> = inner.iter().map(|answer| answer.attribute_type.0).collect();
    assert_eq!(types, [CKA_SENSITIVE, CKA_LABEL]);
    assert_eq!(inner[0].bytes(), Some(&[1][..]));
    assert_eq!(inner[1].bytes(), Some(&b"inner"[..]));

    // Lengths first, as applications ask for them.
    let inner = vec![length(0), length(0)];
    let (_, mut found_all) = found(1, vec![template(CKA_WRAP_TEMPLATE, inner)]);
    let inner = answers(found_all.remove(0));
    assert!(inner[0].found == Found::Length(1) && inner[1].found == Found::Length(5));

    let inner = vec![value(0, 1), value(0, 3)];
    let (rv, mut found_all) = found(1, vec![template(CKA_WRAP_TEMPLATE, inner)]);
    assert_eq!(rv, CkRv::BUFFER_TOO_SMALL);
    let inner = answers(found_all.remove(0));
    assert_eq!(inner[0].bytes(), Some(&[1][..]));
    assert!(inner[1].found == Found::Unavailable);

    let small = template(CKA_WRAP_TEMPLATE, vec![value(0, 1)]);
    assert_found(
        found(1, vec![small]),
        CkRv::BUFFER_TOO_SMALL,
        &[Found::Unavailable],
    );
    let untouched = template(CKA_WRAP_TEMPLATE, vec![value(0, 1)]);
    assert_found(
        found(2, vec![untouched]),
        CkRv::OBJECT_HANDLE_INVALID,
        &[Found::Untouched],
    );
    let changed = template(
        CKA_WRAP_TEMPLATE,
        vec![value(CKA_LABEL, 1), value(CKA_LABEL, 2)],
    );
    let (rv, mut found_all) = found(10, vec![changed]);
    assert_eq!(rv, CkRv::GENERAL_ERROR);
    let inner = answers(found_all.remove(0));
    assert!(inner[0].found == Found::Unavailable && inner[1].found == Found::Untouched);
    let odd = found(8, vec![length(CKA_WRAP_TEMPLATE)]);
    assert_found(odd, CkRv::OK, &[Found::Unavailable]);
}

#[test]
fn no_address_comes_out_of_the_module() {
    // The module finds zeros where it expects pointers, and its own pointers are not passed on.
    let asked = vec![template(CKA_WRAP_TEMPLATE, vec![value(CKA_LABEL, 24)])];
    let (rv, mut found_all) = found(7, asked);
    assert_eq!(rv, CkRv::OK);
    let inner = answers(found_all.remove(0));
    assert_eq!(inner[0].attribute_type.0, CKA_UNWRAP_TEMPLATE);
    assert!(inner[0].found == Found::Unavailable);
    // A buffer of bytes for an array of attributes, as in version 3: the value is not asked for.
    let mixed = vec![value(CKA_WRAP_TEMPLATE, 24), value(CKA_LABEL, 9)];
    assert_found(
        found(1, mixed),
        CkRv::ATTRIBUTE_TYPE_INVALID,
        &[Found::Unavailable, bytes(b"label")],
    );
    let mut deep = vec![value(CKA_LABEL, 1)];
    for _ in 0..3 {
        deep = vec![template(CKA_WRAP_TEMPLATE, deep)];
    }
    assert_eq!(read(9, deep.clone()).0.0, TOLD | 1);
    let deeper = vec![template(CKA_WRAP_TEMPLATE, deep)];
    assert_eq!(read(9, deeper).0, CkRv::DATA_LEN_RANGE);
}

#[test]
fn functions_of_version_3_2_get_their_arguments() {
    let (s, key, other) = (session(1), ObjectHandle(3), ObjectHandle(2));
    let kem = || Some(mechanism(0x17));
    let one = || Some(Template(vec![attribute(CKA_LABEL, Value::Bytes(vec![1]))]));
    let encapsulate = |room| {
        let call = Call::C_EncapsulateKey(s, kem(), key, one(), room);
        let result = result!(C_EncapsulateKey, EXACT.call(call));
        (
            result.rv,
            result.length.0,
            result.data.to_vec(),
            result.object,
        )
    };
    let made = (CkRv::OK, 4, b"text".to_vec(), Some(ObjectHandle(4)));
    assert_eq!(encapsulate(Room::Buffer(9)), made);
    let small = (CkRv::BUFFER_TOO_SMALL, 4, vec![], None);
    assert_eq!(encapsulate(Room::Buffer(3)), small);
    let asked = (CkRv::OK, 4, vec![], None);
    assert_eq!(encapsulate(Room::QUESTION), asked);

    let text = Input::Bytes(b"text");
    let call = Call::C_DecapsulateKey(s, kem(), key, one(), text);
    assert_eq!(rv(&EXACT, call), TOLD | 0x314);
    let call = Call::C_WrapKeyAuthenticated(s, kem(), key, other, Input::NULL, Room::Buffer(5));
    assert_eq!(rv(&EXACT, call), TOLD | TOLD_NULL | 0x3205);
    let call = Call::C_UnwrapKeyAuthenticated(s, kem(), key, text, one(), Input::Bytes(b"ab"));
    assert_eq!(rv(&EXACT, call), TOLD | 0x3412);
    let call = Call::C_VerifySignatureInit(s, kem(), key, Input::Null { length: 2 });
    assert_eq!(rv(&EXACT, call), TOLD | TOLD_NULL | 0x302);
    let flags = |number| {
        let call = Call::C_GetSessionValidationFlags(session(number), Ulong(2));
        let result = result!(C_GetSessionValidationFlags, EXACT.call(call));
        (result.rv, result.flags)
    };
    assert_eq!(flags(1), (CkRv::OK, Flags(42)));
    assert_eq!(flags(9), (CkRv::SESSION_HANDLE_INVALID, Flags(0)));
    let absent = Call::C_VerifySignature(s, text);
    assert_eq!(rv(&EXACT, absent), CkRv::FUNCTION_NOT_SUPPORTED.0);
}

#[test]
fn no_session_is_asynchronous() {
    let open = |flags| EXACT.call(Call::C_OpenSession(SlotId(77), Flags(flags), false));
    let refused = CkRv::SESSION_ASYNC_NOT_SUPPORTED;
    assert_eq!(open(4 | 8).rv(), refused);
    // An older module does not know the flag.
    let older = super::exact_module::load("exact_3_0_flag", &["-DMINOR=0"]);
    let open = Call::C_OpenSession(SlotId(77), Flags(4 | 8), false);
    assert_eq!(rv(&older, open), 0);
    let complete = |number| {
        let call = Call::C_AsyncComplete(session(number), Input::Bytes(b"C_Sign"));
        let result = result!(C_AsyncComplete, EXACT.call(call));
        (result.rv, result.length.0, result.object.0)
    };
    assert_eq!(complete(3), (CkRv::OPERATION_NOT_INITIALIZED, 0, 0));
    assert_eq!(complete(2), (CkRv::OK, 5, 7));
    assert_eq!(complete(1), (CkRv::GENERAL_ERROR, 0, 0)); // memory of the module
    let join = |name| Call::C_AsyncJoin(session(1), Input::Bytes(name), Ulong(3), Room::Buffer(9));
    assert_eq!(rv(&EXACT, join(b"C_Sign")), TOLD | TOLD_NULL | 0x300);
    assert_eq!(rv(&EXACT, join(b"C_\0ign")), CkRv::ARGUMENTS_BAD.0);
    let id = Call::C_AsyncGetID(session(1), Input::Bytes(b"C_Sign"));
    assert_eq!(rv(&EXACT, id), CkRv::FUNCTION_NOT_SUPPORTED.0);
}

/// Calls C_EncryptInit for OAEP with a label.
fn begin_oaep(
    module: &bindings::module::Module,
    session: xdr::SessionHandle,
    label: &mut [u8],
    key: u64,
) -> CkRv {
    label.as_mut_ptr().expose_provenance();
    let mut structure = CK_RSA_PKCS_OAEP_PARAMS {
        hashAlg: CKM_SHA_1,
        mgf: CKG_MGF1_SHA1,
        source: CKZ_DATA_SPECIFIED,
        pSourceData: label.as_mut_ptr().cast(),
        ulSourceDataLen: label.len() as CK_ULONG,
    };
    let (oaep, _) = parameter(CKM_RSA_PKCS_OAEP, Use::Operation, &mut structure);
    let call = Call::C_EncryptInit(session, Some(oaep), ObjectHandle(key));
    module.call(call).rv()
}

/// As in openCryptoki, whose C_Encrypt reads the label where C_EncryptInit found it.
#[test]
fn what_a_parameter_points_to_outlives_the_beginning_of_its_operation() {
    // Its sessions are not those of other tests.
    let options = bindings::module::ModuleOptions::default();
    let path = super::compile("recorder", &[]);
    let module = bindings::module::Module::load(&path, options).unwrap();
    let open = Call::C_OpenSession(SlotId(1), Flags(4), false);
    let session = result!(C_OpenSession, module.call(open)).session;
    let begin = |label: &mut [u8], key| begin_oaep(&module, session, label, key);
    let encrypt = || {
        let call = Call::C_Encrypt(session, Input::Bytes(b"data"), Room::Buffer(100_000));
        result!(C_Encrypt, module.call(call)).data.to_vec()
    };
    let mut label = vec![7; 50_000];
    assert_eq!(begin(&mut label, 1), CkRv::OK);
    label.fill(0);
    // One that does not begin does not replace it.
    assert_eq!(begin(&mut [8; 50_000], 2), CkRv::KEY_HANDLE_INVALID);
    assert_eq!(encrypt(), [7; 50_000]);
    // The memory of an operation that has ended is there for others.
    for byte in 0..200 {
        assert_eq!(begin(&mut [byte; 50_000], 1), CkRv::OK);
        assert_eq!(encrypt(), [byte; 50_000]);
    }
}

#[test]
fn a_parameter_outlives_a_session_that_is_closed_while_its_call_is_in_the_module() {
    let options = bindings::module::ModuleOptions::default();
    let path = super::compile("recorder_parallel", &["-DPARALLEL"]);
    let module = bindings::module::Module::load(&path, options).unwrap();
    let threads = Flags(cryptoki_sys::CKF_OS_LOCKING_OK);
    assert!(module.call(Call::C_Initialize(threads)).rv().is_ok());
    let open = Call::C_OpenSession(SlotId(1), Flags(4), false);
    let session = result!(C_OpenSession, module.call(open)).session;
    assert_eq!(begin_oaep(&module, session, &mut [7; 50_000], 1), CkRv::OK);
    std::thread::scope(|scope| {
        let encrypted = scope.spawn(|| {
            let call = Call::C_Encrypt(session, Input::Bytes(b"data"), Room::Buffer(100_000));
            result!(C_Encrypt, module.call(call)).data.to_vec()
        });
        for call in [
            Call::C_GetFunctionStatus(session),
            Call::C_CloseAllSessions(SlotId(1)),
            Call::C_CancelFunction(session),
        ] {
            assert!(module.call(call).rv().is_ok());
        }
        assert_eq!(encrypted.join().unwrap(), [7; 50_000]);
    });
}
