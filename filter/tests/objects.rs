//! Tests objects by label and identifier, searches and lists of mechanisms: what the client gets, and how many calls
//! the module gets.

mod support;

use support::{
    BAD, Fake, GOOD, Guarded, LONG, NAMELESS, NO_SESSION, NONE, SESSION, query, sample, template,
};
use xdr::{
    Call, CkRv, Function, MechanismListResult, ObjectHandle, Query, Reply, Room, SessionHandle,
    SlotId, Template,
};

const LABELS: &str = "allowed_labels = [(\".*\", [\"good.*\"])]";
const IDS: &str = "allowed_ids = [(\".*\", [\"0aff\"])]";
const READ: Function = Function::C_GetAttributeValue;

fn both() -> String {
    format!("{LABELS}\n{IDS}")
}

fn destroy(guarded: &Guarded, object: ObjectHandle) -> (CkRv, Vec<Function>) {
    let (reply, asked) = guarded.watch(Call::C_DestroyObject(SESSION, object));
    (reply.rv(), asked)
}

#[test]
fn an_object_costs_one_call_and_a_long_label_two() {
    let done = Function::C_DestroyObject;
    for rules in [LABELS, IDS, &both()] {
        let guarded = Guarded::new(rules);
        assert_eq!(
            destroy(&guarded, GOOD),
            (CkRv::OK, vec![READ, done]),
            "{rules}"
        );
        assert_eq!(
            destroy(&guarded, BAD),
            (CkRv::OBJECT_HANDLE_INVALID, vec![READ])
        );
        assert_eq!(
            destroy(&guarded, NAMELESS),
            (CkRv::OBJECT_HANDLE_INVALID, vec![READ])
        );
        assert_eq!(
            destroy(&guarded, NONE),
            (CkRv::OBJECT_HANDLE_INVALID, vec![READ])
        );
    }
    assert_eq!(
        destroy(&Guarded::new(LABELS), LONG),
        (CkRv::OK, vec![READ, READ, done])
    );
    assert_eq!(
        destroy(&Guarded::new(&both()), LONG),
        (CkRv::OK, vec![READ, READ, done])
    );
    assert_eq!(
        destroy(&Guarded::new(IDS), LONG),
        (CkRv::OK, vec![READ, done])
    );
}

#[test]
fn rules_for_other_modules_cost_nothing() {
    for rules in [
        LABELS,
        IDS,
        "forbidden_functions = [(\".*\", [C_DestroyObject])]",
    ] {
        let rules = rules.replace("\".*\"", "n").replace('\n', " ");
        let text = format!("modules = [(m, \"/m.so\"), (n, \"/n.so\")] {rules}");
        let parsed = filter::Rules::parse(
            text.as_bytes(),
            std::path::Path::new("filter.conf"),
            &filter::Compatibility::default(),
        );
        let rules = std::sync::Arc::new(parsed.unwrap());
        let module = std::sync::Arc::new(Fake::default());
        let shared = support::Shared(module.clone());
        let filter = filter::Filter::new(&rules, b"m", rules.module(b"m").unwrap(), shared);
        let reply = xdr::Cryptoki::call(&filter, Call::C_DestroyObject(SESSION, NAMELESS));
        assert!(reply.rv().is_ok());
        assert_eq!(module.functions(), [Function::C_DestroyObject]);
    }
}

#[test]
fn an_invalid_session_is_told_as_such() {
    let guarded = Guarded::new(LABELS);
    for call in [
        Call::C_DestroyObject(NO_SESSION, GOOD),
        Call::C_GetAttributeValue(NO_SESSION, GOOD, Some(Query::default())),
        Call::C_EncryptInit(NO_SESSION, support::mechanism(1), GOOD),
        Call::C_WrapKey(
            NO_SESSION,
            support::mechanism(1),
            GOOD,
            GOOD,
            Room::QUESTION,
        ),
        Call::C_FindObjects(NO_SESSION, Room::Buffer(1)),
    ] {
        let (reply, _) = guarded.watch(call);
        assert_eq!(reply.rv(), CkRv::SESSION_HANDLE_INVALID, "{reply:?}");
    }
}

