//! Builds C templates: attributes with values for a module to read, and attributes with room for C_GetAttributeValue to
//! fill.
//!
//! Every pValue is NULL or the address of memory that belongs to the template here. An attribute whose value is an
//! array of CK_ATTRIBUTE gets such an array, built in the same way; no byte of a client becomes an address. Every
//! length that a module returns is checked against its room.

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

/// The content of a buffer before C_GetAttributeValue, which shows whether the module wrote into it.
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
    /// Builds the C template. Refuses bytes that a module would take for attributes, because they would hold addresses,
    /// and templates that nest too deep.
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

    /// Returns the address of the first attribute, or NULL.
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

/// Its address is that of every empty value.
static EMPTY: u8 = 0;

/// Fills the place behind the last attribute of an array.
const NO_ATTRIBUTE: CK_ATTRIBUTE = CK_ATTRIBUTE {
    type_: 0,
    pValue: null_mut(),
    ulValueLen: 0,
};

/// Makes a C_GetAttributeValue call. If a client has room in bytes for an array of attributes, as in version 3, the
/// module is only asked for the size: the value would hold addresses, unless it is empty.
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
    let most = largest_share(rooms(&query), OUTPUT_LIMIT);
    let mut question = match Question::new(query, 1, most) {
        Ok(question) => question,
        Err(rv) => {
            return AttributesResult {
                rv,
                ..Default::default()
            };
        }
    };
    let mut rv = call(
        question.attributes.as_mut_ptr(),
        narrow(question.count as u64),
    );
    let is_some_withheld = question.is_some_withheld();
    let answers = question.answers(rv, usize::MAX);
    if is_some_withheld && rv.is_ok() {
        rv = CkRv::ATTRIBUTE_TYPE_INVALID;
    }
    AttributesResult { rv, answers }
}

/// Returns the rooms of a query at all depths, in bytes.
fn rooms(query: &Query) -> Vec<usize> {
    let rooms = query.0.iter().flat_map(|wanted| match &wanted.room {
        WantedRoom::Buffer {
            room,
            content: None,
        } => vec![usize::try_from(*room).unwrap_or(usize::MAX)],
        WantedRoom::Template(query) => rooms(query),
        WantedRoom::Buffer { .. } | WantedRoom::Null { .. } => Vec::new(),
    });
    rooms.collect()
}

/// Returns the upper bound for each room, so that all rooms together are not larger than `limit`. Smaller rooms leave
/// what they do not need to the larger ones.
fn largest_share(mut rooms: Vec<usize>, limit: usize) -> usize {
    rooms.sort_unstable();
    let mut left = limit;
    for (index, room) in rooms.iter().enumerate() {
        let share = left / (rooms.len() - index);
        if *room > share {
            return share;
        }
        left -= room;
    }
    usize::MAX
}

/// The attributes that are asked for, with the room for their values.
struct Question {
    /// One more than `count`, so that there is an address.
    attributes: Vec<CK_ATTRIBUTE>,
    count: usize,
    /// One place for each attribute of the query.
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
    /// pValue is NULL, although the client has room: only an empty value can be returned.
    Withheld,
    /// pValue is NULL.
    Null,
    /// A buffer with the content that version 3 sent.
    Content(Vec<u8>),
    /// A buffer.
    Buffer(Vec<u8>),
    /// Attributes with their own rooms.
    Template(Question),
}

/// Values that were not passed on may hold a key.
impl Drop for PlaceRoom {
    fn drop(&mut self) {
        if let PlaceRoom::Content(buffer) | PlaceRoom::Buffer(buffer) = self {
            wipe(buffer);
        }
    }
}

