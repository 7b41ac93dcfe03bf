//! The typed rules, made out of filter.conf.
//!
//! `server` loads them once at start and at reload; [`crate::module_rules`] works out what they come to for
//! the module a client asks for, and the worker asks [`Rules::module`] which library that is. A file
//! that is not understood completely is refused: a rule that is written must hold.

mod option_types;
pub mod syntax;

use crate::actions::{Row, WrappingKey};
use crate::compatibility::{Compatibility, Switch};
use crate::log;
use crate::regexp::Regexp;
use config::{Format, Map, Value};
use config_file::{At, Error, Fault, Place};
pub use option_types::Operation;
use option_types::{ActionName, Choice, FunctionName, MechanismName, PaddingKind, Pattern, Text};
use serde::Deserialize;
use serde::de::Error as _;
use std::cell::RefCell;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use syntax::FilterSyntax;
use xdr::{Function, MechanismType};

/// What filter.conf says.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `modules`: which names a client may ask for, and what they stand for. Not empty.
    pub modules: Vec<ModuleEntry>,
    /// `debug`: how much the filter logs, from 0 to 3. Default 0.
    pub debug: u8,
    /// `debug` is below 0: not even the lines at the start of a worker are logged.
    pub silent: bool,
    /// `log_subchannel`: by which the filter's messages can be told from others when they are
    /// distributed over loggers. Default "", no subchannel.
    pub log_subchannel: String,
    /// `forbidden_mechanisms`: mechanisms that are refused. Default none.
    pub forbidden_mechanisms: Vec<Rule<Vec<Lined<MechanismType>>>>,
    /// `allowed_labels`: only objects whose CKA_LABEL matches can be used. Default all can.
    pub allowed_labels: Vec<Rule<Vec<Lined<Regexp>>>>,
    /// `allowed_ids`: likewise for CKA_ID, in lower-case hexadecimal.
    pub allowed_ids: Vec<Rule<Vec<Lined<Regexp>>>>,
    /// `forbidden_functions`: functions that are refused. Default none.
    pub forbidden_functions: Vec<Rule<Vec<Lined<Function>>>>,
    /// `enforce_ro_sessions`: sessions are read-only. Default no.
    pub enforce_ro_sessions: Vec<Rule<bool>>,
    /// `forbid_admin_operations`: no security officer, no initialisation. Default no.
    pub forbid_admin_operations: Vec<Rule<bool>>,
    /// `remove_padding_oracles`: operations for which mechanisms with padding are refused.
    pub remove_padding_oracles: Vec<Rule<Vec<Lined<&'static [Operation]>>>>,
    /// `filter_actions_pre`: actions before all checks.
    pub filter_actions_pre: Vec<Rule<Chain>>,
    /// `filter_actions_post`: actions behind all checks.
    pub filter_actions_post: Vec<Rule<Chain>>,
    /// `wrapping_format_key`, for the action `wrapping_format_patch`.
    pub wrapping_format_key: Option<Secret>,
    /// What of the original's behaviour was asked for.
    pub compatibility: Compatibility,
    /// What in the file is accepted but probably a mistake: `file:line: option: text`.
    pub warnings: Vec<String>,
    /// The file.
    pub file: PathBuf,
}

/// One couple of `modules`.
#[derive(Clone, Debug)]
pub struct ModuleEntry {
    /// Matches the names a client may ask for.
    pub alias: Regexp,
    /// The same as it is written, its escapes resolved.
    pub alias_text: Vec<u8>,
    /// The PKCS#11 library, literally as given to dlopen.
    pub path: PathBuf,
    /// Where the entry stands.
    pub line: u32,
}

/// One couple of an option that holds rules.
#[derive(Clone, Debug)]
pub struct Rule<T> {
    /// Matches the names of the modules that it is for.
    pub alias: Regexp,
    /// The same as it is written.
    pub alias_text: Vec<u8>,
    /// What the rule says.
    pub value: T,
    /// Where it stands.
    pub line: u32,
}

/// A member of a list, and its line.
#[derive(Clone, Copy, Debug)]
pub struct Lined<T> {
    /// The member.
    pub value: T,
    /// Where it stands.
    pub line: u32,
}

