//! Holds the settings of loggers: where each writes, what a line looks like, and which records it takes.
//!
//! `config` creates them from pkcs11proxyd.conf; `outputs` opens the loggers.

use std::path::PathBuf;

use config_file::Place;

use super::line_format::LineFormat;
use super::record::{Record, Severity};

/// One `logging` section.
#[derive(Clone, Debug)]
pub struct LoggerConfig {
    /// `type` and the options that belong to it.
    pub kind: LoggerKind,
    /// `format`: what a line looks like; syslog has its own.
    /// Default `[${timestamp}] [${component}] [${level}] ${message}`.
    pub format: LineFormat,
    /// Which records it takes.
    pub selection: Selection,
    /// Where the section stands.
    pub place: Place,
}

/// The types of loggers.
#[derive(Clone, Debug, PartialEq)]
pub enum LoggerKind {
    /// Standard error.
    Stderr,
    /// `file`: one file, relative to the directory the daemon was started in.
    File(PathBuf),
    /// Several files, each with a selection of its own.
    MultiFile(Vec<LogFileConfig>),
    /// The system logger.
    Syslog {
        /// `identifier`: put in front of each message. Default "", nothing.
        identifier: String,
        /// `facility`. Default `user`.
        facility: Facility,
    },
}

/// One `file` section of a logger of type `multi_file`.
#[derive(Clone, Debug, PartialEq)]
pub struct LogFileConfig {
    /// `file`: relative to the logger's `directory`.
    pub path: PathBuf,
    /// `format`. Default that of the logger.
    pub format: LineFormat,
    /// Which of the logger's records it takes.
    pub selection: Selection,
}

/// Which records a logger or file takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// `component`: whose messages are taken; `*` stands for anything. Default `*`.
    pub component: String,
    /// `subchannel`: likewise; `""` is for messages without one. Default `*`.
    pub subchannel: String,
    /// `max_level`: the least severe level that is taken. Default `all`.
    pub max_level: Severity,
}

impl Selection {
    /// Whether a record is selected.
    pub fn takes(&self, record: &Record<'_>) -> bool {
        record.severity <= self.max_level
            && matches(&self.component, record.component)
            && matches(&self.subchannel, record.subchannel)
    }
}

/// Matches a pattern with a whole string: `*` stands for any text, every other character for itself.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(start) else {
        return false;
    };
    let mut parts = rest.split('*');
    let end = parts.next_back().unwrap_or_default();
    for part in parts {
        match text.split_once(part) {
            Some((_, after)) => text = after,
            None => return false,
        }
    }
    text.ends_with(end)
}

/// A syslog facility, by its number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facility(u8);

impl Facility {
    /// `user`.
    pub const USER: Facility = Facility(1);

    /// The number.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// The facility of this name, in any case.
    pub fn from_name(name: &str) -> Option<Facility> {
        let name = name.to_ascii_lowercase();
        if let Some(local) = name.strip_prefix("local") {
            let digit = local
                .parse::<u8>()
                .ok()
                .filter(|digit| *digit < 8 && local.len() == 1)?;
            return Some(Facility(16 + digit));
        }
        let code = match name.as_str() {
            "kern" => 0,
            "user" | "default" => 1,
            "mail" => 2,
            "daemon" => 3,
            "syslog" => 5,
            "lpr" => 6,
            "news" => 7,
            "uucp" => 8,
            "cron" => 9,
            "authpriv" => 10,
            "ftp" => 11,
            _ => return None,
        };
        Some(Facility(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_with_stars_only() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*a", "a", false),
            ("*b*d", "abcd", true),
            ("*bd*", "abcd", false),
            ("a.c", "abc", false),
            ("**", "x", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn knows_the_facilities() {
        assert_eq!(Facility::from_name("Default"), Some(Facility::USER));
        assert_eq!(Facility::from_name("local0"), Some(Facility(16)));
        for unknown in ["", "local", "local8", "local-1", "local00", "auth"] {
            assert_eq!(Facility::from_name(unknown), None, "{unknown}");
        }
    }
}
