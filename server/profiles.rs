//! Decides which profile a client gets. The profile says which rules, modules, limits and sandbox apply to the client.
//!
//! `config::profiles` reads the sections `profile` of a processor. The worker knows its client's address or user from
//! the socket, and the certificate or the identity of a pre-shared key from the TLS handshake. It takes the first
//! profile that matches ([`choose`]). `limits` enforces the limits of a profile, `usage` counts what all workers of a
//! service share, and `imagined` parses the client that `-check -as` describes. Matching makes no system call.

pub mod imagined;
pub mod limits;
pub mod usage;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use config_file::At;
use nix::unistd::{Gid, Uid};
use socket2::Socket;

use crate::sandbox::Sandbox;
use crate::sockets;

/// One `profile` section.
#[derive(Clone, Debug)]
pub struct Profile {
    /// `name`: unique within the service. With its place in the file.
    pub name: At<String>,
    /// The clients that it is for.
    pub who: Who,
    /// `filter_config`: the rules. Default those of the service.
    pub filter_config: Option<PathBuf>,
    /// `modules`: aliases of the modules that may be loaded. Default all modules of the rules.
    pub modules: Option<At<Vec<String>>>,
    /// The limits on each client.
    pub limits: limits::Limits,
    /// `max_connections`: connections that all its clients may have at the same time. Default no limit but those of the
    /// service.
    pub max_connections: Option<usize>,
    /// `sandbox`: what the workers of its clients may do. Default the sandbox of the service.
    pub sandbox: Option<Sandbox>,
}

/// What is done with clients that match no profile: `without_profile`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Otherwise {
    /// They are served with the settings of the section `processor`.
    #[default]
    Serve,
    /// They are disconnected.
    Refuse,
}

/// The clients that a profile is for. In each field that has values, one of them has to match.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Who {
    /// `certificate`: the SHA-256 fingerprint of the client's certificate.
    pub certificate: Vec<Fingerprint>,
    /// `subject`: the certificate's subject, as the log shows it.
    pub subject: Vec<String>,
    /// `issuer`: the certificate's issuer, in the same form.
    pub issuer: Vec<String>,
    /// `psk`: the identity of the client's pre-shared key.
    pub psk: Vec<String>,
    /// `uid`: the user of a client on a Unix socket.
    pub uid: Vec<Uid>,
    /// `gid`: the primary group of such a client.
    pub gid: Vec<Gid>,
    /// `network`: the network of a TCP client.
    pub network: Vec<Network>,
}

/// What is known of a client.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Client {
    /// The address of a TCP client. An IPv4 address is never in the form of an IPv4-mapped IPv6 address.
    pub address: Option<IpAddr>,
    /// The user of a client on a Unix socket.
    pub uid: Option<Uid>,
    /// The primary group of such a client.
    pub gid: Option<Gid>,
    /// The SHA-256 fingerprint of its certificate.
    pub certificate: Option<Fingerprint>,
    /// The certificate's subject, as the log shows it.
    pub subject: Option<String>,
    /// The certificate's issuer, in the same form.
    pub issuer: Option<String>,
    /// The identity of its pre-shared key.
    pub psk: Option<String>,
}

/// The SHA-256 fingerprint of a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fingerprint(pub Vec<u8>);

