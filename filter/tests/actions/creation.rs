//! What is made, copied and changed; and the actions that only watch.

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use xdr::Function::*;
use xdr::{Call, CkRv, Cryptoki, Function, ObjectHandle, Reply, SessionHandle, Template, UserType};

use crate::chain::{Chain, S, everywhere, mechanism, t};
use crate::token::{Reads, Token};

/// A call of each function that makes a key from one template.
fn creations(template: &str) -> [Call<'static>; 4] {
    let m = || mechanism(0x1080, &[]);
    let template = || t(template);
    [
        Call::C_CreateObject(S, template()),
        Call::C_GenerateKey(S, m(), template()),
        Call::C_UnwrapKey(S, m(), ObjectHandle(1), b"wrapped", template()),
        Call::C_DeriveKey(S, m(), ObjectHandle(1), template()),
    ]
}

fn pair(public: &str, private: &str) -> Call<'static> {
    Call::C_GenerateKeyPair(S, mechanism(0, &[]), t(public), t(private))
}

fn set(object: ObjectHandle, template: &str) -> Call<'static> {
    Call::C_SetAttributeValue(S, object, t(template))
}

fn copy(object: ObjectHandle, template: &str) -> Call<'static> {
    Call::C_CopyObject(S, object, t(template))
}

const CHANGES: [fn(ObjectHandle, &str) -> Call<'static>; 2] = [set, copy];

/// Rows of the table: the two settings, and whether only where key usage is segregated.
const CONFLICTS: [(&str, &str, bool); 17] = [
    ("WRAP=T", "DECRYPT=T", false),
    ("UNWRAP=T", "ENCRYPT=T", false),
    ("SENSITIVE=F", "EXTRACTABLE=F", false),
    ("SENSITIVE=F", "ALWAYS_SENSITIVE=T", false),
    ("EXTRACTABLE=T", "NEVER_EXTRACTABLE=T", false),
    ("WRAP=T", "SENSITIVE=F", false),
    ("WRAP=T", "ALWAYS_SENSITIVE=F", false),
    ("ENCRYPT=T", "SIGN=T", true),
    ("ENCRYPT=T", "SIGN_RECOVER=T", true),
    ("DECRYPT=T", "VERIFY=T", true),
    ("DECRYPT=T", "VERIFY_RECOVER=T", true),
    ("ENCRYPT=T", "VERIFY=T", true),
    ("ENCRYPT=T", "VERIFY_RECOVER=T", true),
    ("DECRYPT=T", "SIGN=T", true),
    ("DECRYPT=T", "SIGN_RECOVER=T", true),
    ("ENCRYPT=T", "WRAP=T", true),
    ("DECRYPT=T", "UNWRAP=T", true),
];

/// The same attribute with its other value.
fn other(setting: &str) -> String {
    match setting.split_once('=') {
        Some((name, "T")) => format!("{name}=F"),
        Some((name, "F")) => format!("{name}=T"),
        _ => panic!("{setting}"),
    }
}

#[test]
fn refuses_conflicting_attributes_in_what_is_made() {
    let token = Token::new();
    for segregated in [false, true] {
        let chain = Chain::new(&token, &everywhere("conflicting_attributes_patch"));
        let chain = chain.segregated(segregated);
        for (one, two, only_segregated) in CONFLICTS {
            let refused = segregated || !only_segregated;
            let judged = |call: Call<'_>, refused: bool| {
                let function = call.function();
                // A derived key never wraps.
                let derives = match &call {
                    Call::C_DeriveKey(_, _, _, template) => template.0.contains(&t("WRAP=T").0[0]),
                    _ => false,
                };
                let refused = refused || derives;
                token.calls();
                let rv = chain.rv(call);
                let name = function.name();
                let said = rv == CkRv::ATTRIBUTE_VALUE_INVALID && token.calls().is_empty();
                assert_eq!(
                    said, refused,
                    "{name}: {one} {two}, segregated: {segregated}"
                );
            };
            for (first, second) in [(one, two), (two, one)] {
                for call in creations(&format!("CLASS=#4 {first} LABEL=x {second}")) {
                    judged(call, refused);
                }
                judged(pair(first, second), refused);
                judged(pair(&format!("{first} {second}"), ""), refused);
                judged(pair("", &format!("{first} {second}")), refused);
            }
            for (first, second) in [(other(one), two.into()), (one.into(), other(two))] {
                for call in creations(&format!("CLASS=#4 {first} {second}")) {
                    judged(call, false);
                }
            }
        }
    }
}

