//! Does for the application what PKCS#11 promises and the protocol leaves to the client: states,
//! sizes and lists, attributes, and waiting for slot events.
//!
//! `abi` calls it with slices in place of the application's pointers, and gets values back. Calls
//! that need nothing of this go straight to the [`Remote`]. While a call is on its way, only the
//! connection's lock is held.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use xdr::ending::calls_that_end;
use xdr::facts::Family;
use xdr::{
    Architecture, Call, CkRv, Cryptoki, DataResult, Flags, Function, MOST_ELEMENTS, Mechanism,
    MechanismListResult, MechanismType, ObjectHandle, Reply, SessionHandle, SlotId, SlotListResult,
    Ulong,
};
use zeroize::Zeroizing;

use crate::connection::Connection;
use crate::pending::{Answer, Room, Sessions};
use crate::remote::{Remote, ask, refusal};
use crate::settings::Settings;

/// Why a connected daemon cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("the connection was lost during the first call")]
    Lost,
    #[error("C_SetupArch: the daemon answered {0:?}")]
    Architecture(Architecture),
    #[error("C_LoadModule: {0} for module {1:?}")]
    Module(CkRv, String),
    #[error("C_Initialize: {0}")]
    Initialize(CkRv),
}

/// What an input is answered that is longer than a record; [`Library::checked`] has more to say.
pub(crate) const TOO_LONG: CkRv = CkRv::DATA_LEN_RANGE;

/// CKF_DONT_BLOCK of C_WaitForSlotEvent.
const DONT_BLOCK: u64 = 1;

fn prologue(remote: &impl Remote, settings: &Settings) -> Result<(), StartError> {
    let host = Architecture::host();
    match remote.call(Call::C_SetupArch(host)) {
        Reply::C_SetupArch(Architecture(1..=4)) => {}
        _ if remote.is_lost() => return Err(StartError::Lost),
        reply => return Err(StartError::Architecture(Architecture(reply.rv().0))),
    }
    let loaded = remote.call(Call::C_LoadModule(&settings.alias)).rv();
    if !loaded.is_ok() {
        let alias = String::from_utf8_lossy(&settings.alias).into_owned();
        return Err(StartError::Module(loaded, alias));
    }
    match remote.call(Call::C_Initialize()).rv() {
        CkRv::OK => Ok(()),
        initialized => Err(StartError::Initialize(initialized)),
    }
}

/// Between C_Initialize and C_Finalize: the connection and what the application does with it.
pub(crate) struct Library<R = Connection> {
    remote: R,
    sessions: Mutex<Sessions>,
    slot_event_period: Duration,
    finished: Mutex<bool>,
    finishing: Condvar,
}

impl<R: Remote> Library<R> {
    /// Makes the module at the other end ready. The caller has connected.
    pub fn start(remote: R, settings: &Settings) -> Result<Library<R>, StartError> {
        if let Err(error) = prologue(&remote, settings) {
            remote.close();
            return Err(error);
        }
        Ok(Library {
            remote,
            sessions: Mutex::default(),
            slot_event_period: settings.slot_event_period,
            finished: Mutex::new(false),
            finishing: Condvar::new(),
        })
    }

    /// C_Finalize. The connection is closed whatever the module says; when it was lost, there was
    /// nothing to say it to.
    pub fn finish(&self) -> Result<(), CkRv> {
        let rv = self.remote.call(Call::C_Finalize()).rv();
        let lost = self.remote.is_lost();
        self.remote.close();
        self.sessions().clear();
        *locked(&self.finished) = true;
        self.finishing.notify_all();
        if lost { Ok(()) } else { result(rv) }
    }

    #[cfg(test)]
    pub fn remote(&self) -> &R {
        &self.remote
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        locked(&self.sessions)
    }

    /// A call that only has a CK_RV to answer.
    pub fn only(&self, call: Call<'_>) -> Result<(), CkRv> {
        result(self.call(call).rv())
    }

    /// A call of a cryptographic operation in `session` that only has a CK_RV to answer.
    pub fn operate(&self, session: SessionHandle, call: Call<'_>) -> Result<(), CkRv> {
        let waiting = self.sessions().answer(session, call.function(), &[], None);
        match waiting {
            Some(refused) => refused.map(drop),
            None => self.only(call),
        }
    }

