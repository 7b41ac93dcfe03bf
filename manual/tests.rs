//! The pages are complete, correct and current.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::pages::PAGES;
use crate::text::{Block, blocks};

fn page(name: &str) -> String {
    let page = PAGES.iter().find(|page| page.0 == name).unwrap();
    pages::man(*page).unwrap()
}

/// What stands in code below EXAMPLES.
fn examples(name: &str) -> Vec<String> {
    let page = PAGES.iter().find(|page| page.0 == name).unwrap();
    let mut is_example = false;
    let mut found = Vec::new();
    for block in blocks(page.2) {
        match block {
            Block::Heading(_, words) => is_example = words == "EXAMPLES",
            Block::Code(lines) if is_example => found.push(lines.join("\n")),
            _ => {}
        }
    }
    assert!(!found.is_empty());
    found
}

/// What a reader sees, without what man puts into it.
fn shown(page: &str) -> String {
    page.replace("\\fB", "")
        .replace("\\fR", "")
        .replace("\\-", "-")
}

/// Errors name what is missing, superfluous, of another type or without an example.
#[test]
fn the_comments_in_etc_explain_what_the_parsers_know() {
    let none: [String; 0] = [];
    assert_eq!(reference::daemon().err().unwrap_or_default(), none);
    assert_eq!(reference::filter_options().err().unwrap_or_default(), none);
    assert_eq!(reference::settings().err().unwrap_or_default(), none);
}

#[test]
fn each_option_is_in_its_page() {
    let entry = |name: &str, what: &str| {
        let page = shown(&page(name));
        assert!(page.contains(&format!(".TP\n{what}")), "{name}: {what}");
    };
    for (option, ..) in server::options::OPTIONS {
        entry("pkcs11proxyd", &format!("-{option}"));
    }
    for (option, ..) in server::ctl::OPTIONS {
        entry("pkcs11proxyctl", &format!("-{option}"));
    }
    for (command, _) in server::ctl::COMMANDS {
        entry("pkcs11proxyctl", command);
    }
    for (option, ..) in p11client::doctor::OPTIONS {
        entry("p11client-doctor", &format!("-{option}"));
    }
    for (option, variable) in p11client::SETTINGS {
        entry("libp11client", option);
        entry("libp11client", variable);
    }
    for option in filter::config::OPTIONS {
        let page = shown(&page("pkcs11proxyd-filter.conf"));
        assert!(page.contains(&format!("\n{option}")) || page.contains(&format!(", {option}")));
    }
    for action in filter::actions::ACTIONS {
        assert!(
            page("pkcs11proxyd-filter.conf").contains(action.name),
            "{}",
            action.name
        );
    }
    let conf = shown(&page("pkcs11proxyd.conf"));
    for section in reference::daemon().unwrap().1 {
        for name in section.notes.iter().flat_map(|note| &note.names) {
            assert!(
                conf.contains(&format!("\n{name}")) || conf.contains(&format!(", {name}")),
                "{name}"
            );
        }
    }
}

#[test]
fn each_page_has_its_parts() {
    for (name, section, text) in PAGES {
        let has = |heading: &str| text.contains(&format!("# {heading}\n"));
        let mut wanted = vec!["NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES", "SEE ALSO"];
        if matches!(section, 1 | 8) {
            wanted.extend(["OPTIONS", "EXIT STATUS", "FILES"]);
        }
        for heading in wanted {
            assert!(has(heading), "{name}: {heading}");
        }
        assert!(page(name).is_ascii(), "{name}");
    }
}

/// The pages refer to each other, and to no page that does not exist.
#[test]
fn references_lead_to_pages() {
    for (name, _, text) in PAGES {
        let (_, also) = text.split_once("# SEE ALSO\n").unwrap();
        for reference in also.trim().split(", ") {
            let (other, section) = reference.trim_end_matches(')').split_once('(').unwrap();
            let known = PAGES
                .iter()
                .any(|page| page.0 == other && page.1.to_string() == section);
            assert!(known && other != *name, "{name}: {reference}");
        }
    }
}

#[test]
fn man_has_no_warning() {
    for (name, section, _) in PAGES {
        let text = page(name);
        let mut man = Command::new("man")
            .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", "-"])
            .env("LC_ALL", "C.UTF-8")
            .env("MANWIDTH", "80")
            .env("MANROFFSEQ", "")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("man: the package man-db has to be installed");
        man.stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let output = man.wait_with_output().unwrap();
        let warnings = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && warnings.is_empty(),
            "{name}({section}): {warnings}"
        );
    }
}

/// `make docs` writes them.
#[test]
fn the_documents_are_current() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for (name, current) in pages::files().unwrap() {
        let committed = std::fs::read_to_string(docs.join(&name)).unwrap_or_default();
        assert!(
            committed == current,
            "docs/{name} is not current: run make docs"
        );
    }
    let pages = std::fs::read_dir(docs.join("man")).unwrap();
    assert_eq!(pages.count(), PAGES.len());
}

