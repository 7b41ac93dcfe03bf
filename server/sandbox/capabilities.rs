//! Says which capabilities workers and the controller keep, and drops the others.
//!
//! A worker with a configured user has none. With the preset `default`, one that runs as root keeps the capabilities
//! that concern files and memory, because modules may read tokens of other users with them.

use caps::{CapSet, Capability, CapsHashSet};

use super::Preset;

/// The capabilities that a worker keeps if it runs as root.
pub(super) fn of_worker(preset: Preset) -> CapsHashSet {
    match preset {
        Preset::None => caps::all(),
        Preset::Strict => CapsHashSet::new(),
        Preset::Default | Preset::Learned => CapsHashSet::from([
            Capability::CAP_CHOWN,
            Capability::CAP_DAC_OVERRIDE,
            Capability::CAP_DAC_READ_SEARCH,
            Capability::CAP_FOWNER,
            Capability::CAP_FSETID,
            Capability::CAP_IPC_LOCK,
            Capability::CAP_IPC_OWNER,
            // Network HSMs may expect their clients to come from a reserved port.
            Capability::CAP_NET_BIND_SERVICE,
        ]),
    }
}

/// Returns their names in alphabetical order, separated by blanks.
pub(super) fn names(set: &CapsHashSet) -> String {
    let mut names: Vec<String> = set.iter().map(ToString::to_string).collect();
    names.sort();
    names.join(" ")
}

/// Keeps at most these capabilities, and empties the inheritable set.
pub(super) fn keep(set: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    for (kind, most) in [
        (CapSet::Inheritable, &CapsHashSet::new()),
        (CapSet::Effective, set),
        (CapSet::Permitted, set),
    ] {
        // Changes nothing without need: a systemd unit with a user of its own may also have denied the system call.
        let present = caps::read(None, kind)?;
        if !present.is_subset(most) {
            caps::set(None, kind, &(&present & most))?;
        }
    }
    Ok(())
}

/// Keeps at most these in the bounding set. A process without CAP_SETPCAP may not change the set, and has nothing to
/// lose.
pub(super) fn bound(set: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        return Ok(());
    }
    let bounding = caps::read(None, CapSet::Bounding)?;
    for capability in bounding.difference(set) {
        caps::drop(None, CapSet::Bounding, *capability)?;
    }
    Ok(())
}
