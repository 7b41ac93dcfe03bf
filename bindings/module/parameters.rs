//! Keeps the parameters of the operations that have begun in a session.
//!
//! A module may copy only the outermost structure of a parameter, and read what it points to in later calls of the
//! operation, as openCryptoki does with the label of OAEP. Without a proxy it would find the application's memory there.
//! So the memory of a parameter lives until the operation has ended with CKR_OK, the next one of its kind has begun in
//! the session, or the session is closed and no call of it is in the module any more. An operation that
//! C_SetOperationState brings back finds the parameter of the last one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use xdr::facts::{Family, Step};
use xdr::mechanism::Assembly;
use xdr::{Call, CkRv, Function, Room, SessionHandle};

use super::Functions;
use super::messages::Session;

/// Upper bound on the memory of all parameters that a process keeps, in bytes.
const MOST: usize = 4 << 20;

/// The memory of all parameters that are kept.
#[derive(Default)]
pub(super) struct Budget(Arc<AtomicUsize>);

/// A part of the budget, which is given back when this is dropped.
pub(super) struct Part {
    size: usize,
    taken: Arc<AtomicUsize>,
}

impl Budget {
    /// Whether no parameter is kept.
    fn is_whole(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Takes memory for a parameter whose operation is about to begin.
    pub(super) fn take(&self, size: usize) -> Result<Part, CkRv> {
        let more = |taken: usize| taken.checked_add(size).filter(|sum| *sum <= MOST);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        match taken {
            Ok(_) => Ok(Part {
                size,
                taken: self.0.clone(),
            }),
            Err(_) => {
                log::error!("refused: the parameters of all operations would exceed {MOST} bytes");
                Err(CkRv::HOST_MEMORY)
            }
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.size, Ordering::Relaxed);
    }
}

/// The parameters of a session, by the function that began the operation.
#[derive(Default)]
pub(super) struct Parameters(Mutex<Vec<(Function, Assembly, Part)>>);

impl Parameters {
    /// Drops the parameter of an operation that has ended.
    pub(super) fn ended(&self, family: Family) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ended = |function: &Function| is_older(*function) && function.facts().is_of(family);
        kept.retain(|(function, ..)| !is_ended(function));
    }

    /// Keeps the parameter of an operation that has begun, in place of the one that the function kept before. Without a
    /// parameter, keeps none.
    pub(super) fn begun(&self, function: Function, parameter: Option<Assembly>, part: Part) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(other, ..)| *other != function);
        kept.extend(parameter.map(|parameter| (function, parameter, part)));
    }
}

/// Whether a function is one of PKCS#11 v2.20, so that it has no part in operations on messages.
fn is_older(function: Function) -> bool {
    function.facts().relative.is_none()
}

/// Returns the session of a call, unless no parameter is kept. As long as the caller has it, the parameters of the session
/// live, even if another call closes the session.
pub(super) fn session_of(functions: &Functions, call: &Call<'_>) -> Option<Arc<Session>> {
    match functions.parameters.is_whole() {
        true => None,
        false => functions.sessions.get(call.session()?),
    }
}

/// Returns the operation that a call ends if it returns CKR_OK, unless no parameter is kept. The parameters
/// of operations on messages, and of functions that are newer than PKCS#11 v2.20, are dropped when the function begins the
/// next operation in the session, or when the session is closed.
pub(super) fn ending(budget: &Budget, call: &Call<'_>) -> Option<(SessionHandle, Family)> {
    if budget.is_whole() {
        return None;
    }
    let function = call.function();
    let facts = function.facts();
    let is_question = matches!(call.room(), Some(Room::Null { .. } | Room::NoLength));
    if facts.step != Some(Step::End) || !is_older(function) || is_question {
        return None;
    }
    Some((call.session()?, *facts.families.first()?))
}

#[cfg(test)]
mod tests {
    use xdr::Input;

    use super::*;

    #[test]
    fn what_ends_an_operation() {
        let budget = Budget::default();
        let session = SessionHandle(7);
        let encrypt = |room| Call::C_Encrypt(session, Input::NULL, room);
        assert!(ending(&budget, &encrypt(Room::Buffer(9))).is_none());
        let _part = budget.take(1).ok();
        let ended = ending(&budget, &encrypt(Room::Buffer(9)));
        assert!(ended == Some((session, Family::Encrypt)));
        let verified = Call::C_VerifyFinal(session, Input::NULL);
        assert!(ending(&budget, &verified) == Some((session, Family::Verify)));
        for call in [
            encrypt(Room::QUESTION),
            encrypt(Room::NoLength),
            Call::C_EncryptUpdate(session, Input::NULL, Room::Buffer(9)),
            Call::C_MessageEncryptFinal(session),
            Call::C_GetSessionInfo(session),
        ] {
            assert!(ending(&budget, &call).is_none(), "{call:?}");
        }
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let budget = Budget::default();
        let most = budget.take(MOST).ok();
        assert!(budget.take(1).is_err() && budget.take(usize::MAX).is_err());
        drop(most);
        let parameters = Parameters::default();
        for _ in 0..3 {
            let Ok(part) = budget.take(MOST / 2) else {
                panic!("two fit");
            };
            parameters.begun(Function::C_SignInit, Some(Assembly::default()), part);
        }
        let Ok(part) = budget.take(MOST / 2) else {
            panic!("two fit");
        };
        parameters.begun(Function::C_SignInit, None, part);
        assert!(budget.take(MOST).is_ok());
    }
}
