//! Defines the messages between `pkcs11proxyctl` and the controller on the control socket.
//!
//! A request is one line of JSON, and so is its reply; a connection may have several of both. A point in time is in
//! seconds since 1970, and a duration in seconds.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::counts::Label;

/// Upper bound on the bytes of a request.
pub const LONGEST_REQUEST: usize = 4096;

/// What an administrator asks for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Report who is connected; answered by [`Reply::Status`].
    Status,
    /// Report the metrics; answered by [`Reply::Metrics`].
    Metrics,
    /// Do what SIGHUP does.
    Reload,
    /// End the connection of the client with this number ([`ClientStatus::id`]).
    Disconnect(usize),
    /// Do what SIGUSR2 does.
    Drain,
    /// Do what SIGTERM does.
    Stop,
    /// Start a new daemon, which takes over from this one.
    Upgrade,
    /// Fork a worker of the service at this position for this connection alone, and send a socket that is connected to
    /// it; answered by [`Reply::HandingOver`].
    Probe(usize),
    /// Send copies of the listening sockets; answered by [`Reply::HandingOver`]. A new daemon asks this to take over.
    HandOver,
    /// Send the memory in which failed logins and signatures are counted; answered by [`Reply::Counts`]. Only allowed
    /// on a connection that has got the listening sockets.
    Counts,
    /// Tell which listening sockets have a file that is not the daemon's; answered by [`Reply::Files`]. Only allowed on a
    /// connection that has got the listening sockets.
    ForeignFiles,
    /// Accept no new clients, because the daemon that asked for the sockets now does that. Serve the present clients
    /// until they leave.
    HandedOver,
}

impl Request {
    /// Whether the request changes nothing. Such a request is not logged.
    pub fn only_looks(&self) -> bool {
        matches!(self, Request::Status | Request::Metrics | Request::Probe(_))
    }
}

/// What the controller answers.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The request has been carried out.
    Done,
    /// The request has not been carried out, for this reason.
    Failed(String),
    /// The answer to [`Request::Status`].
    Status(Status),
    /// The answer to [`Request::Metrics`], in Prometheus' text format.
    Metrics(String),
    /// This many sockets follow, each as ancillary data of one byte.
    HandingOver(usize),
    /// Descriptors of these counts follow, in this order, each as ancillary data of one byte.
    Counts(Vec<Label>),
    /// The answer to [`Request::ForeignFiles`]: their paths.
    Files(Vec<PathBuf>),
}

/// The state of the daemon.
#[derive(Debug, Deserialize, Serialize)]
pub struct Status {
    /// The version of the program.
    pub version: String,
    /// The controller's process id.
    pub pid: u32,
    /// When it started, in seconds since 1970.
    pub since: u64,
    /// Whether it is draining: it accepts no new clients.
    pub drains: bool,
    /// Its services, in the order of the configuration.
    pub services: Vec<ServiceStatus>,
}

/// The state of a service.
#[derive(Debug, Deserialize, Serialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// How many workers it has, including idle ones.
    pub workers: usize,
    /// How many workers it may have.
    pub max_workers: usize,
    /// How many workers wait for a client.
    pub idle: usize,
    /// The aliases of its modules.
    pub modules: Vec<String>,
    /// Its clients, ordered by their numbers.
    pub clients: Vec<ClientStatus>,
}

/// A client.
#[derive(Debug, Deserialize, Serialize)]
pub struct ClientStatus {
    /// The number of its worker, which is not reused while the daemon runs.
    pub id: usize,
    /// The process id of its worker.
    pub pid: i32,
    /// Its address, or its user and process.
    pub peer: String,
    /// The subject of its certificate, or the identity of its pre-shared key; empty without TLS and
    /// before the handshake is over.
    pub user: String,
    /// The name of its profile; empty without one.
    pub profile: String,
    /// When it connected, in seconds since 1970.
    pub since: u64,
    /// The alias of the module it has loaded; empty before that.
    pub module: String,
    /// Its calls so far, including those in flight.
    pub calls: u64,
    /// Calls that are being executed.
    pub in_flight: u64,
    /// The function of its last call; empty before that.
    pub last_call: String,
    /// How long ago that call began, in seconds.
    pub idle: f64,
}

/// Upper bound on the sockets that come with a reply.
const MOST_SOCKETS: usize = 4096;

/// Upper bound on the bytes of a reply.
const LONGEST_REPLY: usize = 64 << 20;

/// A connection to the control socket, on the side of the administrator.
pub struct Connection(BufReader<UnixStream>);

impl Connection {
    /// Connects to a control socket. The daemon may take this long for each answer.
    pub fn open(control_socket: &Path, patience: Duration) -> io::Result<Connection> {
        let stream = UnixStream::connect(control_socket)?;
        stream.set_read_timeout(Some(patience))?;
        // One byte at a time: a read beyond the end of the line would lose the sockets that come with the next bytes.
        Ok(Connection(BufReader::with_capacity(1, stream)))
    }

    /// Sends a request and waits for its reply.
    pub fn ask(&mut self, request: &Request) -> io::Result<Reply> {
        let line = self.ask_for_line(request)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Sends a request and returns its reply as it comes, a line of JSON.
    pub fn ask_for_line(&mut self, request: &Request) -> io::Result<String> {
        self.0.get_ref().write_all(&line(request))?;
        let mut text = String::new();
        let mut limited = (&mut self.0).take(LONGEST_REPLY as u64);
        match limited.read_line(&mut text)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(text),
        }
    }

    /// Receives the descriptors that [`Reply::HandingOver`] or [`Reply::Counts`] has announced.
    pub fn sockets(&self, count: usize) -> io::Result<Vec<OwnedFd>> {
        if count > MOST_SOCKETS {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut sockets = Vec::new();
        while sockets.len() < count {
            match bindings::sys::receive(self.0.get_ref().as_fd(), &mut [0])? {
                Some((_, socket)) => sockets.push(socket),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(sockets)
    }
}

/// Writes a request or a reply as the line that is sent.
pub fn line(message: &impl Serialize) -> Vec<u8> {
    // This fails only for maps whose keys are not strings; there are none.
    let mut bytes = serde_json::to_vec(message).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_lines_that_are_read_exactly() {
        for (request, text) in [
            (Request::Status, "\"status\"\n"),
            (Request::Disconnect(7), "{\"disconnect\":7}\n"),
        ] {
            assert_eq!(line(&request), text.as_bytes());
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
        }
        for text in ["\"shutdown\"", "{\"disconnect\":-1}", "{\"status\":1}", ""] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }
}
