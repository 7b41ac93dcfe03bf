//! Tests mechanisms from both ends: as the application, whose C structures are read, and as the module, which follows
//! the pointers that were built for it. No foreign code runs, so that Miri can check it.

use std::ptr::{read_unaligned, with_exposed_provenance, with_exposed_provenance_mut};

use cryptoki_sys::*;
use xdr::MechanismType;
use xdr::mechanism::{Memory, OutputPlace};

use super::*;

/// The memory of this process.
struct Process;

impl Memory for Process {
    fn read(&self, address: usize, length: usize) -> Result<Vec<u8>, CkRv> {
        let first = with_exposed_provenance::<u8>(address);
        let byte = |offset| {
            // SAFETY: the tests pass structures whose pointers and lengths are right.
            let place = unsafe { first.add(offset) };
            // SAFETY: as above.
            unsafe { read_unaligned(place) }
        };
        Ok((0..length).map(byte).collect())
    }
}

/// Returns the C address of something that lives as long as the test.
fn c<T, C>(value: &mut [T]) -> *mut C {
    with_exposed_provenance_mut(value.as_mut_ptr().expose_provenance())
}

/// Passes an application's parameter through the client and then through `bindings`.
fn through<T>(mechanism: CK_MECHANISM_TYPE, parameter: T) -> (CMechanism, Vec<OutputPlace>) {
    let mut parameter = [parameter];
    let address = c::<T, u8>(&mut parameter).addr();
    let mechanism = MechanismType(wide(mechanism));
    let size = size_of::<T>();
    let (mechanism, places) =
        Mechanism::from_memory(mechanism, address, size, Use::Operation, &Process).unwrap();
    (
        CMechanism::new(&mechanism, Use::Operation, &[]).unwrap(),
        places,
    )
}

/// Returns the structure that the module gets.
fn received<T>(mechanism: &mut CMechanism) -> *mut T {
    // SAFETY: `as_ptr` is the address of a CK_MECHANISM that lives.
    let mechanism = unsafe { mechanism.as_ptr().read() };
    assert_eq!(mechanism.ulParameterLen as usize, size_of::<T>());
    mechanism.pParameter.cast()
}

fn bytes(first: *mut CK_BYTE, length: CK_ULONG) -> Vec<u8> {
    // SAFETY: the tests ask for as many bytes as the structure says.
    unsafe { std::slice::from_raw_parts(first, length as usize) }.to_vec()
}

#[test]
fn a_module_finds_the_applications_data_and_its_iv_comes_back() {
    let (mut iv, mut aad) = ([0; 12], *b"header");
    let parameter = CK_GCM_PARAMS {
        pIv: c(&mut iv),
        ulIvLen: 12,
        ulIvBits: 96,
        pAAD: c(&mut aad),
        ulAADLen: 6,
        ulTagBits: 128,
    };
    let (mut mechanism, places) = through(CKM_AES_GCM, parameter);
    // SAFETY: a structure that lives as long as the mechanism.
    let got = unsafe { received::<CK_GCM_PARAMS>(&mut mechanism).read() };
    assert_eq!(bytes(got.pIv, got.ulIvLen), [0; 12]);
    assert_eq!(bytes(got.pAAD, got.ulAADLen), b"header");
    assert_eq!((got.ulIvBits, got.ulTagBits), (96, 128));
    assert!(got.pIv != parameter.pIv && got.pAAD != parameter.pAAD);

    let untouched = mechanism.written(CkRv::OK);
    assert!(untouched.changes(&places, &Process).unwrap().is_empty());
    for index in 0..12 {
        // SAFETY: the module has room for 12 bytes.
        let place = unsafe { got.pIv.add(index) };
        // SAFETY: as above.
        unsafe { place.write(7) };
    }
    let changes = mechanism.written(CkRv::OK).changes(&places, &Process);
    let changes = changes.unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].address, parameter.pIv.addr());
    assert_eq!(*changes[0].bytes, [7; 12]);
}

