//! Tests every function with its checks, their order and their codes, from one table.
//!
//! The tests derived from the table are: each check with its rule off and on, passed and failed; each function
//! forbidden and not; and, with all rules on, which of several failing checks decides.

mod support;

use support::{BAD, Guarded, LABEL, SESSION, sample, template};
use xdr::{
    Architecture, Call, CkRv, Flags, Function, Input, Mechanism, MechanismType, ObjectHandle,
    Query, Reply, Room, SlotId, Ulong, UserType,
};

/// One way in which a call offends a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Offence {
    /// The object, or the first of two.
    Object,
    /// The second of two objects.
    Second,
    /// The mechanism.
    Mechanism,
    /// A key in the mechanism's parameter.
    Parameter,
    /// The mechanism's padding.
    Padding,
    /// The label in the template, or in the first of two.
    Label,
    /// The label in the second of two templates.
    SecondLabel,
    /// The user who logs in.
    User,
    /// The function, which only administrators may call.
    Administration,
    /// The function, which is asynchronous, while there are rules about objects.
    Asynchrony,
}

use Offence::*;

/// CKM_RSA_X_509, forbidden by the rule below and in the list of mechanisms with a padding oracle.
const FORBIDDEN: u64 = 0x3;
/// CKM_AES_CBC_PAD, in that list.
const PADDED: u64 = 0x1085;
/// CKM_CONCATENATE_BASE_AND_KEY, whose parameter is the handle of a key.
const WITH_KEY: u64 = 0x360;

impl Offence {
    fn rule(self, function: Function) -> String {
        let kind = match function {
            Function::C_EncryptInit
            | Function::C_MessageEncryptInit
            | Function::C_EncryptMessage
            | Function::C_EncryptMessageBegin
            | Function::C_EncryptMessageNext => "encrypt",
            Function::C_DecryptInit
            | Function::C_MessageDecryptInit
            | Function::C_DecryptMessage
            | Function::C_DecryptMessageBegin
            | Function::C_DecryptMessageNext => "decrypt",
            Function::C_SignInit
            | Function::C_MessageSignInit
            | Function::C_SignMessage
            | Function::C_SignMessageBegin
            | Function::C_SignMessageNext => "sign",
            Function::C_WrapKey | Function::C_WrapKeyAuthenticated | Function::C_EncapsulateKey => {
                "wrap"
            }
            _ => "unwrap",
        };
        match self {
            Object | Second | Parameter | Label | SecondLabel | Asynchrony => {
                "allowed_labels = [(\".*\", [\"good\"])]".into()
            }
            Mechanism => "forbidden_mechanisms = [(\".*\", [CKM_RSA_X_509])]".into(),
            Padding => format!("remove_padding_oracles = [(\".*\", [{kind}])]"),
            User | Administration => "forbid_admin_operations = [(\".*\", yes)]".into(),
        }
    }
}

const OBJECT: u64 = 0x82;
const MECHANISM: u64 = 0x70;
const VALUE: u64 = 0x13;

