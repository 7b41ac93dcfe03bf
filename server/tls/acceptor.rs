//! Does the TLS handshake with a client, and decides whether the client is served.
//!
//! The controller loads an [`Acceptor`] as the user who starts the daemon, at start and at each reload; `builder` makes
//! it from the files that the settings name. Workers inherit it and do the handshake in [`Acceptor::accept`], which
//! also looks into the directory of allowed certificates.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::sha::sha256;
use openssl::ssl::{HandshakeError, Ssl, SslContext};
use openssl::x509::{X509, X509NameRef, X509Ref, X509VerifyResult};
use socket2::Socket;
use transport::halves::Halves;
use transport::tls::{
    LONGEST_FILE, LONGEST_FRAGMENT, Pipe, SHORT_FRAGMENT, default_context, into_io_error, reason,
};
use transport::{Deadline, TimedSocket};
use zeroize::Zeroizing;

use super::ClientAuth;

/// Everything a handshake needs.
pub struct Acceptor {
    pub(super) context: SslContext,
    pub(super) clients: ClientAuth,
    /// The OpenSSL security level that clients' certificates must have.
    pub(super) strength: u32,
    /// The identity that the client has sent with its pre-shared key; none if clients need certificates.
    pub(super) identity: Option<Identity>,
    pub(super) allowed: Option<PathBuf>,
    /// What is accepted but probably a mistake: `file:line: option: text`.
    pub warnings: Vec<String>,
}

/// The pre-shared-key identity of this process's only client. OpenSSL itself keeps it only with TLS 1.2.
pub(super) type Identity = Arc<Mutex<Option<PskClient>>>;

/// The identity that a client has sent, and whether it is known.
#[derive(Clone)]
pub(super) struct PskClient {
    pub(super) name: String,
    pub(super) is_known: bool,
}

/// Why a client is not served.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The handshake took longer than this time limit.
    #[error("the TLS handshake took longer than {} s", .0.as_secs_f32())]
    TooSlow(Duration),
    /// The client disconnected without sending a byte.
    #[error("the client disconnected before the TLS handshake")]
    Silent,
    /// The client sent something other than TLS.
    #[error("the client does not use TLS")]
    NoTls,
    /// OpenSSL or the transport reported an error.
    #[error("TLS handshake failed: {0}")]
    Handshake(String),
    /// `peer_auth` is none.
    #[error("refused: peer_auth is \"none\"")]
    NobodyConnects,
    /// The certificate is valid but not among the allowed ones.
    #[error("refused: the certificate of {subject} is not in {}{}", .directory.display(), .cause)]
    NotAllowed {
        /// The certificate's subject.
        subject: String,
        /// `allowed_clients_cert_path`.
        directory: PathBuf,
        /// Why the directory cannot be read; empty if it can.
        cause: String,
    },
    /// An error before or after the handshake.
    #[error("{0}")]
    Transport(#[from] io::Error),
}

/// A client that may go on.
pub struct Accepted {
    /// The connection.
    pub halves: Halves,
    /// Who it is, for the log.
    pub user: String,
    /// Its certificate; none with a pre-shared key.
    pub certificate: Option<Certificate>,
}

/// A client's certificate.
pub struct Certificate {
    /// Its SHA-256 fingerprint. Who has a certificate with an ECDSA signature can change that, because for each such
    /// signature there is another one that anybody can work out.
    pub fingerprint: Vec<u8>,
    /// A SHA-256 digest of its key, issuer and serial number, which the client cannot change.
    pub counted_as: Vec<u8>,
    /// Its issuer, written as subjects are.
    pub issuer: String,
}

/// Returns what the failed logins and signatures of a certificate are counted under.
fn counted_as(certificate: &X509Ref) -> Result<Vec<u8>, ErrorStack> {
    // Two authorities may have one name. Key and name are one structure of DER each, so it is clear where the next part
    // begins.
    let mut named = certificate.public_key()?.public_key_to_der()?;
    named.extend_from_slice(&certificate.issuer_name().to_der()?);
    named.extend_from_slice(&certificate.serial_number().to_bn()?.to_vec());
    Ok(sha256(&named).to_vec())
}

