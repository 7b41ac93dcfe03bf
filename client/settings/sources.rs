//! Finds the value of each option: in the environment, in the sections of the settings file, or among the values that
//! are compiled in.
//!
//! The environment takes precedence, then the section of the program, that of the alias, and the top of the file. In a
//! program with privileges of its own (AT_SECURE: set-user-id, set-group-id, file capabilities) the environment is
//! ignored, because it belongs to the user who started the program. The table `options!` lists what the file may
//! contain.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bindings::process;
use serde::Deserialize;
use toml::Spanned;

use super::SettingsError;
use super::built_in::BuiltIn;
use crate::socket::OwnThreads;

/// The longest file that is read, in bytes.
pub(super) const LONGEST_FILE: usize = 1 << 20;

/// The settings file, unless `PKCS11PROXY_CONF` names another.
pub(crate) const FILE: &str = "/etc/pkcs11proxyd/client.conf";

/// Everything from which [`Settings`](super::Settings) are read. [`Environment::process`] is the real one.
pub(crate) struct Environment<'a> {
    /// Returns the value of an environment variable, if it is set and not to be ignored.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// Returns the first bytes of a file, up to one more than [`LONGEST_FILE`].
    pub file: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// The name of the program's file, if it is known.
    pub program: Option<OsString>,
    /// The file from which this library was loaded.
    pub library: Option<PathBuf>,
    /// What is compiled into this library.
    pub built_in: BuiltIn<'a>,
    /// Whether the application lets this library start threads, as it does unless C_Initialize forbids it.
    pub threads: OwnThreads,
}

impl Environment<'static> {
    /// Returns the environment of this process, and the values compiled into this library.
    pub fn process() -> Environment<'static> {
        Environment {
            variable: match process::is_privileged() {
                true => &|_| None,
                false => &|name| std::env::var_os(name),
            },
            file: &|path| {
                use io::Read;
                // Checked first, because opening a pipe would wait for its writer.
                if !std::fs::metadata(path)?.is_file() {
                    return Err(io::Error::other("expected a file"));
                }
                let mut bytes = Vec::new();
                let file = std::fs::File::open(path)?;
                let mut file = file.take(LONGEST_FILE as u64 + 1);
                file.read_to_end(&mut bytes).map(|_| bytes)
            },
            program: std::env::current_exe().ok().and_then(name_of_program),
            library: process::own_path(),
            built_in: BuiltIn::own(),
            threads: OwnThreads::Allowed,
        }
    }
}

/// Returns the name of a program's file. If the file was deleted or replaced since the program was started, as at an
/// upgrade, Linux appends a word to the path (proc_pid_exe(5)), which is not part of the name.
fn name_of_program(file: PathBuf) -> Option<OsString> {
    let name = file.file_name()?;
    let deleted = name.as_bytes().strip_suffix(b" (deleted)");
    match deleted.filter(|_| !file.exists()) {
        Some(name) => Some(OsStr::from_bytes(name).to_owned()),
        None => Some(name.to_owned()),
    }
}

impl Environment<'_> {
    /// Reads a text file of at most [`LONGEST_FILE`] bytes.
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

