//! Reads the library's settings: where the daemon is, which module to ask for, how long to wait, and which files TLS
//! needs.
//!
//! They come from environment variables, the settings file, the alias file, the file name of the library, and
//! compiled-in values ([`sources`] has the precedence). They are read again at each C_Initialize. An invalid value is
//! an error that says where the value is written. All input comes through an [`Environment`], so that tests need not
//! change that of the process.

mod alias;
mod built_in;
mod endpoint;
mod sources;
mod tls_files;

use std::cell::RefCell;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use xdr::rpc::Version;

pub(crate) use built_in::BuiltIn;
pub(crate) use endpoint::{Built, Endpoint, Reason};
pub use sources::OPTIONS;
pub(crate) use sources::{Environment, Origin};

use crate::logging::{self, LogTo};
use crate::socket::OwnThreads;
use alias::{LONGEST_ALIAS, alias};
use endpoint::{Destination, destination};
#[cfg(test)]
use sources::LONGEST_FILE;
use sources::{Found, Options, Sections, Written, file_of};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(25);

/// The longest timeout, in seconds: more than three years. Longer ones are refused; the original ignores them.
const LONGEST_TIMEOUT: u64 = 100_000_000;

/// The default pause between two polls of a blocking C_WaitForSlotEvent.
const DEFAULT_SLOT_EVENT_PERIOD: Duration = Duration::from_millis(50);

/// The longest period, in milliseconds.
const LONGEST_SLOT_EVENT_PERIOD: u64 = 3_600_000;

/// The settings of one connection.
#[derive(Debug, PartialEq)]
pub(crate) struct Settings {
    /// The daemons, in the order of preference.
    pub daemons: Vec<Daemon>,
    /// The name of the module in the daemon's configuration, sent unchanged.
    pub alias: Vec<u8>,
    /// The version of the protocol; `None` means the newest that the daemon speaks.
    pub protocol: Option<Version>,
    /// The newest version of PKCS#11 that is offered.
    pub interface: Interface,
    /// The description of vendors' mechanisms.
    pub mechanisms: Option<MechanismsFile>,
    /// The timeout for connecting, and for each call.
    pub timeout: Duration,
    /// The pause between two polls of a blocking C_WaitForSlotEvent.
    pub slot_event_period: Duration,
    /// How the library survives the loss of a connection; `None` if it does not.
    pub recovery: Option<RecoverySettings>,
    /// Whether the daemon to try first is chosen at random.
    pub spread: bool,
    /// What is logged, and where; `None` leaves logging unchanged.
    pub log: Option<LogSettings>,
    /// Whether the application lets this library start threads.
    pub threads: OwnThreads,
    /// The settings file, if there is one.
    pub file: Option<PathBuf>,
    /// Every setting that was made, with its origin, except endpoints.
    pub told: Vec<Told>,
}

/// A setting in the form in which people read it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    /// The name of the option.
    pub option: String,
    pub value: String,
    pub origin: Origin,
}

/// How the library survives the loss of a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RecoverySettings {
    /// Whether the PIN is kept, so that a login can be repeated.
    pub keep_pin: bool,
}

/// What is logged, and where.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LogSettings {
    /// The filter, in env_logger's syntax.
    pub filter: String,
    pub to: LogTo,
}

impl LogSettings {
    /// Reads the variables; `None` if they do not say what is logged. If they are invalid, errors are logged.
    pub fn of_variables(environment: &Environment<'_>) -> Option<LogSettings> {
        let variable = |name| (environment.variable)(name).filter(|value| !value.is_empty());
        let filter = variable(LOG)?.into_string().ok();
        let filter = filter.filter(|filter| logging::parsed(filter).is_some());
        let to = variable(LOG_TO).and_then(|to| LogTo::parse(Path::new(&to)));
        Some(LogSettings {
            filter: filter.unwrap_or_else(|| "error".into()),
            to: to.unwrap_or(LogTo::Stderr),
        })
    }

