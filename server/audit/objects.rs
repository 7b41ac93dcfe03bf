//! Finds the objects that a call works on: those that it names, or those with which its session's operation began.
//!
//! Labels, identifiers and classes are read from the module once for each handle. They are remembered only for a
//! moment, because other clients may change them. No other attribute is read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use xdr::facts::{Argument, Effect, Family, Step};
use xdr::{
    AttributeType, Call, CkRv, Cryptoki, Function, Mechanism, ObjectHandle, Query, Reply, Room,
    SessionHandle, Template, Wanted,
};

use super::call_record::{self, LONGEST_NAME, MOST_ATTRIBUTES, MOST_OBJECTS};

/// An object as it is remembered.
type Object = call_record::Object<Vec<u8>>;

/// CKA_CLASS.
const CLASS: AttributeType = AttributeType(0);
/// CKA_LABEL.
const LABEL: AttributeType = AttributeType(0x3);
/// CKA_ID.
const ID: AttributeType = AttributeType(0x102);

/// How long the attributes of an object are remembered.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Upper bound on the objects, and on the sessions, that are remembered. If there would be more, all are forgotten.
const MOST: usize = 1024;

/// What is known about a client's objects and operations.
#[derive(Default)]
pub(super) struct Known(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    objects: HashMap<ObjectHandle, (Instant, Arc<Object>)>,
    operations: HashMap<SessionHandle, Vec<Operation>>,
}

/// An operation that a session has begun.
#[derive(Clone)]
struct Operation {
    family: Family,
    mechanism: Option<u64>,
    objects: Vec<Arc<Object>>,
}

/// What [`Known::note`] needs of a call after it has returned.
pub(super) struct Outline {
    function: Function,
    session: Option<SessionHandle>,
    room: Option<Room>,
    handles: Vec<ObjectHandle>,
}

impl Known {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes the record of a call before it is executed. Objects that are not remembered are read from the module.
    /// Before that, `before_reading` gets the record so far, because the module may crash while it is read.
    pub(super) fn describe(
        &self,
        mut record: call_record::Call,
        call: &Call<'_>,
        module: Option<&dyn Cryptoki>,
        mut before_reading: impl FnMut(&call_record::Call),
    ) -> (call_record::Call, Outline) {
        let function = call.function();
        let facts = function.facts();
        record.function = function.number();
        let mut session = None;
        let mut handles = Vec::new();
        for argument in call.arguments() {
            match argument {
                Argument::Session(handle) => session = Some(handle),
                Argument::Mechanism(mechanism) => {
                    record.mechanism = Some(mechanism.mechanism_type().0);
                }
                Argument::MechanismType(mechanism) => record.mechanism = Some(mechanism.0),
                Argument::Object(object, _) | Argument::Key(object, _) => handles.push(object),
                Argument::Values(template) | Argument::Selection(template) => {
                    record.attributes.extend(types(template));
                    record.objects.extend(of_template(template).map(Arc::new));
                }
                Argument::Query(query) => {
                    let types = query.0.iter().map(|wanted| wanted.attribute_type.0);
                    record.attributes.extend(types);
                }
                Argument::User(_) => {}
            }
        }
        let in_parameter = call.mechanism().map(Mechanism::named_keys);
        handles.extend(in_parameter.and_then(Result::ok).into_iter().flatten());
        handles.retain(|handle| handle.0 != 0);
        handles.truncate(MOST_OBJECTS);
        record.attributes.truncate(MOST_ATTRIBUTES);
        record.session = session.map(|session| session.0);
        for handle in &handles {
            let object = self.remembered(*handle).unwrap_or_else(|| {
                before_reading(&record);
                self.object(*handle, session, module)
            });
            record.objects.push(object);
        }
        let continues = matches!(facts.step, Some(Step::Update | Step::End));
        if let (true, Some(session)) = (continues, session) {
            let tables = self.tables();
            let begun = tables.operations.get(&session).into_iter().flatten();
            for operation in begun.filter(|begun| facts.is_of(begun.family)) {
                record.mechanism = record.mechanism.or(operation.mechanism);
                record.objects.extend(operation.objects.iter().cloned());
            }
        }
        record.objects.truncate(MOST_OBJECTS);
        let outline = Outline {
            function,
            session,
            room: call.room(),
            handles,
        };
        (record, outline)
    }

    fn remembered(&self, handle: ObjectHandle) -> Option<Arc<Object>> {
        let tables = self.tables();
        let (read, object) = tables.objects.get(&handle)?;
        (read.elapsed() < REMEMBERED).then(|| object.clone())
    }

