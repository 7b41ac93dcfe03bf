//! Tests past and possible bugs: late replies, tokens that change, sessions that end in another order.

use super::*;
use crate::connection::calling_back;

fn create(recovery: &Fake, session: SessionHandle, on_token: bool) -> ObjectHandle {
    let attributes = [
        (CLASS, 4u64.to_ne_bytes().to_vec()),
        (TOKEN, vec![u8::from(on_token)]),
        (LABEL, b"made".to_vec()),
    ];
    let attributes = attributes.map(|(it, value)| Attribute::new(AttributeType(it), value));
    let template = Some(Template(attributes.to_vec()));
    let created = ask!(recovery, C_CreateObject(session, template)).unwrap();
    assert_eq!(created.rv, CkRv::OK);
    created.object.unwrap()
}

fn close(recovery: &Fake, session: SessionHandle) {
    let closed = recovery.call(Call::C_CloseSession(session));
    assert_eq!(closed.rv(), CkRv::OK);
}

fn sizes(recovery: &Fake) -> (usize, usize) {
    recovery.shared.state().tables.sizes()
}

/// If it were, it would keep the login beyond the application's last session, and the PIN with it.
#[test]
fn a_session_that_was_refused_is_not_remembered() {
    let (module, recovery, session, _) = ready();
    module.change(|state| state.refuses_sessions = Some(CkRv::SESSION_COUNT));
    for _ in 0..3 {
        let refused = recovery.call(Call::C_OpenSession(SlotId(5), Flags(4), false));
        assert_eq!(refused.rv(), CkRv::SESSION_COUNT);
    }
    module.change(|state| state.refuses_sessions = None);
    assert_eq!(sizes(&recovery).0, 1);
    close(&recovery, session);
    module.cut();
    let session = open(&recovery);
    let info = recovery.call(Call::C_GetSessionInfo(session));
    assert_eq!(info.rv(), CkRv::OK);
    assert_eq!(module.calls(Function::C_Login), 1);
}

/// The application has put another token into its reader, and logs in to that one.
#[test]
fn a_pin_is_for_the_token_that_it_was_given_for() {
    for closes in [true, false] {
        let (module, recovery, first, _) = ready();
        if closes {
            close(&recovery, first);
        }
        module.change(|state| {
            (state.serial, state.pin) = ("2", "5678");
            if !closes {
                state.connection.sessions.clear();
            }
            state.connection.is_logged_in = false;
        });
        let session = open(&recovery);
        assert_eq!(log_in(&recovery, session, "5678"), CkRv::OK);
        module.cut();
        module.change(|state| (state.serial, state.pin) = ("1", "1234"));
        let info = recovery.call(Call::C_GetSessionInfo(session));
        assert_eq!(info.rv(), CkRv::DEVICE_REMOVED);
        assert_eq!(module.calls(Function::C_Login), 2);
        // The login is also restored when the token returns.
        module.cut();
        module.change(|state| (state.serial, state.pin) = ("2", "5678"));
        let info = recovery.call(Call::C_GetSessionInfo(session));
        assert_eq!(info.rv(), CkRv::OK);
        assert_eq!(module.calls(Function::C_Login), 3);
    }
}

/// Some keys ask for the PIN before each use (CKU_CONTEXT_SPECIFIC).
#[test]
fn a_login_for_one_operation_does_not_end_that_of_the_user() {
    let (module, recovery, session, key) = ready();
    module.cut();
    let connected = recovery.call(Call::C_GetSlotList(Ulong(1), Room::Buffer(9)));
    assert_eq!(connected.rv(), CkRv::OK);
    let call = Call::C_Login(session, UserType(2), Input::Bytes(b"1234"));
    assert_eq!(recovery.call(call).rv(), CkRv::OPERATION_NOT_INITIALIZED);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
}

/// Like a program that opens a session for each signature, and knows its key.
#[test]
fn a_key_in_use_is_not_forgotten_with_many_sessions() {
    let (_module, recovery, session, key) = ready();
    close(&recovery, session);
    for round in 0..1500 {
        let session = open(&recovery);
        assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
        assert_eq!(begin(&recovery, session, key), CkRv::OK, "{round}");
        close(&recovery, session);
    }
}

