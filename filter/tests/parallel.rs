//! Tests calls from several threads on one connection.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use filter::{Compatibility, Filter, Rules};
use support::{GOOD, SESSION, mechanism, sample, template};
use xdr::{
    Answer, Answers, Call, CkRv, Cryptoki, Found, Function, Reply, Room, SessionHandle, Wanted,
};

/// How long a test waits for something that must not happen.
const NEVER: Duration = Duration::from_millis(100);
/// How long a test waits for something that must happen.
const SOON: Duration = Duration::from_secs(20);

const ENCRYPT: u64 = 0x104;
const UNWRAP: u64 = 0x107;

fn filter<N: Cryptoki>(rules: &str, module: N) -> Filter<N> {
    let text = format!("modules = [(m, \"/m.so\")] {rules}");
    let rules = Rules::parse(text.as_bytes(), Path::new("f"), &Compatibility::default());
    let rules = Arc::new(rules.unwrap());
    let entry = rules.module(b"m").unwrap();
    Filter::new(&rules, b"m", entry, module)
}

/// A module with one key. A thread that reads it waits for a short time until another thread has read it as well.
#[derive(Default)]
struct OneKey {
    booleans: Mutex<BTreeMap<u64, u8>>,
    readers: Mutex<usize>,
    more: Condvar,
}

impl OneKey {
    fn meet_another_reader(&self) {
        let mut readers = self.readers.lock().unwrap();
        *readers += 1;
        self.more.notify_all();
        let alone = |readers: &mut usize| *readers < 2;
        drop(self.more.wait_timeout_while(readers, NEVER, alone));
    }
}

impl Cryptoki for &OneKey {
    fn call(&self, call: Call<'_>) -> Reply {
        let mut reply = Reply::only(call.function(), CkRv::OK);
        match (&mut reply, call) {
            (Reply::C_GetAttributeValue(result), Call::C_GetAttributeValue(_, _, query)) => {
                let booleans = self.booleans.lock().unwrap().clone();
                let answer = |wanted: &Wanted| Answer {
                    attribute_type: wanted.attribute_type,
                    found: match booleans.get(&wanted.attribute_type.0) {
                        _ if wanted.attribute_type.0 == 0 => {
                            Found::Bytes(4_usize.to_ne_bytes().to_vec())
                        }
                        Some(value) => Found::Bytes(vec![*value]),
                        None => Found::Unavailable,
                    },
                };
                result.rv = CkRv::ATTRIBUTE_TYPE_INVALID;
                result.answers = Answers(query.unwrap().0.iter().map(answer).collect());
                self.meet_another_reader();
            }
            (_, Call::C_SetAttributeValue(_, _, Some(template))) => {
                let mut booleans = self.booleans.lock().unwrap();
                let set = template.0.iter();
                booleans.extend(set.map(|it| (it.attribute_type.0, it.bytes()[0])));
            }
            _ => {}
        }
        reply
    }
}

/// Each change alone is allowed, but not both together: UNWRAP conflicts with ENCRYPT.
#[test]
fn two_changes_that_conflict_are_not_both_allowed() {
    let module = OneKey::default();
    let rule = "filter_actions_post = [(m, [(C_SetAttributeValue, conflicting_attributes_patch)])]";
    let filter = filter(rule, &module);
    let set = |session: u64, role: u64| {
        let template = template(&[(role, &[1])]);
        let call = Call::C_SetAttributeValue(SessionHandle(session), GOOD, template);
        filter.call(call).rv()
    };
    let rvs = thread::scope(|scope| {
        let other = scope.spawn(|| set(2, UNWRAP));
        [set(1, ENCRYPT), other.join().unwrap()]
    });
    let allowed = rvs.iter().filter(|rv| rv.is_ok()).count();
    assert_eq!(allowed, 1, "{rvs:?}");
    assert!(rvs.contains(&CkRv::ATTRIBUTE_VALUE_INVALID), "{rvs:?}");
    assert_eq!(module.booleans.lock().unwrap().len(), 1);
}

