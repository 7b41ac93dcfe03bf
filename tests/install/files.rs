//! `make install` and `make uninstall`: which files, where, with which modes, and what is kept and left.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const DEBIAN: [(&str, &str); 2] = [("PREFIX", "/usr"), ("SYSCONFDIR", "/etc")];

/// What is installed with the variables of [`DEBIAN`] and no other, except the documents and the man pages.
const FILES: &[(&str, u32)] = &[
    ("etc/init.d/pkcs11proxyd", 0o755),
    ("etc/logrotate.d/pkcs11proxyd", 0o644),
    ("etc/pkcs11proxyd/filter-strict.conf", 0o640),
    ("etc/pkcs11proxyd/filter.conf", 0o640),
    ("etc/pkcs11proxyd/pkcs11proxyd.conf", 0o640),
    ("usr/bin/p11client-doctor", 0o755),
    ("usr/bin/pkcs11proxyctl", 0o755),
    ("usr/bin/pkcs11proxyd", 0o755),
    ("usr/lib/libp11client.so", 0o644),
    ("usr/lib/libp11clienttcp.so", 0o644),
    ("usr/lib/libp11clienttcpssl.so", 0o644),
    ("usr/lib/libp11clientunix.so", 0o644),
    (
        "usr/lib/systemd/system/pkcs11proxyd-unprivileged.service",
        0o644,
    ),
    ("usr/lib/systemd/system/pkcs11proxyd.service", 0o644),
    ("usr/lib/systemd/system/pkcs11proxyd.socket", 0o644),
    ("usr/lib/sysusers.d/pkcs11proxyd.conf", 0o644),
    ("usr/lib/tmpfiles.d/pkcs11proxyd.conf", 0o644),
    ("usr/share/p11-kit/modules/libp11client.module", 0o644),
];

/// A directory to install into.
struct Root {
    directory: Directory,
    built: Directory,
}

impl Root {
    fn new() -> Root {
        Root {
            directory: Directory::new(),
            built: built(),
        }
    }

    fn make(&self, target: &str, variables: &[(&str, &str)]) -> Outcome {
        let destination = self.directory.path().to_str().expect("our own path");
        let mut all = vec![("DESTDIR", destination)];
        // Where p11-kit is on this machine must not matter.
        all.push(("P11_KIT", "/usr/share/p11-kit/modules"));
        all.extend(variables);
        make_of(self.built.path(), target, &all)
    }

    /// As [`Root::make`]; it has to succeed and to write nothing but this.
    fn makes(&self, target: &str, variables: &[(&str, &str)], told: &str) {
        let outcome = self.make(target, variables);
        assert!(outcome.status.success(), "{}", outcome.stderr);
        let told = told.replace("ROOT", &self.directory.path().display().to_string());
        assert_eq!((outcome.stdout, outcome.stderr), (told, String::new()));
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// All files and directories with their modes, and the files' contents.
    fn all(&self) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut found = BTreeMap::new();
        let mut left = vec![self.directory.path().to_owned()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                let name = path.strip_prefix(self.directory.path()).expect("below it");
                let metadata = path.symlink_metadata().expect("it is there");
                let content = match metadata.is_dir() {
                    true => Vec::new(),
                    false => fs::read(&path).expect("a file"),
                };
                let mode = metadata.permissions().mode();
                found.insert(name.display().to_string(), (mode, content));
                if metadata.is_dir() {
                    left.push(path);
                }
            }
        }
        found
    }

    fn files(&self) -> Vec<(String, u32)> {
        let all = self.all().into_iter();
        let files = all.filter(|(_, (mode, _))| mode & 0o170_000 == 0o100_000);
        files
            .map(|(name, (mode, _))| (name, mode & 0o7777))
            .collect()
    }
}

