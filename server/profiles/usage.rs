//! Counts connections and signatures of clients with profiles, in memory that all workers of a service share.
//!
//! The controller creates one [`Usage`] for a service with profiles; workers inherit it. Each worker notes the profile
//! of its client in a place of its own, which the controller clears when it reaps the worker. So a worker that is
//! killed leaves nothing behind, and the controller knows each client's profile. Signatures are counted for each peer,
//! profile and day, in a table of a fixed size (`counts`). Peers that find no free place share the last one, and its
//! quota. There are no locks.

use std::hash::Hash;
use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bindings::shared;

use crate::counts::{Counts, NOBODY, OTHERS, PLACES};
use crate::places::{MOST_WORKERS, SURPLUS};

/// How often a worker tries to enter a full profile. Workers that enter at the same time count each other, and a worker
/// that has lost its client takes a moment to end.
const ENTRIES: u64 = 20;

/// How often an atomic change is tried while other workers change the same place.
const ATTEMPTS: usize = 1000;

/// Counts what the clients of a service's profiles use.
#[derive(Clone)]
pub struct Usage {
    /// For each worker the position of its client's profile, plus 1; 0 without a profile.
    members: &'static [AtomicU64],
    /// For each peer a day and the number of that day's signatures.
    quotas: Counts,
}

/// A peer's key in the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Key(u64);

/// A signature that has been counted.
#[derive(Debug, Eq, PartialEq)]
pub struct Counted {
    place: usize,
    key: u64,
    day: u32,
}

/// Returns the day, in days since 1970, and the number of signatures.
fn unpack(state: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = state.to_be_bytes();
    (
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    )
}

fn pack(day: u32, count: u32) -> u64 {
    u64::from(day) << 32 | u64::from(count)
}

impl Usage {
    /// Creates the counters for this many workers. `quotas` has the signatures that have been counted so far.
    pub fn new(workers: usize, quotas: Counts) -> io::Result<Usage> {
        let workers = workers.min(MOST_WORKERS).saturating_add(SURPLUS);
        Ok(Usage {
            members: shared::counters(NonZeroUsize::MIN.saturating_add(workers))?,
            quotas,
        })
    }

    /// Enters the client of the worker in this place into a profile. Returns false if `most` other clients have it.
    pub fn enter(&self, place: usize, profile: usize, most: Option<usize>) -> bool {
        let Some(own) = self.members.get(place) else {
            return most.is_none();
        };
        let profile = profile as u64 + 1;
        for attempt in 0..ENTRIES {
            own.store(profile, Ordering::SeqCst);
            let Some(most) = most else {
                return true;
            };
            let has_it = |member: &&AtomicU64| member.load(Ordering::SeqCst) == profile;
            if self.members.iter().filter(has_it).count() <= most {
                return true;
            }
            own.store(0, Ordering::SeqCst);
            // Two that entered at the same time try again at different times.
            thread::sleep(Duration::from_millis(1 + (place as u64 + attempt) % 16));
        }
        false
    }

    /// Clears the place of a worker that has been reaped.
    pub fn leave(&self, place: usize) {
        if let Some(member) = self.members.get(place) {
            member.store(0, Ordering::SeqCst);
        }
    }

    /// The position of the profile that the client of the worker in this place has.
    pub fn profile(&self, place: usize) -> Option<usize> {
        let member = self.members.get(place)?.load(Ordering::SeqCst);
        usize::try_from(member).ok()?.checked_sub(1)
    }

    /// The key of a peer in the table.
    pub fn key(&self, peer: &impl Hash) -> Key {
        Key(self.quotas.key(peer))
    }

    /// The owner and the state of a place.
    fn quota(&self, number: usize) -> Option<(&AtomicU64, &AtomicU64)> {
        self.quotas.place(number)
    }

    /// Finds the place of a peer, or takes a free one for it. Returns the place, and the key that owns it.
    fn find(&self, key: Key, day: u32) -> (usize, u64) {
        for _ in 0..ATTEMPTS {
            let mut free = None;
            for number in 0..PLACES {
                let Some((owner, state)) = self.quota(number) else {
                    break;
                };
                let owner = owner.load(Ordering::SeqCst);
                if owner == key.0 {
                    return (number, key.0);
                }
                let (counted_on, _) = unpack(state.load(Ordering::SeqCst));
                if free.is_none() && counted_on != day {
                    free = Some((number, owner));
                }
                // Places are taken in their order.
                if owner == NOBODY {
                    break;
                }
            }
            let Some((number, before)) = free else {
                break;
            };
            if let Some((owner, _)) = self.quota(number) {
                // Success does not matter: the next search finds the first place that has this key.
                let (order, other) = (Ordering::SeqCst, Ordering::SeqCst);
                let _ = owner.compare_exchange(before, key.0, order, other);
            }
        }
        (PLACES, OTHERS)
    }

