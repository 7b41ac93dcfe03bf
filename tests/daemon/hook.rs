//! Tests the hook C_Daemonize: when it is called, with what, and when it ends the start.

use crate::*;

fn with_hook(token: &Token, hook: &Path, log: &Path) -> Setup {
    let mut setup = setup(token);
    setup.processor = format!("daemonize_hook = \"{}\";", hook.display());
    let log = log.display().to_string();
    setup.environment.push(("HOOK_LOG".into(), log));
    setup
}

#[test]
fn the_hook_is_called_once_in_the_controller_with_its_parameter() {
    let token = Token::new();
    let directory = Directory::new();
    let log = directory.join("log");
    let mut setup = with_hook(&token, &module("hook"), &log);
    setup.options = ["-daemonize-param", "some text"].map(String::from).into();
    let daemon = setup.start();
    for _ in 0..3 {
        let mut client = Client::ready(&daemon);
        assert!(client.call(Call::C_GetInfo()).rv().is_ok());
    }
    let expected = format!("{} some text\n", daemon.process().pid);
    let said = || std::fs::read_to_string(&log).expect("the hook's log");
    assert_eq!(said(), expected);
    daemon.process().signal(Signal::SIGHUP);
    assert!(wait_until(PATIENCE, || daemon
        .log()
        .contains("filter configuration loaded")));
    assert_eq!(said(), expected);
}

/// The client asks for modules by names that filter.conf has; the hook is none.
#[test]
fn no_client_reaches_the_hook() {
    let token = Token::new();
    let directory = Directory::new();
    let log = directory.join("log");
    let hook = module("hook");
    let daemon = with_hook(&token, &hook, &log).start();
    for name in ["hook", "C_Daemonize", &hook.display().to_string()] {
        let mut client = Client::new(&daemon);
        client.call(Call::C_SetupArch(Architecture::host()));
        let loaded = client.call(Call::C_LoadModule(name.as_bytes()));
        assert!(!loaded.rv().is_ok(), "{name}");
    }
    let said = std::fs::read_to_string(&log).expect("the hook's log");
    assert_eq!(said, format!("{} \n", daemon.process().pid));
}

#[test]
fn a_hook_that_fails_ends_the_start() {
    let directory = with_rules();
    let path = directory.join("s");
    let address = format!("type = \"local\"; path = \"{}\"", path.display());
    let hook = module("hook");
    let no_hook = module("nullmodule");
    for (hook, variable, expected) in [
        (
            hook.as_path(),
            "HOOK_RETURNS=7",
            "C_Daemonize returned CKR_ARGUMENTS_BAD",
        ),
        (
            &hook,
            "HOOK_RETURNS=0x80000001",
            "C_Daemonize returned 0x80000001",
        ),
        (&hook, "HOOK_THREAD=1", "2 threads"),
        (&no_hook, "X=1", "C_Daemonize"),
        (Path::new("none.so"), "X=1", "none.so"),
    ] {
        let conf = configuration(
            &address,
            &format!("daemonize_hook = \"{}\"", hook.display()),
        );
        std::fs::write(directory.join("d.conf"), conf).expect("a file");
        for mode in ["", "-fg"] {
            let mut command = Command::new("env");
            command
                .arg(variable)
                .arg(format!("HOOK_LOG={}", directory.join("log").display()));
            command
                .arg(env!("CARGO_BIN_EXE_pkcs11proxyd"))
                .arg("-conf")
                .arg(directory.join("d.conf"));
            command.args(Some(mode).filter(|mode| !mode.is_empty()));
            let outcome = run(command, PATIENCE);
            let text = outcome.stderr;
            assert_eq!(outcome.status.code(), Some(2), "{variable}: {text}");
            assert!(
                text.contains("d.conf:2: ") && text.contains(expected),
                "{variable}: {text}"
            );
            assert!(!path.exists(), "{variable}");
        }
    }
}

#[test]
fn a_parameter_without_a_hook_ends_the_start() {
    let directory = with_rules();
    let address = format!(
        "type = \"local\"; path = \"{}\"",
        directory.join("s").display()
    );
    let conf = configuration(&address, "");
    let output = refused(&directory, &conf, &["-daemonize-param", "x"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("-daemonize-param: expected"), "{text}");
}
