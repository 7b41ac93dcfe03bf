//! Runs the daemon, which serves a PKCS#11 module through a filter, with one process for each client.
//!
//! [`run`] reads the options, the configuration and the rules, opens loggers and sockets, detaches, and then runs the
//! controller until it is stopped, in this order. Bad options, files or addresses end the daemon before it detaches,
//! with status 2.

#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation
    )
)]

#[cfg(not(target_pointer_width = "64"))]
compile_error!(
    "pkcs11proxyd needs a 64-bit system; for 32-bit applications, build the client library alone: cargo build -p client"
);

pub mod activity;
pub mod administration;
pub mod audit;
pub mod channel;
pub mod check;
pub mod config;
pub mod connection;
pub mod controller;
pub mod counts;
pub mod ctl;
pub mod failed_logins;
pub mod gateway;
pub mod inherited;
pub mod large_records;
pub mod logging;
pub mod login_limit;
pub mod metrics;
mod module_file;
pub mod netplex;
pub mod notifications;
pub mod open_sessions;
pub mod opening;
pub mod operating;
pub mod options;
pub mod parallel;
mod pid_file;
pub mod places;
pub mod policy;
pub mod predecessor;
pub mod profiles;
pub mod proxy;
pub mod record_memory;
pub mod sandbox;
pub mod service_manager;
pub mod sockets;
pub mod throttle;
pub mod tls;
pub mod vendor_mechanisms;
pub mod worker;

use std::error::Error;
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use bindings::sys::Launcher;
use nix::sys::wait::WaitStatus;

use crate::audit::{AuditConfig, auditor};
use crate::config::Service;
use crate::controller::{Controller, Origin, Own};
use crate::counts::Heritage;
use crate::inherited::Inherited;
use crate::logging::Loggers;
use crate::options::{Command, Options};
use crate::pid_file::PidFile;
use crate::policy::{Policy, report_warnings};
use crate::predecessor::Predecessor;
use crate::sockets::Listener;

/// The exit status if the daemon cannot start.
const UNUSABLE: i32 = 2;

/// Runs the daemon with these arguments, the program's name first; returns the exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let arguments = arguments
        .into_iter()
        .map(|a| a.to_string_lossy().into_owned());
    // The launcher process ends when this is dropped. If the start fails, that is after the reason has been printed.
    let mut launcher = None;
    let result = match options::parse(arguments) {
        Ok(Command::Help(text)) => return print(&text),
        Ok(Command::Version) => {
            return print(concat!("pkcs11proxyd ", env!("CARGO_PKG_VERSION")));
        }
        Ok(Command::DebugList) => return print(&logging::debug_modules()),
        Ok(Command::Check(conf, client)) => {
            check::check(&conf, client.as_deref()).and_then(|report| {
                print(&report.text);
                if report.faults.is_empty() {
                    Ok(())
                } else {
                    Err(report.faults.join("\n").into())
                }
            })
        }
        Ok(Command::Run(options)) => start(&options, &mut launcher),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("pkcs11proxyd: {error}");
            UNUSABLE
        }
    }
}

/// Prints a text that the user asked for. It is no error if the output is closed.
fn print(text: &str) -> i32 {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    0
}

