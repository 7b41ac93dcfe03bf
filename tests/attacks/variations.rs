//! Lists more plans of the attack families in `traces`, which none of the sources has: one key in several objects, each
//! with one role; keys that come back; searches that reveal a secret by yes or no.

use xdr::version3::{Call, Reply};
use xdr::{Architecture, ObjectHandle};

use crate::client::{Attributes, How, on, over};
use crate::plans::{derive, encrypt_at_home, minimal, public_key, s7};
use crate::scene::{KNOWN, PEER};
use crate::support::cryptoki::{cka, ckk, ckm, cko, dh_group, mechanism, rsa_parts, template};
use crate::traces::{Attack, from, off, plan, with};

use cka::{
    DECRYPT, DERIVE, ENCRYPT, EXTRACTABLE, SENSITIVE, SIGN, TOKEN, UNWRAP, VALUE, VALUE_LEN,
    VERIFY, WRAP,
};

pub const VARIATIONS: &[Attack] = &[
    // One key in two objects, each with one role.
    plan("S5 two copies of a key without usages", |s| {
        let key = s.client.generate(Vec::new())?;
        let wraps = s.client.copy(key, on(&[WRAP]))?;
        let decrypts = s.client.copy(key, on(&[DECRYPT]))?;
        s.wrap_and_decrypt(How::Cbc, wraps, decrypts)
    }),
    plan(
        "S5 two copies of a key without usages, roles set later",
        |s| {
            let key = s.client.generate(Vec::new())?;
            let copy = s.client.copy(key, with(cka::LABEL, b"copy"))?;
            s.client.set(copy, on(&[WRAP]))?;
            s.client.set(key, on(&[DECRYPT]))?;
            s.wrap_and_decrypt(How::Cbc, copy, key)
        },
    ),
    plan("S5 the original wraps and is gone, a copy decrypts", |s| {
        let key = s.client.generate(Vec::new())?;
        let copy = s.client.copy(key, with(cka::LABEL, b"copy"))?;
        s.client.set(key, on(&[WRAP]))?;
        let target = s.client.find("target")?;
        let blob = s.client.wrap_bare(How::Cbc, key, target)?;
        s.client
            .call(Call::C_DestroyObject(s.client.session, key))?;
        s.client.set(copy, on(&[DECRYPT]))?;
        let value = s.client.open_blob(How::Cbc, copy, &blob)?;
        s.is_target(&value)
    }),
    plan(
        "S5 a key that encrypts: one copy wraps, one decrypts",
        |s| {
            let key = s.client.generate(on(&[ENCRYPT]))?;
            let wraps = s.client.copy(key, on(&[WRAP]))?;
            let decrypts = s.client.copy(key, on(&[DECRYPT]))?;
            s.wrap_and_decrypt(How::Cbc, wraps, decrypts)
        },
    ),
    plan("S5 copies on the token, found by another session", |s| {
        let key = s.client.generate(Vec::new())?;
        s.client
            .copy(key, [on(&[WRAP, TOKEN]), with(cka::LABEL, b"one")].concat())?;
        s.client.copy(
            key,
            [on(&[DECRYPT, TOKEN]), with(cka::LABEL, b"two")].concat(),
        )?;
        s.client.session = s.client.open(4)?;
        let (wraps, decrypts) = (s.client.find("one")?, s.client.find("two")?);
        s.wrap_and_decrypt(How::Cbc, wraps, decrypts)
    }),
    plan("S5 copies of an old key, one decrypts and one wraps", |s| {
        // `cipher` encrypts and decrypts; a copy that does neither, then wraps.
        let cipher = s.client.find("cipher")?;
        let copy = s.client.copy(cipher, with(TOKEN, &[0]))?;
        s.client.set(copy, off(&[ENCRYPT, DECRYPT]))?;
        s.client.set(copy, on(&[WRAP]))?;
        s.wrap_and_decrypt(How::Cbc, copy, cipher)
    }),
    plan("S5 private target, two copies", |s| {
        let key = s.client.generate(Vec::new())?;
        let wraps = s.client.copy(key, on(&[WRAP]))?;
        let decrypts = s.client.copy(key, on(&[DECRYPT]))?;
        let target = s.client.find("target_private")?;
        let blob = s.client.wrap(How::KeyWrapPad, wraps, target)?;
        Ok(s.client.open_blob(How::KeyWrapPad, decrypts, &blob)? == s.base.target_private)
    }),
    plan("S7 two copies: one encrypts, one unwraps", |s| {
        let key = s.client.generate(Vec::new())?;
        let encrypts = s.client.copy(key, on(&[ENCRYPT]))?;
        let unwraps = s.client.copy(key, on(&[UNWRAP]))?;
        s7(s, encrypts, unwraps)
    }),
    plan("S7 no WRAP in the template, set later", |s| {
        let key = s.client.generate(on(&[ENCRYPT, UNWRAP]))?;
        let blob = s.client.make_key_wrap(key, &KNOWN)?;
        let wraps = s.client.unwrap(How::KeyWrap, key, &blob, Vec::new())?;
        s.client.set(wraps, on(&[WRAP]))?;
        s.wrap_and_take_home(wraps, &KNOWN)
    }),
    // Pairs.
    plan("S6 pair: the private half comes back to decrypt", |s| {
        let kek = s.client.find("kek")?;
        let [public, private] = s.client.pair(on(&[WRAP]), on(&[EXTRACTABLE]))?;
        let blob = s.client.wrap(How::KeyWrapPad, kek, private)?;
        let mut all: Attributes = vec![
            (cka::CLASS, s.client.word(cko::PRIVATE_KEY)),
            (cka::KEY_TYPE, s.client.word(ckk::RSA)),
        ];
        all.extend(on(&[SENSITIVE, EXTRACTABLE, DECRYPT]));
        all.extend(off(&[TOKEN, UNWRAP, SIGN]));
        let decrypts = s.client.unwrap_exactly(How::KeyWrapPad, kek, &blob, all)?;
        s.wrap_and_decrypt(How::Oaep, public, decrypts)
    }),
    plan(
        "S6 pair: the private half comes back, DECRYPT set later",
        |s| {
            let kek = s.client.find("kek")?;
            let [public, private] = s.client.pair(on(&[WRAP]), on(&[EXTRACTABLE]))?;
            let blob = s.client.wrap(How::KeyWrapPad, kek, private)?;
            let mut all: Attributes = vec![
                (cka::CLASS, s.client.word(cko::PRIVATE_KEY)),
                (cka::KEY_TYPE, s.client.word(ckk::RSA)),
            ];
            all.extend(on(&[SENSITIVE, EXTRACTABLE]));
            all.extend(off(&[TOKEN, DECRYPT, UNWRAP, SIGN]));
            let decrypts = s.client.unwrap_exactly(How::KeyWrapPad, kek, &blob, all)?;
            s.client.set(decrypts, on(&[DECRYPT]))?;
            s.wrap_and_decrypt(How::Oaep, public, decrypts)
        },
    ),
    plan("S6 pair: public wraps and is gone, then DECRYPT", |s| {
        let [public, private] = s.client.pair(on(&[WRAP]), Vec::new())?;
        let target = s.client.find("target")?;
        let blob = s.client.wrap_bare(How::Oaep, public, target)?;
        s.client
            .call(Call::C_DestroyObject(s.client.session, public))?;
        s.client.set(private, on(&[DECRYPT]))?;
        let value = s.client.open_blob(How::Oaep, private, &blob)?;
        s.is_target(&value)
    }),
    from(
        Architecture::BIG_32,
        "S6 pair: WRAP set later, big endian, 32 bits",
        |s| {
            let [public, private] = s.client.pair(Vec::new(), on(&[DECRYPT]))?;
            s.client.set(public, with(WRAP, &[0xff]))?;
            s.wrap_and_decrypt(How::Oaep, public, private)
        },
    ),
    plan("I4 UNWRAP set later on a known private key", |s| {
        let mut all: Attributes = vec![
            (cka::CLASS, s.client.word(cko::PRIVATE_KEY)),
            (cka::KEY_TYPE, s.client.word(ckk::RSA)),
            (TOKEN, vec![0]),
            (UNWRAP, vec![0]),
            (DECRYPT, vec![0]),
        ];
        all.extend(rsa_parts());
        let unwraps = s.client.create(all)?;
        s.client.set(unwraps, on(&[UNWRAP]))?;
        let blob = encrypt_at_home(s, &rsa_parts()[0].1)?;
        let wraps = s.client.unwrap(How::Oaep, unwraps, &blob, on(&[WRAP]))?;
        s.wrap_and_take_home(wraps, &KNOWN)
    }),
    plan("I4 a copy of a known private key unwraps", |s| {
        let mut all: Attributes = vec![
            (cka::CLASS, s.client.word(cko::PRIVATE_KEY)),
            (cka::KEY_TYPE, s.client.word(ckk::RSA)),
            (TOKEN, vec![0]),
            (UNWRAP, vec![0]),
            (DECRYPT, vec![1]),
        ];
        all.extend(rsa_parts());
        let key = s.client.create(all)?;
        let unwraps = s
            .client
            .copy(key, [on(&[UNWRAP]), off(&[DECRYPT])].concat())?;
        let blob = encrypt_at_home(s, &rsa_parts()[0].1)?;
        let wraps = s.client.unwrap(How::Oaep, unwraps, &blob, on(&[WRAP]))?;
        s.wrap_and_take_home(wraps, &KNOWN)
    }),
    // The wrapping format.
    plan("S8 the attributes of another blob", |s| {
        let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
        let key = s.client.generate(on(&[WRAP]))?;
        let other = s.client.generate(on(&[DECRYPT]))?;
        let mut blob = s.client.wrap(How::Oaep, public, key)?;
        let others = s.client.wrap(How::Oaep, public, other)?;
        blob.truncate(128);
        blob.extend_from_slice(&others[128..]);
        let decrypts = s.client.unwrap(How::Oaep, private, &blob, on(&[DECRYPT]))?;
        s.wrap_and_decrypt(How::Cbc, key, decrypts)
    }),
    plan(
        "S8 a wrapping key comes back with no usage, DECRYPT set later",
        |s| {
            let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
            let key = s.client.generate(on(&[WRAP]))?;
            let blob = s.client.wrap(How::Oaep, public, key)?;
            let again = s
                .client
                .unwrap_exactly(How::Oaep, private, &blob, minimal(s))?;
            s.client
                .set(again, [on(&[DECRYPT]), off(&[WRAP])].concat())?;
            s.wrap_and_decrypt(How::Cbc, key, again)
        },
    ),
    plan(
        "S8 a wrapping key comes back with no usage, a copy decrypts",
        |s| {
            let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
            let key = s.client.generate(on(&[WRAP]))?;
            let blob = s.client.wrap(How::Oaep, public, key)?;
            let again = s
                .client
                .unwrap_exactly(How::Oaep, private, &blob, minimal(s))?;
            let decrypts = s
                .client
                .copy(again, [on(&[DECRYPT]), off(&[WRAP])].concat())?;
            s.wrap_and_decrypt(How::Cbc, key, decrypts)
        },
    ),
    plan("S13 two copies of a key without usages", |s| {
        let key = s.client.generate(Vec::new())?;
        let encrypts = s.client.copy(key, on(&[ENCRYPT]))?;
        let signs = s.client.copy(key, on(&[SIGN]))?;
        s.client
            .encrypt(mechanism(ckm::AES_ECB, &[]), encrypts, &[0; 16])?;
        s.client
            .sign(mechanism(ckm::AES_CMAC, &[]), signs, &[0; 16])?;
        Ok(true)
    }),
    plan("S8 two blobs in one", |s| {
        let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
        let key = s.client.generate(on(&[WRAP]))?;
        let other = s.client.generate(on(&[DECRYPT]))?;
        let blob = s.client.wrap(How::Oaep, public, key)?;
        let others = s.client.wrap(How::Oaep, public, other)?;
        // Without a format, the first alone.
        let both = match blob.len() {
            128 => blob,
            _ => [blob, others].concat(),
        };
        let decrypts = s.client.unwrap(How::Oaep, private, &both, on(&[DECRYPT]))?;
        s.wrap_and_decrypt(How::Cbc, key, decrypts)
    }),
    plan("S8 comes back without a type of key", |s| {
        let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
        let key = s.client.generate(on(&[WRAP]))?;
        let blob = s.client.wrap(How::Oaep, public, key)?;
        let mut all = over(s.client.defaults(), on(&[DECRYPT]));
        all.retain(|(kind, _)| *kind != WRAP);
        let decrypts = s.client.unwrap_exactly(How::Oaep, private, &blob, all)?;
        s.wrap_and_decrypt(How::Cbc, key, decrypts)
    }),
    // Derivation.
    plan("S11 derived twice, WRAP by a copy", |s| {
        let base = s.client.find("dh")?;
        let decrypts = derive(s, base, &PEER, on(&[DECRYPT]))?;
        let plain = derive(s, base, &PEER, Vec::new())?;
        let wraps = s.client.copy(plain, on(&[WRAP]))?;
        s.wrap_and_decrypt(How::Cbc, wraps, decrypts)
    }),
    plan("S11 derived twice, DECRYPT set later", |s| {
        let base = s.client.find("dh")?;
        let wraps = derive(s, base, &PEER, on(&[WRAP]))?;
        let plain = derive(s, base, &PEER, Vec::new())?;
        s.client.set(plain, on(&[DECRYPT]))?;
        s.wrap_and_decrypt(How::Cbc, wraps, plain)
    }),
    plan("S11 derived by copies of the base", |s| {
        let base = s.client.find("dh")?;
        let [one, two] = [b"one", b"two"].map(|label| {
            s.client
                .copy(base, [with(cka::LABEL, label), off(&[TOKEN])].concat())
        });
        let wraps = derive(s, one?, &PEER, on(&[WRAP]))?;
        let decrypts = derive(s, two?, &PEER, on(&[DECRYPT]))?;
        s.wrap_and_decrypt(How::Cbc, wraps, decrypts)
    }),
    plan("S11 derived twice, ENCRYPT and UNWRAP", |s| {
        let base = s.client.find("dh")?;
        let encrypts = derive(s, base, &PEER, on(&[ENCRYPT]))?;
        let unwraps = derive(s, base, &PEER, on(&[UNWRAP]))?;
        s7(s, encrypts, unwraps)
    }),
    plan("S11 two pairs of one exchange, WRAP and DECRYPT", |s| {
        // Both halves of the exchange are the token's: each derives the same.
        let (prime, generator) = dh_group();
        let mut halves = Vec::new();
        for _ in 0..2 {
            let public = template(&[
                (cka::PRIME, prime.clone()),
                (cka::BASE, generator.clone()),
                (TOKEN, vec![0]),
            ]);
            let private = template(&[
                (TOKEN, vec![0]),
                (DERIVE, vec![1]),
                (SENSITIVE, vec![1]),
                (DECRYPT, vec![0]),
                (UNWRAP, vec![0]),
                (SIGN, vec![0]),
            ]);
            let how = mechanism(ckm::DH_PKCS_KEY_PAIR_GEN, &[]);
            let made = s.client.call(Call::C_GenerateKeyPair(
                s.client.session,
                how,
                public,
                private,
            ))?;
            let Reply::C_GenerateKeyPair(pair) = made else {
                unreachable!()
            };
            let value = s.client.read(pair.public_key, VALUE)?;
            halves.push((pair.private_key, value));
        }
        let wraps = derive(s, halves[0].0, &halves[1].1.clone(), on(&[WRAP]))?;
        let decrypts = derive(s, halves[1].0, &halves[0].1.clone(), on(&[DECRYPT]))?;
        s.wrap_and_decrypt(How::Cbc, wraps, decrypts)
    }),
    // Reading.
    plan("R2 the value of a copy", |s| {
        let key = s.client.find("readable")?;
        let copy = s.client.copy(key, off(&[TOKEN]))?;
        Ok(s.client.read(copy, VALUE)?.len() == 16)
    }),
    plan("R2 the value of a key made readable", |s| {
        let key = s
            .client
            .generate([off(&[SENSITIVE]), on(&[EXTRACTABLE, ENCRYPT])].concat())?;
        Ok(s.client.read(key, VALUE)?.len() == 16)
    }),
    plan("R1 a guess of the value, by a search", |s| {
        let wanted = [with(cka::LABEL, b"target"), with(VALUE, &s.base.target)].concat();
        Ok(!s.client.find_all(wanted)?.is_empty())
    }),
    plan("P8 the derived key in parts, by searches", |s| {
        let base = s.client.find("dh")?;
        let all = vec![
            (cka::KEY_TYPE, s.client.word(ckk::GENERIC_SECRET)),
            (VALUE_LEN, s.client.word(1)),
            (ENCRYPT, vec![1]),
            (cka::LABEL, b"part".to_vec()),
        ];
        s.client
            .derive(mechanism(ckm::DH_PKCS_DERIVE, &PEER), base, all)?;
        for byte in 0..=255u8 {
            let wanted = [with(cka::LABEL, b"part"), with(VALUE, &[byte])].concat();
            if !s.client.find_all(wanted)?.is_empty() {
                return Ok(s.base.derived.starts_with(&[byte]) || s.base.derived.ends_with(&[byte]));
            }
        }
        Ok(false)
    }),
    plan("P4 raw RSA signs a wrapped key open", |s| {
        let [public, private] = s.client.pair(on(&[WRAP]), on(&[SIGN]))?;
        let target = s.client.find("target")?;
        let blob = s.client.wrap_bare(How::RsaPkcs, public, target)?;
        let raw = mechanism(ckm::RSA_X_509, &[]);
        let clear = s.client.sign(raw, private, &blob)?;
        Ok(clear.ends_with(&s.base.target))
    }),
    // Oracles by other functions.
    plan("P3 C_DecryptFinal tells bad CBC padding", |s| {
        let key = s.client.find("cipher")?;
        let how = |iv: &[u8]| mechanism(ckm::AES_CBC_PAD, iv);
        let mut answers = Vec::new();
        for guess in 0..=255u8 {
            let mut iv = [0; 16];
            iv[15] = guess;
            s.client
                .call(Call::C_DecryptInit(s.client.session, how(&iv), key))?;
            s.client
                .call(Call::C_DecryptUpdate(s.client.session, &[7; 16]))?;
            answers.push(
                s.client
                    .call(Call::C_DecryptFinal(s.client.session))
                    .is_ok(),
            );
        }
        Ok(answers.contains(&true) && answers.contains(&false))
    }),
    plan("P3 DES3 too", |s| {
        let all = vec![
            (cka::KEY_TYPE, s.client.word(ckk::DES3)),
            (VALUE, b"0123456789abcdefghijklmn".to_vec()),
            (DECRYPT, vec![1]),
        ];
        let all = over(s.client.defaults(), all);
        let key = s.client.create(all)?;
        let mut answers = Vec::new();
        for guess in 0..=255u8 {
            let mut iv = [0; 8];
            iv[7] = guess;
            let how = mechanism(ckm::DES3_CBC_PAD, &iv);
            s.client
                .call(Call::C_DecryptInit(s.client.session, how, key))?;
            answers.push(
                s.client
                    .call(Call::C_Decrypt(s.client.session, &[7; 8]))
                    .is_ok(),
            );
        }
        Ok(answers.contains(&true) && answers.contains(&false))
    }),
    plan("S14 a copy that lacks one role", |s| {
        let old = s.client.find_all(with(cka::LABEL, b"conflicting"))?;
        let candidates = old.into_iter().chain((1..40).map(ObjectHandle));
        let mut last = Ok(false);
        for key in candidates {
            let (one, two) = (
                s.client.copy(key, off(&[TOKEN, WRAP])),
                s.client.copy(key, off(&[TOKEN, DECRYPT])),
            );
            last = match (one, two) {
                (Ok(decrypts), Ok(wraps)) => s.wrap_and_decrypt(How::Cbc, wraps, decrypts),
                (Err(stopped), _) | (_, Err(stopped)) => Err(stopped),
            };
            if matches!(last, Ok(true)) {
                return last;
            }
        }
        last
    }),
    plan("I3 pair of 512 bits, to be factored", |s| {
        let bits = vec![(cka::MODULUS_BITS, s.client.word(512))];
        let [wraps, _] = s.client.pair([on(&[WRAP]), bits].concat(), on(&[UNWRAP]))?;
        let target = s.client.find("target")?;
        let blob = s.client.wrap_bare(How::Oaep, wraps, target)?;
        // Days on one machine give the private key.
        Ok(blob.len() >= 64)
    }),
    plan("I2 pair: a key that verifies, WRAP set later", |s| {
        let key = public_key(s, &rsa_parts()[0].1, on(&[VERIFY]))?;
        s.client.set(key, on(&[WRAP]))?;
        s.wrap_by_own_public_key(key, &rsa_parts())
    }),
];
