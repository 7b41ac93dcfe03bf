//! The library as an application meets it: loaded from its file, called through its C functions,
//! forked, unloaded; against a fake daemon and against the original's.
//!
//! Each scenario runs in a process of its own, because the library is one thing to a process: the
//! test starts this program again, with the scenario's name and the daemon's address in the
//! environment. SIGPIPE has its default action there, as in a C program.

use std::ffi::{c_int, c_void};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use cryptoki_sys::*;
use libloading::os::unix::Library;
use xdr::record::Records;
use xdr::rpc::{self, Request};
use xdr::{
    Architecture, Attribute, AttributeType, Call, CkRv, DataResult, InfoResult, ObjectHandle,
    ObjectListResult, Reply, SessionHandle, SessionResult, SlotId, SlotListResult, SlotResult,
    Template, TemplateResult, Ulong,
};

/// The library that cargo has built for this test.
fn library_file() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a file");
    test.with_file_name("libp11client.so")
}

/// The loaded library.
struct Loaded {
    library: Library,
    list: *const CK_FUNCTION_LIST,
}

impl Loaded {
    fn new() -> Loaded {
        // SAFETY: the library's constructors do nothing.
        let library = unsafe { Library::new(library_file()) }.expect("the library loads");
        let mut list = null_mut();
        // SAFETY: the function has this type in PKCS#11.
        let get = unsafe {
            library.get::<unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV>(
                b"C_GetFunctionList",
            )
        };
        let get = get.expect("C_GetFunctionList is exported");
        // SAFETY: `list` is a place for the pointer.
        assert_eq!(unsafe { get(&mut list) }, CKR_OK);
        Loaded { library, list }
    }
}

/// `call!(loaded.C_Function(arguments))`.
macro_rules! call {
    ($loaded:ident . $name:ident ( $($argument:expr),* $(,)? )) => {{
        // SAFETY: the list lives as long as the library is loaded.
        let function = unsafe { (*$loaded.list).$name };
        let function = function.expect("every function is in the list");
        // SAFETY: each caller below passes pointers as PKCS#11 wants them, or null.
        unsafe { function($($argument),*) }
    }};
}

const NOT_INITIALIZED: CK_RV = CKR_CRYPTOKI_NOT_INITIALIZED;

// ---------------------------------------------------------------------------------------------
// The fake daemon

/// What it does with a call.
enum Act {
    Answer(Box<Reply>),
    /// Closes the connection without an answer.
    HangUp,
}

/// A daemon that answers each call as `answer` says: `None` is CKR_OK and nothing else.
struct Daemon {
    address: String,
    connections: Arc<AtomicUsize>,
    /// Connections that have ended.
    ended: Arc<AtomicUsize>,
}

