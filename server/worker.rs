//! A worker: waits for one client, serves it, exits.
//!
//! The controller forks it ahead of need. What it gives up, in this order: descriptors (by
//! `bindings::sys::fork_child`), outliving the controller, the controller's signal mask, core dumps,
//! groups and user, gaining privileges by exec. PKCS#11 login state belongs to a process, so a
//! process never serves a second client.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bindings::module::ModuleOptions;
use filter::Rules;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getppid, initgroups, setgroups, setresgid, setresuid};
use socket2::{Domain, Socket};

use crate::channel::WorkerEnd;
use crate::config::{Identity, Service};
use crate::connection::{self, Limits};
use crate::gateway::Gateway;
use crate::logging::{self, Severity, log};

/// The exit status of a worker that could not give up what it must not have.
const NOT_CONFINED: i32 = 71;

/// What a worker takes along from the controller.
pub struct Setup<'a> {
    /// The service its client belongs to.
    pub service: &'a Service,
    /// The rules as of the fork.
    pub rules: Arc<Rules>,
    /// Whether calls are logged (`-debug-pkcs11`).
    pub trace: bool,
    /// The controller; a worker that has another parent has lost it.
    pub controller: Pid,
}

/// The worker's life, from the fork to its exit status.
pub fn run(setup: &Setup<'_>, channel: WorkerEnd) -> i32 {
    let channel = Arc::new(channel);
    logging::switch(channel.clone(), &setup.service.name);
    logging::set_filter_subchannel(&setup.rules.log_subchannel);
    setup.rules.announce();
    if let Err(error) = confine(setup) {
        log(
            Severity::Crit,
            format_args!("worker cannot give up its privileges: {error}"),
        );
        return NOT_CONFINED;
    }
    match channel.client() {
        Ok(Some((socket, peer))) => serve(setup, socket, &peer),
        Ok(None) => {}
        Err(error) => log(Severity::Err, format_args!("worker got no client: {error}")),
    }
    0
}

fn serve(setup: &Setup<'_>, socket: OwnedFd, peer: &str) {
    let socket = Socket::from(socket);
    let processor = &setup.service.processor;
    let limits = Limits {
        record_size: processor.max_record_size,
        record_time: processor.record_timeout,
    };
    // Failing is no reason to refuse the client: it would only be slower, or its loss be noticed late.
    if socket.domain().is_ok_and(|domain| domain != Domain::UNIX) {
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_keepalive(setup.service.protocols.iter().any(|p| p.keepalive));
    }
    let options = ModuleOptions {
        flat_mechanisms: processor.flat_mechanisms.clone(),
    };
    let gateway = Gateway::new(setup.rules.clone(), options, setup.trace);
    if let Err(error) = connection::serve(&socket, &gateway, limits) {
        log(Severity::Warning, format_args!("client {peer}: {error}"));
    }
    // The module goes with the process, without C_Finalize, as in the original. Unloading it first
    // would run its code once more for nobody.
    std::mem::forget(gateway);
}

fn confine(setup: &Setup<'_>) -> Result<(), Errno> {
    die_with(setup.controller)?;
    SigSet::empty().thread_set_mask()?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    if let Some(identity) = &setup.service.identity {
        become_user(identity)?;
        // A change of user takes the parent-death signal away.
        die_with(setup.controller)?;
    }
    prctl::set_dumpable(false)?;
    prctl::set_no_new_privs()
}

/// Has the kernel kill this process when the controller dies.
fn die_with(controller: Pid) -> Result<(), Errno> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() == controller {
        Ok(())
    } else {
        Err(Errno::ESRCH)
    }
}

/// Takes the configured user, group and that user's supplementary groups; none of root's are left
/// (the original keeps them: DIFFERENCES.md).
fn become_user(identity: &Identity) -> Result<(), Errno> {
    let Identity { user, uid, gid } = identity;
    setgroups(&[])?;
    let name = CString::new(user.as_str()).map_err(|_| Errno::EINVAL)?;
    initgroups(&name, *gid)?;
    setresgid(*gid, *gid, *gid)?;
    setresuid(*uid, *uid, *uid)
}
