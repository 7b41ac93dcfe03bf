//! Simulates the daemon in unit tests: with a closure, or with a daemon that executes operations itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use xdr::rpc::Version;
use xdr::version3::{self, DataResult};
use xdr::{
    Architecture, Call, CkRv, Function, Hello, HelloResult, NullPlaces, Reply, SessionHandle,
    SessionResult,
};

use crate::failure::Failure;
use crate::library::Library;
use crate::link::Link;
use crate::notifications::Notifications;
use crate::remote::Remote;
use crate::settings::{Daemon, Endpoint, Interface, Origin, Reason, Settings, TlsSettings};
use crate::socket::OwnThreads;

type Answering = Box<dyn Fn(Call<'_>) -> Reply + Send + Sync>;
type AnsweringVersion3 = Box<dyn Fn(version3::Call<'_>) -> version3::Reply + Send + Sync>;

/// A daemon of one version whose replies come from a closure.
pub(crate) struct Scripted {
    version4: Option<Answering>,
    version3: Option<AnsweringVersion3>,
    pub lost: AtomicBool,
    pub closed: AtomicBool,
}

impl Scripted {
    /// Makes a daemon of version 4 that answers every call with the closure.
    pub fn version4(answer: impl Fn(Call<'_>) -> Reply + Send + Sync + 'static) -> Scripted {
        Scripted {
            version4: Some(Box::new(answer)),
            version3: None,
            lost: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Makes a daemon of version 3 that answers every call with the closure.
    pub fn version3(
        answer: impl Fn(version3::Call<'_>) -> version3::Reply + Send + Sync + 'static,
    ) -> Scripted {
        Scripted {
            version4: None,
            version3: Some(Box::new(answer)),
            lost: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }
}

impl Remote for Scripted {
    fn negotiate(&self, hello: Hello) -> Result<Option<HelloResult>, CkRv> {
        match self
            .version4
            .as_ref()
            .map(|answer| answer(Call::C_SetupArch(hello)))
        {
            Some(Reply::C_SetupArch(result)) => Ok(Some(result)),
            Some(reply) => Err(reply.rv()),
            None => Ok(None),
        }
    }

    fn call(&self, call: Call<'_>, _: NullPlaces) -> Reply {
        let answer = self.version4.as_ref();
        answer.expect("version 3 has been agreed on")(call)
    }

    fn call_version3(&self, call: version3::Call<'_>) -> version3::Reply {
        let answer = self.version3.as_ref();
        answer.expect("version 4 has been agreed on")(call)
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    fn has_ended(&self) -> bool {
        self.is_lost()
    }

    fn failure(&self) -> Option<Failure> {
        None
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}

/// A daemon that the test still owns after the library is gone.
impl Remote for Arc<Scripted> {
    fn negotiate(&self, hello: Hello) -> Result<Option<HelloResult>, CkRv> {
        (**self).negotiate(hello)
    }

    fn call(&self, call: Call<'_>, nulls: NullPlaces) -> Reply {
        (**self).call(call, nulls)
    }

    fn call_version3(&self, call: version3::Call<'_>) -> version3::Reply {
        (**self).call_version3(call)
    }

    fn is_lost(&self) -> bool {
        (**self).is_lost()
    }

    fn has_ended(&self) -> bool {
        (**self).has_ended()
    }

    fn failure(&self) -> Option<Failure> {
        (**self).failure()
    }

    fn close(&self) {
        (**self).close();
    }
}

pub(crate) fn settings(protocol: Option<Version>) -> Settings {
    Settings {
        daemons: Vec::new(),
        alias: b"fake".to_vec(),
        protocol,
        interface: Interface::default(),
        mechanisms: None,
        timeout: Duration::from_secs(1),
        slot_event_period: Duration::from_millis(1),
        recovery: None,
        spread: false,
        log: None,
        threads: OwnThreads::Allowed,
        file: None,
        told: Vec::new(),
    }
}

/// Returns the settings of a daemon at this endpoint.
pub(crate) fn daemon(endpoint: Endpoint, tls: Option<TlsSettings>) -> Daemon {
    Daemon {
        endpoint,
        tls,
        reason: Reason::Endpoint,
        origin: Origin::Built,
    }
}

/// A library with a scripted daemon.
pub(crate) type FakeLibrary = Library<Link<Scripted>>;

/// Makes a library that has done C_Initialize with this daemon.
pub(crate) fn started(remote: Scripted, settings: &Settings) -> FakeLibrary {
    match Link::start(remote, settings, true) {
        Ok(link) => Library::new(Box::new(link), Arc::new(Notifications::default())),
        Err(error) => unreachable!("every step was answered, yet {error}"),
    }
}

/// Makes a library after C_Initialize, whose calls in version 4 the closure answers.
pub(crate) fn library(answer: impl Fn(Call<'_>) -> Reply + Send + Sync + 'static) -> FakeLibrary {
    let remote = Scripted::version4(move |call| match call {
        Call::C_SetupArch(_) | Call::C_LoadModule(_) | Call::C_Initialize(_) => {
            Reply::only(call.function(), CkRv::OK)
        }
        call => answer(call),
    });
    started(remote, &settings(None))
}

/// Makes a reply of version 3 with this CK_RV and nothing else.
pub(crate) fn only(function: Function, rv: CkRv) -> version3::Reply {
    version3::Reply::only(function, rv).expect("version 3 has it")
}

/// Makes a daemon of version 3 that accepts C_Initialize; the closure answers all other calls.
pub(crate) fn version3(
    answer: impl Fn(version3::Call<'_>) -> version3::Reply + Send + Sync + 'static,
) -> Scripted {
    Scripted::version3(move |call| match call {
        version3::Call::C_SetupArch(_) => version3::Reply::C_SetupArch(Architecture::LITTLE_64),
        version3::Call::C_LoadModule(_) => version3::Reply::C_LoadModule(CkRv::OK),
        version3::Call::C_Initialize() => version3::Reply::C_Initialize(CkRv::OK),
        call => answer(call),
    })
}

/// Makes a library after C_Initialize, whose calls in version 3 the closure answers.
pub(crate) fn library_of_version3(
    answer: impl Fn(version3::Call<'_>) -> version3::Reply + Send + Sync + 'static,
) -> FakeLibrary {
    started(version3(answer), &settings(None))
}

/// Simulates the operations of sessions in a daemon: a result is returned once, whole, and ends the operation.
/// "Encrypting" and the like return their input with the function's number in front.
#[derive(Default)]
pub(crate) struct Module {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_session: u64,
    /// The bytes that the digest of each session has received so far.
    digests: HashMap<SessionHandle, Vec<u8>>,
    calls: Vec<Function>,
}

impl Module {
    /// Returns the calls that came, in order.
    pub fn calls(&self) -> Vec<Function> {
        self.state.lock().unwrap().calls.clone()
    }

    pub fn call(&self, call: version3::Call<'_>) -> version3::Reply {
        use version3::{Call, Reply};
        let function = call.function();
        let state = &mut *self.state.lock().unwrap();
        state.calls.push(function);
        let missing = CkRv::OPERATION_NOT_INITIALIZED;
        let data = |data: Vec<u8>| DataResult {
            rv: CkRv::OK,
            data: data.into(),
        };
        let marked = |bytes: &[u8]| data([&[function.number() as u8], bytes].concat());
        match call {
            Call::C_OpenSession(..) => {
                state.next_session += 1;
                Reply::C_OpenSession(SessionResult {
                    rv: CkRv::OK,
                    session: SessionHandle(state.next_session),
                })
            }
            Call::C_DigestInit(session, _) => {
                if state.digests.contains_key(&session) {
                    return Reply::C_DigestInit(CkRv::OPERATION_ACTIVE);
                }
                state.digests.insert(session, Vec::new());
                Reply::C_DigestInit(CkRv::OK)
            }
            Call::C_DigestUpdate(session, part) => match state.digests.get_mut(&session) {
                Some(fed) => {
                    fed.extend_from_slice(part);
                    Reply::C_DigestUpdate(CkRv::OK)
                }
                None => Reply::C_DigestUpdate(missing),
            },
            Call::C_DigestFinal(session) => match state.digests.remove(&session) {
                Some(fed) => Reply::C_DigestFinal(marked(&fed)),
                None => only(function, missing),
            },
            Call::C_Digest(session, input) => match state.digests.remove(&session) {
                Some(_) => Reply::C_Digest(marked(input)),
                None => only(function, missing),
            },
            Call::C_DigestEncryptUpdate(session, part) => match state.digests.get_mut(&session) {
                Some(fed) => {
                    fed.extend_from_slice(part);
                    Reply::C_DigestEncryptUpdate(marked(part))
                }
                None => only(function, missing),
            },
            Call::C_EncryptUpdate(_, part) => Reply::C_EncryptUpdate(marked(part)),
            Call::C_GetOperationState(session) => match state.digests.get(&session) {
                Some(fed) => Reply::C_GetOperationState(marked(fed)),
                None => only(function, missing),
            },
            Call::C_WrapKey(_, mechanism, with, key) => {
                let parameter = mechanism.parameter().for_module(true);
                let mut wrapped = parameter
                    .expect("the client refuses addresses")
                    .into_owned();
                wrapped.push(with.0 as u8);
                wrapped.push(key.0 as u8);
                Reply::C_WrapKey(marked(&wrapped))
            }
            Call::C_CloseSession(session) => {
                state.digests.remove(&session);
                Reply::C_CloseSession(CkRv::OK)
            }
            call => only(call.function(), CkRv::OK),
        }
    }
}
