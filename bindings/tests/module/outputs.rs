//! Tests outputs, lists, and what a failing call returns beside its CK_RV.

use super::*;

fn encrypt(number: u64, input: &[u8]) -> DataResult {
    data(RECORDER.call(Call::C_Encrypt(session(number), input)))
}

#[test]
fn gives_the_whole_output_of_one_call() {
    for length in [0, 1, 16, 70_000] {
        let input = vec![7; length];
        let result = encrypt(1, &input);
        assert_eq!((result.rv, result.data == input), (CkRv::OK, true));
    }
    assert_eq!(
        data(RECORDER.call(Call::C_SignFinal(session(1)))).data,
        b"end"
    );
}

#[test]
fn gives_a_second_call_the_room_the_module_asks_for() {
    let result = encrypt(3, b"data");
    assert_eq!(
        (result.rv, result.data.to_vec()),
        (CkRv::OK, vec![b'B'; 100_000])
    );
    let result = data(RECORDER.call(Call::C_SignFinal(session(3))));
    assert_eq!((result.rv, result.data.len()), (CkRv::OK, 100_000));
}

#[test]
fn believes_no_length_beyond_the_room_it_gave() {
    for liar in [2, 4, 6] {
        let result = encrypt(liar, b"data");
        assert_eq!(
            (result.rv, result.data.to_vec()),
            (CkRv::GENERAL_ERROR, vec![])
        );
    }
}

#[test]
fn sends_nothing_of_the_output_of_a_failing_call() {
    let result = encrypt(5, b"data");
    assert_eq!(
        (result.rv, result.data.to_vec()),
        (CkRv::DEVICE_ERROR, vec![])
    );
}

#[test]
fn gives_an_empty_input_an_address_and_an_output_clean_memory() {
    assert_eq!(encrypt(7, b"").rv.0, TOLD);
    assert_eq!(encrypt(7, b"four").rv.0, TOLD | 4);
    assert_eq!(encrypt(8, b"four").rv.0, TOLD | (4096 + 4));
    let sign = Call::C_Sign(session(8), b"four");
    assert_eq!(rv(sign), TOLD | 16384);
}

#[test]
fn makes_random_numbers_up_to_a_bound() {
    let random = |number, length| {
        let call = Call::C_GenerateRandom(session(number), Ulong(length));
        data(RECORDER.call(call))
    };
    assert_eq!(random(1, 0).data, b"");
    assert_eq!(random(1, 33).data, [b'R'; 33]);
    assert_eq!(random(2, 33).data, b"");
    for absurd in [u64::MAX, 1 << 62, 1 << 40, 1 << 30] {
        assert_eq!(random(1, absurd).rv, CkRv::ARGUMENTS_BAD);
    }
}

fn slots(present: u64, count: u64) -> (CkRv, Vec<u64>, u64) {
    let call = Call::C_GetSlotList(Ulong(present), Count(count));
    let result = result!(C_GetSlotList, RECORDER.call(call));
    let slots = result.slots.iter().map(|slot| slot.0).collect();
    (result.rv, slots, result.count.0)
}

#[test]
fn lists_slots_with_a_count_that_fits_them() {
    let all = vec![5, 6, 0x8000_0007];
    assert_eq!(slots(0, 0), (CkRv::OK, vec![], 3));
    assert_eq!(slots(0, 3), (CkRv::OK, all.clone(), 3));
    assert_eq!(slots(0, 10), (CkRv::OK, all.clone(), 3));
    assert_eq!(slots(0, u64::MAX), (CkRv::OK, all, 3));
    assert_eq!(slots(0, 2), (CkRv::BUFFER_TOO_SMALL, vec![], 3));
    assert_eq!(slots(1, 2), (CkRv::GENERAL_ERROR, vec![], 0));
}

#[test]
fn gives_the_count_back_with_a_failing_list() {
    assert_eq!(slots(3, 0), (CkRv::DEVICE_ERROR, vec![], 0));
    assert_eq!(slots(3, 7), (CkRv::DEVICE_ERROR, vec![], 7));
    assert_eq!(slots(3, 1 << 61), (CkRv::DEVICE_ERROR, vec![], 1 << 61));
    assert_eq!(slots(4, 7), (CkRv::DEVICE_ERROR, vec![], 9));
    let query = Call::C_GetMechanismList(SlotId(1), Count(0));
    let result = result!(C_GetMechanismList, RECORDER.call(query));
    // The count is as the module left it. The original sends an uninitialised word of its stack here.
    assert_eq!((result.rv, result.count.0), (CkRv::SLOT_ID_INVALID, 4242));
    let fetch = Call::C_GetMechanismList(SlotId(1), Count(1 << 61));
    assert_eq!(rv(fetch), TOLD | 65536);
}

