//! Tests the actions on keys that already exist.

use xdr::Function::*;
use xdr::{Call, CkRv, Cryptoki, ObjectHandle, Reply};

use crate::chain::{ALL, Chain, KEY_USES, S, SOME, everywhere, mechanism, t, use_of};
use crate::token::{Reads, Token};

const CONFLICTING: &str = "conflicting_attributes_patch_on_existing_objects";
const MODES: [&str; 3] = [
    "dangerous_sensitive_keys_paranoid",
    "dangerous_sensitive_keys_escrow_encrypt",
    "dangerous_sensitive_keys_escrow_all",
];

fn found(chain: &Chain<'_>) -> Vec<ObjectHandle> {
    match chain.call(Call::C_FindObjects(S, SOME)) {
        Reply::C_FindObjects(found) => found.objects,
        other => panic!("{other:?}"),
    }
}

/// Whether the key is refused. Asserts that either all functions that use a key refuse it, or none.
fn is_blocked(token: &Token, chain: &Chain<'_>, key: ObjectHandle) -> bool {
    let good = token.put("CLASS=#4 EXTRACTABLE=T");
    let mut answers = Vec::new();
    let mut judge = |call: Call<'_>| {
        token.calls();
        let reply = chain.call(call);
        let is_blocked = reply.rv() == CkRv::OBJECT_HANDLE_INVALID;
        // A refused call did not reach the module.
        let reads = token.calls();
        assert_eq!(
            is_blocked,
            reads.iter().all(|it| *it == C_GetAttributeValue)
        );
        assert!(reads.len() <= 3);
        match reply {
            Reply::C_WrapKey(reply) if is_blocked => assert!(reply.data.is_empty()),
            Reply::C_DeriveKey(reply) if is_blocked => assert_eq!(reply.object, None),
            _ => {}
        }
        answers.push(is_blocked);
    };
    for function in KEY_USES {
        if function != C_FindObjects {
            judge(use_of(function, key, good));
        }
    }
    judge(use_of(C_WrapKey, good, key));
    // The original lets any key be used in these; ours does not.
    judge(use_of(C_SetOperationState, key, ObjectHandle(0)));
    judge(use_of(C_SetOperationState, ObjectHandle(0), key));
    let concatenated = mechanism(0x360, &key_bytes(key));
    judge(Call::C_DeriveKey(S, concatenated, good, t("CLASS=#4")));
    // CKM_HKDF_DERIVE with the key as its salt.
    let salt = [[0; 5 * WORD].as_slice(), &key_bytes(key), &[0; 2 * WORD]].concat();
    let extracted = mechanism(0x402a, &salt);
    judge(Call::C_DeriveKey(S, extracted, good, t("CLASS=#4")));
    answers.push(!found(chain).contains(&key));
    assert!(answers.iter().all(|it| *it == answers[0]), "{answers:?}");
    answers[0]
}

const WORD: usize = size_of::<std::ffi::c_ulong>();

fn key_bytes(key: ObjectHandle) -> Vec<u8> {
    let number = std::ffi::c_ulong::try_from(key.0).expect("a small number");
    number.to_ne_bytes().to_vec()
}

/// A parameter that might name a key, of a size that the standard does not have.
#[test]
fn takes_no_parameter_that_may_name_a_key_unseen() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere(CONFLICTING));
    let key = token.put("CLASS=#4 SENSITIVE=T");
    for length in [1, WORD - 1, WORD + 1] {
        let odd = mechanism(0x360, &vec![1; length]);
        let rv = chain.rv(Call::C_DeriveKey(S, odd, key, t("CLASS=#4")));
        assert_eq!(rv, CkRv::MECHANISM_PARAM_INVALID);
    }
    let other = mechanism(0x1082, &[1; 3]);
    let rv = chain.rv(Call::C_DeriveKey(S, other, key, t("CLASS=#4")));
    assert_eq!(rv, CkRv::OK);
}

