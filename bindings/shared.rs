//! Maps memory that processes of the daemon share: counters, and regions that one worker writes and the auditor reads.
//!
//! The controller maps counters before it forks a worker; all its children have them. Counters in a sealed memory file
//! can also be handed to another daemon. The controller makes a region for one worker, and gives the descriptor to the
//! auditor only. All sides read and write words as atomics. Nothing else is shared between the processes of the daemon.

use std::ffi::CStr;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

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

/// The seals of a memory file. Nobody can change its length, so no access to a mapping of it fails.
fn seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

/// Makes a memory file with this many words of 0, whose length is sealed.
fn sealed_memory(name: &CStr, count: NonZeroUsize) -> io::Result<OwnedFd> {
    let size = count.get().checked_mul(size_of::<AtomicU64>());
    let size = size.and_then(|size| libc::off_t::try_from(size).ok());
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // For systems that require a declaration that nothing in the file is executed. Unknown before Linux 6.3.
    let not_run = flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let memory = match memfd_create(name, not_run) {
        Err(Errno::EINVAL) => memfd_create(name, flags)?,
        other => other?,
    };
    ftruncate(&memory, size.ok_or(io::ErrorKind::OutOfMemory)?)?;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals()))?;
    Ok(memory)
}

/// How many words a memory file has. Fails unless its length is sealed.
fn sealed_words(memory: BorrowedFd<'_>) -> io::Result<NonZeroUsize> {
    let found = SealFlag::from_bits_retain(fcntl(memory, FcntlArg::F_GET_SEALS)?);
    if !found.contains(seals()) {
        return Err(io::Error::other("its length is not sealed"));
    }
    let size = usize::try_from(fstat(memory)?.st_size).map_err(io::Error::other)?;
    NonZeroUsize::new(size / size_of::<AtomicU64>()).ok_or_else(|| io::Error::other("it is empty"))
}

/// Maps this many words of a memory file, which must be at least as long.
fn map(memory: BorrowedFd<'_>, count: NonZeroUsize) -> io::Result<NonNull<AtomicU64>> {
    let size = count.checked_mul(const { NonZeroUsize::new(size_of::<AtomicU64>()).unwrap() });
    let size = size.ok_or(io::ErrorKind::OutOfMemory)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses replaces no other.
    let first = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, memory, 0) }?;
    Ok(first.cast())
}

/// Makes a memory file with this many counters of 0 and maps it, as [`counters`] does. Any process that gets the file
/// can map it, too.
pub fn sealed_counters(count: NonZeroUsize) -> io::Result<(&'static [AtomicU64], OwnedFd)> {
    let file = sealed_memory(c"pkcs11proxyd", count)?;
    let counters = adopt_sealed_counters(&file, count)?;
    Ok((counters, file))
}

/// Maps the counters in a memory file from another process. Fails unless it has this many and its length is sealed.
/// Others may change any of them at any time.
pub fn adopt_sealed_counters(
    file: &OwnedFd,
    count: NonZeroUsize,
) -> io::Result<&'static [AtomicU64]> {
    if sealed_words(file.as_fd())? != count {
        return Err(io::Error::other("it has another length"));
    }
    let first = map(file.as_fd(), count)?;
    // SAFETY: the mapping has room for `count` counters, as the file's length says, which is sealed; it is aligned to a
    // page and never unmapped. Any bytes are valid counters. Every process changes them through atomics only.
    Ok(unsafe { slice::from_raw_parts(first.as_ptr(), count.get()) })
}

/// Memory of a fixed size, shared by the processes that have mapped it. Unmapped when dropped.
pub struct Region {
    first: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping belongs to this value alone, and is used through atomics only.
unsafe impl Send for Region {}

// SAFETY: as above; atomics may be used by several threads at a time.
unsafe impl Sync for Region {}

impl Region {
    /// Makes and maps this many words of 0. Another process maps the same memory with the descriptor. Pages that nobody
    /// touches take no memory.
    pub fn new(name: &CStr, count: NonZeroUsize) -> io::Result<(Region, OwnedFd)> {
        let memory = sealed_memory(name, count)?;
        let region = Region::map(memory.as_fd(), count)?;
        Ok((region, memory))
    }

    /// Maps the memory of a descriptor that [`Region::new`] made.
    pub fn open(memory: BorrowedFd<'_>) -> io::Result<Region> {
        Region::map(memory, sealed_words(memory)?)
    }

    fn map(memory: BorrowedFd<'_>, count: NonZeroUsize) -> io::Result<Region> {
        Ok(Region {
            first: map(memory, count)?,
            count: count.get(),
        })
    }

    /// The words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has `count` words, is aligned to a page, and stays until this value is dropped. Its file
        // has as many, since it is sealed. Every process changes it through atomics only.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `map` made this mapping with this size, and nothing borrows from this value any more.
        let _ = unsafe { munmap(self.first.cast(), self.count * size_of::<AtomicU64>()) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn a_sealed_file_is_the_same_memory_and_keeps_its_length() {
        let count = NonZeroUsize::new(1000).unwrap();
        let (one, file) = sealed_counters(count).unwrap();
        let other = adopt_sealed_counters(&file, count).unwrap();
        one[999].store(3, Ordering::SeqCst);
        assert_eq!(other[999].load(Ordering::SeqCst), 3);
        assert!(adopt_sealed_counters(&file, NonZeroUsize::MIN).is_err());
        let file = File::from(file);
        for length in [0, 7999, 1 << 20] {
            assert!(file.set_len(length).is_err());
        }
        let unsealed = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        File::from(unsealed.try_clone().unwrap())
            .set_len(8000)
            .unwrap();
        assert!(adopt_sealed_counters(&unsealed, count).is_err());
    }

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

    #[test]
    fn a_region_is_the_same_memory_for_all_who_map_it_and_keeps_its_size() {
        let (ours, memory) = Region::new(c"test", NonZeroUsize::new(1000).unwrap()).unwrap();
        let theirs = Region::open(memory.as_fd()).unwrap();
        assert_eq!((ours.words().len(), theirs.words().len()), (1000, 1000));
        ours.words()[999].store(7, Ordering::SeqCst);
        assert_eq!(theirs.words()[999].load(Ordering::SeqCst), 7);
        assert!(ftruncate(&memory, 0).is_err() && ftruncate(&memory, 1 << 20).is_err());
        drop(ours);
        assert_eq!(theirs.words()[999].load(Ordering::SeqCst), 7);
        // A process that could shorten the file would crash those that read it.
        let loose = memfd_create(c"loose", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&loose, 4096).unwrap();
        assert!(Region::open(loose.as_fd()).is_err());
    }
}
