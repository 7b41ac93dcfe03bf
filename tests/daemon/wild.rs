//! Tests configuration files like those of sites that run Caml Crush: what works unchanged, and what `-check` says
//! about the rest.
//!
//! The files are made up, with the features of published ones.

use crate::*;

/// As of Caml Crush that is built without its filter.
#[test]
fn libnames_serve_their_modules_without_a_filter() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.filtered = false;
    setup.modules = vec![
        ("soft".into(), "/nonexistent/first.so".into()),
        (String::new(), module("nullmodule")),
        ("null.so".into(), module("nullmodule")),
        ("soft".into(), module("nullmodule")),
    ];
    let daemon = setup.start();
    let no_filter = |log: &str| {
        log.matches("libnames: there is no filter: every call")
            .count()
    };
    assert!(
        wait_until(PATIENCE, || no_filter(&daemon.log()) == 1),
        "{}",
        daemon.log()
    );
    let log = daemon.log();
    let repeated = "libnames: the last module `soft` counts, the others are never used";
    assert!(log.contains(repeated), "{log}");
    for name in [&b""[..], b"null.so", b"soft"] {
        let mut client = Client::ready_for(&daemon, name, SlotId(0));
        assert!(client.call(Call::C_GetInfo()).rv().is_ok());
    }
    // A part of a name, and a pattern, found one in the original.
    for name in [&b"so"[..], b"oft", b".*", b"nullxso", b"none"] {
        let mut client = Client::new(&daemon);
        let loaded = client.call(Call::C_LoadModule(name));
        assert_eq!(loaded.rv(), CkRv::GENERAL_ERROR, "{}", name.escape_ascii());
    }
    daemon.process().signal(Signal::SIGHUP);
    assert!(
        wait_until(PATIENCE, || no_filter(&daemon.log()) == 2),
        "{}",
        daemon.log()
    );
    Client::ready_for(&daemon, b"soft", SlotId(0));
}

#[test]
fn check_says_that_libnames_have_no_filter_and_what_to_write_instead() {
    let directory = Directory::new();
    let null = module("nullmodule");
    let check = |rules: &str| {
        let address = format!(
            "type = \"local\"; path = \"{}\"",
            directory.join("s").display()
        );
        let conf = configuration(&address, "use_ssl = false");
        let conf = conf.replace("filter_config = \"filter.conf\";", rules);
        let output = refused(&directory, &conf, &["-check"]);
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let told = text(output.stdout) + &text(output.stderr);
        let folder = format!("{}/", directory.path().display());
        (output.status.code(), told.replace(&folder, ""))
    };
    let good = format!("libnames = \"a:{};\";", null.display());
    let (status, told) = check(&good);
    // What workers give up differs between systems.
    let lines = told.split_inclusive('\n');
    let told: String = lines
        .filter(|line| !line.starts_with("  sandbox: "))
        .collect();
    let option = "netplex.service[0].processor.libnames";
    let expected = format!(
        "warning: d.conf:2: {option}: there is no filter: every call of a client reaches the module
service s: d.conf
  d.conf:2: libnames: 'a' -> '{}'
    no rule: all calls pass
",
        null.display()
    );
    assert_eq!((status, told), (Some(0), expected));
    for (rules, expected) in [
        (
            "libnames = \"a:/nonexistent;\";".to_owned(),
            "d.conf:2: libnames: /nonexistent: cannot be read".to_owned(),
        ),
        (
            "libnames = \"/usr/lib/p11.so\";".to_owned(),
            format!("d.conf:2: {option}: `/usr/lib/p11.so` has no name with a colon in front: write libnames ="),
        ),
        (
            format!("filter_config = \"/nonexistent/filter.conf\"; {good}"),
            "d.conf:2: netplex.service[0].processor.filter_config: there is no such file; to serve the modules \
             of libnames without a filter, as Caml Crush does if it is built without its filter, remove this line"
                .to_owned(),
        ),
        (
            String::new(),
            "d.conf:2: netplex.service[0].processor: `filter_config` is missing: write filter_config = ".to_owned(),
        ),
        (
            format!("{good} module {{ alias = \"b\" }};"),
            "d.conf has no module of this name".to_owned(),
        ),
    ] {
        let (status, told) = check(&rules);
        assert_eq!(status, Some(2), "{rules}");
        assert!(told.contains(&expected), "{told}");
    }
}

