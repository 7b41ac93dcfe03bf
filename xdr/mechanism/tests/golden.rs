//! Compares parameters with what a C compiler laid out, and with wire bytes that were computed independently.
//!
//! `golden.txt` tells how its bytes were made. Its structures are those of 8-byte little-endian words; hosts of another
//! kind check only the wire.

use super::support::{FakeMemory, decoded, encoded, number_of};
#[allow(unused_imports)]
use crate::codec::{DecodeError, Decoder, Encoder, Wire as _};
use crate::mechanism::written::WrittenValue;
use crate::mechanism::*;

struct Golden {
    mechanism: MechanismType,
    usage: Use,
    parameter: Vec<u8>,
    memory: FakeMemory,
    outputs: Vec<(usize, usize)>,
    wire: Vec<u8>,
}

/// Where the parameter itself is.
const PARAMETER: usize = 0x6000_0000;

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits = hexadecimal.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn address(hexadecimal: &str) -> usize {
    usize::from_str_radix(hexadecimal, 16).unwrap()
}

fn golden() -> Vec<Golden> {
    let mut all: Vec<Golden> = Vec::new();
    for line in include_str!("golden.txt").lines() {
        let mut words = line.split(' ');
        let mut next = || words.next().unwrap_or_default();
        match (next(), all.last_mut()) {
            ("#" | "", _) => {}
            ("mechanism", _) => {
                let mechanism = number_of(next());
                let usage = next();
                let (usage, _) = Use::ALL
                    .into_iter()
                    .find(|(known, _)| format!("{known:?}") == usage)
                    .unwrap();
                all.push(Golden {
                    mechanism,
                    usage,
                    parameter: Vec::new(),
                    memory: FakeMemory::default(),
                    outputs: Vec::new(),
                    wire: Vec::new(),
                });
            }
            ("parameter", Some(golden)) => {
                golden.parameter = bytes(next());
                golden.memory.map(PARAMETER, &golden.parameter);
            }
            ("memory", Some(golden)) => {
                let address = address(next());
                golden.memory.map(address, &bytes(next()));
            }
            ("outputs", Some(golden)) => {
                let place = |word: &str| {
                    let (place, length) = word.split_once('/').unwrap();
                    (address(place), length.parse().unwrap())
                };
                golden.outputs = words.map(place).collect();
            }
            ("wire", Some(golden)) => golden.wire = bytes(next()),
            (word, _) => panic!("{word}"),
        }
    }
    assert_eq!(all.len(), 16);
    all
}

#[test]
fn the_wire_is_what_its_declaration_says() {
    for golden in golden() {
        let mechanism = decoded(&golden.wire).unwrap();
        assert_eq!(mechanism.mechanism_type(), golden.mechanism);
        assert_eq!(encoded(&mechanism), Some(golden.wire), "{mechanism:?}");
    }
}

#[test]
#[cfg(all(target_pointer_width = "64", target_endian = "little", not(windows)))]
fn structures_are_read_and_built_as_a_c_compiler_lays_them_out() {
    for golden in golden() {
        let length = golden.parameter.len();
        let (mechanism, places) = Mechanism::from_memory(
            golden.mechanism,
            PARAMETER,
            length,
            golden.usage,
            &golden.memory,
        )
        .unwrap();
        assert_eq!(encoded(&mechanism), Some(golden.wire), "{mechanism:?}");
        let places: Vec<_> = places
            .iter()
            .map(|place| (place.address, place.length))
            .collect();
        assert_eq!(places, golden.outputs, "{mechanism:?}");

        // Built again, everything is the same except for the addresses.
        let assembly = mechanism.assemble(golden.usage, false).unwrap();
        let mut expected = golden.parameter;
        for place in assembly.pointers() {
            if Some(place.block) == assembly.root() {
                expected[place.offset..place.offset + 8].fill(0);
            }
        }
        assert_eq!(assembly.root_bytes(), expected, "{mechanism:?}");
        let mut memory = FakeMemory::default();
        let address = memory.add_assembly(&assembly);
        let again =
            Mechanism::from_memory(golden.mechanism, address, length, golden.usage, &memory);
        assert!(again.unwrap().0 == mechanism);
    }
}

