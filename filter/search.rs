//! Keeps the object searches of a connection: which objects each search has found that the client has not received yet.
//!
//! A search begins with a successful C_FindObjectsInit. It ends with C_FindObjectsFinal, with C_SessionCancel or with
//! its session. Handles come from the module in batches, in its order. Each is checked right before the client gets it,
//! by the rules for objects and by the actions that watch the search. Searches that nothing watches are left to the
//! module. The original has one list for all sessions of a client, which outlives the search.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xdr::word_size::{narrow, wide};
use xdr::{
    Call, CkRv, Cryptoki, Function, ObjectHandle, ObjectListResult, Reply, Room, SessionHandle,
    Template, Ulong,
};

use crate::actions::Action;
use crate::checks;
use crate::context::Context;

/// CKF_FIND_OBJECTS, in the flags of C_SessionCancel.
const FIND_OBJECTS: u64 = wide(cryptoki_sys::CKF_FIND_OBJECTS);

/// How many handles the module is asked for at once.
const BATCH: u64 = 256;

/// Upper bound on the handles that the client gets at once: the length of an array on the wire.
const MOST: u64 = 1 << 16;

/// Upper bound on the handles in one search, in case the module never ends it.
const LONGEST: usize = 1 << 22;

/// The searches of one connection.
#[derive(Default)]
pub(crate) struct Searches(Mutex<HashMap<u64, Arc<Mutex<Search>>>>);

/// The actions that watch a search.
type Watchers = Vec<Arc<dyn Action>>;

/// One search.
#[derive(Default)]
pub(crate) struct Search {
    /// Handles from the module, not checked yet.
    pending: VecDeque<ObjectHandle>,
    /// Checked handles, for the client.
    ready: VecDeque<ObjectHandle>,
    fetched: usize,
    exhausted: bool,
    /// The actions that decide which objects the client may see.
    watchers: Watchers,
}

/// Returns the handle of a session as the module gets it.
fn key(session: SessionHandle) -> u64 {
    wide(narrow(session.0))
}

