//! Loads what a reload replaces: the filter rules of a service and its TLS keys and certificates.
//!
//! The controller loads it at start and at SIGHUP, as root; workers inherit it when they are forked.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use filter::Rules;
use filter::config::ModuleEntry;
use filter::log::Printable;

use crate::config::rule_source::{Libnames, RuleSource};
use crate::config::{Identity, Service};
use crate::module_file;
use crate::tls::acceptor::Acceptor;
use crate::tls::builder;

/// A service's rules, and its TLS keys and certificates.
pub struct Policy {
    /// The rules of the filter.
    pub rules: Arc<Rules>,
    /// The TLS acceptor; none without TLS.
    pub tls: Option<Arc<Acceptor>>,
    /// What is accepted but probably a mistake: `file:line: option: text`.
    pub warnings: Vec<String>,
    /// The version of the filter file that was read, or of the one before, if it was edited meanwhile.
    pub filter_version: Option<FileVersion>,
    /// The root directory of workers, where modules are looked for.
    root: Option<PathBuf>,
}

/// What tells one version of a file from another: device, inode, size, and when content and inode were
/// changed, in seconds and nanoseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileVersion([i128; 7]);

impl FileVersion {
    /// The version of a file that is there now.
    pub fn of(path: &Path) -> Option<FileVersion> {
        let found = path.metadata().ok()?;
        Some(FileVersion([
            found.dev().into(),
            found.ino().into(),
            found.size().into(),
            found.mtime().into(),
            found.mtime_nsec().into(),
            found.ctime().into(),
            found.ctime_nsec().into(),
        ]))
    }
}

impl Policy {
    /// Reads the files that the configuration, in the file `conf`, names.
    pub fn load(service: &Service, conf: &Path) -> Result<Policy, config_file::Error> {
        let processor = &service.processor;
        let filter_version = processor.rules.filter_file().and_then(FileVersion::of);
        let rules = load_rules(service, conf)?;
        let mut warnings = rules.warnings.clone();
        // Settings that are not in use have to be valid nonetheless, as in the original.
        let tls = processor
            .tls
            .as_ref()
            .map(|config| builder::load(config, processor.protocol, conf))
            .transpose()?;
        let tls = tls.filter(|_| processor.use_tls);
        warnings.extend(
            tls.iter()
                .flat_map(|acceptor| acceptor.warnings.iter().cloned()),
        );
        Ok(Policy {
            rules: Arc::new(rules),
            tls: tls.map(Arc::new),
            warnings,
            filter_version,
            root: processor.sandbox.root.clone(),
        })
    }

    /// Reads the rules anew. The TLS keys and certificates stay.
    pub fn with_new_rules(
        &self,
        service: &Service,
        conf: &Path,
    ) -> Result<Policy, config_file::Error> {
        let file = service.processor.rules.filter_file();
        let filter_version = file.and_then(FileVersion::of);
        let rules = load_rules(service, conf)?;
        Ok(Policy {
            filter_version,
            warnings: rules.warnings.clone(),
            rules: Arc::new(rules),
            tls: self.tls.clone(),
            root: self.root.clone(),
        })
    }

    /// Logs what is accepted but probably a mistake. A missing module is one of these: it may be
    /// installed later.
    pub fn report_warnings(&self) {
        report_warnings(&self.warnings);
        let findings = self.examine_modules(None);
        report_warnings(&findings.faults);
        report_warnings(&findings.remarks);
    }

    /// Looks at the files of the modules, as this process and, if it is given, as the user who loads them. The latter
    /// takes a process of its own.
    pub fn examine_modules(&self, user: Option<&Identity>) -> ModuleFindings {
        let Policy { rules, root, .. } = self;
        let mut findings = ModuleFindings::default();
        for ModuleEntry { path, line, .. } in &rules.modules {
            // A name without a slash is looked for by the loader, in places of its own.
            if !path.as_os_str().as_bytes().contains(&b'/') {
                continue;
            }
            let below = path.strip_prefix("/").unwrap_or(path);
            let found = &root
                .as_ref()
                .map_or_else(|| path.clone(), |root| root.join(below));
            let (file, option, shown) =
                (rules.file.display(), rules.modules_option, path.display());
            let tell = |text: &str| format!("{file}:{line}: {option}: {shown}: {text}");
            let examined = module_file::examine(found).and_then(|remark| {
                user.map_or(Ok(()), |user| module_file::readable_by(user, found))?;
                Ok(remark)
            });
            match examined {
                Ok(remark) => findings.remarks.extend(remark.map(tell)),
                Err(fault) => findings.faults.push(tell(&fault)),
            }
        }
        findings
    }
}

/// The rules of a service, from its filter file if it has one. Each module that has a section in the
/// configuration has to be there.
pub fn load_rules(service: &Service, conf: &Path) -> Result<Rules, config_file::Error> {
    let processor = &service.processor;
    let rules = match &processor.rules {
        RuleSource::FilterFile(file) => Rules::load(file, &processor.compatibility)?,
        RuleSource::Libnames(libnames) => unfiltered(libnames, conf)?,
    };
    for module in &processor.modules {
        if rules.module(module.alias.as_bytes()).is_none() {
            let text = format!("{} has no module of this name", rules.file.display());
            return Err(module.place.fault(text).in_file(conf));
        }
    }
    Ok(rules)
}

/// Rules that refuse nothing, for the modules of `libnames`.
fn unfiltered(libnames: &Libnames, conf: &Path) -> Result<Rules, config_file::Error> {
    let fault = |text: String| libnames.place.fault(text).in_file(conf);
    let line = libnames.place.line;
    // The first module that matches a name is taken; here the last one counts.
    let entries = libnames.entries.iter().rev();
    let modules = entries.map(|(name, path)| {
        ModuleEntry::named(name.as_bytes(), path, line)
            .map_err(|error| fault(format!("`{}`: {error}", Printable(name.as_bytes()))))
    });
    let modules = modules.collect::<Result<_, _>>()?;
    let mut rules = Rules::unrestricted(modules, "libnames", conf);
    let text = "there is no filter: every call of a client reaches the module";
    rules.warnings.push(fault(text.into()).to_string());
    Ok(rules)
}

/// Logs the warnings about a configuration file.
pub fn report_warnings(warnings: &[String]) {
    for warning in warnings {
        log::warn!("{warning}");
    }
}

/// What the files of modules tell, each as `file:line: option: text`.
#[derive(Default)]
pub struct ModuleFindings {
    /// Why modules cannot be loaded, as far as can be told without running them.
    pub faults: Vec<String>,
    /// What is probably a mistake.
    pub remarks: Vec<String>,
}
