//! Carries the records of a worker's calls to the auditor, in memory that only these two share.
//!
//! Before a call, the worker notes it in a place for calls in flight. When the call has its result, the worker appends
//! the record to a ring buffer of 64-bit words and frees the place. The auditor copies records out of the ring, and
//! gives their room back when their lines are written. So the records that it has not written are still there for the
//! next auditor, and calls in flight are still there after the worker has died. The auditor trusts nothing in this
//! memory: it checks each number against the sizes. `call_record` defines the contents of records.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bindings::shared::Region;

use super::call_record::LONGEST;

/// Words of the header before the ring. Words that are written by different processes are in different cache lines.
const HEADER: usize = 64;
/// How many words the worker has appended so far.
const HEAD: usize = 0;
/// How many words the auditor has given back so far.
const TAIL: usize = 8;
/// Not 0 while the auditor polls the ring. Otherwise the worker has to wake it.
const WATCHED: usize = 16;

/// Words of the ring. A record takes one word for its length, and one for each 8 bytes.
const RING: usize = 4096;

/// Words of a place for a call in flight: one for the length (0 if the place is free), the others for the bytes.
const PLACE: usize = 128;

/// Upper bound on the bytes of a record in a place. A longer one is noted in a shorter form.
pub const LONGEST_IN_PLACE: usize = (PLACE - 1) * size_of::<u64>();

// A record always finds room in an empty ring.
const _: () = assert!(LONGEST.div_ceil(8) < RING);

/// The worker's side.
pub struct Writer {
    region: Region,
    /// How many words were appended so far. The worker does not rely on the copy in the shared memory.
    head: Mutex<u64>,
    /// Which places are taken.
    taken: Vec<AtomicBool>,
}

/// A call in flight. Frees its place when dropped.
pub struct InFlight<'a> {
    writer: &'a Writer,
    /// None if all places are taken.
    place: Option<usize>,
}

/// The result of appending a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Appended {
    /// It was appended.
    Done,
    /// It was appended, and the auditor has to be woken.
    Wake,
    /// There is no room now.
    Full,
}

/// Creates the memory for a worker with at most this many calls in flight. Returns the worker's side, and the
/// descriptor that the auditor opens.
pub fn create(calls: usize) -> io::Result<(Writer, OwnedFd)> {
    let words = NonZeroUsize::MIN.saturating_add(HEADER + RING - 1 + calls * PLACE);
    let (region, memory) = Region::new(c"pkcs11proxyd audit", words)?;
    let writer = Writer {
        region,
        head: Mutex::new(0),
        taken: (0..calls).map(|_| AtomicBool::new(false)).collect(),
    };
    Ok((writer, memory))
}

fn load(words: &[AtomicU64], at: usize) -> u64 {
    words.get(at).map_or(0, |word| word.load(Ordering::Relaxed))
}

fn store(words: &[AtomicU64], at: usize, value: u64) {
    if let Some(word) = words.get(at) {
        word.store(value, Ordering::Relaxed);
    }
}

/// Packs bytes into words, the first byte lowest.
fn packed(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks(size_of::<u64>()).map(|chunk| {
        let bytes = chunk.iter().rev();
        bytes.fold(0, |word, byte| word << 8 | u64::from(*byte))
    })
}

fn ring(words: &[AtomicU64]) -> &[AtomicU64] {
    words.get(HEADER..HEADER + RING).unwrap_or_default()
}

fn place(words: &[AtomicU64], number: usize) -> Option<&[AtomicU64]> {
    let start = HEADER + RING + number.checked_mul(PLACE)?;
    words.get(start..start.checked_add(PLACE)?)
}

/// The index in the ring of the word with this number.
fn at(number: u64) -> usize {
    // The remainder is less than RING.
    usize::try_from(number % RING as u64).unwrap_or(0)
}

