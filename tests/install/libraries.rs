//! Libraries that are built with values compiled in: they connect without any variable, file or option.

use std::fs;

use super::support::certificates::certificate;
use super::support::compile::program;
use super::support::{Endpoint, Maker, Setup, Token, built_in};
use super::*;

/// C_Initialize of this library, in an environment that says nothing but where the log goes.
fn starts(library: &Path, variables: &[(&str, &str)]) -> Outcome {
    let mut command = command(program("starts"));
    command
        .arg(library)
        .env("PKCS11PROXY_LOG", "info")
        .env("HOME", "/nonexistent")
        .envs(variables.iter().copied());
    run(command, LONG)
}

#[test]
fn a_library_for_a_module_and_a_unix_socket_connects_by_itself() {
    let token = Token::new();
    let daemon = Setup::new(Maker::Ours, Endpoint::Unix, &token).start();
    let directory = Directory::new();
    let library = directory.join("vendor.so");
    let socket = format!("unix,{}", daemon.address());
    let variables = [
        ("CLIENT_SOCKET", socket.as_str()),
        ("LIBNAMES", "other softhsm"),
    ];
    built_in::build("libp11clientsofthsm.so", &variables, &library);
    let outcome = starts(&library, &[]);
    assert_eq!(outcome.stdout, "0\n", "{}", outcome.stderr);
    // Its transport is fixed, as that of Caml Crush's libraries.
    let outcome = starts(
        &library,
        &[("PKCS11PROXY_SOCKET_PATH", "tcp:127.0.0.1:4444")],
    );
    assert_eq!(outcome.stdout, "0x30\n");
    assert!(
        outcome.stderr.contains("plain Unix sockets only"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_library_with_its_tls_files_inside_connects_by_itself_to_its_server_only() {
    let token = Token::new();
    let mut setup = Setup::new(Maker::Ours, Endpoint::Tcp, &token);
    setup.use_ssl = true;
    setup.processor = format!(
        "tls {{ peer_auth = \"required\"; x509 {{ key {{ crt_file = \"{}\"; key_file = \"{}\" }};
           trust {{ crt_file = \"{}\" }} }} }};",
        certificate("server.pem"),
        certificate("server.key"),
        certificate("ca.pem")
    );
    let daemon = setup.start();
    let directory = Directory::new();
    let library = directory.join("vendor.so");
    for (pinned, expected) in [("server.pem", "0\n"), ("server-ec.pem", "0x30\n")] {
        let copy = |name: &str| {
            let copy = directory.join(name);
            fs::copy(certificate(name), &copy).expect("a copy");
            copy.display().to_string()
        };
        let copies = ["ca.pem", "client.pem", "client.key", pinned].map(copy);
        let [ca, cert, key, certs] = &copies;
        let files = format!("embed;ca={ca},cert={cert},privkey={key}");
        let certs = format!("embed;certs={certs}");
        let socket = format!("tcp,{}", daemon.address());
        let variables = [
            ("CLIENT_SOCKET", socket.as_str()),
            ("SSL_CLIENTFILES", &files),
            ("SSL_SERVERCERTS", &certs),
            ("LIBNAMES", "softhsm"),
        ];
        built_in::build("libp11clientsofthsm.so", &variables, &library);
        // They are needed no longer.
        for copy in &copies {
            fs::remove_file(copy).expect("a file of ours");
        }
        let outcome = starts(&library, &[]);
        assert_eq!(outcome.stdout, expected, "{pinned}: {}", outcome.stderr);
        if pinned != "server.pem" {
            assert!(
                outcome.stderr.contains("is not in the compiled-in value"),
                "{}",
                outcome.stderr
            );
        }
    }
}
