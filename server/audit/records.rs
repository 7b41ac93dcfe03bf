//! Defines the messages that workers and the controller send to the auditor, and the flags that they share with it.
//!
//! Each message is one datagram of JSON. A worker says who its client is, and that it has records (`ring`). The auditor
//! believes nothing else that a worker says. The controller says which client a worker serves.

use std::io::{self, IoSliceMut};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, send};
use serde::{Deserialize, Serialize};

use super::WhenFull;
use super::ring::{self, Appended, InFlight};

/// Upper bound on the bytes of a message.
pub const LONGEST: usize = 32 << 10;

/// How often a worker that finds the ring full looks again.
const FULL: Duration = Duration::from_micros(200);

/// What a worker sends.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromWorker {
    /// Who its client is, by the TLS handshake. Counts once, before the first call.
    User(String),
    /// Who its client is, by a PROXY header. Counts once, and only where such a header is expected.
    Peer(String),
    /// The profile that its client has. Counts once, before the first call.
    Profile(String),
    /// There are records, and the auditor does not poll the ring.
    Wake,
}

/// What the controller sends.
#[derive(Debug, Deserialize, Serialize)]
pub enum Told {
    /// A worker is about to get a client. Two descriptors come with the message: the socket for the worker's messages,
    /// and the memory with its records.
    Given(Given),
    /// All workers that have a client were named.
    Ready,
    /// A worker was reaped. The auditor tells the controller when it has written the last records of that worker.
    Left {
        /// The number of its connection.
        connection: usize,
        /// How it ended.
        end: String,
    },
    /// The log may have been renamed.
    Reopen,
    /// Another daemon writes the log from now on. The auditor goes on in a file beside it.
    MoveAside,
    /// All workers have ended.
    End,
}

/// A worker and its client.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Given {
    /// The worker's process id.
    pub pid: i32,
    /// The number of the connection.
    pub connection: usize,
    /// The client's address, or its user and process.
    pub peer: String,
    /// Whether a PROXY header is expected, which says more about the client.
    pub awaits_header: bool,
    /// Who the client is, by TLS, if that is known already.
    pub user: String,
    /// The client's profile, if that is known already.
    pub profile: String,
    /// The name of the service.
    pub service: String,
}

/// Encodes a message.
pub fn message(message: &impl Serialize) -> Vec<u8> {
    // Fails only for maps whose keys are not strings; there are none.
    serde_json::to_vec(message).unwrap_or_default()
}

