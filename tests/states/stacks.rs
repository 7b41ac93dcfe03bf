//! Tests threads with little stack.

use super::{SOME_WAYS, passes};

/// What an unoptimised library and OpenSSL take is no concern of applications.
const LIMITS: (&str, &str) = match cfg!(debug_assertions) {
    true => ("96", "128"),
    false => ("16", "32"),
};

/// C_Initialize needs more, for reading the settings and for TLS.
#[test]
fn threads_with_little_stack_can_make_every_call() {
    little_stack();
}

/// 16 KiB is the least that a thread can have.
#[test]
#[ignore = "needs an optimised library: make soak"]
fn threads_with_16_kib_of_stack_can_make_every_call() {
    little_stack();
}

fn little_stack() {
    let (calls, initialize) = LIMITS;
    for way in SOME_WAYS {
        let variables = [("PKCS11PROXY_LOG", "debug")];
        let outcome = passes(
            &way.stack(),
            "small_stack",
            &[calls, initialize],
            &variables,
        );
        println!("{way:?}\n{}", outcome.stdout);
    }
}
