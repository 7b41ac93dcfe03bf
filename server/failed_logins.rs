//! Counts the failed logins of each peer, in memory that all workers of a service share.
//!
//! The controller makes one [`FailedLogins`] for each service; workers inherit it. A login is counted before the token
//! sees it, and the count is taken back if the PIN was not wrong. So parallel connections get no more guesses than one,
//! and the guess of a worker that is killed meanwhile stays counted. `login_limit` makes and judges the calls.
//!
//! There are places for a fixed number of peers. Peers that find no free place share one last place. So a peer with
//! many addresses gains nothing by filling the table, and the others can still log in as long as few PINs are wrong.
//! There is no lock: every change is one atomic operation on one number.

use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::counts::{Counts, NOBODY, OTHERS, PLACES};

/// Upper bound on [`Limits::failures`].
pub const MOST_FAILURES: usize = 200;

/// How often a change is tried while other processes change the same place.
const ATTEMPTS: usize = 1000;

/// The unit of times in shared memory, in milliseconds.
const TICK: u128 = 10;

/// The limits on failed logins.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Upper bound on the failed logins of a peer in a window (`max_failed_logins`).
    pub failures: usize,
    /// How long failed logins count, from the first of them (`failed_login_window`).
    pub window: Duration,
}

/// The failed logins of all peers of a service.
#[derive(Clone)]
pub struct FailedLogins {
    limits: Limits,
    counts: Counts,
}

/// A peer's key in the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Key(u64);

/// The user of a token that a PIN is for, as a number in the table. A right PIN clears only failures for the same one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Target(u64);

/// A login that has been counted, and whose outcome is not known yet.
#[derive(Debug)]
pub struct Attempt {
    place: usize,
    key: u64,
    target: Target,
    /// When the window in which it is counted began, in ticks.
    since: u64,
    /// The failures before it.
    pub failures: usize,
}

/// The outcome of a login.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The PIN was right.
    Right,
    /// The PIN was wrong.
    Wrong,
    /// The token did not compare the PIN, or failed.
    Neither,
}

/// A login that may not be made now.
#[derive(Debug, Eq, PartialEq)]
pub enum NotNow {
    /// The peer has failed too often. It may log in again after this time.
    Refused(Duration),
    /// The peer has as many logins in progress as may still fail. The window ends after this time.
    Busy(Duration),
}

/// The content of the second number of a place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct State {
    /// When the window began, in ticks: 36 bits.
    since: u64,
    /// The [`Target`] of all failures: 12 bits. [`NO_TARGET`] if there are no failures, [`SEVERAL_TARGETS`] if they
    /// have different ones.
    target: u64,
    /// Logins in progress, including those of workers that were killed meanwhile: 8 bits.
    pending: u64,
    /// Failed logins: 8 bits.
    failures: u64,
}

const NO_TARGET: u64 = 0;
const SEVERAL_TARGETS: u64 = 1;
const TARGETS: u64 = 1 << 12;

impl State {
    fn unpack(state: u64) -> State {
        State {
            since: state >> 28,
            target: state >> 16 & 0xfff,
            pending: state >> 8 & 0xff,
            failures: state & 0xff,
        }
    }

    fn pack(self) -> u64 {
        let (pending, failures) = (self.pending.min(0xff), self.failures.min(0xff));
        self.since << 28 | self.target << 16 | pending << 8 | failures
    }

    fn is_free(self) -> bool {
        self.pending == 0 && self.failures == 0
    }

    fn count_failure(&mut self, target: Target) {
        self.target = match self.failures {
            0 => target.0,
            _ if self.target == target.0 => target.0,
            _ => SEVERAL_TARGETS,
        };
        self.failures = self.failures.saturating_add(1);
    }

    fn clear(&mut self, target: Target) {
        if self.target == target.0 {
            (self.target, self.failures) = (NO_TARGET, 0);
        }
    }
}

impl FailedLogins {
    /// Makes the failed logins that are stored in `counts`. `limits.failures` is 1 to [`MOST_FAILURES`].
    pub fn new(limits: Limits, counts: Counts) -> FailedLogins {
        FailedLogins { limits, counts }
    }

