//! Tests both halves of plain and TLS connections, used by several threads at once.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslVersion};
use xdr::Architecture;
use xdr::codec::Encoder;

use super::*;
use crate::tls::{self, LONGEST_FRAGMENT, PSK_SUITES, PSK_SUITES13, SHORT_FRAGMENT};

const KEY: &[u8] = b"sixteen bytes...";
const LONG: Duration = Duration::from_secs(20);

/// How a test connects.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Plain,
    Tls(SslVersion, usize),
}

const KINDS: [Kind; 4] = [
    Kind::Plain,
    Kind::Tls(SslVersion::TLS1_2, SHORT_FRAGMENT),
    Kind::Tls(SslVersion::TLS1_3, SHORT_FRAGMENT),
    Kind::Tls(SslVersion::TLS1_3, LONGEST_FRAGMENT),
];

fn soon() -> Deadline {
    Deadline::after(LONG)
}

/// The settings of one side; both know the key.
pub(crate) fn context(method: SslMethod, version: SslVersion) -> SslContext {
    let mut context = SslContextBuilder::new(method).unwrap();
    tls::settle(&mut context);
    context.set_min_proto_version(Some(version)).unwrap();
    context.set_max_proto_version(Some(version)).unwrap();
    context.set_cipher_list(PSK_SUITES).unwrap();
    context.set_ciphersuites(PSK_SUITES13).unwrap();
    context.set_psk_client_callback(|_, _, identity, key| {
        identity[..3].copy_from_slice(b"me\0");
        key[..KEY.len()].copy_from_slice(KEY);
        Ok(KEY.len())
    });
    context.set_psk_server_callback(|_, _, key| {
        key[..KEY.len()].copy_from_slice(KEY);
        Ok(KEY.len())
    });
    context.build()
}

fn sockets() -> (Socket, Socket) {
    Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap()
}

fn server(socket: Socket, version: SslVersion, fragment: usize) -> Halves {
    let ssl = Ssl::new(&context(SslMethod::tls_server(), version)).unwrap();
    let pipe = Pipe::new(TimedSocket::new(socket), soon());
    Halves::tls(
        ssl.accept(pipe).ok().unwrap(),
        fragment,
        tls::default_context,
    )
    .unwrap()
}

fn client(socket: Socket, version: SslVersion, fragment: usize) -> Halves {
    let ssl = Ssl::new(&context(SslMethod::tls_client(), version)).unwrap();
    let pipe = Pipe::new(TimedSocket::new(socket), soon());
    Halves::tls(
        ssl.connect(pipe).ok().unwrap(),
        fragment,
        tls::default_context,
    )
    .unwrap()
}

/// Both ends of a connection.
fn pair(kind: Kind) -> (Halves, Halves) {
    let (near, far) = sockets();
    match kind {
        Kind::Plain => (
            Halves::plain(TimedSocket::new(near)),
            Halves::plain(TimedSocket::new(far)),
        ),
        Kind::Tls(version, fragment) => {
            let far = thread::spawn(move || server(far, version, fragment));
            (client(near, version, fragment), far.join().unwrap())
        }
    }
}

fn send(sender: &mut Sender, value: &[u8]) -> io::Result<()> {
    let mut buffer = Vec::new();
    let mut encoder = Encoder::new(&mut buffer, Architecture::host());
    encoder.opaque(value);
    sender.send_record(&mut encoder.finish().unwrap(), soon())
}

/// What [`send`] puts on the wire for these values.
fn sent(values: &[Vec<u8>]) -> Vec<u8> {
    let record = |value: &Vec<u8>| {
        let mut buffer = Vec::new();
        let mut encoder = Encoder::new(&mut buffer, Architecture::host());
        encoder.opaque(value);
        encoder.finish().unwrap().to_vec()
    };
    values.iter().flat_map(record).collect()
}

fn receive_exactly(receiver: &mut Receiver, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let mut filled = 0;
    while filled < count {
        // Sometimes less room than a TLS record needs.
        let room = [7, 5000, 1 << 20][filled % 3].min(count - filled);
        let space = &mut bytes[filled..filled + room];
        match receiver.receive(space, Some(soon())).unwrap() {
            0 => panic!("the end after {filled} of {count} bytes"),
            size => filled += size,
        }
    }
    bytes
}

#[test]
fn both_directions_are_used_at_the_same_time() {
    for kind in KINDS {
        let sizes = (0..60).map(|number| [0, 100, 4000, 16384, 70_000, 300_000][number % 6]);
        let values: Vec<Vec<u8>> = sizes
            .enumerate()
            .map(|(number, size)| vec![number as u8; size])
            .collect();
        let (near, far) = pair(kind);
        thread::scope(|scope| {
            for halves in [near, far] {
                let Halves {
                    mut receiver,
                    mut sender,
                    ..
                } = halves;
                let values = &values;
                scope.spawn(move || {
                    for value in values {
                        send(&mut sender, value).unwrap();
                    }
                });
                scope.spawn(move || {
                    let expected = sent(values);
                    let received = receive_exactly(&mut receiver, expected.len());
                    assert!(received == expected, "{kind:?}");
                });
            }
        });
    }
}