#[test]
fn a_module_follows_structures_in_structures_and_makes_keys() {
    let (mut label, mut name) = (*b"label", *b"name");
    // CK_SP800_108_COUNTER_FORMAT with its padding: CK_FALSE, then 32 bits.
    let mut counter: [CK_ULONG; 2] = [0, 32];
    let mut data = [
        CK_PRF_DATA_PARAM {
            type_: CK_SP800_108_ITERATION_VARIABLE,
            pValue: c(&mut counter),
            ulValueLen: size_of::<CK_SP800_108_COUNTER_FORMAT>() as CK_ULONG,
        },
        CK_PRF_DATA_PARAM {
            type_: CK_SP800_108_BYTE_ARRAY,
            pValue: c(&mut label),
            ulValueLen: 5,
        },
    ];
    let mut template = [CK_ATTRIBUTE {
        type_: CKA_LABEL,
        pValue: c(&mut name),
        ulValueLen: 4,
    }];
    let mut key: [CK_OBJECT_HANDLE; 1] = [0];
    let mut derived = [CK_DERIVED_KEY {
        pTemplate: c(&mut template),
        ulAttributeCount: 1,
        phKey: c(&mut key),
    }];
    let parameter = CK_SP800_108_KDF_PARAMS {
        prfType: CKM_SHA256_HMAC,
        ulNumberOfDataParams: 2,
        pDataParams: c(&mut data),
        ulAdditionalDerivedKeys: 1,
        pAdditionalDerivedKeys: c(&mut derived),
    };
    let (mut mechanism, places) = through(CKM_SP800_108_COUNTER_KDF, parameter);
    // SAFETY: a structure that lives as long as the mechanism.
    let got = unsafe { received::<CK_SP800_108_KDF_PARAMS>(&mut mechanism).read() };
    // SAFETY: an array of two, as the structure says.
    let data = unsafe { got.pDataParams.cast::<[CK_PRF_DATA_PARAM; 2]>().read() };
    // SAFETY: the structure that belongs to the type.
    let counter = unsafe { data[0].pValue.cast::<CK_SP800_108_COUNTER_FORMAT>().read() };
    assert_eq!(counter.ulWidthInBits, 32);
    assert_eq!(
        data[0].ulValueLen as usize,
        size_of::<CK_SP800_108_COUNTER_FORMAT>()
    );
    assert_eq!(bytes(data[1].pValue.cast(), data[1].ulValueLen), b"label");
    // SAFETY: one structure, as the count says.
    let derived = unsafe { got.pAdditionalDerivedKeys.read() };
    // SAFETY: one attribute, as the count says.
    let attribute = unsafe { derived.pTemplate.read() };
    assert_eq!(
        bytes(attribute.pValue.cast(), attribute.ulValueLen),
        b"name"
    );
    // SAFETY: room for one handle.
    unsafe { derived.phKey.write(77) };

    let written = mechanism.written(CkRv::OK);
    let changes = written.changes(&places, &Process).unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].address, (&raw const key).addr());
    let handle: CK_ULONG = 77;
    assert_eq!(*changes[0].bytes, handle.to_ne_bytes());
}

#[test]
fn the_length_of_an_output_is_the_modules_and_the_room_the_applications() {
    let (mut output, mut length) = ([9; 40], [40 as CK_ULONG]);
    let (mut seed, mut label) = (*b"seed", *b"label");
    let parameter = CK_TLS_PRF_PARAMS {
        pSeed: c(&mut seed),
        ulSeedLen: 4,
        pLabel: c(&mut label),
        ulLabelLen: 5,
        pOutput: c(&mut output),
        pulOutputLen: c(&mut length),
    };
    for (told, wanted) in [(12, 12), (40, 40), (41, 40), (CK_ULONG::MAX, 40), (0, 0)] {
        let (mut mechanism, places) = through(CKM_TLS_PRF, parameter);
        // SAFETY: a structure that lives as long as the mechanism.
        let got = unsafe { received::<CK_TLS_PRF_PARAMS>(&mut mechanism).read() };
        assert_eq!(bytes(got.pOutput, 40), [0; 40]); // what the application has there is not sent
        // SAFETY: the length that belongs to the output.
        unsafe { got.pulOutputLen.write(told) };
        let written = mechanism.written(CkRv::OK);
        let changes = written.changes(&places, &Process).unwrap();
        let output = changes
            .iter()
            .find(|change| change.address == parameter.pOutput.addr());
        assert_eq!(output.map_or(0, |change| change.bytes.len()), wanted);
        // A call that failed has not filled the room.
        let failed = mechanism.written(CkRv::BUFFER_TOO_SMALL);
        let changes = failed.changes(&places, &Process).unwrap();
        assert!(
            changes
                .iter()
                .all(|change| change.address != parameter.pOutput.addr())
        );
    }
}

#[test]
fn null_and_empty_and_lengths_beside_null_reach_the_module_as_they_were() {
    let mechanism = |address, length| {
        let number = MechanismType(wide(CKM_AES_CBC));
        let (mechanism, _) =
            Mechanism::from_memory(number, address, length, Use::Operation, &Process).unwrap();
        let mut mechanism = CMechanism::new(&mechanism, Use::Operation, &[]).unwrap();
        // SAFETY: `as_ptr` is the address of a CK_MECHANISM that lives.
        let c = unsafe { mechanism.as_ptr().read() };
        (c.pParameter.is_null(), c.ulParameterLen)
    };
    assert_eq!(mechanism(0, 0), (true, 0));
    assert_eq!(mechanism(0, 16), (true, 16));
    assert_eq!(mechanism(1, 0), (false, 0)); // an address that nothing may be read from
    let mut iv = [0_u8; 16];
    assert_eq!(mechanism(c::<u8, u8>(&mut iv).addr(), 16), (false, 16));

    let parameter = CK_ECDH1_DERIVE_PARAMS {
        kdf: CKD_NULL,
        ulSharedDataLen: 3,
        pSharedData: null_mut(),
        ulPublicDataLen: 0,
        pPublicData: c(&mut iv),
    };
    let (mut mechanism, _) = through(CKM_ECDH1_DERIVE, parameter);
    // SAFETY: a structure that lives as long as the mechanism.
    let got = unsafe { received::<CK_ECDH1_DERIVE_PARAMS>(&mut mechanism).read() };
    assert!(got.pSharedData.is_null() && !got.pPublicData.is_null());
    assert_eq!((got.ulSharedDataLen, got.ulPublicDataLen), (3, 0));
}
