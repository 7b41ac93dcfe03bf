//! Tests properties that hold for all rules and calls, with many rules and calls that are made from a seed.

mod support;

use support::{BAD, Fake, GOOD, Guarded, LONG, NAMELESS, NONE, SESSION, query, sample, template};
use xdr::record::MARK_SIZE;
use xdr::rpc::{self, Peer, Request, Xid};
use xdr::version3;
use xdr::{
    Architecture, Call, Flags, Function, Mechanism, MechanismType, ObjectHandle, Room, SlotId,
    Template, UserType,
};

/// Numbers from a seed (xorshift), the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

const MECHANISMS: [u64; 8] = [0x0, 0x1, 0x3, 0x46, 0x220, 0x360, 0x1082, 0x1085];
const FUNCTIONS: [&str; 8] = [
    "C_Login",
    "C_EncryptInit",
    "C_WrapKey",
    "C_FindObjects",
    "C_CreateObject",
    "C_GetInfo",
    "C_DeriveKey",
    "C_VerifyRecoverInit",
];

/// Makes rules that forbid, each option by itself: `(option, rules)`.
fn rules(numbers: &mut Numbers, most: usize) -> Vec<(&'static str, String)> {
    let mut rules = Vec::new();
    for _ in 0..numbers.below(most + 1) {
        let mechanism = numbers.one_of(&MECHANISMS);
        let function = numbers.one_of(&FUNCTIONS);
        let kind = numbers.one_of(&["wrap", "unwrap", "encrypt", "sign", "all", "decrypt"]);
        rules.push(match numbers.below(6) {
            0 => ("forbidden_mechanisms", format!("(\".*\", [{mechanism}])")),
            1 => ("forbidden_functions", format!("(m, [{function}])")),
            2 => ("remove_padding_oracles", format!("(\"m?\", [{kind}])")),
            3 => ("forbid_admin_operations", "(m, yes)".to_owned()),
            4 => ("enforce_ro_sessions", "(m, yes)".to_owned()),
            _ => (
                "filter_actions_pre",
                "(m, [(C_GetInfo, identity)])".to_owned(),
            ),
        });
    }
    rules
}

fn text(rules: &[(&str, String)], allowed: &str) -> String {
    let mut options: Vec<&str> = rules.iter().map(|(option, _)| *option).collect();
    options.sort_unstable();
    options.dedup();
    let mut text = allowed.to_owned();
    for option in options {
        let members: Vec<&str> = rules
            .iter()
            .filter(|(other, _)| *other == option)
            .map(|(_, rule)| rule.as_str())
            .collect();
        text.push_str(&format!("\n{option} = [{}]", members.join(", ")));
    }
    text
}

fn any_template(numbers: &mut Numbers) -> Option<Template> {
    let word = |number: usize| number.to_ne_bytes();
    let attributes: [(u64, Vec<u8>); 8] = [
        (0x0, word(numbers.below(5)).to_vec()),
        (0x0, vec![0; numbers.below(9)]),
        (0x3, numbers.one_of(&[b"good".as_slice(), b"bad"]).to_vec()),
        (0x3, b"good".to_vec()),
        (0x102, vec![numbers.below(2) as u8]),
        (0x106, vec![numbers.below(4) as u8]),
        (0x105, vec![1; numbers.below(3)]),
        (0x161, word(16).to_vec()),
    ];
    let chosen: Vec<(u64, &[u8])> = attributes
        .iter()
        .filter(|_| numbers.below(3) == 0)
        .map(|(kind, value)| (*kind, value.as_slice()))
        .collect();
    template(&chosen)
}

fn any_call(numbers: &mut Numbers) -> Call<'static> {
    use xdr::Call::*;

    let s = SESSION;
    let mut object = || numbers.one_of(&[GOOD, BAD, LONG, NAMELESS, NONE, ObjectHandle(0)]);
    let (first, second, third) = (object(), object(), object());
    let mechanism_type = MechanismType(numbers.one_of(&MECHANISMS));
    let parameter = match numbers.below(3) {
        0 => (third.0 as usize).to_ne_bytes().to_vec(),
        _ => Vec::new(),
    };
    let host = Architecture::host();
    let mechanism = Some(Mechanism::laid_out(mechanism_type, parameter, host));
    let (one, two) = (any_template(numbers), any_template(numbers));
    match numbers.below(16) {
        0 => C_EncryptInit(s, mechanism, first),
        1 => C_DecryptInit(s, mechanism, first),
        2 => C_SignInit(s, mechanism, first),
        3 => C_WrapKey(s, mechanism, first, second, Room::Unbounded),
        4 => C_UnwrapKey(s, mechanism, first, b"".into(), one),
        5 => C_DeriveKey(s, mechanism, first, one),
        6 => C_GenerateKeyPair(s, mechanism, one, two),
        7 => C_CreateObject(s, one),
        8 => C_CopyObject(s, first, one),
        9 => C_SetAttributeValue(s, first, one),
        10 => C_GetAttributeValue(s, first, query(&[(0x3, 8), (0x0, 8)])),
        11 => C_Login(s, UserType(numbers.below(4) as u64), b"pin".into()),
        12 => C_SetOperationState(s, b"".into(), first, second),
        13 => C_OpenSession(SlotId(0), Flags(6), false),
        14 => C_GetMechanismInfo(SlotId(0), mechanism_type),
        _ => sample(numbers.one_of(Function::ALL)),
    }
}

