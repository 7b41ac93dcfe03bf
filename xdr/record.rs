//! Cuts a byte stream into complete RPC records (record marking, RFC 5531, section 11).
//!
//! Client and daemon read from their sockets straight into [`Records::space`]; a record of one fragment is used where
//! it was received. A record over the limit is refused when its length is read, before any of it is kept. Memory grows
//! with the bytes that have arrived, not with the announced length. An unwanted record can be skipped
//! ([`Records::pass_over`]): only its beginning is kept, and the connection continues behind it. A part of a record can be
//! received into other memory ([`Records::take_out`]). Does no I/O.

use std::collections::TryReserveError;
use std::mem;
use std::ops::{Deref, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::codec::wipe;

/// Bytes of a record mark: the last-fragment flag and the length of the fragment.
pub const MARK_SIZE: usize = 4;

/// The bit of a mark that says that its fragment ends the record.
const LAST: u32 = 1 << 31;

/// Size of the buffer of an idle connection, and the least room for one read.
const SMALL: usize = 16 << 10;

/// A record longer than this many bytes is large. Its memory is freed at once when the record is done with, and the
/// daemon takes it out of a budget. A smaller buffer may be kept for a while.
pub const LARGE: usize = 2 << 20;

/// The bytes that are kept of a skipped record: enough for the longest header of a call, with 400 bytes each of
/// credential and verifier, and for its first argument.
const BEGINNING: usize = 1024;

/// After this many small records in a row, a large buffer counts as unused.
const SMALL_RECORDS_BEFORE_SHRINKING: u32 = 16;

/// Returns the mark of a record that is sent as one fragment; `None` if the record is too long for that.
pub fn mark_of_one_fragment(length: usize) -> Option<[u8; MARK_SIZE]> {
    let length = u32::try_from(length)
        .ok()
        .filter(|length| length & LAST == 0)?;
    Some((length | LAST).to_be_bytes())
}

/// The error for a record that is longer than the limit, or than what may be skipped of it.
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
/// The buffer contains first the payload of the record being received, without marks, and then the bytes that were
/// received but not parsed yet. When a fragment is incomplete, the next read goes directly behind the payload, so that
/// nothing has to be moved.
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
    /// Whether fragments of the present record were moved together.
    moved: bool,
    /// While the present record is skipped: how many more bytes of it may come.
    passing_over: Option<u64>,
    /// Bytes of the present record that were dropped.
    dropped: u64,
    /// Records since the last one that needed more than [`SMALL`].
    small_records: u32,
    limit: usize,
    /// Memory that comes back from records that were lent.
    returned: Option<Arc<Returned>>,
}

/// Memory of a lent record that is not used any more: at most one buffer, of at most [`LARGE`] bytes.
#[derive(Default)]
struct Returned(Mutex<Vec<u8>>);

impl Returned {
    fn take(&self) -> Vec<u8> {
        mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, buffer: Vec<u8>) {
        if buffer.len() <= LARGE {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = buffer;
        }
    }
}

/// It may have a part of a PIN, a key or plaintext.
impl Drop for Records {
    fn drop(&mut self) {
        wipe(&mut self.buffer);
    }
}

impl Records {
    /// Starts at a record's first mark; `limit` is the upper bound on the payload of one record, in bytes.
    pub fn new(limit: usize) -> Records {
        Records {
            buffer: Vec::new(),
            payload: 0..0,
            raw: 0..0,
            fragment: 0,
            last: false,
            begun: false,
            moved: false,
            passing_over: None,
            dropped: 0,
            small_records: 0,
            limit,
            returned: None,
        }
    }

    /// Returns the buffer for the next bytes of the stream. Never empty. Fails if there is no memory for it.
    pub fn space(&mut self) -> Result<&mut [u8], TryReserveError> {
        // Unparsed bytes can only be part of a mark here. Moving them directly behind the payload keeps the buffer from
        // growing with the number of fragments.
        if self.payload.is_empty() {
            self.payload = 0..0;
        }
        if self.buffer.is_empty() {
            if let Some(returned) = &self.returned {
                self.buffer = returned.take();
            }
        }
        let start = self.payload.end;
        self.buffer.copy_within(self.raw.clone(), start);
        self.raw = start..start + self.raw.len();
        let end = self.raw.end;
        if self.passing_over.is_some() && self.buffer.len() > SMALL {
            wipe(self.buffer.get_mut(end..).unwrap_or_default());
            self.cut_to(end);
        }
        let wanted = self.wanted();
        let size = self.needed();
        if self.buffer.len() < size {
            self.grow(size)?;
        }
        let room = if wanted > SMALL && !self.last {
            wanted.min(self.buffer.len() - end)
        } else {
            self.buffer.len() - end
        };
        Ok(self.buffer.get_mut(end..end + room).unwrap_or_default())
    }

