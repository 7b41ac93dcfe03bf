//! Makes the token of which both daemons get a copy: keys made on it, imported keys, and their labels.
//!
//! A search for one label gives one object its handle, so that the handles are the same on both sides: SoftHSM numbers
//! the results of a search that finds several objects in an order of its own.

use xdr::version3::{Call, Reply};
use xdr::{Architecture, Flags, SessionHandle, Ulong, UserType};

use crate::support::cryptoki::{
    cka, ckk, ckm, cko, dh_group, long, mechanism, rsa_parts, template,
};
use crate::support::raw::Peer;
use crate::support::{Maker, Token};

/// What an object can be tried for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    Aes,
    Generic,
    RsaPublic,
    RsaPrivate,
    EcPublic,
    EcPrivate,
    DhPrivate,
    Data,
}

/// Labels and kinds of the token's objects. Keys whose values are known have a name with `_known`.
pub const OBJECTS: &[(&str, Kind)] = &[
    ("kek", Kind::Aes),
    ("kek_known", Kind::Aes),
    ("kek_conflicting", Kind::Aes),
    ("good_cipher", Kind::Aes),
    ("good_known", Kind::Aes),
    ("base", Kind::Aes),
    ("good\nbad", Kind::Aes),
    ("bad_readable", Kind::Aes),
    ("bad_hidden", Kind::Aes),
    ("good_mac", Kind::Generic),
    ("good_wrap_public", Kind::RsaPublic),
    ("good_wrap_private", Kind::RsaPrivate),
    ("good_rsa_public", Kind::RsaPublic),
    ("good_rsa_private", Kind::RsaPrivate),
    ("base_rsa_public", Kind::RsaPublic),
    ("base_rsa_private", Kind::RsaPrivate),
    ("good_ec_public", Kind::EcPublic),
    ("good_ec_private", Kind::EcPrivate),
    ("good_dh", Kind::DhPrivate),
    ("good_data", Kind::Data),
    ("", Kind::Data),
];

type Attributes = Vec<(u64, Vec<u8>)>;

fn flags(on: &[u64], off: &[u64]) -> Attributes {
    let on = on.iter().map(|kind| (*kind, vec![1]));
    on.chain(off.iter().map(|kind| (*kind, vec![0]))).collect()
}

fn named(label: &str, id: &[u8], more: &[Attributes]) -> Attributes {
    let mut all = vec![
        (cka::TOKEN, vec![1]),
        (cka::LABEL, label.into()),
        (cka::ID, id.to_vec()),
    ];
    all.extend(more.iter().flatten().cloned());
    all
}

fn secret(kind: u64, value: &[u8]) -> Attributes {
    vec![
        (cka::CLASS, long(cko::SECRET_KEY)),
        (cka::KEY_TYPE, long(kind)),
        (cka::VALUE, value.to_vec()),
    ]
}

/// The P-256 curve's object identifier.
pub const P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

