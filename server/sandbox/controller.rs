//! Drops the controller's capabilities and system calls that it no longer needs once its sockets are bound.
//!
//! It goes on forking workers, changing their user, sending them signals, reading keys and writing logs as whoever
//! started it. Workers inherit what it has, so it keeps what the workers of any service keep.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;

use super::{Sandbox, StepError, capabilities, capabilities_of, system_calls};
use crate::config::Service;

/// Gives up capabilities, gaining any by programs, and the system calls that no worker needs. Says what is left.
pub fn give_up<'a>(
    services: impl Iterator<Item = &'a Service> + Clone,
) -> Result<String, StepError> {
    let step = "controller";
    prctl::set_no_new_privs().map_err(StepError::of(step))?;
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
        // Keys, configuration and logs of whatever user.
        Capability::CAP_DAC_OVERRIDE,
        Capability::CAP_DAC_READ_SEARCH,
        // Its sockets in a directory like /tmp, given away by local_chown.
        Capability::CAP_FOWNER,
        // Workers of another user.
        Capability::CAP_KILL,
        // Their bounding set.
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
