//! Takes over listening sockets that another process has bound for the daemon.
//!
//! They come from the service manager, which passes them at the start (LISTEN_FDS, sd_listen_fds(3)), and go
//! to `sockets`, which asks for the socket of each configured address before it binds one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use socket2::Socket;

/// Where a socket listens.
#[derive(Debug, PartialEq)]
enum Bound {
    Internet(SocketAddr),
    Local(PathBuf),
}

/// Sockets that listen already, and that no configured address has asked for yet.
pub struct Inherited(Vec<(Bound, Socket)>);

impl Inherited {
    /// The sockets that the service manager has passed to this process. One that is not a listening socket
    /// of TCP, or a Unix socket with a path, is an error.
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
        Ok(Inherited(sockets))
    }

    /// The socket that listens at this address of TCP.
    pub fn take_internet(&mut self, address: &SocketAddr) -> Option<Socket> {
        self.take(|place| matches!(place, Bound::Internet(found) if found == address))
    }

    /// The socket that listens at this path.
    pub fn take_local(&mut self, path: &Path) -> Option<Socket> {
        self.take(|place| matches!(place, Bound::Local(found) if found == path))
    }

    fn take(&mut self, is_wanted: impl Fn(&Bound) -> bool) -> Option<Socket> {
        let number = self.0.iter().position(|(place, _)| is_wanted(place))?;
        Some(self.0.swap_remove(number).1)
    }

    /// An error if a socket is left: clients that connect to it would wait for ever.
    pub fn finish(self) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some((place, _)) => {
                let place = match place {
                    Bound::Internet(address) => address.to_string(),
                    Bound::Local(path) => path.display().to_string(),
                };
                Err(format!(
                    "the service manager passes a socket for {place}, which is no address of the configuration"
                ))
            }
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
