//! Keeps counts of peers in memory that all workers of a service share, and that a daemon hands over to its successor.
//!
//! The controller makes a [`Counts`] for each table of `failed_logins` and `profiles::usage`, or takes over that of the
//! previous daemon ([`Heritage`]). Workers inherit it. Workers of the previous daemon that are still running count in
//! the same memory. A worker whose module is compromised can write anything there. So the content is checked when a
//! daemon takes over the memory, the length of the memory is sealed, and no number in it is used as an index. What the
//! numbers mean is defined by the tables.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bindings::shared;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::logging::{Severity, log};

/// How many peers have a place of their own. All others share one more place.
pub const PLACES: usize = 4096;

/// The key in a place that has never been used.
pub const NOBODY: u64 = 0;

/// The key of the last place, which peers share.
pub const OTHERS: u64 = u64::MAX;

/// The first number of the memory: "p11cnt" and the version of the format. The version has to be raised whenever the
/// content of the tables changes, or what a peer's key is computed from.
const FORMAT: u64 = u64::from_be_bytes(*b"p11cnt\0\x01");

/// How many numbers precede the places: [`FORMAT`], the table, two of the secret, the start, and three unused ones.
const HEADER: usize = 8;

/// What is counted.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// Logins with a wrong PIN.
    FailedLogins,
    /// Signatures of a day.
    Signatures,
}

impl Table {
    fn number(self) -> u64 {
        match self {
            Table::FailedLogins => 1,
            Table::Signatures => 2,
        }
    }
}

/// A table of counts: for each peer its key, and a number whose meaning depends on the table.
#[derive(Clone)]
pub struct Counts {
    places: &'static [AtomicU64],
    /// Enters into the keys, so that peers cannot choose them.
    secret: [u64; 2],
    /// The time that the table counts from.
    start: Instant,
}

/// Why the memory of the previous daemon is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// Its length is not sealed, or wrong, or it cannot be mapped.
    #[error("{0}")]
    Memory(#[from] io::Error),
    /// It is of another version, or for another table, or something else.
    #[error("it is of another version")]
    Format,
    /// Its start is in the future, or too long ago.
    #[error("its times are wrong")]
    Time,
}

fn length() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(HEADER + 2 * (PLACES + 1) - 1)
}

/// Returns the time of the clock behind [`Instant`], in milliseconds.
fn clock() -> io::Result<u64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    u64::try_from(now.as_millis()).map_err(io::Error::other)
}

impl Counts {
    /// Makes an empty table. Also returns the file descriptor that is handed over to a successor.
    pub fn new(table: Table) -> io::Result<(Counts, OwnedFd)> {
        let (memory, file) = shared::sealed_counters(length())?;
        let secret = [0, 1].map(|number| RandomState::new().hash_one(number));
        let start = Instant::now();
        let header = [FORMAT, table.number(), secret[0], secret[1], clock()?];
        for (place, value) in memory.iter().zip(header) {
            place.store(value, Ordering::SeqCst);
        }
        let places = memory.get(HEADER..).unwrap_or_default();
        let counts = Counts {
            places,
            secret,
            start,
        };
        counts.name_last();
        Ok((counts, file))
    }

    /// Takes over the table of another daemon, which may still be counting in it.
    pub fn adopt(table: Table, file: &OwnedFd) -> Result<Counts, NotTaken> {
        let memory = shared::adopt_sealed_counters(file, length())?;
        let (header, places) = memory.split_at_checked(HEADER).ok_or(NotTaken::Format)?;
        let [format, kind, one, other, start, ..] = header else {
            return Err(NotTaken::Format);
        };
        // Each number is read only once, because other processes may change it.
        let read = |number: &AtomicU64| number.load(Ordering::SeqCst);
        if read(format) != FORMAT || read(kind) != table.number() {
            return Err(NotTaken::Format);
        }
        let age = clock()?.checked_sub(read(start)).ok_or(NotTaken::Time)?;
        let start = Instant::now().checked_sub(Duration::from_millis(age));
        let counts = Counts {
            places,
            secret: [read(one), read(other)],
            start: start.ok_or(NotTaken::Time)?,
        };
        counts.name_last();
        Ok(counts)
    }

    fn name_last(&self) {
        if let Some((key, _)) = self.place(PLACES) {
            key.store(OTHERS, Ordering::SeqCst);
        }
    }

    /// Returns a hash of this value, which depends on the secret.
    pub fn hash(&self, value: &impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.secret.hash(&mut hasher);
        value.hash(&mut hasher);
        hasher.finish()
    }

    /// Returns the key of a peer.
    pub fn key(&self, peer: &impl Hash) -> u64 {
        self.hash(peer).clamp(NOBODY + 1, OTHERS - 1)
    }