/// The features of the file of Caml Crush 1.0.0: `log_subchannel` twice. What decides stays an error.
#[test]
fn a_filter_file_of_the_first_releases_starts() {
    let token = Token::new();
    let filter = "log_subchannel = filter\nlog_subchannel = ad\ndebug = 1\n\
                  forbidden_mechanisms = [(\"nul.*\", [CKM_SHA384_RSA_PKCS])]\n";
    let mut setup = setup(&token);
    setup.filter = filter.into();
    let daemon = setup.start();
    Client::ready(&daemon);
    let log = daemon.log();
    let expected =
        "filter.conf:3: log_subchannel: ignored: already given in line 2; remove one of them";
    assert!(log.contains(expected), "{log}");
    // The first counts, as a worker says.
    let is_said = || daemon.log().contains("\u{20}   filter\n");
    assert!(wait_until(PATIENCE, is_said), "{}", daemon.log());

    let directory = with_rules();
    let file = directory.join("filter.conf");
    let text = std::fs::read_to_string(&file).expect("a file");
    let twice = "forbidden_functions = [(null, [C_Sign])]\n".repeat(2);
    std::fs::write(&file, text + &twice).expect("a file");
    let conf = configuration("type = \"internet\"; bind = \"127.0.0.1:0\"", "");
    let output = refused(&directory, &conf, &["-fg"]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    let expected =
        "filter.conf:3: forbidden_functions: already given in line 2; write all of it there";
    assert!(told.contains(expected), "{told}");
}

/// The null module's file with other bytes at some place.
fn changed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = std::fs::read(module("nullmodule")).expect("a library");
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

fn place_of(needle: &[u8]) -> usize {
    let file = std::fs::read(module("nullmodule")).expect("a library");
    let mut windows = file.windows(needle.len());
    windows
        .position(|window| window == needle)
        .expect("it is there")
}

/// What the file tells, and that the loader agrees.
#[test]
fn check_tells_modules_that_cannot_be_loaded_without_running_them() {
    let directory = Directory::new();
    let whole = changed(0, b"\x7f");
    let program = std::fs::read(env!("CARGO_BIN_EXE_pkcs11proxyd")).expect("a program");
    let entry = place_of(b"\0C_GetFunctionList\0");
    let text = b"#!/bin/sh\necho a module\n# as long as the first part of a header\n".to_vec();
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("empty", Vec::new(), "is empty: expected a shared library"),
        ("text", text, "is no shared library: it is no ELF file"),
        (
            "short",
            b"\x7fELF\x02".to_vec(),
            "is no shared library: it is no ELF file",
        ),
        (
            "class",
            changed(4, &[1]),
            "is a library of 32 bits, and this daemon has 64",
        ),
        (
            "order",
            changed(5, &[2]),
            "is for machines with the other byte order",
        ),
        (
            "machine",
            changed(18, &22_u16.to_ne_bytes()),
            "is for s390, and this daemon is for ",
        ),
        (
            "type",
            changed(16, &1_u16.to_ne_bytes()),
            "is no shared library, but a program or an object file",
        ),
        ("program", program, "is no shared library, but a program"),
        (
            "cut",
            whole[..whole.len() / 4].to_vec(),
            "is cut off: at least ",
        ),
        (
            "other",
            changed(entry, b"\0C_GetFunctionLost\0"),
            "does not export C_GetFunctionList",
        ),
        ("whole", whole, ""),
    ];
    let mut setup = setup(&Token::new());
    setup.modules.clear();
    for (name, content, _) in cases {
        let path = directory.join(name);
        std::fs::write(&path, content).expect("a file");
        setup.modules.push(((*name).into(), path));
    }
    let daemon = setup.start();
    for (name, _, expected) in cases {
        let mut client = Client::new(&daemon);
        client.call(Call::C_SetupArch(Architecture::host()));
        let call = Call::C_LoadModule(name.as_bytes());
        client.send(&encoded(&call));
        // The loader dies of a file that is cut off.
        let reply = client.record().map(|record| {
            let reply = rpc::read_reply::<Call<'_>>(Xid(7), call.function(), &record);
            reply.expect("its xid").expect("a result")
        });
        let loaded = reply.is_some_and(|reply| reply.rv().is_ok());
        assert_eq!(loaded, expected.is_empty(), "{name}");
        let path = directory.join(name);
        let line = format!("filter.conf:1: modules: {}: {expected}", path.display());
        let told = daemon.log().contains(&line);
        assert_eq!(told, !expected.is_empty(), "{name}: {}", daemon.log());
    }

    let check = |name: &str| {
        let path = directory.join(name);
        let rules = format!("modules = [(a, \"{}\")]", path.display());
        std::fs::write(directory.join("filter.conf"), rules).expect("a file");
        let conf = configuration("type = \"internet\"; bind = \"127.0.0.1:0\"", "");
        let output = refused(&directory, &conf, &["-check"]);
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (status, _, errors) = check("machine");
    assert_eq!(status, Some(2));
    assert!(errors.contains("is for s390"), "{errors}");
    // Another library may have the function: this is no more than likely wrong.
    let (status, output, errors) = check("other");
    assert_eq!((status, errors.as_str()), (Some(0), ""));
    assert!(
        output.starts_with("warning: ") && output.contains("does not export"),
        "{output}"
    );
    assert_eq!(check("whole").0, Some(0));
}

#[test]
fn check_tells_a_module_that_the_user_who_serves_cannot_read() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can start a daemon that serves as another user");
        return;
    }
    let directory = Directory::new();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).expect("ours");
    let library = directory.join("module.so");
    std::fs::copy(module("nullmodule"), &library).expect("a copy");
    let rules = format!("modules = [(a, \"{}\")]", library.display());
    std::fs::write(directory.join("filter.conf"), rules).expect("a file");
    let conf = configuration("type = \"internet\"; bind = \"127.0.0.1:0\"", "");
    let conf = conf.replace("name = \"s\";", "name = \"s\"; user = \"nobody\";");
    for (mode, status) in [(0o644, Some(0)), (0o600, Some(2))] {
        std::fs::set_permissions(&library, PermissionsExt::from_mode(mode)).expect("ours");
        let output = refused(&directory, &conf, &["-check"]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), status, "{errors}");
        let told = "module.so: cannot be read by the user nobody: Permission denied";
        assert_eq!(errors.contains(told), status != Some(0), "{errors}");
    }
}

