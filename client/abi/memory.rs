//! Turns the application's pointers into values and slices, and writes results back through them.
//!
//! The application guarantees that a pointer that is not null is valid until the call returns (PKCS#11 v2.20, section
//! 11.1); each `# Safety` below requires that and nothing else. No alignment is assumed. Output is written at the end,
//! because an application may encrypt in place, and after the daemon's reply was checked against the request. Only a long
//! buffer in which no input lies is borrowed during the call, so that bytes can be received into it
//! ([`Places::landing`]); if the connection is lost meanwhile, the failing call may leave a part of the result there.

use std::ffi::c_void;
use std::slice;

use cryptoki_sys::{CK_BYTE, CK_OBJECT_HANDLE, CK_ULONG, CK_UTF8CHAR};
use xdr::word_size::wide;
use xdr::{CkRv, Input, LONGEST_BYTES, MOST_ELEMENTS, NullPlaces, ObjectHandle, Room};

use crate::landing::{Landing, SHORT};
use crate::remote::result;
use crate::structures::number;

mod mechanisms;
mod templates;

pub(super) use mechanisms::{ParameterPlaces, mechanism, message_parameter};
pub(super) use templates::{WantedAttributes, template};

/// A pointer to one value that is an output. If it is NULL, the module gets NULL too, and nothing is written.
#[derive(Clone, Copy)]
pub(super) struct Place<T>(*mut T);

impl<T> Place<T> {
    /// # Safety
    /// Unless null, `place` can be written as a `T` while this lives.
    pub unsafe fn new(place: *mut T) -> Place<T> {
        Place(place)
    }

    /// Makes a place for a function that the library answers itself. NULL is an error.
    ///
    /// # Safety
    /// As [`Place::new`].
    pub unsafe fn required(place: *mut T) -> Result<Place<T>, CkRv> {
        match place.is_null() {
            true => Err(CkRv::ARGUMENTS_BAD),
            false => Ok(Place(place)),
        }
    }

    /// Returns the [`NullPlaces`] of a function with one place.
    pub fn nulls(self) -> NullPlaces {
        NullPlaces {
            first: self.0.is_null(),
            second: false,
        }
    }

    /// Returns the [`NullPlaces`] of a function with two places.
    pub fn nulls_with(self, second: Place<T>) -> NullPlaces {
        NullPlaces {
            first: self.0.is_null(),
            second: second.0.is_null(),
        }
    }

    /// Writes the value.
    pub fn put(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: not null, so the creator of this place guaranteed that it can be written.
            unsafe { self.0.write_unaligned(value) };
        }
    }
}

impl Place<CK_OBJECT_HANDLE> {
    /// Writes the handle if the module wrote one.
    pub fn put_handle(self, object: Option<ObjectHandle>) -> Result<(), CkRv> {
        if let Some(object) = object {
            self.put(number(object.0)?);
        }
        Ok(())
    }
}

/// A pointer to a buffer for several values, and a pointer to the number of values.
#[derive(Clone, Copy)]
pub(super) struct Places<T> {
    first: *mut T,
    count: *mut CK_ULONG,
    room: Room,
}

impl<T: Copy> Places<T> {
    /// Makes the places of a function that takes the room from `count`.
    ///
    /// # Safety
    /// Unless null, `count` can be read and written as a CK_ULONG while this lives; unless null,
    /// `first` can be written as that many `T`.
    pub unsafe fn new(first: *mut T, count: *mut CK_ULONG) -> Places<T> {
        if count.is_null() {
            let room = Room::NoLength;
            return Places { first, count, room };
        }
        // SAFETY: not null, so readable as the caller guarantees.
        let length = unsafe { count.read_unaligned() };
        // SAFETY: guaranteed by the caller.
        unsafe { Places::with_room(first, length, count) }
    }

    /// Makes the places of a function that takes the room as a separate number.
    ///
    /// # Safety
    /// Unless null, `first` can be written as `room` values of `T` while this lives, and `count` as a CK_ULONG.
    pub unsafe fn with_room(first: *mut T, room: CK_ULONG, count: *mut CK_ULONG) -> Places<T> {
        let length = wide(room);
        let room = match (first.is_null(), count.is_null()) {
            (_, true) => Room::NoLength,
            (true, false) => Room::Null { length },
            (false, false) => Room::Buffer(length),
        };
        Places { first, count, room }
    }

    /// Returns how many values there is room for.
    pub fn room(self) -> Room {
        self.room
    }

    /// Writes the number and the values of a reply. If they do not match the request, writes nothing and returns
    /// CKR_DEVICE_ERROR. If the call failed and the reply's number is 0, the application's number stays as it is: such
    /// a reply comes for a call that was refused before the module saw it.
    pub fn put(self, rv: CkRv, told: u64, values: &[T]) -> Result<(), CkRv> {
        self.checked(rv, told, values.len())?;
        if !values.is_empty() {
            // SAFETY: there is room for this many values, as the check above and the creator of this guarantee. The
            // values were just received, so they lie elsewhere.
            unsafe { copy(values, self.first) };
        }
        self.put_count(rv, told, values.len())
    }

