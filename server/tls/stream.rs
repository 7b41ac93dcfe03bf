//! A client's TLS connection: records of the protocol in and out of TLS records.
//!
//! [`super::acceptor`] makes it; [`crate::connection`] reads and writes it. One read of the socket
//! and one write serve a call, as without TLS. OpenSSL sees a [`Pipe`], which keeps the time limits
//! and puts TLS records that belong together into one write.

use std::io::{self, Read, Write};
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::ssl::{ErrorCode, SslStream};
use socket2::Socket;
use xdr::codec::Slices;

use crate::connection::{Timed, Transport};

/// The most plaintext a TLS record holds.
pub const LONGEST_FRAGMENT: usize = 16384;

/// What the original's client can take in one TLS record: it waits for the socket although OpenSSL
/// holds the rest, when one has over 4000 bytes (spec/protocol.md 1.2).
pub const SHORT_FRAGMENT: usize = 3996;

/// Bytes of TLS records that are collected for one write, about.
const COLLECTED: usize = 64 << 10;

/// What OpenSSL takes for the network.
pub struct Pipe {
    socket: Timed,
    /// Whether the time limit runs although no TLS record has begun: within a handshake, or within
    /// a record of the protocol.
    is_urgent: bool,
    incoming: RecordEnds,
    /// TLS records on their way; `None` when each is written as it comes.
    collected: Option<Vec<u8>>,
}

impl Pipe {
    /// A socket at the start of a handshake, which has this much time.
    pub fn new(socket: Socket, handshake_time: Duration) -> io::Result<Pipe> {
        Ok(Pipe {
            socket: Timed::new(socket, handshake_time)?,
            is_urgent: true,
            incoming: RecordEnds::default(),
            collected: None,
        })
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
        self.socket.set_time(record_time)
    }

    fn write_collected(&mut self) -> io::Result<()> {
        if let Some(collected) = &mut self.collected {
            self.socket.send_all(collected)?;
            collected.clear();
        }
        Ok(())
    }
}

impl Read for Pipe {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let is_limited = self.is_urgent || self.incoming.is_within();
        if !is_limited {
            // Also after a TLS record that was no part of a call, such as a key update.
            self.socket.rest()?;
        }
        let count = self.socket.read(space, is_limited)?;
        self.incoming.follow(&space[..count]);
        Ok(count)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.collected {
            None => self.socket.send_all(bytes)?,
            Some(collected) => {
                collected.extend_from_slice(bytes);
                if collected.len() >= COLLECTED {
                    self.write_collected()?;
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
            let Some((byte, after)) = bytes[skipped..].split_first() else {
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

/// An established connection.
pub struct TlsStream {
    stream: SslStream<Pipe>,
    fragment: usize,
    piece: Vec<u8>,
}

impl TlsStream {
    /// `fragment` is the most plaintext that one TLS record may carry to this client.
    pub fn new(stream: SslStream<Pipe>, fragment: usize) -> TlsStream {
        TlsStream {
            stream,
            fragment,
            piece: Vec::new(),
        }
    }

    /// Tells the client that nothing more comes. It may be gone already.
    pub fn close(mut self) {
        let _ = self.stream.shutdown();
    }
}

impl Transport for TlsStream {
    fn read(&mut self, space: &mut [u8], is_begun: bool) -> io::Result<usize> {
        self.stream.get_mut().is_urgent = is_begun;
        forget_errors();
        loop {
            match self.stream.ssl_read(space) {
                Ok(count) => return Ok(count),
                Err(error) => match error.code() {
                    ErrorCode::ZERO_RETURN => return Ok(0),
                    // The client is gone without a word.
                    ErrorCode::SYSCALL if error.io_error().is_none() => return Ok(0),
                    ErrorCode::WANT_READ | ErrorCode::WANT_WRITE if error.io_error().is_none() => {}
                    _ => return Err(plain(error)),
                },
            }
        }
    }

    fn rest(&mut self) -> io::Result<()> {
        self.stream.get_mut().socket.rest()
    }

    fn send(&mut self, mut slices: Slices<'_>) -> io::Result<()> {
        if slices.len() > self.fragment {
            self.stream.get_mut().collected.get_or_insert_default();
        }
        forget_errors();
        while !slices.is_sent() {
            let piece = slices.piece(self.fragment, &mut self.piece);
            let sent = self.stream.ssl_write(piece).map_err(plain)?;
            slices.advance(sent);
        }
        let pipe = self.stream.get_mut();
        pipe.write_collected()?;
        pipe.collected = None;
        Ok(())
    }
}

/// A module that uses OpenSSL leaves errors of its own, which would be taken for the connection's.
fn forget_errors() {
    drop(ErrorStack::get());
}

/// The transport's own error, or what OpenSSL has to say, in short.
pub fn plain(error: openssl::ssl::Error) -> io::Error {
    error
        .into_io_error()
        .unwrap_or_else(|error| io::Error::other(reason(&error)))
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
        let mut pipe = Pipe::new(ours, Duration::from_secs(10)).unwrap();
        pipe.established(Duration::from_millis(50)).unwrap();
        for part in [&[22, 3, 3][..], &[0, 1, 9]] {
            peer.send(part).unwrap();
            assert_eq!(pipe.read(&mut [0; 8]).unwrap(), 3);
        }
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            peer.send(&[22, 3]).unwrap();
            peer
        });
        assert_eq!(pipe.read(&mut [0; 8]).unwrap(), 2);
        let _peer = late.join().unwrap();
        let error = pipe.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
