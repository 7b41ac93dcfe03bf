//! The same request bytes to the original's daemon and to ours: the replies must be the same, field
//! by field, but for the rows of DIFFERENCES.md, each of which names its test here.
//!
//! Both daemons have SoftHSM behind them, with copies of one token, so that slots, serial numbers and
//! the handles of equal calls are equal.

#[path = "../support/mod.rs"]
mod support;

mod rules;
mod sets;

use support::raw::{self, Answer, Both};
use xdr::{
    Architecture, Attribute, AttributeType, Call, Flags, Function, Mechanism, MechanismType,
    ObjectHandle, Reply, SessionHandle, SlotId, Template, Ulong, UserType,
};

const CLASS: u64 = 0x000;
const TOKEN: u64 = 0x001;
const LABEL: u64 = 0x003;
const VALUE: u64 = 0x011;
const KEY_TYPE: u64 = 0x100;
const ID: u64 = 0x102;
const SENSITIVE: u64 = 0x103;
const ENCRYPT: u64 = 0x104;
const DECRYPT: u64 = 0x105;
const WRAP: u64 = 0x106;
const UNWRAP: u64 = 0x107;
const SIGN: u64 = 0x108;
const VERIFY: u64 = 0x10a;
const MODULUS_BITS: u64 = 0x121;
const VALUE_LEN: u64 = 0x161;
const EXTRACTABLE: u64 = 0x162;
const WRAP_TEMPLATE: u64 = 0x4000_0211;

const SECRET_KEY: u64 = 4;
const GENERIC_SECRET: u64 = 0x10;
const AES: u64 = 0x1f;

const SHA256: u64 = 0x250;
const SHA256_HMAC: u64 = 0x251;
const AES_KEY_GEN: u64 = 0x1080;
const AES_ECB: u64 = 0x1081;
const AES_CBC: u64 = 0x1082;
const AES_CBC_PAD: u64 = 0x1085;
const AES_GCM: u64 = 0x1087;
const AES_KEY_WRAP: u64 = 0x2109;

fn template(attributes: &[(u64, &[u8])]) -> Template {
    let make = |(kind, value): &(u64, &[u8])| Attribute::new(AttributeType(*kind), value.to_vec());
    Template(attributes.iter().map(make).collect())
}

fn mechanism(kind: u64, parameter: &[u8]) -> Mechanism {
    Mechanism::unread(MechanismType(kind), parameter.to_vec())
}

/// A CK_ULONG of a client of this architecture.
fn word(architecture: Architecture, number: u64) -> Vec<u8> {
    match architecture {
        Architecture::LITTLE_64 => number.to_le_bytes().to_vec(),
        Architecture::LITTLE_32 => (number as u32).to_le_bytes().to_vec(),
        Architecture::BIG_64 => number.to_be_bytes().to_vec(),
        _ => (number as u32).to_be_bytes().to_vec(),
    }
}

fn long(number: u64) -> Vec<u8> {
    word(Architecture::LITTLE_64, number)
}

const SESSION: SessionHandle = SessionHandle(1);

/// Two connections on which everything up to the user's login was called.
fn logged_in() -> Both {
    logged_in_as(Architecture::LITTLE_64)
}

fn logged_in_as(architecture: Architecture) -> Both {
    let mut both = initialised(architecture);
    let slot = both.token_slot();
    both.same(Call::C_OpenSession(slot, Flags(6)));
    both.same(Call::C_Login(SESSION, UserType(1), b"1234"));
    both
}

fn initialised(architecture: Architecture) -> Both {
    let mut both = Both::new();
    both.same(Call::C_SetupArch(architecture));
    both.same(Call::C_LoadModule(b"softhsm"));
    both.same(Call::C_Initialize());
    both
}

