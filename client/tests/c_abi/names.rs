//! Tests endpoints with host names: how long resolving and connecting take, and the thread that resolves.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cryptoki_sys::*;

use crate::daemon::Daemon;
use crate::harness::{Loaded, get_info, in_child, initialized, library_file, run_at};

/// Builds a library that replaces the system's resolver.
fn resolver() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c_abi/resolver.c");
    let name = format!("p11client-resolver-{}.so", std::process::id());
    let made = std::env::temp_dir().join(name);
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
        .args([&made, &source])
        .args(["-ldl", "-pthread"])
        .status()
        .expect("there is a C compiler");
    assert!(status.success());
    made
}

/// Runs a scenario in which a name has these addresses. The port is that of the daemon, whose own address is in
/// `DAEMON`.
fn run_with(scenario: &str, daemon: &Daemon, variables: &[(&str, &str)]) -> String {
    let resolver = resolver();
    let (_, port) = daemon
        .address
        .split_once(':')
        .expect("an address and a port");
    let preload = resolver.display().to_string();
    let own = [
        ("LD_PRELOAD", preload.as_str()),
        ("DAEMON", &daemon.address),
    ];
    let log = run_at(
        scenario,
        &format!("daemon.test:{port}"),
        &[&own, variables].concat(),
    );
    std::fs::remove_file(resolver).expect("it was made above");
    log
}

/// Returns the threads of this process.
fn threads() -> Vec<PathBuf> {
    let tasks = Path::new("/proc/self/task")
        .read_dir()
        .expect("proc is there");
    tasks.map(|task| task.expect("a thread").path()).collect()
}

fn is_mapped() -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("proc is there");
    maps.contains("libp11client")
}

fn initialize_without_threads(loaded: &Loaded) -> CK_RV {
    let mut arguments = CK_C_INITIALIZE_ARGS {
        flags: CKF_LIBRARY_CANT_CREATE_OS_THREADS,
        ..Default::default()
    };
    call!(loaded.C_Initialize((&raw mut arguments).cast()))
}

/// When the lookup ends after all, it returns into the library, which was unloaded meanwhile but must still be mapped.
#[test]
fn a_resolver_that_hangs_takes_the_timeout() {
    let daemon = Daemon::start(|_| None);
    let hanging = [
        ("RESOLVER_DELAY", "3000"),
        ("RESOLVER_ADDRESSES", "127.0.0.1"),
        ("PKCS11PROXY_RPC_TIMEOUT", "1"),
    ];
    run_with("resolver_hangs", &daemon, &hanging);
    // The child has made the connection, because it has the address.
    assert_eq!(daemon.connections(), 1);
}

pub fn resolver_hangs() {
    let before = threads();
    let loaded = Loaded::new();
    let start = Instant::now();
    assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_DEVICE_ERROR);
    let taken = start.elapsed();
    assert!(taken > Duration::from_millis(990), "{taken:?}");
    assert!(taken < Duration::from_millis(2000), "{taken:?}");
    let after = threads();
    let [left] = after
        .iter()
        .filter(|it| !before.contains(it))
        .collect::<Vec<_>>()[..]
    else {
        panic!("{before:?} and {after:?}");
    };
    let status = std::fs::read_to_string(left.join("status")).expect("it runs");
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    // All but SIGKILL, SIGSTOP, and the two signals that glibc uses itself.
    assert_eq!(blocked.map(str::trim), Some("fffffffe7ffbfeff"));
    in_child(|| {
        let address = std::env::var("DAEMON").expect("the test sets it");
        // SAFETY: the child has one thread.
        unsafe { std::env::set_var("PKCS11PROXY_SOCKET_PATH", address) };
        assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_OK);
        assert_eq!(get_info(&loaded), CKR_OK);
        assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
    });
    loaded.library.close().expect("the library unloads");
    assert!(is_mapped());
    while threads().len() > before.len() {
        assert!(start.elapsed() < Duration::from_secs(10));
        thread::sleep(Duration::from_millis(20));
    }
    // A library that is loaded later is the same one.
    let loaded = Loaded::new();
    assert_eq!(
        call!(loaded.C_Finalize(null_mut())),
        CKR_CRYPTOKI_NOT_INITIALIZED
    );
}

