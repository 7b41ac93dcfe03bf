//! Reads the file of pre-shared keys, `tls.psk_file`: one client in each line.

use transport::psk::{PreSharedKey, lines};

/// The pre-shared keys of clients, by identity.
pub struct Keys(Vec<PreSharedKey>);

impl Keys {
    /// Parses the content of a file; an error names the line.
    pub fn parse(text: &[u8]) -> Result<Keys, String> {
        let mut keys: Vec<PreSharedKey> = Vec::new();
        for (number, line) in lines(text) {
            let wrong = |what: &str| format!("line {number}: {what}");
            let new = PreSharedKey::parse(line).map_err(wrong)?;
            // Two others could look the same where identities are written.
            if std::str::from_utf8(&new.identity).is_err() {
                return Err(wrong("expected an identity in UTF-8"));
            }
            if keys.iter().any(|known| known.identity == new.identity) {
                return Err(wrong("the identity already has a key"));
            }
            keys.push(new);
        }
        if keys.is_empty() {
            Err("contains no key".into())
        } else {
            Ok(Keys(keys))
        }
    }

    /// Returns the key of an identity.
    pub fn find(&self, identity: &[u8]) -> Option<&[u8]> {
        let found = self.0.iter().find(|known| known.identity == identity);
        found.map(|known| known.key.as_slice())
    }
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
    fn an_identity_is_text() {
        let key = b":00112233445566778899aabbccddeeff";
        let read = |identity: &[u8]| Keys::parse(&[identity, key].concat());
        assert!(read("\u{e9}".as_bytes()).is_ok());
        let told = read(b"\xe9").err().unwrap();
        assert_eq!(told, "line 1: expected an identity in UTF-8");
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
            (
                format!("a:{key}\na:{key}"),
                "line 2: the identity already has",
            ),
            ("# none".into(), "contains no key"),
        ] {
            let message = Keys::parse(text.as_bytes()).err().unwrap();
            assert!(message.contains(expected), "{text}: {message}");
            assert!(!message.contains("0011"), "{message}");
        }
    }
}
