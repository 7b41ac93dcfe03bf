//! Replays the inputs of bugs that were found, here or in the original: one file for each.
//!
//! A folder belongs to one decoder. Each file begins with a sentence on the bug and says what the decoder must return
//! (`expect:`, or only its beginning, followed by `...`). Every input is also tried truncated and with single bytes
//! changed; there the decoder only has to survive.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use filter::{Compatibility, Filter, Rules};
use server::tls::priority::Priority;
use server::tls::psk::Keys;
use xdr::record::Records;
use xdr::rpc::{self, Peer, Request, Xid};
use xdr::{Answer, Architecture, Call, CkRv, Cryptoki, Found, Function, Reply, Wanted, version3};

/// An input, and what its file says about it.
struct Case {
    path: PathBuf,
    /// `key: value` of the comments at the head of the file.
    notes: Vec<(String, String)>,
    input: Vec<u8>,
}

impl Case {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn note(&self, key: &str) -> Option<&str> {
        let found = self.notes.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str())
    }

    fn expected(&self) -> &str {
        self.note("expect")
            .unwrap_or_else(|| panic!("{}: no `expect:`", self.name()))
    }

    fn number(&self, key: &str, default: usize) -> usize {
        let number = self.note(key).map(|value| value.parse().expect("a number"));
        number.unwrap_or(default)
    }
}

/// How the head of a file is written.
enum Comments {
    /// `# text`, and the rest of the file is hexadecimal, with such comments.
    Hexadecimal,
    /// `# text`; the rest of the file after the head is the input.
    Hash,
    /// `(* text *)`; the whole file is the input.
    OCaml,
}

fn cases(folder: &str, comments: &Comments) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.into_iter().map(|path| read(path, comments)).collect()
}

fn read(path: PathBuf, comments: &Comments) -> Case {
    let bytes = fs::read(&path).expect("a readable file");
    let (mut notes, mut head, mut sentences) = (Vec::new(), 0, 0);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end();
        let comment = match comments {
            Comments::OCaml => text
                .strip_prefix("(* ")
                .and_then(|text| text.strip_suffix(" *)")),
            Comments::Hexadecimal | Comments::Hash => text.strip_prefix("# "),
        };
        let Some(comment) = comment else { break };
        head += line.len();
        match comment.split_once(": ") {
            Some((key, value)) if key.chars().all(|c| c.is_ascii_lowercase()) => {
                notes.push((key.to_owned(), value.to_owned()));
            }
            _ => sentences += 1,
        }
    }
    assert!(sentences > 0, "{}: no sentence on the bug", path.display());
    let input = match comments {
        Comments::Hexadecimal => {
            let text = String::from_utf8(bytes).expect("text");
            let code = text.lines().filter_map(|line| line.split('#').next());
            let digits: String = code.flat_map(str::split_whitespace).collect();
            unhex(&digits)
        }
        Comments::Hash => bytes[head..].to_vec(),
        Comments::OCaml => bytes,
    };
    Case { path, notes, input }
}