    /// The input of a call of `function`, if it could be read. One that is too long ends the operation, as
    /// every failing call does, and gets the function's own CK_RV for that.
    pub fn checked<'a>(
        &self,
        session: SessionHandle,
        function: Function,
        input: Result<&'a [u8], CkRv>,
    ) -> Result<&'a [u8], CkRv> {
        input.map_err(|rv| {
            if rv == CkRv::ARGUMENTS_BAD {
                return rv;
            }
            for call in calls_that_end(function, session) {
                let _ = self.sessions().answer(session, call.function(), &[], None);
                self.call(call).wipe();
            }
            let facts = function.facts();
            if rv != TOO_LONG {
                rv
            } else if facts.is_of(Family::Decrypt) {
                CkRv::ENCRYPTED_DATA_LEN_RANGE
            } else if matches!(
                function,
                Function::C_VerifyFinal | Function::C_VerifyRecover
            ) {
                CkRv::SIGNATURE_LEN_RANGE
            } else {
                TOO_LONG
            }
        })
    }

    /// A call that answers bytes, for which the caller has `room`. `input` is what the call's
    /// repetition is recognised by.
    pub fn two_phase(
        &self,
        session: SessionHandle,
        call: Call<'_>,
        input: &[u8],
        room: Room,
    ) -> Result<Answer<Data>, CkRv> {
        let function = call.function();
        if let Some(answer) = self.sessions().answer(session, function, input, room) {
            return answer.map(|answer| answer.map(Data::Secret));
        }
        let DataResult { rv, data } = data_result(self.call(call))?;
        if !rv.is_ok() {
            return Err(rv);
        }
        let size = data.len();
        let answer = match room {
            Some(room) if room >= size => {
                return Ok(Answer::Whole(if function.hands_out_secrets() {
                    Data::Secret(Zeroizing::new(data))
                } else {
                    Data::Public(data)
                }));
            }
            Some(_) => Answer::TooSmall(size),
            None => Answer::Size(size),
        };
        let kept = self.sessions().keep(session, function, input, data);
        kept.map_err(|_| CkRv::HOST_MEMORY)?;
        Ok(answer)
    }

    /// C_WrapKey. Its repetition is known by everything it is called with.
    pub fn wrap_key(
        &self,
        session: SessionHandle,
        mechanism: Mechanism,
        wrapping_key: ObjectHandle,
        key: ObjectHandle,
        room: Room,
    ) -> Result<Answer<Data>, CkRv> {
        let parameter = mechanism.parameter().for_module(true)?;
        let mut input = Vec::with_capacity(24 + parameter.len());
        for number in [mechanism.mechanism_type().0, wrapping_key.0, key.0] {
            input.extend_from_slice(&number.to_be_bytes());
        }
        input.extend_from_slice(&parameter);
        drop(parameter);
        let call = Call::C_WrapKey(session, mechanism, wrapping_key, key);
        self.two_phase(session, call, &input, room)
    }

    /// C_SetOperationState replaces the session's operations.
    pub fn set_operation_state(&self, session: SessionHandle, call: Call<'_>) -> Result<(), CkRv> {
        self.only(call)?;
        self.sessions().replaced(session);
        Ok(())
    }

    /// C_OpenSession.
    pub fn open_session(&self, slot: SlotId, flags: Flags) -> Result<SessionHandle, CkRv> {
        let session = ask!(self, C_OpenSession(slot, flags))?.session;
        self.sessions().opened(session, slot);
        Ok(session)
    }

    /// C_CloseSession.
    pub fn close_session(&self, session: SessionHandle) -> Result<(), CkRv> {
        let rv = self.call(Call::C_CloseSession(session)).rv();
        if [CkRv::OK, CkRv::SESSION_HANDLE_INVALID, CkRv::SESSION_CLOSED].contains(&rv) {
            self.sessions().closed(session);
        }
        result(rv)
    }

    /// C_CloseAllSessions.
    pub fn close_all_sessions(&self, slot: SlotId) -> Result<(), CkRv> {
        self.only(Call::C_CloseAllSessions(slot))?;
        self.sessions().all_closed(slot);
        Ok(())
    }

    /// C_GetSlotList.
    pub fn slots(&self, token_present: bool, room: Room) -> Result<Answer<Vec<SlotId>>, CkRv> {
        let present = Ulong(token_present.into());
        match self.call(Call::C_GetSlotList(present, request_count(room))) {
            Reply::C_GetSlotList(SlotListResult { rv, slots, count }) => {
                list(rv, slots, count, room)
            }
            reply => Err(refusal(&reply)),
        }
    }

    /// C_GetMechanismList.
    pub fn mechanisms(&self, slot: SlotId, room: Room) -> Result<Answer<Vec<MechanismType>>, CkRv> {
        match self.call(Call::C_GetMechanismList(slot, request_count(room))) {
            Reply::C_GetMechanismList(MechanismListResult {
                rv,
                mechanisms,
                count,
            }) => list(rv, mechanisms, count, room),
            reply => Err(refusal(&reply)),
        }
    }

    /// C_FindObjects: `room` handles at the most.
    pub fn find_objects(
        &self,
        session: SessionHandle,
        room: usize,
    ) -> Result<Vec<ObjectHandle>, CkRv> {
        let count = Ulong((room as u64).min(MOST_ELEMENTS));
        let objects = ask!(self, C_FindObjects(session, count))?.objects;
        if objects.len() > room {
            return Err(CkRv::DEVICE_ERROR);
        }
        Ok(objects)
    }

    /// C_GenerateRandom: exactly `size` bytes.
    pub fn random(&self, session: SessionHandle, size: usize) -> Result<Data, CkRv> {
        let random = ask!(self, C_GenerateRandom(session, Ulong(size as u64)))?;
        let random = Zeroizing::new(random.data);
        if random.len() != size {
            return Err(CkRv::DEVICE_ERROR);
        }
        Ok(Data::Secret(random))
    }

    /// C_WaitForSlotEvent. Waiting is polling, as in the original: a daemon's worker has no
    /// way to call back, and the connection stays free for other threads in between.
    pub fn wait_for_slot_event(&self, flags: Flags) -> Result<SlotId, CkRv> {
        loop {
            let event = ask!(self, C_WaitForSlotEvent(Flags(DONT_BLOCK)));
            match event {
                Err(CkRv::NO_EVENT) if flags.0 & DONT_BLOCK == 0 => {}
                event => return event.map(|event| event.slot_id),
            }
            let finished = locked(&self.finished);
            let waited =
                self.finishing
                    .wait_timeout_while(finished, self.slot_event_period, |finished| !*finished);
            let (finished, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if *finished {
                return Err(CkRv::CRYPTOKI_NOT_INITIALIZED);
            }
        }
    }
}

