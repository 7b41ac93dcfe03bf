//! Names the calls that end the operation of a call that is refused before it reaches the module.
//!
//! By PKCS#11 (v2.20, sections 11.8 to 11.12) a failing call ends its operation, and until then the session
//! cannot begin another one of that kind. Whoever refuses a call, daemon or client, makes these calls in its
//! place and drops their results. Makes no call itself.

use crate::call::{Call, Function};
use crate::facts::{Family, Step};
use crate::integers::SessionHandle;

/// The calls that end what a failing call of `function` ends; none if that is nothing.
pub fn calls_that_end(function: Function, session: SessionHandle) -> Vec<Call<'static>> {
    let facts = function.facts();
    if !matches!(facts.step, Some(Step::Update | Step::End)) {
        return Vec::new();
    }
    let families = facts.families.iter();
    families.flat_map(|of| ending(*of, session)).collect()
}

/// Calls that end an operation of this kind. The first ends one in parts; the second ends one in a single
/// call, or what a module did not end at the first.
fn ending(family: Family, session: SessionHandle) -> Vec<Call<'static>> {
    match family {
        Family::Digest => vec![Call::C_DigestFinal(session), Call::C_Digest(session, &[])],
        Family::Sign => vec![Call::C_SignFinal(session), Call::C_Sign(session, &[])],
        Family::SignRecover => vec![Call::C_SignRecover(session, &[])],
        Family::Verify => vec![
            Call::C_VerifyFinal(session, &[]),
            Call::C_Verify(session, &[], &[]),
        ],
        Family::VerifyRecover => vec![Call::C_VerifyRecover(session, &[])],
        Family::Encrypt => vec![Call::C_EncryptFinal(session), Call::C_Encrypt(session, &[])],
        Family::Decrypt => vec![Call::C_DecryptFinal(session), Call::C_Decrypt(session, &[])],
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
            let calls = calls_that_end(function, SessionHandle(1));
            calls.iter().map(Call::function).collect()
        };
        assert_eq!(ended_by(C_Digest), [C_DigestFinal, C_Digest]);
        assert_eq!(ended_by(C_VerifyUpdate), [C_VerifyFinal, C_Verify]);
        assert_eq!(
            ended_by(C_DecryptDigestUpdate),
            [C_DecryptFinal, C_Decrypt, C_DigestFinal, C_Digest]
        );
        for function in [C_DigestInit, C_CreateObject, C_WrapKey, C_FindObjectsInit] {
            assert_eq!(ended_by(function), [], "{function:?}");
        }
    }
}
