//! Reads the PROXY protocol header, in which a load balancer says whose connection it passes on.
//!
//! The header is the first thing on a connection of a service with `proxy_protocol`: version 2, which is binary, as
//! HAProxy's `send-proxy-v2` sends it. A worker reads it, and not a byte behind it, before TLS and the first call. It
//! says which client's connection this is, or that the balancer connects for itself, as health checks do (LOCAL). The
//! controller lets only [`Balancers`] connect. It also limits how long a client may take (`controller::admission`).

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use proxy_header::{ParseConfig, ProxyHeader};

/// The bytes that every header of version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The size in bytes of the fixed part: signature, version and command, family, and the length of the rest.
const PREFIX_SIZE: usize = 16;

/// Upper bound on the bytes of a header. IPv6 addresses take 52 bytes; further information of a balancer, such as the
/// names in a certificate, takes some hundred.
const LONGEST: usize = 2048;

/// Version and command: a connection of the balancer itself.
const LOCAL: u8 = 0x20;

/// Version and command: a client's connection.
const PROXY: u8 = 0x21;

/// What a header of version 1 begins with.
const VERSION_1: &[u8] = b"PROXY ";

/// Who may connect to a service with `proxy_protocol`: the addresses and networks of `proxy_from`.
#[derive(Clone, Debug, PartialEq)]
pub struct Balancers(Vec<IpNet>);

/// A list of balancers that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// It is empty.
    #[error("expected at least one address")]
    Empty,
    /// An element is neither an address nor a network.
    #[error("`{0}`: expected IP addresses and networks such as 10.1.0.0/24, with blanks between")]
    NoNetwork(String),
    /// An element has host bits that its prefix leaves out.
    #[error("`{0}`: the network is {1}")]
    HostBits(String, IpNet),
    /// An element is the network of all addresses.
    #[error("`{0}`: would let every client choose its address")]
    Everybody(String),
}

impl Balancers {
    /// Parses addresses and networks that are separated by blanks.
    pub fn parse(text: &str) -> Result<Balancers, ListError> {
        let networks = text.split_ascii_whitespace().map(network);
        let networks = networks.collect::<Result<Vec<_>, _>>()?;
        match networks.is_empty() {
            true => Err(ListError::Empty),
            false => Ok(Balancers(networks)),
        }
    }

    /// Whether this address is one of them.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl fmt::Display for Balancers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&networks.join(" "))
    }
}

fn network(text: &str) -> Result<IpNet, ListError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address.to_canonical()));
    }
    let network: IpNet = text
        .parse()
        .map_err(|_| ListError::NoNetwork(text.to_owned()))?;
    match network {
        network if network.prefix_len() == 0 => Err(ListError::Everybody(text.to_owned())),
        network if network.trunc() != network => {
            Err(ListError::HostBits(text.to_owned(), network.trunc()))
        }
        network => Ok(network),
    }
}

/// Whose connection it is, according to the header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// This client's.
    Client(SocketAddr),
    /// The balancer's own.
    Balancer,
}

/// Why a connection is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It ended without a byte: a health check.
    #[error("it ended before the PROXY header")]
    Silent,
    /// The first bytes are those of no header.
    #[error("no PROXY header of version 2 came first")]
    NoHeader,
    /// The first bytes are those of version 1.
    #[error("the PROXY header has version 1; only version 2 is supported")]
    Version1,
    /// The header is longer than `LONGEST`.
    #[error("the PROXY header has {0} bytes, which is more than {LONGEST}")]
    TooLong(usize),
    /// The header is for a client's connection and has no TCP address.
    #[error("the PROXY header names no TCP client")]
    NoAddress,
    /// The header contradicts itself, or has a command that is not defined.
    #[error("the PROXY header is malformed")]
    Malformed,
    /// The header is not complete.
    #[error("it ended within the PROXY header")]
    Incomplete,
    /// The header cannot be read.
    #[error("the PROXY header cannot be read: {0}")]
    Transport(io::Error),
}

