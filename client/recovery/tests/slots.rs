//! Tests slot numbers: an application may keep using those that it knows, and never finds another token under one of
//! them.

use super::*;

const PRESENT: Flags = Flags(1);

fn listed(recovery: &Fake) -> Vec<u64> {
    let list = ask!(recovery, C_GetSlotList(Ulong(0), Room::Buffer(9))).unwrap();
    assert_eq!(list.rv, CkRv::OK);
    list.slots.iter().map(|it| it.0).collect()
}

/// Returns the serial number of the token in a slot.
fn token(recovery: &Fake, slot: u64) -> Result<Vec<u8>, CkRv> {
    let answer = ask!(recovery, C_GetTokenInfo(SlotId(slot)))?;
    match answer.rv {
        CkRv::OK => Ok(answer.info.serial_number.clone()),
        rv => Err(rv),
    }
}

/// Returns whether a slot is reported to contain a token.
fn is_present(recovery: &Fake, slot: u64) -> bool {
    let answer = ask!(recovery, C_GetSlotInfo(SlotId(slot))).unwrap();
    assert_eq!(answer.rv, CkRv::OK);
    answer.info.flags == PRESENT
}

fn opens(recovery: &Fake, slot: u64) -> CkRv {
    let call = Call::C_OpenSession(SlotId(slot), Flags(4), false);
    recovery.call(call).rv()
}

#[test]
fn the_application_keeps_the_number_of_a_token_that_it_has_asked_for() {
    let module = Module::new();
    let recovery = module.recovery(true);
    assert_eq!(token(&recovery, 5), Ok(b"1".to_vec()));
    module.cut();
    module.change(|state| state.slot = 8);
    assert_eq!(listed(&recovery), [1, 5]);
    assert_eq!(token(&recovery, 5), Ok(b"1".to_vec()));
    assert!(is_present(&recovery, 5));
    // The slot's own number is not valid besides the application's.
    assert_eq!(token(&recovery, 8), Err(CkRv::SLOT_ID_INVALID));
    assert_eq!(opens(&recovery, 5), CkRv::OK);
}

#[test]
fn of_a_token_that_is_gone_the_slot_is_empty_and_sessions_are_lost() {
    let (module, recovery, session, _) = ready();
    module.cut();
    module.change(|state| (state.slot, state.serial) = (8, "2"));
    assert_eq!(listed(&recovery), [1, 8]);
    assert!(!is_present(&recovery, 5));
    assert_eq!(token(&recovery, 5), Err(CkRv::TOKEN_NOT_PRESENT));
    assert_eq!(opens(&recovery, 5), CkRv::TOKEN_NOT_PRESENT);
    let info = recovery.call(Call::C_GetSessionInfo(session));
    assert_eq!(info.rv(), CkRv::DEVICE_REMOVED);
    assert_eq!(token(&recovery, 8), Ok(b"2".to_vec()));
    // The slot still exists, without the token.
    module.change(|state| state.empty_slots.push(5));
    assert_eq!(listed(&recovery), [1, 5, 8]);
    let left = ask!(&recovery, C_GetSlotInfo(SlotId(5))).unwrap();
    assert_eq!(left.info.slot_description, b"5");
    assert_eq!(token(&recovery, 5), Err(CkRv::TOKEN_NOT_PRESENT));
    // The token comes back.
    module.change(|state| {
        (state.slot, state.serial) = (9, "1");
        state.empty_slots = vec![1];
    });
    assert_eq!(listed(&recovery), [1, 5]);
    assert!(is_present(&recovery, 5));
    assert_eq!(token(&recovery, 5), Ok(b"1".to_vec()));
    let info = recovery.call(Call::C_GetSessionInfo(session));
    assert_eq!(info.rv(), CkRv::OK);
}

