//! Tests the client library in unusual states of an application's process and threads, with a daemon and SoftHSM.
//!
//! - `process` tests signals, limits, clocks, directories and the end of the process.
//! - `loading` tests dlopen, dlclose and several copies.
//! - `stacks` tests threads with little stack.
//! - `every_call` calls every function with every bad argument, also under sanitizers.
//!
//! The applications are C programs of `tests/support`. One of the ways to reach the daemon has `recover = true`. Other
//! states are tested elsewhere: forks, dead daemons, closed descriptors and little memory with large data in
//! `tests/e2e/applications.rs` and `client/tests/c_abi`.

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

use std::ops::{Deref, DerefMut};
use std::process::Command;
use std::time::Duration;

use support::lasting::KEPT;
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
    /// Over TCP, with the settings that let it outlive the daemon.
    Recovering,
}

const WAYS: [Way; 4] = [Way::Tcp, Way::Unix, Way::Tls, Way::Recovering];

/// Ways that have code of their own in the library.
const SOME_WAYS: [Way; 3] = [Way::Tcp, Way::Tls, Way::Recovering];

/// A stack, and whether its applications are to outlive the daemon.
struct Site {
    stack: Stack,
    recovers: bool,
}

impl Site {
    /// As [`Stack::program`].
    fn program(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = self.stack.program(name, arguments);
        if self.recovers {
            command.envs(KEPT);
        }
        command
    }
}

impl Deref for Site {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.stack
    }
}

impl DerefMut for Site {
    fn deref_mut(&mut self) -> &mut Stack {
        &mut self.stack
    }
}

impl Way {
    /// Our library, our daemon and a token.
    fn stack(self) -> Site {
        let plain = |endpoint| Stack::through(Maker::Ours, Maker::Ours, endpoint, Token::new());
        let stack = match self {
            Way::Tcp | Way::Recovering => plain(Endpoint::Tcp),
            Way::Unix => plain(Endpoint::Unix),
            Way::Tls => tls::stack(Maker::Ours, Maker::Ours, &tls::Tls::default()),
        };
        let recovers = matches!(self, Way::Recovering);
        Site { stack, recovers }
    }
}

/// Runs a C program with these arguments after the library's; every line that it prints has to say yes.
fn passes(stack: &Site, program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Outcome {
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
