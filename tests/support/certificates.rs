//! Makes certificates with `make-certs.sh DIRECTORY more`, once for each version of the script.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The directory: `ca.pem`, `server.pem`, `server.key` and the rest that the script's head lists.
pub fn certificates() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(make)
}

fn make() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/make-certs.sh");
    let text = fs::read(&script)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", script.display()));
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let made = directory.join(format!("certificates-{:016x}", hasher.finish()));
    if made.exists() {
        return made;
    }
    // Tests are processes that start at once: each makes its own, and the first one's are kept.
    let draft = directory.join(format!("certificates-{}.draft", std::process::id()));
    let status = Command::new(&script)
        .arg(&draft)
        .arg("more")
        .status()
        .expect("the script can be run");
    assert!(status.success(), "{}: {status}", script.display());
    if fs::rename(&draft, &made).is_err() {
        fs::remove_dir_all(&draft).expect("a directory of ours can be removed");
    }
    made
}

/// The path of one of them, as text.
pub fn certificate(name: &str) -> String {
    certificates().join(name).display().to_string()
}
