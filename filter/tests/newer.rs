//! Tests the rules of filter.conf with calls that only version 4 has: newer functions, NULL pointers, templates inside
//! templates, and mechanisms with structures.

mod support;

use support::parameters::Arena;
use support::{BAD, GOOD, Guarded, LABEL, SESSION, sample, template};
use xdr::{
    Attribute, AttributeType, Call, CkRv, Flags, Function, Input, NullPlaces, ObjectHandle, Reply,
    Room, SlotId, Template, Use, Value,
};

const LABELS: &str = "allowed_labels = [(\".*\", [\"good.*\"])]";
const ALL: Room = Room::Unbounded;

/// CKM_AES_GCM.
const GCM: u64 = 0x1087;
/// CKM_KIP_DERIVE, whose parameter names a mechanism and a key.
const KIP: u64 = 0x510;
/// CKM_SP800_108_COUNTER_KDF.
const COUNTER_KDF: u64 = 0x3ac;
/// CKA_WRAP_TEMPLATE.
const WRAP_TEMPLATE: u64 = 0x4000_0211;

#[track_caller]
fn passes(guarded: &Guarded, call: Call<'_>) {
    let function = call.function();
    let (reply, asked) = guarded.watch(call);
    assert!(reply.rv().is_ok(), "{reply:?}");
    assert_eq!(asked.last(), Some(&function));
}

#[track_caller]
fn refused(guarded: &Guarded, call: Call<'_>, rv: CkRv) {
    let function = call.function();
    let (reply, asked) = guarded.watch(call);
    assert_eq!(reply.rv(), rv);
    assert!(!asked.contains(&function), "{asked:?}");
}

/// A call that ends an operation names no key. A call that names a key is checked, whatever it begins.
#[test]
fn an_operation_is_ended_by_a_mechanism_that_is_null() {
    let guarded = Guarded::new(LABELS);
    let begins: [fn(ObjectHandle) -> Call<'static>; 11] = [
        |key| Call::C_EncryptInit(SESSION, None, key),
        |key| Call::C_DecryptInit(SESSION, None, key),
        |key| Call::C_SignInit(SESSION, None, key),
        |key| Call::C_SignRecoverInit(SESSION, None, key),
        |key| Call::C_VerifyInit(SESSION, None, key),
        |key| Call::C_VerifyRecoverInit(SESSION, None, key),
        |key| Call::C_MessageEncryptInit(SESSION, None, key),
        |key| Call::C_MessageDecryptInit(SESSION, None, key),
        |key| Call::C_MessageSignInit(SESSION, None, key),
        |key| Call::C_MessageVerifyInit(SESSION, None, key),
        |key| Call::C_VerifySignatureInit(SESSION, None, key, Input::NULL),
    ];
    for begin in begins {
        let (reply, asked) = guarded.watch(begin(ObjectHandle(0)));
        assert!(reply.rv().is_ok());
        assert_eq!(asked, [reply.function()]);
        refused(&guarded, begin(BAD), CkRv::OBJECT_HANDLE_INVALID);
        passes(&guarded, begin(GOOD));
        let name = begin(GOOD).function().name();
        let forbidden = Guarded::new(&format!("forbidden_functions = [(m, [{name}])]"));
        let unsupported = CkRv::FUNCTION_NOT_SUPPORTED;
        refused(&forbidden, begin(ObjectHandle(0)), unsupported);
    }
    // These functions begin no operation that could be ended.
    let none = ObjectHandle(0);
    let derive = Call::C_DeriveKey(SESSION, None, none, template(&[]));
    refused(&guarded, derive, CkRv::OBJECT_HANDLE_INVALID);
    let wrap = Call::C_WrapKey(SESSION, None, none, GOOD, ALL);
    refused(&guarded, wrap, CkRv::WRAPPING_KEY_HANDLE_INVALID);
    passes(&guarded, Call::C_DigestInit(SESSION, None));
}

