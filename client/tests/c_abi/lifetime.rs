//! Tests the library from C_Initialize to C_Finalize, to the end of the daemon, or to unloading; with several threads.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use cryptoki_sys::*;
use xdr::{Call, CkRv, Function, OutputResult, Reply, SlotId, SlotResult, Ulong};

use crate::daemon::{Act, Daemon, OLDER_AND_NEWER};
use crate::harness::{
    Borrowed, LOG, Loaded, NOT_INITIALIZED, get_info, in_child, initialized, run, run_at, sockets,
};

/// The original returns -1, or dies of SIGPIPE, and never connects again.
#[test]
fn a_dead_daemon_is_an_error_that_initialising_again_cures() {
    for versions in OLDER_AND_NEWER {
        let daemon = Daemon::of_versions(versions, |call| match call {
            Call::C_GetInfo() => Some(Act::HangUp),
            _ => None,
        });
        run("daemon_dies", &daemon);
        assert_eq!(daemon.connections(), 2);
    }
}

pub fn daemon_dies() {
    let loaded = initialized();
    for _ in 0..3 {
        assert_eq!(get_info(&loaded), CKR_DEVICE_ERROR);
        assert_eq!(call!(loaded.C_CloseSession(1)), CKR_DEVICE_ERROR);
    }
    assert_eq!(
        call!(loaded.C_Initialize(null_mut())),
        CKR_CRYPTOKI_ALREADY_INITIALIZED
    );
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
    assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_OK);
    assert_eq!(call!(loaded.C_CloseSession(1)), CKR_OK);
}

#[test]
fn unloading_disconnects_and_loading_again_starts_anew() {
    for versions in OLDER_AND_NEWER {
        let daemon = Daemon::of_versions(versions, |_| None);
        run("unload", &daemon);
        assert_eq!(daemon.connections(), 3);
        daemon.wait_for_ended(3);
    }
}

pub fn unload() {
    for _ in 0..3 {
        let loaded = initialized();
        assert_eq!(get_info(&loaded), CKR_OK);
        loaded.library.close().expect("the library unloads");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("proc is there");
        assert!(!maps.contains("libp11client"), "something pins the library");
        assert_eq!(sockets(), 0);
        in_child(|| {}); // the fork handler was removed with the library
    }
}

#[test]
fn of_two_threads_one_initializes() {
    let daemon = Daemon::start(|_| None);
    run("initialize_twice", &daemon);
    assert_eq!(daemon.connections(), 20);
}

pub fn initialize_twice() {
    let loaded = Loaded::new();
    let list = loaded.list as usize;
    for _ in 0..20 {
        let barrier = Barrier::new(4);
        let mut answers = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let loaded = Borrowed {
                            list: list as *const CK_FUNCTION_LIST_3_2,
                        };
                        barrier.wait();
                        call!(loaded.C_Initialize(null_mut()))
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no thread panics"))
                .collect::<Vec<_>>()
        });
        answers.sort_unstable();
        assert_eq!(answers[0], CKR_OK);
        assert_eq!(answers[1..], [CKR_CRYPTOKI_ALREADY_INITIALIZED; 3]);
        assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
    }
}

#[test]
fn finalizing_under_load_neither_hangs_nor_crashes() {
    for versions in OLDER_AND_NEWER {
        let daemon = Daemon::of_versions(versions, |_| None);
        run("finalize_while_busy", &daemon);
        daemon.wait_for_ended(20);
    }
}

pub fn finalize_while_busy() {
    let loaded = Loaded::new();
    let list = loaded.list as usize;
    for _ in 0..20 {
        assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_OK);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let loaded = Borrowed {
                        list: list as *const CK_FUNCTION_LIST_3_2,
                    };
                    loop {
                        match call!(loaded.C_CloseSession(1)) {
                            CKR_OK => {}
                            NOT_INITIALIZED => return,
                            other => panic!("{other:#x}"),
                        }
                    }
                });
            }
            thread::sleep(Duration::from_millis(10));
            assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
        });
    }
}

