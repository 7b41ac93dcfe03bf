//! Tests actions in front of a token, as the filter runs them after its own checks.

use std::sync::atomic::{AtomicBool, Ordering};

use filter::Compatibility;
use filter::actions::{Action, Context, Verdict, WrappingKey, row};
use filter::attributes::Boolean;
use filter::module_rules::ModuleRules;
use filter::object_reader::ObjectReader;
use xdr::Function::*;
use xdr::{
    Attribute, AttributeType, Call, CkRv, Cryptoki, Found, Function, Mechanism, MechanismType,
    ObjectHandle, Query, Reply, Room, SessionHandle, Template, Ulong, Wanted,
};

pub const KEY: &str = "00112233445566778899aabbccddeeff";

/// The functions to which both sets attach `conflicting_attributes_patch_on_existing_objects` and
/// `dangerous_sensitive_keys_escrow_encrypt`.
pub const KEY_USES: [Function; 11] = [
    C_EncryptInit,
    C_DecryptInit,
    C_SignInit,
    C_SignRecoverInit,
    C_VerifyInit,
    C_VerifyRecoverInit,
    C_DeriveKey,
    C_DigestKey,
    C_WrapKey,
    C_UnwrapKey,
    C_FindObjects,
];

const CREATIONS: [Function; 6] = [
    C_CreateObject,
    C_CopyObject,
    C_GenerateKey,
    C_GenerateKeyPair,
    C_DeriveKey,
    C_UnwrapKey,
];

pub type Pairs = Vec<(Function, &'static str)>;

fn on(functions: &[Function], action: &'static str) -> Pairs {
    functions
        .iter()
        .map(|function| (*function, action))
        .collect()
}

/// The pairs of the original's filter.conf, in its order.
pub fn patch_set_1() -> Pairs {
    let changes = [C_CopyObject, C_SetAttributeValue];
    [
        on(
            &[C_CreateObject, C_CopyObject, C_SetAttributeValue],
            "non_local_objects_patch",
        ),
        on(
            &[C_GetAttributeValue, C_SetAttributeValue],
            "prevent_sensitive_leak_patch",
        ),
        on(
            &KEY_USES,
            "conflicting_attributes_patch_on_existing_objects",
        ),
        on(&KEY_USES, "dangerous_sensitive_keys_escrow_encrypt"),
        on(&CREATIONS, "conflicting_attributes_patch"),
        on(&[C_SetAttributeValue], "conflicting_attributes_patch"),
        on(&changes, "sticky_attributes_patch"),
        on(&[C_WrapKey, C_UnwrapKey], "wrapping_format_patch"),
        on(&CREATIONS, "sanitize_creation_templates_patch"),
    ]
    .concat()
}

/// The pairs of its second set.
pub fn patch_set_2() -> Pairs {
    [
        on(
            &KEY_USES,
            "conflicting_attributes_patch_on_existing_objects",
        ),
        on(&KEY_USES, "dangerous_sensitive_keys_escrow_encrypt"),
        on(&CREATIONS, "secure_templates_patch"),
        on(&[C_SetAttributeValue], "secure_templates_patch"),
        on(
            &[C_GetAttributeValue, C_SetAttributeValue],
            "prevent_sensitive_leak_patch",
        ),
        on(&CREATIONS, "sanitize_creation_templates_patch"),
    ]
    .concat()
}

/// Every function that the action may be attached to.
pub fn everywhere(action: &'static str) -> Pairs {
    let fits = row(action).expect("it is an action").fits;
    let functions = Function::ALL.iter().copied();
    on(
        &functions.filter(|it| fits(*it)).collect::<Vec<_>>(),
        action,
    )
}

/// Actions in front of a token, on one connection.
pub struct Chain<'a> {
    backend: &'a dyn Cryptoki,
    actions: Vec<(Function, Box<dyn Action>)>,
    pub segregation: AtomicBool,
    pub key: Option<WrappingKey>,
    compatibility: Compatibility,
}