impl Question {
    /// Makes room for the answers, at most `most` bytes for each: buffers are shorter if more is asked for.
    fn new(mut query: Query, depth: u32, most: usize) -> Result<Question, CkRv> {
        if depth > DEEPEST_NESTING {
            return Err(CkRv::DATA_LEN_RANGE);
        }
        let mut attributes = Vec::with_capacity(query.0.len() + 1);
        let mut places = Vec::with_capacity(query.0.len());
        for wanted in &mut query.0 {
            let attribute_type = wanted.attribute_type;
            let mut room = match &mut wanted.room {
                WantedRoom::Null { .. } => PlaceRoom::Null,
                WantedRoom::Buffer { .. } if is_nested(attribute_type) => PlaceRoom::Withheld,
                WantedRoom::Buffer {
                    content: Some(content),
                    ..
                } => PlaceRoom::Content(std::mem::take(content)),
                WantedRoom::Buffer {
                    room,
                    content: None,
                } => {
                    let size = usize::try_from(*room).unwrap_or(usize::MAX).min(most);
                    // A buffer in a question within a question has zeros: a module that finds an attribute of
                    // attributes there reads pointers from the buffer.
                    let fill = if depth > 1 { 0 } else { FILL };
                    let mut buffer = Vec::with_capacity(size.max(1)); // an address in any case
                    buffer.resize(size, fill);
                    PlaceRoom::Buffer(buffer)
                }
                WantedRoom::Template(query) => {
                    let query = std::mem::take(query);
                    PlaceRoom::Template(Question::new(query, depth + 1, most)?)
                }
            };
            let (value, passed): (CK_VOID_PTR, u64) = match (&mut room, &wanted.room) {
                (PlaceRoom::Null, WantedRoom::Null { length }) => (null_mut(), *length),
                (PlaceRoom::Null | PlaceRoom::Withheld, _) => (null_mut(), 0),
                (PlaceRoom::Content(buffer) | PlaceRoom::Buffer(buffer), _) => {
                    (buffer.as_mut_ptr().cast(), buffer.len() as u64)
                }
                (PlaceRoom::Template(question), _) => (
                    question.attributes.as_mut_ptr().cast(),
                    (question.count * ATTRIBUTE_SIZE) as u64,
                ),
            };
            let passed = narrow(passed);
            attributes.push(CK_ATTRIBUTE {
                type_: narrow(attribute_type.0),
                pValue: value,
                ulValueLen: passed,
            });
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

    /// Whether a value was withheld that is not empty.
    fn is_some_withheld(&self) -> bool {
        let mut asked = self.attributes.iter().zip(&self.places);
        asked.any(|(attribute, place)| {
            matches!(place.room, PlaceRoom::Withheld) && attribute.ulValueLen != 0
        })
    }

    /// Whether the module left types and lengths as they were passed.
    fn is_as_passed(&self) -> bool {
        let mut asked = self.attributes.iter().zip(&self.places);
        asked.all(|(attribute, place)| {
            attribute.type_ == narrow(place.attribute_type.0)
                && attribute.ulValueLen == place.passed
                && match &place.room {
                    PlaceRoom::Template(question) => question.is_as_passed(),
                    PlaceRoom::Withheld
                    | PlaceRoom::Null
                    | PlaceRoom::Content(_)
                    | PlaceRoom::Buffer(_) => true,
                }
        })
    }

    /// Returns the answers for the first `most` attributes.
    fn answers(mut self, rv: CkRv, most: usize) -> Answers {
        let mut answers = Vec::with_capacity(self.places.len().min(most));
        let places = self.places.drain(..).take(most);
        for (mut place, attribute) in places.zip(&self.attributes) {
            // The module says which attributes an array has.
            let attribute_type = match self.is_within {
                true => AttributeType(wide(attribute.type_)),
                false => place.attribute_type,
            };
            let found = place.found(attribute_type, attribute.ulValueLen, rv, self.is_within);
            answers.push(Answer {
                attribute_type,
                found,
            });
        }
        Answers(answers)
    }
}

/// Whether a module that returns this CK_RV has looked at each attribute (PKCS#11 v3.2, C_GetAttributeValue).
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
    /// Returns the answer for the attribute, for which the module left this type and length.
    fn found(
        &mut self,
        attribute_type: AttributeType,
        left: CK_ULONG,
        rv: CkRv,
        is_within: bool,
    ) -> Found {
        let is_array = is_nested(attribute_type);
        if matches!(self.room, PlaceRoom::Withheld) {
            return match left {
                0 => Found::TemplateLength(0),
                _ => Found::Unavailable,
            };
        }
        if let PlaceRoom::Content(buffer) = &mut self.room {
            return match usize::try_from(left) {
                Ok(length) if length <= buffer.len() => cut(buffer, length),
                _ => Found::Unavailable,
            };
        }
        let is_untouched = left == self.passed;
        if is_untouched && !looks_at_all(rv) {
            return match &mut self.room {
                // SoftHSM changes an attribute inside the array, and then fails.
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

/// Takes a buffer and returns its first bytes. The rest is wiped.
fn cut(buffer: &mut Vec<u8>, length: usize) -> Found {
    let mut bytes = std::mem::take(buffer);
    wipe(bytes.get_mut(length..).unwrap_or_default());
    bytes.truncate(length);
    Found::Bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_room_leaves_the_others_theirs() {
        assert_eq!(largest_share(vec![], 100), usize::MAX);
        assert_eq!(largest_share(vec![40, 60], 100), usize::MAX);
        assert_eq!(largest_share(vec![usize::MAX, 8, 0], 100), 92);
        assert_eq!(largest_share(vec![usize::MAX, 50, usize::MAX], 100), 33);
        assert_eq!(largest_share(vec![usize::MAX, usize::MAX, 20], 100), 40);
    }
}