    /// Reads the top of the settings file, in which other options may be invalid; `None` if the variables or the top of
    /// the file do not say what is logged, or if the file is no TOML. If they are invalid, errors are logged.
    pub fn of_invalid_settings(environment: &Environment<'_>) -> Option<LogSettings> {
        if (environment.variable)(LOG).is_some_and(|value| !value.is_empty()) {
            return None;
        }
        let text = environment.text(&file_of(environment).0).ok()?;
        let options: toml::Table = text.parse().ok()?;
        let option = |name| options.get(name)?.as_str();
        let filter = option("log")?;
        let is_valid = logging::parsed(filter).is_some();
        let variable = (environment.variable)(LOG_TO).filter(|value| !value.is_empty());
        let to = variable.or_else(|| option("log_to").map(OsString::from));
        let to = to.and_then(|to| LogTo::parse(Path::new(&to)));
        Some(LogSettings {
            filter: if is_valid { filter } else { "error" }.to_owned(),
            to: to.unwrap_or(LogTo::Stderr),
        })
    }

    /// Returns whether nothing is logged.
    pub fn is_off(&self) -> bool {
        let filter = logging::parsed(&self.filter);
        filter.is_none_or(|filter| filter.filter() == log::LevelFilter::Off)
    }
}

/// Where a daemon listens, and whether with TLS.
#[derive(Debug, PartialEq)]
pub(crate) struct Daemon {
    pub endpoint: Endpoint,
    /// The settings for TLS; `None` without TLS.
    pub tls: Option<TlsSettings>,
    /// Why TLS is used or not.
    pub reason: Reason,
    /// Where the endpoint comes from.
    pub origin: Origin,
}

/// A site's `mechanisms.toml`, with the text as it was read.
#[derive(Debug, PartialEq)]
pub(crate) struct MechanismsFile {
    pub path: PathBuf,
    pub text: String,
}

/// The settings of a TLS connection.
#[derive(Debug, PartialEq)]
pub(crate) struct TlsSettings {
    /// How both sides authenticate.
    pub credentials: Credentials,
    /// The server's certificate must be one of these, and valid too.
    pub pinned: Option<Source>,
    /// The name or address for which the server's certificate must be valid.
    pub name: Option<String>,
}

/// How both sides authenticate.
#[derive(Debug, PartialEq)]
pub(crate) enum Credentials {
    Certificates {
        /// The CAs of server certificates.
        authority: Source,
        /// Our certificate, with the intermediate ones between it and its CA.
        certificate: Source,
        key: Source,
    },
    /// The file with an identity and a key that both sides know.
    Psk(Source),
}

/// Where a key or certificate comes from.
#[derive(Clone, PartialEq)]
pub(crate) enum Source {
    File(PathBuf),
    BuiltIn(&'static str),
}

/// Does not show the compiled-in value, which may be a private key.
impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::File(path) => path.display().fmt(f),
            Source::BuiltIn(_) => f.write_str("the compiled-in value"),
        }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    #[error("{0}: {1}")]
    Syntax(Origin, String),
    #[error("{0} has sections for programs, but the name of this program cannot be determined")]
    Program(PathBuf),
    #[error("{0}: a section for an alias cannot name another one")]
    AliasInAlias(Origin),
    #[error("{0}: expected at least one endpoint")]
    NoEndpoint(Origin),
    #[error("no endpoint is set")]
    NoDaemon,
    #[error(
        "{0}: endpoint {1:?}: expected host:port, [IPv6 address]:port or an absolute path, or one of these after tls:, tcp: or unix:"
    )]
    Endpoint(Origin, String),
    #[error("{0}: endpoint {1:?}: expected a port between 1 and 65535")]
    Port(Origin, String),
    #[error("{0}: endpoint {1:?}: a socket path may have at most 107 bytes")]
    SocketPath(Origin, PathBuf),
    #[error("{0}: endpoint {1:?}: this library speaks {2} only")]
    OtherTransport(Origin, String, Built),
    #[error(
        "TLS files are set, but this library speaks plain TCP only: use libp11clienttcpssl.so, or write tcp: in front of the endpoint"
    )]
    TlsFilesForTcp,
    #[error("TLS: neither {0} nor PKCS11PROXY_PSK_FILE is set")]
    TlsFile(&'static str),
    #[error("{0}: expected a host name, an address, or the word endpoint (with a TCP endpoint)")]
    VerifyName(Origin),
    #[error("{0}: expected 3 or 4, not {1:?}")]
    Protocol(Origin, OsString),
    #[error("{0}: expected 3.2, 3.0 or 2.40, not {1:?}")]
    Interface(Origin, OsString),
    #[error("{0}: expected {1} between 1 and {2}")]
    Number(Origin, &'static str, u64),
    #[error("{0}: expected true or false")]
    Flag(Origin),
    #[error("{0}: expected recover = true as well: a PIN is kept only for recovery")]
    PinKeptForNothing(Origin),
    #[error(
        "{0}: expected off, error, warn, info, debug or trace, or such levels for modules of p11client, as env_logger reads them"
    )]
    Log(Origin),
    #[error("{0}: expected stderr, syslog or an absolute path")]
    LogTo(Origin),
    #[error("{0}: {1}: {2}")]
    MechanismsFile(Origin, PathBuf, io::Error),
    #[error("no module is named: PKCS11PROXY_LIBNAME is not set, and {0}: {1}")]
    AliasFile(PathBuf, io::Error),
    #[error("no module is named: PKCS11PROXY_LIBNAME is not set, and {0} is empty")]
    AliasFileEmpty(PathBuf),
    #[error("{0}: the module name in the first line is longer than {LONGEST_ALIAS} bytes")]
    AliasTooLong(PathBuf),
}

