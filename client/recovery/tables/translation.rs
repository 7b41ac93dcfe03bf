//! Puts the module's handles into a call, and the application's into its reply.

use std::collections::HashSet;

use xdr::handles::Handle;
use xdr::operations::Operations;
use xdr::{Call, CkRv, Function, NullPlaces, ObjectHandle, Reply, SessionHandle, SlotId};

use super::{Known, MOST_READ, Missing, NO_HANDLE, Object, Session, Source, Tables, next_handle};
use crate::recovery::needs_operation;

impl Tables {
    /// Puts the module's handles into a call. If something must be restored first, returns that; the call cannot be
    /// sent then.
    pub fn translate(
        &mut self,
        call: &mut Call<'_>,
        generation: u64,
    ) -> Result<Option<Missing>, CkRv> {
        let function = call.function();
        let application_session = call.session();
        let is_used = !matches!(
            function,
            Function::C_GetAttributeValue | Function::C_GetObjectSize
        );
        let mut missing = None;
        call.each_handle(&mut |handle| {
            match handle {
                Handle::Session(session) => match self.sessions.get(session) {
                    Some(known) if known.generation == generation => *session = known.real,
                    Some(_) => drop(missing.get_or_insert(Missing::Session(*session))),
                    None => *session = SessionHandle(NO_HANDLE),
                },
                Handle::Slot(slot) => match self.slots.get(slot) {
                    Some(known) if known.generation == generation => *slot = known.real,
                    Some(_) => drop(missing.get_or_insert(Missing::Slot(*slot))),
                    None => *slot = self.unknown_slot(generation, *slot),
                },
                Handle::Object(object, refusal) => {
                    let Some(known) = self.objects.get(object) else {
                        *object = ObjectHandle(NO_HANDLE);
                        return Ok(());
                    };
                    // Only in the object's own slot, because another slot may have a copy of the object.
                    let session = application_session.filter(|session| {
                        let session = self.sessions.get(session);
                        session.is_some_and(|it| it.slot == known.slot)
                    });
                    if known.generation == generation {
                        let unknown = session.and_then(|session| {
                            let object = *object;
                            match &known.known {
                                Known::NotYet => {
                                    let counted = self.sessions.get_mut(&session)?;
                                    if !is_used {
                                        counted.readings = counted.readings.checked_sub(1)?;
                                    }
                                    Some(Missing::Description { object, session })
                                }
                                Known::Described(known) if is_used && known.wants_counterpart() => {
                                    Some(Missing::Counterpart {
                                        object,
                                        session,
                                        known: known.clone(),
                                    })
                                }
                                _ => None,
                            }
                        });
                        match unknown {
                            Some(unknown) => drop(missing.get_or_insert(unknown)),
                            None => *object = known.real,
                        }
                        return Ok(());
                    }
                    match (&known.known, session) {
                        (Known::Described(known), Some(session)) => {
                            missing.get_or_insert(Missing::Object {
                                object: *object,
                                session,
                                refusal,
                                known: known.clone(),
                                copied: None,
                            });
                        }
                        (Known::Copied(copied), _) => {
                            missing.get_or_insert(Missing::Object {
                                object: *object,
                                session: copied.session,
                                refusal,
                                known: copied.original.clone(),
                                copied: Some(copied.clone()),
                            });
                        }
                        (Known::OfSession, _) => {
                            self.objects.remove(object);
                            return Err(CkRv::DEVICE_ERROR);
                        }
                        (Known::Described(_) | Known::NotYet | Known::Nothing, _) => {
                            return Err(refusal);
                        }
                    }
                }
                Handle::Result(_) => {}
            }
            Ok(())
        })?;
        if missing.is_none() {
            self.tell_of_lost_operation(application_session, function)?;
            if let (Function::C_CloseSession, Some(closed)) = (function, application_session) {
                missing = self.keeper(closed, generation).map(Missing::Keeper);
            }
        }
        Ok(missing)
    }

    /// Returns a session to open again before `closed` is closed: one that the application has, but the module does
    /// not. Without it the module would have no session left, which would end the login, and the next call would have
    /// to repeat it.
    fn keeper(&self, closed: SessionHandle, generation: u64) -> Option<SessionHandle> {
        let slot = self.sessions.get(&closed)?.slot;
        let login = self.slots.get(&slot)?.login.as_ref()?;
        let others = || {
            let of_slot = move |(session, it): &(&SessionHandle, &Session)| {
                it.slot == slot && **session != closed
            };
            self.sessions.iter().filter(of_slot)
        };
        let is_present = |it: u64| it == generation;
        if !is_present(login.generation) || others().any(|(_, it)| is_present(it.generation)) {
            return None;
        }
        others().map(|(session, _)| *session).min_by_key(|it| it.0)
    }