/// In the original, every later wait ends at once after one such C_Finalize.
#[test]
fn finalizing_wakes_who_waits_for_a_slot_event_and_waiting_works_again() {
    let polls = Arc::new(AtomicUsize::new(0));
    let daemon = Daemon::of_version3(move |call| match call {
        Call::C_WaitForSlotEvent(_) => {
            let poll = polls.fetch_add(1, Ordering::SeqCst);
            let event = SlotResult {
                rv: if poll < 40 { CkRv::NO_EVENT } else { CkRv::OK },
                slot_id: if poll < 40 { SlotId::NONE } else { SlotId(5) },
            };
            Some(Act::Answer(Box::new(Reply::C_WaitForSlotEvent(event))))
        }
        _ => None,
    });
    run("finalize_while_waiting", &daemon);
}

pub fn finalize_while_waiting() {
    let loaded = initialized();
    let mut slot = 99;
    assert_eq!(
        call!(loaded.C_WaitForSlotEvent(CKF_DONT_BLOCK, &mut slot, null_mut())),
        CKR_NO_EVENT
    );
    assert_eq!(slot, 99);
    let list = loaded.list as usize;
    thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            let loaded = Borrowed {
                list: list as *const CK_FUNCTION_LIST_3_2,
            };
            let mut slot = 99;
            let rv = call!(loaded.C_WaitForSlotEvent(0, &mut slot, null_mut()));
            (rv, slot)
        });
        thread::sleep(Duration::from_millis(300));
        assert_eq!(get_info(&loaded), CKR_OK); // others can call in between
        assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
        assert_eq!(waiter.join().expect("no panic"), (NOT_INITIALIZED, 99));
    });
    assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_OK);
    assert_eq!(
        call!(loaded.C_WaitForSlotEvent(0, &mut slot, null_mut())),
        CKR_OK
    );
    assert_eq!(slot, 5);
}

/// How long a slow call takes: longer than C_Finalize waits for it.
const SLOW: Duration = Duration::from_secs(6);

/// A daemon that executes calls in parallel gets C_Finalize even when the limit on calls is reached. If it does not
/// answer, the library does not wait for it.
#[test]
fn c_finalize_does_not_wait_for_a_slow_call() {
    let finalized = Arc::new(AtomicUsize::new(0));
    let counted = finalized.clone();
    let daemon = Daemon::start(move |call| match call {
        Call::C_GetInfo() => {
            let reply = Reply::only(Function::C_GetInfo, CkRv::OK);
            Some(Act::AnswerLater(SLOW, Box::new(reply)))
        }
        Call::C_Finalize() => {
            counted.fetch_add(1, Ordering::SeqCst);
            None
        }
        _ => None,
    });
    run_at(
        "finalize_beside_slow_call",
        &daemon.address,
        &[("LONGEST", "800")],
    );
    assert_eq!(finalized.load(Ordering::SeqCst), 2);
    for versions in OLDER_AND_NEWER {
        let daemon = Daemon::of_versions(versions, |call| {
            if let Call::C_GetInfo() = call {
                thread::sleep(SLOW);
            }
            None
        });
        let variables = [("LONGEST", "2500"), (LOG, "warn")];
        let log = run_at("finalize_beside_slow_call", &daemon.address, &variables);
        let said = format!(
            "C_Finalize: {}: calls of other threads are in progress",
            daemon.name()
        );
        assert!(log.contains(&said), "{log}");
        assert_eq!(daemon.connections(), 2);
    }
}