    /// Returns the limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Returns the key of a peer in the table.
    pub fn key(&self, peer: &impl Hash) -> Key {
        Key(self.counts.key(peer))
    }

    /// Returns the number of the user and token that a PIN is for.
    pub fn target(&self, target: &impl Hash) -> Target {
        let first = SEVERAL_TARGETS + 1;
        Target(first + self.counts.hash(target) % (TARGETS - first))
    }

    /// Returns the key and the state in a place.
    fn place(&self, number: usize) -> Option<(&AtomicU64, &AtomicU64)> {
        self.counts.place(number)
    }

    fn ticks(&self, now: Instant) -> u64 {
        let millis = now
            .saturating_duration_since(self.counts.start())
            .as_millis();
        u64::try_from(millis / TICK).unwrap_or(u64::MAX)
    }

    /// Returns the length of the window, in ticks.
    fn window(&self) -> u64 {
        u64::try_from(self.limits.window.as_millis().div_ceil(TICK)).unwrap_or(u64::MAX)
    }

    fn is_over(&self, state: State, now: u64) -> bool {
        now.saturating_sub(state.since) >= self.window()
    }

    /// Returns the place of a peer, and its key there. A peer without a place gets a free one, or else the last one.
    fn find(&self, key: Key, now: u64) -> (usize, u64) {
        for _ in 0..ATTEMPTS {
            let mut free = None;
            for number in 0..PLACES {
                let Some((owner, state)) = self.place(number) else {
                    break;
                };
                let owner = owner.load(Ordering::SeqCst);
                if owner == key.0 {
                    return (number, key.0);
                }
                let state = State::unpack(state.load(Ordering::SeqCst));
                if free.is_none() && (state.is_free() || self.is_over(state, now)) {
                    free = Some((number, owner));
                }
                // Places are first taken in ascending order, so all further ones are unused.
                if owner == NOBODY {
                    break;
                }
            }
            let Some((number, before)) = free else {
                break;
            };
            if let Some((owner, _)) = self.place(number) {
                // Whether this succeeds or not, the next round searches again, and finds the place if it now has the
                // key of this peer.
                let (order, other) = (Ordering::SeqCst, Ordering::SeqCst);
                let _ = owner.compare_exchange(before, key.0, order, other);
            }
        }
        (PLACES, OTHERS)
    }

    /// Counts a login that is about to be made, or returns why it may not be made now.
    pub fn begin(&self, key: Key, target: Target, now: Instant) -> Result<Attempt, NotNow> {
        let ticks = self.ticks(now);
        let most = self.limits.failures.clamp(1, MOST_FAILURES) as u64;
        let mut left = self.limits.window;
        for _ in 0..ATTEMPTS {
            let (number, key) = self.find(key, ticks);
            let Some((owner, place)) = self.place(number) else {
                break;
            };
            let before = place.load(Ordering::SeqCst);
            let mut state = State::unpack(before);
            if state.is_free() || self.is_over(state, ticks) {
                state = State {
                    since: ticks,
                    target: NO_TARGET,
                    pending: 0,
                    failures: 0,
                };
            }
            let past = ticks.saturating_sub(state.since);
            let past = past.saturating_mul(u64::try_from(TICK).unwrap_or(1));
            left = self
                .limits
                .window
                .saturating_sub(Duration::from_millis(past));
            if owner.load(Ordering::SeqCst) != key {
                continue; // the place has become another's
            }
            if state.failures >= most {
                return Err(NotNow::Refused(left));
            }
            if state.failures + state.pending >= most {
                return Err(NotNow::Busy(left));
            }
            state.pending += 1;
            let (order, other) = (Ordering::SeqCst, Ordering::SeqCst);
            let changed = place.compare_exchange(before, state.pack(), order, other);
            if changed.is_ok() && owner.load(Ordering::SeqCst) == key {
                return Ok(Attempt {
                    place: number,
                    key,
                    target,
                    since: state.since,
                    failures: usize::try_from(state.failures).unwrap_or(usize::MAX),
                });
            }
        }
        Err(NotNow::Busy(left))
    }

