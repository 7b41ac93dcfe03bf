//! Tests that several threads can send over one connection, and in which order their records go out.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use socket2::{Domain, Socket, Type};
use xdr::Architecture;
use xdr::codec::Encoder;
use xdr::record::{MARK_SIZE, Records};

use super::*;
use crate::halves::Halves;
use crate::socket::TimedSocket;

const LONG: Duration = Duration::from_secs(60);

/// A sender at one end of a connection, and the other end.
fn connected(time: Duration) -> (SharedSender, Socket) {
    let (near, far) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
    let halves = Halves::plain(TimedSocket::new(near));
    (SharedSender::new(halves.sender, time), far)
}

/// A record of these words, and of a byte string that is sent in place if it is long.
fn record<'b>(words: [u32; 2], value: &'b [u8], buffer: &'b mut Vec<u8>) -> Slices<'b> {
    let mut encoder = Encoder::new(buffer, Architecture::host());
    words.iter().for_each(|word| encoder.word(*word));
    encoder.opaque(value);
    encoder.finish().unwrap()
}

fn send(shared: &SharedSender, words: [u32; 2], value: &[u8]) -> io::Result<()> {
    shared.send(&mut record(words, value, &mut Vec::new()), || {
        Ok(shared.deadline())
    })
}

fn gather_and_send(shared: &SharedSender, words: [u32; 2], value: &[u8]) -> io::Result<()> {
    shared.gather_and_send(&mut record(words, value, &mut Vec::new()), || {
        Ok(shared.deadline())
    })
}

/// Returns the words of every record until the end. Their byte strings have to be what [`value`] says.
fn read_all(mut far: &Socket) -> Vec<[u32; 2]> {
    let mut records = Records::new(1 << 20);
    let mut all = Vec::new();
    loop {
        while let Some(record) = records.next().unwrap() {
            let words = [0, 4].map(|at| u32::from_be_bytes(record[at..at + 4].try_into().unwrap()));
            assert!(record[12..].starts_with(&value(words)));
            all.push(words);
        }
        match far.read(records.space().unwrap()).unwrap() {
            0 => return all,
            count => records.received(count),
        }
    }
}

/// Returns a value that is short for most records, and long for some.
fn value([thread, number]: [u32; 2]) -> Vec<u8> {
    let length = if number % 50 == 7 { 300_000 } else { 40 };
    vec![(thread * 31 + number) as u8; length]
}

/// Holds the turn until the peer is read from.
fn with_turn_taken(shared: &SharedSender, far: &Socket, then: impl FnOnce()) -> io::Result<()> {
    let begun = AtomicBool::new(false);
    thread::scope(|scope| {
        let flag = &begun;
        let first = scope.spawn(move || {
            let value = vec![0; 4 << 20];
            shared.send(&mut record([0, 0], &value, &mut Vec::new()), || {
                flag.store(true, Ordering::SeqCst);
                Ok::<_, io::Error>(shared.deadline())
            })
        });
        while !begun.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        then();
        drain(far, 4 << 20);
        first.join().unwrap()
    })
}

fn drain(mut far: &Socket, count: usize) {
    far.read_exact(&mut vec![0; count]).unwrap();
}

#[test]
fn records_of_many_threads_arrive_whole_and_in_the_order_of_each() {
    const THREADS: u32 = 8;
    const RECORDS: u32 = 400;
    let (shared, far) = connected(LONG);
    let all = thread::scope(|scope| {
        let reading = scope.spawn(|| read_all(&far));
        let shared = &shared;
        let sending: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    for number in 0..RECORDS {
                        let words = [thread, number];
                        let send = if number % 3 == 0 {
                            send
                        } else {
                            gather_and_send
                        };
                        send(shared, words, &value(words)).unwrap();
                    }
                })
            })
            .collect();
        sending.into_iter().for_each(|it| it.join().unwrap());
        shared.state().idle = None;
        reading.join().unwrap()
    });
    for thread in 0..THREADS {
        let numbers = all.iter().filter(|words| words[0] == thread);
        assert!(numbers.map(|words| words[1]).eq(0..RECORDS));
    }
}

#[test]
fn short_records_are_left_with_the_thread_that_sends() {
    let (shared, far) = connected(LONG);
    let sent = with_turn_taken(&shared, &far, || {
        for number in 0..5 {
            send(&shared, [1, number], &value([1, number])).unwrap();
        }
    });
    sent.unwrap();
    // What is left of the first record is its words, its length and its mark.
    drain(&far, 12 + MARK_SIZE);
    shared.state().idle = None;
    assert!(read_all(&far).iter().map(|words| words[1]).eq(0..5));
}

