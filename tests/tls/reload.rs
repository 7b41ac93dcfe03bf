//! Tests that SIGHUP takes new keys, authorities and revocation lists, and that connected clients notice nothing.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::support::certificates::certificate;
use super::support::lasting::{KEPT, Lasting, SIGNED, lasting};
use super::support::processes::{Running, wait_until};
use super::support::{Daemon, Directory, Endpoint, Maker, Token};
use super::tls::{Tls, c_program, command, is_served, library, list_slots, serves};

use Maker::Ours;

const SOON: Duration = Duration::from_secs(10);

fn reload(daemon: &Daemon, outcome: &str) {
    let count = || daemon.log().matches(outcome).count();
    let before = count();
    daemon.process().signal(Signal::SIGHUP);
    assert!(
        wait_until(SOON, || count() > before),
        "{outcome}: {}",
        daemon.log()
    );
}

#[test]
fn reload_takes_new_files_under_load() {
    const LOADED: &str = "TLS keys and certificates loaded";
    let files = Directory::new();
    let put = |name: &str, source: &str| {
        fs::copy(certificate(source), files.join(name)).expect("made before");
    };
    put("server.pem", "server.pem");
    put("server.key", "server.key");
    put("ca.pem", "ca.pem");
    let token = Token::new();
    let mut setup = Tls::default().setup(Ours, Endpoint::Tcp, &token);
    let at = |name: &str| files.join(name).display().to_string();
    setup.processor = format!(
        "tls {{ peer_auth = \"required\"; x509 {{
            key {{ crt_file = \"{}\"; key_file = \"{}\" }}; trust {{ crt_file = \"{}\" }} }} }};",
        at("server.pem"),
        at("server.key"),
        at("ca.pem")
    );
    let daemon = setup.start();
    let stop = files.join("stop");
    let text = stop.display().to_string();
    let applications: Vec<Running> = (0..3)
        .map(|_| {
            let running = Running::start(c_program("threads", Ours, &daemon, &["loop", &text]));
            assert!(
                wait_until(SOON, || running.stdout().contains("signing\n")),
                "{}",
                daemon.log()
            );
            running
        })
        .collect();

    // Another key: who pins the new certificate gets in.
    let pinned = certificate("server-ec.pem");
    let pin_new = [("PKCS11PROXY_SERVER_CERTS_FILE", pinned.as_str())];
    assert!(!is_served(&list_slots(Ours, &daemon, "client", &pin_new)));
    put("server.pem", "server-ec.pem");
    put("server.key", "server-ec.key");
    reload(&daemon, LOADED);
    serves(&daemon, "client", &pin_new);

    // A key that does not belong to the certificate: everything stays.
    put("server.key", "server.key");
    reload(&daemon, "server.key: does not belong to the certificate");
    assert!(
        daemon
            .log()
            .contains("the old filter rules and TLS keys stay in force")
    );
    serves(&daemon, "client", &pin_new);
    put("server.key", "server-ec.key");

    // Another authority for clients, many times while clients come.
    put("ca.pem", "other-ca.pem");
    reload(&daemon, LOADED);
    serves(&daemon, "other-client", &[]);
    assert!(!is_served(&list_slots(Ours, &daemon, "client", &[])));
    put("ca.pem", "ca.pem");
    reload(&daemon, LOADED);
    for _ in 0..5 {
        daemon.process().signal(Signal::SIGHUP);
        serves(&daemon, "client", &[]);
    }

    fs::write(&stop, "").expect("a directory of ours");
    for application in applications {
        let outcome = application.finish(SOON);
        assert!(
            outcome.status.success(),
            "{}{}",
            outcome.stdout,
            outcome.stderr
        );
        assert!(outcome.stdout.contains("last 0x0"), "{}", outcome.stdout);
    }
}

/// A daemon that comes back with a new certificate of the same authority.
#[test]
fn a_program_outlives_the_daemons_certificate() {
    let files = Directory::new();
    let put = |name: &str, source: &str| {
        fs::copy(certificate(source), files.join(name)).expect("made before");
    };
    let token = Token::new().with_rsa_key();
    let mut setup = Tls::default().setup(Ours, Endpoint::Tcp, &token);
    let at = |name: &str| files.join(name).display().to_string();
    setup.processor = format!(
        "tls {{ peer_auth = \"required\"; x509 {{
            key {{ crt_file = \"{}\"; key_file = \"{}\" }}; trust {{ crt_file = \"{}\" }} }} }};",
        at("server.pem"),
        at("server.key"),
        certificate("ca.pem")
    );
    put("server.pem", "server.pem");
    put("server.key", "server.key");
    let mut daemon = setup.start();
    let mut command = command(lasting(), &daemon, "client");
    command.envs(KEPT).env("PKCS11PROXY_LOG", "error");
    let mut lasting = Lasting::start(command, &library(Ours).path());
    for certificate in ["server-ec", "server"] {
        assert_eq!(lasting.does("sign"), SIGNED);
        daemon.kill();
        put("server.pem", &format!("{certificate}.pem"));
        put("server.key", &format!("{certificate}.key"));
        daemon.start_again();
        assert_eq!(lasting.does("sign"), SIGNED);
        // At a reload the connection stays; the next one finds the other certificate.
        reload(&daemon, "TLS keys and certificates loaded");
        assert_eq!(lasting.does("sign"), SIGNED);
    }
    lasting.quit();
}