/// A module that stops in a call of one function until it is told to go on.
struct Stops {
    at: Function,
    arrived: Mutex<Sender<()>>,
    go_on: Mutex<Receiver<()>>,
}

impl Cryptoki for Stops {
    fn call(&self, call: Call<'_>) -> Reply {
        let mut reply = Reply::only(call.function(), CkRv::OK);
        if call.function() == self.at {
            self.arrived.lock().unwrap().send(()).unwrap();
            self.go_on.lock().unwrap().recv_timeout(SOON).unwrap();
        }
        if let (Reply::C_GetAttributeValue(result), Call::C_GetAttributeValue(_, _, query)) =
            (&mut reply, call)
        {
            let answer = |wanted: &Wanted| Answer {
                attribute_type: wanted.attribute_type,
                found: Found::Bytes(b"good".to_vec()),
            };
            result.answers = Answers(query.unwrap().0.iter().map(answer).collect());
        }
        reply
    }
}

/// Asserts whether `second` ends while the module is executing `first`.
fn assert_overlap(rules: &str, first: Function, second: Function, expected: bool) {
    let (arrived, has_arrived) = channel();
    let (go, go_on) = channel();
    let module = Stops {
        at: first,
        arrived: Mutex::new(arrived),
        go_on: Mutex::new(go_on),
    };
    let filter = filter(rules, module);
    let (end, ended) = channel();
    thread::scope(|scope| {
        let slow = scope.spawn(|| filter.call(call(first)).rv());
        has_arrived.recv_timeout(SOON).unwrap();
        let beside = scope.spawn(|| {
            let rv = filter.call(call(second)).rv();
            end.send(()).unwrap();
            rv
        });
        let wait = if expected { SOON } else { NEVER };
        let overlaps = ended.recv_timeout(wait).is_ok();
        go.send(()).unwrap();
        assert_eq!(slow.join().unwrap(), CkRv::OK);
        assert_eq!(beside.join().unwrap(), CkRv::OK);
        assert_eq!(overlaps, expected, "{second:?} in {first:?}");
    });
}

/// Returns a call that passes the rules of these tests.
fn call(function: Function) -> Call<'static> {
    match function {
        Function::C_SetAttributeValue => {
            Call::C_SetAttributeValue(SESSION, GOOD, template(&[(0x3, b"good")]))
        }
        Function::C_WrapKey => {
            Call::C_WrapKey(SESSION, mechanism(0x2109), GOOD, GOOD, Room::Unbounded)
        }
        other => sample(other),
    }
}

#[test]
fn a_change_waits_for_the_calls_that_name_objects_and_for_no_others() {
    const LABELS: &str = "allowed_labels = [(m, [good])]";
    let changes = [
        Function::C_SetAttributeValue,
        Function::C_CopyObject,
        Function::C_DestroyObject,
    ];
    let uses = [
        Function::C_EncryptInit,
        Function::C_WrapKey,
        Function::C_GetObjectSize,
        Function::C_MessageSignInit,
        Function::C_DecapsulateKey,
    ];
    let others = [
        Function::C_Sign,
        Function::C_GenerateKeyPair,
        Function::C_CreateObject,
        Function::C_FindObjectsInit,
        Function::C_EncryptMessage,
        Function::C_WaitForSlotEvent,
    ];
    for change in changes {
        for function in uses.into_iter().chain(changes).filter(|it| *it != change) {
            assert_overlap(LABELS, function, change, false);
            assert_overlap(LABELS, change, function, false);
        }
    }
    for function in others {
        assert_overlap(LABELS, function, changes[0], true);
        assert_overlap(LABELS, changes[0], function, true);
    }
    for pair in uses.windows(2) {
        assert_overlap(LABELS, pair[0], pair[1], true);
    }
    // These rules read no object.
    let rules = "forbidden_functions = [(m, [C_Login])]";
    assert_overlap(rules, uses[0], changes[0], true);
    assert_overlap(rules, changes[0], uses[0], true);
}