impl Acceptor {
    /// Does the handshake, and checks that the client is allowed.
    pub fn accept(&self, socket: Socket, handshake_time: Duration) -> Result<Accepted, Refusal> {
        let mut ssl = Ssl::new(&self.context).map_err(io::Error::other)?;
        // The level applies to the client's certificate, not to the server's, as in GnuTLS. The system's openssl.cnf
        // may raise it, but not lower it.
        let strength = self.strength.max(ssl.security_level());
        let strength = i32::try_from(strength).unwrap_or(i32::MAX);
        ssl.param_mut().set_auth_level(strength);
        let deadline = Deadline::after(handshake_time);
        let pipe = Pipe::new(TimedSocket::new(socket), deadline);
        let stream = ssl
            .accept(pipe)
            .map_err(|error| self.with_identity(refusal(error, handshake_time)))?;
        if self.clients == ClientAuth::NobodyConnects {
            return Err(Refusal::NobodyConnects);
        }
        let (user, certificate) = match (stream.ssl().peer_certificate(), &self.identity) {
            (Some(certificate), None) => {
                if let Some(directory) = &self.allowed {
                    allow(directory, &certificate)?;
                }
                let fingerprint = certificate.digest(MessageDigest::sha256());
                let known = Certificate {
                    fingerprint: fingerprint.map_err(io::Error::other)?.to_vec(),
                    counted_as: counted_as(&certificate).map_err(io::Error::other)?,
                    issuer: written(certificate.issuer_name()),
                };
                (written(certificate.subject_name()), Some(known))
            }
            (None, Some(_)) => {
                let name = self.psk_client().map_or_else(String::new, |psk| psk.name);
                (name, None)
            }
            // OpenSSL is configured so that this cannot happen.
            _ => return Err(Refusal::Handshake("the client did not authenticate".into())),
        };
        // The original's client offers no protocol by ALPN.
        let fragment = match stream.ssl().selected_alpn_protocol() {
            Some(_) => LONGEST_FRAGMENT,
            None => SHORT_FRAGMENT,
        };
        Ok(Accepted {
            halves: Halves::tls(stream, fragment, default_context)?,
            user,
            certificate,
        })
    }

    fn psk_client(&self) -> Option<PskClient> {
        self.identity.as_ref()?.lock().ok()?.clone()
    }

    /// Explains a handshake that failed because of a pre-shared key. OpenSSL itself goes on without the key, and then
    /// reports that it has no certificate.
    fn with_identity(&self, refusal: Refusal) -> Refusal {
        match (refusal, &self.identity, self.psk_client()) {
            (Refusal::Handshake(cause), Some(_), None) => {
                Refusal::Handshake(format!("no pre-shared key was offered: {cause}"))
            }
            (Refusal::Handshake(cause), Some(_), Some(psk)) => {
                Refusal::Handshake(match psk.is_known {
                    true => format!("identity {}: {cause}", psk.name),
                    false => format!("identity {} is not in psk_file", psk.name),
                })
            }
            (refusal, _, _) => refusal,
        }
    }
}

fn refusal(error: HandshakeError<Pipe>, time: Duration) -> Refusal {
    let stream = match error {
        HandshakeError::SetupFailure(error) => return Refusal::Transport(io::Error::other(error)),
        HandshakeError::Failure(stream) | HandshakeError::WouldBlock(stream) => stream,
    };
    if stream.get_ref().met_no_tls() {
        return Refusal::NoTls;
    }
    let verified = stream.ssl().verify_result();
    if verified != X509VerifyResult::OK {
        return Refusal::Handshake(format!("client certificate: {}", verified.error_string()));
    }
    if stream.error().io_error().is_none() {
        return Refusal::Handshake(match stream.error().ssl_error() {
            Some(_) => match reason(stream.error()) {
                Some(reason) => format!("TLS: {reason}"),
                None => stream.error().to_string(),
            },
            None if stream.get_ref().met_nothing() => return Refusal::Silent,
            None => "the client closed the connection".into(),
        });
    }
    match into_io_error(stream.into_error()) {
        error if error.kind() == io::ErrorKind::TimedOut => Refusal::TooSlow(time),
        error => Refusal::Handshake(error.to_string()),
    }
}

/// Checks that a file of the directory contains the certificate, in DER or in PEM, alone or among others.
fn allow(directory: &Path, certificate: &X509Ref) -> Result<(), Refusal> {
    let refused = |cause: String| Refusal::NotAllowed {
        subject: written(certificate.subject_name()),
        directory: directory.to_path_buf(),
        cause,
    };
    let wanted = certificate.to_der().map_err(io::Error::other)?;
    let entries = fs::read_dir(directory).map_err(|error| refused(format!(": {error}")))?;
    for entry in entries.flatten() {
        // Entries that cannot be read are skipped, as in the original.
        let Ok(bytes) = read(&entry.path()) else {
            continue;
        };
        if *bytes == wanted {
            return Ok(());
        }
        let certificates = X509::stack_from_pem(&bytes).unwrap_or_default();
        if certificates
            .iter()
            .any(|known| known.to_der().is_ok_and(|der| der == wanted))
        {
            return Ok(());
        }
    }
    Err(refused(String::new()))
}

