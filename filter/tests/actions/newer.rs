//! Tests the actions with calls that only version 4 has: authenticated wrapping, encapsulation, room for results,
//! templates that are NULL, and templates of the keys that new keys are made with.

use xdr::Function::*;
use xdr::{
    Answer, Answers, AttributeType, AttributesResult, Call, CkRv, Cryptoki, Found, Function,
    Mechanism, MechanismOutputResult, ObjectHandle, Query, Reply, Room, Template, Wanted,
    WantedRoom,
};

use crate::chain::{
    ALL, Chain, S, attributes, everywhere, made, mechanism, number, patch_set_1, patch_set_2, t,
};
use crate::token::Token;

fn m() -> Option<Mechanism> {
    mechanism(0x1082, &[0; 16])
}

/// Makes calls of C_WrapKey and C_WrapKeyAuthenticated with this room.
fn wraps(wrapping: ObjectHandle, key: ObjectHandle, room: Room) -> [Call<'static>; 2] {
    [
        Call::C_WrapKey(S, m(), wrapping, key, room),
        Call::C_WrapKeyAuthenticated(S, m(), wrapping, key, b"associated".into(), room),
    ]
}

fn wrapped(reply: Reply) -> MechanismOutputResult {
    match reply {
        Reply::C_WrapKey(result) | Reply::C_WrapKeyAuthenticated(result) => result,
        other => panic!("{other:?}"),
    }
}

/// The blob is longer than what the module wraps. The client is told its length as if the module had made all of it.
#[test]
fn tells_the_length_of_a_wrapped_key_with_its_attributes() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere("wrapping_format_patch"));
    let key = token.put("CLASS=#4 EXTRACTABLE=T");
    token.wraps_as(&[7; 16]);
    let length = 16 + 14 + 16;
    let mut blobs = Vec::new();
    for (room, rv, told, given) in [
        (ALL, CkRv::OK, length, length),
        (Room::Buffer(length), CkRv::OK, length, length),
        (Room::Buffer(99), CkRv::OK, length, length),
        (Room::QUESTION, CkRv::OK, length, 0),
        (Room::Null { length: 16 }, CkRv::OK, length, 0),
        // There is room for what the module wraps, but not for the rest.
        (Room::Buffer(16), CkRv::BUFFER_TOO_SMALL, length, 0),
        (Room::Buffer(length - 1), CkRv::BUFFER_TOO_SMALL, length, 0),
        (Room::Buffer(0), CkRv::BUFFER_TOO_SMALL, length, 0),
        (Room::NoLength, CkRv::ARGUMENTS_BAD, 0, 0),
    ] {
        for call in wraps(key, key, room) {
            let result = wrapped(chain.call(call));
            let said = (result.rv, result.length.0, result.data.len() as u64);
            assert_eq!(said, (rv, told, given), "{room:?}");
            blobs.extend(Some(result.data.to_vec()).filter(|blob| !blob.is_empty()));
        }
    }
    blobs.dedup();
    assert_eq!(blobs.len(), 1);
    // The errors of the module come first.
    let none = ObjectHandle(7);
    for call in wraps(none, key, Room::NoLength) {
        assert_eq!(chain.rv(call), CkRv::WRAPPING_KEY_HANDLE_INVALID);
    }
}

#[test]
fn unwraps_with_authentication_as_what_was_wrapped() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere("wrapping_format_patch"));
    let key = token.put("CLASS=#4 EXTRACTABLE=T ENCRYPT=T DECRYPT=F");
    token.wraps_as(&[7; 16]);
    let [_, wrap] = wraps(key, key, ALL);
    let blob = wrapped(chain.call(wrap)).data.to_vec();
    let unwrap = |blob: &[u8], template: &str| {
        let data = b"associated".into();
        let template = t(template);
        chain.call(Call::C_UnwrapKeyAuthenticated(
            S,
            m(),
            key,
            blob.into(),
            template,
            data,
        ))
    };
    let again = made(unwrap(&blob, "CLASS=#4 ENCRYPT=T"));
    assert_eq!(token.unwrapped(), [7; 16]);
    token.has(
        again,
        "ENCRYPT=T DECRYPT=F WRAP=F SENSITIVE=T EXTRACTABLE=F",
    );
    let inconsistent = CkRv::TEMPLATE_INCONSISTENT;
    assert_eq!(unwrap(&blob, "CLASS=#4 DECRYPT=T").rv(), inconsistent);
    assert_eq!(unwrap(&blob[..16], "CLASS=#4").rv(), CkRv::FUNCTION_FAILED);
    let mut altered = blob.clone();
    altered[20] ^= 1;
    assert_eq!(unwrap(&altered, "CLASS=#4").rv(), CkRv::FUNCTION_FAILED);
    // NULL counts as a template without attributes.
    let call = Call::C_UnwrapKeyAuthenticated(
        S,
        m(),
        key,
        blob.as_slice().into(),
        None,
        b"associated".into(),
    );
    assert_eq!(chain.rv(call), CkRv::FUNCTION_FAILED);
}

