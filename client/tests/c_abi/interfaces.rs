//! Which functions there are: C_GetFunctionList, C_GetInterfaceList, C_GetInterface and the exported symbols.

use std::process::Command;
use std::ptr::{null, null_mut};

use cryptoki_sys::*;

use crate::daemon::Daemon;
use crate::harness::{Loaded, library_file, run_at};

/// The functions of PKCS#11 v3.2, in the order of its function list, written by hand.
const FUNCTIONS: &str = "
    C_Initialize C_Finalize C_GetInfo C_GetFunctionList C_GetSlotList C_GetSlotInfo C_GetTokenInfo
    C_GetMechanismList C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession
    C_CloseAllSessions C_GetSessionInfo C_GetOperationState C_SetOperationState C_Login C_Logout
    C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize C_GetAttributeValue C_SetAttributeValue
    C_FindObjectsInit C_FindObjects C_FindObjectsFinal C_EncryptInit C_Encrypt C_EncryptUpdate
    C_EncryptFinal C_DecryptInit C_Decrypt C_DecryptUpdate C_DecryptFinal C_DigestInit C_Digest
    C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit C_Sign C_SignUpdate C_SignFinal
    C_SignRecoverInit C_SignRecover C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal
    C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate C_DecryptDigestUpdate
    C_SignEncryptUpdate C_DecryptVerifyUpdate C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey
    C_DeriveKey C_SeedRandom C_GenerateRandom C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent
    C_GetInterfaceList C_GetInterface C_LoginUser C_SessionCancel C_MessageEncryptInit
    C_EncryptMessage C_EncryptMessageBegin C_EncryptMessageNext C_MessageEncryptFinal
    C_MessageDecryptInit C_DecryptMessage C_DecryptMessageBegin C_DecryptMessageNext
    C_MessageDecryptFinal C_MessageSignInit C_SignMessage C_SignMessageBegin C_SignMessageNext
    C_MessageSignFinal C_MessageVerifyInit C_VerifyMessage C_VerifyMessageBegin C_VerifyMessageNext
    C_MessageVerifyFinal C_EncapsulateKey C_DecapsulateKey C_VerifySignatureInit C_VerifySignature
    C_VerifySignatureUpdate C_VerifySignatureFinal C_GetSessionValidationFlags C_AsyncComplete
    C_AsyncGetID C_AsyncJoin C_WrapKeyAuthenticated C_UnwrapKeyAuthenticated";

#[test]
fn exports_the_functions_of_pkcs11_3_2_and_nothing_else() {
    let listed = Command::new("nm")
        .args(["-D", "--defined-only", "--format=posix"])
        .arg(library_file())
        .output()
        .expect("binutils are installed");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut exported: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let mut functions: Vec<&str> = FUNCTIONS.split_whitespace().collect();
    assert_eq!(functions.len(), 104);
    exported.sort_unstable();
    functions.sort_unstable();
    assert_eq!(exported, functions);
}

#[test]
fn interfaces_are_there_without_a_daemon() {
    run_at("interfaces", "127.0.0.1:1", &[]);
    for newest in ["3.2", "3.0", "2.40"] {
        run_at(
            "interfaces",
            "127.0.0.1:1",
            &[("PKCS11PROXY_INTERFACE", newest)],
        );
    }
    // What is offered before C_Initialize tells that the setting is wrong.
    run_at(
        "interfaces",
        "127.0.0.1:1",
        &[("PKCS11PROXY_INTERFACE", "4")],
    );
    let daemon = Daemon::start(|_| None);
    run_at(
        "interface_setting",
        &daemon.address,
        &[("PKCS11PROXY_INTERFACE", "4")],
    );
    assert_eq!(daemon.connections(), 0);
}

pub fn interface_setting() {
    let loaded = Loaded::new();
    assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_DEVICE_ERROR);
}

