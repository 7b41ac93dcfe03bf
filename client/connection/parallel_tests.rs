//! Tests calls of version 4 in parallel, against daemons that answer in any order, late, wrongly or not at all.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread;

use openssl::ssl::{Ssl, SslContextBuilder, SslMethod};
use transport::TimedSocket;
use transport::tls::{self as shared, LONGEST_FRAGMENT, PSK_SUITES, PSK_SUITES13, Pipe};
use xdr::codec::Encoder;
use xdr::rpc::{Outgoing, Peer, Rejection, Request};
use xdr::{Architecture, Flags, Input, NullPlaces, OutputResult, Room, SlotId, SlotResult, Ulong};

use super::tests::{SocketPath, nothing_is_told, with_timeout};
use super::*;
use crate::fake;
use crate::settings::{Credentials, Source, TlsSettings};

const LONG: Duration = Duration::from_secs(20);
const KEY: &str = "00112233445566778899aabbccddeeff";

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// A call as the daemon receives it.
struct Asked {
    xid: Xid,
    function: Function,
    session: u64,
    overlaps: bool,
    data: Vec<u8>,
    /// The application's answer to a notification with this xid.
    notified: Option<CkRv>,
}

impl Default for Asked {
    fn default() -> Asked {
        Asked {
            xid: Xid(0),
            function: Function::C_SetupArch,
            session: 0,
            overlaps: false,
            data: Vec::new(),
            notified: None,
        }
    }
}

/// The daemon's end of a connection, through which it answers the client.
struct Client {
    sender: SharedSender,
    closer: Closer,
}

impl Client {
    fn send(&self, record: Result<Slices<'_>, EncodeError>) {
        // The client may have closed the connection.
        let begin = || Ok::<_, io::Error>(self.sender.deadline());
        let _ = self.sender.send(&mut record.unwrap(), begin);
    }

    fn reply(&self, xid: Xid, reply: Reply) {
        let (reply, host) = (Outgoing::Four(reply), Architecture::host());
        self.send(rpc::write_reply(xid, &reply, host, &mut Vec::new()));
    }

    /// Sends a record of these words.
    fn send_words(&self, words: &[u32]) {
        let mut buffer = Vec::new();
        let mut encoder = Encoder::new(&mut buffer, Architecture::host());
        words.iter().for_each(|word| encoder.word(*word));
        self.send(encoder.finish());
    }

    fn notify(&self, xid: u32, call: Xid, session: u64) {
        let notification = Notification {
            call,
            session: SessionHandle(session),
            event: Ulong(1),
        };
        self.send(rpc::write_notification(
            Xid(xid),
            notification,
            &mut Vec::new(),
        ));
    }

    /// Answers with the input of the call.
    fn echo(&self, asked: &Asked) {
        let reply = match asked.function {
            Function::C_WaitForSlotEvent => Reply::C_WaitForSlotEvent(SlotResult {
                rv: CkRv::OK,
                slot_id: SlotId(7),
            }),
            Function::C_Digest => digest_of(&asked.data),
            function => Reply::only(function, CkRv::OK),
        };
        self.reply(asked.xid, reply);
    }
}

fn digest_of(data: &[u8]) -> Reply {
    Reply::C_Digest(OutputResult {
        rv: CkRv::OK,
        length: Ulong(data.len() as u64),
        data: data.to_vec().into(),
    })
}

/// What the daemon's reply to C_SetupArch says.
#[derive(Clone, Copy)]
struct Told {
    calls: u64,
    longest: u64,
}

const MANY: Told = Told {
    calls: 64,
    longest: 1 << 30,
};

