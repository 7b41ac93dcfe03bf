//! Tests that values of keys cannot be read, and that attributes that say where a key is from cannot be written.

use xdr::{
    Answers, Attribute, Call, CkRv, Cryptoki, Found, Function, ObjectHandle, Query, Reply,
    SessionHandle, Wanted, WantedRoom,
};

use crate::chain::{Chain, S, attributes, everywhere, number, query, t};
use crate::token::{Reads, Token};

const LEAK: &str = "prevent_sensitive_leak_patch";
const VALUES: [&str; 6] = [
    "PRIVATE_EXPONENT",
    "PRIME_1",
    "PRIME_2",
    "EXPONENT_1",
    "EXPONENT_2",
    "COEFFICIENT",
];
const RSA: &str = "CLASS=#3 KEY_TYPE=#0 LABEL=key ID=0x0102 MODULUS=0x99 PRIVATE_EXPONENT=0x05 \
    PRIME_1=0x07 PRIME_2=0x0b EXPONENT_1=0x0d EXPONENT_2=0x11 COEFFICIENT=0x13";

fn get(of: &dyn Cryptoki, object: ObjectHandle, asked: Option<Query>) -> (CkRv, Answers) {
    match of.call(Call::C_GetAttributeValue(S, object, asked)) {
        Reply::C_GetAttributeValue(result) => (result.rv, result.answers),
        other => panic!("{other:?}"),
    }
}

/// Makes the question of a client of version 3: an empty value asks for the length, any other value is the buffer.
fn asked(text: &str) -> Option<Query> {
    let wanted = |attribute: &Attribute| Wanted {
        attribute_type: attribute.attribute_type,
        room: match attribute.bytes() {
            [] => WantedRoom::Null { length: 0 },
            content => WantedRoom::Buffer {
                room: content.len() as u64,
                content: Some(content.to_vec()),
            },
        },
    };
    Some(Query(attributes(text).0.iter().map(wanted).collect()))
}

/// The values are unavailable, each under its own type; the other attributes are as in the token. For RSA keys, the
/// original answers CKR_OK, with VALUE in place of the attributes that it took out and zeros in place of the others,
/// and fails on some orders.
#[test]
fn keeps_values_wherever_they_are_asked_for() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere(LEAK));
    let key = token.put(&format!("{RSA} SENSITIVE=T EXTRACTABLE=F"));
    let mut orders: Vec<Vec<&str>> = vec![
        vec!["COEFFICIENT", "LABEL", "PRIVATE_EXPONENT"],
        vec!["LABEL", "COEFFICIENT", "ID"],
        vec!["VALUE", "LABEL", "VALUE"],
        vec!["MODULUS", "LABEL", "ID", "PRIME_2"],
        VALUES.to_vec(),
        [&["LABEL"], &VALUES[..], &["ID"]].concat(),
    ];
    orders.extend(VALUES.map(|name| vec![name]));
    orders.extend(VALUES.map(|name| vec!["LABEL", name]));
    orders.extend(VALUES.map(|name| vec![name, "MODULUS", name]));
    for order in orders {
        for room in [0, 8] {
            token.calls();
            let (rv, answered) = get(&chain, key, query(&order, room));
            assert_eq!(rv, CkRv::ATTRIBUTE_SENSITIVE, "{order:?}");
            assert!(token.calls().len() <= 2);
            let (_, direct) = get(&token, key, query(&order, room));
            assert_eq!(answered.0.len(), order.len());
            for ((name, answer), direct) in order.iter().zip(&answered.0).zip(&direct.0) {
                assert!(answer.attribute_type == number(name));
                if *name == "VALUE" || VALUES.contains(name) {
                    assert!(answer.found == Found::Unavailable);
                } else {
                    assert!(answer == direct, "{order:?}: {name}");
                }
            }
        }
    }
    // A question without values is passed to the token unchanged.
    let rest = query(&["LABEL", "MODULUS", "CLASS"], 8);
    let direct = get(&token, key, rest.clone());
    assert!(get(&chain, key, rest) == direct);
    assert_eq!(direct.0, CkRv::OK);
}

