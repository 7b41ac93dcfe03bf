//! Detects forked children, and keeps them from using what belongs to their parent's process.
//!
//! A child inherits its parent's connection, and locks that other threads held. It uses neither. Its [`PerProcess`]
//! value is a new one. The inherited descriptor is closed, without a byte written, by a handler that runs inside of
//! fork (`pthread_atfork`), or at the child's first call. That call may come before the handler runs, from a fork
//! handler of the application. In a process made by a bare `clone`, there is no handler, only the call. The handler
//! does not touch what the child has made by then. (Where the kernel cannot clear a page in children, the handler
//! cannot tell what that is, and makes the child start again.)
//!
//! An application may also reuse the number of the descriptor for another file: [`FileIdentity`] tells them apart.
//!
//! Unloading is safe: glibc's `pthread_atfork` registers the handler for the shared object that this code is linked
//! into, and `dlclose` removes it with the object (`__cxa_finalize`). With other C libraries no handler is registered.
//! Nothing here keeps thread-local destructors, which would keep the object in memory; that is why the value is behind
//! an `AtomicPtr` and not an `ArcSwap`.

use std::ffi::{CStr, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Distinguishes a process from those it was forked from, even where process ids repeat: in another namespace, or after
/// a wrap-around.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Process {
    /// Higher than that of each process it was forked from. Where the kernel cannot clear a page in children: the
    /// process id.
    number: u32,
    /// The forks that handlers have counted; 0 where the number is enough.
    forks: u32,
}

/// The highest number given so far in this process, or in one that it was forked from.
static NUMBERS: AtomicU32 = AtomicU32::new(0);

static FORKS: AtomicU32 = AtomicU32::new(0);

impl Process {
    /// Returns this process. In a child the answer is right before any fork handler has run: the application's handlers
    /// may come first and call this library.
    pub fn current() -> Process {
        Process {
            number: own_number(),
            forks: FORKS.load(Ordering::Relaxed),
        }
    }
}

