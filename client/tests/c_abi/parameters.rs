//! Tests mechanism parameters with pointers: the data behind the pointers is sent, and what the module writes comes
//! back.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex};

use cryptoki_sys::*;
use xdr::codec::{Decoder, Wire};
use xdr::mechanism::FieldValue;
use xdr::mechanism::parameters::VendorTable;
use xdr::{
    Architecture, Call, CkRv, KeyResult, Mechanism, MechanismOutputResult, MechanismResult,
    ObjectHandle, Reply, SessionHandle, SessionResult, Ulong, Written,
};

use crate::daemon::{Act, Daemon};
use crate::harness::{Loaded, initialized, run, run_at};

/// Encodes, as the specification defines, what a module wrote into the memory behind pointers.
fn written(values: &[&[u8]]) -> Written {
    let mut wire = (values.len() as u32).to_be_bytes().to_vec();
    for value in values {
        wire.extend(1_u32.to_be_bytes()); // WRITTEN_BYTES
        wire.extend((value.len() as u32).to_be_bytes());
        wire.extend(*value);
        wire.extend(vec![0; value.len().next_multiple_of(4) - value.len()]);
    }
    Written::read(&mut Decoder::new(&wire, Architecture::host())).expect("well formed")
}

fn fields(mechanism: Option<&Mechanism>, names: &[&str]) -> String {
    let Some(mechanism) = mechanism else {
        return "no mechanism".to_owned();
    };
    let field = |name: &&str| match mechanism.parameter().field(name) {
        Some(FieldValue::Number(number)) => format!("{number}"),
        Some(FieldValue::Bytes(bytes)) => format!("{bytes:?}"),
        Some(FieldValue::Room(room)) => format!("room/{room}"),
        Some(FieldValue::Null) => "NULL".to_owned(),
        Some(_) => "something else".to_owned(),
        None => "nothing".to_owned(),
    };
    let fields: Vec<String> = names.iter().map(field).collect();
    format!("{mechanism:?}: {}", fields.join(", "))
}

#[test]
fn what_pointers_refer_to_crosses_in_both_directions() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = calls.clone();
    let daemon = Daemon::start(move |call| {
        let mut seen = noted.lock().expect("no panic");
        let mechanism = call.mechanism();
        let rv = CkRv::OK;
        let reply = match call {
            Call::C_EncryptInit(session, ..) => {
                let names = [
                    "pIv",
                    "ulIvLen",
                    "ulIvBits",
                    "pAAD",
                    "ulAADLen",
                    "ulTagBits",
                ];
                seen.push(fields(mechanism, &names));
                let written = match session.0 {
                    1 => written(&[&[9, 8, 7, 6]]),
                    2 => written(&[&[9, 8, 7, 6, 5]]), // one too many
                    3 => written(&[&[9, 8, 7, 6], &[5]]), // one place too many
                    _ => Written::default(),
                };
                Reply::C_EncryptInit(MechanismResult { rv, written })
            }
            Call::C_DeriveKey(..) => {
                let names = ["kdf", "pSharedData", "ulSharedDataLen", "pPublicData"];
                seen.push(fields(mechanism, &names));
                Reply::C_DeriveKey(KeyResult {
                    rv,
                    object: Some(ObjectHandle(7)),
                    ..Default::default()
                })
            }
            Call::C_OpenSession(..) => Reply::C_OpenSession(SessionResult {
                rv,
                session: SessionHandle(5),
            }),
            Call::C_EncryptMessage(_, parameter, ..) => {
                let names = ["pIv", "ulIvFixedBits", "ivGenerator", "pTag", "ulTagBits"];
                seen.push(fields(Some(parameter), &names));
                Reply::C_EncryptMessage(MechanismOutputResult {
                    rv,
                    length: Ulong(2),
                    data: vec![3, 4].into(),
                    written: written(&[&[1, 2, 3, 4], &[5; 16]]),
                })
            }
            Call::C_SignMessageBegin(_, parameter) => {
                seen.push(fields(Some(parameter), &[]));
                return None;
            }
            _ => return None,
        };
        Some(Act::Answer(Box::new(reply)))
    });
    run("parameters", &daemon);
    let expected = [
        "CKM_AES_GCM, CK_GCM_PARAMS: [1, 2, 3, 4], 4, 32, [5, 6], 2, 128",
        "CKM_AES_GCM, CK_GCM_PARAMS: [9, 8, 7, 6], 4, 32, [5, 6], 2, 128",
        "CKM_AES_GCM, CK_GCM_PARAMS: [9, 8, 7, 6], 4, 32, [5, 6], 2, 128",
        "CKM_AES_GCM, CK_GCM_PARAMS: NULL, 12, 96, NULL, 0, 128",
        "CKM_ECDH1_DERIVE, CK_ECDH1_DERIVE_PARAMS: 1, NULL, 0, [4, 5]",
        "0xffffffffffffffff, NULL with length 0: ",
        "CKM_AES_GCM, CK_GCM_MESSAGE_PARAMS: [0, 0, 0, 0], 32, 1, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, \
         0, 0, 0, 0, 0, 0], 128",
    ];
    assert_eq!(*calls.lock().expect("no panic"), expected);
}