    /// Returns CKR_DEVICE_ERROR if the call needs an operation that has ended with a connection.
    fn tell_of_lost_operation(
        &mut self,
        session: Option<SessionHandle>,
        function: Function,
    ) -> Result<(), CkRv> {
        let Some(session) = session.and_then(|it| self.sessions.get_mut(&it)) else {
            return Ok(());
        };
        let facts = function.facts();
        // C_GetOperationState saves any operation that is active.
        let reads_out = function == Function::C_GetOperationState;
        let is_lost = session.lost.has_any(facts.families) || reads_out && !session.lost.is_empty();
        if reads_out {
            session.lost.clear();
        }
        session.lost.forget(facts.families);
        let needs = needs_operation(function) || reads_out;
        match is_lost && needs {
            true => Err(CkRv::DEVICE_ERROR),
            false => Ok(()),
        }
    }

    /// Returns the application's handle of a session of the module.
    pub fn application_session(
        &self,
        generation: u64,
        real: SessionHandle,
    ) -> Option<SessionHandle> {
        let is_meant = |it: &Session| it.generation == generation && it.real == real;
        let found = self.sessions.iter().find(|(_, it)| is_meant(it));
        found.map(|(session, _)| *session)
    }

    /// Returns the application's handle of an object of the module, and stores what is known of the object.
    fn application_object(
        &mut self,
        place: (SlotId, ObjectHandle),
        generation: u64,
        source: &Source,
        known: Known,
    ) -> ObjectHandle {
        let shown = match source {
            Source::Found => self.shown.at(generation),
            Source::Made => None,
        };
        let before = shown.and_then(|it| it.by_real.get(&place).copied());
        let object = before.unwrap_or_else(|| ObjectHandle(next_handle()));
        let (slot, real) = place;
        if let Some(shown) = self.shown.at(generation) {
            shown.by_real.insert(place, object);
            shown.of_slot.entry(slot).or_default().insert(object);
        }
        // A search may find an object again and know less of it than before.
        let known = match self.objects.remove(&object) {
            Some(old) if old.generation == generation => old.known.or_better(known),
            _ => known,
        };
        self.objects.insert(
            object,
            Object {
                slot,
                real,
                generation,
                known,
            },
        );
        object
    }

    /// Puts the application's handles into the reply to its call. `known` says what is known of each object in the
    /// reply, in the reply's order.
    pub fn put_into(
        &mut self,
        call: &Call<'_>,
        reply: &mut Reply,
        generation: u64,
        nulls: NullPlaces,
        known: Vec<Known>,
    ) -> Result<(), CkRv> {
        let source = match call.function() {
            Function::C_FindObjects => Source::Found,
            _ => Source::Made,
        };
        let session = call.session();
        let slot = session
            .and_then(|it| self.sessions.get(&it))
            .map(|it| it.slot);
        let mut known = known.into_iter();
        let mut made = Vec::new();
        reply.each_handle(call, &mut |handle| {
            match handle {
                Handle::Session(opened) if !nulls.first => {
                    *opened = self.opened(call, *opened, generation);
                }
                Handle::Session(_) | Handle::Object(..) => {}
                Handle::Slot(slot) => *slot = self.application_slot(generation, *slot)?,
                Handle::Result(object) => {
                    let known = known.next().unwrap_or(Known::Nothing);
                    let is_of_session = matches!(known, Known::OfSession | Known::Copied(_));
                    let place = (slot.unwrap_or(SlotId::NONE), *object);
                    *object = self.application_object(place, generation, &source, known);
                    if is_of_session && matches!(source, Source::Made) {
                        made.push(*object);
                    }
                }
            }
            Ok(())
        })?;
        if let Some(session) = session.and_then(|it| self.sessions.get_mut(&it)) {
            session.made.extend(made);
        }
        Ok(())
    }

    /// Stores a session that `call` has opened.
    fn opened(&mut self, call: &Call<'_>, real: SessionHandle, generation: u64) -> SessionHandle {
        let Call::C_OpenSession(slot, flags, notify) = call else {
            return real;
        };
        let session = SessionHandle(next_handle());
        self.sessions.insert(
            session,
            Session {
                slot: *slot,
                flags: *flags,
                notify: *notify,
                real,
                generation,
                active: Operations::default(),
                lost: Operations::default(),
                made: HashSet::new(),
                curiosity: 0,
                readings: MOST_READ,
            },
        );
        session
    }
}
