//! Provides the parts of TLS that client and daemon share: names, cipher suites, settings, and the connection.
//!
//! OpenSSL reads and writes memory of ours ([`Pipe`]) once the handshake is over, and [`crate::halves`] moves the bytes
//! to and from the socket. One call needs one read and one write of the socket, as without TLS.

pub(crate) mod halves;
mod pipe;

use std::io;

use openssl::ssl::{Error, SslContextBuilder, SslMode, SslOptions, SslSessionCacheMode};

pub use halves::{Surroundings, default_context};
pub use pipe::Pipe;

/// The names of the protocol's versions for ALPN (RFC 7301), newest first. The client offers those that it may speak,
/// and thereby says that it reads TLS records of any size; the daemon selects the newest that it may speak. The
/// original's client and daemon do not use ALPN.
pub const PROTOCOLS: [&[u8]; 2] = [b"pkcs11-rpc/4", PROTOCOL3];

/// The name of version 3.
pub const PROTOCOL3: &[u8] = b"pkcs11-rpc/3";

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

/// SSL_OP_CLEANSE_PLAINTEXT, which the crate does not name: PINs, keys and plaintext that OpenSSL
/// decrypted do not stay in its buffers.
const CLEANSE_PLAINTEXT: SslOptions = SslOptions::from_bits_retain(1 << 1);

/// Applies the settings that no option changes, for client and daemon alike.
pub fn settle(context: &mut SslContextBuilder) {
    context.set_options(
        SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_COMPRESSION
            | SslOptions::NO_TICKET
            | CLEANSE_PLAINTEXT
            // The protocol's own lengths tell whether a record was cut off.
            | SslOptions::IGNORE_UNEXPECTED_EOF,
    );
    // In the daemon, each connection has its own process, so no session could be resumed.
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    // `Pipe` reads ahead instead: bytes in OpenSSL's own buffer could not be seen from outside.
    context.set_read_ahead(false);
    // Sends only the certificates in the configured file, without completing the chain from the trusted ones.
    context.set_mode(SslMode::NO_AUTO_CHAIN);
}

/// Selects the protocol to speak: the first of `spoken`, which is in the order of preference, that the client offers.
/// `offered` is the list that ALPN carries: each name behind its length.
pub fn select<'o>(offered: &'o [u8], spoken: &[&[u8]]) -> Option<&'o [u8]> {
    let find = |wanted: &&[u8]| {
        let mut rest = offered;
        while let Some((length, behind)) = rest.split_first() {
            let (name, behind) = behind.split_at_checked(usize::from(*length))?;
            if name == *wanted {
                return Some(name);
            }
            rest = behind;
        }
        None
    };
    spoken.iter().find_map(find)
}

/// Returns the list that ALPN carries for these protocols: each name behind its length.
pub fn offer(protocols: &[&[u8]]) -> Vec<u8> {
    let named = |name: &&[u8]| {
        let length = u8::try_from(name.len()).unwrap_or_default();
        [&[length], *name].concat()
    };
    protocols.iter().flat_map(named).collect()
}

/// Returns the reason that OpenSSL gives, without its source files and lines; `None` if it gives none.
pub fn reason(error: &Error) -> Option<&'static str> {
    let errors = error.ssl_error()?.errors();
    errors.iter().find_map(|error| error.reason())
}

/// Returns the error of the connection below, or OpenSSL's reason in short.
pub fn into_io_error(error: Error) -> io::Error {
    match error.into_io_error() {
        Ok(error) => error,
        Err(error) => match reason(&error) {
            Some(reason) => io::Error::other(format!("TLS: {reason}")),
            None if error.ssl_error().is_some() => io::Error::other("TLS failed"),
            None => io::ErrorKind::UnexpectedEof.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_selects_the_newest_protocol_that_both_speak() {
        let [four, three] = PROTOCOLS;
        let all = offer(&[b"h2", three, four]);
        assert_eq!(all, b"\x02h2\x0cpkcs11-rpc/3\x0cpkcs11-rpc/4");
        assert_eq!(select(&all, &PROTOCOLS), Some(four));
        assert_eq!(select(&all, &[PROTOCOL3]), Some(three));
        assert_eq!(select(&offer(&[three]), &PROTOCOLS), Some(three));
        assert_eq!(select(&offer(&[b"h2"]), &PROTOCOLS), None);
        // Cut off within a name, and a name that is only the beginning of one.
        assert_eq!(select(&all[..all.len() - 1], &[four]), None);
        assert_eq!(select(b"\x0bpkcs11-rpc/", &PROTOCOLS), None);
        assert_eq!(select(b"", &PROTOCOLS), None);
    }
}