impl Writer {
    /// Notes a call that is about to be made.
    pub fn begin(&self, record: &[u8]) -> InFlight<'_> {
        let take = |taken: &AtomicBool| !taken.swap(true, Ordering::Acquire);
        let place = self.taken.iter().position(take);
        let call = InFlight {
            writer: self,
            place,
        };
        call.note(record);
        call
    }

    /// Appends a record of at most [`LONGEST`] bytes.
    pub fn append(&self, record: &[u8]) -> Appended {
        let words = self.region.words();
        let ring = ring(words);
        let needed = 1 + record.len().div_ceil(size_of::<u64>()) as u64;
        let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        let tail = words
            .get(TAIL)
            .map_or(0, |tail| tail.load(Ordering::Acquire));
        if head.saturating_sub(tail).saturating_add(needed) > RING as u64 {
            return Appended::Full;
        }
        store(ring, at(*head), record.len() as u64);
        for (word, number) in packed(record).zip(*head + 1..) {
            store(ring, at(number), word);
        }
        *head += needed;
        if let Some(shared) = words.get(HEAD) {
            shared.store(*head, Ordering::SeqCst);
        }
        // The auditor clears the flag before it looks for the last time (`rest`).
        let is_watched = |word: &AtomicU64| {
            word.load(Ordering::SeqCst) != 0 || word.swap(1, Ordering::SeqCst) != 0
        };
        match words.get(WATCHED).is_some_and(is_watched) {
            true => Appended::Done,
            false => Appended::Wake,
        }
    }
}

impl InFlight<'_> {
    /// Replaces the noted record of the call by this one, if it is not too long.
    pub fn note(&self, record: &[u8]) {
        let words = self.writer.region.words();
        let Some([length, content @ ..]) = self.place.and_then(|number| place(words, number))
        else {
            return;
        };
        if record.len() > LONGEST_IN_PLACE {
            return;
        }
        length.store(0, Ordering::Relaxed);
        for (place, word) in content.iter().zip(packed(record)) {
            place.store(word, Ordering::Relaxed);
        }
        length.store(record.len() as u64, Ordering::Release);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let Some(number) = self.place else { return };
        if let Some([length, ..]) = place(self.writer.region.words(), number) {
            length.store(0, Ordering::Release);
        }
        if let Some(taken) = self.writer.taken.get(number) {
            taken.store(false, Ordering::Release);
        }
    }
}

/// The auditor's side.
pub struct Reader {
    region: Region,
    /// How many words were taken so far.
    taken: u64,
}

/// The result of taking a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Nothing now.
    Nothing,
    /// A record, which is in the buffer.
    Record,
    /// Something that no honest worker writes. It was skipped, with everything behind it.
    Broken,
}

impl Reader {
    /// Opens the memory of a worker. Reading starts behind the last record whose room was given back.
    pub fn open(memory: &OwnedFd) -> io::Result<Reader> {
        let region = Region::open(memory.as_fd())?;
        let taken = load(region.words(), TAIL);
        Ok(Reader { region, taken })
    }

    /// Copies the next record into the buffer.
    pub fn next(&mut self, buffer: &mut Vec<u8>) -> Next {
        let words = self.region.words();
        let head = words
            .get(HEAD)
            .map_or(0, |head| head.load(Ordering::Acquire));
        if head == self.taken {
            return Next::Nothing;
        }
        let there = head.wrapping_sub(self.taken);
        let ring = ring(words);
        let length = load(ring, at(self.taken));
        let needed = length.div_ceil(size_of::<u64>() as u64).saturating_add(1);
        if there > RING as u64 || needed > there || length > LONGEST as u64 {
            self.taken = head;
            return Next::Broken;
        }
        buffer.clear();
        for number in 1..needed {
            let word = load(ring, at(self.taken.wrapping_add(number)));
            buffer.extend_from_slice(&word.to_le_bytes());
        }
        buffer.truncate(usize::try_from(length).unwrap_or(0));
        self.taken = self.taken.wrapping_add(needed);
        Next::Record
    }

    /// Lets the worker use the room of all records that were taken.
    pub fn give_back(&self) {
        if let Some(tail) = self.region.words().get(TAIL) {
            tail.store(self.taken, Ordering::Release);
        }
    }

    /// Tells the worker that the auditor polls the ring and needs no wake-up.
    pub fn watch(&self) {
        if let Some(watched) = self.region.words().get(WATCHED) {
            watched.store(1, Ordering::SeqCst);
        }
    }

    /// Has the worker wake the auditor from now on. Returns whether the ring is empty, so that the auditor can sleep.
    pub fn rest(&self) -> bool {
        let words = self.region.words();
        if let Some(watched) = words.get(WATCHED) {
            watched.store(0, Ordering::SeqCst);
        }
        let head = words
            .get(HEAD)
            .map_or(0, |head| head.load(Ordering::SeqCst));
        head == self.taken
    }

