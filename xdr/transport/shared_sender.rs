//! Lets several threads send records over one connection; one thread sends at a time.
//!
//! A thread that wants to send a short record while another one is sending leaves its record with that thread and goes
//! on. The sending thread then sends all records that were left with it, in one message, which TLS encrypts as one
//! piece. So many threads need fewer system calls and rarely wait for each other. A long record is never copied: its
//! thread waits until no thread sends.
//!
//! A thread that is about to make others send can have them leave their records with it ([`SharedSender::hold`]). One that
//! expects others to send soon anyway can first yield the processor once ([`SharedSender::gather_and_send`]).
//!
//! No thread has to send for the others for ever: after [`ROUNDS`] messages it accepts no more records, and other
//! threads wait until it is done.

use std::io;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use xdr::codec::{Slices, make_room, wipe};

use crate::deadline::Deadline;
use crate::halves::Sender;

/// A record of more bytes than this is not left with another thread.
const SHORT: usize = 4 << 10;

/// How many bytes are left with a thread at a time, at most.
const MOST_LEFT: usize = 64 << 10;

/// How many messages a thread sends for others, at most.
const ROUNDS: u32 = 4;

/// The half to the peer, for several threads.
pub struct SharedSender {
    state: Mutex<State>,
    /// Signalled when no thread sends any more.
    free: Condvar,
    /// The time limit for all messages together that a thread sends for others.
    time: Duration,
}

struct State {
    /// `None` while a thread sends.
    idle: Option<Box<Idle>>,
    /// Whole records for the sending thread to send as well.
    left: Vec<u8>,
    /// How many more times the sending thread looks for such records.
    rounds: u32,
    /// How many threads wait until no thread sends.
    waiting: usize,
    /// Whether a message was not sent whole, so that nothing more can be sent.
    has_failed: bool,
}

struct Idle {
    sender: Sender,
    /// The memory for the next records that are left with the thread; empty.
    spare: Vec<u8>,
}

impl SharedSender {
    /// Lets threads share this half. `time` limits how long a thread may take to send its own record
    /// ([`SharedSender::deadline`]), and again to send all that others left.
    pub fn new(sender: Sender, time: Duration) -> SharedSender {
        SharedSender {
            state: Mutex::new(State {
                idle: Some(Box::new(Idle {
                    sender,
                    spare: Vec::new(),
                })),
                left: Vec::new(),
                rounds: 0,
                waiting: 0,
                has_failed: false,
            }),
            free: Condvar::new(),
            time,
        }
    }

    /// The deadline for a record that is sent from now on.
    pub fn deadline(&self) -> Deadline {
        Deadline::after(self.time)
    }

    /// Sends a whole record, or leaves it with the thread that is sending. `begin` returns the record's deadline, and
    /// records go out in the order in which it was called for them; if it fails, nothing is sent. Fails with
    /// [`io::ErrorKind::TimedOut`] if the peer did not take a message in time.
    ///
    /// A failure is reported to the thread that sends, not to those that left records with it. After a failure nothing
    /// more can be sent, so the connection has to be ended.
    pub fn send<E: From<io::Error>>(
        &self,
        record: &mut Slices<'_>,
        begin: impl FnOnce() -> Result<Deadline, E>,
    ) -> Result<(), E> {
        self.send_as(record, begin, None)
    }

    /// Does the same. But if no thread is sending, and the record is short, this thread first lets other threads run
    /// on its processor: those that are about to send records leave them with it. Worth while if several threads are
    /// busy with calls.
    pub fn gather_and_send<E: From<io::Error>>(
        &self,
        record: &mut Slices<'_>,
        begin: impl FnOnce() -> Result<Deadline, E>,
    ) -> Result<(), E> {
        self.send_as(record, begin, Some(&thread::yield_now))
    }

    fn send_as<E: From<io::Error>>(
        &self,
        record: &mut Slices<'_>,
        begin: impl FnOnce() -> Result<Deadline, E>,
        pause: Option<&dyn Fn()>,
    ) -> Result<(), E> {
        let mut state = self.state();
        let idle = loop {
            if state.has_failed {
                return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
            }
            if let Some(idle) = state.idle.take() {
                break idle;
            }
            if state.has_room(record.len()) {
                begin()?;
                record.append_to(&mut state.left).map_err(io::Error::from)?;
                return Ok(());
            }
            state = self.wait(state);
        };
        let deadline = match begin() {
            Ok(deadline) => deadline,
            Err(error) => {
                self.give_back(state, idle);
                return Err(error);
            }
        };
        if let Some(pause) = pause.filter(|_| record.len() <= SHORT) {
            let appended = record.append_to(&mut state.left);
            let turn = Turn::new(self, state, idle);
            appended.map_err(io::Error::from)?;
            pause();
            return Ok(turn.send_left(Some(deadline))?);
        }
        let turn = Turn::new(self, state, idle);
        Ok(turn.send(record, deadline)?)
    }