impl<'a> Chain<'a> {
    pub fn new(backend: &'a dyn Cryptoki, pairs: &Pairs) -> Chain<'a> {
        let made = pairs.iter().map(|(function, action)| {
            let row = row(action).expect("it is an action");
            assert!((row.fits)(*function), "({}, {action})", function.name());
            (*function, (row.make)())
        });
        Chain {
            backend,
            actions: made.collect(),
            segregation: AtomicBool::new(false),
            key: WrappingKey::from_hex(KEY),
            compatibility: Compatibility::default(),
        }
    }

    pub fn compatible(self, switches: &str) -> Chain<'a> {
        let compatibility = Compatibility::parse(switches).expect("known switches");
        Chain {
            compatibility,
            ..self
        }
    }

    pub fn segregated(self, is_segregated: bool) -> Chain<'a> {
        self.segregation.store(is_segregated, Ordering::Relaxed);
        self
    }

    pub fn rv(&self, call: Call<'_>) -> CkRv {
        self.call(call).rv()
    }
}

impl Cryptoki for Chain<'_> {
    fn call(&self, call: Call<'_>) -> Reply {
        let function = call.function();
        let rules = ModuleRules::default();
        let context = Context {
            backend: self.backend,
            module: b"softhsm",
            segregation: &self.segregation,
            wrapping_key: self.key.as_ref(),
            compatibility: &self.compatibility,
            debug: 3,
            objects: ObjectReader::new(self.backend),
            function,
            nulls: xdr::NullPlaces::NONE,
            rules: &rules,
        };
        let attached = || self.actions.iter().filter(|(it, _)| *it == function);
        for (_, action) in attached() {
            if let Verdict::Decide(reply) | Verdict::Refuse(reply) = action.judge(&call, &context) {
                assert_eq!(reply.function(), function);
                return reply;
            }
        }
        if let Call::C_FindObjects(session, _) = call {
            let Reply::C_FindObjects(mut found) = self.backend.call(call) else {
                panic!("another function's reply");
            };
            let is_hidden = |object: &ObjectHandle| {
                attached().any(|(_, action)| action.hides(session, *object, &context))
            };
            found.objects.retain(|object| !is_hidden(object));
            found.count = Ulong(found.objects.len() as u64);
            return Reply::C_FindObjects(found);
        }
        self.backend.call(call)
    }
}

// Values, written as text: `CLASS=#4 WRAP=T ID=0x0102 LABEL=`

/// Returns the type of `WRAP`, `LABEL` and so on.
pub fn number(name: &str) -> AttributeType {
    let boolean = Boolean::ALL
        .iter()
        .find(|it| it.name() == format!("CKA_{name}"));
    if let Some(boolean) = boolean {
        return boolean.attribute_type();
    }
    AttributeType(match name {
        "CLASS" => 0x0,
        "TOKEN" => 0x1,
        "LABEL" => 0x3,
        "VALUE" => 0x11,
        "TRUSTED" => 0x86,
        "KEY_TYPE" => 0x100,
        "ID" => 0x102,
        "MODULUS" => 0x120,
        "MODULUS_BITS" => 0x121,
        "PRIVATE_EXPONENT" => 0x123,
        "PRIME_1" => 0x124,
        "PRIME_2" => 0x125,
        "EXPONENT_1" => 0x126,
        "EXPONENT_2" => 0x127,
        "COEFFICIENT" => 0x128,
        "VALUE_LEN" => 0x161,
        "EC_PARAMS" => 0x180,
        "EC_POINT" => 0x181,
        "SEED" => 0x637,
        _ => panic!("{name}"),
    })
}

