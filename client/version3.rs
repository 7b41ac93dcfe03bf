//! Makes calls in version 3 of the protocol, which the daemons of the original speak.
//!
//! The library makes calls of version 4, and `xdr::version3` converts them for the wire. This module implements what
//! PKCS#11 requires and version 3 leaves to the client: sizes (`pending`), lists, attributes (`attributes`), and
//! waiting for slot events. It refuses what version 3 cannot express.

mod attributes;
mod pending;

use std::borrow::Cow;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use xdr::codec::Encoder;
use xdr::facts::Family;
use xdr::{
    Architecture, Call, CkRv, Data, Flags, Function, MOST_ELEMENTS, MechanismListResult,
    ObjectListResult, Reply, Room, SlotListResult, Ulong, version3,
};

use crate::link::StartError;
use crate::mechanism::prepare_version3;
use crate::remote::{Remote, refusal};
use crate::sessions::Closes;
use pending::{Answer, Pending};

/// CKF_DONT_BLOCK of C_WaitForSlotEvent.
const DONT_BLOCK: u64 = 1;

/// Makes the first call (C_SetupArch).
pub(crate) fn set_up(remote: &impl Remote) -> Result<(), StartError> {
    let host = Architecture::host();
    match remote.call_version3(version3::Call::C_SetupArch(host)) {
        version3::Reply::C_SetupArch(Architecture(1..=4)) => Ok(()),
        _ if remote.is_lost() => Err(StartError::Lost),
        reply => Err(StartError::Architecture(Architecture(reply.rv().0))),
    }
}

/// The state that is kept between the calls of one connection.
pub(crate) struct Adapter {
    pending: Mutex<Pending>,
    slot_event_period: Duration,
    finished: Mutex<bool>,
    finishing: Condvar,
}

impl Adapter {
    /// Makes an adapter that polls for slot events with this pause.
    pub fn new(slot_event_period: Duration) -> Adapter {
        Adapter {
            pending: Mutex::default(),
            slot_event_period,
            finished: Mutex::new(false),
            finishing: Condvar::new(),
        }
    }

    /// Ends all waiting, because the connection is being closed.
    pub fn finish(&self) {
        self.pending().clear();
        *locked(&self.finished) = true;
        self.finishing.notify_all();
    }

    /// Makes a call.
    pub fn call(&self, remote: &impl Remote, call: Call<'_>) -> Reply {
        let function = call.function();
        let asking = Asking {
            adapter: self,
            remote,
        };
        let reply = refuse_nulls(&call).and_then(|()| asking.answer(call));
        reply.unwrap_or_else(|rv| Reply::only(function, rv))
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        locked(&self.pending)
    }
}

/// Locks a mutex, and ignores poisoning: each change to its content is one step, so the content is sound even if a
/// thread panicked.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refuses NULL pointers that version 3 would turn into something else.
fn refuse_nulls(call: &Call<'_>) -> Result<(), CkRv> {
    use xdr::Input;
    let is_bad = match call {
        Call::C_InitToken(_, _, Input::Null { .. }) => true,
        Call::C_SetAttributeValue(_, _, template) => template.is_none(),
        call => call.room() == Some(Room::NoLength),
    };
    if is_bad {
        Err(CkRv::ARGUMENTS_BAD)
    } else {
        Ok(())
    }
}

/// Makes one call.
struct Asking<'a, R> {
    adapter: &'a Adapter,
    remote: &'a R,
}

