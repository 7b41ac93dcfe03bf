//! Tests the original's two sets of patches: the outcomes captured in front of SoftHSM, and the number of module calls.
//! `softhsm` runs the same tables.

use std::sync::atomic::AtomicBool;

use filter::Compatibility;
use filter::actions::{ACTIONS, Context, Verdict};
use filter::module_rules::ModuleRules;
use filter::object_reader::ObjectReader;
use xdr::Function::*;
use xdr::{Call, CkRv, Cryptoki, ObjectHandle, Reply, Room};

use crate::chain::{
    ALL, Chain, KEY_USES, S, SOME, made, mechanism, patch_set_1, patch_set_2, query, read, t,
    use_of,
};
use crate::token::{Reads, Token};

const OK: CkRv = CkRv::OK;
const VALUE_INVALID: CkRv = CkRv::ATTRIBUTE_VALUE_INVALID;
const INCONSISTENT: CkRv = CkRv::TEMPLATE_INCONSISTENT;
const UNUSABLE: CkRv = CkRv::OBJECT_HANDLE_INVALID;

fn generate(template: &str) -> Call<'static> {
    let key = t(&format!("TOKEN=F VALUE_LEN=#16 {template}"));
    Call::C_GenerateKey(S, mechanism(0x1080, &[]), key)
}

fn create(template: &str) -> Call<'static> {
    let value = "VALUE=0x00112233445566778899aabbccddeeff";
    Call::C_CreateObject(
        S,
        t(&format!("CLASS=#4 KEY_TYPE=#31 TOKEN=F {value} {template}")),
    )
}

fn generate_pair(public: &str, private: &str) -> Call<'static> {
    let public = t(&format!("TOKEN=F MODULUS_BITS=#1024 {public}"));
    Call::C_GenerateKeyPair(
        S,
        mechanism(0, &[]),
        public,
        t(&format!("TOKEN=F {private}")),
    )
}

/// Whether the key may encrypt; ends the encryption.
fn encrypts(set: &Chain<'_>, key: ObjectHandle) -> CkRv {
    let rv = set.rv(Call::C_EncryptInit(S, mechanism(0x1082, &[0; 16]), key));
    if rv.is_ok() {
        assert_eq!(set.rv(Call::C_Encrypt(S, (&[0; 16]).into(), ALL)), OK);
    }
    rv
}

fn has(token: &dyn Cryptoki, key: ObjectHandle, text: &str) {
    for (name, value) in text.split_whitespace().filter_map(|it| it.split_once('=')) {
        let value = vec![u8::from(value == "T")];
        assert_eq!(read(token, S, key, name), Some(value), "{name} of {text}");
    }
}

