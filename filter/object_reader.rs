//! Reads attributes of the module's objects, for one call of a client.
//!
//! Checks and actions ask an [`ObjectReader`]; nothing else in the filter calls C_GetAttributeValue. It is made for a
//! call and dropped afterwards. No attribute is remembered from one call to the next, so a change takes effect at once.
//! The callers decide what an attribute means for the call.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::c_ulong;

use xdr::{
    Answer, Answers, AttributeType, AttributesResult, Call, CkRv, Cryptoki, Found, ObjectHandle,
    Query, Reply, SessionHandle, Wanted, WantedRoom,
};

use crate::attributes::{Attributes, Boolean, CLASS, is_same};

/// Room in bytes for a label or identifier at the first try and at the second. An object with a longer one is treated
/// as unreadable.
const ROOM: [usize; 2] = [256, 1 << 16];

/// Fills buffers before a request, to distinguish what a module wrote from what it left unchanged.
const UNWRITTEN: u8 = 0xa5;

/// Upper bound on the length of a boolean or class in bytes, for modules that use other lengths than the standard's.
const LONGEST: usize = 64;

/// Upper bound on the attributes in an array of attributes.
const MOST_IN_TEMPLATE: usize = 256;

/// Reads objects of a module and remembers what it has read.
pub struct ObjectReader<'a> {
    backend: &'a dyn Cryptoki,
    known: RefCell<VecDeque<Known>>,
}

/// The answer for one object.
struct Known {
    session: SessionHandle,
    object: ObjectHandle,
    attributes: Result<Attributes, CkRv>,
}

impl<'a> ObjectReader<'a> {
    /// How many objects are remembered. No call names more. Of the objects that C_FindObjects goes through, the last
    /// ones stay.
    const REMEMBERED: usize = 2;

