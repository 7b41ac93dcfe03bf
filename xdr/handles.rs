//! Finds every handle and slot number in a call and in its reply, so that a layer can replace them.
//!
//! A call has handles in its arguments and in mechanism parameters. A reply has them in its results and in what a
//! module wrote into a parameter. The table of facts says what each argument is. This module changes nothing itself.

use crate::call::{Call, Reply};
use crate::integers::{CkRv, ObjectHandle, SessionHandle, SlotId};
use crate::mechanism::Mechanism;
use crate::wire_types::MechanismPointer;

/// A handle or a slot, to be replaced.
pub enum Handle<'a> {
    /// A session.
    Session(&'a mut SessionHandle),
    /// A slot.
    Slot(&'a mut SlotId),
    /// An object that a call uses. A call with one that does not exist gets this CK_RV.
    Object(&'a mut ObjectHandle, CkRv),
    /// An object in a reply: found or made. Never 0.
    Result(&'a mut ObjectHandle),
}

/// Gets each handle in turn; an error stops the iteration.
pub type Look<'l> = dyn FnMut(Handle<'_>) -> Result<(), CkRv> + 'l;

/// Passes each key that a mechanism's parameter names to `look`, with the CK_RV for one that does not exist. A handle
/// of 0 names nothing.
pub(crate) fn in_mechanism(mechanism: &mut Mechanism, look: &mut Look<'_>) -> Result<(), CkRv> {
    mechanism.each_key_mut(&mut |key| look(Handle::Object(key, CkRv::KEY_HANDLE_INVALID)))
}

/// Does the same for a mechanism that may be NULL.
pub(crate) fn in_pointer(pointer: &mut MechanismPointer, look: &mut Look<'_>) -> Result<(), CkRv> {
    match pointer {
        Some(mechanism) => in_mechanism(mechanism, look),
        None => Ok(()),
    }
}

/// Passes an object in a reply to `look`, if there is one.
pub(crate) fn in_result(
    object: Option<&mut ObjectHandle>,
    look: &mut Look<'_>,
) -> Result<(), CkRv> {
    match object.filter(|object| object.0 != 0) {
        Some(object) => look(Handle::Result(object)),
        None => Ok(()),
    }
}

impl Reply {
    /// Passes each handle and slot in the reply to `call` to `look`. Returns the error of `look`, if any.
    ///
    /// CKR_GENERAL_ERROR if the reply is not what the call's mechanism lets a module write.
    pub fn each_handle(&mut self, call: &Call<'_>, look: &mut Look<'_>) -> Result<(), CkRv> {
        self.results(look)?;
        let Some(written) = self.written_mut() else {
            return Ok(());
        };
        match call.mechanism() {
            Some(mechanism) if !written.is_empty() => {
                let usage = call.function().parameter_use();
                written.each_key_mut(mechanism, usage, &mut |key| look(Handle::Result(key)))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Function;
    use crate::buffers::{Input, Room};
    use crate::{Mechanism, ObjectListResult, Template};

    /// Returns what `each` passes to `look`, as letters and numbers, and adds 1 to each number.
    fn shown(each: impl FnOnce(&mut Look<'_>) -> Result<(), CkRv>) -> Vec<(char, u64)> {
        let mut shown = Vec::new();
        let looked = each(&mut |handle| {
            let (letter, number) = match handle {
                Handle::Session(session) => ('s', &mut session.0),
                Handle::Slot(slot) => ('t', &mut slot.0),
                Handle::Object(object, _) => ('o', &mut object.0),
                Handle::Result(object) => ('r', &mut object.0),
            };
            shown.push((letter, *number));
            *number += 1;
            Ok(())
        });
        assert_eq!(looked, Ok(()));
        shown
    }

    #[test]
    fn each_handle_of_a_call_is_shown_once() {
        let mut wrap = Call::C_WrapKey(
            SessionHandle(1),
            Some(Mechanism::default()),
            ObjectHandle(2),
            ObjectHandle(3),
            Room::Buffer(0),
        );
        let first = shown(|look| wrap.each_handle(look));
        assert_eq!(first, [('s', 1), ('o', 2), ('o', 3)]);
        let second = shown(|look| wrap.each_handle(look));
        assert_eq!(second, [('s', 2), ('o', 3), ('o', 4)]);
        let (none, one) = (ObjectHandle(0), ObjectHandle(1));
        let mut state = Call::C_SetOperationState(SessionHandle(1), Input::NULL, none, one);
        let shown_of_state = shown(|look| state.each_handle(look));
        assert_eq!(shown_of_state, [('s', 1), ('o', 1)]);
        let mut slot = Call::C_GetSlotInfo(SlotId(7));
        assert_eq!(shown(|look| slot.each_handle(look)), [('t', 7)]);
        assert!(slot == Call::C_GetSlotInfo(SlotId(8)));
    }

    #[test]
    fn each_handle_of_a_reply_is_shown_once() {
        let search = Call::C_FindObjects(SessionHandle(1), Room::Buffer(3));
        let mut found = Reply::C_FindObjects(ObjectListResult {
            objects: vec![ObjectHandle(4), ObjectHandle(5)],
            ..Default::default()
        });
        let objects = shown(|look| found.each_handle(&search, look));
        assert_eq!(objects, [('r', 4), ('r', 5)]);
        let pair = Call::C_GenerateKeyPair(
            SessionHandle(1),
            None,
            Some(Template::default()),
            Some(Template::default()),
        );
        let mut made = Reply::C_GenerateKeyPair(crate::KeyPairResult {
            public_key: Some(ObjectHandle(6)),
            private_key: None,
            ..Default::default()
        });
        assert_eq!(shown(|look| made.each_handle(&pair, look)), [('r', 6)]);
    }

    /// Written by hand, so that it checks the tables: the results of each function with a handle or slot.
    #[test]
    fn no_result_is_forgotten() {
        let with_handles: Vec<&str> = Function::ALL
            .iter()
            .filter(|function| {
                let mut reply = Reply::only(**function, CkRv::OK);
                match &mut reply {
                    Reply::C_GetSlotList(result) => result.slots.push(SlotId(1)),
                    Reply::C_FindObjects(result) => result.objects.push(ObjectHandle(1)),
                    Reply::C_CreateObject(result) => result.object = Some(ObjectHandle(1)),
                    Reply::C_CopyObject(result) => result.object = Some(ObjectHandle(1)),
                    Reply::C_GenerateKeyPair(result) => result.public_key = Some(ObjectHandle(1)),
                    Reply::C_EncapsulateKey(result) => result.object = Some(ObjectHandle(1)),
                    Reply::C_AsyncComplete(result) => result.object = ObjectHandle(1),
                    Reply::C_GenerateKey(result)
                    | Reply::C_UnwrapKey(result)
                    | Reply::C_DeriveKey(result)
                    | Reply::C_DecapsulateKey(result)
                    | Reply::C_UnwrapKeyAuthenticated(result) => {
                        result.object = Some(ObjectHandle(1));
                    }
                    _ => {}
                }
                !shown(|look| reply.results(look)).is_empty()
            })
            .map(|function| function.name())
            .collect();
        assert_eq!(
            with_handles,
            [
                "C_GetSlotList",
                "C_WaitForSlotEvent",
                "C_OpenSession",
                "C_GetSessionInfo",
                "C_FindObjects",
                "C_GenerateKey",
                "C_GenerateKeyPair",
                "C_CreateObject",
                "C_CopyObject",
                "C_UnwrapKey",
                "C_DeriveKey",
                "C_EncapsulateKey",
                "C_DecapsulateKey",
                "C_AsyncComplete",
                "C_UnwrapKeyAuthenticated",
            ]
        );
    }
}
