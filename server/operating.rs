//! Tracks the active operations of a client, so that a draining daemon ends its connection only when there is none.
//!
//! This concerns only clients that can reconnect. [`bindings::leaving`] ends the connection. A call that is not
//! answered yet also delays the end; [`crate::connection`] counts those.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bindings::leaving::{self, InTheWay};
use xdr::facts::{Argument, Role, Step};
use xdr::operations::Operations;
use xdr::{Call, CkRv, Flags, Function, RV_LEAVING, Reply, SessionHandle, SlotId};

/// Whether a call continues or ends what has begun.
fn ends_something(function: Function) -> bool {
    use Function::*;
    let step = function.facts().step;
    matches!(step, Some(Step::Update | Step::End))
        || matches!(
            function,
            C_CloseSession | C_CloseAllSessions | C_SessionCancel | C_Finalize
        )
}

/// What a call ends if it succeeds, besides the operation that it belongs to.
enum Ends {
    Nothing,
    /// The sessions that it closes. They are removed before the call, because their handles may be given to new
    /// sessions before its reply is evaluated.
    Sessions(Vec<(SessionHandle, Session)>),
    /// The operations that the flags of C_SessionCancel name.
    Cancelled(Flags),
    /// The operations of its own families: an Init without a mechanism (PKCS#11 v3.0, section 5.8.1).
    Begun,
}

/// An open session.
#[derive(Default)]
struct Session {
    /// `None` if no C_OpenSession for it was seen.
    slot: Option<SlotId>,
    operations: Operations,
    /// Present while it has an operation.
    in_the_way: Option<InTheWay>,
}

impl Session {
    /// Updates `in_the_way` after its operations have changed.
    fn look(&mut self) {
        let before = self.in_the_way.take();
        self.in_the_way = match self.operations.is_empty() {
            true => None,
            false => before.or_else(|| Some(InTheWay::begin())),
        };
    }
}

/// The open sessions of a client and their operations.
///
/// C_Logout ends none: PKCS#11 leaves it open whether operations are active after it (v2.40, section 5.6.8).
#[derive(Default)]
pub struct Operating(Mutex<HashMap<SessionHandle, Session>>);

impl Operating {
    /// Executes a call, and notes what it has begun or ended. A worker that is about to end the connection refuses
    /// every call, unless the call continues or ends something, or its session has an operation.
    pub fn during<'a>(&self, call: Call<'a>, execute: impl FnOnce(Call<'a>) -> Reply) -> Reply {
        let (function, session, room) = (call.function(), call.session(), call.room());
        // If new operations were allowed, one of many threads would always have one, and the connection would never
        // end.
        if leaving::is_leaving() && !ends_something(function) && !self.has_operation(session) {
            return Reply::only(function, RV_LEAVING);
        }
        let opens_in = match &call {
            Call::C_OpenSession(slot, ..) => Some(*slot),
            _ => None,
        };
        let waits = matches!(call, Call::C_WaitForSlotEvent(_));
        let ends = self.ends(&call);
        let reply = match waits {
            true => leaving::aside(|| execute(call)),
            false => execute(call),
        };
        let rv = reply.rv();
        let is_closed = [CkRv::SESSION_HANDLE_INVALID, CkRv::SESSION_CLOSED].contains(&rv);
        let mut sessions = self.sessions();
        if let (Some(slot), Reply::C_OpenSession(opened)) = (opens_in, &reply) {
            if rv.is_ok() {
                let slot = Some(slot);
                sessions.insert(
                    opened.session,
                    Session {
                        slot,
                        ..Session::default()
                    },
                );
            }
        }
        match (ends, session) {
            (Ends::Sessions(_), _) if rv.is_ok() || is_closed => {}
            (Ends::Sessions(closing), _) => put_back(&mut sessions, closing),
            (_, Some(session)) if is_closed => {
                sessions.remove(&session);
            }
            (ends, Some(session)) => {
                let mut known = sessions.remove(&session).unwrap_or_default();
                known.operations.note(function, room, rv);
                match ends {
                    Ends::Cancelled(flags) if rv.is_ok() => known.operations.cancel(flags),
                    Ends::Begun if rv.is_ok() => known.operations.forget(function.facts().families),
                    _ => {}
                }
                known.look();
                // A handle that the client has made up is not remembered.
                if known.slot.is_some() || known.in_the_way.is_some() {
                    sessions.insert(session, known);
                }
            }
            (_, None) => {}
        }
        drop(sessions);
        reply
    }

    fn ends(&self, call: &Call<'_>) -> Ends {
        let function = call.function();
        let is_init = function.facts().step == Some(Step::Init);
        let mut roles = function.facts().roles.iter();
        let takes_mechanism =
            roles.any(|role| matches!(role, Role::Mechanism | Role::MessageMechanism));
        let has_mechanism = || {
            let mut arguments = call.arguments();
            arguments.any(|argument| matches!(argument, Argument::Mechanism(_)))
        };
        match call {
            Call::C_CloseSession(session) => Ends::Sessions(self.take(|it, _| it == session)),
            Call::C_CloseAllSessions(slot) => {
                Ends::Sessions(self.take(|_, session| session.slot == Some(*slot)))
            }
            Call::C_Finalize() => Ends::Sessions(self.take(|_, _| true)),
            Call::C_SessionCancel(_, flags) => Ends::Cancelled(*flags),
            _ if is_init && takes_mechanism && !has_mechanism() => Ends::Begun,
            _ => Ends::Nothing,
        }
    }

