//! Lists elliptic curves by name, with the values of CKA_EC_PARAMS that name them.
//!
//! From SEC 2, RFC 5639 (Brainpool), RFC 8410 (curve25519, edwards25519 and the like) and PKCS#11 v3.0, section 2.3.3,
//! which also names curves by a PrintableString. Parameters that describe a curve instead of naming it match none of
//! these.

/// An elliptic curve.
#[derive(Debug)]
pub struct Curve {
    /// Its name in filter.conf.
    pub name: &'static str,
    /// Each value that names it, in DER.
    encodings: &'static [&'static [u8]],
}

impl Curve {
    /// The curve of this name.
    pub fn of(name: &str) -> Option<&'static Curve> {
        CURVES.iter().find(|curve| curve.name == name)
    }

    /// Whether a value of CKA_EC_PARAMS names this curve.
    pub fn is_named_by(&self, parameters: &[u8]) -> bool {
        self.encodings.contains(&parameters)
    }
}

/// Object identifiers, except where a comment says otherwise.
#[rustfmt::skip]
pub const CURVES: &[Curve] = &[
    Curve { name: "secp192r1", encodings: &[b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x01"] },
    Curve { name: "secp224r1", encodings: &[b"\x06\x05\x2b\x81\x04\x00\x21"] },
    Curve { name: "secp256r1", encodings: &[b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"] },
    Curve { name: "secp384r1", encodings: &[b"\x06\x05\x2b\x81\x04\x00\x22"] },
    Curve { name: "secp521r1", encodings: &[b"\x06\x05\x2b\x81\x04\x00\x23"] },
    Curve { name: "secp256k1", encodings: &[b"\x06\x05\x2b\x81\x04\x00\x0a"] },
    Curve { name: "brainpoolP224r1", encodings: &[b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x05"] },
    Curve { name: "brainpoolP256r1", encodings: &[b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x07"] },
    Curve { name: "brainpoolP320r1", encodings: &[b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x09"] },
    Curve { name: "brainpoolP384r1", encodings: &[b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x0b"] },
    Curve { name: "brainpoolP512r1", encodings: &[b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x0d"] },
    // Each with a PrintableString, and two with the identifiers that they had before RFC 8410, which
    // pkcs11-tool uses.
    Curve { name: "edwards25519", encodings: &[
        b"\x06\x03\x2b\x65\x70", b"\x13\x0cedwards25519",
        b"\x06\x09\x2b\x06\x01\x04\x01\xda\x47\x0f\x01",
    ] },
    Curve { name: "edwards448", encodings: &[b"\x06\x03\x2b\x65\x71", b"\x13\x0aedwards448"] },
    Curve { name: "curve25519", encodings: &[
        b"\x06\x03\x2b\x65\x6e", b"\x13\x0acurve25519",
        b"\x06\x0a\x2b\x06\x01\x04\x01\x97\x55\x01\x05\x01",
    ] },
    Curve { name: "curve448", encodings: &[b"\x06\x03\x2b\x65\x6f", b"\x13\x08curve448"] },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_is_whole_and_names_one_curve() {
        let mut all: Vec<&[u8]> = Vec::new();
        for curve in CURVES {
            for encoding in curve.encodings {
                assert_eq!(
                    usize::from(encoding[1]) + 2,
                    encoding.len(),
                    "{}",
                    curve.name
                );
                let text = format!("\x13{}{}", char::from(encoding[1]), curve.name);
                assert!(encoding[0] == 6 || *encoding == text.as_bytes());
                all.push(encoding);
            }
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(Curve::of("P-256").is_none());
    }
}
