//! Simulates a token whose ciphertexts say what is in them, for attacks that need functions SoftHSM does not have.
//!
//! A secret is a number. Wrapping one secret with another yields both numbers, and only a key with the wrapping secret
//! can open it. Decapsulating an encapsulated key yields the same secret. The token checks the usages of keys and
//! refuses nothing else.

use std::collections::BTreeMap;
use std::sync::Mutex;

use xdr::{
    Answer, Answers, Attribute, AttributesResult, Call, CkRv, Cryptoki, EncapsulateResult, Found,
    Input, KeyResult, MechanismOutputResult, ObjectHandle, ObjectResult, OutputResult, Query,
    Reply, SessionHandle, Template, Ulong, Value, Wanted, WantedRoom,
};

use crate::chain::{attributes, number};

/// The attributes of a key, unless a template says otherwise. Usages are off, and switched on where a test needs them.
const DEFAULTS: &str = "CLASS=#4 KEY_TYPE=#31 ENCRYPT=F DECRYPT=F WRAP=F UNWRAP=F SIGN=F VERIFY=F DERIVE=F \
    SENSITIVE=F EXTRACTABLE=T PRIVATE=F";

#[derive(Clone)]
struct Object {
    secret: u64,
    attributes: BTreeMap<u64, Value>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<u64, Object>,
    secrets: u64,
    /// The key with which each session decrypts.
    decrypting: BTreeMap<u64, ObjectHandle>,
}

#[derive(Default)]
pub struct Symbolic(Mutex<State>);

impl Object {
    fn is(&self, name: &str) -> bool {
        let value = self.attributes.get(&number(name).0);
        matches!(value, Some(Value::Bytes(bytes)) if bytes.as_slice() == [1])
    }
}

impl State {
    fn secret(&mut self) -> u64 {
        self.secrets += 1;
        self.secrets
    }

    /// Adds an object with the attributes of its template, and of the template that the key which makes it asks for.
    fn add(
        &mut self,
        secret: u64,
        template: Option<Template>,
        maker: Option<(&Object, u64)>,
        is_local: bool,
    ) -> u64 {
        let mut object = Object {
            secret,
            attributes: BTreeMap::new(),
        };
        let of_maker = maker.and_then(|(maker, attribute)| maker.attributes.get(&attribute));
        let of_maker = match of_maker {
            Some(Value::Template(template)) => template.clone(),
            _ => Template::default(),
        };
        let said = template.unwrap_or_default();
        for template in [attributes(DEFAULTS), of_maker, said] {
            let values = template.0.iter();
            let values = values.map(|it| (it.attribute_type.0, it.value.clone()));
            object.attributes.extend(values);
        }
        for (name, value) in [
            ("LOCAL", is_local),
            ("ALWAYS_SENSITIVE", is_local && object.is("SENSITIVE")),
            ("NEVER_EXTRACTABLE", is_local && !object.is("EXTRACTABLE")),
        ] {
            let value = Value::Bytes(vec![u8::from(value)]);
            object.attributes.insert(number(name).0, value);
        }
        let handle = 100 + self.objects.len() as u64;
        self.objects.insert(handle, object);
        handle
    }

    fn get(&self, handle: ObjectHandle, usage: &str) -> Result<Object, CkRv> {
        let object = self.objects.get(&handle.0);
        let object = object.ok_or(CkRv::OBJECT_HANDLE_INVALID)?;
        match usage.is_empty() || object.is(usage) {
            true => Ok(object.clone()),
            false => Err(CkRv::KEY_FUNCTION_NOT_PERMITTED),
        }
    }

