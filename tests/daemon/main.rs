//! Tests our daemon alone: hostile and unusual clients, its processes, signals and exit statuses.
//!
//! The clients here write bytes to the socket; behind the daemon is the null module, which answers at
//! once, or SoftHSM.

#[path = "../support/mod.rs"]
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::compile::module;
use support::processes::{Process, Running, run, wait_until};
use support::{Daemon, Directory, Endpoint, Maker, PATIENCE, Setup, Token};
use xdr::rpc::{self, Xid};
use xdr::{Architecture, Call, Flags, Reply, SessionHandle, SlotId};

const SESSION: SessionHandle = SessionHandle(1);

/// A daemon in front of the null module.
fn setup(token: &Token) -> Setup {
    let mut setup = Setup::new(Maker::Ours, Endpoint::Tcp, token);
    setup.modules = vec![("null".into(), module("nullmodule"))];
    setup
}

/// A client that writes what it likes.
struct Client(TcpStream);

impl Client {
    fn new(daemon: &Daemon) -> Client {
        let stream = TcpStream::connect(daemon.address()).expect("the daemon accepts");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        stream.set_nodelay(true).expect("a socket option");
        Client(stream)
    }

    /// With a module loaded and initialised.
    fn ready(daemon: &Daemon) -> Client {
        let mut client = Client::new(daemon);
        client.call(Call::C_SetupArch(Architecture::host()));
        client.call(Call::C_LoadModule(b"null"));
        client.call(Call::C_Initialize());
        let opened = client.call(Call::C_OpenSession(SlotId(0), Flags(6)));
        assert!(opened.rv().is_ok(), "{opened:?}");
        client
    }

    fn call(&mut self, call: Call<'_>) -> Reply {
        self.send(&encoded(&call));
        self.reply(&call)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the daemon reads");
    }

    fn reply(&mut self, call: &Call<'_>) -> Reply {
        let record = self.record().expect("a reply");
        rpc::read_reply(Xid(7), call.function(), &record)
            .expect("its xid")
            .expect("a result")
    }

    /// The next record; `None` when the daemon closed the connection.
    fn record(&mut self) -> Option<Vec<u8>> {
        let mut mark = [0; 4];
        self.0.read_exact(&mut mark).ok()?;
        let mut record = vec![0; (u32::from_be_bytes(mark) & 0x7fff_ffff) as usize];
        self.0.read_exact(&mut record).ok()?;
        Some(record)
    }

