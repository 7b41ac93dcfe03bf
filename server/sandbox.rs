//! Confines a worker, beyond what every worker gives up: root directory, capabilities, files, system calls, limits.
//!
//! The section `sandbox` of pkcs11proxyd.conf says how much ([`Sandbox`]); `worker::confine` takes the steps, in the
//! order of ARCHITECTURE.md, before it serves a client. `probe` tries them once at start in a child process. If this
//! system cannot take a step, the daemon does not start. `controller` confines the controller. Nothing here decides
//! what a client may call: that is the filter's part.

mod capabilities;
pub mod controller;
mod files;
pub mod probe;
pub mod profile;
mod system_calls;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use caps::CapsHashSet;
use config_file::Place;
use nix::sys::resource::{Resource, setrlimit};
use system_calls::Programs;

/// What a worker may do. The default is that of a service without a section `sandbox`.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    /// Where the section stands, for messages; `None` if there is none.
    pub place: Option<Place>,
    /// `preset`: how much a worker gives up. Default [`Preset::Default`].
    pub preset: Preset,
    /// Steps of the preset that are left out.
    pub without: LeftOut,
    /// `root`: the root directory of workers. Default that of the daemon.
    pub root: Option<PathBuf>,
    /// `profile`: the list of system calls; only with [`Preset::Learned`].
    pub profile: Option<PathBuf>,
    /// The numbers of the system calls in that file; see [`Sandbox::prepare`].
    pub allowed: BTreeSet<i64>,
    /// The filters of system calls; see [`Sandbox::prepare`].
    pub compiled: Compiled,
    /// `-profile`: the file to which system calls are written instead of being denied.
    pub recording: Option<PathBuf>,
    /// `read`: further files and directories that workers may read; only with [`Preset::Strict`].
    pub read: Vec<PathBuf>,
    /// `write`: further files that workers may read and write, and directories in which they may also create and remove
    /// files; only with [`Preset::Strict`].
    pub write: Vec<PathBuf>,
    /// `memory`, `files` and `processes`: the kernel's limits.
    pub limits: Limits,
}

/// Filters of system calls that are the same in all workers; `None` before [`Sandbox::prepare`], or if they differ.
#[derive(Clone, Debug, Default)]
pub struct Compiled(Option<Arc<Programs>>);

/// How much a worker gives up.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Preset {
    /// Nothing beyond what every worker gives up.
    None,
    /// Everything that no module needs.
    #[default]
    Default,
    /// Everything but files that are named: for modules that need neither the network nor other programs.
    Strict,
    /// What [`Preset::Default`] gives up, and all system calls that the profile does not list.
    Learned,
}

/// Steps that are switched off: `capabilities = false` and so on.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeftOut {
    /// Workers keep their capabilities.
    pub capabilities: bool,
    /// Landlock is not used.
    pub landlock: bool,
    /// No system call is denied.
    pub seccomp: bool,
}

/// The kernel's limits on one worker. `None` leaves the daemon's own limit in force.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// `memory`: private writable memory, in bytes (RLIMIT_DATA).
    pub memory: Option<u64>,
    /// `files`: open files (RLIMIT_NOFILE).
    pub files: Option<u64>,
    /// `processes`: processes and threads of the worker's user, which all workers share (RLIMIT_NPROC).
    pub processes: Option<u64>,
}

/// A step that could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {cause}")]
pub struct StepError {
    step: &'static str,
    cause: String,
}

impl StepError {
    /// Converts the error of a step to a [`StepError`] that names the step.
    pub fn of<E: fmt::Display>(step: &'static str) -> impl FnOnce(E) -> StepError {
        move |cause| StepError {
            step,
            cause: cause.to_string(),
        }
    }
}

impl Preset {
    /// Returns the name of the preset in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Preset::None => "none",
            Preset::Default => "default",
            Preset::Strict => "strict",
            Preset::Learned => "learned",
        }
    }
}

