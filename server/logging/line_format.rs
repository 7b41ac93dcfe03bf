//! Formats log lines: the `format` of a logger, made of fixed text and variables.
//!
//! Formats come from `server::config`, which warns about unknown variables: the original accepts such a format and then
//! loses every line. `logging::outputs` uses them to write lines.

use super::record::Record;
use jiff::Zoned;
use jiff::fmt::strtime::BrokenDownTime;
use std::borrow::Cow;
use std::fmt::Write;

/// The original's default.
pub const DEFAULT: &str = "[${timestamp}] [${component}] [${level}] ${message}";

/// `Sun Nov 22 07:44:23 2026`, the day padded with a blank.
const TIMESTAMP: &str = "%a %b %e %H:%M:%S %Y";

/// A parsed format.
#[derive(Clone, Debug, PartialEq)]
pub struct LineFormat {
    pieces: Vec<Piece>,
    unknown: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    Time(String),
    UnixTime,
    Component,
    Subchannel,
    Level,
    Message,
}

impl LineFormat {
    /// Reads a format; the error says what was expected.
    pub fn parse(format: &str) -> Result<LineFormat, String> {
        let mut template = LineFormat {
            pieces: Vec::new(),
            unknown: Vec::new(),
        };
        let mut text = String::new();
        let mut rest = format;
        while let Some(character) = rest.chars().next() {
            rest = rest.get(character.len_utf8()..).unwrap_or_default();
            match character {
                '\\' if rest.starts_with(['$', '\\']) => {
                    text.extend(rest.chars().next());
                    rest = rest.get(1..).unwrap_or_default();
                }
                '$' => {
                    let (name, after) = variable(rest)?;
                    rest = after;
                    template.pieces.push(Piece::Text(std::mem::take(&mut text)));
                    template.add(name)?;
                }
                other => text.push(other),
            }
        }
        template.pieces.push(Piece::Text(text));
        template
            .pieces
            .retain(|piece| !matches!(piece, Piece::Text(text) if text.is_empty()));
        Ok(template)
    }

    /// Variables that do not exist, which are left out of lines.
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }

    fn add(&mut self, name: &str) -> Result<(), String> {
        let piece = match name.split_once(':').unwrap_or((name, TIMESTAMP)) {
            ("timestamp", "unix") => Piece::UnixTime,
            ("timestamp", format) => {
                // A format that cannot be rendered now can never be rendered.
                BrokenDownTime::from(&Zoned::now())
                    .to_string(format)
                    .map_err(|error| format!("invalid time format: {error}"))?;
                Piece::Time(format.to_owned())
            }
            ("component", _) => Piece::Component,
            ("subchannel", _) => Piece::Subchannel,
            ("level", _) => Piece::Level,
            ("message", _) => Piece::Message,
            _ => {
                self.unknown.push(name.to_owned());
                return Ok(());
            }
        };
        self.pieces.push(piece);
        Ok(())
    }

    /// Returns the line for a record, with its newline. Control characters in the record's texts are escaped, so that
    /// one record is one line.
    pub fn render(&self, record: &Record<'_>, now: &Zoned) -> String {
        let mut line = String::with_capacity(record.message.len() + 64);
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => line.push_str(text),
                Piece::Time(format) => line.push_str(&time(now, format)),
                // Writing to a `String` does not fail.
                Piece::UnixTime => {
                    let _ = write!(line, "{}", now.timestamp().as_second());
                }
                Piece::Component => line.push_str(&escape(record.component)),
                Piece::Subchannel => line.push_str(&escape(record.subchannel)),
                Piece::Level => line.push_str(record.severity.name()),
                Piece::Message => line.push_str(&escape(record.message)),
            }
        }
        line.push('\n');
        line
    }
}

/// The time as `${timestamp}` shows it.
pub(crate) fn timestamp(now: &Zoned) -> String {
    time(now, TIMESTAMP)
}

/// The time in a format that [`LineFormat::parse`] has checked.
pub(crate) fn time(now: &Zoned, format: &str) -> String {
    BrokenDownTime::from(now)
        .to_string(format)
        .unwrap_or_default()
}

/// Replaces control characters, such as newlines, with escape sequences.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if character.is_control() {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped.into()
}

/// Splits the text after a `$` into the name of a variable and the rest. The name may be written `name`, `{name}` or
/// `(name)`.
fn variable(text: &str) -> Result<(&str, &str), String> {
    let closing = match text.chars().next() {
        Some('{') => '}',
        Some('(') => ')',
        _ => {
            let is_end = |character: char| !(character.is_ascii_alphanumeric() || character == '_');
            let end = text.find(is_end).unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            if name.is_empty() {
                return Err(
                    "expected a variable after `$`; for the character itself write \
                            \\\\$ with two backslashes"
                        .into(),
                );
            }
            return Ok((name, rest));
        }
    };
    text.get(1..)
        .and_then(|text| text.split_once(closing))
        .ok_or_else(|| format!("a variable without a closing `{closing}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::Severity;

    fn render(format: &str) -> String {
        let record = Record {
            severity: Severity::Info,
            component: "svc",
            subchannel: "sub",
            message: "a\nb",
        };
        let now = "2026-11-02T07:44:23[UTC]".parse().unwrap();
        LineFormat::parse(format).unwrap().render(&record, &now)
    }

    #[test]
    fn renders_the_line_of_the_original() {
        assert_eq!(
            render(DEFAULT),
            "[Mon Nov  2 07:44:23 2026] [svc] [info] a\\nb\n"
        );
    }

    #[test]
    fn renders_every_spelling_of_a_variable() {
        for (format, line) in [
            ("$component.$(level)${subchannel}|", "svc.infosub|\n"),
            (
                "${timestamp:unix}|$(timestamp:unix)",
                "1793605463|1793605463\n",
            ),
            (
                "${timestamp:%Y-%m-%dT%H:%M:%S%z}",
                "2026-11-02T07:44:23+0000\n",
            ),
            ("${timestamp:}", "\n"),
            ("\\$x \\\\ \\q", "$x \\ \\q\n"),
            ("${nope}|$message_x|", "||\n"),
            ("é$level", "éinfo\n"),
            ("", "\n"),
        ] {
            assert_eq!(render(format), line, "{format}");
        }
    }

    #[test]
    fn refuses_formats_that_made_the_original_lose_every_line() {
        for format in [
            "a$",
            "$",
            "$$",
            "$|",
            "${",
            "${message",
            "$(level}",
            "${timestamp:%Q%!}",
        ] {
            assert!(LineFormat::parse(format).is_err(), "{format}");
        }
        assert_eq!(
            LineFormat::parse("${mesage} $x").unwrap().unknown(),
            ["mesage", "x"]
        );
    }

    #[test]
    fn escapes_control_characters_only() {
        assert_eq!(
            escape("a\r\n\t\u{1b}\u{85}é\\"),
            "a\\r\\n\\t\\u{1b}\\u{85}é\\"
        );
    }
}