/// Formats a subject as the original does, so that no two look the same: `c=FR,o=Org\2c Ltd,cn=client`.
pub(super) fn written(name: &X509NameRef) -> String {
    let parts = name.entries().map(|entry| {
        let object = entry.object();
        let key = match object.nid() {
            Nid::UNDEF => object.to_string(),
            Nid::PKCS9_EMAILADDRESS => "email".into(),
            Nid::SERIALNUMBER => "serialNumber".into(),
            nid => nid.short_name().unwrap_or("?").to_ascii_lowercase(),
        };
        let data = entry.data();
        let lossy = |_| String::from_utf8_lossy(data.as_slice()).into_owned();
        let text = data.to_string().unwrap_or_else(lossy);
        let last = text.len().saturating_sub(1);
        let escaped = text.char_indices().map(|(at, character)| {
            let is_special = match character {
                ',' | '+' | '"' | '\\' | '<' | '>' | ';' => true,
                ' ' => at == 0 || at == last,
                '#' => at == 0,
                _ => false,
            };
            match is_special {
                true => format!("\\{:02x}", u32::from(character)),
                false => character.into(),
            }
        });
        format!("{key}={}", escaped.collect::<String>())
    });
    parts.collect::<Vec<_>>().join(",")
}

/// Reads a file with a key or certificates. The content is wiped when dropped.
pub(crate) fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    use std::io::Read as _;
    let mut bytes = Zeroizing::new(Vec::new());
    // Opening anything else might block.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    let file = fs::File::open(path)?;
    file.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST_FILE {
        let text = format!("is longer than {LONGEST_FILE} bytes");
        return Err(io::Error::other(text));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use openssl::asn1::Asn1Time;
    use openssl::bn::{BigNum, BigNumContext};
    use openssl::ec::{EcGroup, EcKey};
    use openssl::ecdsa::EcdsaSig;
    use openssl::pkey::PKey;
    use openssl::x509::X509NameBuilder;

    use super::*;

    /// The expected text is what the original logged for a certificate with this subject.
    #[test]
    fn subjects_are_written_as_the_original_does() {
        let mut name = X509NameBuilder::new().unwrap();
        for (key, value) in [
            ("C", "FR"),
            ("O", "#lead a+b<d>e;f/g"),
            ("OU", "quo\"te = eq"),
            ("CN", "\u{e9},\\ "),
            ("2.3.4", "oid"),
            ("emailAddress", "a@b"),
            ("serialNumber", "5"),
        ] {
            name.append_entry_by_text(key, value).unwrap();
        }
        assert_eq!(
            written(&name.build()),
            "c=FR,o=\\23lead a\\2bb\\3cd\\3ee\\3bf/g,ou=quo\\22te = eq,cn=\u{e9}\\2c\\5c\\20,\
             2.3.4=oid,email=a@b,serialNumber=5"
        );
    }

    /// The certificate with the other signature that is valid whenever its own is: n - s in place of s.
    fn with_other_signature(certificate: &X509, group: &EcGroup) -> X509 {
        let signature = certificate.signature().as_slice();
        let parsed = EcdsaSig::from_der(signature).unwrap();
        let mut context = BigNumContext::new().unwrap();
        let (mut order, mut other) = (BigNum::new().unwrap(), BigNum::new().unwrap());
        group.order(&mut order, &mut context).unwrap();
        other.checked_sub(&order, parsed.s()).unwrap();
        let other = EcdsaSig::from_private_components(parsed.r().to_owned().unwrap(), other);
        let other = other.unwrap().to_der().unwrap();
        // A sequence with a length of two bytes; at its end a bit string, whose head has three bytes.
        let der = certificate.to_der().unwrap();
        assert_eq!(der[..2], [0x30, 0x82]);
        let mut content = der[4..der.len() - signature.len() - 3].to_vec();
        content.extend_from_slice(&[3, other.len() as u8 + 1, 0]);
        content.extend_from_slice(&other);
        let length = (content.len() as u16).to_be_bytes();
        X509::from_der(&[&[0x30, 0x82][..], &length, &content].concat()).unwrap()
    }

    #[test]
    fn a_certificate_is_counted_alike_whatever_its_signature() {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let certificate = |serial: u32| {
            let mut name = X509NameBuilder::new().unwrap();
            name.append_entry_by_nid(Nid::COMMONNAME, "authority")
                .unwrap();
            let name = name.build();
            let mut builder = X509::builder().unwrap();
            builder.set_issuer_name(&name).unwrap();
            builder.set_subject_name(&name).unwrap();
            let serial = BigNum::from_u32(serial).unwrap();
            let serial = serial.to_asn1_integer().unwrap();
            builder.set_serial_number(&serial).unwrap();
            let (from, to) = (Asn1Time::days_from_now(0), Asn1Time::days_from_now(1));
            builder.set_not_before(&from.unwrap()).unwrap();
            builder.set_not_after(&to.unwrap()).unwrap();
            builder.set_pubkey(&key).unwrap();
            builder.sign(&key, MessageDigest::sha256()).unwrap();
            builder.build()
        };
        let first = certificate(1);
        let other = with_other_signature(&first, &group);
        assert!(other.verify(&key).unwrap());
        let fingerprint = |it: &X509| it.digest(MessageDigest::sha256()).unwrap().to_vec();
        assert_ne!(fingerprint(&first), fingerprint(&other));
        let counted = |it: &X509| counted_as(it).unwrap();
        assert_eq!(counted(&first), counted(&other));
        assert_ne!(counted(&first), counted(&certificate(2)));
    }
}
