//! Starts the daemon that replaces this one, when an administrator asks for an upgrade.
//!
//! It starts the same path, with the same arguments and `-takeover`. So if a new version was installed, the new version
//! runs. It gets the sockets as [`crate::predecessor`] describes.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::unistd::Pid;

/// How this process was started.
pub struct Origin {
    program: PathBuf,
    arguments: Vec<OsString>,
    directory: PathBuf,
}

impl Origin {
    /// Describes this process, which must not have changed its working directory yet.
    pub fn of_this_process() -> io::Result<Origin> {
        Ok(Origin {
            program: std::env::current_exe()?,
            arguments: std::env::args_os().collect(),
            directory: std::env::current_dir()?,
        })
    }

    /// Starts a daemon that takes over. It stays in the foreground: if this daemon has detached, so has the new one.
    pub fn start_successor(&self) -> io::Result<Pid> {
        let mut arguments = self.arguments.iter();
        let mut command = Command::new(&self.program);
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        let child = command
            .args(arguments)
            .args(["-fg", "-takeover"])
            .current_dir(&self.directory)
            // The variable names this process, but the service manager is to watch the new one.
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::null())
            .spawn()?;
        // The controller reaps it like every child.
        Ok(Pid::from_raw(i32::try_from(child.id()).unwrap_or(-1)))
    }
}
