//! Tests a hostile daemon of version 3: nothing is written beyond the application's buffers.

use std::ptr::null_mut;

use cryptoki_sys::*;
use xdr::version3::{Attribute, DataResult, Reply, Template, TemplateResult};
use xdr::{
    AttributeType, Call, CkRv, InfoResult, ObjectHandle, ObjectListResult, SessionHandle,
    SessionResult, SlotId, SlotListResult, Ulong,
};

use crate::daemon::{Act, Daemon};
use crate::harness::{initialized, run};

/// Nothing is written beyond the caller's buffers, whatever counts and lengths the daemon sends.
#[test]
fn a_hostile_daemon_writes_nowhere_it_should_not() {
    let daemon = Daemon::of_version3(|call| {
        let ok = CkRv::OK;
        Some(Act::AnswerVersion3(Box::new(match call {
            Call::C_GetSlotList(..) => Reply::C_GetSlotList(SlotListResult {
                rv: ok,
                slots: vec![SlotId(7); 5],
                count: Ulong(2),
            }),
            Call::C_FindObjects(..) => Reply::C_FindObjects(ObjectListResult {
                rv: ok,
                objects: vec![ObjectHandle(7); 5],
                count: Ulong(5),
            }),
            Call::C_GenerateRandom(..) => Reply::C_GenerateRandom(DataResult {
                rv: ok,
                data: vec![7; 50].into(),
            }),
            Call::C_GetAttributeValue(..) => {
                let attribute = |kind| Attribute::new(AttributeType(kind), vec![7; 50]);
                Reply::C_GetAttributeValue(TemplateResult {
                    rv: ok,
                    template: Template((0..9).map(attribute).collect()),
                })
            }
            Call::C_Sign(..) => Reply::C_Sign(DataResult {
                rv: CkRv::DATA_LEN_RANGE,
                data: vec![7; 50].into(),
            }),
            Call::C_OpenSession(..) => Reply::C_OpenSession(SessionResult {
                rv: CkRv::SESSION_COUNT,
                session: SessionHandle(7),
            }),
            Call::C_GetInfo() => {
                let mut result = InfoResult::default();
                result.info.manufacturer_id = b"short".to_vec();
                Reply::C_GetInfo(Box::new(result))
            }
            _ => return None,
        })))
    });
    run("hostile", &daemon);
}

pub fn hostile() {
    let loaded = initialized();
    let mut slots = [1; 4];
    let mut count = 2;
    assert_eq!(
        call!(loaded.C_GetSlotList(1, slots.as_mut_ptr(), &mut count)),
        CKR_DEVICE_ERROR
    );
    assert_eq!((slots, count), ([1; 4], 2));
    let mut found = 9;
    assert_eq!(
        call!(loaded.C_FindObjects(1, slots.as_mut_ptr(), 2, &mut found)),
        CKR_DEVICE_ERROR
    );
    assert_eq!((slots, found), ([1; 4], 9));
    let mut bytes = [1u8; 8];
    assert_eq!(
        call!(loaded.C_GenerateRandom(1, bytes.as_mut_ptr(), 4)),
        CKR_DEVICE_ERROR
    );
    assert_eq!(bytes, [1; 8]);
    let mut attribute = CK_ATTRIBUTE {
        type_: CKA_LABEL,
        pValue: bytes.as_mut_ptr().cast(),
        ulValueLen: 4,
    };
    assert_eq!(
        call!(loaded.C_GetAttributeValue(1, 2, &mut attribute, 1)),
        CKR_BUFFER_TOO_SMALL
    );
    assert_eq!(bytes, [1; 8]);
    assert_eq!(attribute.type_, CKA_LABEL);
    assert_eq!(attribute.ulValueLen, CK_UNAVAILABLE_INFORMATION);
    let mut length = 4;
    assert_eq!(
        call!(loaded.C_Sign(1, null_mut(), 0, bytes.as_mut_ptr(), &mut length)),
        CKR_DATA_LEN_RANGE
    );
    assert_eq!((bytes, length), ([1; 8], 4));
    let mut session = 3;
    assert_eq!(
        call!(loaded.C_OpenSession(0, 4, null_mut(), None, &mut session)),
        CKR_SESSION_COUNT
    );
    assert_eq!(session, 3);
    let mut info = CK_INFO::default();
    assert_eq!(call!(loaded.C_GetInfo(&mut info)), CKR_OK);
    assert_eq!(&info.manufacturerID, b"short                           ");
    assert_eq!(info.libraryDescription, [b' '; 32]);
}
