//! Tests workers: what they may do and keep, when they are forked, and what ends with them.

use crate::*;

/// Clients do not come back by themselves: C_Initialize fails, and with it the application.
#[test]
fn while_no_worker_can_be_forked_clients_wait() {
    if !nix::unistd::geteuid().is_root() {
        // Only root may see which descriptors of the controller are free.
        return;
    }
    let token = Token::new();
    let daemon = setup(&token).start();
    let controller = daemon.process();
    let limit_descriptors = |limit: usize| {
        let mut command = Command::new("prlimit");
        command.arg(format!("--pid={}", controller.pid));
        command.arg(format!("--nofile={limit}:1024"));
        assert!(run(command, Duration::from_secs(5)).status.success());
    };
    let _served = Client::ready(&daemon);
    // The third that was started waits for the first to come, the second serves, and the one that the
    // fixture's own connection had is gone.
    assert!(wait_until(Duration::from_secs(5), || {
        let started = daemon.log().matches("debug level of the filter").count();
        started == 3 && daemon.workers().len() == 2
    }));
    // One more to accept with; a fork takes three for a while.
    let open =
        |number: &usize| Path::new(&format!("/proc/{}/fd/{number}", controller.pid)).exists();
    let free = (0..1024)
        .find(|number| !open(number))
        .expect("a free number");
    limit_descriptors(free + 1);
    let _first = Client::ready(&daemon);
    let mut second = Client::new(&daemon);
    let call = Call::C_SetupArch(Architecture::host());
    second.send(&encoded(&call));
    assert!(!second.is_closed_within(Duration::from_millis(2500)));
    let failures = daemon.log().matches("cannot start a worker").count();
    assert!((1..=4).contains(&failures), "{}", daemon.log());
    limit_descriptors(1024);
    second
        .0
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    assert!(second.reply(&call) == Reply::C_SetupArch(Architecture::host()));
}

#[test]
fn a_worker_keeps_nothing_it_does_not_need() {
    let token = Token::new();
    let mut setup = setup(&token);
    let directory = Directory::new();
    let log = directory.join("module.log");
    setup.environment.extend([
        ("NULLMODULE_LOG".into(), log.display().to_string()),
        ("NULLMODULE_PROCESS".into(), "1".into()),
    ]);
    let daemon = setup.start();
    let _client = Client::ready(&daemon);
    // Standard input, output and error, the channel, and the client's socket, which there are two of: one is to leave
    // the client by (SIGUSR2). The worker tells: only root may look at what it has open.
    let told = std::fs::read_to_string(&log).expect("the module's log");
    assert_eq!(
        told.lines().next(),
        Some("process descriptors=6 directory=/")
    );
    assert!(wait_until(Duration::from_secs(5), || daemon
        .workers()
        .len()
        == 2));
    for worker in daemon.workers() {
        let read = |name: &str| {
            std::fs::read_to_string(format!("/proc/{}/{name}", worker.pid)).expect(name)
        };
        let field = |name: &str| -> String {
            let status = read("status");
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.expect(name).trim().to_owned()
        };
        // SIGTTOU alone. One that was forked just now is not there yet.
        let signals = || field("SigBlk:");
        let is_there = wait_until(PATIENCE, || signals() == "0000000000200000");
        assert!(is_there, "{}", signals());
        assert!(wait_until(PATIENCE, || field("NoNewPrivs:") == "1"));
        assert_eq!(field("Threads:"), "1");
        let limits = read("limits");
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let fields: Vec<&str> = core.expect("a limit").split_whitespace().collect();
        assert_eq!(fields[4..6], ["0", "0"]);
    }
}

/// The configured user and group, and none of root's supplementary groups. Needs root.
#[test]
fn workers_run_as_the_configured_user() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can start workers as another user");
        return;
    }
    let token = Token::new();
    let mut setup = setup(&token);
    setup.service = "user = \"nobody\"; group = \"daemon\";".into();
    // Others must be able to reach the module and the daemon's directory.
    let public = Directory::new();
    let copy = public.join("module.so");
    std::fs::copy(module("nullmodule"), &copy).expect("a copy");
    for path in [public.path(), &copy] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    setup.modules = vec![("null".into(), copy)];
    let daemon = setup.start();
    let mut client = Client::ready(&daemon);
    assert!(client.call(Call::C_GetInfo()).rv().is_ok());
    let user = nix::unistd::User::from_name("nobody")
        .expect("users")
        .expect("nobody");
    let group = nix::unistd::Group::from_name("daemon")
        .expect("groups")
        .expect("daemon");
    for worker in daemon.workers() {
        let ids_now = |name: &str| -> Vec<u32> {
            let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid));
            let status = status.expect("status");
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let ids = line.expect(name).split_whitespace();
            ids.filter_map(|id| id.parse().ok()).collect()
        };
        // One that was forked just now is root's until it is confined.
        wait_until(PATIENCE, || !ids_now("Uid:").contains(&0));
        let ids = ids_now;
        assert_eq!(ids("Uid:"), [user.uid.as_raw(); 4]);
        assert_eq!(ids("Gid:"), [group.gid.as_raw(); 4]);
        assert!(!ids("Groups:").contains(&0), "root's groups are kept");
    }
}

