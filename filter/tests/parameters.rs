//! Tests the option `mechanism_parameters`: which calls meet its rows, and which rows a file can have.

mod support;

use support::parameters::Arena;
use support::{GOOD, Guarded, SESSION, template};
use xdr::{
    Architecture, Attribute, AttributeType, Call, CkRv, Flags, Function, Input, Mechanism,
    MechanismType, Room, Template, Use, Value,
};

const GCM: u64 = 0x1087;
const CCM: u64 = 0x1088;
const OAEP: u64 = 0x9;
const RSA_AES: u64 = 0x1054;
const ECDH: u64 = 0x1050;
const KIP: u64 = 0x510;
const EC_KEY_PAIR: u64 = 0x1040;
const RSA_KEY_PAIR: u64 = 0x0;
const EC_PARAMS: u64 = 0x180;
const KEY_TYPE: u64 = 0x100;

const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P192: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x01";

const PARAMETER: CkRv = CkRv::MECHANISM_PARAM_INVALID;
const ATTRIBUTE: CkRv = CkRv::ATTRIBUTE_VALUE_INVALID;

/// Returns a module behind these rows.
fn needs(rows: &str) -> Guarded {
    Guarded::new(&format!("mechanism_parameters = [(m, [{rows}])]"))
}

#[track_caller]
fn check(guarded: &Guarded, call: Call<'_>, rv: CkRv) {
    let function = call.function();
    let (reply, asked) = guarded.watch(call);
    assert_eq!(reply.rv(), rv, "{function:?}");
    assert_eq!(asked == [function], rv.is_ok(), "{asked:?}");
}

/// CK_GCM_PARAMS with an IV.
fn gcm(tag_bits: usize) -> Option<Mechanism> {
    let mut arena = Arena::default();
    let iv = arena.put(&[7; 12]);
    arena.mechanism(GCM, &[iv, 12, 0, 0, 0, tag_bits], Use::Operation)
}

/// CK_GCM_MESSAGE_PARAMS.
fn gcm_message(generator: usize, tag_bits: usize) -> Mechanism {
    let mut arena = Arena::default();
    let (iv, tag) = (arena.put(&[7; 12]), arena.put(&[0; 16]));
    let words = [iv, 12, 0, generator, tag, tag_bits];
    let message = arena.mechanism(GCM, &words, Use::Message);
    message.expect("it is not NULL")
}

/// CK_GCM_WRAP_PARAMS.
fn gcm_wrap(tag_bits: usize) -> Option<Mechanism> {
    let words = [0, 0, 0, 1, 0, 0, tag_bits];
    Arena::default().mechanism(GCM, &words, Use::Wrap)
}

#[test]
fn a_tag_has_the_least_length() {
    let guarded = needs("(CKM_AES_GCM, any, ulTagBits, \">=\", 96)");
    let (s, none, all) = (SESSION, Input::NULL, Room::Unbounded);
    for (bits, rv) in [
        (32, PARAMETER),
        (95, PARAMETER),
        (96, CkRv::OK),
        (128, CkRv::OK),
    ] {
        for call in [
            Call::C_EncryptInit(s, gcm(bits), GOOD),
            Call::C_DecryptInit(s, gcm(bits), GOOD),
            Call::C_WrapKey(s, gcm(bits), GOOD, GOOD, all),
            Call::C_WrapKeyAuthenticated(s, gcm_wrap(bits), GOOD, GOOD, none, all),
            Call::C_UnwrapKeyAuthenticated(s, gcm_wrap(bits), GOOD, none, None, none),
            Call::C_MessageEncryptInit(s, Some(gcm_message(1, bits)), GOOD),
            Call::C_EncryptMessage(s, gcm_message(1, bits), none, none, all),
            Call::C_EncryptMessageBegin(s, gcm_message(1, bits), none),
            Call::C_EncryptMessageNext(s, gcm_message(1, bits), none, all, Flags(0)),
            Call::C_DecryptMessage(s, gcm_message(1, bits), none, none, all),
        ] {
            check(&guarded, call, rv);
        }
    }
    // The parameters come with the messages instead.
    let begin = Call::C_MessageEncryptInit(s, support::mechanism(GCM), GOOD);
    check(&guarded, begin, CkRv::OK);
    // A value that cannot be read meets no requirement.
    let bare = Call::C_EncryptInit(s, support::mechanism(GCM), GOOD);
    check(&guarded, bare, PARAMETER);
    let unread = Mechanism::unread(MechanismType(GCM), vec![0xff; 13]);
    check(
        &guarded,
        Call::C_EncryptInit(s, Some(unread), GOOD),
        PARAMETER,
    );
    // Calls with another mechanism are not checked, nor is the end of an operation.
    let other = Call::C_EncryptInit(s, support::mechanism(CCM), GOOD);
    check(&guarded, other, CkRv::OK);
    check(&guarded, Call::C_EncryptInit(s, None, GOOD), CkRv::OK);
}

