//! Plays an attack: a PKCS#11 application that stops at the first refused call.

use xdr::version3::{Call, Mechanism, Reply};
use xdr::{Architecture, Flags, ObjectHandle, SessionHandle, SlotId, Ulong, UserType};

use crate::support::cryptoki::{cka, ckk, ckm, cko, mechanism, oaep_of, template, word};
use crate::support::raw::{Answer, Connection};
use crate::version4;

/// Where a plan ended.
#[derive(Debug)]
pub struct Stopped {
    pub function: &'static str,
    pub answer: String,
}

pub type Trace<T> = Result<T, Stopped>;
pub type Attributes = Vec<(u64, Vec<u8>)>;

/// Ways to wrap a key.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum How {
    /// AES-CBC, IV of zeros: 16 bytes of key to 16.
    Cbc,
    /// RFC 3394: to 8 bytes more.
    KeyWrap,
    /// RFC 5649.
    KeyWrapPad,
    RsaPkcs,
    Oaep,
}

impl How {
    pub fn mechanism(self, architecture: Architecture) -> Mechanism {
        match self {
            How::Cbc => mechanism(ckm::AES_CBC, &[0; 16]),
            How::KeyWrap => mechanism(ckm::AES_KEY_WRAP, &[]),
            How::KeyWrapPad => mechanism(ckm::AES_KEY_WRAP_PAD, &[]),
            How::RsaPkcs => mechanism(ckm::RSA_PKCS, &[]),
            How::Oaep => oaep_of(architecture),
        }
    }

    /// How long a wrapped AES-128 key is, without what a filter appends.
    pub fn length(self) -> usize {
        match self {
            How::Cbc => 16,
            How::KeyWrap | How::KeyWrapPad => 24,
            How::RsaPkcs | How::Oaep => 128,
        }
    }
}

const USAGES: &[u64] = &[
    cka::ENCRYPT,
    cka::DECRYPT,
    cka::WRAP,
    cka::UNWRAP,
    cka::SIGN,
    cka::VERIFY,
];

/// These, and of `defaults` what is not among them.
pub fn over(defaults: Attributes, mut chosen: Attributes) -> Attributes {
    let more: Attributes = defaults
        .into_iter()
        .filter(|(kind, _)| chosen.iter().all(|(known, _)| known != kind))
        .collect();
    chosen.extend(more);
    chosen
}

/// TRUE for these.
pub fn on(kinds: &[u64]) -> Attributes {
    kinds.iter().map(|kind| (*kind, vec![1])).collect()
}

/// The version of the protocol that a client speaks.
#[derive(Clone, Copy, Eq, PartialEq)]
pub enum Version {
    Three,
    Four,
}

pub struct Client {
    pub connection: Connection,
    version: Version,
    pub session: SessionHandle,
    pub slot: SlotId,
    pub architecture: Architecture,
}

impl Client {
    /// Sessions, login and all.
    pub fn new(connection: Connection, architecture: Architecture) -> Client {
        Client::speaking(Version::Three, connection, architecture)
    }

    /// The same calls in this version.
    pub fn speaking(
        version: Version,
        connection: Connection,
        architecture: Architecture,
    ) -> Client {
        let mut client = Client {
            connection,
            version,
            session: SessionHandle(0),
            slot: SlotId(0),
            architecture,
        };
        client.begin().expect("a session of the user's");
        client
    }

    fn begin(&mut self) -> Trace<()> {
        match self.version {
            Version::Three => {
                self.connection.call(Call::C_SetupArch(self.architecture));
            }
            Version::Four => {
                let hello = xdr::Hello {
                    longest_record: Ulong(1 << 26),
                    parallel_calls: Ulong(1),
                    ..Default::default()
                };
                let hello = xdr::Call::C_SetupArch(hello);
                let reply = self.connection.call_in_version_4(&hello);
                assert!(reply.expect("our daemon speaks it").rv().is_ok());
            }
        }
        self.call(Call::C_LoadModule(b"softhsm"))?;
        self.call(Call::C_Initialize())?;
        let Reply::C_GetSlotList(list) = self.call(Call::C_GetSlotList(Ulong(1), xdr::Count(9)))?
        else {
            unreachable!()
        };
        self.slot = list.slots[0];
        self.session = self.open(6)?;
        self.call(Call::C_Login(self.session, UserType(1), b"1234"))?;
        Ok(())
    }

    pub fn open(&mut self, flags: u64) -> Trace<SessionHandle> {
        match self.call(Call::C_OpenSession(self.slot, Flags(flags)))? {
            Reply::C_OpenSession(result) => Ok(result.session),
            _ => unreachable!(),
        }
    }

