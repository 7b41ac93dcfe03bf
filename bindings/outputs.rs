//! Allocates the room for what a module writes: bytes, and lists of numbers.
//!
//! `module` makes the C call. Every length that a module returns is checked against the room that it was given.
//! [`Room`] says how much room a call gets; only version 3 leaves the size to us.
//!
//! Large buffers are kept from call to call, because new memory is slow: for 1 MiB the kernel clears and maps 256
//! pages, which takes as long as a cipher needs for the data. [`reuse`] takes back a buffer that was handed out.

use std::alloc::{Layout, alloc_zeroed};
use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki_sys::*;
use xdr::codec::wipe;
use xdr::word_size::{narrow, wide};
use xdr::{CkRv, Function, LONGEST_BYTES, MOST_ELEMENTS, OutputResult, Room, Ulong};

/// Upper bound on the memory for one reply whose size the client does not tell, in bytes, whatever length a module asks
/// for. It is also the upper bound on the memory for attribute values.
pub const OUTPUT_LIMIT: usize = 64 << 20;

/// Upper bound on the length of random data, in bytes: as much as fits into a reply of 1 GiB.
pub const LONGEST_RANDOM: usize = (1 << 30) - 4096;

/// Upper bound on the room that a call gets, in bytes, whatever room the client says it has: more than that fits into
/// no reply. New memory costs nothing until the module writes to it.
const MOST_ROOM: u64 = LONGEST_BYTES;

/// Size of the buffer for small outputs, in bytes. Each thread keeps one.
const SCRATCH: usize = 20 << 10;

/// Upper bound on the total size of the large buffers that this process keeps, in bytes.
const KEPT: usize = 8 << 20;

/// From this size on, the allocator gives memory back to the kernel when it is freed (the upper bound of
/// glibc's M_MMAP_THRESHOLD). Wiping it first would only make the kernel provide pages that were never used.
const ALWAYS_MAPPED: usize = 32 << 20;

