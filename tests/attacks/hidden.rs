//! Tests objects that rules about labels and identifiers hide: no call distinguishes them from objects that do not
//! exist, and no call reveals a hidden object among allowed ones.

use xdr::version3::Call;
use xdr::{Architecture, ObjectHandle, SessionHandle};

use crate::client::{Client, on};
use crate::scene::Base;
use crate::support::Maker;
use crate::support::cryptoki::{cka, ckm, mechanism, template};
use crate::support::raw::Peer;

/// There is none with this handle.
const NONE: ObjectHandle = ObjectHandle(4242);

/// Every call that names an object, with `own` where it names another.
fn calls(s: SessionHandle, object: ObjectHandle, own: ObjectHandle) -> Vec<Call<'static>> {
    let ecb = || mechanism(ckm::AES_ECB, &[]);
    let cmac = || mechanism(ckm::AES_CMAC, &[]);
    let dh = mechanism(ckm::DH_PKCS_DERIVE, &[0x42; 128]);
    // Which names its second key in the parameter.
    let handle = object.0.to_ne_bytes();
    let second = mechanism(ckm::CONCATENATE_BASE_AND_KEY, &handle);
    let label = || template(&[(cka::LABEL, b"mine".as_slice()), (cka::ID, &[1])]);
    let asked = |kind, room| template(&[(kind, vec![0; room])]);
    vec![
        Call::C_CopyObject(s, object, label()),
        Call::C_CopyObject(s, object, template(&[(cka::LABEL, b"theirs")])),
        Call::C_GetObjectSize(s, object),
        Call::C_GetAttributeValue(s, object, asked(cka::CLASS, 8)),
        Call::C_GetAttributeValue(s, object, asked(cka::VALUE, 0)),
        Call::C_GetAttributeValue(s, object, asked(cka::LABEL, 1)),
        Call::C_GetAttributeValue(s, object, template::<&[u8]>(&[])),
        Call::C_SetAttributeValue(s, object, label()),
        Call::C_SetAttributeValue(s, object, template(&[(cka::SENSITIVE, [0])])),
        Call::C_EncryptInit(s, ecb(), object),
        Call::C_DecryptInit(s, ecb(), object),
        Call::C_DigestKey(s, object),
        Call::C_SignInit(s, cmac(), object),
        Call::C_SignRecoverInit(s, cmac(), object),
        Call::C_VerifyInit(s, cmac(), object),
        Call::C_VerifyRecoverInit(s, cmac(), object),
        Call::C_WrapKey(s, mechanism(ckm::AES_CBC, &[0; 16]), own, object),
        Call::C_WrapKey(s, mechanism(ckm::AES_CBC, &[0; 16]), object, own),
        Call::C_UnwrapKey(
            s,
            mechanism(ckm::AES_KEY_WRAP, &[]),
            object,
            &[7; 24],
            label(),
        ),
        Call::C_DeriveKey(s, dh, object, label()),
        Call::C_DeriveKey(s, second, own, label()),
        Call::C_SetOperationState(s, b"state", object, ObjectHandle(0)),
        Call::C_SetOperationState(s, b"state", ObjectHandle(0), object),
        // The last: it would be gone.
        Call::C_DestroyObject(s, object),
    ]
}

#[test]
fn a_hidden_object_is_as_one_that_is_not_there() {
    let base = Base::new();
    let rules = [
        r#"allowed_labels = [("soft.*", ["mine.*"])]"#,
        r#"allowed_ids = [(".*", ["01"])]"#,
        r#"allowed_labels = [(".*", ["mine"])] allowed_ids = [(".*", ["01", "02"])]"#,
        r#"allowed_labels = [(".*", [])]"#,
    ];
    for rules in rules {
        let mut peer = Peer::new(Maker::Ours, rules, base.token.copy());
        peer.disconnect();
        let mut client = Client::new(peer.another(), Architecture::LITTLE_64);
        let session = client.session;
        let mine = vec![(cka::LABEL, b"mine".to_vec()), (cka::ID, vec![1])];
        let own = [on(&[cka::WRAP]), mine].concat();
        let own = client.generate(own).unwrap_or(NONE);
        assert_eq!(
            client.find_all(Vec::new()).expect("a search").len(),
            usize::from(own != NONE)
        );
        // By what a hidden object has, too.
        for (kind, value) in [
            (cka::LABEL, b"target".to_vec()),
            (cka::VALUE, base.target.clone()),
        ] {
            assert!(
                client
                    .find_all(vec![(kind, value)])
                    .expect("a search")
                    .is_empty()
            );
        }
        // Handles are small numbers: sessions, what is found, what is made.
        for handle in (session.0..24)
            .map(ObjectHandle)
            .filter(|handle| *handle != own)
        {
            for (call, absent) in calls(session, handle, own)
                .into_iter()
                .zip(calls(session, NONE, own))
            {
                let name = call.function().name();
                let answer = client.connection.call(call);
                assert_ne!(answer.rv().0, 0, "{name} {handle:?} under {rules}");
                assert_eq!(
                    answer,
                    client.connection.call(absent),
                    "{name} {handle:?} under {rules}"
                );
            }
        }
        client.connection.close();
        // They are all there still.
        let free = Peer::new(Maker::Ours, "", peer.token.copy());
        let mut client = Client::new(free.another(), Architecture::LITTLE_64);
        client.find("target").expect("it was not destroyed");
    }
}

/// What is made, renamed or copied has a label that is allowed.
#[test]
fn nothing_leaves_what_is_allowed() {
    let base = Base::new();
    let peer = Peer::new(
        Maker::Ours,
        r#"allowed_labels = [(".*", ["mine[0-9]*", "\\(a\\|b\\)"])]"#,
        base.token.copy(),
    );
    let mut client = Client::new(peer.another(), Architecture::LITTLE_64);
    let named = |label: &[u8]| vec![(cka::LABEL, label.to_vec()), (cka::ENCRYPT, vec![1])];
    let own = client.generate(named(b"mine1")).expect("an allowed label");
    let labels: [&[u8]; 12] = [
        b"",
        b"target",
        b"mine1\n",
        b"mine1\ntarget",
        b"\nmine1",
        b"mine1\0",
        b"mine1 ",
        b"Mine1",
        b"xmine1",
        b"ax",
        b"a\n",
        "mine1\u{2028}".as_bytes(),
    ];
    for label in labels {
        let said = [
            client.generate(named(label)).map(drop),
            client.import(&[7; 16], named(label)).map(drop),
            client
                .copy(own, vec![(cka::LABEL, label.to_vec())])
                .map(drop),
            client.set(own, vec![(cka::LABEL, label.to_vec())]),
            client.pair(named(label), named(b"mine1")).map(drop),
            client
                .pair(named(b"mine1"), vec![(cka::LABEL, label.to_vec())])
                .map(drop),
        ];
        for (number, said) in said.into_iter().enumerate() {
            let stopped = said.expect_err("no such label");
            assert_eq!(stopped.answer, "CkRv(0x13)", "{number}: {label:?}");
        }
    }
    for label in [b"mine".as_slice(), b"mine42", b"a", b"b"] {
        client
            .set(own, vec![(cka::LABEL, label.to_vec())])
            .expect("an allowed label");
        client
            .encrypt(mechanism(ckm::AES_ECB, &[]), own, &[0; 16])
            .expect("an allowed key");
    }
    // Without a label it is lost.
    let lost = client
        .generate(on(&[cka::ENCRYPT]))
        .expect("no label is no wrong one");
    client
        .encrypt(mechanism(ckm::AES_ECB, &[]), lost, &[0; 16])
        .expect_err("no label");
}
