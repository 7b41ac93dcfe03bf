//! Connects to the daemon with TLS: loads keys and certificates, and does the handshake.
//!
//! [`crate::settings`] names the files. `connection` provides a connected socket and uses the halves of the connection.
//! OpenSSL's objects are used and freed only inside the private library context of [`bindings::openssl_context`].

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bindings::openssl_context;
use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::ssl::{
    HandshakeError, Ssl, SslContext, SslContextBuilder, SslMethod, SslVerifyMode, SslVersion,
};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509CheckFlags;
use openssl::x509::{X509, X509StoreContextRef, X509VerifyResult};
use transport::halves::Halves;
use transport::psk::{PreSharedKey, lines};
use transport::tls::{
    LONGEST_FILE, LONGEST_FRAGMENT, PSK_SUITES, PSK_SUITES13, Pipe, SECURITY_LEVEL, into_io_error,
    offer, settle,
};
use transport::{Deadline, TimedSocket};
use zeroize::Zeroizing;

use crate::certificate::{Certificate, Unverified};
use crate::failure::Failure;
use crate::files;
use crate::settings::{Credentials, Source, TlsSettings};

/// The cipher suites for TLS 1.2; all have forward secrecy.
const SUITES: &str = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:ECDHE+AES:DHE+AES:\
    !aNULL:!eNULL:!PSK:!SRP:!aDSS";

/// Why a TLS connection could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("{0}: {1}")]
    File(Source, io::Error),
    #[error("{0}: {1}")]
    Content(Source, &'static str),
    #[error("{0}: {1}")]
    Refused(Source, ErrorStack),
    #[error("{0} does not belong to the certificate {1}")]
    Mismatch(Source, Source),
    #[error("the server's certificate: {0}")]
    Unverified(Box<Unverified>),
    #[error("the server's certificate: the server sent no certificate")]
    NoCertificate,
    #[error("the server's certificate is not in {0} ({1})")]
    NotPinned(Source, Box<Certificate>),
    #[error("the TLS handshake took too long")]
    TooSlow,
    #[error("TLS handshake: {0}")]
    Handshake(String),
    #[error("OpenSSL: {0}")]
    OpenSsl(#[from] ErrorStack),
    #[error("{0}")]
    Transport(#[from] io::Error),
}

/// Runs code that uses OpenSSL's objects inside the private context in which they were made.
fn in_our_context(work: &mut dyn FnMut()) -> io::Result<()> {
    let _entered = openssl_context::enter()?;
    work();
    Ok(())
}

/// A connection after the handshake.
pub(crate) struct Secured {
    pub halves: Halves,
    /// The version of TLS. `suite` is the cipher suite.
    pub version: &'static str,
    pub suite: &'static str,
    /// The server's certificate; none with a pre-shared key.
    pub server: Option<Certificate>,
}

/// Does the handshake on a connected socket; afterwards both sides are authenticated. Offers `protocols` (ALPN).
pub(crate) fn connect(
    socket: TimedSocket,
    settings: &TlsSettings,
    protocols: &[&[u8]],
    deadline: Deadline,
) -> Result<Secured, TlsError> {
    let _entered = openssl_context::enter()?;
    // Removes the application's old errors, which would be taken for ours.
    drop(ErrorStack::get());
    let refused = Arc::new(Mutex::new(None));
    let context = context(settings, protocols, refused.clone(), deadline)?;
    let mut ssl = Ssl::new(&context)?;
    // The TLS defaults of the application's openssl.cnf apply too; this never lowers its security level.
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
    let pipe = Pipe::new(socket, deadline);
    let connected = ssl.connect(pipe);
    let stream = connected.map_err(|error| handshake_error(error, &refused))?;
    let ssl = stream.ssl();
    let peer = ssl.peer_certificate();
    // With a pre-shared key there is no certificate, so neither its name nor the certificate itself can match.
    if peer.is_none() && (settings.name.is_some() || settings.pinned.is_some()) {
        return Err(TlsError::NoCertificate);
    }
    if let (Some(source), Some(peer)) = (&settings.pinned, &peer) {
        let der = peer.to_der()?;
        let known = certificates(source, deadline)?;
        if !known
            .iter()
            .any(|known| known.to_der().is_ok_and(|known| known == der))
        {
            return Err(TlsError::NotPinned(
                source.clone(),
                Box::new(Certificate::of(peer)),
            ));
        }
    }
    let suite = ssl.current_cipher().map_or("", |suite| suite.name());
    let version = ssl.version_str();
    log::debug!("{version} with {suite}");
    let server = peer.as_deref().map(Certificate::of);
    drop(ErrorStack::get());
    Ok(Secured {
        halves: Halves::tls(stream, LONGEST_FRAGMENT, in_our_context)?,
        version,
        suite,
        server,
    })
}

/// Makes a callback that stores why a certificate is not accepted. It never changes OpenSSL's verdict.
fn explaining(
    refused: Arc<Mutex<Option<Unverified>>>,
) -> impl Fn(bool, &mut X509StoreContextRef) -> bool + Send + Sync + 'static {
    move |is_good, context| {
        if !is_good {
            let chain = context.chain();
            let server = chain.and_then(|chain| chain.get(0));
            let issuer = context.current_cert().filter(|_| context.error_depth() > 0);
            let unverified = Unverified {
                verdict: context.error(),
                server: server.map(Certificate::of),
                issuer: issuer.map(Certificate::of),
            };
            *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(unverified);
        }
        is_good
    }
}

/// Builds the TLS context. The reason why a certificate is not accepted is stored in `refused`.
fn context(
    settings: &TlsSettings,
    protocols: &[&[u8]],
    refused: Arc<Mutex<Option<Unverified>>>,
    deadline: Deadline,
) -> Result<SslContext, TlsError> {
    let mut context = SslContextBuilder::new(SslMethod::tls_client())?;
    context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    context.set_max_proto_version(None)?;
    settle(&mut context);
    context.set_alpn_protos(&offer(protocols))?;
    // Also with a pre-shared key, so that a server that shows a certificate instead is not trusted.
    //
    // The callback is set on the context, not on the connection. OpenSSL numbers the data attached to either of them
    // for each library context, but the crate uses one number for all library contexts. So nothing else may be attached
    // to a connection.
    context.set_verify_callback(SslVerifyMode::PEER, explaining(refused));
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
            for trusted in certificates(authority, deadline)? {
                store.add_cert(trusted).map_err(refused(authority))?;
            }
            let mut chain = certificates(certificate, deadline)?.into_iter();
            if let Some(own) = chain.next() {
                let private = private_key(key, deadline)?;
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
            let PreSharedKey { identity, key } = pre_shared_key(source, deadline)?;
            context.set_psk_client_callback(move |_, _, identity_space, key_space| {
                let rooms = identity_space
                    .get_mut(..=identity.len())
                    .and_then(<[u8]>::split_last_mut)
                    .zip(key_space.get_mut(..key.len()));
                Ok(rooms.map_or(0, |((end, identity_room), key_room)| {
                    identity_room.copy_from_slice(&identity);
                    *end = 0;
                    key_room.copy_from_slice(&key);
                    key.len()
                }))
            });
        }
    }
    context.set_cert_store(store.build());
    Ok(context.build())
}

