//! Tries every interleaving of threads in `exchange`, with loom: no thread waits for ever, and each gets its own reply.
//!
//! `exchange` is compiled a second time here, with loom's locks. Time does not pass in the model, so no deadline
//! passes. A list of the records that the daemon has sent takes the place of the connection; the thread that reads
//! takes records from it.

use std::time::Duration;

use loom::model::Builder;
use loom::thread;
use xdr::rpc::{Notification, Xid};
use xdr::{SessionHandle, Ulong};

mod sync {
    pub(super) use std::sync::{Arc, PoisonError};

    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
}

#[allow(dead_code, reason = "the model needs no more")]
#[allow(clippy::duplicate_mod, reason = "compiled with the types of loom")]
#[path = "exchange.rs"]
mod exchange;

use exchange::{Exchange, Next, Order, Stopped, Ticket};
use sync::{Arc, Condvar, Mutex};

/// A record that the daemon sends.
enum Sent {
    Reply(u32),
    Notification(u32),
}

#[derive(Default)]
struct Wire {
    is_serial: bool,
    state: Mutex<WireState>,
    changed: Condvar,
}

#[derive(Default)]
struct WireState {
    sent: Vec<Sent>,
    is_shut_down: bool,
    /// What a daemon that executes calls one after the other sends when the notification before was answered.
    held_back: Option<Vec<Sent>>,
}

impl Wire {
    fn send(&self, sent: Sent) {
        let mut state = self.state.lock().unwrap();
        match &mut state.held_back {
            Some(held_back) => held_back.push(sent),
            None => {
                if self.is_serial && matches!(sent, Sent::Notification(_)) {
                    state.held_back = Some(Vec::new());
                }
                state.sent.push(sent);
            }
        }
        self.changed.notify_one();
    }

    /// Notes that a notification was answered.
    fn answered(&self) {
        let held_back = self.state.lock().unwrap().held_back.take();
        held_back
            .into_iter()
            .flatten()
            .for_each(|sent| self.send(sent));
    }

    /// Takes the newest record; `None` when the connection was shut down.
    fn receive(&self) -> Option<Sent> {
        let mut state = self.state.lock().unwrap();
        while !state.is_shut_down {
            if let Some(last) = state.sent.pop() {
                return Some(last);
            }
            state = self.changed.wait(state).unwrap();
        }
        None
    }

    fn shut_down(&self) {
        self.state.lock().unwrap().is_shut_down = true;
        self.changed.notify_one();
    }
}

struct Model {
    exchange: Exchange<()>,
    wire: Wire,
    /// How many calls have ended, and how many have to end before the application's callback returns.
    over: Mutex<usize>,
    ended: Condvar,
    awaited: usize,
}

/// How the application's callback depends on other calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Callback {
    Nothing,
    /// It returns when another call is over.
    WaitsForCall,
    /// The daemon answers no other call before the callback returns.
    KeepsDaemon,
}

/// How a call ended.
#[derive(Debug, Eq, PartialEq)]
enum Ended {
    Answered,
    Stopped,
}

impl Model {
    fn new(limit: u64, callback: Callback) -> Arc<Model> {
        let model = Model {
            exchange: Exchange::new(u32::MAX, Duration::MAX, ()),
            wire: Wire {
                is_serial: callback == Callback::KeepsDaemon,
                ..Wire::default()
            },
            over: Mutex::new(0),
            ended: Condvar::new(),
            awaited: usize::from(callback == Callback::WaitsForCall),
        };
        model.exchange.allow(limit);
        Arc::new(model)
    }

    /// Makes a call. The daemon sends this many `notifications` before it answers.
    fn call(&self, order: Order, notifications: u32) -> Ended {
        let ended = self.exchange(order, notifications);
        *self.over.lock().unwrap() += 1;
        self.ended.notify_all();
        ended
    }

    fn callback(&self) {
        let mut over = self.over.lock().unwrap();
        while *over < self.awaited {
            over = self.ended.wait(over).unwrap();
        }
    }

    /// Does what `connection` does.
    fn exchange(&self, order: Order, mut notifications: u32) -> Ended {
        let Ok(ticket) = self.exchange.enter(order, false) else {
            return Ended::Stopped;
        };
        if ticket.begin().is_err() || ticket.send().is_err() {
            return Ended::Stopped;
        }
        let mut go_on = || {
            let sent = match notifications.checked_sub(1) {
                None => Sent::Reply(ticket.xid()),
                Some(_) => Sent::Notification(ticket.xid()),
            };
            notifications = notifications.saturating_sub(1);
            self.wire.send(sent);
        };
        go_on();
        loop {
            match ticket.next() {
                Err(_) => return Ended::Stopped,
                Ok(Next::Reply(reply)) => {
                    assert_eq!(reply, ticket.xid().to_be_bytes());
                    return Ended::Answered;
                }
                Ok(Next::Notification(_, told)) => {
                    assert_eq!(told.call.0, ticket.xid());
                    self.callback();
                    ticket.told(Duration::ZERO);
                    self.wire.answered();
                    go_on();
                }
                Ok(Next::Read { .. }) => match self.read(&ticket) {
                    None => return Ended::Stopped,
                    Some(Sent::Reply(_)) => {
                        ticket.give_back(());
                        return Ended::Answered;
                    }
                    Some(Sent::Notification(_)) => ticket.pass_on(()),
                },
            }
        }
    }