const LABELS: [&str; 3] = [
    "",
    "allowed_labels = [(\".*\", [\"good.*\"])]",
    "allowed_labels = [(m, [good, bad])]",
];
const IDS: [&str; 3] = [
    "",
    "allowed_ids = [(\".*\", [\"0aff\", \"00\"])]",
    "allowed_ids = [(m, [\"0aff\"])]",
];

/// Actions that read the class or the booleans of a template. They do not count as rules that forbid, because an action
/// that decides ends the chain.
const ACTIONS: [&str; 3] = [
    "",
    "filter_actions_post = [(m, [(C_CreateObject, non_local_objects_patch),
        (C_CreateObject, secure_templates_patch), (C_DeriveKey, conflicting_attributes_patch),
        (C_UnwrapKey, sanitize_creation_templates_patch)])]",
    "filter_actions_post = [(\".*\", [(C_CreateObject, secure_templates_patch),
        (C_CreateObject, sanitize_creation_templates_patch), (C_UnwrapKey, secure_templates_patch)])]",
];

/// Returns a rule about objects, if there is none yet.
fn one_more(numbers: &mut Numbers, rule: &'static str, rules: &[&'static str]) -> &'static str {
    if rule.is_empty() {
        numbers.one_of(rules)
    } else {
        rule
    }
}

/// Whether the call itself reached the module, not only a question for attributes.
fn passes(guarded: &Guarded, call: Call<'_>) -> bool {
    let function = call.function();
    let (reply, asked) = guarded.watch(call);
    // For a refused C_GetAttributeValue, the module is asked only for the rules; one that passes is also answered.
    asked.last() == Some(&function)
        && (function != Function::C_GetAttributeValue || reply.rv() != xdr::CkRv(0x82))
}

