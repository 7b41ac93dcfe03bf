//! Tests wrapped keys with their attributes against bytes captured from the original.

use aes::Aes128;
use cmac::{Cmac, KeyInit, Mac};
use xdr::Function::*;
use xdr::{Call, CkRv, Cryptoki, ObjectHandle, Reply};

use crate::chain::{ALL, Chain, KEY, S, everywhere, hex, mechanism, t};
use crate::token::{Reads, Token};

const WRAPPING: &str = "wrapping_format_patch";

/// The attributes of the key in most of these blobs.
const AES: &str = "CLASS=#4 SENSITIVE=T EXTRACTABLE=T ALWAYS_SENSITIVE=F NEVER_EXTRACTABLE=F \
    ENCRYPT=T DECRYPT=T WRAP=T UNWRAP=T PRIVATE=T DERIVE=F SIGN=T VERIFY=T";
const GENERIC: &str = "CLASS=#4 SENSITIVE=F EXTRACTABLE=T ALWAYS_SENSITIVE=F NEVER_EXTRACTABLE=F \
    ENCRYPT=T DECRYPT=T WRAP=T UNWRAP=T PRIVATE=F DERIVE=F SIGN=T VERIFY=T";
const RSA: &str = "CLASS=#3 SENSITIVE=T EXTRACTABLE=T ALWAYS_SENSITIVE=T NEVER_EXTRACTABLE=F \
    DECRYPT=T UNWRAP=T PRIVATE=T DERIVE=F SIGN=T SIGN_RECOVER=T";

const AES_WRAPPED: &str = "69c4e0d86a7b0430d8cdb78070b4c55a";
const GENERIC_WRAPPED: &str = "0a940bb5416ef045f1c39458c653ea5a3cf456b4ca488aa383c79c98b34797cb";

/// Captured: the key, what the token returns, whether key usage is segregated, and what is added.
#[test]
fn adds_what_the_original_adds() {
    for (key, wrapped, segregated, added) in [
        (
            AES,
            AES_WRAPPED,
            false,
            "0000000401010000010101010100 4af4867c228b1e8df57ec7eea07d6116",
        ),
        (
            AES,
            AES_WRAPPED,
            true,
            "00000004010100000101010101000101ffff 5b04207ac411da243d6e6c9310d88a4f",
        ),
        (
            GENERIC,
            GENERIC_WRAPPED,
            false,
            "0000000400010000010101010000 922ec7ebab0b11b792f2a9950c77cd78",
        ),
        (
            GENERIC,
            GENERIC_WRAPPED,
            true,
            "00000004000100000101010100000101ffff fd3f4d9e8e49dbc222c253e62ea2548f",
        ),
        (RSA, "", false, "0000000301010100ff01ff010100"),
        (RSA, "", true, "0000000301010100ff01ff01010001ff01ff"),
    ] {
        let token = Token::new();
        let chain = Chain::new(&token, &everywhere(WRAPPING)).segregated(segregated);
        let (wrapping, key) = (token.put("CLASS=#4"), token.put(key));
        token.wraps_as(&hex(wrapped));
        let call = Call::C_WrapKey(S, mechanism(0x1082, &[0; 16]), wrapping, key, ALL);
        let Reply::C_WrapKey(reply) = chain.call(call) else {
            panic!("another function's reply");
        };
        assert_eq!(reply.rv, CkRv::OK);
        let mut expected = hex(&format!("{wrapped}{added}"));
        if wrapped.is_empty() {
            expected = sealed(&expected);
        }
        assert_eq!(reply.data, expected);
        assert_eq!(token.calls(), [C_WrapKey, C_GetAttributeValue]);
    }
}

/// Appends the MAC.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut mac = Cmac::<Aes128>::new_from_slice(&hex(KEY)).expect("16 bytes");
    mac.update(bytes);
    [bytes, &mac.finalize().into_bytes()].concat()
}

