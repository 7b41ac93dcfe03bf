//! Builds a service's OpenSSL context from its certificate, trusted authorities, revocation lists, cipher suites and DH
//! group.
//!
//! Everything is read while the daemon starts or reloads, so that a bad file is an error then. Errors name file and
//! line of the configuration, and the file that is wrong.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use config_file::{At, Error, Fault, Place};
use openssl::bn::BigNum;
use openssl::dh::Dh;
use openssl::error::ErrorStack;
use openssl::pkey::{Id, PKey, Params, Private};
use openssl::ssl::{
    AlpnError, SslContextBuilder, SslMethod, SslOptions, SslVerifyMode, SslVersion,
};
use openssl::stack::Stack;
use openssl::x509::store::{X509Lookup, X509StoreBuilder};
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509Crl, X509Name, X509NameRef, X509VerifyResult};
use transport::tls::{
    PROTOCOL3, PROTOCOLS, PSK_SUITES, PSK_SUITES13, SECURITY_LEVEL, select, settle,
};
use zeroize::Zeroizing;

use super::acceptor::{Acceptor, Identity, PskClient, read, written};
use super::priority::Priority;
use super::psk::Keys;
use super::{
    ClientAuth, Credentials, DEFAULT_DH_BITS, DhConfig, KeyConfig, Password, Suites, TlsConfig,
};

/// Lower bound on the bits of a DH group, as security level 2 requires.
const SHORTEST_GROUP: i32 = 2048;

/// OpenSSL's X509_V_ERR_UNABLE_TO_GET_CRL.
const NO_CRL: i32 = 3;

/// The object identifier, in DER, of the extension that makes a revocation list a delta list.
const DELTA: &[u8] = &[6, 3, 0x55, 0x1d, 27];

/// Suites that are never offered, whatever `cipher_suite` says.
const NEVER: &str = "!aNULL:!eNULL:!EXPORT:!DES:!3DES:!MD5:!PSK:!SRP:!RC4:!kRSA:!kDH:!kECDH:!aDSS";

/// Reads the files that the settings name, and builds the acceptor. `conf` is the configuration file, for messages.
pub fn load(config: &TlsConfig, protocol: u32, conf: &Path) -> Result<Acceptor, Error> {
    build(config, protocol, conf).map_err(|fault| fault.in_file(conf))
}

fn build(config: &TlsConfig, protocol: u32, conf: &Path) -> Result<Acceptor, Fault> {
    let mut builder = Builder {
        context: SslContextBuilder::new(SslMethod::tls_server()).map_err(at(&config.place))?,
        conf,
        warnings: Vec::new(),
    };
    builder.fixed(protocol).map_err(at(&config.place))?;
    builder.suites(config)?;
    builder.dh(&config.dh, &config.place)?;
    let mut auth = ClientAuth::Required;
    let mut identity = None;
    match &config.credentials {
        Credentials::Certificates {
            keys,
            trust,
            revoke,
            depth,
            clients,
        } => {
            auth = *clients;
            let mut kinds = Vec::new();
            for key in keys {
                builder.key(key, &mut kinds)?;
            }
            builder.clients(trust, revoke)?;
            if let Some(depth) = depth {
                builder.context.set_verify_depth(*depth);
            }
        }
        Credentials::Psk(file) => {
            builder.psk(file, identity.insert(Identity::default()).clone())?
        }
    }
    let allowed = config.allowed.clone();
    if let Some(directory) = &allowed {
        if let Err(error) = fs::read_dir(directory) {
            let text = format!(
                "allowed_clients_cert_path {} cannot be read, so every client is refused: {error}",
                directory.display()
            );
            builder.warn(&config.place, text);
        }
    }
    let (context, warnings) = (builder.context.build(), builder.warnings);
    let strength = match &config.suites {
        Suites::Priority(priority) => priority.strength,
        // The list itself may contain a security level.
        Suites::List { .. } => 0,
    };
    Ok(Acceptor {
        context,
        clients: auth,
        strength,
        identity,
        allowed,
        warnings,
    })
}

/// Turns an error of OpenSSL into an error at a place of the configuration file.
fn at(place: &Place) -> impl Fn(ErrorStack) -> Fault + '_ {
    |error| place.fault(shortened(&error))
}

