//! Limits the memory that large records take in all workers of a service together.
//!
//! The controller makes one [`Budget`] for each service and gives every worker a [`Share`] of it at the fork. A worker
//! writes into a counter of its own how much memory it takes. All workers share the memory of the counters, and each
//! adds up all of them. So nothing has to be undone when a worker dies: the controller sets its counter to 0 when it
//! reaps it. No process waits for another.
//!
//! In a worker, each call that is received or executed has a [`Portion`]. A worker takes the sum of its portions from
//! the budget. While the sum is small, it takes nothing.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use bindings::shared;
use nix::unistd::{SysconfVar, sysconf};
use xdr::record::LARGE;

use crate::places::MOST_WORKERS;

/// How often a worker tries to take memory, in case other workers try at the same moment.
const ATTEMPTS: usize = 3;

/// Returns the budget if the configuration names none, in bytes: a quarter of the machine's memory, at most 4 GiB.
pub fn default_limit() -> usize {
    (machine_memory() / 4).clamp(LEAST, 4 << 30)
}

/// The least budget that makes sense, in bytes: it has room for one large record.
pub const LEAST: usize = 2 * LARGE;

/// Returns the memory that this process may use, in bytes: the machine's, or less if its control group has less
/// (cgroups, version 2).
pub fn machine_memory() -> usize {
    let number = |name| {
        sysconf(name)
            .ok()
            .flatten()
            .and_then(|it| usize::try_from(it).ok())
    };
    let pages = number(SysconfVar::_PHYS_PAGES).unwrap_or(1 << 18);
    let page = number(SysconfVar::PAGE_SIZE).unwrap_or(4096);
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = group_limits(Path::new("/sys/fs/cgroup"), &group);
    limits.fold(pages.saturating_mul(page), usize::min)
}

/// Returns the limits of the control group that `/proc/self/cgroup` names, and of the groups around it.
fn group_limits(root: &Path, group: &str) -> impl Iterator<Item = usize> {
    let name = group.lines().find_map(|line| line.strip_prefix("0::/"));
    let own = root.join(name.unwrap_or_default());
    let around = own.ancestors().take_while(|group| group.starts_with(root));
    let around: Vec<PathBuf> = around.map(|group| group.join("memory.max")).collect();
    // The root has no such file; `max` is no number.
    around
        .into_iter()
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
}

/// The budget of a service, which the controller holds. A worker's place is the index of its counter; see
/// [`crate::places`].
pub struct Budget(All);

/// What all processes of a service share.
#[derive(Clone, Copy)]
struct All {
    /// How much all workers may take together, in bytes.
    limit: u64,
    /// How many of `taken` were ever in use. Workers need not read the others.
    used: &'static AtomicU64,
    /// What each worker takes, in bytes.
    taken: &'static [AtomicU64],
}

impl Budget {
    /// Makes the budget of this many workers, which may take `limit` bytes together.
    pub fn new(limit: usize, workers: usize) -> io::Result<Budget> {
        let counters = NonZeroUsize::MIN.saturating_add(workers.min(MOST_WORKERS));
        let counters = shared::counters(counters)?;
        let (used, taken) = counters.split_first().ok_or(io::ErrorKind::OutOfMemory)?;
        let limit = limit as u64;
        Ok(Budget(All { limit, used, taken }))
    }

    /// Returns the share of the worker that is about to be forked for this place.
    pub fn share(&self, place: usize) -> Share {
        self.0.used.fetch_max(place as u64 + 1, Ordering::SeqCst);
        Share {
            all: self.0,
            own: self.0.taken.get(place),
            taken: 0,
        }
    }

    /// Frees the memory of the worker in this place, which was reaped.
    pub fn reclaim(&self, place: usize) {
        if let Some(counter) = self.0.taken.get(place) {
            counter.store(0, Ordering::SeqCst);
        }
    }
}

/// A worker's share of the budget.
#[derive(Clone)]
pub struct Share {
    all: All,
    /// The worker's counter; `None` if there is none for its place.
    own: Option<&'static AtomicU64>,
    /// The content of the counter, in bytes.
    taken: u64,
}