pub fn hex(digits: &str) -> Vec<u8> {
    let digits: String = digits.split_whitespace().collect();
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn value(text: &str) -> Vec<u8> {
    match text {
        "T" => vec![1],
        "F" => vec![0],
        _ if text.starts_with('#') => {
            let number: std::ffi::c_ulong = text[1..].parse().expect("a number");
            number.to_ne_bytes().to_vec()
        }
        _ if text.starts_with("0x") => hex(&text[2..]),
        _ => text.as_bytes().to_vec(),
    }
}

/// Makes a template of this text.
pub fn t(text: &str) -> Option<Template> {
    Some(attributes(text))
}

/// Makes the attributes of this text.
pub fn attributes(text: &str) -> Template {
    let attribute = |part: &str| {
        let (name, text) = part.split_once('=').expect("name=value");
        Attribute::new(number(name), value(text))
    };
    Template(text.split_whitespace().map(attribute).collect())
}

pub const S: SessionHandle = SessionHandle(1);
/// Unbounded room.
pub const ALL: Room = Room::Unbounded;
/// Room for a few handles.
pub const SOME: Room = Room::Buffer(9);

pub fn mechanism(mechanism_type: u64, parameter: &[u8]) -> Option<Mechanism> {
    let mechanism_type = MechanismType(mechanism_type);
    let host = xdr::Architecture::host();
    Some(Mechanism::laid_out(
        mechanism_type,
        parameter.to_vec(),
        host,
    ))
}

/// Asks for the attributes of these names: for the lengths if `room` is 0, otherwise for the values.
pub fn query(names: &[&str], room: usize) -> Option<Query> {
    let wanted = |name: &&str| match room {
        0 => Wanted::length(number(name)),
        room => Wanted::value(number(name), room),
    };
    Some(Query(names.iter().map(wanted).collect()))
}

/// Makes a call of one of the functions that use keys, with this key and, if it uses two, another.
pub fn use_of(function: Function, key: ObjectHandle, other: ObjectHandle) -> Call<'static> {
    let m = || mechanism(0x1082, &[0; 16]);
    match function {
        C_EncryptInit => Call::C_EncryptInit(S, m(), key),
        C_DecryptInit => Call::C_DecryptInit(S, m(), key),
        C_SignInit => Call::C_SignInit(S, m(), key),
        C_SignRecoverInit => Call::C_SignRecoverInit(S, m(), key),
        C_VerifyInit => Call::C_VerifyInit(S, m(), key),
        C_VerifyRecoverInit => Call::C_VerifyRecoverInit(S, m(), key),
        C_DigestKey => Call::C_DigestKey(S, key),
        C_DeriveKey => Call::C_DeriveKey(S, m(), key, t("CLASS=#4")),
        C_WrapKey => Call::C_WrapKey(S, m(), key, other, ALL),
        C_UnwrapKey => Call::C_UnwrapKey(S, m(), key, b"wrapped".into(), t("CLASS=#4")),
        C_SetOperationState => Call::C_SetOperationState(S, b"state".into(), key, other),
        _ => panic!("{}", function.name()),
    }
}

/// Returns the handle of the object that a call has made.
pub fn made(reply: Reply) -> ObjectHandle {
    assert_eq!(reply.rv(), CkRv::OK, "{reply:?}");
    handle(reply).expect("a handle")
}

fn handle(reply: Reply) -> Option<ObjectHandle> {
    match reply {
        Reply::C_CreateObject(made) | Reply::C_CopyObject(made) => made.object,
        Reply::C_GenerateKey(made)
        | Reply::C_UnwrapKey(made)
        | Reply::C_DeriveKey(made)
        | Reply::C_DecapsulateKey(made)
        | Reply::C_UnwrapKeyAuthenticated(made) => made.object,
        other => panic!("{other:?}"),
    }
}

/// Reads an attribute as an application does, in two calls.
pub fn read(
    of: &dyn Cryptoki,
    session: SessionHandle,
    object: ObjectHandle,
    name: &str,
) -> Option<Vec<u8>> {
    let ask = |room| match of.call(Call::C_GetAttributeValue(
        session,
        object,
        query(&[name], room),
    )) {
        Reply::C_GetAttributeValue(mut result) if result.rv.is_ok() => result.answers.0.pop(),
        _ => None,
    };
    let length = match ask(0)?.found {
        Found::Length(length) => usize::try_from(length).expect("a short value"),
        _ => return None,
    };
    if length == 0 {
        return Some(Vec::new());
    }
    Some(ask(length)?.bytes()?.to_vec())
}