fn shortened(error: &ErrorStack) -> String {
    let reason = error.errors().iter().find_map(|error| error.reason());
    reason.map_or_else(|| error.to_string(), str::to_owned)
}

/// Returns the suites of TLS 1.2 with a pre-shared key whose cipher and MAC are those of a suite that was chosen, and that
/// have a group.
fn psk_suites12(priority: &Priority) -> String {
    let curves = priority.groups.split(':');
    let has_curve = curves
        .into_iter()
        .any(|it| !it.is_empty() && !it.starts_with("ffdhe"));
    let is_chosen = |suite: &&str| {
        let Some((exchange, rest)) = suite.split_once("-PSK-") else {
            return false;
        };
        // CBC is not in the names of suites with certificates.
        let rest = rest.replace("-CBC", "");
        let has_rest = |name: &str| {
            let exchange = name.strip_suffix(rest.as_str());
            exchange.is_some_and(|exchange| exchange.ends_with('-'))
        };
        (has_curve || exchange != "ECDHE") && priority.suites12.split(':').any(has_rest)
    };
    let suites: Vec<&str> = PSK_SUITES.split(':').filter(is_chosen).collect();
    suites.join(":")
}

/// The same for TLS 1.3.
fn psk_suites13(priority: &Priority) -> String {
    let is_chosen = |suite: &&str| priority.suites13.split(':').any(|chosen| chosen == *suite);
    let suites: Vec<&str> = PSK_SUITES13.split(':').filter(is_chosen).collect();
    suites.join(":")
}

struct Builder<'a> {
    context: SslContextBuilder,
    conf: &'a Path,
    warnings: Vec<String>,
}

