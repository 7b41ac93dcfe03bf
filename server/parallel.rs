//! Executes the calls of one client, one after the other or several at a time.
//!
//! One thread reads a record. If the client has announced that its calls overlap, the thread lets another one read
//! before it executes the call. There are at most `max_parallel_calls` threads, and none is started before it is
//! needed. Otherwise the same thread reads, executes and answers, without any extra cost. Calls of one session are
//! executed in the order in which they came. A C_WaitForSlotEvent that waits has a thread of its own. A record that is
//! refused for its length is answered by the thread that has read it, when it is its session's turn.
//!
//! Records come from and replies go to the halves of a connection ([`crate::connection`]). When the client has left,
//! the worker waits for calls that are being executed, so that a module is not interrupted in the middle of one.
//!
//! Once the client accepts notifications, each of its calls is executed while another thread reads, so that the
//! client's answer to a notification is received. If there is no such thread, the call is refused.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use filter::replies;
use xdr::codec::Slices;
use xdr::record::Taken;
use xdr::rpc::{self, Notification, Peer, Request, Xid};
use xdr::{Call, CkRv, Cryptoki, Function, Reply, SessionHandle, Ulong};

use crate::connection::{
    Answering, ConnectionError, Incoming, Limits, Outgoing, Reader, Received, Served,
};
use crate::large_records::Refused;
use crate::logging::{Severity, log};
use crate::notifications::Notifications;
use crate::record_memory::{Portion, Share};
use crate::throttle::Throttle;

/// Upper bound on the calls of C_WaitForSlotEvent that wait at the same time.
const MOST_WAITING: usize = 64;

/// The stack size of a thread that executes calls, in bytes: the usual one, which a module may expect.
const STACK: usize = 8 << 20;

/// What the threads of a connection share.
struct Connection<I, O> {
    served: Arc<dyn Served>,
    limits: Limits,
    /// The portion from which each thread makes its own, for large results.
    memory: Portion,
    reader: Mutex<Reader<I>>,
    outgoing: O,
    sessions: Sessions,
    notifications: Notifications,
    /// Threads that wait for the reader, or are about to.
    idle: AtomicUsize,
    threads: AtomicUsize,
    waiting: AtomicUsize,
    /// For the message that too many calls wait.
    throttle: Mutex<Throttle>,
    /// Calls that are being executed by threads that do not hold the reader.
    executing: AtomicUsize,
    /// Set when no more records are read.
    is_over: AtomicBool,
    /// Why the connection has ended.
    end: Mutex<Option<Result<(), ConnectionError>>>,
    ended: Condvar,
}

/// Locks a value that stays valid if a thread panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves the client until it closes the connection. Large calls take memory of this share.
pub fn serve<I: Incoming + 'static, O: Outgoing + 'static>(
    incoming: I,
    outgoing: O,
    served: Arc<dyn Served>,
    limits: Limits,
    memory: Share,
) -> Result<(), ConnectionError> {
    let memory = Portion::new(memory);
    let connection = Arc::new(Connection {
        served,
        limits,
        reader: Mutex::new(Reader::new(incoming, limits, memory.another())),
        memory,
        outgoing,
        sessions: Sessions::default(),
        notifications: Notifications::default(),
        idle: AtomicUsize::new(1),
        threads: AtomicUsize::new(1),
        waiting: AtomicUsize::new(0),
        throttle: Mutex::default(),
        executing: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
        end: Mutex::default(),
        ended: Condvar::new(),
    });
    let notified = Arc::downgrade(&connection);
    connection
        .served
        .notify_through(Arc::new(move |session, event| {
            let connection = notified.upgrade();
            connection.map_or(CkRv::OK, |connection| connection.notified(session, event))
        }));
    connection.run();
    let mut end = lock(&connection.end);
    while end.is_none() || connection.executing.load(Ordering::SeqCst) > 0 {
        let waited = connection.ended.wait(end);
        end = waited.unwrap_or_else(PoisonError::into_inner);
    }
    let ended = end.take();
    drop(end);
    // The thread of a waiting C_WaitForSlotEvent, which does not count as executing, may be sending replies of others.
    connection.outgoing.finish();
    ended.unwrap_or(Ok(()))
}

