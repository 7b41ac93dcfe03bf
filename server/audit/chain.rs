//! Builds and reads the lines of the log, which form a hash chain, and signs and checks their hashes.
//!
//! A line is a JSON object. Its first member is its number, its last the hash: SHA-256 over the hash of the line before
//! (32 zero bytes for the very first line) and the text of the line up to the member `hash`. A signature is Ed25519
//! over [`CONTEXT`] and such a hash.

use std::io::Write;

use openssl::error::ErrorStack;
use openssl::pkey::{HasPublic, Id, PKey, PKeyRef, Private, Public};
use openssl::sha::Sha256;
use openssl::sign::{Signer, Verifier};
use serde::{Deserialize, Serialize};

use super::{digits, hex, unhex};

/// The prefix of each signed text, so that a signature of a log is valid for nothing else.
const CONTEXT: &[u8] = b"pkcs11proxyd audit 1\n";

/// The text between the hashed text and the hash.
const BEFORE_HASH: &str = ",\"hash\":\"";

/// The text after the hash.
const AFTER_HASH: &str = "\"}";

/// Upper bound on the bytes of a line.
pub const LONGEST_LINE: usize = 128 << 10;

/// A hash.
pub type Hash = [u8; 32];

/// Number and hash of the last line so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Head {
    /// Its number; 0 before the first line.
    pub number: u64,
    /// Its hash.
    pub hash: Hash,
}

/// The error for a line that is not a line of an audit log.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no line of an audit log")]
pub struct NoLine;

/// A line that was read.
#[derive(Debug)]
pub struct Line<'a> {
    /// The number and the hash that it states.
    pub head: Head,
    /// The text that the hash covers.
    text: &'a [u8],
    /// The members that the verification needs.
    pub members: Members,
}

/// The members of a line that the verification needs.
#[derive(Debug, Deserialize)]
pub struct Members {
    seq: u64,
    /// The kind of line, such as `call`.
    pub event: String,
    /// In the first line of a file: the hash of the line before it.
    pub previous: Option<String>,
    /// In a signature: the hash that was signed, in hexadecimal digits.
    pub head: Option<String>,
    /// The signature, in hexadecimal digits.
    pub signature: Option<String>,
    /// The connection of a call.
    pub connection: Option<u64>,
    /// The number of a call on its connection.
    pub call: Option<u64>,
    /// At a start: 1 for the first auditor of a daemon, and so on.
    pub auditor: Option<u32>,
    /// At a start: upper bound on the lines between two signatures.
    pub sign_lines: Option<u64>,
}

fn hash(previous: &Hash, text: &[u8]) -> Hash {
    let mut sha = Sha256::new();
    sha.update(previous);
    sha.update(text);
    sha.finish()
}

impl Head {
    /// Appends the next line, with the members of `event` and a line feed. Returns the new head.
    pub fn append(&self, text: &mut Vec<u8>, time: &str, event: &impl Serialize) -> Head {
        let number = self.number.saturating_add(1);
        let start = text.len();
        // Writing into memory does not fail.
        let _ = write!(text, "{{\"seq\":{number},\"time\":\"{time}\"");
        let members = text.len();
        // Fails only for maps whose keys are not strings; there are none.
        let _ = serde_json::to_writer(&mut *text, event);
        // The event's members are merged into this object: its closing brace is removed, its opening one becomes a
        // comma.
        if text.ends_with(b"}") {
            text.pop();
        }
        if let Some(brace) = text.get_mut(members) {
            *brace = b',';
        }
        let hash = hash(&self.hash, text.get(start..).unwrap_or_default());
        text.extend_from_slice(BEFORE_HASH.as_bytes());
        text.extend(digits(&hash));
        text.extend_from_slice(AFTER_HASH.as_bytes());
        text.push(b'\n');
        Head { number, hash }
    }

    /// Returns the next line and its head.
    #[cfg(test)]
    pub fn next(&self, time: &str, event: &impl Serialize) -> (Vec<u8>, Head) {
        let mut line = Vec::new();
        let head = self.append(&mut line, time, event);
        (line, head)
    }
}

