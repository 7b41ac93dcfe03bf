//! Decides which waiting client is next: one that the controller already holds, or one of the listener whose turn it
//! is.
//!
//! There is one [`Queue`] for each service. It knows listeners by their numbers and makes no system call, so that each
//! rule has a unit test. `admission` decides whether a client can be served at all.

use std::collections::VecDeque;

/// The clients that wait, as far as is known. `C` is one that was accepted.
pub struct Queue<C> {
    /// A client for whom no worker could be forked. It is the next to get one.
    held: Option<C>,
    /// The listener that had the last turn is at the end.
    listeners: VecDeque<ListenerState>,
}

struct ListenerState {
    number: usize,
    /// Whether connections may be waiting: an event said so, and accept has not found the backlog empty since.
    is_ready: bool,
}

/// Where the next client is.
#[derive(Debug, Eq, PartialEq)]
pub enum Next<C> {
    /// It was accepted before.
    Held(C),
    /// The listener of this number may have one.
    Listener(usize),
}

impl<C> Queue<C> {
    /// Creates the queue of a service with this many listeners. Nobody waits yet.
    pub fn new(listeners: usize) -> Queue<C> {
        let listener = |number| ListenerState {
            number,
            is_ready: false,
        };
        Queue {
            held: None,
            listeners: (0..listeners).map(listener).collect(),
        }
    }

    /// Whether a client waits, as far as is known.
    pub fn is_awaited(&self) -> bool {
        self.held.is_some() || self.listeners.iter().any(|listener| listener.is_ready)
    }

    /// Takes the next client: the one that is held, else one of a listener. Listeners take turns, because the backlog
    /// of one of them may never become empty.
    pub fn take_next(&mut self) -> Option<Next<C>> {
        if let Some(client) = self.held.take() {
            return Some(Next::Held(client));
        }
        let at = self
            .listeners
            .iter()
            .position(|listener| listener.is_ready)?;
        let listener = self.listeners.remove(at)?;
        let number = listener.number;
        self.listeners.push_back(listener);
        Some(Next::Listener(number))
    }

    /// Keeps a client for whom no worker could be forked.
    pub fn hold(&mut self, client: C) {
        self.held = Some(client);
    }

    /// Drops the client that is held.
    pub fn release(&mut self) {
        self.held = None;
    }

    /// Notes that connections may be waiting at this listener.
    pub fn listener_is_ready(&mut self, number: usize) {
        self.set_ready(number, true);
    }

    /// Notes that no connection waits at this listener any more.
    pub fn listener_is_empty(&mut self, number: usize) {
        self.set_ready(number, false);
    }

    fn set_ready(&mut self, number: usize, is_ready: bool) {
        for listener in &mut self.listeners {
            if listener.number == number {
                listener.is_ready = is_ready;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_has_clients_until_accepting_runs_dry() {
        let mut queue = Queue::<()>::new(2);
        assert!(!queue.is_awaited());
        assert_eq!(queue.take_next(), None);
        queue.listener_is_ready(1);
        for _ in 0..3 {
            assert!(queue.is_awaited());
            assert_eq!(queue.take_next(), Some(Next::Listener(1)));
        }
        queue.listener_is_empty(1);
        assert!(!queue.is_awaited());
        assert_eq!(queue.take_next(), None);
    }

    #[test]
    fn ready_listeners_have_their_turn_one_after_the_other() {
        let mut queue = Queue::<()>::new(3);
        queue.listener_is_ready(0);
        queue.listener_is_ready(2);
        for number in [0, 2, 0, 2] {
            assert_eq!(queue.take_next(), Some(Next::Listener(number)));
        }
        queue.listener_is_ready(1);
        let turns = [0; 3].map(|_| queue.take_next().unwrap());
        assert!(turns.contains(&Next::Listener(1)));
        queue.listener_is_empty(0);
        queue.listener_is_empty(2);
        assert_eq!(queue.take_next(), Some(Next::Listener(1)));
    }

    #[test]
    fn a_client_that_is_held_comes_before_all_listeners_and_once() {
        let mut queue = Queue::new(1);
        queue.listener_is_ready(0);
        queue.hold("held");
        assert_eq!(queue.take_next(), Some(Next::Held("held")));
        assert_eq!(queue.take_next(), Some(Next::Listener(0)));
        queue.listener_is_empty(0);
        queue.hold("dropped");
        assert!(queue.is_awaited());
        queue.release();
        assert!(!queue.is_awaited());
    }

    #[test]
    fn a_listener_that_nobody_knows_changes_nothing() {
        let mut queue = Queue::<()>::new(1);
        queue.listener_is_ready(7);
        assert!(!queue.is_awaited());
    }
}
