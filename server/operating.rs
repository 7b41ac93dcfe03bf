//! Knows the operations of a client that comes back when it is left: as long as there is one, it is not left.
//!
//! [`bindings::leaving`] leaves it when the daemon drains. A call is in the way until it is answered, which
//! [`crate::connection`] sees to.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bindings::leaving;
use xdr::facts::Step;
use xdr::operations::Operations;
use xdr::{Call, Function, RV_LEAVING, Reply, SessionHandle};

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

/// The operations of a client's sessions; those that have none are not in it.
#[derive(Default)]
pub struct Operating(Mutex<HashMap<SessionHandle, Operations>>);

impl Operating {
    /// Executes a call, and notes what it has begun or ended. A daemon that is about to leave executes what continues an
    /// operation, and nothing else.
    pub fn during<'a>(&self, call: Call<'a>, execute: impl FnOnce(Call<'a>) -> Reply) -> Reply {
        let (function, session, room) = (call.function(), call.session(), call.room());
        // Of many threads some always have an operation, if others may begin one.
        if leaving::is_leaving() && !ends_something(function) && !self.has_operation(session) {
            return Reply::only(function, RV_LEAVING);
        }
        let waits = matches!(call, Call::C_WaitForSlotEvent(_));
        let reply = match waits {
            true => leaving::aside(|| execute(call)),
            false => execute(call),
        };
        if let Some(session) = session {
            let mut sessions = self.sessions();
            let before = sessions.remove(&session);
            let had_one = before.is_some();
            let mut operations = before.unwrap_or_default();
            operations.note(function, room, reply.rv());
            if function == Function::C_CloseSession && reply.rv().is_ok() {
                operations.clear();
            }
            let has_one = !operations.is_empty();
            if has_one {
                sessions.insert(session, operations);
            }
            match (had_one, has_one) {
                (false, true) => leaving::enter(),
                (true, false) => leaving::leave(),
                _ => {}
            }
        }
        reply
    }

    fn has_operation(&self, session: Option<SessionHandle>) -> bool {
        session.is_some_and(|session| self.sessions().contains_key(&session))
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionHandle, Operations>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
