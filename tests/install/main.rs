//! Tests what a site gets: the variables of the Makefile, the libraries that are built with them, `make install` and
//! `make uninstall`, and the installed files at work: the init script, rotation, what systemd reads.
//!
//! Nothing is built for release: what is installed are the programs under test, or files that stand for them.

#![forbid(unsafe_code)]

#[path = "../support/mod.rs"]
mod support;

mod files;
mod init_script;
mod libraries;
mod variables;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::Directory;
use support::processes::{Outcome, run};

const LONG: Duration = Duration::from_secs(60);

/// The programs and libraries of the release.
const BUILT: &[&str] = &[
    "pkcs11proxyd",
    "pkcs11proxyctl",
    "p11client-doctor",
    "libp11client.so",
    "libp11clienttcp.so",
    "libp11clienttcpssl.so",
    "libp11clientunix.so",
];

/// The names of the man pages, such as pkcs11proxyd.8.
fn man_pages() -> Vec<String> {
    let texts = Path::new(env!("CARGO_MANIFEST_DIR")).join("manual/pages");
    let entries = std::fs::read_dir(texts).into_iter().flatten();
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names = names.filter_map(|name| Some(name.to_str()?.strip_suffix(".txt")?.to_owned()));
    names.collect()
}

/// A command that sees nothing of the environment of this test, such as the variables of the make that runs it.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var_os("PATH").unwrap_or_default();
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .env("PATH", path);
    command
}

fn make(target: &str, variables: &[(&str, &str)]) -> Outcome {
    let mut command = command("make");
    command.args(["-s", target]);
    for (name, value) in variables {
        command.arg(format!("{name}={value}"));
    }
    run(command, LONG)
}

/// A directory with files that stand for what is built.
fn built() -> Directory {
    let directory = Directory::new();
    let pages = man_pages();
    for name in BUILT
        .iter()
        .copied()
        .chain(pages.iter().map(String::as_str))
    {
        std::fs::write(directory.join(name), name).expect("a file");
    }
    directory
}

/// Runs a target with what [`built`] has, or something like it.
fn make_of(built: &Path, target: &str, variables: &[(&str, &str)]) -> Outcome {
    let built = built.to_str().expect("our own path");
    let mut all = vec![("BUILT", built), ("MAN_PAGES", built)];
    all.extend(variables);
    make(target, &all)
}