/// Reads a header, and nothing behind it. Returns at once if the bytes cannot be a header.
pub fn read(mut from: impl Read) -> Result<Origin, Refusal> {
    let mut header = Vec::with_capacity(PREFIX_SIZE);
    while header.len() < PREFIX_SIZE {
        fill(&mut from, &mut header, PREFIX_SIZE)?;
        let compared = header.len().min(SIGNATURE.len());
        if header.get(..compared) != SIGNATURE.get(..compared) {
            let compared = header.len().min(VERSION_1.len());
            return Err(match header.get(..compared) == VERSION_1.get(..compared) {
                true => Refusal::Version1,
                false => Refusal::NoHeader,
            });
        }
    }
    let Some(&[command, _, high, low]) = header.last_chunk() else {
        return Err(Refusal::Malformed);
    };
    let size = PREFIX_SIZE + usize::from(u16::from_be_bytes([high, low]));
    if size > LONGEST {
        return Err(Refusal::TooLong(size));
    }
    while header.len() < size {
        fill(&mut from, &mut header, size)?;
    }
    match command {
        // The address family of a LOCAL header has no meaning.
        LOCAL => Ok(Origin::Balancer),
        PROXY => client(&header).map(Origin::Client),
        _ => Err(Refusal::Malformed),
    }
}

/// Whether a header is incomplete.
pub fn is_incomplete(bytes: &[u8]) -> bool {
    matches!(read(bytes), Err(Refusal::Silent | Refusal::Incomplete))
}

/// Reads once and appends the bytes to the header, up to a total of `size` bytes.
fn fill(from: &mut impl Read, header: &mut Vec<u8>, size: usize) -> Result<(), Refusal> {
    let before = header.len();
    header.resize(size, 0);
    let read = from.read(header.get_mut(before..).unwrap_or_default());
    header.truncate(before + read.as_ref().copied().unwrap_or(0));
    let ended = match before {
        0 => Refusal::Silent,
        _ => Refusal::Incomplete,
    };
    match read {
        Ok(0) => Err(ended),
        Ok(_) => Ok(()),
        Err(error) => match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            ErrorKind::ConnectionReset => Err(ended),
            _ => Err(Refusal::Transport(error)),
        },
    }
}

/// Returns the address of the client that a complete header names.
fn client(header: &[u8]) -> Result<SocketAddr, Refusal> {
    let config = ParseConfig {
        include_tlvs: false,
        allow_v1: false,
        allow_v2: true,
    };
    let (header, _) = ProxyHeader::parse(header, config).map_err(|_| Refusal::Malformed)?;
    let named = header.proxied_address();
    let named = named.filter(|named| named.protocol == proxy_header::Protocol::Stream);
    let source = named.ok_or(Refusal::NoAddress)?.source;
    Ok(SocketAddr::new(source.ip().to_canonical(), source.port()))
}

