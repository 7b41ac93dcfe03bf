//! Tests settings with environments made of closures: endpoints, TLS, timeouts, aliases, the settings file.

use std::path::Path;

use super::*;

/// Simulates a file system without the default settings file.
fn no_file(path: &Path) -> io::Result<Vec<u8>> {
    assert_eq!(path.to_str(), Some("/etc/pkcs11proxyd/client.conf"));
    Err(io::ErrorKind::NotFound.into())
}

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
            if path.to_str() != Some(&*format!("{home}/.camlcrushlibname")) {
                return no_file(path);
            }
            match &file {
                Ok(content) => Ok(content.to_vec()),
                Err(cause) => Err(cause.kind().into()),
            }
        },
        program: None,
        library: found("the library's file").map(|(_, value)| value.into()),
        built_in: BuiltIn {
            libname,
            transport: found("the transport").map(|(_, value)| *value),
            ..BuiltIn::default()
        },
        threads: OwnThreads::Allowed,
    })
}

fn with(name: &str, value: &str) -> Result<Settings, SettingsError> {
    let alias = ("PKCS11PROXY_LIBNAME", "softhsm");
    read(&[alias, (name, value)], Ok(b""), None)
}

/// Returns the only daemon.
fn one(settings: Settings) -> Daemon {
    let [daemon]: [Daemon; 1] = settings.daemons.try_into().unwrap();
    daemon
}

fn tcp(host: &str, port: u16) -> Endpoint {
    let host = host.to_owned();
    Endpoint::Tcp { host, port }
}

#[test]
fn defaults_are_the_originals() {
    let settings = with("UNRELATED", "1").unwrap();
    assert_eq!(settings.timeout, Duration::from_secs(25));
    assert_eq!(settings.slot_event_period, Duration::from_millis(50));
    assert_eq!(settings.alias, b"softhsm");
    assert_eq!(one(settings).endpoint, tcp("127.0.0.1", 4444));
}

#[test]
fn the_endpoint_says_its_kind() {
    let endpoint = |text: &str| with("PKCS11PROXY_SOCKET_PATH", text).map(|s| one(s).endpoint);
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
            matches!(endpoint(text), Err(SettingsError::Endpoint(..))),
            "{text}"
        );
    }
    for text in ["h:", "h:0", "h:70037", "h:4501x", "h:+1", "h: 1", "[::1]:"] {
        assert!(
            matches!(endpoint(text), Err(SettingsError::Port(..))),
            "{text}"
        );
    }
}

/// A site that installs this library in place of Debian's for Unix sockets changes nothing for applications.
#[test]
fn debians_library_for_unix_sockets_takes_paths_only() {
    let library = ("the library's file", "/l/libp11clientunix.so");
    let endpoint = |more: &[_]| {
        let alias = ("PKCS11PROXY_LIBNAME", "softhsm");
        let settings = read(&[&[alias, library], more].concat(), Ok(b""), None);
        settings.map(|settings| one(settings).endpoint)
    };
    let default = Endpoint::Unix("/var/run/pkcs11proxyd.socket".into());
    assert_eq!(endpoint(&[]).unwrap(), default);
    for path in ["/s", "run/socket", "h:1"] {
        let set = endpoint(&[("PKCS11PROXY_SOCKET_PATH", path)]);
        assert_eq!(set.unwrap(), Endpoint::Unix(path.into()));
    }
    let empty = endpoint(&[("PKCS11PROXY_SOCKET_PATH", "")]);
    assert!(matches!(empty, Err(SettingsError::Endpoint(..))));
}

