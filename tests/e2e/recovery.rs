//! Programs that live longer than the daemon: with `recover = true`, they go on when it has come back.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::support::compile::program;
use super::support::processes::wait_until;
use super::support::stack::Stack;
use super::support::{Directory, Endpoint, Maker, SOFTHSM, Setup, Token};

const PATIENCE: Duration = Duration::from_secs(30);

/// The program `lasting`, which does what it is told with what it opened at its start.
struct Lasting {
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
}

impl Lasting {
    fn start(stack: &Stack, variables: &[(&str, &str)]) -> Lasting {
        let mut command = stack.command(program("lasting"));
        command
            .env("PKCS11PROXY_RECOVER", "true")
            .envs(variables.iter().copied());
        Lasting::of(command, stack)
    }

    fn of(mut command: Command, stack: &Stack) -> Lasting {
        command
            .arg(stack.library.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let input = child.stdin.take().expect("a pipe");
        let output = lines(child.stdout.take().expect("a pipe"));
        let lasting = Lasting {
            child,
            input,
            output,
        };
        assert_eq!(lasting.line(), "ready 1");
        lasting
    }

    fn line(&self) -> String {
        let line = self.output.recv_timeout(PATIENCE);
        line.unwrap_or_else(|_| panic!("the program says nothing more"))
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("the program reads");
    }

    /// What it prints after the command's name.
    fn does(&mut self, command: &str) -> String {
        self.tell(command);
        let line = self.line();
        let name = command.split(' ').next().unwrap_or_default();
        let said = line
            .strip_prefix(name)
            .unwrap_or_else(|| panic!("{command}: {line}"));
        said.trim().to_owned()
    }

    fn quit(mut self) {
        assert_eq!(self.does("quit"), "0");
        drop(self.input);
        assert!(self.child.wait().expect("a child").success());
    }
}

fn lines(output: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn restart(stack: &mut Stack) {
    stack.daemon().kill();
    stack.daemon().start_again();
}

const SIGNED: &str = "0 0 0 0";
const KEPT: [(&str, &str); 1] = [("PKCS11PROXY_KEEP_PIN", "true")];

fn stack(maker: Maker, endpoint: Endpoint) -> Stack {
    Stack::through(Maker::Ours, maker, endpoint, Token::new().with_rsa_key())
}

/// Between operations nothing is lost: no call fails.
#[test]
fn a_program_goes_on_signing_through_ten_restarts() {
    for (maker, endpoint) in [
        (Maker::Ours, Endpoint::Unix),
        (Maker::Ours, Endpoint::Tcp),
        (Maker::Original, Endpoint::Tcp),
    ] {
        let mut stack = stack(maker, endpoint);
        let mut lasting = Lasting::start(&stack, &KEPT);
        for _ in 0..10 {
            assert_eq!(lasting.does("sign"), SIGNED, "{maker:?}");
            restart(&mut stack);
        }
        for command in ["random", "slots", "state", "token-key"] {
            let said = lasting.does(command);
            assert!(said.starts_with("0"), "{maker:?}: {command}: {said}");
            restart(&mut stack);
        }
        assert_eq!(lasting.does("encrypt"), "0 0", "{maker:?}");
        assert_eq!(lasting.does("state"), "0 3"); // of a user, who may write
        lasting.quit();
    }
}

/// What had begun is lost, and is said to be so once.
#[test]
fn an_interrupted_operation_and_a_session_object_are_lost_and_said_so_once() {
    for maker in [Maker::Ours, Maker::Original] {
        let mut stack = stack(maker, Endpoint::Tcp);
        let mut lasting = Lasting::start(&stack, &KEPT);
        assert_eq!(lasting.does("begin"), "0");
        restart(&mut stack);
        assert_eq!(lasting.does("end"), "0x30", "{maker:?}");
        assert_eq!(lasting.does("sign"), SIGNED, "{maker:?}");
        // Not even begun anew: another operation had begun.
        assert_eq!(lasting.does("begin"), "0");
        restart(&mut stack);
        assert_eq!(lasting.does("random"), "0");
        assert_eq!(lasting.does("end"), "0x30");
        assert_eq!(lasting.does("end"), "0x91", "{maker:?}"); // CKR_OPERATION_NOT_INITIALIZED
        assert_eq!(lasting.does("begin"), "0");
        assert_eq!(lasting.does("end"), "0");

        assert_eq!(lasting.does("session-key"), "0");
        assert_eq!(lasting.does("encrypt"), "0 0");
        restart(&mut stack);
        assert_eq!(lasting.does("encrypt"), "0x30 0", "{maker:?}");
        let gone = lasting.does("encrypt");
        assert!(
            ["0x82 0", "0x60 0"].contains(&gone.as_str()),
            "{maker:?}: {gone}"
        );
        assert_eq!(lasting.does("session-key"), "0");
        assert_eq!(lasting.does("encrypt"), "0 0");

        assert_eq!(lasting.does("search"), "0");
        assert_eq!(lasting.does("next"), "0 1");
        restart(&mut stack);
        assert_eq!(lasting.does("next"), "0x30 0", "{maker:?}");
        assert_eq!(lasting.does("done"), "0x91"); // it was said already
        assert_eq!(lasting.does("search"), "0");
        restart(&mut stack);
        assert_eq!(lasting.does("done"), "0"); // nothing is missed
        assert_eq!(lasting.does("sign"), SIGNED);
        lasting.quit();
    }
}

/// Without the PIN the application has to log in; nobody does it for it.
#[test]
fn a_login_is_repeated_only_with_a_pin_that_was_kept() {
    let mut stack = stack(Maker::Ours, Endpoint::Unix);
    let mut lasting = Lasting::start(&stack, &[]);
    restart(&mut stack);
    assert_eq!(lasting.does("state"), "0 2"); // public
    assert_eq!(lasting.does("begin"), "0x101"); // CKR_USER_NOT_LOGGED_IN
    assert_eq!(lasting.does("login 4321"), "0xa0");
    assert_eq!(lasting.does("login 1234"), "0");
    assert_eq!(lasting.does("sign"), SIGNED);
    restart(&mut stack);
    // It ended with the connection.
    assert_eq!(lasting.does("logout"), "0");
    assert_eq!(lasting.does("login 1234"), "0");
    assert_eq!(lasting.does("sign"), SIGNED);
    lasting.quit();
}

/// Somebody changed the PIN: it is tried once, not until the token is locked.
#[test]
fn a_wrong_pin_is_never_retried() {
    let mut stack = stack(Maker::Ours, Endpoint::Unix);
    let mut lasting = Lasting::start(&stack, &KEPT);
    stack.daemon().kill();
    let mut change = Command::new("pkcs11-tool");
    change
        .args(["--module", SOFTHSM, "--login", "--pin", "1234"])
        .args(["--change-pin", "--new-pin", "4321"])
        .env("SOFTHSM2_CONF", stack.token.configuration());
    let changed = change.output().expect("pkcs11-tool runs");
    assert!(changed.status.success(), "{changed:?}");
    stack.daemon().start_again();
    for _ in 0..5 {
        assert_eq!(lasting.does("begin"), "0x101");
        restart(&mut stack);
    }
    assert_eq!(lasting.does("login 4321"), "0");
    assert_eq!(lasting.does("sign"), SIGNED);
    restart(&mut stack);
    assert_eq!(lasting.does("sign"), SIGNED);
    lasting.quit();
}

/// Under load: each thread is told at most once of each restart, and everything goes on.
#[test]
fn threads_go_on_after_the_daemon_was_killed_under_them() {
    const THREADS: usize = 8;
    for maker in [Maker::Ours, Maker::Original] {
        let mut stack = stack(maker, Endpoint::Tcp);
        let mut lasting = Lasting::start(&stack, &KEPT);
        lasting.tell(&format!("load {THREADS}"));
        let restarts = 5;
        for _ in 0..restarts {
            let before = good(&mut lasting);
            restart(&mut stack);
            let goes_on = wait_until(PATIENCE, || good(&mut lasting) > before + 20);
            assert!(goes_on, "{maker:?}: no signature is made any more");
        }
        lasting.tell("stop");
        let line = lasting.line();
        let said = line.strip_prefix("stop ").expect("what it was told");
        let errors: Vec<&str> = said.split(' ').skip(1).collect();
        let told: usize = errors
            .iter()
            .map(|error| {
                let (value, times) = error.split_once(':').expect("value:times");
                assert_eq!(value, "0x30", "{maker:?}: {line}");
                times.parse::<usize>().expect("a number")
            })
            .sum();
        assert!(told <= restarts * THREADS, "{maker:?}: {line}");
        assert_eq!(lasting.does("sign"), SIGNED);
        lasting.quit();
    }
}

fn good(lasting: &mut Lasting) -> u64 {
    let said = lasting.does("good");
    said.parse().unwrap_or_else(|_| panic!("{said}"))
}

/// While there is no daemon, a call waits as long as its timeout and not longer; and C_Finalize not at all.
#[test]
fn waiting_for_a_daemon_is_bounded_by_the_timeout() {
    let mut stack = stack(Maker::Ours, Endpoint::Unix);
    let variables = [KEPT[0], ("PKCS11PROXY_RPC_TIMEOUT", "2")];
    let mut lasting = Lasting::start(&stack, &variables);
    stack.daemon().kill();
    let start = Instant::now();
    assert_eq!(lasting.does("begin"), "0x30");
    let time = start.elapsed();
    let bound = Duration::from_millis(1500)..Duration::from_secs(4);
    assert!(bound.contains(&time), "{time:?}");
    stack.daemon().start_again();
    assert_eq!(lasting.does("sign"), SIGNED);
    stack.daemon().kill();
    let start = Instant::now();
    lasting.quit();
    assert!(start.elapsed() < Duration::from_secs(1));
}

/// A second daemon with the same keys takes over, and the first one again.
#[test]
fn a_program_goes_over_to_another_daemon() {
    let mut stack = stack(Maker::Ours, Endpoint::Tcp);
    let token = stack.token.copy();
    let mut other = Setup::new(Maker::Ours, Endpoint::Unix, &token).start();
    let directory = Directory::new();
    let file = directory.join("client.conf");
    let endpoints = format!(
        "endpoints = [\"{}\", \"{}\"]\nrecover = true\nkeep_pin = true\n",
        stack.daemon().address(),
        other.address()
    );
    std::fs::write(&file, endpoints).expect("a new directory");
    let mut lasting = {
        let mut command = stack.command(program("lasting"));
        command.env_remove("PKCS11PROXY_SOCKET_PATH");
        command.env("PKCS11PROXY_CONF", &file);
        Lasting::of(command, &stack)
    };
    for _ in 0..3 {
        assert_eq!(lasting.does("sign"), SIGNED);
        stack.daemon().kill();
        assert_eq!(lasting.does("sign"), SIGNED);
        stack.daemon().start_again();
        other.kill();
        assert_eq!(lasting.does("sign"), SIGNED);
        other.start_again();
    }
    lasting.quit();
}
