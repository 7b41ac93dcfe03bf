//! Runs the quick programs of `tests/applications`, which know nothing of this project, as they are installed.
//!
//! `make applications` runs all of them. The quick ones need no package beyond those of the other tests.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::support::Directory;
use super::support::processes::run;
use super::support::stack::Library;

/// Runs applications with the library and the daemon that cargo has built for the tests.
fn applications(names: &[&str], variables: &[(&str, &str)]) {
    let (built, kept) = (Directory::new(), Directory::new());
    let daemon = Path::new(env!("CARGO_BIN_EXE_pkcs11proxyd"));
    for (file, name) in [
        (daemon, "pkcs11proxyd"),
        (&Library::Ours.path(), "libp11client.so"),
    ] {
        symlink(file, built.join(name)).expect("a new directory");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/applications/run.sh");
    let mut command = Command::new(script);
    command
        .arg(built.path())
        .args(names)
        .env("CARGO_TARGET_DIR", kept.path())
        .env("WAYS", "ours")
        .env_remove("RECOVER")
        .env_remove("RESTARTS")
        .envs(variables.iter().copied());
    let outcome = run(command, Duration::from_secs(180));
    assert!(
        outcome.status.success(),
        "{}\n{}",
        outcome.stdout,
        outcome.stderr
    );
    for name in names {
        // Not skipped, as one that lives shortly is with RECOVER.
        let header = format!("== {name}: ");
        assert!(outcome.stdout.contains(&header), "{}", outcome.stdout);
    }
}

#[test]
fn tools_of_opensc_and_gnutls_list_sign_and_make_keys() {
    applications(&["pkcs11-tool", "p11tool"], &[]);
}

/// A TLS server under load, whose daemon is killed and started again.
#[test]
fn a_server_with_openssls_engine_outlives_the_daemon() {
    applications(&["openssl-engine"], &[("RECOVER", "1"), ("RESTARTS", "1")]);
}
