//! Takes over the listening sockets of a running daemon, so that an upgrade refuses no connection.
//!
//! With `-takeover`, a daemon that starts connects to the control socket of its configuration and asks the running
//! daemon for copies of its sockets, and for the memory in which it counts (`counts`). When it is ready to serve, it
//! tells the old daemon. The old daemon then accepts no new clients, and serves its clients until they leave. If the
//! start fails before that, the old daemon continues undisturbed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::administration::{Connection, Reply, Request};
use crate::counts::Heritage;
use crate::logging::{Severity, log};

/// How long the old daemon may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// An old daemon that has handed over copies of its sockets, and still accepts clients.
pub struct Predecessor(Connection);

impl Predecessor {
    /// Connects to a control socket and asks for the listening sockets. Returns `None` if no daemon listens there.
    pub fn ask(control_socket: &Path) -> Result<Option<(Predecessor, Vec<OwnedFd>)>, String> {
        let failed = |error| format!("-takeover: {}: {error}", control_socket.display());
        let mut connection = match Connection::open(control_socket, PATIENCE) {
            Ok(connection) => connection,
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
                _ => return Err(failed(error.to_string())),
            },
        };
        let reply = connection.ask(&Request::HandOver);
        let count = match reply.map_err(|error| failed(error.to_string()))? {
            Reply::HandingOver(count) => count,
            Reply::Failed(reason) => return Err(failed(reason)),
            _ => return Err(failed("unexpected answer from the daemon".into())),
        };
        let sockets = connection.sockets(count);
        let sockets = sockets.map_err(|error| failed(error.to_string()))?;
        Ok(Some((Predecessor(connection), sockets)))
    }

    /// Asks the old daemon which of its sockets have files that are the service manager's. Returns none if it cannot tell,
    /// as a daemon of an older version.
    pub fn foreign_files(&mut self) -> Vec<PathBuf> {
        match self.0.ask(&Request::ForeignFiles) {
            Ok(Reply::Files(paths)) => paths,
            Ok(_) | Err(_) => Vec::new(),
        }
    }

    /// Asks the old daemon for its counts of failed logins and signatures. Returns none if it cannot hand them over, as
    /// a daemon of an older version.
    pub fn counts(&mut self) -> Heritage {
        let counts = self.ask_for_counts();
        counts.unwrap_or_else(|reason| {
            log(
                Severity::Warning,
                format_args!("failed logins and signatures are counted anew: {reason}"),
            );
            Heritage::default()
        })
    }

    fn ask_for_counts(&mut self) -> Result<Heritage, String> {
        let failed = |error: io::Error| error.to_string();
        match self.0.ask(&Request::Counts).map_err(failed)? {
            Reply::Counts(labels) => {
                let memory = self.0.sockets(labels.len()).map_err(failed)?;
                Ok(Heritage(labels.into_iter().zip(memory).collect()))
            }
            Reply::Failed(reason) => Err(reason),
            _ => Err("the daemon answers something else".to_owned()),
        }
    }

    /// Tells the old daemon to accept no more clients. From now on this daemon serves them.
    pub fn replace(mut self) -> Result<(), String> {
        match self.0.ask(&Request::HandedOver) {
            Ok(Reply::Done) => Ok(()),
            Ok(_) => Err("-takeover: the old daemon refuses to hand over".into()),
            Err(error) => Err(format!(
                "-takeover: the old daemon refuses to hand over: {error}"
            )),
        }
    }
}