/// Returns the name for the log of a client behind a balancer, which the log calls `balancer`.
pub fn name(client: SocketAddr, balancer: &str) -> String {
    match balancer.parse::<SocketAddr>() {
        Ok(balancer) => format!("{client} via {}", balancer.ip()),
        Err(_) => format!("{client} via {balancer}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time, then end of file. A reader that asks for more than it needs gets an error by that.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(space.len());
            self.0.read(&mut space[..count])
        }
    }

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    const ADDRESSES: [u8; 12] = [10, 1, 2, 3, 10, 0, 0, 7, 0x11, 0xd7, 0x11, 0x5c];

    fn of_ipv6() -> Vec<u8> {
        let client: std::net::Ipv6Addr = "2001:db8::7".parse().unwrap();
        header(
            PROXY,
            0x21,
            &[&client.octets()[..], &[0; 16], &[0, 9, 0, 1]].concat(),
        )
    }

    #[test]
    fn a_header_comes_in_pieces_of_any_size_and_what_is_behind_it_stays() {
        let unique_id = [&ADDRESSES[..], &[5, 0, 3, b'a', b'b', b'c']].concat();
        for (bytes, expected) in [
            (header(PROXY, 0x11, &ADDRESSES), "10.1.2.3:4567"),
            (header(PROXY, 0x11, &unique_id), "10.1.2.3:4567"),
            (of_ipv6(), "[2001:db8::7]:9"),
        ] {
            let expected = Origin::Client(expected.parse().unwrap());
            let all = [&bytes[..], b"first call"].concat();
            for size in 1..=all.len() {
                let mut from = Pieces(&all, size);
                assert_eq!(read(&mut from).unwrap(), expected);
                assert_eq!(from.0, b"first call");
            }
        }
    }

    #[test]
    fn an_ipv4_address_within_ipv6_is_that_of_ipv4() {
        let mapped: std::net::Ipv6Addr = "::ffff:10.1.2.3".parse().unwrap();
        let rest = [&mapped.octets()[..], &[0; 16], &[0, 9, 0, 1]].concat();
        let origin = read(&header(PROXY, 0x21, &rest)[..]).unwrap();
        assert_eq!(origin, Origin::Client("10.1.2.3:9".parse().unwrap()));
    }

    #[test]
    fn a_balancers_own_connection_has_a_header_of_any_family() {
        for family in [0, 0x11, 0x31, 0x77] {
            for rest in [&[][..], &ADDRESSES, &[9; 300]] {
                let origin = read(&header(LOCAL, family, rest)[..]).unwrap();
                assert_eq!(origin, Origin::Balancer);
            }
        }
    }

    #[test]
    fn a_clients_connection_without_an_address_of_tcp_is_refused() {
        for (family, rest) in [
            (0, &[][..]),
            (0, &ADDRESSES),
            (0x12, &ADDRESSES),
            (0x31, &[b'/'; 216]),
        ] {
            let refusal = read(&header(PROXY, family, rest)[..]).unwrap_err();
            assert!(matches!(refusal, Refusal::NoAddress), "{refusal}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_without_waiting_for_more() {
        // The start of a record, of a handshake, and of version 1.
        for bytes in [
            &b"\x80\0\0\x28"[..],
            b"\x16\x03\x01",
            b"PROXY TCP4 1.1.1.1",
            b"P",
        ] {
            let refusal = read(Pieces(bytes, 1)).unwrap_err();
            let is_version_1 = bytes.starts_with(b"P");
            assert_eq!(matches!(refusal, Refusal::Version1), is_version_1);
            assert_eq!(matches!(refusal, Refusal::NoHeader), !is_version_1);
        }
        let long = [&SIGNATURE[..], &[LOCAL, 0, 0xff, 0xff]].concat();
        assert!(matches!(read(&long[..]), Err(Refusal::TooLong(65551))));
        let longest = header(LOCAL, 0, &vec![0; LONGEST - PREFIX_SIZE]);
        assert!(read(&longest[..]).is_ok());
        assert!(matches!(read(&[][..]), Err(Refusal::Silent)));
    }

    #[test]
    fn no_part_of_a_header_is_one() {
        assert!(is_incomplete(b"") && !is_incomplete(b"P"));
        assert!(!is_incomplete(&of_ipv6()));
        for whole in [header(PROXY, 0x11, &ADDRESSES), of_ipv6()] {
            for end in 1..whole.len() {
                let refusal = read(&whole[..end]).unwrap_err();
                assert!(matches!(refusal, Refusal::Incomplete), "{end}: {refusal}");
                assert!(is_incomplete(&whole[..end]));
            }
        }
    }

    /// Tries every change of one byte. Each gets an answer, and no more than [`LONGEST`] bytes are read.
    #[test]
    fn a_changed_header_is_refused_or_says_something_else() {
        for whole in [header(PROXY, 0x11, &ADDRESSES), of_ipv6()] {
            for at in 0..whole.len() {
                for value in 0..=u8::MAX {
                    let mut changed = whole.clone();
                    changed[at] = value;
                    let mut all = &[&changed[..], &[7; LONGEST]].concat()[..];
                    let origin = read(&mut all);
                    assert!(at >= SIGNATURE.len() || value == whole[at] || origin.is_err());
                    assert!(all.len() >= whole.len());
                }
            }
        }
    }

    #[test]
    fn balancers_are_addresses_and_networks() {
        let balancers = Balancers::parse("10.0.0.7  10.1.0.0/24 2001:db8::/32\t::ffff:10.2.0.1");
        let balancers = balancers.unwrap();
        for (address, expected) in [
            ("10.0.0.7", true),
            ("10.0.0.8", false),
            ("10.1.0.255", true),
            ("10.1.1.0", false),
            ("::ffff:10.1.0.9", true),
            ("10.2.0.1", true),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(balancers.contain(address.parse().unwrap()), expected);
        }
        for wrong in [
            "",
            " ",
            "localhost",
            "10.1.0.5/24",
            "0.0.0.0/0",
            "10.0.0.7,",
        ] {
            assert!(Balancers::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_client_is_named_with_its_balancer() {
        let client = "10.1.2.3:4567".parse().unwrap();
        assert_eq!(name(client, "10.0.0.7:99"), "10.1.2.3:4567 via 10.0.0.7");
        assert_eq!(name(client, "[::1]:99"), "10.1.2.3:4567 via ::1");
    }
}
