//! Reads the TLS settings of a service: the `tls` section, or the older options beside it.
//!
//! Sections come from `sections`, with their places; a [`TlsConfig`] goes to the checker. Opens no file.

use std::path::{Path, PathBuf};

use config_file::{At, Fault, Place};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::values::{path, required};
use crate::tls::priority::{self, Priority};
use crate::tls::{
    ClientAuth, Credentials, DEFAULT_DH_BITS, DhConfig, KeyConfig, Password, Suites, TlsConfig,
};

const UNUSED_FILE: &str = "has no effect, because `password` is given";

/// Bits of the largest standard group.
const MOST_DH_BITS: i64 = 8192;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsSection {
    algorithms: Option<At<String>>,
    peer_auth: Option<At<String>>,
    /// Ignored, as in the original.
    #[serde(rename = "peer_name")]
    _peer_name: Option<String>,
    dh_params: Option<At<DhSection>>,
    x509: Option<At<X509Section>>,
    psk_file: Option<At<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DhSection {
    pkcs3_file: Option<At<String>>,
    bits: Option<At<i64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct X509Section {
    key: Vec<At<KeySection>>,
    trust: Vec<At<TrustSection>>,
    revoke: Vec<At<RevokeSection>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeySection {
    crt_file: At<String>,
    key_file: At<String>,
    password: Option<At<String>>,
    password_file: Option<At<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrustSection {
    crt_file: At<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeSection {
    crl_file: At<String>,
}

/// The options of OpenSSL builds with Ocamlnet 3, which stand in `processor` itself.
pub(super) struct LegacyKeys {
    pub(super) cafile: Option<At<String>>,
    pub(super) certfile: Option<At<String>>,
    pub(super) certkey: Option<At<String>>,
    pub(super) cipher_suite: Option<At<String>>,
    pub(super) dh_params: Option<At<String>>,
    pub(super) ec_curve_name: Option<At<String>>,
    pub(super) verify_depth: Option<At<i64>>,
}

impl LegacyKeys {
    /// The places of the options that are given.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        let texts = [
            &self.cafile,
            &self.certfile,
            &self.certkey,
            &self.cipher_suite,
            &self.dh_params,
            &self.ec_curve_name,
        ];
        let depth = self.verify_depth.as_ref().map(|at| &at.place);
        let texts = texts.into_iter().flatten().map(|at| &at.place);
        texts.chain(depth)
    }
}

/// The place that a warning is about, and its text.
pub(super) type Warning = (Place, String);

/// Reads a `tls` section. Relative file names are relative to `base`.
pub(super) fn of_section(
    section: At<TlsSection>,
    allowed: Option<PathBuf>,
    base: &Path,
    warnings: &mut Vec<Warning>,
) -> Result<TlsConfig, Fault> {
    let At {
        value: section,
        place,
    } = section;
    let suites = match &section.algorithms {
        None => Priority::parse(priority::DEFAULT).map_err(|error| place.fault(error))?,
        Some(at) => Priority::parse(&at.value).map_err(|error| at.fault(error))?,
    };
    let at = section.algorithms.as_ref().map_or(&place, |at| &at.place);
    warnings.extend(
        suites
            .warnings
            .iter()
            .map(|text| (at.clone(), text.clone())),
    );
    let dh = match section.dh_params {
        None => DhConfig::Bits(DEFAULT_DH_BITS),
        Some(section) => dh(section, base)?,
    };
    let credentials = match (section.psk_file, section.x509) {
        (Some(file), Some(_)) => {
            return Err(file.fault("expected `psk_file` or `x509`, not both"));
        }
        (Some(file), None) if allowed.is_some() => {
            return Err(file.fault("cannot be combined with `allowed_clients_cert_path`"));
        }
        (Some(file), None) => {
            if let Some(at) = &section.peer_auth {
                let text = "has no effect with `psk_file`";
                warnings.push((at.place.clone(), text.into()));
            }
            Credentials::Psk(located(&file, base)?)
        }
        (None, None) => return Err(place.fault("expected `x509` or `psk_file`")),
        (None, Some(x509)) => {
            let clients = clients(section.peer_auth, &place, warnings)?;
            certificates(x509, clients, base, warnings)?
        }
    };
    Ok(TlsConfig {
        place,
        suites: Suites::Priority(suites),
        credentials,
        dh,
        allowed,
    })
}

/// Reads the older options, if there is `use_ssl` without a `tls` section.
pub(super) fn of_legacy_keys(
    use_ssl: &Place,
    keys: LegacyKeys,
    allowed: Option<PathBuf>,
    base: &Path,
) -> Result<TlsConfig, Fault> {
    if keys.places().next().is_none() {
        return Err(use_ssl.fault(
            "expected a section `tls` as well: write tls { x509 { key { crt_file = \"...\"; key_file = \"...\" }; \
             trust { crt_file = \"...\" } } }",
        ));
    }
    let file = |at, name| located(&required(at, name, use_ssl)?, base);
    let key = KeyConfig {
        certificate: file(keys.certfile, "certfile")?,
        key: file(keys.certkey, "certkey")?,
        password: None,
    };
    let depth = match keys.verify_depth {
        None => 4,
        Some(at) => u32::try_from(at.value)
            .ok()
            .filter(|depth| *depth <= 100)
            .ok_or_else(|| at.fault("expected a depth of 0 to 100"))?,
    };
    let default = At {
        value: String::from("HIGH"),
        place: use_ssl.clone(),
    };
    Ok(TlsConfig {
        place: use_ssl.clone(),
        suites: Suites::List {
            list: keys.cipher_suite.unwrap_or(default),
            curve: keys.ec_curve_name,
        },
        credentials: Credentials::Certificates {
            keys: vec![key],
            trust: vec![file(keys.cafile, "cafile")?],
            revoke: Vec::new(),
            depth: Some(depth),
            clients: ClientAuth::Required,
        },
        dh: match keys.dh_params {
            None => DhConfig::Bits(DEFAULT_DH_BITS),
            Some(at) => DhConfig::File(located(&at, base)?),
        },
        allowed,
    })
}

fn located(at: &At<String>, base: &Path) -> Result<At<PathBuf>, Fault> {
    Ok(At {
        value: path(at, Some(base))?,
        place: at.place.clone(),
    })
}

fn dh(section: At<DhSection>, base: &Path) -> Result<DhConfig, Fault> {
    let At {
        value: DhSection { pkcs3_file, bits },
        place,
    } = section;
    match (pkcs3_file, bits) {
        (Some(file), _) => Ok(DhConfig::File(located(&file, base)?)),
        (None, Some(bits)) if (1024..=MOST_DH_BITS).contains(&bits.value) => {
            Ok(DhConfig::Bits(bits.value))
        }
        (None, Some(bits)) => Err(bits.fault(format!("expected 1024 to {MOST_DH_BITS}"))),
        (None, None) => Err(place.fault("expected `pkcs3_file` or `bits`")),
    }
}

fn clients(
    peer_auth: Option<At<String>>,
    section: &Place,
    warnings: &mut Vec<Warning>,
) -> Result<ClientAuth, Fault> {
    let Some(at) = peer_auth else {
        let text = "peer_auth is missing: using `required` (Caml Crush refuses every client)";
        warnings.push((section.clone(), text.into()));
        return Ok(ClientAuth::Required);
    };
    match at.value.as_str() {
        "required" => Ok(ClientAuth::Required),
        "optional" => {
            let text =
                "means `required`: clients without a certificate are refused, as by Caml Crush";
            warnings.push((at.place, text.into()));
            Ok(ClientAuth::Required)
        }
        "none" => {
            let text = "refuses every client, as Caml Crush does; did you mean `required`?";
            warnings.push((at.place, text.into()));
            Ok(ClientAuth::NobodyConnects)
        }
        _ => Err(at.fault("expected none, optional or required")),
    }
}

fn certificates(
    section: At<X509Section>,
    clients: ClientAuth,
    base: &Path,
    warnings: &mut Vec<Warning>,
) -> Result<Credentials, Fault> {
    let At {
        value: section,
        place,
    } = section;
    if section.key.is_empty() {
        warnings.push((
            place.clone(),
            "no `key` is given, so no client can connect".into(),
        ));
    }
    if section.trust.is_empty() {
        warnings.push((
            place,
            "no `trust` is given, so no client can connect".into(),
        ));
    }
    let mut keys = Vec::new();
    for At { value: key, .. } in section.key {
        let password = match (key.password, key.password_file) {
            (Some(text), file) => {
                let text = Zeroizing::new(text.value);
                let unused = file.map(|file| file.place);
                warnings.extend(unused.map(|place| (place, UNUSED_FILE.into())));
                Some(Password::Text(text))
            }
            (None, Some(file)) => Some(Password::File(located(&file, base)?)),
            (None, None) => None,
        };
        keys.push(KeyConfig {
            certificate: located(&key.crt_file, base)?,
            key: located(&key.key_file, base)?,
            password,
        });
    }
    let trust = section
        .trust
        .iter()
        .map(|trust| located(&trust.value.crt_file, base));
    let revoke = section
        .revoke
        .iter()
        .map(|revoke| located(&revoke.value.crl_file, base));
    Ok(Credentials::Certificates {
        keys,
        trust: trust.collect::<Result<_, _>>()?,
        revoke: revoke.collect::<Result<_, _>>()?,
        depth: None,
        clients,
    })
}

#[cfg(test)]
mod tests;