#[test]
fn whether_a_hidden_object_exists_cannot_be_asked() {
    let guarded = Guarded::new(LABELS);
    let ask = |object| {
        let wanted = query(&[(0x11, 16), (0x8000_0000, 0)]);
        guarded.watch(Call::C_GetAttributeValue(SESSION, object, wanted))
    };
    let none = ask(NONE);
    assert_eq!(
        (none.0.rv(), none.1.as_slice()),
        (CkRv::OBJECT_HANDLE_INVALID, [READ].as_slice())
    );
    assert!(ask(BAD) == none && ask(NAMELESS) == none);
    assert_eq!(ask(GOOD).1, [READ, READ]);
}

#[test]
fn an_empty_list_allows_nothing_and_lists_add_up() {
    let empty = Guarded::new("allowed_labels = [(\".*\", [])]");
    assert_eq!(destroy(&empty, GOOD).0, CkRv::OBJECT_HANDLE_INVALID);
    let two = Guarded::new("allowed_labels = [(m, [x]), (\".*\", [y, good])]");
    assert_eq!(destroy(&two, GOOD).0, CkRv::OK);
    assert_eq!(destroy(&two, BAD).0, CkRv::OBJECT_HANDLE_INVALID);
    let upper = Guarded::new("allowed_ids = [(m, [\"0AFF\"])]");
    assert_eq!(destroy(&upper, GOOD).0, CkRv::OBJECT_HANDLE_INVALID);
}

fn module(found: &[ObjectHandle]) -> Fake {
    Fake {
        found: found.to_vec().into(),
        ..Fake::default()
    }
}

fn find(guarded: &Guarded, session: SessionHandle, count: u64) -> Result<Vec<u64>, CkRv> {
    match guarded.call(Call::C_FindObjects(session, Room::Buffer(count))) {
        Reply::C_FindObjects(found) if found.rv.is_ok() => {
            assert_eq!(found.count.0, found.objects.len() as u64);
            Ok(found.objects.iter().map(|object| object.0).collect())
        }
        other => {
            assert!(other == Reply::only(Function::C_FindObjects, other.rv()));
            Err(other.rv())
        }
    }
}

#[test]
fn a_search_finds_what_may_be_used() {
    let objects = [BAD, GOOD, NAMELESS, LONG, NONE, GOOD];
    let guarded = Guarded::with(LABELS, "", module(&objects));
    assert_eq!(
        find(&guarded, SESSION, 9),
        Err(CkRv::OPERATION_NOT_INITIALIZED)
    );
    guarded.call(sample(Function::C_FindObjectsInit));
    assert_eq!(find(&guarded, SESSION, 0), Ok(vec![]));
    assert_eq!(find(&guarded, SESSION, 1), Ok(vec![GOOD.0]));
    assert_eq!(
        find(&guarded, SessionHandle(2), 9),
        Err(CkRv::OPERATION_NOT_INITIALIZED)
    );
    assert_eq!(find(&guarded, SESSION, u64::MAX), Ok(vec![LONG.0, GOOD.0]));
    assert_eq!(find(&guarded, SESSION, 1), Ok(vec![]));
}

#[test]
fn a_search_ends_with_its_session() {
    for end in [
        Call::C_FindObjectsFinal(SESSION),
        Call::C_CloseSession(SESSION),
        Call::C_Finalize(),
    ] {
        let guarded = Guarded::with(LABELS, "", module(&[GOOD, GOOD]));
        guarded.call(sample(Function::C_FindObjectsInit));
        assert_eq!(find(&guarded, SESSION, 1), Ok(vec![GOOD.0]));
        guarded.call(end);
        assert_eq!(
            find(&guarded, SESSION, 1),
            Err(CkRv::OPERATION_NOT_INITIALIZED)
        );
    }
    // Searches in sessions of another slot go on.
    let guarded = Guarded::with(LABELS, "", module(&[GOOD, GOOD]));
    for session in [SESSION, NO_SESSION] {
        guarded.call(Call::C_FindObjectsInit(session, Some(Template::default())));
    }
    guarded.call(Call::C_CloseAllSessions(SlotId(0)));
    assert_eq!(find(&guarded, SESSION, 1), Ok(vec![GOOD.0]));
    assert_eq!(
        find(&guarded, NO_SESSION, 1),
        Err(CkRv::SESSION_HANDLE_INVALID)
    );
}