    fn object(
        &self,
        handle: ObjectHandle,
        session: Option<SessionHandle>,
        module: Option<&dyn Cryptoki>,
    ) -> Arc<Object> {
        let mut object = Object {
            handle: Some(handle.0),
            ..Object::default()
        };
        let (Some(module), Some(session)) = (module, session) else {
            return Arc::new(object);
        };
        let is_read = read(&mut object, module, session, handle);
        let object = Arc::new(object);
        if is_read {
            let mut tables = self.tables();
            if tables.objects.len() >= MOST {
                tables.objects.clear();
            }
            tables
                .objects
                .insert(handle, (Instant::now(), object.clone()));
        }
        object
    }

    /// Updates what is known after a call: the operations that it began or ended, and the objects that it changed.
    pub(super) fn note(&self, outline: &Outline, record: &call_record::Call, rv: CkRv) {
        let Outline {
            function,
            session,
            room,
            handles,
        } = outline;
        let facts = function.facts();
        let forgets_all = matches!(
            function,
            Function::C_CloseSession
                | Function::C_CloseAllSessions
                | Function::C_Login
                | Function::C_LoginUser
                | Function::C_Logout
                | Function::C_InitToken
                | Function::C_Initialize
                | Function::C_Finalize
        );
        if forgets_all {
            let mut tables = self.tables();
            tables.objects.clear();
            match (function, session) {
                (Function::C_CloseSession, Some(session)) => {
                    tables.operations.remove(session);
                }
                (Function::C_Login | Function::C_LoginUser, _) => {}
                _ => tables.operations.clear(),
            }
        } else if facts.has(Effect::Writes) && !handles.is_empty() {
            let mut tables = self.tables();
            for handle in handles {
                tables.objects.remove(handle);
            }
        }
        let Some(session) = session else { return };
        match facts.step {
            Some(Step::Init) if rv.is_ok() => {
                let mut tables = self.tables();
                if tables.operations.len() >= MOST && !tables.operations.contains_key(session) {
                    tables.operations.clear();
                }
                let operations = tables.operations.entry(*session).or_default();
                operations.retain(|begun| !facts.is_of(begun.family));
                operations.extend(facts.families.iter().map(|family| Operation {
                    family: *family,
                    mechanism: record.mechanism,
                    objects: record.objects.clone(),
                }));
            }
            Some(Step::End) => {
                let asks_for_size = rv.is_ok() && matches!(room, Some(Room::Null { .. }));
                if !asks_for_size && rv != CkRv::BUFFER_TOO_SMALL {
                    if let Some(operations) = self.tables().operations.get_mut(session) {
                        operations.retain(|begun| !facts.is_of(begun.family));
                    }
                }
            }
            _ => {}
        }
    }
}

fn types(template: &Template) -> impl Iterator<Item = u64> {
    template
        .0
        .iter()
        .map(|attribute| attribute.attribute_type.0)
}

/// Returns the label, identifier and class in a template, if it has any of them.
fn of_template(template: &Template) -> Option<Object> {
    let mut object = Object::default();
    for attribute in &template.0 {
        set(&mut object, attribute.attribute_type, attribute.bytes());
    }
    (object != Object::default()).then_some(object)
}

fn set(object: &mut Object, kind: AttributeType, value: &[u8]) {
    let name = (value.len() <= LONGEST_NAME && !value.is_empty()).then(|| value.to_vec());
    match kind {
        LABEL => object.label = name,
        ID => object.id = name,
        CLASS => object.class = number(value),
        _ => {}
    }
}

/// Reads a CK_ULONG in the host's byte order, of 8 or 4 bytes.
fn number(value: &[u8]) -> Option<u64> {
    if let Ok(bytes) = value.try_into() {
        return Some(u64::from_ne_bytes(bytes));
    }
    let bytes = value.try_into().ok()?;
    Some(u64::from(u32::from_ne_bytes(bytes)))
}

/// Reads label, identifier and class from the module. Returns whether it answered.
fn read(
    object: &mut Object,
    module: &dyn Cryptoki,
    session: SessionHandle,
    handle: ObjectHandle,
) -> bool {
    let wanted = [(LABEL, LONGEST_NAME), (ID, LONGEST_NAME), (CLASS, 8)];
    let wanted = wanted.map(|(kind, room)| Wanted::value(kind, room));
    let query = Some(Query(wanted.to_vec()));
    let Reply::C_GetAttributeValue(told) =
        module.call(Call::C_GetAttributeValue(session, handle, query))
    else {
        return false;
    };
    // An attribute that the object does not have, or that is too long, is missing; the others are there.
    let is_answer = [
        CkRv::OK,
        CkRv::ATTRIBUTE_TYPE_INVALID,
        CkRv::ATTRIBUTE_SENSITIVE,
        CkRv::BUFFER_TOO_SMALL,
    ]
    .contains(&told.rv);
    if is_answer {
        for answer in &told.answers.0 {
            set(
                object,
                answer.attribute_type,
                answer.bytes().unwrap_or_default(),
            );
        }
    }
    is_answer
}
