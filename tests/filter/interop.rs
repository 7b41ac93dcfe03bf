//! Tests that keys wrapped through one daemon can be unwrapped through the other, on copies of one token.

use xdr::version3::{Attribute, Call, Reply, Template};
use xdr::{Architecture, Flags, ObjectHandle, SessionHandle, Ulong, UserType};

use crate::base;
use crate::configurations::patch_set_1;
use crate::support::Maker;
use crate::support::cryptoki::{cka, ckk, ckm, cko, long, mechanism, oaep, template};
use crate::support::raw::Peer;

const SESSION: SessionHandle = SessionHandle(1);

/// A session of the user's.
struct Side(Peer);

impl Side {
    fn new(maker: Maker, rules: &str, token: &crate::support::Token) -> Side {
        let mut peer = Peer::new(maker, rules, token.copy());
        let connection = peer.connection();
        connection.call(Call::C_SetupArch(Architecture::LITTLE_64));
        connection.call(Call::C_LoadModule(b"softhsm"));
        connection.call(Call::C_Initialize());
        let mut side = Side(peer);
        let Reply::C_GetSlotList(list) = side.call(Call::C_GetSlotList(Ulong(1), xdr::Count(9)))
        else {
            panic!("a reply")
        };
        side.call(Call::C_OpenSession(list.slots[0], Flags(6)));
        side.call(Call::C_Login(SESSION, UserType(1), b"1234"));
        side
    }

    fn call(&mut self, call: Call<'_>) -> Reply {
        let name = call.function().name();
        let answer = self.0.connection().call(call);
        assert!(answer.rv().is_ok(), "{name}: {answer:?}");
        answer.reply().clone()
    }

    fn find(&mut self, label: &str) -> ObjectHandle {
        self.call(Call::C_FindObjectsInit(
            SESSION,
            template(&[(cka::LABEL, label.as_bytes())]),
        ));
        let Reply::C_FindObjects(found) = self.call(Call::C_FindObjects(SESSION, Ulong(2))) else {
            panic!("a reply")
        };
        self.call(Call::C_FindObjectsFinal(SESSION));
        found.objects[0]
    }

    fn wrap(&mut self, how: xdr::version3::Mechanism, wrapping: &str, key: &str) -> Vec<u8> {
        let (wrapping, key) = (self.find(wrapping), self.find(key));
        let Reply::C_WrapKey(result) = self.call(Call::C_WrapKey(SESSION, how, wrapping, key))
        else {
            panic!("a reply")
        };
        result.data.to_vec()
    }

    /// What the key makes of a block.
    fn encrypt(&mut self, key: ObjectHandle) -> Vec<u8> {
        self.call(Call::C_EncryptInit(
            SESSION,
            mechanism(ckm::AES_ECB, &[]),
            key,
        ));
        let Reply::C_Encrypt(result) = self.call(Call::C_Encrypt(SESSION, &[0x33; 16])) else {
            panic!("a reply")
        };
        result.data.to_vec()
    }
}

/// What `good_cipher` was before it was wrapped.
fn as_wrapped() -> Template {
    let mut all: Vec<(u64, Vec<u8>)> = vec![
        (cka::CLASS, long(cko::SECRET_KEY)),
        (cka::KEY_TYPE, long(ckk::AES)),
        (cka::TOKEN, vec![0]),
    ];
    all.extend(
        [cka::ENCRYPT, cka::DECRYPT, cka::SENSITIVE, cka::EXTRACTABLE].map(|kind| (kind, vec![1])),
    );
    template(&all)
}

fn crosses(rules: &str) {
    let token = base::token();
    let makers = [Maker::Original, Maker::Ours];
    let [mut theirs, mut ours] = makers.map(|maker| Side::new(maker, rules, &token));

    // CBC is deterministic: the blobs, the attributes and the MACs are the same.
    let cbc = || mechanism(ckm::AES_CBC, &[7; 16]);
    let blob = theirs.wrap(cbc(), "kek", "good_cipher");
    assert_eq!(ours.wrap(cbc(), "kek", "good_cipher"), blob);

    let cipher = theirs.find("good_cipher");
    let expected = theirs.encrypt(cipher);
    for from_theirs in [true, false] {
        let (wraps, unwraps) = if from_theirs {
            (&mut theirs, &mut ours)
        } else {
            (&mut ours, &mut theirs)
        };
        let blob = wraps.wrap(oaep(), "good_wrap_public", "good_cipher");
        assert_eq!(
            blob.len(),
            128 + if rules.contains("(C_Initialize, do_segregate_usage)]") {
                34
            } else {
                30
            }
        );
        let key = unwraps.find("good_wrap_private");
        let Reply::C_UnwrapKey(made) =
            unwraps.call(Call::C_UnwrapKey(SESSION, oaep(), key, &blob, as_wrapped()))
        else {
            panic!("a reply")
        };
        assert_eq!(unwraps.encrypt(made.object), expected);

        // Neither takes it with another role, nor altered.
        let mut other = as_wrapped();
        other
            .0
            .push(Attribute::new(xdr::AttributeType(cka::WRAP), vec![1]));
        let mut altered = blob.clone();
        *altered.last_mut().expect("a MAC") ^= 1;
        for (blob, template, rv) in [(&blob, other, 0xd1), (&altered, as_wrapped(), 0x06)] {
            let answer = unwraps.0.connection().call(Call::C_UnwrapKey(
                SESSION,
                oaep(),
                key,
                blob,
                template,
            ));
            let expected = if answer.rv().0 == 0x13 { 0x13 } else { rv };
            assert_eq!(answer.rv().0, expected);
        }
    }
}

#[test]
fn wrapped_keys_cross_under_patch_set_1() {
    crosses(&patch_set_1());
}

#[test]
fn wrapped_keys_cross_under_the_format_alone() {
    crosses(&crate::configuration("wrapping_format").rules);
}

#[test]
fn wrapped_keys_cross_with_segregated_usage() {
    let rules = crate::configuration("wrapping_format").rules;
    crosses(&format!(
        "{rules}\nfilter_actions_pre = [(\".*\", [(C_Initialize, do_segregate_usage)])]"
    ));
}
