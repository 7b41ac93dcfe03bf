//! Runs the auditor: the process that writes and signs the audit log.
//!
//! Each worker puts its records into memory that only it and the auditor share (`ring`). Over a socket the worker says
//! who its client is, and wakes the auditor when there are records. Before a worker gets its client, the controller
//! sends the auditor this socket and this memory, and says which client it is. The auditor has the log and the key, and
//! nothing else: no listener, no client, no module. It never gives the key away: the controller and the workers do not
//! have it.
//!
//! The auditor frees the memory of a record only when its line is written (`writer`). If the auditor is killed, the
//! next one finds the records that were not written, and skips those that are in the log already.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use filter::Rules;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::SigSet;
use openssl::pkey::{PKey, Private};
use xdr::Function;

use super::book::{Book, Unusable};
use super::connection::Connection;
use super::lines::{self, Event};
use super::records::{self, Flags, Given, Received, Told, receive};
use super::ring::{Next, Reader};
use super::writer::Writer;
use super::{AuditConfig, call_record, chain, journal};
use crate::channel::WorkerEnd;
use crate::logging::{self, Severity, log};
use crate::tls::acceptor;

/// Pause between two batches of records. A wake-up for each record would cost more than reading it.
const NAP: Duration = Duration::from_millis(1);

/// The epoll key of the controller's channel. The keys of the sockets are connection numbers.
const CONTROLLER: u64 = u64::MAX;

/// Upper bounds for one turn of the loop: sockets that are read, and messages or records that are taken from each.
const SOCKETS: usize = 64;
const RECORDS: usize = 128;

/// Upper bound on the records taken from a worker that has ended; more than its ring can hold.
const LAST_RECORDS: usize = 8192;

/// How long it waits for the workers to end after the controller was killed. The kernel kills them with it.
const ORPHANED: Duration = Duration::from_millis(500);

/// The exit status if it cannot start, or cannot write the last lines.
const FAILED: i32 = 72;

/// What the auditor inherits from the controller.
pub struct Inheritance<'a> {
    /// The section `audit`.
    pub config: &'a AuditConfig,
    /// The flags that all processes of the daemon share.
    pub flags: Flags,
    /// The configuration file.
    pub conf: &'a Path,
    /// The services, with their rules.
    pub services: Vec<(&'a str, Arc<Rules>)>,
    /// The controller's process id.
    pub controller: u32,
    /// When the daemon was started. No other daemon with this log was started at the same time.
    pub started: String,
    /// How many auditors this daemon has had before this one.
    pub auditors_before: u32,
    /// Whether another daemon writes the log's file, so that this one writes a file beside it.
    pub is_aside: bool,
}

/// Checks the section `audit` before anything is started. With `takes_over`, another daemon may still have the log.
pub fn check(config: &AuditConfig, takes_over: bool) -> Result<(), config_file::Fault> {
    check_key(config)?;
    if let Some((_, place)) = &config.journal {
        if !Path::new(journal::SOCKET).exists() {
            let text = format!("there is no journal here: {} is missing", journal::SOCKET);
            return Err(place.fault(text));
        }
    }
    match Book::open(&config.file) {
        Err(Unusable::InUse) if takes_over => Ok(()),
        Err(error) => {
            let text = format!("{}: {error}", config.file.display());
            Err(config.file_place.fault(text))
        }
        Ok(_) => Ok(()),
    }
}

/// Checks that the key is a readable Ed25519 private key.
pub fn check_key(config: &AuditConfig) -> Result<(), config_file::Fault> {
    let key = load_key(&config.key);
    key.map(drop).map_err(|error| config.key_place.fault(error))
}

fn load_key(path: &Path) -> Result<PKey<Private>, String> {
    let failed = |error: String| format!("{}: {error}", path.display());
    let pem = acceptor::read(path);
    let pem = pem.map_err(|error| failed(format!("cannot be read: {error}")))?;
    chain::private_key(&pem).map_err(failed)
}

/// Runs the auditor; returns its exit status.
pub fn run(inheritance: &Inheritance<'_>, channel: WorkerEnd) -> i32 {
    let channel = Arc::new(channel);
    logging::switch(channel.clone(), "audit");
    // Signals are blocked: the controller says when to end, even if a signal goes to all processes of the daemon.
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
        Ok((key, epoll)) => Auditor::new(inheritance, key, epoll, channel).run(),
        Err(error) => {
            inheritance.flags.set_writable(false);
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
    /// Some; there may be more.
    Some,
    /// All that the rings had.
    All,
}

/// Creates an epoll instance that watches the controller's channel.
fn watch(channel: &WorkerEnd) -> nix::Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(channel, EpollEvent::new(EpollFlags::EPOLLIN, CONTROLLER))?;
    Ok(epoll)
}

