//! `-check`: reads the configuration as a start would, and reports the rules that apply to each module.
//!
//! Reads both configuration files and what TLS needs, and looks at the modules' files, as the user who serves
//! clients. Opens no socket, runs no code of a module and starts no daemon.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use filter::config::ModuleEntry;
use filter::log::Printable;
use filter::module_rules::ModuleRules;
use nix::unistd::geteuid;

use crate::audit::auditor;
use crate::config;
use crate::policy::Policy;
use crate::sandbox::probe;
use crate::vendor_mechanisms;

/// What `-check` found.
pub struct Report {
    /// Warnings, and what applies to each module.
    pub text: String,
    /// Modules that cannot be loaded: `file:line: option: what was expected`.
    pub faults: Vec<String>,
}

/// Reports on a configuration that is understood.
pub fn check(conf: &Path) -> Result<Report, Box<dyn Error>> {
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
        faults.extend(probe::load_profile(service, &configuration.file).err());
        let processor = &service.processor;
        let policy = Policy::load(service, &configuration.file)?;
        faults.extend(probe::run(service, &policy, &configuration.file).err());
        let findings = policy.examine_modules(service.identity.as_ref());
        faults.extend(findings.faults);
        let Policy {
            rules, warnings, ..
        } = policy;
        for warning in warnings.iter().chain(&findings.remarks) {
            writeln!(report, "warning: {warning}")?;
        }
        writeln!(report, "service {}: {}", service.name, rules.file.display())?;
        for (name, effect) in processor.compatibility.effects() {
            writeln!(report, "  compatibility {name}: {effect}")?;
        }
        let is_root = geteuid().is_root() && service.identity.is_none();
        for step in processor.sandbox.describe(is_root) {
            writeln!(report, "  sandbox: {step}")?;
        }
        for entry in &rules.modules {
            let (alias, path) = (Printable(&entry.alias_text), entry.path.display());
            let ModuleEntry { line, .. } = entry;
            writeln!(
                report,
                "  {}:{line}: {}: '{alias}' -> '{path}'",
                rules.file.display(),
                rules.modules_option
            )?;
            write!(report, "{}", ModuleRules::new(&rules, &entry.alias_text))?;
        }
    }
    Ok(Report {
        text: report,
        faults,
    })
}