#[test]
fn a_deny_rule_more_never_allows_a_call_more() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut refused = 0;
    for _ in 0..120 {
        let (labels, ids) = (numbers.one_of(&LABELS), numbers.one_of(&IDS));
        let fewer = rules(&mut numbers, 3);
        let mut more = fewer.clone();
        for rule in rules(&mut numbers, 3) {
            let place = numbers.below(more.len() + 1);
            more.insert(place, rule);
        }
        let before = Guarded::new(&text(&fewer, &format!("{labels} {ids}")));
        let labels = one_more(&mut numbers, labels, &LABELS);
        let ids = one_more(&mut numbers, ids, &IDS);
        let after = Guarded::new(&text(&more, &format!("{labels} {ids}")));
        for _ in 0..60 {
            let call = any_call(&mut numbers);
            if !passes(&before, call.clone()) {
                refused += 1;
                assert!(
                    !passes(&after, call.clone()),
                    "{call:?}\n{fewer:?}\n{more:?}"
                );
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}

/// Lays out a call of version 3 as a client of this architecture does.
fn laid_out(call: &version3::Call<'static>, client: Architecture) -> version3::Call<'static> {
    use xdr::version3::Call::*;

    // Does not use the functions under test, which may be wrong in both directions in the same way.
    let number = |bytes: &mut Vec<u8>| {
        if let Ok(word) = <[u8; size_of::<usize>()]>::try_from(bytes.as_slice()) {
            let number = usize::from_ne_bytes(word) as u64;
            *bytes = match client {
                Architecture::LITTLE_64 => number.to_le_bytes().to_vec(),
                Architecture::LITTLE_32 => (number as u32).to_le_bytes().to_vec(),
                Architecture::BIG_64 => number.to_be_bytes().to_vec(),
                _ => (number as u32).to_be_bytes().to_vec(),
            };
        }
    };
    let ours = |template: &version3::Template| {
        let mut template = template.clone();
        for attribute in &mut template.0 {
            if [0x0, 0x161].contains(&attribute.attribute_type.0) {
                number(&mut attribute.value);
                attribute.value_len = xdr::Ulong(attribute.value.len() as u64);
            }
        }
        template
    };
    let parameter = |mechanism: &version3::Mechanism| {
        let ours = mechanism.parameter().for_module(true);
        let mut theirs = ours.expect("no addresses").into_owned();
        number(&mut theirs);
        version3::Mechanism::unread(mechanism.mechanism_type(), theirs)
    };
    match call.clone() {
        C_EncryptInit(s, m, key) => C_EncryptInit(s, parameter(&m), key),
        C_DecryptInit(s, m, key) => C_DecryptInit(s, parameter(&m), key),
        C_SignInit(s, m, key) => C_SignInit(s, parameter(&m), key),
        C_WrapKey(s, m, one, two) => C_WrapKey(s, parameter(&m), one, two),
        C_UnwrapKey(s, m, key, data, t) => C_UnwrapKey(s, parameter(&m), key, data, ours(&t)),
        C_DeriveKey(s, m, key, t) => C_DeriveKey(s, parameter(&m), key, ours(&t)),
        C_GenerateKeyPair(s, m, one, two) => {
            C_GenerateKeyPair(s, parameter(&m), ours(&one), ours(&two))
        }
        C_CreateObject(s, t) => C_CreateObject(s, ours(&t)),
        C_CopyObject(s, object, t) => C_CopyObject(s, object, ours(&t)),
        C_SetAttributeValue(s, object, t) => C_SetAttributeValue(s, object, ours(&t)),
        C_GetAttributeValue(s, object, t) => C_GetAttributeValue(s, object, ours(&t)),
        other => other,
    }
}

/// Encodes the call as a client sends it.
fn record(call: &version3::Call<'_>) -> Vec<u8> {
    let mut buffer = Vec::new();
    let record = rpc::write_call(Xid(1), call, false, &mut buffer).unwrap();
    record.to_vec()
}

/// Decodes the call as it arrives from a client of this architecture.
fn received(record: &[u8], client: Architecture) -> Call<'_> {
    let peer = Peer {
        architecture: client,
        versions: 3..=3,
    };
    match rpc::read_request(&record[MARK_SIZE..], &peer) {
        Request::Call(incoming) => incoming.call,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_decision_does_not_depend_on_the_clients_architecture() {
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    let clients = (1..=4).map(Architecture);
    // A number of another length than the client's word stays as it is, and may have the length of this host's numbers.
    // Such a value has no meaning for either side; it is left out here.
    let word = size_of::<usize>();
    let proper = |t: &&Template| {
        t.0.iter()
            .all(|a| a.attribute_type.0 != 0 || a.bytes().len() == word)
    };
    let mut decided = [0, 0];
    for _ in 0..60 {
        let (labels, ids) = (numbers.one_of(&LABELS), numbers.one_of(&IDS));
        let objects = format!("{labels} {ids} {}", numbers.one_of(&ACTIONS));
        let rules = text(&rules(&mut numbers, 5), &objects);
        let guarded = Guarded::with(&rules, "", Fake::default());
        for _ in 0..60 {
            let call = any_call(&mut numbers);
            if call.function() == Function::C_FindObjects {
                continue; // what is left of a search is not the same for the next one
            }
            if !call.values().all(|template| proper(&template)) {
                continue;
            }
            // The other versions have a single layout.
            let Ok(former) = version3::Call::of(&call) else {
                continue;
            };
            let expected = guarded.watch(call.clone());
            decided[usize::from(expected.0.rv().is_ok())] += 1;
            for client in clients.clone() {
                let record = record(&laid_out(&former, client));
                let same = guarded.watch(received(&record, client));
                assert!(
                    same == expected,
                    "{call:?} {client:?}: {:?} {:?}",
                    same.0,
                    expected.0
                );
            }
        }
    }
    assert!(decided[0] > 500 && decided[1] > 500, "{decided:?}");
}

#[test]
fn a_file_with_modules_only_changes_no_call() {
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    let plain = Guarded::new("debug = 3\nallowed_labels = []");
    for _ in 0..5000 {
        let call = any_call(&mut numbers);
        let (_, asked) = plain.watch(call.clone());
        assert_eq!(asked, [call.function()]);
    }
    let call = Call::C_FindObjects(SESSION, Room::Buffer(3));
    assert_eq!(plain.watch(call).1, [Function::C_FindObjects]);
}

/// A parameter full of the client's addresses, in each of its sizes: the rule about the mechanism is checked first,
/// whatever the layout.
#[test]
fn a_forbidden_mechanism_is_refused_as_such_whatever_its_parameter() {
    let guarded = Guarded::new("forbidden_mechanisms = [(m, [CKM_AES_GCM])]");
    for client in (1..=4).map(Architecture) {
        for length in 0..64 {
            let mechanism = version3::Mechanism::unread(MechanismType(0x1087), vec![0x41; length]);
            let record = record(&version3::Call::C_EncryptInit(SESSION, mechanism, GOOD));
            let reply = guarded.call(received(&record, client));
            assert_eq!(reply.rv(), xdr::CkRv::MECHANISM_INVALID);
        }
    }
}
