//! Tests parallel calls through our pair, with the recorder as a module that takes 5 ms for each call.
//!
//! `parallel.c` makes calls from many threads while something else happens, and the recorder says which calls
//! overlapped.

use std::fs;
use std::time::Duration;

use super::pairs::{Way, pair, through_to_the_recorder};
use super::support::compile::{module, program};
use super::support::processes::{Outcome, Running, run, wait_until};
use super::support::{Directory, Endpoint, Library, Maker, Setup, Stack, Token};

/// How long a run may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Idle workers of a daemon: `max_free_jobs_capacity`.
const IDLE: usize = 2;

/// A pair in front of the recorder, and the file with what it recorded.
struct Pair {
    stack: Stack,
    log: Directory,
}

impl Pair {
    fn new(way: Way, environment: &[(&str, &str)]) -> Self {
        let log = Directory::new();
        let stack = pair(
            module("recorder"),
            way,
            Token::new(),
            variables(&log, environment),
        );
        Self { stack, log }
    }

    /// The same with more of the `processor` section.
    fn with(processor: &str, environment: &[(&str, &str)]) -> Self {
        let log = Directory::new();
        let token = Token::new();
        let mut setup = Setup::new(Maker::Ours, Endpoint::Unix, &token);
        setup.modules = vec![("softhsm".into(), module("recorder"))];
        setup.processor = processor.into();
        setup.environment.extend(variables(&log, environment));
        let stack = Stack {
            library: Library::Ours,
            daemon: Some(setup.start()),
            token,
            protocol: None,
        };
        Self { stack, log }
    }

    /// Runs `parallel.c`: every check in it holds.
    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Outcome {
        let mut command = self.stack.command(program("parallel"));
        command
            .arg(self.stack.library.path())
            .args(arguments)
            .envs(environment.iter().copied());
        let outcome = run(command, LIMIT);
        assert!(
            outcome.status.success(),
            "{}{}",
            outcome.stdout,
            outcome.stderr
        );
        outcome
    }

    /// What the recorder recorded, in which nothing overlapped that may not.
    fn recorded(&self) -> String {
        let log = fs::read_to_string(self.log.join("log")).unwrap_or_default();
        let overlaps: Vec<&str> = log
            .lines()
            .filter(|line| line.starts_with("OVERLAP"))
            .collect();
        assert_eq!(overlaps, Vec::<&str>::new());
        log
    }

    /// How many calls the module had at once between the C_Initialize and C_Finalize with the most of them.
    fn at_once(&self) -> usize {
        let log = self.recorded();
        let counts = log
            .lines()
            .filter_map(|line| line.strip_prefix("C_Finalize returns: at most "))
            .filter_map(|rest| rest.split(' ').next()?.parse().ok());
        counts.max().expect("the module was finalised")
    }
}

/// The recorder's: its file, 5 ms a call, and more.
fn variables(log: &Directory, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let file = log.join("log").display().to_string();
    let mut all = vec![
        ("RECORDER_LOG".to_owned(), file),
        ("RECORDER_DELAY_MS".to_owned(), "5".to_owned()),
    ];
    let more = more.iter();
    all.extend(more.map(|&(name, value)| (name.to_owned(), value.to_owned())));
    all
}

fn sixty_four_threads_with_a_session_each(way: Way) {
    let pair = Pair::new(way, &[]);
    pair.run(&["sign", "64", "10"], &[]);
    let at_once = pair.at_once();
    assert!((2..=16).contains(&at_once), "{at_once}");
}

#[test]
fn sixty_four_threads_with_a_session_each_over_tcp() {
    sixty_four_threads_with_a_session_each(Way::Tcp);
}

#[test]
fn sixty_four_threads_with_a_session_each_over_unix() {
    sixty_four_threads_with_a_session_each(Way::Unix);
}

#[test]
fn sixty_four_threads_with_a_session_each_over_tls() {
    sixty_four_threads_with_a_session_each(Way::Tls);
}

#[test]
fn the_module_has_as_many_calls_as_max_parallel_calls_says() {
    let many = Pair::with("max_parallel_calls = 64;", &[]);
    many.run(&["sign", "64", "10"], &[]);
    let at_once = many.at_once();
    assert!((17..=64).contains(&at_once), "{at_once}");
    let one = Pair::with("max_parallel_calls = 1;", &[]);
    one.run(&["sign", "16", "5"], &[]);
    assert_eq!(one.at_once(), 1);
}

