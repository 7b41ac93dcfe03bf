//! Drops the capabilities and system calls that the controller no longer needs once its sockets are bound.
//!
//! The controller still forks workers, changes their user, sends them signals, reads keys and writes logs, as the user
//! who started it. Workers inherit its capabilities, so it keeps those that the workers of any service keep.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;

use super::{Sandbox, StepError, capabilities, capabilities_of, system_calls};
use crate::config::Service;

/// Gives up capabilities and the gaining of privileges by exec, and denies system calls if every sandbox uses seccomp.
/// Returns a text that says what is left.
pub fn give_up<'a>(
    services: impl Iterator<Item = &'a Service> + Clone,
) -> Result<String, StepError> {
    let step = "controller";
    prctl::set_no_new_privs().map_err(StepError::of(step))?;
    // A worker with the same user cannot open its memory, and nothing of its keys gets into a core dump.
    prctl::set_dumpable(false).map_err(StepError::of(step))?;
    let kept = needed(services.clone());
    capabilities::bound(&kept).map_err(StepError::of(step))?;
    capabilities::keep(&kept).map_err(StepError::of(step))?;
    let denies = services.clone().all(|service| {
        let mut sandboxes = service.processor.sandboxes();
        sandboxes.all(Sandbox::uses_seccomp)
    });
    if denies {
        system_calls::deny_in_advance().map_err(StepError::of(step))?;
    }
    let left = caps::read(None, CapSet::Permitted).map_err(StepError::of(step))?;
    let left = match capabilities::names(&left) {
        names if names.is_empty() => "none".to_owned(),
        names => names,
    };
    let calls = if denies {
        "; system calls are denied"
    } else {
        ""
    };
    Ok(format!("controller: capabilities: {left}{calls}"))
}

/// The capabilities that the controller uses, and those its workers keep.
fn needed<'a>(services: impl Iterator<Item = &'a Service>) -> CapsHashSet {
    let mut kept = CapsHashSet::from([
        // Keys, configuration and logs of any user.
        Capability::CAP_DAC_OVERRIDE,
        Capability::CAP_DAC_READ_SEARCH,
        // Its sockets in a directory like /tmp, if local_chown has given them to another user.
        Capability::CAP_FOWNER,
        // Signals to workers of another user.
        Capability::CAP_KILL,
        // The workers' bounding set.
        Capability::CAP_SETPCAP,
    ]);
    for service in services {
        let sandbox = &service.processor.sandbox;
        if sandbox.root.is_some() {
            kept.insert(Capability::CAP_SYS_CHROOT);
        }
        if service.identity.is_some() {
            kept.extend([Capability::CAP_SETUID, Capability::CAP_SETGID]);
            continue;
        }
        kept.extend(capabilities_of(service.processor.sandboxes()));
    }
    kept
}