/// Every function, and what it checks, in this order. Written by hand, so that it checks the filter, and the table of
/// facts from which the filter derives its checks.
#[rustfmt::skip]
const CHECKS: &[(Function, &[(Offence, u64)])] = &[
    // The connection
    (Function::C_SetupArch, &[]),
    (Function::C_LoadModule, &[]),

    // General purpose
    (Function::C_Initialize, &[]),
    (Function::C_Finalize, &[]),
    (Function::C_GetInfo, &[]),

    // Slots and tokens
    (Function::C_GetSlotList, &[]),
    (Function::C_GetSlotInfo, &[]),
    (Function::C_GetTokenInfo, &[]),
    (Function::C_WaitForSlotEvent, &[]),
    (Function::C_GetMechanismList, &[]),
    (Function::C_GetMechanismInfo, &[(Mechanism, MECHANISM)]),
    (Function::C_InitToken, &[(Administration, 0x54)]),
    (Function::C_InitPIN, &[(Administration, 0x54)]),
    (Function::C_SetPIN, &[]),

    // Sessions
    (Function::C_OpenSession, &[]),
    (Function::C_CloseSession, &[]),
    (Function::C_CloseAllSessions, &[]),
    (Function::C_GetSessionInfo, &[]),
    (Function::C_GetOperationState, &[]),
    (Function::C_SetOperationState, &[(Object, OBJECT), (Second, OBJECT)]),
    (Function::C_Login, &[(User, 0x103)]),
    (Function::C_Logout, &[]),
    (Function::C_GetFunctionStatus, &[]),
    (Function::C_CancelFunction, &[]),

    // Objects
    (Function::C_CreateObject, &[(Label, VALUE)]),
    (Function::C_CopyObject, &[(Object, OBJECT), (Label, VALUE)]),
    (Function::C_DestroyObject, &[(Object, OBJECT)]),
    (Function::C_GetObjectSize, &[(Object, OBJECT)]),
    (Function::C_GetAttributeValue, &[(Object, OBJECT)]),
    (Function::C_SetAttributeValue, &[(Object, OBJECT), (Label, VALUE)]),
    (Function::C_FindObjectsInit, &[]),
    (Function::C_FindObjects, &[]),
    (Function::C_FindObjectsFinal, &[]),

    // Encryption and decryption
    (Function::C_EncryptInit, &[(Object, OBJECT), (Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM)]),
    (Function::C_Encrypt, &[]),
    (Function::C_EncryptUpdate, &[]),
    (Function::C_EncryptFinal, &[]),
    (Function::C_DecryptInit, &[(Object, OBJECT), (Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM)]),
    (Function::C_Decrypt, &[]),
    (Function::C_DecryptUpdate, &[]),
    (Function::C_DecryptFinal, &[]),

    // Digests
    (Function::C_DigestInit, &[(Mechanism, MECHANISM), (Parameter, OBJECT)]),
    (Function::C_Digest, &[]),
    (Function::C_DigestUpdate, &[]),
    (Function::C_DigestKey, &[(Object, OBJECT)]),
    (Function::C_DigestFinal, &[]),

    // Signatures
    (Function::C_SignInit, &[(Object, OBJECT), (Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM)]),
    (Function::C_Sign, &[]),
    (Function::C_SignUpdate, &[]),
    (Function::C_SignFinal, &[]),
    (Function::C_SignRecoverInit, &[(Object, OBJECT), (Mechanism, MECHANISM), (Parameter, OBJECT)]),
    (Function::C_SignRecover, &[]),
    (Function::C_VerifyInit, &[(Object, OBJECT), (Mechanism, MECHANISM), (Parameter, OBJECT)]),
    (Function::C_Verify, &[]),
    (Function::C_VerifyUpdate, &[]),
    (Function::C_VerifyFinal, &[]),
    (Function::C_VerifyRecoverInit, &[(Object, OBJECT), (Mechanism, MECHANISM), (Parameter, OBJECT)]),
    (Function::C_VerifyRecover, &[]),

    // Two operations at once
    (Function::C_DigestEncryptUpdate, &[]),
    (Function::C_DecryptDigestUpdate, &[]),
    (Function::C_SignEncryptUpdate, &[]),
    (Function::C_DecryptVerifyUpdate, &[]),

    // Keys
    (Function::C_GenerateKey, &[(Mechanism, MECHANISM), (Parameter, OBJECT), (Label, VALUE)]),
    (Function::C_GenerateKeyPair, &[(Mechanism, MECHANISM), (Parameter, OBJECT), (Label, VALUE), (SecondLabel, VALUE)]),
    (Function::C_WrapKey, &[(Object, 0x113), (Second, OBJECT), (Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM)]),
    (Function::C_UnwrapKey, &[(Object, 0xf0), (Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM), (Label, VALUE)]),
    (Function::C_DeriveKey, &[(Object, OBJECT), (Mechanism, MECHANISM), (Parameter, OBJECT), (Label, VALUE)]),

    // Random numbers
    (Function::C_SeedRandom, &[]),
    (Function::C_GenerateRandom, &[]),

    // PKCS#11 v3.0
    (Function::C_LoginUser, &[(User, 0x103)]),
    (Function::C_SessionCancel, &[]),
    (Function::C_MessageEncryptInit, &[(Object, OBJECT), (Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM)]),
    (Function::C_EncryptMessage, &[(Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM)]),
    (Function::C_EncryptMessageBegin, &[(Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM)]),
    (Function::C_EncryptMessageNext, &[(Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM)]),
    (Function::C_MessageEncryptFinal, &[]),
    (Function::C_MessageDecryptInit, &[(Object, OBJECT), (Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM)]),
    (Function::C_DecryptMessage, &[(Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM)]),
    (Function::C_DecryptMessageBegin, &[(Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM)]),
    (Function::C_DecryptMessageNext, &[(Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM)]),
    (Function::C_MessageDecryptFinal, &[]),
    (Function::C_MessageSignInit, &[(Object, OBJECT), (Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM)]),
    (Function::C_SignMessage, &[(Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM)]),
    (Function::C_SignMessageBegin, &[(Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM)]),
    (Function::C_SignMessageNext, &[(Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM)]),
    (Function::C_MessageSignFinal, &[]),
    (Function::C_MessageVerifyInit, &[(Object, OBJECT), (Mechanism, MECHANISM), (Parameter, OBJECT)]),
    (Function::C_VerifyMessage, &[(Mechanism, MECHANISM), (Parameter, OBJECT)]),
    (Function::C_VerifyMessageBegin, &[(Mechanism, MECHANISM), (Parameter, OBJECT)]),
    (Function::C_VerifyMessageNext, &[(Mechanism, MECHANISM), (Parameter, OBJECT)]),
    (Function::C_MessageVerifyFinal, &[]),

    // PKCS#11 v3.2
    (Function::C_EncapsulateKey, &[(Object, OBJECT), (Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM), (Label, VALUE)]),
    (Function::C_DecapsulateKey, &[(Object, OBJECT), (Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM), (Label, VALUE)]),
    (Function::C_VerifySignatureInit, &[(Object, OBJECT), (Mechanism, MECHANISM), (Parameter, OBJECT)]),
    (Function::C_VerifySignature, &[]),
    (Function::C_VerifySignatureUpdate, &[]),
    (Function::C_VerifySignatureFinal, &[]),
    (Function::C_GetSessionValidationFlags, &[]),
    (Function::C_AsyncComplete, &[(Asynchrony, 0x54)]),
    (Function::C_AsyncGetID, &[(Asynchrony, 0x54)]),
    (Function::C_AsyncJoin, &[(Asynchrony, 0x54)]),
    (Function::C_WrapKeyAuthenticated, &[(Object, 0x113), (Second, OBJECT), (Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM)]),
    (Function::C_UnwrapKeyAuthenticated, &[(Object, 0xf0), (Mechanism, MECHANISM), (Parameter, OBJECT), (Padding, MECHANISM), (Label, VALUE)]),
];

