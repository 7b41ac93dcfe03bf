//! Tests the doctor with real daemons: ours and the original's, with and without TLS, in front of SoftHSM.
//!
//! Its command line, and servers that are no daemon, are tested in `client/tests/doctor`. Here this program is also the
//! doctor: it runs itself again with `DOCTOR` set. Needs the packages that `tests/support/install-packages.sh`
//! installs.

#![forbid(unsafe_code)]

#[path = "../support/mod.rs"]
mod support;
#[path = "../tls/tls.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod tls;

use std::process::Command;
use std::time::Duration;

use support::certificates::certificate;
use support::compile::module;
use support::processes::{Outcome, run};
use support::{Daemon, Endpoint, Maker, Setup, Token};
use tls::Tls;

use Maker::{Original, Ours};

const LONG: Duration = Duration::from_secs(60);

/// Not a test of its own: the doctor.
#[test]
fn the_doctor() {
    if std::env::var_os("DOCTOR").is_some() {
        std::process::exit(p11client::doctor::run(["p11client-doctor".into()]));
    }
}

/// Runs the doctor with these variables, and no others of the library's.
fn doctor(variables: &[(&str, &str)]) -> Outcome {
    let mut command = Command::new(std::env::current_exe().expect("a running program has a file"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PKCS11PROXY_") {
            command.env_remove(name);
        }
    }
    command
        .args(["--exact", "the_doctor", "--nocapture", "--test-threads=1"])
        .env("DOCTOR", "1")
        .env("PKCS11PROXY_LIBNAME", "softhsm")
        .env("PKCS11PROXY_RPC_TIMEOUT", "20")
        .envs(variables.iter().copied());
    run(command, LONG)
}

/// Expects that all goes well, and that these texts are in what is printed.
fn is_well(variables: &[(&str, &str)], expected: &[&str]) -> String {
    let Outcome { status, stdout, .. } = doctor(variables);
    assert_eq!(status.code(), Some(0), "{stdout}");
    assert!(
        stdout.contains("All went well.") && !stdout.contains("FAILED"),
        "{stdout}"
    );
    for text in expected {
        assert!(stdout.contains(text), "{text}: {stdout}");
    }
    stdout
}

/// Expects that this step fails for that reason, with this advice.
fn fails(variables: &[(&str, &str)], step: &str, cause: &str, advice: &str) -> String {
    let Outcome { status, stdout, .. } = doctor(variables);
    assert_eq!(status.code(), Some(1), "{stdout}");
    let mut lines = stdout.lines().skip_while(|line| !line.contains("FAILED: "));
    let line = lines.next().expect("a step that fails");
    assert!(line.trim_start().starts_with(step), "{step}: {stdout}");
    assert!(line.contains(cause), "{cause}: {stdout}");
    let next = lines.next().expect("what to do");
    assert!(
        next.contains("to do: ") && next.contains(advice),
        "{advice}: {stdout}"
    );
    stdout
}

/// What a daemon without TLS in front of SoftHSM gives, by the version of the protocol.
fn steps(version: u32) -> Vec<String> {
    let version = format!("C_SetupArch        ok, version {version} of the protocol");
    let other = [
        "connection         ok, ",
        "C_LoadModule       ok, alias softhsm",
        "C_Initialize       ok, in ",
        "C_GetInfo          ok, SoftHSM, Implementation of PKCS11; PKCS#11 ",
        "C_GetSlotList      ok, 2 slots",
        "token \"",
        "is not initialised",
        "time of a call     ok, C_GetInfo 100 times: fastest 0.",
        "C_Finalize         ok, disconnected",
    ];
    let other = other.into_iter().map(String::from);
    std::iter::once(version).chain(other).collect()
}

#[test]
fn daemons_of_both_makers_are_well() {
    for (maker, version) in [(Ours, 4), (Original, 3)] {
        for endpoint in [Endpoint::Tcp, Endpoint::Unix] {
            let token = Token::new();
            let daemon = Setup::new(maker, endpoint, &token).start();
            let steps = steps(version);
            let expected: Vec<&str> = steps.iter().map(String::as_str).collect();
            is_well(&[("PKCS11PROXY_SOCKET_PATH", &daemon.address())], &expected);
        }
    }
}

