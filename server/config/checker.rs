//! What the sections of pkcs11proxyd.conf come to: ranges, users, addresses, and what is refused.
//!
//! Sections come from `sections`, with their places; the typed configuration goes to [`super::load`].

use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

use config_file::{At, Fault, Float, Place};
use filter::Compatibility;
use nix::unistd::{Gid, Group, Uid, User, geteuid};

use super::sections::*;
use super::*;
use crate::logging::line_format;
use crate::tls::{LegacyKeys, TlsSection};

/// Says what the sections of `file` come to.
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
                    service,
                },
            place,
        } = netplex;
        let controller = controller.unwrap_or_default();
        if service.is_empty() {
            return Err(place.fault("expected at least one section `service`"));
        }
        let socket_directory = controller
            .socket_directory
            .as_ref()
            .map(|at| path(at, None))
            .transpose()?;
        let mut loggers = Vec::new();
        for section in controller.logging {
            loggers.push(self.logger(section)?);
        }
        if loggers.is_empty() {
            loggers.push(LoggerConfig {
                kind: LoggerKind::Stderr,
                format: default_format(&place)?,
                component: "*".into(),
                subchannel: "*".into(),
                max_level: Severity::Debug,
                place,
            });
        }
        let max_level = level(controller.max_level, Severity::Info)?;
        let mut services = Vec::new();
        for section in service {
            services.push(self.service(section, socket_directory.as_deref())?);
        }
        Ok(Configuration {
            file: self.file.to_path_buf(),
            socket_directory,
            max_level,
            loggers,
            services,
            warnings: self.warnings,
        })
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
                        component: file.component.unwrap_or_else(|| "*".into()),
                        subchannel: file.subchannel.unwrap_or_else(|| "*".into()),
                        max_level: level(file.max_level, Severity::Debug)?,
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
            component: section.component.unwrap_or_else(|| "*".into()),
            subchannel: section.subchannel.unwrap_or_else(|| "*".into()),
            max_level: level(section.max_level, Severity::Debug)?,
            place,
        })
    }

    fn format(&mut self, format: At<String>) -> Result<LineFormat, Fault> {
        let template = LineFormat::parse(&format.value).map_err(|error| format.fault(error))?;
        for name in template.unknown() {
            let message = format!("there is no variable `{}`", line_format::escape(name));
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
                self.warn(
                    &limit.place,
                    "taken as 1: every client gets its own process anyway",
                );
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
        Ok(Service {
            name: section.name,
            identity,
            protocols,
            processor: self.processor(section.processor)?,
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
        let backlog = within(section.lstn_backlog, 20, 0, i64::from(i32::MAX))?;
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

    fn processor(&mut self, section: At<ProcessorSection>) -> Result<Processor, Fault> {
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
        if let Some(libnames) = section.libnames {
            self.warn(
                &libnames.place,
                "has no effect: modules are defined by filter_config",
            );
        }
        let filter_config = required(section.filter_config, "filter_config", &place)?;
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
        Ok(Processor {
            filter_config: self.filter_config(&filter_config)?,
            tls: self.tls(use_ssl, section.tls, legacy, allowed)?,
            use_tls,
            handshake_timeout: seconds(section.handshake_timeout, 15)?,
            max_record_size: size(within(
                section.max_record_size,
                64 << 20,
                64 << 10,
                1 << 30,
            )?),
            record_timeout: seconds(section.record_timeout, 30)?,
            max_connections_per_peer: size(within(
                section.max_connections_per_peer,
                0,
                0,
                i64::from(i32::MAX),
            )?),
            flat_mechanisms: section.flat_mechanisms.map_or(Ok(Vec::new()), mechanisms)?,
            compatibility: section
                .compatibility
                .map_or(Ok(Compatibility::default()), |at| {
                    Compatibility::parse(&at.value).map_err(|error| at.fault(error.to_string()))
                })?,
        })
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
                Some(_) => "has no effect beside the section tls",
            };
            for place in legacy.places() {
                self.warn(place, reason);
            }
        }
        if let (None, Some(at)) = (&in_use, &allowed) {
            self.warn(&at.place, "has no effect without use_ssl = true");
        }
        let allowed = allowed.map(|at| path(&at, Some(&base))).transpose()?;
        match (in_use, section) {
            (_, Some(section)) => {
                let mut warnings = Vec::new();
                let config = TlsConfig::of_section(section, allowed, &base, &mut warnings)?;
                for (place, text) in warnings {
                    self.warn(&place, &text);
                }
                Ok(Some(config))
            }
            (Some(place), None) => {
                TlsConfig::of_legacy_keys(&place, legacy, allowed, &base).map(Some)
            }
            (None, None) => Ok(None),
        }
    }

    /// The original resolves a relative name against `/`, which no author can have meant, but some
    /// may rely on.
    fn filter_config(&self, at: &At<String>) -> Result<PathBuf, Fault> {
        let beside = path(at, Some(self.file.parent().unwrap_or(Path::new("/"))))?;
        let below_root = Path::new("/").join(&at.value);
        if !beside.exists() && below_root.exists() {
            Ok(below_root)
        } else {
            Ok(beside)
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
            self.warn(
                &jobs.place,
                "taken as 1: every client gets its own process anyway",
            );
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
                (Some(_), Some(jobs)) => return Err(jobs.fault("the same as `threads`")),
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

/// A time that is not zero.
fn seconds(option: Option<At<Float>>, default: u64) -> Result<Duration, Fault> {
    option.map_or(Ok(Duration::from_secs(default)), |at| {
        Duration::try_from_secs_f64(at.value.0)
            .ok()
            .filter(|seconds| !seconds.is_zero())
            .ok_or_else(|| at.fault("expected more than 0.0 seconds"))
    })
}

pub(crate) fn required<T>(
    option: Option<At<T>>,
    name: &str,
    section: &Place,
) -> Result<At<T>, Fault> {
    option.ok_or_else(|| section.fault(format!("`{name}` is missing")))
}

/// Of the given options, those that do not belong to the type are refused.
fn only(
    r#type: &At<String>,
    allowed: &[&str],
    given: &[(&str, Option<&Place>)],
) -> Result<(), Fault> {
    for (name, place) in given {
        if let Some(place) = place.filter(|_| !allowed.contains(name)) {
            return Err(place.fault(format!("does not belong to type {}", r#type.value)));
        }
    }
    Ok(())
}

fn within(option: Option<At<i64>>, default: i64, least: i64, most: i64) -> Result<i64, Fault> {
    match option {
        None => Ok(default),
        Some(at) if (least..=most).contains(&at.value) => Ok(at.value),
        Some(at) if at.value < least => Err(at.fault(format!("expected {least} or more"))),
        Some(at) => Err(at.fault(format!("expected {most} or less"))),
    }
}

/// A number that [`within`] found not to be negative.
fn size(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

fn level(option: Option<At<String>>, default: Severity) -> Result<Severity, Fault> {
    const EXPECTED: &str = "expected emerg, alert, crit, err, warning, notice, info, debug or all";
    option.map_or(Ok(default), |at| {
        Severity::from_name(&at.value).ok_or_else(|| at.fault(EXPECTED))
    })
}

fn default_format(place: &Place) -> Result<LineFormat, Fault> {
    LineFormat::parse(line_format::DEFAULT).map_err(|error| place.fault(error))
}

/// An absolute path; a relative one counts from `base`, or from the working directory.
pub(crate) fn path(at: &At<String>, base: Option<&Path>) -> Result<PathBuf, Fault> {
    if at.value.is_empty() || at.value.contains('\0') {
        return Err(at.fault("expected a path"));
    }
    let joined = base.map_or_else(|| PathBuf::from(&at.value), |base| base.join(&at.value));
    absolute(joined).map_err(|error| at.fault(format!("not a usable path: {error}")))
}

fn identity(
    user: Option<At<String>>,
    group: Option<At<String>>,
) -> Result<Option<Identity>, Fault> {
    let Some(user) = user else {
        return match group {
            Some(group) => Err(group.fault("expected `user` beside it")),
            None => Ok(None),
        };
    };
    if !geteuid().is_root() {
        return Err(user.fault("only root can change the user; the daemon is started by another"));
    }
    let account = match User::from_name(&user.value) {
        Ok(Some(account)) => account,
        Ok(None) => return Err(user.fault("expected the name of a user")),
        Err(error) => return Err(user.fault(format!("cannot be looked up: {error}"))),
    };
    let gid = match group {
        None => account.gid,
        Some(group) => match Group::from_name(&group.value) {
            Ok(Some(group)) => group.gid,
            Ok(None) => return Err(group.fault("expected the name of a group")),
            Err(error) => return Err(group.fault(format!("cannot be looked up: {error}"))),
        },
    };
    Ok(Some(Identity {
        user: user.value,
        uid: account.uid,
        gid,
    }))
}

fn address(section: At<AddressSection>, socket_directory: Option<&Path>) -> Result<Address, Fault> {
    let At {
        value:
            AddressSection {
                r#type,
                bind,
                path: file,
                name,
            },
        place,
    } = section;
    let allowed: &[&str] = match r#type.value.as_str() {
        "internet" => &["bind"],
        "local" | "unixdomain" | "socket_file" => &["path"],
        "container" | "internal" | "w32_pipe" | "w32_pipe_file" => {
            return Err(r#type.fault("not supported: expected internet, local or socket_file"));
        }
        _ => return Err(r#type.fault("expected internet, local, unixdomain or socket_file")),
    };
    only(
        &r#type,
        allowed,
        &[
            ("bind", bind.as_ref().map(|at| &at.place)),
            ("path", file.as_ref().map(|at| &at.place)),
            ("name", name.as_ref().map(|at| &at.place)),
        ],
    )?;
    if r#type.value == "internet" {
        return internet(&required(bind, "bind", &place)?).map(Address::Internet);
    }
    let file = required(file, "path", &place)?;
    if socket_directory.is_none() && Path::new(&file.value).is_relative() {
        return Err(file.fault("expected an absolute path, as there is no socket_directory"));
    }
    let path = path(&file, socket_directory)?;
    Ok(if r#type.value == "socket_file" {
        Address::SocketFile(path)
    } else {
        Address::Local(path)
    })
}

/// Every address of `a.b.c.d:port`, `[v6]:port` or `host:port`.
fn internet(bind: &At<String>) -> Result<Vec<SocketAddr>, Fault> {
    const EXPECTED: &str = "expected host:port, a.b.c.d:port or [v6]:port";
    let (host, port) = bind
        .value
        .rsplit_once(':')
        .ok_or_else(|| bind.fault(EXPECTED))?;
    if port.is_empty() || !port.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(bind.fault(EXPECTED));
    }
    let port: u16 = port
        .parse()
        .map_err(|_| bind.fault("expected a port of at most 65535"))?;
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = bracketed.unwrap_or(host);
    // The original takes an IPv6 address without its brackets, too.
    let is_v6 = host.parse::<Ipv6Addr>().is_ok();
    if host.is_empty() || !is_v6 && (bracketed.is_some() || host.contains([':', '[', ']'])) {
        return Err(bind.fault(EXPECTED));
    }
    let resolved = (host, port)
        .to_socket_addrs()
        .map_err(|error| bind.fault(format!("cannot be resolved: {error}")))?;
    let mut addresses = Vec::new();
    for address in resolved {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        Err(bind.fault("has no address"))
    } else {
        Ok(addresses)
    }
}

fn looks_octal(text: &str) -> bool {
    text.strip_prefix('0')
        .is_some_and(|rest| rest.starts_with(|next: char| next.is_ascii_digit()))
}

/// OCaml's notation: `0o777`, `0x1ff`, `0b111_111_111`, and anything else in decimal.
fn mode(at: &At<Mode>) -> Result<u32, Fault> {
    let bits = match &at.value {
        Mode::Integer(bits) => u32::try_from(*bits).ok(),
        Mode::Text(text) => {
            let lower = text.to_ascii_lowercase().replace('_', "");
            let (digits, radix) = match lower.get(..2) {
                Some("0o") => (lower.get(2..), 8),
                Some("0x") => (lower.get(2..), 16),
                Some("0b") => (lower.get(2..), 2),
                _ => (Some(lower.as_str()), 10),
            };
            digits
                .filter(|digits| !digits.starts_with('+'))
                .and_then(|digits| u32::from_str_radix(digits, radix).ok())
        }
    };
    bits.filter(|bits| *bits <= 0o7777)
        .ok_or_else(|| at.fault("expected a mode such as \"0o770\", at most 0o7777"))
}

/// `user:group`, names or numbers.
fn owner(at: &At<String>) -> Result<(Uid, Gid), Fault> {
    let (user, group) = at
        .value
        .split_once(':')
        .ok_or_else(|| at.fault("expected user:group"))?;
    let uid = User::from_name(user)
        .ok()
        .flatten()
        .map(|user| user.uid)
        .or_else(|| user.parse().ok().map(Uid::from_raw))
        .ok_or_else(|| at.fault("expected the name or number of a user before the colon"))?;
    let gid = Group::from_name(group)
        .ok()
        .flatten()
        .map(|group| group.gid)
        .or_else(|| group.parse().ok().map(Gid::from_raw))
        .ok_or_else(|| at.fault("expected the name or number of a group after the colon"))?;
    Ok((uid, gid))
}

fn mechanisms(at: At<String>) -> Result<Vec<u64>, Fault> {
    at.value
        .split_ascii_whitespace()
        .map(|number| {
            let parsed = match number.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16),
                None => number.parse(),
            };
            parsed.map_err(|_| at.fault("expected numbers such as 0x80000001, with blanks between"))
        })
        .collect()
}
