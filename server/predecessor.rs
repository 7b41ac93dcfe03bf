//! Takes over the listening sockets of a daemon that is running, for an upgrade without a refused connection.
//!
//! With `-takeover`, a daemon that starts connects to the control socket of its configuration and asks the
//! daemon there for copies of its sockets. When it is ready to serve, it tells that daemon so, which then
//! accepts nobody any more and serves its clients until they leave. If the start fails before that, the
//! old daemon goes on as if nothing had been.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::administration::{self, Reply, Request};

/// How long the old daemon may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Upper bound on the sockets that are taken over.
const MOST_SOCKETS: usize = 4096;

/// Upper bound on the bytes of an answer.
const LONGEST_ANSWER: usize = 4096;

/// A daemon that has handed its sockets over and still accepts clients.
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// Connects to a control socket and asks for the listening sockets. `None` if no daemon listens there.
    pub fn ask(control_socket: &Path) -> Result<Option<(Predecessor, Vec<OwnedFd>)>, String> {
        let failed = |error| format!("-takeover: {}: {error}", control_socket.display());
        let stream = match UnixStream::connect(control_socket) {
            Ok(stream) => stream,
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
                _ => return Err(failed(error.to_string())),
            },
        };
        let limited = stream.set_read_timeout(Some(PATIENCE));
        limited.map_err(|error| failed(error.to_string()))?;
        let mut predecessor = Predecessor(stream);
        let count = match predecessor.call(&Request::HandOver).map_err(failed)? {
            Reply::HandingOver(count) if count <= MOST_SOCKETS => count,
            Reply::Failed(reason) => return Err(failed(reason)),
            _ => return Err(failed("the daemon answers something else".into())),
        };
        let sockets = predecessor.receive(count);
        let sockets = sockets.map_err(|error| failed(error.to_string()))?;
        Ok(Some((predecessor, sockets)))
    }

    /// Each socket comes with a byte of its own.
    fn receive(&mut self, count: usize) -> io::Result<Vec<OwnedFd>> {
        let mut sockets = Vec::new();
        while sockets.len() < count {
            match bindings::sys::receive(self.0.as_fd(), &mut [0])? {
                Some((_, socket)) => sockets.push(socket),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(sockets)
    }

    /// Has the old daemon accept nobody any more. From now on this one serves.
    pub fn replace(mut self) -> Result<(), String> {
        match self.call(&Request::HandedOver)? {
            Reply::Done => Ok(()),
            _ => Err("-takeover: the old daemon does not let go".into()),
        }
    }

    fn call(&mut self, request: &Request) -> Result<Reply, String> {
        let sent = self.0.write_all(&administration::line(request));
        let answer = sent.and_then(|()| self.line());
        let answer = answer.map_err(|error| error.to_string())?;
        serde_json::from_slice(&answer).map_err(|error| error.to_string())
    }

    /// Reads no byte beyond the line: those come with sockets.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            line.extend(byte);
            if line.len() > LONGEST_ANSWER {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(line)
    }
}