pub fn finalize_beside_slow_call() {
    let longest = std::env::var("LONGEST").expect("the test says it");
    let longest = Duration::from_millis(longest.parse().expect("milliseconds"));
    let loaded = initialized();
    let list = loaded.list as usize;
    thread::scope(|scope| {
        let callers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(move || {
                    get_info_of(&Borrowed {
                        list: list as *const CK_FUNCTION_LIST_3_2,
                    })
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(300));
        let start = Instant::now();
        assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
        for caller in callers {
            assert_eq!(caller.join().expect("no panic"), NOT_INITIALIZED);
        }
        assert!(start.elapsed() < longest, "{:?}", start.elapsed());
    });
    assert_eq!(sockets(), 0);
    assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_OK);
    assert_eq!(call!(loaded.C_CloseSession(1)), CKR_OK);
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
}

fn get_info_of(loaded: &Borrowed) -> CK_RV {
    let mut info = CK_INFO::default();
    call!(loaded.C_GetInfo(&mut info))
}

/// If no other thread is in a call, C_Finalize has the same timeout as any call.
#[test]
fn c_finalize_waits_for_the_module() {
    for versions in OLDER_AND_NEWER {
        let daemon = Daemon::of_versions(versions, |call| match call {
            Call::C_Finalize() => {
                thread::sleep(Duration::from_secs(2));
                let reply = Reply::only(Function::C_Finalize, CkRv::FUNCTION_FAILED);
                Some(Act::Answer(Box::new(reply)))
            }
            _ => None,
        });
        run("slow_finalize", &daemon);
    }
}

pub fn slow_finalize() {
    let loaded = initialized();
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_FUNCTION_FAILED);
}

/// The daemon waits, and other threads make calls meanwhile. The first event comes after the timeout of a call.
#[test]
fn a_wait_for_a_slot_event_has_no_time_limit_and_ends_with_c_finalize() {
    let waits = Arc::new(AtomicUsize::new(0));
    let counted = waits.clone();
    let daemon = Daemon::start(move |call| match call {
        Call::C_WaitForSlotEvent(flags) if flags.0 == 0 => {
            if counted.fetch_add(1, Ordering::SeqCst) > 0 {
                return Some(Act::Ignore);
            }
            let event = SlotResult {
                rv: CkRv::OK,
                slot_id: SlotId(5),
            };
            let event = Box::new(Reply::C_WaitForSlotEvent(event));
            Some(Act::AnswerLater(Duration::from_millis(1500), event))
        }
        Call::C_WaitForSlotEvent(_) => Some(Act::Answer(Box::new(Reply::C_WaitForSlotEvent(
            SlotResult {
                rv: CkRv::NO_EVENT,
                slot_id: SlotId::NONE,
            },
        )))),
        _ => None,
    });
    let variables = [("PKCS11PROXY_RPC_TIMEOUT", "1")];
    run_at("wait_at_the_daemon", &daemon.address, &variables);
    assert_eq!(waits.load(Ordering::SeqCst), 2);
}

pub fn wait_at_the_daemon() {
    let loaded = initialized();
    let mut slot = 99;
    assert_eq!(
        call!(loaded.C_WaitForSlotEvent(CKF_DONT_BLOCK, &mut slot, null_mut())),
        CKR_NO_EVENT
    );
    assert_eq!(slot, 99);
    let list = loaded.list as usize;
    let wait = move || {
        let loaded = Borrowed {
            list: list as *const CK_FUNCTION_LIST_3_2,
        };
        let mut slot = 99;
        let rv = call!(loaded.C_WaitForSlotEvent(0, &mut slot, null_mut()));
        (rv, slot)
    };
    for expected in [(CKR_OK, 5), (NOT_INITIALIZED, 99)] {
        thread::scope(|scope| {
            let waiter = scope.spawn(wait);
            for _ in 0..10 {
                thread::sleep(Duration::from_millis(20));
                assert_eq!(get_info(&loaded), CKR_OK);
            }
            assert!(!waiter.is_finished());
            if expected.0 == NOT_INITIALIZED {
                assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
            }
            assert_eq!(waiter.join().expect("no panic"), expected);
        });
    }
}

