//! Loads what a reload replaces: the filter rules of a service and its TLS keys and certificates.
//!
//! The controller loads it at start and at SIGHUP, as root; workers inherit it when they are forked.

use std::path::Path;
use std::sync::Arc;

use filter::Rules;

use crate::check;
use crate::config::Service;
use crate::tls::acceptor::Acceptor;

/// A service's rules, and its TLS keys and certificates.
pub struct Policy {
    /// The rules of the filter.
    pub rules: Arc<Rules>,
    /// The TLS acceptor; none without TLS.
    pub tls: Option<Arc<Acceptor>>,
    /// What is accepted but probably a mistake.
    pub warnings: Vec<String>,
}

impl Policy {
    /// Reads the files that the configuration, in the file `conf`, names.
    pub fn load(service: &Service, conf: &Path) -> Result<Policy, config_file::Error> {
        let processor = &service.processor;
        let rules = Rules::load(&processor.filter_config, &processor.compatibility)?;
        let mut warnings = rules.warnings.clone();
        // Settings that are not in use have to be valid nonetheless, as in the original.
        let tls = processor
            .tls
            .as_ref()
            .map(|config| Acceptor::load(config, conf))
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
        })
    }

    /// Logs what is accepted but probably a mistake. A module may still come to be where it is
    /// looked for, so that its absence ends no start.
    pub fn report_warnings(&self) {
        report_warnings(&self.warnings);
        for missing in check::missing_modules(&self.rules) {
            log::warn!("{missing}");
        }
    }
}

/// Logs what a configuration file holds that is accepted but probably a mistake.
pub fn report_warnings(warnings: &[String]) {
    for warning in warnings {
        log::warn!("{warning}");
    }
}