impl<R: Remote> Asking<'_, R> {
    fn answer(&self, call: Call<'_>) -> Result<Reply, CkRv> {
        match call {
            Call::C_GetSlotList(present, room) => {
                // Only CK_TRUE itself counts as true, as in the original.
                let present = Ulong(u64::from(present.0 == 1));
                match self.ask(&Call::C_GetSlotList(present, bounded(room)))? {
                    Reply::C_GetSlotList(SlotListResult { rv, slots, count }) => {
                        let (rv, slots, count) = list(rv, slots, count, room)?;
                        Ok(Reply::C_GetSlotList(SlotListResult { rv, slots, count }))
                    }
                    reply => Err(refusal(&reply)),
                }
            }
            Call::C_GetMechanismList(slot, room) => {
                match self.ask(&Call::C_GetMechanismList(slot, bounded(room)))? {
                    Reply::C_GetMechanismList(result) => {
                        let MechanismListResult {
                            rv,
                            mechanisms,
                            count,
                        } = result;
                        let (rv, mechanisms, count) = list(rv, mechanisms, count, room)?;
                        let result = MechanismListResult {
                            rv,
                            mechanisms,
                            count,
                        };
                        Ok(Reply::C_GetMechanismList(result))
                    }
                    reply => Err(refusal(&reply)),
                }
            }
            Call::C_FindObjects(session, room) => {
                match self.ask(&Call::C_FindObjects(session, bounded(room)))? {
                    Reply::C_FindObjects(ObjectListResult { rv, objects, .. }) if rv.is_ok() => {
                        let count = Ulong(objects.len() as u64);
                        Ok(Reply::C_FindObjects(ObjectListResult {
                            rv,
                            objects,
                            count,
                        }))
                    }
                    reply => Err(refusal(&reply)),
                }
            }
            Call::C_GetAttributeValue(session, object, query) => {
                let query = query.ok_or(CkRv::ARGUMENTS_BAD)?;
                let ask =
                    |query| self.ask(&Call::C_GetAttributeValue(session, object, Some(query)));
                attributes::values(ask, &query).map(Reply::C_GetAttributeValue)
            }
            Call::C_WaitForSlotEvent(flags) => self.wait_for_slot_event(flags),
            call if !version3::FUNCTIONS.contains(&call.function()) => {
                Err(CkRv::FUNCTION_NOT_SUPPORTED)
            }
            mut call => {
                prepare_version3(&mut call)?;
                self.operate(&call)
            }
        }
    }

    /// Sends a call.
    fn ask(&self, call: &Call<'_>) -> Result<Reply, CkRv> {
        self.send(version3::Call::of(call)?)
    }

    fn send(&self, call: version3::Call<'_>) -> Result<Reply, CkRv> {
        let reply = self.remote.call_version3(call);
        if self.remote.is_lost() {
            self.adapter.pending().clear();
        }
        Ok(reply.into_current())
    }

    /// Makes a call that may belong to an operation. Keeps the result if there is no room for it.
    fn operate(&self, call: &Call<'_>) -> Result<Reply, CkRv> {
        let function = call.function();
        let sent = version3::Call::of(call)?;
        let input = identity(&sent)?;
        let session = call.session().unwrap_or_default();
        let room = match call.room() {
            Some(Room::Buffer(room)) => Some(room),
            _ => None,
        };
        if is_of_operation(function) {
            let mut pending = self.adapter.pending();
            if let Some(answer) = pending.answer(session, function, &input, room) {
                return answer.map(|answer| reply_of(function, answer));
            }
        }
        let pending = self.adapter.pending();
        let number = pending.number(session);
        let closing = Closes::of(call).map(|closes| pending.closing(closes));
        drop(pending);
        let mut reply = self.send(sent)?;
        let rv = reply.rv();
        let mut pending = self.adapter.pending();
        if let Some(closing) = closing {
            pending.closed(closing, rv);
        }
        if !rv.is_ok() {
            return Err(rv);
        }
        match (call, &reply) {
            (Call::C_OpenSession(slot, ..), Reply::C_OpenSession(opened)) => {
                pending.opened(opened.session, *slot);
            }
            (Call::C_SetOperationState(..), _) => pending.replaced(session),
            _ => {}
        }
        if let Some(data) = data_of(&mut reply) {
            let size = data.len() as u64;
            if room.is_none_or(|room| room < size) {
                let data = std::mem::take(data);
                let kept = data
                    .into_vec()
                    .and_then(|data| pending.keep((session, number), function, &input, data));
                kept.map_err(|_| CkRv::HOST_MEMORY)?;
                return Ok(reply_of(function, Answer::of(size, room)));
            }
        }
        Ok(reply)
    }

    /// Executes C_WaitForSlotEvent by polling, as in the original: a daemon's worker cannot call back, and between two
    /// polls other threads can use the connection.
    fn wait_for_slot_event(&self, flags: Flags) -> Result<Reply, CkRv> {
        loop {
            let reply = self.ask(&Call::C_WaitForSlotEvent(Flags(DONT_BLOCK)))?;
            if reply.rv() != CkRv::NO_EVENT || flags.0 & DONT_BLOCK != 0 {
                return Ok(reply);
            }
            let adapter = self.adapter;
            let finished = locked(&adapter.finished);
            let waited = adapter.finishing.wait_timeout_while(
                finished,
                adapter.slot_event_period,
                |finished| !*finished,
            );
            let (finished, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if *finished {
                return Err(CkRv::CRYPTOKI_NOT_INITIALIZED);
            }
        }
    }
}

