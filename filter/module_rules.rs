//! Selects the rules that apply to one module.
//!
//! [`ModuleRules::new`] does this once for each connection, for the name that the client asked for. After that a
//! decision is a lookup in a table, which also has the line of the rule. `checks` decides by these tables, and
//! `pkcs11proxyd -check` prints them.
//!
//! A rule about a function also covers the newer functions that do the same (`xdr::facts`), such as
//! C_MessageEncryptInit for C_EncryptInit. A rule that names a newer function covers only that one.
//!
//! The original reads patterns differently. A rule that restricts applies if its pattern matches in either reading,
//! ours or the original's. A rule that loosens must match in ours. This concerns a `no`, which switches later rules
//! off, and patterns in a list of what is allowed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use xdr::word_size::{narrow, wide};
use xdr::{Function, MechanismType};

use crate::actions::Action;
use crate::compatibility::Switch;
use crate::config::Operation;
use crate::config::{Chain, Lined, Rule, Rules};
use crate::log::{self, Printable};
use crate::parameter_rules::Requirement;
use crate::regexp::Regexp;

/// The place in filter.conf that a decision comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Source {
    /// The option.
    pub option: &'static str,
    /// The line.
    pub line: u32,
}

/// The rules for one module.
#[derive(Default)]
pub struct ModuleRules {
    /// The file, for explanations.
    pub file: PathBuf,
    /// Functions that are refused.
    pub functions: BTreeMap<Function, Source>,
    /// Mechanisms that are refused, in the form of [`canonical`].
    pub mechanisms: BTreeMap<u64, Source>,
    /// Which labels may be used; `None`: any.
    pub labels: Option<AllowList>,
    /// Which identifiers may be used; `None`: any.
    pub ids: Option<AllowList>,
    /// Sessions are read-only.
    pub read_only: Option<Source>,
    /// No administration.
    pub no_admin: Option<Source>,
    /// Only C_Login counts as administration.
    pub admin_is_login_only: bool,
    /// Operations for which mechanisms with a padding oracle are refused.
    pub padding: BTreeMap<Operation, Source>,
    /// Whether only the original's list of those mechanisms counts.
    pub original_padding_list: bool,
    /// Requirements on the fields of mechanism parameters and on attributes.
    pub requirements: Vec<(Requirement, Source)>,
    /// Actions before all checks.
    pub pre: BTreeMap<Function, Vec<Step>>,
    /// Actions after all checks.
    pub post: BTreeMap<Function, Vec<Step>>,
}

/// Allows what matches one of the patterns.
pub struct AllowList {
    patterns: Vec<Regexp>,
    /// The first rule that applies.
    pub source: Source,
}

/// One action of a chain.
pub struct Step {
    /// Its name.
    pub name: &'static str,
    /// The action itself.
    pub action: Arc<dyn Action>,
    /// The rule that attaches it.
    pub source: Source,
}

impl AllowList {
    /// Whether `text` may be used.
    pub fn allows(&self, text: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| pattern.is_match(text))
    }
}

