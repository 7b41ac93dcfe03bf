//! Finds the value of each option: in the environment, in the sections of the settings file, or among the values that
//! are compiled in.
//!
//! The environment comes first, then the section of the program, that of the alias, and the rest of the file. In a
//! program with privileges of its own (AT_SECURE: set-user-id, set-group-id, file capabilities) the environment is
//! ignored, because it belongs to whoever started the program. The table `options!` lists what the file may contain.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use bindings::process;
use serde::Deserialize;
use toml::Spanned;

use super::SettingsError;
use super::built_in::BuiltIn;
use crate::socket::OwnThreads;

/// The longest file that is read, in bytes.
pub(super) const LONGEST_FILE: usize = 1 << 20;

/// The settings file, if `PKCS11PROXY_CONF` names no other.
pub(crate) const FILE: &str = "/etc/pkcs11proxyd/client.conf";

/// What [`Settings`](super::Settings) are made of. [`Environment::process`] is the real one.
pub(crate) struct Environment<'a> {
    /// The value of an environment variable, if it is set and counts.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// The first bytes of a file, one more than [`LONGEST_FILE`] at the most.
    pub file: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// The name of the program's file, if it is known.
    pub program: Option<OsString>,
    /// The file this library was loaded from.
    pub library: Option<PathBuf>,
    /// What is compiled into this library.
    pub built_in: BuiltIn<'a>,
    /// Whether the application lets this library start threads: it may, unless C_Initialize says otherwise.
    pub threads: OwnThreads,
}

impl Environment<'static> {
    /// The environment of this process, and what is compiled into this library.
    pub fn process() -> Environment<'static> {
        Environment {
            variable: match process::is_privileged() {
                true => &|_| None,
                false => &|name| std::env::var_os(name),
            },
            file: &|path| {
                use io::Read;
                // Asked first, since to open a pipe would wait for its writer.
                if !std::fs::metadata(path)?.is_file() {
                    return Err(io::Error::other("expected a file"));
                }
                let mut bytes = Vec::new();
                let file = std::fs::File::open(path)?;
                let mut file = file.take(LONGEST_FILE as u64 + 1);
                file.read_to_end(&mut bytes).map(|_| bytes)
            },
            program: std::env::current_exe()
                .ok()
                .and_then(|file| file.file_name().map(OsString::from)),
            library: process::own_path(),
            built_in: BuiltIn::own(),
            threads: OwnThreads::Allowed,
        }
    }
}

impl Environment<'_> {
    /// A text file of at most [`LONGEST_FILE`] bytes.
    pub fn text(&self, path: &Path) -> io::Result<String> {
        let bytes = (self.file)(path)?;
        if bytes.len() > LONGEST_FILE {
            return Err(io::Error::other(format!(
                "longer than {LONGEST_FILE} bytes"
            )));
        }
        String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8"))
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Origin {
    Variable(&'static str),
    /// The settings file, and the line.
    File(PathBuf, usize),
    Built,
    /// Nothing says otherwise.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Variable(name) => f.write_str(name),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Built => f.write_str("the compiled-in value"),
            Origin::Default => f.write_str("the default"),
        }
    }
}

/// A value, and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found<T> {
    pub value: T,
    pub origin: Origin,
}

impl<T> Found<T> {
    /// The same with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Found<U> {
        Found {
            value: change(self.value),
            origin: self.origin,
        }
    }
}