/// Version 3 sends the structure without the data that its pointers refer to.
#[test]
fn a_structure_of_version_3_is_read_alike() {
    let guarded = needs("(CKM_AES_GCM, any, ulTagBits, \">=\", 96)");
    for client in [Architecture::LITTLE_32, Architecture::BIG_64] {
        for (bits, rv) in [(32_u32, PARAMETER), (128, CkRv::OK)] {
            let bytes = match client {
                Architecture::LITTLE_32 => [[0; 20].as_slice(), &bits.to_le_bytes()].concat(),
                _ => [[0; 40].as_slice(), &u64::from(bits).to_be_bytes()].concat(),
            };
            let mechanism = Mechanism::laid_out(MechanismType(GCM), bytes, client);
            check(
                &guarded,
                Call::C_EncryptInit(SESSION, Some(mechanism), GOOD),
                rv,
            );
        }
    }
}

/// CKG_NO_GENERATE is 0, CKG_GENERATE is 1.
#[test]
fn an_iv_for_encryption_is_made_by_the_token() {
    let guarded = needs("(any, encrypt, ivGenerator, \"!=\", CKG_NO_GENERATE)");
    let (s, none, all) = (SESSION, Input::NULL, Room::Unbounded);
    let encrypt =
        |generator| Call::C_EncryptMessage(s, gcm_message(generator, 128), none, none, all);
    check(&guarded, encrypt(0), PARAMETER);
    check(&guarded, encrypt(1), CkRv::OK);
    // This structure has the client's own IV.
    check(&guarded, Call::C_EncryptInit(s, gcm(128), GOOD), PARAMETER);
    // For decryption, the client has to state the IV.
    check(&guarded, Call::C_DecryptInit(s, gcm(128), GOOD), CkRv::OK);
    let decrypt = Call::C_DecryptMessage(s, gcm_message(0, 128), none, none, all);
    check(&guarded, decrypt, CkRv::OK);
    let ccm = Call::C_EncryptInit(s, support::mechanism(CCM), GOOD);
    check(&guarded, ccm, CkRv::OK);
}

/// CK_ECDH1_DERIVE_PARAMS, or for the key wrap CK_ECDH_AES_KEY_WRAP_PARAMS.
fn ecdh(kdf: usize) -> Option<Mechanism> {
    let mut arena = Arena::default();
    let point = arena.put(&[4; 65]);
    arena.mechanism(ECDH, &[kdf, 0, 0, 65, point], Use::Operation)
}

#[test]
fn a_derivation_has_a_function() {
    let guarded = needs("(any, any, kdf, \"!=\", CKD_NULL)");
    let (s, all) = (SESSION, Room::Unbounded);
    for (kdf, rv) in [(1, PARAMETER), (6, CkRv::OK)] {
        check(&guarded, Call::C_DeriveKey(s, ecdh(kdf), GOOD, None), rv);
        let encapsulate = Call::C_EncapsulateKey(s, ecdh(kdf), GOOD, None, all);
        check(&guarded, encapsulate, rv);
        let wrap = Arena::default().mechanism(0x1053, &[256, kdf, 0, 0], Use::Operation);
        check(&guarded, Call::C_WrapKey(s, wrap, GOOD, GOOD, all), rv);
    }
}

