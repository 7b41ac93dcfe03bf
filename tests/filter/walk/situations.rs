//! Lists the situations that each walk begins with, because random calls seldom produce them.
//!
//! Each is an episode of its own, with the client's architecture and the calls.

use xdr::version3::Call;
use xdr::{Architecture, ObjectHandle, SessionHandle, SlotId, Ulong};

use super::{NO_OBJECT, Walk};
use crate::base::{self, Kind};
use crate::support::cryptoki::{cka, ckk, ckm, cko, mechanism, oaep, rsa_parts, template, word};

/// What each walk begins with: each in an episode of its own.
type Situation = (Architecture, fn(&mut Walk<'_>));

pub(super) const SITUATIONS: &[Situation] = &[
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
        walk.call(Call::C_GetMechanismList(SlotId(12), xdr::Count(0)));
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
        // A key that does not exist, and a mechanism that the token does not unwrap with.
        let secret = template(&[
            (cka::CLASS, word(walk.architecture, cko::SECRET_KEY)),
            (cka::KEY_TYPE, word(walk.architecture, ckk::AES)),
        ]);
        walk.call(Call::C_UnwrapKey(
            SessionHandle(1),
            mechanism(ckm::AES_CBC, &[]),
            ObjectHandle(4242),
            &[0x11; 16],
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

impl Walk<'_> {
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
}
