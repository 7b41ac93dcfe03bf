//! Parses the part of TOML that a table needs: `[[structure]]`, and keys with a string, an integer or an array of
//! these. Everything else is an error with its line.

use super::{Mistake, mistake};

/// A section `[[structure]]`.
pub(super) struct Section {
    pub(super) line: usize,
    pub(super) entries: Vec<Entry>,
}

/// A key with its value.
pub(super) struct Entry {
    pub(super) line: usize,
    pub(super) key: String,
    pub(super) items: Vec<Item>,
    pub(super) is_list: bool,
    /// Whether a comma must come before the next element of the array.
    needs_comma: bool,
}

/// A value, or an element of an array.
pub(super) struct Item {
    pub(super) line: usize,
    pub(super) value: Scalar,
}

pub(super) enum Scalar {
    Text(String),
    Integer(u64),
}

/// Reads the sections of a table.
pub(super) fn read(text: &str) -> Result<Vec<Section>, Mistake> {
    let mut sections: Vec<Section> = Vec::new();
    let mut open: Option<Entry> = None;
    let mut last = 1;
    for (number, content) in text.lines().enumerate() {
        let line = number + 1;
        last = line;
        let mut rest = content.trim();
        if open.is_none() {
            if rest.is_empty() || rest.starts_with('#') {
                continue;
            }
            if rest.starts_with('[') {
                let header = rest.split('#').next().unwrap_or_default().trim();
                if header.replace(' ', "") != "[[structure]]" {
                    return mistake(line, format!("expected [[structure]], found {header}"));
                }
                let entries = Vec::new();
                sections.push(Section { line, entries });
                continue;
            }
            let Some((key, value)) = rest.split_once('=') else {
                return mistake(line, "expected [[structure]] or KEY = VALUE");
            };
            rest = value.trim_start();
            let is_list = rest.starts_with('[');
            open = Some(Entry {
                line,
                key: key.trim().to_owned(),
                items: Vec::new(),
                is_list,
                needs_comma: false,
            });
            rest = rest.strip_prefix('[').unwrap_or(rest);
        }
        let Some(mut entry) = open.take() else {
            continue;
        };
        if !entry.items_of_line(line, rest)? {
            open = Some(entry);
            continue;
        }
        let Some(section) = sections.last_mut() else {
            return mistake(entry.line, "expected [[structure]] before the first key");
        };
        if section.entries.iter().any(|other| other.key == entry.key) {
            return mistake(entry.line, format!("{} is given twice", entry.key));
        }
        section.entries.push(entry);
    }
    match open {
        Some(entry) => mistake(last, format!("the array of line {} has no ]", entry.line)),
        None => Ok(sections),
    }
}

impl Entry {
    /// Reads the values in one line. The result is whether the entry ends in it.
    fn items_of_line(&mut self, line: usize, text: &str) -> Result<bool, Mistake> {
        let mut rest = text.trim_start();
        loop {
            if rest.is_empty() || rest.starts_with('#') {
                return match self.is_list {
                    true => Ok(false),
                    false => mistake(line, format!("expected a value for {}", self.key)),
                };
            }
            if self.is_list {
                if let Some(after) = rest.strip_prefix(']') {
                    return end_of_line(line, after);
                }
                if let Some(after) = rest.strip_prefix(',') {
                    if !self.needs_comma {
                        return mistake(line, "expected a value before the comma");
                    }
                    self.needs_comma = false;
                    rest = after.trim_start();
                    continue;
                }
                if self.needs_comma {
                    return mistake(line, "expected a comma or ]");
                }
            }
            let (value, after) = scalar(line, rest)?;
            self.items.push(Item { line, value });
            self.needs_comma = true;
            rest = after.trim_start();
            if !self.is_list {
                return end_of_line(line, rest);
            }
        }
    }
}

fn end_of_line(line: usize, rest: &str) -> Result<bool, Mistake> {
    let rest = rest.trim_start();
    match rest.is_empty() || rest.starts_with('#') {
        true => Ok(true),
        false => mistake(line, format!("expected the end of the line, found {rest}")),
    }
}

fn scalar(line: usize, text: &str) -> Result<(Scalar, &str), Mistake> {
    if let Some(text) = text.strip_prefix('"') {
        return match text.split_once('"') {
            Some((value, _)) if value.contains('\\') => {
                mistake(line, "a backslash in a string has no meaning here")
            }
            Some((value, rest)) => Ok((Scalar::Text(value.to_owned()), rest)),
            None => mistake(line, "the string has no closing quote"),
        };
    }
    let end = text.find([',', ']', '#', ' ', '\t']).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let plain = digits.replace('_', "");
    let number = match plain.strip_prefix("0x") {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16),
        None => plain.parse(),
    };
    match number {
        Ok(number) => Ok((Scalar::Integer(number), rest)),
        Err(_) => mistake(
            line,
            format!("expected a string or a number, found {digits}"),
        ),
    }
}
