//! Lists the allowed differences between the two filters, each with its row of DIFFERENCES.md.

use xdr::version3::{Call, Reply, Template};
use xdr::{Architecture, Function, Parameter, Ulong};

use crate::base;
use crate::support::cryptoki::{cka, ckm, word};
use crate::support::raw::Answer;

/// Where two replies differ.
pub struct Case<'a> {
    pub configuration: &'a str,
    pub call: &'a Call<'a>,
    pub theirs: &'a Answer,
    pub ours: &'a Answer,
    pub architecture: Architecture,
}

/// One allowed difference.
pub struct Row {
    /// The number of the row in DIFFERENCES.md.
    pub number: &'static str,
    /// A configuration under which a situation shows it.
    pub occurs_under: &'static str,
    /// Whether both sides are in the same state afterwards.
    pub goes_on: bool,
    /// Whether this difference is that one.
    pub applies: fn(&Case<'_>) -> bool,
}

impl Case<'_> {
    fn function(&self) -> Function {
        self.call.function()
    }

    fn is_under(&self, names: &[&str]) -> bool {
        names.contains(&self.configuration)
    }

    /// The two CK_RVs; for what is no reply, all ones.
    fn rvs(&self) -> (u64, u64) {
        let rv = |answer: &Answer| match answer {
            Answer::Reply(reply) => reply.rv().0,
            _ => u64::MAX,
        };
        (rv(self.theirs), rv(self.ours))
    }

    /// Whether the original's filter failed (RPC SYSTEM_ERR).
    fn theirs_failed(&self) -> bool {
        matches!(self.theirs, Answer::Status(status) if status[..] == [0, 0, 0, 5])
    }

    /// What both found; nothing for other calls.
    fn found(&self) -> (Vec<u64>, Vec<u64>) {
        let handles = |answer: &Answer| match answer {
            Answer::Reply(Reply::C_FindObjects(found)) => {
                found.objects.iter().map(|handle| handle.0).collect()
            }
            _ => Vec::new(),
        };
        (handles(self.theirs), handles(self.ours))
    }
}

fn templates<'a>(call: &'a Call<'_>) -> Vec<&'a Template> {
    match call {
        Call::C_CreateObject(_, template)
        | Call::C_CopyObject(_, _, template)
        | Call::C_SetAttributeValue(_, _, template)
        | Call::C_GenerateKey(_, _, template)
        | Call::C_UnwrapKey(_, _, _, _, template)
        | Call::C_DeriveKey(_, _, _, template) => vec![template],
        Call::C_GenerateKeyPair(_, _, public, private) => vec![public, private],
        _ => Vec::new(),
    }
}

/// Whether a template sets one of these to TRUE.
fn sets_one_of(call: &Call<'_>, kinds: &[u64]) -> bool {
    let mut attributes = templates(call).into_iter().flat_map(|template| &template.0);
    attributes.any(|attribute| {
        let kind = attribute.attribute_type.0;
        kinds.contains(&kind) && attribute.value.iter().any(|byte| *byte != 0)
    })
}

/// Whether an attribute occurs twice in a template.
fn repeats(call: &Call<'_>) -> bool {
    templates(call).iter().any(|template| {
        let mut types: Vec<u64> = template
            .0
            .iter()
            .map(|attribute| attribute.attribute_type.0)
            .collect();
        types.sort_unstable();
        types.windows(2).any(|pair| pair[0] == pair[1])
    })
}

/// Whether a boolean is neither 0 nor 1 in one byte, or a number has another length than a word.
fn is_malformed(call: &Call<'_>, architecture: Architecture) -> bool {
    const BOOLEANS: &[u64] = &[
        cka::TOKEN,
        cka::PRIVATE,
        cka::SENSITIVE,
        cka::EXTRACTABLE,
        cka::LOCAL,
        cka::NEVER_EXTRACTABLE,
        cka::ALWAYS_SENSITIVE,
    ];
    let is_boolean =
        |kind: u64| BOOLEANS.contains(&kind) || (cka::ENCRYPT..=cka::DERIVE).contains(&kind);
    let is_number = |kind: u64| {
        matches!(
            kind,
            cka::CLASS | cka::KEY_TYPE | cka::VALUE_LEN | cka::MODULUS_BITS
        )
    };
    let length = word(architecture, 0).len();
    let mut attributes = templates(call).into_iter().flat_map(|template| &template.0);
    attributes.any(|attribute| {
        let (kind, value) = (attribute.attribute_type.0, &attribute.value);
        is_boolean(kind) && !matches!(value[..], [0 | 1])
            || is_number(kind) && value.len() != length
    })
}

