//! The typed rules, made out of filter.conf.
//!
//! `server` loads them once at start and at reload; `filter` decides by them, and the worker asks
//! [`Rules::module`] which library a client's module name stands for. A file that is not understood
//! completely is refused, as is, for now, every rule that is not enforced yet.

use crate::regexp::Regexp;
use crate::source::{self, At, Bytes, Error, Fault, Place};
use crate::syntax::FilterSyntax;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use xdr::Function;

/// What filter.conf says.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `modules`: which names a client may ask for, and what they stand for. Not empty.
    pub modules: Vec<ModuleEntry>,
    /// `debug`: how much the filter logs, from 0 to 3. Default 0.
    pub debug: u8,
    /// `log_subchannel`: by which the filter's messages can be told from others when they are
    /// distributed over loggers. Default "", no subchannel.
    pub log_subchannel: String,
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

impl Rules {
    /// Reads and checks a file.
    pub fn load(file: &Path) -> Result<Rules, Error> {
        let options: Options = source::load(file, &FilterSyntax)?;
        options.check(file).map_err(|fault| fault.in_file(file))
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
}

/// An alias and its library.
type Couple = At<(Pattern, At<Text>)>;

/// A rule for the modules whose name its pattern matches.
type PerModule<T> = Option<At<Vec<At<(Pattern, T)>>>>;

/// The file as it is written. The order of the fields is the original's order of checks, and so the
/// order in which errors are found.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    modules: At<Vec<Couple>>,
    debug: Option<At<i64>>,
    log_subchannel: Option<At<Text>>,
    forbidden_mechanisms: PerModule<Vec<Word>>,
    allowed_labels: PerModule<Vec<Pattern>>,
    allowed_ids: PerModule<Vec<Pattern>>,
    forbidden_functions: PerModule<Vec<FunctionName>>,
    enforce_ro_sessions: PerModule<Switch>,
    forbid_admin_operations: PerModule<Switch>,
    remove_padding_oracles: PerModule<Vec<PaddingKind>>,
    filter_actions_pre: PerModule<Vec<(FunctionName, ActionName)>>,
    filter_actions_post: PerModule<Vec<(FunctionName, ActionName)>>,
    wrapping_format_key: Option<At<Text>>,
}

impl Options {
    fn check(self, file: &Path) -> Result<Rules, Fault> {
        let mut warnings = Vec::new();
        let mut warn = |fault: Fault| warnings.push(fault.in_file(file).to_string());
        let log_subchannel = match self.log_subchannel {
            Some(At { value, place }) => {
                String::from_utf8(value.0).map_err(|_| place.fault("expected a string of UTF-8"))?
            }
            None => String::new(),
        };
        let debug = match &self.debug {
            Some(at) => {
                let level = at.value.clamp(0, 3);
                if level != at.value {
                    warn(at.fault(format!("expected 0 to 3, taken as {level}")));
                }
                u8::try_from(level).unwrap_or(3)
            }
            None => 0,
        };
        if self.modules.value.is_empty() {
            return Err(self.modules.fault("expected at least one module"));
        }
        let modules = self
            .modules
            .value
            .into_iter()
            .map(
                |At {
                     value: (alias, path),
                     place,
                 }| {
                    for warning in alias.regexp.warnings() {
                        warn(alias.place.fault(*warning));
                    }
                    module(alias, path, place.line)
                },
            )
            .collect::<Result<Vec<_>, _>>()?;
        for (index, entry) in modules.iter().enumerate() {
            let hidden_by = |earlier: &&ModuleEntry| earlier.alias_text == entry.alias_text;
            if let Some(earlier) = modules.iter().take(index).find(hidden_by) {
                let place = Place {
                    line: entry.line,
                    option: format!("modules[{index}]"),
                };
                let line = earlier.line;
                warn(place.fault(format!("never used: line {line} has the same alias")));
            }
        }
        // Not enforced yet, so refused: a rule that is written must hold.
        unenforced(self.forbidden_mechanisms)?;
        unenforced(self.allowed_labels)?;
        unenforced(self.allowed_ids)?;
        unenforced(self.forbidden_functions)?;
        unenforced(self.enforce_ro_sessions)?;
        unenforced(self.forbid_admin_operations)?;
        unenforced(self.remove_padding_oracles)?;
        unenforced(self.filter_actions_pre)?;
        unenforced(self.filter_actions_post)?;
        if let Some(key) = self.wrapping_format_key {
            return Err(key.fault(NOT_ENFORCED));
        }
        Ok(Rules {
            modules,
            debug,
            log_subchannel,
            warnings,
            file: file.to_path_buf(),
        })
    }
}

const NOT_ENFORCED: &str = "not enforced by this version";

fn unenforced<T>(rules: PerModule<T>) -> Result<(), Fault> {
    match rules {
        Some(rules) if !rules.value.is_empty() => Err(rules.fault(NOT_ENFORCED)),
        _ => Ok(()),
    }
}

fn module(alias: Pattern, path: At<Text>, line: u32) -> Result<ModuleEntry, Fault> {
    if path.value.0.is_empty() || path.value.0.contains(&0) {
        return Err(path.fault("expected the path of a PKCS#11 library"));
    }
    Ok(ModuleEntry {
        alias: alias.regexp,
        alias_text: alias.text,
        path: OsString::from_vec(path.value.0).into(),
        line,
    })
}

