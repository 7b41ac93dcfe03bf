//! Tests objects that come from outside the token, and what all actions on templates have in common.

use xdr::Function::*;
use xdr::{Call, CkRv, Cryptoki, ObjectHandle, Reply, SessionHandle};

use crate::calls::{CHANGES, copy, set};
use crate::chain::{Chain, S, everywhere, t};
use crate::token::{Reads, Token};

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
    // False provenance. The original leaves it to the token to refuse that.
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
    // An object that would become a key is judged as a key.
    for call in CHANGES {
        let data = token.put("CLASS=#0 VALUE=0x01");
        assert_eq!(chain.rv(call(data, "CLASS=#4 WRAP=T")), refused);
    }
    assert_eq!(chain.rv(create("CLASS=#0 WRAP=T")), CkRv::OK);
    let no_class = chain.rv(create("WRAP=T"));
    assert_eq!(no_class, CkRv::TEMPLATE_INCOMPLETE); // the token's
}

/// CK_RVs that are passed on from the module: about the library, the device, the session, the handle.
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

/// The CK_RV for an object that cannot be read. Whatever the module says, the original returns the last column or ends
/// the call with an RPC error.
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
        assert_eq!(reply.object, None);
    }
}

/// A template that the module could read in another way than the actions is refused.
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
