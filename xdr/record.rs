//! Cuts a byte stream into complete RPC records (record marking, RFC 5531, section 11).
//!
//! The connections of both halves read straight into [`Records::space`]; a record of one fragment
//! is used where it was received. A record over the limit is refused when its length is read,
//! before any of it is kept, and memory grows with the bytes that came, not with the announced
//! length. Does no I/O.

use std::collections::TryReserveError;
use std::ops::Range;

use crate::codec::{make_room, wipe};

/// Bytes of a record mark: the last-fragment flag and the length of the fragment.
pub const MARK_SIZE: usize = 4;

/// The bit of a mark that says that its fragment ends the record.
const LAST: u32 = 1 << 31;

/// Size of the buffer of an idle connection, and the least room for one read.
const SMALL: usize = 16 << 10;

/// A buffer of this size or less may be kept for a while after a large record.
const LARGE: usize = 4 << 20;

/// How many small records in a row show that a large buffer is no longer in use.
const SMALL_RECORDS_BEFORE_SHRINKING: u32 = 16;

/// The mark of a record sent as one fragment; `None` when it is too long for that.
pub fn mark_of_one_fragment(length: usize) -> Option<[u8; MARK_SIZE]> {
    let length = u32::try_from(length)
        .ok()
        .filter(|length| length & LAST == 0)?;
    Some((length | LAST).to_be_bytes())
}

/// A record announced more bytes than the limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TooLong;

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("record longer than the limit")
    }
}

impl std::error::Error for TooLong {}

/// The receiving end of a connection: bytes in, complete records out.
///
/// The buffer holds, in this order: the payload of the record being received, without marks, and
/// bytes received but not looked at yet. When a fragment is incomplete, the next read goes right
/// behind the payload, so that nothing has to be moved.
pub struct Records {
    buffer: Vec<u8>,
    payload: Range<usize>,
    raw: Range<usize>,
    /// Bytes of the present fragment still to come.
    fragment: usize,
    /// Whether the present fragment ends the record.
    last: bool,
    /// Whether a mark of the present record was read.
    begun: bool,
    /// Whether fragments of it were moved together.
    moved: bool,
    /// Records since the last one that needed more than [`SMALL`].
    small_records: u32,
    limit: usize,
}

impl Records {
    /// Starts at a record's first mark; `limit` is the payload of one record at the most, in bytes.
    pub fn new(limit: usize) -> Records {
        Records {
            buffer: Vec::new(),
            payload: 0..0,
            raw: 0..0,
            fragment: 0,
            last: false,
            begun: false,
            moved: false,
            small_records: 0,
            limit,
        }
    }

    /// Where the next bytes of the stream go. Never empty. Fails when there is no memory for them.
    pub fn space(&mut self) -> Result<&mut [u8], TryReserveError> {
        // Unlooked-at bytes are part of a mark here. Right behind the payload they keep the buffer from
        // growing with the number of fragments.
        if self.payload.is_empty() {
            self.payload = 0..0;
        }
        let start = self.payload.end;
        self.buffer.copy_within(self.raw.clone(), start);
        self.raw = start..start + self.raw.len();
        let end = self.raw.end;
        // Within a fragment: its rest, and the next mark unless it is the last one.
        let wanted = match self.fragment {
            0 => 0,
            fragment if self.last => fragment,
            fragment => fragment + MARK_SIZE,
        };
        let grown = end + wanted.clamp(SMALL / 4, self.buffer.len().max(SMALL));
        if self.buffer.len() < grown {
            let size = grown.max(SMALL);
            let more = size - self.buffer.len();
            if self.buffer.len() <= SMALL {
                make_room(&mut self.buffer, more)?;
            } else {
                self.buffer.try_reserve_exact(more)?;
            }
            self.buffer.resize(size, 0);
        }
        let room = if wanted > SMALL && !self.last {
            wanted.min(self.buffer.len() - end)
        } else {
            self.buffer.len() - end
        };
        Ok(self.buffer.get_mut(end..end + room).unwrap_or_default())
    }

    /// Notes that the first `count` bytes of [`Records::space`] were received.
    pub fn received(&mut self, count: usize) {
        self.raw.end = (self.raw.end + count).min(self.buffer.len());
    }

    /// Whether part of a record is there, so that its rest is to be expected.
    pub fn is_begun(&self) -> bool {
        self.begun || !self.raw.is_empty()
    }

    /// The next complete record, if the bytes received hold one; an empty record is passed over.
    #[allow(clippy::should_implement_trait)] // lends from itself
    pub fn next(&mut self) -> Result<Option<&[u8]>, TooLong> {
        Ok(self.advance()?.then(|| self.record()))
    }

