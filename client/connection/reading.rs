//! Reads replies and notifications, in the thread that has the reader.
//!
//! A reply or notification for another thread is handed to it. The bytes of a long reply for this thread may go directly
//! into the application's memory ([`Landing`]).

use std::io;
use std::sync::Arc;

use transport::Deadline;
use transport::halves::Receiver;
use transport::shared_sender::Held;
use xdr::Function;
use xdr::codec::{DecodeError, wipe};
use xdr::rpc::{self, Asking, Notification, ReplyError, Version, Xid};
use zeroize::Zeroizing;

use super::exchange::Ticket;
use super::{Connection, Receiving};
use crate::failure::Failure;
use crate::landing::{self, Landing};

/// How many replies a thread hands over, at most, before it sends the calls that other threads have left with it. With
/// a higher number the daemon would be idle meanwhile.
const MOST_HELD_FOR: u32 = 4;

/// How many bytes are received first while a reply is expected whose bytes may go directly to the application: enough
/// for the whole record of a result that is too short for that.
const FIRST: usize = landing::SHORT + 1024;

/// How many bytes are copied at a time into memory of the application that the kernel cannot write to.
const COPIED: usize = 4 << 10;

/// A reply of more bytes is not copied if the thread that made the call reads it: the bytes stay where they were received
/// until the application has them.
const SHARED: usize = 32 << 10;

/// What a thread has received for its own call.
pub(super) enum Read<T> {
    Reply(Result<T, ReplyError>),
    /// A notification; [`Ticket::next`] returns it.
    Notification,
}

/// Returns the notification in a record, if the record is a call. Version 3 has no notifications.
fn notification<C: Asking>(record: &[u8]) -> Option<Result<(Xid, Notification), DecodeError>> {
    match C::VERSION {
        Version::Three => None,
        Version::Four => rpc::read_notification(record),
    }
}

/// Wipes a part of a result, which the call does not return, from the application's memory, if it may be secret.
fn forget(function: Function, part: &mut [u8]) {
    if function.hands_out_secrets() {
        wipe(part);
    }
}

impl Connection {
    /// Reads for all threads, until a reply or notification for this call has arrived. Hands everything else to its
    /// owner.
    pub(super) fn read<C: Asking>(
        &self,
        receiving: &mut Receiving,
        ticket: &Ticket<'_, Receiving>,
        function: Function,
        mut deadline: Option<Deadline>,
        mut landing: Option<&mut Landing<'_>>,
    ) -> Result<Read<C::Reply>, Failure> {
        let own = Xid(ticket.xid());
        let mut read = None;
        // The reply whose bytes have landed, and their number, while the end of its record is still to come.
        let mut landed = None;
        loop {
            // Threads that get their replies soon make their next calls. These calls are held back here, so that they
            // go out together. Meanwhile this thread goes on reading: the daemon has a thread for each call in flight,
            // so it receives what is sent.
            let mut held: Option<Held<'_>> = None;
            let mut handed_over = 0;
            while let Some(record) = receiving.records.next()? {
                if let Some((reply, length)) = landed.take() {
                    if let Some(landing) = &mut landing {
                        landing.set_landed(Some(length));
                    }
                    if function.hands_out_secrets() {
                        receiving.records.wipe();
                    }
                    read = Some(Read::Reply(Ok(reply)));
                    continue;
                }
                if let Some(told) = notification::<C>(record) {
                    let (xid, notification) = told.map_err(ReplyError::from)?;
                    if notification.call == own {
                        read.get_or_insert(Read::Notification);
                    }
                    ticket.notify(xid, notification)?;
                    continue;
                }
                if read.is_none() && record.len() > SHARED && rpc::xid_of(record) == Ok(own) {
                    let lent = receiving.records.lend(function.hands_out_secrets())?;
                    let reply = rpc::read_shared_reply::<C>(own, function, &Arc::new(lent));
                    read = reply.map(Read::Reply);
                    continue;
                }
                if read.is_none() {
                    if let Some(reply) = rpc::read_reply::<C>(own, function, record) {
                        read = Some(Read::Reply(reply));
                        if function.hands_out_secrets() {
                            receiving.records.wipe();
                        }
                        continue;
                    }
                }
                let other = rpc::xid_of(record).map_err(ReplyError::from)?;
                held = held.or_else(|| self.sender.hold());
                deadline = ticket.hand_over(other.0, record)?;
                receiving.records.wipe();
                handed_over += 1;
                if handed_over % MOST_HELD_FOR == 0 {
                    held.take().map_or(Ok(()), Held::send)?;
                }
            }
            held.map_or(Ok(()), Held::send)?;
            if let Some(read) = read {
                return Ok(read);
            }
            if let (Some(landing), None) = (&mut landing, &landed) {
                landed = self.land::<C>(receiving, ticket, function, &mut deadline, landing)?;
                if landed.is_some() {
                    continue;
                }
            }
            let Receiving { receiver, records } = &mut *receiving;
            // After the deadline there are few attempts to take what has arrived.
            let has_time = deadline.is_none_or(|deadline| deadline.remaining().is_ok());
            let is_first = landing.is_some() && !records.is_begun() && has_time;
            let mut space = records.space()?;
            if is_first {
                // No more, so that the bytes that follow can be received where they belong.
                let most = space.len().min(FIRST);
                space = space.get_mut(..most).unwrap_or_default();
            }
            match self.receive(receiver, space, ticket, &mut deadline) {
                Ok(received) => records.received(received),
                Err(failure) => {
                    if let (Some(landing), Some((_, length))) = (landing, landed) {
                        forget(function, landing.place(length).unwrap_or_default());
                    }
                    return Err(failure);
                }
            }
        }
    }