/// Features of published filter files that are refused, with what to write instead.
#[test]
fn check_says_what_to_write_in_a_filter_file_that_is_refused() {
    let directory = Directory::new();
    let null = module("nullmodule");
    let check = |text: &str| {
        let rules = format!("modules = [(\"\", \"{}\")]\n{text}", null.display());
        std::fs::write(directory.join("filter.conf"), rules).expect("a file");
        let conf = configuration("type = \"internet\"; bind = \"127.0.0.1:0\"", "");
        let output = refused(&directory, &conf, &["-check"]);
        let errors = String::from_utf8(output.stderr).expect("UTF-8");
        (output.status.code(), errors)
    };
    let action = |name: &str| format!("filter_actions_post = [(\".*\",\n[(C_WrapKey, {name})])]");
    for (text, expected) in [
        (
            action("wrapping_format_patch"),
            "3: wrapping_format_key: expected 32 hexadecimal digits: write wrapping_format_key = \"...\" with \
             what `openssl rand -hex 16` prints; the action wrapping_format_patch in this line needs the key",
        ),
        (
            action("site_usage_patch"),
            "3: filter_actions_post[0][1][0][1]: unknown action `site_usage_patch`; one that a site has added \
             to Caml Crush does not exist here: remove the couple",
        ),
        (
            action("sticky_attribute_patch"),
            "3: filter_actions_post[0][1][0][1]: unknown action `sticky_attribute_patch`; did you mean \
             `sticky_attributes_patch`?",
        ),
        (
            "forbiddden_functions = [(\".*\", [C_Login])]".into(),
            "2: forbiddden_functions: unknown option; did you mean `forbidden_functions`?",
        ),
        (
            "filter_actions = [(\".*\", [(C_Login, identity)])]".into(),
            "2: filter_actions: unknown option; did you mean `filter_actions_pre` or `filter_actions_post`?",
        ),
        (
            "log_subchanel = x".into(),
            "2: log_subchanel: unknown option; did you mean `log_subchannel`?",
        ),
        (
            "forbidden_functions = [(\".*\", [C_Wrap])]".into(),
            "2: forbidden_functions[0][1][0]: unknown function `C_Wrap`; did you mean `C_WrapKey` or ",
        ),
        (
            "debug = 0;\nforbidden_functions = [(\".*\", [C_Login])]".into(),
            "2: expected the name of an option, found `;`: remove it, because options need no separator; \
             Caml Crush ignores everything after it",
        ),
        (
            "filter_actions_post = []\nfilter_actions_post = []".into(),
            "3: filter_actions_post: already given in line 2; write all of it there, and remove this one, which \
             Caml Crush ignores",
        ),
    ] {
        let (status, errors) = check(&text);
        assert_eq!(status, Some(2), "{text}");
        assert!(
            errors.contains(&format!("filter.conf:{expected}")),
            "{errors}"
        );
    }
    assert_eq!(check("debug = 0"), (Some(0), String::new()));
    let rules = "modules = [(softhsm, \"/usr/lib/softhsm/libsofthsm.so\")]";
    std::fs::write(directory.join("filter.conf"), rules).expect("a file");
    let conf = configuration("type = \"internet\"; bind = \"127.0.0.1:0\"", "");
    let output = refused(&directory, &conf, &["-check"]);
    let told = "libsofthsm.so: cannot be read: No such file or directory (os error 2); write \
                \"/usr/lib/softhsm/libsofthsm2.so\" for SoftHSM 2";
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains(told), "{errors}");
}

