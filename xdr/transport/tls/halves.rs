//! Splits an established TLS connection into a half that receives and a half that sends.
//!
//! OpenSSL's object has no halves: only one thread at a time may use it, for reading or writing. So OpenSSL reads and
//! writes memory ([`Pipe`]), and its lock is held only while it encrypts or decrypts. The receiver waits for the socket
//! without the lock, then has OpenSSL decrypt everything that arrived. The sender has OpenSSL encrypt, then sends the
//! result without that lock. A second lock keeps the order of sending equal to the order of encryption.
//!
//! Reading may produce something to send, too, such as an alert. (OpenSSL answers a key update at its next write.) The
//! receiver never waits for the socket because of that. It sends what the socket accepts at once, and leaves the rest
//! to the next sender.

use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::ssl::{ErrorCode, SslStream};
use xdr::codec::{Slices, wipe};

use super::into_io_error;
use super::pipe::{Pipe, RECEIVED, RecordEnds};
use crate::deadline::Deadline;
use crate::socket::{Incoming, Outgoing};

/// Runs a closure that uses OpenSSL's objects, in the library context that these objects belong to.
pub type Surroundings = fn(&mut dyn FnMut()) -> io::Result<()>;

/// The [`Surroundings`] of objects that belong to OpenSSL's default context.
pub fn default_context(work: &mut dyn FnMut()) -> io::Result<()> {
    work();
    Ok(())
}

/// About how many bytes of TLS records are collected for one write.
const COLLECTED: usize = 64 << 10;

/// How many bytes may wait to be sent that OpenSSL wrote while it was reading: far more than a peer causes that takes what it
/// is sent. OpenSSL answers each refused renegotiation of TLS 1.2 with an alert.
const MOST_ANSWERS: usize = 16 << 10;

/// The state that both halves share.
pub(crate) struct Shared {
    /// `None` once it was freed or left in memory. Locked while OpenSSL works, never while a thread waits for the
    /// socket.
    stream: Mutex<Option<SslStream<Pipe>>>,
    /// Locked by the thread that sends. Lock order: before `stream`.
    sending: Mutex<Sending>,
    surroundings: Surroundings,
}

/// TLS records on their way into the socket.
struct Sending {
    socket: Outgoing,
    records: Vec<u8>,
    /// How many bytes of them were sent.
    sent: usize,
}

impl Sending {
    /// Appends the records that OpenSSL wrote, in their order.
    fn take(&mut self, written: &mut Vec<u8>) {
        // What was sent goes, so that a peer that never takes everything does not make this grow.
        self.records.drain(..self.sent.min(self.records.len()));
        self.sent = 0;
        match self.records.is_empty() {
            true => mem::swap(&mut self.records, written),
            false => self.records.append(written),
        }
    }

    fn unsent(&self) -> &[u8] {
        self.records.get(self.sent..).unwrap_or_default()
    }

    fn send_all(&mut self, deadline: Deadline) -> io::Result<()> {
        while !self.unsent().is_empty() {
            let records = self.records.get(self.sent..).unwrap_or_default();
            self.sent += self.socket.send(&[io::IoSlice::new(records)], deadline)?;
        }
        Ok(())
    }