#[test]
fn a_thread_that_waits_for_the_peer_keeps_nobody_from_sending_and_is_woken() {
    for kind in KINDS {
        let (near, mut far) = pair(kind);
        let Halves {
            mut receiver,
            mut sender,
            closer,
        } = near;
        thread::scope(|scope| {
            let waiting = scope.spawn(move || receiver.receive(&mut [0; 8], None));
            thread::sleep(Duration::from_millis(50));
            send(&mut sender, b"sent").unwrap();
            let values = [b"sent".to_vec()];
            assert_eq!(receive_exactly(&mut far.receiver, 12), sent(&values));
            assert!(!waiting.is_finished());
            closer.shut_down();
            assert_eq!(waiting.join().unwrap().unwrap(), 0, "{kind:?}");
        });
    }
}

#[test]
fn a_thread_that_sends_to_a_peer_that_does_not_read_is_woken() {
    for kind in KINDS {
        let (near, _far) = pair(kind);
        let Halves {
            mut sender, closer, ..
        } = near;
        thread::scope(|scope| {
            let sending = scope.spawn(move || send(&mut sender, &vec![0; 8 << 20]));
            thread::sleep(Duration::from_millis(50));
            assert!(!sending.is_finished());
            // Gives up at once, because it would have to wait for the sending thread.
            closer.farewell(soon());
            closer.shut_down();
            closer.free();
            assert!(sending.join().unwrap().is_err(), "{kind:?}");
        });
    }
}

#[test]
fn waiting_ends_at_the_deadline() {
    for kind in KINDS {
        let (mut near, _far) = pair(kind);
        let time = Duration::from_millis(60);
        let start = Instant::now();
        let deadline = Some(Deadline::after(time));
        let error = near.receiver.receive(&mut [0; 8], deadline).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= time - Duration::from_millis(1));
    }
}

#[test]
fn the_peers_end_is_the_end_with_and_without_a_farewell() {
    for kind in KINDS {
        for is_told in [true, false] {
            let (mut near, far) = pair(kind);
            let mut far_sender = far.sender;
            send(&mut far_sender, b"last").unwrap();
            if is_told {
                far.closer.farewell(soon());
            }
            far.closer.shut_down();
            receive_exactly(&mut near.receiver, 12);
            for _ in 0..2 {
                let count = near.receiver.receive(&mut [0; 8], Some(soon()));
                assert_eq!(count.unwrap(), 0, "{kind:?} {is_told}");
            }
        }
    }
}

#[test]
fn nothing_is_used_after_it_was_freed() {
    let (mut near, _far) = pair(KINDS[3]);
    near.closer.free();
    let error = send(&mut near.sender, b"").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
    let error = near.receiver.receive(&mut [0; 8], Some(soon()));
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::NotConnected);
    near.closer.farewell(soon());
}

/// Passes on what goes from a client's socket to a server's, and looks at it or changes it.
fn between(
    mut from: Socket,
    mut to: Socket,
    mut change: impl FnMut(&mut Vec<u8>) + Send + 'static,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = from.read(&mut buffer).unwrap_or(0);
            let mut bytes = buffer[..count].to_vec();
            change(&mut bytes);
            if count == 0 || to.write_all(&bytes).is_err() {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
        }
    })
}

/// A client and a server with a relay between them that sees what the client sends.
fn observed(
    version: SslVersion,
    fragment: usize,
    change: impl FnMut(&mut Vec<u8>) + Send + 'static,
) -> (Halves, Halves) {
    let ((near, outer), (inner, far)) = (sockets(), sockets());
    let clone = |socket: &Socket| socket.try_clone().unwrap();
    between(clone(&outer), clone(&inner), change);
    between(inner, outer, |_| {});
    let far = thread::spawn(move || server(far, version, fragment));
    (client(near, version, fragment), far.join().unwrap())
}

#[test]
fn no_tls_record_is_longer_than_the_peer_can_take() {
    for fragment in [SHORT_FRAGMENT, LONGEST_FRAGMENT] {
        let (lengths, longest) = mpsc::channel();
        let mut rest = Vec::new();
        let (mut near, mut far) = observed(SslVersion::TLS1_3, fragment, move |bytes| {
            rest.extend_from_slice(bytes);
            while let [kind, _, _, high, low, ..] = *rest {
                let length = usize::from(high) << 8 | usize::from(low);
                if rest.len() < 5 + length {
                    break;
                }
                rest.drain(..5 + length);
                if kind == 23 {
                    lengths.send(length).unwrap();
                }
            }
        });
        let values = [vec![1; 40_000]];
        send(&mut near.sender, &values[0]).unwrap();
        receive_exactly(&mut far.receiver, 40_008);
        // The type of content, and the tag.
        assert_eq!(longest.try_iter().max(), Some(fragment + 1 + 16));
    }
}