    fn found(value: Option<&Value>, room: &WantedRoom) -> (CkRv, Found) {
        match (value, room) {
            (None, _) => (CkRv::ATTRIBUTE_TYPE_INVALID, Found::Unavailable),
            (Some(Value::Template(template)), WantedRoom::Null { .. }) => {
                (CkRv::OK, Found::TemplateLength(template.0.len() as u64))
            }
            (Some(Value::Template(template)), WantedRoom::Template(Query(wanted))) => {
                let answer = |(wanted, has): (&Wanted, &Attribute)| Answer {
                    attribute_type: has.attribute_type,
                    found: State::found(Some(&has.value), &wanted.room).1,
                };
                let answers = wanted.iter().zip(&template.0).map(answer).collect();
                (CkRv::OK, Found::Template(Answers(answers)))
            }
            (Some(Value::Bytes(bytes)), WantedRoom::Null { .. }) => {
                (CkRv::OK, Found::Length(bytes.len() as u64))
            }
            (Some(Value::Bytes(bytes)), WantedRoom::Buffer { room, .. })
                if *room >= bytes.len() as u64 =>
            {
                (CkRv::OK, Found::Bytes(bytes.clone()))
            }
            _ => (CkRv::BUFFER_TOO_SMALL, Found::Unavailable),
        }
    }

    fn read(&self, object: ObjectHandle, query: &Query) -> AttributesResult {
        let Ok(object) = self.get(object, "") else {
            let rv = CkRv::OBJECT_HANDLE_INVALID;
            return AttributesResult {
                rv,
                ..Default::default()
            };
        };
        let mut rv = CkRv::OK;
        let answers = query.0.iter().map(|wanted| {
            let value = object.attributes.get(&wanted.attribute_type.0);
            let (told, found) = State::found(value, &wanted.room);
            rv = if told.is_ok() { rv } else { told };
            Answer {
                attribute_type: wanted.attribute_type,
                found,
            }
        });
        let answers = Answers(answers.collect());
        AttributesResult { rv, answers }
    }

    fn wrap(&self, wrapping: ObjectHandle, key: ObjectHandle) -> Result<Vec<u8>, CkRv> {
        let (wrapping, key) = (self.get(wrapping, "WRAP")?, self.get(key, "EXTRACTABLE")?);
        Ok([wrapping.secret, key.secret].map(u64::to_ne_bytes).concat())
    }

    /// Returns the secret in a blob that was wrapped with this key.
    fn open(&self, key: &Object, blob: Input<'_>) -> Result<u64, CkRv> {
        let words: Vec<u64> = blob
            .bytes()
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes")))
            .collect();
        match words[..] {
            [with, secret] if with == key.secret => Ok(secret),
            _ => Err(CkRv::ENCRYPTED_DATA_INVALID),
        }
    }

    fn unwrap(
        &mut self,
        key: ObjectHandle,
        blob: Input<'_>,
        template: Option<Template>,
    ) -> Result<u64, CkRv> {
        let key = self.get(key, "UNWRAP")?;
        let secret = self.open(&key, blob)?;
        Ok(self.add(secret, template, Some((&key, 0x4000_0212)), false))
    }

    fn decrypt(&self, session: SessionHandle, blob: Input<'_>) -> Result<Vec<u8>, CkRv> {
        let key = self.decrypting.get(&session.0);
        let key = self.get(*key.ok_or(CkRv::OPERATION_NOT_INITIALIZED)?, "")?;
        let secret = self.open(&key, blob)?;
        Ok(secret.to_ne_bytes().to_vec())
    }
}

fn output(made: Result<Vec<u8>, CkRv>) -> MechanismOutputResult {
    let (rv, data) = made.map_or_else(|rv| (rv, Vec::new()), |data| (CkRv::OK, data));
    MechanismOutputResult {
        rv,
        length: Ulong(data.len() as u64),
        data: data.into(),
        ..Default::default()
    }
}

fn key(made: Result<u64, CkRv>) -> KeyResult {
    KeyResult {
        rv: made.err().unwrap_or(CkRv::OK),
        object: made.ok().map(ObjectHandle),
        ..Default::default()
    }
}

impl Symbolic {
    /// Adds an existing key with these attributes.
    pub fn put(&self, text: &str) -> ObjectHandle {
        let mut state = self.0.lock().expect("no panic");
        let secret = state.secret();
        ObjectHandle(state.add(secret, Some(attributes(text)), None, true))
    }

