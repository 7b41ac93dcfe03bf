//! Plays the published attacks on PKCS#11 against the filter, each as the calls of a client.
//!
//! `traces` and `variations` have the attacks. Each is played without rules, where it must succeed (otherwise it proves
//! nothing), and under three filter files, where it must fail: patch set 1 and patch set 2 as they are shipped, and
//! `etc/filter-strict.conf`. The tables here list the exceptions, with the reason for each.

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "the other target uses the rest")]
#[path = "../filter/configurations.rs"]
mod configurations;

mod client;
mod hidden;
mod plans;
mod scene;
mod traces;
mod variations;
mod version4;
mod wire;

use client::{Client, Stopped, Version};
use scene::{Base, Scene};
use support::raw::Peer;
use support::{Maker, Token};
use traces::Attack;
use xdr::Architecture;

/// Attacks that this token makes nothing of, filter or not.
const NOT_ON_SOFTHSM: &[(&str, &str)] = &[
    ("S1 secret, TRUE of two bytes", "refuses such a boolean"),
    (
        "S1 secret, DECRYPT twice, TRUE first (R7)",
        "takes the last of two values",
    ),
    (
        "P11 a derived key of small order is known, and wraps",
        "refuses 1 as a public value",
    ),
    ("R1 the value", "keeps the values of sensitive keys itself"),
    (
        "R1 the value among others",
        "keeps the values of sensitive keys itself",
    ),
    (
        "R1 the private parts",
        "keeps the values of sensitive keys itself",
    ),
    (
        "R3 not sensitive any more",
        "does not let SENSITIVE go back",
    ),
    (
        "R3 a copy that is not sensitive",
        "does not let SENSITIVE go back",
    ),
    ("R5 ALWAYS_SENSITIVE of a known key", "sets it itself"),
    ("R5 LOCAL of a known key, set later", "sets it itself"),
    ("R5 TRUSTED", "is the officer's"),
    ("I1 secret, CLASS twice", "takes the last of two values"),
    ("I1 secret, CLASS twice, DATA first", "refuses two"),
    ("I1 secret, CLASS of 4 bytes", "refuses such a number"),
    ("I1 DES3", "does not wrap with DES3"),
    (
        "I1 pair: a copy of one of the token's, its modulus changed",
        "does not copy so",
    ),
    (
        "I2 secret, VALUE of a wrapping key set",
        "does not set values",
    ),
    (
        "I2 secret, a copy of a wrapping key with another VALUE",
        "does not copy so",
    ),
];

/// And with an OpenSSL that does so.
const NOT_WITH_IMPLICIT_REJECTION: &[(&str, &str)] = &[(
    "P1 C_UnwrapKey tells bad PKCS#1 padding",
    "makes some key of what has no padding",
)];

/// What cannot win here, whatever the filter.
fn impossible() -> Vec<(&'static str, &'static str)> {
    const OPENSSL_3_2: i64 = 0x3020_0000;
    let rejects_implicitly = openssl::version::number() >= OPENSSL_3_2;
    let more = NOT_WITH_IMPLICIT_REJECTION
        .iter()
        .filter(|_| rejects_implicitly);
    NOT_ON_SOFTHSM.iter().chain(more).copied().collect()
}

/// Attacks of docs/attacks.md that are not among the plans, and why.
#[allow(dead_code, reason = "for the reader")]
const NOT_PLAYED: &[(&str, &str)] = &[
    (
        "R9",
        "version 3: wire::nested_templates_are_refused; version 4: filter/tests/actions",
    ),
    (
        "P7",
        "SoftHSM unwraps private keys by RFC 5649 only, which has an integrity check of its own",
    ),
    (
        "P8, P9 by mechanism",
        "SoftHSM has none; etc/filter-strict.conf forbids them by name: wire",
    ),
    (
        "P11 with ECDH, P12 with GCM",
        "version 3: wire::addresses_are_refused; version 4: filter/tests/actions/softhsm.rs",
    ),
    (
        "P12 with CTR",
        "SoftHSM does not wrap with CTR; malleability of ciphertexts is the application's",
    ),
    ("V1", "SoftHSM has no operation state"),
    (
        "V4",
        "a search's list is per session: D-10, and tests/filter",
    ),
];

