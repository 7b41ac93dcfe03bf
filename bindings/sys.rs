//! Wraps the system calls that neither std nor `nix` offers as safe functions: fork, receiving descriptors over a
//! socket, closing all other descriptors.
//!
//! The controller calls [`fork_child`] and [`detach`]; workers call [`receive`]. Everything else that a process gives
//! up is done with safe calls of `nix`, in `server::worker`.

use std::ffi::{c_int, c_uint};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::unistd::{ForkResult, Pid};

/// The exit status of a child that panicked.
const PANICKED: i32 = 70;

/// Forks a child that keeps open only standard input, output, error, `keep` and `also`. The child runs `child` and
/// exits with what it returns. It never returns to the caller; in the parent, `keep` is dropped.
///
/// Fails in a process with more than one thread: the other threads would not exist in the child, but their locks would.
pub fn fork_child<K: AsFd>(
    keep: K,
    also: &[BorrowedFd<'_>],
    child: impl FnOnce(K) -> i32,
) -> io::Result<Pid> {
    require_one_thread()?;
    // SAFETY: the process has one thread (checked above, and only this thread could start another),
    // so the child may use everything its copy of memory holds.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let also = also.iter().map(AsRawFd::as_raw_fd);
            let kept = also.chain([keep.as_fd().as_raw_fd()]).collect();
            let status = match close_all_but(kept) {
                Ok(()) => catch_unwind(AssertUnwindSafe(|| child(keep))).unwrap_or(PANICKED),
                Err(_) => PANICKED,
            };
            std::process::exit(status)
        }
    }
}

/// Fails if the process has more than one thread, since it could then not fork.
pub fn require_one_thread() -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads == 1 {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "fork in a process with {threads} threads"
    )))
}

/// Closes every descriptor above standard error except those in `kept`. Only for a child that drops nothing of its
/// parent afterwards: [`fork_child`] is the one caller.
fn close_all_but(mut kept: Vec<RawFd>) -> io::Result<()> {
    kept.sort_unstable();
    let mut first = 3;
    for keep in kept {
        let keep = c_uint::try_from(keep).map_err(io::Error::other)?;
        if keep > first {
            close_range(first, keep - 1)?;
        }
        first = first.max(keep + 1);
    }
    close_range(first, c_uint::MAX)
}

