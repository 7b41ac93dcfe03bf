//! Tests mechanism parameters and templates with pointers in them: a program sees through the proxy what it sees on the
//! module.
//!
//! The programs are Debian's PyKCS11, with `parameters.py`, and pkcs11-tool. Each runs on SoftHSM directly and through
//! our pair, on copies of one token, and has to print the same lines, errors included. More programs, and the test
//! suites of other projects, are in `tests/suites`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::support::processes::run;
use super::support::{Directory, Endpoint, Maker, Stack, Token};

const LIMIT: Duration = Duration::from_secs(60);

/// SoftHSM directly, and through our pair, with copies of a token.
fn both(token: &Token) -> [Stack; 2] {
    [
        Stack::direct(token.copy()),
        Stack::through(Maker::Ours, Maker::Ours, Endpoint::Unix, token.copy()),
    ]
}

/// Runs a command that loads the library of the stack; gives everything that it prints.
fn printed(mut command: Command) -> String {
    command.env_remove("PYTHONPATH");
    let outcome = run(command, LIMIT);
    format!(
        "{}{}exit {:?}",
        outcome.stdout,
        outcome.stderr,
        outcome.status.code()
    )
}

/// Runs a group of calls of `parameters.py`, and gives what both stacks print. All of `expected` has to be
/// in it, so that two programs that fail alike are no success.
fn python_sees_no_difference(calls: &str, expected: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/parameters.py");
    let [direct, through] = both(&Token::new().with_rsa_key()).map(|stack| {
        // Debian's own Python has Debian's packages.
        let mut command = stack.command("/usr/bin/python3");
        command.arg(&script).arg(stack.library.path());
        command.args([Token::PIN, calls]);
        printed(command)
    });
    for line in expected {
        assert!(
            direct.contains(line),
            "no {line} without a proxy:\n{direct}"
        );
    }
    assert_eq!(through, direct);
}

#[test]
fn python_sees_no_difference_in_flat_parameters() {
    python_sees_no_difference(
        "flat",
        &[
            "RSA PSS verifies: True",
            "OAEP, label None, decryption: 7768",
        ],
    );
}

#[test]
fn python_sees_no_difference_in_gcm() {
    // The tag of the published test case, and with it the ciphertext before it.
    python_sees_no_difference("gcm", &["5bc94fbc3221a5db94fae95ae7121a47\n"]);
}

#[test]
fn python_sees_no_difference_in_ecdh() {
    // The shared secret of RFC 5903, section 8.1.
    python_sees_no_difference(
        "ecdh",
        &["ECDH: d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de\n"],
    );
}

/// SoftHSM refuses labels: the application has to get its error.
#[test]
fn python_sees_no_difference_in_oaep_with_a_label() {
    python_sees_no_difference("oaep", &["encryption: CKR_ARGUMENTS_BAD"]);
}

#[test]
fn python_sees_no_difference_in_nested_templates() {
    python_sees_no_difference(
        "nested",
        &[
            "wrap what it does not: CKR_KEY_NOT_WRAPPABLE",
            "unwrap as CKA_UNWRAP_TEMPLATE says: 0101\n",
        ],
    );
}

/// Runs pkcs11-tool, some versions of which print an address of their own.
fn pkcs11_tool(stack: &Stack, options: &[&str]) -> String {
    let mut command = stack.command("pkcs11-tool");
    command.arg("--module").arg(stack.library.path());
    command.args(["--login", "--pin", Token::PIN]).args(options);
    let text = printed(command);
    let lines = text.lines().map(|line| {
        let (before, after) = line.split_once("source_ptr=0x").unwrap_or((line, ""));
        let after = after.trim_start_matches(|c: char| c.is_ascii_hexdigit());
        format!("{before}{after}\n")
    });
    lines.collect()
}

#[test]
fn pkcs11_tool_sees_no_difference_in_oaep_with_a_label() {
    let stacks = both(&Token::new().with_rsa_key());
    let [direct, through] = stacks.map(|stack| pkcs11_tool(&stack, &["--test"]));
    assert!(direct.contains("(Label) present"), "{direct}");
    assert_eq!(through, direct);
}

/// What a command of pkcs11-tool writes into `output`, on SoftHSM and through our pair.
fn written(stacks: &[Stack; 2], options: &[&str], output: &str) -> [Vec<u8>; 2] {
    stacks.each_ref().map(|stack| {
        let printed = pkcs11_tool(stack, &[options, &["--output-file", output]].concat());
        let bytes = fs::read(output).unwrap_or_else(|error| panic!("{output}: {error}\n{printed}"));
        fs::remove_file(output).expect("a file that was read");
        bytes
    })
}

#[test]
fn pkcs11_tool_derives_the_same_secret() {
    let pair = |id| {
        let kind = ["--keypairgen", "--key-type", "EC:prime256v1"];
        [&kind, ["--usage-derive", "--id", id].as_slice()].concat()
    };
    let token = Token::new().with_key(&pair("02")).with_key(&pair("03"));
    let stacks = both(&token);
    let files = Directory::new();
    let file = |name| files.join(name).display().to_string();
    let read = ["--read-object", "--type", "pubkey", "--id", "03"];
    let [point, _] = written(&stacks, &read, &file("output"));
    fs::write(file("point"), point).expect("a file in a new directory");
    let derive = ["--derive", "--mechanism", "ECDH1-DERIVE", "--id", "02"];
    let point = file("point");
    let options = [&derive, ["--input-file", &point].as_slice()].concat();
    let [direct, through] = written(&stacks, &options, &file("output"));
    assert_eq!(direct.len(), 32);
    assert_eq!(through, direct);
}

/// pkcs11-tool has AES-GCM since OpenSC 0.25; Debian 12's is older and refuses the options, in both stacks.
#[test]
fn pkcs11_tool_sees_no_difference_in_gcm() {
    let key = ["--keygen", "--key-type", "AES:32", "--id", "05"];
    let stacks = both(&Token::new().with_key(&key));
    let files = Directory::new();
    let file = |name| files.join(name).display().to_string();
    let (input, output) = (file("input"), file("output"));
    fs::write(&input, "what an application seals").expect("a file in a new directory");
    let key = ["--encrypt", "--mechanism", "AES-GCM", "--id", "05"];
    let parameters = [
        "--iv",
        "000102030405060708090a0b",
        "--aad",
        "0102",
        "--tag-bits-len",
        "128",
    ];
    let files = ["--input-file", &input, "--output-file", &output];
    let options = [&key[..], &parameters, &files].concat();
    let [direct, through] = stacks.map(|stack| {
        let printed = pkcs11_tool(&stack, &options);
        let sealed = fs::read(&output).unwrap_or_default();
        _ = fs::remove_file(&output);
        (printed, sealed)
    });
    let refused = direct.0.contains("unrecognized option");
    assert!(refused || direct.1.len() == 25 + 16, "{}", direct.0);
    assert_eq!(through, direct);
}
