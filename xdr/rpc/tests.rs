//! Tests the flags in front of the arguments of a call.

use super::*;

fn names_with(places: usize) -> Vec<&'static str> {
    let all = Function::ALL.iter().copied();
    all.filter(|function| function.places() == places)
        .map(Function::name)
        .collect()
}

/// The lists are written by hand, so that they check what is derived from the results.
#[test]
fn functions_write_as_many_single_values_as_in_c() {
    assert_eq!(
        names_with(1),
        [
            "C_GetInfo",
            "C_WaitForSlotEvent",
            "C_GetSlotInfo",
            "C_GetTokenInfo",
            "C_OpenSession",
            "C_GetSessionInfo",
            "C_GetMechanismInfo",
            "C_GenerateKey",
            "C_CreateObject",
            "C_CopyObject",
            "C_GetObjectSize",
            "C_UnwrapKey",
            "C_DeriveKey",
            "C_EncapsulateKey",
            "C_DecapsulateKey",
            "C_GetSessionValidationFlags",
            "C_AsyncComplete",
            "C_AsyncGetID",
            "C_UnwrapKeyAuthenticated",
        ]
    );
    assert_eq!(names_with(2), ["C_GenerateKeyPair"]);
}

#[test]
fn a_flag_is_known_and_about_a_place_that_the_function_has() {
    for function in Function::ALL.iter().copied() {
        let words = (0..=64).chain([u32::MAX]);
        let sound: Vec<u32> = words
            .filter_map(|word| CallFlags::from_word(word, function).map(|flags| (word, flags)))
            .map(|(word, flags)| {
                assert_eq!(flags.word(), word);
                word
            })
            .collect();
        let expected: &[u32] = match function.places() {
            0 => &[0, 1],
            1 => &[0, 1, 2, 3],
            _ => &[0, 1, 2, 3, 4, 5, 6, 7],
        };
        assert_eq!(sound, expected, "{}", function.name());
    }
}

#[test]
fn a_null_place_arrives() {
    let peer = Peer {
        architecture: Architecture::host(),
        versions: 4..=4,
    };
    let nulls = NullPlaces {
        first: false,
        second: true,
    };
    let session = crate::SessionHandle(1);
    let call = (Call::C_GenerateKeyPair(session, None, None, None), nulls);
    let mut buffer = Vec::new();
    let record = write_call(Xid(7), &call, true, &mut buffer)
        .unwrap()
        .to_vec();
    let Request::Call(incoming) = read_request(&record[crate::record::MARK_SIZE..], &peer) else {
        panic!("no call");
    };
    assert!((incoming.call, incoming.nulls) == call);
    assert!(incoming.overlaps);
}
