//! Tests the order of actions and checks around a call, and which objects searches show.

use super::*;
use crate::Compatibility;
use crate::actions::Action;
use crate::module_rules::Source;
use crate::patches::sensitive_leak_patch::names_a_value;
use std::path::Path;
use std::sync::Mutex;
use xdr::{Attribute, AttributeType, ObjectHandle, Room, SessionHandle, SlotId, Template};

const SESSION: SessionHandle = SessionHandle(1);

/// What happened, in order.
type Trace = Arc<Mutex<Vec<String>>>;

struct Module(Trace);

impl Cryptoki for Module {
    fn call(&self, call: Call<'_>) -> Reply {
        self.0
            .lock()
            .unwrap()
            .push(call.function().name().to_owned());
        let mut reply = Reply::only(call.function(), CkRv::OK);
        if let Reply::C_FindObjects(found) = &mut reply {
            if self
                .0
                .lock()
                .unwrap()
                .iter()
                .filter(|name| *name == "C_FindObjects")
                .count()
                == 1
            {
                found.objects = (1..=4).map(ObjectHandle).collect();
            }
        }
        reply
    }

    fn call_with_nulls(&self, call: Call<'_>, nulls: NullPlaces) -> Reply {
        if nulls != NullPlaces::NONE {
            self.0.lock().unwrap().push(format!("{nulls:?}"));
        }
        self.call(call)
    }
}

/// An action that decides with the reply of a function, and hides an object.
struct Decides {
    name: &'static str,
    by: Option<Function>,
    hides: u64,
    trace: Trace,
}

impl Action for Decides {
    fn judge(&self, _: &Call<'_>, context: &Context<'_>) -> Verdict {
        assert_eq!(context.module, b"m");
        self.trace.lock().unwrap().push(self.name.to_owned());
        let reply = |function| Reply::only(function, CkRv::PIN_LOCKED);
        match (self.by.map(reply), self.name) {
            (None, _) => Verdict::Continue,
            (Some(reply), "refuses") => Verdict::Refuse(reply),
            (Some(reply), _) => Verdict::Decide(reply),
        }
    }

    fn watches(&self, function: Function, template: &Template) -> bool {
        let is_read = function == Function::C_GetAttributeValue;
        function == Function::C_FindObjects || is_read && names_a_value(template)
    }

    fn hides(&self, _: SessionHandle, object: ObjectHandle, _: &Context<'_>) -> bool {
        object.0 == self.hides
    }
}