#[test]
fn the_example_configurations_load() {
    let directory = std::env::temp_dir().join(format!("manual-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("example.conf");
    let results: Vec<_> = examples("pkcs11proxyd.conf")
        .into_iter()
        .map(|text| {
            std::fs::write(&file, &text).unwrap();
            server::config::load(&file)
                .map(|it| it.warnings)
                .map_err(|error| error.to_string())
        })
        .collect();
    std::fs::remove_dir_all(&directory).unwrap();
    for result in results {
        assert_eq!(result, Ok(Vec::new()));
    }
    for text in examples("pkcs11proxyd-filter.conf") {
        let rules = filter::Rules::parse(
            text.as_bytes(),
            Path::new("f"),
            &filter::Compatibility::default(),
        );
        assert_eq!(rules.unwrap().warnings, [""; 0]);
    }
}

#[test]
fn the_example_commands_are_understood() {
    let words = |line: &str| -> Vec<String> {
        let line = line.replace("\"address=10.0.0.5\"", "address=10.0.0.5");
        line.split_whitespace().map(str::to_owned).collect()
    };
    let lines = |name: &str| -> Vec<String> {
        let all = examples(name).join("\n");
        let own = all
            .lines()
            .filter(|line| line.split(' ').next() == Some(name));
        own.map(str::to_owned).collect()
    };
    let daemon = lines("pkcs11proxyd");
    assert_eq!(daemon.len(), 3);
    for line in daemon {
        assert!(server::options::parse(words(&line)).is_ok(), "{line}");
    }
    let ctl = lines("pkcs11proxyctl");
    assert_eq!(ctl.len(), 5);
    for line in ctl {
        assert_eq!(server::ctl::complaint(&words(&line)[1..]), None, "{line}");
    }
    let doctor = lines("p11client-doctor");
    assert_eq!(doctor.len(), 2);
    for line in doctor {
        let words = words(&line).into_iter().map(OsString::from);
        assert_eq!(p11client::doctor::complaint(words), None, "{line}");
    }
}

/// A configuration in which each section can get a further parameter, all in one line.
const BARE: &str = "netplex { controller { @controller@ logging { type = \"@type@\"; @controller.logging@ } }; \
    daemon { @daemon@ audit { file = \"/a\"; key = \"/k\"; @daemon.audit@ } }; \
    service { name = \"s\"; @service@ \
    protocol { name = \"p\"; @service.protocol@ address { type = \"internet\"; bind = \"127.0.0.1:4444\" } }; \
    processor { type = \"rpc_pkcs11\"; filter_config = \"/f\"; @service.processor@ \
    sandbox { @service.processor.sandbox@ }; \
    tls { @service.processor.tls@ dh_params { @service.processor.tls.dh_params@ }; \
    x509 { key { crt_file = \"/c\"; key_file = \"/k\" }; trust { crt_file = \"/t\" } } } }; \
    workload_manager { type = \"dynamic\"; min_free_jobs_capacity = 1; max_free_jobs_capacity = 1; max_threads = 1; \
    @service.workload_manager@ } } }";

/// What the configuration means with this parameter in this section.
fn meaning(section: &str, parameter: &str, logger: &str) -> Result<String, String> {
    let mut text = BARE.replace("@type@", logger);
    text = text.replace(&format!("@{section}@"), parameter);
    while let Some((before, rest)) = text.split_once('@') {
        let (_, behind) = rest.split_once('@').unwrap();
        let value = match before.ends_with("dh_params { ") {
            true => "bits = 3072",
            false => "",
        };
        text = format!("{before}{value}{behind}");
    }
    let name: String = parameter.chars().take_while(|c| *c != ' ').collect();
    let file = std::env::temp_dir().join(format!("manual-{}-{name}.conf", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let loaded = server::config::load(&file);
    std::fs::remove_file(&file).unwrap();
    let mut loaded = loaded.map_err(|error| error.to_string())?;
    loaded.warnings.clear();
    loaded.file = "f".into();
    Ok(format!("{loaded:?}"))
}

/// The value behind the word default, if one is written there.
fn default_of(shape: &str) -> Option<&str> {
    let (_, value) = shape.split_once("default ")?;
    let end = match value.strip_prefix('"') {
        Some(text) => text.find('"')? + 2,
        None => value.find([',', ';', ' ']).unwrap_or(value.len()),
    };
    let value = value.get(..end)?;
    let is_number = value.parse::<f64>().is_ok() && !value.starts_with("0777");
    (value.starts_with('"') || is_number || value.parse::<bool>().is_ok()).then_some(value)
}

/// With the default written out, the configuration means the same as without it.
#[test]
fn the_defaults_are_those_of_the_parser() {
    let mut compared = 0;
    for section in reference::daemon().unwrap().1 {
        let path = section.path.get(1..).unwrap_or_default().join(".");
        if !BARE.contains(&format!("@{path}@")) {
            continue;
        }
        let explained = section.notes.iter();
        let explained = explained.flat_map(|note| note.names.iter().map(move |name| (name, note)));
        for (name, note) in explained {
            let Some(value) = default_of(&note.shape) else {
                continue;
            };
            let logger = match name.as_str() {
                "identifier" | "facility" => "syslog",
                // For the preset strict only.
                "read" | "write" => continue,
                _ => "stderr",
            };
            let without = meaning("", "", logger);
            let with = meaning(&path, &format!("{name} = {value};"), logger);
            assert!(without.is_ok(), "{without:?}");
            assert_eq!(with, without, "{path}.{name}");
            compared += 1;
        }
    }
    assert!(compared > 40, "{compared}");
}
