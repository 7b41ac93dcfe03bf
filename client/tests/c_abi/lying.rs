//! Tests a daemon of version 4 that lies: nothing is written beyond what was asked for, and nothing that was not sent
//! is taken for a value.

use std::ptr::null_mut;

use cryptoki_sys::*;
use xdr::{
    Answer, Answers, AsyncResult, AttributeType, AttributesResult, Call, CkRv, EncapsulateResult,
    Found, InfoResult, MechanismListResult, MechanismType, ObjectHandle, ObjectListResult,
    OutputResult, Reply, SessionHandle, SessionResult, SlotId, SlotListResult, Ulong,
};

use crate::daemon::{Act, Daemon};
use crate::harness::{initialized, run};

/// Lengths and bytes that no module returns with 4 bytes of room, by the number of the session. The first half comes
/// with CKR_OK, the second with an error.
const OUTPUTS: [(CkRv, u64, usize); 12] = [
    (CkRv::OK, 5, 5),
    (CkRv::OK, 4, 5),
    (CkRv::OK, 4, 3),
    (CkRv::OK, 5, 0),
    (CkRv::OK, 0, 1),
    (CkRv::OK, u64::MAX, 0),
    (CkRv::OK, 1 << 40, 4),
    (CkRv::OK, 0, 5000),
    (CkRv::BUFFER_TOO_SMALL, 9, 5),
    (CkRv::DATA_LEN_RANGE, 5, 5),
    (CkRv::DATA_LEN_RANGE, 0, 5),
    (CkRv::DATA_LEN_RANGE, u64::MAX, 5000),
];

/// Lengths and bytes in replies to a call that asked only for the size; there should be no bytes.
const SIZES: [(u64, usize); 3] = [(3, 3), (0, 1), (9, 5000)];

fn answers(found: &[(CK_ATTRIBUTE_TYPE, Found)]) -> Answers {
    let answer = |(number, found): &(CK_ATTRIBUTE_TYPE, Found)| Answer {
        attribute_type: AttributeType(xdr::word_size::wide(*number)),
        found: found.clone(),
    };
    Answers(found.iter().map(answer).collect())
}

/// Answers that do not match the question, by the number of the session. The question is for a label with 4 bytes of
/// room, and for a template of one attribute with 4 bytes of room.
fn wrong_answers() -> Vec<(CkRv, Answers)> {
    let bytes = |length| Found::Bytes(vec![7; length]);
    let nested = |found: &[(CK_ATTRIBUTE_TYPE, Found)]| Found::Template(answers(found));
    let label = (CKA_LABEL, bytes(4));
    let template = |found| (CKA_WRAP_TEMPLATE, found);
    let fine = template(nested(&[(CKA_ID, bytes(4))]));
    let wrong = [
        // Too many, too few, none, in another order, of other types.
        vec![label.clone(), fine.clone(), label.clone()],
        vec![label.clone()],
        vec![],
        vec![fine.clone(), label.clone()],
        vec![(CKA_ID, bytes(4)), fine.clone()],
        // Too long, or longer than any value; a length without its bytes.
        vec![(CKA_LABEL, bytes(5)), fine.clone()],
        vec![(CKA_LABEL, bytes(5000)), fine.clone()],
        vec![(CKA_LABEL, Found::Length(4)), fine.clone()],
        vec![(CKA_LABEL, Found::Length(u64::MAX)), fine.clone()],
        // A value of another kind.
        vec![label.clone(), template(Found::TemplateLength(1))],
        vec![label.clone(), template(Found::TemplateLength(u64::MAX))],
        vec![label.clone(), template(Found::Length(24))],
        // More attributes than there is room for, and more bytes in one.
        vec![
            label.clone(),
            template(nested(&[(CKA_ID, bytes(4)), (CKA_ID, bytes(4))])),
        ],
        vec![label.clone(), template(nested(&[(CKA_ID, bytes(5))]))],
        vec![
            label.clone(),
            template(nested(&[template(nested(&[(CKA_ID, bytes(4))]))])),
        ],
    ];
    let errors = [
        vec![label.clone()],
        vec![(CKA_LABEL, bytes(5)), fine.clone()],
        vec![label.clone(), template(Found::TemplateLength(u64::MAX))],
        vec![label, template(nested(&[(CKA_ID, bytes(5))]))],
    ];
    let with = |rv| move |found: Vec<_>| (rv, answers(&found));
    let wrong = wrong.into_iter().map(with(CkRv::OK));
    wrong
        .chain(errors.into_iter().map(with(CkRv::ATTRIBUTE_SENSITIVE)))
        .collect()
}

