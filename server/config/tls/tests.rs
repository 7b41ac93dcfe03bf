//! Tests of the TLS settings: the section `tls`, the older options, and what is warned of or refused.

use std::path::Path;
use std::time::Duration;

use super::super::tests::{inside, refused};
use super::super::{Configuration, load};
use crate::tls::{ClientAuth, Credentials, DhConfig, Suites};

/// The `tls` section of the pkcs11proxyd.conf that the original ships, with its commented-out options enabled.
const TLS: &str = r#"use_ssl = true; tls {
    algorithms = "SECURE256:+SECURE128:-VERS-TLS-ALL:+VERS-TLS1.2:-RSA:-DHE-DSS:-CAMELLIA-128-CBC:-CAMELLIA-256-CBC";
    (*in tls*)
    dh_params { pkcs3_file = "dhparams.pem"; bits = 2048 };
    x509 { key { crt_file = "server.pem"; key_file = "/k" (*in key*) }; trust { crt_file = "ca.pem" } } };"#;

fn tls(replaced: &str, line: &str) -> Result<Configuration, String> {
    assert!(TLS.contains(replaced), "{replaced}");
    inside("processor", &TLS.replacen(replaced, line, 1))
}

#[test]
fn reads_the_tls_section() {
    let mut read = tls("(*in tls*)", "peer_auth = \"required\"; peer_name = \"x\";").unwrap();
    assert_eq!(read.warnings, [""; 0]);
    let processor = read.services.remove(0).processor;
    assert!(processor.use_tls);
    assert_eq!(processor.handshake_timeout, Duration::from_secs(15));
    let tls = processor.tls.unwrap();
    let Credentials::Certificates {
        keys,
        trust,
        clients,
        ..
    } = tls.credentials
    else {
        panic!()
    };
    assert_eq!(keys[0].certificate.value, Path::new("/etc/server.pem"));
    assert_eq!(keys[0].key.value, Path::new("/k"));
    assert_eq!(trust[0].value, Path::new("/etc/ca.pem"));
    assert_eq!(clients, ClientAuth::Required);
    assert!(matches!(tls.dh, DhConfig::File(file) if file.value == Path::new("/etc/dhparams.pem")));
}

#[test]
fn loads_the_sample_for_a_trial_of_tls() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/etc/tls-trial.conf");
    let configuration = load(Path::new(file)).unwrap();
    assert_eq!(configuration.warnings, [""; 0]);
    assert!(configuration.services[0].processor.use_tls);
}

#[test]
fn warns_of_a_tls_section_that_lets_nobody_in() {
    for (replaced, line, expected) in [
        ("", "", "peer_auth is missing: using `required`"),
        (
            "(*in tls*)",
            "peer_auth = \"optional\";",
            "peer_auth: means `required`",
        ),
        (
            "(*in tls*)",
            "peer_auth = \"none\";",
            "peer_auth: refuses every client",
        ),
        (
            "; trust { crt_file = \"ca.pem\" }",
            "",
            "no `trust` is given",
        ),
        (
            "use_ssl = true;",
            "use_ssl = false; cafile = \"x\";",
            "cafile: has no effect without",
        ),
        (
            "use_ssl = true;",
            "use_ssl = true; cafile = \"x\";",
            "cafile: has no effect, because",
        ),
        (
            "(*in key*)",
            "; password = \"a\"; password_file = \"b\"",
            "password_file: has no effect, because",
        ),
        (
            "SECURE256",
            "SECURE256:+RSA",
            "algorithms: RSA is not offered",
        ),
    ] {
        let warnings = tls(replaced, line).unwrap().warnings.join("\n");
        assert!(warnings.contains(expected), "{line}: {warnings}");
    }
}

#[test]
fn refuses_a_wrong_tls_section() {
    for (replaced, line, expected) in [
        (
            "SECURE256:",
            "HIGH:",
            "tls.algorithms: expected one of NORMAL",
        ),
        (
            "(*in tls*)",
            "peer_auth = \"yes\";",
            "peer_auth: expected none, optional or required",
        ),
        (
            "(*in tls*)",
            "nonsense = 1;",
            "tls.nonsense: unknown option",
        ),
        (
            "(*in tls*)",
            "psk_file = \"/x\";",
            "psk_file: expected `psk_file` or `x509`",
        ),
        (
            "pkcs3_file = \"dhparams.pem\"; bits = 2048",
            "",
            "dh_params: expected `pkcs3_file`",
        ),
        (
            "pkcs3_file = \"dhparams.pem\"; bits = 2048",
            "bits = 9000",
            "bits: expected 1024",
        ),
        ("key_file = \"/k\"", "", "`key_file` is missing"),
    ] {
        let message = tls(replaced, line).unwrap_err();
        assert!(message.contains(expected), "{line}: {message}");
    }
    refused(
        "processor",
        "use_ssl = true;",
        "use_ssl: expected a section `tls`",
    );
    refused(
        "processor",
        "use_ssl = true; tls { };",
        "expected `x509` or `psk_file`",
    );
    refused(
        "processor",
        "use_ssl = true; cafile = \"x\";",
        "`certfile` is missing",
    );
    refused(
        "processor",
        "use_ssl = true; tls { psk_file = \"x\" }; allowed_clients_cert_path = \"/x\";",
        "psk_file: cannot be combined with",
    );
    refused(
        "processor",
        "handshake_timeout = 0.0;",
        "expected more than 0.0 seconds",
    );
}

/// The options of the original's builds with OpenSSL (Ocamlnet 3).
#[test]
fn reads_the_older_keys_where_there_is_no_tls_section() {
    let keys = r#"use_ssl = true; cafile = "ca.pem"; certfile = "/c"; certkey = "/k";
        cipher_suite = "AES256"; dh_params = "dh.pem"; ec_curve_name = "prime256v1";
        verify_depth = 2; allowed_clients_cert_path = "allowed";"#;
    let mut read = inside("processor", keys).unwrap();
    assert_eq!(read.warnings, [""; 0]);
    let tls = read.services.remove(0).processor.tls.unwrap();
    assert_eq!(tls.allowed.unwrap(), Path::new("/etc/allowed"));
    assert!(matches!(tls.suites, Suites::List { list, .. } if list.value == "AES256"));
    assert!(matches!(
        tls.credentials,
        Credentials::Certificates {
            depth: Some(2),
            clients: ClientAuth::Required,
            ..
        }
    ));
    let psk = inside("processor", "use_ssl = true; tls { psk_file = \"keys\" };").unwrap();
    let credentials = &psk.services[0].processor.tls.as_ref().unwrap().credentials;
    assert!(matches!(credentials, Credentials::Psk(file) if file.value == Path::new("/etc/keys")));
}
