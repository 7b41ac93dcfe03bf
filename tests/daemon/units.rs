//! Checks the systemd units in etc/ with `systemd-analyze`.
//!
//! `make units` tests that the daemon works under them, on a system that boots.

use crate::*;

const UNITS: &[(&str, f64)] = &[
    ("pkcs11proxyd.service", 2.1),
    ("pkcs11proxyd-unprivileged.service", 1.3),
];

fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc").join(name);
    std::fs::read_to_string(path).expect("our own file")
}

/// Runs systemd-analyze, if it is there, on the units in a directory of their own, with the program that
/// was built. It needs no systemd that runs.
fn analyze(arguments: &[&str]) -> Option<String> {
    let directory = Directory::new();
    for name in ["pkcs11proxyd.socket", UNITS[0].0, UNITS[1].0] {
        let daemon = env!("CARGO_BIN_EXE_pkcs11proxyd");
        let text = unit(name).replace("/usr/bin/pkcs11proxyd", daemon);
        // Whether there is such a user is not what is tested.
        let text = text.replace("=pkcs11proxyd\n", "=daemon\n");
        std::fs::write(directory.join(name), text).expect("a file");
    }
    let mut command = Command::new("systemd-analyze");
    command.args(arguments).current_dir(directory.path());
    match command.output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            assert!(output.status.success(), "{arguments:?}: {text}");
            Some(text)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("skipped: there is no systemd-analyze");
            None
        }
        Err(error) => panic!("systemd-analyze: {error}"),
    }
}

#[test]
fn the_units_give_away_little() {
    for (name, most) in UNITS {
        let path = format!("./{name}");
        let arguments = ["security", "--offline=true", "--no-pager", &path];
        let Some(text) = analyze(&arguments) else {
            return;
        };
        let (_, exposure) = text
            .split_once(&format!("Overall exposure level for {name}: "))
            .unwrap_or_else(|| panic!("{text}"));
        let exposure = exposure.split_whitespace().next().expect("a number");
        let exposure: f64 = exposure.parse().expect("a number");
        assert!(exposure <= *most, "{text}");
    }
}

#[test]
fn systemd_understands_every_line_of_the_units() {
    for name in ["pkcs11proxyd.socket", UNITS[0].0, UNITS[1].0] {
        let path = format!("./{name}");
        let Some(text) = analyze(&["verify", "--man=no", &path]) else {
            return;
        };
        let ours = text.lines().filter(|line| line.contains("pkcs11proxyd"));
        assert_eq!(ours.collect::<Vec<_>>(), [""; 0]);
    }
}

/// The second unit says the same as the first, but for what its user makes other.
#[test]
fn the_units_differ_only_by_who_starts_the_daemon() {
    let lines = |name| {
        let text = unit(name);
        let settings = text.lines().filter(|line| !line.starts_with('#'));
        settings.map(str::to_owned).collect::<Vec<_>>()
    };
    let (first, second) = (lines(UNITS[0].0), lines(UNITS[1].0));
    let only = |these: &[String], others: &[String]| -> Vec<String> {
        let mut only = these.to_vec();
        only.retain(|line| !others.contains(line));
        only
    };
    let of_root = "CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_SETPCAP CAP_KILL";
    let expected = [of_root, "SystemCallFilter=@setuid capset"];
    assert_eq!(only(&first, &second), expected);
    let expected = [
        "Conflicts=pkcs11proxyd.service",
        "User=pkcs11proxyd",
        "Group=pkcs11proxyd",
        "CapabilityBoundingSet=",
        "RemoveIPC=yes",
    ];
    assert_eq!(only(&second, &first), expected);
}