impl Sandbox {
    fn drops_capabilities(&self) -> bool {
        self.preset != Preset::None && !self.without.capabilities
    }

    fn uses_landlock(&self) -> bool {
        self.preset != Preset::None && !self.without.landlock
    }

    fn uses_seccomp(&self) -> bool {
        self.preset != Preset::None && !self.without.seccomp
    }

    /// Whether landlock prevents signals to other processes; otherwise seccomp does.
    fn scopes_signals(&self) -> bool {
        self.uses_landlock() && files::can_scope_signals()
    }

    /// Reads the profile, if it decides which system calls are denied, and compiles the filters that are the same in
    /// all workers.
    pub fn prepare(&mut self) -> Result<(), StepError> {
        if let (Some(path), None) = (&self.profile, &self.recording) {
            self.allowed = profile::load(path).map_err(StepError::of("profile"))?;
        }
        // Without landlock, the filter of each worker contains its own process id, so it is compiled in the worker.
        if self.uses_seccomp() && self.scopes_signals() {
            self.compiled = Compiled(Some(Arc::new(self.compile(true)?)));
        }
        Ok(())
    }

    fn compile(&self, scopes_signals: bool) -> Result<Programs, StepError> {
        let list = system_calls::List {
            is_strict: self.preset == Preset::Strict,
            covers_signals: !scopes_signals,
        };
        let is_listed = self.preset == Preset::Learned && self.recording.is_none();
        let allowed = is_listed.then_some(&self.allowed);
        Programs::of_worker(list, allowed).map_err(StepError::of("seccomp"))
    }

    /// Opens the file to which system calls are written. To be called as the user who started the daemon.
    pub fn open_recording(&self) -> Result<Option<File>, StepError> {
        let opened = self.recording.as_deref().map(profile::open).transpose();
        opened.map_err(StepError::of("profile"))
    }

    /// Changes the root directory. This needs root. Afterwards the file with the groups of users cannot be reached any
    /// more.
    pub fn change_root(&self) -> Result<(), StepError> {
        let Some(root) = &self.root else {
            return Ok(());
        };
        nix::unistd::chroot(root)
            .and_then(|()| nix::unistd::chdir("/"))
            .map_err(StepError::of("root"))
    }

