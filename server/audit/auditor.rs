//! Runs the auditor: a process that writes the log, and signs it.
//!
//! Records come from each worker over a socket of its own. The controller sends the other end of it, and whose worker
//! that is, before the worker gets its client. The auditor keeps the log and the key, and nothing else: no listener, no client, no module. It
//! never gives the key to anybody: the controller and the workers do not have it.
//!
//! While it cannot write, it says so in [`Flags`], keeps or counts what comes, as the site wants, and tries again each
//! second.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use filter::Rules;
use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::SigSet;
use openssl::pkey::{PKey, Private};
use xdr::Function;

use super::book::{Book, Opened, Unusable};
use super::chain::{self, Head};
use super::lines::{self, Event, Modules, hashed};
use super::records::{self, Flags, FromWorker, Given, Received, Told, receive};
use super::{AuditConfig, WhenFull, hex, printable};
use crate::channel::WorkerEnd;
use crate::logging::{self, Severity, log};

/// How often it tries again to write.
const AGAIN: Duration = Duration::from_secs(1);

/// The same while another daemon, which this one replaces, still has the file.
const SOON: Duration = Duration::from_millis(50);

/// How long it goes on to try at its end, while another daemon has the file.
const LAST_TRIES: Duration = Duration::from_millis(500);

/// Bytes of lines that are kept while they cannot be written. With more, workers wait.
const KEPT: usize = 1 << 20;

/// How long it sleeps between two batches of records. To wake it for each costs the worker more than to send.
const NAP: Duration = Duration::from_millis(1);

/// The controller's channel among what is watched. The others are processes.
const CONTROLLER: u64 = u64::MAX;

/// Sockets that are looked at before it looks at everything else, and records that are taken from each.
const SOCKETS: usize = 64;
const RECORDS: usize = 16;

/// The exit status if it cannot go on.
const FAILED: i32 = 72;

/// What the auditor inherits from the controller.
pub struct Inheritance<'a> {
    /// The section `audit`.
    pub config: &'a AuditConfig,
    /// What all processes see.
    pub flags: Flags,
    /// The configuration file.
    pub conf: &'a Path,
    /// The services, with their rules.
    pub services: Vec<(&'a str, Arc<Rules>)>,
    /// The controller.
    pub controller: u32,
}

/// A worker that has a client.
struct Connection {
    given: Given,
    /// Where its records come from.
    records: OwnedFd,
    has_called: bool,
    malformed: u64,
}

/// What is wrong with the section `audit`, before anything is started: the place, and the text.
pub fn check(config: &AuditConfig, takes_over: bool) -> Result<(), config_file::Fault> {
    check_key(config)?;
    match Book::open(&config.file) {
        Err(Unusable::InUse) if takes_over => Ok(()),
        Err(error) => {
            let text = format!("{}: {error}", config.file.display());
            Err(config.file_place.fault(text))
        }
        Ok(_) => Ok(()),
    }
}

/// What is wrong with the key.
pub fn check_key(config: &AuditConfig) -> Result<(), config_file::Fault> {
    let key = load_key(&config.key);
    key.map(drop).map_err(|error| config.key_place.fault(error))
}

fn load_key(path: &Path) -> Result<PKey<Private>, String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut pem = Vec::new();
        File::open(path)?.take(1 << 16).read_to_end(&mut pem)?;
        Ok(pem)
    };
    let failed = |error: String| format!("{}: {error}", path.display());
    let pem = read().map_err(|error| failed(format!("cannot be read: {error}")))?;
    let pem = zeroize::Zeroizing::new(pem);
    chain::private_key(&pem).map_err(failed)
}

/// Runs the auditor; returns its exit status.
pub fn run(inheritance: &Inheritance<'_>, channel: WorkerEnd) -> i32 {
    let channel = Arc::new(channel);
    logging::switch(channel.clone(), "audit");
    // The controller says when it is over, also where a signal goes to all processes of the daemon.
    let confined = SigSet::all()
        .thread_set_mask()
        .and_then(|()| setrlimit(Resource::RLIMIT_CORE, 0, 0))
        .and_then(|()| prctl::set_dumpable(false))
        .and_then(|()| prctl::set_no_new_privs());
    let key = confined
        .map_err(|error| error.to_string())
        .and_then(|()| load_key(&inheritance.config.key));
    let watched = key.and_then(|key| {
        let epoll = watch(&channel).map_err(|error| error.to_string())?;
        Ok((key, epoll))
    });
    match watched {
        Ok((key, epoll)) => Auditor::new(inheritance, key, epoll).run(&channel),
        Err(error) => {
            log(Severity::Alert, format_args!("cannot audit: {error}"));
            FAILED
        }
    }
}