/// The original looks at a copy's template alone.
#[test]
fn refuses_conflicting_attributes_of_what_is_changed_or_copied() {
    let token = Token::new();
    for segregated in [false, true] {
        let chain = Chain::new(&token, &everywhere("conflicting_attributes_patch"));
        let chain = chain.segregated(segregated);
        for (one, two, only_segregated) in CONFLICTS {
            let refused = segregated || !only_segregated;
            let expected = |refused| {
                if refused {
                    CkRv::ATTRIBUTE_VALUE_INVALID
                } else {
                    CkRv::OK
                }
            };
            for (had, new) in [(one, two), (two, one)] {
                for call in CHANGES {
                    let key = token.put(&format!("CLASS=#4 {had}"));
                    let refuses_new = refused || ["WRAP=T", "DECRYPT=T"].contains(&new);
                    let rv = chain.rv(call(key, new));
                    assert_eq!(rv, expected(refuses_new), "{had} {new}");
                    let key = token.put(&format!("CLASS=#4 {had}"));
                    assert_eq!(chain.rv(call(key, &other(new))), CkRv::OK, "{had} {new}");
                    // What is overridden no longer counts.
                    let key = token.put(&format!("CLASS=#4 {had} {new}"));
                    assert_eq!(chain.rv(call(key, &other(had))), CkRv::OK, "{had} {new}");
                    // Both were there before.
                    let key = token.put(&format!("CLASS=#4 {had} {new}"));
                    let rv = chain.rv(call(key, "LABEL=x"));
                    assert_eq!(rv, expected(refused), "{had} {new}");
                }
            }
        }
    }
}

/// The original lets a role be given later: its copies, or the other half of a pair, may have the
/// other one.
#[test]
fn gives_conflicting_roles_from_the_beginning_or_never() {
    let token = Token::new();
    for segregated in [false, true] {
        let chain = Chain::new(&token, &everywhere("conflicting_attributes_patch"));
        let chain = chain.segregated(segregated);
        for (name, only_segregated) in [
            ("WRAP", false),
            ("DECRYPT", false),
            ("ENCRYPT", true),
            ("UNWRAP", true),
            ("SIGN", true),
            ("VERIFY", true),
            ("SIGN_RECOVER", true),
            ("VERIFY_RECOVER", true),
        ] {
            let rv = if segregated || !only_segregated {
                CkRv::ATTRIBUTE_VALUE_INVALID
            } else {
                CkRv::OK
            };
            let (on, off) = (format!("{name}=T"), format!("{name}=F"));
            for call in CHANGES {
                for class in ["CLASS=#2", "CLASS=#3", "CLASS=#4", "CLASS=#8", "LABEL=x"] {
                    for (had, new, rv) in [
                        (off.as_str(), &on, rv),
                        ("", &on, rv),
                        (&on, &on, CkRv::OK),
                        (&off, &off, CkRv::OK),
                        (&on, &off, CkRv::OK),
                    ] {
                        let key = token.put(&format!("{class} {had}"));
                        let said = chain.rv(call(key, new));
                        assert_eq!(said, rv, "{class} {had}, then {new}");
                    }
                }
                let data = token.put("CLASS=#0");
                assert_eq!(chain.rv(call(data, &on)), CkRv::OK);
            }
        }
    }
    let chain = Chain::new(&token, &everywhere("conflicting_attributes_patch"));
    let chain = chain.compatible("roles-set-later");
    for call in CHANGES {
        let key = token.put("CLASS=#4 SENSITIVE=T ALWAYS_SENSITIVE=T WRAP=F DECRYPT=F");
        assert_eq!(chain.rv(call(key, "WRAP=T")), CkRv::OK);
        let both = call(key, "WRAP=T DECRYPT=T");
        assert_eq!(chain.rv(both), CkRv::ATTRIBUTE_VALUE_INVALID);
    }
}

