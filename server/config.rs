//! Reads pkcs11proxyd.conf, the daemon's configuration, and checks it.
//!
//! [`load`] checks everything that can be checked without opening a socket or log file: types, ranges,
//! users, host names. An option that this version does not enforce is refused, never ignored. The
//! settings of TLS and of loggers are types of [`crate::tls`] and [`crate::logging`], which do not
//! depend on this module.

mod checker;
mod daemon;
mod loggers;
mod processor;
mod profiles;
pub mod rule_source;
mod sandbox;
mod sections;
mod tls;
mod values;
mod workload;

use std::net::SocketAddr;
use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

use bindings::module::ModuleOptions;
use config_file::{Error, Fault, Outline, Place};
use filter::Compatibility;
use nix::unistd::{Gid, Uid};

use crate::audit::AuditConfig;
use crate::failed_logins;
use crate::logging::Severity;
use crate::logging::settings::LoggerConfig;
use crate::netplex::Netplex;
use crate::profiles::{Otherwise, Profile};
use crate::proxy::Balancers;
use crate::sandbox::Sandbox;
use crate::tls::TlsConfig;
use rule_source::RuleSource;
use sections::Root;

/// The content of pkcs11proxyd.conf.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The file, as an absolute path.
    pub file: PathBuf,
    /// `controller.socket_directory`: base of relative socket paths, to be created with mode 0700
    /// if missing. Default none: relative socket paths are then refused.
    pub socket_directory: Option<PathBuf>,
    /// `daemon.mechanisms_file`: the description of vendors' mechanisms, `mechanisms.toml`. A relative path starts at
    /// the directory of the configuration file. Default none.
    pub mechanisms_file: Option<PathBuf>,
    /// `daemon.control_socket`: the Unix socket of `pkcs11proxyctl`, for root and the user who starts the daemon. A
    /// relative path starts at `socket_directory`. Default none.
    pub control_socket: Option<PathBuf>,
    /// `daemon.metrics`: the loopback address at which a monitoring system gets the daemon's metrics. Default none.
    pub metrics: Option<SocketAddr>,
    /// `daemon.drain_timeout`: how long clients have to leave when the daemon drains, in seconds in the file. Default
    /// 30.
    pub drain_timeout: Duration,
    /// `daemon.audit`: the audit log. Default none.
    pub audit: Option<AuditConfig>,
    /// `controller.max_level`: the least severe level that reaches any logger. Default `info`.
    pub max_level: Severity,
    /// `controller.logging`, repeatable. Default one of type `stderr`.
    pub loggers: Vec<LoggerConfig>,
    /// `service`, repeatable. Not empty.
    pub services: Vec<Service>,
    /// What is accepted but probably a mistake: `file:line: option: text`.
    pub warnings: Vec<String>,
}

/// One `service` section.
#[derive(Clone, Debug)]
pub struct Service {
    /// `name`: free text; the component of its workers' log messages.
    pub name: String,
    /// `user` and `group`: who the workers run as. Default the user who started the daemon.
    pub identity: Option<Identity>,
    /// `protocol`, repeatable: where it listens. At least one has an address.
    pub protocols: Vec<Protocol>,
    /// `processor`: what is done with connections.
    pub processor: Processor,
    /// `workload_manager`: how many workers there may be.
    pub workload: Workload,
}

/// The user and group that a worker runs as. Only set if root starts the daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The user's name, for its supplementary groups.
    pub user: String,
    /// The user.
    pub uid: Uid,
    /// `group`, by default the primary group of `user`.
    pub gid: Gid,
}

/// One `protocol` section.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// `name`: free text.
    pub name: String,
    /// `address`, repeatable: each socket to listen on.
    pub addresses: Vec<Address>,
    /// `lstn_backlog`: connections the kernel queues. Default as many as the kernel takes (net.core.somaxconn).
    pub backlog: i32,
    /// `lstn_reuseaddr`: SO_REUSEADDR. Default true.
    pub reuse_address: bool,
    /// `so_keepalive`: SO_KEEPALIVE on connections. Default true.
    pub keepalive: bool,
    /// `tcp_nodelay`: TCP_NODELAY on connections. Default false; workers set it always.
    pub nodelay: bool,
    /// `local_chmod`: mode of a local socket. By default the umask decides.
    pub mode: Option<u32>,
    /// `local_chown`: owner and group of a local socket. Default those of the daemon.
    pub owner: Option<(Uid, Gid)>,
}

/// One `address` section.
#[derive(Clone, Debug, PartialEq)]
pub enum Address {
    /// `type = "internet"`: TCP, at every address that the name in `bind` resolves to.
    Internet(Vec<SocketAddr>),
    /// `type = "local"` or `"unixdomain"`: a Unix stream socket at this absolute path.
    Local(PathBuf),
    /// `type = "socket_file"`: TCP on a free loopback port, which is written to this file.
    SocketFile(PathBuf),
}

