//! Is the library between C_Initialize and C_Finalize: a connection, the version of the protocol that is spoken
//! over it, and what has to be remembered of the application's sessions.
//!
//! `abi` makes calls of version 4, as values. If the daemon speaks version 4, they go to it unchanged; otherwise
//! [`version3`](crate::version3) makes them in version 3. While a call is on its way, no lock of this module is
//! held.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xdr::ending::calls_that_end;
use xdr::facts::{Family, Step};
use xdr::rpc::Version;
use xdr::{
    Architecture, Call, CkRv, Cryptoki, FEATURE_NOTIFY, Flags, Function, Hello, Input, LoadResult,
    MechanismType, NullPlaces, Reply, Room, SessionHandle, SlotId, Ulong, Use,
};

use crate::connection::{Connection, LONGEST_REPLY};
use crate::notifications::{Callback, Notifications};
use crate::remote::{Remote, ask, result};
use crate::sessions::{Closing, Sessions};
use crate::settings::Settings;
use crate::version3::{self, Adapter};

/// Why a connected daemon cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("the connection was lost during the first call")]
    Lost,
    #[error("C_SetupArch: {0}")]
    Hello(CkRv),
    #[error("C_SetupArch: the daemon answered {0:?}")]
    Architecture(Architecture),
    #[error(
        "the daemon does not speak version 4 of the protocol, which PKCS11PROXY_PROTOCOL demands"
    )]
    Version,
    #[error("C_LoadModule: {0} for module {1:?}")]
    Module(CkRv, String),
    #[error("C_Initialize: {0}")]
    Initialize(CkRv),
}

/// How many calls this library makes at a time, if the daemon serves as many.
const PARALLEL_CALLS: u64 = 64;

/// What an input is answered that is longer than a record; [`Library::checked`] has more to say.
pub(crate) const TOO_LONG: CkRv = CkRv::DATA_LEN_RANGE;

/// The room for what comes out of an operation that is ended because of a call that is too long. A module that has
/// more of it keeps the operation.
pub(crate) const ROOM_AT_END: Room = Room::Buffer(1 << 20);

/// CKF_OS_LOCKING_OK: the module may be called from several threads.
const OS_LOCKING_OK: u64 = 2;

/// The connection and what the application does with it.
pub(crate) struct Library<R = Connection> {
    remote: R,
    /// `None`: version 4 is spoken.
    version3: Option<Adapter>,
    /// Which interfaces the module has: `INTERFACE_*` of `pkcs11_rpc_v4.x`.
    interfaces: Flags,
    messages: Mutex<Sessions<Messages>>,
    notifications: Arc<Notifications>,
}

/// The mechanisms of a session's message operations. The structure of each message's parameter depends on them.
type Messages = Vec<(Family, MechanismType)>;

/// The mechanism type of a message where C_Message*Init was not called. No mechanism has this number, so the
/// module answers what it answers then.
pub(crate) const NO_MECHANISM: MechanismType = MechanismType(u64::MAX);

impl<R: Remote> Library<R> {
    /// Makes the module at the other end ready. The caller has connected. `threads`: whether the application may
    /// call from several threads.
    pub fn start(
        remote: R,
        settings: &Settings,
        threads: bool,
        notifications: Arc<Notifications>,
    ) -> Result<Library<R>, StartError> {
        let mut library = Library::new(remote, notifications);
        let loaded = library.load(settings);
        let started = loaded.and_then(|()| library.initialize(threads));
        if started.is_err() {
            library.remote.close();
        }
        started.map(|()| library)
    }

    /// Asks the daemon which interfaces the module has, without C_Initialize. The caller has connected; the connection
    /// is closed.
    pub fn ask_interfaces(remote: R, settings: &Settings) -> Result<Flags, StartError> {
        let mut library = Library::new(remote, Arc::default());
        let loaded = library.load(settings);
        library.remote.close();
        loaded.map(|()| library.interfaces)
    }

    fn new(remote: R, notifications: Arc<Notifications>) -> Library<R> {
        Library {
            remote,
            version3: None,
            interfaces: Flags::default(),
            messages: Mutex::default(),
            notifications,
        }
    }

    fn load(&mut self, settings: &Settings) -> Result<(), StartError> {
        if !self.negotiate(settings)? {
            version3::set_up(&self.remote)?;
            self.version3 = Some(Adapter::new(settings.slot_event_period));
        }
        match ask!(&*self, C_LoadModule(&settings.alias)) {
            Ok(LoadResult { rv, interfaces }) if rv.is_ok() => {
                self.interfaces = interfaces;
                Ok(())
            }
            Ok(LoadResult { rv, .. }) | Err(rv) => {
                let alias = String::from_utf8_lossy(&settings.alias).into_owned();
                Err(StartError::Module(rv, alias))
            }
        }
    }

