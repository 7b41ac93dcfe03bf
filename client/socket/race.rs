//! Connects to one of several addresses: tries them in parallel, and uses the first connection that succeeds.
//!
//! `schedule` decides when the next attempt begins. All attempts are non-blocking sockets, in one loop of `poll`; there
//! is no thread. When one succeeds, the others are closed at once.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockAddr, TcpKeepalive};
use transport::Deadline;

use super::schedule::Schedule;
use super::{Connected, Purpose, no_answer};

/// How long a connection may be silent before the kernel asks whether the other host is still there. It gives up after
/// several minutes without an answer, as the system is configured.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Why each address failed, when none could be connected to.
#[derive(Debug)]
pub(crate) struct Failures(Vec<(SocketAddr, io::Error)>);

impl Failures {
    /// Returns the cause for the address that failed last.
    pub fn into_last(mut self) -> io::Error {
        let last = self.0.pop().map(|(_, cause)| cause);
        last.unwrap_or_else(|| io::Error::other("there is no address"))
    }

    /// Returns the causes, in the order in which the attempts failed.
    pub fn causes(&self) -> impl Iterator<Item = &io::Error> {
        self.0.iter().map(|(_, cause)| cause)
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (address, cause)) in self.0.iter().enumerate() {
            let between = if position == 0 { "" } else { "; " };
            write!(f, "{between}{}: {cause}", address.ip())?;
        }
        Ok(())
    }
}

/// A socket that is being connected.
struct Attempt {
    address: SocketAddr,
    connected: Connected,
}

impl Attempt {
    fn begin(address: SocketAddr, purpose: Purpose) -> io::Result<Attempt> {
        let connected = Connected::new(Domain::for_address(address), purpose)?;
        let socket = connected.timed.socket();
        socket.set_nonblocking(true)?;
        match socket.connect(&SockAddr::from(address)) {
            Ok(()) => {}
            // After EINTR the attempt goes on in the background (connect(2)).
            Err(error)
                if error.raw_os_error() == Some(Errno::EINPROGRESS as i32)
                    || error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(Attempt { address, connected })
    }

    /// Returns the result of the attempt, when `poll` says that it is over.
    fn outcome(&self) -> io::Result<()> {
        self.connected.registered.made.check()?;
        let error = self.connected.timed.socket().take_error()?;
        error.map_or(Ok(()), Err)
    }

    /// Returns the connected socket, which blocks from now on.
    fn finish(self, deadline: Deadline) -> io::Result<Connected> {
        let mut connected = self.connected;
        let socket = connected.timed.socket();
        socket.set_nonblocking(false)?;
        socket.set_tcp_nodelay(true)?;
        // A C_WaitForSlotEvent has no deadline: without this, it would wait for ever for a host that has vanished.
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
        connected.timed.limit_both(super::remaining(deadline)?)?;
        Ok(connected)
    }
}

/// Connects to the first of the addresses that accepts.
pub(super) fn connect(
    addresses: &[SocketAddr],
    purpose: Purpose,
    deadline: Deadline,
) -> Result<Connected, Failures> {
    let mut schedule = Schedule::new(addresses, Instant::now());
    let mut running: Vec<Attempt> = Vec::new();
    let mut failures = Vec::new();
    loop {
        let mut now = Instant::now();
        while let Some(address) = schedule.next(now) {
            match Attempt::begin(address, purpose) {
                Ok(attempt) => running.push(attempt),
                Err(cause) => {
                    failures.push((address, cause));
                    now = Instant::now();
                    schedule.failed(now);
                }
            }
        }
        let pause = schedule.pause(now);
        if running.is_empty() && pause.is_none() {
            return Err(Failures(failures));
        }
        let Ok(remaining) = deadline.remaining() else {
            let silent = running.iter().map(|it| (it.address, no_answer()));
            failures.extend(silent);
            let untried = |address| (address, io::Error::other("not tried, for lack of time"));
            failures.extend(schedule.rest().map(untried));
            return Err(Failures(failures));
        };
        let over = match wait(&running, pause.map_or(remaining, |it| it.min(remaining))) {
            Ok(over) => over,
            Err(cause) => {
                let cause = || io::Error::from(cause);
                failures.extend(running.iter().map(|it| (it.address, cause())));
                return Err(Failures(failures));
            }
        };
        for (removed, position) in over.into_iter().enumerate() {
            let attempt = running.remove(position - removed);
            let address = attempt.address;
            let outcome = attempt.outcome().and_then(|()| attempt.finish(deadline));
            match outcome {
                Ok(connected) => return Ok(connected),
                Err(cause) => {
                    failures.push((address, cause));
                    schedule.failed(Instant::now());
                }
            }
        }
    }
}

/// Returns the positions of the attempts that are over. Waits no longer than `time`.
fn wait(running: &[Attempt], time: Duration) -> Result<Vec<usize>, Errno> {
    let sockets = running.iter().map(|it| it.connected.timed.socket().as_fd());
    let mut polled: Vec<PollFd<'_>> = sockets
        .map(|socket| PollFd::new(socket, PollFlags::POLLOUT))
        .collect();
    // Rounded up, so that the thread does not wake before something is due.
    let milliseconds = time.as_nanos().div_ceil(1_000_000);
    let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error),
    }
    let is_over = |it: &PollFd<'_>| it.any().unwrap_or(true);
    let positions = polled.iter().enumerate();
    Ok(positions
        .filter(|(_, it)| is_over(it))
        .map(|(position, _)| position)
        .collect())
}