/// Flags and a counter that all processes of the daemon share.
#[derive(Clone, Copy)]
pub struct Flags(&'static [AtomicU64]);

const UNWRITABLE: usize = 0;
const DOWN: usize = 1;
const REFUSED: usize = 2;
const FIELDS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(2);

impl Flags {
    /// Creates the flags. The controller does this before it forks.
    pub fn new() -> io::Result<Flags> {
        Ok(Flags(bindings::shared::counters(FIELDS)?))
    }

    fn set(&self, field: usize, value: bool) {
        if let Some(flag) = self.0.get(field) {
            flag.store(value.into(), Ordering::SeqCst);
        }
    }

    /// Sets whether lines can be written; called by the auditor.
    pub fn set_writable(&self, is_writable: bool) {
        self.set(UNWRITABLE, !is_writable);
    }

    /// Sets whether there is an auditor; called by the controller.
    pub fn set_running(&self, is_running: bool) {
        self.set(DOWN, !is_running);
    }

    /// Whether lines are written.
    fn is_open(&self) -> bool {
        let is_off = |field| {
            let flag = self.0.get(field);
            flag.is_none_or(|flag: &AtomicU64| flag.load(Ordering::SeqCst) == 0)
        };
        is_off(UNWRITABLE) && is_off(DOWN)
    }

    fn refusals(&self) -> Option<&AtomicU64> {
        self.0.get(REFUSED)
    }

    /// The number of calls that were refused because no line could be written, and that no line mentions yet.
    pub fn refused(&self) -> u64 {
        let refused = self.refusals();
        refused.map_or(0, |refused| refused.load(Ordering::SeqCst))
    }

    /// Subtracts the refused calls that a line mentions.
    pub fn told(&self, refused: u64) {
        if let Some(counter) = self.refusals() {
            // A compromised worker may have changed it.
            let (order, other) = (Ordering::SeqCst, Ordering::SeqCst);
            let _ = counter.fetch_update(order, other, |now| Some(now.saturating_sub(refused)));
        }
    }
}

/// Sends a worker's records and messages. Each worker has a socket and memory of its own, so that it can harm no other.
#[derive(Clone)]
pub struct RecordSender {
    socket: Arc<OwnedFd>,
    ring: Arc<ring::Writer>,
    flags: Flags,
    when_full: WhenFull,
}

impl RecordSender {
    /// Sends to the other end of this socket, and over this ring.
    pub fn new(
        socket: OwnedFd,
        ring: ring::Writer,
        flags: Flags,
        when_full: WhenFull,
    ) -> RecordSender {
        RecordSender {
            socket: Arc::new(socket),
            ring: Arc::new(ring),
            flags,
            when_full,
        }
    }

    /// Whether a call may be executed now. A refused call is counted.
    pub fn admits(&self) -> bool {
        let admits = self.when_full == WhenFull::Count || self.flags.is_open();
        if let (false, Some(refused)) = (admits, self.flags.refusals()) {
            refused.fetch_add(1, Ordering::SeqCst);
        }
        admits
    }

    /// Notes a call that is about to be made.
    pub fn begin(&self, record: &[u8]) -> InFlight<'_> {
        self.ring.begin(record)
    }

    /// Appends the record of a call that has its result; waits while the ring has no room.
    pub fn end(&self, call: InFlight<'_>, record: &[u8]) {
        let mut is_noted = false;
        loop {
            match self.ring.append(record) {
                Appended::Done => break,
                Appended::Wake => {
                    self.send(&FromWorker::Wake);
                    break;
                }
                Appended::Full => {
                    if !is_noted {
                        // If this process is killed while it waits, the result is known.
                        call.note(record);
                        is_noted = true;
                    }
                    thread::sleep(FULL);
                }
            }
        }
        drop(call);
    }

    /// Sends a message; waits while the socket has no room.
    pub fn send(&self, what: &FromWorker) {
        let bytes = message(what);
        loop {
            match send(self.socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL) {
                Err(Errno::EINTR) => {}
                Ok(_) => return,
                // Only this process can have shut down the socket. Its records are read when it ends.
                Err(error) => return log::error!("the auditor cannot be told: {error}"),
            }
        }
    }
}

impl AsFd for RecordSender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What came over a socket.
pub enum Received {
    /// Nothing now.
    Nothing,
    /// The other end was closed.
    Closed,
    /// A message.
    Message {
        /// Its length in bytes; 0 if it did not fit into the buffer.
        length: usize,
    },
}

/// Receives a message, without waiting. Descriptors that come with it are closed by the kernel.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Received {
    let mut space = nix::cmsg_space!(UnixCredentials);
    let room = buffer.len();
    loop {
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        return match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => Received::Nothing,
            Err(_) => Received::Closed,
            Ok(message) => {
                // The sender's credentials come with each message, even with an empty one; at the end there are none.
                let is_sent = message.cmsgs().is_ok_and(|mut messages| {
                    messages.any(|it| matches!(it, ControlMessageOwned::ScmCredentials(_)))
                });
                let is_cut = message.flags.contains(MsgFlags::MSG_TRUNC);
                match (message.bytes, is_sent) {
                    (0, false) => Received::Closed,
                    (length, _) => Received::Message {
                        length: if is_cut { 0 } else { length.min(room) },
                    },
                }
            }
        };
    }
}
