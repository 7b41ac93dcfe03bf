//! Lists the calls that end an operation in the module after one of its calls was refused.
//!
//! By PKCS#11 (v2.20, sections 11.8 to 11.12) a failing call ends its operation, and until then the session cannot
//! begin another one of that kind. A refused call never reaches the module. So the daemon or the client that refuses it
//! makes these calls instead, and discards their results. This module makes no call itself.

use crate::buffers::{Input, Room};
use crate::call::{Call, Function};
use crate::facts::{Family, Step};
use crate::integers::SessionHandle;

/// The calls that end the operation of a refused call of `function`; none if it belongs to no operation. `room` is for
/// their output.
///
/// A message that fails does not end the message operation.
pub fn calls_that_end(
    function: Function,
    session: SessionHandle,
    room: Room,
) -> Vec<Call<'static>> {
    let facts = function.facts();
    if is_with_signature(function) {
        return vec![
            Call::C_VerifySignatureFinal(session),
            Call::C_VerifySignature(session, EMPTY),
        ];
    }
    let ends = matches!(facts.step, Some(Step::Update | Step::End));
    if !ends || facts.relative.is_some() {
        return Vec::new();
    }
    let families = facts.families.iter();
    families.flat_map(|of| ending(*of, session, room)).collect()
}

/// Whether it belongs to an operation that begins with a signature.
fn is_with_signature(function: Function) -> bool {
    matches!(
        function,
        Function::C_VerifySignature
            | Function::C_VerifySignatureUpdate
            | Function::C_VerifySignatureFinal
    )
}

const EMPTY: Input<'static> = Input::Bytes(&[]);

/// Calls that end an operation of this kind. The first ends one in parts; the second ends one in a single
/// call, or what a module did not end at the first.
fn ending(family: Family, session: SessionHandle, room: Room) -> Vec<Call<'static>> {
    match family {
        Family::Digest => vec![
            Call::C_DigestFinal(session, room),
            Call::C_Digest(session, EMPTY, room),
        ],
        Family::Sign => vec![
            Call::C_SignFinal(session, room),
            Call::C_Sign(session, EMPTY, room),
        ],
        Family::SignRecover => vec![Call::C_SignRecover(session, EMPTY, room)],
        Family::Verify => vec![
            Call::C_VerifyFinal(session, EMPTY),
            Call::C_Verify(session, EMPTY, EMPTY),
        ],
        Family::VerifyRecover => vec![Call::C_VerifyRecover(session, EMPTY, room)],
        Family::Encrypt => vec![
            Call::C_EncryptFinal(session, room),
            Call::C_Encrypt(session, EMPTY, room),
        ],
        Family::Decrypt => vec![
            Call::C_DecryptFinal(session, room),
            Call::C_Decrypt(session, EMPTY, room),
        ],
        // A search, or an operation that is one call.
        Family::Search
        | Family::Wrap
        | Family::Unwrap
        | Family::Derive
        | Family::Generate
        | Family::OperationState => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_call_ends_its_operations() {
        use Function::*;
        let ended_by = |function| -> Vec<Function> {
            let calls = calls_that_end(function, SessionHandle(1), Room::Unbounded);
            calls.iter().map(Call::function).collect()
        };
        assert_eq!(ended_by(C_Digest), [C_DigestFinal, C_Digest]);
        assert_eq!(ended_by(C_VerifyUpdate), [C_VerifyFinal, C_Verify]);
        assert_eq!(
            ended_by(C_DecryptDigestUpdate),
            [C_DecryptFinal, C_Decrypt, C_DigestFinal, C_Digest]
        );
        assert_eq!(
            ended_by(C_VerifySignatureUpdate),
            [C_VerifySignatureFinal, C_VerifySignature]
        );
        for function in [
            C_DigestInit,
            C_CreateObject,
            C_WrapKey,
            C_FindObjectsInit,
            C_EncryptMessage,
            C_SignMessageNext,
            C_MessageDecryptFinal,
        ] {
            assert_eq!(ended_by(function), [], "{function:?}");
        }
    }
}
