//! Tests other modules than SoftHSM behind a daemon: which calls reach them, and what a crash ends.

use std::fs;
use std::time::Duration;

use super::support::compile::module;
use super::support::processes::{Outcome, run};
use super::support::{Directory, Endpoint, Library, Maker, Setup, Stack, Token};

use Maker::{Original, Ours};

/// `nullmodule.c` behind a daemon, with its calls in a file.
struct Recorded {
    stack: Stack,
    directory: Directory,
}

impl Recorded {
    fn new(maker: Maker, environment: &[(&str, &str)]) -> Self {
        let token = Token::new();
        let directory = Directory::new();
        let mut setup = Setup::new(maker, Endpoint::Tcp, &token);
        setup.modules = vec![("softhsm".into(), module("nullmodule"))];
        let log = directory.join("calls").display().to_string();
        setup.environment.push(("NULLMODULE_LOG".into(), log));
        setup.environment.extend(
            environment
                .iter()
                .map(|&(name, value)| (name.into(), value.into())),
        );
        let stack = Stack {
            library: Library::of(maker, Endpoint::Tcp),
            daemon: Some(setup.start()),
            token,
            protocol: None,
        };
        Self { stack, directory }
    }

    fn pkcs11_tool(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.stack.command("pkcs11-tool");
        command.arg("--module").arg(self.stack.library.path());
        command.args(arguments);
        run(command, Duration::from_secs(30))
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.directory.join("calls")).unwrap_or_default()
    }
}

fn a_crash_takes_only_its_client_along(maker: Maker) {
    let recorded = Recorded::new(maker, &[("NULLMODULE_CRASH", "C_GenerateRandom")]);
    for _ in 0..3 {
        let crashed = recorded.pkcs11_tool(&["--generate-random", "4"]);
        assert!(!crashed.status.success(), "{}", crashed.stdout);
        let fine = recorded.pkcs11_tool(&["--list-token-slots"]);
        assert!(
            fine.stdout.contains("null slot"),
            "{} {}",
            fine.stdout,
            fine.stderr
        );
    }
    let calls = recorded.calls();
    assert_eq!(
        calls
            .matches("C_GenerateRandom session=1 out=ptr/4")
            .count(),
        3,
        "{calls}"
    );
}

#[test]
fn a_crash_takes_only_its_client_along_with_the_original_pair() {
    a_crash_takes_only_its_client_along(Original);
}

#[test]
fn a_crash_takes_only_its_client_along_with_our_pair() {
    a_crash_takes_only_its_client_along(Ours);
}

/// An application without a PIN, because the token has a PIN pad. The original hands the module a
/// pointer to no bytes instead of NULL.
fn login_without_a_pin(maker: Maker, expected: &str) {
    let recorded = Recorded::new(maker, &[("NULLMODULE_PROTECTED", "1")]);
    let outcome = recorded.pkcs11_tool(&["--login", "--list-objects"]);
    assert!(outcome.status.success(), "{}", outcome.stderr);
    let calls = recorded.calls();
    assert!(calls.contains(expected), "{calls}");
}

#[test]
fn a_login_without_a_pin_reaches_the_module_as_no_bytes_with_the_original_pair() {
    login_without_a_pin(Original, "C_Login session=1 user=1 pin=ptr/0\n");
}

#[test]
fn a_login_without_a_pin_reaches_the_module_as_null_with_our_pair() {
    login_without_a_pin(Ours, "C_Login session=1 user=1 pin=NULL/0\n");
}

fn vendor_codes_pass(maker: Maker) {
    let recorded = Recorded::new(
        maker,
        &[(
            "NULLMODULE_FAIL",
            "C_SeedRandom:0x80000123,C_GenerateRandom:0x8000000a",
        )],
    );
    let outcome = recorded.pkcs11_tool(&["--test"]);
    let said = outcome.stdout + &outcome.stderr;
    assert!(said.contains("0x80000123"), "{said}");
}

#[test]
fn vendor_codes_pass_with_the_original_pair() {
    vendor_codes_pass(Original);
}

#[test]
fn vendor_codes_pass_with_our_pair() {
    vendor_codes_pass(Ours);
}
