//! Binds the listening sockets, accepts connections, and removes the sockets' files at the end.
//!
//! Addresses come from the configuration and are bound before the daemon detaches; connections go to the controller.
//! Nothing is read from a connection.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{UnixCredentials, getsockopt};
use nix::sys::stat::{Mode, umask};
use nix::unistd::Uid;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::{Address, Protocol};
use crate::inherited::Inherited;

/// The backlog of the daemon's own sockets, for administrators and monitoring systems.
const OWN_BACKLOG: i32 = 16;

/// An address that the daemon cannot listen at.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {address}: {cause}")]
pub struct BindError {
    address: String,
    cause: io::Error,
}

/// The client at the other end of a connection, as the kernel reports it. Limits on connections and failed logins apply
/// to a peer.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Peer {
    /// A TCP client's address. An IPv6 address is reduced to its first 64 bits, because one client has all addresses of
    /// such a network.
    Address(IpAddr),
    /// The user of a client on a Unix socket.
    User(Uid),
}

impl Peer {
    /// Returns the peer of this connection.
    pub fn of(socket: &Socket) -> io::Result<Peer> {
        match socket.peer_addr()?.as_socket() {
            Some(address) => Ok(Peer::at(address.ip())),
            None => Ok(Peer::User(Uid::from_raw(credentials(socket)?.uid()))),
        }
    }

    /// Returns the peer with this address.
    pub fn at(address: IpAddr) -> Peer {
        const NETWORK: u128 = !(u64::MAX as u128);
        Peer::Address(match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                IpAddr::V6((address.to_bits() & NETWORK).into())
            }
            address => address,
        })
    }
}

/// Returns the credentials of the process at the other end of a Unix socket, as they were when it connected.
pub(crate) fn credentials(socket: &impl AsFd) -> io::Result<UnixCredentials> {
    Ok(getsockopt(socket, PeerCredentials)?)
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Address(IpAddr::V6(address)) if !address.is_loopback() => {
                write!(f, "{address}/64")
            }
            Peer::Address(address) => address.fmt(f),
            Peer::User(user) => write!(f, "uid {user}"),
        }
    }
}

/// A connection that was accepted and not read from.
pub struct Accepted {
    /// The client's socket, blocking.
    pub socket: OwnedFd,
    /// The client.
    pub peer: Peer,
    /// The client's IP address; `None` on a Unix socket.
    pub address: Option<IpAddr>,
    /// The client's name in the log: `127.0.0.1:34567`, or `uid 1000, pid 4711`.
    pub name: String,
}

impl Accepted {
    /// Returns how long a TCP client has been connected, if it has sent nothing. Reads no byte.
    pub fn silent_for(&self) -> Option<Duration> {
        let is_silent = !is_readable(self.socket.as_fd());
        is_silent.then(|| bindings::sys::idle_time(self.socket.as_fd()))?
    }
}