/// An imported key, the same on both sides; its handle.
fn key(both: &mut Both, kind: u64, more: &[(u64, &[u8])]) -> ObjectHandle {
    let (class, kind) = (long(SECRET_KEY), long(kind));
    let value: Vec<u8> = (0..16).collect();
    let mut attributes: Vec<(u64, &[u8])> = vec![
        (CLASS, &class),
        (KEY_TYPE, &kind),
        (VALUE, &value),
        (TOKEN, &[0]),
    ];
    attributes.extend_from_slice(more);
    match both.same(Call::C_CreateObject(SESSION, template(&attributes))) {
        Reply::C_CreateObject(result) if result.rv.is_ok() => result.object,
        other => panic!("{other:?}"),
    }
}

#[test]
fn unusual_messages_get_the_same_status() {
    let good = [0u32, 2, 4, 3, 2, 0, 0, 0, 0];
    let changes: [(usize, u32); 10] = [
        (0, 1),
        (1, 3),
        (2, 5),
        (3, 2),
        (4, 99),
        (4, 0),
        (5, 1),
        (5, 77),
        (7, 77),
        (7, 1),
    ];
    let mut messages = vec![with_argument(&good)];
    for (position, value) in changes {
        let mut one = good;
        one[position] = value;
        messages.push(with_argument(&one));
        for (position, value) in changes {
            let mut two = one;
            two[position] = value;
            messages.push(with_argument(&two));
        }
        messages.push(with_argument(&one)[..44].to_vec());
    }
    for length in [0, 3, 4, 8, 20, 39, 40, 44] {
        messages.push(with_argument(&good)[..length].to_vec());
    }
    for flavour in [5, 7] {
        for body in [1, 4, 399, 400, 401, 404] {
            let mut words = good.to_vec();
            words[flavour + 1] = body;
            let mut message: Vec<u8> = words[..flavour + 2]
                .iter()
                .flat_map(|w| w.to_be_bytes())
                .collect();
            message.splice(0..0, 9u32.to_be_bytes());
            message.extend(vec![0; body.next_multiple_of(4) as usize]);
            message.extend(words[flavour + 2..].iter().flat_map(|w| w.to_be_bytes()));
            message.extend(1u64.to_be_bytes());
            messages.push(message);
        }
    }
    let mut both = Both::new();
    for message in messages {
        both.reconnect();
        let [theirs, ours] = both.exchange_message(&message);
        assert_eq!(ours, theirs, "to {message:02x?}");
    }
}

/// The header's words behind an xid, then C_SetupArch's argument.
fn with_argument(words: &[u32]) -> Vec<u8> {
    let mut message = 9u32.to_be_bytes().to_vec();
    message.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    message.extend(1u64.to_be_bytes());
    message
}

#[test]
fn setup_and_load_answer_the_same() {
    let mut both = Both::new();
    for code in [0, 5, 6, 7, 1 << 33, u64::MAX] {
        both.same(Call::C_SetupArch(Architecture(code)));
    }
    for alias in [
        &b"nosuch"[..],
        b"",
        b"SOFTHSM",
        b"soft",
        b"softhsmX",
        b"softhsm\0",
    ] {
        both.same(Call::C_LoadModule(alias));
    }
    both.same(Call::C_Initialize());
    both.same(Call::C_LoadModule(b"softhsm"));
    both.same(Call::C_LoadModule(b"softhsm"));
    both.same(Call::C_LoadModule(b"nosuch"));
    both.same(Call::C_SetupArch(Architecture(0x1_0000_0001)));
    for code in [1, 2, 0] {
        both.same(Call::C_SetupArch(Architecture(code)));
    }
    both.same(Call::C_Initialize());
    both.same(Call::C_Initialize());
    both.same(Call::C_Finalize());
    both.same(Call::C_Finalize());
    both.same(Call::C_LoadModule(b"softhsm"));
    both.same(Call::C_Initialize());
}

/// A call of each procedure with arguments that are all zero or empty.
fn empty_call(function: Function, zeros: &[u8]) -> Call<'_> {
    let mut lengths = (0..=zeros.len()).step_by(4);
    lengths
        .find_map(|length| {
            let arguments = xdr::codec::Decoder::new(&zeros[..length], Architecture::host());
            Call::read(function, arguments).ok()
        })
        .expect("64 bytes do")
}

