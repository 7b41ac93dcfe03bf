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
    assert_eq!(daemon.log().matches(" terminated ").count(), 3);
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
