//! Recovery with modules that are made up: what is called how often, and which object is taken for which.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Instant;

use xdr::{
    Answer, Answers, Attribute, AttributeType, AttributesResult, Found, Input, MechanismResult,
    ObjectHandle, ObjectListResult, ObjectResult, OutputResult, Query, Room, SessionResult, SlotId,
    SlotListResult, Template, TokenInfo, TokenInfoResult, Ulong, UserType,
};

use super::*;
use crate::fake::{self, Scripted};
use crate::link::StartError;
use crate::remote::ask;
use crate::settings::Endpoint;

fn not_started(error: StartError) -> InitializeError {
    InitializeError::Start(Endpoint::Unix("/fake".into()), error)
}

mod faults;

/// A module, as it is behind each connection, and what it was asked.
struct Module {
    state: Mutex<ModuleState>,
    /// No daemon listens.
    is_down: AtomicBool,
    connects: AtomicUsize,
}

#[derive(Default)]
struct ModuleState {
    slot: u64,
    label: &'static str,
    serial: &'static str,
    pin: &'static str,
    /// Handle and attributes.
    objects: Vec<(u64, Attributes)>,
    daemon: usize,
    calls: HashMap<Function, usize>,
    /// The connection is lost in the next call of this function, after it was executed.
    breaks_at: Option<Function>,
    always_breaks_at: Option<Function>,
    /// How many times more C_Initialize fails.
    failing_starts: usize,
    /// C_GetAttributeValue ends at the first attribute that an object has not.
    is_impatient: bool,
    /// The flags of the token.
    flags: u64,
    /// What C_OpenSession is answered instead of a session.
    refuses_sessions: Option<CkRv>,
    /// There is a second slot, with this number.
    second_slot: Option<u64>,
    /// How long each call of a function takes.
    takes: Option<(Function, Duration)>,
    /// What happens once when this function was executed, before its answer is on its way.
    meanwhile: Option<(Function, Box<dyn FnOnce() + Send>)>,
    connection: Connection,
}

/// Types and values.
type Attributes = Vec<(u64, Vec<u8>)>;

/// What ends with the connection.
#[derive(Default)]
struct Connection {
    sessions: HashSet<u64>,
    last: u64,
    is_logged_in: bool,
    found: Vec<u64>,
    lost: Arc<AtomicBool>,
}

const CLASS: u64 = 0;
const TOKEN: u64 = 1;
const PRIVATE: u64 = 2;
const LABEL: u64 = 3;
const UNIQUE_ID: u64 = 4;
const ID: u64 = 0x102;
const MODULUS: u64 = 0x120;

fn private_key(label: &str, modulus: &[u8]) -> Attributes {
    vec![
        (CLASS, 3u64.to_ne_bytes().to_vec()),
        (TOKEN, vec![1]),
        (PRIVATE, vec![1]),
        (LABEL, label.into()),
        (ID, vec![7]),
        (MODULUS, modulus.to_vec()),
    ]
}

