//! Decides when a thread polls a socket for a moment before it sleeps until bytes arrive.
//!
//! On one machine a reply, or the next call, may come within a few microseconds. To put a thread to sleep and to wake it
//! takes longer than that, above all in a virtual machine. If nothing comes for a moment, polling has wasted processor
//! time, and a thread that gives the processor away meanwhile may get it back milliseconds later. So after a poll in
//! vain as many receives sleep at once as it has taken microseconds: on average it costs each of them one.

use std::thread;
use std::time::{Duration, Instant};

/// How long a thread polls, unless it gets the processor back late.
const MOMENT: Duration = Duration::from_micros(30);

/// The most receives in a row that do not poll.
const MOST_SKIPPED: u32 = 100_000;

/// Decides which receives poll.
#[derive(Debug, Default)]
pub(crate) struct BusyPoll {
    /// How many more receives sleep at once.
    skipped: u32,
}

impl BusyPoll {
    /// Returns whether the next receive is to poll. To be asked once for each receive.
    pub fn is_due(&mut self) -> bool {
        let is_due = self.skipped == 0;
        self.skipped = self.skipped.saturating_sub(1);
        is_due
    }

    /// Calls `attempt` until it returns something, and not any more when a moment is over. Other threads that are ready
    /// get the processor between two attempts, so that polling does not keep the peer from it.
    pub fn poll<T>(&mut self, attempt: impl FnMut() -> Option<T>) -> Option<T> {
        self.poll_for(MOMENT, attempt)
    }

    fn poll_for<T>(&mut self, time: Duration, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
        let start = Instant::now();
        loop {
            let result = attempt();
            if result.is_some() {
                return result;
            }
            thread::yield_now();
            let elapsed = start.elapsed();
            if elapsed >= time {
                self.was_in_vain(elapsed);
                return None;
            }
        }
    }

    fn was_in_vain(&mut self, elapsed: Duration) {
        let microseconds = u32::try_from(elapsed.as_micros());
        self.skipped = microseconds.unwrap_or(u32::MAX).min(MOST_SKIPPED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_result_ends_a_poll() {
        let mut left = 3;
        let result = BusyPoll::default().poll_for(Duration::MAX, || {
            left -= 1;
            (left == 0).then_some("bytes")
        });
        assert_eq!((result, left), (Some("bytes"), 0));
    }

    #[test]
    fn a_poll_in_vain_lasts_a_moment() {
        let mut poll = BusyPoll::default();
        let start = Instant::now();
        assert_eq!(poll.poll(|| None::<()>), None);
        assert!(start.elapsed() >= MOMENT);
        assert!(!poll.is_due());
    }

    #[test]
    fn nothing_is_attempted_when_the_moment_is_over() {
        let mut attempts = 0;
        let result = BusyPoll::default().poll_for(Duration::from_millis(1), || {
            attempts += 1;
            thread::sleep(Duration::from_millis(2));
            (attempts > 1).then_some(())
        });
        assert_eq!((result, attempts), (None, 1));
    }

    #[test]
    fn a_poll_in_vain_costs_each_later_receive_one_microsecond() {
        for (elapsed, skipped) in [(MOMENT, 30), (100 * MOMENT, 3000), (Duration::MAX, 100_000)] {
            let mut poll = BusyPoll::default();
            assert!(poll.is_due() && poll.is_due());
            poll.was_in_vain(elapsed);
            assert_eq!((0..).find(|_| poll.is_due()), Some(skipped));
            assert_eq!(poll.poll(|| Some(())), Some(()));
            assert!(poll.is_due());
        }
    }
}