impl<I: Incoming + 'static, O: Outgoing + 'static> Connection<I, O> {
    /// Runs one thread: it waits for the reader, reads, and executes what it has read. The thread that starts it has
    /// counted it as idle.
    fn run(self: &Arc<Self>) {
        let ran = catch_unwind(AssertUnwindSafe(|| self.execute_records()));
        if ran.is_err() {
            self.fail(ConnectionError::Internal);
        }
    }

    fn execute_records(self: &Arc<Self>) {
        let mut answering = Answering::new(self.memory.another());
        loop {
            let mut reader = lock(&self.reader);
            self.idle.fetch_sub(1, Ordering::SeqCst);
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            let led = catch_unwind(AssertUnwindSafe(|| self.lead(&mut reader, &mut answering)));
            let end = match led.unwrap_or(Err(ConnectionError::Internal)) {
                Ok(Some(overlapping)) => {
                    let executing = Executing::begin(self);
                    drop(reader);
                    self.let_another_read();
                    self.execute_overlapping(overlapping, &mut answering);
                    drop(executing);
                    self.idle.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            // While this thread has the reader: no other one may read behind the end.
            self.end(end);
            drop(reader);
            return;
        }
    }

    /// Executes records on this thread until one arrives that may be executed while later ones are read, and returns
    /// that one without executing it. Returns `None` when the client has closed the connection.
    fn lead(
        self: &Arc<Self>,
        reader: &mut Reader<I>,
        answering: &mut Answering,
    ) -> Result<Option<Overlapping>, ConnectionError> {
        let served = &*self.served;
        let outgoing = &self.outgoing;
        loop {
            // Another thread may have failed to send a reply. More records may have come before.
            if self.is_over.load(Ordering::SeqCst) {
                return Ok(None);
            }
            // With several threads, polling would take processor time from those that execute calls.
            let polls_first = self.threads.load(Ordering::SeqCst) == 1;
            let Some(received) = reader.next_record(served, polls_first)? else {
                return Ok(None);
            };
            let notifies = served.notifies();
            if let (true, Received::Record(record)) = (notifies, &received) {
                if let Some((xid, answer)) = rpc::read_notified(record) {
                    // If the client does not understand the notification, its call goes on as if it had no callback.
                    self.notifications.answer(xid, answer.unwrap_or(CkRv::OK));
                    continue;
                }
            }
            let is_alone = !notifies && self.executing.load(Ordering::SeqCst) == 0;
            let (task, turn) = match received {
                Received::Refused(refused) if is_alone && !refused.overlaps() => {
                    answering.refuse(&refused, served, outgoing)?;
                    continue;
                }
                Received::Refused(refused) => {
                    let called = refused.in_session();
                    let turn = called.and_then(|(function, session)| {
                        self.sessions.enter_session(function, session)
                    });
                    (Task::Refuse(refused), turn)
                }
                Received::Record(record) if is_alone && !rpc::overlaps(record) => {
                    let function = answering.answer(record, served, outgoing)?;
                    // Without a function, it was rejected, and may have been a C_Login.
                    if function.is_none_or(Function::takes_secrets) {
                        reader.wipe();
                    }
                    continue;
                }
                Received::Record(_) => {
                    let refused = Refusing(served, CkRv::DEVICE_MEMORY);
                    let Some((record, memory)) = reader.take(served)? else {
                        // Without a copy, no other thread can read while the call is executed.
                        if notifies {
                            answering.answer(reader.record(), &refused, outgoing)?;
                            reader.wipe();
                            continue;
                        }
                        let turn = match rpc::read_request(reader.record(), &served.peer()) {
                            Request::Call(incoming) => self.sessions.enter(&incoming.call),
                            Request::Rejected(..) | Request::Unanswerable => None,
                        };
                        let outgoing = self.in_turn(turn, outgoing);
                        answering.answer(reader.record(), served, &outgoing)?;
                        reader.wipe();
                        continue;
                    };
                    if notifies && !self.let_another_read() {
                        answering.answer(&record, &refused, outgoing)?;
                        continue;
                    }
                    let turn = match rpc::read_request(&record, &served.peer()) {
                        Request::Call(incoming) if waits(&incoming.call) => {
                            drop(incoming);
                            self.wait_apart(Arc::new(record), answering)?;
                            continue;
                        }
                        Request::Call(incoming) => self.sessions.enter(&incoming.call),
                        Request::Rejected(..) | Request::Unanswerable => None,
                    };
                    let task = Task::Execute {
                        record,
                        _memory: memory,
                    };
                    (task, turn)
                }
            };
            return Ok(Some(Overlapping { task, turn }));
        }
    }

    /// Makes sure that a thread reads, within the limit on threads. Returns whether there is one.
    fn let_another_read(self: &Arc<Self>) -> bool {
        if self.idle.load(Ordering::SeqCst) > 0 {
            return true;
        }
        // All calls that are executed may be waiting for the client's answer to a notification. One more thread has to
        // read that answer.
        let most = self.limits.parallel_calls + usize::from(self.served.notifies());
        let more = |threads| (threads < most).then_some(threads + 1);
        let added = self
            .threads
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        if added.is_err() {
            return false;
        }
        self.idle.fetch_add(1, Ordering::SeqCst);
        let is_started = self.spawn(|connection| connection.run());
        if !is_started {
            self.idle.fetch_sub(1, Ordering::SeqCst);
            self.threads.fetch_sub(1, Ordering::SeqCst);
        }
        is_started
    }

    fn spawn(self: &Arc<Self>, work: impl FnOnce(Arc<Self>) + Send + 'static) -> bool {
        let connection = self.clone();
        let thread = thread::Builder::new().stack_size(STACK);
        let started = thread.spawn(move || work(connection));
        if let Err(error) = &started {
            log(
                Severity::Warning,
                format_args!("cannot start a thread for another call: {error}"),
            );
        }
        started.is_ok()
    }

    /// Waits for the turn of a call, if it has one. The turn is over when the call has been executed.
    fn in_turn<'a>(&'a self, turn: Option<Turn>, outgoing: &'a O) -> InTurn<'a, O> {
        if let Some(turn) = &turn {
            self.sessions.wait(turn);
        }
        InTurn {
            sessions: &self.sessions,
            turn: Mutex::new(turn),
            outgoing,
            executing: &self.executing,
        }
    }

    fn execute_overlapping(&self, overlapping: Overlapping, answering: &mut Answering) {
        let Overlapping { task, turn } = overlapping;
        let (served, outgoing) = (&*self.served, &self.outgoing);
        let session = turn.as_ref().map(|turn| turn.session);
        let outgoing = &self.in_turn(turn, outgoing);
        let answered = match &task {
            Task::Refuse(refused) => answering.refuse(refused, served, outgoing),
            Task::Execute { record, .. } => self.notifying(record, session, || {
                answering.answer(record, served, outgoing).map(|_| ())
            }),
        };
        drop(task);
        if let Err(error) = answered {
            self.fail(error);
        }
    }

    /// Executes a call during which the client can be notified. First sends the notifications that have come for the
    /// session since its last call.
    fn notifying<T>(
        &self,
        record: &[u8],
        session: Option<SessionHandle>,
        work: impl FnOnce() -> T,
    ) -> T {
        let (true, Ok(call)) = (self.served.notifies(), rpc::xid_of(record)) else {
            return work();
        };
        if let Some(session) = session {
            for event in self.notifications.take(session) {
                self.tell(call, session, event);
            }
        }
        Notifications::during(call, work)
    }

    /// Sends a notification of the module to the client, and returns the client's answer. A notification outside a call
    /// is kept for the next call of its session.
    fn notified(&self, session: SessionHandle, event: Ulong) -> CkRv {
        match Notifications::call() {
            Some(call) => self.tell(call, session, event),
            None => {
                self.notifications.keep(session, event);
                CkRv::OK
            }
        }
    }

    /// Sends the client a notification within this call, and waits for its answer.
    fn tell(&self, call: Xid, session: SessionHandle, event: Ulong) -> CkRv {
        let notification = Notification {
            call,
            session,
            event,
        };
        let send = |xid| {
            let mut buffer = Vec::new();
            let slices = rpc::write_notification(xid, notification, &mut buffer);
            self.outgoing.send(slices.map_err(io::Error::other)?)
        };
        self.notifications.ask(send).unwrap_or_else(|error| {
            self.fail(error.into());
            CkRv::CANCEL
        })
    }

    /// Executes a blocking C_WaitForSlotEvent in a detached thread of its own, or refuses it if there are too many.
    fn wait_apart(
        self: &Arc<Self>,
        record: Arc<Taken>,
        answering: &mut Answering,
    ) -> Result<(), ConnectionError> {
        let more = |waiting| (waiting < MOST_WAITING).then_some(waiting + 1);
        let added = self
            .waiting
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        if added.is_ok() {
            let record = record.clone();
            let started = self.spawn(move |connection| {
                let mut answering = Answering::new(connection.memory.another());
                let outgoing = &connection.outgoing;
                let answer = || answering.answer(&record, &*connection.served, outgoing);
                let answered = catch_unwind(AssertUnwindSafe(answer));
                if let Err(error) = answered.unwrap_or(Err(ConnectionError::Internal)) {
                    connection.fail(error);
                }
                connection.waiting.fetch_sub(1, Ordering::SeqCst);
            });
            if started {
                return Ok(());
            }
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        if lock(&self.throttle).passes(Instant::now()) {
            log(
                Severity::Warning,
                format_args!(
                    "C_WaitForSlotEvent refused: {MOST_WAITING} of them wait already, or there is no thread for it"
                ),
            );
        }
        let refused = Refusing(&*self.served, CkRv::DEVICE_MEMORY);
        answering.answer(&record, &refused, &self.outgoing)?;
        Ok(())
    }

    /// Ends the connection because a reply cannot be sent. The shutdown wakes the thread that reads.
    fn fail(&self, error: ConnectionError) {
        self.end(Err(error));
        self.outgoing.shut_down();
    }

    /// Ends the connection: nothing more is read.
    fn end(&self, end: Result<(), ConnectionError>) {
        // First, so that a thread that finds the connection over has no reason to note.
        self.note_end(end);
        self.is_over.store(true, Ordering::SeqCst);
        self.notifications.end();
        self.ended.notify_all();
    }

    /// Notes why the connection has ended. The first reason counts.
    fn note_end(&self, end: Result<(), ConnectionError>) {
        lock(&self.end).get_or_insert(end);
    }
}

/// Counts a call that is executed by a thread that does not hold the reader, until it is dropped.
struct Executing<'a, I, O>(&'a Connection<I, O>);

impl<'a, I, O> Executing<'a, I, O> {
    fn begin(connection: &'a Connection<I, O>) -> Executing<'a, I, O> {
        connection.executing.fetch_add(1, Ordering::SeqCst);
        Executing(connection)
    }
}

impl<I, O> Drop for Executing<'_, I, O> {
    fn drop(&mut self) {
        let Executing(connection) = self;
        connection.executing.fetch_sub(1, Ordering::SeqCst);
        if connection.is_over.load(Ordering::SeqCst) {
            // Under the lock, so that `serve`, which waits for the last call, cannot miss the wake-up.
            let _end = lock(&connection.end);
            connection.ended.notify_all();
        }
    }
}

/// A call that may overlap with others, with its place among those of its session.
struct Overlapping {
    task: Task,
    turn: Option<Turn>,
}

/// What to do with a call that may overlap with others.
enum Task {
    /// Execute it. The record is dropped before its memory is given back.
    Execute { record: Taken, _memory: Portion },
    /// Refuse it.
    Refuse(Refused),
}

/// Answers every call with this CK_RV.
struct Refusing<'a>(&'a dyn Served, CkRv);

impl Cryptoki for Refusing<'_> {
    fn call(&self, call: Call<'_>) -> Reply {
        replies::refused(call.function(), self.1)
    }
}

