//! Tests the client library in unusual states of an application's process and threads, with a daemon and SoftHSM.
//!
//! `process` has signals, limits, clocks, places and ends; `loading` has dlopen, dlclose and several copies; `stacks`
//! has threads with little stack; `every_call` calls every function with every bad argument, also under sanitizers. C programs of `tests/support` are the
//! applications. Other states are tested elsewhere: forks, dead daemons, closed descriptors and little memory with
//! large data in `tests/e2e/applications.rs` and `client/tests/c_abi`.

#![forbid(unsafe_code)]

#[path = "../support/mod.rs"]
mod support;
#[path = "../tls/tls.rs"]
#[allow(dead_code, reason = "the tests of TLS use the rest")]
mod tls;

mod every_call;
mod loading;
mod process;
mod stacks;

use std::time::Duration;

use support::processes::{Outcome, run};
use support::{Endpoint, Maker, Stack, Token};

/// More than any of the programs takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

/// How an application reaches its daemon.
#[derive(Clone, Copy, Debug)]
enum Way {
    Tcp,
    Unix,
    Tls,
}

const WAYS: [Way; 3] = [Way::Tcp, Way::Unix, Way::Tls];

impl Way {
    /// Our library, our daemon and a token.
    fn stack(self) -> Stack {
        match self {
            Way::Tcp => Stack::through(Maker::Ours, Maker::Ours, Endpoint::Tcp, Token::new()),
            Way::Unix => Stack::through(Maker::Ours, Maker::Ours, Endpoint::Unix, Token::new()),
            Way::Tls => tls::stack(Maker::Ours, Maker::Ours, &tls::Tls::default()),
        }
    }
}

/// Runs a C program with these arguments after the library's; every line that it prints has to say yes.
fn passes(stack: &Stack, program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Outcome {
    let mut command = stack.program(program, arguments);
    command.env("PKCS11PROXY_LOG", "warn");
    command.envs(variables.iter().copied());
    let outcome = run(command, LIMIT);
    assert!(
        outcome.status.success() && !outcome.stdout.contains("-> NO"),
        "{program} {arguments:?}: {}\n{}\n{}",
        outcome.status,
        outcome.stdout,
        outcome.stderr
    );
    outcome
}
