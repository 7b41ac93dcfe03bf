//! Where objects are looked for: in a session of the library's own, or in the application's.

use super::*;

#[test]
fn an_object_is_looked_for_in_the_session_of_the_application_if_there_may_be_no_other() {
    let (module, recovery, session, key) = ready();
    module.change(|state| state.most_sessions = Some(1));
    for _ in 0..2 {
        module.cut();
        assert_eq!(begin(&recovery, session, key), CkRv::OK);
        // No search was left behind.
        assert_eq!(find(&recovery, session), [key]);
    }
}

/// It would be ended, or answered with objects of another search.
#[test]
fn a_search_of_the_application_is_not_disturbed_when_an_object_is_looked_for() {
    let (module, recovery, session, key) = ready();
    module.cut();
    module.change(|state| state.most_sessions = Some(1));
    let begun = recovery.call(Call::C_FindObjectsInit(session, None));
    assert_eq!(begun.rv(), CkRv::OK);
    assert_eq!(begin(&recovery, session, key), CkRv::DEVICE_ERROR);
    let found = ask!(&recovery, C_FindObjects(session, Room::Buffer(9))).unwrap();
    assert_eq!(found.objects.len(), 1);
    let ended = recovery.call(Call::C_FindObjectsFinal(session));
    assert_eq!(ended.rv(), CkRv::OK);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
}

/// Its unique id means nothing there, so that its present name counts.
#[test]
fn an_object_with_another_name_is_found_behind_another_daemon_too() {
    let named = |label: &str, id: &[u8]| {
        let mut attributes = private_key(label, b"n");
        attributes.push((UNIQUE_ID, id.to_vec()));
        attributes
    };
    let module = Module::new();
    module.change(|state| state.objects = vec![(70, named("key", b"1"))]);
    let recovery = module.recovery(true);
    let session = open(&recovery);
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    let key = find(&recovery, session)[0];
    module.cut();
    module.change(|state| state.objects = vec![(71, named("new name", b"1"))]);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    module.cut();
    module.change(|state| {
        (state.daemon, state.serial) = (1, "2");
        state.objects = vec![(72, named("new name", b"4"))];
    });
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
}

/// The daemon's filter may be so: a key on the token is no session object then, but cannot be found again.
#[test]
fn objects_whose_attributes_may_not_be_read_are_not_known() {
    let module = Module::new();
    module.change(|state| state.hides_attributes = true);
    let recovery = module.recovery(true);
    let session = open(&recovery);
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    for connection in 1..3 {
        let key = find(&recovery, session)[0];
        assert_eq!(begin(&recovery, session, key), CkRv::OK);
        assert_eq!(find(&recovery, session), [key]);
        // Once is enough to know.
        assert_eq!(module.calls(Function::C_GetAttributeValue), connection);
        module.cut();
        for _ in 0..2 {
            assert_eq!(begin(&recovery, session, key), CkRv::OBJECT_HANDLE_INVALID);
        }
    }
}

/// The filter was changed while the daemon was away.
#[test]
fn an_object_whose_attributes_may_not_be_read_any_more_is_not_found_again() {
    let (module, recovery, session, key) = ready();
    module.cut();
    module.change(|state| state.hides_attributes = true);
    assert_eq!(begin(&recovery, session, key), CkRv::OBJECT_HANDLE_INVALID);
}
