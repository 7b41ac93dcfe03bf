//! Reads the transcripts of `script.c`, and compares them line by line.

use std::fmt::Write;
use std::time::Duration;

use super::Stack;
use super::daemon::Maker;

/// What a library answered to each section of the script.
pub struct Transcript(Vec<Section>);

struct Section {
    name: &'static str,
    lines: Vec<Line>,
    /// How the process ended, if not well, and what it said on stderr.
    ending: Option<String>,
}

/// `call -> answer`.
struct Line {
    call: String,
    answer: String,
}

/// Who took part; a row of a table of differences holds for one maker or for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The original's.
    Original,
    /// Ours.
    Ours,
    /// Either.
    Any,
}

impl Who {
    /// Whether `maker` is meant.
    pub fn includes(self, maker: Maker) -> bool {
        match self {
            Self::Any => true,
            Self::Original => maker == Maker::Original,
            Self::Ours => maker == Maker::Ours,
        }
    }
}

/// A call that answers otherwise than SoftHSM does without a proxy.
pub struct Difference {
    /// The section.
    pub section: &'static str,
    /// The call, as the transcript names it.
    pub call: &'static str,
    /// With whose client.
    pub client: Who,
    /// With whose daemon.
    pub daemon: Who,
    /// The whole answer.
    pub answer: &'static str,
    /// Why, with the place that says so.
    pub reason: &'static str,
}

/// Runs the sections, each in a process of its own, one after the other: SoftHSM's file locks race
/// when processes start at once, and what one section leaves open must not touch the next.
pub fn run_script(stack: &Stack, sections: &[&'static str]) -> Transcript {
    let run = |&name: &&'static str| {
        let outcome = stack.run("script", &[name], Duration::from_secs(60));
        let lines = outcome
            .stdout
            .lines()
            .map(|line| {
                let (call, answer) = line.split_once(" ->").unwrap_or((line, ""));
                Line {
                    call: call.into(),
                    answer: answer.trim().into(),
                }
            })
            .collect();
        let ending = (!outcome.status.success())
            .then(|| format!("{}; stderr: {}", outcome.status, outcome.stderr));
        Section {
            name,
            lines,
            ending,
        }
    };
    Transcript(sections.iter().map(run).collect())
}

impl Transcript {
    /// What is wrong with it by itself: a process that did not end well, a check that says no.
    pub fn faults(&self) -> String {
        let mut faults = String::new();
        for section in &self.0 {
            if let Some(ending) = &section.ending {
                let _ = writeln!(faults, "[{}] ended with {ending}", section.name);
            }
            for line in &section.lines {
                if line.answer == "NO" || line.answer.ends_with("TOUCHED") {
                    let _ = writeln!(
                        faults,
                        "[{}] {} -> {}",
                        section.name, line.call, line.answer
                    );
                }
            }
        }
        faults
    }

    /// How many lines it has.
    pub fn len(&self) -> usize {
        self.0.iter().map(|section| section.lines.len()).sum()
    }

    /// What differs from `direct` beyond `allowed`, and which of `allowed` did not occur.
    pub fn compare(&self, direct: &Self, allowed: &[&Difference]) -> String {
        let mut report = String::new();
        let mut occurred = vec![false; allowed.len()];
        for (got, wanted) in self.0.iter().zip(&direct.0) {
            if let Some(ending) = &got.ending {
                let _ = writeln!(report, "[{}] ended with {ending}", got.name);
            }
            for (number, want) in wanted.lines.iter().enumerate() {
                let Some(line) = got.lines.get(number).filter(|line| line.call == want.call) else {
                    let instead = got.lines.get(number).map_or("nothing", |line| &line.call);
                    let _ = writeln!(
                        report,
                        "[{}] {number}: instead of {}: {instead}",
                        got.name, want.call
                    );
                    break;
                };
                if line.answer == want.answer {
                    continue;
                }
                let row = allowed.iter().position(|row| {
                    row.section == got.name && row.call == line.call && row.answer == line.answer
                });
                if let Some(row) = row {
                    occurred[row] = true;
                } else {
                    let _ = writeln!(
                        report,
                        "[{}] {}\n    direct: {}\n    here:   {}",
                        got.name, line.call, want.answer, line.answer
                    );
                }
            }
            if got.lines.len() > wanted.lines.len() {
                let _ = writeln!(report, "[{}] has more lines", got.name);
            }
        }
        for (row, _) in allowed.iter().zip(occurred).filter(|(_, seen)| !seen) {
            let _ = writeln!(
                report,
                "[{}] {}: the listed difference ({}, {}) did not occur",
                row.section, row.call, row.answer, row.reason
            );
        }
        report
    }
}
