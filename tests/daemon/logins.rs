//! Tests the guessing of PINs: over all connections of a peer, the token sees a limited number of guesses.

use std::sync::atomic::{AtomicUsize, Ordering};

use xdr::{Input, UserType};

use crate::*;

const WRONG: &str = "4321";

/// The number of the token's slot.
fn token_slot(daemon: &Daemon) -> SlotId {
    let mut client = Client::new(daemon);
    client.call(Call::C_SetupArch(Architecture::host()));
    client.call(Call::C_LoadModule(b"softhsm"));
    client.call(Call::C_Initialize());
    let list = client.call(Call::C_GetSlotList(xdr::Ulong(1), xdr::Count(9)));
    match list {
        Reply::C_GetSlotList(list) => list.slots[0],
        _ => panic!("{list:?}"),
    }
}

/// A client with a session. SoftHSM finds no token now and then while other processes log in.
fn ready(daemon: &Daemon, slot: SlotId) -> (Client, SessionHandle) {
    let mut found = None;
    wait_until(PATIENCE, || {
        let mut client = Client::new(daemon);
        client.call(Call::C_SetupArch(Architecture::host()));
        client.call(Call::C_LoadModule(b"softhsm"));
        client.call(Call::C_Initialize());
        if let Reply::C_OpenSession(opened) = client.call(Call::C_OpenSession(slot, Flags(6))) {
            found = opened.rv.is_ok().then_some((client, opened.session));
        }
        found.is_some()
    });
    found.expect("a session")
}

fn login(client: &mut Client, session: SessionHandle, pin: &str) -> CkRv {
    let call = Call::C_Login(session, UserType(1), pin.as_bytes());
    client.call(call).rv()
}

/// SoftHSM fails now and then when processes log in at once.
fn answered(client: &mut Client, session: SessionHandle, pin: &str) -> CkRv {
    let mut rv = CkRv::OK;
    wait_until(PATIENCE, || {
        rv = login(client, session, pin);
        rv != CkRv::GENERAL_ERROR
    });
    rv
}

fn limited(token: &Token, parameters: &str) -> Setup {
    let mut setup = Setup::new(Maker::Ours, Endpoint::Tcp, token);
    setup.processor = parameters.into();
    setup
}

#[test]
fn twenty_connections_that_guess_at_once_make_no_more_guesses_than_one() {
    let token = Token::new();
    let directory = Directory::new();
    let path = directory.join("other");
    let mut setup = limited(&token, "max_failed_logins = 4; failed_login_window = 12.0;");
    setup.service = format!(
        "protocol {{ name = \"other\"; address {{ type = \"local\"; path = \"{}\" }} }};",
        path.display()
    );
    let daemon = setup.start();
    let slot = token_slot(&daemon);
    let begun = Instant::now();
    let guesses = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let (mut client, session) = ready(&daemon, slot);
                loop {
                    match answered(&mut client, session, WRONG) {
                        CkRv::PIN_INCORRECT => guesses.fetch_add(1, Ordering::SeqCst),
                        CkRv::PIN_LOCKED => break,
                        rv => panic!("{rv}"),
                    };
                }
            });
        }
    });
    assert_eq!(guesses.into_inner(), 4);
    // Not even with the right PIN, and in version 4 as well.
    let (mut client, session) = ready(&daemon, slot);
    assert_eq!(login(&mut client, session, Token::PIN), CkRv::PIN_LOCKED);
    let mut newer = Client::new(&daemon);
    newer.call(xdr::Call::C_SetupArch(xdr::Hello::default()));
    newer.call(xdr::Call::C_LoadModule(b"softhsm"));
    newer.call(xdr::Call::C_Initialize(Flags(0)));
    newer.call(xdr::Call::C_OpenSession(slot, Flags(6), false));
    let pin = Input::Bytes(Token::PIN.as_bytes());
    let call = xdr::Call::C_Login(session, UserType(1), pin);
    assert_eq!(newer.call(call).rv(), CkRv::PIN_LOCKED);
    assert!(
        begun.elapsed() < Duration::from_secs(11),
        "{:?}",
        begun.elapsed()
    );
    // A peer of another kind: this user, over a Unix socket.
    let mut other = UnixStream::connect(&path).expect("the daemon listens");
    let mut call = |call: Call<'_>| {
        other.write_all(&encoded(&call)).expect("it reads");
        let mut mark = [0; 4];
        other.read_exact(&mut mark).expect("a reply");
        let mut record = vec![0; (u32::from_be_bytes(mark) & 0x7fff_ffff) as usize];
        other.read_exact(&mut record).expect("a reply");
        let reply = rpc::read_reply::<Call<'_>>(Xid(7), call.function(), &record);
        reply.expect("its xid").expect("a result")
    };
    call(Call::C_SetupArch(Architecture::host()));
    call(Call::C_LoadModule(b"softhsm"));
    call(Call::C_Initialize());
    call(Call::C_OpenSession(slot, Flags(6)));
    let pin = Token::PIN.as_bytes();
    assert!(call(Call::C_Login(session, UserType(1), pin)).rv().is_ok());
    // In the next window the first one works again, and a right PIN clears what was failed.
    assert!(wait_until(PATIENCE, || {
        login(&mut client, session, Token::PIN).is_ok()
    }));
    assert!(begun.elapsed() >= Duration::from_secs(11));
    for _ in 0..3 {
        assert!(client.call(Call::C_Logout(session)).rv().is_ok());
        for _ in 0..2 {
            assert_eq!(login(&mut client, session, WRONG), CkRv::PIN_INCORRECT);
        }
        assert!(login(&mut client, session, Token::PIN).is_ok());
    }
    let log = daemon.log();
    for told in [
        "C_Login failed with CKR_PIN_INCORRECT, 4 of 4 failed logins of 127.0.0.1 within 12 s",
        "4 failed logins of 127.0.0.1; all others are refused for up to 12 s",
        "C_Login refused without asking the token: too many failed logins of 127.0.0.1",
    ] {
        assert!(log.contains(told), "{told}: {log}");
    }
    assert!(
        !log.contains(WRONG) && !log.contains(&format!("{} ", Token::PIN)),
        "{log}"
    );
}

