//! Implements the two-call convention (ask for the size, then fetch) over a protocol without lengths.
//!
//! The daemon executes the first call and sends the whole result. If the application only asked for the size, or its
//! buffer was too small, the result is kept here, by session, until the same call comes again: the same function with
//! the same input, compared by content. Until then the operation is still active (PKCS#11 v2.20, section 11.2), and
//! other calls of its family are restricted:
//!
//! - another input, or another function of the family, is answered CKR_OPERATION_ACTIVE. By the
//!   standard such an error ends a single-part operation or its last step, so the result is
//!   dropped then, and the session is free again. A result of C_EncryptUpdate and its like stays:
//!   the daemon's operation has moved on, and dropping a part would leave a hole;
//! - the family's Init is answered CKR_OPERATION_ACTIVE and drops nothing;
//! - C_WrapKey and C_GetOperationState change nothing at the daemon: a result of theirs that does not
//!   match the call is dropped, and the call is sent.
//!
//! So there is at most one result for each session and family. Results are wiped when they are
//! dropped. Does no I/O.

use std::collections::TryReserveError;

use xdr::facts::{Family, Step};
use xdr::{CkRv, Function, SessionHandle, SlotId};
use zeroize::Zeroizing;

use crate::sessions::{Closes, Closing, Sessions};

/// The answer to one call of the two-call convention.
pub(super) enum Answer {
    /// The call asked for the size.
    Size(u64),
    /// The call's buffer is smaller than this size: CKR_BUFFER_TOO_SMALL.
    TooSmall(u64),
    /// The whole result, which fits.
    Whole(Zeroizing<Vec<u8>>),
}

impl Answer {
    /// Returns the answer to a call without enough room for this size.
    pub fn of(size: u64, room: Option<u64>) -> Answer {
        match room {
            None => Answer::Size(size),
            Some(_) => Answer::TooSmall(size),
        }
    }

    /// Returns the size of the result.
    pub fn size(&self) -> u64 {
        match self {
            Answer::Size(size) | Answer::TooSmall(size) => *size,
            Answer::Whole(whole) => whole.len() as u64,
        }
    }
}

/// Returns whether two functions belong to one operation, so that one cannot proceed while the result of the other is
/// kept.
fn meet(one: Function, other: Function) -> bool {
    let other = other.facts();
    one.facts()
        .families
        .iter()
        .any(|family| other.is_of(*family))
}

/// Returns whether the function changes nothing at the daemon, so that its result can be fetched again.
fn is_repeatable(function: Function) -> bool {
    let facts = function.facts();
    facts.is_of(Family::Wrap) || facts.is_of(Family::OperationState)
}

/// A result, and the call that fetches it.
struct Waiting {
    function: Function,
    input: Zeroizing<Vec<u8>>,
    result: Zeroizing<Vec<u8>>,
}

/// The results that are kept for the application's sessions.
#[derive(Default)]
pub(super) struct Pending {
    sessions: Sessions<Vec<Waiting>>,
}

impl Pending {
    /// Stores a new session. Results kept under the same handle belonged to an earlier one.
    pub fn opened(&mut self, session: SessionHandle, slot: SlotId) {
        self.sessions.opened(session, slot, Vec::new());
    }

    /// Returns what a call is about to close.
    pub fn closing(&self, closes: Closes) -> Closing {
        self.sessions.closing(closes)
    }

    /// Drops the results of the sessions that a call has closed, as its CK_RV says.
    pub fn closed(&mut self, closing: Closing, rv: CkRv) {
        self.sessions.closed(closing, rv);
    }

    /// Drops everything, because the connection has ended.
    pub fn clear(&mut self) {
        self.sessions.clear();
    }

    /// Drops the results of a session whose operations were replaced (C_SetOperationState).
    pub fn replaced(&mut self, session: SessionHandle) {
        if let Some(waiting) = self.sessions.get_mut(session) {
            waiting.clear();
        }
    }

    /// Returns the answer to a call of an operation if the daemon is not needed; `None` if the call must be sent.
    /// `room`: the size of the caller's buffer in bytes; `None` asks for the size.
    pub fn answer(
        &mut self,
        session: SessionHandle,
        function: Function,
        input: &[u8],
        room: Option<u64>,
    ) -> Option<Result<Answer, CkRv>> {
        let pending = self.sessions.get_mut(session)?;
        let facts = function.facts();
        let waits = |waiting: &Waiting| meet(function, waiting.function);
        let mut numbered = pending.iter().enumerate();
        if let Some((at, waiting)) = numbered.find(|(_, waiting)| waits(waiting)) {
            if waiting.function == function && *waiting.input == input {
                let size = waiting.result.len() as u64;
                return Some(Ok(if room.is_some_and(|room| room >= size) {
                    Answer::Whole(pending.swap_remove(at).result)
                } else {
                    Answer::of(size, room)
                }));
            }
            if !is_repeatable(waiting.function) {
                let goes_on = waiting.function.facts().step == Some(Step::Update);
                if !goes_on && facts.step != Some(Step::Init) {
                    pending.swap_remove(at);
                }
                return Some(Err(CkRv::OPERATION_ACTIVE));
            }
            pending.swap_remove(at);
        }
        if !facts.families.is_empty() {
            // The call changes the state that C_GetOperationState has returned.
            pending.retain(|waiting| waiting.function != Function::C_GetOperationState);
        }
        None
    }

    /// Returns the [`Sessions::number`] of a session.
    pub fn number(&self, session: SessionHandle) -> u64 {
        self.sessions.number(session)
    }

    /// Keeps the result of a call until the call is repeated. `number` is that of the session when the call was sent.
    /// Fails if there is no memory for the input.
    pub fn keep(
        &mut self,
        (session, number): (SessionHandle, u64),
        function: Function,
        input: &[u8],
        data: Vec<u8>,
    ) -> Result<(), TryReserveError> {
        let result = Zeroizing::new(data);
        let mut known_by = Zeroizing::new(Vec::new());
        known_by.try_reserve_exact(input.len())?;
        known_by.extend_from_slice(input);
        let Some(pending) = self.sessions.entry(session, number) else {
            return Ok(());
        };
        pending.retain(|waiting| !meet(function, waiting.function));
        pending.push(Waiting {
            function,
            input: known_by,
            result,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
