//! `-check`: reads both configuration files and what TLS needs, looks at the modules they name, and tells what the
//! rules come to. Opens no socket, runs no code of a module and starts nothing.

use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use filter::Rules;
use filter::config::ModuleEntry;
use filter::log::Printable;
use filter::rules::ModuleRules;

use crate::config;
use crate::policy::Policy;

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

/// The modules of `rules` that cannot be loaded, as far as can be told without running them:
/// `file:line: option: what was expected`.
pub(crate) fn missing_modules(rules: &Rules) -> impl Iterator<Item = String> {
    rules.modules.iter().filter_map(|entry| {
        let ModuleEntry { path, line, .. } = entry;
        let fault = readable(path).err()?;
        let (file, path) = (rules.file.display(), path.display());
        Some(format!("{file}:{line}: modules: {path}: {fault}"))
    })
}

/// A name without a slash is looked for by the loader, in places of its own.
fn readable(module: &Path) -> Result<(), String> {
    if !module.as_os_str().as_bytes().contains(&b'/') {
        return Ok(());
    }
    let unreadable = |error| format!("cannot be read: {error}");
    // Asked first, since to open a pipe would wait for its writer.
    if !fs::metadata(module).map_err(unreadable)?.is_file() {
        return Err("expected the file of a library".to_owned());
    }
    File::open(module).map_err(unreadable).map(drop)
}
