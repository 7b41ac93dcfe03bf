//! Tests programs that run longer than the daemon: with `recover = true`, they continue when it has come back.

use std::collections::HashSet;
use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::support::compile::module;
use super::support::lasting::{KEPT, Lasting, SIGNED, lasting};
use super::support::processes::wait_until;
use super::support::stack::{Library, Stack};
use super::support::{Directory, Endpoint, Maker, SOFTHSM, Setup, Token};

const PATIENCE: Duration = Duration::from_secs(30);

fn restart(stack: &mut Stack) {
    stack.daemon().kill();
    stack.daemon().start_again();
}

/// Starts the program with recovery.
fn start(stack: &Stack, variables: &[(&str, &str)]) -> Lasting {
    let mut command = stack.command(lasting());
    command.envs(variables.iter().copied());
    Lasting::start(command, &stack.library.path())
}

fn stack(maker: Maker, endpoint: Endpoint) -> Stack {
    Stack::through(Maker::Ours, maker, endpoint, Token::new().with_rsa_key())
}

/// The same, with a module that writes down signatures and logins.
fn witnessed(maker: Maker, endpoint: Endpoint) -> Stack {
    let token = Token::new().with_rsa_key().witnessed();
    let mut setup = Setup::new(maker, endpoint, &token);
    setup.modules = vec![("softhsm".into(), module("witness"))];
    // Long enough that a worker is killed with it: what it has signed is not answered then.
    setup
        .environment
        .push(("WITNESS_PAUSE".into(), "20".into()));
    Stack {
        library: Library::Ours,
        daemon: Some(setup.start()),
        token,
        protocol: None,
    }
}

/// How many calls the module has written down that begin like this.
fn calls(stack: &Stack, what: &str) -> usize {
    let calls = stack.token.calls();
    calls.iter().filter(|call| call.starts_with(what)).count()
}

