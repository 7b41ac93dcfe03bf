//! Compares the replies to calls that change something, and pins each difference.

use crate::messages::mechanism_number;
use crate::*;

#[test]
fn information_and_lists() {
    let mut both = initialised(Architecture::LITTLE_64);
    let slot = both.token_slot();
    both.same(Call::C_GetInfo());
    for present in [0, 1, 2, 255, 256, 1 << 32, u64::MAX] {
        for count in [0, 1, 2, 100] {
            both.same(Call::C_GetSlotList(Ulong(present), xdr::Count(count)));
        }
    }
    for slot in [slot, SlotId(1), SlotId(77), SlotId(u64::MAX)] {
        both.same(Call::C_GetSlotInfo(slot));
        both.same(Call::C_GetTokenInfo(slot));
        mechanism_number(&mut both, slot);
        for count in [3, 200] {
            both.same(Call::C_GetMechanismList(slot, xdr::Count(count)));
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

/// D-16: the zeros of a size query are 64 KiB in one reply at most; the length is told without them.
#[test]
fn the_size_of_a_long_value_is_told_without_zeros() {
    let mut both = logged_in();
    let value = vec![7; 50_000];
    let attributes: &[(u64, &[u8])] = &[
        (CLASS, &long(0)),
        (TOKEN, &[0]),
        (VALUE, &value),
        (LABEL, &value),
    ];
    let created = both.same(Call::C_CreateObject(SESSION, template(attributes)));
    let Reply::C_CreateObject(created) = created else {
        panic!("a reply")
    };
    let get = |kinds: &[(u64, &[u8])]| {
        Call::C_GetAttributeValue(SESSION, created.object, template(kinds))
    };
    both.same(get(&[(VALUE, &[]), (CLASS, &[])]));
    both.same(get(&[(VALUE, &value), (LABEL, &value)]));
    let [theirs, ours] = both.call(get(&[(VALUE, &[]), (LABEL, &[]), (CLASS, &[])]));
    let told = |answer: &Answer| {
        let Reply::C_GetAttributeValue(result) = answer.reply() else {
            panic!("a reply")
        };
        let attributes = result.template.0.iter();
        let told = attributes.map(|it| (it.value.len(), it.value_len.0));
        (result.rv.0, told.collect::<Vec<_>>())
    };
    assert_eq!(
        told(&theirs),
        (0, vec![(50_000, 50_000), (50_000, 50_000), (8, 8)])
    );
    assert_eq!(
        told(&ours),
        (0, vec![(50_000, 50_000), (0, 50_000), (8, 8)])
    );
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

/// An empty one holds no address.
#[test]
fn empty_nested_templates_are_as_in_the_original() {
    let mut both = logged_in();
    let unwrap = WRAP_TEMPLATE + 1;
    let more: &[(u64, &[u8])] = &[(WRAP, &[1]), (WRAP_TEMPLATE, &[]), (unwrap, &[])];
    let key = key(&mut both, AES, more);
    for asked in [
        &[(WRAP_TEMPLATE, &[][..])][..],
        &[
            (LABEL, &[]),
            (WRAP_TEMPLATE, &[]),
            (unwrap, &[]),
            (CLASS, &[0; 8]),
        ],
        &[(WRAP_TEMPLATE, &[0; 48])],
    ] {
        both.same(Call::C_GetAttributeValue(SESSION, key, template(asked)));
    }
    let empty = || template(&[(WRAP_TEMPLATE, &[])]);
    both.same(Call::C_SetAttributeValue(SESSION, key, empty()));
    both.same(Call::C_CopyObject(SESSION, key, empty()));
    both.same(Call::C_FindObjectsInit(SESSION, empty()));
    both.same(Call::C_FindObjects(SESSION, Ulong(9)));
    both.same(Call::C_FindObjectsFinal(SESSION));
}

/// D-17: the size of a nested template is one for the client's word size.
#[test]
fn the_size_of_a_nested_template_is_for_the_client() {
    use Architecture as A;
    let stack = Stack::direct(Token::new());
    assert_eq!(run_script(&stack, &["nestedkey"]).faults(), "");
    let token = stack.token;
    let copy = token.copy();
    let mut both = Both {
        theirs: Peer::new(Maker::Original, "", token),
        ours: Peer::new(Maker::Ours, "", copy),
    };
    for (architecture, expected) in [
        (A::LITTLE_64, 48),
        (A::BIG_64, 48),
        (A::LITTLE_32, 24),
        (A::BIG_32, 24),
    ] {
        both.reconnect();
        both.same(Call::C_SetupArch(architecture));
        both.same(Call::C_LoadModule(b"softhsm"));
        both.same(Call::C_Initialize());
        let slot = both.token_slot();
        both.same(Call::C_OpenSession(slot, Flags(4)));
        both.same(Call::C_FindObjectsInit(
            SESSION,
            template(&[(LABEL, b"nested")]),
        ));
        let Reply::C_FindObjects(found) = both.same(Call::C_FindObjects(SESSION, Ulong(2))) else {
            panic!("a reply")
        };
        let asked = template(&[(WRAP_TEMPLATE, &[]), (LABEL, &[0; 6])]);
        let call = Call::C_GetAttributeValue(SESSION, found.objects[0], asked);
        let told = both.call(call).map(|answer| {
            let Reply::C_GetAttributeValue(result) = answer.reply() else {
                panic!("a reply")
            };
            let first = &result.template.0[0];
            assert!(first.value.iter().all(|byte| *byte == 0));
            (result.rv.0, first.value.len() as u64, first.value_len.0)
        });
        assert_eq!(told, [(0, 48, 48), (0, expected, expected)]);
    }
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