    /// The current record, found complete by the last [`Records::advance`]. It stays until the next
    /// one.
    pub fn record(&self) -> &[u8] {
        self.buffer.get(self.payload.clone()).unwrap_or_default()
    }

    /// Drops the current record and looks for the next one. True if it is complete.
    pub fn advance(&mut self) -> Result<bool, TooLong> {
        if !self.begun {
            self.moved = false;
            if self.raw.is_empty() {
                self.raw = 0..0;
                self.shrink();
            }
            self.payload = self.raw.start..self.raw.start;
        }
        loop {
            let arrived = self.fragment.min(self.raw.len());
            if self.payload.end != self.raw.start {
                let from = self.raw.start..self.raw.start + arrived;
                self.buffer.copy_within(from, self.payload.end);
                self.moved = true;
            }
            self.payload.end += arrived;
            self.raw.start += arrived;
            self.fragment -= arrived;
            if self.fragment > 0 {
                return Ok(false);
            }
            if self.begun && self.last {
                self.begun = false;
                self.last = false;
                if !self.payload.is_empty() {
                    return Ok(true);
                }
                self.payload = self.raw.start..self.raw.start;
            }
            let received = self.buffer.get(self.raw.clone()).unwrap_or_default();
            let Some((mark, _)) = received.split_first_chunk() else {
                return Ok(false);
            };
            let mark = u32::from_be_bytes(*mark);
            self.raw.start += MARK_SIZE;
            if self.payload.is_empty() {
                self.payload = self.raw.start..self.raw.start;
            }
            self.fragment = (mark & !LAST) as usize;
            self.last = mark & LAST != 0;
            self.begun = true;
            if self.fragment > self.limit - self.payload.len() {
                return Err(TooLong);
            }
        }
    }

    /// Takes a copy of the current record, found complete by the last [`Records::advance`], and wipes the record
    /// here if `wiped` says so, so that others can be received while it is in use.
    pub fn take(&mut self, wiped: bool) -> Result<Vec<u8>, TryReserveError> {
        let mut copy = Vec::new();
        copy.try_reserve_exact(self.payload.len())?;
        copy.extend_from_slice(self.record());
        if wiped {
            self.wipe();
        }
        Ok(copy)
    }

    /// Wipes the current record, which held a PIN or a key, and the places its fragments had before
    /// they were joined.
    pub fn wipe(&mut self) {
        let record = self.payload.start..self.raw.start;
        wipe(self.buffer.get_mut(record).unwrap_or_default());
        if self.moved {
            wipe(self.buffer.get_mut(self.raw.end..).unwrap_or_default());
        }
    }

