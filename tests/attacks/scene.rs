//! Sets up what an attack needs: a token with secrets, a daemon in front of it, and the attacker's own token.

use xdr::Architecture;
use xdr::version3::{Call, Reply};

use crate::client::{Attributes, Client, How, Trace, on};
use crate::support::cryptoki::{cka, ckk, ckm, cko, dh_group, mechanism, template};
use crate::support::raw::Peer;
use crate::support::{Maker, Token};

/// The token, and the values on it that nobody is to learn.
pub struct Base {
    pub token: Token,
    /// K*: made on the token, sensitive, extractable, encrypts and decrypts.
    pub target: Vec<u8>,
    /// A private RSA key, in PKCS#8.
    pub target_private: Vec<u8>,
    /// What two parties derived from the private key `dh` and [`PEER`].
    pub derived: Vec<u8>,
}

/// A public value of the other party.
pub const PEER: [u8; 128] = [0x42; 128];

/// A key of the attacker's.
pub const KNOWN: [u8; 16] = *b"known to mallory";

fn labelled(label: &str, mut more: Attributes) -> Attributes {
    more.extend([(cka::LABEL, label.into()), (cka::TOKEN, vec![1])]);
    more
}

impl Base {
    /// Made by a trusted user, before there is a filter.
    pub fn new() -> Base {
        Base::make().expect("nothing is refused")
    }

    fn make() -> Trace<Base> {
        let peer = Peer::new(Maker::Ours, "", Token::new());
        let mut client = Client::new(peer.another(), Architecture::LITTLE_64);
        let target = client.generate(labelled("target", on(&[cka::ENCRYPT, cka::DECRYPT])))?;
        client.generate(labelled("kek", on(&[cka::WRAP, cka::UNWRAP])))?;
        client.generate(labelled("conflicting", on(&[cka::WRAP, cka::DECRYPT])))?;
        client.generate(labelled("cipher", on(&[cka::ENCRYPT, cka::DECRYPT])))?;
        client.generate(labelled(
            "readable",
            [on(&[cka::ENCRYPT]), vec![(cka::SENSITIVE, vec![0])]].concat(),
        ))?;
        client.pair(
            labelled("kek_public", on(&[cka::WRAP])),
            labelled("kek_private", on(&[cka::UNWRAP])),
        )?;
        client.pair(
            labelled("rsa_public", on(&[cka::ENCRYPT])),
            labelled("rsa_private", on(&[cka::DECRYPT])),
        )?;
        client.pair(
            labelled("signs_public", on(&[cka::VERIFY])),
            labelled("signs_private", on(&[cka::SIGN])),
        )?;
        let pair = client.pair(
            labelled("target_public", on(&[cka::ENCRYPT])),
            labelled("target_private", on(&[cka::DECRYPT])),
        )?;

        let (prime, generator) = dh_group();
        let public = labelled(
            "dh_public",
            vec![(cka::PRIME, prime), (cka::BASE, generator)],
        );
        let mut private = labelled("dh", on(&[cka::DERIVE, cka::SENSITIVE]));
        private.extend(
            [cka::DECRYPT, cka::UNWRAP, cka::SIGN, cka::SIGN_RECOVER].map(|kind| (kind, vec![0])),
        );
        let how = mechanism(ckm::DH_PKCS_KEY_PAIR_GEN, &[]);
        let made = client.call(Call::C_GenerateKeyPair(
            client.session,
            how,
            template(&public),
            template(&private),
        ))?;
        let Reply::C_GenerateKeyPair(dh) = made else {
            unreachable!()
        };
        let how = mechanism(ckm::DH_PKCS_DERIVE, &PEER);
        let length = vec![(cka::VALUE_LEN, client.word(16))];
        let derived = client.derive(
            how,
            dh.private_key,
            labelled("derived", [on(&[cka::ENCRYPT]), length].concat()),
        )?;

        // The values themselves, by a key that is known.
        let known = client.import(&KNOWN, on(&[cka::WRAP, cka::DECRYPT]))?;
        let mut value = |how, object| -> Trace<Vec<u8>> {
            let blob = client.wrap(how, known, object)?;
            client.open_blob(how, known, &blob)
        };
        let target = value(How::Cbc, target)?;
        let derived = value(How::Cbc, derived)?;
        let target_private = value(How::KeyWrapPad, pair[1])?;
        drop(client);
        let Peer { daemon, token, .. } = peer;
        drop(daemon);
        Ok(Base {
            token,
            target,
            target_private,
            derived,
        })
    }
}

/// One attack's view.
pub struct Scene<'a> {
    pub client: Client,
    /// The attacker's own token, where nothing is refused.
    pub offline: &'a mut Client,
    pub base: &'a Base,
}

impl Scene<'_> {
    /// Whether that is the value of K*.
    pub fn is_target(&self, value: &[u8]) -> Trace<bool> {
        Ok(value == self.base.target)
    }

    /// Wraps K* by the key, and decrypts the blob by the other.
    pub fn wrap_and_decrypt(
        &mut self,
        how: How,
        wrapping: xdr::ObjectHandle,
        decrypting: xdr::ObjectHandle,
    ) -> Trace<bool> {
        let target = self.client.find("target")?;
        let blob = self.client.wrap_bare(how, wrapping, target)?;
        let value = self.client.open_blob(how, decrypting, &blob)?;
        self.is_target(&value)
    }

    /// Wraps K* by a key whose value is known, and decrypts the blob at home.
    pub fn wrap_and_take_home(&mut self, wrapping: xdr::ObjectHandle, value: &[u8]) -> Trace<bool> {
        let target = self.client.find("target")?;
        let blob = self.client.wrap_bare(How::Cbc, wrapping, target)?;
        let key = self.offline.import(value, on(&[cka::DECRYPT]))?;
        let value = self.offline.open_blob(How::Cbc, key, &blob)?;
        self.is_target(&value)
    }

    /// The same for a public key whose private key the attacker has.
    pub fn wrap_by_own_public_key(
        &mut self,
        public: xdr::ObjectHandle,
        parts: &[(u64, Vec<u8>)],
    ) -> Trace<bool> {
        let target = self.client.find("target")?;
        let blob = self.client.wrap_bare(How::Oaep, public, target)?;
        let mut all: Attributes = vec![
            (cka::CLASS, self.offline.word(cko::PRIVATE_KEY)),
            (cka::KEY_TYPE, self.offline.word(ckk::RSA)),
            (cka::TOKEN, vec![0]),
            (cka::DECRYPT, vec![1]),
        ];
        all.extend_from_slice(parts);
        let key = self.offline.create(all)?;
        let value = self.offline.open_blob(How::Oaep, key, &blob)?;
        self.is_target(&value)
    }
}
