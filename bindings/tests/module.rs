//! A module through `bindings::module`: what reaches its functions, what its answers become.
//!
//! `recorder.c` tells what it was called with and misbehaves on demand; it is compiled here with
//! `cc`. SoftHSM shows that a real module works; it reads its configuration from the environment,
//! so its test runs in a process of its own.

// Values of 8 bytes are written out.
#![cfg(all(unix, target_pointer_width = "64"))]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use bindings::module::{Module, ModuleOptions};
use xdr::{
    Attribute, AttributeType, Call, CkRv, Cryptoki, DataResult, Flags, Function, Mechanism,
    MechanismType, ObjectHandle, Reply, SessionHandle, SlotId, Template, Ulong, UserType,
};

const TOLD: u64 = 0x8000_0000;
const TOLD_NULL: u64 = 0x1_0000;
const TOLD_TEMPLATE: u64 = 0x2_0000;

const CKA_CLASS: u64 = 0x0;
const CKA_TOKEN: u64 = 0x1;
const CKA_PRIVATE: u64 = 0x2;
const CKA_LABEL: u64 = 0x3;
const CKA_APPLICATION: u64 = 0x10;
const CKA_VALUE: u64 = 0x11;
const CKA_OWNER: u64 = 0x84;
const CKA_AC_ISSUER: u64 = 0x83;
const CKA_SUBJECT: u64 = 0x101;
const CKA_VALUE_LEN: u64 = 0x161;
const CKA_WRAP_TEMPLATE: u64 = 0x4000_0211;
const CKA_ALLOWED_MECHANISMS: u64 = 0x4000_0600;

const CKM_RSA_PKCS_OAEP: u64 = 0x9;
const CKM_AES_CBC: u64 = 0x1082;
const CKM_AES_GCM: u64 = 0x1087;
const CKM_VENDOR: u64 = 0x8000_0001;

/// Compiles `recorder.c` and says where it is.
fn compile(name: &str, flags: &[&str]) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = directory.join(format!("{name}.so"));
    // Tests are processes that start at once: a rename puts a whole file into place.
    let draft = directory.join(format!("{name}-{}.draft", std::process::id()));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recorder.c");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-g", "-I/usr/include/softhsm", "-o"])
        .arg(&draft)
        .arg(source)
        .args(flags)
        .status();
    assert!(status.expect("cc can be run").success());
    std::fs::rename(draft, &library).expect("a file in the same directory");
    library
}

static RECORDER: LazyLock<Module> = LazyLock::new(|| {
    let options = ModuleOptions {
        flat_mechanisms: vec![CKM_VENDOR],
    };
    Module::load(&compile("recorder", &[]), options).expect("it has a function list")
});

fn session(number: u64) -> SessionHandle {
    SessionHandle(number)
}

fn mechanism(mechanism_type: u64, parameter: &[u8]) -> Mechanism {
    let mechanism_type = MechanismType(mechanism_type);
    Mechanism::laid_out(
        mechanism_type,
        parameter.to_vec(),
        xdr::Architecture::host(),
    )
}

fn template(attributes: &[(u64, &[u8])]) -> Template {
    let attribute =
        |(number, value): &(u64, &[u8])| Attribute::new(AttributeType(*number), value.to_vec());
    Template(attributes.iter().map(attribute).collect())
}

fn rv(call: Call<'_>) -> u64 {
    RECORDER.call(call).rv().0
}

fn data(reply: Reply) -> DataResult {
    match reply {
        Reply::C_Encrypt(result)
        | Reply::C_Decrypt(result)
        | Reply::C_Sign(result)
        | Reply::C_SignFinal(result)
        | Reply::C_WrapKey(result)
        | Reply::C_GenerateRandom(result) => result,
        other => panic!("{other:?} has no data"),
    }
}

macro_rules! result {
    ($name:ident, $reply:expr) => {
        match $reply {
            Reply::$name(result) => result,
            other => panic!("{other:?}"),
        }
    };
}