/// The table. Where ours is stricter than the original, the comment says what the original answers.
pub fn gives_the_original_outcomes(token: &dyn Cryptoki) {
    let one = Chain::new(token, &patch_set_1());
    let two = Chain::new(token, &patch_set_2());
    let both = |call: Call<'_>, first, second| {
        assert_eq!(one.rv(call.clone()), first, "patch set 1: {call:?}");
        assert_eq!(two.rv(call.clone()), second, "patch set 2: {call:?}");
    };

    let usages = "ENCRYPT=F DECRYPT=F SIGN=F VERIFY=F WRAP=F UNWRAP=F DERIVE=F";
    for set in [&one, &two] {
        let key = made(set.call(generate("")));
        has(
            token,
            key,
            &format!("{usages} SENSITIVE=T EXTRACTABLE=F PRIVATE=T LOCAL=T"),
        );
    }
    both(generate("ENCRYPT=T DECRYPT=T"), OK, OK);
    both(generate("WRAP=T UNWRAP=T"), OK, OK);
    both(generate("SENSITIVE=F"), OK, INCONSISTENT);
    let unusable = made(one.call(generate("SENSITIVE=F ENCRYPT=T")));
    assert_eq!(encrypts(&one, unusable), UNUSABLE);
    both(
        generate("WRAP=T SENSITIVE=F EXTRACTABLE=T"),
        VALUE_INVALID,
        INCONSISTENT,
    );
    both(generate_pair("ENCRYPT=T", "DECRYPT=T"), OK, OK);
    both(generate_pair("WRAP=T", "UNWRAP=T"), OK, OK);
    both(generate_pair("VERIFY=T", "SIGN=T"), OK, OK);
    let roles = generate_pair("ENCRYPT=T WRAP=T", "DECRYPT=T UNWRAP=T");
    both(roles, VALUE_INVALID, INCONSISTENT);

    for set in [&one, &two] {
        for (template, usable) in [("", UNUSABLE), ("ENCRYPT=T", OK), ("SIGN=T", UNUSABLE)] {
            let key = made(set.call(create(template)));
            assert_eq!(encrypts(set, key), usable, "{template}");
        }
    }
    both(create("DECRYPT=T"), OK, INCONSISTENT);
    both(create("WRAP=T"), INCONSISTENT, INCONSISTENT);
    both(create("UNWRAP=T"), INCONSISTENT, OK);
    let unusable = made(two.call(create("UNWRAP=T")));
    assert_eq!(encrypts(&two, unusable), UNUSABLE);
    both(create("SENSITIVE=F EXTRACTABLE=T"), OK, INCONSISTENT);
    let key = made(one.call(create("SENSITIVE=F EXTRACTABLE=T")));
    let value = Call::C_GetAttributeValue(S, key, query(&["VALUE"], 0));
    assert_eq!(one.rv(value), CkRv::ATTRIBUTE_SENSITIVE);
    both(
        Call::C_CreateObject(S, t("CLASS=#0 TOKEN=F LABEL=x")),
        OK,
        OK,
    );
    let no_class = Call::C_CreateObject(S, t("TOKEN=F WRAP=T"));
    both(
        no_class,
        CkRv::TEMPLATE_INCOMPLETE,
        CkRv::TEMPLATE_INCOMPLETE,
    );

    // A key for wrapping, made under either set, and a key to be wrapped.
    let was = "ENCRYPT=T DECRYPT=T EXTRACTABLE=T SENSITIVE=T";
    for (set, added) in [(&one, 30), (&two, 0)] {
        let wrapping = made(set.call(generate("WRAP=T UNWRAP=T")));
        let key = made(set.call(generate(was)));
        let wrap = |mechanism_type, parameter: &[u8]| {
            let m = mechanism(mechanism_type, parameter);
            match set.call(Call::C_WrapKey(S, m, wrapping, key, ALL)) {
                Reply::C_WrapKey(reply) if reply.rv.is_ok() => reply.data.to_vec(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(wrap(0x1082, &[0; 16]).len(), 16 + added);
        let blob = wrap(0x2109, &[]);
        let unwrap = |template: &str| {
            let template = t(&format!("CLASS=#4 KEY_TYPE=#31 TOKEN=F {template}"));
            set.call(Call::C_UnwrapKey(
                S,
                mechanism(0x2109, &[]),
                wrapping,
                blob.as_slice().into(),
                template,
            ))
        };
        let same = if added == 0 { INCONSISTENT } else { OK };
        assert_eq!(unwrap(was).rv(), same);
        has(token, made(unwrap("")), usages);
        // The conflicts of attributes or the wrapping format refuse it; the former are checked first.
        assert_eq!(unwrap("SENSITIVE=F").rv(), INCONSISTENT);
        assert_eq!(unwrap("WRAP=T").rv(), INCONSISTENT);
    }

    for (set, copied, wrap, encrypt) in [
        // The original returns CKR_OK for the copy, and then lets nobody use it.
        (&one, VALUE_INVALID, VALUE_INVALID, VALUE_INVALID),
        (
            &two,
            INCONSISTENT,
            CkRv::ATTRIBUTE_READ_ONLY,
            CkRv::ATTRIBUTE_READ_ONLY,
        ),
    ] {
        let key = made(set.call(generate("ENCRYPT=T DECRYPT=T")));
        let copy = |template| set.rv(Call::C_CopyObject(S, key, t(template)));
        let change = |template| set.rv(Call::C_SetAttributeValue(S, key, t(template)));
        assert_eq!(copy("WRAP=T"), copied);
        assert_eq!(copy("LABEL=x"), OK);
        assert_eq!(change("WRAP=T"), wrap);
        assert_eq!(change("ENCRYPT=F"), encrypt);
        assert_eq!(change("LABEL=x"), OK);
    }
}

#[test]
fn gives_the_outcomes_captured_from_the_original() {
    let token = Token::new();
    token.wraps_as(&[7; 16]);
    gives_the_original_outcomes(&token);
}

/// The original makes 22 to 60 calls.
#[test]
fn calls_the_module_at_most_four_times() {
    let token = Token::new();
    for segregated in [false, true] {
        let chain = Chain::new(&token, &patch_set_1()).segregated(segregated);
        let key = token.put("CLASS=#4 EXTRACTABLE=T ENCRYPT=T LOCAL=T");
        let other = token.put("CLASS=#4 EXTRACTABLE=T ENCRYPT=T LOCAL=T");
        let mut calls: Vec<_> = KEY_USES
            .into_iter()
            .filter(|function| ![C_FindObjects, C_UnwrapKey].contains(function))
            .map(|function| use_of(function, key, other))
            .collect();
        token.wraps_as(b"wrapped");
        let wrap = use_of(C_WrapKey, key, other);
        let Reply::C_WrapKey(wrapped) = chain.call(wrap) else {
            panic!("another function's reply");
        };
        let template = t("CLASS=#4");
        let m = mechanism(0x1082, &[0; 16]);
        calls.extend([
            Call::C_UnwrapKey(S, m, key, (&*wrapped.data).into(), template),
            Call::C_CopyObject(S, key, t("LABEL=x")),
            Call::C_SetAttributeValue(S, key, t("LABEL=x")),
            Call::C_GetAttributeValue(S, key, query(&["LABEL", "VALUE"], 0)),
            Call::C_GetAttributeValue(S, key, query(&["LABEL"], 0)),
            create(""),
            generate(""),
            generate_pair("", ""),
        ]);
        for call in calls {
            token.calls();
            let function = call.function();
            let rv = chain.rv(call);
            let count = token.calls().len();
            assert!(
                rv.is_ok() || rv == CkRv::ATTRIBUTE_SENSITIVE || rv == CkRv::ATTRIBUTE_TYPE_INVALID,
                "{function:?}: {rv}"
            );
            assert!((1..=3).contains(&count), "{function:?}: {count}");
        }
        // One call for each object found, and one that finds them.
        token.calls();
        chain.call(Call::C_FindObjects(S, SOME));
        let objects = match token.call(Call::C_FindObjects(S, SOME)) {
            Reply::C_FindObjects(found) => found.objects.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(token.calls().len(), 2 + objects);
    }
}

/// Calls every function that an action guards, while the token does not answer as it should.
#[test]
fn lets_nothing_pass_that_it_cannot_judge() {
    for set in [patch_set_1(), patch_set_2()] {
        for how in [
            Reads::OneTooFew,
            Reads::Not(CkRv::ATTRIBUTE_SENSITIVE),
            Reads::Not(CkRv::VENDOR_DEFINED),
            Reads::Not(CkRv::GENERAL_ERROR),
        ] {
            let token = Token::new();
            let chain = Chain::new(&token, &set);
            let key = token.put("CLASS=#4 EXTRACTABLE=T ENCRYPT=T");
            token.reads(how);
            let reads = KEY_USES.into_iter().filter(|it| *it != C_FindObjects);
            let mut calls: Vec<_> = reads.map(|it| use_of(it, key, key)).collect();
            calls.extend([
                Call::C_CopyObject(S, key, t("LABEL=x")),
                Call::C_SetAttributeValue(S, key, t("LABEL=x")),
                Call::C_GetAttributeValue(S, key, query(&["LABEL"], 0)),
            ]);
            for call in calls {
                token.calls();
                let function = call.function();
                assert!(!chain.rv(call).is_ok(), "{function:?}");
                let all_reads = token.calls().iter().all(|it| *it == C_GetAttributeValue);
                assert!(all_reads, "{function:?}");
            }
            let Reply::C_FindObjects(found) = chain.call(Call::C_FindObjects(S, SOME)) else {
                panic!("another function's reply");
            };
            assert!(found.objects.is_empty());
        }
    }
}

/// The pairs of the shipped filter.conf, commented out or not.
#[test]
fn accepts_every_pair_that_the_original_ships() {
    let token = Token::new();
    for mut set in [patch_set_1(), patch_set_2()] {
        set.extend([
            (C_Initialize, "do_segregate_usage"),
            (C_Login, "c_Login_hook"),
            (C_Initialize, "c_Initialize_hook"),
            (C_CloseSession, "identity"),
        ]);
        Chain::new(&token, &set); // which checks them
    }
}

/// 0x02 is TRUE to tokens. The filter converts it before the actions run, but they do not rely on that.
#[test]
fn takes_odd_booleans_for_true() {
    let token = Token::new();
    for set in [patch_set_1(), patch_set_2()] {
        let chain = Chain::new(&token, &set);
        for template in ["WRAP=0x02 DECRYPT=T", "WRAP=0xff DECRYPT=0x02"] {
            assert!(!chain.rv(generate(template)).is_ok(), "{template}");
            assert!(!chain.rv(create(template)).is_ok(), "{template}");
        }
        assert!(!chain.rv(generate("WRAP=T WRAP=F DECRYPT=T")).is_ok());
        assert!(!chain.rv(create("CLASS=#0 WRAP=T")).is_ok());
    }
}

#[test]
fn continues_where_it_has_nothing_to_say() {
    let token = Token::new();
    let segregation = AtomicBool::new(false);
    let rules = ModuleRules::default();
    let compatibility = Compatibility::default();
    let context = Context {
        backend: &token,
        module: b"softhsm",
        segregation: &segregation,
        wrapping_key: None,
        compatibility: &compatibility,
        debug: 0,
        objects: ObjectReader::new(&token),
        function: C_GenerateRandom,
        nulls: xdr::NullPlaces::NONE,
        rules: &rules,
    };
    for row in ACTIONS {
        let action = (row.make)();
        let verdict = action.judge(&Call::C_GenerateRandom(S, Room::Buffer(8)), &context);
        assert!(matches!(verdict, Verdict::Continue), "{}", row.name);
        assert!(token.calls().is_empty());
    }
}
