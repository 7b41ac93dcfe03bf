//! Parses the description of a client for `-check -as`: `address=10.0.0.5`, `uid=1000 gid=100`,
//! `subject=o=Trial,cn=web`.
//!
//! A text comes from the command line, a [`Client`] goes to `check`. Looks up the names of users and groups.

use nix::unistd::{Gid, Group, Uid, User};

use super::{Client, Fingerprint};

/// The keys of a description.
const KEYS: [&str; 7] = [
    "address",
    "uid",
    "gid",
    "certificate",
    "subject",
    "issuer",
    "psk",
];

/// Reads a description; an error says what was expected. A word that does not begin with a key and `=` belongs to the
/// value before it.
pub fn parse(text: &str) -> Result<Client, String> {
    let mut values: Vec<(&str, String)> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let split = word.split_once('=');
        match (split, values.last_mut()) {
            (Some((key, value)), _) if KEYS.contains(&key) => {
                if values.iter().any(|(known, _)| *known == key) {
                    return Err(format!("{key} is given twice"));
                }
                values.push((key, value.to_owned()));
            }
            (_, Some((_, value))) => {
                value.push(' ');
                value.push_str(word);
            }
            (_, None) => {
                let keys = KEYS.join("=, ");
                return Err(format!("expected {keys}= with values, found `{word}`"));
            }
        }
    }
    let mut client = Client::default();
    for (key, value) in values {
        let wrong = |what: &str| format!("{key}: expected {what}, found `{value}`");
        match key {
            "address" => {
                let address = value.parse::<std::net::IpAddr>();
                let address = address.map_err(|_| wrong("an IP address"))?;
                client.address = Some(address.to_canonical());
            }
            "uid" => client.uid = Some(user(&value).ok_or_else(|| wrong("a user"))?),
            "gid" => client.gid = Some(group(&value).ok_or_else(|| wrong("a group"))?),
            "certificate" => {
                let fingerprint = Fingerprint::parse(&value);
                let fingerprint = fingerprint.ok_or_else(|| wrong("a SHA-256 fingerprint"))?;
                client.certificate = Some(fingerprint);
            }
            "subject" => client.subject = Some(value),
            "issuer" => client.issuer = Some(value),
            _ => client.psk = Some(value),
        }
    }
    Ok(client)
}

/// A user by number or name.
pub fn user(text: &str) -> Option<Uid> {
    match number(text) {
        Some(number) => Some(Uid::from_raw(number)),
        None => User::from_name(text).ok().flatten().map(|user| user.uid),
    }
}

/// A group by number or name.
pub fn group(text: &str) -> Option<Gid> {
    match number(text) {
        Some(number) => Some(Gid::from_raw(number)),
        None => Group::from_name(text).ok().flatten().map(|group| group.gid),
    }
}

/// Parses the number of a user or group. The greatest number is refused, because it means none.
fn number(text: &str) -> Option<u32> {
    let is_number = text.bytes().all(|digit| digit.is_ascii_digit());
    let number = is_number.then(|| text.parse().ok())?;
    number.filter(|number| *number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_describes_a_client() {
        let client = parse("uid=root  gid=7").unwrap();
        assert_eq!(client.uid, Some(Uid::from_raw(0)));
        assert_eq!(client.gid, Some(Gid::from_raw(7)));
        let client =
            parse("subject=o=My Site,cn=a b issuer=cn=ca address=::ffff:10.0.0.5").unwrap();
        assert_eq!(client.subject.as_deref(), Some("o=My Site,cn=a b"));
        assert_eq!(client.issuer.as_deref(), Some("cn=ca"));
        assert_eq!(client.address, Some("10.0.0.5".parse().unwrap()));
        assert_eq!(parse("psk=web").unwrap().psk.as_deref(), Some("web"));
        assert_eq!(parse("").unwrap(), Client::default());
        for (text, expected) in [
            ("web", "found `web`"),
            ("address=x", "address: expected an IP address"),
            ("uid=no-such-user", "uid: expected a user"),
            ("uid=4294967295", "uid: expected a user"),
            ("gid=-1", "gid: expected a group"),
            ("certificate=00", "certificate: expected a SHA-256"),
            ("uid=1 uid=2", "uid is given twice"),
        ] {
            assert!(parse(text).unwrap_err().contains(expected), "{text}");
        }
    }
}
