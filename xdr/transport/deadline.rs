//! Represents the point in time at which a blocking call has to end.

use std::io;
use std::time::{Duration, Instant};

/// The shortest time limit that a call gets. The kernel counts its limits in microseconds, and 0 means no limit to it.
const SHORTEST: Duration = Duration::from_millis(1);

/// The least and the greatest time of [`Deadline::after`], which uses these instead of any time outside. So a call is
/// tried at least once, and the clock can represent the deadline.
const ALLOWED: (Duration, Duration) = (
    Duration::from_millis(10),
    Duration::from_secs(100 * 365 * 24 * 3600),
);

/// The point in time at which something has to be over.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// Returns the deadline this long from now; at least 10 ms, at most 100 years.
    pub fn after(time: Duration) -> Deadline {
        Deadline(Instant::now() + time.clamp(ALLOWED.0, ALLOWED.1))
    }

    /// Returns the deadline this much later, or the same one if the clock cannot represent that.
    pub fn later(self, time: Duration) -> Deadline {
        Deadline(self.0.checked_add(time).unwrap_or(self.0))
    }

    /// How much time is left; [`io::ErrorKind::TimedOut`] when it is less than a millisecond.
    pub fn remaining(self) -> io::Result<Duration> {
        self.remaining_at(Instant::now())
    }

    fn remaining_at(self, now: Instant) -> io::Result<Duration> {
        let remaining = self.0.saturating_duration_since(now);
        if remaining < SHORTEST {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(remaining)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `record_timeout` and `handshake_timeout` may be any number above 0.
    #[test]
    fn extreme_times_leave_some_time_and_overflow_nothing() {
        for time in [Duration::from_nanos(1), Duration::MAX] {
            assert!(Deadline::after(time).remaining().is_ok(), "{time:?}");
        }
    }

    #[test]
    fn a_later_deadline_leaves_that_much_more_time() {
        let (now, time) = (Instant::now(), Duration::from_secs(5));
        let later = Deadline(now).later(time);
        assert_eq!(later.remaining_at(now).ok(), Some(time));
        assert!(later.later(Duration::MAX).remaining_at(now).is_ok());
    }

    #[test]
    fn less_than_a_millisecond_is_no_time() {
        let now = Instant::now();
        let deadline = Deadline(now + Duration::from_millis(10));
        let remaining = |millis: f64| {
            let at = now + Duration::from_secs_f64(millis / 1000.0);
            deadline.remaining_at(at).map_err(|error| error.kind())
        };
        assert_eq!(remaining(0.0), Ok(Duration::from_millis(10)));
        assert_eq!(remaining(9.0), Ok(Duration::from_millis(1)));
        for late in [9.0005, 9.9999, 10.0, 10_000.0] {
            assert_eq!(remaining(late), Err(io::ErrorKind::TimedOut));
        }
    }
}