/// A module behind chains for one function. Each action has a name, and the function of the reply that it decides with.
fn filter(
    function: Function,
    rules: &str,
    pre: &[(&'static str, Option<Function>)],
    post: &[(&'static str, Option<Function>)],
) -> (Filter<Module>, Trace) {
    let text =
        format!("modules = [(m, n)] filter_actions_pre = [(m, [(C_GetInfo, identity)])] {rules}");
    let compatibility = Compatibility::default();
    let rules = Rules::parse(text.as_bytes(), Path::new("f"), &compatibility).unwrap();
    let trace = Trace::default();
    let module = Module(trace.clone());
    let entry = rules.modules[0].clone();
    let mut filter = Filter::new(&Arc::new(rules), b"m", &entry, module);
    let engine = filter.engine.as_mut().unwrap();
    let mut hides = 0;
    for (chain, steps) in [(&mut engine.rules.pre, pre), (&mut engine.rules.post, post)] {
        for (name, by) in steps {
            hides += 2;
            let source = Source {
                option: "filter_actions_pre",
                line: 1,
            };
            let trace = trace.clone();
            let action = Arc::new(Decides {
                name,
                by: *by,
                hides,
                trace,
            });
            chain.entry(function).or_default().push(Step {
                name,
                action,
                source,
            });
        }
    }
    (filter, trace)
}

fn happened(trace: &Trace) -> Vec<String> {
    std::mem::take(&mut *trace.lock().unwrap())
}

#[test]
fn the_module_is_told_of_places_that_are_null() {
    let nulls = NullPlaces {
        first: false,
        second: true,
    };
    let (guarded, trace) = filter(Function::C_Logout, "", &[], &[]);
    let pair = || Call::C_GenerateKeyPair(SESSION, None, None, None);
    assert!(guarded.call_with_nulls(pair(), nulls).rv().is_ok());
    assert_eq!(
        happened(&trace),
        [format!("{nulls:?}"), "C_GenerateKeyPair".to_owned()]
    );
}

#[test]
fn actions_run_in_order_around_the_checks_and_the_first_that_answers_decides() {
    const LOGOUT: Function = Function::C_Logout;
    let forbidden = "forbidden_functions = [(m, [C_Logout])]";
    let call = || Call::C_Logout(SESSION);
    let chains: (&[_], &[_]) = (&[("a", None), ("b", None)], &[("c", None), ("d", None)]);
    let (all, trace) = filter(LOGOUT, "", chains.0, chains.1);
    assert_eq!(all.call(call()).rv(), CkRv::OK);
    assert_eq!(happened(&trace), ["a", "b", "c", "d", "C_Logout"]);

    let (some, trace) = filter(LOGOUT, forbidden, chains.0, chains.1);
    assert_eq!(some.call(call()).rv(), CkRv::FUNCTION_NOT_SUPPORTED);
    assert_eq!(happened(&trace), ["a", "b"]);

    let (first, trace) = filter(LOGOUT, forbidden, &[("a", Some(LOGOUT)), ("b", None)], &[]);
    assert_eq!(first.call(call()).rv(), CkRv::PIN_LOCKED);
    assert_eq!(happened(&trace), ["a"]);

    let (last, trace) = filter(LOGOUT, "", &[], &[("c", Some(LOGOUT))]);
    assert_eq!(last.call(call()).rv(), CkRv::PIN_LOCKED);
    assert_eq!(happened(&trace), ["c"]);
}

/// The original runs the post actions of some functions never, twice, or after the module.
#[test]
fn actions_run_once_for_every_function_and_before_the_module() {
    let call = |function| match function {
        Function::C_GetSlotInfo => Call::C_GetSlotInfo(SlotId(0)),
        Function::C_GetTokenInfo => Call::C_GetTokenInfo(SlotId(0)),
        Function::C_FindObjectsInit => Call::C_FindObjectsInit(SESSION, Some(Template::default())),
        _ => Call::C_GetMechanismList(SlotId(0), Room::QUESTION),
    };
    for function in [
        Function::C_GetSlotInfo,
        Function::C_GetTokenInfo,
        Function::C_FindObjectsInit,
        Function::C_GetMechanismList,
    ] {
        let (filter, trace) = filter(function, "", &[("a", None)], &[("b", None)]);
        filter.call(call(function));
        assert_eq!(happened(&trace), ["a", "b", function.name()]);
    }
}

#[test]
fn an_answer_for_another_function_never_reaches_the_client() {
    let (filter, trace) = filter(
        Function::C_Logout,
        "",
        &[("a", Some(Function::C_Login))],
        &[],
    );
    assert!(filter.call(Call::C_Logout(SESSION)) == Reply::C_Logout(CkRv::GENERAL_ERROR));
    assert_eq!(happened(&trace), ["a"]);
}

/// The original finds keys by their values. Searches for other attributes are left to the module.
#[test]
fn finds_no_key_by_its_value() {
    let reads = Function::C_GetAttributeValue;
    let (filter, _) = filter(reads, "", &[("a", None)], &[("b", None)]);
    for (kind, expected) in [(0x11, vec![1, 3]), (0x124, vec![]), (0x3, vec![])] {
        let wanted = Template(vec![Attribute::new(AttributeType(kind), vec![7])]);
        filter.call(Call::C_FindObjectsInit(SESSION, Some(wanted)));
        let engine = filter.engine.as_ref().unwrap();
        assert_eq!(engine.searches.has(SESSION), kind != 0x3);
        let reply = filter.call(Call::C_FindObjects(SESSION, Room::Buffer(9)));
        let Reply::C_FindObjects(found) = reply else {
            panic!("another reply");
        };
        let handles: Vec<u64> = found.objects.iter().map(|object| object.0).collect();
        assert_eq!(handles, expected, "{kind:#x}");
    }
}

#[test]
fn actions_of_both_chains_hide_what_a_search_finds() {
    let (filter, _) = filter(Function::C_FindObjects, "", &[("a", None)], &[("b", None)]);
    filter.call(Call::C_FindObjectsInit(SESSION, Some(Template::default())));
    let Reply::C_FindObjects(found) = filter.call(Call::C_FindObjects(SESSION, Room::Buffer(9)))
    else {
        panic!("another reply");
    };
    assert_eq!(found.objects, [ObjectHandle(1), ObjectHandle(3)]);
}

/// Records the refusals that it is told of.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Witness for Notes {
    fn refused(&self, refused: &Refused<'_>) {
        let rule = refused.rule.map(|(file, source)| {
            let (file, Source { option, line }) = (file.display(), source);
            format!("{file}:{line}: {option}")
        });
        let rule = rule.unwrap_or_default();
        let note = format!("{}: {}: {rule}", refused.function.name(), refused.rv);
        self.0.lock().unwrap().push(note);
    }
}

#[test]
fn a_witness_is_told_of_each_refusal_and_of_nothing_else() {
    use Function::{C_GenerateRandom, C_Logout};

    let told = |function, rules: &str, by: &[(&'static str, Option<Function>)], call| {
        let (filter, _) = filter(function, rules, by, &[]);
        let notes = Notes::default();
        let reply = filter.call_witnessed(Some(&notes), call, NullPlaces::NONE);
        (reply.rv(), notes.0.into_inner().unwrap())
    };
    let forbidden = "forbidden_functions = [(m, [C_Logout])]";
    let (rv, notes) = told(C_Logout, forbidden, &[], Call::C_Logout(SESSION));
    assert_eq!(rv, CkRv::FUNCTION_NOT_SUPPORTED);
    assert_eq!(
        notes,
        ["C_Logout: CKR_FUNCTION_NOT_SUPPORTED: f:1: forbidden_functions"]
    );
    for (name, expected) in [
        (
            "refuses",
            &["C_Logout: CKR_PIN_LOCKED: f:1: filter_actions_pre"][..],
        ),
        ("decides", &[]),
    ] {
        let by = [(name, Some(C_Logout))];
        let (rv, notes) = told(C_Logout, "", &by, Call::C_Logout(SESSION));
        assert_eq!(rv, CkRv::PIN_LOCKED);
        assert_eq!(notes, expected, "{name}");
    }
    let attribute = |value: &[u8]| Attribute::new(AttributeType(3), value.to_vec());
    let twice = Template(vec![attribute(b"a"), attribute(b"b")]);
    let (rv, notes) = told(
        C_GenerateRandom,
        "",
        &[],
        Call::C_CreateObject(SESSION, Some(twice)),
    );
    assert_eq!(notes, [format!("C_CreateObject: {rv}: ")]);
    let (_, notes) = told(C_Logout, "", &[], Call::C_GetInfo());
    assert_eq!(notes, Vec::<String>::new());
}