#[test]
fn a_name_that_is_resolved_in_time_leaves_nothing_behind() {
    let daemon = Daemon::start(|_| None);
    let quick = [
        ("RESOLVER_DELAY", "20"),
        ("RESOLVER_ADDRESSES", "127.0.0.1"),
    ];
    run_with("resolver_answers", &daemon, &quick);
    assert_eq!(daemon.connections(), 3);
    daemon.wait_for_ended(3);
    // Code that the system's resolver calls may call this library.
    let library = library_file().display().to_string();
    let calling = [
        ("RESOLVER_CALLS", library.as_str()),
        ("RESOLVER_ADDRESSES", "127.0.0.1"),
    ];
    run_with("resolver_answers", &daemon, &calling);
    assert_eq!(daemon.connections(), 6);
}

pub fn resolver_answers() {
    let before = threads().len();
    for _ in 0..3 {
        let loaded = initialized();
        assert_eq!(threads().len(), before);
        assert_eq!(get_info(&loaded), CKR_OK);
        assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
        loaded.library.close().expect("the library unloads");
        assert!(!is_mapped(), "something pins the library");
    }
}

#[test]
fn without_threads_the_resolver_takes_its_own_time() {
    let daemon = Daemon::start(|_| None);
    let slow = [
        ("RESOLVER_DELAY", "1500"),
        ("RESOLVER_ADDRESSES", "127.0.0.1"),
    ];
    run_with("resolver_in_place", &daemon, &slow);
    assert_eq!(daemon.connections(), 2);
}

pub fn resolver_in_place() {
    let loaded = Loaded::new();
    let (is_over, most) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (is_over, most) = (&is_over, &most);
    thread::scope(|scope| {
        scope.spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                most.fetch_max(threads().len(), Ordering::SeqCst);
                thread::sleep(Duration::from_millis(5));
            }
        });
        let before = threads().len();
        assert_eq!(initialize_without_threads(&loaded), CKR_OK);
        assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
        // The same applies if the system provides no thread.
        // SAFETY: the other thread reads no variable.
        unsafe { std::env::set_var("NO_THREADS", "1") };
        assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_OK);
        assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
        is_over.store(true, Ordering::SeqCst);
        assert!(most.load(Ordering::SeqCst) <= before);
    });
}

/// An address that does not answer costs a moment; if none answers, connecting takes the timeout.
#[test]
fn addresses_that_do_not_answer_are_not_waited_for() {
    let daemon = Daemon::start(|_| None);
    let (_, port) = daemon
        .address
        .split_once(':')
        .expect("an address and a port");
    let port = port.parse().expect("a number");
    let silent = SilentListener::new([127, 0, 9, 1], port);
    let beside = [
        ("RESOLVER_ADDRESSES", "127.0.9.1,127.0.0.1"),
        ("LEAST", "240"),
    ];
    run_with("quickly_connected", &daemon, &beside);
    let alone = [
        ("RESOLVER_ADDRESSES", "127.0.9.1,127.0.9.1,127.0.9.2"),
        ("PKCS11PROXY_RPC_TIMEOUT", "1"),
        ("PKCS11PROXY_LOG", "error"),
    ];
    let log = run_with("never_connected", &daemon, &alone);
    let all = "127.0.9.2: Connection refused (os error 111); 127.0.9.1: no answer in time; 127.0.9.1: no answer in time";
    assert!(log.contains(all), "{log}");
    drop(silent);
}

pub fn quickly_connected() {
    let least: u128 = std::env::var("LEAST")
        .expect("the test sets it")
        .parse()
        .expect("a number");
    let start = Instant::now();
    let loaded = initialized();
    let taken = start.elapsed().as_millis();
    assert!((least..1000).contains(&taken), "{taken} ms");
    assert_eq!(get_info(&loaded), CKR_OK);
}

pub fn never_connected() {
    let loaded = Loaded::new();
    let start = Instant::now();
    assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_DEVICE_ERROR);
    let taken = start.elapsed().as_millis();
    assert!((990..2000).contains(&taken), "{taken} ms");
}

/// A listener whose queue is full, so that connecting gets no answer.
struct SilentListener {
    _listener: TcpListener,
    _queued: Vec<socket2::Socket>,
}

impl SilentListener {
    fn new(ip: [u8; 4], port: u16) -> SilentListener {
        use socket2::{Domain, SockAddr, Socket, Type};
        let stream = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let address = SockAddr::from(std::net::SocketAddr::from((ip, port)));
        let listener = stream();
        listener.bind(&address).expect("a free address");
        listener.listen(0).expect("a bound socket");
        let connect = || {
            let socket = stream();
            let connected = socket.connect_timeout(&address, Duration::from_millis(100));
            connected.map(|()| socket)
        };
        SilentListener {
            _queued: std::iter::from_fn(|| connect().ok()).collect(),
            _listener: listener.into(),
        }
    }
}
