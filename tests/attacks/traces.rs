//! Lists the attacks. Each is a plan that ends at the first refusal. It succeeds when the attacker has the value of a
//! key, or what else the row says. One table, and how a row of it is written.

use xdr::version3::{Call, Reply};
use xdr::{Architecture, UserType};

use crate::client::{Attributes, How, Trace, on, over};
use crate::plans::{
    derive, encrypt_at_home, encrypt_at_home_with, i1, minimal, public_key, s1, s2, s5, s7, s8,
    verify_at_home,
};
use crate::scene::{KNOWN, PEER, Scene};
use crate::support::cryptoki::{cka, ckk, ckm, cko, dh_group, mechanism, rsa_parts, template};

use cka::{
    DECRYPT, DERIVE, ENCRYPT, EXTRACTABLE, SENSITIVE, SIGN, TOKEN, UNWRAP, VALUE, VALUE_LEN, WRAP,
};

/// One plan.
pub struct Attack {
    /// The attack as docs/attacks.md names it, and the variant.
    pub id: &'static str,
    /// What the client says its integers look like.
    pub architecture: Architecture,
    pub run: fn(&mut Scene<'_>) -> Trace<bool>,
}

pub const fn plan(id: &'static str, run: fn(&mut Scene<'_>) -> Trace<bool>) -> Attack {
    Attack {
        id,
        architecture: Architecture::LITTLE_64,
        run,
    }
}

