//! Tests what a site gets: the variables of the Makefile, and the libraries that are built with them.

#![forbid(unsafe_code)]

#[path = "../support/mod.rs"]
mod support;

mod libraries;
mod variables;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::Directory;
use support::processes::{Outcome, run};

const LONG: Duration = Duration::from_secs(60);

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
