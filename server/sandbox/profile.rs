//! Records which system calls a module and its worker make (`-profile`), and reads them for the preset `learned`.
//!
//! A profile is a text. A line names the machine's architecture and the number of a call, such as `x86_64 44`; lines
//! that begin with # are comments. Workers append what they see, so that calls may occur more than once.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bindings::recorder;

/// Upper bound on the size of a profile, in bytes.
const LONGEST: u64 = 1 << 20;

/// Upper bound on the numbers of system calls; higher than any kernel's.
const MOST_CALLS: usize = 1024;

/// How long the recording thread sleeps before it looks for the listener again.
const MOMENT: Duration = Duration::from_millis(1);

/// Opens a profile to append to.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).open(path)
}

/// Reads a profile; returns the numbers of its system calls. A line of another architecture is an error.
pub fn load(path: &Path) -> Result<BTreeSet<i64>, String> {
    let fault = |what: String| format!("{}: {what}", path.display());
    let length = path.metadata().map(|file| file.len());
    if length.map_err(|error| fault(error.to_string()))? > LONGEST {
        return Err(fault(format!("expected {LONGEST} bytes or less")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    let mut calls = BTreeSet::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let call = line
            .strip_prefix(std::env::consts::ARCH)
            .and_then(|rest| rest.strip_prefix(' '))
            .and_then(|number| number.parse().ok())
            .filter(|call: &i64| *call >= 0);
        let expected = || {
            let architecture = std::env::consts::ARCH;
            fault(format!(
                "{}: expected `{architecture} NUMBER`",
                number.saturating_add(1)
            ))
        };
        calls.insert(call.ok_or_else(expected)?);
    }
    if calls.is_empty() {
        return Err(fault("expected system calls; -profile records them".into()));
    }
    Ok(calls)
}

/// Starts a thread that appends to `file` the system calls of this thread, and of what it starts, from now on.
pub(super) fn record(file: File) -> io::Result<()> {
    // Once calls are reported, each system call of this thread waits for the thread that has the listener. So the
    // listener is handed over without a system call.
    static LISTENER: Mutex<Option<recorder::Listener>> = Mutex::new(None);
    let taken = || LISTENER.try_lock().ok().and_then(|mut slot| slot.take());
    thread::Builder::new().spawn(move || {
        let listener = loop {
            match taken() {
                Some(listener) => break listener,
                None => thread::sleep(MOMENT),
            }
        };
        write_down(&listener, file);
    })?;
    // Locked before calls are reported, because waiting for the lock after that would never end.
    let mut slot = LISTENER.lock().unwrap_or_else(PoisonError::into_inner);
    *slot = Some(recorder::tell_all()?);
    Ok(())
}

/// Writes each call to the file before the kernel executes it. The thread that waits for the answer may hold any lock,
/// even the allocator's. So nothing in here allocates or locks.
fn write_down(listener: &recorder::Listener, mut file: File) {
    let mut is_known = [false; MOST_CALLS];
    let mut note = |call: i32| {
        let known = usize::try_from(call).ok();
        let Some(is_known) = known.and_then(|call| is_known.get_mut(call)) else {
            return Ok(()); // no kernel has such a call
        };
        if std::mem::replace(is_known, true) {
            return Ok(());
        }
        let mut line = [0; 64];
        let mut rest = line.as_mut_slice();
        writeln!(rest, "{} {call}", std::env::consts::ARCH)?;
        let unused = rest.len();
        let length = line.len().saturating_sub(unused);
        file.write_all(line.get(..length).unwrap_or_default())
    };
    let mut written = Ok(());
    while written.is_ok() && listener.next(|call| written = note(call)).is_ok() {}
    // A call could not be written or answered. Without an answer the worker would wait for ever, and a profile that
    // lacks a call is useless. The log says how the worker ended.
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_recorded_and_refuses_the_rest() {
        let name = format!("pkcs11proxyd-{}-profile", std::process::id());
        let path = std::env::temp_dir().join(name);
        let arch = std::env::consts::ARCH;
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            load(&path)
        };
        let calls = read(&format!("# a comment\n{arch} 3\n\n{arch} 1\n{arch} 3\n"));
        assert_eq!(calls.unwrap(), BTreeSet::from([1, 3]));
        for text in ["", "#\n", "3\n", "other 3\n"] {
            assert!(read(text).is_err(), "{text}");
        }
        for text in ["x", "-1", "1 2", "99999999999999999999"] {
            let message = read(&format!("{arch} 1\n{arch} {text}\n")).unwrap_err();
            assert!(message.contains("profile: 2: expected"), "{message}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(load(&path).is_err());
    }
}
