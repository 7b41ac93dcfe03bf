//! Tests what a hostile module can do under each preset and without single steps, and what still works.

use std::os::unix::net::UnixDatagram;

use crate::*;

/// What a hostile module reaches for: the test's own sockets and files, and the controller.
struct Surroundings {
    directory: Directory,
    tcp: std::net::TcpListener,
    _unix: UnixListener,
    _datagram: UnixDatagram,
}

impl Surroundings {
    fn new() -> Surroundings {
        let directory = Directory::new();
        // Whoever the worker runs as may come here.
        let mode = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(directory.path(), mode).expect("a mode");
        let stream = directory.join("stream");
        let datagram = directory.join("datagram");
        let surroundings = Surroundings {
            tcp: std::net::TcpListener::bind("127.0.0.1:0").expect("a port"),
            _unix: UnixListener::bind(&stream).expect("a socket"),
            _datagram: UnixDatagram::bind(&datagram).expect("a socket"),
            directory,
        };
        for path in [stream, datagram] {
            let mode = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(path, mode).expect("a mode");
        }
        surroundings
    }

    /// Has the module of `client` try something. `{}` in the order is the argument that is known here only.
    fn attempt(&self, client: &mut Client, controller: &Process, order: &str) -> String {
        let file = |name: &str| {
            let path = self.directory.join(name);
            std::fs::write(&path, "content").expect("a file");
            let mode = std::fs::Permissions::from_mode(0o666);
            std::fs::set_permissions(&path, mode).expect("a mode");
            path.display().to_string()
        };
        let argument = match order {
            "tcp" => self.tcp.local_addr().expect("bound").port().to_string(),
            "unix" => self.directory.join("stream").display().to_string(),
            "datagram" => self.directory.join("datagram").display().to_string(),
            "read" => "/etc/passwd".into(),
            "write" => {
                let path = self.directory.join("new");
                let _none = std::fs::remove_file(&path);
                path.display().to_string()
            }
            "cut" | "cut-open" | "open-2" | "mode" => file("content"),
            "ptrace" | "signal" | "sigio" => controller.pid.to_string(),
            _ => return obeys(client, order),
        };
        obeys(client, &format!("{order} {argument}"))
    }
}

/// What the hostile module says to an order.
pub fn obeys(client: &mut Client, order: &str) -> String {
    match client.call(Call::C_Sign(SESSION, order.as_bytes())) {
        Reply::C_Sign(reply) if reply.rv.is_ok() => {
            String::from_utf8_lossy(&reply.data).into_owned()
        }
        Reply::C_Sign(reply) => format!("{}", reply.rv),
        _ => panic!("another function's reply"),
    }
}

/// A daemon in front of the hostile module, with a section `sandbox`.
fn hostile(token: &Token, section: &str) -> Setup {
    let mut setup = Setup::new(Maker::Ours, Endpoint::Tcp, token);
    setup.modules = vec![("null".into(), module("hostile"))];
    setup.processor = section.into();
    setup
}

/// The same as another user, who reaches the module.
pub fn hostile_as_nobody(token: &Token, section: &str) -> (Setup, Directory) {
    let public = Directory::new();
    let copy = public.join("module.so");
    std::fs::copy(module("hostile"), &copy).expect("a copy");
    for path in [public.path(), &copy] {
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(path, mode).expect("a mode");
    }
    let mut setup = hostile(token, section);
    setup.modules = vec![("null".into(), copy)];
    setup.service = "user = \"nobody\";".into();
    (setup, public)
}

const DONE: &str = "done";

/// What the module tries, and what comes of it with the presets `none`, `default` and `strict`.
const ATTEMPTS: &[(&str, &str, &str, &str)] = &[
    ("tcp", DONE, DONE, "EPERM"),
    ("unix", DONE, DONE, "EPERM"),
    ("datagram", DONE, DONE, "EPERM"),
    ("run", DONE, DONE, "EPERM"),
    ("read", DONE, DONE, "EACCES"),
    ("write", DONE, DONE, "EACCES"),
    ("cut", DONE, DONE, "EPERM"),
    ("cut-open", DONE, DONE, "EPERM"),
    ("open-2", DONE, DONE, "ENOSYS"),
    ("mode", DONE, DONE, "EPERM"),
    ("namespace", DONE, "EPERM", "EPERM"),
    ("namespace-3", DONE, "ENOSYS", "ENOSYS"),
    ("ptrace", DONE, "EPERM", "EPERM"),
    ("signal", DONE, "EPERM", "EPERM"),
    ("fork 20", DONE, DONE, "EPERM"),
    ("limit", DONE, "EPERM", "EPERM"),
    ("dumpable", DONE, "EPERM", "EPERM"),
    ("keyring", DONE, "EPERM", "EPERM"),
    ("ring", DONE, "ENOSYS", "ENOSYS"),
    ("capability", DONE, "EPERM", "EPERM"),
    ("files 2000", DONE, DONE, "EMFILE"),
    ("thread", DONE, DONE, DONE),
    ("own", DONE, DONE, DONE),
];

