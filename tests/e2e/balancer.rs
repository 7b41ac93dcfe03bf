//! Tests two daemons behind HAProxy (docs/haproxy.md), each in a network namespace of its own, and clients in two more.
//!
//! The configuration is etc/haproxy.cfg with other addresses, and the commands are those of the page.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::support::lasting::{KEPT, Lasting, SIGNED, lasting};
use super::support::processes::{Process, wait_for, wait_until};
use super::support::stack::Library;
use super::support::{Directory, SOFTHSM, Token};

const PATIENCE: Duration = Duration::from_secs(30);

/// A page of the documentation.
const PAGE: &str = include_str!("../../docs/haproxy.md");

/// The configuration of HAProxy.
const HAPROXY: &str = include_str!("../../etc/haproxy.cfg");

/// Runs a command that has to succeed.
fn run(program: &str, arguments: &str) {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments}: {output:?}");
}

/// Network namespaces, each connected to the first. They are deleted at the end.
struct Networks {
    names: Vec<String>,
}

impl Networks {
    /// The first of them has the addresses 10.77.N.1, and the one of number N has 10.77.N.2.
    fn new(count: u8) -> Networks {
        let process = std::process::id();
        let mut networks = Networks { names: Vec::new() };
        for number in 0..=count {
            let name = format!("p11-{process}-{number}");
            run("ip", &format!("netns add {name}"));
            networks.names.push(name.clone());
            run("ip", &format!("-n {name} link set lo up"));
            if number > 0 {
                let first = networks.names[0].clone();
                let own =
                    format!("link add v{number} netns {first} type veth peer name e netns {name}");
                run("ip", &own);
                for (name, link, host) in
                    [(&first, format!("v{number}"), 1), (&name, "e".into(), 2)]
                {
                    run(
                        "ip",
                        &format!("-n {name} address add 10.77.{number}.{host}/24 dev {link}"),
                    );
                    run("ip", &format!("-n {name} link set {link} up"));
                }
                // The balancer's address, for the clients.
                run(
                    "ip",
                    &format!("-n {name} route add default via 10.77.{number}.1"),
                );
            }
        }
        networks
    }

