//! The audit log: what is in it, what tampering shows, a full disk, rotation, the end of the auditor, false records.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use openssl::pkey::{PKey, Private};
use serde_json::Value;
use xdr::{
    Attribute, AttributeType, Call as Call4, Hello, Input, Mechanism, MechanismType, ObjectHandle,
    Query, Room, Template, Ulong, UserType, Wanted,
};

use crate::support::certificates::certificate;
use crate::support::processes::Outcome;
use crate::*;

const SIGNED_WITH: MechanismType = MechanismType(0x40);

/// A daemon with an audit log, and its keys.
struct Audited {
    daemon: Daemon,
    directory: Directory,
}

fn key(directory: &Directory) -> PKey<Private> {
    let key = PKey::generate_ed25519().expect("a key");
    let write = |name, pem: Vec<u8>| std::fs::write(directory.join(name), pem).expect("a file");
    write("key.pem", key.private_key_to_pem_pkcs8().expect("PEM"));
    write("public.pem", key.public_key_to_pem().expect("PEM"));
    key
}

impl Audited {
    fn start(mut setup: Setup, more: &str) -> Audited {
        let directory = Directory::new();
        key(&directory);
        setup.daemon += &format!(
            "audit {{ file = \"{}\"; key = \"{}\"; {more} }};",
            directory.join("audit.log").display(),
            directory.join("key.pem").display()
        );
        Audited {
            daemon: setup.start(),
            directory,
        }
    }

    fn file(&self) -> PathBuf {
        self.directory.join("audit.log")
    }

    /// The process that has the log open.
    fn auditor(&self) -> Option<Process> {
        self.daemon.workers().into_iter().find(|process| {
            let Ok(descriptors) = std::fs::read_dir(format!("/proc/{}/fd", process.pid)) else {
                return false;
            };
            descriptors.flatten().any(|descriptor| {
                std::fs::read_link(descriptor.path()).is_ok_and(|path| path == self.file())
            })
        })
    }

    fn lines(&self) -> Vec<Value> {
        lines(&self.file())
    }

    /// The lines of calls of this function.
    fn calls(&self, function: &str) -> Vec<Value> {
        let lines = self.lines().into_iter();
        lines.filter(|line| line["function"] == function).collect()
    }

    /// Waits until the log has this many lines of the function.
    fn has(&self, function: &str, count: usize) -> bool {
        wait_until(PATIENCE, || self.calls(function).len() == count)
    }

    fn verify(&self, more: &[&str], files: &[&str]) -> Outcome {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyctl"));
        command
            .current_dir(self.directory.path())
            .args(["audit", "verify", "-key", "public.pem"])
            .args(more)
            .args(files);
        run(command, Duration::from_secs(20))
    }

    /// Ends the daemon; the log must be as it was written.
    fn end(&mut self, files: &[&str]) {
        assert_eq!(
            self.daemon.terminate().and_then(|status| status.code()),
            Some(0)
        );
        let verified = self.verify(&[], files);
        let text = format!("{}{}", verified.stdout, verified.stderr);
        assert_eq!(
            verified.status.code(),
            Some(0),
            "{text}\n{}",
            self.daemon.log()
        );
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parsed = whole.lines().map(serde_json::from_str);
    parsed.collect::<Result<_, _>>().expect("each line is JSON")
}

/// A client of version 4 with a session of the null module.
fn ready4(daemon: &Daemon) -> Client {
    let mut client = Client::new(daemon);
    let hello = Hello {
        longest_record: Ulong(1 << 20),
        parallel_calls: Ulong(1),
        ..Default::default()
    };
    client.call(Call4::C_SetupArch(hello));
    client.call(Call4::C_LoadModule(b"null"));
    client.call(Call4::C_Initialize(Flags(0)));
    let opened = client.call(Call4::C_OpenSession(SlotId(0), Flags(6), false));
    assert_eq!(opened.rv(), CkRv::OK);
    client
}

fn sign_with(client: &mut Client, data: &[u8]) -> CkRv {
    let mechanism = Some(Mechanism::bare(SIGNED_WITH));
    let begun = client.call(Call4::C_SignInit(SESSION, mechanism, ObjectHandle(1)));
    if begun.rv() != CkRv::OK {
        return begun.rv();
    }
    client
        .call(Call4::C_Sign(
            SESSION,
            Input::Bytes(data),
            Room::Buffer(999),
        ))
        .rv()
}

fn sign(client: &mut Client) -> CkRv {
    sign_with(client, b"data of the client")
}

#[test]
fn each_call_is_recorded_with_who_what_and_the_rule_that_refused_it() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.filter = "forbidden_functions = [\n(\".*\", [C_SeedRandom])]".into();
    let mut audited = Audited::start(setup, "");
    let mut former = Client::ready(&audited.daemon);
    assert!(former.call(Call::C_GetInfo()).rv().is_ok());
    let mut client = ready4(&audited.daemon);
    assert_eq!(sign(&mut client), CkRv::OK);
    let login = Call4::C_Login(SESSION, UserType(1), Input::Bytes(b"the PIN"));
    assert_eq!(client.call(login).rv(), CkRv::OK);
    let query = Query(vec![Wanted::value(AttributeType(0x11), 99)]);
    client.call(Call4::C_GetAttributeValue(
        SESSION,
        ObjectHandle(1),
        Some(query),
    ));
    let seed = Call4::C_SeedRandom(SESSION, Input::Bytes(b"a seed"));
    assert_eq!(client.call(seed).rv(), CkRv::FUNCTION_NOT_SUPPORTED);
    drop((former, client));
    audited.end(&["audit.log"]);

