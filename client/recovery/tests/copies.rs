//! Tests copies of keys as session objects: they end with the connection, and are made again from the key on the token.

use super::*;

/// Calls C_CopyObject with CKA_TOKEN false and a label.
fn copy(recovery: &Fake, session: SessionHandle, object: ObjectHandle) -> ObjectHandle {
    let template = Template(vec![
        Attribute::new(AttributeType(TOKEN), vec![0]),
        Attribute::new(AttributeType(LABEL), b"copy".to_vec()),
    ]);
    let copied = ask!(recovery, C_CopyObject(session, object, Some(template))).unwrap();
    assert_eq!(copied.rv, CkRv::OK);
    copied.object.unwrap()
}

#[test]
fn a_copy_is_made_again_in_the_session_that_made_it() {
    let (module, recovery, maker, key) = ready();
    let session = open(&recovery);
    let copied = copy(&recovery, maker, key);
    assert_ne!(copied, key);
    for round in 2..4 {
        module.cut();
        module.change(|state| state.objects = vec![(10 * round, private_key("key", b"n"))]);
        assert_eq!(begin(&recovery, session, copied), CkRv::OK);
        assert_eq!(sign(&recovery, session), CkRv::OK);
        assert_eq!(begin(&recovery, session, copied), CkRv::OK);
        assert_eq!(module.calls(Function::C_CopyObject), round as usize);
        let label = module.change(|state| state.objects.last().map(|(_, it)| it[1].clone()));
        assert_eq!(label, Some((LABEL, b"copy".to_vec())));
    }
    // The copy ends with the session in which the application made it.
    assert_eq!(recovery.call(Call::C_CloseSession(maker)).rv(), CkRv::OK);
    module.cut();
    let gone = CkRv::OBJECT_HANDLE_INVALID;
    assert_eq!(begin(&recovery, session, copied), gone);
    assert_eq!(module.calls(Function::C_CopyObject), 3);
}

#[test]
fn a_copy_of_a_key_that_is_gone_is_not_made() {
    let (module, recovery, session, key) = ready();
    let copied = copy(&recovery, session, key);
    module.cut();
    module.change(|state| state.objects = vec![(20, private_key("key", b"another"))]);
    assert_ne!(begin(&recovery, session, copied), CkRv::OK);
    assert_eq!(module.calls(Function::C_CopyObject), 1);
}

#[test]
fn a_copy_of_a_copy_is_lost() {
    let (module, recovery, session, key) = ready();
    let copied = copy(&recovery, session, key);
    let copied = copy(&recovery, session, copied);
    module.cut();
    assert_eq!(begin(&recovery, session, copied), CkRv::DEVICE_ERROR);
    assert_eq!(module.calls(Function::C_CopyObject), 2);
}
