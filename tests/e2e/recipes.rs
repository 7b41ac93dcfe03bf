//! Follows the quickest page of `docs/recipes`, on two machines in containers.
//!
//! `make recipes` follows all of them.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::support::Directory;
use super::support::processes::run;
use super::support::stack::Library;

#[test]
fn the_recipe_of_openssls_engine_works_command_by_command() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can boot machines in containers");
        return;
    }
    let built = Directory::new();
    let daemon = Path::new(env!("CARGO_BIN_EXE_pkcs11proxyd"));
    // It belongs to another package, whose tests have it built.
    let doctor = daemon.with_file_name("p11client-doctor");
    assert!(doctor.exists(), "cargo build --workspace makes {doctor:?}");
    for (file, name) in [
        (daemon, "pkcs11proxyd"),
        (
            Path::new(env!("CARGO_BIN_EXE_pkcs11proxyctl")),
            "pkcs11proxyctl",
        ),
        (&doctor, "p11client-doctor"),
        (&Library::Ours.path(), "libp11client.so"),
    ] {
        symlink(file, built.join(name)).expect("a new directory");
    }
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(project.join("tests/recipes/run.sh"));
    command.arg(built.path()).arg("openssl-engine");
    let outcome = run(command, Duration::from_secs(120));
    assert!(
        outcome.status.success() && outcome.stdout.contains("ok: openssl-engine, "),
        "{}\n{}",
        outcome.stdout,
        outcome.stderr
    );
}