/// More of them than may fail, as the workers of a server do when it starts.
#[test]
fn many_that_log_in_at_once_with_the_right_pin_wait_for_each_other() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.processor = "max_failed_logins = 2;".into();
    setup
        .environment
        .push(("NULLMODULE_SLEEP".into(), "C_Login:50".into()));
    let daemon = setup.start();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let mut client = Client::ready(&daemon);
                let rv = login(&mut client, SESSION, Token::PIN);
                assert!(rv.is_ok(), "{rv}");
            });
        }
    });
}

/// Otherwise a guess would be free whose connection is closed in time, or whose module crashes.
#[test]
fn a_login_whose_worker_is_killed_counts_as_failed() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.processor = "max_failed_logins = 3;".into();
    let directory = Directory::new();
    let log = directory.join("module.log");
    setup.environment.extend([
        ("NULLMODULE_CRASH".into(), "C_Login".into()),
        ("NULLMODULE_LOG".into(), log.display().to_string()),
    ]);
    let daemon = setup.start();
    for _ in 0..3 {
        let mut client = Client::ready(&daemon);
        client.send(&encoded(&Call::C_Login(SESSION, UserType(1), b"1234")));
        assert!(client.record().is_none());
    }
    // They may still be under way for all that is known, so that the next one waits first.
    let begun = Instant::now();
    let mut client = Client::ready(&daemon);
    client
        .0
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a timeout");
    assert_eq!(login(&mut client, SESSION, "1234"), CkRv::PIN_LOCKED);
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn without_a_limit_all_guesses_reach_the_token() {
    let token = Token::new();
    let daemon = limited(&token, "max_failed_logins = 0;").start();
    let slot = token_slot(&daemon);
    let (mut client, session) = ready(&daemon, slot);
    for _ in 0..15 {
        assert_eq!(login(&mut client, session, WRONG), CkRv::PIN_INCORRECT);
    }
    assert!(login(&mut client, session, Token::PIN).is_ok());
}

/// A connection of before and one of after count in the same memory.
#[test]
fn failed_logins_stay_counted_through_upgrades() {
    let token = Token::new();
    let mut setup = limited(
        &token,
        "max_failed_logins = 4; failed_login_window = 300.0;",
    );
    setup.daemon = "control_socket = \"../control\"".into();
    let daemon = setup.start();
    let slot = token_slot(&daemon);
    let (mut old, old_session) = ready(&daemon, slot);
    assert_eq!(answered(&mut old, old_session, WRONG), CkRv::PIN_INCORRECT);
    for _ in 0..2 {
        let outcome = crate::administration::ctl(&daemon, &["upgrade"]);
        assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
        let (mut new, session) = ready(&daemon, slot);
        assert_eq!(answered(&mut new, session, WRONG), CkRv::PIN_INCORRECT);
    }
    assert_eq!(answered(&mut old, old_session, WRONG), CkRv::PIN_INCORRECT);
    let (mut new, session) = ready(&daemon, slot);
    for (client, session) in [(&mut old, old_session), (&mut new, session)] {
        assert_eq!(login(client, session, Token::PIN), CkRv::PIN_LOCKED);
    }
    let log = daemon.log();
    assert!(
        !log.contains("counted anew") && !log.contains("counting anew"),
        "{log}"
    );
    drop((old, new));
    let stopped = crate::administration::ctl(&daemon, &["stop"]);
    assert_eq!(stopped.status.code(), Some(0), "{}", stopped.stderr);
    assert!(wait_until(PATIENCE, || !daemon.accepts()));
}

/// A login belongs to a process (PKCS#11 v2.20, section 6.7.4), and each client has one of its own.
#[test]
fn a_login_and_its_sessions_are_of_no_use_to_another_client() {
    /// CKS_RW_PUBLIC_SESSION and CKS_RW_USER_FUNCTIONS.
    const STATES: [u64; 2] = [2, 3];
    let token = Token::new();
    let daemon = Setup::new(Maker::Ours, Endpoint::Tcp, &token).start();
    let slot = token_slot(&daemon);
    let state = |client: &mut Client, session| match client.call(Call::C_GetSessionInfo(session)) {
        Reply::C_GetSessionInfo(answer) if answer.rv.is_ok() => Ok(answer.info.state.0),
        reply => Err(reply.rv()),
    };
    let (mut first, session) = ready(&daemon, slot);
    let (mut second, other) = ready(&daemon, slot);
    assert_eq!(answered(&mut first, session, Token::PIN), CkRv::OK);
    // A second session of the first client, which the second client has not opened.
    let more = match first.call(Call::C_OpenSession(slot, Flags(6))) {
        Reply::C_OpenSession(opened) => opened.session,
        reply => panic!("{reply:?}"),
    };
    assert_eq!(state(&mut first, more), Ok(STATES[1]));
    assert_eq!(state(&mut second, other), Ok(STATES[0]));
    assert_eq!(state(&mut second, more), Err(CkRv::SESSION_HANDLE_INVALID));
    // Nor does a client that comes after it inherit what it had.
    drop(first);
    let (mut third, session) = ready(&daemon, slot);
    assert_eq!(state(&mut third, session), Ok(STATES[0]));
}
