//! Tests NSS softokn, a module of version 3.0 that needs an initialization string, in a process of its own. It has
//! message functions.

use std::ffi::OsStr;

use cryptoki_sys::{
    CK_GCM_MESSAGE_PARAMS, CKA_DECRYPT, CKA_ENCRYPT, CKF_OS_LOCKING_OK, CKG_GENERATE_RANDOM,
    CKG_NO_GENERATE, CKM_AES_GCM, CKM_AES_KEY_GEN,
};
use xdr::mechanism::OutputPlace;
use xdr::{Attribute, AttributeType, Call, Input, Mechanism, Reply, Room, Template, Use};

use super::exact_module::{mechanism, parameter, written};
use super::{
    CKA_VALUE_LEN, CkRv, Command, Cryptoki, Flags, Module, ModuleOptions, Path, SessionHandle,
    Ulong,
};

const SOFTOKN: &str = "/usr/lib/x86_64-linux-gnu/libsoftokn3.so";

/// Runs `in_a_softokn_token` with a directory of its own.
#[test]
fn serves_a_softokn_token() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("softokn");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("the directory can be made");
    let this_binary = std::env::current_exe().expect("a test has a name");
    let name = concat!(module_path!(), "::in_a_softokn_token");
    let (_, name) = name.split_once("::").expect("a path begins with the crate");
    let output = Command::new(this_binary)
        .args(["--exact", name, "--ignored"].map(OsStr::new))
        .env("SOFTOKN_DIRECTORY", &directory)
        .output()
        .expect("the test binary can be run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run by serves_a_softokn_token, with a directory of its own"]
fn in_a_softokn_token() {
    let directory = std::env::var("SOFTOKN_DIRECTORY").expect("it is set");
    let load = |init_args| {
        let options = ModuleOptions {
            init_args,
            ..Default::default()
        };
        Module::load(Path::new(SOFTOKN), options).expect("softokn loads")
    };
    let begin = |module: &Module, flags| module.call(Call::C_Initialize(Flags(flags))).rv();
    let without = load(None);
    assert_eq!(begin(&without, 0), CkRv::ARGUMENTS_BAD);
    assert_eq!(begin(&without, CKF_OS_LOCKING_OK), CkRv::ARGUMENTS_BAD);

    let string = format!("configdir='sql:{directory}' certPrefix='' keyPrefix='' secmod='' flags=");
    let softokn = load(Some(string));
    assert_eq!(begin(&softokn, CKF_OS_LOCKING_OK), CkRv::OK);
    let slots = Call::C_GetSlotList(Ulong(1), Room::Buffer(9));
    let slots = result!(C_GetSlotList, softokn.call(slots)).slots;
    assert_eq!(slots.len(), 2);
    // A function of 3.0. There is no operation to cancel.
    let open = Call::C_OpenSession(slots[0], Flags(4), false);
    let session = result!(C_OpenSession, softokn.call(open)).session;
    let cancel = softokn.call(Call::C_SessionCancel(session, Flags(1 << 10)));
    assert_eq!(cancel.rv(), CkRv::OPERATION_CANCEL_FAILED);
    seals_messages(&softokn, session);
    assert_eq!(softokn.call(Call::C_Finalize()).rv(), CkRv::OK);
}

/// Messages with AES-GCM: the token makes the IVs, and both IV and tag come back.
fn seals_messages(softokn: &Module, session: SessionHandle) {
    let bytes = |number, value: &[u8]| Attribute::new(AttributeType(number), value.to_vec());
    let key = Call::C_GenerateKey(
        session,
        Some(mechanism(CKM_AES_KEY_GEN)),
        Some(Template(vec![
            bytes(CKA_VALUE_LEN, &16_u64.to_ne_bytes()),
            bytes(CKA_ENCRYPT, &[1]),
            bytes(CKA_DECRYPT, &[1]),
        ])),
    );
    let key = result!(C_GenerateKey, softokn.call(key));
    let key = key.object.expect("a key");

    let begin = Call::C_MessageEncryptInit(session, Some(mechanism(CKM_AES_GCM)), key);
    assert_eq!(softokn.call(begin).rv(), CkRv::OK);
    let (aad, text) = (Input::Bytes(b"aad"), Input::Bytes(b"plaintext"));
    let seal = || {
        let (mut iv, mut tag) = ([0; 12], [0; 16]);
        let (parameter, places) = gcm(&mut iv, &mut tag, CKG_GENERATE_RANDOM);
        let call = Call::C_EncryptMessage(session, parameter, aad, text, Room::Buffer(100));
        let sealed = result!(C_EncryptMessage, softokn.call(call));
        assert_eq!((sealed.rv, sealed.data.len()), (CkRv::OK, 9));
        let written = written(&sealed.written, &places);
        (sealed.data.to_vec(), written[0].clone(), written[1].clone())
    };
    let (first, second) = (seal(), seal());
    assert!(first.1 != second.1 && first.1 != [0; 12]);
    let end = softokn.call(Call::C_MessageEncryptFinal(session));
    assert_eq!(end.rv(), CkRv::OK);

    let begin = Call::C_MessageDecryptInit(session, Some(mechanism(CKM_AES_GCM)), key);
    assert_eq!(softokn.call(begin).rv(), CkRv::OK);
    let open = |(text, mut iv, mut tag): (Vec<u8>, Vec<u8>, Vec<u8>)| {
        let (parameter, _) = gcm(&mut iv, &mut tag, CKG_NO_GENERATE);
        let text = Input::Bytes(&text);
        let call = Call::C_DecryptMessage(session, parameter, aad, text, Room::Buffer(100));
        let opened = result!(C_DecryptMessage, softokn.call(call));
        (opened.rv, opened.data.to_vec())
    };
    let forged = (first.0.clone(), first.1.clone(), second.2.clone());
    assert_eq!(open(first), (CkRv::OK, b"plaintext".to_vec()));
    assert_eq!(open(second), (CkRv::OK, b"plaintext".to_vec()));
    assert_ne!(open(forged).0, CkRv::OK);
}

fn gcm(iv: &mut [u8], tag: &mut [u8], generator: u64) -> (Mechanism, Vec<OutputPlace>) {
    iv.as_mut_ptr().expose_provenance();
    tag.as_mut_ptr().expose_provenance();
    let mut structure = CK_GCM_MESSAGE_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: 12,
        ulIvFixedBits: 0,
        ivGenerator: generator,
        pTag: tag.as_mut_ptr(),
        ulTagBits: 128,
    };
    parameter(CKM_AES_GCM, Use::Message, &mut structure)
}
