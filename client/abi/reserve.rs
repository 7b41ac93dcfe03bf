//! Keeps a reserve of memory, so that calls can still return CKR_HOST_MEMORY when the system has none.
//!
//! Rust aborts the process when a small allocation fails, and the process is the application's. So the library's
//! allocations go to the system's allocator and, if that fails, to a reserve in the library's static data. Calls in
//! progress are completed with it. From then on [`is_low`] makes new calls fail at once, until the system has memory
//! again. Allocations whose size depends on the application's data or on a reply do not use the reserve: their failure
//! is handled where they are made. Only atomics are used, because a forked child must not inherit a lock.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The size of the reserve, in bytes: enough for many calls at the same time, or for several C_Initialize.
const SIZE: usize = 512 << 10;

/// The largest piece of it, in bytes: the receive buffer of a TLS connection.
const LARGEST: usize = 64 << 10;

#[repr(C, align(64))]
struct Space(UnsafeCell<[u8; SIZE]>);

// SAFETY: `Reserve` gives each byte to one owner at a time, and accesses none itself.
unsafe impl Sync for Space {}

static SPACE: Space = Space(UnsafeCell::new([0; SIZE]));

/// The number of pieces in use (upper half), and the offset at which the free part begins (lower half). When no piece
/// is in use, the whole reserve is free again.
static IN_USE: AtomicU64 = AtomicU64::new(0);

/// Whether the reserve was used, and the system has not had enough memory since.
static IS_LOW: AtomicBool = AtomicBool::new(false);

/// The allocator of this library.
struct Reserve;

#[global_allocator]
static ALLOCATOR: Reserve = Reserve;

/// Returns whether there is so little memory that no call should begin.
pub(super) fn is_low() -> bool {
    IS_LOW.load(Ordering::Relaxed) && !has_recovered()
}

/// Checks whether the system can allocate as much as the size of the reserve.
#[cold]
fn has_recovered() -> bool {
    let Ok(layout) = Layout::from_size_align(SIZE, 1) else {
        return false;
    };
    // SAFETY: the size is not zero.
    let tried = unsafe { System.alloc(layout) };
    if tried.is_null() {
        return false;
    }
    // SAFETY: it was allocated above with this layout.
    unsafe { System.dealloc(tried, layout) };
    IS_LOW.store(false, Ordering::Relaxed);
    true
}

fn first_byte() -> *mut u8 {
    SPACE.0.get().cast()
}

fn is_from_reserve(piece: *mut u8) -> bool {
    let first = first_byte().addr();
    (first..first + SIZE).contains(&piece.addr())
}

/// Allocates a piece of the reserve; null if too little is left.
#[cold]
fn take(layout: Layout) -> *mut u8 {
    IS_LOW.store(true, Ordering::Relaxed);
    if layout.size() > LARGEST {
        return ptr::null_mut();
    }
    let mut now = IN_USE.load(Ordering::Relaxed);
    loop {
        let (pieces, from) = (now >> 32, now & u64::from(u32::MAX));
        let Ok(from) = usize::try_from(from) else {
            return ptr::null_mut();
        };
        let place = first_byte().wrapping_add(from);
        let start = from + place.align_offset(layout.align());
        let end = start.saturating_add(layout.size());
        if end > SIZE {
            return ptr::null_mut();
        }
        let then = (pieces + 1) << 32 | end as u64;
        match IN_USE.compare_exchange_weak(now, then, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return first_byte().wrapping_add(start),
            Err(other) => now = other,
        }
    }
}

#[cold]
fn give_back() {
    let mut now = IN_USE.load(Ordering::Relaxed);
    loop {
        let then = match now >> 32 {
            0 | 1 => 0,
            pieces => (pieces - 1) << 32 | now & u64::from(u32::MAX),
        };
        match IN_USE.compare_exchange_weak(now, then, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(other) => now = other,
        }
    }
}

// SAFETY: a piece is either the system allocator's, which keeps this contract, or part of the reserve: aligned, within
// its bounds, and owned by nobody else until it is given back. Nothing unwinds.
unsafe impl GlobalAlloc for Reserve {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        let piece = unsafe { System.alloc(layout) };
        if piece.is_null() { take(layout) } else { piece }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        let piece = unsafe { System.alloc_zeroed(layout) };
        if !piece.is_null() {
            return piece;
        }
        let piece = take(layout);
        if !piece.is_null() {
            // SAFETY: the piece has that many bytes.
            unsafe { piece.write_bytes(0, layout.size()) };
        }
        piece
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        if is_from_reserve(piece) {
            return give_back();
        }
        // SAFETY: not of the reserve, so it came from the system, with this layout.
        unsafe { System.dealloc(piece, layout) }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !is_from_reserve(piece) {
            // SAFETY: not of the reserve, so it came from the system, with this layout.
            let moved = unsafe { System.realloc(piece, layout, size) };
            if !moved.is_null() {
                return moved;
            }
        }
        let Ok(larger) = Layout::from_size_align(size, layout.align()) else {
            return ptr::null_mut();
        };
        // SAFETY: the caller guarantees that the size is not zero.
        let moved = unsafe { self.alloc(larger) };
        if !moved.is_null() {
            // SAFETY: both pieces have at least as many bytes, and one is new, so they do not overlap.
            unsafe { ptr::copy_nonoverlapping(piece, moved, layout.size().min(size)) };
            // SAFETY: the caller gives this piece up.
            unsafe { self.dealloc(piece, layout) };
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test only, because the process has only one reserve.
    #[test]
    fn pieces_are_apart_aligned_and_all_there_again() {
        let layout = |size, align| Layout::from_size_align(size, align).unwrap();
        for _ in 0..2 {
            let mut end = first_byte().addr();
            let mut pieces = 0;
            loop {
                let of = [layout(100, 1), layout(1000, 64), layout(8, 8)][pieces % 3];
                let piece = take(of);
                if piece.is_null() {
                    break;
                }
                assert!(is_from_reserve(piece) && piece.addr() >= end);
                assert_eq!(piece.addr() % of.align(), 0);
                end = piece.addr() + of.size();
                pieces += 1;
            }
            assert!(end <= first_byte().addr() + SIZE);
            assert!(pieces > 1000);
            for _ in 0..pieces {
                give_back();
            }
        }
        assert_eq!(IN_USE.load(Ordering::Relaxed), 0);
        assert!(take(layout(LARGEST + 1, 1)).is_null());
        assert!(!is_low(), "the system has memory");
    }
}