#[test]
fn a_search_without_rules_for_objects_is_the_modules_own() {
    let rule = "forbidden_functions = [(\".*\", [C_Login])]";
    let guarded = Guarded::with(rule, "", module(&[BAD]));
    assert_eq!(find(&guarded, SESSION, 5), Ok(vec![BAD.0]));
    assert!(
        guarded.module.calls.lock().unwrap().as_slice()
            == [Call::C_FindObjects(SESSION, Room::Buffer(5))]
    );
}

fn mechanisms(guarded: &Guarded, count: u64) -> (CkRv, Vec<u64>, u64) {
    let room = match count {
        0 => Room::QUESTION,
        count => Room::Buffer(count),
    };
    match guarded.call(Call::C_GetMechanismList(SlotId(0), room)) {
        Reply::C_GetMechanismList(MechanismListResult {
            rv,
            mechanisms,
            count,
        }) => (
            rv,
            mechanisms.iter().map(|mechanism| mechanism.0).collect(),
            count.0,
        ),
        _ => panic!("another reply"),
    }
}

#[test]
fn the_list_of_mechanisms_is_told_as_if_it_were_the_modules() {
    let module = || Fake {
        mechanisms: vec![9, 3, 1, 0x80000001, 7],
        ..Fake::default()
    };
    let rule = "forbidden_mechanisms = [(\".*\", [CKM_RSA_X_509, \"0x80000001\"])]";
    let guarded = Guarded::with(rule, "", module());
    assert_eq!(mechanisms(&guarded, 0), (CkRv::OK, vec![], 3));
    for count in [1, 2] {
        assert_eq!(
            mechanisms(&guarded, count),
            (CkRv::BUFFER_TOO_SMALL, vec![], 3)
        );
    }
    for count in [3, 5, u64::MAX] {
        assert_eq!(mechanisms(&guarded, count), (CkRv::OK, vec![9, 1, 7], 3));
    }
    let none = "forbidden_mechanisms = [(\".*\", [9, 3, 1, \"0x80000001\", 7])]";
    assert_eq!(
        mechanisms(&Guarded::with(none, "", module()), 0),
        (CkRv::OK, vec![], 0)
    );
    let other = Guarded::with("forbidden_functions = [(m, [C_Login])]", "", module());
    assert_eq!(mechanisms(&other, 2), (CkRv::BUFFER_TOO_SMALL, vec![], 5));
}

#[test]
fn templates_are_put_into_their_one_form_only_where_rules_apply() {
    const WRAP: u64 = 0x106;
    let odd = || template(&[(WRAP, &[2])]);
    let twice = || template(&[(WRAP, &[1]), (WRAP, &[0])]);
    let long = || template(&[(WRAP, &[1, 0])]);
    let plain = Guarded::new("");
    for template in [odd(), twice(), long()] {
        let call = || Call::C_CreateObject(SESSION, template.clone());
        assert!(plain.call(call()).rv().is_ok());
        assert!(plain.module.calls.lock().unwrap().last() == Some(&call()));
    }
    let ruled = Guarded::new("forbidden_functions = [(m, [C_Login])]");
    assert!(
        ruled
            .call(Call::C_CreateObject(SESSION, odd()))
            .rv()
            .is_ok()
    );
    let normal = Call::C_CreateObject(SESSION, template(&[(WRAP, &[1])]));
    assert!(ruled.module.calls.lock().unwrap().last() == Some(&normal));
    for (template, rv) in [
        (twice(), CkRv::TEMPLATE_INCONSISTENT),
        (long(), CkRv::ATTRIBUTE_VALUE_INVALID),
    ] {
        let call = Call::C_CreateObject(SESSION, template.clone());
        assert!(ruled.call(call) == Reply::only(Function::C_CreateObject, rv));
        // A template that selects objects, or that asks for attributes, passes unchanged.
        for call in [
            Call::C_FindObjectsInit(SESSION, template.clone()),
            Call::C_GetAttributeValue(SESSION, GOOD, query(&[(WRAP, 1), (WRAP, 1)])),
        ] {
            ruled.call(call.clone());
            assert!(ruled.module.calls.lock().unwrap().last() == Some(&call));
        }
    }
}