    /// The reply, if the call succeeded.
    pub fn call(&mut self, call: Call<'_>) -> Trace<Reply> {
        let function = call.function().name();
        match self.answer(call) {
            Answer::Reply(reply) if reply.rv().is_ok() => Ok(reply),
            Answer::Reply(reply) => Err(Stopped {
                function,
                answer: format!("{:?}", reply.rv()),
            }),
            other => Err(Stopped {
                function,
                answer: format!("{other:?}"),
            }),
        }
    }

    fn answer(&mut self, call: Call<'_>) -> Answer {
        if self.version == Version::Three {
            return self.connection.call(call);
        }
        let record = version4::record(&call);
        let reply = self.connection.call_in_version_4(&version4::call(&record));
        reply
            .and_then(Reply::of)
            .map_or(Answer::Nothing, Answer::Reply)
    }

    fn object(&mut self, call: Call<'_>) -> Trace<ObjectHandle> {
        match self.call(call)? {
            Reply::C_CreateObject(result)
            | Reply::C_CopyObject(result)
            | Reply::C_GenerateKey(result) => Ok(result.object),
            Reply::C_UnwrapKey(result) | Reply::C_DeriveKey(result) => Ok(result.object),
            _ => unreachable!(),
        }
    }

    fn data(&mut self, call: Call<'_>) -> Trace<Vec<u8>> {
        match self.call(call)? {
            Reply::C_WrapKey(result) | Reply::C_Encrypt(result) | Reply::C_Decrypt(result) => {
                Ok(result.data.to_vec())
            }
            Reply::C_Sign(result) | Reply::C_Digest(result) | Reply::C_DigestFinal(result) => {
                Ok(result.data.to_vec())
            }
            _ => unreachable!(),
        }
    }

    pub fn word(&self, number: u64) -> Vec<u8> {
        word(self.architecture, number)
    }

    /// A session key, sensitive and extractable, whose usages are what was chosen.
    pub fn defaults(&self) -> Attributes {
        let mut all = vec![
            (cka::CLASS, self.word(cko::SECRET_KEY)),
            (cka::KEY_TYPE, self.word(ckk::AES)),
            (cka::TOKEN, vec![0]),
            (cka::SENSITIVE, vec![1]),
            (cka::EXTRACTABLE, vec![1]),
        ];
        all.extend(USAGES.iter().map(|kind| (*kind, vec![0])));
        all
    }

    pub fn generate(&mut self, chosen: Attributes) -> Trace<ObjectHandle> {
        let length = vec![(cka::VALUE_LEN, self.word(16))];
        let all = over(over(self.defaults(), length), chosen);
        self.generate_exactly(all)
    }

    pub fn generate_exactly(&mut self, all: Attributes) -> Trace<ObjectHandle> {
        self.object(Call::C_GenerateKey(
            self.session,
            mechanism(ckm::AES_KEY_GEN, &[]),
            template(&all),
        ))
    }

    /// An RSA pair with these usages and no other.
    pub fn pair(&mut self, public: Attributes, private: Attributes) -> Trace<[ObjectHandle; 2]> {
        let off =
            |kinds: &[u64]| -> Attributes { kinds.iter().map(|kind| (*kind, vec![0])).collect() };
        let mut defaults = off(&[
            cka::TOKEN,
            cka::ENCRYPT,
            cka::WRAP,
            cka::VERIFY,
            cka::VERIFY_RECOVER,
            cka::DERIVE,
        ]);
        defaults.extend([
            (cka::MODULUS_BITS, self.word(1024)),
            (cka::PUBLIC_EXPONENT, vec![1, 0, 1]),
        ]);
        let public = over(defaults, public);
        let mut defaults = off(&[
            cka::TOKEN,
            cka::DECRYPT,
            cka::UNWRAP,
            cka::SIGN,
            cka::SIGN_RECOVER,
            cka::DERIVE,
        ]);
        defaults.extend(on(&[cka::SENSITIVE, cka::EXTRACTABLE]));
        let private = over(defaults, private);
        let call = Call::C_GenerateKeyPair(
            self.session,
            mechanism(ckm::RSA_PKCS_KEY_PAIR_GEN, &[]),
            template(&public),
            template(&private),
        );
        match self.call(call)? {
            Reply::C_GenerateKeyPair(pair) => Ok([pair.public_key, pair.private_key]),
            _ => unreachable!(),
        }
    }

