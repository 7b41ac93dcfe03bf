//! Tests a real module, SoftHSM, in a process of its own.

use std::ffi::OsStr;

use cryptoki_sys::{
    CK_GCM_PARAMS, CKA_DECRYPT, CKA_ENCRYPT, CKA_EXTRACTABLE, CKA_WRAP, CKM_AES_KEY_GEN,
};

use super::*;

const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// Runs `in_a_softhsm_token` with a token directory of its own.
#[test]
fn serves_a_softhsm_token() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("softhsm");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(directory.join("tokens")).expect("the directory can be made");
    let configuration = directory.join("softhsm2.conf");
    let text = format!("directories.tokendir = {}/tokens\n", directory.display());
    std::fs::write(&configuration, text).expect("the configuration can be written");
    let this_binary = std::env::current_exe().expect("a test has a name");
    let name = concat!(module_path!(), "::in_a_softhsm_token");
    let (_, name) = name.split_once("::").expect("a path begins with the crate");
    let output = Command::new(this_binary)
        .args(["--exact", name, "--ignored"].map(OsStr::new))
        .env("SOFTHSM2_CONF", &configuration)
        .output()
        .expect("the test binary can be run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run by serves_a_softhsm_token, with a configuration of its own"]
fn in_a_softhsm_token() {
    let hsm = Module::load(Path::new(SOFTHSM), ModuleOptions::default());
    let hsm = Former(hsm.expect("SoftHSM loads"));
    let ok = |call: Call<'_>| {
        let reply = hsm.call(call);
        assert_eq!(reply.rv(), CkRv::OK, "{reply:?}");
        reply
    };
    let (yes, secret, aes) = ([1], 4_u64.to_ne_bytes(), 0x1f_u64.to_ne_bytes());

    assert_eq!(
        hsm.call(Call::C_GetInfo()).rv(),
        CkRv::CRYPTOKI_NOT_INITIALIZED
    );
    ok(Call::C_Initialize());
    let again = hsm.call(Call::C_Initialize()).rv();
    assert_eq!(again, CkRv::CRYPTOKI_ALREADY_INITIALIZED);
    let info = result!(C_GetInfo, ok(Call::C_GetInfo())).info;
    assert_eq!(&info.manufacturer_id[..7], b"SoftHSM");

    // A token, its PINs and a session
    let slot = result!(C_GetSlotList, ok(Call::C_GetSlotList(Ulong(1), Count(9)))).slots[0];
    ok(Call::C_InitToken(slot, b"12345678", b"gateway"));
    let slot = result!(C_GetSlotList, ok(Call::C_GetSlotList(Ulong(1), Count(9)))).slots[0];
    let info = result!(C_GetTokenInfo, ok(Call::C_GetTokenInfo(slot))).info;
    assert_eq!(&info.label, b"gateway                         ");
    let s = result!(C_OpenSession, ok(Call::C_OpenSession(slot, Flags(6)))).session;
    ok(Call::C_Login(s, UserType(0), b"12345678"));
    assert_eq!(hsm.call(Call::C_InitPIN(s, b"")).rv(), CkRv::PIN_INVALID);
    ok(Call::C_InitPIN(s, b"1234"));
    ok(Call::C_Logout(s));
    assert_eq!(
        hsm.call(Call::C_Login(s, UserType(1), b"4321")).rv(),
        CkRv::PIN_INCORRECT
    );
    ok(Call::C_Login(s, UserType(1), b"1234"));
    let info = result!(C_GetSessionInfo, ok(Call::C_GetSessionInfo(s))).info;
    assert_eq!((info.slot_id, info.state.0), (slot, 3));

    // Mechanisms
    let asked = result!(
        C_GetMechanismList,
        ok(Call::C_GetMechanismList(slot, Count(0)))
    );
    let list = result!(
        C_GetMechanismList,
        ok(Call::C_GetMechanismList(slot, Count(asked.count.0)))
    );
    assert_eq!(list.mechanisms.len() as u64, asked.count.0);

    // A secret key made, found, read and used
    let key = Call::C_GenerateKey(
        s,
        mechanism(0x1080, &[]),
        template(&[
            (CKA_VALUE_LEN, &16_u64.to_ne_bytes()),
            (CKA_TOKEN, &yes),
            (CKA_LABEL, b"key"),
            (0x103, &yes),
            (0x104, &yes),
            (0x105, &yes),
            (0x106, &yes),
            (0x162, &yes),
        ]),
    );
    let key = result!(C_GenerateKey, ok(key)).object;
    ok(Call::C_FindObjectsInit(
        s,
        template(&[(CKA_CLASS, &secret), (CKA_LABEL, b"key")]),
    ));
    let found = result!(C_FindObjects, ok(Call::C_FindObjects(s, Ulong(10))));
    assert_eq!(found.objects, [key]);
    ok(Call::C_FindObjectsFinal(s));
    let asked = template(&[(0x100, b""), (CKA_LABEL, &[0; 10]), (CKA_VALUE, &[0; 99])]);
    let read = hsm.call(Call::C_GetAttributeValue(s, key, asked));
    assert_eq!(read.rv(), CkRv::ATTRIBUTE_SENSITIVE);
    let values = result!(C_GetAttributeValue, read).template.0;
    assert_eq!(
        (&values[0].value[..], &values[1].value[..]),
        (&[0; 8][..], &b"key"[..])
    );
    assert_eq!(values[2].value_len, Ulong::UNAVAILABLE);
    let asked = template(&[(0x100, &[0; 8])]);
    let read = result!(
        C_GetAttributeValue,
        ok(Call::C_GetAttributeValue(s, key, asked))
    );
    assert_eq!(read.template.0[0].value, aes);

    let text = vec![b'x'; 100_000];
    let iv = || mechanism(0x1085, &[7; 16]); // CKM_AES_CBC_PAD
    ok(Call::C_EncryptInit(s, iv(), key));
    let encrypted = data(ok(Call::C_Encrypt(s, &text))).data;
    assert_eq!(encrypted.len(), 100_000 / 16 * 16 + 16);
    ok(Call::C_DecryptInit(s, iv(), key));
    assert_eq!(data(ok(Call::C_Decrypt(s, &encrypted))).data, text);

    // The original passes the empty parameter with an address, and SoftHSM refuses it.
    let wrap = Call::C_WrapKey(s, mechanism(0x2109, &[]), key, key);
    let wrapped = data(ok(wrap)).data;
    assert_eq!(wrapped.len(), 24);
    let attributes = template(&[(CKA_CLASS, &secret), (0x100, &aes), (CKA_PRIVATE, &[0])]);
    ok(Call::C_UnwrapKey(
        s,
        mechanism(0x2109, &[]),
        key,
        &wrapped,
        attributes,
    ));

    // The original's worker crashes on each of these.
    let addresses = mechanism(CKM_AES_GCM, &[0x41; 48]);
    let refused = hsm.call(Call::C_EncryptInit(s, addresses, key)).rv();
    assert_eq!(refused, CkRv::MECHANISM_PARAM_INVALID);
    let nested = template(&[(CKA_WRAP_TEMPLATE, &[0x41; 24])]);
    let refused = hsm.call(Call::C_SetAttributeValue(s, key, nested)).rv();
    assert_eq!(refused, CkRv::ATTRIBUTE_TYPE_INVALID);
    let nested = template(&[(CKA_WRAP_TEMPLATE, &[0x41; 24])]);
    let empty = result!(
        C_GetAttributeValue,
        ok(Call::C_GetAttributeValue(s, key, nested))
    );
    assert!(empty.template == template(&[(CKA_WRAP_TEMPLATE, b"")]));

    // A key pair; OAEP without a label has null pointers
    let public = template(&[
        (0x121, &1024_u64.to_ne_bytes()),
        (0x122, &[1, 0, 1]),
        (0x104, &yes),
        (0x10a, &yes),
    ]);
    let private = template(&[(0x105, &yes), (0x108, &yes)]);
    let pair = Call::C_GenerateKeyPair(s, mechanism(0, &[]), public, private);
    let pair = result!(C_GenerateKeyPair, ok(pair));
    let oaep = [0x220_u64, 1, 1, 0, 0].map(u64::to_ne_bytes).concat();
    let oaep = || mechanism(CKM_RSA_PKCS_OAEP, &oaep);
    ok(Call::C_EncryptInit(s, oaep(), pair.public_key));
    let encrypted = data(ok(Call::C_Encrypt(s, b"text"))).data;
    ok(Call::C_DecryptInit(s, oaep(), pair.private_key));
    assert_eq!(data(ok(Call::C_Decrypt(s, &encrypted))).data, b"text");
    ok(Call::C_SignInit(s, mechanism(0x40, &[]), pair.private_key));
    let signature = data(ok(Call::C_Sign(s, b"text"))).data;
    ok(Call::C_VerifyInit(s, mechanism(0x40, &[]), pair.public_key));
    ok(Call::C_Verify(s, b"text", &signature));
    ok(Call::C_VerifyInit(s, mechanism(0x40, &[]), pair.public_key));
    let forged = hsm.call(Call::C_Verify(s, b"texT", &signature)).rv();
    assert_eq!(forged, CkRv::SIGNATURE_INVALID);

    says_what_only_version_4_can(&hsm.0, s);

    // The rest
    assert_eq!(
        data(ok(Call::C_GenerateRandom(s, Ulong(32)))).data.len(),
        32
    );
    ok(Call::C_SeedRandom(s, b"seed"));
    ok(Call::C_DestroyObject(s, key));
    assert_eq!(
        hsm.call(Call::C_DestroyObject(s, key)).rv(),
        CkRv::OBJECT_HANDLE_INVALID
    );
    ok(Call::C_CloseSession(s));
    ok(Call::C_CloseAllSessions(slot));
    ok(Call::C_Finalize());
}

