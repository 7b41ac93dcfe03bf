//! Reads the section `sandbox` of `processor`.
//!
//! Sections come from `sections`, with their places; a [`Sandbox`] goes to the checker. Opens nothing.

use std::path::{Path, PathBuf};

use config_file::{At, Fault, Place};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::geteuid;
use serde::Deserialize;

use super::values::path;
use crate::sandbox::{LeftOut, Limits, Preset, Sandbox};

/// Bytes of memory that the preset `strict` allows for the module itself and for small calls, besides `record_memory`.
const MEMORY_OF_MODULE: u64 = 1 << 30;

/// The number of open files that the preset `strict` allows.
const FILES: u64 = 1024;

/// The least that a worker needs: bytes of memory, and open files.
const LEAST_MEMORY: u64 = 64 << 20;
const LEAST_FILES: u64 = 32;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SandboxSection {
    preset: Option<At<String>>,
    capabilities: Option<At<bool>>,
    landlock: Option<At<bool>>,
    seccomp: Option<At<bool>>,
    root: Option<At<String>>,
    profile: Option<At<String>>,
    read: Option<At<String>>,
    write: Option<At<String>>,
    memory: Option<At<i64>>,
    files: Option<At<i64>>,
    processes: Option<At<i64>>,
}

/// Turns the section into a [`Sandbox`]. `record_memory` is the memory for large calls, in bytes.
pub(super) fn of_section(
    section: Option<At<SandboxSection>>,
    record_memory: usize,
) -> Result<Sandbox, Fault> {
    let Some(At {
        value: section,
        place,
    }) = section
    else {
        return Ok(Sandbox::default());
    };
    let preset = preset(section.preset)?;
    let without = LeftOut {
        capabilities: is_left_out(section.capabilities, preset)?,
        landlock: is_left_out(section.landlock, preset)?,
        seccomp: is_left_out(section.seccomp, preset)?,
    };
    for paths in [&section.read, &section.write].into_iter().flatten() {
        if preset != Preset::Strict || without.landlock {
            return Err(paths.fault("expected preset = \"strict\", with landlock"));
        }
    }
    let profile = match section.profile {
        Some(at) if preset != Preset::Learned || without.seccomp => {
            return Err(at.fault("expected preset = \"learned\", with seccomp"));
        }
        None if preset == Preset::Learned => {
            return Err(place.fault("preset = \"learned\": `profile` is missing"));
        }
        profile => profile.map(|at| one_path(&at, &at.value)).transpose()?,
    };
    Ok(Sandbox {
        preset,
        profile,
        without,
        root: section.root.map(root).transpose()?,
        read: section.read.map_or(Ok(Vec::new()), paths)?,
        write: section.write.map_or(Ok(Vec::new()), paths)?,
        limits: Limits {
            memory: limit(section.memory, LEAST_MEMORY, Resource::RLIMIT_DATA, &place)?.or_else(
                || {
                    let records = u64::try_from(record_memory).unwrap_or(u64::MAX);
                    default(
                        preset,
                        records.saturating_add(MEMORY_OF_MODULE),
                        Resource::RLIMIT_DATA,
                    )
                },
            ),
            files: limit(section.files, LEAST_FILES, Resource::RLIMIT_NOFILE, &place)?
                .or_else(|| default(preset, FILES, Resource::RLIMIT_NOFILE)),
            processes: limit(section.processes, 1, Resource::RLIMIT_NPROC, &place)?,
        },
        place: Some(place),
        ..Sandbox::default()
    })
}

fn preset(option: Option<At<String>>) -> Result<Preset, Fault> {
    let Some(at) = option else {
        return Ok(Preset::default());
    };
    [
        Preset::None,
        Preset::Default,
        Preset::Strict,
        Preset::Learned,
    ]
    .into_iter()
    .find(|preset| preset.name() == at.value)
    .ok_or_else(|| at.fault("expected none, default, strict or learned"))
}

/// Returns whether a step is left out of the preset. No step can be added to the preset `none`.
fn is_left_out(option: Option<At<bool>>, preset: Preset) -> Result<bool, Fault> {
    match option {
        None => Ok(false),
        Some(at) if at.value && preset == Preset::None => {
            Err(at.fault("expected another preset than none, which takes no such step"))
        }
        Some(at) => Ok(!at.value),
    }
}

fn root(at: At<String>) -> Result<PathBuf, Fault> {
    if !geteuid().is_root() {
        return Err(at.fault(
            "only root can change the root directory, and the daemon was not started by root",
        ));
    }
    one_path(&at, &at.value)
}

