//! Settings out of environments that are closures: endpoints, TLS, timeouts, aliases.

use super::*;

fn read(
    variables: &[(&str, &str)],
    file: io::Result<&[u8]>,
    libname: Option<&str>,
) -> Result<Settings, SettingsError> {
    let found = |name: &str| variables.iter().find(|(key, _)| *key == name);
    Settings::read(&Environment {
        variable: &|name| found(name).map(|(_, value)| value.into()),
        file: &|path| {
            let home = found("HOME").map_or("", |(_, home)| home);
            assert_eq!(path.to_str(), Some(&*format!("{home}/.camlcrushlibname")));
            match &file {
                Ok(content) => Ok(content.to_vec()),
                Err(cause) => Err(cause.kind().into()),
            }
        },
        socket: None,
        libname,
        library: found("the library's file").map(|(_, value)| value.into()),
        tls: TlsFiles::default(),
    })
}

fn with(name: &str, value: &str) -> Result<Settings, SettingsError> {
    let alias = ("PKCS11PROXY_LIBNAME", "softhsm");
    read(&[alias, (name, value)], Ok(b""), None)
}

fn tcp(host: &str, port: u16) -> Endpoint {
    let host = host.to_owned();
    Endpoint::Tcp { host, port }
}

#[test]
fn defaults_are_the_originals() {
    let settings = with("UNRELATED", "1").unwrap();
    assert_eq!(settings.endpoint, tcp("127.0.0.1", 4444));
    assert_eq!(settings.timeout, Duration::from_secs(25));
    assert_eq!(settings.slot_event_period, Duration::from_millis(50));
    assert_eq!(settings.alias, b"softhsm");
}

#[test]
fn the_endpoint_says_its_kind() {
    let endpoint = |text: &str| with("PKCS11PROXY_SOCKET_PATH", text).map(|s| s.endpoint);
    assert_eq!(
        endpoint("hsm.example.org:4501").unwrap(),
        tcp("hsm.example.org", 4501)
    );
    assert_eq!(endpoint("[::1]:65535").unwrap(), tcp("::1", 65535));
    let path = "/run/pkcs11proxyd.socket";
    assert_eq!(endpoint(path).unwrap(), Endpoint::Unix(path.into()));

    let wrong = [
        "",
        "host",
        ":4444",
        "a:b:4444",
        "[::1]4444",
        "::1:4444",
        "[]:4444",
    ];
    for text in wrong {
        assert!(
            matches!(endpoint(text), Err(SettingsError::Endpoint(_))),
            "{text}"
        );
    }
    for text in ["h:", "h:0", "h:70037", "h:4501x", "h:+1", "h: 1", "[::1]:"] {
        assert!(
            matches!(endpoint(text), Err(SettingsError::Port(_))),
            "{text}"
        );
    }
}

/// A site that puts this library in the place of Debian's for Unix sockets changes nothing.
#[test]
fn debians_library_for_unix_sockets_takes_paths_only() {
    let library = ("the library's file", "/l/libp11clientunix.so");
    let endpoint = |more: &[_]| {
        let alias = ("PKCS11PROXY_LIBNAME", "softhsm");
        let settings = read(&[&[alias, library], more].concat(), Ok(b""), None);
        settings.map(|settings| settings.endpoint)
    };
    let default = Endpoint::Unix("/var/run/pkcs11proxyd.socket".into());
    assert_eq!(endpoint(&[]).unwrap(), default);
    for path in ["/s", "run/socket", "h:1"] {
        let set = endpoint(&[("PKCS11PROXY_SOCKET_PATH", path)]);
        assert_eq!(set.unwrap(), Endpoint::Unix(path.into()));
    }
    let empty = endpoint(&[("PKCS11PROXY_SOCKET_PATH", "")]);
    assert!(matches!(empty, Err(SettingsError::Endpoint(_))));
}

#[test]
fn a_socket_path_has_107_bytes_at_the_most() {
    let path = |length: usize| with("PKCS11PROXY_SOCKET_PATH", &format!("/{:0>1$}", 0, length));
    assert!(path(106).is_ok());
    assert!(matches!(path(107), Err(SettingsError::SocketPath(_))));
}

const TLS: [(&str, &str); 4] = [
    ("PKCS11PROXY_LIBNAME", "softhsm"),
    ("PKCS11PROXY_CA_FILE", "/ca"),
    ("PKCS11PROXY_CERT_FILE", "/cert"),
    ("PKCS11PROXY_PRIVKEY_FILE", "/key"),
];