#[test]
fn closing_a_session_of_an_earlier_connection_ends_nothing_of_this_one() {
    let (module, recovery, session, key) = ready();
    let idle = open(&recovery);
    module.cut();
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    let passing = create(&recovery, session, false);
    close(&recovery, idle);
    assert_eq!(begin(&recovery, session, passing), CkRv::OK);
    assert_eq!(module.calls(Function::C_Login), 2);
}

#[test]
fn objects_of_a_session_that_were_destroyed_are_forgotten() {
    let (_module, recovery, session, _) = ready();
    for _ in 0..100 {
        let object = create(&recovery, session, false);
        let destroyed = recovery.call(Call::C_DestroyObject(session, object));
        assert_eq!(destroyed.rv(), CkRv::OK);
    }
    let state = recovery.shared.state();
    assert_eq!(state.tables.sessions[&session].made(), 0);
}

/// For example, a daemon whose module does not survive the call.
#[test]
fn waiting_for_a_slot_does_not_keep_a_daemon_busy_that_ends_every_connection() {
    let (module, recovery, ..) = ready();
    module.change(|state| state.always_breaks_at = Some(Function::C_WaitForSlotEvent));
    for flags in [0, 1] {
        std::thread::scope(|scope| {
            let (sender, receiver) = channel();
            let recovery = &recovery;
            scope.spawn(move || {
                sender.send(recovery.call(Call::C_WaitForSlotEvent(Flags(flags))).rv())
            });
            let rv = receiver.recv_timeout(Duration::from_secs(3));
            if rv.is_err() {
                module.change(|state| state.always_breaks_at = None);
            }
            assert_eq!(rv, Ok(CkRv::DEVICE_ERROR));
        });
    }
}

/// Otherwise the application would be logged in without knowing it.
#[test]
fn a_logout_while_the_login_is_repeated_counts() {
    let (module, recovery, session, _) = ready();
    let other = open(&recovery);
    module.cut();
    let recovery = Arc::new(recovery);
    let logging_out = recovery.clone();
    module.change(|state| {
        let happens = move || {
            assert_eq!(logging_out.call(Call::C_Logout(other)).rv(), CkRv::OK);
        };
        state.meanwhile = Some((Function::C_Login, Box::new(happens)));
    });
    let info = recovery.call(Call::C_GetSessionInfo(session));
    assert_eq!(info.rv(), CkRv::OK);
    assert!(!module.change(|state| state.connection.is_logged_in));
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
}

/// Otherwise the login would be repeated on the next connection, although the application has ended it.
#[test]
fn a_logout_while_the_token_of_a_login_is_asked_for_counts() {
    let module = Module::new();
    let recovery = Arc::new(module.recovery(true));
    let (session, other) = (open(&recovery), open(&recovery));
    let logging_out = recovery.clone();
    module.change(|state| {
        let happens = move || {
            assert_eq!(logging_out.call(Call::C_Logout(other)).rv(), CkRv::OK);
        };
        state.meanwhile = Some((Function::C_GetTokenInfo, Box::new(happens)));
    });
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    assert_eq!(module.calls(Function::C_Logout), 1);
    module.cut();
    let info = recovery.call(Call::C_GetSessionInfo(session));
    assert_eq!(info.rv(), CkRv::OK);
    assert_eq!(module.calls(Function::C_Login), 1);
}