    /// Returns the number of a reply if it and the `sent` values match the request.
    fn checked(self, rv: CkRv, told: u64, sent: usize) -> Result<CK_ULONG, CkRv> {
        let sent = sent as u64;
        let is_sound = match self.room {
            Room::Buffer(room) if rv.is_ok() => sent == told && sent <= room,
            Room::Buffer(room) => sent <= room,
            Room::NoLength | Room::Null { .. } | Room::Unbounded => sent == 0,
        };
        match is_sound {
            true => number(told),
            false => Err(CkRv::DEVICE_ERROR),
        }
    }

    /// Does what [`Places::put`] does for `sent` values that have already been written.
    pub fn put_count(self, rv: CkRv, told: u64, sent: usize) -> Result<(), CkRv> {
        let count = self.checked(rv, told, sent)?;
        let is_told = rv.is_ok() || rv == CkRv::BUFFER_TOO_SMALL || told != 0;
        if is_told && !self.count.is_null() {
            // SAFETY: not null, so the creator of this guaranteed that it can be written.
            unsafe { self.count.write_unaligned(count) };
        }
        result(rv)
    }
}

impl Places<CK_BYTE> {
    /// Returns the buffer, for bytes to be received into it. If the buffer is short, or `input` lies in it, none.
    ///
    /// # Safety
    /// As [`Places::new`], for as long as `'a`. Until then nothing else uses the buffer; of the call's inputs, only
    /// `input` may lie in it.
    pub unsafe fn landing<'a>(self, input: &[u8]) -> Landing<'a> {
        let Room::Buffer(room) = self.room else {
            return Landing::none();
        };
        let length = usize::try_from(room).ok();
        let length = length.filter(|length| *length > SHORT && room <= LONGEST_BYTES);
        let Some(length) = length else {
            return Landing::none();
        };
        if !is_apart(input, self.first.addr(), length) {
            return Landing::none();
        }
        // SAFETY: a buffer, so not null, and writable as the caller guarantees; not longer than an object can be. Any
        // value is a valid byte, and memory of C code counts as initialised. Nothing else is used to access it while the
        // landing is: the input lies elsewhere, as was just checked, the caller guarantees this for the rest, and the
        // pointers of this are used again only when the landing is not any more.
        Landing::new(unsafe { slice::from_raw_parts_mut(self.first, length) })
    }
}

impl Places<CK_ULONG> {
    /// Writes a list of numbers.
    pub fn put_list(
        self,
        rv: CkRv,
        told: u64,
        list: impl Iterator<Item = u64>,
    ) -> Result<(), CkRv> {
        let has_count = rv.is_ok() || rv == CkRv::BUFFER_TOO_SMALL;
        if has_count && told > MOST_ELEMENTS {
            return Err(CkRv::DEVICE_ERROR); // no list is that long, and applications multiply its length
        }
        let list: Vec<CK_ULONG> = list.map(number).collect::<Result<_, _>>()?;
        self.put(rv, told, &list)
    }
}

/// Returns whether `input` and the memory of `length` bytes at this address have no byte in common.
fn is_apart(input: &[u8], address: usize, length: usize) -> bool {
    let input = input.as_ptr_range();
    input.end.addr() <= address || input.start.addr() >= address.saturating_add(length)
}

/// Copies values to consecutive places, of any alignment.
///
/// # Safety
/// `to` can be written as that many `T` and does not overlap `values`.
pub(super) unsafe fn copy<T: Copy>(values: &[T], to: *mut T) {
    let (from, to) = (values.as_ptr().cast::<u8>(), to.cast::<u8>());
    // SAFETY: as bytes, so alignment does not matter; the caller guarantees size and distinctness.
    unsafe { to.copy_from_nonoverlapping(from, size_of_val(values)) };
}

/// Returns a byte string for the module. If it is too long for a record, returns `too_long` and does not read it.
///
/// # Safety
/// Unless null, `first` can be read as that many bytes, unchanged, for as long as `'a`.
pub(super) unsafe fn input<'a>(
    first: *const CK_BYTE,
    length: CK_ULONG,
    too_long: CkRv,
) -> Result<Input<'a>, CkRv> {
    if first.is_null() {
        let length = wide(length);
        return Ok(Input::Null { length });
    }
    // SAFETY: guaranteed by the caller, and not null.
    unsafe { bytes(first, length, too_long) }.map(Input::Bytes)
}