/// An IP network: all addresses that have the same first bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Fingerprint {
    /// Parses 64 hexadecimal digits, either with a colon between two pairs or without colons.
    pub fn parse(text: &str) -> Option<Fingerprint> {
        const BYTES: usize = 32;
        let pairs: Vec<String> = match text.contains(':') {
            true => text.split(':').map(str::to_owned).collect(),
            false => {
                let digits: Vec<char> = text.chars().collect();
                digits.chunks(2).map(|pair| pair.iter().collect()).collect()
            }
        };
        let byte = |pair: &String| {
            let is_hex = pair.len() == 2 && pair.chars().all(|digit| digit.is_ascii_hexdigit());
            is_hex.then(|| u8::from_str_radix(pair, 16).ok())?
        };
        let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        bytes.filter(|bytes| bytes.len() == BYTES).map(Fingerprint)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Network {
    /// Parses `10.0.0.0/8`, or an address alone. An error says what is wrong.
    pub fn parse(text: &str) -> Result<Network, String> {
        const EXPECTED: &str = "expected networks such as 10.0.0.0/8 or 2001:db8::/32";
        let (address, bits) = match text.split_once('/') {
            None => (text, None),
            Some((address, bits)) => (address, Some(bits)),
        };
        let address: IpAddr = address.parse().map_err(|_| EXPECTED)?;
        if address.to_canonical() != address {
            return Err(format!("expected {} instead", address.to_canonical()));
        }
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) if bits.bytes().all(|digit| digit.is_ascii_digit()) => {
                let bits = bits.parse().ok().filter(|bits| *bits <= most);
                bits.ok_or_else(|| format!("expected at most {most} bits"))?
            }
            Some(_) => return Err(EXPECTED.into()),
        };
        let network = Network { address, bits };
        let first = network.first_of(address);
        if first == address {
            Ok(network)
        } else {
            Err(format!("expected {first}/{bits} instead of {text}"))
        }
    }

    /// Returns the first address of the network of this size that contains an address.
    fn first_of(&self, address: IpAddr) -> IpAddr {
        let bits = u32::from(self.bits);
        match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits));
                IpAddr::V4((address.to_bits() & mask.unwrap_or(0)).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits));
                IpAddr::V6((address.to_bits() & mask.unwrap_or(0)).into())
            }
        }
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && self.first_of(address) == self.address
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl Client {
    /// Returns a client with this address.
    pub fn at(address: IpAddr) -> Client {
        Client {
            address: Some(address.to_canonical()),
            ..Client::default()
        }
    }

    /// Returns what the kernel knows of the client of a connection. Fails if the client has reset it.
    pub fn of(socket: &Socket) -> io::Result<Client> {
        if let Some(address) = socket.peer_addr()?.as_socket() {
            return Ok(Client::at(address.ip()));
        }
        let credentials = sockets::credentials(socket)?;
        Ok(Client {
            uid: Some(Uid::from_raw(credentials.uid())),
            gid: Some(Gid::from_raw(credentials.gid())),
            ..Client::default()
        })
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn told<T: fmt::Display>(key: &str, value: &Option<T>) -> Option<String> {
            Some(format!("{key}={}", value.as_ref()?))
        }
        let values = [
            told("address", &self.address),
            told("uid", &self.uid),
            told("gid", &self.gid),
            told("certificate", &self.certificate),
            told("subject", &self.subject),
            told("issuer", &self.issuer),
            told("psk", &self.psk),
        ];
        let values: Vec<String> = values.into_iter().flatten().collect();
        match values.as_slice() {
            [] => f.write_str("a client of which nothing is known"),
            values => f.write_str(&values.join(" ")),
        }
    }
}

/// Returns why a client's value matches none of the wanted values of one kind, or `None` if it matches one.
fn misses<T: fmt::Display>(
    kind: &str,
    wanted: &[T],
    found: Option<impl fmt::Display>,
    matches: impl Fn(&T) -> bool,
) -> Option<String> {
    if wanted.is_empty() || wanted.iter().any(matches) {
        return None;
    }
    let wanted = listed(wanted);
    Some(match found {
        Some(found) => format!("{kind}: expected {wanted}, found {found}"),
        None => format!("{kind}: expected {wanted}, and the client has none"),
    })
}

/// Joins values with "or".
fn listed<T: fmt::Display>(values: &[T]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    values.join(" or ")
}

