//! Talks with administrators over the control socket: reads their requests, sends the replies.
//!
//! Only root and the daemon's own user may connect. The controller interprets the requests. Never blocks: a reply that
//! an administrator does not read stays in memory until the administrator leaves, and only a few may be connected.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::{Pid, Uid, geteuid};

use super::conversation::Room;
use super::event::{Source, Watch};
use crate::administration::{self, LONGEST_REQUEST, Reply, Request};
use crate::logging::{Severity, log};
use crate::sockets::{Accepted, Listener, Peer};

/// The control socket's name in the log.
const NAME: &str = "control socket";

/// The control socket and its connections, with the administrators' names for the log.
pub struct Administrators(Room<String>);

/// A request, and who made it.
pub struct Asked {
    /// The request, or why it cannot be parsed.
    pub request: Result<Request, String>,
    /// Who asks, for the log.
    pub name: String,
}

impl Administrators {
    /// Watches a control socket.
    pub fn new(listener: Listener, watch: &mut Watch) -> io::Result<Administrators> {
        let sources = (
            Source::ControlSocket,
            Source::Administrator as fn(usize) -> _,
        );
        Ok(Administrators(Room::new(listener, NAME, sources, watch)?))
    }

    /// The control socket.
    pub fn listener(&self) -> Option<&Listener> {
        self.0.listener()
    }

    /// The same, mutable.
    pub fn listener_mut(&mut self) -> Option<&mut Listener> {
        self.0.listener_mut()
    }

    /// Accepts the connections that wait at the control socket.
    pub fn accept(&mut self, watch: &mut Watch) {
        let admit = |accepted: &Accepted| {
            let name = accepted.name.clone();
            if matches!(accepted.peer, Peer::User(user) if may_administer(user)) {
                return Some(name);
            }
            log(
                Severity::Warning,
                format_args!("{NAME}: {name} refused: not root"),
            );
            None
        };
        self.0.accept(admit, watch);
    }

    /// Handles an event of a connection: the administrator has sent something, has left, or has room for more of a
    /// reply. Returns the next request, if it is complete.
    pub fn take(&mut self, number: usize, watch: &mut Watch) -> Option<Asked> {
        let (conversation, name) = self.0.get_mut(number)?;
        let is_open = conversation.go_on(end_of_line, LONGEST_REQUEST).is_ok();
        let Some(line) = conversation.question(end_of_line) else {
            if !is_open {
                self.0.end(number, watch);
            }
            return None;
        };
        Some(Asked {
            request: serde_json::from_slice(&line).map_err(|error| error.to_string()),
            name: name.clone(),
        })
    }

    /// Sends a reply. The administrator's next event comes when there is room for more of it, or when it has
    /// sent another request.
    pub fn answer(&mut self, number: usize, reply: &Reply, watch: &mut Watch) {
        let Some((conversation, _)) = self.0.get_mut(number) else {
            return;
        };
        let source = Source::Administrator(number);
        let line = administration::line(reply);
        if conversation.answer(line, source, watch).is_err() {
            self.0.end(number, watch);
        }
    }

    /// Sends duplicates of descriptors after a reply, each with one byte. Disconnects an administrator that does not
    /// take them.
    pub fn pass<'a>(
        &mut self,
        number: usize,
        mut sockets: impl Iterator<Item = BorrowedFd<'a>>,
        watch: &mut Watch,
    ) {
        let Some((conversation, _)) = self.0.get(number) else {
            return;
        };
        let is_clear = conversation.is_answered();
        let to = conversation.as_fd();
        let is_passed = sockets.all(|socket| bindings::sys::send(to, &[0], socket).is_ok());
        if !is_clear || !is_passed {
            self.0.end(number, watch);
        }
    }

    /// The id of the process at the other end.
    pub fn process(&self, number: usize) -> Option<Pid> {
        let (conversation, _) = self.0.get(number)?;
        let credentials = getsockopt(conversation, PeerCredentials).ok()?;
        Some(Pid::from_raw(credentials.pid()))
    }

    /// Leaves the control socket to the daemon that has taken it over. Existing connections stay.
    pub fn stop_listening(&mut self, watch: &mut Watch) {
        self.0.stop_listening(watch);
    }
}

/// Whether a user is root, or the one who started the daemon.
fn may_administer(user: Uid) -> bool {
    user.is_root() || user == geteuid()
}

/// Returns where the first line ends, behind its line feed.
fn end_of_line(bytes: &[u8]) -> Option<usize> {
    Some(bytes.iter().position(|byte| *byte == b'\n')? + 1)
}
