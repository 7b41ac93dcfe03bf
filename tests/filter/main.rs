//! Compares the filter with the original's: the same calls under the same filter file, reply by reply.
//!
//! `walk` makes calls that a seed determines (`FILTER_SEED`, `FILTER_STEPS`), `configurations` has the filter files,
//! `rows` the differences that are allowed.

#[path = "../support/mod.rs"]
mod support;

mod base;
#[allow(dead_code, reason = "the attacks use the rest")]
mod configurations;
mod interop;
mod random;
mod rows;
mod walk;

use configurations::configuration;
use support::Maker;
use walk::Walk;

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|error| panic!("{variable}: {error}")),
        Err(_) => default,
    }
}

/// Walks under a configuration; its allowed differences must all occur in the situations that a walk
/// begins with, and no other anywhere.
fn walk(makers: [Maker; 2], name: &'static str, seed: u64, calls: u64) {
    let configuration = configuration(name);
    let base = base::token();
    let seed = number("FILTER_SEED", seed);
    println!("FILTER_SEED={seed}");
    let mut walk = Walk::new(makers, &configuration, &base, seed);
    walk.go(usize::try_from(number("FILTER_STEPS", calls)).expect("a number of calls"));
    for difference in &walk.unexpected {
        println!("{difference}");
    }
    let count = walk.unexpected.len();
    assert_eq!(
        count, 0,
        "under {name}, FILTER_SEED={seed}: differences that no row of the table allows"
    );
    for (row, shown) in rows::ROWS.iter().zip(&walk.shown) {
        let expected = makers == PAIR && row.occurs_under == name;
        assert!(
            !expected || *shown > 0,
            "{} never occurs under {name}",
            row.number
        );
    }
}

const PAIR: [Maker; 2] = [Maker::Original, Maker::Ours];
const CALLS: u64 = 600;

macro_rules! configurations {
    ($($name:ident),* $(,)?) => {
        /// A few hundred calls under each configuration.
        mod replies_are_the_original_s_under {
            $(#[test] fn $name() { super::walk(super::PAIR, stringify!($name), 1, super::CALLS); })*
        }

        #[test]
        #[ignore = "soak: make soak"]
        fn many_more_calls_under_every_configuration() {
            for seed in 2..6 {
                $(walk(PAIR, stringify!($name), seed, 5000);)*
            }
        }

        /// The original beside itself: what the walk takes for a difference is one.
        #[test]
        #[ignore = "soak: make soak"]
        fn the_original_answers_as_itself() {
            let makers = [Maker::Original, Maker::Original];
            $(walk(makers, stringify!($name), 1, CALLS);)*
        }
    };
}

configurations![
    minimal,
    patch_set_1,
    patch_set_2,
    labels,
    ids,
    labels_and_ids,
    other_module,
    padding_and_patch_set_1,
    functions,
    mechanisms,
    read_only,
    admin,
    padding_wrap_unwrap,
    padding_encrypt,
    padding_sign,
    padding_all,
    hooks,
    non_local,
    leak,
    conflicting,
    conflicting_existing,
    paranoid,
    escrow_encrypt,
    escrow_all,
    sticky,
    wrapping_format,
    secure_templates,
    sanitize,
    segregation,
];

/// Every allowed difference is a row of DIFFERENCES.md.
#[test]
fn rows_are_documented() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/DIFFERENCES.md");
    let documented = std::fs::read_to_string(path).expect(path);
    for row in rows::ROWS {
        let begins = format!("\n| {} |", row.number);
        assert!(documented.contains(&begins), "{}", row.number);
    }
}
