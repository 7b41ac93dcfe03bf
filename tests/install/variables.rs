//! Which values of the Makefile's variables are refused, with which sentence, and what the others become.

use super::support::certificates::{certificate, certificates};
use super::*;

/// Whole rows of `NAME=VALUE`, and what the sentence says. `CERTS/` stands for the directory of the certificates.
const REFUSED: &[(&[&str], &str)] = &[
    (
        &["CLIENT_SOCKET="],
        "CLIENT_SOCKET: expected tcp,HOST:PORT, unix,PATH, HOST:PORT or a path; it is empty",
    ),
    (
        &["CLIENT_SOCKET=tcp,"],
        "CLIENT_SOCKET: expected HOST:PORT or [IPv6 ADDRESS]:PORT, not \"\"",
    ),
    (
        &["CLIENT_SOCKET=tcp,h"],
        "CLIENT_SOCKET: expected HOST:PORT",
    ),
    (
        &["CLIENT_SOCKET=tcp,/run/s"],
        "CLIENT_SOCKET: expected HOST:PORT",
    ),
    (
        &["CLIENT_SOCKET=tcp,a/b:1"],
        "CLIENT_SOCKET: expected HOST:PORT",
    ),
    (
        &["CLIENT_SOCKET=tcp,::1:4444"],
        "CLIENT_SOCKET: expected HOST:PORT",
    ),
    (
        &["CLIENT_SOCKET=h:0"],
        "CLIENT_SOCKET: expected a port between 1 and 65535",
    ),
    (
        &["CLIENT_SOCKET=h:65536"],
        "CLIENT_SOCKET: expected a port between 1 and 65535",
    ),
    (
        &["CLIENT_SOCKET=h:99999999999999999999"],
        "CLIENT_SOCKET: expected a port between 1 and 65535",
    ),
    (
        &["CLIENT_SOCKET=h:http"],
        "CLIENT_SOCKET: expected a port between 1 and 65535",
    ),
    (
        &["CLIENT_SOCKET=udp,h:1"],
        "CLIENT_SOCKET: expected tcp,HOST:PORT or unix,PATH, not \"udp,h:1\"",
    ),
    (
        &["CLIENT_SOCKET=unix,run/s"],
        "CLIENT_SOCKET: expected an absolute path",
    ),
    (
        &["CLIENT_SOCKET=unix,"],
        "CLIENT_SOCKET: expected an absolute path",
    ),
    (
        &["CLIENT_SOCKET=unix,/run/"],
        "CLIENT_SOCKET: expected a file, not the directory",
    ),
    (
        &["CLIENT_SOCKET=unix,/run/a b"],
        "CLIENT_SOCKET: only letters, digits and",
    ),
    (
        &["CLIENT_SOCKET=h:1'; touch x; '"],
        "CLIENT_SOCKET: only letters, digits and",
    ),
    (
        &["CLIENT_SOCKET=h:1\"$(touch x)"],
        "CLIENT_SOCKET: only letters, digits and",
    ),
    (
        &["CLIENT_SOCKET=$(HOME):1"],
        "CLIENT_SOCKET: only letters, digits and",
    ),
    (
        &["CLIENT_SOCKET=h:1\n"],
        "CLIENT_SOCKET: only letters, digits and",
    ),
    (
        &["CLIENT_SOCKET=h\u{e4}:1"],
        "CLIENT_SOCKET: only letters, digits and",
    ),
    (
        &["CLIENT_TCP_SOCKET=/run/s"],
        "CLIENT_TCP_SOCKET: expected HOST:PORT",
    ),
    (
        &["CLIENT_TCPSSL_SOCKET=tcp:h:1"],
        "CLIENT_TCPSSL_SOCKET: tcp:h:1 requires a plain connection",
    ),
    (
        &["CLIENT_UNIX_SOCKET=h:1"],
        "CLIENT_UNIX_SOCKET: expected an absolute path",
    ),
    (&["LIBNAMES=,"], "LIBNAMES: a name is missing in \",\""),
    (
        &["LIBNAMES=a,,b"],
        "LIBNAMES: a name is missing in \"a,,b\"",
    ),
    (&["LIBNAMES=a,b a"], "LIBNAMES: a is there twice"),
    (
        &["LIBNAMES=a/b"],
        "LIBNAMES: a name is made of letters, digits",
    ),
    (
        &["LIBNAMES=.."],
        "LIBNAMES: a name is made of letters, digits",
    ),
    (
        &["LIBNAMES=-a"],
        "LIBNAMES: a name is made of letters, digits",
    ),
    (
        &["LIBNAMES=a'b"],
        "LIBNAMES: a name is made of letters, digits",
    ),
    (
        &["LIBNAMES=a%:b"],
        "LIBNAMES: a name is made of letters, digits",
    ),
    (
        &["LIBNAMES=a$(b"],
        "LIBNAMES: a name is made of letters, digits",
    ),
    (
        &["LIBNAMES=a\nb"],
        "LIBNAMES: a name is made of letters, digits",
    ),
    (
        &["LIBNAMES=a,tcp"],
        "LIBNAMES: libp11clienttcp.so is a library of its own",
    ),
    (
        &["LIBNAMES=tcpssl"],
        "LIBNAMES: libp11clienttcpssl.so is a library of its own",
    ),
    (
        &["LIBNAMES=unix"],
        "LIBNAMES: libp11clientunix.so is a library of its own",
    ),
    (
        &["SSL_CLIENTFILES=yes"],
        "SSL_CLIENTFILES: expected 'env', 'path;ca=FILE,cert=FILE,privkey=FILE' or 'embed;...'",
    ),
    (
        &["SSL_CLIENTFILES=path;"],
        "SSL_CLIENTFILES: expected ca=FILE,cert=FILE,privkey=FILE behind the semicolon; ca= is missing",
    ),
    (
        &["SSL_CLIENTFILES=path;ca=/a,cert=/b"],
        "privkey= is missing",
    ),
    (
        &["SSL_CLIENTFILES=path;ca=/a,cert=/b,privkey="],
        "privkey= is missing",
    ),
    (
        &["SSL_CLIENTFILES=path;ca=/a,ca=/b,cert=/b,privkey=/c"],
        "SSL_CLIENTFILES: ca= is there twice",
    ),
    (
        &["SSL_CLIENTFILES=path;ca=/a,cert=/b,privkey=/c,crl=/d"],
        "behind the semicolon, not \"crl=/d\"",
    ),
    (
        &["SSL_CLIENTFILES=path;ca=a,cert=/b,privkey=/c"],
        "SSL_CLIENTFILES: expected an absolute path",
    ),
    (
        &["SSL_CLIENTFILES=embed;ca=/nonexistent,cert=/b,privkey=/c"],
        "SSL_CLIENTFILES: there is no file \"/nonexistent\"",
    ),
    (
        &["SSL_CLIENTFILES=embed;ca=/dev/zero,cert=/b,privkey=/c"],
        "SSL_CLIENTFILES: \"/dev/zero\" is not a file",
    ),
    (
        &["SSL_CLIENTFILES=embed;ca=CERTS/psk.keys,cert=/b,privkey=/c"],
        "has no certificate in PEM",
    ),
    (
        &["SSL_CLIENTFILES=embed;ca=/bin/sh,cert=/b,privkey=/c"],
        "expected PEM, which is plain ASCII",
    ),
    (
        &[
            "SSL_CLIENTFILES=embed;ca=CERTS/ca.pem,cert=CERTS/client.pem,privkey=CERTS/server-encrypted.key",
        ],
        "is encrypted; the library asks nobody for a password",
    ),
    (
        &["SSL_CLIENTFILES=embed;ca=CERTS/ca.pem,cert=CERTS/client.pem,privkey=CERTS/client.pem"],
        "has no private key in PEM",
    ),
    (
        &["SSL_CLIENTFILES=embed;ca=CERTS/ca.pem,cert=CERTS/client.pem,privkey=CERTS/server.key"],
        "does not belong to the certificate",
    ),
    (
        &["SSL_CLIENTFILES=env", "CLIENT_TLS_KEY=/a"],
        "SSL_CLIENTFILES cannot be combined with CLIENT_TLS_CA",
    ),
    (
        &["SSL_CLIENTFILES=env", "CLIENT_SOCKET=tcp:h:1"],
        "CLIENT_SOCKET: tcp:h:1 requires a plain connection",
    ),
    (
        &["SSL_SERVERCERTS=path;certs=/a"],
        "SSL_SERVERCERTS: expected 'embed;certs=FILE' or 'embed;certs=DIRECTORY'",
    ),
    (
        &["SSL_SERVERCERTS=embed;certs=/bin"],
        "SSL_SERVERCERTS: the directory \"/bin\" has neither *.pem nor *.crt",
    ),
    (
        &["SSL_SERVERCERTS=embed;certs=/a", "CLIENT_TLS_PINNED=/b"],
        "SSL_SERVERCERTS cannot be combined with CLIENT_TLS_PINNED",
    ),
    (
        &["CLIENT_TLS_CA=ca.pem"],
        "CLIENT_TLS_CA: expected an absolute path",
    ),
    (
        &["CLIENT_TLS_EMBED=1"],
        "CLIENT_TLS_EMBED: there is no file to compile in",
    ),
    (
        &["CLIENT_TLS_EMBED=0", "CLIENT_TLS_CA=/a"],
        "CLIENT_TLS_EMBED: expected 1, or nothing",
    ),
    (
        &["CLIENT_TLS_EMBED=1", "CLIENT_TLS_CA=/nonexistent"],
        "CLIENT_TLS_CA: there is no file",
    ),
];