impl Served for Refusing<'_> {
    fn peer(&self) -> Peer {
        self.0.peer()
    }
}

/// Whether this call blocks until there is a slot event.
fn waits(call: &Call<'_>) -> bool {
    const DONT_BLOCK: u64 = 1;
    matches!(call, Call::C_WaitForSlotEvent(flags) if flags.0 & DONT_BLOCK == 0)
}

/// Executes the calls of each session in the order in which they came.
#[derive(Default)]
struct Sessions {
    queues: Mutex<HashMap<SessionHandle, VecDeque<u64>>>,
    next: Mutex<u64>,
    moved: Condvar,
}

/// A place among the calls of a session.
struct Turn {
    session: SessionHandle,
    number: u64,
}

impl Sessions {
    /// Takes a place behind the unfinished calls of the session. Returns `None` if the call has no session, or need not
    /// wait for others of its session.
    fn enter(&self, call: &Call<'_>) -> Option<Turn> {
        self.enter_session(call.function(), call.session()?)
    }

    /// Does the same for a call of this function in this session.
    fn enter_session(&self, function: Function, session: SessionHandle) -> Option<Turn> {
        if matches!(
            function,
            Function::C_SessionCancel | Function::C_CancelFunction
        ) {
            return None;
        }
        let number = {
            let mut next = lock(&self.next);
            *next += 1;
            *next
        };
        lock(&self.queues)
            .entry(session)
            .or_default()
            .push_back(number);
        Some(Turn { session, number })
    }