const WEAK: &[(&str, &str)] = &[(
    "I3 pair of 512 bits, to be factored",
    "the action strong_wrapping_keys (D-124)",
)];

/// Wins that the shipped patch sets leave, with the option that stops them.
const LEFT_BY_BOTH_SETS: &[(&str, &str)] = &[
    WEAK[0],
    (
        "P8 the derived key in parts, by digests",
        "forbidden_functions C_DeriveKey",
    ),
    ("S13 one key encrypts and signs", "do_segregate_usage"),
    ("S13 SIGN set later", "do_segregate_usage"),
    ("S13 comes back to sign", "do_segregate_usage"),
    (
        "S13 two copies of a key without usages",
        "do_segregate_usage",
    ),
    (
        "P3 C_DecryptFinal tells bad CBC padding",
        "remove_padding_oracles decrypt",
    ),
    (
        "P2 C_Decrypt tells bad PKCS#1 padding",
        "remove_padding_oracles decrypt",
    ),
    (
        "P3 C_Decrypt tells bad CBC padding",
        "remove_padding_oracles decrypt",
    ),
    (
        "V5 the officer gives the user a new PIN",
        "forbid_admin_operations",
    ),
    (
        "V5 the token is initialised anew",
        "forbid_admin_operations",
    ),
];

/// What patch set 1 leaves besides.
const LEFT_BY_PATCH_SET_1: &[(&str, &str)] = &[("P3 DES3 too", "remove_padding_oracles decrypt")];

/// What patch set 2 leaves besides: it has no wrapping format, and nothing that applies to copies
/// without segregation.
const LEFT_BY_PATCH_SET_2: &[(&str, &str)] = &[
    ("S13 a copy signs", "do_segregate_usage"),
    (
        "P1 C_UnwrapKey tells bad PKCS#1 padding",
        "remove_padding_oracles unwrap",
    ),
];

const LATER: &str = "a key gets a role when it is made, or never (D-119)";
const DERIVED: &str = "a derived key cannot wrap (D-120)";
const BY_VALUE: &str = "a search by value finds no key (D-121)";
const DECRYPTION: &str = "the padding kind `decrypt` (D-86)";
const TRUE: &str = "TRUE is one byte of 1 (D-101)";

/// What the original misses with its shipped configuration, and ours stops with the same file.
/// docs/attacks.md has a line for each.
const MISSED_BY_PATCH_SET_1: &[(&str, &str)] = &[
    ("P8 the derived key in parts, by searches", BY_VALUE),
    ("R1 a guess of the value, by a search", BY_VALUE),
    ("S11 derived by copies of the base", DERIVED),
    ("S11 derived twice, DECRYPT set later", DERIVED),
    ("S11 derived twice, WRAP and DECRYPT", DERIVED),
    ("S11 two pairs of one exchange, WRAP and DECRYPT", DERIVED),
    (
        "S5 a key that encrypts: one copy wraps, one decrypts",
        LATER,
    ),
    ("S5 copies on the token, found by another session", LATER),
    ("S5 the original wraps and is gone, a copy decrypts", LATER),
    ("S5 two copies of a key without usages", LATER),
    (
        "S5 two copies of a key without usages, roles set later",
        LATER,
    ),
    ("S6 pair: 0xff for TRUE", TRUE),
    ("S6 pair: DECRYPT alone set later", LATER),
    ("S6 pair: WRAP set on a public key that had no usage", LATER),
    ("S6 pair: WRAP set on the public key later", LATER),
    ("S6 pair: a copy of an unused private key decrypts", LATER),
    ("S6 pair: a copy of an unused public key wraps", LATER),
    ("S6 pair: copies of both on the token", LATER),
    ("S6 pair: neither has a usage, both are set later", LATER),
    ("S6 pair: public wraps and is gone, then DECRYPT", LATER),
    (
        "S8 a wrapping key comes back with no usage, DECRYPT set later",
        LATER,
    ),
    (
        "S8 a wrapping key comes back with no usage, a copy decrypts",
        LATER,
    ),
];

