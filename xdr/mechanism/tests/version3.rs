//! Tests parameters of version 3, which clients of any architecture send as the bytes of their C structures.

use cryptoki_sys::*;

#[allow(unused_imports)]
use crate::codec::{DecodeError, Decoder, Encoder, Wire as _};
use crate::mechanism::notation::{Kind, Layout};
use crate::mechanism::*;
use crate::mechanism_names::MECHANISMS;
use crate::word_size::wide;

const CLIENTS: [Architecture; 4] = [
    Architecture::LITTLE_64,
    Architecture::LITTLE_32,
    Architecture::BIG_64,
    Architecture::BIG_32,
];

fn by_host(mechanism: CK_MECHANISM_TYPE, parameter: Vec<u8>) -> Mechanism {
    let mechanism = MechanismType(wide(mechanism));
    Mechanism::laid_out(mechanism, parameter, Architecture::host())
}

#[test]
fn finds_the_keys_that_a_parameter_names() {
    let word = |number| narrow(number).to_ne_bytes().to_vec();
    let named = |kind, parameter| by_host(kind, parameter).named_keys();
    let key = Ok(vec![ObjectHandle(7)]);
    assert_eq!(named(CKM_CONCATENATE_BASE_AND_KEY, word(7)), key);
    let long = [word(7), word(8)].concat();
    let refused = Err(CkRv::MECHANISM_PARAM_INVALID);
    assert_eq!(named(CKM_CONCATENATE_BASE_AND_KEY, long), refused);
    assert_eq!(named(CKM_CONCATENATE_BASE_AND_KEY, vec![]), Ok(vec![]));
    assert_eq!(named(CKM_EXTRACT_KEY_FROM_KEY, word(7)), Ok(vec![]));
    let mut hkdf = vec![0; size_of::<CK_HKDF_PARAMS>()];
    let place = std::mem::offset_of!(CK_HKDF_PARAMS, hSaltKey);
    hkdf[place..place + word(7).len()].copy_from_slice(&word(7));
    assert_eq!(named(CKM_HKDF_DERIVE, hkdf.clone()), key);
    let mut gost = vec![0; size_of::<CK_GOSTR3410_KEY_WRAP_PARAMS>()];
    let place = std::mem::offset_of!(CK_GOSTR3410_KEY_WRAP_PARAMS, hKey);
    gost[place..place + word(7).len()].copy_from_slice(&word(7));
    assert_eq!(named(CKM_GOSTR3410_KEY_WRAP, gost), key);
    // A key is found even beside an address, so which rule refuses first does not depend on the address.
    hkdf[std::mem::offset_of!(CK_HKDF_PARAMS, pSalt)] = 1;
    assert_eq!(named(CKM_HKDF_DERIVE, hkdf), key);
}

fn layouts(mechanism: u64) -> Vec<&'static Layout> {
    parameters::layouts(MechanismType(mechanism), Use::Operation)
}

fn is_pointer(kind: Kind) -> bool {
    matches!(kind, Kind::Pointer(_))
}

/// The memory that a module gets.
fn built(mechanism: u64, parameter: Vec<u8>, client: Architecture) -> Option<Vec<u8>> {
    let mechanism = Mechanism::laid_out(MechanismType(mechanism), parameter, client);
    let assembly = mechanism.assemble(Use::Operation, false).ok()?;
    assert!(assembly.pointers().is_empty());
    Some(assembly.root_bytes())
}

/// The bytes of the C structure.
fn pass(mechanism: u64, parameter: Vec<u8>, client: Architecture) -> Option<Vec<u8>> {
    let mechanism = Mechanism::laid_out(MechanismType(mechanism), parameter, client);
    let passed = mechanism.parameter.for_module(false).ok()?;
    Some(passed.into_owned())
}

#[test]
fn lets_no_byte_of_a_client_become_an_address() {
    for &(name, mechanism) in MECHANISMS {
        for client in CLIENTS {
            for length in 1..=256 {
                let Some(passed) = pass(mechanism, vec![0x41; length], client) else {
                    continue;
                };
                for layout in layouts(mechanism) {
                    for (field, place) in layout.places(Abi::HOST) {
                        let shown = passed.get(place).unwrap_or_default();
                        assert!(
                            !is_pointer(field.kind) || shown.iter().all(|&byte| byte == 0),
                            "{name}, {length} bytes from {client:?}"
                        );
                    }
                }
            }
        }
    }
}

