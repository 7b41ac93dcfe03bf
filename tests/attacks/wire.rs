//! Plays attacks below the level of PKCS#11 on our daemon: addresses in parameters, nested templates, lengths, memory.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::FileTypeExt;

use xdr::version3::{Call, Mechanism, Reply};
use xdr::{Architecture, ObjectHandle};

use crate::client::{Client, on, over};
use crate::configurations::patch_set_1;
use crate::support::cryptoki::{cka, ckm, mechanism, oaep, template, word};
use crate::support::raw::{Answer, Peer};
use crate::support::{Maker, Token};

fn peer(rules: &str) -> Peer {
    Peer::new(Maker::Ours, rules, Token::new())
}

/// The CK_RV as a number; all ones for what is no reply.
fn rv(answer: &Answer) -> u64 {
    match answer {
        Answer::Reply(reply) => reply.rv().0,
        _ => u64::MAX,
    }
}

/// W1: parameters in which a client of that architecture has addresses of its own.
fn with_addresses(architecture: Architecture) -> Vec<Mechanism> {
    let words = |numbers: &[u64]| -> Vec<u8> {
        numbers
            .iter()
            .flat_map(|number| word(architecture, *number))
            .collect()
    };
    let somewhere = 0x5000_1000;
    vec![
        // CK_RSA_PKCS_OAEP_PARAMS with a label.
        mechanism(
            ckm::RSA_PKCS_OAEP,
            &words(&[ckm::SHA_1, 1, 1, somewhere, 16]),
        ),
        // CK_GCM_PARAMS.
        mechanism(
            ckm::AES_GCM,
            &words(&[somewhere, 12, 96, somewhere, 20, 128]),
        ),
        // CK_ECDH1_DERIVE_PARAMS.
        mechanism(ckm::ECDH1_DERIVE, &words(&[1, 0, 0, 65, somewhere])),
        mechanism(ckm::ECDH1_DERIVE, &words(&[1, 20, somewhere, 0, 0])),
        // CK_KEY_DERIVATION_STRING_DATA, CK_AES_CBC_ENCRYPT_DATA_PARAMS.
        mechanism(ckm::AES_ECB_ENCRYPT_DATA, &words(&[somewhere, 32])),
        mechanism(ckm::XOR_BASE_AND_DATA, &words(&[somewhere, 32])),
        mechanism(ckm::CONCATENATE_BASE_AND_DATA, &words(&[somewhere, 32])),
        mechanism(
            ckm::AES_CBC_ENCRYPT_DATA,
            &[&[0; 16], &words(&[somewhere, 32])[..]].concat(),
        ),
    ]
}

#[test]
fn addresses_are_refused() {
    use Architecture as A;
    let architectures = [A::LITTLE_64, A::LITTLE_32, A::BIG_64, A::BIG_32];
    let pairs = architectures.iter().flat_map(|architecture| {
        [
            (*architecture, String::new()),
            (*architecture, patch_set_1()),
        ]
    });
    for (architecture, rules) in pairs {
        let peer = peer(&rules);
        let mut client = Client::new(peer.another(), architecture);
        let key = client
            .generate(on(&[cka::ENCRYPT, cka::DECRYPT]))
            .expect("a key");
        let session = client.session;
        for made in with_addresses(architecture) {
            let kind = made.mechanism_type().0;
            let empty = template::<&[u8]>(&[]);
            let calls = [
                Call::C_EncryptInit(session, made.clone(), key),
                Call::C_DecryptInit(session, made.clone(), key),
                Call::C_SignInit(session, made.clone(), key),
                Call::C_VerifyInit(session, made.clone(), key),
                Call::C_DigestInit(session, made.clone()),
                Call::C_WrapKey(session, made.clone(), key, key),
                Call::C_UnwrapKey(session, made.clone(), key, &[1; 64], empty.clone()),
                Call::C_DeriveKey(session, made.clone(), key, empty.clone()),
                Call::C_GenerateKey(session, made.clone(), empty),
            ];
            for call in calls {
                let name = call.function().name();
                let answer = client.connection.call(call);
                // With rules, another refusal may come first.
                let refused = rv(&answer) == 0x71
                    || !rules.is_empty() && !matches!(rv(&answer), 0 | u64::MAX);
                assert!(
                    refused,
                    "{name}, mechanism {kind:x}, {}: {answer:?}",
                    architecture.0
                );
            }
        }
        client
            .call(Call::C_GetSessionInfo(session))
            .expect("the worker lives");
    }
}

