//! Simulates a token in memory: objects and their attributes, with defaults that reveal everything.
//!
//! It follows PKCS#11 where a client reads attributes, unless told to answer as some modules do.

use std::collections::BTreeMap;
use std::sync::Mutex;

use xdr::{
    Answer, Answers, Attribute, AttributesResult, Call, CkRv, Cryptoki, EncapsulateResult, Found,
    Function, KeyPairResult, KeyResult, MechanismOutputResult, ObjectHandle, ObjectListResult,
    ObjectResult, Query, Reply, Room, SessionHandle, Template, Ulong, Wanted, WantedRoom,
};

use crate::chain::{attributes, number};

/// How a module reads attributes.
#[derive(Clone, Copy, Eq, PartialEq)]
pub enum Reads {
    Well,
    /// Stops at the first attribute that the object does not have.
    UpToTheFirstMissing,
    /// Returns nothing if any attribute is missing.
    AllOrNothing,
    /// Has booleans that are 8 bytes long.
    LongBooleans,
    /// Fails with this CK_RV.
    Not(CkRv),
    /// Leaves out the last attribute.
    OneTooFew,
}

type Values = BTreeMap<u64, Vec<u8>>;

#[derive(Default)]
struct State {
    objects: BTreeMap<u64, Values>,
    calls: Vec<Function>,
    wrapped: Vec<u8>,
    unwrapped: Vec<u8>,
}

pub struct Token {
    state: Mutex<State>,
    pub reads: Mutex<Reads>,
}

/// The attributes of a key of each class, unless a template says otherwise.
const SECRET: &str = "ENCRYPT=T DECRYPT=T SIGN=T VERIFY=T WRAP=T UNWRAP=T DERIVE=T \
    SENSITIVE=F EXTRACTABLE=T PRIVATE=F VALUE=0x000102030405060708090a0b0c0d0e0f";
const PRIVATE: &str = "DECRYPT=T SIGN=T SIGN_RECOVER=T UNWRAP=T DERIVE=T SENSITIVE=F \
    EXTRACTABLE=T PRIVATE=F PRIVATE_EXPONENT=0x05 PRIME_1=0x07 PRIME_2=0x0b EXPONENT_1=0x0d \
    EXPONENT_2=0x11 COEFFICIENT=0x13";
const PUBLIC: &str = "ENCRYPT=T VERIFY=T VERIFY_RECOVER=T WRAP=T DERIVE=T PRIVATE=F";

const PROVENANCE: [&str; 3] = ["LOCAL", "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE"];

impl Token {
    pub fn new() -> Token {
        Token {
            state: Mutex::default(),
            reads: Mutex::new(Reads::Well),
        }
    }

    /// Adds an object with exactly these attributes, without a call through the filter.
    pub fn put(&self, text: &str) -> ObjectHandle {
        self.add(values(&attributes(text)))
    }

    fn add(&self, values: Values) -> ObjectHandle {
        let mut state = self.state.lock().expect("no panic");
        let handle = 100 + state.objects.len() as u64;
        state.objects.insert(handle, values);
        ObjectHandle(handle)
    }

    /// Asserts that an object has these attributes, whoever may read them.
    pub fn has(&self, object: ObjectHandle, text: &str) {
        let state = self.state.lock().expect("no panic");
        for (name, value) in values(&attributes(text)) {
            let found = state.objects[&object.0].get(&name);
            assert_eq!(found, Some(&value), "{name:#x} of {text}");
        }
    }

    /// Sets what C_WrapKey returns.
    pub fn wraps_as(&self, wrapped: &[u8]) {
        self.state.lock().expect("no panic").wrapped = wrapped.to_vec();
    }

    /// Returns what C_UnwrapKey got.
    pub fn unwrapped(&self) -> Vec<u8> {
        self.state.lock().expect("no panic").unwrapped.clone()
    }

    pub fn reads(&self, how: Reads) {
        *self.reads.lock().expect("no panic") = how;
    }

    /// Returns the calls since the last time that this was asked.
    pub fn calls(&self) -> Vec<Function> {
        std::mem::take(&mut self.state.lock().expect("no panic").calls)
    }

    fn find(&self, object: ObjectHandle) -> Option<Values> {
        let state = self.state.lock().expect("no panic");
        state.objects.get(&object.0).cloned()
    }

