//! Parses pkcs11proxyd.conf, which has the syntax of Ocamlnet's Netplex, as a [`config::Format`].
//!
//! The text of the file comes in (see [`config_file`]); values with their line numbers go to `server::config`. The
//! parser does not know which sections may be repeated: it makes a list of each, and a struct can be read from a list
//! of one.

use config::{Format, Map, Value, ValueKind};
use config_file::tokenizer::{Lexer, Token};
use config_file::{Fault, latin1_bytes, latin1_text, line_of, value_at};
use std::error::Error;

/// Reads pkcs11proxyd.conf.
#[derive(Clone, Copy, Debug, Default)]
pub struct Netplex;

const KEYWORDS: &[&str] = &["{", "}", "=", ";"];

/// Upper bound on the nesting of sections. The deepest known one, in `tls`, is the fifth.
const DEEPEST: usize = 32;

impl Format for Netplex {
    /// Parses the root item, which only semicolons may follow.
    fn parse(
        &self,
        _uri: Option<&String>,
        text: &str,
    ) -> Result<Map<String, Value>, Box<dyn Error + Send + Sync>> {
        let input = latin1_bytes(text).ok_or("a character above 255")?;
        let mut parser = Parser {
            lexer: Lexer::new(&input, KEYWORDS),
        };
        let mut root = Map::new();
        let (token, line) = parser.expect("the section `netplex`")?;
        parser.item(token, line, 0, &mut root)?;
        while let Some((token, line)) = parser.lexer.next().map_err(Fault::from)? {
            if token != Token::Keyword(";") {
                let found = token.describe();
                let message = format!("expected the end of the file, found {found}");
                return Err(Fault::in_line(line, message).into());
            }
        }
        Ok(root)
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
}

impl Parser<'_> {
    fn expect(&mut self, what: &str) -> Result<(Token, u32), Fault> {
        let line = self.lexer.line();
        self.lexer.next()?.ok_or_else(|| {
            Fault::in_line(line, format!("expected {what}, found the end of the file"))
        })
    }

    /// Parses a parameter or section that begins with `token`, and adds it to `items`.
    fn item(
        &mut self,
        token: Token,
        line: u32,
        depth: usize,
        items: &mut Map<String, Value>,
    ) -> Result<(), Fault> {
        let Token::Word(name) = token else {
            let found = token.describe();
            let message = format!("expected a parameter or section, found {found}");
            return Err(Fault::in_line(line, message));
        };
        let shown = String::from_utf8_lossy(&name).into_owned();
        let key = latin1_text(&name);
        let next = format!("`=` or `{{` after `{shown}`");
        match self.expect(&next)? {
            (Token::Keyword("="), _) => {
                let value = self.value(&shown, line)?;
                match items.insert(key, value) {
                    None => Ok(()),
                    Some(first) => Err(again(&shown, line, &first)),
                }
            }
            (Token::Keyword("{"), _) => {
                let section = value_at(line, ValueKind::Table(self.section(line, depth + 1)?));
                let sections = items
                    .entry(key)
                    .or_insert_with(|| value_at(line, ValueKind::Array(Vec::new())));
                match &mut sections.kind {
                    ValueKind::Array(sections) => {
                        sections.push(section);
                        Ok(())
                    }
                    _ => Err(again(&shown, line, sections)),
                }
            }
            (other, line) => {
                let found = other.describe();
                Err(Fault::in_line(
                    line,
                    format!("expected {next}, found {found}"),
                ))
            }
        }
    }

    fn value(&mut self, name: &str, name_line: u32) -> Result<Value, Fault> {
        let (token, line) = self.expect("a value")?;
        let kind = match token {
            Token::Integer(value) => ValueKind::I64(value),
            Token::Float(value) => ValueKind::Float(value),
            Token::Text(text) => ValueKind::String(latin1_text(&text)),
            Token::Word(word) if word == b"true" => ValueKind::Boolean(true),
            Token::Word(word) if word == b"false" => ValueKind::Boolean(false),
            other => {
                let found = other.describe();
                let message = format!(
                    "{name}: expected a number, a string in quotes, true or false, found {found}"
                );
                return Err(Fault::in_line(line, message));
            }
        };
        Ok(value_at(name_line, kind))
    }

    /// Parses the items of a section, after its `{`. There is one semicolon between two items, and one
    /// or none after the last.
    fn section(&mut self, start: u32, depth: usize) -> Result<Map<String, Value>, Fault> {
        if depth > DEEPEST {
            return Err(Fault::in_line(start, "sections are nested too deeply"));
        }
        let mut items = Map::new();
        loop {
            let (token, line) = self.inside(start)?;
            if token == Token::Keyword("}") {
                return Ok(items);
            }
            self.item(token, line, depth, &mut items)?;
            match self.inside(start)? {
                (Token::Keyword(";"), _) => {}
                (Token::Keyword("}"), _) => return Ok(items),
                (other, line) => {
                    let found = other.describe();
                    return Err(Fault::in_line(
                        line,
                        format!("expected `;` or `}}`, found {found}"),
                    ));
                }
            }
        }
    }