impl Builder<'_> {
    fn warn(&mut self, place: &Place, text: String) {
        self.warnings
            .push(place.fault(text).in_file(self.conf).to_string());
    }

    /// Sets what no option changes.
    fn fixed(&mut self, protocol: u32) -> Result<(), ErrorStack> {
        let context = &mut self.context;
        settle(context);
        // openssl.cnf may raise the level, but not lower it; a list of suites may contain another one.
        let level_of_system = SslContextBuilder::new(SslMethod::tls_server())?
            .build()
            .security_level();
        context.set_security_level(level_of_system.max(SECURITY_LEVEL));
        context.set_options(SslOptions::CIPHER_SERVER_PREFERENCE);
        context.set_num_tickets(0)?;
        let spoken: &[&[u8]] = match protocol {
            3 => &[PROTOCOL3],
            _ => &PROTOCOLS,
        };
        context
            .set_alpn_select_callback(|_, offered| select(offered, spoken).ok_or(AlpnError::NOACK));
        Ok(())
    }

    fn suites(&mut self, config: &TlsConfig) -> Result<(), Fault> {
        let context = &mut self.context;
        let is_psk = matches!(config.credentials, Credentials::Psk(_));
        let (least, most) = match &config.suites {
            Suites::Priority(priority) => {
                let (suites12, suites13) = if is_psk {
                    (psk_suites12(priority), psk_suites13(priority))
                } else {
                    (priority.suites12.clone(), priority.suites13.clone())
                };
                let tls12 = priority.tls12 && !suites12.is_empty();
                let tls13 = priority.tls13 && !suites13.is_empty();
                if !tls12 && !tls13 {
                    let text = "algorithms selects no suite with a pre-shared key: write algorithms = \"NORMAL\"";
                    return Err(config.place.fault(text));
                }
                for (version, was_chosen, is_left) in [
                    ("1.2", priority.tls12, tls12),
                    ("1.3", priority.tls13, tls13),
                ] {
                    if was_chosen && !is_left {
                        self.warnings.push(
                            config
                                .place
                                .fault(format!("TLS {version} is not offered: algorithms selects none of its suites with a pre-shared key"))
                                .in_file(self.conf)
                                .to_string(),
                        );
                    }
                }
                if tls12 {
                    context
                        .set_cipher_list(&suites12)
                        .map_err(at(&config.place))?;
                }
                if tls13 {
                    context
                        .set_ciphersuites(&suites13)
                        .map_err(at(&config.place))?;
                }
                if !priority.groups.is_empty() {
                    context
                        .set_groups_list(&priority.groups)
                        .map_err(at(&config.place))?;
                }
                if let Some(signatures) = &priority.signatures {
                    context
                        .set_sigalgs_list(signatures)
                        .map_err(at(&config.place))?;
                }
                let least = if tls12 {
                    SslVersion::TLS1_2
                } else {
                    SslVersion::TLS1_3
                };
                let most = if tls13 {
                    SslVersion::TLS1_3
                } else {
                    SslVersion::TLS1_2
                };
                (least, most)
            }
            Suites::List { list, curve } => {
                // As in the original, a list that only excludes suites starts from HIGH.
                let chooses = |item: &str| !item.trim().is_empty() && !item.starts_with(['!', '-']);
                let high = if list.value.split([':', ',', ' ']).any(chooses) {
                    ""
                } else {
                    "HIGH:"
                };
                let suites = format!("{high}{}:{NEVER}", list.value);
                let nothing_left = |_| {
                    list.fault(
                        "selects no suite with forward secrecy and RSA or ECDSA: write cipher_suite = \"HIGH\", \
                         or remove this line",
                    )
                };
                context.set_cipher_list(&suites).map_err(nothing_left)?;
                if let Some(curve) = curve {
                    let unknown = |_| curve.fault("expected a curve such as prime256v1");
                    context.set_groups_list(&curve.value).map_err(unknown)?;
                }
                (SslVersion::TLS1_2, SslVersion::TLS1_2)
            }
        };
        context
            .set_min_proto_version(Some(least))
            .map_err(at(&config.place))?;
        context
            .set_max_proto_version(Some(most))
            .map_err(at(&config.place))
    }

    fn dh(&mut self, dh: &DhConfig, place: &Place) -> Result<(), Fault> {
        match dh {
            DhConfig::Bits(bits) => {
                let group = built_in_group(*bits).map_err(at(place))?;
                self.context.set_tmp_dh(&group).map_err(at(place))
            }
            DhConfig::File(file) => {
                let bytes = content(file)?;
                let group = Dh::params_from_pem(&bytes)
                    .map_err(|_| about(file, "contains no DH parameters in PEM"))?;
                if group.prime_p().num_bits() < SHORTEST_GROUP {
                    let text = format!(
                        "{}: the group is too short and is replaced by one of RFC 3526",
                        file.value.display()
                    );
                    self.warn(&file.place, text);
                    return self.dh(&DhConfig::Bits(DEFAULT_DH_BITS), place);
                }
                let refused = |error| about(file, &shortened(&error));
                self.context.set_tmp_dh(&group).map_err(refused)
            }
        }
    }

    /// Adds a certificate with its chain and key.
    fn key(&mut self, key: &KeyConfig, kinds: &mut Vec<Id>) -> Result<(), Fault> {
        let file = &key.certificate;
        let chain = certificates(file)?;
        let Some(leaf) = chain.first() else {
            return Err(about(file, "contains no certificate"));
        };
        let private = private_key(key)?;
        let public = leaf.public_key().map_err(at(&file.place))?;
        if !private.public_eq(&public) {
            return Err(about(&key.key, "does not belong to the certificate"));
        }
        if kinds.contains(&private.id()) {
            let text = "has no effect: a key of this kind was given before";
            self.warn(&file.place, text.into());
            return Ok(());
        }
        kinds.push(private.id());
        let now = openssl::asn1::Asn1Time::days_from_now(0).map_err(at(&file.place))?;
        if leaf.not_after() < now {
            let text = format!("{}: the certificate has expired", file.value.display());
            self.warn(&file.place, text);
        }
        let refused = |error| about(file, &shortened(&error));
        self.context
            .set_certificate_chain_file(&file.value)
            .map_err(refused)?;
        self.context.set_private_key(&private).map_err(refused)
    }

    /// Sets the authorities whose certificates clients may have, and their revocation lists.
    fn clients(&mut self, trust: &[At<PathBuf>], revoke: &[At<PathBuf>]) -> Result<(), Fault> {
        let mut store = X509StoreBuilder::new().map_err(about_nothing)?;
        let mut names = Stack::new().map_err(about_nothing)?;
        let mut flags = X509VerifyFlags::PARTIAL_CHAIN;
        if !revoke.is_empty() {
            // Without the last flag, a partial list would be taken for a complete one.
            flags |= X509VerifyFlags::CRL_CHECK
                | X509VerifyFlags::CRL_CHECK_ALL
                | X509VerifyFlags::EXTENDED_CRL_SUPPORT;
        }
        // As in GnuTLS, any of these certificates ends a chain, even one that is not self-signed.
        store.set_flags(flags).map_err(about_nothing)?;
        let mut without_list = Vec::new();
        for file in trust {
            let refused = |error: ErrorStack| about(file, &shortened(&error));
            let certificates = certificates(file)?;
            if certificates.is_empty() {
                return Err(about(file, "contains no certificate"));
            }
            for certificate in certificates {
                let name = certificate.subject_name().to_owned().map_err(refused)?;
                without_list.push((file, name.to_owned().map_err(refused)?));
                names.push(name).map_err(refused)?;
                store.add_cert(certificate).map_err(refused)?;
            }
        }
        let lookup = store
            .add_lookup(X509Lookup::file())
            .map_err(about_nothing)?;
        let mut issuers = Vec::new();
        for file in revoke {
            issuers.extend(issuers_of_lists(file)?);
            let name = file
                .value
                .to_str()
                .ok_or_else(|| about(file, "is not UTF-8"))?;
            let refused = |error| about(file, &shortened(&error));
            lookup
                .load_crl_file(name, openssl::ssl::SslFiletype::PEM)
                .map_err(refused)?;
        }
        without_list.retain(|(_, name)| !revoke.is_empty() && !contains(&issuers, name));
        for (file, name) in without_list {
            let text = format!(
                "{} has no revocation list in any crl_file; its certificates are not checked for revocation",
                written(&name)
            );
            self.warn(&file.place, text);
        }
        self.context.set_cert_store(store.build());
        self.context.set_client_ca_list(names);
        let mode = SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT;
        // As in GnuTLS, certificates of an authority without any list are accepted; a warning was given. If an
        // authority has lists, but none of them covers this certificate, the certificate is refused.
        self.context
            .set_verify_callback(mode, move |verified, context| {
                let has_no_list = !verified
                    && context.error().as_raw() == NO_CRL
                    && context
                        .current_cert()
                        .is_some_and(|certificate| !contains(&issuers, certificate.issuer_name()));
                if has_no_list {
                    context.set_error(X509VerifyResult::OK);
                }
                verified || has_no_list
            });
        Ok(())
    }

    fn psk(&mut self, file: &At<PathBuf>, client: Identity) -> Result<(), Fault> {
        let keys = Keys::parse(&content(file)?).map_err(|error| about(file, &error))?;
        if fs::metadata(&file.value).is_ok_and(|metadata| metadata.mode() & 0o077 != 0) {
            let text = format!("{}: other users can read this file", file.value.display());
            self.warn(&file.place, text);
        }
        self.context
            .set_psk_server_callback(move |_, identity, space| {
                let key = identity.and_then(|identity| keys.find(identity));
                if let (Ok(mut client), Some(identity)) = (client.lock(), identity) {
                    *client = Some(PskClient {
                        name: String::from_utf8_lossy(identity).into_owned(),
                        is_known: key.is_some(),
                    });
                }
                Ok(key
                    .and_then(|key| {
                        space.get_mut(..key.len())?.copy_from_slice(key);
                        Some(key.len())
                    })
                    .unwrap_or(0))
            });
        Ok(())
    }
}

