//! Tries the sandbox steps of a worker once at start, in a process that does nothing else.
//!
//! If this kernel or this user cannot take a step, the start fails before clients are accepted, instead of the first
//! worker.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use filter::Rules;
use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{getpid, pipe2};

use crate::config::Service;
use crate::policy::Policy;
use crate::sandbox::Sandbox;
use crate::worker;

/// What the process reports when it has taken all steps.
const DONE: &str = "done";

/// Formats an error of a section `sandbox`.
fn fault(service: &str, sandbox: &Sandbox, conf: &Path, cause: &dyn fmt::Display) -> String {
    match &sandbox.place {
        Some(place) => place.fault(cause.to_string()).in_file(conf).to_string(),
        None => format!("service {service}: sandbox: {cause}"),
    }
}

/// Prepares the sandboxes of the service and its profiles: reads their lists of system calls, if they have some.
pub fn prepare(service: &mut Service, conf: &Path) -> Result<(), String> {
    let name = &service.name;
    for sandbox in service.processor.sandboxes_mut() {
        let prepared = sandbox.prepare();
        prepared.map_err(|error| fault(name, sandbox, conf, &error))?;
    }
    Ok(())
}

/// Checks that workers of this service can be confined as configured in the file `conf`, whichever profile their client
/// has. An error says why not.
pub fn run(service: &Service, policy: &Policy, conf: &Path) -> Result<(), String> {
    let processor = &service.processor;
    try_out(service, &processor.sandbox, &policy.rules, conf)?;
    for (position, profile) in processor.profiles.iter().enumerate() {
        if let Some(sandbox) = &profile.sandbox {
            try_out(service, sandbox, policy.rules_of(position), conf)?;
        }
    }
    Ok(())
}

fn try_out(service: &Service, sandbox: &Sandbox, rules: &Rules, conf: &Path) -> Result<(), String> {
    let failed = |cause: &dyn fmt::Display| fault(&service.name, sandbox, conf, cause);
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(&error))?;
    let parent = getpid();
    let child = bindings::sys::fork_child(write, &[], |write| {
        let modules = rules.modules.iter().map(|entry| entry.path.as_path());
        let confined = worker::give_up_privileges(service, parent)
            .and_then(|recording| worker::enter(service, sandbox, modules, recording));
        let said = match confined {
            Ok(()) => DONE.to_owned(),
            Err(error) => error.to_string(),
        };
        // If this cannot be written, the parent reads nothing, which is a failure as well.
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
