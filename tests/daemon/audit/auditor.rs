//! The auditor's life: rotation, an upgrade, its end, workers that lie to it, and what is wrong with its section.

use super::*;

#[test]
fn rotation_under_load_loses_no_line() {
    let token = Token::new();
    let mut audited = Audited::start(setup(&token), "sign_lines = 50;");
    let is_over = AtomicBool::new(false);
    let mut files = Vec::new();
    let signed: usize = std::thread::scope(|scope| {
        let signers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = ready4(&audited.daemon);
                    let mut count = 0;
                    while !is_over.load(Ordering::SeqCst) {
                        assert_eq!(sign(&mut client), CkRv::OK);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for number in 0..5 {
            std::thread::sleep(Duration::from_millis(100));
            let name = format!("audit.log.{number}");
            std::fs::rename(audited.file(), audited.directory.join(&name)).expect("renamed");
            audited.daemon.process().signal(Signal::SIGHUP);
            assert!(wait_until(PATIENCE, || audited.file().exists()));
            files.push(name);
        }
        is_over.store(true, Ordering::SeqCst);
        signers
            .into_iter()
            .map(|signer| signer.join().expect("signed"))
            .sum()
    });
    files.push("audit.log".to_owned());
    let names: Vec<&str> = files.iter().map(String::as_str).collect();
    audited.end(&names);
    let count: usize = names
        .iter()
        .map(|name| {
            let lines = lines(&audited.directory.join(name));
            lines
                .iter()
                .filter(|line| line["function"] == "C_Sign")
                .count()
        })
        .sum();
    assert_eq!(count, signed);
    // A file that is left out, and two in the wrong order.
    let mut without = names.clone();
    without.remove(2);
    let outcome = audited.verify(&[], &without);
    assert_eq!(outcome.status.code(), Some(1));
    assert!(
        outcome.stdout.contains("audit.log.3:1: the lines number"),
        "{}",
        outcome.stdout
    );
    let outcome = audited.verify(&[], &[names[1], names[0]]);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stdout);
}

#[test]
fn another_auditor_goes_on_behind_one_that_was_killed() {
    let token = Token::new();
    let mut audited = Audited::start(setup(&token), "");
    let mut client = ready4(&audited.daemon);
    assert_eq!(sign(&mut client), CkRv::OK);
    assert!(audited.has("C_Sign", 1));
    let auditor = audited.auditor();
    auditor.signal(Signal::SIGKILL);
    let mut signed = 1;
    assert!(wait_until(PATIENCE, || {
        signed += usize::from(sign(&mut client) == CkRv::OK);
        audited
            .present_auditor()
            .is_some_and(|other| other != auditor)
    }));
    assert!(wait_until(PATIENCE, || sign(&mut client) == CkRv::OK));
    signed += 1;
    drop(client);
    audited.end(&["audit.log"]);
    assert_eq!(audited.calls("C_Sign").len(), signed);
    let lines = audited.lines();
    let connections: std::collections::BTreeSet<u64> = lines
        .iter()
        .filter_map(|line| line["connection"].as_u64())
        .collect();
    assert_eq!(
        connections.len(),
        1,
        "the controller told the new one who it is"
    );
    assert!(!lines.iter().any(|line| line["event"] == "malformed"));
    let log = audited.daemon.log();
    assert!(
        log.contains("terminated by signal SIGKILL; it is started again"),
        "{log}"
    );
    let notes = audited.verify(&[], &["audit.log"]).stdout;
    assert!(
        notes.contains("no orderly end before this start"),
        "{notes}"
    );
}

/// As after an upgrade whose old daemon cannot give the file up.
#[test]
fn no_call_is_executed_for_long_while_another_process_has_the_log() {
    let token = Token::new();
    let mut audited = Audited::start(setup(&token), "when_full = \"refuse\";");
    let mut client = ready4(&audited.daemon);
    assert_eq!(sign(&mut client), CkRv::OK);
    assert!(audited.has("C_Sign", 1));
    let auditor = audited.auditor();
    auditor.signal(Signal::SIGKILL);
    // The next one is started a second after the first at the earliest.
    let file = std::fs::File::open(audited.file()).expect("a log");
    let mut locked = None;
    assert!(wait_until(PATIENCE, || {
        let file = file.try_clone().expect("a descriptor");
        locked = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).ok();
        locked.is_some()
    }));
    assert!(wait_until(PATIENCE, || {
        let log = audited.daemon.log();
        log.contains("cannot be written, calls are refused")
    }));
    assert_eq!(sign(&mut client), CkRv::DEVICE_ERROR);
    drop(locked);
    assert!(wait_until(PATIENCE, || sign(&mut client) == CkRv::OK));
    drop(client);
    audited.end(&["audit.log"]);
}

