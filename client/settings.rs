//! Reads the library's settings: where the daemon is, which module to ask for, how long to wait, and
//! which files TLS needs.
//!
//! They come from environment variables, the file with the alias, the name of the library's file and
//! the values that are compiled in, and are read again at each C_Initialize. Everything comes through
//! an [`Environment`], so that tests need not touch that of the process. Only the file with the alias
//! is opened.

use bindings::process;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use xdr::rpc::Version;

/// The endpoint of a library built without `P11CLIENT_SOCKET`, as in the original.
const DEFAULT_SOCKET: &str = "127.0.0.1:4444";

/// The same of one in the place of Debian's for Unix sockets.
const DEFAULT_UNIX_SOCKET: &str = "/var/run/pkcs11proxyd.socket";

/// The file in the user's home directory that names the module.
const ALIAS_FILE: &str = ".camlcrushlibname";

/// The longest alias the file can give, in bytes; a variable can give any.
const LONGEST_ALIAS: usize = 32;

/// The longest file that is read, in bytes.
const LONGEST_FILE: usize = 1 << 20;

/// The longest path a Unix socket address holds, in bytes.
const LONGEST_SOCKET_PATH: usize = 107;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(25);

/// Longer timeouts are ignored, as in the original: more than three years.
const LONGEST_TIMEOUT_SECONDS: u64 = 100_000_000;

/// How often a blocking C_WaitForSlotEvent asks the daemon.
const DEFAULT_SLOT_EVENT_PERIOD: Duration = Duration::from_millis(50);

/// What [`Settings`] are made of. [`Environment::process`] is the real one.
pub(crate) struct Environment<'a> {
    /// The value of an environment variable, if it is set.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// The first bytes of a file, one more than [`LONGEST_FILE`] at the most.
    pub file: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// The endpoint compiled in.
    pub socket: Option<&'a str>,
    /// The alias compiled in, in a library made for one module.
    pub libname: Option<&'a str>,
    /// The file this library was loaded from.
    pub library: Option<PathBuf>,
    /// What was compiled in for TLS.
    pub tls: TlsFiles,
}

/// What was compiled in for TLS: paths, or contents in PEM.
#[derive(Clone, Copy, Default)]
pub(crate) struct TlsFiles {
    pub authority: Option<&'static str>,
    pub certificate: Option<&'static str>,
    pub key: Option<&'static str>,
    pub pinned: Option<&'static str>,
}

impl Environment<'static> {
    /// The environment of this process and the build options of this library.
    pub fn process() -> Environment<'static> {
        Environment {
            variable: &|name| std::env::var_os(name),
            file: &|path| {
                // Asked first, since to open a pipe would wait for its writer.
                if !std::fs::metadata(path)?.is_file() {
                    return Err(io::Error::other("expected a file"));
                }
                let mut bytes = Vec::new();
                let file = std::fs::File::open(path)?;
                let mut file = file.take(LONGEST_FILE as u64 + 1);
                file.read_to_end(&mut bytes).map(|_| bytes)
            },
            socket: option_env!("P11CLIENT_SOCKET"),
            libname: option_env!("P11CLIENT_LIBNAME"),
            library: process::own_path(),
            tls: TlsFiles {
                authority: option_env!("P11CLIENT_TLS_CA"),
                certificate: option_env!("P11CLIENT_TLS_CERT"),
                key: option_env!("P11CLIENT_TLS_KEY"),
                pinned: option_env!("P11CLIENT_TLS_PINNED"),
            },
        }
    }
}

/// What one connection is made with.
#[derive(Debug, PartialEq)]
pub(crate) struct Settings {
    /// Where the daemon listens.
    pub endpoint: Endpoint,
    /// How TLS is spoken, if it is.
    pub tls: Option<TlsSettings>,
    /// The name of the module in the daemon's configuration, sent as it is.
    pub alias: Vec<u8>,
    /// The version of the protocol; `None` is the newest that the daemon speaks.
    pub protocol: Option<Version>,
    /// The newest version of PKCS#11 that is offered.
    pub interface: Interface,
    /// The description of vendors' mechanisms.
    pub mechanisms: Option<MechanismsFile>,
    /// How long connecting may take, and each call.
    pub timeout: Duration,
    /// The pause between two polls of a blocking C_WaitForSlotEvent.
    pub slot_event_period: Duration,
}

