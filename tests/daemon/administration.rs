//! Tests the control socket and `pkcs11proxyctl`.

use crate::support::processes::Outcome;
use crate::*;

/// Runs `pkcs11proxyctl` with the daemon's control socket.
pub fn ctl(daemon: &Daemon, words: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyctl"));
    command
        .arg("-socket")
        .arg(daemon.directory().join("control"))
        .args(words);
    run(command, Duration::from_secs(20))
}

/// A daemon with a control socket in its directory.
fn administered(mut setup: Setup) -> Daemon {
    // If relative, to the socket directory.
    setup.daemon = "control_socket = \"../control\";".into();
    setup.start()
}

#[test]
fn status_shows_each_client_and_disconnect_ends_one() {
    let token = Token::new();
    let daemon = administered(setup(&token));
    let mut first = Client::ready(&daemon);
    let mut second = Client::ready(&daemon);
    assert!(second.call(Call::C_GetInfo()).rv().is_ok());

    let output = ctl(&daemon, &["-json", "status"]);
    let state: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
    let service = &state["status"]["services"][0];
    assert_eq!(service["max_workers"], 50, "{state}");
    let clients = service["clients"].as_array().expect("clients");
    let [one, other] = clients.as_slice() else {
        panic!("{state}");
    };
    for (client, calls, last) in [(one, 4, "C_OpenSession"), (other, 5, "C_GetInfo")] {
        assert_eq!(client["module"], "null", "{state}");
        assert_eq!(client["calls"], calls, "{state}");
        assert_eq!(client["in_flight"], 0, "{state}");
        assert_eq!(client["last_call"], last, "{state}");
    }

    let listed = ctl(&daemon, &["status"]).stdout;
    assert!(listed.contains("2 clients"), "{listed}");
    let top = ctl(&daemon, &["-rounds", "1", "top"]).stdout;
    assert!(top.contains("CALLS/S") && top.contains("null"), "{top}");

    let number = one["id"].to_string();
    assert_eq!(
        ctl(&daemon, &["disconnect", &number]).status.code(),
        Some(0)
    );
    assert!(first.is_closed_within(Duration::from_secs(5)));
    assert!(second.call(Call::C_GetInfo()).rv().is_ok());
    let unknown = ctl(&daemon, &["disconnect", "4711"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(unknown.stderr.contains("no client 4711"));
    let log = daemon.log();
    assert!(log.contains("asks: Disconnect("), "{log}");
    assert!(!log.contains("terminated by signal"), "{log}");
}

/// Over HTTP, and with `pkcs11proxyctl metrics`.
#[test]
fn a_monitoring_system_gets_the_numbers_at_a_loopback_address() {
    let token = Token::new();
    let address = free_address();
    let mut setup = setup(&token);
    setup.daemon = format!("control_socket = \"../control\"; metrics = \"{address}\"");
    setup.filter = "forbidden_functions = [(\"null\", [C_GetInfo])]".into();
    let daemon = setup.start();
    let mut client = Client::ready(&daemon);
    assert!(!client.call(Call::C_GetInfo()).rv().is_ok());
    assert!(
        !client
            .call(Call::C_CloseSession(SessionHandle(4711)))
            .rv()
            .is_ok()
    );
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(&address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    // The daemon hears of a client's first call while that is being answered.
    let serving = "state=\"serving\"} 1";
    assert!(wait_until(PATIENCE, || ask(
        "GET /metrics HTTP/1.1\r\n\r\n"
    )
    .contains(serving)));
    let answer = ask("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let printed = ctl(&daemon, &["metrics"]).stdout;
    let service = "service=\"PKCS#11 Filtering Proxy\"";
    for line in [
        format!("pkcs11proxy_calls_total{{{service},function=\"C_OpenSession\",result=\"OK\"}} 1"),
        format!("pkcs11proxy_workers{{{service},state=\"serving\"}} 1"),
        format!(
            "pkcs11proxy_refusals_total{{{service},rule=\"forbidden_functions\",line=\"2\"}} 1"
        ),
        format!("pkcs11proxy_call_duration_seconds_count{{{service}}} 6"),
        // C_SetupArch and C_LoadModule are answered without the module.
        format!("pkcs11proxy_module_duration_seconds_count{{{service}}} 3"),
    ] {
        assert!(
            answer.lines().any(|found| found == line),
            "{line}\n{answer}"
        );
        assert!(
            printed.lines().any(|found| found == line),
            "{line}\n{printed}"
        );
    }
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(ask("GET /status HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    let mut silent: Vec<TcpStream> = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(&address).expect("it listens"));
    }
    assert!(ask("GET /metrics HTTP/1.0\r\n\r\n").contains("# EOF"));
    assert!(
        !client
            .call(Call::C_CloseSession(SessionHandle(4711)))
            .rv()
            .is_ok()
    );
}

/// An address that nobody listens at.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").to_string()
}

#[test]
fn ready_asks_each_module_for_its_slots() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.max_threads = 2;
    let hanging = module("nullmodule");
    setup.modules.push(("other".into(), hanging));
    let daemon = administered(setup);
    // Whoever has all workers is not in the way.
    let clients = [Client::ready(&daemon), Client::ready(&daemon)];
    let ready = ctl(&daemon, &["ready"]);
    assert_eq!(ready.status.code(), Some(0), "{}", ready.stderr);
    for alias in ["null", "other"] {
        let line = format!("PKCS#11 Filtering Proxy, {alias}: ready, ");
        assert!(ready.stdout.contains(&line), "{}", ready.stdout);
    }
    assert!(wait_until(PATIENCE, || daemon.workers().len() == 2));
    drop(clients);

    let filter = daemon.directory().join("filter.conf");
    let rules = std::fs::read_to_string(&filter).expect("a file");
    let rules = rules.replacen("nullmodule", "nomodule", 1);
    std::fs::write(&filter, rules).expect("a file");
    assert_eq!(ctl(&daemon, &["reload"]).status.code(), Some(0));
    let ready = ctl(&daemon, &["ready"]);
    assert_eq!(ready.status.code(), Some(1));
    assert!(
        ready.stderr.contains(", null: C_LoadModule returned"),
        "{}",
        ready.stderr
    );
    assert!(ready.stdout.contains(", other: ready"), "{}", ready.stdout);
}

#[test]
fn a_readiness_check_of_a_module_that_hangs_leaves_nothing() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.environment = vec![("NULLMODULE_SLEEP".into(), "C_Initialize:600000".into())];
    let daemon = administered(setup);
    let idle = 1;
    assert!(wait_until(PATIENCE, || daemon.workers().len() == idle));
    let ready = ctl(&daemon, &["ready"]);
    assert_eq!(ready.status.code(), Some(1));
    assert!(ready.stderr.contains("takes longer"), "{}", ready.stderr);
    assert!(daemon.workers().len() > idle);
    let end = Duration::from_secs(40);
    assert!(wait_until(end, || daemon.workers().len() == idle));
    let told = "a readiness check is ended: its module does not answer";
    assert!(wait_until(PATIENCE, || daemon.log().contains(told)));
}

#[test]
fn reload_drain_and_stop_do_what_the_signals_do() {
    let token = Token::new();
    let mut daemon = administered(setup(&token));
    let filter = daemon.directory().join("filter.conf");
    assert_eq!(ctl(&daemon, &["reload"]).status.code(), Some(0));
    std::fs::write(&filter, "modules = [(").expect("a file");
    let failed = ctl(&daemon, &["reload"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(failed.stderr.contains("filter.conf:1"));

    let client = Client::ready(&daemon);
    assert_eq!(ctl(&daemon, &["drain"]).status.code(), Some(0));
    assert!(wait_until(PATIENCE, || !daemon.accepts()));
    let status = ctl(&daemon, &["status"]).stdout;
    assert!(status.contains("draining"), "{status}");
    assert_eq!(ctl(&daemon, &["stop"]).status.code(), Some(0));
    assert_eq!(daemon.wait().and_then(|status| status.code()), Some(0));
    drop(client);
    assert!(!daemon.directory().join("control").exists());
    let gone = ctl(&daemon, &["status"]);
    assert_eq!(gone.status.code(), Some(2));
    assert!(gone.stderr.contains("is the daemon running"));
}

/// Neither other users nor workers reach it, and what is no request changes nothing.
#[test]
fn only_root_and_the_daemons_user_reach_the_control_socket() {
    let token = Token::new();
    let daemon = administered(setup(&token));
    let control = daemon.directory().join("control");
    let mode = control.metadata().expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let client = Client::ready(&daemon);
    let inode = std::fs::read_to_string("/proc/net/unix").expect("sockets");
    let inode = inode
        .lines()
        .find(|line| {
            // Bound by the path that the configuration makes.
            let bound = daemon.directory().join("run/../control");
            line.ends_with(&bound.display().to_string())
        })
        .and_then(|line| line.split_whitespace().nth(6))
        .expect("it listens")
        .to_owned();
    let holds = |process: &Process| {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", process.pid));
        descriptors.expect("it runs").any(|descriptor| {
            let target = std::fs::read_link(descriptor.expect("listed").path());
            target.is_ok_and(|target| target.display().to_string() == format!("socket:[{inode}]"))
        })
    };
    assert!(holds(&daemon.process()));
    // The first thing that a new process does is to close it.
    let hold_none = || !daemon.workers().iter().any(holds);
    assert!(wait_until(PATIENCE, hold_none));
    drop(client);

    if nix::unistd::geteuid().is_root() {
        // Others may connect by the file's mode now, and are asked who they are.
        std::fs::set_permissions(&control, std::fs::Permissions::from_mode(0o666)).expect("a mode");
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .args(["/usr/bin/python3", "-c"])
            .arg("import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(9))")
            .arg(&control);
        let outcome = run(command, Duration::from_secs(20));
        assert_eq!(outcome.stdout, "b''\n", "{}", outcome.stderr);
        let is_logged = || daemon.log().contains("refused: not root");
        assert!(wait_until(PATIENCE, is_logged), "{}", daemon.log());
    }

    let mut strange = UnixStream::connect(&control).expect("it listens");
    strange
        .write_all(b"{\"shutdown\":1}\n\"status\"\n")
        .expect("sent");
    strange.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut replies = std::io::BufRead::lines(std::io::BufReader::new(&strange));
    let mut next = || replies.next().expect("a line").expect("a reply");
    assert!(next().starts_with("{\"failed\":"));
    assert!(next().starts_with("{\"status\":"));
    let mut endless = UnixStream::connect(&control).expect("it listens");
    let _cut = endless.write_all(&vec![b'x'; 1 << 20]);
    endless.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert_eq!(endless.read(&mut [0]).unwrap_or(0), 0);
    assert!(daemon.process().is_alive());
}

/// A new daemon serves new clients at the same sockets; the old one serves those it has.
#[test]
fn an_upgrade_refuses_no_connection_and_cuts_off_no_client() {
    for endpoint in [Endpoint::Tcp, Endpoint::Unix] {
        let token = Token::new();
        let mut setup = setup(&token);
        setup.endpoint = endpoint;
        let metrics = free_address();
        setup.daemon = format!("control_socket = \"../control\"; metrics = \"{metrics}\"");
        let daemon = setup.start();
        let pid_file = daemon.directory().join("pid");
        let old_pid = std::fs::read_to_string(&pid_file).expect("a pid file");
        let stop = std::sync::atomic::AtomicBool::new(false);
        let mut old = connect(&daemon);
        assert!(load(&mut *old));
        let new_pid = std::thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                let mut count = 0;
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    assert!(load(&mut *connect(&daemon)), "{}", daemon.log());
                    count += 1;
                }
                count
            });
            let outcome = ctl(&daemon, &["upgrade"]);
            assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
            let new_pid = std::fs::read_to_string(&pid_file).expect("a pid file");
            std::thread::sleep(Duration::from_millis(500));
            stop.store(true, std::sync::atomic::Ordering::SeqCst);
            assert!(connecting.join().expect("no panic") > 5);
            new_pid
        });
        assert_ne!(old_pid, new_pid);
        assert!(daemon.log().contains("has taken over"), "{}", daemon.log());

        // The old daemon serves its client, and ends when that leaves.
        assert!(daemon.process().is_alive());
        old.write_all(&encoded(&Call::C_Initialize()))
            .expect("sent");
        assert!(old.read(&mut [0; 64]).expect("a reply") > 0);
        drop(old);
        assert!(wait_until(PATIENCE, || !daemon.process().is_alive()));
        assert!(daemon.accepts());
        let status = ctl(&daemon, &["status"]).stdout;
        assert!(status.contains(new_pid.trim()), "{status}");
        assert_eq!(std::fs::read_to_string(&pid_file).expect("still"), new_pid);
        assert!(TcpStream::connect(&metrics).is_ok());
        assert_eq!(ctl(&daemon, &["stop"]).status.code(), Some(0));
        assert!(wait_until(PATIENCE, || !daemon.accepts() && !pid_file.exists()));
    }
}

