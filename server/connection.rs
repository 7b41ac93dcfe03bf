//! Serves the connection of one client: reads a record, decodes the call, has it answered, writes the reply.
//!
//! Bytes come from a [`Transport`], which is the worker's socket or TLS on it. Calls go to a
//! [`Cryptoki`], and its replies go back. One blocking read and one write serve a call. A record that
//! has begun must be complete within a time limit. Between two records a client may be idle for ever.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use socket2::Socket;
use transport::{Deadline, TimedSocket};
use xdr::codec::{Slices, wipe};
use xdr::record::{LARGE, Records, TooLong};
use xdr::rpc::{self, Beginning, Rejection, Request};
use xdr::{Architecture, Cryptoki, Function};

use crate::large_records::{self, LargeRecords, Refusal};
use crate::logging::{Severity, log};
use crate::record_memory::Share;

/// What a peer may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one record at the most.
    pub record_size: usize,
    /// How long a record may take from its first byte to its last, and a reply to be taken.
    pub record_time: Duration,
}

/// Why a connection ended without the client closing it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The limit on what is dropped of a record over the limit.
    #[error("a record exceeds max_record_size and the {0} bytes that are dropped of one at most")]
    TooLong(u64),
    /// Something else than a call, at a length that would take much memory.
    #[error("a long record is not a call")]
    NoCall,
    /// The time limit, in either direction.
    #[error("a record did not arrive completely within {} s", .0.as_secs_f32())]
    TooSlow(Duration),
    /// The transport.
    #[error("{0}")]
    Transport(#[from] io::Error),
}

/// A client's stream of bytes. Time limits show as [`io::ErrorKind::TimedOut`].
pub trait Transport {
    /// Reads some bytes; none when the client closed the connection. Within a record the time limit
    /// runs from the first call that says so.
    fn read(&mut self, space: &mut [u8], is_begun: bool) -> io::Result<usize>;
    /// The record is complete: the client may idle again.
    fn rest(&mut self) -> io::Result<()>;
    /// Sends a whole record.
    fn send(&mut self, slices: Slices<'_>) -> io::Result<()>;
}

/// A client's socket, without TLS or under it, and how long a record may take on it.
pub struct Timed {
    socket: TimedSocket,
    time: Duration,
    /// When the record that is being received has to be complete.
    deadline: Option<Deadline>,
}

impl Timed {
    /// A blocking socket, and how long a record may take in either direction.
    pub fn new(socket: Socket, time: Duration) -> Timed {
        Timed {
            socket: TimedSocket::new(socket),
            time,
            deadline: None,
        }
    }

    /// Changes how long a record may take.
    pub fn set_time(&mut self, time: Duration) {
        self.time = time;
    }

    /// Reads some bytes; none when the peer closed the connection, however it did.
    pub fn read(&mut self, space: &mut [u8], is_limited: bool) -> io::Result<usize> {
        let deadline = is_limited.then(|| {
            let time = self.time;
            *self.deadline.get_or_insert_with(|| Deadline::after(time))
        });
        match self.socket.receive(space, deadline) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            result => result,
        }
    }

    /// Takes the time limit off.
    pub fn rest(&mut self) -> io::Result<()> {
        self.deadline = None;
        self.socket.wait_for_ever()
    }

    /// Sends all of `bytes`.
    pub fn send_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send_all(bytes, Deadline::after(self.time))
    }
}

impl Transport for Timed {
    fn read(&mut self, space: &mut [u8], is_begun: bool) -> io::Result<usize> {
        Timed::read(self, space, is_begun)
    }

    fn rest(&mut self) -> io::Result<()> {
        Timed::rest(self)
    }

    fn send(&mut self, mut slices: Slices<'_>) -> io::Result<()> {
        let deadline = Deadline::after(self.time);
        self.socket.send_record(&mut slices, deadline)
    }
}

/// What a connection's calls are for.
pub trait Served: Cryptoki {
    /// How the client lays out numbers and structures, as far as it told.
    fn client(&self) -> Architecture;
}

/// Serves the client at the other end until it closes the connection. Large records take `memory`.
pub fn serve(
    transport: &mut impl Transport,
    served: &dyn Served,
    limits: Limits,
    memory: Share,
) -> Result<(), ConnectionError> {
    serve_records(transport, served, limits, memory).map_err(|error| match error {
        ConnectionError::Transport(error) if error.kind() == io::ErrorKind::TimedOut => {
            ConnectionError::TooSlow(limits.record_time)
        }
        error => error,
    })
}

fn serve_records(
    transport: &mut impl Transport,
    served: &dyn Served,
    limits: Limits,
    memory: Share,
) -> Result<(), ConnectionError> {
    let mut records = Records::new(limits.record_size);
    let mut large = LargeRecords::new(limits.record_size, memory);
    let mut output = Vec::new();
    while receive(transport, &mut records, &mut large)? {
        if let Some(why) = large.take_refusal() {
            refuse(transport, &records, why, served, &mut output)?;
            records.wipe();
            continue;
        }
        let function = answer(transport, records.record(), &mut large, served, &mut output)?;
        if output.capacity() > LARGE {
            output = Vec::new();
        }
        if function.is_some_and(Function::takes_secrets) {
            records.wipe();
        }
    }
    Ok(())
}