/// Makes a call with these offences. Of several offences of the mechanism, it has only the first in the table.
fn offending(function: Function, offences: &[Offence]) -> Call<'static> {
    use xdr::Call::*;

    let has = |offence| offences.contains(&offence);
    let object = |offence| if has(offence) { BAD } else { support::GOOD };
    let mechanism = || {
        let (kind, parameter) = match () {
            () if has(Mechanism) => (FORBIDDEN, Vec::new()),
            () if has(Parameter) => (WITH_KEY, (BAD.0 as usize).to_ne_bytes().to_vec()),
            () if has(Padding) => (PADDED, Vec::new()),
            () => (0x220, Vec::new()),
        };
        let kind = MechanismType(kind);
        Some(Mechanism::laid_out(kind, parameter, Architecture::host()))
    };
    let parameter = || mechanism().expect("it is not NULL");
    let label = |offence| template(&[(LABEL, if has(offence) { b"bad" } else { b"good" })]);
    let user = UserType(if has(User) { 0 } else { 1 });
    let (s, slot, r) = (SESSION, SlotId(0), Room::Buffer(64));
    let (data, pin): (Input<'static>, Input<'static>) = (b"".into(), b"pin".into());
    match sample(function) {
        C_GetMechanismInfo(..) => C_GetMechanismInfo(slot, parameter().mechanism_type()),
        C_SetOperationState(..) => C_SetOperationState(s, data, object(Object), object(Second)),
        C_Login(..) => C_Login(s, user, pin),
        C_LoginUser(..) => C_LoginUser(s, user, pin, b"name".into()),
        C_CreateObject(..) => C_CreateObject(s, label(Label)),
        C_CopyObject(..) => C_CopyObject(s, object(Object), label(Label)),
        C_DestroyObject(..) => C_DestroyObject(s, object(Object)),
        C_GetObjectSize(..) => C_GetObjectSize(s, object(Object)),
        C_GetAttributeValue(..) => C_GetAttributeValue(s, object(Object), Some(Query::default())),
        C_SetAttributeValue(..) => C_SetAttributeValue(s, object(Object), label(Label)),
        C_EncryptInit(..) => C_EncryptInit(s, mechanism(), object(Object)),
        C_DecryptInit(..) => C_DecryptInit(s, mechanism(), object(Object)),
        C_DigestInit(..) => C_DigestInit(s, mechanism()),
        C_DigestKey(..) => C_DigestKey(s, object(Object)),
        C_SignInit(..) => C_SignInit(s, mechanism(), object(Object)),
        C_SignRecoverInit(..) => C_SignRecoverInit(s, mechanism(), object(Object)),
        C_VerifyInit(..) => C_VerifyInit(s, mechanism(), object(Object)),
        C_VerifyRecoverInit(..) => C_VerifyRecoverInit(s, mechanism(), object(Object)),
        C_GenerateKey(..) => C_GenerateKey(s, mechanism(), label(Label)),
        C_GenerateKeyPair(..) => {
            C_GenerateKeyPair(s, mechanism(), label(Label), label(SecondLabel))
        }
        C_WrapKey(..) => C_WrapKey(s, mechanism(), object(Object), object(Second), r),
        C_UnwrapKey(..) => C_UnwrapKey(s, mechanism(), object(Object), data, label(Label)),
        C_DeriveKey(..) => C_DeriveKey(s, mechanism(), object(Object), label(Label)),
        C_MessageEncryptInit(..) => C_MessageEncryptInit(s, mechanism(), object(Object)),
        C_EncryptMessage(..) => C_EncryptMessage(s, parameter(), data, data, r),
        C_EncryptMessageBegin(..) => C_EncryptMessageBegin(s, parameter(), data),
        C_EncryptMessageNext(..) => C_EncryptMessageNext(s, parameter(), data, r, Flags(0)),
        C_MessageDecryptInit(..) => C_MessageDecryptInit(s, mechanism(), object(Object)),
        C_DecryptMessage(..) => C_DecryptMessage(s, parameter(), data, data, r),
        C_DecryptMessageBegin(..) => C_DecryptMessageBegin(s, parameter(), data),
        C_DecryptMessageNext(..) => C_DecryptMessageNext(s, parameter(), data, r, Flags(0)),
        C_MessageSignInit(..) => C_MessageSignInit(s, mechanism(), object(Object)),
        C_SignMessage(..) => C_SignMessage(s, parameter(), data, r),
        C_SignMessageBegin(..) => C_SignMessageBegin(s, parameter()),
        C_SignMessageNext(..) => C_SignMessageNext(s, parameter(), data, r),
        C_MessageVerifyInit(..) => C_MessageVerifyInit(s, mechanism(), object(Object)),
        C_VerifyMessage(..) => C_VerifyMessage(s, parameter(), data, data),
        C_VerifyMessageBegin(..) => C_VerifyMessageBegin(s, parameter()),
        C_VerifyMessageNext(..) => C_VerifyMessageNext(s, parameter(), data, data),
        C_EncapsulateKey(..) => C_EncapsulateKey(s, mechanism(), object(Object), label(Label), r),
        C_DecapsulateKey(..) => {
            C_DecapsulateKey(s, mechanism(), object(Object), label(Label), data)
        }
        C_VerifySignatureInit(..) => C_VerifySignatureInit(s, mechanism(), object(Object), data),
        C_WrapKeyAuthenticated(..) => {
            C_WrapKeyAuthenticated(s, mechanism(), object(Object), object(Second), data, r)
        }
        C_UnwrapKeyAuthenticated(..) => {
            C_UnwrapKeyAuthenticated(s, mechanism(), object(Object), data, label(Label), data)
        }
        other => other,
    }
}

