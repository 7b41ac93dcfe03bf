//! A module that records what it is asked, with rules in front of it.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::Path;
use std::sync::{Arc, Mutex};

use filter::{Compatibility, Filter, Rules};
use xdr::{
    Attribute, AttributeType, Call, CkRv, Cryptoki, Function, Mechanism, MechanismType,
    ObjectHandle, Reply, SessionHandle, Template, Ulong,
};

pub const LABEL: u64 = 0x3;
pub const ID: u64 = 0x102;

pub const SESSION: SessionHandle = SessionHandle(1);
/// The module does not know this one.
pub const NO_SESSION: SessionHandle = SessionHandle(99);

/// Label `good`, identifier 0aff.
pub const GOOD: ObjectHandle = ObjectHandle(11);
/// Label `bad`, identifier 00.
pub const BAD: ObjectHandle = ObjectHandle(12);
/// Neither label nor identifier.
pub const NAMELESS: ObjectHandle = ObjectHandle(13);
/// Label `good` and 1000 times `x`.
pub const LONG: ObjectHandle = ObjectHandle(14);
/// There is none with this handle.
pub const NONE: ObjectHandle = ObjectHandle(15);

/// The module: answers CKR_OK, and remembers.
#[derive(Default)]
pub struct Fake {
    pub calls: Mutex<Vec<Call<'static>>>,
    /// What is left of the search.
    pub found: Mutex<Vec<ObjectHandle>>,
    pub mechanisms: Vec<u64>,
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

    fn attributes(&self, object: ObjectHandle, template: &mut Template) -> CkRv {
        let long = [b"good".as_slice(), &[b'x'; 1000]].concat();
        let (label, id): (&[u8], &[u8]) = match object {
            GOOD => (b"good", &[0x0a, 0xff]),
            BAD => (b"bad", &[0]),
            LONG => (&long, &[0x0a, 0xff]),
            NAMELESS => {
                for attribute in &mut template.0 {
                    attribute.value.clear();
                    attribute.value_len = Ulong::UNAVAILABLE;
                }
                return CkRv::ATTRIBUTE_TYPE_INVALID;
            }
            _ => return CkRv::OBJECT_HANDLE_INVALID,
        };
        let mut rv = CkRv::OK;
        for attribute in &mut template.0 {
            let value = if attribute.attribute_type.0 == LABEL {
                label
            } else {
                id
            };
            if attribute.value.len() < value.len() {
                rv = CkRv::BUFFER_TOO_SMALL;
                attribute.value.clear();
                attribute.value_len = Ulong::UNAVAILABLE;
            } else {
                attribute.value = value.to_vec();
                attribute.value_len = Ulong(value.len() as u64);
            }
        }
        rv
    }
}

/// Byte strings in recorded calls are of no interest.
fn owned(call: &Call<'_>) -> Call<'static> {
    match call {
        Call::C_CreateObject(s, template) => Call::C_CreateObject(*s, template.clone()),
        Call::C_OpenSession(slot, flags) => Call::C_OpenSession(*slot, *flags),
        Call::C_GetAttributeValue(s, object, template) => {
            Call::C_GetAttributeValue(*s, *object, template.clone())
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
                Call::C_GetAttributeValue(session, object, template),
            ) => {
                result.template = template;
                result.rv = match session {
                    NO_SESSION => CkRv::SESSION_HANDLE_INVALID,
                    _ => self.attributes(object, &mut result.template),
                };
            }
            (Reply::C_GetSessionInfo(result), Call::C_GetSessionInfo(NO_SESSION)) => {
                result.rv = CkRv::SESSION_HANDLE_INVALID;
            }
            (Reply::C_FindObjects(result), Call::C_FindObjects(_, count)) => {
                let mut found = self.found.lock().unwrap();
                let count = found.len().min(count.0 as usize);
                result.objects = found.drain(..count).collect();
                result.count = Ulong(count as u64);
            }
            (Reply::C_GetMechanismList(result), Call::C_GetMechanismList(_, count)) => {
                result.count = Ulong(self.mechanisms.len() as u64);
                if count.0 >= result.count.0 {
                    result.mechanisms =
                        self.mechanisms.iter().copied().map(MechanismType).collect();
                } else if count.0 > 0 {
                    result.rv = CkRv::BUFFER_TOO_SMALL;
                }
            }
            _ => {}
        }
        reply
    }
}

