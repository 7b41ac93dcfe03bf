//! Turns the sections of pkcs11proxyd.conf into the typed configuration, or refuses them.
//!
//! Sections come from `sections`, with their places; [`super::load`] gets the result. Single values
//! are read by `values`.

use std::path::Path;

use config_file::{At, Fault, Float, Place};
use filter::Compatibility;

use super::profiles::{self, Clients, Surroundings};
use super::sandbox;
use super::sections::*;
use super::tls::{self, LegacyKeys, TlsSection};
use super::values::*;
use super::*;
use crate::audit::{AuditConfig, WhenFull};
use crate::failed_logins;
use crate::logging::line_format::{self, LineFormat};
use crate::logging::settings::{Facility, LogFileConfig, LoggerConfig, LoggerKind, Selection};
use crate::record_memory;

/// A queue of connections that is longer than any kernel has.
const MOST_BACKLOG: i64 = i32::MAX as i64;

/// Checks the sections of `file`.
pub(super) fn check(root: Root, file: &Path) -> Result<Configuration, Fault> {
    let checker = Checker {
        file,
        warnings: Vec::new(),
    };
    checker.configuration(root.netplex)
}

/// Turns sections into what they mean.
struct Checker<'a> {
    file: &'a Path,
    warnings: Vec<String>,
}

