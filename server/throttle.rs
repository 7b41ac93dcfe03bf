//! Limits how often events are logged that clients can cause at will.
//!
//! The controller has one throttle of each type for a service, and a worker one for each type of message. It is asked
//! before a message is logged, and keeps counts, not messages.

use std::time::{Duration, Instant};

/// The interval in which one warning, or a few refusals, are logged.
const INTERVAL: Duration = Duration::from_secs(60);

/// Upper bound on the refusals logged in an [`INTERVAL`].
const REFUSALS_LOGGED: u32 = 20;

/// Lets one message through in an interval.
#[derive(Default)]
pub struct Throttle(Option<Instant>);

impl Throttle {
    /// Whether to log this message.
    pub fn passes(&mut self, now: Instant) -> bool {
        let passes = is_over(self.0, now);
        if passes {
            self.0 = Some(now);
        }
        passes
    }
}

/// Lets the first few refusals of an interval through, and counts the others.
#[derive(Default)]
pub struct RefusalLog {
    since: Option<Instant>,
    logged: u32,
    left_out: u64,
}

impl RefusalLog {
    /// Returns whether to log this refusal, and the number of earlier refusals that were left out, if that number is to
    /// be logged now.
    pub fn passes(&mut self, now: Instant) -> (bool, Option<u64>) {
        if is_over(self.since, now) {
            let left_out = self.left_out;
            *self = RefusalLog {
                since: Some(now),
                logged: 1,
                left_out: 0,
            };
            return (true, (left_out > 0).then_some(left_out));
        }
        let passes = self.logged < REFUSALS_LOGGED;
        if passes {
            self.logged += 1;
        } else {
            self.left_out += 1;
        }
        (passes, None)
    }
}

/// Whether the interval that began at `since` is over, or none has begun.
fn is_over(since: Option<Instant>, now: Instant) -> bool {
    since.is_none_or(|since| now.duration_since(since) >= INTERVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_warning_passes_in_an_interval() {
        let start = Instant::now();
        let mut throttle = Throttle::default();
        let passed = [0, 1, 59, 60, 61, 119, 120]
            .map(|seconds| throttle.passes(start + Duration::from_secs(seconds)));
        assert_eq!(passed, [true, false, false, true, false, false, true]);
    }

    #[test]
    fn refusals_that_are_left_out_are_told_of_once() {
        let start = Instant::now();
        let mut log = RefusalLog::default();
        let passed = (0..1000)
            .filter(|_| log.passes(start) == (true, None))
            .count();
        assert_eq!(passed, 20);
        assert_eq!(log.passes(start + INTERVAL), (true, Some(980)));
        assert_eq!(log.passes(start + INTERVAL), (true, None));
        assert_eq!(log.passes(start + 3 * INTERVAL), (true, None));
    }
}
