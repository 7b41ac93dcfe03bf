//! Tests `p11client-doctor` as a program: its command line, its settings, and servers that are not our daemon.
//!
//! The tests with real daemons are in the workspace's root, in `tests/e2e` and `tests/tls`.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

/// Runs the doctor with these arguments and variables, and with no others of the library's variables.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p11client-doctor"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PKCS11PROXY_") {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .env("PKCS11PROXY_LIBNAME", "softhsm")
        .envs(variables.iter().copied())
        .output()
        .expect("the doctor runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// Checks that a step fails at this endpoint, with this cause and advice.
fn fails(endpoint: &str, step: &str, cause: &str, advice: &str) {
    let variables = [
        ("PKCS11PROXY_SOCKET_PATH", endpoint),
        ("PKCS11PROXY_RPC_TIMEOUT", "1"),
    ];
    let output = run(&[], &variables);
    let found = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{found}");
    assert_eq!(text(&output.stderr), "");
    let mut lines = found.lines().skip_while(|line| !line.contains("FAILED: "));
    let line = lines.next().expect("a step that fails");
    assert!(line.trim_start().starts_with(step), "{step}: {line}");
    assert!(line.contains(cause), "{cause}: {line}");
    let next = lines.next().expect("what to do");
    assert!(
        next.contains("to do: ") && next.contains(advice),
        "{advice}: {next}"
    );
    assert_eq!(found.matches("FAILED: ").count(), 1, "{found}");
    assert!(found.contains("No daemon can be used"), "{found}");
}

/// Starts a server that does this with each connection. Returns its endpoint.
fn server(serve: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.expect("a connection"));
        }
    });
    address.to_string()
}

#[test]
fn wrong_usage_is_status_2_and_help_status_0() {
    for arguments in [&["word"][..], &["-library"], &["-login"]] {
        let output = run(arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains("Usage: p11client-doctor"));
        assert_eq!(text(&output.stdout), "");
    }
    let output = run(&["-help"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("-library FILE"));
}

#[test]
fn nobody_who_listens_is_told_from_nobody_who_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket").to_string();
    drop(listener);
    let nobody = "start pkcs11proxyd, or correct the endpoint";
    fails(
        &address,
        "connection",
        "Connection refused (os error 111)",
        nobody,
    );
    fails(
        "/nobody/socket",
        "connection",
        "No such file or directory",
        nobody,
    );
    let (_, port) = address.split_once(':').expect("a port");
    let name = format!("localhost:{port}");
    fails(&name, "connection", "127.0.0.1: Connection refused", nobody);
    let name = format!("no-such-host.invalid:{port}");
    fails(
        &name,
        "name",
        "the name cannot be resolved: ",
        "correct the name",
    );

    // A daemon that does not accept connections: its queue is full.
    let path = std::env::temp_dir().join(format!("p11client-doctor-{}", std::process::id()));
    let listener = UnixListener::bind(&path).expect("a free path");
    let mut queued = Vec::new();
    nix::sys::socket::listen(
        &listener,
        nix::sys::socket::Backlog::new(0).expect("a number"),
    )
    .expect("a smaller queue");
    let address = path.display().to_string();
    queued.push(std::os::unix::net::UnixStream::connect(&path).expect("room for one"));
    fails(
        &address,
        "connection",
        "no answer in time",
        "the daemon is stopped",
    );
    fs::remove_file(&path).expect("the socket is there");
}