fn results(setup: Setup) -> Vec<(&'static str, String)> {
    let daemon = setup.start();
    let surroundings = Surroundings::new();
    let mut client = Client::ready(&daemon);
    ATTEMPTS
        .iter()
        .map(|(order, ..)| {
            let result = surroundings.attempt(&mut client, &daemon.process(), order);
            (*order, result)
        })
        .collect()
}

/// Whether this process may raise its limits: in a container not even root may.
fn may_raise_limits() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let own = Process::of(std::process::id()).expect("it runs");
    let effective = u64::from_str_radix(&status(&own, "CapEff:"), 16).expect("a mask");
    effective >> CAP_SYS_RESOURCE & 1 == 1
}

/// A line of a process's status; empty if it has ended.
fn status(process: &Process, name: &str) -> String {
    let path = format!("/proc/{}/status", process.pid);
    let status = std::fs::read_to_string(path).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().trim().to_owned()
}

/// Needs root: with `none`, all of it works.
#[test]
fn each_preset_takes_away_what_it_says() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root has all of this to lose");
        return;
    }
    let token = Token::new();
    for (preset, column) in [("none", 0), ("default", 1), ("strict", 2)] {
        let section = format!("sandbox {{ preset = \"{preset}\" }};");
        let found = results(hostile(&token, &section));
        let expected: Vec<(&str, String)> = ATTEMPTS
            .iter()
            .map(|&(order, none, default, strict)| {
                let none = if order == "limit" && !may_raise_limits() {
                    "EPERM"
                } else {
                    none
                };
                (order, [none, default, strict][column].to_owned())
            })
            .collect();
        assert_eq!(found, expected, "{preset}");
    }
}

/// A step that is left out is left out alone. Needs root.
#[test]
fn each_step_can_be_left_out() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root has capabilities");
        return;
    }
    let token = Token::new();
    for (section, expected) in [
        // Then seccomp keeps signals from others.
        (
            "preset = \"default\"; landlock = false",
            &[
                ("signal", "EPERM"),
                ("sigio", "EPERM"),
                ("own", DONE),
                ("read", DONE),
                ("namespace", "EPERM"),
            ][..],
        ),
        (
            "preset = \"default\"; seccomp = false",
            &[
                ("signal", "EPERM"),
                ("namespace", DONE),
                ("ring", DONE),
                ("capability", "EPERM"),
            ],
        ),
        (
            "preset = \"default\"; capabilities = false",
            &[("capability", DONE), ("ptrace", "EPERM")],
        ),
        (
            "preset = \"default\"; landlock = false; seccomp = false",
            &[
                ("signal", DONE),
                ("namespace", DONE),
                ("capability", "EPERM"),
            ],
        ),
        (
            "preset = \"strict\"; landlock = false",
            &[
                ("read", DONE),
                ("tcp", "EPERM"),
                ("signal", "EPERM"),
                ("own", DONE),
                ("thread", DONE),
            ],
        ),
        (
            "preset = \"strict\"; seccomp = false",
            &[
                ("read", "EACCES"),
                ("tcp", "EACCES"),
                ("unix", DONE),
                ("run", "EACCES"),
                ("cut", "EACCES"),
                ("signal", "EPERM"),
            ],
        ),
    ] {
        let daemon = hostile(&token, &format!("sandbox {{ {section} }};")).start();
        let surroundings = Surroundings::new();
        let mut client = Client::ready(&daemon);
        for (order, result) in expected {
            let found = surroundings.attempt(&mut client, &daemon.process(), order);
            assert_eq!(found, *result, "{section}: {order}");
        }
    }
}

