//! Tests modules that need only files, behind workers with the preset `strict`: SoftHSM, and softokn of NSS.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::differences::allowed;
use super::pairs::sections;
use super::support::lasting::{KEPT, Lasting, SIGNED, lasting};
use super::support::processes::run;
use super::support::script::{Difference, run_script};
use super::support::{Endpoint, Library, Maker, Setup, Stack, Token};

use Maker::Ours;

/// What SoftHSM needs of the preset `strict`.
fn strict(token: &Token) -> String {
    format!(
        "sandbox {{ preset = \"strict\"; read = \"{}\"; write = \"{}\" }};",
        token.configuration().display(),
        token.path().join("tokens").display()
    )
}

fn stack(endpoint: Endpoint) -> Stack {
    let token = Token::new();
    let mut setup = Setup::new(Ours, endpoint, &token);
    setup.processor = strict(&token);
    Stack {
        library: Library::Ours,
        daemon: Some(setup.start()),
        token,
        protocol: None,
    }
}

/// Every function, new tokens and keys included.
#[test]
fn softhsm_answers_in_strict_what_it_answers_without_a_daemon() {
    let stack = stack(Endpoint::Unix);
    let sections = sections(Ours, Ours);
    let expected = run_script(&Stack::direct(stack.token.copy()), &sections);
    let got = run_script(&stack, &sections);
    let allowed: Vec<&Difference> = allowed(Ours, Ours, 4)
        .filter(|row| sections.contains(&row.section))
        .collect();
    assert_eq!(got.compare(&expected, &allowed), "");
}

/// Calls are executed by several threads of a worker.
#[test]
fn threads_sign_at_once_in_strict() {
    let stack = stack(Endpoint::Tcp);
    let outcome = stack.run("threads", &["threads", "0"], Duration::from_secs(90));
    assert!(outcome.status.success(), "{}", outcome.stdout);
    assert!(!outcome.stdout.contains("NO"), "{}", outcome.stdout);
}

/// A client that comes back is left (SIGUSR2) between its calls.
#[test]
fn a_daemon_drains_in_strict() {
    let token = Token::new().with_rsa_key();
    let mut setup = Setup::new(Ours, Endpoint::Tcp, &token);
    setup.processor = strict(&token);
    let mut daemon = setup.start();
    let mut command = Command::new(lasting());
    command
        .env("PKCS11PROXY_SOCKET_PATH", daemon.address())
        .env("PKCS11PROXY_LIBNAME", "softhsm")
        .envs(KEPT);
    let mut program = Lasting::start(command, &Library::Ours.path());
    assert_eq!(program.does("sign"), SIGNED);
    daemon.process().signal(Signal::SIGUSR2);
    let status = daemon.wait().expect("it ends long before drain_timeout");
    assert_eq!(status.code(), Some(0), "{}", daemon.log());
    daemon.start_again();
    assert_eq!(program.does("sign"), SIGNED);
    program.quit();
}

/// A token outside of `write` is not found. So the test above can fail.
#[test]
fn softhsm_in_strict_finds_no_token_that_is_not_named() {
    let token = Token::new();
    let mut setup = Setup::new(Ours, Endpoint::Tcp, &token);
    setup.processor = format!(
        "sandbox {{ preset = \"strict\"; read = \"{}\" }};",
        token.configuration().display()
    );
    let daemon = setup.start();
    let slots = pkcs11_tool(&daemon.address(), "softhsm", &["--list-token-slots"]);
    assert!(!slots.contains(Token::LABEL), "{slots}");
}

/// Runs pkcs11-tool with our library; what it prints.
fn pkcs11_tool(address: &str, alias: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("pkcs11-tool");
    command
        .arg("--module")
        .arg(Library::Ours.path())
        .args(arguments)
        .env("PKCS11PROXY_SOCKET_PATH", address)
        .env("PKCS11PROXY_LIBNAME", alias);
    let outcome = run(command, Duration::from_secs(60));
    format!("{}{}", outcome.stdout, outcome.stderr)
}

/// softokn has its database in SQLite, below `write`.
#[test]
fn softokn_keeps_keys_in_strict_and_default() {
    let arch = std::env::consts::ARCH;
    let softokn = format!("/usr/lib/{arch}-linux-gnu/libsoftokn3.so");
    assert!(
        Path::new(&softokn).exists(),
        "{softokn} is missing; tests/support/install-packages.sh installs it"
    );
    for preset in ["strict", "default"] {
        let token = Token::new();
        let database = token.path().join("nss");
        std::fs::create_dir(&database).expect("a new directory");
        std::fs::write(token.path().join("pin"), "1234\n").expect("a directory of ours");
        let mut command = Command::new("certutil");
        command
            .args(["-N", "-d"])
            .arg(format!("sql:{}", database.display()));
        command.arg("-f").arg(token.path().join("pin"));
        assert!(run(command, Duration::from_secs(60)).status.success());
        let database = database.display();
        let write = match preset {
            "strict" => format!("write = \"{database}\""),
            _ => String::new(),
        };
        let mut setup = Setup::new(Ours, Endpoint::Tcp, &token);
        setup.modules = vec![("nss".into(), softokn.clone().into())];
        setup.processor = format!(
            "module {{ alias = \"nss\"; init_args = \"configdir='sql:{database}' certPrefix='' keyPrefix='' \
             secmod='' flags=\" }};
             sandbox {{ preset = \"{preset}\"; {write} }};"
        );
        let daemon = setup.start();
        let tool = |arguments: &[&str]| {
            // The first slot is for operations without keys of its own.
            let slot = [&["--slot-index", "1"], arguments].concat();
            pkcs11_tool(&daemon.address(), "nss", &slot)
        };
        let made = tool(&[
            "--login",
            "--pin",
            "1234",
            "--keypairgen",
            "--key-type",
            "rsa:2048",
            "--label",
            "key",
            "--id",
            "07",
        ]);
        assert!(
            made.contains("Key pair generated"),
            "{preset}: {made}\n{}",
            daemon.log()
        );
        let found = tool(&[
            "--login",
            "--pin",
            "1234",
            "--list-objects",
            "--type",
            "privkey",
        ]);
        assert!(found.contains("ID:         07"), "{preset}: {found}");
        let (data, signature) = (token.path().join("pin"), token.path().join("signature"));
        let [data, signature] = [data, signature].map(|path| path.display().to_string());
        let said = tool(&[
            "--login",
            "--pin",
            "1234",
            "--sign",
            "--mechanism",
            "SHA256-RSA-PKCS",
            "--id",
            "07",
            "--input-file",
            &data,
            "--output-file",
            &signature,
        ]);
        let length = std::fs::metadata(&signature).map(|file| file.len());
        assert_eq!(length.ok(), Some(256), "{preset}: {said}");
    }
}