    /// Waits until the earlier calls of the session have ended.
    fn wait(&self, turn: &Turn) {
        let mut queues = lock(&self.queues);
        let is_first = |queues: &HashMap<SessionHandle, VecDeque<u64>>| {
            let first = queues.get(&turn.session).and_then(VecDeque::front);
            first.is_none_or(|first| *first == turn.number)
        };
        while !is_first(&queues) {
            let waited = self.moved.wait(queues);
            queues = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the turn of a call, and wakes the calls that wait for their turn.
    fn leave(&self, turn: Turn) {
        let mut queues = lock(&self.queues);
        let is_empty = queues.get_mut(&turn.session).is_some_and(|queue| {
            queue.retain(|number| *number != turn.number);
            queue.is_empty()
        });
        if is_empty {
            queues.remove(&turn.session);
        } else {
            self.moved.notify_all();
        }
    }
}

/// Ends the turn of a call before its reply is sent. A thread that sends may have to send for others, too, and the next
/// call of the session must not wait for that.
struct InTurn<'a, O> {
    sessions: &'a Sessions,
    turn: Mutex<Option<Turn>>,
    outgoing: &'a O,
    /// [`Connection::executing`], which counts this call as well.
    executing: &'a AtomicUsize,
}

impl<O> InTurn<'_, O> {
    fn end(&self) {
        if let Some(turn) = lock(&self.turn).take() {
            self.sessions.leave(turn);
        }
    }
}

impl<O: Outgoing> Outgoing for InTurn<'_, O> {
    fn send(&self, slices: Slices<'_>) -> io::Result<()> {
        self.end();
        // Calls that are being executed may end at about the same time.
        match self.executing.load(Ordering::SeqCst) {
            ..=1 => self.outgoing.send(slices),
            _ => self.outgoing.gather_and_send(slices),
        }
    }

    fn finish(&self) {
        self.outgoing.finish();
    }

    fn shut_down(&self) {
        self.outgoing.shut_down();
    }
}

impl<O> Drop for InTurn<'_, O> {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests;