#[test]
fn a_search_ends_when_the_module_cancels_it() {
    for (flags, goes_on) in [(0x40, false), (0x140, false), (0x100, true)] {
        let module = support::Fake {
            found: vec![GOOD, GOOD].into(),
            ..Default::default()
        };
        let guarded = Guarded::with(LABELS, "", module);
        guarded.call(sample(Function::C_FindObjectsInit));
        guarded.call(Call::C_SessionCancel(SESSION, Flags(flags)));
        let rv = guarded.call(sample(Function::C_FindObjects)).rv();
        let expected = match goes_on {
            true => CkRv::OK,
            false => CkRv::OPERATION_NOT_INITIALIZED,
        };
        assert_eq!(rv, expected, "{flags:#x}");
    }
}

/// An asynchronous call returns its result in another call, to which the rules do not apply.
#[test]
fn no_call_is_asynchronous_where_rules_look_at_objects() {
    let open = || Call::C_OpenSession(SlotId(0), Flags(0xc), false);
    for rules in [
        LABELS,
        "allowed_ids = [(m, [a])]",
        "filter_actions_post = [(m, [(C_WrapKey, strong_wrapping_keys)])]",
    ] {
        let guarded = Guarded::new(rules);
        refused(&guarded, open(), CkRv::SESSION_ASYNC_NOT_SUPPORTED);
        passes(&guarded, sample(Function::C_OpenSession));
        for function in [
            Function::C_AsyncComplete,
            Function::C_AsyncGetID,
            Function::C_AsyncJoin,
        ] {
            refused(&guarded, sample(function), CkRv::FUNCTION_NOT_SUPPORTED);
        }
    }
    let other = Guarded::new("forbidden_functions = [(m, [C_Login])]");
    passes(&other, open());
    passes(&other, sample(Function::C_AsyncComplete));
}

/// Returns a template that contains another one, and so on to this depth, with `inner` as the innermost.
fn nested(inner: Template, depth: usize) -> Option<Template> {
    let within = |inner| {
        Template(vec![Attribute {
            attribute_type: AttributeType(WRAP_TEMPLATE),
            value: Value::Template(inner),
        }])
    };
    Some((0..depth).fold(inner, |inner, _| within(inner)))
}

fn creations(template: &Option<Template>) -> [Call<'static>; 4] {
    let (m, t) = (|| support::mechanism(0x220), || template.clone());
    [
        Call::C_CreateObject(SESSION, t()),
        Call::C_GenerateKeyPair(SESSION, m(), None, t()),
        Call::C_DecapsulateKey(SESSION, m(), GOOD, t(), b"".into()),
        Call::C_SetAttributeValue(SESSION, GOOD, t()),
    ]
}

#[test]
fn labels_in_inner_templates_are_checked_as_well() {
    let guarded = Guarded::new(LABELS);
    for depth in [1, 3] {
        let with = |label: &[u8]| nested(template(&[(LABEL, label)]).unwrap(), depth);
        for call in creations(&with(b"bad")) {
            refused(&guarded, call, CkRv::ATTRIBUTE_VALUE_INVALID);
        }
        for call in creations(&with(b"good")) {
            passes(&guarded, call);
        }
    }
}

#[test]
fn inner_templates_are_put_into_canonical_form() {
    const WRAP: u64 = 0x106;
    let guarded = Guarded::new("forbidden_functions = [(m, [C_Login])]");
    let with = |attributes| nested(template(attributes).unwrap(), 2);
    let create = |template| Call::C_CreateObject(SESSION, template);
    passes(&guarded, create(with(&[(WRAP, &[2])])));
    let calls = guarded.module.calls.lock().unwrap().clone();
    assert!(calls == [create(with(&[(WRAP, &[1])]))]);
    let twice = create(with(&[(WRAP, &[1]), (WRAP, &[0])]));
    refused(&guarded, twice, CkRv::TEMPLATE_INCONSISTENT);
    let long = create(with(&[(WRAP, &[1, 0])]));
    refused(&guarded, long, CkRv::ATTRIBUTE_VALUE_INVALID);
    let twice = [
        nested(Template::default(), 1),
        nested(Template::default(), 1),
    ];
    let both = twice.into_iter().flatten().flat_map(|template| template.0);
    let both = Some(Template(both.collect()));
    refused(&guarded, create(both), CkRv::TEMPLATE_INCONSISTENT);
}

