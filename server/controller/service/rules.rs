//! Loads the rules, keys and certificates of a service again, at SIGHUP and when a file was edited.
//!
//! Clients that connect afterwards get them. If a file is invalid, the service keeps what it has.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use filter::Rules;

use super::RunningService;
use crate::controller::workers::Workers;
use crate::logging::{Severity, log};
use crate::policy::{FileVersion, Policy};

impl RunningService {
    /// Loads the filter files for new clients, after one of them was edited. If one is invalid, the old rules stay in
    /// force.
    pub fn load_rules(&mut self, conf: &Path, workers: &Workers) {
        match self.policy.with_new_rules(&self.settings, conf) {
            Ok(policy) => self.apply(policy, workers),
            Err(error) => log(
                Severity::Err,
                format_args!(
                    "the edited filter file is not used, the old rules stay in force: {error}"
                ),
            ),
        }
    }

    /// Loads the filter files and the TLS keys and certificates again, for new clients. If any of them is invalid, all
    /// old ones stay in force.
    pub fn reload(&mut self, conf: &Path, workers: &Workers) -> Result<(), config_file::Error> {
        let policy = Policy::load(&self.settings, conf).inspect_err(|error| {
            log(
                Severity::Err,
                format_args!(
                    "reload failed, the old filter rules and TLS keys stay in force: {error}"
                ),
            );
        })?;
        self.apply(policy, workers);
        if self.policy.tls.is_some() {
            let name = &self.settings.name;
            log(
                Severity::Notice,
                format_args!("{name}: TLS keys and certificates loaded"),
            );
        }
        Ok(())
    }

    /// Applies another policy to new clients. Connected clients keep theirs.
    fn apply(&mut self, policy: Policy, workers: &Workers) {
        policy.report_warnings();
        self.policy = policy;
        let name = &self.settings.name;
        log(
            Severity::Notice,
            format_args!("{name}: filter configuration loaded"),
        );
        self.end_idle(workers);
    }

    /// Returns the service's name with the rules in force, and with the own rules of each profile that has some.
    pub fn rules(&self) -> impl Iterator<Item = (String, Arc<Rules>)> {
        let named = |rules: &Arc<Rules>| (self.settings.name.clone(), rules.clone());
        self.policy.all_rules().map(named)
    }

    /// Its filter files and those of its profiles, and the versions of them that are in force.
    pub fn filter_files(&self) -> &[(PathBuf, Option<FileVersion>)] {
        &self.policy.filter_files
    }
}