/// Functions and the actions that are run for them, in the order of the file.
pub type Chain = Vec<Lined<(Function, &'static Row)>>;

/// A key that no log line and no `Debug` shows.
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
        let syntax = Syntax::new(compatibility);
        let options = config_file::load(file, &syntax)?;
        syntax.check(options, file, compatibility)
    }

    /// The same for what `file` holds.
    pub fn parse(text: &[u8], file: &Path, compatibility: &Compatibility) -> Result<Rules, Error> {
        let syntax = Syntax::new(compatibility);
        let options = config_file::parse(text, &syntax).map_err(|fault| fault.in_file(file))?;
        syntax.check(options, file, compatibility)
    }

    /// The entry for the module name a client asks for: the first whose alias matches.
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

    /// Logs what a worker begins with: at level 0 where its messages go and how many there are, at
    /// level 3 every option.
    pub fn announce(&self) {
        if self.silent {
            return;
        }
        let subchannel = match self.log_subchannel.as_str() {
            "" => "Netplex log output".to_owned(),
            other => log::Printable(other.as_bytes()).to_string(),
        };
        let say = |level, text: &str| log::debug(level, self.debug, format_args!("{text}"));
        // The level is not known to the original when it logs these two.
        log::debug(0, 0, format_args!("log subchannel of the filter:"));
        log::debug(0, 0, format_args!("    {subchannel}"));
        say(0, "debug level of the filter:");
        say(0, &format!("    {}", self.debug));
        if self.debug < 3 {
            return;
        }
        for (option, lines) in self.described() {
            say(3, &format!("{option}:"));
            lines.iter().for_each(|line| say(3, &format!("    {line}")));
            say(3, "----------------");
        }
    }

    /// Each option with a line for each of its rules, and the aliases that this one is for.
    fn described(&self) -> Vec<(&'static str, Vec<String>)> {
        let shown = |text: &[u8]| log::Printable(text).to_string();
        let modules = self.modules.iter().map(|entry| {
            let (alias, path) = (shown(&entry.alias_text), entry.path.display());
            format!("'{alias}' -> '{path}'")
        });
        let mechanism = |member: &Lined<MechanismType>| log::mechanism(member.value);
        let pattern = |member: &Lined<Regexp>| format!("'{}'", shown(member.value.text()));
        let function = |member: &Lined<Function>| member.value.name().to_owned();
        let action = |member: &Lined<(Function, &'static Row)>| {
            format!("({}, {})", member.value.0.name(), member.value.1.name)
        };
        let kinds = |member: &Lined<&'static [Operation]>| {
            let names: Vec<_> = member.value.iter().map(|kind| kind.name()).collect();
            names.join(", ")
        };
        let switch = |value: &bool| if *value { "yes" } else { "no" }.to_owned();
        vec![
            ("modules", modules.collect()),
            (
                "forbidden_mechanisms",
                self.lines(&self.forbidden_mechanisms, list(mechanism)),
            ),
            (
                "allowed_labels",
                self.lines(&self.allowed_labels, list(pattern)),
            ),
            ("allowed_ids", self.lines(&self.allowed_ids, list(pattern))),
            (
                "forbidden_functions",
                self.lines(&self.forbidden_functions, list(function)),
            ),
            (
                "enforce_ro_sessions",
                self.lines(&self.enforce_ro_sessions, switch),
            ),
            (
                "forbid_admin_operations",
                self.lines(&self.forbid_admin_operations, switch),
            ),
            (
                "remove_padding_oracles",
                self.lines(&self.remove_padding_oracles, list(kinds)),
            ),
            (
                "filter_actions_pre",
                self.lines(&self.filter_actions_pre, list(action)),
            ),
            (
                "filter_actions_post",
                self.lines(&self.filter_actions_post, list(action)),
            ),
        ]
    }

    fn lines<T>(&self, rules: &[Rule<T>], describe: impl Fn(&T) -> String) -> Vec<String> {
        let line = |rule: &Rule<T>| {
            let entries = self
                .modules
                .iter()
                .filter(|entry| rule.alias.applies(&entry.alias_text));
            let aliases: Vec<String> = entries
                .map(|entry| format!("'{}'", log::Printable(&entry.alias_text)))
                .collect();
            format!(
                "'{}' (matches {}): {}",
                log::Printable(&rule.alias_text),
                aliases.join(", "),
                describe(&rule.value)
            )
        };
        rules.iter().map(line).collect()
    }
}

