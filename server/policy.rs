//! Loads what a reload replaces: the filter rules of a service and its TLS keys and certificates.
//!
//! The controller does this at start and at SIGHUP, as root; workers inherit the result when they are forked.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config_file::At;
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
    /// The rules of those profiles that have a filter file of their own, by position.
    pub profiles: ProfileRules,
    /// The TLS acceptor; `None` without TLS.
    pub tls: Option<Arc<Acceptor>>,
    /// What is accepted but probably a mistake: `file:line: option: text`.
    pub warnings: Vec<String>,
    /// The filter files, each with its version just before it was read.
    pub filter_files: Vec<(PathBuf, Option<FileVersion>)>,
    /// The root directory of workers, below which the paths of modules are looked up.
    root: Option<PathBuf>,
}

/// The rules of each profile of a service; `None` if the profile has those of the service.
pub type ProfileRules = Arc<[Option<Arc<Rules>>]>;

/// The loaded filter files of a service.
struct Loaded {
    rules: Arc<Rules>,
    profiles: ProfileRules,
    files: Vec<(PathBuf, Option<FileVersion>)>,
    warnings: Vec<String>,
}

/// Identifies a version of a file: device, inode, size, and the times when its content and its inode were last changed,
/// each in seconds and nanoseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileVersion([i128; 7]);

impl FileVersion {
    /// Returns the present version of a file, or `None` if there is no such file.
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
    /// Reads the files that the configuration names. `conf` is the configuration file.
    pub fn load(service: &Service, conf: &Path) -> Result<Policy, config_file::Error> {
        let processor = &service.processor;
        let Loaded {
            rules,
            profiles,
            files,
            mut warnings,
        } = load_rules(service, conf)?;
        // The settings of TLS have to be valid even if they are not used, as in the original.
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
            rules,
            profiles,
            tls: tls.map(Arc::new),
            warnings,
            filter_files: files,
            root: processor.sandbox.root.clone(),
        })
    }

    /// Reads the rules again, and keeps the TLS keys and certificates.
    pub fn with_new_rules(
        &self,
        service: &Service,
        conf: &Path,
    ) -> Result<Policy, config_file::Error> {
        let loaded = load_rules(service, conf)?;
        Ok(Policy {
            rules: loaded.rules,
            profiles: loaded.profiles,
            filter_files: loaded.files,
            warnings: loaded.warnings,
            tls: self.tls.clone(),
            root: self.root.clone(),
        })
    }

    /// Returns the rules of the service, then those of profiles with rules of their own.
    pub fn all_rules(&self) -> impl Iterator<Item = &Arc<Rules>> {
        std::iter::once(&self.rules).chain(self.profiles.iter().flatten())
    }

    /// Returns the rules of the profile at this position.
    pub fn rules_of(&self, profile: usize) -> &Arc<Rules> {
        let own = self.profiles.get(profile).and_then(Option::as_ref);
        own.unwrap_or(&self.rules)
    }

    /// Logs what is accepted but probably a mistake. This includes missing modules, which may be installed later.
    pub fn report_warnings(&self) {
        report_warnings(&self.warnings);
        let findings = self.examine_modules(None);
        report_warnings(&findings.faults);
        report_warnings(&findings.remarks);
    }

    /// Examines the files of the modules. If a user is given, also checks, in a child process, that this user can read
    /// them.
    pub fn examine_modules(&self, user: Option<&Identity>) -> ModuleFindings {
        let root = self.root.as_ref();
        let mut findings = ModuleFindings::default();
        let entries = self
            .all_rules()
            .flat_map(|rules| rules.modules.iter().map(move |entry| (rules, entry)));
        for (rules, ModuleEntry { path, line, .. }) in entries {
            // The dynamic loader searches its own directories for a name without a slash.
            if !path.as_os_str().as_bytes().contains(&b'/') {
                continue;
            }
            let below = path.strip_prefix("/").unwrap_or(path);
            let found = &root.map_or_else(|| path.clone(), |root| root.join(below));
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

/// Loads the rules of a service, then those of profiles with rules of their own.
pub fn all_rules(service: &Service, conf: &Path) -> Result<Vec<Arc<Rules>>, config_file::Error> {
    let loaded = load_rules(service, conf)?;
    let own = loaded.profiles.iter().flatten().cloned();
    Ok(std::iter::once(loaded.rules).chain(own).collect())
}

/// Reads the filter files of a service and its profiles, each once. Each module that the configuration names has to be
/// in them.
fn load_rules(service: &Service, conf: &Path) -> Result<Loaded, config_file::Error> {
    let processor = &service.processor;
    let mut files = Vec::new();
    let mut known: Vec<(PathBuf, Arc<Rules>)> = Vec::new();
    let mut warnings = Vec::new();
    let mut load = |path: &PathBuf| -> Result<Arc<Rules>, config_file::Error> {
        if let Some((_, rules)) = known.iter().find(|(known, _)| known == path) {
            return Ok(rules.clone());
        }
        let version = FileVersion::of(path);
        let rules = Arc::new(Rules::load(path, &processor.compatibility)?);
        warnings.extend(rules.warnings.iter().cloned());
        files.push((path.clone(), version));
        known.push((path.clone(), rules.clone()));
        Ok(rules)
    };
    let rules = match &processor.rules {
        RuleSource::FilterFile(file) => load(file)?,
        RuleSource::Libnames(libnames) => Arc::new(unfiltered(libnames, conf)?),
    };
    let mut profiles = Vec::new();
    for profile in &processor.profiles {
        profiles.push(profile.filter_config.as_ref().map(&mut load).transpose()?);
    }
    let own = profiles.iter().flatten();
    for module in &processor.modules {
        let mut all = std::iter::once(&rules).chain(own.clone());
        if !all.any(|rules| rules.module(module.alias.as_bytes()).is_some()) {
            let text = format!("{} has no module of this name", rules.file.display());
            return Err(module.place.fault(text).in_file(conf));
        }
    }
    for (profile, own) in processor.profiles.iter().zip(&profiles) {
        let rules = own.as_ref().unwrap_or(&rules);
        if let Some(At { value, place }) = &profile.modules {
            let is_missing = |name: &&String| rules.module(name.as_bytes()).is_none();
            if let Some(name) = value.iter().find(is_missing) {
                let text = format!("{} has no module `{name}`", rules.file.display());
                return Err(place.fault(text).in_file(conf));
            }
        }
    }
    if matches!(processor.rules, RuleSource::Libnames(_)) {
        warnings.extend(rules.warnings.iter().cloned());
    }
    Ok(Loaded {
        rules,
        profiles: profiles.into(),
        files,
        warnings,
    })
}

/// Makes rules that refuse nothing, for the modules of `libnames`.
fn unfiltered(libnames: &Libnames, conf: &Path) -> Result<Rules, config_file::Error> {
    let fault = |text: String| libnames.place.fault(text).in_file(conf);
    let line = libnames.place.line;
    // In rules the first module of a name counts, and in `libnames` the last one. So the order is reversed.
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

/// Findings about the files of modules, each as `file:line: option: text`.
#[derive(Default)]
pub struct ModuleFindings {
    /// Why modules cannot be loaded, as far as that can be found without running their code.
    pub faults: Vec<String>,
    /// What is probably a mistake.
    pub remarks: Vec<String>,
}
