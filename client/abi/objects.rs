//! Exports the functions for objects, their attributes, and searches: PKCS#11 v3.0, section 5.7.

use cryptoki_sys::{CK_ATTRIBUTE, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG};
use xdr::Call;

use super::memory;
use super::memory::{Place, Places, WantedAttributes};
use super::{enter, object_handle, session_handle};
use crate::remote::{ask, result};
use crate::structures::number;

information! {
    /// Returns the size of an object.
    C_GetObjectSize(
        session: CK_SESSION_HANDLE => session_handle(session),
        object: CK_OBJECT_HANDLE => object_handle(object)
    ) -> CK_ULONG = |answer: &xdr::SizeResult| number(answer.size.0);
}

/// Creates an object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CreateObject(
    session: CK_SESSION_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    object: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(object) };
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let made = ask!(
            library,
            C_CreateObject(session_handle(session), template),
            place.nulls()
        )?;
        place.put_handle(made.object)?;
        result(made.rv)
    })
}

/// Copies an object; the template can change attributes of the copy.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CopyObject(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    copy: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(copy) };
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let (session, object) = (session_handle(session), object_handle(object));
        let made = ask!(
            library,
            C_CopyObject(session, object, template),
            place.nulls()
        )?;
        place.put_handle(made.object)?;
        result(made.rv)
    })
}

/// Destroys an object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DestroyObject(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        let (session, object) = (session_handle(session), object_handle(object));
        library.only(Call::C_DestroyObject(session, object))
    })
}

/// Reads attributes of an object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let wanted = unsafe { WantedAttributes::new(template, count) }?;
        let query = wanted.as_ref().map(WantedAttributes::query);
        let (session, object) = (session_handle(session), object_handle(object));
        let found = ask!(library, C_GetAttributeValue(session, object, query))?;
        match wanted {
            Some(wanted) => wanted.put(found.rv, &found.answers),
            None => result(found.rv),
        }
    })
}

/// Changes attributes of an object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let (session, object) = (session_handle(session), object_handle(object));
        library.only(Call::C_SetAttributeValue(session, object, template))
    })
}

/// Begins a search.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_FindObjectsInit(
    session: CK_SESSION_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        library.only(Call::C_FindObjectsInit(session_handle(session), template))
    })
}

/// Returns the next objects of a search.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_FindObjects(
    session: CK_SESSION_HANDLE,
    objects: *mut CK_OBJECT_HANDLE,
    most: CK_ULONG,
    count: *mut CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let places = unsafe { Places::with_room(objects, most, count) };
        let found = ask!(
            library,
            C_FindObjects(session_handle(session), places.room())
        )?;
        let objects = found.objects.iter().map(|object| object.0);
        places.put_list(found.rv, found.count.0, objects)
    })
}

of_session! {
    /// Ends a search.
    C_FindObjectsFinal;
}