impl Who {
    /// Returns the first kind that does not match this client, and why.
    pub fn mismatch(&self, client: &Client) -> Option<String> {
        fn equal<T: fmt::Display + PartialEq>(
            kind: &str,
            wanted: &[T],
            found: Option<&T>,
        ) -> Option<String> {
            misses(kind, wanted, found, |one| Some(one) == found)
        }
        let Client {
            address,
            uid,
            gid,
            certificate,
            subject,
            issuer,
            psk,
        } = client;
        equal("certificate", &self.certificate, certificate.as_ref())
            .or_else(|| equal("subject", &self.subject, subject.as_ref()))
            .or_else(|| equal("issuer", &self.issuer, issuer.as_ref()))
            .or_else(|| equal("psk", &self.psk, psk.as_ref()))
            .or_else(|| equal("uid", &self.uid, uid.as_ref()))
            .or_else(|| equal("gid", &self.gid, gid.as_ref()))
            .or_else(|| {
                misses("network", &self.network, *address, |network| {
                    address.is_some_and(|address| network.contains(address))
                })
            })
    }

    /// Whether it matches every client that the other matches, as far as their values show.
    pub fn covers(&self, other: &Who) -> bool {
        fn of_kind<T>(one: &[T], other: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
            let is_covered = |value: &T| one.iter().any(|wide| covers(wide, value));
            one.is_empty() || !other.is_empty() && other.iter().all(is_covered)
        }
        of_kind(&self.certificate, &other.certificate, PartialEq::eq)
            && of_kind(&self.subject, &other.subject, PartialEq::eq)
            && of_kind(&self.issuer, &other.issuer, PartialEq::eq)
            && of_kind(&self.psk, &other.psk, PartialEq::eq)
            && of_kind(&self.uid, &other.uid, PartialEq::eq)
            && of_kind(&self.gid, &other.gid, PartialEq::eq)
            && of_kind(&self.network, &other.network, |wide, narrow| {
                wide.bits <= narrow.bits && wide.contains(narrow.address)
            })
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("certificate", listed(&self.certificate)),
            ("subject", listed(&self.subject)),
            ("issuer", listed(&self.issuer)),
            ("psk", listed(&self.psk)),
            ("uid", listed(&self.uid)),
            ("gid", listed(&self.gid)),
            ("network", listed(&self.network)),
        ];
        let kinds = kinds.iter().filter(|(_, values)| !values.is_empty());
        let kinds: Vec<String> = kinds.map(|(kind, of)| format!("{kind} {of}")).collect();
        match kinds.as_slice() {
            [] => f.write_str("everybody"),
            kinds => f.write_str(&kinds.join(", ")),
        }
    }
}

