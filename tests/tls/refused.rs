//! Tests who is refused, by client or daemon, and that a refused attempt leaves nothing but a line in the log.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::support::certificates::certificate;
use super::support::processes::wait_until;
use super::support::{Daemon, Directory, Endpoint, Maker, Stack, Token};
use super::tls::{Tls, is_served, list_slots, serves, stack};

use Maker::{Original, Ours};

const SOON: Duration = Duration::from_secs(5);

/// One worker waits, and the controller has the descriptors it had.
fn calms_down(daemon: &Daemon, descriptors: usize) {
    let controller = daemon.process();
    let calm = wait_until(SOON, || {
        daemon.workers().len() == 1 && controller.descriptors() == descriptors
    });
    let workers = daemon.workers().len();
    assert!(
        calm,
        "{workers} workers, {} descriptors: {}",
        controller.descriptors(),
        daemon.log()
    );
    let left = fs::read_dir(daemon.directory().join("tmp"))
        .expect("it exists")
        .count();
    assert_eq!(left, 0, "temporary files");
}

/// The controller's descriptors once they stay as many as they are.
fn settled(daemon: &Daemon) -> usize {
    let mut last = (0, 0);
    wait_until(SOON, || {
        std::thread::sleep(Duration::from_millis(100));
        let before = last;
        last = (daemon.workers().len(), daemon.process().descriptors());
        last == before && last.0 == 1
    });
    last.1
}

/// Either client is refused at once, with CKR_DEVICE_ERROR from ours, and the log says why.
fn refuses(daemon: &Daemon, own: &str, cause: &str) {
    let descriptors = settled(daemon);
    let started = Instant::now();
    let outcome = list_slots(Ours, daemon, own, &[]);
    assert!(!is_served(&outcome), "{own} is served");
    assert!(
        outcome
            .stderr
            .contains("C_Initialize failed: rv = CKR_DEVICE_ERROR"),
        "{}",
        outcome.stderr
    );
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{own}: {:?}",
        started.elapsed()
    );
    let logged = wait_until(SOON, || daemon.log().contains(cause));
    assert!(logged, "{own}: {}", daemon.log());
    assert!(
        !is_served(&list_slots(Original, daemon, own, &[])),
        "{own} is served with the original's"
    );
    calms_down(daemon, descriptors);
    serves(daemon, "client", &[]);
    calms_down(daemon, descriptors);
}

#[test]
fn client_certificates_that_do_not_verify() {
    for algorithms in ["NORMAL:-VERS-TLS1.3", "NORMAL:-VERS-TLS1.2"] {
        let x509 = format!("revoke {{ crl_file = \"{}\" }};", certificate("crl.pem"));
        let tls = Tls {
            algorithms: Some(algorithms),
            x509,
            ..Tls::default()
        };
        let stack = stack(Ours, Ours, &tls);
        let daemon = stack.daemon.as_ref().expect("it has one");
        refuses(
            daemon,
            "client-expired",
            "client certificate: certificate has expired",
        );
        refuses(
            daemon,
            "other-client",
            "client certificate: unable to get local issuer certificate",
        );
        refuses(
            daemon,
            "client-revoked",
            "client certificate: certificate revoked",
        );
        // Of a server: it may not act as a client.
        refuses(daemon, "server", "client certificate: un");
        assert!(daemon.log().contains("[warning] client 127.0.0.1:"));
    }
}

#[test]
fn revocation_lists_count_for_the_authorities_that_have_one() {
    let x509 = format!("revoke {{ crl_file = \"{}\" }};", certificate("crl.pem"));
    let tls = Tls {
        trust: vec!["ca", "other-ca"],
        x509,
        ..Tls::default()
    };
    let stack = stack(Ours, Ours, &tls);
    let daemon = stack.daemon.as_ref().expect("it has one");
    refuses(daemon, "client-revoked", "certificate revoked");
    serves(daemon, "other-client", &[]);
    serves(daemon, "client-chain", &[]);
    assert!(
        daemon.log().contains("cn=other-ca has no revocation list"),
        "{}",
        daemon.log()
    );
}

/// A keyword or profile of the priority string asks for strong certificates, as in the original.
#[test]
fn client_certificates_that_are_weaker_than_the_priority_string_asks_for() {
    for algorithms in [
        "SECURE256:-VERS-TLS1.3:+GROUP-SECP256R1",
        "NORMAL:-VERS-TLS1.3:%PROFILE_HIGH",
    ] {
        for maker in [Original, Ours] {
            let tls = Tls {
                algorithms: Some(algorithms),
                ..Tls::default()
            };
            let stack = stack(Ours, maker, &tls);
            let daemon = stack.daemon.as_ref().expect("it has one");
            // RSA of 2048 bits.
            let outcome = list_slots(Ours, daemon, "client", &[]);
            assert!(!is_served(&outcome), "{algorithms} {maker:?}");
            serves(daemon, "client-ec", &[]);
        }
    }
}

