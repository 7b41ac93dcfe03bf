//! Makes the application's calls between C_Initialize and C_Finalize, and keeps what sessions need on this side.
//!
//! `abi` makes calls of version 4, as values; they go to the module unchanged. For each session the library remembers
//! two things: the mechanism of its message operations, and its notification callback. No lock of this module is held
//! during a call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xdr::ending::calls_that_end;
use xdr::facts::{Family, Step};
use xdr::{
    Call, CkRv, Cryptoki, Flags, Function, Input, MechanismType, NullPlaces, Reply, Room,
    SessionHandle, SlotId, Use,
};

use crate::landing::Landing;
use crate::link::DistantModule;
use crate::notifications::{Callback, Notifications};
use crate::remote::{ask, result};
use crate::sessions::{Closes, Sessions};

/// The CK_RV for an input that is longer than a record can be; see [`Library::checked`].
pub(crate) const TOO_LONG: CkRv = CkRv::DATA_LEN_RANGE;

/// The room for output when an operation is ended because a call was too long. If the module has more output than that,
/// its operation stays active.
pub(crate) const ROOM_AT_END: Room = Room::Buffer(1 << 20);

/// A module and the sessions that the application has with it.
pub(crate) struct Library<M: ?Sized = dyn DistantModule> {
    messages: Mutex<Sessions<Messages>>,
    notifications: Arc<Notifications>,
    module: Box<M>,
}

/// The mechanisms of a session's message operations. The structure of each message's parameter depends on them.
type Messages = Vec<(Family, MechanismType)>;

/// The mechanism type of a message for which C_Message*Init was not called. No mechanism has this number, so the module
/// returns its usual error for that case.
pub(crate) const NO_MECHANISM: MechanismType = MechanismType(u64::MAX);

impl<M: DistantModule + ?Sized> Library<M> {
    /// Makes a library without open sessions.
    pub fn new(module: Box<M>, notifications: Arc<Notifications>) -> Library<M> {
        Library {
            messages: Mutex::default(),
            notifications,
            module,
        }
    }

    /// Returns which interfaces the module has.
    pub fn interfaces(&self) -> Flags {
        self.module.interfaces()
    }

    /// Executes C_Finalize. All sessions end, whatever the module returns.
    pub fn finish(&self) -> Result<(), CkRv> {
        let result = self.module.finish();
        self.forget();
        result
    }

    #[cfg(test)]
    pub fn module(&self) -> &M {
        &self.module
    }

    /// Makes a call that has an OutputResult. Its bytes may be received into `landing`; see [`Remote::call_into`].
    ///
    /// [`Remote::call_into`]: crate::remote::Remote::call_into
    pub fn call_into(&self, call: Call<'_>, landing: &mut Landing<'_>) -> Reply {
        self.make(call, |module, call| module.call_into(call, landing))
    }

    /// Makes a call whose reply is only a CK_RV.
    pub fn only(&self, call: Call<'_>) -> Result<(), CkRv> {
        result(self.call(call).rv())
    }

    /// Returns the input of a call of `function`, if it could be read. If it is too long, this ends the operation, as
    /// every failing call does, and returns the CK_RV that the function has for that.
    pub fn checked<'a>(
        &self,
        session: SessionHandle,
        function: Function,
        input: Result<Input<'a>, CkRv>,
    ) -> Result<Input<'a>, CkRv> {
        input.map_err(|rv| {
            for call in calls_that_end(function, session, ROOM_AT_END) {
                self.call(call).wipe();
            }
            if rv != TOO_LONG {
                rv
            } else if function.facts().is_of(Family::Decrypt) {
                CkRv::ENCRYPTED_DATA_LEN_RANGE
            } else if matches!(
                function,
                Function::C_VerifyFinal | Function::C_VerifyRecover
            ) {
                CkRv::SIGNATURE_LEN_RANGE
            } else {
                TOO_LONG
            }
        })
    }

    /// Executes C_OpenSession. If the pointer to the handle is NULL, the module may still open a session, but nobody
    /// can use it.
    pub fn open_session(
        &self,
        slot: SlotId,
        flags: Flags,
        callback: Option<Callback>,
        nulls: NullPlaces,
    ) -> Result<SessionHandle, CkRv> {
        let notify = callback.is_some();
        let opened = ask!(self, C_OpenSession(slot, flags, notify), nulls)?;
        result(opened.rv)?;
        if nulls.first {
            return Ok(opened.session);
        }
        self.messages().opened(opened.session, slot, Vec::new());
        self.notifications.opened(opened.session, slot, callback);
        Ok(opened.session)
    }

    /// Returns the mechanism of the session's message operation to which `function` belongs.
    pub fn message_mechanism(&self, session: SessionHandle, function: Function) -> MechanismType {
        let is_of = |(family, _): &&(Family, MechanismType)| function.facts().is_of(*family);
        let messages = self.messages();
        let known = messages
            .get(session)
            .and_then(|known| known.iter().find(is_of));
        known.map_or(NO_MECHANISM, |(_, mechanism)| *mechanism)
    }

    fn messages(&self) -> MutexGuard<'_, Sessions<Messages>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores the mechanism of a message operation that has begun.
    fn begun(&self, begun: Begun) {
        let mut messages = self.messages();
        if let Some(known) = messages.entry(begun.session, begun.number) {
            known.retain(|(other, _)| *other != begun.family);
            known.push((begun.family, begun.mechanism));
        }
    }

    fn forget(&self) {
        self.messages().clear();
        self.notifications.clear();
    }
}

/// A message operation that a call begins.
struct Begun {
    session: SessionHandle,
    /// Its [`Sessions::number`] when the call is sent.
    number: u64,
    family: Family,
    mechanism: MechanismType,
}

/// Returns the session, kind and mechanism of the message operation that a call begins, if it begins one.
fn message_operation(call: &Call<'_>) -> Option<(SessionHandle, Family, MechanismType)> {
    let function = call.function();
    let facts = function.facts();
    if function.parameter_use() != Use::Message || facts.step != Some(Step::Init) {
        return None;
    }
    let mechanism = call.mechanism()?.mechanism_type();
    Some((call.session()?, *facts.families.first()?, mechanism))
}

impl<M: DistantModule + ?Sized> Cryptoki for Library<M> {
    fn call(&self, call: Call<'_>) -> Reply {
        self.call_with_nulls(call, NullPlaces::NONE)
    }

    fn call_with_nulls(&self, call: Call<'_>, nulls: NullPlaces) -> Reply {
        self.make(call, |module, call| module.call_with_nulls(call, nulls))
    }
}

impl<M: DistantModule + ?Sized> Library<M> {
    /// Has a call made by `send`, and keeps what has to be known of it.
    fn make<'a>(&self, call: Call<'a>, send: impl FnOnce(&M, Call<'a>) -> Reply) -> Reply {
        let closing = Closes::of(&call).map(|closes| {
            let messages = self.messages().closing(closes);
            (messages, self.notifications.closing(closes))
        });
        let begins = message_operation(&call).map(|(session, family, mechanism)| Begun {
            session,
            number: self.messages().number(session),
            family,
            mechanism,
        });
        let reply = send(&self.module, call);
        if let Some((messages, notifications)) = closing {
            self.messages().closed(messages, reply.rv());
            self.notifications.closed(notifications, reply.rv());
        }
        if let (Some(begun), CkRv::OK) = (begins, reply.rv()) {
            self.begun(begun);
        }
        if self.module.is_lost() {
            self.forget();
        }
        reply
    }
}

#[cfg(test)]
mod tests;