/// How many of the waiting records were taken.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Taken {
    /// There was none, or no room for any.
    Nothing,
    /// There may be more.
    Some,
    /// Of each socket that was looked at.
    All,
}

/// Watches the controller's channel.
fn watch(channel: &WorkerEnd) -> nix::Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(channel, EpollEvent::new(EpollFlags::EPOLLIN, CONTROLLER))?;
    Ok(epoll)
}

struct Auditor<'a> {
    inheritance: &'a Inheritance<'a>,
    key: PKey<Private>,
    /// None until it could be opened.
    book: Option<Book>,
    head: Head,
    /// Lines that could not be written, in their order.
    kept: VecDeque<Vec<u8>>,
    kept_bytes: usize,
    /// Whether lines cannot be written; then when to try again.
    failing: Option<Instant>,
    /// Records that were not written, since a line said so.
    lost: u64,
    connections: HashMap<i32, Connection>,
    /// Processes that have ended. What they sent may not be read yet.
    left: Vec<i32>,
    epoll: Epoll,
    /// Whether the controller has told of the workers that there were when it started.
    is_ready: bool,
    unsigned: u64,
    /// When the first line that is not signed was written.
    unsigned_since: Option<Instant>,
    /// Whether the controller has said that it is over, or is gone.
    end: Option<End>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum End {
    Orderly,
    Orphaned,
}

impl<'a> Auditor<'a> {
    fn new(inheritance: &'a Inheritance<'a>, key: PKey<Private>, epoll: Epoll) -> Auditor<'a> {
        Auditor {
            inheritance,
            key,
            book: None,
            head: Head::default(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            failing: Some(Instant::now()),
            lost: 0,
            connections: HashMap::new(),
            left: Vec::new(),
            epoll,
            is_ready: false,
            unsigned: 0,
            unsigned_since: None,
            end: None,
        }
    }

    fn run(mut self, channel: &WorkerEnd) -> i32 {
        let mut buffer = vec![0; records::LONGEST];
        loop {
            self.listen(channel, &mut buffer);
            if self.failing.is_some_and(|at| Instant::now() >= at) {
                self.try_again();
            }
            let taken = self.take_records(&mut buffer);
            for process in std::mem::take(&mut self.left) {
                self.forget(process, &mut buffer);
            }
            if let Some(end) = self
                .end
                .filter(|_| taken == Taken::Nothing || self.failing.is_some())
            {
                return self.finish(end);
            }
            self.sign_if_due();
            match taken {
                Taken::Nothing => self.wait(channel),
                Taken::All => std::thread::sleep(NAP),
                Taken::Some => {}
            }
        }
    }

    /// Whether records may be taken: the controller has told of all workers, and more lines may be kept.
    fn has_room(&self) -> bool {
        if !self.is_ready {
            return false;
        }
        match self.inheritance.config.when_full {
            WhenFull::Refuse => self.book.is_some() && self.kept_bytes < KEPT,
            WhenFull::Count => true,
        }
    }