pub fn interfaces() {
    // SAFETY: the library's constructors do nothing.
    let library = unsafe { libloading::os::unix::Library::new(library_file()) };
    let library = library.expect("the library loads");
    // SAFETY: the functions have these types in PKCS#11.
    let list = unsafe { library.get::<CK_C_GetInterfaceList>(b"C_GetInterfaceList\0") };
    // SAFETY: as above.
    let get = unsafe { library.get::<CK_C_GetInterface>(b"C_GetInterface\0") };
    // SAFETY: as above.
    let old = unsafe { library.get::<CK_C_GetFunctionList>(b"C_GetFunctionList\0") };
    let list = list.expect("exported").expect("a function");
    let get = get.expect("exported").expect("a function");
    let old = old.expect("exported").expect("a function");

    let all = [(3, 2), (3, 0), (2, 40)];
    let expected = match std::env::var("PKCS11PROXY_INTERFACE").as_deref() {
        Ok("3.0") => &all[1..],
        Ok("2.40") => &all[2..],
        _ => &all[..],
    };
    let read = |interface: &CK_INTERFACE| {
        // SAFETY: the name of an interface of the library is a string.
        let name = unsafe { std::ffi::CStr::from_ptr(interface.pInterfaceName.cast()) };
        assert_eq!((name, interface.flags), (c"PKCS 11", 0));
        // SAFETY: each function list begins with its version.
        let version = unsafe { interface.pFunctionList.cast::<CK_VERSION>().read() };
        (version.major, version.minor)
    };

    let mut count = 77;
    // SAFETY: NULL is allowed.
    assert_eq!(unsafe { list(null_mut(), null_mut()) }, CKR_ARGUMENTS_BAD);
    // SAFETY: NULL is allowed, and a place.
    assert_eq!(unsafe { list(null_mut(), &mut count) }, CKR_OK);
    assert_eq!(count as usize, expected.len());
    let mut interfaces = [CK_INTERFACE::default(); 4];
    for room in 0..=4 {
        let mut count = room;
        let places = interfaces.as_mut_ptr();
        // SAFETY: there is room for four.
        let rv = unsafe { list(places, &mut count) };
        let fits = room as usize >= expected.len();
        assert_eq!(rv, if fits { CKR_OK } else { CKR_BUFFER_TOO_SMALL });
        assert_eq!(count as usize, expected.len());
        let filled = if fits { expected.len() } else { 0 };
        assert!(
            interfaces[filled..]
                .iter()
                .all(|it| it.pFunctionList.is_null())
        );
        let listed: Vec<_> = interfaces[..filled].iter().map(read).collect();
        assert!(listed.is_empty() || listed == expected);
        interfaces = [CK_INTERFACE::default(); 4];
    }

    let ask = |name: *const u8, version: Option<(u8, u8)>, flags| {
        let mut wanted = version.map(|(major, minor)| CK_VERSION { major, minor });
        let version = wanted
            .as_mut()
            .map_or(null_mut(), |version| &raw mut *version);
        let mut interface = null_mut();
        // SAFETY: a string or NULL, a version or NULL, a place.
        match unsafe { get(name.cast_mut(), version, &mut interface, flags) } {
            // SAFETY: with CKR_OK, an interface of the library.
            CKR_OK => Ok(read(unsafe { &*interface })),
            rv => {
                assert!(interface.is_null());
                Err(rv)
            }
        }
    };
    let standard: *const u8 = c"PKCS 11".as_ptr().cast();
    let failed = Err(CKR_FUNCTION_FAILED);
    for name in [null(), standard] {
        assert_eq!(ask(name, None, 0), Ok(expected[0]));
        assert_eq!(ask(name, None, CKF_INTERFACE_FORK_SAFE), failed);
        for version in all {
            let offered = expected.contains(&version);
            let answer = if offered { Ok(version) } else { failed };
            assert_eq!(ask(name, Some(version), 0), answer);
        }
        for version in [(3, 1), (2, 20), (2, 4), (0, 0)] {
            assert_eq!(ask(name, Some(version), 0), failed);
        }
    }
    for name in [c"Vendor", c"", c"PKCS 1", c"PKCS 11 "] {
        assert_eq!(ask(name.as_ptr().cast(), None, 0), failed);
    }
    // SAFETY: NULL is allowed.
    let bad = unsafe { get(null_mut(), null_mut(), null_mut(), 0) };
    assert_eq!(bad, CKR_ARGUMENTS_BAD);
    // SAFETY: NULL is allowed.
    assert_eq!(unsafe { old(null_mut()) }, CKR_ARGUMENTS_BAD);

    let mut functions = null_mut();
    // SAFETY: a place.
    assert_eq!(unsafe { old(&mut functions) }, CKR_OK);
    // SAFETY: with CKR_OK, the list of the library.
    let version = unsafe { (*functions).version };
    assert_eq!((version.major, version.minor), (2, 40));
}
