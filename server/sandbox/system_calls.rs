//! Denies system calls with seccomp.
//!
//! A denied call returns an error instead of ending the process. So a module that can do without the call goes on, and
//! one that cannot reports an error to its client. The error is EPERM. It is ENOSYS for calls that have a fallback on
//! older kernels: clone3 and openat2, whose flags a filter cannot see, and io_uring, whose operations no filter sees.
//! Calls of another architecture end the process, except those of x32, which return ENOSYS.
//!
//! Filters are compiled once, in the controller ([`Programs`]); a worker only installs them. The controller's workers
//! and its successor inherit the filters that it has installed for itself. A process detects them with a call that only
//! such a filter answers ([`is_in_force`]). So repeated upgrades do not add up to more filters than the kernel allows.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use libc::c_long;
use nix::errno::Errno;
use nix::unistd::getpid;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

/// Which calls are denied.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    /// Deny sockets, programs, and everything else that a module which only reads and writes files does not need.
    pub(super) is_strict: bool,
    /// Deny signals to other processes, where landlock does not do it.
    pub(super) covers_signals: bool,
}

/// Calls that no module needs: mounts and other views of the system, other processes' memory, the kernel's code,
/// keyrings, the clock, the machine itself.
const NEVER: &[c_long] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_acct,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_bpf,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// Calls that return ENOSYS, because callers have a fallback.
const AS_IF_UNKNOWN: &[c_long] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Opens files as openat does, with flags that a filter cannot see.
const OPENAT2: &[c_long] = &[libc::SYS_openat2];

/// Calls that open a file, with the position of the argument that has the flags.
const OPENING: &[(c_long, u8)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1),
    (libc::SYS_openat, 2),
];

/// Calls that a module which needs only files can do without. `socketpair` is among them, because one of its two
/// sockets can send datagrams to any Unix socket. Landlock does not cover owners and attributes of files, nor, before
/// Linux 6.2, their truncation.
const STRICTLY: &[c_long] = &[
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_execve,
    libc::SYS_execveat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_semget,
    libc::SYS_msgget,
    libc::SYS_mq_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_truncate,
];

/// The flags with which clone and unshare create namespaces. The flag for time namespaces is not one of clone.
const NAMESPACES: &[i32] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWCGROUP,
];

/// The flag CLONE_NEWTIME of unshare.
const CLONE_NEWTIME: u64 = 0x80;

/// Calls that set the mode of a file, with the position of the mode.
const MODES: &[(c_long, u8)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, 1),
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (FCHMODAT2, 2),
];

/// The modes that may be set in `strict`: for the file's owner only. softokn sets them on its databases.
const PRIVATE: [u64; 4] = [0o400, 0o500, 0o600, 0o700];

/// The number of fchmodat2, which libc does not define on every architecture.
const FCHMODAT2: c_long = 452;

/// Rules for system calls, by number. An empty list of rules matches every use of the call.
struct Rules {
    of_call: BTreeMap<i64, Vec<SeccompRule>>,
}

/// A condition on an argument of a call: its position, its width, the comparison, and the value to compare with.
type Argument = (u8, SeccompCmpArgLen, SeccompCmpOp, u64);

impl Rules {
    fn new(calls: &[c_long]) -> Rules {
        let mut rules = Rules {
            of_call: BTreeMap::new(),
        };
        rules.add_all(calls);
        rules
    }

    fn add_all(&mut self, calls: &[c_long]) {
        for call in calls {
            self.of_call.insert(*call, Vec::new());
        }
    }

    /// Denies a call if all of these conditions are met. A call that is denied as a whole stays denied.
    fn add(&mut self, call: c_long, arguments: &[Argument]) -> Result<(), BackendError> {
        let mut conditions = Vec::new();
        for (position, width, comparison, value) in arguments {
            let comparison = comparison.clone();
            let width = width.clone();
            conditions.push(SeccompCondition::new(*position, width, comparison, *value)?);
        }
        let rule = SeccompRule::new(conditions)?;
        match self.of_call.get_mut(&call) {
            Some(rules) if rules.is_empty() => {}
            Some(rules) => rules.push(rule),
            None => {
                self.of_call.insert(call, vec![rule]);
            }
        }
        Ok(())
    }

    fn compile(self, answer: i32) -> Result<BpfProgram, BackendError> {
        let action = SeccompAction::Errno(answer.unsigned_abs());
        let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
        SeccompFilter::new(self.of_call, SeccompAction::Allow, action, architecture)?.try_into()
    }
}

