//! Restricts with landlock which files a worker can use, and to which processes it can send signals.
//!
//! Rules name files and directories; a directory includes everything beneath it. Files that were opened before stay
//! open. Metadata is not covered: whether a file exists, and its size, can be seen.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};

use super::Sandbox;

/// Files that loading a module needs on the systems that we know: libraries, their cache, OpenSSL's configuration, and
/// what cryptographic libraries read from the kernel. Those that do not exist are skipped.
const SYSTEM: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/etc/ld.so.cache",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/openssl.cnf",
    "/etc/crypto-policies",
    "/usr/share/crypto-policies",
    "/proc/sys/crypto/fips_enabled",
    "/dev/random",
    "/dev/urandom",
];

/// Devices that are written to.
const SINKS: &[&str] = &["/dev/null"];

/// Files and directories that a worker can read whatever the section `sandbox` says.
pub(super) struct Reachable {
    pub(super) read: Vec<PathBuf>,
}

impl Reachable {
    /// The system's libraries, and the files and directories of modules.
    pub(super) fn new<'a>(modules: impl Iterator<Item = &'a Path>) -> Reachable {
        let mut read: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
        for module in modules {
            let real = module.canonicalize();
            for path in [Some(module), real.as_deref().ok()].into_iter().flatten() {
                read.push(path.to_path_buf());
                read.extend(own_directory(path).map(Path::to_path_buf));
            }
        }
        Reachable { read }
    }
}

/// Returns the directory of a module, which may also contain its libraries. A top-level directory, such as `/tmp` or
/// `/home`, does not count: everybody's files are beneath it.
fn own_directory(module: &Path) -> Option<&Path> {
    let directory = module.parent()?;
    let depth = directory.components().count();
    (directory.is_absolute() && depth > 2).then_some(directory)
}

fn to_read() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

fn to_write() -> BitFlags<AccessFs> {
    to_read()
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}

/// Restricts this process and what it starts to these files. They can use no TCP port, and reach no other process by a
/// signal or an abstract Unix socket.
///
/// Landlock can deny the truncation of files since its ABI 3 (Linux 6.2). Before that seccomp has to deny it. So ABI 3
/// is required without seccomp, and ABI 1 (Linux 5.13) with it. Restrictions that only newer kernels have are used if
/// they are there: ioctl on devices, TCP, abstract Unix sockets, signals.
pub(super) fn restrict(reachable: &Reachable, sandbox: &Sandbox) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let (least, linux) = if sandbox.uses_seccomp() {
        (ABI::V1, "5.13")
    } else {
        (ABI::V3, "6.2")
    };
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(least))
        .map_err(|error| format!("expected Linux {linux} or newer with landlock: {error}"))?;
    let mut ruleset = ruleset
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(ABI::V4)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .map_err(|error| text(&error))?;
    for path in &reachable.read {
        // A module may be installed later, and not every system has each of the files.
        if let Ok(file) = PathFd::new(path) {
            ruleset = allow(ruleset, path, file, to_read())?;
        }
    }
    for path in SINKS {
        if let Ok(file) = PathFd::new(path) {
            ruleset = allow(ruleset, Path::new(path), file, to_write())?;
        }
    }
    for (paths, access) in [(&sandbox.read, to_read()), (&sandbox.write, to_write())] {
        for path in paths {
            let file = PathFd::new(path).map_err(|error| text(&error))?;
            ruleset = allow(ruleset, path, file, access)?;
        }
    }
    ruleset.restrict_self().map_err(|error| text(&error))?;
    Ok(())
}

fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    file: PathFd,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, String> {
    let access = if path.is_dir() {
        access
    } else {
        access & AccessFs::from_file(ABI::V3)
    };
    ruleset
        .add_rule(PathBeneath::new(file, access))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// Returns a ruleset that restricts only signals. Fails on kernels before landlock's ABI 6 (Linux 6.12).
fn signals() -> Result<Ruleset, landlock::RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .scope(Scope::Signal)
}

/// Whether this kernel can deny signals to other processes.
pub(super) fn can_scope_signals() -> bool {
    signals().is_ok()
}

/// Allows this process and what it starts to send signals only to each other.
pub(super) fn scope_signals() -> Result<(), landlock::RulesetError> {
    signals()?.create()?.restrict_self()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_shares_its_directory_unless_everybody_does() {
        for (module, expected) in [
            ("/opt/vendor/lib/p11.so", Some("/opt/vendor/lib")),
            ("/usr/lib/p11.so", Some("/usr/lib")),
            ("/tmp/p11.so", None),
            ("/p11.so", None),
            ("p11.so", None),
            ("lib/vendor/p11.so", None),
        ] {
            let directory = own_directory(Path::new(module));
            assert_eq!(directory, expected.map(Path::new), "{module}");
        }
    }
}
