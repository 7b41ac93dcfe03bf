//! What happens while no line can be written: calls are refused, or executed and counted.

use super::*;

/// Limits how long files of the auditor may get; none: no limit.
fn limit(audited: &Audited, size: Option<u64>) {
    limit_files(audited.auditor(), size);
}

/// The same for this process.
fn limit_files(auditor: Process, size: Option<u64>) {
    let size = size.map_or_else(|| "unlimited".to_owned(), |size| size.to_string());
    let status = Command::new("prlimit")
        .args([
            "--pid",
            &auditor.pid.to_string(),
            &format!("--fsize={size}:unlimited"),
        ])
        .status();
    assert!(status.expect("prlimit runs").success());
}

/// How often the module was called.
fn executed(log: &Path, function: &str) -> usize {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .filter(|line| line.split_whitespace().next() == Some(function))
        .count()
}

#[test]
fn no_call_is_executed_while_no_line_can_be_written() {
    let token = Token::new();
    let log = Directory::new();
    let mut setup = setup(&token);
    let module_log = log.join("calls").display().to_string();
    setup
        .environment
        .push(("NULLMODULE_LOG".into(), module_log));
    let mut audited = Audited::start(setup, "when_full = \"refuse\";");
    let mut client = ready4(&audited.daemon);
    assert_eq!(sign(&mut client), CkRv::OK);
    assert!(audited.has("C_Sign", 1));
    // Room for a part of a line.
    let length = audited.file().metadata().expect("a log").len();
    limit(&audited, Some(length + 100));
    let refused = wait_until(PATIENCE, || sign(&mut client) == CkRv::DEVICE_ERROR);
    assert!(refused);
    let before =
        executed(&log.join("calls"), "C_SignInit") + executed(&log.join("calls"), "C_Sign");
    for _ in 0..20 {
        assert_eq!(sign(&mut client), CkRv::DEVICE_ERROR);
    }
    let after = executed(&log.join("calls"), "C_SignInit") + executed(&log.join("calls"), "C_Sign");
    assert_eq!(before, after);
    assert!(before > 2);
    assert_eq!(
        audited.file().metadata().expect("a log").len(),
        length,
        "half a line"
    );
    // What was executed is written when there is room again.
    limit(&audited, None);
    assert!(wait_until(PATIENCE, || sign(&mut client) == CkRv::OK));
    drop(client);
    audited.end(&["audit.log"]);
    let recorded = audited.calls("C_SignInit").len() + audited.calls("C_Sign").len();
    assert_eq!(recorded, before + 2);
    let lines = audited.lines();
    let resumed: Vec<&Value> = lines
        .iter()
        .filter(|line| line["event"] == "resumed")
        .collect();
    // A call that was refused at the very moment is told of in a second line.
    assert!((1..=2).contains(&resumed.len()), "{resumed:?}");
    let refused = resumed.iter().filter_map(|line| line["refused"].as_u64());
    assert!(refused.sum::<u64>() >= 21, "{resumed:?}");
    assert!(resumed.iter().all(|line| line["lost"] == 0), "{resumed:?}");
    assert!(
        audited
            .daemon
            .log()
            .contains("cannot be written, calls are refused")
    );
}

#[test]
fn calls_go_on_and_are_counted_if_the_site_wants_that() {
    let token = Token::new();
    let mut audited = Audited::start(setup(&token), "when_full = \"count\";");
    let mut client = ready4(&audited.daemon);
    assert_eq!(sign(&mut client), CkRv::OK);
    assert!(audited.has("C_Sign", 1));
    let length = audited.file().metadata().expect("a log").len();
    limit(&audited, Some(length));
    for _ in 0..20 {
        assert_eq!(sign(&mut client), CkRv::OK);
    }
    std::thread::sleep(Duration::from_millis(100));
    limit(&audited, None);
    let resumed = wait_until(PATIENCE, || {
        audited
            .lines()
            .iter()
            .any(|line| line["event"] == "resumed")
    });
    assert!(resumed, "{}", audited.daemon.log());
    assert_eq!(sign(&mut client), CkRv::OK);
    drop(client);
    audited.end(&["audit.log"]);
    let lines = audited.lines();
    let resumed = lines
        .iter()
        .find(|line| line["event"] == "resumed")
        .expect("a line");
    assert_eq!(resumed["lost"], 40);
    assert_eq!(audited.calls("C_Sign").len(), 2);
}

/// The last line of the old file is written first, and then the new file is begun.
#[test]
fn a_change_of_file_waits_until_the_old_one_can_be_written() {
    let token = Token::new();
    let mut audited = Audited::start(setup(&token), "when_full = \"refuse\";");
    let auditor = audited.auditor();
    let mut client = ready4(&audited.daemon);
    assert_eq!(sign(&mut client), CkRv::OK);
    assert!(audited.has("C_Sign", 1));
    let length = audited.file().metadata().expect("a log").len();
    limit_files(auditor, Some(length));
    let old = audited.directory.join("audit.log.0");
    std::fs::rename(audited.file(), old).expect("renamed");
    audited.daemon.process().signal(Signal::SIGHUP);
    let failed = || audited.daemon.log().contains("stays in its old file");
    assert!(wait_until(PATIENCE, failed), "{}", audited.daemon.log());
    assert_eq!(audited.lines().len(), 0);
    limit_files(auditor, None);
    let is_begun = || {
        audited
            .lines()
            .first()
            .is_some_and(|line| line["event"] == "continue")
    };
    assert!(wait_until(PATIENCE, is_begun), "{}", audited.daemon.log());
    assert!(wait_until(PATIENCE, || sign(&mut client) == CkRv::OK));
    drop(client);
    audited.end(&["audit.log.0", "audit.log"]);
    assert_eq!(audited.calls("C_Sign").len(), 1);
}
