//! Tests a connection against servers that answer correctly, late, wrongly or not at all.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::Instant;

use xdr::SessionHandle;
use xdr::rpc::Outgoing;
use xdr::version3::{Call, DataResult, Reply};

use super::*;
use crate::fake;
use crate::settings::Endpoint;

const LONG: Duration = Duration::from_secs(20);

/// A path for a socket; the file is removed when this is dropped.
pub(super) struct SocketPath(pub PathBuf);

impl SocketPath {
    pub fn new() -> SocketPath {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("p11client-{}-{number}", std::process::id());
        SocketPath(std::env::temp_dir().join(name))
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.0.clone())
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Serves one client: passes the xid and the number of each call to `answer`, which may write anything, until `answer`
/// says that it is enough.
fn serve(
    path: &Path,
    mut answer: impl FnMut(&mut UnixStream, Xid, u32) -> bool + Send + 'static,
) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut records = Records::new(LONGEST_REPLY);
        for number in 0.. {
            let xid = loop {
                if let Some(record) = records.next().unwrap() {
                    break Xid(u32::from_be_bytes(record[..4].try_into().unwrap()));
                }
                match stream.read(records.space().unwrap()) {
                    Ok(0) | Err(_) => return,
                    Ok(count) => records.received(count),
                }
            };
            if !answer(&mut stream, xid, number) {
                return;
            }
        }
    })
}

fn digest_of(data: &[u8]) -> Reply {
    let data = data.to_vec();
    Reply::C_Digest(DataResult {
        rv: CkRv::OK,
        data: data.into(),
    })
}

fn record(xid: Xid, reply: &Reply) -> Vec<u8> {
    let mut buffer = Vec::new();
    rpc::write_reply(
        xid,
        &Outgoing::Three(reply.clone()),
        xdr::Architecture::host(),
        &mut buffer,
    )
    .unwrap()
    .to_vec()
}

pub(super) fn nothing_is_told() -> Notify {
    Box::new(|_, _| unreachable!("nothing is told"))
}

pub(super) fn with_timeout(timeout: Duration) -> Settings {
    Settings {
        timeout,
        ..fake::settings(None)
    }
}

fn open(endpoint: &Endpoint, timeout: Duration) -> Result<Connection, ConnectError> {
    Connection::open(
        &fake::daemon(endpoint.clone(), None),
        &with_timeout(timeout),
        Deadline::after(timeout),
        Purpose::Application,
        nothing_is_told(),
    )
}

fn digest(connection: &Connection) -> Reply {
    connection.call_version3(Call::C_Digest(SessionHandle(1), b"data"))
}

/// Makes one call to a server that answers with what `answer` writes, and then a second one.
fn one_call(
    timeout: Duration,
    mut answer: impl FnMut(&mut UnixStream, Xid) + Send + 'static,
) -> (Reply, Connection, Reply) {
    let path = SocketPath::new();
    let _server = serve(&path.0, move |stream, xid, number| {
        match number {
            0 => answer(stream, xid),
            _ => stream.write_all(&record(xid, &digest_of(b"next"))).unwrap(),
        }
        true
    });
    let connection = open(&path.endpoint(), timeout).unwrap();
    let first = digest(&connection);
    let second = digest(&connection);
    (first, connection, second)
}

/// Checks that the first call failed and that nothing works from then on.
fn assert_lost((first, connection, second): (Reply, Connection, Reply)) {
    assert_eq!(first.rv(), CkRv::DEVICE_ERROR);
    assert_eq!(second.rv(), CkRv::DEVICE_ERROR);
    assert!(connection.is_lost());
}