impl Share {
    /// Changes what this worker takes to this many bytes, if the others leave as much. If it is less than before, the
    /// difference is given back.
    ///
    /// Each worker first writes what it wants into its counter, and then adds up all counters. So if two workers
    /// together want more than is left, at least one of them sees the other and gives up.
    fn take(&mut self, bytes: u64) -> bool {
        let Some(own) = self.own else {
            return bytes == 0;
        };
        for _ in 0..ATTEMPTS {
            own.store(bytes, Ordering::SeqCst);
            if bytes <= self.taken || self.sum() <= self.all.limit {
                self.taken = bytes;
                return true;
            }
            own.store(self.taken, Ordering::SeqCst);
            std::thread::yield_now();
        }
        false
    }

    fn sum(&self) -> u64 {
        let used = usize::try_from(self.all.used.load(Ordering::SeqCst)).unwrap_or(usize::MAX);
        let counters = self.all.taken.iter().take(used);
        counters.fold(0, |sum: u64, counter| {
            sum.saturating_add(counter.load(Ordering::SeqCst))
        })
    }
}

/// The sum of a worker's portions may be this many bytes without being taken from the budget.
const FREE: u64 = LARGE as u64;

/// Memory is taken in multiples of this, in bytes, so that a record in small fragments does not ask often.
const STEP: u64 = 1 << 20;

/// The memory of one call, taken from its worker's share. It is given back when this is dropped.
pub struct Portion {
    worker: Arc<Mutex<Portions>>,
    bytes: u64,
}

/// All portions of a worker.
struct Portions {
    share: Share,
    sum: u64,
}

impl Portion {
    /// Makes the first portion of a worker, without memory yet.
    pub fn new(share: Share) -> Portion {
        let worker = Portions { share, sum: 0 };
        Portion {
            worker: Arc::new(Mutex::new(worker)),
            bytes: 0,
        }
    }

    /// Makes another portion of the same worker, without memory yet.
    pub fn another(&self) -> Portion {
        Portion {
            worker: self.worker.clone(),
            bytes: 0,
        }
    }

    /// Moves the memory of this portion to a new one.
    pub fn hand_over(&mut self) -> Portion {
        let worker = self.worker.clone();
        let bytes = std::mem::take(&mut self.bytes);
        Portion { worker, bytes }
    }

    /// Whether it has no memory.
    pub fn is_free(&self) -> bool {
        self.bytes == 0
    }

    /// Returns how much all workers may take together, in bytes.
    pub fn limit(&self) -> u64 {
        self.portions().share.all.limit
    }

    /// Changes the size of this portion to this many bytes, if all others leave as much. If it is less than before, the
    /// difference is given back.
    pub fn take(&mut self, bytes: u64) -> bool {
        let mut portions = self.portions();
        let limit = portions.share.all.limit;
        let sum = (portions.sum - self.bytes).saturating_add(bytes);
        if bytes > self.bytes && sum > limit {
            return false;
        }
        let taken = match sum {
            ..=FREE => 0,
            sum => sum.next_multiple_of(STEP).min(limit),
        };
        if taken != portions.share.taken && !portions.share.take(taken) {
            return false;
        }
        portions.sum = sum;
        drop(portions);
        self.bytes = bytes;
        true
    }

    /// Gives everything back.
    pub fn release(&mut self) {
        if !self.is_free() {
            self.take(0);
        }
    }

    /// Locks the portions, which stay valid if a thread panics.
    fn portions(&self) -> MutexGuard<'_, Portions> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Share {
        fn release(&mut self) {
            self.take(0);
        }