#[test]
fn a_module_that_cannot_lock_gets_one_call_at_a_time() {
    let pair = Pair::new(Way::Unix, &[("RECORDER_CANT_LOCK", "1")]);
    pair.run(&["sign", "16", "5"], &[]);
    assert_eq!(pair.at_once(), 1);
    assert!(pair.recorded().contains("C_Initialize pInitArgs=NULL\n"));
}

/// Both are errors of an application; the module behind our pair need not see them.
#[test]
fn calls_that_an_application_may_not_make_at_once_reach_the_module_one_by_one() {
    let slow = [("RECORDER_DELAY_MS", "5")];
    for section in ["unlocked", "onesession"] {
        let (_, log) = through_to_the_recorder(Way::Unix, &[section], &slow);
        assert!(log.contains("C_Sign "), "{section}");
        assert!(!log.contains("OVERLAP"), "{section}: {log}");
    }
}

#[test]
fn a_slot_event_arrives_while_others_sign() {
    for way in [Way::Tcp, Way::Tls] {
        let pair = Pair::new(way, &[("RECORDER_SLOT_EVENT_MS", "500")]);
        pair.run(&["wait", "16", "10"], &[]);
        assert!(
            pair.recorded()
                .contains("C_WaitForSlotEvent returns: an event")
        );
    }
}

#[test]
fn who_waits_for_a_slot_event_delays_nobody_and_ends_with_c_finalize() {
    for way in [Way::Tcp, Way::Tls] {
        let environment = [("RECORDER_SLOT_EVENT_MS", "-1"), ("RECORDER_DELAY_MS", "5")];
        let (here, log) = through_to_the_recorder(way, &["waiting"], &environment);
        let lines = here.lines().join("\n");
        assert!(
            lines.contains("signatures of 4 threads, 5 each: 20"),
            "{lines}"
        );
        // CKR_CRYPTOKI_NOT_INITIALIZED.
        assert!(
            lines.contains("C_WaitForSlotEvent ended with 0x190"),
            "{lines}"
        );
        assert!(
            log.contains("C_WaitForSlotEvent returns: C_Finalize was called"),
            "{log}"
        );
    }
}

#[test]
fn a_client_that_dies_waiting_for_a_slot_event_leaves_no_worker() {
    let mut pair = Pair::new(Way::Tcp, &[("RECORDER_SLOT_EVENT_MS", "-1")]);
    let mut command = pair.stack.command(program("parallel"));
    command
        .arg(pair.stack.library.path())
        .args(["wait", "2", "2"]);
    let waiting = Running::start(command);
    assert!(wait_until(LIMIT, || waiting.stdout().contains("waiting\n")));
    let before = pair.stack.daemon().workers();
    drop(waiting);
    let daemon = pair.stack.daemon();
    let ended = wait_until(Duration::from_secs(10), || {
        before.iter().any(|worker| !worker.is_alive()) && daemon.workers().len() <= IDLE
    });
    assert!(ended, "{before:?}, {:?}", daemon.workers());
}

#[test]
fn c_finalize_ends_calls_in_flight() {
    for way in [Way::Tcp, Way::Unix, Way::Tls] {
        let pair = Pair::new(way, &[]);
        pair.run(&["finalize", "16"], &[]);
        assert!(pair.at_once() > 1);
    }
}

#[test]
fn a_module_that_crashes_ends_every_call_in_flight() {
    for way in [Way::Tcp, Way::Unix, Way::Tls] {
        let pair = Pair::new(way, &[("RECORDER_RV", "C_Digest=crash")]);
        pair.run(&["crash", "16"], &[]);
        pair.recorded();
    }
}

#[test]
fn a_call_that_hangs_delays_no_other_session() {
    for way in [Way::Tcp, Way::Tls] {
        let mut pair = Pair::new(way, &[("RECORDER_RV", "C_Digest=hang")]);
        pair.run(&["hang", "16", "10"], &[("PKCS11PROXY_RPC_TIMEOUT", "4")]);
        pair.recorded();
        let daemon = pair.stack.daemon();
        let ended = wait_until(Duration::from_secs(10), || daemon.workers().len() <= IDLE);
        assert!(
            ended,
            "the worker with the call lives on: {:?}",
            daemon.workers()
        );
    }
}

#[test]
fn children_can_be_forked_while_calls_are_in_flight() {
    for way in [Way::Tcp, Way::Unix, Way::Tls] {
        let pair = Pair::new(way, &[]);
        pair.run(&["fork", "8"], &[]);
        pair.recorded();
    }
}