#[test]
fn uses_no_key_with_conflicting_attributes() {
    for (had, all, segregated) in [
        ("WRAP=T DECRYPT=T", true, true),
        ("WRAP=T DECRYPT=0x02", true, true),
        ("UNWRAP=T ENCRYPT=T", true, true),
        ("SENSITIVE=F EXTRACTABLE=F", true, true),
        ("WRAP=T SENSITIVE=T ALWAYS_SENSITIVE=F", true, true),
        ("ENCRYPT=T SIGN=T", false, true),
        ("DECRYPT=T UNWRAP=T", false, true),
        ("ENCRYPT=T DECRYPT=T", false, false),
        ("LABEL=x", false, false),
    ] {
        for (is_segregated, expected) in [(false, all), (true, segregated)] {
            let token = Token::new();
            let chain = Chain::new(&token, &everywhere(CONFLICTING)).segregated(is_segregated);
            let key = token.put(&format!("CLASS=#4 EXTRACTABLE=T {had}"));
            assert_eq!(is_blocked(&token, &chain, key), expected, "{had}");
            // The key can still be used otherwise.
            let destroyed = chain.rv(Call::C_DestroyObject(S, key));
            assert_eq!(destroyed, CkRv::OK);
        }
    }
}

/// The table of the three modes. Imported keys are those made with C_CreateObject and SENSITIVE.
#[test]
fn uses_sensitive_keys_that_were_known_for_escrow_only() {
    let table = [
        (
            "LOCAL=T SENSITIVE=T ALWAYS_SENSITIVE=T",
            [false, false, false],
        ),
        (
            "LOCAL=F SENSITIVE=T ALWAYS_SENSITIVE=F ENCRYPT=T DECRYPT=F",
            [true, false, false],
        ),
        (
            "LOCAL=F SENSITIVE=T ALWAYS_SENSITIVE=F ENCRYPT=F DECRYPT=T WRAP=T",
            [true, false, false],
        ),
        (
            "LOCAL=F SENSITIVE=T ALWAYS_SENSITIVE=F ENCRYPT=F SIGN=T",
            [true, true, false],
        ),
        ("SENSITIVE=T ALWAYS_SENSITIVE=F SIGN=T", [true, true, false]),
        (
            "LOCAL=T SENSITIVE=T ALWAYS_SENSITIVE=F ENCRYPT=T",
            [true, true, true],
        ),
        (
            "LOCAL=T SENSITIVE=F ALWAYS_SENSITIVE=F ENCRYPT=T",
            [false, false, false],
        ),
        ("LABEL=x", [false, false, false]),
    ];
    for (had, expected) in table {
        for (mode, expected) in MODES.into_iter().zip(expected) {
            let token = Token::new();
            let chain = Chain::new(&token, &everywhere(mode));
            let key = token.put(&format!("CLASS=#4 EXTRACTABLE=T {had}"));
            assert_eq!(is_blocked(&token, &chain, key), expected, "{mode}: {had}");
        }
    }
}

/// The original answers CKR_OBJECT_HANDLE_INVALID to everything, and an RPC error if it cannot read CKA_LOCAL.
#[test]
fn gives_the_errors_of_the_module_and_hides_what_it_cannot_read() {
    for action in MODES.into_iter().chain([CONFLICTING]) {
        let token = Token::new();
        let chain = Chain::new(&token, &everywhere(action));
        let key = token.put("CLASS=#4");
        for (rv, expected) in [
            (CkRv::DEVICE_REMOVED, CkRv::DEVICE_REMOVED),
            (CkRv::SESSION_CLOSED, CkRv::SESSION_CLOSED),
            (CkRv::ATTRIBUTE_SENSITIVE, CkRv::OBJECT_HANDLE_INVALID),
            (CkRv(0x8000_0001), CkRv::OBJECT_HANDLE_INVALID),
        ] {
            token.reads(Reads::Not(rv));
            for function in KEY_USES.into_iter().filter(|it| *it != C_FindObjects) {
                assert_eq!(chain.rv(use_of(function, key, key)), expected);
            }
            assert!(found(&chain).is_empty());
        }
    }
}

#[test]
fn checks_no_key_where_none_is_named() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere(CONFLICTING));
    let none = ObjectHandle(0);
    let rv = chain.rv(use_of(C_SetOperationState, none, none));
    assert_eq!(rv, CkRv::OK);
    assert_eq!(token.calls(), [C_SetOperationState]);
}