fn with_tls(more: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    read(&[more, &TLS].concat(), Ok(b""), None)
}

#[test]
fn tls_is_chosen_by_the_endpoint_or_the_librarys_name() {
    let socket = |text| ("PKCS11PROXY_SOCKET_PATH", text);
    let library = |text| ("the library's file", text);
    for (more, endpoint, is_tls) in [
        (vec![socket("h:1")], tcp("h", 1), false),
        (vec![socket("tls:h:1")], tcp("h", 1), true),
        (vec![socket("tls:[::1]:1")], tcp("::1", 1), true),
        (vec![socket("tls:/s")], Endpoint::Unix("/s".into()), true),
        (
            vec![library("/l/libp11clienttcpssl.so")],
            tcp("127.0.0.1", 4444),
            true,
        ),
        (
            vec![library("/ssl/libp11client.so")],
            tcp("127.0.0.1", 4444),
            false,
        ),
        (
            vec![library("libp11clientssl.so"), socket("/s")],
            Endpoint::Unix("/s".into()),
            true,
        ),
    ] {
        let settings = with_tls(&more).unwrap();
        assert_eq!(
            (&settings.endpoint, settings.tls.is_some()),
            (&endpoint, is_tls)
        );
    }
}

#[test]
fn tls_needs_three_files_or_a_shared_key() {
    let endpoint = ("PKCS11PROXY_SOCKET_PATH", "tls:h:1");
    let file = |name: &str| Source::File(name.into());
    let tls = |more: &[_]| {
        with_tls(&[&[endpoint], more].concat())
            .unwrap()
            .tls
            .unwrap()
    };
    let expected = Credentials::Certificates {
        authority: file("/ca"),
        certificate: file("/cert"),
        key: file("/key"),
    };
    assert_eq!(
        tls(&[]),
        TlsSettings {
            credentials: expected,
            pinned: None,
            name: None
        }
    );
    let psk = ("PKCS11PROXY_PSK_FILE", "/psk");
    assert_eq!(tls(&[psk]).credentials, Credentials::Psk(file("/psk")));
    let pinned = ("PKCS11PROXY_SERVER_CERTS_FILE", "/pinned");
    assert_eq!(tls(&[pinned]).pinned, Some(file("/pinned")));
    let name = |name| tls(&[("PKCS11PROXY_VERIFY_NAME", name)]).name;
    assert_eq!(name("hsm.example").as_deref(), Some("hsm.example"));
    assert_eq!(name("endpoint").as_deref(), Some("h"));
    assert_eq!(name(""), None);
    for (missing, value) in &TLS[1..] {
        let rest: Vec<_> = TLS
            .into_iter()
            .filter(|(name, _)| name != missing)
            .collect();
        for rest in [rest.clone(), [&[(*missing, "")], rest.as_slice()].concat()] {
            let refusal = read(&[&[endpoint], rest.as_slice()].concat(), Ok(b""), None);
            assert!(
                matches!(refusal, Err(SettingsError::TlsFile(name)) if name == *missing),
                "{value}"
            );
        }
    }
}

/// Leading digits count, what follows is ignored, and 25 s hold for everything else, as observed of the
/// original's library.
#[test]
fn timeouts_are_read_as_the_original_reads_them() {
    let seconds = |text: &str| with("PKCS11PROXY_RPC_TIMEOUT", text).unwrap().timeout;
    let read = [
        ("2.5", 2),
        ("1e3", 1),
        (" 7x", 7),
        ("+4", 4),
        ("\t9", 9),
        ("2147484", 2_147_484),
    ];
    for (text, expected) in read {
        assert_eq!(seconds(text), Duration::from_secs(expected), "{text}");
    }
    let huge = "99999999999999999999999999";
    for text in ["0", "", "x", "-3", "- 3", "100000001", huge] {
        assert_eq!(seconds(text), DEFAULT_TIMEOUT, "{text}");
    }
    assert_eq!(seconds("100000000"), Duration::from_secs(100_000_000));
}

/// As with the original's library: a variable that is set wins even if empty, then the build, then the file.
#[test]
fn the_alias_has_its_precedence() {
    let home = ("HOME", "/home/u");
    let alias = |variables: &[(&str, &str)], libname| {
        let file = Ok(b"filed\n".as_slice());
        read(variables, file, libname).unwrap().alias
    };
    let set = ("PKCS11PROXY_LIBNAME", "set");
    assert_eq!(alias(&[home, set], Some("built")), b"set");
    assert_eq!(
        alias(&[home, ("PKCS11PROXY_LIBNAME", "")], Some("built")),
        b""
    );
    assert_eq!(alias(&[home], Some("built")), b"built");
    assert_eq!(alias(&[home], None), b"filed");
    assert!(matches!(
        read(&[], Ok(b"filed"), None),
        Err(SettingsError::Home)
    ));
}

