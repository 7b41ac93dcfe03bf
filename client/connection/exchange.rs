//! Decides which call may go out, and which of the threads that wait for replies reads for all.
//!
//! A thread enters with its call and gets a [`Ticket`]. It waits for its turn, sends the call, and asks what comes next:
//! its reply, which another thread has read, or the reader itself, if nobody has it. Who has the reader hands each
//! reply to its owner, and gives the reader back when its own has come; then another thread gets it. Does no I/O:
//! `connection` sends and receives.
//!
//! Nothing is held while waiting, and no thread-local destructor comes with it, so that the library can be unloaded.

use std::collections::TryReserveError;
use std::ptr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use transport::Deadline;

use crate::failure::Failure;

/// How many threads can wait without any being woken in vain.
const QUEUES: usize = 32;

/// How long calls are said to overlap after they did.
const OVERLAPPING: Duration = Duration::from_secs(1);

/// Which other calls have to be over before a call goes out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Order {
    /// All that came before; and those that come later wait for it.
    Alone,
    /// Those of this session that came before.
    Of(u64),
    /// None.
    Free,
    /// None, and it does not count for the limit: it waits for something to happen.
    Waiting,
}

/// Why no more calls are made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stopped {
    /// A call failed on the way; only C_Finalize and C_Initialize help.
    Lost,
    /// By C_Finalize.
    Closed,
}

/// The calls in progress, and the reader `R` while nobody has it.
pub(super) struct Exchange<R> {
    state: Mutex<State<R>>,
    /// A thread waits at the one of its xid.
    queues: [Condvar; QUEUES],
}

struct State<R> {
    /// In the order of their arrival.
    calls: Vec<Entry>,
    reader: Option<R>,
    /// Whose ticket has the reader.
    reading: Option<u32>,
    next_xid: u32,
    stopped: Option<Stopped>,
    /// How many calls may be out at a time.
    limit: usize,
    /// Whether the application said that it has threads.
    threads: bool,
    /// The thread that called last, and when calls last overlapped, or came from different threads.
    last_thread: usize,
    overlapped: Option<Instant>,
}

struct Entry {
    xid: u32,
    order: Order,
    is_sent: bool,
    reply: Option<Vec<u8>>,
}

/// A call in progress.
pub(super) struct Ticket<'a, R> {
    exchange: &'a Exchange<R>,
    xid: u32,
}

/// What a thread does next that waits for a reply.
pub(super) enum Next<R> {
    /// It has its reply.
    Reply(Vec<u8>),
    /// It reads, until its own reply has come.
    Read(R),
}

impl<R> State<R> {
    fn place(&self, xid: u32) -> Option<usize> {
        self.calls.iter().position(|call| call.xid == xid)
    }

    fn entry(&mut self, xid: u32) -> Option<&mut Entry> {
        self.calls.iter_mut().find(|call| call.xid == xid)
    }

    /// Calls that are out, but for those that wait for something to happen.
    fn out(&self) -> usize {
        let is_out = |call: &&Entry| call.is_sent && call.order != Order::Waiting;
        self.calls.iter().filter(is_out).count()
    }

    fn may_go(&self, place: usize) -> bool {
        let (Some(call), Some(earlier)) = (self.calls.get(place), self.calls.get(..place)) else {
            return false;
        };
        match call.order {
            Order::Alone => earlier.is_empty(),
            Order::Waiting => true,
            order => {
                let stands_in_the_way = |other: &Entry| {
                    other.order == Order::Alone
                        || matches!(order, Order::Of(_)) && other.order == order
                };
                self.out() < self.limit && !earlier.iter().any(stands_in_the_way)
            }
        }
    }
}

impl<R> Exchange<R> {
    /// A connection on which nothing was called yet.
    pub fn new(first_xid: u32, reader: R) -> Exchange<R> {
        Exchange {
            state: Mutex::new(State {
                calls: Vec::new(),
                reader: Some(reader),
                reading: None,
                next_xid: first_xid,
                stopped: None,
                limit: 1,
                threads: false,
                last_thread: 0,
                overlapped: None,
            }),
            queues: [const { Condvar::new() }; QUEUES],
        }
    }

