//! Restores what a call needs on a new connection: a session here, and the rest with `slots`, `logins` and `objects`.
//!
//! Only one thread restores at a time. The tables store what was restored. What could not be restored is tried again by
//! the next call that needs it, except a login.

use transport::Deadline;
use xdr::{Call, CkRv, Function, SessionHandle};

use super::tables::Missing;
use super::{Live, Recovery, Trouble, Turn};
use crate::remote::Remote;

impl<R: Remote + 'static> Recovery<R> {
    /// Returns the call with the module's handles on this connection. Restores what they belong to.
    pub(super) fn with_real_handles<'a>(
        &self,
        live: &Live<R>,
        call: &Call<'a>,
        deadline: Deadline,
    ) -> Result<Call<'a>, Trouble> {
        if let Call::C_GetSlotList(..) | Call::C_WaitForSlotEvent(..) = call {
            let is_list = call.function() == Function::C_GetSlotList;
            self.restore_slots(live, is_list, deadline)?;
        }
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
            let _turn = self.turn_on(live, deadline)?;
            let restored = match missing {
                Missing::Slot(slot) => {
                    let restored = self.restore_slot(live, slot);
                    if let Err(Trouble::Refused(CkRv::DEVICE_REMOVED)) = restored {
                        match (call, self.free_slot(live, slot)) {
                            (Call::C_GetSlotInfo(_), Some(left)) => {
                                return Ok(Call::C_GetSlotInfo(left));
                            }
                            (Call::C_GetTokenInfo(_), Some(left)) => {
                                return Ok(Call::C_GetTokenInfo(left));
                            }
                            _ => {}
                        }
                    }
                    restored.map(drop)
                }
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
                    // The call works without it.
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

    /// Waits until no other thread restores anything, and takes the turn.
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

    /// The same, on a connection that was not given up meanwhile: the thread that had the turn before may have done
    /// that.
    pub(super) fn turn_on(
        &self,
        live: &Live<R>,
        deadline: Deadline,
    ) -> Result<Turn<'_, R>, Trouble> {
        let turn = self.turn(deadline)?;
        let is_live = self.shared.state().is_on(live);
        is_live.then_some(turn).ok_or(Trouble::GivenUp)
    }

    /// Opens a session again, and logs in if the application was logged in.
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
