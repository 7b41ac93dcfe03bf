//! Decides which call may be sent, and which of the threads that wait for replies reads for all of them.
//!
//! A thread enters with its call and gets a [`Ticket`]. It waits for its turn, sends the call, and calls
//! [`Ticket::next`]. That returns its reply or a notification, if another thread has read it, or else the reader, if no
//! thread has the reader. The thread with the reader hands each record to its owner. When its own reply has come, it
//! gives the reader back, and another thread gets it. This file does no I/O: `connection` sends and receives.
//!
//! A thread that need not wait makes no system call here. No lock is held while waiting, and no thread-local destructor
//! is registered, so that the library can be unloaded. `connection::model` compiles this file a second time, to try
//! every interleaving of the threads.

use std::cell::Cell;
use std::collections::TryReserveError;
use std::mem;
use std::ptr;
use std::time::{Duration, Instant};

use transport::Deadline;
use xdr::codec::wipe;
use xdr::rpc::{Notification, Xid};

use super::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use crate::failure::Failure;

/// How long calls are announced as overlapping after they last did.
pub(super) const OVERLAPPING: Duration = Duration::from_secs(1);

/// Which other calls must be over before a call is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Order {
    /// All earlier calls; later calls wait for it.
    Alone,
    /// Earlier calls of this session.
    Of(u64),
    /// None.
    Free,
    /// None, and it does not count towards the limit, because it waits for an event.
    Waiting,
    /// None, even if the limit on calls is reached.
    AtOnce,
}

/// Why no more calls are made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stopped {
    /// The connection was lost; only C_Finalize and C_Initialize help.
    Lost,
    /// C_Finalize closed the connection.
    Closed,
}

impl From<Stopped> for Failure {
    fn from(stopped: Stopped) -> Failure {
        match stopped {
            Stopped::Lost => Failure::Lost,
            Stopped::Closed => Failure::Finalized,
        }
    }
}

/// The calls in progress, and the reader `R` while no thread has it.
pub(super) struct Exchange<R> {
    state: Mutex<State<R>>,
}

pub(super) struct State<R> {
    /// In the order of their arrival.
    pub(super) calls: Vec<Entry>,
    pub(super) reader: Option<R>,
    /// The xid of the call whose thread has the reader.
    reading: Option<u32>,
    pub(super) next_xid: u32,
    /// How many calls were sent so far.
    sent: u64,
    stopped: Option<Stopped>,
    /// The number of calls in flight, except those that wait for an event, and its limit.
    out: usize,
    limit: usize,
    /// The timeout of calls, except those that wait for an event.
    timeout: Duration,
    /// Whether the application has said that it calls from several threads.
    threads: bool,
    /// The thread that called last, and when calls last overlapped or came from different threads.
    last_thread: usize,
    pub(super) overlapped: Option<Instant>,
    /// Where the threads wait that must be woken when the state is unlocked.
    woken: Vec<Arc<Condvar>>,
}

/// Unlocks the state, then wakes threads. In the other order they would wait for the lock.
fn release<R>(mut state: MutexGuard<'_, State<R>>) {
    let woken = mem::take(&mut state.woken);
    drop(state);
    woken.iter().for_each(|place| place.notify_one());
}

pub(super) struct Entry {
    xid: u32,
    order: Order,
    is_out: bool,
    /// Its position among all calls that were sent, from 1; 0 before it is sent.
    sent: u64,
    /// The deadline for its reply.
    deadline: Option<Deadline>,
    /// The deadline for its reply while other calls are in flight; it is earlier.
    patience: Option<Deadline>,
    reply: Option<Vec<u8>>,
    /// The daemon's xid, and the notification.
    notification: Option<(Xid, Notification)>,
    /// Where its thread waits, until it is woken.
    parked: Option<Arc<Condvar>>,
}

impl Entry {
    fn wake(&mut self, woken: &mut Vec<Arc<Condvar>>) {
        woken.extend(self.parked.take());
    }

    /// Returns whether its thread waits for a reply, or is going to.
    fn is_unanswered(&self) -> bool {
        self.is_out && self.reply.is_none()
    }

