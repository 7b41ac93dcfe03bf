//! Writes the lines of the log in batches, signs them regularly, and changes to another file at a rotation.
//!
//! Events come from `auditor`. Their lines are collected and written together. After a signature a separate thread
//! syncs the file to disk, so that nobody waits for the disk. While lines cannot be written, the writer says so in
//! `records::Flags` and tries again each second. Meanwhile it keeps the collected lines or counts the calls as lost, as
//! `when_full` says.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use openssl::pkey::{PKey, Private};
use serde::Deserialize;

use super::auditor::Inheritance;
use super::book::{Book, Opened, Unusable};
use super::chain::{self, Head};
use super::journal::{self, Journal};
use super::keeper::{Keeper, sync};
use super::lines::{Event, Modules, hashed};
use super::{AuditConfig, WhenFull, hex, printable};
use crate::logging::{Severity, log};

/// How often it tries again to write.
const AGAIN: Duration = Duration::from_secs(1);

/// How often it tries again while another daemon, which this one replaces, still has the file.
const SOON: Duration = Duration::from_millis(50);

/// How long another daemon may have the file before an alert is logged and `when_full` applies. Until then the workers'
/// rings keep the records, unless calls are only counted.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long it keeps trying to open the log when the daemon ends.
const LAST_TRIES: Duration = Duration::from_millis(500);

/// Upper bound on the bytes of collected lines. The last line may exceed it.
pub(super) const BATCH: usize = 256 << 10;

/// Upper bound on the bytes of lines that were written and whose records may still be in a ring.
const WINDOW: usize = 4 * BATCH;

/// A position in the log.
#[derive(Clone, Copy)]
struct State {
    /// The last line.
    head: Head,
    /// The number of lines after the last signature.
    unsigned: u64,
    /// When the first of them was collected.
    unsigned_since: Option<Instant>,
}

/// The log, and the lines that are collected for it.
pub(super) struct Writer<'a> {
    inheritance: &'a Inheritance<'a>,
    key: PKey<Private>,
    /// The open file; none until it could be opened.
    book: Option<Book>,
    /// The lines that are collected.
    batch: Vec<u8>,
    /// The number of calls among them.
    calls: u64,
    /// Whether a signature is among them.
    is_signed: bool,
    /// The position after the collected lines.
    state: State,
    /// The position before the collected lines.
    written: State,
    /// When to try again, if lines cannot be written.
    failing: Option<Instant>,
    /// Since when another daemon has had the file, and whether it has had it for too long.
    in_use_since: Option<Instant>,
    is_in_use: bool,
    /// If changing to another file has failed: when to try again, and that file.
    next_file: Option<(Instant, PathBuf)>,
    /// Calls that were not written and that no line mentions yet.
    lost: u64,
    clock: Clock,
    keeper: Keeper,
    /// None if no line is copied to the journal.
    journal: Option<Journal>,
}