/// Lets a test keep the module it puts behind a filter.
pub struct Shared(pub Arc<Fake>);

impl Cryptoki for Shared {
    fn call(&self, call: Call<'_>) -> Reply {
        self.0.call(call)
    }
}

/// A module behind these rules, for the alias `m`.
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

    /// What a call answers, and the functions that the module was asked for meanwhile.
    pub fn watch(&self, call: Call<'_>) -> (Reply, Vec<Function>) {
        self.module.calls.lock().unwrap().clear();
        let reply = self.call(call);
        (reply, self.module.functions())
    }
}

pub fn template(attributes: &[(u64, &[u8])]) -> Template {
    let make = |(kind, value): &(u64, &[u8])| Attribute::new(AttributeType(*kind), value.to_vec());
    Template(attributes.iter().map(make).collect())
}

pub fn mechanism(kind: u64) -> Mechanism {
    Mechanism::bare(MechanismType(kind))
}

/// A call of each function that no rule is about, as far as that is possible.
pub fn sample(function: Function) -> Call<'static> {
    use xdr::{Architecture, Flags, SlotId, UserType};

    let (s, slot, t) = (SESSION, SlotId(0), Template::default);
    // CKM_SHA_1: no rule of these tests forbids it.
    let m = || mechanism(0x220);
    macro_rules! calls {
        ($($name:ident($($argument:expr),*))*) => {
            match function { $(Function::$name => Call::$name($($argument),*)),* }
        };
    }
    calls! {
        C_SetupArch(Architecture::host()) C_LoadModule(b"m") C_Initialize() C_Finalize() C_GetInfo()
        C_GetSlotList(Ulong(0), Ulong(0)) C_GetSlotInfo(slot) C_GetTokenInfo(slot)
        C_WaitForSlotEvent(Flags(1)) C_GetMechanismList(slot, Ulong(0))
        C_GetMechanismInfo(slot, MechanismType(0x220)) C_InitToken(slot, b"pin", b"label")
        C_InitPIN(s, b"pin") C_SetPIN(s, b"old", b"new") C_OpenSession(slot, Flags(4))
        C_CloseSession(s) C_CloseAllSessions(slot) C_GetSessionInfo(s) C_GetOperationState(s)
        C_SetOperationState(s, b"state", ObjectHandle(0), ObjectHandle(0))
        C_Login(s, UserType(1), b"pin") C_Logout(s) C_CreateObject(s, t()) C_CopyObject(s, GOOD, t())
        C_DestroyObject(s, GOOD) C_GetObjectSize(s, GOOD) C_GetAttributeValue(s, GOOD, t())
        C_SetAttributeValue(s, GOOD, t()) C_FindObjectsInit(s, t()) C_FindObjects(s, Ulong(1))
        C_FindObjectsFinal(s) C_EncryptInit(s, m(), GOOD) C_Encrypt(s, b"") C_EncryptUpdate(s, b"")
        C_EncryptFinal(s) C_DecryptInit(s, m(), GOOD) C_Decrypt(s, b"") C_DecryptUpdate(s, b"")
        C_DecryptFinal(s) C_DigestInit(s, m()) C_Digest(s, b"") C_DigestUpdate(s, b"")
        C_DigestKey(s, GOOD) C_DigestFinal(s) C_SignInit(s, m(), GOOD) C_Sign(s, b"")
        C_SignUpdate(s, b"") C_SignFinal(s) C_SignRecoverInit(s, m(), GOOD) C_SignRecover(s, b"")
        C_VerifyInit(s, m(), GOOD) C_Verify(s, b"", b"") C_VerifyUpdate(s, b"")
        C_VerifyFinal(s, b"") C_VerifyRecoverInit(s, m(), GOOD) C_VerifyRecover(s, b"")
        C_DigestEncryptUpdate(s, b"") C_DecryptDigestUpdate(s, b"") C_SignEncryptUpdate(s, b"")
        C_DecryptVerifyUpdate(s, b"") C_GenerateKey(s, m(), t()) C_GenerateKeyPair(s, m(), t(), t())
        C_WrapKey(s, m(), GOOD, GOOD) C_UnwrapKey(s, m(), GOOD, b"", t()) C_DeriveKey(s, m(), GOOD, t())
        C_SeedRandom(s, b"") C_GenerateRandom(s, Ulong(1)) C_GetFunctionStatus(s)
        C_CancelFunction(s)
    }
}