#[test]
fn every_file_lies_where_it_belongs_and_nothing_else_is_installed() {
    let root = Root::new();
    root.makes("install-files", &DEBIAN, "");
    let documents = "usr/share/doc/pkcs11proxyd/";
    let (found, others): (Vec<_>, Vec<_>) = root
        .files()
        .into_iter()
        .partition(|(name, _)| name.starts_with(documents));
    let pages = man_pages().into_iter().map(|name| {
        let (_, section) = name.rsplit_once('.').expect("a section");
        (format!("usr/share/man/man{section}/{name}"), 0o644)
    });
    let files = FILES.iter().map(|(name, mode)| ((*name).to_owned(), *mode));
    let mut expected: Vec<(String, u32)> = files.chain(pages).collect();
    expected.sort();
    assert_eq!(others, expected);
    for name in [
        "README.md",
        "LICENSE",
        "docs/install.md",
        "docs/applications.md",
        "examples/client.conf",
        "examples/haproxy.cfg",
        "examples/prometheus-alerts.yml",
        "examples/grafana-dashboard.json",
    ] {
        let entry = (format!("{documents}{name}"), 0o644);
        assert!(found.contains(&entry), "{name}");
    }
    // No file knows where it was put together, or built.
    let all = root.all();
    let foreign = [
        root.directory.path(),
        root.built.path(),
        Path::new(env!("CARGO_MANIFEST_DIR")),
    ];
    for (name, (_, content)) in all.iter().filter(|(name, _)| !name.starts_with(documents)) {
        let content = String::from_utf8_lossy(content);
        for path in foreign {
            assert!(!content.contains(&path.display().to_string()), "{name}");
        }
    }
    for (name, (mode, _)) in all
        .iter()
        .filter(|(_, (mode, _))| mode & 0o170_000 == 0o040_000)
    {
        assert_eq!(mode & 0o7777, 0o755, "{name}");
    }
}

#[test]
fn a_second_installation_changes_nothing_and_keeps_what_a_site_has_changed() {
    let root = Root::new();
    root.makes("install-files", &DEBIAN, "");
    let before = root.all();
    root.makes("install-files", &DEBIAN, "");
    assert_eq!(root.all(), before);

    fs::write(root.path("etc/pkcs11proxyd/filter.conf"), "modules = []\n").expect("a file");
    fs::write(root.path("etc/logrotate.d/pkcs11proxyd"), "# none\n").expect("a file");
    let mode = |name, mode| {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(root.path(name), mode).expect("a mode");
    };
    mode("etc/pkcs11proxyd/pkcs11proxyd.conf", 0o600);
    mode("etc/pkcs11proxyd", 0o750);
    // A link of the site, though it leads nowhere now.
    let strict = root.path("etc/pkcs11proxyd/filter-strict.conf");
    fs::remove_file(&strict).expect("a file");
    std::os::unix::fs::symlink("/nonexistent/strict.conf", &strict).expect("a link");
    let keep = |all: BTreeMap<String, (u32, Vec<u8>)>| -> BTreeMap<_, _> {
        all.into_iter()
            .filter(|(name, _)| name.starts_with("etc/"))
            .collect()
    };
    fs::remove_file(&strict).expect("a link");
    let before = keep(root.all());
    std::os::unix::fs::symlink("/nonexistent/strict.conf", &strict).expect("a link");
    let told = "kept: ROOT/etc/pkcs11proxyd/filter.conf\n\
                kept: ROOT/etc/pkcs11proxyd/filter-strict.conf\n\
                kept: ROOT/etc/logrotate.d/pkcs11proxyd\n";
    root.makes("install-files", &DEBIAN, told);
    let target = fs::read_link(&strict).expect("the link is still there");
    assert_eq!(target.to_str(), Some("/nonexistent/strict.conf"));
    fs::remove_file(&strict).expect("a link");
    assert_eq!(keep(root.all()), before);
}

#[test]
fn uninstall_removes_all_but_what_was_changed_or_is_not_ours() {
    let root = Root::new();
    let named = [DEBIAN[0], DEBIAN[1], ("LIBNAMES", "a,b")];
    for name in ["libp11clienta.so", "libp11clientb.so"] {
        fs::write(root.built.join(name), name).expect("a file");
    }
    root.makes("install-files", &named, "");
    assert!(root.path("usr/lib/libp11clientb.so").exists());
    root.makes("uninstall", &named, "");
    assert_eq!(root.files(), []);
    assert_eq!(root.all(), BTreeMap::new());

    root.makes("install-files", &named, "");
    fs::write(root.path("etc/pkcs11proxyd/filter.conf"), "modules = []\n").expect("a file");
    fs::write(root.path("usr/lib/libother.so"), "").expect("a file");
    let told = "left, because it was changed: ROOT/etc/pkcs11proxyd/filter.conf\n";
    root.makes("uninstall", &named, told);
    let left: Vec<String> = root.files().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        left,
        ["etc/pkcs11proxyd/filter.conf", "usr/lib/libother.so"]
    );
    // Once more it does the same.
    root.makes("uninstall", &named, told);
}

#[test]
fn nothing_is_installed_before_all_is_built() {
    let root = Root::new();
    let outcome = root.make("install-files", &[DEBIAN[0], DEBIAN[1], ("LIBNAMES", "a")]);
    assert_eq!(outcome.status.code(), Some(2));
    let told = "libp11clienta.so; run make first, with the same variables";
    assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
    assert_eq!(root.all(), BTreeMap::new());
}