fn unhex(digits: &str) -> Vec<u8> {
    assert_eq!(digits.len() % 2, 0, "odd number of hex digits");
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// Runs a folder: each input as it is, then cut and changed.
fn replay(folder: &str, comments: &Comments, decode: impl Fn(&Case, &[u8]) -> String) {
    let mut failures = Vec::new();
    for case in cases(folder, comments) {
        let outcome = decode(&case, &case.input);
        let is_expected = match case.expected().strip_suffix("...") {
            Some(beginning) => outcome.starts_with(beginning),
            None => outcome == case.expected(),
        };
        if !is_expected {
            failures.push(format!(
                "{}\n  expected: {}\n  came out: {outcome}",
                case.name(),
                case.expected()
            ));
        }
        let length = case.input.len();
        // At most some hundred variations of a long input.
        for at in (0..length).step_by(length / 256 + 1) {
            let mut changed = case.input.clone();
            changed[at] ^= 1 << (at % 8);
            for input in [&case.input[..at], &changed] {
                let survived = catch_unwind(AssertUnwindSafe(|| decode(&case, input)));
                assert!(survived.is_ok(), "{}: varied at {at}", case.name());
            }
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// What a client sends: the notes `limit`, in bytes, and `repeat`, how often the input is sent.
#[test]
fn record_streams() {
    fn records(case: &Case, input: &[u8], step: usize) -> String {
        let mut records = Records::new(case.number("limit", 1 << 20));
        let mut sizes = Vec::new();
        let is_varied = input != case.input;
        let times = if is_varied {
            1
        } else {
            case.number("repeat", 1)
        };
        for _ in 0..times {
            for mut bytes in input.chunks(step) {
                while !bytes.is_empty() {
                    let space = records.space().expect("memory");
                    let count = space.len().min(bytes.len());
                    space[..count].copy_from_slice(&bytes[..count]);
                    records.received(count);
                    bytes = &bytes[count..];
                    loop {
                        match records.next() {
                            Ok(Some(record)) => sizes.push(record.len().to_string()),
                            Ok(None) => break,
                            Err(_) => return "over the limit".into(),
                        }
                    }
                }
            }
        }
        let begun = if records.is_begun() {
            ", one begun"
        } else {
            ""
        };
        format!("records of {} bytes{begun}", sizes.join(" "))
    }
    replay("record-streams", &Comments::Hexadecimal, |case, input| {
        let before = resident();
        let whole = records(case, input, usize::MAX);
        for step in [1, 3, 5] {
            let same = records(case, input, step);
            assert_eq!(same, whole, "{} by {step}", case.name());
        }
        let grown = resident().saturating_sub(before);
        assert!(grown < 2 << 20, "{}: {grown} bytes more", case.name());
        whole
    });
}

/// The memory of this process, in bytes.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").expect("this is Linux");
    let pages = statm.split(' ').nth(1).expect("the resident pages");
    pages.parse::<usize>().expect("a number") * 4096
}

/// The architecture of the note `architecture`: the client's, by default this host's.
fn architecture(case: &Case) -> Architecture {
    let code = case
        .note("architecture")
        .map(|code| code.parse().expect("a number"));
    code.map_or(Architecture::host(), Architecture)
}

/// A daemon's view of the client: its architecture, and the note `version`, by default 3.
fn peer(case: &Case) -> Peer {
    let version = case
        .note("version")
        .map_or(3, |version| version.parse().expect("a number"));
    Peer {
        architecture: architecture(case),
        versions: 3..=version,
    }
}

/// A message to the daemon, without its record mark.
#[test]
fn requests() {
    replay(
        "requests",
        &Comments::Hexadecimal,
        |case, input| match rpc::read_request(input, &peer(case)) {
            Request::Unanswerable => "unanswerable".into(),
            Request::Rejected(_, rejection) => format!("{rejection:?}"),
            Request::Call(rpc::Incoming { call, .. }) => {
                let mut outcome = call.function().name().to_owned();
                if let Some(mechanism) = call.mechanism() {
                    let parameter = match mechanism.parameter().for_module(false) {
                        Ok(bytes) => format!("parameter of {} bytes", bytes.len()),
                        Err(rv) => rv.to_string(),
                    };
                    let keys = match mechanism.named_keys() {
                        Ok(keys) => format!("{keys:x?}"),
                        Err(rv) => rv.to_string(),
                    };
                    outcome += &format!(", {parameter}, names {keys}");
                }
                outcome
            }
        },
    );
}

/// A message to the client, without its record mark; the note `function` says what was called, with
/// xid 1.
#[test]
fn replies() {
    replay("replies", &Comments::Hexadecimal, |case, input| {
        let name = case.note("function").expect("a function");
        let function = Function::from_name(name).expect("a function of the interface");
        let version = case.note("version").unwrap_or("3");
        let read = match version {
            "4" => rpc::read_reply::<Call<'_>>(Xid(1), function, input)
                .map(|reply| reply.map(|reply| reply.rv())),
            _ => rpc::read_reply::<version3::Call<'_>>(Xid(1), function, input)
                .map(|reply| reply.map(|reply| reply.rv())),
        };
        match read {
            None => "of another call".into(),
            Some(Ok(rv)) => rv.to_string(),
            Some(Err(error)) => error.to_string(),
        }
    });
}

/// A module with objects of every label that answers CKR_OK.
struct Module;

impl Cryptoki for Module {
    fn call(&self, call: Call<'_>) -> Reply {
        let mut reply = Reply::only(call.function(), CkRv::OK);
        if let (
            Call::C_GetAttributeValue(_, object, Some(asked)),
            Reply::C_GetAttributeValue(told),
        ) = (&call, &mut reply)
        {
            let label = if object.0 == 7 { "hidden" } else { "shown" };
            let answer = |asked: &Wanted| Answer {
                attribute_type: asked.attribute_type,
                found: Found::Bytes(label.as_bytes().to_vec()),
            };
            told.answers.0 = asked.0.iter().map(answer).collect();
        }
        reply
    }
}

/// A call in front of the filter with the note `rules`, as filter.conf has them; object 7 is labelled
/// `hidden`, all others `shown`.
#[test]
fn filtered_calls() {
    replay("filtered-calls", &Comments::Hexadecimal, |case, input| {
        let rules = case.note("rules").expect("rules");
        let rules = format!("modules = [(m, \"/m.so\")] {rules}");
        let none = Compatibility::default();
        let rules = Rules::parse(rules.as_bytes(), Path::new("filter.conf"), &none);
        let rules = Arc::new(rules.expect("the rules are sound"));
        let filter = Filter::new(&rules, b"m", &rules.modules[0], Module);
        match rpc::read_request(input, &peer(case)) {
            Request::Call(rpc::Incoming { call, .. }) => {
                let reply = filter.call(call);
                format!("{} {}", reply.function().name(), reply.rv())
            }
            other => format!("{other:?}"),
        }
    });
}

/// An error, or the warnings.
fn told(result: Result<Vec<String>, String>) -> String {
    match result {
        Err(error) => format!("error {error}"),
        Ok(warnings) if warnings.is_empty() => "accepted".into(),
        Ok(warnings) => format!("warning {}", warnings.join(" | ")),
    }
}

#[test]
fn filter_conf() {
    replay("filter-conf", &Comments::OCaml, |_, input| {
        let rules = Rules::parse(input, Path::new("f"), &Compatibility::default());
        told(
            rules
                .map(|rules| rules.warnings)
                .map_err(|error| error.to_string()),
        )
    });
}

#[test]
fn daemon_conf() {
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("corpus-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a directory");
    let file = folder.join("p.conf");
    replay("daemon-conf", &Comments::OCaml, |_, input| {
        fs::write(&file, input).expect("a file");
        let shorten = |text: String| text.replace(&file.display().to_string(), "p.conf");
        let configuration = server::config::load(&file);
        let warnings = configuration.map(|configuration| configuration.warnings);
        let warnings = warnings.map(|all| all.into_iter().map(shorten).collect());
        told(warnings.map_err(|error| shorten(error.to_string())))
    });
    fs::remove_dir_all(&folder).expect("nobody else uses it");
}

#[test]
fn priority_strings() {
    replay("priority-strings", &Comments::Hash, |_, input| {
        let text = String::from_utf8_lossy(input);
        told(Priority::parse(text.trim_end()).map(|priority| priority.warnings))
    });
}

#[test]
fn psk_files() {
    replay("psk-files", &Comments::Hash, |_, input| {
        told(Keys::parse(input).map(|_| Vec::new()))
    });
}