impl Checker<'_> {
    fn configuration(mut self, netplex: At<NetplexSection>) -> Result<Configuration, Fault> {
        let At {
            value:
                NetplexSection {
                    controller,
                    daemon,
                    service,
                },
            place,
        } = netplex;
        let mut controller = controller.unwrap_or_default();
        let daemon = daemon.unwrap_or_default();
        if service.is_empty() {
            return Err(place.fault("expected at least one section `service`"));
        }
        let socket_directory = controller
            .socket_directory
            .as_ref()
            .map(|at| path(at, None))
            .transpose()?;
        let mechanisms_file = self
            .moved(controller.mechanisms_file.take(), daemon.mechanisms_file)?
            .as_ref()
            .map(|at| path(at, Some(self.file.parent().unwrap_or(Path::new("/")))))
            .transpose()?;
        let mut loggers = Vec::new();
        for section in controller.logging {
            loggers.push(self.logger(section)?);
        }
        if loggers.is_empty() {
            loggers.push(LoggerConfig {
                kind: LoggerKind::Stderr,
                format: default_format(&place)?,
                selection: selection(None, None, None)?,
                place,
            });
        }
        let control_socket = daemon
            .control_socket
            .map(|at| {
                path(
                    &at,
                    Some(socket_directory.as_deref().unwrap_or(Path::new("/"))),
                )
            })
            .transpose()?;
        let metrics = daemon.metrics.map(loopback).transpose()?;
        let drain_timeout = self.moved(controller.drain_timeout.take(), daemon.drain_timeout)?;
        let drain_timeout = seconds(drain_timeout, 30)?;
        let base = self.file.parent().unwrap_or(Path::new("/"));
        let audit = daemon.audit.map(|at| audit(at, base)).transpose()?;
        let max_level = level(controller.max_level, Severity::Info)?;
        let mut services = Vec::new();
        for section in service {
            services.push(self.service(section, socket_directory.as_deref())?);
        }
        Ok(Configuration {
            file: self.file.to_path_buf(),
            socket_directory,
            mechanisms_file,
            control_socket,
            metrics,
            drain_timeout,
            audit,
            max_level,
            loggers,
            services,
            warnings: self.warnings,
        })
    }

    /// An option that may still stand in `controller`, where the original does not accept it.
    fn moved<T>(
        &mut self,
        before: Option<At<T>>,
        now: Option<At<T>>,
    ) -> Result<Option<At<T>>, Fault> {
        match (before, now) {
            (Some(before), Some(_)) => Err(before.fault("is also given in the section `daemon`")),
            (Some(before), None) => {
                let text = "belongs into the section `daemon`: Caml Crush refuses it here";
                self.warn(&before.place, text);
                Ok(Some(before))
            }
            (None, now) => Ok(now),
        }
    }

    fn warn(&mut self, place: &Place, message: &str) {
        self.warnings
            .push(place.fault(message).in_file(self.file).to_string());
    }

    fn logger(&mut self, section: At<LoggingSection>) -> Result<LoggerConfig, Fault> {
        let At {
            value: section,
            place,
        } = section;
        let format = match section.format {
            Some(format) => self.format(format)?,
            None => default_format(&place)?,
        };
        let allowed: &[&str] = match section.r#type.value.as_str() {
            "stderr" => &[],
            "file" => &["file"],
            "multi_file" => &["file", "directory"],
            "syslog" => &["identifier", "facility"],
            _ => {
                return Err(section
                    .r#type
                    .fault("expected stderr, file, multi_file or syslog"));
            }
        };
        only(
            &section.r#type,
            allowed,
            &[
                ("file", section.file.as_ref().map(|at| &at.place)),
                ("directory", section.directory.as_ref().map(|at| &at.place)),
                (
                    "identifier",
                    section.identifier.as_ref().map(|at| &at.place),
                ),
                ("facility", section.facility.as_ref().map(|at| &at.place)),
            ],
        )?;
        let kind = match section.r#type.value.as_str() {
            "file" => match required(section.file, "file", &place)? {
                At {
                    value: FileOption::Name(value),
                    place,
                } => LoggerKind::File(path(&At { value, place }, None)?),
                At { place, .. } => return Err(place.fault("expected a string")),
            },
            "multi_file" => {
                let directory = path(&required(section.directory, "directory", &place)?, None)?;
                let sections = match section.file {
                    None => Vec::new(),
                    Some(At {
                        value: FileOption::Sections(sections),
                        ..
                    }) => sections,
                    Some(At { place, .. }) => return Err(place.fault("expected sections `file`")),
                };
                let mut files = Vec::new();
                for At { value: file, .. } in sections {
                    files.push(LogFileConfig {
                        path: path(&file.file, Some(&directory))?,
                        format: match file.format {
                            Some(own) => self.format(own)?,
                            None => format.clone(),
                        },
                        selection: selection(file.component, file.subchannel, file.max_level)?,
                    });
                }
                LoggerKind::MultiFile(files)
            }
            "syslog" => LoggerKind::Syslog {
                identifier: section.identifier.map_or_else(String::new, |at| at.value),
                facility: match section.facility {
                    None => Facility::USER,
                    Some(at) => Facility::from_name(&at.value)
                        .ok_or_else(|| at.fault("expected a syslog facility such as daemon"))?,
                },
            },
            _ => LoggerKind::Stderr,
        };
        Ok(LoggerConfig {
            kind,
            format,
            selection: selection(section.component, section.subchannel, section.max_level)?,
            place,
        })
    }

    fn format(&mut self, format: At<String>) -> Result<LineFormat, Fault> {
        let template = LineFormat::parse(&format.value).map_err(|error| format.fault(error))?;
        for name in template.unknown() {
            let message = format!("unknown variable `{}`", line_format::escape(name));
            self.warn(&format.place, &message);
        }
        Ok(template)
    }

    fn service(
        &mut self,
        section: At<ServiceSection>,
        socket_directory: Option<&Path>,
    ) -> Result<Service, Fault> {
        let At {
            value: section,
            place,
        } = section;
        if let Some(limit) = section.conn_limit {
            if limit.value != 1 {
                self.warn(&limit.place, "has no effect: each worker serves one client");
            }
        }
        let identity = identity(section.user, section.group)?;
        let mut protocols = Vec::new();
        for protocol in section.protocol {
            protocols.push(self.protocol(protocol, socket_directory)?);
        }
        if protocols
            .iter()
            .all(|protocol| protocol.addresses.is_empty())
        {
            return Err(place.fault("expected at least one `protocol` with an `address`"));
        }
        let proxy_protocol = section.processor.value.proxy_protocol.clone();
        only_tcp(proxy_protocol, &protocols)?;
        Ok(Service {
            name: section.name,
            identity,
            processor: self.processor(section.processor, &protocols)?,
            protocols,
            workload: self.workload(section.workload_manager)?,
        })
    }

    fn protocol(
        &mut self,
        section: At<ProtocolSection>,
        socket_directory: Option<&Path>,
    ) -> Result<Protocol, Fault> {
        let section = section.value;
        let addresses = section
            .address
            .into_iter()
            .map(|section| address(section, socket_directory))
            .collect::<Result<Vec<_>, _>>()?;
        // The kernel takes as many as net.core.somaxconn says.
        let backlog = within(section.lstn_backlog, MOST_BACKLOG, 0, MOST_BACKLOG)?;
        let mode = match section.local_chmod {
            None => None,
            Some(at) => {
                if matches!(&at.value, Mode::Text(text) if looks_octal(text)) {
                    self.warn(&at.place, "a decimal number; for an octal one write 0o");
                }
                Some(mode(&at)?)
            }
        };
        let owner = section.local_chown.as_ref().map(owner).transpose()?;
        Ok(Protocol {
            name: section.name,
            addresses,
            backlog: i32::try_from(backlog).unwrap_or(i32::MAX),
            reuse_address: section.lstn_reuseaddr.unwrap_or(true),
            keepalive: section.so_keepalive.unwrap_or(true),
            nodelay: section.tcp_nodelay.unwrap_or(false),
            mode,
            owner,
        })
    }

    fn processor(
        &mut self,
        section: At<ProcessorSection>,
        protocols: &[Protocol],
    ) -> Result<Processor, Fault> {
        let At {
            value: section,
            place,
        } = section;
        if section.r#type.value != "rpc_pkcs11" {
            return Err(section.r#type.fault("expected rpc_pkcs11"));
        }
        if let Some(portmapper) = section.portmapper.filter(|portmapper| portmapper.value) {
            return Err(portmapper.fault("expected false: rpcbind is not supported"));
        }
        if let Some(timeout) = section.timeout {
            self.warn(
                &timeout.place,
                "has no effect, as in the original; see record_timeout",
            );
        }
        let base = self.file.parent().unwrap_or(Path::new("/"));
        let (given, mut warnings) = ((section.filter_config, section.libnames), Vec::new());
        let rules = rule_source::of(given, &place, base, &mut warnings)?;
        for (place, text) in warnings {
            self.warn(&place, &text);
        }
        let use_tls = section.use_ssl.as_ref().is_some_and(|at| at.value);
        let legacy = LegacyKeys {
            cafile: section.cafile,
            certfile: section.certfile,
            certkey: section.certkey,
            cipher_suite: section.cipher_suite,
            dh_params: section.dh_params,
            ec_curve_name: section.ec_curve_name,
            verify_depth: section.verify_depth,
        };
        let (use_ssl, allowed) = (section.use_ssl, section.allowed_clients_cert_path);
        let (max_record_size, record_memory) =
            self.record_limits(section.max_record_size, section.record_memory)?;
        let tls = self.tls(use_ssl, section.tls, legacy, allowed)?;
        let profiles = profiles::of_sections(
            section.profile,
            &mut Surroundings {
                clients: Clients::of(protocols, tls.as_ref().filter(|_| use_tls)),
                record_memory,
                base,
                warn: &mut |place, text| self.warn(place, text),
            },
        )?;
        Ok(Processor {
            rules,
            tls,
            use_tls,
            handshake_timeout: seconds(section.handshake_timeout, 15)?,
            max_record_size,
            record_memory,
            record_timeout: seconds(section.record_timeout, 30)?,
            max_connections_per_peer: size(within(
                section.max_connections_per_peer,
                0,
                0,
                i64::from(i32::MAX),
            )?),
            balancers: balancers(section.proxy_protocol, section.proxy_from)?,
            first_call_timeout: seconds(section.first_call_timeout, 30)?,
            abandoned_call_timeout: seconds(section.abandoned_call_timeout, 10)?,
            failed_logins: failed_logins(section.max_failed_logins, section.failed_login_window)?,
            flat_mechanisms: section.flat_mechanisms.map_or(Ok(Vec::new()), mechanisms)?,
            compatibility: section
                .compatibility
                .map_or(Ok(Compatibility::default()), |at| {
                    Compatibility::parse(&at.value).map_err(|error| at.fault(error.to_string()))
                })?,
            protocol: match within(section.protocol, 4, 3, 4)? {
                3 => 3,
                _ => 4,
            },
            max_parallel_calls: size(within(section.max_parallel_calls, 16, 1, 256)?),
            daemonize_hook: section.daemonize_hook.map(|at| self.hook(at)).transpose()?,
            sandbox: sandbox::of_section(section.sandbox, record_memory)?,
            without_profile: profiles::otherwise(section.without_profile, &profiles)?,
            profiles,
            modules: modules(section.module)?,
        })
    }

    /// A name that does not depend on where libraries are looked for.
    fn hook(&self, at: At<String>) -> Result<Hook, Fault> {
        Ok(Hook {
            file: path(&at, Some(self.file.parent().unwrap_or(Path::new("/"))))?,
            place: at.place,
        })
    }

    /// The longest record, and the memory for those of all clients.
    fn record_limits(
        &mut self,
        longest: Option<At<i64>>,
        memory: Option<At<i64>>,
    ) -> Result<(usize, usize), Fault> {
        let places = (
            longest.as_ref().map(|at| at.place.clone()),
            memory.as_ref().map(|at| at.place.clone()),
        );
        let longest = size(within(longest, 1 << 30, 64 << 10, 1 << 30)?);
        let default = i64::try_from(record_memory::default_limit()).unwrap_or(i64::MAX);
        let least = i64::try_from(record_memory::LEAST).unwrap_or(i64::MAX);
        let memory = size(within(memory, default, least, i64::MAX)?);
        let machine = record_memory::machine_memory();
        if let (_, Some(place)) = &places {
            if memory > machine {
                self.warn(
                    place,
                    &format!("more than the {machine} bytes of memory that this machine has"),
                );
            }
        }
        if let (Some(place), _) = &places {
            if longest > memory {
                self.warn(
                    place,
                    &format!("has no effect above record_memory, {memory}"),
                );
            }
        }
        Ok((longest, memory))
    }

    /// A `tls` section is checked whether it is used or not, as in the original.
    fn tls(
        &mut self,
        use_ssl: Option<At<bool>>,
        section: Option<At<TlsSection>>,
        legacy: LegacyKeys,
        allowed: Option<At<String>>,
    ) -> Result<Option<TlsConfig>, Fault> {
        let base = self.file.parent().unwrap_or(Path::new("/")).to_path_buf();
        let in_use = use_ssl.filter(|at| at.value).map(|at| at.place);
        if in_use.is_none() || section.is_some() {
            let reason = match in_use {
                None => "has no effect without use_ssl = true",
                Some(_) => "has no effect, because there is a section `tls`",
            };
            for place in legacy.places() {
                self.warn(place, reason);
            }
        }
        if let (None, Some(at)) = (&in_use, &allowed) {
            self.warn(&at.place, "has no effect without use_ssl = true");
        }
        let allowed = allowed.map(|at| path(&at, Some(&base))).transpose()?;
        if let (None, Some(section)) = (&in_use, &section) {
            let text = "has no effect without use_ssl = true: clients are served without TLS";
            self.warn(&section.place, text);
        }
        match (in_use, section) {
            (_, Some(section)) => {
                let mut warnings = Vec::new();
                let config = tls::of_section(section, allowed, &base, &mut warnings)?;
                for (place, text) in warnings {
                    self.warn(&place, &text);
                }
                Ok(Some(config))
            }
            (Some(place), None) => tls::of_legacy_keys(&place, legacy, allowed, &base).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn workload(&mut self, section: At<WorkloadSection>) -> Result<Workload, Fault> {
        const MOST: i64 = i32::MAX as i64;
        let At {
            value: section,
            place,
        } = section;
        let jobs = section.max_jobs_per_thread;
        if let Some(jobs) = jobs.as_ref().filter(|jobs| jobs.value != 1) {
            self.warn(&jobs.place, "has no effect: each worker serves one client");
        }
        let jobs = within(jobs, 1, 1, MOST)?;
        let allowed: &[&str] = match section.r#type.value.as_str() {
            "dynamic" => &[
                "recommended",
                "min",
                "max_free",
                "max_threads",
                "inactivity",
            ],
            "constant" => &["threads", "jobs"],
            _ => return Err(section.r#type.fault("expected dynamic or constant")),
        };
        only(
            &section.r#type,
            allowed,
            &[
                (
                    "recommended",
                    section
                        .recommended_jobs_per_thread
                        .as_ref()
                        .map(|at| &at.place),
                ),
                (
                    "min",
                    section.min_free_jobs_capacity.as_ref().map(|at| &at.place),
                ),
                (
                    "max_free",
                    section.max_free_jobs_capacity.as_ref().map(|at| &at.place),
                ),
                (
                    "max_threads",
                    section.max_threads.as_ref().map(|at| &at.place),
                ),
                (
                    "inactivity",
                    section.inactivity_timeout.as_ref().map(|at| &at.place),
                ),
                ("threads", section.threads.as_ref().map(|at| &at.place)),
                ("jobs", section.jobs.as_ref().map(|at| &at.place)),
            ],
        )?;
        if section.r#type.value == "constant" {
            let threads = match (section.threads, section.jobs) {
                (Some(_), Some(jobs)) => {
                    return Err(jobs.fault("means the same as `threads`, which is also given"));
                }
                (threads, jobs) => required(threads.or(jobs), "threads", &place)?,
            };
            let threads = size(within(Some(threads), 1, 1, MOST)?);
            return Ok(Workload {
                spare: threads,
                max_workers: threads,
            });
        }
        // Holds trivially: a worker has one client.
        within(section.recommended_jobs_per_thread, 1, 1, jobs)?;
        let min = required(
            section.min_free_jobs_capacity,
            "min_free_jobs_capacity",
            &place,
        )?;
        let min = within(Some(min), 0, 0, MOST)?;
        // Holds trivially: no more workers are idle than `min_free_jobs_capacity`, so that there
        // is none to retire, after any time.
        let max_free = required(
            section.max_free_jobs_capacity,
            "max_free_jobs_capacity",
            &place,
        )?;
        within(Some(max_free), min, min, MOST)?;
        within(section.inactivity_timeout, 15, 1, MOST)?;
        let max_threads = required(section.max_threads, "max_threads", &place)?;
        let max_workers = size(within(Some(max_threads), 1, 1, MOST)?);
        Ok(Workload {
            spare: size(min).min(max_workers),
            max_workers,
        })
    }
}