/// Returns whether a function's results are kept, or it affects results that are kept.
fn is_of_operation(function: Function) -> bool {
    let facts = function.facts();
    [
        Family::Digest,
        Family::Sign,
        Family::SignRecover,
        Family::Verify,
        Family::VerifyRecover,
        Family::Encrypt,
        Family::Decrypt,
        Family::Wrap,
        Family::OperationState,
    ]
    .into_iter()
    .any(|family| facts.is_of(family))
}

/// Returns the input by which the repetition of a call is recognised, besides its session and function.
fn identity<'a>(call: &version3::Call<'a>) -> Result<Cow<'a, [u8]>, CkRv> {
    use version3::Call::*;
    match call {
        C_Digest(_, input)
        | C_Sign(_, input)
        | C_Encrypt(_, input)
        | C_EncryptUpdate(_, input)
        | C_Decrypt(_, input)
        | C_DecryptUpdate(_, input)
        | C_SignRecover(_, input)
        | C_VerifyRecover(_, input)
        | C_DigestEncryptUpdate(_, input)
        | C_SignEncryptUpdate(_, input)
        | C_DecryptDigestUpdate(_, input)
        | C_DecryptVerifyUpdate(_, input) => Ok(Cow::Borrowed(input)),
        C_WrapKey(..) => {
            let mut buffer = Vec::new();
            let mut arguments = Encoder::new(&mut buffer, Architecture::host());
            call.write(&mut arguments);
            let arguments = arguments.finish().map_err(|_| CkRv::HOST_MEMORY)?;
            Ok(Cow::Owned(arguments.to_vec()))
        }
        _ => Ok(Cow::Borrowed(&[])),
    }
}

/// Returns the bytes in the reply to a function whose results are kept.
fn data_of(reply: &mut Reply) -> Option<&mut Data> {
    output_of(reply).map(|(_, _, data)| data)
}

/// Returns the CK_RV, length and bytes in the reply to a function whose results are kept.
fn output_of(reply: &mut Reply) -> Option<(&mut CkRv, &mut Ulong, &mut Data)> {
    match reply {
        Reply::C_WrapKey(result) => Some((&mut result.rv, &mut result.length, &mut result.data)),
        Reply::C_Digest(result)
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
        | Reply::C_GetOperationState(result) => {
            Some((&mut result.rv, &mut result.length, &mut result.data))
        }
        _ => None,
    }
}

/// Converts an answer of the two-call convention to a reply of version 4.
fn reply_of(function: Function, answer: Answer) -> Reply {
    let mut reply = Reply::only(function, CkRv::OK);
    if let Some((rv, length, data)) = output_of(&mut reply) {
        *length = Ulong(answer.size());
        match answer {
            Answer::Size(_) => {}
            Answer::TooSmall(_) => *rv = CkRv::BUFFER_TOO_SMALL,
            Answer::Whole(mut whole) => *data = std::mem::take(&mut *whole).into(),
        }
    }
    reply
}

/// Returns the room that is sent for a list: no more elements than a list can have.
fn bounded(room: Room) -> Room {
    match room {
        Room::Buffer(room) => Room::Buffer(room.min(MOST_ELEMENTS)),
        room => room,
    }
}

/// Checks and completes the reply of a list function: no more elements than there is room for, and the number of those
/// that were sent.
fn list<T>(
    rv: CkRv,
    items: Vec<T>,
    count: Ulong,
    room: Room,
) -> Result<(CkRv, Vec<T>, Ulong), CkRv> {
    let has_count = rv.is_ok() || rv == CkRv::BUFFER_TOO_SMALL;
    if has_count && count.0 > MOST_ELEMENTS {
        return Err(CkRv::DEVICE_ERROR); // no list is that long, and applications multiply its length
    }
    let sent = items.len() as u64;
    match (rv, room) {
        (CkRv::OK, Room::Buffer(room)) if sent > room => Err(CkRv::DEVICE_ERROR),
        (CkRv::OK, Room::Buffer(room)) if count.0 > room => {
            Ok((CkRv::BUFFER_TOO_SMALL, Vec::new(), count))
        }
        (CkRv::OK, Room::Buffer(_)) => Ok((rv, items, Ulong(sent))),
        (CkRv::BUFFER_TOO_SMALL, Room::Buffer(_)) | (CkRv::OK, _) => Ok((rv, Vec::new(), count)),
        (rv, _) => Err(rv),
    }
}

#[cfg(test)]
mod tests;