/// Returns the smallest group of RFC 3526 with at least this many bits, 2048 or more.
fn built_in_group(bits: i64) -> Result<Dh<Params>, ErrorStack> {
    let prime = match bits {
        ..=2048 => BigNum::get_rfc3526_prime_2048(),
        2049..=3072 => BigNum::get_rfc3526_prime_3072(),
        3073..=4096 => BigNum::get_rfc3526_prime_4096(),
        4097..=6144 => BigNum::get_rfc3526_prime_6144(),
        _ => BigNum::get_rfc3526_prime_8192(),
    };
    Dh::from_pqg(prime?, None, BigNum::from_u32(2)?)
}

fn about(file: &At<PathBuf>, what: &str) -> Fault {
    file.fault(format!("{}: {what}", file.value.display()))
}

/// Reports an error that no file has caused, such as a lack of memory.
fn about_nothing(error: ErrorStack) -> Fault {
    Fault::in_line(1, shortened(&error))
}

fn content(file: &At<PathBuf>) -> Result<Zeroizing<Vec<u8>>, Fault> {
    read(&file.value).map_err(|error| about(file, &format!("cannot be read: {error}")))
}

fn certificates(file: &At<PathBuf>) -> Result<Vec<X509>, Fault> {
    X509::stack_from_pem(&content(file)?).map_err(|error| {
        about(
            file,
            &format!("is not a certificate in PEM: {}", shortened(&error)),
        )
    })
}