/// How many filters of system calls a process has, by the process id in this file.
fn filters(pid_file: &Path) -> usize {
    let pid = std::fs::read_to_string(pid_file).expect("a pid file");
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim()));
    let status = status.expect("a process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp_filters:"));
    line.and_then(|count| count.trim().parse().ok())
        .expect("Linux 5.9")
}

/// A daemon inherits the filters of the one that it takes over from. The kernel takes those of about sixty daemons.
#[test]
fn seventy_upgrades_add_no_filter_of_system_calls() {
    let token = Token::new();
    let daemon = administered(setup(&token));
    let pid_file = daemon.directory().join("pid");
    // It accepts clients before it has confined itself.
    let is_confined = || daemon.log().contains("controller: capabilities");
    assert!(wait_until(PATIENCE, is_confined));
    let before = filters(&pid_file);
    for _ in 0..70 {
        let outcome = ctl(&daemon, &["upgrade"]);
        assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
    }
    assert_eq!(filters(&pid_file), before);
    assert!(load(&mut *connect(&daemon)), "{}", daemon.log());
    assert_eq!(ctl(&daemon, &["stop"]).status.code(), Some(0));
    assert!(wait_until(PATIENCE, || !pid_file.exists()));
}

/// A connection over either transport.
trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

fn connect(daemon: &Daemon) -> Box<dyn Stream> {
    let address = daemon.address();
    match address.starts_with('/') {
        true => Box::new(UnixStream::connect(address).expect("it accepts")),
        false => Box::new(TcpStream::connect(address).expect("it accepts")),
    }
}

