//! Tests which functions exist: C_GetFunctionList, C_GetInterfaceList, C_GetInterface and the exported symbols.

use std::process::Command;
use std::ptr::{null, null_mut};

use std::thread;
use std::time::{Duration, Instant};

use cryptoki_sys::*;
use xdr::{Call, CkRv, Flags, LoadResult, Reply};

use crate::daemon::{Act, Daemon};
use crate::harness::{Borrowed, Loaded, in_child, initialized, library_file, run, run_at, sockets};

/// The functions of PKCS#11 v3.2, in the order of its function list, written by hand.
pub const FUNCTIONS: &str = "
    C_Initialize C_Finalize C_GetInfo C_GetFunctionList C_GetSlotList C_GetSlotInfo C_GetTokenInfo
    C_GetMechanismList C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession
    C_CloseAllSessions C_GetSessionInfo C_GetOperationState C_SetOperationState C_Login C_Logout
    C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize C_GetAttributeValue C_SetAttributeValue
    C_FindObjectsInit C_FindObjects C_FindObjectsFinal C_EncryptInit C_Encrypt C_EncryptUpdate
    C_EncryptFinal C_DecryptInit C_Decrypt C_DecryptUpdate C_DecryptFinal C_DigestInit C_Digest
    C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit C_Sign C_SignUpdate C_SignFinal
    C_SignRecoverInit C_SignRecover C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal
    C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate C_DecryptDigestUpdate
    C_SignEncryptUpdate C_DecryptVerifyUpdate C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey
    C_DeriveKey C_SeedRandom C_GenerateRandom C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent
    C_GetInterfaceList C_GetInterface C_LoginUser C_SessionCancel C_MessageEncryptInit
    C_EncryptMessage C_EncryptMessageBegin C_EncryptMessageNext C_MessageEncryptFinal
    C_MessageDecryptInit C_DecryptMessage C_DecryptMessageBegin C_DecryptMessageNext
    C_MessageDecryptFinal C_MessageSignInit C_SignMessage C_SignMessageBegin C_SignMessageNext
    C_MessageSignFinal C_MessageVerifyInit C_VerifyMessage C_VerifyMessageBegin C_VerifyMessageNext
    C_MessageVerifyFinal C_EncapsulateKey C_DecapsulateKey C_VerifySignatureInit C_VerifySignature
    C_VerifySignatureUpdate C_VerifySignatureFinal C_GetSessionValidationFlags C_AsyncComplete
    C_AsyncGetID C_AsyncJoin C_WrapKeyAuthenticated C_UnwrapKeyAuthenticated";

#[test]
fn exports_the_functions_of_pkcs11_3_2_and_nothing_else() {
    let listed = Command::new("nm")
        .args(["-D", "--defined-only", "--format=posix"])
        .arg(library_file())
        .output()
        .expect("binutils are installed");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut exported: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let mut functions: Vec<&str> = FUNCTIONS.split_whitespace().collect();
    assert_eq!(functions.len(), 104);
    exported.sort_unstable();
    functions.sort_unstable();
    assert_eq!(exported, functions);
}

#[test]
fn interfaces_are_there_without_a_daemon() {
    offers("3.2", "127.0.0.1:1", &[]);
    for newest in ["3.2", "3.0", "2.40"] {
        offers(newest, "127.0.0.1:1", &[(SETTING, newest)]);
    }
    // With an invalid setting, all interfaces are offered before C_Initialize, which then reports the error.
    let daemon = Daemon::start(|_| None);
    for wrong in [
        (SETTING, "4"),
        ("PKCS11PROXY_PROTOCOL", "5"),
        ("PKCS11PROXY_MECHANISMS_FILE", "/nonexistent"),
    ] {
        offers("3.2", &daemon.address, &[wrong]);
        run_at("interface_setting", &daemon.address, &[wrong]);
    }
    assert_eq!(daemon.connections(), 0);
}

pub fn interface_setting() {
    let loaded = Loaded::new();
    assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_DEVICE_ERROR);
}

const SETTING: &str = "PKCS11PROXY_INTERFACE";

/// Runs the scenario that asks for interfaces in every way, and checks that `newest` is the newest one.
fn offers(newest: &str, address: &str, variables: &[(&str, &str)]) {
    let variables = [variables, &[("EXPECTED", newest)]].concat();
    run_at("interfaces", address, &variables);
}

