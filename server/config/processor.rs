//! Reads the section `processor` of a service.
//!
//! The section comes from `sections`, with its places; a [`Processor`] goes to the checker. Its parts `tls`, `sandbox`
//! and `profile` are read by the modules of these names.

use std::path::Path;

use config_file::{At, Fault, Float};
use filter::Compatibility;

use super::checker::Checker;
use super::profiles::{self, Clients, Surroundings};
use super::sections::{ModuleSection, ProcessorSection};
use super::tls::{self, LegacyKeys, TlsSection};
use super::values::{balancers, mechanisms, path, seconds, size, within};
use super::{Hook, ModuleSettings, Processor, Protocol, rule_source, sandbox};
use crate::tls::TlsConfig;
use crate::{failed_logins, record_memory};

impl Checker<'_> {
    pub(super) fn processor(
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

    /// Makes the hook's path absolute, so that it does not depend on where libraries are searched.
    fn hook(&self, at: At<String>) -> Result<Hook, Fault> {
        Ok(Hook {
            file: path(&at, Some(self.file.parent().unwrap_or(Path::new("/"))))?,
            place: at.place,
        })
    }

    /// Returns the upper bounds on the bytes of one record, and of the records of all clients together.
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

    /// Checks the TLS settings. A `tls` section is checked even if it is not used, as in the original.
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
}

/// Returns how many logins of a peer may fail within which time; `None` if that number is 0.
fn failed_logins(
    most: Option<At<i64>>,
    window: Option<At<Float>>,
) -> Result<Option<failed_logins::Limits>, Fault> {
    const MOST: usize = failed_logins::MOST_FAILURES;
    let failures = size(within(most, 10, 0, i64::try_from(MOST).unwrap_or(0))?);
    let window = seconds(window, 300)?;
    Ok((failures > 0).then_some(failed_logins::Limits { failures, window }))
}

/// Checks the sections `module`. No module may have two of them.
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
