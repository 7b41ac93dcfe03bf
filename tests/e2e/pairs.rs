//! Tests {original client, ours} with {original daemon, ours} over {TCP, Unix}: in every pairing, an application sees
//! what SoftHSM answers without a proxy, except for the rows of `differences`.

use super::differences::allowed;
use super::support::script::{Difference, Transcript, run_script};
use super::support::{Endpoint, Maker, Stack, Token};

use Endpoint::{Tcp, Unix};
use Maker::{Original, Ours};

/// What every pairing is put through.
const SECTIONS: &[&str] = &[
    "uninitialised",
    "initargs",
    "info",
    "sessions",
    "login",
    "keygen",
    "import",
    "find",
    "findrest",
    "attributes",
    "longvalues",
    "nested",
    "objects",
    "sign",
    "encrypt",
    "sizes",
    "digest",
    "pending",
    "wrap",
    "wrapbare",
    "derive",
    "random",
    "rare",
    "arguments",
    "handles",
    // Last: it leaves another token behind.
    "token",
];
/// What crashes an application with the original's client.
const NOT_WITH_ORIGINAL_CLIENT: &[&str] = &["slotroom", "nulls", "lengths", "odd"];
/// What ends the worker of the original's daemon.
const NOT_WITH_ORIGINAL_DAEMON: &[&str] = &["badclass"];
/// What ends it unless our client refuses it first.
const NOT_WITH_BOTH_ORIGINAL: &[&str] = &["pointers"];

pub fn sections(client: Maker, daemon: Maker) -> Vec<&'static str> {
    let mut sections = Vec::new();
    if client == Ours {
        sections.extend(NOT_WITH_ORIGINAL_CLIENT);
    }
    if daemon == Ours {
        sections.extend(NOT_WITH_ORIGINAL_DAEMON);
    }
    if client == Ours || daemon == Ours {
        sections.extend(NOT_WITH_BOTH_ORIGINAL);
    }
    sections.extend(SECTIONS);
    sections
}

fn direct(token: &Token, sections: &[&'static str]) -> Transcript {
    run_script(&Stack::direct(token.copy()), sections)
}

/// A pairing that speaks the newest version that both know.
fn pair(client: Maker, daemon: Maker, endpoint: Endpoint) {
    let version = match (client, daemon) {
        (Ours, Ours) => 4,
        _ => 3,
    };
    pair_with_version(client, daemon, endpoint, version);
}

fn pair_with_version(client: Maker, daemon: Maker, endpoint: Endpoint, version: u32) {
    let token = Token::new();
    let sections = sections(client, daemon);
    let expected = direct(&token, &sections);
    let mut stack = Stack::through(client, daemon, endpoint, token);
    stack.protocol = (client == Ours).then_some(version);
    let got = run_script(&stack, &sections);
    let allowed: Vec<&Difference> = allowed(client, daemon, version)
        .filter(|row| sections.contains(&row.section))
        .collect();
    let report = got.compare(&expected, &allowed);
    assert!(
        report.is_empty(),
        "{client:?} client, {daemon:?} daemon, {endpoint:?}, version {version}:\n{report}"
    );
}

#[test]
fn softhsm_alone_passes_every_check_and_repeats_itself() {
    let token = Token::new();
    let sections = sections(Ours, Ours);
    let first = direct(&token, &sections);
    assert_eq!(first.faults(), "");
    assert!(first.len() > 1300, "only {} lines", first.len());
    assert_eq!(direct(&token, &sections).compare(&first, &[]), "");
}

#[test]
fn original_client_with_original_daemon_over_tcp() {
    pair(Original, Original, Tcp);
}

#[test]
fn original_client_with_original_daemon_over_unix() {
    pair(Original, Original, Unix);
}

#[test]
fn original_client_with_our_daemon_over_tcp() {
    pair(Original, Ours, Tcp);
}

#[test]
fn original_client_with_our_daemon_over_unix() {
    pair(Original, Ours, Unix);
}

#[test]
fn our_client_with_original_daemon_over_tcp() {
    pair(Ours, Original, Tcp);
}

#[test]
fn our_client_with_original_daemon_over_unix() {
    pair(Ours, Original, Unix);
}

#[test]
fn our_client_with_our_daemon_over_tcp() {
    pair(Ours, Ours, Tcp);
}

#[test]
fn our_client_with_our_daemon_over_unix() {
    pair(Ours, Ours, Unix);
}

#[test]
fn our_client_with_our_daemon_over_version_3() {
    pair_with_version(Ours, Ours, Tcp, 3);
}
