//! Makes blocking calls on a stream socket end at a deadline, separately for each direction.
//!
//! [`Incoming`] and [`Outgoing`] are the two directions of one socket, which two threads can use at the same time;
//! [`TimedSocket`] has both. The kernel's own time limits are used (SO_RCVTIMEO, SO_SNDTIMEO). They are set again only
//! when they are wrong by more than [`SLACK`], so that a call that is answered at once costs no system call for them.
//! As a result, a call may end up to [`SLACK`] late, but never early. On a Unix socket the kernel applies the limit for
//! sending to each part of a long message, so a peer that reads slowly could prolong one `send`. There one `send` has
//! at most [`PARTS`] such parts, and each gets that fraction of the time.

use std::io::{self, IoSlice, Read};
use std::mem;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Socket};
use xdr::codec::Slices;

use crate::busy_poll::BusyPoll;
use crate::deadline::Deadline;

/// How far the kernel's time limit may be off before it is set again.
const SLACK: Duration = Duration::from_millis(100);

/// The size in bytes that is assumed for a part of a long message on a Unix socket: Linux makes parts of up to 36 KiB.
const PART: usize = 32 << 10;

/// How many such parts one call sends at most.
const PARTS: u32 = 64;

/// How often in a row bytes are received after the deadline, if they have arrived. Each time takes [`SHORTEST`] at most, so
/// that the call ends no later than [`SLACK`] allows.
const LATE: u32 = 64;

/// A message of at most this many bytes is first tried without a time limit.
const SHORT: usize = 4 << 10;

/// The send buffer of a Unix socket, in bytes, if the kernel allows that much (net.core.wmem_max). The usual one has
/// room for a fifth of a message of 1 MiB, so that its two ends would have to take turns. A peer that does not read
/// makes the kernel keep up to twice as many bytes.
const LOCAL_SEND_BUFFER: usize = 1 << 20;

/// More slices than a record has.
const MOST_SLICES: usize = 8;

/// The shortest limit that is set.
const SHORTEST: Duration = Duration::from_millis(1);

/// `sendmsg` flags: no SIGPIPE. Where the flag is missing, socket2 has set SO_NOSIGPIPE.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: i32 = libc::MSG_NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: i32 = 0;

/// Checks whether the descriptor of a socket may be used; fails if not. A library does not own the descriptors of its
/// process, so another file may have the number by now.
pub type Guard = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// The direction from the peer.
pub struct Incoming {
    socket: Arc<Socket>,
    guard: Option<Guard>,
    /// Whether the guard need not be asked the next time.
    is_checked: bool,
    /// Whether the next receive polls for a moment before it sleeps.
    polls_first: bool,
    busy_poll: BusyPoll,
    /// The limit that the kernel has. There is only one `Incoming` for a socket, so nothing else changes it.
    limit: Option<Duration>,
    /// How many of the last receives were after their deadline and tried to take bytes that had arrived.
    late: u32,
}

/// The direction to the peer.
pub struct Outgoing {
    socket: Arc<Socket>,
    guard: Option<Guard>,
    /// Whether it is a Unix socket.
    is_local: bool,
    limit: Option<Duration>,
}

/// A socket with both directions.
pub struct TimedSocket {
    incoming: Incoming,
    outgoing: Outgoing,
}

impl Incoming {
    /// Notes that the guard was asked just now, so that the next receive does not ask it.
    pub fn is_checked_now(&mut self) {
        self.is_checked = true;
    }

    /// Makes the next receive poll for a moment before it sleeps, if that has paid lately.
    pub fn poll_first(&mut self) {
        self.polls_first = true;
    }