/// The action sees only the outer template. Version 3 has no inner ones.
#[test]
fn inner_templates_are_refused_where_an_action_judges_templates() {
    let with_role = || nested(template(&[(0x106, &[1])]).unwrap(), 1);
    for action in [
        "conflicting_attributes_patch",
        "secure_templates_patch",
        "sanitize_creation_templates_patch",
    ] {
        for option in ["filter_actions_pre", "filter_actions_post"] {
            let guarded = Guarded::new(&format!("{option} = [(m, [(C_CreateObject, {action})])]"));
            let [create, pair, ..] = creations(&with_role());
            refused(&guarded, create, CkRv::ATTRIBUTE_TYPE_INVALID);
            passes(&guarded, pair);
            // An empty inner template asks for nothing.
            let mut empty = template(&[(0x0, &[0; size_of::<usize>()])]);
            let outer = empty.as_mut().unwrap();
            outer.0.extend(nested(Template::default(), 1).unwrap().0);
            passes(&guarded, Call::C_CreateObject(SESSION, empty));
        }
    }
    // An action that does not look at templates lets them pass. A forbidden function is refused as such.
    let guarded = Guarded::new("filter_actions_pre = [(m, [(C_CreateObject, identity)])]");
    passes(&guarded, creations(&with_role())[0].clone());
    let guarded = Guarded::new(
        "filter_actions_pre = [(m, [(C_CreateObject, secure_templates_patch)])]
        forbidden_functions = [(m, [C_CreateObject])]",
    );
    let [create, ..] = creations(&with_role());
    refused(&guarded, create, CkRv::FUNCTION_NOT_SUPPORTED);
}

/// CK_KIP_PARAMS with this mechanism and this key.
fn kip(inner: u64, key: ObjectHandle) -> Option<xdr::Mechanism> {
    let mut arena = Arena::default();
    let inner = arena.words(&[inner as usize, 0, 0]);
    arena.mechanism(KIP, &[inner, key.0 as usize, 0, 0], Use::Operation)
}

#[test]
fn a_mechanism_inside_a_parameter_is_one_that_is_used() {
    let derive = |mechanism| Call::C_DeriveKey(SESSION, mechanism, GOOD, template(&[]));
    let guarded = Guarded::new("forbidden_mechanisms = [(m, [CKM_MD5])]");
    passes(&guarded, derive(kip(0x220, GOOD)));
    refused(&guarded, derive(kip(0x210, GOOD)), CkRv::MECHANISM_INVALID);
    let guarded = Guarded::new(LABELS);
    passes(&guarded, derive(kip(0x220, GOOD)));
    refused(
        &guarded,
        derive(kip(0x220, BAD)),
        CkRv::OBJECT_HANDLE_INVALID,
    );
    let wrap = |inner| Call::C_WrapKey(SESSION, kip(inner, GOOD), GOOD, GOOD, ALL);
    let guarded = Guarded::new("remove_padding_oracles = [(m, [wrap])]");
    passes(&guarded, wrap(0x220));
    refused(&guarded, wrap(0x1085), CkRv::MECHANISM_INVALID);
}

