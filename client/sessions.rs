//! Stores a value for each session of the application, until the session ends.
//!
//! A session ends with C_CloseSession, with C_CloseAllSessions for its slot, and with the connection. A new session may
//! have the handle of one that has ended; it inherits nothing.

use std::collections::HashMap;

use xdr::{Call, CkRv, SessionHandle, SlotId};

/// A `T` for each session.
pub(crate) struct Sessions<T> {
    sessions: HashMap<SessionHandle, Session<T>>,
}

struct Session<T> {
    /// `None` if this library has not seen how the session was opened.
    slot: Option<SlotId>,
    kept: T,
}

/// The sessions that a call closes if it succeeds.
#[derive(Clone, Copy)]
pub(crate) enum Closing {
    One(SessionHandle),
    Slot(SlotId),
}

impl Closing {
    /// Returns what a call closes, if anything.
    pub fn of(call: &Call<'_>) -> Option<Closing> {
        match call {
            Call::C_CloseSession(session) => Some(Closing::One(*session)),
            Call::C_CloseAllSessions(slot) => Some(Closing::Slot(*slot)),
            _ => None,
        }
    }
}

impl<T> Default for Sessions<T> {
    fn default() -> Sessions<T> {
        Sessions {
            sessions: HashMap::new(),
        }
    }
}

impl<T> Sessions<T> {
    /// Notes a new session. What was kept under the same handle belonged to an earlier one.
    pub fn opened(&mut self, session: SessionHandle, slot: SlotId, kept: T) {
        let slot = Some(slot);
        self.sessions.insert(session, Session { slot, kept });
    }

    /// Forgets the sessions that a call has closed, as its CK_RV says.
    pub fn closed(&mut self, closing: Closing, rv: CkRv) {
        match closing {
            Closing::One(session) => {
                if [CkRv::OK, CkRv::SESSION_HANDLE_INVALID, CkRv::SESSION_CLOSED].contains(&rv) {
                    self.sessions.remove(&session);
                }
            }
            Closing::Slot(slot) if rv.is_ok() => {
                let elsewhere =
                    |session: &Session<T>| session.slot.is_some_and(|known| known != slot);
                self.sessions.retain(|_, session| elsewhere(session));
            }
            Closing::Slot(_) => {}
        }
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
    /// Returns the value of a session. Makes a default value if there is none.
    pub fn entry(&mut self, session: SessionHandle) -> &mut T {
        let new = || Session {
            slot: None,
            kept: T::default(),
        };
        &mut self.sessions.entry(session).or_insert_with(new).kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(closing: Closing, rv: CkRv) -> Vec<u64> {
        let mut sessions = Sessions::default();
        sessions.opened(SessionHandle(1), SlotId(7), ());
        sessions.opened(SessionHandle(2), SlotId(8), ());
        sessions.opened(SessionHandle(3), SlotId(7), ());
        sessions.closed(closing, rv);
        (1..4)
            .filter(|number| sessions.get(SessionHandle(*number)).is_some())
            .collect()
    }

    #[test]
    fn sessions_end_when_they_are_closed() {
        let one = Closing::One(SessionHandle(1));
        assert_eq!(kept(one, CkRv::OK), [2, 3]);
        assert_eq!(kept(one, CkRv::SESSION_HANDLE_INVALID), [2, 3]);
        assert_eq!(kept(one, CkRv::FUNCTION_FAILED), [1, 2, 3]);
        let slot = Closing::Slot(SlotId(7));
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
}
