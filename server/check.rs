//! Implements `-check`: reads the configuration as at start, and reports the rules that apply to each module, and the
//! profiles.
//!
//! Reads both configuration files and the files for TLS, and examines the modules' files, as the user who serves
//! clients. Opens no socket, runs no code of a module and starts no daemon.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::path::Path;

use config_file::At;
use filter::Rules;
use filter::config::ModuleEntry;
use filter::log::Printable;
use filter::module_rules::ModuleRules;
use nix::unistd::geteuid;

use crate::audit::auditor;
use crate::config::{self, Processor};
use crate::policy::Policy;
use crate::profiles::{Client, Otherwise, Profile, imagined};
use crate::sandbox::probe;
use crate::vendor_mechanisms;

/// What `-check` found.
pub struct Report {
    /// Warnings, and the rules that apply to each module.
    pub text: String,
    /// Modules that cannot be loaded: `file:line: option: what was expected`.
    pub faults: Vec<String>,
}

/// Reports on a configuration, and on the profile that the client described by `-as` would get. An error means that the
/// configuration or the description is invalid.
pub fn check(conf: &Path, client: Option<&str>) -> Result<Report, Box<dyn Error>> {
    let client = client.map(imagined::parse).transpose();
    let client = client.map_err(|error| format!("-as: {error}"))?;
    let mut configuration = config::load(conf)?;
    vendor_mechanisms::install(configuration.mechanisms_file.as_deref())?;
    let mut report = String::new();
    let mut faults = Vec::new();
    for warning in &configuration.warnings {
        writeln!(report, "warning: {warning}")?;
    }
    if let Some(audit) = &configuration.audit {
        auditor::check_key(audit).map_err(|fault| fault.in_file(&configuration.file))?;
    }
    for service in &mut configuration.services {
        faults.extend(probe::prepare(service, &configuration.file).err());
        let processor = &service.processor;
        let policy = Policy::load(service, &configuration.file)?;
        faults.extend(probe::run(service, &policy, &configuration.file).err());
        let findings = policy.examine_modules(service.identity.as_ref());
        faults.extend(findings.faults);
        for warning in policy.warnings.iter().chain(&findings.remarks) {
            writeln!(report, "warning: {warning}")?;
        }
        let file = policy.rules.file.display();
        writeln!(report, "service {}: {file}", service.name)?;
        for (name, effect) in processor.compatibility.effects() {
            writeln!(report, "  compatibility {name}: {effect}")?;
        }
        if let Some(balancers) = &processor.balancers {
            writeln!(
                report,
                "  proxy_protocol: only {balancers} may connect, and tell their clients' addresses"
            )?;
        }
        let is_root = geteuid().is_root() && service.identity.is_none();
        for step in processor.sandbox.describe(is_root) {
            writeln!(report, "  sandbox: {step}")?;
        }
        for profile in &processor.profiles {
            describe(&mut report, profile, &configuration.file, is_root)?;
        }
        if let Some(client) = &client {
            choose(&mut report, processor, client, &configuration.file)?;
        }
        let mut told: Vec<&Path> = Vec::new();
        for rules in policy.all_rules() {
            if !told.contains(&rules.file.as_path()) {
                told.push(&rules.file);
                describe_modules(&mut report, rules)?;
            }
        }
    }
    Ok(Report {
        text: report,
        faults,
    })
}

/// Reports each module of a filter file, with its rules.
fn describe_modules(report: &mut String, rules: &Rules) -> fmt::Result {
    for entry in &rules.modules {
        let (alias, path) = (Printable(&entry.alias_text), entry.path.display());
        let ModuleEntry { line, .. } = entry;
        let file = rules.file.display();
        let option = rules.modules_option;
        writeln!(report, "  {file}:{line}: {option}: '{alias}' -> '{path}'")?;
        write!(report, "{}", ModuleRules::new(rules, &entry.alias_text))?;
    }
    Ok(())
}

/// Returns where a profile stands in the file.
fn place(profile: &Profile, conf: &Path) -> String {
    let At { value, place } = &profile.name;
    format!("{}:{}: profile {value}", conf.display(), place.line)
}

/// Reports a profile: which clients get it, and what it allows them.
fn describe(report: &mut String, profile: &Profile, conf: &Path, is_root: bool) -> fmt::Result {
    let place = place(profile, conf);
    writeln!(report, "  {place}: for {}", profile.who)?;
    let mut what = Vec::new();
    what.extend(
        profile
            .filter_config
            .as_ref()
            .map(|file| format!("filter_config {}", file.display())),
    );
    let modules = profile.modules.as_ref();
    what.extend(modules.map(|modules| format!("modules {}", modules.value.join(" "))));
    what.extend(
        profile
            .max_connections
            .map(|most| format!("max_connections {most}")),
    );
    what.extend(Some(profile.limits.to_string()).filter(|limits| !limits.is_empty()));
    let sandbox = profile.sandbox.iter();
    what.extend(
        sandbox
            .flat_map(|sandbox| sandbox.describe(is_root))
            .map(|step| format!("sandbox: {step}")),
    );
    what.iter()
        .try_for_each(|what| writeln!(report, "    {what}"))
}

/// Reports which profile a client gets, and why.
fn choose(report: &mut String, processor: &Processor, client: &Client, conf: &Path) -> fmt::Result {
    writeln!(report, "  a client with {client}:")?;
    let mut chosen: Option<&Profile> = None;
    for profile in &processor.profiles {
        let place = place(profile, conf);
        let outcome = match (profile.who.mismatch(client), chosen) {
            (Some(mismatch), _) => format!("not matched: {mismatch}"),
            (None, Some(first)) => format!("matched, but {} comes first", first.name.value),
            (None, None) => {
                chosen = Some(profile);
                "matched".to_owned()
            }
        };
        writeln!(report, "    {place}: {outcome}")?;
    }
    match (chosen, processor.without_profile) {
        (Some(profile), _) => writeln!(report, "    it gets the profile {}", profile.name.value),
        (None, Otherwise::Serve) => {
            writeln!(report, "    it gets no profile, and what `processor` says")
        }
        (None, Otherwise::Refuse) => {
            writeln!(report, "    it is refused: without_profile is \"refuse\"")
        }
    }
}