impl ModuleRules {
    /// The rules for the module that a client asked for by this name.
    pub fn new(rules: &Rules, name: &[u8]) -> ModuleRules {
        let mut padding = BTreeMap::new();
        for (kinds, source) in members(
            "remove_padding_oracles",
            &rules.remove_padding_oracles,
            name,
        ) {
            for kind in *kinds {
                padding.entry(*kind).or_insert(source);
            }
        }
        let mut functions = first(members(
            "forbidden_functions",
            &rules.forbidden_functions,
            name,
        ));
        functions.remove(&Function::C_LoadModule);
        // A function that does the work of two others is forbidden if either of them is.
        for combined in Function::ALL {
            let mut parts = combined.facts().parts.iter();
            if let Some(source) = parts.find_map(|part| functions.get(part).copied()) {
                functions.entry(*combined).or_insert(source);
            }
        }
        for newer in Function::ALL {
            if let Some(source) = functions.get(&newer.older()).copied() {
                functions.entry(*newer).or_insert(source);
            }
        }
        let mechanisms = members("forbidden_mechanisms", &rules.forbidden_mechanisms, name);
        ModuleRules {
            file: rules.file.clone(),
            functions,
            mechanisms: mechanisms
                .rev()
                .map(|(m, source)| (canonical(*m), source))
                .collect(),
            labels: allow_list("allowed_labels", &rules.allowed_labels, name),
            ids: allow_list("allowed_ids", &rules.allowed_ids, name),
            read_only: switched_on("enforce_ro_sessions", &rules.enforce_ro_sessions, name),
            no_admin: switched_on(
                "forbid_admin_operations",
                &rules.forbid_admin_operations,
                name,
            ),
            admin_is_login_only: rules.compatibility.has(Switch::AdminLoginOnly),
            padding,
            requirements: members("mechanism_parameters", &rules.mechanism_parameters, name)
                .map(|(requirement, source)| (requirement.clone(), source))
                .collect(),
            original_padding_list: rules.compatibility.has(Switch::OriginalPaddingList),
            pre: chains("filter_actions_pre", &rules.filter_actions_pre, name),
            post: chains("filter_actions_post", &rules.filter_actions_post, name),
        }
    }

    /// Whether no rule applies, so that every call passes unchanged.
    pub fn is_empty(&self) -> bool {
        let ModuleRules {
            functions,
            mechanisms,
            labels,
            ids,
            read_only,
            no_admin,
            ..
        } = self;
        functions.is_empty()
            && mechanisms.is_empty()
            && labels.is_none()
            && ids.is_none()
            && read_only.is_none()
            && no_admin.is_none()
            && self.padding.is_empty()
            && self.requirements.is_empty()
            && self.pre.is_empty()
            && self.post.is_empty()
    }

    /// The rule that forbids this mechanism, if there is one.
    pub fn forbids(&self, mechanism: MechanismType) -> Option<Source> {
        self.mechanisms.get(&canonical(mechanism)).copied()
    }

    /// The rule that forbids this mechanism for an operation, if there is one.
    pub fn forbids_padding(
        &self,
        operation: Operation,
        mechanism: MechanismType,
    ) -> Option<Source> {
        let source = self.padding.get(&operation).copied()?;
        has_padding_oracle(mechanism, self.original_padding_list).then_some(source)
    }

    /// Whether objects are checked before they are used.
    pub fn guards_objects(&self) -> bool {
        self.labels.is_some() || self.ids.is_some()
    }

    /// Returns the first rule that looks at the objects that a call works on or returns, if there is one. Those are
    /// rules about labels and identifiers, and every action, because an action may look at objects.
    pub fn looks_at_objects(&self) -> Option<Source> {
        let lists = [&self.labels, &self.ids].into_iter().flatten();
        let mut sources = lists
            .map(|list| list.source)
            .chain(self.steps().map(|(_, step)| step.source));
        sources.next()
    }

    /// Every action, with the function that it is attached to.
    pub fn steps(&self) -> impl Iterator<Item = (Function, &Step)> {
        let chains = self.pre.iter().chain(&self.post);
        chains.flat_map(|(function, steps)| steps.iter().map(|step| (*function, step)))
    }
}

/// Returns a mechanism as the module will get it: on a host of 4-byte words the upper half is cut off.
pub fn canonical(mechanism: MechanismType) -> u64 {
    wide(narrow(mechanism.0))
}

/// The members of an option's lists that apply to the module, in the order of the file.
fn members<'a, T>(
    option: &'static str,
    rules: &'a [Rule<Vec<Lined<T>>>],
    name: &'a [u8],
) -> impl DoubleEndedIterator<Item = (&'a T, Source)> {
    let matching = rules.iter().filter(|rule| rule.alias.applies(name));
    let all = matching.flat_map(|rule| rule.value.iter());
    all.map(move |member| {
        (
            &member.value,
            Source {
                option,
                line: member.line,
            },
        )
    })
}

