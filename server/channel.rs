//! Carries log messages from a worker to the controller, and the client's socket, once, to the worker.
//!
//! A channel is a Unix socket pair that keeps message boundaries. The worker sends log records of a fixed form. Until
//! the first call of its client is complete, it also reports who the client is and how far it has come. The controller
//! uses only the text of a record, and its logger escapes that. A worker never waits for the controller: a record for
//! which the channel has no room is dropped and counted.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, shutdown, socketpair,
};

use crate::logging::{Record, Route, Severity};
use crate::proxy::Origin;

/// Upper bound on the bytes of a log record. A longer message is cut off.
const RECORD_SIZE: usize = 4096;

/// Upper bound on the bytes of the client's name.
const PEER_SIZE: usize = 256;

/// Upper bound on the bytes of the client's name in its certificate. A longer text is cut off.
const USER_SIZE: usize = 512;

/// Returns the first bytes of a text, at most this many.
fn start(text: &str, most: usize) -> &[u8] {
    let bytes = text.as_bytes();
    bytes.get(..most).unwrap_or(bytes)
}

/// Makes a channel: the controller's end, then the worker's.
pub fn pair() -> io::Result<(ControllerEnd, WorkerEnd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    Ok((
        ControllerEnd(ours),
        WorkerEnd {
            socket: theirs,
            lost: AtomicU32::new(0),
        },
    ))
}

/// The controller's end.
pub struct ControllerEnd(OwnedFd);

impl ControllerEnd {
    /// Sends the worker its client's socket and name. Nothing more can be sent to it afterwards.
    pub fn hand_over(&self, client: BorrowedFd<'_>, peer: &str) -> io::Result<()> {
        bindings::sys::send(self.0.as_fd(), start(peer, PEER_SIZE), client)?;
        Ok(shutdown(self.0.as_raw_fd(), Shutdown::Write)?)
    }

    /// Sends a message and its file descriptors, without waiting, to a process that is not a worker.
    pub fn tell(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        bindings::sys::send_now(self.0.as_fd(), message, descriptors)
    }

    /// Reads the next message, without waiting; `Ok(None)` if there is none now. An error means that the
    /// worker has ended.
    pub fn next_message(&self) -> io::Result<Option<Message>> {
        let mut buffer = [0; RECORD_SIZE];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    let received = buffer.get(..length).unwrap_or_default();
                    // It counts for the caller's limit also if it means nothing.
                    return Ok(Some(Message::read(received).unwrap_or(Message::Unknown)));
                }
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for ControllerEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why a client or one of its logins is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// The TLS handshake failed.
    Tls,
    /// Too many logins failed.
    Logins,
    /// Its profile refuses it, or it has none.
    Profile,
    /// Its PROXY header is refused or missing.
    Proxy,
}

impl Cause {
    /// All causes, each at the index that is its byte on the channel.
    const ALL: [Cause; 4] = [Cause::Tls, Cause::Logins, Cause::Profile, Cause::Proxy];
}

/// A message from a worker or the auditor. Its first byte says which of these it is.
pub enum Message {
    /// A log record.
    Log(WorkerRecord),
    /// A log record about a refused client or login. Clients can cause these at will, so their rate is limited.
    Refusal(Cause, WorkerRecord),
    /// The client's TLS handshake succeeded.
    ShookHands,
    /// The client's first call is incomplete, and the client has been silent for this long.
    Waits(Duration),
    /// The client's first complete call has come.
    Established,
    /// The client's name: the one in its certificate, or the identity of its pre-shared key.
    User(String),
    /// The PROXY header has arrived. It says whose connection this is.
    Header(Origin),
    /// From the auditor: the last records of the worker with this connection are written.
    Written(usize),
    /// Something that no honest worker sends.
    Unknown,
}

const LOG: u8 = 0;
const REFUSAL: u8 = 1;
const SHOOK_HANDS: u8 = 2;
const WAITS: u8 = 3;
const ESTABLISHED: u8 = 4;
const USER: u8 = 5;
const CLIENT: u8 = 6;
const BALANCER: u8 = 7;
const WRITTEN: u8 = 8;

