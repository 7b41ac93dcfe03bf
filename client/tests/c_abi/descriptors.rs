//! Tests descriptors that the application has closed, reused, or never had.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr::null_mut;
use std::time::Duration;

use cryptoki_sys::*;
use xdr::Call;

use crate::daemon::{Daemon, OLDER_AND_NEWER};
use crate::harness::{LOG, Loaded, get_info, in_child, initialized, run_at};

const PIN: &str = "a PIN that nobody else may see";

/// The descriptor's number belongs to a file of the application, or to none.
#[test]
fn a_descriptor_that_the_application_took_over_gets_no_byte() {
    for versions in OLDER_AND_NEWER {
        let daemon = Daemon::of_versions(versions, |call| {
            assert!(!matches!(call, Call::C_Login(..)), "nothing was sent");
            None
        });
        let variables = [(LOG, "warn")];
        let log = run_at("descriptors_taken_over", &daemon.address, &variables);
        let said = log.matches("has closed the connection's descriptor");
        assert_eq!(said.count(), TAKEN_OVER, "{log}");
        assert!(!log.contains(PIN));
        daemon.wait_for_ended(TAKEN_OVER);
    }
}

/// How many times the scenario takes the descriptor over before a call.
const TAKEN_OVER: usize = 7;

/// Returns the descriptor of the library's connection, which is the only socket.
fn connection() -> RawFd {
    let open = Path::new("/proc/self/fd")
        .read_dir()
        .expect("proc is there");
    let mut sockets = open.filter_map(|entry| {
        let entry = entry.ok()?;
        let is_socket = entry.path().metadata().ok()?.file_type().is_socket();
        let number = entry.file_name().to_str()?.parse().ok()?;
        is_socket.then_some(number)
    });
    let number = sockets.next().expect("the connection is open");
    assert_eq!(sockets.next(), None);
    number
}

/// Closes the library's connection, like an application that closes every descriptor, and gives its number to `file`.
fn give_number(number: RawFd, file: impl Into<OwnedFd>) -> RawFd {
    let file = file.into();
    // SAFETY: the library must tolerate that its descriptor is replaced.
    let given = unsafe { libc::dup2(file.as_raw_fd(), number) };
    assert_eq!(given, number);
    number
}

fn close(number: RawFd) {
    // SAFETY: as in `give_number`, or the application's own.
    assert_eq!(unsafe { libc::close(number) }, 0);
}

fn log_in(loaded: &Loaded) -> CK_RV {
    let mut pin = PIN.as_bytes().to_vec();
    let length = pin.len() as CK_ULONG;
    call!(loaded.C_Login(1, CKU_USER, pin.as_mut_ptr(), length))
}

/// Makes calls and finalises the library, which must not use any descriptor of the application meanwhile.
fn call_and_finalize(loaded: &Loaded) {
    assert_eq!(log_in(loaded), CKR_DEVICE_ERROR);
    assert_eq!(get_info(loaded), CKR_DEVICE_ERROR);
    finalize(loaded);
}

fn finalize(loaded: &Loaded) {
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
}

fn initialize(loaded: &Loaded) {
    assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_OK);
    assert_eq!(get_info(loaded), CKR_OK);
}

/// Checks that the stream with this number and its peer are connected both ways, and that nothing else was sent.
fn assert_connected(number: RawFd, mut peer: impl Read + Write) {
    peer.write_all(b"there").expect("the stream is open");
    let mut came = [0; 64];
    // SAFETY: `came` has room for that many bytes.
    let count = unsafe { libc::read(number, came.as_mut_ptr().cast(), came.len()) };
    assert_eq!(&came[..count as usize], b"there");
    // SAFETY: these are four bytes.
    let count = unsafe { libc::write(number, b"back".as_ptr().cast(), 4) };
    assert_eq!(count, 4);
    let count = peer.read(&mut came).expect("the stream is open");
    assert_eq!(&came[..count], b"back");
    close(number);
}

