//! Reads filter.conf into typed rules.
//!
//! The daemon loads the file at start and at reload. [`crate::module_rules`] selects the rules that apply to the module
//! a client asks for, and [`Rules::module`] finds that module's library. A file with anything that is not understood is
//! refused, so that every rule that is written applies.

mod announcement;
mod checker;
mod option_types;
mod options;
mod requirements;
pub mod syntax;
#[cfg(test)]
mod tests;

use crate::actions::{Row, WrappingKey};
use crate::compatibility::Compatibility;
use crate::parameter_rules::Requirement;
use crate::regexp::{self, Regexp};
use checker::Checker;
use config_file::Error;
use options::{Options, Reader};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xdr::{Function, MechanismType};

pub use option_types::{Operation, PADDING_KINDS};
pub use options::OPTIONS;

/// What filter.conf says.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `modules`: which names a client may ask for, and what they stand for. Not empty.
    pub modules: Vec<ModuleEntry>,
    /// The name of the option that lists the modules, for messages.
    pub modules_option: &'static str,
    /// `debug`: how much the filter logs, from 0 to 3. Default 0.
    pub debug: u8,
    /// `debug` is below 0: not even the lines at the start of a worker are logged.
    pub silent: bool,
    /// `log_subchannel`: the subchannel of the filter's messages, by which loggers can select them. Default "", no
    /// subchannel.
    pub log_subchannel: String,
    /// `forbidden_mechanisms`: mechanisms that are refused. Default none.
    pub forbidden_mechanisms: Vec<Rule<Vec<Lined<MechanismType>>>>,
    /// `allowed_labels`: only objects whose CKA_LABEL matches can be used. Default all can.
    pub allowed_labels: Vec<Rule<Vec<Lined<Regexp>>>>,
    /// `allowed_ids`: the same for CKA_ID, in lower-case hexadecimal.
    pub allowed_ids: Vec<Rule<Vec<Lined<Regexp>>>>,
    /// `forbidden_functions`: functions that are refused. Default none.
    pub forbidden_functions: Vec<Rule<Vec<Lined<Function>>>>,
    /// `enforce_ro_sessions`: sessions are read-only. Default no.
    pub enforce_ro_sessions: Vec<Rule<bool>>,
    /// `forbid_admin_operations`: no security officer, no initialisation. Default no.
    pub forbid_admin_operations: Vec<Rule<bool>>,
    /// `remove_padding_oracles`: operations for which mechanisms with padding are refused.
    pub remove_padding_oracles: Vec<Rule<Vec<Lined<&'static [Operation]>>>>,
    /// `mechanism_parameters`: requirements on the fields of mechanism parameters and on attributes.
    pub mechanism_parameters: Vec<Rule<Vec<Lined<Requirement>>>>,
    /// `filter_actions_pre`: actions before all checks.
    pub filter_actions_pre: Vec<Rule<Chain>>,
    /// `filter_actions_post`: actions after all checks.
    pub filter_actions_post: Vec<Rule<Chain>>,
    /// `wrapping_format_key`, for the action `wrapping_format_patch`.
    pub wrapping_format_key: Option<Secret>,
    /// The switches for the original's behaviour.
    pub compatibility: Compatibility,
    /// Warnings about what is accepted but probably a mistake: `file:line: option: text`.
    pub warnings: Vec<String>,
    /// The file.
    pub file: PathBuf,
}

/// One pair of `modules`.
#[derive(Clone, Debug)]
pub struct ModuleEntry {
    /// Matches the names a client may ask for.
    pub alias: Regexp,
    /// The pattern as it is written, with its escapes resolved.
    pub alias_text: Vec<u8>,
    /// The PKCS#11 library, exactly as it is passed to dlopen.
    pub path: PathBuf,
    /// The line of the entry.
    pub line: u32,
}

impl ModuleEntry {
    /// A module that is found by exactly this name. Fails if the name is too long.
    pub fn named(name: &[u8], path: &Path, line: u32) -> Result<ModuleEntry, regexp::Error> {
        Ok(ModuleEntry {
            alias: Regexp::literal(name)?,
            alias_text: name.to_vec(),
            path: path.to_path_buf(),
            line,
        })
    }
}

/// One pair of an option that holds rules.
#[derive(Clone, Debug)]
pub struct Rule<T> {
    /// Matches the names of the modules that the rule applies to.
    pub alias: Regexp,
    /// The pattern as it is written.
    pub alias_text: Vec<u8>,
    /// What the rule says.
    pub value: T,
    /// The line of the rule.
    pub line: u32,
}

/// A member of a list, and its line.
#[derive(Clone, Copy, Debug)]
pub struct Lined<T> {
    /// The member.
    pub value: T,
    /// The line of the member.
    pub line: u32,
}

/// Functions and the actions that are run for them, in the order of the file.
pub type Chain = Vec<Lined<(Function, &'static Row)>>;

/// A key that is never logged and not shown by `Debug`.
#[derive(Clone)]
pub struct Secret(pub(crate) Arc<WrappingKey>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Rules {
    /// Reads and checks a file.
    pub fn load(file: &Path, compatibility: &Compatibility) -> Result<Rules, Error> {
        let reader = Reader::new(compatibility);
        let options = config_file::load(file, &reader)?;
        check(options, reader, file, compatibility)
    }

    /// Reads and checks `text`, which is the content of `file`.
    pub fn parse(text: &[u8], file: &Path, compatibility: &Compatibility) -> Result<Rules, Error> {
        let reader = Reader::new(compatibility);
        let options = config_file::parse(text, &reader).map_err(|fault| fault.in_file(file))?;
        check(options, reader, file, compatibility)
    }

    /// Returns rules that refuse nothing, for these modules, which are listed by an option of another file.
    pub fn unrestricted(modules: Vec<ModuleEntry>, option: &'static str, file: &Path) -> Rules {
        Rules {
            modules,
            modules_option: option,
            debug: 0,
            silent: true,
            log_subchannel: String::new(),
            forbidden_mechanisms: Vec::new(),
            allowed_labels: Vec::new(),
            allowed_ids: Vec::new(),
            forbidden_functions: Vec::new(),
            enforce_ro_sessions: Vec::new(),
            forbid_admin_operations: Vec::new(),
            remove_padding_oracles: Vec::new(),
            mechanism_parameters: Vec::new(),
            filter_actions_pre: Vec::new(),
            filter_actions_post: Vec::new(),
            wrapping_format_key: None,
            compatibility: Compatibility::default(),
            warnings: Vec::new(),
            file: file.to_path_buf(),
        }
    }

    /// Returns the entry for the module name that a client asks for: the first whose alias matches.
    ///
    /// A name with a control character never matches: it could forge log lines.
    pub fn module(&self, requested: &[u8]) -> Option<&ModuleEntry> {
        if requested.iter().any(|byte| *byte < 0x20) {
            return None;
        }
        self.modules
            .iter()
            .find(|entry| entry.alias.is_match(requested))
    }
}

fn check(
    options: Options,
    reader: Reader,
    file: &Path,
    compatibility: &Compatibility,
) -> Result<Rules, Error> {
    Checker::new(file, reader.remarks())
        .rules(options, compatibility)
        .map_err(|fault| fault.in_file(file))
}
