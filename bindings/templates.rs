//! Builds C templates: attributes with values that a module reads, and attributes with room that
//! C_GetAttributeValue fills.
//!
//! Every pValue is NULL or an address of memory that belongs to the template here. An attribute
//! whose value is an array of CK_ATTRIBUTE gets such an array, made in the same way; no byte of a
//! client becomes an address. Every length that a module returns is checked against its room.

use std::marker::PhantomData;
use std::ptr::null_mut;

use cryptoki_sys::*;
use xdr::attribute_types::is_nested;
use xdr::codec::wipe;
use xdr::word_size::{narrow, wide};
use xdr::{
    Answer, Answers, AttributeType, AttributesResult, CkRv, DEEPEST_NESTING, Found, Query,
    Template, TemplatePointer, Value, WantedRoom,
};

use crate::outputs::OUTPUT_LIMIT;

/// Size of one attribute in an array, in bytes.
const ATTRIBUTE_SIZE: usize = size_of::<CK_ATTRIBUTE>();

/// What a buffer holds before C_GetAttributeValue, so that it shows whether the module wrote into it.
const FILL: u8 = 0xa5;

/// A C template that points to the values of a [`Template`]; NULL if there is no template.
pub(crate) struct CTemplate<'a> {
    /// One more than `count`, so that an empty template has an address too. Empty for NULL.
    attributes: Vec<CK_ATTRIBUTE>,
    count: usize,
    /// Templates in it, which its attributes point to.
    _nested: Vec<CTemplate<'a>>,
    values: PhantomData<&'a mut Template>,
}

