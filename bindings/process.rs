//! Keeps a shared library apart from the processes that are forked from its own.
//!
//! A child inherits the connection of its parent, and locks that other threads held. It uses neither:
//! its [`PerProcess`] value is a fresh one, and the inherited descriptor is closed, without a byte
//! written, by a handler that runs inside of fork (`pthread_atfork`), or at the child's first call. That may come
//! earlier, from a fork handler of the application, or be the only one, in a process that came about by a bare `clone`.
//! The handler leaves alone what the child has made by then. (Where the kernel cannot clear a page in children, it
//! cannot tell, and has the child start anew.)
//!
//! An application, too, may use the number of the descriptor for another file: [`FileIdentity`] tells them apart.
//!
//! Unloading is safe: glibc's `pthread_atfork` registers the handler for the shared object that this code
//! is linked into, and `dlclose` removes it with the object (`__cxa_finalize`). Elsewhere no handler is
//! registered. Nothing here keeps thread-local destructors, which would pin the object in memory; that
//! is why the value is behind an `AtomicPtr` and not an `ArcSwap`.

use std::ffi::{CStr, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, fcntl};

/// Tells a process from those it was forked from, also where process ids repeat: in another
/// namespace, or after a wrap-around.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Process {
    /// Higher than that of each process it was forked from. Where the kernel clears no page in children: its id.
    number: u32,
    /// The forks that handlers have counted; none where the number says enough.
    forks: u32,
}

/// The highest number that was given in this process, or in one it was forked from.
static NUMBERS: AtomicU32 = AtomicU32::new(0);

static FORKS: AtomicU32 = AtomicU32::new(0);

impl Process {
    /// This process. In a child this is known before any fork handler has run: the application's may come first and
    /// call this library.
    pub fn current() -> Process {
        Process {
            number: own_number(),
            forks: FORKS.load(Ordering::Relaxed),
        }
    }
}

