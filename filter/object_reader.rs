//! Reads attributes of the module's objects, for one call of a client.
//!
//! Checks and actions ask an [`ObjectReader`], and it alone calls C_GetAttributeValue. It is made for
//! a call and dropped with it: no attribute is remembered from one call to the next, so that a change
//! counts at once. What an attribute means for the call is decided by those who ask.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::c_ulong;

use xdr::{
    Attribute, AttributeType, Call, CkRv, Cryptoki, ObjectHandle, Reply, SessionHandle, Template,
    TemplateResult, Ulong,
};

use crate::attributes::{Attributes, Boolean, CLASS};

/// Room for a label or identifier at the first try and at the second. An object with a longer one is
/// treated as unreadable.
const ROOM: [usize; 2] = [256, 1 << 16];

/// Fills the room of a question, to tell what a module wrote from what it left alone.
const UNWRITTEN: u8 = 0xa5;

/// Upper bound on the length of a boolean or class, for modules that use other lengths than the
/// standard's.
const LONGEST: usize = 64;

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
    /// How many objects are remembered. No call names more; of those that C_FindObjects goes through,
    /// the last ones stay.
    const REMEMBERED: usize = 2;

    /// Reads from this module.
    pub fn new(backend: &'a dyn Cryptoki) -> ObjectReader<'a> {
        ObjectReader {
            backend,
            known: RefCell::default(),
        }
    }

    /// The class and the booleans of an object. The module is called once, whoever asks.
    ///
    /// An attribute that the object does not have is absent. A module that stops at the first such
    /// attribute, or uses another length than the standard's, is asked again for what it left open.
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

    /// The value of one attribute; `None` if the object does not have it, or if it needs more than
    /// `room` bytes.
    pub fn value(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        attribute_type: AttributeType,
        room: usize,
    ) -> Result<Option<Vec<u8>>, CkRv> {
        let question = Template(vec![Attribute::new(attribute_type, vec![0; room])]);
        let (rv, mut answers) = self.ask(session, object, question)?;
        match rv {
            CkRv::OK => Ok(answers
                .0
                .pop()
                .map(|mut answer| std::mem::take(&mut answer.value))),
            CkRv::ATTRIBUTE_TYPE_INVALID | CkRv::BUFFER_TOO_SMALL => Ok(None),
            rv => Err(rv),
        }
    }

    /// The values of these attributes, all of them and in this order, such as label and identifier.
    /// Calls the module once, and once more if a value is long.
    pub(crate) fn values(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        types: &[AttributeType],
    ) -> Result<Template, CkRv> {
        let mut told = CkRv::GENERAL_ERROR;
        for room in ROOM {
            let with_room = |kind: &AttributeType| Attribute::new(*kind, vec![0; room]);
            let question = Template(types.iter().map(with_room).collect());
            let TemplateResult { rv, template } = self.query(session, object, question);
            if rv.is_ok() {
                let answered = template.0.iter().map(|answer| answer.attribute_type);
                // A module may answer CKR_OK and still say that an attribute is not available.
                let is_whole = |answer: &Attribute| {
                    u64::try_from(answer.value.len()).is_ok_and(|it| it == answer.value_len.0)
                };
                let is_complete =
                    answered.eq(types.iter().copied()) && template.0.iter().all(is_whole);
                return is_complete
                    .then_some(template)
                    .ok_or(CkRv::ATTRIBUTE_TYPE_INVALID);
            }
            told = rv;
            if told != CkRv::BUFFER_TOO_SMALL {
                break;
            }
        }
        Err(told)
    }

    /// The module's own answer to a question of the client.
    pub(crate) fn query(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        question: Template,
    ) -> TemplateResult {
        let call = Call::C_GetAttributeValue(session, object, question);
        if let Reply::C_GetAttributeValue(result) = self.backend.call(call) {
            result
        } else {
            TemplateResult {
                rv: CkRv::GENERAL_ERROR,
                template: Template::default(),
            }
        }
    }

    /// Asks, and checks that the answer is about what was asked.
    fn ask(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        question: Template,
    ) -> Result<(CkRv, Template), CkRv> {
        let asked: Vec<_> = question.0.iter().map(|it| it.attribute_type).collect();
        let TemplateResult { rv, template } = self.query(session, object, question);
        let is_complete = template.0.iter().map(|it| it.attribute_type).eq(asked);
        match rv {
            CkRv::OK | CkRv::ATTRIBUTE_TYPE_INVALID | CkRv::BUFFER_TOO_SMALL if !is_complete => {
                Err(CkRv::GENERAL_ERROR)
            }
            rv => Ok((rv, template)),
        }
    }

    fn read_attributes(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
    ) -> Result<Attributes, CkRv> {
        let types = Boolean::ALL.iter().map(|boolean| boolean.attribute_type());
        let questions = std::iter::once(CLASS).chain(types).map(question);
        let (rv, answers) = self.ask(session, object, Template(questions.collect()))?;
        if !matches!(
            rv,
            CkRv::OK | CkRv::ATTRIBUTE_TYPE_INVALID | CkRv::BUFFER_TOO_SMALL
        ) {
            return Err(rv);
        }
        let mut found = Attributes::default();
        // Every object has a class: without it, this module says nothing of any attribute.
        let all_open = answers.0.first().is_none_or(|class| class.value.is_empty());
        for answer in &answers.0 {
            match Answer::of(rv, answer) {
                Answer::Value(value) if !all_open => found.add(answer.attribute_type, value)?,
                Answer::Absent if !all_open => {}
                Answer::Value(_) | Answer::Absent | Answer::Open => {
                    if let Some(answer) = self.ask_alone(session, object, answer.attribute_type)? {
                        found.add(answer.attribute_type, &answer.value)?;
                    }
                }
            }
        }
        Ok(found)
    }

    /// One attribute by itself; `None` if the object does not have it.
    fn ask_alone(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        attribute_type: AttributeType,
    ) -> Result<Option<Attribute>, CkRv> {
        let alone = |question: Attribute| {
            let (rv, mut answers) = self.ask(session, object, Template(vec![question]))?;
            match (rv, answers.0.pop()) {
                (CkRv::OK, Some(answer)) => Ok(Some(answer).filter(|a| !a.value.is_empty())),
                (CkRv::ATTRIBUTE_TYPE_INVALID, _) => Ok(None),
                (CkRv::OK, None) => Err(CkRv::GENERAL_ERROR),
                (rv, _) => Err(rv),
            }
        };
        match alone(question(attribute_type)) {
            Err(CkRv::BUFFER_TOO_SMALL) => {}
            answer => return answer,
        }
        // The question for the length.
        match alone(Attribute::new(attribute_type, Vec::new()))? {
            Some(answer) if answer.value.len() > LONGEST => Err(CkRv::GENERAL_ERROR),
            Some(answer) => alone(answer),
            None => Ok(None),
        }
    }
}

/// A question with room for a value of the standard's length.
fn question(attribute_type: AttributeType) -> Attribute {
    let room = if attribute_type == CLASS {
        size_of::<c_ulong>()
    } else {
        1
    };
    Attribute::new(attribute_type, vec![UNWRITTEN; room])
}

/// What a module said of one attribute of several.
enum Answer<'a> {
    Value(&'a [u8]),
    Absent,
    /// The module did not answer for this attribute.
    Open,
}

impl Answer<'_> {
    fn of(rv: CkRv, answer: &Attribute) -> Answer<'_> {
        let is_unavailable = answer.value_len == Ulong::UNAVAILABLE || answer.value.is_empty();
        match rv {
            CkRv::ATTRIBUTE_TYPE_INVALID if is_unavailable => Answer::Absent,
            _ if is_unavailable || answer.value.iter().all(|byte| *byte == UNWRITTEN) => {
                Answer::Open
            }
            _ => Answer::Value(&answer.value),
        }
    }
}