/// The same for the daemon's configuration.
#[test]
fn check_says_what_to_write_in_a_configuration_that_is_refused() {
    let directory = with_rules();
    let file = support::certificates::certificate;
    let older = format!(
        "cafile = \"{}\"; certfile = \"{}\"; certkey = \"{}\";",
        file("ca.pem"),
        file("server.pem"),
        file("server.key")
    );
    let newer = format!(
        "x509 {{ key {{ crt_file = \"{}\"; key_file = \"{}\" }}; trust {{ crt_file = \"{}\" }} }}; peer_auth = \"required\"",
        file("server.pem"),
        file("server.key"),
        file("ca.pem")
    );
    let processor = "d.conf:2: netplex.service[0].processor";
    for (option, status, expected) in [
        (
            "use_ssl = true".to_owned(),
            2,
            format!(
                "{processor}.use_ssl: expected a section `tls` as well: write tls {{ x509 {{ key {{"
            ),
        ),
        (
            format!("tls {{ {newer} }}"),
            0,
            format!(
                "warning: {processor}.tls: has no effect without use_ssl = true: clients are served without TLS"
            ),
        ),
        (
            format!("use_ssl = true; {older} cipher_suite = \"AES256-SHA256\""),
            2,
            format!(
                "{processor}.cipher_suite: selects no suite with forward secrecy and RSA or ECDSA: write \
                     cipher_suite = \"HIGH\", or remove this line"
            ),
        ),
        (
            format!("use_ssl = true; {older} cipher_suite = \"DHE-RSA-AES128-SHA:!eNull:!aNull\""),
            0,
            "service s".to_owned(),
        ),
        (
            format!(
                "use_ssl = true; tls {{ algorithms = \"NORMAL:-VERS-TLS-ALL:+VERS-TLS1.0\"; {newer} }}"
            ),
            2,
            format!(
                "{processor}.tls.algorithms: selects no suite of TLS 1.2 or TLS 1.3: write algorithms = \"NORMAL\""
            ),
        ),
        (
            "portmapper = true".to_owned(),
            2,
            format!("{processor}.portmapper: expected false"),
        ),
    ] {
        let conf = configuration("type = \"internet\"; bind = \"127.0.0.1:0\"", &option);
        let output = refused(&directory, &conf, &["-check"]);
        assert_eq!(output.status.code(), Some(status), "{option}");
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
            .replace(&format!("{}/", directory.path().display()), "");
        assert!(told.contains(&expected), "{option}: {told}");
    }
}
