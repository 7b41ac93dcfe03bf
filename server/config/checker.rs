//! Turns the sections of pkcs11proxyd.conf into the typed configuration, or refuses them.
//!
//! Sections come from `sections`, with their places; [`super::load`] gets the result. Single values
//! are read by `values`.

use std::path::Path;

use config_file::{At, Fault, Place};

use super::daemon::{audit, loopback};
use super::loggers::selection;
use super::sections::*;
use super::values::*;
use super::*;
use crate::logging::settings::{LoggerConfig, LoggerKind};

/// A backlog that is longer than any kernel allows.
const MOST_BACKLOG: i64 = i32::MAX as i64;

/// Checks the sections of `file`.
pub(super) fn check(root: Root, file: &Path) -> Result<Configuration, Fault> {
    let checker = Checker {
        file,
        warnings: Vec::new(),
    };
    checker.configuration(root.netplex)
}

/// Turns sections into the typed configuration, and collects warnings.
pub(super) struct Checker<'a> {
    pub(super) file: &'a Path,
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

    /// Returns an option of the section `daemon`. It may still stand in `controller`, with a warning: the original does
    /// not accept it there.
    fn moved<T>(
        &mut self,
        before: Option<At<T>>,
        now: Option<At<T>>,
    ) -> Result<Option<At<T>>, Fault> {
        match (before, now) {
            (Some(before), Some(_)) => Err(before.fault("is also given in the section `daemon`")),
            (Some(before), None) => {
                let text = "belongs in the section `daemon`: Caml Crush refuses it here";
                self.warn(&before.place, text);
                Ok(Some(before))
            }
            (None, now) => Ok(now),
        }
    }

    pub(super) fn warn(&mut self, place: &Place, message: &str) {
        self.warnings
            .push(place.fault(message).in_file(self.file).to_string());
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
        // The kernel reduces the backlog to net.core.somaxconn.
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
}
