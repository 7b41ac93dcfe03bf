//! Provides a module that records the calls it gets, with rules in front of it.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod parameters;

use std::path::Path;
use std::sync::{Arc, Mutex};

use filter::{Compatibility, Filter, Rules};
use xdr::{
    Answer, Answers, Attribute, AttributeType, Call, CkRv, Cryptoki, Found, Function, Input,
    Mechanism, MechanismType, NullPlaces, ObjectHandle, Query, Reply, Room, SessionHandle,
    Template, Ulong, Wanted, WantedRoom,
};

pub const LABEL: u64 = 0x3;
pub const ID: u64 = 0x102;

pub const SESSION: SessionHandle = SessionHandle(1);
/// A session that the module does not know.
pub const NO_SESSION: SessionHandle = SessionHandle(99);

/// Label `good`, identifier 0aff.
pub const GOOD: ObjectHandle = ObjectHandle(11);
/// Label `bad`, identifier 00.
pub const BAD: ObjectHandle = ObjectHandle(12);
/// Neither label nor identifier.
pub const NAMELESS: ObjectHandle = ObjectHandle(13);
/// Label `good` and 1000 times `x`.
pub const LONG: ObjectHandle = ObjectHandle(14);
/// A handle of no object.
pub const NONE: ObjectHandle = ObjectHandle(15);

/// A module that answers CKR_OK and records its calls.
#[derive(Default)]
pub struct Fake {
    pub calls: Mutex<Vec<Call<'static>>>,
    /// What is left of the search.
    pub found: Mutex<Vec<ObjectHandle>>,
    pub mechanisms: Vec<u64>,
    /// Which pointers to results were NULL in the last call.
    pub nulls: Mutex<NullPlaces>,
}

impl Fake {
    /// The functions that were called.
    pub fn functions(&self) -> Vec<Function> {
        self.calls
            .lock()
            .unwrap()
            .iter()
            .map(Call::function)
            .collect()
    }

    fn attributes(&self, object: ObjectHandle, query: &Query) -> (CkRv, Answers) {
        let answers = |found: &mut dyn FnMut(&Wanted) -> Found| {
            let answer = |wanted: &Wanted| Answer {
                attribute_type: wanted.attribute_type,
                found: found(wanted),
            };
            Answers(query.0.iter().map(answer).collect())
        };
        let long = [b"good".as_slice(), &[b'x'; 1000]].concat();
        let (label, id): (&[u8], &[u8]) = match object {
            GOOD => (b"good", &[0x0a, 0xff]),
            BAD => (b"bad", &[0]),
            LONG => (&long, &[0x0a, 0xff]),
            NAMELESS => {
                let none = answers(&mut |_| Found::Unavailable);
                return (CkRv::ATTRIBUTE_TYPE_INVALID, none);
            }
            _ => {
                let untouched = answers(&mut |_| Found::Untouched);
                return (CkRv::OBJECT_HANDLE_INVALID, untouched);
            }
        };
        let mut rv = CkRv::OK;
        let answers = answers(&mut |wanted| {
            let value = match wanted.attribute_type.0 {
                LABEL => label,
                _ => id,
            };
            match wanted.room {
                WantedRoom::Null { .. } => Found::Length(value.len() as u64),
                WantedRoom::Buffer { room, .. } if room >= value.len() as u64 => {
                    Found::Bytes(value.to_vec())
                }
                _ => {
                    rv = CkRv::BUFFER_TOO_SMALL;
                    Found::Unavailable
                }
            }
        });
        (rv, answers)
    }
}

