//! Defines what workers and the controller send to the auditor, and the flags that they share with it.
//!
//! Each message is one datagram of JSON. From a worker comes what it executed; the auditor believes nothing else that a
//! worker says. From the controller comes whose worker a process is.

use std::io::{self, IoSliceMut};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, send};
use serde::{Deserialize, Serialize};

use super::WhenFull;

/// Upper bound on the bytes of a message.
pub const LONGEST: usize = 32 << 10;

/// Upper bound on the bytes of a label or identifier. Of a longer one nothing is recorded.
pub const LONGEST_NAME: usize = 256;

/// Upper bound on the objects of a record.
pub const MOST_OBJECTS: usize = 8;

/// Upper bound on the attribute types of a record.
pub const MOST_ATTRIBUTES: usize = 64;

/// What a worker sends.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromWorker {
    /// Who its client is, by the handshake. Counts before the first call only.
    User(String),
    /// Who its client is, by a PROXY header. Counts once, before that and only where there is such a header.
    Peer(String),
    /// The profile that its client has. Counts once, before the first call.
    Profile(String),
    /// A call that was answered.
    Call(CallRecord),
}

/// A call that was answered.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CallRecord {
    /// Its number on this connection.
    pub call: u64,
    /// The number of the function.
    pub function: u32,
    /// The alias of the module, in hexadecimal digits.
    pub module: String,
    /// The session that it was made in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<u64>,
    /// The mechanism of its operation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mechanism: Option<u64>,
    /// What it works on.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub objects: Vec<Object>,
    /// The types of the attributes in its templates.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub attributes: Vec<u64>,
    /// The CK_RV; none if there was an internal error.
    pub rv: Option<u64>,
    /// What refused it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refused: Option<Rule>,
}

/// An object, or the template of one that is made.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// Its handle, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub handle: Option<u64>,
    /// CKA_LABEL, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub label: Option<String>,
    /// CKA_ID, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<String>,
    /// CKA_CLASS.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub class: Option<u64>,
}

/// What refused a call: a rule of filter.conf, or a limit of pkcs11proxyd.conf. All is missing if neither did, such as for
/// a malformed template.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The option.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub option: String,
    /// The file.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub file: String,
    /// The line in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u32>,
    /// The name of the limit.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub limit: String,
}

/// What the controller sends.
#[derive(Debug, Deserialize, Serialize)]
pub enum Told {
    /// A worker is about to get a client.
    Given(Given),
    /// The workers that have a client were told.
    Ready,
    /// The worker of this process was reaped.
    Left(i32),
    /// The log may have been renamed.
    Reopen,
    /// Another daemon writes the log from now on; go on beside it.
    MoveAside,
    /// All workers have ended.
    End,
}

/// A worker with its client.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Given {
    /// Its process.
    pub pid: i32,
    /// The number of the connection.
    pub connection: usize,
    /// The client's address, or its user and process.
    pub peer: String,
    /// Whether a PROXY header is to come that says more of the client.
    pub awaits_header: bool,
    /// Who the client is, by TLS, if that is known already.
    pub user: String,
    /// The client's profile, if that is known already.
    pub profile: String,
    /// The service.
    pub service: String,
}

/// Writes a message.
pub fn message(message: &impl Serialize) -> Vec<u8> {
    // Fails for maps with strange keys only; there are none.
    serde_json::to_vec(message).unwrap_or_default()
}

/// What all processes of the daemon see.
#[derive(Clone, Copy)]
pub struct Flags(&'static [AtomicU64]);

const UNWRITABLE: usize = 0;
const DOWN: usize = 1;
const REFUSED: usize = 2;
const LOST: usize = 3;
const FIELDS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);

impl Flags {
    /// Made by the controller before it forks.
    pub fn new() -> io::Result<Flags> {
        Ok(Flags(bindings::shared::counters(FIELDS)?))
    }

    fn set(&self, field: usize, value: bool) {
        if let Some(flag) = self.0.get(field) {
            flag.store(value.into(), Ordering::SeqCst);
        }
    }

    fn add(&self, field: usize) {
        if let Some(counter) = self.0.get(field) {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The auditor says whether it can write lines.
    pub fn set_writable(&self, is_writable: bool) {
        self.set(UNWRITABLE, !is_writable);
    }

    /// The controller says whether there is an auditor.
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

    fn count(&self, field: usize) -> u64 {
        let counter = self.0.get(field);
        counter.map_or(0, |counter| counter.load(Ordering::SeqCst))
    }

    /// How many calls were refused, because no line could be written, and are in no line.
    pub fn refused(&self) -> u64 {
        self.count(REFUSED)
    }

    /// How many records workers could not send, that are in no line.
    pub fn lost(&self) -> u64 {
        self.count(LOST)
    }

    /// A line says of so many.
    pub fn told(&self, refused: u64, lost: u64) {
        for (field, count) in [(REFUSED, refused), (LOST, lost)] {
            if let Some(counter) = self.0.get(field) {
                counter.fetch_sub(count, Ordering::SeqCst);
            }
        }
    }
}

/// What a worker sends with. Each has a socket of its own, so that it can harm no other.
#[derive(Clone)]
pub struct RecordSender {
    socket: Arc<OwnedFd>,
    flags: Flags,
    when_full: WhenFull,
}

impl RecordSender {
    /// Sends to the other end of this socket.
    pub fn new(socket: OwnedFd, flags: Flags, when_full: WhenFull) -> RecordSender {
        RecordSender {
            socket: Arc::new(socket),
            flags,
            when_full,
        }
    }

    /// Whether a call may be executed now. Counts it if not.
    pub fn admits(&self) -> bool {
        let admits = self.when_full == WhenFull::Count || self.flags.is_open();
        if !admits {
            self.flags.add(REFUSED);
        }
        admits
    }

    /// Sends a message, and waits for room for it.
    pub fn send(&self, what: &FromWorker) {
        let bytes = message(what);
        loop {
            match send(self.socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(_) => return,
                Err(Errno::EINTR) => {}
                Err(error) => {
                    self.flags.add(LOST);
                    log::error!("a call is not in the audit log: {error}");
                    return;
                }
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
    /// Nothing more ever.
    Closed,
    /// A message.
    Message {
        /// Its length in the buffer; 0 if it has no room there.
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
                // It says who sent a message, and so that there is one.
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