/// The original judges each derivation alone; two give one key with two roles.
#[test]
fn derives_no_wrapping_key() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere("conflicting_attributes_patch"));
    let base = token.put("CLASS=#4 DERIVE=T");
    for (roles, rv) in [
        ("WRAP=T", CkRv::ATTRIBUTE_VALUE_INVALID),
        ("WRAP=F DECRYPT=T ENCRYPT=T", CkRv::OK),
        ("UNWRAP=T", CkRv::OK),
    ] {
        let template = t(&format!("CLASS=#4 SENSITIVE=T {roles}"));
        let derive = Call::C_DeriveKey(S, mechanism(0x21, &[2; 8]), base, template);
        assert_eq!(chain.rv(derive), rv, "{roles}");
    }
    let chain = chain.compatible("derived-keys-wrap");
    for (roles, rv) in [
        ("WRAP=T", CkRv::OK),
        ("WRAP=T DECRYPT=T", CkRv::ATTRIBUTE_VALUE_INVALID),
    ] {
        let template = t(&format!("CLASS=#4 SENSITIVE=T {roles}"));
        let derive = Call::C_DeriveKey(S, mechanism(0x21, &[2; 8]), base, template);
        assert_eq!(chain.rv(derive), rv, "{roles}");
    }
}

/// What is sticky, and whether only where key usage is segregated.
const STICKY: [(&str, bool); 12] = [
    ("WRAP=T", false),
    ("UNWRAP=T", false),
    ("DECRYPT=T", false),
    ("ENCRYPT=T", false),
    ("SENSITIVE=T", false),
    ("EXTRACTABLE=F", false),
    ("ALWAYS_SENSITIVE=T", false),
    ("NEVER_EXTRACTABLE=T", false),
    ("SIGN=T", true),
    ("VERIFY=T", true),
    ("SIGN_RECOVER=T", true),
    ("VERIFY_RECOVER=T", true),
];

#[test]
fn keeps_what_is_sticky() {
    let token = Token::new();
    for segregated in [false, true] {
        let chain = Chain::new(&token, &everywhere("sticky_attributes_patch"));
        let chain = chain.segregated(segregated);
        for (setting, only_segregated) in STICKY {
            let refused = segregated || !only_segregated;
            for call in CHANGES {
                let judged = |had: &str, new: &str, refused| {
                    let key = token.put(&format!("CLASS=#4 {had}"));
                    let said = chain.rv(call(key, new)) == CkRv::ATTRIBUTE_VALUE_INVALID;
                    assert_eq!(said, refused, "{had} to {new}, segregated: {segregated}");
                };
                judged(setting, &other(setting), refused);
                judged(setting, setting, false);
                judged(&other(setting), setting, false);
                judged("LABEL=x", setting, false);
                judged(setting, "LABEL=x", false);
            }
        }
        for free in ["PRIVATE", "DERIVE", "LOCAL"] {
            let key = token.put(&format!("CLASS=#4 {free}=T"));
            assert_eq!(chain.rv(set(key, &format!("{free}=F"))), CkRv::OK);
        }
    }
}