/// Reads absolute paths that are separated by colons.
fn paths(at: At<String>) -> Result<Vec<PathBuf>, Fault> {
    at.value
        .split(':')
        .map(|text| one_path(&at, text))
        .collect()
}

fn one_path(at: &At<String>, text: &str) -> Result<PathBuf, Fault> {
    if !Path::new(text).is_absolute() {
        return Err(at.fault("expected an absolute path, or several with colons between"));
    }
    let value = text.to_owned();
    path(
        &At {
            value,
            place: at.place.clone(),
        },
        None,
    )
}

/// Reads a limit: at least `least`, and at most the daemon's own hard limit.
fn limit(
    option: Option<At<i64>>,
    least: u64,
    resource: Resource,
    section: &Place,
) -> Result<Option<u64>, Fault> {
    let Some(at) = option else {
        return Ok(None);
    };
    let value = u64::try_from(at.value)
        .ok()
        .filter(|value| *value >= least)
        .ok_or_else(|| at.fault(format!("expected {least} or more")))?;
    let (_, hard) = getrlimit(resource).map_err(|error| section.fault(error.to_string()))?;
    if value > hard {
        return Err(at.fault(format!("expected {hard} or less, the daemon's own limit")));
    }
    Ok(Some(value))
}

/// Returns the limit of the preset `strict`, for an option that is not given.
fn default(preset: Preset, value: u64, resource: Resource) -> Option<u64> {
    let (_, hard) = getrlimit(resource).ok()?;
    (preset == Preset::Strict).then_some(value.min(hard))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{inside, refused};
    use super::*;

    fn read(text: &str) -> Sandbox {
        let configuration = inside("processor", text).unwrap();
        configuration.services[0].processor.sandbox.clone()
    }

    #[test]
    fn without_a_section_the_default_counts() {
        for text in ["", "sandbox { };", "sandbox { preset = \"default\" };"] {
            let sandbox = read(text);
            assert_eq!(sandbox.preset, Preset::Default, "{text}");
            let LeftOut {
                capabilities,
                landlock,
                seccomp,
            } = sandbox.without;
            assert!(!(capabilities || landlock || seccomp), "{text}");
            let Limits {
                memory,
                files,
                processes,
            } = sandbox.limits;
            assert_eq!((memory, files, processes), (None, None, None), "{text}");
        }
    }

    #[test]
    fn strict_has_limits_and_paths() {
        let sandbox = read(
            "record_memory = 8388608;
             sandbox { preset = \"strict\"; read = \"/a:/b/../c\"; write = \"/d\"; processes = 9 };",
        );
        assert_eq!(sandbox.limits.memory, Some((8 << 20) + (1 << 30)));
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(sandbox.limits.files, Some(hard.min(1024)));
        assert_eq!(sandbox.limits.processes, Some(9));
        assert_eq!(sandbox.read, ["/a", "/b/../c"].map(PathBuf::from));
        assert_eq!(sandbox.write, [PathBuf::from("/d")]);
        let own = read("sandbox { preset = \"strict\"; memory = 67108864; files = 32 };");
        let limits = (own.limits.memory, own.limits.files);
        assert_eq!(limits, (Some(64 << 20), Some(32)));
    }

    #[test]
    fn refuses_what_would_not_be_enforced() {
        for (text, expected) in [
            (
                "preset = \"all\"",
                "preset: expected none, default, strict or",
            ),
            ("preset = \"learned\"", "`profile` is missing"),
            (
                "preset = \"learned\"; seccomp = false; profile = \"/p\"",
                "profile: expected preset",
            ),
            ("preset = strict", "expected"),
            ("profile = \"/p\"", "profile: expected preset"),
            (
                "read = \"/a\"",
                "read: expected preset = \"strict\", with landlock",
            ),
            (
                "preset = \"strict\"; landlock = false; write = \"/a\"",
                "write: expected",
            ),
            (
                "preset = \"strict\"; read = \"a\"",
                "read: expected an absolute",
            ),
            (
                "preset = \"strict\"; read = \"/a:\"",
                "read: expected an absolute",
            ),
            (
                "preset = \"none\"; seccomp = true",
                "seccomp: expected another preset",
            ),
            ("root = \"relative\"", "root: "),
            ("memory = 67108863", "memory: expected 67108864 or more"),
            ("files = 31", "files: expected 32 or more"),
            ("files = -1", "files: expected 32 or more"),
            ("processes = 0", "processes: expected 1 or more"),
        ] {
            refused("processor", &format!("sandbox {{ {text} }};"), expected);
        }
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let more = format!("sandbox {{ files = {} }};", hard + 1);
        refused("processor", &more, "the daemon's own limit");
        refused("processor", "sandbox { }; sandbox { };", "sandbox");
    }
}
