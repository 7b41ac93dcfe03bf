//! Checks whether an audit log was changed: `pkcs11proxyctl audit verify`.
//!
//! Reads the files of a log in order; needs only the public key. Each finding is a sentence with file and line. Calls
//! that were not recorded leave gaps in the call numbers of a connection. Lines after the last signature can be forged
//! by anybody, so the report says how many there are. If the last runs of the daemon were cut off whole, back to an
//! orderly end, the files that are left do not show it.

use std::collections::{BTreeMap, BTreeSet};

use openssl::pkey::{PKey, Public};

use super::chain::{self, Hash, Head, Line};

/// The result of the verification.
#[derive(Debug, Default)]
pub struct Report {
    /// Signs that the log was changed: `file:line: text`.
    pub findings: Vec<String>,
    /// Other remarks, in the same form.
    pub notes: Vec<String>,
    /// The number of lines.
    pub lines: u64,
    /// The number of the last line that is signed.
    pub signed: u64,
}

/// How the log ends, as far as it was read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ending {
    /// Without an orderly end.
    Open,
    /// With a line that says `end` or `rotated`.
    Said,
    /// With that line and a signature of it.
    Signed,
}

/// Upper bound on the notes about calls without a line.
const MOST_GAPS: usize = 20;

/// The numbers of a connection's calls. Calls in parallel end in any order.
#[derive(Default)]
struct Calls {
    /// All calls with lower numbers have a line.
    next: u64,
    /// Calls with higher numbers that have a line, and the place of that line.
    ahead: BTreeMap<u64, String>,
}

/// Reads a log from its first line to its last.
pub struct Verifier {
    key: PKey<Public>,
    report: Report,
    file: String,
    line: u64,
    is_first_of_file: bool,
    /// The last line in order; none before the first.
    head: Option<Head>,
    /// The hash that the last line should have, if it has another one.
    computed: Option<Hash>,
    /// Ranges of missing lines: first and last number, and the place where they should be.
    missing: Vec<(u64, u64, String)>,
    /// The numbers of lines that are out of order.
    moved: BTreeSet<u64>,
    ending: Ending,
    /// Upper bound on the lines between two signatures, as a line says that is signed.
    sign_lines: Option<u64>,
    /// The same of a line that is not signed yet.
    next_sign_lines: Option<u64>,
    /// The connections of the current run of the daemon.
    connections: BTreeMap<u64, Calls>,
    /// Whether that run was read from its beginning.
    is_whole: bool,
    gaps: usize,
}

/// The name of standard input among the files. What comes from there may begin with any line, as what the journal has of a
/// day.
pub const STANDARD_INPUT: &str = "standard input";

impl Verifier {
    /// Creates a verifier for a log that is signed with this key.
    pub fn new(key: PKey<Public>) -> Verifier {
        Verifier {
            key,
            report: Report::default(),
            file: String::new(),
            line: 0,
            is_first_of_file: false,
            head: None,
            computed: None,
            missing: Vec::new(),
            moved: BTreeSet::new(),
            ending: Ending::Open,
            sign_lines: None,
            next_sign_lines: None,
            connections: BTreeMap::new(),
            is_whole: false,
            gaps: 0,
        }
    }

