//! Checks that a procedure without a row in the table of facts does not compile.
//!
//! This copies the crate, adds a procedure to its interface and runs the compiler on the copy.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Copies the files of the crate, without its tests and without the crate below it.
fn copy_sources(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_file() {
            fs::copy(path, target).unwrap();
        } else if !path.join("Cargo.toml").exists() && entry.file_name() != "tests" {
            copy_sources(&path, &target);
        }
    }
}

/// A copy of the crate as a workspace of its own.
struct Copy(PathBuf);

impl Copy {
    fn new() -> Copy {
        let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let project = crate_root.parent().expect("the crate lies in the project");
        let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("missing-row");
        let _ = fs::remove_dir_all(&copy);
        fs::create_dir_all(copy.join("xdr")).unwrap();
        for file in ["build.rs", "Cargo.lock"] {
            fs::copy(project.join(file), copy.join(file)).unwrap();
        }
        copy_sources(crate_root, &copy.join("xdr"));
        // What the crate inherits from the workspace, without the other members.
        let manifest = fs::read_to_string(project.join("Cargo.toml")).unwrap();
        let (_, package) = manifest.split_once("[workspace.package]").unwrap();
        let (inherited, _) = package.split_once("\n[package]").unwrap();
        let kept = inherited.lines().filter(|line| !line.contains("path = "));
        let kept: Vec<&str> = kept.collect();
        let workspace = "[workspace]\nmembers = [\"xdr\"]\nresolver = \"3\"\n\n[workspace.package]";
        fs::write(
            copy.join("Cargo.toml"),
            format!("{workspace}{}\n", kept.join("\n")),
        )
        .unwrap();
        Copy(copy)
    }

    fn replace(&self, file: &str, old: &str, new: &str) {
        let path = self.0.join("xdr").join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(old), "{file} has {old:?}");
        fs::write(path, text.replacen(old, new, 1)).unwrap();
    }

    /// Runs the compiler on the copy. The error is what the compiler printed.
    fn check(&self) -> Result<(), String> {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("missing-row-target");
        let output = Command::new(env!("CARGO"))
            .args(["check", "--offline", "--quiet", "--package", "xdr"])
            .current_dir(&self.0)
            .env("CARGO_TARGET_DIR", target)
            .output()
            .unwrap();
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

#[test]
fn a_procedure_without_a_row_does_not_compile() {
    const LAST: &str = "LoadResult          C_LoadModule(Bytes) = 70;";
    const NEW: &str = "CkRv C_Unheard(SessionHandle, Input) = 71;";
    const ROW: &str = "    C_SeedRandom(session: Session, seed: Secret);";

    let copy = Copy::new();
    assert_eq!(copy.check(), Ok(()));

    copy.replace("pkcs11_rpc_v4.x", LAST, &format!("{LAST}\n        {NEW}"));
    let refused = copy.check().unwrap_err();
    assert!(
        refused.contains("Function::C_Unheard` not covered"),
        "{refused}"
    );
    assert!(
        refused.contains("Call::C_Unheard(_, _)` not covered"),
        "{refused}"
    );

    // With a row it compiles, but not with one of another number or type of arguments.
    let with_row = |row: &str| format!("{ROW}\n    {row}");
    copy.replace(
        "facts.rs",
        ROW,
        &with_row("C_Unheard(session: Session, pin: Pin);"),
    );
    assert_eq!(copy.check(), Ok(()));
    copy.replace(
        "facts.rs",
        "C_Unheard(session: Session, pin: Pin)",
        "C_Unheard(session: Session)",
    );
    assert!(copy.check().is_err());
    copy.replace(
        "facts.rs",
        "C_Unheard(session: Session)",
        "C_Unheard(pin: Pin, session: Session)",
    );
    assert!(copy.check().is_err());
}