pub fn parameters() {
    let loaded = initialized();
    let mechanism = |kind, parameter: *mut c_void, length: usize| CK_MECHANISM {
        mechanism: kind,
        pParameter: parameter,
        ulParameterLen: length as CK_ULONG,
    };
    let mut iv = [1u8, 2, 3, 4, 0xcc];
    let mut associated = [5u8, 6];
    let iv = iv.as_mut_ptr();
    let iv_is = |expected: [u8; 5]| {
        // SAFETY: the array of five bytes above.
        assert_eq!(unsafe { iv.cast::<[u8; 5]>().read() }, expected);
    };
    let mut gcm = CK_GCM_PARAMS {
        pIv: iv,
        ulIvLen: 4,
        ulIvBits: 32,
        pAAD: associated.as_mut_ptr(),
        ulAADLen: 2,
        ulTagBits: 128,
    };
    let size = size_of::<CK_GCM_PARAMS>();
    let mut encrypt = mechanism(CKM_AES_GCM, (&raw mut gcm).cast(), size);
    let begin = |session, mechanism| call!(loaded.C_EncryptInit(session, mechanism, 2));
    assert_eq!(begin(1, &mut encrypt), CKR_OK);
    iv_is([9, 8, 7, 6, 0xcc]);
    // The module wrote more than there is room for.
    for session in [2, 3] {
        assert_eq!(begin(session, &mut encrypt), CKR_DEVICE_ERROR);
        iv_is([9, 8, 7, 6, 0xcc]);
    }
    let mut generated = CK_GCM_PARAMS {
        pIv: null_mut(),
        ulIvLen: 12,
        ulIvBits: 96,
        pAAD: null_mut(),
        ulAADLen: 0,
        ulTagBits: 128,
    };
    let mut encrypt = mechanism(CKM_AES_GCM, (&raw mut generated).cast(), size);
    assert_eq!(begin(4, &mut encrypt), CKR_OK);
    // A size that no structure of the mechanism has, and one that is longer than any parameter.
    for length in [size - 1, 2 << 20] {
        let mut bytes = vec![0u8; length];
        let mut odd = mechanism(CKM_AES_GCM, bytes.as_mut_ptr().cast(), length);
        let expected = match length {
            ..1024 => CKR_MECHANISM_PARAM_INVALID,
            _ => CKR_DATA_LEN_RANGE,
        };
        assert_eq!(begin(4, &mut odd), expected);
    }

    let mut point = [4u8, 5];
    let mut ecdh = CK_ECDH1_DERIVE_PARAMS {
        kdf: CKD_NULL,
        ulSharedDataLen: 0,
        pSharedData: null_mut(),
        ulPublicDataLen: 2,
        pPublicData: point.as_mut_ptr(),
    };
    let size = size_of::<CK_ECDH1_DERIVE_PARAMS>();
    let mut derive = mechanism(CKM_ECDH1_DERIVE, (&raw mut ecdh).cast(), size);
    let mut key = 0;
    assert_eq!(
        call!(loaded.C_DeriveKey(1, &mut derive, 2, null_mut(), 0, &mut key)),
        CKR_OK
    );
    assert_eq!(key, 7);

    let mut session = 0;
    assert_eq!(
        call!(loaded.C_OpenSession(0, 4, null_mut(), None, &mut session)),
        CKR_OK
    );
    // A message without an operation, so the structure of its parameter is unknown.
    assert_eq!(
        call!(loaded.C_SignMessageBegin(session, iv.cast(), 4)),
        CKR_OK
    );
    let mut messages = mechanism(CKM_AES_GCM, null_mut(), 0);
    assert_eq!(
        call!(loaded.C_MessageEncryptInit(session, &mut messages, 2)),
        CKR_OK
    );
    let mut iv = [0u8, 0, 0, 0, 0xcc];
    let mut tag = [0u8; 17];
    let mut message = CK_GCM_MESSAGE_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: 4,
        ulIvFixedBits: 32,
        ivGenerator: CKG_GENERATE,
        pTag: tag.as_mut_ptr(),
        ulTagBits: 128,
    };
    let mut output = [1u8; 4];
    let mut length = 3;
    assert_eq!(
        call!(loaded.C_EncryptMessage(
            session,
            (&raw mut message).cast(),
            size_of::<CK_GCM_MESSAGE_PARAMS>() as CK_ULONG,
            null_mut(),
            0,
            output.as_mut_ptr(),
            2,
            output.as_mut_ptr(),
            &mut length
        )),
        CKR_OK
    );
    assert_eq!((length, output), (2, [3, 4, 1, 1]));
    assert_eq!(iv, [1, 2, 3, 4, 0xcc]);
    assert_eq!((tag[..16].to_vec(), tag[16]), (vec![5; 16], 0));
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
}

