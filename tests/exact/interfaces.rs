//! Tests that applications see the interfaces that the module has.
//!
//! Modules whose C_GetInterface and C_GetInterfaceList do not follow the standard (`odd_interface.c`) work behind our
//! pair as far as they work at all.

use std::time::Duration;

use super::pairs::{Way, configured, pair, through, through_to_the_recorder};
use super::support::compile::module;
use super::support::{Endpoint, Library, Maker, SOFTHSM, Setup, Stack, Token};
use super::transcript::{bare, exact};

/// The call that lists all interfaces.
const LIST: &str = "C_GetInterfaceList <9>";

/// What it answers if the newest one is of this version.
fn listed(newest: &str) -> &'static str {
    match newest {
        "3.2" => "0x0 count=3 (PKCS 11 3.2 0x0) (PKCS 11 3.0 0x0) (PKCS 11 2.40 0x0)",
        "3.0" => "0x0 count=2 (PKCS 11 3.0 0x0) (PKCS 11 2.40 0x0)",
        _ => "0x0 count=1 (PKCS 11 2.40 0x0)",
    }
}

#[test]
fn an_application_sees_the_interfaces_of_a_module_of_2_40() {
    for way in [Way::Tcp, Way::Unix, Way::Tls] {
        let mut pair = pair(SOFTHSM.into(), way, Token::new(), []);
        let transcript = through(&pair, &["interfaces"]);
        assert_eq!(transcript.answer(LIST), listed("2.40"), "{way:?}");
        pair.protocol = Some(3);
        let transcript = through(&pair, &["interfaces"]);
        assert_eq!(transcript.answer(LIST), listed("2.40"), "{way:?}");
    }
}

#[test]
fn an_application_sees_the_interfaces_of_a_newer_module_as_it_tells_them() {
    for version in ["3.2", "3.0", "2.40"] {
        let environment = [("RECORDER_MAX_VERSION", version)];
        let mut command = bare();
        command.envs(environment);
        let direct = exact(command, &module("recorder"), &["interfaces"]);
        assert_eq!(direct.answer(LIST), listed(version));
        let (here, log) = through_to_the_recorder(Way::Unix, &["interfaces"], &environment);
        assert_eq!(here.lines(), direct.lines());
        assert!(!log.contains("C_Initialize"), "{log}");
    }
}

#[test]
fn without_a_daemon_an_application_sees_all_interfaces() {
    let mut pair = pair(SOFTHSM.into(), Way::Unix, Token::new(), []);
    assert!(pair.daemon().terminate().is_some());
    let transcript = through(&pair, &["interfaces"]);
    assert_eq!(transcript.answer(LIST), listed("3.2"));
}

/// The daemon counts the connection of the question until it has reaped its worker.
#[test]
fn an_application_with_one_connection_may_ask_before_it_initialises() {
    for way in [Way::Tcp, Way::Unix, Way::Tls] {
        let one = "max_connections_per_peer = 1;";
        let pair = configured(SOFTHSM.into(), way, Token::new(), [], one);
        // Whoever started the daemon has connected to see that it listens. That must not count any more.
        std::thread::sleep(Duration::from_millis(500));
        let transcript = through(&pair, &["general"]);
        let initialized = |call: &str| call.starts_with("C_Initialize ");
        let answers: Vec<&str> = transcript
            .answered()
            .filter(|(call, _)| initialized(call))
            .map(|(_, answer)| answer)
            .collect();
        assert_eq!(answers.first(), Some(&"0x0"), "{way:?}: {answers:?}");
    }
}

/// Every word of `ODD_INTERFACE`, the version of the list that `exact.c` then uses, which takes what
/// C_GetInterface gives it, and of the one that our daemon uses, which looks at its name and version.
const ODD: &[(&str, &str, &str)] = &[
    ("", "3.2", "3.2"),
    ("null", "3.2", "3.2"),
    ("null,only-2.40", "2.40", "2.40"),
    ("untouched,only-2.40", "2.40", "2.40"),
    ("null-list", "2.40", "2.40"),
    ("no-name", "3.2", "2.40"),
    ("keep", "3.2", "3.2"),
    ("garbage", "3.2", "3.2"),
    ("one-more", "3.2", "3.2"),
    ("refuse", "2.40", "2.40"),
    ("liar", "3.2", "3.0"),
    ("holes", "3.2", "3.2"),
    ("only-2.40", "2.40", "2.40"),
    ("null,keep,only-2.40", "2.40", "2.40"),
];

#[test]
fn odd_modules_are_odd_as_they_say() {
    let interfaces = |odd: &str, call: &str| {
        let mut command = bare();
        command.env("ODD_INTERFACE", odd);
        exact(command, &module("odd_interface"), &["interfaces"])
            .answer(call)
            .to_owned()
    };
    let list = LIST;
    assert_eq!(interfaces("", list), listed("3.2"));
    assert!(interfaces("keep", list).starts_with("0x0 count=9 "));
    assert!(interfaces("garbage", list).starts_with("0x0 count=1099511627776 "));
    assert!(interfaces("one-more", list).starts_with("0x0 count=4 "));
    assert_eq!(interfaces("refuse", list), "0x54 count=9");
    let unknown = "C_GetInterface \"PKCS 11\" 255.255 0x0";
    assert_eq!(interfaces("", unknown), "0x6");
    assert_eq!(interfaces("null", unknown), "0x0 (no name no list 0x0)");
    let newest = "C_GetInterface \"PKCS 11\" 3.2 0x0";
    assert_eq!(interfaces("liar", newest), "0x0 (PKCS 11 2.40 0x0)");
    assert_eq!(interfaces("null-list", newest), "0x0 (PKCS 11 no list 0x0)");
    assert_eq!(interfaces("no-name", newest), "0x0 (no name 3.2 0x0)");
}

#[test]
fn odd_modules_can_be_used_alone() {
    for (odd, version, _) in ODD {
        let mut command = bare();
        command.env("ODD_INTERFACE", odd);
        let transcript = exact(command, &module("odd_interface"), &["oddly"]);
        let info = transcript.answer("C_GetInfo pInfo=<>");
        let version = format!("0x0 cryptokiVersion={version} ");
        assert!(info.starts_with(&version), "{odd}: {info}");
        assert_eq!(transcript.answer("C_GenerateRandom"), "0x0 4:*", "{odd}");
    }
}

#[test]
fn odd_modules_can_be_used_through_our_pair() {
    for (odd, _, told) in ODD {
        let token = Token::new();
        let mut setup = Setup::new(Maker::Ours, Endpoint::Unix, &token);
        setup.modules = vec![("softhsm".into(), module("odd_interface"))];
        setup
            .environment
            .push(("ODD_INTERFACE".into(), (*odd).into()));
        let stack = Stack {
            library: Library::Ours,
            daemon: Some(setup.start()),
            token,
            protocol: None,
        };
        let transcript = through(&stack, &["oddly"]);
        let info = transcript.answer("C_GetInfo pInfo=<>");
        let version = format!("0x0 cryptokiVersion={told} ");
        assert!(info.starts_with(&version), "{odd}: {info}");
        let interfaces = through(&stack, &["interfaces"]);
        assert_eq!(interfaces.answer(LIST), listed(told), "{odd}");
        let is_new = version.contains("=3.2") && *odd != "holes";
        let flags = transcript.answer("C_GetSessionValidationFlags");
        assert_eq!(
            flags,
            if is_new { "0x0 pFlags=0x32" } else { "0x54" },
            "{odd}"
        );
        assert_eq!(transcript.answer("C_GenerateRandom"), "0x0 4:*", "{odd}");
    }
}