/// CK_PRF_DATA_PARAM of CK_SP800_108_KEY_HANDLE, and the salt of HKDF: handles behind pointers and in the structure.
#[test]
fn a_parameter_names_no_hidden_key_wherever_it_is() {
    let guarded = Guarded::new(LABELS);
    for (key, rv) in [(GOOD, CkRv::OK), (BAD, CkRv::OBJECT_HANDLE_INVALID)] {
        let mut arena = Arena::default();
        let handle = arena.words(&[key.0 as usize]);
        let data = arena.words(&[5, handle, size_of::<usize>()]);
        let words = [0x220, 1, data, 0, 0];
        let counter = arena.mechanism(COUNTER_KDF, &words, Use::Operation);
        // bExtract and bExpand are bytes at the beginning; CKF_HKDF_SALT_KEY is 4.
        let mut flags = [0; size_of::<usize>()];
        flags[..2].fill(1);
        let words = [
            usize::from_ne_bytes(flags),
            0x250,
            4,
            0,
            0,
            key.0 as usize,
            0,
            0,
        ];
        let hkdf = Arena::default().mechanism(0x402a, &words, Use::Operation);
        for mechanism in [counter, hkdf] {
            let (reply, asked) = guarded.watch(Call::C_DeriveKey(SESSION, mechanism, GOOD, None));
            assert_eq!(reply.rv(), rv);
            assert_eq!(asked.contains(&Function::C_DeriveKey), rv.is_ok());
        }
    }
}

/// Returns a counter KDF that derives a second key with this label.
fn two_keys(label: &[u8]) -> Option<xdr::Mechanism> {
    let mut arena = Arena::default();
    let value = arena.put(label);
    let attribute = arena.words(&[LABEL as usize, value, label.len()]);
    let handle = arena.words(&[0]);
    let derived = arena.words(&[attribute, 1, handle]);
    let words = [0x220, 0, 0, 1, derived];
    arena.mechanism(COUNTER_KDF, &words, Use::Operation)
}

#[test]
fn templates_in_a_parameter_are_for_keys_as_well() {
    let derive = |label| Call::C_DeriveKey(SESSION, two_keys(label), GOOD, template(&[]));
    let guarded = Guarded::new(LABELS);
    passes(&guarded, derive(b"good"));
    refused(&guarded, derive(b"bad"), CkRv::ATTRIBUTE_VALUE_INVALID);
    let rule = "filter_actions_post = [(m, [(C_DeriveKey, conflicting_attributes_patch)])]";
    let judged = Guarded::new(rule);
    refused(&judged, derive(b"good"), CkRv::MECHANISM_PARAM_INVALID);
}

/// The calls of a client between C_MessageEncryptInit and C_MessageEncryptFinal.
#[test]
fn messages_do_not_get_around_a_forbidden_mechanism() {
    let guarded = Guarded::new("forbidden_mechanisms = [(m, [CKM_AES_GCM])]");
    let gcm = || support::mechanism(GCM);
    let parameter = || {
        let words = [0, 0, 0, 0, 0, 96];
        Arena::default()
            .mechanism(GCM, &words, Use::Message)
            .unwrap()
    };
    let (s, none) = (SESSION, Input::NULL);
    for call in [
        Call::C_MessageEncryptInit(s, gcm(), GOOD),
        Call::C_EncryptMessage(s, parameter(), none, none, ALL),
        Call::C_EncryptMessageBegin(s, parameter(), none),
        Call::C_EncryptMessageNext(s, parameter(), none, ALL, Flags(0)),
        Call::C_MessageDecryptInit(s, gcm(), GOOD),
        Call::C_DecryptMessage(s, parameter(), none, none, ALL),
        Call::C_DecryptMessageBegin(s, parameter(), none),
        Call::C_DecryptMessageNext(s, parameter(), none, ALL, Flags(0)),
        Call::C_MessageSignInit(s, gcm(), GOOD),
        Call::C_SignMessage(s, parameter(), none, ALL),
        Call::C_MessageVerifyInit(s, gcm(), GOOD),
        Call::C_VerifyMessage(s, parameter(), none, none),
        Call::C_EncapsulateKey(s, gcm(), GOOD, None, ALL),
        Call::C_DecapsulateKey(s, gcm(), GOOD, None, none),
        Call::C_WrapKeyAuthenticated(s, gcm(), GOOD, GOOD, none, ALL),
        Call::C_UnwrapKeyAuthenticated(s, gcm(), GOOD, none, None, none),
        Call::C_VerifySignatureInit(s, gcm(), GOOD, none),
    ] {
        refused(&guarded, call.clone(), CkRv::MECHANISM_INVALID);
        passes(
            &Guarded::new("forbidden_mechanisms = [(m, [CKM_MD5])]"),
            call,
        );
    }
}

