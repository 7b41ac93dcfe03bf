//! Reads what the comments of a configuration file in etc/ say about each parameter.
//!
//! A comment explains parameters if it begins with `name: type, default. Effect`; further paragraphs that begin so explain
//! further ones, and `one, two: ...` explains both. A comment that contains parameters or sections instead is read as if it
//! were none: what it sets are examples. Any other comment is prose. `reference` compares the explanations with what the
//! parsers know.

/// What a comment says, and where it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Note {
    /// The names of the sections around it.
    pub section: Vec<String>,
    /// The parameters that it explains; none: it is prose.
    pub names: Vec<String>,
    /// Type and default: the first sentence.
    pub shape: String,
    pub text: String,
    /// Whether it is an option of the client's settings file.
    pub is_setting: bool,
    /// A parameter as it can be written in the file.
    pub examples: Vec<(String, String)>,
}

/// A file in the syntax of pkcs11proxyd.conf or filter.conf.
pub fn ocaml(text: &str) -> Vec<Note> {
    let mut notes = Vec::new();
    read(text, &mut Vec::new(), &mut notes);
    notes
}

/// A settings file of the client, in TOML. A comment has a blank behind its #, an example has none.
pub fn toml(text: &str) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut comment = String::new();
    for line in text.lines().chain([""]) {
        if let Some(words) = line.strip_prefix("# ").or((line == "#").then_some("")) {
            comment += words;
            comment.push('\n');
            continue;
        }
        if !comment.is_empty() {
            explain(&std::mem::take(&mut comment), &[], &mut notes);
        }
        let shown = line.strip_prefix('#').unwrap_or(line);
        if let Some((name, _)) = shown.split_once('=') {
            example(&mut notes, &[], name.trim(), shown);
        }
    }
    for note in &mut notes {
        note.is_setting = true;
    }
    notes
}

fn is_name(word: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    !word.is_empty() && word.bytes().all(letter)
}

/// The length of the name at the start of a text.
fn name_length(text: &str) -> usize {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.find(|c| !letter(c)).unwrap_or(text.len())
}

fn read(text: &str, section: &mut Vec<String>, notes: &mut Vec<Note>) {
    let mut place = 0;
    while let Some(rest) = text.get(place..).filter(|rest| !rest.is_empty()) {
        let length = name_length(rest);
        let behind = rest.get(length..).unwrap_or_default();
        let after = behind.trim_start_matches([' ', '\n']);
        let gap = behind.len() - after.len();
        if rest.starts_with("(*") {
            let end = comment_length(rest);
            let inner = rest.get(2..end - 2).unwrap_or_default();
            let line = text
                .get(..place)
                .and_then(|before| before.rsplit('\n').next());
            let column = line.map_or(0, str::len) + 3;
            comment(inner, column, section, notes);
            place += end;
        } else if length > 0 && after.starts_with('{') {
            section.push(rest.get(..length).unwrap_or_default().to_owned());
            place += length + gap + 1;
        } else if length > 0 && after.starts_with('=') {
            let end = length + assignment_length(behind);
            let shown = rest.get(..end).unwrap_or_default().trim();
            example(
                notes,
                section,
                rest.get(..length).unwrap_or_default(),
                shown,
            );
            place += end;
        } else {
            if rest.starts_with('}') {
                section.pop();
            }
            place += length.max(rest.chars().next().map_or(1, char::len_utf8));
        }
    }
}

