//! Makes calls to the daemon over one connection: several at a time, each within its deadline.
//!
//! Calls come from `library`, as values. A record goes out in one `sendmsg` and its reply usually comes back in one
//! `recv`, with or without TLS. The connection has no thread of its own. Of the threads that wait for replies, one
//! reads for all (`exchange` decides which) and hands each reply to its owner (`reading`). If only one thread makes
//! calls, it writes and reads itself, and waits for no other thread. While the daemon executes a call of version 4, it
//! may notify the application; the thread that waits for the reply calls the application's callback and sends the
//! answer.
//!
//! Calls of one session go out one after the other, and so do all calls of version 3. In version 4, C_Finalize goes out
//! at once, and waits only briefly for calls of other threads that are in flight. A failure after which a reply could
//! be taken for that of another call ends the connection for good; so does a timeout. The sessions and operations end
//! with the connection, so nothing reconnects without the application's knowledge. The signal mask and handlers stay as
//! they are, and SIGPIPE is not raised.

mod exchange;
#[cfg(test)]
mod exchange_tests;
#[cfg(test)]
mod model;
mod reading;

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use transport::halves::{Closer, Halves, Receiver};
use transport::tls::{PROTOCOL3, PROTOCOLS};
use transport::{Deadline, SharedSender};
use xdr::codec::{EncodeError, Slices, wipe};
use xdr::ending::calls_that_end;
use xdr::facts::Family;
use xdr::record::{MARK_SIZE, Records};
use xdr::rpc::{self, Asking, Notification, ReplyError, Version, Xid};
use xdr::{Call, CkRv, Function, Hello, HelloResult, NullPlaces, Reply, SessionHandle, version3};

use crate::IS_UNLOADED;
use crate::advice::Advice;
use crate::failure::Failure;
use crate::landing::Landing;
use crate::library::ROOM_AT_END;
use crate::remote::Remote;
use crate::settings::{Daemon, Endpoint, Settings};
use crate::socket::{self, Connected, Purpose, Registered, SocketError};
use crate::tls::{self, TlsError};

use exchange::{Exchange, Next, Order, Stopped, Ticket};
pub(crate) use exchange::{calling_back, is_calling_back};
use reading::Read;

/// The locks that `exchange` uses; its model has other ones.
mod sync {
    pub(super) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
}

/// The longest reply that is accepted, in bytes. Memory grows with the bytes that have arrived, not with the announced
/// length.
pub(crate) const LONGEST_REPLY: usize = 1 << 30;

/// How long sending the last message (TLS close_notify) may take.
const FAREWELL: Duration = Duration::from_millis(200);

/// How long C_Finalize waits for its turn and for the daemon while calls of other threads are in flight.
const FINALIZE: Duration = Duration::from_secs(1);

/// The accept status PROG_MISMATCH: the program does not have this version (RFC 5531, section 9).
const PROG_MISMATCH: u32 = 2;

/// CKF_DONT_BLOCK of C_WaitForSlotEvent.
const DONT_BLOCK: u64 = 1;

/// CKF_OS_LOCKING_OK of C_Initialize.
const OS_LOCKING_OK: u64 = 2;

/// A connection to a daemon.
pub(crate) struct Connection {
    /// The daemon's endpoint, for the log.
    peer: Endpoint,
    /// Whether the library reconnects without C_Initialize.
    recovers: bool,
    /// Why the last call within C_Initialize failed.
    failure: Mutex<Option<Failure>>,
    /// Dropped before `closer` and the other halves, which close the descriptor.
    registered: Registered,
    closer: Closer,
    sender: SharedSender,
    exchange: Exchange<Receiving>,
    notify: Notify,
    /// The longest call that the daemon accepts, in bytes.
    longest_call: AtomicU64,
    /// The deadline for the reply to the first call.
    answers_by: Deadline,
}

/// Passes a notification (CK_NOTIFICATION) of a session to the application. Returns the application's answer.
pub(crate) type Notify = Box<dyn Fn(SessionHandle, u64) -> CkRv + Send + Sync>;

