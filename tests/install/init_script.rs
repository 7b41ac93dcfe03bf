//! The installed init script and the rotation of logs, with a daemon that runs where it was installed.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Instant;

use nix::sys::signal::Signal;

use super::support::compile::module;
use super::support::processes::{Process, wait_until};
use super::*;

/// An installation in a prefix of its own. When it is dropped its daemon ends.
struct Installed {
    directory: Directory,
    port: u16,
}

impl Installed {
    /// `section`: more lines of pkcs11proxyd.conf.
    fn new(section: &str) -> Installed {
        let directory = Directory::new();
        let built = built();
        for (name, path) in [
            ("pkcs11proxyd", env!("CARGO_BIN_EXE_pkcs11proxyd")),
            ("pkcs11proxyctl", env!("CARGO_BIN_EXE_pkcs11proxyctl")),
        ] {
            let name = built.join(name);
            fs::remove_file(&name).expect("a file of ours");
            std::os::unix::fs::symlink(path, &name).expect("a link");
        }
        let prefix = directory.path().to_str().expect("our own path");
        let variables = [("PREFIX", prefix), ("P11_KIT", ""), ("SYSTEMD", "")];
        let outcome = make_of(built.path(), "install-files", &variables);
        assert!(outcome.status.success(), "{}", outcome.stderr);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        drop(listener);
        let installed = Installed { directory, port };
        installed.configure(section);
        installed.write(
            "etc/pkcs11proxyd/filter.conf",
            &format!(
                "modules = [(\"null\", \"{}\")]\n",
                module("nullmodule").display()
            ),
        );
        installed.default("");
        installed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    fn configure(&self, section: &str) {
        let log = self.path("log/daemon.log");
        fs::create_dir_all(self.path("log")).expect("a directory");
        let text = format!(
            "netplex {{ controller {{ logging {{ type = \"file\"; file = \"{}\" }} }}; {section}
               service {{ name = \"s\"; protocol {{ name = \"p\"; address {{ type = \"internet\"; bind = \"127.0.0.1:{}\" }} }};
               processor {{ type = \"rpc_pkcs11\"; filter_config = \"filter.conf\" }};
               workload_manager {{ type = \"constant\"; threads = 2 }} }} }}",
            log.display(),
            self.port
        );
        self.write("etc/pkcs11proxyd/pkcs11proxyd.conf", &text);
    }

    /// What a site sets.
    fn default(&self, more: &str) {
        let directory = self.directory.path().display();
        let text = format!(
            "PIDFILE={directory}/pid\nRUNDIR={directory}/run/sockets\nLOGDIR={directory}/log\n{more}"
        );
        self.write("etc/default/pkcs11proxyd", &text);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log/daemon.log")).unwrap_or_default()
    }

    fn daemon(&self) -> Process {
        let pid = fs::read_to_string(self.path("pid")).expect("a pid file");
        Process::of(pid.trim().parse().expect("a number")).expect("it runs")
    }

    /// Runs the script; it has to end with this status and say this.
    fn script(&self, action: &str, status: i32, told: &str) {
        let mut command = command(self.path("etc/init.d/pkcs11proxyd"));
        command.args(action.split_whitespace());
        let outcome = run(command, LONG);
        let text = outcome.stdout + &outcome.stderr;
        assert_eq!(outcome.status.code(), Some(status), "{action}: {text}");
        assert!(text.contains(told), "{action}: {text}");
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.path("pid")).unwrap_or_default();
        let Some(daemon) = pid.trim().parse().ok().and_then(Process::of) else {
            return;
        };
        // Only root may follow /proc/PID/exe of a daemon.
        let command = fs::read_to_string(format!("/proc/{}/cmdline", daemon.pid));
        let directory = self.directory.path().display().to_string();
        if command.is_ok_and(|command| command.starts_with(&directory)) {
            daemon.signal(Signal::SIGKILL);
        }
    }
}

#[test]
fn the_init_script_starts_reloads_restarts_and_stops_the_daemon() {
    let installed = Installed::new("");
    installed.script("status", 3, "not running");
    installed.script("reload", 7, "not running");
    installed.script("force-reload", 7, "not running");
    installed.script("try-restart", 0, "");
    installed.script("stop", 0, "not running");
    installed.script("start", 0, "started");
    assert!(installed.path("run/sockets").is_dir());
    let first = installed.daemon();
    assert!(std::net::TcpStream::connect(("127.0.0.1", installed.port)).is_ok());
    installed.script("status", 0, &format!("running, as process {}", first.pid));
    installed.script("start", 0, "already running");
    assert_eq!(installed.daemon(), first);

    for action in ["reload", "force-reload"] {
        let lines = installed.log().lines().count();
        installed.script(action, 0, "reloads");
        assert!(
            wait_until(LONG, || installed.log().lines().count() > lines),
            "{}",
            installed.log()
        );
    }
    assert_eq!(installed.daemon(), first);

    // A configuration that is wrong costs nobody the daemon.
    installed.configure("nonsense");
    installed.script("restart", 6, "not restarted; its configuration is wrong");
    assert!(first.is_alive());
    installed.configure("");
    installed.script("restart", 0, "started");
    let second = installed.daemon();
    assert!(!first.is_alive() && second.is_alive());
    installed.script("try-restart", 0, "started");
    assert!(!second.is_alive());
    let third = installed.daemon();
    installed.script("stop", 0, "stopped");
    assert!(!third.is_alive() && !installed.path("pid").exists());
    installed.script("status", 3, "not running");
}

#[test]
fn the_init_script_says_why_it_cannot_start() {
    let installed = Installed::new("nonsense");
    installed.script("start", 6, "pkcs11proxyd.conf:");
    fs::remove_file(installed.path("etc/pkcs11proxyd/pkcs11proxyd.conf")).expect("a file");
    installed.script("start", 6, "its configuration is wrong");
    installed.configure("");
    let taken = TcpListener::bind(("127.0.0.1", installed.port)).expect("it is free");
    installed.script("start", 1, "not started");
    drop(taken);
    installed.default("DAEMON=/nonexistent/pkcs11proxyd\n");
    installed.script("start", 5, "there is no program /nonexistent/pkcs11proxyd");
    for action in ["", "begin", "--help"] {
        installed.script(action, 3, "usage: pkcs11proxyd start|stop|restart|");
    }
}

/// The pid file of a daemon that was killed, whose number may belong to somebody else by now.
#[test]
fn a_pid_file_that_was_left_ends_nobody() {
    let installed = Installed::new("");
    let other = std::process::id().to_string();
    for pid in [other.as_str(), "4194304999", "", "x", "-1", "1; echo"] {
        installed.write("pid", pid);
        installed.script("status", 1, "not running, but");
        installed.script("reload", 7, "not running");
        installed.script("stop", 0, "not running");
        installed.script("status", 3, "not running");
    }
    installed.write("pid", &other);
    installed.script("start", 0, "started");
    assert_ne!(installed.daemon().pid.to_string(), other);
    installed.script("stop", 0, "stopped");
}

#[test]
fn a_daemon_that_does_not_end_is_killed_with_its_workers() {
    let installed = Installed::new("");
    installed.default("STOP_SECONDS=1\n");
    installed.script("start", 0, "started");
    let daemon = installed.daemon();
    assert!(wait_until(LONG, || !daemon.children().is_empty()));
    let workers = daemon.children();
    daemon.signal(Signal::SIGSTOP);
    let before = Instant::now();
    installed.script("stop", 0, "has not ended in 1 seconds; it is killed");
    assert!(before.elapsed() >= Duration::from_secs(1));
    let end = || !daemon.is_alive() && !workers.iter().any(|worker| worker.is_alive());
    assert!(wait_until(LONG, end));
    assert!(!installed.path("pid").exists());
}

/// Two rotations by logrotate itself: no line of the audit log is lost, and the log files go on.
#[test]
fn rotated_logs_go_on_in_new_files_and_the_audit_log_can_be_verified() {
    let mut found = command("logrotate");
    found.arg("--version");
    if found.output().is_err() {
        return eprintln!("skipped: there is no logrotate");
    }
    let installed = Installed::new("");
    let (key, public) = (installed.path("audit.pem"), installed.path("public.pem"));
    let mut generate = command("openssl");
    generate
        .args(["genpkey", "-algorithm", "ed25519", "-out"])
        .arg(&key);
    assert!(run(generate, LONG).status.success());
    let mut publish = command("openssl");
    publish
        .args(["pkey", "-pubout", "-in"])
        .arg(&key)
        .arg("-out")
        .arg(&public);
    assert!(run(publish, LONG).status.success());
    let audit = installed.path("log/audit.log");
    installed.configure(&format!(
        "daemon {{ audit {{ file = \"{}\"; key = \"{}\" }} }};",
        audit.display(),
        key.display()
    ));
    let directory = installed.directory.path().display().to_string();
    let text = fs::read_to_string(installed.path("etc/logrotate.d/pkcs11proxyd"))
        .expect("it is installed");
    let text = text
        .replace("/var/log/pkcs11proxyd/", &format!("{directory}/log/"))
        .replace("/var/log/", &format!("{directory}/log/"))
        .replace("/var/run/pkcs11proxyd.pid", &format!("{directory}/pid"));
    installed.write("rotation", &text);
    installed.script("start", 0, "started");
    let names = |begin: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(installed.path("log")).expect("a directory");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let mut paths: Vec<PathBuf> = paths
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(begin))
            })
            .collect();
        paths.sort();
        paths
    };
    for round in 1..=2 {
        let _client =
            std::net::TcpStream::connect(("127.0.0.1", installed.port)).expect("it listens");
        let mut rotate = command("logrotate");
        rotate
            .arg("--force")
            .arg("--state")
            .arg(installed.path("state"))
            .arg(installed.path("rotation"));
        let outcome = run(rotate, LONG);
        assert!(outcome.status.success(), "{}", outcome.stderr);
        assert_eq!(outcome.stderr, "");
        assert!(wait_until(LONG, || audit.exists()), "{}", installed.log());
        assert_eq!(names("audit.log-").len(), round);
        let log = installed.path("log/daemon.log");
        assert!(wait_until(LONG, || log.exists()));
        // Two archives in one second would have the same name.
        std::thread::sleep(Duration::from_millis(1100));
        installed.script("reload", 0, "reloads");
        assert!(
            wait_until(LONG, || !installed.log().is_empty()),
            "the new log file stays empty"
        );
    }
    assert!(installed.path("log/daemon.log.1").exists());
    assert!(installed.path("log/daemon.log.2.gz").exists());
    installed.script("stop", 0, "stopped");
    let mut verify = command(installed.path("bin/pkcs11proxyctl"));
    verify.args(["audit", "verify", "-key"]).arg(&public);
    verify.args(names("audit.log-")).arg(&audit);
    let outcome = run(verify, LONG);
    assert!(
        outcome.status.success(),
        "{}{}",
        outcome.stdout,
        outcome.stderr
    );
}