#[test]
fn a_socket_path_has_107_bytes_at_the_most() {
    let path = |length: usize| with("PKCS11PROXY_SOCKET_PATH", &format!("/{:0>1$}", 0, length));
    assert!(path(106).is_ok());
    assert!(matches!(path(107), Err(SettingsError::SocketPath(..))));
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
fn tls_is_chosen_by_the_endpoint_the_librarys_name_or_tls_files() {
    let socket = |text| ("PKCS11PROXY_SOCKET_PATH", text);
    let library = |text| ("the library's file", text);
    for (more, endpoint, is_tls, reason) in [
        (vec![socket("h:1")], tcp("h", 1), true, Reason::TlsFiles),
        (
            vec![socket("tcp:h:1")],
            tcp("h", 1),
            false,
            Reason::Endpoint,
        ),
        (vec![socket("tls:h:1")], tcp("h", 1), true, Reason::Endpoint),
        (
            vec![socket("tls:[::1]:1")],
            tcp("::1", 1),
            true,
            Reason::Endpoint,
        ),
        (
            vec![socket("/s")],
            Endpoint::Unix("/s".into()),
            false,
            Reason::Endpoint,
        ),
        (
            vec![socket("unix:/s")],
            Endpoint::Unix("/s".into()),
            false,
            Reason::Endpoint,
        ),
        (
            vec![socket("tls:/s")],
            Endpoint::Unix("/s".into()),
            true,
            Reason::Endpoint,
        ),
        (
            vec![library("/l/libp11clienttcpssl.so")],
            tcp("127.0.0.1", 4444),
            true,
            Reason::Built,
        ),
        (
            vec![
                library("/ssl/libp11client.so"),
                socket("tcp:127.0.0.1:4444"),
            ],
            tcp("127.0.0.1", 4444),
            false,
            Reason::Endpoint,
        ),
        (
            vec![library("libp11clientssl.so"), socket("/s")],
            Endpoint::Unix("/s".into()),
            true,
            Reason::Built,
        ),
    ] {
        let daemon = one(with_tls(&more).unwrap());
        assert_eq!(
            (&daemon.endpoint, daemon.tls.is_some(), daemon.reason),
            (&endpoint, is_tls, reason),
            "{more:?}"
        );
    }
    let plain = one(with("PKCS11PROXY_SOCKET_PATH", "h:1").unwrap());
    assert_eq!((plain.tls, plain.reason), (None, Reason::NoTlsFiles));
}

/// With only a part of what TLS needs, plain TCP is not used either.
#[test]
fn anything_that_only_tls_needs_asks_for_tls() {
    let endpoint = ("PKCS11PROXY_SOCKET_PATH", "h:1");
    for name in [
        "PKCS11PROXY_CA_FILE",
        "PKCS11PROXY_CERT_FILE",
        "PKCS11PROXY_PRIVKEY_FILE",
        "PKCS11PROXY_SERVER_CERTS_FILE",
        "PKCS11PROXY_VERIFY_NAME",
    ] {
        let variables = [TLS[0], endpoint, (name, "/x")];
        let refused = read(&variables, Ok(b""), None);
        assert!(matches!(refused, Err(SettingsError::TlsFile(_))), "{name}");
    }
}

/// This holds under any file name.
#[test]
fn a_library_built_for_one_transport_speaks_no_other() {
    let settings = |transport, endpoint, tls: &[_]| {
        let (alias, name) = (TLS[0], ("the library's file", "/vendor/libvendorssl.so"));
        let endpoint = ("PKCS11PROXY_SOCKET_PATH", endpoint);
        let variables = [&[alias, name, ("the transport", transport), endpoint], tls].concat();
        read(&variables, Ok(b""), None).map(one)
    };
    for (transport, endpoint, tls, is_tls) in [
        ("tcp", "h:1", &[][..], false),
        ("tcp", "tcp:h:1", &TLS[1..], false),
        ("tcpssl", "h:1", &TLS[1..], true),
        ("tcpssl", "tls:h:1", &TLS[1..], true),
        ("unix", "/s", &TLS[1..], false),
        ("unix", "run/s", &[], false),
    ] {
        let daemon = settings(transport, endpoint, tls).unwrap();
        assert_eq!(daemon.tls.is_some(), is_tls, "{transport} {endpoint}");
    }
    for (transport, endpoint) in [
        ("tcp", "/s"),
        ("tcp", "tls:h:1"),
        ("tcp", "unix:s"),
        ("tcpssl", "tcp:h:1"),
        ("tcpssl", "unix:/s"),
        ("unix", "tcp:h:1"),
        ("unix", "tls:/s"),
    ] {
        let refused = settings(transport, endpoint, &TLS[1..]);
        assert!(
            matches!(refused, Err(SettingsError::OtherTransport(..))),
            "{transport} {endpoint}"
        );
    }
    let refused = settings("tcp", "h:1", &TLS[1..2]);
    assert!(matches!(refused, Err(SettingsError::TlsFilesForTcp)));
    assert!(settings("tcpssl", "h:1", &[]).is_err());
}

#[test]
fn tls_needs_three_files_or_a_shared_key() {
    let endpoint = ("PKCS11PROXY_SOCKET_PATH", "tls:h:1");
    let file = |name: &str| Source::File(name.into());
    let tls = |more: &[_]| {
        one(with_tls(&[&[endpoint], more].concat()).unwrap())
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
    for name in ["", ".", ".example"] {
        let line = format!("endpoints = [\"tls:h:1\"]\nverify_name = \"{name}\"");
        let refusal = filed(
            &line,
            None,
            &[&TLS[..], &[("PKCS11PROXY_LIBNAME", "a")]].concat(),
        );
        assert!(
            matches!(refusal, Err(SettingsError::VerifyName(_))),
            "{name:?}"
        );
    }
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

/// Leading digits count and what follows is ignored, as observed with the original's library. Values that the original
/// ignores are refused.
#[test]
fn timeouts_are_read_as_the_original_reads_them_or_not_at_all() {
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
    assert_eq!(seconds(""), DEFAULT_TIMEOUT);
    for name in ["PKCS11PROXY_RPC_TIMEOUT", "PKCS11PROXY_SLOT_EVENT_PERIOD"] {
        for text in ["0", "x", "-3", "- 3", "100000001", huge] {
            let refused = with(name, text);
            assert!(matches!(refused, Err(SettingsError::Number(..))), "{text}");
        }
    }
    assert_eq!(seconds("100000000"), Duration::from_secs(100_000_000));
}

/// As in the original's library: a variable that is set takes precedence even if empty, then the build, then the file.
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
    assert_eq!(read(&[], Ok(b"filed"), None).unwrap().alias, b"");
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
    let without = |kind: io::ErrorKind| read(&[("HOME", "/home/u")], Err(kind.into()), None);
    for kind in [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory] {
        assert_eq!(without(kind).unwrap().alias, b"", "{kind}");
    }
    let unreadable = without(io::ErrorKind::PermissionDenied);
    let told = unreadable.err().map(|error| error.to_string()).unwrap();
    assert!(
        told.starts_with("no module is named: PKCS11PROXY_LIBNAME is not set, and "),
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
        assert!(
            matches!(refused, Err(SettingsError::Protocol(..))),
            "{text}"
        );
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
            matches!(refused, Err(SettingsError::Interface(..))),
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
                if asked.to_str() != Some(path) {
                    return no_file(asked);
                }
                match &content {
                    Ok(content) => Ok(content.clone()),
                    Err(cause) => Err(cause.kind().into()),
                }
            },
            program: None,
            library: None,
            built_in: BuiltIn::default(),
            threads: OwnThreads::Allowed,
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

#[test]
fn the_log_has_levels_and_a_place() {
    let read = |variables: &[(&str, &str)]| {
        let settings = read(&[&[TLS[0]], variables].concat(), Ok(b""), None);
        settings.map(|settings| settings.log)
    };
    let log = |filter: &str, to| {
        Some(LogSettings {
            filter: filter.into(),
            to,
        })
    };
    assert_eq!(read(&[]).unwrap(), None);
    assert_eq!(read(&[(LOG, ""), (LOG_TO, "syslog")]).unwrap(), None);
    assert_eq!(read(&[(LOG, "warn")]).unwrap(), log("warn", LogTo::Stderr));
    for (written, to) in [
        ("", LogTo::Stderr),
        ("stderr", LogTo::Stderr),
        ("syslog", LogTo::Syslog),
        ("/log", LogTo::File("/log".into())),
    ] {
        let read = read(&[(LOG, "p11client=debug"), (LOG_TO, written)]);
        assert_eq!(read.unwrap(), log("p11client=debug", to), "{written}");
    }
    assert!(matches!(read(&[(LOG, "loud")]), Err(SettingsError::Log(_))));
    let refused = read(&[(LOG_TO, "log")]);
    assert!(matches!(refused, Err(SettingsError::LogTo(_))));
}

/// Runs `then` with a settings file, in a program with this name.
fn with_file<T>(
    text: &str,
    program: Option<&str>,
    variables: &[(&str, &str)],
    then: impl FnOnce(&Environment<'_>) -> T,
) -> T {
    let found = |name: &str| variables.iter().find(|(key, _)| *key == name);
    then(&Environment {
        variable: &|name| found(name).map(|(_, value)| value.into()),
        file: &|path| match path.to_str() {
            Some("/etc/pkcs11proxyd/client.conf" | "/own.conf") => Ok(text.as_bytes().to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        },
        program: program.map(OsString::from),
        library: None,
        built_in: BuiltIn::default(),
        threads: OwnThreads::Allowed,
    })
}

/// Reads a settings file in a program with this name.
fn filed(
    text: &str,
    program: Option<&str>,
    variables: &[(&str, &str)],
) -> Result<Settings, SettingsError> {
    with_file(text, program, variables, Settings::read)
}

#[test]
fn a_file_with_invalid_options_says_where_that_is_logged() {
    let read = |text: &str, variables: &[_]| {
        with_file(text, None, variables, LogSettings::of_invalid_settings)
            .map(|log| (log.filter, log.to))
    };
    let wrong = "wrong = 1\n";
    let file = Some(("warn".to_owned(), LogTo::File("/log".into())));
    let to_file = "log = \"warn\"\nlog_to = \"/log\"\n";
    assert_eq!(read(&format!("{wrong}{to_file}"), &[]), file);
    assert_eq!(read(&format!("{to_file}[other]\n{wrong}"), &[]), file);
    assert_eq!(read(&format!("{wrong}{to_file}"), &[(LOG, "info")]), None);
    let elsewhere = read(&format!("{wrong}{to_file}"), &[(LOG_TO, "syslog")]);
    assert_eq!(elsewhere, Some(("warn".to_owned(), LogTo::Syslog)));
    let errors = Some(("error".to_owned(), LogTo::Stderr));
    assert_eq!(read("log = \"loud\"\nlog_to = 3", &[]), errors);
    for text in [
        wrong,
        "log = 1",
        "[programs.x]\nlog = \"warn\"",
        "log = ",
        "",
    ] {
        assert_eq!(read(text, &[]), None, "{text}");
    }
}

const FILED: &str = r#"
endpoints = ["tcp:a:1", "unix:/b", "c:3"]
alias = "softhsm"
timeout = 7
slot_event_period = 20
recover = true
keep_pin = true
spread = true
protocol = 3
interface = "2.40"
log = "warn"
log_to = "/log"
ca_file = "/ca"
cert_file = "/cert"
privkey_file = "/key"
server_certs_file = "/pinned"
verify_name = "hsm"

[aliases.softhsm]
timeout = 8
protocol = 4
[aliases.other]
timeout = 9
[programs."signing tool"]
timeout = 10
psk_file = "/psk"
[programs.openssl]
alias = "other"
"#;

#[test]
fn the_settings_file_has_every_option() {
    let settings = filed(FILED, Some("x"), &[]).unwrap();
    let endpoints: Vec<_> = settings.daemons.iter().map(|it| &it.endpoint).collect();
    let path = Endpoint::Unix("/b".into());
    assert_eq!(endpoints, [&tcp("a", 1), &path, &tcp("c", 3)]);
    let tls: Vec<_> = settings.daemons.iter().map(|it| it.tls.is_some()).collect();
    assert_eq!(tls, [false, false, true]);
    assert_eq!(settings.alias, b"softhsm");
    assert_eq!(settings.slot_event_period, Duration::from_millis(20));
    assert_eq!(settings.recovery, Some(RecoverySettings { keep_pin: true }));
    assert!(settings.spread);
    assert_eq!(
        settings.interface,
        Interface {
            major: 2,
            minor: 40
        }
    );
    let (filter, to) = ("warn".to_owned(), LogTo::File("/log".into()));
    assert_eq!(settings.log, Some(LogSettings { filter, to }));
    let file = |name: &str| Source::File(name.into());
    let tls = TlsSettings {
        credentials: Credentials::Certificates {
            authority: file("/ca"),
            certificate: file("/cert"),
            key: file("/key"),
        },
        pinned: Some(file("/pinned")),
        name: Some("hsm".into()),
    };
    assert_eq!(settings.daemons[2].tls, Some(tls));
}

#[test]
fn a_pin_is_kept_for_recovery_only() {
    let recovery = |variables: &[_]| filed("alias = \"a\"", None, variables).map(|it| it.recovery);
    let (recover, keep) = ("PKCS11PROXY_RECOVER", "PKCS11PROXY_KEEP_PIN");
    assert_eq!(recovery(&[]).unwrap(), None);
    assert_eq!(
        recovery(&[(recover, "false"), (keep, "false")]).unwrap(),
        None
    );
    let without = Some(RecoverySettings { keep_pin: false });
    assert_eq!(recovery(&[(recover, "true")]).unwrap(), without);
    let with = Some(RecoverySettings { keep_pin: true });
    assert_eq!(
        recovery(&[(recover, "true"), (keep, "true")]).unwrap(),
        with
    );
    let refused = recovery(&[(keep, "true")]).unwrap_err().to_string();
    assert!(refused.starts_with("PKCS11PROXY_KEEP_PIN: "), "{refused}");
    for bad in ["yes", "1", "True", ""] {
        let read = recovery(&[(recover, bad)]);
        assert_eq!(read.is_err(), !bad.is_empty(), "{bad}");
    }
}

/// The example is valid as it is, and with every option that it shows: with certificates, and with a pre-shared key
/// instead.
#[test]
fn the_example_of_a_settings_file_is_one() {
    let example = include_str!("../../etc/client.conf");
    let uncommented = |without: &[&str]| {
        let lines = example.lines().map(|line| match line.strip_prefix('#') {
            Some(shown) if without.iter().any(|name| shown.starts_with(name)) => line,
            Some(shown) if !shown.starts_with(' ') => shown,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let of_certificates = ["server_certs_file", "verify_name"];
    let by_key = uncommented(&[&of_certificates[..], &["mechanisms_file"]].concat());
    assert!(filed(&by_key, Some("nginx"), &[]).unwrap().has_tls());
    let missing = filed(&uncommented(&of_certificates), Some("nginx"), &[]);
    assert!(matches!(missing, Err(SettingsError::MechanismsFile(..))));
    let settings = uncommented(&["psk_file", "mechanisms_file"]);
    let settings = filed(&settings, Some("nginx"), &[]).unwrap();
    assert_eq!(settings.alias, b"tls-keys");
    assert_eq!(settings.daemons.len(), 2);
    assert!(settings.has_tls());
    let alias = ("PKCS11PROXY_LIBNAME", "a");
    let unchanged = filed(example, None, &[alias]).unwrap();
    assert_eq!(unchanged, filed("", None, &[alias]).unwrap());
}

#[test]
fn variables_count_more_than_the_program_and_that_more_than_the_alias() {
    let read = |program, variables: &[_]| {
        let settings = filed(FILED, Some(program), variables).unwrap();
        (settings.timeout.as_secs(), settings.protocol)
    };
    let (three, four) = (Some(Version::Three), Some(Version::Four));
    assert_eq!(read("x", &[]), (8, four));
    assert_eq!(read("signing tool", &[]), (10, four));
    assert_eq!(read("openssl", &[]), (9, three));
    let alias = ("PKCS11PROXY_LIBNAME", "third");
    assert_eq!(read("x", &[alias]), (7, three));
    let timeout = ("PKCS11PROXY_RPC_TIMEOUT", "11");
    assert_eq!(read("signing tool", &[timeout]), (11, four));
    let endpoint = ("PKCS11PROXY_SOCKET_PATH", "tcp:v:1");
    let daemon = one(filed(FILED, Some("x"), &[endpoint]).unwrap());
    assert_eq!(daemon.endpoint, tcp("v", 1));
    let psk = filed(FILED, Some("signing tool"), &[]).unwrap();
    let credentials = &psk.daemons[2].tls.as_ref().unwrap().credentials;
    assert_eq!(*credentials, Credentials::Psk(Source::File("/psk".into())));
}

#[test]
fn what_is_wrong_in_the_file_is_told_with_its_line() {
    let told = |text: &str| filed(text, Some("x"), &[]).unwrap_err().to_string();
    let at = |line: usize| format!("/etc/pkcs11proxyd/client.conf:{line}: ");
    for (text, line) in [
        ("alias = \"a\"\nendpoint = \"h:1\"", 2),
        ("alias = \"a\"\n\n[aliases.b]\nlabel = 3", 4),
        ("alias = \"a\"\n[programs.b]\nspeed = 3", 3),
        ("alias = \"a\"\ntimeout = \"long\"", 2),
        ("alias = \"a\"\ntimeout = 0", 2),
        ("alias = \"a\"\ntimeout = -4", 2),
        ("alias = \"a\"\nslot_event_period = 3600001", 2),
        ("alias = \"a\"\nprotocol = 5", 2),
        ("alias = \"a\"\ninterface = \"3.1\"", 2),
        ("alias = \"a\"\nlog = \"loud\"", 2),
        ("alias = \"a\"\nlog_to = \"here\"", 2),
        ("alias = \"a\"\nendpoints = []", 2),
        ("alias = \"a\"\nendpoints = [\n\"h:1\",\n\"h\"]", 4),
        ("alias = \"a\"\nmechanisms_file = \"/none\"", 2),
        ("alias = \"a\"\nrecover = 1", 2),
        ("alias = \"a\"\nkeep_pin = true", 2),
        ("alias = \"a\"\nspread = \"yes\"", 2),
        ("alias = \"a\"\nalias = \"b\"", 2),
        ("alias = \"a\"\n[aliases.b]\nalias = \"c\"", 3),
        ("alias = ", 1),
    ] {
        let told = told(text);
        assert!(told.starts_with(&at(line)), "{text}: {told}");
        assert!(!told.contains('\n'), "{told}");
    }
    let unknown = filed("alias = \"a\"\n[programs.b]\n", None, &[]);
    assert!(matches!(unknown, Err(SettingsError::Program(_))));
    assert!(filed("alias = \"a\"", None, &[]).is_ok());
}

#[test]
fn a_file_that_a_variable_names_has_to_be_there() {
    let conf = |path| filed("alias = \"a\"", None, &[("PKCS11PROXY_CONF", path)]);
    assert_eq!(conf("/own.conf").unwrap().alias, b"a");
    assert_eq!(conf("").unwrap().alias, b"a");
    assert!(matches!(conf("/none"), Err(SettingsError::File(..))));
}

/// A variable that is read but missing in the table would be in no document.
#[test]
fn the_table_has_each_variable_that_is_read() {
    let asked = RefCell::new(std::collections::BTreeSet::new());
    let settings = Settings::read(&Environment {
        variable: &|name| {
            asked.borrow_mut().insert(name.to_owned());
            None
        },
        file: &|_| Err(io::ErrorKind::NotFound.into()),
        program: None,
        library: None,
        built_in: BuiltIn::default(),
        threads: OwnThreads::Allowed,
    });
    settings.unwrap();
    let in_table = OPTIONS.iter().map(|(_, variable)| (*variable).to_owned());
    let apart = ["PKCS11PROXY_CONF", "HOME"].map(str::to_owned);
    assert_eq!(asked.into_inner(), in_table.chain(apart).collect());
    assert_eq!(option_of("PKCS11PROXY_RPC_TIMEOUT"), "timeout");
}

/// Checks the examples of libp11client(7).
#[test]
fn the_examples_of_the_man_page_are_settings() {
    let page = include_str!("../../manual/pages/libp11client.7.txt");
    let (_, examples) = page.split_once("# EXAMPLES").unwrap();
    let example = examples.split("```").nth(1).unwrap();
    let settings = filed(example, Some("nginx"), &[]).unwrap();
    assert_eq!(settings.alias, b"tls-keys");
    assert_eq!(settings.daemons.len(), 2);
    assert!(settings.recovery.unwrap().keep_pin);
}

/// If a default that etc/client.conf shows is set explicitly, the settings stay the same.
#[test]
fn the_defaults_in_the_example_are_those_of_the_code() {
    let settings = |text: &str| {
        let text = format!("alias = \"a\"\n{text}");
        let settings = filed(&text, None, &[]).unwrap();
        (
            settings.timeout,
            settings.slot_event_period,
            settings.recovery,
            settings.spread,
            settings.interface,
        )
    };
    let mut compared = Vec::new();
    for line in include_str!("../../etc/client.conf").lines() {
        let Some((name, shape)) = line.strip_prefix("# ").and_then(|it| it.split_once(": ")) else {
            continue;
        };
        let default = shape.split_once("default ").map_or("", |(_, rest)| rest);
        let value = default.split(". ").next().unwrap_or_default();
        let is_value = value.parse::<i64>().is_ok() || value.parse::<bool>().is_ok();
        if is_value || name == "interface" {
            assert_eq!(
                settings(&format!("{name} = {value}")),
                settings(""),
                "{name}"
            );
            compared.push(name);
        }
    }
    let expected = [
        "spread",
        "timeout",
        "recover",
        "keep_pin",
        "interface",
        "slot_event_period",
    ];
    assert_eq!(compared, expected);
}