#[test]
fn a_wrong_alias_is_named() {
    for (maker, cause) in [
        (Ours, "CKR_GENERAL_ERROR for alias \"none\""),
        (Original, "for alias \"none\""),
    ] {
        let token = Token::new();
        let daemon = Setup::new(maker, Endpoint::Tcp, &token).start();
        let address = daemon.address();
        let variables = [
            ("PKCS11PROXY_SOCKET_PATH", address.as_str()),
            ("PKCS11PROXY_LIBNAME", "none"),
        ];
        let advice = "log";
        let printed = fails(&variables, "C_LoadModule", cause, advice);
        assert!(printed.contains("C_SetupArch        ok, "), "{printed}");
    }
}

/// Each is reported, and a step that fails with one is a failure.
#[test]
fn every_endpoint_is_tried() {
    let token = Token::new();
    let daemon = Daemon::ours(Endpoint::Tcp, &token);
    let directory = support::Directory::new();
    let file = directory.join("client.conf");
    let endpoints = format!("endpoints = [\"/nobody\", \"{}\"]\n", daemon.address());
    std::fs::write(&file, endpoints).expect("a new directory");
    let variables = [("PKCS11PROXY_CONF", file.to_str().expect("a path"))];
    let printed = fails(
        &variables,
        "connection",
        "No such file",
        "start pkcs11proxyd",
    );
    assert!(printed.contains("Daemon 2 of 2"), "{printed}");
    assert!(printed.contains("C_Finalize         ok, "), "{printed}");
    assert!(
        printed.contains("The library would use 127.0.0.1 port "),
        "{printed}"
    );
}

/// A version that is forced, and what is offered of a module's interfaces.
#[test]
fn versions_that_the_settings_choose_are_told() {
    let token = Token::new();
    let mut setup = Setup::new(Ours, Endpoint::Tcp, &token);
    setup.modules = vec![("softhsm".into(), module("recorder"))];
    let daemon = setup.start();
    let address = daemon.address();
    let endpoint = ("PKCS11PROXY_SOCKET_PATH", address.as_str());
    let four = "C_SetupArch        ok, version 4 of the protocol";
    for (variable, version, interfaces) in [
        (("PKCS11PROXY_PROTOCOL", "4"), four, "2.40, 3.0, 3.2\n"),
        (
            ("PKCS11PROXY_PROTOCOL", "3"),
            "C_SetupArch        ok, version 3 of the protocol, as the settings say",
            "2.40\n",
        ),
        (
            ("PKCS11PROXY_INTERFACE", "3.0"),
            four,
            "2.40, 3.0, 3.2 (not offered, as interface says)\n",
        ),
    ] {
        let interfaces = format!("interfaces         PKCS#11 {interfaces}");
        is_well(&[endpoint, variable], &[version, &interfaces]);
    }
}

/// With recovery an application goes over to another daemon, if its token is there.
#[test]
fn daemons_with_different_tokens_are_told() {
    let token = Token::new();
    let copy = token.copy();
    let first = Daemon::ours(Endpoint::Tcp, &token);
    let second = Daemon::ours(Endpoint::Unix, &copy);
    let mut third = Setup::new(Ours, Endpoint::Unix, &token);
    third.modules = vec![("softhsm".into(), module("nullmodule"))];
    let third = third.start();
    let directory = support::Directory::new();
    let file = directory.join("client.conf");
    let path = file.to_str().expect("a path");
    for (other, expected) in [
        (
            &second,
            "tokens             ok, all daemons have the same tokens",
        ),
        (
            &third,
            "has no token \"e2e\": applications that use that of 127.0.0.1 port ",
        ),
    ] {
        let (first, other) = (first.address(), other.address());
        let text = format!("recover = true\nendpoints = [\"{first}\", \"{other}\"]\n");
        std::fs::write(&file, text).expect("a new directory");
        is_well(&[("PKCS11PROXY_CONF", path)], &[expected]);
    }
}

/// The variables of a client with this authority, the certificate `own`, and more.
fn with_tls<'a>(
    daemon: &'a str,
    files: &'a [(&'static str, String); 3],
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut variables = vec![("PKCS11PROXY_SOCKET_PATH", daemon)];
    variables.extend(files.iter().map(|(name, path)| (*name, path.as_str())));
    variables.extend(more);
    variables
}