/// Serves one client: answers C_SetupArch, and passes every other call to `answer`.
fn serve(
    path: &SocketPath,
    is_tls: bool,
    told: Told,
    answer: impl Fn(&Arc<Client>, Asked) + Send + 'static,
) {
    let listener = std::os::unix::net::UnixListener::bind(&path.0).unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let socket = TimedSocket::new(stream.into());
        let halves = if is_tls {
            accept(socket)
        } else {
            Halves::plain(socket)
        };
        let Halves {
            mut receiver,
            sender,
            closer,
        } = halves;
        let client = Arc::new(Client {
            sender: SharedSender::new(sender, LONG),
            closer,
        });
        let mut records = Records::new(LONGEST_REPLY);
        let peer = Peer {
            architecture: Architecture::host(),
            versions: 3..=4,
        };
        loop {
            while let Some(record) = records.next().unwrap() {
                if let Some((xid, rv)) = rpc::read_notified(record) {
                    let notified = Some(rv.unwrap());
                    answer(
                        &client,
                        Asked {
                            xid,
                            notified,
                            ..Asked::default()
                        },
                    );
                    continue;
                }
                let Request::Call(incoming) = rpc::read_request(record, &peer) else {
                    panic!("no call")
                };
                let asked = Asked {
                    xid: incoming.xid,
                    function: incoming.call.function(),
                    session: incoming.call.session().map_or(0, |session| session.0),
                    overlaps: incoming.overlaps,
                    data: match incoming.call {
                        Call::C_Digest(_, Input::Bytes(data), _)
                        | Call::C_Decrypt(_, Input::Bytes(data), _) => data.to_vec(),
                        _ => Vec::new(),
                    },
                    notified: None,
                };
                if asked.function == Function::C_SetupArch {
                    let hello = Hello {
                        longest_record: Ulong(told.longest),
                        parallel_calls: Ulong(told.calls),
                        ..Default::default()
                    };
                    client.reply(
                        asked.xid,
                        Reply::C_SetupArch(HelloResult {
                            rv: CkRv::OK,
                            hello,
                        }),
                    );
                } else {
                    answer(&client, asked);
                }
            }
            match receiver.receive(records.space().unwrap(), None) {
                Ok(0) | Err(_) => return,
                Ok(count) => records.received(count),
            }
        }
    });
}

fn accept(socket: TimedSocket) -> Halves {
    let mut context = SslContextBuilder::new(SslMethod::tls_server()).unwrap();
    shared::settle(&mut context);
    context.set_cipher_list(PSK_SUITES).unwrap();
    context.set_ciphersuites(PSK_SUITES13).unwrap();
    context.set_psk_server_callback(|_, _, key| {
        for (place, byte) in key.iter_mut().zip(0..16) {
            *place = 0x11 * byte;
        }
        Ok(16)
    });
    context.set_alpn_select_callback(|_, offered| Ok(shared::select(offered, &PROTOCOLS).unwrap()));
    let ssl = Ssl::new(&context.build()).unwrap();
    let stream = ssl
        .accept(Pipe::new(socket, Deadline::after(LONG)))
        .ok()
        .unwrap();
    assert_eq!(stream.ssl().selected_alpn_protocol(), Some(PROTOCOLS[0]));
    Halves::tls(stream, LONGEST_FRAGMENT, shared::default_context).unwrap()
}

fn open(path: &SocketPath, is_tls: bool, timeout: Duration, notify: Notify) -> Connection {
    let file = path.0.with_extension("psk");
    let settings = is_tls.then(|| {
        writeln!(std::fs::File::create(&file).unwrap(), "me:{KEY}").unwrap();
        TlsSettings {
            credentials: Credentials::Psk(Source::File(file.clone())),
            pinned: None,
            name: None,
        }
    });
    let connection = Connection::open(
        &fake::daemon(path.endpoint(), settings),
        &with_timeout(timeout),
        Deadline::after(timeout),
        Purpose::Application,
        notify,
    );
    let _ = std::fs::remove_file(file);
    let connection = connection.unwrap();
    assert!(connection.negotiate(Hello::default()).unwrap().is_some());
    connection
}

/// Connects to a daemon that passes each call to `answer`.
fn connected(
    told: Told,
    timeout: Duration,
    answer: impl Fn(&Arc<Client>, Asked) + Send + 'static,
) -> Connection {
    let path = SocketPath::new();
    serve(&path, false, told, answer);
    open(&path, false, timeout, nothing_is_told())
}

fn digest(connection: &Connection, session: u64, data: &[u8]) -> Reply {
    let digest = Call::C_Digest(
        SessionHandle(session),
        Input::Bytes(data),
        Room::Buffer(1 << 30),
    );
    connection.call(digest, NullPlaces::NONE)
}

fn wait_for_slot_event(connection: &Connection) -> CkRv {
    let wait = Call::C_WaitForSlotEvent(Flags(0));
    connection.call(wait, NullPlaces::NONE).rv()
}

/// Runs `work` in `count` threads, each with its number from 1, and `meanwhile` in this one.
fn in_threads<T: Send>(
    count: u64,
    work: impl Fn(u64) -> T + Sync,
    meanwhile: impl FnOnce(),
) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (1..=count)
            .map(|number| scope.spawn(move || work(number)))
            .collect();
        meanwhile();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// Answers after this time; other calls are answered meanwhile.