/// What it misses with all it has, and ours stops with etc/filter-strict.conf, besides those that the
/// first table has as well.
const MISSED_BY_EVERYTHING: &[(&str, &str)] = &[
    ("P3 C_DecryptFinal tells bad CBC padding", DECRYPTION),
    ("P3 DES3 too", DECRYPTION),
    ("S13 two copies of a key without usages", LATER),
    WEAK[0],
    (
        "S8 pair: a wrapping key comes back to decrypt, without the format",
        "remove_padding_oracles no longer skips the wrapping format (D-85)",
    ),
    (
        "V5 the token is initialised anew",
        "forbid_admin_operations also covers C_InitToken (D-92)",
    ),
];

fn ids(tables: &[&[(&'static str, &'static str)]]) -> Vec<&'static str> {
    let mut all: Vec<&str> = tables.concat().into_iter().map(|(id, _)| id).collect();
    all.sort_unstable();
    all
}

fn attacks() -> impl Iterator<Item = &'static Attack> {
    traces::ATTACKS.iter().chain(variations::VARIATIONS)
}

/// How an attack ended.
type End = (&'static str, Result<bool, Stopped>);

/// How each attack ends under these rules.
fn play(maker: Maker, rules: &str) -> Vec<End> {
    play_as(maker, rules, None, Version::Three)
}

/// The same with all clients of one architecture and version.
fn play_as(
    maker: Maker,
    rules: &str,
    architecture: Option<Architecture>,
    version: Version,
) -> Vec<End> {
    let base = Base::new();
    let home = Peer::new(Maker::Ours, "", Token::new());
    let mut offline = Client::new(home.another(), Architecture::LITTLE_64);
    let mut peer = Peer::new(maker, rules, base.token.copy());
    peer.disconnect();
    attacks()
        .map(|attack| {
            peer.token.restore(&base.token);
            let architecture = architecture.unwrap_or(attack.architecture);
            let client = Client::speaking(version, peer.another(), architecture);
            let mut scene = Scene {
                client,
                offline: &mut offline,
                base: &base,
            };
            let end = (attack.run)(&mut scene);
            scene.client.connection.close();
            (attack.id, end)
        })
        .collect()
}

/// Those that were won; prints how each ended.
fn won(name: &str, ends: &[End]) -> Vec<&'static str> {
    println!("{name}:");
    for (id, end) in ends {
        match end {
            Ok(true) => println!("  {id}: WON"),
            Ok(false) => println!("  {id}: played to its end, no win"),
            Err(stopped) => println!("  {id}: {} {}", stopped.function, stopped.answer),
        }
    }
    let mut ids: Vec<&str> = ends
        .iter()
        .filter(|(_, end)| matches!(end, Ok(true)))
        .map(|(id, _)| *id)
        .collect();
    ids.sort_unstable();
    ids
}

fn strict() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/etc/filter-strict.conf");
    let text = std::fs::read_to_string(path).expect(path);
    // The fixture has a module of its own, and the file wants a key.
    let (_, rules) = text
        .split_once("\ndebug = 1\n")
        .expect("rules behind the modules");
    format!("wrapping_format_key = \"00112233445566778899aabbccddeeff\"\n{rules}")
}

#[test]
fn every_attack_wins_where_nothing_is_refused() {
    let won = won("no rules", &play(Maker::Ours, ""));
    let lost: Vec<&str> = attacks()
        .map(|attack| attack.id)
        .filter(|id| !won.contains(id))
        .collect();
    let mut lost = lost;
    lost.sort_unstable();
    assert_eq!(lost, ids(&[&impossible()]));
}

#[test]
fn patch_set_1_stops_what_it_is_for() {
    let won = won(
        "patch set 1",
        &play(Maker::Ours, &configurations::patch_set_1()),
    );
    assert_eq!(won, ids(&[LEFT_BY_BOTH_SETS, LEFT_BY_PATCH_SET_1]));
}

#[test]
fn patch_set_2_stops_what_it_is_for() {
    let won = won(
        "patch set 2",
        &play(Maker::Ours, &configurations::patch_set_2()),
    );
    let mut left = ids(&[LEFT_BY_BOTH_SETS, LEFT_BY_PATCH_SET_2]);
    left.retain(|id| impossible().iter().all(|(other, _)| id != other));
    assert_eq!(won, left);
}

