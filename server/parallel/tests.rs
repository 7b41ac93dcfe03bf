//! Tests the order of calls, the number of threads, and what happens when a client leaves or notifies.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use xdr::codec::Slices;
use xdr::record::MARK_SIZE;
use xdr::rpc::{Peer, Xid};
use xdr::{Architecture, CkRv, Cryptoki, Flags, Input, Reply, Room};

use bindings::module::notify::Notifier;

use super::*;
use crate::record_memory::Budget;

/// Longer than anything here takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads bytes from a channel, and end of file when its sender is dropped.
struct FromChannel {
    channel: Receiver<Vec<u8>>,
    rest: Vec<u8>,
}

impl Incoming for FromChannel {
    fn read(&mut self, space: &mut [u8], _: bool) -> io::Result<usize> {
        if self.rest.is_empty() {
            match self.channel.recv() {
                Ok(bytes) => self.rest = bytes,
                Err(_) => return Ok(0),
            }
        }
        let count = self.rest.len().min(space.len());
        space[..count].copy_from_slice(&self.rest[..count]);
        self.rest.drain(..count);
        Ok(count)
    }

    fn rest(&mut self) {}
}

/// The xid of a call whose reply the client takes only when the test says so.
const TAKEN_LATE: u32 = 1000;

/// Passes the xid of each reply to the test.
struct ToChannel {
    replies: Sender<u32>,
    take: Mutex<Receiver<()>>,
    /// The xids of the replies for which others were let go first.
    gathered: Arc<Mutex<Vec<u32>>>,
}

impl Outgoing for ToChannel {
    fn send(&self, slices: Slices<'_>) -> io::Result<()> {
        let record = slices.to_vec();
        let xid = rpc::xid_of(&record[MARK_SIZE..]).map_err(io::Error::other)?;
        if xid.0 == TAKEN_LATE {
            let _ = lock(&self.take).recv();
        }
        self.replies.send(xid.0).map_err(io::Error::other)
    }

    fn gather_and_send(&self, slices: Slices<'_>) -> io::Result<()> {
        let record = slices.to_vec();
        let xid = rpc::xid_of(&record[MARK_SIZE..]).map_err(io::Error::other)?;
        lock(&self.gathered).push(xid.0);
        self.send(slices)
    }

    fn finish(&self) {}

    fn shut_down(&self) {}
}

/// The data of a C_Sign that waits until something is sent.
const UNTIL_EVENT: u8 = 255;

/// C_Sign takes as long as its data says, in milliseconds; it fails if two run in one session. A
/// C_WaitForSlotEvent waits until something is sent.
struct Module {
    running: Mutex<Vec<SessionHandle>>,
    most: AtomicUsize,
    event: Mutex<Receiver<()>>,
    order: Mutex<Vec<Vec<u8>>>,
    notifies: AtomicBool,
    notifier: Mutex<Option<Notifier>>,
    /// Makes the next threads panic that ask who the client is.
    panics: AtomicBool,
}

impl Module {
    fn notify(&self, session: SessionHandle) -> CkRv {
        let notifier = lock(&self.notifier).clone();
        notifier.expect("installed")(session, Ulong(0))
    }
}

impl Cryptoki for Module {
    fn call(&self, call: Call<'_>) -> Reply {
        match call {
            Call::C_Sign(session, input, _) => {
                let is_alone = {
                    let mut running = lock(&self.running);
                    let is_alone = !running.contains(&session);
                    running.push(session);
                    self.most.fetch_max(running.len(), Ordering::SeqCst);
                    is_alone
                };
                lock(&self.order).push(input.bytes().to_vec());
                match input.bytes().first().copied().unwrap_or_default() {
                    UNTIL_EVENT => {
                        let _ = lock(&self.event).recv();
                    }
                    millis => thread::sleep(Duration::from_millis(millis.into())),
                }
                let mut running = lock(&self.running);
                let place = running.iter().position(|it| *it == session).unwrap();
                running.remove(place);
                assert!(is_alone, "two calls of one session at a time");
                Reply::only(Function::C_Sign, CkRv::OK)
            }
            Call::C_WaitForSlotEvent(_) => {
                let _ = lock(&self.event).recv();
                Reply::only(Function::C_WaitForSlotEvent, CkRv::OK)
            }
            // Asks the application whether to go on.
            Call::C_SignFinal(session, _) => {
                Reply::only(Function::C_SignFinal, self.notify(session))
            }
            call => Reply::only(call.function(), CkRv::OK),
        }
    }
}

impl Served for Module {
    fn notifies(&self) -> bool {
        self.notifies.load(Ordering::SeqCst)
    }

