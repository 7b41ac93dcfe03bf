//! Tests the actions in front of SoftHSM, in a process of its own: it reads its configuration from the environment.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bindings::module::{Module, ModuleOptions};
use filter::{Compatibility, Filter, Rules};
use xdr::{
    Attribute, AttributeType, Call, CkRv, Cryptoki, Flags, Found, Reply, Room, Ulong, Use,
    UserType, Value,
};

use crate::chain::{
    ALL, Chain, S, attributes, everywhere, hex, made, mechanism, number, patch_set_1, patch_set_2,
    query, read, t,
};
use crate::parameters::Arena;
use crate::wrapping::{OAEP_BLOB, OAEP_BLOB_SEGREGATED};

const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";

#[test]
fn guards_a_softhsm_token() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("actions-softhsm");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(directory.join("tokens")).expect("the directory can be made");
    let configuration = directory.join("softhsm2.conf");
    let text = format!("directories.tokendir = {}/tokens\n", directory.display());
    std::fs::write(&configuration, text).expect("the configuration can be written");
    let this_binary = std::env::current_exe().expect("a test has a name");
    let status = Command::new(this_binary)
        .args(
            [
                "--exact",
                "softhsm::in_a_softhsm_token",
                "--ignored",
                "--nocapture",
            ]
            .map(OsStr::new),
        )
        .env("SOFTHSM2_CONF", &configuration)
        .status();
    assert!(status.expect("the test binary can be run").success());
}

#[test]
#[ignore = "run by guards_a_softhsm_token, with a configuration of its own"]
fn in_a_softhsm_token() {
    let hsm = Module::load(Path::new(SOFTHSM), ModuleOptions::default()).expect("SoftHSM loads");
    log_in(&hsm);
    crate::sets::gives_the_original_outcomes(&hsm);
    wraps_as_the_original(&hsm);
    unwraps_what_the_original_wrapped(&hsm);
    keeps_the_values_of_keys(&hsm);
    judges_what_an_unwrapping_key_adds(&hsm);
    compares_the_parameters_of_mechanisms(&hsm);
}

fn log_in(hsm: &Module) {
    let ok = |call: Call<'_>| {
        let reply = hsm.call(call);
        assert_eq!(reply.rv(), CkRv::OK, "{reply:?}");
        reply
    };
    let slot = || match ok(Call::C_GetSlotList(Ulong(1), Room::Buffer(9))) {
        Reply::C_GetSlotList(result) => result.slots[0],
        other => panic!("{other:?}"),
    };
    ok(Call::C_Initialize(Flags(0)));
    ok(Call::C_InitToken(
        slot(),
        b"12345678".into(),
        b"actions".into(),
    ));
    match ok(Call::C_OpenSession(slot(), Flags(6), false)) {
        Reply::C_OpenSession(result) => assert_eq!(result.session, S),
        other => panic!("{other:?}"),
    }
    ok(Call::C_Login(S, UserType(0), b"12345678".into()));
    ok(Call::C_InitPIN(S, b"1234".into()));
    ok(Call::C_Logout(S));
    ok(Call::C_Login(S, UserType(1), b"1234".into()));
}