impl<'a> Writer<'a> {
    /// Creates the writer. [`Writer::try_if_due`] opens the log.
    pub(super) fn new(inheritance: &'a Inheritance<'a>, key: PKey<Private>) -> Writer<'a> {
        let copied = inheritance.config.journal.as_ref();
        let state = State {
            head: Head::default(),
            unsigned: 0,
            unsigned_since: None,
        };
        Writer {
            inheritance,
            key,
            book: None,
            batch: Vec::new(),
            calls: 0,
            is_signed: false,
            state,
            written: state,
            failing: Some(Instant::now()),
            in_use_since: None,
            is_in_use: false,
            next_file: None,
            lost: 0,
            clock: Clock::default(),
            keeper: Keeper::default(),
            journal: copied.map(|(copied, _)| Journal::new(Path::new(journal::SOCKET), *copied)),
        }
    }

    fn config(&self) -> &'a AuditConfig {
        self.inheritance.config
    }

    /// Whether lines cannot be written now.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// Whether lines of calls may be collected.
    pub(super) fn has_room(&self) -> bool {
        match self.config().when_full {
            WhenFull::Refuse => self.failing.is_none() && self.batch.len() < BATCH,
            WhenFull::Count => self.batch.len() < BATCH,
        }
    }

    /// When the writer next has something to do.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let since = self.written.unsigned_since;
        let sign_at = since.and_then(|since| since.checked_add(self.config().sign_interval));
        let go_on_at = self.next_file.as_ref().map(|(at, _)| *at);
        [self.failing, sign_at, go_on_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Collects a line.
    pub(super) fn write(&mut self, event: &Event<'_>) {
        let is_call = matches!(event, Event::Call(_) | Event::Unfinished(_));
        let counts = self.failing.is_some() && self.config().when_full == WhenFull::Count;
        if counts || self.book.is_none() {
            self.lost = self.lost.saturating_add(is_call.into());
            return;
        }
        self.calls += u64::from(is_call);
        self.add(event);
        if self.state.unsigned >= self.config().sign_lines {
            self.sign();
        }
    }

    fn add(&mut self, event: &Event<'_>) {
        let state = &mut self.state;
        state.head = state.head.append(&mut self.batch, self.clock.time(), event);
        state.unsigned = state.unsigned.saturating_add(1);
        state.unsigned_since.get_or_insert_with(Instant::now);
    }

    /// Writes the collected lines. Returns false if they could not be written and are kept.
    pub(super) fn commit(&mut self) -> bool {
        if self.keeper.has_failed() {
            self.fail(&"what was written may not be on the disk");
        }
        if self.batch.is_empty() {
            return true;
        }
        if self.failing.is_none() {
            match self.append() {
                Ok(()) => return true,
                Err(error) => self.fail(&error),
            }
        }
        match self.config().when_full {
            WhenFull::Refuse => false,
            WhenFull::Count => {
                self.lost = self.lost.saturating_add(self.calls);
                self.forget();
                true
            }
        }
    }

    fn append(&mut self) -> io::Result<()> {
        let book = self.book.as_mut().ok_or(io::ErrorKind::NotFound)?;
        book.append(&self.batch)?;
        if let Some(journal) = &mut self.journal {
            journal.copy(&self.batch);
        }
        let is_signed = self.is_signed;
        self.written = self.state;
        self.forget();
        if is_signed {
            self.keep();
        }
        Ok(())
    }

    /// Forgets the lines that were collected.
    fn forget(&mut self) {
        self.batch.clear();
        self.calls = 0;
        self.is_signed = false;
        self.state = self.written;
    }

    /// Has the file synced to disk.
    fn keep(&mut self) {
        match self.book.as_ref().map(Book::file) {
            Some(Ok(file)) => self.keeper.keep(file),
            Some(Err(_)) => self.keeper.fail(),
            None => {}
        }
    }

    fn fail(&mut self, error: &dyn std::fmt::Display) {
        let effect = match self.config().when_full {
            WhenFull::Refuse => "calls are refused",
            WhenFull::Count => "calls are executed and not recorded",
        };
        let file = self.config().file.display();
        log(
            Severity::Alert,
            format_args!("{file}: cannot be written, {effect}: {error}"),
        );
        self.inheritance.flags.set_writable(false);
        self.failing = Some(Instant::now() + AGAIN);
    }

    /// If it is time to try again: opens the log if it is not open yet, or writes the collected lines.
    pub(super) fn try_if_due(&mut self) {
        if self.failing.is_some_and(|at| Instant::now() >= at) {
            self.try_again();
        }
        let is_due = |(at, _): &mut (Instant, PathBuf)| Instant::now() >= *at;
        if let Some((_, path)) = self.next_file.take_if(is_due) {
            if let Err(_reason) = self.try_to_go_on_in(&path) {
                self.next_file = Some((Instant::now() + AGAIN, path));
            }
        }
    }

    fn try_again(&mut self) {
        if self.book.is_none() {
            return self.begin();
        }
        self.failing = Some(Instant::now() + AGAIN);
        if self.append().is_err() {
            return;
        }
        let flags = self.inheritance.flags;
        let (refused, lost) = (flags.refused(), self.lost);
        self.add(&Event::Resumed { refused, lost });
        if self.append().is_err() {
            return self.forget();
        }
        flags.told(refused);
        self.lost = 0;
        self.failing = None;
        flags.set_writable(true);
        let file = self.config().file.display();
        log(
            Severity::Notice,
            format_args!(
                "{file}: is written again; {refused} calls were refused, {lost} are not recorded"
            ),
        );
    }

    /// Opens the log and writes the start line.
    fn begin(&mut self) {
        let path = self.path();
        let Opened { book, head, cut } = match Book::open(&path) {
            Ok(opened) => opened,
            // The other daemon's auditor will go on in another file.
            Err(Unusable::InUse) => {
                let since = *self.in_use_since.get_or_insert_with(Instant::now);
                if !self.is_in_use && since.elapsed() >= PATIENCE {
                    self.is_in_use = true;
                    self.fail(&Unusable::InUse);
                }
                self.failing = Some(Instant::now() + SOON);
                return;
            }
            Err(error) => return self.fail(&error),
        };
        if cut > 0 {
            let file = path.display();
            log(
                Severity::Warning,
                format_args!("{file}: {cut} bytes of an unfinished line were cut off"),
            );
        }
        self.is_in_use = false;
        self.book = Some(book);
        self.state.head = head;
        self.written = self.state;
        self.failing = None;
        self.inheritance.flags.set_writable(true);
        let start = self.start_event(cut);
        self.add(&start);
        self.sign();
        self.commit();
    }

    fn start_event(&self, cut: u64) -> Event<'static> {
        let Inheritance {
            config,
            conf,
            services,
            controller,
            auditors_before,
            started,
            ..
        } = self.inheritance;
        let mut configuration = vec![hashed(String::new(), conf)];
        configuration.extend(
            services
                .iter()
                .map(|(_, rules)| hashed(String::new(), &rules.file)),
        );
        let modules = services.iter().map(|(service, rules)| {
            let modules = rules.modules.iter();
            let modules = modules.map(|module| hashed(printable(&module.alias_text), &module.path));
            Modules {
                service: printable(service.as_bytes()),
                modules: modules.collect(),
            }
        });
        Event::Start {
            previous: hex(&self.state.head.hash),
            version: env!("CARGO_PKG_VERSION"),
            controller: *controller,
            started: started.clone(),
            auditor: auditors_before.saturating_add(1),
            sign_lines: config.sign_lines,
            sign_interval: config.sign_interval.as_secs_f64(),
            cut,
            configuration,
            services: modules.collect(),
        }
    }

    /// Connection and number of the last calls that earlier auditors of this daemon have written.
    pub(super) fn calls_before(&self) -> HashSet<(usize, u64)> {
        let end = self.book.as_ref().map(|book| book.end(WINDOW));
        let end = end.and_then(Result::ok).unwrap_or_default();
        calls_of(&self.inheritance.started, &end)
    }

    /// Signs the last line if it is time for that.
    pub(super) fn sign_if_due(&mut self) {
        let interval = self.config().sign_interval;
        let is_old = |since: Instant| since.elapsed() >= interval;
        if self.failing.is_none() && self.state.unsigned_since.is_some_and(is_old) {
            self.tell_of_gap();
            self.sign();
        }
    }

    /// Adds a line that says how many calls are missing in the log, if there are any.
    fn tell_of_gap(&mut self) {
        let flags = self.inheritance.flags;
        let (refused, lost) = (flags.refused(), self.lost);
        if refused > 0 || lost > 0 {
            self.add(&Event::Resumed { refused, lost });
            flags.told(refused);
            self.lost = 0;
        }
    }

    fn sign(&mut self) {
        match chain::sign(&self.key, &self.state.head.hash) {
            Ok(signature) => {
                let head = hex(&self.state.head.hash);
                self.add(&Event::Signed { head, signature });
                self.state.unsigned = 0;
                self.state.unsigned_since = None;
                self.is_signed = true;
            }
            Err(error) => log(Severity::Alert, format_args!("cannot sign: {error}")),
        }
    }

    /// The path of the log's file.
    fn path(&self) -> PathBuf {
        match self.inheritance.is_aside {
            true => self.aside(),
            false => self.config().file.clone(),
        }
    }

    /// The path of a file beside the configured one, named after this daemon's controller and its start. With the
    /// process id alone it could be the file of an earlier daemon.
    fn aside(&self) -> PathBuf {
        let mut name = self.config().file.clone().into_os_string();
        let started = self.inheritance.started.replace(':', "");
        name.push(format!(".{}-{started}", self.inheritance.controller));
        PathBuf::from(name)
    }

    /// Goes on in a new file if this one was renamed.
    pub(super) fn reopen(&mut self) {
        if self.book.as_ref().is_some_and(Book::was_moved) {
            self.go_on_in(self.path());
        }
    }

    /// Goes on in the file beside the configured one.
    pub(super) fn move_aside(&mut self) {
        self.go_on_in(self.aside());
    }

    /// Ends this file and begins another one. Tries again later if that fails.
    fn go_on_in(&mut self, path: PathBuf) {
        // An earlier change that failed is no longer wanted.
        self.next_file = None;
        if let Err(reason) = self.try_to_go_on_in(&path) {
            log(
                Severity::Err,
                format_args!("{reason}; the audit log stays in its old file"),
            );
            self.next_file = Some((Instant::now() + AGAIN, path));
        }
    }

    /// Ends this file and begins another one, which must be new or empty.
    fn try_to_go_on_in(&mut self, path: &Path) -> Result<(), String> {
        let opened = match Book::open(path) {
            Ok(opened) if opened.head == Head::default() => opened,
            Ok(_) => return Err(format!("{}: is not empty", path.display())),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        // The collected lines belong to the old file.
        if self.failing.is_some() {
            self.try_again();
        }
        if self.failing.is_some() {
            return Err("the old file cannot be written".to_owned());
        }
        self.add(&Event::Rotated);
        self.sign();
        if !self.commit() || self.failing.is_some() {
            // These lines come into the old file when that can be written, and then the change is tried again.
            return Err("the old file cannot be written".to_owned());
        }
        self.book = Some(opened.book);
        self.add(&Event::Continue {
            previous: hex(&self.state.head.hash),
            file: printable(path.as_os_str().as_encoded_bytes()),
        });
        self.sign();
        self.commit();
        Ok(())
    }

    /// Tries for a moment to make the log writable before the last lines come.
    pub(super) fn try_last(&mut self) {
        let until = Instant::now() + LAST_TRIES;
        while self.failing.is_some() {
            self.try_again();
            if self.book.is_some() || Instant::now() >= until {
                break;
            }
            thread::sleep(SOON);
        }
    }

    /// Writes the last lines and syncs the file. Returns whether that worked.
    pub(super) fn finish(&mut self, is_orderly: bool) -> bool {
        self.tell_of_gap();
        if is_orderly {
            self.write(&Event::End);
        }
        if self.book.is_some() {
            self.sign();
        }
        let is_written = self.commit() && self.failing.is_none();
        let file = self.book.as_ref().map(Book::file);
        is_written && file.is_some_and(|file| file.and_then(|file| sync(&file)).is_ok())
    }
}

