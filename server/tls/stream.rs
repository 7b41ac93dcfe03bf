//! Carries records of the protocol to and from a client over TLS, within the daemon's time limits.
//!
//! [`super::acceptor`] makes the connection; [`crate::connection`] reads and writes it. The stream that
//! OpenSSL works on is shared with the client library (`transport::tls`); here is what is the daemon's
//! own: a client may idle between two records, but not within one.

use std::io;
use std::time::Duration;

use openssl::error::ErrorStack;
use socket2::Socket;
use transport::tls::{Channel, StreamError, TlsStream};
use xdr::codec::Slices;

use crate::connection::{Timed, Transport};

/// The socket below a client's TLS.
pub struct Below {
    socket: Timed,
    /// Whether the time limit runs although no TLS record has begun: within a handshake, or within
    /// a record of the protocol.
    is_urgent: bool,
    incoming: RecordEnds,
}

impl Below {
    /// A socket at the start of a handshake, which has this much time.
    pub fn new(socket: Socket, handshake_time: Duration) -> Below {
        Below {
            socket: Timed::new(socket, handshake_time),
            is_urgent: true,
            incoming: RecordEnds::default(),
        }
    }

    /// Whether what came first cannot be the beginning of a handshake.
    pub fn met_no_tls(&self) -> bool {
        self.incoming.first.is_some_and(|first| first != HANDSHAKE)
    }

    /// Whether nothing came at all.
    pub fn met_nothing(&self) -> bool {
        self.incoming.first.is_none()
    }

    /// The handshake is over: from here on each record has this much time.
    pub fn established(&mut self, record_time: Duration) -> io::Result<()> {
        self.is_urgent = false;
        self.socket.rest()?;
        self.socket.set_time(record_time);
        Ok(())
    }
}

impl Channel for Below {
    fn receive(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let is_limited = self.is_urgent || self.incoming.is_within();
        if !is_limited {
            // Also after a TLS record that was no part of a call, such as a key update.
            self.socket.rest()?;
        }
        let count = self.socket.read(space, is_limited)?;
        self.incoming.follow(space.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn send_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send_all(bytes)
    }
}

/// The content type of handshake records.
const HANDSHAKE: u8 = 22;

/// Where TLS records end in what was received: between two, a client may idle; within one it may not.
#[derive(Default)]
struct RecordEnds {
    /// The first byte of all.
    first: Option<u8>,
    /// Bytes of the present record's header that came, as far as they are not all there.
    header: usize,
    length: usize,
    /// Bytes of the present record still to come.
    rest: usize,
}

impl RecordEnds {
    const HEADER: usize = 5;

    fn is_within(&self) -> bool {
        self.header > 0 || self.rest > 0
    }

    fn follow(&mut self, mut bytes: &[u8]) {
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

impl Transport for TlsStream<Below> {
    fn read(&mut self, space: &mut [u8], is_begun: bool) -> io::Result<usize> {
        self.channel_mut().is_urgent = is_begun;
        forget_errors();
        self.receive(space).map_err(plain)
    }

    fn rest(&mut self) -> io::Result<()> {
        self.channel_mut().socket.rest()
    }

    fn send(&mut self, mut slices: Slices<'_>) -> io::Result<()> {
        forget_errors();
        self.send_record(&mut slices).map_err(plain)
    }
}

/// A module that uses OpenSSL leaves errors of its own, which would be taken for the connection's.
fn forget_errors() {
    drop(ErrorStack::get());
}

/// The error of the connection below, or what OpenSSL has to say, in short.
pub fn plain(error: StreamError) -> io::Error {
    match error {
        StreamError::Socket(error) => error,
        StreamError::Tls(error) => io::Error::other(reason(&error)),
    }
}

/// What OpenSSL has to say, without its source files and lines.
pub fn reason(error: &openssl::ssl::Error) -> String {
    let first = error
        .ssl_error()
        .and_then(|stack| stack.errors().first()?.reason());
    first.map_or_else(|| error.to_string(), |reason| format!("TLS: {reason}"))
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

    /// Such as the two halves of a key update.
    #[test]
    fn a_client_may_idle_after_a_tls_record_that_came_in_pieces() {
        let (ours, peer) =
            Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let mut below = Below::new(ours, Duration::from_secs(10));
        below.established(Duration::from_millis(50)).unwrap();
        for part in [&[22, 3, 3][..], &[0, 1, 9]] {
            peer.send(part).unwrap();
            assert_eq!(below.receive(&mut [0; 8]).unwrap(), 3);
        }
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            peer.send(&[22, 3]).unwrap();
            peer
        });
        assert_eq!(below.receive(&mut [0; 8]).unwrap(), 2);
        let _peer = late.join().unwrap();
        let error = below.receive(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