impl Module {
    fn new() -> Arc<Module> {
        Arc::new(Module {
            state: Mutex::new(ModuleState {
                slot: 5,
                label: "token",
                serial: "1",
                pin: "1234",
                objects: vec![(70, private_key("key", b"n"))],
                ..Default::default()
            }),
            is_down: AtomicBool::new(false),
            connects: AtomicUsize::new(0),
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut ModuleState) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    fn calls(&self, function: Function) -> usize {
        self.change(|state| state.calls.get(&function).copied().unwrap_or(0))
    }

    /// The connection is lost, as the next call will find out.
    fn cut(&self) {
        self.change(|state| state.connection.lost.store(true, Ordering::SeqCst));
    }

    fn recovery(self: &Arc<Module>, keep_pin: bool) -> Recovery<Arc<Scripted>> {
        let module = self.clone();
        let connect: Connect<Arc<Scripted>> = Box::new(move |_, _| {
            module.connects.fetch_add(1, Ordering::SeqCst);
            if module.is_down.load(Ordering::SeqCst) {
                return Err(not_started(StartError::Lost));
            }
            let answering = module.clone();
            let scripted = Arc::new_cyclic(|own: &std::sync::Weak<Scripted>| {
                let own = own.clone();
                Scripted::version4(move |call| answering.answer(&own, call))
            });
            let daemon = module.change(|state| {
                state.connection = Connection::default();
                state.daemon
            });
            let link = Link::start(scripted, &fake::settings(None), true).map_err(not_started)?;
            Ok(Reached { link, daemon })
        });
        let started = Recovery::start(connect, Duration::from_secs(1), keep_pin, Arc::default());
        match started {
            Ok(recovery) => recovery,
            Err(error) => panic!("{error}"),
        }
    }

    fn answer(&self, connection: &std::sync::Weak<Scripted>, call: Call<'_>) -> Reply {
        let function = call.function();
        let scripted = connection.upgrade().expect("somebody calls");
        let mut state = self.state.lock().unwrap();
        // What is sent over an earlier connection is lost with it.
        if scripted.is_lost() || state.connection.lost.load(Ordering::SeqCst) {
            scripted.lost.store(true, Ordering::SeqCst);
            return Reply::only(function, CkRv::DEVICE_ERROR);
        }
        *state.calls.entry(function).or_default() += 1;
        let reply = state.answer(call);
        if let Some((_, time)) = state.takes.filter(|(slow, _)| *slow == function) {
            drop(state);
            std::thread::sleep(time);
            state = self.state.lock().unwrap();
        }
        if let Some((_, happens)) = state.meanwhile.take_if(|(of, _)| *of == function) {
            drop(state);
            happens();
            state = self.state.lock().unwrap();
        }
        let breaks = state.breaks_at.take_if(|it| *it == function).is_some();
        if breaks || state.always_breaks_at == Some(function) {
            state.connection.lost.store(true, Ordering::SeqCst);
            scripted.lost.store(true, Ordering::SeqCst);
            return Reply::only(function, CkRv::DEVICE_ERROR);
        }
        reply
    }
}

impl ModuleState {
    fn answer(&mut self, call: Call<'_>) -> Reply {
        let function = call.function();
        let only = |rv| Reply::only(function, rv);
        if let Some(session) = call.session() {
            if !self.connection.sessions.contains(&session.0) {
                return only(CkRv::SESSION_HANDLE_INVALID);
            }
        }
        match call {
            Call::C_Initialize(_) if self.failing_starts > 0 => {
                self.failing_starts -= 1;
                only(CkRv::DEVICE_ERROR)
            }
            Call::C_GetSlotList(..) => Reply::C_GetSlotList(SlotListResult {
                rv: CkRv::OK,
                slots: vec![SlotId(1), SlotId(self.slot)],
                count: Ulong(2),
            }),
            Call::C_GetTokenInfo(slot) if slot.0 == self.slot => {
                let info = TokenInfo {
                    label: self.label.into(),
                    manufacturer_id: Vec::new(),
                    model: Vec::new(),
                    serial_number: self.serial.into(),
                    flags: Flags(self.flags),
                    ..fake_token_info()
                };
                Reply::C_GetTokenInfo(Box::new(TokenInfoResult { rv: CkRv::OK, info }))
            }
            Call::C_GetTokenInfo(slot) if self.second_slot == Some(slot.0) => {
                let info = TokenInfo {
                    label: b"second".to_vec(),
                    ..fake_token_info()
                };
                Reply::C_GetTokenInfo(Box::new(TokenInfoResult { rv: CkRv::OK, info }))
            }
            Call::C_GetTokenInfo(_) => only(CkRv::SLOT_ID_INVALID),
            Call::C_OpenSession(..) if self.refuses_sessions.is_some() => {
                only(self.refuses_sessions.unwrap_or_default())
            }
            Call::C_OpenSession(slot, ..)
                if slot.0 == self.slot || self.second_slot == Some(slot.0) =>
            {
                self.connection.last += 1;
                // Other numbers on each connection.
                let session =
                    1000 * self.calls[&Function::C_SetupArch] as u64 + self.connection.last;
                self.connection.sessions.insert(session);
                Reply::C_OpenSession(SessionResult {
                    rv: CkRv::OK,
                    session: SessionHandle(session),
                })
            }
            Call::C_OpenSession(..) => only(CkRv::SLOT_ID_INVALID),
            Call::C_CloseSession(session) => {
                self.connection.sessions.remove(&session.0);
                self.connection.is_logged_in &= !self.connection.sessions.is_empty();
                only(CkRv::OK)
            }
            Call::C_Login(_, UserType(2), _) => only(CkRv::OPERATION_NOT_INITIALIZED),
            Call::C_Logout(_) => {
                let was_logged_in = std::mem::take(&mut self.connection.is_logged_in);
                only(if was_logged_in {
                    CkRv::OK
                } else {
                    CkRv::USER_NOT_LOGGED_IN
                })
            }
            Call::C_Login(_, _, Input::Bytes(pin)) => {
                if pin != self.pin.as_bytes() {
                    return only(CkRv::PIN_INCORRECT);
                }
                match std::mem::replace(&mut self.connection.is_logged_in, true) {
                    true => only(CkRv::USER_ALREADY_LOGGED_IN),
                    false => only(CkRv::OK),
                }
            }
            Call::C_FindObjectsInit(_, template) => {
                let template = template.unwrap_or_default();
                let is_visible = self.connection.is_logged_in;
                let matches = |attributes: &[(u64, Vec<u8>)]| {
                    let has = |it: &Attribute| {
                        let wanted = (it.attribute_type.0, it.bytes().to_vec());
                        attributes.contains(&wanted)
                    };
                    is_visible && template.0.iter().all(has)
                };
                let found = self.objects.iter().filter(|(_, it)| matches(it));
                self.connection.found = found.map(|(object, _)| *object).collect();
                only(CkRv::OK)
            }
            Call::C_FindObjects(_, Room::Buffer(room)) => {
                let count = self.connection.found.len().min(room as usize);
                let objects: Vec<_> = self
                    .connection
                    .found
                    .drain(..count)
                    .map(ObjectHandle)
                    .collect();
                Reply::C_FindObjects(ObjectListResult {
                    rv: CkRv::OK,
                    count: Ulong(objects.len() as u64),
                    objects,
                })
            }
            Call::C_GetAttributeValue(_, object, Some(Query(wanted))) => {
                let object = self.objects.iter().find(|(it, _)| *it == object.0);
                let Some((_, attributes)) = object else {
                    return only(CkRv::OBJECT_HANDLE_INVALID);
                };
                let mut rv = CkRv::OK;
                let answers = wanted.iter().map(|wanted| {
                    let of = |it: &&(u64, Vec<u8>)| it.0 == wanted.attribute_type.0;
                    if self.is_impatient && !rv.is_ok() {
                        return Answer {
                            attribute_type: wanted.attribute_type,
                            found: Found::Untouched,
                        };
                    }
                    let found = match attributes.iter().find(of) {
                        Some((_, value)) => Found::Bytes(value.clone()),
                        None => {
                            rv = CkRv::ATTRIBUTE_TYPE_INVALID;
                            Found::Unavailable
                        }
                    };
                    Answer {
                        attribute_type: wanted.attribute_type,
                        found,
                    }
                });
                let answers = Answers(answers.collect());
                Reply::C_GetAttributeValue(AttributesResult { rv, answers })
            }
            Call::C_SignInit(_, _, key) => {
                let is_there = self.objects.iter().any(|(object, _)| *object == key.0);
                Reply::C_SignInit(MechanismResult {
                    rv: if is_there {
                        CkRv::OK
                    } else {
                        CkRv::OBJECT_HANDLE_INVALID
                    },
                    ..Default::default()
                })
            }
            Call::C_CreateObject(_, Some(template)) => {
                let object = 100 + self.objects.len() as u64;
                let value = |it: &Attribute| (it.attribute_type.0, it.bytes().to_vec());
                self.objects
                    .push((object, template.0.iter().map(value).collect()));
                Reply::C_CreateObject(ObjectResult {
                    rv: CkRv::OK,
                    object: Some(ObjectHandle(object)),
                })
            }
            Call::C_CopyObject(_, original, Some(template)) => {
                let original = self.objects.iter().find(|(it, _)| *it == original.0);
                let Some((_, attributes)) = original else {
                    return only(CkRv::OBJECT_HANDLE_INVALID);
                };
                let value = |it: &Attribute| (it.attribute_type.0, it.bytes().to_vec());
                let mut copy: Attributes = template.0.iter().map(value).collect();
                let of_original = attributes.iter().filter(|(it, _)| {
                    let is_it = |other: &Attribute| other.attribute_type.0 == *it;
                    !template.0.iter().any(is_it)
                });
                copy.extend(of_original.cloned());
                let object = 200 + self.objects.len() as u64;
                self.objects.push((object, copy));
                Reply::C_CopyObject(ObjectResult {
                    rv: CkRv::OK,
                    object: Some(ObjectHandle(object)),
                })
            }
            Call::C_Sign(..) => Reply::C_Sign(OutputResult {
                rv: CkRv::OK,
                length: Ulong(1),
                data: vec![1],
            }),
            call => Reply::only(call.function(), CkRv::OK),
        }
    }
}

fn fake_token_info() -> TokenInfo {
    match Reply::only(Function::C_GetTokenInfo, CkRv::OK) {
        Reply::C_GetTokenInfo(result) => result.info.clone(),
        _ => unreachable!("a reply is of the function that it is made for"),
    }
}

mod copies;
mod keepers;

type Fake = Recovery<Arc<Scripted>>;

fn open(recovery: &Fake) -> SessionHandle {
    let opened = ask!(recovery, C_OpenSession(SlotId(5), Flags(4), false)).unwrap();
    assert_eq!(opened.rv, CkRv::OK);
    opened.session
}

fn log_in(recovery: &Fake, session: SessionHandle, pin: &str) -> CkRv {
    let call = Call::C_Login(session, UserType(1), Input::Bytes(pin.as_bytes()));
    recovery.call(call).rv()
}

fn find(recovery: &Fake, session: SessionHandle) -> Vec<ObjectHandle> {
    let begun = recovery.call(Call::C_FindObjectsInit(session, None));
    assert_eq!(begun.rv(), CkRv::OK);
    let found = ask!(recovery, C_FindObjects(session, Room::Buffer(9))).unwrap();
    assert_eq!(
        recovery.call(Call::C_FindObjectsFinal(session)).rv(),
        CkRv::OK
    );
    found.objects
}

fn begin(recovery: &Fake, session: SessionHandle, key: ObjectHandle) -> CkRv {
    recovery.call(Call::C_SignInit(session, None, key)).rv()
}

fn sign(recovery: &Fake, session: SessionHandle) -> CkRv {
    let call = Call::C_Sign(session, Input::Bytes(b"data"), Room::Buffer(9));
    recovery.call(call).rv()
}

/// A module, and an application that has logged in and found its key.
fn ready() -> (Arc<Module>, Fake, SessionHandle, ObjectHandle) {
    let module = Module::new();
    let recovery = module.recovery(true);
    let session = open(&recovery);
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    let [key] = find(&recovery, session)[..] else {
        panic!("there is one key");
    };
    (module, recovery, session, key)
}

#[test]
fn what_is_lost_between_operations_comes_back_without_an_error() {
    let (module, recovery, session, key) = ready();
    for round in 2..5 {
        module.cut();
        // The handle is another one on this connection.
        module.change(|state| state.objects = vec![(10 * round, private_key("key", b"n"))]);
        assert_eq!(begin(&recovery, session, key), CkRv::OK);
        assert_eq!(sign(&recovery, session), CkRv::OK);
        assert_eq!(module.connects.load(Ordering::SeqCst), round as usize);
    }
    assert_eq!(module.calls(Function::C_Login), 4);
}

/// It may have been made: nobody makes it again.
#[test]
fn no_signature_is_made_twice() {
    let (module, recovery, session, key) = ready();
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    module.change(|state| state.breaks_at = Some(Function::C_Sign));
    assert_eq!(sign(&recovery, session), CkRv::DEVICE_ERROR);
    assert_eq!(module.calls(Function::C_Sign), 1);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    assert_eq!(sign(&recovery, session), CkRv::OK);
    assert_eq!(module.calls(Function::C_Sign), 2);
}

/// Written by hand: whatever else may be repeated, these must not.
#[test]
fn what_has_effects_is_never_repeated() {
    let repeated: Vec<&str> = Function::ALL
        .iter()
        .filter(|function| may_be_repeated(**function))
        .map(|function| function.name())
        .collect();
    for name in [
        "C_Sign",
        "C_SignFinal",
        "C_SignMessage",
        "C_Login",
        "C_LoginUser",
        "C_GenerateKey",
        "C_GenerateKeyPair",
        "C_CreateObject",
        "C_CopyObject",
        "C_DestroyObject",
        "C_SetAttributeValue",
        "C_DeriveKey",
        "C_UnwrapKey",
        "C_WrapKey",
        "C_EncapsulateKey",
        "C_DecapsulateKey",
        "C_InitToken",
        "C_InitPIN",
        "C_SetPIN",
        "C_Encrypt",
        "C_Decrypt",
        "C_DigestUpdate",
        "C_FindObjects",
    ] {
        assert!(!repeated.contains(&name), "{name}");
    }
    for name in [
        "C_SignInit",
        "C_GetSlotList",
        "C_GenerateRandom",
        "C_GetAttributeValue",
    ] {
        assert!(repeated.contains(&name), "{name}");
    }
}

#[test]
fn a_pin_that_was_refused_or_not_answered_is_not_tried_again() {
    let (module, recovery, session, key) = ready();
    module.change(|state| state.pin = "4321");
    for _ in 0..3 {
        module.cut();
        assert_eq!(begin(&recovery, session, key), CkRv::USER_NOT_LOGGED_IN);
    }
    assert_eq!(module.calls(Function::C_Login), 2); // the application's, and one more
    assert_eq!(log_in(&recovery, session, "4321"), CkRv::OK);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);

    module.cut();
    module.change(|state| state.breaks_at = Some(Function::C_Login));
    assert_eq!(begin(&recovery, session, key), CkRv::USER_NOT_LOGGED_IN);
    assert_eq!(module.calls(Function::C_Login), 4);
}

#[test]
fn a_login_is_not_repeated_after_the_application_has_ended_it() {
    let (module, recovery, session, _) = ready();
    assert_eq!(recovery.call(Call::C_Logout(session)).rv(), CkRv::OK);
    module.cut();
    assert_eq!(
        recovery.call(Call::C_GetSessionInfo(session)).rv(),
        CkRv::OK
    );
    assert_eq!(module.calls(Function::C_Login), 1);

    // With its last session, too.
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    assert_eq!(recovery.call(Call::C_CloseSession(session)).rv(), CkRv::OK);
    module.cut();
    let session = open(&recovery);
    assert_eq!(
        recovery.call(Call::C_GetSessionInfo(session)).rv(),
        CkRv::OK
    );
    assert_eq!(module.calls(Function::C_Login), 2);
}

#[test]
fn an_object_is_found_by_what_it_is_and_never_by_its_place() {
    // What is there after the connection was lost, and whether it is the key.
    let key = || private_key("key", b"n");
    let with_id = |id: &[u8]| {
        let mut attributes = key();
        attributes.push((UNIQUE_ID, id.to_vec()));
        attributes
    };
    for (before, after, is_found) in [
        (
            key(),
            vec![(70, private_key("other", b"n")), (71, key())],
            true,
        ),
        // The same handle is another object.
        (key(), vec![(70, private_key("key", b"another n"))], false),
        (key(), vec![(70, private_key("other", b"n"))], false),
        // Which of the two?
        (key(), vec![(70, key()), (71, key())], false),
        (key(), vec![], false),
        // The unique id tells them apart.
        (
            with_id(b"1"),
            vec![(70, with_id(b"2")), (71, with_id(b"1"))],
            true,
        ),
        (with_id(b"1"), vec![(70, with_id(b"2"))], false),
    ] {
        let module = Module::new();
        module.change(|state| state.objects = vec![(70, before)]);
        let recovery = module.recovery(true);
        let session = open(&recovery);
        assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
        let [key] = find(&recovery, session)[..] else {
            panic!("there is one key");
        };
        module.cut();
        module.change(|state| state.objects.clone_from(&after));
        let expected = if is_found {
            CkRv::OK
        } else {
            CkRv::OBJECT_HANDLE_INVALID
        };
        assert_eq!(begin(&recovery, session, key), expected, "{after:?}");
    }
}

/// Nothing is known of it but its class: the next one might be any.
#[test]
fn an_object_without_a_name_or_public_value_is_not_guessed() {
    let module = Module::new();
    let secret = vec![(CLASS, 4u64.to_ne_bytes().to_vec()), (TOKEN, vec![1])];
    module.change(|state| state.objects = vec![(70, secret)]);
    let recovery = module.recovery(true);
    let session = open(&recovery);
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    let key = find(&recovery, session)[0];
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    module.cut();
    assert_eq!(begin(&recovery, session, key), CkRv::OBJECT_HANDLE_INVALID);
}

#[test]
fn a_token_is_found_in_another_slot_and_not_taken_for_another() {
    let (module, recovery, session, key) = ready();
    module.cut();
    module.change(|state| state.slot = 8);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    let info = ask!(&recovery, C_GetSessionInfo(session)).unwrap();
    assert_eq!(info.rv, CkRv::OK);
    // The application goes on calling it by the number that it knows.
    let token = ask!(&recovery, C_GetTokenInfo(SlotId(5))).unwrap();
    assert_eq!(token.rv, CkRv::OK);

    // The same daemon shows another token of that name: it does not get the PIN.
    let logins = module.calls(Function::C_Login);
    module.cut();
    module.change(|state| state.serial = "2");
    assert_eq!(begin(&recovery, session, key), CkRv::DEVICE_REMOVED);
    assert_eq!(module.calls(Function::C_Login), logins);
    // Another one of the list has a copy.
    module.cut();
    module.change(|state| state.daemon = 1);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    assert_eq!(module.calls(Function::C_Login), logins + 1);
}

#[test]
fn handles_that_the_application_made_up_reach_no_object() {
    let (module, recovery, session, key) = ready();
    assert_ne!(key, ObjectHandle(70));
    for invented in [ObjectHandle(70), ObjectHandle(0), ObjectHandle(u64::MAX)] {
        assert_eq!(
            begin(&recovery, session, invented),
            CkRv::OBJECT_HANDLE_INVALID
        );
    }
    let call = Call::C_GetSessionInfo(SessionHandle(1001));
    assert_eq!(recovery.call(call).rv(), CkRv::SESSION_HANDLE_INVALID);
    assert_eq!(module.calls(Function::C_SignInit), 3);
}

#[test]
fn an_object_of_the_session_is_lost_and_one_on_the_token_is_not() {
    let (module, recovery, session, _) = ready();
    let create = |on_token: u8| {
        let label = [b'0' + on_token];
        let attributes = [
            (CLASS, 4u64.to_ne_bytes().to_vec()),
            (TOKEN, vec![on_token]),
            (LABEL, label.to_vec()),
        ];
        let attributes = attributes.map(|(it, value)| Attribute::new(AttributeType(it), value));
        let template = Some(Template(attributes.to_vec()));
        ask!(&recovery, C_CreateObject(session, template))
            .unwrap()
            .object
            .unwrap()
    };
    let (passing, lasting) = (create(0), create(1));
    assert_eq!(begin(&recovery, session, passing), CkRv::OK);
    module.cut();
    assert_eq!(begin(&recovery, session, passing), CkRv::DEVICE_ERROR);
    assert_eq!(
        begin(&recovery, session, passing),
        CkRv::OBJECT_HANDLE_INVALID
    );
    assert_eq!(begin(&recovery, session, lasting), CkRv::OK);
}

#[test]
fn a_daemon_that_comes_back_in_time_is_waited_for() {
    let (module, recovery, session, key) = ready();
    module.is_down.store(true, Ordering::SeqCst);
    module.cut();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            module.is_down.store(false, Ordering::SeqCst);
        });
        assert_eq!(begin(&recovery, session, key), CkRv::OK);
    });
    // But not for ever.
    module.is_down.store(true, Ordering::SeqCst);
    module.cut();
    let start = Instant::now();
    assert_eq!(begin(&recovery, session, key), CkRv::DEVICE_ERROR);
    assert!(
        start.elapsed() >= Duration::from_millis(500),
        "{:?}",
        start.elapsed()
    );
    module.is_down.store(false, Ordering::SeqCst);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
}