/// Makes the token, through the original's daemon without rules.
pub fn token() -> Token {
    use cka::{DECRYPT, DERIVE, ENCRYPT, EXTRACTABLE, SENSITIVE, SIGN, UNWRAP, VERIFY, WRAP};

    const OF_PUBLIC: &[u64] = &[ENCRYPT, WRAP, VERIFY];
    const OF_PRIVATE: &[u64] = &[DECRYPT, UNWRAP, SIGN];
    // These usages and no other.
    let only = |of: &[&[u64]], on: &[u64]| -> Attributes {
        let off: Vec<u64> = of
            .concat()
            .into_iter()
            .filter(|kind| !on.contains(kind))
            .collect();
        flags(on, &off)
    };
    let without = |on: &[u64]| only(&[OF_PUBLIC, OF_PRIVATE], on);
    let mut maker = Maker_::new();
    for (label, id, on) in [
        ("kek", &[1][..], &[WRAP, UNWRAP][..]),
        ("kek_conflicting", &[2], &[WRAP, DECRYPT, ENCRYPT, UNWRAP]),
        ("good_cipher", &[1], &[ENCRYPT, DECRYPT]),
        ("base", &[2], &[ENCRYPT, DECRYPT, SIGN, VERIFY]),
    ] {
        let more = [
            without(on),
            flags(&[SENSITIVE, EXTRACTABLE], &[]),
            vec![(cka::VALUE_LEN, long(16))],
        ];
        maker.call(Call::C_GenerateKey(
            S,
            mechanism(ckm::AES_KEY_GEN, &[]),
            template(&named(label, id, &more)),
        ));
    }
    let zeros = [0x5a; 16];
    for (label, id, on, state) in [
        (
            "kek_known",
            &[1][..],
            &[WRAP, UNWRAP, ENCRYPT][..],
            flags(&[SENSITIVE, EXTRACTABLE], &[]),
        ),
        (
            "good_known",
            &[0xab, 1],
            &[ENCRYPT, DECRYPT],
            flags(&[SENSITIVE, EXTRACTABLE], &[]),
        ),
        (
            "good\nbad",
            &[0xab, 0xcd],
            &[ENCRYPT, DECRYPT],
            flags(&[EXTRACTABLE], &[SENSITIVE]),
        ),
        (
            "bad_readable",
            &[0xff],
            &[ENCRYPT, DECRYPT],
            flags(&[EXTRACTABLE], &[SENSITIVE]),
        ),
        (
            "bad_hidden",
            &[],
            &[SIGN, VERIFY],
            flags(&[SENSITIVE], &[EXTRACTABLE]),
        ),
    ] {
        let more = [secret(ckk::AES, &zeros), without(on), state];
        maker.call(Call::C_CreateObject(S, template(&named(label, id, &more))));
    }
    let more = [
        without(&[SIGN, VERIFY]),
        flags(&[SENSITIVE], &[EXTRACTABLE]),
        vec![(cka::VALUE_LEN, long(32))],
    ];
    let kind = mechanism(ckm::GENERIC_SECRET_KEY_GEN, &[]);
    maker.call(Call::C_GenerateKey(
        S,
        kind,
        template(&named("good_mac", &[1], &more)),
    ));

    for (name, id, public, private) in [
        ("good_wrap", &[1][..], &[WRAP][..], &[UNWRAP][..]),
        ("good_rsa", &[1], &[ENCRYPT, VERIFY], &[DECRYPT, SIGN]),
    ] {
        let rsa = vec![
            (cka::MODULUS_BITS, long(1024)),
            (cka::PUBLIC_EXPONENT, vec![1, 0, 1]),
        ];
        maker.pair(
            ckm::RSA_PKCS_KEY_PAIR_GEN,
            name,
            id,
            [only(&[OF_PUBLIC], public), rsa],
            [
                only(&[OF_PRIVATE], private),
                flags(&[SENSITIVE, EXTRACTABLE], &[]),
            ],
        );
    }
    let curve = vec![(cka::EC_PARAMS, P256.to_vec())];
    maker.pair(
        ckm::EC_KEY_PAIR_GEN,
        "good_ec",
        &[1],
        [flags(&[VERIFY], &[]), curve],
        [flags(&[SIGN, SENSITIVE], &[EXTRACTABLE]), Vec::new()],
    );

    let rsa = vec![(cka::KEY_TYPE, long(ckk::RSA))];
    let parts = rsa_parts();
    let public = [
        vec![(cka::CLASS, long(cko::PUBLIC_KEY))],
        rsa.clone(),
        parts[..2].to_vec(),
        only(&[OF_PUBLIC], &[ENCRYPT, WRAP]),
    ];
    maker.call(Call::C_CreateObject(
        S,
        template(&named("base_rsa_public", &[2], &public)),
    ));
    let private = [
        vec![(cka::CLASS, long(cko::PRIVATE_KEY))],
        rsa,
        parts.to_vec(),
        only(&[OF_PRIVATE], &[DECRYPT, UNWRAP]),
        flags(&[SENSITIVE, EXTRACTABLE], &[]),
    ];
    maker.call(Call::C_CreateObject(
        S,
        template(&named("base_rsa_private", &[2], &private)),
    ));
    let (prime, base) = dh_group();
    let dh = [
        vec![
            (cka::CLASS, long(cko::PRIVATE_KEY)),
            (cka::KEY_TYPE, long(ckk::DH)),
        ],
        vec![
            (cka::PRIME, prime),
            (cka::BASE, base),
            (cka::VALUE, vec![0x77; 40]),
        ],
        flags(&[DERIVE, SENSITIVE], &[EXTRACTABLE]),
    ];
    maker.call(Call::C_CreateObject(
        S,
        template(&named("good_dh", &[1], &dh)),
    ));
    let data = |label: &[u8]| {
        template(&[
            (cka::CLASS, long(cko::DATA)),
            (cka::TOKEN, vec![1]),
            (cka::LABEL, label.to_vec()),
            (cka::VALUE, b"data".to_vec()),
        ])
    };
    maker.call(Call::C_CreateObject(S, data(b"good_data")));
    maker.call(Call::C_CreateObject(S, data(b"")));
    maker.finish()
}

const S: SessionHandle = SessionHandle(1);

/// A trusted user, who is there before the filter is.
struct Maker_(Peer);

impl Maker_ {
    fn new() -> Maker_ {
        let mut peer = Peer::new(Maker::Original, "", Token::new());
        let connection = peer.connection();
        connection.call(Call::C_SetupArch(Architecture::LITTLE_64));
        connection.call(Call::C_LoadModule(b"softhsm"));
        connection.call(Call::C_Initialize());
        let Reply::C_GetSlotList(list) = connection
            .call(Call::C_GetSlotList(Ulong(1), xdr::Count(9)))
            .reply()
            .clone()
        else {
            panic!("a reply")
        };
        let mut maker = Maker_(peer);
        maker.call(Call::C_OpenSession(list.slots[0], Flags(6)));
        maker.call(Call::C_Login(S, UserType(1), b"1234"));
        maker
    }

    fn call(&mut self, call: Call<'_>) {
        let name = call.function().name();
        let answer = self.0.connection().call(call);
        assert!(answer.rv().is_ok(), "{name}: {answer:?}");
    }

    fn pair(
        &mut self,
        kind: u64,
        name: &str,
        id: &[u8],
        public: [Attributes; 2],
        private: [Attributes; 2],
    ) {
        let public = template(&named(&format!("{name}_public"), id, &public));
        let private = template(&named(&format!("{name}_private"), id, &private));
        self.call(Call::C_GenerateKeyPair(
            S,
            mechanism(kind, &[]),
            public,
            private,
        ));
    }

    fn finish(self) -> Token {
        let Peer { daemon, token, .. } = self.0;
        drop(daemon);
        token
    }
}