/// The receiving half of the connection. The thread that reads owns it meanwhile.
struct Receiving {
    receiver: Receiver,
    records: Records,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{0}")]
    Socket(#[from] SocketError),
    #[error("{0}")]
    Tls(#[from] TlsError),
}

impl Connection {
    /// Connects, and fails at `deadline`. This includes resolving a name and the TLS handshake. Each call then has the
    /// timeout of the settings. `notify` is called in threads whose call is in progress.
    pub fn open(
        daemon: &Daemon,
        settings: &Settings,
        deadline: Deadline,
        purpose: Purpose,
        notify: Notify,
    ) -> Result<Connection, ConnectError> {
        let resolved = socket::resolve(&daemon.endpoint, settings.threads, deadline)?;
        let Connected { registered, timed } = socket::connect(&resolved, purpose, deadline)?;
        let halves = match &daemon.tls {
            None => Halves::plain(timed),
            Some(tls) => tls::connect(timed, tls, offered(settings.protocol), deadline)?.halves,
        };
        let peer = daemon.endpoint.clone();
        let connection = Connection::over(peer, registered, halves, settings, deadline, notify);
        Ok(connection)
    }

    /// Makes a connection from a connected socket, after the TLS handshake. The deadline for the first call's reply is
    /// `answers_by`.
    pub fn over(
        peer: Endpoint,
        registered: Registered,
        halves: Halves,
        settings: &Settings,
        answers_by: Deadline,
        notify: Notify,
    ) -> Connection {
        let Halves {
            receiver,
            sender,
            closer,
        } = halves;
        let timeout = settings.timeout;
        Connection {
            peer,
            recovers: settings.recovery.is_some(),
            failure: Mutex::new(None),
            registered,
            closer,
            sender: SharedSender::new(sender, timeout),
            exchange: Exchange::new(
                first_xid(),
                timeout,
                Receiving {
                    receiver,
                    records: Records::new(LONGEST_REPLY),
                },
            ),
            notify,
            longest_call: AtomicU64::new(u64::MAX),
            answers_by,
        }
    }
}

/// Returns the ALPN protocols to offer over TLS for this version of the protocol; `None` offers both.
pub(crate) fn offered(protocol: Option<Version>) -> &'static [&'static [u8]] {
    match protocol {
        None | Some(Version::Four) => &PROTOCOLS,
        Some(Version::Three) => &[PROTOCOL3],
    }
}

impl Connection {
    /// Sets the timeout of calls from now on.
    pub fn set_timeout(&self, timeout: Duration) {
        self.exchange.set_timeout(timeout);
    }
}

/// Returns a random first xid, so that connections can be told apart in a capture. It need not be unpredictable.
fn first_xid() -> u32 {
    let random = std::hash::RandomState::new().build_hasher().finish();
    let [a, b, c, d, ..] = random.to_ne_bytes(); // either half will do
    u32::from_ne_bytes([a, b, c, d])
}

/// A reply, of either version, that contains only a CK_RV.
trait Only: Sized {
    fn only_rv(function: Function, rv: CkRv) -> Self;
}

impl Only for Reply {
    fn only_rv(function: Function, rv: CkRv) -> Reply {
        Reply::only(function, rv)
    }
}

impl Only for version3::Reply {
    fn only_rv(function: Function, rv: CkRv) -> version3::Reply {
        version3::Reply::only(function, rv).unwrap_or(version3::Reply::C_Finalize(rv))
    }
}

/// How a call is sent.
#[derive(Clone, Copy)]
struct Manner {
    order: Order,
    /// Whether to announce to the daemon that other calls may overlap this one, although none is in flight yet.
    is_slow: bool,
}

impl Connection {
    fn manner(call: &Call<'_>) -> Manner {
        let function = call.function();
        let order = match call {
            Call::C_SessionCancel(..) | Call::C_CancelFunction(_) => Order::Free,
            Call::C_WaitForSlotEvent(flags) if flags.0 & DONT_BLOCK == 0 => Order::Waiting,
            Call::C_Finalize() => Order::AtOnce,
            call => call.session().map_or(Order::Free, |it| Order::Of(it.0)),
        };
        Manner {
            order,
            is_slow: function.facts().is_of(Family::Generate),
        }
    }

    /// Makes a call. A failure of any kind is a CK_RV in the reply.
    fn make<C: Asking<Reply: Only>>(&self, call: &C, manner: Manner) -> C::Reply {
        self.answered(call.function(), self.ask(call, manner, None))
    }

    /// Makes a call of version 4; see [`Remote::call_into`].
    fn make_into(
        &self,
        call: Call<'_>,
        nulls: NullPlaces,
        landing: Option<&mut Landing<'_>>,
    ) -> Reply {
        let manner = Connection::manner(&call);
        let call = (call, nulls);
        let asked = self.ask(&call, manner, landing);
        let (call, _) = call;
        if matches!(asked, Err(Failure::TooLong)) {
            self.end_operations(&call);
        }
        self.answered(call.function(), asked)
    }