/// Calls whose replies differ by themselves, in tests of their own.
fn is_steady(function: Function) -> bool {
    use Function::{C_Finalize, C_Initialize, C_LoadModule, C_SetupArch};
    !matches!(
        function,
        C_SetupArch | C_LoadModule | C_Initialize | C_Finalize
    )
}

#[test]
fn every_procedure_before_a_module_is_loaded() {
    let mut both = Both::new();
    for function in Function::ALL
        .iter()
        .copied()
        .filter(|function| is_steady(*function))
    {
        match function {
            // D-1: versions in the information of a refused call.
            Function::C_GetInfo | Function::C_GetSlotInfo | Function::C_GetTokenInfo => {
                let [theirs, ours] = both.call(empty_call(function, &[0; 64]));
                assert_eq!(ours.rv(), theirs.rv());
                assert_ne!(ours, theirs, "the row of DIFFERENCES.md is not needed");
                assert_eq!(versions(&theirs), vec![vec![0x30]; versions(&theirs).len()]);
                assert_eq!(versions(&ours), vec![vec![0]; versions(&ours).len()]);
            }
            // D-12: the original sends bytes it never wrote, as many as it finds in its memory; fails
            // if that is too many.
            Function::C_EncryptUpdate => {
                let [theirs, ours] = both.call(empty_call(function, &[0; 64]));
                match &theirs {
                    Answer::Status(status) => assert_eq!(status[..], [0, 0, 0, 5]),
                    theirs => assert_eq!(theirs.rv().0, 0x190),
                }
                assert_eq!(ours.rv().0, 0x190);
                let Reply::C_EncryptUpdate(result) = ours.reply() else {
                    panic!("a reply")
                };
                assert!(result.data.is_empty());
            }
            _ => drop(both.same(empty_call(function, &[0; 64]))),
        }
    }
}

/// D-11: the number of mechanisms of a call that failed; the original sends a word of its stack.
fn mechanism_number(both: &mut Both, slot: SlotId) {
    let [theirs, ours] = both.call(Call::C_GetMechanismList(slot, Ulong(0)));
    assert_eq!(ours.rv(), theirs.rv());
    let Reply::C_GetMechanismList(result) = ours.reply() else {
        panic!("a reply")
    };
    if result.rv.is_ok() {
        assert_eq!(ours, theirs);
    } else {
        assert_eq!((result.mechanisms.len(), result.count.0), (0, 0));
    }
}

fn versions(answer: &Answer) -> Vec<Vec<u8>> {
    let numbers = |version: &xdr::Version| [version.major.clone(), version.minor.clone()];
    match answer.reply() {
        Reply::C_GetInfo(r) => [&r.info.cryptoki_version, &r.info.library_version]
            .map(numbers)
            .concat(),
        Reply::C_GetSlotInfo(r) => [&r.info.hardware_version, &r.info.firmware_version]
            .map(numbers)
            .concat(),
        Reply::C_GetTokenInfo(r) => [&r.info.hardware_version, &r.info.firmware_version]
            .map(numbers)
            .concat(),
        _ => Vec::new(),
    }
}

#[test]
fn every_procedure_with_an_invalid_session_and_slot() {
    for before_initialize in [true, false] {
        let mut both = Both::new();
        both.same(Call::C_SetupArch(Architecture::LITTLE_64));
        both.same(Call::C_LoadModule(b"softhsm"));
        if !before_initialize {
            both.same(Call::C_Initialize());
        }
        for function in Function::ALL
            .iter()
            .copied()
            .filter(|function| is_steady(*function))
        {
            match function {
                Function::C_GetMechanismList => mechanism_number(&mut both, SlotId(0)),
                _ => drop(both.same(empty_call(function, &[0; 64]))),
            }
        }
    }
}