#[test]
fn an_auditor_that_is_killed_under_load_loses_no_call_and_repeats_none() {
    let token = Token::new();
    let mut audited = Audited::start(setup(&token), "sign_lines = 50;");
    let is_over = AtomicBool::new(false);
    let signed: usize = std::thread::scope(|scope| {
        let sign_until_the_end = || {
            let mut count = 0;
            while !is_over.load(Ordering::SeqCst) {
                // A client now and then, whose worker may end while there is no auditor.
                let (mut client, opened) = begin4(&audited.daemon);
                if opened != CkRv::OK {
                    // Without an auditor nothing is executed.
                    assert_eq!(opened, CkRv::DEVICE_ERROR);
                    continue;
                }
                for _ in 0..500 {
                    count += usize::from(sign(&mut client) == CkRv::OK);
                }
            }
            count
        };
        let signers: Vec<_> = (0..3).map(|_| scope.spawn(sign_until_the_end)).collect();
        for _ in 0..4 {
            let mut auditor = None;
            let runs = wait_until(PATIENCE, || {
                auditor = audited.present_auditor();
                auditor.is_some()
            });
            assert!(runs);
            std::thread::sleep(Duration::from_millis(137));
            auditor.expect("an auditor").signal(Signal::SIGKILL);
            std::thread::sleep(Duration::from_millis(200));
        }
        is_over.store(true, Ordering::SeqCst);
        let signers = signers.into_iter();
        signers.map(|signer| signer.join().expect("signed")).sum()
    });
    audited.end(&["audit.log"]);
    let calls = audited.calls("C_Sign");
    assert_eq!(calls.len(), signed);
    let numbers = |call: &Value| (call["connection"].as_u64(), call["call"].as_u64());
    let lines = audited.lines().into_iter();
    let calls: Vec<_> = lines.filter(|line| line["event"] == "call").collect();
    let different: std::collections::BTreeSet<_> = calls.iter().map(numbers).collect();
    assert_eq!(different.len(), calls.len(), "a line is repeated");
    assert!(signed > 1000, "{signed}");
    let notes = audited.verify(&[], &["audit.log"]).stdout;
    assert!(!notes.contains("no line tells of"), "{notes}");
}

#[test]
fn a_worker_cannot_speak_for_another_connection() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup
        .environment
        .push(("NULLMODULE_OBEY".into(), "1".into()));
    let mut audited = Audited::start(setup, "");
    let mut victim = ready4(&audited.daemon);
    let mut hostile = ready4(&audited.daemon);
    assert_eq!(sign_with(&mut hostile, b"forge"), CkRv::OK);
    assert_eq!(sign(&mut victim), CkRv::OK);
    drop((victim, hostile));
    audited.end(&["audit.log"]);
    let opened = audited.calls("C_OpenSession");
    let connections = || opened.iter().map(|call| &call["connection"]);
    let by_number = |call: &&Value| call.as_u64();
    let victim = connections().min_by_key(by_number).expect("two");
    let hostile = connections().max_by_key(by_number).expect("two");
    // All that it can forge is a call of its own.
    let forged = audited.calls("C_CreateObject");
    assert_eq!(forged.len(), 1);
    assert_eq!(
        (&forged[0]["connection"], &forged[0]["call"]),
        (hostile, &77.into())
    );
    // It has shut its own socket to the auditor down, and nobody else's.
    for function in ["C_SignInit", "C_Sign"] {
        let calls = audited.calls(function).into_iter();
        let of_victim = calls.filter(|call| call["connection"] == *victim);
        assert_eq!(of_victim.count(), 1, "{function}");
    }
    let lines = audited.lines();
    let malformed = lines.iter().filter(|line| line["event"] == "malformed");
    let malformed: Vec<u64> = malformed
        .filter(|line| line["connection"] == *hostile)
        .filter_map(|line| line["count"].as_u64())
        .collect();
    assert_eq!(malformed, [1, 2, 4, 8]);
    for (member, forged) in [
        ("user", "CN=somebody else"),
        ("profile", "of somebody else"),
    ] {
        assert!(!lines.iter().any(|line| line[member] == forged));
    }
    assert!(
        audited
            .daemon
            .log()
            .contains("sent the auditor something that is not a record")
    );
}