/// Whether this program gained privileges when it was executed: set-user-id, set-group-id, file capabilities. Its
/// behaviour must then not depend on the environment of the user who started it (`secure_getenv(3)`).
#[cfg(target_os = "linux")]
pub fn is_privileged() -> bool {
    // SAFETY: reads what the kernel told this process when it was executed.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Whether this program gained privileges when it was executed, as far as its ids show.
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

/// Returns the number of this process. Takes a system call where the kernel cannot clear a page in children.
fn own_number() -> u32 {
    match OWN.number.load(Ordering::Relaxed) {
        0 => first_number(),
        number => number,
    }
}

/// Gives this process a number. If several threads do this at the same time, only one number is used.
#[cold]
fn first_number() -> u32 {
    // Must come before the number is stored, or a child could inherit it.
    if !is_cleared_in_children() {
        return std::process::id();
    }
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    let (order, own) = (Ordering::Relaxed, &OWN.number);
    own.compare_exchange(0, number, order, order)
        .map_or_else(|first| first, |_| number)
}

/// Whether [`OWN`] is cleared in each process that is forked from this one. The kernel is asked once; children inherit
/// the setting.
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

/// Makes the kernel clear the page in every process that is forked from this one. False if that is not possible.
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

/// Returns the file that this library was loaded from, by the name that it was loaded with.
pub fn own_path() -> Option<PathBuf> {
    let name = own_object()?.dli_fname;
    if name.is_null() {
        return None;
    }
    // SAFETY: a string of the dynamic linker, which lasts as long as the object is loaded, and this
    // code is in that object.
    let name = unsafe { CStr::from_ptr(name) };
    Some(OsStr::from_bytes(name.to_bytes()).into())
}

/// Keeps the library in memory when the application unloads it. False if that is not possible.
pub fn stay_loaded() -> bool {
    let Some(own) = own_object() else {
        return false;
    };
    if main_program().is_some_and(|main| main.dli_fbase == own.dli_fbase) {
        return true; // it is part of a program, which is never unloaded
    }
    let how = libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
    // SAFETY: the name is that of an object that is loaded, so this runs no constructor. The handle is not needed.
    !own.dli_fname.is_null() && !unsafe { libc::dlopen(own.dli_fname, how) }.is_null()
}

/// Returns the object that contains this code.
fn own_object() -> Option<libc::Dl_info> {
    object_at(ptr::from_ref(&FORKS).cast())
}

/// Returns the program that was executed.
#[cfg(target_os = "linux")]
fn main_program() -> Option<libc::Dl_info> {
    // SAFETY: reads what the kernel told this process when it was executed.
    let entry = unsafe { libc::getauxval(libc::AT_ENTRY) };
    object_at(ptr::with_exposed_provenance(usize::try_from(entry).ok()?))
}

#[cfg(not(target_os = "linux"))]
fn main_program() -> Option<libc::Dl_info> {
    None
}

/// Returns the object that contains an address.
fn object_at(address: *const libc::c_void) -> Option<libc::Dl_info> {
    let mut found = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: any address may be asked for, and `found` is writable for a `Dl_info`.
    if unsafe { libc::dladdr(address, found.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: dladdr has filled the structure, because it did not return zero.
    Some(unsafe { found.assume_init() })
}

/// A value that each process has for itself, made at first use and freed only by [`PerProcess::free`].
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

    /// Returns the value of this process, made at its first use. `abandon` is called with a value that was inherited.
    /// Never blocks.
    pub fn get(&self, make: impl Fn() -> T, abandon: impl Fn(&T)) -> &'static T {
        let process = Process::current();
        loop {
            let known = self.current.load(Ordering::Acquire);
            // SAFETY: `current` is null or came out of `Box::into_raw` below, and a value that was
            // once published there is freed only when nobody uses it any more.
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

    /// Frees the value of this process, if there is one. The next [`PerProcess::get`] makes another.
    ///
    /// # Safety
    ///
    /// Nobody uses a reference to the value any more.
    pub unsafe fn free(&self) {
        if self.existing().is_some() {
            let last = self.current.swap(ptr::null_mut(), Ordering::AcqRel);
            // SAFETY: `last` came out of `Box::into_raw` in `get`, was taken out here, and the caller says that nobody
            // uses it.
            drop(unsafe { Box::from_raw(last) });
        }
    }

    /// Returns the value of this process, if there is one.
    pub fn existing(&self) -> Option<&'static T> {
        let known = self.current.load(Ordering::Acquire);
        // SAFETY: as in `get`: null, or published and not freed.
        let held = unsafe { known.as_ref() }?;
        (held.process == Process::current()).then_some(&held.value)
    }
}

/// Which file a descriptor refers to. The same number may refer to another file later.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    /// Returns what this descriptor refers to now; EBADF if it is closed. Makes one system call, which a signal handler
    /// may make.
    pub fn of(descriptor: &impl AsRawFd) -> io::Result<FileIdentity> {
        let (device, inode) = device_and_inode(descriptor.as_raw_fd())?;
        Ok(FileIdentity { device, inode })
    }
}

/// Calls the kernel's fstat(2) itself. glibc makes it newfstatat with an empty path, which takes an eighth longer.
#[cfg(all(
    target_os = "linux",
    target_arch = "x86_64",
    target_pointer_width = "64"
))]
fn device_and_inode(descriptor: RawFd) -> io::Result<(u64, u64)> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel answers EBADF to a number that is not open, and writes a `stat` to the place, which is
    // writable for one: here C libraries have the kernel's structure.
    let answer = unsafe { libc::syscall(libc::SYS_fstat, descriptor, status.as_mut_ptr()) };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel fills the structure when it answers zero.
    let status = unsafe { status.assume_init() };
    Ok((status.st_dev, status.st_ino))
}

#[cfg(not(all(
    target_os = "linux",
    target_arch = "x86_64",
    target_pointer_width = "64"
)))]
#[allow(clippy::unnecessary_cast)] // other systems have other types
fn device_and_inode(descriptor: RawFd) -> io::Result<(u64, u64)> {
    // SAFETY: the borrow ends with this call and only serves fstat, which answers EBADF to a number that is not open;
    // -1, the one number that must not be borrowed, is never stored.
    let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
    let status = nix::sys::stat::fstat(descriptor)?;
    Ok((status.st_dev as u64, status.st_ino as u64))
}

