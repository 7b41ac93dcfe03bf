//! Compares the two sets of patches that come with the original, in Debian's filter.conf: the same calls to both
//! daemons must yield the same values and find the same objects.
//!
//! Left out are the departures of DIFFERENCES.md: objects that do not exist (an RPC error, or the end of the worker),
//! copies (the original does not check what is copied), roles that are given later, and the lengths of values that the
//! client may not read.

use xdr::version3::{Call, Reply};
use xdr::{Flags, ObjectHandle, Ulong, UserType};

use crate::raw::Both;
use crate::rules::Numbers;
use crate::support::original;
use crate::*;

const SENSITIVE_AND_ROLES: [u64; 10] = [
    SENSITIVE,
    EXTRACTABLE,
    ENCRYPT,
    DECRYPT,
    WRAP,
    UNWRAP,
    SIGN,
    VERIFY,
    DERIVE,
    PRIVATE,
];

const DERIVE: u64 = 0x10c;
const PRIVATE: u64 = 0x002;
const AES_CMAC: u64 = 0x108a;
const AES_CBC_ENCRYPT_DATA: u64 = 0x1105;

/// Debian's file from its forbidden mechanisms on, with one of its two sets of patches and a key.
fn debians(set: usize) -> String {
    let text = original::configuration("filter.conf");
    let chains: Vec<&str> = text.split("filter_actions_post").skip(1).collect();
    let chain = match set {
        1 => chains[0].split("(**** Fixing").next(),
        _ => chains[1].rsplit_once("*)").map(|(chain, _)| chain),
    };
    format!(
        "filter_actions_post{}
        forbidden_mechanisms = [(\"sof.*\", [CKM_RSA_X_509])]
        wrapping_format_key = \"000102030405060708090a0b0c0d0e0f\"",
        chain.expect("the two sets of patches")
    )
}

/// Some attributes with values of 0 or 1, each once, and sometimes a label.
fn roles(numbers: &mut Numbers) -> xdr::version3::Template {
    let mut chosen: Vec<(u64, &[u8])> = Vec::new();
    for _ in 0..numbers.below(4) {
        let kind = numbers.one_of(&SENSITIVE_AND_ROLES);
        if chosen.iter().all(|(known, _)| *known != kind) {
            chosen.push((kind, numbers.one_of(&[&[0], &[1]])));
        }
    }
    if numbers.below(3) == 0 {
        chosen.push((LABEL, b"l"));
    }
    template(&chosen)
}

/// Values of both daemons for a call, the same; the reply of ours.
#[track_caller]
fn alike(both: &mut Both, call: Call<'_>) -> Reply {
    let name = call.function().name();
    let [theirs, ours] = both.call(call);
    assert_eq!(theirs.rv(), ours.rv(), "{name}");
    ours.reply().clone()
}

/// Without the roles that ours does not give to a key later, or to a derived one (D-119, D-120).
fn known_roles(mut roles: xdr::version3::Template) -> xdr::version3::Template {
    roles.0.retain(|role| {
        let is_late = [WRAP, DECRYPT].contains(&role.attribute_type.0);
        !is_late || role.value == [0]
    });
    roles
}

fn step(both: &mut Both, numbers: &mut Numbers, keys: &mut Vec<ObjectHandle>) {
    let (key, other) = (numbers.one_of(keys), numbers.one_of(keys));
    let iv = [0; 16];
    let cipher = mechanism(numbers.one_of(&[AES_CBC, AES_CBC_PAD]), &iv);
    let s = SESSION;
    let more = roles(numbers);
    let with = |attributes: &[(u64, &[u8])]| {
        let mut all = template(attributes);
        all.0.extend(more.0.iter().cloned());
        all
    };
    let (class, kind) = (long(SECRET_KEY), long(AES));
    let call = match numbers.below(13) {
        0 => Call::C_EncryptInit(s, cipher, key),
        1 => Call::C_DecryptInit(s, cipher, key),
        2 => Call::C_SignInit(s, mechanism(AES_CMAC, &[0]), key),
        3 => Call::C_DigestKey(s, key),
        4 => Call::C_DeriveKey(
            s,
            mechanism(AES_CBC_ENCRYPT_DATA, &[0; 8]),
            key,
            known_roles(more),
        ),
        5 => Call::C_WrapKey(s, cipher, key, other),
        6 => Call::C_UnwrapKey(s, cipher, key, &[3; 46], with(&[(CLASS, &class)])),
        7 => Call::C_SetAttributeValue(s, key, known_roles(more)),
        8 => Call::C_GetAttributeValue(s, key, template(&[(LABEL, &iv), (VALUE, &[0; 32])])),
        9 => {
            alike(both, Call::C_FindObjectsInit(s, more));
            both.same(Call::C_FindObjects(s, Ulong(1000)));
            Call::C_FindObjectsFinal(s)
        }
        10 => {
            let length = long(16);
            let wanted = with(&[(TOKEN, &[0]), (VALUE_LEN, &length)]);
            Call::C_GenerateKey(s, mechanism(AES_KEY_GEN, &[0]), wanted)
        }
        _ => {
            let (value, token) = ((VALUE, [3; 16].as_slice()), (TOKEN, [0].as_slice()));
            Call::C_CreateObject(s, with(&[(CLASS, &class), (KEY_TYPE, &kind), value, token]))
        }
    };
    match alike(both, call) {
        Reply::C_CreateObject(made) | Reply::C_GenerateKey(made) if made.rv.is_ok() => {
            keys.push(made.object);
        }
        _ => {}
    }
}

fn set_filters_alike(set: usize) {
    let mut both = Both::with(&debians(set));
    let mut numbers = Numbers::new(set as u64);
    for _ in 0..25 {
        both.reconnect();
        both.same(Call::C_SetupArch(Architecture::LITTLE_64));
        both.same(Call::C_LoadModule(b"softhsm"));
        both.same(Call::C_Initialize());
        let slot = both.token_slot();
        both.same(Call::C_OpenSession(slot, Flags(6)));
        both.same(Call::C_Login(SESSION, UserType(1), b"1234"));
        let length = long(16);
        let first = template(&[
            (TOKEN, &[0]),
            (VALUE_LEN, &length),
            (WRAP, &[1]),
            (UNWRAP, &[1]),
        ]);
        let generate = Call::C_GenerateKey(SESSION, mechanism(AES_KEY_GEN, &[0]), first);
        let Reply::C_GenerateKey(made) = alike(&mut both, generate) else {
            panic!("another reply");
        };
        let mut keys = vec![made.object];
        for _ in 0..100 {
            step(&mut both, &mut numbers, &mut keys);
        }
    }
}

#[test]
fn patch_set_1_filters_alike() {
    set_filters_alike(1);
}

#[test]
fn patch_set_2_filters_alike() {
    set_filters_alike(2);
}
