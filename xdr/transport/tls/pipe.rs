//! Provides the stream that OpenSSL uses in place of the network.
//!
//! During the handshake it reads and writes a socket, within the time limit of the handshake. Afterwards it is memory:
//! the halves of the connection (`tls::halves`) receive and send the bytes, so that no thread locks OpenSSL's object
//! while it waits for the socket. It also tracks where TLS records end.

use std::io::{self, Read, Write};
use std::mem;
use std::sync::Arc;

use socket2::Socket;

use crate::deadline::Deadline;
use crate::socket::{Incoming, Outgoing, TimedSocket};

/// How many bytes are received at a time.
pub(super) const RECEIVED: usize = 64 << 10;

/// The stream that OpenSSL uses in place of the network.
pub struct Pipe {
    /// The socket, and when the handshake has to be over; `None` afterwards.
    handshake: Option<(TimedSocket, Deadline)>,
    received: Received,
    /// TLS records to be sent, after the handshake.
    written: Vec<u8>,
    ends: RecordEnds,
}

/// Bytes from the socket that OpenSSL takes in portions.
#[derive(Default)]
struct Received {
    buffer: Vec<u8>,
    taken: usize,
    count: usize,
}

impl Received {
    fn take(&mut self, space: &mut [u8]) -> usize {
        let bytes = self.buffer.get(self.taken..self.count).unwrap_or_default();
        let size = bytes.len().min(space.len());
        if let (Some(from), Some(to)) = (bytes.get(..size), space.get_mut(..size)) {
            to.copy_from_slice(from);
        }
        self.taken += size;
        size
    }

    fn is_empty(&self) -> bool {
        self.taken == self.count
    }
}

impl Pipe {
    /// Wraps a connected socket for a handshake that has to be over at the deadline.
    pub fn new(socket: TimedSocket, deadline: Deadline) -> Pipe {
        Pipe {
            handshake: Some((socket, deadline)),
            received: Received::default(),
            written: Vec::new(),
            ends: RecordEnds::default(),
        }
    }

    /// Whether the first byte received cannot be the beginning of a handshake.
    pub fn met_no_tls(&self) -> bool {
        self.ends.first.is_some_and(|first| first != HANDSHAKE)
    }

    /// Whether no byte was received.
    pub fn met_nothing(&self) -> bool {
        self.ends.first.is_none()
    }

    /// The socket, during the handshake.
    pub(crate) fn socket(&self) -> Option<&Arc<Socket>> {
        let (socket, _) = self.handshake.as_ref()?;
        Some(socket.socket())
    }

    /// Turns the pipe into memory, after the handshake. Returns the socket's directions, and where the records received
    /// so far end. `None` if that was done before.
    pub(super) fn become_memory(&mut self) -> Option<(Incoming, Outgoing, RecordEnds)> {
        let (socket, _) = self.handshake.take()?;
        let (incoming, outgoing) = socket.split();
        Some((incoming, outgoing, mem::take(&mut self.ends)))
    }

    /// Gives OpenSSL the first `count` bytes of a buffer. It must have taken all earlier bytes.
    pub(super) fn put(&mut self, buffer: Vec<u8>, count: usize) {
        self.received = Received {
            buffer,
            taken: 0,
            count,
        };
    }

    /// Returns the buffer for receiving the next bytes, if OpenSSL has taken everything in it.
    pub(super) fn empty_buffer(&mut self) -> Option<Vec<u8>> {
        let is_empty = self.received.is_empty();
        is_empty.then(|| mem::take(&mut self.received).buffer)
    }

    /// Whether OpenSSL has taken all bytes received.
    pub(super) fn is_drained(&self) -> bool {
        self.received.is_empty()
    }

    /// The TLS records that were not sent yet.
    pub(super) fn written(&mut self) -> &mut Vec<u8> {
        &mut self.written
    }
}

impl Read for Pipe {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        if self.received.is_empty() {
            let Some((socket, deadline)) = &mut self.handshake else {
                return Err(io::ErrorKind::WouldBlock.into());
            };
            let received = &mut self.received;
            received.buffer.resize(RECEIVED, 0);
            (received.taken, received.count) = (0, 0);
            let count = socket
                .incoming()
                .receive(&mut received.buffer, Some(*deadline))?;
            received.count = count;
            self.ends
                .follow(received.buffer.get(..count).unwrap_or_default());
        }
        Ok(self.received.take(space))
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.handshake {
            Some((socket, deadline)) => socket.outgoing().send_all(bytes, *deadline)?,
            None => self.written.extend_from_slice(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The content type of handshake records.
const HANDSHAKE: u8 = 22;

/// Tracks where TLS records end in the bytes received: a peer may idle between two records, but not within one.
#[derive(Default)]
pub(super) struct RecordEnds {
    /// The first byte that was ever received.
    first: Option<u8>,
    /// How many bytes of the present record's header have arrived; 0 once all have.
    header: usize,
    length: usize,
    /// Bytes of the present record still to come.
    rest: usize,
}

impl RecordEnds {
    const HEADER: usize = 5;

    pub(super) fn is_within(&self) -> bool {
        self.header > 0 || self.rest > 0
    }

    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        if self.first.is_none() {
            self.first = bytes.first().copied();
        }
        loop {
            let skipped = self.rest.min(bytes.len());
            self.rest -= skipped;
            let Some((byte, after)) = bytes.get(skipped..).and_then(<[u8]>::split_first) else {
                return;
            };
            bytes = after;
            // The last two bytes of the header are the length.
            self.length = (self.length << 8 | usize::from(*byte)) & 0xffff;
            self.header += 1;
            if self.header == Self::HEADER {
                self.header = 0;
                self.rest = self.length;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_where_tls_records_end() {
        let one = [&[23, 3, 3, 1, 2][..], &[7; 258]].concat();
        let stream = [one.as_slice(), &[21, 3, 3, 0, 0], &one].concat();
        for step in [1, 2, 5, 6, 262, 263, 264, stream.len()] {
            let mut ends = RecordEnds::default();
            let mut seen = 0;
            for chunk in stream.chunks(step) {
                ends.follow(chunk);
                seen += chunk.len();
                let is_end = [one.len(), one.len() + 5, stream.len()].contains(&seen);
                assert_eq!(ends.is_within(), !is_end, "{seen} by {step}");
            }
            assert_eq!(ends.first, Some(23));
        }
    }
}
