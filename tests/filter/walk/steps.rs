//! Makes the steps of a walk: one call, or the calls of one operation, with chosen arguments.

use xdr::version3::{Call, Mechanism, Reply};
use xdr::{Architecture, Flags, SessionHandle, SlotId, Ulong, UserType};

use super::{
    Attributes, Compare, Object, Walk,
    comparing::OF_THE_KEY,
    material::{ASKED, BOOLEANS, IDS, LABELS, NUMBERS},
};
use crate::base::{Kind, P256};
use crate::support::cryptoki::{
    cka, ckk, ckm, cko, dh_group, mechanism, oaep, rsa_parts, template, word,
};

impl Walk<'_> {
    pub(super) fn create(&mut self) {
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

    pub(super) fn copy(&mut self) {
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

    pub(super) fn change(&mut self) {
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

    pub(super) fn read(&mut self) {
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

    pub(super) fn generate(&mut self) {
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

    pub(super) fn generate_pair(&mut self) {
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

    pub(super) fn find(&mut self) {
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

    pub(super) fn cipher(&mut self) {
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
        let data = if random || cipher.mechanism_type().0 != ckm::RSA_X_509 {
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
                    self.ciphertexts.push(result.data.to_vec());
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

    pub(super) fn sign(&mut self) {
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

    pub(super) fn wrap(&mut self) {
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
                self.blobs.push(result.data.to_vec());
            }
        }
    }

    pub(super) fn unwrap(&mut self) {
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

    pub(super) fn derive(&mut self) {
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

    pub(super) fn digest(&mut self) {
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

    pub(super) fn open(&mut self, flags: u64) {
        if let Some(Reply::C_OpenSession(result)) =
            self.call(Call::C_OpenSession(self.slot, Flags(flags)))
        {
            if result.rv.is_ok() {
                self.sessions.push(result.session);
            }
        }
    }

    pub(super) fn login(&mut self) {
        let session = self.sessions.first().copied().unwrap_or(SessionHandle(1));
        self.call(Call::C_Login(session, UserType(1), b"1234"));
        self.logged_in = true;
    }

    pub(super) fn session_things(&mut self) {
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

    pub(super) fn token_things(&mut self) {
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
                self.call(Call::C_GetMechanismList(slot, xdr::Count(count)));
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
            5 => drop(self.call(Call::C_GetSlotList(Ulong(0), xdr::Count(0)))),
            _ => drop(self.call(Call::C_WaitForSlotEvent(Flags(1)))),
        }
    }

    pub(super) fn odd_things(&mut self) {
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
}
