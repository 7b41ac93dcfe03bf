//! Checks the options of filter.conf and turns them into rules.
//!
//! [`Options`] come from `options`; [`Rules`] go to the daemon, with warnings about what is accepted
//! but probably a mistake. The first error ends the check.

use super::option_types::{FunctionName, MechanismName, PaddingKind, Pattern, Text};
use super::options::{Couple, Options, PerModule, Steps};
use super::{Chain, Lined, ModuleEntry, Rule, Rules, Secret, requirements};
use crate::actions::{Row, WrappingKey};
use crate::compatibility::{Compatibility, Switch};
use crate::log;
use crate::regexp::Regexp;
use config_file::{At, Fault, Place};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;
use xdr::Function;

/// The action that needs `wrapping_format_key`.
const KEYED: &str = "wrapping_format_patch";

/// The example key in the files of the original's package, which is public.
const SAMPLE_KEY: &str = "00112233445566778899aabbccddeeff";

/// Checks a file and collects the warnings.
pub(super) struct Checker<'a> {
    file: &'a Path,
    warnings: Vec<String>,
}
impl<'a> Checker<'a> {
    /// Makes a checker that starts with these warnings.
    pub(super) fn new(file: &'a Path, remarks: Vec<Fault>) -> Checker<'a> {
        let mut checker = Checker {
            file,
            warnings: Vec::new(),
        };
        remarks.into_iter().for_each(|fault| checker.warn(fault));
        checker
    }

    fn warn(&mut self, fault: Fault) {
        self.warnings.push(fault.in_file(self.file).to_string());
    }

    pub(super) fn rules(
        mut self,
        options: Options,
        compatibility: &Compatibility,
    ) -> Result<Rules, Fault> {
        let log_subchannel = match options.log_subchannel {
            Some(At { value, place }) => {
                String::from_utf8(value.0).map_err(|_| place.fault("expected text in UTF-8"))?
            }
            None => String::new(),
        };
        let level = options.debug.as_ref().map_or(0, |at| at.value);
        let debug = u8::try_from(level.clamp(0, 3)).unwrap_or(3);
        if let Some(at) = options.debug.filter(|at| at.value > 3) {
            self.warn(at.fault("expected 3 or less; using 3"));
        }
        let modules = self.modules(options.modules)?;
        let forbidden_mechanisms =
            self.per_module(options.forbidden_mechanisms, &modules, |_, list| {
                Ok(list
                    .into_iter()
                    .map(lined(|name: MechanismName| name.0))
                    .collect())
            })?;
        let allowed_labels =
            self.per_module(options.allowed_labels, &modules, Checker::patterns)?;
        let allowed_ids = self.per_module(options.allowed_ids, &modules, Checker::identifiers)?;
        let forbidden_functions =
            self.per_module(options.forbidden_functions, &modules, Checker::functions)?;
        let enforce_ro_sessions =
            self.per_module(options.enforce_ro_sessions, &modules, |_, choice| {
                Ok(choice.0)
            })?;
        let forbid_admin_operations =
            self.per_module(options.forbid_admin_operations, &modules, |_, choice| {
                Ok(choice.0)
            })?;
        let remove_padding_oracles =
            self.per_module(options.remove_padding_oracles, &modules, |_, list| {
                Ok(list
                    .into_iter()
                    .map(lined(|kind: PaddingKind| kind.0))
                    .collect())
            })?;
        let mechanism_parameters =
            self.per_module(options.mechanism_parameters, &modules, |_, rows| {
                rows.into_iter().map(requirements::requirement).collect()
            })?;
        let unfit = compatibility.has(Switch::UnfitActions);
        let filter_actions_pre =
            self.per_module(options.filter_actions_pre, &modules, |checker, list| {
                checker.actions(list, unfit)
            })?;
        let filter_actions_post =
            self.per_module(options.filter_actions_post, &modules, |checker, list| {
                checker.actions(list, unfit)
            })?;
        let before = filter_actions_pre.iter().flat_map(|rule| &rule.value);
        for step in before.filter(|step| step.value.1.makes_the_call) {
            let (function, row) = step.value;
            let place = Place {
                line: step.line,
                option: "filter_actions_pre".into(),
            };
            self.warn(place.fault(format!(
                "action `{}` makes the call of {} itself, so that no other rule applies to it: write it in \
                 filter_actions_post",
                row.name,
                function.name()
            )));
        }
        let chains = filter_actions_pre.iter().chain(&filter_actions_post);
        let user = chains
            .flat_map(|rule| &rule.value)
            .find(|step| step.value.1.name == KEYED);
        let wrapping_format_key = self.key(options.wrapping_format_key, user)?;
        Ok(Rules {
            modules,
            modules_option: "modules",
            debug,
            silent: level < 0,
            log_subchannel,
            forbidden_mechanisms,
            allowed_labels,
            allowed_ids,
            forbidden_functions,
            enforce_ro_sessions,
            forbid_admin_operations,
            remove_padding_oracles,
            mechanism_parameters,
            filter_actions_pre,
            filter_actions_post,
            wrapping_format_key,
            compatibility: compatibility.clone(),
            warnings: self.warnings,
            file: self.file.to_path_buf(),
        })
    }

    fn modules(&mut self, option: At<Vec<Couple>>) -> Result<Vec<ModuleEntry>, Fault> {
        if option.value.is_empty() {
            return Err(option.fault("expected at least one module"));
        }
        let mut modules: Vec<ModuleEntry> = Vec::new();
        for At {
            value: (alias, path),
            place,
        } in option.value
        {
            self.warn_of(&alias);
            if let Some(earlier) = modules.iter().find(|entry| entry.alias_text == alias.text) {
                let line = earlier.line;
                self.warn(place.fault(format!("never used: line {line} has the same module name")));
            }
            if path.value.0.is_empty() || path.value.0.contains(&0) {
                return Err(path.fault("expected the path of a PKCS#11 library"));
            }
            modules.push(ModuleEntry {
                alias: alias.regexp,
                alias_text: alias.text,
                path: OsString::from_vec(path.value.0).into(),
                line: place.line,
            });
        }
        Ok(modules)
    }

    /// Converts the rules of an option. A rule whose pattern matches no alias is refused as a misspelling.
    fn per_module<T, U>(
        &mut self,
        option: PerModule<T>,
        modules: &[ModuleEntry],
        mut convert: impl FnMut(&mut Self, T) -> Result<U, Fault>,
    ) -> Result<Vec<Rule<U>>, Fault> {
        let mut rules = Vec::new();
        for At {
            value: (alias, value),
            place,
        } in option.map_or(Vec::new(), |at| at.value)
        {
            self.warn_of(&alias);
            if !modules
                .iter()
                .any(|entry| alias.regexp.applies(&entry.alias_text))
            {
                let message = format!(
                    "expected a pattern that matches a name in `modules`; `{}` matches none",
                    log::Printable(&alias.text)
                );
                return Err(alias.place.fault(message));
            }
            let value = convert(self, value)?;
            let Pattern { regexp, text, .. } = alias;
            rules.push(Rule {
                alias: regexp,
                alias_text: text,
                value,
                line: place.line,
            });
        }
        Ok(rules)
    }

    fn warn_of(&mut self, pattern: &Pattern) {
        for warning in pattern.regexp.warnings() {
            self.warn(pattern.place.fault(*warning));
        }
    }

    fn patterns(&mut self, patterns: Vec<Pattern>) -> Result<Vec<Lined<Regexp>>, Fault> {
        patterns.iter().for_each(|pattern| self.warn_of(pattern));
        let member = |pattern: Pattern| Lined {
            value: pattern.regexp,
            line: pattern.place.line,
        };
        Ok(patterns.into_iter().map(member).collect())
    }

    fn identifiers(&mut self, patterns: Vec<Pattern>) -> Result<Vec<Lined<Regexp>>, Fault> {
        for pattern in patterns
            .iter()
            .filter(|pattern| pattern.regexp.has_capital())
        {
            self.warn(pattern.place.fault(
                "identifiers are compared in lower-case hexadecimal, so a capital letter matches nothing",
            ));
        }
        self.patterns(patterns)
    }

    fn functions(
        &mut self,
        functions: Vec<At<FunctionName>>,
    ) -> Result<Vec<Lined<Function>>, Fault> {
        for at in functions
            .iter()
            .filter(|at| at.value.0 == Function::C_LoadModule)
        {
            self.warn(at.fault("has no effect: no rule applies before a module is loaded"));
        }
        Ok(functions
            .into_iter()
            .map(lined(|name: FunctionName| name.0))
            .collect())
    }

    fn actions(&mut self, steps: Steps, unfit_is_a_warning: bool) -> Result<Chain, Fault> {
        let mut chain: Vec<Lined<(Function, &'static Row)>> = Vec::new();
        for At {
            value: (FunctionName(function), action),
            place,
        } in steps
        {
            let row = action.value.0;
            if function == Function::C_LoadModule {
                self.warn(place.fault("never runs: no rule applies before a module is loaded"));
            } else if !(row.fits)(function) {
                let message = format!("action `{}` has no effect on {}", row.name, function.name());
                let fault = action.fault(message);
                if !unfit_is_a_warning {
                    return Err(fault);
                }
                self.warn(fault);
                continue;
            }
            // Two that make the call are in the original's own file, on C_UnwrapKey.
            let mut before = chain.iter().filter(|_| !row.makes_the_call);
            let decides = before.find(|it| {
                let (earlier, row) = it.value;
                let runs_here = earlier == function || earlier == function.older();
                runs_here && row.makes_the_call
            });
            if let Some(Lined { value, line }) = decides {
                let (earlier, function) = (value.1.name, function.name());
                self.warn(action.fault(format!(
                    "action `{}` never runs on {function}: `{earlier}` in line {line} makes the call itself",
                    row.name
                )));
            }
            chain.push(Lined {
                value: (function, row),
                line: place.line,
            });
        }
        Ok(chain)
    }

    fn key(
        &mut self,
        key: Option<At<Text>>,
        user: Option<&Lined<(Function, &'static Row)>>,
    ) -> Result<Option<Secret>, Fault> {
        const EXPECTED: &str = "expected 32 hexadecimal digits: write wrapping_format_key = \"...\" with what \
                                `openssl rand -hex 16` prints";
        match (key, user) {
            (None, None) => Ok(None),
            (None, Some(user)) => {
                let place = Place {
                    line: user.line,
                    option: "wrapping_format_key".into(),
                };
                let message = format!("{EXPECTED}; the action {KEYED} in this line needs the key");
                Err(place.fault(message))
            }
            (Some(key), None) => {
                self.warn(key.fault(format!("has no effect without the action {KEYED}")));
                Ok(None)
            }
            (Some(key), Some(_)) => {
                let text = std::str::from_utf8(&key.value.0).unwrap_or("");
                let secret = WrappingKey::from_hex(text).ok_or_else(|| key.fault(EXPECTED))?;
                if text.eq_ignore_ascii_case(SAMPLE_KEY) {
                    self.warn(
                        key.fault("is the example key of the documentation, which everybody knows"),
                    );
                }
                Ok(Some(Secret(Arc::new(secret))))
            }
        }
    }
}

/// Converts a member of a list and keeps its line.
fn lined<T, U>(value: impl Fn(T) -> U) -> impl Fn(At<T>) -> Lined<U> {
    move |at| Lined {
        value: value(at.value),
        line: at.place.line,
    }
}
