//! Compares the replies to unusual messages, to the first calls of a connection, and to every procedure in a situation
//! where it cannot succeed.

use crate::*;

#[test]
fn unusual_messages_get_the_same_status() {
    let good = [0u32, 2, 4, 3, 2, 0, 0, 0, 0];
    let changes: [(usize, u32); 10] = [
        (0, 1),
        (1, 3),
        (2, 5),
        (3, 2),
        (4, 99),
        (4, 0),
        (5, 1),
        (5, 77),
        (7, 77),
        (7, 1),
    ];
    let mut messages = vec![with_argument(&good)];
    for (position, value) in changes {
        let mut one = good;
        one[position] = value;
        messages.push(with_argument(&one));
        for (position, value) in changes {
            let mut two = one;
            two[position] = value;
            messages.push(with_argument(&two));
        }
        messages.push(with_argument(&one)[..44].to_vec());
    }
    for length in [0, 3, 4, 8, 20, 39, 40, 44] {
        messages.push(with_argument(&good)[..length].to_vec());
    }
    for flavour in [5, 7] {
        for body in [1, 4, 399, 400, 401, 404] {
            let mut words = good.to_vec();
            words[flavour + 1] = body;
            let mut message: Vec<u8> = words[..flavour + 2]
                .iter()
                .flat_map(|w| w.to_be_bytes())
                .collect();
            message.splice(0..0, 9u32.to_be_bytes());
            message.extend(vec![0; body.next_multiple_of(4) as usize]);
            message.extend(words[flavour + 2..].iter().flat_map(|w| w.to_be_bytes()));
            message.extend(1u64.to_be_bytes());
            messages.push(message);
        }
    }
    let mut both = Both::new();
    for message in messages {
        both.reconnect();
        let [theirs, ours] = both.exchange_message(&message);
        // Version 4 is ours alone.
        let mismatch =
            |highest: u8| Answer::Status([2, 3, highest].map(|it| [0, 0, 0, it]).concat());
        if theirs == mismatch(3) {
            assert_eq!(ours, mismatch(4), "to {message:02x?}");
        } else if ours == rpc_mismatch() {
            assert_eq!(
                theirs,
                Answer::Status(vec![0, 0, 0, 5]),
                "to {message:02x?}"
            );
        } else {
            assert_eq!(ours, theirs, "to {message:02x?}");
        }
    }
}

/// MSG_DENIED, RPC_MISMATCH, lowest and highest version.
fn rpc_mismatch() -> Answer {
    Answer::Status([1u32, 0, 2, 2].map(u32::to_be_bytes).concat())
}

/// D-15: a call of another version of RPC is denied; the original accepts it as a failure of its own.
#[test]
fn a_call_of_another_rpc_version_is_denied() {
    let mut both = Both::new();
    for version in [0, 1, 3, u32::MAX] {
        let message = with_argument(&[0, version, 4, 3, 2, 0, 0, 0, 0]);
        let [theirs, ours] = both.exchange_message(&message);
        assert_eq!(theirs, Answer::Status(vec![0, 0, 0, 5]));
        assert_eq!(ours, rpc_mismatch());
    }
    // The connection goes on.
    both.same(Call::C_SetupArch(Architecture::LITTLE_64));
}

/// The header's words behind an xid, then C_SetupArch's argument.
fn with_argument(words: &[u32]) -> Vec<u8> {
    let mut message = 9u32.to_be_bytes().to_vec();
    message.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    message.extend(1u64.to_be_bytes());
    message
}

#[test]
fn setup_and_load_answer_the_same() {
    let mut both = Both::new();
    for code in [0, 5, 6, 7, 1 << 33, u64::MAX] {
        both.same(Call::C_SetupArch(Architecture(code)));
    }
    for alias in [
        &b"nosuch"[..],
        b"",
        b"SOFTHSM",
        b"soft",
        b"softhsmX",
        b"softhsm\0",
    ] {
        both.same(Call::C_LoadModule(alias));
    }
    both.same(Call::C_Initialize());
    both.same(Call::C_LoadModule(b"softhsm"));
    both.same(Call::C_LoadModule(b"softhsm"));
    both.same(Call::C_LoadModule(b"nosuch"));
    both.same(Call::C_SetupArch(Architecture(0x1_0000_0001)));
    for code in [1, 2, 0] {
        both.same(Call::C_SetupArch(Architecture(code)));
    }
    both.same(Call::C_Initialize());
    both.same(Call::C_Initialize());
    both.same(Call::C_Finalize());
    both.same(Call::C_Finalize());
    both.same(Call::C_LoadModule(b"softhsm"));
    both.same(Call::C_Initialize());
}