impl Settings {
    /// Returns whether TLS is used with any of the daemons.
    pub fn has_tls(&self) -> bool {
        self.daemons.iter().any(|daemon| daemon.tls.is_some())
    }

    /// Reads the variables, the settings file and, if neither sets the alias, the alias file.
    pub fn read(environment: &Environment<'_>) -> Result<Settings, SettingsError> {
        let sections = Sections::read(environment)?;
        let file = sections.path().map(PathBuf::from);
        let alias = alias(environment, &sections)?;
        let sources = Sources {
            environment,
            file: sections.of_alias(&alias.value),
            told: RefCell::default(),
        };
        sources.tell(
            "alias",
            &String::from_utf8_lossy(&alias.value),
            &alias.origin,
        );
        Ok(Settings {
            daemons: sources.daemons()?,
            alias: alias.value,
            protocol: sources.protocol()?,
            interface: sources.interface()?,
            mechanisms: sources.mechanisms()?,
            timeout: sources.timeout()?,
            slot_event_period: sources.slot_event_period()?,
            recovery: sources.recovery()?,
            spread: sources
                .flag("PKCS11PROXY_SPREAD", |it| &it.spread)?
                .is_some_and(|it| it.value),
            log: sources.log()?,
            threads: environment.threads,
            file,
            told: sources.told.into_inner(),
        })
    }
}

/// A version of PKCS#11: a CK_VERSION.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Interface {
    pub major: u8,
    pub minor: u8,
}

/// The newest version.
impl Default for Interface {
    fn default() -> Interface {
        Interface { major: 3, minor: 2 }
    }
}

impl Interface {
    /// Returns the newest version that applications are offered, before C_Initialize.
    pub fn read(environment: &Environment<'_>) -> Result<Interface, SettingsError> {
        let sections = Sections::read(environment)?;
        // Without an alias, no section for an alias applies.
        let alias = alias(environment, &sections).map(|alias| alias.value);
        let sources = Sources {
            environment,
            file: sections.of_alias(&alias.unwrap_or_default()),
            told: RefCell::default(),
        };
        sources.interface()
    }
}

/// Everything from which settings are read, once the alias is known.
struct Sources<'a> {
    environment: &'a Environment<'a>,
    file: Written,
    /// The settings that were found so far.
    told: RefCell<Vec<Told>>,
}