/// Runs `work`, which writes to a descriptor that may be a pipe without a reader, or a file that may not grow
/// (RLIMIT_FSIZE), so that this thread gets no SIGPIPE and no SIGXFSZ for it. A library must not end its application
/// because a log is gone or full.
pub fn without_signals_of_writing<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let of_writing: SigSet = [Signal::SIGPIPE, Signal::SIGXFSZ].into_iter().collect();
    let before = of_writing.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let result = work();
    let raised = match result.as_ref().err().and_then(io::Error::raw_os_error) {
        Some(libc::EPIPE) => Some(Signal::SIGPIPE),
        Some(libc::EFBIG) => Some(Signal::SIGXFSZ),
        _ => None,
    };
    // If the application has blocked the signal itself, it stays pending, as if the application had written.
    if let Some(raised) = raised.filter(|signal| !before.contains(*signal)) {
        let raised: SigSet = [raised].into_iter().collect();
        let at_once = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the set and the time live until the call returns; no information about the signal is asked for.
        unsafe { libc::sigtimedwait(raised.as_ref(), ptr::null_mut(), &raw const at_once) };
    }
    before.thread_set_mask()?;
    result
}

/// The lowest descriptor above those of standard input, output and error.
const ABOVE_STANDARD: RawFd = 3;