        fn is_free(&self) -> bool {
            self.taken == 0
        }
    }

    #[test]
    fn the_portions_of_a_worker_share_what_it_takes() {
        const MIB: u64 = 1 << 20;
        let (_budget, shares) = workers(10 << 20, 2);
        let [first, second] = <[Share; 2]>::try_from(shares).ok().unwrap();
        let (mut reader, mut other) = (Portion::new(first), Portion::new(second));
        // Small portions do not count, in each worker.
        let (mut one, mut two) = (reader.another(), reader.another());
        assert!(one.take(MIB) && two.take(MIB) && other.take(10 * MIB));
        assert!(!reader.take(1) && reader.is_free());
        other.release();
        assert!(reader.take(8 * MIB) && !other.take(3 * MIB));
        // The thread that executes a call has the memory of its record.
        let mut executing = reader.hand_over();
        assert!(reader.is_free() && !reader.take(1));
        assert!(executing.take(7 * MIB) && reader.take(MIB) && !reader.take(2 * MIB));
        drop((executing, one));
        assert!(reader.take(9 * MIB) && !reader.take(9 * MIB + 1));
        drop((reader, two));
        assert!(other.take(10 * MIB) && !other.take(10 * MIB + 1) && !other.take(u64::MAX));
        assert!(other.take(10 * MIB));
    }

    fn workers(limit: usize, count: usize) -> (Budget, Vec<Share>) {
        let budget = Budget::new(limit, count).unwrap();
        let shares = (0..count).map(|place| budget.share(place)).collect();
        (budget, shares)
    }

    #[test]
    fn all_together_take_no_more_than_the_budget() {
        let (_budget, mut shares) = workers(100, 3);
        assert!(shares[0].take(60) && shares[1].take(40));
        assert!(!shares[2].take(1) && shares[2].is_free());
        assert!(!shares[0].take(61));
        assert!(shares[0].take(30) && shares[2].take(30));
        assert!(!shares[1].take(41));
        shares[0].release();
        assert!(shares[1].take(70) && !shares[1].take(71));
        assert!(shares[0].is_free() && !shares[0].take(u64::MAX));
    }

    #[test]
    fn a_worker_that_was_reaped_leaves_its_share_to_the_next() {
        let (budget, mut shares) = workers(100, 2);
        assert!(shares[0].take(90) && !shares[1].take(20));
        budget.reclaim(0);
        assert!(shares[1].take(20));
        let mut next = budget.share(0);
        assert!(!next.take(81) && next.take(80));
        budget.reclaim(0);
        assert!(shares[1].take(100));
    }

    #[test]
    fn the_default_is_a_part_of_what_the_machine_has() {
        let memory = machine_memory();
        assert!(memory > 64 << 20, "{memory}");
        let limit = default_limit();
        assert!(limit >= LEAST && limit <= memory.max(LEAST) && limit <= 4 << 30);
    }

    #[test]
    fn a_control_group_and_those_around_it_limit_the_memory() {
        let root = std::env::temp_dir().join(format!("cgroup-{}", std::process::id()));
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/memory.max"), "1000\n").unwrap();
        let limits = |group: &str| group_limits(&root, group).collect::<Vec<_>>();
        assert_eq!(limits("0::/a/b\n"), [1000]);
        fs::write(root.join("a/b/memory.max"), "max\n").unwrap();
        assert_eq!(limits("1:name=x:/c\n0::/a/b\n"), [1000]);
        fs::write(root.join("a/b/memory.max"), "700\n").unwrap();
        assert_eq!(limits("0::/a/b\n"), [700, 1000]);
        assert_eq!(limits("0::/\n"), [0; 0]);
        assert_eq!(limits("4:memory:/a\n"), [0; 0]);
        fs::remove_dir_all(&root).unwrap();
    }

    /// More workers than counters, which `max_threads` and the surplus of places rule out.
    #[test]
    fn without_a_counter_nothing_is_taken() {
        let (budget, _shares) = workers(100, 2);
        let mut surplus = budget.share(2);
        assert!(!surplus.take(1) && surplus.take(0));
    }

    #[test]
    fn threads_that_take_at_once_stay_within_the_budget() {
        let (_budget, shares) = workers(100, 8);
        let held = AtomicU64::new(0);
        let granted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for mut share in shares {
                let (held, granted) = (&held, &granted);
                scope.spawn(move || {
                    for round in 0..20_000 {
                        let wish = 1 + round % 40;
                        if share.take(wish) {
                            let all = held.fetch_add(wish, Ordering::SeqCst) + wish;
                            assert!(all <= 100, "{all}");
                            granted.fetch_add(1, Ordering::SeqCst);
                            held.fetch_sub(wish, Ordering::SeqCst);
                            share.release();
                        }
                    }
                });
            }
        });
        assert!(granted.into_inner() > 1000);
    }
}