/// Answers a record that was passed over.
fn refuse(
    transport: &mut impl Transport,
    records: &Records,
    why: Refusal,
    served: &dyn Served,
    output: &mut Vec<u8>,
) -> Result<(), ConnectionError> {
    let (xid, reply) = match rpc::read_beginning(records.record()) {
        Beginning::Unanswerable => return Ok(()),
        Beginning::Rejected(xid, rejection) => (xid, Err(rejection)),
        Beginning::Call(xid, function, session) => {
            let length = records.length_passed_over();
            let reply = large_records::reply(function, session, length, why, served);
            (xid, reply)
        }
    };
    let slices = match &reply {
        Ok(reply) => rpc::write_reply(xid, reply, served.client(), output),
        Err(rejection) => rpc::write_rejection(xid, *rejection, output),
    };
    Ok(transport.send(slices.map_err(io::Error::other)?)?)
}

/// Answers one record; tells which procedure was called.
fn answer(
    transport: &mut impl Transport,
    record: &[u8],
    large: &mut LargeRecords,
    served: &dyn Served,
    output: &mut Vec<u8>,
) -> Result<Option<Function>, ConnectionError> {
    let mut rejected = |xid, rejection, output| {
        let slices = rpc::write_rejection(xid, rejection, output).map_err(io::Error::other)?;
        transport.send(slices).map_err(ConnectionError::from)
    };
    match rpc::read_request(record, served.client()) {
        Request::Unanswerable => Ok(None),
        Request::Rejected(xid, rejection) => rejected(xid, rejection, output).map(|()| None),
        Request::Call(xid, call) => {
            let function = call.function();
            let mut reply = match large.refuse_result(&call) {
                None => catch_unwind(AssertUnwindSafe(|| served.call(call))),
                Some(refusal) => Ok(refusal),
            };
            if let Ok(reply) = &mut reply {
                if let Ok(slices) = rpc::write_reply(xid, reply, served.client(), output) {
                    let sent = transport.send(slices);
                    if function.hands_out_secrets() {
                        wipe(output);
                        reply.wipe();
                    }
                    return sent.map(|()| Some(function)).map_err(ConnectionError::from);
                }
            }
            log(
                Severity::Crit,
                format_args!("{}: internal error", function.name()),
            );
            rejected(xid, Rejection::SystemError, output).map(|()| Some(function))
        }
    }
}

/// Receives the next record, or passes over one that is refused; false when the client closed the
/// connection.
fn receive(
    transport: &mut impl Transport,
    records: &mut Records,
    large: &mut LargeRecords,
) -> Result<bool, ConnectionError> {
    loop {
        match records.advance() {
            Ok(true) => break,
            Ok(false) => {}
            Err(TooLong) => {
                large.too_long(records)?;
                continue;
            }
        }
        large.prepare(records)?;
        let is_begun = records.is_begun();
        if !is_begun {
            // What had begun may have been an empty record.
            transport.rest()?;
        }
        match transport.read(records.space().map_err(io::Error::from)?, is_begun)? {
            0 => return Ok(false),
            count => records.received(count),
        }
    }
    transport.rest()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use xdr::{Call, CkRv, DataResult, Reply, SessionHandle};

    use super::*;
    use crate::record_memory::Budget;

    /// Takes what is sent.
    struct Sent(Vec<u8>);

    impl Transport for Sent {
        fn read(&mut self, _: &mut [u8], _: bool) -> io::Result<usize> {
            Ok(0)
        }

        fn rest(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn send(&mut self, slices: Slices<'_>) -> io::Result<()> {
            self.0 = slices.to_vec();
            Ok(())
        }
    }

    /// Answers each call with the same bytes.
    struct Answering(&'static [u8]);

    impl Served for Answering {
        fn client(&self) -> Architecture {
            Architecture::host()
        }
    }

    impl Cryptoki for Answering {
        fn call(&self, call: Call<'_>) -> Reply {
            let result = DataResult {
                rv: CkRv::OK,
                data: self.0.to_vec(),
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
        let session = SessionHandle(1);
        for (call, stays) in [
            (Call::C_Decrypt(session, b"ciphertext"), false),
            (Call::C_Sign(session, b"data"), true),
        ] {
            let (mut record, mut output, mut sent) = (Vec::new(), Vec::new(), Sent(Vec::new()));
            let record = rpc::write_call(rpc::Xid(1), &call, &mut record);
            let record = record.unwrap().to_vec();
            let payload = &record[xdr::record::MARK_SIZE..];
            let budget = Budget::<()>::new(1 << 20, 1).unwrap();
            let mut large = LargeRecords::new(1 << 20, budget.next_share());
            answer(
                &mut sent,
                payload,
                &mut large,
                &Answering(bytes),
                &mut output,
            )
            .unwrap();
            assert!(holds(&sent.0));
            assert_eq!(holds(&output), stays);
        }
    }
}
