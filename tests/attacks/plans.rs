//! Builds plans, and parts of plans, that several attacks share.

use xdr::version3::Call;

use crate::client::{Attributes, How, Trace, on};
use crate::scene::{KNOWN, Scene};
use crate::support::cryptoki::{cka, ckk, ckm, cko, mechanism};

use cka::{ENCRYPT, EXTRACTABLE, TOKEN, VALUE_LEN, VERIFY, WRAP};

pub fn s1(s: &mut Scene<'_>, usages: Attributes) -> Trace<bool> {
    let key = s.client.generate(usages)?;
    s.wrap_and_decrypt(How::Cbc, key, key)
}

/// Wraps, changes the key, decrypts.
pub fn s2(s: &mut Scene<'_>, usages: &[u64], changes: &[Attributes]) -> Trace<bool> {
    let key = s.client.generate(on(usages))?;
    let target = s.client.find("target")?;
    let blob = s.client.wrap_bare(How::Cbc, key, target)?;
    for change in changes {
        s.client.set(key, change.clone())?;
    }
    let value = s.client.open_blob(How::Cbc, key, &blob)?;
    s.is_target(&value)
}

/// Wraps by a key, decrypts by a copy.
pub fn s5(s: &mut Scene<'_>, label: &str, changes: Attributes) -> Trace<bool> {
    let wraps = s.client.find(label)?;
    let decrypts = s.client.copy(wraps, changes)?;
    s.wrap_and_decrypt(How::Cbc, wraps, decrypts)
}

/// Makes a blob of a known value with a key that encrypts, and a wrapping key of the blob.
pub fn s7(
    s: &mut Scene<'_>,
    encrypts: xdr::ObjectHandle,
    unwraps: xdr::ObjectHandle,
) -> Trace<bool> {
    let blob = s.client.make_key_wrap(encrypts, &KNOWN)?;
    let wraps = s.client.unwrap(How::KeyWrap, unwraps, &blob, on(&[WRAP]))?;
    s.wrap_and_take_home(wraps, &KNOWN)
}

/// Wraps a key once, unwraps it twice.
pub fn s8(
    s: &mut Scene<'_>,
    how: How,
    wraps: xdr::ObjectHandle,
    unwraps: xdr::ObjectHandle,
    usages: Attributes,
    roles: [Attributes; 2],
) -> Trace<bool> {
    let key = s.client.generate(usages)?;
    let blob = s.client.wrap(how, wraps, key)?;
    let [one, two] = roles.map(|role| s.client.unwrap(how, unwraps, &blob, role));
    s.wrap_and_decrypt(How::Cbc, one?, two?)
}

pub fn i1(s: &mut Scene<'_>, usages: Attributes) -> Trace<bool> {
    let key = s.client.import(&KNOWN, usages)?;
    s.wrap_and_take_home(key, &KNOWN)
}

/// A template that leaves all to the token.
pub fn minimal(s: &Scene<'_>) -> Attributes {
    vec![
        (cka::CLASS, s.client.word(cko::SECRET_KEY)),
        (cka::KEY_TYPE, s.client.word(ckk::AES)),
        (TOKEN, vec![0]),
        (EXTRACTABLE, vec![1]),
    ]
}

pub fn public_key_of(
    client: &mut crate::client::Client,
    modulus: &[u8],
    usages: Attributes,
) -> Trace<xdr::ObjectHandle> {
    let mut all: Attributes = vec![
        (cka::CLASS, client.word(cko::PUBLIC_KEY)),
        (cka::KEY_TYPE, client.word(ckk::RSA)),
        (TOKEN, vec![0]),
        (cka::MODULUS, modulus.to_vec()),
        (cka::PUBLIC_EXPONENT, vec![1, 0, 1]),
    ];
    all.extend(usages);
    client.create(all)
}

pub fn public_key(
    s: &mut Scene<'_>,
    modulus: &[u8],
    usages: Attributes,
) -> Trace<xdr::ObjectHandle> {
    public_key_of(&mut s.client, modulus, usages)
}

/// The known value, encrypted to a public key on the attacker's own machine.
pub fn encrypt_at_home_with(s: &mut Scene<'_>, modulus: &[u8], how: How) -> Trace<Vec<u8>> {
    let key = public_key_of(s.offline, modulus, on(&[ENCRYPT]))?;
    s.offline
        .encrypt(how.mechanism(s.offline.architecture), key, &KNOWN)
}

pub fn encrypt_at_home(s: &mut Scene<'_>, modulus: &[u8]) -> Trace<Vec<u8>> {
    encrypt_at_home_with(s, modulus, How::Oaep)
}

pub fn verify_at_home(
    s: &mut Scene<'_>,
    public: xdr::ObjectHandle,
    signature: &[u8],
) -> Trace<bool> {
    let modulus = s.client.read(public, cka::MODULUS)?;
    let key = public_key_of(s.offline, &modulus, on(&[VERIFY]))?;
    s.offline.call(Call::C_VerifyInit(
        s.offline.session,
        mechanism(ckm::SHA256_RSA_PKCS, &[]),
        key,
    ))?;
    s.offline
        .call(Call::C_Verify(s.offline.session, b"a will", signature))?;
    Ok(true)
}

pub fn derive(
    s: &mut Scene<'_>,
    base: xdr::ObjectHandle,
    peer: &[u8],
    usages: Attributes,
) -> Trace<xdr::ObjectHandle> {
    let length = vec![(VALUE_LEN, s.client.word(16))];
    s.client.derive(
        mechanism(ckm::DH_PKCS_DERIVE, peer),
        base,
        [usages, length].concat(),
    )
}