/// Changes the token with pkcs11-tool, past the daemon.
fn administer(stack: &Stack, options: &[&str]) {
    let mut command = Command::new("pkcs11-tool");
    command
        .args(["--module", SOFTHSM, "--login", "--pin", "1234"])
        .args(options)
        .env("SOFTHSM2_CONF", stack.token.configuration());
    let changed = command.output().expect("pkcs11-tool runs");
    assert!(changed.status.success(), "{changed:?}");
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
        let mut lasting = start(&stack, &KEPT);
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
        let mut lasting = start(&stack, &KEPT);
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
    let mut lasting = start(&stack, &[KEPT[0]]);
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

/// Somebody changed the PIN: it is tried once, not until the token is locked. Nor is one tried again that the application
/// got wrong.
#[test]
fn a_wrong_pin_is_never_retried() {
    for maker in [Maker::Ours, Maker::Original] {
        let mut stack = witnessed(maker, Endpoint::Tcp);
        let mut lasting = start(&stack, &KEPT);
        stack.daemon().kill();
        administer(&stack, &["--change-pin", "--new-pin", "4321"]);
        stack.daemon().start_again();
        for _ in 0..3 {
            assert_eq!(lasting.does("begin"), "0x101", "{maker:?}");
            restart(&mut stack);
        }
        assert_eq!(calls(&stack, "C_Login 0xa0 "), 1, "{maker:?}");
        for wrong in 2..=3 {
            assert_eq!(lasting.does("login 9999"), "0xa0");
            restart(&mut stack);
            assert_eq!(lasting.does("begin"), "0x101");
            assert_eq!(calls(&stack, "C_Login 0xa0 "), wrong, "{maker:?}");
        }
        assert_eq!(lasting.does("login 4321"), "0");
        assert_eq!(lasting.does("sign"), SIGNED);
        restart(&mut stack);
        assert_eq!(lasting.does("sign"), SIGNED);
        assert_eq!(calls(&stack, "C_Login 0xa0 "), 3, "{maker:?}");
        // At its start, with the new PIN, and after the last restart.
        assert_eq!(calls(&stack, "C_Login 0 "), 3, "{maker:?}");
        lasting.quit();
    }
}

/// Under load: each thread is told at most once of each restart, everything goes on, and nothing is signed twice.
#[test]
fn threads_go_on_after_the_daemon_was_killed_under_them() {
    const THREADS: usize = 8;
    for maker in [Maker::Ours, Maker::Original] {
        let mut stack = witnessed(maker, Endpoint::Tcp);
        let mut lasting = start(&stack, &KEPT);
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
        let (good, errors) = said.split_once(' ').unwrap_or((said, ""));
        let good: usize = good.parse().expect("a number");
        let errors: Vec<&str> = errors.split_whitespace().collect();
        let told: usize = errors
            .iter()
            .map(|error| {
                let (value, times) = error.split_once(':').expect("value:times");
                assert_eq!(value, "0x30", "{maker:?}: {line}");
                times.parse::<usize>().expect("a number")
            })
            .sum();
        assert!(told <= restarts * THREADS, "{maker:?}: {line}");
        let mut signed = stack.token.calls();
        signed.retain(|call| call.starts_with("C_Sign "));
        let count = signed.len();
        assert!(
            (good + 1..=good + told).contains(&count),
            "{maker:?}: {line}: {count} signatures, some of them not answered"
        );
        // No data were signed twice.
        assert_eq!(HashSet::<String>::from_iter(signed).len(), count);
        assert_eq!(lasting.does("sign"), SIGNED);
        lasting.quit();
    }
}

/// A daemon that drains is left between operations: nobody is told anything.
#[test]
fn a_daemon_that_drains_is_left_without_an_error() {
    let token = Token::new().with_rsa_key();
    let mut first = Setup::new(Maker::Ours, Endpoint::Tcp, &token).start();
    let copy = token.copy();
    let mut second = Setup::new(Maker::Ours, Endpoint::Unix, &copy).start();
    let directory = Directory::new();
    let file = directory.join("client.conf");
    let endpoints = format!(
        "endpoints = [\"{}\", \"{}\"]\nrecover = true\nkeep_pin = true\nalias = \"softhsm\"\n",
        first.address(),
        second.address()
    );
    fs::write(&file, endpoints).expect("a new directory");
    let mut command = Command::new(lasting());
    command.env("PKCS11PROXY_CONF", &file);
    let mut lasting = Lasting::start(command, &Library::Ours.path());
    assert_eq!(lasting.does("sign"), SIGNED);
    lasting.tell("load 8");
    for _ in 0..3 {
        for daemon in [&mut first, &mut second] {
            let before = good(&mut lasting);
            daemon.process().signal(Signal::SIGUSR2);
            let status = daemon
                .wait()
                .unwrap_or_else(|| panic!("it does not end: {}", daemon.log()));
            assert_eq!(status.code(), Some(0), "{}", daemon.log());
            let goes_on = wait_until(PATIENCE, || good(&mut lasting) > before + 20);
            assert!(goes_on, "no signature is made any more");
            daemon.start_again();
        }
    }
    lasting.tell("stop");
    let said = lasting.line();
    assert!(!said.contains(':'), "{said}");
    // What has begun is ended first.
    assert_eq!(lasting.does("begin"), "0");
    first.process().signal(Signal::SIGUSR2);
    second.process().signal(Signal::SIGUSR2);
    assert_eq!(lasting.does("end"), "0");
    let mut ended = [first.wait(), second.wait()].into_iter();
    assert!(ended.all(|status| status.is_some_and(|it| it.success())));
    first.start_again();
    assert_eq!(lasting.does("sign"), SIGNED);
    lasting.quit();
}

/// The new daemon takes the sockets over, and the old one is left between operations.
#[test]
fn an_upgrade_of_the_daemon_is_outlived_without_an_error() {
    let token = Token::new().with_rsa_key();
    let mut setup = Setup::new(Maker::Ours, Endpoint::Unix, &token);
    setup.daemon = "control_socket = \"../control\";".into();
    let daemon = setup.start();
    let control = daemon.directory().join("control");
    let old = daemon.process();
    let stack = Stack {
        library: Library::Ours,
        daemon: Some(daemon),
        token,
        protocol: None,
    };
    let mut lasting = start(&stack, &KEPT);
    let ask = |word: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyctl"));
        let status = command.arg("-socket").arg(&control).arg(word).status();
        assert!(status.expect("it runs").success(), "{word}");
    };
    assert_eq!(lasting.does("sign"), SIGNED);
    lasting.tell("load 8");
    for _ in 0..3 {
        let before = good(&mut lasting);
        ask("upgrade");
        let goes_on = wait_until(PATIENCE, || good(&mut lasting) > before + 50);
        assert!(goes_on, "no signature is made any more");
    }
    lasting.tell("stop");
    let said = lasting.line();
    assert!(!said.contains(':'), "{said}");
    // Nobody is left with the old daemon.
    assert!(wait_until(PATIENCE, || !old.is_alive()));
    lasting.quit();
    ask("stop");
}

