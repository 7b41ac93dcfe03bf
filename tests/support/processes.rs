//! Runs other processes with a time limit, and finds and ends those of a daemon.

use std::fs::{self, File};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Directory;

/// A process, told apart from a later one with its number by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    started: u64,
}

/// What `/proc/PID/stat` says.
struct Stat {
    state: char,
    parent: i32,
    ticks: u64,
    started: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name stands in parentheses and may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        ticks: fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

impl Process {
    /// The running process of that number.
    pub fn of(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        let started = stat(pid)?.started;
        Some(Self { pid, started })
    }

    /// Whether it runs: a zombie does not.
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|now| now.started == self.started && now.state != 'Z')
    }

    /// Its children.
    pub fn children(self) -> Vec<Self> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
            .filter_map(|pid| {
                let now = stat(pid)?;
                (now.parent == self.pid && now.state != 'Z').then_some(Self {
                    pid,
                    started: now.started,
                })
            })
            .collect()
    }

    /// Processor time it used, in clock ticks.
    pub fn ticks(self) -> u64 {
        stat(self.pid).map_or(0, |now| now.ticks)
    }

    /// How many descriptors it has open. Only root is told of a daemon's processes, which are not dumpable; others get 0,
    /// always.
    pub fn descriptors(self) -> usize {
        match fs::read_dir(format!("/proc/{}/fd", self.pid)) {
            Ok(open) => open.count(),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => 0,
            Err(error) => panic!("the process's descriptors: {error}"),
        }
    }

    /// Sends a signal, unless the process is gone.
    pub fn signal(self, signal: Signal) {
        if self.is_alive() {
            let _gone = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// Waits until `condition` holds; whether it did within the time.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for a child; `None` if it runs on.
pub fn wait_for(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let mut status = None;
    wait_until(limit, || {
        status = child.try_wait().expect("a child can be waited for");
        status.is_some()
    });
    status
}

/// A child process with its output in files. Dropping it kills it.
pub struct Running {
    child: Child,
    name: String,
    directory: Directory,
}

/// What a process left.
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Running {
    /// Starts `command`.
    pub fn start(mut command: Command) -> Self {
        let directory = Directory::new();
        let file = |name| File::create(directory.join(name)).expect("a file in a new directory");
        let name = format!("{command:?}");
        let child = command
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self {
            child,
            name,
            directory,
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// Waits for its end; panics when that takes too long.
    pub fn finish(mut self, limit: Duration) -> Outcome {
        match wait_for(&mut self.child, limit) {
            Some(status) => Outcome {
                status,
                stdout: self.read("stdout"),
                stderr: self.read("stderr"),
            },
            None => panic!(
                "{} took over {limit:?}; it wrote:\n{}\n{}",
                self.name,
                self.read("stdout"),
                self.read("stderr")
            ),
        }
    }

    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.directory.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _gone = self.child.kill();
            let _status = self.child.wait();
        }
    }
}

/// Runs `command` to its end.
pub fn run(command: Command, limit: Duration) -> Outcome {
    Running::start(command).finish(limit)
}