    /// Gives a key an attribute without a call through the filter.
    pub fn set(&self, key: ObjectHandle, attribute: u64, value: Value) {
        let mut state = self.0.lock().expect("no panic");
        let key = state.objects.get_mut(&key.0).expect("it exists");
        key.attributes.insert(attribute, value);
    }

    /// Whether these bytes are the secret of the key.
    pub fn is_secret_of(&self, key: ObjectHandle, bytes: &[u8]) -> bool {
        let state = self.0.lock().expect("no panic");
        state.objects[&key.0].secret.to_ne_bytes() == bytes
    }
}

impl Cryptoki for &Symbolic {
    fn call(&self, call: Call<'_>) -> Reply {
        let mut state = self.0.lock().expect("no panic");
        match call {
            Call::C_GetAttributeValue(_, object, query) => {
                Reply::C_GetAttributeValue(state.read(object, &query.unwrap_or_default()))
            }
            Call::C_GenerateKey(_, _, template) => {
                let secret = state.secret();
                Reply::C_GenerateKey(key(Ok(state.add(secret, template, None, true))))
            }
            Call::C_CreateObject(_, template) => {
                let secret = state.secret();
                let object = Some(ObjectHandle(state.add(secret, template, None, false)));
                let rv = CkRv::OK;
                Reply::C_CreateObject(ObjectResult { rv, object })
            }
            Call::C_EncapsulateKey(_, _, with, template, _) => {
                let Ok(with) = state.get(with, "") else {
                    return Reply::only(xdr::Function::C_EncapsulateKey, CkRv::KEY_HANDLE_INVALID);
                };
                let secret = state.secret();
                let object = state.add(secret, template, Some((&with, 0x62a)), false);
                let data = [with.secret, secret].map(u64::to_ne_bytes).concat();
                Reply::C_EncapsulateKey(EncapsulateResult {
                    length: Ulong(data.len() as u64),
                    data: data.into(),
                    object: Some(ObjectHandle(object)),
                    ..Default::default()
                })
            }
            Call::C_DecapsulateKey(_, _, with, template, ciphertext) => {
                let made = state.get(with, "").and_then(|with| {
                    let secret = state.open(&with, ciphertext)?;
                    Ok(state.add(secret, template, Some((&with, 0x62b)), false))
                });
                Reply::C_DecapsulateKey(key(made))
            }
            Call::C_WrapKey(_, _, wrapping, key, _) => {
                Reply::C_WrapKey(output(state.wrap(wrapping, key)))
            }
            Call::C_WrapKeyAuthenticated(_, _, wrapping, key, _, _) => {
                Reply::C_WrapKeyAuthenticated(output(state.wrap(wrapping, key)))
            }
            Call::C_UnwrapKey(_, _, with, blob, template) => {
                Reply::C_UnwrapKey(key(state.unwrap(with, blob, template)))
            }
            Call::C_UnwrapKeyAuthenticated(_, _, with, blob, template, _) => {
                Reply::C_UnwrapKeyAuthenticated(key(state.unwrap(with, blob, template)))
            }
            Call::C_DecryptInit(session, _, with)
            | Call::C_MessageDecryptInit(session, _, with) => {
                let rv = match state.get(with, "DECRYPT") {
                    Ok(_) => {
                        state.decrypting.insert(session.0, with);
                        CkRv::OK
                    }
                    Err(rv) => rv,
                };
                Reply::only(call.function(), rv)
            }
            Call::C_Decrypt(session, blob, _) => {
                let MechanismOutputResult {
                    rv, length, data, ..
                } = output(state.decrypt(session, blob));
                Reply::C_Decrypt(OutputResult { rv, length, data })
            }
            Call::C_DecryptMessage(session, _, _, blob, _) => {
                Reply::C_DecryptMessage(output(state.decrypt(session, blob)))
            }
            other => Reply::only(other.function(), CkRv::OK),
        }
    }
}