#[test]
fn information_and_lists() {
    let mut both = initialised(Architecture::LITTLE_64);
    let slot = both.token_slot();
    both.same(Call::C_GetInfo());
    for present in [0, 1, 2, 255, 256, 1 << 32, u64::MAX] {
        for count in [0, 1, 2, 100] {
            both.same(Call::C_GetSlotList(Ulong(present), Ulong(count)));
        }
    }
    for slot in [slot, SlotId(1), SlotId(77), SlotId(u64::MAX)] {
        both.same(Call::C_GetSlotInfo(slot));
        both.same(Call::C_GetTokenInfo(slot));
        mechanism_number(&mut both, slot);
        for count in [3, 200] {
            both.same(Call::C_GetMechanismList(slot, Ulong(count)));
        }
        for kind in [0, 1, AES_CBC, 0x8000_0000, u64::MAX] {
            both.same(Call::C_GetMechanismInfo(slot, MechanismType(kind)));
        }
        for flags in [0, 2, 4, 6] {
            both.same(Call::C_OpenSession(slot, Flags(flags)));
        }
        both.same(Call::C_CloseAllSessions(slot));
    }
    both.same(Call::C_WaitForSlotEvent(Flags(1)));
    both.same(Call::C_WaitForSlotEvent(Flags(0)));
}

#[test]
fn sessions_pins_and_tokens() {
    let mut both = initialised(Architecture::LITTLE_64);
    let slot = both.token_slot();
    both.same(Call::C_OpenSession(slot, Flags(4)));
    both.same(Call::C_OpenSession(slot, Flags(6)));
    let session = SessionHandle(2);
    both.same(Call::C_GetSessionInfo(session));
    both.same(Call::C_Login(session, UserType(1), b"9999"));
    both.same(Call::C_Login(session, UserType(7), b"1234"));
    both.same(Call::C_Login(session, UserType(1), b"1234"));
    both.same(Call::C_Login(session, UserType(1), b"1234"));
    both.same(Call::C_GetSessionInfo(session));
    both.same(Call::C_SetPIN(session, b"1234", b"4321"));
    both.same(Call::C_SetPIN(session, b"", b"4321"));
    both.same(Call::C_SetPIN(session, b"", b""));
    both.same(Call::C_SetPIN(session, b"4321", b"1234"));
    both.same(Call::C_InitPIN(session, b""));
    both.same(Call::C_InitPIN(session, b"1234"));
    both.same(Call::C_Logout(session));
    both.same(Call::C_Logout(session));
    both.same(Call::C_CloseSession(SessionHandle(1)));
    both.same(Call::C_Login(session, UserType(0), b"12345678"));
    both.same(Call::C_InitPIN(session, b"1234"));
    both.same(Call::C_InitToken(slot, b"12345678", b"open sessions"));
    both.same(Call::C_CloseAllSessions(slot));
    both.same(Call::C_InitToken(slot, b"", b"no pin"));
    both.same(Call::C_InitToken(slot, b"wrong pin", b"label"));
    both.same(Call::C_InitToken(
        slot,
        b"12345678",
        b"a label\0of which the rest is cut, and more",
    ));
    both.same(Call::C_GetTokenInfo(slot));
    both.same(Call::C_CloseSession(session));
}