/// Without DESTDIR, in a prefix of its own, which goes as well.
#[test]
fn a_prefix_of_its_own_goes_with_its_last_file() {
    let directory = Directory::new();
    let built = built();
    let prefix = directory.join("p11");
    let prefix = prefix.to_str().expect("our own path");
    let variables = [("PREFIX", prefix)];
    let outcome = make_of(built.path(), "install-files", &variables);
    assert!(outcome.status.success(), "{}", outcome.stderr);
    assert!(
        directory
            .join("p11/etc/pkcs11proxyd/pkcs11proxyd.conf")
            .exists()
    );
    assert!(
        directory
            .join("p11/share/p11-kit/modules/libp11client.module")
            .exists()
    );
    let outcome = make_of(built.path(), "uninstall", &variables);
    assert!(outcome.status.success(), "{}", outcome.stderr);
    assert!(!directory.join("p11").exists());
    assert!(directory.path().exists());
}

#[test]
fn an_empty_directory_leaves_its_files_out() {
    let root = Root::new();
    let empty = [
        "SYSTEMD",
        "SYSUSERS",
        "TMPFILES",
        "LOGROTATE",
        "INITD",
        "P11_KIT",
        "DOCDIR",
        "MANDIR",
    ];
    let mut variables = DEBIAN.to_vec();
    variables.extend(empty.map(|name| (name, "")));
    root.makes("install-files", &variables, "");
    let names: Vec<String> = root.files().into_iter().map(|(name, _)| name).collect();
    let expected: Vec<&str> = FILES
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| {
            ["etc/pkcs11proxyd/", "usr/bin/", "usr/lib/lib"]
                .iter()
                .any(|part| name.starts_with(part))
        })
        .collect();
    assert_eq!(names, expected);
    root.makes("uninstall", &variables, "");
    assert_eq!(root.all(), BTreeMap::new());
}

#[test]
fn files_name_the_directories_where_things_were_installed() {
    let root = Root::new();
    let variables = [
        ("PREFIX", "/opt/p11"),
        ("BINDIR", "/opt/p11/sbin"),
        ("LIBDIR", "/opt/p11/lib64"),
        ("SYSCONFDIR", "/opt/etc"),
    ];
    root.makes("install-files", &variables, "");
    let unit =
        "ExecStart=/opt/p11/sbin/pkcs11proxyd -fg -conf /opt/etc/pkcs11proxyd/pkcs11proxyd.conf";
    for (name, line) in [
        ("opt/p11/lib/systemd/system/pkcs11proxyd.service", unit),
        (
            "opt/p11/lib/systemd/system/pkcs11proxyd-unprivileged.service",
            unit,
        ),
        (
            "usr/share/p11-kit/modules/libp11client.module",
            "module: /opt/p11/lib64/libp11client.so",
        ),
        (
            "opt/etc/init.d/pkcs11proxyd",
            "DAEMON=/opt/p11/sbin/pkcs11proxyd",
        ),
        (
            "opt/etc/init.d/pkcs11proxyd",
            "DAEMON_ARGS=\"-conf /opt/etc/pkcs11proxyd/pkcs11proxyd.conf\"",
        ),
        (
            "opt/etc/init.d/pkcs11proxyd",
            "[ ! -r /opt/etc/default/pkcs11proxyd ] || . /opt/etc/default/pkcs11proxyd",
        ),
    ] {
        let text = root.read(name);
        assert!(text.lines().any(|it| it == line), "{name}: {text}");
        for other in ["/usr/bin/pkcs11proxyd", " /etc/pkcs11proxyd"] {
            assert!(!text.contains(other), "{name}: {text}");
        }
    }
}

/// With odd names of the root all the same, where no file has to name it.
#[test]
fn directories_that_would_need_quotes_are_refused() {
    let root = Root::new();
    for (name, value, sentence) in [
        (
            "PREFIX",
            "/opt/a b",
            "PREFIX: a directory can have only letters, digits and",
        ),
        (
            "SYSCONFDIR",
            "/etc'",
            "SYSCONFDIR: a directory can have only letters, digits and",
        ),
        (
            "LIBDIR",
            "/usr/lib\n/x",
            "LIBDIR: a directory can have only letters, digits and",
        ),
        (
            "BINDIR",
            "/usr/b|n",
            "BINDIR: a directory can have only letters, digits and",
        ),
        (
            "PREFIX",
            "usr",
            "PREFIX: expected an absolute path, which begins with /, not \"usr\"",
        ),
        ("LIBDIR", "", "LIBDIR: expected a directory; it is empty"),
        (
            "LIBNAMES",
            "a/b",
            "LIBNAMES: a name is made of letters, digits",
        ),
    ] {
        for target in ["install-files", "uninstall"] {
            let outcome = root.make(target, &[(name, value)]);
            assert_eq!(outcome.status.code(), Some(2), "{name} {value}");
            assert!(outcome.stderr.starts_with(sentence), "{}", outcome.stderr);
            assert_eq!(root.all(), BTreeMap::new());
        }
    }
    let inner = root.path("a 'b' &|");
    let destination = inner.to_str().expect("our own path");
    let variables = [DEBIAN[0], DEBIAN[1], ("DESTDIR", destination)];
    root.makes("install-files", &variables, "");
    assert!(inner.join("etc/init.d/pkcs11proxyd").exists());
    root.makes("uninstall", &variables, "");
    assert_eq!(fs::read_dir(&inner).expect("it stays").count(), 0);
}