/// Describes a list by its members.
fn list<T>(describe: impl Fn(&T) -> String) -> impl Fn(&Vec<T>) -> String {
    move |members| {
        let members: Vec<String> = members.iter().map(&describe).collect();
        format!("[{}]", members.join(", "))
    }
}

/// The syntax of the file, which remarks on lost backslashes, and sets unknown options aside where
/// that is asked for.
struct Syntax {
    lenient: bool,
    remarks: RefCell<Vec<Fault>>,
}

impl Syntax {
    fn new(compatibility: &Compatibility) -> Syntax {
        let lenient = compatibility.has(Switch::UnknownOptions);
        Syntax {
            lenient,
            remarks: RefCell::default(),
        }
    }

    fn check(
        self,
        options: Options,
        file: &Path,
        compatibility: &Compatibility,
    ) -> Result<Rules, Error> {
        let mut checker = Checker {
            file,
            warnings: Vec::new(),
        };
        self.remarks
            .into_inner()
            .into_iter()
            .for_each(|fault| checker.warn(fault));
        checker
            .rules(options, compatibility)
            .map_err(|fault| fault.in_file(file))
    }
}

impl Format for Syntax {
    fn parse(
        &self,
        uri: Option<&String>,
        text: &str,
    ) -> Result<Map<String, Value>, Box<dyn std::error::Error + Send + Sync>> {
        let mut entries = FilterSyntax.parse(uri, text)?;
        // Of a lost `\(`, `\)` or `\|` the pattern warns.
        for (line, byte) in FilterSyntax::dropped_escapes(text)
            .into_iter()
            .filter(|(_, byte)| !matches!(byte, b'(' | b')' | b'|'))
        {
            let byte = byte.escape_ascii();
            let message =
                format!("`\\{byte}` in quotes is `{byte}` alone; backslashes are written twice");
            self.remarks
                .borrow_mut()
                .push(Fault::in_line(line, message));
        }
        if self.lenient {
            entries.retain(|key, value| {
                let known = OPTIONS.contains(&key.as_str());
                if !known {
                    let option = key.escape_debug().to_string();
                    let place = Place {
                        line: config_file::line_of(value),
                        option,
                    };
                    let message = Fault::unknown_field(key, OPTIONS).to_string();
                    self.remarks
                        .borrow_mut()
                        .push(place.fault(format!("ignored: {message}")));
                }
                known
            });
        }
        Ok(entries)
    }
}

/// The names of the options, as [`Options`] declares them.
const OPTIONS: &[&str] = &[
    "modules",
    "debug",
    "log_subchannel",
    "forbidden_mechanisms",
    "allowed_labels",
    "allowed_ids",
    "forbidden_functions",
    "enforce_ro_sessions",
    "forbid_admin_operations",
    "remove_padding_oracles",
    "filter_actions_pre",
    "filter_actions_post",
    "wrapping_format_key",
];

/// An alias and its library.
type Couple = At<(Pattern, At<Text>)>;

/// Rules for the modules whose names their patterns match.
type PerModule<T> = Option<At<Vec<At<(Pattern, T)>>>>;

/// A chain as it is written.
type Steps = Vec<At<(FunctionName, At<ActionName>)>>;

/// The file as it is written. The order of the fields is the original's order of checks, and so the
/// order in which errors are found.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    modules: At<Vec<Couple>>,
    debug: Option<At<i64>>,
    log_subchannel: Option<At<Text>>,
    forbidden_mechanisms: PerModule<Vec<At<MechanismName>>>,
    allowed_labels: PerModule<Vec<Pattern>>,
    allowed_ids: PerModule<Vec<Pattern>>,
    forbidden_functions: PerModule<Vec<At<FunctionName>>>,
    enforce_ro_sessions: PerModule<Choice>,
    forbid_admin_operations: PerModule<Choice>,
    remove_padding_oracles: PerModule<Vec<At<PaddingKind>>>,
    filter_actions_pre: PerModule<Steps>,
    filter_actions_post: PerModule<Steps>,
    wrapping_format_key: Option<At<Text>>,
}

