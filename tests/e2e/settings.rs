//! Tests where the library's settings come from, with programs that use it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::support::built_in;
use super::support::certificates::certificate;
use super::support::compile::program;
use super::support::processes::{Outcome, run};
use super::support::stack::{Library, Stack};
use super::support::{Directory, Endpoint, Maker, SOFTHSM, Setup, Token};

const LONG: Duration = Duration::from_secs(60);

/// The user and group `nobody`.
const NOBODY: u32 = 65534;

fn stack() -> Stack {
    Stack::through(Maker::Ours, Maker::Ours, Endpoint::Tcp, Token::new())
}

/// C_Initialize with these settings instead of those of the stack.
fn starts(stack: &Stack, variables: &[(&str, &str)]) -> Outcome {
    let mut command = stack.command(program("starts"));
    for name in ["SOCKET_PATH", "LIBNAME", "RPC_TIMEOUT"] {
        command.env_remove(format!("PKCS11PROXY_{name}"));
    }
    command
        .env("PKCS11PROXY_LOG", "info")
        .envs(variables.iter().copied())
        .arg(stack.library.path());
    run(command, LONG)
}

/// As a library of Caml Crush that is built with an empty name.
#[test]
fn a_library_without_an_alias_asks_for_the_module_without_a_name() {
    let token = Token::new();
    let home = Directory::new();
    for filtered in [true, false] {
        for (alias, expected) in [("", "0\n"), ("softhsm", "0x30\n")] {
            let mut setup = Setup::new(Maker::Ours, Endpoint::Tcp, &token);
            setup.filtered = filtered;
            setup.modules = vec![(alias.into(), SOFTHSM.into())];
            let stack = Stack {
                library: Library::Ours,
                daemon: Some(setup.start()),
                token: Token::new(),
                protocol: None,
            };
            let mut command = stack.program("starts", &[]);
            command
                .env_remove("PKCS11PROXY_LIBNAME")
                .env("PKCS11PROXY_LOG", "error")
                .env("HOME", home.path());
            let outcome = run(command, LONG);
            assert_eq!(outcome.stdout, expected, "{}", outcome.stderr);
            let advice = "; set PKCS11PROXY_LIBNAME, or alias in the settings file; or give a module the name \"\"";
            let advised = outcome.stderr.contains(advice);
            assert_eq!(advised, !alias.is_empty(), "{}", outcome.stderr);
        }
    }
}

#[test]
fn a_settings_file_is_all_that_a_program_needs() {
    let mut stack = stack();
    let address = stack.daemon().address();
    let directory = Directory::new();
    let file = directory.join("client.conf");
    let started = |text: &str| {
        fs::write(&file, text).expect("a new directory");
        starts(&stack, &[("PKCS11PROXY_CONF", file.to_str().unwrap())])
    };
    // Nobody listens at the first.
    let both = format!("alias = \"softhsm\"\nendpoints = [\"127.0.0.1:1\", \"tcp:{address}\"]\n");
    let outcome = started(&both);
    assert_eq!(outcome.stdout, "0\n", "{}", outcome.stderr);
    let told = "without TLS, as the endpoint says";
    assert!(
        outcome
            .stderr
            .contains("cannot connect to 127.0.0.1 port 1")
    );
    assert!(outcome.stderr.contains(told), "{}", outcome.stderr);

    let own = format!("endpoints = [\"{address}\"]\n[programs.other]\nalias = \"none\"\n");
    let of_program = program("starts");
    let name = of_program.file_name().and_then(|name| name.to_str());
    let name = name.expect("a name");
    let outcome = started(&format!("{own}[programs.{name}]\nalias = \"softhsm\"\n"));
    assert_eq!(outcome.stdout, "0\n", "{}", outcome.stderr);

    let outcome = started(&format!("{both}speed = 3\n"));
    assert_eq!(outcome.stdout, "0x30\n");
    let place = format!("{}:3: ", file.display());
    assert_eq!(
        outcome.stderr.matches(&place).count(),
        1,
        "{}",
        outcome.stderr
    );
}

