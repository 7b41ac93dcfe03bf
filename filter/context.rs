//! Holds what checks and actions need while they judge one call of a client.
//!
//! The engine makes a [`Context`] for each call and drops it afterwards. It has the rules and the state of the
//! connection, reads the module's objects, and writes log lines with the function and the alias of the call. It decides
//! nothing.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use xdr::{Call, CkRv, Cryptoki, Function, NullPlaces, Reply};

use crate::actions::{Verdict, WrappingKey};
use crate::compatibility::Compatibility;
use crate::log::{self, Printable};
use crate::module_rules::{ModuleRules, Source};
use crate::object_reader::ObjectReader;
use crate::replies;

/// What the checks and actions on one call may use.
pub struct Context<'a> {
    /// The module. Calls to it bypass the filter.
    pub backend: &'a dyn Cryptoki,
    /// Reads the module's objects.
    pub objects: ObjectReader<'a>,
    /// The function that is called.
    pub function: Function,
    /// Which of the client's pointers to results are NULL.
    pub nulls: NullPlaces,
    /// The name of the module that the client asked for.
    pub module: &'a [u8],
    /// The rules for that module.
    pub rules: &'a ModuleRules,
    /// Whether each key has one usage only, for the rest of the connection.
    pub segregation: &'a AtomicBool,
    /// The option `wrapping_format_key`.
    pub wrapping_key: Option<&'a WrappingKey>,
    /// The switches that bring back the original's behaviour.
    pub compatibility: &'a Compatibility,
    /// The option `debug`, for `filter::log`.
    pub debug: u8,
}

impl Context<'_> {
    /// Executes the client's call, possibly changed. Where the client's pointer to a result is NULL, the module gets
    /// NULL.
    pub fn execute(&self, call: Call<'_>) -> Reply {
        self.backend.call_with_nulls(call, self.nulls)
    }

    /// Whether each key has one usage only.
    pub fn is_segregated(&self) -> bool {
        self.segregation.load(Ordering::Relaxed)
    }

    /// Refuses the call with this CK_RV, for an action, and logs the reason at debug level 1.
    pub fn refuse(&self, rv: CkRv, reason: fmt::Arguments<'_>) -> Verdict {
        let (name, module) = (self.function.name(), Printable(self.module));
        self.log(format_args!(
            "{name}: refused with {rv} for alias '{module}': {reason}"
        ));
        Verdict::Refuse(replies::refused(self.function, rv))
    }

    /// Logs at debug level 1.
    pub fn log(&self, text: fmt::Arguments<'_>) {
        log::debug(1, self.debug, text);
    }

    /// Logs with the function and the alias.
    pub(crate) fn log_call(&self, level: u8, text: fmt::Arguments<'_>) {
        let (function, alias) = (self.function.name(), Printable(self.module));
        log::debug(
            level,
            self.debug,
            format_args!("{function}: {text} for alias '{alias}'"),
        );
    }

    /// Logs at debug level 1, with the function, the alias and the rule.
    pub(crate) fn log_rule(&self, Source { option, line }: Source, text: fmt::Arguments<'_>) {
        let (function, alias) = (self.function.name(), Printable(self.module));
        let file = self.rules.file.display();
        log::debug(
            1,
            self.debug,
            format_args!("{function}: {text} for alias '{alias}' ({file}:{line}: {option})"),
        );
    }
}