#[test]
fn a_tls_record_that_was_changed_ends_the_connection_with_an_alert() {
    let (go, gone) = mpsc::channel();
    let (mut near, mut far) = observed(SslVersion::TLS1_3, LONGEST_FRAGMENT, move |bytes| {
        if gone.try_recv().is_ok() {
            *bytes.last_mut().unwrap() ^= 1;
        }
    });
    send(&mut near.sender, b"first").unwrap();
    receive_exactly(&mut far.receiver, 16);
    go.send(()).unwrap();
    send(&mut near.sender, b"changed").unwrap();
    let mut space = [0; 64];
    let error = far.receiver.receive(&mut space, Some(soon())).unwrap_err();
    assert!(error.to_string().starts_with("TLS: "), "{error}");
    let error = near.receiver.receive(&mut space, Some(soon()));
    let told = error.unwrap_err().to_string();
    assert!(told.contains("alert bad record mac"), "{told}");
}

/// For example, a call directly behind the last message of the handshake.
#[test]
fn what_came_with_the_handshake_is_not_lost() {
    let ((near, outer), (inner, far)) = (sockets(), sockets());
    let clone = |socket: &Socket| socket.try_clone().unwrap();
    // Holds back the client's last messages until the first record is among them.
    let mut held = Vec::new();
    let mut flights = 0;
    between(clone(&outer), clone(&inner), move |bytes| {
        flights += 1;
        if flights > 1 && held.len() < 1000 {
            held.append(bytes);
        }
        if held.len() >= 1000 {
            bytes.append(&mut held);
            held = vec![0; 1000];
        }
    });
    between(inner, outer, |_| {});
    let fragment = LONGEST_FRAGMENT;
    let far = thread::spawn(move || server(far, SslVersion::TLS1_3, fragment));
    let mut near = client(near, SslVersion::TLS1_3, fragment);
    let values = [vec![3; 2000]];
    send(&mut near.sender, &values[0]).unwrap();
    let mut far = far.join().unwrap();
    let received = receive_exactly(&mut far.receiver, 2008);
    assert!(received == sent(&values));
}

#[test]
fn a_peer_may_idle_between_tls_records_but_not_within_one() {
    let time = Duration::from_millis(50);
    let idle = Duration::from_millis(300);
    let (cut, is_cut) = mpsc::channel();
    let mut rest = Vec::new();
    let (mut near, mut far) = observed(SslVersion::TLS1_3, LONGEST_FRAGMENT, move |bytes| {
        if is_cut.try_recv().is_ok() {
            // The rest comes with what is sent next.
            rest = bytes.split_off(bytes.len() / 2);
        } else {
            bytes.splice(..0, rest.drain(..));
        }
    });
    far.receiver.limit_tls_records(time);
    let mut space = [0; 64];
    let mut receive = || far.receiver.receive(&mut space, None);
    for _ in 0..2 {
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(idle);
                send(&mut near.sender, b"late").unwrap();
            });
            assert_eq!(receive().unwrap(), 12);
        });
    }
    cut.send(()).unwrap();
    send(&mut near.sender, b"cut").unwrap();
    let start = Instant::now();
    assert_eq!(receive().unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(start.elapsed() < idle);
}

/// With `K`, s_client sends a key update and asks for one, which OpenSSL answers with the next record.
#[test]
fn a_key_update_is_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let key: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut peer = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}")])
        .args(["-tls1_3", "-psk", &key, "-psk_identity", "me"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (outer, _) = listener.accept().unwrap();
    let outer = Socket::from(outer);
    let (inner, far) = sockets();
    let (count, counted) = mpsc::channel();
    between(
        outer.try_clone().unwrap(),
        inner.try_clone().unwrap(),
        |_| {},
    );
    between(inner, outer, move |bytes| count.send(bytes.len()).unwrap());
    let halves = server(far, SslVersion::TLS1_3, LONGEST_FRAGMENT);
    let Halves {
        mut receiver,
        mut sender,
        ..
    } = halves;
    let mut input = peer.stdin.take().unwrap();
    let mut output = peer.stdout.take().unwrap();
    let waiting = thread::spawn(move || {
        let mut space = [0; 64];
        let count = receiver.receive(&mut space, Some(soon())).unwrap();
        space[..count].to_vec()
    });
    while counted.recv_timeout(Duration::from_millis(500)).is_ok() {}
    input.write_all(b"K\n").unwrap();
    // The header of a TLS record, its content, the type of content, and the tag.
    let size = |content: usize| 5 + content + 1 + 16;
    let end = Instant::now() + LONG;
    loop {
        send(&mut sender, b"key").unwrap();
        match counted.recv_timeout(LONG).unwrap() {
            // The answer goes out with what is sent next, in one write.
            bytes if bytes == size(5) + size(12) => break,
            bytes => assert_eq!(bytes, size(12), "no key update came yet"),
        }
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(20));
    }
    send(&mut sender, b"under the new key").unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"under the new key\0\0\0") {
        let mut space = [0; 4096];
        let count = output.read(&mut space).unwrap();
        assert!(count > 0);
        seen.extend_from_slice(&space[..count]);
    }
    input.write_all(b"text\n").unwrap();
    assert_eq!(waiting.join().unwrap(), b"text\n");
    peer.kill().unwrap();
    peer.wait().unwrap();
}