/// Tests the kinds of operation with functions of each version.
#[test]
fn a_row_is_for_one_kind_of_operation() {
    let (s, none, all) = (SESSION, Input::NULL, Room::Unbounded);
    for (kind, functions) in [
        (
            "wrap",
            &[Function::C_WrapKey, Function::C_EncapsulateKey][..],
        ),
        (
            "unwrap",
            &[Function::C_UnwrapKey, Function::C_DecapsulateKey],
        ),
        (
            "derive",
            &[
                Function::C_DeriveKey,
                Function::C_EncapsulateKey,
                Function::C_DecapsulateKey,
            ],
        ),
        ("encrypt", &[Function::C_EncryptInit]),
        ("sign", &[Function::C_SignInit, Function::C_SignRecoverInit]),
        (
            "verify",
            &[Function::C_VerifyInit, Function::C_VerifySignatureInit],
        ),
    ] {
        let guarded = needs(&format!(
            "(CKM_ECDH1_DERIVE, {kind}, kdf, \"=\", CKD_SHA256_KDF)"
        ));
        for call in [
            Call::C_WrapKey(s, ecdh(1), GOOD, GOOD, all),
            Call::C_UnwrapKey(s, ecdh(1), GOOD, none, None),
            Call::C_DeriveKey(s, ecdh(1), GOOD, None),
            Call::C_EncapsulateKey(s, ecdh(1), GOOD, None, all),
            Call::C_DecapsulateKey(s, ecdh(1), GOOD, None, none),
            Call::C_EncryptInit(s, ecdh(1), GOOD),
            Call::C_SignInit(s, ecdh(1), GOOD),
            Call::C_SignRecoverInit(s, ecdh(1), GOOD),
            Call::C_VerifyInit(s, ecdh(1), GOOD),
            Call::C_VerifySignatureInit(s, ecdh(1), GOOD, none),
            Call::C_GenerateKey(s, ecdh(1), None),
        ] {
            let rv = match functions.contains(&call.function()) {
                true => PARAMETER,
                false => CkRv::OK,
            };
            check(&guarded, call, rv);
        }
    }
}

fn oaep(hash: usize) -> Option<Mechanism> {
    Arena::default().mechanism(OAEP, &[hash, 1, 0, 0, 0], Use::Operation)
}

/// CK_RSA_AES_KEY_WRAP_PARAMS, which points to the parameters of OAEP.
fn rsa_aes(hash: Option<usize>) -> Option<Mechanism> {
    let mut arena = Arena::default();
    let oaep = hash.map_or(0, |hash| arena.words(&[hash, 1, 0, 0, 0]));
    arena.mechanism(RSA_AES, &[256, oaep], Use::Operation)
}

/// CKM_SHA_1 is 0x220, CKM_SHA256 0x250, CKM_SHA384 0x260.
#[test]
fn a_field_is_found_behind_a_pointer() {
    let sha_2 = "\"=\", [CKM_SHA256, CKM_SHA384]";
    let everywhere = needs(&format!("(any, any, hashAlg, {sha_2})"));
    let by_path = needs(&format!(
        "(CKM_RSA_AES_KEY_WRAP, any, \"pOAEPParams.hashAlg\", {sha_2})"
    ));
    let wrap = |mechanism| Call::C_WrapKey(SESSION, mechanism, GOOD, GOOD, Room::Unbounded);
    for (hash, rv) in [(0x220, PARAMETER), (0x250, CkRv::OK), (0x260, CkRv::OK)] {
        check(&everywhere, wrap(oaep(hash)), rv);
        check(&everywhere, wrap(rsa_aes(Some(hash))), rv);
        check(&by_path, wrap(rsa_aes(Some(hash))), rv);
        check(&by_path, wrap(oaep(hash)), CkRv::OK);
    }
    check(&everywhere, wrap(rsa_aes(None)), PARAMETER);
}

