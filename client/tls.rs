//! TLS to the daemon: what it is told and proves, the handshake, and records in TLS records.
//!
//! [`crate::settings`] says which files; `connection` brings a connected socket and calls. All use of
//! OpenSSL is inside of the private library context of [`crate::abi::libcrypto`], freeing included.
//! Without an orderly end ([`Stream::close`]) OpenSSL's objects are left in memory: at exit OpenSSL
//! may have cleaned up already, and in a forked child they are the parent's.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::ssl::{
    ErrorCode, HandshakeError, Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions,
    SslSessionCacheMode, SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509CheckFlags;
use openssl::x509::{X509, X509VerifyResult};
use xdr::codec::Slices;
use zeroize::{Zeroize, Zeroizing};

use crate::abi::libcrypto;
use crate::connection::{Deadline, Failure, Socket};
use crate::settings::{Credentials, Source, TlsSettings};

/// The protocol, for ALPN. The daemon takes it as a promise that TLS records of any size are read;
/// the original's does not look at it.
const PROTOCOL: &[u8] = b"\x0cpkcs11-rpc/3";

/// Forward secrecy always.
const SUITES: &str = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:ECDHE+AES:DHE+AES:\
    !aNULL:!eNULL:!PSK:!SRP:!aDSS";

const PSK_SUITES: &str = "ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES256-GCM-SHA384:\
    DHE-PSK-AES128-GCM-SHA256:ECDHE-PSK-AES256-CBC-SHA384:ECDHE-PSK-AES128-CBC-SHA256";

/// Those with the hash that a pre-shared key is bound to.
const PSK_SUITES13: &str = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256";

/// OpenSSL's for 112 bits: RSA 2048, SHA-224.
const SECURITY_LEVEL: u32 = 2;

/// The most plaintext a TLS record holds.
const LONGEST_FRAGMENT: usize = 16384;

/// Bytes of TLS records that are collected for one write, about.
const COLLECTED: usize = 64 << 10;

/// How long the last message may take.
const FAREWELL: Duration = Duration::from_millis(200);

