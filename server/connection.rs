//! Receives the records of one client, has their calls answered, and sends the replies.
//!
//! Bytes come from an [`Incoming`] and go to an [`Outgoing`], the halves of the worker's socket or of TLS on it. Calls
//! go to a [`Served`]. [`crate::parallel`] decides which thread does what, and when. A call needs one blocking read and
//! one write. A record that has begun must be complete within a time limit. Between two records a client may be idle
//! for any time.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bindings::leaving::{self, InTheWay};
use bindings::module::notify::Notifier;
use transport::halves::{Closer, Halves, Receiver};
use transport::{Deadline, SharedSender};
use xdr::codec::{Slices, wipe};
use xdr::record::{LARGE, Records, Taken, TooLong};
use xdr::rpc::{self, Peer, Rejection, Request};
use xdr::{Cryptoki, Function};

use crate::large_records::{self, Answer, LargeRecords, Refused};
use crate::logging::{Severity, log};
use crate::record_memory::Portion;

/// The limits on a client's records and calls.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Upper bound on the size of one record, in bytes.
    pub record_size: usize,
    /// How long a record may take from its first byte to its last, and how long sending a reply may take.
    pub record_time: Duration,
    /// Upper bound on the calls that are executed at the same time.
    pub parallel_calls: usize,
}

/// Why a connection ended without the client closing it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// A record exceeds the limit on bytes that are skipped.
    #[error(
        "a record exceeds max_record_size, and is longer than the {0} bytes that are skipped at most"
    )]
    TooLong(u64),
    /// A long record that is not a call.
    #[error("a long record is not a call")]
    NoCall,
    /// A record or a reply has exceeded the time limit.
    #[error("a record did not arrive completely within {} s", .0.as_secs_f32())]
    TooSlow(Duration),
    /// The transport has failed.
    #[error("{0}")]
    Transport(#[from] io::Error),
    /// A thread of this program has panicked outside of the module.
    #[error("internal error")]
    Internal,
}

impl ConnectionError {
    /// Converts a timeout of the transport to [`ConnectionError::TooSlow`].
    fn limited(self, limits: Limits) -> ConnectionError {
        match self {
            ConnectionError::Transport(error) if error.kind() == io::ErrorKind::TimedOut => {
                ConnectionError::TooSlow(limits.record_time)
            }
            error => error,
        }
    }
}

/// The bytes that come from a client. Time limits show as [`io::ErrorKind::TimedOut`].
pub trait Incoming: Send {
    /// Reads some bytes. Returns 0 when the client has closed the connection. `is_begun` says that a record has begun:
    /// its time limit runs from the first call that says so.
    fn read(&mut self, space: &mut [u8], is_begun: bool) -> io::Result<usize>;
    /// Ends the time limit: the record is complete, and the client may be idle again.
    fn rest(&mut self);
    /// Makes the next read poll briefly before it sleeps, if polling has succeeded recently.
    fn poll_first(&mut self) {}
}

/// The bytes that go to a client.
pub trait Outgoing: Send + Sync {
    /// Sends a whole record, or queues it for the thread that is sending. If that thread fails, the connection ends.
    fn send(&self, slices: Slices<'_>) -> io::Result<()>;
    /// Does the same, but if this thread has to send, first lets other threads queue their records.
    fn gather_and_send(&self, slices: Slices<'_>) -> io::Result<()> {
        self.send(slices)
    }
    /// Waits until every queued record is sent or lost.
    fn finish(&self);
    /// Shuts the connection down in both directions, which wakes a thread that reads from it.
    fn shut_down(&self);
}

/// The receiving half of a connection, with the time limit for a record.
pub struct TimedReceiver {
    receiver: Receiver,
    time: Duration,
    /// When the record that is being received has to be complete.
    deadline: Option<Deadline>,
}

/// The sending half of a connection, with the time limit for a reply.
pub struct TimedSender {
    sender: SharedSender,
    closer: Closer,
}

/// Gives both halves of a connection this time limit for each record.
pub fn timed(halves: Halves, time: Duration) -> (TimedReceiver, TimedSender) {
    let Halves {
        mut receiver,
        sender,
        closer,
    } = halves;
    receiver.limit_tls_records(time);
    let receiver = TimedReceiver {
        receiver,
        time,
        deadline: None,
    };
    let sender = TimedSender {
        sender: SharedSender::new(sender, time),
        closer,
    };
    (receiver, sender)
}

impl Incoming for TimedReceiver {
    fn read(&mut self, space: &mut [u8], is_begun: bool) -> io::Result<usize> {
        let deadline = is_begun.then(|| {
            let time = self.time;
            *self.deadline.get_or_insert_with(|| Deadline::after(time))
        });
        match self.receiver.receive(space, deadline) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            result => result,
        }
    }

    fn rest(&mut self) {
        self.deadline = None;
    }

    fn poll_first(&mut self) {
        self.receiver.poll_first();
    }
}

/// Returns the outcome of sending. Success if the worker itself has ended the connection, because it drains.
fn unless_it_has_left(sent: io::Result<()>) -> io::Result<()> {
    match leaving::has_left() {
        true => Ok(()),
        false => sent,
    }
}

