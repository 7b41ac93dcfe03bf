//! Knows the sessions, objects and slots of the application: the handles that it has, those of the module behind the
//! present connection, and what it takes to get these again.
//!
//! Connections are counted (`generation`). What was learnt from an earlier one is looked up by `restoring`. Nothing here
//! makes a call.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bindings::locked::LockedSecret;
use xdr::facts::Family;
use xdr::handles::Handle;
use xdr::operations::Operations;
use xdr::{
    Call, CkRv, Flags, Function, NullPlaces, ObjectHandle, Reply, SessionHandle, SlotId, Template,
    UserType,
};

use super::descriptions::{Description, Token};
use super::needs_operation;

/// A handle that no module has: it judges a call with a handle that the application made up.
const NO_HANDLE: u64 = u64::MAX;

/// CKU_CONTEXT_SPECIFIC: for one operation, within a login.
const CONTEXT_SPECIFIC: UserType = UserType(2);

/// No connection has this number.
pub(super) const PAST: u64 = 0;

/// How many objects of a slot are remembered while the application has no session with it, the last ones.
const MOST_LEFT: usize = 1000;

/// How many objects of a search are looked at when they are found, in case the connection is lost before one is used.
const MOST_LOOKED_AT: usize = 16;

/// Everything the application has.
#[derive(Default)]
pub(super) struct Tables {
    /// The last handle that was given.
    last: u64,
    pub sessions: HashMap<SessionHandle, Session>,
    objects: HashMap<ObjectHandle, Object>,
    shown: Shown,
    /// Objects of slots that the application had no session with, in this order.
    left: VecDeque<ObjectHandle>,
    pub slots: HashMap<SlotId, Slot>,
}

/// The objects whose handles of the module are good: on the connection with this number.
#[derive(Default)]
struct Shown {
    generation: u64,
    /// The application's handle of one of the module's.
    by_real: HashMap<(SlotId, ObjectHandle), ObjectHandle>,
    of_slot: HashMap<SlotId, HashSet<ObjectHandle>>,
}

/// A session of the application.
pub(super) struct Session {
    /// The application's.
    pub slot: SlotId,
    pub flags: Flags,
    pub notify: bool,
    /// The module's, on the connection with this number.
    pub real: SessionHandle,
    pub generation: u64,
    /// Operations that have begun, and perhaps ended meanwhile.
    active: Operations,
    /// Operations that ended with a connection, which the application does not know yet.
    lost: Operations,
    /// Session objects that it has made.
    made: HashSet<ObjectHandle>,
    /// How many objects of the present search may still be looked at.
    curiosity: usize,
}

/// A slot in which the application has opened a session.
pub(super) struct Slot {
    /// The module's, on the connection with this number.
    pub real: SlotId,
    pub generation: u64,
    /// The token that the application uses. `None`: it could not be asked for.
    pub token: Option<Arc<Token>>,
    /// The one that is there now.
    pub present: Option<Arc<Token>>,
    /// The daemon that it was behind.
    pub daemon: usize,
    /// Who is logged in.
    pub login: Option<Login>,
    /// Whether somebody was, and is no more since a connection was lost.
    pub has_lost_login: bool,
    /// Counts what ends a login, so that one that is being repeated is not kept.
    pub logouts: u64,
}

/// A login of the application.
pub(super) struct Login {
    pub user: UserType,
    /// For C_LoginUser.
    pub name: Option<Vec<u8>>,
    /// `None`: it is not kept.
    pub pin: Option<LockedSecret>,
    /// The connection on which it is in force.
    pub generation: u64,
}

/// An object that the application has a handle of.
struct Object {
    slot: SlotId,
    real: ObjectHandle,
    generation: u64,
    known: Known,
}

/// What it takes to find an object again.
#[derive(Clone)]
pub(super) enum Known {
    Described(Arc<Description>),
    /// It ends with its session, and so with the connection.
    OfSession,
    /// It ends with the session that made it, too, but it is the copy of an object on the token, and can be made again.
    Copied(Arc<Copied>),
    /// It was not looked at yet: it is one of many that a search has found.
    NotYet,
    /// Nothing could be read.
    Nothing,
}

/// A session object that C_CopyObject has made: OpenSSL's provider for PKCS#11 and NSS sign with such copies of their keys.
pub(super) struct Copied {
    pub original: Arc<Description>,
    /// The application's session that made it.
    pub session: SessionHandle,
    /// What is different in the copy.
    pub template: Template,
}