    /// Reads until a reply or notification of this call has come.
    fn read(&self, ticket: &Ticket<'_, ()>) -> Option<Sent> {
        loop {
            let sent = self.wire.receive()?;
            match sent {
                Sent::Reply(xid) if xid == ticket.xid() => return Some(sent),
                Sent::Reply(xid) => {
                    ticket.hand_over(xid, &xid.to_be_bytes()).unwrap();
                }
                Sent::Notification(xid) => {
                    let told = Notification {
                        call: Xid(xid),
                        session: SessionHandle(1),
                        event: Ulong(0),
                    };
                    ticket.notify(Xid(0), told).unwrap();
                    if xid == ticket.xid() {
                        return Some(sent);
                    }
                }
            }
        }
    }

    fn is_at_rest(&self) -> bool {
        let state = self.exchange.state();
        state.calls.is_empty() && state.reader.is_some()
    }
}

/// Runs the calls in threads of their own, in every order, with at most this many preemptions.
fn all_answered(
    preemptions: usize,
    limit: u64,
    callback: Callback,
    calls: &'static [(Order, u32)],
) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        let model = Model::new(limit, callback);
        let call = |(order, notifications)| {
            let model = model.clone();
            move || assert_eq!(model.call(order, notifications), Ended::Answered)
        };
        let (first, others) = calls.split_first().unwrap();
        let threads: Vec<_> = others
            .iter()
            .map(|other| thread::spawn(call(*other)))
            .collect();
        call(*first)();
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(model.is_at_rest());
    });
}

fn threads_read_for_each_other(preemptions: usize) {
    let two = &[(Order::Free, 0), (Order::Free, 0)];
    all_answered(preemptions + 1, 9, Callback::Nothing, two);
    let three = &[(Order::Of(1), 0), (Order::Of(2), 0), (Order::Waiting, 0)];
    all_answered(preemptions, 9, Callback::Nothing, three);
}

fn calls_of_a_session_take_turns(preemptions: usize) {
    let calls = &[(Order::Of(1), 0), (Order::Of(1), 0), (Order::Of(2), 0)];
    for limit in [1, 2] {
        all_answered(preemptions, limit, Callback::Nothing, calls);
    }
}

/// As C_Finalize does, when the limit on calls is reached.
fn a_call_goes_at_once_beside_others(preemptions: usize) {
    let calls = &[(Order::Of(1), 0), (Order::AtOnce, 0), (Order::Of(2), 0)];
    all_answered(preemptions, 1, Callback::Nothing, calls);
}

fn a_notified_thread_answers_while_another_reads(preemptions: usize) {
    let (one, both) = (
        &[(Order::Of(1), 1), (Order::Of(2), 0)],
        &[(Order::Of(1), 2), (Order::Of(2), 1)],
    );
    all_answered(preemptions, 9, Callback::Nothing, both);
    all_answered(preemptions, 9, Callback::WaitsForCall, one);
    all_answered(preemptions, 9, Callback::KeepsDaemon, one);
}

/// This includes threads that wait for the turn of a thread whose callback waits for them.
fn the_end_wakes_every_thread(preemptions: usize) {
    for notifications in [0, 1] {
        let mut builder = Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.check(move || {
            let model = Model::new(1, Callback::WaitsForCall);
            let call = |notifications| {
                let model = model.clone();
                move || model.call(Order::Of(1), notifications)
            };
            let threads =
                [notifications, 0].map(|notifications| thread::spawn(call(notifications)));
            model.exchange.stop(Stopped::Closed);
            model.wire.shut_down();
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(model.call(Order::Free, 0), Ended::Stopped);
        });
    }
}

fn a_reader_that_fails_leaves_nobody_waiting(preemptions: usize) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(|| {
        let model = Model::new(9, Callback::Nothing);
        let other = {
            let model = model.clone();
            thread::spawn(move || model.call(Order::Of(1), 0))
        };
        let ticket = model.exchange.enter(Order::Of(2), false).unwrap();
        ticket.begin().unwrap();
        ticket.send().unwrap();
        // The other thread has read before, or does not read at all.
        assert!(matches!(ticket.next(), Ok(Next::Read { .. })));
        drop(ticket);
        other.join().unwrap();
        assert_eq!(model.exchange.stopped(), Some(Stopped::Lost));
    });
}

/// Defines a module of two tests for each part of the model; the second, slower one allows more preemptions.
macro_rules! models {
    ($($name:ident: $preemptions:literal, $more:literal;)*) => {$(
        mod $name {
            #[test]
            fn in_most_orders() {
                super::$name($preemptions);
            }

            #[test]
            #[ignore = "slow; `make soak` runs it"]
            fn in_nearly_all_orders() {
                super::$name($more);
            }
        }
    )*};
}

models! {
    threads_read_for_each_other: 2, 4;
    calls_of_a_session_take_turns: 2, 4;
    a_call_goes_at_once_beside_others: 2, 4;
    a_notified_thread_answers_while_another_reads: 3, 4;
    the_end_wakes_every_thread: 3, 5;
    a_reader_that_fails_leaves_nobody_waiting: 5, 9;
}
