//! Compares what the comments in etc/ explain with what the parsers know, and gives it in the parsers' order.
//!
//! A parameter without an explanation, an explanation without a parameter, one of another type, and one without a default or
//! an example are errors, which the tests show.

use config_file::Outline;
use server::sandbox::Preset;

use crate::annotated::{self, Note};

/// Where parameters may stand that no document tells of: they are only read to say what is wrong with them.
const NOT_TOLD: &[&str] = &[
    "netplex.controller.mechanisms_file",
    "netplex.controller.drain_timeout",
    "netplex.service.protocol.address.name",
];

/// A section: the names around it, and what is said in it.
#[derive(Debug, Default, PartialEq)]
pub struct Section {
    /// Empty for the file itself.
    pub path: Vec<String>,
    /// What is said about the section as a whole.
    pub about: Option<Note>,
    /// Parameters and prose, without its sections.
    pub notes: Vec<Note>,
    /// The sections in it.
    pub sections: Vec<String>,
}

/// pkcs11proxyd.conf: its head, and its sections.
pub fn daemon() -> Result<(String, Vec<Section>), Vec<String>> {
    let outline = server::config::outline().map_err(|fault| vec![fault.to_string()])?;
    let notes = annotated::ocaml(include_str!("../etc/pkcs11proxyd.conf"));
    let (head, notes) = without_head(notes);
    let mut errors = Vec::new();
    compare(&outline, &[], &notes, &outline, &mut errors);
    superfluous(&outline, &notes, &mut errors);
    let mut sections = Vec::new();
    arrange(&outline, &[], &notes, &mut sections);
    let switches = filter::compatibility::SWITCHES.iter().map(|row| row.1);
    let presets = [
        Preset::None,
        Preset::Default,
        Preset::Strict,
        Preset::Learned,
    ];
    let words = [
        ("compatibility", switches.collect::<Vec<_>>()),
        ("preset", presets.map(Preset::name).to_vec()),
    ];
    mentioned(&words, &notes, &mut errors);
    match errors.is_empty() {
        true => Ok((head, sections)),
        false => Err(errors),
    }
}

/// filter.conf: its head, and its options.
pub fn filter_options() -> Result<(String, Vec<Note>), Vec<String>> {
    let notes = annotated::ocaml(include_str!("../etc/filter.conf"));
    let (head, notes) = without_head(notes);
    let mut errors = Vec::new();
    flat(filter::config::OPTIONS, &notes, &mut errors);
    let actions = filter::actions::ACTIONS.iter().map(|row| row.name);
    let operations = filter::parameter_rules::OPERATIONS.iter().map(|row| row.0);
    let curves = filter::curves::CURVES.iter().map(|curve| curve.name);
    let kinds = filter::config::PADDING_KINDS.iter().map(|row| row.0);
    let words = [
        ("filter_actions_pre", actions.collect()),
        ("mechanism_parameters", operations.chain(curves).collect()),
        ("remove_padding_oracles", kinds.collect::<Vec<_>>()),
    ];
    mentioned(&words, &notes, &mut errors);
    match errors.is_empty() {
        true => Ok((head, notes)),
        false => Err(errors),
    }
}

/// The client's settings: the file's head, and its options.
pub fn settings() -> Result<(String, Vec<Note>), Vec<String>> {
    let notes = annotated::toml(include_str!("../etc/client.conf"));
    let (head, notes) = without_head(notes);
    let options: Vec<_> = p11client::SETTINGS.iter().map(|row| row.0).collect();
    let mut errors = Vec::new();
    flat(&options, &notes, &mut errors);
    match errors.is_empty() {
        true => Ok((head, notes)),
        false => Err(errors),
    }
}

/// The first comment describes the file.
fn without_head(mut notes: Vec<Note>) -> (String, Vec<Note>) {
    match notes.first() {
        Some(first) if first.names.is_empty() => (notes.remove(0).text, notes),
        _ => (String::new(), notes),
    }
}

fn find<'a>(notes: &'a [Note], section: &[String], name: &str) -> Option<&'a Note> {
    let mut notes = notes.iter();
    notes.find(|note| note.section == section && note.names.iter().any(|it| it == name))
}

/// Each parameter of the section has one explanation with a type and a default.
fn compare(
    section: &Outline,
    path: &[String],
    notes: &[Note],
    root: &Outline,
    errors: &mut Vec<String>,
) {
    for parameter in &section.inside {
        let inside = [path, &[parameter.name.to_owned()]].concat();
        let full = inside.join(".");
        if NOT_TOLD.contains(&full.as_str()) {
            continue;
        }
        let Some(note) = find(notes, path, parameter.name) else {
            if full != "netplex" {
                errors.push(format!("{full} is not explained"));
            }
            compare(parameter, &inside, notes, root, errors);
            continue;
        };
        if !note.shape.contains(parameter.kind) {
            errors.push(format!(
                "{full} is of type {}, not {}",
                parameter.kind, note.shape
            ));
        }
        if parameter.inside.is_empty() {
            complete(note, parameter, &full, errors);
        } else if notes.iter().any(|it| it.section == inside)
            || !is_elsewhere(parameter, path, root)
        {
            compare(parameter, &inside, notes, root, errors);
        }
    }
}

