//! Restores what a call needs on a new connection: the slot of a token, a session, and what `logins` and `objects` know to.
//!
//! One thread does so at a time. What was restored is noted in the tables; what could not be is tried again by the next call
//! that needs it, except a login.

use std::sync::Arc;

use transport::Deadline;
use xdr::{Call, CkRv, SessionHandle, SlotId};

use super::descriptions::Token;
use super::tables::Missing;
use super::{Live, Recovery, Trouble, Turn};
use crate::remote::Remote;

impl<R: Remote + 'static> Recovery<R> {
    /// The call with the handles of the module behind this connection. Restores what they belong to.
    pub(super) fn with_real_handles<'a>(
        &self,
        live: &Live<R>,
        call: &Call<'a>,
        deadline: Deadline,
    ) -> Result<Call<'a>, Trouble> {
        loop {
            let mut real = call.clone();
            let missing = self
                .shared
                .state()
                .tables
                .translate(&mut real, live.generation)?;
            let Some(missing) = missing else {
                return Ok(real);
            };
            let _turn = self.turn(deadline)?;
            let restored = match missing {
                Missing::Slot(slot) => self.restore_slot(live, slot).map(drop),
                Missing::Session(session) => self.restore_session(live, session),
                Missing::Object {
                    object,
                    session,
                    refusal,
                    known,
                    copied: None,
                } => self.restore_object(live, object, session, refusal, &known),
                Missing::Object {
                    object,
                    refusal,
                    copied: Some(copied),
                    ..
                } => self.restore_copy(live, object, refusal, &copied),
                Missing::Description { object, session } => {
                    self.look_at_object(live, session, object)
                }
                Missing::Counterpart {
                    object,
                    session,
                    known,
                } => self.look_for_counterpart(live, session, object, &known),
                Missing::Keeper(session) => match self.restore_session(live, session) {
                    // The call can do without.
                    Ok(()) | Err(Trouble::Refused(_)) => return Ok(real),
                    lost => lost,
                },
            };
            restored?;
            if deadline.remaining().is_err() {
                return Err(Trouble::Refused(CkRv::DEVICE_ERROR));
            }
        }
    }

    /// Waits until no other thread restores anything.
    pub(super) fn turn(&self, deadline: Deadline) -> Result<Turn<'_, R>, CkRv> {
        let mut state = self.shared.state();
        while state.restoring {
            state = self.shared.wait(state, deadline)?;
        }
        state.restoring = true;
        drop(state);
        Ok(Turn {
            shared: &self.shared,
            flag: |state| &mut state.restoring,
        })
    }

    /// The module's number of the slot with the application's token: the same token, or behind another daemon one of the same
    /// name.
    pub(super) fn restore_slot(&self, live: &Live<R>, slot: SlotId) -> Result<SlotId, Trouble> {
        let state = self.shared.state();
        let Some(known) = state.tables.slots.get(&slot) else {
            return Ok(slot);
        };
        if known.generation == live.generation {
            return Ok(known.real);
        }
        let (token, real, is_same_daemon) =
            (known.token.clone(), known.real, known.daemon == live.daemon);
        drop(state);
        let (real, present) = match &token {
            // It could not be asked for, so the slot's number has to do.
            None => (real, None),
            Some(token) => {
                let found = find_token(live, token, real, is_same_daemon)?;
                let (real, present) = found.ok_or_else(|| {
                    log::error!("no slot has the token {} any more", token.name());
                    Trouble::Refused(CkRv::DEVICE_REMOVED)
                })?;
                (real, Some(Arc::new(present)))
            }
        };
        let mut state = self.shared.state();
        if let Some(known) = state.tables.slots.get_mut(&slot) {
            known.real = real;
            known.present = present;
            known.generation = live.generation;
        }
        Ok(real)
    }

    /// Opens a session again, and logs in if the application was.
    pub(super) fn restore_session(
        &self,
        live: &Live<R>,
        session: SessionHandle,
    ) -> Result<(), Trouble> {
        let state = self.shared.state();
        let Some(known) = state.tables.sessions.get(&session) else {
            return Ok(());
        };
        if known.generation == live.generation {
            return Ok(());
        }
        let (slot, flags, notify) = (known.slot, known.flags, known.notify);
        drop(state);
        let real_slot = self.restore_slot(live, slot)?;
        let real = live.open(real_slot, flags, notify).map_err(|trouble| {
            if let Trouble::Refused(rv) = &trouble {
                log::error!("a session could not be opened again: {rv}");
            }
            trouble.into_device_error()
        })?;
        let restored = self.restore_login(live, slot, real);
        let reopened = || {
            let mut state = self.shared.state();
            state.tables.reopened(session, real, live.generation)
        };
        if restored.is_err() || !reopened() {
            live.ask_at_any_time(Call::C_CloseSession(real))?;
        }
        restored
    }
}

/// The slot with a token, and the token: first where it was, then anywhere.
fn find_token<R: Remote>(
    live: &Live<R>,
    token: &Token,
    was_in: SlotId,
    is_same_daemon: bool,
) -> Result<Option<(SlotId, Token)>, Trouble> {
    if let Some(present) = live.token(was_in)?.filter(|present| present == token) {
        return Ok(Some((was_in, present)));
    }
    let mut alike = Vec::new();
    for slot in live.slots()? {
        match live.token(slot)? {
            Some(present) if present == *token => return Ok(Some((slot, present))),
            Some(present) if present.has_label_of(token) => alike.push((slot, present)),
            _ => {}
        }
    }
    let is_only_one = alike.len() == 1 && !is_same_daemon;
    Ok(alike.pop().filter(|_| is_only_one))
}
