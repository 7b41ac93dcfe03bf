//! Calls every function with every bad argument: nothing ends the process, and the answers are the module's.

use std::process::Command;

use super::support::compile::{module, program, program_with};
use super::support::processes::run;
use super::support::{Endpoint, Library, Maker, Setup, Stack, Token};
use super::{LIMIT, Way};

/// The lines of `every_call.c`. The variables are those of a stack.
fn lines(mut command: Command) -> Vec<String> {
    command.env("PKCS11PROXY_LOG", "error");
    let outcome = run(command, LIMIT);
    let lines: Vec<String> = outcome.stdout.lines().map(str::to_owned).collect();
    let last: Vec<&String> = lines.iter().rev().take(3).collect();
    assert!(
        outcome.status.success(),
        "{}: {last:#?}\n{}",
        outcome.status,
        outcome.stderr
    );
    lines
}

fn all_lines(stack: &Stack) -> Vec<String> {
    lines(stack.program("every_call", &[]))
}

/// The CK_RV, and whether there may be an answer beside it.
fn result(line: &str) -> (&str, bool) {
    let result = line.split(" wrote").next().unwrap_or(line);
    let is_answer = result.ends_with("-> 0x0") || result.ends_with("-> 0x150");
    (result, is_answer)
}

/// After an error a module may have written something; through us nothing is.
fn is_same(direct: &str, through: &str) -> bool {
    let (rv, is_answer) = result(direct);
    direct == through || !is_answer && rv == through
}

/// Compares each line of the module with the one through us. What ends the process with the module alone is left
/// out, and so is a function that the module does not have.
fn compare(direct: &[String], through: &[String]) {
    let count = |lines: &[String], word: &str| lines.iter().filter(|it| it.contains(word)).count();
    assert_eq!(count(through, "killed"), 0, "{through:#?}");
    assert_eq!(count(through, "is not there"), 0);
    assert!(through.len() > 4000, "{}", through.len());
    let call = |line: &str| line.split(" -> ").next().unwrap_or(line).to_owned();
    let by_call: std::collections::HashMap<String, &String> =
        through.iter().map(|line| (call(line), line)).collect();
    let mut compared = 0;
    let mut differences = Vec::new();
    for line in direct {
        if line.contains("killed") || line.contains("is not there") {
            continue;
        }
        compared += 1;
        match by_call.get(&call(line)) {
            Some(other) if is_same(line, other) => {}
            other => differences.push((line, other)),
        }
    }
    println!(
        "{compared} calls compared, {} more made",
        through.len() - compared
    );
    assert!(compared > 2000, "{compared}");
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn bad_arguments_get_the_answers_of_softhsm() {
    let token = Token::new();
    let direct = all_lines(&Stack::direct(token.copy()));
    let pair = Stack::through(Maker::Ours, Maker::Ours, Endpoint::Unix, token);
    compare(&direct, &all_lines(&pair));
    for way in [Way::Tls, Way::Recovering] {
        compare(&direct, &lines(way.stack().program("every_call", &[])));
    }
}

/// It has all functions of PKCS#11 3.2.
#[test]
fn bad_arguments_get_the_answers_of_a_module_of_3_2() {
    let token = Token::new();
    let recorder = module("recorder");
    let mut alone = Command::new(program("every_call"));
    alone.arg(&recorder);
    let direct = lines(alone);
    let mut setup = Setup::new(Maker::Ours, Endpoint::Tcp, &token);
    setup.modules = vec![("softhsm".into(), recorder)];
    let pair = Stack {
        library: Library::Ours,
        daemon: Some(setup.start()),
        token,
        protocol: None,
    };
    compare(&direct, &all_lines(&pair));
}

/// The library's own answers, which that version's limits decide.
#[test]
fn bad_arguments_end_nothing_in_version_3() {
    let mut pair = Way::Unix.stack();
    pair.protocol = Some(3);
    let through = all_lines(&pair);
    assert!(through.len() > 4000, "{}", through.len());
    assert!(!through.iter().any(|line| line.contains("killed")));
}

/// The program is compiled for it; of the library it sees what the C library's functions do.
#[test]
fn address_sanitizer_finds_nothing_in_every_call() {
    let sanitized = program_with("every_call", &["-fsanitize=address"]);
    let pair = Way::Tcp.stack();
    let plain = pair.program("every_call", &[]);
    let mut command = Command::new(sanitized);
    copy(&plain, &mut command);
    command.env("EVERY_CALL_ALONE", "1");
    assert!(lines(command).len() > 4000);
}

/// Memory that is invalid, not initialised or lost.
#[test]
#[ignore = "slow: make soak"]
fn valgrind_finds_nothing_in_every_call() {
    for way in [Way::Tcp, Way::Tls] {
        let pair = way.stack();
        let plain = pair.program("every_call", &[]);
        let mut command = Command::new("valgrind");
        command.args(["--quiet", "--error-exitcode=99", "--leak-check=full"]);
        command.args([
            "--show-leak-kinds=definite",
            "--errors-for-leak-kinds=definite",
        ]);
        command.arg(plain.get_program());
        copy(&plain, &mut command);
        command.env("EVERY_CALL_ALONE", "1");
        assert!(lines(command).len() > 4000);
    }
}

/// The library itself is built for it, and named by a variable; another names what has to be linked into the programs.
/// (Valgrind's tools for threads do not know the locks of Rust's standard library.)
#[test]
#[ignore = "make sanitizers"]
fn sanitized_programs_find_nothing() {
    let variable = |name| std::env::var(name).expect("make sanitizers sets it");
    let (library, runtime) = (variable("SANITIZED_LIBRARY"), variable("SANITIZER_RUNTIME"));
    let linked = format!("-Wl,--whole-archive,{runtime},--no-whole-archive");
    for way in [Way::Tcp, Way::Tls] {
        let pair = way.stack();
        for (name, arguments) in PROGRAMS {
            let sanitized = program_with(name, &[&linked, "-rdynamic", "-lm", "-lrt"]);
            let plain = pair.program(name, arguments);
            let mut command = Command::new(sanitized);
            command.arg(&library).args(arguments);
            copy_variables(&plain, &mut command);
            command.env("EVERY_CALL_ALONE", "1");
            if name == "unload" {
                // It measures by itself what stays; see client/abi/unload.rs.
                command.env("ASAN_OPTIONS", "detect_leaks=0");
            }
            command.env("TSAN_OPTIONS", "exitcode=66 report_thread_leaks=0");
            let outcome = run(command, LIMIT);
            assert!(
                outcome.status.success() && !outcome.stderr.contains("Sanitizer"),
                "{name} {arguments:?}: {}\n{}",
                outcome.status,
                outcome.stderr
            );
        }
    }
}

/// What is run under sanitizers.
const PROGRAMS: [(&str, &[&str]); 4] = [
    ("every_call", &[]),
    ("threads", &["threads", "0"]),
    ("unload", &["finalize", "4"]),
    ("endings", &["busy"]),
];

/// Gives a command the arguments and variables of another.
fn copy(from: &Command, to: &mut Command) {
    to.args(from.get_args());
    copy_variables(from, to);
}

fn copy_variables(from: &Command, to: &mut Command) {
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
}