#[test]
fn strict_reaches_what_the_section_names_and_no_more() {
    let token = Token::new();
    let directory = Directory::new();
    for name in ["r", "w"] {
        std::fs::create_dir(directory.join(name)).expect("a directory");
        std::fs::write(directory.join(name).join("file"), "x").expect("a file");
    }
    let (read, write) = (directory.join("r"), directory.join("w"));
    let section = format!(
        "sandbox {{ preset = \"strict\"; read = \"{}:/etc/hostname\"; write = \"{}\" }};",
        read.display(),
        write.display()
    );
    let daemon = hostile(&token, &section).start();
    let mut client = Client::ready(&daemon);
    let mut check = |order: &str, path: &Path, expected: &str| {
        let order = format!("{order} {}", path.display());
        assert_eq!(obeys(&mut client, &order), expected, "{order}");
    };
    check("read", &read.join("file"), DONE);
    check("cut", &read.join("file"), "EPERM");
    check("cut-open", &read.join("file"), "EPERM");
    check("write", &read.join("new"), "EACCES");
    check("read", &write.join("file"), DONE);
    check("write", &write.join("new"), DONE);
    check("read", Path::new("/etc/hostname"), DONE);
    check("read", Path::new("/etc/passwd"), "EACCES");
    check("read", &directory.join("r/../../../etc/passwd"), "EACCES");
    // Its own memory, but nobody's else.
    let controller = format!("/proc/{}/maps", daemon.process().pid);
    check("read", Path::new(&controller), "EACCES");
    // What it shares with its libraries.
    check("read", &module("hostile"), DONE);
}

#[test]
fn limits_hold() {
    let token = Token::new();
    let section = "sandbox { preset = \"none\"; memory = 134217728; files = 64 };";
    let daemon = hostile(&token, section).start();
    let mut client = Client::ready(&daemon);
    for (order, expected) in [
        ("memory 16", DONE),
        ("memory 256", "ENOMEM"),
        ("files 32", DONE),
        ("files 64", "EMFILE"),
        ("limit", "EPERM"),
    ] {
        if order != "limit" || !may_raise_limits() {
            assert_eq!(obeys(&mut client, order), expected, "{order}");
        }
    }
}

/// Needs root, on whom there is no limit of processes.
#[test]
fn a_fork_bomb_ends_at_the_limit_of_processes() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can start workers as another user");
        return;
    }
    let token = Token::new();
    // Other tests have processes of this user, too.
    let (setup, _public) = hostile_as_nobody(&token, "sandbox { processes = 100 };");
    let daemon = setup.start();
    let mut client = Client::ready(&daemon);
    assert_eq!(obeys(&mut client, "fork 3"), DONE);
    assert_eq!(obeys(&mut client, "fork 150"), "EAGAIN");
    assert_eq!(obeys(&mut client, "fork 3"), DONE);
}

/// With a configured user. Needs root.
#[test]
fn workers_of_another_user_keep_no_capability_and_the_controller_few() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can start workers as another user");
        return;
    }
    let token = Token::new();
    let (setup, _public) = hostile_as_nobody(&token, "sandbox { preset = \"strict\" };");
    let daemon = setup.start();
    let surroundings = Surroundings::new();
    let mut client = Client::ready(&daemon);
    for order in ["tcp", "unix", "run", "read", "write", "namespace"] {
        let found = surroundings.attempt(&mut client, &daemon.process(), order);
        assert_ne!(found, DONE, "{order}");
    }
    assert!(wait_until(PATIENCE, || daemon.workers().iter().all(
        |worker| {
            let is_zero = |name| status(worker, name) == "0000000000000000";
            let sets = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"];
            sets.into_iter().all(is_zero) && status(worker, "Seccomp:") == "2"
        }
    )));
    let controller = daemon.process();
    assert_eq!(status(&controller, "NoNewPrivs:"), "1");
    assert_eq!(status(&controller, "Seccomp:"), "2");
    // DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, KILL, SETGID, SETUID, SETPCAP.
    let bits: u64 = [1, 2, 3, 5, 6, 7, 8].iter().map(|bit| 1_u64 << bit).sum();
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(status(&controller, set), format!("{bits:016x}"), "{set}");
    }
}