/// An address that only this machine can reach. Whoever reaches it is asked nothing.
fn loopback(at: At<String>) -> Result<SocketAddr, Fault> {
    let address = at.value.parse::<SocketAddr>().ok();
    address
        .filter(|address| address.ip().is_loopback())
        .ok_or_else(|| {
            at.fault("expected an address and port of this machine, such as 127.0.0.1:9464")
        })
}

/// How many logins of a peer may fail, and within which time; none if that is 0.
fn failed_logins(
    most: Option<At<i64>>,
    window: Option<At<Float>>,
) -> Result<Option<failed_logins::Limits>, Fault> {
    const MOST: usize = failed_logins::MOST_FAILURES;
    let failures = size(within(most, 10, 0, i64::try_from(MOST).unwrap_or(0))?);
    let window = seconds(window, 300)?;
    Ok((failures > 0).then_some(failed_logins::Limits { failures, window }))
}

/// What single modules need; no module has two sections.
fn modules(sections: Vec<At<ModuleSection>>) -> Result<Vec<ModuleSettings>, Fault> {
    let mut modules: Vec<ModuleSettings> = Vec::new();
    for At { value: section, .. } in sections {
        let alias = section.alias;
        if let Some(earlier) = modules.iter().find(|earlier| earlier.alias == alias.value) {
            let message = format!("already has a section, in line {}", earlier.place.line);
            return Err(alias.fault(message));
        }
        if let Some(at) = section
            .init_args
            .as_ref()
            .filter(|at| at.value.contains('\0'))
        {
            return Err(at.fault("expected a string without a zero byte"));
        }
        modules.push(ModuleSettings {
            place: alias.place,
            alias: alias.value,
            init_args: section.init_args.map(|at| at.value),
            flat_mechanisms: section.flat_mechanisms.map_or(Ok(Vec::new()), mechanisms)?,
        });
    }
    Ok(modules)
}

