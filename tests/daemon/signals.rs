//! Tests signals: the end of the daemon, the reload of its files, and a signal during the start.

use crate::*;

#[test]
fn sigterm_and_sigint_stop_everything_and_leave_nothing() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let token = Token::new();
        let mut setup = Setup::new(Maker::Ours, Endpoint::Unix, &token);
        setup.modules = vec![("null".into(), module("nullmodule"))];
        let mut daemon = setup.start();
        let socket = daemon.directory().join("socket");
        // Written after the socket is there: in the foreground nobody is told when all is ready.
        let pid = format!("{}\n", daemon.process().pid);
        let file = daemon.directory().join("pid");
        assert!(wait_until(Duration::from_secs(5), || {
            std::fs::read_to_string(&file).is_ok_and(|text| text == pid)
        }));
        let mut client = UnixStream::connect(&socket).expect("the daemon accepts");
        let workers = daemon.workers();
        daemon.process().signal(signal);
        let status = daemon.wait().expect("it ends");
        assert_eq!(status.code(), Some(0), "{signal}");
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
        assert!(!workers.iter().any(|worker| worker.is_alive()));
        assert!(!socket.exists() && !file.exists());
    }
}

/// A client that does not come back is served until it leaves, or until its time is over.
#[test]
fn sigusr2_accepts_nobody_and_waits_for_clients_to_leave() {
    for (timeout, stays) in [("30.0", false), ("0.5", true)] {
        let token = Token::new();
        let mut setup = setup(&token);
        setup.daemon = format!("drain_timeout = {timeout};");
        let mut daemon = setup.start();
        let mut client = Client::ready(&daemon);
        daemon.process().signal(Signal::SIGUSR2);
        assert!(wait_until(Duration::from_secs(5), || !daemon.accepts()));
        if stays {
            let status = daemon.wait().expect("it ends");
            assert_eq!(status.code(), Some(0));
            continue;
        }
        for _ in 0..3 {
            assert!(client.call(Call::C_GetInfo()).rv().is_ok());
            std::thread::sleep(Duration::from_millis(300));
        }
        assert!(daemon.process().is_alive());
        drop(client);
        let status = daemon.wait().expect("it ends");
        assert_eq!(status.code(), Some(0));
        assert!(daemon.log().contains("draining"), "{}", daemon.log());
    }
}