/// Starts a daemon whose module has these interfaces. It expects to be asked before C_Initialize.
fn daemon_with(interfaces: u64) -> Daemon {
    Daemon::start(move |call| match call {
        Call::C_SetupArch(_) => None,
        Call::C_LoadModule(_) => Some(loaded(interfaces)),
        call => panic!("{call:?}"),
    })
}

fn loaded(interfaces: u64) -> Act {
    Act::Answer(Box::new(Reply::C_LoadModule(LoadResult {
        rv: CkRv::OK,
        interfaces: Flags(interfaces),
    })))
}

#[test]
fn interfaces_are_those_of_the_module_and_it_is_asked_once() {
    for (interfaces, newest) in [
        (7, "3.2"),
        (3, "3.0"),
        (1, "2.40"),
        (0, "2.40"),
        (u64::MAX << 3, "2.40"),
    ] {
        let daemon = daemon_with(interfaces);
        offers(newest, &daemon.address, &[]);
        assert_eq!(daemon.connections(), 1);
        daemon.wait_for_ended(1);
    }
    // The setting hides interfaces that the module has.
    let daemon = daemon_with(7);
    offers("3.0", &daemon.address, &[(SETTING, "3.0")]);
    assert_eq!(daemon.connections(), 1);
    let daemon = daemon_with(3);
    offers("3.0", &daemon.address, &[(SETTING, "3.2")]);
    // Every module has the oldest one, so the daemon is not asked.
    let daemon = daemon_with(7);
    offers("2.40", &daemon.address, &[(SETTING, "2.40")]);
    assert_eq!(daemon.connections(), 0);
}

#[test]
fn a_daemon_of_version_3_has_the_oldest_interface() {
    let start = || {
        Daemon::of_version3(|call| match call {
            Call::C_SetupArch(_) | Call::C_LoadModule(_) => None,
            call => panic!("{call:?}"),
        })
    };
    let daemon = start();
    offers("2.40", &daemon.address, &[]);
    assert_eq!(daemon.connections(), 1);
    daemon.wait_for_ended(1);
    let daemon = start();
    offers("2.40", &daemon.address, &[("PKCS11PROXY_PROTOCOL", "3")]);
    assert_eq!(daemon.connections(), 0);
    offers("3.2", &daemon.address, &[("PKCS11PROXY_PROTOCOL", "4")]);
}

#[test]
fn a_daemon_that_does_not_tell_is_asked_again() {
    let failing = Daemon::start(|call| match call {
        Call::C_LoadModule(_) => {
            let reply = Reply::only(call.function(), CkRv::GENERAL_ERROR);
            Some(Act::Answer(Box::new(reply)))
        }
        _ => None,
    });
    offers("3.2", &failing.address, &[]);
    assert!(failing.connections() > 1);
    failing.wait_for_ended(failing.connections());
    let silent = Daemon::start(|_| Some(Act::Ignore));
    run_at(
        "one_interface",
        &silent.address,
        &[("EXPECTED", "3.2"), ("PKCS11PROXY_RPC_TIMEOUT", "1")],
    );
    silent.wait_for_ended(1);
}

#[test]
fn a_daemon_that_does_not_answer_holds_an_application_up_once() {
    let silent = Daemon::start(|_| Some(Act::Ignore));
    offers("3.2", &silent.address, &[("PKCS11PROXY_RPC_TIMEOUT", "1")]);
    assert_eq!(silent.connections(), 1);
    silent.wait_for_ended(1);
}

pub fn one_interface() {
    assert_eq!(newest(&Loaded::new()), expected()[0]);
}

#[test]
fn a_connection_that_is_there_has_told() {
    let daemon = Daemon::start(|call| match call {
        Call::C_LoadModule(_) => Some(loaded(3)),
        _ => None,
    });
    run("interfaces_later", &daemon);
    assert_eq!(daemon.connections(), 1);
}

pub fn interfaces_later() {
    let loaded = initialized();
    assert_eq!(newest(&loaded), (3, 0));
    in_child(|| assert_eq!(newest(&loaded), (3, 0)));
    assert_eq!(sockets(), 1);
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
    assert_eq!(newest(&loaded), (3, 0));
    assert_eq!(sockets(), 0);
}