    fn state(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the thread of this call waits.
    #[expect(clippy::indexing_slicing, reason = "a remainder of QUEUES is below it")]
    fn queue(&self, xid: u32) -> &Condvar {
        &self.queues[xid as usize % QUEUES]
    }

    /// How many calls may be out at a time; at least one.
    pub fn allow(&self, limit: u64) {
        self.state().limit = usize::try_from(limit).unwrap_or(usize::MAX).max(1);
    }

    /// Whether the application may call from several threads.
    pub fn set_threads(&self, threads: bool) {
        self.state().threads = threads;
    }

    /// Makes no more calls; wakes every thread. True if calls were made until now.
    pub fn stop(&self, why: Stopped) -> bool {
        let was_sound = {
            let mut state = self.state();
            let was_sound = state.stopped.is_none();
            if state.stopped != Some(Stopped::Closed) {
                state.stopped = Some(why);
            }
            was_sound
        };
        self.queues.iter().for_each(Condvar::notify_all);
        was_sound
    }

    /// Why no more calls are made, if so.
    pub fn stopped(&self) -> Option<Stopped> {
        self.state().stopped
    }

    /// Takes a place behind the calls in progress.
    pub fn enter(&self, order: Order) -> Result<Ticket<'_, R>, Stopped> {
        let mut state = self.state();
        if let Some(stopped) = state.stopped {
            return Err(stopped);
        }
        let xid = state.next_xid;
        state.next_xid = xid.wrapping_add(1);
        state.calls.push(Entry {
            xid,
            order,
            is_sent: false,
            reply: None,
        });
        let exchange = self;
        Ok(Ticket { exchange, xid })
    }

    /// Wakes those that can go on after a change: calls whose turn it is, and one to read.
    fn wake(&self, state: &State<R>) {
        for (place, call) in state.calls.iter().enumerate() {
            if !call.is_sent && state.may_go(place) {
                self.queue(call.xid).notify_all();
            }
        }
        if state.reader.is_some() {
            let mut waiting = state.calls.iter();
            if let Some(call) = waiting.find(|call| call.is_sent && call.reply.is_none()) {
                self.queue(call.xid).notify_all();
            }
        }
    }
}

/// Tells threads apart, without a destructor.
fn this_thread() -> usize {
    thread_local! {
        static MARK: u8 = const { 0 };
    }
    MARK.try_with(|mark| ptr::from_ref(mark).addr())
        .unwrap_or(0)
}