/// Only ours has this action: a wrapped key is no safer than the key that wraps it.
#[test]
fn wraps_with_strong_keys_only() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere("strong_wrapping_keys"));
    let modulus = |bytes: usize| format!("CLASS=#2 KEY_TYPE=#0 MODULUS=0x00{}", "ff".repeat(bytes));
    let weak = CkRv::WRAPPING_KEY_SIZE_RANGE;
    let wrapped = token.put("CLASS=#4");
    for (key, rv) in [
        (modulus(256).as_str(), CkRv::OK),
        (&modulus(512), CkRv::OK),
        (&modulus(255), weak),
        (&modulus(64), weak),
        (&modulus(4096), weak),
        ("CLASS=#2 KEY_TYPE=#0", weak),
        ("CLASS=#4 KEY_TYPE=#31", CkRv::OK),
        ("CLASS=#4 KEY_TYPE=#21", CkRv::OK),
        ("CLASS=#4 KEY_TYPE=#19", weak),
        ("CLASS=#4 KEY_TYPE=#20", weak),
        ("CLASS=#4 KEY_TYPE=#16 VALUE_LEN=#14", CkRv::OK),
        ("CLASS=#4 KEY_TYPE=#16 VALUE_LEN=#13", weak),
        ("CLASS=#4 KEY_TYPE=#16", weak),
        ("CLASS=#4 VALUE_LEN=#32", weak),
    ] {
        let wrapping = token.put(key);
        token.calls();
        let call = Call::C_WrapKey(S, mechanism(0x2109, &[]), wrapping, wrapped, ALL);
        assert_eq!(chain.rv(call), rv, "{key}");
        let reads = token.calls();
        let count = reads
            .iter()
            .filter(|it| **it == C_GetAttributeValue)
            .count();
        assert!(count <= 2, "{reads:?}");
    }
    let unwrap = |chain: &Chain, template: &str| {
        let unwrapping = token.put(&modulus(64));
        let kind = mechanism(0x2109, &[]);
        chain.rv(Call::C_UnwrapKey(
            S,
            kind,
            unwrapping,
            (&[1]).into(),
            t(template),
        ))
    };
    assert_eq!(unwrap(&chain, "CLASS=#4 KEY_TYPE=#16"), CkRv::OK);
    // A part of a key can be found by trying.
    for (length, rv) in [
        ("#14", CkRv::OK),
        ("#13", CkRv::TEMPLATE_INCONSISTENT),
        ("#1", CkRv::TEMPLATE_INCONSISTENT),
        ("0x01", CkRv::TEMPLATE_INCONSISTENT),
    ] {
        let template = format!("CLASS=#4 KEY_TYPE=#16 VALUE_LEN={length}");
        assert_eq!(unwrap(&chain, &template), rv, "{length}");
    }
    // The same keystream for two keys: CTR, OFB, CFB, ChaCha20.
    let wrapping = token.put("CLASS=#4 KEY_TYPE=#31");
    for (kind, rv) in [
        (0x1082, CkRv::OK),
        (0x1086, CkRv::MECHANISM_INVALID),
        (0x2104, CkRv::MECHANISM_INVALID),
        (0x2107, CkRv::MECHANISM_INVALID),
        (0x1226, CkRv::MECHANISM_INVALID),
        (0x1087, CkRv::MECHANISM_INVALID),
    ] {
        let call = Call::C_WrapKey(S, mechanism(kind, &[]), wrapping, wrapped, ALL);
        assert_eq!(chain.rv(call), rv, "{kind:x}");
    }
    token.reads(Reads::Not(CkRv::SESSION_HANDLE_INVALID));
    let call = Call::C_WrapKey(S, mechanism(0x2109, &[]), wrapped, wrapped, ALL);
    assert_eq!(chain.rv(call), CkRv::SESSION_HANDLE_INVALID);
    token.reads(Reads::Not(CkRv::ATTRIBUTE_SENSITIVE));
    let call = Call::C_WrapKey(S, mechanism(0x2109, &[]), wrapped, wrapped, ALL);
    assert_eq!(chain.rv(call), weak);
}