/// Whether one of the names is the wanted one, even if it is encoded differently.
fn contains(names: &[X509Name], wanted: &X509NameRef) -> bool {
    let is_same = |name: &X509Name| name.try_cmp(wanted).is_ok_and(|order| order.is_eq());
    names.iter().any(is_same)
}

fn issuers_of_lists(file: &At<PathBuf>) -> Result<Vec<X509Name>, Fault> {
    const BEGIN: &str = "-----BEGIN X509 CRL-----";
    let bytes = content(file)?;
    let text = String::from_utf8_lossy(&bytes);
    let refused = |error: ErrorStack| about(file, &shortened(&error));
    let mut issuers = Vec::new();
    for (start, _) in text.match_indices(BEGIN) {
        let pem = text.get(start..).unwrap_or_default();
        let list = X509Crl::from_pem(pem.as_bytes()).map_err(refused)?;
        let der = list.to_der().map_err(refused)?;
        if der.windows(DELTA.len()).any(|window| window == DELTA) {
            return Err(about(
                file,
                "contains a delta list; expected complete lists",
            ));
        }
        issuers.push(list.issuer_name().to_owned().map_err(refused)?);
    }
    if issuers.is_empty() {
        Err(about(file, "contains no revocation list in PEM"))
    } else {
        Ok(issuers)
    }
}

/// Reads a private key. Never asks for a password at the terminal.
fn private_key(key: &KeyConfig) -> Result<PKey<Private>, Fault> {
    let file = &key.key;
    let bytes = content(file)?;
    let password = match &key.password {
        None => None,
        Some(Password::Text(text)) => Some(Zeroizing::new(text.as_bytes().to_vec())),
        Some(Password::File(file)) => {
            let line = content(file)?;
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
            Some(Zeroizing::new(
                line.strip_suffix(b"\r").unwrap_or(line).to_vec(),
            ))
        }
    };
    let mut asked = false;
    let read = PKey::private_key_from_pem_callback(&bytes, |space| {
        asked = true;
        let password = password.as_ref().ok_or_else(ErrorStack::get)?;
        space
            .get_mut(..password.len())
            .ok_or_else(ErrorStack::get)?
            .copy_from_slice(password);
        Ok(password.len())
    });
    read.map_err(|_| match (asked, &password) {
        (false, _) => about(file, "is not a private key in PEM"),
        (true, None) => about(file, "is encrypted: expected `password` or `password_file`"),
        (true, Some(_)) => about(file, "cannot be decrypted with this password"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_with_a_pre_shared_key_have_a_cipher_that_was_chosen() {
        let suites = |text: &str| {
            let priority = Priority::parse(text).unwrap();
            (psk_suites12(&priority), psk_suites13(&priority))
        };
        let usual =
            "ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES256-GCM-SHA384:DHE-PSK-AES128-GCM-SHA256";
        let (suites12, suites13) = suites("NORMAL");
        assert!(suites12.starts_with(usual), "{suites12}");
        assert_eq!(suites13, PSK_SUITES13);
        let (suites12, suites13) = suites("SECURE256");
        assert!(!suites12.contains("AES128") && suites12.contains("AES256-GCM"));
        assert_eq!(suites13, "TLS_CHACHA20_POLY1305_SHA256");
        let (suites12, _) = suites("NORMAL:+SHA256:+SHA384");
        assert_eq!(suites12, PSK_SUITES);
        let (suites12, _) = suites("NORMAL:+SHA256:+SHA384:%FORCE_ETM");
        assert_eq!(suites12, usual);
        let (suites12, suites13) = suites("NORMAL:-CHACHA20-POLY1305");
        assert!(!format!("{suites12}{suites13}").contains("CHACHA20"));
        let (suites12, _) = suites("NORMAL:-GROUP-ALL:+GROUP-FFDHE3072");
        assert!(!suites12.contains("ECDHE") && suites12.starts_with("DHE-PSK"));
        let (suites12, suites13) = suites("NORMAL:-CIPHER-ALL:+AES-256-CBC");
        assert_eq!((suites12.as_str(), suites13.as_str()), ("", ""));
    }
}