#[test]
fn completes_and_judges_a_template_that_is_null() {
    let token = Token::new();
    for set in [patch_set_1(), patch_set_2()] {
        let chain = Chain::new(&token, &set);
        let key = made(chain.call(Call::C_GenerateKey(S, m(), None)));
        token.has(key, "WRAP=F DECRYPT=F SENSITIVE=T EXTRACTABLE=F PRIVATE=T");
        let pair = Call::C_GenerateKeyPair(S, m(), None, None);
        let Reply::C_GenerateKeyPair(pair) = chain.call(pair) else {
            panic!("another function's reply");
        };
        token.has(pair.public_key.expect("it is made"), "WRAP=F ENCRYPT=F");
        token.has(
            pair.private_key.expect("it is made"),
            "UNWRAP=F SENSITIVE=T",
        );
        let half = Call::C_GenerateKeyPair(S, m(), None, t("WRAP=T DECRYPT=T"));
        assert!(!chain.rv(half).is_ok());
        for call in [
            Call::C_CreateObject(S, None),
            Call::C_DeriveKey(S, m(), key, None),
        ] {
            assert_eq!(chain.rv(call), CkRv::TEMPLATE_INCOMPLETE);
        }
        token.calls();
        assert_eq!(chain.rv(Call::C_CopyObject(S, key, None)), CkRv::OK);
        let set = Call::C_SetAttributeValue(S, key, None);
        assert_eq!(chain.rv(set), CkRv::ARGUMENTS_BAD);
    }
}

/// A module in which one key has an attribute that is an array of attributes.
struct WithTemplate<'a> {
    token: &'a Token,
    key: ObjectHandle,
    attribute: AttributeType,
    template: Template,
    /// The CK_RV that is returned instead of the array.
    rv: CkRv,
}

impl WithTemplate<'_> {
    fn found(&self, room: &WantedRoom) -> Found {
        let inside = match room {
            WantedRoom::Null { .. } => {
                return Found::TemplateLength(self.template.0.len() as u64);
            }
            WantedRoom::Buffer { .. } => return Found::Unavailable,
            WantedRoom::Template(inside) => inside,
        };
        let answer = |(wanted, has): (&Wanted, &xdr::Attribute)| Answer {
            attribute_type: has.attribute_type,
            found: match &wanted.room {
                WantedRoom::Null { .. } => Found::Length(has.bytes().len() as u64),
                WantedRoom::Buffer { room, .. } if *room >= has.bytes().len() as u64 => {
                    Found::Bytes(has.bytes().to_vec())
                }
                _ => Found::Unavailable,
            },
        };
        let pairs = inside.0.iter().zip(&self.template.0);
        Found::Template(Answers(pairs.map(answer).collect()))
    }
}

impl Cryptoki for WithTemplate<'_> {
    fn call(&self, call: Call<'_>) -> Reply {
        match &call {
            Call::C_GetAttributeValue(_, key, Some(Query(query)))
                if *key == self.key && query[0].attribute_type == self.attribute =>
            {
                let answers = query.iter().map(|wanted| Answer {
                    attribute_type: wanted.attribute_type,
                    found: match self.rv {
                        CkRv::OK => self.found(&wanted.room),
                        _ => Found::Unavailable,
                    },
                });
                Reply::C_GetAttributeValue(AttributesResult {
                    rv: self.rv,
                    answers: Answers(answers.collect()),
                })
            }
            _ => self.token.call(call),
        }
    }
}

/// Functions that make a key with a key, and the attribute of that key that lists attributes of the keys made with it.
const MAKERS: [(Function, u64); 5] = [
    (C_UnwrapKey, 0x4000_0212),
    (C_UnwrapKeyAuthenticated, 0x4000_0212),
    (C_DeriveKey, 0x4000_0213),
    (C_EncapsulateKey, 0x62a),
    (C_DecapsulateKey, 0x62b),
];

fn make(function: Function, key: ObjectHandle, template: &str) -> Call<'static> {
    let data = b"data".into();
    match function {
        C_UnwrapKey => Call::C_UnwrapKey(S, m(), key, data, t(template)),
        C_UnwrapKeyAuthenticated => {
            Call::C_UnwrapKeyAuthenticated(S, m(), key, data, t(template), data)
        }
        C_DeriveKey => Call::C_DeriveKey(S, m(), key, t(template)),
        C_EncapsulateKey => Call::C_EncapsulateKey(S, m(), key, t(template), ALL),
        C_DecapsulateKey => Call::C_DecapsulateKey(S, m(), key, t(template), data),
        other => panic!("{other:?}"),
    }
}

