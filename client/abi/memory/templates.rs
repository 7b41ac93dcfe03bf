//! Turns arrays of CK_ATTRIBUTE into templates and requests, and writes the answers of C_GetAttributeValue.
//!
//! The value of an array attribute such as CKA_WRAP_TEMPLATE is itself an array of CK_ATTRIBUTE, with a length in
//! bytes. The depth of nesting and the total number of attributes are bounded.

use cryptoki_sys::{CK_ATTRIBUTE, CK_ULONG, CK_UNAVAILABLE_INFORMATION};
use xdr::attribute_types::{is_boolean, is_nested, is_number};
use xdr::word_size::{narrow, wide};
use xdr::{
    Answer, Answers, Attribute, AttributeType, CkRv, DEEPEST_NESTING, Found, LONGEST_BYTES,
    MOST_ELEMENTS, Query, Template, Value, Wanted, WantedRoom,
};

use super::{copied, copy};
use crate::structures::number;

/// The size of a CK_ATTRIBUTE, in bytes.
const ATTRIBUTE_SIZE: u64 = size_of::<CK_ATTRIBUTE>() as u64;

/// Limits for reading one template.
struct Bounds {
    /// How many more attributes may be read, at all depths together.
    left: u64,
    /// The present depth of nesting.
    depth: u32,
}

impl Bounds {
    fn new() -> Bounds {
        Bounds {
            left: MOST_ELEMENTS,
            depth: 0,
        }
    }

    /// Reads an array of CK_ATTRIBUTE structures, one level deeper, and converts each with `each`.
    ///
    /// # Safety
    /// `first` is not null and can be read as that many CK_ATTRIBUTE.
    unsafe fn read<T>(
        &mut self,
        first: *const CK_ATTRIBUTE,
        count: u64,
        mut each: impl FnMut(&mut Bounds, CK_ATTRIBUTE) -> Result<T, CkRv>,
    ) -> Result<Vec<T>, CkRv> {
        if self.depth == DEEPEST_NESTING {
            return Err(CkRv::DATA_LEN_RANGE);
        }
        self.left = self.left.checked_sub(count).ok_or(CkRv::ARGUMENTS_BAD)?;
        let count = usize::try_from(count).map_err(|_| CkRv::ARGUMENTS_BAD)?;
        self.depth += 1;
        let attributes = (0..count).map(|index| {
            let attribute = first.wrapping_add(index);
            // SAFETY: one of the `count` attributes that can be read as the caller guarantees.
            let attribute = unsafe { attribute.read_unaligned() };
            each(self, attribute)
        });
        let attributes = attributes.collect();
        self.depth -= 1;
        attributes
    }
}

fn attribute_type(attribute: &CK_ATTRIBUTE) -> AttributeType {
    AttributeType(wide(attribute.type_))
}

/// Returns whether there is room for a value. As for modules, any length with an address is room, so that CKR_OK always
/// comes with the value.
fn has_room(attribute: &CK_ATTRIBUTE) -> bool {
    !attribute.pValue.is_null()
}

/// Reads a template whose values go to the module; `None` if it is NULL.
///
/// # Safety
/// Unless null, `first` can be read as that many CK_ATTRIBUTE, and each value with the length that its attribute
/// states.
pub(in crate::abi) unsafe fn template(
    first: *const CK_ATTRIBUTE,
    count: CK_ULONG,
) -> Result<Option<Template>, CkRv> {
    if first.is_null() {
        return match count {
            0 => Ok(None),
            _ => Err(CkRv::ARGUMENTS_BAD),
        };
    }
    // SAFETY: not null, and guaranteed by the caller.
    unsafe { values(&mut Bounds::new(), first, wide(count)) }.map(Some)
}