impl Message {
    fn read(bytes: &[u8]) -> Option<Message> {
        let (kind, bytes) = bytes.split_first()?;
        match *kind {
            LOG => WorkerRecord::read(bytes).map(Message::Log),
            REFUSAL => {
                let (cause, record) = bytes.split_first()?;
                let cause = Cause::ALL.get(usize::from(*cause))?;
                WorkerRecord::read(record).map(|record| Message::Refusal(*cause, record))
            }
            USER => Some(Message::User(String::from_utf8_lossy(bytes).into_owned())),
            SHOOK_HANDS if bytes.is_empty() => Some(Message::ShookHands),
            WAITS => {
                let millis = u32::from_be_bytes(bytes.try_into().ok()?);
                Some(Message::Waits(Duration::from_millis(millis.into())))
            }
            ESTABLISHED if bytes.is_empty() => Some(Message::Established),
            CLIENT => {
                let (address, port) = bytes.split_first_chunk::<16>()?;
                let address = IpAddr::V6(Ipv6Addr::from(*address)).to_canonical();
                let port = u16::from_be_bytes(port.try_into().ok()?);
                let client = SocketAddr::new(address, port);
                Some(Message::Header(Origin::Client(client)))
            }
            BALANCER if bytes.is_empty() => Some(Message::Header(Origin::Balancer)),
            WRITTEN => {
                let connection = u64::from_be_bytes(bytes.try_into().ok()?);
                usize::try_from(connection).ok().map(Message::Written)
            }
            _ => None,
        }
    }
}

/// A log record from a worker. On the channel: severity, length of the subchannel, subchannel, message.
pub struct WorkerRecord {
    severity: Severity,
    subchannel: String,
    message: String,
}

impl WorkerRecord {
    fn read(bytes: &[u8]) -> Option<WorkerRecord> {
        let (&[severity, subchannel], text) = bytes.split_first_chunk()?;
        let (subchannel, message) = text.split_at_checked(usize::from(subchannel))?;
        Some(WorkerRecord {
            severity: *Severity::ALL.get(usize::from(severity))?,
            subchannel: String::from_utf8_lossy(subchannel).into_owned(),
            message: String::from_utf8_lossy(message).into_owned(),
        })
    }

    /// Returns the record for the loggers, with the name of the worker's service as component.
    pub fn for_component<'a>(&'a self, component: &'a str) -> Record<'a> {
        let WorkerRecord {
            severity,
            subchannel,
            message,
        } = self;
        Record {
            severity: *severity,
            component,
            subchannel,
            message,
        }
    }
}

/// The worker's end, which takes the worker's log records.
pub struct WorkerEnd {
    socket: OwnedFd,
    /// The number of records dropped since the last one that was sent.
    lost: AtomicU32,
}

impl WorkerEnd {
    /// Waits for the client, and returns its socket and name. `None` if the controller has closed the
    /// channel.
    pub fn client(&self) -> io::Result<Option<(OwnedFd, String)>> {
        let mut peer = [0; PEER_SIZE];
        let received = bindings::sys::receive(self.socket.as_fd(), &mut peer)?;
        Ok(received.map(|(length, socket)| {
            let peer = peer.get(..length).unwrap_or_default();
            (socket, String::from_utf8_lossy(peer).into_owned())
        }))
    }

    /// Tells the controller that the client's handshake succeeded. If the channel is full the message is lost; the
    /// message about the client's first call then replaces it.
    pub fn shook_hands(&self) {
        self.send_bytes(&[SHOOK_HANDS]);
    }

    /// Tells the controller that the first call is incomplete, and for how long the client has been silent.
    pub fn waits(&self, idle: Duration) {
        let millis = u32::try_from(idle.as_millis()).unwrap_or(u32::MAX);
        let [a, b, c, d] = millis.to_be_bytes();
        self.send_bytes(&[WAITS, a, b, c, d]);
    }

    /// Tells the controller that the client's first call has come. Returns false if the channel is full; the caller has
    /// to try again later.
    pub fn established(&self) -> bool {
        self.send_bytes(&[ESTABLISHED])
    }

    /// Tells the controller what the PROXY header says. Returns false if the channel is full.
    pub fn header_came(&self, origin: Origin) -> bool {
        let Origin::Client(client) = origin else {
            return self.send_bytes(&[BALANCER]);
        };
        let address = match client.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let mut message = vec![CLIENT];
        message.extend_from_slice(&address.octets());
        message.extend_from_slice(&client.port().to_be_bytes());
        self.send_bytes(&message)
    }

    /// Tells the controller who the client is, for administrators.
    pub fn user(&self, user: &str) {
        let mut message = vec![USER];
        message.extend_from_slice(start(user, USER_SIZE));
        self.send_bytes(&message);
    }

    /// Tells the controller that the last records of a worker are written. Waits while the channel is full, which is
    /// safe because the controller never blocks.
    pub fn written(&self, connection: usize) {
        let mut message = vec![WRITTEN];
        message.extend_from_slice(&(connection as u64).to_be_bytes());
        while send(self.socket.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL) == Err(Errno::EINTR) {
        }
    }

    /// Logs why the client is refused. The controller limits the rate of such messages.
    pub fn refused(&self, cause: Cause, severity: Severity, message: &str) {
        self.send(&[REFUSAL, cause as u8], severity, "", message);
    }

