//! Defines the TLS settings of a service: its credentials, its cipher suites and who may connect.
//!
//! `config` makes them from pkcs11proxyd.conf. They name files, with their places in the configuration file.
//! [`builder`] reads those files at start and at each reload, and [`acceptor`] does the handshake. [`priority`] parses
//! GnuTLS priority strings. This module depends on nothing in `config`.

pub mod acceptor;
pub mod builder;
pub mod priority;
pub mod psk;

use std::fmt;
use std::path::PathBuf;

use config_file::{At, Place};
use zeroize::Zeroizing;

use priority::Priority;

/// The TLS settings of a service.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// Where the settings stand in the configuration file.
    pub place: Place,
    /// Versions, suites and groups.
    pub suites: Suites,
    /// How both sides authenticate themselves.
    pub credentials: Credentials,
    /// The group for DHE cipher suites.
    pub dh: DhConfig,
    /// `allowed_clients_cert_path`: a directory with the certificates of the clients that may connect, which is read
    /// again for each client. Default: every client whose certificate verifies may connect.
    pub allowed: Option<PathBuf>,
}

/// Versions, suites and groups.
#[derive(Clone, Debug)]
pub enum Suites {
    /// `tls.algorithms`, a GnuTLS priority string. Default TLS 1.2 and 1.3 with what `NORMAL` has.
    Priority(Priority),
    /// `cipher_suite`, an OpenSSL list, and `ec_curve_name`: TLS 1.2 only.
    List {
        /// The list of cipher suites.
        list: At<String>,
        /// The only curve.
        curve: Option<At<String>>,
    },
}

/// How both sides authenticate themselves.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// `tls.x509`: certificates on both sides.
    Certificates {
        /// `key`, repeatable.
        keys: Vec<KeyConfig>,
        /// `trust.crt_file`, repeatable: the authorities of client certificates.
        trust: Vec<At<PathBuf>>,
        /// `revoke.crl_file`, repeatable: the revocation lists of these authorities.
        revoke: Vec<At<PathBuf>>,
        /// `verify_depth` of the older keys.
        depth: Option<u32>,
        /// `peer_auth`.
        clients: ClientAuth,
    },
    /// `tls.psk_file`: identities and keys that both sides know.
    Psk(At<PathBuf>),
}

/// `tls.peer_auth`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientAuth {
    /// `required`, `optional` (the same, as in the original), or not given.
    Required,
    /// `none`: as in the original, no client can connect.
    NobodyConnects,
}

/// One `tls.x509.key` section.
#[derive(Clone, Debug)]
pub struct KeyConfig {
    /// `crt_file`: the certificate, and the intermediate certificates.
    pub certificate: At<PathBuf>,
    /// `key_file`.
    pub key: At<PathBuf>,
    /// `password` or `password_file`, if the key is encrypted.
    pub password: Option<Password>,
}

/// The password of an encrypted key.
#[derive(Clone)]
pub enum Password {
    /// `password`.
    Text(Zeroizing<String>),
    /// `password_file`: its first line.
    File(At<PathBuf>),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// `tls.dh_params`, or `dh_params` of the older keys.
#[derive(Clone, Debug)]
pub enum DhConfig {
    /// `bits`: one of the groups of RFC 3526 with at least as many. Default 3072.
    Bits(i64),
    /// `pkcs3_file`.
    File(At<PathBuf>),
}

/// The size of the group for DHE in bits, if the configuration names none.
pub const DEFAULT_DH_BITS: i64 = 3072;