/// One that is for some reasons only says nothing of others: nobody passes by it, revoked or not.
#[test]
fn a_revocation_list_that_is_not_for_everything_lets_nobody_pass() {
    let list = certificate("crl-reasons.pem");
    let x509 = format!("revoke {{ crl_file = \"{list}\" }};");
    let tls = Tls {
        trust: vec!["ca", "other-ca"],
        x509,
        ..Tls::default()
    };
    let stack = stack(Ours, Ours, &tls);
    let daemon = stack.daemon.as_ref().expect("it has one");
    for own in ["client-revoked", "client"] {
        assert!(!is_served(&list_slots(Ours, daemon, own, &[])), "{own}");
    }
    let log = daemon.log();
    assert!(
        log.contains("client certificate: certificate revoked"),
        "{log}"
    );
    assert!(log.contains("unable to get certificate CRL"), "{log}");
    serves(daemon, "other-client", &[]);
}

#[test]
fn a_client_without_a_certificate() {
    for version in ["-tls1_2", "-tls1_3"] {
        let stack = stack(Ours, Ours, &Tls::default());
        let daemon = stack.daemon.as_ref().expect("it has one");
        let descriptors = settled(daemon);
        let mut command = std::process::Command::new("openssl");
        command.args(["s_client", version, "-connect", &daemon.address()]);
        super::support::processes::run(command, Duration::from_secs(10));
        let logged = wait_until(SOON, || {
            daemon.log().contains("peer did not return a certificate")
        });
        assert!(logged, "{}", daemon.log());
        calms_down(daemon, descriptors);
    }
}

/// The directory may hold a certificate in any form. The original wants its exact PEM text.
#[test]
fn certificates_that_are_not_in_the_allowed_directory() {
    let allowed = Directory::new();
    let tls = Tls::default();
    let token = Token::new();
    let mut setup = tls.setup(Ours, Endpoint::Tcp, &token);
    let line = format!(
        "allowed_clients_cert_path = \"{}\";",
        allowed.path().display()
    );
    setup.processor.push_str(&line);
    let daemon = setup.start();
    refuses_as_not_allowed(&daemon);

    let pem = fs::read(certificate("client.pem")).expect("made before");
    let text = String::from_utf8(pem.clone()).expect("PEM is text");
    let der = openssl::x509::X509::from_pem(&pem)
        .and_then(|it| it.to_der())
        .expect("a certificate");
    let other = fs::read_to_string(certificate("client-other.pem")).expect("made before");
    fs::create_dir(allowed.join("directory")).expect("an empty directory");
    fs::write(allowed.join("empty"), "").expect("an empty directory");
    fs::write(allowed.join("other.pem"), &other).expect("an empty directory");
    for (name, content) in [
        (".hidden", pem),
        ("client.der", der),
        ("crlf", text.replace('\n', "\r\n").into_bytes()),
        ("bundle", format!("some text\n{other}{text}").into_bytes()),
    ] {
        let file = allowed.join(name);
        fs::write(&file, content).expect("a writable directory");
        serves(&daemon, "client", &[]);
        fs::remove_file(&file).expect("just written");
        refuses_as_not_allowed(&daemon);
    }
    fs::remove_dir_all(allowed.path()).expect("ours");
    refuses_as_not_allowed(&daemon);
    let warning = format!(
        "allowed_clients_cert_path {} cannot be read, so every client is refused",
        allowed.path().display()
    );
    assert!(!daemon.log().contains(&warning));
    daemon.process().signal(Signal::SIGHUP);
    assert!(
        wait_until(SOON, || daemon.log().contains(&warning)),
        "{}",
        daemon.log()
    );
    fs::create_dir(allowed.path()).expect("removed before");
}

fn refuses_as_not_allowed(daemon: &Daemon) {
    let descriptors = settled(daemon);
    let before = daemon
        .log()
        .matches("refused: the certificate of o=Trial,cn=client is not in")
        .count();
    assert!(!is_served(&list_slots(Ours, daemon, "client", &[])));
    let after = || {
        daemon
            .log()
            .matches("refused: the certificate of o=Trial,cn=client is not in")
            .count()
    };
    // It asks which interfaces there are, then initialises.
    assert!(
        wait_until(SOON, || after() == before + 2),
        "{}",
        daemon.log()
    );
    calms_down(daemon, descriptors);
}