    /// Reads the next file.
    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.file = name.to_owned();
        self.line = 0;
        self.is_first_of_file = true;
        if content.is_empty() {
            self.line = 1;
            self.find("the file is empty");
        }
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            self.line += 1;
            match line.strip_suffix(b"\n") {
                Some(line) => self.check(line),
                None => self.find("the line is cut off"),
            }
            self.is_first_of_file = false;
        }
    }

    /// Returns the result. If the daemon still writes the log (`is_running`), an orderly end is not required.
    pub fn finish(mut self, is_running: bool) -> Report {
        self.end_run();
        for (first, last, place) in std::mem::take(&mut self.missing) {
            let gone: Vec<u64> = (first..=last)
                .filter(|number| !self.moved.contains(number))
                .take(3)
                .collect();
            let text = match *gone.as_slice() {
                [] => continue,
                [one] => format!("{place}: the line number {one} before it was removed"),
                _ => format!("{place}: the lines number {first} to {last} before it were removed"),
            };
            self.report.findings.push(text);
        }
        if self.report.signed == 0 {
            self.find("nothing is signed with this key");
        }
        let last = self.head.map_or(0, |head| head.number);
        let unsigned = last.saturating_sub(self.report.signed);
        if self.is_too_much(unsigned) {
            self.find("more lines than the daemon leaves unsigned follow the last signature");
        }
        if self.ending != Ending::Signed {
            let text =
                "the log has no orderly end: the daemon runs, was killed, or the end was cut off";
            match is_running {
                true => self.note(text),
                false => self.find(text),
            }
            if unsigned > 0 {
                self.note(&format!("the last {unsigned} lines are not yet signed"));
            }
        }
        self.report
    }

    /// Whether the daemon signs before there are so many lines behind a signature, that line included.
    fn is_too_much(&self, unsigned: u64) -> bool {
        self.sign_lines
            .is_some_and(|most| unsigned > most.saturating_add(1))
    }

    /// Notes that a call has a line.
    fn count(&mut self, connection: u64, call: u64) {
        let first = if self.is_whole { 1 } else { call };
        let place = self.place();
        let calls = self.connections.entry(connection).or_insert(Calls {
            next: first,
            ahead: BTreeMap::new(),
        });
        if call > calls.next {
            calls.ahead.insert(call, place);
        } else if call == calls.next {
            calls.next = calls.next.saturating_add(1);
            while calls.ahead.remove(&calls.next).is_some() {
                calls.next = calls.next.saturating_add(1);
            }
        }
    }

    /// Ends a run of the daemon: notes which of its calls have no line.
    fn end_run(&mut self) {
        for (connection, calls) in std::mem::take(&mut self.connections) {
            let mut next = calls.next;
            for (call, place) in calls.ahead {
                if call > next && self.gaps < MOST_GAPS {
                    self.gaps += 1;
                    let last = call - 1;
                    let which = match next == last {
                        true => format!("call number {next}"),
                        false => format!("calls number {next} to {last}"),
                    };
                    let text =
                        format!("{place}: of connection {connection}, no line tells of {which}");
                    self.report.notes.push(text);
                }
                next = call.saturating_add(1);
            }
        }
    }

    fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    fn find(&mut self, text: &str) {
        let text = format!("{}: {text}", self.place());
        self.report.findings.push(text);
    }

    fn note(&mut self, text: &str) {
        let text = format!("{}: {text}", self.place());
        self.report.notes.push(text);
    }

    fn check(&mut self, line: &[u8]) {
        self.report.lines += 1;
        let Ok(line) = Line::read(line) else {
            self.find("the line was changed: it is not a line of an audit log");
            // The next line's hash cannot be checked.
            if let Some(head) = &mut self.head {
                head.number = head.number.saturating_add(1);
                self.computed = None;
                head.hash = Hash::default();
            }
            self.ending = Ending::Open;
            return;
        };
        let told = line.members.previous.as_deref().map(chain::read_hash);
        let before = match (self.head, told) {
            (None, Some(Some(previous))) => {
                let number = line.head.number.saturating_sub(1);
                let is_start = line.members.event == "start";
                if number > 0 && is_start && self.file != STANDARD_INPUT {
                    // A file goes on with a start only behind its own lines.
                    self.find(&format!("the {number} lines before it were removed"));
                } else if number > 0 {
                    let text = format!("the log begins in a file before: {number} lines");
                    self.note(&text);
                }
                Head {
                    number,
                    hash: previous,
                }
            }
            (None, _) => {
                self.find("the lines before it were removed");
                self.head = Some(line.head);
                return;
            }
            (Some(head), Some(previous)) => {
                if previous != Some(head.hash) && line.head.number <= head.number.saturating_add(1)
                {
                    self.find("the file does not continue the one before");
                }
                head
            }
            (Some(head), None) if self.is_first_of_file => {
                self.find("the file does not begin with its first line");
                head
            }
            (Some(head), None) => head,
        };
        self.compare(&line, before);
    }

    fn compare(&mut self, line: &Line<'_>, before: Head) {
        let expected = before.number.saturating_add(1);
        let number = line.head.number;
        if number < expected {
            self.find(&format!(
                "the line number {number} is repeated or was moved: it stands behind number {}",
                before.number
            ));
            self.moved.insert(number);
            return;
        }
        if number > expected {
            self.missing.push((expected, number - 1, self.place()));
        } else {
            let follows = line.follows(&before.hash)
                || self
                    .computed
                    .is_some_and(|computed| line.follows(&computed));
            // The hash of a line behind an unreadable one cannot be checked; the unreadable one was reported.
            let is_known = before.hash != Hash::default() || before.number == 0;
            self.computed = None;
            if !follows && is_known {
                self.find("the line was changed");
                self.computed = Some(line.computed(&before.hash));
            }
        }
        self.head = Some(line.head);
        self.follow(line, before);
    }

    /// Evaluates the line's members.
    fn follow(&mut self, line: &Line<'_>, before: Head) {
        let members = &line.members;
        match members.event.as_str() {
            "signed" => {
                let head = members.head.as_deref().and_then(chain::read_hash);
                let signature = members.signature.as_deref().unwrap_or_default();
                if head == Some(before.hash) && chain::is_signed(&self.key, &before.hash, signature)
                {
                    self.report.signed = before.number;
                    self.sign_lines = self.next_sign_lines.take().or(self.sign_lines);
                    if self.ending == Ending::Said {
                        self.ending = Ending::Signed;
                    }
                    return;
                }
                let signed = self.report.signed;
                self.find(&format!(
                    "the signature does not fit: lines behind number {signed} were changed, or the key is another"
                ));
                self.ending = Ending::Open;
            }
            "end" | "rotated" => self.ending = Ending::Said,
            event => {
                if event == "start" && members.auditor.unwrap_or(1) == 1 {
                    self.end_run();
                    self.is_whole = true;
                }
                if let (Some(connection), Some(call)) = (members.connection, members.call) {
                    self.count(connection, call);
                }
                if event == "start" && before.number > 0 && self.ending != Ending::Signed {
                    self.note("the daemon had no orderly end before this start");
                    // The signature behind the start covers these lines, whoever wrote them.
                    if self.is_too_much(before.number.saturating_sub(self.report.signed)) {
                        self.find(
                            "more lines than the daemon leaves unsigned stand before this start",
                        );
                    }
                }
                self.next_sign_lines = members.sign_lines.or(self.next_sign_lines);
                self.ending = Ending::Open;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use openssl::pkey::Private;

    use super::*;

    /// A log of this many calls between start and end.
    fn log(key: &PKey<Private>, calls: usize) -> Vec<String> {
        let mut head = Head::default();
        let mut lines = Vec::new();
        let mut add = |event: serde_json::Value| {
            let (line, next) = head.next("t", &event);
            head = next;
            lines.push(String::from_utf8(line).unwrap());
            chain::sign(key, &next.hash).unwrap()
        };
        let mut signed = |event: serde_json::Value| {
            let signature = add(event);
            // The head is in the line that was added last.
            signature
        };
        let zeros = "0".repeat(64);
        signed(serde_json::json!({"event": "start", "previous": zeros, "sign_lines": 4}));
        for number in 0..calls {
            signed(serde_json::json!({"event": "call", "call": number}));
        }
        let signature = signed(serde_json::json!({"event": "end"}));
        let end = lines.last().unwrap().trim_end();
        let digits = &end[end.len() - 66..end.len() - 2];
        let event = serde_json::json!({"event": "signed", "head": digits, "signature": signature});
        let read = Line::read(end.as_bytes()).unwrap();
        let (line, _) = read.head.next("t", &event);
        lines.push(String::from_utf8(line).unwrap());
        lines
    }

    fn found(key: &PKey<Private>, lines: &[String]) -> Vec<String> {
        let public = chain::public_key(&key.public_key_to_pem().unwrap()).unwrap();
        let mut verifier = Verifier::new(public);
        verifier.file("f", lines.concat().as_bytes());
        verifier.finish(false).findings
    }

    #[test]
    fn calls_without_a_line_are_noted_and_those_in_parallel_come_in_any_order() {
        let key = PKey::generate_ed25519().unwrap();
        let public = chain::public_key(&key.public_key_to_pem().unwrap()).unwrap();
        let notes = |first: u32, calls: &[(u64, u64)]| {
            let mut verifier = Verifier::new(public.clone());
            let zeros = "0".repeat(64);
            let start = serde_json::json!({"event": "start", "previous": zeros, "auditor": first});
            let (mut log, mut head) = Head::default().next("t", &start);
            for (connection, call) in calls {
                let event =
                    serde_json::json!({"event": "call", "connection": connection, "call": call});
                head = head.append(&mut log, "t", &event);
            }
            verifier.file("f", &log);
            let notes = verifier.finish(true).notes.into_iter();
            notes
                .filter(|note| note.contains("of connection"))
                .collect::<Vec<_>>()
        };
        assert_eq!(notes(1, &[(1, 2), (1, 1), (2, 1), (1, 4), (1, 3)]), [""; 0]);
        assert_eq!(
            notes(1, &[(1, 1), (1, 3), (7, 4), (1, 4)]),
            [
                "f:3: of connection 1, no line tells of call number 2",
                "f:4: of connection 7, no line tells of calls number 1 to 3",
            ]
        );
        // If the start of a run is missing, the first call numbers of its connections are unknown.
        assert_eq!(notes(2, &[(1, 5), (1, 4), (1, 6)]), [""; 0]);
    }

    #[test]
    fn each_kind_of_tampering_is_found_and_named() {
        let key = PKey::generate_ed25519().unwrap();
        let lines = log(&key, 3);
        assert_eq!(found(&key, &lines), Vec::<String>::new());

        for removed in 1..lines.len() - 1 {
            let mut without = lines.clone();
            without.remove(removed);
            let text = format!(
                "f:{}: the line number {} before it was removed",
                removed + 1,
                removed + 1
            );
            assert!(found(&key, &without).contains(&text), "{removed}");
        }
        assert_eq!(
            found(&key, &lines[1..])[0],
            "f:1: the lines before it were removed"
        );

        let mut changed = lines.clone();
        changed[2] = changed[2].replace("\"call\":1", "\"call\":7");
        assert_eq!(found(&key, &changed), ["f:3: the line was changed"]);
        let mut changed = lines.clone();
        let end = changed[2].len() - 4;
        changed[2].replace_range(end - 2..end, "zz");
        let text = "f:3: the line was changed: it is not a line of an audit log";
        assert_eq!(found(&key, &changed), [text]);
        let mut changed = lines.clone();
        let last = &changed[2][end - 1..end].to_owned();
        changed[2].replace_range(end - 1..end, if last == "0" { "1" } else { "0" });
        assert_eq!(found(&key, &changed), ["f:3: the line was changed"]);

        let mut moved = lines.clone();
        moved.swap(2, 3);
        let found_moved = found(&key, &moved);
        assert_eq!(found_moved.len(), 1, "{found_moved:?}");
        assert!(found_moved[0].starts_with("f:4: the line number 3 is repeated or was moved"));

        let cut: Vec<String> = lines[..4].to_vec();
        assert!(
            found(&key, &cut)
                .iter()
                .any(|text| text.contains("no orderly end"))
        );
        let mut cut = lines.clone();
        cut[5].truncate(20);
        assert_eq!(found(&key, &cut)[0], "f:6: the line is cut off");
        // A forger can compute all hashes anew, but cannot sign.
        let other = PKey::generate_ed25519().unwrap();
        let forged = found(&key, &log(&other, 3));
        assert!(
            forged[0].starts_with("f:6: the signature does not fit"),
            "{forged:?}"
        );
    }

    /// A log to which lines are added, each signed or not.
    struct Growing<'a> {
        key: &'a PKey<Private>,
        head: Head,
        lines: Vec<String>,
    }

    impl<'a> Growing<'a> {
        fn new(key: &'a PKey<Private>) -> Growing<'a> {
            Growing {
                key,
                head: Head::default(),
                lines: Vec::new(),
            }
        }

        fn add(&mut self, event: &serde_json::Value) {
            let (line, next) = self.head.next("t", event);
            self.head = next;
            self.lines.push(String::from_utf8(line).unwrap());
        }

        fn sign(&mut self) {
            let signature = chain::sign(self.key, &self.head.hash).unwrap();
            let head = crate::audit::hex(&self.head.hash);
            self.add(&serde_json::json!({"event": "signed", "head": head, "signature": signature}));
        }

        fn start(&mut self) {
            let previous = crate::audit::hex(&self.head.hash);
            self.add(&serde_json::json!({"event": "start", "previous": previous, "sign_lines": 4}));
            self.sign();
        }

        fn calls(&mut self, count: u64) {
            for _ in 0..count {
                self.add(&serde_json::json!({"event": "call"}));
            }
        }

        fn found(&self) -> Vec<String> {
            let public = chain::public_key(&self.key.public_key_to_pem().unwrap()).unwrap();
            let mut verifier = Verifier::new(public);
            verifier.file("f", self.lines.concat().as_bytes());
            verifier.finish(true).findings
        }
    }

    #[test]
    fn a_forged_end_is_found_when_it_is_longer_than_what_is_left_unsigned() {
        let key = PKey::generate_ed25519().unwrap();
        for (calls, is_found) in [(3, false), (4, false), (5, true), (50, true)] {
            let mut log = Growing::new(&key);
            log.start();
            log.calls(calls);
            let last = log.found();
            // A daemon that is started now signs these lines with its own.
            log.start();
            let before_start = log.found();
            for found in [last, before_start] {
                let is_named = found.iter().any(|it| it.contains("leaves unsigned"));
                assert_eq!(
                    (is_named, found.len()),
                    (is_found, usize::from(is_found)),
                    "{found:?}"
                );
            }
        }
    }

    #[test]
    fn lines_that_are_not_signed_do_not_say_how_many_may_be() {
        let key = PKey::generate_ed25519().unwrap();
        let mut log = Growing::new(&key);
        log.start();
        log.add(&serde_json::json!({"event": "call", "sign_lines": u64::MAX}));
        log.calls(50);
        assert_eq!(log.found().len(), 1);
    }

    #[test]
    fn a_file_begins_with_a_start_only_if_it_is_the_first_line_of_all() {
        let key = PKey::generate_ed25519().unwrap();
        let mut log = Growing::new(&key);
        log.start();
        log.calls(1);
        log.start();
        assert!(log.found().is_empty());
        log.lines.drain(..3);
        assert_eq!(log.found(), ["f:1: the 3 lines before it were removed"]);
        let public = chain::public_key(&key.public_key_to_pem().unwrap()).unwrap();
        let mut verifier = Verifier::new(public);
        verifier.file(STANDARD_INPUT, log.lines.concat().as_bytes());
        assert!(verifier.finish(true).findings.is_empty());
    }
}
