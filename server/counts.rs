//! Keeps counts of peers in memory that all workers of a service share, and that a daemon hands over to its successor.
//!
//! The controller makes a [`Counts`] for each table of `failed_logins` and `profiles::usage`, or takes the predecessor's
//! over ([`Heritage`]); workers inherit it. Workers that the predecessor still has go on to count in the same memory. A worker whose module
//! was taken over can write anything there, so what is found is checked when it is taken over, its length
//! is sealed, and no number in it is used as a position. What the numbers mean is decided by the tables.

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

/// Peers that have a place of their own. All others share one more place.
pub const PLACES: usize = 4096;

/// The key in a place that nobody has had.
pub const NOBODY: u64 = 0;

/// The key of those who share the last place.
pub const OTHERS: u64 = u64::MAX;

/// The first number of the memory: "p11count" and the version of all that is behind it. To be raised whenever what the
/// tables store, or what a peer's key is made of, changes.
const FORMAT: u64 = u64::from_be_bytes(*b"p11cnt\0\x01");

/// The numbers before the places: [`FORMAT`], the table, two of the secret, and the start.
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

/// A table of counts: for each peer its key, and a number that the table gives a meaning.
#[derive(Clone)]
pub struct Counts {
    places: &'static [AtomicU64],
    /// Makes keys that peers cannot choose.
    secret: [u64; 2],
    /// Time 0 of what the table stores.
    start: Instant,
}

/// Why memory is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// It could be made shorter, has another length, or cannot be mapped.
    #[error("{0}")]
    Memory(#[from] io::Error),
    /// Another version, or something else.
    #[error("it is of another version")]
    Format,
    /// It began later than now.
    #[error("its times are wrong")]
    Time,
}

fn length() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(HEADER + 2 * (PLACES + 1) - 1)
}

/// The clock that [`Instant`] has, in milliseconds.
fn clock() -> io::Result<u64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    u64::try_from(now.as_millis()).map_err(io::Error::other)
}

impl Counts {
    /// Nothing is counted yet. Also returns what is handed over.
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

    /// Takes over what another daemon has counted, and goes on counting there.
    pub fn adopt(table: Table, file: &OwnedFd) -> Result<Counts, NotTaken> {
        let memory = shared::adopt_sealed_counters(file, length())?;
        let (header, places) = memory.split_at_checked(HEADER).ok_or(NotTaken::Format)?;
        let [format, kind, one, other, start, ..] = header else {
            return Err(NotTaken::Format);
        };
        // Each number is read once: others may write there.
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

    /// A number that stands for this value, and that nobody outside can choose.
    pub fn hash(&self, value: &impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.secret.hash(&mut hasher);
        value.hash(&mut hasher);
        hasher.finish()
    }

    /// The key of a peer.
    pub fn key(&self, peer: &impl Hash) -> u64 {
        self.hash(peer).clamp(NOBODY + 1, OTHERS - 1)
    }

    /// Key and number of a place, 0 to [`PLACES`].
    pub fn place(&self, number: usize) -> Option<(&'static AtomicU64, &'static AtomicU64)> {
        match self.places.get(2 * number..2 * number + 2) {
            Some([key, state]) => Some((key, state)),
            _ => None,
        }
    }

    /// Time 0 of what the table stores.
    pub fn start(&self) -> Instant {
        self.start
    }
}

/// Says which counts a descriptor leads to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Label {
    /// The name of the service.
    pub service: String,
    /// What is counted.
    pub table: Table,
}

/// What a daemon gets from the one before it; empty without one.
#[derive(Default)]
pub struct Heritage(pub Vec<(Label, OwnedFd)>);

impl Heritage {
    /// The counts of a service: those of the daemon before, or new ones. Also returns what is handed over.
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
        // Others have another secret.
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
        // Another length, and files that could become shorter.
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
