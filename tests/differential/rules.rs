//! Compares the rules of filter.conf, one at a time: the same calls to both daemons, the same replies.

use xdr::version3::{Call, Reply};
use xdr::{CkRv, Flags, MechanismType, ObjectHandle, SessionHandle, SlotId, Ulong, UserType};

use crate::raw::Both;
use crate::*;

/// Both, behind these rules, with a user logged in and two keys: `good` and `bad`.
struct Ruled {
    both: Both,
    slot: SlotId,
    good: ObjectHandle,
    bad: ObjectHandle,
}

impl Ruled {
    fn new(filter: &str) -> Ruled {
        let mut both = Both::with(filter);
        both.same(Call::C_SetupArch(Architecture::LITTLE_64));
        both.same(Call::C_LoadModule(b"softhsm"));
        both.same(Call::C_Initialize());
        let slot = both.token_slot();
        both.same(Call::C_OpenSession(slot, Flags(6)));
        both.same(Call::C_Login(SESSION, UserType(1), b"1234"));
        // What a rule keeps from being made has no handle: one that nobody has.
        let mut make = |label: &[u8], id: &[u8]| {
            let (class, kind) = (long(SECRET_KEY), long(AES));
            let attributes = template(&[
                (CLASS, &class),
                (KEY_TYPE, &kind),
                (VALUE, &[7; 16]),
                (TOKEN, &[0]),
                (LABEL, label),
                (ID, id),
                (WRAP, &[1]),
                (UNWRAP, &[1]),
                (EXTRACTABLE, &[1]),
            ]);
            match both.same(Call::C_CreateObject(SESSION, attributes)) {
                Reply::C_CreateObject(made) if made.rv.is_ok() => made.object,
                _ => ObjectHandle(0x77),
            }
        };
        let (good, bad) = (make(b"good", &[0x0a, 0xff]), make(b"bad", &[1]));
        Ruled {
            both,
            slot,
            good,
            bad,
        }
    }

    /// One call of each kind that some rule is about, for either key; each the same on both sides.
    fn same_throughout(&mut self) {
        let (slot, s) = (self.slot, SESSION);
        let iv = [0; 16];
        for key in [self.good, self.bad, ObjectHandle(0x99)] {
            for kind in [AES_ECB, AES_CBC, AES_CBC_PAD, 0x3, 0x1] {
                // Not empty, see D-4.
                let parameter: &[u8] = match kind {
                    AES_CBC | AES_CBC_PAD => &iv,
                    _ => &[0],
                };
                let m = || mechanism(kind, parameter);
                let s = self.session();
                for call in [
                    Call::C_EncryptInit(s, m(), key),
                    Call::C_DecryptInit(s, m(), key),
                    Call::C_SignInit(s, m(), key),
                    Call::C_VerifyInit(s, m(), key),
                    Call::C_SignRecoverInit(s, m(), key),
                    Call::C_WrapKey(s, m(), key, self.good),
                    Call::C_WrapKey(s, m(), self.good, key),
                    Call::C_UnwrapKey(s, m(), key, &[3; 16], template(&[(LABEL, b"bad")])),
                    Call::C_DeriveKey(s, m(), key, template(&[(LABEL, b"good")])),
                    Call::C_GenerateKey(s, m(), template(&[(LABEL, b"bad")])),
                    Call::C_GetMechanismInfo(slot, MechanismType(kind)),
                ] {
                    self.both.same(call);
                }
                // Ends the operations that began. SoftHSM does not live through a signature by
                // CKM_RSA_PKCS with an AES key.
                self.both.same(Call::C_CloseSession(s));
            }
            let renamed = template(&[(LABEL, b"bad")]);
            self.both
                .same(Call::C_SetAttributeValue(s, key, renamed.clone()));
            self.both.same(Call::C_SetAttributeValue(
                s,
                key,
                template(&[(LABEL, b"good")]),
            ));
            self.both.same(Call::C_CopyObject(s, key, renamed));
            self.both.same(Call::C_GetObjectSize(s, key));
            self.both
                .same(Call::C_DigestInit(s, mechanism(SHA256, &[])));
            self.both.same(Call::C_DigestKey(s, key));
            self.both.same(Call::C_DigestFinal(s));
        }
        self.found();
        for count in [0, 1, 30, 60, 70, 100] {
            self.both
                .same(Call::C_GetMechanismList(slot, xdr::Count(count)));
        }
        self.both.same(Call::C_OpenSession(slot, Flags(6)));
        let SessionHandle(second) = SESSION;
        self.both
            .same(Call::C_GetSessionInfo(SessionHandle(second + 1)));
        self.both.same(Call::C_Logout(s));
        for user in [0, 2, 3] {
            self.both.same(Call::C_Login(s, UserType(user), b"wrong"));
        }
        self.both.same(Call::C_Sign(s, b"x"));
        self.both.same(Call::C_DestroyObject(s, self.good));
    }