    fn notify_through(&self, notifier: Notifier) {
        *lock(&self.notifier) = Some(notifier);
    }

    fn peer(&self) -> Peer {
        assert!(!self.panics.load(Ordering::SeqCst), "as the test wants");
        Peer {
            architecture: Architecture::host(),
            versions: 3..=4,
        }
    }
}

/// A client of a connection that is served in a thread.
struct Client {
    calls: Option<Sender<Vec<u8>>>,
    replies: Receiver<u32>,
    event: Sender<()>,
    take: Sender<()>,
    gathered: Arc<Mutex<Vec<u32>>>,
    module: Arc<Module>,
    served: Option<thread::JoinHandle<Result<(), ConnectionError>>>,
}

impl Client {
    fn new(parallel_calls: usize) -> Client {
        let budget = Budget::new(64 << 20, 1).unwrap();
        Client::with_memory(parallel_calls, budget.share(0))
    }

    /// Large calls take memory of this share.
    fn with_memory(parallel_calls: usize, share: Share) -> Client {
        let ((calls, channel), (sent, replies)) = (self::channel(), self::channel());
        let ((event, events), (take, taken)) = (self::channel(), self::channel());
        let outgoing = ToChannel {
            replies: sent,
            take: Mutex::new(taken),
            gathered: Arc::default(),
        };
        let gathered = outgoing.gathered.clone();
        let module = Arc::new(Module {
            running: Mutex::default(),
            most: AtomicUsize::new(0),
            event: Mutex::new(events),
            order: Mutex::default(),
            notifies: AtomicBool::new(false),
            notifier: Mutex::default(),
            panics: AtomicBool::new(false),
        });
        let limits = Limits {
            record_size: 32 << 20,
            record_time: PATIENCE,
            parallel_calls,
        };
        let served = module.clone();
        let incoming = FromChannel {
            channel,
            rest: Vec::new(),
        };
        let served = thread::spawn(move || serve(incoming, outgoing, served, limits, share));
        Client {
            calls: Some(calls),
            replies,
            event,
            take,
            gathered,
            module,
            served: Some(served),
        }
    }

    fn send(&self, xid: u32, call: &Call<'_>, overlaps: bool) {
        let mut buffer = Vec::new();
        let record = rpc::write_call(Xid(xid), call, overlaps, &mut buffer);
        let record = record.unwrap().to_vec();
        self.calls.as_ref().unwrap().send(record).unwrap();
    }

    fn sign(&self, xid: u32, session: u64, millis: u8, overlaps: bool) {
        self.sign_long(xid, session, millis, overlaps, 2);
    }

    fn sign_long(&self, xid: u32, session: u64, millis: u8, overlaps: bool, length: usize) {
        let mut data = vec![0; length];
        data[..2].copy_from_slice(&[millis, xid as u8]);
        let (session, room) = (SessionHandle(session), Room::Buffer(64));
        self.send(
            xid,
            &Call::C_Sign(session, Input::Bytes(&data), room),
            overlaps,
        );
    }

    fn replies(&self, count: usize) -> Vec<u32> {
        let next = |_| self.replies.recv_timeout(PATIENCE).expect("a reply");
        (0..count).map(next).collect()
    }

    /// Closes the connection, and returns the result of [`serve`].
    fn leave(mut self) -> Result<(), ConnectionError> {
        self.calls = None;
        let served = self.served.take().unwrap();
        let start = Instant::now();
        while !served.is_finished() {
            assert!(start.elapsed() < PATIENCE, "the connection does not end");
            thread::sleep(Duration::from_millis(1));
        }
        served.join().unwrap()
    }

    fn most_at_once(&self) -> usize {
        self.module.most.load(Ordering::SeqCst)
    }
}

#[test]
fn calls_that_do_not_overlap_are_executed_by_one_thread() {
    let client = Client::new(16);
    for xid in 0..20 {
        client.sign(xid, xid.into(), 0, false);
    }
    assert_eq!(client.replies(20), (0..20).collect::<Vec<_>>());
    assert_eq!(client.most_at_once(), 1);
    assert!(client.leave().is_ok());
}

#[test]
fn a_slow_call_delays_no_other_session() {
    let client = Client::new(2);
    client.sign(1, 1, 250, true);
    for xid in 2..12 {
        client.sign(xid, xid.into(), 0, true);
    }
    assert_eq!(client.replies(10), (2..12).collect::<Vec<_>>());
    assert_eq!(client.replies(1), [1]);
    assert!(client.leave().is_ok());
}

