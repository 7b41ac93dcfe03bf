//! Tests that faults in keys and certificates end the start, with status 2 and the place of the fault.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::support::certificates::certificate;
use super::support::processes::run;
use super::support::{Directory, Endpoint, Maker, Token};
use super::tls::{Tls, serves};

use Maker::Ours;

/// Starts a daemon with this in `processor`; gives what it says on its way out.
fn refused(processor: &str) -> String {
    refused_with(processor, "")
}

/// The same with this openssl.cnf.
fn refused_with(processor: &str, openssl_cnf: &str) -> String {
    let directory = Directory::new();
    fs::write(
        directory.join("filter.conf"),
        "modules = [(\"softhsm\", \"/usr/lib/softhsm/libsofthsm2.so\")]",
    )
    .expect("a new directory");
    let socket = directory.join("socket").display().to_string();
    let text = format!(
        "netplex {{ service {{ name = \"s\";
           protocol {{ name = \"p\"; address {{ type = \"local\"; path = \"{socket}\" }} }};
           processor {{ type = \"rpc_pkcs11\"; filter_config = \"filter.conf\"; use_ssl = true;
{processor} }};
           workload_manager {{ type = \"constant\"; threads = 1 }} }} }}"
    );
    let file = directory.join("p.conf");
    fs::write(&file, text).expect("a new directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyd"));
    command.arg("-fg").arg("-conf").arg(&file);
    if !openssl_cnf.is_empty() {
        let file = directory.join("openssl.cnf");
        fs::write(&file, openssl_cnf).expect("a new directory");
        command.env("OPENSSL_CONF", file);
    }
    let outcome = run(command, Duration::from_secs(10));
    assert_eq!(
        outcome.status.code(),
        Some(2),
        "{processor}: {}",
        outcome.stderr
    );
    outcome.stderr
}

#[test]
fn bad_files_are_named_with_their_place() {
    let x509 = |key: &str, more: &str| {
        format!("tls {{ peer_auth = \"required\"; x509 {{\nkey {{ {key} }};\n{more} }} }};")
    };
    let key = |crt: &str, key: &str, more: &str| {
        let (crt, key) = (certificate(crt), certificate(key));
        format!("crt_file = \"{crt}\";\nkey_file = \"{key}\"{more}")
    };
    let good = key("server.pem", "server.key", "");
    let trust = |file: &str| format!("trust {{ crt_file = \"{file}\" }}");
    let ca = certificate("ca.pem");
    let delta = certificate("crl-delta.pem");
    let encrypted = "server-encrypted.key";
    for (processor, line, expected) in [
        (
            x509(&key("none.pem", "server.key", ""), ""),
            5,
            "x509.key[0].crt_file: ",
        ),
        (
            x509(&key("server.key", "server.key", ""), ""),
            5,
            "server.key: contains no certificate",
        ),
        (
            x509(&key("server.pem", "none.key", ""), ""),
            6,
            "none.key: cannot be read: No such file",
        ),
        (
            x509(&key("server.pem", "ca.pem", ""), ""),
            6,
            "ca.pem: is not a private key in PEM",
        ),
        (
            x509(&key("server.pem", "client.key", ""), ""),
            6,
            "does not belong to the certificate",
        ),
        (
            x509(&key("server.pem", encrypted, ""), ""),
            6,
            "is encrypted: expected `password`",
        ),
        (
            x509(&key("server.pem", encrypted, "; password = \"x\""), ""),
            6,
            "cannot be decrypted",
        ),
        (
            x509(&good, &trust("/dev/null")),
            7,
            "trust[0].crt_file: /dev/null: cannot be read",
        ),
        (
            x509(&good, &format!("revoke {{ crl_file = \"{ca}\" }}")),
            7,
            "contains no revocation list",
        ),
        (
            x509(&good, &format!("revoke {{ crl_file = \"{delta}\" }}")),
            7,
            "crl-delta.pem: contains a delta list",
        ),
        (
            "tls { algorithms = \"HIGH\"; x509 { } };".into(),
            4,
            "algorithms: expected one of NORMAL",
        ),
        (format!("tls {{ psk_file = \"{ca}\" }};"), 4, "psk_file: "),
        (
            format!(
                "tls {{ dh_params {{ pkcs3_file = \"{ca}\" }}; {}",
                &x509(&good, "")[6..]
            ),
            4,
            "contains no DH",
        ),
    ] {
        let said = refused(&processor);
        assert!(
            said.contains(&format!("p.conf:{line}: ")),
            "{processor}: {said}"
        );
        assert!(said.contains(expected), "{processor}: {said}");
    }
    // A section that is not in use has to be valid, too.
    let unused = x509(&key("server.pem", "client.key", ""), "") + "(*";
    assert!(refused(&format!("{} *)", unused)).contains("does not belong to"));
}

/// The `tls` section of the original's sample file, and the older keys beside it.
#[test]
fn every_documented_way_to_name_keys_serves() {
    let token = Token::new();
    let ca = certificate("ca.pem");
    let file = certificate;
    let encrypted = format!(
        "crt_file = \"{}\"; key_file = \"{}\"",
        file("server.pem"),
        file("server-encrypted.key")
    );
    let section = |key: String| {
        format!(
            "tls {{ peer_auth = \"optional\"; dh_params {{ pkcs3_file = \"{}\" }};
               x509 {{ key {{ {key} }}; trust {{ crt_file = \"{ca}\" }} }} }};",
            file("dh.pem")
        )
    };
    let legacy = format!(
        "cafile = \"{ca}\"; certfile = \"{}\"; certkey = \"{}\"; cipher_suite = \"AES256\";
         dh_params = \"{}\"; ec_curve_name = \"prime256v1\"; verify_depth = 2;",
        file("server.pem"),
        file("server.key"),
        file("dh.pem")
    );
    let short_group = legacy.replace("dh.pem", "dh-short.pem");
    for processor in [
        section(format!("{encrypted}; password = \"secret\"")),
        section(format!(
            "{encrypted}; password_file = \"{}\"",
            file("server-encrypted.password")
        )),
        legacy,
        // The original takes a group of any length.
        short_group.clone(),
    ] {
        let mut setup = Tls::default().setup(Ours, Endpoint::Tcp, &token);
        let is_short = processor == short_group;
        setup.processor = processor;
        let daemon = setup.start();
        serves(&daemon, "client", &[]);
        let is_told = daemon
            .log()
            .contains("dh-short.pem: the group is too short and is replaced");
        assert_eq!(is_told, is_short, "{}", daemon.log());
    }
}

/// The administrator of a host may lower OpenSSL's demands for other programs.
#[test]
fn a_weak_key_is_refused_whatever_openssl_cnf_says() {
    let lax = "openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\n\
        CipherString = DEFAULT:@SECLEVEL=0\n";
    let (crt, key) = (
        certificate("server-weak.pem"),
        certificate("server-weak.key"),
    );
    let processor = format!(
        "tls {{ peer_auth = \"required\"; x509 {{ key {{ crt_file = \"{crt}\"; key_file = \"{key}\" }} }} }};"
    );
    for openssl_cnf in ["", lax] {
        let told = refused_with(&processor, openssl_cnf);
        assert!(told.contains("key too small"), "{told}");
    }
}

#[test]
fn the_ciphers_of_a_pre_shared_key_are_among_those_that_were_chosen() {
    let keys = certificate("psk.keys");
    let told = refused(&format!(
        "tls {{ algorithms = \"NORMAL:-CIPHER-ALL:+AES-256-CBC\"; psk_file = \"{keys}\" }};"
    ));
    let expected = "algorithms selects no suite with a pre-shared key";
    assert!(told.contains(expected), "{told}");
}
