//! Compiles the C programs of `tests/support`, once for each version of their text.
//!
//! A file that includes `describe.h`, or names `pkcs11.h` of version 3.2 itself, is compiled with the header that comes
//! with the crate `cryptoki-sys`: no Debian package has the header of 3.2.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

const FLAGS: &[&str] = &[
    "-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-pthread",
];

/// The files that need PKCS#11 3.2.
const NEWEST: &[&str] = &["exact", "odd_interface", "recorder"];

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
    compile_with(name, kind, &[])
}

fn compile_with(name: &str, kind: Kind, options: &[&str]) -> PathBuf {
    let source = support(&format!("{name}.c"));
    let mut hasher = DefaultHasher::new();
    (texts(&source), FLAGS, options, kind).hash(&mut hasher);
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
    let include = if NEWEST.contains(&name) {
        newest_header()
    } else {
        "/usr/include/softhsm".into()
    };
    let output = Command::new("cc")
        .args(FLAGS)
        .args(options)
        .arg("-I")
        .arg(include)
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

fn support(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/support")
        .join(name)
}

/// The text of a C file and of the files of `tests/support` that it includes.
fn texts(source: &Path) -> String {
    let mut text = fs::read_to_string(source)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", source.display()));
    let included: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'))
        .map(|name| texts(&support(name)))
        .collect();
    text.extend(included);
    text
}

/// The directory of the `pkcs11.h` of version 3.2 in the sources of `cryptoki-sys`, which cargo has
/// downloaded to build this test.
fn newest_header() -> PathBuf {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let platform = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(["--filter-platform", &platform, "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .expect("cargo runs");
    let manifest = String::from_utf8_lossy(&output.stdout)
        .split('"')
        .map(PathBuf::from)
        .find(|path| {
            let directory = path.parent().and_then(Path::file_name);
            path.ends_with("Cargo.toml")
                && directory.is_some_and(|name| name.to_string_lossy().starts_with("cryptoki-sys"))
        });
    let header = manifest.and_then(|path| Some(path.parent()?.join("vendor")));
    header
        .filter(|directory| directory.join("pkcs11.h").exists())
        .unwrap_or_else(|| {
            panic!(
                "cargo metadata names no cryptoki-sys with a vendor/pkcs11.h: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        })
}

/// A program of `tests/support`.
pub fn program(name: &str) -> PathBuf {
    compile(name, Kind::Program)
}

/// The same, compiled with more options.
pub fn program_with(name: &str, options: &[&str]) -> PathBuf {
    compile_with(name, Kind::Program, options)
}

/// A PKCS#11 module of `tests/support`.
pub fn module(name: &str) -> PathBuf {
    compile(name, Kind::Module)
}