    /// Grows the buffer to this size. Up to [`LARGE`], nothing of its content is left elsewhere. A larger one is grown by
    /// the allocator, so that there are not two at a time; it usually moves pages instead of copying bytes.
    fn grow(&mut self, size: usize) -> Result<(), TryReserveError> {
        if self.buffer.len() <= LARGE {
            let mut larger = Vec::new();
            larger.try_reserve_exact(size)?;
            larger.extend_from_slice(self.buffer.get(..self.raw.end).unwrap_or_default());
            wipe(&mut self.buffer);
            self.buffer = larger;
        } else {
            let more = size.saturating_sub(self.buffer.len());
            self.buffer.try_reserve_exact(more)?;
        }
        self.buffer.resize(size, 0);
        Ok(())
    }

    /// Returns the size to which the next [`Records::space`] grows the buffer, unless the buffer is that large already.
    pub fn needed(&self) -> usize {
        let start = if self.payload.is_empty() {
            0
        } else {
            self.payload.end
        };
        let used = start + self.raw.len();
        let least = match self.wanted() {
            0 => SMALL / 4,
            wanted => wanted.min(SMALL / 4),
        };
        if self.passing_over.is_none() && self.buffer.len() >= used + least {
            return self.buffer.len();
        }
        let most = match self.passing_over {
            None => self.buffer.len().max(SMALL),
            Some(_) => SMALL / 4,
        };
        (used + self.wanted().clamp(SMALL / 4, most)).max(SMALL)
    }

    /// The size of the buffer, in bytes.
    pub fn size(&self) -> usize {
        self.buffer.len()
    }

    /// Returns how many bytes the present record has at least, according to the marks read so far.
    pub fn announced(&self) -> usize {
        self.payload.len() + self.fragment
    }

    /// Returns how many bytes of the present record to expect next: the rest of the fragment, and the next mark unless
    /// this fragment is the last one.
    fn wanted(&self) -> usize {
        match self.fragment {
            0 => 0,
            fragment if self.last => fragment,
            fragment => fragment + MARK_SIZE,
        }
    }

    /// Notes that the first `count` bytes of [`Records::space`] were received.
    pub fn received(&mut self, count: usize) {
        self.raw.end = (self.raw.end + count).min(self.buffer.len());
    }

    /// Whether a part of a record has been received, so that its rest must follow.
    pub fn is_begun(&self) -> bool {
        self.begun || !self.raw.is_empty()
    }

    /// Returns the next complete record, if the bytes received contain one. Skips empty records.
    #[allow(clippy::should_implement_trait)] // lends from itself
    pub fn next(&mut self) -> Result<Option<&[u8]>, TooLong> {
        Ok(self.advance()?.then(|| self.record()))
    }

    /// Returns the current record, which the last [`Records::advance`] found complete. It stays until the next call of
    /// that. If the record is incomplete, returns the part that has arrived; if it is skipped, its beginning.
    pub fn record(&self) -> &[u8] {
        self.buffer.get(self.payload.clone()).unwrap_or_default()
    }

    /// Returns what has arrived of the present record, and its whole size in bytes, if its last fragment has begun, but
    /// is not complete yet, and the record is not skipped.
    pub fn incomplete(&self) -> Option<(&[u8], usize)> {
        let is_last = self.begun && self.last && self.fragment > 0 && self.passing_over.is_none();
        is_last.then(|| (self.record(), self.announced()))
    }