impl Sources<'_> {
    /// Returns the value of a variable, if it is set and not empty.
    fn variable(&self, name: &'static str) -> Option<Found<OsString>> {
        let value = (self.environment.variable)(name).filter(|value| !value.is_empty())?;
        let origin = Origin::Variable(name);
        Some(Found { value, origin })
    }

    fn tell(&self, option: impl Into<String>, value: &str, origin: &Origin) {
        self.told.borrow_mut().push(Told {
            option: option.into(),
            value: value.to_owned(),
            origin: origin.clone(),
        });
    }

    fn daemons(&self) -> Result<Vec<Daemon>, SettingsError> {
        let environment = self.environment;
        let built = Built::of(
            environment.built_in.transport,
            environment.library.as_deref(),
        );
        let files = self.tls_files();
        self.endpoints(built)?
            .into_iter()
            .map(|written| {
                let origin = written.origin.clone();
                let Destination {
                    endpoint,
                    is_tls,
                    reason,
                } = destination(written, built, files.is_any())?;
                let tls = is_tls.then(|| files.settings(&endpoint)).transpose()?;
                Ok(Daemon {
                    endpoint,
                    tls,
                    reason,
                    origin,
                })
            })
            .collect()
    }

    /// Returns the endpoints as they are written. The variable counts even if it is empty, as in the original.
    fn endpoints(&self, built: Built) -> Result<Vec<Found<OsString>>, SettingsError> {
        const SOCKET: &str = "PKCS11PROXY_SOCKET_PATH";
        if let Some(value) = (self.environment.variable)(SOCKET) {
            let origin = Origin::Variable(SOCKET);
            return Ok(vec![Found { value, origin }]);
        }
        if let Some(endpoints) = &self.file.options.endpoints {
            if endpoints.get_ref().is_empty() {
                return Err(SettingsError::NoEndpoint(self.file.origin(endpoints)));
            }
            let found = |endpoint: &toml::Spanned<String>| Found {
                origin: self.file.origin(endpoint),
                value: endpoint.get_ref().into(),
            };
            return Ok(endpoints.get_ref().iter().map(found).collect());
        }
        let socket = self.environment.built_in.socket;
        Ok(vec![Found {
            value: socket.unwrap_or(built.default_endpoint()).into(),
            origin: Origin::Built,
        }])
    }

    fn protocol(&self) -> Result<Option<Version>, SettingsError> {
        let variable = (self.environment.variable)("PKCS11PROXY_PROTOCOL").map(|value| Found {
            value,
            origin: Origin::Variable("PKCS11PROXY_PROTOCOL"),
        });
        let file = self.file.found(&self.file.options.protocol);
        let written = variable.or(file.map(|number| number.map(|it| it.to_string().into())));
        let Some(Found { value, origin }) = written else {
            return Ok(None);
        };
        self.tell("protocol", &value.to_string_lossy(), &origin);
        match value.as_bytes() {
            b"3" => Ok(Some(Version::Three)),
            b"4" => Ok(Some(Version::Four)),
            _ => Err(SettingsError::Protocol(origin, value)),
        }
    }

    fn interface(&self) -> Result<Interface, SettingsError> {
        let variable = (self.environment.variable)("PKCS11PROXY_INTERFACE").map(|value| Found {
            value,
            origin: Origin::Variable("PKCS11PROXY_INTERFACE"),
        });
        let file = self.file.found(&self.file.options.interface);
        let Some(Found { value, origin }) = variable.or(file.map(|it| it.map(OsString::from)))
        else {
            return Ok(Interface::default());
        };
        self.tell("interface", &value.to_string_lossy(), &origin);
        let (major, minor) = match value.as_bytes() {
            b"3.2" => (3, 2),
            b"3.0" => (3, 0),
            b"2.40" => (2, 40),
            _ => return Err(SettingsError::Interface(origin, value)),
        };
        Ok(Interface { major, minor })
    }

    fn mechanisms(&self) -> Result<Option<MechanismsFile>, SettingsError> {
        let variable = self.variable("PKCS11PROXY_MECHANISMS_FILE");
        let file = self.file.found(&self.file.options.mechanisms_file);
        let written = variable.map(|it| it.map(PathBuf::from)).or(file);
        let Some(Found {
            value: path,
            origin,
        }) = written
        else {
            return Ok(None);
        };
        self.tell("mechanisms_file", &path.to_string_lossy(), &origin);
        match self.environment.text(&path) {
            Ok(text) => Ok(Some(MechanismsFile { path, text })),
            Err(cause) => Err(SettingsError::MechanismsFile(origin, path, cause)),
        }
    }

    fn timeout(&self) -> Result<Duration, SettingsError> {
        let file = self.file.found(&self.file.options.timeout);
        let name = "PKCS11PROXY_RPC_TIMEOUT";
        let number = self.number("timeout", name, file, "seconds", LONGEST_TIMEOUT)?;
        Ok(number.map_or(DEFAULT_TIMEOUT, Duration::from_secs))
    }

    fn slot_event_period(&self) -> Result<Duration, SettingsError> {
        let file = self.file.found(&self.file.options.slot_event_period);
        let name = "PKCS11PROXY_SLOT_EVENT_PERIOD";
        let option = "slot_event_period";
        let most = LONGEST_SLOT_EVENT_PERIOD;
        let number = self.number(option, name, file, "milliseconds", most)?;
        Ok(number.map_or(DEFAULT_SLOT_EVENT_PERIOD, Duration::from_millis))
    }

    /// Reads a number in this unit, at most `most`. A variable is parsed as the original parses it.
    fn number(
        &self,
        option: &str,
        name: &'static str,
        file: Option<Found<i64>>,
        units: &'static str,
        most: u64,
    ) -> Result<Option<u64>, SettingsError> {
        let variable = self.variable(name);
        let variable = variable.map(|it| it.map(|text| leading_number(text.as_bytes())));
        let file = file.map(|it| it.map(|number| u64::try_from(number).ok()));
        let Some(Found { value, origin }) = variable.or(file) else {
            return Ok(None);
        };
        match value.filter(|number| (1..=most).contains(number)) {
            Some(number) => {
                self.tell(option, &format!("{number} {units}"), &origin);
                Ok(Some(number))
            }
            None => Err(SettingsError::Number(origin, units, most)),
        }
    }

    fn recovery(&self) -> Result<Option<RecoverySettings>, SettingsError> {
        let recover = self.flag("PKCS11PROXY_RECOVER", |it| &it.recover)?;
        let keep_pin = self.flag("PKCS11PROXY_KEEP_PIN", |it| &it.keep_pin)?;
        let is_on = |it: &Option<Found<bool>>| it.as_ref().is_some_and(|it| it.value);
        match (is_on(&recover), keep_pin) {
            (true, keep_pin) => Ok(Some(RecoverySettings {
                keep_pin: is_on(&keep_pin),
            })),
            (
                false,
                Some(Found {
                    value: true,
                    origin,
                }),
            ) => Err(SettingsError::PinKeptForNothing(origin)),
            (false, _) => Ok(None),
        }
    }

    /// Reads an option that is true or false.
    fn flag(
        &self,
        name: &'static str,
        option: fn(&Options) -> &Option<toml::Spanned<bool>>,
    ) -> Result<Option<Found<bool>>, SettingsError> {
        let found = match self.variable(name) {
            None => self.file.found(option(&self.file.options)),
            Some(Found { value, origin }) => {
                let value = match value.as_bytes() {
                    b"true" => true,
                    b"false" => false,
                    _ => return Err(SettingsError::Flag(origin)),
                };
                Some(Found { value, origin })
            }
        };
        if let Some(Found { value, origin }) = &found {
            self.tell(option_of(name), &value.to_string(), origin);
        }
        Ok(found)
    }

    fn log(&self) -> Result<Option<LogSettings>, SettingsError> {
        let options = &self.file.options;
        let file = self.file.found(&options.log);
        let filter = self.variable(LOG).or(file.map(|it| it.map(OsString::from)));
        let file = self.file.found(&options.log_to);
        let to = self.variable(LOG_TO).map(|it| it.map(PathBuf::from));
        let to = match to.or(file) {
            None => LogTo::Stderr,
            Some(Found { value, origin }) => {
                self.tell("log_to", &value.to_string_lossy(), &origin);
                LogTo::parse(&value).ok_or(SettingsError::LogTo(origin))?
            }
        };
        let Some(Found { value, origin }) = filter else {
            return Ok(None);
        };
        self.tell("log", &value.to_string_lossy(), &origin);
        let filter = value.into_string().ok();
        let filter = filter.filter(|filter| logging::parsed(filter).is_some());
        let filter = filter.ok_or(SettingsError::Log(origin))?;
        Ok(Some(LogSettings { filter, to }))
    }
}

/// Returns the option over which this variable takes precedence.
fn option_of(variable: &str) -> &'static str {
    let mut rows = OPTIONS.iter();
    rows.find(|(_, name)| *name == variable)
        .map_or("", |(option, _)| option)
}

/// What is logged, and where. Also read before the settings are read.
const LOG: &str = "PKCS11PROXY_LOG";
const LOG_TO: &str = "PKCS11PROXY_LOG_TO";

/// Parses a number as C's `strtol` does: blanks, a sign, digits, then anything. `None` if there is no number or a
/// negative one. A number that does not fit becomes the largest that does.
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
