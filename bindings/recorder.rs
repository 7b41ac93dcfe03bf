//! Reports the system calls that a thread, and everything it starts, makes.
//!
//! A seccomp filter makes the kernel stop at each system call and ask; the answer is always to continue. Another thread
//! answers. It was started before, so the filter does not apply to it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::{c_int, seccomp_notif, seccomp_notif_resp, sock_filter, sock_fprog};

mod ioctls {
    use libc::{seccomp_notif, seccomp_notif_resp};
    nix::ioctl_readwrite!(receive, b'!', 0, seccomp_notif);
    nix::ioctl_readwrite!(answer, b'!', 1, seccomp_notif_resp);
}

/// Receives the kernel's questions. From its creation on, each call of the thread waits until [`Listener::next`] has
/// answered.
pub struct Listener(OwnedFd);

/// Makes the kernel report every system call of this thread, and of what it starts, to the listener. Needs
/// no_new_privs. If nobody reads the reports, the next call never returns.
pub fn tell_all() -> io::Result<Listener> {
    let mut step = sock_filter {
        code: u16::try_from(libc::BPF_RET | libc::BPF_K).map_err(io::Error::other)?,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_USER_NOTIF,
    };
    let program = sock_fprog {
        len: 1,
        filter: &raw mut step,
    };
    let (mode, flags) = (
        libc::SECCOMP_SET_MODE_FILTER,
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
    );
    // SAFETY: the kernel copies the program, which is one step long, before the call returns.
    let descriptor = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = c_int::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    Ok(Listener(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

impl Listener {
    /// Waits for a call, passes its number to `told`, and lets it continue.
    pub fn next(&self, told: impl FnOnce(i32)) -> io::Result<()> {
        // SAFETY: all zeros are a valid value, and the one that the kernel wants.
        let mut question: seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes a structure of this type.
        match unsafe { ioctls::receive(self.0.as_raw_fd(), &raw mut question) } {
            // The call was interrupted, or its thread has ended.
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EINTR) => return Ok(()),
            other => other?,
        };
        told(question.data.nr);
        let mut answer = seccomp_notif_resp {
            id: question.id,
            val: 0,
            error: 0,
            flags: u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE)
                .map_err(io::Error::other)?,
        };
        // SAFETY: the kernel reads a structure of this type.
        match unsafe { ioctls::answer(self.0.as_raw_fd(), &raw mut answer) } {
            Err(nix::errno::Errno::ENOENT) => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }
}
