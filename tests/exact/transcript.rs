//! Reads and compares the transcripts of `exact.c` and the log of `recorder.c`.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::support::compile::program;
use super::support::processes::run;

/// How long one run may take.
const LIMIT: Duration = Duration::from_secs(100);

/// How many differences of one run are reported.
const MOST_DIFFERENCES: usize = 40;

/// What `exact.c` printed: lines of `call -> answer`, and others.
pub struct Transcript {
    lines: Vec<String>,
}

/// Runs `exact.c` with a library in an environment prepared by `command`.
pub fn exact(mut command: Command, library: &Path, arguments: &[&str]) -> Transcript {
    command.arg(library).args(arguments);
    let outcome = run(command, LIMIT);
    let Transcript { lines } = Transcript::of(&outcome.stdout);
    assert!(
        outcome.status.success(),
        "exact {arguments:?}: {}; last lines: {:#?}; {}",
        outcome.status,
        lines.iter().rev().take(3).collect::<Vec<_>>(),
        outcome.stderr
    );
    Transcript { lines }
}

/// `exact.c` with nothing of this project's or SoftHSM's in its environment.
pub fn bare() -> Command {
    let mut command = Command::new(program("exact"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["PKCS11PROXY_", "SOFTHSM2_", "RECORDER_", "EXACT_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    command
}

impl Transcript {
    /// What the program printed.
    pub fn of(printed: &str) -> Transcript {
        let lines = printed.lines().map(str::to_owned).collect();
        Transcript { lines }
    }

    /// All lines.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The calls of PKCS#11 functions, as the recorder writes them.
    pub fn calls(&self) -> Vec<&str> {
        self.answered().map(|(call, _)| call).collect()
    }

    /// These with their answers.
    pub fn answered(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines
            .iter()
            .filter(|line| line.starts_with("C_") && !line.starts_with("C_GetInterface"))
            .filter_map(|line| line.split_once(" -> "))
    }

    /// The answer to the first call that begins so.
    pub fn answer(&self, call: &str) -> &str {
        self.lines
            .iter()
            .filter_map(|line| line.split_once(" -> "))
            .find(|(made, _)| made.starts_with(call))
            .unwrap_or_else(|| panic!("no call {call}"))
            .1
    }

    /// What no library may do: touch memory it was not given, tell more than the room.
    pub fn faults(&self) -> Vec<&String> {
        let is_fault = |line: &&String| {
            ["TOUCHED", "MORE THAN THE ROOM", "ANOTHER"]
                .iter()
                .any(|word| line.contains(word))
        };
        self.lines.iter().filter(is_fault).collect()
    }

    /// The lines that differ from another transcript's, without what the standard leaves undefined: a report,
    /// empty if there are none. `is_named` says of a call and both answers whether they may differ.
    pub fn differences(&self, direct: &Self, is_named: fn(&str, &str, &str) -> bool) -> String {
        let mut report = String::new();
        let mut differences = 0;
        for (number, (want, got)) in self.against(direct).enumerate() {
            if got == want {
                continue;
            }
            let (call, answer) = parts(&want);
            let (same, here) = parts(&got);
            if call == same && is_named(call, answer, here) {
                continue;
            }
            let _ = writeln!(report, "{number}: direct: {want}\n{number}: here:   {got}");
            differences += 1;
            if differences == MOST_DIFFERENCES {
                let _ = writeln!(report, "and more");
                return report;
            }
            if call != same {
                let _ = writeln!(report, "and so on: the calls differ from here on");
                return report;
            }
        }
        if self.lines.len() > direct.lines.len() {
            let _ = writeln!(report, "more lines");
        }
        report
    }

    /// The lines of another transcript with ours, both without what the standard leaves undefined.
    pub fn against<'a>(&'a self, direct: &'a Self) -> impl Iterator<Item = (String, String)> + 'a {
        direct.lines.iter().enumerate().map(|(number, want)| {
            let got = self.lines.get(number).map_or("", String::as_str);
            (defined(want), defined(got))
        })
    }
}

/// A call and its answer.
pub fn parts(line: &str) -> (&str, &str) {
    line.split_once(" -> ").unwrap_or((line, ""))
}

/// A line without its parts `(undefined: ...)`.
fn defined(line: &str) -> String {
    let mut kept = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("(undefined: ") {
        kept.push_str(before.trim_end());
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    kept + rest
}

/// The calls in a recorder's log, without its lines of another kind.
pub fn recorded(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| {
            !line.starts_with("OVERLAP")
                && !line.contains(": Notify ")
                && !line.contains(" returns: ")
        })
        .collect()
}

/// Where two lists of calls part: a report, empty if they are equal.
pub fn parted(want: &[String], got: &[String]) -> String {
    let same = want.iter().zip(got).take_while(|(a, b)| a == b).count();
    if same == want.len().max(got.len()) {
        return String::new();
    }
    let some = |calls: &[String]| -> String {
        let rest = calls.iter().skip(same).take(3);
        rest.map(|call| format!("  {call}\n")).collect()
    };
    format!(
        "after {same} calls, called:\n{}but recorded:\n{}",
        some(want),
        some(got)
    )
}