    /// Notes the outcome of a login. Returns how many logins of the peer have failed now.
    pub fn settle(&self, attempt: &Attempt, outcome: Outcome) -> usize {
        let Some((owner, place)) = self.place(attempt.place) else {
            return 0;
        };
        for _ in 0..ATTEMPTS {
            let before = place.load(Ordering::SeqCst);
            let mut state = State::unpack(before);
            if owner.load(Ordering::SeqCst) != attempt.key {
                return 0;
            }
            // If a new window has begun, the login is not among its pending ones. A failure counts nevertheless.
            if state.since == attempt.since {
                state.pending = state.pending.saturating_sub(1);
            }
            match outcome {
                Outcome::Right => state.clear(attempt.target),
                Outcome::Wrong => state.count_failure(attempt.target),
                Outcome::Neither => {}
            }
            let (order, other) = (Ordering::SeqCst, Ordering::SeqCst);
            let changed = place.compare_exchange(before, state.pack(), order, other);
            if changed.is_ok() {
                return usize::try_from(state.failures).unwrap_or(usize::MAX);
            }
        }
        // Other processes keep changing the place, so the login stays counted as pending.
        0
    }
}

#[cfg(test)]
mod tests {
    use crate::counts::Table;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn logins(failures: usize) -> FailedLogins {
        let limits = Limits {
            failures,
            window: WINDOW,
        };
        FailedLogins::new(limits, Counts::new(Table::FailedLogins).unwrap().0)
    }

    /// A login of this peer with this outcome; false if it may not be made.
    fn login(logins: &FailedLogins, peer: &str, outcome: Outcome, now: Instant) -> bool {
        let (key, target) = (logins.key(&peer), logins.target(&"user"));
        let attempt = logins.begin(key, target, now);
        attempt.is_ok_and(|attempt| {
            logins.settle(&attempt, outcome);
            true
        })
    }

    #[test]
    fn a_state_is_one_number() {
        let state = State {
            since: (1 << 36) - 1,
            target: 0xabc,
            pending: 0xde,
            failures: 0x12,
        };
        assert_eq!(State::unpack(state.pack()), state);
        assert!(State::unpack(0).is_free());
    }

    #[test]
    fn refuses_a_peer_that_has_failed_until_its_window_is_over() {
        let logins = logins(3);
        let now = Instant::now();
        for seconds in [0, 10, 20] {
            let then = now + Duration::from_secs(seconds);
            assert!(login(&logins, "one", Outcome::Wrong, then));
        }
        let then = now + Duration::from_secs(30);
        let refused = logins.begin(logins.key(&"one"), logins.target(&"user"), then);
        let Err(NotNow::Refused(left)) = refused else {
            panic!("{refused:?}");
        };
        assert!(left.as_millis().abs_diff(30_000) <= 20, "{left:?}");
        assert!(login(&logins, "two", Outcome::Wrong, then));
        assert!(!login(&logins, "one", Outcome::Right, now + WINDOW / 2));
        let later = now + WINDOW + Duration::from_millis(20);
        for _ in 0..3 {
            assert!(login(&logins, "one", Outcome::Wrong, later));
        }
        assert!(!login(&logins, "one", Outcome::Wrong, later));
    }

    #[test]
    fn a_right_pin_clears_what_was_failed_for_the_same_user() {
        let logins = logins(3);
        let now = Instant::now();
        for _ in 0..10 {
            assert!(login(&logins, "one", Outcome::Wrong, now));
            assert!(login(&logins, "one", Outcome::Wrong, now));
            assert!(login(&logins, "one", Outcome::Right, now));
        }
        // A peer that knows the PIN of another user must not be able to guess without limit.
        let key = logins.key(&"one");
        let [one, other] = ["user", "officer"].map(|user| logins.target(&user));
        let mut tried = 0;
        for _ in 0..10 {
            for (target, outcome) in [(one, Outcome::Wrong), (other, Outcome::Right)] {
                if let Ok(attempt) = logins.begin(key, target, now) {
                    tried += usize::from(outcome == Outcome::Wrong);
                    logins.settle(&attempt, outcome);
                }
            }
        }
        assert_eq!(tried, 3);
    }