/// Returns the `SIZE` bytes of a text field.
///
/// # Safety
/// As [`input`].
pub(super) unsafe fn field<'a, const SIZE: usize>(
    first: *const CK_BYTE,
) -> Result<Input<'a>, CkRv> {
    // SAFETY: guaranteed by the caller.
    unsafe { input(first, SIZE as CK_ULONG, CkRv::ARGUMENTS_BAD) }
}

/// Returns the bytes of a function's name, without the terminating zero.
///
/// # Safety
/// Unless null, `first` can be read, unchanged for as long as `'a`, up to a zero.
pub(super) unsafe fn name<'a>(first: *const CK_UTF8CHAR) -> Result<Input<'a>, CkRv> {
    if first.is_null() {
        return Ok(Input::NULL);
    }
    let is_end = |index: &usize| {
        // SAFETY: no byte before this one was the zero, so it can be read as the caller guarantees.
        unsafe { first.wrapping_add(*index).read() == 0 }
    };
    let length = (0..LONGEST_NAME).find(is_end);
    let length = length.ok_or(CkRv::ARGUMENTS_BAD)?;
    // SAFETY: these bytes were just read, and stay unchanged as the caller guarantees.
    Ok(Input::Bytes(unsafe {
        slice::from_raw_parts(first, length)
    }))
}

/// The upper bound on the length of a function's name, in bytes.
const LONGEST_NAME: usize = 64;

/// Returns a byte string; `too_long` if no record can carry it.
///
/// # Safety
/// `first` is not null, and can be read as that many bytes, unchanged, for as long as `'a`.
unsafe fn bytes<'a>(first: *const u8, length: CK_ULONG, too_long: CkRv) -> Result<&'a [u8], CkRv> {
    let length = usize::try_from(length).ok();
    let length = length.filter(|length| *length as u64 <= LONGEST_BYTES);
    let length = length.ok_or(too_long)?;
    // SAFETY: not null, not longer than an object can be, and readable as the caller guarantees.
    Ok(unsafe { slice::from_raw_parts(first, length) })
}

/// Returns a copy of the application's bytes. CKR_HOST_MEMORY if there is not enough memory for it.
///
/// # Safety
/// As [`bytes`].
unsafe fn copied(first: *const c_void, length: CK_ULONG) -> Result<Vec<u8>, CkRv> {
    // SAFETY: guaranteed by the caller.
    let from = unsafe { bytes(first.cast(), length, CkRv::HOST_MEMORY) }?;
    let mut copy = Vec::new();
    copy.try_reserve_exact(from.len())
        .map_err(|_| CkRv::HOST_MEMORY)?;
    copy.extend_from_slice(from);
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_apart_if_it_has_no_byte_in_common() {
        let memory = [0; 30];
        let input = &memory[10..20];
        let start = memory.as_ptr().addr();
        for (first, length, is) in [
            (0, 10, true),
            (0, 11, false),
            (0, 30, false),
            (10, 10, false),
            (12, 1, false),
            (19, 1, false),
            (20, 10, true),
        ] {
            assert_eq!(
                is_apart(input, start + first, length),
                is,
                "{first} {length}"
            );
        }
        assert!(!is_apart(input, start, usize::MAX));
        assert!(is_apart(&[], start, 30));
    }

    /// Whether bytes are received directly into a buffer of this room, for a call with this input.
    fn is_long(first: *mut CK_BYTE, room: CK_ULONG, input: &[u8]) -> bool {
        let mut count = room;
        // SAFETY: `count` lives until the end; nothing is written to the buffer.
        let places = unsafe { Places::new(first, &raw mut count) };
        // SAFETY: nothing is written to the buffer, or read from it.
        unsafe { places.landing(input) }.is_long()
    }

    #[test]
    fn only_a_long_buffer_without_the_input_takes_bytes_directly() {
        let mut memory = vec![0; 3 * SHORT];
        let first = memory.as_mut_ptr();
        let is_long = |input: std::ops::Range<usize>, at: usize, room: usize| {
            let from = first.wrapping_add(input.start);
            // SAFETY: inside of the memory, which nothing writes to.
            let input = unsafe { slice::from_raw_parts(from, input.len()) };
            is_long(first.wrapping_add(at), room as CK_ULONG, input)
        };
        assert!(is_long(0..SHORT, SHORT, SHORT + 1));
        assert!(is_long(2 * SHORT..3 * SHORT, 0, 2 * SHORT));
        assert!(!is_long(0..SHORT, SHORT, SHORT));
        assert!(!is_long(0..SHORT + 1, SHORT, SHORT + 1));
        assert!(!is_long(SHORT..2 * SHORT, 0, SHORT + 1));
        assert!(!is_long(SHORT + 5..SHORT + 6, SHORT, SHORT + 1));
        assert!(!is_long(0..1, SHORT, usize::MAX), "no buffer is that long");
        assert!(!super::tests::is_long(std::ptr::null_mut(), 1 << 20, &[]));
    }
}