/// Our client with these variables: CKR_DEVICE_ERROR at once, with the cause in its log only.
fn client_refuses(daemon: &Daemon, more: &[(&str, &str)], cause: &str) {
    let started = Instant::now();
    let outcome = list_slots(Ours, daemon, "client", more);
    assert!(!is_served(&outcome));
    assert!(
        outcome.stderr.contains(cause),
        "{more:?}: {}",
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("rv = CKR_DEVICE_ERROR (0x30)"),
        "{}",
        outcome.stderr
    );
    assert!(started.elapsed() < Duration::from_secs(5));
    // Nothing printed without being asked.
    let silent = list_slots(
        Ours,
        daemon,
        "client",
        &[more, &[("PKCS11PROXY_LOG", "")]].concat(),
    );
    assert!(!silent.stderr.contains("p11client") && !silent.stdout.contains("p11client"));
}

#[test]
fn our_client_refuses_servers_that_do_not_verify() {
    let ours = stack(Ours, Ours, &Tls::default());
    let daemon = ours.daemon.as_ref().expect("it has one");
    let file = |name: &str| certificate(name);
    let (pinned, other) = (file("server.pem"), file("server-ec.pem"));
    let other_ca = file("other-ca.pem");
    serves(
        daemon,
        "client",
        &[("PKCS11PROXY_SERVER_CERTS_FILE", &pinned)],
    );
    client_refuses(
        daemon,
        &[("PKCS11PROXY_SERVER_CERTS_FILE", &other)],
        "the server's certificate is not in",
    );
    client_refuses(
        daemon,
        &[("PKCS11PROXY_CA_FILE", &other_ca)],
        "the server's certificate: unable to get local issuer certificate",
    );
    // Pinned, but of an authority that is not trusted.
    client_refuses(
        daemon,
        &[
            ("PKCS11PROXY_CA_FILE", &other_ca),
            ("PKCS11PROXY_SERVER_CERTS_FILE", &pinned),
        ],
        "unable to get local issuer certificate",
    );
    for name in ["endpoint", "localhost", "127.0.0.1"] {
        serves(daemon, "client", &[("PKCS11PROXY_VERIFY_NAME", name)]);
    }
    for (name, cause) in [
        ("hsm.example", "hostname mismatch"),
        ("10.0.0.1", "IP address mismatch"),
    ] {
        client_refuses(daemon, &[("PKCS11PROXY_VERIFY_NAME", name)], cause);
    }
    let tls = Tls {
        keys: vec!["other-server"],
        ..Tls::default()
    };
    let stack = stack(Ours, Original, &tls);
    let daemon = stack.daemon.as_ref().expect("it has one");
    client_refuses(daemon, &[], "unable to get local issuer");
    // Its certificate is for *.wild.example and part*.example.
    let named = |name| {
        [
            ("PKCS11PROXY_CA_FILE", other_ca.as_str()),
            ("PKCS11PROXY_VERIFY_NAME", name),
        ]
    };
    serves(daemon, "client", &named("a.wild.example"));
    for name in ["a.b.wild.example", "partial.example"] {
        client_refuses(daemon, &named(name), "hostname mismatch");
    }
}

/// An application may lower OpenSSL's demands for itself in its openssl.cnf, not for our library.
#[test]
fn our_client_refuses_weak_servers_whatever_openssl_cnf_says() {
    let directory = Directory::new();
    let lax = directory.join("openssl.cnf");
    let text = "openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\n\
        CipherString = DEFAULT:@SECLEVEL=0\n";
    fs::write(&lax, text).expect("a new directory");
    let tls = Tls {
        keys: vec!["server-weak"],
        algorithms: Some(super::tls::SHIPPED),
        ..Tls::default()
    };
    let stack = stack(Ours, Original, &tls);
    let daemon = stack.daemon.as_ref().expect("it has one");
    let lax = lax.display().to_string();
    client_refuses(
        daemon,
        &[("OPENSSL_CONF", &lax)],
        "the server's certificate: EE certificate key too weak",
    );
}

#[test]
fn our_client_says_what_is_wrong_with_its_own_files() {
    let stack = stack(Ours, Ours, &Tls::default());
    let daemon = stack.daemon.as_ref().expect("it has one");
    let (encrypted, other) = (
        certificate("server-encrypted.key"),
        certificate("client-ec.key"),
    );
    for (variable, value, cause) in [
        (
            "PKCS11PROXY_CA_FILE",
            "",
            "neither PKCS11PROXY_CA_FILE nor PKCS11PROXY_PSK_FILE is set",
        ),
        (
            "PKCS11PROXY_CERT_FILE",
            "",
            "neither PKCS11PROXY_CERT_FILE nor",
        ),
        (
            "PKCS11PROXY_PRIVKEY_FILE",
            "",
            "neither PKCS11PROXY_PRIVKEY_FILE nor",
        ),
        (
            "PKCS11PROXY_CA_FILE",
            "/nonexistent",
            "/nonexistent: No such file",
        ),
        (
            "PKCS11PROXY_CERT_FILE",
            "/dev/null",
            "/dev/null: contains no certificate",
        ),
        (
            "PKCS11PROXY_PRIVKEY_FILE",
            "/dev/null",
            "contains no private key",
        ),
        ("PKCS11PROXY_PRIVKEY_FILE", &encrypted, "is encrypted"),
        (
            "PKCS11PROXY_PRIVKEY_FILE",
            &other,
            "does not belong to the certificate",
        ),
        (
            "PKCS11PROXY_SERVER_CERTS_FILE",
            "/nonexistent",
            "/nonexistent: No such file",
        ),
        (
            "PKCS11PROXY_PSK_FILE",
            "/dev/null",
            "expected one line, identity:key",
        ),
    ] {
        client_refuses(daemon, &[(variable, value)], cause);
    }
}