/// What has begun ends with its session: nobody waits for it then.
#[test]
fn a_daemon_that_drains_waits_for_no_operation_of_a_closed_session() {
    let mut stack = stack(Maker::Ours, Endpoint::Unix);
    let mut lasting = start(&stack, &KEPT);
    for (begin, close) in [
        ("begin", "close"),
        ("begin", "close-all"),
        ("search", "close-all"),
    ] {
        assert_eq!(lasting.does(begin), "0");
        assert_eq!(lasting.does(close), "0");
        let daemon = stack.daemon();
        let start = Instant::now();
        daemon.process().signal(Signal::SIGUSR2);
        let status = daemon.wait().expect("it ends");
        assert_eq!(status.code(), Some(0), "{}", daemon.log());
        // By default clients have 30 s.
        assert!(start.elapsed() < Duration::from_secs(15), "{close}");
        daemon.start_again();
        assert_eq!(lasting.does("open"), "0");
        assert_eq!(lasting.does("login 1234"), "0");
        assert_eq!(lasting.does("sign"), SIGNED);
    }
    lasting.quit();
}

/// A search that nobody ends, or another operation, holds a daemon up until its `drain_timeout`, and not longer.
#[test]
fn a_daemon_that_drains_waits_for_an_operation_within_its_time() {
    for (begin, next, lost) in [("search", "next", "0x30 0"), ("begin", "end", "0x30")] {
        let token = Token::new().with_rsa_key();
        let mut setup = Setup::new(Maker::Ours, Endpoint::Unix, &token);
        setup.daemon = "drain_timeout = 1.5;".into();
        let mut stack = Stack {
            library: Library::Ours,
            daemon: Some(setup.start()),
            token,
            protocol: None,
        };
        let mut lasting = start(&stack, &KEPT);
        assert_eq!(lasting.does(begin), "0");
        let daemon = stack.daemon();
        let start = Instant::now();
        daemon.process().signal(Signal::SIGUSR2);
        let status = daemon.wait().expect("it ends");
        let time = start.elapsed();
        assert_eq!(status.code(), Some(0), "{}", daemon.log());
        assert!(time >= Duration::from_millis(1400), "{time:?}");
        assert!(time < Duration::from_secs(10), "{time:?}");
        daemon.start_again();
        assert_eq!(lasting.does(next), lost);
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
    let variables = [KEPT[0], KEPT[1], ("PKCS11PROXY_RPC_TIMEOUT", "2")];
    let mut lasting = start(&stack, &variables);
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

/// Nor does a daemon that accepts and says nothing hold a call up for longer.
#[test]
fn a_silent_daemon_is_waited_for_within_the_timeout() {
    let mut stack = stack(Maker::Ours, Endpoint::Unix);
    let variables = [KEPT[0], KEPT[1], ("PKCS11PROXY_RPC_TIMEOUT", "2")];
    let mut lasting = start(&stack, &variables);
    let path = stack.daemon().address();
    stack.daemon().kill();
    fs::remove_file(&path).expect("the socket was left behind");
    let silent = UnixListener::bind(&path).expect("a free path");
    let start = Instant::now();
    assert_eq!(lasting.does("begin"), "0x30");
    let time = start.elapsed();
    let bound = Duration::from_millis(1500)..Duration::from_millis(3500);
    assert!(bound.contains(&time), "{time:?}");
    drop(silent);
    fs::remove_file(&path).expect("the socket of this test");
    stack.daemon().start_again();
    assert_eq!(lasting.does("sign"), SIGNED);
    lasting.quit();
}

/// A second daemon with the same keys takes over, and the first one again: also where one speaks version 3 and the
/// other one version 4.
#[test]
fn a_program_goes_over_to_another_daemon() {
    for maker in [Maker::Ours, Maker::Original] {
        let mut stack = stack(maker, Endpoint::Tcp);
        let token = stack.token.copy();
        let mut other = Setup::new(Maker::Ours, Endpoint::Unix, &token).start();
        let directory = Directory::new();
        let file = directory.join("client.conf");
        let endpoints = format!(
            "endpoints = [\"{}\", \"{}\"]\nrecover = true\nkeep_pin = true\n",
            stack.daemon().address(),
            other.address()
        );
        fs::write(&file, endpoints).expect("a new directory");
        let mut command = stack.command(lasting());
        command.env_remove("PKCS11PROXY_SOCKET_PATH");
        command.env("PKCS11PROXY_CONF", &file);
        let mut lasting = Lasting::start(command, &stack.library.path());
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
}

/// One that hangs is like one that is gone: it accepts connections, but does nothing more.
#[test]
fn a_program_goes_over_to_another_daemon_when_the_first_one_hangs() {
    let mut stack = stack(Maker::Ours, Endpoint::Tcp);
    let token = stack.token.copy();
    let other = Setup::new(Maker::Ours, Endpoint::Unix, &token).start();
    let directory = Directory::new();
    let file = directory.join("client.conf");
    let endpoints = format!(
        "endpoints = [\"{}\", \"{}\"]\nrecover = true\nkeep_pin = true\ntimeout = 4\n",
        stack.daemon().address(),
        other.address()
    );
    fs::write(&file, endpoints).expect("a new directory");
    let mut command = stack.command(lasting());
    command.env_remove("PKCS11PROXY_SOCKET_PATH");
    command.env_remove("PKCS11PROXY_RPC_TIMEOUT");
    command.env("PKCS11PROXY_CONF", &file);
    let mut lasting = Lasting::start(command, &stack.library.path());
    assert_eq!(lasting.does("sign"), SIGNED);
    let daemon = stack.daemon();
    let workers = daemon.workers();
    daemon.process().signal(Signal::SIGSTOP);
    workers.iter().for_each(|it| it.signal(Signal::SIGKILL));
    let said = lasting.does("sign");
    stack.daemon().process().signal(Signal::SIGCONT);
    assert_eq!(said, SIGNED);
    lasting.quit();
}

/// The filter keeps the library from knowing its objects: they are lost, and the log says why, once.
#[test]
fn a_filter_that_hides_attributes_costs_the_objects_and_the_log_says_so() {
    let token = Token::new().with_rsa_key();
    let mut setup = Setup::new(Maker::Ours, Endpoint::Unix, &token);
    setup.filter = "forbidden_functions = [(\"softhsm\", [C_GetAttributeValue])]".into();
    let mut stack = Stack {
        library: Library::Ours,
        daemon: Some(setup.start()),
        token,
        protocol: None,
    };
    let directory = Directory::new();
    let log = directory.join("log");
    let to = log.display().to_string();
    let variables = [
        KEPT[0],
        KEPT[1],
        ("PKCS11PROXY_LOG", "warn"),
        ("PKCS11PROXY_LOG_TO", &to),
    ];
    let mut lasting = start(&stack, &variables);
    assert_eq!(lasting.does("sign"), SIGNED);
    for _ in 0..2 {
        restart(&mut stack);
        assert_eq!(lasting.does("begin"), "0x82"); // CKR_OBJECT_HANDLE_INVALID
        assert_eq!(lasting.does("token-key"), "0");
        assert_eq!(lasting.does("encrypt"), "0 0");
    }
    lasting.quit();
    let said = fs::read_to_string(&log).expect("the library has written it");
    let told = said.matches("filter.conf must not forbid C_GetAttributeValue");
    assert_eq!(told.count(), 1, "{said}");
}

/// It has the same label and CKA_ID. SoftHSM's private keys on curves do not show their public value, and its secret
/// keys show their check value.
#[test]
fn a_key_that_was_replaced_is_not_taken_for_the_one_that_the_application_had() {
    let of_key = ["--label", "e2e-rsa", "--id", "01"];
    let curve = ["--keypairgen", "--key-type", "EC:prime256v1"];
    let generate = [&curve[..], &of_key].concat();
    for maker in [Maker::Ours, Maker::Original] {
        let token = Token::new().with_key(&generate);
        let mut stack = Stack::through(Maker::Ours, maker, Endpoint::Unix, token);
        let mut lasting = start(&stack, &KEPT);
        assert_eq!(lasting.does("token-key"), "0");
        assert_eq!(lasting.does("encrypt"), "0 0");
        assert_eq!(lasting.does("begin-ec"), "0");
        for _ in 0..2 {
            restart(&mut stack);
            assert_eq!(lasting.does("encrypt"), "0 0");
            assert_eq!(lasting.does("begin-ec"), "0");
        }
        stack.daemon().kill();
        for class in ["privkey", "pubkey"] {
            let delete = [&["--delete-object", "--type", class][..], &of_key].concat();
            administer(&stack, &delete);
        }
        administer(&stack, &generate);
        let secret = ["--type", "secrkey", "--label", "lasting"];
        administer(&stack, &[&["--delete-object"][..], &secret].concat());
        let make = ["--keygen", "--key-type", "AES:16", "--label", "lasting"];
        administer(&stack, &make);
        stack.daemon().start_again();
        assert_eq!(lasting.does("begin-ec"), "0x82"); // CKR_OBJECT_HANDLE_INVALID
        assert_eq!(lasting.does("encrypt"), "0x82 0");
        lasting.quit();
    }
}

/// Its slot is gone as well: SoftHSM has none for a token that is not there.
#[test]
fn a_token_that_is_gone_is_missed_where_it_is_needed_until_it_is_back() {
    let mut stack = stack(Maker::Ours, Endpoint::Unix);
    let mut lasting = start(&stack, &KEPT);
    assert_eq!(lasting.does("slots"), "0 2"); // a free one, too
    let copy = stack.token.copy();
    stack.daemon().kill();
    let tokens = stack.token.path().join("tokens");
    fs::remove_dir_all(&tokens).expect("the token is there");
    fs::create_dir(&tokens).expect("a directory again");
    stack.daemon().start_again();
    assert_eq!(lasting.does("slots"), "0 1");
    assert_eq!(lasting.does("slot"), "0 0");
    assert_eq!(lasting.does("token"), "0xe0"); // CKR_TOKEN_NOT_PRESENT
    assert_eq!(lasting.does("begin"), "0x32"); // CKR_DEVICE_REMOVED
    stack.daemon().kill();
    stack.token.restore(&copy);
    stack.daemon().start_again();
    assert_eq!(lasting.does("slots"), "0 2");
    assert_eq!(lasting.does("slot"), "0 1");
    assert_eq!(lasting.does("token"), "0");
    assert_eq!(lasting.does("sign"), SIGNED);
    lasting.quit();
}