#[test]
fn a_server_that_is_no_daemon_is_known_by_what_it_does() {
    let closing = server(drop);
    let no_daemon = "no pkcs11proxyd";
    fails(&closing, "C_SetupArch", "onnection", no_daemon);
    let rubbish = server(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        let _ = stream.read(&mut [0; 1000]);
    });
    fails(&rubbish, "C_SetupArch", "", no_daemon);
    let silent = server(|stream| {
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(10));
            drop(stream);
        });
    });
    let start = Instant::now();
    fails(&silent, "C_SetupArch", "no reply in time", no_daemon);
    assert!(start.elapsed() < Duration::from_secs(4));
    // TLS with a server that speaks another protocol, or says nothing. A pre-shared key needs no certificate.
    let key = std::env::temp_dir().join(format!("p11client-doctor-psk-{}", std::process::id()));
    fs::write(&key, format!("me:{}\n", "5a".repeat(32))).expect("a file");
    for (server, cause) in [
        (&rubbish, "wrong version number"),
        (&silent, "took too long"),
    ] {
        let endpoint = format!("tls:{server}");
        let variables = [
            ("PKCS11PROXY_SOCKET_PATH", endpoint.as_str()),
            ("PKCS11PROXY_PSK_FILE", key.to_str().expect("a path")),
            ("PKCS11PROXY_RPC_TIMEOUT", "1"),
        ];
        let found = text(&run(&[], &variables).stdout);
        let line = found.lines().find(|line| line.contains("FAILED: "));
        let line = line.expect("a step that fails");
        assert!(
            line.contains("TLS handshake") && line.contains(cause),
            "{found}"
        );
        assert!(found.contains("write tcp:"), "{found}");
        assert!(!found.contains("5a5a"), "{found}");
    }
    fs::remove_file(&key).expect("it was made above");
}

/// Each value is printed with its origin, and invalid ones are reported.
#[test]
fn settings_are_told_with_their_places() {
    let file = std::env::temp_dir().join(format!("p11client-doctor-{}.conf", std::process::id()));
    let path = file.to_str().expect("a path");
    let examine = |text: &str, arguments: &[&str], variables: &[(&str, &str)]| {
        fs::write(&file, text).expect("a file");
        let conf = [("PKCS11PROXY_CONF", path)];
        let output = run(arguments, &[&conf, variables].concat());
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stdout).expect("text")
    };
    let written = "timeout = 2\nendpoints = [\"unix:/nobody/1\",\n \"[::1]:1\"]\n\
        [programs.nginx]\nprotocol = 3\n";
    let found = examine(written, &["-program", "/usr/sbin/nginx"], &[]);
    for expected in [
        &format!("settings file      {path}"),
        "program            nginx",
        "alias              softhsm (PKCS11PROXY_LIBNAME)",
        &format!("timeout            2 seconds ({path}:1)"),
        &format!("protocol           3 ({path}:5)"),
        &format!("endpoint           /nobody/1, without TLS, as the endpoint says ({path}:2)"),
        &format!("endpoint           ::1 port 1, without TLS, as no TLS files are set ({path}:3)"),
        "Daemon 1 of 2: /nobody/1",
        "Daemon 2 of 2: ::1 port 1",
    ] {
        assert!(found.contains(expected), "{expected}: {found}");
    }
    let found = examine("timeout = 2\nspeed = 3\n", &[], &[]);
    let expected = format!("settings           FAILED: {path}:2: unknown field `speed`");
    assert!(found.contains(&expected), "{found}");
    assert!(!found.contains("Daemon 1"), "{found}");
    let found = examine("", &[], &[("PKCS11PROXY_RPC_TIMEOUT", "soon")]);
    assert!(
        found.contains("FAILED: PKCS11PROXY_RPC_TIMEOUT: expected seconds"),
        "{found}"
    );
    fs::remove_file(&file).expect("it was made above");
}

