//! Talks with administrators over the control socket: reads their requests, sends the replies.
//!
//! Only root and the daemon's own user may connect. What requests mean is decided by the controller. Waits
//! for nobody: a reply that an administrator does not take stays in memory until it leaves, and only a
//! few may be connected.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::{Pid, Uid, geteuid};
use socket2::Socket;

use super::event::{Source, Watch};
use super::service::RunningService;
use crate::administration::{self, LONGEST_REQUEST, Reply, Request};
use crate::logging::{Severity, log};
use crate::sockets::{Listener, Peer};

/// Upper bound on the administrators that are connected at a time; the oldest have to leave for more.
const MOST: usize = 16;

/// The control socket and those who are connected to it.
pub struct Administrators {
    /// None when another daemon has taken it over.
    listener: Option<Listener>,
    connections: BTreeMap<usize, Connection>,
    next: usize,
}

struct Connection {
    socket: Socket,
    /// Who it is, for the log.
    name: String,
    /// The beginning of a request.
    input: Vec<u8>,
    /// What was not sent yet of replies.
    output: Vec<u8>,
}

/// A request, and who made it.
pub struct Asked {
    /// What is asked for; or why it cannot be understood.
    pub request: Result<Request, String>,
    /// Who asks, for the log.
    pub name: String,
}

impl Administrators {
    /// Watches a control socket.
    pub fn new(listener: Listener, watch: &mut Watch) -> io::Result<Administrators> {
        watch.add(Source::ControlSocket, &listener)?;
        Ok(Administrators {
            listener: Some(listener),
            connections: BTreeMap::new(),
            next: 0,
        })
    }

    /// Accepts those who wait at the control socket.
    pub fn accept(&mut self, watch: &mut Watch) {
        while let Some(listener) = &self.listener {
            let accepted = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let message = format_args!("control socket: cannot accept: {error}");
                    return log(Severity::Err, message);
                }
            };
            let name = accepted.name;
            if !matches!(accepted.peer, Peer::User(user) if may_administer(user)) {
                log(
                    Severity::Warning,
                    format_args!("control socket: {name} refused: not root"),
                );
                continue;
            }
            if let Err(error) = self.add(accepted.socket.into(), name, watch) {
                log(Severity::Err, format_args!("control socket: {error}"));
            }
        }
    }

    fn add(&mut self, socket: Socket, name: String, watch: &mut Watch) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        if self.connections.len() >= MOST {
            if let Some((oldest, connection)) = self.connections.pop_first() {
                watch.remove(Source::Administrator(oldest), &connection.socket);
            }
        }
        watch.add(Source::Administrator(self.next), &socket)?;
        self.connections.insert(
            self.next,
            Connection {
                socket,
                name,
                input: Vec::new(),
                output: Vec::new(),
            },
        );
        self.next += 1;
        Ok(())
    }

    /// An administrator has sent something, has left, or takes more of a reply. Returns its next request, if
    /// that is complete.
    pub fn take(&mut self, number: usize, watch: &mut Watch) -> Option<Asked> {
        let connection = self.connections.get_mut(&number)?;
        let is_open = connection.send().is_ok() && connection.receive().is_ok();
        let asked = connection.next_request();
        if !is_open && asked.is_none() {
            self.remove(number, watch);
        }
        asked
    }

    /// Sends a reply. The administrator's next event comes when there is room for more of it, or when it has
    /// sent another request.
    pub fn answer(&mut self, number: usize, reply: &Reply, watch: &mut Watch) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        connection.output.extend(administration::line(reply));
        let source = Source::Administrator(number);
        let sent = connection.send();
        let is_watched = match connection.output.is_empty() {
            true => watch.again(source, &connection.socket),
            false => watch.again_with_room(source, &connection.socket),
        };
        if sent.is_err() || is_watched.is_err() {
            self.remove(number, watch);
        }
    }

    /// Sends copies of the services' sockets, and of the control socket, after a reply, each with a byte of its own. An administrator that does not take
    /// them is cut off.
    pub fn pass(&mut self, number: usize, services: &[RunningService], watch: &mut Watch) {
        let Some(connection) = self.connections.get(&number) else {
            return;
        };
        let is_clear = connection.output.is_empty();
        let to = connection.socket.as_fd();
        let pass = |socket: &Listener| bindings::sys::send(to, &[0], socket.as_fd());
        let sockets = services.iter().flat_map(RunningService::listeners);
        let mut sockets = sockets.chain(self.listener.as_ref());
        let is_passed = sockets.all(|socket| pass(socket).is_ok());
        if !is_clear || !is_passed {
            self.remove(number, watch);
        }
    }

    /// The process at the other end.
    pub fn process(&self, number: usize) -> Option<Pid> {
        let connection = self.connections.get(&number)?;
        let credentials = getsockopt(&connection.socket, PeerCredentials).ok()?;
        Some(Pid::from_raw(credentials.pid()))
    }

    /// Leaves the control socket to the daemon that has taken it over. Those who are connected stay.
    pub fn stop_listening(&mut self, watch: &mut Watch) {
        if let Some(mut listener) = self.listener.take() {
            watch.remove(Source::ControlSocket, &listener);
            listener.leave_file();
        }
    }

    fn remove(&mut self, number: usize, watch: &mut Watch) {
        if let Some(connection) = self.connections.remove(&number) {
            watch.remove(Source::Administrator(number), &connection.socket);
            let _ = connection.socket.shutdown(Shutdown::Both);
        }
    }
}

/// Root, or whoever started the daemon.
fn may_administer(user: Uid) -> bool {
    user.is_root() || user == geteuid()
}

impl Connection {
    /// Sends as much as there is room for.
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

    /// Receives until a request is complete; an error if no more will come.
    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; LONGEST_REQUEST];
        while !self.input.contains(&b'\n') {
            match (&self.socket).read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.input.extend(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.input.len() > 2 * LONGEST_REQUEST {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    }

    fn next_request(&mut self) -> Option<Asked> {
        let end = self.input.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.input.drain(..=end).collect();
        Some(Asked {
            request: serde_json::from_slice(&line).map_err(|error| error.to_string()),
            name: self.name.clone(),
        })
    }
}