/// What was learned before a fork is known after it, and no descriptor is left behind.
#[test]
fn a_forked_child_knows_what_was_told() {
    let daemon = daemon_with(1);
    run("interfaces_forked", &daemon);
    assert_eq!(daemon.connections(), 1);
}

pub fn interfaces_forked() {
    let loaded = Loaded::new();
    assert_eq!(newest(&loaded), (2, 40));
    in_child(|| {
        assert_eq!(newest(&loaded), (2, 40));
        assert_eq!(sockets(), 0);
    });
    assert_eq!(sockets(), 0);
}

#[test]
fn interfaces_are_told_while_another_thread_initializes() {
    let daemon = Daemon::start(|call| match call {
        Call::C_LoadModule(_) => Some(loaded(3)),
        Call::C_Initialize(_) => {
            let reply = Reply::only(call.function(), CkRv::OK);
            Some(Act::AnswerLater(Duration::from_secs(3), Box::new(reply)))
        }
        _ => None,
    });
    run("interfaces_meanwhile", &daemon);
    // Some threads may have found the answer of another thread.
    assert!((2..=5).contains(&daemon.connections()));
    daemon.wait_for_ended(daemon.connections());
}

pub fn interfaces_meanwhile() {
    let loaded = Loaded::new();
    let list = loaded.list as usize;
    thread::scope(|scope| {
        let start = Instant::now();
        let initializing = scope.spawn(move || {
            let functions = Borrowed {
                list: list as *const CK_FUNCTION_LIST_3_2,
            };
            let rv = call!(functions.C_Initialize(null_mut()));
            (rv, start.elapsed())
        });
        while sockets() == 0 {
            thread::yield_now();
        }
        let asking: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    let functions = Borrowed {
                        list: list as *const CK_FUNCTION_LIST_3_2,
                    };
                    assert_eq!(newest_of(&functions), (3, 0));
                    start.elapsed()
                })
            })
            .collect();
        let asked: Vec<_> = asking.into_iter().map(|it| it.join().unwrap()).collect();
        let (rv, initialized) = initializing.join().unwrap();
        assert_eq!(rv, CKR_OK);
        assert!(asked.iter().all(|asked| *asked < initialized), "{asked:?}");
    });
    // A child does not keep the application's connection.
    assert_eq!(sockets(), 1);
    in_child(|| assert_eq!(sockets(), 0));
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
}

fn newest(loaded: &Loaded) -> (u8, u8) {
    newest_of(&Borrowed { list: loaded.list })
}

/// Returns the version of the interface that C_GetInterface prefers.
fn newest_of(functions: &Borrowed) -> (u8, u8) {
    let mut interface = null_mut();
    let rv = call!(functions.C_GetInterface(null_mut(), null_mut(), &mut interface, 0));
    assert_eq!(rv, CKR_OK);
    // SAFETY: with CKR_OK, an interface of the library.
    let list = unsafe { (*interface).pFunctionList };
    // SAFETY: each function list begins with its version.
    let version = unsafe { list.cast::<CK_VERSION>().read() };
    (version.major, version.minor)
}

const ALL: [(u8, u8); 3] = [(3, 2), (3, 0), (2, 40)];

/// Returns the interfaces up to the newest one that the test expects.
fn expected() -> &'static [(u8, u8)] {
    match std::env::var("EXPECTED").as_deref() {
        Ok("3.0") => &ALL[1..],
        Ok("2.40") => &ALL[2..],
        _ => &ALL,
    }
}

