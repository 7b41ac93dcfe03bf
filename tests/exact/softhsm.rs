//! Tests SoftHSM alone: it survives `exact.c`, and gives the same transcript on an equal token.

use super::support::{SOFTHSM, Token};
use super::transcript::{Transcript, bare, exact};

/// What SoftHSM survives: every section but `interfaces`, which it does not have, and `hollow3`.
pub const SECTIONS: &[&str] = &[
    "general",
    "events",
    "initargs",
    "sessions",
    "pins",
    "digest",
    "sign",
    "encrypt",
    "aead",
    "signatures",
    "dual",
    "randomnumbers",
    "arrays",
    "attributes",
    "find",
    "keys",
    "derive",
    "messages",
    "nolength",
    "latest",
    "nomechanism",
    "hollow",
    "nullroom",
    "absurd",
    "notify",
    "parallel",
];

/// Sections or a random walk on a copy of the token.
pub fn direct(token: &Token, arguments: &[&str]) -> Transcript {
    let copy = token.copy();
    let mut command = bare();
    command.env("SOFTHSM2_CONF", copy.configuration());
    exact(command, SOFTHSM.as_ref(), arguments)
}

#[test]
fn gives_the_same_transcript_twice() {
    let token = Token::new();
    let first = direct(&token, SECTIONS);
    assert_eq!(first.faults(), Vec::<&String>::new());
    assert!(first.lines().len() > 2000, "{}", first.lines().len());
    assert_eq!(
        direct(&token, SECTIONS).differences(&first, |_, _, _| false),
        ""
    );
}

#[test]
fn gives_the_same_random_walk_twice() {
    let token = Token::new();
    for seed in ["1", "2", "3", "4"] {
        let first = direct(&token, &["random", seed, "2000"]);
        assert_eq!(first.faults(), Vec::<&String>::new());
        let second = direct(&token, &["random", seed, "2000"]);
        assert_eq!(
            second.differences(&first, |_, _, _| false),
            "",
            "seed {seed}"
        );
        assert!(first.lines().len() > 1500);
    }
}