/// Whether there are bytes to read or connections to accept, or the other end has closed.
fn is_readable(socket: BorrowedFd<'_>) -> bool {
    let mut asked = [PollFd::new(socket, PollFlags::POLLIN)];
    poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// One listening socket. Dropping it removes its file, if it owns one.
pub struct Listener {
    socket: Socket,
    file: Option<SocketFile>,
}

/// The file that belongs to a socket.
struct SocketFile {
    path: PathBuf,
    state: FileState,
}

/// Who is responsible for the file of a socket.
enum FileState {
    /// This daemon. The inode tells whether it is still the same file.
    Owned { inode: u64 },
    /// The daemon that is to be replaced.
    OfPredecessor,
    /// The daemon that is to be replaced has such a file with another port than this one.
    NotWritten { port: u16 },
}

impl Listener {
    /// Binds every address of a protocol section, unless a socket that listens there was inherited.
    pub fn bind_all(
        protocol: &Protocol,
        inherited: &mut Inherited,
    ) -> Result<Vec<Listener>, BindError> {
        let mut listeners = Vec::new();
        for address in &protocol.addresses {
            let at = |name: &dyn fmt::Display| {
                let address = name.to_string();
                move |cause| BindError { address, cause }
            };
            match address {
                Address::Internet(addresses) => {
                    for address in addresses {
                        let listener = match inherited.take_internet(address) {
                            Some(socket) => listen_again(socket, protocol, None),
                            None => internet(address, protocol),
                        };
                        listeners.push(listener.map_err(at(address))?);
                    }
                }
                Address::Local(path) => {
                    let listener = local_or_inherited(path, protocol, inherited);
                    listeners.push(listener.map_err(at(&path.display()))?);
                }
                Address::SocketFile(path) => {
                    let takes_over = inherited.takes_over();
                    let listener = socket_file(path, protocol, takes_over);
                    listeners.push(listener.map_err(at(&path.display()))?);
                }
            }
        }
        Ok(listeners)
    }

    /// Binds a Unix socket that only the daemon's user, and root, can connect to, unless a socket that listens there
    /// was inherited.
    pub fn bind_private(path: &Path, inherited: &mut Inherited) -> Result<Listener, BindError> {
        let protocol = own_protocol(false, Some(0o600));
        local_or_inherited(path, &protocol, inherited).map_err(|cause| BindError {
            address: path.display().to_string(),
            cause,
        })
    }

    /// Binds a TCP address for the daemon itself, unless a socket that listens there was inherited.
    pub fn bind_own(
        address: &SocketAddr,
        inherited: &mut Inherited,
    ) -> Result<Listener, BindError> {
        let protocol = own_protocol(true, None);
        let listener = match inherited.take_internet(address) {
            Some(socket) => listen_again(socket, &protocol, None),
            None => internet(address, &protocol),
        };
        listener.map_err(|cause| BindError {
            address: address.to_string(),
            cause,
        })
    }

    /// Takes over the socket's file from the daemon that has been replaced.
    pub fn own_file(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        match file.state {
            FileState::Owned { .. } => return Ok(()),
            FileState::OfPredecessor => {}
            FileState::NotWritten { port } => write_port(&file.path, port)?,
        }
        file.state = FileState::owned(&file.path)?;
        Ok(())
    }

    /// Returns the path of a Unix socket whose file belongs to somebody else: the service manager.
    pub fn foreign_file(&self) -> Option<PathBuf> {
        let address = self.socket.local_addr().ok()?;
        let path = address.as_pathname()?;
        self.file.is_none().then(|| path.to_owned())
    }

    /// Leaves the socket's file to the daemon that has taken it over.
    pub fn leave_file(&mut self) {
        self.file = None;
    }

    /// Whether another connection waits to be accepted.
    pub fn is_awaited(&self) -> bool {
        is_readable(self.socket.as_fd())
    }

    /// Accepts the next connection, without waiting for one.
    pub fn accept(&self) -> io::Result<Accepted> {
        let (socket, address) = self.socket.accept()?;
        let address = address.as_socket();
        let (peer, name) = match address {
            Some(address) => (Peer::at(address.ip()), address.to_string()),
            None => {
                let credentials = credentials(&socket)?;
                let (uid, pid) = (credentials.uid(), credentials.pid());
                (
                    Peer::User(Uid::from_raw(uid)),
                    format!("uid {uid}, pid {pid}"),
                )
            }
        };
        Ok(Accepted {
            socket: socket.into(),
            peer,
            address: address.map(|address| address.ip()),
            name,
        })
    }
}

/// Returns the settings of the daemon's own sockets.
fn own_protocol(reuse_address: bool, mode: Option<u32>) -> Protocol {
    Protocol {
        name: String::new(),
        addresses: Vec::new(),
        backlog: OWN_BACKLOG,
        reuse_address,
        keepalive: false,
        nodelay: false,
        mode,
        owner: None,
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            file.remove();
        }
    }
}

impl FileState {
    fn owned(path: &Path) -> io::Result<FileState> {
        let found = path.symlink_metadata()?;
        // A regular file has the port of a socket.
        if !found.file_type().is_socket() && !found.is_file() {
            return Err(io::Error::other(format!("{} is no socket", path.display())));
        }
        let inode = found.ino();
        Ok(FileState::Owned { inode })
    }
}

impl SocketFile {
    fn owned(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile {
            path: path.to_owned(),
            state: FileState::owned(path)?,
        })
    }

    /// Removes the file if it is owned, unless another has taken its place. A failure is harmless: the next start
    /// replaces a socket that nobody listens at.
    fn remove(&self) {
        let FileState::Owned { inode } = self.state else {
            return;
        };
        let now = self.path.symlink_metadata();
        if now.is_ok_and(|now| now.ino() == inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens at an inherited socket, which is bound already.
fn listen_again(
    socket: Socket,
    protocol: &Protocol,
    file: Option<SocketFile>,
) -> io::Result<Listener> {
    // Unix sockets accept this option and ignore it.
    socket.set_keepalive(protocol.keepalive)?;
    listen(socket, protocol, file)
}

/// Listens at a Unix socket: an inherited one, or else a new one. The file of an inherited socket keeps its mode and
/// owner.
fn local_or_inherited(
    path: &Path,
    protocol: &Protocol,
    inherited: &mut Inherited,
) -> io::Result<Listener> {
    match inherited.take_local(path) {
        Some(socket) => {
            let file = inherited.will_own(path).then(|| SocketFile {
                path: path.to_owned(),
                state: FileState::OfPredecessor,
            });
            listen_again(socket, protocol, file)
        }
        None => local(path, protocol),
    }
}

fn internet(address: &SocketAddr, protocol: &Protocol) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
    socket.set_reuse_address(protocol.reuse_address)?;
    // Accepted connections inherit this option.
    socket.set_keepalive(protocol.keepalive)?;
    if address.is_ipv6() {
        // The same port on 0.0.0.0 is a separate address.
        socket.set_only_v6(true)?;
    }
    socket.bind(&(*address).into())?;
    listen(socket, protocol, None)
}

fn local(path: &Path, protocol: &Protocol) -> io::Result<Listener> {
    remove_stale_socket(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // If a mode is configured, nobody may connect before it is set. Otherwise the umask decides on the mode.
    let restricted = protocol
        .mode
        .map(|_| umask(Mode::from_bits_truncate(0o777)));
    let bound = SockAddr::unix(path).and_then(|address| socket.bind(&address));
    if let Some(before) = restricted {
        umask(before);
    }
    bound?;
    let file = SocketFile::owned(path)?;
    let listener = listen(socket, protocol, Some(file))?;
    if let Some((user, group)) = protocol.owner {
        nix::unistd::chown(path, Some(user), Some(group))?;
    }
    if let Some(mode) = protocol.mode {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(listener)
}

/// Removes a socket that nobody listens at. Anything else at the path stays, and is an error.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::other("the path exists and is not a socket"));
        }
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        _ => Err(io::Error::other("another process listens on it")),
    }
}

