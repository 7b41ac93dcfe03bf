//! Builds the C arguments of a module's functions and reads its C results back.
//!
//! `module` makes the C call with them. Every address passed to a module belongs to a value that
//! lives longer than the call, and its length is passed beside it. Every length that a module
//! returns is checked against the room that it was given.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::null_mut;

use cryptoki_sys::*;
use xdr::{Attribute, CkRv, DataResult, LONGEST_BYTES, MOST_ELEMENTS, Mechanism, Template, Ulong};

use xdr::attribute_types::{is_nested, is_number};
use xdr::word_size::{narrow, wide};
use zeroize::Zeroize;

/// Upper bound on the memory for one reply, in bytes, whatever length a module asks for.
pub(crate) const OUTPUT_LIMIT: usize = 64 << 20;

/// Upper bound on the length of random data, in bytes: what a reply of 1 GiB has room for.
pub const LONGEST_RANDOM: usize = (1 << 30) - 4096;

/// Zeros behind a parameter, as 8-byte words: more than the longest structure of the standard.
const PARAMETER_SPARE: usize = 32;

/// A byte string as address and length. An empty one has an address too, because NULL has another
/// meaning in PKCS#11.
pub(crate) fn input(bytes: &[u8]) -> (*mut CK_BYTE, CK_ULONG) {
    let address = if bytes.is_empty() { &[0] } else { bytes };
    (address.as_ptr().cast_mut(), narrow(bytes.len() as u64))
}

/// A PIN as address and length, without a copy; NULL for a token with a keypad of its own.
pub(crate) fn pin(pin: Option<&[u8]>) -> (*mut CK_UTF8CHAR, CK_ULONG) {
    pin.map_or((null_mut(), 0), input)
}

/// A mechanism whose parameter holds no address of a client, with an aligned copy of it.
///
/// A module that reads a whole structure where the parameter is shorter finds zeros behind it.
pub(crate) struct CMechanism {
    c: CK_MECHANISM,
    /// Where `c.pParameter` points to.
    _parameter: Vec<u64>,
}

impl CMechanism {
    pub(crate) fn new(mechanism: &Mechanism, flat: &[u64]) -> Result<CMechanism, CkRv> {
        let number = narrow(mechanism.mechanism_type().0);
        let is_flat = flat.iter().any(|&listed| narrow(listed) == number);
        let bytes = mechanism.parameter().for_module(is_flat)?;
        let mut parameter = Vec::with_capacity(bytes.len().div_ceil(8) + PARAMETER_SPARE);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            for (byte, value) in word.iter_mut().zip(chunk) {
                *byte = *value;
            }
            parameter.push(u64::from_ne_bytes(word));
        }
        parameter.resize(parameter.len() + PARAMETER_SPARE, 0);
        // The original gives an empty parameter an address, and modules refuse that.
        let address = if bytes.is_empty() {
            null_mut()
        } else {
            parameter.as_mut_ptr().cast()
        };
        Ok(CMechanism {
            c: CK_MECHANISM {
                mechanism: number,
                pParameter: address,
                ulParameterLen: narrow(bytes.len() as u64),
            },
            _parameter: parameter,
        })
    }

    pub(crate) fn as_ptr(&mut self) -> *mut CK_MECHANISM {
        &raw mut self.c
    }
}

/// Which address an empty attribute value gets.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Empty {
    /// NULL: the call asks for the length.
    Null,
    /// An address with length 0: an empty value.
    Address,
}

/// A C template that points to the values of a [`Template`], for a module to read and write.
pub(crate) struct CTemplate<'a> {
    /// One more than `count`, so that an empty template has an address too.
    attributes: Vec<CK_ATTRIBUTE>,
    count: usize,
    values: PhantomData<&'a mut Template>,
}