/// Returns connection and number of the calls in these lines that belong to the daemon that was started at this time.
/// Connections of other daemons have the same numbers.
fn calls_of(started: &str, lines: &[u8]) -> HashSet<(usize, u64)> {
    #[derive(Deserialize)]
    struct Written {
        started: Option<String>,
        auditor: Option<u32>,
        connection: Option<usize>,
        call: Option<u64>,
    }
    let mut calls = HashSet::new();
    // The start line of the first calls may be missing.
    let mut is_others = false;
    for line in lines.split(|byte| *byte == b'\n') {
        let Ok(written) = serde_json::from_slice::<Written>(line) else {
            continue;
        };
        if let Some(other) = written.started {
            if is_others || other != started || written.auditor == Some(1) {
                calls.clear();
            }
            is_others = other != started;
        }
        if let (Some(connection), Some(call)) = (written.connection, written.call) {
            calls.insert((connection, call));
        }
    }
    calls
}

/// Tells the time of a line: UTC, with microseconds (RFC 3339).
#[derive(Default)]
struct Clock {
    second: i64,
    /// The time as text. Its first `fixed` bytes stay the same within a second.
    text: String,
    fixed: usize,
}

impl Clock {
    fn time(&mut self) -> &str {
        let now = Timestamp::now();
        if now.as_second() != self.second || self.text.is_empty() {
            self.second = now.as_second();
            self.text = format!("{now:.0}");
            self.text.pop();
            self.fixed = self.text.len();
        }
        self.text.truncate(self.fixed);
        // Writing into a string does not fail.
        let _ = write!(self.text, ".{:06}Z", now.subsec_microsecond());
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_another_daemon_are_not_taken_for_those_of_this_one() {
        let start = |daemon: &str, auditor: u32| {
            format!("{{\"event\":\"start\",\"started\":\"{daemon}\",\"auditor\":{auditor}}}")
        };
        let call = |call: u64| format!("{{\"event\":\"call\",\"connection\":1,\"call\":{call}}}");
        let found = |lines: &[String]| {
            let calls = calls_of("ours", lines.join("\n").as_bytes());
            let mut numbers: Vec<u64> = calls.into_iter().map(|(_, call)| call).collect();
            numbers.sort_unstable();
            numbers
        };
        let cut = [call(4), start("ours", 2), call(5), start("ours", 3)];
        assert_eq!(found(&cut), [4, 5]);
        let first = [call(4), start("ours", 1), call(5), start("ours", 2)];
        assert_eq!(found(&first), [5]);
        let other = [
            start("other", 1),
            call(4),
            start("ours", 1),
            call(1),
            start("ours", 2),
        ];
        assert_eq!(found(&other), [1]);
        // The first auditor was killed before it wrote a line.
        let silent = [
            start("other", 1),
            call(4),
            start("other", 2),
            call(5),
            start("ours", 2),
        ];
        assert_eq!(found(&silent), [0; 0]);
    }

    #[test]
    fn the_time_of_a_line_has_microseconds_and_goes_on_within_a_second() {
        let mut clock = Clock::default();
        let mut last = String::new();
        for _ in 0..1000 {
            let time = clock.time().to_owned();
            assert_eq!(time.len(), "2026-11-29T12:00:00.000000Z".len(), "{time}");
            assert!(time.parse::<Timestamp>().is_ok() && time >= last, "{time}");
            last = time;
        }
    }
}