impl<R> Ticket<'_, R> {
    /// Pairs the reply with the call.
    pub fn xid(&self) -> u32 {
        self.xid
    }

    /// Waits until the call may go out. Tells whether it overlaps others, or may well do so: the application has
    /// threads, and several have called lately, or the call is slow.
    pub fn begin(&self, is_slow: bool) -> Result<bool, Failure> {
        let mut state = self.exchange.state();
        loop {
            if let Some(stopped) = state.stopped {
                return Err(stopped.into());
            }
            if state
                .place(self.xid)
                .is_some_and(|place| state.may_go(place))
            {
                break;
            }
            let waited = self.exchange.queue(self.xid).wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let mut overlaps = state.out() > 0;
        if state.threads {
            let (now, thread) = (Instant::now(), this_thread());
            let is_other = state.last_thread != 0 && state.last_thread != thread;
            state.last_thread = thread;
            if overlaps || is_other {
                state.overlapped = Some(now);
            }
            let lately = |then: Instant| now.saturating_duration_since(then) < OVERLAPPING;
            overlaps |= is_slow || state.overlapped.is_some_and(lately);
        }
        if let Some(call) = state.entry(self.xid) {
            call.is_sent = true;
        }
        Ok(overlaps)
    }

    /// Waits until there is something to do.
    pub fn next(&self, deadline: Option<Deadline>) -> Result<Next<R>, Failure> {
        let mut state = self.exchange.state();
        loop {
            let reply = state.entry(self.xid).and_then(|call| call.reply.take());
            if let Some(reply) = reply {
                return Ok(Next::Reply(reply));
            }
            if let Some(stopped) = state.stopped {
                return Err(stopped.into());
            }
            if let Some(reader) = state.reader.take() {
                state.reading = Some(self.xid);
                return Ok(Next::Read(reader));
            }
            let queue = self.exchange.queue(self.xid);
            state = match deadline {
                None => queue.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let waited = queue.wait_timeout(state, deadline.remaining()?);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Gives a reply to the call that it answers. One that nobody waits for is dropped.
    pub fn hand_over(&self, xid: u32, record: &[u8]) -> Result<(), TryReserveError> {
        let mut state = self.exchange.state();
        let waits = |call: &&mut Entry| call.is_sent && call.reply.is_none();
        if let Some(call) = state.entry(xid).filter(waits) {
            let mut copy = Vec::new();
            copy.try_reserve_exact(record.len())?;
            copy.extend_from_slice(record);
            call.reply = Some(copy);
            self.exchange.queue(xid).notify_all();
        }
        Ok(())
    }

    /// Gives the reader back.
    pub fn give_back(&self, reader: R) {
        let mut state = self.exchange.state();
        state.reader = Some(reader);
        state.reading = None;
        // This call is over, too.
        state.calls.retain(|call| call.xid != self.xid);
        self.exchange.wake(&state);
    }
}

/// The call is over. If it fails with the reader, nobody can read any more.
impl<R> Drop for Ticket<'_, R> {
    fn drop(&mut self) {
        let mut state = self.exchange.state();
        let before = state.calls.len();
        state.calls.retain(|call| call.xid != self.xid);
        if state.reading == Some(self.xid) {
            state.reading = None;
            state.stopped.get_or_insert(Stopped::Lost);
            drop(state);
            self.exchange.queues.iter().for_each(Condvar::notify_all);
        } else if state.calls.len() != before {
            self.exchange.wake(&state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    fn begun<R>(exchange: &Exchange<R>, order: Order) -> Ticket<'_, R> {
        let ticket = exchange.enter(order).unwrap();
        ticket.begin(false).unwrap();
        ticket
    }

    fn is_blocked<R: Send>(exchange: &Exchange<R>, order: Order, until: impl FnOnce()) {
        let begun = AtomicBool::new(false);
        thread::scope(|scope| {
            let ticket = exchange.enter(order).unwrap();
            let begun = &begun;
            scope.spawn(move || {
                ticket.begin(false).unwrap();
                begun.store(true, Ordering::SeqCst);
            });
            thread::sleep(Duration::from_millis(30));
            assert!(!begun.load(Ordering::SeqCst));
            until();
        });
        assert!(begun.load(Ordering::SeqCst));
    }

    #[test]
    fn calls_wait_for_those_of_their_session_and_for_no_others() {
        let exchange = Exchange::new(u32::MAX, ());
        exchange.allow(9);
        let first = begun(&exchange, Order::Of(1));
        let (_other, _free, _waiting) = (
            begun(&exchange, Order::Of(2)),
            begun(&exchange, Order::Free),
            begun(&exchange, Order::Waiting),
        );
        is_blocked(&exchange, Order::Of(1), || drop(first));
    }

    #[test]
    fn the_limit_holds_for_all_but_those_that_wait_for_something() {
        let exchange = Exchange::new(7, ());
        exchange.allow(2);
        let one = begun(&exchange, Order::Of(1));
        let _two = begun(&exchange, Order::Free);
        let _waiting = begun(&exchange, Order::Waiting);
        is_blocked(&exchange, Order::Of(3), || drop(one));
    }

    #[test]
    fn a_call_alone_waits_for_all_and_all_wait_for_it() {
        let exchange = Exchange::new(7, ());
        exchange.allow(9);
        let one = begun(&exchange, Order::Of(1));
        is_blocked(&exchange, Order::Alone, || drop(one));
        let alone = begun(&exchange, Order::Alone);
        is_blocked(&exchange, Order::Free, || drop(alone));
    }

    #[test]
    fn overlapping_is_told_where_it_is_and_for_a_second_after() {
        let exchange = Exchange::new(7, ());
        exchange.allow(9);
        let overlaps = |is_slow| exchange.enter(Order::Free).unwrap().begin(is_slow).unwrap();
        assert!(!overlaps(false) && !overlaps(true));
        let out = begun(&exchange, Order::Free);
        assert!(overlaps(false));
        drop(out);
        assert!(!overlaps(false));
        exchange.set_threads(true);
        assert!(!overlaps(false) && overlaps(true));
        // Another thread has called.
        thread::scope(|scope| {
            scope.spawn(|| assert!(overlaps(false)));
        });
        assert!(overlaps(false));
        let long_ago = Instant::now().checked_sub(2 * OVERLAPPING);
        exchange.state().overlapped = long_ago;
        assert!(long_ago.is_none() || !overlaps(false));
    }

    /// Each thread "sends" its xid into a shared list, and whoever reads takes xids from there, in an order of its own.
    #[test]
    fn every_thread_gets_its_own_reply_whoever_reads() {
        let exchange = Exchange::new(u32::MAX - 50, AtomicUsize::new(0));
        exchange.allow(64);
        let sent = Mutex::new(Vec::<u32>::new());
        thread::scope(|scope| {
            for session in 0..16 {
                let (exchange, sent) = (&exchange, &sent);
                scope.spawn(move || {
                    for _ in 0..500 {
                        let ticket = exchange.enter(Order::Of(session)).unwrap();
                        ticket.begin(false).unwrap();
                        sent.lock().unwrap().push(ticket.xid());
                        let reader = match ticket.next(Some(Deadline::after(SOON))).unwrap() {
                            Next::Reply(reply) => {
                                assert_eq!(reply, ticket.xid().to_be_bytes());
                                continue;
                            }
                            Next::Read(reader) => reader,
                        };
                        assert_eq!(reader.fetch_add(1, Ordering::SeqCst), 0, "two read");
                        loop {
                            let answered = {
                                let mut sent = sent.lock().unwrap();
                                let place = sent.len() / 2;
                                (!sent.is_empty()).then(|| sent.remove(place))
                            };
                            match answered {
                                Some(xid) if xid == ticket.xid() => break,
                                Some(xid) => ticket.hand_over(xid, &xid.to_be_bytes()).unwrap(),
                                None => thread::yield_now(),
                            }
                        }
                        reader.fetch_sub(1, Ordering::SeqCst);
                        ticket.give_back(reader);
                    }
                });
            }
        });
        assert!(exchange.state().calls.is_empty() && exchange.state().reader.is_some());
    }

    #[test]
    fn stopping_wakes_all_and_closing_counts_for_good() {
        for (why, then) in [
            (Stopped::Closed, Stopped::Closed),
            (Stopped::Lost, Stopped::Closed),
        ] {
            let exchange = Exchange::new(7, ());
            exchange.allow(9);
            let reading = begun(&exchange, Order::Of(1));
            assert!(matches!(reading.next(None), Ok(Next::Read(()))));
            thread::scope(|scope| {
                let waiting = begun(&exchange, Order::Of(2));
                let behind = exchange.enter(Order::Of(2)).unwrap();
                scope.spawn(move || assert!(waiting.next(None).is_err()));
                scope.spawn(move || assert!(behind.begin(false).is_err()));
                thread::sleep(Duration::from_millis(20));
                assert!(exchange.stop(why));
            });
            assert!(!exchange.stop(Stopped::Closed));
            assert!(!exchange.stop(Stopped::Lost));
            assert_eq!(exchange.stopped(), Some(then));
            assert!(exchange.enter(Order::Free).is_err());
        }
    }

    #[test]
    fn a_reader_that_is_lost_ends_the_connection() {
        let exchange = Exchange::new(7, ());
        let ticket = begun(&exchange, Order::Free);
        assert!(matches!(ticket.next(None), Ok(Next::Read(()))));
        drop(ticket);
        assert_eq!(exchange.stopped(), Some(Stopped::Lost));
    }

    #[test]
    fn a_thread_that_waits_too_long_is_told_so() {
        let exchange = Exchange::new(7, ());
        exchange.allow(9);
        let reading = begun(&exchange, Order::Of(1));
        assert!(matches!(reading.next(None), Ok(Next::Read(()))));
        let late = begun(&exchange, Order::Of(2));
        let deadline = Some(Deadline::after(Duration::from_millis(20)));
        assert!(matches!(late.next(deadline), Err(Failure::Timeout)));
        // A reply to nobody, or a second one, is dropped.
        reading.hand_over(12345, b"x").unwrap();
        reading.hand_over(late.xid(), b"first").unwrap();
        reading.hand_over(late.xid(), b"second").unwrap();
        assert!(matches!(late.next(deadline), Ok(Next::Reply(reply)) if reply == b"first"));
    }

    #[test]
    fn threads_get_their_turns_in_the_order_of_their_arrival() {
        let exchange = Exchange::new(7, ());
        let order = Mutex::new(Vec::new());
        let first = begun(&exchange, Order::Alone);
        thread::scope(|scope| {
            for number in 0..40 {
                let ticket = exchange.enter(Order::Alone).unwrap();
                let order = &order;
                scope.spawn(move || {
                    ticket.begin(false).unwrap();
                    order.lock().unwrap().push(number);
                });
            }
            drop(first);
        });
        assert!(order.into_inner().unwrap().into_iter().eq(0..40));
    }
}