    /// Receives the bytes of this call's reply into `landing`, if that reply has begun to arrive and has so many bytes that
    /// this pays. Returns the reply without the bytes, and their number. The padding of the record, if it has any, is still
    /// to come then.
    fn land<C: Asking>(
        &self,
        receiving: &mut Receiving,
        ticket: &Ticket<'_, Receiving>,
        function: Function,
        deadline: &mut Option<Deadline>,
        landing: &mut Landing<'_>,
    ) -> Result<Option<(C::Reply, usize)>, Failure> {
        let Receiving { receiver, records } = receiving;
        let arriving = records.incomplete().and_then(|(arrived, size)| {
            rpc::read_arriving::<C>(Xid(ticket.xid()), function, arrived, size)
        });
        let Some(arriving) = arriving else {
            return Ok(None);
        };
        let Some(place) = landing.place(arriving.length) else {
            return Ok(None);
        };
        let mut filled = records.take_out(arriving.start, place);
        while let Some(space) = place.get_mut(filled..).filter(|space| !space.is_empty()) {
            match self.receive_there(receiver, space, ticket, deadline) {
                Ok(received) => {
                    records.received_elsewhere(received);
                    filled += received;
                }
                Err(failure) => {
                    forget(function, place.get_mut(..filled).unwrap_or_default());
                    return Err(failure);
                }
            }
        }
        Ok(Some((arriving.reply, filled)))
    }

    /// Receives some bytes into the application's memory, as [`Connection::receive`]. The kernel may not be able to write
    /// there, although the application can: some programs make pages writable when they are written to, in a signal
    /// handler. The bytes are copied then.
    fn receive_there(
        &self,
        receiver: &mut Receiver,
        space: &mut [u8],
        ticket: &Ticket<'_, Receiving>,
        deadline: &mut Option<Deadline>,
    ) -> Result<usize, Failure> {
        match self.receive(receiver, space, ticket, deadline) {
            Err(Failure::Socket(error)) if error.raw_os_error() == Some(libc::EFAULT) => {
                let mut copied = Zeroizing::new([0; COPIED]);
                let most = space.len().min(COPIED);
                let copy = copied.get_mut(..most).unwrap_or_default();
                let received = self.receive(receiver, copy, ticket, deadline)?;
                for (to, from) in space.iter_mut().zip(copy.iter().take(received)) {
                    *to = *from;
                }
                Ok(received)
            }
            received => received,
        }
    }

    /// Receives some bytes. Waits until the deadline of the call. Returns 0 if the deadline has passed and was extended.
    fn receive(
        &self,
        receiver: &mut Receiver,
        space: &mut [u8],
        ticket: &Ticket<'_, Receiving>,
        deadline: &mut Option<Deadline>,
    ) -> Result<usize, Failure> {
        match receiver.receive(space, *deadline) {
            Ok(0) => Err(self.failure_at_end()),
            Ok(count) => Ok(count),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                *deadline = ticket.read_on()?;
                Ok(0)
            }
            Err(error) => Err(error.into()),
        }
    }
}