    /// Returns the key and the number in a place, 0 to [`PLACES`].
    pub fn place(&self, number: usize) -> Option<(&'static AtomicU64, &'static AtomicU64)> {
        match self.places.get(2 * number..2 * number + 2) {
            Some([key, state]) => Some((key, state)),
            _ => None,
        }
    }

    /// Returns the time that the table counts from.
    pub fn start(&self) -> Instant {
        self.start
    }
}

/// Says which counts a file descriptor refers to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Label {
    /// The name of the service.
    pub service: String,
    /// What is counted.
    pub table: Table,
}

/// The counts that a daemon gets from the previous one; empty if there was none.
#[derive(Default)]
pub struct Heritage(pub Vec<(Label, OwnedFd)>);

impl Heritage {
    /// Returns the counts of a service: those of the previous daemon, or new ones. Also returns the file descriptor
    /// that is handed over to a successor.
    pub fn take(&mut self, service: &str, table: Table) -> io::Result<(Counts, OwnedFd)> {
        let mut labels = self.0.iter();
        let is_it =
            |(label, _): &(Label, OwnedFd)| label.service == service && label.table == table;
        let Some(position) = labels.position(is_it) else {
            return Counts::new(table);
        };
        let (_, file) = self.0.swap_remove(position);
        match Counts::adopt(table, &file) {
            Ok(counts) => Ok((counts, file)),
            Err(error) => {
                log(
                    Severity::Warning,
                    format_args!(
                        "{service}: counting anew, what the old daemon has counted is not used: {error}"
                    ),
                );
                Counts::new(table)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_daemons_count_in_the_same_places() {
        let (old, file) = Counts::new(Table::Signatures).unwrap();
        let new = Counts::adopt(Table::Signatures, &file).unwrap();
        assert_eq!(old.key(&"peer"), new.key(&"peer"));
        let (earlier, later) = (old.start().min(new.start()), old.start().max(new.start()));
        assert!(later - earlier < Duration::from_millis(50));
        old.place(7).unwrap().1.store(5, Ordering::SeqCst);
        assert_eq!(new.place(7).unwrap().1.fetch_add(1, Ordering::SeqCst), 5);
        assert_eq!(old.place(7).unwrap().1.load(Ordering::SeqCst), 6);
        assert!(new.place(PLACES).is_some() && new.place(PLACES + 1).is_none());
        // Another table has another secret.
        let (other, _file) = Counts::new(Table::Signatures).unwrap();
        assert_ne!(old.key(&"peer"), other.key(&"peer"));
    }

    #[test]
    fn what_is_not_as_expected_is_not_taken_over() {
        let word = |file: &OwnedFd, position: usize, value: u64| {
            let memory = shared::adopt_sealed_counters(file, length()).unwrap();
            memory[position].store(value, Ordering::SeqCst);
        };
        let made = || Counts::new(Table::FailedLogins).unwrap().1;
        assert!(Counts::adopt(Table::FailedLogins, &made()).is_ok());
        assert!(matches!(
            Counts::adopt(Table::Signatures, &made()),
            Err(NotTaken::Format)
        ));
        for (position, value) in [(0, 0), (0, FORMAT + 1), (1, 9)] {
            let file = made();
            word(&file, position, value);
            let refused = Counts::adopt(Table::FailedLogins, &file);
            assert!(matches!(refused, Err(NotTaken::Format)));
        }
        let file = made();
        word(&file, 4, u64::MAX);
        let refused = Counts::adopt(Table::FailedLogins, &file);
        assert!(matches!(refused, Err(NotTaken::Time)));
        // Another length, and a file that is not sealed.
        let (_, longer) = shared::sealed_counters(length().saturating_add(1)).unwrap();
        let file = std::fs::File::open("/dev/zero").unwrap();
        for file in [longer, file.into()] {
            let refused = Counts::adopt(Table::FailedLogins, &file);
            assert!(matches!(refused, Err(NotTaken::Memory(_))));
        }
    }

    #[test]
    fn each_service_gets_its_own_and_what_is_bad_is_replaced() {
        let label = |service: &str| Label {
            service: service.to_owned(),
            table: Table::Signatures,
        };
        let (one, file) = Counts::new(Table::Signatures).unwrap();
        let bad = std::fs::File::open("/dev/null").unwrap();
        let mut heritage = Heritage(vec![(label("bad"), bad.into()), (label("one"), file)]);
        let taken = |heritage: &mut Heritage, service, table| {
            heritage.take(service, table).unwrap().0.key(&"peer")
        };
        let key = one.key(&"peer");
        assert_ne!(taken(&mut heritage, "one", Table::FailedLogins), key);
        assert_ne!(taken(&mut heritage, "bad", Table::Signatures), key);
        assert_eq!(taken(&mut heritage, "one", Table::Signatures), key);
        assert!(heritage.0.is_empty());
    }
}
