//! Describes the objects whose handles the application gets, and finds them again on a new connection.

use std::collections::HashSet;
use std::sync::Arc;

use xdr::{Attribute, AttributeType, Call, CkRv, Function, ObjectHandle, Reply, SessionHandle};

use super::asking::{MOST, refused};
use super::descriptions::{Description, Token};
use super::tables::{Copied, Known};
use super::{Live, Recovery, Trouble};
use crate::remote::Remote;

/// CKA_TOKEN.
const TOKEN: AttributeType = AttributeType(1);

/// The CK_RV of a function that the daemon's filter forbids or the module does not have.
const FORBIDDEN: CkRv = CkRv::FUNCTION_NOT_SUPPORTED;

impl<R: Remote + 'static> Recovery<R> {
    /// Finds an object again that a call of `session` uses.
    pub(super) fn restore_object(
        &self,
        live: &Live<R>,
        object: ObjectHandle,
        session: SessionHandle,
        refusal: CkRv,
        known: &Description,
    ) -> Result<(), Trouble> {
        if let Some((real, now)) = self.find_again(live, object, session, refusal, known)? {
            let mut state = self.shared.state();
            state.tables.restored(object, real, live.generation);
            // Its label or other attributes may have changed meanwhile.
            state
                .tables
                .changed(object, Known::Described(Arc::new(now)));
        }
        Ok(())
    }

    /// Makes a copy again, in the session with which it ends.
    pub(super) fn restore_copy(
        &self,
        live: &Live<R>,
        object: ObjectHandle,
        refusal: CkRv,
        copied: &Copied,
    ) -> Result<(), Trouble> {
        self.restore_session(live, copied.session)?;
        let found = self.find_again(live, object, copied.session, refusal, &copied.original)?;
        let Some((original, _)) = found else {
            return Ok(());
        };
        let state = self.shared.state();
        let Some(session) = state.tables.sessions.get(&copied.session) else {
            return Err(refusal.into());
        };
        let session = session.real;
        drop(state);
        let call = Call::C_CopyObject(session, original, Some(copied.template.clone()));
        match live.ask(call)? {
            Reply::C_CopyObject(made) if made.rv.is_ok() => {
                let real = made.object.ok_or(Trouble::Refused(refusal))?;
                let mut state = self.shared.state();
                state.tables.restored(object, real, live.generation);
                Ok(())
            }
            reply => Err(refused(reply.rv()).into_device_error()),
        }
    }

    /// Finds the object on the token that matches a description; returns its handle and its present description. The
    /// application uses the object in `session`. `None` if `object` was restored meanwhile.
    fn find_again(
        &self,
        live: &Live<R>,
        object: ObjectHandle,
        session: SessionHandle,
        refusal: CkRv,
        known: &Description,
    ) -> Result<Option<(ObjectHandle, Description)>, Trouble> {
        let state = self.shared.state();
        if state.tables.real_object(object, live.generation).is_some() {
            return Ok(None);
        }
        let slot = state.tables.sessions.get(&session).map(|it| it.slot);
        let slot = slot.and_then(|it| state.tables.slots.get(&it));
        let Some((present, has_lost_login)) =
            slot.map(|it| (it.present.clone(), it.has_lost_login))
        else {
            return Err(refusal.into());
        };
        drop(state);
        let found = self.in_some_session(live, session, |searching| {
            find_object(live, searching, known, present)
        });
        let found = match found {
            Err(Trouble::Refused(FORBIDDEN)) => {
                self.note_hidden(live);
                None
            }
            found => found?,
        };
        match found {
            Some(found) => Ok(Some(found)),
            None if has_lost_login && known.is_private() => {
                Err(Trouble::Refused(CkRv::USER_NOT_LOGGED_IN))
            }
            None => {
                log::warn!(
                    "an object of the application cannot be found again, or several objects match it"
                );
                Err(refusal.into())
            }
        }
    }

    /// Searches in a session of the library's own, because the application may be searching in its own session. If the
    /// module opens no other session, searches in the application's, unless the application has begun a search there.
    fn in_some_session<T>(
        &self,
        live: &Live<R>,
        session: SessionHandle,
        search: impl FnOnce(SessionHandle) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let state = self.shared.state();
        let known = state.tables.sessions.get(&session);
        let slot = known.and_then(|it| state.tables.slots.get(&it.slot));
        let Some((session, slot)) = known.zip(slot) else {
            return Err(Trouble::Lost);
        };
        let may_search = session.generation == live.generation && !session.searches();
        let (real, slot, flags) = (session.real, slot.real, session.flags);
        drop(state);
        match live.open(slot, flags, false) {
            Ok(own) => {
                let found = search(own);
                live.ask_at_any_time(Call::C_CloseSession(own))?;
                found
            }
            Err(Trouble::Refused(_)) if may_search => search(real),
            Err(trouble) => Err(trouble.into_device_error()),
        }
    }

    /// Returns what is known of each object in a reply, in the reply's order.
    pub(super) fn look_at(
        &self,
        live: &Live<R>,
        call: &Call<'_>,
        reply: &mut Reply,
    ) -> Result<Vec<Known>, Trouble> {
        let mut objects = Vec::new();
        reply.each_handle(call, &mut |handle| {
            if let xdr::handles::Handle::Result(object) = handle {
                objects.push(*object);
            }
            Ok(())
        })?;
        let Some(session) = call.session().filter(|_| !objects.is_empty()) else {
            return Ok(Vec::new());
        };
        let is_for_token = |it: &Attribute| it.attribute_type == TOKEN && *it.bytes() == [1];
        let mut made = call.values().flat_map(|template| &template.0);
        let is_worth_asking = matches!(
            call.function(),
            Function::C_FindObjects | Function::C_CopyObject | Function::C_AsyncComplete
        ) || made.any(is_for_token);
        if !is_worth_asking {
            return Ok(vec![Known::OfSession; objects.len()]);
        }
        let (real, token) = self.place(live, session)?;
        let is_search = call.function() == Function::C_FindObjects;
        let mut left = match is_search {
            true => self.shared.state().tables.look_at(session, objects.len()),
            false => objects.len(),
        };
        let described = objects.into_iter().map(|object| {
            if left == 0 {
                return Ok(Known::NotYet);
            }
            left -= 1;
            match self.known(live, real, object, token.clone()) {
                Ok(Known::OfSession) => Ok(self.copied(call)),
                Ok(known) => Ok(known),
                // The object was made, so the call succeeds nevertheless.
                Err(_) if !is_search => Ok(Known::Nothing),
                // There is no time for this object now.
                Err(Trouble::Refused(_)) => Ok(Known::NotYet),
                Err(trouble) => Err(trouble),
            }
        });
        described.collect()
    }

    /// Describes an object that is read in this session of the module. If reading attributes is forbidden, nothing is
    /// known.
    fn known(
        &self,
        live: &Live<R>,
        session: SessionHandle,
        object: ObjectHandle,
        token: Option<Arc<Token>>,
    ) -> Result<Known, Trouble> {
        if self.shared.state().hidden_since == Some(live.generation) {
            return Ok(Known::Nothing);
        }
        match live.describe(session, object, token) {
            Ok(description) if description.is_of_token() => {
                Ok(Known::Described(Arc::new(description)))
            }
            Ok(description) if description.is_empty() => Ok(Known::Nothing),
            Ok(_) => Ok(Known::OfSession),
            Err(Trouble::Refused(FORBIDDEN)) => {
                self.note_hidden(live);
                Ok(Known::Nothing)
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// Notes that objects cannot be read on this connection, and logs that the first time.
    fn note_hidden(&self, live: &Live<R>) {
        let mut state = self.shared.state();
        if state.hidden_since.replace(live.generation).is_none() {
            log::warn!(
                "objects cannot be found again after a lost connection: the daemon returned {FORBIDDEN} to the library's \
                 search; filter.conf must not forbid C_GetAttributeValue, C_FindObjectsInit, C_FindObjects and \
                 C_FindObjectsFinal (forbidden_functions)"
            );
        }
    }

    /// Returns what is known of a session object that a call has found or made.
    fn copied(&self, call: &Call<'_>) -> Known {
        let Call::C_CopyObject(session, original, template) = call else {
            return Known::OfSession;
        };
        let template = template.clone().unwrap_or_default();
        let original = self.shared.state().tables.description(*original);
        match original {
            Some(original) if template.0.len() as u64 <= MOST => Known::Copied(Arc::new(Copied {
                original,
                session: *session,
                template,
            })),
            _ => Known::OfSession,
        }
    }

    /// Describes an object that is used for the first time.
    pub(super) fn look_at_object(
        &self,
        live: &Live<R>,
        session: SessionHandle,
        object: ObjectHandle,
    ) -> Result<(), Trouble> {
        let real_object = self
            .shared
            .state()
            .tables
            .real_object(object, live.generation);
        let Some(real_object) = real_object else {
            return Ok(());
        };
        let (real, token) = self.place(live, session)?;
        let known = match self.known(live, real, real_object, token) {
            Err(Trouble::Refused(_)) => Known::Nothing,
            known => known?,
        };
        self.shared.state().tables.changed(object, known);
        Ok(())
    }

    /// Looks for the counterpart of a private key before the key is used for the first time. If it is not found now, it
    /// is not looked for again.
    pub(super) fn look_for_counterpart(
        &self,
        live: &Live<R>,
        session: SessionHandle,
        object: ObjectHandle,
        known: &Description,
    ) -> Result<(), Trouble> {
        let state = self.shared.state();
        let is_hidden = state.hidden_since == Some(live.generation);
        let before = state.tables.with_counterpart(known, live.generation);
        drop(state);
        let (key, is_certain) = match before {
            Some(key) => (key, false),
            None => {
                let looked = match is_hidden {
                    true => Ok(None),
                    false => self.in_some_session(live, session, |it| live.counterpart(it, known)),
                };
                let is_certain = looked.is_ok();
                let counterpart = match looked {
                    Err(Trouble::Refused(_)) => None,
                    looked => looked?,
                };
                let mut key = known.clone();
                key.counterpart = Some(counterpart);
                (Arc::new(key), is_certain)
            }
        };
        let mut state = self.shared.state();
        if is_certain {
            state
                .tables
                .remember_counterpart(key.clone(), live.generation);
        }
        state.tables.changed(object, Known::Described(key));
        Ok(())
    }

    /// Returns the module's handle of a session, and the session's token.
    fn place(
        &self,
        live: &Live<R>,
        session: SessionHandle,
    ) -> Result<(SessionHandle, Option<Arc<Token>>), Trouble> {
        let state = self.shared.state();
        let known = state.tables.sessions.get(&session);
        let known = known.filter(|it| it.generation == live.generation);
        let known = known.ok_or(Trouble::Lost)?;
        let slot = state.tables.slots.get(&known.slot);
        Ok((known.real, slot.and_then(|it| it.present.clone())))
    }
}

/// Finds the only object that matches a description; returns its handle and its present description.
fn find_object<R: Remote>(
    live: &Live<R>,
    session: SessionHandle,
    known: &Description,
    present: Option<Arc<Token>>,
) -> Result<Option<(ObjectHandle, Description)>, Trouble> {
    let Some(template) = known.search(present.as_deref()) else {
        return Ok(None);
    };
    let found = live.find(session, template)?;
    if found.len() as u64 > MOST {
        return Ok(None); // too many to compare
    }
    let found: HashSet<ObjectHandle> = found.into_iter().collect();
    let mut same = Vec::new();
    for object in found {
        let description = live.describe(session, object, present.clone())?;
        if known.is(&description, present.as_deref()) {
            same.push((object, description));
        }
    }
    let only_one = same.pop().filter(|_| same.is_empty());
    let Some((object, mut description)) = only_one else {
        return Ok(None);
    };
    if let Some(Some(counterpart)) = &known.counterpart {
        if !known.counts_by_id(present.as_deref())
            && !live.has_counterpart(session, known, counterpart)?
        {
            return Ok(None);
        }
    }
    description.counterpart.clone_from(&known.counterpart);
    Ok(Some((object, description)))
}
