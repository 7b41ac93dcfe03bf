//! Tests the start: which errors end it, and what it does with files that already exist.

use crate::*;

/// So that a site goes back without editing its file.
#[test]
fn the_originals_daemon_starts_with_a_file_that_has_our_additions() {
    let token = Token::new();
    let mut setup = Setup::new(Maker::Original, Endpoint::Tcp, &token);
    setup.daemon = "drain_timeout = 3.0; mechanisms_file = \"mechanisms.toml\"".into();
    setup.processor = "max_record_size = 65536; record_memory = 4194304; record_timeout = 3.0; \
                       max_connections_per_peer = 9; first_call_timeout = 3.0; \
                       proxy_protocol = true; proxy_from = \"127.0.0.1 10.1.0.0/24\"; \
                       abandoned_call_timeout = 3.0; max_failed_logins = 5; \
                       failed_login_window = 60.0; handshake_timeout = 3.0; flat_mechanisms = \"\"; \
                       protocol = 4; max_parallel_calls = 3; compatibility = \"\"; \
                       module { alias = \"softhsm\"; init_args = \"\" }; without_profile = \"refuse\"; \
                       profile { name = \"a\"; network = \"127.0.0.0/8 ::1\"; modules = \"softhsm\"; \
                         max_sessions = 5; max_calls_per_second = 50; max_signatures_per_day = 500; \
                         sandbox { preset = \"strict\" } }; profile { name = \"b\" };"
        .into();
    let daemon = setup.start();
    assert!(daemon.accepts());
}

/// The comments too: the original's lexer reads them.
#[test]
fn both_daemons_take_the_files_in_etc() {
    let etc = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc");
    let directory = Directory::new();
    let address = format!("127.0.0.1:{}", support::daemon::free_port());
    let rules = directory.join("filter.conf");
    std::fs::copy(etc.join("filter.conf"), &rules).expect("a copy");
    let text = std::fs::read_to_string(etc.join("pkcs11proxyd.conf")).expect("a file");
    let conf = directory.join("d.conf");
    let text = text
        .replace("127.0.0.1:4444", &address)
        .replace("\"filter.conf\"", &format!("\"{}\"", rules.display()));
    std::fs::write(&conf, text).expect("a file");
    let mut check = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyd"));
    check.args(["-check", "-conf"]).arg(&conf);
    let outcome = run(check, Duration::from_secs(20));
    assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);

    let mut original = Command::new("/usr/bin/pkcs11proxyd");
    original.args(["-fg", "-conf"]).arg(&conf);
    let original = Running::start(original);
    let is_there = || std::net::TcpStream::connect(&address).is_ok();
    let listens = wait_until(Duration::from_secs(20), is_there);
    Process::of(original.pid())
        .expect("it runs")
        .signal(Signal::SIGTERM);
    let outcome = original.finish(Duration::from_secs(10));
    assert!(listens, "{}", outcome.stderr);
}

/// As systemd passes it (LISTEN_FDS), and as sd_listen_fds(3) describes.
#[test]
fn sockets_of_the_service_manager_are_taken_and_stay_when_the_daemon_ends() {
    let directory = with_rules();
    let passed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = passed.local_addr().expect("bound").to_string();
    let inherit = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty());
    nix::fcntl::fcntl(&passed, inherit).expect("a flag");
    let start = |bind: &str| {
        let address = format!("type = \"internet\"; bind = \"{bind}\"");
        let conf = directory.join("d.conf");
        std::fs::write(&conf, configuration(&address, "")).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyd"));
        command.args(["-fg", "-conf"]).arg(&conf);
        command
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDS_FIRST_FD", passed.as_raw_fd().to_string());
        Running::start(command)
    };
    let daemon = start(&address);
    let mut stream = std::net::TcpStream::connect(&address).expect("it listens");
    let request = encoded(&Call::C_LoadModule(b"null"));
    stream.write_all(&request).expect("sent");
    assert!(stream.read(&mut [0; 4]).expect("a reply") > 0);
    Process::of(daemon.pid())
        .expect("it runs")
        .signal(Signal::SIGTERM);
    let outcome = daemon.finish(Duration::from_secs(10));
    assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
    // Whoever passed it has it still.
    assert!(std::net::TcpStream::connect(&address).is_ok());

    let outcome = start("127.0.0.1:0").finish(Duration::from_secs(10));
    assert_eq!(outcome.status.code(), Some(2), "{}", outcome.stderr);
    let expected = format!("a socket for {address}, which is not an address of the configuration");
    assert!(outcome.stderr.contains(&expected), "{}", outcome.stderr);
}

