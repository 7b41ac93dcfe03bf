//! Tests what the library refuses before it sends a call: calls before C_Initialize, and bad arguments.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cryptoki_sys::*;

use crate::daemon::Daemon;
use crate::harness::{Loaded, NOT_INITIALIZED, get_info, run};

#[test]
fn nothing_happens_before_c_initialize() {
    let daemon = Daemon::start(|_| None);
    run("before_initialize", &daemon);
    assert_eq!(daemon.connections(), 0);
}

pub fn before_initialize() {
    let loaded = Loaded::new();
    assert_eq!(
        call!(loaded.C_GetFunctionList(null_mut())),
        CKR_ARGUMENTS_BAD
    );
    let mut length = 77;
    let mut buffer = [0u8; 8];
    for rv in [
        get_info(&loaded),
        call!(loaded.C_Finalize(null_mut())),
        call!(loaded.C_GetInfo(null_mut())),
        call!(loaded.C_GetAttributeValue(1, 2, null_mut(), 0)),
        call!(loaded.C_Sign(1, null_mut(), 0, buffer.as_mut_ptr(), &mut length)),
        call!(loaded.C_WaitForSlotEvent(0, null_mut(), null_mut())),
        call!(loaded.C_GetFunctionStatus(1)),
    ] {
        assert_eq!(rv, NOT_INITIALIZED);
    }
    assert_eq!(length, 77);
}

#[test]
fn bad_arguments_are_refused_before_any_call() {
    let busy = Arc::new(AtomicUsize::new(0));
    let calls = busy.clone();
    let daemon = Daemon::of_version3(move |_| {
        calls.fetch_add(1, Ordering::SeqCst);
        None
    });
    run("arguments", &daemon);
    // C_SetupArch, C_LoadModule, C_Initialize, C_Finalize and the nine valid calls. Each operation with an input that
    // is too long is ended by two calls: six operations for each of three lengths.
    assert_eq!(busy.load(Ordering::SeqCst), 4 + 9 + 2 * 6 * 3);
}