#[test]
fn a_worker_whose_module_crashes_or_hangs_is_alone() {
    let token = Token::new();
    let daemon = hostile(&token, "sandbox { preset = \"strict\" };").start();
    let mut good = Client::ready(&daemon);
    let mut hangs = Client::ready(&daemon);
    hangs.send(&encoded(&Call::C_Sign(SESSION, b"hang")));
    let mut crashes = Client::ready(&daemon);
    crashes.send(&encoded(&Call::C_Sign(SESSION, b"crash")));
    assert!(crashes.record().is_none());
    assert_eq!(obeys(&mut good, "own"), DONE);
    assert_eq!(obeys(&mut Client::ready(&daemon), "thread"), DONE);
    assert!(!hangs.is_closed_within(Duration::from_millis(100)));
    assert!(
        wait_until(PATIENCE, || daemon
            .log()
            .contains("terminated by signal SIGSEGV")),
        "{}",
        daemon.log()
    );
}

/// The controller reads only some messages of a worker in a turn, whatever they say.
#[test]
fn a_worker_that_sends_without_end_keeps_nobody_out() {
    let token = Token::new();
    let daemon = hostile(&token, "sandbox { preset = \"strict\" };").start();
    let mut floods = Client::ready(&daemon);
    let before = daemon.process().ticks();
    assert_eq!(obeys(&mut floods, "flood"), DONE);
    // The controller is busy with it.
    let moment = Duration::from_secs(10);
    assert!(wait_until(moment, || daemon.process().ticks() > before + 5));
    for _ in 0..5 {
        assert_eq!(obeys(&mut Client::ready(&daemon), "own"), DONE);
    }
    assert_eq!(obeys(&mut floods, "own"), DONE);
    daemon.process().signal(Signal::SIGTERM);
    assert!(wait_until(PATIENCE, || !daemon.process().is_alive()));
}

#[test]
fn a_module_may_have_threads_of_its_own() {
    let token = Token::new();
    let mut setup = hostile(&token, "sandbox { preset = \"strict\" };");
    setup
        .environment
        .push(("HOSTILE_THREADS".into(), "1".into()));
    let daemon = setup.start();
    assert_eq!(obeys(&mut Client::ready(&daemon), "thread"), DONE);
}

/// Needs root.
#[test]
fn workers_may_have_a_root_directory_of_their_own() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can change the root directory");
        return;
    }
    let token = Token::new();
    for (preset, read) in [("none", "done"), ("default", "done"), ("strict", "EACCES")] {
        let root = Directory::new();
        std::fs::create_dir(root.join("lib")).expect("a directory");
        std::fs::copy(module("hostile"), root.join("lib/module.so")).expect("a copy");
        std::fs::write(root.join("inside"), "x").expect("a file");
        for name in ["", "lib", "lib/module.so", "inside"] {
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(root.join(name), mode).expect("a mode");
        }
        for user in ["", "user = \"nobody\";"] {
            let section = format!(
                "sandbox {{ preset = \"{preset}\"; root = \"{}\" }};",
                root.path().display()
            );
            let mut setup = hostile(&token, &section);
            setup.modules = vec![("null".into(), "/lib/module.so".into())];
            setup.service = user.into();
            let daemon = setup.start();
            let mut client = Client::ready(&daemon);
            assert_eq!(obeys(&mut client, "read /etc/passwd"), "ENOENT");
            assert_eq!(obeys(&mut client, "read /inside"), read, "{preset}");
            assert!(!daemon.log().contains("cannot be read"), "{}", daemon.log());
        }
    }
}

#[test]
fn a_step_that_cannot_be_taken_ends_the_start() {
    let directory = with_rules();
    let path = directory.join("s");
    let address = format!("type = \"local\"; path = \"{}\"", path.display());
    for (section, expected) in [
        (
            "preset = \"strict\"; read = \"/nonexistent/file\"",
            "sandbox: landlock: ",
        ),
        ("root = \"/nonexistent\"", "sandbox: root: ENOENT"),
    ] {
        let conf = configuration(&address, &format!("sandbox {{ {section} }}"));
        for more in [&[][..], &["-fg"], &["-check"]] {
            let output = refused(&directory, &conf, more);
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{section}: {text}");
            assert!(text.contains("d.conf:2: "), "{section}: {text}");
            assert!(text.contains(expected), "{section}: {text}");
            assert!(!path.exists());
        }
    }
}