fn start(options: &Options, launcher: &mut Option<Launcher>) -> Result<(), Box<dyn Error>> {
    let mut configuration = config::load(&options.conf)?;
    vendor_mechanisms::install(configuration.mechanisms_file.as_deref())?;
    let recording = options.profile.as_deref().map(std::path::absolute);
    let recording = recording.transpose()?;
    for service in &mut configuration.services {
        for sandbox in service.processor.sandboxes_mut() {
            sandbox.recording.clone_from(&recording);
        }
        sandbox::probe::prepare(service, &configuration.file)?;
    }
    let mut policies = Vec::new();
    for service in &configuration.services {
        policies.push(Policy::load(service, &configuration.file)?);
    }
    let parameter = hook_parameter(options, &configuration.services)?;
    for (service, policy) in configuration.services.iter().zip(&policies) {
        sandbox::probe::run(service, policy, &configuration.file)?;
    }
    if let Some(audit) = &configuration.audit {
        check_audit(audit, &configuration.file, options.takeover)?;
    }
    let loggers = Arc::new(Loggers::open(
        &configuration.file,
        configuration.max_level,
        &configuration.loggers,
    )?);
    logging::install(
        loggers.clone(),
        logging::CONTROLLER,
        options.debug_selection(),
    );
    std::panic::set_hook(Box::new(report_panic));
    if let Some(directory) = &configuration.socket_directory {
        create_directory(directory)?;
    }
    controller::hold_signals()?;
    let mut inherited = Inherited::from_environment()?;
    let mut predecessor = None;
    let mut heritage = Heritage::default();
    if options.takeover {
        let path = configuration.control_socket.as_deref();
        let path = path.ok_or("-takeover: the configuration has no `control_socket`")?;
        if let Some((mut found, sockets)) = Predecessor::ask(path)? {
            heritage = found.counts();
            inherited = Inherited::from_predecessor(sockets, found.foreign_files());
            predecessor = Some(found);
        }
    }
    let control_socket = configuration.control_socket.as_deref();
    let control_socket = control_socket
        .map(|path| Listener::bind_private(path, &mut inherited))
        .transpose()?;
    let metrics = configuration.metrics.as_ref();
    let metrics = metrics
        .map(|address| Listener::bind_own(address, &mut inherited))
        .transpose()?;
    let mut services = Vec::new();
    for (service, policy) in configuration.services.into_iter().zip(policies) {
        let mut listeners = Vec::new();
        for protocol in &service.protocols {
            listeners.extend(Listener::bind_all(protocol, &mut inherited)?);
        }
        services.push((service, policy, listeners));
    }
    inherited.finish()?;
    let origin = Origin::of_this_process()?;

    let pid_file = options
        .pid
        .as_deref()
        .map(std::path::absolute)
        .transpose()?;
    if !options.foreground {
        *launcher = Some(bindings::sys::detach()?);
    }
    nix::unistd::chdir("/")?;
    let write_pid = match predecessor {
        Some(_) => PidFile::write_over,
        None => PidFile::write,
    };
    let mut pid_file = pid_file.map(write_pid).transpose()?;
    report_warnings(&configuration.warnings);
    for (service, policy, _) in &services {
        policy.report_warnings();
        for (name, effect) in service.processor.compatibility.effects() {
            log::warn!("{}: compatibility {name}: {effect}", service.name);
        }
    }
    for (service, ..) in &services {
        call_hook(service, parameter, &configuration.file)?;
    }
    let is_root = nix::unistd::geteuid().is_root();
    for (service, ..) in &services {
        let is_root = is_root && service.identity.is_none();
        let steps = service.processor.sandbox.describe(is_root).join("; ");
        log::info!("{}: sandbox: {steps}", service.name);
        for profile in &service.processor.profiles {
            if let Some(sandbox) = &profile.sandbox {
                let steps = sandbox.describe(is_root).join("; ");
                let profile = &profile.name.value;
                log::info!("{}: profile {profile}: sandbox: {steps}", service.name);
            }
        }
    }
    let conf = configuration.file;
    let mut controller = Controller::new(
        services,
        Own {
            control_socket,
            metrics,
            origin,
            conf,
            drain_time: configuration.drain_timeout,
            heritage,
        },
        loggers,
        options.debug_pkcs11,
    )?;
    log::info!("{}", controller.give_up_privileges()?);
    if let Some(audit) = configuration.audit {
        controller.audit(audit)?;
    }
    if let Some(predecessor) = predecessor {
        predecessor.replace()?;
        controller.own_files();
        if let Some(pid_file) = &mut pid_file {
            pid_file.keep();
        }
    }
    if let Some(launcher) = launcher.take() {
        launcher.ready()?;
    }
    let result = controller.run();
    drop(pid_file);
    Ok(result?)
}

/// Returns the value of `-daemonize-param`. It is an error if there is one and no service has a hook that gets it.
fn hook_parameter<'a>(options: &'a Options, services: &[Service]) -> Result<&'a str, String> {
    let parameter = options.daemonize_param.as_deref().unwrap_or_default();
    let mut processors = services.iter().map(|service| &service.processor);
    if parameter.is_empty() || processors.any(|processor| processor.daemonize_hook.is_some()) {
        Ok(parameter)
    } else {
        Err("-daemonize-param: expected the parameter daemonize_hook in a processor".to_owned())
    }
}

/// Calls the hook of a service, if it has one, as the original does once the service listens.
fn call_hook(service: &Service, parameter: &str, conf: &Path) -> Result<(), Box<dyn Error>> {
    let Some(hook) = &service.processor.daemonize_hook else {
        return Ok(());
    };
    let failed = |cause: String| hook.place.fault(cause).in_file(conf);
    bindings::hook::daemonize(&hook.file, parameter.as_bytes())
        .map_err(|error| failed(error.to_string()))?;
    // From now on workers are forked, which requires that the hook has left no thread behind.
    bindings::sys::require_one_thread().map_err(|error| failed(error.to_string()))?;
    Ok(())
}

/// Checks that the audit log and its key can be used. A child process does it, so that the key is never in the memory
/// that workers inherit.
fn check_audit(audit: &AuditConfig, conf: &Path, takes_over: bool) -> Result<(), Box<dyn Error>> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let child = bindings::sys::fork_child(theirs, &[], |mut theirs| {
        let Err(fault) = auditor::check(audit, takes_over) else {
            return 0;
        };
        let told = theirs.write_all(fault.in_file(conf).to_string().as_bytes());
        told.map_or(1, |()| UNUSABLE)
    })?;
    let mut fault = String::new();
    ours.read_to_string(&mut fault)?;
    match nix::sys::wait::waitpid(child, None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        _ if fault.is_empty() => Err("the audit log could not be checked".into()),
        _ => Err(fault.into()),
    }
}

/// Creates a directory with mode 0700, unless it exists. Its parent directory has to exist.
fn create_directory(path: &Path) -> Result<(), String> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other
            .map_err(|error| format!("cannot create socket directory {}: {error}", path.display())),
    }
}

/// Logs where a panic happened. The panic's message is left out, because it may contain confidential data.
fn report_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic
        .location()
        .map(ToString::to_string)
        .unwrap_or_default();
    logging::log(
        logging::Severity::Crit,
        format_args!("internal error at {place}"),
    );
}