#[test]
fn workers_die_with_the_controller() {
    let token = Token::new();
    let daemon = setup(&token).start();
    let mut client = Client::ready(&daemon);
    let workers = daemon.workers();
    assert!(!workers.is_empty());
    daemon.process().signal(Signal::SIGKILL);
    assert!(wait_until(Duration::from_secs(5), || !workers
        .iter()
        .any(|w| w.is_alive())));
    assert!(client.record().is_none());
}

#[test]
fn without_spare_workers_one_is_forked_for_each_client() {
    let daemon = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyd"));
    forks_for_each_of_three_clients(daemon);
}

#[test]
fn workers_that_ended_are_noticed_though_sigchld_was_ignored_at_the_start() {
    let mut daemon = Command::new("env");
    daemon.args(["--ignore-signal=CHLD", env!("CARGO_BIN_EXE_pkcs11proxyd")]);
    forks_for_each_of_three_clients(daemon);
}

/// More of them, one after the other, than there may be workers.
fn forks_for_each_of_three_clients(mut command: Command) {
    let directory = with_rules();
    let path = directory.join("s");
    let address = format!("type = \"local\"; path = \"{}\"", path.display());
    let conf = configuration(&address, "").replace(
        "type = \"constant\"; threads = 2",
        "type = \"dynamic\"; min_free_jobs_capacity = 0; max_free_jobs_capacity = 0; max_threads = 2",
    );
    std::fs::write(directory.join("d.conf"), conf).expect("a file");
    command
        .arg("-fg")
        .arg("-conf")
        .arg(directory.join("d.conf"));
    let daemon = Running::start(command);
    let controller = Process::of(daemon.pid()).expect("it runs");
    assert!(wait_until(Duration::from_secs(5), || path.exists()));
    assert_eq!(controller.children(), []);
    for _ in 0..3 {
        let mut connected = None;
        assert!(wait_until(PATIENCE, || {
            connected = UnixStream::connect(&path).ok();
            connected.is_some()
        }));
        let mut client = connected.expect("it listens");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let call = encoded(&Call::C_SetupArch(Architecture::host()));
        client.write_all(&call).expect("room for a call");
        assert!(client.read(&mut [0; 64]).is_ok_and(|count| count > 0));
        assert_eq!(controller.children().len(), 1);
        drop(client);
        assert!(wait_until(Duration::from_secs(5), || {
            controller.children().is_empty()
        }));
    }
    controller.signal(Signal::SIGTERM);
    let outcome = daemon.finish(Duration::from_secs(10));
    assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
}

#[test]
fn what_a_module_forks_ends_with_its_worker() {
    let token = Token::new();
    let mut setup = setup(&token);
    let directory = Directory::new();
    let log = directory.join("module.log");
    setup.environment.extend([
        ("NULLMODULE_OBEY".into(), "1".into()),
        ("NULLMODULE_LOG".into(), log.display().to_string()),
    ]);
    let mut daemon = setup.start();
    let forked = |client: &mut Client| {
        let signed = client.call(Call::C_Sign(SESSION, b"fork"));
        assert!(signed.rv().is_ok());
        let told = std::fs::read_to_string(&log).expect("the module's log");
        let mut pids = told.lines().filter_map(|line| line.strip_prefix("forked "));
        let pid = pids.next_back().expect("a process id").parse();
        Process::of(pid.expect("a number")).expect("it lives a minute")
    };
    let (mut first, mut second) = (Client::ready(&daemon), Client::ready(&daemon));
    let (left, left_at_the_end) = (forked(&mut first), forked(&mut second));
    first.0.shutdown(Shutdown::Write).expect("connected");
    // The descriptor that the process had of the connection is gone as well.
    assert!(first.record().is_none());
    assert!(wait_until(Duration::from_secs(5), || !left.is_alive()));
    assert!(left_at_the_end.is_alive());
    daemon.terminate().expect("it ends");
    assert!(wait_until(Duration::from_secs(5), || !left_at_the_end.is_alive()));
}

/// A child that the shell had which became the daemon, and what that child left behind in its group.
/// Process 1 gets such children all the time.
#[test]
fn processes_that_are_no_workers_keep_their_groups() {
    let directory = with_rules();
    let [path, first, second] = ["s", "first", "second"].map(|name| directory.join(name));
    let address = format!("type = \"local\"; path = \"{}\"", path.display());
    std::fs::write(directory.join("d.conf"), configuration(&address, "")).expect("a file");
    let mut command = Command::new("sh");
    let job = "echo $$ > first; sleep 60 & echo $! > second; until [ -e s ]; do sleep 0.05; done";
    let script = "setsid sh -c \"$1\" & exec \"$0\" -fg -conf d.conf";
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_pkcs11proxyd"), job])
        .current_dir(directory.path());
    let daemon = Running::start(command);
    let number = |path: &Path| std::fs::read_to_string(path).ok()?.trim().parse().ok();
    let found = || Some((number(&first)?, number(&second)?));
    assert!(wait_until(PATIENCE, || found().is_some() && path.exists()));
    let (leader, other) = found().expect("written");
    assert!(wait_until(PATIENCE, || Process::of(leader).is_none()));
    let other = Process::of(other).expect("it lives a minute");
    assert!(other.is_alive());
    other.signal(Signal::SIGKILL);
    let controller = Process::of(daemon.pid()).expect("it runs");
    controller.signal(Signal::SIGTERM);
    let outcome = daemon.finish(PATIENCE);
    assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
}