impl Outgoing for TimedSender {
    fn send(&self, mut slices: Slices<'_>) -> io::Result<()> {
        let begin = || Ok(self.sender.deadline());
        unless_it_has_left(self.sender.send(&mut slices, begin))
    }

    fn gather_and_send(&self, mut slices: Slices<'_>) -> io::Result<()> {
        let begin = || Ok(self.sender.deadline());
        unless_it_has_left(self.sender.gather_and_send(&mut slices, begin))
    }

    fn finish(&self) {
        self.sender.finish();
    }

    fn shut_down(&self) {
        self.closer.shut_down();
    }
}

/// Executes the calls of a connection.
pub trait Served: Cryptoki {
    /// Returns what is known of the client.
    fn peer(&self) -> Peer;

    /// Whether the client takes notifications, so that it may have to answer one within each of its calls.
    fn notifies(&self) -> bool {
        false
    }

    /// Sends the module's notifications to this notifier.
    fn notify_through(&self, _notifier: Notifier) {}
}

/// Receives the records of a client.
pub struct Reader<I> {
    incoming: I,
    records: Records,
    large: LargeRecords,
    limits: Limits,
}

/// A record from a client, received completely or refused.
pub enum Received<'r> {
    /// A complete record.
    Record(&'r [u8]),
    /// A refused record, of which only the beginning was kept.
    Refused(Refused),
}

impl<I: Incoming> Reader<I> {
    /// Makes the reader of a new connection. Its large records take `memory`.
    pub fn new(incoming: I, limits: Limits, memory: Portion) -> Reader<I> {
        Reader {
            incoming,
            records: Records::new(limits.record_size),
            large: LargeRecords::new(limits.record_size, memory),
            limits,
        }
    }

    /// Returns the next record, or `None` when the client has closed the connection. `polls_first` makes the thread
    /// poll briefly before it sleeps until the record begins, if polling has succeeded recently.
    pub fn next_record(
        &mut self,
        served: &dyn Served,
        polls_first: bool,
    ) -> Result<Option<Received<'_>>, ConnectionError> {
        match self.receive(served, polls_first) {
            Ok(true) => Ok(Some(match self.large.take_refused(&self.records, served) {
                None => Received::Record(self.records.record()),
                Some(refused) => {
                    self.records.wipe();
                    Received::Refused(refused)
                }
            })),
            Ok(false) => Ok(None),
            Err(error) => Err(error.limited(self.limits)),
        }
    }

    /// Receives the next record, or skips one that is refused. Returns false when the client has closed the
    /// connection.
    fn receive(&mut self, served: &dyn Served, polls_first: bool) -> Result<bool, ConnectionError> {
        loop {
            match self.records.advance() {
                Ok(true) => break,
                Ok(false) => {}
                Err(TooLong) => {
                    self.large.too_long(&mut self.records)?;
                    continue;
                }
            }
            self.large.prepare(&mut self.records, served)?;
            let is_begun = self.records.is_begun();
            if !is_begun {
                // An empty record may have begun and ended.
                self.incoming.rest();
                if polls_first {
                    self.incoming.poll_first();
                }
            }
            let space = self.records.space().map_err(io::Error::from)?;
            match self.incoming.read(space, is_begun)? {
                0 => return Ok(false),
                count => self.records.received(count),
            }
        }
        self.incoming.rest();
        Ok(true)
    }

    /// Takes the last record and its memory out of the reader, so that others can be received while it is in use.
    /// Returns `None` if there is no memory for a copy of it.
    pub fn take(
        &mut self,
        served: &dyn Served,
    ) -> Result<Option<(Taken, Portion)>, ConnectionError> {
        let Some(memory) = self.large.hand_over(self.records.record(), served) else {
            return Ok(None);
        };
        let taken = self.records.take().map_err(io::Error::from)?;
        Ok(Some((taken, memory)))
    }

    /// Returns the last record.
    pub fn record(&self) -> &[u8] {
        self.records.record()
    }

    /// Wipes the last record.
    pub fn wipe(&mut self) {
        self.records.wipe();
    }
}

/// Answers calls, reusing one buffer for the replies.
pub struct Answering {
    output: Vec<u8>,
    /// The memory of large results.
    memory: Portion,
}

impl Answering {
    /// Creates an `Answering` that charges large results to `memory`.
    pub fn new(memory: Portion) -> Answering {
        let output = Vec::new();
        Answering { output, memory }
    }

    /// Answers a refused record.
    pub fn refuse(
        &mut self,
        refused: &Refused,
        served: &dyn Served,
        outgoing: &dyn Outgoing,
    ) -> Result<(), ConnectionError> {
        let _in_the_way = InTheWay::begin();
        let Some(Answer { xid, reply }) = refused.answer(served) else {
            return Ok(());
        };
        let answer = reply.and_then(|(reply, version)| {
            rpc::Outgoing::new(reply, version).ok_or(Rejection::ProcedureUnavailable)
        });
        let output = &mut self.output;
        let slices = match &answer {
            Ok(reply) => rpc::write_reply(xid, reply, served.peer().architecture, output),
            Err(rejection) => rpc::write_rejection(xid, *rejection, output),
        };
        outgoing.send(slices.map_err(io::Error::other)?)?;
        Ok(())
    }

