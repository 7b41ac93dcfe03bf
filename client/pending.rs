//! Implements the two-call convention (ask for the size, then fetch) over a protocol without lengths.
//!
//! The daemon executes the first call and sends the whole result. If the application only asked for
//! the size, or its buffer was too small, the result is kept here, by session, until the same call
//! comes again: the same function with the same input, compared by content. Until then the
//! operation is still active (PKCS#11 v2.20, section 11.2), and other calls of its family are
//! restricted:
//!
//! - another input, or another function of the family, is answered CKR_OPERATION_ACTIVE. By the
//!   standard such an error ends a single-part operation or its last step, so the result is
//!   dropped then, and the session is free again. A result of C_EncryptUpdate and its like stays:
//!   the daemon's operation has moved on, and dropping a part would leave a hole;
//! - the family's Init is answered CKR_OPERATION_ACTIVE and drops nothing;
//! - C_WrapKey and C_GetOperationState change nothing at the daemon: a result that no longer fits
//!   is dropped, and the call goes out.
//!
//! So there is at most one result for each session and family. Results are wiped when they are
//! dropped. Does no I/O.

use std::collections::{HashMap, TryReserveError};

use xdr::facts::{Family, Step};
use xdr::{CkRv, Function, SessionHandle, SlotId};
use zeroize::Zeroizing;

/// Room for a result: `None` asks for the size, otherwise the bytes of the caller's buffer.
pub(crate) type Room = Option<usize>;

/// The answer to one call of the two-call convention.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer<T> {
    /// It asked for the size.
    Size(usize),
    /// Its buffer is smaller than this size: CKR_BUFFER_TOO_SMALL.
    TooSmall(usize),
    /// All of it fits.
    Whole(T),
}

impl<T> Answer<T> {
    /// Converts the whole result.
    pub fn map<U>(self, form: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Answer::Size(size) => Answer::Size(size),
            Answer::TooSmall(size) => Answer::TooSmall(size),
            Answer::Whole(whole) => Answer::Whole(form(whole)),
        }
    }
}

/// Whether two functions belong to one operation, so that one cannot go ahead while the result of
/// the other waits.
fn meet(one: Function, other: Function) -> bool {
    let other = other.facts();
    one.facts()
        .families
        .iter()
        .any(|family| other.is_of(*family))
}

/// Whether the function changes nothing at the daemon: its result can be had again.
fn is_repeatable(function: Function) -> bool {
    let facts = function.facts();
    facts.is_of(Family::Wrap) || facts.is_of(Family::OperationState)
}

/// A result, and the call that fetches it.
struct Pending {
    function: Function,
    input: Zeroizing<Vec<u8>>,
    result: Zeroizing<Vec<u8>>,
}

#[derive(Default)]
struct Session {
    slot: Option<SlotId>,
    pending: Vec<Pending>,
}

/// The sessions of this application and what waits in them.
#[derive(Default)]
pub(crate) struct Sessions {
    sessions: HashMap<SessionHandle, Session>,
}

impl Sessions {
    /// Notes a new session. Results kept under the same handle belonged to an earlier one.
    pub fn opened(&mut self, session: SessionHandle, slot: SlotId) {
        let new = Session {
            slot: Some(slot),
            pending: Vec::new(),
        };
        self.sessions.insert(session, new);
    }

    /// Drops a session and its results.
    pub fn closed(&mut self, session: SessionHandle) {
        self.sessions.remove(&session);
    }

    /// Drops the sessions of a slot and their results.
    pub fn all_closed(&mut self, slot: SlotId) {
        let elsewhere = |session: &Session| session.slot.is_some_and(|known| known != slot);
        self.sessions.retain(|_, session| elsewhere(session));
    }

    /// Drops everything: the connection is gone.
    pub fn clear(&mut self) {
        self.sessions.clear();
    }