#[test]
fn objects_and_attributes() {
    let mut both = logged_in();
    let label = vec![b'x'; 40];
    let more: [(u64, &[u8]); 4] = [
        (LABEL, &label),
        (ID, &[]),
        (SENSITIVE, &[1]),
        (EXTRACTABLE, &[0]),
    ];
    let key = key(&mut both, AES, &more);
    let get = |kinds: &[(u64, &[u8])]| Call::C_GetAttributeValue(SESSION, key, template(kinds));

    for asked in [
        &[(LABEL, &[][..])][..],
        &[(LABEL, &[0; 40])],
        &[(LABEL, &[0; 100])],
        &[(CLASS, &[]), (KEY_TYPE, &[]), (LABEL, &[]), (TOKEN, &[])],
        &[(CLASS, &[0; 8]), (KEY_TYPE, &[7; 8]), (VALUE_LEN, &[0; 8])],
        &[(ID, &[])],
        &[],
        &[(LABEL, &[]), (LABEL, &[0; 40])],
    ] {
        both.same(get(asked));
    }
    both.same(Call::C_GetObjectSize(SESSION, key));
    both.same(Call::C_SetAttributeValue(
        SESSION,
        key,
        template(&[(LABEL, b"new")]),
    ));
    both.same(Call::C_SetAttributeValue(
        SESSION,
        key,
        template(&[(EXTRACTABLE, &[1])]),
    ));
    both.same(get(&[(LABEL, &[0; 100])]));
    both.same(Call::C_CopyObject(
        SESSION,
        key,
        template(&[(LABEL, b"copy")]),
    ));
    both.same(Call::C_CopyObject(SESSION, ObjectHandle(99), template(&[])));
    both.same(Call::C_CreateObject(SESSION, template(&[])));
    both.same(Call::C_CreateObject(
        SESSION,
        template(&[(CLASS, &[4, 0, 0, 0])]),
    ));

    both.same(Call::C_FindObjects(SESSION, Ulong(5)));
    for wanted in [
        &[(LABEL, &b"copy"[..])][..],
        &[(CLASS, &long(SECRET_KEY))],
        &[],
        &[(LABEL, b"no")],
    ] {
        both.same(Call::C_FindObjectsInit(SESSION, template(wanted)));
        for count in [0, 1, 1, 10, 10] {
            both.same(Call::C_FindObjects(SESSION, Ulong(count)));
        }
        both.same(Call::C_FindObjectsFinal(SESSION));
    }
    both.same(Call::C_FindObjectsFinal(SESSION));
    both.same(Call::C_DestroyObject(SESSION, key));
    both.same(Call::C_DestroyObject(SESSION, key));
}

/// D-2: an attribute that is not to be had is told by a length of all ones, not by an empty value.
#[test]
fn unavailable_attributes_are_told_from_empty_ones() {
    let mut both = logged_in();
    let key = key(&mut both, AES, &[(SENSITIVE, &[1]), (ID, &[])]);
    for asked in [
        &[(LABEL, &[][..]), (VALUE, &[0; 16]), (ID, &[])][..],
        &[(VALUE, &[])],
        &[(MODULUS_BITS, &[0; 8]), (CLASS, &[0; 8])],
        &[(CLASS, &[0; 8]), (KEY_TYPE, &[0; 4])],
    ] {
        let [theirs, mut ours] =
            both.call(Call::C_GetAttributeValue(SESSION, key, template(asked)));
        assert!(!ours.rv().is_ok());
        assert_ne!(ours, theirs, "the row of DIFFERENCES.md is not needed");
        let Reply::C_GetAttributeValue(result) = ours.reply_mut() else {
            panic!("a reply")
        };
        for attribute in &mut result.template.0 {
            if attribute.value_len == Ulong::UNAVAILABLE {
                assert!(attribute.value.is_empty());
                attribute.value_len = Ulong(0);
            }
        }
        assert_eq!(ours, theirs, "asked for {asked:x?}");
    }
}

#[test]
fn attributes_of_an_object_that_is_not_there() {
    let mut both = logged_in();
    let nothing = ObjectHandle(99);
    for asked in [
        &[(LABEL, &[][..])][..],
        &[(CLASS, &[])],
        &[(LABEL, &[5; 7]), (CLASS, &[5; 8]), (KEY_TYPE, &[])],
    ] {
        both.same(Call::C_GetAttributeValue(SESSION, nothing, template(asked)));
        both.same(Call::C_GetAttributeValue(
            SessionHandle(77),
            nothing,
            template(asked),
        ));
    }
}