    fn inside(&mut self, start: u32) -> Result<(Token, u32), Fault> {
        self.lexer
            .next()?
            .ok_or_else(|| Fault::in_line(start, "a section without its closing `}`"))
    }
}

fn again(name: &str, line: u32, first: &Value) -> Fault {
    let first = line_of(first);
    Fault::in_line(line, format!("{name}: already given in line {first}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use config_file::At;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Root {
        netplex: Sample,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        number: i64,
        real: f64,
        text: String,
        switch: bool,
        one: Option<Inner>,
        many: Vec<Inner>,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        name: String,
    }

    fn read(text: &str) -> Result<Sample, String> {
        config_file::parse::<Root>(text.as_bytes(), &Netplex)
            .map(|root| root.netplex)
            .map_err(|fault| fault.to_string())
    }

    fn inside(text: &str) -> Result<Sample, String> {
        read(&format!("netplex {{\n{text}\n}}"))
    }

    #[test]
    fn reads_parameters_and_sections() {
        let text = "(* c *) netplex { number = -7; real = 1.5; text = \"a;\\\"b\"; switch = true;
            one { name = \"x\" }; many { name = \"y\"; }; many { name = \"z\" }; } ; ;;";
        let named = |name: &str| Inner { name: name.into() };
        let expected = Sample {
            number: -7,
            real: 1.5,
            text: "a;\"b".into(),
            switch: true,
            one: Some(named("x")),
            many: vec![named("y"), named("z")],
        };
        assert_eq!(read(text).unwrap(), expected);
        assert_eq!(read("netplex { }").unwrap(), Sample::default());
    }

    #[test]
    fn wants_exactly_one_semicolon_between_items() {
        for (text, expected) in [
            (
                "number = 1;;",
                "2: expected a parameter or section, found `;`",
            ),
            (";", "2: expected a parameter or section, found `;`"),
            (
                "number = 1\nswitch = true",
                "3: expected `;` or `}`, found the word `switch`",
            ),
            (
                "one { name = \"\" } many { }",
                "2: expected `;` or `}`, found the word `many`",
            ),
        ] {
            assert_eq!(inside(text).unwrap_err(), expected);
        }
        assert!(inside("number = 1; switch = true;").is_ok());
    }

    #[test]
    fn wants_one_root() {
        for (text, expected) in [
            (
                "",
                "1: expected the section `netplex`, found the end of the file",
            ),
            (
                "netplex { } netplex { }",
                "1: expected the end of the file, found the word `netplex`",
            ),
            (
                "netplex { };\n}",
                "2: expected the end of the file, found `}`",
            ),
            ("\nnetplex {\n", "2: a section without its closing `}`"),
            (
                "\nNetplex { }",
                "2: Netplex: unknown option; did you mean `netplex`?",
            ),
            (
                "netplex = 1",
                "1: netplex: expected a section, found an integer",
            ),
            (
                "netplex",
                "1: expected `=` or `{` after `netplex`, found the end of the file",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), expected);
        }
    }

    #[test]
    fn takes_no_bare_words_but_booleans() {
        for word in ["yes", "True", "X", "}", ";", "'c'", "=", "-", ""] {
            let message = inside(&format!("switch = {word}\n")).unwrap_err();
            assert!(
                message.contains("expected a number, a string"),
                "{word}: {message}"
            );
        }
    }

    #[test]
    fn refuses_a_parameter_or_lone_section_given_twice() {
        for (text, expected) in [
            (
                "number = 1;\nnumber = 2",
                "3: number: already given in line 2",
            ),
            (
                "number = 1;\nnumber { }",
                "3: number: already given in line 2",
            ),
            ("one { };\none = 1", "3: one: already given in line 2"),
            (
                "one { name = \"\" };\none { name = \"\" }",
                "3: netplex.one: already given in line 2",
            ),
        ] {
            assert_eq!(inside(text).unwrap_err(), expected);
        }
    }

    #[test]
    fn places_errors_in_the_section_and_line() {
        for (text, expected) in [
            (
                "many { name = \"\" };\nmany { nmae = \"\" }",
                "3: netplex.many[1].nmae: unknown option; did you mean `name`?",
            ),
            (
                "many { name = \"\" };\nmany {\n }",
                "3: netplex.many[1]: `name` is missing",
            ),
            (
                "one { name { } }",
                "2: netplex.one.name: expected a string, found a list or section",
            ),
            (
                "switch = 1",
                "2: netplex.switch: expected a boolean, found an integer",
            ),
        ] {
            assert_eq!(inside(text).unwrap_err(), expected);
        }
    }

    #[test]
    fn survives_every_prefix_and_every_changed_byte() {
        let text =
            b"netplex { number = -7; text = \"a\\065\"; one { name = \"x\" }; } (* ;(* *) *) ;";
        for end in 0..text.len() {
            let _ = config_file::parse::<At<Root>>(&text[..end], &Netplex);
            for byte in 0..=255 {
                let mut changed = text.to_vec();
                changed[end] = byte;
                let _ = config_file::parse::<Root>(&changed, &Netplex);
            }
        }
        assert!(
            read(&"netplex {".repeat(100_000))
                .unwrap_err()
                .contains("nested too deeply")
        );
    }
}
