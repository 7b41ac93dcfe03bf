//! Makes the calls of message functions, and remembers which mechanism the messages of a session have.
//!
//! The parameter of a message is a structure that depends on the mechanism of C_MessageEncryptInit or its relatives. A
//! module takes the structure's type from there, not from the client. So a parameter reaches the module only if its
//! mechanism is that of the operation. Otherwise the module would read it as another structure, and could take a number
//! of the client for an address. A session is locked while one of its calls changes the operation.

use std::collections::HashMap;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
};

use cryptoki_sys::*;
use xdr::word_size::{narrow, wide};
use xdr::{
    CkRv, Flags, Function, Mechanism, MechanismPointer, MechanismResult, MechanismType, NullPlaces,
    OutputResult, SessionHandle, SlotId, Written,
};

use super::Functions;
use super::parameters::Parameters;

/// What the messages of an operation are for.
#[derive(Clone, Copy)]
pub(super) enum Direction {
    Encrypt,
    Decrypt,
    Sign,
    Verify,
}

impl Direction {
    const ALL: [Direction; 4] = [
        Direction::Encrypt,
        Direction::Decrypt,
        Direction::Sign,
        Direction::Verify,
    ];

    /// Returns the flag of C_SessionCancel for operations of this direction.
    fn flag(self) -> CK_FLAGS {
        match self {
            Direction::Encrypt => CKF_MESSAGE_ENCRYPT,
            Direction::Decrypt => CKF_MESSAGE_DECRYPT,
            Direction::Sign => CKF_MESSAGE_SIGN,
            Direction::Verify => CKF_MESSAGE_VERIFY,
        }
    }
}

/// The mechanisms of a session's operations on messages. An operation that ended without our knowledge may still be
/// here. That does no harm, because a module without an operation does not look at the parameter.
#[derive(Clone, Copy, Default)]
struct Operations([Option<MechanismType>; 4]);

impl Operations {
    fn get(&self, direction: Direction) -> Option<MechanismType> {
        self.0.get(direction as usize).copied().flatten()
    }

    fn set(&mut self, direction: Direction, mechanism: Option<MechanismType>) {
        if let Some(place) = self.0.get_mut(direction as usize) {
            *place = mechanism;
        }
    }
}

/// A session of the module.
pub(super) struct Session {
    slot: SlotId,
    pub(super) parameters: Parameters,
    operations: RwLock<Operations>,
}

impl Session {
    fn read(&self) -> RwLockReadGuard<'_, Operations> {
        self.operations
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Operations> {
        self.operations
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open sessions.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<SessionHandle, Arc<Session>>>);

impl Sessions {
    fn map(&self) -> MutexGuard<'_, HashMap<SessionHandle, Arc<Session>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn opened(&self, session: SessionHandle, slot: SlotId) {
        let operations = RwLock::default();
        let opened = Arc::new(Session {
            slot,
            parameters: Parameters::default(),
            operations,
        });
        self.map().insert(session, opened);
    }

    /// Returns the sessions that match, to be given to [`closed`](Sessions::closed) once they are closed.
    pub(super) fn those(
        &self,
        matches: impl Fn(SessionHandle, SlotId) -> bool,
    ) -> Vec<(SessionHandle, Arc<Session>)> {
        let map = self.map();
        let found = map
            .iter()
            .filter(|(handle, session)| matches(**handle, session.slot));
        found
            .map(|(handle, session)| (*handle, session.clone()))
            .collect()
    }

    /// Forgets sessions, but not new ones that got the same handles in the meantime.
    pub(super) fn closed(&self, sessions: Vec<(SessionHandle, Arc<Session>)>) {
        let mut map = self.map();
        for (handle, session) in sessions {
            if map
                .get(&handle)
                .is_some_and(|known| Arc::ptr_eq(known, &session))
            {
                map.remove(&handle);
            }
        }
    }

    pub(super) fn get(&self, session: SessionHandle) -> Option<Arc<Session>> {
        self.map().get(&session).cloned()
    }

    pub(super) fn all_closed(&self) {
        self.map().clear();
    }
}

/// The answer to a call with a message.
pub(super) trait Answered {
    /// Its CK_RV.
    fn rv(&self) -> CkRv;
}

