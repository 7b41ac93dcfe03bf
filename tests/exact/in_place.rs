//! Tests outputs in the application's memory: apart from the input, in its place, and partly in it.

use std::time::Duration;

use super::pairs::{Way, pair};
use super::support::Token;
use super::support::compile::module;

#[test]
fn an_output_may_lie_in_its_input() {
    for (way, protocol) in [
        (Way::Unix, None),
        (Way::Tcp, None),
        (Way::Tls, None),
        (Way::Unix, Some(3)),
    ] {
        let mut stack = pair(module("nullmodule"), way, Token::new(), []);
        stack.protocol = protocol;
        let outcome = stack.run("overlap", &[], Duration::from_secs(120));
        assert!(
            outcome.status.success() && outcome.stdout == "551 tried, 0 wrong\n",
            "{way:?}, {protocol:?}: {}\n{}",
            outcome.stdout,
            outcome.stderr
        );
    }
}
