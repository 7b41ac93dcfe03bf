//! Decides which calls of a client reach the PKCS#11 module, by the rules of filter.conf.
//!
//! `config` reads the file into [`Rules`]; `module_rules` picks those that apply to one module. Calls
//! come from the worker's gateway, in the host's representation, to a [`Filter`], which passes on to
//! the module what the rules allow. `engine` says in which order a call is checked.
//!
//! The crate reads one file, filter.conf, and writes log lines. It opens no socket, loads no module
//! and has no unsafe code.

#![forbid(unsafe_code)]
#![deny(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm
)]
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::wildcard_enum_match_arm
    )
)]

pub mod actions;
pub mod attributes;
mod canonical_template;
mod checks;
pub mod compatibility;
pub mod config;
mod context;
pub mod curves;
mod engine;
pub mod explanation;
pub mod log;
mod mechanism_list;
pub mod module_rules;
pub mod object_reader;
pub mod parameter_rules;
pub mod patches;
pub mod regexp;
pub mod replies;
mod room;
mod search;
pub mod witness;

pub use compatibility::Compatibility;
pub use config::{ModuleEntry, Operation, Rules};
pub use engine::Filter;
pub use witness::Witness;