// Loading

#[test]
fn answers_as_the_original_to_a_library_it_cannot_use() {
    for (name, flag, expected) in [
        ("no_symbol", "-DNO_SYMBOL", CkRv::FUNCTION_FAILED),
        ("null_list", "-DNULL_LIST", CkRv::FUNCTION_FAILED),
        ("refuses", "-DREFUSES", CkRv::CANT_LOCK),
    ] {
        let loaded = Module::load(&compile(name, &[flag]), ModuleOptions::default());
        assert_eq!(
            loaded.err().map(|error| error.rv()),
            Some(expected),
            "{name}"
        );
    }
}

#[test]
fn opens_a_library_with_a_symbol_that_is_nowhere() {
    let library = compile("missing_symbol", &["-DMISSING_SYMBOL", "-Wl,-z,lazy"]);
    assert!(Module::load(&library, ModuleOptions::default()).is_ok());
}

/// Any call of the function: its arguments are as many zeros as it takes.
fn any_call(function: Function) -> Call<'static> {
    static ZEROS: [u8; 256] = [0; 256];
    let lengths = (0..ZEROS.len()).step_by(4);
    lengths
        .filter_map(|length| {
            let arguments = xdr::codec::Decoder::new(&ZEROS[..length], xdr::Architecture::host());
            Call::read(function, arguments).ok()
        })
        .next()
        .expect("zeros are arguments")
}

#[test]
fn answers_every_function_that_is_not_in_the_list() {
    let empty = compile("empty_list", &["-DEMPTY_LIST", "-w"]);
    let empty = Module::load(&empty, ModuleOptions::default()).expect("it has a list");
    for &function in Function::ALL {
        let reply = empty.call(any_call(function));
        assert_eq!(reply.function(), function);
        assert_eq!(
            reply.rv(),
            CkRv::FUNCTION_NOT_SUPPORTED,
            "{}",
            function.name()
        );
    }
}

#[test]
fn initializes_and_finalizes_without_arguments() {
    assert_eq!(rv(Call::C_Initialize()), 0);
    assert_eq!(rv(Call::C_Finalize()), 0);
}

// Outputs

fn encrypt(number: u64, input: &[u8]) -> DataResult {
    data(RECORDER.call(Call::C_Encrypt(session(number), input)))
}

#[test]
fn gives_the_whole_output_of_one_call() {
    for length in [0, 1, 16, 70_000] {
        let input = vec![7; length];
        let result = encrypt(1, &input);
        assert_eq!((result.rv, result.data == input), (CkRv::OK, true));
    }
    assert_eq!(
        data(RECORDER.call(Call::C_SignFinal(session(1)))).data,
        b"end"
    );
}

#[test]
fn gives_a_second_call_the_room_the_module_asks_for() {
    let result = encrypt(3, b"data");
    assert_eq!((result.rv, result.data), (CkRv::OK, vec![b'B'; 100_000]));
    let result = data(RECORDER.call(Call::C_SignFinal(session(3))));
    assert_eq!((result.rv, result.data.len()), (CkRv::OK, 100_000));
}

#[test]
fn believes_no_length_beyond_the_room_it_gave() {
    for liar in [2, 4, 6] {
        let result = encrypt(liar, b"data");
        assert_eq!((result.rv, result.data), (CkRv::GENERAL_ERROR, vec![]));
    }
}

#[test]
fn sends_nothing_of_the_output_of_a_failing_call() {
    let result = encrypt(5, b"data");
    assert_eq!((result.rv, result.data), (CkRv::DEVICE_ERROR, vec![]));
}

#[test]
fn gives_an_empty_input_an_address_and_an_output_clean_memory() {
    assert_eq!(encrypt(7, b"").rv.0, TOLD);
    assert_eq!(encrypt(7, b"four").rv.0, TOLD | 4);
    assert_eq!(encrypt(8, b"four").rv.0, TOLD | (4096 + 4));
    let sign = Call::C_Sign(session(8), b"four");
    assert_eq!(rv(sign), TOLD | 16384);
}