#[test]
fn a_mechanism_inside_a_parameter_meets_its_rows() {
    let guarded = needs("(CKM_RSA_PKCS_OAEP, any, hashAlg, \"!=\", CKM_SHA_1)");
    for (hash, rv) in [(0x220, PARAMETER), (0x250, CkRv::OK)] {
        let mut arena = Arena::default();
        let parameter = arena.words(&[hash, 1, 0, 0, 0]);
        let inner = arena.words(&[OAEP as usize, parameter, 5 * size_of::<usize>()]);
        let words = [inner, GOOD.0 as usize, 0, 0];
        let kip = arena.mechanism(KIP, &words, Use::Operation);
        check(&guarded, Call::C_DeriveKey(SESSION, kip, GOOD, None), rv);
    }
}

/// Returns the calls that name a curve.
fn with_curve(curve: &[u8]) -> Vec<Call<'static>> {
    let s = SESSION;
    let curve_of = || template(&[(EC_PARAMS, curve)]);
    let inside = Some(Template(vec![Attribute {
        attribute_type: AttributeType(0x4000_0212),
        value: Value::Template(curve_of().unwrap()),
    }]));
    let mut arena = Arena::default();
    let value = arena.put(curve);
    let attribute = arena.words(&[EC_PARAMS as usize, value, curve.len()]);
    let handle = arena.words(&[0]);
    let derived = arena.words(&[attribute, 1, handle]);
    let two_keys = arena.mechanism(0x3ac, &[0x220, 0, 0, 1, derived], Use::Operation);
    vec![
        Call::C_GenerateKeyPair(s, support::mechanism(EC_KEY_PAIR), curve_of(), None),
        Call::C_GenerateKeyPair(s, support::mechanism(EC_KEY_PAIR), None, curve_of()),
        Call::C_CreateObject(s, curve_of()),
        Call::C_DeriveKey(s, ecdh(6), GOOD, curve_of()),
        Call::C_SetAttributeValue(s, GOOD, curve_of()),
        Call::C_CreateObject(s, inside),
        Call::C_DeriveKey(s, two_keys, GOOD, None),
    ]
}

#[test]
fn keys_are_on_curves_that_are_allowed() {
    let guarded = needs("(any, any, CKA_EC_PARAMS, \"=\", [secp256r1, edwards25519])");
    let explicit = [b"\x30\x09\x02\x01\x01".as_slice(), P256].concat();
    for (curve, rv) in [
        (P256, CkRv::OK),
        (b"\x13\x0cedwards25519", CkRv::OK),
        (b"\x06\x03\x2b\x65\x70", CkRv::OK),
        (P192, ATTRIBUTE),
        (b"\x13\x0ccurve25519xx", ATTRIBUTE),
        (b"", ATTRIBUTE),
        (b"\x05\x00", ATTRIBUTE),
        (&explicit, ATTRIBUTE),
        (&P256[..9], ATTRIBUTE),
        (&[P256, b"\0"].concat(), ATTRIBUTE),
    ] {
        for call in with_curve(curve) {
            check(&guarded, call, rv);
        }
    }
    let by_bytes = needs("(any, any, CKA_EC_PARAMS, \"=\", \"0x06082a8648ce3d030107\")");
    for (curve, rv) in [(P256, CkRv::OK), (P192, ATTRIBUTE)] {
        for call in with_curve(curve) {
            check(&by_bytes, call, rv);
        }
    }
    // A row for one mechanism only, and calls that name no curve.
    let one = needs("(CKM_EC_KEY_PAIR_GEN, any, CKA_EC_PARAMS, \"=\", secp256r1)");
    for call in with_curve(P192) {
        let rv = match call.function() {
            Function::C_GenerateKeyPair => ATTRIBUTE,
            _ => CkRv::OK,
        };
        check(&one, call, rv);
    }
    check(
        &guarded,
        Call::C_CreateObject(SESSION, template(&[])),
        CkRv::OK,
    );
    check(&guarded, Call::C_CreateObject(SESSION, None), CkRv::OK);
}