#[test]
fn sighup_takes_new_rules_for_new_clients_and_keeps_the_old_ones_when_they_are_bad() {
    let token = Token::new();
    let daemon = setup(&token).start();
    let filter = daemon.directory().join("filter.conf");
    let null = module("nullmodule");
    let mut old = Client::ready(&daemon);
    let load = |alias: &[u8]| Client::new(&daemon).call(Call::C_LoadModule(alias)).rv().0;

    std::fs::write(&filter, "modules = [(\"other\", \"\"\n").expect("a file");
    daemon.process().signal(Signal::SIGHUP);
    assert!(wait_until(Duration::from_secs(5), || daemon
        .log()
        .contains("stay in force")));
    assert!(daemon.log().contains("filter.conf:"), "{}", daemon.log());
    assert_eq!(load(b"null"), 0);

    // Nobody would ever write into this pipe.
    std::fs::remove_file(&filter).expect("a file");
    nix::unistd::mkfifo(&filter, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    daemon.process().signal(Signal::SIGHUP);
    assert!(wait_until(Duration::from_secs(5), || daemon
        .log()
        .contains("filter.conf: expected a file")));
    assert_eq!(load(b"null"), 0);
    std::fs::remove_file(&filter).expect("a pipe");

    std::fs::write(
        &filter,
        format!(
            "modules = [(\"other\", \"{}\"),\n(\"gone\", \"/nonexistent.so\")]\n",
            null.display()
        ),
    )
    .expect("a file");
    daemon.process().signal(Signal::SIGHUP);
    assert!(wait_until(Duration::from_secs(5), || daemon
        .log()
        .contains("configuration loaded")));
    let missing = "filter.conf:2: modules: /nonexistent.so: cannot be read: ";
    assert!(daemon.log().contains(missing), "{}", daemon.log());
    assert!(wait_until(Duration::from_secs(5), || load(b"other") == 0));
    assert_eq!(load(b"null"), 5);
    assert!(
        old.call(Call::C_GetInfo()).rv().is_ok(),
        "a connected client was cut off"
    );
    assert!(daemon.process().is_alive());
}

#[test]
fn a_reload_that_is_bad_for_one_service_changes_nothing_for_it() {
    let token = Token::new();
    let second = Directory::new();
    let rules = |alias: &str| {
        format!(
            "modules = [({alias}, \"{}\")]\n",
            module("nullmodule").display()
        )
    };
    let (filter, socket) = (second.join("filter.conf"), second.join("socket"));
    std::fs::write(&filter, rules("second")).expect("a file");
    let mut setup = setup(&token);
    setup.services = format!(
        "service {{ name = \"second\"; conn_limit = 1;
           protocol {{ name = \"p\"; address {{ type = \"local\"; path = \"{}\" }} }};
           processor {{ type = \"rpc_pkcs11\"; filter_config = \"{}\"; use_ssl = false }};
           workload_manager {{ type = \"dynamic\"; max_jobs_per_thread = 1;
             min_free_jobs_capacity = 1; max_free_jobs_capacity = 1; max_threads = 5 }} }};",
        socket.display(),
        filter.display()
    );
    let daemon = setup.start();
    let first_filter = daemon.directory().join("filter.conf");
    let first = |alias: &[u8]| Client::new(&daemon).call(Call::C_LoadModule(alias)).rv().0;
    let reload = |expected: &str| {
        daemon.process().signal(Signal::SIGHUP);
        let is_logged = wait_until(PATIENCE, || daemon.log().contains(expected));
        assert!(is_logged, "{}", daemon.log());
    };

    // The first service's new rules are good, the second's are not.
    std::fs::write(&first_filter, rules("renamed")).expect("a file");
    std::fs::write(&filter, "modules = [(").expect("a file");
    reload("stay in force");
    assert!(!daemon.log().contains("second: filter configuration loaded"));
    assert!(wait_until(PATIENCE, || first(b"renamed") == 0));
    assert_eq!(first(b"null"), 5);

    std::fs::write(&filter, rules("second")).expect("a file");
    reload("second: filter configuration loaded");
}

/// As with the original, whose workers read the file.
#[test]
fn an_edited_filter_file_counts_without_a_signal_once_it_is_good() {
    let token = Token::new();
    let daemon = setup(&token).start();
    let filter = daemon.directory().join("filter.conf");
    let load = |alias: &[u8]| Client::new(&daemon).call(Call::C_LoadModule(alias)).rv().0;
    let good = std::fs::read_to_string(&filter).expect("a file");
    std::fs::write(&filter, "modules = [(").expect("a file");
    let is_refused = || daemon.log().contains("the edited filter file is not used");
    assert!(wait_until(PATIENCE, is_refused));
    assert!(daemon.log().contains("filter.conf:1"), "{}", daemon.log());
    assert_eq!(load(b"null"), 0);

    // An editor writes a new file and renames it.
    let new = daemon.directory().join("filter.conf.new");
    std::fs::write(&new, good.replace("\"null\"", "\"other\"")).expect("a file");
    std::fs::rename(&new, &filter).expect("renamed");
    assert!(wait_until(PATIENCE, || load(b"other") == 0));
    assert_eq!(load(b"null"), 5);
    let loaded = daemon.log().matches("filter configuration loaded").count();
    assert_eq!(loaded, 1, "{}", daemon.log());
}

/// A pid file that is a pipe keeps the daemon in its start as long as nobody reads it.
#[test]
fn a_signal_during_the_start_leaves_nothing_either() {
    let directory = with_rules();
    let (socket, pid_file) = (directory.join("s"), directory.join("pid"));
    let address = format!("type = \"local\"; path = \"{}\"", socket.display());
    let conf = directory.join("d.conf");
    std::fs::write(&conf, configuration(&address, "")).expect("a file");
    nix::unistd::mkfifo(&pid_file, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyd"));
    command
        .arg("-fg")
        .arg("-conf")
        .arg(&conf)
        .arg("-pid")
        .arg(&pid_file);
    let daemon = Running::start(command);
    assert!(wait_until(Duration::from_secs(5), || socket.exists()));
    Process::of(daemon.pid())
        .expect("it waits")
        .signal(Signal::SIGTERM);
    let mut options = std::fs::File::options();
    options.read(true).write(true);
    options.custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits());
    let pipe = options.open(&pid_file).expect("a pipe");
    std::fs::remove_file(&pid_file).expect("removed");
    let is_stopped = wait_until(Duration::from_secs(5), || !socket.exists());
    drop(pipe);
    let outcome = daemon.finish(Duration::from_secs(10));
    assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
    assert!(is_stopped);
}