/// What is ours stands where the original looks for nothing.
#[test]
fn the_original_starts_with_a_sandbox_and_a_hook_in_its_configuration() {
    let token = Token::new();
    let mut setup = Setup::new(Maker::Original, Endpoint::Tcp, &token);
    setup.processor = "daemonize_hook = \"/nonexistent\";
        sandbox { preset = \"strict\"; read = \"/a:/b\"; write = \"/c\"; root = \"/d\"; memory = 67108864;
                  files = 32; processes = 1; landlock = true; seccomp = true; capabilities = true };"
        .into();
    let daemon = setup.start();
    assert!(daemon.accepts());
}

/// A daemon that was not started by root, and detached. Landlock and seccomp need no privilege.
#[test]
fn an_ordinary_user_can_confine_workers() {
    let public = Directory::new();
    let program = public.join("pkcs11proxyd");
    std::fs::copy(env!("CARGO_BIN_EXE_pkcs11proxyd"), &program).expect("a copy");
    std::fs::copy(module("hostile"), public.join("module.so")).expect("a copy");
    let rules = format!(
        "modules = [(\"null\", \"{}\")]",
        public.join("module.so").display()
    );
    std::fs::write(public.join("filter.conf"), rules).expect("a file");
    let (port, pid) = (public.join("port"), public.join("pid"));
    let address = format!("type = \"socket_file\"; path = \"{}\"", port.display());
    let conf = configuration(&address, "sandbox { preset = \"strict\" }");
    std::fs::write(public.join("d.conf"), conf).expect("a file");
    for name in ["", "pkcs11proxyd", "module.so", "filter.conf", "d.conf"] {
        let mode = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(public.join(name), mode).expect("a mode");
    }
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
        command.arg(program);
        command
    } else {
        Command::new(program)
    };
    command
        .arg("-conf")
        .arg(public.join("d.conf"))
        .arg("-pid")
        .arg(&pid);
    let outcome = run(command, PATIENCE);
    assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
    let number = |path: &Path| {
        let text = std::fs::read_to_string(path).expect("the daemon's file");
        text.lines()
            .next_back()
            .and_then(|line| line.parse::<u32>().ok())
            .expect("a number")
    };
    let daemon = Process::of(number(&pid)).expect("it runs");
    let port = u16::try_from(number(&port)).expect("a port");
    let mut client = Client(TcpStream::connect(("127.0.0.1", port)).expect("it listens"));
    client.call(Call::C_SetupArch(Architecture::host()));
    client.call(Call::C_LoadModule(b"null"));
    client.call(Call::C_Initialize());
    client.call(Call::C_OpenSession(SlotId(0), Flags(6)));
    let surroundings = Surroundings::new();
    for (order, _, _, expected) in ATTEMPTS {
        let found = surroundings.attempt(&mut client, &daemon, order);
        assert_eq!(found, *expected, "{order}");
    }
    assert_eq!(status(&daemon, "NoNewPrivs:"), "1");
    daemon.signal(Signal::SIGTERM);
    assert!(wait_until(PATIENCE, || !daemon.is_alive() && !pid.exists()));
}

/// As on an older kernel. What needs landlock does not start; what can do without it does.
#[test]
fn a_kernel_without_a_step_ends_the_start_if_the_step_is_asked_for() {
    let directory = with_rules();
    let path = directory.join("s");
    let address = format!("type = \"local\"; path = \"{}\"", path.display());
    for (missing, section, expected) in [
        (
            "landlock",
            "preset = \"strict\"",
            Some("sandbox: landlock: expected Linux 5.13"),
        ),
        ("landlock", "preset = \"strict\"; landlock = false", None),
        ("landlock", "preset = \"default\"", None),
        (
            "seccomp",
            "preset = \"default\"",
            Some("sandbox: seccomp: "),
        ),
        ("seccomp", "preset = \"default\"; seccomp = false", None),
        ("seccomp", "preset = \"none\"", None),
    ] {
        let conf = configuration(&address, &format!("sandbox {{ {section} }}"));
        std::fs::write(directory.join("d.conf"), conf).expect("a file");
        let mut command = Command::new(support::compile::program("without"));
        command
            .args([
                missing,
                env!("CARGO_BIN_EXE_pkcs11proxyd"),
                "-check",
                "-conf",
            ])
            .arg(directory.join("d.conf"));
        let outcome = run(command, PATIENCE);
        let text = format!(
            "{missing}, {section}: {} {}",
            outcome.stdout, outcome.stderr
        );
        if let Some(reason) = expected {
            assert_eq!(outcome.status.code(), Some(2), "{text}");
            assert!(outcome.stderr.contains(reason), "{text}");
            continue;
        }
        assert_eq!(outcome.status.code(), Some(0), "{text}");
        let by_seccomp = text.contains("seccomp: signals only to itself");
        assert_eq!(by_seccomp, missing == "landlock", "{text}");
    }
}

