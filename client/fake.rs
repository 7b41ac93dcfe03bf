//! Stands in for the daemon in unit tests: once as a closure, once as a daemon that executes
//! operations itself.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use xdr::{
    Architecture, Call, CkRv, Cryptoki, DataResult, Function, Reply, SessionHandle, SessionResult,
};

use crate::library::Library;
use crate::remote::Remote;
use crate::settings::{Endpoint, Settings};

type Answering = Box<dyn Fn(Call<'_>) -> Reply + Send + Sync>;

/// A daemon that answers what a closure says.
pub(crate) struct Scripted {
    answer: Answering,
    pub lost: AtomicBool,
    pub closed: AtomicBool,
}

impl Scripted {
    pub fn new(answer: impl Fn(Call<'_>) -> Reply + Send + Sync + 'static) -> Scripted {
        Scripted {
            answer: Box::new(answer),
            lost: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }
}

impl Cryptoki for Scripted {
    fn call(&self, call: Call<'_>) -> Reply {
        (self.answer)(call)
    }
}

impl Remote for Scripted {
    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        tls: None,
        endpoint: Endpoint::Unix("/nowhere".into()),
        alias: b"fake".to_vec(),
        timeout: Duration::from_secs(1),
        slot_event_period: Duration::from_millis(1),
    }
}

/// A library that talks to what the closure says, past C_Initialize.
pub(crate) fn library(
    answer: impl Fn(Call<'_>) -> Reply + Send + Sync + 'static,
) -> Library<Scripted> {
    let remote = Scripted::new(move |call| match call {
        Call::C_SetupArch(_) => Reply::C_SetupArch(Architecture::LITTLE_64),
        Call::C_LoadModule(_) => Reply::C_LoadModule(CkRv::OK),
        Call::C_Initialize() => Reply::C_Initialize(CkRv::OK),
        call => answer(call),
    });
    match Library::start(remote, &settings()) {
        Ok(library) => library,
        Err(error) => unreachable!("every step was answered, yet {error}"),
    }
}

/// Operations of sessions as a daemon has them: a result is given once, whole, and ends the
/// operation. "Encrypting" and the like answer their input with the function's number in front.
#[derive(Default)]
pub(crate) struct Module {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_session: u64,
    /// What was fed to the digest of a session so far.
    digests: HashMap<SessionHandle, Vec<u8>>,
    calls: Vec<Function>,
}

impl Module {
    /// The calls that came, in order.
    pub fn calls(&self) -> Vec<Function> {
        self.state.lock().unwrap().calls.clone()
    }

    pub fn call(&self, call: Call<'_>) -> Reply {
        let function = call.function();
        let state = &mut *self.state.lock().unwrap();
        state.calls.push(function);
        let missing = CkRv::OPERATION_NOT_INITIALIZED;
        let data = |data: Vec<u8>| DataResult { rv: CkRv::OK, data };
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
                None => Reply::only(function, missing),
            },
            Call::C_Digest(session, input) => match state.digests.remove(&session) {
                Some(_) => Reply::C_Digest(marked(input)),
                None => Reply::only(function, missing),
            },
            Call::C_DigestEncryptUpdate(session, part) => match state.digests.get_mut(&session) {
                Some(fed) => {
                    fed.extend_from_slice(part);
                    Reply::C_DigestEncryptUpdate(marked(part))
                }
                None => Reply::only(function, missing),
            },
            Call::C_EncryptUpdate(_, part) => Reply::C_EncryptUpdate(marked(part)),
            Call::C_GetOperationState(session) => match state.digests.get(&session) {
                Some(fed) => Reply::C_GetOperationState(marked(fed)),
                None => Reply::only(function, missing),
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
            call => Reply::only(call.function(), CkRv::OK),
        }
    }
}