    fn wait(&self, channel: &WorkerEnd) {
        let now = Instant::now();
        let sign_at = self
            .unsigned_since
            .and_then(|since| since.checked_add(self.inheritance.config.sign_interval));
        let next = [self.failing, sign_at].into_iter().flatten().min();
        let left = next.map(|at| at.saturating_duration_since(now) + Duration::from_millis(1));
        // An error shows when it reads.
        if self.has_room() {
            let timeout =
                left.map(|left| EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX));
            let mut events = [EpollEvent::empty()];
            let _ = self
                .epoll
                .wait(&mut events, timeout.unwrap_or(EpollTimeout::NONE));
        } else {
            let timeout = left.map(|left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            let mut watched = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut watched, timeout.unwrap_or(PollTimeout::NONE));
        }
    }

    /// Takes what the controller says.
    fn listen(&mut self, channel: &WorkerEnd, buffer: &mut [u8]) {
        loop {
            let (length, records) = match bindings::sys::receive_now(channel.as_fd(), buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) | Ok((0, _)) => {
                    self.end.get_or_insert(End::Orphaned);
                    return;
                }
                Ok(received) => received,
            };
            let told = serde_json::from_slice(buffer.get(..length).unwrap_or_default());
            match (told, records) {
                (Ok(Told::Given(given)), Some(records)) => self.given(given, records),
                (Ok(Told::Ready), _) => self.is_ready = true,
                (Ok(Told::Left(process)), _) => self.left.push(process),
                (Ok(Told::Reopen), _) => self.reopen(),
                (Ok(Told::MoveAside), _) => self.move_aside(),
                (Ok(Told::End), _) => self.end = Some(End::Orderly),
                (Ok(Told::Given(_)) | Err(_), _) => {}
            }
        }
    }

    fn given(&mut self, given: Given, records: OwnedFd) {
        let process = given.pid;
        let show = |text: &String| printable(text.as_bytes());
        let connection = Connection {
            given: Given {
                peer: show(&given.peer),
                user: show(&given.user),
                profile: show(&given.profile),
                service: show(&given.service),
                ..given
            },
            records,
            has_called: false,
            malformed: 0,
        };
        let key = u64::try_from(process).unwrap_or(CONTROLLER);
        let event = EpollEvent::new(EpollFlags::EPOLLIN, key);
        if let Err(error) = self.epoll.add(&connection.records, event) {
            log(
                Severity::Alert,
                format_args!("cannot watch the records of process {process}: {error}"),
            );
        }
        self.connections.insert(process, connection);
    }

    /// Takes records.
    fn take_records(&mut self, buffer: &mut [u8]) -> Taken {
        if !self.has_room() {
            return Taken::Nothing;
        }
        let mut events = [EpollEvent::empty(); SOCKETS];
        let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO);
        let mut taken = Taken::Nothing;
        for event in events.iter().take(ready.unwrap_or(0)) {
            let Ok(process) = i32::try_from(event.data()) else {
                continue;
            };
            let mut count = 0;
            while count < RECORDS && self.has_room() && self.take_record(process, buffer) {
                count += 1;
            }
            taken = match count {
                RECORDS => Taken::Some,
                0 => taken,
                _ if taken == Taken::Some => taken,
                _ => Taken::All,
            };
        }
        taken
    }

    /// Takes a record of a process; tells whether there was one.
    fn take_record(&mut self, process: i32, buffer: &mut [u8]) -> bool {
        let Some(connection) = self.connections.get(&process) else {
            return false;
        };
        match receive(connection.records.as_fd(), buffer) {
            Received::Message { length } => {
                let record = serde_json::from_slice(buffer.get(..length).unwrap_or_default());
                self.take(process, record.ok());
                true
            }
            Received::Nothing => false,
            Received::Closed => {
                self.disconnect(process);
                false
            }
        }
    }

    /// A process has ended: takes the rest of its records.
    fn forget(&mut self, process: i32, buffer: &mut [u8]) {
        while self.has_room() {
            if !self.take_record(process, buffer) {
                return self.disconnect(process);
            }
        }
        self.left.push(process);
    }

    fn disconnect(&mut self, process: i32) {
        if let Some(connection) = self.connections.remove(&process) {
            // The controller has a copy: closing this one does not take it out.
            let _ = self.epoll.delete(&connection.records);
        }
    }

    fn take(&mut self, process: i32, record: Option<FromWorker>) {
        let Some(mut connection) = self.connections.remove(&process) else {
            return;
        };
        match record {
            Some(FromWorker::Peer(peer)) if connection.given.awaits_header => {
                connection.given.awaits_header = false;
                connection.given.peer = printable(peer.as_bytes());
            }
            // Another auditor may know it from the controller already.
            Some(FromWorker::User(user)) if !connection.has_called => {
                set_once(&mut connection.given.user, &user);
            }
            Some(FromWorker::Profile(profile)) if !connection.has_called => {
                set_once(&mut connection.given.profile, &profile);
            }
            Some(FromWorker::Call(record)) if Function::from_number(record.function).is_some() => {
                connection.has_called = true;
                self.write(&Event::Call(lines::call(&connection.given, record)));
            }
            _ => {
                connection.malformed = connection.malformed.saturating_add(1);
                let number = connection.given.connection;
                self.malformed(number, process, connection.malformed);
            }
        }
        self.connections.insert(process, connection);
    }

    /// The first, the second, the fourth and so on are told.
    fn malformed(&mut self, connection: usize, process: i32, count: u64) {
        if !count.is_power_of_two() {
            return;
        }
        log(
            Severity::Alert,
            format_args!(
                "process {process} sent the auditor what is no record, {count} times so far"
            ),
        );
        self.write(&Event::Malformed {
            connection,
            process,
            count,
        });
    }

    /// Writes a line, or keeps or counts it.
    fn write(&mut self, event: &Event<'_>) {
        let (line, head) = self.head.next(&now(), event);
        if self.failing.is_none() {
            match self.append(&line) {
                Ok(()) => return self.written(head),
                Err(error) => self.fail(&error),
            }
        }
        match self.inheritance.config.when_full {
            WhenFull::Refuse if self.book.is_some() => {
                self.kept_bytes = self.kept_bytes.saturating_add(line.len());
                self.kept.push_back(line);
                self.written(head);
            }
            _ => self.lost = self.lost.saturating_add(1),
        }
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        match &mut self.book {
            Some(book) => book.append(line),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn written(&mut self, head: Head) {
        self.head = head;
        self.unsigned = self.unsigned.saturating_add(1);
        self.unsigned_since.get_or_insert_with(Instant::now);
    }

    fn fail(&mut self, error: &dyn std::fmt::Display) {
        let effect = match self.inheritance.config.when_full {
            WhenFull::Refuse => "calls are refused",
            WhenFull::Count => "calls are executed and not recorded",
        };
        let file = self.inheritance.config.file.display();
        log(
            Severity::Alert,
            format_args!("{file}: cannot be written, {effect}: {error}"),
        );
        self.inheritance.flags.set_writable(false);
        self.failing = Some(Instant::now() + AGAIN);
    }

    /// Opens the log if that is still to be done, and writes what was kept.
    fn try_again(&mut self) {
        if self.book.is_none() {
            return self.begin();
        }
        self.failing = Some(Instant::now() + AGAIN);
        while let Some(line) = self.kept.pop_front() {
            if self.append(&line).is_err() {
                self.kept.push_front(line);
                return;
            }
            self.kept_bytes = self.kept_bytes.saturating_sub(line.len());
        }
        let flags = self.inheritance.flags;
        let (refused, lost) = (flags.refused(), self.lost.saturating_add(flags.lost()));
        let resumed = Event::Resumed { refused, lost };
        let (line, head) = self.head.next(&now(), &resumed);
        if self.append(&line).is_err() {
            return;
        }
        self.written(head);
        flags.told(refused, lost.saturating_sub(self.lost));
        self.lost = 0;
        self.failing = None;
        flags.set_writable(true);
        let file = self.inheritance.config.file.display();
        log(
            Severity::Notice,
            format_args!(
                "{file}: is written again; {refused} calls were refused, {lost} are not recorded"
            ),
        );
    }

    /// Opens the log and writes the start line.
    fn begin(&mut self) {
        let config = self.inheritance.config;
        let Opened { book, head, cut } = match Book::open(&config.file) {
            Ok(opened) => opened,
            // Its auditor goes on in a file of its own.
            Err(Unusable::InUse) => {
                self.failing = Some(Instant::now() + SOON);
                return;
            }
            Err(error) => return self.fail(&error),
        };
        if cut > 0 {
            let file = config.file.display();
            log(
                Severity::Warning,
                format_args!("{file}: {cut} bytes of an unfinished line were cut off"),
            );
        }
        self.book = Some(book);
        self.head = head;
        self.failing = None;
        self.inheritance.flags.set_writable(true);
        let start = self.start_event(cut);
        self.write(&start);
        self.sign();
    }

    fn start_event(&self, cut: u64) -> Event<'static> {
        let Inheritance {
            config,
            conf,
            services,
            controller,
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
            previous: hex(&self.head.hash),
            version: env!("CARGO_PKG_VERSION"),
            controller: *controller,
            sign_lines: config.sign_lines,
            sign_interval: config.sign_interval.as_secs_f64(),
            cut,
            configuration,
            services: modules.collect(),
        }
    }

    fn sign_if_due(&mut self) {
        let config = self.inheritance.config;
        let is_old = |since: Instant| since.elapsed() >= config.sign_interval;
        let is_due = self.unsigned >= config.sign_lines || self.unsigned_since.is_some_and(is_old);
        if is_due && self.unsigned > 0 && self.failing.is_none() {
            self.tell_of_gap();
            self.sign();
        }
    }

    /// Says how many calls are missing in the log, if some are and no line says so.
    fn tell_of_gap(&mut self) {
        let flags = self.inheritance.flags;
        let (refused, lost) = (flags.refused(), flags.lost());
        if refused > 0 || lost > 0 {
            self.write(&Event::Resumed { refused, lost });
            flags.told(refused, lost);
        }
    }

    fn sign(&mut self) {
        match chain::sign(&self.key, &self.head.hash) {
            Ok(signature) => {
                let head = hex(&self.head.hash);
                self.write(&Event::Signed { head, signature });
                self.unsigned = 0;
                self.unsigned_since = None;
            }
            Err(error) => log(Severity::Alert, format_args!("cannot sign: {error}")),
        }
    }

    /// Goes on in a new file if this one was renamed.
    fn reopen(&mut self) {
        let config = self.inheritance.config;
        let was_moved = self.book.as_ref().is_some_and(Book::was_moved);
        if was_moved {
            self.go_on_in(config.file.clone());
        }
    }

    /// Goes on in a file beside it, named after this daemon.
    fn move_aside(&mut self) {
        let mut name = self.inheritance.config.file.clone().into_os_string();
        name.push(format!(".{}", self.inheritance.controller));
        self.go_on_in(PathBuf::from(name));
    }

    /// Ends this file and begins another one, which must be new or empty.
    fn go_on_in(&mut self, path: PathBuf) {
        let opened = match Book::open(&path) {
            Ok(opened) if opened.head == Head::default() => opened,
            Ok(_) => {
                let path = path.display();
                return log(
                    Severity::Err,
                    format_args!("{path}: is not empty; the audit log stays in its old file"),
                );
            }
            Err(error) => {
                let path = path.display();
                return log(
                    Severity::Err,
                    format_args!("{path}: {error}; the audit log stays in its old file"),
                );
            }
        };
        // What was kept belongs to the old file.
        if self.failing.is_some() {
            self.try_again();
        }
        if self.failing.is_some() {
            return log(
                Severity::Err,
                format_args!("the audit log stays in its old file until that can be written"),
            );
        }
        self.write(&Event::Rotated);
        self.sign();
        if self.failing.is_some() {
            // These lines come into the old file when that can be written.
            return;
        }
        self.book = Some(opened.book);
        self.write(&Event::Continue {
            previous: hex(&self.head.hash),
            file: printable(path.as_os_str().as_encoded_bytes()),
        });
        self.sign();
    }

    fn finish(mut self, end: End) -> i32 {
        let until = Instant::now() + LAST_TRIES;
        while self.failing.is_some() {
            self.try_again();
            if self.book.is_some() || Instant::now() >= until {
                break;
            }
            std::thread::sleep(SOON);
        }
        // What came while it could not write.
        if self.failing.is_none() {
            let mut buffer = vec![0; records::LONGEST];
            while self.take_records(&mut buffer) != Taken::Nothing {}
        }
        self.tell_of_gap();
        if end == End::Orderly {
            self.write(&Event::End);
        }
        self.sign();
        match self.failing {
            None => 0,
            Some(_) => FAILED,
        }
    }
}

/// Keeps the first text.
fn set_once(known: &mut String, told: &str) {
    if known.is_empty() {
        *known = printable(told.as_bytes());
    }
}

/// The time of a line: UTC, with microseconds (RFC 3339).
fn now() -> String {
    format!("{:.6}", Timestamp::now())
}
