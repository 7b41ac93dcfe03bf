//! Loads the library, and runs each scenario in a process of its own.
//!
//! A process has only one instance of the library. So a test starts this program again, with the scenario's name and
//! the daemon's address in the environment, and `scenario` in `main.rs` runs it there. SIGPIPE has its default action,
//! as in a C program.

use std::ffi::{c_int, c_void};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::null_mut;
use std::thread;
use std::time::{Duration, Instant};

use cryptoki_sys::*;
use libloading::os::unix::Library;

use crate::daemon::Daemon;
use crate::interfaces::FUNCTIONS;

/// Returns the library that cargo has built for this test.
pub fn library_file() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a file");
    test.with_file_name("libp11client.so")
}

/// The loaded library.
pub struct Loaded {
    pub library: Library,
    /// Built from the exported functions, because C_GetInterface would ask the daemon.
    pub list: *const CK_FUNCTION_LIST_3_2,
}

impl Loaded {
    pub fn new() -> Loaded {
        // SAFETY: the library's constructors do nothing.
        let library = unsafe { Library::new(library_file()) }.expect("the library loads");
        let mut list: Vec<*mut c_void> = vec![null_mut()];
        list.extend(FUNCTIONS.split_whitespace().map(|name| {
            // SAFETY: only the symbol's address is used.
            let symbol = unsafe { library.get::<*mut c_void>(name.as_bytes()) };
            *symbol.expect("every function is exported")
        }));
        assert_eq!(
            size_of_val(list.as_slice()),
            size_of::<CK_FUNCTION_LIST_3_2>()
        );
        Loaded {
            library,
            list: list.leak().as_ptr().cast(),
        }
    }
}

/// Calls a function of the list: `call!(loaded.C_Function(arguments))`.
macro_rules! call {
    ($loaded:ident . $name:ident ( $($argument:expr),* $(,)? )) => {{
        // SAFETY: the list lives as long as the library is loaded.
        let function = unsafe { (*$loaded.list).$name };
        let function = function.expect("every function is in the list");
        // SAFETY: each caller below passes pointers as PKCS#11 requires, or null.
        unsafe { function($($argument),*) }
    }};
}

/// The function list, in a form that can be sent to another thread.
pub struct Borrowed {
    pub list: *const CK_FUNCTION_LIST_3_2,
}

pub const NOT_INITIALIZED: CK_RV = CKR_CRYPTOKI_NOT_INITIALIZED;

pub const LOG: &str = "PKCS11PROXY_LOG";

/// Runs a scenario in a process of its own, against the daemon.
pub fn run(scenario: &str, daemon: &Daemon) {
    run_at(scenario, &daemon.address, &[]);
}

/// Runs a scenario with this address and these environment variables. Returns what was logged.
pub fn run_at(scenario: &str, address: &str, variables: &[(&str, &str)]) -> String {
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
    text(&output.stderr)
}

/// Returns how many sockets this process has open.
pub fn sockets() -> usize {
    let open = Path::new("/proc/self/fd")
        .read_dir()
        .expect("proc is there");
    open.filter_map(|entry| entry.ok()?.path().metadata().ok())
        .filter(|file| file.file_type().is_socket())
        .count()
}

/// Runs `child` in a forked process and checks that it finishes.
pub fn in_child(child: impl FnOnce()) {
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
        // SAFETY: `status` is a variable that can be written.
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

pub fn initialized() -> Loaded {
    let loaded = Loaded::new();
    assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_OK);
    loaded
}

pub fn get_info(loaded: &Loaded) -> CK_RV {
    let mut info = CK_INFO::default();
    call!(loaded.C_GetInfo(&mut info))
}