    #[test]
    fn what_is_no_answer_about_the_pin_counts_for_nothing() {
        let logins = logins(2);
        let now = Instant::now();
        for _ in 0..10 {
            assert!(login(&logins, "one", Outcome::Neither, now));
        }
        assert!(login(&logins, "one", Outcome::Wrong, now));
        for _ in 0..10 {
            assert!(login(&logins, "one", Outcome::Neither, now));
        }
        assert!(login(&logins, "one", Outcome::Wrong, now));
        assert!(!login(&logins, "one", Outcome::Neither, now));
    }

    #[test]
    fn logins_at_the_same_time_are_no_more_than_may_fail() {
        let logins = logins(3);
        let now = Instant::now();
        let (key, target) = (logins.key(&"one"), logins.target(&"user"));
        let begin = || logins.begin(key, target, now);
        let attempts = [begin().unwrap(), begin().unwrap(), begin().unwrap()];
        assert!(matches!(begin(), Err(NotNow::Busy(_))));
        logins.settle(&attempts[0], Outcome::Right);
        let more = begin().unwrap();
        assert_eq!(more.failures, 0);
        assert_eq!(logins.settle(&more, Outcome::Wrong), 1);
        assert!(matches!(begin(), Err(NotNow::Busy(_))));
        assert_eq!(logins.settle(&attempts[1], Outcome::Wrong), 2);
        assert_eq!(logins.settle(&attempts[2], Outcome::Wrong), 3);
        assert!(matches!(begin(), Err(NotNow::Refused(_))));
    }

    /// Its worker was killed.
    #[test]
    fn a_login_that_is_never_settled_counts_until_the_window_is_over() {
        let logins = logins(2);
        let now = Instant::now();
        let (key, target) = (logins.key(&"one"), logins.target(&"user"));
        let lost = logins.begin(key, target, now).unwrap();
        assert!(login(&logins, "one", Outcome::Right, now));
        assert!(login(&logins, "one", Outcome::Wrong, now));
        assert!(!login(&logins, "one", Outcome::Right, now));
        let later = now + WINDOW + Duration::from_millis(20);
        assert!(login(&logins, "one", Outcome::Wrong, later));
        // A login that was only slow counts in the next window.
        assert_eq!(logins.settle(&lost, Outcome::Wrong), 2);
        assert!(!login(&logins, "one", Outcome::Right, later));
    }

    #[test]
    fn peers_without_a_place_share_one_and_places_become_free() {
        let logins = logins(2);
        let now = Instant::now();
        for number in 0..PLACES {
            // A right PIN leaves a place to others.
            assert!(login(
                &logins,
                &format!("good {number}"),
                Outcome::Right,
                now
            ));
            assert!(login(
                &logins,
                &format!("peer {number}"),
                Outcome::Wrong,
                now
            ));
        }
        assert!(login(&logins, "good", Outcome::Right, now));
        assert!(login(&logins, "new", Outcome::Wrong, now));
        assert!(login(&logins, "newer", Outcome::Wrong, now));
        assert!(!login(&logins, "newest", Outcome::Wrong, now));
        assert!(!login(&logins, "good", Outcome::Right, now));
        // The counts of the other peers are unchanged.
        assert!(login(&logins, "peer 7", Outcome::Wrong, now));
        assert!(!login(&logins, "peer 7", Outcome::Wrong, now));
        let later = now + WINDOW + Duration::from_millis(20);
        for peer in ["good", "new", "newest", "peer 7"] {
            assert!(login(&logins, peer, Outcome::Wrong, later), "{peer}");
            assert!(login(&logins, peer, Outcome::Wrong, later), "{peer}");
            assert!(!login(&logins, peer, Outcome::Wrong, later), "{peer}");
        }
    }

    #[test]
    fn threads_that_guess_at_once_make_no_more_guesses_than_allowed() {
        for _ in 0..200 {
            let logins = logins(5);
            let made = AtomicU64::new(0);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        for _ in 0..4 {
                            if login(&logins, "one", Outcome::Wrong, Instant::now()) {
                                made.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                    });
                }
            });
            assert_eq!(made.into_inner(), 5);
        }
    }
}