#[test]
fn the_alias_file_gives_its_first_line() {
    let alias = |content: &[u8]| {
        read(&[("HOME", "/home/u")], Ok(content), None).map(|settings| settings.alias)
    };
    assert_eq!(alias(b"softhsm").unwrap(), b"softhsm");
    assert_eq!(alias(b" soft hsm \r\nother\n").unwrap(), b" soft hsm ");
    assert_eq!(alias(b"\nsofthsm\n").unwrap(), b"");
    assert_eq!(alias(&[b'a'; 32]).unwrap().len(), 32);
    assert!(matches!(
        alias(&[b'a'; 33]),
        Err(SettingsError::AliasTooLong(_))
    ));
    assert!(matches!(alias(b""), Err(SettingsError::AliasFileEmpty(_))));
    let rootless = read(&[("HOME", "")], Ok(b"softhsm"), None);
    assert_eq!(rootless.unwrap().alias, b"softhsm");
    let missing = read(
        &[("HOME", "/home/u")],
        Err(io::ErrorKind::NotFound.into()),
        None,
    );
    let told = missing.err().map(|error| error.to_string()).unwrap();
    assert!(
        told.starts_with("which module to load is unknown: PKCS11PROXY_LIBNAME is not set, and "),
        "{told}"
    );
}

#[test]
fn the_version_of_the_protocol_can_be_demanded() {
    let protocol = |text| with("PKCS11PROXY_PROTOCOL", text).map(|settings| settings.protocol);
    assert_eq!(with("UNRELATED", "1").unwrap().protocol, None);
    assert_eq!(protocol("3").unwrap(), Some(Version::Three));
    assert_eq!(protocol("4").unwrap(), Some(Version::Four));
    for text in ["", "5", "2", "03", "3 ", "four"] {
        let refused = protocol(text);
        assert!(matches!(refused, Err(SettingsError::Protocol(_))), "{text}");
    }
}

#[test]
fn newer_versions_of_pkcs11_can_be_kept_from_applications() {
    let interface = |text| with("PKCS11PROXY_INTERFACE", text).map(|settings| settings.interface);
    let version = |major, minor| Interface { major, minor };
    assert_eq!(with("UNRELATED", "1").unwrap().interface, version(3, 2));
    assert_eq!(interface("3.2").unwrap(), version(3, 2));
    assert_eq!(interface("3.0").unwrap(), version(3, 0));
    assert_eq!(interface("2.40").unwrap(), version(2, 40));
    for text in ["", "3", "3.1", "2.20", "3.2 "] {
        let refused = interface(text);
        assert!(
            matches!(refused, Err(SettingsError::Interface(_))),
            "{text}"
        );
    }
}

#[test]
fn the_description_of_mechanisms_is_a_text_of_bounded_length() {
    let path = "/etc/mechanisms.toml";
    let read = |variable: &str, content: io::Result<Vec<u8>>| {
        let found = |name: &str| match name {
            "PKCS11PROXY_LIBNAME" => Some("softhsm".into()),
            "PKCS11PROXY_MECHANISMS_FILE" => Some(variable.into()),
            _ => None,
        };
        let settings = Settings::read(&Environment {
            variable: &found,
            file: &|asked| {
                assert_eq!(asked.to_str(), Some(path));
                match &content {
                    Ok(content) => Ok(content.clone()),
                    Err(cause) => Err(cause.kind().into()),
                }
            },
            socket: None,
            libname: None,
            library: None,
            tls: TlsFiles::default(),
        });
        settings.map(|settings| settings.mechanisms)
    };
    assert_eq!(read("", Ok(Vec::new())).unwrap(), None);
    let file = read(path, Ok(b"# none".to_vec())).unwrap();
    let (path, text) = (PathBuf::from(path), "# none".to_owned());
    assert_eq!(file, Some(MechanismsFile { path, text }));
    let longest = vec![b'#'; LONGEST_FILE];
    assert!(read("/etc/mechanisms.toml", Ok(longest.clone())).is_ok());
    for content in [
        Ok([longest, vec![b'#']].concat()),
        Ok(vec![0xff]),
        Err(io::ErrorKind::NotFound.into()),
    ] {
        let refused = read("/etc/mechanisms.toml", content);
        assert!(matches!(refused, Err(SettingsError::MechanismsFile(..))));
    }
}
