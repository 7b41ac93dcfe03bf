//! Remembers the open sessions of one client, with their slots.
//!
//! Other calls may be executed beside one that closes sessions, and the module may give the handle of a closed session to
//! a new one at once. So the sessions that a call closes are noted before it is executed, each with a number of its own.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use xdr::{Call, CkRv, Reply, SessionHandle, SlotId};

/// The open sessions of a client.
#[derive(Default)]
pub struct OpenSessions(Mutex<Known>);

#[derive(Default)]
struct Known {
    sessions: HashMap<SessionHandle, Session>,
    /// The number of the last session.
    last: u64,
}

#[derive(Clone, Copy)]
struct Session {
    slot: SlotId,
    number: u64,
    /// How many calls are being executed that close it.
    closing: u32,
}

/// An open session: its slot, and a number that no other session of the client has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Open {
    /// The slot.
    pub slot: SlotId,
    number: u64,
}

/// What a call does to the sessions if it succeeds.
pub struct Effect {
    /// The slot in which it opens a session.
    opens_in: Option<SlotId>,
    /// The sessions that it closes.
    closes: Vec<(SessionHandle, u64)>,
    /// The session that it is made in.
    session: Option<(SessionHandle, u64)>,
}

impl OpenSessions {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a session if it is open and no call that closes it is being executed: its handle may belong to another
    /// session then.
    pub fn get(&self, session: SessionHandle) -> Option<Open> {
        let known = self.known();
        let Session {
            slot,
            number,
            closing,
        } = *known.sessions.get(&session)?;
        (closing == 0).then_some(Open { slot, number })
    }

    /// The number of open sessions.
    pub fn count(&self) -> usize {
        self.known().sessions.len()
    }

    /// Notes what a call that is about to be executed does to the sessions.
    pub fn before(&self, call: &Call<'_>) -> Effect {
        let mut known = self.known();
        let those = |closes: &dyn Fn(SessionHandle, SlotId) -> bool| {
            let sessions = known.sessions.iter();
            let closed = sessions.filter(|(handle, it)| closes(**handle, it.slot));
            closed.map(|(handle, it)| (*handle, it.number)).collect()
        };
        let closes: Vec<(SessionHandle, u64)> = match call {
            Call::C_CloseSession(session) => those(&|handle, _| handle == *session),
            Call::C_CloseAllSessions(slot) => those(&|_, of| of == *slot),
            Call::C_Finalize() => those(&|_, _| true),
            _ => Vec::new(),
        };
        let opens_in = match call {
            Call::C_OpenSession(slot, ..) => Some(*slot),
            _ => None,
        };
        let session = call.session().and_then(|session| {
            let found = known.sessions.get(&session);
            found.map(|it| (session, it.number))
        });
        for (handle, _) in &closes {
            if let Some(it) = known.sessions.get_mut(handle) {
                it.closing += 1;
            }
        }
        Effect {
            opens_in,
            closes,
            session,
        }
    }

    /// Applies what the call has done, as its reply says.
    pub fn after(&self, effect: Effect, reply: &Reply) {
        let mut known = self.known();
        if let (Some(slot), Reply::C_OpenSession(opened)) = (effect.opens_in, reply) {
            if opened.rv.is_ok() {
                known.last += 1;
                let number = known.last;
                let session = Session {
                    slot,
                    number,
                    closing: 0,
                };
                known.sessions.insert(opened.session, session);
            }
        }
        for (handle, number) in &effect.closes {
            let it = known.sessions.get_mut(handle);
            if let Some(it) = it.filter(|it| it.number == *number) {
                it.closing -= 1;
            }
        }
        let gone = match reply.rv() {
            CkRv::OK => effect.closes,
            // The session was closed because its token was removed.
            CkRv::SESSION_HANDLE_INVALID => effect.session.into_iter().collect(),
            _ => Vec::new(),
        };
        for (handle, number) in gone {
            let known = &mut known.sessions;
            if known.get(&handle).is_some_and(|it| it.number == number) {
                known.remove(&handle);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xdr::{Flags, SessionResult};

    const SLOT: SlotId = SlotId(7);

    fn open(sessions: &OpenSessions, slot: SlotId, session: u64) {
        let effect = sessions.before(&Call::C_OpenSession(slot, Flags(4), false));
        let (rv, session) = (CkRv::OK, SessionHandle(session));
        let reply = Reply::C_OpenSession(SessionResult { rv, session });
        sessions.after(effect, &reply);
    }

    /// The open sessions of 1 to 4.
    fn opened(sessions: &OpenSessions) -> Vec<u64> {
        let all = (1..5).filter(|session| sessions.get(SessionHandle(*session)).is_some());
        all.collect()
    }

    #[test]
    fn sessions_are_known_until_they_are_closed() {
        let failed = CkRv::FUNCTION_FAILED;
        let (one, all) = (
            Call::C_CloseSession(SessionHandle(1)),
            Call::C_CloseAllSessions(SLOT),
        );
        let used = Call::C_Logout(SessionHandle(2));
        for (call, rv, left) in [
            (one.clone(), CkRv::OK, &[2, 3][..]),
            (one, failed, &[1, 2, 3]),
            (all.clone(), CkRv::OK, &[3]),
            (all, failed, &[1, 2, 3]),
            (Call::C_Finalize(), CkRv::OK, &[]),
            (used.clone(), CkRv::SESSION_HANDLE_INVALID, &[1, 3]),
            (used, CkRv::OK, &[1, 2, 3]),
        ] {
            let sessions = OpenSessions::default();
            open(&sessions, SLOT, 1);
            open(&sessions, SLOT, 2);
            open(&sessions, SlotId(8), 3);
            let effect = sessions.before(&call);
            sessions.after(effect, &Reply::only(call.function(), rv));
            assert_eq!(opened(&sessions), left, "{call:?}: {rv}");
            assert_eq!(sessions.count(), left.len());
        }
    }

    /// Others are opened before the reply to the closing call is evaluated, one of them with the same handle.
    #[test]
    fn a_new_session_outlives_a_call_that_closes_others() {
        for call in [
            Call::C_CloseSession(SessionHandle(1)),
            Call::C_CloseAllSessions(SLOT),
            Call::C_Finalize(),
        ] {
            let sessions = OpenSessions::default();
            open(&sessions, SLOT, 1);
            let first = sessions.get(SessionHandle(1));
            let effect = sessions.before(&call);
            assert_eq!(sessions.get(SessionHandle(1)), None);
            open(&sessions, SLOT, 1);
            open(&sessions, SLOT, 2);
            assert_ne!(sessions.get(SessionHandle(1)), first);
            sessions.after(effect, &Reply::only(call.function(), CkRv::OK));
            assert_eq!(opened(&sessions), [1, 2], "{call:?}");
        }
    }
}