impl<'a> CTemplate<'a> {
    /// Refuses bytes that a module would take for attributes, because they would hold addresses, and
    /// templates that nest too deep.
    pub(crate) fn new(template: &'a mut TemplatePointer) -> Result<CTemplate<'a>, CkRv> {
        match template {
            Some(template) => CTemplate::at_depth(template, 1),
            None => Ok(CTemplate {
                attributes: Vec::new(),
                count: 0,
                _nested: Vec::new(),
                values: PhantomData,
            }),
        }
    }

    fn at_depth(template: &'a mut Template, depth: u32) -> Result<CTemplate<'a>, CkRv> {
        if depth > DEEPEST_NESTING {
            return Err(CkRv::DATA_LEN_RANGE);
        }
        let mut attributes = Vec::with_capacity(template.0.len() + 1);
        let mut nested = Vec::new();
        for attribute in &mut template.0 {
            let attribute_type = attribute.attribute_type;
            let (value, length) = match &mut attribute.value {
                Value::Null { length } => (null_mut(), narrow(*length)),
                Value::Bytes(bytes) if bytes.is_empty() => {
                    ((&raw const EMPTY).cast_mut().cast(), 0)
                }
                Value::Bytes(_) if is_nested(attribute_type) => {
                    return Err(CkRv::ATTRIBUTE_TYPE_INVALID);
                }
                Value::Bytes(bytes) => (bytes.as_mut_ptr().cast(), narrow(bytes.len() as u64)),
                Value::Template(template) => {
                    let mut template = CTemplate::at_depth(template, depth + 1)?;
                    let place = template.as_ptr().cast();
                    let length = narrow((template.count * ATTRIBUTE_SIZE) as u64);
                    nested.push(template);
                    (place, length)
                }
            };
            attributes.push(CK_ATTRIBUTE {
                type_: narrow(attribute_type.0),
                pValue: value,
                ulValueLen: length,
            });
        }
        let count = attributes.len();
        attributes.push(NO_ATTRIBUTE);
        Ok(CTemplate {
            attributes,
            count,
            _nested: nested,
            values: PhantomData,
        })
    }

    /// The address of the first attribute, or NULL.
    pub(crate) fn as_ptr(&mut self) -> *mut CK_ATTRIBUTE {
        match self.attributes.is_empty() {
            true => null_mut(),
            false => self.attributes.as_mut_ptr(),
        }
    }

    pub(crate) fn count(&self) -> CK_ULONG {
        narrow(self.count as u64)
    }
}

/// What an empty value points to.
static EMPTY: u8 = 0;

/// What stands behind the last attribute of an array.
const NO_ATTRIBUTE: CK_ATTRIBUTE = CK_ATTRIBUTE {
    type_: 0,
    pValue: null_mut(),
    ulValueLen: 0,
};

/// Makes a C_GetAttributeValue call. `call` gets every attribute except arrays of attributes for which a
/// client has room in bytes, as in version 3: they are unavailable.
pub(crate) fn attribute_values(
    query: Option<Query>,
    call: impl FnOnce(*mut CK_ATTRIBUTE, CK_ULONG) -> CkRv,
) -> AttributesResult {
    let Some(query) = query else {
        let rv = call(null_mut(), 0);
        return AttributesResult {
            rv,
            ..Default::default()
        };
    };
    let mut budget = OUTPUT_LIMIT;
    let mut question = match Question::new(query, 1, &mut budget) {
        Ok(question) => question,
        Err(rv) => {
            return AttributesResult {
                rv,
                ..Default::default()
            };
        }
    };
    let is_some_refused = question.is_some_refused();
    let mut rv = CkRv::ATTRIBUTE_TYPE_INVALID;
    if question.count > 0 || !is_some_refused {
        rv = call(
            question.attributes.as_mut_ptr(),
            narrow(question.count as u64),
        );
    }
    let answers = question.answers(rv, usize::MAX);
    if is_some_refused && rv.is_ok() {
        rv = CkRv::ATTRIBUTE_TYPE_INVALID;
    }
    AttributesResult { rv, answers }
}

/// Attributes that are asked for, with the room for their values.
struct Question {
    /// Those that are asked for, and one more, so that there is an address.
    attributes: Vec<CK_ATTRIBUTE>,
    count: usize,
    /// One for each attribute of the query, refused ones included.
    places: Vec<Place>,
    /// Whether it is inside of another question.
    is_within: bool,
}

/// Where the value of one attribute goes.
struct Place {
    attribute_type: AttributeType,
    /// `ulValueLen` as it was passed.
    passed: CK_ULONG,
    room: PlaceRoom,
}

enum PlaceRoom {
    /// Not asked for.
    Refused,
    /// pValue is NULL.
    Null,
    /// A buffer with what version 3 sent.
    Content(Vec<u8>),
    /// A buffer.
    Buffer(Vec<u8>),
    /// Attributes with their own rooms.
    Template(Question),
}

/// What was not handed on may hold a key.
impl Drop for PlaceRoom {
    fn drop(&mut self) {
        if let PlaceRoom::Content(buffer) | PlaceRoom::Buffer(buffer) = self {
            wipe(buffer);
        }
    }
}

impl Question {
    /// Makes room for the answers, in all at most `budget` bytes: where it ends, buffers are shorter than
    /// asked for.
    fn new(mut query: Query, depth: u32, budget: &mut usize) -> Result<Question, CkRv> {
        if depth > DEEPEST_NESTING {
            return Err(CkRv::DATA_LEN_RANGE);
        }
        let mut attributes = Vec::with_capacity(query.0.len() + 1);
        let mut places = Vec::with_capacity(query.0.len());
        for wanted in &mut query.0 {
            let attribute_type = wanted.attribute_type;
            let mut room = match &mut wanted.room {
                WantedRoom::Null { .. } => PlaceRoom::Null,
                WantedRoom::Buffer { .. } if is_nested(attribute_type) => PlaceRoom::Refused,
                WantedRoom::Buffer {
                    content: Some(content),
                    ..
                } => PlaceRoom::Content(std::mem::take(content)),
                WantedRoom::Buffer {
                    room,
                    content: None,
                } => {
                    let size = usize::try_from(*room).unwrap_or(usize::MAX).min(*budget);
                    *budget -= size;
                    // Zeros in a question within a question: a module that finds an attribute of
                    // attributes there reads pointers from the buffer.
                    let fill = if depth > 1 { 0 } else { FILL };
                    let mut buffer = Vec::with_capacity(size.max(1)); // an address in any case
                    buffer.resize(size, fill);
                    PlaceRoom::Buffer(buffer)
                }
                WantedRoom::Template(query) => {
                    let query = std::mem::take(query);
                    PlaceRoom::Template(Question::new(query, depth + 1, budget)?)
                }
            };
            let (value, passed): (CK_VOID_PTR, u64) = match (&mut room, &wanted.room) {
                (PlaceRoom::Null, WantedRoom::Null { length }) => (null_mut(), *length),
                (PlaceRoom::Null | PlaceRoom::Refused, _) => (null_mut(), 0),
                (PlaceRoom::Content(buffer) | PlaceRoom::Buffer(buffer), _) => {
                    (buffer.as_mut_ptr().cast(), buffer.len() as u64)
                }
                (PlaceRoom::Template(question), _) => (
                    question.attributes.as_mut_ptr().cast(),
                    (question.count * ATTRIBUTE_SIZE) as u64,
                ),
            };
            let passed = narrow(passed);
            if !matches!(room, PlaceRoom::Refused) {
                attributes.push(CK_ATTRIBUTE {
                    type_: narrow(attribute_type.0),
                    pValue: value,
                    ulValueLen: passed,
                });
            }
            places.push(Place {
                attribute_type,
                passed,
                room,
            });
        }
        let count = attributes.len();
        attributes.push(NO_ATTRIBUTE);
        Ok(Question {
            attributes,
            count,
            places,
            is_within: depth > 1,
        })
    }

    fn is_some_refused(&self) -> bool {
        let mut places = self.places.iter();
        places.any(|place| matches!(place.room, PlaceRoom::Refused))
    }

    /// Whether the module left types and lengths as they were passed.
    fn is_as_passed(&self) -> bool {
        let asked = |place: &&Place| !matches!(place.room, PlaceRoom::Refused);
        let mut asked = self.attributes.iter().zip(self.places.iter().filter(asked));
        asked.all(|(attribute, place)| {
            attribute.type_ == narrow(place.attribute_type.0)
                && attribute.ulValueLen == place.passed
                && match &place.room {
                    PlaceRoom::Template(question) => question.is_as_passed(),
                    PlaceRoom::Refused
                    | PlaceRoom::Null
                    | PlaceRoom::Content(_)
                    | PlaceRoom::Buffer(_) => true,
                }
        })
    }

    /// What became of the first `most` attributes.
    fn answers(mut self, rv: CkRv, most: usize) -> Answers {
        let mut attributes = self.attributes.iter();
        let mut answers = Vec::with_capacity(self.places.len().min(most));
        for mut place in self.places.drain(..).take(most) {
            let mut attribute_type = place.attribute_type;
            let mut found = Found::Unavailable;
            if !matches!(place.room, PlaceRoom::Refused) {
                let attribute = attributes.next().unwrap_or(&NO_ATTRIBUTE);
                // A module says which attributes an array has.
                if self.is_within {
                    attribute_type = AttributeType(wide(attribute.type_));
                }
                found = place.found(attribute_type, attribute.ulValueLen, rv, self.is_within);
            }
            answers.push(Answer {
                attribute_type,
                found,
            });
        }
        Answers(answers)
    }
}

/// Whether a module has looked at each attribute when it returns this (PKCS#11 v3.2, C_GetAttributeValue).
fn looks_at_all(rv: CkRv) -> bool {
    matches!(
        rv,
        CkRv::OK
            | CkRv::ATTRIBUTE_SENSITIVE
            | CkRv::ATTRIBUTE_TYPE_INVALID
            | CkRv::BUFFER_TOO_SMALL
    )
}

impl Place {
    /// What became of the attribute, of which the module left this type and length.
    fn found(
        &mut self,
        attribute_type: AttributeType,
        left: CK_ULONG,
        rv: CkRv,
        is_within: bool,
    ) -> Found {
        let is_array = is_nested(attribute_type);
        if let PlaceRoom::Content(buffer) = &mut self.room {
            return match usize::try_from(left) {
                Ok(length) if length <= buffer.len() => cut(buffer, length),
                _ => Found::Unavailable,
            };
        }
        let is_untouched = left == self.passed;
        if is_untouched && !looks_at_all(rv) {
            return match &mut self.room {
                // SoftHSM marks an attribute of an array, and then fails.
                PlaceRoom::Template(question) if is_array && !question.is_as_passed() => {
                    let question = std::mem::take(question);
                    Found::Template(question.answers(rv, usize::MAX))
                }
                _ => Found::Untouched,
            };
        }
        if left == CK_UNAVAILABLE_INFORMATION {
            return Found::Unavailable;
        }
        let length = usize::try_from(left).unwrap_or(usize::MAX);
        match &mut self.room {
            PlaceRoom::Buffer(buffer)
                if !is_array && looks_at_all(rv) && length <= buffer.len() =>
            {
                let was_written = || buffer.iter().any(|byte| *byte != FILL);
                return match is_untouched && !rv.is_ok() && !is_within && !was_written() {
                    true => Found::Untouched,
                    false => cut(buffer, length),
                };
            }
            PlaceRoom::Template(question) if is_array && looks_at_all(rv) => {
                let count = length / ATTRIBUTE_SIZE;
                if length % ATTRIBUTE_SIZE == 0 && count <= question.count {
                    let question = std::mem::take(question);
                    return Found::Template(question.answers(rv, count));
                }
            }
            _ => {}
        }
        let has_room = !matches!(self.room, PlaceRoom::Null);
        if has_room && rv.is_ok() {
            // The module claims to have written more than there was room for.
            return Found::Unavailable;
        }
        match length % ATTRIBUTE_SIZE {
            _ if !is_array => Found::Length(wide(left)),
            0 => Found::TemplateLength(wide(left) / ATTRIBUTE_SIZE as u64),
            _ => Found::Unavailable,
        }
    }
}

impl Default for Question {
    fn default() -> Question {
        Question {
            attributes: vec![NO_ATTRIBUTE],
            count: 0,
            places: Vec::new(),
            is_within: true,
        }
    }
}

/// The first bytes of a buffer, which is taken. The rest is wiped.
fn cut(buffer: &mut Vec<u8>, length: usize) -> Found {
    let mut bytes = std::mem::take(buffer);
    wipe(bytes.get_mut(length..).unwrap_or_default());
    bytes.truncate(length);
    Found::Bytes(bytes)
}