#[test]
fn takes_one_byte_of_token_present() {
    assert_eq!(slots(200, 1).0.0, TOLD | 200);
    assert_eq!(slots(0x1_0000_00c8, 1).0.0, TOLD | 200);
    for wide in [256, u64::MAX] {
        assert_eq!(slots(wide, 5), (CkRv::TOKEN_NOT_RECOGNIZED, vec![], 0));
    }
}

#[test]
fn finds_objects_up_to_the_count() {
    let find = |number, count| {
        let call = Call::C_FindObjects(session(number), Ulong(count));
        let result = result!(C_FindObjects, RECORDER.call(call));
        let objects: Vec<u64> = result.objects.iter().map(|object| object.0).collect();
        assert_eq!(result.count.0, objects.len() as u64);
        (result.rv, objects)
    };
    assert_eq!(find(1, 0), (CkRv::OK, vec![]));
    assert_eq!(find(1, 2), (CkRv::OK, vec![100, 101]));
    assert_eq!(find(1, u64::MAX), (CkRv::OK, vec![100, 101, 102]));
    assert_eq!(find(2, 2), (CkRv::GENERAL_ERROR, vec![]));
    assert_eq!(find(3, 2), (CkRv::DEVICE_ERROR, vec![]));
}

#[test]
fn sends_full_strings_of_zeros_with_failing_information() {
    let reply = RECORDER.call(Call::C_GetTokenInfo(SlotId(3)));
    let info = result!(C_GetTokenInfo, reply).info;
    let strings = [
        &info.label,
        &info.manufacturer_id,
        &info.model,
        &info.serial_number,
    ];
    assert_eq!(strings.map(Vec::len), [32, 32, 16, 16]);
    assert!(
        strings
            .iter()
            .all(|string| string.iter().all(|&byte| byte == 0))
    );
    assert_eq!((info.utc_time, info.max_pin_len.0), (vec![0; 16], 0));
    assert_eq!(info.firmware_version.major, [0]);

    let info = result!(C_GetSlotInfo, RECORDER.call(Call::C_GetSlotInfo(SlotId(3)))).info;
    assert_eq!(
        (info.slot_description, info.manufacturer_id),
        (vec![0; 64], vec![0; 32])
    );
    // The function is not in the list.
    let info = result!(C_GetInfo, RECORDER.call(Call::C_GetInfo())).info;
    assert_eq!(info.library_description, [0; 32]);
}

#[test]
fn sends_no_handle_slot_or_size_with_a_failing_call() {
    let open = |slot| {
        let result = result!(
            C_OpenSession,
            RECORDER.call(Call::C_OpenSession(SlotId(slot), Flags(4)))
        );
        (result.rv, result.session.0)
    };
    assert_eq!(open(1), (CkRv::OK, 0x8000_0001));
    assert_eq!(open(9), (CkRv::DEVICE_ERROR, 0));

    let event = |flags| {
        let call = Call::C_WaitForSlotEvent(Flags(flags));
        let result = result!(C_WaitForSlotEvent, RECORDER.call(call));
        (result.rv, result.slot_id)
    };
    assert_eq!(event(0), (CkRv::OK, SlotId(4)));
    assert_eq!(event(1), (CkRv::NO_EVENT, SlotId::NONE));

    let info = result!(
        C_GetSessionInfo,
        RECORDER.call(Call::C_GetSessionInfo(session(9)))
    )
    .info;
    assert_eq!((info.slot_id, info.state.0), (SlotId::NONE, 0));

    let size = |object| {
        let call = Call::C_GetObjectSize(session(1), ObjectHandle(object));
        result!(C_GetObjectSize, RECORDER.call(call)).size
    };
    assert_eq!((size(1), size(2).0, size(9).0), (Ulong::UNAVAILABLE, 17, 0));

    let created = RECORDER.call(Call::C_CreateObject(session(1), Template::default()));
    assert_eq!(result!(C_CreateObject, created).object.0, 0);
}

#[test]
fn keeps_unavailable_information_all_ones() {
    let info = result!(
        C_GetTokenInfo,
        RECORDER.call(Call::C_GetTokenInfo(SlotId(2)))
    )
    .info;
    assert_eq!(info.total_public_memory, Ulong::UNAVAILABLE);
    assert_eq!(info.label, [b' '; 32]);
}
