//! Tests parameters that an application should not pass: too much data, nested too deeply, or of the wrong size.

use super::support::{FakeMemory, mechanism, number_of};
use crate::mechanism::*;

/// A structure whose fields are all words of this host.
fn words(numbers: &[usize]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_ne_bytes())
        .collect()
}

fn read(
    name: &str,
    parameter: &[usize],
    mut memory: FakeMemory,
) -> Result<(Mechanism, Vec<OutputPlace>), CkRv> {
    let parameter = words(parameter);
    let address = memory.add(&parameter);
    let number = number_of(name);
    Mechanism::from_memory(number, address, parameter.len(), Use::Operation, &memory)
}

const TOO_LONG: Result<(), CkRv> = Err(CkRv::DATA_LEN_RANGE);
const INVALID: Result<(), CkRv> = Err(CkRv::MECHANISM_PARAM_INVALID);

/// Nothing is read for a length that is over the limit: the simulated memory would answer an error.
#[test]
fn a_parameter_over_the_limit_is_not_read() {
    let label = |length: usize| {
        let mut memory = FakeMemory::default();
        let room = length.min(LONGEST_PARAMETER);
        let label = memory.add(&vec![0; room]);
        let parameter = [0x250, 2, 1, label, length];
        read("CKM_RSA_PKCS_OAEP", &parameter, memory).map(drop)
    };
    let structure = words(&[0; 5]).len();
    assert_eq!(label(LONGEST_PARAMETER - structure), Ok(()));
    assert_eq!(label(LONGEST_PARAMETER - structure + 1), TOO_LONG);
    assert_eq!(label(usize::MAX), TOO_LONG);

    // Rooms, arrays and the parameter itself count as well.
    let mut memory = FakeMemory::default();
    let length = memory.add(&words(&[LONGEST_PARAMETER]));
    let prf = [0, 0, 0, 0, 0x1234_5678, length];
    assert_eq!(read("CKM_TLS_PRF", &prf, memory).map(drop), TOO_LONG);
    for count in [LONGEST_PARAMETER, usize::MAX] {
        let otp = [0x1234_5678, count];
        let found = read("CKM_HOTP", &otp, FakeMemory::default());
        assert_eq!(found.map(drop), TOO_LONG);
    }
    let memory = FakeMemory::default();
    let number = number_of("CKM_AES_CBC");
    let length = LONGEST_PARAMETER + 1;
    let found = Mechanism::from_memory(number, 0x1234_5678, length, Use::Operation, &memory);
    assert_eq!(found.map(drop), TOO_LONG);
}

/// A text without a terminating zero is read up to the limit, and no further.
#[test]
fn a_text_ends_at_its_zero_or_at_the_limit() {
    let text = |text: &[u8]| {
        let mut memory = FakeMemory::default();
        let text = memory.add(text);
        let parameter = [0, 0, 0, text, 0, 0, 0, 0];
        read("CKM_CMS_SIG", &parameter, memory)
    };
    let (found, _) = text(b"text/plain\0rest").unwrap();
    let content = found.parameter().field("pContentType");
    assert!(content == Some(FieldValue::Bytes(b"text/plain")));
    assert_eq!(text(&vec![b'a'; LONGEST_PARAMETER]).map(drop), TOO_LONG);
}