/// The `processor` section.
#[derive(Clone, Debug)]
pub struct Processor {
    /// `filter_config` or `libnames`: which modules there are, and the rules for them.
    pub rules: RuleSource,
    /// `tls`, or the older keys: the settings of TLS.
    pub tls: Option<TlsConfig>,
    /// `use_ssl`: whether connections use TLS. Default false.
    pub use_tls: bool,
    /// `handshake_timeout`: seconds a client may take over the TLS handshake. Default 15.0.
    pub handshake_timeout: Duration,
    /// `max_record_size`: upper bound on the length of a call, in bytes, from 65536 to 1 GiB. Default 1 GiB.
    pub max_record_size: usize,
    /// `record_memory`: memory for the large calls of all clients together, in bytes, 4 MiB or more. Default
    /// a quarter of the machine's, at most 4 GiB.
    pub record_memory: usize,
    /// `record_timeout`: seconds a client may take over a call once it has begun to send it.
    /// Default 30.0.
    pub record_timeout: Duration,
    /// `max_connections_per_peer`: connections one address may have at a time. Default 0, no limit.
    pub max_connections_per_peer: usize,
    /// `proxy_protocol` and `proxy_from`: the load balancers, which send the addresses of their clients. Connections
    /// from elsewhere are refused. `None` if `proxy_protocol` is false, which is the default.
    pub balancers: Option<Balancers>,
    /// `first_call_timeout`: seconds that a client may take until its first complete call, from when it is accepted or
    /// its TLS handshake ends. Its PROXY header may take as long. Default 30.0.
    pub first_call_timeout: Duration,
    /// `abandoned_call_timeout`: seconds that calls may take after their client has disconnected. Default 10.0.
    pub abandoned_call_timeout: Duration,
    /// `max_failed_logins`: failed logins that one peer may make within `failed_login_window` seconds, 0 to 200.
    /// Default 10 and 300.0. `None` if `max_failed_logins` is 0.
    pub failed_logins: Option<failed_logins::Limits>,
    /// `flat_mechanisms`: numbers, decimal or 0x..., of vendor mechanisms whose parameter contains no pointer, so that
    /// it may be passed on unchanged; separated by blanks. Default "", none.
    pub flat_mechanisms: Vec<u64>,
    /// `compatibility`: names of switches, separated by blanks, each of which brings back one behaviour of the
    /// original. Default "", none.
    pub compatibility: Compatibility,
    /// `protocol`: the newest version of the protocol that is spoken, 3 or 4. Default 4.
    pub protocol: u32,
    /// `max_parallel_calls`: how many calls of one client are executed at a time, from 1 to 256.
    /// Default 16.
    pub max_parallel_calls: usize,
    /// `daemonize_hook`: a shared object whose C_Daemonize is called once the sockets are bound. Default none.
    pub daemonize_hook: Option<Hook>,
    /// `sandbox`: what workers may do.
    pub sandbox: Sandbox,
    /// `profile`, repeatable: settings for certain clients. The first profile that matches a client applies. Default
    /// none.
    pub profiles: Vec<Profile>,
    /// `without_profile`: whether clients that match no profile are served. Default `serve`.
    pub without_profile: Otherwise,
    /// `module`, repeatable: settings for certain modules.
    pub modules: Vec<ModuleSettings>,
}

/// What `daemonize_hook` names.
#[derive(Clone, Debug)]
pub struct Hook {
    /// The shared object. A relative path starts at the directory of the configuration file.
    pub file: PathBuf,
    /// Where the option stands, for messages.
    pub place: Place,
}

/// One `module` section.
#[derive(Clone, Debug)]
pub struct ModuleSettings {
    /// `alias`: the name by which clients ask for the module.
    pub alias: String,
    /// Where the alias stands, for messages.
    pub place: Place,
    /// `init_args`: what C_Initialize passes to the module in pReserved. Default none.
    pub init_args: Option<String>,
    /// `flat_mechanisms`: as in `processor`, but for this module only, in addition to those. Default "", none.
    pub flat_mechanisms: Vec<u64>,
}

impl Processor {
    /// Returns the sandbox of the service, then those of its profiles.
    pub fn sandboxes(&self) -> impl Iterator<Item = &Sandbox> + Clone {
        let profiles = self.profiles.iter();
        std::iter::once(&self.sandbox).chain(profiles.filter_map(|it| it.sandbox.as_ref()))
    }

    /// Returns the same sandboxes, mutably.
    pub fn sandboxes_mut(&mut self) -> impl Iterator<Item = &mut Sandbox> {
        let profiles = self.profiles.iter_mut();
        std::iter::once(&mut self.sandbox).chain(profiles.filter_map(|it| it.sandbox.as_mut()))
    }

    /// Returns the settings of the module that clients ask for by this name.
    pub fn module(&self, alias: &[u8]) -> ModuleOptions {
        let mut options = ModuleOptions {
            flat_mechanisms: self.flat_mechanisms.clone(),
            init_args: None,
        };
        let mut sections = self.modules.iter();
        if let Some(section) = sections.find(|section| section.alias.as_bytes() == alias) {
            options.flat_mechanisms.extend(&section.flat_mechanisms);
            options.init_args.clone_from(&section.init_args);
        }
        options
    }
}

/// The `workload_manager` section. Each client has a worker process of its own, whatever the value of
/// `max_jobs_per_thread` is.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// `min_free_jobs_capacity`: number of workers kept ready for new clients. With 0, each is started on demand.
    pub spare: usize,
    /// `max_threads`: upper bound on the number of workers, including those that are ready.
    pub max_workers: usize,
}

/// Reads and checks a file.
pub fn load(file: &Path) -> Result<Configuration, Error> {
    let file = absolute(file)
        .map_err(|error| Error::of_file(file, format!("cannot be found: {error}")))?;
    let root: Root = config_file::load(&file, &Netplex)?;
    checker::check(root, &file).map_err(|fault| fault.in_file(&file))
}

/// Returns every section and parameter that the file may have, for the documentation.
pub fn outline() -> Result<Outline, Fault> {
    config_file::outline::<Root>()
}

#[cfg(test)]
mod tests;