#[test]
fn the_certificate_of_a_daemon_is_shown() {
    for (maker, version) in [(Ours, "TLSv1.3 with TLS_"), (Original, "TLSv1.2 with ")] {
        let token = Token::new();
        let daemon = Tls::default().setup(maker, Endpoint::Tcp, &token).start();
        let (address, files) = (daemon.address(), tls::variables("ca", "client"));
        let more = [("PKCS11PROXY_VERIFY_NAME", "localhost")];
        let printed = is_well(
            &with_tls(&address, &files, &more),
            &[
                version,
                "certificate        CN=server, O=Trial",
                "issued by        CN=ca, O=Trial",
                "for              localhost, 127.0.0.1, ::1",
                "valid            from ",
                "verified name      localhost",
                &fingerprint("server"),
            ],
        );
        assert!(
            printed.contains("with TLS, as TLS files are set"),
            "{printed}"
        );
    }
}

/// As OpenSSL's program prints it.
fn fingerprint(name: &str) -> String {
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(certificate(&format!("{name}.pem")))
        .output()
        .expect("openssl is installed");
    let text = String::from_utf8(output.stdout).expect("text");
    let (_, fingerprint) = text.trim().split_once('=').expect("a fingerprint");
    format!("SHA-256          {fingerprint}")
}

#[test]
fn certificates_that_do_not_verify_are_shown_with_the_reason() {
    let token = Token::new();
    let daemon = Tls::default().setup(Ours, Endpoint::Tcp, &token).start();
    let address = daemon.address();
    let (files, other) = (
        tls::variables("ca", "client"),
        tls::variables("other-ca", "client"),
    );
    let pinned = certificate("server-ec.pem");
    let name = |name| Some(("PKCS11PROXY_VERIFY_NAME", name));
    let pinning = Some(("PKCS11PROXY_SERVER_CERTS_FILE", pinned.as_str()));
    for (files, more, cause, advice) in [
        (
            &other,
            None,
            "unable to get local issuer certificate",
            "PKCS11PROXY_CA_FILE",
        ),
        (
            &files,
            name("hsm.example"),
            "hostname mismatch",
            "VERIFY_NAME",
        ),
        (
            &files,
            name("10.0.0.1"),
            "IP address mismatch",
            "VERIFY_NAME",
        ),
        (&files, pinning, "is not in ", "add it to"),
    ] {
        let variables = with_tls(&address, files, more.as_slice());
        let printed = fails(&variables, "TLS handshake", cause, advice);
        assert!(
            printed.contains("certificate        CN=server, O=Trial"),
            "{printed}"
        );
        assert!(printed.contains("localhost, 127.0.0.1, ::1"), "{printed}");
        assert!(printed.contains(&fingerprint("server")), "{printed}");
    }

    let expired = Tls {
        keys: vec!["server-expired"],
        ..Tls::default()
    };
    let daemon = expired.setup(Ours, Endpoint::Tcp, &token).start();
    let address = daemon.address();
    let variables = with_tls(&address, &files, &[]);
    let printed = fails(
        &variables,
        "TLS handshake",
        "certificate has expired",
        "it has expired",
    );
    assert!(printed.contains("to Jan  1 00:00:00 2021 GMT"), "{printed}");
    assert!(printed.contains("it has EXPIRED"), "{printed}");
}

#[test]
fn a_client_that_the_daemon_refuses_is_sent_to_its_log() {
    for algorithms in ["NORMAL:-VERS-TLS1.3", "NORMAL:-VERS-TLS1.2"] {
        let token = Token::new();
        let tls = Tls {
            algorithms: Some(algorithms),
            ..Tls::default()
        };
        let daemon = tls.setup(Ours, Endpoint::Tcp, &token).start();
        let address = daemon.address();
        let files = tls::variables("ca", "other-client");
        let variables = with_tls(&address, &files, &[]);
        // With TLS 1.3 the server judges after the client's handshake is over.
        let step = match algorithms.ends_with("1.3") {
            true => "TLS handshake",
            false => "C_SetupArch",
        };
        fails(&variables, step, "", "the daemon's log says why");
        // A client without TLS, and one with TLS where there is none.
        let address = format!("tcp:{}", daemon.address());
        let plain = [("PKCS11PROXY_SOCKET_PATH", address.as_str())];
        fails(
            &plain,
            "C_SetupArch",
            "closed the connection",
            "it requires TLS",
        );
    }
    let token = Token::new();
    let daemon = Daemon::ours(Endpoint::Tcp, &token);
    let (address, files) = (daemon.address(), tls::variables("ca", "client"));
    let cause = "onnection"; // closed or reset
    fails(
        &with_tls(&address, &files, &[]),
        "TLS handshake",
        cause,
        "does not speak TLS",
    );
}