    fn initialize(&self, threads: bool) -> Result<(), StartError> {
        let flags = Flags(if threads { OS_LOCKING_OK } else { 0 });
        match self.call(Call::C_Initialize(flags)).rv() {
            CkRv::OK => Ok(()),
            initialized => Err(StartError::Initialize(initialized)),
        }
    }

    /// Whether version 4 is spoken.
    fn negotiate(&self, settings: &Settings) -> Result<bool, StartError> {
        if settings.protocol == Some(Version::Three) {
            return Ok(false);
        }
        let hello = Hello {
            longest_record: Ulong(LONGEST_REPLY as u64),
            parallel_calls: Ulong(PARALLEL_CALLS),
            features: Flags(FEATURE_NOTIFY),
            ..Default::default()
        };
        match self.remote.negotiate(hello) {
            Ok(Some(answer)) if answer.rv.is_ok() => Ok(true),
            Ok(Some(answer)) => Err(StartError::Hello(answer.rv)),
            Ok(None) if settings.protocol == Some(Version::Four) => Err(StartError::Version),
            Ok(None) => Ok(false),
            Err(_) if self.remote.is_lost() => Err(StartError::Lost),
            Err(rv) => Err(StartError::Hello(rv)),
        }
    }

    /// The version of the protocol that is spoken.
    pub fn version(&self) -> Version {
        match self.version3 {
            Some(_) => Version::Three,
            None => Version::Four,
        }
    }

    /// Which interfaces the module has.
    pub fn interfaces(&self) -> Flags {
        self.interfaces
    }

    /// C_Finalize. The connection is closed whatever the module says; when it was lost, there was
    /// nothing to say it to.
    pub fn finish(&self) -> Result<(), CkRv> {
        let rv = self.call(Call::C_Finalize()).rv();
        let lost = self.remote.is_lost();
        self.remote.close();
        self.forget();
        if let Some(adapter) = &self.version3 {
            adapter.finish();
        }
        if lost { Ok(()) } else { result(rv) }
    }

    #[cfg(test)]
    pub fn remote(&self) -> &R {
        &self.remote
    }

    /// A call that only has a CK_RV to answer.
    pub fn only(&self, call: Call<'_>) -> Result<(), CkRv> {
        result(self.call(call).rv())
    }

    /// The input of a call of `function`, if it could be read. One that is too long ends the operation, as
    /// every failing call does, and gets the function's own CK_RV for that.
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

    /// C_OpenSession. Without a place for its handle, nobody can use a session that a module opens all the same.
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
        if let Some(callback) = callback {
            self.notifications.opened(opened.session, slot, callback);
        }
        Ok(opened.session)
    }

    /// The mechanism of the messages that `function` is about, in this session.
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

    /// Notes the mechanism of a message operation that has begun.
    fn begun(&self, session: SessionHandle, family: Family, mechanism: MechanismType) {
        let mut messages = self.messages();
        let known = messages.entry(session);
        known.retain(|(other, _)| *other != family);
        known.push((family, mechanism));
    }

    fn forget(&self) {
        self.messages().clear();
        self.notifications.clear();
    }
}

/// The session, kind and mechanism of the message operation that a call begins, if it begins one.
fn message_operation(call: &Call<'_>) -> Option<(SessionHandle, Family, MechanismType)> {
    let function = call.function();
    let facts = function.facts();
    if function.parameter_use() != Use::Message || facts.step != Some(Step::Init) {
        return None;
    }
    let mechanism = call.mechanism()?.mechanism_type();
    Some((call.session()?, *facts.families.first()?, mechanism))
}

impl<R: Remote> Cryptoki for Library<R> {
    fn call(&self, call: Call<'_>) -> Reply {
        self.call_without(call, NullPlaces::NONE)
    }

    fn call_without(&self, call: Call<'_>, nulls: NullPlaces) -> Reply {
        let closing = Closing::of(&call);
        let message = message_operation(&call);
        let reply = match &self.version3 {
            None => self.remote.call(call, nulls),
            // Version 3 does not tell, so nothing is executed for a caller without a place for the result.
            Some(_) if nulls != NullPlaces::NONE => {
                Reply::only(call.function(), CkRv::ARGUMENTS_BAD)
            }
            Some(adapter) => adapter.call(&self.remote, call),
        };
        if let Some(closing) = closing {
            self.messages().closed(closing, reply.rv());
            self.notifications.closed(closing, reply.rv());
        }
        if let (Some((session, family, mechanism)), CkRv::OK) = (message, reply.rv()) {
            self.begun(session, family, mechanism);
        }
        if self.remote.is_lost() {
            self.forget();
        }
        reply
    }
}

#[cfg(test)]
mod tests;