    let all = audited.lines();
    assert_eq!(
        (&all[0]["event"], &all[0]["seq"]),
        (&"start".into(), &1.into())
    );
    let module = &all[0]["services"][0]["modules"][0];
    assert_eq!(
        (&module["alias"], module["sha256"].as_str().map(str::len)),
        (&"null".into(), Some(64))
    );
    assert_eq!(all[0]["configuration"].as_array().map(Vec::len), Some(2));
    let info = &audited.calls("C_GetInfo")[0];
    assert_eq!(
        (&info["call"], &info["result"]),
        (&4.into(), &"CKR_OK".into())
    );
    let opened = audited.calls("C_OpenSession");
    assert_ne!(opened[0]["connection"], opened[1]["connection"]);
    assert!(
        info["peer"]
            .as_str()
            .is_some_and(|peer| peer.contains("127.0.0.1:"))
    );
    assert_eq!(info["service"], "PKCS#11 Filtering Proxy");
    for function in ["C_SignInit", "C_Sign"] {
        let call = &audited.calls(function)[0];
        assert_eq!(call["mechanism"], "CKM_SHA256_RSA_PKCS");
        let object = &call["objects"][0];
        assert_eq!(
            (&object["handle"], &object["label"]),
            (&1.into(), &"null".into()),
            "{call}"
        );
        assert_eq!(object["class"], "CKO_SECRET_KEY");
        assert_eq!(call["module"], "null");
    }
    let read = &audited.calls("C_GetAttributeValue")[0];
    assert_eq!(read["attributes"], serde_json::json!(["CKA_VALUE"]));
    let refused = &audited.calls("C_SeedRandom")[0];
    let rule = &refused["refused"];
    assert_eq!(refused["result"], "CKR_FUNCTION_NOT_SUPPORTED");
    assert_eq!(
        (&rule["option"], &rule["line"]),
        (&"forbidden_functions".into(), &3.into())
    );
    assert!(
        rule["file"]
            .as_str()
            .is_some_and(|file| file.ends_with("filter.conf"))
    );
    let text = std::fs::read_to_string(audited.file()).expect("a log");
    for secret in ["the PIN", "a seed", "data of the client"] {
        assert!(!text.contains(secret));
        let digits: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(!text.contains(&digits), "{secret}");
    }
    let mode = audited
        .file()
        .metadata()
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

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

#[test]
fn text_of_clients_stays_in_its_member_of_its_line() {
    let token = Token::new();
    let mut audited = Audited::start(setup(&token), "");
    let evil =
        "x\",\"result\":\"CKR_OK\"}\n{\"seq\":1,\"event\":\"end\"}\r\u{1b}[2J\u{9b}1m\u{202e}\\";
    let mut client = ready4(&audited.daemon);
    for bytes in [
        evil.as_bytes(),
        b"\xff\xfe\n\"",
        "gr\u{fc}n \"7\"".as_bytes(),
    ] {
        let label = Attribute::new(AttributeType(3), bytes.to_vec());
        let id = Attribute::new(AttributeType(0x102), b"\n\"".to_vec());
        let template = Some(Template(vec![label, id]));
        client.call(Call4::C_FindObjectsInit(SESSION, template));
        client.call(Call4::C_FindObjectsFinal(SESSION));
    }
    let mut other = Client::new(&audited.daemon);
    other.call(Call::C_SetupArch(Architecture::host()));
    other.call(Call::C_LoadModule(evil.as_bytes()));
    drop((client, other));
    audited.end(&["audit.log"]);
    let text = std::fs::read(audited.file()).expect("a log");
    assert!(
        text.iter()
            .all(|byte| *byte == b'\n' || *byte >= b' ' && *byte != 0x7f)
    );
    assert!(!String::from_utf8_lossy(&text).contains(['\u{9b}', '\u{202e}']));
    let searches = audited.calls("C_FindObjectsInit");
    let labels: Vec<&str> = searches
        .iter()
        .filter_map(|call| call["objects"][0]["label"].as_str())
        .collect();
    assert!(
        labels[0].starts_with("x\",\"result\":\"CKR_OK\"}\\x0a{"),
        "{labels:?}"
    );
    assert!(labels[0].ends_with("\\x5c"), "{labels:?}");
    assert_eq!(labels[1..], ["\\xff\\xfe\\x0a\"", "gr\u{fc}n \"7\""]);
    assert_eq!(searches[0]["objects"][0]["id"], "0a22");
    let loads = audited.calls("C_LoadModule");
    assert_eq!(loads.last().expect("a call")["result"], "CKR_GENERAL_ERROR");
}

/// Limits how long files of the auditor may get; none: no limit.
fn limit(audited: &Audited, size: Option<u64>) {
    let auditor = audited.auditor().expect("an auditor");
    let size = size.map_or_else(|| "unlimited".to_owned(), |size| size.to_string());
    let status = Command::new("prlimit")
        .args([
            "--pid",
            &auditor.pid.to_string(),
            &format!("--fsize={size}:unlimited"),
        ])
        .status();
    assert!(status.expect("prlimit runs").success());
}

/// How often the module was called.
fn executed(log: &Path, function: &str) -> usize {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .filter(|line| line.split_whitespace().next() == Some(function))
        .count()
}

#[test]
fn no_call_is_executed_while_no_line_can_be_written() {
    let token = Token::new();
    let log = Directory::new();
    let mut setup = setup(&token);
    let module_log = log.join("calls").display().to_string();
    setup
        .environment
        .push(("NULLMODULE_LOG".into(), module_log));
    let mut audited = Audited::start(setup, "when_full = \"refuse\";");
    let mut client = ready4(&audited.daemon);
    assert_eq!(sign(&mut client), CkRv::OK);
    assert!(audited.has("C_Sign", 1));
    // Room for a part of a line.
    let length = audited.file().metadata().expect("a log").len();
    limit(&audited, Some(length + 100));
    let refused = wait_until(PATIENCE, || sign(&mut client) == CkRv::DEVICE_ERROR);
    assert!(refused);
    let before =
        executed(&log.join("calls"), "C_SignInit") + executed(&log.join("calls"), "C_Sign");
    for _ in 0..20 {
        assert_eq!(sign(&mut client), CkRv::DEVICE_ERROR);
    }
    let after = executed(&log.join("calls"), "C_SignInit") + executed(&log.join("calls"), "C_Sign");
    assert_eq!(before, after);
    assert!(before > 2);
    assert_eq!(
        audited.file().metadata().expect("a log").len(),
        length,
        "half a line"
    );
    // What was executed is written when there is room again.
    limit(&audited, None);
    assert!(wait_until(PATIENCE, || sign(&mut client) == CkRv::OK));
    drop(client);
    audited.end(&["audit.log"]);
    let recorded = audited.calls("C_SignInit").len() + audited.calls("C_Sign").len();
    assert_eq!(recorded, before + 2);
    let lines = audited.lines();
    let resumed: Vec<&Value> = lines
        .iter()
        .filter(|line| line["event"] == "resumed")
        .collect();
    let [resumed] = resumed.as_slice() else {
        panic!("{resumed:?}")
    };
    assert!(
        resumed["refused"]
            .as_u64()
            .is_some_and(|refused| refused >= 21),
        "{resumed}"
    );
    assert_eq!(resumed["lost"], 0);
    assert!(
        audited
            .daemon
            .log()
            .contains("cannot be written, calls are refused")
    );
}

#[test]
fn calls_go_on_and_are_counted_if_the_site_wants_that() {
    let token = Token::new();
    let mut audited = Audited::start(setup(&token), "when_full = \"count\";");
    let mut client = ready4(&audited.daemon);
    assert_eq!(sign(&mut client), CkRv::OK);
    assert!(audited.has("C_Sign", 1));
    let length = audited.file().metadata().expect("a log").len();
    limit(&audited, Some(length));
    for _ in 0..20 {
        assert_eq!(sign(&mut client), CkRv::OK);
    }
    std::thread::sleep(Duration::from_millis(100));
    limit(&audited, None);
    let resumed = wait_until(PATIENCE, || {
        audited
            .lines()
            .iter()
            .any(|line| line["event"] == "resumed")
    });
    assert!(resumed, "{}", audited.daemon.log());
    assert_eq!(sign(&mut client), CkRv::OK);
    drop(client);
    audited.end(&["audit.log"]);
    let lines = audited.lines();
    let resumed = lines
        .iter()
        .find(|line| line["event"] == "resumed")
        .expect("a line");
    assert_eq!(resumed["lost"], 40);
    assert_eq!(audited.calls("C_Sign").len(), 2);
}

#[test]
fn rotation_under_load_loses_no_line() {
    let token = Token::new();
    let mut audited = Audited::start(setup(&token), "sign_lines = 50;");
    let is_over = AtomicBool::new(false);
    let mut files = Vec::new();
    let signed: usize = std::thread::scope(|scope| {
        let signers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = ready4(&audited.daemon);
                    let mut count = 0;
                    while !is_over.load(Ordering::SeqCst) {
                        assert_eq!(sign(&mut client), CkRv::OK);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for number in 0..5 {
            std::thread::sleep(Duration::from_millis(100));
            let name = format!("audit.log.{number}");
            std::fs::rename(audited.file(), audited.directory.join(&name)).expect("renamed");
            audited.daemon.process().signal(Signal::SIGHUP);
            assert!(wait_until(PATIENCE, || audited.file().exists()));
            files.push(name);
        }
        is_over.store(true, Ordering::SeqCst);
        signers
            .into_iter()
            .map(|signer| signer.join().expect("signed"))
            .sum()
    });
    files.push("audit.log".to_owned());
    let names: Vec<&str> = files.iter().map(String::as_str).collect();
    audited.end(&names);
    let count: usize = names
        .iter()
        .map(|name| {
            let lines = lines(&audited.directory.join(name));
            lines
                .iter()
                .filter(|line| line["function"] == "C_Sign")
                .count()
        })
        .sum();
    assert_eq!(count, signed);
    // A file that is left out, and two in the wrong order.
    let mut without = names.clone();
    without.remove(2);
    let outcome = audited.verify(&[], &without);
    assert_eq!(outcome.status.code(), Some(1));
    assert!(
        outcome.stdout.contains("audit.log.3:1: the lines number"),
        "{}",
        outcome.stdout
    );
    let outcome = audited.verify(&[], &[names[1], names[0]]);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stdout);
}

#[test]
fn another_auditor_goes_on_behind_one_that_was_killed() {
    let token = Token::new();
    let mut audited = Audited::start(setup(&token), "");
    let mut client = ready4(&audited.daemon);
    assert_eq!(sign(&mut client), CkRv::OK);
    assert!(audited.has("C_Sign", 1));
    let auditor = audited.auditor().expect("an auditor");
    auditor.signal(Signal::SIGKILL);
    let mut signed = 1;
    assert!(wait_until(PATIENCE, || {
        signed += usize::from(sign(&mut client) == CkRv::OK);
        audited.auditor().is_some_and(|other| other != auditor)
    }));
    assert!(wait_until(PATIENCE, || sign(&mut client) == CkRv::OK));
    signed += 1;
    drop(client);
    audited.end(&["audit.log"]);
    assert_eq!(audited.calls("C_Sign").len(), signed);
    let lines = audited.lines();
    let connections: std::collections::BTreeSet<u64> = lines
        .iter()
        .filter_map(|line| line["connection"].as_u64())
        .collect();
    assert_eq!(
        connections.len(),
        1,
        "the controller told the new one who it is"
    );
    assert!(!lines.iter().any(|line| line["event"] == "malformed"));
    let log = audited.daemon.log();
    assert!(
        log.contains("terminated by signal SIGKILL; it is started again"),
        "{log}"
    );
    let notes = audited.verify(&[], &["audit.log"]).stdout;
    assert!(
        notes.contains("no orderly end before this start"),
        "{notes}"
    );
}

#[test]
fn a_worker_cannot_speak_for_another_connection() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup
        .environment
        .push(("NULLMODULE_OBEY".into(), "1".into()));
    let mut audited = Audited::start(setup, "");
    let mut victim = ready4(&audited.daemon);
    let mut hostile = ready4(&audited.daemon);
    assert_eq!(sign_with(&mut hostile, b"forge"), CkRv::OK);
    assert_eq!(sign(&mut victim), CkRv::OK);
    drop((victim, hostile));
    audited.end(&["audit.log"]);
    let opened = audited.calls("C_OpenSession");
    let (victim, hostile) = (&opened[0]["connection"], &opened[1]["connection"]);
    // All that it can forge is a call of its own.
    let forged = audited.calls("C_CreateObject");
    assert_eq!(forged.len(), 1);
    assert_eq!(
        (&forged[0]["connection"], &forged[0]["call"]),
        (hostile, &77.into())
    );
    // It has shut its own way to the auditor down, and nobody else's.
    for function in ["C_SignInit", "C_Sign"] {
        let calls = audited.calls(function).into_iter();
        let of_victim = calls.filter(|call| call["connection"] == *victim);
        assert_eq!(of_victim.count(), 1, "{function}");
    }
    let lines = audited.lines();
    let lost = lines.iter().find(|line| line["event"] == "resumed");
    assert_eq!(lost.map(|line| &line["lost"]), Some(&1.into()));
    let malformed = lines.iter().filter(|line| line["event"] == "malformed");
    let malformed: Vec<u64> = malformed
        .filter(|line| line["connection"] == *hostile)
        .filter_map(|line| line["count"].as_u64())
        .collect();
    assert_eq!(malformed, [1, 2, 4]);
    assert!(!lines.iter().any(|line| line["user"] == "CN=somebody else"));
    assert!(
        audited
            .daemon
            .log()
            .contains("sent the auditor what is no record")
    );
}