/// Which records a logger or a file takes.
fn selection(
    component: Option<String>,
    subchannel: Option<String>,
    max_level: Option<At<String>>,
) -> Result<Selection, Fault> {
    Ok(Selection {
        component: component.unwrap_or_else(|| "*".into()),
        subchannel: subchannel.unwrap_or_else(|| "*".into()),
        max_level: level(max_level, Severity::Debug)?,
    })
}

/// Paths are relative to the directory of the configuration file.
fn audit(section: At<AuditSection>, base: &Path) -> Result<AuditConfig, Fault> {
    let At {
        value: section,
        place,
    } = section;
    let file = required(section.file, "file", &place)?;
    let key = required(section.key, "key", &place)?;
    let sign_lines = within(section.sign_lines, 1000, 1, 1_000_000)?;
    Ok(AuditConfig {
        file: path(&file, Some(base))?,
        file_place: file.place,
        key: path(&key, Some(base))?,
        key_place: key.place,
        sign_lines: u64::try_from(sign_lines).unwrap_or(1000),
        sign_interval: seconds(section.sign_interval, 60)?,
        when_full: match section.when_full {
            None => WhenFull::Refuse,
            Some(at) => match at.value.as_str() {
                "refuse" => WhenFull::Refuse,
                "count" => WhenFull::Count,
                _ => return Err(at.fault("expected refuse or count")),
            },
        },
    })
}