    fn session(&mut self) -> SessionHandle {
        match self.both.same(Call::C_OpenSession(self.slot, Flags(6))) {
            Reply::C_OpenSession(opened) if opened.rv.is_ok() => opened.session,
            other => panic!("{other:?}"),
        }
    }

    fn found(&mut self) {
        self.both
            .same(Call::C_FindObjectsInit(SESSION, template(&[])));
        for count in [1, 0, 9, 1] {
            self.both.same(Call::C_FindObjects(SESSION, Ulong(count)));
        }
        self.both.same(Call::C_FindObjectsFinal(SESSION));
    }
}

#[test]
fn no_rule_filters_alike() {
    Ruled::new("").same_throughout();
}

#[test]
fn forbidden_functions_filter_alike() {
    let rule = "forbidden_functions = [(\".*\", [C_Sign, C_DigestKey, C_GetObjectSize, \
                C_GenerateKey, C_FindObjectsFinal]), (\"soft.*\", [C_SetAttributeValue])]";
    Ruled::new(rule).same_throughout();
}

#[test]
fn forbidden_mechanisms_filter_alike() {
    let rule = "forbidden_mechanisms = [(\"sof.*\", [CKM_AES_ECB, CKM_RSA_X_509]), \
                (softhsm, [CKM_SHA_1, cKM_AES_CBC])]";
    Ruled::new(rule).same_throughout();
}

#[test]
fn allowed_labels_filter_alike() {
    Ruled::new("allowed_labels = [(softhsm, [\"go.*\", other])]").same_throughout();
    Ruled::new("allowed_labels = [(softhsm, [])]").same_throughout();
}

#[test]
fn allowed_ids_filter_alike() {
    Ruled::new("allowed_ids = [(\".*\", [\"0aff\"])]").same_throughout();
}

#[test]
fn read_only_sessions_filter_alike() {
    for rule in ["(\".*\", yes)", "(\".*\", no), (softhsm, yes)"] {
        Ruled::new(&format!("enforce_ro_sessions = [{rule}]")).same_throughout();
    }
}

#[test]
fn administration_filters_alike() {
    Ruled::new("forbid_admin_operations = [(\".*\", yes)]").same_throughout();
}

#[test]
fn padding_oracles_filter_alike() {
    for kinds in ["wrap", "unwrap", "encrypt", "sign", "all", "encrypt, wrap"] {
        Ruled::new(&format!("remove_padding_oracles = [(\".*\", [{kinds}])]")).same_throughout();
    }
}

/// D-87, D-88: of a hidden object nothing is told; of an invalid session, that it is.
#[test]
fn what_is_told_of_hidden_objects() {
    let mut ruled = Ruled::new("allowed_labels = [(\".*\", [nothing])]");
    let wanted = || template(&[(VALUE, &[0; 4])]);
    let ask = |session| Call::C_GetAttributeValue(session, ObjectHandle(0x99), wanted());
    let [_, ours] = ruled.both.call(ask(SESSION));
    assert_eq!(ours.rv(), CkRv::OBJECT_HANDLE_INVALID);
    ruled.both.same(ask(SessionHandle(0x55)));
    let call = Call::C_DestroyObject(SessionHandle(0x55), ObjectHandle(1));
    let [theirs, ours] = ruled.both.call(call);
    assert_eq!(theirs.rv(), CkRv::OBJECT_HANDLE_INVALID);
    assert_eq!(ours.rv(), CkRv::SESSION_HANDLE_INVALID);
}

/// Numbers from a seed (xorshift), the same in every run.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Numbers {
        Numbers((seed + 0x5bd1_e995) * 0x9e37_79b9)
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// A client that does one thing after the other, in several sessions and with several objects.
struct Client {
    ruled: Ruled,
    numbers: Numbers,
    sessions: Vec<SessionHandle>,
    objects: Vec<ObjectHandle>,
}

impl Client {
    fn new(rules: &str, seed: u64) -> Client {
        let mut ruled = Ruled::new(rules);
        let sessions = vec![SESSION, ruled.session(), ruled.session()];
        let objects = vec![ruled.good, ruled.bad, ObjectHandle(0x66)];
        Client {
            ruled,
            numbers: Numbers::new(seed),
            sessions,
            objects,
        }
    }

    fn attributes(&mut self) -> xdr::version3::Template {
        let labels: [&[u8]; 5] = [b"good", b"goods", b"bad", b"", b"x"];
        let label = self.numbers.one_of(&labels);
        let id = self.numbers.one_of(&[&[0x0a, 0xff][..], &[1], &[]]);
        let all = [(LABEL, label), (ID, id), (ENCRYPT, &[1]), (SIGN, &[0])];
        let chosen: Vec<_> = all
            .into_iter()
            .filter(|_| self.numbers.below(2) == 0)
            .collect();
        template(&chosen)
    }

