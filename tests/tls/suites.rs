//! Tests what other implementations see of our daemon, and that priority strings mean what GnuTLS makes of them.
//!
//! `openssl s_client` and `gnutls-cli` report versions and cipher suites.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use server::tls::priority::Priority;

use super::support::certificates::certificate;
use super::support::processes::run;
use super::support::{Daemon, Maker};
use super::tls::{SHIPPED, Tls, stack};

use Maker::Ours;

/// What `openssl s_client` says.
pub fn s_client(daemon: &Daemon, options: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args([
        "s_client",
        "-connect",
        &daemon.address(),
        "-CAfile",
        &certificate("ca.pem"),
    ]);
    command.args([
        "-cert",
        &certificate("client.pem"),
        "-key",
        &certificate("client.key"),
    ]);
    command.args(options);
    let outcome = run(command, Duration::from_secs(20));
    outcome.stdout + &outcome.stderr
}

fn gnutls_cli(daemon: &Daemon, priority: &str) -> String {
    let address = daemon.address();
    let (host, port) = address.split_once(':').expect("an address has a port");
    let mut command = Command::new("gnutls-cli");
    command.args(["--port", port, "--x509cafile", &certificate("ca.pem")]);
    command.args(["--x509certfile", &certificate("client.pem")]);
    command.args([
        "--x509keyfile",
        &certificate("client.key"),
        "--priority",
        priority,
        host,
    ]);
    let outcome = run(command, Duration::from_secs(20));
    outcome.stdout + &outcome.stderr
}

#[test]
fn the_shipped_string_offers_tls_1_2_with_forward_secrecy_only() {
    let stack = stack(
        Ours,
        Ours,
        &Tls {
            algorithms: Some(SHIPPED),
            ..Tls::default()
        },
    );
    let daemon = stack.daemon.as_ref().expect("it has one");
    for suite in [
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-RSA-AES256-SHA",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-SHA",
        "DHE-RSA-AES256-GCM-SHA384",
        "DHE-RSA-AES256-CCM",
    ] {
        let said = s_client(daemon, &["-tls1_2", "-cipher", suite]);
        assert!(
            said.contains(&format!("Cipher is {suite}")),
            "{suite}: {said}"
        );
    }
    for options in [
        &["-tls1_3"][..],
        &["-tls1_1"],
        &["-tls1_2", "-cipher", "AES256-GCM-SHA384:AES128-SHA"],
        &["-tls1_2", "-cipher", "ECDHE-RSA-AES256-SHA384"],
        &["-tls1_2", "-cipher", "DHE-RSA-CAMELLIA256-SHA"],
    ] {
        let said = s_client(daemon, options);
        assert!(said.contains("Cipher is (NONE)"), "{options:?}: {said}");
    }
    let said = gnutls_cli(daemon, "NORMAL");
    assert!(
        said.contains("(TLS1.2-X.509)") && said.contains("AES-256-GCM"),
        "{said}"
    );
}

#[test]
fn without_algorithms_tls_1_2_and_1_3_are_offered() {
    let stack = stack(Ours, Ours, &Tls::default());
    let daemon = stack.daemon.as_ref().expect("it has one");
    let said = s_client(daemon, &["-tls1_3"]);
    assert!(said.contains("Cipher is TLS_AES_256_GCM_SHA384"), "{said}");
    assert!(
        !said.contains("Post-Handshake New Session Ticket"),
        "{said}"
    );
    let said = s_client(daemon, &["-tls1_2"]);
    assert!(
        said.contains("Cipher is ECDHE-RSA-AES256-GCM-SHA384"),
        "{said}"
    );
    assert!(
        said.contains("Secure Renegotiation IS supported") && said.contains("Compression: NONE")
    );
    assert!(gnutls_cli(daemon, "NORMAL").contains("(TLS1.3-X.509)"));
    assert!(gnutls_cli(daemon, "NORMAL:-VERS-TLS1.3").contains("(TLS1.2-X.509)"));
    // The protocol is told apart from others, and a client that asks for none is served as well.
    let said = s_client(daemon, &["-alpn", "h2,pkcs11-rpc/3"]);
    assert!(said.contains("ALPN protocol: pkcs11-rpc/3"), "{said}");
    assert!(s_client(daemon, &["-alpn", "h2"]).contains("No ALPN negotiated"));
}

/// What GnuTLS lists for a string: its suites that OpenSSL has, in its order.
fn listed(text: &str) -> (Vec<String>, Vec<String>) {
    let mut command = Command::new("gnutls-cli");
    command.args(["--list", "--priority", text]);
    let said = run(command, Duration::from_secs(20)).stdout;
    let (mut suites12, mut suites13) = (Vec::new(), Vec::new());
    for line in said.lines().filter(|line| line.starts_with("TLS_")) {
        let name = line.split_whitespace().next().expect("not empty");
        // TLS_RSA_...: without forward secrecy, never offered.
        if name.starts_with("TLS_RSA_") {
        } else if line.ends_with("TLS1.3") {
            suites13.push(name.to_owned());
        } else {
            suites12.push(name.to_owned());
        }
    }
    (suites12, suites13)
}

