//! Pre-shared keys: the file `tls.psk_file` names, one client a line, `identity:key in hexadecimal`.
//!
//! Empty lines and lines that begin with `#` are passed over. Keys are never printed.

use zeroize::Zeroizing;

/// The longest key that OpenSSL takes, in bytes.
const LONGEST_KEY: usize = 256;

/// The shortest that is accepted: 128 bits.
const SHORTEST_KEY: usize = 16;

/// The longest identity that OpenSSL takes, in bytes.
const LONGEST_IDENTITY: usize = 128;

/// Who may connect with which key.
pub struct Keys(Vec<(Vec<u8>, Zeroizing<Vec<u8>>)>);

impl Keys {
    /// Reads the content of a file; an error names the line.
    pub fn parse(text: &[u8]) -> Result<Keys, String> {
        let mut keys: Vec<(Vec<u8>, Zeroizing<Vec<u8>>)> = Vec::new();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let wrong = |what: &str| format!("line {}: {what}", number + 1);
            let colon = line.iter().rposition(|byte| *byte == b':');
            let (identity, key) =
                line.split_at(colon.ok_or_else(|| wrong("expected identity:key"))?);
            let key =
                hexadecimal(&key[1..]).ok_or_else(|| wrong("expected a key in hexadecimal"))?;
            if !(SHORTEST_KEY..=LONGEST_KEY).contains(&key.len()) {
                return Err(wrong("expected a key of 16 to 256 bytes"));
            }
            if identity.is_empty() || identity.len() > LONGEST_IDENTITY {
                return Err(wrong("expected an identity of 1 to 128 bytes"));
            }
            if keys.iter().any(|(known, _)| known == identity) {
                return Err(wrong("the identity has a key already"));
            }
            keys.push((identity.to_vec(), key));
        }
        if keys.is_empty() {
            Err("holds no key".into())
        } else {
            Ok(Keys(keys))
        }
    }

    /// The key of a client.
    pub fn find(&self, identity: &[u8]) -> Option<&[u8]> {
        let found = self.0.iter().find(|(known, _)| known == identity);
        found.map(|(_, key)| key.as_slice())
    }
}

fn hexadecimal(digits: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if digits.len() % 2 != 0 {
        return None;
    }
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let pairs = digits.chunks_exact(2);
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect();
    bytes.map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_identities_and_keys() {
        let text = b"# clients\n\nweb:00112233445566778899aabbccddeeff\r\n a:b :FFeeddccbbaa99887766554433221100\n";
        let keys = Keys::parse(text).unwrap();
        assert_eq!(keys.find(b"web").unwrap()[..3], [0, 0x11, 0x22]);
        assert_eq!(keys.find(b"a:b ").unwrap()[..2], [0xff, 0xee]);
        assert!(keys.find(b"other").is_none());
    }

    #[test]
    fn names_the_line_that_is_wrong() {
        let key = "00112233445566778899aabbccddeeff";
        for (text, expected) in [
            ("web".into(), "line 1: expected identity:key"),
            ("\nweb:0g".into(), "line 2: expected a key in hex"),
            ("web:001".into(), "line 1: expected a key in hex"),
            ("web:0011".into(), "line 1: expected a key of 16"),
            (format!(":{key}"), "line 1: expected an identity"),
            (format!("a:{key}\na:{key}"), "line 2: the identity has"),
            ("# none".into(), "holds no key"),
        ] {
            let message = Keys::parse(text.as_bytes()).err().unwrap();
            assert!(message.contains(expected), "{text}: {message}");
            assert!(!message.contains("0011"), "{message}");
        }
    }
}
