//! Tests what an application sees when its logins are refused because too many have failed.

use std::time::Duration;

use super::support::processes::{Outcome, run};
use super::support::stack::{Library, Stack};
use super::support::{Endpoint, Maker, Setup, Token};

fn login(stack: &Stack, pin: &str) -> Outcome {
    let mut command = stack.command("pkcs11-tool");
    command.arg("--module").arg(stack.library.path());
    command.args(["--login", "--pin", pin, "--list-objects"]);
    run(command, Duration::from_secs(60))
}

fn is_locked_out(client: Maker, endpoint: Endpoint, protocol: Option<u32>) {
    let token = Token::new();
    let mut setup = Setup::new(Maker::Ours, endpoint, &token);
    setup.processor = "max_failed_logins = 2;".into();
    let stack = Stack {
        library: Library::of(client, endpoint),
        daemon: Some(setup.start()),
        token,
        protocol,
    };
    assert!(login(&stack, Token::PIN).status.success());
    for (pin, expected) in [
        ("4321", "CKR_PIN_INCORRECT"),
        ("4321", "CKR_PIN_INCORRECT"),
        ("4321", "CKR_PIN_LOCKED"),
        (Token::PIN, "CKR_PIN_LOCKED"),
    ] {
        let outcome = login(&stack, pin);
        assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    }
}

#[test]
fn guesses_end_with_a_locked_pin_with_our_client_in_both_versions() {
    is_locked_out(Maker::Ours, Endpoint::Tcp, None);
    is_locked_out(Maker::Ours, Endpoint::Unix, Some(3));
}

#[test]
fn guesses_end_with_a_locked_pin_with_the_original_client() {
    is_locked_out(Maker::Original, Endpoint::Tcp, None);
    is_locked_out(Maker::Original, Endpoint::Unix, None);
}
