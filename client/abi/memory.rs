//! Turns the application's pointers into values and slices, and writes results back through them.
//!
//! A null pointer is CKR_ARGUMENTS_BAD where PKCS#11 demands data. The application guarantees that
//! any other pointer is valid for the length of the call (v2.20, section 11.1); each `# Safety`
//! below asks for that and nothing else. No alignment is assumed. Output is written at the end and
//! never borrowed, because an application may encrypt in place.

use std::ffi::c_void;
use std::slice;

use cryptoki_sys::{CK_ATTRIBUTE, CK_MECHANISM, CK_ULONG, CK_UNAVAILABLE_INFORMATION};
use xdr::{Attribute, AttributeType, CkRv, LONGEST_BYTES, Mechanism, MechanismType, Template};

use xdr::attribute_types::{is_boolean, is_nested, is_number};
use xdr::word_size::wide;

use crate::attributes::{Found, Wanted};
use crate::mechanism::{LONGEST_PARAMETER, crossing, is_parameterless};
use crate::pending::{Answer, Room};

/// A pointer to one value that is to be written.
#[derive(Clone, Copy)]
pub(super) struct Place<T>(*mut T);

impl<T> Place<T> {
    /// Checks the pointer before the call, so that nothing is executed for a caller that passes NULL.
    ///
    /// # Safety
    /// Unless null, `place` can be written as a `T` while this lives.
    pub unsafe fn new(place: *mut T) -> Result<Place<T>, CkRv> {
        if place.is_null() {
            Err(CkRv::ARGUMENTS_BAD)
        } else {
            Ok(Place(place))
        }
    }

    /// Writes the value.
    pub fn put(self, value: T) {
        // SAFETY: whoever made this place has vouched that it can be written.
        unsafe { self.0.write_unaligned(value) };
    }
}

/// A pointer to a buffer for many values, and a pointer to their number.
#[derive(Clone, Copy)]
pub(super) struct Places<T> {
    first: *mut T,
    room: Room,
    count: Place<CK_ULONG>,
}

impl<T: Copy> Places<T> {
    /// Takes the room from `count`. If `first` is NULL, the application asks for the size.
    ///
    /// # Safety
    /// Unless null, `count` can be read and written as a CK_ULONG while this lives; unless null,
    /// `first` can be written as that many `T`.
    pub unsafe fn new(first: *mut T, count: *mut CK_ULONG) -> Result<Places<T>, CkRv> {
        // SAFETY: the caller's word on `count`.
        let place = unsafe { Place::new(count) }?;
        let room = if first.is_null() {
            None
        } else {
            // SAFETY: not null, so readable by the caller's word.
            let room = unsafe { count.read_unaligned() };
            Some(usize::try_from(room).unwrap_or(usize::MAX))
        };
        Ok(Places {
            first,
            room,
            count: place,
        })
    }

    /// How many values there is room for.
    pub fn room(self) -> Room {
        self.room
    }

    /// Writes an answer, as the two-call convention has it (v2.20, section 11.2).
    pub fn put(self, answer: Answer<impl AsRef<[T]>>) -> Result<(), CkRv> {
        let (count, result) = match answer {
            Answer::Size(size) => (size, Ok(())),
            Answer::TooSmall(size) => (size, Err(CkRv::BUFFER_TOO_SMALL)),
            Answer::Whole(values) => {
                let values = values.as_ref();
                if self.room.is_none_or(|room| room < values.len()) {
                    return Err(CkRv::GENERAL_ERROR); // no `Answer` is made like that
                }
                // SAFETY: there is room for this many values, by the check above and the word of
                // whoever made this; they were just received, so they lie elsewhere.
                unsafe { copy(values, self.first) };
                (values.len(), Ok(()))
            }
        };
        self.count.put(count as CK_ULONG);
        result
    }
}

/// Writes values behind each other, whatever the alignment.
///
/// # Safety
/// `to` can be written as that many `T` and does not overlap `values`.
pub(super) unsafe fn copy<T: Copy>(values: &[T], to: *mut T) {
    let (from, to) = (values.as_ptr().cast::<u8>(), to.cast::<u8>());
    // SAFETY: as bytes, so alignment does not matter; size and distinctness are the caller's word.
    unsafe { to.copy_from_nonoverlapping(from, size_of_val(values)) };
}

