//! Declares the options of filter.conf and reads the file into them.
//!
//! Values come from `syntax`; the types of single values are in `option_types`. [`Options`] holds them as they are
//! written; `checker` turns them into rules.

use super::option_types::{
    ActionName, AnyMechanism, Choice, ComparisonSign, FunctionName, MechanismName, OneOrMore,
    OperationName, PaddingKind, Pattern, Text,
};
use super::syntax::FilterSyntax;
use crate::compatibility::{Compatibility, Switch};
use config::{Format, Map, Value};
use config_file::{At, Fault, Place};
use serde::Deserialize;
use serde::de::Error as _;
use std::cell::RefCell;

/// The names of the options that [`Options`] declares.
pub const OPTIONS: &[&str] = &[
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
    "mechanism_parameters",
    "filter_actions_pre",
    "filter_actions_post",
    "wrapping_format_key",
];

/// An alias and its library.
pub(super) type Couple = At<(Pattern, At<Text>)>;

/// Rules for the modules whose names their patterns match.
pub(super) type PerModule<T> = Option<At<Vec<At<(Pattern, T)>>>>;

/// Functions and their actions, as they are written.
pub(super) type Steps = Vec<At<(FunctionName, At<ActionName>)>>;

/// A row of `mechanism_parameters`: mechanism, operation, field, comparison, values.
pub(super) type NeedRow = At<(
    AnyMechanism,
    OperationName,
    At<Text>,
    At<ComparisonSign>,
    At<OneOrMore>,
)>;

/// The file as it is written. Errors are found in the order of the fields, which is the original's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    pub(super) modules: At<Vec<Couple>>,
    pub(super) debug: Option<At<i64>>,
    pub(super) log_subchannel: Option<At<Text>>,
    pub(super) forbidden_mechanisms: PerModule<Vec<At<MechanismName>>>,
    pub(super) allowed_labels: PerModule<Vec<Pattern>>,
    pub(super) allowed_ids: PerModule<Vec<Pattern>>,
    pub(super) forbidden_functions: PerModule<Vec<At<FunctionName>>>,
    pub(super) enforce_ro_sessions: PerModule<Choice>,
    pub(super) forbid_admin_operations: PerModule<Choice>,
    pub(super) remove_padding_oracles: PerModule<Vec<At<PaddingKind>>>,
    pub(super) mechanism_parameters: PerModule<Vec<NeedRow>>,
    pub(super) filter_actions_pre: PerModule<Steps>,
    pub(super) filter_actions_post: PerModule<Steps>,
    pub(super) wrapping_format_key: Option<At<Text>>,
}

/// The format of the file. It collects warnings about repeated options and about backslashes that have no effect. If
/// the switch `unknown-options` is on, it removes unknown options, also with a warning.
pub(super) struct Reader {
    lenient: bool,
    remarks: RefCell<Vec<Fault>>,
}

impl Reader {
    pub(super) fn new(compatibility: &Compatibility) -> Reader {
        let lenient = compatibility.has(Switch::UnknownOptions);
        Reader {
            lenient,
            remarks: RefCell::default(),
        }
    }

    /// Returns the warnings so far.
    pub(super) fn remarks(self) -> Vec<Fault> {
        self.remarks.into_inner()
    }
}

impl Format for Reader {
    fn parse(
        &self,
        _uri: Option<&String>,
        text: &str,
    ) -> Result<Map<String, Value>, Box<dyn std::error::Error + Send + Sync>> {
        let (mut entries, remarks) = FilterSyntax::entries(text)?;
        self.remarks.borrow_mut().extend(remarks);
        // The pattern itself warns of `\(`, `\)` and `\|`.
        for (line, byte) in FilterSyntax::dropped_escapes(text)
            .into_iter()
            .filter(|(_, byte)| !matches!(byte, b'(' | b')' | b'|'))
        {
            let byte = byte.escape_ascii();
            let message =
                format!("`\\{byte}` in quotes means `{byte}`; to write a backslash, double it");
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