/// Parameters with pointers, arrays of attributes, and the room of the caller.
fn says_what_only_version_4_can(hsm: &Module, s: SessionHandle) {
    use xdr::{Attribute, Call, Found, Input, Query, Reply, Room, Template, Use, Value, Wanted};

    let bytes = |number, value: &[u8]| Attribute::new(AttributeType(number), value.to_vec());
    let array = |number, template| Attribute {
        attribute_type: AttributeType(number),
        value: Value::Template(Template(template)),
    };
    let template = Some(Template(vec![
        bytes(CKA_VALUE_LEN, &32_u64.to_ne_bytes()),
        bytes(CKA_ENCRYPT, &[1]),
        bytes(CKA_DECRYPT, &[1]),
        bytes(CKA_WRAP, &[1]),
        array(
            CKA_WRAP_TEMPLATE,
            vec![bytes(CKA_LABEL, b"inner"), bytes(CKA_EXTRACTABLE, &[1])],
        ),
    ]));
    let make = Call::C_GenerateKey(s, Some(exact_module::mechanism(CKM_AES_KEY_GEN)), template);
    let key = result!(C_GenerateKey, hsm.call(make));
    let key = key.object.filter(|_| key.rv.is_ok()).expect("a key");

    // The wrap template: how many attributes, how long they are, then the values.
    let read = |room| {
        let wanted = Wanted {
            attribute_type: AttributeType(CKA_WRAP_TEMPLATE),
            room,
        };
        let call = Call::C_GetAttributeValue(s, key, Some(Query(vec![wanted])));
        let result = result!(C_GetAttributeValue, hsm.call(call));
        assert_eq!(result.rv, CkRv::OK);
        result.answers.0[0].found.clone()
    };
    let asked = read(xdr::WantedRoom::Null { length: 0 });
    assert!(asked == Found::TemplateLength(2));
    let inner = |wanted| match read(xdr::WantedRoom::Template(Query(wanted))) {
        Found::Template(ref answers) => answers.0.clone(),
        _ => panic!("no template"),
    };
    let length = || Wanted::length(AttributeType(0));
    let lengths: Vec<_> = inner(vec![length(), length()])
        .iter()
        .map(|answer| match answer.found {
            Found::Length(length) => (answer.attribute_type.0, length),
            _ => panic!("no length"),
        })
        .collect();
    assert_eq!(lengths, [(CKA_LABEL, 5), (CKA_EXTRACTABLE, 1)]);
    // Now SoftHSM must be told the types.
    let value = |number| Wanted::value(AttributeType(number), 9);
    let values = inner(vec![value(CKA_LABEL), value(CKA_EXTRACTABLE)]);
    let values: Vec<_> = values.iter().map(|answer| answer.bytes()).collect();
    assert_eq!(values, [Some(&b"inner"[..]), Some(&[1][..])]);

    // GCM with an IV, associated data and a tag.
    let (mut iv, mut aad) = ([9; 12], *b"associated");
    let (iv_length, aad_length) = (12, 10);
    iv.as_mut_ptr().expose_provenance();
    aad.as_mut_ptr().expose_provenance();
    let mut structure = CK_GCM_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: iv_length,
        ulIvBits: iv_length * 8,
        pAAD: aad.as_mut_ptr(),
        ulAADLen: aad_length,
        ulTagBits: 128,
    };
    let gcm = exact_module::parameter(CKM_AES_GCM, Use::Operation, &mut structure).0;
    let gcm = || Some(gcm.clone());
    let call = |call| result!(C_Encrypt, hsm.call(call));
    let text = vec![b'x'; 1 << 20];
    let begin = hsm.call(Call::C_EncryptInit(s, gcm(), key));
    assert_eq!(begin.rv(), CkRv::OK);
    let asked = call(Call::C_Encrypt(s, Input::Bytes(&text), Room::QUESTION));
    let sealed_length = (1 << 20) + 16;
    assert_eq!((asked.rv, asked.length.0), (CkRv::OK, sealed_length));
    let small = call(Call::C_Encrypt(
        s,
        Input::Bytes(&text),
        Room::Buffer(1 << 20),
    ));
    assert_eq!(small.rv, CkRv::BUFFER_TOO_SMALL);
    assert_eq!(small.length.0, sealed_length);
    let sealed = call(Call::C_Encrypt(
        s,
        Input::Bytes(&text),
        Room::Buffer(sealed_length),
    ));
    assert_eq!(
        (sealed.rv, sealed.data.len() as u64),
        (CkRv::OK, sealed_length)
    );
    assert_eq!(hsm.call(Call::C_DecryptInit(s, gcm(), key)).rv(), CkRv::OK);
    let open = Call::C_Decrypt(s, Input::Bytes(&sealed.data), Room::Buffer(2 << 20));
    let opened = result!(C_Decrypt, hsm.call(open));
    assert!(opened.rv.is_ok() && opened.data == text);
}
