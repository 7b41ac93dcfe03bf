//! Stores a value for each session of the application, until the session ends.
//!
//! A session ends with C_CloseSession, with C_CloseAllSessions for its slot, and with the connection. A new session may
//! have the handle of one that has ended; it inherits nothing, even if another thread opens it before the thread that
//! closes the earlier one has its reply.

use std::collections::HashMap;

use xdr::{Call, CkRv, SessionHandle, SlotId};

/// A `T` for each session.
pub(crate) struct Sessions<T> {
    sessions: HashMap<SessionHandle, Session<T>>,
    /// How many sessions were opened so far.
    opened: u64,
}

struct Session<T> {
    /// `None` if this library has not seen how the session was opened.
    slot: Option<SlotId>,
    /// Its position among all sessions that were opened, from 1; 0 if this library has not seen that.
    number: u64,
    kept: T,
}

/// What a call closes.
#[derive(Clone, Copy)]
pub(crate) enum Closes {
    One(SessionHandle),
    Slot(SlotId),
}

impl Closes {
    /// Returns what a call closes, if anything.
    pub fn of(call: &Call<'_>) -> Option<Closes> {
        match call {
            Call::C_CloseSession(session) => Some(Closes::One(*session)),
            Call::C_CloseAllSessions(slot) => Some(Closes::Slot(*slot)),
            _ => None,
        }
    }
}

/// The sessions that a call closes if it succeeds. A handle that was closed, once, belonged to a session that was opened
/// before. All sessions of a slot are forgotten: of one that is being opened meanwhile nobody can tell whether it was
/// closed, and a callback must not be kept for longer than its session.
#[derive(Clone, Copy)]
pub(crate) struct Closing {
    closes: Closes,
    opened_before: u64,
}

impl<T> Default for Sessions<T> {
    fn default() -> Sessions<T> {
        Sessions {
            sessions: HashMap::new(),
            opened: 0,
        }
    }
}

impl<T> Sessions<T> {
    /// Notes a new session. What was kept under the same handle belonged to an earlier one.
    pub fn opened(&mut self, session: SessionHandle, slot: SlotId, kept: T) {
        self.opened += 1;
        let (slot, number) = (Some(slot), self.opened);
        self.sessions
            .insert(session, Session { slot, number, kept });
    }

    /// Returns the position of a session among all that were opened; 0 if this library has not seen that.
    pub fn number(&self, session: SessionHandle) -> u64 {
        self.sessions.get(&session).map_or(0, |it| it.number)
    }

    /// Returns what a call is about to close.
    pub fn closing(&self, closes: Closes) -> Closing {
        Closing {
            closes,
            opened_before: self.opened,
        }
    }

    /// Forgets the sessions that a call has closed, as its CK_RV says.
    pub fn closed(&mut self, closing: Closing, rv: CkRv) {
        let is_later = |session: &Session<T>| session.number > closing.opened_before;
        match closing.closes {
            Closes::One(session) => {
                let is_over =
                    [CkRv::OK, CkRv::SESSION_HANDLE_INVALID, CkRv::SESSION_CLOSED].contains(&rv);
                if is_over && !self.sessions.get(&session).is_some_and(is_later) {
                    self.sessions.remove(&session);
                }
            }
            Closes::Slot(slot) if rv.is_ok() => {
                let elsewhere =
                    |session: &Session<T>| session.slot.is_some_and(|known| known != slot);
                self.sessions.retain(|_, session| elsewhere(session));
            }
            Closes::Slot(_) => {}
        }
    }

    /// Forgets what belonged to an earlier session with this handle.
    pub fn forget(&mut self, session: SessionHandle) {
        self.sessions.remove(&session);
    }

    /// Forgets everything, because the connection has ended.
    pub fn clear(&mut self) {
        self.sessions.clear();
    }

    /// Returns the value of a session.
    pub fn get(&self, session: SessionHandle) -> Option<&T> {
        self.sessions.get(&session).map(|session| &session.kept)
    }

    /// Returns the value of a session, to be changed.
    pub fn get_mut(&mut self, session: SessionHandle) -> Option<&mut T> {
        self.sessions
            .get_mut(&session)
            .map(|session| &mut session.kept)
    }
}

impl<T: Default> Sessions<T> {
    /// Returns the value of a session that had this [`Sessions::number`] when a call of it was sent. Makes a default value
    /// if there is none. `None` if the handle belongs to another session by now.
    pub fn entry(&mut self, session: SessionHandle, number: u64) -> Option<&mut T> {
        let new = || Session {
            slot: None,
            number: 0,
            kept: T::default(),
        };
        let session = self.sessions.entry(session).or_insert_with(new);
        (session.number == number || session.number == 0).then_some(&mut session.kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(closes: Closes, rv: CkRv) -> Vec<u64> {
        let mut sessions = Sessions::default();
        sessions.opened(SessionHandle(1), SlotId(7), ());
        sessions.opened(SessionHandle(2), SlotId(8), ());
        sessions.opened(SessionHandle(3), SlotId(7), ());
        sessions.closed(sessions.closing(closes), rv);
        (1..4)
            .filter(|number| sessions.get(SessionHandle(*number)).is_some())
            .collect()
    }

    #[test]
    fn sessions_end_when_they_are_closed() {
        let one = Closes::One(SessionHandle(1));
        assert_eq!(kept(one, CkRv::OK), [2, 3]);
        assert_eq!(kept(one, CkRv::SESSION_HANDLE_INVALID), [2, 3]);
        assert_eq!(kept(one, CkRv::FUNCTION_FAILED), [1, 2, 3]);
        let slot = Closes::Slot(SlotId(7));
        assert_eq!(kept(slot, CkRv::OK), [2]);
        assert_eq!(kept(slot, CkRv::SLOT_ID_INVALID), [1, 2, 3]);
    }

    #[test]
    fn a_handle_that_comes_again_inherits_nothing() {
        let mut sessions = Sessions::default();
        let session = SessionHandle(1);
        sessions.opened(session, SlotId(7), vec![1]);
        sessions.opened(session, SlotId(7), Vec::new());
        assert_eq!(sessions.get(session), Some(&Vec::new()));
    }

    #[test]
    fn what_was_opened_while_a_call_closed_an_earlier_one_stays() {
        let mut sessions = Sessions::default();
        let (session, slot) = (SessionHandle(1), SlotId(7));
        sessions.opened(session, slot, "old");
        let old = sessions.number(session);
        let closing = sessions.closing(Closes::One(session));
        sessions.opened(session, slot, "new");
        sessions.closed(closing, CkRv::OK);
        assert_eq!(sessions.get(session), Some(&"new"));
        // A late answer to a call of the earlier session.
        assert_eq!(sessions.entry(session, old), None);
        let new = sessions.number(session);
        assert_eq!(sessions.entry(session, new), Some(&mut "new"));
        sessions.closed(sessions.closing(Closes::One(session)), CkRv::OK);
        assert_eq!(sessions.get(session), None);
    }
}