#[test]
fn no_thread_is_kept_sending_for_others() {
    let (shared, far) = connected(LONG);
    let is_over = AtomicBool::new(false);
    let waited = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (shared, is_over, waited) = (&shared, &is_over, &waited);
        let reading = scope.spawn(|| read_all(&far).len());
        // A record is left each time that the sender looks for one.
        let others: Vec<_> = (1..4)
            .map(|thread| {
                scope.spawn(move || {
                    while !is_over.load(Ordering::SeqCst) {
                        send(shared, [thread, 1], &value([thread, 1])).unwrap();
                        waited.fetch_max(shared.state().waiting, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for _ in 0..200 {
            send(shared, [0, 1], &value([0, 1])).unwrap();
            assert!(shared.state().rounds <= ROUNDS);
        }
        is_over.store(true, Ordering::SeqCst);
        others.into_iter().for_each(|it| it.join().unwrap());
        shared.state().idle = None;
        assert!(reading.join().unwrap() >= 200);
    });
    let state = &mut *shared.state();
    state.rounds = 0;
    assert!(!state.has_room(1));
    state.rounds = 1;
    assert!(state.has_room(SHORT) && !state.has_room(SHORT + 1));
    state.left = vec![0; MOST_LEFT];
    assert!(!state.has_room(1));
}

/// Neither threads that come later nor those that wait can send, and nothing that was left stays in memory.
#[test]
fn after_a_failure_nobody_sends() {
    let (shared, far) = connected(Duration::from_secs(1));
    let long = vec![1; 4 << 20];
    thread::scope(|scope| {
        let shared = &shared;
        let first = scope.spawn(|| send(shared, [0, 0], &long));
        while shared.state().idle.is_some() {
            thread::yield_now();
        }
        send(shared, [1, 1], &value([1, 1])).unwrap();
        let second = scope.spawn(|| send(shared, [2, 2], &long));
        let error = first.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let error = second.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    });
    assert!(send(&shared, [3, 3], &[]).is_err());
    assert!(shared.state().left.is_empty());
    drop(far);
}

#[test]
fn what_does_not_begin_is_not_sent_and_others_are() {
    let (shared, far) = connected(LONG);
    let refuse = || Err(io::Error::other("no"));
    let is_refused = |words| {
        let mut buffer = Vec::new();
        let sent = shared.send(&mut record(words, &value(words), &mut buffer), refuse);
        sent.unwrap_err().kind() == io::ErrorKind::Other
    };
    assert!(is_refused([1, 1]));
    let sent = with_turn_taken(&shared, &far, || {
        assert!(is_refused([1, 2]));
        send(&shared, [1, 3], &value([1, 3])).unwrap();
    });
    sent.unwrap();
    drain(&far, 12 + MARK_SIZE);
    send(&shared, [1, 4], &value([1, 4])).unwrap();
    shared.state().idle = None;
    assert!(read_all(&far).iter().map(|words| words[1]).eq([3, 4]));
}

#[test]
fn a_thread_that_holds_the_turn_sends_what_others_leave_with_it() {
    let (shared, far) = connected(LONG);
    let held = shared.hold().unwrap();
    assert!(shared.hold().is_none());
    for number in 0..5 {
        send(&shared, [1, number], &value([1, number])).unwrap();
    }
    far.set_nonblocking(true).unwrap();
    let nothing = (&far).read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    held.send().unwrap();
    far.set_nonblocking(false).unwrap();
    send(&shared, [2, 0], &value([2, 0])).unwrap();
    // This comes last, because a turn that is dropped without sending makes the sender fail for good.
    drop(shared.hold());
    assert!(shared.hold().is_none());
    assert!(send(&shared, [3, 0], &value([3, 0])).is_err());
    drop(shared);
    let one = (0..5).map(|number| [1, number]);
    assert_eq!(read_all(&far), one.chain([[2, 0]]).collect::<Vec<_>>());
}

#[test]
fn who_waits_for_the_end_of_sending_finds_everything_sent() {
    let (shared, far) = connected(LONG);
    shared.finish();
    let held = shared.hold().unwrap();
    send(&shared, [1, 1], &value([1, 1])).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                shared.finish();
                assert!(is_over.load(Ordering::SeqCst));
            });
        }
        while shared.state().waiting < 2 {
            thread::yield_now();
        }
        is_over.store(true, Ordering::SeqCst);
        held.send().unwrap();
    });
    drop(shared);
    assert_eq!(read_all(&far), [[1, 1]]);
}

#[test]
fn what_others_leave_with_a_thread_that_gathers_goes_out_behind_its_record() {
    let (shared, far) = connected(LONG);
    far.set_nonblocking(true).unwrap();
    let (value_of_own, mut buffer) = (value([1, 0]), Vec::new());
    let mut own = record([1, 0], &value_of_own, &mut buffer);
    let pause = || {
        for number in [1, 2] {
            send(&shared, [1, number], &value([1, number])).unwrap();
        }
        let nothing = (&far).read(&mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    };
    let begin = || Ok::<_, io::Error>(shared.deadline());
    shared.send_as(&mut own, begin, Some(&pause)).unwrap();
    far.set_nonblocking(false).unwrap();
    shared.state().idle = None;
    assert!(read_all(&far).iter().map(|words| words[1]).eq(0..3));
}

#[test]
fn a_thread_that_gathers_sends_its_own_record_at_least() {
    let (shared, far) = connected(LONG);
    for number in [0, 1, 7] {
        gather_and_send(&shared, [1, number], &value([1, number])).unwrap();
    }
    let begin = || Err::<Deadline, _>(io::Error::from(io::ErrorKind::Interrupted));
    let (value, mut buffer) = (value([1, 2]), Vec::new());
    let mut unwanted = record([1, 2], &value, &mut buffer);
    assert!(shared.gather_and_send(&mut unwanted, begin).is_err());
    shared.state().idle = None;
    assert!(read_all(&far).iter().map(|words| words[1]).eq([0, 1, 7]));
    let (shared, far) = connected(LONG);
    drop(far);
    assert!(gather_and_send(&shared, [1, 1], b"").is_err());
    assert!(send(&shared, [1, 2], b"").is_err() && shared.hold().is_none());
}