pub fn interfaces() {
    // SAFETY: the library's constructors do nothing.
    let library = unsafe { libloading::os::unix::Library::new(library_file()) };
    let library = library.expect("the library loads");
    // SAFETY: the functions have these types in PKCS#11.
    let list = unsafe { library.get::<CK_C_GetInterfaceList>(b"C_GetInterfaceList\0") };
    // SAFETY: as above.
    let get = unsafe { library.get::<CK_C_GetInterface>(b"C_GetInterface\0") };
    // SAFETY: as above.
    let old = unsafe { library.get::<CK_C_GetFunctionList>(b"C_GetFunctionList\0") };
    let list = list.expect("exported").expect("a function");
    let get = get.expect("exported").expect("a function");
    let old = old.expect("exported").expect("a function");

    let expected = expected();
    let loaded = Loaded::new();
    let all: *const usize = loaded.list.cast();
    let read = |interface: &CK_INTERFACE| {
        // SAFETY: the name of an interface of the library is a string.
        let name = unsafe { std::ffi::CStr::from_ptr(interface.pInterfaceName.cast()) };
        assert_eq!((name, interface.flags), (c"PKCS 11", 0));
        // SAFETY: each function list begins with its version.
        let version = unsafe { interface.pFunctionList.cast::<CK_VERSION>().read() };
        let functions = match (version.major, version.minor) {
            (3, 2) => 104,
            (3, 0) => 92,
            _ => 68,
        };
        // A list consists of a version and this number of functions.
        for place in 1..=functions {
            let list: *const usize = interface.pFunctionList.cast();
            // SAFETY: the list is that long.
            let listed = unsafe { list.wrapping_add(place).read() };
            // SAFETY: the list of all functions is at least as long.
            let exported = unsafe { all.wrapping_add(place).read() };
            assert_eq!(listed, exported, "function {place} of {version:?}");
        }
        (version.major, version.minor)
    };

    let mut count = 77;
    // SAFETY: NULL is allowed.
    assert_eq!(unsafe { list(null_mut(), null_mut()) }, CKR_ARGUMENTS_BAD);
    // SAFETY: NULL is allowed, and `count` can be written.
    assert_eq!(unsafe { list(null_mut(), &mut count) }, CKR_OK);
    assert_eq!(count as usize, expected.len());
    let mut interfaces = [CK_INTERFACE::default(); 4];
    for room in 0..=4 {
        let mut count = room;
        let places = interfaces.as_mut_ptr();
        // SAFETY: there is room for four.
        let rv = unsafe { list(places, &mut count) };
        let fits = room as usize >= expected.len();
        assert_eq!(rv, if fits { CKR_OK } else { CKR_BUFFER_TOO_SMALL });
        assert_eq!(count as usize, expected.len());
        let filled = if fits { expected.len() } else { 0 };
        assert!(
            interfaces[filled..]
                .iter()
                .all(|it| it.pFunctionList.is_null())
        );
        let listed: Vec<_> = interfaces[..filled].iter().map(read).collect();
        assert!(listed.is_empty() || listed == expected);
        interfaces = [CK_INTERFACE::default(); 4];
    }

    let ask = |name: *const u8, version: Option<(u8, u8)>, flags| {
        let mut wanted = version.map(|(major, minor)| CK_VERSION { major, minor });
        let version = wanted
            .as_mut()
            .map_or(null_mut(), |version| &raw mut *version);
        let mut interface = null_mut();
        // SAFETY: a string or NULL, a version or NULL, and a variable that can be written.
        match unsafe { get(name.cast_mut(), version, &mut interface, flags) } {
            // SAFETY: with CKR_OK, an interface of the library.
            CKR_OK => Ok(read(unsafe { &*interface })),
            rv => {
                assert!(interface.is_null());
                Err(rv)
            }
        }
    };
    let standard: *const u8 = c"PKCS 11".as_ptr().cast();
    let failed = Err(CKR_ARGUMENTS_BAD);
    for name in [null(), standard] {
        assert_eq!(ask(name, None, 0), Ok(expected[0]));
        assert_eq!(ask(name, None, CKF_INTERFACE_FORK_SAFE), failed);
        for version in ALL {
            let offered = expected.contains(&version);
            let answer = if offered { Ok(version) } else { failed };
            assert_eq!(ask(name, Some(version), 0), answer);
        }
        for version in [(3, 1), (2, 20), (2, 4), (0, 0)] {
            assert_eq!(ask(name, Some(version), 0), failed);
        }
    }
    for name in [c"Vendor", c"", c"PKCS 1", c"PKCS 11 "] {
        assert_eq!(ask(name.as_ptr().cast(), None, 0), failed);
    }
    // SAFETY: NULL is allowed.
    let bad = unsafe { get(null_mut(), null_mut(), null_mut(), 0) };
    assert_eq!(bad, CKR_ARGUMENTS_BAD);
    // SAFETY: NULL is allowed.
    assert_eq!(unsafe { old(null_mut()) }, CKR_ARGUMENTS_BAD);

    let mut functions = null_mut();
    // SAFETY: a variable that can be written.
    assert_eq!(unsafe { old(&mut functions) }, CKR_OK);
    // SAFETY: with CKR_OK, the list of the library.
    let version = unsafe { (*functions).version };
    assert_eq!((version.major, version.minor), (2, 40));
}
