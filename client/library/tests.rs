//! Tests what the library remembers about sessions, with a daemon that answers correctly.

use xdr::{Mechanism, SessionResult};

use super::*;
use crate::fake;

#[test]
fn a_message_has_the_mechanism_that_its_operation_began_with() {
    let mechanism = |number| Some(Mechanism::bare(MechanismType(number)));
    let library = fake::library(|call| match call {
        Call::C_OpenSession(..) => Reply::C_OpenSession(SessionResult {
            rv: CkRv::OK,
            session: SessionHandle(7),
        }),
        Call::C_MessageSignInit(..) => Reply::only(call.function(), CkRv::KEY_HANDLE_INVALID),
        call => Reply::only(call.function(), CkRv::OK),
    });
    let (slot, key) = (SlotId(1), xdr::ObjectHandle(3));
    let session = library
        .open_session(slot, Flags(4), None, NullPlaces::NONE)
        .unwrap();
    let of = |function| library.message_mechanism(session, function);
    let begin = |call| library.only(call).is_ok();
    assert_eq!(of(Function::C_EncryptMessage), NO_MECHANISM);
    assert!(begin(Call::C_MessageEncryptInit(
        session,
        mechanism(5),
        key
    )));
    assert!(begin(Call::C_MessageDecryptInit(
        session,
        mechanism(6),
        key
    )));
    assert!(!begin(Call::C_MessageSignInit(session, mechanism(8), key)));
    // An operation without messages.
    assert!(begin(Call::C_EncryptInit(session, mechanism(9), key)));
    for function in [Function::C_EncryptMessage, Function::C_EncryptMessageNext] {
        assert_eq!(of(function), MechanismType(5));
    }
    assert_eq!(of(Function::C_DecryptMessageBegin), MechanismType(6));
    assert_eq!(of(Function::C_SignMessage), NO_MECHANISM);
    let other = library.message_mechanism(SessionHandle(8), Function::C_EncryptMessage);
    assert_eq!(other, NO_MECHANISM);
    assert!(begin(Call::C_MessageEncryptInit(
        session,
        mechanism(7),
        key
    )));
    assert_eq!(of(Function::C_EncryptMessage), MechanismType(7));
    assert!(begin(Call::C_CloseSession(session)));
    assert_eq!(of(Function::C_EncryptMessage), NO_MECHANISM);
}