/// What has to be restored before a call can go out.
pub(super) enum Missing {
    Slot(SlotId),
    Session(SessionHandle),
    Object {
        object: ObjectHandle,
        session: SessionHandle,
        /// What the call is answered if it cannot be found.
        refusal: CkRv,
        known: Arc<Description>,
        /// It is a copy of what is found.
        copied: Option<Arc<Copied>>,
    },
    /// What an object is, before it is used for the first time.
    Description {
        object: ObjectHandle,
        session: SessionHandle,
    },
    /// A session that keeps the login in force when another is closed.
    Keeper(SessionHandle),
}

/// Where an object of a reply comes from.
pub(super) enum Source {
    /// A search. One that was shown before has the handle it had.
    Found,
    /// The call has made it.
    Made,
}

impl Tables {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Puts the module's handles into a call. Says what is missing for that; the call is then of no use.
    pub fn translate(
        &mut self,
        call: &mut Call<'_>,
        generation: u64,
    ) -> Result<Option<Missing>, CkRv> {
        let function = call.function();
        let application_session = call.session();
        // Programs that list objects read attributes of each.
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
                    None => {}
                },
                Handle::Object(object, refusal) => {
                    let Some(known) = self.objects.get(object) else {
                        *object = ObjectHandle(NO_HANDLE);
                        return Ok(());
                    };
                    if known.generation == generation {
                        match (&known.known, application_session) {
                            (Known::NotYet, Some(session)) if is_used => {
                                let object = *object;
                                missing.get_or_insert(Missing::Description { object, session });
                            }
                            _ => *object = known.real,
                        }
                        return Ok(());
                    }
                    // Another slot may have a copy.
                    let session = application_session.filter(|session| {
                        let session = self.sessions.get(session);
                        session.is_some_and(|it| it.slot == known.slot)
                    });
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

    /// A session that the application has, but the module does not, if closing this one would leave the module with none: it
    /// would end the login, which then had to be repeated for the next call.
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

    /// CKR_DEVICE_ERROR if the call needs an operation that has ended with a connection.
    fn tell_of_lost_operation(
        &mut self,
        session: Option<SessionHandle>,
        function: Function,
    ) -> Result<(), CkRv> {
        let Some(session) = session.and_then(|it| self.sessions.get_mut(&it)) else {
            return Ok(());
        };
        let facts = function.facts();
        // Reading out an operation means whichever there is.
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

    /// A call failed with the connection, and the application is told: what the call belongs to is over.
    pub fn interrupted(&mut self, call: &Call<'_>) {
        if let Call::C_SetAttributeValue(_, object, _) = call {
            // It may be what it was, or not.
            self.changed(*object, Known::Nothing);
        }
        let Some(session) = call.session().and_then(|it| self.sessions.get_mut(&it)) else {
            return;
        };
        let families = call.function().facts().families;
        session.active.forget(families);
        session.lost.forget(families);
    }

    /// What a call is answered that only ends what has ended with a connection. `generation` is that of the present one.
    pub fn answer_alone(&mut self, call: &Call<'_>, generation: u64) -> Option<CkRv> {
        match call {
            Call::C_CloseSession(session) => {
                let known = self.sessions.get(session)?;
                (known.generation != generation).then(|| {
                    self.close(*session);
                    CkRv::OK
                })
            }
            Call::C_CloseAllSessions(slot) => {
                let of_slot = |session: &&Session| session.slot == *slot;
                let mut of_slot = self.sessions.values().filter(of_slot).peekable();
                of_slot.peek()?;
                let is_past = of_slot.all(|session| session.generation != generation);
                is_past.then(|| {
                    self.close_all(*slot);
                    CkRv::OK
                })
            }
            Call::C_FindObjectsFinal(session) => {
                let session = self.sessions.get_mut(session)?;
                let is_past = session.generation != generation;
                let search = &[Family::Search];
                let is_lost =
                    is_past && session.active.has_any(search) || session.lost.has_any(search);
                is_lost.then(|| {
                    session.active.forget(search);
                    session.lost.forget(search);
                    CkRv::OK
                })
            }
            Call::C_Logout(session) => {
                let slot = self.sessions.get(session)?.slot;
                let slot = self.slots.get_mut(&slot)?;
                let is_past = |login: &Login| login.generation != generation;
                let is_lost = slot.has_lost_login || slot.login.as_ref().is_some_and(is_past);
                slot.log_out();
                is_lost.then_some(CkRv::OK)
            }
            Call::C_Login(session, user, ..) | Call::C_LoginUser(session, user, ..)
                if *user != CONTEXT_SPECIFIC =>
            {
                // The application logs in itself, so that nothing has to be repeated.
                let slot = self.sessions.get(session)?.slot;
                let slot = self.slots.get_mut(&slot)?;
                let past = slot.login.take_if(|login| login.generation != generation);
                slot.has_lost_login |= past.is_some();
                None
            }
            _ => None,
        }
    }

    /// Forgets a session, and what ends with it.
    pub fn close(&mut self, session: SessionHandle) {
        let Some(closed) = self.sessions.remove(&session) else {
            return;
        };
        for object in closed.made {
            self.forget(object);
        }
        let slot = closed.slot;
        let others = || self.sessions.values().filter(|it| it.slot == slot);
        let is_last = others().next().is_none();
        // One that was not opened again is not known to the module.
        let is_present = |it: &Slot| it.generation == closed.generation;
        let is_real = self.slots.get(&slot).is_none_or(is_present);
        let is_last_real = is_real && !others().any(|it| it.generation == closed.generation);
        if !is_last && !is_last_real {
            return;
        }
        // With the last session of an application its login ends (PKCS#11 v2.20, section 6.7.4).
        if let Some(slot) = self.slots.get_mut(&slot) {
            if is_last {
                slot.log_out();
            } else if let Some(login) = &mut slot.login {
                // For the module alone: the application has sessions that were not opened again yet.
                login.generation = PAST;
            }
        }
        self.leave(slot, is_last);
    }

    /// The module has no session with a slot any more, and may give its handles to other objects now. Those of the application
    /// are looked for again. Applications open and close sessions for years, so that of those without a session
    /// not all are kept.
    fn leave(&mut self, slot: SlotId, is_last: bool) {
        self.shown.by_real.retain(|(of, _), _| *of != slot);
        let handles = self.shown.of_slot.remove(&slot).unwrap_or_default();
        // What has been in use since comes last.
        self.left.retain(|handle| !handles.contains(handle));
        for handle in handles {
            let Some(object) = self.objects.get_mut(&handle) else {
                continue;
            };
            object.generation = PAST;
            if !is_last {
                continue;
            }
            match object.known {
                Known::Described(_) => self.left.push_back(handle),
                Known::OfSession | Known::Copied(_) | Known::NotYet | Known::Nothing => {
                    self.objects.remove(&handle);
                }
            }
        }
        while self.left.len() > MOST_LEFT {
            let oldest = self.left.pop_front();
            let oldest =
                oldest.filter(|it| self.objects.get(it).is_some_and(|it| it.generation == PAST));
            oldest.map(|it| self.objects.remove(&it));
        }
    }

    fn close_all(&mut self, slot: SlotId) {
        let of_slot = self.sessions.iter().filter(|(_, it)| it.slot == slot);
        let closed: Vec<SessionHandle> = of_slot.map(|(session, _)| *session).collect();
        closed.into_iter().for_each(|session| self.close(session));
    }

    /// Forgets an object.
    fn forget(&mut self, object: ObjectHandle) {
        if let Some(known) = self.objects.remove(&object) {
            self.shown.remove(known.slot, known.real, object);
        }
        let mut sessions = self.sessions.values_mut();
        sessions.any(|session| session.made.remove(&object));
    }

    /// The application's handle of a session of the module's.
    pub fn application_session(
        &self,
        generation: u64,
        real: SessionHandle,
    ) -> Option<SessionHandle> {
        let is_meant = |it: &Session| it.generation == generation && it.real == real;
        let found = self.sessions.iter().find(|(_, it)| is_meant(it));
        found.map(|(session, _)| *session)
    }

    /// The application's number of a slot of the module's.
    fn application_slot(&self, generation: u64, real: SlotId) -> SlotId {
        let is_meant = |it: &Slot| it.generation == generation && it.real == real;
        let found = self.slots.iter().find(|(_, it)| is_meant(it));
        found.map_or(real, |(slot, _)| *slot)
    }

    /// The application's handle of an object of the module's, and what is known of it.
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
        let object = before.unwrap_or_else(|| ObjectHandle(self.next()));
        let (slot, real) = place;
        if let Some(shown) = self.shown.at(generation) {
            shown.by_real.insert(place, object);
            shown.of_slot.entry(slot).or_default().insert(object);
        }
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

    /// An object was found again.
    pub fn restored(&mut self, object: ObjectHandle, real: ObjectHandle, generation: u64) {
        if let Some(known) = self.objects.get_mut(&object) {
            known.real = real;
            known.generation = generation;
            if let Some(shown) = self.shown.at(generation) {
                shown.by_real.entry((known.slot, real)).or_insert(object);
                shown.of_slot.entry(known.slot).or_default().insert(object);
            }
        }
    }

    /// A session was opened again. What had begun in it is lost. False if the application has closed it meanwhile.
    pub fn reopened(
        &mut self,
        session: SessionHandle,
        real: SessionHandle,
        generation: u64,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(&session) else {
            return false;
        };
        session.real = real;
        session.generation = generation;
        session.lost.append(&mut session.active);
        true
    }

    /// What is now known of an object that the application has changed.
    pub fn changed(&mut self, object: ObjectHandle, known: Known) {
        if let Some(object) = self.objects.get_mut(&object) {
            object.known = known;
        }
    }

    /// How many of this many objects that a search has found are looked at.
    pub fn look_at(&mut self, session: SessionHandle, found: usize) -> usize {
        let Some(session) = self.sessions.get_mut(&session) else {
            return 0;
        };
        let count = found.min(session.curiosity);
        session.curiosity -= count;
        count
    }

    /// Whether this is the only session of the application with its slot.
    pub fn is_only_one(&self, session: SessionHandle, slot: SlotId) -> bool {
        let mut of_slot = self.sessions.iter().filter(|(_, it)| it.slot == slot);
        of_slot.all(|(other, _)| *other == session)
    }

    /// What is known of an object on a token.
    pub fn description(&self, object: ObjectHandle) -> Option<Arc<Description>> {
        match &self.objects.get(&object)?.known {
            Known::Described(known) => Some(known.clone()),
            _ => None,
        }
    }

    /// The module's handle of an object, on this connection.
    pub fn real_object(&self, object: ObjectHandle, generation: u64) -> Option<ObjectHandle> {
        let known = self.objects.get(&object)?;
        (known.generation == generation).then_some(known.real)
    }

    /// Puts the application's handles into the reply to its call. `known` has what is known of each object in it, in their
    /// order.
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
                Handle::Slot(slot) => *slot = self.application_slot(generation, *slot),
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

    /// Notes a session that `call` has opened.
    fn opened(&mut self, call: &Call<'_>, real: SessionHandle, generation: u64) -> SessionHandle {
        let Call::C_OpenSession(slot, flags, notify) = call else {
            return real;
        };
        let session = SessionHandle(self.next());
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
            },
        );
        session
    }