    /// A program in one of them.
    fn command(&self, number: u8, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        let name = &self.names[usize::from(number)];
        command.args(["netns", "exec", name]).arg(program);
        command
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

/// A daemon in a network of its own. Its number is that of the network.
struct Site<'a> {
    networks: &'a Networks,
    number: u8,
    directory: Directory,
    token: Token,
    child: Option<Child>,
}

impl Site<'_> {
    fn address(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, number, 2)
    }

    fn start_new(networks: &Networks, number: u8, token: Token) -> Site<'_> {
        let directory = Directory::new();
        let modules = format!("modules = [(\"softhsm\", \"{SOFTHSM}\")]\n");
        fs::write(directory.join("filter.conf"), modules).expect("a file");
        let conf = format!(
            "netplex {{
               daemon {{ control_socket = \"{control}\" }};
               service {{
                 name = \"PKCS#11\";
                 protocol {{ name = \"rpc_pkcs11\";
                   address {{ type = \"internet\"; bind = \"{address}:4444\" }} }};
                 processor {{ type = \"rpc_pkcs11\"; filter_config = \"filter.conf\";
                   proxy_protocol = true; proxy_from = \"10.77.{number}.1\";
                   max_failed_logins = 1; }};
                 workload_manager {{ type = \"dynamic\"; min_free_jobs_capacity = 1;
                   max_free_jobs_capacity = 2; max_threads = 50 }} }} }}",
            control = directory.join("control").display(),
            address = Site::address(number),
        );
        fs::write(directory.join("pkcs11proxyd.conf"), conf).expect("a file");
        let mut site = Site {
            networks,
            number,
            directory,
            token,
            child: None,
        };
        site.start();
        site
    }

    fn start(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .expect("a file");
        let mut command = self
            .networks
            .command(self.number, env!("CARGO_BIN_EXE_pkcs11proxyd"));
        command
            .args(["-fg", "-conf"])
            .arg(self.directory.join("pkcs11proxyd.conf"))
            .arg("-pid")
            .arg(self.directory.join("pid"))
            .env("SOFTHSM2_CONF", self.token.configuration())
            .stdin(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().expect("it starts"));
        let ready = wait_until(PATIENCE, || self.asks("ready"));
        assert!(ready, "{}", self.log());
    }

    fn control(&self, word: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyctl"));
        let socket = self.directory.join("control");
        command.arg("-socket").arg(socket).args(word.split(' '));
        command
    }

    /// Whether `pkcs11proxyctl` does this.
    fn asks(&self, word: &str) -> bool {
        // What the page says is what is done.
        assert!(PAGE.contains(&format!("pkcs11proxyctl {word}")), "{word}");
        let output = self.control(word).output();
        output.is_ok_and(|output| output.status.success())
    }

    fn status(&self) -> String {
        let output = self.control("status").output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// The process that serves at present.
    fn process(&self) -> Option<Process> {
        let pid = fs::read_to_string(self.directory.join("pid")).ok()?;
        Process::of(pid.trim().parse().ok()?)
    }

    /// Waits for the end of the process that was started, successfully or by a signal.
    fn ended(&mut self) -> bool {
        let child = self.child.take();
        child.is_some_and(|mut child| wait_for(&mut child, PATIENCE).is_some())
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        if let Some(process) = self.process() {
            process.signal(Signal::SIGTERM);
            wait_until(PATIENCE, || {
                if let Some(child) = &mut self.child {
                    let _ = child.try_wait();
                }
                !process.is_alive()
            });
        }
        if let Some(mut child) = self.child.take() {
            if wait_for(&mut child, Duration::from_secs(5)).is_none() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if std::thread::panicking() {
            eprintln!("log of daemon {}:\n{}", self.number, self.log());
        }
    }
}

/// A program that ends with the test.
struct Balancer {
    child: Child,
    log: std::path::PathBuf,
}

impl Balancer {
    fn start(networks: &Networks, directory: &Path, conf: &str) -> Balancer {
        let file = directory.join("haproxy.cfg");
        fs::write(&file, conf).expect("a file");
        let log = directory.join("haproxy.log");
        let output = fs::File::create(&log).expect("a file");
        let mut command = networks.command(0, "haproxy");
        command.args(["-db", "-f"]).arg(&file).stderr(output);
        let child = command.stdin(Stdio::null()).spawn().expect("ip runs");
        Balancer { child, log }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("HAProxy's log:\n{log}");
        }
    }
}

/// How many signatures it has made since the last time, and how many calls have failed.
fn pause(lasting: &mut Lasting) -> (usize, String) {
    lasting.tell("stop");
    let line = lasting.line();
    let said = line.strip_prefix("stop ").expect("what it was told");
    let (good, errors) = said.split_once(' ').unwrap_or((said, ""));
    (good.parse().expect("a number"), errors.to_owned())
}

/// The configuration of the page, with the addresses of the test.
fn configuration() -> String {
    let mut conf = HAPROXY.to_owned();
    for (theirs, ours) in [
        ("bind 10.77.0.1:4444", "bind :4444".to_owned()),
        (
            "server one 10.77.0.11:4444",
            format!("server one {}:4444", Site::address(1)),
        ),
        (
            "server two 10.77.0.12:4444",
            format!("server two {}:4444", Site::address(2)),
        ),
        // So that a test sees that only the other one counts.
        ("timeout client 30s", "timeout client 1s".to_owned()),
        ("timeout server 30s", "timeout server 1s".to_owned()),
    ] {
        assert!(conf.contains(theirs), "{theirs}");
        conf = conf.replace(theirs, &ours);
    }
    conf
}

#[test]
fn daemons_behind_haproxy_are_upgraded_one_after_the_other_without_a_lost_call() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: only root may make network namespaces");
        return;
    }
    let networks = Networks::new(4);
    let token = Token::new().with_rsa_key();
    let copy = token.copy();
    let mut sites = [
        Site::start_new(&networks, 1, token),
        Site::start_new(&networks, 2, copy),
    ];
    let directory = Directory::new();
    let _balancer = Balancer::start(&networks, directory.path(), &configuration());
    // Health checks only: nothing is logged, and no worker is busy.
    let logs = sites.each_ref().map(Site::log);
    sleep(Duration::from_millis(2500));
    for (site, log) in sites.iter().zip(&logs) {
        assert_eq!(site.log(), *log);
        assert!(site.status().contains("0 clients"), "{}", site.status());
    }

    let client = |number: u8| {
        let mut command = networks.command(number, lasting());
        command
            .env("PKCS11PROXY_SOCKET_PATH", format!("10.77.{number}.1:4444"))
            .env("PKCS11PROXY_LIBNAME", "softhsm")
            .envs(KEPT);
        Lasting::start(command, &Library::Ours.path())
    };
    let mut clients = [client(3), client(4)];
    let names = |sites: &[Site<'_>; 2]| {
        let status = sites.each_ref().map(Site::status).concat();
        [3, 4].map(|number| {
            let via = |by: u8| format!(" via 10.77.{by}.1");
            let mut lines = status.lines();
            lines.any(|line| {
                line.contains(&format!("10.77.{number}.2:"))
                    && (line.contains(&via(1)) || line.contains(&via(2)))
            })
        })
    };
    assert_eq!(names(&sites), [true, true]);
    // Longer silent than any time limit of HAProxy but one.
    let connected = sites.each_ref().map(Site::status).concat();
    sleep(Duration::from_millis(2500));
    for client in &mut clients {
        assert_eq!(client.does("sign"), SIGNED);
    }
    let ports = |status: &str| {
        let ports = status.split_whitespace();
        let mut ports: Vec<String> = ports
            .filter(|word| word.starts_with("10.77.") && word.contains(':'))
            .map(str::to_owned)
            .collect();
        ports.sort();
        ports
    };
    let still = sites.each_ref().map(Site::status).concat();
    assert_eq!(ports(&connected), ports(&still));

    for client in &mut clients {
        client.tell("load 4");
    }
    // In place, and then by restarting.
    for site in &mut sites {
        sleep(Duration::from_millis(700));
        let old = site.process().expect("it runs");
        assert!(site.asks("upgrade"), "{}", site.log());
        assert!(site.ended(), "{}", site.log());
        assert!(!old.is_alive());
    }
    for site in &mut sites {
        sleep(Duration::from_millis(700));
        let old = site.process().expect("it runs");
        assert!(site.asks("drain"), "{}", site.log());
        assert!(wait_until(PATIENCE, || !old.is_alive()), "{}", site.log());
        site.start();
        // Until HAProxy has found it.
        assert!(PAGE.contains("sleep 2"));
        sleep(Duration::from_secs(2));
    }
    for client in &mut clients {
        let (good, errors) = pause(client);
        assert_eq!(errors, "");
        assert!(good > 100, "{good}");
    }
    // Between operations nothing is lost although a daemon is killed.
    for number in [0, 1] {
        let killed = sites[number].process().expect("it runs");
        killed.signal(Signal::SIGKILL);
        assert!(sites[number].ended());
        for client in &mut clients {
            assert_eq!(client.does("sign"), SIGNED);
        }
        sites[number].start();
        sleep(Duration::from_secs(2));
    }
    // Only who guesses is locked out, though both come from the same balancer.
    let [one, two] = &mut clients;
    for client in [&mut *one, &mut *two] {
        assert_eq!(client.does("logout"), "0");
    }
    assert_eq!(one.does("login 4321"), "0xa0");
    assert_eq!(one.does("login 1234"), "0xa4");
    assert_eq!(two.does("login 1234"), "0");
    let logs = sites.each_ref().map(Site::log).concat();
    assert!(
        logs.contains("1 failed logins of 10.77.3.2; all others"),
        "{logs}"
    );
    for client in clients {
        client.quit();
    }
}
