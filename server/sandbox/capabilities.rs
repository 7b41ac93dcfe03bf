//! Says which capabilities workers and the controller keep, and drops the others.
//!
//! A worker with a configured user has none. One that runs as root keeps, with the preset `default`, what concerns
//! files and memory, since modules read tokens of other users that way.

use caps::{CapSet, Capability, CapsHashSet};

use super::Preset;

/// What a worker that runs as root keeps.
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
            // Appliances may expect their clients at a reserved port.
            Capability::CAP_NET_BIND_SERVICE,
        ]),
    }
}

/// Their names, in alphabetical order, with blanks between.
pub(super) fn names(set: &CapsHashSet) -> String {
    let mut names: Vec<String> = set.iter().map(ToString::to_string).collect();
    names.sort();
    names.join(" ")
}

/// Keeps at most these, and passes none on to programs that would not have them anyway.
pub(super) fn keep(set: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    for (kind, most) in [
        (CapSet::Inheritable, &CapsHashSet::new()),
        (CapSet::Effective, set),
        (CapSet::Permitted, set),
    ] {
        // A unit of systemd that starts as a user of its own may have taken the system call away, too.
        let present = caps::read(None, kind)?;
        if !present.is_subset(most) {
            caps::set(None, kind, &(&present & most))?;
        }
    }
    Ok(())
}

/// Keeps at most these in the bounding set. A process that may not change that set has nothing to lose.
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