/// D-3: the original's worker exits when such a value has another length than a word.
#[test]
fn a_number_of_an_odd_length_does_not_end_the_connection() {
    let mut both = logged_in();
    let asked = template(&[(CLASS, &[0; 3])]);
    let [theirs, ours] = both.call(Call::C_GetAttributeValue(SESSION, ObjectHandle(99), asked));
    assert_eq!(theirs, Answer::Closed);
    assert_eq!(ours.rv().0, 0x82);
}

#[test]
fn numbers_of_all_architectures() {
    use Architecture as A;
    for architecture in [A::LITTLE_64, A::LITTLE_32, A::BIG_64, A::BIG_32] {
        let mut both = logged_in_as(architecture);
        let word = |number| word(architecture, number);
        let (class, kind) = (word(SECRET_KEY), word(AES));
        let attributes: &[(u64, &[u8])] = &[
            (CLASS, &class),
            (KEY_TYPE, &kind),
            (VALUE, &[9; 16]),
            (LABEL, b"12345678"),
        ];
        let created = both.same(Call::C_CreateObject(SESSION, template(attributes)));
        let Reply::C_CreateObject(created) = created else {
            panic!("a reply")
        };
        assert!(created.rv.is_ok());
        let asked: &[(u64, &[u8])] = &[
            (CLASS, &class),
            (KEY_TYPE, &[]),
            (VALUE_LEN, &kind),
            (LABEL, &[0; 8]),
        ];
        both.same(Call::C_GetAttributeValue(
            SESSION,
            created.object,
            template(asked),
        ));
        both.same(Call::C_FindObjectsInit(
            SESSION,
            template(&[(CLASS, &class)]),
        ));
        both.same(Call::C_FindObjects(SESSION, Ulong(9)));
        both.same(Call::C_FindObjectsFinal(SESSION));
        let length = word(16);
        let generated = template(&[(VALUE_LEN, &length), (SENSITIVE, &[0])]);
        both.same(Call::C_GenerateKey(
            SESSION,
            mechanism(AES_KEY_GEN, &[]),
            generated,
        ));
    }
}

