//! Parses filter.conf, which has the syntax of OCaml's config-file library, as a [`config::Format`].
//!
//! The text of the file comes from [`config_file`]; values with their lines go to `options`. The original stops at the
//! first token that cannot begin an entry, without an error, and ignores the rest. If a key is given twice, it takes
//! the first. Both are errors here, so that every rule that is written also applies. Only options that concern logging
//! may be repeated; this causes a warning.

use config::{Format, Map, Value, ValueKind};
use config_file::tokenizer::{Lexer, Token};
use config_file::{Fault, Place, TUPLE, latin1_bytes, latin1_text, line_of, value_at};
use std::error::Error;

/// Reads filter.conf.
#[derive(Clone, Copy, Debug, Default)]
pub struct FilterSyntax;

/// Options that do not affect any call. The files of Caml Crush 1.0.0 to 1.0.2 have one of them twice.
const ONLY_LOGGING: &[&str] = &["debug", "log_subchannel"];

const KEYWORDS: &[&str] = &["=", "{", "}", "[", "]", ";", "(", ")", ","];

/// Upper bound on the depth of lists inside lists. No option needs more than five levels.
const DEEPEST: usize = 32;

/// The options of a file, and warnings about those that are repeated.
pub(crate) type Entries = (Map<String, Value>, Vec<Fault>);

impl FilterSyntax {
    /// Returns the lines and characters of backslashes in quotes that the original drops without a warning. In a
    /// pattern, `"web\.x"` lets any character pass where a point is meant.
    pub(crate) fn dropped_escapes(text: &str) -> Vec<(u32, u8)> {
        let input = latin1_bytes(text).unwrap_or_default();
        let mut lexer = Lexer::new(&input, KEYWORDS);
        while let Ok(Some(_)) = lexer.next() {}
        lexer.dropped_escapes().to_vec()
    }

    /// Reads a file.
    pub(crate) fn entries(text: &str) -> Result<Entries, Box<dyn Error + Send + Sync>> {
        let input = latin1_bytes(text).ok_or("a character above 255")?;
        let mut parser = Parser {
            lexer: Lexer::new(&input, KEYWORDS),
            remarks: Vec::new(),
        };
        let entries = parser.entries(None, 0)?;
        Ok((entries, parser.remarks))
    }
}

impl Format for FilterSyntax {
    fn parse(
        &self,
        _uri: Option<&String>,
        text: &str,
    ) -> Result<Map<String, Value>, Box<dyn Error + Send + Sync>> {
        FilterSyntax::entries(text).map(|(entries, _)| entries)
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    remarks: Vec<Fault>,
}

impl Parser<'_> {
    /// Parses `key = value` up to the end of the file, or of the section that began in line `section`.
    fn entries(&mut self, section: Option<u32>, depth: usize) -> Result<Map<String, Value>, Fault> {
        let mut entries = Map::<String, Value>::new();
        loop {
            let (key, line) = match (self.lexer.next()?, section) {
                (Some((Token::Word(key) | Token::Text(key), line)), _) => (key, line),
                (Some((Token::Keyword("}"), _)), Some(_)) | (None, None) => return Ok(entries),
                (None, Some(line)) => {
                    return Err(Fault::in_line(line, "a section without its closing `}`"));
                }
                (Some((other, line)), _) => {
                    let advice = if matches!(other, Token::Keyword(";" | ",")) {
                        ": remove it, because options need no separator; Caml Crush ignores everything after it"
                    } else {
                        ""
                    };
                    let found = other.describe();
                    let message = format!("expected the name of an option, found {found}{advice}");
                    return Err(Fault::in_line(line, message));
                }
            };
            let shown = String::from_utf8_lossy(&key).into_owned();
            match self.lexer.next()? {
                Some((Token::Keyword("="), _)) => {}
                other => {
                    let (found, line) = self.describe(other, line);
                    let message = format!("expected `=` after `{shown}`, found {found}");
                    return Err(Fault::in_line(line, message));
                }
            }
            let value = self.value(depth, line)?;
            let value = Value::new(Some(&line.to_string()), value.kind);
            let key = latin1_text(&key);
            let Some(first) = entries.get(&key).map(line_of) else {
                entries.insert(key, value);
                continue;
            };
            let place = Place {
                line,
                option: shown,
            };
            if section.is_some() || !ONLY_LOGGING.contains(&key.as_str()) {
                let message = format!(
                    "already given in line {first}; write all of it there, and remove this one, which \
                     Caml Crush ignores"
                );
                return Err(place.fault(message));
            }
            let message = format!("ignored: already given in line {first}; remove one of them");
            self.remarks.push(place.fault(message));
        }
    }

    fn value(&mut self, depth: usize, after: u32) -> Result<Value, Fault> {
        match self.lexer.next()? {
            Some((token, line)) => self.value_from(token, line, depth),
            None => Err(Fault::in_line(
                after,
                "expected a value, found the end of the file",
            )),
        }
    }