#[test]
fn values_that_cannot_be_used_are_refused_before_anything_is_built() {
    let directory = Directory::new();
    let target = directory.join("target");
    let certs = format!("{}/", certificates().display());
    for (variables, sentence) in REFUSED {
        let mut command = command("make");
        command.args(["-s", "all", "CARGO=/nonexistent/cargo"]);
        command.args(variables.iter().map(|it| it.replace("CERTS/", &certs)));
        command.env("CARGO_TARGET_DIR", &target);
        let outcome = run(command, LONG);
        assert_eq!(outcome.status.code(), Some(2), "{variables:?}");
        let (told, rest) = outcome.stderr.split_once('\n').expect("a line");
        assert!(told.contains(sentence), "{variables:?}: {told}");
        assert!(rest.starts_with("make: ***"), "{variables:?}: {rest}");
        assert!(!target.exists(), "{variables:?}");
    }
    assert!(!Path::new(env!("CARGO_MANIFEST_DIR")).join("x").exists());
}

/// From the environment the same as from the command line, and nothing of a value is executed or lost.
#[test]
fn values_of_the_environment_are_refused_too() {
    let mut command = command("make");
    command.args(["-s", "all", "CARGO=/nonexistent/cargo"]);
    command.env("LIBNAMES", "a$(shell touch x)b");
    let outcome = run(command, LONG);
    assert_eq!(outcome.status.code(), Some(2));
    assert!(
        outcome.stderr.contains("unlike \"a$(shell\""),
        "{}",
        outcome.stderr
    );
    assert!(!Path::new(env!("CARGO_MANIFEST_DIR")).join("x").exists());
}