/// # Safety
/// As [`template`]; `first` is not null.
unsafe fn values(
    bounds: &mut Bounds,
    first: *const CK_ATTRIBUTE,
    count: u64,
) -> Result<Template, CkRv> {
    let each = |bounds: &mut Bounds, attribute: CK_ATTRIBUTE| {
        let length = wide(attribute.ulValueLen);
        let value = if attribute.pValue.is_null() {
            Value::Null { length }
        } else if is_nested(attribute_type(&attribute)) {
            if length % ATTRIBUTE_SIZE != 0 {
                return Err(CkRv::ATTRIBUTE_VALUE_INVALID);
            }
            let nested = attribute.pValue.cast_const().cast();
            // SAFETY: not null, and the caller guarantees the value.
            Value::Template(unsafe { values(bounds, nested, length / ATTRIBUTE_SIZE) }?)
        } else if length <= LONGEST_BYTES {
            // SAFETY: not null, and the caller guarantees the value.
            Value::Bytes(unsafe { copied(attribute.pValue, attribute.ulValueLen) }?)
        } else if is_number(attribute_type(&attribute)) || is_boolean(attribute_type(&attribute)) {
            // Sent without its bytes, which is just as wrong: so the module answers, and may find other errors in the
            // template.
            Value::Bytes(Vec::new())
        } else {
            // No attribute has such a long value.
            return Err(CkRv::ATTRIBUTE_VALUE_INVALID);
        };
        Ok(Attribute {
            attribute_type: attribute_type(&attribute),
            value,
        })
    };
    // SAFETY: guaranteed by the caller.
    unsafe { bounds.read(first, count, each) }.map(Template)
}

/// The template of C_GetAttributeValue: it says which attributes are wanted and receives their values.
pub(in crate::abi) struct WantedAttributes {
    first: *mut CK_ATTRIBUTE,
    given: Vec<Given>,
}

struct Given {
    attribute: CK_ATTRIBUTE,
    /// The array that is its value, if it is an array.
    nested: Option<WantedAttributes>,
}

impl WantedAttributes {
    /// Reads a template of wanted attributes; `None` if it is NULL.
    ///
    /// # Safety
    /// Unless null, `first` can be read and written as that many CK_ATTRIBUTE while this lives. Each value that is not
    /// null can be written with the length that its attribute states; one that is an array of CK_ATTRIBUTE can be read
    /// and written likewise.
    pub unsafe fn new(first: *mut CK_ATTRIBUTE, count: CK_ULONG) -> Result<Option<Self>, CkRv> {
        if first.is_null() {
            return match count {
                0 => Ok(None),
                _ => Err(CkRv::ARGUMENTS_BAD),
            };
        }
        // SAFETY: not null, and guaranteed by the caller.
        unsafe { WantedAttributes::read(&mut Bounds::new(), first, wide(count)) }.map(Some)
    }

    /// # Safety
    /// As [`WantedAttributes::new`]; `first` is not null.
    unsafe fn read(
        bounds: &mut Bounds,
        first: *mut CK_ATTRIBUTE,
        count: u64,
    ) -> Result<Self, CkRv> {
        let each = |bounds: &mut Bounds, attribute: CK_ATTRIBUTE| {
            let is_array = has_room(&attribute) && is_nested(attribute_type(&attribute));
            let nested = is_array.then(|| {
                let count = wide(attribute.ulValueLen) / ATTRIBUTE_SIZE;
                // SAFETY: not null, and the caller guarantees the value.
                unsafe { WantedAttributes::read(bounds, attribute.pValue.cast(), count) }
            });
            let nested = nested.transpose()?;
            Ok(Given { attribute, nested })
        };
        // SAFETY: guaranteed by the caller.
        let given = unsafe { bounds.read(first, count, each) }?;
        Ok(WantedAttributes { first, given })
    }

    /// Returns the request for the wanted attributes.
    pub fn query(&self) -> Query {
        let wanted = |given: &Given| Wanted {
            attribute_type: attribute_type(&given.attribute),
            room: match (&given.nested, wide(given.attribute.ulValueLen)) {
                (Some(nested), _) => WantedRoom::Template(nested.query()),
                (None, room) if has_room(&given.attribute) => WantedRoom::Buffer {
                    room,
                    content: None,
                },
                (None, length) => WantedRoom::Null { length },
            },
        };
        Query(self.given.iter().map(wanted).collect())
    }