/// Attaches actions to the older function and to the newer one.
#[test]
fn actions_run_for_newer_functions_in_the_order_of_the_file_and_once() {
    let names = |rules: &str, function: Function| {
        let text = format!("modules = [(m, n)] {rules}");
        let parsed = filter::Rules::parse(
            text.as_bytes(),
            std::path::Path::new("f"),
            &filter::Compatibility::default(),
        );
        let rules = filter::module_rules::ModuleRules::new(&parsed.unwrap(), b"m");
        let steps = rules.pre.get(&function).map_or(&[][..], Vec::as_slice);
        steps.iter().map(|step| step.name).collect::<Vec<_>>()
    };
    let rules = "filter_actions_pre = [(m, [
        (C_DecapsulateKey, secure_templates_patch),
        (C_DeriveKey, conflicting_attributes_patch), (C_DeriveKey, identity),
        (C_DecapsulateKey, conflicting_attributes_patch), (C_DecapsulateKey, identity),
        (C_DeriveKey, secure_templates_patch), (C_DeriveKey, identity)])]";
    let (conflicts, secure) = ("conflicting_attributes_patch", "secure_templates_patch");
    assert_eq!(
        names(rules, Function::C_DecapsulateKey),
        [secure, conflicts, "identity"]
    );
    assert_eq!(
        names(rules, Function::C_EncapsulateKey),
        [conflicts, "identity", secure]
    );
    assert_eq!(
        names(rules, Function::C_DeriveKey),
        [conflicts, "identity", secure, "identity"]
    );
}

/// The client gets the list according to its room. If its pointer to the length is NULL, so is the module's.
#[test]
fn a_list_without_a_length_is_the_modules_to_refuse() {
    let module = support::Fake {
        mechanisms: vec![9, 3],
        ..Default::default()
    };
    let guarded = Guarded::with("forbidden_mechanisms = [(m, [9])]", "", module);
    let list = |room| match guarded.call(Call::C_GetMechanismList(SlotId(0), room)) {
        Reply::C_GetMechanismList(list) => (list.rv, list.count.0, list.mechanisms.len()),
        other => panic!("{other:?}"),
    };
    assert_eq!(list(Room::NoLength), (CkRv::ARGUMENTS_BAD, 0, 0));
    assert_eq!(list(Room::Null { length: 7 }), (CkRv::OK, 1, 0));
    assert_eq!(list(Room::Buffer(0)), (CkRv::BUFFER_TOO_SMALL, 1, 0));
    assert_eq!(list(Room::Unbounded), (CkRv::OK, 1, 1));
}

/// If the module would refuse a call because a pointer to a result is NULL, an action that makes the call itself must
/// not make an object of which the client learns nothing.
#[test]
fn a_place_that_is_null_is_null_at_the_module() {
    let nulls = NullPlaces {
        first: true,
        second: false,
    };
    for rules in [
        "",
        "forbidden_functions = [(m, [C_Logout])]",
        "filter_actions_pre = [(m, [(C_CreateObject, identity)])]",
        "filter_actions_pre = [(m, [(C_CreateObject, sanitize_creation_templates_patch)])]",
        "filter_actions_post = [(m, [(C_CreateObject, sanitize_creation_templates_patch)])]",
    ] {
        let guarded = Guarded::new(rules);
        let object = template(&[(0x0, &[0; size_of::<usize>()])]);
        let create = Call::C_CreateObject(SESSION, object);
        assert!(guarded.call_with_nulls(create.clone(), nulls).rv().is_ok());
        assert_eq!(*guarded.module.nulls.lock().unwrap(), nulls, "{rules}");
        passes(&guarded, create);
        let told = *guarded.module.nulls.lock().unwrap();
        assert_eq!(told, NullPlaces::NONE, "{rules}");
    }
}