/// It answers, but its HSM is not there yet.
#[test]
fn a_module_that_cannot_start_yet_is_waited_for() {
    let (module, recovery, session, key) = ready();
    module.cut();
    module.change(|state| state.failing_starts = 3);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    assert_eq!(module.calls(Function::C_Initialize), 5);
}

#[test]
fn finalising_ends_waiting_for_a_daemon() {
    let (module, recovery, session, key) = ready();
    module.is_down.store(true, Ordering::SeqCst);
    module.cut();
    std::thread::scope(|scope| {
        let (sender, receiver) = channel();
        let recovery = &recovery;
        scope.spawn(move || sender.send(begin(recovery, session, key)));
        while module.connects.load(Ordering::SeqCst) < 3 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(recovery.finish(), Ok(()));
        let rv = receiver.recv_timeout(Duration::from_millis(500));
        assert_eq!(rv, Ok(CkRv::CRYPTOKI_NOT_INITIALIZED));
    });
    let call = Call::C_GetSessionInfo(session);
    assert_eq!(recovery.call(call).rv(), CkRv::CRYPTOKI_NOT_INITIALIZED);
}

/// Of many objects most are only listed.
#[test]
fn the_first_objects_of_a_search_are_looked_at_and_others_when_they_are_used() {
    let module = Module::new();
    let objects =
        |first: u64| (0..40).map(move |it| (first + it, private_key(&it.to_string(), b"n")));
    module.change(|state| state.objects = objects(70).collect());
    let recovery = module.recovery(true);
    let session = open(&recovery);
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    let begun = recovery.call(Call::C_FindObjectsInit(session, None));
    assert_eq!(begun.rv(), CkRv::OK);
    let mut found = Vec::new();
    for room in [1, 10, 20, 20] {
        let more = ask!(&recovery, C_FindObjects(session, Room::Buffer(room))).unwrap();
        found.extend(more.objects);
    }
    assert_eq!(
        recovery.call(Call::C_FindObjectsFinal(session)).rv(),
        CkRv::OK
    );
    assert_eq!(found.len(), 40);
    let asked = || module.calls(Function::C_GetAttributeValue);
    assert_eq!(asked(), 2 * 16);
    assert_eq!(begin(&recovery, session, found[30]), CkRv::OK);
    assert_eq!(begin(&recovery, session, found[30]), CkRv::OK);
    assert_eq!(asked(), 2 * 17);
    module.cut();
    module.change(|state| state.objects = objects(170).collect());
    assert_eq!(begin(&recovery, session, found[0]), CkRv::OK);
    assert_eq!(begin(&recovery, session, found[30]), CkRv::OK);
    let unknown = begin(&recovery, session, found[31]);
    assert_eq!(unknown, CkRv::OBJECT_HANDLE_INVALID);
}