/// A word or string, or an integer in decimal. The original converts numbers with a point as well,
/// after which `1.0` would be the pattern `1.`; those need quotes here.
struct Text(Vec<u8>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl Visitor<'_> for TextVisitor {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.as_bytes().to_vec()))
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Text, E> {
                Ok(Text(bytes.to_vec()))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Text, E> {
                Ok(Text(value.to_string().into_bytes()))
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

/// A pattern, compiled as soon as it is read.
struct Pattern {
    regexp: Regexp,
    text: Vec<u8>,
    place: Place,
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let At {
            value: Text(text),
            place,
        } = At::deserialize(deserializer)?;
        let regexp = Regexp::new(&text)
            .map_err(|error| de::Error::custom(format!("not a usable pattern: {error}")))?;
        Ok(Pattern {
            regexp,
            text,
            place,
        })
    }
}

/// A word or string, no number: the name of a mechanism.
struct Word;

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Bytes::deserialize(deserializer).map(|_| Word)
    }
}

/// `true yes y 1` or `false no n 0` in any case, or an integer.
struct Switch;

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SwitchVisitor;
        impl Visitor<'_> for SwitchVisitor {
            type Value = Switch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("yes or no")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Switch, E> {
                match text.to_ascii_lowercase().as_str() {
                    "true" | "yes" | "y" | "1" | "false" | "no" | "n" | "0" => Ok(Switch),
                    _ => Err(E::custom("expected yes or no, found another word")),
                }
            }
            fn visit_i64<E: de::Error>(self, _value: i64) -> Result<Switch, E> {
                Ok(Switch)
            }
        }
        deserializer.deserialize_any(SwitchVisitor)
    }
}

/// A name out of a table.
fn known<'de, D: Deserializer<'de>>(
    deserializer: D,
    what: &str,
    is_known: impl Fn(&str) -> bool,
) -> Result<(), D::Error> {
    let Bytes(name) = Bytes::deserialize(deserializer)?;
    let name = String::from_utf8_lossy(&name);
    if is_known(&name) {
        return Ok(());
    }
    Err(de::Error::custom(format!(
        "unknown {what} `{}`",
        name.escape_debug()
    )))
}

/// A function that can be forbidden or given an action, as the standard spells it.
struct FunctionName;

impl<'de> Deserialize<'de> for FunctionName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let nameable = |name: &str| {
            Function::ALL
                .iter()
                .any(|function| function.name() == name && *function != Function::C_SetupArch)
        };
        known(deserializer, "function", nameable).map(|()| FunctionName)
    }
}

/// One of `remove_padding_oracles`' kinds of operation.
struct PaddingKind;

impl<'de> Deserialize<'de> for PaddingKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let kinds = ["wrap", "unwrap", "encrypt", "sign", "all"];
        known(deserializer, "kind of operation", |name| {
            kinds.contains(&name)
        })
        .map(|()| PaddingKind)
    }
}

/// The name of an action.
struct ActionName;

impl<'de> Deserialize<'de> for ActionName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        known(deserializer, "action", |name| ACTIONS.contains(&name)).map(|()| ActionName)
    }
}

/// The original's actions.
const ACTIONS: [&str; 15] = [
    "identity",
    "c_Initialize_hook",
    "c_Login_hook",
    "do_segregate_usage",
    "non_local_objects_patch",
    "prevent_sensitive_leak_patch",
    "conflicting_attributes_patch",
    "conflicting_attributes_patch_on_existing_objects",
    "dangerous_sensitive_keys_paranoid",
    "dangerous_sensitive_keys_escrow_encrypt",
    "dangerous_sensitive_keys_escrow_all",
    "sticky_attributes_patch",
    "wrapping_format_patch",
    "secure_templates_patch",
    "sanitize_creation_templates_patch",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Result<Rules, String> {
        let file = Path::new("filter.conf");
        source::parse::<Options>(text.as_bytes(), &FilterSyntax)
            .and_then(|options| options.check(file))
            .map_err(|fault| fault.in_file(file).to_string())
    }

    /// The error for an option, in line 2 behind a usable `modules`.
    fn refusal(option: &str) -> String {
        rules(&format!(
            "modules = [(\"softhsm\", \"/lib/p11.so\")]\n{option}"
        ))
        .unwrap_err()
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
    fn refuses_rules_it_does_not_enforce() {
        for rule in [
            "forbidden_mechanisms = [(\".*\", [CKM_RSA_X_509])]",
            "allowed_labels = [(\".*\", [\"a.*\"])]",
            "allowed_ids = [(\".*\", [])]",
            "forbidden_functions = [(\".*\", [C_Login, C_LoadModule])]",
            "enforce_ro_sessions = [(\".*\", Yes)]",
            "forbid_admin_operations = [(\".*\", 0)]",
            "remove_padding_oracles = [(\".*\", [wrap, all])]",
            "filter_actions_pre = [(\".*\", [(C_Login, c_Login_hook)])]",
            "filter_actions_post = [(\".*\", [(C_Initialize, identity)])]",
            "wrapping_format_key = \"00112233445566778899aabbccddeeff\"",
        ] {
            let option = rule.split(' ').next().unwrap();
            let expected = format!("filter.conf:2: {option}: not enforced by this version");
            assert_eq!(refusal(rule), expected);
            if !rule.contains('"') {
                continue;
            }
            if let Some(empty) = rule.find("[(").map(|start| format!("{}[]", &rule[..start])) {
                assert!(
                    rules(&format!("modules = [(a, b)]\n{empty}")).is_ok(),
                    "{empty}"
                );
            }
        }
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
                "forbidden_mechanisms = [(a, [1])]",
                "forbidden_mechanisms[0][1][0]: expected a string, found an integer",
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