    /// Sends what the socket takes without waiting. Returns whether that was everything.
    fn send_at_once(&mut self) -> io::Result<bool> {
        while !self.unsent().is_empty() {
            let records = self.records.get(self.sent..).unwrap_or_default();
            match self.socket.send_at_once(records)? {
                0 => return Ok(false),
                count => self.sent += count,
            }
        }
        Ok(true)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Runs `work` on OpenSSL's object. Fails if the object was freed.
    fn with<R>(&self, work: impl FnOnce(&mut SslStream<Pipe>) -> R) -> io::Result<R> {
        let mut stream = locked(&self.stream);
        let stream = stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut work = Some(work);
        let mut result = None;
        (self.surroundings)(&mut || {
            // Errors that other code left in this thread's queue would be taken for the connection's.
            drop(ErrorStack::get());
            result = work.take().map(|work| work(stream));
        })?;
        result.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Sends what OpenSSL wrote while it was reading, unless another thread is sending: that thread does it when it is
    /// done. (If `try_lock` fails, the thread that holds the lock still sees what was written before, because it looks
    /// here afterwards.) Returns how many bytes are left nonetheless. What another thread is sending does not count; that
    /// has a deadline.
    fn send_what_is_left(&self) -> io::Result<usize> {
        loop {
            let written = self.written();
            if written == 0 {
                return Ok(0);
            }
            let Ok(mut sending) = self.sending.try_lock() else {
                return Ok(written);
            };
            if let Some(stream) = &mut *locked(&self.stream) {
                sending.take(stream.get_mut().written());
            }
            if !sending.send_at_once()? {
                return Ok(sending.unsent().len());
            }
        }
    }

    /// Returns how many bytes OpenSSL has written that no thread has taken yet.
    fn written(&self) -> usize {
        let mut stream = locked(&self.stream);
        let stream = stream.as_mut();
        stream.map_or(0, |stream| stream.get_mut().written().len())
    }

    /// Tells the peer that nothing more comes, if it can be done by the deadline and nobody is sending.
    pub(crate) fn farewell(&self, deadline: Deadline) {
        let Ok(mut sending) = self.sending.try_lock() else {
            return;
        };
        let said = self.with(|stream| {
            // Does not wait for the peer's close_notify.
            let _ = stream.shutdown();
            sending.take(stream.get_mut().written());
        });
        if said.is_ok() {
            // The peer may be gone already.
            let _ = sending.send_all(deadline);
        }
    }

    /// Leaves OpenSSL's objects in memory for good, without the socket. Does not wait: returns false if a thread is
    /// using them.
    pub(crate) fn leave_objects_behind(&self) -> bool {
        let Ok(mut stream) = self.stream.try_lock() else {
            return false;
        };
        mem::forget(stream.take());
        true
    }

    /// Frees OpenSSL's objects. Both halves fail from then on.
    pub(crate) fn free(&self) {
        let mut stream = locked(&self.stream).take();
        // Without its library context it cannot be freed, and stays in memory.
        let freed = (self.surroundings)(&mut || drop(stream.take()));
        if freed.is_err() {
            mem::forget(stream);
        }
    }
}

/// The half that receives.
pub(crate) struct TlsReceiver {
    shared: Arc<Shared>,
    socket: Incoming,
    /// The buffer for receiving; OpenSSL has it while it decrypts.
    buffer: Vec<u8>,
    /// Whether OpenSSL may have plaintext that was not read.
    may_hold_more: bool,
    /// An error that followed the last plaintext; the next receive returns it.
    failure: Option<io::Error>,
    ends: RecordEnds,
    /// How long a TLS record may take, once it has begun.
    record_time: Option<Duration>,
    record_deadline: Option<Deadline>,
}

/// What OpenSSL made of the bytes that it was given.
struct Decrypted {
    count: usize,
    is_end: bool,
    may_hold_more: bool,
    failure: Option<io::Error>,
    /// The buffer for the next bytes, if all bytes in it were taken.
    buffer: Option<Vec<u8>>,
    has_to_send: bool,
}

impl TlsReceiver {
    pub(crate) fn is_checked_now(&mut self) {
        self.socket.is_checked_now();
    }

    pub(crate) fn poll_first(&mut self) {
        self.socket.poll_first();
    }

    pub(crate) fn limit_records(&mut self, time: Duration) {
        self.record_time = Some(time);
    }

    pub(crate) fn receive(
        &mut self,
        space: &mut [u8],
        deadline: Option<Deadline>,
    ) -> io::Result<usize> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let mut received = None;
        loop {
            if self.may_hold_more || received.is_some() {
                let shared = &self.shared;
                let decrypted = shared.with(|stream| decrypt(stream, received.take(), space))?;
                self.may_hold_more = decrypted.may_hold_more;
                if let Some(buffer) = decrypted.buffer {
                    self.buffer = buffer;
                }
                if decrypted.has_to_send {
                    // A connection that cannot send any more may still have bytes to be received.
                    let left = shared.send_what_is_left();
                    if left.is_ok_and(|left| left > MOST_ANSWERS) {
                        return Err(io::Error::other(
                            "the peer asks for answers of TLS and does not take them",
                        ));
                    }
                }
                match (decrypted.count, decrypted.failure) {
                    (0, Some(failure)) => return Err(failure),
                    (0, None) if decrypted.is_end => return Ok(0),
                    (0, None) => {}
                    (count, failure) => {
                        self.failure = failure;
                        return Ok(count);
                    }
                }
            }
            let limit = deadline.or_else(|| self.record_limit());
            self.buffer.resize(RECEIVED, 0);
            let count = self.socket.receive(&mut self.buffer, limit)?;
            if count == 0 {
                return Ok(0);
            }
            self.ends
                .follow(self.buffer.get(..count).unwrap_or_default());
            received = Some((mem::take(&mut self.buffer), count));
        }
    }

    /// When the TLS record that has begun must be complete.
    fn record_limit(&mut self) -> Option<Deadline> {
        if !self.ends.is_within() {
            self.record_deadline = None;
            return None;
        }
        let time = self.record_time?;
        Some(
            *self
                .record_deadline
                .get_or_insert_with(|| Deadline::after(time)),
        )
    }
}

/// Fills the space with plaintext, as far as there is any.
fn decrypt(
    stream: &mut SslStream<Pipe>,
    received: Option<(Vec<u8>, usize)>,
    space: &mut [u8],
) -> Decrypted {
    if let Some((buffer, count)) = received {
        stream.get_mut().put(buffer, count);
    }
    let (mut count, mut is_end, mut failure) = (0, false, None);
    let mut may_hold_more = true;
    while let Some(rest) = space.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match stream.ssl_read(rest) {
            Ok(size) => count += size,
            // Every byte was taken, or something that is no plaintext came before the rest.
            Err(error) if error.code() == ErrorCode::WANT_READ => {}
            Err(error) if error.code() == ErrorCode::ZERO_RETURN => is_end = true,
            Err(error) => failure = Some(into_io_error(error)),
        }
        if is_end || failure.is_some() {
            break;
        }
        may_hold_more = !stream.get_ref().is_drained() || stream.ssl().pending() > 0;
        if !may_hold_more {
            break;
        }
    }
    let pipe = stream.get_mut();
    Decrypted {
        count,
        is_end,
        may_hold_more,
        failure,
        buffer: pipe.empty_buffer(),
        has_to_send: !pipe.written().is_empty(),
    }
}