/// Returns the position of the first profile that matches a client, or `None` if none matches.
pub fn choose(profiles: &[Profile], client: &Client) -> Option<usize> {
    let matches = |profile: &Profile| profile.who.mismatch(client).is_none();
    profiles.iter().position(matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(change: impl FnOnce(&mut Who)) -> Who {
        let mut who = Who::default();
        change(&mut who);
        who
    }

    fn networks(text: &str) -> Vec<Network> {
        let networks = text.split(' ').map(Network::parse);
        networks.collect::<Result<_, _>>().unwrap()
    }

    fn at(address: &str) -> Client {
        Client {
            address: Some(address.parse().unwrap()),
            ..Client::default()
        }
    }

    #[test]
    fn networks_contain_what_begins_alike() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.0/31", "::ffff:192.0.2.1", "::ffff:192.0.2.2"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "2001:db8::1", "::ffff:192.0.2.1"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
        ] {
            let network = Network::parse(network).unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network}");
            assert!(!network.contains(outside.parse().unwrap()), "{network}");
        }
        for text in [
            "",
            "10",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.1/8",
            "::/129",
            "::ffff:10.0.0.0/104",
            "localhost",
            "10.0.0.0/8/8",
            "10.0.0.0/300",
        ] {
            assert!(Network::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fingerprints_are_64_digits_with_colons_or_without() {
        let plain = "00ff".repeat(16);
        let colons = vec!["00:FF"; 16].join(":");
        let parsed = Fingerprint::parse(&plain).unwrap();
        assert_eq!(Fingerprint::parse(&colons), Some(parsed.clone()));
        assert_eq!(parsed.to_string(), plain);
        for text in [
            "",
            "00",
            &plain[1..],
            &plain.replace('f', "g"),
            &format!("{colons}:"),
        ] {
            assert_eq!(Fingerprint::parse(text), None, "{text}");
        }
        assert_eq!(Fingerprint::parse(&"+0".repeat(32)), None);
        assert_eq!(Fingerprint::parse(&"\u{e9}".repeat(32)), None);
    }

    #[test]
    fn every_kind_has_to_match_and_one_value_of_each() {
        let client = Client {
            uid: Some(Uid::from_raw(5)),
            gid: Some(Gid::from_raw(6)),
            ..Client::default()
        };
        let user = |uid: &[u32], gid: &[u32]| {
            who(|who| {
                who.uid = uid.iter().copied().map(Uid::from_raw).collect();
                who.gid = gid.iter().copied().map(Gid::from_raw).collect();
            })
        };
        for (who, expected) in [
            (user(&[], &[]), None),
            (user(&[4, 5], &[6]), None),
            (user(&[4], &[6]), Some("uid: expected 4, found 5")),
            (user(&[5], &[1, 2]), Some("gid: expected 1 or 2, found 6")),
        ] {
            assert_eq!(who.mismatch(&client).as_deref(), expected);
        }
        let office = who(|who| who.network = networks("10.0.0.0/8 2001:db8::/32"));
        assert_eq!(office.mismatch(&at("10.1.2.3")), None);
        assert_eq!(
            office.mismatch(&at("192.0.2.1")).unwrap(),
            "network: expected 10.0.0.0/8 or 2001:db8::/32, found 192.0.2.1"
        );
        assert!(office.mismatch(&client).unwrap().ends_with("has none"));
    }

    /// The values are not patterns: case, length and order have to be the same.
    #[test]
    fn certificates_and_identities_match_as_a_whole() {
        let text = |text: &str| vec![text.to_owned()];
        let known = Client {
            certificate: Some(Fingerprint(vec![7; 32])),
            subject: Some("o=Trial,cn=client".into()),
            issuer: Some("o=Trial,cn=ca".into()),
            ..Client::default()
        };
        for subject in [
            "o=Trial,cn=client2",
            "cn=client",
            "o=trial,cn=client",
            "*",
            "",
        ] {
            let who = who(|who| who.subject = text(subject));
            assert!(who.mismatch(&known).is_some(), "{subject}");
        }
        let exact = who(|who| {
            who.certificate = vec![Fingerprint(vec![7; 32])];
            who.subject = text("o=Trial,cn=client");
            who.issuer = text("o=Trial,cn=ca");
        });
        assert_eq!(exact.mismatch(&known), None);
        assert!(exact.mismatch(&Client::default()).is_some());
        // An identity does not match as a subject.
        let identity = Client {
            psk: Some("o=Trial,cn=client".into()),
            ..Client::default()
        };
        let subject = who(|who| who.subject = text("o=Trial,cn=client"));
        assert!(subject.mismatch(&identity).is_some());
        let psk = who(|who| who.psk = text("o=Trial,cn=client"));
        assert_eq!(psk.mismatch(&identity), None);
        assert!(psk.mismatch(&known).is_some());
    }

    #[test]
    fn a_profile_covers_what_could_not_match_after_it() {
        let wide = who(|who| who.network = networks("10.0.0.0/8 192.0.2.0/24"));
        let narrow = who(|who| who.network = networks("10.1.0.0/16"));
        let user = who(|who| who.uid = vec![Uid::from_raw(1)]);
        let both = who(|who| {
            who.uid = vec![Uid::from_raw(1)];
            who.gid = vec![Gid::from_raw(1)];
        });
        let everybody = Who::default();
        for (one, other, expected) in [
            (&everybody, &wide, true),
            (&everybody, &everybody, true),
            (&wide, &everybody, false),
            (&wide, &narrow, true),
            (&narrow, &wide, false),
            (&user, &both, true),
            (&both, &user, false),
            (&user, &wide, false),
        ] {
            assert_eq!(one.covers(other), expected, "{one} / {other}");
        }
    }
}
