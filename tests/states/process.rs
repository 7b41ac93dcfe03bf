//! Tests signals, limits, clocks, directories, cancelled threads, and the end of a process.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::support::Directory;
use super::{WAYS, Way, passes};

/// Runs a mode of `states.c` with every kind of connection.
fn in_state(mode: &str) {
    for way in WAYS {
        passes(&way.stack(), "states", &[mode], &[]);
    }
}

/// Runs a mode of `endings.c` with every kind of connection.
fn ending(mode: &str) {
    for way in WAYS {
        let stack = way.stack();
        passes(&stack, "endings", &[mode], &[]);
        passes(&stack, "endings", &[mode], &[("ENDINGS_OPENSSL", "1")]);
    }
}

fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: only root can do that");
    }
    is_root
}

#[test]
fn timers_interrupt_no_call() {
    in_state("timer");
}

#[test]
fn a_process_may_be_stopped_and_continued_all_the_time() {
    in_state("stop");
}

#[test]
fn the_clock_may_step() {
    in_state("clock");
}

#[test]
fn signals_may_be_blocked_or_handled_and_stay_as_they_are() {
    in_state("signals");
}

/// And C_Initialize says on the log why it fails.
#[test]
fn without_descriptors_it_fails_and_with_thousands_it_works() {
    for way in WAYS {
        let outcome = passes(&way.stack(), "states", &["files"], &[]);
        let said = "Too many open files";
        assert!(outcome.stderr.contains(said), "{way:?}: {}", outcome.stderr);
    }
}

#[test]
fn without_memory_calls_fail_and_the_process_goes_on() {
    in_state("memory");
}

#[test]
fn no_thread_and_no_process_is_started() {
    if is_root() {
        passes(&Way::Recovering.stack(), "states", &["alone"], &[]);
        let mut stack = Way::Tcp.stack();
        // A host name has a thread, where there may be one.
        let by_name = stack.daemon().address().replace("127.0.0.1", "localhost");
        passes(&stack, "states", &["alone"], &[]);
        passes(
            &stack,
            "states",
            &["alone"],
            &[("PKCS11PROXY_SOCKET_PATH", &by_name)],
        );
        let (stack, public) = (Way::Tls.stack(), Directory::new());
        let credentials = readable(&public);
        let variables: Vec<(&str, &str)> = credentials
            .iter()
            .map(|(name, path)| (*name, path.as_str()))
            .collect();
        passes(&stack, "states", &["alone"], &variables);
    }
}

/// The client's certificate and key where another user can read them, by variable.
fn readable(directory: &Directory) -> Vec<(&'static str, String)> {
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    open(directory.path(), 0o755).expect("a new directory");
    let variables = super::tls::variables("ca", "client");
    let copies = variables.map(|(name, path)| {
        let copy = directory.join(name);
        fs::copy(&path, &copy).expect("a new directory");
        open(&copy, 0o644).expect("a new file");
        (name, copy.display().to_string())
    });
    copies.into()
}

/// C_Initialize works there if it needs no file.
#[test]
fn a_program_may_go_into_an_empty_directory_as_another_user() {
    if !is_root() {
        return;
    }
    for way in WAYS {
        let empty = Directory::new();
        let path = empty.path().display().to_string();
        let outcome = passes(&way.stack(), "states", &["chroot", &path], &[]);
        let works = outcome.stdout.contains("C_Initialize there: 0x0\n");
        match way {
            Way::Tcp | Way::Recovering => assert!(works, "{}", outcome.stdout),
            Way::Unix | Way::Tls => {
                assert!(!works, "{}", outcome.stdout);
                let why = "No such file or directory";
                assert!(outcome.stderr.contains(why), "{}", outcome.stderr);
            }
        }
    }
}

#[test]
fn home_directory_umask_and_locale_do_not_matter() {
    in_state("odd");
}

#[test]
fn calls_do_not_look_at_the_environment() {
    in_state("setenv");
}

#[test]
fn programs_that_are_started_inherit_no_descriptor() {
    for way in WAYS {
        passes(&way.stack(), "endings", &["spawn"], &[]);
    }
}

#[test]
fn daemon_3_starts_anew() {
    for way in WAYS {
        passes(&way.stack(), "endings", &["daemon"], &[]);
    }
}

/// Rust would end the process if a thread were cancelled within a call.
#[test]
fn a_thread_that_is_cancelled_ends_after_its_call() {
    for way in WAYS {
        passes(&way.stack(), "endings", &["cancel"], &[]);
    }
}

#[test]
fn c_finalize_does_not_wait_for_a_key_that_is_being_generated() {
    for way in WAYS {
        passes(&way.stack(), "endings", &["slow"], &[]);
    }
}

#[test]
fn a_process_may_finalize_in_a_function_of_atexit() {
    ending("atexit");
    ending("before");
}

#[test]
fn a_process_may_finalize_in_a_destructor_or_in_another_thread() {
    ending("destructor");
    ending("thread");
}

#[test]
fn a_process_may_end_without_finalizing_and_while_threads_are_in_calls() {
    ending("never");
    ending("busy");
}