/// The longest file that is read.
const LONGEST_FILE: u64 = 16 << 20;

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("{0}: {1}")]
    File(Source, io::Error),
    #[error("{0}: {1}")]
    Content(Source, &'static str),
    #[error("{0}: {1}")]
    Refused(Source, ErrorStack),
    #[error("{0} is not the key of the certificate {1}")]
    Mismatch(Source, Source),
    #[error("the server's certificate: {0}")]
    Server(&'static str),
    #[error("the server's certificate is none of those in {0}")]
    NotPinned(Source),
    #[error("TLS handshake not complete in time")]
    TooSlow,
    #[error("TLS handshake: {0}")]
    Handshake(String),
    #[error("OpenSSL: {0}")]
    OpenSsl(#[from] ErrorStack),
    #[error("{0}")]
    Transport(#[from] io::Error),
}

/// A connection after the handshake.
pub(crate) struct Stream {
    /// `None` after the end.
    stream: Option<SslStream<Pipe>>,
    piece: Vec<u8>,
}

/// What OpenSSL takes for the network.
struct Pipe {
    /// `None` when it was taken out because OpenSSL's objects are left behind.
    socket: Option<Socket>,
    deadline: Deadline,
    /// TLS records on their way; `None` when each is sent as it comes.
    collected: Option<Vec<u8>>,
}

impl Stream {
    /// Shakes hands on a connected socket; both sides have proved who they are afterwards.
    pub fn connect(
        socket: Socket,
        settings: &TlsSettings,
        deadline: Deadline,
    ) -> Result<Stream, TlsError> {
        let _entered = libcrypto::enter()?;
        // The application's, which would be taken for ours.
        drop(ErrorStack::get());
        let context = context(settings)?;
        let mut ssl = Ssl::new(&context)?;
        // TLS defaults of the application's openssl.cnf reach it, too: not to weaken it.
        let level = ssl.security_level().max(SECURITY_LEVEL);
        ssl.set_security_level(level);
        if let Some(name) = &settings.name {
            ssl.param_mut()
                .set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
            match name.parse::<IpAddr>() {
                Ok(address) => ssl.param_mut().set_ip(address)?,
                Err(_) => ssl.param_mut().set_host(name)?,
            }
        }
        let pipe = Pipe {
            socket: Some(socket),
            deadline,
            collected: None,
        };
        let stream = ssl.connect(pipe).map_err(handshake_error)?;
        let ssl = stream.ssl();
        let peer = ssl.peer_certificate();
        // With a pre-shared key: neither its name nor itself could be what is asked for.
        if peer.is_none() && (settings.name.is_some() || settings.pinned.is_some()) {
            return Err(TlsError::Server("there is none"));
        }
        if let (Some(source), Some(peer)) = (&settings.pinned, peer) {
            let peer = peer.to_der()?;
            let known = certificates(source)?;
            if !known
                .iter()
                .any(|known| known.to_der().is_ok_and(|der| der == peer))
            {
                return Err(TlsError::NotPinned(source.clone()));
            }
        }
        let suite = ssl.current_cipher().map_or("", |suite| suite.name());
        log::debug!("{} with {suite}", ssl.version_str());
        drop(ErrorStack::get());
        Ok(Stream {
            stream: Some(stream),
            piece: Vec::new(),
        })
    }

    pub fn send(&mut self, record: &mut Slices<'_>, deadline: Deadline) -> Result<(), Failure> {
        let _entered = libcrypto::enter()?;
        let stream = self.stream.as_mut().ok_or(Failure::Closed)?;
        let pipe = stream.get_mut();
        pipe.deadline = deadline;
        if record.len() > LONGEST_FRAGMENT {
            pipe.collected.get_or_insert_default();
        }
        let sent = send_pieces(stream, record, &mut self.piece);
        self.piece.as_mut_slice().zeroize(); // PINs and attribute values were copied here
        self.piece.clear();
        sent
    }

    /// 0 when the daemon closed the connection.
    pub fn receive(&mut self, space: &mut [u8], deadline: Deadline) -> Result<usize, Failure> {
        let _entered = libcrypto::enter()?;
        let stream = self.stream.as_mut().ok_or(Failure::Closed)?;
        stream.get_mut().deadline = deadline;
        loop {
            match stream.ssl_read(space) {
                Ok(count) => return Ok(count),
                Err(error) => match error.code() {
                    ErrorCode::ZERO_RETURN => return Ok(0),
                    ErrorCode::WANT_READ | ErrorCode::WANT_WRITE if error.io_error().is_none() => {}
                    _ => return Err(failure(error)),
                },
            }
        }
    }

    /// The end, in the process that connected: tells the daemon, if the connection is sound and
    /// there is room for it, and frees what OpenSSL holds. In another process it does nothing.
    pub fn close(&mut self, is_sound: bool) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let Ok(_entered) = libcrypto::enter() else {
            return;
        };
        let pipe = stream.get_mut();
        if !pipe.socket.as_ref().is_some_and(Socket::is_ours) {
            return;
        }
        if is_sound {
            pipe.deadline = Deadline::after(FAREWELL);
            // The daemon may be gone already.
            let _ = stream.shutdown();
        }
        if let Some(socket) = &stream.get_ref().socket {
            socket.shut_down();
        }
        self.stream = None;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            // The socket's own drop closes the descriptor, if it is this process's.
            drop(stream.get_mut().socket.take());
            std::mem::forget(stream);
        }
    }
}

fn send_pieces(
    stream: &mut SslStream<Pipe>,
    record: &mut Slices<'_>,
    buffer: &mut Vec<u8>,
) -> Result<(), Failure> {
    while !record.is_sent() {
        let piece = record.piece(LONGEST_FRAGMENT, buffer);
        let sent = stream.ssl_write(piece).map_err(failure)?;
        record.advance(sent);
    }
    let pipe = stream.get_mut();
    pipe.send_collected()?;
    pipe.collected = None;
    Ok(())
}

impl Read for Pipe {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let deadline = self.deadline;
        Ok(self.socket()?.receive(space, deadline)?)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.collected {
            None => self.send(bytes)?,
            Some(collected) => {
                collected.extend_from_slice(bytes);
                if collected.len() >= COLLECTED {
                    self.send_collected()?;
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Pipe {
    fn socket(&mut self) -> io::Result<&mut Socket> {
        self.socket
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let deadline = self.deadline;
        while !bytes.is_empty() {
            let sent = self.socket()?.send(&[io::IoSlice::new(bytes)], deadline)?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    fn send_collected(&mut self) -> io::Result<()> {
        if let Some(collected) = self.collected.take() {
            self.send(&collected)?;
            self.collected = Some(collected);
            self.collected.as_mut().into_iter().for_each(Vec::clear);
        }
        Ok(())
    }
}

/// SSL_OP_CLEANSE_PLAINTEXT, which the crate does not name: keys and plaintext that OpenSSL decrypted
/// do not stay in its buffer.
const CLEANSE_PLAINTEXT: SslOptions = SslOptions::from_bits_retain(1 << 1);

fn context(settings: &TlsSettings) -> Result<SslContext, TlsError> {
    let mut context = SslContextBuilder::new(SslMethod::tls_client())?;
    context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    context.set_max_proto_version(None)?;
    context.set_options(
        SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_COMPRESSION
            | SslOptions::NO_TICKET
            | CLEANSE_PLAINTEXT
            // The protocol's own lengths tell whether a record was cut off.
            | SslOptions::IGNORE_UNEXPECTED_EOF,
    );
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_read_ahead(true);
    // Sends what the certificate's file holds, not what else leads to the server's authority.
    context.set_mode(SslMode::NO_AUTO_CHAIN);
    context.set_alpn_protos(PROTOCOL)?;
    // Also with a pre-shared key: a server that shows a certificate instead is not trusted.
    context.set_verify(SslVerifyMode::PEER);
    let mut store = X509StoreBuilder::new()?;
    match &settings.credentials {
        Credentials::Certificates {
            authority,
            certificate,
            key,
        } => {
            context.set_cipher_list(SUITES)?;
            let refused = |source: &Source| {
                let source = source.clone();
                move |error| TlsError::Refused(source, error)
            };
            for trusted in certificates(authority)? {
                store.add_cert(trusted).map_err(refused(authority))?;
            }
            let mut chain = certificates(certificate)?.into_iter();
            if let Some(own) = chain.next() {
                let private = private_key(key)?;
                if !own.public_key()?.public_eq(&private) {
                    return Err(TlsError::Mismatch(key.clone(), certificate.clone()));
                }
                context
                    .set_certificate(&own)
                    .map_err(refused(certificate))?;
                context.set_private_key(&private).map_err(refused(key))?;
            }
            for issuer in chain {
                context
                    .add_extra_chain_cert(issuer)
                    .map_err(refused(certificate))?;
            }
        }
        Credentials::Psk(source) => {
            context.set_cipher_list(PSK_SUITES)?;
            context.set_ciphersuites(PSK_SUITES13)?;
            let (identity, key) = pre_shared_key(source)?;
            context.set_psk_client_callback(move |_, _, identity_space, key_space| {
                let rooms = identity_space
                    .get_mut(..=identity.len())
                    .zip(key_space.get_mut(..key.len()));
                Ok(rooms.map_or(0, |(identity_room, key_room)| {
                    identity_room[..identity.len()].copy_from_slice(&identity);
                    identity_room[identity.len()] = 0;
                    key_room.copy_from_slice(&key);
                    key.len()
                }))
            });
        }
    }
    context.set_cert_store(store.build());
    Ok(context.build())
}

fn read(source: &Source) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let path = match source {
        Source::BuiltIn(text) => return Ok(Zeroizing::new(text.as_bytes().to_vec())),
        Source::File(path) => path,
    };
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path)
        .and_then(|file| file.take(LONGEST_FILE).read_to_end(&mut bytes))
        .map_err(|error| TlsError::File(source.clone(), error))?;
    Ok(bytes)
}

fn certificates(source: &Source) -> Result<Vec<X509>, TlsError> {
    let found = X509::stack_from_pem(&read(source)?);
    let found = found.map_err(|error| TlsError::Refused(source.clone(), error))?;
    if found.is_empty() {
        return Err(TlsError::Content(
            source.clone(),
            "holds no certificate in PEM",
        ));
    }
    Ok(found)
}

/// Never asks for a password.
fn private_key(source: &Source) -> Result<PKey<openssl::pkey::Private>, TlsError> {
    let mut asked = false;
    let key = PKey::private_key_from_pem_callback(&read(source)?, |_| {
        asked = true;
        Err(ErrorStack::get())
    });
    key.map_err(|_| {
        let what = if asked {
            "is encrypted"
        } else {
            "holds no private key in PEM"
        };
        TlsError::Content(source.clone(), what)
    })
}

/// One line, `identity:key in hexadecimal`.
fn pre_shared_key(source: &Source) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), TlsError> {
    let wrong = || {
        TlsError::Content(
            source.clone(),
            "expected one line, identity:key in hexadecimal",
        )
    };
    let text = read(source)?;
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let line = lines
        .find(|line| !line.is_empty() && !line.starts_with(b"#"))
        .ok_or_else(wrong)?;
    let colon = line
        .iter()
        .rposition(|byte| *byte == b':')
        .ok_or_else(wrong)?;
    let (identity, digits) = (&line[..colon], &line[colon + 1..]);
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let pairs = digits.chunks(2);
    let key = pairs.map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    let key: Vec<u8> = key.collect::<Option<_>>().ok_or_else(wrong)?;
    if identity.is_empty() || identity.len() > 128 || !(16..=256).contains(&key.len()) {
        return Err(wrong());
    }
    Ok((identity.to_vec(), Zeroizing::new(key)))
}

fn handshake_error(error: HandshakeError<Pipe>) -> TlsError {
    let stream = match error {
        HandshakeError::SetupFailure(error) => return TlsError::OpenSsl(error),
        HandshakeError::Failure(stream) | HandshakeError::WouldBlock(stream) => stream,
    };
    let verified = stream.ssl().verify_result();
    if verified != X509VerifyResult::OK {
        return TlsError::Server(verified.error_string());
    }
    match failure(stream.into_error()) {
        Failure::Timeout => TlsError::TooSlow,
        Failure::Closed => TlsError::Handshake("the daemon closed the connection".into()),
        other => TlsError::Handshake(other.to_string()),
    }
}

/// The transport's own error, or what OpenSSL has to say, without its source files and lines.
fn failure(error: openssl::ssl::Error) -> Failure {
    let error = match error.into_io_error() {
        Ok(error) if error.kind() == io::ErrorKind::TimedOut => return Failure::Timeout,
        Ok(error) => return Failure::Socket(error),
        Err(error) => error,
    };
    let Some(stack) = error.ssl_error() else {
        return Failure::Closed;
    };
    let reason = stack.errors().iter().find_map(|error| error.reason());
    Failure::Socket(io::Error::other(reason.unwrap_or("TLS failed").to_owned()))
}
