//! `-check`: reads the configuration as a start would, and reports the rules that apply to each module.
//!
//! Reads both configuration files and what TLS needs, and sees whether the modules can be read. Opens no
//! socket, runs no code of a module and starts nothing.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use filter::config::ModuleEntry;
use filter::log::Printable;
use filter::module_rules::ModuleRules;

use crate::config;
use crate::policy::{Policy, missing_modules};
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
    let configuration = config::load(conf)?;
    vendor_mechanisms::install(configuration.mechanisms_file.as_deref())?;
    let mut report = String::new();
    let mut faults = Vec::new();
    for warning in &configuration.warnings {
        writeln!(report, "warning: {warning}")?;
    }
    for service in &configuration.services {
        let processor = &service.processor;
        let Policy {
            rules, warnings, ..
        } = Policy::load(service, &configuration.file)?;
        faults.extend(missing_modules(&rules));
        for warning in &warnings {
            writeln!(report, "warning: {warning}")?;
        }
        writeln!(report, "service {}: {}", service.name, rules.file.display())?;
        for (name, effect) in processor.compatibility.effects() {
            writeln!(report, "  compatibility {name}: {effect}")?;
        }
        for entry in &rules.modules {
            let (alias, path) = (Printable(&entry.alias_text), entry.path.display());
            let ModuleEntry { line, .. } = entry;
            writeln!(
                report,
                "  {}:{line}: modules: '{alias}' -> '{path}'",
                rules.file.display()
            )?;
            write!(report, "{}", ModuleRules::new(&rules, &entry.alias_text))?;
        }
    }
    Ok(Report {
        text: report,
        faults,
    })
}
