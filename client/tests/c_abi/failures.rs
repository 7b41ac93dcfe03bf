//! Tests what is logged when a call fails: one line with the call, the daemon, the cause, and advice.

use std::ptr::null_mut;

use cryptoki_sys::*;
use xdr::{Call, Function, Reply};

use crate::daemon::{Act, Daemon, OLDER_AND_NEWER};
use crate::harness::{LOG, Loaded, get_info, initialized, run_at};

/// Runs a scenario that logs one line, and checks that the line contains all of these texts.
fn logs(scenario: &str, address: &str, variables: &[(&str, &str)], expected: &[&str]) {
    let variables = [&[(LOG, "warn")], variables].concat();
    let log = run_at(scenario, address, &variables);
    assert_eq!(log.lines().count(), 1, "{log}");
    for text in expected {
        assert!(log.contains(text), "{text}: {log}");
    }
}

#[test]
fn one_line_says_why_initializing_fails() {
    let daemon = Daemon::start(|_| None);
    let address = daemon.address.clone();
    let begin = "ERROR: C_Initialize: ";
    let device_error = "; returning CKR_DEVICE_ERROR; ";
    logs(
        "failing_initialize",
        "/nobody",
        &[],
        &[
            begin,
            "cannot connect to /nobody: No such file",
            device_error,
            "start pkcs11proxyd",
        ],
    );
    logs(
        "failing_initialize",
        &format!("tls:{address}"),
        &[("PKCS11PROXY_PSK_FILE", "/nobody")],
        &[
            begin,
            "/nobody: No such file",
            device_error,
            "a file that exists",
        ],
    );
    for function in [
        Function::C_SetupArch,
        Function::C_LoadModule,
        Function::C_Initialize,
    ] {
        for versions in OLDER_AND_NEWER {
            let daemon = Daemon::of_versions(versions, move |call| {
                (call.function() == function).then_some(Act::HangUp)
            });
            let cause = format!("{}: {}: ", daemon.name(), function.name());
            // The connection was closed, or reset if the daemon had not read everything.
            let expected = [begin, &cause, "onnection", device_error, "the daemon's log"];
            logs("failing_initialize", &daemon.address, &[], &expected);
        }
    }
    let daemon = Daemon::start(|call| match call {
        Call::C_LoadModule(_) => {
            let refused = Reply::only(call.function(), xdr::CkRv::GENERAL_ERROR);
            Some(Act::Answer(Box::new(refused)))
        }
        _ => None,
    });
    let cause = format!(
        "{}: C_LoadModule: CKR_GENERAL_ERROR for alias \"fake\"",
        daemon.name()
    );
    let expected = [begin, &cause, device_error, "filter.conf"];
    logs("failing_initialize", &daemon.address, &[], &expected);
}

pub fn failing_initialize() {
    let loaded = Loaded::new();
    assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_DEVICE_ERROR);
}

#[test]
fn one_line_says_why_a_call_fails() {
    for versions in OLDER_AND_NEWER {
        for (act, cause, advice) in [
            (
                true,
                "onnection",
                "C_Finalize and C_Initialize connect again",
            ),
            (
                false,
                "no reply in time",
                "PKCS11PROXY_RPC_TIMEOUT (timeout) gives calls more time",
            ),
        ] {
            let daemon = Daemon::of_versions(versions.clone(), move |call| match call {
                Call::C_GetInfo() if act => Some(Act::HangUp),
                Call::C_GetInfo() => Some(Act::Ignore),
                _ => None,
            });
            let begin = format!("WARN: C_GetInfo: {}: ", daemon.name());
            let rv = "; returning CKR_DEVICE_ERROR; ";
            let timeout = [("PKCS11PROXY_RPC_TIMEOUT", "1")];
            let expected = [begin.as_str(), cause, rv, advice];
            logs("failing_call", &daemon.address, &timeout, &expected);
        }
    }
}

pub fn failing_call() {
    let loaded = initialized();
    // The second call logs nothing new.
    for _ in 0..2 {
        assert_eq!(get_info(&loaded), CKR_DEVICE_ERROR);
    }
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
}