    /// Reads from this module.
    pub fn new(backend: &'a dyn Cryptoki) -> ObjectReader<'a> {
        ObjectReader {
            backend,
            known: RefCell::default(),
        }
    }

    /// The class and the booleans of an object. The module is asked once, however many callers ask for them.
    ///
    /// An attribute that the object does not have is absent. A module that stops at the first such attribute, or uses
    /// another length than the standard's, is asked again for the attributes that it did not answer.
    pub fn attributes(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
    ) -> Result<Attributes, CkRv> {
        let is_it = |known: &&Known| known.session == session && known.object == object;
        if let Some(known) = self.known.borrow().iter().find(is_it) {
            return known.attributes;
        }
        let attributes = self.read_attributes(session, object);
        let mut known = self.known.borrow_mut();
        if known.len() == ObjectReader::REMEMBERED {
            known.pop_front();
        }
        known.push_back(Known {
            session,
            object,
            attributes,
        });
        attributes
    }

    /// The value of one attribute; `None` if the object does not have it, or if it needs more than `room` bytes.
    pub fn value(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        attribute_type: AttributeType,
        room: usize,
    ) -> Result<Option<Vec<u8>>, CkRv> {
        let question = Query(vec![Wanted::value(attribute_type, room)]);
        let (rv, answers) = self.ask(session, object, question)?;
        match rv {
            CkRv::OK => Ok(answers
                .0
                .first()
                .and_then(Answer::bytes)
                .map(<[u8]>::to_vec)),
            CkRv::ATTRIBUTE_TYPE_INVALID | CkRv::BUFFER_TOO_SMALL => Ok(None),
            rv => Err(rv),
        }
    }

    /// The class and the booleans in an attribute that is an array of attributes, such as CKA_UNWRAP_TEMPLATE;
    /// `None` if the object does not have it, or if it is empty. Calls the module once, and twice more for
    /// an array that is not empty.
    pub(crate) fn template(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        attribute_type: AttributeType,
    ) -> Result<Option<Attributes>, CkRv> {
        let ask = |room| {
            let wanted = Wanted {
                attribute_type,
                room,
            };
            let (rv, mut answers) = self.ask(session, object, Query(vec![wanted]))?;
            match (rv, answers.0.pop()) {
                (CkRv::OK, Some(answer)) => Ok(Some(answer)),
                (CkRv::ATTRIBUTE_TYPE_INVALID, _) => Ok(None),
                (CkRv::OK, None) => Err(CkRv::GENERAL_ERROR),
                (rv, _) => Err(rv),
            }
        };
        let Some(length) = ask(WantedRoom::Null { length: 0 })? else {
            return Ok(None);
        };
        let count = match length.found {
            Found::TemplateLength(count) => usize::try_from(count).unwrap_or(usize::MAX),
            Found::Unavailable => 0,
            Found::Untouched | Found::Length(_) | Found::Bytes(_) | Found::Template(_) => {
                return Err(CkRv::GENERAL_ERROR);
            }
        };
        match count {
            0 => return Ok(None),
            1..=MOST_IN_TEMPLATE => {}
            _ => return Err(CkRv::GENERAL_ERROR),
        }
        let inside = |wanted: Vec<Wanted>| {
            let answer = ask(WantedRoom::Template(Query(wanted)))?;
            match answer.as_ref().map(|answer| &answer.found) {
                Some(Found::Template(answers)) => Ok(answers.clone()),
                _ => Err(CkRv::GENERAL_ERROR),
            }
        };
        let types = inside(vec![Wanted::length(AttributeType(0)); count])?;
        let asked: Option<Vec<Wanted>> = types.0.iter().map(wanted_as_told).collect();
        let values = inside(asked.ok_or(CkRv::GENERAL_ERROR)?)?;
        let mut found = Attributes::default();
        for (kind, answer) in types.0.iter().zip(&values.0) {
            let is_same = kind.attribute_type == answer.attribute_type;
            if !is_same || types.0.len() != values.0.len() {
                return Err(CkRv::GENERAL_ERROR);
            }
            if matters(answer.attribute_type) {
                let value = written(answer).ok_or(CkRv::GENERAL_ERROR)?;
                found.add(answer.attribute_type, value)?;
            }
        }
        Ok(Some(found))
    }

    /// The values of these attributes, all of them and in this order, such as label and identifier.
    /// Calls the module once, and once more if a value is long.
    pub(crate) fn values(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        types: &[AttributeType],
    ) -> Result<Vec<Vec<u8>>, CkRv> {
        let mut told = CkRv::GENERAL_ERROR;
        for room in ROOM {
            let with_room = |kind: &AttributeType| Wanted::value(*kind, room);
            let question = Query(types.iter().map(with_room).collect());
            let AttributesResult { rv, answers } = self.query(session, object, question);
            if rv.is_ok() {
                let answered = answers.0.iter().map(|answer| answer.attribute_type);
                let is_complete = answered.eq(types.iter().copied());
                // A module may return CKR_OK and still mark an attribute as unavailable.
                let values = answers.0.iter().map(|it| it.bytes().map(<[u8]>::to_vec));
                let values = values.collect::<Option<_>>().filter(|_| is_complete);
                return values.ok_or(CkRv::ATTRIBUTE_TYPE_INVALID);
            }
            told = rv;
            if told != CkRv::BUFFER_TOO_SMALL {
                break;
            }
        }
        Err(told)
    }

    /// Passes a question of the client to the module, and returns its answer.
    pub(crate) fn query(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        question: Query,
    ) -> AttributesResult {
        let call = Call::C_GetAttributeValue(session, object, Some(question));
        if let Reply::C_GetAttributeValue(result) = self.backend.call(call) {
            result
        } else {
            AttributesResult {
                rv: CkRv::GENERAL_ERROR,
                answers: Answers::default(),
            }
        }
    }

    /// Asks the module, and checks that the answer is about the attributes that were asked for.
    fn ask(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        question: Query,
    ) -> Result<(CkRv, Answers), CkRv> {
        let asked: Vec<_> = question.0.iter().map(|it| it.attribute_type).collect();
        let AttributesResult { rv, answers } = self.query(session, object, question);
        let is_complete = answers.0.iter().map(|it| it.attribute_type).eq(asked);
        match rv {
            CkRv::OK | CkRv::ATTRIBUTE_TYPE_INVALID | CkRv::BUFFER_TOO_SMALL if !is_complete => {
                Err(CkRv::GENERAL_ERROR)
            }
            rv => Ok((rv, answers)),
        }
    }

    fn read_attributes(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
    ) -> Result<Attributes, CkRv> {
        let types = Boolean::ALL.iter().map(|boolean| boolean.attribute_type());
        let questions = std::iter::once(CLASS).chain(types).map(question);
        let (rv, answers) = self.ask(session, object, Query(questions.collect()))?;
        if !matches!(
            rv,
            CkRv::OK | CkRv::ATTRIBUTE_TYPE_INVALID | CkRv::BUFFER_TOO_SMALL
        ) {
            return Err(rv);
        }
        let mut found = Attributes::default();
        // Every object has a class. If the module did not return it, its other answers are not trusted either.
        let all_open = answers
            .0
            .first()
            .is_none_or(|class| written(class).is_none());
        for answer in &answers.0 {
            match Said::of(rv, answer) {
                Said::Value(value) if !all_open => found.add(answer.attribute_type, value)?,
                Said::Absent if !all_open => {}
                Said::Value(_) | Said::Absent | Said::Open => {
                    if let Some(value) = self.ask_alone(session, object, answer.attribute_type)? {
                        found.add(answer.attribute_type, &value)?;
                    }
                }
            }
        }
        Ok(found)
    }

    /// Asks for one attribute by itself; `None` if the object does not have it.
    fn ask_alone(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        attribute_type: AttributeType,
    ) -> Result<Option<Vec<u8>>, CkRv> {
        let alone = |question: Wanted| {
            let (rv, mut answers) = self.ask(session, object, Query(vec![question]))?;
            match (rv, answers.0.pop()) {
                (CkRv::OK, Some(answer)) if answer.found != Found::Untouched => Ok(Some(answer)),
                (CkRv::ATTRIBUTE_TYPE_INVALID, _) => Ok(None),
                (CkRv::OK, _) => Err(CkRv::GENERAL_ERROR),
                (rv, _) => Err(rv),
            }
        };
        let value = |question: Wanted| {
            let answer = alone(question)?;
            Ok(answer.as_ref().and_then(written).map(<[u8]>::to_vec))
        };
        match value(question(attribute_type)) {
            Err(CkRv::BUFFER_TOO_SMALL) => {}
            value => return value,
        }
        let length = match alone(Wanted::length(attribute_type))? {
            Some(answer) => length(&answer),
            None => None,
        };
        match length {
            Some(length) if length > LONGEST => Err(CkRv::GENERAL_ERROR),
            Some(length) => value(with_room(attribute_type, length)),
            None => Ok(None),
        }
    }
}

/// Asks for an attribute, with room for a value of the standard's length.
fn question(attribute_type: AttributeType) -> Wanted {
    let room = if attribute_type == CLASS {
        size_of::<c_ulong>()
    } else {
        1
    };
    with_room(attribute_type, room)
}

/// Asks for an attribute, with a buffer of this size whose content shows whether the module wrote into it.
fn with_room(attribute_type: AttributeType, room: usize) -> Wanted {
    Wanted {
        attribute_type,
        room: WantedRoom::Buffer {
            room: room as u64,
            content: Some(vec![UNWRITTEN; room]),
        },
    }
}

/// Whether [`Attributes`] has a place for this attribute.
fn matters(attribute_type: AttributeType) -> bool {
    is_same(attribute_type, CLASS) || Boolean::of(attribute_type).is_some()
}

/// Asks for an attribute inside an array, after the module has returned its type and length. `None` if it is too long.
fn wanted_as_told(answer: &Answer) -> Option<Wanted> {
    let attribute_type = answer.attribute_type;
    let length = match &answer.found {
        Found::Length(length) => usize::try_from(*length).ok()?,
        // An array inside an array is not read.
        Found::TemplateLength(_) => return Some(Wanted::length(attribute_type)),
        Found::Untouched | Found::Unavailable | Found::Bytes(_) | Found::Template(_) => {
            return None;
        }
    };
    (length <= ROOM[1]).then(|| Wanted::value(attribute_type, length))
}

/// Returns the value, if there is one that is not empty.
fn written(answer: &Answer) -> Option<&[u8]> {
    answer.bytes().filter(|value| !value.is_empty())
}

/// Returns the length of a value from the answer to a question about it.
fn length(answer: &Answer) -> Option<usize> {
    let length = if let Found::Length(length) = answer.found {
        usize::try_from(length).unwrap_or(usize::MAX)
    } else {
        answer.bytes()?.len()
    };
    Some(length).filter(|length| *length > 0)
}

/// The module's answer about one of several attributes.
enum Said<'a> {
    Value(&'a [u8]),
    Absent,
    /// The module did not answer for this attribute.
    Open,
}

impl Said<'_> {
    fn of(rv: CkRv, answer: &Answer) -> Said<'_> {
        match written(answer) {
            // The room as it was before the call.
            _ if answer.found == Found::Untouched => Said::Open,
            None if rv == CkRv::ATTRIBUTE_TYPE_INVALID => Said::Absent,
            Some(value) if value.iter().any(|byte| *byte != UNWRITTEN) => Said::Value(value),
            Some(_) | None => Said::Open,
        }
    }
}
