//! Simulates a module behind a connection that a test can cut. It has one or two tokens, and objects with attributes.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize};

use xdr::{
    Answer, Answers, Attribute, AttributesResult, Found, Input, MechanismResult, ObjectHandle,
    ObjectListResult, ObjectResult, OutputResult, Query, Room, SessionResult, SlotId,
    SlotListResult, TokenInfo, TokenInfoResult, Ulong, UserType,
};

use super::*;

/// A module that is behind each connection, with a record of the calls that it got.
pub(super) struct Module {
    pub(super) state: Mutex<ModuleState>,
    /// Whether connecting fails, because no daemon listens.
    pub(super) is_down: AtomicBool,
    pub(super) connects: AtomicUsize,
}

#[derive(Default)]
pub(super) struct ModuleState {
    pub(super) slot: u64,
    pub(super) label: &'static str,
    pub(super) serial: &'static str,
    pub(super) pin: &'static str,
    /// The handle and the attributes of each object.
    pub(super) objects: Vec<(u64, Attributes)>,
    pub(super) daemon: usize,
    pub(super) calls: HashMap<Function, usize>,
    /// The function in whose next call the connection is lost, after the call was executed.
    pub(super) breaks_at: Option<Function>,
    pub(super) always_breaks_at: Option<Function>,
    /// The function of which each call is refused because the daemon is about to close the connection, as it then does.
    pub(super) always_leaves_at: Option<Function>,
    /// How many more times C_Initialize fails.
    pub(super) failing_starts: usize,
    /// On how many more connections the module sees no token.
    pub(super) blind_starts: usize,
    /// Whether C_GetAttributeValue stops at the first attribute that an object does not have.
    pub(super) is_impatient: bool,
    /// How many more times C_Login fails, whatever the PIN.
    pub(super) failing_logins: usize,
    /// The flags of the token.
    pub(super) flags: u64,
    /// The CK_RV with which C_OpenSession fails.
    pub(super) refuses_sessions: Option<CkRv>,
    /// Whether the daemon's filter forbids C_GetAttributeValue.
    pub(super) hides_attributes: bool,
    /// How a daemon changes the answers of C_GetAttributeValue that lies.
    pub(super) lies: Option<fn(&mut Vec<Answer>)>,
    /// Whether C_FindObjects returns all objects, whatever room there is.
    pub(super) overfills: bool,
    pub(super) empty_slots: Vec<u64>,
    /// The upper bound on the number of sessions.
    pub(super) most_sessions: Option<usize>,
    /// The number of a second slot.
    pub(super) second_slot: Option<u64>,
    /// A function, and how long each call of it takes.
    pub(super) takes: Option<(Function, Duration)>,
    /// A function, and what happens once after it was executed but before its reply is sent.
    pub(super) meanwhile: Option<(Function, Box<dyn FnOnce() + Send>)>,
    pub(super) connection: Connection,
}

/// Types of attributes and their values.
pub(super) type Attributes = Vec<(u64, Vec<u8>)>;

/// The state that ends with the connection.
#[derive(Default)]
pub(super) struct Connection {
    pub(super) sessions: HashSet<u64>,
    pub(super) last: u64,
    pub(super) is_logged_in: bool,
    /// The session of the last search, until it ends.
    pub(super) searching: Option<u64>,
    pub(super) found: Vec<u64>,
    pub(super) sees_no_token: bool,
    pub(super) lost: Arc<AtomicBool>,
}

pub(super) const CLASS: u64 = 0;
pub(super) const TOKEN: u64 = 1;
pub(super) const PRIVATE: u64 = 2;
pub(super) const LABEL: u64 = 3;
pub(super) const UNIQUE_ID: u64 = 4;
pub(super) const ID: u64 = 0x102;
pub(super) const MODULUS: u64 = 0x120;