#[test]
fn keeps_wrapping_from_keys_that_are_not_local() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere("non_local_objects_patch"));
    let refused = CkRv::TEMPLATE_INCONSISTENT;
    let create = |text: &str| Call::C_CreateObject(S, t(text));
    for class in ["CLASS=#2", "CLASS=#3", "CLASS=#4", "CLASS=#8"] {
        for dangerous in ["WRAP=T", "UNWRAP=T", "LOCAL=T", "WRAP=0x02"] {
            assert_eq!(chain.rv(create(&format!("{class} {dangerous}"))), refused);
            for call in CHANGES {
                for (was, rv) in [
                    ("LOCAL=F", refused),
                    ("LOCAL=T", CkRv::OK),
                    ("LABEL=x", refused), // the original takes it for no key
                ] {
                    let key = token.put(&format!("{class} {was}"));
                    assert_eq!(chain.rv(call(key, dangerous)), rv, "{class} {was}");
                }
                let data = token.put("CLASS=#0");
                assert_eq!(chain.rv(call(data, dangerous)), CkRv::OK);
            }
        }
        for harmless in ["WRAP=F", "UNWRAP=F", "LABEL=x"] {
            assert_eq!(chain.rv(create(&format!("{class} {harmless}"))), CkRv::OK);
            let key = token.put(&format!("{class} LOCAL=F"));
            assert_eq!(chain.rv(set(key, harmless)), CkRv::OK);
        }
    }
    for brought in ["VALUE=0x01", "MODULUS=0x01", "PRIME_1=0x01", "CLASS=#4"] {
        for call in CHANGES {
            for (was, new, rv) in [
                (
                    "CLASS=#4 LOCAL=T WRAP=T",
                    "LABEL=x",
                    CkRv::ATTRIBUTE_READ_ONLY,
                ),
                ("CLASS=#4 WRAP=T", "LABEL=x", CkRv::ATTRIBUTE_READ_ONLY),
                ("CLASS=#4 UNWRAP=F", "LABEL=x", CkRv::OK),
                ("CLASS=#4 LOCAL=F", "WRAP=T", refused),
            ] {
                let key = token.put(was);
                let said = chain.rv(call(key, &format!("{brought} {new}")));
                assert_eq!(said, rv, "{was}, then {brought} {new}");
            }
        }
    }
    // False provenance, which the original leaves to the token.
    for claim in ["ALWAYS_SENSITIVE=T", "NEVER_EXTRACTABLE=T", "TRUSTED=T"] {
        let read_only = CkRv::ATTRIBUTE_READ_ONLY;
        token.calls();
        assert_eq!(chain.rv(create(&format!("CLASS=#4 {claim}"))), read_only);
        assert!(token.calls().is_empty(), "{claim}");
        for call in CHANGES {
            let key = token.put("CLASS=#4 LOCAL=F");
            assert_eq!(chain.rv(call(key, claim)), read_only, "{claim}");
            let key = token.put("CLASS=#4 LOCAL=T");
            assert_eq!(chain.rv(call(key, claim)), CkRv::OK, "{claim}");
        }
    }
    assert_eq!(chain.rv(create("CLASS=#1 TRUSTED=T")), CkRv::OK);
    // An object that is to become a key is judged as one.
    for call in CHANGES {
        let data = token.put("CLASS=#0 VALUE=0x01");
        assert_eq!(chain.rv(call(data, "CLASS=#4 WRAP=T")), refused);
    }
    assert_eq!(chain.rv(create("CLASS=#0 WRAP=T")), CkRv::OK);
    let no_class = chain.rv(create("WRAP=T"));
    assert_eq!(no_class, CkRv::TEMPLATE_INCOMPLETE); // the token's
}

/// What is the module's to say: of the library, the device, the session, the handle.
const OF_THE_MODULE: [CkRv; 15] = [
    CkRv::HOST_MEMORY,
    CkRv::SLOT_ID_INVALID,
    CkRv::GENERAL_ERROR,
    CkRv::FUNCTION_FAILED,
    CkRv::DEVICE_ERROR,
    CkRv::DEVICE_MEMORY,
    CkRv::DEVICE_REMOVED,
    CkRv::KEY_HANDLE_INVALID,
    CkRv::OBJECT_HANDLE_INVALID,
    CkRv::SESSION_CLOSED,
    CkRv::SESSION_HANDLE_INVALID,
    CkRv::TOKEN_NOT_PRESENT,
    CkRv::TOKEN_NOT_RECOGNIZED,
    CkRv::USER_NOT_LOGGED_IN,
    CkRv::CRYPTOKI_NOT_INITIALIZED,
];