    /// Answers one record. Returns the function that was called, if the record is a call.
    pub fn answer(
        &mut self,
        record: &[u8],
        served: &dyn Served,
        outgoing: &dyn Outgoing,
    ) -> Result<Option<Function>, ConnectionError> {
        let _in_the_way = InTheWay::begin();
        let answered = self.answer_record(record, served, outgoing);
        if self.output.capacity() > LARGE {
            self.output = Vec::new();
        }
        self.memory.release();
        answered
    }

    fn answer_record(
        &mut self,
        record: &[u8],
        served: &dyn Served,
        outgoing: &dyn Outgoing,
    ) -> Result<Option<Function>, ConnectionError> {
        let peer = served.peer();
        let output = &mut self.output;
        let (xid, rejection, function) = match rpc::read_request(record, &peer) {
            Request::Unanswerable => return Ok(None),
            Request::Rejected(xid, rejection) => (xid, rejection, None),
            Request::Call(incoming) => {
                let (xid, version) = (incoming.xid, incoming.version);
                let function = incoming.call.function();
                let (call, memory) = (incoming.call, &mut self.memory);
                let reply = match large_records::refuse_result(&call, record.len(), memory, served)
                {
                    Some(refusal) => Ok(refusal),
                    None => {
                        let execute = || served.call_with_nulls(call, incoming.nulls);
                        catch_unwind(AssertUnwindSafe(execute))
                    }
                };
                let reply = reply
                    .ok()
                    .and_then(|reply| rpc::Outgoing::new(reply, version));
                if let Some(mut reply) = reply {
                    // Asked again, because this call may be the C_SetupArch that declares it.
                    let client = served.peer().architecture;
                    let written = rpc::write_reply(xid, &reply, client, output);
                    let sent = written.map(|slices| outgoing.send(slices));
                    if function.hands_out_secrets() {
                        wipe(output);
                        reply.wipe();
                    }
                    if let Ok(sent) = sent {
                        if let Ok(data) = reply.take_data().into_vec() {
                            bindings::module::reuse(data);
                        }
                        return sent.map(|()| Some(function)).map_err(ConnectionError::from);
                    }
                }
                log(
                    Severity::Crit,
                    format_args!("{}: internal error", function.name()),
                );
                (xid, Rejection::SystemError, Some(function))
            }
        };
        let slices = rpc::write_rejection(xid, rejection, output).map_err(io::Error::other)?;
        outgoing.send(slices)?;
        Ok(function)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use xdr::rpc::Xid;
    use xdr::{Architecture, Call, CkRv, Input, OutputResult, Reply, Room, SessionHandle, Ulong};

    use super::*;
    use crate::record_memory::Budget;

    /// Keeps the last record that is sent.
    #[derive(Default)]
    struct Sent(Mutex<Vec<u8>>);

    impl Outgoing for Sent {
        fn send(&self, slices: Slices<'_>) -> io::Result<()> {
            *self.0.lock().unwrap() = slices.to_vec();
            Ok(())
        }

        fn finish(&self) {}

        fn shut_down(&self) {}
    }

    /// Answers each call with the same bytes.
    struct Always(&'static [u8]);

    impl Served for Always {
        fn peer(&self) -> Peer {
            Peer {
                architecture: Architecture::host(),
                versions: 3..=4,
            }
        }
    }

    impl Cryptoki for Always {
        fn call(&self, call: Call<'_>) -> Reply {
            let result = OutputResult {
                rv: CkRv::OK,
                length: Ulong(self.0.len() as u64),
                data: self.0.to_vec().into(),
            };
            match call {
                Call::C_Decrypt(..) => Reply::C_Decrypt(result),
                _ => Reply::C_Sign(result),
            }
        }
    }

    #[test]
    fn plaintext_does_not_stay_in_the_buffer_of_replies() {
        let bytes = b"sixteen bytes...";
        let holds = |buffer: &[u8]| buffer.windows(bytes.len()).any(|part| part == bytes);
        let (session, room) = (SessionHandle(1), Room::Buffer(99));
        for (call, stays) in [
            (
                Call::C_Decrypt(session, Input::Bytes(b"ciphertext"), room),
                false,
            ),
            (Call::C_Sign(session, Input::Bytes(b"data"), room), true),
        ] {
            let (mut record, sent) = (Vec::new(), Sent::default());
            let record = rpc::write_call(Xid(1), &call, false, &mut record);
            let record = record.unwrap().to_vec();
            let payload = &record[xdr::record::MARK_SIZE..];
            let budget = Budget::new(1 << 20, 1).unwrap();
            let mut answering = Answering::new(Portion::new(budget.share(0)));
            let answered = answering.answer(payload, &Always(bytes), &sent);
            assert!(answered.is_ok_and(|function| function == Some(call.function())));
            assert!(holds(&sent.0.lock().unwrap()));
            assert_eq!(holds(&answering.output), stays);
        }
    }
}
