//! Learns from the module's replies which sessions and objects exist now, who is logged in, and on which token.

use std::sync::Arc;

use transport::Deadline;
use xdr::{Call, CkRv, NullPlaces, Reply, Room, SessionHandle, SlotId};

use super::tables::{Known, Slot};
use super::{Live, Recovery, Trouble};
use crate::remote::Remote;

impl<R: Remote + 'static> Recovery<R> {
    /// Stores what a call has changed, and puts the application's handles into its reply.
    pub(super) fn learn(
        &self,
        live: &Live<R>,
        call: &Call<'_>,
        reply: &mut Reply,
        nulls: NullPlaces,
        deadline: Deadline,
    ) -> Result<(), Trouble> {
        let rv = reply.rv();
        if rv.is_ok() && is_longer_than_asked(call, reply) {
            return Err(Trouble::Refused(CkRv::DEVICE_ERROR));
        }
        let known = match rv.is_ok() {
            true => self.look_at(live, call, reply)?,
            false => Vec::new(),
        };
        let mut state = self.shared.state();
        if state.finished {
            return Ok(());
        }
        if rv.is_ok() {
            state
                .tables
                .put_into(call, reply, live.generation, nulls, known)?;
        }
        state.tables.done(call, rv);
        drop(state);
        if !rv.is_ok() {
            return Ok(());
        }
        match call {
            Call::C_OpenSession(slot, ..) if !nulls.first => {
                let Reply::C_OpenSession(opened) = reply else {
                    return Ok(());
                };
                let ready = self.opened(live, *slot, opened.session, deadline);
                if ready.is_err() {
                    self.close(live, opened.session);
                }
                ready
            }
            Call::C_GetTokenInfo(slot) if !nulls.first => {
                if let Reply::C_GetTokenInfo(answer) = reply {
                    self.shown_token(live, *slot, &answer.info);
                }
                Ok(())
            }
            Call::C_Login(session, user, pin) => {
                self.logged_in(live, *session, *user, *pin, None);
                Ok(())
            }
            Call::C_LoginUser(session, user, pin, name) => {
                self.logged_in(live, *session, *user, *pin, Some(*name));
                Ok(())
            }
            Call::C_SetPIN(session, _, new) => {
                let mut state = self.shared.state();
                if let Some(login) = state.login_of(*session) {
                    login.pin = login.pin.take().and_then(|_| self.kept(*new));
                }
                Ok(())
            }
            Call::C_SetAttributeValue(session, object, _) => {
                // The change was made, even if this question fails. So the object's earlier description no longer
                // applies.
                if self.look_at_object(live, *session, *object).is_err() {
                    let mut state = self.shared.state();
                    state.tables.changed(*object, Known::Nothing);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Stores a session that was opened. If it is the only one with its slot, finds out which token is there. If the
    /// connection is new, repeats the login if necessary.
    fn opened(
        &self,
        live: &Live<R>,
        slot: SlotId,
        session: SessionHandle,
        deadline: Deadline,
    ) -> Result<(), Trouble> {
        let _turn = self.turn(deadline)?;
        let mut state = self.shared.state();
        if !state.is_on(live) {
            // The connection was given up meanwhile. The session is opened again when it is used, in this slot.
            let slots = &mut state.tables.slots;
            slots.entry(slot).or_insert_with(|| Slot::new(slot, live));
            return Ok(());
        }
        let known = state.tables.slots.get(&slot);
        let (is_known, real_slot) = (known.is_some(), known.map_or(slot, |it| it.real));
        let is_only_one = state.tables.is_only_one(session, slot);
        let real = state.tables.sessions.get(&session).map(|it| it.real);
        drop(state);
        if !is_known || is_only_one {
            // If the connection is lost at this moment, the token stays unknown; the session is opened again
            // nevertheless.
            let token = live.token(real_slot).ok().flatten().map(Arc::new);
            let first = || Slot::new(slot, live);
            let mut state = self.shared.state();
            let known = state.tables.slots.entry(slot).or_insert_with(first);
            known.daemon = live.daemon;
            known.holds(token);
        } else if let Some(real) = real {
            match self.restore_login(live, slot, real) {
                Err(Trouble::Lost | Trouble::GivenUp | Trouble::Leaving) | Ok(()) => {}
                refused => return refused,
            }
        }
        Ok(())
    }

    /// Closes a session that was opened but is not returned to the application.
    fn close(&self, live: &Live<R>, session: SessionHandle) {
        let mut state = self.shared.state();
        let real = state.tables.sessions.get(&session).map(|it| it.real);
        state.tables.close(session);
        drop(state);
        if let Some(real) = real {
            let _closed = live.ask_at_any_time(Call::C_CloseSession(real));
        }
    }
}

/// Returns whether a list has more entries than there is room for. Nothing of it may be stored, because the application
/// gets none of it.
fn is_longer_than_asked(call: &Call<'_>, reply: &Reply) -> bool {
    let sent = match reply {
        Reply::C_FindObjects(found) => found.objects.len(),
        Reply::C_GetSlotList(list) => list.slots.len(),
        _ => return false,
    };
    let room = match call.room() {
        Some(Room::Buffer(room)) => room,
        _ => 0,
    };
    sent as u64 > room
}
