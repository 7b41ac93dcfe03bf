//! Implements `pkcs11proxyctl explain`, which replays a call of the audit log through the present rules.
//!
//! Reads the line, the configuration and the filter file of the service that the line names, and prints each check
//! in its order ([`filter::explanation`]). Needs no daemon. It does not verify the log.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use filter::Rules;
use filter::explanation::{self, Judgement, Past, PastObject};
use serde::Deserialize;
use xdr::{Function, MechanismType, mechanism_names};

use super::table::printable;
use super::{NOT_DONE, print};
use crate::audit::{chain, unhex, unprintable};
use crate::{config, policy};

/// The call that is to be explained.
pub(super) struct Question {
    /// The configuration.
    pub(super) conf: PathBuf,
    /// The number of the line in the file, from 1, and the file. If none, the line is read from standard input.
    pub(super) place: Option<(usize, PathBuf)>,
}

/// The members of a line that rules can depend on.
#[derive(Deserialize)]
struct Recorded {
    event: String,
    #[serde(default)]
    service: String,
    #[serde(default)]
    module: String,
    #[serde(default)]
    function: String,
    mechanism: Option<String>,
    #[serde(default)]
    objects: Vec<RecordedObject>,
    #[serde(default)]
    result: String,
    refused: Option<RecordedRule>,
}

#[derive(Deserialize)]
struct RecordedObject {
    handle: Option<u64>,
    label: Option<String>,
    id: Option<String>,
}

#[derive(Deserialize)]
struct RecordedRule {
    #[serde(default)]
    option: String,
    #[serde(default)]
    file: String,
    line: Option<u32>,
    #[serde(default)]
    limit: String,
}

/// Prints the decision step by step. The exit status is 0 if no check that can be replayed refuses the call now.
pub(super) fn explain(question: &Question) -> Result<i32, String> {
    let line = read_line(question)?;
    let recorded: Recorded =
        serde_json::from_slice(&line).map_err(|_| "expected a line of an audit log")?;
    let function = Function::from_name(&recorded.function);
    let is_call = ["call", "unfinished"].contains(&&*recorded.event);
    let function = function.filter(|_| is_call);
    let function = function.ok_or("expected the line of a call")?;
    let configuration = config::load(&question.conf).map_err(|error| error.to_string())?;
    let mut services = configuration.services.iter();
    let service = services
        .find(|service| crate::audit::printable(service.name.as_bytes()) == recorded.service);
    let service = service.ok_or_else(|| {
        let conf = question.conf.display();
        format!("{conf}: has no service `{}`", recorded.service)
    })?;
    let rules = policy::all_rules(service, &configuration.file);
    let rules = rules.map_err(|error| error.to_string())?;
    // A client of a profile may have been refused by a file of that profile.
    let refused = recorded.refused.as_ref();
    let is_its_file = |rules: &&Arc<Rules>| {
        refused.is_some_and(|refused| rules.file.display().to_string() == refused.file)
    };
    let rules = rules.iter().find(is_its_file).or(rules.first());
    let rules = rules.ok_or("the service has no rules")?.clone();
    let past = past(function, &recorded);
    let module = unprintable(&recorded.module);
    let checks = explanation::explain(&rules, &module, &past);

    let mut text = String::new();
    let file = rules.file.display();
    let (name, alias) = (&recorded.function, &recorded.module);
    // Writing into a string does not fail.
    let _ = writeln!(
        text,
        "{name} for module '{alias}', by the rules of {file} as they are now:"
    );
    let mut is_sure = true;
    let mut refusal = None;
    for (check, number) in checks.iter().zip(1..) {
        let rule = check.source.map_or_else(String::new, |source| {
            format!("{file}:{}: {}: ", source.line, source.option)
        });
        let said = match check.judgement {
            Judgement::Passes => "passes".to_owned(),
            Judgement::Refuses(rv) => format!("REFUSED with {rv}"),
            Judgement::Unknown => {
                "cannot be replayed: the log does not have what it looks at".to_owned()
            }
        };
        is_sure &= check.judgement != Judgement::Unknown;
        if let Judgement::Refuses(rv) = check.judgement {
            refusal = Some(rv);
        }
        let _ = writeln!(text, "{number:3}. {rule}{}: {said}", check.text);
    }
    let now = match (refusal, is_sure) {
        (Some(rv), true) => format!("now it is refused with {rv}"),
        (Some(rv), false) => format!(
            "now it is refused with {rv}, unless a check that cannot be replayed refuses it before"
        ),
        (None, true) => "now it reaches the module".to_owned(),
        (None, false) => {
            "now it reaches the module, unless a check that cannot be replayed refuses it"
                .to_owned()
        }
    };
    let then = match &recorded.refused {
        None if recorded.event == "unfinished" => "then it had no result".to_owned(),
        None => format!("then it was not refused, and returned {}", recorded.result),
        Some(rule) if !rule.limit.is_empty() => {
            format!(
                "then it was refused with {} by {} of {}",
                recorded.result,
                rule.limit,
                question.conf.display()
            )
        }
        Some(rule) if rule.option.is_empty() => {
            format!(
                "then it was refused with {}, by no rule of the file",
                recorded.result
            )
        }
        Some(RecordedRule {
            option, file, line, ..
        }) => format!(
            "then it was refused with {} by {file}:{}: {option}",
            recorded.result,
            line.unwrap_or(0)
        ),
    };
    let _ = writeln!(text, "{then}; {now}");
    let shown: Vec<String> = text.lines().map(printable).collect();
    print(&format!("{}\n", shown.join("\n")));
    Ok(refusal.map_or(0, |_| NOT_DONE))
}

fn read_line(question: &Question) -> Result<Vec<u8>, String> {
    let Some((number, path)) = &question.place else {
        let mut line = Vec::new();
        let read = io::stdin()
            .take(chain::LONGEST_LINE as u64)
            .read_to_end(&mut line);
        return match read {
            Ok(_) => Ok(line),
            Err(error) => Err(format!("cannot read the line: {error}")),
        };
    };
    let content = std::fs::read(path);
    let content =
        content.map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    let mut lines = content.split(|byte| *byte == b'\n');
    let line = number.checked_sub(1).and_then(|before| lines.nth(before));
    let line = line.filter(|line| !line.is_empty());
    line.map(<[u8]>::to_vec)
        .ok_or_else(|| format!("{}: has no line {number}", path.display()))
}

fn past(function: Function, recorded: &Recorded) -> Past {
    let object = |object: &RecordedObject| PastObject {
        label: object.label.as_deref().map(unprintable),
        id: object.id.as_deref().and_then(unhex),
    };
    let with_handle = |has: bool| {
        let objects = recorded.objects.iter();
        let objects = objects.filter(move |object| object.handle.is_some() == has);
        objects.map(object).collect()
    };
    let mechanism = recorded.mechanism.as_deref().and_then(|name| {
        let number = name.strip_prefix("0x");
        let number = number.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        number.or_else(|| mechanism_names::by_name(name))
    });
    Past {
        function,
        mechanism: mechanism.map(MechanismType),
        objects: with_handle(true),
        templates: with_handle(false),
    }
}
