//! Keeps the sessions, objects and slots of the application: its handles, the module's handles on the present
//! connection, and what is needed to get those again.
//!
//! `translation` puts the handles into calls and replies, and `slots` the slot numbers; `endings` removes what has
//! ended.
//!
//! Connections are counted (`generation`). `restoring` restores what was learnt on an earlier one. Nothing here makes a
//! call.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bindings::locked::LockedSecret;
use xdr::facts::Family;
use xdr::operations::Operations;
use xdr::{Call, CkRv, Flags, Function, ObjectHandle, SessionHandle, SlotId, Template, UserType};

use super::Live;
use super::descriptions::{Description, Token};

mod endings;
mod slots;
mod translation;

/// A handle that no module has. It replaces a handle that the application made up, so that the module rejects the call.
const NO_HANDLE: u64 = u64::MAX;

/// CKU_CONTEXT_SPECIFIC: for one operation, within a login.
const CONTEXT_SPECIFIC: UserType = UserType(2);

/// No connection has this number.
pub(super) const PAST: u64 = 0;

/// How many objects of a slot are remembered while the application has no session with it, the last ones.
const MOST_LEFT: usize = 1000;

/// How many objects of a search are looked at when they are found, in case the connection is lost before one is used.
const MOST_LOOKED_AT: usize = 16;

/// How many objects are looked at in a session, from one search to the next, because the application reads their attributes.
/// Programs that list a token do so with each.
const MOST_READ: usize = 256;

/// How many private keys are remembered with what belongs to them, the last ones.
const MOST_KEYS: usize = 64;

/// Everything the application has.
#[derive(Default)]
pub(super) struct Tables {
    pub sessions: HashMap<SessionHandle, Session>,
    objects: HashMap<ObjectHandle, Object>,
    shown: Shown,
    /// Objects of slots that the application had no session with, in this order.
    left: VecDeque<ObjectHandle>,
    pub slots: HashMap<SlotId, Slot>,
    /// Private keys with what belongs to them, as it was found on the connection with this number.
    keys: (u64, VecDeque<Arc<Description>>),
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
    /// How many objects that are only read may still be looked at.
    readings: usize,
}

/// A slot in which the application has opened a session, or asked for the token.
pub(super) struct Slot {
    /// The module's, on the connection with this number.
    pub real: SlotId,
    pub generation: u64,
    /// The token that the application uses. `None`: it could not be asked for.
    pub token: Option<Arc<Token>>,
    /// The one that is there now.
    pub present: Option<Arc<Token>>,
    /// The last connection on which the token was looked for and not found.
    pub gone: Option<u64>,
    /// Whether the slot that it was in could then be shown to the application for what it is now.
    pub is_free: bool,
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
    /// What tells a private key from others, before it is used for the first time.
    Counterpart {
        object: ObjectHandle,
        session: SessionHandle,
        known: Arc<Description>,
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

/// A handle that this process, its parent and its children have not given before. Applications remember handles beyond
/// C_Finalize and in forked children: OpenSSL's engine takes an object with a known handle for the object that it knows.
fn next_handle() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

impl Tables {
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

    /// A private key of this description with what belongs to it, if that was looked for on this connection.
    pub fn with_counterpart(
        &self,
        known: &Description,
        generation: u64,
    ) -> Option<Arc<Description>> {
        let (found_on, keys) = &self.keys;
        let mut keys = keys.iter().filter(|_| *found_on == generation);
        keys.find(|it| it.says_the_same(known)).cloned()
    }

    /// Remembers a private key with what belongs to it: programs find and use the same ones again and again.
    pub fn remember_counterpart(&mut self, key: Arc<Description>, generation: u64) {
        if self.keys.0 != generation {
            self.keys = (generation, VecDeque::new());
        }
        let (_, keys) = &mut self.keys;
        keys.truncate(MOST_KEYS - 1);
        keys.push_front(key);
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
            session.readings = MOST_READ;
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

impl Session {
    /// Whether the application has begun a search in it, as far as is known.
    pub fn searches(&self) -> bool {
        self.active.has_any(&[Family::Search])
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
    /// One that is used for the first time, on this connection.
    pub fn new<R>(slot: SlotId, live: &Live<R>) -> Slot {
        Slot {
            daemon: live.daemon,
            ..Slot::unknown(slot, live.generation)
        }
    }

    /// One of whose token nothing is known, on the connection with this number.
    fn unknown(real: SlotId, generation: u64) -> Slot {
        Slot {
            real,
            generation,
            token: None,
            present: None,
            gone: None,
            is_free: false,
            daemon: 0,
            login: None,
            has_lost_login: false,
            logouts: 0,
        }
    }

    /// Whether its token is gone on the connection with this number, and has left the slot.
    pub fn is_left(&self, generation: u64) -> bool {
        self.gone == Some(generation) && self.is_free
    }

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