impl<R: Remote> Cryptoki for Library<R> {
    fn call(&self, call: Call<'_>) -> Reply {
        let reply = self.remote.call(call);
        if self.remote.is_lost() {
            self.sessions().clear();
        }
        reply
    }
}

/// Bytes for the application.
pub(crate) enum Data {
    /// Nothing to hide from the memory's next user.
    Public(Vec<u8>),
    /// Plaintext, keys, random numbers: wiped when dropped.
    Secret(Zeroizing<Vec<u8>>),
}

impl AsRef<[u8]> for Data {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::ops::Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Data::Public(bytes) => bytes,
            Data::Secret(bytes) => bytes,
        }
    }
}

fn result(rv: CkRv) -> Result<(), CkRv> {
    if rv.is_ok() { Ok(()) } else { Err(rv) }
}

/// A lock whose content is sound whatever happened to the thread that held it: each change to it
/// is one step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The result of a function that answers bytes.
fn data_result(reply: Reply) -> Result<DataResult, CkRv> {
    match reply {
        Reply::C_WrapKey(result)
        | Reply::C_Digest(result)
        | Reply::C_DigestFinal(result)
        | Reply::C_Sign(result)
        | Reply::C_SignFinal(result)
        | Reply::C_Encrypt(result)
        | Reply::C_EncryptUpdate(result)
        | Reply::C_EncryptFinal(result)
        | Reply::C_Decrypt(result)
        | Reply::C_DecryptUpdate(result)
        | Reply::C_DecryptFinal(result)
        | Reply::C_SignRecover(result)
        | Reply::C_VerifyRecover(result)
        | Reply::C_DigestEncryptUpdate(result)
        | Reply::C_SignEncryptUpdate(result)
        | Reply::C_DecryptDigestUpdate(result)
        | Reply::C_DecryptVerifyUpdate(result)
        | Reply::C_GetOperationState(result) => Ok(result),
        reply => Err(refusal(&reply)),
    }
}

/// The count a list function sends: 0, a size query, also for a list without room.
fn request_count(room: Room) -> Ulong {
    Ulong((room.unwrap_or(0) as u64).min(MOST_ELEMENTS))
}

