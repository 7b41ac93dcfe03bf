//! Tests calls of 100 MiB through client and daemon: executed, or refused without the loss of the login.

use super::support::script::{Difference, Who, run_script};
use super::support::{Endpoint, Library, Maker, Setup, Stack, Token};

use Maker::{Original, Ours};

const SECTIONS: &[&str] = &["longdata"];

#[test]
fn calls_of_100_mib_are_executed_with_every_pair() {
    let token = Token::new();
    let expected = run_script(&Stack::direct(token.copy()), SECTIONS);
    for (client, daemon, endpoint, protocol) in [
        (Ours, Ours, Endpoint::Tcp, None),
        (Ours, Ours, Endpoint::Unix, None),
        (Ours, Ours, Endpoint::Tcp, Some(3)),
        (Original, Ours, Endpoint::Tcp, None),
        (Ours, Original, Endpoint::Tcp, None),
    ] {
        let mut stack = Stack::through(client, daemon, endpoint, token.copy());
        stack.protocol = protocol;
        let report = run_script(&stack, SECTIONS).compare(&expected, &[]);
        assert_eq!(
            report, "",
            "{client:?} client, {daemon:?} daemon, {protocol:?}"
        );
    }
}

const fn row(call: &'static str, answer: &'static str) -> Difference {
    Difference {
        section: "longdata",
        call,
        client: Who::Any,
        daemon: Who::Ours,
        answer,
        reason: "the call is longer than max_record_size",
    }
}

/// The calls that are too long; all others answer as without a proxy.
const TOO_LONG: &[Difference] = &[
    row("C_Digest 100 MiB room=32", "0x21"),
    row("C_SignUpdate 100 MiB", "0x21"),
    row("C_SignFinal 100 MiB room=32", "0x91"),
    row("C_Encrypt 100 MiB", "0x21"),
];

#[test]
fn over_the_limit_an_application_keeps_its_login() {
    let token = Token::new();
    let expected = run_script(&Stack::direct(token.copy()), SECTIONS);
    for (client, protocol) in [(Ours, None), (Ours, Some(3)), (Original, None)] {
        let token = token.copy();
        let mut setup = Setup::new(Ours, Endpoint::Tcp, &token);
        setup.processor = "max_record_size = 65536;".into();
        let stack = Stack {
            library: Library::of(client, Endpoint::Tcp),
            daemon: Some(setup.start()),
            token,
            protocol,
        };
        let allowed: Vec<&Difference> = TOO_LONG.iter().collect();
        let report = run_script(&stack, SECTIONS).compare(&expected, &allowed);
        assert_eq!(report, "", "{client:?} client, version {protocol:?}");
    }
}