    /// Returns whether it counts towards the limit, and has a deadline.
    fn counts(&self) -> bool {
        self.order != Order::Waiting
    }
}

/// A call in progress.
pub(super) struct Ticket<'a, R> {
    exchange: &'a Exchange<R>,
    xid: u32,
    /// Whether the call could be sent when it was made.
    is_out: bool,
    /// Whether the call overlaps others, or probably will.
    overlaps: bool,
    is_over: Cell<bool>,
}

/// What a thread that waits for a reply does next.
pub(super) enum Next<R> {
    /// It returns with its reply.
    Reply(Vec<u8>),
    /// It calls the application's callback, then sends the answer to the daemon with this xid of the daemon's.
    Notification(Xid, Notification),
    /// It reads until a reply or notification for its call has come, or until its deadline.
    Read {
        reader: R,
        until: Option<Deadline>,
        /// Whether the thread has waited before, so that other threads may have done anything meanwhile.
        has_waited: bool,
        /// Whether there is no other call.
        is_alone: bool,
    },
}

impl<R> State<R> {
    fn entry(&mut self, xid: u32) -> Option<&mut Entry> {
        self.calls.iter_mut().find(|call| call.xid == xid)
    }

    fn may_go(&self, place: usize) -> bool {
        let (Some(call), Some(earlier)) = (self.calls.get(place), self.calls.get(..place)) else {
            return false;
        };
        match call.order {
            Order::Alone => earlier.is_empty(),
            Order::Waiting | Order::AtOnce => true,
            order => {
                let stands_in_the_way = |other: &Entry| {
                    other.order == Order::Alone
                        || matches!(order, Order::Of(_)) && other.order == order
                };
                self.out < self.limit && !earlier.iter().any(stands_in_the_way)
            }
        }
    }

    /// Lets queued calls be sent if they may, in the order of their arrival.
    fn grant(&mut self) {
        for place in 0..self.calls.len() {
            let is_queued = self.calls.get(place).is_some_and(|call| !call.is_out);
            if is_queued && self.may_go(place) {
                if let Some(call) = self.calls.get_mut(place) {
                    call.is_out = true;
                    call.wake(&mut self.woken);
                    self.out += usize::from(call.counts());
                }
            }
        }
    }

    /// Wakes a waiting thread to read if no thread reads. A thread whose call waits for an event is chosen only if
    /// there is no other; otherwise all replies would pass through it.
    fn pass_reader(&mut self) {
        if self.reader.is_none() {
            return;
        }
        let waits = |call: &&mut Entry| call.is_unanswered() && call.parked.is_some();
        let chosen = self
            .calls
            .iter_mut()
            .filter(waits)
            .min_by_key(|call| !call.counts());
        if let Some(call) = chosen {
            call.wake(&mut self.woken);
        }
    }

    /// Restarts the deadlines of the calls that were sent after the `sent`th call, because that call has got its reply
    /// or is over. A daemon that executes calls one after the other begins the next one only now, so no call has less
    /// time than if it had waited for its turn here. Each earlier call gets one reply, so the waiting ends.
    fn progressed(&mut self, sent: u64) {
        let mut deadline = None;
        for call in self.calls.iter_mut().filter(|call| call.sent > sent) {
            if call.deadline.is_some() {
                let timeout = self.timeout;
                call.deadline = Some(*deadline.get_or_insert_with(|| Deadline::after(timeout)));
            }
        }
    }

    /// Returns the earlier deadline that holds while other calls are in flight, if some are.
    fn patience(&self, xid: u32) -> Option<Deadline> {
        let call = self.calls.iter().find(|call| call.xid == xid)?;
        let is_other_out = |other: &Entry| other.xid != xid && other.is_unanswered();
        call.patience
            .filter(|_| self.calls.iter().any(is_other_out))
    }

    /// Returns the deadline of this call in the present state.
    fn until(&self, xid: u32) -> Option<Deadline> {
        let call = self.calls.iter().find(|call| call.xid == xid);
        self.patience(xid).or(call?.deadline)
    }

    /// Returns how long this call still waits; `None` if it has no deadline.
    fn time_left(&self, xid: u32) -> Result<Option<Duration>, Failure> {
        match self.until(xid).map(Deadline::remaining).transpose() {
            Err(_) if self.patience(xid).is_some() => Err(Failure::OthersAreOut),
            time => Ok(time?),
        }
    }

