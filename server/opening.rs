//! Tells the controller how far a client is, until its first complete call has come.
//!
//! When a worker gets a client, it peeks at what the client has sent: its PROXY header or, without TLS, its first call.
//! The bytes stay in the socket. [`crate::gateway`] reports calls. The controller decides whether a client has taken
//! too long (`controller::admission`).

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use xdr::record::MARK_SIZE;

use crate::channel::WorkerEnd;
use crate::proxy;

/// The number of bytes that are examined. The first call of every client is shorter.
const LOOKED_AT: usize = 1024;

/// Tells the controller if the client's first record is incomplete, and for how long the client has been silent. A
/// client that waited for a worker may already have used up its time.
pub fn tell_if_it_waits(channel: &WorkerEnd, socket: &impl AsFd) {
    tell_if(channel, socket, is_incomplete);
}

/// Tells the controller the same about the PROXY header.
pub fn tell_if_header_waits(channel: &WorkerEnd, socket: &impl AsFd) {
    tell_if(channel, socket, proxy::is_incomplete);
}

fn tell_if(channel: &WorkerEnd, socket: &impl AsFd, waits: impl FnOnce(&[u8]) -> bool) {
    let mut bytes = [0; LOOKED_AT];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let count = match recv(socket.as_fd().as_raw_fd(), &mut bytes, flags) {
        Ok(0) => return, // the client has disconnected
        Ok(count) => count,
        Err(_) => 0,
    };
    if bytes.get(..count).is_some_and(waits) {
        let idle = bindings::sys::idle_time(socket.as_fd());
        channel.waits(idle.unwrap_or(Duration::ZERO));
    }
}

/// Whether a record is incomplete. False for a record that is longer than [`LOOKED_AT`].
fn is_incomplete(mut bytes: &[u8]) -> bool {
    const LAST: u32 = 1 << 31;
    let whole = bytes.len();
    while let Some((mark, rest)) = bytes.split_first_chunk::<MARK_SIZE>() {
        let mark = u32::from_be_bytes(*mark);
        let length = usize::try_from(mark & !LAST).unwrap_or(usize::MAX);
        match rest.get(length..) {
            Some(_) if mark & LAST != 0 => return false,
            Some(behind) => bytes = behind,
            None => break,
        }
    }
    whole < LOOKED_AT
}

/// Tells the controller once that the client has made a call.
pub struct FirstCall {
    channel: Arc<WorkerEnd>,
    is_told: AtomicBool,
}

impl FirstCall {
    /// Makes the state in which no call has come yet.
    pub fn new(channel: Arc<WorkerEnd>) -> FirstCall {
        FirstCall {
            channel,
            is_told: AtomicBool::new(false),
        }
    }

    /// Called when a complete call has come. Tells the controller, unless that has been done.
    pub fn has_come(&self) {
        if !self.is_told.load(Ordering::Relaxed) && self.channel.established() {
            self.is_told.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::channel::{Message, pair};

    #[test]
    fn a_record_is_complete_when_its_last_fragment_is() {
        let call = [[0x80, 0, 0, 4], [1, 2, 3, 4]].concat();
        let fragments = [&[0, 0, 0, 1, 9, 0, 0, 0, 0][..], &call].concat();
        for complete in [&call, &fragments] {
            assert!(!is_incomplete(complete));
            for end in 0..complete.len() {
                assert!(is_incomplete(&complete[..end]), "{end}");
            }
        }
        let long = [&[0x80, 1, 0, 0][..], &[0; LOOKED_AT - 4]].concat();
        assert!(!is_incomplete(&long) && is_incomplete(&long[1..]));
    }

    #[test]
    fn tells_of_clients_that_have_sent_less_than_a_call() {
        let (controller, channel) = pair().unwrap();
        let (ours, mut client) = UnixStream::pair().unwrap();
        let tells = || {
            tell_if_it_waits(&channel, &ours);
            match controller.next_message().unwrap() {
                Some(message) => matches!(message, Message::Waits(Duration::ZERO)),
                None => false,
            }
        };
        assert!(tells());
        client.write_all(&[0x80, 0, 0, 1]).unwrap();
        assert!(tells());
        client.write_all(&[7]).unwrap();
        assert!(!tells());
        drop(client);
        let first = FirstCall::new(Arc::new(channel));
        first.has_come();
        first.has_come();
        let told = controller.next_message().unwrap();
        assert!(matches!(told, Some(Message::Established)));
        assert!(controller.next_message().unwrap().is_none());
    }
}