    /// The calls in flight of a worker that has ended.
    pub fn in_flight(&self) -> impl Iterator<Item = Vec<u8>> {
        let words = self.region.words();
        let places = (0..).map_while(move |number| place(words, number));
        places.filter_map(|place| {
            let [length, content @ ..] = place else {
                return None;
            };
            let length = usize::try_from(length.load(Ordering::Acquire)).ok()?;
            if length == 0 || length > LONGEST_IN_PLACE {
                return None;
            }
            let words = content.iter().map(|word| word.load(Ordering::Relaxed));
            let mut record: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
            record.truncate(length);
            Some(record)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Writer, Reader) {
        let (writer, memory) = create(3).unwrap();
        (writer, Reader::open(&memory).unwrap())
    }

    #[test]
    fn records_arrive_as_they_were_and_their_room_comes_back_when_they_are_written() {
        let (writer, memory) = create(1).unwrap();
        let mut reader = Reader::open(&memory).unwrap();
        let mut buffer = Vec::new();
        let record = |number: usize| vec![number as u8; number % 3000];
        let (mut sent, mut got) = (0, 0);
        for _ in 0..1000 {
            while writer.append(&record(sent)) != Appended::Full {
                sent += 1;
            }
            assert!(sent > got);
            while reader.next(&mut buffer) == Next::Record {
                assert_eq!(buffer, record(got));
                got += 1;
            }
            assert_eq!(sent, got);
            // Until the room is given back there is none left, and another auditor reads the same records.
            assert_eq!(writer.append(&[1; 3000]), Appended::Full);
            let mut another = Reader::open(&memory).unwrap();
            assert_eq!(another.next(&mut buffer), Next::Record);
            reader.give_back();
            let mut another = Reader::open(&memory).unwrap();
            assert_eq!(another.next(&mut buffer), Next::Nothing);
        }
    }

    #[test]
    fn a_worker_wakes_an_auditor_that_rests_and_no_other() {
        let (writer, mut reader) = pair();
        let mut buffer = Vec::new();
        assert_eq!(writer.append(b"first"), Appended::Wake);
        assert_eq!(writer.append(b"second"), Appended::Done);
        assert!(!reader.rest());
        reader.watch();
        while reader.next(&mut buffer) == Next::Record {}
        assert_eq!(writer.append(b"third"), Appended::Done);
        assert_eq!(reader.next(&mut buffer), Next::Record);
        assert!(reader.rest());
        assert_eq!(writer.append(b""), Appended::Wake);
    }

    #[test]
    fn calls_in_flight_are_seen_until_they_end() {
        let (writer, reader) = pair();
        let seen = || reader.in_flight().collect::<Vec<_>>();
        assert_eq!(seen(), Vec::<Vec<u8>>::new());
        let first = writer.begin(b"first");
        let second = writer.begin(&[7; LONGEST_IN_PLACE]);
        let _third = writer.begin(b"third");
        let surplus = writer.begin(b"one more than there are places");
        assert_eq!(seen().len(), 3);
        first.note(b"another");
        assert_eq!(seen()[0], b"another");
        drop((second, surplus));
        assert_eq!(seen(), [b"another".to_vec(), b"third".to_vec()]);
        let _fourth = writer.begin(b"4");
        assert_eq!(seen()[1], b"4");
        // Too long: the record before it stays.
        first.note(&[7; LONGEST_IN_PLACE + 1]);
        assert_eq!(seen()[0], b"another");
    }

    #[test]
    fn a_worker_that_writes_anything_into_its_memory_harms_nobody_else() {
        let mut buffer = Vec::new();
        for (head, length) in [
            (u64::MAX, 1),
            (5, u64::MAX),
            (5, 33),
            (RING as u64 + 1, 1),
            (9000, LONGEST as u64 + 1),
        ] {
            let (writer, mut reader) = pair();
            let words = writer.region.words();
            store(words, HEAD, head);
            store(ring(words), 0, length);
            assert_eq!(reader.next(&mut buffer), Next::Broken, "{head} {length}");
            assert_eq!(reader.next(&mut buffer), Next::Nothing);
            store(words, TAIL, u64::MAX);
            store(words, HEADER + RING, u64::MAX);
            store(words, HEADER + RING + PLACE, LONGEST_IN_PLACE as u64 + 1);
            assert_eq!(reader.in_flight().count(), 0);
            reader.give_back();
            // A head that goes backwards.
            store(words, HEAD, reader.taken.wrapping_sub(1));
            assert_eq!(reader.next(&mut buffer), Next::Broken);
        }
    }
}
