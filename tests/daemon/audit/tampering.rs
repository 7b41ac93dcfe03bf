//! `pkcs11proxyctl audit verify` finds what was done to a log.

use super::*;

#[test]
fn tampering_is_found_and_named_with_the_public_key_alone() {
    let token = Token::new();
    let mut audited = Audited::start(setup(&token), "");
    let mut client = ready4(&audited.daemon);
    for _ in 0..3 {
        assert_eq!(sign(&mut client), CkRv::OK);
    }
    drop(client);
    audited.end(&["audit.log"]);
    let text = std::fs::read_to_string(audited.file()).expect("a log");
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let found = |lines: &[&str]| {
        std::fs::write(audited.directory.join("other.log"), lines.concat()).expect("a file");
        let outcome = audited.verify(&[], &["other.log"]);
        (outcome.status.code(), outcome.stdout)
    };
    let mut tampered = lines.clone();
    tampered.remove(4);
    let (status, text) = found(&tampered);
    assert!(
        text.contains("other.log:5: the line number 5 before it was removed"),
        "{text}"
    );
    assert_eq!(status, Some(1));

    let changed = lines[5].replace("CKR_OK", "CKR_HOST_MEMORY");
    let mut tampered = lines.clone();
    tampered[5] = &changed;
    let (status, text) = found(&tampered);
    assert!(text.contains("other.log:6: the line was changed"), "{text}");
    assert_eq!(status, Some(1));

    let mut tampered = lines.clone();
    tampered.swap(5, 6);
    let (status, text) = found(&tampered);
    assert!(
        text.contains("other.log:7: the line number 6 is repeated or was moved"),
        "{text}"
    );
    assert_eq!(status, Some(1));

    let (status, text) = found(&lines[..lines.len() - 1]);
    assert!(text.contains("no orderly end"), "{text}");
    assert_eq!(status, Some(1));
    let (status, text) = found(&[lines[0], lines[1], &lines[2][..50]]);
    assert!(text.contains("other.log:3: the line is cut off"), "{text}");
    assert_eq!(status, Some(1));
    let (status, text) = found(&lines[1..]);
    assert!(
        text.contains("other.log:1: the lines before it were removed"),
        "{text}"
    );
    assert_eq!(status, Some(1));

    // Another key, and what is no key.
    let other = Directory::new();
    key(&other);
    let public = other.join("public.pem").display().to_string();
    let outcome = audited.verify(&["-key", &public], &["audit.log"]);
    assert_eq!(
        outcome.status.code(),
        Some(2),
        "-key twice: {}",
        outcome.stderr
    );
    std::fs::copy(
        other.join("public.pem"),
        audited.directory.join("public.pem"),
    )
    .expect("copied");
    let outcome = audited.verify(&[], &["audit.log"]);
    assert!(
        outcome.stdout.contains("the signature does not fit"),
        "{}",
        outcome.stdout
    );
    assert_eq!(outcome.status.code(), Some(1));
    std::fs::write(audited.directory.join("public.pem"), "x").expect("a file");
    assert_eq!(audited.verify(&[], &["audit.log"]).status.code(), Some(2));
}
