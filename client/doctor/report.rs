//! Prints what the doctor finds, one line for each fact, and counts the steps that failed.

use std::fmt;
use std::io::Write;

use crate::logging::escaped;

/// The width of the column with a step's name, in characters.
const WIDTH: usize = 18;

/// The output, and the number of steps that failed.
pub(super) struct Report<'a> {
    output: &'a mut dyn Write,
    failures: usize,
}

impl Report<'_> {
    pub fn new(output: &mut dyn Write) -> Report<'_> {
        Report {
            output,
            failures: 0,
        }
    }

    /// Returns how many steps have failed.
    pub fn failures(&self) -> usize {
        self.failures
    }

    /// Prints a line unchanged. It is no error if nobody reads it.
    pub fn line(&mut self, text: &str) {
        let _ = writeln!(self.output, "{text}");
    }

    /// Prints what the next lines are about.
    pub fn heading(&mut self, text: &str) {
        self.line(&escaped(text));
    }

    /// Prints a step that went well.
    pub fn good(&mut self, step: &str, text: &dyn fmt::Display) {
        self.entry(step, &format_args!("ok, {text}"));
    }

    /// Prints a fact.
    pub fn more(&mut self, name: &str, text: &dyn fmt::Display) {
        self.entry(name, text);
    }

    /// Prints a step that failed: the cause, and what to do.
    pub fn failed(&mut self, step: &str, cause: &dyn fmt::Display, advice: Option<&str>) {
        self.failures += 1;
        self.entry(step, &format_args!("FAILED: {cause}"));
        if let Some(advice) = advice {
            self.entry("", &format_args!("to do: {advice}"));
        }
    }

    /// Prints a name and a text. Part of the text comes from peers, so control characters are escaped before they reach
    /// the terminal.
    fn entry(&mut self, name: &str, text: &dyn fmt::Display) {
        let text = escaped(&text.to_string());
        self.line(&format!("  {name:WIDTH$} {text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_line_whatever_is_in_it() {
        let mut output = Vec::new();
        let mut report = Report::new(&mut output);
        report.heading("Daemon");
        report.good("connect", &"in 1 ms");
        report.failed("C_GetInfo", &"a\nb\u{1b}[31m", Some("look"));
        assert_eq!(report.failures(), 1);
        let expected = "Daemon\n  connect            ok, in 1 ms\n  \
            C_GetInfo          FAILED: a\\nb\\u{1b}[31m\n                     to do: look\n";
        assert_eq!(String::from_utf8(output).unwrap(), expected);
    }
}