#[test]
fn plain_clients_at_a_tls_port_and_the_other_way_round() {
    let stack = stack(Ours, Ours, &Tls::default());
    let daemon = stack.daemon.as_ref().expect("it has one");
    let descriptors = settled(daemon);
    let mut plain = super::tls::command("pkcs11-tool", daemon, "client");
    plain
        .env(
            "PKCS11PROXY_SOCKET_PATH",
            format!("tcp:{}", daemon.address()),
        )
        .arg("--module")
        .arg(super::support::Library::Ours.path())
        .arg("--list-slots");
    let outcome = super::support::processes::run(plain, Duration::from_secs(10));
    assert!(
        outcome.stderr.contains("rv = CKR_DEVICE_ERROR"),
        "{}",
        outcome.stderr
    );
    assert!(
        daemon.log().contains("the client does not use TLS"),
        "{}",
        daemon.log()
    );
    calms_down(daemon, descriptors);

    let token = Token::new();
    for maker in [Ours, Original] {
        let plain = Stack::through(Ours, maker, Endpoint::Tcp, token.copy());
        let daemon = plain.daemon.as_ref().expect("it has one");
        // The daemon waits for a call that a TLS hello announces, up to its time limit.
        client_refuses(daemon, &[("PKCS11PROXY_RPC_TIMEOUT", "2")], "TLS handshake");
    }
}

#[test]
fn a_pre_shared_key_instead_of_certificates() {
    let token = Token::new();
    for algorithms in ["NORMAL:-VERS-TLS1.3", "NORMAL:-VERS-TLS1.2"] {
        let mut setup = Tls::default().setup(Ours, Endpoint::Tcp, &token);
        let keys = certificate("psk.keys");
        setup.processor =
            format!("tls {{ algorithms = \"{algorithms}\"; psk_file = \"{keys}\" }};");
        let daemon = setup.start();
        let psk = certificate("psk.client");
        let nothing_else = [
            ("PKCS11PROXY_PSK_FILE", psk.as_str()),
            ("PKCS11PROXY_CA_FILE", ""),
            ("PKCS11PROXY_CERT_FILE", ""),
            ("PKCS11PROXY_PRIVKEY_FILE", ""),
        ];
        serves(&daemon, "client", &nothing_else);
        assert!(
            daemon.log().contains("user=trial is authenticated"),
            "{}",
            daemon.log()
        );
        let directory = Directory::new();
        let wrong = directory.join("psk");
        for text in [
            "trial:000102030405060708090a0b0c0d0e0f",
            "stranger:000102030405060708090a0b0c0d0e0f",
        ] {
            fs::write(&wrong, text).expect("a new directory");
            let wrong = wrong.display().to_string();
            client_refuses(
                &daemon,
                &[("PKCS11PROXY_PSK_FILE", &wrong)],
                "TLS handshake",
            );
        }
        // A client with certificates at such a daemon, and one with a key at a daemon with certificates.
        client_refuses(&daemon, &[], "TLS handshake");
        // Nobody shows a certificate for the name that is asked for.
        client_refuses(
            &daemon,
            &[
                ("PKCS11PROXY_PSK_FILE", &psk),
                ("PKCS11PROXY_VERIFY_NAME", "localhost"),
            ],
            "the server's certificate: the server sent no certificate",
        );
        for cause in [
            "failed: identity trial: TLS: ",
            "failed: identity stranger is not in psk_file",
            "failed: no pre-shared key was offered: TLS: ",
        ] {
            let is_logged = wait_until(SOON, || daemon.log().contains(cause));
            assert!(is_logged, "{cause}: {}", daemon.log());
        }
    }
    let stack = stack(Ours, Ours, &Tls::default());
    let daemon = stack.daemon.as_ref().expect("it has one");
    let psk = certificate("psk.client");
    client_refuses(daemon, &[("PKCS11PROXY_PSK_FILE", &psk)], "");
}
