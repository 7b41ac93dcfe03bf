//! Runs the program `lasting`, an application that runs longer than its daemon.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use super::PATIENCE;
use super::compile::program;

/// What it prints of a signature that was made and verified.
pub const SIGNED: &str = "0 0 0 0";

/// What a site sets that lets applications outlive the daemon, logins included.
pub const KEPT: [(&str, &str); 2] = [
    ("PKCS11PROXY_RECOVER", "true"),
    ("PKCS11PROXY_KEEP_PIN", "true"),
];

/// The command that starts it, for the environment.
pub fn lasting() -> std::path::PathBuf {
    program("lasting")
}

/// The program `lasting`, which does what it is told with what it opened at its start.
pub struct Lasting {
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
}

impl Lasting {
    /// Starts it with this library and the environment of this command, and waits until it has logged in and found its
    /// key.
    pub fn start(mut command: Command, library: &Path) -> Lasting {
        command
            .arg(library)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let input = child.stdin.take().expect("a pipe");
        let output = lines(child.stdout.take().expect("a pipe"));
        let lasting = Lasting {
            child,
            input,
            output,
        };
        assert_eq!(lasting.line(), "ready 1");
        lasting
    }

    /// The next line that it prints.
    pub fn line(&self) -> String {
        let line = self.output.recv_timeout(PATIENCE);
        line.unwrap_or_else(|_| panic!("the program says nothing more"))
    }

    /// Tells it something.
    pub fn tell(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("the program reads");
    }

    /// What it prints after the command's name.
    pub fn does(&mut self, command: &str) -> String {
        self.tell(command);
        let line = self.line();
        let name = command.split(' ').next().unwrap_or_default();
        let said = line
            .strip_prefix(name)
            .unwrap_or_else(|| panic!("{command}: {line}"));
        said.trim().to_owned()
    }

    /// Has it finalise the library, and ends it.
    pub fn quit(mut self) {
        assert_eq!(self.does("quit"), "0");
        drop(self.input);
        assert!(self.child.wait().expect("a child").success());
    }
}

fn lines(output: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
