//! Talks with administrators over the control socket: reads their requests, sends the replies.
//!
//! Only root and the daemon's own user may connect. What requests mean is decided by the controller. Waits
//! for nobody: a reply that an administrator does not take stays in memory until it leaves, and only a
//! few may be connected.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::{Pid, Uid, geteuid};
use socket2::Socket;

use super::conversation::{self, Conversation};
use super::event::{Source, Watch};
use crate::administration::{self, LONGEST_REQUEST, Reply, Request};
use crate::logging::{Severity, log};
use crate::sockets::{Listener, Peer};

/// Upper bound on the administrators that are connected at a time; the oldest have to leave for more.
const MOST: usize = 16;

/// The socket's name in the log.
const NAME: &str = "control socket";

/// The control socket and those who are connected to it.
pub struct Administrators {
    /// None when another daemon has taken it over.
    listener: Option<Listener>,
    connections: BTreeMap<usize, Connection>,
    next: usize,
}

struct Connection {
    conversation: Conversation,
    /// Who it is, for the log.
    name: String,
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

    /// The control socket.
    pub fn listener(&self) -> Option<&Listener> {
        self.listener.as_ref()
    }

    /// Accepts those who wait at the control socket.
    pub fn accept(&mut self, watch: &mut Watch) {
        while let Some(accepted) = conversation::accept(self.listener.as_ref(), NAME) {
            let name = accepted.name;
            if !matches!(accepted.peer, Peer::User(user) if may_administer(user)) {
                log(
                    Severity::Warning,
                    format_args!("{NAME}: {name} refused: not root"),
                );
                continue;
            }
            if let Err(error) = self.add(accepted.socket.into(), name, watch) {
                log(Severity::Err, format_args!("{NAME}: {error}"));
            }
        }
    }

    fn add(&mut self, socket: Socket, name: String, watch: &mut Watch) -> io::Result<()> {
        if self.connections.len() >= MOST {
            if let Some((oldest, connection)) = self.connections.pop_first() {
                let source = Source::Administrator(oldest);
                connection.conversation.end(source, watch);
            }
        }
        let source = Source::Administrator(self.next);
        let conversation = Conversation::new(socket, source, watch)?;
        self.connections
            .insert(self.next, Connection { conversation, name });
        self.next += 1;
        Ok(())
    }

    /// An administrator has sent something, has left, or takes more of a reply. Returns its next request, if
    /// that is complete.
    pub fn take(&mut self, number: usize, watch: &mut Watch) -> Option<Asked> {
        let connection = self.connections.get_mut(&number)?;
        let conversation = &mut connection.conversation;
        let is_open = conversation.go_on(end_of_line, LONGEST_REQUEST).is_ok();
        let Some(line) = conversation.question(end_of_line) else {
            if !is_open {
                self.remove(number, watch);
            }
            return None;
        };
        Some(Asked {
            request: serde_json::from_slice(&line).map_err(|error| error.to_string()),
            name: connection.name.clone(),
        })
    }

    /// Sends a reply. The administrator's next event comes when there is room for more of it, or when it has
    /// sent another request.
    pub fn answer(&mut self, number: usize, reply: &Reply, watch: &mut Watch) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let source = Source::Administrator(number);
        let line = administration::line(reply);
        if connection.conversation.answer(line, source, watch).is_err() {
            self.remove(number, watch);
        }
    }

    /// Sends copies of sockets after a reply, each with a byte of its own. An administrator that does not take
    /// them is cut off.
    pub fn pass<'a>(
        &mut self,
        number: usize,
        mut sockets: impl Iterator<Item = BorrowedFd<'a>>,
        watch: &mut Watch,
    ) {
        let Some(connection) = self.connections.get(&number) else {
            return;
        };
        let is_clear = connection.conversation.is_answered();
        let to = connection.conversation.as_fd();
        let is_passed = sockets.all(|socket| bindings::sys::send(to, &[0], socket).is_ok());
        if !is_clear || !is_passed {
            self.remove(number, watch);
        }
    }

    /// The process at the other end.
    pub fn process(&self, number: usize) -> Option<Pid> {
        let connection = self.connections.get(&number)?;
        let credentials = getsockopt(&connection.conversation, PeerCredentials).ok()?;
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
            let source = Source::Administrator(number);
            connection.conversation.end(source, watch);
        }
    }
}

/// Root, or whoever started the daemon.
fn may_administer(user: Uid) -> bool {
    user.is_root() || user == geteuid()
}

/// Where a line ends.
fn end_of_line(bytes: &[u8]) -> Option<usize> {
    Some(bytes.iter().position(|byte| *byte == b'\n')? + 1)
}