/// Gives a descriptor another number if it has that of standard input, output or error. An application may have closed
/// those, and may still write to them. The new descriptor is closed on exec.
pub fn above_standard(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    if descriptor.as_raw_fd() >= ABOVE_STANDARD {
        return Ok(descriptor);
    }
    let moved = fcntl(&descriptor, FcntlArg::F_DUPFD_CLOEXEC(ABOVE_STANDARD))?;
    // SAFETY: the number is that of the descriptor that fcntl has just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}

/// A socket that is closed in children.
struct Remembered {
    /// The number of its process in the upper half, the descriptor in the lower; or [`NONE`].
    entry: AtomicU64,
    /// Its [`FileIdentity`].
    device: AtomicU64,
    inode: AtomicU64,
}

/// The sockets that are closed in children: that of the open connection, or one for each address to which a connection
/// is attempted.
static OPEN: [Remembered; MOST_REMEMBERED] = [const {
    Remembered {
        entry: AtomicU64::new(NONE),
        device: AtomicU64::new(0),
        inode: AtomicU64::new(0),
    }
}; MOST_REMEMBERED];

/// More sockets than are open at a time. With 250 ms between two attempts, these are 8 s of attempts that get no
/// answer. A child that is forked while there are more inherits the descriptors of the others, which are of no use to
/// it.
const MOST_REMEMBERED: usize = 32;

const NONE: u64 = u64::MAX;

/// No descriptor, in an entry that is not complete.
const NO_DESCRIPTOR: RawFd = -1;

fn open_entry(descriptor: RawFd) -> u64 {
    u64::from(own_number()) << 32 | u64::from(u32::from_ne_bytes(descriptor.to_ne_bytes()))
}

/// Makes children close `socket` from now on. `file` is its identity.
pub fn remember(socket: &impl AsRawFd, file: FileIdentity) {
    // Threads that do so at the same time each take a separate place.
    let incomplete = open_entry(NO_DESCRIPTOR);
    let (taken, free) = (Ordering::AcqRel, Ordering::Relaxed);
    let is_taken = |place: &&Remembered| {
        let taken = place.entry.compare_exchange(NONE, incomplete, taken, free);
        taken.is_ok()
    };
    if let Some(place) = OPEN.iter().find(is_taken) {
        place.device.store(file.device, Ordering::Relaxed);
        place.inode.store(file.inode, Ordering::Relaxed);
        let entry = open_entry(socket.as_raw_fd());
        place.entry.store(entry, Ordering::Release);
    }
}

/// Stops children from closing `socket`. Must be called before it is closed here, because its number may soon belong to
/// another file.
pub fn forget(socket: &impl AsRawFd) {
    let entry = open_entry(socket.as_raw_fd());
    for place in &OPEN {
        // Fails for the places of other sockets.
        let (forgotten, other) = (Ordering::AcqRel, Ordering::Relaxed);
        let _ = place.entry.compare_exchange(entry, NONE, forgotten, other);
    }
}

/// Closes the sockets that this process has inherited, and none that it has opened itself. Uses only atomics and system
/// calls.
fn close_inherited() {
    let own = u64::from(own_number());
    close_remembered(|entry| entry >> 32 != own);
}

/// Closes the remembered sockets that `is_wanted` selects, if the descriptors still refer to them. Uses only system
/// calls that are allowed in a signal handler.
fn close_remembered(is_wanted: impl Fn(u64) -> bool) {
    for place in &OPEN {
        let entry = place.entry.load(Ordering::Acquire);
        if entry == NONE || !is_wanted(entry) {
            continue;
        }
        let [.., a, b, c, d] = entry.to_be_bytes();
        let descriptor = RawFd::from_be_bytes([a, b, c, d]); // as `open_entry` put it there
        let file = FileIdentity {
            device: place.device.load(Ordering::Relaxed),
            inode: place.inode.load(Ordering::Relaxed),
        };
        let (order, other) = (Ordering::AcqRel, Ordering::Relaxed);
        let taken = place.entry.compare_exchange(entry, NONE, order, other);
        if taken.is_ok()
            && descriptor != NO_DESCRIPTOR
            && FileIdentity::of(&descriptor).is_ok_and(|now| now == file)
        {
            // A failure needs no handling.
            let _ = nix::unistd::close(descriptor);
        }
    }
}

/// Registers the fork handler, once.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn close_in_children() {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: `in_child` is a function of this object, and glibc drops the registration when the object is
        // unloaded. If it fails (no memory), only the handler's work is lost.
        let _ = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn close_in_children() {}

/// Runs in a child before fork returns there, with one thread. Uses only atomics and system calls. Handlers that the
/// application registered earlier have run before, and may have connected.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
extern "C" fn in_child() {
    if !is_cleared_in_children() {
        // The process id may be the same as the parent's: only this count shows that there was a fork.
        FORKS.fetch_add(1, Ordering::Relaxed);
        close_remembered(|_| true);
    }
    close_inherited();
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom};

    use nix::sys::signal::{SigHandler, signal};

    use super::*;

    /// Each test is a process of its own, so that this concerns no other.
    #[test]
    fn a_pipe_without_a_reader_is_an_error_and_no_signal() {
        // SAFETY: the default action is no handler.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.unwrap();
        let before = SigSet::thread_get_mask().unwrap();
        for _ in 0..2 {
            let (reader, writer) = nix::unistd::pipe().unwrap();
            drop(reader);
            let written = without_signals_of_writing(|| Ok(nix::unistd::write(&writer, b"x")?));
            let error = written.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
            assert_eq!(SigSet::thread_get_mask().unwrap(), before);
        }
        assert_eq!(without_signals_of_writing(|| Ok(7)).unwrap(), 7);
    }

    /// The limit on the size of files; set back when this is dropped.
    struct Limited(libc::rlimit);

    /// Tests in other threads write no file that is as long.
    const LIMIT: u64 = 1 << 33;

    impl Limited {
        fn new() -> Limited {
            let mut before = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: the limit lives until the call returns.
            let status = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut before) };
            assert_eq!(status, 0);
            set(libc::rlimit {
                rlim_cur: LIMIT.min(before.rlim_max),
                ..before
            });
            Limited(before)
        }
    }

    impl Drop for Limited {
        fn drop(&mut self) {
            set(self.0);
        }
    }

    fn set(limit: libc::rlimit) {
        // SAFETY: the limit lives until the call returns.
        let status = unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) };
        assert_eq!(status, 0);
    }

    #[test]
    fn a_file_that_may_not_grow_is_an_error_and_no_signal() {
        let path = std::env::temp_dir().join(format!("growing-{}", std::process::id()));
        let mut file = std::fs::File::create(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let limited = Limited::new();
        let limit = LIMIT.min(limited.0.rlim_max);
        file.seek(SeekFrom::Start(limit - 10)).unwrap();
        let write = |bytes: &[u8]| Ok(nix::unistd::write(&file, bytes)?);
        let results = [&[7; 10][..], b"x", b"y"].map(|it| without_signals_of_writing(|| write(it)));
        drop(limited);
        assert!(matches!(results[0], Ok(10)));
        for result in &results[1..] {
            let error = result.as_ref().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
        }
        let mask = SigSet::thread_get_mask().unwrap();
        assert!(!mask.contains(Signal::SIGXFSZ));
    }
}