/// Whether a key claims where it is from, or a copy has a value of the client's.
fn claims(call: &Call<'_>) -> bool {
    sets_one_of(call, &[cka::ALWAYS_SENSITIVE, cka::NEVER_EXTRACTABLE])
        || matches!(call, Call::C_CopyObject(..)) && sets_one_of(call, &[cka::VALUE])
}

/// Whether a template is one that ours may refuse before the module sees it, with the module's code.
pub fn is_unusual(call: &Call<'_>, architecture: Architecture) -> bool {
    repeats(call) || is_malformed(call, architecture) || claims(call)
}

/// The handle of the object with a newline in its label: behind three sessions, in order.
fn with_a_newline() -> u64 {
    let position = base::OBJECTS
        .iter()
        .position(|(label, _)| label.contains('\n'));
    4 + position.expect("there is one") as u64
}

const LABELS_OR_IDS: &[&str] = &["labels", "ids", "labels_and_ids", "other_module"];
const LEAK: &[&str] = &[
    "leak",
    "patch_set_1",
    "patch_set_2",
    "padding_and_patch_set_1",
];
const SETS: &[&str] = &["patch_set_1", "patch_set_2", "padding_and_patch_set_1"];
const BY_CLASS: &[&str] = &["non_local", "secure_templates", "sanitize", "segregation"];
/// Errors of the session, the token or the library, and of an object that is not there.
const OF_THE_SESSION: &[u64] = &[0x82, 0xb3, 0x101, 0x190];

