//! Takes the steps of a worker once at start, in a process that does nothing else.
//!
//! What this kernel or this user cannot do ends the start, before clients are accepted, and not the first worker.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{getpid, pipe2};

use crate::config::Service;
use crate::policy::Policy;
use crate::worker;

/// What the process says when all steps were taken.
const DONE: &str = "done";

/// A fault of the section `sandbox`.
fn fault(service: &Service, conf: &Path, cause: &dyn fmt::Display) -> String {
    match &service.processor.sandbox.place {
        Some(place) => place.fault(cause.to_string()).in_file(conf).to_string(),
        None => format!("service {}: sandbox: {cause}", service.name),
    }
}

/// Reads the service's profile, if there is one.
pub fn load_profile(service: &mut Service, conf: &Path) -> Result<(), String> {
    let loaded = service.processor.sandbox.load_profile();
    loaded.map_err(|error| fault(service, conf, &error))
}

/// Whether workers of this service can be confined as configured in the file `conf`; if not, why.
pub fn run(service: &Service, policy: &Policy, conf: &Path) -> Result<(), String> {
    let failed = |cause: &dyn fmt::Display| fault(service, conf, cause);
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(&error))?;
    let parent = getpid();
    let child = bindings::sys::fork_child(write, &[], |write| {
        let said = match worker::confine(service, &policy.rules, parent) {
            Ok(()) => DONE.to_owned(),
            Err(error) => error.to_string(),
        };
        // Where it cannot be said, the parent reads nothing, which is a failure as well.
        let _ = File::from(write).write_all(said.as_bytes());
        0
    })
    .map_err(|error| failed(&error))?;
    let mut said = String::new();
    let heard = File::from(read).read_to_string(&mut said);
    // Fails where the daemon was started with SIGCHLD ignored.
    let _ = waitpid(child, None);
    match (heard, said.as_str()) {
        (Ok(_), DONE) => Ok(()),
        (Ok(_), "") => Err(failed(&"the process that tried it was ended")),
        (Ok(_), cause) => Err(failed(&cause)),
        (Err(error), _) => Err(failed(&error)),
    }
}