/// A call of each procedure with arguments that are all zero or empty.
fn empty_call(function: Function, zeros: &[u8]) -> Call<'_> {
    let mut lengths = (0..=zeros.len()).step_by(4);
    lengths
        .find_map(|length| {
            let arguments = xdr::codec::Decoder::new(&zeros[..length], Architecture::host());
            Call::read(function, arguments)?.ok()
        })
        .expect("64 bytes do")
}

/// Calls whose replies differ by themselves, in tests of their own.
fn is_steady(function: Function) -> bool {
    use Function::{C_Finalize, C_Initialize, C_LoadModule, C_SetupArch};
    !matches!(
        function,
        C_SetupArch | C_LoadModule | C_Initialize | C_Finalize
    )
}

#[test]
fn every_procedure_before_a_module_is_loaded() {
    let mut both = Both::new();
    for function in xdr::version3::FUNCTIONS
        .iter()
        .copied()
        .filter(|function| is_steady(*function))
    {
        match function {
            // D-1: versions in the information of a refused call.
            Function::C_GetInfo | Function::C_GetSlotInfo | Function::C_GetTokenInfo => {
                let [theirs, ours] = both.call(empty_call(function, &[0; 64]));
                assert_eq!(ours.rv(), theirs.rv());
                assert_ne!(ours, theirs, "the row of DIFFERENCES.md is not needed");
                assert_eq!(versions(&theirs), vec![vec![0x30]; versions(&theirs).len()]);
                assert_eq!(versions(&ours), vec![vec![0]; versions(&ours).len()]);
            }
            // D-12: the original sends bytes it never wrote, as many as it finds in its memory; fails
            // if that is too many.
            Function::C_EncryptUpdate => {
                let [theirs, ours] = both.call(empty_call(function, &[0; 64]));
                match &theirs {
                    Answer::Status(status) => assert_eq!(status[..], [0, 0, 0, 5]),
                    theirs => assert_eq!(theirs.rv().0, 0x190),
                }
                assert_eq!(ours.rv().0, 0x190);
                let Reply::C_EncryptUpdate(result) = ours.reply() else {
                    panic!("a reply")
                };
                assert!(result.data.is_empty());
            }
            _ => drop(both.same(empty_call(function, &[0; 64]))),
        }
    }
}

/// D-11: the number of mechanisms of a call that failed; the original sends a word of its stack.
pub fn mechanism_number(both: &mut Both, slot: SlotId) {
    let [theirs, ours] = both.call(Call::C_GetMechanismList(slot, xdr::Count(0)));
    assert_eq!(ours.rv(), theirs.rv());
    let Reply::C_GetMechanismList(result) = ours.reply() else {
        panic!("a reply")
    };
    if result.rv.is_ok() {
        assert_eq!(ours, theirs);
    } else {
        assert_eq!((result.mechanisms.len(), result.count.0), (0, 0));
    }
}

fn versions(answer: &Answer) -> Vec<Vec<u8>> {
    let numbers = |version: &xdr::Version| [version.major.clone(), version.minor.clone()];
    match answer.reply() {
        Reply::C_GetInfo(r) => [&r.info.cryptoki_version, &r.info.library_version]
            .map(numbers)
            .concat(),
        Reply::C_GetSlotInfo(r) => [&r.info.hardware_version, &r.info.firmware_version]
            .map(numbers)
            .concat(),
        Reply::C_GetTokenInfo(r) => [&r.info.hardware_version, &r.info.firmware_version]
            .map(numbers)
            .concat(),
        _ => Vec::new(),
    }
}

#[test]
fn every_procedure_with_an_invalid_session_and_slot() {
    for before_initialize in [true, false] {
        let mut both = Both::new();
        both.same(Call::C_SetupArch(Architecture::LITTLE_64));
        both.same(Call::C_LoadModule(b"softhsm"));
        if !before_initialize {
            both.same(Call::C_Initialize());
        }
        for function in xdr::version3::FUNCTIONS
            .iter()
            .copied()
            .filter(|function| is_steady(*function))
        {
            match function {
                Function::C_GetMechanismList => mechanism_number(&mut both, SlotId(0)),
                _ => drop(both.same(empty_call(function, &[0; 64]))),
            }
        }
    }
}
