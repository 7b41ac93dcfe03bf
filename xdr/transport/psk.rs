//! Reads pre-shared keys: lines of `identity:key in hexadecimal`.
//!
//! Empty lines and lines that begin with `#` are skipped. Keys are never printed, and are wiped when they are dropped.

use zeroize::Zeroizing;

/// The longest key that OpenSSL takes, in bytes.
const LONGEST_KEY: usize = 256;

/// The shortest key that is accepted, in bytes: 128 bits.
const SHORTEST_KEY: usize = 16;

/// The longest identity that OpenSSL takes, in bytes.
const LONGEST_IDENTITY: usize = 128;

/// A key, and the identity that it belongs to.
pub struct PreSharedKey {
    /// Who may use the key. Any bytes except a newline.
    pub identity: Vec<u8>,
    /// The key: 16 to 256 bytes.
    pub key: Zeroizing<Vec<u8>>,
}

/// Returns the lines of a file that hold a key, each with its number, counted from 1.
pub fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let numbered = (1..).zip(text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#"))
}

impl PreSharedKey {
    /// Reads one line; the error says what was expected.
    pub fn parse(line: &[u8]) -> Result<PreSharedKey, &'static str> {
        let colon = line.iter().rposition(|byte| *byte == b':');
        let (identity, rest) = line.split_at(colon.ok_or("expected identity:key")?);
        let digits = rest.get(1..).unwrap_or_default();
        let key = hexadecimal(digits).ok_or("expected a key in hexadecimal")?;
        if !(SHORTEST_KEY..=LONGEST_KEY).contains(&key.len()) {
            return Err("expected a key of 16 to 256 bytes");
        }
        if identity.is_empty() || identity.len() > LONGEST_IDENTITY {
            return Err("expected an identity of 1 to 128 bytes");
        }
        Ok(PreSharedKey {
            identity: identity.to_vec(),
            key,
        })
    }
}

fn hexadecimal(digits: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let mut key = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
    for pair in digits.chunks(2) {
        let [high, low] = pair else { return None };
        key.push(digit(*high)? << 4 | digit(*low)?);
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_that_hold_a_key() {
        let text = b"# who\n\n web:00112233445566778899aabbccddEEff \r\nat:colon:0102\n";
        let found: Vec<(usize, &[u8])> = lines(text).collect();
        assert_eq!(found[0].0, 3);
        let web = PreSharedKey::parse(found[0].1).ok().unwrap();
        assert_eq!(web.identity, b"web");
        assert_eq!(web.key[14..], [0xee, 0xff]);
        assert_eq!(found[1], (4, &b"at:colon:0102"[..]));
        // The last colon separates.
        let long = [found[1].1, &[b'0'; 28]].concat();
        assert_eq!(
            PreSharedKey::parse(&long).ok().unwrap().identity,
            b"at:colon"
        );
    }

    #[test]
    fn says_what_was_expected() {
        let told = |line: &[u8]| PreSharedKey::parse(line).err();
        let key = "00".repeat(16);
        assert_eq!(told(b"web"), Some("expected identity:key"));
        assert_eq!(told(b"web:0g"), Some("expected a key in hexadecimal"));
        assert_eq!(told(b"web:000"), Some("expected a key in hexadecimal"));
        assert_eq!(told(b"web:00"), Some("expected a key of 16 to 256 bytes"));
        let long = format!("web:{}", "00".repeat(257));
        assert_eq!(
            told(long.as_bytes()),
            Some("expected a key of 16 to 256 bytes")
        );
        let nobody = format!(":{key}");
        assert_eq!(
            told(nobody.as_bytes()),
            Some("expected an identity of 1 to 128 bytes")
        );
        let somebody = format!("{}:{key}", "i".repeat(129));
        assert_eq!(
            told(somebody.as_bytes()),
            Some("expected an identity of 1 to 128 bytes")
        );
    }
}