/// A byte string. Null is one without bytes. One that no record can carry is answered `too_long`, unread.
///
/// # Safety
/// Unless null, `first` can be read as that many bytes, unchanged, for as long as `'a`.
pub(super) unsafe fn bytes<'a>(
    first: *const u8,
    length: CK_ULONG,
    too_long: CkRv,
) -> Result<&'a [u8], CkRv> {
    let length = usize::try_from(length).map_err(|_| too_long)?;
    if length == 0 {
        return Ok(&[]);
    }
    if first.is_null() {
        return Err(CkRv::ARGUMENTS_BAD);
    }
    if length > LONGEST_INPUT {
        return Err(too_long);
    }
    // SAFETY: not null, not longer than an object can be, and readable by the caller's word.
    Ok(unsafe { slice::from_raw_parts(first, length) })
}

/// No record carries more: the fragment length of a record mark has 31 bits, and the header takes some.
const LONGEST_INPUT: usize = i32::MAX as usize - 1024;

/// A PIN. NULL means that there is none, whatever the length.
///
/// # Safety
/// As [`bytes`].
pub(super) unsafe fn optional_bytes<'a>(
    first: *const u8,
    length: CK_ULONG,
    too_long: CkRv,
) -> Result<&'a [u8], CkRv> {
    let length = if first.is_null() { 0 } else { length };
    // SAFETY: the caller's word.
    unsafe { bytes(first, length, too_long) }
}

/// The `SIZE` bytes of a text field.
///
/// # Safety
/// As [`bytes`].
pub(super) unsafe fn field<'a, const SIZE: usize>(first: *const u8) -> Result<&'a [u8], CkRv> {
    // SAFETY: the caller's word.
    unsafe { bytes(first, SIZE as CK_ULONG, CkRv::ARGUMENTS_BAD) }
}

/// A copy of the application's bytes. CKR_HOST_MEMORY if there is not enough memory for it.
///
/// # Safety
/// As [`bytes`].
unsafe fn copied(first: *const c_void, length: CK_ULONG) -> Result<Vec<u8>, CkRv> {
    // SAFETY: the caller's word.
    let from = unsafe { bytes(first.cast(), length, CkRv::HOST_MEMORY) }?;
    let mut copy = Vec::new();
    copy.try_reserve_exact(from.len())
        .map_err(|_| CkRv::HOST_MEMORY)?;
    copy.extend_from_slice(from);
    Ok(copy)
}

/// A mechanism with its parameter, as it is sent.
///
/// # Safety
/// Unless null, `mechanism` can be read as a CK_MECHANISM, and its parameter as it says.
pub(super) unsafe fn mechanism(mechanism: *const CK_MECHANISM) -> Result<Mechanism, CkRv> {
    if mechanism.is_null() {
        return Err(CkRv::ARGUMENTS_BAD);
    }
    // SAFETY: not null, so readable by the caller's word.
    let mechanism = unsafe { mechanism.read_unaligned() };
    let mechanism_type = MechanismType(wide(mechanism.mechanism));
    if is_parameterless(mechanism_type) {
        return Ok(Mechanism::bare(mechanism_type));
    }
    if wide(mechanism.ulParameterLen) > LONGEST_PARAMETER as u64 {
        return Err(CkRv::MECHANISM_PARAM_INVALID);
    }
    // SAFETY: the caller's word on the parameter.
    let parameter = unsafe { copied(mechanism.pParameter, mechanism.ulParameterLen) }?;
    crossing(mechanism_type, parameter)
}

/// A copy of the application's CK_ATTRIBUTE structures.
///
/// # Safety
/// Unless null, `first` can be read as that many CK_ATTRIBUTE.
unsafe fn attributes(
    first: *const CK_ATTRIBUTE,
    count: CK_ULONG,
) -> Result<Vec<CK_ATTRIBUTE>, CkRv> {
    let count = usize::try_from(count).map_err(|_| CkRv::ARGUMENTS_BAD)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    if first.is_null() || count > MOST_ATTRIBUTES {
        return Err(CkRv::ARGUMENTS_BAD);
    }
    let read = |index| {
        let attribute = first.wrapping_add(index);
        // SAFETY: one of the `count` attributes that can be read by the caller's word.
        unsafe { attribute.read_unaligned() }
    };
    Ok((0..count).map(read).collect())
}

/// No template has more: there are not that many attributes.
const MOST_ATTRIBUTES: usize = 1 << 16;