#[test]
fn a_daemon_that_lies_writes_nowhere_it_should_not() {
    let wrong_answers = wrong_answers();
    let daemon = Daemon::start(move |call| {
        let ok = CkRv::OK;
        let session = call.session().map_or(0, |session| session.0 as usize);
        let output = |sizes: bool| {
            let (rv, length, sent) = match sizes {
                true => (ok, SIZES[session % 3].0, SIZES[session % 3].1),
                false => OUTPUTS[session % 12],
            };
            OutputResult {
                rv,
                length: Ulong(length),
                data: vec![7; sent].into(),
            }
        };
        Some(Act::Answer(Box::new(match call {
            Call::C_SignFinal(..) => Reply::C_SignFinal(output(false)),
            Call::C_DigestFinal(..) => Reply::C_DigestFinal(output(true)),
            Call::C_SignMessageNext(..) => {
                let OutputResult { rv, length, data } = output(true);
                Reply::C_SignMessageNext(xdr::MechanismOutputResult {
                    rv,
                    length,
                    data,
                    ..Default::default()
                })
            }
            Call::C_GenerateRandom(..) => Reply::C_GenerateRandom(OutputResult {
                rv: ok,
                length: Ulong(4),
                data: vec![7; [3, 5, 0][session % 3]].into(),
            }),
            Call::C_GetSlotList(..) => Reply::C_GetSlotList(SlotListResult {
                rv: ok,
                slots: vec![SlotId(7); 5],
                count: Ulong(2),
            }),
            Call::C_GetMechanismList(slot, _) => Reply::C_GetMechanismList(MechanismListResult {
                rv: ok,
                mechanisms: vec![MechanismType(7); slot.0 as usize],
                count: Ulong([1 << 62, 65537, 3][slot.0 as usize]),
            }),
            Call::C_FindObjects(..) => Reply::C_FindObjects(ObjectListResult {
                rv: ok,
                objects: vec![ObjectHandle(7); 5],
                count: Ulong(5),
            }),
            Call::C_GetAttributeValue(..) => {
                let (rv, answers) = wrong_answers[session].clone();
                Reply::C_GetAttributeValue(AttributesResult { rv, answers })
            }
            Call::C_EncapsulateKey(..) => Reply::C_EncapsulateKey(EncapsulateResult {
                rv: ok,
                length: Ulong(5),
                data: vec![7; 5].into(),
                object: Some(ObjectHandle(7)),
                ..Default::default()
            }),
            Call::C_AsyncComplete(..) => Reply::C_AsyncComplete(AsyncResult {
                rv: ok,
                length: Ulong(5),
                data: vec![7; 5].into(),
                ..Default::default()
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
    run("lying", &daemon);
}

pub fn lying() {
    let loaded = initialized();
    for (session, (rv, told, sent)) in (0..).zip(OUTPUTS) {
        let mut bytes = [1u8; 8];
        let mut length = 4;
        let output = bytes.as_mut_ptr();
        assert_eq!(
            call!(loaded.C_SignFinal(session, output, &mut length)),
            CKR_DEVICE_ERROR,
            "{rv}, {told}, {sent}"
        );
        assert_eq!((bytes, length), ([1; 8], 4), "{rv}, {told}, {sent}");
    }
    for session in 0..SIZES.len() as CK_ULONG {
        let mut length = 4;
        assert_eq!(
            call!(loaded.C_DigestFinal(session, null_mut(), &mut length)),
            CKR_DEVICE_ERROR
        );
        assert_eq!(length, 4);
        // There is no place for a length, so no bytes may be written.
        let mut byte = 1u8;
        assert_eq!(
            call!(loaded.C_SignMessageNext(
                session,
                null_mut(),
                0,
                null_mut(),
                0,
                &mut byte,
                null_mut()
            )),
            CKR_DEVICE_ERROR
        );
        assert_eq!(byte, 1);
        let mut random = [1u8; 8];
        assert_eq!(
            call!(loaded.C_GenerateRandom(session, random.as_mut_ptr(), 4)),
            CKR_DEVICE_ERROR
        );
        assert_eq!(random, [1; 8]);
        // A count so large that it overflows when applications multiply it.
        let mut list = [1; 4];
        let mut count = 2;
        assert_eq!(
            call!(loaded.C_GetMechanismList(session, list.as_mut_ptr(), &mut count)),
            CKR_DEVICE_ERROR
        );
        assert_eq!((list, count), ([1; 4], 2));
    }
    assert_eq!(
        call!(loaded.C_GetMechanismList(1, null_mut(), &mut 0)),
        CKR_DEVICE_ERROR
    );
    let mut list = [1; 4];
    let mut count = 2;
    assert_eq!(
        call!(loaded.C_GetSlotList(1, list.as_mut_ptr(), &mut count)),
        CKR_DEVICE_ERROR
    );
    assert_eq!(
        call!(loaded.C_FindObjects(1, list.as_mut_ptr(), 2, &mut count)),
        CKR_DEVICE_ERROR
    );
    assert_eq!((list, count), ([1; 4], 2));

    for session in 0..wrong_answers().len() as CK_ULONG {
        let mut bytes = [1u8; 8];
        let value = bytes.as_mut_ptr();
        let mut nested = CK_ATTRIBUTE {
            type_: 99,
            pValue: value.wrapping_add(4).cast(),
            ulValueLen: 4,
        };
        let size = size_of::<CK_ATTRIBUTE>() as CK_ULONG;
        let mut asked = [
            CK_ATTRIBUTE {
                type_: CKA_LABEL,
                pValue: value.cast(),
                ulValueLen: 4,
            },
            CK_ATTRIBUTE {
                type_: CKA_WRAP_TEMPLATE,
                pValue: (&raw mut nested).cast(),
                ulValueLen: size,
            },
        ];
        assert_eq!(
            call!(loaded.C_GetAttributeValue(session, 2, asked.as_mut_ptr(), 2)),
            CKR_DEVICE_ERROR,
            "{session}"
        );
        assert_eq!(bytes, [1; 8], "{session}");
        assert_eq!(asked.map(|asked| asked.ulValueLen), [4, size], "{session}");
        assert_eq!((nested.type_, nested.ulValueLen), (99, 4), "{session}");
    }

    let (mut bytes, mut length, mut key) = ([1u8; 8], 4, 1);
    let mut mechanism = CK_MECHANISM {
        mechanism: CKM_ML_KEM,
        pParameter: null_mut(),
        ulParameterLen: 0,
    };
    let output = bytes.as_mut_ptr();
    assert_eq!(
        call!(loaded.C_EncapsulateKey(
            1,
            &mut mechanism,
            2,
            null_mut(),
            0,
            output,
            &mut length,
            &mut key
        )),
        CKR_DEVICE_ERROR
    );
    assert_eq!((bytes, length, key), ([1; 8], 4, 1));
    let mut data = CK_ASYNC_DATA::default();
    let name = c"C_Sign".as_ptr().cast_mut().cast();
    assert_eq!(
        call!(loaded.C_AsyncComplete(1, name, &mut data)),
        CKR_DEVICE_ERROR
    );
    assert!(data.pValue.is_null() && data.ulValue == 0);
    let mut session = 3;
    assert_eq!(
        call!(loaded.C_OpenSession(0, 4, null_mut(), None, &mut session)),
        CKR_SESSION_COUNT
    );
    assert_eq!(session, 3);
    let mut info = CK_INFO::default();
    assert_eq!(call!(loaded.C_GetInfo(&mut info)), CKR_OK);
    assert_eq!(&info.manufacturerID, b"short                           ");
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
}