fn echo_after(time: Duration, client: &Arc<Client>, asked: Asked) {
    let client = client.clone();
    thread::spawn(move || {
        thread::sleep(time);
        client.echo(&asked);
    });
}

#[test]
fn each_of_64_threads_gets_its_own_replies_in_whatever_order_they_come() {
    for is_tls in [false, true] {
        let path = SocketPath::new();
        let out = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let seen = most.clone();
        serve(
            &path,
            is_tls,
            Told { calls: 16, ..MANY },
            move |client, asked| {
                seen.fetch_max(out.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let (client, out) = (client.clone(), out.clone());
                thread::spawn(move || {
                    thread::sleep(Duration::from_micros(u64::from(asked.xid.0) % 7 * 300));
                    out.fetch_sub(1, Ordering::SeqCst);
                    client.echo(&asked);
                });
            },
        );
        let connection = open(&path, is_tls, LONG, nothing_is_told());
        in_threads(
            64,
            |session| {
                for number in 0..30 {
                    let data = vec![session as u8; [3, 700, 30_000][number % 3] + number];
                    assert!(digest(&connection, session, &data) == digest_of(&data));
                }
            },
            || (),
        );
        assert!((2..=16).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    }
}

#[test]
fn calls_of_a_session_go_out_one_after_the_other() {
    let out = Arc::new(AtomicUsize::new(0));
    let overlapping = Arc::new(AtomicBool::new(false));
    let seen = overlapping.clone();
    let connection = connected(MANY, LONG, move |client, asked| {
        if out.fetch_add(1, Ordering::SeqCst) != 0 {
            seen.store(true, Ordering::SeqCst);
        }
        let (client, out) = (client.clone(), out.clone());
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(2));
            out.fetch_sub(1, Ordering::SeqCst);
            client.echo(&asked);
        });
    });
    in_threads(
        4,
        |number| {
            for _ in 0..20 {
                let data = [number as u8; 9];
                assert!(digest(&connection, 1, &data) == digest_of(&data));
            }
        },
        || (),
    );
    assert!(!overlapping.load(Ordering::SeqCst));
}

#[test]
fn a_slow_call_delays_no_other_and_can_be_cancelled() {
    let slow: Mutex<Option<Asked>> = Mutex::new(None);
    let (begun, is_begun) = mpsc::channel();
    let connection = connected(MANY, LONG, move |client, asked| {
        if asked.session == 1 && asked.function == Function::C_Digest {
            *locked(&slow) = Some(asked);
            return begun.send(()).unwrap();
        }
        if asked.function == Function::C_SessionCancel {
            client.echo(locked(&slow).as_ref().unwrap());
        }
        client.echo(&asked);
    });
    let is_over = AtomicBool::new(false);
    in_threads(
        1,
        |session| {
            assert!(digest(&connection, session, b"slow").rv().is_ok());
            is_over.store(true, Ordering::SeqCst);
        },
        || {
            is_begun.recv().unwrap();
            for session in 2..200 {
                assert!(digest(&connection, session, b"fast").rv().is_ok());
            }
            assert!(!is_over.load(Ordering::SeqCst));
            let cancel = Call::C_SessionCancel(SessionHandle(1), Flags(0));
            assert!(connection.call(cancel, NullPlaces::NONE).rv().is_ok());
        },
    );
    assert!(is_over.load(Ordering::SeqCst));
}

/// Such a call does not count towards the limit on calls, and it may take longer than the timeout.
#[test]
fn a_thread_waits_for_a_slot_event_while_others_call() {
    let waiting = Mutex::new(None);
    let (begun, is_begun) = mpsc::channel();
    let time = Duration::from_millis(300);
    let connection = connected(Told { calls: 1, ..MANY }, time, move |client, asked| {
        if asked.function == Function::C_WaitForSlotEvent {
            *locked(&waiting) = Some(asked);
            return begun.send(()).unwrap();
        }
        if asked.data == b"event" {
            client.echo(locked(&waiting).as_ref().unwrap());
        }
        client.echo(&asked);
    });
    let events = in_threads(
        1,
        |_| wait_for_slot_event(&connection),
        || {
            is_begun.recv().unwrap();
            let started = Instant::now();
            while started.elapsed() < 2 * time {
                assert!(digest(&connection, 1, b"other").rv().is_ok());
            }
            thread::sleep(2 * time);
            assert!(digest(&connection, 1, b"event").rv().is_ok());
        },
    );
    assert_eq!(events, [CkRv::OK]);
}