/// A template whose values go to the daemon.
///
/// # Safety
/// Unless null, `first` can be read as that many CK_ATTRIBUTE, and each value as it says.
pub(super) unsafe fn template(
    first: *const CK_ATTRIBUTE,
    count: CK_ULONG,
) -> Result<Template, CkRv> {
    // SAFETY: the caller's word.
    let given = unsafe { attributes(first, count) }?;
    let mut template = Vec::with_capacity(given.len());
    for attribute in given {
        let attribute_type = AttributeType(wide(attribute.type_));
        let value = match Value::of(&attribute)? {
            Value::None => Vec::new(),
            // SAFETY: the caller's word on the value.
            Value::Bytes => unsafe { copied(attribute.pValue, attribute.ulValueLen) }?,
        };
        template.push(Attribute::new(attribute_type, value));
    }
    Ok(Template(template))
}

/// How the value of an attribute is sent.
enum Value {
    /// Without bytes.
    None,
    /// With those that the attribute points to.
    Bytes,
}

impl Value {
    /// Refuses a nested template, which holds addresses, unless it is empty, and a length that no value has.
    ///
    /// A number or a boolean with such a length is sent without bytes, since that is as wrong: the module
    /// answers, which may have more to say about the template.
    fn of(attribute: &CK_ATTRIBUTE) -> Result<Value, CkRv> {
        let attribute_type = AttributeType(wide(attribute.type_));
        let length = wide(attribute.ulValueLen);
        if length == 0 {
            Ok(Value::None)
        } else if is_nested(attribute_type) {
            Err(CkRv::ATTRIBUTE_TYPE_INVALID)
        } else if !attribute.pValue.is_null() && length <= LONGEST_BYTES {
            Ok(Value::Bytes)
        } else if is_number(attribute_type) || is_boolean(attribute_type) {
            Ok(Value::None)
        } else {
            Err(CkRv::ATTRIBUTE_VALUE_INVALID)
        }
    }
}

/// The template of C_GetAttributeValue: it says which attributes are wanted and receives their
/// values.
pub(super) struct WantedAttributes {
    first: *mut CK_ATTRIBUTE,
    given: Vec<CK_ATTRIBUTE>,
}

impl WantedAttributes {
    /// Reads what is wanted. Unlike elsewhere, there must be a template even without attributes.
    ///
    /// # Safety
    /// Unless null, `first` can be read and written as that many CK_ATTRIBUTE while this lives, and
    /// each value that is not null can be written as the attribute says.
    pub unsafe fn new(first: *mut CK_ATTRIBUTE, count: CK_ULONG) -> Result<Self, CkRv> {
        if first.is_null() {
            return Err(CkRv::ARGUMENTS_BAD);
        }
        // SAFETY: the caller's word.
        let given = unsafe { attributes(first, count) }?;
        Ok(WantedAttributes { first, given })
    }

    /// What is wanted. Any length beside an address is room, as for modules, so that CKR_OK always comes with
    /// the value.
    pub fn wanted(&self) -> Vec<Wanted> {
        let wanted = |attribute: &CK_ATTRIBUTE| {
            let (value, length) = (attribute.pValue, attribute.ulValueLen);
            Wanted {
                attribute_type: AttributeType(wide(attribute.type_)),
                room: (!value.is_null()).then(|| usize::try_from(length).unwrap_or(usize::MAX)),
            }
        };
        self.given.iter().map(wanted).collect()
    }

    /// Writes what was found, in the order of what was wanted. Types stay as they are.
    pub fn put(self, found: &[Found]) -> Result<(), CkRv> {
        for (index, (given, found)) in self.given.iter().zip(found).enumerate() {
            let length = match found {
                Found::Untouched => continue,
                Found::Unavailable => CK_UNAVAILABLE_INFORMATION,
                Found::Size(size) => *size as CK_ULONG,
                Found::Value(attribute) => {
                    let length = attribute.value.len() as CK_ULONG;
                    if given.pValue.is_null() || given.ulValueLen < length {
                        return Err(CkRv::GENERAL_ERROR); // no `Found` is made like that
                    }
                    // SAFETY: there is a place with this much room, by the check above and the word
                    // of whoever made this; the value was just received, so it lies elsewhere.
                    unsafe { copy(&attribute.value, given.pValue.cast()) };
                    length
                }
            };
            let place = self.first.wrapping_add(index);
            let changed = CK_ATTRIBUTE {
                ulValueLen: length,
                ..*given
            };
            // SAFETY: one of the attributes that were read, and can be written by the word of
            // whoever made this.
            unsafe { place.write_unaligned(changed) };
        }
        Ok(())
    }
}