    /// Frees memory, between two records, that only a large record needed: at once if it is much,
    /// otherwise after a number of small records.
    fn shrink(&mut self) {
        if self.payload.len() > SMALL {
            self.small_records = 0;
        } else {
            self.small_records = self.small_records.saturating_add(1);
        }
        let used = self.small_records >= SMALL_RECORDS_BEFORE_SHRINKING;
        if self.buffer.len() > LARGE || (self.buffer.len() > SMALL && used) {
            self.buffer.truncate(SMALL);
            self.buffer.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(records: &mut Records, mut bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let space = records.space().unwrap();
            let count = step.min(space.len()).min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            records.received(count);
            bytes = &bytes[count..];
            while let Some(record) = records.next().expect("no record is over the limit") {
                found.push(record.to_vec());
            }
        }
        found
    }

    fn fragments(payload: &[u8], size: usize) -> Vec<u8> {
        let mut stream = Vec::new();
        let mut chunks = payload.chunks(size).peekable();
        while let Some(chunk) = chunks.next() {
            let last = if chunks.peek().is_none() { LAST } else { 0 };
            stream.extend_from_slice(&(chunk.len() as u32 | last).to_be_bytes());
            stream.extend_from_slice(chunk);
        }
        stream
    }

    fn payload(length: usize) -> Vec<u8> {
        (0..length).map(|position| (position % 251) as u8).collect()
    }

    #[test]
    fn reassembles_any_fragmentation_in_any_steps() {
        for length in [1, 4, 47, 1000, 65532, 200_001] {
            for size in [1, 3, 100, 8996, 65532, 1 << 20] {
                for step in [1, 7, 4096, usize::MAX] {
                    if length / size > 2000 || length / step > 5000 {
                        continue;
                    }
                    let mut records = Records::new(1 << 20);
                    let one = fragments(&payload(length), size);
                    let stream = [one.as_slice(), &one, &one].concat();
                    let found = feed(&mut records, &stream, step);
                    assert!(
                        found == vec![payload(length); 3],
                        "{length} in {size} by {step}"
                    );
                    assert!(!records.is_begun());
                }
            }
        }
    }

    #[test]
    fn an_empty_record_is_passed_over_and_an_empty_last_fragment_ends_one() {
        let mut records = Records::new(100);
        assert!(feed(&mut records, &[0x80, 0, 0, 0], 4).is_empty());
        assert!(!records.is_begun());
        let stream = [
            0, 0, 0, 0, 0, 0, 0, 2, b'a', b'b', 0, 0, 0, 0, 0x80, 0, 0, 0,
        ];
        for step in [1, 18] {
            assert_eq!(feed(&mut records, &stream, step), [b"ab"]);
        }
    }

    #[test]
    fn refuses_a_record_over_the_limit_when_its_length_is_read() {
        let mut records = Records::new(100);
        records.space().unwrap()[..4].copy_from_slice(&101u32.to_be_bytes());
        records.received(4);
        assert_eq!(records.next(), Err(TooLong));

        let mut records = Records::new(100);
        let stream = [
            &60u32.to_be_bytes()[..],
            &[0; 60],
            &(LAST | 41).to_be_bytes(),
        ]
        .concat();
        records.space().unwrap()[..stream.len()].copy_from_slice(&stream);
        records.received(stream.len());
        assert_eq!(records.next(), Err(TooLong));
    }

    #[test]
    fn memory_follows_the_bytes_that_came_not_the_announced_length() {
        let mut records = Records::new(1 << 30);
        records.space().unwrap()[..4].copy_from_slice(&(LAST | 1 << 30).to_be_bytes());
        records.received(4);
        assert_eq!(records.next(), Ok(None));
        assert!(records.space().unwrap().len() <= 2 * SMALL);
        assert!(records.buffer.len() <= 4 * SMALL);
    }

    #[test]
    fn memory_does_not_grow_with_the_number_of_records() {
        let mut records = Records::new(1 << 20);
        for _ in 0..10_000 {
            assert_eq!(
                feed(&mut records, &fragments(&payload(100), 1000), 104).len(),
                1
            );
        }
        assert_eq!(records.buffer.len(), SMALL);
    }

    #[test]
    fn memory_does_not_grow_with_the_number_of_fragments() {
        for begin in [&[][..], b"\0\0\0\x01a"] {
            for step in [4096, 4099, usize::MAX] {
                let mut records = Records::new(1 << 20);
                assert!(feed(&mut records, begin, 1).is_empty());
                assert!(feed(&mut records, &[0; 4 << 20], step).is_empty());
                assert!(records.is_begun());
                assert!(records.buffer.len() <= 2 * SMALL, "by {step}");
                let rest = b"\x80\0\0\x01b";
                let payload = [begin.get(4..).unwrap_or_default(), b"b"].concat();
                assert_eq!(feed(&mut records, rest, 1), [payload]);
            }
        }
    }

    #[test]
    fn wipes_what_came_in_fragments_too() {
        let secret = [7; 100];
        for (fragment, step) in [(1, 9), (7, 60), (7, 1000), (100, 33), (100, 1000)] {
            let mut records = Records::new(100);
            let mut stream = Vec::new();
            for fragment in secret.chunks(fragment) {
                stream.extend_from_slice(&(fragment.len() as u32).to_be_bytes());
                stream.extend_from_slice(fragment);
            }
            let last = stream.split_off(stream.len() - 1);
            assert!(feed(&mut records, &stream, step).is_empty());
            let rest = [&last[..], &LAST.to_be_bytes(), &[0x80, 0, 0, 1, 9]].concat();
            records.space().unwrap()[..rest.len()].copy_from_slice(&rest);
            records.received(rest.len());
            assert_eq!(records.next(), Ok(Some(&secret[..])));
            records.wipe();
            let left = records.buffer[MARK_SIZE..].iter().filter(|it| **it == 7);
            assert_eq!(left.count(), 0, "{fragment} {step}");
            assert_eq!(records.next(), Ok(Some(&[9][..])));
        }
    }

    #[test]
    fn gives_back_memory_after_a_large_record() {
        let mut records = Records::new(8 << 20);
        for (length, after) in [(500_000, SMALL_RECORDS_BEFORE_SHRINKING), (5_000_000, 1)] {
            assert_eq!(
                feed(&mut records, &fragments(&payload(length), 1 << 24), 1 << 20).len(),
                1
            );
            for _ in 0..after {
                assert_eq!(feed(&mut records, &fragments(b"small", 1000), 104).len(), 1);
            }
            assert_eq!(records.buffer.len(), SMALL, "after {length} bytes");
        }
    }
}