#[test]
fn digests_signatures_and_ciphers() {
    let mut both = logged_in();
    let secret = key(&mut both, GENERIC_SECRET, &[(SIGN, &[1]), (VERIFY, &[1])]);
    let aes = key(&mut both, AES, &[(ENCRYPT, &[1]), (DECRYPT, &[1])]);
    let long_data: Vec<u8> = (0..50_000).map(|n| (n % 251) as u8).collect();

    for data in [&b""[..], b"abc", &long_data] {
        both.same(Call::C_DigestInit(SESSION, mechanism(SHA256, &[])));
        both.same(Call::C_Digest(SESSION, data));
        both.same(Call::C_DigestInit(SESSION, mechanism(SHA256, &[])));
        both.same(Call::C_DigestUpdate(SESSION, data));
        both.same(Call::C_DigestKey(SESSION, secret));
        both.same(Call::C_DigestFinal(SESSION));

        both.same(Call::C_SignInit(
            SESSION,
            mechanism(SHA256_HMAC, &[]),
            secret,
        ));
        let Reply::C_Sign(signed) = both.same(Call::C_Sign(SESSION, data)) else {
            panic!("a reply")
        };
        for signature in [&signed.data[..], b"wrong", b""] {
            both.same(Call::C_VerifyInit(
                SESSION,
                mechanism(SHA256_HMAC, &[]),
                secret,
            ));
            both.same(Call::C_Verify(SESSION, data, signature));
        }
        both.same(Call::C_SignInit(
            SESSION,
            mechanism(SHA256_HMAC, &[]),
            secret,
        ));
        both.same(Call::C_SignUpdate(SESSION, data));
        both.same(Call::C_SignFinal(SESSION));
        both.same(Call::C_VerifyInit(
            SESSION,
            mechanism(SHA256_HMAC, &[]),
            secret,
        ));
        both.same(Call::C_VerifyUpdate(SESSION, data));
        both.same(Call::C_VerifyFinal(SESSION, &signed.data));
    }
    let iv = [3; 16];
    for (kind, parameter) in [(AES_CBC, &iv[..]), (AES_CBC_PAD, &iv), (AES_ECB, &[])] {
        let cipher = || mechanism(kind, parameter);
        for data in [&long_data[..32], &long_data[..48_000], &long_data[..5], b""] {
            both.same(Call::C_EncryptInit(SESSION, cipher(), aes));
            let Reply::C_Encrypt(encrypted) = both.same(Call::C_Encrypt(SESSION, data)) else {
                panic!("a reply")
            };
            both.same(Call::C_EncryptFinal(SESSION));
            both.same(Call::C_EncryptInit(SESSION, cipher(), aes));
            both.same(Call::C_EncryptUpdate(SESSION, data));
            both.same(Call::C_EncryptUpdate(SESSION, data));
            both.same(Call::C_EncryptFinal(SESSION));
            both.same(Call::C_DecryptInit(SESSION, cipher(), aes));
            both.same(Call::C_Decrypt(SESSION, &encrypted.data));
            both.same(Call::C_DecryptFinal(SESSION));
            both.same(Call::C_DecryptInit(SESSION, cipher(), aes));
            both.same(Call::C_DecryptUpdate(SESSION, &encrypted.data));
            both.same(Call::C_DecryptFinal(SESSION));
        }
    }
    both.same(Call::C_EncryptInit(
        SESSION,
        mechanism(AES_CBC, &[1, 2, 3]),
        aes,
    ));
    both.same(Call::C_EncryptInit(
        SESSION,
        mechanism(0x8000_0001, &[]),
        aes,
    ));
    both.same(Call::C_GetOperationState(SESSION));
    both.same(Call::C_SetOperationState(SESSION, b"state", aes, aes));
    both.same(Call::C_SeedRandom(SESSION, b"seed"));
    for length in [0, 1, 32, 20_000] {
        let [theirs, ours] = both.call(Call::C_GenerateRandom(SESSION, Ulong(length)));
        for answer in [theirs, ours] {
            let Reply::C_GenerateRandom(result) = answer.reply() else {
                panic!("a reply")
            };
            assert_eq!((result.rv.0, result.data.len() as u64), (0, length));
        }
    }
}

/// D-4: an empty mechanism parameter is NULL for the module, as it is for an application.
#[test]
fn an_empty_mechanism_parameter_is_null() {
    let mut both = logged_in();
    let more: [(u64, &[u8]); 3] = [(WRAP, &[1]), (UNWRAP, &[1]), (EXTRACTABLE, &[1])];
    let wrapping = key(&mut both, AES, &more);
    let [theirs, ours] = both.call(Call::C_WrapKey(
        SESSION,
        mechanism(AES_KEY_WRAP, &[]),
        wrapping,
        wrapping,
    ));
    assert_eq!(theirs.rv().0, 0x07);
    assert_eq!(ours.rv().0, 0x00);
}

/// D-5: mechanism parameters with pointers are refused; the original hands the client's addresses on.
#[test]
fn addresses_of_the_client_never_reach_the_module() {
    let mut both = logged_in();
    let aes = key(&mut both, AES, &[(ENCRYPT, &[1])]);
    // CK_GCM_PARAMS: an IV at an address of the client's.
    let parameter: Vec<u8> = [0x1000, 12, 96, 0, 0, 128]
        .into_iter()
        .flat_map(long)
        .collect();
    let [theirs, ours] = both.call(Call::C_EncryptInit(
        SESSION,
        mechanism(AES_GCM, &parameter),
        aes,
    ));
    assert_eq!(ours.rv().0, 0x71);
    assert_eq!(theirs, Answer::Closed);
}

