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
