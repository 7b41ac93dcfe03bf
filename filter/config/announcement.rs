//! Logs the rules when a worker starts: the subchannel and the debug level, and at level 3 every option.

use super::{Lined, Operation, Rule, Rules};
use crate::actions::Row;
use crate::log;
use crate::parameter_rules::Requirement;
use crate::regexp::Regexp;
use xdr::{Function, MechanismType};

impl Rules {
    /// Logs the rules: at level 0 the subchannel and the debug level, at level 3 every option.
    pub fn announce(&self) {
        if self.silent {
            return;
        }
        let subchannel = match self.log_subchannel.as_str() {
            "" => "Netplex log output".to_owned(),
            other => log::Printable(other.as_bytes()).to_string(),
        };
        let say = |level, text: &str| log::debug(level, self.debug, format_args!("{text}"));
        // The original logs these two before it has read the level.
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

    /// Returns each option, with a line for each of its rules.
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
        let requirement = |member: &Lined<Requirement>| member.value.to_string();
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
                "mechanism_parameters",
                self.lines(&self.mechanism_parameters, list(requirement)),
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