    /// Receives some bytes. Returns 0 if the peer closed the connection. Without a deadline it waits for ever. Fails
    /// with [`io::ErrorKind::TimedOut`] at the deadline, unless something has come by then.
    pub fn receive(&mut self, space: &mut [u8], deadline: Option<Deadline>) -> io::Result<usize> {
        if mem::take(&mut self.polls_first) {
            if let Some(result) = self.receive_soon(space, deadline) {
                return result;
            }
        }
        loop {
            if !mem::take(&mut self.is_checked) {
                allowed(&self.guard)?;
            }
            if let Some(deadline) = deadline {
                let Ok(remaining) = deadline.remaining() else {
                    return self.receive_late(space);
                };
                self.late = 0;
                if is_off(self.limit, remaining, SLACK) {
                    self.limit = Some(remaining);
                    self.socket.set_read_timeout(Some(remaining))?;
                }
            }
            let mut socket = &*self.socket;
            if let Some(result) = finished(socket.read(space), deadline) {
                return result;
            }
            // The limit of an earlier call is removed only if it ended the read.
            if deadline.is_none() && self.limit.take().is_some() {
                self.socket.set_read_timeout(None)?;
            }
        }
    }

    /// Polls for bytes, for a moment only, and not after the deadline.
    fn receive_soon(
        &mut self,
        space: &mut [u8],
        deadline: Option<Deadline>,
    ) -> Option<io::Result<usize>> {
        if let Some(deadline) = deadline {
            deadline.remaining().ok()?;
            self.late = 0;
        }
        if !self.busy_poll.is_due() {
            return None;
        }
        if !mem::take(&mut self.is_checked) {
            if let Err(error) = allowed(&self.guard) {
                return Some(Err(error));
            }
        }
        let socket = self.socket.as_raw_fd();
        let mut attempt = || match recv(socket, space, MsgFlags::MSG_DONTWAIT) {
            // After the last the connection is at its end, as the receive that blocks finds.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ETIMEDOUT) => None,
            result => Some(result.map_err(io::Error::from)),
        };
        self.busy_poll.poll(&mut attempt)
    }

