//! Keeps the parameters of the operations that have begun in a session.
//!
//! A module may copy only the outermost structure of a parameter, and read what it points to in later calls of the
//! operation, as openCryptoki does with the label of OAEP. Without a proxy it would find the application's memory there.
//! So the memory of a parameter lives until the next operation of the same kind has begun in the session, or until the
//! session is closed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use xdr::mechanism::Assembly;
use xdr::{CkRv, Function};

/// Upper bound on the memory of all parameters that a process keeps, in bytes.
const MOST: usize = 64 << 20;

/// The memory of all parameters that are kept.
#[derive(Default)]
pub(super) struct Budget(Arc<AtomicUsize>);

/// A part of the budget, which is given back when this is dropped.
pub(super) struct Part {
    size: usize,
    taken: Arc<AtomicUsize>,
}

impl Budget {
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
    /// Keeps the parameter of an operation that has begun, in place of the one that the function kept before. Without a
    /// parameter, keeps none.
    pub(super) fn begun(&self, function: Function, parameter: Option<Assembly>, part: Part) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(other, ..)| *other != function);
        kept.extend(parameter.map(|parameter| (function, parameter, part)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