    /// Returns whether a call that is made now will probably overlap others: if some are in flight, or if the
    /// application has threads and either several of them have called lately or the call is slow.
    fn overlaps(&mut self, is_slow: bool) -> bool {
        let is_now = self.out > 0;
        if !self.threads {
            return is_now;
        }
        let thread = this_thread();
        let is_other = self.last_thread != 0 && self.last_thread != thread;
        self.last_thread = thread;
        if is_now || is_other {
            self.overlapped = Some(Instant::now());
            return true;
        }
        is_slow
            || self
                .overlapped
                .is_some_and(|then| then.elapsed() < OVERLAPPING)
    }

    fn wake_all(&mut self) {
        for call in &mut self.calls {
            call.wake(&mut self.woken);
        }
    }

    fn remove(&mut self, xid: u32) {
        if let Some(place) = self.calls.iter().position(|call| call.xid == xid) {
            let call = self.calls.remove(place);
            self.out -= usize::from(call.is_out && call.counts());
            if call.sent > 0 {
                self.progressed(call.sent);
            }
        }
    }
}

impl<R> Exchange<R> {
    /// Makes the exchange of a new connection, on which each call has this `timeout`.
    pub fn new(first_xid: u32, timeout: Duration, reader: R) -> Exchange<R> {
        Exchange {
            state: Mutex::new(State {
                calls: Vec::new(),
                reader: Some(reader),
                reading: None,
                next_xid: first_xid,
                sent: 0,
                stopped: None,
                out: 0,
                limit: 1,
                timeout,
                threads: false,
                last_thread: 0,
                overlapped: None,
                woken: Vec::new(),
            }),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the limit on calls in flight; it is at least 1.
    pub fn allow(&self, limit: u64) {
        let mut state = self.state();
        state.limit = usize::try_from(limit).unwrap_or(usize::MAX).max(1);
        state.grant();
        release(state);
    }

    /// Sets the timeout of calls that are sent from now on.
    pub fn set_timeout(&self, timeout: Duration) {
        self.state().timeout = timeout;
    }

    /// Limits the time of calls that are sent from now on to this deadline. Returns the previous timeout.
    pub fn limit_timeout(&self, deadline: Deadline) -> Duration {
        let mut state = self.state();
        let before = state.timeout;
        state.timeout = before.min(deadline.remaining().unwrap_or_default());
        before
    }

    /// Sets whether the application may call from several threads.
    pub fn set_threads(&self, threads: bool) {
        self.state().threads = threads;
    }

    /// Stops all calls and wakes every thread. Returns whether calls were possible until now.
    pub fn stop(&self, why: Stopped) -> bool {
        let mut state = self.state();
        let was_sound = state.stopped.is_none();
        if state.stopped != Some(Stopped::Closed) {
            state.stopped = Some(why);
        }
        state.wake_all();
        release(state);
        was_sound
    }

    /// Returns why no more calls are made, if they are not.
    pub fn stopped(&self) -> Option<Stopped> {
        self.state().stopped
    }

    /// Returns how many threads wait.
    #[cfg(test)]
    pub fn parked(&self) -> usize {
        let state = self.state();
        state
            .calls
            .iter()
            .filter(|call| call.parked.is_some())
            .count()
    }

    /// Adds a call behind those in progress. `is_slow`: other calls are expected while it runs.
    pub fn enter(&self, order: Order, is_slow: bool) -> Result<Ticket<'_, R>, Stopped> {
        let mut state = self.state();
        if let Some(stopped) = state.stopped {
            return Err(stopped);
        }
        let overlaps = state.overlaps(is_slow);
        // A call that waits for an event may have this xid since before the counter wrapped around.
        while state.calls.iter().any(|call| call.xid == state.next_xid) {
            state.next_xid = state.next_xid.wrapping_add(1);
        }
        let xid = state.next_xid;
        state.next_xid = xid.wrapping_add(1);
        state.calls.push(Entry {
            xid,
            order,
            is_out: false,
            sent: 0,
            deadline: None,
            patience: None,
            reply: None,
            notification: None,
            parked: None,
        });
        state.grant();
        Ok(Ticket {
            exchange: self,
            xid,
            is_out: state.calls.last().is_some_and(|call| call.is_out),
            overlaps,
            is_over: Cell::new(false),
        })
    }
}

thread_local! {
    /// A variable whose address identifies the thread.
    static MARK: u8 = const { 0 };
    /// Whether the application's callback is running in this thread.
    static CALLING_BACK: Cell<bool> = const { Cell::new(false) };
}

fn this_thread() -> usize {
    MARK.try_with(|mark| ptr::from_ref(mark).addr())
        .unwrap_or(0)
}

/// Runs a callback of the application. A call that the callback makes goes out at once or fails: if it waited for the
/// call to which the callback belongs, it would wait for ever.
pub(crate) fn calling_back<T>(callback: impl FnOnce() -> T) -> T {
    struct Restored(bool);
    impl Drop for Restored {
        fn drop(&mut self) {
            CALLING_BACK.set(self.0);
        }
    }
    let _restored = Restored(CALLING_BACK.replace(true));
    callback()
}

/// Returns whether a callback of the application is running in this thread.
pub(crate) fn is_calling_back() -> bool {
    CALLING_BACK.get()
}

impl<R> Ticket<'_, R> {
    /// Returns the xid, which pairs the reply with the call.
    pub fn xid(&self) -> u32 {
        self.xid
    }

