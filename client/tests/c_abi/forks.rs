//! Tests forked children: they use neither their parent's connection nor its locks.

use std::net::TcpListener;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use cryptoki_sys::*;
use xdr::Call;

use crate::daemon::{Daemon, OLDER_AND_NEWER};
use crate::harness::{Borrowed, NOT_INITIALIZED, get_info, in_child, initialized, run, sockets};

/// The child only exits. With the original, that would end the parent's TLS session.
#[test]
fn a_child_that_never_calls_keeps_nothing_and_sends_nothing() {
    for versions in OLDER_AND_NEWER {
        let daemon = Daemon::of_versions(versions, |_| None);
        run("fork_unused", &daemon);
        assert_eq!(daemon.connections(), 1);
    }
}

pub fn fork_unused() {
    let loaded = initialized();
    assert_eq!(sockets(), 1);
    in_child(|| assert_eq!(sockets(), 0));
    assert_eq!(get_info(&loaded), CKR_OK);
    // Exits in the usual way, which runs the library's destructors.
    // SAFETY: the child runs exit and nothing else.
    let process = unsafe { libc::fork() };
    if process == 0 {
        // SAFETY: no other thread needs what exit tears down.
        unsafe { libc::exit(0) };
    }
    // SAFETY: null is allowed for the status.
    assert_eq!(unsafe { libc::waitpid(process, null_mut(), 0) }, process);
    assert_eq!(get_info(&loaded), CKR_OK);
    assert_eq!(sockets(), 1);
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
    assert_eq!(sockets(), 0);
    // The fork handler must not close a file that has got the number of the connection.
    let _files = [
        TcpListener::bind("127.0.0.1:0"),
        TcpListener::bind("127.0.0.1:0"),
    ];
    in_child(|| assert_eq!(sockets(), 2));
}

#[test]
fn a_child_that_calls_has_to_initialize_and_leaves_the_parent_alone() {
    for versions in OLDER_AND_NEWER {
        let daemon = Daemon::of_versions(versions, |_| None);
        run("fork_used", &daemon);
        assert_eq!(daemon.connections(), 3);
    }
}

pub fn fork_used() {
    let loaded = initialized();
    in_child(|| {
        assert_eq!(get_info(&loaded), NOT_INITIALIZED);
        assert_eq!(call!(loaded.C_Finalize(null_mut())), NOT_INITIALIZED);
        assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_OK);
        assert_eq!(get_info(&loaded), CKR_OK);
        assert_eq!(sockets(), 1);
        in_child(|| {
            assert_eq!(sockets(), 0);
            assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_OK);
            assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
        });
        assert_eq!(get_info(&loaded), CKR_OK);
    });
    assert_eq!(get_info(&loaded), CKR_OK);
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
}

/// Other threads are in calls at the fork, and hold the connection's lock.
#[test]
fn a_child_of_a_busy_process_does_not_hang() {
    for versions in OLDER_AND_NEWER {
        let daemon = Daemon::of_versions(versions, |call| {
            if let Call::C_GetInfo() = call {
                thread::sleep(Duration::from_millis(30));
            }
            None
        });
        run("fork_while_busy", &daemon);
    }
}

pub fn fork_while_busy() {
    let loaded = initialized();
    let stop = AtomicBool::new(false);
    let list = loaded.list as usize;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let loaded = Borrowed {
                    list: list as *const CK_FUNCTION_LIST_3_2,
                };
                let mut info = CK_INFO::default();
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(call!(loaded.C_GetInfo(&mut info)), CKR_OK);
                }
            });
        }
        for _ in 0..50 {
            in_child(|| {
                assert_eq!(sockets(), 0);
                assert_eq!(call!(loaded.C_CloseSession(1)), NOT_INITIALIZED);
                assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_OK);
                assert_eq!(call!(loaded.C_CloseSession(1)), CKR_OK);
            });
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(get_info(&loaded), CKR_OK);
}

/// The function list, for the application's fork handler, and the CK_RV of C_Initialize there.
static LIST: AtomicPtr<CK_FUNCTION_LIST_3_2> = AtomicPtr::new(null_mut());
static ANSWER: AtomicU64 = AtomicU64::new(0);

/// Does in the child what PKCS#11 requires, as pkcs11-helper does.
extern "C" fn initialize_in_child() {
    let list = LIST.load(Ordering::SeqCst);
    if !list.is_null() {
        let loaded = Borrowed { list };
        ANSWER.store(call!(loaded.C_Initialize(null_mut())), Ordering::SeqCst);
    }
}

#[test]
fn a_child_may_initialize_in_a_fork_handler_that_is_older_than_the_librarys() {
    for versions in OLDER_AND_NEWER {
        let daemon = Daemon::of_versions(versions, |_| None);
        run("fork_handler", &daemon);
        assert_eq!(daemon.connections(), 4);
        daemon.wait_for_ended(4);
    }
}

pub fn fork_handler() {
    // SAFETY: the handler is this program's, which is not unloaded.
    let registered = unsafe { libc::pthread_atfork(None, None, Some(initialize_in_child)) };
    assert_eq!(registered, 0);
    let loaded = initialized();
    LIST.store(loaded.list.cast_mut(), Ordering::SeqCst);
    let assert_initialized = || {
        assert_eq!(ANSWER.swap(NOT_INITIALIZED, Ordering::SeqCst), CKR_OK);
        assert_eq!(get_info(&loaded), CKR_OK);
        assert_eq!(sockets(), 1);
        assert_eq!(
            call!(loaded.C_Initialize(null_mut())),
            CKR_CRYPTOKI_ALREADY_INITIALIZED
        );
    };
    in_child(|| {
        assert_initialized();
        in_child(assert_initialized);
        assert_eq!(get_info(&loaded), CKR_OK);
        assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
        assert_eq!(sockets(), 0);
    });
    in_child(assert_initialized);
    assert_eq!(get_info(&loaded), CKR_OK);
    assert_eq!(sockets(), 1);
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
}

/// The first process of a PID namespace has the number 1.
#[test]
fn a_child_with_the_process_id_of_its_parent_starts_anew() {
    for versions in OLDER_AND_NEWER {
        let daemon = Daemon::of_versions(versions, |_| None);
        run("fork_with_same_id", &daemon);
        daemon.wait_for_ended(daemon.connections());
    }
}

pub fn fork_with_same_id() {
    // SAFETY: puts the next child into a namespace of its own, and does nothing else.
    let new_namespace = || unsafe { libc::unshare(libc::CLONE_NEWPID) } == 0;
    if !new_namespace() {
        return; // only root may do that
    }
    in_child(|| {
        assert_eq!(std::process::id(), 1);
        let loaded = initialized();
        assert!(new_namespace());
        in_child(|| {
            assert_eq!(std::process::id(), 1);
            assert_eq!(sockets(), 0);
            assert_eq!(get_info(&loaded), NOT_INITIALIZED);
            assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_OK);
            assert_eq!(get_info(&loaded), CKR_OK);
        });
        assert_eq!(get_info(&loaded), CKR_OK);
    });
}
