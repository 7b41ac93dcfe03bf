//! Changes every word of the calls and replies that are sent between our client and daemon.
//!
//! A relay stands between them and records each message. For each recorded call, each word gets other values, one at a
//! time, and a worker gets the call: it must survive. In replies, some words get another value: the application must
//! survive, and nothing may be written where it gave no room.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use xdr::record::{Records, mark_of_one_fragment};
use xdr::rpc::{self, Xid};
use xdr::{Call, CkRv, Flags, Function, Hello, Reply, SlotId, Ulong};

use super::pairs::{Way, pair};
use super::recorder;
use super::support::Token;
use super::support::compile::{module, program};
use super::support::processes::run;
use super::transcript::Transcript;

/// Longer than any record here.
const LIMIT: usize = 8 << 20;

/// What becomes of each record that passes: `true` for calls.
type Passing = Arc<dyn Fn(bool, &mut Vec<u8>) + Send + Sync>;

/// Stands before the daemon at this address; gives its own.
fn relay(daemon: String, passing: Passing) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(client), Ok(daemon)) = (client, TcpStream::connect(&daemon)) else {
                return;
            };
            for (from, to, is_call) in [(&client, &daemon, true), (&daemon, &client, false)] {
                let (from, to) = (from.try_clone(), to.try_clone());
                let passing = passing.clone();
                thread::spawn(move || pass(from?, to?, &*passing, is_call));
            }
        }
    });
    address
}

/// Passes records on until one side closes.
fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    passing: &dyn Fn(bool, &mut Vec<u8>),
    is_call: bool,
) -> io::Result<()> {
    let mut records = Records::new(LIMIT);
    while let Some(mut record) = receive(&mut from, &mut records)? {
        passing(is_call, &mut record);
        to.write_all(&marked(&record))?;
    }
    to.shutdown(std::net::Shutdown::Write)
}

/// The next record; `None` at the end.
fn receive(from: &mut TcpStream, records: &mut Records) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(record) = records.next().map_err(io::Error::other)? {
            return Ok(Some(record.to_vec()));
        }
        match from.read(records.space()?)? {
            0 => return Ok(None),
            count => records.received(count),
        }
    }
}

fn marked(record: &[u8]) -> Vec<u8> {
    let mark = mark_of_one_fragment(record.len()).expect("short");
    [&mark[..], record].concat()
}

/// One client of the daemon, initialised and with a session.
struct Client {
    stream: TcpStream,
    records: Records,
    xid: u32,
}

impl Client {
    fn new(address: &str) -> Client {
        let stream = TcpStream::connect(address).expect("the daemon listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a time");
        let records = Records::new(LIMIT);
        let mut client = Client {
            stream,
            records,
            xid: 0xf000_0000,
        };
        let hello = Hello {
            longest_record: Ulong(1 << 30),
            parallel_calls: Ulong(16),
            ..Default::default()
        };
        for call in [
            Call::C_SetupArch(hello),
            Call::C_LoadModule(b"softhsm"),
            Call::C_Initialize(Flags(2)),
            Call::C_OpenSession(SlotId(5), Flags(6), false),
            Call::C_OpenSession(SlotId(5), Flags(6), false),
        ] {
            assert_eq!(client.call(&call), Some(CkRv::OK));
        }
        client
    }

    /// What a call is answered; `None` when the daemon has closed the connection.
    fn call(&mut self, call: &Call<'_>) -> Option<CkRv> {
        self.xid += 1;
        let mut buffer = Vec::new();
        let record = rpc::write_call(Xid(self.xid), call, false, &mut buffer).expect("short");
        self.stream.write_all(&record.to_vec()).ok()?;
        // Replies to changed calls may come before.
        while let Some(record) = match receive(&mut self.stream, &mut self.records) {
            Ok(record) => record,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{}: {error}", call.function().name()),
        } {
            let reply = rpc::read_reply::<Call<'_>>(Xid(self.xid), call.function(), &record);
            if let Some(reply) = reply {
                let reply: Reply = reply.expect("a reply as it should be");
                return Some(reply.rv());
            }
        }
        None
    }

    /// Sends a changed call; whether the connection goes on.
    fn survives(&mut self, record: &[u8]) -> bool {
        if self.stream.write_all(&marked(record)).is_err() {
            return false;
        }
        self.call(&Call::C_GetSessionInfo(xdr::SessionHandle(1))) == Some(CkRv::OK)
    }
}

/// Values that a word takes in the place of this one.
fn lies(word: u32) -> impl Iterator<Item = u32> {
    const EXTREMES: [u32; 9] = [
        0,
        1,
        2,
        4,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fffc,
        u32::MAX,
        0x10_0000,
    ];
    let near = [
        word.wrapping_add(1),
        word.wrapping_sub(1),
        word.swap_bytes(),
    ];
    let all = EXTREMES.into_iter().chain(near);
    all.filter(move |other| *other != word)
}

/// The procedure of a call.
fn procedure(call: &[u8]) -> Option<Function> {
    let number = call.get(20..24)?.try_into().ok()?;
    Function::from_number(u32::from_be_bytes(number))
}