    /// Notes what a call has done, by its answer.
    pub fn done(&mut self, call: &Call<'_>, rv: CkRv) {
        let is_gone = [CkRv::OK, CkRv::SESSION_HANDLE_INVALID, CkRv::SESSION_CLOSED].contains(&rv);
        match call {
            Call::C_CloseSession(session) if is_gone => self.close(*session),
            Call::C_CloseAllSessions(slot) if rv.is_ok() => self.close_all(*slot),
            Call::C_DestroyObject(_, object) if rv.is_ok() => self.forget(*object),
            Call::C_InitToken(slot, ..) if rv.is_ok() => {
                if let Some(slot) = self.slots.get_mut(slot) {
                    slot.log_out();
                    slot.holds(None);
                }
            }
            call => self.operated(call, rv),
        }
    }

    /// Notes which operations have begun or ended.
    fn operated(&mut self, call: &Call<'_>, rv: CkRv) {
        let Some(session) = call.session().and_then(|it| self.sessions.get_mut(&it)) else {
            return;
        };
        if call.function() == Function::C_SetOperationState && rv.is_ok() {
            session.lost.clear(); // the application has brought back what it needs
        }
        if session.active.note(call.function(), call.room(), rv) {
            session.curiosity = MOST_LOOKED_AT;
        }
    }
}