/// Functions that do the work of two others, and are forbidden if either of them is.
#[rustfmt::skip]
const PARTS: [(Function, [Function; 2]); 4] = [
    (Function::C_DigestEncryptUpdate, [Function::C_DigestUpdate, Function::C_EncryptUpdate]),
    (Function::C_DecryptDigestUpdate, [Function::C_DecryptUpdate, Function::C_DigestUpdate]),
    (Function::C_SignEncryptUpdate, [Function::C_SignUpdate, Function::C_EncryptUpdate]),
    (Function::C_DecryptVerifyUpdate, [Function::C_DecryptUpdate, Function::C_VerifyUpdate]),
];

/// The newer functions, each with the older one whose rules apply to it. Written by hand, so that it checks the facts.
#[rustfmt::skip]
const RELATIVES: [(Function, Function); 34] = [
    (Function::C_LoginUser, Function::C_Login),
    (Function::C_SessionCancel, Function::C_CancelFunction),
    (Function::C_MessageEncryptInit, Function::C_EncryptInit),
    (Function::C_EncryptMessage, Function::C_Encrypt),
    (Function::C_EncryptMessageBegin, Function::C_EncryptUpdate),
    (Function::C_EncryptMessageNext, Function::C_EncryptUpdate),
    (Function::C_MessageEncryptFinal, Function::C_EncryptFinal),
    (Function::C_MessageDecryptInit, Function::C_DecryptInit),
    (Function::C_DecryptMessage, Function::C_Decrypt),
    (Function::C_DecryptMessageBegin, Function::C_DecryptUpdate),
    (Function::C_DecryptMessageNext, Function::C_DecryptUpdate),
    (Function::C_MessageDecryptFinal, Function::C_DecryptFinal),
    (Function::C_MessageSignInit, Function::C_SignInit),
    (Function::C_SignMessage, Function::C_Sign),
    (Function::C_SignMessageBegin, Function::C_SignUpdate),
    (Function::C_SignMessageNext, Function::C_SignUpdate),
    (Function::C_MessageSignFinal, Function::C_SignFinal),
    (Function::C_MessageVerifyInit, Function::C_VerifyInit),
    (Function::C_VerifyMessage, Function::C_Verify),
    (Function::C_VerifyMessageBegin, Function::C_VerifyUpdate),
    (Function::C_VerifyMessageNext, Function::C_VerifyUpdate),
    (Function::C_MessageVerifyFinal, Function::C_VerifyFinal),
    (Function::C_EncapsulateKey, Function::C_DeriveKey),
    (Function::C_DecapsulateKey, Function::C_DeriveKey),
    (Function::C_VerifySignatureInit, Function::C_VerifyInit),
    (Function::C_VerifySignature, Function::C_Verify),
    (Function::C_VerifySignatureUpdate, Function::C_VerifyUpdate),
    (Function::C_VerifySignatureFinal, Function::C_VerifyFinal),
    (Function::C_GetSessionValidationFlags, Function::C_GetSessionInfo),
    (Function::C_AsyncComplete, Function::C_GetFunctionStatus),
    (Function::C_AsyncGetID, Function::C_GetFunctionStatus),
    (Function::C_AsyncJoin, Function::C_GetFunctionStatus),
    (Function::C_WrapKeyAuthenticated, Function::C_WrapKey),
    (Function::C_UnwrapKeyAuthenticated, Function::C_UnwrapKey),
];