    fn send(&self, kind: &[u8], severity: Severity, subchannel: &str, message: &str) -> bool {
        let subchannel = start(subchannel, usize::from(u8::MAX));
        let head = kind.len() + 2 + subchannel.len();
        let message = start(message, RECORD_SIZE.saturating_sub(head));
        let mut bytes = Vec::with_capacity(head + message.len());
        bytes.extend_from_slice(kind);
        bytes.push(severity as u8);
        bytes.push(u8::try_from(subchannel.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(subchannel);
        bytes.extend_from_slice(message);
        self.send_bytes(&bytes)
    }

    fn send_bytes(&self, bytes: &[u8]) -> bool {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(self.socket.as_raw_fd(), bytes, flags).is_ok()
    }
}

impl AsFd for WorkerEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Route for WorkerEnd {
    fn record(&self, record: &Record<'_>) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let message = format!("{lost} log messages were dropped because the log is too slow");
            if !self.send(&[LOG], Severity::Warning, "", &message) {
                self.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
        if !self.send(&[LOG], record.severity, record.subchannel, record.message) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(message: Message) -> WorkerRecord {
        match message {
            Message::Log(record) => record,
            _ => panic!("no log record"),
        }
    }

    #[test]
    fn records_arrive_as_they_were_and_the_clients_socket_comes_once() {
        let (controller, worker) = pair().unwrap();
        let (client, _peer) = pair().unwrap();
        controller.hand_over(client.as_fd(), "127.0.0.1:5").unwrap();
        assert_eq!(worker.client().unwrap().unwrap().1, "127.0.0.1:5");
        assert!(worker.client().unwrap().is_none());
        assert!(controller.hand_over(client.as_fd(), "again").is_err());

        let logged = Record {
            severity: Severity::Alert,
            component: "",
            subchannel: "filter",
            message: "C_Sign refused",
        };
        worker.record(&logged);
        let received = record(controller.next_message().unwrap().unwrap());
        let received = received.for_component("service");
        assert_eq!(received.severity, Severity::Alert);
        assert_eq!(
            (received.subchannel, received.message),
            ("filter", "C_Sign refused")
        );
        assert_eq!(received.component, "service");
        worker.shook_hands();
        worker.waits(Duration::from_millis(70_000));
        assert!(worker.established());
        let next = || controller.next_message().unwrap().unwrap();
        assert!(matches!(next(), Message::ShookHands));
        assert!(matches!(next(), Message::Waits(idle) if idle == Duration::from_secs(70)));
        assert!(matches!(next(), Message::Established));
        let addresses = ["10.1.2.3:4567", "[2001:db8::7]:9"];
        let clients = addresses.map(|address| Origin::Client(address.parse().unwrap()));
        for origin in clients.into_iter().chain([Origin::Balancer]) {
            assert!(worker.header_came(origin));
            assert!(matches!(next(), Message::Header(told) if told == origin));
        }
        worker.refused(Cause::Profile, Severity::Warning, "no certificate");
        let refusal = controller.next_message().unwrap().unwrap();
        assert!(
            matches!(refusal, Message::Refusal(Cause::Profile, record) if record.message == "no certificate")
        );
        assert!(controller.next_message().unwrap().is_none());
        drop(worker);
        assert!(controller.next_message().is_err());
    }

    #[test]
    fn anything_else_from_a_worker_counts_as_a_message() {
        let (controller, worker) = pair().unwrap();
        for bytes in [
            &[0, 200, 0, b'x'][..],
            &[0, 3],
            &[1, 0, 3, 9, b'x'],
            &[1, 4, 3, 0, b'x'],
            &[1],
            &[2, 0],
            &[3, 0, 0, 0],
            &[4, 0],
            &[6, 0, 0],
            &[6; 18],
            &[6; 20],
            &[7, 0],
            &[8],
            &[8, 0],
            &[9],
        ] {
            send(worker.socket.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
            let message = controller.next_message().unwrap();
            assert!(matches!(message, Some(Message::Unknown)), "{bytes:?}");
        }
        assert!(controller.next_message().unwrap().is_none());
    }

    #[test]
    fn a_worker_never_waits_for_a_slow_controller_and_tells_what_was_lost() {
        let (controller, worker) = pair().unwrap();
        let message = "x".repeat(10_000);
        let logged = Record {
            severity: Severity::Info,
            component: "",
            subchannel: "",
            message: &message,
        };
        for _ in 0..10_000 {
            worker.record(&logged);
        }
        let lost = worker.lost.load(Ordering::Relaxed);
        assert!(lost > 0 && lost < 10_000);
        while controller.next_message().unwrap().is_some() {}
        worker.record(&logged);
        let told = record(controller.next_message().unwrap().unwrap()).message;
        assert!(told.starts_with(&lost.to_string()), "{told}");
    }
}