#[test]
fn makes_random_numbers_up_to_a_bound() {
    let random = |number, length| {
        let call = Call::C_GenerateRandom(session(number), Ulong(length));
        data(RECORDER.call(call))
    };
    assert_eq!(random(1, 0).data, b"");
    assert_eq!(random(1, 33).data, [b'R'; 33]);
    assert_eq!(random(2, 33).data, b"");
    for absurd in [u64::MAX, 1 << 62, 1 << 40, (64 << 20) + 1] {
        assert_eq!(random(1, absurd).rv, CkRv::ARGUMENTS_BAD);
    }
}

// Lists

fn slots(present: u64, count: u64) -> (CkRv, Vec<u64>, u64) {
    let call = Call::C_GetSlotList(Ulong(present), Ulong(count));
    let result = result!(C_GetSlotList, RECORDER.call(call));
    let slots = result.slots.iter().map(|slot| slot.0).collect();
    (result.rv, slots, result.count.0)
}

#[test]
fn lists_slots_with_a_count_that_fits_them() {
    let all = vec![5, 6, 0x8000_0007];
    assert_eq!(slots(0, 0), (CkRv::OK, vec![], 3));
    assert_eq!(slots(0, 3), (CkRv::OK, all.clone(), 3));
    assert_eq!(slots(0, 10), (CkRv::OK, all.clone(), 3));
    assert_eq!(slots(0, u64::MAX), (CkRv::OK, all, 3));
    assert_eq!(slots(0, 2), (CkRv::BUFFER_TOO_SMALL, vec![], 3));
    assert_eq!(slots(1, 2), (CkRv::GENERAL_ERROR, vec![], 0));
}

#[test]
fn gives_the_count_back_with_a_failing_list() {
    assert_eq!(slots(3, 0), (CkRv::DEVICE_ERROR, vec![], 0));
    assert_eq!(slots(3, 7), (CkRv::DEVICE_ERROR, vec![], 7));
    assert_eq!(slots(3, 1 << 61), (CkRv::DEVICE_ERROR, vec![], 1 << 61));
    assert_eq!(slots(4, 7), (CkRv::DEVICE_ERROR, vec![], 9));
    let query = Call::C_GetMechanismList(SlotId(1), Ulong(0));
    let result = result!(C_GetMechanismList, RECORDER.call(query));
    assert_eq!((result.rv, result.count.0), (CkRv::SLOT_ID_INVALID, 0));
    let fetch = Call::C_GetMechanismList(SlotId(1), Ulong(1 << 61));
    assert_eq!(rv(fetch), TOLD | 65536);
}

#[test]
fn takes_one_byte_of_token_present() {
    assert_eq!(slots(200, 1).0.0, TOLD | 200);
    assert_eq!(slots(0x1_0000_00c8, 1).0.0, TOLD | 200);
    for wide in [256, u64::MAX] {
        assert_eq!(slots(wide, 5), (CkRv::TOKEN_NOT_RECOGNIZED, vec![], 0));
    }
}

#[test]
fn finds_objects_up_to_the_count() {
    let find = |number, count| {
        let call = Call::C_FindObjects(session(number), Ulong(count));
        let result = result!(C_FindObjects, RECORDER.call(call));
        let objects: Vec<u64> = result.objects.iter().map(|object| object.0).collect();
        assert_eq!(result.count.0, objects.len() as u64);
        (result.rv, objects)
    };
    assert_eq!(find(1, 0), (CkRv::OK, vec![]));
    assert_eq!(find(1, 2), (CkRv::OK, vec![100, 101]));
    assert_eq!(find(1, u64::MAX), (CkRv::OK, vec![100, 101, 102]));
    assert_eq!(find(2, 2), (CkRv::GENERAL_ERROR, vec![]));
    assert_eq!(find(3, 2), (CkRv::DEVICE_ERROR, vec![]));
}

