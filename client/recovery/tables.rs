//! Stores the sessions, objects and slots of the application: its handles, the module's handles on the present
//! connection, and what is needed to get new ones from the module.
//!
//! `translation` puts handles into calls and replies, `slots` translates slot numbers, and `endings` removes what has
//! ended.
//!
//! Connections are numbered (`generation`). `restoring` restores what belongs to an earlier one. Nothing here makes a
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

/// A handle that no module has. It replaces a handle that the application does not have, so that the module rejects the
/// call.
const NO_HANDLE: u64 = u64::MAX;

/// CKU_CONTEXT_SPECIFIC: a login for one operation, while the user is logged in.
const CONTEXT_SPECIFIC: UserType = UserType(2);

/// A number that no connection has.
pub(super) const PAST: u64 = 0;

/// The upper bound on the objects of a slot that are remembered while the application has no session with it; the
/// newest are kept.
const MOST_LEFT: usize = 1000;

/// How many objects of a search are described when they are found, in case the connection is lost before one is used.
const MOST_LOOKED_AT: usize = 16;

/// How many objects are described in a session, from one search to the next, because the application reads their
/// attributes. Programs that list a token read those of every object.
const MOST_READ: usize = 256;

/// The upper bound on the private keys that are remembered with their counterparts; the newest are kept.
const MOST_KEYS: usize = 64;

/// The upper bound on the slots that are stored because they get a new number. The tables are searched for each slot
/// of a list, and a daemon that lies must not keep them busy. Known slots are translated however many there are.
const MOST_SLOTS: usize = 4096;

/// Everything that the application has.
#[derive(Default)]
pub(super) struct Tables {
    pub sessions: HashMap<SessionHandle, Session>,
    objects: HashMap<ObjectHandle, Object>,
    shown: Shown,
    /// Objects of slots with which the application has no session, the oldest first.
    left: VecDeque<ObjectHandle>,
    pub slots: HashMap<SlotId, Slot>,
    /// Private keys with their counterparts, as found on the connection with this number.
    keys: (u64, VecDeque<Arc<Description>>),
}

/// The objects whose module handles are valid on the connection with this number.
#[derive(Default)]
struct Shown {
    generation: u64,
    /// The application's handle for each handle of the module.
    by_real: HashMap<(SlotId, ObjectHandle), ObjectHandle>,
    of_slot: HashMap<SlotId, HashSet<ObjectHandle>>,
}

/// A session of the application.
pub(super) struct Session {
    /// The application's slot number.
    pub slot: SlotId,
    pub flags: Flags,
    pub notify: bool,
    /// The module's handle, on the connection with this number.
    pub real: SessionHandle,
    pub generation: u64,
    /// Operations that have begun, and may have ended meanwhile.
    active: Operations,
    /// Operations that ended with a connection, about which the application was not told yet.
    lost: Operations,
    /// Session objects that were made in this session.
    made: HashSet<ObjectHandle>,
    /// How many objects of the present search may still be described.
    curiosity: usize,
    /// How many objects that are only read may still be described.
    readings: usize,
}

/// A slot in which the application has opened a session, or asked for the token.
pub(super) struct Slot {
    /// The module's slot number, on the connection with this number.
    pub real: SlotId,
    pub generation: u64,
    /// The token that the application uses; `None` if it is unknown.
    pub token: Option<Arc<Token>>,
    /// The token that is there now.
    pub present: Option<Arc<Token>>,
    /// The last connection on which the token was looked for but not found.
    pub gone: Option<u64>,
    /// Whether the slot in which it was could then be shown to the application as it is now.
    pub is_free: bool,
    /// The daemon that had it, by its position in the settings.
    pub daemon: usize,
    /// The login that is in force, or to be repeated.
    pub login: Option<Login>,
    /// Whether a login was lost with a connection and not repeated.
    pub has_lost_login: bool,
    /// Counts logouts and the like, so that a login is not kept if it ended while it was being repeated.
    pub logouts: u64,
}

/// A login of the application.
pub(super) struct Login {
    pub user: UserType,
    /// The user's name, for C_LoginUser.
    pub name: Option<Vec<u8>>,
    /// The PIN; `None` if it is not kept.
    pub pin: Option<LockedSecret>,
    /// The connection on which it is in force.
    pub generation: u64,
}

/// An object of which the application has a handle.
struct Object {
    slot: SlotId,
    real: ObjectHandle,
    generation: u64,
    known: Known,
}

/// What is known of an object, to find it again.
#[derive(Clone)]
pub(super) enum Known {
    Described(Arc<Description>),
    /// It ends with its session, and so with the connection.
    OfSession,
    /// It ends with the session that made it too, but it is a copy of an object on the token, so it can be made again.
    Copied(Arc<Copied>),
    /// It was not read yet, because it is one of many that a search has found.
    NotYet,
    /// None of its attributes could be read.
    Nothing,
}

impl Known {
    /// Returns what is known of an object that was found again: this, or what the later search says if that is more.
    fn or_better(self, later: Known) -> Known {
        match (&self, &later) {
            (Known::Described(_), Known::NotYet | Known::Nothing)
            | (Known::Copied(_), Known::OfSession | Known::NotYet | Known::Nothing) => self,
            (Known::Described(old), Known::Described(new))
                if new.counterpart.is_none() && old.says_the_same(new) =>
            {
                self
            }
            _ => later,
        }
    }
}

/// A session object that was made with C_CopyObject: OpenSSL's provider for PKCS#11 and NSS sign with such copies of
/// their keys.
pub(super) struct Copied {
    pub original: Arc<Description>,
    /// The application's session in which it was made.
    pub session: SessionHandle,
    /// The attributes that differ in the copy.
    pub template: Template,
}

