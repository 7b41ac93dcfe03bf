//! Detects that a client has closed its connection, or its sending half, while its worker may be busy.
//!
//! The controller hands a client's socket to its worker and closes its own descriptor. An epoll set keeps watching the
//! connection nonetheless, until the last process has closed it (epoll(7), question 6). So this costs no descriptor, no
//! byte of the client is read, and nothing has to be undone when a worker ends. The kernel wakes the controller only at
//! the end of a connection, not when a client sends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::admission::WorkerId;

/// Upper bound on the departures that are taken from the kernel at once.
const CAPACITY: usize = 64;

/// The clients that are watched.
pub struct Departures(Epoll);

impl Departures {
    /// Creates an empty set of clients.
    pub fn new() -> io::Result<Departures> {
        Ok(Departures(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Watches the client of a worker. It is reported once.
    pub fn watch(&self, worker: WorkerId, client: &impl AsFd) -> io::Result<()> {
        // The end of both directions, and errors, are always reported.
        let events = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET | EpollFlags::EPOLLONESHOT;
        let event = EpollEvent::new(events, worker.0 as u64);
        Ok(self.0.add(client, event)?)
    }

    /// The workers whose clients have gone since the last time; some of them may be reaped.
    pub fn take(&self) -> io::Result<Vec<WorkerId>> {
        let mut gone = Vec::new();
        loop {
            let mut events = [EpollEvent::empty(); CAPACITY];
            match self.0.wait(&mut events, EpollTimeout::ZERO) {
                Ok(0) => return Ok(gone),
                Ok(count) => {
                    let workers = events.iter().take(count).map(EpollEvent::data);
                    gone.extend(workers.flat_map(usize::try_from).map(WorkerId));
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Departures {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn clients_that_leave_are_reported_once_though_the_descriptor_is_closed() {
        let departures = Departures::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = Vec::new();
        for number in 0..3 {
            let client = TcpStream::connect(address).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            departures.watch(WorkerId(number), &accepted).unwrap();
            // The worker has such a duplicate.
            connections.push((client, accepted.try_clone().unwrap()));
        }
        let (first, second) = (&connections[0], &connections[1]);
        (&first.0).write_all(b"x").unwrap();
        assert_eq!(departures.take().unwrap(), []);
        second.0.shutdown(Shutdown::Write).unwrap();
        assert_eq!(departures.take().unwrap(), [WorkerId(1)]);
        second.0.shutdown(Shutdown::Both).unwrap();
        // Closing with an unread byte causes a reset.
        (&connections[2].1).write_all(b"y").unwrap();
        connections[2].0.peek(&mut [0]).unwrap();
        let (client, _served) = connections.remove(2);
        drop(client);
        assert_eq!(departures.take().unwrap(), [WorkerId(2)]);
        let (client, served) = connections.remove(0);
        drop(client);
        assert_eq!(departures.take().unwrap(), [WorkerId(0)]);
        // The byte of the client was not read.
        assert_eq!((&served).read(&mut [0; 9]).unwrap(), 1);
        drop((served, connections));
        assert_eq!(departures.take().unwrap(), []);
    }
}
