//! Starts daemons, the original's and ours, each with a configuration of its own.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::processes::{Process, wait_for, wait_until};
use super::{Directory, PATIENCE, SOFTHSM, Token};

/// Whose daemon or client library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// Debian's caml-crush.
    Original,
    /// This project's.
    Ours,
}

/// What a daemon listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A free port of the loopback address.
    Tcp,
    /// A socket in the daemon's directory.
    Unix,
}

/// How a daemon is started. Change what a test is about; `Setup::new` fills in the rest.
pub struct Setup {
    /// Whose daemon.
    pub maker: Maker,
    /// What it listens on.
    pub endpoint: Endpoint,
    /// Aliases and paths of the modules.
    pub modules: Vec<(String, PathBuf)>,
    /// Whether there is a filter.conf; without it, `libnames` gives the modules.
    pub filtered: bool,
    /// More lines for filter.conf.
    pub filter: String,
    /// More lines for the `controller` section.
    pub controller: String,
    /// Lines for the `daemon` section.
    pub daemon: String,
    /// More lines for the `processor` section.
    pub processor: String,
    /// Whether clients use TLS: `use_ssl`.
    pub use_ssl: bool,
    /// More lines for the `service` section.
    pub service: String,
    /// More services, as sections of the configuration.
    pub services: String,
    /// More options for the command line.
    pub options: Vec<String>,
    /// Most clients at a time.
    pub max_threads: u32,
    /// More environment for the daemon, and so for its modules.
    pub environment: Vec<(String, String)>,
}

impl Setup {
    /// A daemon with no filter rules in front of SoftHSM, alias `softhsm`, with that token.
    pub fn new(maker: Maker, endpoint: Endpoint, token: &Token) -> Self {
        let configuration = token.configuration().display().to_string();
        Self {
            maker,
            endpoint,
            modules: vec![("softhsm".into(), SOFTHSM.into())],
            filtered: true,
            filter: String::new(),
            controller: String::new(),
            daemon: String::new(),
            processor: String::new(),
            use_ssl: false,
            service: String::new(),
            services: String::new(),
            options: Vec::new(),
            max_threads: 50,
            environment: vec![("SOFTHSM2_CONF".into(), configuration)],
        }
    }

    /// Starts it and waits until it accepts connections.
    pub fn start(self) -> Daemon {
        Daemon::start(&self)
    }
}

/// A running daemon. Dropping it ends it and everything it started.
pub struct Daemon {
    maker: Maker,
    command: Command,
    child: Child,
    process: Process,
    address: Address,
    directory: Directory,
}

enum Address {
    Tcp(u16),
    Unix(PathBuf),
}

impl Daemon {
    /// The original's daemon in front of a token.
    pub fn original(endpoint: Endpoint, token: &Token) -> Self {
        Setup::new(Maker::Original, endpoint, token).start()
    }

    /// Ours in front of a token.
    pub fn ours(endpoint: Endpoint, token: &Token) -> Self {
        Setup::new(Maker::Ours, endpoint, token).start()
    }

    fn start(setup: &Setup) -> Self {
        let directory = Directory::new();
        let address = match setup.endpoint {
            Endpoint::Tcp => Address::Tcp(free_port()),
            Endpoint::Unix => Address::Unix(directory.join("socket")),
        };
        for name in ["run", "tmp"] {
            fs::create_dir(directory.join(name)).expect("a directory in a new directory");
        }
        let write = |name, text: String| {
            fs::write(directory.join(name), text).expect("a file in a new directory");
        };
        write("filter.conf", filter_conf(setup));
        write(
            "pkcs11proxyd.conf",
            daemon_conf(setup, &address, &directory),
        );
        let program = match setup.maker {
            Maker::Original => "/usr/bin/pkcs11proxyd",
            Maker::Ours => env!("CARGO_BIN_EXE_pkcs11proxyd"),
        };
        let mut command = Command::new(program);
        command
            .args(["-fg", "-conf"])
            .arg(directory.join("pkcs11proxyd.conf"))
            .arg("-pid")
            .arg(directory.join("pid"))
            .args(&setup.options)
            .env("TMPDIR", directory.join("tmp"))
            .env_remove("SOFTHSM2_CONF")
            // With it a malformed argument costs a second: the decoder's errors collect backtraces.
            .env_remove("RUST_BACKTRACE")
            .envs(setup.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        let child = spawn(&mut command, &directory);
        let process = Process::of(child.id()).expect("a child that nobody waited for is in /proc");
        let mut daemon = Self {
            maker: setup.maker,
            command,
            child,
            process,
            address,
            directory,
        };
        daemon.wait_until_it_accepts();
        daemon
    }

    fn wait_until_it_accepts(&mut self) {
        let mut status = None;
        let up = wait_until(PATIENCE, || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some() || self.accepts() && self.has_written_its_pid()
        });
        if let Some(status) = status {
            panic!("the daemon ended with {status}; its log:\n{}", self.log());
        }
        assert!(up, "the daemon does not listen; its log:\n{}", self.log());
    }

    /// Ours listens before it writes the file.
    fn has_written_its_pid(&self) -> bool {
        let pid = fs::read_to_string(self.directory.join("pid"));
        let own = format!("{}\n", self.child.id());
        self.maker == Maker::Original || pid.is_ok_and(|pid| pid == own)
    }

    /// Whether somebody accepts connections at its address.
    pub fn accepts(&self) -> bool {
        match &self.address {
            Address::Tcp(port) => TcpStream::connect(("127.0.0.1", *port)).is_ok(),
            Address::Unix(path) => UnixStream::connect(path).is_ok(),
        }
    }

