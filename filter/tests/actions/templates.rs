//! Tests the templates of new keys: which are secure, and what is added to them.

use std::sync::Mutex;

use xdr::Function::*;
use xdr::{Call, CkRv, Cryptoki, ObjectHandle, Reply, Template};

use crate::calls::{copy, creations, pair, set};
use crate::chain::{Chain, S, everywhere, mechanism, t};
use crate::token::Token;

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
            // The two templates are judged together.
            if let Some((one, two)) = text.split_once(' ') {
                judged(pair(one, two), (all, seg), text);
            }
            // A copy is judged by these templates together with the object that is copied.
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

/// The original looks at the template of a copy alone, and its process ends if it cannot read the object.
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
    // Two copies would make one key with two roles.
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

/// A module that stores the templates of a call.
#[derive(Default)]
struct Recorder(Mutex<Vec<Option<Template>>>);

impl Cryptoki for Recorder {
    fn call(&self, call: Call<'_>) -> Reply {
        let function = call.function();
        let mut call = call;
        let templates = call.values_mut().into_iter().map(|it| it.take());
        *self.0.lock().expect("no panic") = templates.collect();
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
    // Adds only the attributes that are missing, at the end, in order.
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