/// Changes each byte of each structure in turn: only those of numbers and IVs may have any value.
#[test]
fn refuses_every_byte_of_a_pointer_and_of_its_length() {
    for &(name, mechanism) in MECHANISMS {
        for client in CLIENTS {
            for (layout, abi) in layouts(mechanism).into_iter().flat_map(|layout| {
                let abis = Abi::candidates(client).iter();
                abis.map(move |abi| (layout, *abi))
            }) {
                let null = vec![0; layout.size(abi)];
                assert!(
                    pass(mechanism, null.clone(), client).is_some(),
                    "{name} {abi:?}"
                );
                for (field, place) in layout.places(abi) {
                    for position in place {
                        let mut parameter = null.clone();
                        parameter[position] = 0x41;
                        let passed = pass(mechanism, parameter.clone(), client);
                        assert_eq!(passed, built(mechanism, parameter, client), "{name}");
                        let shows = is_pointer(field.kind) || field.kind == Kind::Length;
                        assert_eq!(passed.is_none(), shows, "{name} {abi:?} {position}");
                    }
                }
                let longer = pass(mechanism, vec![0; 300], client);
                assert_eq!(longer.is_none(), layout.has_pointers(), "{name} {abi:?}");
            }
        }
    }
}

/// Converts what a client of `from` laid out to the layout of `to`.
fn rebuilt(mechanism: CK_MECHANISM_TYPE, parameter: &[u8], from: Architecture, to: Abi) -> Vec<u8> {
    let mechanism = MechanismType(wide(mechanism));
    match Mechanism::laid_out(mechanism, parameter.to_vec(), from).parameter {
        Parameter::Structure(structure) => structure.lay_out(to).expect("nothing is elsewhere"),
        _ => panic!("no structure"),
    }
}

#[test]
fn converts_numbers_between_every_two_architectures() {
    for (from, to) in CLIENTS
        .iter()
        .flat_map(|from| CLIENTS.map(|to| (*from, Abi::of_client(to))))
    {
        let lay_out = |abi: Abi| {
            let mut parameter = vec![0; abi.word * 5];
            for field in parameter.chunks_exact_mut(abi.word).take(3) {
                abi.write(0x8765_4321, field);
            }
            parameter
        };
        let sent = lay_out(Abi::of_client(from));
        let rebuilt = rebuilt(CKM_RSA_PKCS_OAEP, &sent, from, to);
        assert_eq!(rebuilt, lay_out(to), "{from:?} {to:?}");
    }
}

#[test]
fn converts_counters_and_leaves_their_blocks_alone() {
    let mut parameter = vec![0, 0, 0, 128];
    parameter.extend(0..16);
    let to = Abi::of_client(Architecture::LITTLE_64);
    let mut expected = vec![128, 0, 0, 0, 0, 0, 0, 0];
    expected.extend(0..16);
    let rebuilt = rebuilt(CKM_AES_CTR, &parameter, Architecture::BIG_32, to);
    assert_eq!(rebuilt, expected);
}

#[test]
fn takes_the_packed_structures_of_a_windows_client() {
    let mut parameter = vec![0; 4 * 3 + 8 + 4];
    parameter[0] = 0x50; // CKM_SHA256 is 0x250
    parameter[1] = 0x02;
    let to = Abi::of_client(Architecture::LITTLE_64);
    let mut expected = vec![0; 40];
    expected[..2].copy_from_slice(&[0x50, 0x02]);
    let rebuilt = rebuilt(CKM_RSA_PKCS_OAEP, &parameter, Architecture::LITTLE_32, to);
    assert_eq!(rebuilt, expected);
}

#[test]
fn passes_an_iv_and_a_number_of_any_length_for_the_module_to_judge() {
    for mechanism in [
        CKM_AES_CBC,
        CKM_AES_CTR,
        CKM_SHA_1_HMAC_GENERAL,
        CKM_DH_PKCS_DERIVE,
    ] {
        for length in [0, 1, 3, 8, 24, 300] {
            for client in CLIENTS {
                let sent = vec![0x41; length];
                let passed = pass(wide(mechanism), sent.clone(), client);
                // A structure of another client is converted.
                let same = passed.as_ref().is_some_and(|passed| *passed == sent);
                assert!(same || client != Architecture::host() && passed.is_some());
            }
        }
    }
}

#[test]
fn refuses_the_parameter_of_an_unknown_mechanism_unless_it_is_flat() {
    let refused = Err(CkRv::MECHANISM_PARAM_INVALID);
    let judge = |mechanism, parameter: &[u8], is_flat| {
        let mechanism = by_host(narrow(mechanism), parameter.to_vec());
        mechanism.parameter.for_module(is_flat).map(Cow::into_owned)
    };
    for mechanism in [0x8000_0000, 0x8000_0001, 0x7fff_ffff, 0x1e] {
        assert_eq!(judge(mechanism, &[], false), Ok(vec![]));
        assert_eq!(judge(mechanism, &[0], false), refused);
        assert_eq!(judge(mechanism, &[0], true), Ok(vec![0]));
    }
    // The site's list of flat mechanisms does not apply to what the standard says is a pointer.
    assert_eq!(judge(wide(CKM_AES_GCM), &[0x41; 48], true), refused);
    assert_eq!(judge(wide(CKM_AES_GCM), &[0x41; 7], true), refused);
}

#[test]
fn what_was_never_read_reaches_no_module() {
    let mechanism = Mechanism::unread(MechanismType(wide(CKM_AES_CBC)), vec![0; 16]);
    let refused = Err(CkRv::MECHANISM_PARAM_INVALID);
    assert!(mechanism.parameter.for_module(true) == refused);
}
