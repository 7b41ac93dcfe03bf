//! Tests real programs: with threads, with forks, with a peer that dies, and pkcs11-tool.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use super::support::processes::{Outcome, run};
use super::support::{Endpoint, Maker, Stack, Token};

use Endpoint::{Tcp, Unix};
use Maker::{Original, Ours};

fn stack(client: Maker, daemon: Maker, endpoint: Endpoint) -> Stack {
    Stack::through(client, daemon, endpoint, Token::new())
}

/// Runs a mode of `threads.c`; every line has to say yes.
fn threads(stack: &Stack, mode: &str) {
    let pid = stack
        .daemon
        .as_ref()
        .map_or(0, |daemon| daemon.process().pid);
    let outcome = stack.run(
        "threads",
        &[mode, &pid.to_string()],
        Duration::from_secs(90),
    );
    assert!(
        outcome.status.success(),
        "{mode}: {}\n{}\n{}",
        outcome.status,
        outcome.stdout,
        outcome.stderr
    );
    assert!(!outcome.stdout.contains("NO"), "{}", outcome.stdout);
}

#[test]
fn threads_sign_at_once_with_softhsm_alone() {
    threads(&Stack::direct(Token::new()), "threads");
}

#[test]
fn threads_sign_at_once_with_the_original_pair() {
    threads(&stack(Original, Original, Tcp), "threads");
    threads(&stack(Original, Original, Unix), "threads");
}

#[test]
fn threads_sign_at_once_with_our_client() {
    threads(&stack(Ours, Ours, Tcp), "threads");
    threads(&stack(Ours, Ours, Unix), "threads");
    threads(&stack(Ours, Original, Tcp), "threads");
}

#[test]
fn threads_sign_at_once_with_the_original_client_and_our_daemon() {
    threads(&stack(Original, Ours, Tcp), "threads");
}

#[test]
fn forked_children_start_anew_with_the_original_pair() {
    threads(&stack(Original, Original, Tcp), "fork");
    threads(&stack(Original, Original, Unix), "fork");
}

#[test]
fn forked_children_start_anew_with_our_client() {
    threads(&stack(Ours, Ours, Tcp), "fork");
    threads(&stack(Ours, Ours, Unix), "fork");
    threads(&stack(Ours, Original, Tcp), "fork");
}

#[test]
fn forked_children_start_anew_with_the_original_client_and_our_daemon() {
    threads(&stack(Original, Ours, Tcp), "fork");
}

/// The original's child deadlocks here.
#[test]
fn a_fork_beside_a_busy_thread_leaves_our_client_usable() {
    threads(&stack(Ours, Ours, Tcp), "forkbusy");
    threads(&stack(Ours, Ours, Unix), "forkbusy");
}

/// With the original's client the next call does not return.
#[test]
fn our_client_leaves_the_sockets_of_a_program_alone_that_closes_every_descriptor() {
    threads(&stack(Ours, Ours, Tcp), "closed");
    threads(&stack(Ours, Ours, Unix), "closed");
    threads(&stack(Ours, Original, Tcp), "closed");
}

#[test]
fn our_client_survives_the_death_of_its_worker_and_recovers() {
    threads(&stack(Ours, Ours, Tcp), "death");
    threads(&stack(Ours, Ours, Unix), "death");
    threads(&stack(Ours, Original, Tcp), "death");
}

/// The original ends the application.
#[test]
fn our_client_answers_when_there_is_no_memory() {
    threads(&stack(Ours, Ours, Tcp), "memory");
    let mut version3 = stack(Ours, Ours, Unix);
    version3.protocol = Some(3);
    threads(&version3, "memory");
}

#[test]
fn no_pin_key_or_plaintext_stays_in_an_application_with_our_client() {
    threads(&stack(Ours, Ours, Tcp), "secrets");
    threads(&stack(Ours, Original, Unix), "secrets");
}

/// What our client is measured against; also shows that the test above can fail.
#[test]
fn the_original_client_dies_of_sigpipe_after_its_worker() {
    let stack = stack(Original, Original, Tcp);
    let pid = stack
        .daemon
        .as_ref()
        .map_or(0, |daemon| daemon.process().pid);
    let outcome = stack.run(
        "threads",
        &["death", &pid.to_string()],
        Duration::from_secs(60),
    );
    assert_eq!(outcome.status.signal(), Some(13), "{}", outcome.stdout);
    assert!(
        outcome.stdout.contains("NO, 0xffffffffffffffff"),
        "{}",
        outcome.stdout
    );
}

fn pkcs11_tool(stack: &Stack) -> Outcome {
    let mut command = stack.command("pkcs11-tool");
    command.arg("--module").arg(stack.library.path());
    command.args(["--test", "--login", "--pin", Token::PIN]);
    run(command, Duration::from_secs(60))
}

/// The same lines, errors among them, as without a proxy. With an RSA key more tests run, up to OAEP
/// with a label. SoftHSM refuses that and the tool gives up; we refuse it as a parameter we cannot
/// carry, the tool says so and goes on to the same without a label.
fn pkcs11_tool_agrees(client: Maker, daemon: Maker, endpoint: Endpoint) {
    let empty = Token::new();
    let with_key = empty.copy().with_rsa_key();
    for (token, expected) in [(empty, "No errors"), (with_key, "SHA1-RSA-PKCS: OK")] {
        let direct = pkcs11_tool(&Stack::direct(token.copy()));
        let through = pkcs11_tool(&Stack::through(client, daemon, endpoint, token));
        assert!(
            direct.stdout.contains(expected),
            "without a proxy: {} {}",
            direct.stdout,
            direct.stderr
        );
        let refused = "Mechanism not supported";
        let lines = |outcome: &Outcome| -> Vec<String> {
            // It prints an address of its own, too.
            let lines = outcome.stdout.lines().map(|line| {
                let (before, after) = line.split_once("source_ptr=0x").unwrap_or((line, ""));
                let after = after.trim_start_matches(|c: char| c.is_ascii_hexdigit());
                format!("{before}{after}")
            });
            lines.take_while(|line| line != refused).collect()
        };
        assert_eq!(
            lines(&through),
            lines(&direct),
            "stderr: {}",
            through.stderr
        );
        if !through.stdout.contains(refused) {
            assert_eq!(through.status, direct.status);
        }
    }
}

#[test]
fn pkcs11_tool_sees_no_difference_with_the_original_pair() {
    pkcs11_tool_agrees(Original, Original, Tcp);
    pkcs11_tool_agrees(Original, Original, Unix);
}

#[test]
fn pkcs11_tool_sees_no_difference_with_our_pair() {
    pkcs11_tool_agrees(Ours, Ours, Tcp);
    pkcs11_tool_agrees(Ours, Ours, Unix);
}

#[test]
fn pkcs11_tool_sees_no_difference_with_our_client_and_the_original_daemon() {
    pkcs11_tool_agrees(Ours, Original, Tcp);
}

#[test]
fn pkcs11_tool_sees_no_difference_with_the_original_client_and_our_daemon() {
    pkcs11_tool_agrees(Original, Ours, Tcp);
}