#[test]
fn the_log_goes_where_the_settings_say() {
    let mut stack = stack();
    let address = stack.daemon().address();
    let directory = Directory::new();
    let file = directory.join("p11client.log");
    let started = |level: &str, to: &str| {
        let variables = [
            ("PKCS11PROXY_SOCKET_PATH", address.as_str()),
            ("PKCS11PROXY_LIBNAME", "softhsm"),
            ("PKCS11PROXY_LOG", level),
            ("PKCS11PROXY_LOG_TO", to),
        ];
        starts(&stack, &variables)
    };
    let path = file.to_str().expect("a path");
    for _ in 0..2 {
        let outcome = started("info/connected", path);
        assert_eq!(
            (outcome.stdout.as_str(), outcome.stderr.as_str()),
            ("0\n", "")
        );
    }
    let written = fs::read_to_string(&file).expect("a log");
    let lines: Vec<&str> = written.lines().collect();
    let [connected, _, again, _] = lines[..] else {
        panic!("{written}");
    };
    for line in [connected, again] {
        let (time, rest) = line.split_once(' ').expect("a time");
        assert!(time.ends_with('Z') && time.contains('T'), "{line}");
        assert!(rest.contains("INFO: connected to "), "{line}");
    }
    let mode = file.metadata().expect("a log").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let missing = directory.join("none/log");
    let outcome = started("info", missing.to_str().expect("a path"));
    assert_eq!(outcome.stdout, "0x30\n");
    assert!(
        outcome.stderr.contains("the log cannot be written to"),
        "{}",
        outcome.stderr
    );
    let outcome = started("wran", path);
    assert_eq!(outcome.stdout, "0x30\n");
    let written = fs::read_to_string(&file).expect("a log");
    assert!(
        written.ends_with("returning CKR_DEVICE_ERROR\n"),
        "{written}"
    );
    assert!(
        written.contains("PKCS11PROXY_LOG: expected off, error"),
        "{written}"
    );
}

/// It belongs to whoever started it. Needs root.
#[test]
fn the_environment_of_a_set_user_id_program_does_not_count() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can make a set-user-id program of another user");
        return;
    }
    let mut stack = stack();
    let address = stack.daemon().address();
    let public = Directory::new();
    let copy = |from: &Path, name: &str, mode: u32| {
        let to = public.join(name);
        fs::copy(from, &to).expect("a copy");
        fs::set_permissions(&to, fs::Permissions::from_mode(mode)).expect("a mode");
        to
    };
    fs::set_permissions(public.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let library = copy(&stack.library.path(), "libp11client.so", 0o755);
    let plain = copy(&program("starts"), "plain", 0o755);
    let privileged = copy(&program("starts"), "privileged", 0o4755);
    fs::write(public.join("home"), "").expect("a new directory");
    let started = |program: &Path| {
        let mut command = Command::new(program);
        command
            .env("PKCS11PROXY_SOCKET_PATH", &address)
            .env("PKCS11PROXY_LIBNAME", "softhsm")
            .env("PKCS11PROXY_LOG", "trace")
            .env("PKCS11PROXY_CONF", "/nonexistent/client.conf")
            .arg(&library)
            .uid(NOBODY)
            .gid(NOBODY);
        if program == plain {
            command.env_remove("PKCS11PROXY_CONF");
        }
        run(command, LONG)
    };
    let outcome = started(&plain);
    assert_eq!(outcome.stdout, "0\n", "{}", outcome.stderr);
    let outcome = started(&privileged);
    assert_eq!(outcome.stdout, "0x30\n", "{}", outcome.stderr);
    assert_eq!(outcome.stderr, "");
}

/// Under another name, through a copy or a link.
#[test]
fn a_library_built_for_tls_never_speaks_anything_else() {
    let mut stack = stack();
    let address = stack.daemon().address();
    let directory = Directory::new();
    let (copy, link) = (directory.join("vendor.so"), directory.join("link.so"));
    built_in::build("libp11clienttcpssl.so", &[], &copy);
    symlink(&copy, &link).expect("a link");
    for library in [&copy, &link] {
        for (endpoint, tls, told) in [
            (address.clone(), true, "TLS handshake"),
            (address.clone(), false, "neither PKCS11PROXY_CA_FILE nor"),
            (format!("tcp:{address}"), true, "speaks TLS only"),
        ] {
            let mut command = Command::new(program("starts"));
            command
                .arg(library)
                .env("PKCS11PROXY_LIBNAME", "softhsm")
                .env("PKCS11PROXY_LOG", "error")
                .env("PKCS11PROXY_RPC_TIMEOUT", "5")
                .env("PKCS11PROXY_SOCKET_PATH", endpoint);
            if tls {
                command
                    .env("PKCS11PROXY_CA_FILE", certificate("ca.pem"))
                    .env("PKCS11PROXY_CERT_FILE", certificate("client.pem"))
                    .env("PKCS11PROXY_PRIVKEY_FILE", certificate("client.key"));
            }
            let outcome = run(command, LONG);
            assert_eq!(outcome.stdout, "0x30\n", "{}", outcome.stderr);
            assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
        }
    }
    // The same stack serves a library for every transport.
    let direct = Library::Ours;
    assert_eq!(stack.library, direct);
    let variables = [
        ("PKCS11PROXY_SOCKET_PATH", address.as_str()),
        ("PKCS11PROXY_LIBNAME", "softhsm"),
    ];
    assert_eq!(starts(&stack, &variables).stdout, "0\n");
}