/// D-6: so are nested templates.
#[test]
fn nested_templates_never_reach_the_module() {
    let mut both = logged_in();
    let nested: Vec<u8> = [3, 0x1000, 4].into_iter().flat_map(long).collect();
    let (class, kind) = (long(SECRET_KEY), long(AES));
    let attributes: &[(u64, &[u8])] = &[
        (CLASS, &class),
        (KEY_TYPE, &kind),
        (VALUE, &[0; 16]),
        (WRAP_TEMPLATE, &nested),
    ];
    let [theirs, ours] = both.call(Call::C_CreateObject(SESSION, template(attributes)));
    assert_eq!(ours.rv().0, 0x12);
    assert_eq!(theirs, Answer::Closed);
}

/// D-7: an empty PIN of C_Login is NULL for the module: a protected authentication path can be used.
#[test]
fn an_empty_login_pin_is_null() {
    let mut both = initialised(Architecture::LITTLE_64);
    let slot = both.token_slot();
    both.same(Call::C_OpenSession(slot, Flags(6)));
    let [theirs, ours] = both.call(Call::C_Login(SESSION, UserType(1), b""));
    assert_eq!(theirs.rv().0, 0xa0);
    assert_eq!(ours.rv().0, 0x07);
}

/// D-8: absurd lengths of random data are the caller's mistake, not a failure of the daemon.
#[test]
fn absurd_lengths_of_random_data_are_refused() {
    let mut both = logged_in();
    for length in [u64::MAX, 1 << 40, 1 << 62] {
        let [theirs, ours] = both.call(Call::C_GenerateRandom(SESSION, Ulong(length)));
        assert_eq!(theirs, Answer::Status(vec![0, 0, 0, 5]));
        assert_eq!(ours.rv().0, 0x07);
    }
}

/// D-9: the alias is matched as a whole; a name with a control character matches nothing.
#[test]
fn a_newline_does_not_end_an_alias() {
    let mut both = Both::new();
    let [theirs, ours] = both.call(Call::C_LoadModule(b"softhsm\nmore"));
    assert_eq!((theirs.rv().0, ours.rv().0), (0, 5));
}

/// D-10: what a search left over is gone after C_FindObjectsFinal.
#[test]
fn a_search_ends_with_its_final() {
    let mut both = logged_in();
    key(&mut both, AES, &[]);
    key(&mut both, AES, &[]);
    both.same(Call::C_FindObjectsInit(SESSION, template(&[])));
    both.same(Call::C_FindObjects(SESSION, Ulong(1)));
    both.same(Call::C_FindObjectsFinal(SESSION));
    let [theirs, ours] = both.call(Call::C_FindObjects(SESSION, Ulong(9)));
    assert_eq!(theirs.rv().0, 0);
    assert_eq!(ours.rv().0, 0x91);
}

/// Every row of DIFFERENCES.md names a test that exists, and every test that allows a difference has
/// its row.
#[test]
fn differences_are_documented() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).expect(name);
    let documented = read("DIFFERENCES.md");
    let ours = read("tests/differential/main.rs");
    let mut sources = String::new();
    for folder in [
        "tests/differential",
        "tests/e2e",
        "tests/daemon",
        "tests/tls",
        "server",
        "filter",
        "client",
        "bindings",
        "xdr",
    ] {
        collect(&root.join(folder), &mut sources);
    }
    let rows: Vec<&str> = documented
        .lines()
        .filter(|line| line.starts_with("| D-"))
        .collect();
    assert!(rows.len() >= 10, "only {} rows", rows.len());
    for row in &rows {
        let test = row
            .split('`')
            .rev()
            .nth(1)
            .expect("a row ends with its test");
        assert!(
            sources.contains(&format!("fn {test}(")),
            "no test {test}, of {row}"
        );
    }
    for line in ours.lines().filter_map(|line| {
        line.trim()
            .strip_prefix("/// D-")
            .or_else(|| line.trim().strip_prefix("// D-"))
    }) {
        let number = line.split(':').next().expect("a number");
        assert!(
            rows.iter()
                .any(|row| row.starts_with(&format!("| D-{number} "))),
            "D-{number}"
        );
    }
}

fn collect(folder: &std::path::Path, into: &mut String) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&std::fs::read_to_string(&path).expect("a source"));
        }
    }
}