// Mechanisms

#[test]
fn passes_an_empty_parameter_as_null_in_every_call() {
    let (s, none) = (session(7), || mechanism(CKM_AES_CBC, &[]));
    let (key, some) = (ObjectHandle(1), || template(&[(CKA_TOKEN, &[1])]));
    for call in [
        Call::C_EncryptInit(s, none(), key),
        Call::C_SignInit(s, none(), key),
        Call::C_DigestInit(s, none()),
        Call::C_GenerateKey(s, none(), some()),
        Call::C_GenerateKeyPair(s, none(), some(), some()),
        Call::C_WrapKey(s, none(), key, key),
        Call::C_UnwrapKey(s, none(), key, b"", some()),
        Call::C_DeriveKey(s, none(), key, some()),
    ] {
        assert_eq!(rv(call.clone()), TOLD | TOLD_NULL, "{call:?}");
    }
}

#[test]
fn copies_a_parameter_to_where_zeros_follow() {
    for length in [1, 7, 8, 16, 17, 300] {
        let iv = mechanism(CKM_AES_CBC, &vec![0x41; length]);
        let call = Call::C_EncryptInit(session(1), iv, ObjectHandle(1));
        assert_eq!(rv(call), TOLD | length as u64);
    }
}

#[test]
fn stops_a_parameter_that_may_hold_an_address() {
    let (s, key) = (session(7), ObjectHandle(1));
    let gcm = || mechanism(CKM_AES_GCM, &[0x41; 48]);
    let none = Template::default;
    for call in [
        Call::C_EncryptInit(s, gcm(), key),
        Call::C_SignInit(s, gcm(), key),
        Call::C_DigestInit(s, gcm()),
        Call::C_GenerateKey(s, gcm(), none()),
        Call::C_GenerateKeyPair(s, gcm(), none(), none()),
        Call::C_WrapKey(s, gcm(), key, key),
        Call::C_UnwrapKey(s, gcm(), key, b"", none()),
        Call::C_DeriveKey(s, gcm(), key, none()),
    ] {
        assert_eq!(
            rv(call.clone()),
            CkRv::MECHANISM_PARAM_INVALID.0,
            "{call:?}"
        );
    }
    let listed = mechanism(CKM_VENDOR, &[0x41; 5]);
    assert_eq!(rv(Call::C_EncryptInit(s, listed, key)), TOLD | 5);
    let unlisted = mechanism(CKM_VENDOR + 1, &[0x41; 5]);
    let refused = rv(Call::C_EncryptInit(s, unlisted, key));
    assert_eq!(refused, CkRv::MECHANISM_PARAM_INVALID.0);
}

// Templates

#[test]
fn gives_an_empty_value_an_address_where_it_is_a_value() {
    let (s, object) = (session(1), ObjectHandle(1));
    let label = |value| template(&[(CKA_LABEL, value)]);
    assert_eq!(rv(Call::C_CreateObject(s, label(b""))), TOLD);
    assert_eq!(rv(Call::C_CreateObject(s, label(b"four"))), TOLD | 4);
    assert_eq!(rv(Call::C_FindObjectsInit(s, label(b""))), TOLD);
    assert_eq!(rv(Call::C_FindObjectsInit(s, Template::default())), TOLD);
    let set = |value| Call::C_SetAttributeValue(s, object, label(value));
    assert_eq!(rv(set(b"")), TOLD | TOLD_NULL);
    assert_eq!(rv(set(b"four")), TOLD | 4);
    let generate = Call::C_GenerateKey(s, mechanism(CKM_AES_CBC, &[]), Template::default());
    assert_eq!(rv(generate), TOLD | TOLD_NULL | TOLD_TEMPLATE);
}

