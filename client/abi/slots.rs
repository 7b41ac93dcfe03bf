//! Exports the functions for slots, tokens and their PINs: PKCS#11 v3.0, section 5.5.

use cryptoki_sys::{
    CK_BBOOL, CK_FLAGS, CK_MECHANISM_INFO, CK_MECHANISM_TYPE, CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID,
    CK_SLOT_INFO, CK_TOKEN_INFO, CK_ULONG, CK_UTF8CHAR, CK_VOID_PTR,
};
use xdr::word_size::wide;
use xdr::{Call, CkRv, Flags, MechanismType, Ulong};

use super::memory;
use super::memory::{Place, Places};
use super::{enter, session_handle, slot_id};
use crate::remote::{ask, result};
use crate::structures;

/// The size of a token's label, in bytes.
const LABEL_SIZE: usize = 32;

information! {
    /// Describes a slot.
    C_GetSlotInfo(slot: CK_SLOT_ID => slot_id(slot)) -> CK_SLOT_INFO
        = |answer: &xdr::SlotInfoResult| structures::slot_info(&answer.info);
    /// Describes a token.
    C_GetTokenInfo(slot: CK_SLOT_ID => slot_id(slot)) -> CK_TOKEN_INFO
        = |answer: &xdr::TokenInfoResult| structures::token_info(&answer.info);
    /// Describes a mechanism.
    C_GetMechanismInfo(
        slot: CK_SLOT_ID => slot_id(slot),
        mechanism: CK_MECHANISM_TYPE => MechanismType(wide(mechanism))
    ) -> CK_MECHANISM_INFO
        = |answer: &xdr::MechanismInfoResult| structures::mechanism_info(&answer.info);
}

/// Lists the slots.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetSlotList(
    token_present: CK_BBOOL,
    slots: *mut CK_SLOT_ID,
    count: *mut CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let places = unsafe { Places::new(slots, count) };
        let present = Ulong(token_present.into());
        let answer = ask!(library, C_GetSlotList(present, places.room()))?;
        let slots = answer.slots.iter().map(|slot| slot.0);
        places.put_list(answer.rv, answer.count.0, slots)
    })
}

/// Lists the mechanisms of a token.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetMechanismList(
    slot: CK_SLOT_ID,
    mechanisms: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let places = unsafe { Places::new(mechanisms, count) };
        let answer = ask!(library, C_GetMechanismList(slot_id(slot), places.room()))?;
        let mechanisms = answer.mechanisms.iter().map(|mechanism| mechanism.0);
        places.put_list(answer.rv, answer.count.0, mechanisms)
    })
}

/// Initialises a token. With a null PIN, the token asks for the PIN itself (protected authentication path).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_InitToken(
    slot: CK_SLOT_ID,
    pin: *mut CK_UTF8CHAR,
    pin_length: CK_ULONG,
    label: *mut CK_UTF8CHAR,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let pin = unsafe { memory::input(pin, pin_length, CkRv::PIN_INCORRECT) }?;
        // SAFETY: the contract of this module: a label has 32 bytes.
        let label = unsafe { memory::field::<LABEL_SIZE>(label) }?;
        library.only(Call::C_InitToken(slot_id(slot), pin, label))
    })
}

/// Sets the normal user's PIN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_InitPIN(
    session: CK_SESSION_HANDLE,
    pin: *mut CK_UTF8CHAR,
    length: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let pin = unsafe { memory::input(pin, length, CkRv::PIN_LEN_RANGE) }?;
        library.only(Call::C_InitPIN(session_handle(session), pin))
    })
}

/// Changes a PIN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SetPIN(
    session: CK_SESSION_HANDLE,
    old: *mut CK_UTF8CHAR,
    old_length: CK_ULONG,
    new: *mut CK_UTF8CHAR,
    new_length: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let old = unsafe { memory::input(old, old_length, CkRv::PIN_INCORRECT) }?;
        // SAFETY: the contract of this module.
        let new = unsafe { memory::input(new, new_length, CkRv::PIN_LEN_RANGE) }?;
        library.only(Call::C_SetPIN(session_handle(session), old, new))
    })
}

/// Waits for a slot event, or asks whether there was one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_WaitForSlotEvent(
    flags: CK_FLAGS,
    slot: *mut CK_SLOT_ID,
    reserved: CK_VOID_PTR,
) -> CK_RV {
    enter(|library| {
        if !reserved.is_null() {
            // A non-null pReserved cannot be sent to the module, because PKCS#11 does not say what it points to.
            return Err(CkRv::ARGUMENTS_BAD);
        }
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(slot) };
        let event = ask!(
            library,
            C_WaitForSlotEvent(Flags(wide(flags))),
            place.nulls()
        )?;
        result(event.rv)?;
        place.put(structures::number(event.slot_id.0)?);
        Ok(())
    })
}
