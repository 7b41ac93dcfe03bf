//! Calls that are in flight when their worker ends: a line says that they had begun, and how the worker ended.

use crate::administration::ctl;

use super::*;

fn obeying(token: &Token) -> Setup {
    let mut setup = setup(token);
    let obey = ("NULLMODULE_OBEY".to_owned(), "1".to_owned());
    setup.environment.push(obey);
    setup
}

/// A client in whose worker the module sleeps in C_Sign, and that worker.
fn sleeping(audited: &Audited) -> (Client, Process) {
    let mut client = ready4(&audited.daemon);
    assert_eq!(sign(&mut client), CkRv::OK);
    let mut workers = audited.daemon.workers().into_iter();
    let has_module = |worker: &Process| {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", worker.pid));
        maps.is_ok_and(|maps| maps.contains("nullmodule"))
    };
    let worker = workers.find(has_module).expect("a worker with the module");
    let mechanism = Some(Mechanism::bare(SIGNED_WITH));
    let begun = client.call(Call4::C_SignInit(SESSION, mechanism, ObjectHandle(1)));
    assert_eq!(begun.rv(), CkRv::OK);
    let order = Input::Bytes(b"sleep 60000");
    client.send(&encoded(&Call4::C_Sign(SESSION, order, Room::Buffer(999))));
    std::thread::sleep(Duration::from_millis(100));
    (client, worker)
}

/// Checks the line of the one call that had no end.
fn has_no_end(audited: &Audited, end: &str) {
    let unfinished = || -> Vec<Value> {
        let lines = audited.lines().into_iter();
        lines.filter(|line| line["event"] == "unfinished").collect()
    };
    assert!(wait_until(PATIENCE, || !unfinished().is_empty()));
    let unfinished = unfinished();
    let [line] = unfinished.as_slice() else {
        panic!("{unfinished:?}")
    };
    assert_eq!(
        (&line["function"], &line["end"]),
        (&"C_Sign".into(), &end.into()),
        "{line}"
    );
    assert_eq!(line["mechanism"], "CKM_SHA256_RSA_PKCS");
    assert_eq!(line["objects"][0]["label"], "null");
    assert_eq!(line["call"], 7, "{line}");
    assert!(
        line["began"]
            .as_str()
            .is_some_and(|began| began <= line["time"].as_str().unwrap_or(""))
    );
    assert!(line.get("result").is_none());
    let same = audited
        .lines()
        .into_iter()
        .filter(|other| other["connection"] == line["connection"] && other["call"] == line["call"]);
    assert_eq!(same.count(), 1);
    let text = std::fs::read_to_string(audited.file()).expect("a log");
    assert!(!text.contains("sleep 60000") && !text.contains("736c656570"));
}

#[test]
fn a_call_in_which_the_module_crashes_has_a_line() {
    let token = Token::new();
    let mut audited = Audited::start(obeying(&token), "");
    let mut client = ready4(&audited.daemon);
    assert_eq!(sign(&mut client), CkRv::OK);
    let mechanism = Some(Mechanism::bare(SIGNED_WITH));
    client.call(Call4::C_SignInit(SESSION, mechanism, ObjectHandle(1)));
    let order = Input::Bytes(b"crash");
    client.send(&encoded(&Call4::C_Sign(SESSION, order, Room::Buffer(999))));
    assert!(client.is_closed_within(PATIENCE));
    has_no_end(&audited, "by signal SIGSEGV");
    audited.end(&["audit.log"]);
    let lines = audited.lines();
    let place = lines.iter().position(|line| line["event"] == "unfinished");
    let number = (place.expect("a line") + 1).to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyctl"));
    command
        .current_dir(audited.directory.path())
        .args(["explain", "-conf"])
        .arg(audited.daemon.directory().join("pkcs11proxyd.conf"))
        .args([&number, "audit.log"]);
    let explained = run(command, PATIENCE).stdout;
    let expected = "then it had no result; now it reaches the module";
    assert!(explained.contains(expected), "{explained}");
}

#[test]
fn a_call_whose_worker_is_killed_has_a_line() {
    let token = Token::new();
    let mut audited = Audited::start(obeying(&token), "");
    let (_client, worker) = sleeping(&audited);
    worker.signal(Signal::SIGKILL);
    has_no_end(&audited, "by signal SIGKILL");
    audited.end(&["audit.log"]);
}

#[test]
fn a_call_of_a_client_that_is_disconnected_or_has_gone_has_a_line() {
    let token = Token::new();
    for is_asked in [true, false] {
        let mut setup = obeying(&token);
        setup.processor = "abandoned_call_timeout = 0.2;".into();
        setup.daemon = "control_socket = \"../control\";".into();
        let mut audited = Audited::start(setup, "");
        let (client, _) = sleeping(&audited);
        if is_asked {
            let connection = audited.calls("C_Sign")[0]["connection"].to_string();
            let outcome = ctl(&audited.daemon, &["disconnect", &connection]);
            assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
        } else {
            drop(client);
        }
        has_no_end(&audited, "by signal SIGKILL");
        audited.end(&["audit.log"]);
    }
}

#[test]
fn a_call_in_flight_at_the_daemons_end_has_a_line_also_if_the_daemon_was_killed() {
    let token = Token::new();
    for is_killed in [false, true] {
        let mut audited = Audited::start(obeying(&token), "");
        let (_client, _) = sleeping(&audited);
        if is_killed {
            audited.daemon.process().signal(Signal::SIGKILL);
            has_no_end(&audited, "with the daemon");
            let verified = || audited.verify(&["-running"], &["audit.log"]);
            let holds = wait_until(PATIENCE, || verified().status.code() == Some(0));
            assert!(holds, "{}", verified().stdout);
        } else {
            audited.end(&["audit.log"]);
            has_no_end(&audited, "with the daemon");
        }
    }
}

/// The records of such a worker, and its call in flight, wait for the next auditor.
#[test]
fn a_worker_that_ends_while_there_is_no_auditor_loses_no_line() {
    let token = Token::new();
    let mut audited = Audited::start(obeying(&token), "");
    let (_client, worker) = sleeping(&audited);
    let auditor = audited.auditor();
    auditor.signal(Signal::SIGSTOP);
    let mut other = ready4(&audited.daemon);
    assert_eq!(sign(&mut other), CkRv::OK);
    drop(other);
    worker.signal(Signal::SIGKILL);
    assert!(wait_until(PATIENCE, || !worker.is_alive()));
    auditor.signal(Signal::SIGKILL);
    has_no_end(&audited, "by signal SIGKILL");
    audited.end(&["audit.log"]);
    assert_eq!(audited.calls("C_Sign").len(), 3);
}