    /// An AES key with this value.
    pub fn import(&mut self, value: &[u8], chosen: Attributes) -> Trace<ObjectHandle> {
        let all = over(
            self.defaults(),
            over(vec![(cka::VALUE, value.to_vec())], chosen),
        );
        self.create(all)
    }

    pub fn create(&mut self, all: Attributes) -> Trace<ObjectHandle> {
        self.object(Call::C_CreateObject(self.session, template(&all)))
    }

    pub fn copy(&mut self, object: ObjectHandle, changes: Attributes) -> Trace<ObjectHandle> {
        self.object(Call::C_CopyObject(self.session, object, template(&changes)))
    }

    pub fn set(&mut self, object: ObjectHandle, changes: Attributes) -> Trace<()> {
        self.call(Call::C_SetAttributeValue(
            self.session,
            object,
            template(&changes),
        ))
        .map(drop)
    }

    pub fn wrap(&mut self, how: How, wrapping: ObjectHandle, key: ObjectHandle) -> Trace<Vec<u8>> {
        self.data(Call::C_WrapKey(
            self.session,
            how.mechanism(self.architecture),
            wrapping,
            key,
        ))
    }

    /// The blob alone, whatever a filter appends.
    pub fn wrap_bare(
        &mut self,
        how: How,
        wrapping: ObjectHandle,
        key: ObjectHandle,
    ) -> Trace<Vec<u8>> {
        let mut blob = self.wrap(how, wrapping, key)?;
        blob.truncate(how.length());
        Ok(blob)
    }

    pub fn unwrap(
        &mut self,
        how: How,
        key: ObjectHandle,
        blob: &[u8],
        chosen: Attributes,
    ) -> Trace<ObjectHandle> {
        let all = over(self.defaults(), chosen);
        self.unwrap_exactly(how, key, blob, all)
    }

    pub fn unwrap_exactly(
        &mut self,
        how: How,
        key: ObjectHandle,
        blob: &[u8],
        all: Attributes,
    ) -> Trace<ObjectHandle> {
        self.object(Call::C_UnwrapKey(
            self.session,
            how.mechanism(self.architecture),
            key,
            blob,
            template(&all),
        ))
    }

    pub fn derive(
        &mut self,
        how: Mechanism,
        base: ObjectHandle,
        chosen: Attributes,
    ) -> Trace<ObjectHandle> {
        let all = over(self.defaults(), chosen);
        self.object(Call::C_DeriveKey(self.session, how, base, template(&all)))
    }

    pub fn encrypt(&mut self, how: Mechanism, key: ObjectHandle, data: &[u8]) -> Trace<Vec<u8>> {
        self.call(Call::C_EncryptInit(self.session, how, key))?;
        self.data(Call::C_Encrypt(self.session, data))
    }

    pub fn decrypt(&mut self, how: Mechanism, key: ObjectHandle, data: &[u8]) -> Trace<Vec<u8>> {
        self.call(Call::C_DecryptInit(self.session, how, key))?;
        self.data(Call::C_Decrypt(self.session, data))
    }

    pub fn sign(&mut self, how: Mechanism, key: ObjectHandle, data: &[u8]) -> Trace<Vec<u8>> {
        self.call(Call::C_SignInit(self.session, how, key))?;
        self.data(Call::C_Sign(self.session, data))
    }

    pub fn digest(&mut self, data: &[u8]) -> Trace<Vec<u8>> {
        self.call(Call::C_DigestInit(
            self.session,
            mechanism(ckm::SHA256, &[]),
        ))?;
        self.data(Call::C_Digest(self.session, data))
    }

    pub fn digest_of_key(&mut self, key: ObjectHandle) -> Trace<Vec<u8>> {
        self.call(Call::C_DigestInit(
            self.session,
            mechanism(ckm::SHA256, &[]),
        ))?;
        let digested = self.call(Call::C_DigestKey(self.session, key));
        let result = self.data(Call::C_DigestFinal(self.session))?;
        digested.map(|_| result)
    }

    /// One attribute.
    pub fn read(&mut self, object: ObjectHandle, kind: u64) -> Trace<Vec<u8>> {
        self.read_among(object, &[kind])
            .map(|mut values| values.remove(0))
    }