/// For a module without threads: each call has its whole time although others come first.
#[test]
fn calls_that_a_daemon_executes_one_by_one_are_not_late() {
    let time = Duration::from_millis(400);
    let connection = connected(MANY, time, move |client, asked| {
        thread::sleep(time / 2);
        client.echo(&asked);
    });
    let answers = in_threads(
        6,
        |session| digest(&connection, session, b"slow").rv(),
        || (),
    );
    assert_eq!(answers, [CkRv::OK; 6]);
}

/// Makes calls of which none is answered. One thread reads, others wait for their replies, and others wait for their
/// turn.
fn unanswered(
    time: Duration,
    end: impl Fn(&Arc<Client>) + Send + 'static,
    meanwhile: impl FnOnce(&Connection),
) -> (Vec<CkRv>, Duration) {
    let count = AtomicUsize::new(0);
    let (begun, are_begun) = mpsc::channel();
    let connection = connected(Told { calls: 3, ..MANY }, time, move |client, _| {
        // Three calls that count towards the limit, and the one that waits for an event.
        if count.fetch_add(1, Ordering::SeqCst) + 1 == 4 {
            end(client);
            begun.send(()).unwrap();
        }
    });
    let started = Mutex::new(Instant::now());
    let answers = in_threads(
        8,
        |number| match number {
            1 => wait_for_slot_event(&connection),
            number => digest(&connection, number % 5, b"never").rv(),
        },
        || {
            are_begun.recv().unwrap();
            *locked(&started) = Instant::now();
            meanwhile(&connection);
        },
    );
    let took = locked(&started).elapsed();
    assert_eq!(digest(&connection, 9, b"later").rv(), answers[0]);
    (answers, took)
}

#[test]
fn the_first_call_that_is_late_ends_the_connection_for_all() {
    let time = Duration::from_millis(300);
    let (answers, took) = unanswered(time, |_| (), |_| ());
    assert_eq!(answers, [CkRv::DEVICE_ERROR; 8]);
    assert!(took < LONG / 4);
}

#[test]
fn closing_ends_all_calls_at_once() {
    let (answers, took) = unanswered(
        LONG,
        |_| (),
        |connection| {
            connection.close();
            assert!(!connection.is_lost());
        },
    );
    assert_eq!(answers, [CkRv::CRYPTOKI_NOT_INITIALIZED; 8]);
    assert!(took < LONG / 4);
}

#[test]
fn the_daemons_end_ends_all_calls_at_once() {
    let (answers, took) = unanswered(LONG, |client| client.closer.shut_down(), |_| ());
    assert_eq!(answers, [CkRv::DEVICE_ERROR; 8]);
    assert!(took < LONG / 4);
}

#[test]
fn a_malformed_reply_to_any_call_ends_the_connection() {
    for is_last in [true, false] {
        let asked_first = Mutex::new(None);
        let connection = connected(MANY, LONG, move |client, asked| {
            let mut first = locked(&asked_first);
            let Some(first) = &*first else {
                *first = Some(asked);
                return;
            };
            let xid = if is_last { asked.xid } else { first.xid };
            // The body of another type of result, in a reply that was accepted.
            client.send_words(&[xid.0, 1, 0, 0, 0, 0, 1, 2, 3]);
        });
        let answers = in_threads(
            2,
            |session| digest(&connection, session, b"data").rv(),
            || (),
        );
        assert_eq!(answers, [CkRv::DEVICE_ERROR; 2]);
        assert!(connection.is_lost());
    }
}

#[test]
fn what_answers_no_call_is_skipped() {
    let connection = connected(MANY, LONG, |client, asked| {
        let nobody = asked.xid.0 ^ 0x8000_0000;
        client.reply(Xid(nobody), digest_of(b"other"));
        client.send_words(&[nobody, 1]);
        client.send_words(&[nobody]);
        client.notify(asked.xid.0, Xid(nobody), 1);
        client.echo(&asked);
        // A second reply to the same call.
        client.reply(asked.xid, digest_of(b"second"));
    });
    let right = in_threads(
        8,
        |session| (0..50).all(|_| digest(&connection, session, b"own") == digest_of(b"own")),
        || (),
    );
    assert_eq!(right, [true; 8]);
    assert!(!connection.is_lost());
}