/// Returns the functions that rules can be about.
fn functions() -> impl Iterator<Item = Function> {
    let ours = [Function::C_SetupArch, Function::C_LoadModule];
    Function::ALL
        .iter()
        .copied()
        .filter(move |function| !ours.contains(function))
}

fn checks(function: Function) -> &'static [(Offence, u64)] {
    CHECKS
        .iter()
        .find(|(checked, _)| *checked == function)
        .map(|(_, checks)| *checks)
        .expect("the table has every function")
}

/// Returns the reply to a refused call.
fn empty(function: Function, rv: CkRv) -> Reply {
    let mut reply = Reply::only(function, rv);
    match &mut reply {
        Reply::C_GetSessionInfo(result) => result.info.slot_id = SlotId(u64::MAX),
        Reply::C_WaitForSlotEvent(result) => result.slot_id = SlotId(u64::MAX),
        Reply::C_GetObjectSize(result) => result.size = Ulong(u64::MAX),
        _ => {}
    }
    reply
}

#[track_caller]
fn assert_passes(guarded: &Guarded, call: Call<'_>) {
    let function = call.function();
    let (reply, asked) = guarded.watch(call);
    assert!(reply.rv().is_ok(), "{reply:?}");
    assert_eq!(asked.last(), Some(&function));
}

