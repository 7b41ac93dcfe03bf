//! Tests sessions that an application keeps open without using them, so that its login stays in force.

use super::*;

/// Signs with the key in a session of its own.
fn sign_once(recovery: &Fake, key: ObjectHandle) {
    let session = open(recovery);
    assert_eq!(begin(recovery, session, key), CkRv::OK);
    assert_eq!(sign(recovery, session), CkRv::OK);
    let closed = recovery.call(Call::C_CloseSession(session));
    assert_eq!(closed.rv(), CkRv::OK);
}

#[test]
fn a_login_is_repeated_once_for_a_connection_though_sessions_come_and_go() {
    let (module, recovery, _idle, key) = ready();
    for round in 2..4 {
        module.cut();
        for _ in 0..3 {
            sign_once(&recovery, key);
        }
        assert_eq!(module.calls(Function::C_Login), round);
    }
}

#[test]
fn the_last_session_of_the_application_ends_its_login() {
    let (module, recovery, idle, key) = ready();
    module.cut();
    sign_once(&recovery, key);
    assert_eq!(recovery.call(Call::C_CloseSession(idle)).rv(), CkRv::OK);
    let session = open(&recovery);
    assert_ne!(begin(&recovery, session, key), CkRv::OK);
    assert_eq!(module.calls(Function::C_Login), 2);
}