/// A site's `mechanisms.toml`, as read.
#[derive(Debug, PartialEq)]
pub(crate) struct MechanismsFile {
    pub path: PathBuf,
    pub text: String,
}

/// What a TLS connection is made with.
#[derive(Debug, PartialEq)]
pub(crate) struct TlsSettings {
    /// Who both sides are.
    pub credentials: Credentials,
    /// The certificates one of which the server has to have, beside a valid one.
    pub pinned: Option<Source>,
    /// The name or address its certificate has to be for.
    pub name: Option<String>,
}

/// Who both sides are.
#[derive(Debug, PartialEq)]
pub(crate) enum Credentials {
    Certificates {
        /// Who issues server certificates.
        authority: Source,
        /// Ours, and those between it and who issued it.
        certificate: Source,
        key: Source,
    },
    /// An identity and a key that both sides know.
    Psk(Source),
}

/// Where something comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    File(PathBuf),
    BuiltIn(&'static str),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::File(path) => path.display().fmt(f),
            Source::BuiltIn(_) => f.write_str("the compiled-in value"),
        }
    }
}

/// The address of a daemon. Its kind follows from how it is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Endpoint {
    /// `host:port` or `[v6]:port`: a name or an address.
    Tcp { host: String, port: u16 },
    /// A path.
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

/// Why there are no settings to connect with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error(
        "endpoint {0:?}: expected host:port, [IPv6 address]:port or an absolute path, or tls: before one"
    )]
    Endpoint(String),
    #[error("endpoint {0:?}: expected a port between 1 and 65535")]
    Port(String),
    #[error("endpoint {0:?}: a socket path may have at most {LONGEST_SOCKET_PATH} bytes")]
    SocketPath(PathBuf),
    #[error("TLS: neither {0} nor PKCS11PROXY_PSK_FILE is set")]
    TlsFile(&'static str),
    #[error(
        "PKCS11PROXY_VERIFY_NAME: expected a host name, an address, or the word endpoint (with a TCP endpoint)"
    )]
    VerifyName,
    #[error("PKCS11PROXY_PROTOCOL: expected 3 or 4, not {0:?}")]
    Protocol(OsString),
    #[error("PKCS11PROXY_INTERFACE: expected 3.2, 3.0 or 2.40, not {0:?}")]
    Interface(OsString),
    #[error("PKCS11PROXY_MECHANISMS_FILE: {0}: {1}")]
    MechanismsFile(PathBuf, io::Error),
    #[error("which module to load is unknown: neither PKCS11PROXY_LIBNAME nor HOME is set")]
    Home,
    #[error("which module to load is unknown: PKCS11PROXY_LIBNAME is not set, and {0}: {1}")]
    AliasFile(PathBuf, io::Error),
    #[error("which module to load is unknown: PKCS11PROXY_LIBNAME is not set, and {0} is empty")]
    AliasFileEmpty(PathBuf),
    #[error("{0}: the module name in the first line is longer than {LONGEST_ALIAS} bytes")]
    AliasTooLong(PathBuf),
}

impl Settings {
    /// Reads the variables and, if they leave the alias open, the alias file.
    pub fn read(environment: &Environment<'_>) -> Result<Settings, SettingsError> {
        let variable = environment.variable;
        let library = environment.library.as_deref();
        let is_unix = library.is_some_and(is_debians_for_unix);
        let default = if is_unix {
            DEFAULT_UNIX_SOCKET
        } else {
            DEFAULT_SOCKET
        };
        let socket = variable("PKCS11PROXY_SOCKET_PATH");
        let socket = socket.unwrap_or_else(|| environment.socket.unwrap_or(default).into());
        let (socket, by_endpoint) = without_scheme(socket);
        let endpoint = endpoint(socket, is_unix)?;
        let is_tls = by_endpoint || library.is_some_and(is_named_for_tls);
        let tls = is_tls.then(|| tls(environment, &endpoint)).transpose()?;
        let number = |name| leading_number(variable(name)?.as_encoded_bytes());
        Ok(Settings {
            endpoint,
            tls,
            alias: alias(environment)?,
            protocol: protocol(environment)?,
            interface: Interface::read(environment)?,
            mechanisms: mechanisms(environment)?,
            timeout: number("PKCS11PROXY_RPC_TIMEOUT")
                .filter(|seconds| (1..=LONGEST_TIMEOUT_SECONDS).contains(seconds))
                .map_or(DEFAULT_TIMEOUT, Duration::from_secs),
            slot_event_period: number("PKCS11PROXY_SLOT_EVENT_PERIOD")
                .filter(|milliseconds| (1..=3_600_000).contains(milliseconds))
                .map_or(DEFAULT_SLOT_EVENT_PERIOD, Duration::from_millis),
        })
    }
}

