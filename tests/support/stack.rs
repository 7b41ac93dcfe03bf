//! Connects an application to a token: through a client library and a daemon, or directly to SoftHSM.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use super::certificates::certificate;
use super::compile::program;
use super::processes::{Outcome, Running, run};
use super::{Daemon, Endpoint, Maker, SOFTHSM, Token};

/// A PKCS#11 library an application can load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// SoftHSM in the application's own process.
    Direct,
    /// Debian's libp11clienttcp.so.
    OriginalTcp,
    /// Debian's libp11clientunix.so.
    OriginalUnix,
    /// Debian's libp11clienttcpssl.so.
    OriginalTls,
    /// Our libp11client.so, for both kinds of address.
    Ours,
    /// A copy of ours with the name of Debian's TLS library, by which it speaks TLS.
    OursTls,
}

impl Library {
    /// A maker's library for an endpoint.
    pub fn of(maker: Maker, endpoint: Endpoint) -> Self {
        match (maker, endpoint) {
            (Maker::Ours, _) => Self::Ours,
            (Maker::Original, Endpoint::Tcp) => Self::OriginalTcp,
            (Maker::Original, Endpoint::Unix) => Self::OriginalUnix,
        }
    }

    /// The file to load.
    pub fn path(self) -> PathBuf {
        match self {
            Self::Direct => SOFTHSM.into(),
            Self::OriginalTcp => debian("libp11clienttcp.so"),
            Self::OriginalUnix => debian("libp11clientunix.so"),
            Self::OriginalTls => debian("libp11clienttcpssl.so"),
            Self::Ours => our_library(),
            Self::OursTls => our_tls_library(),
        }
    }
}

/// A library of the package caml-crush-clients.
fn debian(name: &str) -> PathBuf {
    let arch = std::env::consts::ARCH;
    format!("/usr/lib/{arch}-linux-gnu/caml-crush/{name}").into()
}

/// A library's name as it is installed decides whether it speaks TLS.
fn our_tls_library() -> PathBuf {
    let built = our_library();
    let modified = built.metadata().and_then(|file| file.modified());
    let modified = modified.expect("a library that was found has a time");
    let age = modified
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("client-{age}"));
    let named = directory.join("libp11clienttcpssl.so");
    if !named.exists() {
        // Tests are processes that start at once: the rename puts a whole file into place.
        let thread = std::thread::current().id();
        let draft = directory.join(format!("{}-{thread:?}.draft", std::process::id()));
        fs::create_dir_all(&directory)
            .and_then(|()| fs::copy(&built, &draft))
            .and_then(|_| fs::rename(&draft, &named))
            .unwrap_or_else(|error| panic!("cannot make {}: {error}", named.display()));
    }
    named
}

/// The cdylib that cargo built as a dependency of this test: `deps/libp11client.so` beside the test
/// itself, or the link to it one level up, which a plain `cargo build` refreshes.
fn our_library() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let deps = test.parent().expect("a file is in a directory");
    [Some(deps), deps.parent()]
        .into_iter()
        .flatten()
        .map(|directory| directory.join("libp11client.so"))
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
        .unwrap_or_else(|| panic!("no libp11client.so near {}", test.display()))
}

/// A library, what it needs in its environment, and what is behind it.
pub struct Stack {
    /// The library.
    pub library: Library,
    /// The daemon it talks to.
    pub daemon: Option<Daemon>,
    /// The token at the end.
    pub token: Token,
    /// The version of the protocol that our library is told to speak.
    pub protocol: Option<u32>,
}

impl Stack {
    /// SoftHSM without anything between.
    pub fn direct(token: Token) -> Self {
        Self {
            library: Library::Direct,
            daemon: None,
            token,
            protocol: None,
        }
    }

    /// A client library, a connection, a daemon, SoftHSM.
    pub fn through(client: Maker, daemon: Maker, endpoint: Endpoint, token: Token) -> Self {
        let daemon = match daemon {
            Maker::Original => Daemon::original(endpoint, &token),
            Maker::Ours => Daemon::ours(endpoint, &token),
        };
        Self {
            library: Library::of(client, endpoint),
            daemon: Some(daemon),
            token,
            protocol: None,
        }
    }

    /// The daemon; panics when SoftHSM is loaded directly.
    pub fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("this stack has a daemon")
    }

    /// A command with the library's environment: where the daemon is, but not where the token is,
    /// so that only a daemon reaches it.
    pub fn command(&self, program: impl Into<PathBuf>) -> Command {
        let mut command = Command::new(program.into());
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("PKCS11PROXY_") || name_text.starts_with("SOFTHSM2_") {
                command.env_remove(&name);
            }
        }
        match &self.daemon {
            None => command.env("SOFTHSM2_CONF", self.token.configuration()),
            Some(daemon) => command
                .env("SOFTHSM2_CONF", "/nonexistent/softhsm2.conf")
                .env("PKCS11PROXY_SOCKET_PATH", daemon.address())
                .env("PKCS11PROXY_LIBNAME", "softhsm")
                .env("PKCS11PROXY_RPC_TIMEOUT", "20"),
        };
        if let Some(protocol) = self.protocol {
            command.env("PKCS11PROXY_PROTOCOL", protocol.to_string());
        }
        if matches!(self.library, Library::OriginalTls | Library::OursTls) {
            command
                .env("PKCS11PROXY_CA_FILE", certificate("ca.pem"))
                .env("PKCS11PROXY_CERT_FILE", certificate("client.pem"))
                .env("PKCS11PROXY_PRIVKEY_FILE", certificate("client.key"));
        }
        command
    }

    /// Runs a C program of `tests/support` with the library and these arguments.
    pub fn run(&self, name: &str, arguments: &[&str], limit: Duration) -> Outcome {
        run(self.program(name, arguments), limit)
    }

    /// Starts one.
    pub fn start(&self, name: &str, arguments: &[&str]) -> Running {
        Running::start(self.program(name, arguments))
    }

    /// The command that runs one.
    pub fn program(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = self.command(program(name));
        command.arg(self.library.path()).args(arguments);
        command
    }
}
