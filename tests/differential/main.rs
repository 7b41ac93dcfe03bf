//! Sends the same request bytes to the original's daemon and to ours: the replies must be the same, field by field,
//! except for the rows of DIFFERENCES.md, each of which names its test here.
//!
//! Both daemons have SoftHSM behind them, with copies of one token, so that slots, serial numbers and the handles of
//! equal calls are equal.

#[path = "../support/mod.rs"]
mod support;

mod calls;
mod documented;
mod messages;
mod rules;
mod sets;

use support::raw::{self, Answer, Both, Peer};
use support::script::run_script;
use support::{Maker, Stack, Token};
use xdr::version3::{Attribute, Call, Mechanism, Reply, Template};
use xdr::{
    Architecture, AttributeType, Flags, Function, MechanismType, ObjectHandle, SessionHandle,
    SlotId, Ulong, UserType,
};

const CLASS: u64 = 0x000;
const TOKEN: u64 = 0x001;
const LABEL: u64 = 0x003;
const VALUE: u64 = 0x011;
const KEY_TYPE: u64 = 0x100;
const ID: u64 = 0x102;
const SENSITIVE: u64 = 0x103;
const ENCRYPT: u64 = 0x104;
const DECRYPT: u64 = 0x105;
const WRAP: u64 = 0x106;
const UNWRAP: u64 = 0x107;
const SIGN: u64 = 0x108;
const VERIFY: u64 = 0x10a;
const MODULUS_BITS: u64 = 0x121;
const VALUE_LEN: u64 = 0x161;
const EXTRACTABLE: u64 = 0x162;
const WRAP_TEMPLATE: u64 = 0x4000_0211;

const SECRET_KEY: u64 = 4;
const GENERIC_SECRET: u64 = 0x10;
const AES: u64 = 0x1f;

const SHA256: u64 = 0x250;
const SHA256_HMAC: u64 = 0x251;
const AES_KEY_GEN: u64 = 0x1080;
const AES_ECB: u64 = 0x1081;
const AES_CBC: u64 = 0x1082;
const AES_CBC_PAD: u64 = 0x1085;
const AES_GCM: u64 = 0x1087;
const AES_KEY_WRAP: u64 = 0x2109;

fn template(attributes: &[(u64, &[u8])]) -> Template {
    let make = |(kind, value): &(u64, &[u8])| Attribute::new(AttributeType(*kind), value.to_vec());
    Template(attributes.iter().map(make).collect())
}

fn mechanism(kind: u64, parameter: &[u8]) -> Mechanism {
    Mechanism::unread(MechanismType(kind), parameter.to_vec())
}

/// A CK_ULONG of a client of this architecture.
fn word(architecture: Architecture, number: u64) -> Vec<u8> {
    match architecture {
        Architecture::LITTLE_64 => number.to_le_bytes().to_vec(),
        Architecture::LITTLE_32 => (number as u32).to_le_bytes().to_vec(),
        Architecture::BIG_64 => number.to_be_bytes().to_vec(),
        _ => (number as u32).to_be_bytes().to_vec(),
    }
}

fn long(number: u64) -> Vec<u8> {
    word(Architecture::LITTLE_64, number)
}

const SESSION: SessionHandle = SessionHandle(1);

/// Two connections on which everything up to the user's login was called.
fn logged_in() -> Both {
    logged_in_as(Architecture::LITTLE_64)
}

fn logged_in_as(architecture: Architecture) -> Both {
    let mut both = initialised(architecture);
    let slot = both.token_slot();
    both.same(Call::C_OpenSession(slot, Flags(6)));
    both.same(Call::C_Login(SESSION, UserType(1), b"1234"));
    both
}

fn initialised(architecture: Architecture) -> Both {
    let mut both = Both::new();
    both.same(Call::C_SetupArch(architecture));
    both.same(Call::C_LoadModule(b"softhsm"));
    both.same(Call::C_Initialize());
    both
}

/// An imported key, the same on both sides; its handle.
fn key(both: &mut Both, kind: u64, more: &[(u64, &[u8])]) -> ObjectHandle {
    let (class, kind) = (long(SECRET_KEY), long(kind));
    let value: Vec<u8> = (0..16).collect();
    let mut attributes: Vec<(u64, &[u8])> = vec![
        (CLASS, &class),
        (KEY_TYPE, &kind),
        (VALUE, &value),
        (TOKEN, &[0]),
    ];
    attributes.extend_from_slice(more);
    match both.same(Call::C_CreateObject(SESSION, template(&attributes))) {
        Reply::C_CreateObject(result) if result.rv.is_ok() => result.object,
        other => panic!("{other:?}"),
    }
}