/// Makes the first call of a client, which shows that it is served.
fn load(stream: &mut dyn Stream) -> bool {
    let call = encoded(&Call::C_LoadModule(b"null"));
    stream.write_all(&call).is_ok() && stream.read(&mut [0; 64]).is_ok_and(|count| count > 0)
}

#[test]
fn an_upgrade_that_fails_changes_nothing() {
    let token = Token::new();
    for endpoint in [Endpoint::Tcp, Endpoint::Unix] {
        let mut setup = setup(&token);
        setup.endpoint = endpoint;
        let daemon = administered(setup);
        let pid_file = daemon.directory().join("pid");
        let pid = std::fs::read_to_string(&pid_file).expect("a pid file");
        let conf = daemon.directory().join("pkcs11proxyd.conf");
        let good = std::fs::read_to_string(&conf).expect("a file");
        let mut client = connect(&daemon);
        assert!(load(&mut *client));
        let write = |text: &str| std::fs::write(&conf, text).expect("a file");
        write(&good.replace("max_threads", "most_threads"));
        let outcome = ctl(&daemon, &["upgrade"]);
        assert_eq!(outcome.status.code(), Some(1));
        assert!(outcome.stderr.contains("exit code 2"), "{}", outcome.stderr);
        assert!(daemon.log().contains("most_threads"), "{}", daemon.log());

        // Two that fail after they have the sockets: before and after they listen at all of them.
        let address = "address { type = \"local\"; path = \"/nonexistent/s\" }; address {";
        write(&good.replacen("address {", address, 1));
        let outcome = ctl(&daemon, &["upgrade"]);
        assert_eq!(outcome.status.code(), Some(1));
        assert!(daemon.log().contains("cannot listen at /nonexistent/s"));
        let service = "service { name = \"another\"; protocol { name = \"rpc_pkcs11\"; address { type = \"local\"; path = \"/nonexistent/t\" }; };";
        let at = good.rfind("service {").expect("a service");
        let whole = &good[at..good.rfind('}').expect("the end")];
        let rest = &whole[whole.find("processor").expect("a processor")..];
        write(&format!(
            "{}{service}{rest}}}",
            &good[..good.rfind('}').expect("the end")]
        ));
        let outcome = ctl(&daemon, &["upgrade"]);
        assert_eq!(outcome.status.code(), Some(1));
        assert!(daemon.log().contains("/nonexistent/t"), "{}", daemon.log());

        assert!(load(&mut *client) && load(&mut *connect(&daemon)));
        assert_eq!(std::fs::read_to_string(&pid_file).expect("still"), pid);
        let status = ctl(&daemon, &["status"]);
        assert_eq!(status.status.code(), Some(0), "{}", status.stderr);
        assert!(!status.stdout.contains("draining"), "{}", status.stdout);
        // The next one succeeds.
        write(&good);
        let outcome = ctl(&daemon, &["upgrade"]);
        assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
        assert!(load(&mut *connect(&daemon)));
        let address = daemon.address();
        let path = std::path::Path::new(&address);
        if let Endpoint::Unix = endpoint {
            assert!(path.exists());
        }
        assert_eq!(ctl(&daemon, &["stop"]).status.code(), Some(0));
        if let Endpoint::Unix = endpoint {
            assert!(wait_until(PATIENCE, || !path.exists()));
        }
    }
}

