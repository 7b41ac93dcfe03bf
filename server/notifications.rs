//! Keeps a module's notifications until the client has answered them.
//!
//! A module notifies in the thread of a call, or in a thread of its own. A notification in the thread of a call is sent
//! to the client at once, and the call continues when the client has answered. A notification from another thread waits
//! for the next call of its session. [`crate::parallel`] sends the notifications and receives the answers.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use xdr::rpc::Xid;
use xdr::{CkRv, SessionHandle, Ulong};

/// Upper bound on the notifications that wait for a call of their session. If there are more, the oldest are dropped.
const MOST_KEPT: usize = 64;

thread_local! {
    /// The client's call that this thread executes, if the client can be notified meanwhile.
    static CALL: Cell<Option<Xid>> = const { Cell::new(None) };
}

/// The notifications of one client that have not been answered.
#[derive(Default)]
pub struct Notifications {
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Default)]
struct State {
    next_xid: u32,
    /// The client's answer to each notification that was sent, by its xid; `None` before it has come.
    answers: HashMap<u32, Option<CkRv>>,
    kept: VecDeque<(SessionHandle, Ulong)>,
    is_over: bool,
}

impl Notifications {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Executes `work`. Meanwhile [`Notifications::call`] returns this call of the client, in this thread.
    pub fn during<T>(call: Xid, work: impl FnOnce() -> T) -> T {
        let before = CALL.replace(Some(call));
        let done = work();
        CALL.set(before);
        done
    }

    /// Returns the client's call that this thread executes.
    pub fn call() -> Option<Xid> {
        CALL.get()
    }

    /// Keeps a notification for the next call of the session.
    pub fn keep(&self, session: SessionHandle, event: Ulong) {
        let mut state = self.state();
        if state.kept.len() == MOST_KEPT {
            state.kept.pop_front();
        }
        state.kept.push_back((session, event));
    }

    /// Takes the notifications that were kept for a session.
    pub fn take(&self, session: SessionHandle) -> Vec<Ulong> {
        let mut state = self.state();
        let of_session = |(of, event): &(SessionHandle, Ulong)| (*of == session).then_some(*event);
        let taken = state.kept.iter().filter_map(of_session).collect();
        state.kept.retain(|(of, _)| *of != session);
        taken
    }

    /// Notifies the client with `send`, which gets the xid to use, and waits for the answer. Returns CKR_CANCEL if no
    /// answer can come any more.
    pub fn ask<E>(&self, send: impl FnOnce(Xid) -> Result<(), E>) -> Result<CkRv, E> {
        let xid = {
            let mut state = self.state();
            let xid = state.next_xid;
            state.next_xid = xid.wrapping_add(1);
            state.answers.insert(xid, None);
            xid
        };
        let sent = send(Xid(xid));
        let mut state = self.state();
        while sent.is_ok() && !state.is_over && state.answers.get(&xid) == Some(&None) {
            let waited = self.answered.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let answer = state.answers.remove(&xid).flatten();
        sent.map(|()| answer.unwrap_or(CkRv::CANCEL))
    }

    /// Passes the client's answer to the thread that waits for it. An answer that no thread waits for is dropped.
    pub fn answer(&self, xid: Xid, rv: CkRv) {
        if let Some(answer) = self.state().answers.get_mut(&xid.0) {
            answer.get_or_insert(rv);
            self.answered.notify_all();
        }
    }

    /// Ends all waiting, because no more answers come from the client.
    pub fn end(&self) {
        self.state().is_over = true;
        self.answered.notify_all();
    }
}