/// The module adds attributes to a new key that the key which makes it asks for. They count as if the client had set
/// them.
#[test]
fn judges_what_the_key_adds_to_the_template_of_a_new_key() {
    for (function, attribute) in MAKERS {
        for (action, refusal) in [
            (
                "conflicting_attributes_patch",
                CkRv::ATTRIBUTE_VALUE_INVALID,
            ),
            ("secure_templates_patch", CkRv::TEMPLATE_INCONSISTENT),
        ] {
            let token = Token::new();
            let judge = |added: &str, said: &str, rv: CkRv| {
                let key = token.put("CLASS=#4 DERIVE=T UNWRAP=T");
                let module = WithTemplate {
                    token: &token,
                    key,
                    attribute: AttributeType(attribute),
                    template: attributes(added),
                    rv,
                };
                let chain = Chain::new(&module, &everywhere(action));
                chain.rv(make(function, key, &format!("CLASS=#4 {said}")))
            };
            let name = function.name();
            for (added, said, rv) in [
                ("", "UNWRAP=T", CkRv::OK),
                ("SIGN=T", "UNWRAP=T", CkRv::OK),
                ("LABEL=x SIGN=T ID=0x0102", "UNWRAP=T", CkRv::OK),
                ("LABEL=x WRAP=T", "DECRYPT=T", refusal),
                ("WRAP=T DECRYPT=T", "LABEL=x", refusal),
                ("WRAP=0x02", "DECRYPT=T", refusal),
            ] {
                assert_eq!(judge(added, said, CkRv::OK), rv, "{name}: {added}, {said}");
            }
            let unreadable = judge("SIGN=T", "UNWRAP=T", CkRv::DEVICE_ERROR);
            assert_eq!(unreadable, CkRv::DEVICE_ERROR, "{name}");
            // The module does not have this attribute.
            let none = judge("SIGN=T", "UNWRAP=T", CkRv::ATTRIBUTE_TYPE_INVALID);
            assert_eq!(none, CkRv::OK, "{name}");
            let strange = judge("SIGN=T", "UNWRAP=T", CkRv::VENDOR_DEFINED);
            assert!(!strange.is_ok(), "{name}");
        }
    }
}

/// The error is the one that a module returns for a key that does not exist.
#[test]
fn says_of_a_key_that_does_not_exist_what_a_module_says() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere("conflicting_attributes_patch"));
    let unwrap = make(C_UnwrapKey, ObjectHandle(7), "CLASS=#4");
    assert_eq!(chain.rv(unwrap), CkRv::UNWRAPPING_KEY_HANDLE_INVALID);
    let derive = make(C_DeriveKey, ObjectHandle(7), "CLASS=#4");
    assert_eq!(chain.rv(derive), CkRv::OBJECT_HANDLE_INVALID);
}

/// Values are withheld inside of arrays as well.
#[test]
fn keeps_values_inside_of_arrays() {
    let token = Token::new();
    let key = token.put("CLASS=#4 SENSITIVE=T");
    let module = WithTemplate {
        token: &token,
        key,
        attribute: AttributeType(0x4000_0212),
        template: attributes("LABEL=x VALUE=0x0102"),
        rv: CkRv::OK,
    };
    let chain = Chain::new(&module, &everywhere("prevent_sensitive_leak_patch"));
    let ask = |inside: Vec<Wanted>| {
        let wanted = Wanted {
            attribute_type: module.attribute,
            room: WantedRoom::Template(Query(inside)),
        };
        let call = Call::C_GetAttributeValue(S, key, Some(Query(vec![wanted])));
        match chain.call(call) {
            Reply::C_GetAttributeValue(result) => (result.rv, result.answers.0[0].found.clone()),
            other => panic!("{other:?}"),
        }
    };
    // Whatever the client asks for, the module decides which attributes the array has.
    for asked in ["VALUE", "LABEL"].map(number) {
        let (rv, found) = ask(vec![Wanted::value(asked, 8); 2]);
        assert_eq!(rv, CkRv::ATTRIBUTE_SENSITIVE);
        let Found::Template(Answers(inside)) = &found else {
            panic!("not an array");
        };
        assert_eq!(inside[0].bytes(), Some(&b"x"[..]));
        assert!(inside[1].found == Found::Unavailable);
    }
    let (rv, found) = ask(vec![Wanted::value(number("LABEL"), 8)]);
    assert_eq!(rv, CkRv::OK);
    assert!(matches!(&found, Found::Template(Answers(inside)) if inside.len() == 1));
}