#[test]
fn a_record_without_an_xid_ends_the_connection() {
    for words in [&[][..], &[1]] {
        let words = words.to_vec();
        let connection = connected(MANY, Duration::from_millis(300), move |client, _| {
            client.send_words(&words)
        });
        assert_eq!(digest(&connection, 1, b"data").rv(), CkRv::DEVICE_ERROR);
    }
}

#[test]
fn a_call_over_the_daemons_limit_is_not_sent() {
    let connection = connected(
        Told {
            longest: 1000,
            ..MANY
        },
        LONG,
        |client, asked| {
            client.echo(&asked);
        },
    );
    for size in [100, 900, 1000, 100_000, 2 << 20] {
        let expected = if size < 1000 {
            CkRv::OK
        } else {
            CkRv::DATA_LEN_RANGE
        };
        assert_eq!(digest(&connection, 1, &vec![1; size]).rv(), expected);
    }
    // 10 words of header, the flags, the session, the kind of input and its length, and the room.
    let overhead = 4 * (10 + 1 + 2 + 2 + 3);
    assert_eq!(
        digest(&connection, 1, &vec![1; 1000 - overhead]).rv(),
        CkRv::OK
    );
    assert_eq!(
        digest(&connection, 1, &vec![1; 1001 - overhead]).rv(),
        CkRv::DATA_LEN_RANGE
    );
    assert!(!connection.is_lost());
}

#[test]
fn calls_are_told_to_overlap_when_they_do() {
    let overlapped = Arc::new(AtomicUsize::new(0));
    let seen = overlapped.clone();
    let connection = connected(MANY, LONG, move |client, asked| {
        seen.fetch_add(usize::from(asked.overlaps), Ordering::SeqCst);
        echo_after(Duration::from_millis(5), client, asked);
    });
    for session in 1..10 {
        digest(&connection, session, b"alone");
    }
    assert_eq!(overlapped.load(Ordering::SeqCst), 0);
    in_threads(
        2,
        |session| (0..5).for_each(|_| drop(digest(&connection, session, b"both"))),
        || (),
    );
    assert!(overlapped.load(Ordering::SeqCst) > 0);
}

#[test]
fn an_older_daemon_gets_calls_of_version_3() {
    let path = SocketPath::new();
    let listener = std::os::unix::net::UnixListener::bind(&path.0).unwrap();
    let daemon = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let Halves {
            mut receiver,
            mut sender,
            ..
        } = Halves::plain(TimedSocket::new(stream.into()));
        let peer = Peer {
            architecture: Architecture::host(),
            versions: 3..=3,
        };
        let mut records = Records::new(1000);
        let mut versions = Vec::new();
        let mut buffer = Vec::new();
        while let Ok(count @ 1..) = receiver.receive(records.space().unwrap(), None) {
            records.received(count);
            while let Some(record) = records.next().unwrap() {
                versions.push(record[19]);
                let reply;
                let sent = match rpc::read_request(record, &peer) {
                    Request::Rejected(xid, rejection) => {
                        assert_eq!(rejection, Rejection::ProgramMismatch(3, 3));
                        rpc::write_rejection(xid, rejection, &mut buffer)
                    }
                    Request::Call(incoming) => {
                        reply = Outgoing::Three(version3::Reply::C_Finalize(CkRv::OK));
                        rpc::write_reply(incoming.xid, &reply, Architecture::host(), &mut buffer)
                    }
                    Request::Unanswerable => return versions,
                };
                sender
                    .send_record(&mut sent.unwrap(), Deadline::after(LONG))
                    .unwrap();
            }
        }
        versions
    });
    let connection = Connection::open(
        &fake::daemon(path.endpoint(), None),
        &with_timeout(LONG),
        Deadline::after(LONG),
        Purpose::Application,
        nothing_is_told(),
    )
    .unwrap();
    assert!(connection.negotiate(Hello::default()).unwrap().is_none());
    let finalized = connection.call_version3(version3::Call::C_Finalize());
    assert!(finalized.rv().is_ok() && !connection.is_lost());
    connection.close();
    assert_eq!(daemon.join().unwrap(), [4, 3]);
}

/// What a callback does, with the connection over which its notification came.
type Callback = Box<dyn Fn(&Connection, SessionHandle, u64) -> CkRv + Send + Sync>;

