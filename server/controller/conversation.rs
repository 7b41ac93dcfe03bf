//! Exchanges bytes with whoever asks the controller something, without waiting for it.
//!
//! What arrives is kept until a question is complete, and of an answer what could not be sent yet. What
//! the bytes mean is decided by `administrators` and `scrapers`.

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
    /// The beginning of a question.
    input: Vec<u8>,
    /// What was not sent yet of answers.
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

    /// Sends what is left of answers, and receives until a question is complete, which is `end` bytes long
    /// then. A question of more than `most` bytes ends the connection, and so does its end: an error.
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

    /// The next question, if it is complete.
    pub fn question(&mut self, end: impl Fn(&[u8]) -> Option<usize>) -> Option<Vec<u8>> {
        let end = end(&self.input)?;
        Some(self.input.drain(..end).collect())
    }

    /// Sends an answer, as much of it as there is room for. The event for the rest comes when there is more
    /// room; or for the next question.
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

/// The next one who waits at a socket of the daemon's own. An error is logged with the socket's `name`.
pub fn accept(listener: Option<&Listener>, name: &str) -> Option<Accepted> {
    loop {
        match listener?.accept() {
            Ok(accepted) => return Some(accepted),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                log(
                    Severity::Err,
                    format_args!("{name}: cannot accept: {error}"),
                );
                return None;
            }
        }
    }
}

impl AsFd for Conversation {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
