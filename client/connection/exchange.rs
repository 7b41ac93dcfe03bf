//! Decides which call may be sent, and which of the threads that wait for replies reads for all.
//!
//! A thread enters with its call and gets a [`Ticket`]. It waits for its turn, sends the call, and asks what comes
//! next. The answer is its reply or a notification, if another thread has read it, or else the reader, if no thread has
//! it. The thread with the reader hands each record to its owner. It gives the reader back when its own reply has come;
//! then another thread gets it. Does no I/O: `connection` sends and receives.
//!
//! A thread that need not wait makes no system call here. No lock is held while waiting, and no thread-local destructor
//! is registered, so that the library can be unloaded. `connection::model` compiles this file a second time, to try
//! every order in which threads can meet here.

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

/// For how long calls are announced as overlapping after they last did.
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
    /// A call failed on the way; only C_Finalize and C_Initialize help.
    Lost,
    /// By C_Finalize.
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

/// The calls in progress, and the reader `R` while nobody has it.
pub(super) struct Exchange<R> {
    state: Mutex<State<R>>,
}

pub(super) struct State<R> {
    /// In the order of their arrival.
    pub(super) calls: Vec<Entry>,
    pub(super) reader: Option<R>,
    /// Whose ticket has the reader.
    reading: Option<u32>,
    pub(super) next_xid: u32,
    /// How many calls were sent in all.
    sent: u64,
    stopped: Option<Stopped>,
    /// The number of calls that are sent and not answered, except those that wait for an event, and its limit.
    out: usize,
    limit: usize,
    /// How long a call may take that does not wait for something to happen.
    timeout: Duration,
    /// Whether the application said that it has threads.
    threads: bool,
    /// The thread that called last, and when calls last overlapped, or came from different threads.
    last_thread: usize,
    pub(super) overlapped: Option<Instant>,
    /// Where the threads wait that must be woken when the state is released.
    woken: Vec<Arc<Condvar>>,
}

/// Releases the state, then wakes threads: they would only wait for it before.
fn release<R>(mut state: MutexGuard<'_, State<R>>) {
    let woken = mem::take(&mut state.woken);
    drop(state);
    woken.iter().for_each(|place| place.notify_one());
}

pub(super) struct Entry {
    xid: u32,
    order: Order,
    is_out: bool,
    /// Its place among all calls that were sent; 0 before that.
    sent: u64,
    /// When its time is over.
    deadline: Option<Deadline>,
    /// When its time is over if other calls are out then.
    patience: Option<Deadline>,
    reply: Option<Vec<u8>>,
    /// The daemon's xid, and what it tells.
    notification: Option<(Xid, Notification)>,
    /// Where its thread waits, until it is woken.
    parked: Option<Arc<Condvar>>,
}

impl Entry {
    fn wake(&mut self, woken: &mut Vec<Arc<Condvar>>) {
        woken.extend(self.parked.take());
    }

    /// Whether its thread waits for a reply, or will.
    fn is_unanswered(&self) -> bool {
        self.is_out && self.reply.is_none()
    }

    /// Whether it counts for the limit, and has a limited time.
    fn counts(&self) -> bool {
        self.order != Order::Waiting
    }
}

/// A call in progress.
pub(super) struct Ticket<'a, R> {
    exchange: &'a Exchange<R>,
    xid: u32,
    /// Whether the call could go out when it was made.
    is_out: bool,
    /// Whether it overlaps others, or may well do so.
    overlaps: bool,
    is_over: Cell<bool>,
}

