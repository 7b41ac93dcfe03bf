//! Tests the order of calls, and which thread reads, with threads of the system.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use xdr::rpc::{Notification, Xid};
use xdr::{SessionHandle, Ulong};

use super::exchange::*;
use crate::failure::Failure;

const SOON: Duration = Duration::from_secs(60);

fn begun<R>(exchange: &Exchange<R>, order: Order) -> Ticket<'_, R> {
    let ticket = exchange.enter(order, false).unwrap();
    ticket.begin().unwrap();
    ticket.send().unwrap();
    ticket
}

fn is_blocked<R: Send>(exchange: &Exchange<R>, order: Order, until: impl FnOnce()) {
    let begun = AtomicBool::new(false);
    thread::scope(|scope| {
        let ticket = exchange.enter(order, false).unwrap();
        let begun = &begun;
        scope.spawn(move || {
            ticket.begin().unwrap();
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
    let exchange = Exchange::new(u32::MAX, SOON, ());
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
    let exchange = Exchange::new(7, SOON, ());
    exchange.allow(2);
    let one = begun(&exchange, Order::Of(1));
    let _two = begun(&exchange, Order::Free);
    let _waiting = begun(&exchange, Order::Waiting);
    is_blocked(&exchange, Order::Of(3), || drop(one));
}

#[test]
fn what_goes_at_once_is_held_up_by_no_limit() {
    let exchange = Exchange::new(7, SOON, ());
    let _one = begun(&exchange, Order::Of(1));
    let at_once = begun(&exchange, Order::AtOnce);
    is_blocked(&exchange, Order::Free, || {
        drop(_one);
        drop(at_once);
    });
}

/// Patience is limited while the call waits for its turn, while it waits for its reply, and while its thread reads.
#[test]
fn patience_is_limited_while_others_are_out() {
    let exchange = Exchange::new(7, SOON, ());
    exchange.allow(9);
    let [reading, slow] = [1, 2].map(|session| begun(&exchange, Order::Of(session)));
    assert!(matches!(reading.next(), Ok(Next::Read { .. })));
    let short = Duration::from_millis(20);
    let behind = exchange.enter(Order::Alone, false).unwrap();
    behind.limit_patience(short);
    assert!(matches!(behind.begin(), Err(Failure::OthersAreOut)));
    drop(behind);
    let last = begun(&exchange, Order::AtOnce);
    last.limit_patience(short);
    assert!(matches!(last.next(), Err(Failure::OthersAreOut)));
    reading.give_back(());
    assert!(matches!(last.next(), Ok(Next::Read { .. })));
    assert!(matches!(last.read_on(), Err(Failure::OthersAreOut)));
    // No other call is in flight any more.
    let until = last.hand_over(slow.xid(), b"").unwrap();
    assert!(until.unwrap().remaining().is_ok());
    assert!(matches!(last.read_on(), Ok(Some(_))));
    last.give_back(());
    assert_eq!(exchange.stopped(), None);
}

#[test]
fn a_call_alone_waits_for_all_and_all_wait_for_it() {
    let exchange = Exchange::new(7, SOON, ());
    exchange.allow(9);
    let one = begun(&exchange, Order::Of(1));
    is_blocked(&exchange, Order::Alone, || drop(one));
    let alone = begun(&exchange, Order::Alone);
    is_blocked(&exchange, Order::Free, || drop(alone));
}

#[test]
fn overlapping_is_told_where_it_is_and_for_a_second_after() {
    let exchange = Exchange::new(7, SOON, ());
    exchange.allow(9);
    let overlaps = |is_slow| {
        let ticket = exchange.enter(Order::Free, is_slow).unwrap();
        ticket.begin().unwrap();
        ticket.send().unwrap();
        ticket.overlaps()
    };
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

/// Each thread "sends" its xid into a shared list. The thread that reads takes xids from there, in an order of its own.
#[test]
fn every_thread_gets_its_own_reply_whoever_reads() {
    let exchange = Exchange::new(u32::MAX - 50, SOON, AtomicUsize::new(0));
    exchange.allow(64);
    let sent = Mutex::new(Vec::<u32>::new());
    thread::scope(|scope| {
        for session in 0..16 {
            let (exchange, sent) = (&exchange, &sent);
            scope.spawn(move || {
                for _ in 0..500 {
                    let ticket = exchange.enter(Order::Of(session), false).unwrap();
                    ticket.begin().unwrap();
                    sent.lock().unwrap().push(ticket.xid());
                    let reader = match ticket.next().unwrap() {
                        Next::Reply(reply) => {
                            assert_eq!(reply, ticket.xid().to_be_bytes());
                            continue;
                        }
                        Next::Read { reader, .. } => reader,
                        Next::Notification(..) => unreachable!("none was made"),
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
                            Some(xid) => {
                                ticket.hand_over(xid, &xid.to_be_bytes()).unwrap();
                            }
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
        let exchange = Exchange::new(7, SOON, ());
        exchange.allow(9);
        let reading = begun(&exchange, Order::Of(1));
        assert!(matches!(reading.next(), Ok(Next::Read { .. })));
        thread::scope(|scope| {
            let waiting = begun(&exchange, Order::Of(2));
            let behind = exchange.enter(Order::Of(2), false).unwrap();
            scope.spawn(move || assert!(waiting.next().is_err()));
            scope.spawn(move || assert!(behind.begin().is_err()));
            thread::sleep(Duration::from_millis(20));
            assert!(exchange.stop(why));
        });
        assert!(!exchange.stop(Stopped::Closed));
        assert!(!exchange.stop(Stopped::Lost));
        assert_eq!(exchange.stopped(), Some(then));
        assert!(exchange.enter(Order::Free, false).is_err());
    }
}

#[test]
fn a_reader_that_is_lost_ends_the_connection() {
    let exchange = Exchange::new(7, SOON, ());
    let ticket = begun(&exchange, Order::Free);
    assert!(matches!(ticket.next(), Ok(Next::Read { .. })));
    drop(ticket);
    assert_eq!(exchange.stopped(), Some(Stopped::Lost));
}

#[test]
fn a_thread_that_waits_too_long_is_told_so() {
    let exchange = Exchange::new(7, Duration::from_millis(20), ());
    exchange.allow(9);
    let reading = begun(&exchange, Order::Of(1));
    assert!(matches!(
        reading.next(),
        Ok(Next::Read { until: Some(_), .. })
    ));
    let late = begun(&exchange, Order::Of(2));
    assert!(matches!(late.next(), Err(Failure::Timeout)));
    // A reply that no call waits for, or a second reply, is dropped.
    reading.hand_over(12345, b"x").unwrap();
    reading.hand_over(late.xid(), b"first").unwrap();
    reading.hand_over(late.xid(), b"second").unwrap();
    assert!(matches!(late.next(), Ok(Next::Reply(reply)) if reply == b"first"));
}

/// As if each call had waited for its turn here: a daemon may execute one call after the other.
#[test]
fn a_call_has_its_whole_time_after_those_that_went_out_earlier() {
    let time = Duration::from_millis(400);
    let exchange = Exchange::new(7, time, ());
    exchange.allow(9);
    let [first, second, third] = [1, 2, 3].map(|session| begun(&exchange, Order::Of(session)));
    let remaining = |ticket: &Ticket<'_, ()>| {
        let until = ticket.hand_over(0, b"to nobody").unwrap();
        until.unwrap().remaining().unwrap_or_default()
    };
    let half = time / 2;
    thread::sleep(half);
    assert!(remaining(&second) <= half);
    // The reply to a later call does not extend the time of an earlier one.
    first.hand_over(third.xid(), b"").unwrap();
    assert!(remaining(&second) <= half);
    second.hand_over(first.xid(), b"").unwrap();
    assert!(remaining(&second) > half);
}

#[test]
fn what_waits_for_something_to_happen_reads_only_if_nobody_else_does() {
    let exchange = Exchange::new(7, SOON, ());
    exchange.allow(9);
    let reading = begun(&exchange, Order::Free);
    assert!(matches!(reading.next(), Ok(Next::Read { .. })));
    let (waiting, other) = (
        begun(&exchange, Order::Waiting),
        begun(&exchange, Order::Free),
    );
    let readers = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for ticket in [waiting, other] {
            let readers = &readers;
            scope.spawn(move || {
                let (xid, next) = (ticket.xid(), ticket.next());
                let Ok(Next::Read {
                    until: deadline, ..
                }) = next
                else {
                    panic!("there is no reply")
                };
                readers.lock().unwrap().push((xid, deadline.is_some()));
                ticket.give_back(());
            });
        }
        while exchange.parked() < 2 {
            thread::yield_now();
        }
        reading.give_back(());
    });
    assert_eq!(readers.into_inner().unwrap(), [(9, true), (8, false)]);
}

#[test]
fn no_two_calls_have_the_same_xid() {
    let exchange = Exchange::new(u32::MAX, SOON, ());
    exchange.allow(9);
    let waiting = begun(&exchange, Order::Waiting);
    exchange.state().next_xid = waiting.xid();
    assert_eq!(begun(&exchange, Order::Free).xid(), 0);
}

fn told_in(call: u32) -> Notification {
    Notification {
        call: Xid(call),
        session: SessionHandle(1),
        event: Ulong(0),
    }
}

#[test]
fn a_notification_comes_to_the_thread_of_its_call() {
    let exchange = Exchange::new(7, SOON, ());
    exchange.allow(9);
    let (reading, other) = (
        begun(&exchange, Order::Of(1)),
        begun(&exchange, Order::Of(2)),
    );
    assert!(matches!(reading.next(), Ok(Next::Read { .. })));
    reading.notify(Xid(100), told_in(other.xid())).unwrap();
    assert!(matches!(other.next(), Ok(Next::Notification(Xid(100), told)) if told == told_in(8)));
    // A notification for the reader's own call; another thread reads meanwhile.
    reading.notify(Xid(101), told_in(reading.xid())).unwrap();
    reading.pass_on(());
    assert!(matches!(other.next(), Ok(Next::Read { .. })));
    assert!(matches!(
        reading.next(),
        Ok(Next::Notification(Xid(101), _))
    ));
    reading.told(Duration::ZERO);
    // One for no call is dropped. A second one before the first was taken is the daemon's error.
    other.notify(Xid(102), told_in(12345)).unwrap();
    other.notify(Xid(103), told_in(reading.xid())).unwrap();
    let wrong = other.notify(Xid(104), told_in(reading.xid()));
    assert!(matches!(wrong, Err(Failure::Notification)));
}

#[test]
fn a_callback_makes_no_call_that_would_wait_for_it() {
    let exchange = Exchange::new(7, SOON, ());
    exchange.allow(2);
    let _outer = begun(&exchange, Order::Of(1));
    calling_back(|| {
        let without_threads = exchange.enter(Order::Of(2), false).unwrap().begin();
        assert!(matches!(without_threads, Err(Failure::CallingBack)));
    });
    exchange.set_threads(true);
    calling_back(|| {
        let same_session = exchange.enter(Order::Of(1), false).unwrap().begin();
        assert!(matches!(same_session, Err(Failure::CallingBack)));
        calling_back(|| ());
        let _other = begun(&exchange, Order::Of(2));
        let over_the_limit = exchange.enter(Order::Of(3), false).unwrap().begin();
        assert!(matches!(over_the_limit, Err(Failure::CallingBack)));
    });
    is_blocked(&exchange, Order::Of(1), || drop(_outer));
}

#[test]
fn threads_get_their_turns_in_the_order_of_their_arrival() {
    let exchange = Exchange::new(7, SOON, ());
    let order = Mutex::new(Vec::new());
    let first = begun(&exchange, Order::Alone);
    thread::scope(|scope| {
        for number in 0..40 {
            let ticket = exchange.enter(Order::Alone, false).unwrap();
            let order = &order;
            scope.spawn(move || {
                ticket.begin().unwrap();
                order.lock().unwrap().push(number);
            });
        }
        drop(first);
    });
    assert!(order.into_inner().unwrap().into_iter().eq(0..40));
}
