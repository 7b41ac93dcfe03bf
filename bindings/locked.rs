//! Keeps a secret for longer than a call.
//!
//! The memory is not swapped, not in a core dump, not in forked children, and wiped when the secret is dropped.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mlock, mmap_anonymous, munmap};
use zeroize::Zeroize;

/// The longest secret, in bytes.
const LONGEST: usize = 4096;

/// A secret in memory of its own.
pub struct LockedSecret {
    address: NonNull<u8>,
    length: usize,
}

/// The size of the mapping for each secret, in bytes. The kernel rounds it up to whole pages.
const MAPPED: NonZeroUsize = NonZeroUsize::new(LONGEST).unwrap();

impl LockedSecret {
    /// Keeps these bytes, at most 4096. Fails if memory for them cannot be allocated or locked: `RLIMIT_MEMLOCK` may be
    /// used up.
    pub fn new(secret: &[u8]) -> io::Result<LockedSecret> {
        if secret.len() > LONGEST {
            return Err(io::Error::other("too long"));
        }
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses; nothing else lies there.
        let mapped = unsafe { mmap_anonymous(None, MAPPED, protection, MapFlags::MAP_PRIVATE) };
        // From here on, dropping this unmaps the memory.
        let kept = LockedSecret {
            address: mapped?.cast(),
            length: secret.len(),
        };
        // SAFETY: the mapping made above.
        unsafe { mlock(kept.address.cast(), MAPPED.get()) }?;
        keep_out_of_dumps_and_children(kept.address)?;
        // SAFETY: the mapping is writable for LONGEST bytes, which the secret is not longer than, and new, so that it
        // does not overlap with it.
        unsafe {
            kept.address
                .copy_from_nonoverlapping(NonNull::from(secret).cast(), secret.len())
        };
        Ok(kept)
    }

    /// The secret. In a forked child it is all zeros.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping lives as long as `self`, has been filled for this length, and is not written to before
        // it is dropped.
        unsafe { NonNull::slice_from_raw_parts(self.address, self.length).as_ref() }
    }
}

#[cfg(target_os = "linux")]
fn keep_out_of_dumps_and_children(address: NonNull<u8>) -> io::Result<()> {
    for advice in [libc::MADV_DONTDUMP, libc::MADV_WIPEONFORK] {
        // SAFETY: the whole mapping and nothing else. Its content stays; in children it is all zeros, which are valid
        // bytes.
        let advised = unsafe { libc::madvise(address.as_ptr().cast(), MAPPED.get(), advice) };
        if advised != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn keep_out_of_dumps_and_children(_: NonNull<u8>) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Wipes the memory before the kernel gets it back.
impl Drop for LockedSecret {
    fn drop(&mut self) {
        // SAFETY: the mapping is writable for this length, and nobody else has a reference to it.
        unsafe { NonNull::slice_from_raw_parts(self.address, self.length).as_mut() }.zeroize();
        // SAFETY: made by `new` with this length, and not used afterwards. A failure leaves nothing to do.
        let _ = unsafe { munmap(self.address.cast(), MAPPED.get()) };
    }
}

// SAFETY: the memory belongs to this value alone, whichever thread has it.
unsafe impl Send for LockedSecret {}

// SAFETY: it is only read through `&self`.
unsafe impl Sync for LockedSecret {}

/// Prints nothing of the secret.
impl fmt::Debug for LockedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockedSecret")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Returns the VmFlags of this process's mapping that begins at the address.
    #[cfg(target_os = "linux")]
    fn facts_about(address: usize) -> String {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let start = format!("{address:x}-");
        let at = maps.find(&start).expect("it is mapped");
        let end = maps[at..].find("VmFlags:").unwrap();
        let line = maps[at + end..].lines().next().unwrap();
        line.to_owned()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_secret_is_locked_and_kept_out_of_dumps_and_children() {
        let secret = LockedSecret::new(b"1234").unwrap();
        assert_eq!(secret.bytes(), b"1234");
        let flags = facts_about(secret.address.as_ptr().addr());
        for flag in ["lo", "dd", "wf"] {
            assert!(flags.split(' ').any(|it| it == flag), "{flag}: {flags}");
        }
        assert_eq!(format!("{secret:?}"), "LockedSecret");
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        assert!(LockedSecret::new(&[1; LONGEST + 1]).is_err());
        assert_eq!(
            LockedSecret::new(&[1; LONGEST]).unwrap().bytes(),
            [1; LONGEST]
        );
        assert_eq!(LockedSecret::new(&[]).unwrap().bytes(), b"");
    }
}
