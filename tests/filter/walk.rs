//! A walk through PKCS#11 that a seed determines: the same calls to both daemons, reply by reply.
//!
//! It goes in episodes. Each begins with new connections and the token as it was made; a difference
//! ends it, since handles may differ from there on. Half of the episodes are hostile: booleans that
//! are none, attributes given twice, searches left open.

use xdr::{
    Architecture, Call, Flags, Mechanism, ObjectHandle, Parameter, Reply, SessionHandle, SlotId,
    Template, Ulong, UserType,
};

use crate::base::{self, Kind, P256};
use crate::configurations::Configuration;
use crate::random::Random;
use crate::rows::{self, Case, ROWS, Row};
use crate::support::cryptoki::{
    cka, ckk, ckm, cko, dh_group, mechanism, oaep, rsa_parts, template, word,
};
use crate::support::raw::{Answer, Both};
use crate::support::{Maker, Token};

type Attributes = Vec<(u64, Vec<u8>)>;

#[derive(Clone)]
struct Object {
    handle: ObjectHandle,
    kind: Kind,
    /// Made by a generator, so that its value is another on each side.
    random: bool,
}

/// How a reply is compared.
#[derive(Clone, Copy, PartialEq)]
enum Compare {
    /// Byte by byte.
    Exactly,
    /// Data by their length, values of keys by whether there are any.
    Shape,
}

/// Differences of one sort that no row allows.
pub struct Unexpected {
    what: (&'static str, String, String),
    count: usize,
    first: String,
}

impl std::fmt::Display for Unexpected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (function, theirs, ours) = &self.what;
        write!(
            f,
            "{} times {function}: the original {theirs}, ours {ours}; first under {}",
            self.count, self.first
        )
    }
}

fn short(answer: &Answer) -> String {
    match answer {
        Answer::Reply(reply) => format!("{:?}", reply.rv()),
        other => format!("{other:?}"),
    }
}

pub struct Walk<'a> {
    configuration: &'a Configuration,
    random: Random,
    base: &'a Token,
    both: Both,
    architecture: Architecture,
    slot: SlotId,
    sessions: Vec<SessionHandle>,
    objects: Vec<Object>,
    blobs: Vec<Vec<u8>>,
    ciphertexts: Vec<Vec<u8>>,
    hostile: bool,
    logged_in: bool,
    over: bool,
    /// Whether a call failed that may have left an object behind: SoftHSM does that. Such objects get
    /// their handles when they are found, in an order of its own.
    leftovers: bool,
    trace: Vec<String>,
    calls: usize,
    succeeded: usize,
    /// How often each row of the table was needed.
    pub seen: Vec<usize>,
    /// How often in the situations alone, which no chance is in.
    pub shown: Vec<usize>,
    /// Differences without a row.
    pub unexpected: Vec<Unexpected>,
}

const NO_OBJECT: ObjectHandle = ObjectHandle(4242);

const BOOLEANS: &[u64] = &[
    cka::ENCRYPT,
    cka::DECRYPT,
    cka::WRAP,
    cka::UNWRAP,
    cka::SIGN,
    cka::VERIFY,
    cka::DERIVE,
    cka::SENSITIVE,
    cka::EXTRACTABLE,
    cka::ENCRYPT,
    cka::DECRYPT,
    cka::WRAP,
    cka::UNWRAP,
    cka::SIGN,
    cka::SIGN_RECOVER,
    cka::VERIFY_RECOVER,
    cka::SENSITIVE,
    cka::EXTRACTABLE,
    cka::PRIVATE,
    cka::LOCAL,
    cka::ALWAYS_SENSITIVE,
    cka::NEVER_EXTRACTABLE,
];
const LABELS: &[&[u8]] = &[b"good", b"good2", b"bad", b"", b"base", b"kek", b"badgood"];
const IDS: &[&[u8]] = &[&[1], &[2], &[0xab], &[0xab, 0xcd], &[0xff], &[]];
const NUMBERS: &[u64] = &[cka::CLASS, cka::KEY_TYPE, cka::VALUE_LEN, cka::MODULUS_BITS];
const ASKED: &[u64] = &[
    cka::CLASS,
    cka::KEY_TYPE,
    cka::LABEL,
    cka::ID,
    cka::VALUE,
    cka::VALUE,
    cka::VALUE_LEN,
    cka::SENSITIVE,
    cka::EXTRACTABLE,
    cka::WRAP,
    cka::DECRYPT,
    cka::ENCRYPT,
    cka::SIGN,
    cka::LOCAL,
    cka::ALWAYS_SENSITIVE,
    cka::NEVER_EXTRACTABLE,
    cka::MODULUS,
    cka::PUBLIC_EXPONENT,
    cka::PRIVATE_EXPONENT,
    cka::PRIME_1,
    cka::COEFFICIENT,
    cka::EC_POINT,
    cka::TOKEN,
    cka::PRIVATE,
    cka::MODULUS_BITS,
    cka::MODIFIABLE,
];
/// Values that differ between keys made on both sides.
const OF_THE_KEY: &[u64] = &[
    cka::VALUE,
    cka::MODULUS,
    cka::PRIVATE_EXPONENT,
    cka::PRIME_1,
    cka::PRIME_2,
    cka::EXPONENT_1,
    cka::EXPONENT_2,
    cka::COEFFICIENT,
    cka::EC_POINT,
];