struct Auditor<'a> {
    writer: Writer<'a>,
    channel: Arc<WorkerEnd>,
    connections: HashMap<usize, Connection>,
    /// Connections whose rings are polled, without a wake-up.
    active: Vec<usize>,
    /// Connections with lines that are collected but not yet written.
    taken_from: Vec<usize>,
    /// Connections whose worker has ended, and how it ended. They may still have records.
    left: Vec<(usize, String)>,
    /// Connections whose worker has ended and whose last lines are collected but not yet written.
    collected: Vec<usize>,
    /// Connection and number of the calls that an earlier auditor has written and whose records may still be in a ring.
    calls_before: HashSet<(usize, u64)>,
    epoll: Epoll,
    /// Whether the controller has named all workers that already had a client when this auditor started.
    is_ready: bool,
    has_predecessor: bool,
    /// Set when the controller has said that all workers have ended, or when the controller itself is gone.
    end: Option<End>,
    record: Vec<u8>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum End {
    Orderly,
    Orphaned,
}

impl<'a> Auditor<'a> {
    fn new(
        inheritance: &'a Inheritance<'a>,
        key: PKey<Private>,
        epoll: Epoll,
        channel: Arc<WorkerEnd>,
    ) -> Auditor<'a> {
        Auditor {
            writer: Writer::new(inheritance, key),
            channel,
            connections: HashMap::new(),
            active: Vec::new(),
            taken_from: Vec::new(),
            left: Vec::new(),
            collected: Vec::new(),
            calls_before: HashSet::new(),
            epoll,
            is_ready: false,
            has_predecessor: inheritance.auditors_before > 0,
            end: None,
            record: Vec::new(),
        }
    }

    fn run(mut self) -> i32 {
        let mut buffer = vec![0; records::LONGEST];
        // Workers end with the controller. A compromised one may not, and may go on writing records.
        let mut orphaned_since: Option<Instant> = None;
        loop {
            self.listen(&mut buffer);
            self.writer.try_if_due();
            if self.is_ready && self.has_predecessor && !self.writer.is_failing() {
                self.has_predecessor = false;
                self.calls_before = self.writer.calls_before();
            }
            let taken = self.take_records(&mut buffer);
            self.forget_left(&mut buffer);
            self.writer.sign_if_due();
            self.commit();
            if self.end == Some(End::Orphaned) {
                orphaned_since.get_or_insert_with(Instant::now);
            }
            let is_late = orphaned_since.is_some_and(|since| since.elapsed() >= ORPHANED);
            let is_stuck = self.writer.is_failing() || is_late;
            if let Some(end) = self.end.filter(|_| taken == Taken::Nothing || is_stuck) {
                return self.finish(end, &mut buffer);
            }
            match taken {
                Taken::Nothing if self.active.is_empty() || !self.has_room() => self.wait(),
                Taken::Nothing | Taken::All => std::thread::sleep(NAP),
                Taken::Some => {}
            }
        }
    }

    /// Whether records may be taken: the controller has named all workers, and more lines may be collected.
    fn has_room(&self) -> bool {
        self.is_ready && self.writer.has_room()
    }

    fn wait(&self) {
        let next = self.writer.next_wake();
        let left = next.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            left + Duration::from_millis(1)
        });
        // An error shows at the next read.
        if self.has_room() {
            let timeout =
                left.map(|left| EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX));
            let mut events = [EpollEvent::empty()];
            let _ = self
                .epoll
                .wait(&mut events, timeout.unwrap_or(EpollTimeout::NONE));
        } else {
            let timeout = left.map(|left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            let mut watched = [PollFd::new(self.channel.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut watched, timeout.unwrap_or(PollTimeout::NONE));
        }
    }

    /// Handles the controller's messages.
    fn listen(&mut self, buffer: &mut [u8]) {
        loop {
            let received = bindings::sys::receive_now(self.channel.as_fd(), buffer);
            let (length, descriptors) = match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) | Ok((0, _)) => {
                    self.end.get_or_insert(End::Orphaned);
                    return;
                }
                Ok(received) => received,
            };
            match serde_json::from_slice(buffer.get(..length).unwrap_or_default()) {
                Ok(Told::Given(given)) => self.given(given, descriptors),
                Ok(Told::Ready) => self.is_ready = true,
                Ok(Told::Left { connection, end }) => self.left.push((connection, end)),
                Ok(Told::Reopen) => self.writer.reopen(),
                Ok(Told::MoveAside) => self.writer.move_aside(),
                Ok(Told::End) => self.end = Some(End::Orderly),
                Err(_) => {}
            }
        }
    }

    fn given(&mut self, given: Given, descriptors: Vec<OwnedFd>) {
        let number = given.connection;
        let failed = |error: &dyn std::fmt::Display| {
            log(
                Severity::Alert,
                format_args!("the calls of connection {number} are not recorded: {error}"),
            );
        };
        let Ok([socket, memory]) = <[OwnedFd; 2]>::try_from(descriptors) else {
            return failed(&"descriptors are missing");
        };
        let ring = match Reader::open(&memory) {
            Ok(ring) => ring,
            Err(error) => return failed(&error),
        };
        let event = EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
        if let Err(error) = self.epoll.add(&socket, event) {
            failed(&error);
        }
        let mut connection = Connection::new(given, socket, ring);
        // A wake-up may have gone to the auditor before this one.
        if self.has_predecessor {
            connection.is_active = true;
            connection.ring.watch();
            self.active.push(number);
        }
        self.connections.insert(number, connection);
    }

    /// Takes messages and records from all connections that have some.
    fn take_records(&mut self, buffer: &mut [u8]) -> Taken {
        if !self.has_room() {
            return Taken::Nothing;
        }
        let mut events = [EpollEvent::empty(); SOCKETS];
        let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO);
        let ready = ready.unwrap_or(0);
        for event in events.iter().take(ready) {
            let Ok(number) = usize::try_from(event.data()) else {
                continue;
            };
            self.take_messages(number, buffer);
            if let Some(connection) = self.connections.get_mut(&number) {
                if !connection.is_active {
                    connection.is_active = true;
                    connection.ring.watch();
                    self.active.push(number);
                }
            }
        }
        let mut taken = Taken::Nothing;
        let mut active = std::mem::take(&mut self.active);
        // Another connection is the first each time.
        let turn = active.len().min(1);
        active.rotate_left(turn);
        active.retain(|number| {
            let count = self.take_records_of(*number, RECORDS, buffer);
            taken = match count {
                RECORDS => Taken::Some,
                0 => taken,
                _ if taken == Taken::Some => taken,
                _ => Taken::All,
            };
            if count > 0 || !self.has_room() {
                return true;
            }
            let Some(connection) = self.connections.get_mut(number) else {
                return false;
            };
            // If a record has arrived meanwhile, the ring stays among the polled ones.
            connection.is_active = !connection.ring.rest();
            if connection.is_active {
                connection.ring.watch();
            }
            connection.is_active
        });
        self.active = active;
        taken
    }

    /// Takes at most `most` records of a connection; returns how many.
    fn take_records_of(&mut self, number: usize, most: usize, buffer: &mut [u8]) -> usize {
        let has_called = |connection: &Connection| connection.has_called;
        if !self.connections.get(&number).is_some_and(has_called) {
            // Its messages say who its client is.
            self.take_messages(number, buffer);
        }
        let mut count = 0;
        while count < most && self.has_room() {
            let Some(connection) = self.connections.get_mut(&number) else {
                break;
            };
            match connection.ring.next(&mut self.record) {
                Next::Nothing => break,
                Next::Record => self.take_record(number, None),
                Next::Broken => self.malformed(number),
            }
            count += 1;
        }
        if count > 0 {
            self.taken_from.push(number);
        }
        count
    }

    /// Writes the line for the record in `self.record`. Only if its worker has `ended` may the record be without a
    /// result.
    fn take_record(&mut self, number: usize, ended: Option<&str>) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let record = call_record::decode(&self.record);
        let record = record.filter(|(begun, _)| Function::from_number(begun.function).is_some());
        let Some((begun, result)) = record else {
            return self.malformed(number);
        };
        connection.has_called = true;
        let call = begun.call;
        let is_written = || {
            ended.is_some() && connection.numbers.has(call)
                || self.calls_before.contains(&(number, call))
        };
        let line = match (result, ended) {
            _ if is_written() => None,
            (Some(result), _) => Some(lines::call(&connection.given, begun, result)),
            (None, Some(end)) => Some(lines::unfinished(&connection.given, begun, end)),
            (None, None) => return self.malformed(number),
        };
        if let Some(line) = line {
            self.writer.write(&line);
        }
        connection.numbers.take(call);
    }

    /// Handles the messages of a connection's worker.
    fn take_messages(&mut self, number: usize, buffer: &mut [u8]) {
        for _ in 0..RECORDS {
            let Some(connection) = self.connections.get_mut(&number) else {
                return;
            };
            let length = match receive(connection.socket.as_fd(), buffer) {
                Received::Message { length } => length,
                Received::Nothing => return,
                Received::Closed => {
                    // The controller says when the worker has ended. Closing the socket would not remove it from the
                    // epoll set, because the controller has a duplicate.
                    let _ = self.epoll.delete(&connection.socket);
                    return;
                }
            };
            if !connection.is_told(buffer.get(..length).unwrap_or_default()) {
                self.malformed(number);
            }
        }
    }

    /// Takes the last records of workers that have ended, while there is room.
    fn forget_left(&mut self, buffer: &mut [u8]) {
        for (number, end) in std::mem::take(&mut self.left) {
            if self.make_room() {
                self.forget(number, &end, buffer);
            } else {
                self.left.push((number, end));
            }
        }
    }

    /// Writes the collected lines if there is no room for more. Returns whether there is room.
    fn make_room(&mut self) -> bool {
        self.has_room() || self.commit() && self.has_room()
    }

    fn forget(&mut self, number: usize, end: &str, buffer: &mut [u8]) {
        if !self.connections.contains_key(&number) {
            // Its descriptors did not arrive. The controller keeps them for the next auditor.
            return;
        }
        let mut count = 0;
        while count < LAST_RECORDS {
            let taken = self.take_records_of(number, LAST_RECORDS, buffer);
            count += taken;
            if !self.make_room() {
                return self.left.push((number, end.to_owned()));
            }
            if taken == 0 {
                break;
            }
        }
        let connection = self.connections.get(&number);
        let in_flight = connection.map(|it| it.ring.in_flight().collect::<Vec<_>>());
        for record in in_flight.into_iter().flatten() {
            self.record = record;
            self.take_record(number, Some(end));
        }
        self.collected.push(number);
    }

    /// Writes the collected lines. Then frees the memory of their records, and tells the controller which of the ended
    /// workers are done. Returns false if the lines could not be written and are kept.
    fn commit(&mut self) -> bool {
        if !self.writer.commit() {
            return false;
        }
        for number in self.taken_from.drain(..) {
            if let Some(connection) = self.connections.get(&number) {
                connection.ring.give_back();
            }
        }
        for number in self.collected.drain(..) {
            if let Some(connection) = self.connections.remove(&number) {
                // It may have been removed already.
                let _ = self.epoll.delete(&connection.socket);
            }
            self.channel.written(number);
        }
        true
    }

    /// Counts something malformed that a worker sent. Reports the first, the second, the fourth and so on.
    fn malformed(&mut self, number: usize) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        connection.malformed = connection.malformed.saturating_add(1);
        let (process, count) = (connection.given.pid, connection.malformed);
        if !count.is_power_of_two() {
            return;
        }
        log(
            Severity::Alert,
            format_args!(
                "process {process} sent the auditor something that is not a record, {count} times so far"
            ),
        );
        self.writer.write(&Event::Malformed {
            connection: number,
            process,
            count,
        });
    }

    fn finish(mut self, end: End, buffer: &mut [u8]) -> i32 {
        self.writer.try_last();
        if end == End::Orphaned {
            self.is_ready = true;
            self.outlive_workers();
        }
        // Records that came while it could not write.
        let until = Instant::now() + ORPHANED;
        while self.take_records(buffer) != Taken::Nothing {
            let is_late = end == End::Orphaned && Instant::now() >= until;
            if !self.commit() || is_late {
                break;
            }
        }
        self.forget_left(buffer);
        self.commit();
        match self.writer.finish(end == End::Orderly) {
            true => 0,
            false => FAILED,
        }
    }

    /// Waits until the workers have ended, at most [`ORPHANED`]. The kernel kills them with the controller.
    fn outlive_workers(&mut self) {
        let until = Instant::now() + ORPHANED;
        for (number, connection) in &self.connections {
            let left = until.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            // No event is requested: that the other end was closed is always reported.
            let mut socket = [PollFd::new(connection.socket.as_fd(), PollFlags::empty())];
            if poll(&mut socket, left).is_ok_and(|ready| ready > 0) {
                self.left.push((*number, "with the daemon".to_owned()));
            }
        }
    }
}
