//! Tests what the filter logs, level by level. There is one test, because a process has one log.

mod support;

use std::sync::Mutex;

use support::parameters::Arena;
use support::{BAD, Fake, GOOD, Guarded, SESSION, template};
use xdr::{
    Attribute, AttributeType, Call, Function, MechanismType, Room, SlotId, Template, Use, UserType,
    Value,
};

struct Lines(Mutex<Vec<String>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// Returns the lines logged since the last call, without the process id.
fn lines() -> Vec<String> {
    let prefix = format!("[PKCS#11 FILTER pid {}] ", std::process::id());
    let lines = std::mem::take(&mut *LINES.0.lock().unwrap());
    let own = |line: &String| {
        line.strip_prefix(&prefix)
            .expect("the filter's prefix")
            .to_owned()
    };
    lines.iter().map(own).collect()
}

fn logged(guarded: &Guarded, call: Call<'_>) -> Vec<String> {
    lines();
    guarded.call(call);
    lines()
}

#[test]
fn says_what_it_does_and_which_line_of_the_file_it_comes_from() {
    log::set_logger(&LINES).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let rules = "allowed_labels = [(m, [good])]\nforbidden_mechanisms = [(m, [\nCKM_DES_ECB])]
        forbidden_functions = [(m, [C_Sign])] forbid_admin_operations = [(\".*\", yes)]
        filter_actions_post = [(m, [(C_GetInfo, identity)])]";
    let at = |level: i32| Guarded::new(&format!("debug = {level}\n{rules}"));

    let quiet = at(0);
    for call in [
        Call::C_Sign(SESSION, b"data".into(), Room::QUESTION),
        Call::C_DestroyObject(SESSION, BAD),
        Call::C_Login(SESSION, UserType(0), b"secret".into()),
    ] {
        assert_eq!(logged(&quiet, call), [""; 0]);
    }

    lines();
    let one = at(1);
    assert_eq!(
        lines(),
        ["[DEBUG_LEVEL 1/1] Aliasing requested 'm' -> '/m.so'"]
    );
    for (call, text, source) in [
        (
            Call::C_Sign(SESSION, b"secret".into(), Room::QUESTION),
            "C_Sign: the function is FILTERED with CKR_FUNCTION_NOT_SUPPORTED",
            "filter.conf:6: forbidden_functions",
        ),
        (
            Call::C_DestroyObject(SESSION, BAD),
            "C_DestroyObject: label 'bad' is FILTERED with CKR_OBJECT_HANDLE_INVALID",
            "filter.conf:3: allowed_labels",
        ),
        (
            Call::C_CreateObject(
                SESSION,
                template(&[(3, b"x\n[err]\x1b"), (0x11, b"secret")]),
            ),
            "C_CreateObject: label 'x\\x0a[err]\\x1b' is FILTERED with CKR_ATTRIBUTE_VALUE_INVALID",
            "filter.conf:3: allowed_labels",
        ),
        (
            Call::C_GetMechanismInfo(SlotId(0), MechanismType(0x121)),
            "C_GetMechanismInfo: mechanism 'cKM_DES_ECB' is FILTERED with CKR_MECHANISM_INVALID",
            "filter.conf:5: forbidden_mechanisms",
        ),
        (
            Call::C_Login(SESSION, UserType(0), b"secret".into()),
            "C_Login: login of user type 0 is FILTERED with CKR_USER_TYPE_INVALID",
            "filter.conf:6: forbid_admin_operations",
        ),
    ] {
        let expected = format!("[DEBUG_LEVEL 1/1] {text} for alias 'm' ({source})");
        assert_eq!(logged(&one, call), [expected]);
    }
    let parameters = Guarded::new(
        "debug = 1\nmechanism_parameters = [(m, [\n(CKM_AES_GCM, any, ulTagBits, \">=\", 96),
            (any, any, CKA_LABEL, \"!=\", \"0x73\")])]
        filter_actions_post = [(m, [(C_CreateObject, secure_templates_patch)])]",
    );
    let words = [0, 0, 0, 0, 0, 32];
    let gcm = Arena::default().mechanism(0x1087, &words, Use::Operation);
    let nested = Attribute {
        attribute_type: AttributeType(0x4000_0211),
        value: Value::Template(template(&[(3, b"s")]).unwrap()),
    };
    for (call, text, source) in [
        (
            Call::C_EncryptInit(SESSION, gcm, GOOD),
            "C_EncryptInit: the parameter of 'cKM_AES_GCM', which needs ulTagBits >= 96, is FILTERED with CKR_MECHANISM_PARAM_INVALID",
            "filter.conf:4: mechanism_parameters",
        ),
        (
            Call::C_SetAttributeValue(SESSION, GOOD, template(&[(3, b"s")])),
            "C_SetAttributeValue: a template, which needs CKA_LABEL != 0x73, is FILTERED with CKR_ATTRIBUTE_VALUE_INVALID",
            "filter.conf:5: mechanism_parameters",
        ),
        (
            Call::C_CreateObject(SESSION, Some(Template(vec![nested]))),
            "C_CreateObject: a template inside a template, which action 'secure_templates_patch' does not judge, is FILTERED with CKR_ATTRIBUTE_TYPE_INVALID",
            "filter.conf:6: filter_actions_post",
        ),
    ] {
        let expected = format!("[DEBUG_LEVEL 1/1] {text} for alias 'm' ({source})");
        assert_eq!(logged(&parameters, call), [expected]);
    }
    let used = logged(&one, Call::C_DestroyObject(SESSION, GOOD));
    assert_eq!(
        used,
        ["[DEBUG_LEVEL 1/1] C_DestroyObject: label 'good' is allowed for alias 'm'"]
    );
    let action = logged(&one, Call::C_GetInfo());
    assert_eq!(
        action[0],
        "[DEBUG_LEVEL 1/1] C_GetInfo: action 'identity' runs for alias 'm'"
    );

    let two = at(2);
    let info = Call::C_GetMechanismInfo(SlotId(0), MechanismType(1));
    let expected = "[DEBUG_LEVEL 2/2] C_GetMechanismInfo: mechanism 'cKM_RSA_PKCS' is not forbidden for alias 'm'";
    assert_eq!(logged(&two, info), [expected]);

    let plain = Guarded::with("debug = 3", "", Fake::default());
    assert_eq!(logged(&plain, support::sample(Function::C_Sign)), [""; 0]);
    the_start_of_a_worker();
}

fn the_start_of_a_worker() {
    let announced = |options: &str| {
        let text = format!("modules = [(m, \"/m.so\"), (\"n.*\", \"/n.so\")]\n{options}");
        let switches = filter::Compatibility::default();
        let rules = filter::Rules::parse(text.as_bytes(), std::path::Path::new("f"), &switches);
        lines();
        rules.unwrap().announce();
        lines()
    };
    assert_eq!(announced("debug = -1"), [""; 0]);
    let four = announced("debug = 1 log_subchannel = here");
    assert_eq!(four.len(), 4);
    assert!(
        four[1].starts_with("[DEBUG_LEVEL 0/0]") && four[1].ends_with(" here"),
        "{four:?}"
    );
    assert!(
        four[3].starts_with("[DEBUG_LEVEL 0/1]") && four[3].ends_with(" 1"),
        "{four:?}"
    );
    assert!(announced("")[1].ends_with(" Netplex log output"));
    let all = announced("debug = 3 forbidden_functions = [(\".*\", [C_Sign])]");
    assert!(
        all.iter()
            .any(|line| line.ends_with("'.*' (matches 'm', 'n.*'): [C_Sign]")),
        "{all:#?}"
    );
    assert_eq!(
        all.iter()
            .filter(|line| line.ends_with("----------------"))
            .count(),
        11
    );
}