    /// Writes the answers, which are in the order of the template. If they do not match the template, writes nothing
    /// and returns CKR_DEVICE_ERROR.
    pub fn put(&self, rv: CkRv, answers: &Answers) -> Result<(), CkRv> {
        let mut rv = rv;
        if answers.0.is_empty() && !rv.is_ok() {
            return Err(rv); // refused before the module saw it
        }
        if self.given.len() != answers.0.len() {
            return Err(CkRv::DEVICE_ERROR);
        }
        for (given, answer) in self.given.iter().zip(&answers.0) {
            if answer.attribute_type != attribute_type(&given.attribute) {
                return Err(CkRv::DEVICE_ERROR);
            }
            given.check(rv, &answer.found)?;
        }
        self.write(&answers.0);
        if rv.is_ok()
            && answers
                .0
                .iter()
                .any(|answer| answer.found == Found::Unavailable)
        {
            // The application would take CK_UNAVAILABLE_INFORMATION (-1) for a length.
            rv = CkRv::ATTRIBUTE_TYPE_INVALID;
        }
        crate::remote::result(rv)
    }

    /// Writes answers that were checked.
    fn write(&self, answers: &[Answer]) {
        for (index, (given, answer)) in self.given.iter().zip(answers).enumerate() {
            let length = match &answer.found {
                Found::Untouched => continue,
                Found::Unavailable => CK_UNAVAILABLE_INFORMATION,
                Found::Length(length) => narrow(*length),
                Found::TemplateLength(count) => narrow(count.saturating_mul(ATTRIBUTE_SIZE)),
                Found::Bytes(value) => {
                    // SAFETY: `check` has seen that the value fits into the room that the creator of this guaranteed.
                    // The value was just received, so it lies elsewhere.
                    unsafe { copy(value, given.attribute.pValue.cast()) };
                    narrow(value.len() as u64)
                }
                Found::Template(answers) => {
                    if let Some(nested) = &given.nested {
                        nested.write(&answers.0);
                    }
                    narrow(answers.0.len() as u64 * ATTRIBUTE_SIZE)
                }
            };
            let changed = CK_ATTRIBUTE {
                // In an array, the module says which attributes there are; elsewhere this is the type that was asked
                // for.
                type_: narrow(answer.attribute_type.0),
                ulValueLen: length,
                ..given.attribute
            };
            let place = self.first.wrapping_add(index);
            // SAFETY: this is one of the attributes that were read; the creator of this guaranteed that they can be
            // written.
            unsafe { place.write_unaligned(changed) };
        }
    }
}

impl Given {
    /// Checks whether an answer, with this CK_RV, matches the request.
    fn check(&self, rv: CkRv, found: &Found) -> Result<(), CkRv> {
        let room = match &self.nested {
            None if has_room(&self.attribute) => Some(wide(self.attribute.ulValueLen)),
            _ => None,
        };
        let has_room = room.is_some() || self.nested.is_some();
        let is_sound = match found {
            Found::Untouched | Found::Unavailable => true,
            // With CKR_OK, a value that has room must have been sent.
            Found::Length(length) | Found::TemplateLength(length) if rv.is_ok() && *length != 0 => {
                !has_room && *length <= LONGEST_BYTES
            }
            Found::Length(length) => number(*length).is_ok(),
            Found::TemplateLength(count) => {
                let length = count.checked_mul(ATTRIBUTE_SIZE);
                length.is_some_and(|length| number(length).is_ok())
            }
            Found::Bytes(value) => room.is_some_and(|room| value.len() as u64 <= room),
            Found::Template(answers) => {
                let nested = self.nested.as_ref().ok_or(CkRv::DEVICE_ERROR)?;
                if answers.0.len() > nested.given.len() {
                    return Err(CkRv::DEVICE_ERROR);
                }
                for (given, answer) in nested.given.iter().zip(&answers.0) {
                    given.check(rv, &answer.found)?;
                }
                true
            }
        };
        if is_sound {
            Ok(())
        } else {
            Err(CkRv::DEVICE_ERROR)
        }
    }
}
