//! Decides in which order and when the addresses of a daemon are tried (RFC 8305, "Happy Eyeballs").
//!
//! The addresses come in the resolver's order. Their families alternate. Each is tried 250 ms after the one before, or
//! at once when one has failed. Uses no sockets.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The time between two attempts (RFC 8305, section 5: the recommended value of Connection Attempt Delay).
const PAUSE: Duration = Duration::from_millis(250);

/// The addresses that were not tried yet.
pub(super) struct Schedule {
    waiting: VecDeque<SocketAddr>,
    /// When the next one is to be tried.
    due: Instant,
}

impl Schedule {
    /// Makes a schedule whose first address is due now.
    pub fn new(addresses: &[SocketAddr], now: Instant) -> Schedule {
        Schedule {
            waiting: interleaved(addresses),
            due: now,
        }
    }

    /// Returns the next address if it is due, and schedules the one after it.
    pub fn next(&mut self, now: Instant) -> Option<SocketAddr> {
        if now < self.due {
            return None;
        }
        self.due = now + PAUSE;
        self.waiting.pop_front()
    }

    /// Makes the next address due at once, because one has failed.
    pub fn failed(&mut self, now: Instant) {
        self.due = now;
    }

    /// Returns how long it is until the next address is due; `None` if there is none.
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        let pause = self.due.saturating_duration_since(now);
        (!self.waiting.is_empty()).then_some(pause)
    }

    /// Returns the addresses that were not tried.
    pub fn rest(self) -> impl Iterator<Item = SocketAddr> {
        self.waiting.into_iter()
    }
}

/// Alternates the families, beginning with that of the first address (RFC 8305, section 4). Keeps the order within a
/// family.
fn interleaved(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let is_first = addresses.first().is_none_or(SocketAddr::is_ipv6);
    let (first, second): (VecDeque<SocketAddr>, VecDeque<SocketAddr>) =
        addresses.iter().partition(|it| it.is_ipv6() == is_first);
    let mut families = [first, second];
    let mut ordered = VecDeque::new();
    while families.iter().any(|family| !family.is_empty()) {
        ordered.extend(families.iter_mut().filter_map(VecDeque::pop_front));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(written: &[&str]) -> Vec<SocketAddr> {
        let parse = |ip: &&str| SocketAddr::new(ip.parse().unwrap(), 4444);
        written.iter().map(parse).collect()
    }

    #[test]
    fn families_alternate_and_each_keeps_its_order() {
        for (found, tried) in [
            (
                &["::1", "::2", "::3", "1.1.1.1", "2.2.2.2"][..],
                &["::1", "1.1.1.1", "::2", "2.2.2.2", "::3"][..],
            ),
            (
                &["1.1.1.1", "2.2.2.2", "3.3.3.3", "::1"],
                &["1.1.1.1", "::1", "2.2.2.2", "3.3.3.3"],
            ),
            (&["1.1.1.1", "2.2.2.2"], &["1.1.1.1", "2.2.2.2"]),
            (&["::9"], &["::9"]),
            (&[], &[]),
        ] {
            assert_eq!(interleaved(&addresses(found)), addresses(tried));
        }
    }

    #[test]
    fn the_next_is_due_after_a_pause_or_a_failure() {
        let all = addresses(&["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"]);
        let [first, second, third, fourth] = all[..] else {
            unreachable!("there are four");
        };
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut schedule = Schedule::new(&all, start);
        assert_eq!(schedule.pause(start), Some(Duration::ZERO));
        assert_eq!(schedule.next(start), Some(first));
        assert_eq!(schedule.next(after(249)), None);
        assert_eq!(schedule.pause(after(100)), Some(Duration::from_millis(150)));
        assert_eq!(schedule.next(after(260)), Some(second));
        // The pause counts from when the address was tried.
        assert_eq!(schedule.next(after(505)), None);
        schedule.failed(after(300));
        assert_eq!(schedule.next(after(300)), Some(third));
        assert_eq!(schedule.pause(after(900)), Some(Duration::ZERO));
        assert_eq!(schedule.next(after(900)), Some(fourth));
        assert_eq!(schedule.pause(after(900)), None);
        assert_eq!(schedule.next(after(2000)), None);
        assert_eq!(schedule.rest().count(), 0);
    }
}