#[test]
fn fields_are_found_by_their_names() {
    let of = |index: usize| decoded(&golden()[index].wire).unwrap();
    let number = |mechanism: &Mechanism, path: &str| match mechanism.parameter().field(path) {
        Some(FieldValue::Number(number)) => number,
        _ => panic!("{path} is no number"),
    };
    let gcm = of(0);
    assert_eq!(number(&gcm, "ulTagBits"), 128);
    assert!(gcm.parameter().field("pAAD") == Some(FieldValue::Bytes(b"aad")));
    assert!(gcm.parameter().field("ulTag").is_none());
    let wrap = of(6);
    assert_eq!(number(&wrap, "pOAEPParams.hashAlg"), 0x220);
    assert!(wrap.parameter().field("pOAEPParams.pSourceData") == Some(FieldValue::Null));
    let tls = of(13);
    assert!(tls.parameter().field("RandomInfo.pServerRandom") == Some(FieldValue::Bytes(b"srnd")));
    assert!(tls.parameter().field("pReturnedKeyMaterial.pIVServer") == Some(FieldValue::Room(8)));
    assert_eq!(number(&of(11), "ulPasswordLen"), 6);
    // From a client of version 3 it is known only that there is something.
    let laid_out = Mechanism::laid_out(
        number_of("CKM_AES_GCM"),
        vec![0x41; 48],
        Architecture::LITTLE_64,
    );
    assert!(laid_out.parameter().field("pIv") == Some(FieldValue::Elsewhere));
}

#[test]
fn finds_keys_mechanisms_and_templates_inside_of_structures() {
    let of = |index: usize| decoded(&golden()[index].wire).unwrap();
    let key = |handle| Ok(vec![ObjectHandle(handle)]);
    assert_eq!(of(7).named_keys(), key(0x77)); // hSaltKey
    // The key that goes into the derivation, and not the place for the new one.
    let sp800 = of(12);
    assert_eq!(sp800.named_keys(), key(0x1234));
    let templates = sp800.inner_templates();
    assert_eq!(templates.len(), 1);
    assert_eq!(templates[0].0[0].bytes(), b"name");
    assert_eq!(of(13).named_keys(), Ok(vec![])); // the handles that TLS writes
    let kip = of(14);
    assert_eq!(kip.named_keys(), key(9));
    let inner: Vec<_> = kip.inner_mechanisms();
    assert_eq!(inner.len(), 1);
    assert_eq!(inner[0].mechanism_type(), number_of("CKM_AES_CBC"));
}

#[test]
fn keys_inside_of_structures_can_be_replaced() {
    let of = |index: usize| decoded(&golden()[index].wire).unwrap();
    for (index, key) in [(7, 0x77), (12, 0x1234), (14, 9)] {
        let mut mechanism = of(index);
        let replaced = mechanism.each_key_mut(&mut |it| {
            assert_eq!(*it, ObjectHandle(key));
            *it = ObjectHandle(5);
            Ok(())
        });
        assert_eq!(replaced, Ok(()));
        assert_eq!(mechanism.named_keys(), Ok(vec![ObjectHandle(5)]));
        assert!(encoded(&mechanism).is_some_and(|wire| wire != golden()[index].wire));
    }
    let refused = of(7).each_key_mut(&mut |_| Err(CkRv::KEY_HANDLE_INVALID));
    assert_eq!(refused, Err(CkRv::KEY_HANDLE_INVALID));
}

/// Only the handles of new keys are shown, none of the numbers beside them.
#[test]
fn keys_that_a_module_made_can_be_replaced() {
    let of = |index: usize| decoded(&golden()[index].wire).unwrap();
    let number = |number| WrittenValue::Number(number);
    let bytes = || WrittenValue::Bytes(b"iv".to_vec().into());
    let tls = vec![number(1), number(2), number(0), number(4), bytes(), bytes()];
    for (index, values, keys) in [(13, tls, vec![1, 2, 4]), (12, vec![number(8)], vec![8])] {
        let mechanism = of(index);
        let mut written = Written::new(values.clone());
        let mut shown = Vec::new();
        let looked = written.each_key_mut(&mechanism, Use::Operation, &mut |key| {
            shown.push(key.0);
            key.0 += 100;
            Ok(())
        });
        assert_eq!((looked, &shown), (Ok(()), &keys));
        assert!(written != Written::new(values));
        shown.clear();
        let _ = written.each_key_mut(&mechanism, Use::Operation, &mut |key| {
            shown.push(key.0 - 100);
            Ok(())
        });
        assert_eq!(shown, keys);
        // Wrong values that a daemon may send.
        let mut more = Written::new(vec![number(1); 7]);
        let looked = more.each_key_mut(&mechanism, Use::Operation, &mut |_| Ok(()));
        assert_eq!(looked, Err(CkRv::GENERAL_ERROR));
    }
}

#[test]
fn prints_no_value() {
    let printed = format!("{:?}", decoded(&golden()[10].wire).unwrap());
    assert_eq!(printed, "CKM_PKCS5_PBKD2, CK_PKCS5_PBKD2_PARAMS2");
    let vendor = Mechanism::laid_out(
        MechanismType(0x8000_0001),
        b"secret".to_vec(),
        Architecture::host(),
    );
    assert_eq!(
        format!("{vendor:?}"),
        "0x80000001, 6 bytes, not in the table"
    );
}
