//! Tests which mechanisms, templates and PINs reach the module, and which are stopped.

use super::*;

#[test]
fn passes_an_empty_parameter_as_null_in_every_call() {
    let (s, none) = (session(7), || mechanism(CKM_AES_CBC, &[]));
    let (key, some) = (ObjectHandle(1), || template(&[(CKA_TOKEN, &[1])]));
    for call in [
        Call::C_EncryptInit(s, none(), key),
        Call::C_SignInit(s, none(), key),
        Call::C_DigestInit(s, none()),
        Call::C_GenerateKey(s, none(), some()),
        Call::C_GenerateKeyPair(s, none(), some(), some()),
        Call::C_WrapKey(s, none(), key, key),
        Call::C_UnwrapKey(s, none(), key, b"", some()),
        Call::C_DeriveKey(s, none(), key, some()),
    ] {
        assert_eq!(rv(call.clone()), TOLD | TOLD_NULL, "{call:?}");
    }
}

#[test]
fn copies_a_parameter_to_where_zeros_follow() {
    for length in [1, 7, 8, 16, 17, 300] {
        let iv = mechanism(CKM_AES_CBC, &vec![0x41; length]);
        let call = Call::C_EncryptInit(session(1), iv, ObjectHandle(1));
        assert_eq!(rv(call), TOLD | length as u64);
    }
}

#[test]
fn stops_a_parameter_that_may_hold_an_address() {
    let (s, key) = (session(7), ObjectHandle(1));
    let gcm = || mechanism(CKM_AES_GCM, &[0x41; 48]);
    let none = Template::default;
    for call in [
        Call::C_EncryptInit(s, gcm(), key),
        Call::C_SignInit(s, gcm(), key),
        Call::C_DigestInit(s, gcm()),
        Call::C_GenerateKey(s, gcm(), none()),
        Call::C_GenerateKeyPair(s, gcm(), none(), none()),
        Call::C_WrapKey(s, gcm(), key, key),
        Call::C_UnwrapKey(s, gcm(), key, b"", none()),
        Call::C_DeriveKey(s, gcm(), key, none()),
    ] {
        assert_eq!(
            rv(call.clone()),
            CkRv::MECHANISM_PARAM_INVALID.0,
            "{call:?}"
        );
    }
    let listed = mechanism(CKM_VENDOR, &[0x41; 5]);
    assert_eq!(rv(Call::C_EncryptInit(s, listed, key)), TOLD | 5);
    let unlisted = mechanism(CKM_VENDOR + 1, &[0x41; 5]);
    let refused = rv(Call::C_EncryptInit(s, unlisted, key));
    assert_eq!(refused, CkRv::MECHANISM_PARAM_INVALID.0);
}

#[test]
fn gives_an_empty_value_an_address_where_it_is_a_value() {
    let (s, object) = (session(1), ObjectHandle(1));
    let label = |value| template(&[(CKA_LABEL, value)]);
    assert_eq!(rv(Call::C_CreateObject(s, label(b""))), TOLD);
    assert_eq!(rv(Call::C_CreateObject(s, label(b"four"))), TOLD | 4);
    assert_eq!(rv(Call::C_FindObjectsInit(s, label(b""))), TOLD);
    assert_eq!(rv(Call::C_FindObjectsInit(s, Template::default())), TOLD);
    let set = |value| Call::C_SetAttributeValue(s, object, label(value));
    assert_eq!(rv(set(b"")), TOLD | TOLD_NULL);
    assert_eq!(rv(set(b"four")), TOLD | 4);
    let generate = Call::C_GenerateKey(s, mechanism(CKM_AES_CBC, &[]), Template::default());
    assert_eq!(rv(generate), TOLD | TOLD_NULL | TOLD_TEMPLATE);
}