    /// Returns whether the call overlaps others, or probably will.
    pub fn overlaps(&self) -> bool {
        self.overlaps
    }

    /// Makes the call fail with [`Failure::OthersAreOut`] if it has waited this long and other calls are in flight.
    pub fn limit_patience(&self, patience: Duration) {
        let mut state = self.exchange.state();
        let patience = Deadline::after(patience.min(state.timeout));
        if let Some(call) = state.entry(self.xid) {
            call.patience = Some(patience);
        }
    }

    /// Waits until the call may be sent.
    pub fn begin(&self) -> Result<(), Failure> {
        // A module without threads is still busy with the call to which the callback belongs.
        if CALLING_BACK.get() && !self.exchange.state().threads {
            return Err(Failure::CallingBack);
        }
        if self.is_out {
            return Ok(());
        }
        let mut state = self.exchange.state();
        loop {
            if let Some(stopped) = state.stopped {
                return Err(stopped.into());
            }
            if state.entry(self.xid).ok_or(Failure::Lost)?.is_out {
                return Ok(());
            }
            if CALLING_BACK.get() {
                return Err(Failure::CallingBack);
            }
            state = self.park(state)?;
        }
    }

    /// Notes that the call is being sent, after those for which this was called before. Its time begins now. Returns
    /// the deadline for sending it.
    pub fn send(&self) -> Result<Deadline, Failure> {
        let mut state = self.exchange.state();
        if let Some(stopped) = state.stopped {
            return Err(stopped.into());
        }
        state.sent += 1;
        let (deadline, sent) = (Deadline::after(state.timeout), state.sent);
        let call = state.entry(self.xid).ok_or(Failure::Lost)?;
        call.sent = sent;
        if call.counts() {
            call.deadline = Some(deadline);
        }
        Ok(deadline)
    }

    /// Waits until the thread has something to do.
    pub fn next(&self) -> Result<Next<R>, Failure> {
        let mut has_waited = false;
        let mut state = self.exchange.state();
        loop {
            let stopped = state.stopped;
            let call = state.entry(self.xid).ok_or(Failure::Lost)?;
            if let Some(reply) = call.reply.take() {
                return Ok(Next::Reply(reply));
            }
            if let Some(stopped) = stopped {
                return Err(stopped.into());
            }
            if let Some((xid, notification)) = call.notification.take() {
                return Ok(Next::Notification(xid, notification));
            }
            if let Some(reader) = state.reader.take() {
                state.reading = Some(self.xid);
                let until = state.until(self.xid);
                return Ok(Next::Read {
                    reader,
                    until,
                    has_waited,
                    is_alone: state.calls.len() == 1,
                });
            }
            has_waited = true;
            state = self.park(state)?;
        }
    }