/// The doctor checks the log that the library would write, and does not write it.
#[test]
fn a_log_that_cannot_be_written_is_a_step_that_fails() {
    let directory =
        std::env::temp_dir().join(format!("p11client-doctor-log-{}", std::process::id()));
    fs::create_dir(&directory).expect("a new directory");
    let (new, old, missing) = (
        directory.join("new"),
        directory.join("old"),
        directory.join("no/log"),
    );
    fs::write(&old, "").expect("a file");
    let examine = |level: &str, path: &PathBuf| {
        let variables = [
            ("PKCS11PROXY_SOCKET_PATH", "/nobody/socket"),
            ("PKCS11PROXY_LOG", level),
            ("PKCS11PROXY_LOG_TO", path.to_str().expect("a path")),
        ];
        text(&run(&[], &variables).stdout)
    };
    for (path, expected) in [
        (
            &new,
            format!(
                "log                ok, {} does not exist yet, and can be created",
                new.display()
            ),
        ),
        (
            &old,
            format!("log                ok, {} can be written", old.display()),
        ),
        (
            &missing,
            format!(
                "log                FAILED: the log cannot be written to {}: No such file",
                missing.display()
            ),
        ),
        (
            &directory,
            format!(
                "log                FAILED: the log cannot be written to {}: Is a directory",
                directory.display()
            ),
        ),
    ] {
        let found = examine("warn", path);
        assert!(found.contains(&expected), "{expected}: {found}");
        let fails = expected.contains("FAILED");
        assert_eq!(
            found.contains("to do: PKCS11PROXY_LOG_TO (log_to) must name a file"),
            fails,
            "{found}"
        );
        assert_eq!(
            found.contains("C_Initialize fails with any daemon"),
            fails,
            "{found}"
        );
        // Nothing would be logged, so the file is not checked.
        let found = examine("off", path);
        assert!(
            !found.contains("log                ok")
                && !found.contains("log                FAILED"),
            "{found}"
        );
    }
    assert!(!new.exists());
    assert_eq!(fs::read(&old).expect("a file"), b"");
    let found = examine("warn", &"syslog".into());
    let says = [
        "log                ok, /dev/log",
        "log                FAILED: /dev/log: ",
    ];
    assert!(says.iter().any(|text| found.contains(text)), "{found}");
    fs::remove_dir_all(&directory).expect("it was made above");
}

/// The output explains what the options mean for the operator.
#[test]
fn options_without_effect_are_told() {
    let examine = |variables: &[(&str, &str)]| {
        let endpoint = [("PKCS11PROXY_SOCKET_PATH", "/nobody/socket")];
        text(&run(&[], &[&endpoint, variables].concat()).stdout)
    };
    let found = examine(&[("PKCS11PROXY_SPREAD", "true")]);
    assert!(
        found.contains("spread             has no effect with one endpoint"),
        "{found}"
    );
    let recover = ("PKCS11PROXY_RECOVER", "true");
    let found = examine(&[recover]);
    assert!(
        found.contains("keep_pin           not set: after a reconnect"),
        "{found}"
    );
    let found = examine(&[recover, ("PKCS11PROXY_KEEP_PIN", "true")]);
    assert!(
        found.contains("keep_pin           ok, memory for the PIN can be locked"),
        "{found}"
    );
}

/// Returns the library that cargo has built for this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a file");
    test.with_file_name("libp11client.so")
}

#[test]
fn a_librarys_file_tells_what_is_compiled_in() {
    let library = library();
    let path = library.to_str().expect("a path");
    let found = text(&run(&["-library", path], &[]).stdout);
    assert!(
        found.contains(&format!("library            ok, {path}")),
        "{found}"
    );
    assert!(
        found.contains("this library is for every transport"),
        "{found}"
    );
    // The file name has the same effect as for the library itself.
    let copy = std::env::temp_dir().join(format!("p11client-doctor-ssl-{}.so", std::process::id()));
    fs::copy(&library, &copy).expect("a copy");
    let found = text(&run(&["-library", copy.to_str().expect("a path")], &[]).stdout);
    fs::remove_file(&copy).expect("it was made above");
    assert!(found.contains("this library is for TLS"), "{found}");
    assert!(
        found.contains("FAILED: TLS: neither PKCS11PROXY_CA_FILE nor"),
        "{found}"
    );

    let output = run(&["-library", "/usr/bin/env"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let found = text(&output.stdout);
    assert!(
        found.contains("FAILED: /usr/bin/env: it is no client library"),
        "{found}"
    );
}
