//! Keeps the application's slot numbers valid; each stands for the token that was in its slot.
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
    /// Returns the module's number of the slot with the application's token. Behind another daemon, a token with the
    /// same label is accepted. CKR_DEVICE_REMOVED if there is none.
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
            // The token is unknown, so the slot's number is used.
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

    /// Gives up the connection if a token is missing on it that the previous connection had, and with which the
    /// application has sessions. Some modules, SoftHSM among them, see no token if they start while other processes use
    /// it, and no module looks for tokens again later. The next connection gets another process with the module. This
    /// is done only once. Returns whether it was done.
    fn connects_once_more(&self, live: &Live<R>, slot: SlotId, token: &Token) -> bool {
        let mut state = self.shared.state();
        let is_in_use = state.tables.is_in_use(live.generation);
        // If several tokens are missing, one new connection is enough.
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

    /// Notes that no slot has the token any more, and whether the application may be shown the slot as it is now. It
    /// may if the slot is empty, or if the application has no sessions with the missing token.
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

    /// Returns the module's number of the slot in which a token was, if the application may be shown what is in it now.
    pub(super) fn free_slot(&self, live: &Live<R>, slot: SlotId) -> Option<SlotId> {
        let state = self.shared.state();
        let known = state.tables.slots.get(&slot)?;
        let is_meant = state.tables.number(live.generation, known.real) == Some(slot);
        (known.is_left(live.generation) && is_meant).then_some(known.real)
    }

    /// Looks for the tokens of all slots that the application knows, so that it gets the numbers that it knows.
    /// `again`: also for those that were already found to be missing.
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
        let _turn = self.turn_on(live, deadline)?;
        for slot in missing {
            match self.restore_slot(live, slot) {
                Err(Trouble::Refused(_)) | Ok(_) => {}
                lost => drop(lost?),
            }
        }
        live.check_time()
    }

    /// Binds a slot number to the token for which the application has asked.
    pub(super) fn shown_token(&self, live: &Live<R>, slot: SlotId, info: &TokenInfo) {
        let token = Arc::new(Token::of(info));
        let mut state = self.shared.state();
        // Sessions belong to the token that was there when the first one was opened.
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

/// Returns the reply to a call whose token is missing. For the application, the slot still exists, but its sessions do
/// not.
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

/// Finds the slot with a token, and the token there: first in the slot where it was, then in all slots.
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