/// W1, R9: a template within a template is an array of addresses.
#[test]
fn nested_templates_are_refused() {
    use Architecture as A;
    for architecture in [A::LITTLE_64, A::LITTLE_32, A::BIG_64, A::BIG_32] {
        let peer = peer(&patch_set_1());
        let mut client = Client::new(peer.another(), architecture);
        let key = client.generate(on(&[cka::ENCRYPT])).expect("a key");
        let session = client.session;
        let nested: Vec<u8> = [cka::WRAP, 0x5000_1000, 1]
            .iter()
            .flat_map(|n| word(architecture, *n))
            .collect();
        for kind in [
            cka::WRAP_TEMPLATE,
            cka::UNWRAP_TEMPLATE,
            0x4000_0213,
            0x4000_0212 | 0xc000_0000,
        ] {
            for value in [nested.clone(), nested.repeat(1000), vec![0; 24], vec![1]] {
                let all = template(&over(client.defaults(), vec![(kind, value.clone())]));
                let some = template(&[(kind, value)]);
                let calls = [
                    Call::C_GenerateKey(session, mechanism(ckm::AES_KEY_GEN, &[]), all.clone()),
                    Call::C_CreateObject(session, all.clone()),
                    Call::C_UnwrapKey(session, oaep(), key, &[1; 158], all.clone()),
                    Call::C_DeriveKey(session, mechanism(ckm::DH_PKCS_DERIVE, &[1; 128]), key, all),
                    Call::C_CopyObject(session, key, some.clone()),
                    Call::C_SetAttributeValue(session, key, some.clone()),
                ];
                for call in calls {
                    let name = call.function().name();
                    let answer = client.connection.call(call);
                    assert!(
                        matches!(answer, Answer::Reply(_)) && rv(&answer) != 0,
                        "{name} {kind:x}: {answer:?}"
                    );
                }
                // Is read as empty, or not at all.
                let answer = client
                    .connection
                    .call(Call::C_GetAttributeValue(session, key, some));
                let Reply::C_GetAttributeValue(read) = answer.reply() else {
                    panic!("another function's reply")
                };
                assert!(read.template.0[0].value.is_empty(), "{kind:x}: {answer:?}");
            }
        }
        client
            .call(Call::C_GetSessionInfo(session))
            .expect("the worker lives");
    }
}

/// The header of a call of C_CreateObject (28) and its session.
fn create(rest: &[u8]) -> Vec<u8> {
    let words = [9u32, 0, 2, 4, 3, 28, 0, 0, 0, 0];
    let mut message: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    message.extend(1u64.to_be_bytes());
    message.extend_from_slice(rest);
    message
}

/// W2: no length is believed before its bytes are there.
#[test]
fn lengths_are_not_believed() {
    let peer = peer("");
    let big = u32::MAX.to_be_bytes();
    let attribute =
        |length: &[u8; 4]| [&1u32.to_be_bytes()[..], &0x11u64.to_be_bytes(), length].concat();
    let trailing = [&create(&0u32.to_be_bytes())[..], &[0; 8]].concat();
    let messages: Vec<Vec<u8>> = vec![
        create(&big),
        create(&0x4000_0000u32.to_be_bytes()),
        create(&attribute(&big)),
        create(&attribute(&0xffff_fffcu32.to_be_bytes())),
        create(&attribute(&0x7fff_fff0u32.to_be_bytes())),
        trailing,
        create(&[]),
    ];
    for message in messages {
        // GARBAGE_ARGS, or the end of the connection.
        let answer = peer.another().message(&message);
        assert!(
            matches!(answer, Answer::Closed)
                || matches!(&answer, Answer::Status(status) if status[..] == [0, 0, 0, 4]),
            "{answer:?} to {message:02x?}"
        );
    }
    for mark in [u32::MAX, 0x7fff_ffff, 0xf000_0000] {
        let answer = peer
            .another()
            .bytes(&[&mark.to_be_bytes()[..], &[0; 64]].concat());
        assert!(
            matches!(answer, Answer::Closed | Answer::Nothing),
            "{answer:?} to {mark:x}"
        );
    }
    let memory = peak(&peer);
    assert!(memory < 100_000, "{memory} KiB");
    Client::new(peer.another(), Architecture::LITTLE_64);
}