/// Compiled filters.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    common: Common,
    /// Further filters of a worker.
    own: Vec<BpfProgram>,
}

/// The filters of the controller and all workers.
#[derive(Clone, Debug)]
struct Common {
    programs: Vec<BpfProgram>,
    /// A hash that identifies these filters.
    mark: u64,
}

impl Programs {
    /// Compiles the filters of a worker. With `allowed`, all other calls are denied too, except those of the worker
    /// itself.
    pub(super) fn of_worker(
        list: List,
        allowed: Option<&BTreeSet<i64>>,
    ) -> Result<Programs, BackendError> {
        let mut own = Vec::new();
        if list.is_strict {
            own.push(Rules::new(OPENAT2).compile(libc::ENOSYS)?);
        }
        own.push(of_worker(list)?.compile(libc::EPERM)?);
        own.extend(allowed.map(allow).transpose()?);
        Ok(Programs {
            common: Common::compile()?,
            own,
        })
    }

    /// Denies the calls to this process, which has one thread, and to what it starts.
    pub(super) fn install(&self) -> Result<(), seccompiler::Error> {
        self.common.install()?;
        self.own
            .iter()
            .try_for_each(|program| apply_filter(program))
    }
}

impl Common {
    fn compile() -> Result<Common, BackendError> {
        let mut programs = vec![
            common()?.compile(libc::EPERM)?,
            Rules::new(AS_IF_UNKNOWN).compile(libc::ENOSYS)?,
        ];
        programs.extend(other_numbers());
        let mut hasher = DefaultHasher::new();
        for step in programs.iter().flatten() {
            (step.code, step.jt, step.jf, step.k).hash(&mut hasher);
        }
        let mark = hasher.finish();
        let mut marked = Rules::new(&[]);
        marked.add(
            libc::SYS_prctl,
            &[(0, Dword, Eq, MARK.into()), (1, Qword, Eq, mark)],
        )?;
        programs.push(marked.compile(IN_FORCE as i32)?);
        Ok(Common { programs, mark })
    }

    fn install(&self) -> Result<(), seccompiler::Error> {
        if is_in_force(self.mark) {
            return Ok(());
        }
        self.programs
            .iter()
            .try_for_each(|program| apply_filter(program))
    }
}

/// An option of prctl that no kernel has. A filter of this daemon answers it with [`IN_FORCE`].
const MARK: u32 = 0x7063_3131;

/// An error that prctl returns for nothing else.
const IN_FORCE: Errno = Errno::ENOTUNIQ;

/// Whether this process has inherited the filters with this mark.
fn is_in_force(mark: u64) -> bool {
    bindings::sys::prctl(MARK, mark) == Err(IN_FORCE)
}

/// Explains an error in words for administrators.
pub(super) fn explain(error: &seccompiler::Error) -> String {
    match error {
        seccompiler::Error::Seccomp(cause) if cause.raw_os_error() == Some(libc::ENOMEM) => {
            "the kernel takes no more filters than this process has from those who started it; a restart ends that"
                .to_owned()
        }
        error => error.to_string(),
    }
}

/// System calls of the worker itself. A recording may miss them, because the worker makes some only when it drains,
/// executes several calls at a time, allocates, is interrupted, or ends.
const OWN: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_futex,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Compiles a filter that denies all calls except these and those of the worker itself.
fn allow(calls: &BTreeSet<i64>) -> Result<BpfProgram, BackendError> {
    let mut rules = Rules::new(OWN);
    rules
        .of_call
        .extend(calls.iter().map(|call| (*call, Vec::new())));
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules.of_call, denied, SeccompAction::Allow, architecture)?.try_into()
}

/// Installs in the controller the filters that all workers have in common. The controller needs none of the calls that
/// they deny. A worker is ready sooner: when a filter is installed, the kernel tries it with every call number.
pub(super) fn deny_in_advance() -> Result<(), String> {
    let common = Common::compile().map_err(|error| error.to_string())?;
    common.install().map_err(|error| explain(&error))
}