    /// Makes an object of a template, with the token's defaults.
    fn make(
        &self,
        template: &Option<Template>,
        class: Option<u64>,
        is_local: bool,
    ) -> Result<u64, CkRv> {
        let nothing = Template::default();
        let given = values(template.as_ref().unwrap_or(&nothing));
        if PROVENANCE
            .iter()
            .any(|name| given.contains_key(&number(name).0))
        {
            return Err(CkRv::ATTRIBUTE_READ_ONLY);
        }
        let class = class.map(|class| vec![u8::try_from(class).expect("a small number")]);
        let class = class.or(given.get(&0).cloned());
        let class = class.ok_or(CkRv::TEMPLATE_INCOMPLETE)?.first().copied();
        let defaults = match class {
            Some(4) => SECRET,
            Some(3) => PRIVATE,
            Some(2) => PUBLIC,
            Some(_) => "",
            None => return Err(CkRv::TEMPLATE_INCOMPLETE),
        };
        let mut object = values(&attributes(defaults));
        object.extend(given);
        let class = u64::from(class.unwrap_or_default());
        object.extend(values(&attributes(&format!("CLASS=#{class}"))));
        if defaults.is_empty() {
            return Ok(self.add(object).0);
        }
        let is = |name: &str, value: u8| object.get(&number(name).0) == Some(&vec![value]);
        let (sensitive, fixed) = (is("SENSITIVE", 1), is("EXTRACTABLE", 0));
        let has_secret = class != 2;
        let mut set = |name: &str, value: bool| {
            object.insert(number(name).0, vec![u8::from(value)]);
        };
        set("LOCAL", is_local);
        if has_secret {
            set("ALWAYS_SENSITIVE", is_local && sensitive);
            set("NEVER_EXTRACTABLE", is_local && fixed);
        }
        Ok(self.add(object).0)
    }

    fn read(&self, object: ObjectHandle, query: &Query) -> AttributesResult {
        let how = *self.reads.lock().expect("no panic");
        if let Reads::Not(rv) = how {
            return untouched(rv, query);
        }
        let Some(mut object) = self.find(object) else {
            return untouched(CkRv::OBJECT_HANDLE_INVALID, query);
        };
        if how == Reads::LongBooleans {
            let long = |value: &mut Vec<u8>| {
                if value.len() == 1 {
                    value.splice(0..0, [0; 7]);
                }
            };
            object.values_mut().for_each(long);
        }
        let is_sensitive = object.get(&0x103) == Some(&vec![1]);
        let AttributesResult {
            mut rv,
            mut answers,
        } = untouched(CkRv::OK, query);
        for (wanted, answer) in query.0.iter().zip(&mut answers.0) {
            let problem = match (object.get(&wanted.attribute_type.0), &wanted.room) {
                (Some(_), _) if is_sensitive && wanted.attribute_type.0 == 0x11 => {
                    CkRv::ATTRIBUTE_SENSITIVE
                }
                (Some(value), WantedRoom::Null { .. }) => {
                    answer.found = Found::Length(value.len() as u64);
                    continue;
                }
                (Some(value), WantedRoom::Buffer { room, .. }) if value.len() as u64 <= *room => {
                    answer.found = Found::Bytes(value.clone());
                    continue;
                }
                (Some(_), _) => CkRv::BUFFER_TOO_SMALL,
                (None, _) => CkRv::ATTRIBUTE_TYPE_INVALID,
            };
            rv = problem;
            if how == Reads::UpToTheFirstMissing {
                break;
            }
            answer.found = Found::Unavailable;
        }
        if how == Reads::AllOrNothing && rv != CkRv::OK {
            for answer in &mut answers.0 {
                answer.found = Found::Unavailable;
            }
        }
        if how == Reads::OneTooFew {
            answers.0.pop();
        }
        AttributesResult { rv, answers }
    }

    fn wrap(&self, wrapping: ObjectHandle, key: ObjectHandle, room: Room) -> MechanismOutputResult {
        let wrapped = self.state.lock().expect("no panic").wrapped.clone();
        let length = wrapped.len() as u64;
        let (rv, length, data) = match (self.find(wrapping), self.find(key)) {
            (None, _) => (CkRv::WRAPPING_KEY_HANDLE_INVALID, 0, Vec::new()),
            (_, None) => (CkRv::KEY_HANDLE_INVALID, 0, Vec::new()),
            (_, Some(key)) if key.get(&0x162) == Some(&vec![0]) => {
                (CkRv::KEY_UNEXTRACTABLE, 0, Vec::new())
            }
            _ => match room {
                Room::NoLength => (CkRv::ARGUMENTS_BAD, 0, Vec::new()),
                Room::Null { .. } => (CkRv::OK, length, Vec::new()),
                Room::Buffer(room) if room < length => (CkRv::BUFFER_TOO_SMALL, length, Vec::new()),
                Room::Buffer(_) | Room::Unbounded => (CkRv::OK, length, wrapped),
            },
        };
        MechanismOutputResult {
            rv,
            length: Ulong(length),
            data: data.into(),
            ..Default::default()
        }
    }

    fn change(&self, object: ObjectHandle, template: &Option<Template>) -> CkRv {
        let Some(template) = template else {
            return CkRv::ARGUMENTS_BAD;
        };
        let mut state = self.state.lock().expect("no panic");
        match state.objects.get_mut(&object.0) {
            Some(object) => {
                object.extend(values(template));
                CkRv::OK
            }
            None => CkRv::OBJECT_HANDLE_INVALID,
        }
    }
}

fn values(template: &Template) -> Values {
    let value = |it: &Attribute| (it.attribute_type.0, it.bytes().to_vec());
    template.0.iter().map(value).collect()
}

