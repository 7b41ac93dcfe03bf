//! Tests what the log says about modules, calls and workers.

use crate::*;

#[test]
fn the_log_tells_that_a_module_did_not_start() {
    let token = Token::new();
    let daemon = Setup::new(Maker::Ours, Endpoint::Tcp, &token).start();
    std::fs::remove_file(token.configuration()).expect("SoftHSM's configuration");
    let mut client = Client::new(&daemon);
    assert!(client.call(Call::C_LoadModule(b"softhsm")).rv().is_ok());
    let refused = client.call(Call::C_Initialize()).rv();
    assert!(!refused.is_ok());
    let line = format!("ERROR: C_Initialize of the module failed with {refused}");
    assert!(
        wait_until(Duration::from_secs(5), || daemon.log().contains(&line)),
        "{}",
        daemon.log()
    );
}

#[test]
fn calls_are_logged_by_name_and_value_only() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.options = vec!["-debug-pkcs11".into()];
    let daemon = setup.start();
    let mut client = Client::ready(&daemon);
    client.call(Call::C_Login(SESSION, xdr::UserType(1), b"s3cret-pin"));
    assert!(wait_until(Duration::from_secs(5), || daemon
        .log()
        .contains("C_Login returned")));
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("C_Login returned"))
        .expect("a line");
    assert!(
        line.contains("] [PKCS#11 Filtering Proxy] [info] C_Login returned in process "),
        "{line}"
    );
    assert!(line.ends_with(" with cKR_OK"), "{line}");
    assert!(!log.contains("s3cret"));
}

#[test]
fn the_log_tells_whose_worker_died_and_of_what() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.environment = vec![("NULLMODULE_OBEY".into(), "1".into())];
    let daemon = setup.start();
    for (order, expected) in [
        ("crash", "by signal SIGSEGV"),
        ("signal 34", "by signal 34"),
        ("signal 64", "by signal 64"),
        ("exit 3", "with exit code 3"),
        ("exit 0", "with exit code 0"),
    ] {
        let mut client = Client::ready(&daemon);
        client.send(&encoded(&Call::C_Sign(SESSION, order.as_bytes())));
        assert!(client.record().is_none());
        let name = client.0.local_addr().expect("connected");
        let line = format!(" terminated {expected}; its client was {name}\n");
        let is_told = || daemon.log().contains(&line);
        assert!(wait_until(Duration::from_secs(5), is_told), "{line}");
    }
    drop(Client::ready(&daemon));
    assert!(wait_until(Duration::from_secs(5), || {
        daemon.workers().len() == 1
    }));
    assert_eq!(daemon.log().matches(" terminated ").count(), 5);
}

#[test]
fn what_a_worker_logged_last_is_not_lost() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.options = vec!["-debug-pkcs11".into()];
    let daemon = setup.start();
    let call = Call::C_GetInfo();
    for _ in 0..10 {
        let mut client = Client::ready(&daemon);
        client.send(&encoded(&call).repeat(80));
        client.0.shutdown(Shutdown::Write).expect("half closed");
        while client.record().is_some() {}
    }
    let returned = || daemon.log().matches("C_GetInfo returned").count();
    assert!(
        wait_until(Duration::from_secs(5), || returned() == 800),
        "{} of 800",
        returned()
    );
}

#[test]
fn a_refused_call_is_logged_with_its_line_in_the_filter_file() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.filter = "debug = 1\nforbidden_functions = [(null, [C_Login])]".into();
    setup.processor = "compatibility = \"unknown-options\";".into();
    let daemon = setup.start();
    let mut client = Client::ready(&daemon);
    let reply = client.call(Call::C_Login(SESSION, xdr::UserType(1), b"s3cret-pin"));
    assert_eq!(reply.rv().0, 0x54);
    let line =
        "C_Login: the function is FILTERED with CKR_FUNCTION_NOT_SUPPORTED for alias 'null' (";
    assert!(wait_until(Duration::from_secs(5), || daemon
        .log()
        .contains(line)));
    let log = daemon.log();
    assert!(log.contains("filter.conf:3: forbidden_functions)"), "{log}");
    assert!(log.contains("[DEBUG_LEVEL 0/1]"), "{log}");
    assert!(log.contains("compatibility unknown-options: "), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

/// What systemd does with `StandardError=journal`: the variable has the device and inode of the socket.
#[test]
fn lines_for_the_journal_begin_with_their_priority_and_others_do_not() {
    use std::os::linux::fs::MetadataExt;

    let directory = with_rules();
    let conf = configuration("type = \"internet\"; bind = \"127.0.0.1:0\"", "");
    std::fs::write(directory.join("d.conf"), conf).expect("a file");
    for is_journal in [true, false] {
        let (mut ours, theirs) = UnixStream::pair().expect("sockets");
        let path = format!("/proc/self/fd/{}", theirs.as_raw_fd());
        let found = std::fs::metadata(path).expect("a socket");
        let inode = found.st_ino() + u64::from(!is_journal);
        let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyd"));
        command
            .args(["-fg", "-conf"])
            .arg(directory.join("d.conf"))
            .env("JOURNAL_STREAM", format!("{}:{inode}", found.st_dev()))
            .stderr(std::os::fd::OwnedFd::from(theirs));
        let mut daemon = command.spawn().expect("it starts");
        drop(command);
        let mut first = vec![0; 3];
        ours.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        ours.read_exact(&mut first).expect("a line");
        daemon.kill().expect("it runs");
        daemon.wait().expect("it ends");
        let mut rest = String::new();
        let _ = ours.read_to_string(&mut rest);
        let text = String::from_utf8_lossy(&first) + &*rest;
        let has_priority = |line: &str| {
            let rest = line.strip_prefix('<').and_then(|rest| rest.get(1..));
            rest.is_some_and(|rest| rest.starts_with(">["))
        };
        assert!(!text.is_empty());
        assert!(
            text.lines().all(|line| has_priority(line) == is_journal),
            "{text}"
        );
        assert_eq!(text.contains("<6>["), is_journal, "{text}");
    }
}
