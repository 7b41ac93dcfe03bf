//! Builds client libraries with values compiled in, as `make` does.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};

/// Builds the library of this name with these variables of the Makefile, and puts it there.
pub fn build(name: &str, variables: &[(&str, &str)], library: &Path) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("transports");
    fs::create_dir_all(&target).expect("a directory of ours");
    // Tests are processes that run at once, and cargo gives all libraries the same name.
    let lock = File::create(target.join("lock")).expect("a file of ours");
    let _locked = Flock::lock(lock, FlockArg::LockExclusive).expect("a lock");
    let output = Command::new("client/built-in.sh")
        .args([name, env!("CARGO"), "build", "--offline", "--quiet"])
        .args(["--package", "client", "--lib"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", &target)
        .env("CLIENT_SOCKET", "127.0.0.1:4444")
        .envs(variables.iter().copied())
        .output()
        .expect("our own script");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    fs::copy(target.join("debug/libp11client.so"), library).expect("a copy");
}
