//! Maps memory that a process shares with the children that it forks.
//!
//! The controller maps counters before it forks a worker; both sides read and write them as atomics.
//! Nothing else is shared between the processes of the daemon.

use std::io;
use std::num::NonZeroUsize;
use std::slice;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

/// Maps this many counters of 0. They stay mapped until the process ends. Pages that nobody touches take
/// no memory.
pub fn counters(count: NonZeroUsize) -> io::Result<&'static [AtomicU64]> {
    let size = count.get().checked_mul(size_of::<AtomicU64>());
    let size = size.and_then(NonZeroUsize::new);
    let size = size.ok_or(io::ErrorKind::OutOfMemory)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
    // SAFETY: a new mapping at an address that the kernel chooses replaces no other.
    let first = unsafe { mmap_anonymous(None, size, protection, flags) }?;
    // SAFETY: the mapping has room for `count` counters, is aligned to a page, holds zeros, which are
    // valid counters, and is never unmapped. Every process changes it through atomics only.
    Ok(unsafe { slice::from_raw_parts(first.cast::<AtomicU64>().as_ptr(), count.get()) })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn counters_begin_at_zero_and_large_numbers_of_them_cost_nothing() {
        let counters = counters(NonZeroUsize::new(1 << 22).unwrap()).unwrap();
        assert_eq!(counters.len(), 1 << 22);
        let last = counters.last().unwrap();
        assert_eq!(last.swap(7, Ordering::SeqCst), 0);
        assert_eq!(last.load(Ordering::SeqCst), 7);
        assert_eq!(counters[0].load(Ordering::SeqCst), 0);
        assert!(super::counters(NonZeroUsize::MAX).is_err());
    }
}