#[test]
fn the_service_manager_hears_when_the_daemon_is_ready_reloads_stops_and_is_alive() {
    let token = Token::new();
    let directory = Directory::new();
    let socket = directory.join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).expect("a socket");
    let patience = Some(Duration::from_secs(20));
    manager.set_read_timeout(patience).expect("a timeout");
    let mut setup = setup(&token);
    let variable = |name: &str, value: String| (name.to_owned(), value);
    setup.environment.extend([
        variable("NOTIFY_SOCKET", socket.display().to_string()),
        variable("WATCHDOG_USEC", "200000".into()),
    ]);
    let mut daemon = setup.start();
    let next = || {
        let mut message = [0; 256];
        let length = manager.recv(&mut message).expect("a message");
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let other_than_alive = || loop {
        let message = next();
        if message != "WATCHDOG=1\n" {
            return message;
        }
    };
    assert_eq!(next(), "READY=1\n");
    assert_eq!(next(), "WATCHDOG=1\n");
    assert_eq!(next(), "WATCHDOG=1\n");
    daemon.process().signal(Signal::SIGHUP);
    let reloading = other_than_alive();
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert_eq!(other_than_alive(), "READY=1\n");
    assert_eq!(daemon.terminate().and_then(|status| status.code()), Some(0));
    assert_eq!(other_than_alive(), "STOPPING=1\n");
}

/// Where nothing can be written any more.
#[test]
fn a_pid_file_that_cannot_be_written_ends_the_start_and_is_not_left_empty() {
    let directory = with_rules();
    let conf = configuration("type = \"internet\"; bind = \"127.0.0.1:0\"", "");
    let pid_file = directory.join("pid");
    std::fs::write(directory.join("d.conf"), conf).expect("a file");
    for mode in ["", " -fg"] {
        let mut command = Command::new("sh");
        // No file may grow: as on a full disk.
        let script = format!(
            "ulimit -f 0; trap '' XFSZ; exec timeout 20 {} -conf d.conf -pid pid{mode}",
            env!("CARGO_BIN_EXE_pkcs11proxyd")
        );
        command.arg("-c").arg(script).current_dir(directory.path());
        // Its output goes through pipes: it can write no file.
        let output = command.output().expect("a shell");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("cannot write pid file"), "{text}");
        assert!(!pid_file.exists());
    }
}

#[test]
fn what_is_wrong_at_start_ends_it_with_status_2_in_daemon_mode_too() {
    let directory = Directory::new();
    let null = module("nullmodule");
    let good = format!("modules = [(\"null\", \"{}\")]\n", null.display());
    std::fs::write(directory.join("filter.conf"), &good).expect("a file");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = format!(
        "type = \"internet\"; bind = \"{}\"",
        taken.local_addr().expect("bound")
    );
    let free = "type = \"internet\"; bind = \"127.0.0.1:0\"";
    for (conf, expected) in [
        (configuration(&taken, ""), "cannot listen"),
        (
            configuration("type = \"local\"; path = \"/nonexistent/s\"", ""),
            "cannot listen",
        ),
        (configuration(free, "use_ssl = maybe"), "d.conf:2"),
        (configuration(free, "max_record_size = 3"), "d.conf:2: "),
        (
            configuration(free, "record_memory = 4194303"),
            "expected 4194304 or more",
        ),
        (configuration(free, "no_such_option = 3"), "no_such_option"),
        (
            configuration(free, "module { alias = \"unknown\"; }"),
            "d.conf:2: netplex.service[0].processor.module[0].alias: ",
        ),
        ("netplex { }".into(), "d.conf:1"),
        (
            configuration(free, "").replacen("{ ", "{\n controller { max_level = \"loud\" }; ", 1),
            "d.conf:2",
        ),
    ] {
        for more in [&[][..], &["-fg"]] {
            let output = refused(&directory, &conf, more);
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{conf}: {text}");
            assert!(text.contains(expected), "{conf}: {text}");
        }
    }
    std::fs::write(
        directory.join("filter.conf"),
        "modules = [\n(\"null\" \"x\"]]]\n",
    )
    .expect("a file");
    let output = refused(&directory, &configuration(free, ""), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("filter.conf:2"));
}