/// Returns the path of the settings file, and whether a variable names it.
pub(super) fn file_of(environment: &Environment<'_>) -> (PathBuf, bool) {
    let named = (environment.variable)("PKCS11PROXY_CONF").filter(|path| !path.is_empty());
    let is_named = named.is_some();
    (named.map_or(PathBuf::from(FILE), PathBuf::from), is_named)
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Origin {
    Variable(&'static str),
    /// The settings file, and the number of the line.
    File(PathBuf, usize),
    Built,
    /// The default, because nothing sets the value.
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

/// A value, and its origin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found<T> {
    pub value: T,
    pub origin: Origin,
}

impl<T> Found<T> {
    /// Replaces the value and keeps the origin.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Found<U> {
        Found {
            value: change(self.value),
            origin: self.origin,
        }
    }
}

/// Defines the options of the file: the name, type and environment variable of each.
macro_rules! options {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $variable:literal;)*) => {
        /// Every option, with the environment variable that takes precedence over it.
        pub const OPTIONS: &[(&str, &str)] = &[$((stringify!($name), $variable),)*];

        /// The options that are allowed at the top of the file, and in each of its sections.
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct Options { $($(#[$doc])* pub $name: Option<Spanned<$type>>,)* }

        /// The whole file.
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            $($name: Option<Spanned<$type>>,)*
            /// The sections for aliases.
            #[serde(default)]
            aliases: BTreeMap<String, Options>,
            /// The sections for programs, by the name of the program's file.
            #[serde(default)]
            programs: BTreeMap<String, Options>,
        }

        impl Options {
            /// Returns these options; those that are not set come from `other`.
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
    /// The timeout in seconds.
    timeout: i64 = "PKCS11PROXY_RPC_TIMEOUT";
    /// The pause in milliseconds.
    slot_event_period: i64 = "PKCS11PROXY_SLOT_EVENT_PERIOD";
    /// The version of the protocol.
    protocol: i64 = "PKCS11PROXY_PROTOCOL";
    /// The newest version of PKCS#11 that is offered.
    interface: String = "PKCS11PROXY_INTERFACE";
    /// The description of vendors' mechanisms.
    mechanisms_file: PathBuf = "PKCS11PROXY_MECHANISMS_FILE";
    /// Whether the library survives the loss of a connection.
    recover: bool = "PKCS11PROXY_RECOVER";
    /// Whether it keeps the PIN for that purpose.
    keep_pin: bool = "PKCS11PROXY_KEEP_PIN";
    /// Whether the daemon to try first is chosen at random.
    spread: bool = "PKCS11PROXY_SPREAD";
    /// What is logged.
    log: String = "PKCS11PROXY_LOG";
    /// Where the log goes.
    log_to: PathBuf = "PKCS11PROXY_LOG_TO";
    /// The CAs of server certificates.
    ca_file: PathBuf = "PKCS11PROXY_CA_FILE";
    /// The client's certificate.
    cert_file: PathBuf = "PKCS11PROXY_CERT_FILE";
    /// Its private key.
    privkey_file: PathBuf = "PKCS11PROXY_PRIVKEY_FILE";
    /// The server certificates that are accepted.
    server_certs_file: PathBuf = "PKCS11PROXY_SERVER_CERTS_FILE";
    /// The name for which the server's certificate must be valid.
    verify_name: String = "PKCS11PROXY_VERIFY_NAME";
    /// The file with the pre-shared key.
    psk_file: PathBuf = "PKCS11PROXY_PSK_FILE";
}

/// The part of the settings file that applies to this process.
#[derive(Default)]
pub(super) struct Written {
    path: PathBuf,
    text: String,
    /// The options that apply to this process and alias.
    pub options: Options,
}

/// The settings file before the alias is known.
#[derive(Default)]
pub(super) struct Sections {
    written: Written,
    of_program: Options,
    of_aliases: BTreeMap<String, Options>,
    top: Options,
}

impl Sections {
    /// Returns the file that was read, if there was one.
    pub fn path(&self) -> Option<&Path> {
        let path = self.written.path.as_path();
        (!path.as_os_str().is_empty()).then_some(path)
    }

    /// Reads the file. It may be missing, unless a variable names it.
    pub fn read(environment: &Environment<'_>) -> Result<Sections, SettingsError> {
        let (path, is_named) = file_of(environment);
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

    /// Returns the alias that the file sets.
    pub fn alias(&self) -> Option<Found<String>> {
        let alias = self.of_program.alias.as_ref().or(self.top.alias.as_ref())?;
        Some(Found {
            value: alias.get_ref().clone(),
            origin: self.written.origin(alias),
        })
    }

    /// Returns what applies with this alias.
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
    /// Returns where a value is written.
    pub fn origin<T>(&self, value: &Spanned<T>) -> Origin {
        let line = line_of(&self.text, value.span().start);
        Origin::File(self.path.clone(), line)
    }

    /// Returns an option of the file, with its origin.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_keeps_its_name_when_its_file_is_replaced() {
        let name = |path: PathBuf| name_of_program(path).unwrap();
        assert_eq!(name("/usr/sbin/nginx".into()), "nginx");
        assert_eq!(name("/nonexistent/nginx (deleted)".into()), "nginx");
        let file = format!("p11client {} (deleted)", std::process::id());
        let path = std::env::temp_dir().join(&file);
        std::fs::write(&path, "").unwrap();
        let of_existing = name(path.clone());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(of_existing, OsStr::new(&file));
    }
}