/// Maps each member to the first line that has it.
fn first<'a, T: Copy + Ord + 'a>(
    members: impl DoubleEndedIterator<Item = (&'a T, Source)>,
) -> BTreeMap<T, Source> {
    members
        .rev()
        .map(|(member, source)| (*member, source))
        .collect()
}

/// Returns a list that allows what any of the applying rules allows, as the original does. If rules apply and all are
/// empty, nothing is allowed.
fn allow_list(
    option: &'static str,
    rules: &[Rule<Vec<Lined<Regexp>>>],
    name: &[u8],
) -> Option<AllowList> {
    let line = rules.iter().find(|rule| rule.alias.applies(name))?.line;
    let allowing = rules.iter().filter(|rule| rule.alias.is_match(name));
    let patterns = allowing
        .flat_map(|rule| &rule.value)
        .map(|pattern| pattern.value.clone());
    Some(AllowList {
        patterns: patterns.collect(),
        source: Source { option, line },
    })
}

/// Returns the line of a switch that is on. The first rule that applies decides.
fn switched_on(option: &'static str, rules: &[Rule<bool>], name: &[u8]) -> Option<Source> {
    let applies = |rule: &&Rule<bool>| match rule.value {
        true => rule.alias.applies(name),
        false => rule.alias.is_match(name),
    };
    let rule = rules.iter().find(applies).filter(|rule| rule.value)?;
    Some(Source {
        option,
        line: rule.line,
    })
}

/// The actions of each function, in the order of the file. Those of an older function are also run for the newer
/// functions that do the same, but no action twice.
fn chains(
    option: &'static str,
    rules: &[Rule<Chain>],
    name: &[u8],
) -> BTreeMap<Function, Vec<Step>> {
    let mut chains: BTreeMap<Function, Vec<Step>> = BTreeMap::new();
    for ((function, row), source) in members(option, rules, name) {
        if *function == Function::C_LoadModule {
            continue;
        }
        let counts_for = |newer: &&Function| *newer == function || newer.older() == *function;
        for it in Function::ALL.iter().filter(counts_for) {
            let chain = chains.entry(*it).or_default();
            if it.older() != *it && chain.iter().any(|step| step.name == row.name) {
                continue;
            }
            chain.push(Step {
                name: row.name,
                action: (row.make)().into(),
                source,
            });
        }
    }
    chains
}

/// Whether `remove_padding_oracles` applies to this mechanism: its failures reveal whether the padding is right, or it
/// has no secure padding. The list is the original's, completed for each family of mechanisms.
fn has_padding_oracle(mechanism: MechanismType, original_list: bool) -> bool {
    use cryptoki_sys::*;

    match narrow(mechanism.0) {
        CKM_RSA_PKCS
        | CKM_RSA_X_509
        | CKM_MD2_RSA_PKCS
        | CKM_MD5_RSA_PKCS
        | CKM_SHA1_RSA_PKCS
        | CKM_RIPEMD128_RSA_PKCS
        | CKM_RIPEMD160_RSA_PKCS
        | CKM_SHA256_RSA_PKCS
        | CKM_SHA384_RSA_PKCS
        | CKM_SHA512_RSA_PKCS
        | CKM_RC2_CBC_PAD
        | CKM_DES_CBC_PAD
        | CKM_DES3_CBC_PAD
        | CKM_CDMF_CBC_PAD
        | CKM_CAST_CBC_PAD
        | CKM_CAST3_CBC_PAD
        | CKM_CAST128_CBC_PAD
        | CKM_RC5_CBC_PAD
        | CKM_IDEA_CBC_PAD
        | CKM_AES_CBC_PAD => true,
        CKM_SHA224_RSA_PKCS
        | CKM_SHA3_224_RSA_PKCS
        | CKM_SHA3_256_RSA_PKCS
        | CKM_SHA3_384_RSA_PKCS
        | CKM_SHA3_512_RSA_PKCS
        | CKM_RSA_PKCS_TPM_1_1
        | CKM_CAMELLIA_CBC_PAD
        | CKM_ARIA_CBC_PAD
        | CKM_SEED_CBC_PAD
        | CKM_BLOWFISH_CBC_PAD
        | CKM_TWOFISH_CBC_PAD => !original_list,
        _ => false,
    }
}

/// Prints the rules, one in a line, for `pkcs11proxyd -check`.
impl fmt::Display for ModuleRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "    no rule: all calls pass");
        }
        let mut line = |source: &Source, text: &str| {
            let Source { option, line } = source;
            writeln!(f, "    {}:{line}: {option}: {text}", self.file.display())
        };
        for (function, source) in &self.functions {
            line(source, &format!("{} is refused", function.name()))?;
        }
        for (mechanism, source) in &self.mechanisms {
            let mechanism = log::mechanism(MechanismType(*mechanism));
            line(source, &format!("{mechanism} is refused"))?;
        }
        for (what, list) in [("CKA_LABEL", &self.labels), ("CKA_ID", &self.ids)] {
            let Some(list) = list else { continue };
            let patterns: Vec<String> = list
                .patterns
                .iter()
                .map(|p| format!("'{}'", Printable(p.text())))
                .collect();
            let text = match patterns.as_slice() {
                [] => "no object can be used".to_owned(),
                some => format!("objects need {what} to match {}", some.join(" or ")),
            };
            line(&list.source, &text)?;
        }
        if let Some(source) = &self.read_only {
            line(source, "sessions are read-only")?;
        }
        if let Some(source) = &self.no_admin {
            let more = if self.admin_is_login_only {
                ""
            } else {
                ", C_InitToken, C_InitPIN"
            };
            line(
                source,
                &format!("C_Login and C_LoginUser as SO or context-specific{more} are refused"),
            )?;
        }
        for (operation, source) in &self.padding {
            line(
                source,
                &format!(
                    "mechanisms with a padding oracle are refused for {}",
                    operation.name()
                ),
            )?;
        }
        for (requirement, source) in &self.requirements {
            line(source, &requirement.to_string())?;
        }
        for chain in [&self.pre, &self.post] {
            for (function, steps) in chain {
                for step in steps {
                    line(
                        &step.source,
                        &format!("{} runs {}", function.name(), step.name),
                    )?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compatibility::Compatibility;
    use std::path::Path;

    /// In the original's reading, `a\|bc` also matches `ax`.
    #[test]
    fn restricts_by_either_reading_of_a_pattern_and_loosens_by_the_strict_one() {
        let text = r#"modules = [("ax", m)]
            forbidden_functions = [("a\\|bc", [C_Sign])]
            forbidden_mechanisms = [("a\\|bc", [CKM_MD5])]
            remove_padding_oracles = [("a\\|bc", [all])]
            forbid_admin_operations = [("a\\|bc", yes)]
            enforce_ro_sessions = [("a\\|bc", no), (".*", yes)]
            allowed_labels = [("a\\|bc", [x])]
            allowed_ids = [("a\\|bc", [x]), ("ax", [y])]
            filter_actions_pre = [("a\\|bc", [(C_Sign, identity)])]"#;
        let compatibility = Compatibility::default();
        let rules = Rules::parse(text.as_bytes(), Path::new("f"), &compatibility).unwrap();
        let applying = ModuleRules::new(&rules, b"ax");
        assert_eq!(
            (applying.functions.len(), applying.mechanisms.len()),
            (2, 1) // C_Sign and C_SignMessage
        );
        assert_eq!((applying.padding.len(), applying.pre.len()), (4, 2));
        assert!(applying.no_admin.is_some() && applying.read_only.is_some());
        assert!(!applying.labels.unwrap().allows(b"x"));
        let ids = applying.ids.unwrap();
        assert!(!ids.allows(b"x") && ids.allows(b"y"));
        assert!(ModuleRules::new(&rules, b"bcx").functions.is_empty());
    }
}