/// Returns the question as it came, as the module of a version 3 daemon leaves it.
fn untouched(rv: CkRv, query: &Query) -> AttributesResult {
    let answer = |wanted: &Wanted| Answer {
        attribute_type: wanted.attribute_type,
        found: match &wanted.room {
            WantedRoom::Buffer {
                content: Some(content),
                ..
            } => Found::Bytes(content.clone()),
            _ => Found::Untouched,
        },
    };
    let answers = Answers(query.0.iter().map(answer).collect());
    AttributesResult { rv, answers }
}

fn object(made: Result<u64, CkRv>) -> ObjectResult {
    match made {
        Ok(object) => ObjectResult {
            rv: CkRv::OK,
            object: Some(ObjectHandle(object)),
        },
        Err(rv) => ObjectResult { rv, object: None },
    }
}

fn key(made: Result<u64, CkRv>) -> KeyResult {
    let ObjectResult { rv, object } = object(made);
    KeyResult {
        rv,
        object,
        ..Default::default()
    }
}

fn session_of(call: &Call<'_>) -> Option<SessionHandle> {
    match call {
        Call::C_GetAttributeValue(session, ..)
        | Call::C_SetAttributeValue(session, ..)
        | Call::C_CopyObject(session, ..) => Some(*session),
        _ => None,
    }
}

impl Cryptoki for Token {
    fn call(&self, call: Call<'_>) -> Reply {
        let function = call.function();
        self.state.lock().expect("no panic").calls.push(function);
        if session_of(&call).is_some_and(|session| session.0 != 1) {
            if let Call::C_GetAttributeValue(_, _, Some(query)) = call {
                let answer = untouched(CkRv::SESSION_HANDLE_INVALID, &query);
                return Reply::C_GetAttributeValue(answer);
            }
            return Reply::only(function, CkRv::SESSION_HANDLE_INVALID);
        }
        match call {
            Call::C_GetAttributeValue(_, object, query) => {
                Reply::C_GetAttributeValue(self.read(object, &query.unwrap_or_default()))
            }
            Call::C_SetAttributeValue(_, object, template) => {
                Reply::C_SetAttributeValue(self.change(object, &template))
            }
            Call::C_CreateObject(_, template) => {
                Reply::C_CreateObject(object(self.make(&template, None, false)))
            }
            Call::C_GenerateKey(_, _, template) => {
                Reply::C_GenerateKey(key(self.make(&template, Some(4), true)))
            }
            Call::C_GenerateKeyPair(_, _, public, private) => {
                let made = |template, class| {
                    let made = self.make(template, Some(class), true);
                    made.ok().map(ObjectHandle)
                };
                Reply::C_GenerateKeyPair(KeyPairResult {
                    rv: CkRv::OK,
                    public_key: made(&public, 2),
                    private_key: made(&private, 3),
                    ..Default::default()
                })
            }
            Call::C_CopyObject(_, source, template) => {
                Reply::C_CopyObject(match self.find(source) {
                    Some(mut copy) => {
                        copy.extend(values(&template.unwrap_or_default()));
                        object(Ok(self.add(copy).0))
                    }
                    None => object(Err(CkRv::OBJECT_HANDLE_INVALID)),
                })
            }
            Call::C_DeriveKey(_, _, _, template) => {
                Reply::C_DeriveKey(key(self.make(&template, None, false)))
            }
            Call::C_DecapsulateKey(_, _, _, template, _) => {
                Reply::C_DecapsulateKey(key(self.make(&template, None, false)))
            }
            Call::C_EncapsulateKey(_, _, _, template, _) => {
                let KeyResult {
                    rv,
                    object,
                    written,
                } = key(self.make(&template, None, false));
                Reply::C_EncapsulateKey(EncapsulateResult {
                    rv,
                    object,
                    written,
                    ..Default::default()
                })
            }
            Call::C_UnwrapKey(_, _, _, wrapped, template) => {
                self.state.lock().expect("no panic").unwrapped = wrapped.bytes().to_vec();
                Reply::C_UnwrapKey(key(self.make(&template, None, false)))
            }
            Call::C_UnwrapKeyAuthenticated(_, _, _, wrapped, template, _) => {
                self.state.lock().expect("no panic").unwrapped = wrapped.bytes().to_vec();
                Reply::C_UnwrapKeyAuthenticated(key(self.make(&template, None, false)))
            }
            Call::C_WrapKey(_, _, wrapping, key, room) => {
                Reply::C_WrapKey(self.wrap(wrapping, key, room))
            }
            Call::C_WrapKeyAuthenticated(_, _, wrapping, key, _, room) => {
                Reply::C_WrapKeyAuthenticated(self.wrap(wrapping, key, room))
            }
            Call::C_FindObjects(..) => {
                let state = self.state.lock().expect("no panic");
                let objects: Vec<_> = state.objects.keys().copied().map(ObjectHandle).collect();
                Reply::C_FindObjects(ObjectListResult {
                    rv: CkRv::OK,
                    count: Ulong(objects.len() as u64),
                    objects,
                })
            }
            other => Reply::only(other.function(), CkRv::OK),
        }
    }
}