/// The CK_RV for an object that cannot be read. The original gives the last column or ends the
/// call with an RPC error, whatever the module says.
#[test]
fn gives_the_errors_of_the_module_and_else_its_own() {
    let own = [
        ("non_local_objects_patch", CkRv::GENERAL_ERROR),
        (
            "conflicting_attributes_patch",
            CkRv::ATTRIBUTE_VALUE_INVALID,
        ),
        ("sticky_attributes_patch", CkRv::ATTRIBUTE_VALUE_INVALID),
        ("secure_templates_patch", CkRv::GENERAL_ERROR),
    ];
    for (action, policy) in own {
        let token = Token::new();
        let chain = Chain::new(&token, &everywhere(action));
        for call in CHANGES {
            token.reads(Reads::Well);
            let rv = chain.rv(call(ObjectHandle(7), "WRAP=T"));
            assert_eq!(rv, CkRv::OBJECT_HANDLE_INVALID, "{action}");
            let key = token.put("CLASS=#4");
            for code in (0..0x300).chain([0x8000_0001]).map(CkRv) {
                let is_answer = [
                    CkRv::OK,
                    CkRv::ATTRIBUTE_TYPE_INVALID,
                    CkRv::BUFFER_TOO_SMALL,
                ];
                if is_answer.contains(&code) {
                    continue;
                }
                let expected = if OF_THE_MODULE.contains(&code) {
                    code
                } else {
                    policy
                };
                token.reads(Reads::Not(code));
                assert_eq!(chain.rv(call(key, "WRAP=T")), expected, "{action}");
            }
        }
        token.reads(Reads::Well);
        let call = Call::C_CopyObject(SessionHandle(2), ObjectHandle(7), t("WRAP=T"));
        let Reply::C_CopyObject(reply) = chain.call(call) else {
            panic!("another function's reply");
        };
        assert_eq!(reply.rv, CkRv::SESSION_HANDLE_INVALID);
        assert_eq!(reply.object, ObjectHandle(0));
    }
}

/// No template reaches the module otherwise than the actions read it.
#[test]
fn refuses_unsound_templates() {
    let token = Token::new();
    let key = token.put("CLASS=#4 LOCAL=F");
    for action in [
        "non_local_objects_patch",
        "conflicting_attributes_patch",
        "secure_templates_patch",
    ] {
        let chain = Chain::new(&token, &everywhere(action));
        for (text, rv) in [
            ("CLASS=#4 WRAP=F WRAP=T", CkRv::TEMPLATE_INCONSISTENT),
            ("CLASS=#0 CLASS=#4", CkRv::TEMPLATE_INCONSISTENT),
            ("CLASS=#4 WRAP=0x0100", CkRv::ATTRIBUTE_VALUE_INVALID),
        ] {
            let create = Call::C_CreateObject(S, t(text));
            for call in [create, set(key, text), copy(key, text)] {
                token.calls();
                assert_eq!(chain.rv(call), rv, "{action}: {text}");
                assert!(!token.calls().iter().any(|it| *it != C_GetAttributeValue));
            }
        }
    }
}

/// Templates, and whether they are secure without and with segregated key usage.
const GENERATED: [(&str, bool, bool); 16] = [
    ("", true, true),
    ("ENCRYPT=T DECRYPT=T", true, true),
    ("WRAP=T UNWRAP=T", true, true),
    ("SENSITIVE=F", false, false),
    ("SENSITIVE=T", true, true),
    ("ENCRYPT=T WRAP=T", false, false),
    ("ENCRYPT=T UNWRAP=T", false, false),
    ("DECRYPT=T WRAP=T", false, false),
    ("DECRYPT=T UNWRAP=T", false, false),
    ("ENCRYPT=0x02 WRAP=0xff", false, false),
    ("ENCRYPT=F DECRYPT=F WRAP=F UNWRAP=F", true, true),
    ("SIGN=T VERIFY=T", true, true),
    ("ENCRYPT=T SIGN=T", true, false),
    ("DECRYPT=T VERIFY_RECOVER=T", true, false),
    ("WRAP=T VERIFY=T", true, false),
    ("UNWRAP=T SIGN_RECOVER=T", true, false),
];

