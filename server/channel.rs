//! The one-way channel from a worker to the controller, and what the controller sends the worker:
//! the client's socket, once.
//!
//! A Unix socket pair that keeps message boundaries. From the worker come log records only, in a
//! fixed shape; the controller believes nothing of them but their text, and its logger escapes that.
//! A worker never waits for the controller: a record that finds no room is counted and dropped.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, shutdown, socketpair,
};

use crate::logging::{Record, Route, Severity};

/// Bytes of a log record at the most; a longer message is cut.
const RECORD_SIZE: usize = 4096;

/// Bytes of the text that tells a worker who its client is, at the most.
const PEER_SIZE: usize = 256;

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
    /// Hands the client's socket to the worker; nothing more can be sent to it afterwards.
    pub fn hand_over(&self, client: BorrowedFd<'_>, peer: &str) -> io::Result<()> {
        let peer = peer.as_bytes();
        bindings::sys::send(self.0.as_fd(), &peer[..peer.len().min(PEER_SIZE)], client)?;
        Ok(shutdown(self.0.as_raw_fd(), Shutdown::Write)?)
    }

    /// The next log record, without waiting; `Ok(None)` when there is none now. An error means that
    /// the worker is gone.
    pub fn next_record(&self) -> io::Result<Option<WorkerRecord>> {
        let mut buffer = [0; RECORD_SIZE];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    if let Some(record) = WorkerRecord::read(&buffer[..length]) {
                        return Ok(Some(record));
                    }
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

/// A log record as it came from a worker: severity, length of the subchannel, subchannel, message.
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

    /// The record as the loggers take it; the component is the worker's service.
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

/// The worker's end; where its log goes.
pub struct WorkerEnd {
    socket: OwnedFd,
    /// Records that found no room since the last one that did.
    lost: AtomicU32,
}

impl WorkerEnd {
    /// Waits for the client: its socket and who it is. `None` when the controller wants no more.
    pub fn client(&self) -> io::Result<Option<(OwnedFd, String)>> {
        let mut peer = [0; PEER_SIZE];
        let received = bindings::sys::receive(self.socket.as_fd(), &mut peer)?;
        Ok(received.map(|(length, socket)| {
            (
                socket,
                String::from_utf8_lossy(&peer[..length]).into_owned(),
            )
        }))
    }

    fn send(&self, severity: Severity, subchannel: &str, message: &str) -> bool {
        let mut bytes = Vec::with_capacity(RECORD_SIZE);
        let subchannel = &subchannel.as_bytes()[..subchannel.len().min(255)];
        bytes.push(severity as u8);
        bytes.push(u8::try_from(subchannel.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(subchannel);
        let room = RECORD_SIZE - bytes.len();
        bytes.extend_from_slice(&message.as_bytes()[..message.len().min(room)]);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(self.socket.as_raw_fd(), &bytes, flags).is_ok()
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
            let message = format!("{lost} log messages were lost: the log is too slow");
            if !self.send(Severity::Warning, "", &message) {
                self.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
        if !self.send(record.severity, record.subchannel, record.message) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_arrive_as_they_were_and_the_clients_socket_comes_once() {
        let (controller, worker) = pair().unwrap();
        let (client, _peer) = pair().unwrap();
        controller.hand_over(client.as_fd(), "127.0.0.1:5").unwrap();
        assert_eq!(worker.client().unwrap().unwrap().1, "127.0.0.1:5");
        assert!(worker.client().unwrap().is_none());
        assert!(controller.hand_over(client.as_fd(), "again").is_err());

        let record = Record {
            severity: Severity::Alert,
            component: "",
            subchannel: "filter",
            message: "C_Sign refused",
        };
        worker.record(&record);
        let received = controller.next_record().unwrap().unwrap();
        let received = received.for_component("service");
        assert_eq!(received.severity, Severity::Alert);
        assert_eq!(
            (received.subchannel, received.message),
            ("filter", "C_Sign refused")
        );
        assert_eq!(received.component, "service");
        assert!(controller.next_record().unwrap().is_none());
        drop(worker);
        assert!(controller.next_record().is_err());
    }

    #[test]
    fn anything_else_from_a_worker_is_passed_over() {
        let (controller, worker) = pair().unwrap();
        for bytes in [&[200, 0, b'x'][..], &[3], &[3, 9, b'x']] {
            send(worker.socket.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
        }
        assert!(controller.next_record().unwrap().is_none());
    }

    #[test]
    fn a_worker_never_waits_for_a_slow_controller_and_tells_what_was_lost() {
        let (controller, worker) = pair().unwrap();
        let message = "x".repeat(10_000);
        let record = Record {
            severity: Severity::Info,
            component: "",
            subchannel: "",
            message: &message,
        };
        for _ in 0..10_000 {
            worker.record(&record);
        }
        let lost = worker.lost.load(Ordering::Relaxed);
        assert!(lost > 0 && lost < 10_000);
        while controller.next_record().unwrap().is_some() {}
        worker.record(&record);
        let told = controller.next_record().unwrap().unwrap().message;
        assert!(told.starts_with(&lost.to_string()), "{told}");
    }
}