#[test]
fn no_more_calls_than_allowed_are_executed_at_a_time() {
    for parallel_calls in [1, 3] {
        let client = Client::new(parallel_calls);
        for xid in 0..12 {
            client.sign(xid, xid.into(), 20, true);
        }
        let mut replies = client.replies(12);
        replies.sort();
        assert_eq!(replies, (0..12).collect::<Vec<_>>());
        assert_eq!(client.most_at_once(), parallel_calls);
        assert!(client.leave().is_ok());
    }
}

#[test]
fn calls_of_one_session_keep_their_order() {
    let client = Client::new(8);
    for xid in 0..40 {
        client.sign(xid, 1, 1, true);
    }
    let mut replies = client.replies(40);
    replies.sort();
    assert_eq!(replies, (0..40).collect::<Vec<_>>());
    let order: Vec<u8> = lock(&client.module.order)
        .iter()
        .map(|data| data[1])
        .collect();
    assert_eq!(order, (0..40).collect::<Vec<_>>());
    assert!(client.leave().is_ok());
}

#[test]
fn a_reply_waits_for_others_only_while_other_calls_are_executed() {
    let client = Client::new(3);
    // A call is over only a moment after its reply.
    let until_it_is_over = || thread::sleep(Duration::from_millis(200));
    client.sign(1, 1, UNTIL_EVENT, true);
    client.sign(2, 2, 0, true);
    assert_eq!(client.replies(1), [2]);
    until_it_is_over();
    client.event.send(()).unwrap();
    assert_eq!(client.replies(1), [1]);
    until_it_is_over();
    client.sign(3, 3, 0, false);
    assert_eq!(client.replies(1), [3]);
    assert_eq!(*lock(&client.gathered), [2]);
    assert!(client.leave().is_ok());
}

/// A thread may have to send for others after its own reply.
#[test]
fn a_reply_that_is_taken_late_delays_no_call_of_its_session() {
    let client = Client::new(8);
    client.sign(TAKEN_LATE, 1, 0, true);
    client.sign(1, 1, 0, true);
    assert_eq!(client.replies(1), [1]);
    client.take.send(()).unwrap();
    assert_eq!(client.replies(1), [TAKEN_LATE]);
    assert!(client.leave().is_ok());
}

/// The client says that its second call does not overlap, although the first is still being executed.
#[test]
fn a_call_that_claims_to_be_alone_waits_for_its_session() {
    let client = Client::new(8);
    client.sign(1, 1, 100, true);
    client.sign(2, 1, 0, false);
    let mut replies = client.replies(2);
    replies.sort();
    assert_eq!(replies, [1, 2]);
    assert!(client.leave().is_ok());
}

#[test]
fn waiting_for_a_slot_event_occupies_nothing() {
    let client = Client::new(1);
    client.send(1, &Call::C_WaitForSlotEvent(Flags(0)), false);
    for xid in 2..6 {
        client.sign(xid, 1, 0, false);
    }
    assert_eq!(client.replies(4), [2, 3, 4, 5]);
    client.event.send(()).unwrap();
    assert_eq!(client.replies(1), [1]);
    // Nor does it keep a connection that its client has left.
    client.send(7, &Call::C_WaitForSlotEvent(Flags(0)), false);
    assert!(client.leave().is_ok());
}

/// A record keeps its memory until its call has been executed. The record that is received meanwhile takes its own.
#[test]
fn large_calls_that_overlap_take_of_the_budget_together() {
    const LENGTH: usize = 5 << 20;
    let budget = Budget::new(8 << 20, 1).unwrap();
    let client = Client::with_memory(4, budget.share(0));
    client.sign_long(1, 1, UNTIL_EVENT, true, LENGTH);
    // Refused, because of the first one.
    client.sign_long(2, 2, 0, true, LENGTH);
    client.sign(3, 3, 0, true);
    let mut replies = client.replies(2);
    replies.sort();
    assert_eq!(replies, [2, 3]);
    client.event.send(()).unwrap();
    assert_eq!(client.replies(1), [1]);
    let executed = || -> Vec<u8> {
        let order = lock(&client.module.order);
        // Without the call that ended the operation of the refused one.
        let numbers = order.iter().filter_map(|data| data.get(1).copied());
        numbers.collect()
    };
    assert_eq!(executed(), [1, 3]);
    client.sign_long(4, 2, 0, true, LENGTH);
    assert_eq!(client.replies(1), [4]);
    assert_eq!(executed(), [1, 3, 4]);
    assert!(client.leave().is_ok());
}

