//! Advises an operator what to do about a failure, in one clause for the end of a log line.
//!
//! If no advice is useful, there is none. The error's own text states the cause.

use std::fmt;
use std::io;

use xdr::rpc::ReplyError;
use xdr::{CkRv, Function};

use crate::InitializeError;
use crate::connection::ConnectError;
use crate::failure::Failure;
use crate::link::StartError;
use crate::settings::SettingsError;
use crate::socket::SocketError;
use crate::tls::TlsError;

/// Displays as `; advice`, or as nothing.
pub(crate) struct Advice(pub Option<&'static str>);

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}

const CONNECT_AGAIN: &str = "C_Finalize and C_Initialize connect again";
const DAEMONS_LOG: &str = "the daemon's log says why";

impl InitializeError {
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            InitializeError::Settings(error) => error.advice(),
            InitializeError::Log(..) => {
                Some("PKCS11PROXY_LOG_TO (log_to) must name a file that this user may write")
            }
            // The error says what was expected, and where.
            InitializeError::Mechanisms(_) => None,
            InitializeError::Connect(_, error) => error.advice(),
            InitializeError::Start(_, error) => error.advice(),
        }
    }
}

impl SettingsError {
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            SettingsError::AliasFile(..) | SettingsError::AliasFileEmpty(_) => {
                Some("set PKCS11PROXY_LIBNAME, or alias in the settings file")
            }
            SettingsError::TlsFile(_) => {
                Some("TLS needs an authority, a certificate and a key, or a pre-shared key")
            }
            // The other errors say what was expected, and where.
            _ => None,
        }
    }
}

impl ConnectError {
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            ConnectError::Socket(error) => error.advice(),
            ConnectError::Tls(error) => error.advice(),
        }
    }
}

impl SocketError {
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            SocketError::Name(cause) if cause.kind() == io::ErrorKind::TimedOut => Some(
                "this host's name service does not answer: correct it, or write an address instead of the name",
            ),
            SocketError::Name(_) => {
                Some("correct the name in the endpoint, or this host's name service")
            }
            SocketError::Socket(cause) => of_socket(cause),
            SocketError::Addresses(failures) => failures.causes().find_map(of_socket),
        }
    }
}

fn of_socket(cause: &io::Error) -> Option<&'static str> {
    match cause.kind() {
        io::ErrorKind::ConnectionRefused => {
            Some("nobody listens there: start pkcs11proxyd, or correct the endpoint")
        }
        io::ErrorKind::NotFound => {
            Some("there is no such socket: start pkcs11proxyd, or correct the endpoint")
        }
        io::ErrorKind::PermissionDenied => Some(
            "this user may not connect: check the permissions of the socket and its directory, or this host's firewall",
        ),
        io::ErrorKind::TimedOut => Some(
            "the host is down, a firewall drops packets, the daemon is stopped, or the endpoint is wrong",
        ),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            Some("there is no route to the host: check the network, or correct the endpoint")
        }
        _ => match cause.raw_os_error() {
            Some(nix::libc::EMFILE) => {
                Some("this process has too many open descriptors: raise its limit (ulimit -n)")
            }
            _ => None,
        },
    }
}

impl TlsError {
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            TlsError::File(_, cause) => match cause.kind() {
                io::ErrorKind::NotFound => Some("the settings must name a file that exists"),
                io::ErrorKind::PermissionDenied => Some("this user must be allowed to read it"),
                _ => None,
            },
            TlsError::Mismatch(..) => {
                Some("PKCS11PROXY_PRIVKEY_FILE and PKCS11PROXY_CERT_FILE must belong together")
            }
            TlsError::Unverified(refused) => Some(refused.advice()),
            TlsError::NotPinned(..) => Some(
                "if it is the daemon's new certificate, add it to PKCS11PROXY_SERVER_CERTS_FILE (server_certs_file)",
            ),
            TlsError::NoCertificate => Some("the daemon must show a certificate"),
            TlsError::TooSlow => Some(
                "the daemon is too busy, or the server there does not speak TLS: then write tcp: or unix: in front of the endpoint",
            ),
            TlsError::Handshake(cause) if cause.contains("wrong version number") => Some(
                "the server there does not speak TLS: turn TLS on in the daemon, or write tcp: or unix: in front of the endpoint",
            ),
            TlsError::Handshake(cause) if cause.contains("unsupported protocol") => {
                Some("the daemon must speak TLS 1.2 or 1.3")
            }
            TlsError::Handshake(_) => Some(
                "the daemon's log says why; or the server there is no pkcs11proxyd, or does not speak TLS",
            ),
            TlsError::Content(..)
            | TlsError::Refused(..)
            | TlsError::OpenSsl(_)
            | TlsError::Transport(_) => None,
        }
    }
}

impl StartError {
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            StartError::Call(Function::C_SetupArch, failure) => match failure {
                Failure::Closed | Failure::Socket(_) => Some(
                    "the daemon's log says why it refuses this client; or it requires TLS (write tls: in front of the endpoint), or the server there is no pkcs11proxyd",
                ),
                Failure::Timeout => Some(
                    "the daemon is too busy or requires TLS (write tls: in front of the endpoint), or the server there is no pkcs11proxyd",
                ),
                _ => Some("the server there is no pkcs11proxyd: correct the endpoint"),
            },
            StartError::Call(_, Failure::Timeout) => {
                Some("the module or the daemon is too busy: check the daemon's log")
            }
            StartError::Lost | StartError::Call(..) => Some(DAEMONS_LOG),
            StartError::Hello(_) | StartError::Architecture(_) => Some(DAEMONS_LOG),
            StartError::Version => Some("unset PKCS11PROXY_PROTOCOL (protocol)"),
            StartError::Module(CkRv::GENERAL_ERROR, alias) if alias.is_empty() => Some(
                "set PKCS11PROXY_LIBNAME, or alias in the settings file; or give a module the name \"\" in the daemon's filter.conf",
            ),
            StartError::Module(CkRv::GENERAL_ERROR, _) => Some(
                "the daemon's filter.conf must have a module of this alias, and the daemon must be able to load it: its log says more",
            ),
            StartError::Module(..) => Some(DAEMONS_LOG),
            StartError::Initialize(_) => Some(
                "the module at the daemon refuses: check the daemon's log and the module's own configuration",
            ),
        }
    }
}

impl Failure {
    /// Returns advice about a failed call of the application. `recovers`: whether the library reconnects by itself.
    pub fn advice(&self, recovers: bool) -> Option<&'static str> {
        match self {
            Failure::Socket(_)
            | Failure::Closed
            | Failure::Record(_)
            | Failure::Notification
            | Failure::Reply(ReplyError::Malformed(_)) => (!recovers).then_some(CONNECT_AGAIN),
            Failure::Timeout if recovers => {
                Some("PKCS11PROXY_RPC_TIMEOUT (timeout) gives calls more time")
            }
            Failure::Timeout => Some(
                "C_Finalize and C_Initialize connect again; PKCS11PROXY_RPC_TIMEOUT (timeout) gives calls more time",
            ),
            Failure::TooLong => Some("max_record_size of the daemon limits calls"),
            Failure::Reply(ReplyError::NotExecuted(_) | ReplyError::Denied(_)) => {
                Some("daemon and library may be of different versions: the daemon's log says more")
            }
            Failure::Memory(_)
            | Failure::Encode(_)
            | Failure::Lost
            | Failure::Finalized
            | Failure::OthersAreOut
            | Failure::CallingBack => None,
        }
    }
}
