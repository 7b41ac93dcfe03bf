//! Tests attributes that conflict with each other, and attributes that must not change.

use xdr::facts::Family;
use xdr::{Attribute, AttributeType, Call, CkRv};

use crate::calls::{CHANGES, creations, other, pair, set};
use crate::chain::{Chain, S, attributes, everywhere, mechanism, t};
use crate::token::Token;

/// Rows of the table: the two settings, and whether they conflict only where key usage is segregated.
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
                let wraps = &attributes("WRAP=T").0[0];
                let derives = call.function().facts().is_of(Family::Derive)
                    && call.values().any(|template| template.0.contains(wraps));
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
                    // A setting that is overridden no longer counts.
                    let key = token.put(&format!("CLASS=#4 {had} {new}"));
                    assert_eq!(chain.rv(call(key, &other(had))), CkRv::OK, "{had} {new}");
                    // Both settings existed before.
                    let key = token.put(&format!("CLASS=#4 {had} {new}"));
                    let rv = chain.rv(call(key, "LABEL=x"));
                    assert_eq!(rv, expected(refused), "{had} {new}");
                }
            }
        }
    }
}

/// The original lets a key get a role later, although its copies, or the other half of a pair, may have the other role.
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

/// The original judges each derivation by itself, but two derivations give one key with two roles.
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

/// Sticky settings, and whether they are sticky only where key usage is segregated.
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
        // Templates that restrict what a key wraps and unwraps cannot be replaced, not even by an empty one.
        for call in CHANGES {
            for kind in [0x4000_0211, 0x4000_0212, 0x4000_0213] {
                let key = token.put("CLASS=#4");
                let mut change = call(key, "LABEL=x");
                for template in change.values_mut() {
                    let template = template.as_mut().expect("a template");
                    let empty = Attribute::new(AttributeType(kind), Vec::new());
                    template.0.push(empty);
                }
                assert_eq!(chain.rv(change), CkRv::ATTRIBUTE_VALUE_INVALID);
            }
        }
        for free in ["PRIVATE", "DERIVE", "LOCAL"] {
            let key = token.put(&format!("CLASS=#4 {free}=T"));
            assert_eq!(chain.rv(set(key, &format!("{free}=F"))), CkRv::OK);
        }
    }
}
