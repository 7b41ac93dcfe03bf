//! Removes from the tables what has ended: sessions and their objects, logins, and operations.
//!
//! What ended with a connection can be ended for the application without a call.

use xdr::facts::Family;
use xdr::{Call, CkRv, ObjectHandle, SessionHandle, SlotId};

use super::{CONTEXT_SPECIFIC, Known, Login, MOST_LEFT, PAST, Session, Slot, Tables};

impl Tables {
    /// Notes that a call failed with the connection and that the application learns of it: the operation of the call is
    /// over.
    pub fn interrupted(&mut self, call: &Call<'_>) {
        if let Call::C_SetAttributeValue(_, object, _) = call {
            // The object may have been changed, or not.
            self.changed(*object, Known::Nothing);
        }
        let Some(session) = call.session().and_then(|it| self.sessions.get_mut(&it)) else {
            return;
        };
        let families = call.function().facts().families;
        session.active.forget(families);
        session.lost.forget(families);
    }

    /// Returns the CK_RV of a call that only ends what has already ended with a connection; `None` if the module is
    /// needed. `generation` is the number of the present connection.
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
                // The application logs in itself, so no login has to be repeated.
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
        // The module does not know a session that was not opened again.
        let is_present = |it: &Slot| it.generation == closed.generation;
        let is_real = self.slots.get(&slot).is_none_or(is_present);
        let is_last_real = is_real && !others().any(|it| it.generation == closed.generation);
        if !is_last && !is_last_real {
            return;
        }
        // When an application closes its last session with a token, its login ends (PKCS#11 v2.20, section 6.7.4).
        if let Some(slot) = self.slots.get_mut(&slot) {
            if is_last {
                slot.log_out();
            } else if let Some(login) = &mut slot.login {
                // The login ended for the module only: the application has sessions that were not opened again yet.
                login.generation = PAST;
            }
        }
        self.leave(slot, is_last);
    }

    /// Marks the handles of a slot's objects as out of date, because the module has no session with the slot any more
    /// and may now give these handles to other objects. The application's objects are looked for again. If the
    /// application has no session with the slot either, only the newest objects are kept: applications open and close
    /// sessions for years.
    fn leave(&mut self, slot: SlotId, is_last: bool) {
        self.shown.by_real.retain(|(of, _), _| *of != slot);
        let handles = self.shown.of_slot.remove(&slot).unwrap_or_default();
        // Objects that were used since then move to the end.
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

    pub fn close_all(&mut self, slot: SlotId) {
        let of_slot = self.sessions.iter().filter(|(_, it)| it.slot == slot);
        let closed: Vec<SessionHandle> = of_slot.map(|(session, _)| *session).collect();
        closed.into_iter().for_each(|session| self.close(session));
    }

    /// Forgets an object.
    pub fn forget(&mut self, object: ObjectHandle) {
        if let Some(known) = self.objects.remove(&object) {
            self.shown.remove(known.slot, known.real, object);
        }
        let mut sessions = self.sessions.values_mut();
        sessions.any(|session| session.made.remove(&object));
    }
}