/// The half that sends.
pub(crate) struct TlsSender {
    shared: Arc<Shared>,
    /// The most plaintext of one TLS record, in bytes.
    fragment: usize,
    piece: Vec<u8>,
}

impl TlsSender {
    pub(crate) fn send_record(
        &mut self,
        record: &mut Slices<'_>,
        deadline: Deadline,
    ) -> io::Result<()> {
        let sent = self.send_pieces(record, deadline);
        // PINs, keys and plaintext were copied here. A shorter last piece leaves bytes of an earlier one behind it.
        self.piece.resize(self.piece.capacity(), 0);
        wipe(&mut self.piece);
        self.piece.clear();
        sent?;
        self.shared.send_what_is_left().map(|_| ())
    }

    fn send_pieces(&mut self, record: &mut Slices<'_>, deadline: Deadline) -> io::Result<()> {
        let mut sending = locked(&self.shared.sending);
        while !record.is_sent() {
            self.shared.with(|stream| {
                let encrypted = encrypt(stream, record, self.fragment, &mut self.piece);
                sending.take(stream.get_mut().written());
                encrypted
            })??;
            sending.send_all(deadline)?;
        }
        Ok(())
    }
}

/// Encrypts the next pieces of a record, as many as are sent with one write.
fn encrypt(
    stream: &mut SslStream<Pipe>,
    record: &mut Slices<'_>,
    fragment: usize,
    piece: &mut Vec<u8>,
) -> io::Result<()> {
    while !record.is_sent() && stream.get_mut().written().len() < COLLECTED {
        let size = stream
            .ssl_write(record.piece(fragment, piece))
            .map_err(into_io_error)?;
        record.advance(size);
    }
    Ok(())
}

/// Splits a connection after its handshake. `fragment` is the most plaintext that one TLS record may carry to
/// this peer, in bytes. `None` if it was split before.
pub(crate) fn split(
    mut stream: SslStream<Pipe>,
    fragment: usize,
    surroundings: Surroundings,
) -> Option<(TlsReceiver, TlsSender, Arc<Shared>)> {
    let (incoming, outgoing, ends) = stream.get_mut().become_memory()?;
    let shared = Arc::new(Shared {
        stream: Mutex::new(Some(stream)),
        sending: Mutex::new(Sending {
            socket: outgoing,
            records: Vec::new(),
            sent: 0,
        }),
        surroundings,
    });
    let receiver = TlsReceiver {
        shared: shared.clone(),
        socket: incoming,
        buffer: Vec::new(),
        may_hold_more: true,
        failure: None,
        ends,
        record_time: None,
        record_deadline: None,
    };
    let sender = TlsSender {
        shared: shared.clone(),
        fragment,
        piece: Vec::new(),
    };
    Some((receiver, sender, shared))
}

#[cfg(test)]
mod tests;
