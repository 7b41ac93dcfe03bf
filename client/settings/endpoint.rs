//! Reads endpoints, and decides whether TLS is used with them.
//!
//! A library can be built for one transport ([`Built`]); it then uses that transport under any file name. Otherwise the
//! endpoint decides. If it does not say, TLS is used with TCP if TLS files are configured. A request for TLS, even by
//! the library's file name, leads to TLS or to an error, never to a plain connection.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::SettingsError;
use super::sources::Found;

/// The longest path a Unix socket address holds, in bytes.
const LONGEST_SOCKET_PATH: usize = 107;

/// The address of a daemon.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Endpoint {
    /// `host:port` or `[v6]:port`. The host is a name or an address.
    Tcp { host: String, port: u16 },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Endpoint::Tcp { host, port } => write!(f, "{host} port {port}"),
            Endpoint::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The transports for which a library is built.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Built {
    /// Any transport: libp11client.so.
    Any,
    /// Plain TCP only: libp11clienttcp.so.
    Tcp,
    /// Plain Unix sockets only: libp11clientunix.so.
    Unix,
    /// TLS only: libp11clienttcpssl.so.
    Tls,
}

/// Ensures that a misspelt transport does not make a library for all transports.
const _: () = assert!(
    match option_env!("P11CLIENT_TRANSPORT") {
        None => true,
        Some(transport) => matches!(transport.as_bytes(), b"" | b"tcp" | b"unix" | b"tcpssl"),
    },
    "P11CLIENT_TRANSPORT: expected tcp, unix or tcpssl"
);

impl Built {
    /// Returns the transport that `P11CLIENT_TRANSPORT` named at build time. If it named none, the file name of the
    /// library decides: a site may have installed it in place of one of the original's libraries.
    pub fn of(transport: Option<&str>, library: Option<&Path>) -> Built {
        let name = library.and_then(Path::file_name).unwrap_or_default();
        match transport {
            Some("tcp") => Built::Tcp,
            Some("unix") => Built::Unix,
            Some("tcpssl") => Built::Tls,
            _ if name.as_bytes().windows(3).any(|part| part == b"ssl") => Built::Tls,
            _ if name == OsStr::new("libp11clientunix.so") => Built::Unix,
            _ => Built::Any,
        }
    }

    /// Returns the endpoint to use if none is set, as in the original.
    pub fn default_endpoint(self) -> &'static str {
        match self {
            Built::Unix => "/var/run/pkcs11proxyd.socket",
            Built::Any | Built::Tcp | Built::Tls => "127.0.0.1:4444",
        }
    }
}

impl std::fmt::Display for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Built::Any => "every transport",
            Built::Tcp => "plain TCP",
            Built::Unix => "plain Unix sockets",
            Built::Tls => "TLS",
        })
    }
}

/// Why TLS is used or not, for the log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reason {
    Built,
    Endpoint,
    TlsFiles,
    NoTlsFiles,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Reason::Built => "this library's only transport",
            Reason::Endpoint => "as the endpoint says",
            Reason::TlsFiles => "as TLS files are set",
            Reason::NoTlsFiles => "as no TLS files are set",
        })
    }
}

/// An endpoint, with what was found out about its transport.
#[derive(Debug, PartialEq)]
pub(crate) struct Destination {
    pub endpoint: Endpoint,
    pub is_tls: bool,
    pub reason: Reason,
}

/// The prefix of an endpoint.
#[derive(Clone, Copy, PartialEq)]
enum Scheme {
    None,
    Tls,
    Tcp,
    Unix,
}

fn without_scheme(written: &OsStr) -> (Scheme, &OsStr) {
    let schemes: [(&[u8], Scheme); 3] = [
        (b"tls:", Scheme::Tls),
        (b"tcp:", Scheme::Tcp),
        (b"unix:", Scheme::Unix),
    ];
    let found = schemes.into_iter().find_map(|(prefix, scheme)| {
        let rest = written.as_bytes().strip_prefix(prefix)?;
        Some((scheme, OsStr::from_bytes(rest)))
    });
    found.unwrap_or((Scheme::None, written))
}

/// Parses an endpoint and decides whether TLS is used. `has_tls_files`: whether anything is set that only TLS needs.
pub(crate) fn destination(
    written: Found<OsString>,
    built: Built,
    has_tls_files: bool,
) -> Result<Destination, SettingsError> {
    let (scheme, rest) = without_scheme(&written.value);
    let is_path = scheme == Scheme::Unix
        || built == Built::Unix && scheme == Scheme::None
        || rest.as_bytes().first() == Some(&b'/') && scheme != Scheme::Tcp;
    let contradicts = match built {
        Built::Any => false,
        Built::Tcp => is_path || scheme == Scheme::Tls,
        Built::Unix => scheme == Scheme::Tcp || scheme == Scheme::Tls,
        Built::Tls => scheme == Scheme::Tcp || scheme == Scheme::Unix,
    };
    if contradicts {
        let Found { value, origin } = written;
        let value = value.to_string_lossy().into_owned();
        return Err(SettingsError::OtherTransport(origin, value, built));
    }
    if built == Built::Tcp && has_tls_files && scheme != Scheme::Tcp {
        return Err(SettingsError::TlsFilesForTcp);
    }
    let (is_tls, reason) = match (built, scheme) {
        (Built::Tls, _) => (true, Reason::Built),
        (Built::Tcp | Built::Unix, _) => (false, Reason::Built),
        (Built::Any, Scheme::Tls) => (true, Reason::Endpoint),
        (Built::Any, Scheme::Tcp | Scheme::Unix) => (false, Reason::Endpoint),
        (Built::Any, Scheme::None) if is_path => (false, Reason::Endpoint),
        (Built::Any, Scheme::None) if has_tls_files => (true, Reason::TlsFiles),
        (Built::Any, Scheme::None) => (false, Reason::NoTlsFiles),
    };
    let endpoint = match is_path {
        true => socket_path(rest, &written)?,
        false => host_and_port(rest, &written)?,
    };
    Ok(Destination {
        endpoint,
        is_tls,
        reason,
    })
}

fn socket_path(path: &OsStr, written: &Found<OsString>) -> Result<Endpoint, SettingsError> {
    let origin = written.origin.clone();
    match path.len() {
        0 => Err(SettingsError::Endpoint(origin, String::new())),
        length if length > LONGEST_SOCKET_PATH => {
            Err(SettingsError::SocketPath(origin, path.into()))
        }
        _ => Ok(Endpoint::Unix(path.into())),
    }
}

fn host_and_port(text: &OsStr, written: &Found<OsString>) -> Result<Endpoint, SettingsError> {
    let refused = || {
        let value = text.to_string_lossy().into_owned();
        SettingsError::Endpoint(written.origin.clone(), value)
    };
    let text = text.to_str().ok_or_else(refused)?;
    let parts = match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:"),
        None => text
            .rsplit_once(':')
            .filter(|(host, _)| !host.contains(':')),
    };
    let parts = parts.filter(|(host, _)| !host.is_empty());
    let (host, port) = parts.ok_or_else(refused)?;
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits && port != 0 => Ok(Endpoint::Tcp {
            host: host.to_owned(),
            port,
        }),
        _ => Err(SettingsError::Port(written.origin.clone(), text.into())),
    }
}