fn close_range(first: c_uint, last: c_uint) -> io::Result<()> {
    // SAFETY: the only caller is close_all_but in a new child. The objects that own these
    // descriptors are the parent's copies; the child exits without using or dropping them.
    let result = unsafe { libc::close_range(first, last, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes sure that the kernel reports children that end. A process that was started with SIGCHLD ignored would not be
/// told of them.
pub fn notice_children() -> io::Result<()> {
    // SAFETY: the default action runs no code of this process.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(())
}

/// Calls prctl with an option that no kernel has, and an argument that is no address. Only a filter of system calls may
/// answer it.
pub fn prctl(option: u32, argument: u64) -> Result<(), nix::errno::Errno> {
    let option = c_int::try_from(option).map_err(|_| nix::errno::Errno::EINVAL)?;
    // SAFETY: the kernel refuses an option that it does not know, and looks at no memory for it.
    let answer = unsafe { libc::prctl(option, argument, 0, 0, 0) };
    nix::errno::Errno::result(answer).map(drop)
}

/// Makes the process return memory in blocks of this size or more, in bytes, to the kernel as soon as it is freed. By
/// default glibc keeps up to 64 MiB of it for later. With another C library this does nothing.
pub fn free_at_once(least: usize) {
    #[cfg(target_env = "gnu")]
    for (option, value) in [
        (libc::M_MMAP_THRESHOLD, least),
        (libc::M_TRIM_THRESHOLD, least.saturating_mul(2)),
    ] {
        let value = c_int::try_from(value).unwrap_or(c_int::MAX);
        // SAFETY: it takes two numbers and changes settings of the allocator, under the allocator's lock.
        unsafe { libc::mallopt(option, value) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = least;
}

/// The daemon's end of the pipe to the launcher, the process that started the daemon and waits.
pub struct Launcher(OwnedFd);

impl Launcher {
    /// Tells the launcher that the daemon is up, so that it exits with status 0. If this is dropped instead, the
    /// launcher exits with status 2.
    pub fn ready(self) -> io::Result<()> {
        nix::unistd::write(&self.0, &[0])?;
        Ok(())
    }
}

/// Detaches from terminal and launcher: forks twice with a new session in between and points standard input and output
/// at `/dev/null`; standard error stays. Returns in the daemon; the launcher waits in here for [`Launcher::ready`] and
/// exits.
pub fn detach() -> io::Result<Launcher> {
    require_one_thread()?;
    let (waiting, telling) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // SAFETY: the process has one thread, as checked above; parent and child go separate ways.
    if let ForkResult::Parent { .. } = unsafe { nix::unistd::fork() }? {
        drop(telling);
        // The daemon blocks signals; the launcher must not.
        SigSet::empty().thread_set_mask()?;
        let ready = loop {
            match nix::unistd::read(&waiting, &mut [0]) {
                Err(nix::errno::Errno::EINTR) => {}
                other => break other == Ok(1),
            }
        };
        std::process::exit(if ready { 0 } else { 2 })
    }
    drop(waiting);
    nix::unistd::setsid()?;
    // SAFETY: as above; the session leader exits, so that no terminal can come back.
    if let ForkResult::Parent { .. } = unsafe { nix::unistd::fork() }? {
        std::process::exit(0)
    }
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    Ok(Launcher(telling))
}

/// Sends `message` and a copy of `descriptor` over a Unix socket that keeps message boundaries.
/// Never raises SIGPIPE.
pub fn send(socket: BorrowedFd<'_>, message: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let descriptors = [descriptor.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(message)],
        &rights,
        flags,
        None,
    )?;
    Ok(())
}

/// How long the peer of a TCP socket has sent nothing, since it connected or since its last bytes. `None` for other
/// sockets.
pub fn idle_time(socket: BorrowedFd<'_>) -> Option<Duration> {
    let mut told = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
    let place = told.as_mut_ptr().cast();
    // SAFETY: the place is writable for `length` bytes, of which the kernel writes as many as it has to tell, and
    // writes how many that were to `length`.
    let answer =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, place, &raw mut length) };
    if answer != 0 {
        return None;
    }
    // SAFETY: the structure holds numbers only; the kernel has written some, and the others are zero.
    let told = unsafe { told.assume_init() };
    Some(Duration::from_millis(told.tcpi_last_data_recv.into()))
}

/// Does the same with up to [`MOST_DESCRIPTORS`] descriptors or none, and without waiting for room.
pub fn send_now(
    socket: BorrowedFd<'_>,
    message: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let descriptors: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let rights = match descriptors.is_empty() {
        true => &[][..],
        false => &rights[..],
    };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let parts = [IoSlice::new(message)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, rights, flags, None)?;
    Ok(())
}

/// Waits for one message of [`send`]. Returns its length in `buffer`, and its descriptor; `None` if the sender has
/// closed its end.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<(usize, OwnedFd)>> {
    let (length, descriptors) = receive_with(socket, buffer, MsgFlags::empty())?;
    Ok(descriptors
        .into_iter()
        .next()
        .map(|descriptor| (length, descriptor)))
}

/// Upper bound on the descriptors of a message.
pub const MOST_DESCRIPTORS: usize = 2;

/// Receives one message of [`send_now`], without waiting. Returns its length in `buffer`, 0 if the sender has closed
/// its end, and its descriptors, at most [`MOST_DESCRIPTORS`].
pub fn receive_now(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive_with(socket, buffer, MsgFlags::MSG_DONTWAIT)
}

fn receive_with(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: MsgFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; MOST_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    let length = received.bytes;
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        let ControlMessageOwned::ScmRights(received) = message else {
            continue;
        };
        descriptors.extend(received.into_iter().map(|descriptor| {
            // SAFETY: the kernel made this descriptor for us in recvmsg just now; nobody else owns it.
            unsafe { OwnedFd::from_raw_fd(descriptor) }
        }));
    }
    Ok((length, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    /// Whether two descriptors name the same open socket, by device and inode.
    fn is_same(one: impl AsFd, other: impl AsFd) -> bool {
        let stat = |file: BorrowedFd<'_>| {
            let stat = nix::sys::stat::fstat(file).unwrap();
            (stat.st_dev, stat.st_ino)
        };
        stat(one.as_fd()) == stat(other.as_fd())
    }

    #[test]
    fn a_descriptor_arrives_with_its_message() {
        let pair = || {
            let flags = SockFlag::SOCK_CLOEXEC;
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
        };
        let (ours, theirs) = pair();
        let (carried, kept) = pair();
        send(ours.as_fd(), b"from 127.0.0.1", carried.as_fd()).unwrap();
        let mut buffer = [0; 64];
        let (length, arrived) = receive(theirs.as_fd(), &mut buffer).unwrap().unwrap();
        assert_eq!(&buffer[..length], b"from 127.0.0.1");
        assert!(is_same(&arrived, &carried));
        assert!(!is_same(&arrived, &kept));
        drop(ours);
        assert!(receive(theirs.as_fd(), &mut buffer).unwrap().is_none());
    }

    #[test]
    fn a_peer_is_idle_since_it_connected_or_sent_something() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = std::net::TcpStream::connect(address).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let (accepted, _) = listener.accept().unwrap();
        let silent = idle_time(accepted.as_fd()).unwrap();
        assert!(silent >= Duration::from_millis(80), "{silent:?}");
        io::Write::write_all(&mut client, b"x").unwrap();
        assert!(idle_time(accepted.as_fd()).unwrap() < silent);
        let (unix, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(idle_time(unix.as_fd()), None);
    }

    #[test]
    fn refuses_to_fork_beside_other_threads() {
        let file = std::fs::File::open("/dev/null").unwrap();
        std::thread::scope(|scope| {
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || stopped.recv());
            assert!(fork_child(file, &[], |_| 0).is_err());
            drop(stop);
        });
    }
}