/// Whether another section has the same parameters, so that they are explained there.
fn is_elsewhere(section: &Outline, path: &[String], root: &Outline) -> bool {
    let count = |outline: &Outline| {
        all(outline)
            .filter(|it| it.inside == section.inside)
            .count()
    };
    !path.is_empty() && count(root) > 1
}

fn all<'a>(outline: &'a Outline) -> Box<dyn Iterator<Item = &'a Outline> + 'a> {
    Box::new(std::iter::once(outline).chain(outline.inside.iter().flat_map(all)))
}

fn complete(note: &Note, parameter: &Outline, full: &str, errors: &mut Vec<String>) {
    defaulted(note, full, errors);
    let shown = note
        .examples
        .iter()
        .find(|(name, _)| name == parameter.name);
    let Some((_, shown)) = shown else {
        return errors.push(format!("{full} has no example"));
    };
    let value = shown.split_once('=').map_or("", |(_, value)| value.trim());
    let kind = match value {
        "true" | "false" => "switch",
        text if text.starts_with('"') => "string",
        number if number.contains('.') => "float",
        _ => "integer",
    };
    if kind != parameter.kind {
        errors.push(format!("{full}: the example has another type: {shown}"));
    }
}

/// The first sentence says what holds without the parameter.
fn defaulted(note: &Note, full: &str, errors: &mut Vec<String>) {
    let shape = &note.shape;
    let mut words = ["default", "required", "instead of"].into_iter();
    if !words.any(|word| shape.contains(word)) {
        errors.push(format!("{full}: neither a default nor required: {shape}"));
    }
}

/// Each explanation is of a parameter that there is.
fn superfluous(root: &Outline, notes: &[Note], errors: &mut Vec<String>) {
    for note in notes {
        let mut section = Some(root);
        for name in &note.section {
            section = section.and_then(|it| it.inside.iter().find(|inner| inner.name == name));
        }
        for name in &note.names {
            if !section.is_some_and(|it| it.inside.iter().any(|inner| inner.name == name)) {
                errors.push(format!("there is no {}.{name}", note.section.join(".")));
            }
        }
    }
}

/// The same for a file without sections.
fn flat(options: &[&str], notes: &[Note], errors: &mut Vec<String>) {
    for option in options {
        match find(notes, &[], option) {
            None => errors.push(format!("{option} is not explained")),
            Some(note) if !note.examples.iter().any(|(name, _)| name == option) => {
                errors.push(format!("{option} has no example"));
            }
            Some(note) => defaulted(note, option, errors),
        }
    }
    for name in notes.iter().flat_map(|note| &note.names) {
        if !options.contains(&name.as_str()) {
            errors.push(format!("there is no {name}"));
        }
    }
}

/// What a parameter can be set to is explained with it.
fn mentioned(words: &[(&str, Vec<&str>)], notes: &[Note], errors: &mut Vec<String>) {
    for (parameter, words) in words {
        let mut notes = notes.iter();
        let note = notes.find(|note| note.names.iter().any(|it| it == parameter));
        let text = note.map_or("", |note| &note.text);
        let letter = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        for word in words {
            if !text.split(|c| !letter(c)).any(|found| found == *word) {
                errors.push(format!("{parameter} does not explain {word}"));
            }
        }
    }
}

/// The sections that are explained, each before those in it.
fn arrange(section: &Outline, path: &[String], notes: &[Note], sections: &mut Vec<Section>) {
    let inner = |name: &str| [path, &[name.to_owned()]].concat();
    let is_section = |note: &Note| {
        let mut names = note.names.iter();
        note.shape.starts_with("section")
            && names.any(|name| notes.iter().any(|it| it.section == inner(name)))
    };
    let own = notes.iter().filter(|note| note.section == path);
    let (about, own): (Vec<_>, Vec<_>) = own.cloned().partition(is_section);
    let told = |it: &&Outline| notes.iter().any(|note| note.section == inner(it.name));
    let inside: Vec<_> = section.inside.iter().filter(told).collect();
    sections.push(Section {
        path: path.to_vec(),
        about: None,
        notes: own,
        sections: inside.iter().map(|it| it.name.to_owned()).collect(),
    });
    for it in inside {
        let place = sections.len();
        arrange(it, &inner(it.name), notes, sections);
        if let Some(section) = sections.get_mut(place) {
            section.about = find(&about, path, it.name).cloned();
        }
    }
}