    /// Takes bytes that have arrived, although the deadline has passed: a process that was stopped meanwhile (SIGSTOP)
    /// could not read them earlier. It does so [`LATE`] times, because a peer that goes on sending must not prolong the
    /// call by much.
    fn receive_late(&mut self, space: &mut [u8]) -> io::Result<usize> {
        if self.late < LATE {
            self.late += 1;
            self.limit = Some(SHORTEST);
            self.socket.set_read_timeout(self.limit)?;
            let mut socket = &*self.socket;
            if let Ok(count) = socket.read(space) {
                return Ok(count);
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl Outgoing {
    /// Sends some bytes of these slices. If the kernel accepts a short message at once, the clock is not read.
    pub fn send(&mut self, parts: &[IoSlice<'_>], deadline: Deadline) -> io::Result<usize> {
        if parts.iter().map(|part| part.len()).sum::<usize>() <= SHORT {
            if let Some(count) = self.try_send(parts)? {
                return Ok(count);
            }
        }
        let mut fewer = [IoSlice::new(&[]); MOST_SLICES];
        let parts = if self.is_local {
            first_of(parts, &mut fewer)
        } else {
            parts
        };
        loop {
            allowed(&self.guard)?;
            self.limit(deadline)?;
            if let Some(result) = finished(self.send_once(parts, NO_SIGNAL), Some(deadline)) {
                return result;
            }
        }
    }

    fn limit(&mut self, deadline: Deadline) -> io::Result<()> {
        let remaining = deadline.remaining()?;
        // A part that takes longer ends the call early. `finished` notices that the deadline has not passed, and the
        // call is repeated.
        let parts = if self.is_local { PARTS } else { 1 };
        let limit = (remaining / parts).max(SHORTEST);
        if is_off(self.limit, limit, SLACK / parts) {
            self.limit = Some(limit);
            self.socket.set_write_timeout(Some(limit))?;
        }
        Ok(())
    }

    fn send_once(&self, parts: &[IoSlice<'_>], flags: i32) -> io::Result<usize> {
        match parts {
            [one] => self.socket.send_with_flags(one, flags),
            parts => self.socket.send_vectored_with_flags(parts, flags),
        }
    }

    /// Sends as many of these bytes as the kernel takes at once; `None` if it takes none.
    fn try_send(&self, parts: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        loop {
            allowed(&self.guard)?;
            match self.send_once(parts, NO_SIGNAL | libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                result => return result.map(Some),
            }
        }
    }

    /// Sends as many of these bytes as the kernel takes at once.
    pub fn send_at_once(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.try_send(&[IoSlice::new(bytes)])?;
        Ok(sent.unwrap_or(0))
    }

    /// Sends all of these bytes.
    pub fn send_all(&mut self, mut bytes: &[u8], deadline: Deadline) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = self.send(&[IoSlice::new(bytes)], deadline)?;
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends a whole record.
    pub fn send_record(&mut self, record: &mut Slices<'_>, deadline: Deadline) -> io::Result<()> {
        while !record.is_sent() {
            match self.send(record.unsent(), deadline)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => record.advance(count),
            }
        }
        Ok(())
    }
}

impl TimedSocket {
    /// Wraps a blocking socket for which the kernel has no time limits.
    pub fn new(socket: Socket) -> TimedSocket {
        TimedSocket::with(socket, None)
    }

    /// Does the same, and asks `guard` each time before bytes are sent or received.
    pub fn guarded(socket: Socket, guard: Guard) -> TimedSocket {
        TimedSocket::with(socket, Some(guard))
    }

    fn with(socket: Socket, guard: Option<Guard>) -> TimedSocket {
        let is_local = socket.domain().is_ok_and(|domain| domain == Domain::UNIX);
        let has_room = || {
            let size = socket.send_buffer_size();
            size.is_ok_and(|size| size >= LOCAL_SEND_BUFFER)
        };
        if is_local && !has_room() {
            // With a smaller one, long messages are only slower.
            let _ = socket.set_send_buffer_size(LOCAL_SEND_BUFFER);
        }
        let socket = Arc::new(socket);
        TimedSocket {
            incoming: Incoming {
                socket: socket.clone(),
                guard: guard.clone(),
                is_checked: false,
                polls_first: false,
                busy_poll: BusyPoll::default(),
                limit: None,
                late: 0,
            },
            outgoing: Outgoing {
                socket,
                guard,
                is_local,
                limit: None,
            },
        }
    }

    /// Returns the socket itself, which is closed when its last user drops it.
    pub fn socket(&self) -> &Arc<Socket> {
        &self.incoming.socket
    }

    /// The direction from the peer.
    pub fn incoming(&mut self) -> &mut Incoming {
        &mut self.incoming
    }

    /// The direction to the peer.
    pub fn outgoing(&mut self) -> &mut Outgoing {
        &mut self.outgoing
    }

    /// Both directions, each by itself.
    pub fn split(self) -> (Incoming, Outgoing) {
        (self.incoming, self.outgoing)
    }

    /// Sets both limits now, for `connect`, which obeys the one for sending.
    pub fn limit_both(&mut self, time: Duration) -> io::Result<()> {
        let socket = self.socket();
        socket.set_write_timeout(Some(time))?;
        socket.set_read_timeout(Some(time))?;
        (self.incoming.limit, self.outgoing.limit) = (Some(time), Some(time));
        Ok(())
    }
}

fn allowed(guard: &Option<Guard>) -> io::Result<()> {
    guard.as_ref().map_or(Ok(()), |guard| guard())
}

fn is_off(limit: Option<Duration>, wanted: Duration, slack: Duration) -> bool {
    limit.is_none_or(|limit| limit.abs_diff(wanted) > slack)
}

/// Returns the first [`PARTS`] * [`PART`] bytes of these slices; all of them if they have no more.
fn first_of<'a>(
    parts: &'a [IoSlice<'a>],
    fewer: &'a mut [IoSlice<'a>; MOST_SLICES],
) -> &'a [IoSlice<'a>] {
    let mut room = PARTS as usize * PART;
    if parts.iter().map(|part| part.len()).sum::<usize>() <= room {
        return parts;
    }
    for (place, part) in fewer.iter_mut().zip(parts) {
        *place = IoSlice::new(part.get(..room).unwrap_or(part));
        room -= place.len();
    }
    fewer
}

/// Returns the result of a call; `None` if the call must be repeated. It must if it was interrupted, or if the kernel's
/// time limit, left from an earlier call, ended it before its deadline.
fn finished(result: io::Result<usize>, deadline: Option<Deadline>) -> Option<io::Result<usize>> {
    match result {
        Ok(count) => Some(Ok(count)),
        Err(error) => match error.kind() {
            io::ErrorKind::Interrupted => None,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                let is_early = deadline.is_none_or(|deadline| deadline.remaining().is_ok());
                (!is_early).then(|| Err(io::ErrorKind::TimedOut.into()))
            }
            _ => Some(Err(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::*;

    /// A limit that an earlier call left, close enough to the wanted one that it is not set again.
    const EARLIER: Duration = Duration::from_millis(30);
    const TIME: Duration = Duration::from_millis(120);

    #[cfg(target_os = "linux")]
    #[test]
    fn a_unix_socket_has_as_much_room_as_the_kernel_allows() {
        let (near, far) = Socket::pair(Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let usual = far.send_buffer_size().unwrap();
        let socket = TimedSocket::new(near);
        let room = socket.socket().send_buffer_size().unwrap();
        if usual < LOCAL_SEND_BUFFER {
            far.set_send_buffer_size(LOCAL_SEND_BUFFER).unwrap();
        }
        assert_eq!(room, far.send_buffer_size().unwrap());
        assert_ne!(room, usual);
    }

    /// This happens to a process that was stopped for longer than a call may take.
    #[test]
    fn what_has_come_is_taken_after_the_deadline_but_not_without_end() {
        for polls in [false, true] {
            let (near, far) = Socket::pair(Domain::UNIX, socket2::Type::STREAM, None).unwrap();
            let mut socket = TimedSocket::new(near);
            let mut space = [0; 2];
            let over = Deadline::after(Duration::ZERO);
            far.send(&vec![0; 2 * LATE as usize + 1]).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            let mut receive = |deadline| {
                let incoming = socket.incoming();
                if polls {
                    incoming.poll_first();
                }
                let result = incoming.receive(&mut space, Some(deadline));
                result.map_err(|error| error.kind())
            };
            for _ in 0..LATE {
                assert_eq!(receive(over), Ok(2));
            }
            assert_eq!(receive(over), Err(io::ErrorKind::TimedOut));
            assert_eq!(receive(Deadline::after(TIME)), Ok(1));
            let start = Instant::now();
            assert_eq!(receive(over), Err(io::ErrorKind::TimedOut));
            assert!(start.elapsed() < TIME);
            far.send(b"another").unwrap();
            assert_eq!(receive(Deadline::after(TIME)), Ok(2));
            for count in [2, 2, 1] {
                assert_eq!(receive(over), Ok(count));
            }
            assert_eq!(receive(over), Err(io::ErrorKind::TimedOut));
        }
    }

    #[test]
    fn no_call_ends_before_its_deadline() {
        let (near, far) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let mut socket = TimedSocket::new(near);
        let mut space = [0; 64];
        for is_receiving in [true, false] {
            socket.limit_both(EARLIER).unwrap();
            let start = Instant::now();
            let deadline = Deadline::after(TIME);
            let error = loop {
                let result = match is_receiving {
                    true => socket.incoming().receive(&mut space, Some(deadline)),
                    false => socket.outgoing().send(&[IoSlice::new(&space)], deadline),
                };
                if let Err(error) = result {
                    break error;
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(start.elapsed() >= TIME - Duration::from_millis(1));
        }
        drop(far);
    }

    #[test]
    fn a_guard_that_refuses_keeps_bytes_from_being_sent_and_received() {
        let (near, far) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let refuse: Guard = Arc::new(|| Err(io::ErrorKind::NotConnected.into()));
        let mut socket = TimedSocket::guarded(near, refuse);
        far.send(b"not for it").unwrap();
        let deadline = Deadline::after(TIME);
        let outgoing = socket.outgoing();
        assert!(outgoing.send_all(b"secret", deadline).is_err());
        assert!(outgoing.send_at_once(b"secret").is_err());
        let mut space = [0; 64];
        assert!(socket.incoming().receive(&mut space, None).is_err());
        socket.incoming().is_checked_now();
        assert_eq!(socket.incoming().receive(&mut space[..4], None).unwrap(), 4);
        assert!(socket.incoming().receive(&mut space, None).is_err());
        assert_eq!(socket.socket().as_ref().read(&mut space).unwrap(), 6);
        drop(socket);
        assert_eq!((&far).read(&mut space).unwrap(), 0);
    }

    #[test]
    fn a_poll_asks_the_guard_and_takes_what_has_come() {
        let (near, far) = Socket::pair(Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let is_allowed = Arc::new(AtomicBool::new(true));
        let asked = is_allowed.clone();
        let guard: Guard = Arc::new(move || match asked.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err(io::ErrorKind::NotConnected.into()),
        });
        let mut socket = TimedSocket::guarded(near, guard);
        let incoming = socket.incoming();
        let mut space = [0; 64];
        far.send(b"soon").unwrap();
        is_allowed.store(false, Ordering::SeqCst);
        incoming.poll_first();
        let error = incoming.receive(&mut space, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        is_allowed.store(true, Ordering::SeqCst);
        incoming.poll_first();
        assert_eq!(incoming.receive(&mut space, None).unwrap(), 4);

        // In vain, and then it sleeps until the deadline.
        let start = Instant::now();
        incoming.poll_first();
        let error = incoming.receive(&mut space, Some(Deadline::after(TIME)));
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= TIME - Duration::from_millis(1));

        // The receives after it sleep at once, and ask the guard as well.
        is_allowed.store(false, Ordering::SeqCst);
        for _ in 0..2 {
            incoming.poll_first();
            let error = incoming.receive(&mut space, None).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        }
        is_allowed.store(true, Ordering::SeqCst);
        drop(far);
        incoming.poll_first();
        assert_eq!(incoming.receive(&mut space, None).unwrap(), 0);
    }

    #[test]
    fn without_a_deadline_the_limit_of_an_earlier_call_ends_nothing() {
        let (near, far) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let mut socket = TimedSocket::new(near);
        socket.limit_both(EARLIER).unwrap();
        let late = std::thread::spawn(move || {
            std::thread::sleep(4 * EARLIER);
            far.send(b"late").unwrap();
        });
        let mut space = [0; 64];
        assert_eq!(socket.incoming().receive(&mut space, None).unwrap(), 4);
        late.join().unwrap();
    }

    #[test]
    fn a_slow_local_reader_does_not_outlast_the_deadline() {
        let (near, far) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let mut socket = TimedSocket::new(near);
        let reading = std::thread::spawn(move || {
            let mut far = &far;
            while far.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        for size in [3000, 2_000_000] {
            let bytes = vec![1; size];
            let parts = [IoSlice::new(&bytes), IoSlice::new(&bytes)];
            let start = Instant::now();
            let deadline = Deadline::after(Duration::from_millis(400));
            let error = loop {
                if let Err(error) = socket.outgoing().send(&parts, deadline) {
                    break error;
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            let taken = start.elapsed();
            assert!(taken >= Duration::from_millis(399), "{taken:?}");
            assert!(taken < Duration::from_millis(800), "{taken:?}");
        }
        drop(socket);
        reading.join().unwrap();
    }

    /// One call sends as much as there is room for; the rest goes out as the peer reads.
    #[test]
    fn a_long_message_arrives_whole_at_a_local_reader() {
        let (near, far) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let mut socket = TimedSocket::new(near);
        let bytes: Vec<u8> = (0..5_000_000).map(|n| (n % 251) as u8).collect();
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            (&far).read_to_end(&mut all).map(|_| all)
        });
        let deadline = Deadline::after(Duration::from_secs(60));
        socket.outgoing().send_all(&bytes, deadline).unwrap();
        drop(socket);
        assert!(reading.join().unwrap().unwrap() == bytes);
    }
}
