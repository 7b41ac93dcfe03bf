//! Represents the point in time at which a blocking call has to be over.

use std::io;
use std::time::{Duration, Instant};

/// The shortest time that is left to a call. The kernel counts its limits in microseconds, and takes 0 of
/// them for no limit.
const SHORTEST: Duration = Duration::from_millis(1);

/// When something has to be over.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// This long from now.
    pub fn after(time: Duration) -> Deadline {
        Deadline(Instant::now() + time)
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
