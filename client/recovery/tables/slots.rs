//! Translates between the application's slot numbers and the module's.

use xdr::{CkRv, SlotId};

use super::{MOST_SLOTS, NO_HANDLE, Slot, Tables};

/// The first of the new numbers, for slots whose own number the application already uses for another slot. They fit
/// into a CK_ULONG of any platform, and modules rarely have numbers that high.
const FIRST_NEW: u64 = 0x4000_0000;

impl Tables {
    /// Returns the application's slots that were not found on this connection yet. `again`: also those whose token is
    /// missing.
    pub fn past_slots(&self, generation: u64, again: bool) -> Vec<SlotId> {
        let is_past =
            |it: &Slot| it.generation != generation && (again || it.gone != Some(generation));
        let mut slots: Vec<SlotId> = self
            .slots
            .iter()
            .filter(|(_, it)| is_past(it))
            .map(|(slot, _)| *slot)
            .collect();
        slots.sort_unstable_by_key(|it| it.0);
        slots
    }

    /// Returns whether the application has sessions with a slot.
    pub fn has_sessions(&self, slot: SlotId) -> bool {
        self.sessions.values().any(|it| it.slot == slot)
    }

    /// Returns whether anything was restored or begun on the connection with this number.
    pub fn is_in_use(&self, generation: u64) -> bool {
        let mut sessions = self.sessions.values();
        sessions.any(|it| it.generation == generation)
            || self.slots.values().any(|it| it.generation == generation)
    }

    /// Returns the application's number of a slot of the module. If the application already uses the slot's own number
    /// for another slot, it gets a new one. CKR_DEVICE_ERROR if there are too many of those.
    pub(super) fn application_slot(
        &mut self,
        generation: u64,
        real: SlotId,
    ) -> Result<SlotId, CkRv> {
        if let Some(slot) = self.number(generation, real) {
            return Ok(slot);
        }
        if !self.slots.contains_key(&real) {
            return Ok(real);
        }
        if self.slots.len() >= MOST_SLOTS {
            return Err(CkRv::DEVICE_ERROR);
        }
        let numbers = (FIRST_NEW..).map(SlotId);
        let mut free = numbers.filter(|it| !self.slots.contains_key(it));
        let slot = free.next().unwrap_or(SlotId::NONE);
        self.slots.insert(slot, Slot::unknown(real, generation));
        Ok(slot)
    }

    /// Returns the number under which the application knows a slot of the module, for the token that is there or for
    /// one that was.
    pub fn number(&self, generation: u64, real: SlotId) -> Option<SlotId> {
        let is_there = |it: &Slot| it.generation == generation;
        let meant = self
            .slots
            .iter()
            .filter(|(_, it)| it.real == real && (is_there(it) || it.is_left(generation)));
        let number = meant.min_by_key(|(slot, it)| (!is_there(it), it.token.is_none(), slot.0));
        number.map(|(slot, _)| *slot)
    }

    /// Returns the module's number for a number that the application uses for the first time. If the application knows
    /// the slot with that number under another one, returns a number that no slot has: that slot's token was not meant.
    pub(super) fn unknown_slot(&self, generation: u64, slot: SlotId) -> SlotId {
        match self.number(generation, slot) {
            Some(_) => SlotId(NO_HANDLE),
            None => slot,
        }
    }
}
