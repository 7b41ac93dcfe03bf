//! Decides when a thread polls a socket for a moment before it sleeps until bytes arrive.
//!
//! On one machine a reply, or the next call, may come within a few microseconds. To put a thread to sleep and to wake it
//! takes longer than that, above all in a virtual machine. If nothing comes for a moment, polling has wasted processor
//! time. So after a poll in vain the next receives sleep at once: one after the first such poll, twice as many after
//! each further one, up to [`MOST_SKIPPED`], and half as many after each poll that pays. A thread that gives the
//! processor away may get it back milliseconds later. That many times as many receives then sleep at once.

use std::thread;
use std::time::{Duration, Instant};

/// How long a thread polls, unless it gets the processor back late.
const MOMENT: Duration = Duration::from_micros(30);

/// The most receives in a row that do not poll, unless the last poll took longer than a moment.
const MOST_SKIPPED: u32 = 64;

/// How many times as many they are at most.
const LONGEST_LOSS: u128 = 1000;

/// What earlier polls came to.
#[derive(Debug, Default)]
pub(crate) struct BusyPoll {
    /// How many receives sleep at once after a poll in vain.
    skipped: u32,
    /// How many of them are still to come.
    left: u32,
}

impl BusyPoll {
    /// Returns whether the next receive is to poll. To be asked once for each receive.
    pub fn is_due(&mut self) -> bool {
        let is_due = self.left == 0;
        self.left = self.left.saturating_sub(1);
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
                self.skipped /= 2;
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
        self.skipped = (self.skipped * 2).clamp(1, MOST_SKIPPED);
        let moments = elapsed.as_nanos() / MOMENT.as_nanos();
        let moments = moments.clamp(1, LONGEST_LOSS);
        self.left = self.skipped * u32::try_from(moments).unwrap_or(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A receive that polls in vain, if it polls. Returns whether it does.
    fn polls_in_vain(poll: &mut BusyPoll) -> bool {
        let is_due = poll.is_due();
        if is_due {
            poll.was_in_vain(MOMENT);
        }
        is_due
    }

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
    fn polls_in_vain_become_rare() {
        let mut poll = BusyPoll::default();
        let tried = (0..10_000).filter(|_| polls_in_vain(&mut poll)).count();
        // 1, 2, 4, ... 32 receives are skipped after the first ones, then 64.
        let skipped = [1, 2, 4, 8, 16, 32];
        let rest = 10_000 - skipped.len() - skipped.iter().sum::<usize>();
        assert_eq!(tried, skipped.len() + rest.div_ceil(65));
    }

    #[test]
    fn a_long_loss_makes_them_rarer() {
        for (elapsed, skipped) in [(MOMENT, 1), (100 * MOMENT, 100), (Duration::MAX, 1000)] {
            let mut poll = BusyPoll::default();
            poll.was_in_vain(elapsed);
            assert_eq!((0..9999).find(|_| poll.is_due()), Some(skipped));
        }
    }

    #[test]
    fn polls_that_pay_bring_it_back() {
        let mut poll = BusyPoll::default();
        while poll.skipped < MOST_SKIPPED {
            polls_in_vain(&mut poll);
        }
        let mut polls = || {
            let is_due = poll.is_due();
            if is_due {
                assert_eq!(poll.poll(|| Some(())), Some(()));
            }
            is_due
        };
        assert_eq!((0..500).filter(|_| !polls()).count(), 64);
        assert!((0..500).all(|_| polls()));
    }
}
