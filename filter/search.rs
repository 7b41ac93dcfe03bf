//! Object searches, one for each session: what C_FindObjects found and the client did not get yet.
//!
//! A search begins with a successful C_FindObjectsInit and ends with C_FindObjectsFinal or its
//! session; without one there is nothing to find. Handles come from the module in batches, in its
//! order, and are looked at one by one when the client is to get them, so that a filtered one never
//! is. The original has one list for all sessions of a client, which survives the search.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xdr::word_size::{narrow, wide};
use xdr::{CkRv, ObjectHandle, SessionHandle};

/// Handles asked of the module at once.
const BATCH: u64 = 256;

/// Handles given to the client at once: what an array of the interface holds.
const MOST: u64 = 1 << 16;

/// Handles in one search; a module that tells more never comes to an end.
const LONGEST: usize = 1 << 22;

/// The searches of one connection.
#[derive(Default)]
pub(crate) struct Searches(Mutex<HashMap<u64, Arc<Mutex<Search>>>>);

/// One search.
#[derive(Default)]
pub(crate) struct Search {
    /// From the module, to be looked at.
    pending: VecDeque<ObjectHandle>,
    /// Looked at, for the client.
    ready: VecDeque<ObjectHandle>,
    fetched: usize,
    exhausted: bool,
    /// It looks for the value of a key.
    by_value: bool,
}

/// A session as the module knows it.
fn key(session: SessionHandle) -> u64 {
    wide(narrow(session.0))
}

/// What a thread that panicked left behind is still a list of handles.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Searches {
    /// A new search in this session, in place of an earlier one.
    pub(crate) fn begin(&self, session: SessionHandle, by_value: bool) {
        let search = Search {
            by_value,
            ..Search::default()
        };
        lock(&self.0).insert(key(session), Arc::new(Mutex::new(search)));
    }

    /// Whether there is a search in this session.
    pub(crate) fn has(&self, session: SessionHandle) -> bool {
        lock(&self.0).contains_key(&key(session))
    }

    /// No search in this session any more.
    pub(crate) fn end(&self, session: SessionHandle) {
        lock(&self.0).remove(&key(session));
    }

    /// No search in any session that `keep` does not want.
    pub(crate) fn retain(&self, keep: impl Fn(SessionHandle) -> bool) {
        let sessions: Vec<u64> = lock(&self.0).keys().copied().collect();
        for session in sessions.into_iter().map(SessionHandle) {
            if !keep(session) {
                self.end(session);
            }
        }
    }

    /// The next `count` handles of a session's search: from `fetch` what the module finds, up to so
    /// many, without what `hides`, which learns whether the search is by a value. `None` without a
    /// search.
    pub(crate) fn next(
        &self,
        session: SessionHandle,
        count: u64,
        fetch: impl FnMut(u64) -> Result<Vec<ObjectHandle>, CkRv>,
        mut hides: impl FnMut(ObjectHandle, bool) -> Result<bool, CkRv>,
    ) -> Option<Result<Vec<ObjectHandle>, CkRv>> {
        let search = lock(&self.0).get(&key(session)).cloned()?;
        let mut search = lock(&search);
        let by_value = search.by_value;
        let hides = |object| hides(object, by_value);
        Some(search.next(count.min(MOST) as usize, fetch, hides))
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
            // An error leaves the object where it is: nothing is lost, and nothing unseen passes.
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

    const SESSION: SessionHandle = SessionHandle(7);

    /// Gives the handles 1 to `total`, `BATCH` at most at once.
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

    #[test]
    fn gives_what_is_not_hidden_in_the_modules_order() {
        let searches = Searches::default();
        searches.begin(SESSION, false);
        let mut fetch = module(1000);
        let even = |object: ObjectHandle, _| Ok(object.0 % 2 == 0);
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
        searches.begin(SESSION, false);
        assert!(find(SessionHandle(8)).is_none());
        assert_eq!(numbers(find(SESSION)), [1, 2, 3]);
        searches.end(SESSION);
        assert!(find(SESSION).is_none());
        searches.begin(SESSION, false);
        searches.begin(SessionHandle(8), false);
        searches.retain(|session| session == SESSION);
        assert!(find(SessionHandle(8)).is_none() && find(SESSION).is_some());
    }

    #[test]
    fn loses_nothing_and_shows_nothing_unseen_when_a_look_fails() {
        let searches = Searches::default();
        searches.begin(SESSION, false);
        let mut fetch = module(4);
        let fails = Cell::new(true);
        let look = |object: ObjectHandle, _| match object.0 {
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
        searches.begin(SESSION, false);
        let forever = |count| Ok(vec![ObjectHandle(1); count as usize]);
        let found = searches.next(SESSION, 1, forever, |_, _| Ok(true));
        assert_eq!(found, Some(Err(CkRv::GENERAL_ERROR)));
    }
}