/// What GnuTLS lists in one line of a string's listing, without what is never offered.
fn listed_names(text: &str, line: &str) -> Vec<String> {
    let mut command = Command::new("gnutls-cli");
    command.args(["--list", "--priority", text]);
    let said = run(command, Duration::from_secs(20)).stdout;
    let names = said.lines().find_map(|said| said.strip_prefix(line));
    let names = names.unwrap_or_default().split(", ");
    let names = names.map(|name| name.trim().to_ascii_uppercase());
    names
        .filter(|name| !name.is_empty() && !name.ends_with("SHA1"))
        .collect()
}

/// GnuTLS's name of a group in OpenSSL's.
fn group(name: &str) -> String {
    match name.trim_start_matches("GROUP-") {
        "SECP256R1" => "P-256".into(),
        "SECP384R1" => "P-384".into(),
        "SECP521R1" => "P-521".into(),
        other if other.starts_with('X') => other.into(),
        other => other.to_ascii_lowercase(),
    }
}

/// GnuTLS's name of a signature algorithm in OpenSSL's.
fn signature(name: &str) -> String {
    let name = name.trim_start_matches("SIGN-");
    match name.rsplit_once('-') {
        Some(("EDDSA", curve)) => curve.to_ascii_lowercase(),
        Some(("RSA-PSS", hash)) => format!("rsa_pss_pss_{}", hash.to_ascii_lowercase()),
        Some(("RSA-PSS-RSAE", hash)) => format!("rsa_pss_rsae_{}", hash.to_ascii_lowercase()),
        Some(("RSA", hash)) => format!("RSA+{hash}"),
        Some((_, hash)) => format!("ECDSA+{hash}"),
        None => panic!("{name}"),
    }
}

/// OpenSSL's name of a suite in GnuTLS's.
fn in_gnutls(name: &str) -> String {
    let name = name
        .replace("AES256-SHA", "AES256-CBC-SHA")
        .replace("AES128-SHA", "AES128-CBC-SHA");
    let name = if name.ends_with("-CBC-SHA") {
        name + "1"
    } else {
        name
    };
    let name = name
        .replace("CCM8", "CCM-8")
        .replace("AES256", "AES-256")
        .replace("AES128", "AES-128");
    format!("TLS_{}", name.replace('-', "_"))
}

#[test]
fn priority_strings_select_what_gnutls_selects() {
    for text in [
        SHIPPED,
        "NORMAL",
        "NORMAL:-VERS-TLS1.3",
        "PERFORMANCE",
        "PFS",
        "LEGACY",
        "SECURE128",
        "SECURE192",
        "SECURE256",
        "SUITEB128",
        "SUITEB192",
        "NONE:+VERS-TLS1.2:+NORMAL",
        "NORMAL:+SECURE256",
        "NORMAL:-KX-ALL:+DHE-RSA:+ECDHE-RSA",
        "NORMAL:-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM",
        "NORMAL:-AES-256-CBC:!CHACHA20-POLY1305:%COMPAT",
        "NORMAL:-MAC-ALL:+SHA256:+SHA384",
        "NORMAL:+AES-128-CCM-8:+AES-256-CCM-8",
        "NORMAL:-VERS-ALL:+VERS-TLS1.3",
        "NORMAL:-MAC-ALL:+SHA1",
        "NORMAL:-KX-ALL",
        "SECURE",
        "+NORMAL",
        "NORMAL:SECURE256",
        "NORMAL:-GROUP-EC-ALL:-ECDHE-RSA:-ECDHE-ECDSA",
        "NORMAL:-GROUP-ALL:+GROUP-X25519:+GROUP-SECP384R1",
        "NORMAL:-SIGN-ALL:+SIGN-ECDSA-SHA256:+SIGN-RSA-SHA512",
        "NORMAL:-SIGN-EDDSA-ED448:-SIGN-RSA-PSS-SHA256",
    ] {
        let (suites12, suites13) = listed(text);
        let ours = Priority::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let ours12 = ours
            .suites12
            .split(':')
            .filter(|name| ours.tls12 && !name.is_empty());
        let mut ours12: Vec<String> = ours12.map(in_gnutls).collect();
        // With two MACs GnuTLS goes by theirs first; nothing hangs on the order of CBC suites.
        let mut suites12 = suites12;
        if text.contains("SHA384") {
            ours12.sort();
            suites12.sort();
        }
        assert_eq!(ours12, suites12, "{text}");
        let ours13 = ours
            .suites13
            .split(':')
            .filter(|_| ours.tls13)
            .map(str::to_owned);
        assert_eq!(
            ours13.filter(|name| !name.is_empty()).collect::<Vec<_>>(),
            suites13,
            "{text}"
        );
        let groups: Vec<_> = listed_names(text, "Groups: ");
        let groups: Vec<_> = groups.iter().map(|name| group(name)).collect();
        assert_eq!(ours.groups.split(':').collect::<Vec<_>>(), groups, "{text}");
        let signatures = listed_names(text, "PK-signatures: ");
        let signatures: BTreeSet<_> = signatures.iter().map(|name| signature(name)).collect();
        match ours.signatures {
            Some(ours) => assert_eq!(
                ours.split(':').map(str::to_owned).collect::<BTreeSet<_>>(),
                signatures,
                "{text}"
            ),
            None => assert_eq!(signatures.len(), 14, "{text}: {signatures:?}"),
        }
    }
}