/// Like SoftHSM, which sees no token if it starts while other processes log in, and never looks again.
#[test]
fn a_module_that_sees_no_token_at_its_start_is_started_once_more() {
    let (module, recovery, session, key) = ready();
    module.cut();
    module.change(|state| state.blind_starts = 1);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    assert_eq!(sign(&recovery, session), CkRv::OK);
    assert_eq!(module.connects.load(Ordering::SeqCst), 3);
    // If a token stays away, there is no new connection each time.
    module.cut();
    module.change(|state| state.blind_starts = usize::MAX);
    for _ in 0..3 {
        assert_eq!(begin(&recovery, session, key), CkRv::DEVICE_REMOVED);
    }
    assert_eq!(module.connects.load(Ordering::SeqCst), 5);
    module.cut();
    module.change(|state| state.blind_starts = 0);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
    assert_eq!(module.connects.load(Ordering::SeqCst), 6);
}

#[test]
fn a_token_in_the_place_of_another_one_gets_a_number_of_its_own() {
    let (module, recovery, ..) = ready();
    for _ in 0..2 {
        module.cut();
        module.change(|state| state.serial = "2");
        let [1, new] = listed(&recovery)[..] else {
            panic!("there are two slots: {:?}", listed(&recovery));
        };
        assert_ne!(new, 5);
        assert_eq!(token(&recovery, new), Ok(b"2".to_vec()));
        assert_eq!(opens(&recovery, new), CkRv::OK);
        assert_eq!(token(&recovery, 5), Err(CkRv::TOKEN_NOT_PRESENT));
        assert!(!is_present(&recovery, 5));
    }
    module.cut();
    module.change(|state| state.serial = "1");
    assert_eq!(listed(&recovery), [1, 5]);
}

/// Another card is in the reader, and the application has no session with the one before.
#[test]
fn a_slot_without_sessions_has_the_token_that_the_application_is_told_of() {
    let module = Module::new();
    let recovery = module.recovery(true);
    assert_eq!(token(&recovery, 5), Ok(b"1".to_vec()));
    module.cut();
    module.change(|state| state.serial = "2");
    // The application has not seen this token, so it may not log in to it.
    assert_eq!(opens(&recovery, 5), CkRv::TOKEN_NOT_PRESENT);
    assert_eq!(listed(&recovery), [1, 5]);
    assert_eq!(token(&recovery, 5), Ok(b"2".to_vec()));
    assert_eq!(opens(&recovery, 5), CkRv::OK);
}

/// Otherwise another token would get the application's login.
#[test]
fn slots_whose_numbers_were_exchanged_keep_them() {
    let (module, recovery, session, key) = ready();
    module.change(|state| state.second_slot = Some(6));
    assert_eq!(token(&recovery, 6), Ok(Vec::new()));
    module.cut();
    module.change(|state| (state.slot, state.second_slot) = (6, Some(5)));
    assert_eq!(listed(&recovery), [1, 5, 6]);
    assert_eq!(token(&recovery, 6), Ok(Vec::new()));
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
}

/// Each slot in the list has the number that the application got for the one before.
#[test]
fn a_daemon_that_lists_slots_without_end_does_not_fill_the_tables() {
    const FIRST_NEW: u64 = 0x4000_0000;
    let (module, recovery, session, key) = ready();
    module.cut();
    module.change(|state| {
        state.slot = 8;
        state.empty_slots = [5].into_iter().chain(FIRST_NEW..FIRST_NEW + 9999).collect();
    });
    for _ in 0..2 {
        let call = Call::C_GetSlotList(Ulong(0), Room::Buffer(1 << 16));
        assert_eq!(recovery.call(call).rv(), CkRv::DEVICE_ERROR);
    }
    assert_eq!(recovery.shared.state().tables.slots.len(), 4096);
    module.change(|state| state.empty_slots = vec![1]);
    assert_eq!(listed(&recovery), [1, 5]);
    assert_eq!(begin(&recovery, session, key), CkRv::OK);
}