/// What an application does at a site: keys are made, found and used, by several clients one after the other.
fn works(daemon: &Daemon, token: &Token) -> bool {
    let (data, signature) = (token.path().join("data"), token.path().join("signature"));
    std::fs::write(&data, "data").expect("a directory of ours");
    let _none = std::fs::remove_file(&signature);
    let (data, signed) = (data.display().to_string(), signature.display().to_string());
    let tool = |arguments: &[&str]| {
        let mut command = Command::new("pkcs11-tool");
        command.arg("--module").arg(support::Library::Ours.path());
        command
            .args(["--login", "--pin", Token::PIN])
            .args(arguments);
        command.env("PKCS11PROXY_SOCKET_PATH", daemon.address());
        command.env("PKCS11PROXY_LIBNAME", "softhsm");
        run(command, PATIENCE).stdout
    };
    let made = tool(&["--keypairgen", "--key-type", "rsa:2048", "--id", "07"]);
    let found = tool(&["--list-objects", "--type", "privkey"]);
    tool(&[
        "--sign",
        "--mechanism",
        "SHA256-RSA-PKCS",
        "--id",
        "07",
        "--input-file",
        &data,
        "--output-file",
        &signed,
    ]);
    let length = std::fs::metadata(&signature).map(|file| file.len());
    made.contains("Key pair generated")
        && found.contains("ID:         07")
        && length.ok() == Some(256)
}

/// A run with `-profile` is what `learned` allows afterwards, and no more.
#[test]
fn what_was_recorded_is_what_learned_allows() {
    let token = Token::new();
    let profile = token.path().join("profile");
    let section = format!(
        "sandbox {{ preset = \"learned\"; profile = \"{}\" }};",
        profile.display()
    );
    let softhsm = || {
        let mut setup = Setup::new(Maker::Ours, Endpoint::Tcp, &token);
        setup.processor.clone_from(&section);
        setup
    };
    let mut setup = softhsm();
    setup.options = vec!["-profile".into(), profile.display().to_string()];
    let mut recording = setup.start();
    assert!(works(&recording, &token), "{}", recording.log());
    assert!(recording.terminate().is_some_and(|status| status.success()));
    let recorded = std::fs::read_to_string(&profile).expect("a profile");
    assert!(recorded.lines().count() > 20, "{recorded}");

    let enforcing = softhsm().start();
    assert!(works(&enforcing, &token), "{}", enforcing.log());
    drop(enforcing);

    // Another module under this profile. SoftHSM reads files and needs neither programs nor another root.
    let daemon = hostile(&token, &section).start();
    let surroundings = Surroundings::new();
    let mut client = Client::ready(&daemon);
    for (order, expected) in [
        ("run", "EPERM"),
        ("tcp", "EPERM"),
        ("unix", "EPERM"),
        ("namespace", "EPERM"),
        ("mode", "EPERM"),
        ("thread", DONE),
        ("read", DONE),
    ] {
        let found = surroundings.attempt(&mut client, &daemon.process(), order);
        assert_eq!(found, expected, "{order}");
    }
}

#[test]
fn a_profile_that_cannot_be_used_ends_the_start() {
    let directory = with_rules();
    let profile = directory.join("profile");
    let address = format!(
        "type = \"local\"; path = \"{}\"",
        directory.join("s").display()
    );
    let section = format!(
        "sandbox {{ preset = \"learned\"; profile = \"{}\" }}",
        profile.display()
    );
    let conf = configuration(&address, &section);
    for (content, expected) in [
        (None, "No such file"),
        (Some("x86_64 x\n"), "profile: 1: expected"),
        (Some("# nothing\n"), "-profile records them"),
    ] {
        if let Some(content) = content {
            std::fs::write(&profile, content).expect("a file");
        }
        for more in ["-fg", "-check"] {
            let output = refused(&directory, &conf, &[more]);
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(
                text.contains("d.conf:2: ") && text.contains(expected),
                "{text}"
            );
        }
    }
    let output = refused(
        &directory,
        &conf,
        &["-fg", "-profile", "/nonexistent/profile"],
    );
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("sandbox: profile: No such file"), "{text}");
}
