//! Tests client profiles over TCP and Unix sockets: who gets which, and what it allows.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

use crate::administration::ctl;
use crate::sandbox::{hostile_as_nobody, obeys};
use crate::support::processes::Outcome;
use crate::*;

/// A client that comes from another address of this machine.
fn from(daemon: &Daemon, address: &str) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let own: SocketAddr = format!("{address}:0").parse().expect("an address");
    socket
        .bind(&own.into())
        .expect("an address of this machine");
    let to: SocketAddr = daemon.address().parse().expect("an address");
    socket.connect(&to.into()).expect("the daemon accepts");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    Client(stream)
}

/// The same with a module loaded and initialised, and a session.
pub fn ready(daemon: &Daemon, address: &str) -> Client {
    let mut client = from(daemon, address);
    client.call(Call::C_SetupArch(Architecture::host()));
    assert!(client.call(Call::C_LoadModule(b"null")).rv().is_ok());
    assert!(client.call(Call::C_Initialize()).rv().is_ok());
    let opened = client.call(Call::C_OpenSession(SlotId(0), Flags(6)));
    assert!(opened.rv().is_ok(), "{opened:?}");
    client
}

/// Whether the daemon refuses a client from there, and says why.
fn refuses(daemon: &Daemon, address: &str, reason: &str) {
    let mut client = from(daemon, address);
    assert!(client.is_closed_within(Duration::from_secs(5)), "{address}");
    let is_logged = || daemon.log().contains(reason);
    assert!(
        wait_until(PATIENCE, is_logged),
        "{reason}: {}",
        daemon.log()
    );
}

fn with_profiles(token: &Token, profiles: &str) -> Setup {
    let mut setup = setup(token);
    setup.processor = profiles.into();
    setup
}

/// Runs `-check` with a configuration that is in use.
fn check(daemon: &Daemon, client: &str) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyd"));
    let conf = daemon.directory().join("pkcs11proxyd.conf");
    command.arg("-check").arg("-conf").arg(conf);
    command.args(["-as", client]);
    run(command, PATIENCE)
}

