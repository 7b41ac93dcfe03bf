//! Tests C_Initialize, threads, slot events and notifications. Each test has a module of its own.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bindings::module::{Module, ModuleOptions, notify};
use cryptoki_sys::{CKF_DONT_BLOCK, CKF_OS_LOCKING_OK};
use xdr::{Call, Input, Reply, Room};

use super::exact_module::{load, load_with, rv};
use super::{CkRv, Cryptoki, Flags, SlotId, Ulong, session};

fn initialize(module: &Module, flags: u64) -> CkRv {
    module.call(Call::C_Initialize(Flags(flags))).rv()
}

const GOT_NULL: u64 = 0x100;

/// Returns the flags that C_Initialize got, how often it refused, and the string that it got.
fn got(module: &Module) -> (u64, u8, String) {
    let info = result!(C_GetInfo, module.call(Call::C_GetInfo())).info;
    let string = String::from_utf8(info.library_description).expect("a string");
    let flags = info.flags.0 & 0xffff;
    (
        flags,
        info.library_version.minor(),
        string.trim().to_owned(),
    )
}

/// Returns how many calls were in the module at once, of four from four threads.
fn most_at_once(module: &Module) -> u64 {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let sign = || Call::C_Sign(session(99), Input::Bytes(b"data"), Room::Buffer(9));
            scope.spawn(move || assert_eq!(module.call(sign()).rv(), CkRv::OK));
        }
    });
    let info = result!(C_GetInfo, module.call(Call::C_GetInfo())).info;
    info.flags.0 >> 16
}

#[test]
fn calls_are_made_in_parallel_where_application_and_module_have_threads() {
    let module = load("exact_threads", &[]);
    assert_eq!(initialize(&module, 0), CkRv::OK);
    assert_eq!(got(&module), (GOT_NULL, 0, String::new()));
    assert_eq!(most_at_once(&module), 1);
    // A second C_Initialize changes nothing.
    let again = initialize(&module, CKF_OS_LOCKING_OK);
    assert_eq!(again, CkRv::CRYPTOKI_ALREADY_INITIALIZED);
    assert_eq!(most_at_once(&module), 1);

    assert_eq!(module.call(Call::C_Finalize()).rv(), CkRv::OK);
    assert_eq!(initialize(&module, CKF_OS_LOCKING_OK), CkRv::OK);
    assert_eq!(got(&module).0, CKF_OS_LOCKING_OK);
    let most = most_at_once(&module);
    assert!(most > 1, "{most}");
}

#[test]
fn a_module_that_does_not_lock_gets_one_call_at_a_time() {
    for (name, flag) in [
        ("exact_cant_lock", "-DCANT_LOCK"),
        ("exact_no_arguments", "-DNO_ARGUMENTS"),
    ] {
        let module = load(name, &[flag]);
        assert_eq!(initialize(&module, CKF_OS_LOCKING_OK), CkRv::OK);
        assert_eq!(got(&module), (GOT_NULL, 1, String::new()), "{name}");
        assert_eq!(most_at_once(&module), 1, "{name}");
    }
}

#[test]
fn a_module_gets_the_string_of_its_configuration() {
    let string = "configdir='sql:/nowhere'";
    let options = ModuleOptions {
        init_args: Some(string.to_owned()),
        ..Default::default()
    };
    let module = load_with("exact_string", &["-DCANT_LOCK"], options.clone());
    assert_eq!(initialize(&module, 0), CkRv::OK);
    assert_eq!(got(&module), (0, 0, string.to_owned()));
    assert_eq!(module.call(Call::C_Finalize()).rv(), CkRv::OK);
    // If it is initialized without locking, it gets the string as well.
    assert_eq!(initialize(&module, CKF_OS_LOCKING_OK), CkRv::OK);
    assert_eq!(got(&module), (0, 1, string.to_owned()));

    let module = load_with("exact_string_threads", &[], options);
    assert_eq!(initialize(&module, CKF_OS_LOCKING_OK), CkRv::OK);
    assert_eq!(got(&module), (CKF_OS_LOCKING_OK, 0, string.to_owned()));
}

#[test]
fn finalizing_waits_for_the_calls_in_the_module() {
    let module = load("exact_finalize", &[]);
    assert_eq!(initialize(&module, CKF_OS_LOCKING_OK), CkRv::OK);
    std::thread::scope(|scope| {
        let module = &module;
        let sign = || Call::C_Sign(session(99), Input::Bytes(b"data"), Room::Buffer(9));
        scope.spawn(move || module.call(sign()));
        std::thread::sleep(Duration::from_millis(20));
        // The module answers TOLD_WRONG if another call is in it.
        assert_eq!(module.call(Call::C_Finalize()).rv(), CkRv::OK);
    });
}

