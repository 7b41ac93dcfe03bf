//! Finds the files that the package of the original's daemon ships.

use std::path::Path;

/// One of its configuration files, by name. Only root and the daemon's group may read them, so
/// `make packages` copies them for others, next to what cargo builds.
pub fn configuration(name: &str) -> String {
    let shipped = Path::new("/etc/pkcs11proxyd").join(name);
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("../caml-crush")
        .join(name);
    std::fs::read_to_string(&shipped)
        .or_else(|_| std::fs::read_to_string(copy))
        .unwrap_or_else(|error| panic!("{}: {error}; `make packages` brings it", shipped.display()))
}