/// Returns the rules that apply whatever the preset is, also to the controller.
fn common() -> Result<Rules, BackendError> {
    let mut rules = Rules::new(NEVER);
    for flag in NAMESPACES {
        let flag = u64::from(flag.unsigned_abs());
        for call in [libc::SYS_clone, libc::SYS_unshare] {
            rules.add(call, &[(0, Qword, MaskedEq(flag), flag)])?;
        }
    }
    let time = (0, Qword, MaskedEq(CLONE_NEWTIME), CLONE_NEWTIME);
    rules.add(libc::SYS_unshare, &[time])?;
    // These requests put input into the daemon's terminal.
    for request in [libc::TIOCSTI, libc::TIOCLINUX] {
        rules.add(libc::SYS_ioctl, &[(1, Dword, Eq, request)])?;
    }
    // A process may not become dumpable again: its memory contains PINs, which must not get into a core file.
    let dumpable = u64::from(libc::PR_SET_DUMPABLE.unsigned_abs());
    let (option, on) = ((0, Dword, Eq, dumpable), (1, Qword, Ne, 0));
    rules.add(libc::SYS_prctl, &[option, on])?;
    // The limits of other processes.
    rules.add(libc::SYS_prlimit64, &[(0, Dword, Ne, 0)])?;
    Ok(rules)
}

/// Returns the further rules of a worker. chroot is not among the common ones, because workers change their root
/// directory before they install their own filters.
fn of_worker(list: List) -> Result<Rules, BackendError> {
    let mut rules = Rules::new(&[libc::SYS_chroot]);
    if list.covers_signals {
        deny_signals(&mut rules)?;
    }
    if list.is_strict {
        rules.add_all(STRICTLY);
        for (call, mode) in MODES {
            rules.add(*call, &PRIVATE.map(|private| (*mode, Dword, Ne, private)))?;
        }
        // O_TRUNC truncates even a file that is opened for reading.
        let only_cut = u64::from(libc::O_TRUNC.unsigned_abs());
        let access = only_cut | u64::from(libc::O_ACCMODE.unsigned_abs());
        for (call, flags) in OPENING {
            rules.add(*call, &[(*flags, Dword, MaskedEq(access), only_cut)])?;
        }
        let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
        rules.add(libc::SYS_clone, &[(0, Qword, MaskedEq(thread), 0)])?;
        // With this flag, sending opens a connection.
        let connect = u64::from(libc::MSG_FASTOPEN.unsigned_abs());
        for (call, flags) in [
            (libc::SYS_sendto, 3),
            (libc::SYS_sendmsg, 2),
            (libc::SYS_sendmmsg, 3),
        ] {
            rules.add(call, &[(flags, Dword, MaskedEq(connect), connect)])?;
        }
    }
    Ok(rules)
}

/// Denies signals to processes other than this one and its group. Processes that it starts may not even signal
/// themselves.
fn deny_signals(rules: &mut Rules) -> Result<(), BackendError> {
    let own = getpid().as_raw();
    let group = u64::from(u32::from_ne_bytes(own.wrapping_neg().to_ne_bytes()));
    let own = u64::from(own.unsigned_abs());
    let differs = |value| (0, Dword, Ne, value);
    let is_sent = (1, Dword, Ne, 0);
    rules.add(
        libc::SYS_kill,
        &[differs(own), differs(group), differs(0), is_sent],
    )?;
    for call in [
        libc::SYS_tgkill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
    ] {
        rules.add(call, &[differs(own)])?;
    }
    rules.add_all(&[libc::SYS_tkill, libc::SYS_pidfd_send_signal]);
    // These requests have the kernel send SIGIO, or another signal, to another process.
    for (call, requests) in [
        (libc::SYS_fcntl, [F_SETOWN, F_SETOWN_EX]),
        (libc::SYS_ioctl, [FIOSETOWN, SIOCSPGRP]),
    ] {
        for request in requests {
            rules.add(call, &[(1, Dword, Eq, request)])?;
        }
    }
    Ok(())
}

const F_SETOWN: u64 = 8;
const F_SETOWN_EX: u64 = 15;
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;

/// Returns a filter that denies the calls of x32. They are those of x86-64 with other numbers, which no rule names.
#[cfg(target_arch = "x86_64")]
fn other_numbers() -> Option<BpfProgram> {
    use seccompiler::sock_filter;
    const X32: u32 = 0x4000_0000;
    let (load, jump, answer) = (
        u16::try_from(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS).ok()?,
        u16::try_from(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K).ok()?,
        u16::try_from(libc::BPF_RET | libc::BPF_K).ok()?,
    );
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let unknown = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    Some(vec![
        // The number of the call comes first in `struct seccomp_data`.
        step(load, 0, 0, 0),
        step(jump, 0, 1, X32),
        step(answer, 0, 0, unknown),
        step(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ])
}

#[cfg(not(target_arch = "x86_64"))]
fn other_numbers() -> Option<BpfProgram> {
    None
}
