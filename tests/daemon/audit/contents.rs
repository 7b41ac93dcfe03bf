//! What the lines of calls say: who, what, on which object, how it ended, and the rule that refused it.

use super::*;

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

#[test]
fn each_line_names_the_clients_profile_also_from_an_auditor_that_was_started_again() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.processor = "profile { name = \"one \\\"x\"; network = \"127.0.0.2\" };
        profile { name = \"two\"; network = \"127.0.0.3\" };"
        .into();
    let mut audited = Audited::start(setup, "");
    let addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
    let mut clients = addresses.map(|address| crate::profiles::ready(&audited.daemon, address));
    let profiles = |function: &str| {
        let calls = audited.calls(function);
        addresses.map(|address| {
            let is_its =
                |line: &&Value| line["peer"].as_str().is_some_and(|it| it.contains(address));
            let line = calls.iter().find(is_its).expect("a line");
            line["profile"].as_str().map(str::to_owned)
        })
    };
    let expected = [Some("one \"x".to_owned()), Some("two".to_owned()), None];
    assert!(audited.has("C_OpenSession", 3));
    assert_eq!(profiles("C_LoadModule"), expected);
    assert_eq!(profiles("C_OpenSession"), expected);
    let auditor = audited.auditor();
    auditor.signal(Signal::SIGKILL);
    let goes_on = wait_until(PATIENCE, || {
        audited
            .present_auditor()
            .is_some_and(|other| other != auditor)
    });
    assert!(goes_on);
    for client in &mut clients {
        let is_executed = || client.call(Call::C_GetInfo()).rv().is_ok();
        assert!(wait_until(PATIENCE, is_executed));
    }
    drop(clients);
    assert!(audited.has("C_GetInfo", 3));
    assert_eq!(profiles("C_GetInfo"), expected);
    audited.end(&["audit.log"]);
}

#[test]
fn a_call_that_a_limit_refuses_names_the_limit() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.processor = "max_failed_logins = 2; profile { name = \"p\"; network = \"127.0.0.0/8\";
        modules = \"null\"; max_sessions = 1; max_signatures_per_day = 1 };"
        .into();
    setup.modules.push(("other".into(), module("nullmodule")));
    let wrong = CkRv::PIN_INCORRECT.0;
    let fails = format!("C_Login:{wrong}");
    setup.environment.push(("NULLMODULE_FAIL".into(), fails));
    let mut audited = Audited::start(setup, "");
    let mut other = Client::new(&audited.daemon);
    other.call(Call::C_SetupArch(Architecture::host()));
    assert!(!other.call(Call::C_LoadModule(b"other")).rv().is_ok());
    assert!(!other.call(Call::C_LoadModule(b"none")).rv().is_ok());
    let mut client = ready4(&audited.daemon);
    let opened = client.call(Call4::C_OpenSession(SlotId(0), Flags(6), false));
    assert_eq!(opened.rv(), CkRv::SESSION_COUNT);
    assert_eq!(sign(&mut client), CkRv::OK);
    assert_eq!(sign(&mut client), CkRv::FUNCTION_REJECTED);
    let mut login = |pin: &[u8]| {
        let call = Call4::C_Login(SESSION, UserType(1), Input::Bytes(pin));
        client.call(call).rv()
    };
    let guesses = [b"pin 1", b"pin 2", b"pin 3"].map(|pin| login(pin));
    let wrong = CkRv::PIN_INCORRECT;
    assert_eq!(guesses, [wrong, wrong, CkRv::PIN_LOCKED]);
    drop((client, other));
    audited.end(&["audit.log"]);
    let refused = |function: &str| -> Vec<Value> {
        let calls = audited.calls(function).into_iter();
        calls.map(|call| call["refused"].clone()).collect()
    };
    let by = |limit: &str| serde_json::json!({ "limit": limit });
    let none = Value::Null;
    assert_eq!(
        refused("C_Login"),
        [none.clone(), none.clone(), by("max_failed_logins")]
    );
    assert_eq!(refused("C_OpenSession"), [none.clone(), by("max_sessions")]);
    let signing = [none.clone(), by("max_signatures_per_day")];
    assert_eq!(refused("C_SignInit"), signing);
    // Of two clients: the auditor may write the lines of either first.
    let mut loads = refused("C_LoadModule");
    loads.sort_by_key(Value::is_null);
    assert_eq!(loads, [by("modules"), none.clone(), none]);
    assert!(
        !std::fs::read_to_string(audited.file())
            .expect("a log")
            .contains("pin 1")
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyctl"));
    let lines = audited.lines();
    let refused = lines.iter().rposition(|line| line["function"] == "C_Login");
    let number = (refused.expect("a call") + 1).to_string();
    command
        .current_dir(audited.directory.path())
        .args(["explain", "-conf"])
        .arg(audited.daemon.directory().join("pkcs11proxyd.conf"))
        .args([&number, "audit.log"]);
    let explained = run(command, PATIENCE).stdout;
    let expected = "then it was refused with CKR_PIN_LOCKED by max_failed_logins of ";
    assert!(explained.contains(expected), "{explained}");
}