    /// How many signatures of this day are counted for a peer.
    pub fn used(&self, key: Key, day: u32) -> u32 {
        let (number, _) = self.find(key, day);
        let state = self.quota(number).map(|(_, state)| state);
        let (counted_on, count) = unpack(state.map_or(0, |state| state.load(Ordering::SeqCst)));
        if counted_on == day { count } else { 0 }
    }

    /// Counts a signature that is about to be made; `None` if `most` of this day are counted.
    pub fn count(&self, key: Key, day: u32, most: u32) -> Option<Counted> {
        for _ in 0..ATTEMPTS {
            let (place, key) = self.find(key, day);
            let (owner, state) = self.quota(place)?;
            let before = state.load(Ordering::SeqCst);
            let (counted_on, count) = unpack(before);
            let count = if counted_on == day { count } else { 0 };
            if owner.load(Ordering::SeqCst) != key {
                continue; // the place has become another's
            }
            if count >= most {
                return None;
            }
            let after = pack(day, count.saturating_add(1));
            let (order, other) = (Ordering::SeqCst, Ordering::SeqCst);
            let changed = state.compare_exchange(before, after, order, other);
            if changed.is_ok() && owner.load(Ordering::SeqCst) == key {
                return Some(Counted { place, key, day });
            }
        }
        None
    }

    /// Takes back a signature that was counted but not made.
    pub fn give_back(&self, counted: &Counted) {
        let Some((owner, state)) = self.quota(counted.place) else {
            return;
        };
        for _ in 0..ATTEMPTS {
            let before = state.load(Ordering::SeqCst);
            let (day, count) = unpack(before);
            if owner.load(Ordering::SeqCst) != counted.key || day != counted.day || count == 0 {
                return;
            }
            let (order, other) = (Ordering::SeqCst, Ordering::SeqCst);
            let after = pack(day, count - 1);
            if state.compare_exchange(before, after, order, other).is_ok() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::counts::Table;

    use super::*;

    fn usage(workers: usize) -> Usage {
        Usage::new(workers, Counts::new(Table::Signatures).unwrap().0).unwrap()
    }

    #[test]
    fn a_profile_has_as_many_members_as_it_may_and_the_controller_sees_them() {
        let usage = usage(9);
        assert!(usage.enter(0, 4, Some(2)) && usage.enter(1, 4, Some(2)));
        assert!(!usage.enter(2, 4, Some(2)));
        assert!(usage.enter(3, 5, Some(1)) && usage.enter(5, 6, None));
        let found = [0, 1, 2, 3, 5].map(|place| usage.profile(place));
        assert_eq!(found, [Some(4), Some(4), None, Some(5), Some(6)]);
        usage.leave(0);
        assert!(usage.enter(2, 4, Some(2)));
        assert_eq!(usage.profile(0), None);
        // A worker without a place is not counted.
        assert!(usage.enter(999, 4, None) && !usage.enter(999, 4, Some(99)));
        assert_eq!(usage.profile(999), None);
    }

    #[test]
    fn of_members_that_come_at_once_as_many_enter_as_there_is_room_for() {
        let usage = usage(16);
        let entered = AtomicU64::new(0);
        thread::scope(|scope| {
            for place in 0..8 {
                let (usage, entered) = (&usage, &entered);
                scope.spawn(move || {
                    if usage.enter(place, 0, Some(3)) {
                        entered.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(entered.into_inner(), 3);
    }

    #[test]
    fn a_quota_is_for_a_day_and_a_peer() {
        let usage = usage(1);
        let (one, other) = (usage.key(&"one"), usage.key(&"other"));
        let first = usage.count(one, 7, 2).unwrap();
        usage.count(one, 7, 2).unwrap();
        assert_eq!(usage.count(one, 7, 2), None);
        assert_eq!((usage.used(one, 7), usage.used(other, 7)), (2, 0));
        usage.count(other, 7, 2).unwrap();
        usage.give_back(&first);
        assert_eq!(usage.used(one, 7), 1);
        usage.count(one, 7, 2).unwrap();
        // The next day begins at 0, and a signature of the day before cannot be taken back from it.
        assert_eq!(usage.used(one, 8), 0);
        usage.count(one, 8, 1).unwrap();
        usage.give_back(&first);
        assert_eq!(usage.used(one, 8), 1);
    }

    #[test]
    fn peers_without_a_place_share_one_until_the_next_day() {
        let usage = usage(1);
        for peer in 0..PLACES {
            usage.count(usage.key(&peer), 7, 1).unwrap();
        }
        let late = [PLACES, PLACES + 1].map(|peer| usage.key(&peer));
        usage.count(late[0], 7, 1).unwrap();
        assert_eq!(usage.count(late[1], 7, 1), None);
        for key in late {
            usage.count(key, 8, 1).unwrap();
        }
    }

    #[test]
    fn threads_that_sign_at_once_get_no_more_together() {
        let usage = usage(1);
        let key = usage.key(&"one");
        let signed = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while usage.count(key, 7, 500).is_some() {
                        signed.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(signed.into_inner(), 500);
    }
}
