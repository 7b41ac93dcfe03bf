//! Modules whose C_GetInterface and C_GetInterfaceList answer as no standard says (`odd_interface.c`):
//! each works behind our pair, as far as it works at all.

use super::support::compile::{module, program};
use super::support::{Endpoint, Library, Maker, Setup, Stack, Token};
use super::transcript::{bare, exact};

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
    let list = "C_GetInterfaceList <9>";
    assert_eq!(
        interfaces("", list),
        "0x0 count=3 (PKCS 11 3.2 0x0) (PKCS 11 3.0 0x0) (PKCS 11 2.40 0x0)"
    );
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
    for (odd, _, version) in ODD {
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
        let command = stack.command(program("exact"));
        let transcript = exact(command, &stack.library.path(), &["oddly"]);
        let info = transcript.answer("C_GetInfo pInfo=<>");
        let version = format!("0x0 cryptokiVersion={version} ");
        assert!(info.starts_with(&version), "{odd}: {info}");
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
