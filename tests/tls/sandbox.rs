//! Tests TLS with workers of the preset `strict`: what the handshake needs is loaded, or may be read.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::support::certificates::certificate;
use super::support::compile::module;
use super::support::{Directory, Endpoint, Maker, Token};
use super::tls::{Tls, list_slots};

use Maker::Ours;

/// With clients' certificates in a directory, and as another user if root runs the test.
#[test]
fn clients_are_served_and_refused_in_strict() {
    for (user, versions) in [
        ("", &["NORMAL"][..]),
        ("nobody", &["NORMAL", "NORMAL:-VERS-TLS1.3"]),
    ] {
        if !user.is_empty() && !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root can start workers as another user");
            continue;
        }
        for algorithms in versions {
            let allowed = Directory::new();
            let public = Directory::new();
            let copy = public.join("module.so");
            fs::copy(module("nullmodule"), &copy).expect("a copy");
            for path in [allowed.path(), public.path(), &copy] {
                fs::set_permissions(path, Permissions::from_mode(0o755)).expect("a mode");
            }
            let tls = Tls {
                algorithms: Some(algorithms),
                ..Tls::default()
            };
            let token = Token::new();
            let mut setup = tls.setup(Ours, Endpoint::Tcp, &token);
            setup.modules = vec![("softhsm".into(), copy)];
            setup.processor += &format!(
                "allowed_clients_cert_path = \"{}\"; sandbox {{ preset = \"strict\" }};",
                allowed.path().display()
            );
            if !user.is_empty() {
                setup.service = format!("user = \"{user}\";");
            }
            let daemon = setup.start();
            let refused = list_slots(Ours, &daemon, "client", &[]);
            assert!(!refused.stdout.contains("null slot"), "{}", refused.stdout);
            assert!(daemon.log().contains("is not in"), "{}", daemon.log());
            let file = allowed.join("client.pem");
            fs::copy(certificate("client.pem"), &file).expect("a copy");
            fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("a mode");
            let served = list_slots(Ours, &daemon, "client", &[]);
            assert!(served.stdout.contains("null slot"), "{}", served.stderr);
        }
    }
}