/// Whether a tool is there; a test without it says so.
fn is_there(tool: &str) -> bool {
    let mut command = command("sh");
    command.args(["-c", "command -v \"$0\"", tool]);
    let is_there = run(command, LONG).status.success();
    if !is_there {
        eprintln!("skipped: there is no {tool}");
    }
    is_there
}

#[test]
fn systemd_makes_the_user_and_the_directories() {
    if !is_there("systemd-sysusers") || !is_there("systemd-tmpfiles") {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root may give files to others");
    }
    let root = Root::new();
    root.makes("install-files", &DEBIAN, "");
    let option = format!("--root={}", root.directory.path().display());
    let mut users = command("systemd-sysusers");
    users.args([option.as_str(), "pkcs11proxyd.conf"]);
    let outcome = run(users, LONG);
    assert!(outcome.status.success(), "{}", outcome.stderr);
    let passwd = root.read("etc/passwd");
    let entry = passwd
        .lines()
        .find(|line| line.starts_with("pkcs11proxyd:"));
    let entry: Vec<&str> = entry.expect("the user").split(':').collect();
    assert_eq!(entry[5], "/var/lib/pkcs11proxyd");
    assert!(entry[6].ends_with("nologin"), "{entry:?}");
    assert!(root.read("etc/group").contains("pkcs11proxyd:x:"));

    let mut directories = command("systemd-tmpfiles");
    directories.args([option.as_str(), "--create", "pkcs11proxyd.conf"]);
    let outcome = run(directories, LONG);
    assert!(outcome.status.success(), "{}", outcome.stderr);
    let user: u32 = entry[2].parse().expect("a number");
    for (name, mode, owner) in [
        ("run/pkcs11proxyd", 0o755, 0),
        ("var/lib/pkcs11proxyd", 0o750, user),
    ] {
        use std::os::unix::fs::MetadataExt;
        let metadata = root.path(name).metadata().expect("a directory");
        assert_eq!(
            (metadata.mode() & 0o7777, metadata.uid()),
            (mode, owner),
            "{name}"
        );
    }
}

/// The program is there, so that systemd says nothing about it.
#[test]
fn systemd_understands_the_installed_units() {
    if !is_there("systemd-analyze") {
        return;
    }
    let directory = Directory::new();
    let built = built();
    let prefix = directory.path().to_str().expect("our own path");
    let modules = format!("{prefix}/modules");
    let variables = [("PREFIX", prefix), ("P11_KIT", &modules)];
    let outcome = make_of(built.path(), "install-files", &variables);
    assert!(outcome.status.success(), "{}", outcome.stderr);
    for unit in [
        "pkcs11proxyd.service",
        "pkcs11proxyd-unprivileged.service",
        "pkcs11proxyd.socket",
    ] {
        let mut analyze = command("systemd-analyze");
        analyze.args(["verify", "--man=no"]);
        analyze.arg(format!("{prefix}/lib/systemd/system/{unit}"));
        let outcome = run(analyze, LONG);
        assert!(outcome.status.success(), "{unit}: {}", outcome.stderr);
        let ours = outcome
            .stderr
            .lines()
            .filter(|line| line.contains("pkcs11proxyd"));
        assert_eq!(ours.collect::<Vec<_>>(), [""; 0]);
    }
}

#[test]
fn shellcheck_has_nothing_to_say() {
    if !is_there("shellcheck") {
        return;
    }
    let mut command = command("shellcheck");
    command.arg("--severity=warning");
    command.args([
        "client/built-in.sh",
        "etc/install.sh",
        "etc/pkcs11proxyd.init",
    ]);
    let outcome = run(command, LONG);
    assert!(outcome.status.success(), "{}", outcome.stdout);
}
