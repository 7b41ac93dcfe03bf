//! A module alone and through our pair: the same transcript, line by line, and the same calls at the
//! module. Protocol version 3 cannot carry them, so these are ignored until version 4 is there.

use std::fs;
use std::path::PathBuf;

use super::recorder;
use super::softhsm;
use super::support::compile::{module, program};
use super::support::{Directory, Endpoint, Library, Maker, SOFTHSM, Setup, Stack, Token};
use super::transcript::{Transcript, bare, exact, missing, recorded};

/// What need not arrive as it was called: the daemon initialises the module and opens sessions with
/// arguments of its own, and PKCS#11 fixes the answer of the last two.
const NOT_AS_CALLED: &[&str] = &[
    "C_Initialize ",
    "C_Finalize ",
    "C_OpenSession ",
    "C_GetFunctionStatus ",
    "C_CancelFunction ",
];

/// Whether a call has to arrive. A value with an impossible length is refused on the way, as the module
/// refuses it.
fn has_to_arrive(call: &str) -> bool {
    !NOT_AS_CALLED.iter().any(|begin| call.starts_with(begin)) && !call.contains("?:")
}

/// Our pair with `path` behind it.
fn pair(
    path: PathBuf,
    endpoint: Endpoint,
    token: Token,
    environment: Vec<(String, String)>,
) -> Stack {
    let mut setup = Setup::new(Maker::Ours, endpoint, &token);
    setup.modules = vec![("softhsm".into(), path)];
    setup.environment.extend(environment);
    Stack {
        library: Library::of(Maker::Ours, endpoint),
        daemon: Some(setup.start()),
        token,
    }
}

fn through(pair: &Stack, arguments: &[&str]) -> Transcript {
    exact(
        pair.command(program("exact")),
        &pair.library.path(),
        arguments,
    )
}

/// What differs between a run on the recorder alone and one through the pair, in the transcripts and
/// in what the recorder recorded.
fn compare_on_the_recorder(
    endpoint: Endpoint,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> String {
    let mut command = bare();
    command.envs(environment.iter().copied());
    let direct = exact(command, &module("recorder"), arguments);
    let directory = Directory::new();
    let log = directory.join("log");
    let mut environment: Vec<(String, String)> = environment
        .iter()
        .map(|&(name, value)| (name.into(), value.into()))
        .collect();
    environment.push(("RECORDER_LOG".into(), log.display().to_string()));
    let pair = pair(module("recorder"), endpoint, Token::new(), environment);
    let here = through(&pair, arguments);
    drop(pair);
    let log = fs::read_to_string(log).unwrap_or_default();
    let mut calls = direct.calls();
    calls.retain(|call| has_to_arrive(call));
    let mut report = here.differences(&direct);
    for fault in here.faults() {
        report += &format!("fault: {fault}\n");
    }
    for call in missing(&calls, &recorded(&log)).iter().take(40) {
        report += &format!("never arrived: {call}\n");
    }
    for line in log.lines().filter(|line| line.starts_with("OVERLAP")) {
        report += &format!("{line}\n");
    }
    if report.is_empty() {
        report
    } else {
        format!("{arguments:?}\n{report}")
    }
}

#[test]
#[ignore = "protocol version 4"]
fn the_recorder_is_called_as_the_application_calls() {
    let environment = [("RECORDER_NOTIFY", "1"), ("RECORDER_SLOT_EVENT_MS", "10")];
    let report: String = recorder::SECTIONS
        .iter()
        .map(|section| compare_on_the_recorder(Endpoint::Tcp, &[section], &environment))
        .collect();
    assert!(report.is_empty(), "{report}");
}

#[test]
#[ignore = "protocol version 4"]
fn the_recorder_is_called_as_the_random_walk_calls() {
    for seed in ["1", "2", "3", "4", "5", "6"] {
        let report = compare_on_the_recorder(Endpoint::Unix, &["random", seed, "3000"], &[]);
        assert!(report.is_empty(), "{report}");
    }
}

#[test]
#[ignore = "protocol version 4"]
fn calls_that_run_at_once_do_not_overlap_where_they_may_not() {
    let slow = [("RECORDER_DELAY_MS", "5")];
    let never = [("RECORDER_SLOT_EVENT_MS", "-1")];
    let report = compare_on_the_recorder(Endpoint::Tcp, &["parallel"], &slow)
        + &compare_on_the_recorder(Endpoint::Tcp, &["waiting"], &never);
    assert!(report.is_empty(), "{report}");
}

#[test]
#[ignore = "protocol version 4"]
fn softhsm_answers_as_without_a_proxy() {
    for endpoint in [Endpoint::Tcp, Endpoint::Unix] {
        let token = Token::new();
        let direct = softhsm::direct(&token, softhsm::SECTIONS);
        let pair = pair(SOFTHSM.into(), endpoint, token, Vec::new());
        let report = through(&pair, softhsm::SECTIONS).differences(&direct);
        assert!(report.is_empty(), "{endpoint:?}: {report}");
    }
}

#[test]
#[ignore = "protocol version 4"]
fn softhsm_answers_the_random_walk_as_without_a_proxy() {
    for seed in ["1", "2", "3", "4", "5", "6"] {
        let token = Token::new();
        let arguments = ["random", seed, "3000"];
        let direct = softhsm::direct(&token, &arguments);
        let pair = pair(SOFTHSM.into(), Endpoint::Tcp, token, Vec::new());
        let report = through(&pair, &arguments).differences(&direct);
        assert!(report.is_empty(), "seed {seed}: {report}");
    }
}