    /// Waits until it is woken. May also return without a reason (spurious wake-up).
    fn park<'s>(
        &self,
        mut state: MutexGuard<'s, State<R>>,
    ) -> Result<MutexGuard<'s, State<R>>, Failure> {
        let time = state.time_left(self.xid)?;
        let place = Arc::new(Condvar::new());
        if let Some(call) = state.entry(self.xid) {
            call.parked = Some(place.clone());
        }
        state = match time {
            None => place.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(time) => {
                let waited = place.wait_timeout(state, time);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        if let Some(call) = state.entry(self.xid) {
            call.parked = None;
        }
        Ok(state)
    }

    /// Hands a reply to the thread that waits for it. Drops a reply for which no thread waits. Returns the deadline
    /// until which this thread goes on reading.
    pub fn hand_over(&self, xid: u32, record: &[u8]) -> Result<Option<Deadline>, TryReserveError> {
        let mut copy = Vec::new();
        copy.try_reserve_exact(record.len())?;
        copy.extend_from_slice(record);
        let mut state = self.exchange.state();
        let State { calls, woken, .. } = &mut *state;
        let waiting = calls.iter_mut().find(|call| call.xid == xid);
        if let Some(call) = waiting.filter(|call| call.is_unanswered()) {
            call.reply = Some(mem::take(&mut copy));
            call.wake(woken);
            let sent = call.sent;
            state.progressed(sent);
        }
        let until = state.until(self.xid);
        release(state);
        wipe(&mut copy);
        Ok(until)
    }

    /// Returns the new deadline for reading, after the earlier one has passed; an error if it was not extended.
    pub fn read_on(&self) -> Result<Option<Deadline>, Failure> {
        let state = self.exchange.state();
        state.time_left(self.xid)?;
        Ok(state.until(self.xid))
    }

    /// Hands a notification to the call to which it belongs. The daemon sends one at a time: a second one before the
    /// first was taken is an error. A notification for a call that no thread waits for is dropped.
    pub fn notify(&self, xid: Xid, notification: Notification) -> Result<(), Failure> {
        let mut state = self.exchange.state();
        let State { calls, woken, .. } = &mut *state;
        let waiting = calls
            .iter_mut()
            .find(|call| call.xid == notification.call.0);
        if let Some(call) = waiting.filter(|call| call.is_unanswered()) {
            if call.notification.replace((xid, notification)).is_some() {
                return Err(Failure::Notification);
            }
            call.wake(woken);
        }
        release(state);
        Ok(())
    }

    /// Lets another thread read, because this one has a notification to deliver.
    pub fn pass_on(&self, reader: R) {
        let mut state = self.exchange.state();
        state.reader = Some(reader);
        state.reading = None;
        state.pass_reader();
        release(state);
    }

    /// Extends deadlines by the time that the application's callback took: the daemon continues with this call, and
    /// then with those that were sent later. The time is added to the present deadline, so a daemon cannot extend a
    /// call without end by notifying again and again.
    pub fn told(&self, time: Duration) {
        let mut state = self.exchange.state();
        let sent = state.entry(self.xid).map_or(u64::MAX, |call| call.sent);
        for call in state.calls.iter_mut().filter(|call| call.sent >= sent) {
            call.deadline = call.deadline.map(|deadline| deadline.later(time));
        }
    }

    /// Gives the reader back and ends the call.
    pub fn give_back(self, reader: R) {
        let mut state = self.exchange.state();
        state.reader = Some(reader);
        state.reading = None;
        self.leave(state);
    }

    fn leave(&self, mut state: MutexGuard<'_, State<R>>) {
        self.is_over.set(true);
        state.remove(self.xid);
        state.grant();
        state.pass_reader();
        release(state);
    }
}

/// Ends the call. If its thread has the reader, the reader is lost, and with it the connection.
impl<R> Drop for Ticket<'_, R> {
    fn drop(&mut self) {
        if self.is_over.get() {
            return;
        }
        let mut state = self.exchange.state();
        if state.reading == Some(self.xid) {
            state.reading = None;
            state.stopped.get_or_insert(Stopped::Lost);
            state.wake_all();
        }
        self.leave(state);
    }
}