/// Up to the end of the comment that begins here.
fn comment_length(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut place = 0;
    while let Some(rest) = text.get(place..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("(*") {
            depth += 1;
            place += 2;
        } else if rest.starts_with("*)") {
            depth -= 1;
            place += 2;
            if depth == 0 {
                return place;
            }
        } else {
            place += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    panic!("a comment without its end: {text}");
}

/// Up to the end of a value: a semicolon, a brace, a comment or the end of the line, outside of brackets and quotes.
fn assignment_length(text: &str) -> usize {
    let (mut depth, mut quoted) = (0_i32, false);
    for (place, letter) in text.char_indices() {
        match letter {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' if depth == 0 && text[place..].starts_with("(*") => return place,
            '[' | '(' => depth += 1,
            ']' | ')' => depth -= 1,
            ';' | '}' | '\n' if depth == 0 => return place,
            _ => {}
        }
    }
    text.len()
}

fn comment(inner: &str, column: usize, section: &mut Vec<String>, notes: &mut Vec<Note>) {
    let content = inner.trim();
    let length = name_length(content);
    let after = content.get(length..).unwrap_or_default().trim_start();
    if length > 0 && after.starts_with(['=', '{']) {
        return read(content, section, notes);
    }
    let dedented: Vec<&str> = content
        .lines()
        .map(|line| {
            let blanks = line.len() - line.trim_start().len();
            line.get(blanks.min(column)..).unwrap_or_default()
        })
        .collect();
    explain(&dedented.join("\n"), section, notes);
}

/// The names before the colon, if the line begins an explanation.
fn explained(line: &str) -> Option<(Vec<String>, &str)> {
    let (names, rest) = line.split_once(": ")?;
    let names: Vec<String> = names.split(", ").map(str::to_owned).collect();
    names
        .iter()
        .all(|name| is_name(name))
        .then_some((names, rest))
}

fn explain(text: &str, section: &[String], notes: &mut Vec<Note>) {
    let mut own: Vec<Note> = Vec::new();
    for line in text.lines() {
        let (names, line) = explained(line).unwrap_or((Vec::new(), line));
        if !names.is_empty() || own.is_empty() {
            own.push(Note {
                section: section.to_vec(),
                names,
                ..Note::default()
            });
        }
        if let Some(note) = own.last_mut() {
            note.text += line;
            note.text.push('\n');
        }
    }
    for mut note in own {
        if !note.names.is_empty() {
            let text = std::mem::take(&mut note.text);
            let end = text.find(". ").into_iter().chain(text.find(".\n")).min();
            let end = end.unwrap_or_else(|| panic!("no end of the first sentence: {text}"));
            note.shape = text[..end].replace('\n', " ");
            note.text = text[end + 1..].trim_start_matches([' ', '\n']).to_owned();
        }
        notes.push(note);
    }
}

/// Adds an example to the explanation of a parameter; of several the first counts, unless it is empty.
fn example(notes: &mut [Note], section: &[String], name: &str, shown: &str) {
    let is_it =
        |note: &&mut Note| note.section == section && note.names.iter().any(|it| it == name);
    let Some(note) = notes.iter_mut().find(is_it) else {
        return;
    };
    match note.examples.iter_mut().find(|(known, _)| known == name) {
        None => note.examples.push((name.to_owned(), shown.to_owned())),
        Some((_, known)) if known.ends_with("[]") => *known = shown.to_owned(),
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_explain_what_stands_around_them() {
        let text = "(* Head. *)\na {\n  (* x: integer, default 1. The x.\n       y  what\n     z: string. *)\n  x = 2;\n  (* z = \"}\"; *)\n  \
                    (* b: section.\n     c, d: switches. *)\n  (* b { (* c: switch. Yes. *) c = true } *)\n}";
        let notes = ocaml(text);
        let told: Vec<_> = notes
            .iter()
            .map(|it| {
                (
                    it.section.join("."),
                    it.names.join(","),
                    it.shape.as_str(),
                    it.text.as_str(),
                )
            })
            .collect();
        let own = |section: &str, names: &str| (section.to_owned(), names.to_owned());
        let row = |(section, names), shape, text| (section, names, shape, text);
        let expected = [
            row(own("", ""), "", "Head.\n"),
            row(own("a", "x"), "integer, default 1", "The x.\n  y  what\n"),
            row(own("a", "z"), "string", ""),
            row(own("a", "b"), "section", ""),
            row(own("a", "c,d"), "switches", ""),
            row(own("a.b", "c"), "switch", "Yes.\n"),
        ];
        assert_eq!(told, expected);
        let shown = |at: usize| notes[at].examples[0].1.as_str();
        assert_eq!(
            (shown(1), shown(2), shown(5)),
            ("x = 2", "z = \"}\"", "c = true")
        );
    }

    #[test]
    fn settings_are_explained_in_lines() {
        let notes = toml(
            "# Head.\n\n# a: string, no default. The a.\n# More.\n#a = \"b\"\n\n# Last.\n#[s]\n#a = \"c\"\n",
        );
        assert_eq!(notes.len(), 3);
        assert_eq!(notes[1].text, "The a.\nMore.\n");
        assert_eq!(
            notes[1].examples,
            [("a".to_owned(), "a = \"b\"".to_owned())]
        );
    }
}