/// What cargo gets for a library: only what is not empty, without the front of its names.
fn compiled_in(library: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let mut command = command("client/built-in.sh");
    command.args([library, "env", "-0"]);
    command.env("CLIENT_SOCKET", "127.0.0.1:4444");
    command.envs(variables.iter().copied());
    let outcome = run(command, LONG);
    assert!(
        outcome.status.success(),
        "{variables:?}: {}",
        outcome.stderr
    );
    let set = outcome.stdout.split('\0');
    let ours = set.filter_map(|it| it.strip_prefix("P11CLIENT_"));
    let mut ours: Vec<String> = ours
        .filter(|it| !it.ends_with('='))
        .map(str::to_owned)
        .collect();
    ours.sort();
    ours
}

#[test]
fn each_library_gets_its_endpoint_and_transport() {
    let path = "path;ca=/a,cert=/b,privkey=/c";
    let files = ["TLS_CA=/a", "TLS_CERT=/b", "TLS_KEY=/c"];
    let with = |first: &str, last: &[&str]| -> Vec<String> {
        let all = [first].into_iter().chain(files).chain(last.iter().copied());
        all.map(str::to_owned).collect()
    };
    let any = "libp11client.so";
    let socket = "CLIENT_SOCKET";
    assert_eq!(compiled_in(any, &[]), ["SOCKET=127.0.0.1:4444"]);
    assert_eq!(compiled_in(any, &[(socket, "tls:h:1")]), ["SOCKET=tls:h:1"]);
    assert_eq!(compiled_in(any, &[(socket, "/run/s")]), ["SOCKET=/run/s"]);
    assert_eq!(
        compiled_in(any, &[(socket, "tcp,[::1]:9")]),
        ["SOCKET=[::1]:9", "TRANSPORT=tcp"]
    );
    assert_eq!(
        compiled_in(any, &[(socket, "unix,/run/s")]),
        ["SOCKET=/run/s", "TRANSPORT=unix"]
    );
    // As in Caml Crush a library that is built with SSL speaks nothing else.
    let env = ("SSL_CLIENTFILES", "env");
    assert_eq!(
        compiled_in(any, &[env]),
        ["SOCKET=127.0.0.1:4444", "TRANSPORT=tcpssl"]
    );
    assert_eq!(
        compiled_in(any, &[env, (socket, "unix,/s")]),
        ["SOCKET=/s", "TRANSPORT=tcpssl"]
    );
    let paths = [("SSL_CLIENTFILES", path), (socket, "tcp,h:1")];
    assert_eq!(
        compiled_in(any, &paths),
        with("SOCKET=h:1", &["TRANSPORT=tcpssl"])
    );
    let older = [
        ("CLIENT_TLS_CA", "/a"),
        ("CLIENT_TLS_CERT", "/b"),
        ("CLIENT_TLS_KEY", "/c"),
    ];
    assert_eq!(compiled_in(any, &older), with("SOCKET=127.0.0.1:4444", &[]));
    // One for a module, and the ones for one transport.
    let named = [("LIBNAMES", "a,b"), (socket, "unix,/s")];
    assert_eq!(
        compiled_in("libp11clientb.so", &named),
        ["LIBNAME=b", "SOCKET=/s", "TRANSPORT=unix"]
    );
    let sockets = [
        ("CLIENT_TCP_SOCKET", "h:2"),
        ("CLIENT_UNIX_SOCKET", "/u"),
        env,
    ];
    assert_eq!(
        compiled_in("libp11clienttcp.so", &sockets),
        ["SOCKET=h:2", "TRANSPORT=tcp"]
    );
    assert_eq!(
        compiled_in("libp11clienttcpssl.so", &sockets),
        ["SOCKET=h:2", "TRANSPORT=tcpssl"]
    );
    assert_eq!(
        compiled_in("libp11clientunix.so", &sockets),
        ["SOCKET=/u", "TRANSPORT=unix"]
    );
    // No key where it is of no use.
    assert_eq!(
        compiled_in("libp11clientunix.so", &paths),
        ["SOCKET=/var/run/pkcs11proxyd.socket", "TRANSPORT=unix"]
    );
}

