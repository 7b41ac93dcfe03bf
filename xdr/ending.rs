//! Lists the calls that end an operation in the module after one of its calls was refused.
//!
//! By PKCS#11 (v2.20, sections 11.8 to 11.12) a failing call ends its operation, and until then the session cannot
//! begin another one of that kind. A refused call never reaches the module. So the daemon or the client that refuses it
//! makes these calls instead, and discards their results. This module makes no call itself.

use cryptoki_sys::{
    CKF_DECRYPT, CKF_DIGEST, CKF_ENCRYPT, CKF_SIGN, CKF_SIGN_RECOVER, CKF_VERIFY,
    CKF_VERIFY_RECOVER,
};

use crate::buffers::{Input, Room};
use crate::call::{Call, Function};
use crate::facts::{Family, Step};
use crate::integers::{Flags, SessionHandle};
use crate::word_size::wide;

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

/// Returns the call by which a module of PKCS#11 3.0 ends the same operation without making any output (v3.0, section
/// 5.6.5); `None` if a failing call of `function` ends nothing.
pub fn call_that_cancels(function: Function, session: SessionHandle) -> Option<Call<'static>> {
    if calls_that_end(function, session, Room::Unbounded).is_empty() {
        return None;
    }
    let families = function.facts().families.iter();
    let flags = families.fold(0, |flags, family| flags | flag(*family));
    (flags != 0).then(|| Call::C_SessionCancel(session, Flags(flags)))
}

/// The flag of C_SessionCancel that ends an operation of this kind.
fn flag(family: Family) -> u64 {
    wide(match family {
        Family::Digest => CKF_DIGEST,
        Family::Sign => CKF_SIGN,
        Family::SignRecover => CKF_SIGN_RECOVER,
        Family::Verify => CKF_VERIFY,
        Family::VerifyRecover => CKF_VERIFY_RECOVER,
        Family::Encrypt => CKF_ENCRYPT,
        Family::Decrypt => CKF_DECRYPT,
        Family::Search
        | Family::Wrap
        | Family::Unwrap
        | Family::Derive
        | Family::Generate
        | Family::OperationState => 0,
    })
}

/// Whether the function belongs to an operation that begins with a signature.
fn is_with_signature(function: Function) -> bool {
    matches!(
        function,
        Function::C_VerifySignature
            | Function::C_VerifySignatureUpdate
            | Function::C_VerifySignatureFinal
    )
}

const EMPTY: Input<'static> = Input::Bytes(&[]);

/// Returns the calls that end an operation of this kind. The first call ends an operation in parts. The second call
/// ends an operation that consists of one call, or one that the module did not end at the first.
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
        // A search, or an operation that consists of one call.
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
    fn cancelling_names_the_operations_that_a_failing_call_ends() {
        let flags = |function| match call_that_cancels(function, SessionHandle(1)) {
            Some(Call::C_SessionCancel(_, flags)) => flags.0,
            _ => 0,
        };
        assert_eq!(flags(Function::C_Sign), wide(CKF_SIGN));
        let both = wide(CKF_DECRYPT | CKF_DIGEST);
        assert_eq!(flags(Function::C_DecryptDigestUpdate), both);
        // An operation on messages goes on, and a search has no flag here.
        for function in [
            Function::C_SignMessage,
            Function::C_FindObjects,
            Function::C_UnwrapKey,
        ] {
            assert_eq!(flags(function), 0);
        }
    }

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