const IMPORTED: [(&str, bool, bool); 12] = [
    ("", true, true),
    ("ENCRYPT=T UNWRAP=T", true, true),
    ("WRAP=T", false, false),
    ("DECRYPT=T", false, false),
    ("SENSITIVE=F", false, false),
    ("WRAP=0x02", false, false),
    ("SIGN=T VERIFY=T UNWRAP=T", true, true),
    ("ENCRYPT=T SIGN=T", true, false),
    ("ENCRYPT=T VERIFY_RECOVER=T", true, false),
    ("SIGN=T SENSITIVE=F", false, false),
    ("SIGN=T WRAP=T", false, false),
    ("WRAP=F DECRYPT=F SENSITIVE=T", true, true),
];

#[test]
fn makes_keys_of_secure_templates_only() {
    let token = Token::new();
    let m = || mechanism(0x1080, &[]);
    for segregated in [false, true] {
        let chain = Chain::new(&token, &everywhere("secure_templates_patch"));
        let chain = chain.segregated(segregated);
        let judged = |call: Call<'_>, is_secure: (bool, bool), text: &str| {
            let is_secure = if segregated { is_secure.1 } else { is_secure.0 };
            let name = call.function().name();
            let said = chain.rv(call) != CkRv::TEMPLATE_INCONSISTENT;
            assert_eq!(said, is_secure, "{name}: {text}, segregated: {segregated}");
        };
        for (text, all, seg) in GENERATED {
            judged(Call::C_GenerateKey(S, m(), t(text)), (all, seg), text);
            judged(pair(text, ""), (all, seg), text);
            judged(pair("", text), (all, seg), text);
            // The two templates count as one.
            if let Some((one, two)) = text.split_once(' ') {
                judged(pair(one, two), (all, seg), text);
            }
            // A copy is held against these with what it is copied of.
            let key = token.put(&format!("CLASS=#4 {text}"));
            judged(copy(key, "LABEL=x"), (all, seg), text);
        }
        for (text, all, seg) in IMPORTED {
            let text = &format!("CLASS=#4 {text}");
            for call in creations(text) {
                if call.function() != C_GenerateKey {
                    judged(call, (all, seg), text);
                }
            }
        }
        let data = Call::C_CreateObject(S, t("CLASS=#0 WRAP=T"));
        judged(data, (true, true), "data");
        judged(copy(token.put("CLASS=#0"), "WRAP=T"), (true, true), "data");
        judged(set(token.put("CLASS=#0"), "WRAP=T"), (true, true), "data");
    }
}

