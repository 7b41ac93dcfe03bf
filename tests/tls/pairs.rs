//! Tests {original client, ours} with {original daemon, ours}: the same answers as without TLS, whatever their sizes.

use std::time::Duration;

use super::differences::allowed;
use super::support::compile::module;
use super::support::processes::run;
use super::support::script::{Difference, run_script};
use super::support::{Endpoint, Maker, Stack, Token};
use super::tls::{SHIPPED, Tls, c_program, is_served, library, list_slots, serves, stack};

use Maker::{Original, Ours};

const SECTIONS: &[&str] = &[
    "info", "keygen", "find", "sign", "encrypt", "digest", "objects", "random",
];

/// The pairing answers what SoftHSM does, but for the rows that hold without TLS as well.
fn answers_like_softhsm(client: Maker, daemon: Maker) {
    let token = Token::new();
    let expected = run_script(&Stack::direct(token.copy()), SECTIONS);
    let tls = Tls {
        algorithms: Some(SHIPPED),
        ..Tls::default()
    };
    let daemon_running = tls.setup(daemon, Endpoint::Tcp, &token).start();
    let stack = Stack {
        library: library(client),
        daemon: Some(daemon_running),
        token,
        protocol: None,
    };
    let got = run_script(&stack, SECTIONS);
    let version = match (client, daemon) {
        (Ours, Ours) => 4,
        _ => 3,
    };
    let allowed: Vec<&Difference> = allowed(client, daemon, version)
        .filter(|row| SECTIONS.contains(&row.section))
        .collect();
    let report = got.compare(&expected, &allowed);
    assert!(
        report.is_empty(),
        "{client:?} client, {daemon:?} daemon:\n{report}"
    );
}

#[test]
fn the_original_client_and_our_daemon_answer_like_softhsm() {
    answers_like_softhsm(Original, Ours);
}

#[test]
fn our_client_and_the_original_daemon_answer_like_softhsm() {
    answers_like_softhsm(Ours, Original);
}

#[test]
fn our_pair_answers_like_softhsm() {
    answers_like_softhsm(Ours, Ours);
}

/// Calls and replies from 1 byte to 1 MB come back whole.
fn carries_every_size(client: Maker, daemon: Maker, tls: &Tls) {
    let token = Token::new();
    let mut setup = tls.setup(daemon, Endpoint::Tcp, &token);
    setup.modules = vec![("softhsm".into(), module("nullmodule"))];
    let daemon_running = setup.start();
    let outcome = run(
        c_program("sizes", client, &daemon_running, &[]),
        Duration::from_secs(60),
    );
    assert!(
        outcome.status.success() && outcome.stdout.contains("1048576 -> yes"),
        "{client:?} client, {daemon:?} daemon, {:?}: {}\n{}\n{}",
        tls.algorithms,
        outcome.stdout,
        outcome.stderr,
        daemon_running.log()
    );
}

const VERSIONS: [&str; 2] = [
    "NORMAL:-VERS-ALL:+VERS-TLS1.2",
    "NORMAL:-VERS-ALL:+VERS-TLS1.3",
];

/// With the original's daemon, most replies of 4 to 16 KB never arrive: its client polls a socket
/// whose data OpenSSL has read already.
#[test]
fn the_original_client_gets_replies_of_every_size_from_our_daemon() {
    for algorithms in VERSIONS {
        let tls = Tls {
            algorithms: Some(algorithms),
            ..Tls::default()
        };
        carries_every_size(Original, Ours, &tls);
    }
}

#[test]
fn our_pair_carries_every_size() {
    for algorithms in VERSIONS {
        carries_every_size(
            Ours,
            Ours,
            &Tls {
                algorithms: Some(algorithms),
                ..Tls::default()
            },
        );
    }
}

#[test]
fn our_client_gets_replies_of_every_size_from_the_original_daemon() {
    let tls = Tls {
        algorithms: Some(SHIPPED),
        ..Tls::default()
    };
    carries_every_size(Ours, Original, &tls);
}

#[test]
fn any_kind_of_certificate_serves_either_client() {
    for server in ["server", "server-ec", "server-chain"] {
        let tls = Tls {
            keys: vec![server],
            ..Tls::default()
        };
        let stack = stack(Ours, Ours, &tls);
        let daemon = stack.daemon.as_ref().expect("it has one");
        for own in ["client", "client-ec", "client-chain"] {
            serves(daemon, own, &[]);
            // The original's client sends its leaf only.
            if own != "client-chain" {
                let outcome = list_slots(Original, daemon, own, &[]);
                assert!(is_served(&outcome), "{server} {own}: {}", outcome.stderr);
            }
        }
    }
}

#[test]
fn two_kinds_of_key_serve_clients_of_either() {
    let tls = Tls {
        keys: vec!["server", "server-chain"],
        algorithms: Some("NORMAL:-VERS-TLS1.3"),
        ..Tls::default()
    };
    let stack = stack(Ours, Ours, &tls);
    let daemon = stack.daemon.as_ref().expect("it has one");
    for (sigalgs, suite) in [
        ("RSA+SHA256", "ECDHE-RSA-AES256-GCM-SHA384"),
        ("ECDSA+SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ] {
        let said = super::suites::s_client(daemon, &["-sigalgs", sigalgs]);
        assert!(
            said.contains(suite) && said.contains("return code: 0 (ok)"),
            "{sigalgs}: {said}"
        );
    }
}

#[test]
fn tls_works_over_a_unix_socket() {
    let token = Token::new();
    let daemon = Tls::default().setup(Ours, Endpoint::Unix, &token).start();
    serves(&daemon, "client", &[]);
    let address = format!("tls:{}", daemon.address());
    let mut command = super::tls::command("pkcs11-tool", &daemon, "client");
    command.env("PKCS11PROXY_SOCKET_PATH", address);
    command
        .arg("--module")
        .arg(super::support::Library::Ours.path())
        .arg("--list-slots");
    assert!(is_served(&run(command, Duration::from_secs(20))));
}