/// CKK_AES is 0x1f, CKK_ML_KEM 0x49, CKK_DES 0x13.
#[test]
fn attributes_compare_as_numbers() {
    let word = |number: usize| number.to_ne_bytes();
    let create = |kind, value: &[u8]| Call::C_CreateObject(SESSION, template(&[(kind, value)]));
    let types = needs("(any, any, CKA_KEY_TYPE, \"=\", [CKK_AES, CKK_ML_KEM, \"0x80000001\"])");
    for (key_type, rv) in [
        (0x1f, CkRv::OK),
        (0x49, CkRv::OK),
        (0x8000_0001, CkRv::OK),
        (0x13, ATTRIBUTE),
    ] {
        check(&types, create(KEY_TYPE, &word(key_type)), rv);
    }
    check(&types, create(KEY_TYPE, b""), ATTRIBUTE);
    let sizes = needs("(CKM_RSA_PKCS_KEY_PAIR_GEN, generate, CKA_MODULUS_BITS, \">=\", 2048)");
    for (bits, rv) in [(1024, ATTRIBUTE), (2048, CkRv::OK), (4096, CkRv::OK)] {
        let public = template(&[(0x121, &word(bits))]);
        let m = support::mechanism(RSA_KEY_PAIR);
        check(
            &sizes,
            Call::C_GenerateKeyPair(SESSION, m, public, None),
            rv,
        );
    }
    let fixed = needs("(any, any, CKA_EXTRACTABLE, \"=\", no)");
    for (value, rv) in [(0, CkRv::OK), (1, ATTRIBUTE), (2, ATTRIBUTE)] {
        check(&fixed, create(0x162, &[value]), rv);
    }
    let sets = needs("(any, any, CKA_PARAMETER_SET, \"=\", [CKP_ML_KEM_768, CKP_ML_KEM_1024])");
    check(&sets, create(0x61d, &word(3)), CkRv::OK);
    check(&sets, create(0x61d, &word(1)), ATTRIBUTE);
    check(&sets, create(0x61d, &[3]), ATTRIBUTE);
}

