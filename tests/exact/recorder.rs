//! Tests the recorder alone: it records what `exact.c` called, and what was worked out by hand.

use std::fs;
use std::time::{Duration, Instant};

use super::support::Directory;
use super::support::compile::module;
use super::transcript::{Transcript, bare, exact, recorded};

/// Every section of `exact.c` whose calls are printed one by one.
pub const SECTIONS: &[&str] = &[
    "interfaces",
    "general",
    "events",
    "initargs",
    "sessions",
    "pins",
    "digest",
    "sign",
    "encrypt",
    "aead",
    "signatures",
    "dual",
    "randomnumbers",
    "arrays",
    "attributes",
    "find",
    "keys",
    "derive",
    "messages",
    "nolength",
    "latest",
    "nomechanism",
    "hollow",
    "hollow3",
    "nullroom",
    "parameterless",
    "absurd",
    "notify",
    "async",
];

/// What `exact.c` printed and the recorder recorded.
struct Run {
    transcript: Transcript,
    log: String,
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Run {
    let directory = Directory::new();
    let path = directory.join("log");
    let mut command = bare();
    command
        .env("RECORDER_LOG", &path)
        .envs(environment.iter().copied());
    let transcript = exact(command, &module("recorder"), arguments);
    let log = fs::read_to_string(path).unwrap_or_default();
    Run { transcript, log }
}

impl Run {
    fn overlaps(&self) -> usize {
        self.log.matches("OVERLAP").count()
    }
}

fn assert_recorded_as_called(run: &Run) {
    let calls = run.transcript.calls();
    let recorded = recorded(&run.log);
    for (number, (called, recorded)) in calls.iter().zip(&recorded).enumerate() {
        assert_eq!(recorded, called, "call {number}");
    }
    assert_eq!(calls.len(), recorded.len());
    assert_eq!(run.transcript.faults(), Vec::<&String>::new());
    assert_eq!(run.overlaps(), 0, "{}", run.log);
}

#[test]
fn records_every_call_as_it_was_made() {
    let mut calls = 0;
    for section in SECTIONS {
        let run = run(
            &[section],
            &[("RECORDER_NOTIFY", "1"), ("RECORDER_SLOT_EVENT_MS", "10")],
        );
        assert_recorded_as_called(&run);
        calls += run.transcript.calls().len();
    }
    assert!(calls > 2500, "only {calls} calls");
}

#[test]
fn records_the_calls_of_a_random_walk_as_they_were_made() {
    for seed in ["1", "2", "3"] {
        let run = run(&["random", seed, "3000"], &[]);
        assert_recorded_as_called(&run);
        assert!(run.transcript.calls().len() > 2500);
    }
}

/// The form of every kind of argument, by hand from what the section passes and the standard's
/// structures: the recorder and `exact.c` share the code that writes them, and could be wrong alike.
#[test]
fn describes_arguments_as_worked_out_by_hand() {
    let expected: &[(&str, &[&str])] = &[
        (
            "digest",
            &[
                "C_DigestInit pMechanism={0x250}",
                "C_Digest pData=NULL pDigest=<NULL>",
                "C_Digest pData=0: pDigest=<0>",
                "C_Digest pData=1:00 pDigest=<no length>",
                "C_Digest pData=1:00 pDigest=<NULL, no length>",
                "C_DigestInit pMechanism={0x250 0:}",
                "C_DigestInit pMechanism={0x250 8:0001020304050607}",
            ],
        ),
        (
            "aead",
            &[
                "C_EncryptInit pMechanism={0x1087 CK_GCM_PARAMS(pIv=12:000102030405060708090a0b ulIvBits=0x60 pAAD=NULL ulTagBits=0x80)} hKey=1",
                "C_EncryptInit pMechanism={0x1087 CK_GCM_PARAMS(pIv=12:000102030405060708090a0b ulIvBits=0x60 pAAD=0: ulTagBits=0x80)} hKey=1",
                "C_EncryptInit pMechanism={0x1088 CK_CCM_PARAMS(ulDataLen=0x21 pNonce=7:00010203040506 pAAD=5:0001020304 ulMACLen=0x4)} hKey=1",
                "C_EncryptInit pMechanism={0x9 CK_RSA_PKCS_OAEP_PARAMS(hashAlg=0x220 mgf=0x1 source=0x1 pSourceData=9:000102030405060708)} hKey=3",
                "C_EncryptInit pMechanism={0x1226 CK_CHACHA20_PARAMS(pBlockCounter=4:00010203 pNonce=12:0405060708090a0b0c0d0e0f)} hKey=1",
            ],
        ),
        (
            "signatures",
            &[
                "C_SignInit pMechanism={0x1057 CK_EDDSA_PARAMS(phFlag=1:01 pContextData=3:000102)} hKey=1",
                "C_SignInit pMechanism={0x1d CK_SIGN_ADDITIONAL_CONTEXT(hedgeVariant=0x0 pContext=NULL)} hKey=1",
                "C_SignInit pMechanism={0x1f CK_HASH_SIGN_ADDITIONAL_CONTEXT(hedgeVariant=0x1 pContext=5:0001020304 hash=0x270)} hKey=1",
                "C_SignInit pMechanism={0x291 CK_OTP_PARAMS(pParams=[2=9:6368616c6c656e6765, 4=8:0001020304050607, 5=8:0100000000000000])} hKey=1",
                "C_SignInit pMechanism={0x512 CK_KIP_PARAMS(pMechanism={0x251} hKey=1 pSeed=6:000102030405)} hKey=1",
            ],
        ),
        (
            "derive",
            &[
                "C_DeriveKey pMechanism={0x360 key 2} hBaseKey=1 pTemplate=[0x0=8:0400000000000000, 0x100=8:1000000000000000, 0x161=8:1000000000000000, 0x1=1:00, 0x103=1:00, 0x162=1:01] phKey=<>",
                "C_DeriveKey pMechanism={0x376 CK_SSL3_KEY_MAT_PARAMS(ulMacSizeInBits=0xa0 ulKeySizeInBits=0x80 ulIVSizeInBits=0x78 bIsExport=1:00 RandomInfo=CK_SSL3_RANDOM_DATA(pClientRandom=32:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f pServerRandom=28:202122232425262728292a2b2c2d2e2f303132333435363738393a3b) pReturnedKeyMaterial=(<>, <>, <>, <>, <15>, <15>))} hBaseKey=1 pTemplate=NULL phKey=<NULL>",
                "C_DeriveKey pMechanism={0x378 CK_TLS_PRF_PARAMS(pSeed=20:000102030405060708090a0b0c0d0e0f10111213 pLabel=5:6c6162656c pOutput=<33>)} hBaseKey=1 pTemplate=NULL phKey=<NULL>",
                "C_DeriveKey pMechanism={0x378 CK_TLS_PRF_PARAMS(pSeed=NULL pLabel=NULL pOutput=<no length>)} hBaseKey=1 pTemplate=NULL phKey=<NULL>",
            ],
        ),
        (
            "arrays",
            &[
                "C_CreateObject pTemplate=[0x0=8:0400000000000000, 0x100=8:1000000000000000, 0x11=16:000102030405060708090a0b0c0d0e0f, 0x1=1:00, 0x2=1:00, 0x103=1:00, 0x162=1:01, 0x40000211=[0x0=8:0400000000000000, 0x162=1:00, 0x102=0:, 0x3=NULL, 0x103=1:01]] phObject=<>",
                "C_CreateObject pTemplate=[0x0=8:0400000000000000, 0x100=8:1000000000000000, 0x11=16:000102030405060708090a0b0c0d0e0f, 0x1=1:00, 0x2=1:00, 0x103=1:00, 0x162=1:01, 0x40000211=[0x40000211=[0x100=8:1f00000000000000, 0x3=7:77726170706564], 0x1=1:00]] phObject=<>",
                "C_CreateObject pTemplate=[0x0=8:0400000000000000, 0x100=8:1000000000000000, 0x11=16:000102030405060708090a0b0c0d0e0f, 0x1=1:00, 0x2=1:00, 0x103=1:00, 0x162=1:01, 0x40000211=?:47] phObject=<>",
                "C_GetAttributeValue hObject=1 pTemplate=[0x40000211=<[<8>, <8>]>]",
                "C_FindObjectsInit pTemplate=[0x40000211=[]]",
            ],
        ),
        (
            "messages",
            &[
                "C_EncryptMessage pParameter=CK_GCM_MESSAGE_PARAMS(pIv=12:000102030405060708090a0b ulIvFixedBits=0x0 ivGenerator=0x0 pTag=<16> ulTagBits=0x80) pAssociatedData=0: pPlaintext=20:000102030405060708090a0b0c0d0e0f10111213 pCiphertext=<20>",
                "C_SignMessageNext pParameter=NULL pDataPart=0: pSignature=<NULL, no length>",
            ],
        ),
        (
            "absurd",
            &["C_CreateObject pTemplate=[0x0=?:4294967295] phObject=<>"],
        ),
    ];
    for (section, lines) in expected {
        let run = run(&[section], &[]);
        for line in *lines {
            assert!(
                recorded(&run.log)
                    .iter()
                    .any(|recorded| without_session(recorded) == *line),
                "[{section}] never recorded: {line}\n{}",
                run.log
            );
        }
    }
}

/// A recorded call without ` session=N`.
fn without_session(call: &str) -> String {
    match call.split_once(" session=") {
        Some((name, rest)) => match rest.split_once(' ') {
            Some((_, arguments)) => format!("{name} {arguments}"),
            None => name.to_owned(),
        },
        None => call.to_owned(),
    }
}

#[test]
fn answers_follow_the_two_call_convention() {
    let digest = run(&["digest"], &[]).transcript;
    let of = |room: &str| digest.answer(&format!("C_Digest session=2 pData=1:00 pDigest={room}"));
    assert_eq!(of("<NULL>"), "0x0 len=32");
    assert_eq!(of("<31>"), "0x150 len=32");
    assert_eq!(of("<no length>"), "0x7");
    let whole = of("<32>");
    assert!(whole.starts_with("0x0 len=32 32:"), "{whole}");
    assert_eq!(of("<104>"), whole, "the room is no input");
    let empty = digest.answer("C_Digest session=2 pData=0: pDigest=<32>");
    let null = digest.answer("C_Digest session=2 pData=NULL pDigest=<32>");
    assert!(
        whole != empty && empty != null,
        "input is: {empty}, {null}, {whole}"
    );
}

#[test]
fn writes_what_the_standard_has_a_module_write() {
    let derive = run(&["derive"], &[]).transcript;
    let material = derive.answer("C_DeriveKey session=2 pMechanism={0x376");
    let (_, written) = material
        .split_once("pReturnedKeyMaterial=(")
        .expect("the parameter is shown again");
    let parts: Vec<&str> = written.split(", ").collect();
    let handles: Vec<u64> = parts[..4]
        .iter()
        .map(|handle| handle.parse().expect("a handle"))
        .collect();
    assert!(
        handles.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{handles:?}"
    );
    assert!(parts[4].starts_with("15:") && !parts[4].contains("a5a5"));
    assert!(
        derive
            .answer("C_DeriveKey session=2 pMechanism={0x375")
            .contains("pVersion=2:0303")
    );
    assert!(
        !derive
            .answer("C_DeriveKey session=2 pMechanism={0x378")
            .contains("a5a5")
    );
    // 36 bits of the nonce 00 01 02 03 04 05 ... are the application's.
    let messages = run(&["messages"], &[]).transcript;
    let counted = messages
        .lines()
        .iter()
        .filter(|line| line.contains("ulIvFixedBits=0x24"))
        .find_map(|line| {
            line.split_once(" -> 0x0 len=20 20:")?
                .1
                .split_once("pIv=12:")
        })
        .expect("a message with a generated IV")
        .1;
    assert!(
        counted.starts_with("000102030") && !counted.starts_with("0001020304050607"),
        "{counted}"
    );
    assert!(counted.contains("pTag=16:") && !counted.contains("a5a5a5"));
    let aead = run(&["aead"], &[]).transcript;
    let zeros = aead
        .lines()
        .iter()
        .find(|line| {
            line.starts_with("C_EncryptInit") && line.contains("pIv=12:000000000000000000000000")
        })
        .expect("an IV of zeros");
    let (_, after) = zeros.split_once(" -> 0x0 ").expect("an answer");
    assert!(
        after.contains("pIv=12:") && !after.contains("0000000000"),
        "{zeros}"
    );
}

#[test]
fn gives_templates_back_as_they_were() {
    let arrays = run(&["arrays"], &[]).transcript;
    assert_eq!(
        arrays.answer("C_GetAttributeValue session=2 hObject=1 pTemplate=[0x40000211=<[<8>, <8>]>]"),
        "0x0 0x40000211=48(0x100=8:1f00000000000000, 0x3=7:77726170706564 (undefined: the rest is written))"
            .replace(" (undefined: the rest is written)", "")
    );
    assert!(arrays.lines().iter().any(|line| {
        line.ends_with("-> 0x0 0x40000211=48(0x40000211=48(0x100=<8>, 0x3=<7>), 0x1=1:00)")
    }));
}

#[test]
fn fails_as_the_environment_says() {
    let sessions = run(
        &["digest"],
        &[("RECORDER_RV", "C_DigestFinal=0x30,C_Digest=0x80000123")],
    )
    .transcript;
    assert_eq!(
        sessions.answer("C_Digest session=2 pData=1:00 pDigest=<32>"),
        "0x80000123"
    );
    assert_eq!(sessions.answer("C_DigestFinal"), "0x30");
    assert_eq!(sessions.answer("C_DigestInit"), "0x0");
    let locking = run(&["initargs"], &[("RECORDER_CANT_LOCK", "1")]).transcript;
    assert_eq!(
        locking.answer("C_Initialize pInitArgs=(functions=0 flags=0x2 "),
        "0xa"
    );
    assert_eq!(
        locking.answer("C_Initialize pInitArgs=(functions=0 flags=0x0 "),
        "0x0"
    );
}

#[test]
fn notifies_and_stops_when_the_application_says_so() {
    let surrender = run(&["notify"], &[("RECORDER_NOTIFY", "1")]);
    let lines = surrender.transcript.lines().join("\n");
    assert!(
        lines.contains("Notify session=1 event=0 pApplication=ours -> 0x0\nC_Sign"),
        "{lines}"
    );
    assert!(lines.contains("Notify session=1 event=0 pApplication=ours -> 0x1\nC_Sign session=1 pData=4:00010203 pSignature=<64> -> 0x50"));
    assert!(lines.contains("Notify session=2 event=0 pApplication=NULL"));
    assert!(!lines.contains("Notify session=3"));
    assert!(
        surrender
            .log
            .contains("C_Sign session=1: Notify session=1 event=0 -> 0x1")
    );
    let other = run(&["notify"], &[("RECORDER_NOTIFY", "other")]).transcript;
    assert!(
        other
            .lines()
            .iter()
            .any(|line| line.starts_with("Notify session=2 event=1"))
    );
    assert_eq!(
        other.answer("C_Sign session=3 ").split(' ').next(),
        Some("0x0")
    );
}

#[test]
fn reports_a_slot_event_in_its_time() {
    let begin = Instant::now();
    let events = run(&["events"], &[("RECORDER_SLOT_EVENT_MS", "300")]);
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(
        events
            .transcript
            .answer("C_WaitForSlotEvent flags=0x0 pSlot=<>"),
        "0x0 pSlot=0x5"
    );
    let without = run(&["events"], &[]).transcript;
    assert_eq!(
        without.answer("C_WaitForSlotEvent flags=0x0 pSlot=<>"),
        "0x54"
    );
}

#[test]
fn waits_for_a_slot_event_until_c_finalize() {
    let run = run(&["waiting"], &[("RECORDER_SLOT_EVENT_MS", "-1")]);
    let lines = run.transcript.lines().join("\n");
    assert!(lines.contains("4 threads, 5 each: 20\n"), "{lines}");
    assert!(
        lines.ends_with("C_WaitForSlotEvent ended with 0x190"),
        "{lines}"
    );
    assert_eq!(run.overlaps(), 0, "{}", run.log);
    assert!(
        run.log
            .contains("C_WaitForSlotEvent returns: C_Finalize was called")
    );
}

#[test]
fn has_the_interfaces_it_is_told_to_have() {
    let interfaces = |version| {
        run(&["interfaces"], &[("RECORDER_MAX_VERSION", version)])
            .transcript
            .answer("C_GetInterfaceList <9>")
            .to_owned()
    };
    assert_eq!(
        interfaces("3.2"),
        "0x0 count=3 (PKCS 11 3.2 0x0) (PKCS 11 3.0 0x0) (PKCS 11 2.40 0x0)"
    );
    assert_eq!(
        interfaces("3.0"),
        "0x0 count=2 (PKCS 11 3.0 0x0) (PKCS 11 2.40 0x0)"
    );
    assert_eq!(interfaces("2.40"), "0x0 count=1 (PKCS 11 2.40 0x0)");
    let old = run(&["latest"], &[("RECORDER_MAX_VERSION", "2.40")]);
    assert_eq!(old.transcript.answer("C_EncapsulateKey"), "0x54");
    assert!(!old.log.contains("C_EncapsulateKey"));
}

#[test]
fn notices_calls_that_overlap_and_may_not() {
    let slow = [("RECORDER_DELAY_MS", "5")];
    let parallel = run(&["parallel"], &slow);
    assert_eq!(parallel.overlaps(), 0, "{}", parallel.log);
    assert!(
        parallel
            .transcript
            .lines()
            .contains(&"signatures of 16 threads, 5 each: 80".to_owned())
    );
    let unlocked = run(&["unlocked"], &slow).log;
    assert!(
        unlocked.contains(": C_Initialize allowed no threads"),
        "{unlocked}"
    );
    let one = run(&["onesession"], &slow).log;
    assert!(one.contains(": another call of the session runs"), "{one}");
    assert!(!one.contains("allowed no threads"));
}

#[test]
fn postpones_in_an_asynchronous_session() {
    let run = run(&["async"], &[]).transcript;
    let lines = run.lines().join("\n");
    assert!(lines.contains("pSignature=<80> -> 0x204"), "{lines}");
    assert!(lines.contains("pResult=(ulVersion=0x0) -> 0x204\n"));
    assert!(lines.contains("-> 0x0 pValue=ours ulValue=64 80:"));
    assert!(lines.contains("-> 0x0 pValue=NULL ulValue=0 hObject=2 hAdditionalObject=3"));
}
