//! Holds the parts of TLS that both halves share: names, suites, settings, and the stream that OpenSSL
//! works on.
//!
//! One read of the socket and one write serve a call, as without TLS: OpenSSL reads ahead, and the TLS
//! records of one message are collected for one write.

use std::io::{self, Read, Write};

use openssl::ssl::{
    Error, ErrorCode, SslContextBuilder, SslMode, SslOptions, SslRef, SslSessionCacheMode,
    SslStream,
};
use xdr::codec::{Slices, wipe};

/// The protocol's name for ALPN (RFC 7301). The client offers it and thereby says that it reads TLS
/// records of any size; the daemon selects it. The original's halves know no ALPN.
pub const PROTOCOL: &[u8] = b"pkcs11-rpc/3";

/// Suites of TLS 1.2 with a pre-shared key and forward secrecy, for `SSL_CTX_set_cipher_list`.
pub const PSK_SUITES: &str = "ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES256-GCM-SHA384:\
    DHE-PSK-AES128-GCM-SHA256:ECDHE-PSK-AES256-CBC-SHA384:ECDHE-PSK-AES128-CBC-SHA256";

/// Suites of TLS 1.3 with a pre-shared key: those with the hash that the key is bound to.
pub const PSK_SUITES13: &str = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256";

/// OpenSSL's security level for 112 bits, the least that is accepted: RSA 2048, SHA-224.
pub const SECURITY_LEVEL: u32 = 2;

/// The most plaintext a TLS record holds (RFC 8446, section 5.1), in bytes.
pub const LONGEST_FRAGMENT: usize = 16384;

/// The most plaintext that the original's client can take in one TLS record, in bytes. With over 4000 it
/// waits for the socket although OpenSSL holds the rest.
pub const SHORT_FRAGMENT: usize = 3996;

/// The longest file of keys, certificates or revocation lists that is read, in bytes.
pub const LONGEST_FILE: u64 = 16 << 20;

/// How many bytes of TLS records are collected for one write, about.
const COLLECTED: usize = 64 << 10;

/// SSL_OP_CLEANSE_PLAINTEXT, which the crate does not name: PINs, keys and plaintext that OpenSSL
/// decrypted do not stay in its buffers.
const CLEANSE_PLAINTEXT: SslOptions = SslOptions::from_bits_retain(1 << 1);

/// Makes the settings that no option changes, in either half.
pub fn settle(context: &mut SslContextBuilder) {
    context.set_options(
        SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_COMPRESSION
            | SslOptions::NO_TICKET
            | CLEANSE_PLAINTEXT
            // The protocol's own lengths tell whether a record was cut off.
            | SslOptions::IGNORE_UNEXPECTED_EOF,
    );
    // Each connection has a process of its own at the daemon: no session could be found again.
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_read_ahead(true);
    // Sends what a certificate's file holds, not what else leads to a trusted authority.
    context.set_mode(SslMode::NO_AUTO_CHAIN);
}

/// A connection below TLS, with the time limits of its half.
pub trait Channel {
    /// Receives some bytes of TLS records; none when the peer closed the connection.
    fn receive(&mut self, space: &mut [u8]) -> io::Result<usize>;
    /// Sends all of these bytes.
    fn send_all(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// What OpenSSL takes for the network.
pub struct Pipe<C> {
    /// What is below.
    pub channel: C,
    /// TLS records on their way; `None` when each is written as it comes.
    collected: Option<Vec<u8>>,
}

impl<C: Channel> Pipe<C> {
    /// Writes each TLS record as it comes, as a handshake needs it.
    pub fn new(channel: C) -> Pipe<C> {
        Pipe {
            channel,
            collected: None,
        }
    }

    fn collect(&mut self) {
        self.collected.get_or_insert_default();
    }

    /// Writes what was collected, and collects no more.
    fn write_through(&mut self) -> io::Result<()> {
        match self.collected.take() {
            Some(collected) => self.channel.send_all(&collected),
            None => Ok(()),
        }
    }
}

impl<C: Channel> Read for Pipe<C> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.channel.receive(space)
    }
}

impl<C: Channel> Write for Pipe<C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.collected {
            None => self.channel.send_all(bytes)?,
            Some(collected) => {
                collected.extend_from_slice(bytes);
                if collected.len() >= COLLECTED {
                    self.channel.send_all(collected)?;
                    collected.clear();
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why a TLS connection failed.
#[derive(Debug)]
pub enum StreamError {
    /// The connection below.
    Socket(io::Error),
    /// TLS itself, or a peer that closed the connection without an end of TLS.
    Tls(Error),
}

impl From<Error> for StreamError {
    fn from(error: Error) -> StreamError {
        match error.into_io_error() {
            Ok(error) => StreamError::Socket(error),
            Err(error) => StreamError::Tls(error),
        }
    }
}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> StreamError {
        StreamError::Socket(error)
    }
}

/// An established TLS connection that carries records of the protocol.
pub struct TlsStream<C> {
    stream: SslStream<Pipe<C>>,
    fragment: usize,
    piece: Vec<u8>,
}

impl<C: Channel> TlsStream<C> {
    /// After the handshake. `fragment` is the most plaintext that one TLS record may carry to this
    /// peer, in bytes.
    pub fn new(stream: SslStream<Pipe<C>>, fragment: usize) -> TlsStream<C> {
        TlsStream {
            stream,
            fragment,
            piece: Vec::new(),
        }
    }

    /// What TLS knows of the connection.
    pub fn ssl(&self) -> &SslRef {
        self.stream.ssl()
    }

    /// What is below.
    pub fn channel(&self) -> &C {
        &self.stream.get_ref().channel
    }

    /// The same, to be changed.
    pub fn channel_mut(&mut self) -> &mut C {
        &mut self.stream.get_mut().channel
    }

    /// Tells the peer that nothing more comes. It may be gone already.
    pub fn shutdown(&mut self) {
        let _ = self.stream.shutdown();
    }

    /// Receives some plaintext; none when the peer closed the connection, with or without an end of
    /// TLS.
    pub fn receive(&mut self, space: &mut [u8]) -> Result<usize, StreamError> {
        loop {
            match self.stream.ssl_read(space) {
                Ok(count) => return Ok(count),
                Err(error) => match error.code() {
                    ErrorCode::ZERO_RETURN => return Ok(0),
                    ErrorCode::SYSCALL if error.io_error().is_none() => return Ok(0),
                    ErrorCode::WANT_READ | ErrorCode::WANT_WRITE if error.io_error().is_none() => {}
                    _ => return Err(error.into()),
                },
            }
        }
    }

    /// Sends a whole record of the protocol.
    pub fn send_record(&mut self, record: &mut Slices<'_>) -> Result<(), StreamError> {
        if record.len() > self.fragment {
            self.stream.get_mut().collect();
        }
        let sent = self.send_pieces(record);
        // PINs, keys and plaintext were copied here; what an earlier piece left lies behind a shorter last one.
        self.piece.resize(self.piece.capacity(), 0);
        wipe(&mut self.piece);
        self.piece.clear();
        sent
    }

    fn send_pieces(&mut self, record: &mut Slices<'_>) -> Result<(), StreamError> {
        while !record.is_sent() {
            let piece = record.piece(self.fragment, &mut self.piece);
            let sent = self.stream.ssl_write(piece)?;
            record.advance(sent);
        }
        Ok(self.stream.get_mut().write_through()?)
    }
}
