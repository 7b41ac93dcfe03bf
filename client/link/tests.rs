//! Tests everything from C_Initialize to C_Finalize in both versions, against daemons that answer correctly or not.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use xdr::{Function, HelloResult, INTERFACE_2_40, INTERFACE_3_0, version3};

use super::*;
use crate::fake::{self, Scripted, only};

fn start_with(remote: Scripted, protocol: Option<Version>) -> Result<Link<Scripted>, StartError> {
    Link::start(remote, &fake::settings(protocol), true)
}

#[test]
fn starts_in_the_order_of_version_3_and_stops_at_the_first_refusal() {
    let start = |architecture, loaded, initialized| {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = calls.clone();
        let remote = Scripted::version3(move |call| {
            seen.lock().unwrap().push(call.function().name());
            use version3::{Call, Reply};
            match call {
                Call::C_SetupArch(_) => Reply::C_SetupArch(Architecture(architecture)),
                Call::C_LoadModule(alias) => {
                    assert_eq!(alias, b"fake");
                    Reply::C_LoadModule(loaded)
                }
                call => only(call.function(), initialized),
            }
        });
        let started = start_with(remote, None);
        let calls = calls.lock().unwrap().clone();
        (started.err().map(|error| error.to_string()), calls)
    };
    let all = ["C_SetupArch", "C_LoadModule", "C_Initialize"];
    assert_eq!(start(4, CkRv::OK, CkRv::OK), (None, all.to_vec()));
    for answer in [0, 5, u64::MAX] {
        let (error, calls) = start(answer, CkRv::OK, CkRv::OK);
        assert!(error.is_some() && calls == all[..1]);
    }
    let (error, calls) = start(1, CkRv::GENERAL_ERROR, CkRv::OK);
    assert!(error.unwrap().contains("GENERAL_ERROR") && calls == all[..2]);
    let (error, calls) = start(1, CkRv::OK, CkRv::FUNCTION_FAILED);
    assert!(error.unwrap().contains("FUNCTION_FAILED") && calls == all);
}

/// Makes a daemon of version 4 that answers the first three calls with these CK_RVs. Returns it and the list of the
/// calls that it gets.
fn daemon(rvs: [CkRv; 3]) -> (Scripted, Arc<Mutex<Vec<Function>>>) {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    let remote = Scripted::version4(move |call| {
        seen.lock().unwrap().push(call.function());
        match &call {
            Call::C_SetupArch(hello) => {
                assert_eq!(hello.longest_record, Ulong(1 << 30));
                let hello = Hello::default();
                Reply::C_SetupArch(HelloResult { rv: rvs[0], hello })
            }
            Call::C_LoadModule(alias) => {
                assert_eq!(*alias, b"fake");
                let interfaces = Flags(INTERFACE_2_40 | INTERFACE_3_0);
                Reply::C_LoadModule(LoadResult {
                    rv: rvs[1],
                    interfaces,
                })
            }
            Call::C_Initialize(flags) => {
                assert_eq!(*flags, Flags(2));
                Reply::C_Initialize(rvs[2])
            }
            call => Reply::only(call.function(), CkRv::OK),
        }
    });
    (remote, calls)
}

#[test]
fn starts_in_the_order_of_version_4_and_stops_at_the_first_refusal() {
    let start = |rvs| {
        let (remote, calls) = daemon(rvs);
        let started = start_with(remote, None);
        let version = started.as_ref().ok().map(Link::version);
        let calls = calls.lock().unwrap().len();
        (version, started.err().map(|error| error.to_string()), calls)
    };
    let (ok, failed) = (CkRv::OK, CkRv::FUNCTION_FAILED);
    assert_eq!(start([ok; 3]), (Some(Version::Four), None, 3));
    for (rvs, calls) in [
        ([failed, ok, ok], 1),
        ([ok, failed, ok], 2),
        ([ok, ok, failed], 3),
    ] {
        let (version, error, made) = start(rvs);
        assert_eq!((version, made), (None, calls));
        assert!(error.unwrap().contains("FUNCTION_FAILED"));
    }
}

#[test]
fn knows_the_interfaces_that_the_module_has() {
    let (ok, failed) = (CkRv::OK, CkRv::FUNCTION_FAILED);
    let some = Flags(INTERFACE_2_40 | INTERFACE_3_0);
    let (remote, _) = daemon([ok; 3]);
    let started = start_with(remote, None).ok();
    assert_eq!(started.map(|link| link.interfaces()), Some(some));
    let of_version3 = fake::version3(|call| only(call.function(), CkRv::OK));
    let started = start_with(of_version3, None).ok();
    let interfaces = started.map(|link| link.interfaces());
    assert_eq!(interfaces, Some(Flags(INTERFACE_2_40)));
    // Asks without C_Initialize, over a connection that is then closed.
    let ask = |remote: Scripted| {
        let remote = Arc::new(remote);
        let asked = Link::ask_interfaces(remote.clone(), &fake::settings(None));
        assert!(remote.closed.load(Ordering::SeqCst));
        asked.map_err(|error| error.to_string())
    };
    for (rvs, expected) in [
        ([ok, ok, failed], Some(some)),
        ([ok, failed, ok], None),
        ([failed, ok, ok], None),
    ] {
        let (remote, calls) = daemon(rvs);
        assert_eq!(ask(remote).ok(), expected);
        assert!(!calls.lock().unwrap().contains(&Function::C_Initialize));
    }
    let of_version3 = fake::version3(|call| only(call.function(), CkRv::OK));
    assert_eq!(ask(of_version3), Ok(Flags(INTERFACE_2_40)));
}

#[test]
fn a_version_can_be_demanded() {
    let of_version3 = || fake::version3(|call| only(call.function(), CkRv::OK));
    let (remote, calls) = daemon([CkRv::OK; 3]);
    let started = start_with(remote, Some(Version::Four));
    assert_eq!(started.ok().map(|link| link.version()), Some(Version::Four));
    assert_eq!(calls.lock().unwrap().first(), Some(&Function::C_SetupArch));
    for protocol in [None, Some(Version::Three)] {
        let started = start_with(of_version3(), protocol);
        assert_eq!(
            started.ok().map(|link| link.version()),
            Some(Version::Three)
        );
    }
    let refused = start_with(of_version3(), Some(Version::Four));
    assert!(matches!(refused, Err(StartError::Version)));
}

#[test]
fn finalising_closes_the_connection_whatever_the_module_says() {
    let finish = |rv, lost| {
        let library = fake::library(move |call| Reply::only(call.function(), rv));
        library.module().remote().lost.store(lost, Ordering::SeqCst);
        let result = library.finish();
        assert!(library.module().remote().closed.load(Ordering::SeqCst));
        result
    };
    assert_eq!(finish(CkRv::OK, false), Ok(()));
    assert_eq!(
        finish(CkRv::FUNCTION_FAILED, false),
        Err(CkRv::FUNCTION_FAILED)
    );
    assert_eq!(finish(CkRv::DEVICE_ERROR, true), Ok(()));
}
