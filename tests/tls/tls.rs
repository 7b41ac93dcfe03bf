//! Starts daemons and clients with certificates.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::support::certificates::certificate;
use super::support::compile::program;
use super::support::processes::{Outcome, run};
use super::support::{Daemon, Endpoint, Library, Maker, Setup, Stack, Token};

/// What the original's package ships as a sample.
pub const SHIPPED: &str = "SECURE256:+SECURE128:-VERS-TLS-ALL:+VERS-TLS1.2:-RSA:-DHE-DSS:-CAMELLIA-128-CBC:-CAMELLIA-256-CBC";

/// A `tls` section.
pub struct Tls {
    /// `algorithms`, if given.
    pub algorithms: Option<&'static str>,
    /// Names of certificates with their keys.
    pub keys: Vec<&'static str>,
    /// Names of authorities.
    pub trust: Vec<&'static str>,
    /// More of `x509`.
    pub x509: String,
    /// More of `tls`.
    pub more: String,
}

impl Default for Tls {
    fn default() -> Self {
        let (keys, trust) = (vec!["server"], vec!["ca"]);
        Tls {
            algorithms: None,
            keys,
            trust,
            x509: String::new(),
            more: String::new(),
        }
    }
}

impl Tls {
    /// As text, with `peer_auth`.
    pub fn section(&self) -> String {
        let file = |name: &str, suffix| certificate(&format!("{name}.{suffix}"));
        let keys = self.keys.iter().map(|name| {
            let (crt, key) = (file(name, "pem"), file(name, "key"));
            format!("key {{ crt_file = \"{crt}\"; key_file = \"{key}\" }};")
        });
        let trust = self
            .trust
            .iter()
            .map(|name| format!("trust {{ crt_file = \"{}\" }};", file(name, "pem")));
        let algorithms = self
            .algorithms
            .map(|text| format!("algorithms = \"{text}\";"));
        format!(
            "tls {{ {} peer_auth = \"required\"; {} x509 {{ {} {} {} }} }};",
            algorithms.unwrap_or_default(),
            self.more,
            keys.collect::<String>(),
            trust.collect::<String>(),
            self.x509,
        )
    }

    /// A daemon's set-up with it.
    pub fn setup(&self, maker: Maker, endpoint: Endpoint, token: &Token) -> Setup {
        let mut setup = Setup::new(maker, endpoint, token);
        setup.use_ssl = true;
        setup.processor = self.section();
        setup
    }
}

/// The library that speaks TLS.
pub fn library(maker: Maker) -> Library {
    match maker {
        Maker::Original => Library::OriginalTls,
        Maker::Ours => Library::OursTls,
    }
}

/// A pair over TCP.
pub fn stack(client: Maker, daemon: Maker, tls: &Tls) -> Stack {
    let token = Token::new();
    let daemon = tls.setup(daemon, Endpoint::Tcp, &token).start();
    Stack {
        library: library(client),
        daemon: Some(daemon),
        token,
        protocol: None,
    }
}

/// A client's variables: the authority, and its own certificate by name.
pub fn variables(authority: &str, own: &str) -> [(&'static str, String); 3] {
    [
        (
            "PKCS11PROXY_CA_FILE",
            certificate(&format!("{authority}.pem")),
        ),
        ("PKCS11PROXY_CERT_FILE", certificate(&format!("{own}.pem"))),
        (
            "PKCS11PROXY_PRIVKEY_FILE",
            certificate(&format!("{own}.key")),
        ),
    ]
}

/// What every client starts from: a daemon's address, and the certificate `own`.
pub fn command(program: impl Into<PathBuf>, daemon: &Daemon, own: &str) -> Command {
    let mut command = Command::new(program.into());
    command
        .env("PKCS11PROXY_SOCKET_PATH", daemon.address())
        .env("PKCS11PROXY_LIBNAME", "softhsm")
        .env("PKCS11PROXY_RPC_TIMEOUT", "20")
        .env("PKCS11PROXY_LOG", "debug")
        .env("SOFTHSM2_CONF", "/nonexistent/softhsm2.conf")
        .envs(variables("ca", own));
    command
}

/// Lists slots: the shortest there is.
pub fn list_slots(maker: Maker, daemon: &Daemon, own: &str, more: &[(&str, &str)]) -> Outcome {
    let mut command = command("pkcs11-tool", daemon, own);
    command
        .arg("--module")
        .arg(library(maker).path())
        .arg("--list-slots");
    run(with(command, more), Duration::from_secs(40))
}

/// A command with more variables; an empty value takes one away.
pub fn with(mut command: Command, more: &[(&str, &str)]) -> Command {
    for (name, value) in more {
        match value.is_empty() {
            true => command.env_remove(name),
            false => command.env(name, value),
        };
    }
    command
}

/// Whether a client was served.
pub fn is_served(outcome: &Outcome) -> bool {
    outcome.status.success() && outcome.stdout.contains("SoftHSM slot ID")
}

/// Fails unless our client with that certificate is served.
pub fn serves(daemon: &Daemon, own: &str, more: &[(&str, &str)]) {
    let outcome = list_slots(Maker::Ours, daemon, own, more);
    assert!(
        is_served(&outcome),
        "{own} {more:?}: {}\n{}\n{}",
        outcome.stdout,
        outcome.stderr,
        daemon.log()
    );
}

/// A C program of `tests/support`, with a library and arguments.
pub fn c_program(name: &str, maker: Maker, daemon: &Daemon, arguments: &[&str]) -> Command {
    let mut command = command(program(name), daemon, "client");
    command.arg(library(maker).path()).args(arguments);
    command
}