/// A version of PKCS#11: a CK_VERSION.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Interface {
    pub major: u8,
    pub minor: u8,
}

/// The newest there is.
impl Default for Interface {
    fn default() -> Interface {
        Interface { major: 3, minor: 2 }
    }
}

impl Interface {
    /// The newest version that applications are offered. Also read before C_Initialize.
    pub fn read(environment: &Environment<'_>) -> Result<Interface, SettingsError> {
        let Some(written) = (environment.variable)("PKCS11PROXY_INTERFACE") else {
            return Ok(Interface::default());
        };
        let (major, minor) = match written.as_bytes() {
            b"3.2" => (3, 2),
            b"3.0" => (3, 0),
            b"2.40" => (2, 40),
            _ => return Err(SettingsError::Interface(written)),
        };
        Ok(Interface { major, minor })
    }
}

fn protocol(environment: &Environment<'_>) -> Result<Option<Version>, SettingsError> {
    let Some(written) = (environment.variable)("PKCS11PROXY_PROTOCOL") else {
        return Ok(None);
    };
    match written.as_bytes() {
        b"3" => Ok(Some(Version::Three)),
        b"4" => Ok(Some(Version::Four)),
        _ => Err(SettingsError::Protocol(written)),
    }
}

/// Empty is as good as not set.
fn mechanisms(environment: &Environment<'_>) -> Result<Option<MechanismsFile>, SettingsError> {
    let path = (environment.variable)("PKCS11PROXY_MECHANISMS_FILE");
    let Some(path) = path.filter(|path| !path.is_empty()).map(PathBuf::from) else {
        return Ok(None);
    };
    let too_long = || io::Error::other(format!("longer than {LONGEST_FILE} bytes"));
    let text = (environment.file)(&path).and_then(|bytes| match bytes.len() {
        ..=LONGEST_FILE => String::from_utf8(bytes).map_err(io::Error::other),
        _ => Err(too_long()),
    });
    match text {
        Ok(text) => Ok(Some(MechanismsFile { path, text })),
        Err(cause) => Err(SettingsError::MechanismsFile(path, cause)),
    }
}

/// The endpoint behind `tls:`, and whether that was there.
fn without_scheme(written: OsString) -> (OsString, bool) {
    match written.as_bytes().strip_prefix(b"tls:") {
        Some(rest) => (OsStr::from_bytes(rest).to_owned(), true),
        None => (written, false),
    }
}

/// Whether a library is installed as one that speaks TLS, as libp11clienttcpssl.so is.
fn is_named_for_tls(library: &Path) -> bool {
    let name = library.file_name().unwrap_or_default().as_bytes();
    name.windows(3).any(|part| part == b"ssl")
}

/// Whether a library is installed in the place of Debian's for Unix sockets.
fn is_debians_for_unix(library: &Path) -> bool {
    library.file_name() == Some(OsStr::new("libp11clientunix.so"))
}