#[test]
fn a_socket_somebody_listens_at_is_not_taken_and_a_stale_one_is_replaced() {
    let directory = Directory::new();
    let null = module("nullmodule");
    std::fs::write(
        directory.join("filter.conf"),
        format!("modules = [(\"null\", \"{}\")]\n", null.display()),
    )
    .expect("a file");
    let path = directory.join("s");
    let conf = configuration(
        &format!("type = \"local\"; path = \"{}\"", path.display()),
        "",
    );

    std::fs::write(&path, "precious").expect("a file");
    assert_eq!(refused(&directory, &conf, &[]).status.code(), Some(2));
    assert_eq!(
        std::fs::read_to_string(&path).expect("still there"),
        "precious"
    );
    std::fs::remove_file(&path).expect("removed");

    let listener = UnixListener::bind(&path).expect("bound");
    assert_eq!(refused(&directory, &conf, &[]).status.code(), Some(2));
    drop(listener);

    // Detached this time: the launcher returns when clients are accepted.
    let pid_file = directory.join("pid");
    let output = refused(
        &directory,
        &conf,
        &["-pid", &pid_file.display().to_string()],
    );
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(path.metadata().expect("a socket").file_type().is_socket());
    drop(UnixStream::connect(&path).expect("it listens when the launcher has returned"));
    let pid = std::fs::read_to_string(&pid_file).expect("a pid file");
    let daemon =
        support::processes::Process::of(pid.trim().parse().expect("a number")).expect("runs");
    daemon.signal(Signal::SIGTERM);
    assert!(wait_until(Duration::from_secs(5), || !path.exists()
        && !pid_file.exists()));
}

#[test]
fn a_file_that_tells_the_port_replaces_only_its_like() {
    let directory = with_rules();
    let path = directory.join("port");
    let address = format!("type = \"socket_file\"; path = \"{}\"", path.display());
    let conf = configuration(&address, "");
    std::fs::write(&path, "precious").expect("a file");
    assert_eq!(refused(&directory, &conf, &[]).status.code(), Some(2));
    let kept = std::fs::read_to_string(&path).expect("still there");
    assert_eq!(kept, "precious");
    std::fs::remove_file(&path).expect("a file");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    assert_eq!(refused(&directory, &conf, &[]).status.code(), Some(2));
    std::fs::remove_file(&path).expect("still there");

    std::fs::write(&path, "socket_file\n1\n").expect("a file");
    let pid_file = directory.join("pid");
    let output = refused(
        &directory,
        &conf,
        &["-pid", &pid_file.display().to_string()],
    );
    assert_eq!(output.status.code(), Some(0));
    let pid = std::fs::read_to_string(&pid_file).expect("a pid file");
    let daemon = Process::of(pid.trim().parse().expect("a number")).expect("runs");
    let told = std::fs::read_to_string(&path).expect("a file");
    let port = told.strip_prefix("socket_file\n").expect("its first line");
    let port: u16 = port.trim().parse().expect("a port");
    drop(TcpStream::connect(("127.0.0.1", port)).expect("it listens there"));
    let mode = path.metadata().expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    daemon.signal(Signal::SIGTERM);
    assert!(wait_until(Duration::from_secs(5), || !path.exists()));
    assert!(wait_until(Duration::from_secs(5), || !daemon.is_alive()));
    let left = std::fs::read_dir(directory.path()).expect("a directory");
    assert_eq!(left.count(), 2, "d.conf and filter.conf");
}

#[test]
fn options_say_what_is_wrong_with_them() {
    let daemon = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyd"));
        command.args(arguments);
        run(command, Duration::from_secs(10))
    };
    for arguments in [&["-help"][..], &["--help"], &["-debug-list"]] {
        let outcome = daemon(arguments);
        assert_eq!(
            (outcome.status.code(), outcome.stderr.as_str()),
            (Some(0), "")
        );
        assert!(!outcome.stdout.is_empty());
    }
    for arguments in [
        &["-bogus"][..],
        &["stray"],
        &["-conf"],
        &["-conf", "/nonexistent"],
    ] {
        let outcome = daemon(arguments);
        assert_eq!(
            (outcome.status.code(), outcome.stdout.as_str()),
            (Some(2), "")
        );
        assert!(!outcome.stderr.is_empty());
    }
}
