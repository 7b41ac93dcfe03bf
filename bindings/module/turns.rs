//! Decides which calls may be in the module at the same time, and ends waits when the module is finalized.
//!
//! A module that was initialized for threads gets calls in parallel, except that C_Initialize and C_Finalize run alone.
//! Any other module gets one call at a time.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::time::Duration;

/// Whether the application has threads, and whether the module takes calls in parallel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Threads {
    /// The application has one thread, as far as it said: one call at a time.
    None,
    /// The application has several threads; the module takes one call at a time.
    Queued,
    /// The module takes calls in parallel.
    Parallel,
}

/// Gives threads their turns to call the module.
pub(super) struct Turns {
    lock: RwLock<()>,
    threads: AtomicU8,
    /// How often the module was finalized.
    finalizations: Mutex<u64>,
    finalized: Condvar,
}

/// The right to call the module, until it is dropped.
pub(super) enum Turn<'a> {
    /// Other threads may call at the same time.
    Shared { _guard: RwLockReadGuard<'a, ()> },
    /// No other thread may call.
    Alone { _guard: RwLockWriteGuard<'a, ()> },
}

impl Turns {
    pub(super) fn new() -> Turns {
        Turns {
            lock: RwLock::new(()),
            threads: AtomicU8::new(0),
            finalizations: Mutex::new(0),
            finalized: Condvar::new(),
        }
    }

    pub(super) fn threads(&self) -> Threads {
        match self.threads.load(Ordering::Acquire) {
            2 => Threads::Parallel,
            1 => Threads::Queued,
            _ => Threads::None,
        }
    }

    /// Stores how calls are made from now on. The caller must be alone in the module.
    pub(super) fn set_threads(&self, threads: Threads, _alone: &Turn<'_>) {
        let number = match threads {
            Threads::None => 0,
            Threads::Queued => 1,
            Threads::Parallel => 2,
        };
        self.threads.store(number, Ordering::Release);
    }

    /// Waits until the module may be called.
    pub(super) fn turn(&self) -> Turn<'_> {
        if self.threads() == Threads::Parallel {
            // The lock protects no data that a panicking thread could leave inconsistent.
            let guard = self.lock.read().unwrap_or_else(PoisonError::into_inner);
            if self.threads() == Threads::Parallel {
                return Turn::Shared { _guard: guard };
            }
        }
        self.alone()
    }

    /// Waits until no thread calls the module.
    pub(super) fn alone(&self) -> Turn<'_> {
        Turn::Alone {
            _guard: self.lock.write().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Returns how often the module was finalized; for [`pause`](Turns::pause).
    pub(super) fn finalizations(&self) -> u64 {
        *self.count()
    }

    /// Counts a finalization, which ends all pauses.
    pub(super) fn finalized(&self) {
        *self.count() += 1;
        self.finalized.notify_all();
    }

    /// Waits for this long, or until the module is finalized once more than `before`. Returns whether it was.
    pub(super) fn pause(&self, time: Duration, before: u64) -> bool {
        let waited = self
            .finalized
            .wait_timeout_while(self.count(), time, |count| *count == before);
        *waited.unwrap_or_else(PoisonError::into_inner).0 != before
    }

    fn count(&self) -> MutexGuard<'_, u64> {
        self.finalizations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Instant;

    #[test]
    fn only_parallel_calls_share_a_turn() {
        let turns = Turns::new();
        assert!(matches!(turns.turn(), Turn::Alone { .. }));
        for (threads, shared) in [
            (Threads::Queued, false),
            (Threads::Parallel, true),
            (Threads::None, false),
        ] {
            turns.set_threads(threads, &turns.alone());
            assert_eq!(turns.threads(), threads);
            assert_eq!(matches!(turns.turn(), Turn::Shared { .. }), shared);
        }
    }

    #[test]
    fn a_pause_ends_when_the_module_is_finalized() {
        let turns = Arc::new(Turns::new());
        assert!(!turns.pause(Duration::from_millis(1), turns.finalizations()));
        let before = turns.finalizations();
        let other = turns.clone();
        let waiting = std::thread::spawn(move || {
            let begun = Instant::now();
            (
                other.pause(Duration::from_secs(60), before),
                begun.elapsed(),
            )
        });
        turns.finalized();
        let (finalized, time) = waiting.join().expect("no panic");
        assert!(finalized && time < Duration::from_secs(30));
    }
}