#[test]
fn stops_a_template_within_a_template() {
    let (s, object) = (session(1), ObjectHandle(1));
    let nested = || template(&[(CKA_LABEL, b"four"), (CKA_WRAP_TEMPLATE, &[0x41; 24])]);
    let none = || mechanism(CKM_AES_CBC, &[]);
    for call in [
        Call::C_CreateObject(s, nested()),
        Call::C_CopyObject(s, object, nested()),
        Call::C_SetAttributeValue(s, object, nested()),
        Call::C_FindObjectsInit(s, nested()),
        Call::C_GenerateKey(s, none(), nested()),
        Call::C_GenerateKeyPair(s, none(), nested(), Template::default()),
        Call::C_GenerateKeyPair(s, none(), Template::default(), nested()),
        Call::C_UnwrapKey(s, none(), object, b"", nested()),
        Call::C_DeriveKey(s, none(), object, nested()),
    ] {
        assert_eq!(rv(call.clone()), CkRv::ATTRIBUTE_TYPE_INVALID.0, "{call:?}");
    }
    let allowed = template(&[(CKA_ALLOWED_MECHANISMS, &[0; 8])]);
    assert_eq!(rv(Call::C_CreateObject(s, allowed)), TOLD | 8);
}

/// Each value with the length told beside it.
fn values(object: u64, asked: &[(u64, &[u8])]) -> (CkRv, Vec<(Vec<u8>, u64)>) {
    let call = Call::C_GetAttributeValue(session(1), ObjectHandle(object), template(asked));
    let result = result!(C_GetAttributeValue, RECORDER.call(call));
    let types = |template: &Template| -> Vec<AttributeType> {
        template
            .0
            .iter()
            .map(|attribute| attribute.attribute_type)
            .collect()
    };
    assert_eq!(types(&result.template), types(&template(asked)));
    let attributes = result.template.0.iter();
    let values = attributes.map(|attribute| (attribute.value.clone(), attribute.value_len.0));
    (result.rv, values.collect())
}

const UNAVAILABLE: (Vec<u8>, u64) = (Vec::new(), u64::MAX);

#[test]
fn answers_the_question_for_a_length_with_zeros_and_values_with_themselves() {
    let (rv, values) = values(
        1,
        &[
            (CKA_LABEL, b""),
            (CKA_LABEL, &[0; 10]),
            (CKA_LABEL, &[0; 2]),
            (CKA_APPLICATION, b""),
            (CKA_APPLICATION, &[9; 3]),
            (CKA_CLASS, b""),
            (CKA_CLASS, &[0; 8]),
            (CKA_VALUE, b""),
            (CKA_VALUE, &[0; 32]),
            (CKA_ALLOWED_MECHANISMS, &[0; 8]),
        ],
    );
    assert_eq!(rv, CkRv::ATTRIBUTE_SENSITIVE);
    let expected = [
        (vec![0; 5], 5),
        (b"label".to_vec(), 5),
        UNAVAILABLE,
        (vec![], 0),
        (vec![], 0),
        (vec![0; 8], 8),
        (vec![4, 0, 0, 0, 0, 0, 0, 0], 8),
        UNAVAILABLE,
        UNAVAILABLE,
        (b"12345678".to_vec(), 8),
    ];
    assert_eq!(values, expected);
}

#[test]
fn makes_unavailable_what_has_a_length_beyond_its_room() {
    let asked: [(u64, &[u8]); 6] = [
        (CKA_OWNER, b""),
        (CKA_OWNER, &[0; 8]),
        (CKA_SUBJECT, &[0; 8]),
        (CKA_AC_ISSUER, b""),
        (CKA_AC_ISSUER, b""),
        (CKA_LABEL, b""),
    ];
    let (rv, values) = values(1, &asked);
    assert_eq!(rv, CkRv::OK);
    assert_eq!(values[..3], [UNAVAILABLE, UNAVAILABLE, UNAVAILABLE]);
    assert_eq!(values[3].1, 60_000_000);
    assert_eq!(values[4..], [UNAVAILABLE, (vec![0; 5], 5)]);
}