pub(super) fn private_key(label: &str, modulus: &[u8]) -> Attributes {
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
    pub(super) fn new() -> Arc<Module> {
        Arc::new(Module {
            state: Mutex::new(ModuleState {
                slot: 5,
                empty_slots: vec![1],
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

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut ModuleState) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    pub(super) fn calls(&self, function: Function) -> usize {
        self.change(|state| state.calls.get(&function).copied().unwrap_or(0))
    }

    /// Cuts the connection; the next call notices that.
    pub(super) fn cut(&self) {
        self.change(|state| state.connection.lost.store(true, Ordering::SeqCst));
    }

    pub(super) fn recovery(self: &Arc<Module>, keep_pin: bool) -> Recovery<Arc<Scripted>> {
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
                state.connection = Connection {
                    sees_no_token: state.blind_starts > 0,
                    ..Default::default()
                };
                state.blind_starts = state.blind_starts.saturating_sub(1);
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

    pub(super) fn answer(&self, connection: &std::sync::Weak<Scripted>, call: Call<'_>) -> Reply {
        let function = call.function();
        let scripted = connection.upgrade().expect("somebody calls");
        let mut state = self.state.lock().unwrap();
        // A call over an earlier connection is lost with it.
        if scripted.is_lost() || state.connection.lost.load(Ordering::SeqCst) {
            scripted.lost.store(true, Ordering::SeqCst);
            return Reply::only(function, CkRv::DEVICE_ERROR);
        }
        if state.always_leaves_at == Some(function) {
            state.connection.lost.store(true, Ordering::SeqCst);
            scripted.lost.store(true, Ordering::SeqCst);
            return Reply::only(function, RV_LEAVING);
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
    fn slots(&self) -> Vec<SlotId> {
        let empty = self.empty_slots.iter().copied();
        let tokens = [self.slot].into_iter().chain(self.second_slot);
        let numbers = empty.chain(tokens.filter(|_| !self.connection.sees_no_token));
        numbers.map(SlotId).collect()
    }

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
            Call::C_GetSlotList(_, room) => {
                let slots = self.slots();
                Reply::C_GetSlotList(SlotListResult {
                    rv: CkRv::OK,
                    count: Ulong(slots.len() as u64),
                    slots: match room {
                        Room::Buffer(_) => slots,
                        _ => Vec::new(),
                    },
                })
            }
            Call::C_FindObjects(..) if self.overfills => {
                let objects = self.connection.found.iter().copied();
                Reply::C_FindObjects(ObjectListResult {
                    rv: CkRv::OK,
                    count: Ulong(0),
                    objects: objects.map(ObjectHandle).collect(),
                })
            }
            Call::C_GetSlotInfo(slot) if !self.slots().contains(&slot) => {
                only(CkRv::SLOT_ID_INVALID)
            }
            Call::C_GetSlotInfo(slot) => {
                let mut reply = only(CkRv::OK);
                if let Reply::C_GetSlotInfo(answer) = &mut reply {
                    answer.info.slot_description = slot.0.to_string().into();
                    answer.info.flags = Flags(u64::from(!self.empty_slots.contains(&slot.0)));
                }
                reply
            }
            Call::C_GetTokenInfo(_) if self.connection.sees_no_token => only(CkRv::SLOT_ID_INVALID),
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
            Call::C_GetTokenInfo(slot) if self.empty_slots.contains(&slot.0) => {
                only(CkRv::TOKEN_NOT_PRESENT)
            }
            Call::C_GetTokenInfo(_) => only(CkRv::SLOT_ID_INVALID),
            Call::C_OpenSession(..) if self.refuses_sessions.is_some() => {
                only(self.refuses_sessions.unwrap_or_default())
            }
            Call::C_OpenSession(..)
                if self.most_sessions == Some(self.connection.sessions.len()) =>
            {
                only(CkRv::SESSION_COUNT)
            }
            Call::C_OpenSession(slot, ..)
                if slot.0 == self.slot || self.second_slot == Some(slot.0) =>
            {
                self.connection.last += 1;
                // The handles are different ones on each connection.
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
            Call::C_Login(..) if self.failing_logins > 0 => {
                self.failing_logins -= 1;
                only(CkRv::GENERAL_ERROR)
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
            Call::C_FindObjectsInit(session, _) if self.connection.searching == Some(session.0) => {
                only(CkRv::OPERATION_ACTIVE)
            }
            Call::C_FindObjectsFinal(_) => {
                self.connection.searching = None;
                only(CkRv::OK)
            }
            Call::C_FindObjectsInit(session, template) => {
                self.connection.searching = Some(session.0);
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
            Call::C_GetAttributeValue(..) if self.hides_attributes => {
                only(CkRv::FUNCTION_NOT_SUPPORTED)
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
                let mut answers = Answers(answers.collect());
                if let Some(lie) = self.lies {
                    lie(&mut answers.0);
                }
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
                data: vec![1].into(),
            }),
            call => Reply::only(call.function(), CkRv::OK),
        }
    }
}

pub(super) fn fake_token_info() -> TokenInfo {
    match Reply::only(Function::C_GetTokenInfo, CkRv::OK) {
        Reply::C_GetTokenInfo(result) => result.info.clone(),
        _ => unreachable!("a reply is of the function that it is made for"),
    }
}