/// The service manager watches the new daemon from then on.
#[test]
fn after_an_upgrade_the_new_daemon_says_that_it_is_alive() {
    let directory = with_rules();
    let path = |name: &str| directory.join(name).display().to_string();
    let manager = std::os::unix::net::UnixDatagram::bind(path("notify")).expect("a socket");
    manager
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    let told = |expected: &str| loop {
        let mut message = [0; 256];
        let length = manager.recv(&mut message).expect("a message");
        let message = String::from_utf8_lossy(&message[..length]).into_owned();
        if message.starts_with(expected) {
            return message;
        }
    };
    let ctl = |what: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyctl"));
        command.args(["-socket", &path("control"), what]);
        let outcome = run(command, Duration::from_secs(20));
        assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
    };
    let address = format!("type = \"local\"; path = \"{}\"", path("s"));
    let control = format!(
        "netplex {{ daemon {{ control_socket = \"{}\" }};",
        path("control")
    );
    let conf = configuration(&address, "").replacen("netplex {", &control, 1);
    std::fs::write(path("d.conf"), conf).expect("a file");
    let mut command = Command::new("sh");
    let daemon = env!("CARGO_BIN_EXE_pkcs11proxyd");
    let script = format!("export WATCHDOG_PID=$$; exec '{daemon}' -fg -conf d.conf");
    command.arg("-c").arg(script).current_dir(directory.path());
    command
        .env("NOTIFY_SOCKET", path("notify"))
        .env("WATCHDOG_USEC", "200000");
    let old = Running::start(command);
    told("READY=1");
    told("WATCHDOG=1");
    ctl("upgrade");
    told("MAINPID=");
    assert_eq!(old.finish(Duration::from_secs(20)).status.code(), Some(0));
    // Only the new one is there.
    manager.set_nonblocking(true).expect("a flag");
    while manager.recv(&mut [0; 256]).is_ok() {}
    manager.set_nonblocking(false).expect("a flag");
    told("WATCHDOG=1");
    ctl("stop");
    told("STOPPING=1");
}