/// Of several certificates none is lost, and nothing else gets in.
#[test]
fn certificates_of_files_and_directories_are_compiled_in() {
    let directory = Directory::new();
    let read = |name: &str| std::fs::read_to_string(certificate(name)).expect("a certificate");
    let (ca, other) = (read("ca.pem"), read("other-ca.pem"));
    let windows = format!("a comment\r\n{}\nkey\r\n{other}", ca.replace('\n', "\r\n"));
    std::fs::write(directory.join("b.pem"), windows).expect("a file");
    std::fs::write(directory.join("a.crt"), read("server.pem")).expect("a file");
    std::fs::write(directory.join("c.txt"), "no certificate").expect("a file");
    let certs = format!("embed;certs={}", directory.path().display());
    let expected = [ca, other, read("server.pem")].concat();
    assert_eq!(
        compiled_in("libp11client.so", &[("SSL_SERVERCERTS", &certs)]),
        [
            "SOCKET=127.0.0.1:4444".to_owned(),
            format!("TLS_PINNED={}", expected.trim_end()),
            "TRANSPORT=tcpssl".to_owned()
        ]
    );
    // A part of one is none.
    let broken = expected.replacen("MII", "", 1);
    std::fs::write(directory.join("b.pem"), broken).expect("a file");
    let mut command = command("client/built-in.sh");
    command
        .arg("libp11client.so")
        .env("SSL_SERVERCERTS", &certs)
        .env("CLIENT_SOCKET", "h:1");
    let outcome = run(command, LONG);
    assert_eq!(outcome.status.code(), Some(2));
    assert!(
        outcome.stderr.contains("certificate 1 of 3 in the file"),
        "{}",
        outcome.stderr
    );
}
