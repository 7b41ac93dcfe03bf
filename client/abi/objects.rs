//! Objects, their attributes, and searches: PKCS#11 v2.20, section 11.7.

use cryptoki_sys::{CK_ATTRIBUTE, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG};
use xdr::{Call, CkRv, Cryptoki};

use super::memory;
use super::memory::{Place, WantedAttributes};
use super::{enter, numbers, object_handle, session_handle};
use crate::attributes;
use crate::remote::ask;
use xdr::word_size::narrow;

information! {
    /// The size of an object.
    C_GetObjectSize(
        session: CK_SESSION_HANDLE => session_handle(session),
        object: CK_OBJECT_HANDLE => object_handle(object)
    ) -> CK_ULONG = |result: &xdr::SizeResult| narrow(result.size.0);
}

/// Makes an object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CreateObject(
    session: CK_SESSION_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    object: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(object) }?;
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let made = ask!(library, C_CreateObject(session_handle(session), template))?;
        place.put(narrow(made.object.0));
        Ok(())
    })
}

/// Copies an object, with changes.
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
        let place = unsafe { Place::new(copy) }?;
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let (session, object) = (session_handle(session), object_handle(object));
        let made = ask!(library, C_CopyObject(session, object, template))?;
        place.put(narrow(made.object.0));
        Ok(())
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
        let template = unsafe { WantedAttributes::new(template, count) }?;
        let (session, object) = (session_handle(session), object_handle(object));
        let (rv, found) = attributes::values(library, session, object, &template.wanted());
        template.put(&found)?;
        if rv.is_ok() { Ok(()) } else { Err(rv) }
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
        if template.is_null() {
            return Err(CkRv::ARGUMENTS_BAD);
        }
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

/// Goes on with a search. The places are checked first: what the module found is found once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_FindObjects(
    session: CK_SESSION_HANDLE,
    objects: *mut CK_OBJECT_HANDLE,
    most: CK_ULONG,
    count: *mut CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let count = unsafe { Place::new(count) }?;
        if objects.is_null() {
            return Err(CkRv::ARGUMENTS_BAD);
        }
        let room = usize::try_from(most).unwrap_or(usize::MAX);
        let found = library.find_objects(session_handle(session), room)?;
        let found = numbers(found.iter().map(|object| object.0));
        // SAFETY: `find_objects` gives no more than there is room for by the contract.
        unsafe { memory::copy(&found, objects) };
        count.put(found.len() as CK_ULONG);
        Ok(())
    })
}

of_session! {
    /// Ends a search.
    C_FindObjectsFinal;
}
