//! Tests where objects are searched for: in a session of the library's own, or in the application's.

use xdr::{Query, Wanted};

use super::*;

#[test]
fn an_object_is_looked_for_in_the_session_of_the_application_if_there_may_be_no_other() {
    let (module, recovery, session, key) = ready();
    module.change(|state| state.most_sessions = Some(1));
    for _ in 0..2 {
        module.cut();
        assert_eq!(begin(&recovery, session, key), CkRv::OK);
        // The search has been ended.
        assert_eq!(find(&recovery, session), [key]);
    }
}

/// Otherwise the application's search would be ended, or return objects of another search.
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

/// Its unique id is meaningless there, so its present label counts.
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

/// If the daemon's filter forbids it, a key on the token is not taken for a session object, but it cannot be found
/// again.
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
        // The library learns that from one call.
        assert_eq!(module.calls(Function::C_GetAttributeValue), connection);
        module.cut();
        for _ in 0..2 {
            assert_eq!(begin(&recovery, session, key), CkRv::OBJECT_HANDLE_INVALID);
        }
    }
}

/// The filter was changed while there was no connection.
#[test]
fn an_object_whose_attributes_may_not_be_read_any_more_is_not_found_again() {
    let (module, recovery, session, key) = ready();
    module.cut();
    module.change(|state| state.hides_attributes = true);
    assert_eq!(begin(&recovery, session, key), CkRv::OBJECT_HANDLE_INVALID);
}

/// Programs that list a token read each object, and use some of them after the daemon is back.
#[test]
fn objects_that_were_only_read_are_found_again_but_not_all_are_looked_at() {
    let objects = |first: u64| -> Vec<(u64, Attributes)> {
        let objects = (0..400).map(|it| (first + it, private_key(&it.to_string(), b"n")));
        objects.collect()
    };
    let module = Module::new();
    module.change(|state| state.objects = objects(1000));
    let recovery = module.recovery(true);
    let session = open(&recovery);
    assert_eq!(log_in(&recovery, session, "1234"), CkRv::OK);
    let begun = recovery.call(Call::C_FindObjectsInit(session, None));
    assert_eq!(begun.rv(), CkRv::OK);
    let found = ask!(&recovery, C_FindObjects(session, Room::Buffer(400))).unwrap();
    let found = found.objects;
    let ended = recovery.call(Call::C_FindObjectsFinal(session));
    assert_eq!(ended.rv(), CkRv::OK);
    let read = |object| {
        let query = Query(vec![Wanted::value(AttributeType(LABEL), 9)]);
        let call = Call::C_GetAttributeValue(session, object, Some(query));
        recovery.call(call).rv()
    };
    for object in &found {
        assert_eq!(read(*object), CkRv::OK);
        assert_eq!(read(*object), CkRv::OK);
    }
    let asked = module.calls(Function::C_GetAttributeValue);
    assert_eq!(asked, 2 * (16 + 256) + 2 * 400);
    module.cut();
    module.change(|state| state.objects = objects(5000));
    assert_eq!(read(found[200]), CkRv::OK);
    assert_eq!(begin(&recovery, session, found[100]), CkRv::OK);
    assert_eq!(read(found[300]), CkRv::OBJECT_HANDLE_INVALID);
}
