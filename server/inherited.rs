//! Takes over listening sockets that another process has bound for the daemon.
//!
//! They come from the service manager, which passes them at start (LISTEN_FDS, sd_listen_fds(3)), or from the daemon
//! that is replaced (`predecessor`). `sockets` asks for an inherited socket of each configured address before it binds
//! a new one.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use socket2::Socket;

/// The address at which a socket listens.
#[derive(Debug, PartialEq)]
enum Bound {
    Internet(SocketAddr),
    Local(PathBuf),
}

/// Inherited listening sockets that have not been assigned to a configured address yet.
pub struct Inherited {
    sockets: Vec<(Bound, Socket)>,
    origin: Origin,
}

/// Where inherited sockets come from.
enum Origin {
    /// The service manager, which keeps the files of Unix sockets.
    Manager,
    /// The daemon that is replaced. The files of Unix sockets are this daemon's then, except for these, which are the
    /// service manager's.
    Predecessor { foreign: Vec<PathBuf> },
}

impl Inherited {
    /// Takes the sockets that the service manager has passed to this process. It is an error if one is neither a
    /// listening TCP socket nor a listening Unix socket with a path.
    pub fn from_environment() -> Result<Inherited, String> {
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for number in 0..passed.len() {
            let socket = match passed.take_unix_listener(number) {
                Ok(socket) => socket.map(Socket::from),
                Err(_) => passed
                    .take_tcp_listener(number)
                    .map_err(|error| format!("LISTEN_FDS: {error}"))?
                    .map(Socket::from),
            };
            if let Some(socket) = socket {
                let place = place(&socket)
                    .ok_or("LISTEN_FDS: expected sockets of TCP, and Unix sockets with a path")?;
                sockets.push((place, socket));
            }
        }
        let origin = Origin::Manager;
        Ok(Inherited { sockets, origin })
    }

    /// Takes the sockets of the daemon that is replaced. `foreign` are the paths of those whose files are not its own.
    pub fn from_predecessor(passed: Vec<OwnedFd>, foreign: Vec<PathBuf>) -> Inherited {
        let sockets = passed.into_iter().filter_map(|socket| {
            let socket = Socket::from(socket);
            Some((place(&socket)?, socket))
        });
        Inherited {
            sockets: sockets.collect(),
            origin: Origin::Predecessor { foreign },
        }
    }

    /// Whether a running daemon is replaced.
    pub fn takes_over(&self) -> bool {
        matches!(self.origin, Origin::Predecessor { .. })
    }

    /// Whether this daemon has to remove the file of an inherited Unix socket when it ends, once it has replaced the
    /// other.
    pub fn will_own(&self, path: &Path) -> bool {
        match &self.origin {
            Origin::Manager => false,
            Origin::Predecessor { foreign } => !foreign.iter().any(|it| it == path),
        }
    }

    /// Takes the socket that listens at this TCP address.
    pub fn take_internet(&mut self, address: &SocketAddr) -> Option<Socket> {
        self.take(|place| matches!(place, Bound::Internet(found) if found == address))
    }

    /// Takes the socket that listens at this path.
    pub fn take_local(&mut self, path: &Path) -> Option<Socket> {
        self.take(|place| matches!(place, Bound::Local(found) if found == path))
    }

    fn take(&mut self, is_wanted: impl Fn(&Bound) -> bool) -> Option<Socket> {
        let number = self
            .sockets
            .iter()
            .position(|(place, _)| is_wanted(place))?;
        Some(self.sockets.swap_remove(number).1)
    }

    /// Returns an error if a socket of the service manager is left, because clients that connect to it would wait for
    /// ever. The sockets left from a replaced daemon belong to addresses that are no longer configured, and are closed.
    pub fn finish(self) -> Result<(), String> {
        match self.sockets.first() {
            Some((place, _)) if !self.takes_over() => {
                let place = match place {
                    Bound::Internet(address) => address.to_string(),
                    Bound::Local(path) => path.display().to_string(),
                };
                Err(format!(
                    "the service manager passes a socket for {place}, which is not an address of the configuration"
                ))
            }
            _ => Ok(()),
        }
    }
}

fn place(socket: &Socket) -> Option<Bound> {
    let address = socket.local_addr().ok()?;
    match address.as_socket() {
        Some(address) => Some(Bound::Internet(address)),
        None => Some(Bound::Local(address.as_pathname()?.to_owned())),
    }
}