/// Wraps the keys with which these results were captured from the original.
fn wraps_as_the_original(hsm: &Module) {
    let create = |text: &str| {
        let text = format!("CLASS=#4 TOKEN=F ENCRYPT=T DECRYPT=T WRAP=T UNWRAP=T {text}");
        made(hsm.call(Call::C_CreateObject(S, t(&text))))
    };
    let wrapping = create("KEY_TYPE=#31 VALUE=0x000102030405060708090a0b0c0d0e0f");
    let aes = create(
        "KEY_TYPE=#31 SENSITIVE=T EXTRACTABLE=T SIGN=T VERIFY=T PRIVATE=T \
            VALUE=0x00112233445566778899aabbccddeeff",
    );
    let generic = create(
        "KEY_TYPE=#16 SENSITIVE=F EXTRACTABLE=T SIGN=T VERIFY=T PRIVATE=F \
            VALUE=0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    );
    let aes_wrapped = "69c4e0d86a7b0430d8cdb78070b4c55a";
    let generic_wrapped = "0a940bb5416ef045f1c39458c653ea5a3cf456b4ca488aa383c79c98b34797cb";
    for (key, segregated, wrapped, added) in [
        (
            aes,
            false,
            aes_wrapped,
            "00000004010100000101010101004af4867c228b1e8df57ec7eea07d6116",
        ),
        (
            aes,
            true,
            aes_wrapped,
            "00000004010100000101010101000101ffff5b04207ac411da243d6e6c9310d88a4f",
        ),
        (
            generic,
            false,
            generic_wrapped,
            "0000000400010000010101010000922ec7ebab0b11b792f2a9950c77cd78",
        ),
        (
            generic,
            true,
            generic_wrapped,
            "00000004000100000101010100000101fffffd3f4d9e8e49dbc222c253e62ea2548f",
        ),
    ] {
        let chain = Chain::new(hsm, &everywhere("wrapping_format_patch")).segregated(segregated);
        let call = Call::C_WrapKey(S, mechanism(0x1082, &[0; 16]), wrapping, key, ALL);
        match chain.call(call) {
            Reply::C_WrapKey(reply) => assert_eq!(reply.data, hex(&format!("{wrapped}{added}"))),
            other => panic!("{other:?}"),
        }
    }
}

/// Returns the integers of an RSA key in DER, which was made for the specification.
fn rsa_key() -> Vec<Vec<u8>> {
    let der = hex(include_str!("rsa-key.hex"));
    let mut rest = &der[4..]; // the SEQUENCE with two bytes of length
    let mut integers = Vec::new();
    while !rest.is_empty() {
        assert_eq!(rest[0], 2);
        let (length, header) = match rest[1] {
            0x81 => (usize::from(rest[2]), 3),
            short => (usize::from(short), 2),
        };
        let (integer, behind) = rest[header..].split_at(length);
        let zeros = integer.iter().take_while(|byte| **byte == 0).count();
        integers.push(integer[zeros..].to_vec());
        rest = behind;
    }
    integers
}

/// Unwraps a key that the original wrapped.
fn unwraps_what_the_original_wrapped(hsm: &Module) {
    let mut template = attributes("CLASS=#3 KEY_TYPE=#0 TOKEN=F UNWRAP=T");
    let types = (0x120..=0x128).filter(|it| *it != 0x121); // without CKA_MODULUS_BITS
    for (attribute_type, integer) in types.zip(rsa_key().into_iter().skip(1)) {
        template
            .0
            .push(Attribute::new(AttributeType(attribute_type), integer));
    }
    let rsa = made(hsm.call(Call::C_CreateObject(S, Some(template))));
    let oaep = [0x220_u64, 1, 1, 0, 0].map(u64::to_ne_bytes).concat();
    for (segregated, blob) in [(false, OAEP_BLOB), (true, OAEP_BLOB_SEGREGATED)] {
        let chain = Chain::new(hsm, &everywhere("wrapping_format_patch")).segregated(segregated);
        let unwrap = |template: &str| {
            let template = t(&format!("CLASS=#4 KEY_TYPE=#31 TOKEN=F {template}"));
            let m = mechanism(9, &oaep);
            chain.call(Call::C_UnwrapKey(
                S,
                m,
                rsa,
                hex(blob).as_slice().into(),
                template,
            ))
        };
        let key = made(unwrap(""));
        for (name, value) in [
            ("SENSITIVE", 1),
            ("EXTRACTABLE", 0),
            ("ENCRYPT", 0),
            ("LOCAL", 0),
        ] {
            assert_eq!(read(hsm, S, key, name), Some(vec![value]), "{name}");
        }
        assert_eq!(unwrap("ENCRYPT=F").rv(), CkRv::TEMPLATE_INCONSISTENT);
        let read_only = unwrap("ALWAYS_SENSITIVE=F").rv();
        assert_eq!(read_only, CkRv::ATTRIBUTE_READ_ONLY);
        // The unwrapped key is the one that was wrapped.
        let key = made(unwrap("ENCRYPT=T"));
        let rv = hsm
            .call(Call::C_EncryptInit(S, mechanism(0x1081, &[]), key))
            .rv();
        assert_eq!(rv, CkRv::OK);
        match hsm.call(Call::C_Encrypt(S, (&[0; 16]).into(), ALL)) {
            Reply::C_Encrypt(reply) => {
                assert_eq!(reply.data, hex("fde4fbae4a09e020eff722969f83832b"));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Makes readable keys of every class without the actions, and reads them through the actions.
fn keeps_the_values_of_keys(hsm: &Module) {
    let readable = t("TOKEN=F SENSITIVE=F EXTRACTABLE=T LABEL=key");
    let public = t("TOKEN=F MODULUS_BITS=#1024");
    let pair = Call::C_GenerateKeyPair(S, mechanism(0, &[]), public, readable);
    let Reply::C_GenerateKeyPair(pair) = hsm.call(pair) else {
        panic!("another function's reply");
    };
    let (public, private) = (
        pair.public_key.expect("it is made"),
        pair.private_key.expect("it is made"),
    );
    let values = [
        "PRIVATE_EXPONENT",
        "PRIME_1",
        "PRIME_2",
        "EXPONENT_1",
        "EXPONENT_2",
        "COEFFICIENT",
    ];
    for set in [patch_set_1(), patch_set_2()] {
        let chain = Chain::new(hsm, &set);
        for value in values {
            assert!(read(hsm, S, private, value).is_some(), "{value}");
            let asked = query(&["LABEL", value, "MODULUS"], 200);
            let call = Call::C_GetAttributeValue(S, private, asked);
            let Reply::C_GetAttributeValue(reply) = chain.call(call) else {
                panic!("another function's reply");
            };
            assert_eq!(reply.rv, CkRv::ATTRIBUTE_SENSITIVE);
            let [label, kept, modulus] = &reply.answers.0[..] else {
                panic!("three were asked for");
            };
            assert_eq!(label.bytes(), Some(&b"key"[..]));
            assert_eq!(modulus.bytes().map(<[u8]>::len), Some(128));
            assert_eq!(kept.attribute_type, number(value));
            assert!(kept.found == Found::Unavailable);
        }
        assert!(read(&chain, S, public, "MODULUS").is_some());
        let data = made(hsm.call(Call::C_CreateObject(S, t("CLASS=#0 TOKEN=F VALUE=data"))));
        assert_eq!(read(&chain, S, data, "VALUE"), Some(b"data".to_vec()));
    }
}

/// A key that requires DECRYPT in each key that it unwraps (R9 of docs/attacks.md).
fn judges_what_an_unwrapping_key_adds(hsm: &Module) {
    let maker = |added: &str| {
        let mut template = attributes(
            "CLASS=#4 KEY_TYPE=#31 TOKEN=F SENSITIVE=T WRAP=T UNWRAP=T \
                VALUE=0x000102030405060708090a0b0c0d0e0f",
        );
        template.0.push(Attribute {
            attribute_type: AttributeType(0x4000_0212),
            value: Value::Template(attributes(added)),
        });
        template
    };
    let create = |of: &dyn Cryptoki, template| of.call(Call::C_CreateObject(S, Some(template)));
    let key = made(create(
        hsm,
        attributes(
            "CLASS=#4 KEY_TYPE=#31 TOKEN=F SENSITIVE=T EXTRACTABLE=T VALUE=0x00112233445566778899aabbccddeeff",
        ),
    ));
    let unwrap = |of: &dyn Cryptoki, maker, template: &str| {
        let m = mechanism(0x2109, &[]);
        let Reply::C_WrapKey(wrapped) = hsm.call(Call::C_WrapKey(S, m.clone(), maker, key, ALL))
        else {
            panic!("another function's reply");
        };
        let template = t(&format!(
            "CLASS=#4 KEY_TYPE=#31 TOKEN=F SENSITIVE=T {template}"
        ));
        let blob = (&*wrapped.data).into();
        of.call(Call::C_UnwrapKey(S, m, maker, blob, template))
    };
    let decrypts = made(create(hsm, maker("DECRYPT=T LABEL=added")));
    // SoftHSM requires the client to state what other modules add.
    let rv = unwrap(hsm, decrypts, "WRAP=T").rv();
    assert_eq!(rv, CkRv::TEMPLATE_INCONSISTENT);
    let both = made(unwrap(hsm, decrypts, "WRAP=T DECRYPT=T LABEL=added"));
    assert_eq!(read(hsm, S, both, "DECRYPT"), Some(vec![1]));
    let conflicts = Chain::new(hsm, &everywhere("conflicting_attributes_patch"));
    let refused = unwrap(&conflicts, decrypts, "WRAP=T").rv();
    assert_eq!(refused, CkRv::ATTRIBUTE_VALUE_INVALID);
    for action in ["conflicting_attributes_patch", "secure_templates_patch"] {
        let chain = Chain::new(hsm, &everywhere(action));
        let signs = made(create(hsm, maker("SIGN=T LABEL=added")));
        let key = made(unwrap(&chain, signs, "UNWRAP=T SIGN=T LABEL=added"));
        assert_eq!(read(hsm, S, key, "SIGN"), Some(vec![1]));
        let nothing = made(create(
            hsm,
            attributes(
                "CLASS=#4 KEY_TYPE=#31 TOKEN=F SENSITIVE=T WRAP=T UNWRAP=T \
                VALUE=0x000102030405060708090a0b0c0d0e0f",
            ),
        ));
        made(unwrap(&chain, nothing, "UNWRAP=T"));
    }
    // Where an action judges templates, the filter lets nobody make such a key.
    let actions = "filter_actions_post = [(m, [(C_CreateObject, conflicting_attributes_patch)])]";
    let guarded = behind(hsm, actions);
    let refused = create(&guarded, maker("DECRYPT=T")).rv();
    assert_eq!(refused, CkRv::ATTRIBUTE_TYPE_INVALID);
    let labels = behind(hsm, "allowed_labels = [(m, [good])]");
    let refused = create(&labels, maker("LABEL=bad")).rv();
    assert_eq!(refused, CkRv::ATTRIBUTE_VALUE_INVALID);
    assert_eq!(create(&labels, maker("LABEL=good")).rv(), CkRv::OK);
}

/// Returns SoftHSM behind these rules.
fn behind<'a>(hsm: &'a Module, rules: &str) -> Filter<Shared<'a>> {
    let text = format!("modules = [(m, \"/m.so\")] {rules}");
    let rules = Rules::parse(text.as_bytes(), Path::new("f"), &Compatibility::default());
    let rules = Arc::new(rules.unwrap_or_else(|error| panic!("{error}")));
    let entry = rules.module(b"m").expect("it has an alias");
    Filter::new(&rules, b"m", entry, Shared(hsm))
}

struct Shared<'a>(&'a Module);

impl Cryptoki for Shared<'_> {
    fn call(&self, call: Call<'_>) -> Reply {
        self.0.call(call)
    }
}

/// P11 and P12 of docs/attacks.md: shows what SoftHSM does, and what each row of the option refuses.
fn compares_the_parameters_of_mechanisms(hsm: &Module) {
    const P256: &str = "0x06082a8648ce3d030107";
    const P384: &str = "0x06052b81040022";
    let key = made(hsm.call(Call::C_CreateObject(
        S,
        t("CLASS=#4 KEY_TYPE=#31 TOKEN=F ENCRYPT=T DECRYPT=T VALUE=0x000102030405060708090a0b0c0d0e0f"),
    )));
    let gcm = |tag_bits| {
        let mut arena = Arena::default();
        let iv = arena.put(&[7; 12]);
        arena.mechanism(0x1087, &[iv, 12, 96, 0, 0, tag_bits], Use::Operation)
    };
    let encrypt = |of: &dyn Cryptoki, tag_bits| {
        let rv = of.call(Call::C_EncryptInit(S, gcm(tag_bits), key)).rv();
        if !rv.is_ok() {
            return Err(rv);
        }
        match of.call(Call::C_Encrypt(S, b"plaintext".into(), ALL)) {
            Reply::C_Encrypt(result) if result.rv.is_ok() => Ok(result.data.len()),
            other => Err(other.rv()),
        }
    };
    let least = behind(
        hsm,
        "mechanism_parameters = [(m, [(CKM_AES_GCM, any, ulTagBits, \">=\", 96)])]",
    );
    let by_token = behind(
        hsm,
        "mechanism_parameters = [(m, [(any, encrypt, ivGenerator, \"!=\", CKG_NO_GENERATE)])]",
    );
    let invalid = Err(CkRv::MECHANISM_PARAM_INVALID);
    // A tag of 32 bits, and an IV that is used again.
    assert_eq!(encrypt(hsm, 32), Ok(9 + 4));
    assert_eq!(encrypt(&least, 32), invalid);
    assert_eq!(encrypt(&least, 128), Ok(9 + 16));
    assert_eq!(encrypt(&by_token, 128), invalid);

    let pair = |of: &dyn Cryptoki, curve: &str| {
        let public = t(&format!("TOKEN=F EC_PARAMS={curve}"));
        let private = t("TOKEN=F DERIVE=T");
        let call = Call::C_GenerateKeyPair(S, mechanism(0x1040, &[]), public, private);
        match of.call(call) {
            Reply::C_GenerateKeyPair(pair) if pair.rv.is_ok() => Ok((
                pair.public_key.expect("it is made"),
                pair.private_key.expect("it is made"),
            )),
            other => Err(other.rv()),
        }
    };
    let curves = behind(
        hsm,
        "mechanism_parameters = [(m, [(any, any, CKA_EC_PARAMS, \"=\", secp256r1)])]",
    );
    let (public, private) = pair(&curves, P256).expect("the curve is allowed");
    assert!(pair(hsm, P384).is_ok());
    assert_eq!(
        pair(&curves, P384).err(),
        Some(CkRv::ATTRIBUTE_VALUE_INVALID)
    );

    let point = read(hsm, S, public, "EC_POINT").expect("it can be read");
    let derive = |of: &dyn Cryptoki| {
        let mut arena = Arena::default();
        let data = arena.put(&point);
        // CKD_NULL, the only key derivation function that SoftHSM has.
        let ecdh = arena.mechanism(0x1050, &[1, 0, 0, point.len(), data], Use::Operation);
        let template = t("CLASS=#4 KEY_TYPE=#16 TOKEN=F SENSITIVE=F EXTRACTABLE=T VALUE_LEN=#32");
        of.call(Call::C_DeriveKey(S, ecdh, private, template)).rv()
    };
    let kdf = behind(
        hsm,
        "mechanism_parameters = [(m, [(any, any, kdf, \"!=\", CKD_NULL)])]",
    );
    assert_eq!(derive(hsm), CkRv::OK);
    assert_eq!(derive(&kdf), CkRv::MECHANISM_PARAM_INVALID);
}