#[test]
fn stops_a_template_within_a_template() {
    let (s, object) = (session(1), ObjectHandle(1));
    let nested = || template(&[(CKA_LABEL, b"four"), (CKA_WRAP_TEMPLATE, &[0x41; 24])]);
    let none = || mechanism(CKM_AES_CBC, &[]);
    for call in [
        Call::C_CreateObject(s, nested()),
        Call::C_CopyObject(s, object, nested()),
        Call::C_SetAttributeValue(s, object, nested()),
        Call::C_FindObjectsInit(s, nested()),
        Call::C_GenerateKey(s, none(), nested()),
        Call::C_GenerateKeyPair(s, none(), nested(), Template::default()),
        Call::C_GenerateKeyPair(s, none(), Template::default(), nested()),
        Call::C_UnwrapKey(s, none(), object, b"", nested()),
        Call::C_DeriveKey(s, none(), object, nested()),
    ] {
        assert_eq!(rv(call.clone()), CkRv::ATTRIBUTE_TYPE_INVALID.0, "{call:?}");
    }
    let allowed = template(&[(CKA_ALLOWED_MECHANISMS, &[0; 8])]);
    assert_eq!(rv(Call::C_CreateObject(s, allowed)), TOLD | 8);
    // An empty value holds no address, unless a length beside it says otherwise.
    let mut empty = template(&[(CKA_WRAP_TEMPLATE, b"")]);
    assert_eq!(rv(Call::C_CreateObject(s, empty.clone())), TOLD);
    empty.0[0].value_len = Ulong(24);
    let refused = rv(Call::C_CreateObject(s, empty));
    assert_eq!(refused, CkRv::ATTRIBUTE_TYPE_INVALID.0);
}

/// Returns each value with the length told beside it.
fn values(object: u64, asked: &[(u64, &[u8])]) -> (CkRv, Vec<(Vec<u8>, u64)>) {
    let call = Call::C_GetAttributeValue(session(1), ObjectHandle(object), template(asked));
    let result = result!(C_GetAttributeValue, RECORDER.call(call));
    let types = |template: &Template| -> Vec<AttributeType> {
        template
            .0
            .iter()
            .map(|attribute| attribute.attribute_type)
            .collect()
    };
    assert_eq!(types(&result.template), types(&template(asked)));
    let attributes = result.template.0.iter();
    let values = attributes.map(|attribute| (attribute.value.clone(), attribute.value_len.0));
    (result.rv, values.collect())
}

const UNAVAILABLE: (Vec<u8>, u64) = (Vec::new(), u64::MAX);

#[test]
fn answers_the_question_for_a_length_with_zeros_and_values_with_themselves() {
    let (rv, values) = values(
        1,
        &[
            (CKA_LABEL, b""),
            (CKA_LABEL, &[0; 10]),
            (CKA_LABEL, &[0; 2]),
            (CKA_APPLICATION, b""),
            (CKA_APPLICATION, &[9; 3]),
            (CKA_CLASS, b""),
            (CKA_CLASS, &[0; 8]),
            (CKA_VALUE, b""),
            (CKA_VALUE, &[0; 32]),
            (CKA_ALLOWED_MECHANISMS, &[0; 8]),
        ],
    );
    assert_eq!(rv, CkRv::ATTRIBUTE_SENSITIVE);
    let expected = [
        (vec![0; 5], 5),
        (b"label".to_vec(), 5),
        UNAVAILABLE,
        (vec![], 0),
        (vec![], 0),
        (vec![0; 8], 8),
        (vec![4, 0, 0, 0, 0, 0, 0, 0], 8),
        UNAVAILABLE,
        UNAVAILABLE,
        (b"12345678".to_vec(), 8),
    ];
    assert_eq!(values, expected);
}

#[test]
fn makes_unavailable_what_has_a_length_beyond_its_room() {
    let asked: [(u64, &[u8]); 6] = [
        (CKA_OWNER, b""),
        (CKA_OWNER, &[0; 8]),
        (CKA_SUBJECT, &[0; 8]),
        (CKA_AC_ISSUER, b""),
        (CKA_AC_ISSUER, b""),
        (CKA_LABEL, b""),
    ];
    let (rv, values) = values(1, &asked);
    assert_eq!(rv, CkRv::OK);
    assert_eq!(values[..3], [UNAVAILABLE, UNAVAILABLE, UNAVAILABLE]);
    // The size of a long value comes without zeros.
    let long = (vec![], 60_000_000);
    assert_eq!(values[3..], [long.clone(), long, (vec![0; 5], 5)]);
}