/// Connects to a daemon that notifies in each call of session 1, and answers the call after the application has
/// answered. Returns the connection and the application's answers.
fn notifying(callback: Callback) -> (Arc<Connection>, mpsc::Receiver<CkRv>) {
    let path = SocketPath::new();
    let (told, answers) = mpsc::channel();
    let held = Mutex::new(Vec::new());
    serve(&path, false, MANY, move |client, asked| {
        if let Some(rv) = asked.notified {
            told.send(rv).unwrap();
            let mut held = locked(&held);
            let place = held
                .iter()
                .position(|held: &Asked| held.xid.0 ^ 1 == asked.xid.0);
            client.echo(&held.remove(place.unwrap()));
        } else if asked.session == 1 {
            client.notify(asked.xid.0 ^ 1, asked.xid, asked.session);
            locked(&held).push(asked);
        } else {
            client.echo(&asked);
        }
    });
    let place: Arc<std::sync::OnceLock<std::sync::Weak<Connection>>> = Arc::default();
    let own = place.clone();
    let notify = move |session, event| {
        let connection = own.get().and_then(std::sync::Weak::upgrade).unwrap();
        callback(&connection, session, event)
    };
    let connection = Arc::new(open(&path, false, LONG, Box::new(notify)));
    place.set(Arc::downgrade(&connection)).unwrap();
    (connection, answers)
}

#[test]
fn the_application_is_notified_in_the_thread_whose_call_is_executed() {
    let (threads, called) = mpsc::channel();
    let (connection, answers) = notifying(Box::new(move |_, session, event| {
        threads
            .send((thread::current().id(), session, event))
            .unwrap();
        CkRv::CANCEL
    }));
    let caller = in_threads(
        8,
        |session| {
            for _ in 0..50 {
                assert!(digest(&connection, session, b"data") == digest_of(b"data"));
            }
            thread::current().id()
        },
        || (),
    )[0];
    let called: Vec<_> = called.try_iter().collect();
    assert_eq!(called, [(caller, SessionHandle(1), 1); 50]);
    assert_eq!(answers.try_iter().collect::<Vec<_>>(), [CkRv::CANCEL; 50]);
}

/// Other threads go on meanwhile, whichever thread has read the notification.
#[test]
fn a_callback_takes_its_time_and_makes_calls_that_wait_for_nothing() {
    let (connection, answers) = notifying(Box::new(|connection, session, _| {
        connection.exchange.set_threads(true);
        let refused = digest(connection, session.0, b"own session").rv();
        assert_eq!(refused, CkRv::FUNCTION_FAILED);
        for other in 2..10 {
            assert!(digest(connection, other, b"data") == digest_of(b"data"));
        }
        thread::sleep(Duration::from_millis(100));
        CkRv::OK
    }));
    in_threads(
        2,
        |session| {
            let count = if session == 1 { 3 } else { 300 };
            for _ in 0..count {
                assert!(digest(&connection, 9 * session - 8, b"data") == digest_of(b"data"));
            }
        },
        || (),
    );
    assert_eq!(answers.try_iter().collect::<Vec<_>>(), [CkRv::OK; 3]);
}

#[test]
fn a_daemon_that_notifies_without_end_loses_its_client() {
    let connection = connected(MANY, LONG, |client, asked| {
        // In one message: the client must not have looked at the first one when the second one comes.
        let held = client.sender.hold().unwrap();
        for number in 0..3 {
            client.notify(number, asked.xid, 1);
        }
        let _ = held.send();
    });
    // A connection that has ended delivers no notification.
    assert_eq!(digest(&connection, 1, b"data").rv(), CkRv::DEVICE_ERROR);
}

/// The time that a callback takes does not count towards the timeout; all other time does.
#[test]
fn a_daemon_that_notifies_again_and_again_is_given_up_in_time() {
    for (pause, callback, is_late) in [(100, 0, true), (5, 100, false)] {
        let path = SocketPath::new();
        let count = AtomicUsize::new(0);
        let first: Mutex<Option<Asked>> = Mutex::new(None);
        serve(&path, false, MANY, move |client, asked| {
            let mut first = locked(&first);
            let asked = first.get_or_insert(asked);
            if count.fetch_add(1, Ordering::SeqCst) == 8 {
                return client.echo(asked);
            }
            thread::sleep(Duration::from_millis(pause));
            client.notify(7, asked.xid, 1);
        });
        let notify = move |_, _| {
            thread::sleep(Duration::from_millis(callback));
            CkRv::OK
        };
        let time = Duration::from_millis(400);
        let connection = open(&path, false, time, Box::new(notify));
        let expected = if is_late {
            CkRv::DEVICE_ERROR
        } else {
            CkRv::OK
        };
        assert_eq!(digest(&connection, 1, b"data").rv(), expected);
    }
}

mod landing;