/// What a thread does next that waits for a reply.
pub(super) enum Next<R> {
    /// It has its reply.
    Reply(Vec<u8>),
    /// It tells the application, and then the daemon under this xid of the daemon's.
    Notification(Xid, Notification),
    /// It reads, until something of its own has come, at the latest until its time is over.
    Read {
        reader: R,
        until: Option<Deadline>,
        /// Whether it has waited for its turn, so that others may have done anything meanwhile.
        has_waited: bool,
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

    /// Lets calls be sent if they may, in the order of their arrival.
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

    /// Makes a thread read if none does and one waits. A call that waits for an event reads only if there is no other;
    /// otherwise all replies would pass through its thread.
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

    /// Something came of the call that was the `sent`th. A daemon that executes one call after the other has begun
    /// the next one only now. So the time of those that were sent later begins again: no call has less time than if
    /// it had waited for its turn here. As each earlier call is answered once, waiting ends.
    fn progressed(&mut self, sent: u64) {
        let mut deadline = None;
        for call in self.calls.iter_mut().filter(|call| call.sent > sent) {
            if call.deadline.is_some() {
                let timeout = self.timeout;
                call.deadline = Some(*deadline.get_or_insert_with(|| Deadline::after(timeout)));
            }
        }
    }

    /// How long this call has patience with others, if there are some.
    fn patience(&self, xid: u32) -> Option<Deadline> {
        let call = self.calls.iter().find(|call| call.xid == xid)?;
        let is_other_out = |other: &Entry| other.xid != xid && other.is_unanswered();
        call.patience
            .filter(|_| self.calls.iter().any(is_other_out))
    }

    /// Until when this call waits, in the present state.
    fn until(&self, xid: u32) -> Option<Deadline> {
        let call = self.calls.iter().find(|call| call.xid == xid);
        self.patience(xid).or(call?.deadline)
    }

    /// How long this call still waits; `None` if its time is not limited.
    fn time_left(&self, xid: u32) -> Result<Option<Duration>, Failure> {
        match self.until(xid).map(Deadline::remaining).transpose() {
            Err(_) if self.patience(xid).is_some() => Err(Failure::OthersAreOut),
            time => Ok(time?),
        }
    }

    /// Whether a call that is made now may well overlap others: if some are out, or the application has threads, and
    /// several have called lately, or the call is slow.
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
    /// A connection on which nothing was called yet, and where each call may take `timeout`.
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

    /// How many calls may be out at a time; at least one.
    pub fn allow(&self, limit: u64) {
        let mut state = self.state();
        state.limit = usize::try_from(limit).unwrap_or(usize::MAX).max(1);
        state.grant();
        release(state);
    }

    /// How long a call may take that is sent from now on.
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

    /// Whether the application may call from several threads.
    pub fn set_threads(&self, threads: bool) {
        self.state().threads = threads;
    }

    /// Stops all calls and wakes every thread. True if calls were still possible until now.
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

    /// Why no more calls are made, if so.
    pub fn stopped(&self) -> Option<Stopped> {
        self.state().stopped
    }

    /// How many threads wait.
    #[cfg(test)]
    pub fn parked(&self) -> usize {
        let state = self.state();
        state
            .calls
            .iter()
            .filter(|call| call.parked.is_some())
            .count()
    }

    /// Adds a call behind those in progress. `is_slow`: other calls are expected meanwhile.
    pub fn enter(&self, order: Order, is_slow: bool) -> Result<Ticket<'_, R>, Stopped> {
        let mut state = self.state();
        if let Some(stopped) = state.stopped {
            return Err(stopped);
        }
        let overlaps = state.overlaps(is_slow);
        // A call that waits for something may be there since the xids last came round.
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
    /// Its address tells threads apart.
    static MARK: u8 = const { 0 };
    /// Whether the application's callback is running in this thread.
    static CALLING_BACK: Cell<bool> = const { Cell::new(false) };
}

fn this_thread() -> usize {
    MARK.try_with(|mark| ptr::from_ref(mark).addr())
        .unwrap_or(0)
}

/// Runs a callback of the application. A call that it makes goes out at once or not at all: it would wait for the
/// call that the callback belongs to, for ever.
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

/// Whether a callback of the application is running in this thread.
pub(crate) fn is_calling_back() -> bool {
    CALLING_BACK.get()
}

impl<R> Ticket<'_, R> {
    /// Pairs the reply with the call.
    pub fn xid(&self) -> u32 {
        self.xid
    }

    /// Whether the call overlaps others, or may well do so.
    pub fn overlaps(&self) -> bool {
        self.overlaps
    }

    /// Makes the call fail with [`Failure::OthersAreOut`] if it has waited this long and others are not answered.
    pub fn limit_patience(&self, patience: Duration) {
        let mut state = self.exchange.state();
        let patience = Deadline::after(patience.min(state.timeout));
        if let Some(call) = state.entry(self.xid) {
            call.patience = Some(patience);
        }
    }

    /// Waits until the call may go out.
    pub fn begin(&self) -> Result<(), Failure> {
        // A module without threads would have to be free of the call that the callback belongs to.
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

    /// Notes that the call is being sent, after those for which this was called before. Its time begins. Returns until
    /// when it must be sent.
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

    /// Waits until there is something to do.
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
                });
            }
            has_waited = true;
            state = self.park(state)?;
        }
    }

    /// Waits until it is woken. May also return without a reason.
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

    /// Gives a reply to the call that it answers. A reply that nobody waits for is dropped. Returns until when to go on
    /// reading.
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

    /// Until when to read on where the time that was told before is over, if there is more by now.
    pub fn read_on(&self) -> Result<Option<Deadline>, Failure> {
        let state = self.exchange.state();
        state.time_left(self.xid)?;
        Ok(state.until(self.xid))
    }

    /// Gives a notification to the call in which it comes. The daemon makes one at a time; it is wrong if the one
    /// before was not even looked at. One in a call that nobody waits for is dropped.
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

    /// Lets another thread read: this one has a notification to see to.
    pub fn pass_on(&self, reader: R) {
        let mut state = self.exchange.state();
        state.reader = Some(reader);
        state.reading = None;
        state.pass_reader();
        release(state);
    }

    /// The application was told, which took this long: the daemon goes on with this call, and then with those that
    /// were sent later. A daemon cannot draw a call out by notifying again and again.
    pub fn told(&self, time: Duration) {
        let mut state = self.exchange.state();
        let sent = state.entry(self.xid).map_or(u64::MAX, |call| call.sent);
        for call in state.calls.iter_mut().filter(|call| call.sent >= sent) {
            call.deadline = call.deadline.map(|deadline| deadline.later(time));
        }
    }

    /// Gives the reader back; the call is over.
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

/// The call is over. If it fails with the reader, nobody can read any more.
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
