//! Resolves host names with the system's resolver, within a time limit.
//!
//! The system's resolver (getaddrinfo, with the sources in nsswitch.conf) has no time limit that a caller could set. So
//! it runs in a short-lived thread, which is left running when the time is over ([`Background`] says what that costs).
//! If the application forbids threads, or the system provides none, the resolver's own time limit applies.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bindings::background::Background;
use bindings::process::PerProcess;
use transport::Deadline;

/// Whether this library may start threads (CKF_LIBRARY_CANT_CREATE_OS_THREADS of C_Initialize).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum OwnThreads {
    Allowed,
    Forbidden,
}

/// The upper bound on the threads in the resolver, so that a program that tries again and again does not accumulate
/// them.
const MOST_THREADS: usize = 8;

/// The number of threads of this process that are in the resolver. A forked child begins with 0.
pub(crate) static THREADS: PerProcess<AtomicUsize> = PerProcess::new();

thread_local! {
    /// Whether this thread is in the system's resolver.
    static RESOLVING: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether this thread runs the resolver for which the library waits. Parts of the resolver may call PKCS#11
/// libraries, and such a call must not wait for the thread that waits for the resolver.
pub(crate) fn is_resolving() -> bool {
    RESOLVING.get()
}

/// Returns the addresses of a host, in the resolver's order. [`io::ErrorKind::TimedOut`] at the deadline.
pub(super) fn addresses(
    host: &str,
    port: u16,
    threads: OwnThreads,
    deadline: Deadline,
) -> io::Result<Vec<SocketAddr>> {
    let host = host.to_owned();
    let found = within(deadline, threads, move || {
        Ok((host.as_str(), port).to_socket_addrs()?.collect::<Vec<_>>())
    })?;
    match found.is_empty() {
        true => Err(io::Error::other("the name has no address")),
        false => Ok(found),
    }
}

/// The result that a thread hands to the thread that waits for it.
struct Answer<T> {
    found: Mutex<Option<io::Result<T>>>,
    has_come: Condvar,
}

impl<T> Answer<T> {
    fn give(&self, found: io::Result<T>) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        self.has_come.notify_one();
    }

    /// Waits for the result; `None` at the deadline.
    fn wait(&self, deadline: Deadline) -> Option<io::Result<T>> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        while found.is_none() {
            let remaining = deadline.remaining().ok()?;
            let waited = self.has_come.wait_timeout(found, remaining);
            (found, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        found.take()
    }
}

/// Returns the result of `lookup`, or [`io::ErrorKind::TimedOut`] at the deadline.
fn within<T: Send + 'static>(
    deadline: Deadline,
    threads: OwnThreads,
    lookup: impl Fn() -> io::Result<T> + Send + Sync + 'static,
) -> io::Result<T> {
    let lookup = move || {
        let outer = RESOLVING.replace(true);
        let found = lookup();
        RESOLVING.set(outer);
        found
    };
    if threads == OwnThreads::Forbidden {
        return lookup();
    }
    let running = THREADS.get(AtomicUsize::default, |_| {});
    if running.load(Ordering::Relaxed) >= MOST_THREADS {
        return Err(io::Error::other(format!(
            "the system's resolver has not answered {MOST_THREADS} earlier questions yet"
        )));
    }
    let answer = Arc::new(Answer {
        found: Mutex::new(None),
        has_come: Condvar::new(),
    });
    let lookup = Arc::new(lookup);
    let (for_answer, for_thread) = (answer.clone(), lookup.clone());
    running.fetch_add(1, Ordering::Relaxed);
    let started = Background::start(move || {
        for_answer.give(for_thread());
        running.fetch_sub(1, Ordering::Relaxed);
    });
    let Ok(thread) = started else {
        running.fetch_sub(1, Ordering::Relaxed);
        return lookup();
    };
    match answer.wait(deadline) {
        Some(found) => {
            thread.join();
            found
        }
        None => Err(io::ErrorKind::TimedOut.into()), // the thread goes on without us
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    const TIME: Duration = Duration::from_millis(200);

    fn never() -> io::Result<()> {
        loop {
            thread::park();
        }
    }

    #[test]
    fn a_name_of_this_host_is_found() {
        for threads in [OwnThreads::Allowed, OwnThreads::Forbidden] {
            let find = |host| addresses(host, 7, threads, Deadline::after(100 * TIME));
            let found = find("localhost").unwrap();
            assert!(!found.is_empty() && found.iter().all(|it| it.ip().is_loopback()));
            assert!(find("name\0with a zero").is_err());
        }
        assert!(!is_resolving());
    }

    /// Also, a process does not accumulate such threads. Nextest runs each test in a process of its own; with other
    /// runners the threads of several tests add up.
    #[test]
    fn a_resolver_that_hangs_takes_the_time_there_is() {
        for _ in 0..MOST_THREADS {
            let start = Instant::now();
            let found = within(Deadline::after(TIME), OwnThreads::Allowed, never);
            assert_eq!(found.unwrap_err().kind(), io::ErrorKind::TimedOut);
            let taken = start.elapsed();
            assert!(
                taken >= TIME - Duration::from_millis(2) && taken < 10 * TIME,
                "{taken:?}"
            );
        }
        let start = Instant::now();
        let found = within(Deadline::after(TIME), OwnThreads::Allowed, never);
        let message = found.unwrap_err().to_string();
        assert!(message.contains("8 earlier questions"), "{message}");
        assert!(start.elapsed() < TIME);
    }

    #[test]
    fn the_thread_ends_with_the_lookup() {
        let (sender, receiver) = mpsc::channel();
        let sender = Mutex::new(sender);
        let lookup = move || {
            thread::sleep(2 * TIME);
            sender.lock().unwrap().send(is_resolving()).unwrap();
            Ok(())
        };
        let found = within(Deadline::after(TIME), OwnThreads::Allowed, lookup);
        assert!(found.is_err());
        assert_eq!(receiver.recv_timeout(100 * TIME), Ok(true));
        // The sender is dropped with the closure, which the thread drops when it ends.
        assert!(receiver.recv_timeout(100 * TIME).is_err());
    }

    #[test]
    fn without_threads_the_resolver_has_its_own_time() {
        let here = thread::current().id();
        let lookup = move || {
            thread::sleep(2 * TIME);
            Ok(thread::current().id() == here && is_resolving())
        };
        let found = within(Deadline::after(TIME), OwnThreads::Forbidden, lookup);
        assert!(found.unwrap());
    }
}