/// What the original sends for a wrong handle, observed with a raw client.
#[test]
fn gives_back_what_a_failing_call_leaves_alone() {
    let asked: [(u64, &[u8]); 4] = [
        (CKA_CLASS, b""),
        (CKA_CLASS, &[0xaa; 8]),
        (CKA_LABEL, b""),
        (CKA_LABEL, b"xyz"),
    ];
    let (rv, values) = values(9, &asked);
    assert_eq!(rv, CkRv::OBJECT_HANDLE_INVALID);
    let expected = [
        (vec![0; 8], 8),
        (vec![0xaa; 8], 8),
        (vec![], 0),
        (b"xyz".to_vec(), 3),
    ];
    assert_eq!(values, expected);
}

#[test]
fn asks_for_the_size_of_templates_within_the_template_only() {
    fn wrap(room: &[u8]) -> (u64, &[u8]) {
        (CKA_WRAP_TEMPLATE, room)
    }
    fn unwrap(room: &[u8]) -> (u64, &[u8]) {
        (CKA_UNWRAP_TEMPLATE, room)
    }
    let room = &[0x41; 48][..];
    let label = (CKA_LABEL, &[0; 9][..]);
    let said = (b"label".to_vec(), 5);
    let none = (vec![], 0);
    // Sizes are returned, and the value of an empty array.
    assert_eq!(
        values(1, &[wrap(b""), label, unwrap(b""), unwrap(room)]),
        (
            CkRv::OK,
            vec![(vec![0; 48], 48), said.clone(), none.clone(), none]
        )
    );
    assert_eq!(
        values(1, &[wrap(room), label, wrap(&[1])]),
        (
            CkRv::ATTRIBUTE_TYPE_INVALID,
            vec![UNAVAILABLE, said, UNAVAILABLE]
        )
    );
    let (rv, _) = values(1, &[wrap(room), (CKA_VALUE, b"")]);
    assert_eq!(rv, CkRv::ATTRIBUTE_SENSITIVE);
    let (rv, answered) = values(9, &[wrap(room)]);
    assert_eq!(rv, CkRv::OBJECT_HANDLE_INVALID);
    assert!(answered[0].0.is_empty());
}

#[test]
fn passes_an_empty_pin_as_null_where_the_token_has_a_keypad() {
    let s = session;
    let login = |pin| rv(Call::C_Login(s(1), UserType(1), pin));
    assert_eq!((login(b""), login(b"1234")), (TOLD | TOLD_NULL, TOLD | 4));

    let init = |number, pin| rv(Call::C_InitPIN(s(number), pin));
    assert_eq!(init(1, b"1234"), TOLD | 4);
    assert_eq!(init(1, b""), TOLD | TOLD_NULL);
    assert_eq!(init(2, b""), CkRv::PIN_INVALID.0);
    assert_eq!(init(3, b""), TOLD); // no token info
    assert_eq!(init(9, b""), TOLD); // no session info

    let set = |number, old, new| rv(Call::C_SetPIN(s(number), old, new));
    assert_eq!(set(2, b"12", b"1234"), TOLD | 0x24);
    assert_eq!(set(2, b"", b"1234"), TOLD | 0x04);
    assert_eq!(set(2, b"12", b""), TOLD | 0x20);
    assert_eq!(set(1, b"", b""), TOLD | TOLD_NULL);
    assert_eq!(set(2, b"", b""), CkRv::PIN_INVALID.0);
    assert_eq!(set(3, b"", b""), TOLD);

    let token = |slot, pin| rv(Call::C_InitToken(SlotId(slot), pin, b"gate\0way"));
    assert_eq!(token(2, b"1234"), TOLD | 4);
    assert_eq!(token(1, b""), TOLD | TOLD_NULL);
    assert_eq!(token(2, b""), CkRv::ARGUMENTS_BAD.0);
    assert_eq!(token(3, b""), TOLD);
}