#[test]
fn a_module_that_ends_at_the_first_missing_attribute_is_asked_for_each() {
    let module = Module::new();
    module.change(|state| state.is_impatient = true);
    let recovery = module.recovery(true);
    let session = open(&recovery);
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    let key = find(&recovery, session)[0];
    module.cut();
    module.change(|state| state.objects = vec![(71, private_key("key", b"another"))]);
    assert_eq!(begin(&recovery, session, key), CkRv::OBJECT_HANDLE_INVALID);
    module.change(|state| state.objects = vec![(71, private_key("key", b"n"))]);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
}

/// Each thread uses a session of its own; one connects, and one logs in.
#[test]
fn of_many_threads_one_connects_and_one_logs_in() {
    let (module, recovery, _, key) = ready();
    let sessions: Vec<_> = (0..8).map(|_| open(&recovery)).collect();
    module.cut();
    std::thread::scope(|scope| {
        for session in &sessions {
            scope.spawn(|| assert_eq!(begin(&recovery, *session, key), CkRv::OK));
        }
    });
    assert_eq!(module.connects.load(Ordering::SeqCst), 2);
    assert_eq!(module.calls(Function::C_Login), 2);
}

/// Applications open and close sessions for years.
#[test]
fn what_is_remembered_does_not_grow_with_use() {
    let (module, recovery, session, _) = ready();
    assert_eq!(recovery.call(Call::C_CloseSession(session)).rv(), CkRv::OK);
    for round in 0..3000_u64 {
        let session = open(&recovery);
        assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
        module.change(|state| state.objects[0].0 = 1000 + round);
        assert_eq!(find(&recovery, session).len(), 1);
        assert_eq!(recovery.call(Call::C_CloseSession(session)).rv(), CkRv::OK);
    }
    let state = recovery.shared.state();
    let (sessions, objects) = state.tables.sizes();
    assert!(sessions == 0 && objects <= 1000, "{sessions} {objects}");
}

#[test]
fn a_daemon_that_ends_every_connection_is_not_asked_for_ever() {
    let (module, recovery, session, key) = ready();
    for _ in 0..2 {
        module.change(|state| state.breaks_at = Some(Function::C_SignInit));
        assert_eq!(begin(&recovery, session, key), CkRv::OK);
    }
    let connects = module.connects.load(Ordering::SeqCst);
    module.change(|state| state.always_breaks_at = Some(Function::C_SignInit));
    assert_eq!(begin(&recovery, session, key), CkRv::DEVICE_ERROR);
    let made = module.connects.load(Ordering::SeqCst) - connects;
    assert!(made <= ATTEMPTS, "{made}");
}