impl Answered for CkRv {
    fn rv(&self) -> CkRv {
        *self
    }
}

impl Answered for OutputResult {
    fn rv(&self) -> CkRv {
        self.rv
    }
}

impl Functions {
    /// Begins an operation on messages; `call` makes the C call with the mechanism.
    pub(super) fn message_init(
        &self,
        function: Function,
        direction: Direction,
        session: SessionHandle,
        mechanism: &MechanismPointer,
        call: impl FnOnce(*mut CK_MECHANISM) -> CkRv,
    ) -> Result<MechanismResult, CkRv> {
        let known = self.sessions.get(session);
        let mut operations = known.as_ref().map(|session| session.write());
        let begun = self.begin(function, session, mechanism, call)?;
        if let Some(operations) = operations.as_mut().filter(|_| begun.rv.is_ok()) {
            let mechanism = mechanism.as_ref().map(Mechanism::mechanism_type);
            operations.set(direction, mechanism);
        }
        Ok(begun)
    }

    /// Passes the parameter of a message to `call`, which makes the C call with its address and length. Refuses a
    /// parameter whose mechanism is not that of the operation.
    pub(super) fn message<R>(
        &self,
        function: Function,
        direction: Direction,
        session: SessionHandle,
        parameter: &Mechanism,
        call: impl FnOnce(CK_VOID_PTR, CK_ULONG) -> R,
    ) -> Result<(R, Written), CkRv>
    where
        R: Answered,
    {
        let known = self.sessions.get(session);
        let operations = known.as_ref().map(|session| session.read());
        let operation = operations.as_ref().and_then(|known| known.get(direction));
        let Some(mechanism) = operation else {
            return Err(self.no_operation(session));
        };
        if mechanism != parameter.mechanism_type() {
            log::error!(
                "{}: refused: the message has the parameter of mechanism {:#x}, but the operation has mechanism {:#x}",
                function.name(),
                parameter.mechanism_type().0,
                mechanism.0
            );
            return Err(CkRv::ARGUMENTS_BAD);
        }
        let mut c = self.mechanism_of(parameter, function)?;
        let (address, length) = c.parameter();
        let result = call(address, length);
        let rv = result.rv();
        Ok((result, c.written(rv)))
    }

    /// Returns what a module answers to a message without an operation.
    fn no_operation(&self, session: SessionHandle) -> CkRv {
        match self.session_info(session, NullPlaces::NONE).rv {
            CkRv::OK => CkRv::OPERATION_NOT_INITIALIZED,
            rv => rv,
        }
    }

    /// Ends an operation on messages.
    pub(super) fn message_final(
        &self,
        direction: Direction,
        session: SessionHandle,
        call: impl FnOnce() -> CkRv,
    ) -> CkRv {
        let known = self.sessions.get(session);
        let mut operations = known.as_ref().map(|session| session.write());
        let rv = call();
        if let Some(operations) = operations.as_mut().filter(|_| rv.is_ok()) {
            operations.set(direction, None);
        }
        rv
    }

    /// C_SessionCancel. Does not wait for calls of the session, because it is there to end them.
    pub(super) fn session_cancel(&self, session: SessionHandle, flags: Flags) -> CkRv {
        let rv = c!(self.C_SessionCancel(narrow(session.0), narrow(flags.0)));
        if let Some(known) = self.sessions.get(session).filter(|_| rv.is_ok()) {
            let operations = match known.operations.try_write() {
                Ok(operations) => Some(operations),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            if let Some(mut operations) = operations {
                let all = Direction::ALL.into_iter();
                for direction in all.filter(|one| narrow(flags.0) & one.flag() != 0) {
                    operations.set(direction, None);
                }
            }
        }
        rv
    }

    /// Makes a call that may restore an operation with another mechanism: C_SetOperationState. Messages are refused
    /// afterwards until the next Init.
    pub(super) fn restoring(&self, session: SessionHandle, call: impl FnOnce() -> CkRv) -> CkRv {
        let known = self.sessions.get(session);
        let mut operations = known.as_ref().map(|session| session.write());
        let rv = call();
        if let Some(operations) = operations.as_mut().filter(|_| rv.is_ok()) {
            **operations = Operations::default();
        }
        rv
    }
}