#[cfg(test)]
impl Session {
    /// How many objects it is remembered to have made.
    pub fn made(&self) -> usize {
        self.made.len()
    }
}

#[cfg(test)]
impl Tables {
    /// How many sessions and objects are remembered.
    pub fn sizes(&self) -> (usize, usize) {
        (self.sessions.len(), self.objects.len())
    }
}

impl Shown {
    /// The same for this connection: nothing is good that an earlier one has shown. `None`: this is an earlier one, whose
    /// answer is late.
    fn at(&mut self, generation: u64) -> Option<&mut Shown> {
        if self.generation < generation {
            *self = Shown {
                generation,
                ..Shown::default()
            };
        }
        (self.generation == generation).then_some(self)
    }

    fn remove(&mut self, slot: SlotId, real: ObjectHandle, object: ObjectHandle) {
        if self.by_real.get(&(slot, real)) == Some(&object) {
            self.by_real.remove(&(slot, real));
        }
        if let Some(of_slot) = self.of_slot.get_mut(&slot) {
            of_slot.remove(&object);
        }
    }
}

impl Slot {
    /// What is now known of the token that is in it.
    pub fn holds(&mut self, token: Option<Arc<Token>>) {
        self.token.clone_from(&token);
        self.present = token;
    }

    /// Nobody is logged in any more; the PIN is wiped.
    pub fn log_out(&mut self) {
        self.login = None;
        self.has_lost_login = false;
        self.logouts += 1;
    }
}
