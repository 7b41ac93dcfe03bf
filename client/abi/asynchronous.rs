//! Exports the functions for asynchronous operations of PKCS#11 v3.2.
//!
//! A module's asynchronous operation writes into the application's buffers after the call has returned, which is not
//! possible from another process. So the daemon opens no asynchronous session, and these functions return what a module
//! returns for a session that is not asynchronous.

use cryptoki_sys::{CK_ASYNC_DATA, CK_BYTE, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_UTF8CHAR};
use xdr::word_size::wide;
use xdr::{Call, CkRv, Room, Ulong};

use super::memory::{self, Place};
use super::{enter, session_handle};
use crate::remote::{ask, result};
use crate::structures::number;

/// Asks for the result of an operation. `place` may be NULL if the operation has no result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_AsyncComplete(
    session: CK_SESSION_HANDLE,
    name: *mut CK_UTF8CHAR,
    place: *mut CK_ASYNC_DATA,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let name = unsafe { memory::name(name) }?;
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(place) };
        let answer = ask!(
            library,
            C_AsyncComplete(session_handle(session), name),
            place.nulls()
        )?;
        result(answer.rv)?;
        if !answer.data.is_empty() {
            return Err(CkRv::DEVICE_ERROR); // there is no buffer for it
        }
        place.put(CK_ASYNC_DATA {
            ulValue: number(answer.length.0)?,
            hObject: number(answer.object.0)?,
            hAdditionalObject: number(answer.additional_object.0)?,
            ..Default::default()
        });
        Ok(())
    })
}

/// Asks for the number with which the operation can be joined later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_AsyncGetID(
    session: CK_SESSION_HANDLE,
    name: *mut CK_UTF8CHAR,
    place: *mut CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(place) };
        // SAFETY: the contract of this module.
        let name = unsafe { memory::name(name) }?;
        let answer = ask!(
            library,
            C_AsyncGetID(session_handle(session), name),
            place.nulls()
        )?;
        result(answer.rv)?;
        place.put(number(answer.size.0)?);
        Ok(())
    })
}

/// Joins an operation.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_AsyncJoin(
    session: CK_SESSION_HANDLE,
    name: *mut CK_UTF8CHAR,
    id: CK_ULONG,
    data: *mut CK_BYTE,
    length: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let name = unsafe { memory::name(name) }?;
        let length = wide(length);
        let room = match data.is_null() {
            true => Room::Null { length },
            false => Room::Buffer(length),
        };
        let session = session_handle(session);
        library.only(Call::C_AsyncJoin(session, name, Ulong(wide(id)), room))
    })
}
