//! Compiles the C programs of `tests/support`, once for each version of their text.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

const FLAGS: &[&str] = &[
    "-std=c11",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-O1",
    "-g",
    "-pthread",
    "-I/usr/include/softhsm",
];

/// What to make of a C file.
#[derive(Clone, Copy, Hash)]
pub enum Kind {
    /// A program.
    Program,
    /// A shared object.
    Module,
}

/// Compiles `tests/support/NAME.c` and gives the result's path.
pub fn compile(name: &str, kind: Kind) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/support")
        .join(format!("{name}.c"));
    let text = fs::read(&source)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", source.display()));
    let mut hasher = DefaultHasher::new();
    (text, FLAGS, kind).hash(&mut hasher);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (suffix, extra): (_, &[&str]) = match kind {
        Kind::Program => ("", &[]),
        Kind::Module => (".so", &["-shared", "-fPIC"]),
    };
    let made = directory.join(format!("{name}-{:016x}{suffix}", hasher.finish()));
    if made.exists() {
        return made;
    }
    // Tests are processes that start at once: each compiles into a name of its own, and the rename
    // puts a whole file into place, whoever is last.
    let draft = directory.join(format!(
        "{name}-{}-{:?}.draft",
        std::process::id(),
        std::thread::current().id()
    ));
    let output = Command::new("cc")
        .args(FLAGS)
        .args(extra)
        .arg(&source)
        .arg("-o")
        .arg(&draft)
        .arg("-ldl")
        .output()
        .expect("cc is missing; tests/support/install-packages.sh installs it");
    assert!(
        output.status.success(),
        "cc {}: {}",
        source.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    fs::rename(&draft, &made)
        .unwrap_or_else(|error| panic!("cannot rename {}: {error}", draft.display()));
    made
}

/// A program of `tests/support`.
pub fn program(name: &str) -> PathBuf {
    compile(name, Kind::Program)
}

/// A PKCS#11 module of `tests/support`.
pub fn module(name: &str) -> PathBuf {
    compile(name, Kind::Module)
}