/// Sections whose calls come back at once.
fn sections() -> Vec<&'static str> {
    let all = recorder::SECTIONS.iter().copied();
    all.filter(|section| *section != "events").collect()
}

/// Changes this many calls of each function, which differ in length.
fn change_calls(lengths: usize) {
    let mut pair = pair(module("recorder"), Way::Tcp, Token::new(), []);
    let seen: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let noted = seen.clone();
    let passing: Passing = Arc::new(move |is_call, record| {
        if is_call {
            noted.lock().expect("no panic").push(record.clone());
        }
    });
    let daemon = pair.daemon().address();
    let address = relay(daemon.clone(), passing);
    for section in sections() {
        let mut command = pair.command(program("exact"));
        command.env("PKCS11PROXY_SOCKET_PATH", &address);
        command.arg(pair.library.path()).arg(section);
        assert!(run(command, Duration::from_secs(60)).status.success());
    }
    // Calls of each function that differ in length.
    let mut calls: BTreeMap<(u32, usize), Vec<u8>> = BTreeMap::new();
    for call in seen.lock().expect("no panic").drain(..) {
        let number = procedure(&call).map_or(0, Function::number);
        calls.entry((number, call.len())).or_insert(call);
    }
    let mut taken: BTreeMap<u32, usize> = BTreeMap::new();
    calls.retain(|(number, _), _| {
        let count = taken.entry(*number).or_default();
        *count += 1;
        *count <= lengths
    });
    assert!(taken.len() > 85, "{} functions were called", taken.len());

    let mut client = Client::new(&daemon);
    let (mut sent, mut ended) = (0, 0);
    for call in calls.values() {
        for at in (0..call.len() - 3).step_by(4) {
            let word = u32::from_be_bytes(call[at..at + 4].try_into().expect("four bytes"));
            for lie in lies(word) {
                let mut changed = call.clone();
                changed[at..at + 4].copy_from_slice(&lie.to_be_bytes());
                sent += 1;
                if !client.survives(&changed) {
                    ended += 1;
                    client = Client::new(&daemon);
                }
            }
        }
        for length in (0..call.len()).step_by(4) {
            sent += 1;
            if !client.survives(&call[..length]) {
                ended += 1;
                client = Client::new(&daemon);
            }
        }
    }
    assert!(sent > 20_000, "{sent} changed calls");
    // Those that finalised, closed the session or were no call at all.
    assert!(ended < sent / 4, "{ended} of {sent} ended their connection");
    let log = pair.daemon().log();
    for sign in ["by signal", "internal error", "panicked"] {
        let found: Vec<&str> = log
            .lines()
            .filter(|line| line.contains(sign))
            .take(5)
            .collect();
        assert!(found.is_empty(), "{found:#?}");
    }
}

/// Numbers that are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }
}

#[test]
fn no_changed_call_ends_a_worker() {
    change_calls(2);
}

#[test]
#[ignore = "soak: make soak"]
fn none_of_many_changed_calls_ends_a_worker() {
    change_calls(usize::MAX);
}

/// Runs each section this many times.
fn change_replies(rounds: usize) {
    let mut pair = pair(module("recorder"), Way::Tcp, Token::new(), []);
    let numbers = Mutex::new(Numbers(0x9e37_79b9_7f4a_7c15));
    let changed = Arc::new(Mutex::new(0));
    let count = changed.clone();
    let passing: Passing = Arc::new(move |is_call, record| {
        let mut numbers = numbers.lock().expect("no panic");
        if is_call || numbers.below(12) > 0 || record.len() < 4 {
            return;
        }
        let at = numbers.below(record.len() / 4) * 4;
        let word = u32::from_be_bytes(record[at..at + 4].try_into().expect("four bytes"));
        let lies: Vec<u32> = lies(word).collect();
        let lie = lies[numbers.below(lies.len())];
        record[at..at + 4].copy_from_slice(&lie.to_be_bytes());
        *count.lock().expect("no panic") += 1;
    });
    let address = relay(pair.daemon().address(), passing);
    for _ in 0..rounds {
        for section in sections() {
            let mut command = pair.command(program("exact"));
            command
                .env("PKCS11PROXY_SOCKET_PATH", &address)
                .env("PKCS11PROXY_RPC_TIMEOUT", "1");
            command.arg(pair.library.path()).arg(section);
            let outcome = run(command, Duration::from_secs(60));
            assert!(
                outcome.status.code().is_some(),
                "{section}: {}",
                outcome.status
            );
            let transcript = Transcript::of(&outcome.stdout);
            assert_eq!(transcript.faults(), Vec::<&String>::new(), "{section}");
        }
    }
    let changed = *changed.lock().expect("no panic");
    assert!(changed > 25 * rounds, "{changed} replies were changed");
}

#[test]
fn no_changed_reply_harms_the_application() {
    change_replies(2);
}

#[test]
#[ignore = "soak: make soak"]
fn none_of_many_changed_replies_harms_the_application() {
    change_replies(40);
}