/// What must be restored before a call can be sent.
pub(super) enum Missing {
    Slot(SlotId),
    Session(SessionHandle),
    Object {
        object: ObjectHandle,
        session: SessionHandle,
        /// The CK_RV for the call if the object cannot be found.
        refusal: CkRv,
        known: Arc<Description>,
        /// Set if the object is a copy of the one to find.
        copied: Option<Arc<Copied>>,
    },
    /// The description of an object, before the object is used for the first time.
    Description {
        object: ObjectHandle,
        session: SessionHandle,
    },
    /// The counterpart of a private key, before the key is used for the first time.
    Counterpart {
        object: ObjectHandle,
        session: SessionHandle,
        known: Arc<Description>,
    },
    /// A session that keeps the login in force while another is closed.
    Keeper(SessionHandle),
}

/// Where an object in a reply comes from.
pub(super) enum Source {
    /// A search. An object that was returned before keeps its handle.
    Found,
    /// The call made it.
    Made,
}

/// Returns a handle that this process, its parent and its children have not used before. Applications remember handles
/// beyond C_Finalize and in forked children: OpenSSL's engine takes an object with a known handle for the object that
/// it knows.
fn next_handle() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

impl Tables {
    /// Stores the new handle of an object that was found again.
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

    /// Stores the new handle of a session that was opened again; its operations are lost. Returns false if the
    /// application has closed the session meanwhile.
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

    /// Replaces what is known of an object that the application has changed.
    pub fn changed(&mut self, object: ObjectHandle, known: Known) {
        if let Some(object) = self.objects.get_mut(&object) {
            object.known = known;
        }
    }

    /// Returns a private key of this description with its counterpart, if that was looked for on this connection.
    pub fn with_counterpart(
        &self,
        known: &Description,
        generation: u64,
    ) -> Option<Arc<Description>> {
        let (found_on, keys) = &self.keys;
        let mut keys = keys.iter().filter(|_| *found_on == generation);
        keys.find(|it| it.says_the_same(known)).cloned()
    }

    /// Remembers a private key with its counterpart, because programs find and use the same keys again and again.
    pub fn remember_counterpart(&mut self, key: Arc<Description>, generation: u64) {
        if self.keys.0 != generation {
            self.keys = (generation, VecDeque::new());
        }
        let (_, keys) = &mut self.keys;
        keys.truncate(MOST_KEYS - 1);
        keys.push_front(key);
    }

    /// Returns how many of the `found` objects of a search are to be described.
    pub fn look_at(&mut self, session: SessionHandle, found: usize) -> usize {
        let Some(session) = self.sessions.get_mut(&session) else {
            return 0;
        };
        let count = found.min(session.curiosity);
        session.curiosity -= count;
        count
    }

    /// Returns whether this is the application's only session with its slot.
    pub fn is_only_one(&self, session: SessionHandle, slot: SlotId) -> bool {
        let mut of_slot = self.sessions.iter().filter(|(_, it)| it.slot == slot);
        of_slot.all(|(other, _)| *other == session)
    }

    /// Returns the description of an object on a token.
    pub fn description(&self, object: ObjectHandle) -> Option<Arc<Description>> {
        match &self.objects.get(&object)?.known {
            Known::Described(known) => Some(known.clone()),
            _ => None,
        }
    }

    /// Returns the module's handle of an object on this connection.
    pub fn real_object(&self, object: ObjectHandle, generation: u64) -> Option<ObjectHandle> {
        let known = self.objects.get(&object)?;
        (known.generation == generation).then_some(known.real)
    }

    /// Stores what a call has changed, as its CK_RV says.
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

    /// Stores which operations have begun or ended.
    fn operated(&mut self, call: &Call<'_>, rv: CkRv) {
        let Some(session) = call.session().and_then(|it| self.sessions.get_mut(&it)) else {
            return;
        };
        if call.function() == Function::C_SetOperationState && rv.is_ok() {
            session.lost.clear(); // the application has restored what it needs
        }
        if session.active.note(call.function(), call.room(), rv) {
            session.curiosity = MOST_LOOKED_AT;
            session.readings = MOST_READ;
        }
    }
}

#[cfg(test)]
impl Session {
    /// Returns how many of its objects are remembered.
    pub fn made(&self) -> usize {
        self.made.len()
    }
}

#[cfg(test)]
impl Tables {
    /// Returns how many sessions and objects are remembered.
    pub fn sizes(&self) -> (usize, usize) {
        (self.sessions.len(), self.objects.len())
    }
}

impl Session {
    /// Returns whether the application has begun a search in it, as far as is known.
    pub fn searches(&self) -> bool {
        self.active.has_any(&[Family::Search])
    }
}

impl Shown {
    /// Returns the table for this connection, emptied if it belonged to an earlier one. `None` if this connection
    /// itself is an earlier one, whose reply is late.
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
    /// Makes a slot that is used for the first time, on this connection.
    pub fn new<R>(slot: SlotId, live: &Live<R>) -> Slot {
        Slot {
            daemon: live.daemon,
            ..Slot::unknown(slot, live.generation)
        }
    }

    /// Makes a slot whose token is unknown, on the connection with this number.
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

    /// Returns whether its token is missing on the connection with this number, and the slot can be shown as it is.
    pub fn is_left(&self, generation: u64) -> bool {
        self.gone == Some(generation) && self.is_free
    }

    /// Stores which token is in it.
    pub fn holds(&mut self, token: Option<Arc<Token>>) {
        self.token.clone_from(&token);
        self.present = token;
    }

    /// Ends the login, and wipes the PIN.
    pub fn log_out(&mut self) {
        self.login = None;
        self.has_lost_login = false;
        self.logouts += 1;
    }
}
