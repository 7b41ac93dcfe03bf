//! Keys made, wrapped, unwrapped and derived: PKCS#11 v2.20, section 11.14.

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BYTE, CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG,
};
use xdr::{CkRv, Cryptoki};

use super::memory;
use super::memory::{Place, Places};
use super::{enter, object_handle, session_handle};
use crate::remote::ask;
use xdr::word_size::narrow;

/// Makes a key.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GenerateKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(key) }?;
        // SAFETY: the contract of this module.
        let mechanism = unsafe { memory::mechanism(mechanism) }?;
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let session = session_handle(session);
        let made = ask!(library, C_GenerateKey(session, mechanism, template))?;
        place.put(narrow(made.object.0));
        Ok(())
    })
}

/// Makes a pair of keys.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GenerateKeyPair(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    public_template: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private_template: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public_key: *mut CK_OBJECT_HANDLE,
    private_key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let public_place = unsafe { Place::new(public_key) }?;
        // SAFETY: the contract of this module.
        let private_place = unsafe { Place::new(private_key) }?;
        // SAFETY: the contract of this module.
        let mechanism = unsafe { memory::mechanism(mechanism) }?;
        // SAFETY: the contract of this module.
        let public = unsafe { memory::template(public_template, public_count) }?;
        // SAFETY: the contract of this module.
        let private = unsafe { memory::template(private_template, private_count) }?;
        let session = session_handle(session);
        let made = ask!(
            library,
            C_GenerateKeyPair(session, mechanism, public, private)
        )?;
        public_place.put(narrow(made.public_key.0));
        private_place.put(narrow(made.private_key.0));
        Ok(())
    })
}

/// Encrypts a key for transport.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_WrapKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    wrapping_key: CK_OBJECT_HANDLE,
    key: CK_OBJECT_HANDLE,
    wrapped: *mut CK_BYTE,
    wrapped_length: *mut CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let places = unsafe { Places::new(wrapped, wrapped_length) }?;
        // SAFETY: the contract of this module.
        let mechanism = unsafe { memory::mechanism(mechanism) }?;
        let session = session_handle(session);
        let keys = (object_handle(wrapping_key), object_handle(key));
        places.put(library.wrap_key(session, mechanism, keys.0, keys.1, places.room())?)
    })
}

/// Decrypts a key into the token.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_UnwrapKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    unwrapping_key: CK_OBJECT_HANDLE,
    wrapped: *mut CK_BYTE,
    wrapped_length: CK_ULONG,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(key) }?;
        // SAFETY: the contract of this module.
        let mechanism = unsafe { memory::mechanism(mechanism) }?;
        let too_long = CkRv::WRAPPED_KEY_LEN_RANGE;
        // SAFETY: the contract of this module.
        let wrapped = unsafe { memory::bytes(wrapped, wrapped_length, too_long) }?;
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let (session, with) = (session_handle(session), object_handle(unwrapping_key));
        let made = ask!(
            library,
            C_UnwrapKey(session, mechanism, with, wrapped, template)
        )?;
        place.put(narrow(made.object.0));
        Ok(())
    })
}

/// Derives a key.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DeriveKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    base_key: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(key) }?;
        // SAFETY: the contract of this module.
        let mechanism = unsafe { memory::mechanism(mechanism) }?;
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let (session, base) = (session_handle(session), object_handle(base_key));
        let made = ask!(library, C_DeriveKey(session, mechanism, base, template))?;
        place.put(narrow(made.object.0));
        Ok(())
    })
}