impl<'a> CTemplate<'a> {
    /// Refuses a template that contains another template, because that would hold addresses, unless the
    /// other is empty.
    pub(crate) fn new(template: &'a mut Template, empty: Empty) -> Result<CTemplate<'a>, CkRv> {
        let holds_addresses = |attribute: &Attribute| {
            let is_empty = attribute.value.is_empty() && attribute.value_len == Ulong(0);
            is_nested(attribute.attribute_type) && !is_empty
        };
        if template.0.iter().any(holds_addresses) {
            return Err(CkRv::ATTRIBUTE_TYPE_INVALID);
        }
        Ok(CTemplate::of(template.0.iter_mut(), empty))
    }

    fn of(values: impl Iterator<Item = &'a mut Attribute>, empty: Empty) -> CTemplate<'a> {
        let mut attributes: Vec<CK_ATTRIBUTE> = values
            .map(|attribute| CK_ATTRIBUTE {
                type_: narrow(attribute.attribute_type.0),
                pValue: match (attribute.value.is_empty(), empty) {
                    (true, Empty::Null) => null_mut(),
                    (true, Empty::Address) => input(&[]).0.cast(),
                    (false, _) => attribute.value.as_mut_ptr().cast(),
                },
                ulValueLen: narrow(attribute.value.len() as u64),
            })
            .collect();
        let count = attributes.len();
        attributes.push(CK_ATTRIBUTE {
            type_: 0,
            pValue: null_mut(),
            ulValueLen: 0,
        });
        CTemplate {
            attributes,
            count,
            values: PhantomData,
        }
    }

    pub(crate) fn as_ptr(&mut self) -> *mut CK_ATTRIBUTE {
        self.attributes.as_mut_ptr()
    }

    /// NULL if the template is empty. The original passes that to C_GenerateKey and
    /// C_GenerateKeyPair, and so do we.
    pub(crate) fn as_ptr_or_null(&mut self) -> *mut CK_ATTRIBUTE {
        if self.count == 0 {
            null_mut()
        } else {
            self.as_ptr()
        }
    }

    pub(crate) fn count(&self) -> CK_ULONG {
        narrow(self.count as u64)
    }
}

/// Makes a C_GetAttributeValue call on the template in place. The module is asked for the size of nested
/// templates only: the room for one holds addresses, and so does its value, unless that is empty.
///
/// An attribute that a failing call does not change is returned as it was sent, as by the original.
pub(crate) fn attribute_values(
    template: &mut Template,
    call: impl FnOnce(*mut CK_ATTRIBUTE, CK_ULONG) -> CkRv,
) -> CkRv {
    let drop_room = |attribute: &mut Attribute| {
        let has_room = is_nested(attribute.attribute_type) && !attribute.value.is_empty();
        if has_room {
            attribute.value.zeroize();
        }
        has_room
    };
    let withheld: Vec<bool> = template.0.iter_mut().map(drop_room).collect();
    let mut c = CTemplate::of(template.0.iter_mut(), Empty::Null);
    let rv = call(c.as_ptr(), c.count());
    let answers = c.attributes.iter();
    let lengths: Vec<CK_ULONG> = answers.map(|answer| answer.ulValueLen).collect();
    let mut zeros = MOST_ZEROS;
    let mut some_withheld = false;
    for ((attribute, length), is_withheld) in template.0.iter_mut().zip(lengths).zip(withheld) {
        take_value(attribute, length, &mut zeros);
        if is_withheld && attribute.value_len != Ulong(0) {
            make_unavailable(attribute);
            some_withheld = true;
        }
    }
    if some_withheld && rv.is_ok() {
        return CkRv::ATTRIBUTE_TYPE_INVALID;
    }
    rv
}

/// How many zeros one reply has at most, in bytes.
const MOST_ZEROS: usize = 64 << 10;

/// Cuts the value to the length that the module returned. If the call asked for the length, the value
/// becomes that many zeros, as the original has it, or stays empty if those are too many: the length is told
/// beside it.
fn take_value(attribute: &mut Attribute, length: CK_ULONG, zeros: &mut usize) {
    let Ok(mut length) = usize::try_from(length) else {
        return make_unavailable(attribute);
    };
    if attribute.value.is_empty() {
        if length as u64 > LONGEST_BYTES {
            return make_unavailable(attribute);
        }
        if length == 0 && is_number(attribute.attribute_type) {
            length = size_of::<CK_ULONG>(); // the original, for a call that failed as well
        }
        if length <= *zeros {
            *zeros -= length;
            attribute.value.resize(length, 0);
        }
    } else if length > attribute.value.len() {
        return make_unavailable(attribute);
    } else {
        attribute.value.truncate(length);
    }
    attribute.value_len = Ulong(length as u64);
}

/// Marks an attribute as unavailable by a length of all ones, so that our client can tell it from an
/// empty value. The original sends 0. Its clients accept both, because they look at the CK_RV too.
fn make_unavailable(attribute: &mut Attribute) {
    attribute.value.clear();
    attribute.value_len = Ulong::UNAVAILABLE;
}

/// Size of the output buffer that is kept from one call to the next, in bytes. Most outputs fit
/// into it, so that a worker need not clear new memory for each call.
const SCRATCH: usize = 20 << 10;

thread_local! {
    /// The output buffer. Between two calls it is all zeros, as far as the module returned how much
    /// it wrote.
    static SCRATCH_ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Calls for an output whose length only the module knows: once with `room` bytes and, if that is too
/// small, again with the size that the module asks for. The original asks for the size first, or has
/// a fixed room of 16384 bytes.
pub(crate) fn output(
    room: usize,
    mut call: impl FnMut(*mut CK_BYTE, *mut CK_ULONG) -> CkRv,
) -> DataResult {
    let first = if room <= SCRATCH {
        let mut scratch = SCRATCH_ROOM.take();
        scratch.resize(SCRATCH, 0);
        let room = scratch.get_mut(..room).unwrap_or_default();
        let told = output_into(room, &mut call);
        let told = told.map(|length| {
            let written = room.get_mut(..length).unwrap_or_default();
            let data = written.to_vec();
            written.fill(0);
            data
        });
        if told.is_err() {
            room.fill(0);
        }
        SCRATCH_ROOM.set(scratch);
        told
    } else {
        output_of(room, &mut call)
    };
    let (rv, data) = match first {
        Ok(data) => (CkRv::OK, data),
        Err(Failed::TooSmall(asked)) => match output_of(asked, &mut call) {
            Ok(data) => (CkRv::OK, data),
            Err(Failed::TooSmall(_)) => (CkRv::GENERAL_ERROR, Vec::new()),
            Err(Failed::With(rv)) => (rv, Vec::new()),
        },
        Err(Failed::With(rv)) => (rv, Vec::new()),
    };
    DataResult { rv, data }
}

/// Why there is no output.
enum Failed {
    /// The room was too small; the module asks for this much.
    TooSmall(usize),
    With(CkRv),
}

/// Makes one call with a new buffer.
fn output_of(
    room: usize,
    call: &mut impl FnMut(*mut CK_BYTE, *mut CK_ULONG) -> CkRv,
) -> Result<Vec<u8>, Failed> {
    let mut data = vec![0; room];
    let length = output_into(&mut data, call)?;
    data.truncate(length);
    Ok(data)
}

/// Makes one call, and returns how much of `room` the module filled.
fn output_into(
    room: &mut [u8],
    call: &mut impl FnMut(*mut CK_BYTE, *mut CK_ULONG) -> CkRv,
) -> Result<usize, Failed> {
    let mut length = narrow(room.len() as u64);
    let rv = call(room.as_mut_ptr(), &raw mut length);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    match rv {
        CkRv::OK if length <= room.len() => Ok(length),
        CkRv::BUFFER_TOO_SMALL if length > room.len() && length <= OUTPUT_LIMIT => {
            Err(Failed::TooSmall(length))
        }
        CkRv::OK | CkRv::BUFFER_TOO_SMALL => {
            let room = room.len();
            log::error!(
                "the module returned {rv} with length {length}, but the buffer has {room} bytes"
            );
            Err(Failed::With(CkRv::GENERAL_ERROR))
        }
        _ => Err(Failed::With(rv)),
    }
}

/// Calls C_GetSlotList or C_GetMechanismList. A count of 0 asks for the number of entries. The list
/// is empty, or as long as the returned count.
pub(crate) fn list(
    count: Ulong,
    mut call: impl FnMut(*mut CK_ULONG, *mut CK_ULONG) -> CkRv,
) -> (CkRv, Vec<u64>, Ulong) {
    if count.0 == 0 {
        let mut number = 0;
        let rv = call(null_mut(), &raw mut number);
        // The original sends an uninitialised word of its stack with a failing C_GetMechanismList.
        let number = if rv.is_ok() { wide(number) } else { 0 };
        return (rv, Vec::new(), Ulong(number));
    }
    let (mut list, room) = room_for(count);
    let mut number = room;
    let rv = call(list.as_mut_ptr(), &raw mut number);
    match rv {
        CkRv::OK => {
            let (rv, list) = told(list, number, room);
            let count = Ulong(list.len() as u64);
            (rv, list, count)
        }
        // What the module leaves alone goes back as it was asked for.
        _ if number == room => (rv, Vec::new(), count),
        _ => (rv, Vec::new(), Ulong(wide(number))),
    }
}

/// Calls C_FindObjects, which has the room as a separate argument.
pub(crate) fn objects(
    count: Ulong,
    call: impl FnOnce(*mut CK_ULONG, CK_ULONG, *mut CK_ULONG) -> CkRv,
) -> (CkRv, Vec<u64>) {
    let (mut list, room) = room_for(count);
    let mut number = 0;
    match call(list.as_mut_ptr(), room, &raw mut number) {
        CkRv::OK => told(list, number, room),
        rv => (rv, Vec::new()),
    }
}

/// A list that has an address even without room, and the number of entries it has room for.
fn room_for(count: Ulong) -> (Vec<CK_ULONG>, CK_ULONG) {
    let room = count.0.min(MOST_ELEMENTS);
    (vec![0; room.max(1) as usize], narrow(room))
}

/// The entries that the module returned; an error if it returned more than there was room for.
fn told(list: Vec<CK_ULONG>, number: CK_ULONG, room: CK_ULONG) -> (CkRv, Vec<u64>) {
    if number > room {
        log::error!(
            "the module returned CKR_OK with {number} entries, but the list has room for {room}"
        );
        return (CkRv::GENERAL_ERROR, Vec::new());
    }
    let entries = list.into_iter().zip(0..number);
    (CkRv::OK, entries.map(|(entry, _)| wide(entry)).collect())
}
