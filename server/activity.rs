//! Shows the controller what each worker is doing, without a message for each call.
//!
//! The processes of a service share memory in which each worker has a place of its own. A worker writes to its place,
//! and the controller reads it when an administrator asks. In this way a worker can only give wrong information about
//! itself.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bindings::shared;
use nix::time::{ClockId, clock_gettime};
use xdr::Function;

use crate::places::MOST_WORKERS;

/// The number of counters of one worker. They fill a cache line, so that workers do not slow each other down.
const FIELDS: usize = 8;

const BEGUN: usize = 0;
const ENDED: usize = 1;
/// The number of the last function.
const FUNCTION: usize = 2;
/// When that call began, in milliseconds of the monotonic clock.
const BEGUN_AT: usize = 3;
/// One more than the position of the loaded module in the filter file.
const MODULE: usize = 4;

/// The activity of all workers of a service, by their places. The controller has this.
pub struct Activities(&'static [AtomicU64]);

/// Notes the activity of one worker. The worker has this.
#[derive(Clone, Copy)]
pub struct Activity(Option<&'static [AtomicU64]>);

/// What a worker has done so far.
#[derive(Debug, Eq, PartialEq)]
pub struct Done {
    /// Its calls so far, including those in flight.
    pub calls: u64,
    /// Calls that are being executed.
    pub in_flight: u64,
    /// The last call's function, and how long ago it began.
    pub last: Option<(Function, Duration)>,
    /// The position of the loaded module in the filter file.
    pub module: Option<usize>,
}

impl Activities {
    /// Makes the counters of this many workers.
    pub fn new(workers: usize) -> io::Result<Activities> {
        let counters = NonZeroUsize::MIN.saturating_add(workers.min(MOST_WORKERS) * FIELDS);
        Ok(Activities(shared::counters(counters)?))
    }

    /// Resets a place, and returns the [`Activity`] of the worker that is about to be forked for it.
    pub fn share(&self, place: usize) -> Activity {
        let activity = Activity(self.at(place));
        for counter in activity.0.into_iter().flatten() {
            counter.store(0, Ordering::Relaxed);
        }
        activity
    }

    fn at(&self, place: usize) -> Option<&'static [AtomicU64]> {
        let start = place.checked_mul(FIELDS)?;
        self.0.get(start..start.checked_add(FIELDS)?)
    }

    /// Returns what the worker in this place has done.
    pub fn of(&self, place: usize) -> Done {
        let counters = self.at(place);
        let read = |field: usize| {
            let counter = counters.and_then(|counters| counters.get(field));
            counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
        };
        let ended = read(ENDED);
        let calls = read(BEGUN);
        let function = u32::try_from(read(FUNCTION)).ok();
        let function = function.and_then(Function::from_number);
        let age = milliseconds().saturating_sub(read(BEGUN_AT));
        let module = usize::try_from(read(MODULE)).ok();
        Done {
            calls,
            in_flight: calls.saturating_sub(ended),
            last: function
                .filter(|_| calls > 0)
                .map(|function| (function, Duration::from_millis(age))),
            module: module.and_then(|module| module.checked_sub(1)),
        }
    }
}

impl Activity {
    /// The activity of a worker whose activity nobody reads.
    pub const UNSEEN: Activity = Activity(None);

    /// Executes a call of this function, and notes its beginning and its end.
    pub fn during<R>(&self, function: Function, call: impl FnOnce() -> R) -> R {
        let Some([begun, ended, last, begun_at, ..]) = self.0 else {
            return call();
        };
        begun_at.store(milliseconds(), Ordering::Relaxed);
        last.store(u64::from(function.number()), Ordering::Relaxed);
        begun.fetch_add(1, Ordering::Relaxed);
        let result = call();
        ended.fetch_add(1, Ordering::Relaxed);
        result
    }

    /// Notes that the module at this position of the filter file is loaded.
    pub fn loaded(&self, position: usize) {
        if let Some(module) = self.0.and_then(|counters| counters.get(MODULE)) {
            module.store(position as u64 + 1, Ordering::Relaxed);
        }
    }
}

/// Returns the time of the monotonic clock, in milliseconds, as of the kernel's last tick. It needs no system call and
/// is the same in all processes.
fn milliseconds() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)
        .ok()
        .and_then(|time| u64::try_from(Duration::from(time).as_millis()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_sees_what_a_worker_does_until_the_place_is_given_anew() {
        let activities = Activities::new(2).unwrap();
        let (first, second) = (activities.share(0), activities.share(1));
        let none = activities.of(1);
        assert_eq!((none.calls, none.last, none.module), (0, None, None));
        second.during(Function::C_GetInfo, || ());
        second.loaded(3);
        second.during(Function::C_Sign, || {
            let done = activities.of(1);
            assert_eq!((done.calls, done.in_flight, done.module), (2, 1, Some(3)));
            let (function, age) = done.last.unwrap();
            assert_eq!(function, Function::C_Sign);
            assert!(age < Duration::from_secs(60));
        });
        assert_eq!(activities.of(1).in_flight, 0);
        assert_eq!(activities.of(0), none);
        activities.share(1);
        assert_eq!(activities.of(1), none);
        first.during(Function::C_GetInfo, || ());
        assert_eq!(activities.of(0).calls, 1);
        // A place for which there is no memory.
        let surplus = activities.share(2);
        surplus.loaded(1);
        assert_eq!(surplus.during(Function::C_GetInfo, || 5), 5);
        assert_eq!(activities.of(2), none);
    }
}
