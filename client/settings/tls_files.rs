//! Finds the files for TLS, and makes the TLS settings of a connection from them.
//!
//! If a file is set here, that may be the reason why TLS is used (`endpoint`). The files themselves are read when a
//! connection is made.

use std::ffi::OsString;
use std::path::PathBuf;

use super::endpoint::Endpoint;
use super::sources::{Found, Origin};
use super::{Credentials, SettingsError, Source, Sources, TlsSettings, option_of};

const CA_FILE: &str = "PKCS11PROXY_CA_FILE";
const CERT_FILE: &str = "PKCS11PROXY_CERT_FILE";
const PRIVKEY_FILE: &str = "PKCS11PROXY_PRIVKEY_FILE";
const VERIFY_NAME: &str = "PKCS11PROXY_VERIFY_NAME";

/// The TLS settings that were found, whether TLS is used or not.
pub(super) struct TlsSources {
    psk: Option<PathBuf>,
    authority: Option<Source>,
    certificate: Option<Source>,
    key: Option<Source>,
    pinned: Option<Source>,
    name: Option<Found<OsString>>,
}

impl TlsSources {
    /// Returns whether anything is set that only TLS needs.
    pub fn is_any(&self) -> bool {
        let sources = [&self.authority, &self.certificate, &self.key, &self.pinned];
        self.psk.is_some() || self.name.is_some() || sources.iter().any(|it| it.is_some())
    }

    pub fn settings(&self, endpoint: &Endpoint) -> Result<TlsSettings, SettingsError> {
        let wanted =
            |source: &Option<Source>, name| source.clone().ok_or(SettingsError::TlsFile(name));
        let credentials = match &self.psk {
            Some(path) => Credentials::Psk(Source::File(path.clone())),
            None => Credentials::Certificates {
                authority: wanted(&self.authority, CA_FILE)?,
                certificate: wanted(&self.certificate, CERT_FILE)?,
                key: wanted(&self.key, PRIVKEY_FILE)?,
            },
        };
        let name = match &self.name {
            None => None,
            Some(Found { value, origin }) => {
                let refused = || SettingsError::VerifyName(origin.clone());
                // To OpenSSL an empty name is any name, and one that begins with a dot any below it.
                let is_one = |name: &&str| !name.is_empty() && !name.starts_with('.');
                let name = value.to_str().filter(is_one).ok_or_else(refused)?;
                match endpoint {
                    _ if name != "endpoint" => Some(name.to_owned()),
                    Endpoint::Tcp { host, .. } => Some(host.clone()),
                    Endpoint::Unix(_) => return Err(refused()),
                }
            }
        };
        Ok(TlsSettings {
            credentials,
            pinned: self.pinned.clone(),
            name,
        })
    }
}

impl Sources<'_> {
    /// Looks for each file in the variables, the settings file, and the compiled-in values.
    pub(super) fn tls_files(&self) -> TlsSources {
        let options = &self.file.options;
        let tell = |name: &str, value: &str, origin: &Origin| {
            self.tell(option_of(name), value, origin);
        };
        let file = |name, option| {
            let variable = self.variable(name).map(|it| it.map(PathBuf::from));
            let found = variable.or(self.file.found(option))?;
            tell(name, &found.value.to_string_lossy(), &found.origin);
            Some(found.value)
        };
        let source = |name, option, built_in: Option<&'static str>| {
            file(name, option).map(Source::File).or_else(|| {
                let built_in = built_in.filter(|text| !text.is_empty())?;
                let source = match built_in.contains("-----BEGIN") {
                    true => Source::BuiltIn(built_in),
                    false => Source::File(built_in.into()),
                };
                tell(name, &source.to_string(), &Origin::Built);
                Some(source)
            })
        };
        let built_in = self.environment.built_in.tls;
        let name = self.variable(VERIFY_NAME).or(self
            .file
            .found(&self.file.options.verify_name)
            .map(|it| it.map(OsString::from)));
        if let Some(Found { value, origin }) = &name {
            tell(VERIFY_NAME, &value.to_string_lossy(), origin);
        }
        TlsSources {
            psk: file("PKCS11PROXY_PSK_FILE", &options.psk_file),
            authority: source(CA_FILE, &options.ca_file, built_in.authority),
            certificate: source(CERT_FILE, &options.cert_file, built_in.certificate),
            key: source(PRIVKEY_FILE, &options.privkey_file, built_in.key),
            pinned: source(
                "PKCS11PROXY_SERVER_CERTS_FILE",
                &options.server_certs_file,
                built_in.pinned,
            ),
            name,
        }
    }
}