    /// Returns the reply; if there is none, logs why and returns a reply with a CK_RV for the failure.
    fn answered<R: Only>(&self, function: Function, asked: Result<R, Failure>) -> R {
        let failure = match asked {
            Ok(reply) => return reply,
            Err(failure) => failure,
        };
        let rv = failure.rv();
        match (function, failure) {
            // The failure was logged when the connection ended.
            (_, Failure::Lost | Failure::Finalized) => {}
            (Function::C_LoadModule | Function::C_Initialize | Function::C_SetupArch, failure) => {
                self.keep(failure);
            }
            (function, failure) => {
                let (name, peer) = (function.name(), &self.peer);
                let advice = Advice(failure.advice(self.recovers));
                // Recovery decides, and logs, what a lost connection means for the call.
                match self.recovers && failure.is_fatal() {
                    true => log::warn!("{name}: {peer}: {failure}{advice}"),
                    false => log::warn!("{name}: {peer}: {failure}; returning {rv}{advice}"),
                }
            }
        }
        R::only_rv(function, rv)
    }

    /// Stores why a call within C_Initialize failed, so that a failed C_Initialize logs only one message.
    fn keep(&self, failure: Failure) {
        let mut kept = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some(failure);
    }

    /// Ends the operations of a call that is too long to be sent. A failing call ends its operation, but the daemon
    /// does not see this call.
    fn end_operations(&self, call: &Call<'_>) {
        let Some(session) = call.session() else {
            return;
        };
        for ending in calls_that_end(call.function(), session, ROOM_AT_END) {
            self.make(&ending, Connection::manner(&ending)).wipe();
        }
    }

    /// Makes a call. Ends the connection if a later reply could be taken for that of another call.
    fn ask<C: Asking>(
        &self,
        call: &C,
        manner: Manner,
        landing: Option<&mut Landing<'_>>,
    ) -> Result<C::Reply, Failure> {
        let asked = self.exchange(call, manner, landing);
        if asked.as_ref().is_err_and(Failure::is_fatal) {
            if self.exchange.stopped() == Some(Stopped::Closed) {
                // The call failed because C_Finalize has closed the connection meanwhile.
                return Err(Failure::Finalized);
            }
            self.end(Stopped::Lost);
        }
        asked
    }

    fn exchange<C: Asking>(
        &self,
        call: &C,
        manner: Manner,
        landing: Option<&mut Landing<'_>>,
    ) -> Result<C::Reply, Failure> {
        let mut landing = landing.filter(|landing| landing.is_long());
        let ticket = self.exchange.enter(manner.order, manner.is_slow)?;
        let (xid, function) = (Xid(ticket.xid()), call.function());
        if function == Function::C_Finalize {
            ticket.limit_patience(FINALIZE);
        }
        ticket.begin()?;
        self.send_call(&ticket, call)?;
        // The descriptor was checked before sending, and no code of the application has run in this thread since.
        let mut is_checked = true;
        loop {
            match ticket.next()? {
                Next::Reply(mut record) => {
                    let reply = rpc::read_reply::<C>(xid, function, &record);
                    wipe(&mut record);
                    return Ok(reply.ok_or(Failure::Lost)??);
                }
                Next::Notification(xid, notification) => {
                    is_checked = false;
                    self.notify(&ticket, xid, notification)?;
                }
                Next::Read {
                    reader: mut receiving,
                    until,
                    has_waited,
                    is_alone,
                } => {
                    if is_checked && !has_waited {
                        receiving.receiver.is_checked_now();
                    }
                    is_checked = false;
                    // Threads with other calls need the processor more. A call without a deadline waits for an event.
                    if is_alone && !ticket.overlaps() && until.is_some() {
                        receiving.receiver.poll_first();
                    }
                    // With other calls in flight, more is received at a time, because it may have their replies.
                    let landing = landing.as_deref_mut().filter(|_| is_alone);
                    match self.read::<C>(&mut receiving, &ticket, function, until, landing) {
                        Ok(Read::Reply(reply)) => {
                            ticket.give_back(receiving);
                            return Ok(reply?);
                        }
                        Ok(Read::Notification) => ticket.pass_on(receiving),
                        Err(failure) => {
                            if matches!(failure, Failure::OthersAreOut) {
                                ticket.give_back(receiving);
                            }
                            return Err(failure);
                        }
                    }
                }
            }
        }
    }

    /// Passes a notification to the application, and its answer to the daemon.
    fn notify(
        &self,
        ticket: &Ticket<'_, Receiving>,
        xid: Xid,
        notification: Notification,
    ) -> Result<(), Failure> {
        let Notification { session, event, .. } = notification;
        let start = Instant::now();
        let rv = calling_back(|| (self.notify)(session, event.0));
        ticket.told(start.elapsed());
        let mut buffer = Vec::new();
        let record = rpc::write_notified(xid, rv, &mut buffer);
        self.send(record, || Ok(self.sender.deadline()))
    }

