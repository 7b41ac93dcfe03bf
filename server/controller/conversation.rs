//! Receives requests and sends answers over the controller's own sockets, without blocking.
//!
//! Received bytes are kept until a request is complete, and unsent bytes of an answer until they can be sent. A
//! [`Room`] has the connections of one socket; only a few may be connected at a time. `administrators` and `scrapers`
//! interpret the bytes.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::Socket;

use super::event::{Source, Watch};
use crate::logging::{Severity, log};
use crate::sockets::{Accepted, Listener};

/// A connection to the controller.
pub struct Conversation {
    socket: Socket,
    /// Received bytes of questions that were not taken yet.
    input: Vec<u8>,
    /// Unsent bytes of answers.
    output: Vec<u8>,
}

impl Conversation {
    /// Watches a connection that was accepted.
    pub fn new(socket: Socket, source: Source, watch: &mut Watch) -> io::Result<Conversation> {
        socket.set_nonblocking(true)?;
        watch.add(source, &socket)?;
        Ok(Conversation {
            socket,
            input: Vec::new(),
            output: Vec::new(),
        })
    }

    /// Sends the rest of answers, and receives until a question is complete; `end` then returns its length. Returns an
    /// error at end of file, or if more than `most` bytes and one read have come without a complete question. The
    /// caller then ends the connection.
    pub fn go_on(&mut self, end: impl Fn(&[u8]) -> Option<usize>, most: usize) -> io::Result<()> {
        self.send()?;
        let mut buffer = [0; 4096];
        while end(&self.input).is_none() {
            match (&self.socket).read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.input.extend(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.input.len() > most + buffer.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    }

    /// Takes the next question, if it is complete.
    pub fn question(&mut self, end: impl Fn(&[u8]) -> Option<usize>) -> Option<Vec<u8>> {
        let end = end(&self.input)?;
        Some(self.input.drain(..end).collect())
    }

    /// Sends as much of an answer as there is room for. The next event comes when there is room for the rest, or when
    /// the next question comes.
    pub fn answer(&mut self, answer: Vec<u8>, source: Source, watch: &Watch) -> io::Result<()> {
        self.output.extend(answer);
        self.send()?;
        match self.output.is_empty() {
            true => watch.again(source, &self.socket),
            false => watch.again_with_room(source, &self.socket),
        }
    }

    /// Whether every answer was sent.
    pub fn is_answered(&self) -> bool {
        self.output.is_empty()
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match (&self.socket).write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the connection.
    pub fn end(&self, source: Source, watch: &mut Watch) {
        watch.remove(source, &self.socket);
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Upper bound on the connections of a socket, and on those accepted in one turn of the event loop. A new connection
/// beyond it ends the oldest one.
const MOST: usize = 16;

/// One of the daemon's own sockets, with its connections. For each connection a `T` is remembered.
pub struct Room<T> {
    /// None when another daemon has taken it over.
    listener: Option<Listener>,
    /// The socket's name in the log.
    name: &'static str,
    /// The event sources of the socket and of a connection.
    sources: (Source, fn(usize) -> Source),
    connected: BTreeMap<usize, (Conversation, T)>,
    next: usize,
}

impl<T> Room<T> {
    /// Watches a socket.
    pub fn new(
        listener: Listener,
        name: &'static str,
        sources: (Source, fn(usize) -> Source),
        watch: &mut Watch,
    ) -> io::Result<Room<T>> {
        watch.add(sources.0, &listener)?;
        Ok(Room {
            listener: Some(listener),
            name,
            sources,
            connected: BTreeMap::new(),
            next: 0,
        })
    }

    /// The socket.
    pub fn listener(&self) -> Option<&Listener> {
        self.listener.as_ref()
    }

    /// Accepts a batch of the waiting connections. If more may wait, the socket's event comes again. Closes those for
    /// which `admit` returns nothing.
    pub fn accept(&mut self, admit: impl Fn(&Accepted) -> Option<T>, watch: &mut Watch) {
        for _ in 0..MOST {
            let Some(accepted) = self.next_waiting() else {
                return;
            };
            let Some(remembered) = admit(&accepted) else {
                continue;
            };
            if self.connected.len() >= MOST {
                if let Some((oldest, (conversation, _))) = self.connected.pop_first() {
                    conversation.end(self.sources.1(oldest), watch);
                }
            }
            let source = self.sources.1(self.next);
            match Conversation::new(accepted.socket.into(), source, watch) {
                Ok(conversation) => {
                    let connection = (conversation, remembered);
                    self.connected.insert(self.next, connection);
                }
                Err(error) => log(Severity::Err, format_args!("{}: {error}", self.name)),
            }
            self.next += 1;
        }
        if let Some(listener) = &self.listener {
            if let Err(error) = watch.again(self.sources.0, listener) {
                log(Severity::Err, format_args!("{}: {error}", self.name));
            }
        }
    }

    /// Accepts the next waiting connection. Logs an error.
    fn next_waiting(&self) -> Option<Accepted> {
        loop {
            match self.listener.as_ref()?.accept() {
                Ok(accepted) => return Some(accepted),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let name = self.name;
                    log(
                        Severity::Err,
                        format_args!("{name}: cannot accept: {error}"),
                    );
                    return None;
                }
            }
        }
    }

    /// The connection with this number, and what is remembered of it.
    pub fn get(&self, number: usize) -> Option<&(Conversation, T)> {
        self.connected.get(&number)
    }

    /// The same, mutable.
    pub fn get_mut(&mut self, number: usize) -> Option<&mut (Conversation, T)> {
        self.connected.get_mut(&number)
    }

    /// Ends a connection.
    pub fn end(&mut self, number: usize, watch: &mut Watch) {
        if let Some((conversation, _)) = self.connected.remove(&number) {
            conversation.end(self.sources.1(number), watch);
        }
    }

    /// The listening socket, unless another daemon has taken it over.
    pub fn listener_mut(&mut self) -> Option<&mut Listener> {
        self.listener.as_mut()
    }

    /// Leaves the socket, and its file, to the daemon that has taken it over. Existing connections stay.
    pub fn stop_listening(&mut self, watch: &mut Watch) {
        if let Some(mut listener) = self.listener.take() {
            watch.remove(self.sources.0, &listener);
            listener.leave_file();
        }
    }
}

impl AsFd for Conversation {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
