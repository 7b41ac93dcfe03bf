//! Keeps the slot numbers that the application knows; each stands for the token that was in its slot.
//!
//! A number is bound to a token when the application asks for the token or opens a session. On a new connection the
//! token is searched for in all slots. While it is missing, its slot appears empty, and sessions with it get
//! CKR_DEVICE_REMOVED.

use std::sync::Arc;

use transport::Deadline;
use xdr::{Call, CkRv, Flags, Reply, SlotId, SlotInfo, SlotInfoResult, TokenInfo, Version};

use super::descriptions::Token;
use super::tables::Slot;
use super::{Live, PAUSES, Recovery, Trouble};
use crate::remote::Remote;

/// CKF_TOKEN_PRESENT.
const TOKEN_PRESENT: u64 = 1;

/// CKF_REMOVABLE_DEVICE.
const REMOVABLE: Flags = Flags(2);

impl<R: Remote + 'static> Recovery<R> {
    /// The module's number of the slot with the application's token: the same token, or behind another daemon one of the same
    /// name. CKR_DEVICE_REMOVED if it is gone.
    pub(super) fn restore_slot(&self, live: &Live<R>, slot: SlotId) -> Result<SlotId, Trouble> {
        let state = self.shared.state();
        let Some(known) = state.tables.slots.get(&slot) else {
            return Ok(slot);
        };
        if known.generation == live.generation {
            return Ok(known.real);
        }
        let (token, was_in, is_same_daemon) =
            (known.token.clone(), known.real, known.daemon == live.daemon);
        drop(state);
        let (real, present) = match &token {
            // It could not be asked for, so the slot's number has to do.
            None => (was_in, None),
            Some(token) => match find_token(live, token, was_in, is_same_daemon)? {
                Some((real, present)) => (real, Some(Arc::new(present))),
                None => {
                    if self.connects_once_more(live, slot, token) {
                        return Err(Trouble::Lost);
                    }
                    self.note_gone(live, slot, token, was_in)?;
                    return Err(Trouble::Refused(CkRv::DEVICE_REMOVED));
                }
            },
        };
        let mut state = self.shared.state();
        if let Some(known) = state.tables.slots.get_mut(&slot) {
            known.real = real;
            known.present = present;
            known.generation = live.generation;
            known.gone = None;
        }
        Ok(real)
    }

    /// A token that the application has sessions with is not there on a new connection, although it was on the one before.
    /// Some modules see no token if they start while others use it, as SoftHSM does; and none looks for tokens again. So the
    /// connection is given up, once, and the next one has another process with the module.
    fn connects_once_more(&self, live: &Live<R>, slot: SlotId, token: &Token) -> bool {
        let mut state = self.shared.state();
        let is_in_use = state.tables.is_in_use(live.generation);
        // Of several tokens that are gone, one is enough.
        let is_second = state.given_up_for_token == live.generation.checked_sub(1);
        if is_in_use
            || is_second
            || !state.tables.has_sessions(slot)
            || state.generation != live.generation
        {
            return false;
        }
        let Some(known) = state.tables.slots.get_mut(&slot) else {
            return false;
        };
        if known.gone.is_some() {
            return false;
        }
        known.gone = Some(live.generation);
        log::warn!(
            "no slot has the token {}; connecting once more",
            token.name()
        );
        state.give_up();
        state.given_up_for_token = Some(live.generation);
        drop(state);
        std::thread::sleep(PAUSES.0.min(live.deadline.remaining().unwrap_or_default()));
        true
    }

    /// No slot has the token any more. The slot that it was in may be empty, or have a token that the application can be told
    /// of because it has no session with the one before.
    fn note_gone(
        &self,
        live: &Live<R>,
        slot: SlotId,
        token: &Token,
        was_in: SlotId,
    ) -> Result<(), Trouble> {
        let left = match live.ask(Call::C_GetSlotInfo(was_in))? {
            Reply::C_GetSlotInfo(answer) if answer.rv.is_ok() => Some(answer.info.flags),
            _ => None,
        };
        let is_empty = |flags: Flags| flags.0 & TOKEN_PRESENT == 0;
        let mut state = self.shared.state();
        let has_sessions = state.tables.has_sessions(slot);
        if let Some(known) = state.tables.slots.get_mut(&slot) {
            if known.gone.replace(live.generation) != Some(live.generation) {
                log::error!("no slot has the token {} any more", token.name());
            }
            known.is_free = left.is_some_and(|flags| is_empty(flags) || !has_sessions);
        }
        Ok(())
    }

    /// The module's number of the slot that a token was in, if the application may be told what is in it now.
    pub(super) fn free_slot(&self, live: &Live<R>, slot: SlotId) -> Option<SlotId> {
        let state = self.shared.state();
        let known = state.tables.slots.get(&slot)?;
        let is_meant = state.tables.number(live.generation, known.real) == Some(slot);
        (known.is_left(live.generation) && is_meant).then_some(known.real)
    }

    /// Looks for the tokens of all slots that the application knows, so that it is told the numbers it knows. `again`: those too
    /// that were gone already.
    pub(super) fn restore_slots(
        &self,
        live: &Live<R>,
        again: bool,
        deadline: Deadline,
    ) -> Result<(), Trouble> {
        let missing = self
            .shared
            .state()
            .tables
            .past_slots(live.generation, again);
        if missing.is_empty() {
            return Ok(());
        }
        let _turn = self.turn(deadline)?;
        for slot in missing {
            match self.restore_slot(live, slot) {
                Err(Trouble::Refused(_)) | Ok(_) => {}
                lost => drop(lost?),
            }
        }
        live.check_time()
    }

    /// The application has asked for the token in a slot: from now on it means this token.
    pub(super) fn shown_token(&self, live: &Live<R>, slot: SlotId, info: &TokenInfo) {
        let token = Arc::new(Token::of(info));
        let mut state = self.shared.state();
        // Sessions are with the token that was there when the first was opened.
        let has_sessions = state.tables.has_sessions(slot);
        let first = || Slot::new(slot, live);
        let known = state.tables.slots.entry(slot).or_insert_with(first);
        let is_late = known.generation > live.generation;
        let is_other = known.token.as_ref() != Some(&token);
        if !is_late && is_other && (known.token.is_none() || !has_sessions) {
            known.generation = live.generation;
            known.gone = None;
            known.daemon = live.daemon;
            known.holds(Some(token));
        }
    }
}

/// What a call is answered whose token is gone. The slot is there, as far as the application knows; sessions are not.
pub(super) fn answer_without_token(call: &Call<'_>) -> Reply {
    let function = call.function();
    match call {
        Call::C_GetSlotInfo(_) => Reply::C_GetSlotInfo(Box::new(SlotInfoResult {
            rv: CkRv::OK,
            info: SlotInfo {
                slot_description: vec![b' '; 64],
                manufacturer_id: vec![b' '; 32],
                flags: REMOVABLE,
                hardware_version: Version::default(),
                firmware_version: Version::default(),
            },
        })),
        call if call.session().is_none() => Reply::only(function, CkRv::TOKEN_NOT_PRESENT),
        _ => Reply::only(function, CkRv::DEVICE_REMOVED),
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