    /// Takes the bytes from `start` on out of the present record, which is [`Records::incomplete`]: moves those that have
    /// arrived to the beginning of `place`, and returns how many these were. The record then consists of the other bytes.
    /// The next bytes of the stream are those for the rest of `place`; see [`Records::received_elsewhere`].
    pub fn take_out(&mut self, start: usize, place: &mut [u8]) -> usize {
        let from = (self.payload.start + start).min(self.payload.end);
        let arrived = self.buffer.get_mut(from..self.payload.end);
        let arrived = arrived.unwrap_or_default();
        let count = arrived.len().min(place.len());
        if let (Some(to), Some(from)) = (place.get_mut(..count), arrived.get(..count)) {
            to.copy_from_slice(from);
        }
        let left = arrived.len() - count;
        arrived.copy_within(count.., 0);
        wipe(arrived.get_mut(left..).unwrap_or_default());
        self.payload.end -= count;
        count
    }

    /// Notes that the next `count` bytes of the present fragment were received into other memory. Nothing may have been
    /// received behind them.
    pub fn received_elsewhere(&mut self, count: usize) {
        self.fragment = self.fragment.saturating_sub(count);
    }

    /// Skips the present record, which is not complete yet: keeps its beginning and drops the rest. Fails, now or in
    /// [`Records::advance`], if the rest has more than `most` bytes.
    pub fn pass_over(&mut self, most: u64) -> Result<(), TooLong> {
        let before = self.payload.clone();
        let kept = before.len().min(BEGINNING);
        self.dropped = (before.len() - kept) as u64;
        self.buffer
            .copy_within(before.start..before.start + kept, 0);
        wipe(self.buffer.get_mut(kept..before.end).unwrap_or_default());
        self.payload = 0..kept;
        self.moved = true;
        self.passing_over = Some(most.saturating_sub(self.dropped));
        self.check_length()
    }

    /// Whether the present record is being skipped.
    pub fn is_passed_over(&self) -> bool {
        self.passing_over.is_some()
    }

    /// Returns how many bytes arrived of the record that was skipped last.
    pub fn length_passed_over(&self) -> u64 {
        self.payload.len() as u64 + self.dropped
    }