/// Returns the example of the documentation.
fn description() -> &'static str {
    let text = include_str!("../../../docs/mechanisms.md");
    let (_, rest) = text.split_once("```toml\n").expect("an example");
    rest.split_once("```").expect("its end").0
}

/// A file that is removed when this is dropped.
struct TemporaryFile(std::path::PathBuf);

impl TemporaryFile {
    fn new(content: &str) -> TemporaryFile {
        let name = format!("p11client-{}-{}.toml", std::process::id(), content.len());
        let file = TemporaryFile(std::env::temp_dir().join(name));
        std::fs::write(&file.0, content).expect("a writable folder");
        file
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_vendors_mechanism_crosses_by_its_description() {
    let table = VendorTable::parse("mechanisms.toml", description()).expect("the example is good");
    xdr::parameters::install(table);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = calls.clone();
    let daemon = Daemon::start(move |call| {
        let Call::C_EncryptInit(_, mechanism, _) = call else {
            return None;
        };
        let names = ["ulVersion", "pNonce", "pTag", "ulTagBits"];
        let mut seen = noted.lock().expect("no panic");
        seen.push(fields(mechanism.as_ref(), &names));
        let (rv, written) = (CkRv::OK, written(&[&[9, 8], &[7; 16]]));
        let reply = Reply::C_EncryptInit(MechanismResult { rv, written });
        Some(Act::Answer(Box::new(reply)))
    });
    let run = |content: &str, expected: &str| {
        let file = TemporaryFile::new(content);
        let path = file.0.to_str().expect("a path of text");
        let variables = [
            ("PKCS11PROXY_MECHANISMS_FILE", path),
            ("EXPECTED", expected),
        ];
        run_at("vendor_parameters", &daemon.address, &variables);
    };
    run(description(), "good");
    run("[[structure]]\nname = 5\n", "bad");
    let expected = "0x80010001, CK_ACME_SEAL_PARAMS: 1, [1, 2], room/16, 128";
    assert_eq!(*calls.lock().expect("no panic"), [expected, expected]);
}

/// Opening a pipe would wait for its writer.
#[test]
fn a_pipe_in_the_place_of_the_description_is_an_error() {
    let name = format!("p11client-{}-pipe", std::process::id());
    let pipe = TemporaryFile(std::env::temp_dir().join(name));
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&pipe.0, mode).expect("a writable folder");
    let daemon = Daemon::start(|_| None);
    let path = pipe.0.to_str().expect("a path of text");
    let variables = [("PKCS11PROXY_MECHANISMS_FILE", path)];
    run_at("interface_setting", &daemon.address, &variables);
    assert_eq!(daemon.connections(), 0);
}

pub fn vendor_parameters() {
    let loaded = Loaded::new();
    if std::env::var_os("EXPECTED").is_some_and(|expected| expected == "bad") {
        assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_DEVICE_ERROR);
        return;
    }
    #[repr(C)]
    struct Seal {
        version: CK_ULONG,
        compact: CK_BBOOL,
        nonce: *mut u8,
        nonce_length: CK_ULONG,
        tag: *mut u8,
        tag_bits: CK_ULONG,
    }
    for _ in 0..2 {
        assert_eq!(call!(loaded.C_Initialize(null_mut())), CKR_OK);
        let (mut nonce, mut tag) = ([1u8, 2, 3], [1u8; 17]);
        let mut seal = Seal {
            version: 1,
            compact: 0,
            nonce: nonce.as_mut_ptr(),
            nonce_length: 2,
            tag: tag.as_mut_ptr(),
            tag_bits: 128,
        };
        let mut mechanism = CK_MECHANISM {
            mechanism: 0x8001_0001,
            pParameter: (&raw mut seal).cast(),
            ulParameterLen: size_of::<Seal>() as CK_ULONG,
        };
        assert_eq!(call!(loaded.C_EncryptInit(1, &mut mechanism, 2)), CKR_OK);
        assert_eq!(nonce, [9, 8, 3]);
        assert_eq!((tag[..16].to_vec(), tag[16]), (vec![7; 16], 1));
        assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
    }
}