/// Mechanisms nested in each other. The last one refers to itself.
#[test]
fn nesting_ends_at_its_limit() {
    let nested = |levels: usize, last: (usize, usize, usize)| {
        let mut memory = FakeMemory::default();
        let (mut number, mut parameter, mut length) = last;
        let kip = usize::try_from(number_of("CKM_KIP_MAC").0).unwrap();
        for _ in 0..levels {
            let inner = memory.add(&words(&[number, parameter, length]));
            let outer = words(&[inner, 1, 0, 0]);
            (number, parameter, length) = (kip, memory.add(&outer), outer.len());
        }
        let number = number_of("CKM_KIP_MAC");
        let found = Mechanism::from_memory(number, parameter, length, Use::Operation, &memory);
        found.map(|(mechanism, _)| mechanism.inner_mechanisms().len())
    };
    let bare = (0x250, 0, 0);
    assert_eq!(nested(1, bare), Ok(1));
    assert_eq!(nested(3, bare), Ok(3));
    assert_eq!(nested(4, bare).map(drop), INVALID);
    // The limits of encoder and decoder are the same: nothing is read that cannot be sent.
    let mut memory = FakeMemory::default();
    let address = 0x1000_0000;
    let kip = usize::try_from(number_of("CKM_KIP_MAC").0).unwrap();
    let length = words(&[0; 4]).len();
    memory.map(address, &words(&[address + 0x1000, 1, 0, 0]));
    memory.map(address + 0x1000, &words(&[kip, address, length]));
    let number = number_of("CKM_KIP_MAC");
    let found = Mechanism::from_memory(number, address, length, Use::Operation, &memory);
    assert_eq!(found.map(drop), INVALID);

    // Structures and templates at the last level.
    let sp800 = |levels: usize, is_template: bool| {
        let mut memory = FakeMemory::default();
        let label = memory.add(b"label");
        let data = memory.add(&words(&[4, label, 5]));
        let attribute = memory.add(&words(&[3, label, 5]));
        let derived = memory.add(&words(&[attribute, 1, 0]));
        let parameter = match is_template {
            true => words(&[0x251, 0, 0, 1, derived]),
            false => words(&[0x251, 1, data, 0, 0]),
        };
        let mut length = parameter.len();
        let mut parameter = memory.add(&parameter);
        let mut number = number_of("CKM_SP800_108_COUNTER_KDF");
        for _ in 0..levels {
            let mechanism = [usize::try_from(number.0).unwrap(), parameter, length];
            let mechanism = memory.add(&words(&mechanism));
            let outer = words(&[mechanism, 1, 0, 0]);
            length = outer.len();
            parameter = memory.add(&outer);
            number = number_of("CKM_KIP_MAC");
        }
        let found = Mechanism::from_memory(number, parameter, length, Use::Operation, &memory);
        found.map(drop)
    };
    assert_eq!(sp800(2, false), Ok(()));
    assert_eq!(sp800(3, false), INVALID);
    assert_eq!(sp800(1, true), Ok(()));
    assert_eq!(sp800(2, true), INVALID);
}

#[test]
fn a_structure_that_the_table_cannot_read_is_refused() {
    let of_size = |name: &str, length: usize| {
        read(name, &vec![0; length], FakeMemory::default()).map(|(found, _)| found)
    };
    for length in [1, 4, 7, 8] {
        let found = of_size("CKM_AES_GCM", length).map(drop);
        assert_eq!(found, INVALID);
    }
    assert!(of_size("CKM_AES_GCM", 5).is_ok() && of_size("CKM_AES_GCM", 6).is_ok());
    // Numbers only: the module will judge them.
    let pss = of_size("CKM_RSA_PKCS_PSS", 2).unwrap();
    assert!(matches!(pss.parameter(), Parameter::Bytes(_)));
    // Pointers to data of unknown length are refused, unless they are NULL.
    let x3dh = |signature| {
        let parameter = [0, 0, 0, signature, 0, 0, 0];
        read("CKM_X3DH_INITIALIZE", &parameter, FakeMemory::default()).map(drop)
    };
    assert_eq!(x3dh(0), Ok(()));
    assert_eq!(x3dh(0x1234_5678), INVALID);
    // Data of another size is not a handle that could be checked.
    let key = |length| {
        let mut memory = FakeMemory::default();
        let key = memory.add(&words(&[7, 7]));
        let data = memory.add(&words(&[5, key, length]));
        let parameter = [0x251, 1, data, 0, 0];
        read("CKM_SP800_108_COUNTER_KDF", &parameter, memory).map(drop)
    };
    assert_eq!(key(size_of::<usize>()), Ok(()));
    for length in [0, 1, 4, 16] {
        assert_eq!(key(length), INVALID);
    }
}

#[test]
fn an_unknown_mechanisms_bytes_are_read_for_the_daemon_to_judge() {
    let mut memory = FakeMemory::default();
    let address = memory.add(b"vendor");
    let number = MechanismType(0x8000_0001);
    let (found, places) =
        Mechanism::from_memory(number, address, 6, Use::Operation, &memory).unwrap();
    assert!(places.is_empty());
    assert!(matches!(found.parameter(), Parameter::Vendor(_)));
    assert!(found.assemble(Use::Operation, false).is_err());
    assert!(found.assemble(Use::Operation, true).is_ok());
    // Neither NULL nor an empty parameter holds an address.
    for (address, length) in [(0, 0), (0, 6), (address, 0)] {
        let (found, _) =
            Mechanism::from_memory(number, address, length, Use::Operation, &memory).unwrap();
        assert!(found.assemble(Use::Operation, false).is_ok());
    }
    let sent = mechanism("CKM_SHA256", Parameter::None { length: 6 });
    assert_eq!(sent.assemble(Use::Operation, false).unwrap().length(), 6);
}
