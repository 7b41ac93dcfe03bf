//! Sends and receives records over a connection that has two halves, which two threads can use at the same time.
//!
//! A connection is a plain socket, or TLS on one. The halves of a plain socket share nothing but the socket;
//! `tls::halves` describes those of TLS. [`Closer::shut_down`] wakes a thread that is blocked in either half. The
//! content of records is not looked at here.

use std::io;
use std::mem;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use openssl::ssl::SslStream;
use socket2::Socket;
use xdr::codec::Slices;

use crate::deadline::Deadline;
use crate::socket::{Incoming, Outgoing, TimedSocket};
use crate::tls::Pipe;
use crate::tls::halves::{Shared, Surroundings, TlsReceiver, TlsSender, split};

/// The half from the peer.
pub struct Receiver(Receiving);

enum Receiving {
    Plain(Incoming),
    Tls(Box<TlsReceiver>),
}

/// The half to the peer.
pub struct Sender(Sending);

enum Sending {
    Plain(Outgoing),
    Tls(TlsSender),
}

/// Ends the connection, from any thread.
#[derive(Clone)]
pub struct Closer {
    socket: Arc<Socket>,
    tls: Option<Arc<Shared>>,
}

/// A connection, split into its parts.
pub struct Halves {
    /// The half from the peer.
    pub receiver: Receiver,
    /// The half to the peer.
    pub sender: Sender,
    /// Ends both halves.
    pub closer: Closer,
}

impl Halves {
    /// A connection without TLS.
    pub fn plain(socket: TimedSocket) -> Halves {
        let closer = Closer {
            socket: socket.socket().clone(),
            tls: None,
        };
        let (incoming, outgoing) = socket.split();
        Halves {
            receiver: Receiver(Receiving::Plain(incoming)),
            sender: Sender(Sending::Plain(outgoing)),
            closer,
        }
    }

    /// A connection after its TLS handshake. `fragment` is the most plaintext that one TLS record may carry to
    /// this peer, in bytes.
    pub fn tls(
        stream: SslStream<Pipe>,
        fragment: usize,
        surroundings: Surroundings,
    ) -> io::Result<Halves> {
        let socket = stream.get_ref().socket().cloned();
        let parts = socket.zip(split(stream, fragment, surroundings));
        let (socket, (receiver, sender, shared)) = parts.ok_or(io::ErrorKind::NotConnected)?;
        Ok(Halves {
            receiver: Receiver(Receiving::Tls(Box::new(receiver))),
            sender: Sender(Sending::Tls(sender)),
            closer: Closer {
                socket,
                tls: Some(shared),
            },
        })
    }
}

impl Receiver {
    /// Receives some bytes. Returns 0 if the peer closed the connection, with TLS also if it did so without
    /// close_notify, and after [`Closer::shut_down`]. Without a deadline it waits for ever. Fails with
    /// [`io::ErrorKind::TimedOut`] at the deadline.
    pub fn receive(&mut self, space: &mut [u8], deadline: Option<Deadline>) -> io::Result<usize> {
        match &mut self.0 {
            Receiving::Plain(socket) => socket.receive(space, deadline),
            Receiving::Tls(stream) => stream.receive(space, deadline),
        }
    }

    /// Notes that the guard of the socket was asked just now, so that the next receive does not ask it.
    pub fn is_checked_now(&mut self) {
        match &mut self.0 {
            Receiving::Plain(socket) => socket.is_checked_now(),
            Receiving::Tls(stream) => stream.is_checked_now(),
        }
    }

    /// Makes the next receive poll for a moment before it sleeps, if that has paid lately.
    pub fn poll_first(&mut self) {
        match &mut self.0 {
            Receiving::Plain(socket) => socket.poll_first(),
            Receiving::Tls(stream) => stream.poll_first(),
        }
    }

    /// Sets a time limit for each TLS record from its first byte to its last, which applies where no deadline is given:
    /// the peer may idle between two TLS records, but not within one.
    pub fn limit_tls_records(&mut self, time: Duration) {
        match &mut self.0 {
            Receiving::Plain(_) => {}
            Receiving::Tls(stream) => stream.limit_records(time),
        }
    }
}

impl Sender {
    /// Sends a whole record of the protocol.
    pub fn send_record(&mut self, record: &mut Slices<'_>, deadline: Deadline) -> io::Result<()> {
        match &mut self.0 {
            Sending::Plain(socket) => socket.send_record(record, deadline),
            Sending::Tls(stream) => stream.send_record(record, deadline),
        }
    }
}

impl Closer {
    /// The socket of the connection.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Tells the peer that nothing more will be sent (TLS only). Gives up at the deadline, and at once if a thread is
    /// in [`Sender::send_record`].
    pub fn farewell(&self, deadline: Deadline) {
        if let Some(tls) = &self.tls {
            tls.farewell(deadline);
        }
    }

    /// Ends both directions of the socket. Threads that wait for it return; the descriptor stays open until the
    /// last part of the connection is dropped.
    pub fn shut_down(&self) {
        // Fails when the peer was faster; the connection is over either way.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Frees OpenSSL's objects. Both halves fail from then on.
    pub fn free(&self) {
        if let Some(tls) = &self.tls {
            tls.free();
        }
    }

    /// Leaves OpenSSL's objects in memory when the last part of the connection is dropped, unless they were freed
    /// before. Both halves fail from then on. If another thread uses the objects, or did so in the parent that this
    /// process was forked from, everything that belongs to the connection stays.
    pub fn leave_tls_behind(&self) {
        if let Some(tls) = &self.tls {
            if !tls.leave_objects_behind() {
                mem::forget(tls.clone());
            }
        }
    }

    /// Leaves the descriptor open when the last part of the connection is dropped.
    pub fn leave_socket_behind(&self) {
        mem::forget(self.socket.clone());
    }
}

#[cfg(test)]
pub(crate) mod tests;