#[test]
fn what_is_wrong_with_the_section_is_told_at_start() {
    let directory = with_rules();
    key(&directory);
    std::fs::write(directory.join("precious"), "precious\n").expect("a file");
    let rsa = openssl::rsa::Rsa::generate(2048).expect("a key");
    std::fs::write(
        directory.join("rsa.pem"),
        rsa.private_key_to_pem().expect("PEM"),
    )
    .expect("a file");
    for (section, expected) in [
        ("file = \"a.log\";", "`key` is missing"),
        ("key = \"key.pem\";", "`file` is missing"),
        (
            "file = \"a.log\";\n key = \"none.pem\";",
            "d.conf:2: netplex.daemon.audit.key: ",
        ),
        (
            "file = \"a.log\";\n key = \"rsa.pem\";",
            "expected an Ed25519 key",
        ),
        (
            "file = \"a.log\";\n key = \"filter.conf\";",
            "expected a private key in PEM",
        ),
        (
            "key = \"key.pem\";\n file = \"precious\";",
            "d.conf:2: netplex.daemon.audit.file: ",
        ),
        (
            "key = \"key.pem\";\n file = \"none/a.log\";",
            "cannot be opened",
        ),
        (
            "key = \"key.pem\"; file = \"a.log\"; when_full = \"stop\";",
            "expected refuse or count",
        ),
        (
            "key = \"key.pem\"; file = \"a.log\"; sign_lines = 0;",
            "expected 1 or more",
        ),
    ] {
        let conf = configuration("type = \"internet\"; bind = \"127.0.0.1:0\"", "");
        let conf = conf.replacen(
            "netplex {",
            &format!("netplex {{ daemon {{ audit {{ {section} }} }};"),
            1,
        );
        let output = refused(&directory, &conf, &["-fg"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{section}: {text}");
        assert!(text.contains(expected), "{section}: {text}");
    }
    assert_eq!(
        std::fs::read_to_string(directory.join("precious")).expect("a file"),
        "precious\n"
    );
}

/// Makes a client's certificate with this common name, by the authority of the tests.
fn client_certificate(name: &str) -> (openssl::x509::X509, PKey<Private>) {
    use openssl::asn1::Asn1Time;
    use openssl::hash::MessageDigest;
    use openssl::x509::extension::ExtendedKeyUsage;
    use openssl::x509::{X509Builder, X509Name};

    let authority = std::fs::read(certificate("ca.pem")).expect("a certificate");
    let authority = openssl::x509::X509::from_pem(&authority).expect("PEM");
    let signer = std::fs::read(certificate("ca.key")).expect("a key");
    let signer = PKey::private_key_from_pem(&signer).expect("PEM");
    let key = PKey::from_rsa(openssl::rsa::Rsa::generate(3072).expect("a key")).expect("a key");
    let mut subject = X509Name::builder().expect("a name");
    subject.append_entry_by_text("CN", name).expect("a name");
    let mut built = X509Builder::new().expect("a certificate");
    built.set_version(2).expect("version 3");
    built.set_subject_name(&subject.build()).expect("a subject");
    built
        .set_issuer_name(authority.subject_name())
        .expect("an issuer");
    built.set_pubkey(&key).expect("a key");
    let serial = openssl::bn::BigNum::from_u32(4711).and_then(|number| number.to_asn1_integer());
    built
        .set_serial_number(&serial.expect("a number"))
        .expect("a number");
    let day = |days| Asn1Time::days_from_now(days).expect("a time");
    built.set_not_before(&day(0)).expect("a time");
    built.set_not_after(&day(1)).expect("a time");
    let usage = ExtendedKeyUsage::new()
        .client_auth()
        .build()
        .expect("an extension");
    built.append_extension(usage).expect("an extension");
    built
        .sign(&signer, MessageDigest::sha256())
        .expect("signed");
    (built.build(), key)
}

#[test]
fn a_subject_with_quotes_and_newlines_stays_in_its_member() {
    use openssl::ssl::{SslConnector, SslMethod};

    let token = Token::new();
    let mut setup = setup(&token);
    setup.use_ssl = true;
    setup.processor = format!(
        "tls {{ peer_auth = \"required\"; x509 {{ key {{ crt_file = \"{}\"; key_file = \"{}\" }};
           trust {{ crt_file = \"{}\" }} }} }};",
        certificate("server.pem"),
        certificate("server.key"),
        certificate("ca.pem"),
    );
    let mut audited = Audited::start(setup, "");
    let (own, key) = client_certificate("x\",\"user\":\"root\"}\n{\"seq\":1}\r\u{1b}[2J");
    let mut connector = SslConnector::builder(SslMethod::tls()).expect("a context");
    connector
        .set_ca_file(certificate("ca.pem"))
        .expect("authorities");
    connector.set_certificate(&own).expect("a certificate");
    connector.set_private_key(&key).expect("its key");
    let stream = TcpStream::connect(audited.daemon.address()).expect("it accepts");
    let connector = connector.build();
    let mut stream = connector.connect("localhost", stream).expect("a handshake");
    for call in [
        Call::C_SetupArch(Architecture::host()),
        Call::C_LoadModule(b"null"),
        Call::C_Initialize(),
        Call::C_GetInfo(),
    ] {
        stream.write_all(&encoded(&call)).expect("it reads");
        let mut mark = [0; 4];
        stream.read_exact(&mut mark).expect("a reply");
        let mut record = vec![0; (u32::from_be_bytes(mark) & 0x7fff_ffff) as usize];
        stream.read_exact(&mut record).expect("a reply");
    }
    drop(stream);
    audited.end(&["audit.log"]);
    let loads = audited.calls("C_LoadModule");
    assert_eq!(loads.len(), 1, "from its first call on");
    for call in [&loads[0], &audited.calls("C_GetInfo")[0]] {
        let user = call["user"].as_str().expect("a user");
        assert!(user.contains("user") && user.contains("seq"), "{user}");
        assert!(!user.contains(char::is_control), "{user}");
    }
    assert!(!audited.lines().iter().any(|line| line["user"] == "root"));
}

/// The old daemon goes on in a file of its own, the new one in the old one's.
#[test]
fn an_upgrade_loses_no_line() {
    let token = Token::new();
    let directory = Directory::new();
    let mut setup = setup(&token);
    let control = directory.join("control");
    setup.daemon = format!("control_socket = \"{}\";", control.display());
    let mut audited = Audited::start(setup, "");
    let old = audited.daemon.process();
    let mut client = ready4(&audited.daemon);
    assert_eq!(sign(&mut client), CkRv::OK);
    let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyctl"));
    command.arg("-socket").arg(&control).arg("upgrade");
    let outcome = run(command, Duration::from_secs(30));
    assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
    let pid = std::fs::read_to_string(audited.daemon.directory().join("pid")).expect("a pid");
    let new = Process::of(pid.trim().parse().expect("a number")).expect("it runs");
    assert_ne!(new.pid, old.pid);
    let mut other = ready4(&audited.daemon);
    assert_eq!(sign(&mut other), CkRv::OK);
    assert_eq!(sign(&mut client), CkRv::OK);
    drop((client, other));
    // The old one ends when its client has left.
    assert_eq!(
        audited.daemon.wait().and_then(|status| status.code()),
        Some(0)
    );
    new.signal(Signal::SIGTERM);
    assert!(wait_until(PATIENCE, || !new.is_alive()));
    let aside = format!("audit.log.{}", old.pid);
    let signed = ["audit.log", &aside].map(|file| {
        let verified = audited.verify(&[], &[file]);
        let status = verified.status.code();
        assert_eq!(status, Some(0), "{file}: {}", verified.stdout);
        let lines = lines(&audited.directory.join(file));
        let calls = lines.iter().filter(|line| line["function"] == "C_Sign");
        calls.count()
    });
    // The first one's line may be in either, as the auditor is about to write it.
    assert!(signed == [2, 1] || signed == [1, 2], "{signed:?}");
}

#[test]
fn a_refused_call_is_explained_by_the_rules_as_they_are_now() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.filter = "allowed_labels = [\n(\".*\", [other])]".into();
    let mut audited = Audited::start(setup, "");
    let mut client = ready4(&audited.daemon);
    assert_eq!(sign(&mut client), CkRv::OBJECT_HANDLE_INVALID);
    drop(client);
    audited.end(&["audit.log"]);
    let lines = audited.lines();
    let at = lines
        .iter()
        .position(|line| line["function"] == "C_SignInit");
    let number = (at.expect("a call") + 1).to_string();
    let filter = audited.daemon.directory().join("filter.conf");
    let explain = |place: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyctl"));
        command
            .current_dir(audited.directory.path())
            .args(["explain", "-conf"])
            .arg(audited.daemon.directory().join("pkcs11proxyd.conf"))
            .args(place);
        run(command, Duration::from_secs(20))
    };
    let refused = explain(&[&number, "audit.log"]);
    let rule = format!("{}:3: allowed_labels: ", filter.display());
    let step = format!(
        "2. {rule}the object with label 'null': label 'null': REFUSED with CKR_OBJECT_HANDLE_INVALID"
    );
    let text = &refused.stdout;
    assert!(text.contains(&step), "{text}{}", refused.stderr);
    assert!(text.contains("1. the function: passes"), "{text}");
    let then = format!(
        "then it was refused with CKR_OBJECT_HANDLE_INVALID by {}:3: allowed_labels; now it is refused",
        filter.display()
    );
    assert!(text.contains(&then), "{text}");
    assert_eq!(refused.status.code(), Some(1));
    // The rule is changed.
    let rules = std::fs::read_to_string(&filter)
        .expect("a file")
        .replace("other", "null");
    std::fs::write(&filter, rules).expect("a file");
    let passes = explain(&[&number, "audit.log"]);
    assert!(
        passes.stdout.contains("; now it reaches the module\n"),
        "{}",
        passes.stdout
    );
    assert_eq!(passes.status.code(), Some(0));
    for (place, expected) in [
        (&["1", "audit.log"][..], "the line of a call"),
        (&["99", "audit.log"], "has no line 99"),
        (&[][..], "a line of an audit log"),
    ] {
        let failed = explain(place);
        assert_eq!(failed.status.code(), Some(2));
        assert!(failed.stderr.contains(expected), "{}", failed.stderr);
    }
}
