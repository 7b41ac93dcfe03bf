//! Identifies a private key whose public value cannot be read, by the public key or certificate with the same CKA_ID on
//! its token.
//!
//! Only the public key of a certificate counts, so that a certificate may be renewed. If several objects have the same
//! CKA_ID, all must have the same public value; otherwise the key is not identified.

use std::collections::BTreeSet;

use xdr::{AttributeType, SessionHandle, Template, Wanted};

use super::descriptions::{Description, attribute, class};
use super::{Live, Trouble};
use crate::remote::Remote;

/// The upper bound on the objects with the same CKA_ID that are read. If there are more, the key is not identified.
const MOST_LOOKED_AT: usize = 4;

/// The longest public value or certificate that is read, in bytes; longer ones are ignored.
const ROOM: usize = 16384;

/// The public value of a private key, read from another object.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Counterpart {
    /// The class of the other object: a public key or a certificate.
    class: u64,
    value: Vec<u8>,
}

impl<R: Remote> Live<R> {
    /// Looks for the counterpart of a private key, in this session of the module. `None` if there is none, or none that
    /// is certain.
    pub(super) fn counterpart(
        &self,
        session: SessionHandle,
        key: &Description,
    ) -> Result<Option<Counterpart>, Trouble> {
        for class in [class::PUBLIC_KEY, class::CERTIFICATE] {
            let mut values = self.public_values(session, key.counterparts(class), class)?;
            if let Some(value) = values.pop_first() {
                let is_certain = values.is_empty();
                return Ok(is_certain.then_some(Counterpart { class, value }));
            }
        }
        Ok(None)
    }

    /// Returns whether a private key still has this counterpart.
    pub(super) fn has_counterpart(
        &self,
        session: SessionHandle,
        key: &Description,
        known: &Counterpart,
    ) -> Result<bool, Trouble> {
        let class = known.class;
        let values = self.public_values(session, key.counterparts(class), class)?;
        Ok(values.len() == 1 && values.contains(&known.value))
    }

    /// Returns the public values of the objects of a class that a search finds.
    fn public_values(
        &self,
        session: SessionHandle,
        template: Template,
        class: u64,
    ) -> Result<BTreeSet<Vec<u8>>, Trouble> {
        let mut values = BTreeSet::new();
        let found = self.find(session, template)?;
        if found.len() > MOST_LOOKED_AT {
            return Ok(values);
        }
        for object in found {
            let types = match class {
                class::CERTIFICATE => &[attribute::VALUE][..],
                _ => &[attribute::MODULUS, attribute::EC_POINT, attribute::VALUE],
            };
            let wanted = types
                .iter()
                .map(|it| Wanted::value(AttributeType(*it), ROOM));
            let shown = self.values(session, object, wanted.collect())?;
            let value = shown.into_values().find(|value| !value.is_empty());
            values.extend(match class {
                class::CERTIFICATE => value.and_then(|it| Some(public_key(&it)?.to_vec())),
                _ => value,
            });
        }
        Ok(values)
    }
}

/// An element of DER (X.690).
struct Element<'d> {
    tag: u8,
    whole: &'d [u8],
    contents: &'d [u8],
}

/// Splits off the first element; returns it and the bytes after it.
fn first(der: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, after) = der.split_first()?;
    let (&length, after) = after.split_first()?;
    let (length, after) = match length {
        0..=0x7f => (usize::from(length), after),
        // An element of 16 MiB or more never fits into the room that was asked for.
        0x81..=0x83 => {
            let (bytes, after) = after.split_at_checked(usize::from(length & 0x7f))?;
            let next = |length: usize, byte: &u8| length << 8 | usize::from(*byte);
            (bytes.iter().fold(0, next), after)
        }
        _ => return None,
    };
    let (contents, after) = after.split_at_checked(length)?;
    let whole = der.get(..der.len().checked_sub(after.len())?)?;
    let element = Element {
        tag,
        whole,
        contents,
    };
    Some((element, after))
}

/// Returns the subjectPublicKeyInfo of a certificate (RFC 5280, section 4.1).
fn public_key(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = first(certificate)?;
    let (to_be_signed, _) = first(certificate.contents)?;
    let (version, after) = first(to_be_signed.contents)?;
    let mut rest = match version.tag {
        0xa0 => after,
        _ => to_be_signed.contents, // it is left out in version 1
    };
    // serialNumber, signature, issuer, validity, subject
    for _ in 0..5 {
        (_, rest) = first(rest)?;
    }
    Some(first(rest)?.0.whole)
}

#[cfg(test)]
pub(super) mod tests {
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use openssl::x509::X509;

    use super::*;

    fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
        let mut der = vec![tag, 0x82];
        der.extend(u16::try_from(contents.len()).unwrap().to_be_bytes());
        der.extend(contents);
        der
    }

    /// Makes a certificate with this serial number and key; it has only the fields that are read here.
    pub fn certificate(serial: u8, key: &[u8]) -> Vec<u8> {
        let mut fields = element(0xa0, &[2, 1, 2]);
        fields.extend([2, 1, serial]);
        fields.extend([0x30, 0].repeat(4));
        fields.extend(element(0x30, key));
        element(0x30, &element(0x30, &fields))
    }

    #[test]
    fn the_public_key_of_a_certificate_is_found() {
        let made = certificate(7, b"key");
        assert_eq!(public_key(&made), Some(&element(0x30, b"key")[..]));
        for length in 0..made.len() {
            assert_eq!(public_key(&made[..length]), None);
        }
    }

    #[test]
    fn openssl_finds_the_same_public_key() {
        let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap();
        let mut made = X509::builder().unwrap();
        made.set_version(2).unwrap();
        made.set_pubkey(&key).unwrap();
        made.sign(&key, MessageDigest::sha256()).unwrap();
        let made = made.build().to_der().unwrap();
        let expected = key.public_key_to_der().unwrap();
        assert_eq!(public_key(&made), Some(&expected[..]));
    }
}