fn wait_for_event(module: &Module, flags: u64) -> (CkRv, u64) {
    let call = Call::C_WaitForSlotEvent(Flags(flags));
    let result = result!(C_WaitForSlotEvent, module.call(call));
    (result.rv, result.slot_id.0)
}

/// Waits for a slot event, calls something else meanwhile, then finalizes the module.
fn waits_until_it_is_finalized(module: &Module) {
    let (rv, time) = std::thread::scope(|scope| {
        let begun = Instant::now();
        let waiting = scope.spawn(|| wait_for_event(module, 0).0);
        std::thread::sleep(Duration::from_millis(30));
        assert!(most_at_once(module) > 0);
        assert_eq!(module.call(Call::C_Finalize()).rv(), CkRv::OK);
        (waiting.join().expect("no panic"), begun.elapsed())
    });
    assert_eq!(rv, CkRv::CRYPTOKI_NOT_INITIALIZED);
    assert!(time < Duration::from_secs(20), "{time:?}");
}

#[test]
fn waiting_for_a_slot_event_hinders_no_other_call() {
    // Waits in the module, and by polling it.
    let module = load("exact_events", &[]);
    assert_eq!(initialize(&module, CKF_OS_LOCKING_OK), CkRv::OK);
    waits_until_it_is_finalized(&module);
    let module = load("exact_never", &["-DCANT_LOCK", "-DNEVER"]);
    assert_eq!(initialize(&module, CKF_OS_LOCKING_OK), CkRv::OK);
    waits_until_it_is_finalized(&module);
}

#[test]
fn a_slot_event_ends_the_asking() {
    let module = load("exact_event", &["-DCANT_LOCK"]);
    assert_eq!(initialize(&module, CKF_OS_LOCKING_OK), CkRv::OK);
    let dont_block = wait_for_event(&module, CKF_DONT_BLOCK);
    assert_eq!(dont_block, (CkRv::NO_EVENT, u64::MAX));
    assert_eq!(wait_for_event(&module, 0), (CkRv::OK, 6));
}

#[test]
fn a_module_without_slot_events_says_so_at_once() {
    let module = load("exact_no_events", &["-DNO_EVENTS"]);
    let none = (CkRv::FUNCTION_NOT_SUPPORTED, u64::MAX);
    for flags in [0, CKF_OS_LOCKING_OK] {
        assert_eq!(initialize(&module, flags), CkRv::OK);
        assert_eq!(wait_for_event(&module, 0), none);
        assert_eq!(module.call(Call::C_Finalize()).rv(), CkRv::OK);
    }
    let module = load("exact_no_events_no_lock", &["-DNO_EVENTS", "-DCANT_LOCK"]);
    assert_eq!(initialize(&module, CKF_OS_LOCKING_OK), CkRv::OK);
    assert_eq!(wait_for_event(&module, 0), none);
}

/// The process has only one notifier, so this is one test.
#[test]
fn notifications_reach_the_notifier_and_its_answer_the_module() {
    let module = load("exact_notify", &[]);
    let open = |notify| {
        let call = Call::C_OpenSession(SlotId(1), Flags(4), notify);
        result!(C_OpenSession, module.call(call)).session
    };
    let sign = |session, event: u8| {
        let data = [event];
        let call = Call::C_Sign(session, Input::Bytes(&data), Room::Buffer(9));
        CkRv(rv(&module, call))
    };
    let notified = open(true);
    assert_eq!(sign(notified, 0), CkRv::OK); // nobody listens
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    notify::install(Arc::new(move |session, event| {
        noted.lock().unwrap().push((session, event.0));
        match event {
            Ulong(0) => CkRv::OK,
            Ulong(1) => CkRv::CANCEL,
            _ => panic!("no event of the standard"),
        }
    }));
    assert_eq!(sign(notified, 0), CkRv::OK);
    assert_eq!(sign(notified, 1), CkRv::FUNCTION_CANCELED);
    assert_eq!(sign(notified, 2), CkRv::OK);
    assert_eq!(sign(open(false), 1), CkRv::OK);
    let all = [(notified, 0), (notified, 1), (notified, 2)];
    assert_eq!(*seen.lock().unwrap(), all);
}