#[test]
fn all_rows_that_apply_have_to_be_met() {
    let guarded = Guarded::new(
        "mechanism_parameters = [(m, [(CKM_AES_GCM, any, ulTagBits, \">=\", 96)]),
            (\".*\", [(any, any, ulTagBits, \"<=\", 120)]), (m, [])]",
    );
    for (bits, rv) in [
        (95, PARAMETER),
        (96, CkRv::OK),
        (120, CkRv::OK),
        (121, PARAMETER),
    ] {
        check(&guarded, Call::C_EncryptInit(SESSION, gcm(bits), GOOD), rv);
    }
}

/// A row that would protect nothing is an error at start, with its line.
#[test]
fn a_row_that_means_nothing_is_an_error() {
    let option = |member: usize| format!("f:2: mechanism_parameters[0][1][0][{member}]");
    for (row, at, message) in [
        (
            "(CKM_FOO, any, kdf, \"=\", 1)",
            0,
            "unknown mechanism `CKM_FOO`",
        ),
        (
            "([], any, kdf, \"=\", 1)",
            0,
            "expected a mechanism such as CKM_AES_GCM, its number, or any, found a list",
        ),
        (
            "(any, decipher, kdf, \"=\", 1)",
            1,
            "unknown kind of operation `decipher`",
        ),
        (
            "(CKM_AES_GCM, any, ulTagBit, \">=\", 96)",
            2,
            "the parameter of this mechanism has no field `ulTagBit`",
        ),
        (
            "(CKM_AES_GCM, any, kdf, \">=\", 96)",
            2,
            "the parameter of this mechanism has no field `kdf`",
        ),
        (
            "(CKM_AES_CBC, any, iv, \"=\", \"0x00\")",
            2,
            "the parameter of this mechanism has no field `iv`",
        ),
        (
            "(any, any, tagBits, \">=\", 96)",
            2,
            "the parameter of any mechanism has no field `tagBits`",
        ),
        (
            "(any, any, CKA_FOO, \"=\", 1)",
            2,
            "unknown attribute `CKA_FOO`",
        ),
        ("(any, any, kdf, \">\", 1)", 3, "unknown comparison `>`"),
        (
            "(any, any, kdf, \"=\", CKD_FOO)",
            4,
            "expected a number, or the name of a constant such as CKD_NULL, found `CKD_FOO`",
        ),
        (
            "(any, any, kdf, \"=\", [])",
            4,
            "expected at least one value",
        ),
        (
            "(any, any, kdf, \">=\", [1, 2])",
            4,
            "expected one number, found a list",
        ),
        (
            "(CKM_AES_GCM, any, pIv, \"=\", 12)",
            4,
            "expected bytes such as 0x06052b81040022",
        ),
        (
            "(CKM_AES_GCM, any, pIv, \"=\", \"0x123\")",
            4,
            "expected bytes such as 0x06052b81040022",
        ),
        (
            "(CKM_AES_GCM, any, pIv, \">=\", \"0x12\")",
            3,
            "expected `=` or `!=`: this field is bytes",
        ),
        (
            "(CKM_RSA_AES_KEY_WRAP, any, pOAEPParams, \"=\", 1)",
            4,
            "this field has no value that can be compared",
        ),
        (
            "(any, any, CKA_WRAP_TEMPLATE, \"=\", 1)",
            4,
            "this field has no value that can be compared",
        ),
        (
            "(any, any, CKA_EC_PARAMS, \"!=\", secp192r1)",
            3,
            "expected `=`, with the curves that are allowed",
        ),
        (
            "(any, any, CKA_EC_PARAMS, \"=\", \"P-256\")",
            4,
            "expected bytes such as 0x06052b81040022, or curves of secp192r1, ",
        ),
        (
            "(any, any, CKA_LABEL, \"=\", secp256r1)",
            4,
            "expected bytes such as 0x06052b81040022",
        ),
    ] {
        let text = format!("modules = [(m, n)]\nmechanism_parameters = [(m, [{row}])]");
        let switches = filter::Compatibility::default();
        let parsed = filter::Rules::parse(text.as_bytes(), std::path::Path::new("f"), &switches);
        let error = parsed.unwrap_err().to_string();
        let expected = format!("{}: {message}", option(at));
        assert!(error.starts_with(&expected), "{error}\n{expected}");
    }
}

#[test]
fn the_rows_of_a_module_can_be_read() {
    let text = "modules = [(m, n)]\nmechanism_parameters = [(m, [
        (CKM_AES_GCM, any, ulTagBits, \">=\", 96),
        (any, encrypt, ivGenerator, \"!=\", CKG_NO_GENERATE),
        (any, any, CKA_EC_PARAMS, \"=\", [secp256r1, secp384r1])])]";
    let switches = filter::Compatibility::default();
    let rules = filter::Rules::parse(text.as_bytes(), std::path::Path::new("f"), &switches);
    let rules = filter::module_rules::ModuleRules::new(&rules.unwrap(), b"m");
    let expected = "    f:3: mechanism_parameters: cKM_AES_GCM needs ulTagBits >= 96
    f:4: mechanism_parameters: every mechanism to encrypt needs ivGenerator != CKG_NO_GENERATE
    f:5: mechanism_parameters: every mechanism needs CKA_EC_PARAMS = secp256r1 or secp384r1
";
    assert_eq!(rules.to_string(), expected);
}