impl Daemon {
    fn start(answer: impl Fn(&Call<'_>) -> Option<Act> + Send + Sync + 'static) -> Daemon {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket").to_string();
        let (connections, ended) = (Arc::default(), Arc::default());
        let daemon = Daemon {
            address,
            connections,
            ended,
        };
        let (connections, ended) = (daemon.connections.clone(), daemon.ended.clone());
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, ended) = (answer.clone(), ended.clone());
                connections.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    serve(stream.expect("a connection"), &*answer);
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        daemon
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until that many connections have ended.
    fn wait_for_ended(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.ended.load(Ordering::SeqCst) < count {
            assert!(Instant::now() < deadline, "the connection stays open");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&Call<'_>) -> Option<Act>) {
    let mut records = Records::new(1 << 20);
    let mut buffer = Vec::new();
    loop {
        while let Some(record) = records.next().expect("no record is over the limit") {
            let Request::Call(xid, call) = rpc::read_request(record, Architecture::host()) else {
                panic!("the client sends calls only");
            };
            let reply = match (answer(&call), &call) {
                (Some(Act::HangUp), _) => return,
                (Some(Act::Answer(reply)), _) => *reply,
                (None, Call::C_SetupArch(_)) => Reply::C_SetupArch(Architecture::LITTLE_64),
                (None, call) => Reply::only(call.function(), CkRv::OK),
            };
            let reply = rpc::write_reply(xid, &reply, Architecture::host(), &mut buffer)
                .expect("a small reply");
            if stream.write_all(&reply.to_vec()).is_err() {
                return;
            }
        }
        match stream.read(records.space().unwrap()) {
            Ok(0) | Err(_) => return,
            Ok(count) => records.received(count),
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Scenarios

/// Runs a scenario in a process of its own, against the daemon.
fn run(scenario: &str, daemon: &Daemon) {
    run_at(scenario, &daemon.address, &[]);
}

fn run_at(scenario: &str, address: &str, variables: &[(&str, &str)]) {
    let output = Command::new(std::env::current_exe().expect("a running program has a file"))
        .args(["--exact", "scenario", "--nocapture", "--test-threads=1"])
        .env("SCENARIO", scenario)
        .env("PKCS11PROXY_SOCKET_PATH", address)
        .env("PKCS11PROXY_LIBNAME", "fake")
        .env("PKCS11PROXY_RPC_TIMEOUT", "10")
        .envs(variables.iter().copied())
        .output()
        .expect("the scenario runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{scenario}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    let quiet = output.stderr.is_empty() || variables.iter().any(|(name, _)| *name == LOG);
    assert!(quiet, "{scenario}: {}", text(&output.stderr));
}

const LOG: &str = "PKCS11PROXY_LOG";

/// Not a test of its own: what the tests below run.
#[test]
fn scenario() {
    let Some(name) = std::env::var_os("SCENARIO") else {
        return;
    };
    // SAFETY: the default action needs nothing.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let scenarios: &[(&str, fn())] = &[
        ("before_initialize", before_initialize),
        ("arguments", arguments),
        ("fork_unused", fork_unused),
        ("fork_used", fork_used),
        ("fork_while_busy", fork_while_busy),
        ("daemon_dies", daemon_dies),
        ("unload", unload),
        ("initialize_twice", initialize_twice),
        ("finalize_while_busy", finalize_while_busy),
        ("finalize_while_waiting", finalize_while_waiting),
        ("hostile", hostile),
        ("two_phase", two_phase),
        ("cannot_connect", cannot_connect),
    ];
    let known = scenarios.iter().find(|(known, _)| name == *known);
    known.expect("a scenario of the list").1();
}

/// How many sockets this process has open.
fn sockets() -> usize {
    let open = Path::new("/proc/self/fd")
        .read_dir()
        .expect("proc is there");
    open.filter_map(|entry| entry.ok()?.path().metadata().ok())
        .filter(|file| file.file_type().is_socket())
        .count()
}

/// Runs `child` in a forked process and expects it to come to its end.
fn in_child(child: impl FnOnce()) {
    // SAFETY: the child runs `child` and ends with _exit, also when it panics.
    let process = unsafe { libc::fork() };
    if process == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).is_ok();
        // SAFETY: ends the process and nothing else.
        unsafe { libc::_exit(if done { 0 } else { 1 }) };
    }
    let deadline = Instant::now() + Duration::from_secs(8);
    let mut status: c_int = 0;
    loop {
        // SAFETY: `status` is a place for the status.
        let ended = unsafe { libc::waitpid(process, &mut status, libc::WNOHANG) };
        if ended == process {
            break;
        }
        if Instant::now() > deadline {
            // SAFETY: the child was started above and not yet waited for.
            unsafe { libc::kill(process, libc::SIGKILL) };
            panic!("the child hangs");
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(status, 0, "the child failed");
}

fn initialized() -> Loaded {
    let loaded = Loaded::new();
    assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_OK);
    loaded
}

fn get_info(loaded: &Loaded) -> CK_RV {
    let mut info = CK_INFO::default();
    call!(loaded.C_GetInfo(&mut info))
}

#[test]
fn nothing_happens_before_c_initialize() {
    let daemon = Daemon::start(|_| None);
    run("before_initialize", &daemon);
    assert_eq!(daemon.connections(), 0);
}

fn before_initialize() {
    let loaded = Loaded::new();
    // SAFETY: as in `Loaded::new`.
    let version = unsafe { (*loaded.list).version };
    assert_eq!((version.major, version.minor), (2, 20));
    assert_eq!(
        call!(loaded.C_GetFunctionList(null_mut())),
        CKR_ARGUMENTS_BAD
    );
    let mut length = 77;
    let mut buffer = [0u8; 8];
    for rv in [
        get_info(&loaded),
        call!(loaded.C_Finalize(null_mut())),
        call!(loaded.C_GetInfo(null_mut())),
        call!(loaded.C_GetAttributeValue(1, 2, null_mut(), 0)),
        call!(loaded.C_Sign(1, null_mut(), 0, buffer.as_mut_ptr(), &mut length)),
        call!(loaded.C_WaitForSlotEvent(0, null_mut(), null_mut())),
        call!(loaded.C_GetFunctionStatus(1)),
    ] {
        assert_eq!(rv, NOT_INITIALIZED);
    }
    assert_eq!(length, 77);
}

#[test]
fn bad_arguments_are_refused_before_any_call() {
    let busy = Arc::new(AtomicUsize::new(0));
    let calls = busy.clone();
    let daemon = Daemon::start(move |_| {
        calls.fetch_add(1, Ordering::SeqCst);
        None
    });
    run("arguments", &daemon);
    // C_SetupArch, C_LoadModule, C_Initialize, C_Finalize and the nine that are fine.
    assert_eq!(busy.load(Ordering::SeqCst), 4 + 9);
}

fn arguments() {
    let loaded = Loaded::new();
    let mut init = CK_C_INITIALIZE_ARGS::default();
    init.pReserved = (&raw mut init).cast();
    let initialize = |arguments: &mut CK_C_INITIALIZE_ARGS| {
        let arguments: *mut CK_C_INITIALIZE_ARGS = arguments;
        call!(loaded.C_Initialize(arguments.cast()))
    };
    assert_eq!(initialize(&mut init), CKR_ARGUMENTS_BAD);
    unsafe extern "C" fn lock(_: *mut c_void) -> CK_RV {
        CKR_OK
    }
    init.pReserved = null_mut();
    init.LockMutex = Some(lock);
    assert_eq!(initialize(&mut init), CKR_ARGUMENTS_BAD);
    init.LockMutex = None;
    init.flags = CKF_OS_LOCKING_OK;
    assert_eq!(initialize(&mut init), CKR_OK);
    assert_eq!(initialize(&mut init), CKR_CRYPTOKI_ALREADY_INITIALIZED);

    let reserved = (&raw mut init).cast::<c_void>();
    let mut number: CK_ULONG = 0;
    let mut byte = 1u8;
    let (number, byte) = (&raw mut number, &raw mut byte);
    let mut aes = CK_MECHANISM {
        mechanism: CKM_AES_CBC,
        pParameter: null_mut(),
        ulParameterLen: 16,
    };
    let without_parameter = &raw mut aes;
    let mut long = CK_MECHANISM {
        mechanism: CKM_AES_CBC,
        pParameter: byte.cast(),
        ulParameterLen: 2049,
    };
    let mut oaep = CK_RSA_PKCS_OAEP_PARAMS {
        hashAlg: CKM_SHA_1,
        mgf: CKG_MGF1_SHA1,
        source: CKZ_DATA_SPECIFIED,
        pSourceData: byte.cast(),
        ulSourceDataLen: 1,
    };
    let mut with_address = CK_MECHANISM {
        mechanism: CKM_RSA_PKCS_OAEP,
        pParameter: (&raw mut oaep).cast(),
        ulParameterLen: size_of::<CK_RSA_PKCS_OAEP_PARAMS>() as CK_ULONG,
    };
    let mut nested = CK_ATTRIBUTE {
        type_: CKA_WRAP_TEMPLATE,
        pValue: byte.cast(),
        ulValueLen: 1,
    };
    let mut fine = CK_MECHANISM {
        mechanism: CKM_SHA256,
        pParameter: null_mut(),
        ulParameterLen: 0,
    };
    let fine = &raw mut fine;

    let refused = [
        call!(loaded.C_Finalize(reserved)),
        call!(loaded.C_GetInfo(null_mut())),
        call!(loaded.C_GetSlotList(1, null_mut(), null_mut())),
        call!(loaded.C_GetSlotInfo(0, null_mut())),
        call!(loaded.C_GetTokenInfo(0, null_mut())),
        call!(loaded.C_GetMechanismList(0, null_mut(), null_mut())),
        call!(loaded.C_GetMechanismInfo(0, 0, null_mut())),
        call!(loaded.C_InitToken(0, byte, 1, null_mut())),
        call!(loaded.C_OpenSession(0, 4, null_mut(), None, null_mut())),
        call!(loaded.C_GetSessionInfo(1, null_mut())),
        call!(loaded.C_GetOperationState(1, byte, null_mut())),
        call!(loaded.C_SetOperationState(1, null_mut(), 1, 0, 0)),
        call!(loaded.C_Login(1, 1, null_mut(), 4)),
        call!(loaded.C_CreateObject(1, null_mut(), 1, number)),
        call!(loaded.C_CreateObject(1, null_mut(), 0, null_mut())),
        call!(loaded.C_CopyObject(1, 2, null_mut(), 1, number)),
        call!(loaded.C_CopyObject(1, 2, null_mut(), 0, null_mut())),
        call!(loaded.C_GetObjectSize(1, 2, null_mut())),
        call!(loaded.C_GetAttributeValue(1, 2, null_mut(), 0)),
        call!(loaded.C_SetAttributeValue(1, 2, null_mut(), 0)),
        call!(loaded.C_FindObjectsInit(1, null_mut(), 1)),
        call!(loaded.C_FindObjects(1, null_mut(), 1, number)),
        call!(loaded.C_FindObjects(1, number, 1, null_mut())),
        call!(loaded.C_EncryptInit(1, null_mut(), 2)),
        call!(loaded.C_EncryptInit(1, without_parameter, 2)),
        call!(loaded.C_DigestInit(1, null_mut())),
        call!(loaded.C_Encrypt(1, byte, 1, byte, null_mut())),
        call!(loaded.C_Encrypt(1, null_mut(), 1, byte, number)),
        call!(loaded.C_EncryptFinal(1, byte, null_mut())),
        call!(loaded.C_DigestUpdate(1, null_mut(), 1)),
        call!(loaded.C_Verify(1, null_mut(), 1, byte, 1)),
        call!(loaded.C_Verify(1, byte, 1, null_mut(), 1)),
        call!(loaded.C_VerifyFinal(1, null_mut(), 1)),
        call!(loaded.C_SeedRandom(1, null_mut(), 1)),
        call!(loaded.C_GenerateKey(1, null_mut(), null_mut(), 0, number)),
        call!(loaded.C_GenerateKey(1, fine, null_mut(), 1, number)),
        call!(loaded.C_GenerateKey(1, fine, null_mut(), 0, null_mut())),
        call!(loaded.C_GenerateKeyPair(1, fine, null_mut(), 0, null_mut(), 0, number, null_mut())),
        call!(loaded.C_GenerateKeyPair(1, fine, null_mut(), 0, null_mut(), 0, null_mut(), number)),
        call!(loaded.C_WrapKey(1, null_mut(), 2, 3, byte, number)),
        call!(loaded.C_WrapKey(1, fine, 2, 3, byte, null_mut())),
        call!(loaded.C_UnwrapKey(1, fine, 2, null_mut(), 1, null_mut(), 0, number)),
        call!(loaded.C_UnwrapKey(1, fine, 2, byte, 1, null_mut(), 0, null_mut())),
        call!(loaded.C_DeriveKey(1, fine, 2, null_mut(), 0, null_mut())),
        call!(loaded.C_GenerateRandom(1, null_mut(), 0)),
        call!(loaded.C_WaitForSlotEvent(1, null_mut(), null_mut())),
        call!(loaded.C_WaitForSlotEvent(1, number, reserved)),
    ];
    for (row, rv) in refused.into_iter().enumerate() {
        assert_eq!(rv, CKR_ARGUMENTS_BAD, "row {row}");
    }
    for mechanism in [&raw mut long, &raw mut with_address] {
        assert_eq!(
            call!(loaded.C_EncryptInit(1, mechanism, 2)),
            CKR_MECHANISM_PARAM_INVALID
        );
    }
    assert_eq!(
        call!(loaded.C_CreateObject(1, &mut nested, 1, number)),
        CKR_ATTRIBUTE_TYPE_INVALID
    );
    assert_eq!(
        call!(loaded.C_Encrypt(1, byte, CK_ULONG::MAX, byte, number)),
        CKR_HOST_MEMORY
    );

    // Null where it means nothing there, and garbage that is dropped unseen.
    let mut garbage = CK_MECHANISM {
        mechanism: CKM_RSA_PKCS,
        pParameter: null_mut(),
        ulParameterLen: 99,
    };
    let accepted = [
        call!(loaded.C_InitToken(0, null_mut(), 9, [b' '; 32].as_mut_ptr())),
        call!(loaded.C_InitPIN(1, null_mut(), 9)),
        call!(loaded.C_SetPIN(1, null_mut(), 9, null_mut(), 9)),
        call!(loaded.C_Login(1, 1, null_mut(), 0)),
        call!(loaded.C_CreateObject(1, null_mut(), 0, number)),
        call!(loaded.C_FindObjectsInit(1, null_mut(), 0)),
        call!(loaded.C_SignInit(1, &mut garbage, 2)),
        call!(loaded.C_DigestUpdate(1, null_mut(), 0)),
        call!(loaded.C_Encrypt(1, null_mut(), 0, byte, number)),
    ];
    assert_eq!(accepted, [CKR_OK; 9]);
    assert_eq!(garbage.ulParameterLen, 99);
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
    assert_eq!(call!(loaded.C_Finalize(null_mut())), NOT_INITIALIZED);
}

/// D7: a child that merely exits.
#[test]
fn a_child_that_never_calls_keeps_nothing_and_sends_nothing() {
    let daemon = Daemon::start(|_| None);
    run("fork_unused", &daemon);
    assert_eq!(daemon.connections(), 1);
}

fn fork_unused() {
    let loaded = initialized();
    assert_eq!(sockets(), 1);
    in_child(|| assert_eq!(sockets(), 0));
    assert_eq!(get_info(&loaded), CKR_OK);
    // Exits in the usual way, with the library's destructors.
    // SAFETY: the child runs exit and nothing else.
    let process = unsafe { libc::fork() };
    if process == 0 {
        // SAFETY: no other thread is in need of what exit tears down.
        unsafe { libc::exit(0) };
    }
    // SAFETY: null is allowed for the status.
    assert_eq!(unsafe { libc::waitpid(process, null_mut(), 0) }, process);
    assert_eq!(get_info(&loaded), CKR_OK);
    assert_eq!(sockets(), 1);
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
    assert_eq!(sockets(), 0);
    // A file that got the number of the connection is none of the handler's business.
    let _files = [
        TcpListener::bind("127.0.0.1:0"),
        TcpListener::bind("127.0.0.1:0"),
    ];
    in_child(|| assert_eq!(sockets(), 2));
}

#[test]
fn a_child_that_calls_has_to_initialize_and_leaves_the_parent_alone() {
    let daemon = Daemon::start(|_| None);
    run("fork_used", &daemon);
    assert_eq!(daemon.connections(), 3);
}

fn fork_used() {
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

/// D8: other threads are inside of calls, the lock of the connection with them.
#[test]
fn a_child_of_a_busy_process_does_not_hang() {
    let daemon = Daemon::start(|call| {
        if let Call::C_GetInfo() = call {
            thread::sleep(Duration::from_millis(30));
        }
        None
    });
    run("fork_while_busy", &daemon);
}

fn fork_while_busy() {
    let loaded = initialized();
    let stop = AtomicBool::new(false);
    let list = loaded.list as usize;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let loaded = Borrowed {
                    list: list as *const CK_FUNCTION_LIST,
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

/// The list, for another thread.
struct Borrowed {
    list: *const CK_FUNCTION_LIST,
}

/// D5, D6, D25.
#[test]
fn a_dead_daemon_is_an_error_that_initialising_again_cures() {
    let daemon = Daemon::start(|call| match call {
        Call::C_GetInfo() => Some(Act::HangUp),
        _ => None,
    });
    run("daemon_dies", &daemon);
    assert_eq!(daemon.connections(), 2);
}

fn daemon_dies() {
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
    let daemon = Daemon::start(|_| None);
    run("unload", &daemon);
    assert_eq!(daemon.connections(), 3);
    daemon.wait_for_ended(3);
}

fn unload() {
    for _ in 0..3 {
        let loaded = initialized();
        assert_eq!(get_info(&loaded), CKR_OK);
        loaded.library.close().expect("the library unloads");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("proc is there");
        assert!(!maps.contains("libp11client"), "something pins the library");
        assert_eq!(sockets(), 0);
        in_child(|| {}); // the fork handler went with the library
    }
}

#[test]
fn of_two_threads_one_initializes() {
    let daemon = Daemon::start(|_| None);
    run("initialize_twice", &daemon);
    assert_eq!(daemon.connections(), 20);
}

fn initialize_twice() {
    let loaded = Loaded::new();
    let list = loaded.list as usize;
    for _ in 0..20 {
        let barrier = Barrier::new(4);
        let mut answers = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let loaded = Borrowed {
                            list: list as *const CK_FUNCTION_LIST,
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
    let daemon = Daemon::start(|_| None);
    run("finalize_while_busy", &daemon);
    daemon.wait_for_ended(20);
}

fn finalize_while_busy() {
    let loaded = Loaded::new();
    let list = loaded.list as usize;
    for _ in 0..20 {
        assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_OK);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let loaded = Borrowed {
                        list: list as *const CK_FUNCTION_LIST,
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

/// D20.
#[test]
fn finalizing_wakes_who_waits_for_a_slot_event_and_waiting_works_again() {
    let polls = Arc::new(AtomicUsize::new(0));
    let daemon = Daemon::start(move |call| match call {
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

fn finalize_while_waiting() {
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
                list: list as *const CK_FUNCTION_LIST,
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

/// D14, D16: nothing is written beyond what the caller has.
#[test]
fn a_hostile_daemon_writes_nowhere_it_should_not() {
    let daemon = Daemon::start(|call| {
        let ok = CkRv::OK;
        Some(Act::Answer(Box::new(match call {
            Call::C_GetSlotList(..) => Reply::C_GetSlotList(SlotListResult {
                rv: ok,
                slots: vec![SlotId(7); 5],
                count: Ulong(2),
            }),
            Call::C_FindObjects(..) => Reply::C_FindObjects(ObjectListResult {
                rv: ok,
                objects: vec![ObjectHandle(7); 5],
                count: Ulong(5),
            }),
            Call::C_GenerateRandom(..) => Reply::C_GenerateRandom(DataResult {
                rv: ok,
                data: vec![7; 50],
            }),
            Call::C_GetAttributeValue(..) => {
                let attribute = |kind| Attribute::new(AttributeType(kind), vec![7; 50]);
                Reply::C_GetAttributeValue(TemplateResult {
                    rv: ok,
                    template: Template((0..9).map(attribute).collect()),
                })
            }
            Call::C_Sign(..) => Reply::C_Sign(DataResult {
                rv: CkRv::DATA_LEN_RANGE,
                data: vec![7; 50],
            }),
            Call::C_OpenSession(..) => Reply::C_OpenSession(SessionResult {
                rv: CkRv::SESSION_COUNT,
                session: SessionHandle(7),
            }),
            Call::C_GetInfo() => {
                let mut result = InfoResult::default();
                result.info.manufacturer_id = b"short".to_vec();
                Reply::C_GetInfo(result)
            }
            _ => return None,
        })))
    });
    run("hostile", &daemon);
}

fn hostile() {
    let loaded = initialized();
    let mut slots = [1; 4];
    let mut count = 2;
    assert_eq!(
        call!(loaded.C_GetSlotList(1, slots.as_mut_ptr(), &mut count)),
        CKR_DEVICE_ERROR
    );
    assert_eq!((slots, count), ([1; 4], 2));
    let mut found = 9;
    assert_eq!(
        call!(loaded.C_FindObjects(1, slots.as_mut_ptr(), 2, &mut found)),
        CKR_DEVICE_ERROR
    );
    assert_eq!((slots, found), ([1; 4], 9));
    let mut bytes = [1u8; 8];
    assert_eq!(
        call!(loaded.C_GenerateRandom(1, bytes.as_mut_ptr(), 4)),
        CKR_DEVICE_ERROR
    );
    assert_eq!(bytes, [1; 8]);
    let mut attribute = CK_ATTRIBUTE {
        type_: CKA_LABEL,
        pValue: bytes.as_mut_ptr().cast(),
        ulValueLen: 4,
    };
    assert_eq!(
        call!(loaded.C_GetAttributeValue(1, 2, &mut attribute, 1)),
        CKR_BUFFER_TOO_SMALL
    );
    assert_eq!(bytes, [1; 8]);
    assert_eq!(attribute.type_, CKA_LABEL);
    assert_eq!(attribute.ulValueLen, CK_UNAVAILABLE_INFORMATION);
    let mut length = 4;
    assert_eq!(
        call!(loaded.C_Sign(1, null_mut(), 0, bytes.as_mut_ptr(), &mut length)),
        CKR_DATA_LEN_RANGE
    );
    assert_eq!((bytes, length), ([1; 8], 4));
    let mut session = 3;
    assert_eq!(
        call!(loaded.C_OpenSession(0, 4, null_mut(), None, &mut session)),
        CKR_SESSION_COUNT
    );
    assert_eq!(session, 3);
    let mut info = CK_INFO::default();
    assert_eq!(call!(loaded.C_GetInfo(&mut info)), CKR_OK);
    assert_eq!(&info.manufacturerID, b"short                           ");
    assert_eq!(info.libraryDescription, [b' '; 32]);
}

#[test]
fn a_failed_c_initialize_says_why_only_if_asked() {
    run_at("cannot_connect", "127.0.0.1:1", &[]);
    run_at("cannot_connect", "tls:127.0.0.1:1", &[]);
    run_at("cannot_connect", "", &[]);
    run_at("cannot_connect", "127.0.0.1:1", &[(LOG, "error")]);
}

fn cannot_connect() {
    let loaded = Loaded::new();
    for _ in 0..2 {
        assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_DEVICE_ERROR);
        assert_eq!(get_info(&loaded), NOT_INITIALIZED);
    }
    assert_eq!(sockets(), 0);
}

// ---------------------------------------------------------------------------------------------
// The original

/// The original daemon in front of SoftHSM, with a token of its own; gone with this value.
struct Original {
    folder: PathBuf,
    address: String,
    daemon: Child,
}

const PIN: &str = "1234";

impl Original {
    fn start() -> Original {
        let name = format!("p11client-original-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(folder.join("tokens")).expect("a folder");
        let in_folder = |file: &str| folder.join(file).display().to_string();
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("a bound socket").to_string();
        drop(free);
        let write = |file: &str, content: String| {
            std::fs::write(folder.join(file), content).expect("a writable folder");
        };
        write(
            "softhsm2.conf",
            format!("directories.tokendir = {}\n", in_folder("tokens")),
        );
        let modules = "modules = [(\"softhsm\", \"/usr/lib/softhsm/libsofthsm2.so\")]\n";
        write("filter.conf", modules.to_owned());
        write(
            "daemon.conf",
            format!(
                "netplex {{
                   controller {{ socket_directory = \"{}\"; logging {{ type = \"stderr\"; }}; }};
                   service {{
                     name = \"test\"; conn_limit = 1;
                     protocol {{
                       name = \"rpc_pkcs11\"; tcp_nodelay = true;
                       address {{ type = \"internet\"; bind = \"{address}\"; }};
                     }};
                     processor {{
                       type = \"rpc_pkcs11\"; filter_config = \"{}\"; use_ssl = false;
                     }};
                     workload_manager {{
                       type = \"dynamic\"; max_jobs_per_thread = 1; max_threads = 100;
                       min_free_jobs_capacity = 1; max_free_jobs_capacity = 1;
                     }};
                   }};
                 }}",
                in_folder("netplex"),
                in_folder("filter.conf"),
            ),
        );
        let token = ["--init-token", "--free", "--label", "test"];
        let pins = ["--pin", PIN, "--so-pin", "12345678"];
        let made = Command::new("softhsm2-util")
            .args(token)
            .args(pins)
            .env("SOFTHSM2_CONF", folder.join("softhsm2.conf"))
            .output()
            .expect("softhsm2-util is installed");
        assert!(made.status.success(), "{made:?}");
        let daemon = Command::new("/usr/bin/pkcs11proxyd")
            .args(["-fg", "-conf", &in_folder("daemon.conf")])
            .env("SOFTHSM2_CONF", folder.join("softhsm2.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("caml-crush-server is installed");
        let original = Original {
            folder,
            address,
            daemon,
        };
        original.wait_until_up();
        original
    }

    fn wait_until_up(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&self.address).is_err() {
            assert!(Instant::now() < deadline, "the daemon does not listen");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn pkcs11_tool(&self, arguments: &[&str]) -> Output {
        Command::new("pkcs11-tool")
            .arg("--module")
            .arg(library_file())
            .args(arguments)
            .current_dir(&self.folder)
            .env("PKCS11PROXY_SOCKET_PATH", &self.address)
            .env("PKCS11PROXY_LIBNAME", "softhsm")
            .output()
            .expect("opensc is installed")
    }

    fn logged_in(&self, arguments: &[&str]) -> String {
        let output = self.pkcs11_tool(&[&["--login", "--pin", PIN], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        // SAFETY: a process that was started here and not yet waited for.
        unsafe { libc::kill(self.daemon.id() as libc::pid_t, libc::SIGTERM) };
        let _ = self.daemon.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn the_original_daemon_serves_this_library() {
    let original = Original::start();
    let slots = original.pkcs11_tool(&["-L"]);
    assert!(String::from_utf8_lossy(&slots.stdout).contains("token label        : test"));

    let generate = ["--keypairgen", "--key-type", "rsa:2048", "--id", "01"];
    original.logged_in(&generate);
    std::fs::write(original.folder.join("data"), "signed").expect("a writable folder");
    let key = ["--mechanism", "SHA256-RSA-PKCS", "--id", "01", "-i", "data"];
    original.logged_in(&[&["--sign", "-o", "signature"], &key[..]].concat());
    let verified =
        original.logged_in(&[&["--verify", "--signature-file", "signature"], &key[..]].concat());
    assert!(verified.contains("Signature is valid"), "{verified}");
    assert!(original.logged_in(&["-O"]).contains("Private Key Object"));

    let wrong = original.pkcs11_tool(&["--login", "--pin", "0000", "-O"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("CKR_PIN_INCORRECT"));

    run_at(
        "two_phase",
        &original.address,
        &[("PKCS11PROXY_LIBNAME", "softhsm")],
    );
}

/// The two-call convention and attributes against the original, where the first call executes.
fn two_phase() {
    let loaded = initialized();
    let mut slots = [0; 8];
    let mut count = 0;
    assert_eq!(
        call!(loaded.C_GetSlotList(CK_TRUE, slots.as_mut_ptr(), &mut count)),
        CKR_BUFFER_TOO_SMALL
    );
    assert_eq!(count, 2); // SoftHSM: the token, and one that is not initialised
    assert_eq!(
        call!(loaded.C_GetSlotList(CK_TRUE, slots.as_mut_ptr(), &mut count)),
        CKR_OK
    );
    let mut session = 0;
    let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
    assert_eq!(
        call!(loaded.C_OpenSession(slots[0], flags, null_mut(), None, &mut session)),
        CKR_OK
    );
    let mut sha256 = CK_MECHANISM {
        mechanism: CKM_SHA256,
        pParameter: null_mut(),
        ulParameterLen: 0,
    };
    let mut data = *b"abc";
    let mut digest = [0u8; 40];
    for room in [None, Some(31), Some(32), Some(40)] {
        assert_eq!(call!(loaded.C_DigestInit(session, &mut sha256)), CKR_OK);
        let mut length = room.unwrap_or(0);
        let output = match room {
            None => null_mut(),
            Some(_) => digest.as_mut_ptr(),
        };
        let first = call!(loaded.C_Digest(session, data.as_mut_ptr(), 3, output, &mut length));
        assert_eq!(length, 32);
        if room.is_some_and(|room| room >= 32) {
            assert_eq!(first, CKR_OK);
            continue;
        }
        let expected = match room {
            None => CKR_OK,
            Some(_) => CKR_BUFFER_TOO_SMALL,
        };
        assert_eq!(first, expected);
        assert_eq!(
            call!(loaded.C_DigestInit(session, &mut sha256)),
            CKR_OPERATION_ACTIVE
        );
        let mut same_elsewhere = data;
        assert_eq!(
            call!(loaded.C_Digest(
                session,
                same_elsewhere.as_mut_ptr(),
                3,
                digest.as_mut_ptr(),
                &mut length
            )),
            CKR_OK
        );
        assert_eq!(digest[..4], [0xba, 0x78, 0x16, 0xbf]);
        digest = [0; 40];
    }

    let mut label = *b"an object with a label";
    let mut class: CK_OBJECT_CLASS = CKO_DATA;
    let mut private = CK_FALSE;
    let attribute = |kind, value: *mut c_void, length: usize| CK_ATTRIBUTE {
        type_: kind,
        pValue: value,
        ulValueLen: length as CK_ULONG,
    };
    let class_size = size_of::<CK_OBJECT_CLASS>();
    let mut template = [
        attribute(CKA_CLASS, (&raw mut class).cast(), class_size),
        attribute(CKA_LABEL, label.as_mut_ptr().cast(), label.len()),
        attribute(CKA_PRIVATE, (&raw mut private).cast(), 1),
    ];
    let mut object = 0;
    assert_eq!(
        call!(loaded.C_CreateObject(session, template.as_mut_ptr(), 3, &mut object)),
        CKR_OK
    );
    let mut read = [0u8; 100];
    let mut wanted = [
        attribute(CKA_LABEL, null_mut(), 999),
        attribute(CKA_LABEL, read.as_mut_ptr().cast(), 100),
        attribute(CKA_CLASS, read[64..].as_mut_ptr().cast(), class_size),
        attribute(CKA_APPLICATION, read[80..].as_mut_ptr().cast(), 5),
    ];
    assert_eq!(
        call!(loaded.C_GetAttributeValue(session, object, wanted.as_mut_ptr(), 4)),
        CKR_OK
    );
    assert_eq!(
        wanted.map(|wanted| wanted.ulValueLen),
        [22, 22, class_size as CK_ULONG, 0]
    );
    assert_eq!(read[..22], label);
    // A buffer said to be larger than any is not sent.
    let mut wanted = attribute(CKA_LABEL, read.as_mut_ptr().cast(), isize::MAX as usize);
    assert_eq!(
        call!(loaded.C_GetAttributeValue(session, object, &mut wanted, 1)),
        CKR_OK
    );
    assert_eq!(wanted.ulValueLen, 22);
    let mut wanted = attribute(CKA_LABEL, read.as_mut_ptr().cast(), 4);
    assert_eq!(
        call!(loaded.C_GetAttributeValue(session, object, &mut wanted, 1)),
        CKR_BUFFER_TOO_SMALL
    );
    assert_eq!(wanted.ulValueLen, CK_UNAVAILABLE_INFORMATION);
    let mut wanted = attribute(CKA_LABEL, null_mut(), 999);
    assert_eq!(
        call!(loaded.C_GetAttributeValue(session, 12345, &mut wanted, 1)),
        CKR_OBJECT_HANDLE_INVALID
    );
    assert_eq!(wanted.ulValueLen, 999); // D23
    let mut random = [0u8; 64];
    assert_eq!(
        call!(loaded.C_GenerateRandom(session, random.as_mut_ptr(), 64)),
        CKR_OK
    );
    assert_ne!(random, [0; 64]);
    in_child(|| assert_eq!(get_info(&loaded), NOT_INITIALIZED));
    assert_eq!(call!(loaded.C_CloseSession(session)), CKR_OK);
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
    assert_eq!(
        call!(loaded.C_GetFunctionList(null::<*mut CK_FUNCTION_LIST>().cast_mut())),
        CKR_ARGUMENTS_BAD
    );
}