fn read(source: &Source, deadline: Deadline) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let path = match source {
        Source::BuiltIn(text) => return Ok(Zeroizing::new(text.as_bytes().to_vec())),
        Source::File(path) => path,
    };
    let read = files::read(path, LONGEST_FILE, deadline);
    read.map_err(|error| TlsError::File(source.clone(), error))
}

fn certificates(source: &Source, deadline: Deadline) -> Result<Vec<X509>, TlsError> {
    let found = X509::stack_from_pem(&read(source, deadline)?);
    let found = found.map_err(|error| TlsError::Refused(source.clone(), error))?;
    if found.is_empty() {
        return Err(TlsError::Content(
            source.clone(),
            "contains no certificate in PEM",
        ));
    }
    Ok(found)
}

/// Reads a private key. Never asks for a password.
fn private_key(
    source: &Source,
    deadline: Deadline,
) -> Result<PKey<openssl::pkey::Private>, TlsError> {
    let mut asked = false;
    let key = PKey::private_key_from_pem_callback(&read(source, deadline)?, |_| {
        asked = true;
        Err(ErrorStack::get())
    });
    key.map_err(|_| {
        let what = if asked {
            "is encrypted"
        } else {
            "contains no private key in PEM"
        };
        TlsError::Content(source.clone(), what)
    })
}

/// Reads a file with one line, `identity:key in hexadecimal`.
fn pre_shared_key(source: &Source, deadline: Deadline) -> Result<PreSharedKey, TlsError> {
    let text = read(source, deadline)?;
    let line = lines(&text).next().map(|(_, line)| line);
    let key = line.and_then(|line| PreSharedKey::parse(line).ok());
    key.ok_or_else(|| {
        TlsError::Content(
            source.clone(),
            "expected one line, identity:key in hexadecimal",
        )
    })
}

fn handshake_error(error: HandshakeError<Pipe>, refused: &Mutex<Option<Unverified>>) -> TlsError {
    let stream = match error {
        HandshakeError::SetupFailure(error) => return TlsError::OpenSsl(error),
        HandshakeError::Failure(stream) | HandshakeError::WouldBlock(stream) => stream,
    };
    let verified = stream.ssl().verify_result();
    if verified != X509VerifyResult::OK {
        let refused = refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        return TlsError::Unverified(Box::new(refused.unwrap_or(Unverified {
            verdict: verified,
            server: None,
            issuer: None,
        })));
    }
    match Failure::from(into_io_error(stream.into_error())) {
        Failure::Timeout => TlsError::TooSlow,
        Failure::Closed => TlsError::Handshake("the daemon closed the connection".into()),
        other => TlsError::Handshake(other.to_string()),
    }
}