/// No other thread reads while such a call is executed.
#[test]
fn calls_without_memory_for_a_copy_are_executed_nonetheless() {
    const LENGTH: usize = 100 << 10;
    let budget = Budget::new(8 << 20, 2).unwrap();
    let mut other = Portion::new(budget.share(1));
    assert!(other.take(8 << 20));
    let client = Client::with_memory(64, budget.share(0));
    for xid in 0..40 {
        client.sign_long(xid, (xid % 30).into(), 20, true, LENGTH);
    }
    let mut replies = client.replies(40);
    replies.sort();
    assert_eq!(replies, (0..40).collect::<Vec<_>>());
    assert_eq!(lock(&client.module.order).len(), 40);
    // Each worker may use 2 MiB that do not count.
    let most = client.most_at_once();
    assert!((2..=22).contains(&most), "{most}");
    assert!(client.leave().is_ok());
}

#[test]
fn calls_in_progress_are_waited_for_when_the_client_leaves() {
    let client = Client::new(4);
    client.sign(1, 1, 200, true);
    client.sign(2, 2, 200, true);
    client.sign(3, 3, 0, true);
    assert_eq!(client.replies(1), [3]);
    let module = client.module.clone();
    assert!(client.leave().is_ok());
    assert!(lock(&module.running).is_empty());
}

#[test]
fn a_panic_ends_the_connection() {
    for overlaps in [false, true] {
        let client = Client::new(4);
        client.sign(1, 1, 50, true);
        client.module.panics.store(true, Ordering::SeqCst);
        client.sign(2, 2, 0, overlaps);
        let ended = client.leave();
        assert!(matches!(ended, Err(ConnectionError::Internal)));
    }
}

#[test]
fn waiting_calls_are_bounded() {
    let client = Client::new(1);
    for xid in 0..2 * MOST_WAITING as u32 {
        client.send(xid, &Call::C_WaitForSlotEvent(Flags(0)), false);
    }
    // Calls over the bound are answered with CKR_DEVICE_MEMORY.
    assert_eq!(client.replies(MOST_WAITING).len(), MOST_WAITING);
    client.sign(9999, 1, 0, false);
    assert_eq!(client.replies(1), [9999]);
    assert!(client.leave().is_ok());
}

impl Client {
    fn ask_whether_to_go_on(&self, xid: u32, session: u64) {
        let call = Call::C_SignFinal(SessionHandle(session), Room::Buffer(64));
        self.send(xid, &call, false);
    }

    fn answer(&self, xid: u32, rv: CkRv) {
        let mut buffer = Vec::new();
        let record = rpc::write_notified(Xid(xid), rv, &mut buffer)
            .unwrap()
            .to_vec();
        self.calls.as_ref().unwrap().send(record).unwrap();
    }
}

/// The client's answers are read although every call that may be executed waits for one.
#[test]
fn calls_wait_for_what_the_application_answers() {
    for parallel_calls in [1, 4] {
        let client = Client::new(parallel_calls);
        client.module.notifies.store(true, Ordering::SeqCst);
        let count = u32::try_from(parallel_calls).unwrap();
        for number in 0..count {
            client.ask_whether_to_go_on(100 + number, number.into());
        }
        // The xids of the notifications, which the daemon chooses.
        let mut asked = client.replies(parallel_calls);
        asked.sort();
        assert_eq!(asked, (0..count).collect::<Vec<_>>());
        // An answer without a question.
        client.answer(77, CkRv::OK);
        for xid in asked {
            client.answer(xid, CkRv::CANCEL);
        }
        let mut replies = client.replies(parallel_calls);
        replies.sort();
        assert_eq!(replies, (100..100 + count).collect::<Vec<_>>());
        assert!(client.leave().is_ok());
    }
}

#[test]
fn what_is_notified_between_calls_comes_with_the_next_call_of_the_session() {
    let client = Client::new(2);
    client.module.notifies.store(true, Ordering::SeqCst);
    client.sign(1, 5, 0, false);
    assert_eq!(client.replies(1), [1]);
    assert_eq!(client.module.notify(SessionHandle(5)), CkRv::OK);
    client.sign(2, 6, 0, false);
    assert_eq!(client.replies(1), [2]);
    client.sign(3, 5, 0, false);
    assert_eq!(client.replies(1), [0]);
    client.answer(0, CkRv::OK);
    assert_eq!(client.replies(1), [3]);
    assert!(client.leave().is_ok());
}

#[test]
fn a_client_that_leaves_without_an_answer_is_waited_for_no_longer() {
    let client = Client::new(2);
    client.module.notifies.store(true, Ordering::SeqCst);
    client.ask_whether_to_go_on(1, 1);
    assert_eq!(client.replies(1), [0]);
    // The third call exceeds the limit and is refused, because one thread has to read.
    client.ask_whether_to_go_on(2, 2);
    assert_eq!(client.replies(1), [1]);
    client.ask_whether_to_go_on(3, 3);
    assert_eq!(client.replies(1), [3]);
    assert!(client.leave().is_ok());
}