thread_local! {
    /// The buffer for small outputs. Between two calls it is all zeros, provided that the module told correctly how
    /// much it wrote. The room of a secret output is wiped as a whole.
    static SCRATCH_ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Large buffers for the next calls. They contain zeros, or outputs that were sent to this process's client.
static KEPT_BUFFERS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Keeps the memory of an output for the next calls. The bytes must have been sent to the client of this process, or
/// have been wiped: a module that claims to have written more than it did would send them again.
pub fn reuse(buffer: Vec<u8>) {
    let capacity = buffer.capacity();
    if !(SCRATCH..=KEPT).contains(&capacity) {
        return;
    }
    let mut kept = kept_buffers();
    let mut size: usize = kept.iter().map(Vec::capacity).sum();
    while size + capacity > KEPT && !kept.is_empty() {
        size -= kept.remove(0).capacity();
    }
    kept.push(buffer);
}

fn kept_buffers() -> MutexGuard<'static, Vec<Vec<u8>>> {
    KEPT_BUFFERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a buffer of at least `size` bytes, more than 0. `None` if there is no memory.
fn large_buffer(size: usize) -> Option<Vec<u8>> {
    let mut kept = kept_buffers();
    let fitting = (0_usize..).zip(kept.iter().map(Vec::capacity));
    let fitting = fitting.filter(|(_, capacity)| *capacity >= size);
    let smallest = fitting.min_by_key(|(_, capacity)| *capacity);
    let found = smallest.map(|(position, _)| kept.remove(position));
    drop(kept);
    match found {
        Some(mut buffer) => {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            Some(buffer)
        }
        None => zeros(size),
    }
}

/// Allocates zeroed memory of `size` bytes, more than 0. `None` if there is none.
pub(crate) fn zeros(size: usize) -> Option<Vec<u8>> {
    let layout = Layout::array::<u8>(size).ok()?;
    // SAFETY: the layout has a size that is not 0, because `size` is not.
    let memory = unsafe { alloc_zeroed(layout) };
    if memory.is_null() {
        return None;
    }
    // SAFETY: the global allocator made this memory with the layout of `size` bytes, which are zeros.
    // Nothing else refers to it.
    Some(unsafe { Vec::from_raw_parts(memory, size, size) })
}

/// The result of one call.
struct Output {
    rv: CkRv,
    /// The length as the module left it.
    length: CK_ULONG,
    /// What it wrote, with CKR_OK.
    data: Vec<u8>,
}

/// Makes a call that returns bytes, with the room that the client has. `function` says whether the bytes are secret.
///
/// Without a bound on the room, in version 3, it calls once with `usual` bytes and, if that is too small,
/// again with the size that the module asks for. The original asks for the size first, or has a fixed room
/// of 16384 bytes.
pub(crate) fn output(
    function: Function,
    room: Room,
    usual: usize,
    mut call: impl FnMut(*mut CK_BYTE, *mut CK_ULONG) -> CkRv,
) -> OutputResult {
    let mut length = Ulong::default();
    let Output { rv, data, .. } = match room {
        Room::NoLength => failed(call(null_mut(), null_mut())),
        Room::Null { length: passed } => {
            let mut left = narrow(passed);
            let rv = call(null_mut(), &raw mut left);
            length = Ulong(told(left, passed));
            failed(rv)
        }
        Room::Buffer(passed) => {
            let room = usize::try_from(passed.min(MOST_ROOM)).unwrap_or(usize::MAX);
            let output = output_into(function, room, &mut call);
            // A length that the module left unchanged is returned as it was passed, whatever room the module got.
            length = match output.length == narrow(room as u64) {
                true => Ulong(passed),
                false => Ulong(wide(output.length)),
            };
            output
        }
        Room::Unbounded => {
            let output = unbounded_output(function, usual, &mut call);
            length = Ulong(output.data.len() as u64);
            output
        }
    };
    OutputResult {
        rv,
        length,
        data: data.into(),
    }
}

/// Returns a length or count that was `passed` and that the module may have changed.
fn told(left: CK_ULONG, passed: u64) -> u64 {
    if left == narrow(passed) {
        passed
    } else {
        wide(left)
    }
}

fn failed(rv: CkRv) -> Output {
    Output {
        rv,
        length: 0,
        data: Vec::new(),
    }
}

fn unbounded_output(
    function: Function,
    usual: usize,
    call: &mut impl FnMut(*mut CK_BYTE, *mut CK_ULONG) -> CkRv,
) -> Output {
    let first = output_into(function, usual, call);
    if first.rv != CkRv::BUFFER_TOO_SMALL {
        return first;
    }
    let asked = usize::try_from(first.length).unwrap_or(usize::MAX);
    if asked <= usual || asked > OUTPUT_LIMIT {
        log_lie(CkRv::BUFFER_TOO_SMALL, first.length, usual);
        return failed(CkRv::GENERAL_ERROR);
    }
    match output_into(function, asked, call) {
        second if second.rv == CkRv::BUFFER_TOO_SMALL => {
            log_lie(CkRv::BUFFER_TOO_SMALL, second.length, asked);
            failed(CkRv::GENERAL_ERROR)
        }
        second => second,
    }
}

fn log_lie(rv: CkRv, length: CK_ULONG, room: usize) {
    log::error!("the module returned {rv} with length {length}, but the buffer has {room} bytes");
}

/// Makes one call with a buffer of `room` bytes.
fn output_into(
    function: Function,
    room: usize,
    call: &mut impl FnMut(*mut CK_BYTE, *mut CK_ULONG) -> CkRv,
) -> Output {
    match room {
        ..=SCRATCH => small_output(function.hands_out_secrets(), room, call),
        _ => large_output(function.hands_out_secrets(), room, call),
    }
}

/// Copies a small output out of the thread's buffer.
fn small_output(
    is_secret: bool,
    room: usize,
    call: &mut impl FnMut(*mut CK_BYTE, *mut CK_ULONG) -> CkRv,
) -> Output {
    let mut scratch = SCRATCH_ROOM.take();
    scratch.resize(SCRATCH, 0);
    let place = scratch.get_mut(..room).unwrap_or_default();
    let (mut output, written) = call_with(place, call);
    match written {
        Some(length) => {
            output.data = place.get(..length).unwrap_or_default().to_vec();
            // Padding of the plaintext may follow it.
            let used = if is_secret { room } else { length };
            wipe(place.get_mut(..used).unwrap_or_default());
        }
        None => wipe(place),
    }
    SCRATCH_ROOM.set(scratch);
    output
}

/// Returns the large buffer itself, or a copy if the output is much shorter.
///
/// If the buffer is kept, the bytes are wiped that a failing call or a copied output left in it. If it is returned, it
/// goes to the client; [`reuse`] says what must be wiped of it. So an encryption writes no memory beside the module's
/// own writes.
fn large_output(
    is_secret: bool,
    room: usize,
    call: &mut impl FnMut(*mut CK_BYTE, *mut CK_ULONG) -> CkRv,
) -> Output {
    let Some(mut buffer) = large_buffer(room) else {
        return failed(CkRv::HOST_MEMORY);
    };
    let place = buffer.get_mut(..room).unwrap_or_default();
    let (mut output, written) = call_with(place, call);
    let goes_back_to_kernel = room >= ALWAYS_MAPPED;
    match written {
        Some(length) if length >= room / 2 => {
            // Padding of the plaintext may follow it.
            if is_secret && !goes_back_to_kernel {
                wipe(buffer.get_mut(length..room).unwrap_or_default());
            }
            buffer.truncate(length);
            output.data = buffer;
        }
        Some(length) => {
            output.data = place.get(..length).unwrap_or_default().to_vec();
            let used = if is_secret { room } else { length };
            if !goes_back_to_kernel {
                wipe(buffer.get_mut(..used).unwrap_or_default());
            }
            reuse(buffer);
        }
        None => {
            if !goes_back_to_kernel {
                wipe(buffer.get_mut(..room).unwrap_or_default());
            }
            reuse(buffer);
        }
    }
    output
}

/// Makes one call. Returns also how much of `room` the module filled, if the call succeeded.
fn call_with(
    room: &mut [u8],
    call: &mut impl FnMut(*mut CK_BYTE, *mut CK_ULONG) -> CkRv,
) -> (Output, Option<usize>) {
    let mut length = narrow(room.len() as u64);
    let rv = call(room.as_mut_ptr(), &raw mut length);
    let mut output = Output {
        rv,
        length,
        data: Vec::new(),
    };
    if !rv.is_ok() {
        return (output, None);
    }
    match usize::try_from(length) {
        Ok(written) if written <= room.len() => (output, Some(written)),
        _ => {
            log_lie(rv, length, room.len());
            output.rv = CkRv::GENERAL_ERROR;
            (output, None)
        }
    }
}

/// A list that a module wrote.
pub(crate) struct List {
    pub(crate) rv: CkRv,
    /// The entries, with CKR_OK.
    pub(crate) entries: Vec<u64>,
    /// The number of entries as the module left it.
    pub(crate) count: Ulong,
}

/// Calls C_GetSlotList or C_GetMechanismList: `call` gets the list and the pointer to its length.
pub(crate) fn list(room: Room, mut call: impl FnMut(*mut CK_ULONG, *mut CK_ULONG) -> CkRv) -> List {
    match room {
        Room::NoLength => no_list(call(null_mut(), null_mut()), 0),
        Room::Null { length } => {
            let mut number = narrow(length);
            let rv = call(null_mut(), &raw mut number);
            no_list(rv, told(number, length))
        }
        Room::Buffer(passed) => {
            filled_list(passed, passed, |entries, _, number| call(entries, number))
        }
        Room::Unbounded => {
            let mut number = 0;
            match call(null_mut(), &raw mut number) {
                CkRv::OK => filled_list(wide(number), wide(number), |entries, _, number| {
                    call(entries, number)
                }),
                rv => no_list(rv, wide(number)),
            }
        }
    }
}

/// Returns an answer without a list.
fn no_list(rv: CkRv, count: u64) -> List {
    List {
        rv,
        entries: Vec::new(),
        count: Ulong(count),
    }
}

/// Calls C_FindObjects, which has the room as an argument of its own.
pub(crate) fn objects(
    room: Room,
    call: impl FnOnce(*mut CK_ULONG, CK_ULONG, *mut CK_ULONG) -> CkRv,
) -> List {
    match room {
        Room::NoLength => no_list(call(null_mut(), 0, null_mut()), 0),
        Room::Null { length } => {
            let mut number = 0;
            let rv = call(null_mut(), narrow(length), &raw mut number);
            no_list(rv, wide(number))
        }
        Room::Buffer(passed) => filled_list(passed, 0, call),
        Room::Unbounded => filled_list(MOST_ELEMENTS, 0, call),
    }
}

/// Makes a call with room for `passed` entries, or for as many as a reply can have. `call` gets the list, which has an
/// address even without room, the room, and the place for the number of entries, which holds `before`.
fn filled_list(
    passed: u64,
    before: u64,
    call: impl FnOnce(*mut CK_ULONG, CK_ULONG, *mut CK_ULONG) -> CkRv,
) -> List {
    let room = passed.min(MOST_ELEMENTS);
    let mut list = vec![0; room.max(1) as usize];
    let room = narrow(room);
    let mut number = narrow(before).min(room);
    let unchanged = number;
    let rv = call(list.as_mut_ptr(), room, &raw mut number);
    if rv.is_ok() && number > room {
        log::error!(
            "the module returned CKR_OK with {number} entries, but the list has room for {room}"
        );
        return no_list(CkRv::GENERAL_ERROR, 0);
    }
    if rv.is_ok() {
        let entries = list.into_iter().zip(0..number);
        return List {
            rv,
            entries: entries.map(|(entry, _)| wide(entry)).collect(),
            count: Ulong(wide(number)),
        };
    }
    // A count that the module left unchanged is returned as it was passed.
    let count = match number == unchanged {
        true => before,
        false => wide(number),
    };
    no_list(rv, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a call to a module that checks its room with `looks`, writes `fill` everywhere, and returns a length.
    fn call(
        function: Function,
        room: u64,
        fill: u8,
        length: usize,
        rv: CkRv,
        looks: impl Fn(&[u8]),
    ) -> Vec<u8> {
        let output = output(function, Room::Buffer(room), 0, |data, told| {
            let room = usize::try_from(room).expect("a size");
            // SAFETY: `output` passes the address of this much memory, which nobody else refers to.
            let place = unsafe { std::slice::from_raw_parts_mut(data, room) };
            looks(place);
            place.fill(fill);
            // SAFETY: `output` passes the address of a variable.
            unsafe { *told = narrow(length as u64) };
            rv
        });
        assert_eq!(output.rv, rv);
        output.data.into_vec().unwrap_or_default()
    }

    /// A module may use more of its room than it tells, for the padding of a plaintext.
    #[test]
    fn a_small_secret_output_leaves_nothing_in_its_room() {
        let is_clean = |place: &[u8]| assert!(place.iter().all(|byte| *byte == 0));
        for length in [10, 100] {
            let output = call(Function::C_Decrypt, 100, 7, length, CkRv::OK, is_clean);
            assert_eq!(output, vec![7; length]);
        }
        let failed = call(
            Function::C_Decrypt,
            100,
            7,
            10,
            CkRv::FUNCTION_FAILED,
            is_clean,
        );
        assert!(failed.is_empty());
        call(Function::C_Sign, 100, 7, 100, CkRv::OK, is_clean);
        call(Function::C_Sign, 100, 7, 100, CkRv::OK, is_clean);
    }

    /// This is one test, because all tests of the process share the buffers.
    #[test]
    fn memory_is_used_again_and_holds_nothing_that_was_not_sent() {
        let (encrypt, decrypt) = (Function::C_Encrypt, Function::C_Decrypt);
        let zeros = |place: &[u8]| assert!(place.iter().all(|byte| *byte == 0));
        let any = |_: &[u8]| {};
        let room = 100_000;

        // A buffer that was handed out comes back with the bytes that were sent.
        let sent = call(encrypt, room, 1, 90_000, CkRv::OK, zeros);
        assert_eq!(sent, [1; 90_000]);
        let address = sent.as_ptr();
        reuse(sent);
        let mut sent = call(decrypt, room, 2, 90_000, CkRv::OK, |place| {
            assert_eq!(place.as_ptr(), address);
            assert!(place[90_000..].iter().all(|byte| *byte == 0));
        });
        // The sender wipes the plaintext; its padding is wiped here.
        wipe(&mut sent);
        reuse(sent);

        // A failing call, and an output that is copied.
        let none = call(encrypt, room, 3, 90_000, CkRv::DEVICE_ERROR, zeros);
        assert_eq!(none, []);
        let short = call(decrypt, room, 4, 20, CkRv::OK, zeros);
        assert_eq!(short, [4; 20]);
        let short = call(encrypt, room, 5, 0, CkRv::OK, zeros);
        assert_eq!(short, []);
        let again = call(encrypt, room, 6, 100_000, CkRv::OK, |place| {
            assert_eq!(place.as_ptr(), address);
        });
        // That buffer was not given back.
        let other = call(encrypt, room, 7, 100_000, CkRv::OK, zeros);
        assert_ne!(other.as_ptr(), again.as_ptr());

        // A bounded number of bytes is kept: those of the newest buffers.
        let size = 3 << 20;
        let three = [8, 9, 10].map(|fill| call(encrypt, size, fill, 3 << 20, CkRv::OK, any));
        let addresses = three.each_ref().map(|data| data.as_ptr());
        three.into_iter().for_each(reuse);
        let kept: Vec<_> = kept_buffers().iter().map(|kept| kept.as_ptr()).collect();
        assert_eq!(kept, addresses[1..]);
        let long = KEPT as u64 + 1;
        reuse(call(encrypt, long, 11, KEPT, CkRv::OK, zeros));
        assert_eq!(kept_buffers().len(), 2);
    }
}