/// Whether this program got privileges by being executed: set-user-id, set-group-id, file capabilities. Then whoever
/// started it must not decide by its environment what it does (`secure_getenv(3)`).
#[cfg(target_os = "linux")]
pub fn is_privileged() -> bool {
    // SAFETY: reads what the kernel told this process when it was executed.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Whether this program got privileges by being executed, as far as its ids tell.
#[cfg(not(target_os = "linux"))]
pub fn is_privileged() -> bool {
    use nix::unistd::{Gid, Uid};
    Uid::current() != Uid::effective() || Gid::current() != Gid::effective()
}

/// A number in a page of its own, which the kernel can be told to clear in forked children.
#[repr(C, align(4096))]
struct OwnPage {
    number: AtomicU32,
    rest: [u8; PAGE - 4],
}

/// The size of a page, in bytes, where [`OwnPage`] is one.
const PAGE: usize = 4096;

/// The number of this process, or 0 as long as it has none.
static OWN: OwnPage = OwnPage {
    number: AtomicU32::new(0),
    rest: [0; PAGE - 4],
};

/// The number of this process. It takes a system call where the kernel clears no page in children.
fn own_number() -> u32 {
    match OWN.number.load(Ordering::Relaxed) {
        0 => first_number(),
        number => number,
    }
}

/// Gives this process a number. Of threads that do so at the same time, one does.
#[cold]
fn first_number() -> u32 {
    // Before the number is there, or a child could have it.
    if !is_cleared_in_children() {
        return std::process::id();
    }
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    let (order, own) = (Ordering::Relaxed, &OWN.number);
    own.compare_exchange(0, number, order, order)
        .map_or_else(|first| first, |_| number)
}

/// Whether [`OWN`] is cleared in each process that is forked from this one. The kernel is asked for it once; children
/// inherit that it is done.
fn is_cleared_in_children() -> bool {
    const UNKNOWN: u8 = 0;
    const CLEARED: u8 = 1;
    const KEPT: u8 = 2;
    static PAGE_IS: AtomicU8 = AtomicU8::new(UNKNOWN);
    match PAGE_IS.load(Ordering::Acquire) {
        UNKNOWN => {
            let is_cleared = clear_in_children(&OWN);
            let page_is = if is_cleared { CLEARED } else { KEPT };
            PAGE_IS.store(page_is, Ordering::Release);
            is_cleared
        }
        page_is => page_is == CLEARED,
    }
}

/// Has the page cleared in every process that is forked from this one; false where that cannot be done.
#[cfg(target_os = "linux")]
fn clear_in_children(page: &'static OwnPage) -> bool {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    if !matches!(size, Ok(Some(size)) if usize::try_from(size) == Ok(PAGE)) {
        return false;
    }
    let address = ptr::from_ref(page).cast_mut().cast();
    // SAFETY: no kernel knows this advice. Emulators that accept any would not clear the page.
    if unsafe { libc::madvise(address, size_of::<OwnPage>(), -1) } == 0 {
        return false;
    }
    // SAFETY: the range is the page of a static, which is as long and aligned as one, and nothing else lies there.
    // This process's own content stays as it is; a child's page is all zeros, which are valid for the type.
    unsafe { libc::madvise(address, size_of::<OwnPage>(), libc::MADV_WIPEONFORK) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn clear_in_children(_: &'static OwnPage) -> bool {
    false
}

/// The file this library was loaded from, by the name it was loaded with.
pub fn own_path() -> Option<PathBuf> {
    let mut found = MaybeUninit::<libc::Dl_info>::uninit();
    let address = ptr::from_ref(&FORKS).cast();
    // SAFETY: any address may be asked for, and `found` is writable for a `Dl_info`.
    if unsafe { libc::dladdr(address, found.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: dladdr fills the structure when it answers anything but zero.
    let found = unsafe { found.assume_init() };
    if found.dli_fname.is_null() {
        return None;
    }
    // SAFETY: a string of the dynamic linker, which lasts as long as the object is loaded, and this
    // code is in that object.
    let name = unsafe { CStr::from_ptr(found.dli_fname) };
    Some(OsStr::from_bytes(name.to_bytes()).into())
}

/// A value of which each process has one of its own, made at its first use and never freed.
pub struct PerProcess<T> {
    /// The value of this process, or one inherited, or null before the first use.
    current: AtomicPtr<Held<T>>,
}

struct Held<T> {
    process: Process,
    value: T,
}

impl<T: Send + Sync + 'static> PerProcess<T> {
    /// No value yet.
    #[allow(clippy::new_without_default)] // for statics
    pub const fn new() -> PerProcess<T> {
        PerProcess {
            current: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The value of this process, made at its first use. `abandon` is called with a value that was
    /// inherited. Waits for nothing.
    pub fn get(&self, make: impl Fn() -> T, abandon: impl Fn(&T)) -> &'static T {
        let process = Process::current();
        loop {
            let known = self.current.load(Ordering::Acquire);
            // SAFETY: `current` is null or came out of `Box::into_raw` below, and a value that was
            // once published there is never freed.
            let inherited = unsafe { known.as_ref() };
            match inherited {
                Some(held) if held.process == process => return &held.value,
                Some(_) => close_inherited(),
                None => {}
            }
            close_in_children();
            let value = make();
            let fresh = Box::into_raw(Box::new(Held { process, value }));
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            let published = self
                .current
                .compare_exchange(known, fresh, success, failure);
            if published.is_err() {
                // SAFETY: `fresh` was made above by `Box::into_raw` and nobody else has seen it.
                drop(unsafe { Box::from_raw(fresh) });
            } else if let Some(inherited) = inherited {
                abandon(&inherited.value);
            }
        }
    }

    /// The value of this process, if there is one.
    pub fn existing(&self) -> Option<&'static T> {
        let known = self.current.load(Ordering::Acquire);
        // SAFETY: as in `get`: null, or published and never freed.
        let held = unsafe { known.as_ref() }?;
        (held.process == Process::current()).then_some(&held.value)
    }
}

/// Which file a descriptor refers to. The same number may be another file's later.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    /// What this descriptor refers to now; EBADF if it is closed. One system call, which a signal handler may make.
    pub fn of(descriptor: &impl AsRawFd) -> io::Result<FileIdentity> {
        let descriptor = descriptor.as_raw_fd();
        // SAFETY: the borrow ends with this call and only serves fstat, which answers EBADF to a number
        // that is not open; -1, the one number that must not be borrowed, is never stored.
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let status = nix::sys::stat::fstat(descriptor)?;
        Ok(FileIdentity {
            device: status.st_dev,
            inode: status.st_ino,
        })
    }
}

/// The lowest number that is not that of standard input, output or error.
const ABOVE_STANDARD: RawFd = 3;

/// Gives a descriptor another number if it has that of standard input, output or error, which an application may have
/// closed: it may still write there. The new one is closed on exec.
pub fn above_standard(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    if descriptor.as_raw_fd() >= ABOVE_STANDARD {
        return Ok(descriptor);
    }
    let moved = fcntl(&descriptor, FcntlArg::F_DUPFD_CLOEXEC(ABOVE_STANDARD))?;
    // SAFETY: the number is that of the descriptor that fcntl has just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}

/// The open connection: the number of its process in the upper half, descriptor in the lower; or [`NONE`].
static OPEN: AtomicU64 = AtomicU64::new(NONE);

/// The [`FileIdentity`] of the open connection's socket.
static DEVICE: AtomicU64 = AtomicU64::new(0);
static INODE: AtomicU64 = AtomicU64::new(0);

const NONE: u64 = u64::MAX;

fn open_entry(descriptor: RawFd) -> u64 {
    u64::from(own_number()) << 32 | u64::from(u32::from_ne_bytes(descriptor.to_ne_bytes()))
}

/// Has `socket`, which is this file, closed in children from now on.
pub fn remember(socket: &impl AsRawFd, file: FileIdentity) {
    DEVICE.store(file.device, Ordering::Relaxed);
    INODE.store(file.inode, Ordering::Relaxed);
    OPEN.store(open_entry(socket.as_raw_fd()), Ordering::Release);
}

/// Has `socket` no longer closed in children. To be called before it is closed here: its number is
/// soon another file's.
pub fn forget(socket: &impl AsRawFd) {
    let entry = open_entry(socket.as_raw_fd());
    // Fails when a later connection has taken the place.
    let _ = OPEN.compare_exchange(entry, NONE, Ordering::AcqRel, Ordering::Relaxed);
}

/// Closes what this process has inherited, and nothing that it has opened itself. Atomics and system calls only.
fn close_inherited() {
    let entry = OPEN.load(Ordering::Acquire);
    if entry == NONE || entry >> 32 == u64::from(own_number()) {
        return;
    }
    let taken = OPEN.compare_exchange(entry, NONE, Ordering::AcqRel, Ordering::Relaxed);
    if taken.is_ok() {
        close(entry);
    }
}

/// Closes the descriptor of an entry taken out of [`OPEN`], if it is still the socket. Only
/// system calls that are allowed in a signal handler.
fn close(entry: u64) {
    let [.., a, b, c, d] = entry.to_be_bytes();
    let descriptor = RawFd::from_be_bytes([a, b, c, d]); // as `open_entry` put it there
    let file = FileIdentity {
        device: DEVICE.load(Ordering::Relaxed),
        inode: INODE.load(Ordering::Relaxed),
    };
    if FileIdentity::of(&descriptor).is_ok_and(|now| now == file) {
        // A failure leaves nothing to do.
        let _ = nix::unistd::close(descriptor);
    }
}

/// Registers the fork handler, once.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn close_in_children() {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: `in_child` is a function of this object, and glibc drops the registration when
        // the object is unloaded. A failure (no memory) costs what the handler gives, no more.
        let _ = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn close_in_children() {}

/// Runs in a child before fork returns there, with one thread. Atomics and system calls only. The application's
/// handlers that were registered earlier have run before, and may have connected.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
extern "C" fn in_child() {
    if !is_cleared_in_children() {
        // The id may be the parent's: only this tells that there was a fork.
        FORKS.fetch_add(1, Ordering::Relaxed);
        let entry = OPEN.swap(NONE, Ordering::AcqRel);
        if entry != NONE {
            close(entry);
        }
    }
    close_inherited();
}