/// What the original sends with a wrong handle, seen with a raw client of it.
#[test]
fn gives_back_what_a_failing_call_leaves_alone() {
    let asked: [(u64, &[u8]); 4] = [
        (CKA_CLASS, b""),
        (CKA_CLASS, &[0xaa; 8]),
        (CKA_LABEL, b""),
        (CKA_LABEL, b"xyz"),
    ];
    let (rv, values) = values(9, &asked);
    assert_eq!(rv, CkRv::OBJECT_HANDLE_INVALID);
    let expected = [
        (vec![0; 8], 8),
        (vec![0xaa; 8], 8),
        (vec![], 0),
        (b"xyz".to_vec(), 3),
    ];
    assert_eq!(values, expected);
}

#[test]
fn asks_for_all_but_templates_within_the_template() {
    let (wrap, label) = (
        (CKA_WRAP_TEMPLATE, &[0x41; 24][..]),
        (CKA_LABEL, &[0; 9][..]),
    );
    let (rv, answered) = values(1, &[wrap, label, wrap]);
    assert_eq!(rv, CkRv::ATTRIBUTE_TYPE_INVALID);
    assert_eq!(answered, [UNAVAILABLE, (b"label".to_vec(), 5), UNAVAILABLE]);
    let (rv, _) = values(1, &[wrap, (CKA_VALUE, b"")]);
    assert_eq!(rv, CkRv::ATTRIBUTE_SENSITIVE);
    // No call: the object is not there.
    assert_eq!(
        values(9, &[wrap]),
        (CkRv::ATTRIBUTE_TYPE_INVALID, vec![UNAVAILABLE])
    );
}

// PINs

#[test]
fn passes_an_empty_pin_as_null_where_the_token_has_a_keypad() {
    let s = session;
    let login = |pin| rv(Call::C_Login(s(1), UserType(1), pin));
    assert_eq!((login(b""), login(b"1234")), (TOLD | TOLD_NULL, TOLD | 4));

    let init = |number, pin| rv(Call::C_InitPIN(s(number), pin));
    assert_eq!(init(1, b"1234"), TOLD | 4);
    assert_eq!(init(1, b""), TOLD | TOLD_NULL);
    assert_eq!(init(2, b""), CkRv::PIN_INVALID.0);
    assert_eq!(init(3, b""), TOLD); // no token info
    assert_eq!(init(9, b""), TOLD); // no session info

    let set = |number, old, new| rv(Call::C_SetPIN(s(number), old, new));
    assert_eq!(set(2, b"12", b"1234"), TOLD | 0x24);
    assert_eq!(set(2, b"", b"1234"), TOLD | 0x04);
    assert_eq!(set(2, b"12", b""), TOLD | 0x20);
    assert_eq!(set(1, b"", b""), TOLD | TOLD_NULL);
    assert_eq!(set(2, b"", b""), CkRv::PIN_INVALID.0);
    assert_eq!(set(3, b"", b""), TOLD);

    let token = |slot, pin| rv(Call::C_InitToken(SlotId(slot), pin, b"gate\0way"));
    assert_eq!(token(2, b"1234"), TOLD | 4);
    assert_eq!(token(1, b""), TOLD | TOLD_NULL);
    assert_eq!(token(2, b""), CkRv::ARGUMENTS_BAD.0);
    assert_eq!(token(3, b""), TOLD);
}

// What else a failing call carries