/// W2: a record of thousands of fragments, empty ones among them.
#[test]
fn fragments_are_counted() {
    let peer = peer("");
    let mut endless = TcpStream::connect(peer.daemon.address()).expect("the daemon accepts");
    // A record without an end; the daemon may take it for an attack and close.
    for _ in 0..20_000 {
        if endless.write_all(&[0, 0, 0, 4, 0, 0, 0, 9]).is_err() {
            break;
        }
    }
    for _ in 0..200_000 {
        if endless.write_all(&[0, 0, 0, 0]).is_err() {
            break;
        }
    }
    let memory = peak(&peer);
    assert!(memory < 100_000, "{memory} KiB");
    Client::new(peer.another(), Architecture::LITTLE_64);
}

/// W5: labels that clients think of cost nothing that stays.
#[test]
fn distinct_labels_leave_no_memory() {
    let peer = peer(
        r#"allowed_labels = [(".*", ["good.*", "\\(a\\|b\\)*c"])] allowed_ids = [(".*", ["01"])]"#,
    );
    let mut client = Client::new(peer.another(), Architecture::LITTLE_64);
    let session = client.session;
    let round = |client: &mut Client, from: usize| {
        for number in from..from + 3000 {
            let label = format!("{number}-{}", "x".repeat(1000));
            let asked = template(&[(cka::LABEL, label.as_bytes()), (cka::ID, label.as_bytes())]);
            assert_eq!(
                rv(&client.connection.call(Call::C_CreateObject(session, asked))),
                0x13
            );
        }
    };
    round(&mut client, 0);
    let before = resident(&peer);
    round(&mut client, 3000);
    round(&mut client, 6000);
    let after = resident(&peer);
    // The original would keep twelve megabytes of them.
    assert!(after < before + 2000, "{before} KiB, then {after} KiB");
}

/// W6: there is no socket by which a worker, or who took one over, could end the server.
#[test]
fn workers_have_no_way_to_the_controller() {
    let peer = peer("");
    let mut pending = vec![peer.daemon.directory().to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory)
            .expect("a directory")
            .flatten()
        {
            let kind = entry.file_type().expect("a type");
            assert!(
                !kind.is_socket() && !kind.is_fifo(),
                "{}",
                entry.path().display()
            );
            if kind.is_dir() {
                pending.push(entry.path());
            }
        }
    }
}

/// The mechanisms of P8 and P9, which SoftHSM does not have: refused by name, before it.
#[test]
fn the_strict_configuration_forbids_related_keys() {
    let peer = Peer::new(Maker::Ours, &crate::strict(), Token::new());
    let mut client = Client::new(peer.another(), Architecture::LITTLE_64);
    let key = client
        .generate(on(&[cka::ENCRYPT, cka::DECRYPT]))
        .expect("a key");
    let derivations = [
        ckm::CONCATENATE_BASE_AND_KEY,
        ckm::CONCATENATE_BASE_AND_DATA,
        ckm::XOR_BASE_AND_DATA,
        ckm::EXTRACT_KEY_FROM_KEY,
        ckm::AES_ECB_ENCRYPT_DATA,
        ckm::AES_CBC_ENCRYPT_DATA,
        ckm::DH_PKCS_DERIVE,
        ckm::ECDH1_DERIVE,
    ];
    for kind in derivations {
        let call = Call::C_DeriveKey(
            client.session,
            mechanism(kind, &[]),
            key,
            template::<&[u8]>(&[]),
        );
        assert_eq!(rv(&client.connection.call(call)), 0x54, "{kind:x}");
    }
    for kind in [ckm::RSA_X_509, ckm::RSA_PKCS, ckm::AES_CBC_PAD] {
        let call = Call::C_DecryptInit(client.session, mechanism(kind, &[]), key);
        assert_eq!(rv(&client.connection.call(call)), 0x70, "{kind:x}");
    }
    // C_SetOperationState with keys that a client may not name (V1).
    let call = Call::C_SetOperationState(client.session, b"state", key, ObjectHandle(99));
    assert_eq!(rv(&client.connection.call(call)), 0x54);
}

fn status(pid: i32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap_or("0");
    line.split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// The most memory that the daemon or a worker had, KiB.
fn peak(peer: &Peer) -> u64 {
    let processes = peer
        .daemon
        .workers()
        .into_iter()
        .chain([peer.daemon.process()]);
    processes
        .map(|process| status(process.pid, "VmHWM:"))
        .max()
        .unwrap_or(0)
}

/// The memory that they have, KiB.
fn resident(peer: &Peer) -> u64 {
    peer.daemon
        .workers()
        .into_iter()
        .map(|process| status(process.pid, "VmRSS:"))
        .sum()
}