    /// Several attributes, whatever the CK_RV says.
    pub fn read_among(&mut self, object: ObjectHandle, kinds: &[u64]) -> Trace<Vec<Vec<u8>>> {
        let asked: Attributes = kinds.iter().map(|kind| (*kind, vec![0; 2000])).collect();
        match self.answer(Call::C_GetAttributeValue(
            self.session,
            object,
            template(&asked),
        )) {
            Answer::Reply(Reply::C_GetAttributeValue(result)) => {
                let values: Vec<Vec<u8>> = result
                    .template
                    .0
                    .iter()
                    .map(|attribute| attribute.value.clone())
                    .collect();
                // A request that a failing call sends back is no value.
                if values
                    .iter()
                    .all(|value| value.is_empty() || *value == [0; 2000])
                {
                    return Err(Stopped {
                        function: "C_GetAttributeValue",
                        answer: format!("{:?}", result.rv),
                    });
                }
                Ok(values)
            }
            other => Err(Stopped {
                function: "C_GetAttributeValue",
                answer: format!("{other:?}"),
            }),
        }
    }

    pub fn find(&mut self, label: &str) -> Trace<ObjectHandle> {
        self.find_all(vec![(cka::LABEL, label.into())])?
            .first()
            .copied()
            .ok_or_else(|| Stopped {
                function: "C_FindObjects",
                answer: format!("hides {label}"),
            })
    }

    pub fn find_all(&mut self, wanted: Attributes) -> Trace<Vec<ObjectHandle>> {
        self.call(Call::C_FindObjectsInit(self.session, template(&wanted)))?;
        let Reply::C_FindObjects(found) =
            self.call(Call::C_FindObjects(self.session, Ulong(100)))?
        else {
            unreachable!()
        };
        self.call(Call::C_FindObjectsFinal(self.session))?;
        Ok(found.objects)
    }

    /// What a blob holds, by a key that decrypts.
    pub fn open_blob(&mut self, how: How, key: ObjectHandle, blob: &[u8]) -> Trace<Vec<u8>> {
        match how {
            How::Cbc | How::RsaPkcs | How::Oaep => {
                self.decrypt(how.mechanism(self.architecture), key, blob)
            }
            How::KeyWrap | How::KeyWrapPad => self.open_key_wrap(key, blob),
        }
    }

    /// RFC 3394 and 5649, out of single blocks of AES. The length is tried: a filter may append to
    /// it.
    fn open_key_wrap(&mut self, key: ObjectHandle, blob: &[u8]) -> Trace<Vec<u8>> {
        for appended in [0, 30, 34] {
            let Some(length) = blob
                .len()
                .checked_sub(appended)
                .filter(|length| length % 8 == 0 && *length >= 24)
            else {
                continue;
            };
            let n = length / 8 - 1;
            let mut a: [u8; 8] = blob[..8].try_into().expect("8 bytes");
            let mut r: Vec<[u8; 8]> = blob[8..length]
                .chunks(8)
                .map(|part| part.try_into().expect("8 bytes"))
                .collect();
            for j in (0..6u64).rev() {
                for i in (0..n).rev() {
                    let t = (n as u64 * j + i as u64 + 1).to_be_bytes();
                    let mut block = [0; 16];
                    for (position, byte) in a.iter().enumerate() {
                        block[position] = byte ^ t[position];
                    }
                    block[8..].copy_from_slice(&r[i]);
                    let clear = self.decrypt(mechanism(ckm::AES_ECB, &[]), key, &block)?;
                    a.copy_from_slice(&clear[..8]);
                    r[i].copy_from_slice(&clear[8..16]);
                }
            }
            let mut value = r.concat();
            if a == [0xa6; 8] {
                return Ok(value);
            }
            if a[..4] == [0xa6, 0x59, 0x59, 0xa6] {
                value.truncate(u32::from_be_bytes(a[4..].try_into().expect("4 bytes")) as usize);
                return Ok(value);
            }
        }
        Err(Stopped {
            function: "key wrap",
            answer: "does not open".into(),
        })
    }

    /// A blob that RFC 3394 unwraps to this value, out of single blocks that a key encrypts.
    pub fn make_key_wrap(&mut self, key: ObjectHandle, value: &[u8]) -> Trace<Vec<u8>> {
        let mut a = [0xa6; 8];
        let mut r: Vec<[u8; 8]> = value
            .chunks(8)
            .map(|part| part.try_into().expect("8 bytes"))
            .collect();
        let n = r.len();
        for j in 0..6u64 {
            for (i, part) in r.iter_mut().enumerate() {
                let block = [a, *part].concat();
                let sealed = self.encrypt(mechanism(ckm::AES_ECB, &[]), key, &block)?;
                let t = (n as u64 * j + i as u64 + 1).to_be_bytes();
                for position in 0..8 {
                    a[position] = sealed[position] ^ t[position];
                }
                part.copy_from_slice(&sealed[8..16]);
            }
        }
        Ok([a.to_vec(), r.concat()].concat())
    }
}