/// Locks the mutex. A list of handles is still valid after another thread has panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Searches {
    /// Lets the module execute a call, and keeps track of the searches that it begins, continues or ends.
    pub(crate) fn execute(&self, call: Call<'_>, context: &Context<'_>) -> Reply {
        let backend = context.backend;
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "other calls have no part in searches: a test compares with xdr::facts"
        )]
        match call {
            Call::C_FindObjects(session, room)
                if watches_every_search(context) || self.has(session) =>
            {
                Reply::C_FindObjects(self.find(session, room, context))
            }
            Call::C_FindObjectsInit(session, ref template) => {
                let nothing = Template::default();
                let wanted = template.as_ref().unwrap_or(&nothing);
                let watching = context.rules.steps();
                let watching = watching.filter(|(at, step)| step.action.watches(*at, wanted));
                let watchers: Watchers = watching.map(|(_, step)| step.action.clone()).collect();
                let reply = backend.call(call);
                match reply.rv().is_ok() {
                    true if !watchers.is_empty() || watches_every_search(context) => {
                        self.begin(session, watchers);
                    }
                    true => self.end(session),
                    false => {}
                }
                reply
            }
            Call::C_FindObjectsFinal(session) | Call::C_CloseSession(session) => {
                let final_call = context.function == Function::C_FindObjectsFinal;
                let present = self.get(session);
                let reply = backend.call(call);
                if final_call || reply.rv().is_ok() {
                    self.end_one(session, present);
                }
                reply
            }
            // Another call of the session may begin a search as soon as the module has cancelled this one.
            Call::C_SessionCancel(session, flags) => {
                let present = self.get(session);
                let reply = backend.call(call);
                if reply.rv().is_ok() && flags.0 & FIND_OBJECTS != 0 {
                    self.end_one(session, present);
                }
                reply
            }
            Call::C_CloseAllSessions(_) => {
                let reply = backend.call(call);
                if reply.rv().is_ok() {
                    // The sessions of other slots stay open, and their searches go on.
                    for (session, search) in self.all() {
                        if session_state(backend, session).is_err() {
                            self.end_one(session, Some(search));
                        }
                    }
                }
                reply
            }
            Call::C_Finalize() => {
                let present = self.all();
                let reply = backend.call(call);
                if reply.rv().is_ok() {
                    for (session, search) in present {
                        self.end_one(session, Some(search));
                    }
                }
                reply
            }
            call => context.execute(call),
        }
    }

    /// Answers C_FindObjects with the objects that the client may see.
    fn find(&self, session: SessionHandle, room: Room, context: &Context<'_>) -> ObjectListResult {
        let backend = context.backend;
        let count = match room {
            Room::Buffer(count) => Ok(count),
            Room::Unbounded => Ok(MOST),
            Room::Null { .. } | Room::NoLength => Err(CkRv::ARGUMENTS_BAD),
        };
        let fetch = |count| {
            let reply = backend.call(Call::C_FindObjects(session, Room::Buffer(count)));
            match reply.rv() {
                CkRv::OK => {}
                rv => return Err(rv),
            }
            if let Reply::C_FindObjects(found) = reply {
                Ok(found.objects)
            } else {
                Err(CkRv::GENERAL_ERROR)
            }
        };
        let hides = |object: ObjectHandle, watchers: &Watchers| {
            match checks::check_object(context, session, object, CkRv::OBJECT_HANDLE_INVALID) {
                Ok(()) => {}
                Err(refusal) if checks::concerns_the_session(refusal.rv) => return Err(refusal.rv),
                Err(refusal) => {
                    refusal.log(context);
                    return Ok(true);
                }
            }
            let mut watchers = watchers.iter();
            Ok(watchers.any(|action| action.hides(session, object, context)))
        };
        let found = match count {
            Err(rv) if self.has(session) => Some(Err(rv)),
            count => self.next(session, count.unwrap_or(0), fetch, hides),
        };
        // Without a search, an invalid session is the error that is reported first, as in a module.
        let found = found.unwrap_or_else(|| {
            session_state(backend, session).and(Err(CkRv::OPERATION_NOT_INITIALIZED))
        });
        match found {
            Ok(objects) => ObjectListResult {
                rv: CkRv::OK,
                count: Ulong(objects.len() as u64),
                objects,
            },
            Err(rv) => ObjectListResult {
                rv,
                ..Default::default()
            },
        }
    }

    /// Begins a search in this session, which replaces an earlier one.
    pub(crate) fn begin(&self, session: SessionHandle, watchers: Watchers) {
        let search = Search {
            watchers,
            ..Search::default()
        };
        lock(&self.0).insert(key(session), Arc::new(Mutex::new(search)));
    }

    /// Whether there is a search in this session.
    pub(crate) fn has(&self, session: SessionHandle) -> bool {
        lock(&self.0).contains_key(&key(session))
    }

    /// Ends the search in this session.
    pub(crate) fn end(&self, session: SessionHandle) {
        lock(&self.0).remove(&key(session));
    }

    /// Returns the search in this session.
    fn get(&self, session: SessionHandle) -> Option<Arc<Mutex<Search>>> {
        lock(&self.0).get(&key(session)).cloned()
    }

    /// Returns all searches, with their sessions.
    fn all(&self) -> Vec<(SessionHandle, Arc<Mutex<Search>>)> {
        let searches = lock(&self.0);
        let all = searches.iter();
        all.map(|(session, search)| (SessionHandle(*session), search.clone()))
            .collect()
    }

    /// Ends this search, unless another one has begun in its session meanwhile.
    fn end_one(&self, session: SessionHandle, search: Option<Arc<Mutex<Search>>>) {
        let mut searches = lock(&self.0);
        let is_present = |search| {
            let present = searches.get(&key(session));
            present.is_some_and(|present| Arc::ptr_eq(present, &search))
        };
        if search.is_some_and(is_present) {
            searches.remove(&key(session));
        }
    }

    /// Returns the next `count` handles of a session's search; `None` without a search. `fetch` asks the module for up
    /// to the given number of handles. Handles for which `hides` returns true are left out; it gets the actions that
    /// watch the search.
    pub(crate) fn next(
        &self,
        session: SessionHandle,
        count: u64,
        fetch: impl FnMut(u64) -> Result<Vec<ObjectHandle>, CkRv>,
        mut hides: impl FnMut(ObjectHandle, &Watchers) -> Result<bool, CkRv>,
    ) -> Option<Result<Vec<ObjectHandle>, CkRv>> {
        let search = self.get(session)?;
        let mut search = lock(&search);
        let watchers = search.watchers.clone();
        let hides = |object| hides(object, &watchers);
        Some(search.next(count.min(MOST) as usize, fetch, hides))
    }
}

/// Whether each found object must be checked.
fn watches_every_search(context: &Context<'_>) -> bool {
    let mut steps = context.rules.steps();
    context.rules.guards_objects() || steps.any(|(at, _)| at == Function::C_FindObjects)
}

/// Asks the module whether a session is valid.
fn session_state(backend: &dyn Cryptoki, session: SessionHandle) -> Result<(), CkRv> {
    match backend.call(Call::C_GetSessionInfo(session)).rv() {
        CkRv::OK => Ok(()),
        rv => Err(rv),
    }
}