pub fn arguments() {
    let loaded = Loaded::new();
    let mut init = CK_C_INITIALIZE_ARGS::default();
    init.pReserved = (&raw mut init).cast();
    let initialize = |arguments: &mut CK_C_INITIALIZE_ARGS| {
        let arguments: *mut CK_C_INITIALIZE_ARGS = arguments;
        call!(loaded.C_Initialize(arguments.cast()))
    };
    assert_eq!(initialize(&mut init), CKR_ARGUMENTS_BAD);
    unsafe extern "C" fn lock(_: *mut c_void) -> CK_RV {
        CKR_OK
    }
    init.pReserved = null_mut();
    init.LockMutex = Some(lock);
    assert_eq!(initialize(&mut init), CKR_ARGUMENTS_BAD);
    init.LockMutex = None;
    init.flags = CKF_OS_LOCKING_OK;
    assert_eq!(initialize(&mut init), CKR_OK);
    assert_eq!(initialize(&mut init), CKR_CRYPTOKI_ALREADY_INITIALIZED);

    let reserved = (&raw mut init).cast::<c_void>();
    let mut number: CK_ULONG = 0;
    let mut byte = 1u8;
    let (number, byte) = (&raw mut number, &raw mut byte);
    let mut aes = CK_MECHANISM {
        mechanism: CKM_AES_CBC,
        pParameter: null_mut(),
        ulParameterLen: 16,
    };
    let without_parameter = &raw mut aes;
    let mut parameter = [0u8; 2049];
    let mut long = CK_MECHANISM {
        mechanism: CKM_AES_CBC,
        pParameter: parameter.as_mut_ptr().cast(),
        ulParameterLen: 2049,
    };
    let mut oaep = CK_RSA_PKCS_OAEP_PARAMS {
        hashAlg: CKM_SHA_1,
        mgf: CKG_MGF1_SHA1,
        source: CKZ_DATA_SPECIFIED,
        pSourceData: byte.cast(),
        ulSourceDataLen: 1,
    };
    let mut with_address = CK_MECHANISM {
        mechanism: CKM_RSA_PKCS_OAEP,
        pParameter: (&raw mut oaep).cast(),
        ulParameterLen: size_of::<CK_RSA_PKCS_OAEP_PARAMS>() as CK_ULONG,
    };
    let mut inner = CK_ATTRIBUTE::default();
    let mut nested = CK_ATTRIBUTE {
        type_: CKA_WRAP_TEMPLATE,
        pValue: (&raw mut inner).cast(),
        ulValueLen: size_of::<CK_ATTRIBUTE>() as CK_ULONG,
    };
    let mut fine = CK_MECHANISM {
        mechanism: CKM_SHA256,
        pParameter: null_mut(),
        ulParameterLen: 0,
    };
    let fine = &raw mut fine;

    let refused = [
        call!(loaded.C_Finalize(reserved)),
        call!(loaded.C_GetInfo(null_mut())),
        call!(loaded.C_GetSlotList(1, null_mut(), null_mut())),
        call!(loaded.C_GetSlotInfo(0, null_mut())),
        call!(loaded.C_GetTokenInfo(0, null_mut())),
        call!(loaded.C_GetMechanismList(0, null_mut(), null_mut())),
        call!(loaded.C_GetMechanismInfo(0, 0, null_mut())),
        call!(loaded.C_InitToken(0, byte, 1, null_mut())),
        call!(loaded.C_OpenSession(0, 4, null_mut(), None, null_mut())),
        call!(loaded.C_GetSessionInfo(1, null_mut())),
        call!(loaded.C_GetOperationState(1, byte, null_mut())),
        call!(loaded.C_SetOperationState(1, null_mut(), 1, 0, 0)),
        call!(loaded.C_Login(1, 1, null_mut(), 4)),
        call!(loaded.C_CreateObject(1, null_mut(), 1, number)),
        call!(loaded.C_CreateObject(1, null_mut(), 0, null_mut())),
        call!(loaded.C_CopyObject(1, 2, null_mut(), 1, number)),
        call!(loaded.C_CopyObject(1, 2, null_mut(), 0, null_mut())),
        call!(loaded.C_GetObjectSize(1, 2, null_mut())),
        call!(loaded.C_GetAttributeValue(1, 2, null_mut(), 0)),
        call!(loaded.C_SetAttributeValue(1, 2, null_mut(), 0)),
        call!(loaded.C_FindObjectsInit(1, null_mut(), 1)),
        call!(loaded.C_FindObjects(1, null_mut(), 1, number)),
        call!(loaded.C_FindObjects(1, number, 1, null_mut())),
        call!(loaded.C_EncryptInit(1, null_mut(), 2)),
        call!(loaded.C_EncryptInit(1, without_parameter, 2)),
        call!(loaded.C_DigestInit(1, null_mut())),
        call!(loaded.C_Encrypt(1, byte, 1, byte, null_mut())),
        call!(loaded.C_Encrypt(1, null_mut(), 1, byte, number)),
        call!(loaded.C_EncryptFinal(1, byte, null_mut())),
        call!(loaded.C_DigestUpdate(1, null_mut(), 1)),
        call!(loaded.C_Verify(1, null_mut(), 1, byte, 1)),
        call!(loaded.C_Verify(1, byte, 1, null_mut(), 1)),
        call!(loaded.C_VerifyFinal(1, null_mut(), 1)),
        call!(loaded.C_SeedRandom(1, null_mut(), 1)),
        call!(loaded.C_GenerateKey(1, null_mut(), null_mut(), 0, number)),
        call!(loaded.C_GenerateKey(1, fine, null_mut(), 1, number)),
        call!(loaded.C_GenerateKey(1, fine, null_mut(), 0, null_mut())),
        call!(loaded.C_GenerateKeyPair(1, fine, null_mut(), 0, null_mut(), 0, number, null_mut())),
        call!(loaded.C_GenerateKeyPair(1, fine, null_mut(), 0, null_mut(), 0, null_mut(), number)),
        call!(loaded.C_WrapKey(1, null_mut(), 2, 3, byte, number)),
        call!(loaded.C_WrapKey(1, fine, 2, 3, byte, null_mut())),
        call!(loaded.C_UnwrapKey(1, fine, 2, null_mut(), 1, null_mut(), 0, number)),
        call!(loaded.C_UnwrapKey(1, fine, 2, byte, 1, null_mut(), 0, null_mut())),
        call!(loaded.C_DeriveKey(1, fine, 2, null_mut(), 0, null_mut())),
        call!(loaded.C_GenerateRandom(1, null_mut(), 0)),
        call!(loaded.C_WaitForSlotEvent(1, null_mut(), null_mut())),
        call!(loaded.C_WaitForSlotEvent(1, number, reserved)),
    ];
    for (row, rv) in refused.into_iter().enumerate() {
        assert_eq!(rv, CKR_ARGUMENTS_BAD, "row {row}");
    }
    for mechanism in [&raw mut long, &raw mut with_address] {
        assert_eq!(
            call!(loaded.C_EncryptInit(1, mechanism, 2)),
            CKR_MECHANISM_PARAM_INVALID
        );
    }
    assert_eq!(
        call!(loaded.C_CreateObject(1, &mut nested, 1, number)),
        CKR_ATTRIBUTE_TYPE_INVALID
    );
    // Lengths that no record can carry: the value is not read.
    let mut label = CK_ATTRIBUTE {
        type_: CKA_LABEL,
        pValue: byte.cast(),
        ulValueLen: 0,
    };
    for length in [CK_ULONG::MAX, 0x8000_0000, 1 << 40] {
        label.ulValueLen = length;
        let refused = [
            call!(loaded.C_CreateObject(1, &mut label, 1, number)),
            call!(loaded.C_Encrypt(1, byte, length, byte, number)),
            call!(loaded.C_DigestUpdate(1, byte, length)),
            call!(loaded.C_SeedRandom(1, byte, length)),
            call!(loaded.C_DecryptUpdate(1, byte, length, byte, number)),
            call!(loaded.C_Verify(1, byte, length, byte, 1)),
            call!(loaded.C_Verify(1, byte, 1, byte, length)),
            call!(loaded.C_VerifyFinal(1, byte, length)),
            call!(loaded.C_UnwrapKey(1, fine, 2, byte, length, null_mut(), 0, number)),
            call!(loaded.C_SetOperationState(1, byte, length, 0, 0)),
            call!(loaded.C_Login(1, 1, byte, length)),
            call!(loaded.C_InitPIN(1, byte, length)),
            call!(loaded.C_SetPIN(1, byte, length, byte, 1)),
            call!(loaded.C_SetPIN(1, byte, 1, byte, length)),
        ];
        let expected = [
            CKR_ATTRIBUTE_VALUE_INVALID,
            CKR_DATA_LEN_RANGE,
            CKR_DATA_LEN_RANGE,
            CKR_DATA_LEN_RANGE,
            CKR_ENCRYPTED_DATA_LEN_RANGE,
            CKR_DATA_LEN_RANGE,
            CKR_SIGNATURE_LEN_RANGE,
            CKR_SIGNATURE_LEN_RANGE,
            CKR_WRAPPED_KEY_LEN_RANGE,
            CKR_SAVED_STATE_INVALID,
            CKR_PIN_INCORRECT,
            CKR_PIN_LEN_RANGE,
            CKR_PIN_INCORRECT,
            CKR_PIN_LEN_RANGE,
        ];
        assert_eq!(refused, expected, "{length:#x}");
    }

    // NULL where it has no meaning, and garbage that is dropped without being read.
    let mut garbage = CK_MECHANISM {
        mechanism: CKM_RSA_PKCS,
        pParameter: null_mut(),
        ulParameterLen: 99,
    };
    let accepted = [
        call!(loaded.C_InitToken(0, null_mut(), 9, [b' '; 32].as_mut_ptr())),
        call!(loaded.C_InitPIN(1, null_mut(), 9)),
        call!(loaded.C_SetPIN(1, null_mut(), 9, null_mut(), 9)),
        call!(loaded.C_Login(1, 1, null_mut(), 0)),
        call!(loaded.C_CreateObject(1, null_mut(), 0, number)),
        call!(loaded.C_FindObjectsInit(1, null_mut(), 0)),
        call!(loaded.C_SignInit(1, &mut garbage, 2)),
        call!(loaded.C_DigestUpdate(1, null_mut(), 0)),
        call!(loaded.C_Encrypt(1, null_mut(), 0, byte, number)),
    ];
    assert_eq!(accepted, [CKR_OK; 9]);
    assert_eq!(garbage.ulParameterLen, 99);
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
    assert_eq!(call!(loaded.C_Finalize(null_mut())), NOT_INITIALIZED);
}