/// The first line of a file that contains the port of a socket of type `socket_file`.
const SOCKET_FILE: &str = "socket_file\n";

/// Listens at a free TCP port of the loopback interface, and writes the port to a file that only its owner can read. If
/// another daemon is to be replaced, the file is written when that has happened.
fn socket_file(path: &Path, protocol: &Protocol, takes_over: bool) -> io::Result<Listener> {
    let mut listener = internet(&SocketAddr::from(([127, 0, 0, 1], 0)), protocol)?;
    let port = listener
        .socket
        .local_addr()?
        .as_socket()
        .map_or(0, |address| address.port());
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        // Only a regular file is opened, because opening a FIFO would block.
        Ok(found) if found.is_file() && tells_a_port(path)? => {}
        Ok(_) => {
            return Err(io::Error::other(
                "the file exists and does not contain a port",
            ));
        }
    }
    let state = match takes_over {
        true => FileState::NotWritten { port },
        false => {
            write_port(path, port)?;
            FileState::owned(path)?
        }
    };
    let path = path.to_owned();
    listener.file = Some(SocketFile { path, state });
    Ok(listener)
}

/// Replaces the file of a port.
fn write_port(path: &Path, port: u16) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let mut options = std::fs::File::options();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(format!("{SOCKET_FILE}{port}\n").as_bytes())
        .and_then(|()| std::fs::rename(&temporary, path))
        .inspect_err(|_| drop(std::fs::remove_file(&temporary)))
}

fn tells_a_port(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(SOCKET_FILE.len() as u64)
        .read_to_end(&mut start)?;
    Ok(start == SOCKET_FILE.as_bytes())
}

fn listen(socket: Socket, protocol: &Protocol, file: Option<SocketFile>) -> io::Result<Listener> {
    // The listener owns the file from here on, so an error below removes the file again.
    let listener = Listener { socket, file };
    listener.socket.listen(protocol.backlog)?;
    listener.socket.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_an_ipv6_network_are_one_peer() {
        let peer = |address: &str| Peer::at(address.parse().unwrap());
        assert_eq!(peer("2001:db8:1:2::3"), peer("2001:db8:1:2:ffff::4"));
        assert_ne!(peer("2001:db8:1:2::3"), peer("2001:db8:1:3::3"));
        assert_eq!(peer("2001:db8:1:2::3").to_string(), "2001:db8:1:2::/64");
        assert_eq!(peer("::ffff:192.0.2.1"), peer("192.0.2.1"));
        assert_ne!(peer("192.0.2.1"), peer("192.0.2.2"));
        assert_eq!(peer("::1").to_string(), "::1");
    }

    #[test]
    fn each_protocol_says_for_itself_whether_connections_are_kept_alive() {
        for keepalive in [true, false] {
            let protocol = Protocol {
                name: String::new(),
                addresses: vec![Address::Internet(vec!["127.0.0.1:0".parse().unwrap()])],
                backlog: 1,
                reuse_address: true,
                keepalive,
                nodelay: false,
                mode: None,
                owner: None,
            };
            let mut none = Inherited::from_environment().unwrap();
            let listeners = Listener::bind_all(&protocol, &mut none).unwrap();
            let address = listeners[0].socket.local_addr().unwrap();
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client.connect(&address).unwrap();
            let accepted = Socket::from(listeners[0].accept().unwrap().socket);
            assert_eq!(accepted.keepalive().unwrap(), keepalive);
        }
    }
}