    /// Whether the daemon closes the connection within a time.
    fn is_closed_within(&mut self, limit: Duration) -> bool {
        self.0.set_read_timeout(Some(limit)).expect("a timeout");
        match self.0.read(&mut [0; 64]) {
            Ok(count) => count == 0,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

fn encoded(call: &Call<'_>) -> Vec<u8> {
    rpc::write_call(Xid(7), call, &mut Vec::new())
        .expect("small")
        .to_vec()
}

#[test]
fn a_record_mark_in_two_pieces_is_answered() {
    let token = Token::new();
    let daemon = setup(&token).start();
    let mut client = Client::new(&daemon);
    let call = Call::C_SetupArch(Architecture::host());
    for byte in encoded(&call) {
        client.send(&[byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(client.reply(&call) == Reply::C_SetupArch(Architecture::host()));
}

#[test]
fn any_fragmentation_pipelining_and_half_closing_are_served() {
    let token = Token::new();
    let daemon = setup(&token).start();
    let mut client = Client::ready(&daemon);
    let data = vec![5; 200_000];
    let call = Call::C_Digest(SESSION, &data);
    let record = encoded(&call)[4..].to_vec();
    for size in [4, 1000, 8996, 65532, 150_000] {
        let mut stream = vec![0; 8]; // two empty fragments
        for chunk in record.chunks(size) {
            stream.extend_from_slice(&(chunk.len() as u32).to_be_bytes());
            stream.extend_from_slice(chunk);
        }
        stream.extend_from_slice(&[0x80, 0, 0, 0]);
        client.send(&stream);
        assert!(client.reply(&call).rv().is_ok(), "in fragments of {size}");
    }
    client.send(&[0x80, 0, 0, 0]); // an empty record: no answer
    let small = Call::C_Digest(SESSION, b"abc");
    client.send(&encoded(&small).repeat(50));
    client.0.shutdown(Shutdown::Write).expect("half closed");
    for _ in 0..50 {
        assert!(client.reply(&small).rv().is_ok());
    }
    assert!(client.record().is_none());
}

#[test]
fn records_over_the_limit_end_the_connection_at_their_mark() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.processor = "max_record_size = 100000;".into();
    let daemon = setup.start();
    for stream in [
        &[0xff, 0xff, 0xff, 0xff][..],
        &100_001u32.to_be_bytes(),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        let mut client = Client::new(&daemon);
        client.send(stream);
        assert!(
            client.is_closed_within(Duration::from_secs(5)),
            "after {stream:x?}"
        );
    }
    let mut client = Client::ready(&daemon);
    assert!(
        client
            .call(Call::C_Digest(SESSION, &[0; 99_000]))
            .rv()
            .is_ok()
    );
    client.send(&encoded(&Call::C_Digest(SESSION, &[0; 100_000]))[..100]);
    assert!(client.is_closed_within(Duration::from_secs(5)));
    assert!(wait_until(Duration::from_secs(5), || daemon
        .log()
        .contains("longer than the limit of 100000")));
    assert!(Client::ready(&daemon).call(Call::C_GetInfo()).rv().is_ok());
}

#[test]
fn a_record_that_is_not_completed_in_time_ends_the_connection() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.processor = "record_timeout = 0.5;".into();
    let daemon = setup.start();
    let mut idle = Client::ready(&daemon);
    let mut stuck = Client::ready(&daemon);
    let mut trickling = Client::ready(&daemon);
    // An empty record in two pieces.
    idle.send(&[0x80, 0]);
    std::thread::sleep(Duration::from_millis(50));
    idle.send(&[0, 0]);
    let begun = Instant::now();
    stuck.send(&[0x80, 0]);
    let dripping = std::thread::spawn(move || {
        let record = encoded(&Call::C_Digest(SESSION, &[0; 1000]));
        for byte in record {
            if trickling.0.write_all(&[byte]).is_err() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    });
    assert!(stuck.is_closed_within(Duration::from_secs(5)));
    assert!(begun.elapsed() >= Duration::from_millis(450));
    assert!(
        dripping.join().expect("no panic"),
        "a byte now and then kept the connection"
    );
    // Between two records a client may take its time.
    assert!(idle.call(Call::C_GetInfo()).rv().is_ok());
}

#[test]
fn a_client_that_does_not_take_its_replies_is_given_up() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.processor = "record_timeout = 0.5;".into();
    let daemon = setup.start();
    let client = Client::ready(&daemon);
    let mut sending = client.0.try_clone().expect("a descriptor more");
    let flood = std::thread::spawn(move || {
        let call = encoded(&Call::C_GenerateRandom(SESSION, xdr::Ulong(100_000)));
        (0..100_000).any(|_| sending.write_all(&call).is_err())
    });
    assert!(flood.join().expect("no panic"), "the worker waits for ever");
    drop(client);
}

#[test]
fn silent_clients_do_not_keep_others_out() {
    let token = Token::new();
    let daemon = setup(&token).start();
    let silent: Vec<Client> = (0..30).map(|_| Client::new(&daemon)).collect();
    let begun = Instant::now();
    assert!(Client::ready(&daemon).call(Call::C_GetInfo()).rv().is_ok());
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(silent);
    assert!(wait_until(Duration::from_secs(5), || daemon
        .workers()
        .len()
        == 1));
}

#[test]
fn at_the_limit_of_workers_a_client_waits_for_its_turn() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.max_threads = 2;
    let daemon = setup.start();
    assert!(wait_until(Duration::from_secs(5), || daemon
        .workers()
        .len()
        == 1));
    let first = Client::ready(&daemon);
    let _second = Client::ready(&daemon);
    let mut third = Client::new(&daemon);
    let call = Call::C_SetupArch(Architecture::host());
    third.send(&encoded(&call));
    assert!(!third.is_closed_within(Duration::from_millis(300)));
    assert_eq!(daemon.workers().len(), 2);
    assert!(
        daemon.log().contains("all 2 workers are busy"),
        "{}",
        daemon.log()
    );
    drop(first);
    third
        .0
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    assert!(third.reply(&call) == Reply::C_SetupArch(Architecture::host()));
}

#[test]
fn clients_of_one_address_do_not_keep_those_of_another_out() {
    let token = Token::new();
    let directory = Directory::new();
    let path = directory.join("other");
    let mut setup = setup(&token);
    setup.max_threads = 1;
    setup.service = format!(
        "protocol {{ name = \"other\"; address {{ type = \"local\"; path = \"{}\" }} }};",
        path.display()
    );
    let daemon = setup.start();
    let first = Client::ready(&daemon);
    let connect = |_| UnixStream::connect(&path).expect("the daemon listens");
    let mut waiting: Vec<UnixStream> = (0..6).map(connect).collect();
    let mut other = Client::new(&daemon);
    let call = Call::C_SetupArch(Architecture::host());
    other.send(&encoded(&call));
    // All of them wait for the one worker. Two who leave make way for the other.
    drop(first);
    waiting.drain(..2);
    assert!(other.reply(&call) == Reply::C_SetupArch(Architecture::host()));
    drop(waiting);
}

/// Clients do not come back by themselves: C_Initialize fails, and with it the application.
#[test]
fn while_no_worker_can_be_forked_clients_wait() {
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
fn one_peer_gets_no_more_connections_than_configured() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.processor = "max_connections_per_peer = 2;".into();
    let daemon = setup.start();
    // The fixture's own connection, by which it sees that the daemon listens, must be gone.
    assert!(wait_until(Duration::from_secs(5), || daemon
        .workers()
        .len()
        == 1));
    let first = Client::ready(&daemon);
    let _second = Client::ready(&daemon);
    assert!(Client::new(&daemon).is_closed_within(Duration::from_secs(5)));
    drop(first);
    assert!(wait_until(Duration::from_secs(5), || {
        let mut again = Client::new(&daemon);
        !again.is_closed_within(Duration::from_millis(100))
    }));
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
    // Standard input, output and error, the channel, and the client's socket. The worker tells: only
    // root may look at what it has open.
    let told = std::fs::read_to_string(&log).expect("the module's log");
    assert_eq!(
        told.lines().next(),
        Some("process descriptors=5 directory=/")
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
        // The last of it; one that was forked just now is not there yet.
        assert!(wait_until(PATIENCE, || field("NoNewPrivs:") == "1"));
        // SIGTTOU alone.
        assert_eq!(field("SigBlk:"), "0000000000200000");
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
fn a_reload_that_is_bad_for_one_service_changes_nothing_for_any() {
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
    let reload = |expected: &str, count: usize| {
        daemon.process().signal(Signal::SIGHUP);
        assert!(
            wait_until(PATIENCE, || daemon.log().matches(expected).count() == count),
            "{}",
            daemon.log()
        );
    };

    // The first service's new rules are good, the second's are not.
    std::fs::write(&first_filter, rules("renamed")).expect("a file");
    std::fs::write(&filter, "modules = [(").expect("a file");
    reload("stay in force", 1);
    assert!(!daemon.log().contains("configuration loaded"));
    assert_eq!(first(b"null"), 0);
    assert_eq!(first(b"renamed"), 5);

    std::fs::write(&filter, rules("second")).expect("a file");
    reload("configuration loaded", 2);
    assert!(wait_until(PATIENCE, || first(b"renamed") == 0));
    assert_eq!(first(b"null"), 5);
}

#[test]
fn the_log_tells_that_a_module_did_not_start() {
    let token = Token::new();
    let daemon = Setup::new(Maker::Ours, Endpoint::Tcp, &token).start();
    std::fs::remove_file(token.configuration()).expect("SoftHSM's configuration");
    let mut client = Client::new(&daemon);
    assert!(client.call(Call::C_LoadModule(b"softhsm")).rv().is_ok());
    let refused = client.call(Call::C_Initialize()).rv();
    assert!(!refused.is_ok());
    let line = format!("ERROR: C_Initialize of the module failed with {refused}");
    assert!(
        wait_until(Duration::from_secs(5), || daemon.log().contains(&line)),
        "{}",
        daemon.log()
    );
}

/// A directory with a filter.conf for the null module.
fn with_rules() -> Directory {
    let directory = Directory::new();
    let null = module("nullmodule");
    let rules = format!("modules = [(\"null\", \"{}\")]\n", null.display());
    std::fs::write(directory.join("filter.conf"), rules).expect("a file");
    directory
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

/// Runs the daemon with a configuration that it should refuse.
fn refused(directory: &Directory, conf: &str, more: &[&str]) -> Output {
    std::fs::write(directory.join("d.conf"), conf).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyd"));
    command
        .arg("-conf")
        .arg(directory.join("d.conf"))
        .args(more);
    let outcome = run(command, Duration::from_secs(20));
    Output {
        status: outcome.status,
        stdout: outcome.stdout.into_bytes(),
        stderr: outcome.stderr.into_bytes(),
    }
}

fn configuration(address: &str, processor: &str) -> String {
    format!(
        "netplex {{ service {{ name = \"s\"; protocol {{ name = \"p\"; address {{ {address} }} }};
         processor {{ type = \"rpc_pkcs11\"; filter_config = \"filter.conf\"; {processor} }};
         workload_manager {{ type = \"constant\"; threads = 2 }} }} }}"
    )
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
        (configuration(free, "no_such_option = 3"), "no_such_option"),
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

#[test]
fn calls_are_logged_by_name_and_value_only() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.options = vec!["-debug-pkcs11".into()];
    let daemon = setup.start();
    let mut client = Client::ready(&daemon);
    client.call(Call::C_Login(SESSION, xdr::UserType(1), b"s3cret-pin"));
    assert!(wait_until(Duration::from_secs(5), || daemon
        .log()
        .contains("C_Login returned")));
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("C_Login returned"))
        .expect("a line");
    assert!(
        line.contains("] [PKCS#11 Filtering Proxy] [info] C_Login returned in process "),
        "{line}"
    );
    assert!(line.ends_with(" with cKR_OK"), "{line}");
    assert!(!log.contains("s3cret"));
}

#[test]
fn the_log_tells_whose_worker_died_and_of_what() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.environment = vec![("NULLMODULE_OBEY".into(), "1".into())];
    let daemon = setup.start();
    for (order, expected) in [
        ("crash", "by signal SIGSEGV"),
        ("exit 3", "with exit code 3"),
        ("exit 0", "with exit code 0"),
    ] {
        let mut client = Client::ready(&daemon);
        client.send(&encoded(&Call::C_Sign(SESSION, order.as_bytes())));
        assert!(client.record().is_none());
        let name = client.0.local_addr().expect("connected");
        let line = format!(" terminated {expected}; its client was {name}\n");
        let is_told = || daemon.log().contains(&line);
        assert!(wait_until(Duration::from_secs(5), is_told), "{line}");
    }
    drop(Client::ready(&daemon));
    assert!(wait_until(Duration::from_secs(5), || {
        daemon.workers().len() == 1
    }));
    assert_eq!(daemon.log().matches(" terminated ").count(), 3);
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

#[test]
fn what_a_worker_logged_last_is_not_lost() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.options = vec!["-debug-pkcs11".into()];
    let daemon = setup.start();
    let call = Call::C_GetInfo();
    for _ in 0..10 {
        let mut client = Client::ready(&daemon);
        client.send(&encoded(&call).repeat(80));
        client.0.shutdown(Shutdown::Write).expect("half closed");
        while client.record().is_some() {}
    }
    let returned = || daemon.log().matches("C_GetInfo returned").count();
    assert!(
        wait_until(Duration::from_secs(5), || returned() == 800),
        "{} of 800",
        returned()
    );
}

/// What `-check` tells for a filter file, in a directory of its own: status, output, errors.
fn checked(filter: &str, processor: &str) -> (Option<i32>, String, String) {
    let directory = Directory::new();
    std::fs::write(directory.join("filter.conf"), filter).expect("a file");
    let address = format!(
        "type = \"local\"; path = \"{}\"",
        directory.join("s").display()
    );
    let conf = configuration(&address, processor);
    let output = refused(&directory, &conf, &["-check"]);
    assert!(!directory.join("s").exists(), "-check opened a socket");
    let text = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).expect("UTF-8");
        text.replace(&format!("{}/", directory.path().display()), "")
    };
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn check_tells_what_applies_to_each_module_and_starts_nothing() {
    let null = module("nullmodule");
    let modules = format!(
        "modules = [(\"a\", \"{0}\"), (\"b\", \"{0}\")]",
        null.display()
    );
    let filter = format!("{modules}\nforbidden_functions = [(a, [C_Sign])]\ndebug = 7");
    let (status, output, errors) = checked(&filter, "compatibility = \"admin-login-only\"");
    let expected = format!(
        "warning: filter.conf:3: debug: expected 3 or less; using 3
service s: filter.conf
  compatibility admin-login-only: forbid_admin_operations allows C_InitToken and C_InitPIN
  filter.conf:1: modules: 'a' -> '{0}'
    filter.conf:2: forbidden_functions: C_Sign is refused
  filter.conf:1: modules: 'b' -> '{0}'
    no rule: all calls pass
",
        null.display()
    );
    assert_eq!(
        (status, output.as_str(), errors.as_str()),
        (Some(0), expected.as_str(), "")
    );

    for (filter, processor, expected) in [
        (
            "modules = [(a, \"/nonexistent\")]",
            "",
            "filter.conf:1: modules: /nonexistent: ",
        ),
        (
            "modules = [(a, \"/tmp/\")]",
            "",
            "filter.conf:1: modules: /tmp/: expected a library file",
        ),
        (
            "modules = [(a, b)]\nx = 1",
            "",
            "filter.conf:2: x: unknown option",
        ),
        (
            &modules,
            "compatibility = \"x\"",
            "d.conf:2: netplex.service[0].processor.compatibility: unknown switch `x`",
        ),
    ] {
        let (status, _, errors) = checked(filter, processor);
        assert_eq!(status, Some(2), "{filter} {processor}");
        assert!(errors.contains(expected), "{errors}");
    }
}

#[test]
fn a_refused_call_is_logged_with_its_line_in_the_filter_file() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.filter = "debug = 1\nforbidden_functions = [(null, [C_Login])]".into();
    setup.processor = "compatibility = \"unknown-options\";".into();
    let daemon = setup.start();
    let mut client = Client::ready(&daemon);
    let reply = client.call(Call::C_Login(SESSION, xdr::UserType(1), b"s3cret-pin"));
    assert_eq!(reply.rv().0, 0x54);
    let line =
        "C_Login: the function is FILTERED with CKR_FUNCTION_NOT_SUPPORTED for alias 'null' (";
    assert!(wait_until(Duration::from_secs(5), || daemon
        .log()
        .contains(line)));
    let log = daemon.log();
    assert!(log.contains("filter.conf:3: forbidden_functions)"), "{log}");
    assert!(log.contains("[DEBUG_LEVEL 0/1]"), "{log}");
    assert!(log.contains("compatibility unknown-options: "), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

/// The rules of etc/filter-strict.conf, with a key.
fn strict() -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/etc/filter-strict.conf");
    let text = std::fs::read_to_string(file).expect("our own file");
    let (_, rules) = text
        .split_once("\ndebug = 1\n")
        .expect("behind the modules");
    format!("debug = 1\n{rules}\nwrapping_format_key = \"0f1e2d3c4b5a69788796a5b4c3d2e1f0\"")
}

#[test]
fn the_strict_rules_leave_a_token_of_use() {
    use xdr::{Attribute, AttributeType, Mechanism, MechanismType, ObjectHandle, Template};

    let token = Token::new();
    let mut setup = Setup::new(Maker::Ours, Endpoint::Tcp, &token);
    setup.filter = strict();
    let daemon = setup.start();
    let mut client = Client::new(&daemon);
    let mechanism =
        |kind, parameter: &[u8]| Mechanism::unread(MechanismType(kind), parameter.to_vec());
    let template = |attributes: &[(u64, &[u8])]| {
        let make =
            |(kind, value): &(u64, &[u8])| Attribute::new(AttributeType(*kind), value.to_vec());
        Template(attributes.iter().map(make).collect())
    };
    let data = |reply: Reply| match reply {
        Reply::C_Encrypt(result)
        | Reply::C_Decrypt(result)
        | Reply::C_Sign(result)
        | Reply::C_WrapKey(result) => {
            assert!(result.rv.is_ok(), "{}", result.rv);
            result.data
        }
        other => panic!("{other:?}"),
    };
    client.call(Call::C_SetupArch(Architecture::host()));
    assert_eq!(client.call(Call::C_LoadModule(b"softhsm")).rv().0, 0);
    assert_eq!(client.call(Call::C_Initialize()).rv().0, 0);
    let Reply::C_GetSlotList(slots) =
        client.call(Call::C_GetSlotList(xdr::Ulong(1), xdr::Ulong(9)))
    else {
        panic!("another reply");
    };
    let slot = slots.slots[0];
    client.call(Call::C_OpenSession(slot, Flags(6)));
    let so = Call::C_Login(SESSION, xdr::UserType(0), Token::SO_PIN.as_bytes());
    assert_eq!(client.call(so).rv().0, 0x103);
    let erase = Call::C_InitToken(slot, Token::SO_PIN.as_bytes(), b"gone");
    assert_eq!(client.call(erase).rv().0, 0x54);
    let user = Call::C_Login(SESSION, xdr::UserType(1), Token::PIN.as_bytes());
    assert_eq!(client.call(user).rv().0, 0);

    let mut key = |roles: &[u64]| {
        let length = 16_u64.to_ne_bytes();
        let mut attributes = vec![(0x1, [0].as_slice()), (0x161, &length)];
        attributes.extend(roles.iter().map(|role| (*role, [1].as_slice())));
        let call = Call::C_GenerateKey(SESSION, mechanism(0x1080, &[]), template(&attributes));
        match client.call(call) {
            Reply::C_GenerateKey(made) => (made.rv.0, made.object),
            other => panic!("{other:?}"),
        }
    };
    let (rv, cipher) = key(&[0x104, 0x105, 0x162]);
    assert_eq!(rv, 0);
    let (rv, wrapping) = key(&[0x106, 0x107]);
    assert_eq!(rv, 0);
    // To wrap and to decrypt is to read.
    assert_eq!(key(&[0x106, 0x105]).0, 0x13);

    let cbc = || mechanism(0x1082, &[7; 16]);
    assert_eq!(
        client
            .call(Call::C_EncryptInit(SESSION, cbc(), cipher))
            .rv()
            .0,
        0
    );
    let secret = data(client.call(Call::C_Encrypt(SESSION, &[5; 32])));
    assert_eq!(
        client
            .call(Call::C_DecryptInit(SESSION, cbc(), cipher))
            .rv()
            .0,
        0
    );
    assert_eq!(
        data(client.call(Call::C_Decrypt(SESSION, &secret))),
        [5; 32]
    );

    // CKM_AES_KEY_WRAP.
    let key_wrap = || mechanism(0x2109, &[]);
    let wrapped = data(client.call(Call::C_WrapKey(SESSION, key_wrap(), wrapping, cipher)));
    assert_eq!(wrapped.len(), 24 + 18 + 16);
    let (class, kind) = (4_u64.to_ne_bytes(), 0x1f_u64.to_ne_bytes());
    let again = template(&[(0x0, &class), (0x100, &kind), (0x1, &[0]), (0x104, &[1])]);
    let Reply::C_UnwrapKey(made) = client.call(Call::C_UnwrapKey(
        SESSION,
        key_wrap(),
        wrapping,
        &wrapped,
        again,
    )) else {
        panic!("another reply");
    };
    assert_eq!(made.rv.0, 0);
    assert_eq!(
        client
            .call(Call::C_EncryptInit(SESSION, cbc(), made.object))
            .rv()
            .0,
        0
    );
    assert_eq!(
        data(client.call(Call::C_Encrypt(SESSION, &[5; 32]))),
        secret
    );

    let bits = 2048_u64.to_ne_bytes();
    let pair = Call::C_GenerateKeyPair(
        SESSION,
        mechanism(0x0, &[]),
        template(&[
            (0x1, &[0]),
            (0x121, &bits),
            (0x122, &[1, 0, 1]),
            (0x10a, &[1]),
        ]),
        template(&[(0x1, &[0]), (0x108, &[1])]),
    );
    let Reply::C_GenerateKeyPair(pair) = client.call(pair) else {
        panic!("another reply");
    };
    assert_eq!(pair.rv.0, 0);
    // CKM_SHA256_RSA_PKCS_PSS with SHA256, MGF1 of SHA256 and 32 bytes of salt.
    let salted = [0x250_u64, 2, 32].map(u64::to_ne_bytes).concat();
    let pss = Call::C_SignInit(SESSION, mechanism(0x43, &salted), pair.private_key);
    assert_eq!(client.call(pss).rv().0, 0);
    assert_eq!(data(client.call(Call::C_Sign(SESSION, b"data"))).len(), 256);
    let pkcs1 = Call::C_SignInit(SESSION, mechanism(0x40, &[]), pair.private_key);
    assert_eq!(client.call(pkcs1).rv().0, 0x70);
    let nobody = ObjectHandle(0);
    let state = Call::C_SetOperationState(SESSION, b"state", nobody, nobody);
    assert_eq!(client.call(state).rv().0, 0x54);
}
