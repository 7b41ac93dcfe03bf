//! Tests what the log says about a mechanism parameter that our pair refuses.
//!
//! The client or daemon that refuses it logs the names of the function and the mechanism, and none of the parameter's
//! bytes.

use std::time::Duration;

use super::pairs::{Way, pair};
use super::support::Token;
use super::support::compile::{module, program};
use super::support::processes::{run, wait_until};

#[test]
fn the_log_names_function_and_mechanism_of_a_refused_parameter() {
    let pair = pair(module("recorder"), Way::Tcp, Token::new(), []);
    let mut command = pair.command(program("exact"));
    command.env("PKCS11PROXY_LOG", "error");
    command
        .arg(pair.library.path())
        .args(["encrypt", "signatures"]);
    let outcome = run(command, Duration::from_secs(100));
    assert!(outcome.status.success(), "{}", outcome.stderr);

    // The client cannot read a structure of another size.
    let line = "C_EncryptInit: refused with CKR_MECHANISM_PARAM_INVALID: the parameter of CKM_AES_GCM cannot be sent to the daemon\n";
    assert!(outcome.stderr.contains(line), "{}", outcome.stderr);

    // The daemon does not know the vendor's mechanism.
    let daemon = pair.daemon.as_ref().expect("a pair");
    let line = "C_SignInit: refused with CKR_MECHANISM_PARAM_INVALID: the parameter must not reach the module: 0x80004711, \
                100 bytes, not in the table\n";
    let is_told = || daemon.log().contains(line);
    assert!(
        wait_until(Duration::from_secs(5), is_told),
        "{}",
        daemon.log()
    );
}