/// A reply that has arrived by then counts, although the call's time is over.
#[test]
fn a_process_may_be_stopped_for_longer_than_a_call_may_take() {
    for versions in OLDER_AND_NEWER {
        let daemon = Daemon::of_versions(versions, |call| match call {
            Call::C_GetInfo() => {
                let reply = Reply::only(Function::C_GetInfo, CkRv::OK);
                Some(Act::AnswerLater(
                    Duration::from_millis(500),
                    Box::new(reply),
                ))
            }
            _ => None,
        });
        let variables = [("PKCS11PROXY_RPC_TIMEOUT", "1")];
        run_at("stopped", &daemon.address, &variables);
    }
}

/// The length of a result that is received in three steps: its beginning, its bytes, and their padding.
const LONG_RESULT: usize = 100_003;

#[test]
fn a_process_may_be_stopped_while_a_long_result_arrives() {
    let daemon = Daemon::of_versions(3..=4, |call| match call {
        Call::C_Encrypt(..) => {
            let result = OutputResult {
                rv: CkRv::OK,
                length: Ulong(LONG_RESULT as u64),
                data: vec![7; LONG_RESULT].into(),
            };
            Some(Act::AnswerLater(
                Duration::from_millis(500),
                Box::new(Reply::C_Encrypt(result)),
            ))
        }
        _ => None,
    });
    let variables = [("PKCS11PROXY_RPC_TIMEOUT", "1")];
    run_at("stopped_at_a_long_result", &daemon.address, &variables);
}

pub fn stopped_at_a_long_result() {
    let loaded = initialized();
    let mut buffer = vec![0; 2 * LONG_RESULT];
    let mut length = buffer.len() as CK_ULONG;
    stop_for_a_while();
    let start = Instant::now();
    let (output, data) = (buffer.as_mut_ptr(), [1].as_mut_ptr());
    assert_eq!(
        call!(loaded.C_Encrypt(1, data, 1, output, &raw mut length)),
        CKR_OK
    );
    assert!(start.elapsed() > Duration::from_secs(2), "it was stopped");
    assert_eq!(length as usize, LONG_RESULT);
    let (written, rest) = buffer.split_at(LONG_RESULT);
    assert!(written.iter().all(|byte| *byte == 7) && rest.iter().all(|byte| *byte == 0));
    assert_eq!(get_info(&loaded), CKR_OK);
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
}

/// Has this process stopped in a moment, for longer than a call may take.
fn stop_for_a_while() {
    // SAFETY: the child sends signals and sleeps.
    let child = unsafe { libc::fork() };
    if child == 0 {
        thread::sleep(Duration::from_millis(200));
        // SAFETY: only returns the parent's process id.
        let parent = unsafe { libc::getppid() };
        // SAFETY: the parent is continued below.
        unsafe { libc::kill(parent, libc::SIGSTOP) };
        thread::sleep(Duration::from_secs(3));
        // SAFETY: continues the parent.
        unsafe { libc::kill(parent, libc::SIGCONT) };
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
}

pub fn stopped() {
    let loaded = initialized();
    stop_for_a_while();
    let start = Instant::now();
    assert_eq!(get_info(&loaded), CKR_OK);
    assert!(start.elapsed() > Duration::from_secs(2), "it was stopped");
    assert_eq!(get_info(&loaded), CKR_OK);
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
}

#[test]
fn a_failed_c_initialize_says_why_only_if_asked() {
    run_at("cannot_connect", "127.0.0.1:1", &[]);
    run_at("cannot_connect", "tls:127.0.0.1:1", &[]);
    run_at("cannot_connect", "", &[]);
    run_at("cannot_connect", "127.0.0.1:1", &[(LOG, "error")]);
}

pub fn cannot_connect() {
    let loaded = Loaded::new();
    for _ in 0..2 {
        assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_DEVICE_ERROR);
        assert_eq!(get_info(&loaded), NOT_INITIALIZED);
    }
    assert_eq!(sockets(), 0);
}