pub const ROWS: &[Row] = &[
    // Information of a refused call: version digits.
    Row {
        number: "D-1",
        occurs_under: "functions",
        goes_on: true,
        applies: |case| {
            let (theirs, ours) = case.rvs();
            theirs == ours
                && theirs != 0
                && matches!(
                    case.function(),
                    Function::C_GetInfo | Function::C_GetSlotInfo | Function::C_GetTokenInfo
                )
        },
    },
    // An attribute that is not to be had: its length.
    Row {
        number: "D-2",
        occurs_under: "minimal",
        goes_on: true,
        applies: |case| {
            let (Answer::Reply(theirs), Answer::Reply(Reply::C_GetAttributeValue(ours))) =
                (case.theirs, case.ours)
            else {
                return false;
            };
            let mut ours = ours.clone();
            for attribute in &mut ours.template.0 {
                if attribute.value_len == Ulong::UNAVAILABLE && attribute.value.is_empty() {
                    attribute.value_len = Ulong(0);
                }
            }
            *theirs == Reply::C_GetAttributeValue(ours)
        },
    },
    // An empty mechanism parameter is NULL.
    Row {
        number: "D-4",
        occurs_under: "minimal",
        goes_on: false,
        applies: |case| {
            let (Call::C_WrapKey(_, mechanism, ..) | Call::C_UnwrapKey(_, mechanism, ..)) =
                case.call
            else {
                return false;
            };
            matches!(mechanism.parameter(), Parameter::None { .. }) && case.rvs().0 == 7
        },
    },
    // A search that was not begun, or is over, finds nothing.
    Row {
        number: "D-10",
        occurs_under: "patch_set_1",
        goes_on: false,
        applies: |case| {
            case.function() == Function::C_FindObjects && matches!(case.rvs(), (0, 0x91 | 0xb3))
        },
    },
    // The number of mechanisms of a call that failed.
    Row {
        number: "D-11",
        occurs_under: "minimal",
        goes_on: true,
        applies: |case| {
            let (theirs, ours) = case.rvs();
            theirs == ours && theirs != 0 && case.function() == Function::C_GetMechanismList
        },
    },
    // An attribute that occurs twice.
    Row {
        number: "D-81",
        occurs_under: "patch_set_1",
        goes_on: false,
        applies: |case| repeats(case.call) && case.rvs().1 == 0xd1,
    },
    // A boolean that is none, a number of an odd length.
    Row {
        number: "D-80",
        occurs_under: "patch_set_1",
        goes_on: false,
        applies: |case| is_malformed(case.call, case.architecture),
    },
    // A client of the other byte order: the original cannot read its classes.
    Row {
        number: "D-82",
        occurs_under: "sanitize",
        goes_on: false,
        applies: |case| {
            let is_big = matches!(
                case.architecture,
                Architecture::BIG_64 | Architecture::BIG_32
            );
            is_big && (case.is_under(BY_CLASS) || case.is_under(SETS))
        },
    },
    // Values of keys: the code, and what is told of the other attributes.
    Row {
        number: "D-109",
        occurs_under: "leak",
        goes_on: true,
        applies: |case| {
            case.is_under(LEAK)
                && case.function() == Function::C_GetAttributeValue
                && case.rvs().1 == 0x11
        },
    },
    // The original's filter fails; ours answers with the module's code.
    Row {
        number: "D-106",
        occurs_under: "non_local",
        goes_on: true,
        applies: |case| case.theirs_failed() && OF_THE_SESSION.contains(&case.rvs().1),
    },
    // The original's process dies of a copy of nothing.
    Row {
        number: "D-106",
        occurs_under: "patch_set_2",
        goes_on: false,
        applies: |case| {
            case.function() == Function::C_CopyObject
                && *case.theirs == Answer::Closed
                && OF_THE_SESSION.contains(&case.rvs().1)
        },
    },
    // What cannot be judged for the session's sake is refused with the session's code.
    Row {
        number: "D-106",
        occurs_under: "sticky",
        goes_on: true,
        applies: |case| {
            let (theirs, ours) = case.rvs();
            !case.is_under(LABELS_OR_IDS)
                && matches!(theirs, 0x05 | 0x10 | 0x13 | 0x82)
                && OF_THE_SESSION.contains(&ours)
        },
    },
    // The template of the key that makes a new one is read first.
    Row {
        number: "D-165",
        occurs_under: "conflicting",
        goes_on: true,
        applies: |case| {
            let (theirs, ours) = case.rvs();
            let missing = match case.function() {
                Function::C_UnwrapKey => 0xf0,
                Function::C_DeriveKey => 0x82,
                _ => return false,
            };
            theirs != 0 && ours == missing
        },
    },
    // A copy is judged with what it takes from its source.
    Row {
        number: "D-114",
        occurs_under: "conflicting",
        goes_on: false,
        applies: |case| {
            case.function() == Function::C_CopyObject
                && case.rvs().1 == 0x13
                && (case.configuration == "conflicting" || case.is_under(SETS))
        },
    },
    Row {
        number: "D-116",
        occurs_under: "secure_templates",
        goes_on: false,
        applies: |case| {
            let judged = case.is_under(&["secure_templates", "patch_set_2", "segregation"]);
            judged && case.function() == Function::C_CopyObject && case.rvs().1 == 0xd1
        },
    },
    // A newline does not end a label.
    Row {
        number: "D-43",
        occurs_under: "labels",
        goes_on: true,
        applies: |case| {
            let (theirs, ours) = case.found();
            case.is_under(LABELS_OR_IDS) && theirs == [with_a_newline()] && ours.is_empty()
        },
    },
    Row {
        number: "D-43",
        occurs_under: "labels",
        goes_on: false,
        applies: |case| case.is_under(LABELS_OR_IDS) && case.found().0.contains(&with_a_newline()),
    },
    // Whether a hidden object is there.
    Row {
        number: "D-87",
        occurs_under: "ids",
        goes_on: true,
        applies: |case| {
            let (theirs, ours) = case.rvs();
            case.is_under(LABELS_OR_IDS)
                && case.function() == Function::C_GetAttributeValue
                && matches!(theirs, 0x11 | 0x12)
                && ours == 0x82
        },
    },
    // A rule for another module hides nothing.
    Row {
        number: "D-88",
        occurs_under: "other_module",
        goes_on: false,
        applies: |case| {
            let (theirs, ours) = case.found();
            case.configuration == "other_module"
                && (theirs.len() < ours.len() || case.rvs().0 == 0x82)
        },
    },
    // Rules of objects tell of an invalid session as such.
    Row {
        number: "D-89",
        occurs_under: "labels",
        goes_on: true,
        applies: |case| {
            case.is_under(LABELS_OR_IDS)
                && matches!(case.rvs(), (0x82 | 0xf0 | 0x113, 0xb3 | 0x190))
        },
    },
    // Administration: C_InitToken and C_InitPIN as well.
    Row {
        number: "D-92",
        occurs_under: "admin",
        goes_on: true,
        applies: |case| {
            let forbidden = matches!(case.function(), Function::C_InitToken | Function::C_InitPIN);
            forbidden && case.configuration == "admin" && case.rvs().1 == 0x54
        },
    },
    // C_UnwrapKey is judged whatever the padding option says.
    Row {
        number: "D-85",
        occurs_under: "padding_and_patch_set_1",
        goes_on: false,
        applies: |case| {
            case.configuration == "padding_and_patch_set_1"
                && case.function() == Function::C_UnwrapKey
        },
    },
    // C_VerifyRecoverInit has its own name.
    Row {
        number: "D-83",
        occurs_under: "functions",
        goes_on: true,
        applies: |case| {
            case.configuration == "functions"
                && case.function() == Function::C_VerifyRecoverInit
                && case.rvs().1 == 0x54
        },
    },
    // More mechanisms with a padding that tells.
    Row {
        number: "D-86",
        occurs_under: "padding_sign",
        goes_on: false,
        applies: |case| match case.call {
            Call::C_SignInit(_, mechanism, _) => {
                mechanism.mechanism_type().0 == ckm::SHA224_RSA_PKCS && case.rvs().1 == 0x70
            }
            _ => false,
        },
    },
    // The keys that C_SetOperationState names are checked as well.
    Row {
        number: "D-90",
        occurs_under: "labels_and_ids",
        goes_on: true,
        applies: |case| {
            case.is_under(LABELS_OR_IDS)
                && case.function() == Function::C_SetOperationState
                && matches!(case.rvs(), (0x54, 0x82 | 0xb3))
        },
    },
    // A combined function is forbidden with either of its parts.
    Row {
        number: "D-96",
        occurs_under: "functions",
        goes_on: true,
        applies: |case| {
            let combined = matches!(
                case.function(),
                Function::C_DigestEncryptUpdate
                    | Function::C_SignEncryptUpdate
                    | Function::C_DecryptDigestUpdate
                    | Function::C_DecryptVerifyUpdate
            );
            combined && case.configuration == "functions" && case.rvs().1 == 0x54
        },
    },
    // LOCAL is written by the token alone.
    Row {
        number: "D-113",
        occurs_under: "leak",
        goes_on: true,
        applies: |case| {
            let Call::C_SetAttributeValue(_, _, template) = case.call else {
                return false;
            };
            let names_it = template
                .0
                .iter()
                .any(|attribute| attribute.attribute_type.0 == cka::LOCAL);
            case.is_under(LEAK) && names_it && case.rvs().1 == 0x10
        },
    },
    // The value of a key that is neither sensitive nor extractable; the token has its own codes.
    Row {
        number: "D-111",
        occurs_under: "leak",
        goes_on: true,
        applies: |case| {
            let (theirs, ours) = case.rvs();
            case.is_under(LEAK)
                && case.function() == Function::C_SetAttributeValue
                && theirs != 0
                && ours == 0x10
                && sets_one_of(case.call, &[cka::VALUE])
        },
    },
    // A role that conflicts with another is not given later.
    Row {
        number: "D-119",
        occurs_under: "conflicting",
        goes_on: false,
        applies: |case| {
            (case.configuration == "conflicting" || case.is_under(SETS))
                && matches!(
                    case.function(),
                    Function::C_SetAttributeValue | Function::C_CopyObject
                )
                && case.rvs().1 == 0x13
                && sets_one_of(case.call, &[cka::WRAP, cka::DECRYPT])
        },
    },
    // A derived key does not wrap.
    Row {
        number: "D-120",
        occurs_under: "conflicting",
        goes_on: false,
        applies: |case| {
            (case.configuration == "conflicting" || case.is_under(SETS))
                && case.function() == Function::C_DeriveKey
                && case.rvs().1 == 0x13
                && sets_one_of(case.call, &[cka::WRAP])
        },
    },
    // No key is found by its value.
    Row {
        number: "D-121",
        occurs_under: "leak",
        goes_on: true,
        applies: |case| {
            let (theirs, ours) = case.found();
            case.is_under(LEAK) && !theirs.is_empty() && ours.is_empty() && case.rvs() == (0, 0)
        },
    },
    // The value of a local key is not changed; the token has its own codes for that.
    Row {
        number: "D-122",
        occurs_under: "non_local",
        goes_on: false,
        applies: |case| {
            let (theirs, ours) = case.rvs();
            (case.configuration == "non_local" || case.is_under(SETS))
                && matches!(
                    case.function(),
                    Function::C_CopyObject | Function::C_SetAttributeValue
                )
                && theirs != 0
                && ours == 0x10
                && sets_one_of(case.call, &[cka::VALUE])
        },
    },
    // What a key from outside claims; the token has its own codes for that.
    Row {
        number: "D-123",
        occurs_under: "non_local",
        goes_on: false,
        applies: |case| {
            let (theirs, ours) = case.rvs();
            (case.configuration == "non_local" || case.is_under(SETS))
                && theirs != 0
                && ours == 0x10
                && sets_one_of(case.call, &[cka::ALWAYS_SENSITIVE, cka::NEVER_EXTRACTABLE])
        },
    },
];