/// Other daemons may be tried after this one.
#[test]
fn the_first_call_of_version_3_takes_no_longer_than_its_part_of_the_time() {
    let path = SocketPath::new();
    let _silent = UnixListener::bind(&path.0).unwrap();
    let connection = Connection::open(
        &fake::daemon(path.endpoint(), None),
        &with_timeout(LONG),
        Deadline::after(Duration::from_millis(300)),
        Purpose::Application,
        nothing_is_told(),
    )
    .unwrap();
    let start = Instant::now();
    connection.call_version3(Call::C_SetupArch(xdr::Architecture::host()));
    assert!(connection.is_lost());
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
}

#[test]
fn skips_replies_to_other_xids() {
    let (first, _, second) = one_call(LONG, |stream, xid| {
        let other = record(Xid(xid.0.wrapping_sub(1)), &digest_of(b"stale"));
        let own = record(xid, &digest_of(b"own"));
        stream
            .write_all(&[other.clone(), other, own].concat())
            .unwrap();
    });
    assert!(first == digest_of(b"own") && second == digest_of(b"next"));
}

#[test]
fn takes_any_fragmentation_empty_fragments_included() {
    let (first, _, second) = one_call(LONG, |stream, xid| {
        let whole = record(xid, &digest_of(b"fragments"));
        stream.write_all(&[0; 4]).unwrap(); // an empty fragment that is not the last
        for byte in &whole[4..] {
            stream.write_all(&[0, 0, 0, 1, *byte]).unwrap();
        }
        stream.write_all(&[0x80, 0, 0, 0]).unwrap(); // an empty last one
    });
    assert!(first == digest_of(b"fragments") && second == digest_of(b"next"));
}

#[test]
fn carries_large_data_both_ways() {
    let path = SocketPath::new();
    let large: Vec<u8> = (0..3_000_001u32).map(|number| number as u8).collect();
    let sent = large.clone();
    let _server = serve(&path.0, move |stream, xid, _| {
        stream.write_all(&record(xid, &digest_of(&sent))).is_ok()
    });
    let connection = open(&path.endpoint(), LONG).unwrap();
    for _ in 0..3 {
        let reply = connection.call_version3(Call::C_Digest(SessionHandle(1), &large));
        assert!(reply == digest_of(&large));
    }
}

#[test]
fn a_call_that_was_not_executed_leaves_the_connection_alone() {
    let rejections = [
        rpc::Rejection::GarbageArguments,
        rpc::Rejection::ProcedureUnavailable,
        rpc::Rejection::AuthenticationTooWeak,
    ];
    for rejection in rejections {
        let (first, connection, second) = one_call(LONG, move |stream, xid| {
            let mut buffer = Vec::new();
            let refusal = rpc::write_rejection(xid, rejection, &mut buffer);
            stream.write_all(&refusal.unwrap().to_vec()).unwrap();
        });
        assert_eq!(first.rv(), CkRv::FUNCTION_FAILED);
        assert!(second == digest_of(b"next") && !connection.is_lost());
    }
}

#[test]
fn a_malformed_reply_ends_the_connection() {
    // bytes after the result, bytes missing, a length beyond the end, no reply at all
    type Change = fn(&mut Vec<u8>);
    let changes: [Change; 4] = [
        |payload| payload.extend_from_slice(&[0; 4]),
        |payload| payload.truncate(payload.len() - 4),
        |payload| payload[32..36].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]),
        |payload| payload[4..8].copy_from_slice(&[0; 4]),
    ];
    for change in changes {
        assert_lost(one_call(LONG, move |stream, xid| {
            let mut payload = record(xid, &digest_of(b"malformed"))[4..].to_vec();
            change(&mut payload);
            let mark = xdr::record::mark_of_one_fragment(payload.len()).unwrap();
            stream
                .write_all(&[&mark, payload.as_slice()].concat())
                .unwrap();
        }));
    }
}

#[test]
fn a_record_over_the_limit_ends_the_connection_at_its_mark() {
    assert_lost(one_call(LONG, |stream, _| {
        stream.write_all(&u32::MAX.to_be_bytes()).unwrap();
    }));
}