    /// Takes the steps that come after the change of user. `modules` are the modules that may be loaded, `certificates`
    /// is a directory that the worker reads for each client, and `recording` is the file to which system calls are
    /// written.
    pub fn enter<'a>(
        &self,
        modules: impl Iterator<Item = &'a Path>,
        certificates: Option<&Path>,
        recording: Option<File>,
    ) -> Result<(), StepError> {
        if self.drops_capabilities() {
            capabilities::keep(&capabilities::of_worker(self.preset))
                .map_err(StepError::of("capabilities"))?;
        }
        let scopes_signals = self.compiled.0.is_some() || self.scopes_signals();
        match self.preset {
            _ if !self.uses_landlock() => {}
            Preset::Strict => {
                let mut reachable = files::Reachable::new(modules);
                reachable.read.extend(certificates.map(Path::to_path_buf));
                files::restrict(&reachable, self).map_err(StepError::of("landlock"))?;
            }
            _ if scopes_signals => files::scope_signals().map_err(StepError::of("landlock"))?,
            _ => {}
        }
        if self.uses_seccomp() {
            let installed = match &self.compiled.0 {
                Some(programs) => programs.install(),
                None => self.compile(scopes_signals)?.install(),
            };
            installed.map_err(|error| StepError::of("seccomp")(system_calls::explain(&error)))?;
        }
        if let Some(file) = recording {
            profile::record(file).map_err(StepError::of("profile"))?;
        }
        self.limits.apply().map_err(StepError::of("limits"))
    }

    /// Describes each step, for `-check` and the log. `is_root` says whether workers run as root.
    pub fn describe(&self, is_root: bool) -> Vec<String> {
        let mut steps = vec![format!("preset {}", self.preset.name())];
        if let Some(root) = &self.root {
            steps.push(format!("root directory {}", root.display()));
        }
        if self.drops_capabilities() {
            let kept = if is_root {
                capabilities::names(&capabilities::of_worker(self.preset))
            } else {
                String::new()
            };
            let kept = Some(kept).filter(|kept| !kept.is_empty());
            let kept = kept.as_deref().unwrap_or("none");
            steps.push(format!("capabilities: {kept}"));
        }
        if self.uses_landlock() && self.preset == Preset::Strict {
            steps.push("landlock: only files that are named".into());
            for (right, paths) in [("read", &self.read), ("read and write", &self.write)] {
                let paths = paths.iter();
                steps.extend(paths.map(|path| format!("landlock: {right} {}", path.display())));
            }
        }
        match (self.scopes_signals(), self.uses_seccomp()) {
            (true, _) => steps.push("landlock: signals only to itself and what it started".into()),
            (false, true) => steps.push("seccomp: signals only to itself".into()),
            (false, false) => {}
        }
        if self.uses_seccomp() {
            let more = match self.preset {
                Preset::Strict => ", sockets and programs among them",
                _ => "",
            };
            steps.push(format!("seccomp: system calls are denied{more}"));
        }
        if let Some(file) = &self.recording {
            steps.push(format!(
                "profile: system calls are written to {}",
                file.display()
            ));
        } else if let Some(file) = &self.profile {
            let (file, count) = (file.display(), self.allowed.len());
            steps.push(format!("seccomp: only the {count} system calls of {file}"));
        }
        let Limits {
            memory,
            files,
            processes,
        } = self.limits;
        for (name, limit) in [
            ("memory", memory),
            ("files", files),
            ("processes", processes),
        ] {
            steps.extend(limit.map(|limit| format!("limits: {name} {limit}")));
        }
        steps
    }
}

/// Returns the capabilities that a worker keeps if it may get any of these sandboxes.
fn capabilities_of<'a>(sandboxes: impl Iterator<Item = &'a Sandbox>) -> CapsHashSet {
    let mut kept = CapsHashSet::new();
    for sandbox in sandboxes {
        kept.extend(capabilities::of_worker(
            match sandbox.drops_capabilities() {
                true => sandbox.preset,
                false => Preset::None,
            },
        ));
    }
    kept
}

/// Drops from the bounding set the capabilities that no program started by a worker may have, whichever of these
/// sandboxes the worker gets. To be called as root, before the change of user: others have no capabilities to drop.
pub fn drop_bounding_capabilities<'a>(
    mut sandboxes: impl Iterator<Item = &'a Sandbox> + Clone,
) -> Result<(), StepError> {
    let kept = capabilities_of(sandboxes.clone());
    if !sandboxes.all(Sandbox::drops_capabilities) {
        return Ok(());
    }
    capabilities::bound(&kept).map_err(StepError::of("capabilities"))
}

/// Drops the capabilities that none of these sandboxes leaves to the worker.
pub fn drop_capabilities<'a>(
    mut sandboxes: impl Iterator<Item = &'a Sandbox> + Clone,
) -> Result<(), StepError> {
    let kept = capabilities_of(sandboxes.clone());
    if !sandboxes.all(Sandbox::drops_capabilities) {
        return Ok(());
    }
    capabilities::keep(&kept).map_err(StepError::of("capabilities"))
}

impl Limits {
    fn apply(self) -> nix::Result<()> {
        for (resource, limit) in [
            (Resource::RLIMIT_DATA, self.memory),
            (Resource::RLIMIT_NOFILE, self.files),
            (Resource::RLIMIT_NPROC, self.processes),
        ] {
            if let Some(limit) = limit {
                setrlimit(resource, limit, limit)?;
            }
        }
        Ok(())
    }
}