#[test]
fn the_strict_configuration_stops_every_attack() {
    assert_eq!(won("strict", &play(Maker::Ours, &strict())), [""; 0]);
    // The plans' pairs have 1024 bits: each is to fail by the rule against it, not by that.
    let any_size = strict().replace("(C_WrapKey, strong_wrapping_keys),", "");
    assert_ne!(any_size, strict());
    assert_eq!(
        won("strict, any size", &play(Maker::Ours, &any_size)),
        ids(&[WEAK])
    );
}

/// What the original's daemon misses with its shipped configuration, and with everything it has.
#[test]
fn the_original_misses_some() {
    let nothing = won("the original, no rules", &play(Maker::Original, ""));
    let lost: Vec<&str> = attacks()
        .map(|attack| attack.id)
        .filter(|id| !nothing.contains(id))
        .collect();
    println!("not possible through the original (D-4), or on SoftHSM: {lost:#?}");
    let theirs = won(
        "the original, patch set 1",
        &play(Maker::Original, &configurations::patch_set_1()),
    );
    let ours = ids(&[LEFT_BY_BOTH_SETS, LEFT_BY_PATCH_SET_1]);
    let missed = |theirs: Vec<&'static str>, ours: &[&str]| -> Vec<&'static str> {
        theirs.into_iter().filter(|id| !ours.contains(id)).collect()
    };
    let shipped = missed(theirs, &ours);
    let theirs = won(
        "the original, everything",
        &play(
            Maker::Original,
            &configurations::strictest_of_the_original(),
        ),
    );
    let strictest = missed(theirs, &ids(&[MISSED_BY_PATCH_SET_1]));
    println!(
        "missed by the original and not by ours: patch set 1 {shipped:#?}, everything {strictest:#?}"
    );
    assert_eq!(shipped, ids(&[MISSED_BY_PATCH_SET_1]));
    assert_eq!(strictest, ids(&[MISSED_BY_EVERYTHING]));
}

/// docs/attacks.md lists what the original misses, and what the shipped sets leave.
#[test]
fn the_page_lists_what_is_missed_and_what_is_left() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/attacks.md");
    let page = std::fs::read_to_string(path).expect(path);
    let tables = [
        MISSED_BY_PATCH_SET_1,
        MISSED_BY_EVERYTHING,
        LEFT_BY_BOTH_SETS,
        LEFT_BY_PATCH_SET_1,
        LEFT_BY_PATCH_SET_2,
    ];
    for (id, why) in tables.concat() {
        let line = format!("\n- {id}: {why}\n");
        assert!(page.contains(&line), "{line}");
    }
}

/// Where an attack ends, and how, is the same whatever the client says its integers look like, and in each version
/// of the protocol.
#[test]
fn no_decision_depends_on_the_architecture() {
    // Four bytes are a number of some clients.
    let is_of_one_layout = |end: &&End| end.0 == "I1 secret, CLASS of 4 bytes";
    let text = |ends: Vec<End>| -> Vec<String> {
        ends.iter()
            .filter(|end| !is_of_one_layout(end))
            .map(|end| format!("{end:?}"))
            .collect()
    };
    let rules = configurations::patch_set_1();
    let [little, big] = [Architecture::LITTLE_64, Architecture::BIG_32].map(|architecture| {
        text(play_as(
            Maker::Ours,
            &rules,
            Some(architecture),
            Version::Three,
        ))
    });
    assert_eq!(little, big);
    let host = Some(Architecture::host());
    let four = text(play_as(Maker::Ours, &rules, host, Version::Four));
    assert_eq!(little, four);
}

/// Version 4 says the same and is judged alike.
#[test]
fn version_4_wins_nothing_more_and_nothing_less() {
    let host = Some(Architecture::host());
    let four = |name, rules: &str| won(name, &play_as(Maker::Ours, rules, host, Version::Four));
    let free = four("no rules, version 4", "");
    let mut lost: Vec<&str> = attacks()
        .map(|attack| attack.id)
        .filter(|id| !free.contains(id))
        .collect();
    lost.sort_unstable();
    assert_eq!(lost, ids(&[&impossible()]));
    let mut left = ids(&[LEFT_BY_BOTH_SETS, LEFT_BY_PATCH_SET_2]);
    left.retain(|id| impossible().iter().all(|(other, _)| id != other));
    let set_2 = four("patch set 2, version 4", &configurations::patch_set_2());
    assert_eq!(set_2, left);
    assert_eq!(four("strict, version 4", &strict()), [""; 0]);
}