#[test]
fn the_daemons_end_ends_the_connection_without_a_signal() {
    for part in [0, 2, 20] {
        let path = SocketPath::new();
        let server = serve(&path.0, move |stream, xid, _| {
            let whole = record(xid, &digest_of(b"cut"));
            stream.write_all(&whole[..part]).unwrap();
            false
        });
        let connection = open(&path.endpoint(), LONG).unwrap();
        let first = digest(&connection);
        server.join().unwrap();
        let second = digest(&connection);
        assert_lost((first, connection, second));
    }
}

#[test]
fn a_daemon_that_does_not_answer_is_given_up_in_time() {
    let timeout = Duration::from_millis(300);
    let started = Instant::now();
    assert_lost(one_call(timeout, |_, _| {}));
    assert!(started.elapsed() >= timeout);
    assert!(started.elapsed() < LONG / 2);
}

/// The original restarts its time limit with every byte.
#[test]
fn a_reply_that_trickles_does_not_outlast_the_timeout() {
    let started = Instant::now();
    assert_lost(one_call(Duration::from_millis(300), |stream, xid| {
        for byte in record(xid, &digest_of(&[0; 4000])) {
            if stream.write_all(&[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }));
    assert!(started.elapsed() < LONG / 2);
}

#[test]
fn replies_to_other_xids_do_not_prolong_the_timeout() {
    let started = Instant::now();
    assert_lost(one_call(Duration::from_millis(300), |stream, xid| {
        let other = record(Xid(!xid.0), &digest_of(b"other"));
        while stream.write_all(&other).is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    }));
    assert!(started.elapsed() < LONG / 2);
}

#[test]
fn a_daemon_that_does_not_read_is_given_up_in_time() {
    let path = SocketPath::new();
    let _listener = UnixListener::bind(&path.0).unwrap();
    let connection = open(&path.endpoint(), Duration::from_millis(300)).unwrap();
    let large = vec![0; 8 << 20];
    let started = Instant::now();
    let reply = connection.call_version3(Call::C_Digest(SessionHandle(1), &large));
    assert_eq!(reply.rv(), CkRv::DEVICE_ERROR);
    assert!(started.elapsed() < LONG / 2);
}

#[test]
fn a_slow_call_leaves_the_next_one_its_whole_time() {
    let slow = Duration::from_millis(700);
    let path = SocketPath::new();
    let _server = serve(&path.0, move |stream, xid, _| {
        let whole = record(xid, &digest_of(b"slow"));
        stream.write_all(&whole[..10]).unwrap();
        thread::sleep(slow);
        stream.write_all(&whole[10..]).is_ok()
    });
    let connection = open(&path.endpoint(), Duration::from_secs(2)).unwrap();
    for _ in 0..4 {
        assert!(digest(&connection) == digest_of(b"slow"));
    }
}

#[test]
fn calls_that_wait_for_their_turn_see_the_end() {
    let path = SocketPath::new();
    let _server = serve(&path.0, |stream, xid, _| {
        thread::sleep(Duration::from_millis(50));
        stream.write_all(&record(xid, &digest_of(b"slow"))).is_ok()
    });
    let connection = open(&path.endpoint(), LONG).unwrap();
    thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        match digest(&connection).rv() {
                            CkRv::OK => {}
                            rv => return rv,
                        }
                    }
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(200));
        connection.close();
        for caller in callers {
            assert_eq!(caller.join().unwrap(), CkRv::CRYPTOKI_NOT_INITIALIZED);
        }
    });
}

#[test]
fn connects_over_tcp_to_an_address_or_a_name() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost"] {
        let host = host.to_owned();
        open(&Endpoint::Tcp { host, port }, LONG).unwrap();
    }
    drop(listener);
    let host = "127.0.0.1".to_owned();
    assert!(open(&Endpoint::Tcp { host, port }, LONG).is_err());
    assert!(open(&SocketPath::new().endpoint(), LONG).is_err());
}
