//! Tests applications over TLS: with threads and forks, and ones that use OpenSSL themselves.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::support::compile::module;
use super::support::processes::run;
use super::support::{Daemon, Directory, Endpoint, Library, Maker, Token};
use super::tls::{Tls, c_program, command, is_served, library, list_slots, serves};

use Maker::{Original, Ours};

/// Runs a mode of `threads.c`; every line has to say yes.
fn threads(client: Maker, daemon_maker: Maker, mode: &str) {
    let token = Token::new();
    let daemon = Tls::default()
        .setup(daemon_maker, Endpoint::Tcp, &token)
        .start();
    let pid = daemon.process().pid.to_string();
    let outcome = run(
        c_program("threads", client, &daemon, &[mode, &pid]),
        Duration::from_secs(90),
    );
    let said = format!(
        "{mode}: {}\n{}\n{}",
        outcome.status, outcome.stdout, outcome.stderr
    );
    assert!(
        outcome.status.success() && !outcome.stdout.contains("NO"),
        "{said}"
    );
}

#[test]
fn threads_sign_at_once() {
    threads(Ours, Ours, "threads");
    threads(Original, Ours, "threads");
}

/// The original's child ends its parent's TLS session.
#[test]
fn a_forked_child_leaves_its_parents_connection_alone() {
    threads(Ours, Ours, "fork");
    threads(Ours, Ours, "forkbusy");
}

/// Not even the end of TLS is sent there.
#[test]
fn a_program_may_close_every_descriptor() {
    threads(Ours, Ours, "closed");
}

#[test]
fn the_client_recovers_from_the_death_of_its_worker() {
    threads(Ours, Ours, "death");
}

#[test]
fn no_pin_key_or_plaintext_stays_in_an_application() {
    threads(Ours, Ours, "secrets");
}

/// An openssl.cnf with Debian's engine in front of our TLS library.
struct Engine {
    directory: Directory,
}

impl Engine {
    fn new(more: &str) -> Engine {
        let directory = Directory::new();
        let arch = std::env::consts::ARCH;
        let text = format!(
            "openssl_conf = init\n[init]\nengines = engines\n[engines]\npkcs11 = section\n[section]\n\
             engine_id = pkcs11\ndynamic_path = /usr/lib/{arch}-linux-gnu/engines-3/pkcs11.so\n\
             MODULE_PATH = {}\nPIN = {}\n{more}\ninit = 1\n",
            library(Ours).path().display(),
            Token::PIN,
        );
        fs::write(directory.join("openssl.cnf"), text).expect("a new directory");
        Engine { directory }
    }

    fn environment(&self, command: &mut Command) {
        command.env("OPENSSL_CONF", self.directory.join("openssl.cnf"));
    }
}

fn daemon_with_key() -> (Daemon, Token) {
    let token = Token::new().with_rsa_key();
    let daemon = Tls::default().setup(Ours, Endpoint::Tcp, &token).start();
    (daemon, token)
}

#[test]
fn openssl_signs_through_its_engine_and_our_tls_library() {
    let (daemon, _token) = daemon_with_key();
    for more in ["", "default_algorithms = ALL"] {
        let engine = Engine::new(more);
        let data = engine.directory.join("data");
        fs::write(&data, "to be signed").expect("a new directory");
        let signature = engine.directory.join("signature");
        let mut sign = command("openssl", &daemon, "client");
        engine.environment(&mut sign);
        sign.args(["dgst", "-sha256", "-engine", "pkcs11", "-keyform", "engine"]);
        sign.args([
            "-sign",
            "pkcs11:token=e2e;object=e2e-rsa;type=private",
            "-out",
        ]);
        sign.arg(&signature).arg(&data);
        let outcome = run(sign, Duration::from_secs(30));
        assert!(
            outcome.status.success(),
            "{more}: {}{}",
            outcome.stdout,
            outcome.stderr
        );
        assert_eq!(fs::metadata(&signature).expect("it was written").len(), 256);
    }
}