/// Returns a copy of a call for the record. The tests do not look at its byte strings.
fn owned(call: &Call<'_>) -> Call<'static> {
    match call {
        Call::C_CreateObject(s, template) => Call::C_CreateObject(*s, template.clone()),
        Call::C_OpenSession(slot, flags, notify) => Call::C_OpenSession(*slot, *flags, *notify),
        Call::C_GetAttributeValue(s, object, query) => {
            Call::C_GetAttributeValue(*s, *object, query.clone())
        }
        Call::C_FindObjectsInit(s, template) => Call::C_FindObjectsInit(*s, template.clone()),
        Call::C_FindObjects(s, count) => Call::C_FindObjects(*s, *count),
        other => sample(other.function()),
    }
}

impl Cryptoki for Fake {
    fn call(&self, call: Call<'_>) -> Reply {
        self.calls.lock().unwrap().push(owned(&call));
        let mut reply = Reply::only(call.function(), CkRv::OK);
        match (&mut reply, call) {
            (
                Reply::C_GetAttributeValue(result),
                Call::C_GetAttributeValue(session, object, query),
            ) => {
                if session == NO_SESSION {
                    result.rv = CkRv::SESSION_HANDLE_INVALID;
                } else {
                    let query = query.unwrap_or_default();
                    (result.rv, result.answers) = self.attributes(object, &query);
                }
            }
            (Reply::C_GetSessionInfo(result), Call::C_GetSessionInfo(NO_SESSION)) => {
                result.rv = CkRv::SESSION_HANDLE_INVALID;
            }
            (Reply::C_FindObjects(result), Call::C_FindObjects(_, Room::Buffer(room))) => {
                let mut found = self.found.lock().unwrap();
                let count = found.len().min(room as usize);
                result.objects = found.drain(..count).collect();
                result.count = Ulong(count as u64);
            }
            (Reply::C_GetMechanismList(result), Call::C_GetMechanismList(_, room)) => {
                result.count = Ulong(self.mechanisms.len() as u64);
                match room {
                    Room::Buffer(room) if room >= result.count.0 => {
                        result.mechanisms =
                            self.mechanisms.iter().copied().map(MechanismType).collect();
                    }
                    Room::Buffer(_) => result.rv = CkRv::BUFFER_TOO_SMALL,
                    Room::Null { .. } => {}
                    Room::NoLength | Room::Unbounded => result.rv = CkRv::ARGUMENTS_BAD,
                }
            }
            _ => {}
        }
        reply
    }
}

/// Lets a test keep a reference to the module that it puts behind a filter.
pub struct Shared(pub Arc<Fake>);

impl Cryptoki for Shared {
    fn call(&self, call: Call<'_>) -> Reply {
        self.call_with_nulls(call, NullPlaces::NONE)
    }

    fn call_with_nulls(&self, call: Call<'_>, nulls: NullPlaces) -> Reply {
        *self.0.nulls.lock().unwrap() = nulls;
        self.0.call(call)
    }
}

/// A module behind rules, for the alias `m`.
pub struct Guarded {
    pub module: Arc<Fake>,
    filter: Filter<Shared>,
}

impl Guarded {
    pub fn new(rules: &str) -> Guarded {
        Guarded::with(rules, "", Fake::default())
    }

    pub fn with(rules: &str, switches: &str, module: Fake) -> Guarded {
        let text = format!("modules = [(m, \"/m.so\")]\n{rules}");
        let switches = Compatibility::parse(switches).unwrap();
        let rules = Rules::parse(text.as_bytes(), Path::new("filter.conf"), &switches);
        let rules = Arc::new(rules.unwrap_or_else(|error| panic!("{error}:\n{text}")));
        let module = Arc::new(module);
        let entry = rules.module(b"m").unwrap();
        let filter = Filter::new(&rules, b"m", entry, Shared(module.clone()));
        Guarded { module, filter }
    }

    pub fn call(&self, call: Call<'_>) -> Reply {
        self.filter.call(call)
    }

    pub fn call_with_nulls(&self, call: Call<'_>, nulls: NullPlaces) -> Reply {
        self.filter.call_with_nulls(call, nulls)
    }

    /// Returns the reply to a call, and the functions that the module was asked for meanwhile.
    pub fn watch(&self, call: Call<'_>) -> (Reply, Vec<Function>) {
        self.module.calls.lock().unwrap().clear();
        let reply = self.call(call);
        (reply, self.module.functions())
    }
}

pub fn template(attributes: &[(u64, &[u8])]) -> Option<Template> {
    let make = |(kind, value): &(u64, &[u8])| Attribute::new(AttributeType(*kind), value.to_vec());
    Some(Template(attributes.iter().map(make).collect()))
}

/// Asks for these attributes, each with this much room.
pub fn query(wanted: &[(u64, usize)]) -> Option<Query> {
    let make = |(kind, room): &(u64, usize)| Wanted::value(AttributeType(*kind), *room);
    Some(Query(wanted.iter().map(make).collect()))
}

pub fn mechanism(kind: u64) -> Option<Mechanism> {
    Some(Mechanism::bare(MechanismType(kind)))
}

/// Returns a call of this function that no rule is about, as far as that is possible.
pub fn sample(function: Function) -> Call<'static> {
    use xdr::{Flags, Hello, SlotId, UserType};

    let (s, slot) = (SESSION, SlotId(0));
    let t = || Some(Template::default());
    let (q, r) = (Some(Query::default()), Room::Buffer(64));
    let (data, pin): (Input<'static>, Input<'static>) = (b"".into(), b"pin".into());
    // CKM_SHA_1: no rule of these tests forbids it.
    let m = || mechanism(0x220);
    let p = || Mechanism::bare(MechanismType(0x220));
    let none = ObjectHandle(0);
    macro_rules! calls {
        ($($name:ident($($argument:expr),*))*) => {
            match function { $(Function::$name => Call::$name($($argument),*)),* }
        };
    }
    calls! {
        C_SetupArch(Hello::default()) C_LoadModule(b"m") C_Initialize(Flags(0)) C_Finalize()
        C_GetInfo() C_GetSlotList(Ulong(0), Room::QUESTION) C_GetSlotInfo(slot)
        C_GetTokenInfo(slot) C_WaitForSlotEvent(Flags(1)) C_GetMechanismList(slot, Room::QUESTION)
        C_GetMechanismInfo(slot, MechanismType(0x220)) C_InitToken(slot, pin, b"label".into())
        C_InitPIN(s, pin) C_SetPIN(s, pin, pin) C_OpenSession(slot, Flags(4), false)
        C_CloseSession(s) C_CloseAllSessions(slot) C_GetSessionInfo(s) C_GetOperationState(s, r)
        C_SetOperationState(s, b"state".into(), none, none) C_Login(s, UserType(1), pin)
        C_Logout(s) C_CreateObject(s, t()) C_CopyObject(s, GOOD, t()) C_DestroyObject(s, GOOD)
        C_GetObjectSize(s, GOOD) C_GetAttributeValue(s, GOOD, q) C_SetAttributeValue(s, GOOD, t())
        C_FindObjectsInit(s, t()) C_FindObjects(s, Room::Buffer(1)) C_FindObjectsFinal(s)
        C_EncryptInit(s, m(), GOOD) C_Encrypt(s, data, r) C_EncryptUpdate(s, data, r)
        C_EncryptFinal(s, r) C_DecryptInit(s, m(), GOOD) C_Decrypt(s, data, r)
        C_DecryptUpdate(s, data, r) C_DecryptFinal(s, r) C_DigestInit(s, m()) C_Digest(s, data, r)
        C_DigestUpdate(s, data) C_DigestKey(s, GOOD) C_DigestFinal(s, r) C_SignInit(s, m(), GOOD)
        C_Sign(s, data, r) C_SignUpdate(s, data) C_SignFinal(s, r) C_SignRecoverInit(s, m(), GOOD)
        C_SignRecover(s, data, r) C_VerifyInit(s, m(), GOOD) C_Verify(s, data, data)
        C_VerifyUpdate(s, data) C_VerifyFinal(s, data) C_VerifyRecoverInit(s, m(), GOOD)
        C_VerifyRecover(s, data, r) C_DigestEncryptUpdate(s, data, r)
        C_DecryptDigestUpdate(s, data, r) C_SignEncryptUpdate(s, data, r)
        C_DecryptVerifyUpdate(s, data, r) C_GenerateKey(s, m(), t())
        C_GenerateKeyPair(s, m(), t(), t()) C_WrapKey(s, m(), GOOD, GOOD, r)
        C_UnwrapKey(s, m(), GOOD, data, t()) C_DeriveKey(s, m(), GOOD, t()) C_SeedRandom(s, data)
        C_GenerateRandom(s, Room::Buffer(1)) C_GetFunctionStatus(s) C_CancelFunction(s)
        C_LoginUser(s, UserType(1), pin, b"name".into()) C_SessionCancel(s, Flags(0x100))
        C_MessageEncryptInit(s, m(), GOOD) C_EncryptMessage(s, p(), data, data, r)
        C_EncryptMessageBegin(s, p(), data) C_EncryptMessageNext(s, p(), data, r, Flags(0))
        C_MessageEncryptFinal(s) C_MessageDecryptInit(s, m(), GOOD)
        C_DecryptMessage(s, p(), data, data, r) C_DecryptMessageBegin(s, p(), data)
        C_DecryptMessageNext(s, p(), data, r, Flags(0)) C_MessageDecryptFinal(s)
        C_MessageSignInit(s, m(), GOOD) C_SignMessage(s, p(), data, r) C_SignMessageBegin(s, p())
        C_SignMessageNext(s, p(), data, r) C_MessageSignFinal(s) C_MessageVerifyInit(s, m(), GOOD)
        C_VerifyMessage(s, p(), data, data) C_VerifyMessageBegin(s, p())
        C_VerifyMessageNext(s, p(), data, data) C_MessageVerifyFinal(s)
        C_EncapsulateKey(s, m(), GOOD, t(), r) C_DecapsulateKey(s, m(), GOOD, t(), data)
        C_VerifySignatureInit(s, m(), GOOD, data) C_VerifySignature(s, data)
        C_VerifySignatureUpdate(s, data) C_VerifySignatureFinal(s)
        C_GetSessionValidationFlags(s, Ulong(1)) C_AsyncComplete(s, b"C_Sign".into())
        C_AsyncGetID(s, b"C_Sign".into()) C_AsyncJoin(s, b"C_Sign".into(), Ulong(1), r)
        C_WrapKeyAuthenticated(s, m(), GOOD, GOOD, data, r)
        C_UnwrapKeyAuthenticated(s, m(), GOOD, data, t(), data)
    }
}