impl Search {
    fn next(
        &mut self,
        count: usize,
        mut fetch: impl FnMut(u64) -> Result<Vec<ObjectHandle>, CkRv>,
        mut hides: impl FnMut(ObjectHandle) -> Result<bool, CkRv>,
    ) -> Result<Vec<ObjectHandle>, CkRv> {
        while self.ready.len() < count {
            let Some(object) = self.pending.front().copied() else {
                if self.exhausted {
                    break;
                }
                let batch = fetch(BATCH)?;
                self.fetched = self.fetched.saturating_add(batch.len());
                if self.fetched > LONGEST {
                    return Err(CkRv::GENERAL_ERROR);
                }
                self.exhausted = batch.is_empty();
                self.pending = batch.into();
                continue;
            };
            // On an error, the object stays pending: it is not lost, and the client does not get it unchecked.
            let hidden = hides(object)?;
            self.pending.pop_front();
            if !hidden {
                self.ready.push_back(object);
            }
        }
        let count = count.min(self.ready.len());
        Ok(self.ready.drain(..count).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use xdr::facts::Family;

    const SESSION: SessionHandle = SessionHandle(7);

    /// Returns the handles 1 to `total`, at most `BATCH` at once.
    fn module(total: u64) -> impl FnMut(u64) -> Result<Vec<ObjectHandle>, CkRv> {
        let mut next = 1;
        move |count| {
            let end = (next + count).min(total + 1);
            let batch = (next..end).map(ObjectHandle).collect();
            next = end;
            Ok(batch)
        }
    }

    fn numbers(found: Option<Result<Vec<ObjectHandle>, CkRv>>) -> Vec<u64> {
        found
            .unwrap()
            .unwrap()
            .into_iter()
            .map(|object| object.0)
            .collect()
    }

    /// `execute` handles each of these.
    #[test]
    fn no_other_function_belongs_to_searches() {
        let all = Function::ALL.iter().copied();
        let mut found: Vec<&str> = all
            .filter(|function| function.facts().is_of(Family::Search))
            .map(Function::name)
            .collect();
        found.sort();
        assert_eq!(
            found,
            ["C_FindObjects", "C_FindObjectsFinal", "C_FindObjectsInit"]
        );
    }

    #[test]
    fn gives_what_is_not_hidden_in_the_modules_order() {
        let searches = Searches::default();
        searches.begin(SESSION, Vec::new());
        let mut fetch = module(1000);
        let even = |object: ObjectHandle, _: &Watchers| Ok(object.0 % 2 == 0);
        assert_eq!(numbers(searches.next(SESSION, 0, &mut fetch, even)), [0; 0]);
        assert_eq!(numbers(searches.next(SESSION, 1, &mut fetch, even)), [1]);
        assert_eq!(numbers(searches.next(SESSION, 2, &mut fetch, even)), [3, 5]);
        let rest = numbers(searches.next(SESSION, u64::MAX, &mut fetch, even));
        assert!(rest.iter().copied().eq((7..1000).step_by(2)));
        assert_eq!(numbers(searches.next(SESSION, 1, &mut fetch, even)), [0; 0]);
    }

    #[test]
    fn knows_no_search_but_those_that_were_begun() {
        let searches = Searches::default();
        let find = |session| searches.next(session, 9, module(3), |_, _| Ok(false));
        assert!(find(SESSION).is_none());
        searches.begin(SESSION, Vec::new());
        assert!(find(SessionHandle(8)).is_none());
        assert_eq!(numbers(find(SESSION)), [1, 2, 3]);
        searches.end(SESSION);
        assert!(find(SESSION).is_none());
        searches.begin(SESSION, Vec::new());
        searches.begin(SessionHandle(8), Vec::new());
        assert_eq!(searches.all().len(), 2);
        searches.end(SessionHandle(8));
        assert!(find(SessionHandle(8)).is_none() && find(SESSION).is_some());
    }

    #[test]
    fn a_late_end_does_not_end_the_next_search() {
        let searches = Searches::default();
        searches.begin(SESSION, Vec::new());
        let first = searches.get(SESSION);
        searches.begin(SESSION, Vec::new());
        searches.end_one(SESSION, first);
        assert!(searches.has(SESSION));
        searches.end_one(SESSION, None);
        assert!(searches.has(SESSION));
        searches.end_one(SESSION, searches.get(SESSION));
        assert!(!searches.has(SESSION));
    }

    #[test]
    fn loses_nothing_and_shows_nothing_unseen_when_a_look_fails() {
        let searches = Searches::default();
        searches.begin(SESSION, Vec::new());
        let mut fetch = module(4);
        let fails = Cell::new(true);
        let look = |object: ObjectHandle, _: &Watchers| match object.0 {
            3 if fails.get() => Err(CkRv::DEVICE_ERROR),
            object => Ok(object == 4),
        };
        let failed = searches.next(SESSION, 9, &mut fetch, look);
        assert_eq!(failed, Some(Err(CkRv::DEVICE_ERROR)));
        fails.set(false);
        assert_eq!(
            numbers(searches.next(SESSION, 9, &mut fetch, look)),
            [1, 2, 3]
        );
    }

    #[test]
    fn ends_a_search_that_never_ends() {
        let searches = Searches::default();
        searches.begin(SESSION, Vec::new());
        let forever = |count| Ok(vec![ObjectHandle(1); count as usize]);
        let found = searches.next(SESSION, 1, forever, |_, _| Ok(true));
        assert_eq!(found, Some(Err(CkRv::GENERAL_ERROR)));
    }
}