    /// A call, and another if it made something.
    fn step(&mut self) {
        let s = self.numbers.one_of(&self.sessions);
        let (object, other) = (
            self.numbers.one_of(&self.objects),
            self.numbers.one_of(&self.objects),
        );
        let iv = [0; 16];
        let kind = self
            .numbers
            .one_of(&[AES_CBC, AES_CBC_PAD, AES_ECB, SHA256_HMAC, 0x1, 0x3]);
        let m = || match kind {
            AES_CBC | AES_CBC_PAD => mechanism(kind, &iv),
            _ => mechanism(kind, &[0]),
        };
        let attributes = self.attributes();
        let slot = self.ruled.slot;
        let call = match self.numbers.below(28) {
            0 => Call::C_EncryptInit(s, m(), object),
            1 => Call::C_Encrypt(s, &iv),
            2 => Call::C_EncryptUpdate(s, &iv),
            3 => Call::C_EncryptFinal(s),
            4 => Call::C_DecryptInit(s, m(), object),
            5 => Call::C_Decrypt(s, &iv),
            6 => Call::C_DigestInit(s, mechanism(SHA256, &[])),
            7 => Call::C_DigestUpdate(s, b"part"),
            8 => Call::C_DigestKey(s, object),
            9 => Call::C_DigestFinal(s),
            10 => Call::C_VerifyInit(s, mechanism(SHA256_HMAC, &[0]), object),
            11 => Call::C_VerifyRecoverInit(s, m(), object),
            12 => Call::C_SignRecoverInit(s, m(), object),
            13 => Call::C_WrapKey(s, m(), object, other),
            14 => Call::C_GetAttributeValue(s, object, template(&[(LABEL, &[0; 32])])),
            15 => Call::C_SetAttributeValue(s, object, attributes),
            16 => Call::C_GetObjectSize(s, object),
            17 => Call::C_DestroyObject(s, object),
            18 => Call::C_GetMechanismInfo(slot, MechanismType(kind)),
            19 => Call::C_GetMechanismList(slot, xdr::Count(self.numbers.below(90) as u64)),
            20 => Call::C_GetSessionInfo(s),
            21 => Call::C_Login(s, UserType(self.numbers.below(4) as u64), b"wrong"),
            22 => return self.search(s),
            23 => Call::C_CopyObject(s, object, attributes),
            24 => Call::C_UnwrapKey(s, m(), object, &[9; 32], attributes),
            25 => Call::C_GenerateKey(s, m(), attributes),
            26 => Call::C_DeriveKey(s, m(), object, attributes),
            _ => {
                let (class, kind) = (long(SECRET_KEY), long(AES));
                let more: [(u64, &[u8]); 5] = [
                    (CLASS, &class),
                    (KEY_TYPE, &kind),
                    (VALUE, &[3; 16]),
                    (TOKEN, &[0]),
                    (EXTRACTABLE, &[1]),
                ];
                let mut made = template(&more);
                made.0.extend(attributes.0.iter().cloned());
                Call::C_CreateObject(s, made)
            }
        };
        match self.ruled.both.same(call) {
            Reply::C_CreateObject(made) | Reply::C_CopyObject(made) if made.rv.is_ok() => {
                self.objects.push(made.object);
            }
            _ => {}
        }
    }

    /// A search to its end: what is left over is D-10's.
    fn search(&mut self, s: SessionHandle) {
        let attributes = self.attributes();
        let both = &mut self.ruled.both;
        if both
            .same(Call::C_FindObjectsInit(s, attributes))
            .rv()
            .is_ok()
        {
            for count in [self.numbers.below(3) as u64, 1, 1000, 1] {
                both.same(Call::C_FindObjects(s, Ulong(count)));
            }
        }
        both.same(Call::C_FindObjectsFinal(s));
    }
}

#[test]
fn clients_of_many_kinds_are_filtered_alike() {
    let rules = [
        "",
        "forbidden_functions = [(\".*\", [C_DigestKey, C_VerifyInit, C_CopyObject])]",
        "forbidden_mechanisms = [(\"s.*\", [CKM_AES_CBC, CKM_RSA_X_509])]",
        "allowed_labels = [(\".*\", [\"good.*\"])]",
        "allowed_ids = [(\".*\", [\"0a.*\"])]",
        "allowed_labels = [(\".*\", [good])]\nallowed_ids = [(softhsm, [\"01\", \"0aff\"])]",
        "enforce_ro_sessions = [(\".*\", yes)]",
        "forbid_admin_operations = [(\".*\", yes)]",
        "remove_padding_oracles = [(\".*\", [wrap, encrypt, sign])]",
        "filter_actions_pre = [(\".*\", [(C_Login, identity)])]",
    ];
    for (rules, seed) in rules.into_iter().zip(0..) {
        let mut client = Client::new(rules, seed);
        for _ in 0..300 {
            client.step();
        }
    }
}