    /// Makes other threads leave their short records with this thread until it sends them, which it must do soon.
    /// `None` if a thread is sending already, or if sending has failed.
    pub fn hold(&self) -> Option<Held<'_>> {
        let mut state = self.state();
        if state.has_failed {
            return None;
        }
        let idle = state.idle.take()?;
        Some(Held(Turn::new(self, state, idle)))
    }

    /// Waits until no thread sends. Records that were left with a thread are sent then, unless sending failed.
    pub fn finish(&self) {
        let mut state = self.state();
        while state.idle.is_none() && !state.has_failed {
            state = self.wait(state);
        }
        self.give_way(state);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        state.waiting += 1;
        let waited = self.free.wait(state);
        state = waited.unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state
    }

    fn give_back(&self, mut state: MutexGuard<'_, State>, idle: Box<Idle>) {
        state.idle = Some(idle);
        self.give_way(state);
    }

    /// Wakes a thread that waits until no thread sends.
    fn give_way(&self, state: MutexGuard<'_, State>) {
        let is_awaited = state.waiting > 0;
        drop(state);
        if is_awaited {
            self.free.notify_one();
        }
    }
}

impl State {
    /// Makes room for a record of this length, if it can be left.
    fn has_room(&mut self, length: usize) -> bool {
        self.rounds > 0
            && length <= SHORT
            && self.left.len() + length <= MOST_LEFT
            && make_room(&mut self.left, length).is_ok()
    }
}

/// The turn of a thread that sends. If it ends before everything was sent, no thread can send any more.
struct Turn<'a> {
    shared: &'a SharedSender,
    /// `None` when the turn is over.
    idle: Option<Box<Idle>>,
}

/// The turn of a thread that has nothing to send itself. It must send what others left: if this is dropped instead,
/// no thread can send any more.
pub struct Held<'a>(Turn<'a>);

impl Held<'_> {
    /// Sends what others have left meanwhile. Fails as [`SharedSender::send`] does.
    pub fn send(self) -> io::Result<()> {
        self.0.send_left(None)
    }
}

impl<'a> Turn<'a> {
    fn new(
        shared: &'a SharedSender,
        mut state: MutexGuard<'_, State>,
        idle: Box<Idle>,
    ) -> Turn<'a> {
        state.rounds = ROUNDS;
        let idle = Some(idle);
        Turn { shared, idle }
    }

    /// Sends this record, then what others leave.
    fn send(mut self, record: &mut Slices<'_>, deadline: Deadline) -> io::Result<()> {
        if let Some(idle) = &mut self.idle {
            idle.sender.send_record(record, deadline)?;
        }
        self.send_left(None)
    }

    /// Sends what others leave. If this thread has left its own record as well, the first message has this deadline.
    fn send_left(mut self, mut own: Option<Deadline>) -> io::Result<()> {
        let mut for_others = None;
        while let Some(idle) = &mut self.idle {
            let mut state = self.shared.state();
            if state.left.is_empty() {
                if let Some(idle) = self.idle.take() {
                    self.shared.give_back(state, idle);
                }
                break;
            }
            mem::swap(&mut state.left, &mut idle.spare);
            state.rounds = state.rounds.saturating_sub(1);
            drop(state);
            let mut records = Slices::from(idle.spare.as_slice());
            let deadline = own
                .take()
                .unwrap_or_else(|| *for_others.get_or_insert_with(|| self.shared.deadline()));
            let sent = idle.sender.send_record(&mut records, deadline);
            wipe(&mut idle.spare);
            idle.spare.clear();
            sent?;
        }
        Ok(())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.idle.is_none() {
            return;
        }
        let mut state = self.shared.state();
        state.has_failed = true;
        wipe(&mut state.left);
        state.left.clear();
        drop(state);
        self.shared.free.notify_all();
    }
}

#[cfg(test)]
mod tests;
