//! Tests that the library can be loaded, unloaded, and loaded several times.

use std::fs;

use super::support::{Directory, Library};
use super::{SOME_WAYS, Way, passes};

/// Half as many rounds as `unload.c` has show whether anything grows.
const ROUNDS: &str = "100";

/// Nothing of the library is called afterwards, no descriptor stays, and memory does not grow: also without
/// C_Finalize, in threads that end later, and where the application uses OpenSSL itself or does not.
#[test]
fn a_library_that_is_unloaded_leaves_nothing_behind() {
    for way in SOME_WAYS {
        let stack = way.stack();
        for mode in ["finalize", "leave", "thread", "bare", "exit"] {
            passes(&stack, "unload", &[mode, ROUNDS], &[]);
        }
    }
}

#[test]
#[ignore = "slow: make soak"]
fn a_library_that_is_unloaded_a_thousand_times_leaves_nothing_behind() {
    for way in [Way::Tcp, Way::Tls] {
        passes(&way.stack(), "unload", &["finalize", "1000"], &[]);
    }
}

/// Under other names, and with another transport.
#[test]
fn copies_of_the_library_do_not_meet() {
    let directory = Directory::new();
    let copy = directory.join("vendor.so");
    fs::copy(Library::Ours.path(), &copy).expect("a new directory");
    let copy = copy.display().to_string();
    for way in [Way::Tcp, Way::Unix] {
        passes(&way.stack(), "copies", &[&copy, "apart"], &[]);
    }
    let ours = Library::Ours.path().display().to_string();
    for other in [copy, ours] {
        passes(&Way::Tls.stack(), "copies", &[&other], &[]);
    }
}