    /// What a client's `PKCS11PROXY_SOCKET_PATH` has to be.
    pub fn address(&self) -> String {
        match &self.address {
            Address::Tcp(port) => format!("127.0.0.1:{port}"),
            Address::Unix(path) => path.display().to_string(),
        }
    }

    /// Whose it is.
    pub fn maker(&self) -> Maker {
        self.maker
    }

    /// The process that was started, the controller.
    pub fn process(&self) -> Process {
        self.process
    }

    /// Its children: workers, idle ones too.
    pub fn workers(&self) -> Vec<Process> {
        self.process.children()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.directory.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Its directory: `socket`, `pid`, `run` (the socket directory), `tmp` (its TMPDIR), `log`.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Waits for its end; `None` if it does not end in ten seconds.
    pub fn wait(&mut self) -> Option<ExitStatus> {
        wait_for(&mut self.child, Duration::from_secs(10))
    }

    /// Ends it and its workers as SIGKILL does, without notice, and waits for their end.
    pub fn kill(&mut self) {
        let workers = self.workers();
        let _gone = self.child.kill();
        let _status = self.child.wait();
        for worker in &workers {
            worker.signal(Signal::SIGKILL);
        }
        let ended = wait_until(PATIENCE, || !workers.iter().any(|worker| worker.is_alive()));
        assert!(ended, "workers live on");
    }

    /// Starts it again after [`Daemon::kill`], and waits until it accepts connections.
    pub fn start_again(&mut self) {
        if let (Maker::Original, Address::Unix(path)) = (self.maker, &self.address) {
            // It was left behind, and whoever takes its place would not start.
            let _none = fs::remove_file(path);
        }
        self.child = spawn(&mut self.command, &self.directory);
        self.process = Process::of(self.child.id()).expect("a new child is in /proc");
        self.wait_until_it_accepts();
    }

    /// Sends SIGTERM and waits for its end; `None` if it does not end in ten seconds.
    pub fn terminate(&mut self) -> Option<ExitStatus> {
        self.process.signal(Signal::SIGTERM);
        self.wait()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let workers = self.workers();
        if self.terminate().is_none() {
            let _gone = self.child.kill();
            let _status = self.child.wait();
        }
        wait_until(Duration::from_secs(2), || {
            !workers.iter().any(|worker| worker.is_alive())
        });
        for worker in workers {
            worker.signal(Signal::SIGKILL);
        }
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

/// Starts a daemon whose log goes to its directory.
fn spawn(command: &mut Command, directory: &Directory) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"));
    let log = log.expect("a file in its directory");
    let output = log.try_clone().expect("a descriptor more");
    let started = command.stdout(output).stderr(log).spawn();
    started.unwrap_or_else(|error| {
        panic!("cannot start {command:?}: {error}; tests/support/install-packages.sh installs the original")
    })
}

/// A port nobody listens on, below those the system gives to outgoing connections. Starting points
/// differ between processes, so that tests that start at once do not meet.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() % 600 * 20;
    for _ in 0..12_000 {
        let offset = (start + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % 12_000;
        let port = 20_000 + u16::try_from(offset).expect("less than 12000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

fn filter_conf(setup: &Setup) -> String {
    let modules: Vec<String> = setup
        .modules
        .iter()
        .map(|(alias, path)| format!("(\"{alias}\", \"{}\")", path.display()))
        .collect();
    format!("modules = [{}]\n{}\n", modules.join("; "), setup.filter)
}

fn rule_source(setup: &Setup, filter: &Path) -> String {
    if setup.filtered {
        return format!("filter_config = \"{}\";", filter.display());
    }
    let modules = setup.modules.iter();
    let modules = modules.map(|(alias, path)| format!("{alias}:{};", path.display()));
    format!("libnames = \"{}\";", modules.collect::<String>())
}

fn daemon_conf(setup: &Setup, address: &Address, directory: &Directory) -> String {
    let address = match address {
        // The original's workers die of this option on a Unix socket (EOPNOTSUPP).
        Address::Tcp(port) => format!(
            "tcp_nodelay = true; address {{ type = \"internet\"; bind = \"127.0.0.1:{port}\"; }};"
        ),
        Address::Unix(path) => format!(
            "address {{ type = \"local\"; path = \"{}\"; }};",
            path.display()
        ),
    };
    format!(
        r#"netplex {{
  controller {{
    socket_directory = "{run}";
    max_level = "info";
    logging {{ type = "stderr"; }};
    {controller}
  }};
  daemon {{ {daemon} }};
  service {{
    name = "PKCS#11 Filtering Proxy";
    conn_limit = 1;
    {service}
    protocol {{
      name = "rpc_pkcs11";
      {address}
    }};
    processor {{
      type = "rpc_pkcs11";
      {rules}
      use_ssl = {use_ssl};
      {processor}
    }};
    workload_manager {{
      type = "dynamic";
      max_jobs_per_thread = 1;
      min_free_jobs_capacity = 1;
      max_free_jobs_capacity = 2;
      max_threads = {max_threads};
    }};
  }};
  {services}
}}
"#,
        run = directory.join("run").display(),
        rules = rule_source(setup, &directory.join("filter.conf")),
        use_ssl = setup.use_ssl,
        service = setup.service,
        services = setup.services,
        controller = setup.controller,
        daemon = setup.daemon,
        processor = setup.processor,
        max_threads = setup.max_threads,
    )
}