    /// Drops the current record and looks for the next one. True if it is complete.
    ///
    /// After [`TooLong`], [`Records::pass_over`] may be called; otherwise the stream cannot be used any more.
    pub fn advance(&mut self) -> Result<bool, TooLong> {
        if !self.begun {
            self.moved = false;
            self.dropped = 0;
            self.shrink();
            self.payload = self.raw.start..self.raw.start;
            if self.raw.is_empty() {
                return Ok(false);
            }
        }
        loop {
            let arrived = self.fragment.min(self.raw.len());
            let kept = match self.passing_over {
                None => arrived,
                Some(_) => arrived.min(BEGINNING.saturating_sub(self.payload.len())),
            };
            self.keep(kept);
            self.raw.start += arrived;
            self.fragment -= arrived;
            self.count_dropped(arrived - kept);
            if self.fragment > 0 {
                return Ok(false);
            }
            if self.begun && self.last {
                self.begun = false;
                self.last = false;
                self.passing_over = None;
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
            self.check_length()?;
        }
    }

    /// Appends the next `count` bytes that were received to the payload.
    fn keep(&mut self, count: usize) {
        if self.payload.end != self.raw.start {
            let from = self.raw.start..self.raw.start + count;
            self.buffer.copy_within(from, self.payload.end);
            self.moved = true;
        }
        self.payload.end += count;
    }

    /// Takes the current record, found complete by the last [`Records::advance`], so that others can be received
    /// while it is in use. A large one is taken with its memory; a smaller one is copied and wiped here.
    pub fn take(&mut self) -> Result<Taken, TryReserveError> {
        if self.payload.len() > LARGE {
            return self.take_memory();
        }
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(self.payload.len())?;
        buffer.extend_from_slice(self.record());
        self.wipe();
        let payload = 0..buffer.len();
        Ok(Taken::new(buffer, payload))
    }

    /// Takes the current record, found complete by the last [`Records::advance`], with its memory. A record that may be
    /// secret is wiped when it is dropped. The memory comes back then, unless it is larger than [`LARGE`].
    pub fn lend(&mut self, is_secret: bool) -> Result<Taken, TryReserveError> {
        let place = self.payload.start..self.raw.start;
        let was_moved = self.moved;
        let mut taken = self.take_memory()?;
        if place.len() > SMALL {
            self.small_records = 0;
        }
        if !was_moved {
            taken.to_wipe = place;
        }
        taken.wipes_at_end = AtomicBool::new(is_secret);
        taken.back_to = Some(Arc::clone(self.returned.get_or_insert_default()));
        Ok(taken)
    }

    fn take_memory(&mut self) -> Result<Taken, TryReserveError> {
        let mut buffer = Vec::new();
        // Bytes of the next record, which may hold a key.
        let behind = self.buffer.get_mut(self.raw.clone()).unwrap_or_default();
        buffer.try_reserve_exact(behind.len())?;
        buffer.extend_from_slice(behind);
        wipe(behind);
        self.raw = 0..buffer.len();
        let payload = mem::replace(&mut self.payload, 0..0);
        Ok(Taken::new(mem::replace(&mut self.buffer, buffer), payload))
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

    /// Counts dropped bytes of a skipped record.
    fn count_dropped(&mut self, count: usize) {
        self.dropped += count as u64;
        if let Some(left) = &mut self.passing_over {
            *left = left.saturating_sub(count as u64);
        }
    }

    /// Fails when the present fragment makes the record too long.
    fn check_length(&self) -> Result<(), TooLong> {
        let length = self.payload.len();
        let left = match self.passing_over {
            None => self.limit.saturating_sub(length) as u64,
            Some(left) => left + BEGINNING.saturating_sub(length) as u64,
        };
        if self.fragment as u64 > left {
            Err(TooLong)
        } else {
            Ok(())
        }
    }

    /// Frees memory that only a large record needed, between two records: at once if the buffer is larger than
    /// [`LARGE`], otherwise after [`SMALL_RECORDS_BEFORE_SHRINKING`] small records.
    fn shrink(&mut self) {
        let is_idle = self.raw.is_empty();
        if self.payload.len() > SMALL {
            self.small_records = 0;
        } else if is_idle {
            self.small_records = self.small_records.saturating_add(1);
        }
        let is_unused = is_idle && self.small_records >= SMALL_RECORDS_BEFORE_SHRINKING;
        if is_unused {
            self.returned = None;
        }
        let is_large = self.buffer.len() > LARGE && self.raw.len() <= LARGE;
        if is_idle {
            self.raw = 0..0;
        }
        if is_large || (self.buffer.len() > SMALL && is_unused) {
            // Bytes of the next record, which may hold a PIN.
            let before = self.raw.clone();
            self.buffer.copy_within(before.clone(), 0);
            self.raw = 0..before.len();
            let left = before.start.max(before.len())..before.end;
            wipe(self.buffer.get_mut(left).unwrap_or_default());
            self.cut_to(before.len());
        }
    }

    /// Frees the buffer beyond its first `length` bytes, but not below the size of an idle one.
    fn cut_to(&mut self, length: usize) {
        self.buffer.truncate(length.max(SMALL));
        self.buffer.shrink_to_fit();
    }
}

/// A record that was taken out of its [`Records`]. It is wiped when it is dropped, unless it was lent as one that is not
/// secret.
pub struct Taken {
    buffer: Vec<u8>,
    payload: Range<usize>,
    /// The part of the buffer in which bytes of the record are or were.
    to_wipe: Range<usize>,
    wipes_at_end: AtomicBool,
    back_to: Option<Arc<Returned>>,
}

impl Taken {
    fn new(buffer: Vec<u8>, payload: Range<usize>) -> Taken {
        Taken {
            to_wipe: 0..buffer.len(),
            buffer,
            payload,
            wipes_at_end: AtomicBool::new(true),
            back_to: None,
        }
    }

    /// Has the record wiped when it is dropped.
    pub(crate) fn wipe_at_end(&self) {
        self.wipes_at_end.store(true, Ordering::Relaxed);
    }
}

impl Deref for Taken {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buffer.get(self.payload.clone()).unwrap_or_default()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if *self.wipes_at_end.get_mut() {
            let place = self.buffer.get_mut(self.to_wipe.clone());
            wipe(place.unwrap_or_default());
        }
        if let Some(back_to) = &self.back_to {
            back_to.put(mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests;
