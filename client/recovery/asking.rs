//! Makes the library's own calls on a connection: they ask for slots, tokens and attributes, open sessions, and search.
//!
//! These calls use the module's handles, and the application does not notice them. Each serves a call of the
//! application, and is made only while that call has time left.

use std::sync::Arc;

use xdr::{
    Answer, Call, CkRv, Cryptoki, Flags, Found, MOST_ELEMENTS, ObjectHandle, Query, RV_LEAVING,
    Reply, Room, SessionHandle, SlotId, Ulong, Wanted, WantedRoom,
};

use super::descriptions::{Description, Token, Values, describe};
use super::{Live, Trouble};
use crate::link::DistantModule;
use crate::remote::Remote;

/// The upper bound on the objects that are compared.
pub(super) const MOST: u64 = 64;

/// Returns the error for an answer of the module that cannot be used.
pub(super) fn refused(rv: CkRv) -> Trouble {
    Trouble::Refused(if rv.is_ok() { CkRv::GENERAL_ERROR } else { rv })
}

impl<R: Remote> Live<R> {
    /// Makes a call of the library's own, if there is time for it.
    pub(super) fn ask(&self, call: Call<'_>) -> Result<Reply, Trouble> {
        self.check_time()?;
        self.ask_at_any_time(call)
    }

    pub(super) fn check_time(&self) -> Result<(), Trouble> {
        let is_over = |_| Trouble::Refused(CkRv::DEVICE_ERROR);
        self.deadline.remaining().map(drop).map_err(is_over)
    }

    /// Makes a call of the library's own even if there is no time left, because it must not be omitted.
    pub(super) fn ask_at_any_time(&self, call: Call<'_>) -> Result<Reply, Trouble> {
        let reply = self.link.call(call);
        match reply.rv() {
            RV_LEAVING => Err(Trouble::Leaving),
            CkRv::DEVICE_ERROR if self.link.is_lost() => Err(Trouble::Lost),
            _ => Ok(reply),
        }
    }

    /// Returns the token in a slot of the module, if the module says.
    pub(super) fn token(&self, slot: SlotId) -> Result<Option<Token>, Trouble> {
        match self.ask(Call::C_GetTokenInfo(slot))? {
            Reply::C_GetTokenInfo(answer) if answer.rv.is_ok() => Ok(Some(Token::of(&answer.info))),
            _ => Ok(None),
        }
    }

    pub(super) fn slots(&self) -> Result<Vec<SlotId>, Trouble> {
        match self.ask(Call::C_GetSlotList(Ulong(1), Room::Buffer(MOST_ELEMENTS)))? {
            Reply::C_GetSlotList(answer) if answer.rv.is_ok() => Ok(answer.slots),
            reply => Err(refused(reply.rv())),
        }
    }

    pub(super) fn open(
        &self,
        slot: SlotId,
        flags: Flags,
        notify: bool,
    ) -> Result<SessionHandle, Trouble> {
        match self.ask(Call::C_OpenSession(slot, flags, notify))? {
            Reply::C_OpenSession(opened) if opened.rv.is_ok() => Ok(opened.session),
            reply => Err(refused(reply.rv())),
        }
    }

    /// Returns the values of these attributes of an object. Leaves out those that the object does not have or that may
    /// not be read.
    pub(super) fn values(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        wanted: Vec<Wanted>,
    ) -> Result<Values, Trouble> {
        let ask = |wanted| {
            let call = Call::C_GetAttributeValue(session, object, Some(Query(wanted)));
            match self.ask(call)? {
                Reply::C_GetAttributeValue(answer) if answer.rv != CkRv::FUNCTION_NOT_SUPPORTED => {
                    Ok(answer.answers.0)
                }
                reply => Err(refused(reply.rv())),
            }
        };
        // The daemon may send values of any type and length; those that were not asked for are not kept.
        let of = |wanted: &[Wanted], answers: &[Answer]| -> Values {
            let value = |(wanted, it): (&Wanted, &Answer)| {
                let value = it.bytes()?;
                let is_meant = it.attribute_type == wanted.attribute_type && fits(wanted, value);
                is_meant.then(|| (it.attribute_type.0, value.to_vec()))
            };
            wanted.iter().zip(answers).filter_map(value).collect()
        };
        let answers = ask(wanted.clone())?;
        let mut values = of(&wanted, &answers);
        // A module may stop at the first attribute that the object does not have.
        let is_untouched = |it: &Answer| it.found == Found::Untouched;
        let mut answers = answers.iter();
        for wanted in wanted {
            if answers.next().is_none_or(is_untouched) {
                let wanted = vec![wanted];
                values.append(&mut of(&wanted, &ask(wanted.clone())?));
            }
        }
        Ok(values)
    }

    pub(super) fn describe(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        token: Option<Arc<Token>>,
    ) -> Result<Description, Trouble> {
        describe(token, |wanted| self.values(session, object, wanted))
    }

    /// Returns the objects that a search finds, up to one more than are compared.
    pub(super) fn find(
        &self,
        session: SessionHandle,
        template: xdr::Template,
    ) -> Result<Vec<ObjectHandle>, Trouble> {
        let begun = self.ask(Call::C_FindObjectsInit(session, Some(template)))?;
        if !begun.rv().is_ok() {
            return Err(refused(begun.rv()));
        }
        let found = self.next(session);
        // The search must be ended, because the session may be the application's.
        self.ask_at_any_time(Call::C_FindObjectsFinal(session))?;
        found
    }

    /// Returns the objects of a search that has begun.
    fn next(&self, session: SessionHandle) -> Result<Vec<ObjectHandle>, Trouble> {
        let mut found = Vec::new();
        while (found.len() as u64) <= MOST {
            match self.ask(Call::C_FindObjects(session, Room::Buffer(MOST)))? {
                Reply::C_FindObjects(answer) if answer.rv.is_ok() => {
                    if answer.objects.is_empty() {
                        break;
                    }
                    found.extend(answer.objects);
                }
                reply => return Err(refused(reply.rv())),
            }
        }
        Ok(found)
    }
}

/// Returns whether there was room for a value.
fn fits(wanted: &Wanted, value: &[u8]) -> bool {
    match wanted.room {
        WantedRoom::Buffer { room, .. } => value.len() as u64 <= room,
        WantedRoom::Null { .. } | WantedRoom::Template(_) => false,
    }
}

impl Trouble {
    /// Turns a failure of the module to restore something into CKR_DEVICE_ERROR for the application.
    pub(super) fn into_device_error(self) -> Trouble {
        match self {
            Trouble::Lost | Trouble::GivenUp | Trouble::Leaving => self,
            Trouble::Refused(_) => Trouble::Refused(CkRv::DEVICE_ERROR),
        }
    }
}