/// The old daemon goes on in a file of its own, the new one in the old one's.
#[test]
fn an_upgrade_loses_no_line() {
    let token = Token::new();
    let directory = Directory::new();
    let mut setup = setup(&token);
    let control = directory.join("control");
    setup.daemon = format!("control_socket = \"{}\";", control.display());
    let mut audited = Audited::start(setup, "");
    let old = audited.daemon.process();
    let mut client = ready4(&audited.daemon);
    assert_eq!(sign(&mut client), CkRv::OK);
    let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyctl"));
    command.arg("-socket").arg(&control).arg("upgrade");
    let outcome = run(command, Duration::from_secs(30));
    assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
    let pid = std::fs::read_to_string(audited.daemon.directory().join("pid")).expect("a pid");
    let new = Process::of(pid.trim().parse().expect("a number")).expect("it runs");
    assert_ne!(new.pid, old.pid);
    let mut other = ready4(&audited.daemon);
    assert_eq!(sign(&mut other), CkRv::OK);
    assert_eq!(sign(&mut client), CkRv::OK);
    drop((client, other));
    // The old one ends when its client has left.
    assert_eq!(
        audited.daemon.wait().and_then(|status| status.code()),
        Some(0)
    );
    new.signal(Signal::SIGTERM);
    assert!(wait_until(PATIENCE, || !new.is_alive()));
    let start = format!("audit.log.{}-", old.pid);
    let files = std::fs::read_dir(audited.directory.join(".")).expect("a directory");
    let mut names = files.map(|file| file.expect("a file").file_name().into_string());
    let aside = names.find_map(|name| name.ok().filter(|name| name.starts_with(&start)));
    let aside = aside.expect("a file of the old daemon");
    let signed = ["audit.log", &aside].map(|file| {
        let verified = audited.verify(&[], &[file]);
        let status = verified.status.code();
        assert_eq!(status, Some(0), "{file}: {}", verified.stdout);
        let lines = lines(&audited.directory.join(file));
        let calls = lines.iter().filter(|line| line["function"] == "C_Sign");
        calls.count()
    });
    // The first one's line may be in either, as the auditor is about to write it.
    assert!(signed == [2, 1] || signed == [1, 2], "{signed:?}");
}

#[test]
fn what_is_wrong_with_the_section_is_told_at_start() {
    let directory = with_rules();
    key(&directory);
    std::fs::write(directory.join("precious"), "precious\n").expect("a file");
    let rsa = openssl::rsa::Rsa::generate(2048).expect("a key");
    std::fs::write(
        directory.join("rsa.pem"),
        rsa.private_key_to_pem().expect("PEM"),
    )
    .expect("a file");
    nix::unistd::mkfifo(&directory.join("pipe"), nix::sys::stat::Mode::S_IRUSR).expect("a pipe");
    for (section, expected) in [
        // Nobody writes to it, so that to open it would wait for ever.
        (
            "file = \"a.log\";\n key = \"pipe\";",
            "is not a regular file",
        ),
        ("file = \"a.log\";", "`key` is missing"),
        ("key = \"key.pem\";", "`file` is missing"),
        (
            "file = \"a.log\";\n key = \"none.pem\";",
            "d.conf:2: netplex.daemon.audit.key: ",
        ),
        (
            "file = \"a.log\";\n key = \"rsa.pem\";",
            "expected an Ed25519 key",
        ),
        (
            "file = \"a.log\";\n key = \"filter.conf\";",
            "expected a private key in PEM",
        ),
        (
            "key = \"key.pem\";\n file = \"precious\";",
            "d.conf:2: netplex.daemon.audit.file: ",
        ),
        (
            "key = \"key.pem\";\n file = \"none/a.log\";",
            "cannot be opened",
        ),
        (
            "key = \"key.pem\"; file = \"a.log\"; when_full = \"stop\";",
            "expected refuse or count",
        ),
        (
            "key = \"key.pem\"; file = \"a.log\"; journal = \"yes\";",
            "expected none, signatures or all",
        ),
        (
            "key = \"key.pem\"; file = \"a.log\"; sign_lines = 0;",
            "expected 1 or more",
        ),
    ] {
        let conf = configuration("type = \"internet\"; bind = \"127.0.0.1:0\"", "");
        let conf = conf.replacen(
            "netplex {",
            &format!("netplex {{ daemon {{ audit {{ {section} }} }};"),
            1,
        );
        let output = refused(&directory, &conf, &["-fg"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{section}: {text}");
        assert!(text.contains(expected), "{section}: {text}");
    }
    assert_eq!(
        std::fs::read_to_string(directory.join("precious")).expect("a file"),
        "precious\n"
    );
}