#[track_caller]
fn assert_refused(guarded: &Guarded, call: Call<'_>, rv: u64, why: &dyn std::fmt::Debug) {
    let function = call.function();
    let (reply, asked) = guarded.watch(call);
    assert!(
        reply == empty(function, CkRv(rv)),
        "{reply:?} instead of {rv:#x} for {why:?}"
    );
    // Nothing but attributes of the object was read.
    assert!(
        asked
            .iter()
            .all(|asked| *asked == Function::C_GetAttributeValue),
        "{asked:?}"
    );
}

#[test]
fn the_table_has_each_function_once() {
    let mut rows: Vec<Function> = CHECKS.iter().map(|(function, _)| *function).collect();
    rows.sort();
    let mut all = Function::ALL.to_vec();
    all.sort();
    assert_eq!(rows, all);
}

/// A function that is newer than PKCS#11 v2.20 must have a row here, or no rule would apply to it.
#[test]
fn each_newer_function_has_its_older_relative() {
    let newer = functions().filter(|function| function.number() >= 100);
    let expected: Vec<_> = newer.map(|it| (it, it.older())).collect();
    let mut rows = RELATIVES;
    rows.sort();
    assert_eq!(rows.as_slice(), expected);
    assert!(expected.iter().all(|(newer, older)| newer != older));
    let older = functions().filter(|function| function.number() < 100);
    assert_eq!(older.filter(|it| it.older() != *it).count(), 0);
}

#[test]
fn each_check_is_made_when_its_rule_is_on() {
    for (function, checks) in CHECKS {
        for (offence, rv) in *checks {
            let call = || offending(*function, &[*offence]);
            assert_passes(&Guarded::new(""), call());
            let rule = Guarded::new(&offence.rule(*function));
            assert_refused(&rule, call(), *rv, offence);
            if ![Administration, Asynchrony].contains(offence) {
                assert_passes(&rule, offending(*function, &[]));
            }
        }
    }
}

#[test]
fn the_first_failing_check_decides() {
    for (function, checks) in CHECKS {
        let mut rules: Vec<String> = checks.iter().map(|(o, _)| o.rule(*function)).collect();
        rules.sort();
        rules.dedup();
        let guarded = Guarded::new(&rules.join("\n"));
        for start in 0..checks.len() {
            let offences: Vec<Offence> = checks[start..].iter().map(|(o, _)| *o).collect();
            assert_refused(
                &guarded,
                offending(*function, &offences),
                checks[start].1,
                &offences,
            );
        }
    }
}

#[test]
fn no_rule_refuses_a_function_that_checks_nothing() {
    let rules = [
        "allowed_labels = [(\".*\", [])]",
        "allowed_ids = [(\".*\", [])]",
        "forbidden_mechanisms = [(\".*\", [CKM_RSA_X_509, 0])]",
        "remove_padding_oracles = [(\".*\", [all, decrypt])]",
        "forbid_admin_operations = [(\".*\", yes)]",
        "enforce_ro_sessions = [(\".*\", yes)]",
    ];
    let guarded = Guarded::new(&rules.join("\n"));
    guarded.call(sample(Function::C_FindObjectsInit));
    for function in functions().filter(|function| checks(*function).is_empty()) {
        if function != Function::C_Finalize {
            assert_passes(&guarded, sample(function));
        }
    }
}