/// The original looks at the template of a copy alone, and dies where it cannot read the object.
#[test]
fn copies_keys_to_secure_ones_only() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere("secure_templates_patch"));
    for (was, new, rv) in [
        (
            "WRAP=T UNWRAP=T ENCRYPT=F DECRYPT=F SENSITIVE=T",
            "ENCRYPT=T",
            CkRv::TEMPLATE_INCONSISTENT,
        ),
        (
            "ENCRYPT=T DECRYPT=T WRAP=F UNWRAP=F SENSITIVE=T",
            "UNWRAP=T",
            CkRv::TEMPLATE_INCONSISTENT,
        ),
        (
            "ENCRYPT=T DECRYPT=T WRAP=F UNWRAP=F SENSITIVE=T",
            "WRAP=T",
            CkRv::TEMPLATE_INCONSISTENT,
        ),
        (
            "ENCRYPT=T DECRYPT=T WRAP=F UNWRAP=F SENSITIVE=T",
            "ENCRYPT=F",
            CkRv::OK,
        ),
        (
            "ENCRYPT=T DECRYPT=T WRAP=F UNWRAP=F SENSITIVE=T",
            "DECRYPT=T",
            CkRv::TEMPLATE_INCONSISTENT,
        ),
        (
            "ENCRYPT=T DECRYPT=T WRAP=F UNWRAP=F SENSITIVE=T",
            "LABEL=x",
            CkRv::OK,
        ),
        (
            "ENCRYPT=T WRAP=F SENSITIVE=F",
            "LABEL=x",
            CkRv::TEMPLATE_INCONSISTENT,
        ),
        ("ENCRYPT=T WRAP=F SENSITIVE=F", "SENSITIVE=T", CkRv::OK),
        (
            "WRAP=T DECRYPT=T SENSITIVE=T",
            "DECRYPT=F",
            CkRv::TEMPLATE_INCONSISTENT,
        ),
        (
            "WRAP=T DECRYPT=T SENSITIVE=T",
            "WRAP=F",
            CkRv::TEMPLATE_INCONSISTENT,
        ),
    ] {
        let key = token.put(&format!("CLASS=#4 {was}"));
        assert_eq!(chain.rv(copy(key, new)), rv, "{was}, then {new}");
    }
    // Two copies would be one key with two roles.
    for (is_segregated, rv) in [(false, CkRv::OK), (true, CkRv::TEMPLATE_INCONSISTENT)] {
        let chain = Chain::new(&token, &everywhere("secure_templates_patch"));
        let chain = chain.segregated(is_segregated);
        let key = token.put("CLASS=#4 ENCRYPT=F DECRYPT=F WRAP=F UNWRAP=F SIGN=F SENSITIVE=T");
        assert_eq!(chain.rv(copy(key, "SIGN=T")), rv);
        assert_eq!(chain.rv(copy(key, "ENCRYPT=T")), rv);
        assert_eq!(chain.rv(copy(key, "LABEL=x")), CkRv::OK);
    }
}

#[test]
fn changes_no_role_of_a_key() {
    let token = Token::new();
    for segregated in [false, true] {
        let chain = Chain::new(&token, &everywhere("secure_templates_patch"));
        let chain = chain.segregated(segregated);
        for (name, only_segregated) in [
            ("WRAP", false),
            ("UNWRAP", false),
            ("DECRYPT", false),
            ("ENCRYPT", false),
            ("SENSITIVE", false),
            ("SIGN", true),
            ("VERIFY", true),
            ("SIGN_RECOVER", true),
            ("VERIFY_RECOVER", true),
        ] {
            let refused = segregated || !only_segregated;
            for (was, new) in [("T", "F"), ("F", "T"), ("T", "T"), ("F", "F")] {
                let key = token.put(&format!("CLASS=#4 {name}={was}"));
                let said = chain.rv(set(key, &format!("{name}={new}")));
                let expected = if refused && was != new {
                    CkRv::ATTRIBUTE_READ_ONLY
                } else {
                    CkRv::OK
                };
                assert_eq!(said, expected, "{name} {was} to {new}");
            }
            let key = token.put("CLASS=#4");
            assert_eq!(chain.rv(set(key, &format!("{name}=T"))), CkRv::OK);
        }
    }
}

/// Keeps the templates of a call.
#[derive(Default)]
struct Recorder(Mutex<Vec<Template>>);

impl Cryptoki for Recorder {
    fn call(&self, call: Call<'_>) -> Reply {
        let function = call.function();
        *self.0.lock().expect("no panic") = match call {
            Call::C_CreateObject(_, template)
            | Call::C_CopyObject(_, _, template)
            | Call::C_GenerateKey(_, _, template)
            | Call::C_UnwrapKey(_, _, _, _, template)
            | Call::C_DeriveKey(_, _, _, template) => vec![template],
            Call::C_GenerateKeyPair(_, _, public, private) => vec![public, private],
            _ => Vec::new(),
        };
        Reply::only(function, CkRv::HOST_MEMORY)
    }
}

