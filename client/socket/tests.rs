//! Tests sockets against listeners that answer, refuse, or let a client wait.

use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// An address of this host at which a connection gets no answer: the listener's queue is full.
struct BlackHole {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<Socket>,
}

impl BlackHole {
    fn new(ip: Ipv4Addr) -> BlackHole {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let time = Duration::from_millis(100);
            match socket.connect_timeout(&address.into(), time) {
                Ok(()) => queued.push(socket),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                    break;
                }
            }
        }
        BlackHole {
            address,
            _listener: listener,
            _queued: queued,
        }
    }
}

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 7, last)
}

fn listening(last: u8) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip(last), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Returns an address at which nobody listens.
fn refusing(last: u8) -> SocketAddr {
    listening(last).1
}

fn try_all(addresses: &[SocketAddr], time: Duration) -> Result<Connected, SocketError> {
    let addresses = Resolved::Addresses(addresses.to_vec());
    connect(&addresses, Purpose::Application, Deadline::after(time))
}

fn peer(connected: &Connected) -> Option<SocketAddr> {
    connected.timed.socket().peer_addr().unwrap().as_socket()
}

#[test]
fn an_address_without_an_answer_costs_a_moment() {
    let (_listener, good) = listening(1);
    let silent = [BlackHole::new(ip(2)), BlackHole::new(ip(3))];
    for (addresses, least, most) in [
        (vec![good, silent[0].address], 0, 200),
        (vec![silent[0].address, good], 240, 800),
        (vec![silent[0].address, silent[1].address, good], 490, 1000),
        // After a failure the next attempt begins at once.
        (vec![refusing(4), refusing(5), good], 0, 200),
        (vec![silent[0].address, refusing(6), good], 240, 800),
    ] {
        let start = Instant::now();
        let connected = try_all(&addresses, LONG).unwrap();
        let taken = start.elapsed().as_millis();
        assert!((least..most).contains(&taken), "{addresses:?}: {taken} ms");
        assert_eq!(peer(&connected), Some(good));
        // The socket is like one that was connected without a race: it blocks, with a time limit.
        let socket = connected.timed.socket();
        assert!(!socket.nonblocking().unwrap() && socket.tcp_nodelay().unwrap());
        assert!(socket.read_timeout().unwrap().unwrap() > LONG / 2);
        let flags = fcntl(&**socket, FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        assert!(socket.as_raw_fd() > 2);
    }
}

/// An attempt that is answered late is still waited for when the others have failed.
#[test]
fn the_first_answer_wins_whichever_address_it_is() {
    let hole = BlackHole::new(ip(11));
    let address = hole.address;
    let (over, wait) = std::sync::mpsc::channel::<()>();
    let taking = thread::spawn(move || {
        thread::sleep(Duration::from_millis(600));
        // Makes room in the queue, so that the kernel's next attempt is answered.
        let (first, _) = hole._listener.accept().unwrap();
        let (second, _) = hole._listener.accept().unwrap();
        let _ = wait.recv();
        drop((first, second, hole));
    });
    let start = Instant::now();
    let connected = try_all(&[address, refusing(12)], LONG).unwrap();
    assert_eq!(peer(&connected), Some(address));
    assert!(start.elapsed() < Duration::from_secs(10));
    drop(over);
    taking.join().unwrap();
}

#[test]
fn addresses_that_all_fail_are_named_with_their_causes() {
    let hole = BlackHole::new(ip(21));
    let (first, second) = (refusing(22), refusing(23));
    let time = Duration::from_millis(700);
    let start = Instant::now();
    let failed = try_all(&[first, hole.address, second], time).err().unwrap();
    let taken = start.elapsed();
    assert!(taken >= time - Duration::from_millis(2), "{taken:?}");
    assert!(taken < time + Duration::from_millis(500), "{taken:?}");
    let refused = "Connection refused (os error 111)";
    let expected =
        format!("127.0.7.22: {refused}; 127.0.7.23: {refused}; 127.0.7.21: no answer in time");
    assert_eq!(failed.to_string(), expected);
    // Without the silent address there is nothing to wait for.
    let start = Instant::now();
    assert!(try_all(&[first, second], LONG).is_err());
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn many_silent_addresses_take_the_time_there_is() {
    let hole = BlackHole::new(ip(31));
    let time = Duration::from_secs(1);
    let start = Instant::now();
    let failed = try_all(&[hole.address; 40], time).err().unwrap();
    let taken = start.elapsed();
    assert!(taken >= time - Duration::from_millis(2), "{taken:?}");
    assert!(taken < time + Duration::from_millis(500), "{taken:?}");
    let message = failed.to_string();
    assert_eq!(message.matches("no answer in time").count(), 4, "{message}");
    assert_eq!(message.matches("not tried").count(), 36, "{message}");
}

/// The sockets of the other attempts are closed, and no child inherits them.
#[test]
fn losers_are_closed_at_once() {
    let hole = BlackHole::new(ip(41));
    let (listener, good) = listening(42);
    let connected = try_all(&[hole.address, good], LONG).unwrap();
    let of_ours = |port| {
        let sockets = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let remote = format!(":{port:04X} 02"); // to that port, in state SYN_SENT
        sockets
            .lines()
            .filter(|line| line.contains(&remote))
            .count()
    };
    assert_eq!(of_ours(hole.address.port()), 0);
    let (mut accepted, _) = listener.accept().unwrap();
    drop(connected);
    // The end of the connection arrives, so nothing else has the socket open.
    accepted.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(io::Read::read(&mut accepted, &mut [0]).unwrap(), 0);
}