#[test]
fn each_function_can_be_forbidden_alone() {
    for function in functions() {
        let name = function.name();
        let rule = Guarded::new(&format!("forbidden_functions = [(\".*\", [{name}])]"));
        assert_refused(&rule, sample(function), 0x54, &"forbidden");
        for other in functions().filter(|other| *other != function) {
            let (reply, _) = rule.watch(sample(other));
            let searches = [Function::C_FindObjectsInit, Function::C_FindObjects];
            let does_the_same = RELATIVES
                .iter()
                .any(|(newer, older)| *newer == other && *older == function);
            if does_the_same
                || PARTS
                    .iter()
                    .any(|(combined, parts)| *combined == other && parts.contains(&function))
            {
                assert_refused(&rule, sample(other), 0x54, &function);
            } else {
                assert!(reply.rv().is_ok() || searches.contains(&other), "{reply:?}");
            }
        }
        // A forbidden function is refused before anything else is looked at.
        let offences: Vec<Offence> = checks(function).iter().map(|(o, _)| *o).collect();
        let mut rules: Vec<String> = offences.iter().map(|o| o.rule(function)).collect();
        rules.push(format!("forbidden_functions = [(\".*\", [{name}])]"));
        rules.sort();
        rules.dedup();
        let all = Guarded::new(&rules.join("\n"));
        let (_, asked) = all.watch(offending(function, &offences));
        assert_eq!(asked, []);
        assert_refused(&all, offending(function, &offences), 0x54, &offences);
    }
}

#[test]
fn a_read_only_session_is_opened_without_the_flag() {
    for (rule, expected) in [
        ("yes", 4),
        ("no", 6),
        ("no), (\"m\", yes", 6),
        ("yes), (\".*\", no", 4),
    ] {
        let guarded = Guarded::new(&format!("enforce_ro_sessions = [(\".*\", {rule})]"));
        guarded.call(Call::C_OpenSession(SlotId(0), Flags(6), false));
        let calls = guarded.module.calls.lock().unwrap();
        assert!(
            calls.as_slice() == [Call::C_OpenSession(SlotId(0), Flags(expected), false)],
            "{rule}"
        );
    }
}

#[test]
fn administration_can_be_cut_down_to_the_login_as_in_the_original() {
    let rule = "forbid_admin_operations = [(\".*\", yes)]";
    let guarded = Guarded::with(rule, "admin-login-only", support::Fake::default());
    assert_passes(&guarded, sample(Function::C_InitToken));
    assert_passes(&guarded, sample(Function::C_InitPIN));
    for (user, rv) in [(0, 0x103), (1, 0), (2, 0x103), (3, 0)] {
        let reply = guarded.call(Call::C_Login(SESSION, UserType(user), b"pin".into()));
        assert_eq!(reply.rv(), CkRv(rv), "{user}");
    }
}

/// CKM_SHA224_RSA_PKCS, CKM_CAMELLIA_CBC_PAD, CKM_ARIA_CBC_PAD.
#[test]
fn the_padding_list_is_longer_than_the_originals_unless_asked_for() {
    let rule = "remove_padding_oracles = [(\".*\", [encrypt])]";
    for kind in [0x46, 0x555, 0x565] {
        let call = || Call::C_EncryptInit(SESSION, support::mechanism(kind), ObjectHandle(1));
        assert_refused(&Guarded::new(rule), call(), MECHANISM, &kind);
        let short = Guarded::with(rule, "original-padding-list", support::Fake::default());
        assert_passes(&short, call());
    }
    // All mechanisms of the original's list, for each of its kinds of operation, and no others.
    let original: Vec<u64> = (1..=8)
        .filter(|kind| *kind != 2)
        .chain([
            0x40, 0x41, 0x42, 0x105, 0x125, 0x136, 0x145, 0x305, 0x315, 0x325, 0x335, 0x345,
        ])
        .chain([0x1085])
        .collect();
    let all = "remove_padding_oracles = [(\".*\", [all])]";
    let short = Guarded::with(all, "original-padding-list", support::Fake::default());
    for kind in 0..0x4000 {
        let call = Call::C_SignInit(SESSION, support::mechanism(kind), ObjectHandle(1));
        assert_eq!(
            short.call(call).rv().is_ok(),
            !original.contains(&kind),
            "{kind:#x}"
        );
        let call = Call::C_DecryptInit(SESSION, support::mechanism(kind), ObjectHandle(1));
        assert!(short.call(call).rv().is_ok(), "decrypt is not among all");
    }
}