fn tls(environment: &Environment<'_>, endpoint: &Endpoint) -> Result<TlsSettings, SettingsError> {
    // Empty is as good as not set.
    let variable = |name| (environment.variable)(name).filter(|value| !value.is_empty());
    let source = |name, built_in: Option<&'static str>| {
        let file = variable(name).map(|path| Source::File(path.into()));
        file.or_else(|| {
            let built_in = built_in.filter(|text| !text.is_empty())?;
            Some(match built_in.contains("-----BEGIN") {
                true => Source::BuiltIn(built_in),
                false => Source::File(built_in.into()),
            })
        })
    };
    let wanted = |name, built_in| source(name, built_in).ok_or(SettingsError::TlsFile(name));
    let built_in = environment.tls;
    let credentials = match variable("PKCS11PROXY_PSK_FILE") {
        Some(path) => Credentials::Psk(Source::File(path.into())),
        None => Credentials::Certificates {
            authority: wanted("PKCS11PROXY_CA_FILE", built_in.authority)?,
            certificate: wanted("PKCS11PROXY_CERT_FILE", built_in.certificate)?,
            key: wanted("PKCS11PROXY_PRIVKEY_FILE", built_in.key)?,
        },
    };
    let name = match (variable("PKCS11PROXY_VERIFY_NAME"), endpoint) {
        (None, _) => None,
        (Some(name), Endpoint::Tcp { host, .. }) if name == "endpoint" => Some(host.clone()),
        (Some(name), Endpoint::Unix(_)) if name == "endpoint" => {
            return Err(SettingsError::VerifyName);
        }
        (Some(name), _) => Some(name.into_string().map_err(|_| SettingsError::VerifyName)?),
    };
    let pinned = source("PKCS11PROXY_SERVER_CERTS_FILE", built_in.pinned);
    Ok(TlsSettings {
        credentials,
        pinned,
        name,
    })
}

/// A library for Unix sockets takes anything for a path.
fn endpoint(written: OsString, is_unix: bool) -> Result<Endpoint, SettingsError> {
    let first = written.as_encoded_bytes().first();
    if first.is_some_and(|first| is_unix || *first == b'/') {
        let path = PathBuf::from(written);
        return if path.as_os_str().len() <= LONGEST_SOCKET_PATH {
            Ok(Endpoint::Unix(path))
        } else {
            Err(SettingsError::SocketPath(path))
        };
    }
    let written = match written.into_string() {
        Ok(written) => written,
        Err(other) => {
            return Err(SettingsError::Endpoint(
                other.to_string_lossy().into_owned(),
            ));
        }
    };
    let parts = match written.strip_prefix('[') {
        Some(rest) => rest.split_once("]:"),
        None => written
            .rsplit_once(':')
            .filter(|(host, _)| !host.contains(':')),
    };
    let Some((host, port)) = parts.filter(|(host, _)| !host.is_empty()) else {
        return Err(SettingsError::Endpoint(written));
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits && port != 0 => Ok(Endpoint::Tcp {
            host: host.to_owned(),
            port,
        }),
        _ => Err(SettingsError::Port(written)),
    }
}

/// The variable, even if empty; then the compiled-in name; then the alias file.
fn alias(environment: &Environment<'_>) -> Result<Vec<u8>, SettingsError> {
    if let Some(alias) = (environment.variable)("PKCS11PROXY_LIBNAME") {
        return Ok(alias.into_encoded_bytes());
    }
    if let Some(alias) = environment.libname {
        return Ok(alias.as_bytes().to_vec());
    }
    let home = (environment.variable)("HOME").ok_or(SettingsError::Home)?;
    // As the original puts it together: an empty HOME is not the directory the application is in.
    let mut path = home;
    path.push("/");
    path.push(ALIAS_FILE);
    let path = PathBuf::from(path);
    let content = match (environment.file)(&path) {
        Ok(content) => content,
        Err(cause) => return Err(SettingsError::AliasFile(path, cause)),
    };
    if content.is_empty() {
        return Err(SettingsError::AliasFileEmpty(path));
    }
    let line = content.split(|byte| *byte == b'\n').next().unwrap_or(&[]);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > LONGEST_ALIAS {
        return Err(SettingsError::AliasTooLong(path));
    }
    Ok(line.to_vec())
}

/// The number that C's `strtol` would read: blanks, a sign, digits, then anything. `None` where it
/// reads none or a negative one; a number that does not fit is the largest there is.
fn leading_number(text: &[u8]) -> Option<u64> {
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let blanks = text.iter().take_while(|byte| blank(byte)).count();
    let text = text.get(blanks..).unwrap_or_default();
    let text = text.strip_prefix(b"+").unwrap_or(text);
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(None, |number: Option<u64>, digit| {
        let number = number.unwrap_or(0).saturating_mul(10);
        Some(number.saturating_add(u64::from(digit - b'0')))
    })
}

#[cfg(test)]
mod tests;