pub const fn from(
    architecture: Architecture,
    id: &'static str,
    run: fn(&mut Scene<'_>) -> Trace<bool>,
) -> Attack {
    Attack {
        id,
        architecture,
        run,
    }
}

pub fn off(kinds: &[u64]) -> Attributes {
    kinds.iter().map(|kind| (*kind, vec![0])).collect()
}

pub fn with(kind: u64, value: &[u8]) -> Attributes {
    vec![(kind, value.to_vec())]
}

pub const ATTACKS: &[Attack] = &[
    // One key that wraps and decrypts.
    plan("S1 secret", |s| s1(s, on(&[WRAP, DECRYPT]))),
    plan("S1 secret, with encrypt and unwrap too", |s| {
        s1(s, on(&[WRAP, DECRYPT, ENCRYPT, UNWRAP]))
    }),
    plan("S1 secret, not sensitive", |s| {
        s1(
            s,
            [on(&[WRAP, DECRYPT, EXTRACTABLE]), off(&[SENSITIVE])].concat(),
        )
    }),
    plan("S1 secret, on the token", |s| {
        s1(s, on(&[WRAP, DECRYPT, TOKEN]))
    }),
    plan("S1 secret, 0xff for TRUE", |s| {
        s1(s, [with(WRAP, &[0xff]), with(DECRYPT, &[0xff])].concat())
    }),
    plan("S1 secret, 0x02 for TRUE", |s| {
        s1(s, [on(&[WRAP]), with(DECRYPT, &[2])].concat())
    }),
    plan("S1 secret, TRUE of two bytes", |s| {
        s1(s, [on(&[WRAP]), with(DECRYPT, &[1, 0])].concat())
    }),
    plan("S1 secret, DECRYPT twice (R7)", |s| {
        s1(
            s,
            [with(WRAP, &[1]), with(DECRYPT, &[0]), with(DECRYPT, &[1])].concat(),
        )
    }),
    plan("S1 secret, DECRYPT twice, TRUE first (R7)", |s| {
        s1(
            s,
            [with(WRAP, &[1]), with(DECRYPT, &[1]), with(DECRYPT, &[0])].concat(),
        )
    }),
    plan("S1 secret, private target", |s| {
        let key = s.client.generate(on(&[WRAP, DECRYPT]))?;
        let target = s.client.find("target_private")?;
        let blob = s.client.wrap(How::KeyWrapPad, key, target)?;
        Ok(s.client.open_blob(How::KeyWrapPad, key, &blob)? == s.base.target_private)
    }),
    plan("S1 secret, blob by two sessions", |s| {
        let key = s.client.generate(on(&[WRAP, DECRYPT]))?;
        let target = s.client.find("target")?;
        let blob = s.client.wrap_bare(How::Cbc, key, target)?;
        s.client.session = s.client.open(4)?;
        let value = s.client.open_blob(How::Cbc, key, &blob)?;
        s.is_target(&value)
    }),
    from(Architecture::LITTLE_32, "S1 secret, 32 bits", |s| {
        s1(s, on(&[WRAP, DECRYPT]))
    }),
    from(Architecture::BIG_64, "S1 secret, big endian", |s| {
        s1(s, on(&[WRAP, DECRYPT]))
    }),
    from(
        Architecture::BIG_32,
        "S1 secret, big endian, 32 bits",
        |s| s1(s, on(&[WRAP, DECRYPT])),
    ),
    plan("S2 wrap, set DECRYPT", |s| {
        s2(s, &[WRAP], &[on(&[DECRYPT])])
    }),
    plan("S2 wrap, set DECRYPT to 0xff", |s| {
        s2(s, &[WRAP], &[with(DECRYPT, &[0xff])])
    }),
    plan("S2 wrap, set DECRYPT twice in one call", |s| {
        s2(
            s,
            &[WRAP],
            &[[with(DECRYPT, &[0]), with(DECRYPT, &[1])].concat()],
        )
    }),
    plan("S2 the other way round", |s| {
        let key = s.client.generate(on(&[DECRYPT]))?;
        s.client.set(key, on(&[WRAP]))?;
        s.wrap_and_decrypt(How::Cbc, key, key)
    }),
    plan(
        "S2 the other way round, WRAP off again before the decryption",
        |s| {
            let key = s.client.generate(on(&[DECRYPT]))?;
            s.client.set(key, [off(&[DECRYPT]), on(&[WRAP])].concat())?;
            let target = s.client.find("target")?;
            let blob = s.client.wrap_bare(How::Cbc, key, target)?;
            s.client.set(key, [on(&[DECRYPT]), off(&[WRAP])].concat())?;
            let value = s.client.open_blob(How::Cbc, key, &blob)?;
            s.is_target(&value)
        },
    ),
    plan("S3 wrap, change both in one call", |s| {
        s2(s, &[WRAP], &[[off(&[WRAP]), on(&[DECRYPT])].concat()])
    }),
    plan("S3 the order in the template", |s| {
        s2(s, &[WRAP], &[[on(&[DECRYPT]), off(&[WRAP])].concat()])
    }),
    plan("S4 wrap, change one after the other", |s| {
        s2(s, &[WRAP], &[off(&[WRAP]), on(&[DECRYPT])])
    }),
    plan("S4 WRAP to 0x00 by way of 0x02", |s| {
        s2(
            s,
            &[WRAP],
            &[with(WRAP, &[2]), off(&[WRAP]), on(&[DECRYPT])],
        )
    }),
    // Copies.
    plan("S5 copy with DECRYPT", |s| s5(s, "kek", on(&[DECRYPT]))),
    plan("S5 copy with DECRYPT, WRAP off", |s| {
        s5(s, "kek", [on(&[DECRYPT]), off(&[WRAP, UNWRAP])].concat())
    }),
    plan("S5 copy on the token", |s| {
        s5(s, "kek", [on(&[DECRYPT, TOKEN]), off(&[WRAP])].concat())
    }),
    plan("S5 copy with 0xff", |s| {
        s5(
            s,
            "kek",
            [with(DECRYPT, &[0xff]), with(WRAP, &[0])].concat(),
        )
    }),
    plan("S5 copy of an empty template, then set", |s| {
        let kek = s.client.find("kek")?;
        let copy = s.client.copy(kek, with(TOKEN, &[0]))?;
        s.client
            .set(copy, [on(&[DECRYPT]), off(&[WRAP, UNWRAP])].concat())?;
        s.wrap_and_decrypt(How::Cbc, kek, copy)
    }),
    plan("S5 copy a cipher key to wrap", |s| {
        let cipher = s.client.find("cipher")?;
        let copy = s
            .client
            .copy(cipher, [on(&[WRAP]), with(TOKEN, &[0])].concat())?;
        s.wrap_and_decrypt(How::Cbc, copy, cipher)
    }),
    plan("S5 copy a cipher key to wrap, its ciphers off", |s| {
        let cipher = s.client.find("cipher")?;
        let copy = s.client.copy(
            cipher,
            [on(&[WRAP]), off(&[DECRYPT, ENCRYPT, TOKEN])].concat(),
        )?;
        s.wrap_and_decrypt(How::Cbc, copy, cipher)
    }),
    // Key pairs.
    plan("S6 pair: public wraps, private decrypts (OAEP)", |s| {
        let [public, private] = s.client.pair(on(&[WRAP]), on(&[DECRYPT]))?;
        s.wrap_and_decrypt(How::Oaep, public, private)
    }),
    plan("S6 pair: public wraps, private decrypts (PKCS#1)", |s| {
        let [public, private] = s.client.pair(on(&[WRAP]), on(&[DECRYPT]))?;
        s.wrap_and_decrypt(How::RsaPkcs, public, private)
    }),
    plan("S6 pair: DECRYPT set later", |s| {
        let [public, private] = s.client.pair(on(&[WRAP]), on(&[UNWRAP]))?;
        s.client
            .set(private, [on(&[DECRYPT]), off(&[UNWRAP])].concat())?;
        s.wrap_and_decrypt(How::Oaep, public, private)
    }),
    plan("S6 pair: DECRYPT alone set later", |s| {
        let [public, private] = s.client.pair(on(&[WRAP]), off(&[UNWRAP]))?;
        s.client.set(private, on(&[DECRYPT]))?;
        s.wrap_and_decrypt(How::Oaep, public, private)
    }),
    plan("S6 pair: WRAP given twice", |s| {
        let [public, private] = s.client.pair(
            [with(WRAP, &[0]), with(WRAP, &[1])].concat(),
            on(&[DECRYPT]),
        )?;
        s.wrap_and_decrypt(How::Oaep, public, private)
    }),
    plan("S6 pair: 0xff for TRUE", |s| {
        let [public, private] = s.client.pair(with(WRAP, &[0xff]), with(DECRYPT, &[0xff]))?;
        s.wrap_and_decrypt(How::Oaep, public, private)
    }),
    plan("S6 pair: the token's defaults", |s| {
        let public = template(&[(cka::MODULUS_BITS, s.client.word(1024)), (TOKEN, vec![0])]);
        let private = template(&[(TOKEN, vec![0]), (SENSITIVE, vec![1])]);
        let how = mechanism(ckm::RSA_PKCS_KEY_PAIR_GEN, &[]);
        let made = s.client.call(Call::C_GenerateKeyPair(
            s.client.session,
            how,
            public,
            private,
        ))?;
        let Reply::C_GenerateKeyPair(pair) = made else {
            unreachable!()
        };
        s.wrap_and_decrypt(How::Oaep, pair.public_key, pair.private_key)
    }),
    plan("S6 pair: neither has a usage, both are set later", |s| {
        let [public, private] = s.client.pair(Vec::new(), Vec::new())?;
        s.client.set(public, on(&[WRAP]))?;
        s.client.set(private, on(&[DECRYPT]))?;
        s.wrap_and_decrypt(How::Oaep, public, private)
    }),
    plan("S6 pair: copies of both on the token", |s| {
        let [public, private] = s.client.pair(Vec::new(), Vec::new())?;
        let public = s.client.copy(public, on(&[WRAP, TOKEN]))?;
        let private = s.client.copy(private, on(&[DECRYPT, TOKEN]))?;
        s.wrap_and_decrypt(How::Oaep, public, private)
    }),
    plan("S6 pair: a copy of an unused private key decrypts", |s| {
        let [public, private] = s.client.pair(on(&[WRAP]), Vec::new())?;
        let copy = s.client.copy(private, on(&[DECRYPT]))?;
        s.wrap_and_decrypt(How::Oaep, public, copy)
    }),
    plan(
        "S7 pair: public encrypts, private unwraps, set later",
        |s| {
            let [public, private] = s.client.pair(Vec::new(), on(&[UNWRAP]))?;
            s.client.set(public, on(&[ENCRYPT]))?;
            let blob =
                s.client
                    .encrypt(How::Oaep.mechanism(s.client.architecture), public, &KNOWN)?;
            let wraps = s.client.unwrap(How::Oaep, private, &blob, on(&[WRAP]))?;
            s.wrap_and_take_home(wraps, &KNOWN)
        },
    ),
    plan("S6 pair: WRAP set on the public key later", |s| {
        let [public, private] = s.client.pair(on(&[ENCRYPT]), on(&[DECRYPT]))?;
        s.client.set(public, on(&[WRAP]))?;
        s.wrap_and_decrypt(How::Oaep, public, private)
    }),
    plan("S6 pair: ENCRYPT off and WRAP on, public key", |s| {
        let [public, private] = s.client.pair(on(&[ENCRYPT]), on(&[DECRYPT]))?;
        s.client
            .set(public, [off(&[ENCRYPT]), on(&[WRAP])].concat())?;
        s.wrap_and_decrypt(How::Oaep, public, private)
    }),
    plan("S6 pair: WRAP set on a public key that had no usage", |s| {
        let [public, private] = s.client.pair(Vec::new(), on(&[DECRYPT]))?;
        s.client.set(public, on(&[WRAP]))?;
        s.wrap_and_decrypt(How::Oaep, public, private)
    }),
    plan("S6 pair: the private key's copy decrypts", |s| {
        let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
        let copy = s
            .client
            .copy(private, [on(&[DECRYPT]), off(&[UNWRAP, TOKEN])].concat())?;
        s.wrap_and_decrypt(How::Oaep, public, copy)
    }),
    plan("S6 pair: a copy of the public key wraps", |s| {
        let (public, private) = (s.client.find("rsa_public")?, s.client.find("rsa_private")?);
        let copy = s
            .client
            .copy(public, [on(&[WRAP]), off(&[ENCRYPT, TOKEN])].concat())?;
        s.wrap_and_decrypt(How::Oaep, copy, private)
    }),
    plan("S6 pair: a copy of an unused public key wraps", |s| {
        let [public, private] = s.client.pair(Vec::new(), on(&[DECRYPT]))?;
        let copy = s.client.copy(public, on(&[WRAP]))?;
        s.wrap_and_decrypt(How::Oaep, copy, private)
    }),
    plan("S6 pair: the public half brought back to wrap", |s| {
        let (public, private) = (s.client.find("rsa_public")?, s.client.find("rsa_private")?);
        let modulus = s.client.read(public, cka::MODULUS)?;
        let wraps = public_key(s, &modulus, on(&[WRAP]))?;
        s.wrap_and_decrypt(How::Oaep, wraps, private)
    }),
    plan(
        "S6 pair: the public half brought back, WRAP set later",
        |s| {
            let (public, private) = (s.client.find("rsa_public")?, s.client.find("rsa_private")?);
            let modulus = s.client.read(public, cka::MODULUS)?;
            let wraps = public_key(s, &modulus, off(&[WRAP]))?;
            s.client.set(wraps, on(&[WRAP]))?;
            s.wrap_and_decrypt(How::Oaep, wraps, private)
        },
    ),
    plan(
        "S6 pair: the public half brought back, the token's default WRAP",
        |s| {
            let (public, private) = (s.client.find("rsa_public")?, s.client.find("rsa_private")?);
            let modulus = s.client.read(public, cka::MODULUS)?;
            let wraps = public_key(s, &modulus, Vec::new())?;
            s.wrap_and_decrypt(How::Oaep, wraps, private)
        },
    ),
    // Wrapping keys of known value, by encryption and unwrapping.
    plan("S7 secret", |s| {
        let key = s.client.generate(on(&[ENCRYPT, UNWRAP]))?;
        s7(s, key, key)
    }),
    plan("S7 ENCRYPT, then UNWRAP", |s| {
        let key = s.client.generate(on(&[ENCRYPT]))?;
        let blob = s.client.make_key_wrap(key, &KNOWN)?;
        s.client
            .set(key, [off(&[ENCRYPT]), on(&[UNWRAP])].concat())?;
        let wraps = s.client.unwrap(How::KeyWrap, key, &blob, on(&[WRAP]))?;
        s.wrap_and_take_home(wraps, &KNOWN)
    }),
    plan("S7 a copy of the wrapping key encrypts", |s| {
        let kek = s.client.find("kek")?;
        let copy = s
            .client
            .copy(kek, [on(&[ENCRYPT]), off(&[WRAP, UNWRAP, TOKEN])].concat())?;
        s7(s, copy, kek)
    }),
    plan("S7 a copy of a cipher key unwraps", |s| {
        let cipher = s.client.find("cipher")?;
        let copy = s.client.copy(
            cipher,
            [on(&[UNWRAP]), off(&[ENCRYPT, DECRYPT, TOKEN])].concat(),
        )?;
        s7(s, cipher, copy)
    }),
    // The same key twice.
    plan("S8 secret: WRAP and DECRYPT out of one blob", |s| {
        let kek = s.client.find("kek")?;
        s8(
            s,
            How::KeyWrap,
            kek,
            kek,
            on(&[ENCRYPT]),
            [on(&[WRAP]), on(&[DECRYPT])],
        )
    }),
    plan("S8 pair: WRAP and DECRYPT out of one blob", |s| {
        let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
        s8(
            s,
            How::Oaep,
            public,
            private,
            on(&[ENCRYPT]),
            [on(&[WRAP]), on(&[DECRYPT])],
        )
    }),
    plan("S8 pair: a key without usages", |s| {
        let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
        s8(
            s,
            How::Oaep,
            public,
            private,
            Vec::new(),
            [on(&[WRAP]), on(&[DECRYPT])],
        )
    }),
    plan("S8 pair: a wrapping key comes back to decrypt", |s| {
        let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
        let key = s.client.generate(on(&[WRAP]))?;
        let blob = s.client.wrap(How::Oaep, public, key)?;
        let decrypts = s.client.unwrap(How::Oaep, private, &blob, on(&[DECRYPT]))?;
        s.wrap_and_decrypt(How::Cbc, key, decrypts)
    }),
    plan(
        "S8 pair: a wrapping key comes back to decrypt, without the format",
        |s| {
            let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
            let key = s.client.generate(on(&[WRAP]))?;
            let blob = s.client.wrap_bare(How::Oaep, public, key)?;
            let decrypts = s.client.unwrap(How::Oaep, private, &blob, on(&[DECRYPT]))?;
            s.wrap_and_decrypt(How::Cbc, key, decrypts)
        },
    ),
    plan("S8 pair: a decrypting key comes back to wrap", |s| {
        let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
        let key = s.client.generate(on(&[DECRYPT]))?;
        let blob = s.client.wrap(How::Oaep, public, key)?;
        let wraps = s.client.unwrap(How::Oaep, private, &blob, on(&[WRAP]))?;
        s.wrap_and_decrypt(How::Cbc, wraps, key)
    }),
    plan(
        "S8 pair: comes back with no usage, which is set later",
        |s| {
            let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
            let key = s.client.generate(on(&[DECRYPT]))?;
            let blob = s.client.wrap(How::Oaep, public, key)?;
            let wraps = s
                .client
                .unwrap_exactly(How::Oaep, private, &blob, minimal(s))?;
            s.client.set(wraps, on(&[WRAP]))?;
            s.wrap_and_decrypt(How::Cbc, wraps, key)
        },
    ),
    plan("S8 pair: comes back as a generic secret", |s| {
        let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
        let target = s.client.find("target")?;
        let blob = s.client.wrap(How::Oaep, public, target)?;
        let all = over(
            s.client.defaults(),
            vec![
                (cka::KEY_TYPE, s.client.word(ckk::GENERIC_SECRET)),
                (SENSITIVE, vec![0]),
            ],
        );
        let plain = s.client.unwrap_exactly(How::Oaep, private, &blob, all)?;
        let value = s.client.read(plain, VALUE)?;
        s.is_target(&value)
    }),
    plan("S9 comes back not sensitive", |s| {
        let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
        let target = s.client.find("target")?;
        let blob = s.client.wrap(How::Oaep, public, target)?;
        let plain = s.client.unwrap(
            How::Oaep,
            private,
            &blob,
            [on(&[ENCRYPT, DECRYPT]), off(&[SENSITIVE])].concat(),
        )?;
        let value = s.client.read(plain, VALUE)?;
        s.is_target(&value)
    }),
    plan("S9 comes back not sensitive, without the format", |s| {
        let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
        let target = s.client.find("target")?;
        let blob = s.client.wrap_bare(How::Oaep, public, target)?;
        let plain = s
            .client
            .unwrap(How::Oaep, private, &blob, off(&[SENSITIVE]))?;
        let value = s.client.read(plain, VALUE)?;
        s.is_target(&value)
    }),
    plan("S9 comes back not sensitive, secret key", |s| {
        let (kek, target) = (s.client.find("kek")?, s.client.find("target")?);
        let blob = s.client.wrap(How::KeyWrap, kek, target)?;
        let plain = s.client.unwrap(
            How::KeyWrap,
            kek,
            &blob,
            [on(&[ENCRYPT, DECRYPT]), off(&[SENSITIVE])].concat(),
        )?;
        let value = s.client.read(plain, VALUE)?;
        s.is_target(&value)
    }),
    plan("S10 known value encrypted to the wrapping pair", |s| {
        let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
        let modulus = s.client.read(public, cka::MODULUS)?;
        let blob = encrypt_at_home(s, &modulus)?;
        let wraps = s.client.unwrap(How::Oaep, private, &blob, on(&[WRAP]))?;
        s.wrap_and_take_home(wraps, &KNOWN)
    }),
    plan("S10 with a pair of the attacker's", |s| {
        let [public, private] = s.client.pair(on(&[ENCRYPT]), on(&[UNWRAP]))?;
        let blob = s
            .client
            .encrypt(How::Oaep.mechanism(s.client.architecture), public, &KNOWN)?;
        let wraps = s.client.unwrap(How::Oaep, private, &blob, on(&[WRAP]))?;
        s.wrap_and_take_home(wraps, &KNOWN)
    }),
    plan("S10 forged attributes behind the blob", |s| {
        let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
        let target = s.client.find("target")?;
        let honest = s.client.wrap(How::Oaep, public, target)?;
        let modulus = s.client.read(public, cka::MODULUS)?;
        let mut blob = encrypt_at_home(s, &modulus)?;
        blob.extend_from_slice(&honest[128..]);
        let wraps = s.client.unwrap(How::Oaep, private, &blob, on(&[WRAP]))?;
        s.wrap_and_take_home(wraps, &KNOWN)
    }),
    // Derivation.
    plan("S11 derived twice, WRAP and DECRYPT", |s| {
        let base = s.client.find("dh")?;
        let [wraps, decrypts] = [WRAP, DECRYPT].map(|usage| derive(s, base, &PEER, on(&[usage])));
        s.wrap_and_decrypt(How::Cbc, wraps?, decrypts?)
    }),
    plan("S11 derived twice, WRAP set later", |s| {
        let base = s.client.find("dh")?;
        let [wraps, decrypts] =
            [None, Some(DECRYPT)].map(|usage| derive(s, base, &PEER, on(usage.as_slice())));
        let wraps = wraps?;
        s.client.set(wraps, on(&[WRAP]))?;
        s.wrap_and_decrypt(How::Cbc, wraps, decrypts?)
    }),
    plan("S11 the derived key again, readable", |s| {
        let base = s.client.find("dh")?;
        let plain = derive(s, base, &PEER, off(&[SENSITIVE]))?;
        Ok(s.client.read(plain, VALUE)? == s.base.derived)
    }),
    plan("S11 the derived key again, wrapped by a known key", |s| {
        let base = s.client.find("dh")?;
        let again = derive(s, base, &PEER, on(&[ENCRYPT]))?;
        let known = s.client.import(&KNOWN, on(&[WRAP, DECRYPT]))?;
        let blob = s.client.wrap_bare(How::Cbc, known, again)?;
        Ok(s.client.open_blob(How::Cbc, known, &blob)? == s.base.derived)
    }),
    plan(
        "P11 a derived key of small order is known, and wraps",
        |s| {
            let base = s.client.find("dh")?;
            // 1 to any power.
            let mut one = [0; 128];
            one[127] = 1;
            let wraps = derive(s, base, &one, on(&[WRAP]))?;
            let mut shared = [0; 16];
            shared[15] = 1;
            let zeros = [0; 16];
            let first = s.wrap_and_take_home(wraps, &zeros)?;
            Ok(first || s.wrap_and_take_home(wraps, &shared)?)
        },
    ),
    plan("P11 a derived key of a base of the attacker's wraps", |s| {
        let (prime, generator) = dh_group();
        let all = vec![
            (cka::CLASS, s.client.word(cko::PRIVATE_KEY)),
            (cka::KEY_TYPE, s.client.word(ckk::DH)),
            (TOKEN, vec![0]),
            (DERIVE, vec![1]),
            (cka::PRIME, prime.clone()),
            (cka::BASE, generator.clone()),
            (VALUE, vec![1]),
        ];
        let base = s.client.create(all.clone())?;
        let wraps = derive(s, base, &PEER, on(&[WRAP]))?;
        // PEER to the power of 1; the same at home tells the bytes.
        let base = s.offline.create(all)?;
        let length = vec![(VALUE_LEN, s.offline.word(16))];
        let how = mechanism(ckm::DH_PKCS_DERIVE, &PEER);
        let known = s.offline.derive(
            how,
            base,
            [off(&[SENSITIVE]), on(&[EXTRACTABLE]), length].concat(),
        )?;
        let value = s.offline.read(known, VALUE)?;
        s.wrap_and_take_home(wraps, &value)
    }),
    plan("P8 the derived key in parts, by digests", |s| {
        let base = s.client.find("dh")?;
        let mut known = Vec::new();
        for length in 1..=4 {
            let all = vec![
                (cka::KEY_TYPE, s.client.word(ckk::GENERIC_SECRET)),
                (VALUE_LEN, s.client.word(length)),
                (ENCRYPT, vec![1]),
            ];
            let part = s
                .client
                .derive(mechanism(ckm::DH_PKCS_DERIVE, &PEER), base, all)?;
            let digest = s.client.digest_of_key(part)?;
            let mut next = None;
            // SoftHSM cuts from the front or the end; both are tried.
            for byte in 0..=255u8 {
                for guess in [
                    [known.clone(), vec![byte]].concat(),
                    [vec![byte], known.clone()].concat(),
                ] {
                    if s.offline.digest(&guess)? == digest {
                        next = Some(guess);
                    }
                }
            }
            match next {
                Some(guess) => known = guess,
                None => return Ok(false),
            }
        }
        Ok(s.base.derived.ends_with(&known) || s.base.derived.starts_with(&known))
    }),
    // One key for two protocols.
    plan("S13 one key encrypts and signs", |s| {
        let key = s.client.generate(on(&[ENCRYPT, SIGN]))?;
        s.client
            .encrypt(mechanism(ckm::AES_ECB, &[]), key, &[0; 16])?;
        s.client
            .sign(mechanism(ckm::AES_CMAC, &[]), key, &[0; 16])?;
        Ok(true)
    }),
    plan("S13 SIGN set later", |s| {
        let key = s.client.generate(on(&[ENCRYPT]))?;
        s.client.set(key, on(&[SIGN]))?;
        s.client
            .encrypt(mechanism(ckm::AES_ECB, &[]), key, &[0; 16])?;
        s.client
            .sign(mechanism(ckm::AES_CMAC, &[]), key, &[0; 16])?;
        Ok(true)
    }),
    plan("S13 a copy signs", |s| {
        let key = s.client.generate(on(&[ENCRYPT]))?;
        let copy = s
            .client
            .copy(key, [on(&[SIGN]), off(&[ENCRYPT])].concat())?;
        s.client
            .encrypt(mechanism(ckm::AES_ECB, &[]), key, &[0; 16])?;
        s.client
            .sign(mechanism(ckm::AES_CMAC, &[]), copy, &[0; 16])?;
        Ok(true)
    }),
    plan("S13 comes back to sign", |s| {
        let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
        let key = s.client.generate(on(&[ENCRYPT]))?;
        let blob = s.client.wrap(How::Oaep, public, key)?;
        let signs = s
            .client
            .unwrap(How::Oaep, private, &blob, on(&[SIGN, ENCRYPT]))?;
        s.client
            .encrypt(mechanism(ckm::AES_ECB, &[]), key, &[0; 16])?;
        s.client
            .sign(mechanism(ckm::AES_CMAC, &[]), signs, &[0; 16])?;
        Ok(true)
    }),
    plan("S14 a conflicting key of old", |s| {
        let old = s.client.find_all(with(cka::LABEL, b"conflicting"))?;
        // A key that searches hide has a handle nevertheless: they are small numbers.
        let candidates = old.into_iter().chain((1..40).map(xdr::ObjectHandle));
        let mut last = Ok(false);
        for key in candidates {
            last = s.wrap_and_decrypt(How::Cbc, key, key);
            if matches!(last, Ok(true)) {
                return last;
            }
        }
        last
    }),
    plan("S14 a copy of it", |s| {
        let old = s.client.find("conflicting")?;
        let copy = s.client.copy(old, with(TOKEN, &[0]))?;
        s.wrap_and_decrypt(How::Cbc, copy, copy)
    }),
    // Reading.
    plan("R1 the value", |s| {
        let target = s.client.find("target")?;
        let value = s.client.read(target, VALUE)?;
        s.is_target(&value)
    }),
    plan("R1 the value among others", |s| {
        let target = s.client.find("target")?;
        let values = s
            .client
            .read_among(target, &[cka::LABEL, VALUE, cka::CLASS, VALUE])?;
        Ok(values.contains(&s.base.target))
    }),
    plan("R1 the private parts", |s| {
        let target = s.client.find("target_private")?;
        let parts = s.client.read_among(
            target,
            &[
                cka::MODULUS,
                cka::PRIME_1,
                cka::PRIVATE_EXPONENT,
                cka::COEFFICIENT,
            ],
        )?;
        Ok(parts[1].len() == 64
            && s.base
                .target_private
                .windows(64)
                .any(|part| part == &parts[1][..]))
    }),
    plan("R2 the value of a key that is not sensitive", |s| {
        let key = s.client.find("readable")?;
        Ok(s.client.read(key, VALUE)?.len() == 16)
    }),
    plan("R3 not sensitive any more", |s| {
        let target = s.client.find("target")?;
        s.client.set(target, off(&[SENSITIVE]))?;
        let value = s.client.read(target, VALUE)?;
        s.is_target(&value)
    }),
    plan("R3 a copy that is not sensitive", |s| {
        let target = s.client.find("target")?;
        let copy = s.client.copy(target, off(&[SENSITIVE, TOKEN]))?;
        let value = s.client.read(copy, VALUE)?;
        s.is_target(&value)
    }),
    plan("R5 ALWAYS_SENSITIVE of a known key", |s| {
        let key = s
            .client
            .import(&KNOWN, on(&[cka::ALWAYS_SENSITIVE, WRAP]))?;
        s.wrap_and_take_home(key, &KNOWN)
    }),
    plan("R5 LOCAL of a known key, set later", |s| {
        let key = s.client.import(&KNOWN, Vec::new())?;
        s.client.set(key, on(&[cka::LOCAL]))?;
        s.client.set(key, on(&[WRAP]))?;
        s.wrap_and_take_home(key, &KNOWN)
    }),
    plan("R5 TRUSTED", |s| {
        let key = s.client.import(&KNOWN, on(&[cka::TRUSTED, WRAP]))?;
        s.wrap_and_take_home(key, &KNOWN)
    }),
    plan("R6 the token's defaults, generated", |s| {
        let all = vec![(VALUE_LEN, s.client.word(16)), (TOKEN, vec![0])];
        let key = s.client.generate_exactly(all)?;
        s.wrap_and_decrypt(How::Cbc, key, key)
    }),
    plan("R6 the token's defaults, DECRYPT given", |s| {
        let all = vec![
            (VALUE_LEN, s.client.word(16)),
            (TOKEN, vec![0]),
            (DECRYPT, vec![1]),
        ];
        let key = s.client.generate_exactly(all)?;
        s.wrap_and_decrypt(How::Cbc, key, key)
    }),
    plan("R6 the token's defaults, unwrapped", |s| {
        let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
        let modulus = s.client.read(public, cka::MODULUS)?;
        let blob = encrypt_at_home(s, &modulus)?;
        let wraps = s
            .client
            .unwrap_exactly(How::Oaep, private, &blob, minimal(s))?;
        s.wrap_and_take_home(wraps, &KNOWN)
    }),
    plan("R6 the token's defaults, derived", |s| {
        let base = s.client.find("dh")?;
        let all = [minimal(s), vec![(VALUE_LEN, s.client.word(16))]].concat();
        let how = || mechanism(ckm::DH_PKCS_DERIVE, &PEER);
        let made = s.client.call(Call::C_DeriveKey(
            s.client.session,
            how(),
            base,
            template(&all),
        ))?;
        let Reply::C_DeriveKey(made) = made else {
            unreachable!()
        };
        s.wrap_and_decrypt(How::Cbc, made.object, made.object)
    }),
    // Keys of known value.
    plan("I1 secret", |s| i1(s, on(&[WRAP]))),
    plan("I1 secret, not sensitive", |s| {
        i1(s, [on(&[WRAP]), off(&[SENSITIVE])].concat())
    }),
    plan("I1 secret, 0x02 for TRUE", |s| i1(s, with(WRAP, &[2]))),
    plan("I1 secret, with encrypt", |s| i1(s, on(&[WRAP, ENCRYPT]))),
    plan("I1 secret, CLASS twice", |s| {
        let mut all = over(
            s.client.defaults(),
            [on(&[WRAP]), with(VALUE, &KNOWN)].concat(),
        );
        all.push((cka::CLASS, s.client.word(cko::DATA)));
        let key = s.client.create(all)?;
        s.wrap_and_take_home(key, &KNOWN)
    }),
    plan("I1 secret, CLASS twice, DATA first", |s| {
        let mut all = over(
            s.client.defaults(),
            [on(&[WRAP]), with(VALUE, &KNOWN)].concat(),
        );
        all.insert(0, (cka::CLASS, s.client.word(cko::DATA)));
        let key = s.client.create(all)?;
        s.wrap_and_take_home(key, &KNOWN)
    }),
    plan("I1 secret, CLASS of 4 bytes", |s| {
        let all = over(
            s.client.defaults(),
            [
                on(&[WRAP]),
                with(VALUE, &KNOWN),
                with(cka::CLASS, &[4, 0, 0, 0]),
            ]
            .concat(),
        );
        let key = s.client.create(all)?;
        s.wrap_and_take_home(key, &KNOWN)
    }),
    plan("I1 secret, on the token, found by another session", |s| {
        s.client.import(
            &KNOWN,
            [on(&[WRAP, TOKEN]), with(cka::LABEL, b"brought")].concat(),
        )?;
        s.client.session = s.client.open(6)?;
        let key = s.client.find("brought")?;
        s.wrap_and_take_home(key, &KNOWN)
    }),
    plan("I1 secret, the token's default WRAP", |s| {
        let all: Attributes = [minimal(s), with(VALUE, &KNOWN), with(ENCRYPT, &[1])].concat();
        let key = s.client.create(all)?;
        s.wrap_and_take_home(key, &KNOWN)
    }),
    plan("I1 DES3", |s| {
        // Two keys of DES3 are as good as one; any mechanism of the token's will do.
        let all = over(
            s.client.defaults(),
            vec![
                (cka::KEY_TYPE, s.client.word(ckk::DES3)),
                (VALUE, b"0123456789abcdefghijklmn".to_vec()),
                (WRAP, vec![1]),
            ],
        );
        let key = s.client.create(all.clone())?;
        let target = s.client.find("target")?;
        let how = || mechanism(ckm::DES3_CBC, &[0; 8]);
        let made = s
            .client
            .call(Call::C_WrapKey(s.client.session, how(), key, target))?;
        let Reply::C_WrapKey(made) = made else {
            unreachable!()
        };
        let key = s.offline.create(over(all, on(&[DECRYPT])))?;
        let value = s.offline.decrypt(how(), key, &made.data[..16])?;
        s.is_target(&value)
    }),
    plan("I1 pair: a public key of the attacker's wraps", |s| {
        let wraps = public_key(s, &rsa_parts()[0].1, on(&[WRAP]))?;
        s.wrap_by_own_public_key(wraps, &rsa_parts())
    }),
    plan("I1 pair: the token's default WRAP", |s| {
        let wraps = public_key(s, &rsa_parts()[0].1, Vec::new())?;
        s.wrap_by_own_public_key(wraps, &rsa_parts())
    }),
    plan(
        "I1 pair: a copy of one of the token's, its modulus changed",
        |s| {
            let public = s.client.find("kek_public")?;
            let copy = s.client.copy(
                public,
                [rsa_parts()[..1].to_vec(), with(TOKEN, &[0])].concat(),
            )?;
            s.wrap_by_own_public_key(copy, &rsa_parts())
        },
    ),
    from(Architecture::BIG_64, "I1 secret, big endian", |s| {
        i1(s, on(&[WRAP]))
    }),
    from(Architecture::LITTLE_32, "I1 secret, 32 bits", |s| {
        i1(s, on(&[WRAP]))
    }),
    from(
        Architecture::BIG_32,
        "I1 secret, big endian, 32 bits",
        |s| i1(s, on(&[WRAP])),
    ),
    from(Architecture::BIG_64, "I1 pair, big endian", |s| {
        let wraps = public_key(s, &rsa_parts()[0].1, on(&[WRAP]))?;
        let target = s.client.find("target")?;
        // OAEP's parameters are a structure, PKCS#1 has none.
        let blob = s.client.wrap_bare(How::RsaPkcs, wraps, target)?;
        let mut all: Attributes = vec![
            (cka::CLASS, s.offline.word(cko::PRIVATE_KEY)),
            (cka::KEY_TYPE, s.offline.word(ckk::RSA)),
            (TOKEN, vec![0]),
            (DECRYPT, vec![1]),
        ];
        all.extend(rsa_parts());
        let key = s.offline.create(all)?;
        let value = s.offline.open_blob(How::RsaPkcs, key, &blob)?;
        s.is_target(&value)
    }),
    plan("I2 secret, WRAP set later", |s| {
        let key = s.client.import(&KNOWN, Vec::new())?;
        s.client.set(key, on(&[WRAP]))?;
        s.wrap_and_take_home(key, &KNOWN)
    }),
    plan("I2 secret, WRAP set to 0x02 later", |s| {
        let key = s.client.import(&KNOWN, Vec::new())?;
        s.client.set(key, with(WRAP, &[2]))?;
        s.wrap_and_take_home(key, &KNOWN)
    }),
    plan("I2 secret, a copy wraps", |s| {
        let key = s.client.import(&KNOWN, on(&[ENCRYPT]))?;
        let copy = s.client.copy(key, on(&[WRAP]))?;
        s.wrap_and_take_home(copy, &KNOWN)
    }),
    plan("I2 secret, VALUE of a wrapping key set", |s| {
        let key = s.client.generate(on(&[WRAP]))?;
        s.client.set(key, with(VALUE, &KNOWN))?;
        s.wrap_and_take_home(key, &KNOWN)
    }),
    plan(
        "I2 secret, a copy of a wrapping key with another VALUE",
        |s| {
            let key = s.client.find("kek")?;
            let copy = s
                .client
                .copy(key, [with(VALUE, &KNOWN), with(TOKEN, &[0])].concat())?;
            s.wrap_and_take_home(copy, &KNOWN)
        },
    ),
    plan("I2 pair: a copy wraps", |s| {
        let public = public_key(s, &rsa_parts()[0].1, off(&[WRAP]))?;
        let copy = s.client.copy(public, on(&[WRAP]))?;
        s.wrap_by_own_public_key(copy, &rsa_parts())
    }),
    plan("I2 secret, a copy of a copy wraps", |s| {
        let key = s.client.import(&KNOWN, on(&[ENCRYPT]))?;
        let copy = s.client.copy(key, on(&[TOKEN]))?;
        let copy = s
            .client
            .copy(copy, [on(&[WRAP]), off(&[ENCRYPT, TOKEN])].concat())?;
        s.wrap_and_take_home(copy, &KNOWN)
    }),
    plan("I2 pair: WRAP set later", |s| {
        let public = public_key(s, &rsa_parts()[0].1, off(&[WRAP]))?;
        s.client.set(public, on(&[WRAP]))?;
        s.wrap_by_own_public_key(public, &rsa_parts())
    }),
    plan("I4 secret: unwrapped by a known key", |s| {
        let unwraps = s.client.import(&KNOWN, on(&[UNWRAP]))?;
        let home = s.offline.import(&KNOWN, on(&[ENCRYPT]))?;
        let blob = s.offline.make_key_wrap(home, &KNOWN)?;
        let wraps = s.client.unwrap(How::KeyWrap, unwraps, &blob, on(&[WRAP]))?;
        s.wrap_and_take_home(wraps, &KNOWN)
    }),
    plan("I4 secret: the known key encrypts too (escrow)", |s| {
        let unwraps = s.client.import(&KNOWN, on(&[UNWRAP, DECRYPT]))?;
        let home = s.offline.import(&KNOWN, on(&[ENCRYPT]))?;
        let blob = s.offline.make_key_wrap(home, &KNOWN)?;
        let wraps = s.client.unwrap(How::KeyWrap, unwraps, &blob, on(&[WRAP]))?;
        s.wrap_and_take_home(wraps, &KNOWN)
    }),
    plan("I4 pair: unwrapped by a known private key", |s| {
        let mut all: Attributes = vec![
            (cka::CLASS, s.client.word(cko::PRIVATE_KEY)),
            (cka::KEY_TYPE, s.client.word(ckk::RSA)),
            (TOKEN, vec![0]),
            (UNWRAP, vec![1]),
            (DECRYPT, vec![0]),
        ];
        all.extend(rsa_parts());
        let unwraps = s.client.create(all)?;
        let blob = encrypt_at_home(s, &rsa_parts()[0].1)?;
        let wraps = s.client.unwrap(How::Oaep, unwraps, &blob, on(&[WRAP]))?;
        s.wrap_and_take_home(wraps, &KNOWN)
    }),
    // Oracles.
    plan("P1 C_UnwrapKey tells bad PKCS#1 padding", |s| {
        let (public, private) = (s.client.find("kek_public")?, s.client.find("kek_private")?);
        let modulus = s.client.read(public, cka::MODULUS)?;
        // All are the attacker's: a key in its padding, and numbers without one. What a token makes of
        // these by chance (implicit rejection) has seldom the length of a key.
        let padded = encrypt_at_home_with(s, &modulus, How::RsaPkcs)?;
        s.client
            .unwrap(How::RsaPkcs, private, &padded, Vec::new())?;
        let mut others = (1..=6).map(|byte| vec![byte; 128]);
        let mut unwrap = |blob: Vec<u8>| s.client.unwrap(How::RsaPkcs, private, &blob, Vec::new());
        Ok(others.any(|blob| unwrap(blob).is_err()))
    }),
    plan("P2 C_Decrypt tells bad PKCS#1 padding", |s| {
        let (public, private) = (s.client.find("rsa_public")?, s.client.find("rsa_private")?);
        let honest = s
            .client
            .encrypt(mechanism(ckm::RSA_PKCS, &[]), public, b"a secret")?;
        // What a token without a countermeasure tells by its code, one with it tells by its length.
        let mut answers = Vec::new();
        for change in 0..6u8 {
            let mut data = honest.clone();
            data[100] ^= change;
            answers.push(
                s.client
                    .decrypt(mechanism(ckm::RSA_PKCS, &[]), private, &data)
                    .ok()
                    .map(|data| data.len()),
            );
        }
        Ok(answers[0] == Some(8) && answers[1..].iter().any(|answer| *answer != Some(8)))
    }),
    plan("P3 C_Decrypt tells bad CBC padding", |s| {
        let key = s.client.find("cipher")?;
        let secret = *b"pay mallory 100$";
        let how = |iv: &[u8]| mechanism(ckm::AES_CBC_PAD, iv);
        let ciphertext = s.client.encrypt(how(&[0; 16]), key, &secret)?;
        // The last three bytes of the first block, from whether a decryption succeeds alone.
        let mut known: Vec<u8> = Vec::new();
        while known.len() < 3 {
            let pad = known.len() as u8 + 1;
            let mut found = None;
            for guess in 0..=255u8 {
                let mut iv = [0x55; 16];
                for (position, byte) in known.iter().enumerate() {
                    iv[16 - known.len() + position] = byte ^ pad;
                }
                iv[15 - known.len()] = guess ^ pad;
                if s.client.decrypt(how(&iv), key, &ciphertext[..16]).is_ok() {
                    found = Some(guess);
                }
            }
            match found {
                Some(byte) => known.insert(0, byte),
                // None of 256: there is no oracle. The first refusal says why.
                None => {
                    return s
                        .client
                        .decrypt(how(&[0; 16]), key, &ciphertext)
                        .map(|_| false);
                }
            }
        }
        Ok(secret.ends_with(&known))
    }),
    plan("P4 raw RSA undoes a padding", |s| {
        let (public, private) = (s.client.find("rsa_public")?, s.client.find("rsa_private")?);
        let modulus = s.client.read(public, cka::MODULUS)?;
        let blob = encrypt_at_home_with(s, &modulus, How::RsaPkcs)?;
        let clear = s
            .client
            .decrypt(mechanism(ckm::RSA_X_509, &[]), private, &blob)?;
        Ok(clear.ends_with(&KNOWN))
    }),
    plan("P4 raw RSA signs what is no digest", |s| {
        let (public, private) = (
            s.client.find("signs_public")?,
            s.client.find("signs_private")?,
        );
        // EMSA-PKCS1-v1_5 of a digest of SHA-256 (RFC 8017, 9.2), made by the attacker.
        let digest = s.offline.digest(b"a will")?;
        let info = [
            &crate::support::cryptoki::unhex("3031300d060960864801650304020105000420")[..],
            &digest,
        ]
        .concat();
        let encoded = [&[0, 1][..], &vec![0xff; 128 - 3 - info.len()], &[0], &info].concat();
        let signature = s
            .client
            .sign(mechanism(ckm::RSA_X_509, &[]), private, &encoded)?;
        let home = verify_at_home(s, public, &signature)?;
        Ok(home)
    }),
    plan("V5 the officer gives the user a new PIN", |s| {
        s.client.call(Call::C_Logout(s.client.session))?;
        s.client
            .call(Call::C_Login(s.client.session, UserType(0), b"12345678"))?;
        s.client
            .call(Call::C_InitPIN(s.client.session, b"mallory"))?;
        s.client.call(Call::C_Logout(s.client.session))?;
        s.client
            .call(Call::C_Login(s.client.session, UserType(1), b"mallory"))?;
        Ok(true)
    }),
    plan("V5 the token is initialised anew", |s| {
        s.client.call(Call::C_CloseAllSessions(s.client.slot))?;
        s.client
            .call(Call::C_InitToken(s.client.slot, b"12345678", b"gone"))?;
        Ok(true)
    }),
];
