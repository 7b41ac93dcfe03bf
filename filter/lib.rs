//! What may pass: the rules of filter.conf in front of a PKCS#11 module.
//!
//! The file becomes [`Rules`] in one direction only: `genlex` cuts it into tokens, `syntax` makes
//! values of them, `source` gives those types and places, `config` checks them. `genlex` and `source`
//! serve the daemon's own configuration as well. Calls come from the worker's gateway, in the host's
//! representation, to [`Filter`], which hands on to the module what it lets pass.

#![forbid(unsafe_code)]

pub mod actions;
pub mod attributes;
pub mod config;
pub mod genlex;
pub mod log;
pub mod patches;
pub mod refusal;
pub mod regexp;
pub mod source;
pub mod syntax;

use std::sync::Arc;

use xdr::{Call, Cryptoki, Reply};

pub use config::{ModuleEntry, Rules};

/// The rules of one connection in front of the module it loaded.
///
/// This version knows one rule, `modules`, which was decided before the module was loaded: every
/// call passes. Rules that would refuse some are themselves refused when the file is read.
pub struct Filter<N> {
    next: N,
}

impl<N: Cryptoki> Filter<N> {
    /// Puts the rules in front of `next`, which the client asked for as `requested`.
    pub fn new(rules: &Arc<Rules>, requested: &[u8], entry: &ModuleEntry, next: N) -> Filter<N> {
        let (name, path) = (log::Printable(requested), entry.path.display());
        log::debug(
            1,
            rules.debug,
            format_args!("Aliasing requested '{name}' -> '{path}'"),
        );
        Filter { next }
    }
}

impl<N: Cryptoki> Cryptoki for Filter<N> {
    fn call(&self, call: Call<'_>) -> Reply {
        self.next.call(call)
    }
}
