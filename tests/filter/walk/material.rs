//! Chooses the arguments of the calls of a walk: sessions, objects, attributes and their values.

use xdr::SessionHandle;
use xdr::version3::Reply;

use super::{Attributes, NO_OBJECT, Object, Walk};
use crate::base::Kind;
use crate::support::cryptoki::{cka, ckk, cko, word};

pub(super) const BOOLEANS: &[u64] = &[
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
pub(super) const LABELS: &[&[u8]] = &[b"good", b"good2", b"bad", b"", b"base", b"kek", b"badgood"];
pub(super) const IDS: &[&[u8]] = &[&[1], &[2], &[0xab], &[0xab, 0xcd], &[0xff], &[]];
pub(super) const NUMBERS: &[u64] = &[cka::CLASS, cka::KEY_TYPE, cka::VALUE_LEN, cka::MODULUS_BITS];
pub(super) const ASKED: &[u64] = &[
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

impl Walk<'_> {
    pub(super) fn session(&mut self) -> SessionHandle {
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

    pub(super) fn object(&mut self) -> Object {
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
    pub(super) fn object_for(&mut self, kinds: &[Kind]) -> Object {
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

    pub(super) fn boolean(&mut self) -> Vec<u8> {
        if self.hostile && self.random.once_in(8) {
            let none: [&[u8]; 4] = [&[2], &[0xff], &[1, 0], &[]];
            return self.random.pick(&none).to_vec();
        }
        vec![u8::from(self.random.once_in(2))]
    }

    pub(super) fn number(&mut self, number: u64) -> Vec<u8> {
        let mut bytes = word(self.architecture, number);
        if self.hostile && self.random.once_in(40) {
            bytes.pop();
        }
        bytes
    }

    /// Usages, label, id and where it lives, some of them.
    pub(super) fn ornaments(&mut self, at_most: usize) -> Attributes {
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

    pub(super) fn class_and_type(&mut self, class: u64, kind: u64) -> Attributes {
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
    pub(super) fn secret(&mut self) -> (Attributes, Kind) {
        if self.random.once_in(4) {
            (
                self.class_and_type(cko::SECRET_KEY, ckk::GENERIC_SECRET),
                Kind::Generic,
            )
        } else {
            (self.class_and_type(cko::SECRET_KEY, ckk::AES), Kind::Aes)
        }
    }

    pub(super) fn keep(&mut self, reply: Option<Reply>, kind: Kind, random: bool) {
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
}