/// The action that needs `wrapping_format_key`.
const KEYED: &str = "wrapping_format_patch";

/// The key that the files of the original's package show as an example: everybody has it.
const SAMPLE_KEY: &str = "00112233445566778899aabbccddeeff";

/// Turns options into what they mean.
struct Checker<'a> {
    file: &'a Path,
    warnings: Vec<String>,
}

impl Checker<'_> {
    fn warn(&mut self, fault: Fault) {
        self.warnings.push(fault.in_file(self.file).to_string());
    }

    fn rules(mut self, options: Options, compatibility: &Compatibility) -> Result<Rules, Fault> {
        let log_subchannel = match options.log_subchannel {
            Some(At { value, place }) => {
                String::from_utf8(value.0).map_err(|_| place.fault("expected a string of UTF-8"))?
            }
            None => String::new(),
        };
        let level = options.debug.as_ref().map_or(0, |at| at.value);
        let debug = u8::try_from(level.clamp(0, 3)).unwrap_or(3);
        if let Some(at) = options.debug.filter(|at| at.value > 3) {
            self.warn(at.fault("expected 3 or less, taken as 3"));
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
        let unfit = compatibility.has(Switch::UnfitActions);
        let filter_actions_pre =
            self.per_module(options.filter_actions_pre, &modules, |checker, list| {
                checker.actions(list, unfit)
            })?;
        let filter_actions_post =
            self.per_module(options.filter_actions_post, &modules, |checker, list| {
                checker.actions(list, unfit)
            })?;
        let chains = filter_actions_pre.iter().chain(&filter_actions_post);
        let user = chains
            .flat_map(|rule| &rule.value)
            .find(|step| step.value.1.name == KEYED);
        let wrapping_format_key = self.key(options.wrapping_format_key, user)?;
        Ok(Rules {
            modules,
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
                self.warn(place.fault(format!("never used: line {line} has the same alias")));
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

    /// The rules of an option, each for at least one alias: one for none is a misspelling.
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
                    "expected a pattern that matches an alias of `modules`; `{}` matches none",
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
                "a capital letter matches no identifier: they are in lower-case hexadecimal",
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
        let mut chain = Vec::new();
        for At {
            value: (FunctionName(function), action),
            place,
        } in steps
        {
            let row = action.value.0;
            if function == Function::C_LoadModule {
                self.warn(place.fault("never runs: no rule applies before a module is loaded"));
            } else if !row
                .functions
                .is_none_or(|functions| functions.contains(&function))
            {
                let message = format!("`{}` does not know {}", row.name, function.name());
                let fault = action.fault(message);
                if !unfit_is_a_warning {
                    return Err(fault);
                }
                self.warn(fault);
                continue;
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
        const EXPECTED: &str = "expected 32 hexadecimal digits";
        match (key, user) {
            (None, None) => Ok(None),
            (None, Some(user)) => {
                let place = Place {
                    line: user.line,
                    option: "wrapping_format_key".into(),
                };
                Err(place.fault(format!("{EXPECTED}, for the action {KEYED} in this line")))
            }
            (Some(key), None) => {
                self.warn(key.fault(format!("has no effect without the action {KEYED}")));
                Ok(None)
            }
            (Some(key), Some(_)) => {
                let text = std::str::from_utf8(&key.value.0).unwrap_or("");
                let secret = WrappingKey::from_hex(text).ok_or_else(|| key.fault(EXPECTED))?;
                if text.eq_ignore_ascii_case(SAMPLE_KEY) {
                    self.warn(key.fault("is the example of the documentation, which is no secret"));
                }
                Ok(Some(Secret(Arc::new(secret))))
            }
        }
    }
}

/// A member of a list with its line, its value taken out of the type that read it.
fn lined<T, U>(value: impl Fn(T) -> U) -> impl Fn(At<T>) -> Lined<U> {
    move |at| Lined {
        value: value(at.value),
        line: at.place.line,
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Result<Rules, String> {
        with(text, "")
    }

    fn with(text: &str, switches: &str) -> Result<Rules, String> {
        let compatibility = Compatibility::parse(switches).unwrap();
        Rules::parse(text.as_bytes(), Path::new("filter.conf"), &compatibility)
            .map_err(|error| error.to_string())
    }

    const MODULES: &str = "modules = [(\"softhsm\", \"/lib/p11.so\")]\n";

    /// The warnings for an option, in line 2 behind a usable `modules`.
    fn warnings(option: &str) -> Vec<String> {
        rules(&format!("{MODULES}{option}")).unwrap().warnings
    }

    /// The error for an option, in line 2 behind a usable `modules`.
    fn refusal(option: &str) -> String {
        rules(&format!("{MODULES}{option}")).unwrap_err()
    }

    #[test]
    fn reads_modules_debug_and_subchannel() {
        let rules = rules(
            "modules = [(\"soft.*\", \"/a.so\"),\n(other, '/'), (7, \"/c.so\")]\n\
             debug = 2 log_subchannel = filter\nallowed_labels = []",
        )
        .unwrap();
        assert_eq!((rules.debug, rules.log_subchannel.as_str()), (2, "filter"));
        assert_eq!(rules.warnings, [""; 0]);
        let second = &rules.modules[1];
        assert_eq!(
            (second.alias_text.as_slice(), second.line),
            (b"other".as_slice(), 2)
        );
        assert_eq!(rules.module(b"softhsm").unwrap().path, Path::new("/a.so"));
        assert_eq!(rules.module(b"7").unwrap().path, Path::new("/c.so"));
        for unknown in [
            b"sof".as_slice(),
            b"",
            b"other\n",
            b"soft\0",
            b"soft\nx",
            b"OTHER",
        ] {
            assert!(rules.module(unknown).is_none(), "{unknown:?}");
        }
    }

    #[test]
    fn takes_the_first_of_two_entries_for_a_name() {
        let rules = rules("modules = [(a, \"/1\"), (\"a.*\", \"/2\"),\n(a, \"/3\")]").unwrap();
        assert_eq!(rules.module(b"a").unwrap().path, Path::new("/1"));
        assert_eq!(rules.module(b"ab").unwrap().path, Path::new("/2"));
        let warning = "filter.conf:2: modules[2]: never used: line 1 has the same alias";
        assert_eq!(rules.warnings, [warning]);
    }

    #[test]
    fn warns_of_patterns_that_cannot_mean_what_they_say() {
        let told = |option: &str| warnings(option).join("\n");
        assert_eq!(
            told("\nallowed_labels = [(softhsm,\n[\"web\\.x\"])]"),
            "filter.conf:4: `\\.` in quotes is `.` alone; backslashes are written twice"
        );
        assert_eq!(
            told("allowed_labels = [(softhsm, [\"web\\\\.x\", \"\\\"\"])]"),
            ""
        );
        assert_eq!(
            told("allowed_ids = [(softhsm, [\"0a.*\", \"0A.*\"])]"),
            "filter.conf:2: allowed_ids[0][1][1]: a capital letter matches no identifier: they \
             are in lower-case hexadecimal"
        );
        assert_eq!(told("allowed_ids = [(softhsm, [\"[0-9A-Fa-f]+\"])]"), "");
    }

    #[test]
    fn serves_the_empty_name_under_the_empty_alias() {
        let rules = rules("modules = [(\"\", \"/1\")]").unwrap();
        assert!(rules.module(b"").is_some() && rules.module(b"\nx").is_none());
    }

    #[test]
    fn demands_modules() {
        assert_eq!(
            rules("debug = 1").unwrap_err(),
            "filter.conf:1: `modules` is missing"
        );
        let empty = rules("\nmodules = []").unwrap_err();
        assert_eq!(
            empty,
            "filter.conf:2: modules: expected at least one module"
        );
        for (text, expected) in [
            ("modules = x", "1: modules: expected a list, found a string"),
            (
                "modules = [x]",
                "1: modules[0]: expected a tuple of 2 members, found a string",
            ),
            (
                "modules = [(a, b, c)]",
                "1: modules[0]: expected a tuple of 2 members, found 3",
            ),
            (
                "modules = [(a, [b])]",
                "1: modules[0][1]: expected a string, found a list or section",
            ),
            (
                "modules = [(a, 1.5)]",
                "1: modules[0][1]: expected a string, found a number with a point",
            ),
            (
                "modules = [(a, \"\")]",
                "1: modules[0][1]: expected the path of a PKCS#11 library",
            ),
            (
                "modules = [(\"a\\\\\", b)]",
                "1: modules[0][0]: not a usable pattern: a backslash at the end; to match a backslash, write four",
            ),
        ] {
            assert_eq!(rules(text).unwrap_err(), format!("filter.conf:{expected}"));
        }
    }

    #[test]
    fn warns_of_likely_mistakes() {
        let text = "debug = 9 modules = [(\"\\(a\\|b\\)\", \"/1\"), (\"a\\\\|b\", \"/2\")]";
        let warnings = rules(text).unwrap().warnings;
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[0].starts_with("filter.conf:1: debug: "));
        assert!(warnings[1].starts_with("filter.conf:1: modules[0][0]: "));
        assert!(warnings[2].starts_with("filter.conf:1: modules[1][0]: "));
    }

    #[test]
    fn wants_the_pattern_of_every_rule_to_match_an_alias() {
        for rule in [
            "forbidden_mechanisms = [(x, [])]",
            "allowed_labels = [(x, [])]",
            "allowed_ids = [(x, [])]",
            "forbidden_functions = [(x, [])]",
            "enforce_ro_sessions = [(x, no)]",
            "forbid_admin_operations = [(x, no)]",
            "remove_padding_oracles = [(x, [])]",
            "filter_actions_pre = [(x, [])]",
            "filter_actions_post = [(x, [])]",
        ] {
            let option = rule.split(' ').next().unwrap();
            let expected =
                "expected a pattern that matches an alias of `modules`; `x` matches none";
            assert_eq!(
                refusal(rule),
                format!("filter.conf:2: {option}[0][0]: {expected}")
            );
            assert_eq!(warnings(&rule.replace("(x", "(\"sof.*\"")), [""; 0]);
        }
        // The pattern is matched against the alias as it is written.
        let pattern = "modules = [(\"soft.*\", m)] enforce_ro_sessions = ";
        assert!(rules(&format!("{pattern} [(softhsm, yes)]")).is_err());
        assert!(rules(&format!("{pattern} [(\"soft.*\", yes)]")).is_ok());
    }

    #[test]
    fn wants_a_key_exactly_where_the_wrapping_format_is_used() {
        let used = "filter_actions_post = [(\".*\", [\n(C_WrapKey, wrapping_format_patch)])]";
        let key = |text: &str| format!("{used} wrapping_format_key = \"{text}\"");
        assert!(warnings(&key("000102030405060708090a0b0c0d0eFF")).is_empty());
        let sample = warnings(&key("00112233445566778899AABBCCDDEEFF"));
        assert!(sample[0].starts_with("filter.conf:3: wrapping_format_key: is the example"));
        for bad in [
            "",
            "00",
            "000102030405060708090a0b0c0d0e0g",
            &"0".repeat(33),
        ] {
            let message = refusal(&key(bad));
            assert_eq!(
                message,
                "filter.conf:3: wrapping_format_key: expected 32 hexadecimal digits"
            );
        }
        assert!(refusal(used).starts_with("filter.conf:3: wrapping_format_key: expected 32"));
        let unused = warnings("wrapping_format_key = x");
        assert!(unused[0].starts_with("filter.conf:2: wrapping_format_key: has no effect"));
    }

    #[test]
    fn refuses_an_action_where_it_does_nothing() {
        let rule = "filter_actions_pre = [(\".*\", [(C_Logout, c_Login_hook)])]";
        let expected =
            "filter.conf:2: filter_actions_pre[0][1][0][1]: `c_Login_hook` does not know C_Logout";
        assert_eq!(refusal(rule), expected);
        let lenient = with(&format!("{MODULES}{rule}"), "unfit-actions").unwrap();
        assert_eq!(lenient.warnings, [expected]);
        assert!(lenient.filter_actions_pre[0].value.is_empty());
    }

    #[test]
    fn warns_of_rules_for_what_happens_before_they_apply() {
        for rule in [
            "forbidden_functions = [(\".*\", [C_LoadModule])]",
            "filter_actions_post = [(\".*\", [(C_LoadModule, identity)])]",
        ] {
            let warnings = warnings(rule);
            assert!(
                warnings[0].contains("before a module is loaded"),
                "{warnings:?}"
            );
        }
    }

    #[test]
    fn can_be_told_to_ignore_unknown_options() {
        let text = format!("{MODULES}log_subchanel = x filter_actions = []\nmodule = 1");
        assert!(rules(&text).is_err());
        let mut warnings = with(&text, "unknown-options").unwrap().warnings;
        warnings.sort();
        let expected =
            "filter.conf:2: log_subchanel: ignored: unknown option; is `log_subchannel` meant?";
        assert_eq!((warnings.len(), warnings[1].as_str()), (3, expected));
    }

    #[test]
    fn knows_the_names_of_its_options() {
        let text = "modules = [(m, n)] unheard_of = 1";
        let message = rules(text).unwrap_err();
        assert!(message.ends_with(&OPTIONS.join(", ")), "{message}");
    }

    #[test]
    fn tells_no_level_from_level_0() {
        let silent = |level: i64| rules(&format!("{MODULES}debug = {level}")).unwrap().silent;
        assert!(silent(-1) && !silent(0) && !silent(9));
    }

    #[test]
    fn checks_the_types_of_rules() {
        for (rule, expected) in [
            (
                "debug = \"1\"",
                "debug: expected an integer, found a string",
            ),
            (
                "log_subchannel = [a]",
                "log_subchannel: expected a string, found a list or section",
            ),
            (
                "forbidden_mechanisms = [(a, [CKM_FOO])]",
                "forbidden_mechanisms[0][1][0]: unknown mechanism `CKM_FOO`",
            ),
            (
                "forbidden_mechanisms = [(a, [-1])]",
                "forbidden_mechanisms[0][1][0]: expected the number of a mechanism",
            ),
            (
                "allowed_labels = [(a, [\"[\"])]",
                "allowed_labels[0][1][0]: not a usable pattern: a set `[` without its `]`",
            ),
            (
                "forbidden_functions = [(a, [C_Foo])]",
                "forbidden_functions[0][1][0]: unknown function `C_Foo`",
            ),
            (
                "forbidden_functions = [(a, [C_SetupArch])]",
                "forbidden_functions[0][1][0]: unknown function `C_SetupArch`",
            ),
            (
                "enforce_ro_sessions = [(a, on)]",
                "enforce_ro_sessions[0][1]: expected yes or no, found another word",
            ),
            (
                "remove_padding_oracles = [(a, [WRAP])]",
                "remove_padding_oracles[0][1][0]: unknown kind of operation `WRAP`",
            ),
            (
                "filter_actions_pre = [(a, [(C_Login, x)])]",
                "filter_actions_pre[0][1][0][1]: unknown action `x`",
            ),
        ] {
            assert_eq!(refusal(rule), format!("filter.conf:2: {expected}"));
        }
    }

    #[test]
    fn refuses_unknown_options_with_a_hint() {
        let message = refusal("log_subchanel = x");
        assert!(message.contains("2: log_subchanel: unknown option; is `log_subchannel` meant?"));
        let message = refusal("filter_actions = []");
        assert!(message.contains("is `filter_actions_pre` or `filter_actions_post` meant?"));
    }

    #[test]
    fn finds_errors_in_the_order_of_the_original() {
        let message = rules("debug = x\nmodules = y").unwrap_err();
        assert!(message.starts_with("filter.conf:2: modules: "), "{message}");
    }
}
