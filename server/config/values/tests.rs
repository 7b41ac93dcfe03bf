//! Tests of single values: addresses, paths, modes, users and groups.

use super::super::tests::{check, inside, refused, with};
use super::super::{Address, Workload};
use super::*;

#[test]
fn reads_internet_addresses() {
    let bind = |text: &str| {
        with("127.0.0.1:4444", text).map(|c| c.services[0].protocols[0].addresses.clone())
    };
    let internet = |text: &str| vec![Address::Internet(vec![text.parse().unwrap()])];
    assert_eq!(bind("0.0.0.0:65535").unwrap(), internet("0.0.0.0:65535"));
    assert_eq!(bind("::1:4444").unwrap(), internet("[::1]:4444"));
    assert_eq!(bind("[::1]:4444").unwrap(), internet("[::1]:4444"));
    assert!(matches!(&bind("localhost:1").unwrap()[0], Address::Internet(all) if !all.is_empty()));
    for (text, expected) in [
        ("", "expected host:port"),
        (":4444", "expected host:port"),
        ("localhost", "expected host:port"),
        ("localhost:", "expected host:port"),
        ("localhost:x", "expected host:port"),
        ("localhost:-1", "expected host:port"),
        ("1::2::3:4444", "expected host:port"),
        ("[::1:4444", "expected host:port"),
        ("[]:4444", "expected host:port"),
        ("[127.0.0.1]:4444", "expected host:port"),
        ("[localhost]:4444", "expected host:port"),
        ("127.0.0.1:65536", "at most 65535"),
        ("127.0.0.1:99999999999999999999", "at most 65535"),
        ("name.invalid:1", "cannot be resolved"),
    ] {
        let message = bind(text).unwrap_err();
        assert!(
            message.contains("bind: ") && message.contains(expected),
            "{text}: {message}"
        );
    }
}

#[test]
fn reads_local_addresses() {
    let address = |text: &str| {
        let replaced = "type = \"internet\"; bind = \"127.0.0.1:4444\"";
        with(replaced, text).map(|c| c.services[0].protocols[0].addresses[0].clone())
    };
    for kind in ["local", "unixdomain"] {
        let local = address(&format!("type = \"{kind}\"; path = \"/run/s\"")).unwrap();
        assert_eq!(local, Address::Local("/run/s".into()));
    }
    let file = address("type = \"socket_file\"; path = \"/run/f\"").unwrap();
    assert_eq!(file, Address::SocketFile("/run/f".into()));
    for (text, expected) in [
        (
            "type = \"local\"; path = \"s\"",
            "path: expected an absolute path",
        ),
        ("type = \"local\"", "`path` is missing"),
        ("type = \"internet\"", "`bind` is missing"),
        (
            "type = \"local\"; bind = \"a:1\"",
            "bind: is not a parameter of type local",
        ),
        ("type = \"tcp\"", "type: expected internet"),
    ] {
        let message = address(text).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn resolves_local_paths_against_the_socket_directory() {
    let text = r#"netplex { controller { socket_directory = "/run/d" }; service { name = "s";
        protocol { name = "p"; address { type = "local"; path = "s.sock" } };
        processor { type = "rpc_pkcs11"; filter_config = "/f" };
        workload_manager { type = "constant"; jobs = 3 } } }"#;
    let configuration = check(text).unwrap();
    let service = &configuration.services[0];
    assert_eq!(
        service.protocols[0].addresses,
        [Address::Local("/run/d/s.sock".into())]
    );
    assert_eq!(
        service.workload,
        Workload {
            spare: 3,
            max_workers: 3
        }
    );
    assert_eq!(
        service.processor.rules.filter_file().unwrap(),
        Path::new("/f")
    );
}

#[test]
fn reads_modes_as_ocaml_does() {
    for (text, mode) in [
        ("\"0o777\"", 0o777),
        ("\"0x1ff\"", 0o777),
        ("\"0b1_10\"", 0o6),
        ("\"0600\"", 600),
        ("384", 0o600),
    ] {
        let configuration = inside("protocol", &format!("local_chmod = {text};")).unwrap();
        assert_eq!(
            configuration.services[0].protocols[0].mode,
            Some(mode),
            "{text}"
        );
    }
    for text in [
        "\"rw\"",
        "\"\"",
        "\"0o\"",
        "\"0o+7\"",
        "\"0o10000\"",
        "\"0u511\"",
        "-1",
        "\"é\"",
    ] {
        refused(
            "protocol",
            &format!("local_chmod = {text};"),
            "expected a mode",
        );
    }
    refused("protocol", "lstn_backlog = -1;", "expected 0 or more");
    refused(
        "protocol",
        "local_chmod = true;",
        "expected an integer or a string, found a boolean",
    );
}

#[test]
fn reads_users_and_groups() {
    let owner = inside("protocol", "local_chown = \"root:12\";")
        .unwrap()
        .services[0]
        .protocols[0]
        .owner;
    assert_eq!(owner, Some((Uid::from_raw(0), Gid::from_raw(12))));
    for text in ["root", "no such user:0", "0:no such group"] {
        refused(
            "protocol",
            &format!("local_chown = \"{text}\";"),
            "local_chown: expected",
        );
    }
    refused(
        "service",
        "group = \"root\";",
        "group: expected `user` as well",
    );
    if geteuid().is_root() {
        let identity = inside("service", "user = \"root\";").unwrap().services[0]
            .identity
            .clone();
        assert_eq!(identity.unwrap().gid, Gid::from_raw(0));
        refused(
            "service",
            "user = \"no such user\";",
            "user: expected the name of a user",
        );
    } else {
        refused(
            "service",
            "user = \"root\";",
            "user: only root can change the user",
        );
    }
}