#[test]
fn the_first_network_that_matches_decides_and_others_are_refused() {
    let token = Token::new();
    let mut setup = with_profiles(
        &token,
        "profile { name = \"one\"; network = \"10.0.0.0/8 127.0.0.2\"; modules = \"null\" };
         profile { name = \"more\"; network = \"127.0.0.0/30\"; modules = \"second\" };
         without_profile = \"refuse\";",
    );
    setup.modules.push(("second".into(), module("nullmodule")));
    setup.daemon = "control_socket = \"../control\"".into();
    let daemon = setup.start();
    for (address, served, refused) in [
        ("127.0.0.2", b"null".as_slice(), b"second".as_slice()),
        ("127.0.0.3", b"second", b"null"),
    ] {
        let mut client = from(&daemon, address);
        client.call(Call::C_SetupArch(Architecture::host()));
        for name in [refused, b"unknown"] {
            let rv = client.call(Call::C_LoadModule(name)).rv();
            assert_eq!(rv, CkRv::GENERAL_ERROR);
        }
        assert!(client.call(Call::C_LoadModule(served)).rv().is_ok());
        // In version 4 as well.
        let mut newer = from(&daemon, address);
        newer.call(xdr::Call::C_SetupArch(xdr::Hello::default()));
        let rv = newer.call(xdr::Call::C_LoadModule(refused)).rv();
        assert_eq!(rv, CkRv::GENERAL_ERROR);
        assert!(newer.call(xdr::Call::C_LoadModule(served)).rv().is_ok());
    }
    refuses(
        &daemon,
        "127.0.0.4",
        "refused: no profile matches address=127.0.0.4",
    );
    let log = daemon.log();
    assert!(log.contains("module 'second' is not configured"), "{log}");
    let numbers = ctl(&daemon, &["metrics"]).stdout;
    for (reason, count) in [("profile", 1), ("tls", 0)] {
        let expected = format!("reason=\"{reason}\"}} {count}\n");
        assert!(numbers.contains(&expected), "{expected}: {numbers}");
    }

    let mut client = ready(&daemon, "127.0.0.2");
    let state = ctl(&daemon, &["-json", "status"]).stdout;
    let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
    let clients = state["status"]["services"][0]["clients"].as_array();
    let [known] = clients.expect("clients").as_slice() else {
        panic!("{state}");
    };
    assert_eq!(
        (&known["profile"], &known["module"]),
        (&"one".into(), &"null".into())
    );
    assert!(client.call(Call::C_GetInfo()).rv().is_ok());
    // A readiness check is no client.
    let outcome = ctl(&daemon, &["ready"]);
    assert_eq!(
        outcome.status.code(),
        Some(0),
        "{} {}",
        outcome.stdout,
        outcome.stderr
    );

    for (client, lines) in [
        (
            "address=127.0.0.2",
            &[
                "profile one: matched\n",
                "more: matched, but one comes first",
                "gets the profile one",
            ][..],
        ),
        (
            "address=127.0.0.3",
            &[
                "profile one: not matched: network: expected 10.0.0.0/8 or 127.0.0.2/32, found 127.0.0.3\n",
                "profile more: matched\n",
                "it gets the profile more",
            ],
        ),
        (
            "uid=0 gid=0",
            &[
                "a client with uid=0 gid=0:",
                "and the client has none",
                "it is refused",
            ],
        ),
    ] {
        let outcome = check(&daemon, client);
        assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
        for line in lines {
            assert!(outcome.stdout.contains(line), "{line}: {}", outcome.stdout);
        }
        assert!(
            outcome.stdout.contains(
                "profile one: for network 10.0.0.0/8 or 127.0.0.2/32\n    modules null\n"
            )
        );
    }
    let outcome = check(&daemon, "nonsense");
    assert_eq!(outcome.status.code(), Some(2));
    assert!(
        outcome.stderr.contains("-as: expected address="),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_profile_has_rules_of_its_own_that_are_loaded_anew_when_they_are_edited() {
    let token = Token::new();
    let directory = Directory::new();
    let null = module("nullmodule");
    let path = directory.join("own.conf");
    let write = |functions: &str| {
        let text = format!(
            "modules = [(\"null\", \"{}\")]\nforbidden_functions = [(\".*\", [{functions}])]\n",
            null.display()
        );
        // As editors do, so that no half of it is loaded.
        let draft = directory.join("draft");
        std::fs::write(&draft, text).expect("a file");
        std::fs::rename(&draft, &path).expect("a file");
    };
    write("C_GetInfo");
    let daemon = with_profiles(
        &token,
        &format!(
            "profile {{ name = \"own\"; network = \"127.0.0.2\"; filter_config = \"{}\" }};",
            path.display()
        ),
    )
    .start();
    let rv_of = |client: &mut Client, call: Call<'_>| client.call(call).rv();
    let mut before = ready(&daemon, "127.0.0.2");
    let forbidden = CkRv::FUNCTION_NOT_SUPPORTED;
    assert_eq!(rv_of(&mut before, Call::C_GetInfo()), forbidden);
    // Without a profile the service's rules count.
    let mut other = ready(&daemon, "127.0.0.3");
    assert!(rv_of(&mut other, Call::C_GetInfo()).is_ok());

    write("C_GetSlotInfo");
    let is_new = || {
        let mut client = ready(&daemon, "127.0.0.2");
        rv_of(&mut client, Call::C_GetInfo()).is_ok()
            && rv_of(&mut client, Call::C_GetSlotInfo(SlotId(0))) == forbidden
    };
    assert!(wait_until(PATIENCE, is_new), "{}", daemon.log());
    // Who is connected keeps what it has.
    assert_eq!(rv_of(&mut before, Call::C_GetInfo()), forbidden);

    // A bad file changes nothing, at an edit and at SIGHUP.
    write("C_NoSuchFunction");
    let is_logged = || daemon.log().contains("the edited filter file is not used");
    assert!(wait_until(PATIENCE, is_logged), "{}", daemon.log());
    daemon.process().signal(Signal::SIGHUP);
    let is_logged = || daemon.log().contains("reload failed");
    assert!(wait_until(PATIENCE, is_logged), "{}", daemon.log());
    assert!(is_new());
    write("C_GetTokenInfo");
    daemon.process().signal(Signal::SIGHUP);
    let is_newer = || {
        let mut client = ready(&daemon, "127.0.0.2");
        rv_of(&mut client, Call::C_GetTokenInfo(SlotId(0))) == forbidden
    };
    assert!(wait_until(PATIENCE, is_newer), "{}", daemon.log());
}

#[test]
fn sessions_signatures_and_connections_are_limited() {
    let token = Token::new();
    let profile = |name: &str, network: &str, limits: &str| {
        format!("profile {{ name = \"{name}\"; network = \"{network}\"; {limits} }};")
    };
    let daemon = with_profiles(
        &token,
        &[
            profile("sessions", "127.0.0.2", "max_sessions = 2"),
            profile("quota", "127.0.0.4/31", "max_signatures_per_day = 3"),
            profile("connections", "127.0.0.6/31", "max_connections = 2"),
            profile("flight", "127.0.0.8", "max_calls_in_flight = 3"),
        ]
        .concat(),
    )
    .start();
    // The module's sessions have other numbers each.
    let mut client = ready(&daemon, "127.0.0.2");
    let open = |client: &mut Client| client.call(Call::C_OpenSession(SlotId(0), Flags(6))).rv();
    assert!(open(&mut client).is_ok());
    assert_eq!(open(&mut client), CkRv::SESSION_COUNT);
    assert!(
        client
            .call(Call::C_CloseAllSessions(SlotId(0)))
            .rv()
            .is_ok()
    );
    assert!(open(&mut client).is_ok());

    let sign = |client: &mut Client| {
        client.call(Call::C_SignInit(
            SESSION,
            Default::default(),
            xdr::ObjectHandle(1),
        ));
        client.call(Call::C_Sign(SESSION, b"data")).rv()
    };
    let mut first = ready(&daemon, "127.0.0.4");
    assert!(sign(&mut first).is_ok() && sign(&mut first).is_ok());
    // Over all connections of the peer, with another version too; a question costs nothing.
    let mut newer = from(&daemon, "127.0.0.4");
    newer.call(xdr::Call::C_SetupArch(xdr::Hello::default()));
    newer.call(xdr::Call::C_LoadModule(b"null"));
    newer.call(xdr::Call::C_Initialize(Flags(0)));
    newer.call(xdr::Call::C_OpenSession(SlotId(0), Flags(6), false));
    let ask = |room| xdr::Call::C_Sign(SESSION, xdr::Input::Bytes(b"data"), room);
    assert!(newer.call(ask(xdr::Room::QUESTION)).rv().is_ok());
    assert!(newer.call(ask(xdr::Room::Buffer(256))).rv().is_ok());
    let rv = newer.call(ask(xdr::Room::Buffer(256))).rv();
    assert_eq!(rv, CkRv::FUNCTION_REJECTED);
    assert_eq!(sign(&mut first), CkRv::FUNCTION_REJECTED);
    assert!(first.call(Call::C_GetInfo()).rv().is_ok());
    // A reload forgets nothing; another peer of the same profile has its own.
    daemon.process().signal(Signal::SIGHUP);
    let is_loaded = || daemon.log().contains("filter configuration loaded");
    assert!(wait_until(PATIENCE, is_loaded), "{}", daemon.log());
    let mut again = ready(&daemon, "127.0.0.4");
    assert_eq!(sign(&mut again), CkRv::FUNCTION_REJECTED);
    assert!(sign(&mut ready(&daemon, "127.0.0.5")).is_ok());
    let log = daemon.log();
    let expected = "profile quota: C_Sign refused: max_signatures_per_day, 3, have been made";
    assert!(log.contains(expected), "{log}");

    let one = ready(&daemon, "127.0.0.6");
    let mut two = ready(&daemon, "127.0.0.7");
    refuses(
        &daemon,
        "127.0.0.6",
        "its profile connections already has max_connections, 2",
    );
    assert!(two.call(Call::C_GetInfo()).rv().is_ok());
    // Whose worker is killed leaves nothing behind.
    drop(one);
    let mut third = ready(&daemon, "127.0.0.7");
    let killed: Vec<i32> = daemon.workers().iter().map(|worker| worker.pid).collect();
    for worker in daemon.workers() {
        worker.signal(Signal::SIGKILL);
    }
    assert!(third.is_closed_within(PATIENCE));
    let are_others = || {
        let workers = daemon.workers();
        let mut workers = workers.iter();
        workers.len() > 0 && workers.all(|worker| !killed.contains(&worker.pid))
    };
    assert!(wait_until(PATIENCE, are_others), "{}", daemon.log());
    let both = [ready(&daemon, "127.0.0.6"), ready(&daemon, "127.0.0.7")];
    drop(both);

    for (address, calls) in [("127.0.0.8", 3), ("127.0.0.9", 16)] {
        let mut client = from(&daemon, address);
        let hello = client.call(xdr::Call::C_SetupArch(xdr::Hello::default()));
        let xdr::Reply::C_SetupArch(hello) = hello else {
            panic!("{hello:?}");
        };
        assert_eq!(hello.hello.parallel_calls, xdr::Ulong(calls), "{address}");
    }
}

#[test]
fn calls_over_the_rate_wait_and_others_do_not() {
    let token = Token::new();
    let profile =
        "profile { name = \"slow\"; network = \"127.0.0.2\"; max_calls_per_second = 10 };";
    let daemon = with_profiles(&token, profile).start();
    let time = |client: &mut Client, calls: usize| {
        let start = Instant::now();
        for _ in 0..calls {
            assert!(client.call(Call::C_GetInfo()).rv().is_ok());
        }
        start.elapsed()
    };
    let mut client = ready(&daemon, "127.0.0.2");
    std::thread::sleep(Duration::from_secs(1));
    // A second's calls are free, the other 10 take a second.
    let taken = time(&mut client, 20);
    assert!(taken >= Duration::from_millis(850), "{taken:?}");
    assert!(taken < Duration::from_secs(5), "{taken:?}");
    let mut other = ready(&daemon, "127.0.0.3");
    assert!(time(&mut other, 20) < Duration::from_millis(800));
}

/// Of the users that may connect to a Unix socket.
#[test]
fn users_of_a_unix_socket_get_their_profiles() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can run clients as other users");
        return;
    }
    let token = Token::new();
    let public = Directory::new();
    let path = public.join("socket");
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
    };
    mode(public.path(), 0o755);
    let mut setup = with_profiles(
        &token,
        "profile { name = \"administrators\"; uid = \"root\"; gid = \"0\" };
         profile { name = \"group\"; gid = \"65534\" };
         profile { name = \"user\"; uid = \"7 65534\" };
         without_profile = \"refuse\";",
    );
    setup.service = format!(
        "protocol {{ name = \"local\"; local_chmod = \"0o666\";
           address {{ type = \"local\"; path = \"{}\" }} }};",
        path.display()
    );
    let daemon = setup.start();
    let connects = |uid: u32, gid: u32| {
        let mut command = Command::new("setpriv");
        command
            .args([&format!("--reuid={uid}"), &format!("--regid={gid}")])
            .args(["--clear-groups", "--", "/usr/bin/python3", "-c"])
            // Nothing is sent: the answer is the end of the connection, or none.
            .arg(
                "import socket, sys; s = socket.socket(socket.AF_UNIX); s.settimeout(1); \
                 s.connect(sys.argv[1]); print('closed' if s.recv(9) == b'' else 'data')",
            )
            .arg(&path);
        run(command, PATIENCE).stdout
    };
    for (uid, gid, profile) in [
        (0, 0, "administrators"),
        (0, 65534, "group"),
        (65534, 65534, "group"),
        (65534, 7, "user"),
        (7, 7, "user"),
    ] {
        let count = || {
            let text = format!(": profile {profile}\n");
            daemon.log().matches(&text).count()
        };
        let before = count();
        assert_eq!(connects(uid, gid), "", "uid {uid}, gid {gid}");
        let is_logged = || count() == before + 1;
        assert!(
            wait_until(PATIENCE, is_logged),
            "{uid} {gid}: {}",
            daemon.log()
        );
    }
    assert_eq!(connects(8, 8), "closed\n");
    let is_logged = || daemon.log().contains("no profile matches uid=8 gid=8");
    assert!(wait_until(PATIENCE, is_logged), "{}", daemon.log());
    // By name, and for a profile that is for nobody a warning.
    let outcome = check(&daemon, "uid=root gid=0");
    assert!(
        outcome
            .stdout
            .contains("it gets the profile administrators"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn a_profile_has_a_sandbox_of_its_own() {
    let token = Token::new();
    for (service, profile, expected) in [
        ("default", "strict", ["done", "EACCES"]),
        ("strict", "default", ["EACCES", "done"]),
        ("strict", "none", ["EACCES", "done"]),
    ] {
        let section = format!(
            "sandbox {{ preset = \"{service}\" }};
             profile {{ name = \"own\"; network = \"127.0.0.2\"; sandbox {{ preset = \"{profile}\" }} }};"
        );
        let is_root = nix::unistd::geteuid().is_root();
        let (mut setup, _public) = hostile_as_nobody(&token, &section);
        if !is_root {
            setup.service = String::new();
        }
        let daemon = setup.start();
        for (address, expected) in ["127.0.0.3", "127.0.0.2"].iter().zip(expected) {
            let mut client = ready(&daemon, address);
            let found = obeys(&mut client, "read /etc/passwd");
            assert_eq!(found, expected, "{service} {profile} {address}");
        }
    }
}

/// With `-profile` workers write down what they call, whichever sandbox their client's profile has.
#[test]
fn a_profile_has_its_own_list_of_system_calls() {
    let token = Token::new();
    let directory = Directory::new();
    let list = directory.join("list");
    let section = format!(
        "profile {{ name = \"own\"; network = \"127.0.0.2\";
           sandbox {{ preset = \"learned\"; profile = \"{}\" }} }};",
        list.display()
    );
    let mut recording = with_profiles(&token, &section);
    recording.options = vec!["-profile".into(), list.display().to_string()];
    let daemon = recording.start();
    let use_it = |daemon: &Daemon, address: &str| {
        let mut client = ready(daemon, address);
        assert!(client.call(Call::C_GetInfo()).rv().is_ok());
    };
    use_it(&daemon, "127.0.0.2");
    use_it(&daemon, "127.0.0.3");
    drop(daemon);
    let recorded = std::fs::read_to_string(&list).expect("a list");
    assert!(recorded.lines().count() > 5, "{recorded}");
    let daemon = with_profiles(&token, &section).start();
    use_it(&daemon, "127.0.0.2");
    use_it(&daemon, "127.0.0.3");
}

#[test]
fn what_is_wrong_with_a_profile_ends_the_start() {
    let directory = with_rules();
    let tcp = "type = \"internet\"; bind = \"127.0.0.1:0\"";
    for (profile, expected) in [
        (
            "modules = \"null other\"",
            "d.conf:2: netplex.service[0].processor.profile[0].modules: ",
        ),
        ("filter_config = \"none.conf\"", "none.conf"),
        ("sandbox { root = \"/\" }", "root"),
        (
            "uid = \"0\"",
            "can match nobody: the service has no Unix socket",
        ),
        (
            "sandbox { preset = \"learned\"; profile = \"/nonexistent\" }",
            "/nonexistent",
        ),
    ] {
        let conf = configuration(tcp, &format!("profile {{ name = \"a\"; {profile} }};"));
        let output = refused(&directory, &conf, &["-fg"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{profile}: {text}");
        assert!(text.contains(expected), "{profile}: {text}");
    }
}
