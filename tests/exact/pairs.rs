//! Compares a module alone with the same module through our pair: the same transcript, line by line, and the same calls
//! at the module.

use std::fs;
use std::path::PathBuf;

use super::named::{arrived, arriving, is_named, unused};
use super::recorder;
use super::softhsm;
use super::support::certificates::certificate;
use super::support::compile::{module, program};
use super::support::{Directory, Endpoint, Library, Maker, SOFTHSM, Setup, Stack, Token};
use super::transcript::{Transcript, bare, exact, parted, parts, recorded};

/// How the two halves are connected.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    Tcp,
    Unix,
    Tls,
}

/// Our pair with `path` behind it.
pub fn pair(
    path: PathBuf,
    way: Way,
    token: Token,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Stack {
    configured(path, way, token, environment, "")
}

/// The same with these parameters of `processor`.
pub fn configured(
    path: PathBuf,
    way: Way,
    token: Token,
    environment: impl IntoIterator<Item = (String, String)>,
    processor: &str,
) -> Stack {
    let endpoint = match way {
        Way::Unix => Endpoint::Unix,
        Way::Tcp | Way::Tls => Endpoint::Tcp,
    };
    let mut setup = Setup::new(Maker::Ours, endpoint, &token);
    setup.modules = vec![("softhsm".into(), path)];
    setup.environment.extend(environment);
    // Many calls have made-up PINs.
    setup.processor = format!("max_failed_logins = 0; {processor}");
    if matches!(way, Way::Tls) {
        setup.use_ssl = true;
        setup.processor += &format!(
            "tls {{ peer_auth = \"required\"; x509 {{ key {{ crt_file = \"{}\"; key_file = \"{}\" }}; \
             trust {{ crt_file = \"{}\" }} }} }};",
            certificate("server.pem"),
            certificate("server.key"),
            certificate("ca.pem")
        );
    }
    Stack {
        library: match way {
            Way::Tls => Library::OursTls,
            Way::Tcp | Way::Unix => Library::Ours,
        },
        daemon: Some(setup.start()),
        token,
        protocol: None,
    }
}

pub fn through(pair: &Stack, arguments: &[&str]) -> Transcript {
    exact(
        pair.command(program("exact")),
        &pair.library.path(),
        arguments,
    )
}

/// What differs between a run on the recorder alone and one through the pair, in the transcripts and
/// in what the recorder recorded.
fn compare_on_the_recorder(way: Way, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = bare();
    command.envs(environment.iter().copied());
    let direct = exact(command, &module("recorder"), arguments);
    let (here, log) = through_to_the_recorder(way, arguments, environment);
    let calls: Vec<String> = direct
        .answered()
        .filter_map(|(call, answer)| arriving(call, answer))
        .collect();
    let mut report = here.differences(&direct, is_named);
    report += &parted(&calls, &arrived(&recorded(&log)));
    for fault in here.faults() {
        report += &format!("fault: {fault}\n");
    }
    for line in log.lines().filter(|line| line.starts_with("OVERLAP")) {
        report += &format!("{line}\n");
    }
    if report.is_empty() {
        report
    } else {
        format!("{way:?} {arguments:?}\n{report}")
    }
}

/// A run through the pair with the recorder behind it: the transcript, and what the recorder recorded.
pub fn through_to_the_recorder(
    way: Way,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> (Transcript, String) {
    let directory = Directory::new();
    let log = directory.join("log");
    let mut environment: Vec<(String, String)> = environment
        .iter()
        .map(|&(name, value)| (name.into(), value.into()))
        .collect();
    environment.push(("RECORDER_LOG".into(), log.display().to_string()));
    let pair = pair(module("recorder"), way, Token::new(), environment);
    let here = through(&pair, arguments);
    drop(pair);
    (here, fs::read_to_string(log).unwrap_or_default())
}

/// Sections in which everything crosses: our halves have no asynchronous sessions.
fn sections() -> impl Iterator<Item = &'static str> {
    let all = recorder::SECTIONS.iter().copied();
    all.filter(|section| *section != "async")
}

fn the_recorder_is_called_as_the_application_calls(way: Way) {
    let environment = [("RECORDER_SLOT_EVENT_MS", "10")];
    let report: String = sections()
        .map(|section| compare_on_the_recorder(way, &[section], &environment))
        .collect();
    assert!(report.is_empty(), "{report}");
}

#[test]
fn the_recorder_is_called_as_the_application_calls_over_tcp() {
    the_recorder_is_called_as_the_application_calls(Way::Tcp);
}

#[test]
fn the_recorder_is_called_as_the_application_calls_over_unix() {
    the_recorder_is_called_as_the_application_calls(Way::Unix);
}

#[test]
fn the_recorder_is_called_as_the_application_calls_over_tls() {
    the_recorder_is_called_as_the_application_calls(Way::Tls);
}

#[test]
fn the_recorder_is_called_as_the_random_walk_calls() {
    let ways = [Way::Unix, Way::Tcp, Way::Tls].into_iter().cycle();
    for (seed, way) in ["1", "2", "3", "4", "5", "6"].into_iter().zip(ways) {
        let report = compare_on_the_recorder(way, &["random", seed, "3000"], &[]);
        assert!(report.is_empty(), "{report}");
    }
}

#[test]
fn asynchronous_sessions_are_refused() {
    let (here, _) = through_to_the_recorder(Way::Tcp, &["async"], &[]);
    // CKR_SESSION_ASYNC_NOT_SUPPORTED.
    assert_eq!(here.answer("C_OpenSession"), "0x205");
}

#[test]
fn notifications_reach_the_application() {
    let report: String = ["1", "otp", "other"]
        .iter()
        .map(|what| compare_on_the_recorder(Way::Tcp, &["notify"], &[("RECORDER_NOTIFY", what)]))
        .collect();
    assert!(report.is_empty(), "{report}");
}

#[test]
fn an_older_module_has_no_functions_of_newer_versions() {
    for version in ["2.40", "3.0"] {
        let environment = [("RECORDER_MAX_VERSION", version)];
        let report: String = ["messages", "latest", "sessions"]
            .iter()
            .map(|section| compare_on_the_recorder(Way::Unix, &[section], &environment))
            .collect();
        assert!(report.is_empty(), "{version}: {report}");
    }
}

fn softhsm_answers_as_without_a_proxy(way: Way) {
    let token = Token::new();
    let direct = softhsm::direct(&token, softhsm::SECTIONS);
    let here = through(&pair(SOFTHSM.into(), way, token, []), softhsm::SECTIONS);
    let report = here.differences(&direct, is_named);
    assert!(report.is_empty(), "{way:?}: {report}");
}

#[test]
fn softhsm_answers_as_without_a_proxy_over_tcp() {
    softhsm_answers_as_without_a_proxy(Way::Tcp);
}

#[test]
fn softhsm_answers_as_without_a_proxy_over_unix() {
    softhsm_answers_as_without_a_proxy(Way::Unix);
}

#[test]
fn softhsm_answers_as_without_a_proxy_over_tls() {
    softhsm_answers_as_without_a_proxy(Way::Tls);
}

#[test]
fn softhsm_answers_the_random_walk_as_without_a_proxy() {
    let ways = [Way::Tcp, Way::Unix, Way::Tls].into_iter().cycle();
    for (seed, way) in ["1", "2", "3", "4", "5", "6"].into_iter().zip(ways) {
        let token = Token::new();
        let arguments = ["random", seed, "3000"];
        let direct = softhsm::direct(&token, &arguments);
        let here = through(&pair(SOFTHSM.into(), way, token, []), &arguments);
        let report = here.differences(&direct, is_named);
        assert!(report.is_empty(), "seed {seed}, {way:?}: {report}");
    }
}

/// A row that explains nothing any more has to go.
#[test]
fn every_named_difference_is_there() {
    let token = Token::new();
    let softhsm_alone = softhsm::direct(&token, softhsm::SECTIONS);
    let pair = pair(SOFTHSM.into(), Way::Unix, token, []);
    let softhsm_here = through(&pair, softhsm::SECTIONS);
    let recorder_alone = exact(bare(), &module("recorder"), &["hollow3"]);
    let (recorder_here, _) = through_to_the_recorder(Way::Unix, &["hollow3"], &[]);
    let lines: Vec<(String, String)> = softhsm_here
        .against(&softhsm_alone)
        .chain(recorder_here.against(&recorder_alone))
        .filter(|(want, got)| want != got)
        .collect();
    let differences: Vec<(&str, &str, &str)> = lines
        .iter()
        .map(|(want, got)| (parts(want).0, parts(want).1, parts(got).1))
        .collect();
    assert_eq!(unused(&differences), Vec::<&str>::new());
}