#[test]
fn sends_full_strings_of_zeros_with_failing_information() {
    let reply = RECORDER.call(Call::C_GetTokenInfo(SlotId(3)));
    let info = result!(C_GetTokenInfo, reply).info;
    let strings = [
        &info.label,
        &info.manufacturer_id,
        &info.model,
        &info.serial_number,
    ];
    assert_eq!(strings.map(Vec::len), [32, 32, 16, 16]);
    assert!(
        strings
            .iter()
            .all(|string| string.iter().all(|&byte| byte == 0))
    );
    assert_eq!((info.utc_time, info.max_pin_len.0), (vec![0; 16], 0));
    assert_eq!(info.firmware_version.major, [0]);

    let info = result!(C_GetSlotInfo, RECORDER.call(Call::C_GetSlotInfo(SlotId(3)))).info;
    assert_eq!(
        (info.slot_description, info.manufacturer_id),
        (vec![0; 64], vec![0; 32])
    );
    // Not in the list at all.
    let info = result!(C_GetInfo, RECORDER.call(Call::C_GetInfo())).info;
    assert_eq!(info.library_description, [0; 32]);
}

#[test]
fn sends_no_handle_slot_or_size_with_a_failing_call() {
    let open = |slot| {
        let result = result!(
            C_OpenSession,
            RECORDER.call(Call::C_OpenSession(SlotId(slot), Flags(4)))
        );
        (result.rv, result.session.0)
    };
    assert_eq!(open(1), (CkRv::OK, 0x8000_0001));
    assert_eq!(open(9), (CkRv::DEVICE_ERROR, 0));

    let event = |flags| {
        let call = Call::C_WaitForSlotEvent(Flags(flags));
        let result = result!(C_WaitForSlotEvent, RECORDER.call(call));
        (result.rv, result.slot_id)
    };
    assert_eq!(event(0), (CkRv::OK, SlotId(4)));
    assert_eq!(event(1), (CkRv::NO_EVENT, SlotId::NONE));

    let info = result!(
        C_GetSessionInfo,
        RECORDER.call(Call::C_GetSessionInfo(session(9)))
    )
    .info;
    assert_eq!((info.slot_id, info.state.0), (SlotId::NONE, 0));

    let size = |object| {
        let call = Call::C_GetObjectSize(session(1), ObjectHandle(object));
        result!(C_GetObjectSize, RECORDER.call(call)).size
    };
    assert_eq!((size(1), size(2).0, size(9).0), (Ulong::UNAVAILABLE, 17, 0));

    let created = RECORDER.call(Call::C_CreateObject(session(1), Template::default()));
    assert_eq!(result!(C_CreateObject, created).object.0, 0);
}

#[test]
fn keeps_unavailable_information_all_ones() {
    let info = result!(
        C_GetTokenInfo,
        RECORDER.call(Call::C_GetTokenInfo(SlotId(2)))
    )
    .info;
    assert_eq!(info.total_public_memory, Ulong::UNAVAILABLE);
    assert_eq!(info.label, [b' '; 32]);
}

// SoftHSM

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
    let status = Command::new(this_binary)
        .args(["--exact", "in_a_softhsm_token", "--ignored", "--nocapture"].map(OsStr::new))
        .env("SOFTHSM2_CONF", &configuration)
        .status();
    assert!(status.expect("the test binary can be run").success());
}

#[test]
#[ignore = "run by serves_a_softhsm_token, with a configuration of its own"]
fn in_a_softhsm_token() {
    let hsm = Module::load(Path::new(SOFTHSM), ModuleOptions::default()).expect("SoftHSM loads");
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
    let slot = result!(C_GetSlotList, ok(Call::C_GetSlotList(Ulong(1), Ulong(9)))).slots[0];
    ok(Call::C_InitToken(slot, b"12345678", b"gateway"));
    let slot = result!(C_GetSlotList, ok(Call::C_GetSlotList(Ulong(1), Ulong(9)))).slots[0];
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
        ok(Call::C_GetMechanismList(slot, Ulong(0)))
    );
    let list = result!(
        C_GetMechanismList,
        ok(Call::C_GetMechanismList(slot, asked.count))
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
    let refused = hsm.call(Call::C_GetAttributeValue(s, key, nested)).rv();
    assert_eq!(refused, CkRv::ATTRIBUTE_TYPE_INVALID);

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