pub fn descriptors_taken_over() {
    let loaded = Loaded::new();

    // The descriptor is closed, and its number is not used again.
    initialize(&loaded);
    close(connection());
    call_and_finalize(&loaded);

    initialize(&loaded);
    let number = connection();
    let (own, peer) = UnixStream::pair().expect("two sockets");
    give_number(number, own);
    call_and_finalize(&loaded);
    assert_connected(number, peer);

    initialize(&loaded);
    let number = connection();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let own = TcpStream::connect(address).expect("somebody listens");
    let (peer, _) = listener.accept().expect("a connection");
    give_number(number, own);
    call_and_finalize(&loaded);
    assert_connected(number, peer);
    drop(listener);

    initialize(&loaded);
    let number = connection();
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    give_number(number, writer);
    call_and_finalize(&loaded);
    close(number);
    let mut came = Vec::new();
    File::from(reader).read_to_end(&mut came).expect("a pipe");
    assert_eq!(came, b"");

    initialize(&loaded);
    let number = connection();
    let path = std::env::temp_dir().join(format!("p11client-{}", std::process::id()));
    give_number(number, File::create_new(&path).expect("a new file"));
    call_and_finalize(&loaded);
    assert_eq!(std::fs::read(&path).expect("the file"), b"");
    std::fs::remove_file(&path).expect("the file is there");
    close(number);

    // C_Finalize is the first call that notices.
    initialize(&loaded);
    let number = connection();
    let (own, peer) = UnixStream::pair().expect("two sockets");
    give_number(number, own);
    finalize(&loaded);
    assert_connected(number, peer);

    // Or the end of a process that was forked meanwhile is the first.
    initialize(&loaded);
    let number = connection();
    let (own, peer) = UnixStream::pair().expect("two sockets");
    give_number(number, own);
    in_child(|| {
        // SAFETY: only asks whether the descriptor is open.
        assert_ne!(unsafe { libc::fcntl(number, libc::F_GETFD) }, -1);
    });
    call_and_finalize(&loaded);
    assert_connected(number, peer);
    initialize(&loaded);
    finalize(&loaded);
}

/// With recovery, the library connects again before it sends anything, because C_Login could not be repeated.
#[test]
fn an_application_that_takes_over_the_descriptor_is_connected_again() {
    for versions in OLDER_AND_NEWER {
        let daemon = Daemon::of_versions(versions, |_| None);
        let recover = [("PKCS11PROXY_RECOVER", "true")];
        run_at(
            "descriptors_taken_over_recovering",
            &daemon.address,
            &recover,
        );
        assert_eq!(daemon.connections(), 4);
        daemon.wait_for_ended(4);
    }
}

pub fn descriptors_taken_over_recovering() {
    let loaded = initialized();
    close(connection());
    assert_eq!(log_in(&loaded), CKR_OK);

    let number = connection();
    let (own, peer) = UnixStream::pair().expect("two sockets");
    give_number(number, own);
    assert_eq!(log_in(&loaded), CKR_OK);
    assert_connected(number, peer);

    let number = connection();
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    give_number(number, writer);
    assert_eq!(log_in(&loaded), CKR_OK);
    close(number);
    let mut came = Vec::new();
    File::from(reader).read_to_end(&mut came).expect("a pipe");
    assert_eq!(came, b"");
    finalize(&loaded);
}

/// No call is made after the descriptor was taken over.
#[test]
fn unloading_closes_nothing_that_the_application_took_over() {
    let daemon = Daemon::start(|_| None);
    run_at("unload_taken_over", &daemon.address, &[]);
}

pub fn unload_taken_over() {
    let loaded = initialized();
    let number = connection();
    let (own, peer) = UnixStream::pair().expect("two sockets");
    peer.set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a socket has one");
    give_number(number, own);
    loaded.library.close().expect("the library unloads");
    assert_connected(number, peer);
}

/// A daemon that received the output would take it for a record.
#[test]
fn a_program_without_standard_descriptors_does_not_print_into_the_connection() {
    for versions in OLDER_AND_NEWER {
        let daemon = Daemon::of_versions(versions, |_| None);
        run_at("standard_descriptors_closed", &daemon.address, &[]);
        daemon.wait_for_ended(3);
    }
}

pub fn standard_descriptors_closed() {
    let loaded = Loaded::new();
    for lowest in 0..3 {
        in_child(|| {
            (lowest..3).for_each(close);
            initialize(&loaded);
            let number = connection();
            assert!(number > 2);
            // SAFETY: only asks for the descriptor's flags.
            let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
            assert_eq!(flags, libc::FD_CLOEXEC);
            for standard in lowest..3 {
                // SAFETY: these are six bytes.
                let count = unsafe { libc::write(standard, b"output".as_ptr().cast(), 6) };
                assert_eq!(count, -1);
            }
            assert_eq!(get_info(&loaded), CKR_OK);
            finalize(&loaded);
        });
    }
}