    fn value_from(&mut self, token: Token, line: u32, depth: usize) -> Result<Value, Fault> {
        if depth > DEEPEST {
            return Err(Fault::in_line(line, "lists are nested too deeply"));
        }
        let kind = match token {
            Token::Word(text) | Token::Text(text) => ValueKind::String(latin1_text(&text)),
            Token::Char(byte) => ValueKind::String(latin1_text(&[byte])),
            Token::Integer(value) => ValueKind::I64(value),
            Token::Float(value) => ValueKind::Float(value),
            Token::Keyword("[") => ValueKind::Array(self.elements(line, depth + 1)?),
            Token::Keyword("(") => {
                let members = value_at(line, ValueKind::Array(self.elements(line, depth + 1)?));
                ValueKind::Table([(TUPLE.to_owned(), members)].into_iter().collect())
            }
            Token::Keyword("{") => ValueKind::Table(self.entries(Some(line), depth + 1)?),
            Token::Keyword(other) => {
                return Err(Fault::in_line(
                    line,
                    format!("expected a value, found `{other}`"),
                ));
            }
        };
        Ok(value_at(line, kind))
    }

    /// Parses what is between brackets. The opening bracket decides between list and tuple. Either closing bracket ends
    /// it, and separators may be left out, repeated and mixed, as in the original.
    fn elements(&mut self, start: u32, depth: usize) -> Result<Vec<Value>, Fault> {
        let mut elements = Vec::new();
        loop {
            match self.lexer.next()? {
                Some((Token::Keyword("]" | ")"), _)) => return Ok(elements),
                Some((Token::Keyword("," | ";"), _)) => {}
                Some((token, line)) => elements.push(self.value_from(token, line, depth)?),
                None => {
                    return Err(Fault::in_line(
                        start,
                        "a list or tuple without its closing bracket",
                    ));
                }
            }
        }
    }

    fn describe(&self, token: Option<(Token, u32)>, line: u32) -> (String, u32) {
        token.map_or_else(
            || ("the end of the file".to_owned(), line),
            |(token, line)| (token.describe(), line),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use config_file::At;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        a: Option<At<String>>,
        b: Option<Vec<String>>,
        c: Option<(i64, i64)>,
        d: Option<f64>,
    }

    fn sample(text: &str) -> Result<Sample, String> {
        config_file::parse(text.as_bytes(), &FilterSyntax).map_err(|fault| fault.to_string())
    }

    #[test]
    fn reads_entries_without_separators() {
        let sample = sample("(* x *) a = 'z'\n\"b\" = [x \"y\", z;]c=\n(1;2]d = 6.").unwrap();
        let a = sample.a.unwrap();
        assert_eq!((a.value.as_str(), a.place.line), ("z", 1));
        assert_eq!(sample.b.unwrap(), ["x", "y", "z"]);
        assert_eq!(sample.c, Some((1, 2)));
        assert_eq!(sample.d, Some(6.0));
    }

    #[test]
    fn refuses_what_the_original_silently_stops_at() {
        for stray in [
            ";", ",", ")", "]", "}", "=", "{", "1", "'c'", "\"open", "(* open",
        ] {
            let message = sample(&format!("a = x\n{stray}\nb = [y]")).unwrap_err();
            assert!(message.starts_with("2: "), "{stray}: {message}");
        }
        // `debug` becomes the value, then `=` stands where an option should.
        assert!(sample("a = debug = 3").unwrap_err().contains("found `=`"));
    }

    #[test]
    fn refuses_what_the_original_refuses() {
        for text in [
            "a",
            "a b",
            "a =",
            "a = [x",
            "a = (x",
            "a = {",
            "a = \"x",
            "# c\na = x",
            "a == x",
            "a =-1",
            "a = .5",
            "a = `x",
        ] {
            assert!(sample(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_both_lines_of_an_option_given_twice() {
        let message = sample("a = x\n\na = y").unwrap_err();
        let expected = "3: a: already given in line 1; write all of it there, and remove this one, which \
                        Caml Crush ignores";
        assert_eq!(message, expected);
        let (entries, remarks) =
            FilterSyntax::entries("debug = 1 log_subchannel = x\nlog_subchannel = y debug = 2")
                .unwrap();
        assert_eq!(entries["debug"].clone().into_int().unwrap(), 1);
        let remarks: Vec<_> = remarks.iter().map(ToString::to_string).collect();
        let told =
            |option| format!("2: {option}: ignored: already given in line 1; remove one of them");
        assert_eq!(remarks, [told("log_subchannel"), told("debug")]);
        assert!(FilterSyntax::entries("a = { debug = 1 debug = 1 }").is_err());
    }

    #[test]
    fn bounds_the_nesting() {
        let message = sample(&format!("a = {}", "[".repeat(100_000))).unwrap_err();
        assert_eq!(message, "1: lists are nested too deeply");
        assert!(sample(&"a={".repeat(100_000)).is_err());
    }

    #[test]
    fn survives_every_prefix_and_every_changed_byte() {
        let text = b"a = 'z' (* c (* d *) *) b = [x \"\\065y\", z;] c = (1; -2) d = 6.5e1";
        for end in 0..text.len() {
            let _ = config_file::parse::<Sample>(&text[..end], &FilterSyntax);
            for byte in 0..=255 {
                let mut changed = text.to_vec();
                changed[end] = byte;
                let _ = config_file::parse::<Sample>(&changed, &FilterSyntax);
            }
        }
    }
}