/// Many objects match, and the module is slow.
#[test]
fn restoring_takes_no_longer_than_the_timeout_and_one_call() {
    let (module, recovery, session, key) = ready();
    module.cut();
    module.change(|state| {
        let alike = || private_key("key", b"n");
        state.objects = (0..60).map(|it| (100 + it, alike())).collect();
        state.takes = Some((Function::C_GetAttributeValue, Duration::from_millis(100)));
    });
    let start = Instant::now();
    assert_eq!(begin(&recovery, session, key), CkRv::DEVICE_ERROR);
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

/// Two tokens may have copies of the same key.
#[test]
fn an_object_is_not_looked_for_in_the_slot_of_another_session() {
    let (module, recovery, session, key) = ready();
    module.change(|state| state.second_slot = Some(6));
    let opened = ask!(&recovery, C_OpenSession(SlotId(6), Flags(4), false)).unwrap();
    assert_eq!(opened.rv, CkRv::OK);
    module.cut();
    // Restores the login, so that the key is visible.
    let info = recovery.call(Call::C_GetSessionInfo(session));
    assert_eq!(info.rv(), CkRv::OK);
    let used = begin(&recovery, opened.session, key);
    assert_eq!(used, CkRv::OBJECT_HANDLE_INVALID);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
}

/// The reply came before the connection was lost, and is processed after another thread has reconnected.
#[test]
fn a_late_answer_does_not_disturb_the_next_connection() {
    let (module, recovery, session, _) = ready();
    let other = open(&recovery);
    let recovery = Arc::new(recovery);
    let (others, found) = (recovery.clone(), Arc::new(Mutex::new(Vec::new())));
    module.change(|state| {
        let (lost, found) = (state.connection.lost.clone(), found.clone());
        let happens = move || {
            lost.store(true, Ordering::SeqCst);
            // This thread notices the loss, and connects again.
            *found.lock().unwrap() = find(&others, other);
        };
        state.meanwhile = Some((Function::C_CreateObject, Box::new(happens)));
    });
    create(&recovery, session, false);
    let before = found.lock().unwrap().clone();
    assert_eq!(before.len(), 2);
    assert_eq!(find(&recovery, other), before);
}

/// Otherwise it would stay open, because the application does not know its handle.
#[test]
fn a_session_that_could_not_be_made_ready_is_closed() {
    let (module, recovery, session, _) = ready();
    module.cut();
    module.change(|state| {
        state.takes = Some((Function::C_Login, Duration::from_millis(1500)));
    });
    std::thread::scope(|scope| {
        let recovery = &recovery;
        scope.spawn(move || recovery.call(Call::C_GetSessionInfo(session)));
        while module.calls(Function::C_Login) < 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let opened = recovery.call(Call::C_OpenSession(SlotId(5), Flags(4), false));
        assert_eq!(opened.rv(), CkRv::DEVICE_ERROR);
    });
    assert_eq!(sizes(&recovery).0, 1);
    assert_eq!(module.change(|state| state.connection.sessions.len()), 1);
}

/// The object may have another label now, and another key may get the old one.
#[test]
fn an_object_whose_change_was_not_answered_is_not_taken_for_its_successor() {
    for lost_in in [Function::C_SetAttributeValue, Function::C_GetAttributeValue] {
        let (module, recovery, session, key) = ready();
        assert_eq!(begin(&recovery, session, key), CkRv::OK);
        module.change(|state| state.breaks_at = Some(lost_in));
        let label = Attribute::new(AttributeType(LABEL), b"previous".to_vec());
        let call = Call::C_SetAttributeValue(session, key, Some(Template(vec![label])));
        recovery.call(call);
        module.change(|state| {
            state.objects = vec![
                (71, private_key("previous", b"n")),
                (72, private_key("key", b"n")),
            ];
        });
        let used = begin(&recovery, session, key);
        assert_eq!(used, CkRv::OBJECT_HANDLE_INVALID, "{lost_in:?}");
    }
}

/// After C_InitToken too, the slot is still the one that the application means.
#[test]
fn a_slot_with_another_number_keeps_it_when_its_token_is_initialised() {
    let (module, recovery, session, _) = ready();
    module.cut();
    module.change(|state| (state.slot, state.second_slot) = (8, Some(5)));
    let info = recovery.call(Call::C_GetSessionInfo(session));
    assert_eq!(info.rv(), CkRv::OK);
    close(&recovery, session);
    let pin = Input::Bytes(b"so");
    let initialised = recovery.call(Call::C_InitToken(SlotId(5), pin, Input::Bytes(b"new")));
    assert_eq!(initialised.rv(), CkRv::OK);
    module.change(|state| state.label = "new");
    let token = ask!(&recovery, C_GetTokenInfo(SlotId(5))).unwrap();
    assert_eq!(token.info.label, b"new");
    // The slot's new token is known from then on.
    let session = open(&recovery);
    module.cut();
    module.change(|state| (state.slot, state.second_slot) = (9, Some(8)));
    let info = recovery.call(Call::C_GetSessionInfo(session));
    assert_eq!(info.rv(), CkRv::OK);
}

/// Otherwise the module would keep the session, and count it.
#[test]
fn a_session_that_is_closed_while_it_is_opened_again_is_closed() {
    let (module, recovery, session, _) = ready();
    let other = open(&recovery);
    module.cut();
    let recovery = Arc::new(recovery);
    let closing = recovery.clone();
    module.change(|state| {
        let happens = move || close(&closing, session);
        state.meanwhile = Some((Function::C_OpenSession, Box::new(happens)));
    });
    let info = recovery.call(Call::C_GetSessionInfo(session));
    assert_eq!(info.rv(), CkRv::SESSION_HANDLE_INVALID);
    let info = recovery.call(Call::C_GetSessionInfo(other));
    assert_eq!(info.rv(), CkRv::OK);
    assert_eq!(module.change(|state| state.connection.sessions.len()), 1);
}

/// A module may notify the application during any call, including one that opens a session again.
#[test]
fn a_callback_does_not_wait_for_the_call_that_it_belongs_to() {
    let (module, recovery, session, _) = ready();
    let other = open(&recovery);
    module.cut();
    let recovery = Arc::new(recovery);
    let calling = recovery.clone();
    module.change(|state| {
        let happens = move || {
            let start = Instant::now();
            let call = Call::C_GetSessionInfo(other);
            let rv = calling_back(|| calling.call(call).rv());
            assert_eq!(rv, CkRv::FUNCTION_FAILED);
            assert!(start.elapsed() < Duration::from_millis(500));
        };
        state.meanwhile = Some((Function::C_OpenSession, Box::new(happens)));
    });
    for session in [session, other] {
        let info = recovery.call(Call::C_GetSessionInfo(session));
        assert_eq!(info.rv(), CkRv::OK);
    }
}

/// If many processes have the same old PIN, each of them would try it once.
#[test]
fn a_pin_is_not_tried_where_a_wrong_one_would_lock_the_token() {
    for flag in [0x20000, 0x40000] {
        let (module, recovery, session, key) = ready();
        module.cut();
        module.change(|state| state.flags = flag);
        assert_eq!(begin(&recovery, session, key), CkRv::USER_NOT_LOGGED_IN);
        assert_eq!(module.calls(Function::C_Login), 1);
        assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
        assert_eq!(begin(&recovery, session, key), CkRv::OK);
    }
}

/// SoftHSM fails like that when several processes log in at the same moment.
#[test]
fn a_login_is_tried_again_if_the_token_failed_and_has_seen_no_wrong_pin() {
    // The first login is the application's.
    for (failing, flags, logins, expected) in [
        (1, 0, 1 + 2, CkRv::OK),
        (2, 0, 1 + 2, CkRv::USER_NOT_LOGGED_IN),
        (1, 0x10000, 1 + 1, CkRv::USER_NOT_LOGGED_IN),
    ] {
        let (module, recovery, session, key) = ready();
        module.cut();
        module.change(|state| {
            state.failing_logins = failing;
            state.flags = flags;
        });
        assert_eq!(begin(&recovery, session, key), expected);
        assert_eq!(module.calls(Function::C_Login), logins);
    }
}

/// The application learned of it while there was no daemon.
#[test]
fn an_operation_that_is_lost_is_told_of_once_although_there_is_no_daemon() {
    let (module, recovery, session, key) = ready();
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    module.is_down.store(true, Ordering::SeqCst);
    module.cut();
    // This call notices that the connection was lost.
    let connected = recovery.call(Call::C_GetSlotList(Ulong(1), Room::Buffer(9)));
    assert_eq!(connected.rv(), CkRv::DEVICE_ERROR);
    assert_eq!(sign(&recovery, session), CkRv::DEVICE_ERROR);
    module.is_down.store(false, Ordering::SeqCst);
    assert_eq!(sign(&recovery, session), CkRv::OK); // the fake signs whatever was begun
}

/// The application gets none of them, so it could never destroy them.
#[test]
fn objects_that_nobody_has_asked_for_are_not_remembered() {
    let (module, recovery, session, key) = ready();
    let before = sizes(&recovery);
    let begun = recovery.call(Call::C_FindObjectsInit(session, None));
    assert_eq!(begun.rv(), CkRv::OK);
    module.change(|state| {
        state.overfills = true;
        state.connection.found = (100..300).collect();
    });
    for room in [Room::Buffer(199), Room::QUESTION, Room::NoLength] {
        let found = recovery.call(Call::C_FindObjects(session, room));
        assert_eq!(found.rv(), CkRv::DEVICE_ERROR, "{room:?}");
        let listed = recovery.call(Call::C_GetSlotList(Ulong(0), Room::Buffer(1)));
        assert_eq!(listed.rv(), CkRv::DEVICE_ERROR);
    }
    assert_eq!(sizes(&recovery), before);
    let counted = ask!(&recovery, C_GetSlotList(Ulong(0), Room::QUESTION)).unwrap();
    assert_eq!((counted.rv, counted.count), (CkRv::OK, Ulong(2)));
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
}

#[test]
fn a_daemon_that_is_always_about_to_close_does_not_keep_a_call_beyond_its_timeout() {
    for function in [Function::C_GetSessionInfo, Function::C_OpenSession] {
        let (module, recovery, session, _) = ready();
        module.change(|state| state.always_leaves_at = Some(function));
        // Then the call itself is sent, or only what it needs restored.
        module.cut();
        std::thread::scope(|scope| {
            let (sender, receiver) = channel();
            let recovery = &recovery;
            scope.spawn(move || sender.send(recovery.call(Call::C_GetSessionInfo(session)).rv()));
            let rv = receiver.recv_timeout(Duration::from_secs(3));
            module.change(|state| state.always_leaves_at = None);
            assert_eq!(rv, Ok(CkRv::DEVICE_ERROR));
        });
        let info = recovery.call(Call::C_GetSessionInfo(session));
        assert_eq!(info.rv(), CkRv::OK);
    }
}

/// Its session would be opened where nobody uses it.
#[test]
fn a_thread_that_waited_for_its_turn_restores_nothing_on_a_connection_that_was_given_up() {
    let (module, recovery, session, _) = ready();
    recovery.shared.state().give_up();
    let deadline = Deadline::after(Duration::from_secs(5));
    let live = recovery.live(Function::C_GetSessionInfo, deadline).unwrap();
    let turn = recovery.turn(deadline).unwrap();
    let opened = module.calls(Function::C_OpenSession);
    let restored = std::thread::scope(|scope| {
        let call = Call::C_GetSessionInfo(session);
        let (recovery, live) = (&recovery, &live);
        let waiting = scope.spawn(move || recovery.with_real_handles(live, &call, deadline).err());
        std::thread::sleep(Duration::from_millis(20));
        recovery.shared.state().give_up();
        drop(turn);
        waiting.join().unwrap()
    });
    assert!(matches!(restored, Some(Trouble::GivenUp)));
    assert_eq!(module.calls(Function::C_OpenSession), opened);
    let info = recovery.call(Call::C_GetSessionInfo(session));
    assert_eq!(info.rv(), CkRv::OK);
}

/// The slot is bound although nobody can ask for its token any more.
#[test]
fn a_login_after_an_opening_whose_connection_was_given_up_is_repeated() {
    let module = Module::new();
    let recovery = Arc::new(module.recovery(true));
    let others = recovery.clone();
    module.change(|state| {
        let happens = move || others.shared.state().give_up();
        state.meanwhile = Some((Function::C_OpenSession, Box::new(happens)));
    });
    let session = open(&recovery);
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    assert_eq!(module.calls(Function::C_Login), 1);
    module.cut();
    let info = recovery.call(Call::C_GetSessionInfo(session));
    assert_eq!(info.rv(), CkRv::OK);
    assert_eq!(module.calls(Function::C_Login), 2);
}