    /// Drops the results of a session whose operations were replaced (C_SetOperationState).
    pub fn replaced(&mut self, session: SessionHandle) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.pending.clear();
        }
    }

    /// The answer to a call of an operation if the daemon is not needed; `None` if the call must be
    /// made.
    pub fn answer(
        &mut self,
        session: SessionHandle,
        function: Function,
        input: &[u8],
        room: Room,
    ) -> Option<Result<Answer<Zeroizing<Vec<u8>>>, CkRv>> {
        let pending = &mut self.sessions.get_mut(&session)?.pending;
        let facts = function.facts();
        let waits = |waiting: &Pending| meet(function, waiting.function);
        let mut numbered = pending.iter().enumerate();
        if let Some((at, waiting)) = numbered.find(|(_, waiting)| waits(waiting)) {
            if waiting.function == function && *waiting.input == input {
                let size = waiting.result.len();
                return Some(Ok(match room {
                    None => Answer::Size(size),
                    Some(room) if room < size => Answer::TooSmall(size),
                    Some(_) => Answer::Whole(pending.swap_remove(at).result),
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
            // The call changes the state that C_GetOperationState told.
            pending.retain(|waiting| waiting.function != Function::C_GetOperationState);
        }
        None
    }

    /// Keeps the result of a call until the call is repeated. Fails if there is no memory for its
    /// input.
    pub fn keep(
        &mut self,
        session: SessionHandle,
        function: Function,
        input: &[u8],
        data: Vec<u8>,
    ) -> Result<(), TryReserveError> {
        let result = Zeroizing::new(data);
        let mut known_by = Zeroizing::new(Vec::new());
        known_by.try_reserve_exact(input.len())?;
        known_by.extend_from_slice(input);
        let pending = &mut self.sessions.entry(session).or_default().pending;
        pending.retain(|waiting| !meet(function, waiting.function));
        pending.push(Pending {
            function,
            input: known_by,
            result,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use xdr::{Architecture, Call, Flags, Mechanism, MechanismType, ObjectHandle};

    use super::*;
    use crate::fake::{self, Module, Scripted};
    use crate::library::Library;

    const SLOT: SlotId = SlotId(1);

    fn with_module() -> (Library<Scripted>, Arc<Module>) {
        let module = Arc::new(Module::default());
        let behind = module.clone();
        (fake::library(move |call| behind.call(call)), module)
    }

    fn open(library: &Library<Scripted>) -> SessionHandle {
        let session = library.open_session(SLOT, Flags(4));
        session.expect("the module opens any number")
    }

    fn mechanism(parameter: &[u8]) -> Mechanism {
        Mechanism::laid_out(
            MechanismType(0x250),
            parameter.to_vec(),
            Architecture::host(),
        )
    }

    fn init(library: &Library<Scripted>, session: SessionHandle) -> Result<(), CkRv> {
        library.operate(session, Call::C_DigestInit(session, mechanism(&[])))
    }

    fn update(library: &Library<Scripted>, session: SessionHandle, part: &[u8]) {
        let call = Call::C_DigestUpdate(session, part);
        assert_eq!(library.operate(session, call), Ok(()));
    }

    type Outcome = Result<Answer<Vec<u8>>, CkRv>;

    fn run(
        library: &Library<Scripted>,
        session: SessionHandle,
        call: Call<'_>,
        input: &[u8],
        room: Room,
    ) -> Outcome {
        let answer = library.two_phase(session, call, input, room);
        answer.map(|answer| answer.map(|data| data.to_vec()))
    }

    fn digest(
        library: &Library<Scripted>,
        session: SessionHandle,
        input: &[u8],
        room: Room,
    ) -> Outcome {
        run(
            library,
            session,
            Call::C_Digest(session, input),
            input,
            room,
        )
    }

    fn digest_final(library: &Library<Scripted>, session: SessionHandle, room: Room) -> Outcome {
        run(library, session, Call::C_DigestFinal(session), &[], room)
    }

    /// What the fake module answers.
    fn whole(function: Function, bytes: &[u8]) -> Outcome {
        Ok(Answer::Whole([&[function.number() as u8], bytes].concat()))
    }

    #[test]
    fn size_then_too_small_then_all_with_one_call() {
        let (library, module) = with_module();
        let session = open(&library);
        init(&library, session).unwrap();
        assert_eq!(digest(&library, session, b"abc", None), Ok(Answer::Size(4)));
        assert_eq!(digest(&library, session, b"abc", None), Ok(Answer::Size(4)));
        assert_eq!(
            digest(&library, session, b"abc", Some(3)),
            Ok(Answer::TooSmall(4))
        );
        let all = digest(&library, session, b"abc", Some(4));
        assert_eq!(all, whole(Function::C_Digest, b"abc"));
        let digests = module.calls();
        let digests = digests.iter().filter(|call| **call == Function::C_Digest);
        assert_eq!(digests.count(), 1);
        // The operation is over.
        assert_eq!(
            digest(&library, session, b"abc", Some(4)),
            Err(CkRv::OPERATION_NOT_INITIALIZED)
        );
    }

    #[test]
    fn a_buffer_that_is_too_small_at_first_loses_nothing() {
        let (library, _) = with_module();
        let session = open(&library);
        init(&library, session).unwrap();
        assert_eq!(
            digest(&library, session, b"abc", Some(0)),
            Ok(Answer::TooSmall(4))
        );
        let all = digest(&library, session, b"abc", Some(100));
        assert_eq!(all, whole(Function::C_Digest, b"abc"));
    }

    /// In the original a result outlives its session.
    #[test]
    fn nothing_is_fetched_after_the_session_was_closed() {
        let (library, _) = with_module();
        let session = open(&library);
        init(&library, session).unwrap();
        digest(&library, session, b"abc", None).unwrap();
        library.close_session(session).unwrap();
        assert_eq!(
            digest(&library, session, b"abc", Some(9)),
            Err(CkRv::OPERATION_NOT_INITIALIZED)
        );
    }

    #[test]
    fn closing_all_sessions_drops_the_results_of_that_slot_only() {
        let (library, _) = with_module();
        let here = open(&library);
        let there = library.open_session(SlotId(2), Flags(4)).unwrap();
        for session in [here, there] {
            init(&library, session).unwrap();
            digest(&library, session, b"abc", None).unwrap();
        }
        library.close_all_sessions(SLOT).unwrap();
        assert_eq!(
            digest(&library, here, b"abc", Some(9)),
            Err(CkRv::OPERATION_NOT_INITIALIZED)
        );
        assert_eq!(
            digest(&library, there, b"abc", Some(9)),
            whole(Function::C_Digest, b"abc")
        );
    }

    /// In the original a reused handle inherits the results of the earlier session.
    #[test]
    fn a_handle_that_comes_again_inherits_nothing() {
        let mut sessions = Sessions::default();
        let session = SessionHandle(1);
        sessions.opened(session, SLOT);
        let kept = sessions.keep(session, Function::C_Digest, b"abc", vec![1]);
        kept.unwrap();
        sessions.opened(session, SLOT);
        let init = sessions.answer(session, Function::C_DigestInit, &[], None);
        assert!(init.is_none());
    }

    /// In the original the digest of an abandoned operation is returned.
    #[test]
    fn a_final_result_that_was_not_fetched_is_not_given_for_another_operation() {
        let (library, _) = with_module();
        let session = open(&library);
        init(&library, session).unwrap();
        update(&library, session, b"a");
        assert_eq!(digest_final(&library, session, None), Ok(Answer::Size(2)));
        // To the application the operation is active still.
        assert_eq!(init(&library, session), Err(CkRv::OPERATION_ACTIVE));
        assert_eq!(
            library.operate(session, Call::C_DigestUpdate(session, b"b")),
            Err(CkRv::OPERATION_ACTIVE)
        );
        // That error ended it.
        init(&library, session).unwrap();
        update(&library, session, b"b");
        assert_eq!(
            digest_final(&library, session, Some(9)),
            whole(Function::C_DigestFinal, b"b")
        );
    }

    /// The original compares the address of the input, not its content.
    #[test]
    fn a_result_is_given_for_the_same_content_wherever_it_lies_and_for_no_other() {
        let (library, _) = with_module();
        let session = open(&library);
        init(&library, session).unwrap();
        let mut input = b"old".to_vec();
        digest(&library, session, &input, None).unwrap();
        let elsewhere = input.clone();
        assert_eq!(
            digest(&library, session, &elsewhere, None),
            Ok(Answer::Size(4))
        );
        input.copy_from_slice(b"new");
        assert_eq!(
            digest(&library, session, &input, Some(9)),
            Err(CkRv::OPERATION_ACTIVE)
        );
        // The session is not blocked.
        init(&library, session).unwrap();
        assert_eq!(
            digest(&library, session, b"new", Some(9)),
            whole(Function::C_Digest, b"new")
        );
    }

    /// In the original, another part at the same address gets the result of the part before.
    #[test]
    fn a_part_waits_until_it_is_fetched() {
        let (library, _) = with_module();
        let session = open(&library);
        let encrypt = |part: &[u8], room| {
            let call = Call::C_EncryptUpdate(session, part);
            run(&library, session, call, part, room)
        };
        assert_eq!(encrypt(b"one", None), Ok(Answer::Size(4)));
        assert_eq!(encrypt(b"two", Some(9)), Err(CkRv::OPERATION_ACTIVE));
        let call = Call::C_EncryptFinal(session);
        assert_eq!(
            run(&library, session, call, &[], Some(9)),
            Err(CkRv::OPERATION_ACTIVE)
        );
        assert_eq!(
            encrypt(b"one", Some(9)),
            whole(Function::C_EncryptUpdate, b"one")
        );
        assert_eq!(
            encrypt(b"two", Some(9)),
            whole(Function::C_EncryptUpdate, b"two")
        );
    }

    #[test]
    fn a_dual_function_counts_for_both_its_families() {
        let (library, _) = with_module();
        let session = open(&library);
        init(&library, session).unwrap();
        let call = || Call::C_DigestEncryptUpdate(session, b"part");
        let asked = run(&library, session, call(), b"part", None);
        assert_eq!(asked, Ok(Answer::Size(5)));
        assert_eq!(
            digest_final(&library, session, Some(9)),
            Err(CkRv::OPERATION_ACTIVE)
        );
        let fetched = run(&library, session, call(), b"part", Some(9));
        assert_eq!(fetched, whole(Function::C_DigestEncryptUpdate, b"part"));
        assert_eq!(
            digest_final(&library, session, Some(9)),
            whole(Function::C_DigestFinal, b"part")
        );
    }

    /// In the original the wrapped value of one key is returned for another.
    #[test]
    fn a_wrapped_key_is_given_for_the_same_keys_and_mechanism_only() {
        let (library, module) = with_module();
        let session = open(&library);
        let wrap = |parameter: &[u8], with, key, room| {
            let (with, key) = (ObjectHandle(with), ObjectHandle(key));
            let answer = library.wrap_key(session, mechanism(parameter), with, key, room);
            answer.map(|answer| answer.map(|data| data.to_vec()))
        };
        let asked = [(&b"p"[..], 1, 2), (b"p", 1, 3), (b"p", 4, 2), (b"q", 1, 2)];
        for (parameter, with, key) in asked {
            assert_eq!(wrap(b"p", 1, 2, None), Ok(Answer::Size(4)));
            let all = [parameter, &[with as u8, key as u8]].concat();
            assert_eq!(
                wrap(parameter, with, key, Some(9)),
                whole(Function::C_WrapKey, &all)
            );
        }
        let wraps = module.calls();
        let wraps = wraps.iter().filter(|call| **call == Function::C_WrapKey);
        assert_eq!(wraps.count(), 1 + 2 + 2 + 2);
    }

    /// In the original the state of the size query is returned after the operation has moved on.
    #[test]
    fn an_operation_state_is_of_the_moment_it_is_fetched() {
        let (library, _) = with_module();
        let session = open(&library);
        init(&library, session).unwrap();
        update(&library, session, b"a");
        let state = |room| {
            let call = Call::C_GetOperationState(session);
            run(&library, session, call, &[], room)
        };
        assert_eq!(state(None), Ok(Answer::Size(2)));
        update(&library, session, b"b");
        assert_eq!(state(Some(9)), whole(Function::C_GetOperationState, b"ab"));
    }

    /// In the original the second of three results is lost.
    #[test]
    fn any_number_of_sessions_can_have_results_waiting() {
        let (library, _) = with_module();
        let sessions: Vec<_> = (0..100).map(|_| open(&library)).collect();
        for session in &sessions {
            init(&library, *session).unwrap();
            let input = session.0.to_be_bytes();
            assert_eq!(
                digest(&library, *session, &input, None),
                Ok(Answer::Size(9))
            );
        }
        for session in &sessions {
            let input = session.0.to_be_bytes();
            assert_eq!(
                digest(&library, *session, &input, Some(9)),
                whole(Function::C_Digest, &input)
            );
        }
    }

    #[test]
    fn families_do_not_hinder_each_other() {
        let (library, _) = with_module();
        let session = open(&library);
        init(&library, session).unwrap();
        digest(&library, session, b"abc", None).unwrap();
        let call = Call::C_EncryptUpdate(session, b"part");
        let encrypted = run(&library, session, call, b"part", Some(9));
        assert_eq!(encrypted, whole(Function::C_EncryptUpdate, b"part"));
        assert_eq!(
            digest(&library, session, b"abc", Some(9)),
            whole(Function::C_Digest, b"abc")
        );
    }

    #[test]
    fn finalising_and_losing_the_connection_drop_everything() {
        for finalise in [true, false] {
            let (library, _) = with_module();
            let session = open(&library);
            init(&library, session).unwrap();
            digest(&library, session, b"abc", None).unwrap();
            if finalise {
                library.finish().unwrap();
            } else {
                library.remote().lost.store(true, Ordering::SeqCst);
                let _ = library.only(Call::C_Logout(session));
            }
            assert_eq!(
                digest(&library, session, b"abc", Some(9)),
                Err(CkRv::OPERATION_NOT_INITIALIZED)
            );
        }
    }
}
