//! Makes calls over one connection, in the version of the protocol that was negotiated with its daemon.
//!
//! Calls of version 4 come from [`library`](crate::library), or from `recovery`. If the daemon speaks version 4, they
//! are sent unchanged; otherwise [`version3`](crate::version3) makes them in version 3. This module does not know the
//! application's sessions and objects.

use xdr::rpc::Version;
use xdr::{
    Architecture, Call, CkRv, Cryptoki, FEATURE_NOTIFY, FEATURE_RECOVER, Flags, Function, Hello,
    LoadResult, NullPlaces, Reply, Ulong,
};

use crate::connection::{Connection, LONGEST_REPLY};
use crate::failure::Failure;
use crate::landing::Landing;
use crate::remote::{Remote, ask, result};
use crate::settings::Settings;
use crate::version3::{self, Adapter};

/// A module behind a daemon, or behind several daemons in turn.
pub(crate) trait DistantModule: Cryptoki {
    /// Returns which interfaces the module has: `INTERFACE_*` of `pkcs11_rpc_v4.x`.
    fn interfaces(&self) -> Flags;
    /// Makes a call that has an OutputResult. Its bytes may be received into `landing`; see [`Remote::call_into`].
    fn call_into(&self, call: Call<'_>, landing: &mut Landing<'_>) -> Reply;
    /// Returns whether the connection has failed, so that no further call can succeed.
    fn is_lost(&self) -> bool;
    /// Executes C_Finalize. Closes the connection, whatever the module returns. If it was lost before, sends nothing.
    fn finish(&self) -> Result<(), CkRv>;
}

/// Why a connected daemon cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("the connection was lost during the first call")]
    Lost,
    /// A call failed during transmission.
    #[error("{name}: {1}", name = .0.name())]
    Call(Function, Failure),
    #[error("C_SetupArch: {0}")]
    Hello(CkRv),
    #[error("C_SetupArch: the daemon answered {number}", number = .0.0)]
    Architecture(Architecture),
    #[error(
        "PKCS11PROXY_PROTOCOL requires version 4 of the protocol, but the daemon does not speak it"
    )]
    Version,
    #[error("C_LoadModule: {0} for alias {1:?}")]
    Module(CkRv, String),
    #[error("C_Initialize: {0}")]
    Initialize(CkRv),
}

impl StartError {
    /// Returns the call that has failed.
    pub fn function(&self) -> Function {
        match self {
            StartError::Call(function, _) => *function,
            StartError::Lost
            | StartError::Hello(_)
            | StartError::Architecture(_)
            | StartError::Version => Function::C_SetupArch,
            StartError::Module(..) => Function::C_LoadModule,
            StartError::Initialize(_) => Function::C_Initialize,
        }
    }

    /// Returns whether the connection was lost during the first call.
    pub fn is_lost_at_once(&self) -> bool {
        match self {
            StartError::Lost => true,
            StartError::Call(Function::C_SetupArch, failure) => failure.is_fatal(),
            _ => false,
        }
    }

    /// Adds the cause, if the call failed during transmission.
    fn because(self, failure: Option<Failure>) -> StartError {
        match failure {
            Some(failure) => StartError::Call(self.function(), failure),
            None => self,
        }
    }
}

/// The number of calls at a time that the library announces. The daemon's answer is the limit.
const PARALLEL_CALLS: u64 = 64;

/// CKF_OS_LOCKING_OK: the module may be called from several threads.
const OS_LOCKING_OK: u64 = 2;

/// A connection to a module.
pub(crate) struct Link<R = Connection> {
    remote: R,
    /// `None` if version 4 is spoken.
    version3: Option<Adapter>,
    /// Which interfaces the module has: `INTERFACE_*` of `pkcs11_rpc_v4.x`.
    interfaces: Flags,
}

impl<R: Remote> Link<R> {
    /// Loads and initialises the module at the other end. The caller has connected. `threads`: whether the application
    /// may call from several threads.
    pub fn start(remote: R, settings: &Settings, threads: bool) -> Result<Link<R>, StartError> {
        let mut link = Link::new(remote);
        let loaded = link.load(settings);
        let started = loaded.and_then(|()| link.initialize(threads));
        if let Err(error) = started {
            let failure = link.remote.failure();
            link.remote.close();
            return Err(error.because(failure));
        }
        Ok(link)
    }

    /// Asks the daemon which interfaces the module has, without C_Initialize. The caller has connected; this closes the
    /// connection.
    pub fn ask_interfaces(remote: R, settings: &Settings) -> Result<Flags, StartError> {
        let mut link = Link::new(remote);
        let loaded = link.load(settings);
        let failure = link.remote.failure();
        link.remote.close();
        let interfaces = loaded.map(|()| link.interfaces);
        interfaces.map_err(|error| error.because(failure))
    }

    fn new(remote: R) -> Link<R> {
        Link {
            remote,
            version3: None,
            interfaces: Flags::default(),
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

    /// Makes the first call, and returns whether version 4 is spoken.
    fn negotiate(&self, settings: &Settings) -> Result<bool, StartError> {
        if settings.protocol == Some(Version::Three) {
            return Ok(false);
        }
        let hello = Hello {
            longest_record: Ulong(LONGEST_REPLY as u64),
            parallel_calls: Ulong(PARALLEL_CALLS),
            features: Flags(
                FEATURE_NOTIFY
                    | if settings.recovery.is_some() {
                        FEATURE_RECOVER
                    } else {
                        0
                    },
            ),
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

    /// Returns the version of the protocol that is spoken.
    pub fn version(&self) -> Version {
        match self.version3 {
            Some(_) => Version::Three,
            None => Version::Four,
        }
    }

    /// Returns whether the daemon has closed the connection. A call may not have noticed that yet.
    pub fn has_ended(&self) -> bool {
        self.remote.has_ended()
    }

    /// Ends the connection without C_Finalize.
    pub fn close(&self) {
        self.remote.close();
    }

    /// Returns the connection.
    pub fn remote(&self) -> &R {
        &self.remote
    }
}

impl<R: Remote> DistantModule for Link<R> {
    fn interfaces(&self) -> Flags {
        self.interfaces
    }

    fn call_into(&self, call: Call<'_>, landing: &mut Landing<'_>) -> Reply {
        match &self.version3 {
            None => self.remote.call_into(call, landing),
            Some(adapter) => {
                landing.set_landed(None);
                adapter.call(&self.remote, call)
            }
        }
    }

    fn is_lost(&self) -> bool {
        self.remote.is_lost()
    }

    fn finish(&self) -> Result<(), CkRv> {
        let rv = self.call(Call::C_Finalize()).rv();
        let lost = self.remote.is_lost();
        self.remote.close();
        if let Some(adapter) = &self.version3 {
            adapter.finish();
        }
        if lost { Ok(()) } else { result(rv) }
    }
}

impl<R: Remote> Cryptoki for Link<R> {
    fn call(&self, call: Call<'_>) -> Reply {
        self.call_with_nulls(call, NullPlaces::NONE)
    }

    fn call_with_nulls(&self, call: Call<'_>, nulls: NullPlaces) -> Reply {
        match &self.version3 {
            None => self.remote.call(call, nulls),
            // Version 3 does not transmit which pointers are NULL, so no call is made whose result has nowhere to go.
            Some(_) if nulls != NullPlaces::NONE => {
                Reply::only(call.function(), CkRv::ARGUMENTS_BAD)
            }
            Some(adapter) => adapter.call(&self.remote, call),
        }
    }
}

#[cfg(test)]
mod tests;
