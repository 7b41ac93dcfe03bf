//! Tests client profiles by certificate and by pre-shared key.

use std::fs;

use super::support::certificates::certificate;
use super::support::processes::wait_until;
use super::support::{Daemon, Endpoint, Maker, PATIENCE, Token};
use super::tls::{Tls, is_served, list_slots, serves};

use Maker::{Original, Ours};

/// The SHA-256 fingerprint of one of the certificates, as `openssl x509 -fingerprint` shows it.
fn fingerprint(name: &str) -> String {
    let pem = fs::read(certificate(&format!("{name}.pem"))).expect("made before");
    let parsed = openssl::x509::X509::from_pem(&pem).expect("a certificate");
    let digest = parsed.digest(openssl::hash::MessageDigest::sha256());
    let bytes: Vec<String> = digest
        .expect("a digest")
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    bytes.join(":")
}

/// Whether a client is logged to have this profile once more after it was served.
fn is_given(daemon: &Daemon, profile: &str, client: impl FnOnce()) {
    let text = format!(": profile {profile}\n");
    let count = || daemon.log().matches(&text).count();
    let before = count();
    client();
    assert!(
        wait_until(PATIENCE, || count() > before),
        "{profile}: {}",
        daemon.log()
    );
}

#[test]
fn three_certificates_get_three_profiles_and_a_fourth_is_refused() {
    let token = Token::new();
    for algorithms in ["NORMAL:-VERS-TLS1.3", "NORMAL"] {
        let tls = Tls {
            algorithms: Some(algorithms),
            trust: vec!["ca", "other-ca"],
            ..Tls::default()
        };
        let mut setup = tls.setup(Ours, Endpoint::Tcp, &token);
        setup
            .modules
            .push(("other".into(), super::support::SOFTHSM.into()));
        setup.processor += &format!(
            "profile {{ name = \"fingerprint\"; certificate = \"{} {}\" }};
             profile {{ name = \"subject\"; subject = \"o=Trial,cn=client-ec\"; modules = \"softhsm\" }};
             profile {{ name = \"elsewhere\"; issuer = \"o=Trial,cn=other-ca\"; modules = \"other\" }};
             without_profile = \"refuse\";",
            "00".repeat(32),
            fingerprint("client"),
        );
        let daemon = setup.start();
        is_given(&daemon, "fingerprint", || serves(&daemon, "client", &[]));
        is_given(&daemon, "subject", || serves(&daemon, "client-ec", &[]));
        is_given(&daemon, "elsewhere", || {
            // The module that its profile does not have.
            assert!(!is_served(&list_slots(Ours, &daemon, "other-client", &[])));
        });
        let own = [("PKCS11PROXY_LIBNAME", "other")];
        is_given(&daemon, "elsewhere", || {
            serves(&daemon, "other-client", &own)
        });
        if algorithms != "NORMAL" {
            // The original's client speaks version 3.
            is_given(&daemon, "fingerprint", || {
                assert!(is_served(&list_slots(Original, &daemon, "client", &[])));
            });
        }
        assert!(!is_served(&list_slots(Ours, &daemon, "client-other", &[])));
        let is_logged = || {
            let log = daemon.log();
            log.contains("refused: no profile matches address=127.0.0.1 certificate=")
                && log.contains(" subject=o=Trial,cn=client-other issuer=o=Trial,cn=ca")
        };
        assert!(wait_until(PATIENCE, is_logged), "{}", daemon.log());
    }
}

#[test]
fn identities_of_pre_shared_keys_have_profiles_and_quotas() {
    let token = Token::new();
    let mut setup = Tls::default().setup(Ours, Endpoint::Tcp, &token);
    setup.processor = format!(
        "tls {{ psk_file = \"{}\" }};
         profile {{ name = \"other\"; psk = \"other\" }};
         profile {{ name = \"trial\"; psk = \"trial\"; network = \"127.0.0.0/8\"; max_sessions = 9 }};
         without_profile = \"refuse\";",
        certificate("psk.keys")
    );
    let daemon = setup.start();
    let psk = certificate("psk.client");
    let own = [
        ("PKCS11PROXY_PSK_FILE", psk.as_str()),
        ("PKCS11PROXY_CA_FILE", ""),
        ("PKCS11PROXY_CERT_FILE", ""),
        ("PKCS11PROXY_PRIVKEY_FILE", ""),
    ];
    is_given(&daemon, "trial", || serves(&daemon, "client", &own));
}

/// The handshake comes before the sandbox of the profile.
#[test]
fn a_client_with_a_certificate_gets_its_profiles_sandbox() {
    let token = Token::new();
    let mut setup = Tls::default().setup(Ours, Endpoint::Tcp, &token);
    setup.processor += &format!(
        "sandbox {{ preset = \"strict\"; read = \"{0}\"; write = \"{0}\" }};
         profile {{ name = \"closed\"; subject = \"o=Trial,cn=client\"; sandbox {{ preset = \"strict\" }} }};
         profile {{ name = \"open\"; subject = \"o=Trial,cn=client-ec\" }};",
        token.path().display()
    );
    let daemon = setup.start();
    serves(&daemon, "client-ec", &[]);
    // SoftHSM does not reach its token.
    let outcome = list_slots(Ours, &daemon, "client", &[]);
    assert!(!is_served(&outcome), "{}", outcome.stdout);
    assert!(
        daemon.log().contains(": profile closed\n"),
        "{}",
        daemon.log()
    );
}