    fn take(
        &self,
        is_closed: impl Fn(&SessionHandle, &Session) -> bool,
    ) -> Vec<(SessionHandle, Session)> {
        let mut sessions = self.sessions();
        let closing = sessions
            .iter()
            .filter(|(handle, session)| is_closed(handle, session));
        let closing: Vec<SessionHandle> = closing.map(|(handle, _)| *handle).collect();
        let taken = closing
            .into_iter()
            .filter_map(|handle| sessions.remove_entry(&handle));
        taken.collect()
    }

    fn has_operation(&self, session: Option<SessionHandle>) -> bool {
        let sessions = self.sessions();
        let session = session.and_then(|session| sessions.get(&session));
        session.is_some_and(|session| !session.operations.is_empty())
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionHandle, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts back the sessions that a call did not close. Other threads may have begun operations in them meanwhile.
fn put_back(
    sessions: &mut HashMap<SessionHandle, Session>,
    closing: Vec<(SessionHandle, Session)>,
) {
    for (handle, mut session) in closing {
        let meanwhile = sessions.remove(&handle).unwrap_or_default();
        session.operations.append(&mut { meanwhile.operations });
        session.look();
        sessions.insert(handle, session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xdr::{MechanismResult, ObjectHandle, SessionResult};

    const SLOT: SlotId = SlotId(7);
    const SESSION: SessionHandle = SessionHandle(1);
    const OTHER: SessionHandle = SessionHandle(2);

    /// A client with a session in each of two slots, and an operation in both.
    fn operating() -> Operating {
        let operating = Operating::default();
        for (slot, session) in [(SLOT, SESSION), (SlotId(8), OTHER)] {
            let rv = CkRv::OK;
            let open = Call::C_OpenSession(slot, Flags(4), false);
            operating.during(open, |_| {
                Reply::C_OpenSession(SessionResult { rv, session })
            });
            begin(&operating, session);
            assert!(operating.has_operation(Some(session)));
        }
        operating
    }

    fn begin(operating: &Operating, session: SessionHandle) {
        make(operating, Call::C_FindObjectsInit(session, None), CkRv::OK);
    }

    fn make(operating: &Operating, call: Call<'_>, rv: CkRv) {
        operating.during(call, |call| Reply::only(call.function(), rv));
    }

    fn active(operating: &Operating) -> [bool; 2] {
        [SESSION, OTHER].map(|session| operating.has_operation(Some(session)))
    }

    #[test]
    fn an_operation_ends_with_its_session() {
        for (call, rv, left) in [
            (Call::C_CloseSession(SESSION), CkRv::OK, [false, true]),
            (
                Call::C_CloseSession(SESSION),
                CkRv::SESSION_HANDLE_INVALID,
                [false, true],
            ),
            (
                Call::C_CloseSession(SESSION),
                CkRv::FUNCTION_FAILED,
                [true, true],
            ),
            (Call::C_CloseAllSessions(SLOT), CkRv::OK, [false, true]),
            (
                Call::C_CloseAllSessions(SLOT),
                CkRv::FUNCTION_FAILED,
                [true, true],
            ),
            (Call::C_CloseAllSessions(SlotId(9)), CkRv::OK, [true, true]),
            (Call::C_Finalize(), CkRv::OK, [false, false]),
            (
                Call::C_GetSessionInfo(SESSION),
                CkRv::SESSION_CLOSED,
                [false, true],
            ),
            (Call::C_GetSessionInfo(SESSION), CkRv::OK, [true, true]),
            (Call::C_Logout(SESSION), CkRv::OK, [true, true]),
        ] {
            let operating = operating();
            let text = format!("{call:?}: {rv}");
            make(&operating, call, rv);
            assert_eq!(active(&operating), left, "{text}");
        }
    }

    #[test]
    fn an_operation_ends_when_it_is_cancelled() {
        let cancel = |flags| Call::C_SessionCancel(SESSION, Flags(flags));
        for (call, rv, left) in [
            (cancel(0x40), CkRv::OK, false), // CKF_FIND_OBJECTS
            (cancel(0x40), CkRv::OPERATION_CANCEL_FAILED, true),
            (cancel(0x800), CkRv::OK, true), // CKF_SIGN
        ] {
            let operating = operating();
            make(&operating, call, rv);
            assert_eq!(active(&operating), [left, true]);
        }
        let operating = Operating::default();
        let init = |mechanism| Call::C_SignInit(SESSION, mechanism, ObjectHandle(1));
        let sign = xdr::Mechanism::bare(xdr::MechanismType(0x40));
        for (mechanism, rv, left) in [
            (Some(sign), CkRv::OK, true),
            (None, CkRv::OPERATION_CANCEL_FAILED, true),
            (None, CkRv::OK, false),
        ] {
            let written = Default::default();
            operating.during(init(mechanism), |_| {
                Reply::C_SignInit(MechanismResult { rv, written })
            });
            assert_eq!(operating.has_operation(Some(SESSION)), left);
        }
    }

    /// A call that closes sessions may be answered after their handles were given to new ones.
    #[test]
    fn a_session_with_the_handle_of_a_closed_one_keeps_its_operation() {
        for call in [
            Call::C_CloseSession(SESSION),
            Call::C_CloseAllSessions(SLOT),
        ] {
            let operating = operating();
            operating.during(call, |call| {
                begin(&operating, SESSION);
                Reply::only(call.function(), CkRv::OK)
            });
            assert_eq!(active(&operating), [true, true]);
        }
    }

    #[test]
    fn no_handle_is_remembered_that_a_client_has_made_up() {
        let operating = Operating::default();
        for handle in 0..9 {
            let call = Call::C_GetSessionInfo(SessionHandle(handle));
            make(&operating, call, CkRv::FUNCTION_NOT_SUPPORTED);
        }
        assert!(operating.sessions().is_empty());
    }
}