#[test]
fn has_the_answers_of_the_token_for_what_it_does_not_wrap() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere(WRAPPING));
    let key = token.put(AES);
    let fixed = token.put("CLASS=#4 EXTRACTABLE=F");
    let none = ObjectHandle(7);
    let wrap = |wrapping, key| {
        let call = Call::C_WrapKey(S, mechanism(0x1082, &[0; 16]), wrapping, key, ALL);
        match chain.call(call) {
            Reply::C_WrapKey(reply) => {
                assert!(reply.data.is_empty());
                reply.rv
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(wrap(key, fixed), CkRv::KEY_UNEXTRACTABLE);
    assert_eq!(wrap(key, none), CkRv::KEY_HANDLE_INVALID);
    assert_eq!(wrap(none, key), CkRv::WRAPPING_KEY_HANDLE_INVALID);
    // If the attributes cannot be read, no wrapped key is returned.
    token.reads(Reads::Not(CkRv::ATTRIBUTE_SENSITIVE));
    assert_eq!(wrap(key, key), CkRv::KEY_NOT_WRAPPABLE);
    token.reads(Reads::Not(CkRv::DEVICE_ERROR));
    assert_eq!(wrap(key, key), CkRv::DEVICE_ERROR);
    token.reads(Reads::Well);
    let strange = token.put("CLASS=#4294967295");
    assert_eq!(wrap(key, strange), CkRv::KEY_NOT_WRAPPABLE);
}

#[test]
fn does_nothing_without_a_key() {
    let token = Token::new();
    let mut chain = Chain::new(&token, &everywhere(WRAPPING));
    chain.key = None;
    let key = token.put(AES);
    let m = || mechanism(0x1082, &[0; 16]);
    assert_eq!(
        chain.rv(Call::C_WrapKey(S, m(), key, key, ALL)),
        CkRv::GENERAL_ERROR
    );
    let unwrap = Call::C_UnwrapKey(S, m(), key, b"wrapped".into(), t(BASE));
    assert_eq!(chain.rv(unwrap), CkRv::GENERAL_ERROR);
    assert!(token.calls().is_empty());
}

// Captured from the original as well.

pub const OAEP_BLOB: &str = "
    3e46d817db80abf8b60d0be1732072b0bfbb841e44ad47f6e7759b279deb43419844e21533f418a226ef719195956006
    446b0624b2ae62afcd0f93d35ab432368b8a2c3880a156cb6d55575f4e3f894f163eac3c5cbcd7f056399ebbf1e55993
    455b5f5e4637a8cc9fb634c21ac8ccf0f15091936bb0ef081d5c7ae235dc4651
    0000000401010000010101010100
    92fc06d21bfaa595d15eef98511d5964";
pub const OAEP_BLOB_SEGREGATED: &str = "
    4ff85b8d317d09eb32cc494947488c90cfb9b07195e6ec69f24fd93c581e3223de3d283ca8112b270432394c3a98fa68
    692af20344754490a28957832ae45f8555a4768b8563289d13e6ec7fdeca2711c1316fc7efa990123879b89de613e721
    e0dd906ac479cdd883838856ca4f6a818f3ef2831d7cceeaf22065bbcbafa65c
    00000004010100000101010101000101ffff
    89a524165b881d3244015f255e113994";
const BASE: &str = "CLASS=#4 KEY_TYPE=#31 TOKEN=F";

fn unwrap(chain: &Chain<'_>, blob: &[u8], template: &str) -> Result<ObjectHandle, CkRv> {
    let call = Call::C_UnwrapKey(
        S,
        mechanism(9, &[]),
        ObjectHandle(100),
        blob.into(),
        t(template),
    );
    match chain.call(call) {
        Reply::C_UnwrapKey(reply) if reply.rv.is_ok() => Ok(reply.object.expect("a handle")),
        Reply::C_UnwrapKey(reply) => {
            assert_eq!(reply.object, None);
            Err(reply.rv)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn unwraps_as_what_was_wrapped() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere(WRAPPING));
    let blob = hex(OAEP_BLOB);
    let key = unwrap(&chain, &blob, BASE).expect("it is the original's");
    token.has(key, "SENSITIVE=T EXTRACTABLE=F PRIVATE=T LOCAL=F");
    token.has(
        key,
        "ENCRYPT=F DECRYPT=F WRAP=F UNWRAP=F SIGN=F VERIFY=F DERIVE=F",
    );
    assert_eq!(token.unwrapped(), &blob[..128]);

    let no_class = "KEY_TYPE=#31 TOKEN=F";
    let inconsistent = Some(CkRv::TEMPLATE_INCONSISTENT);
    for (template, error) in [
        (format!("{BASE} ENCRYPT=T"), None),
        (format!("{BASE} ENCRYPT=F"), inconsistent),
        (format!("{BASE} ENCRYPT=0xff"), inconsistent),
        (format!("{BASE} EXTRACTABLE=F"), inconsistent),
        (format!("{BASE} DERIVE=T"), inconsistent),
        (format!("{BASE} SIGN=T"), None),
        (
            format!("{BASE} ALWAYS_SENSITIVE=F"),
            Some(CkRv::ATTRIBUTE_READ_ONLY),
        ),
        (format!("{BASE} ALWAYS_SENSITIVE=T"), inconsistent),
        ("CLASS=#3 KEY_TYPE=#31".to_owned(), inconsistent),
        (no_class.to_owned(), Some(CkRv::FUNCTION_FAILED)),
        (format!("{no_class} CLASS="), Some(CkRv::FUNCTION_FAILED)),
        (format!("{no_class} ENCRYPT=F"), inconsistent),
        (format!("{BASE} ENCRYPT=T ENCRYPT=F"), inconsistent),
        (format!("{BASE} CLASS=#3"), inconsistent),
    ] {
        let said = unwrap(&chain, &blob, &template).err();
        assert_eq!(said, error, "{template}");
    }
}

#[test]
fn unwraps_nothing_that_was_altered() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere(WRAPPING));
    let blob = hex(OAEP_BLOB);
    let altered = |at: usize| {
        let mut altered = blob.clone();
        altered[at] ^= 1;
        altered
    };
    for wrong in [
        altered(0),
        altered(130),
        altered(157),
        blob[..20].to_vec(),
        blob[..128].to_vec(),
        blob[1..].to_vec(),
        Vec::new(),
        vec![0; 30],
        sealed(&[1; 13]),
        sealed(b""),
    ] {
        assert_eq!(unwrap(&chain, &wrong, BASE), Err(CkRv::FUNCTION_FAILED));
    }
    assert!(token.calls().is_empty());
    // Under another key
    let mut other = Chain::new(&token, &everywhere(WRAPPING));
    other.key = filter::actions::WrappingKey::from_hex(&"0".repeat(32));
    assert_eq!(unwrap(&other, &blob, BASE), Err(CkRv::FUNCTION_FAILED));
}

/// An attribute that the format does not state is not restricted, even if the MAC is right.
#[test]
fn leaves_free_what_the_format_does_not_say() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere(WRAPPING));
    let no_class = sealed(&hex("00ffffffff01010000010101010100"));
    assert!(unwrap(&chain, &no_class, "CLASS=#3").is_ok());
    assert!(unwrap(&chain, &no_class, "CLASS=#3 ENCRYPT=T").is_ok());
    let not_boolean = sealed(&hex("000000000401010000010201010100"));
    assert!(unwrap(&chain, &not_boolean, "CLASS=#4 DECRYPT=F").is_ok());
    assert!(unwrap(&chain, &not_boolean, "CLASS=#4 DECRYPT=T").is_ok());
}

#[test]
fn tells_segregated_blobs_from_others() {
    let token = Token::new();
    let plain = Chain::new(&token, &everywhere(WRAPPING));
    let segregated = Chain::new(&token, &everywhere(WRAPPING)).segregated(true);
    let (off, on) = (hex(OAEP_BLOB), hex(OAEP_BLOB_SEGREGATED));
    assert!(unwrap(&segregated, &on, BASE).is_ok());
    assert_eq!(token.unwrapped(), &on[..128]);
    for (template, error) in [
        ("SIGN=T", None),
        ("SIGN=F", Some(CkRv::TEMPLATE_INCONSISTENT)),
        ("SIGN_RECOVER=F", None),
    ] {
        let said = unwrap(&segregated, &on, &format!("{BASE} {template}")).err();
        assert_eq!(said, error, "{template}");
    }
    // The fields with segregation differ from those without.
    assert!(unwrap(&segregated, &off, BASE).is_err());
    assert!(unwrap(&plain, &on, BASE).is_err());
}