impl Line<'_> {
    /// Parses a line, which is given without its line feed.
    pub fn read(line: &[u8]) -> Result<Line<'_>, NoLine> {
        let members: Members = serde_json::from_slice(line).map_err(|_| NoLine)?;
        let rest = line.strip_suffix(AFTER_HASH.as_bytes()).ok_or(NoLine)?;
        let (rest, digits) = rest
            .split_at_checked(rest.len().saturating_sub(2 * size_of::<Hash>()))
            .ok_or(NoLine)?;
        let text = rest.strip_suffix(BEFORE_HASH.as_bytes()).ok_or(NoLine)?;
        let digits = std::str::from_utf8(digits).map_err(|_| NoLine)?;
        let hash = read_hash(digits).ok_or(NoLine)?;
        let number = members.seq;
        Ok(Line {
            head: Head { number, hash },
            text,
            members,
        })
    }

    /// Whether its hash is right if the line before has this hash.
    pub fn follows(&self, previous: &Hash) -> bool {
        self.computed(previous) == self.head.hash
    }

    /// The hash that this line should have if the line before has this hash.
    pub fn computed(&self, previous: &Hash) -> Hash {
        hash(previous, self.text)
    }
}

/// Reads a hash that is written in hexadecimal digits.
pub fn read_hash(digits: &str) -> Option<Hash> {
    unhex(digits)?.try_into().ok()
}

fn signed(hash: &Hash) -> Vec<u8> {
    [CONTEXT, hash].concat()
}

/// Signs a hash. Returns the signature in hexadecimal digits.
pub fn sign(key: &PKeyRef<Private>, hash: &Hash) -> Result<String, ErrorStack> {
    let signature = Signer::new_without_digest(key)?.sign_oneshot_to_vec(&signed(hash))?;
    Ok(hex(&signature))
}

/// Whether a signature, in hexadecimal digits, is a valid signature of a hash.
pub fn is_signed(key: &PKeyRef<Public>, hash: &Hash, signature: &str) -> bool {
    let Some(signature) = unhex(signature) else {
        return false;
    };
    Verifier::new_without_digest(key)
        .and_then(|mut verifier| verifier.verify_oneshot(&signature, &signed(hash)))
        .unwrap_or(false)
}

fn of_kind<T: HasPublic>(key: PKey<T>) -> Result<PKey<T>, String> {
    match key.id() {
        Id::ED25519 => Ok(key),
        _ => Err("expected an Ed25519 key".to_owned()),
    }
}

/// Reads an Ed25519 private key in PEM. Refuses an encrypted one: nobody is there to type its password.
pub fn private_key(pem: &[u8]) -> Result<PKey<Private>, String> {
    let key = PKey::private_key_from_pem_callback(pem, |_| Ok(0));
    of_kind(key.map_err(|_| "expected a private key in PEM, not encrypted".to_owned())?)
}

/// Reads an Ed25519 public key in PEM.
pub fn public_key(pem: &[u8]) -> Result<PKey<Public>, String> {
    let key = PKey::public_key_from_pem(pem);
    of_kind(key.map_err(|_| "expected a public key in PEM".to_owned())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_made_and_follows_only_the_line_before_it() {
        let first = Head::default();
        let event = serde_json::json!({"event": "call", "label": "a\",\"hash\":\"b\"}\n"});
        let (line, second) = first.next("2026-11-29T10:00:00.000000Z", &event);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let line = line.strip_suffix(b"\n").unwrap();
        let read = Line::read(line).unwrap();
        assert_eq!((read.head, &*read.members.event), (second, "call"));
        assert!(read.follows(&first.hash));
        assert!(!read.follows(&second.hash));
        for end in 0..line.len() {
            assert!(Line::read(&line[..end]).is_err(), "{end}");
        }
        for position in 0..line.len() {
            let mut changed = line.to_vec();
            changed[position] ^= 1;
            let holds = Line::read(&changed).is_ok_and(|line| line.follows(&first.hash));
            assert!(!holds, "{position}");
        }
    }

    #[test]
    fn a_signature_is_that_of_one_hash_by_one_key() {
        let key = PKey::generate_ed25519().unwrap();
        let other = PKey::generate_ed25519().unwrap();
        let public = |key: &PKey<Private>| public_key(&key.public_key_to_pem().unwrap()).unwrap();
        let signature = sign(&key, &[7; 32]).unwrap();
        assert!(is_signed(&public(&key), &[7; 32], &signature));
        assert!(!is_signed(&public(&key), &[8; 32], &signature));
        assert!(!is_signed(&public(&other), &[7; 32], &signature));
        assert!(!is_signed(&public(&key), &[7; 32], "07"));
        assert!(!is_signed(&public(&key), &[7; 32], "no digits"));
    }

    #[test]
    fn keys_of_another_kind_are_refused() {
        let other = PKey::generate_x25519().unwrap();
        let pem = other.private_key_to_pem_pkcs8().unwrap();
        assert!(private_key(&pem).unwrap_err().contains("Ed25519"));
        assert!(private_key(b"x").is_err() && public_key(b"").is_err());
    }
}