/// The file's own form of each option.
macro_rules! options {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $variable:literal;)*) => {
        /// Every option, and the environment variable that counts more.
        pub const OPTIONS: &[(&str, &str)] = &[$((stringify!($name), $variable),)*];

        /// The options that may stand at the top of the file, and in each of its sections.
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct Options { $($(#[$doc])* pub $name: Option<Spanned<$type>>,)* }

        /// The whole file.
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            $($name: Option<Spanned<$type>>,)*
            /// For one alias each.
            #[serde(default)]
            aliases: BTreeMap<String, Options>,
            /// For one program each, by the name of its file.
            #[serde(default)]
            programs: BTreeMap<String, Options>,
        }

        impl Options {
            /// These, and for what they leave open the others.
            fn or(self, other: Options) -> Options {
                Options { $($name: self.$name.or(other.$name),)* }
            }
        }

        impl File {
            fn top(&mut self) -> Options {
                Options { $($name: self.$name.take(),)* }
            }
        }
    };
}

options! {
    /// Where the daemons listen.
    endpoints: Vec<Spanned<String>> = "PKCS11PROXY_SOCKET_PATH";
    /// The module's name in the daemon's filter.conf.
    alias: String = "PKCS11PROXY_LIBNAME";
    /// Seconds.
    timeout: i64 = "PKCS11PROXY_RPC_TIMEOUT";
    /// Milliseconds.
    slot_event_period: i64 = "PKCS11PROXY_SLOT_EVENT_PERIOD";
    /// The version of the protocol.
    protocol: i64 = "PKCS11PROXY_PROTOCOL";
    /// The newest version of PKCS#11 that is offered.
    interface: String = "PKCS11PROXY_INTERFACE";
    /// The description of vendors' mechanisms.
    mechanisms_file: PathBuf = "PKCS11PROXY_MECHANISMS_FILE";
    /// Whether the library outlives a connection.
    recover: bool = "PKCS11PROXY_RECOVER";
    /// Whether it keeps the PIN for that.
    keep_pin: bool = "PKCS11PROXY_KEEP_PIN";
    /// Whether a connection may begin with any of the daemons.
    spread: bool = "PKCS11PROXY_SPREAD";
    /// What is logged.
    log: String = "PKCS11PROXY_LOG";
    /// Where the log goes.
    log_to: PathBuf = "PKCS11PROXY_LOG_TO";
    /// Authorities of server certificates.
    ca_file: PathBuf = "PKCS11PROXY_CA_FILE";
    /// The client's certificate.
    cert_file: PathBuf = "PKCS11PROXY_CERT_FILE";
    /// Its private key.
    privkey_file: PathBuf = "PKCS11PROXY_PRIVKEY_FILE";
    /// The only server certificates to accept.
    server_certs_file: PathBuf = "PKCS11PROXY_SERVER_CERTS_FILE";
    /// The name that the server's certificate has to be for.
    verify_name: String = "PKCS11PROXY_VERIFY_NAME";
    /// A pre-shared key.
    psk_file: PathBuf = "PKCS11PROXY_PSK_FILE";
}

/// The settings file, as far as it concerns this process.
#[derive(Default)]
pub(super) struct Written {
    path: PathBuf,
    text: String,
    /// What holds for this process and alias.
    pub options: Options,
}

/// The same before the alias is known.
#[derive(Default)]
pub(super) struct Sections {
    written: Written,
    of_program: Options,
    of_aliases: BTreeMap<String, Options>,
    top: Options,
}

impl Sections {
    /// The file that was read, if there was one.
    pub fn path(&self) -> Option<&Path> {
        let path = self.written.path.as_path();
        (!path.as_os_str().is_empty()).then_some(path)
    }

    /// Reads the file. There need not be one, unless a variable names it.
    pub fn read(environment: &Environment<'_>) -> Result<Sections, SettingsError> {
        let named = (environment.variable)("PKCS11PROXY_CONF").filter(|path| !path.is_empty());
        let is_named = named.is_some();
        let path = named.map_or(PathBuf::from(FILE), PathBuf::from);
        let text = match environment.text(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_named => {
                return Ok(Sections::default());
            }
            Err(error) => return Err(SettingsError::File(path, error)),
        };
        let mut file: File = match toml::from_str(&text) {
            Ok(file) => file,
            Err(error) => {
                let line = line_of(&text, error.span().map_or(0, |span| span.start));
                let what = error.message().replace('\n', " ");
                return Err(SettingsError::Syntax(Origin::File(path, line), what));
            }
        };
        let top = file.top();
        let of_program = match &environment.program {
            _ if file.programs.is_empty() => None,
            Some(program) => program.to_str().and_then(|it| file.programs.remove(it)),
            None => return Err(SettingsError::Program(path)),
        };
        let written = Written {
            path,
            text,
            options: Options::default(),
        };
        if let Some(alias) = file.aliases.values().find_map(|it| it.alias.as_ref()) {
            return Err(SettingsError::AliasInAlias(written.origin(alias)));
        }
        Ok(Sections {
            written,
            of_program: of_program.unwrap_or_default(),
            of_aliases: file.aliases,
            top,
        })
    }

    /// The alias that the file names.
    pub fn alias(&self) -> Option<Found<String>> {
        let alias = self.of_program.alias.as_ref().or(self.top.alias.as_ref())?;
        Some(Found {
            value: alias.get_ref().clone(),
            origin: self.written.origin(alias),
        })
    }

    /// What holds for this alias.
    pub fn of_alias(mut self, alias: &[u8]) -> Written {
        let name = std::str::from_utf8(alias).ok();
        let of_alias = name.and_then(|name| self.of_aliases.remove(name));
        let special = self.of_program.or(of_alias.unwrap_or_default());
        Written {
            options: special.or(self.top),
            ..self.written
        }
    }
}

impl Written {
    /// Where a value stands.
    pub fn origin<T>(&self, value: &Spanned<T>) -> Origin {
        let line = line_of(&self.text, value.span().start);
        Origin::File(self.path.clone(), line)
    }

    /// An option of the file.
    pub fn found<T: Clone>(&self, option: &Option<Spanned<T>>) -> Option<Found<T>> {
        option.as_ref().map(|value| Found {
            value: value.get_ref().clone(),
            origin: self.origin(value),
        })
    }
}

fn line_of(text: &str, place: usize) -> usize {
    let before = text.as_bytes().get(..place).unwrap_or_default();
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}
