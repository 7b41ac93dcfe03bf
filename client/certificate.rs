//! Describes a certificate for people: its subject, its issuer, and its validity.
//!
//! The text comes from a peer, so control characters are escaped. This decides nothing: OpenSSL verifies certificates.

use std::fmt;
use std::net::IpAddr;

use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::x509::{X509NameRef, X509Ref, X509VerifyResult};

/// The properties of a certificate that people compare.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub subject: String,
    pub issuer: String,
    /// Host names and addresses (subjectAltName).
    pub names: Vec<String>,
    pub not_before: String,
    pub not_after: String,
    /// Days from now until it expires, rounded down; `None` if the date cannot be read.
    pub days_left: Option<i32>,
    /// SHA-256 of the whole certificate, in hexadecimal.
    pub fingerprint: String,
}

impl Certificate {
    /// Describes a certificate. Must be called in the context to which the certificate belongs.
    pub fn of(certificate: &X509Ref) -> Certificate {
        let names = certificate.subject_alt_names();
        let names = names.iter().flatten().filter_map(|name| {
            let address = name.ipaddress().and_then(address);
            address.or_else(|| name.dnsname().map(escaped))
        });
        let (not_before, not_after) = (certificate.not_before(), certificate.not_after());
        let left = Asn1Time::days_from_now(0).and_then(|now| now.diff(not_after));
        let digest = certificate.digest(MessageDigest::sha256());
        let bytes = digest.as_deref().unwrap_or_default().iter();
        let bytes: Vec<String> = bytes.map(|byte| format!("{byte:02X}")).collect();
        Certificate {
            subject: name(certificate.subject_name()),
            issuer: name(certificate.issuer_name()),
            names: names.collect(),
            not_before: not_before.to_string(),
            not_after: not_after.to_string(),
            // Rounded down: less than a day in the past is -1.
            days_left: left.ok().map(|it| it.days - i32::from(it.secs < 0)),
            fingerprint: bytes.join(":"),
        }
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, issued by {}, ", self.subject, self.issuer)?;
        if !self.names.is_empty() {
            write!(f, "for {}, ", self.names.join(", "))?;
        }
        write!(f, "valid from {} to {}", self.not_before, self.not_after)
    }
}

/// Formats a name as `CN=name, O=organisation`, the most specific part first, as is usual.
fn name(name: &X509NameRef) -> String {
    let part = |entry: &openssl::x509::X509NameEntryRef| {
        let kind = entry.object().nid().short_name().unwrap_or("?");
        let value = entry.data().to_string();
        let value = value.map_or_else(|_| "?".into(), |value| escaped(&value));
        format!("{kind}={value}")
    };
    let mut parts: Vec<String> = name.entries().map(part).collect();
    parts.reverse();
    match parts.is_empty() {
        true => "(no name)".into(),
        false => parts.join(", "),
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or(v6).ok().map(|address| address.to_string())
}

fn escaped(text: &str) -> String {
    text.escape_debug().to_string()
}

/// Why a server's certificate was not accepted.
#[derive(Clone, Debug)]
pub(crate) struct Unverified {
    pub verdict: X509VerifyResult,
    /// The server's own certificate.
    pub server: Option<Certificate>,
    /// The certificate of the chain to which the verdict applies, if it is not the server's.
    pub issuer: Option<Certificate>,
}

impl fmt::Display for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verdict.error_string())?;
        match self.issuer.as_ref().or(self.server.as_ref()) {
            Some(certificate) => write!(f, " ({certificate})"),
            None => Ok(()),
        }
    }
}

impl Unverified {
    /// Returns what an operator can do, in a clause.
    pub fn advice(&self) -> &'static str {
        // x509_vfy.h of OpenSSL 3
        match self.verdict.as_raw() {
            2 | 18 | 19 | 20 | 21 => {
                "PKCS11PROXY_CA_FILE (ca_file) must name the authority that issued it; if it does, the daemon must send the certificates in between"
            }
            9 => "the certificate is not valid yet: check the clocks of both hosts",
            10 => {
                "it has expired: give the daemon a new one and send it SIGHUP, or check this host's clock"
            }
            62 | 64 => {
                "PKCS11PROXY_VERIFY_NAME (verify_name) and the names in the certificate must agree: correct one of them, or the endpoint"
            }
            66..=68 => "its key or signature is too weak: the daemon needs a new certificate",
            26 => {
                "the certificate is not made for servers: extendedKeyUsage must contain serverAuth"
            }
            _ => "the daemon needs another certificate, or the client another authority",
        }
    }
}
