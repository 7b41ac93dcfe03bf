//! Waits for children, whatever signal they died of. `nix` fails for a child that a real-time signal has ended, and such a
//! child would stay in front of all others.

use std::mem::MaybeUninit;

use nix::errno::Errno;
use nix::unistd::Pid;

/// How a child ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// By exiting, with this status.
    Exit(i32),
    /// By the signal with this number.
    Signal(i32),
}

/// Returns a child that has ended, without reaping it. Returns `None` if there is none.
pub fn ended() -> Result<Option<Pid>, Errno> {
    match wait(libc::P_ALL, 0, libc::WNOWAIT) {
        Ok(child) => Ok(child.map(|(pid, _)| pid)),
        Err(Errno::ECHILD) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reaps this child and returns how it ended. Returns `None` if it has not ended.
pub fn reap(child: Pid) -> Result<Option<Ended>, Errno> {
    let id = libc::id_t::try_from(child.as_raw()).map_err(|_| Errno::ECHILD)?;
    let child = wait(libc::P_PID, id, 0)?;
    Ok(child.map(|(_, ended)| ended))
}

/// Calls waitid(2) for children that have ended, without blocking.
fn wait(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> Result<Option<(Pid, Ended)>, Errno> {
    let flags = flags | libc::WEXITED | libc::WNOHANG;
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: waitid writes a `siginfo_t` to the place, which is writable for one.
    Errno::result(unsafe { libc::waitid(kind, id, info.as_mut_ptr(), flags) })?;
    // SAFETY: zeros are a `siginfo_t`, and waitid has left them or filled it.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills this field, of a child that has ended; it is zero if there is none.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    let ended = match info.si_code {
        libc::CLD_EXITED => Ended::Exit(status),
        _ => Ended::Signal(status),
    };
    Ok((pid != 0).then_some((Pid::from_raw(pid), ended)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Each test is a process of its own, so these are its only children.
    #[allow(clippy::zombie_processes)] // they are reaped by what is tested
    #[test]
    fn a_child_is_reaped_whatever_it_died_of() {
        assert_eq!(ended(), Ok(None));
        for (end, expected) in [
            ("exit 7", Ended::Exit(7)),
            ("kill -KILL $$", Ended::Signal(9)),
            ("kill -34 $$", Ended::Signal(34)),
            ("kill -64 $$", Ended::Signal(64)),
        ] {
            let child = Command::new("sh").args(["-c", end]).spawn().unwrap();
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
            while ended() == Ok(None) {
                std::thread::yield_now();
            }
            assert_eq!(ended(), Ok(Some(pid)));
            assert_eq!(reap(pid), Ok(Some(expected)), "{end}");
            assert_eq!(reap(pid), Err(Errno::ECHILD));
        }
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        assert_eq!((ended(), reap(pid)), (Ok(None), Ok(None)));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
}
