//! The differences that are allowed, each with its row of DIFFERENCES.md.

use xdr::{Architecture, Call, Function, Reply, Ulong};

use crate::support::raw::Answer;

/// Where two replies differ.
pub struct Case<'a> {
    pub configuration: &'a str,
    pub call: &'a Call<'a>,
    pub theirs: &'a Answer,
    pub ours: &'a Answer,
    pub architecture: Architecture,
    pub trace: &'a [String],
}

/// One allowed difference.
pub struct Row {
    /// The number of the row in DIFFERENCES.md.
    pub number: &'static str,
    /// A configuration whose default run shows it.
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

    /// The two CK_RVs; for what is no reply, all ones.
    fn rvs(&self) -> (u64, u64) {
        let rv = |answer: &Answer| match answer {
            Answer::Reply(reply) => reply.rv().0,
            _ => u64::MAX,
        };
        (rv(self.theirs), rv(self.ours))
    }
}

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
            mechanism.parameter.is_empty() && case.rvs().0 == 7
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
];