/// An application without OpenSSL of its own, whose openssl.cnf loads our library by the engine.
#[test]
fn an_engine_that_loads_our_library_does_not_disturb_other_applications() {
    let (daemon, _token) = daemon_with_key();
    for more in ["", "default_algorithms = ALL"] {
        let engine = Engine::new(more);
        let conf = engine.directory.join("openssl.cnf").display().to_string();
        let outcome = list_slots(Ours, &daemon, "client", &[("OPENSSL_CONF", &conf)]);
        assert!(
            is_served(&outcome),
            "{more}: {}{}",
            outcome.stdout,
            outcome.stderr
        );
        let mut threads = c_program("threads", Ours, &daemon, &["fork", "0"]);
        engine.environment(&mut threads);
        let outcome = run(threads, Duration::from_secs(60));
        assert!(
            outcome.status.success(),
            "{more}: {}{}",
            outcome.stdout,
            outcome.stderr
        );
    }
}

/// A provider that calls C_Initialize while OpenSSL reads its configuration, which our own
/// C_Initialize has it do.
#[test]
fn a_provider_that_calls_us_while_we_initialise_openssl_is_served() {
    let (daemon, _token) = daemon_with_key();
    let directory = Directory::new();
    let provider: PathBuf = module("recursing");
    let text = format!(
        "openssl_conf = init\n[init]\nproviders = providers\n[providers]\ndefault = on\n\
         recursing = recursing\n[on]\nactivate = 1\n[recursing]\nmodule = {}\nactivate = 1\n",
        provider.display(),
    );
    fs::write(directory.join("openssl.cnf"), text).expect("a new directory");
    let mut application = c_program("nested", Ours, &daemon, &[]);
    application.env("OPENSSL_CONF", directory.join("openssl.cnf"));
    application.env("RECURSING_LIBRARY", library(Ours).path());
    let outcome = run(application, Duration::from_secs(20));
    let said = format!("{}\n{}\n{}", outcome.status, outcome.stdout, outcome.stderr);
    assert!(
        outcome.status.success() && !outcome.stdout.contains("NO"),
        "{said}"
    );
    assert!(
        outcome
            .stdout
            .contains("C_Initialize within the provider -> yes"),
        "{said}"
    );
}

/// TLS files alone mean TLS.
#[test]
fn the_name_of_the_library_the_endpoint_or_the_files_choose_tls() {
    let (daemon, _token) = daemon_with_key();
    serves(&daemon, "client", &[]);
    let with = |library: Library, address: String| {
        let mut command = command("pkcs11-tool", &daemon, "client");
        command.env("PKCS11PROXY_SOCKET_PATH", address);
        command
            .arg("--module")
            .arg(library.path())
            .arg("--list-slots");
        is_served(&run(command, Duration::from_secs(20)))
    };
    assert!(with(Library::Ours, format!("tls:{}", daemon.address())));
    assert!(with(Library::Ours, daemon.address()));
    assert!(!with(Library::Ours, format!("tcp:{}", daemon.address())));
}

/// A child that forks and exits writes nothing to its parent's connection, nor closes it for it.
#[test]
fn a_child_that_only_exits_writes_nothing() {
    let (daemon, _token) = daemon_with_key();
    let trace = Directory::new();
    let mut traced = Command::new("strace");
    traced.args([
        "-f",
        "-e",
        "trace=sendmsg,sendto,write,shutdown,exit_group,clone,clone3,fork,vfork",
    ]);
    traced.arg("-o").arg(trace.join("trace"));
    let inner = c_program("nested", Ours, &daemon, &["fork"]);
    traced.arg(inner.get_program()).args(inner.get_args());
    traced.envs(
        inner
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    traced.env_remove("PKCS11PROXY_LOG");
    let outcome = run(traced, Duration::from_secs(30));
    assert!(
        outcome.status.success() && !outcome.stdout.contains("NO"),
        "{}",
        outcome.stdout
    );
    let text = fs::read_to_string(trace.join("trace")).expect("strace is installed");
    let parent = text
        .split_whitespace()
        .next()
        .expect("strace wrote something");
    let child: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with(parent))
        .collect();
    assert!(
        child.iter().any(|line| line.contains("exit_group")),
        "{text}"
    );
    assert!(
        !child
            .iter()
            .any(|line| line.contains("send") || line.contains("shutdown")),
        "{child:#?}"
    );
}