/// What each walk begins with: each in an episode of its own.
type Situation = (Architecture, fn(&mut Walk<'_>));

const SITUATIONS: &[Situation] = &[
    (Architecture::LITTLE_64, |walk| {
        let first = SessionHandle(1);
        walk.call(Call::C_FindObjectsInit(
            first,
            template(&[(cka::CLASS, word(walk.architecture, cko::SECRET_KEY))]),
        ));
        walk.call(Call::C_FindObjects(first, Ulong(2)));
        walk.call(Call::C_FindObjectsFinal(first));
        walk.call(Call::C_FindObjects(first, Ulong(2)));
    }),
    (Architecture::LITTLE_64, |walk| {
        walk.call(Call::C_GetMechanismList(SlotId(12), Ulong(0)));
        walk.call(Call::C_InitToken(
            walk.slot,
            b"12345678",
            b"sessions are open",
        ));
        walk.call(Call::C_GetInfo());
        let local = template(&[(cka::LOCAL, [1])]);
        walk.call(Call::C_SetAttributeValue(
            SessionHandle(1),
            ObjectHandle(7),
            local,
        ));
        walk.call(Call::C_SignEncryptUpdate(
            SessionHandle(99),
            b"0123456789abcdef",
        ));
    }),
    (Architecture::LITTLE_64, |walk| {
        for session in [SessionHandle(1), SessionHandle(99)] {
            let label = template(&[(cka::LABEL, b"good")]);
            walk.call(Call::C_SetAttributeValue(session, NO_OBJECT, label.clone()));
            walk.call(Call::C_GetAttributeValue(session, NO_OBJECT, label.clone()));
            walk.call(Call::C_SetOperationState(
                session,
                b"some state",
                NO_OBJECT,
                NO_OBJECT,
            ));
            walk.call(Call::C_VerifyRecoverInit(
                session,
                mechanism(ckm::RSA_PKCS, &[]),
                NO_OBJECT,
            ));
            walk.call(Call::C_EncryptInit(
                session,
                mechanism(ckm::AES_ECB, &[]),
                NO_OBJECT,
            ));
            walk.call(Call::C_GetObjectSize(session, NO_OBJECT));
            walk.call(Call::C_CopyObject(session, NO_OBJECT, label));
        }
    }),
    (Architecture::LITTLE_64, |walk| {
        for (label, _) in base::OBJECTS {
            let Some(object) = walk.labelled(label) else {
                continue;
            };
            walk.call(Call::C_SignInit(
                SessionHandle(1),
                mechanism(ckm::SHA224_RSA_PKCS, &[]),
                object,
            ));
            walk.call(Call::C_Sign(SessionHandle(1), b"data"));
        }
    }),
    (Architecture::LITTLE_64, |walk| {
        // Of hidden objects too: the handles follow those of three sessions.
        for handle in 4..4 + base::OBJECTS.len() as u64 {
            let asked = template(&[
                (cka::PRIME_1, vec![]),
                (cka::LABEL, vec![]),
                (cka::VALUE, vec![]),
            ]);
            walk.call(Call::C_GetAttributeValue(
                SessionHandle(1),
                ObjectHandle(handle),
                asked,
            ));
            walk.call(Call::C_SetOperationState(
                SessionHandle(1),
                b"some state",
                ObjectHandle(handle),
                ObjectHandle(0),
            ));
        }
    }),
    (Architecture::LITTLE_64, |walk| {
        walk.copy_with("good_cipher", cka::WRAP, &[1])
    }),
    (Architecture::LITTLE_64, |walk| {
        walk.copy_with("kek", cka::ENCRYPT, &[1])
    }),
    (Architecture::LITTLE_64, |walk| {
        walk.copy_with("good_cipher", cka::WRAP, &[0xff])
    }),
    (Architecture::LITTLE_64, |walk| {
        walk.copy_with("good_cipher", cka::WRAP, &[1, 0])
    }),
    (Architecture::LITTLE_64, |walk| {
        let twice = template(&[(cka::LABEL, b"good"), (cka::LABEL, b"good")]);
        walk.call(Call::C_CopyObject(SessionHandle(1), ObjectHandle(7), twice));
    }),
    // Which the original does not see the class of.
    (Architecture::BIG_64, |walk| {
        let key = [
            (cka::CLASS, word(walk.architecture, cko::SECRET_KEY)),
            (cka::KEY_TYPE, word(walk.architecture, ckk::AES)),
            (cka::VALUE, vec![7; 16]),
            (cka::WRAP, vec![1]),
            (cka::TOKEN, vec![0]),
        ];
        let reply = walk.call(Call::C_CreateObject(SessionHandle(1), template(&key)));
        walk.keep(reply, Kind::Aes, false);
        let Some(made) = walk.objects.last().cloned() else {
            return;
        };
        let asked = template(&[
            (cka::SENSITIVE, vec![0]),
            (cka::DERIVE, vec![0]),
            (cka::UNWRAP, vec![0]),
        ]);
        walk.call(Call::C_GetAttributeValue(
            SessionHandle(1),
            made.handle,
            asked,
        ));
    }),
    (Architecture::LITTLE_64, |walk| {
        walk.call(Call::C_CopyObject(
            SessionHandle(1),
            NO_OBJECT,
            template(&[(cka::WRAP, [1])]),
        ));
    }),
    (Architecture::LITTLE_64, |walk| {
        walk.copy_with("good_ec_public", cka::VALUE, &[7; 16])
    }),
    (Architecture::LITTLE_64, |walk| {
        let mut key = vec![
            (cka::CLASS, word(walk.architecture, cko::PRIVATE_KEY)),
            (cka::KEY_TYPE, word(walk.architecture, ckk::RSA)),
            (cka::TOKEN, vec![0]),
            (cka::SENSITIVE, vec![0]),
            (cka::EXTRACTABLE, vec![0]),
        ];
        key.extend(rsa_parts());
        let reply = walk.call(Call::C_CreateObject(SessionHandle(1), template(&key)));
        walk.keep(reply, Kind::RsaPrivate, false);
        if let Some(made) = walk.objects.last().cloned() {
            // Such a key has no such value.
            let value = template(&[(cka::VALUE, [7; 16])]);
            walk.call(Call::C_SetAttributeValue(
                SessionHandle(1),
                made.handle,
                value,
            ));
        }
    }),
    (Architecture::LITTLE_64, |walk| {
        // In the read-only session again.
        let claim = template(&[(cka::ALWAYS_SENSITIVE, [1])]);
        if let Some(known) = walk.labelled("good_known") {
            walk.call(Call::C_SetAttributeValue(SessionHandle(3), known, claim));
        }
    }),
    (Architecture::LITTLE_64, |walk| {
        let Some(key) = walk.labelled("good_mac") else {
            return;
        };
        let decrypts = template(&[(cka::DECRYPT, [1])]);
        walk.call(Call::C_SetAttributeValue(SessionHandle(1), key, decrypts));
    }),
    (Architecture::LITTLE_64, |walk| {
        let Some(base) = walk.labelled("good_dh") else {
            return;
        };
        let wraps = template(&[
            (cka::CLASS, word(walk.architecture, cko::SECRET_KEY)),
            (cka::KEY_TYPE, word(walk.architecture, ckk::AES)),
            (cka::VALUE_LEN, word(walk.architecture, 16)),
            (cka::WRAP, vec![1]),
            (cka::TOKEN, vec![0]),
        ]);
        let how = mechanism(ckm::DH_PKCS_DERIVE, &[0x42; 128]);
        walk.call(Call::C_DeriveKey(SessionHandle(1), how, base, wraps));
    }),
    (Architecture::LITTLE_64, |walk| {
        // What `bad_readable` and some others have.
        let guess = template(&[(cka::VALUE, [0x5a; 16])]);
        walk.call(Call::C_FindObjectsInit(SessionHandle(1), guess));
        walk.call(Call::C_FindObjects(SessionHandle(1), Ulong(9)));
        walk.call(Call::C_FindObjectsFinal(SessionHandle(1)));
    }),
    (Architecture::LITTLE_64, |walk| {
        // Which is no secret.
        let data = template(&[(cka::VALUE, b"data")]);
        walk.call(Call::C_FindObjectsInit(SessionHandle(1), data));
        walk.call(Call::C_FindObjects(SessionHandle(1), Ulong(9)));
        walk.call(Call::C_FindObjectsFinal(SessionHandle(1)));
    }),
    (Architecture::LITTLE_64, |walk| {
        // In the read-only session, which a token may tell first.
        let local = template(&[(cka::LOCAL, [1])]);
        walk.call(Call::C_SetAttributeValue(
            SessionHandle(3),
            ObjectHandle(7),
            local,
        ));
    }),
    (Architecture::LITTLE_64, |walk| {
        let (Some(kek), Some(key)) = (walk.labelled("kek"), walk.labelled("good_cipher")) else {
            return;
        };
        let how = mechanism(ckm::AES_KEY_WRAP, &[]);
        walk.call(Call::C_WrapKey(SessionHandle(1), how, kek, key));
    }),
    (Architecture::LITTLE_64, |walk| {
        let Some(key) = walk.labelled("good_wrap_private") else {
            return;
        };
        let secret = template(&[
            (cka::CLASS, word(walk.architecture, cko::SECRET_KEY)),
            (cka::KEY_TYPE, word(walk.architecture, ckk::AES)),
        ]);
        walk.call(Call::C_UnwrapKey(
            SessionHandle(1),
            oaep(),
            key,
            &[0x11; 128],
            secret,
        ));
    }),
    (Architecture::LITTLE_64, |walk| {
        walk.call(Call::C_FindObjectsInit(
            SessionHandle(1),
            template::<&[u8]>(&[]),
        ));
        walk.call(Call::C_FindObjects(SessionHandle(1), Ulong(1000)));
        walk.call(Call::C_FindObjectsFinal(SessionHandle(1)));
    }),
];

impl<'a> Walk<'a> {
    fn labelled(&self, label: &str) -> Option<ObjectHandle> {
        let position = base::OBJECTS
            .iter()
            .position(|(known, _)| *known == label)?;
        let handle = ObjectHandle(4 + position as u64);
        self.objects
            .iter()
            .any(|object| object.handle == handle)
            .then_some(handle)
    }

    fn copy_with(&mut self, label: &str, kind: u64, value: &[u8]) {
        if let Some(object) = self.labelled(label) {
            self.call(Call::C_CopyObject(
                SessionHandle(1),
                object,
                template(&[(kind, value)]),
            ));
        }
    }

    pub fn new(
        makers: [Maker; 2],
        configuration: &'a Configuration,
        base: &'a Token,
        seed: u64,
    ) -> Walk<'a> {
        Walk {
            configuration,
            random: Random::new(seed),
            base,
            both: Both::of(makers, &configuration.rules),
            architecture: Architecture::LITTLE_64,
            slot: SlotId(0),
            sessions: Vec::new(),
            objects: Vec::new(),
            blobs: Vec::new(),
            ciphertexts: Vec::new(),
            hostile: false,
            logged_in: false,
            over: true,
            leftovers: false,
            trace: Vec::new(),
            calls: 0,
            succeeded: 0,
            seen: vec![0; ROWS.len()],
            shown: Vec::new(),
            unexpected: Vec::new(),
        }
    }

    /// Makes at least that many calls, after the situations that a walk seldom comes to.
    pub fn go(&mut self, calls: usize) {
        for (architecture, situation) in SITUATIONS {
            self.begin(*architecture, false);
            situation(self);
        }
        self.shown = self.seen.clone();
        self.calls = 0;
        let mut left = 0;
        while self.calls < calls {
            if self.over || left == 0 {
                use Architecture as A;
                let others = [
                    A::LITTLE_64,
                    A::LITTLE_64,
                    A::LITTLE_64,
                    A::LITTLE_32,
                    A::BIG_64,
                    A::BIG_32,
                ];
                let architecture = *self.random.pick(&others);
                let early = self.random.once_in(6);
                self.begin(architecture, early);
                left = 100 + self.random.below(100);
            }
            left -= 1;
            self.step();
        }
        println!(
            "{}: {} calls, {} succeeded",
            self.configuration.name, self.calls, self.succeeded
        );
        for (row, count) in ROWS.iter().zip(&self.seen).filter(|(_, count)| **count > 0) {
            println!("  {} {count} times", row.number);
        }
    }

    /// New connections, and everything up to the known objects' handles; `early`: with a call before
    /// there is a module.
    fn begin(&mut self, architecture: Architecture, early: bool) {
        self.both.theirs.restore(self.base);
        self.both.ours.restore(self.base);
        self.trace.clear();
        self.sessions.clear();
        self.objects.clear();
        self.over = false;
        self.leftovers = false;
        self.hostile = self.random.once_in(2);
        self.architecture = architecture;
        self.call(Call::C_SetupArch(self.architecture));
        if early {
            self.anything_before_the_module();
        }
        self.call(Call::C_LoadModule(b"softhsm"));
        self.call(Call::C_Initialize());
        match self.call(Call::C_GetSlotList(Ulong(1), Ulong(9))) {
            Some(Reply::C_GetSlotList(list)) if !list.slots.is_empty() => self.slot = list.slots[0],
            _ => return,
        }
        for flags in [6, 6, 4] {
            self.open(flags);
        }
        self.login();
        for (label, kind) in base::OBJECTS {
            let session = self.sessions.first().copied().unwrap_or(SessionHandle(1));
            self.call(Call::C_FindObjectsInit(
                session,
                template(&[(cka::LABEL, label.as_bytes())]),
            ));
            if let Some(Reply::C_FindObjects(found)) =
                self.call(Call::C_FindObjects(session, Ulong(9)))
            {
                let object = |handle: &ObjectHandle| Object {
                    handle: *handle,
                    kind: *kind,
                    random: false,
                };
                self.objects.extend(found.objects.iter().map(object));
            }
            self.call(Call::C_FindObjectsFinal(session));
        }
    }

    fn anything_before_the_module(&mut self) {
        let session = SessionHandle(1);
        match self.random.below(5) {
            0 => drop(self.call(Call::C_Initialize())),
            1 => drop(self.call(Call::C_GetSlotList(Ulong(0), Ulong(0)))),
            2 => drop(self.call(Call::C_FindObjects(session, Ulong(3)))),
            3 => drop(self.call(Call::C_GetAttributeValue(
                session,
                NO_OBJECT,
                template(&[(cka::CLASS, [])]),
            ))),
            _ => drop(self.call(Call::C_GetObjectSize(session, NO_OBJECT))),
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..=13 => self.create(),
            14..=22 => self.read(),
            23..=30 => self.change(),
            31..=38 => self.copy(),
            39..=44 => self.generate(),
            45..=47 => self.generate_pair(),
            48..=52 => self.find(),
            53..=64 => self.cipher(),
            65..=73 => self.sign(),
            74..=79 => self.wrap(),
            80..=85 => self.unwrap(),
            86..=88 => self.derive(),
            89..=91 => self.digest(),
            92..=93 => self.session_things(),
            94..=97 => self.token_things(),
            _ => self.odd_things(),
        }
    }

    // ---- What calls are made of ---------------------------------------------------------------

    fn session(&mut self) -> SessionHandle {
        if self.sessions.is_empty() || self.random.once_in(40) {
            return SessionHandle(99);
        }
        // The first, read-write, most of the time.
        if self.random.once_in(4) {
            *self.random.pick(&self.sessions)
        } else {
            self.sessions[0]
        }
    }

    fn object(&mut self) -> Object {
        if self.objects.is_empty() || self.random.once_in(15) {
            return Object {
                handle: NO_OBJECT,
                kind: Kind::Aes,
                random: false,
            };
        }
        self.random.pick(&self.objects).clone()
    }

    /// One of these kinds, mostly.
    fn object_for(&mut self, kinds: &[Kind]) -> Object {
        let fit: Vec<Object> = self
            .objects
            .iter()
            .filter(|object| kinds.contains(&object.kind))
            .cloned()
            .collect();
        if fit.is_empty() || self.random.once_in(15) {
            self.object()
        } else {
            self.random.pick(&fit).clone()
        }
    }

    fn boolean(&mut self) -> Vec<u8> {
        if self.hostile && self.random.once_in(8) {
            let none: [&[u8]; 4] = [&[2], &[0xff], &[1, 0], &[]];
            return self.random.pick(&none).to_vec();
        }
        vec![u8::from(self.random.once_in(2))]
    }

    fn number(&mut self, number: u64) -> Vec<u8> {
        let mut bytes = word(self.architecture, number);
        if self.hostile && self.random.once_in(40) {
            bytes.pop();
        }
        bytes
    }

    /// Usages, label, id and where it lives, some of them.
    fn ornaments(&mut self, at_most: usize) -> Attributes {
        let mut made: Attributes = Vec::new();
        for _ in 0..self.random.below(at_most + 1) {
            let kind = *self.random.pick(BOOLEANS);
            // Which the token keeps for itself, and refuses.
            if (cka::LOCAL..=cka::ALWAYS_SENSITIVE).contains(&kind) && !self.random.once_in(6) {
                continue;
            }
            if made.iter().all(|(known, _)| *known != kind)
                || (self.hostile && self.random.once_in(6))
            {
                let value = self.boolean();
                made.push((kind, value));
            }
        }
        if !self.random.once_in(3) {
            made.push((cka::LABEL, self.random.pick(LABELS).to_vec()));
        }
        if self.random.once_in(2) {
            made.push((cka::ID, self.random.pick(IDS).to_vec()));
        }
        match self.random.below(8) {
            0 => made.push((cka::TOKEN, vec![1])),
            1..=5 => made.push((cka::TOKEN, vec![0])),
            _ => {}
        }
        made
    }

    fn class_and_type(&mut self, class: u64, kind: u64) -> Attributes {
        let mut made = vec![
            (cka::CLASS, self.number(class)),
            (cka::KEY_TYPE, self.number(kind)),
        ];
        if self.hostile && self.random.once_in(25) {
            let other = *self
                .random
                .pick(&[cko::DATA, cko::PUBLIC_KEY, cko::SECRET_KEY]);
            made.push((cka::CLASS, self.number(other)));
        }
        if self.random.once_in(40) {
            made.remove(0);
        }
        made
    }

    /// A template to import or make a secret key by, and what it will be.
    fn secret(&mut self) -> (Attributes, Kind) {
        if self.random.once_in(4) {
            (
                self.class_and_type(cko::SECRET_KEY, ckk::GENERIC_SECRET),
                Kind::Generic,
            )
        } else {
            (self.class_and_type(cko::SECRET_KEY, ckk::AES), Kind::Aes)
        }
    }

    fn keep(&mut self, reply: Option<Reply>, kind: Kind, random: bool) {
        let handle = match reply {
            Some(
                Reply::C_CreateObject(result)
                | Reply::C_CopyObject(result)
                | Reply::C_GenerateKey(result),
            )
            | Some(Reply::C_UnwrapKey(result) | Reply::C_DeriveKey(result))
                if result.rv.is_ok() =>
            {
                result.object
            }
            _ => return,
        };
        self.objects.push(Object {
            handle,
            kind,
            random,
        });
    }

    // ---- Steps --------------------------------------------------------------------------------

    fn create(&mut self) {
        let session = self.session();
        let (mut attributes, kind) = match self.random.below(8) {
            0 => (
                vec![
                    (cka::CLASS, self.number(cko::DATA)),
                    (cka::VALUE, b"some data".to_vec()),
                ],
                Kind::Data,
            ),
            1 => {
                let mut made = self.class_and_type(cko::PUBLIC_KEY, ckk::RSA);
                made.extend(rsa_parts()[..2].to_vec());
                (made, Kind::RsaPublic)
            }
            2 => {
                let mut made = self.class_and_type(cko::PRIVATE_KEY, ckk::RSA);
                made.extend(rsa_parts());
                (made, Kind::RsaPrivate)
            }
            3 => {
                let (prime, base) = dh_group();
                let mut made = self.class_and_type(cko::PRIVATE_KEY, ckk::DH);
                made.extend([
                    (cka::PRIME, prime),
                    (cka::BASE, base),
                    (cka::VALUE, vec![0x77; 40]),
                ]);
                (made, Kind::DhPrivate)
            }
            _ => {
                let (mut made, kind) = self.secret();
                let length = if self.random.once_in(30) { 5 } else { 16 };
                made.push((cka::VALUE, (0..length).collect()));
                (made, kind)
            }
        };
        if kind == Kind::Data {
            if self.random.once_in(2) {
                attributes.push((cka::LABEL, self.random.pick(LABELS).to_vec()));
            }
        } else {
            attributes.extend(self.ornaments(6));
        }
        let reply = self.call(Call::C_CreateObject(session, template(&attributes)));
        self.keep(reply, kind, false);
    }

    fn copy(&mut self) {
        let (session, object) = (self.session(), self.object());
        let mut attributes = self.ornaments(3);
        if self.random.once_in(20) {
            attributes.push((cka::VALUE, vec![7; 16]));
        }
        let reply = self.call(Call::C_CopyObject(
            session,
            object.handle,
            template(&attributes),
        ));
        self.keep(reply, object.kind, object.random);
    }

    fn change(&mut self) {
        let (session, object) = (self.session(), self.object());
        let mut attributes = match self.random.below(4) {
            0 => vec![(cka::LABEL, self.random.pick(LABELS).to_vec())],
            1 => vec![(cka::ID, self.random.pick(IDS).to_vec())],
            _ => Vec::new(),
        };
        for _ in 0..self.random.below(3) {
            let kind = *self.random.pick(BOOLEANS);
            let value = self.boolean();
            attributes.push((kind, value));
        }
        if self.random.once_in(12) {
            attributes.push((cka::VALUE, vec![7; 16]));
        }
        self.call(Call::C_SetAttributeValue(
            session,
            object.handle,
            template(&attributes),
        ));
    }

    fn read(&mut self) {
        let (session, object) = (self.session(), self.object());
        if self.random.once_in(12) {
            self.call(Call::C_GetObjectSize(session, object.handle));
            return;
        }
        let mut asked = Attributes::new();
        for _ in 0..1 + self.random.below(4) {
            let kind = *self.random.pick(ASKED);
            let room = match self.random.below(2) {
                0 => Vec::new(),
                _ if NUMBERS.contains(&kind) => word(self.architecture, 0),
                _ if matches!(kind, cka::LABEL | cka::ID | cka::VALUE | cka::MODULUS) => {
                    vec![0; 200]
                }
                _ if OF_THE_KEY.contains(&kind) => vec![0; 200],
                _ if kind == cka::PUBLIC_EXPONENT => vec![0; 8],
                _ => vec![0],
            };
            asked.push((kind, room));
        }
        let how = if object.random {
            Compare::Shape
        } else {
            Compare::Exactly
        };
        self.call_as(
            Call::C_GetAttributeValue(session, object.handle, template(&asked)),
            how,
        );
    }

    fn generate(&mut self) {
        let session = self.session();
        let (kind, made) = *self.random.pick(&[
            (ckm::AES_KEY_GEN, Kind::Aes),
            (ckm::AES_KEY_GEN, Kind::Aes),
            (ckm::GENERIC_SECRET_KEY_GEN, Kind::Generic),
            (0x9999, Kind::Generic),
        ]);
        let mut attributes = vec![(cka::VALUE_LEN, word(self.architecture, 16))];
        if self.random.once_in(4) {
            attributes.push((cka::CLASS, self.number(cko::SECRET_KEY)));
        }
        attributes.extend(self.ornaments(6));
        let reply = self.call(Call::C_GenerateKey(
            session,
            mechanism(kind, &[]),
            template(&attributes),
        ));
        self.keep(reply, made, true);
    }

    fn generate_pair(&mut self) {
        let session = self.session();
        let (mut public, mut private) = (self.ornaments(3), self.ornaments(4));
        let (kind, kinds) = if self.random.once_in(3) {
            public.push((cka::MODULUS_BITS, word(self.architecture, 1024)));
            public.push((cka::PUBLIC_EXPONENT, vec![1, 0, 1]));
            (
                ckm::RSA_PKCS_KEY_PAIR_GEN,
                [Kind::RsaPublic, Kind::RsaPrivate],
            )
        } else {
            public.push((cka::EC_PARAMS, P256.to_vec()));
            (ckm::EC_KEY_PAIR_GEN, [Kind::EcPublic, Kind::EcPrivate])
        };
        if self.random.once_in(4) {
            private.push((cka::CLASS, self.number(cko::PRIVATE_KEY)));
        }
        let call = Call::C_GenerateKeyPair(
            session,
            mechanism(kind, &[]),
            template(&public),
            template(&private),
        );
        if let Some(Reply::C_GenerateKeyPair(pair)) = self.call(call) {
            if pair.rv.is_ok() {
                for (handle, kind) in [pair.public_key, pair.private_key].into_iter().zip(kinds) {
                    self.objects.push(Object {
                        handle,
                        kind,
                        random: true,
                    });
                }
            }
        }
    }

    fn find(&mut self) {
        let session = self.session();
        let wanted: Attributes = match self.random.below(5) {
            0 => vec![(
                cka::CLASS,
                word(self.architecture, *self.random.pick(&[0, 2, 3, 4])),
            )],
            1 => vec![(cka::LABEL, self.random.pick(LABELS).to_vec())],
            2 => vec![(cka::ENCRYPT, vec![1])],
            _ => Vec::new(),
        };
        self.call(Call::C_FindObjectsInit(session, template(&wanted)));
        let counts = if self.leftovers {
            [1000, 1000, 0, 1000, 1000]
        } else {
            [0, 1, 2, 1000, 5]
        };
        for count in counts {
            if !self.random.once_in(3) {
                self.call(Call::C_FindObjects(session, Ulong(count)));
            }
        }
        if self.hostile && self.random.once_in(3) {
            let other = self.session();
            self.call(Call::C_FindObjects(other, Ulong(4)));
        }
        self.call(Call::C_FindObjectsFinal(session));
        if self.hostile && self.random.once_in(3) {
            self.call(Call::C_FindObjects(session, Ulong(4)));
        }
    }

    /// A cipher for a key, and whether its output is another each time.
    fn cipher_for(&mut self, kind: Kind) -> (Mechanism, bool) {
        let host = self.architecture == Architecture::LITTLE_64;
        let rsa = matches!(kind, Kind::RsaPublic | Kind::RsaPrivate) != self.random.once_in(12);
        if rsa {
            match self.random.below(5) {
                0 if host => (oaep(), true),
                1 | 2 => (mechanism(ckm::RSA_X_509, &[]), false),
                _ => (mechanism(ckm::RSA_PKCS, &[]), true),
            }
        } else {
            let iv = [9; 16];
            let choices: [(u64, &[u8]); 6] = [
                (ckm::AES_ECB, &[]),
                (ckm::AES_CBC, &iv),
                (ckm::AES_CBC, &iv),
                (ckm::AES_CBC_PAD, &iv),
                (ckm::AES_CBC, &[1, 2]),
                (0x8000_0001, &[]),
            ];
            let (kind, parameter) = *self.random.pick(&choices);
            (mechanism(kind, parameter), false)
        }
    }

    fn cipher(&mut self) {
        use Kind::{Aes, RsaPrivate, RsaPublic};
        let session = self.session();
        let encrypts = self.random.once_in(2);
        let key = self.object_for(if encrypts {
            &[Aes, RsaPublic]
        } else {
            &[Aes, RsaPrivate]
        });
        let (cipher, random) = self.cipher_for(key.kind);
        // Raw RSA wants a number smaller than the modulus.
        let data = if random || cipher.mechanism_type.0 != ckm::RSA_X_509 {
            vec![3; 32]
        } else {
            vec![3; 128]
        };
        let how = if key.random || random {
            Compare::Shape
        } else {
            Compare::Exactly
        };
        if encrypts {
            let how = self.after(Call::C_EncryptInit(session, cipher, key.handle), how);
            if self.random.once_in(4) {
                self.call_as(Call::C_EncryptUpdate(session, &data), how);
                self.call_as(Call::C_EncryptFinal(session), how);
            } else if let Some(Reply::C_Encrypt(result)) =
                self.call_as(Call::C_Encrypt(session, &data), how)
            {
                if result.rv.is_ok() && !key.random {
                    self.ciphertexts.push(result.data);
                }
            }
        } else {
            self.call(Call::C_DecryptInit(session, cipher, key.handle));
            // What garbage decrypts to is chance: a random key gets what no cipher takes.
            let data = match self.ciphertexts.len() {
                _ if key.random => vec![1; 5],
                0 => data,
                n => self.ciphertexts[self.random.below(n)].clone(),
            };
            if self.random.once_in(4) && !key.random {
                self.call(Call::C_DecryptUpdate(session, &data));
                self.call(Call::C_DecryptFinal(session));
            } else {
                self.call(Call::C_Decrypt(session, &data));
            }
        }
    }

    fn sign(&mut self) {
        use Kind::{Aes, EcPrivate, EcPublic, Generic, RsaPrivate, RsaPublic};
        let session = self.session();
        let signs = self.random.once_in(2);
        let key = self.object_for(if signs {
            &[Aes, Generic, RsaPrivate, EcPrivate]
        } else {
            &[Aes, Generic, RsaPublic, EcPublic]
        });
        let choices: &[u64] = match key.kind {
            RsaPublic | RsaPrivate => &[
                ckm::RSA_PKCS,
                ckm::SHA256_RSA_PKCS,
                ckm::RSA_X_509,
                ckm::SHA224_RSA_PKCS,
                ckm::SHA1_RSA_PKCS,
            ],
            EcPublic | EcPrivate => &[ckm::ECDSA],
            Aes => &[ckm::AES_CMAC],
            _ => &[ckm::SHA256_HMAC, ckm::SHA256_HMAC, ckm::AES_CMAC],
        };
        let kind = *self.random.pick(choices);
        let how = if key.random || kind == ckm::ECDSA {
            Compare::Shape
        } else {
            Compare::Exactly
        };
        let made = mechanism(kind, &[]);
        let data = vec![5; if kind == ckm::RSA_X_509 { 128 } else { 32 }];
        if self.random.once_in(8) {
            // SoftHSM has no recovery; the filter has its rules for it.
            if signs {
                self.call(Call::C_SignRecoverInit(session, made, key.handle));
                self.call(Call::C_SignRecover(session, &data));
            } else {
                self.call(Call::C_VerifyRecoverInit(session, made, key.handle));
                self.call(Call::C_VerifyRecover(session, &data));
            }
        } else if signs {
            let how = self.after(Call::C_SignInit(session, made, key.handle), how);
            if self.random.once_in(3) && kind != ckm::ECDSA {
                self.call(Call::C_SignUpdate(session, &data));
                self.call_as(Call::C_SignFinal(session), how);
            } else {
                self.call_as(Call::C_Sign(session, &data), how);
            }
        } else {
            self.call(Call::C_VerifyInit(session, made, key.handle));
            if self.random.once_in(3) && kind != ckm::ECDSA {
                self.call(Call::C_VerifyUpdate(session, &data));
                self.call(Call::C_VerifyFinal(session, &[1; 32]));
            } else {
                self.call(Call::C_Verify(session, &data, &[1; 32]));
            }
        }
    }

    fn wrap(&mut self) {
        use Kind::{Aes, Generic, RsaPrivate, RsaPublic};
        let session = self.session();
        let (wrapping, wrapped) = (
            self.object_for(&[Aes, RsaPublic]),
            self.object_for(&[Aes, Generic, RsaPrivate]),
        );
        // Such a key's length depends on its value.
        let wrapped = if wrapped.random && wrapped.kind == RsaPrivate {
            self.object_for(&[Aes])
        } else {
            wrapped
        };
        let host = self.architecture == Architecture::LITTLE_64;
        let (cipher, random) = match (wrapping.kind, self.random.below(6)) {
            (RsaPublic, 0..=4) if host => (oaep(), true),
            (RsaPublic, _) => (mechanism(ckm::RSA_PKCS, &[]), true),
            (_, 0) => self.cipher_for(wrapping.kind),
            _ => (mechanism(ckm::AES_CBC, &[0; 16]), false),
        };
        let random = random || wrapping.random || wrapped.random;
        let how = if random {
            Compare::Shape
        } else {
            Compare::Exactly
        };
        let call = Call::C_WrapKey(session, cipher, wrapping.handle, wrapped.handle);
        if let Some(Reply::C_WrapKey(result)) = self.call_as(call, how) {
            if result.rv.is_ok() && !wrapping.random {
                self.blobs.push(result.data);
            }
        }
    }

    fn unwrap(&mut self) {
        let session = self.session();
        let key = self.object_for(&[Kind::RsaPrivate, Kind::RsaPrivate, Kind::Aes]);
        let mut blob = match self.blobs.len() {
            n if n == 0 || self.random.once_in(10) => vec![0x11; 128 + self.random.below(2) * 30],
            n => self.blobs[self.random.below(n)].clone(),
        };
        if self.random.once_in(8) && !blob.is_empty() {
            let position = self.random.below(blob.len());
            blob[position] ^= 1;
        }
        let host = self.architecture == Architecture::LITTLE_64;
        let cipher = match self.random.below(9) {
            0..=6 if host => oaep(),
            8 => mechanism(ckm::RSA_PKCS, &[]),
            _ => mechanism(ckm::AES_CBC, &[0; 16]),
        };
        let (mut attributes, kind) = self.secret();
        attributes.extend(self.ornaments(3));
        // A random key would tell garbage from a key by chance.
        if key.random {
            blob.truncate(5);
        }
        let reply = self.call(Call::C_UnwrapKey(
            session,
            cipher,
            key.handle,
            &blob,
            template(&attributes),
        ));
        self.keep(reply, kind, false);
    }

    fn derive(&mut self) {
        let session = self.session();
        let base = self.object_for(&[Kind::DhPrivate]);
        let (mut attributes, kind) = self.secret();
        attributes.push((cka::VALUE_LEN, word(self.architecture, 16)));
        attributes.extend(self.ornaments(4));
        let how = mechanism(ckm::DH_PKCS_DERIVE, &[0x42; 128]);
        let reply = self.call(Call::C_DeriveKey(
            session,
            how,
            base.handle,
            template(&attributes),
        ));
        self.keep(reply, kind, base.random);
    }

    fn digest(&mut self) {
        let session = self.session();
        let kind = *self
            .random
            .pick(&[ckm::SHA256, ckm::SHA_1, ckm::SHA256_HMAC]);
        self.call(Call::C_DigestInit(session, mechanism(kind, &[])));
        match self.random.below(3) {
            0 => {
                let key = self.object_for(&[Kind::Generic, Kind::Aes]);
                let how = if key.random {
                    Compare::Shape
                } else {
                    Compare::Exactly
                };
                self.call(Call::C_DigestKey(session, key.handle));
                self.call_as(Call::C_DigestFinal(session), how);
            }
            1 => {
                self.call(Call::C_DigestUpdate(session, b"some data"));
                self.call(Call::C_DigestFinal(session));
            }
            _ => drop(self.call(Call::C_Digest(session, b"some data"))),
        }
    }

    fn open(&mut self, flags: u64) {
        if let Some(Reply::C_OpenSession(result)) =
            self.call(Call::C_OpenSession(self.slot, Flags(flags)))
        {
            if result.rv.is_ok() {
                self.sessions.push(result.session);
            }
        }
    }

    fn login(&mut self) {
        let session = self.sessions.first().copied().unwrap_or(SessionHandle(1));
        self.call(Call::C_Login(session, UserType(1), b"1234"));
        self.logged_in = true;
    }

    fn session_things(&mut self) {
        let session = self.session();
        match self.random.below(9) {
            0 => self.open(6),
            1 => self.open(4),
            2 if self.sessions.len() > 2 => {
                let closed = self.sessions.swap_remove(2);
                self.call(Call::C_CloseSession(closed));
            }
            3 => {
                self.call(Call::C_Logout(session));
                self.logged_in = false;
                self.call(Call::C_GetSessionInfo(session));
                if !self.random.once_in(4) {
                    self.login();
                }
            }
            4 => {
                let user = *self.random.pick(&[0, 1, 2, 3]);
                let pin: &[u8] = self
                    .random
                    .pick::<&[u8]>(&[&b"1234"[..], b"9999", b"12345678"]);
                self.call(Call::C_Login(session, UserType(user), pin));
            }
            5 => drop(self.call(Call::C_GetOperationState(session))),
            6 => {
                let (one, two) = (self.object(), self.object());
                self.call(Call::C_SetOperationState(
                    session,
                    b"some state",
                    one.handle,
                    two.handle,
                ));
            }
            7 => drop(self.call(Call::C_InitPIN(session, b"1234"))),
            _ => drop(self.call(Call::C_GetSessionInfo(session))),
        }
    }

    fn token_things(&mut self) {
        let slot = if self.random.once_in(3) {
            SlotId(12)
        } else {
            self.slot
        };
        match self.random.below(7) {
            0 => drop(self.call(Call::C_GetInfo())),
            1 => drop(self.call(Call::C_GetSlotInfo(slot))),
            2 => {
                // Memory and time are the host's.
                self.call_as(Call::C_GetTokenInfo(slot), Compare::Shape);
            }
            3 => {
                let count = *self.random.pick(&[0, 0, 0, 1, 40, 65, 66, 70, 71, 200]);
                self.call(Call::C_GetMechanismList(slot, Ulong(count)));
            }
            4 => {
                let kind = *self.random.pick(&[
                    ckm::RSA_X_509,
                    ckm::AES_ECB,
                    ckm::SHA256,
                    ckm::AES_KEY_GEN,
                    ckm::AES_CBC,
                    0x77,
                ]);
                self.call(Call::C_GetMechanismInfo(slot, xdr::MechanismType(kind)));
            }
            5 => drop(self.call(Call::C_GetSlotList(Ulong(0), Ulong(0)))),
            _ => drop(self.call(Call::C_WaitForSlotEvent(Flags(1)))),
        }
    }

    fn odd_things(&mut self) {
        let session = self.session();
        match self.random.below(12) {
            0 => {
                let length = self.random.below(40) as u64;
                self.call_as(
                    Call::C_GenerateRandom(session, Ulong(length)),
                    Compare::Shape,
                );
            }
            1 => drop(self.call(Call::C_SeedRandom(session, b"seed"))),
            2 => drop(self.call(Call::C_GetFunctionStatus(session))),
            3 => drop(self.call(Call::C_CancelFunction(session))),
            4 => drop(self.call(Call::C_DigestEncryptUpdate(session, b"0123456789abcdef"))),
            5 => drop(self.call(Call::C_SignEncryptUpdate(session, b"0123456789abcdef"))),
            6 => drop(self.call(Call::C_DecryptVerifyUpdate(session, b"0123456789abcdef"))),
            7 => drop(self.call(Call::C_Sign(session, b"no operation"))),
            8 => drop(self.call(Call::C_InitToken(
                self.slot,
                b"12345678",
                b"sessions are open",
            ))),
            9 => drop(self.call(Call::C_SetPIN(session, b"0000", b"1111"))),
            10 => drop(self.call(Call::C_DecryptDigestUpdate(session, b"0123456789abcdef"))),
            _ => {
                let object = self.object();
                let reply = self.call(Call::C_DestroyObject(session, object.handle));
                if matches!(reply, Some(Reply::C_DestroyObject(rv)) if rv.is_ok()) {
                    self.objects.retain(|known| known.handle != object.handle);
                }
            }
        }
    }

    // ---- Comparing ----------------------------------------------------------------------------

    fn call(&mut self, call: Call<'_>) -> Option<Reply> {
        self.call_as(call, Compare::Exactly)
    }

    /// Begins an operation. Where that fails another may be active, which may have chance in it.
    fn after(&mut self, init: Call<'_>, how: Compare) -> Compare {
        match self.call(init) {
            Some(reply) if reply.rv().is_ok() => how,
            _ => Compare::Shape,
        }
    }

    /// The original's reply, unless the episode ended with it.
    fn call_as(&mut self, call: Call<'_>, how: Compare) -> Option<Reply> {
        if self.over {
            return None;
        }
        self.calls += 1;
        self.trace.push(describe(&call));
        let [theirs, ours] = self.both.call(call.clone());
        let seen = (self.shape(&theirs, how), self.shape(&ours, how));
        if seen.0 != seen.1 {
            // Chance is not to hide what a row allows.
            let as_seen = |seen: Option<Reply>, answer| seen.map_or(answer, Answer::Reply);
            self.differ(&call, as_seen(seen.0, theirs), as_seen(seen.1, ours));
            return None;
        }
        match theirs {
            Answer::Reply(reply) => {
                self.succeeded += usize::from(reply.rv().is_ok());
                let makes = matches!(
                    reply,
                    Reply::C_CreateObject(_)
                        | Reply::C_CopyObject(_)
                        | Reply::C_GenerateKey(_)
                        | Reply::C_GenerateKeyPair(_)
                        | Reply::C_UnwrapKey(_)
                        | Reply::C_DeriveKey(_)
                );
                self.leftovers |= makes && !reply.rv().is_ok();
                // Both refuse it with one code, the original in the module, which may have made
                // something by then.
                if !reply.rv().is_ok() && rows::is_unusual(&call, self.architecture) {
                    self.over = true;
                }
                Some(reply)
            }
            _ => {
                self.over = true;
                None
            }
        }
    }

    fn differ(&mut self, call: &Call<'_>, theirs: Answer, ours: Answer) {
        let case = Case {
            configuration: self.configuration.name,
            call,
            theirs: &theirs,
            ours: &ours,
            architecture: self.architecture,
        };
        let row = ROWS.iter().position(|row: &Row| (row.applies)(&case));
        match row {
            Some(position) => {
                self.seen[position] += 1;
                self.over = !ROWS[position].goes_on;
            }
            None => {
                self.over = true;
                let difference = (call.function().name(), short(&theirs), short(&ours));
                if let Some(known) = self
                    .unexpected
                    .iter_mut()
                    .find(|known| known.what == difference)
                {
                    known.count += 1;
                    return;
                }
                let before: Vec<&str> = self
                    .trace
                    .iter()
                    .rev()
                    .take(14)
                    .rev()
                    .map(String::as_str)
                    .collect();
                self.unexpected.push(Unexpected {
                    what: difference,
                    count: 1,
                    first: format!(
                        "{}, architecture {}\n    {}\n  original {theirs:?}\n  ours     {ours:?}",
                        self.configuration.name,
                        self.architecture.0,
                        before.join("\n    ")
                    ),
                });
            }
        }
    }

    /// A reply without what is chance.
    fn shape(&self, answer: &Answer, how: Compare) -> Option<Reply> {
        let Answer::Reply(reply) = answer else {
            return None;
        };
        let mut reply = reply.clone();
        if let Reply::C_FindObjects(result) = &mut reply {
            // Those of failed calls.
            if self.leftovers {
                result
                    .objects
                    .retain(|handle| self.objects.iter().any(|known| known.handle == *handle));
                result.count = Ulong(0);
            }
            return Some(reply);
        }
        if how == Compare::Exactly {
            return Some(reply);
        }
        match &mut reply {
            Reply::C_GetAttributeValue(result) => {
                for attribute in &mut result.template.0 {
                    if OF_THE_KEY.contains(&attribute.attribute_type.0)
                        && !attribute.value.is_empty()
                    {
                        attribute.value = vec![0];
                        attribute.value_len = Ulong(1);
                    }
                }
            }
            Reply::C_GetTokenInfo(result) => {
                let info = &mut result.info;
                info.utc_time.fill(0);
                info.free_public_memory = Ulong(0);
                info.free_private_memory = Ulong(0);
            }
            Reply::C_WrapKey(result) => {
                // The format's attributes, between the blob and 16 bytes of MAC, are no chance.
                let length = result.data.len();
                let from = if self.configuration.wrapping_format {
                    length.saturating_sub(30)
                } else {
                    length
                };
                let to = length.saturating_sub(16).max(from);
                for (position, byte) in result.data.iter_mut().enumerate() {
                    if !(from..to).contains(&position) {
                        *byte = 0;
                    }
                }
            }
            Reply::C_Encrypt(result)
            | Reply::C_EncryptUpdate(result)
            | Reply::C_EncryptFinal(result)
            | Reply::C_Sign(result)
            | Reply::C_SignFinal(result)
            | Reply::C_DigestFinal(result)
            | Reply::C_GenerateRandom(result) => result.data.fill(0),
            _ => {}
        }
        Some(reply)
    }
}

/// A call for the eye.
pub fn describe(call: &Call<'_>) -> String {
    let name = call.function().name();
    let attributes = |template: &Template| -> String {
        let one = |attribute: &xdr::Attribute| {
            let value: String = attribute
                .value
                .iter()
                .take(10)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            format!(
                "{:x}={value}({})",
                attribute.attribute_type.0,
                attribute.value.len()
            )
        };
        template.0.iter().map(one).collect::<Vec<_>>().join(" ")
    };
    match call {
        Call::C_FindObjectsInit(s, t) | Call::C_CreateObject(s, t) => {
            format!("{name} s{} {}", s.0, attributes(t))
        }
        Call::C_CopyObject(s, o, t)
        | Call::C_GetAttributeValue(s, o, t)
        | Call::C_SetAttributeValue(s, o, t) => {
            format!("{name} s{} o{} {}", s.0, o.0, attributes(t))
        }
        Call::C_GenerateKey(s, m, t) => format!(
            "{name} s{} m{:x} {}",
            s.0,
            m.mechanism_type.0,
            attributes(t)
        ),
        Call::C_GenerateKeyPair(s, m, public, private) => {
            format!(
                "{name} s{} m{:x} {} / {}",
                s.0,
                m.mechanism_type.0,
                attributes(public),
                attributes(private)
            )
        }
        Call::C_UnwrapKey(s, m, k, blob, t) => {
            format!(
                "{name} s{} m{:x} k{} {} bytes {}",
                s.0,
                m.mechanism_type.0,
                k.0,
                blob.len(),
                attributes(t)
            )
        }
        Call::C_DeriveKey(s, m, k, t) => format!(
            "{name} s{} m{:x} k{} {}",
            s.0,
            m.mechanism_type.0,
            k.0,
            attributes(t)
        ),
        Call::C_WrapKey(s, m, w, k) => format!(
            "{name} s{} m{:x} w{} k{}",
            s.0, m.mechanism_type.0, w.0, k.0
        ),
        Call::C_EncryptInit(s, m, k)
        | Call::C_DecryptInit(s, m, k)
        | Call::C_SignInit(s, m, k)
        | Call::C_VerifyInit(s, m, k)
        | Call::C_SignRecoverInit(s, m, k)
        | Call::C_VerifyRecoverInit(s, m, k) => {
            format!(
                "{name} s{} m{:x}({} bytes) k{}",
                s.0,
                m.mechanism_type.0,
                match &m.parameter {
                    Parameter::Unread(bytes) => bytes.len(),
                    _ => 0,
                },
                k.0
            )
        }
        other => format!("{name} {}", arguments(other)),
    }
}

fn arguments(call: &Call<'_>) -> String {
    let mut buffer = Vec::new();
    let bytes = xdr::rpc::write_call(xdr::rpc::Xid(0), call, &mut buffer)
        .expect("small")
        .to_vec();
    bytes[44..]
        .iter()
        .take(48)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