/// An error of the token that is not about attributes is returned to the client.
#[test]
fn gives_the_errors_of_the_module() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere(LEAK));
    let key = token.put("CLASS=#4 SENSITIVE=T LABEL=key");
    // An attribute that the object does not have, and one that needs more room.
    for rest in ["MODULUS=", "LABEL=x"] {
        let (rv, answers) = get(&chain, key, asked(&format!("VALUE= {rest}")));
        assert_eq!(rv, CkRv::ATTRIBUTE_SENSITIVE);
        assert!(answers.0[1].found == Found::Unavailable);
    }
    // The attributes are returned as the client sent them.
    let echoed = asked("VALUE= LABEL=abc");
    let (rv, answers) = get(&chain, ObjectHandle(7), echoed.clone());
    assert_eq!(rv, CkRv::OBJECT_HANDLE_INVALID);
    let said: Vec<_> = answers.0.iter().map(|it| it.attribute_type).collect();
    assert_eq!(said, [number("VALUE"), number("LABEL")]);
    assert!(answers.0[0].found == Found::Length(0));
    assert!(answers.0[1].found == Found::Bytes(b"abc".to_vec()));
    let (_, answers) = get(&chain, ObjectHandle(7), query(&["LABEL"], 3));
    assert!(answers.0[0].found == Found::Untouched);
    for (rv, expected) in [
        (CkRv::DEVICE_ERROR, CkRv::DEVICE_ERROR),
        (CkRv::KEY_HANDLE_INVALID, CkRv::KEY_HANDLE_INVALID),
        (CkRv::ATTRIBUTE_SENSITIVE, CkRv::ATTRIBUTE_VALUE_INVALID),
        (CkRv(0x8000_0001), CkRv::ATTRIBUTE_VALUE_INVALID),
    ] {
        token.reads(Reads::Not(rv));
        assert_eq!(get(&chain, key, echoed.clone()).0, expected);
    }
    token.reads(Reads::Well);
    let elsewhere = Call::C_GetAttributeValue(SessionHandle(2), key, echoed);
    assert_eq!(chain.rv(elsewhere), CkRv::SESSION_HANDLE_INVALID);
}

/// The original protects the values of extractable keys, although it means those of keys that are not extractable.
#[test]
fn keeps_the_value_of_every_key() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere(LEAK));
    for (object, is_kept) in [
        ("CLASS=#4 SENSITIVE=T EXTRACTABLE=T", true),
        ("CLASS=#4 SENSITIVE=F EXTRACTABLE=T", true),
        ("CLASS=#4 SENSITIVE=F EXTRACTABLE=F", true),
        ("CLASS=#4 SENSITIVE=F", true),
        ("CLASS=#4", true),
        ("CLASS=#3 EXTRACTABLE=F", true),
        ("CLASS=#3", true),
        ("CLASS=#8", true),
        ("CLASS=#2147483649", true),
        ("LABEL=x", true),
        ("CLASS=#2", false),
        ("CLASS=#1", false),
        ("CLASS=#0", false),
        ("CLASS=#0 EXTRACTABLE=T", true),
    ] {
        let object_handle = token.put(&format!("{object} VALUE=0x0102 SEED=0x03"));
        for name in ["VALUE", "SEED"] {
            let (rv, answers) = get(&chain, object_handle, query(&[name], 8));
            let said = if object.contains("SENSITIVE=T") || is_kept {
                CkRv::ATTRIBUTE_SENSITIVE
            } else {
                CkRv::OK
            };
            assert_eq!(rv, said, "{object}");
            assert_eq!(answers.0[0].bytes().is_none(), is_kept, "{object}");
        }
        let set = |text| chain.rv(Call::C_SetAttributeValue(S, object_handle, t(text)));
        let expected = if is_kept {
            CkRv::ATTRIBUTE_READ_ONLY
        } else {
            CkRv::OK
        };
        assert_eq!(set("LABEL=x VALUE=0x09"), expected, "{object}");
        assert_eq!(set("PRIME_1=0x09"), expected, "{object}");
    }
}

#[test]
fn writes_nothing_that_only_the_token_knows() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere(LEAK));
    let data = token.put("CLASS=#0");
    let set = |object, text: &str| chain.rv(Call::C_SetAttributeValue(S, object, t(text)));
    for name in ["ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE", "LOCAL"] {
        for value in ["T", "F", "", "0x0203"] {
            let text = format!("LABEL=x {name}={value}");
            token.calls();
            assert_eq!(set(data, &text), CkRv::ATTRIBUTE_READ_ONLY, "{text}");
            assert_eq!(token.calls(), [Function::C_GetAttributeValue]);
        }
    }
    assert_eq!(set(data, "LABEL=x"), CkRv::OK);
    assert_eq!(set(ObjectHandle(7), "LABEL=x"), CkRv::OBJECT_HANDLE_INVALID);
    token.reads(Reads::Not(CkRv::ATTRIBUTE_SENSITIVE));
    assert_eq!(set(data, "LABEL=x"), CkRv::ATTRIBUTE_READ_ONLY);
}