    /// Returns why the connection ended; another thread may have ended it.
    fn failure_at_end(&self) -> Failure {
        match self.exchange.stopped() {
            Some(stopped) => stopped.into(),
            None => Failure::Closed,
        }
    }

    fn send_call<C: Asking>(
        &self,
        ticket: &Ticket<'_, Receiving>,
        call: &C,
    ) -> Result<(), Failure> {
        let mut buffer = Vec::new();
        let record = rpc::write_call(Xid(ticket.xid()), call, ticket.overlaps(), &mut buffer);
        let sent = self.send(record, || ticket.send());
        wipe(&mut buffer); // PINs and attribute values were copied here
        sent
    }

    fn send(
        &self,
        record: Result<Slices<'_>, EncodeError>,
        begin: impl FnOnce() -> Result<Deadline, Failure>,
    ) -> Result<(), Failure> {
        let mut record = record?;
        if (record.len() - MARK_SIZE) as u64 > self.longest_call.load(Ordering::Relaxed) {
            return Err(Failure::TooLong);
        }
        self.sender.send(&mut record, begin)
    }

    /// Shuts the connection down at once, and wakes every thread that waits for a reply. The descriptor is closed by
    /// its last user. In a forked child this does nothing. A descriptor that the application has closed is not touched.
    fn end(&self, why: Stopped) {
        if !self.registered.is_ours() {
            return;
        }
        let was_sound = self.exchange.stop(why);
        if was_sound && why == Stopped::Closed {
            self.closer.farewell(Deadline::after(FAREWELL));
        }
        if self.registered.is_intact() {
            self.closer.shut_down();
        }
        self.closer.free();
    }
}

impl Remote for Connection {
    fn negotiate(&self, hello: Hello) -> Result<Option<HelloResult>, CkRv> {
        let call = Call::C_SetupArch(hello);
        let manner = Manner {
            order: Order::Alone,
            is_slow: false,
        };
        // A daemon that accepts connections but never answers must not use up the time of the other daemons.
        let timeout = self.exchange.limit_timeout(self.answers_by);
        let answer = self.ask(&call, manner, None);
        self.exchange.set_timeout(timeout);
        let failure = match answer {
            Ok(Reply::C_SetupArch(result)) => {
                let hello = &result.hello;
                if result.rv.is_ok() {
                    self.longest_call
                        .store(hello.longest_record.0, Ordering::Relaxed);
                    self.exchange.allow(hello.parallel_calls.0);
                }
                return Ok(Some(result));
            }
            Ok(_) => return Err(CkRv::GENERAL_ERROR),
            Err(Failure::Reply(ReplyError::NotExecuted(PROG_MISMATCH))) => return Ok(None),
            Err(failure) => failure,
        };
        let rv = failure.rv();
        self.keep(failure);
        Err(rv)
    }

    fn call(&self, call: Call<'_>, nulls: NullPlaces) -> Reply {
        if let Call::C_Initialize(flags) = &call {
            self.exchange.set_threads(flags.0 & OS_LOCKING_OK != 0);
        }
        self.make_into(call, nulls, None)
    }

    fn call_into(&self, call: Call<'_>, landing: &mut Landing<'_>) -> Reply {
        landing.set_landed(None);
        self.make_into(call, NullPlaces::NONE, Some(landing))
    }

    fn call_version3(&self, call: version3::Call<'_>) -> version3::Reply {
        let manner = Manner {
            order: Order::Alone,
            is_slow: false,
        };
        if call.function() != Function::C_SetupArch {
            return self.make(&call, manner);
        }
        // It is the first call, as in `negotiate`.
        let timeout = self.exchange.limit_timeout(self.answers_by);
        let reply = self.make(&call, manner);
        self.exchange.set_timeout(timeout);
        reply
    }

    fn is_lost(&self) -> bool {
        self.exchange.stopped() == Some(Stopped::Lost)
    }

    fn has_ended(&self) -> bool {
        self.is_lost() || self.registered.has_ended()
    }

    fn failure(&self) -> Option<Failure> {
        let mut kept = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        kept.take()
    }

    fn close(&self) {
        self.end(Stopped::Closed);
    }
}

/// At exit OpenSSL may have cleaned up already, and in a forked child its objects belong to the parent. So without
/// [`Remote::close`] they stay in memory there.
impl Drop for Connection {
    fn drop(&mut self) {
        if IS_UNLOADED.load(Ordering::Relaxed) {
            self.end(Stopped::Closed);
        }
        self.closer.leave_tls_behind();
    }
}

#[cfg(test)]
mod parallel_tests;
#[cfg(test)]
mod tests;