/// What a list function answers: never more than there is room for, and never what was not sent.
fn list<T>(rv: CkRv, items: Vec<T>, count: Ulong, room: Room) -> Result<Answer<Vec<T>>, CkRv> {
    let has_count = rv.is_ok() || rv == CkRv::BUFFER_TOO_SMALL;
    if has_count && count.0 > MOST_ELEMENTS {
        return Err(CkRv::DEVICE_ERROR); // no list is that long, and applications multiply it
    }
    let count = usize::try_from(count.0).unwrap_or(usize::MAX);
    match (rv, room) {
        (CkRv::OK, None) => Ok(Answer::Size(count)),
        (CkRv::BUFFER_TOO_SMALL, Some(_)) => Ok(Answer::TooSmall(count)),
        (CkRv::OK, Some(room)) if items.len() > room => Err(CkRv::DEVICE_ERROR),
        (CkRv::OK, Some(room)) if count > room => Ok(Answer::TooSmall(count)),
        (CkRv::OK, Some(_)) => Ok(Answer::Whole(items)),
        (rv, _) => Err(rv),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use xdr::{ObjectListResult, SlotResult};

    use super::*;
    use crate::fake::{self, Scripted};

    #[test]
    fn starts_in_the_order_of_the_protocol_and_stops_at_the_first_refusal() {
        let start = |architecture, loaded, initialized| {
            let calls = Arc::new(Mutex::new(Vec::new()));
            let seen = calls.clone();
            let remote = Scripted::new(move |call| {
                seen.lock().unwrap().push(call.function().name());
                match call {
                    Call::C_SetupArch(_) => Reply::C_SetupArch(Architecture(architecture)),
                    Call::C_LoadModule(alias) => {
                        assert_eq!(alias, b"fake");
                        Reply::C_LoadModule(loaded)
                    }
                    call => Reply::only(call.function(), initialized),
                }
            });
            let started = Library::start(remote, &fake::settings());
            let calls = calls.lock().unwrap().clone();
            (started.err().map(|error| error.to_string()), calls)
        };
        let all = ["C_SetupArch", "C_LoadModule", "C_Initialize"];
        assert_eq!(start(4, CkRv::OK, CkRv::OK), (None, all.to_vec()));
        for answer in [0, 5, u64::MAX] {
            let (error, calls) = start(answer, CkRv::OK, CkRv::OK);
            assert!(error.is_some() && calls == all[..1]);
        }
        let (error, calls) = start(1, CkRv::GENERAL_ERROR, CkRv::OK);
        assert!(error.unwrap().contains("GENERAL_ERROR") && calls == all[..2]);
        let (error, calls) = start(1, CkRv::OK, CkRv::FUNCTION_FAILED);
        assert!(error.unwrap().contains("FUNCTION_FAILED") && calls == all);
    }

    fn slots(rv: CkRv, sent: u64, count: u64, room: Room) -> Result<Answer<usize>, CkRv> {
        let library = fake::library(move |call| match call {
            Call::C_GetSlotList(Ulong(0), Ulong(asked)) => {
                assert_eq!(asked, room.unwrap_or(0).min(65536) as u64);
                Reply::C_GetSlotList(SlotListResult {
                    rv,
                    slots: (0..sent).map(SlotId).collect(),
                    count: Ulong(count),
                })
            }
            call => Reply::only(call.function(), CkRv::OK),
        });
        let answer = library.slots(false, room);
        answer.map(|answer| answer.map(|slots| slots.len()))
    }

    /// As the original's library was observed to answer C_GetSlotList and C_GetMechanismList.
    #[test]
    fn lists_keep_to_the_room_there_is() {
        let too_small = CkRv::BUFFER_TOO_SMALL;
        assert_eq!(slots(CkRv::OK, 0, 70, None), Ok(Answer::Size(70)));
        assert_eq!(slots(CkRv::OK, 0, 70, Some(0)), Ok(Answer::TooSmall(70)));
        assert_eq!(slots(CkRv::OK, 0, 0, Some(0)), Ok(Answer::Whole(0)));
        assert_eq!(slots(too_small, 0, 70, Some(3)), Ok(Answer::TooSmall(70)));
        assert_eq!(slots(CkRv::OK, 70, 70, Some(200)), Ok(Answer::Whole(70)));
        assert_eq!(
            slots(CkRv::OK, 70, 70, Some(usize::MAX)),
            Ok(Answer::Whole(70))
        );
        // The count of an error means nothing.
        assert_eq!(
            slots(CkRv::SLOT_ID_INVALID, 0, 70, None),
            Err(CkRv::SLOT_ID_INVALID)
        );
        // A server that sends more than asked, or tells more than it sends.
        assert_eq!(slots(CkRv::OK, 4, 4, Some(3)), Err(CkRv::DEVICE_ERROR));
        assert_eq!(slots(CkRv::OK, 4, 4, Some(0)), Err(CkRv::DEVICE_ERROR));
        assert_eq!(slots(CkRv::OK, 2, 3, Some(3)), Ok(Answer::Whole(2)));
        for rv in [CkRv::OK, too_small] {
            for count in [MOST_ELEMENTS + 1, u64::MAX] {
                for room in [None, Some(3)] {
                    assert_eq!(slots(rv, 0, count, room), Err(CkRv::DEVICE_ERROR));
                }
            }
        }
        assert_eq!(
            slots(CkRv::SLOT_ID_INVALID, 0, u64::MAX, None),
            Err(CkRv::SLOT_ID_INVALID)
        );
    }

    #[test]
    fn objects_and_random_bytes_beyond_what_was_asked_are_refused() {
        let library = fake::library(|call| match call {
            Call::C_FindObjects(..) => Reply::C_FindObjects(ObjectListResult {
                rv: CkRv::OK,
                objects: (0..5).map(ObjectHandle).collect(),
                count: Ulong(5),
            }),
            Call::C_GenerateRandom(..) => Reply::C_GenerateRandom(DataResult {
                rv: CkRv::OK,
                data: vec![1; 5],
            }),
            call => Reply::only(call.function(), CkRv::OK),
        });
        let session = SessionHandle(1);
        assert_eq!(
            library.find_objects(session, 5).map(|found| found.len()),
            Ok(5)
        );
        assert_eq!(library.find_objects(session, 4), Err(CkRv::DEVICE_ERROR));
        assert!(library.random(session, 5).is_ok());
        for size in [4, 6] {
            assert_eq!(
                library.random(session, size).err(),
                Some(CkRv::DEVICE_ERROR)
            );
        }
    }

    fn waiting(no_events: usize) -> (Library<Scripted>, Arc<AtomicUsize>) {
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = polls.clone();
        let library = fake::library(move |call| match call {
            Call::C_WaitForSlotEvent(flags) => {
                assert_eq!(flags, Flags(1), "the daemon is never blocked");
                let poll = counted.fetch_add(1, Ordering::SeqCst);
                let none = poll < no_events;
                Reply::C_WaitForSlotEvent(SlotResult {
                    rv: if none { CkRv::NO_EVENT } else { CkRv::OK },
                    slot_id: if none { SlotId::NONE } else { SlotId(7) },
                })
            }
            call => Reply::only(call.function(), CkRv::OK),
        });
        (library, polls)
    }

    #[test]
    fn waiting_for_a_slot_event_polls_until_there_is_one() {
        let (library, polls) = waiting(3);
        assert_eq!(library.wait_for_slot_event(Flags(1)), Err(CkRv::NO_EVENT));
        assert_eq!(library.wait_for_slot_event(Flags(0)), Ok(SlotId(7)));
        assert_eq!(polls.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn finalising_wakes_who_waits_at_once() {
        let (mut library, polls) = waiting(usize::MAX);
        library.slot_event_period = Duration::from_secs(3600);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| library.wait_for_slot_event(Flags(0)));
            while polls.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            let started = Instant::now();
            library.finish().unwrap();
            let woken = waiter.join().unwrap();
            assert_eq!(woken, Err(CkRv::CRYPTOKI_NOT_INITIALIZED));
            assert!(started.elapsed() < Duration::from_secs(60));
        });
    }

    #[test]
    fn finalising_closes_the_connection_whatever_the_module_says() {
        let finish = |rv, lost| {
            let library = fake::library(move |call| Reply::only(call.function(), rv));
            library.remote().lost.store(lost, Ordering::SeqCst);
            let result = library.finish();
            assert!(library.remote().closed.load(Ordering::SeqCst));
            result
        };
        assert_eq!(finish(CkRv::OK, false), Ok(()));
        assert_eq!(
            finish(CkRv::FUNCTION_FAILED, false),
            Err(CkRv::FUNCTION_FAILED)
        );
        assert_eq!(finish(CkRv::DEVICE_ERROR, true), Ok(()));
    }
}