#[test]
fn says_for_a_client_what_it_does_not_say() {
    let secret = "WRAP=F UNWRAP=F ENCRYPT=F DECRYPT=F SIGN=F VERIFY=F SENSITIVE=T EXTRACTABLE=F \
        DERIVE=F PRIVATE=T";
    let private = "UNWRAP=F DECRYPT=F SIGN=F SIGN_RECOVER=F SENSITIVE=T EXTRACTABLE=F DERIVE=F \
        PRIVATE=T";
    let public = "WRAP=F ENCRYPT=F VERIFY=F VERIFY_RECOVER=F DERIVE=F";
    let recorder = Recorder::default();
    let chain = Chain::new(&recorder, &everywhere("sanitize_creation_templates_patch"));
    let judged = |call: Call<'_>, expected: &[&str]| {
        let name = call.function().name();
        assert_eq!(chain.rv(call), CkRv::HOST_MEMORY); // the module's
        let got = std::mem::take(&mut *recorder.0.lock().expect("no panic"));
        let expected: Vec<_> = expected.iter().map(|text| t(text)).collect();
        assert!(got == expected, "{name}");
    };
    for (class, defaults) in [
        ("#4", secret),
        ("#3", private),
        ("#2", public),
        ("#0", ""),
        ("#8", ""),
    ] {
        let text = format!("LABEL=x CLASS={class}");
        for call in creations(&text) {
            // C_GenerateKey makes secret keys, whatever the template says.
            let is_generated = call.function() == C_GenerateKey;
            let defaults = if is_generated { secret } else { defaults };
            judged(call, &[&format!("{text} {defaults}")]);
        }
    }
    // Only what is not there, at the end, in order.
    let said = "SIGN=T EXTRACTABLE=T CLASS=#4 WRAP=T";
    let added = "UNWRAP=F ENCRYPT=F DECRYPT=F VERIFY=F SENSITIVE=T DERIVE=F PRIVATE=T";
    judged(creations(said)[0].clone(), &[&format!("{said} {added}")]);
    judged(pair("", ""), &[public, private]);
    judged(
        pair("LABEL=x", "PRIVATE=F"),
        &[
            &format!("LABEL=x {public}"),
            &format!("PRIVATE=F {}", private.replace(" PRIVATE=T", "")),
        ],
    );
    judged(copy(ObjectHandle(1), "LABEL=x"), &["LABEL=x"]);

    for call in creations("LABEL=x").into_iter().chain(creations("CLASS=")) {
        if call.function() == C_GenerateKey {
            continue;
        }
        assert_eq!(chain.rv(call), CkRv::TEMPLATE_INCOMPLETE);
        assert!(recorder.0.lock().expect("no panic").is_empty());
    }
}

#[test]
fn lets_pass_what_an_action_is_not_about() {
    let token = Token::new();
    for (action, function) in [
        ("identity", C_Finalize),
        ("c_Initialize_hook", C_Initialize),
        ("do_segregate_usage", C_Initialize),
    ] {
        let chain = Chain::new(&token, &vec![(function, action)]);
        let call = match function {
            C_Finalize => Call::C_Finalize(),
            _ => Call::C_Initialize(),
        };
        assert_eq!(chain.rv(call), CkRv::OK);
        assert_eq!(token.calls(), [function]);
        let is_segregated = chain.segregation.load(Ordering::Relaxed);
        assert_eq!(is_segregated, action == "do_segregate_usage");
    }
}

#[test]
fn lets_nobody_in_but_with_the_pin_of_the_example() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere("c_Login_hook"));
    let login = |pin| chain.rv(Call::C_Login(S, UserType(1), pin));
    assert_eq!(login(b"1234"), CkRv::OK);
    assert_eq!(token.calls(), [C_Login]);
    for pin in [&b""[..], b"123", b"12345", b"0000"] {
        assert_eq!(login(pin), CkRv::PIN_LOCKED);
    }
    assert!(token.calls().is_empty());
}

/// C_Logout with the login hook ends the original's process.
#[test]
fn knows_which_functions_an_action_is_for() {
    let possible = |action: &str, function: Function| {
        let row = filter::actions::row(action).expect("it is an action");
        row.functions.is_none_or(|known| known.contains(&function))
    };
    assert!(!possible("c_Login_hook", C_Logout));
    assert!(!possible("wrapping_format_patch", C_CreateObject));
    assert!(!possible("sticky_attributes_patch", C_CreateObject));
    assert!(possible("do_segregate_usage", C_OpenSession));
}
