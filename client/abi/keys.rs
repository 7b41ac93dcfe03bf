//! Exports the functions that make, wrap, unwrap, derive and encapsulate keys: PKCS#11 v3.0, section 5.18.

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BYTE, CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG,
};
use xdr::{CkRv, Function, KeyResult};

use super::memory;
use super::memory::{ParameterPlaces, Place, Places};
use super::{enter, object_handle, put_bytes, session_handle};
use crate::library::TOO_LONG;
use crate::remote::{ask, result};

/// Writes the results of a function that makes one key.
fn put_key(
    made: KeyResult,
    parameter: &ParameterPlaces,
    place: Place<CK_OBJECT_HANDLE>,
) -> Result<(), CkRv> {
    parameter.put(&made.written)?;
    place.put_handle(made.object)?;
    result(made.rv)
}

/// Generates a key.
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
        let place = unsafe { Place::new(key) };
        // SAFETY: the contract of this module.
        let read = unsafe { memory::mechanism(mechanism, Function::C_GenerateKey) };
        let (mechanism, parameter) = read?;
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let session = session_handle(session);
        let made = ask!(
            library,
            C_GenerateKey(session, mechanism, template),
            place.nulls()
        )?;
        put_key(made, &parameter, place)
    })
}

/// Generates a key pair.
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
        let public_place = unsafe { Place::new(public_key) };
        // SAFETY: the contract of this module.
        let private_place = unsafe { Place::new(private_key) };
        // SAFETY: the contract of this module.
        let read = unsafe { memory::mechanism(mechanism, Function::C_GenerateKeyPair) };
        let (mechanism, parameter) = read?;
        // SAFETY: the contract of this module.
        let public = unsafe { memory::template(public_template, public_count) }?;
        // SAFETY: the contract of this module.
        let private = unsafe { memory::template(private_template, private_count) }?;
        let session = session_handle(session);
        let made = ask!(
            library,
            C_GenerateKeyPair(session, mechanism, public, private),
            public_place.nulls_with(private_place)
        )?;
        parameter.put(&made.written)?;
        public_place.put_handle(made.public_key)?;
        private_place.put_handle(made.private_key)?;
        result(made.rv)
    })
}

/// Wraps (encrypts) a key.
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
        let places = unsafe { Places::new(wrapped, wrapped_length) };
        // SAFETY: the contract of this module.
        let read = unsafe { memory::mechanism(mechanism, Function::C_WrapKey) };
        let (mechanism, parameter) = read?;
        let session = session_handle(session);
        let (with, key) = (object_handle(wrapping_key), object_handle(key));
        let answer = ask!(
            library,
            C_WrapKey(session, mechanism, with, key, places.room())
        )?;
        parameter.put(&answer.written)?;
        let function = Function::C_WrapKey;
        put_bytes(places, function, answer.rv, answer.length, answer.data)
    })
}

/// Unwraps (decrypts) a key.
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
        let place = unsafe { Place::new(key) };
        // SAFETY: the contract of this module.
        let read = unsafe { memory::mechanism(mechanism, Function::C_UnwrapKey) };
        let (mechanism, parameter) = read?;
        let too_long = CkRv::WRAPPED_KEY_LEN_RANGE;
        // SAFETY: the contract of this module.
        let wrapped = unsafe { memory::input(wrapped, wrapped_length, too_long) }?;
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let (session, with) = (session_handle(session), object_handle(unwrapping_key));
        let made = ask!(
            library,
            C_UnwrapKey(session, mechanism, with, wrapped, template),
            place.nulls()
        )?;
        put_key(made, &parameter, place)
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
        let place = unsafe { Place::new(key) };
        // SAFETY: the contract of this module.
        let read = unsafe { memory::mechanism(mechanism, Function::C_DeriveKey) };
        let (mechanism, parameter) = read?;
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let (session, base) = (session_handle(session), object_handle(base_key));
        let made = ask!(
            library,
            C_DeriveKey(session, mechanism, base, template),
            place.nulls()
        )?;
        put_key(made, &parameter, place)
    })
}

/// Makes a key and encapsulates it with a public key.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncapsulateKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    public_key: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    ciphertext: *mut CK_BYTE,
    ciphertext_length: *mut CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(key) };
        // SAFETY: the contract of this module.
        let places = unsafe { Places::new(ciphertext, ciphertext_length) };
        // SAFETY: the contract of this module.
        let read = unsafe { memory::mechanism(mechanism, Function::C_EncapsulateKey) };
        let (mechanism, parameter) = read?;
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let (session, with) = (session_handle(session), object_handle(public_key));
        let made = ask!(
            library,
            C_EncapsulateKey(session, mechanism, with, template, places.room()),
            place.nulls()
        )?;
        parameter.put(&made.written)?;
        let function = Function::C_EncapsulateKey;
        let written = put_bytes(places, function, made.rv, made.length, made.data);
        if written.is_ok() || !made.rv.is_ok() {
            place.put_handle(made.object)?;
        }
        written
    })
}

/// Decapsulates a key with a private key.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecapsulateKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    private_key: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    ciphertext: *mut CK_BYTE,
    ciphertext_length: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(key) };
        // SAFETY: the contract of this module.
        let read = unsafe { memory::mechanism(mechanism, Function::C_DecapsulateKey) };
        let (mechanism, parameter) = read?;
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        // SAFETY: the contract of this module.
        let ciphertext = unsafe { memory::input(ciphertext, ciphertext_length, TOO_LONG) }?;
        let (session, with) = (session_handle(session), object_handle(private_key));
        let made = ask!(
            library,
            C_DecapsulateKey(session, mechanism, with, template, ciphertext),
            place.nulls()
        )?;
        put_key(made, &parameter, place)
    })
}

/// Wraps (encrypts) a key, and authenticates additional data with it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_WrapKeyAuthenticated(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    wrapping_key: CK_OBJECT_HANDLE,
    key: CK_OBJECT_HANDLE,
    associated: *mut CK_BYTE,
    associated_length: CK_ULONG,
    wrapped: *mut CK_BYTE,
    wrapped_length: *mut CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let places = unsafe { Places::new(wrapped, wrapped_length) };
        // SAFETY: the contract of this module.
        let read = unsafe { memory::mechanism(mechanism, Function::C_WrapKeyAuthenticated) };
        let (mechanism, parameter) = read?;
        // SAFETY: the contract of this module.
        let associated = unsafe { memory::input(associated, associated_length, TOO_LONG) }?;
        let session = session_handle(session);
        let (with, key) = (object_handle(wrapping_key), object_handle(key));
        let answer = ask!(
            library,
            C_WrapKeyAuthenticated(session, mechanism, with, key, associated, places.room())
        )?;
        parameter.put(&answer.written)?;
        let function = Function::C_WrapKeyAuthenticated;
        put_bytes(places, function, answer.rv, answer.length, answer.data)
    })
}

/// Unwraps (decrypts) a key, if it and the additional data are authentic.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_UnwrapKeyAuthenticated(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    unwrapping_key: CK_OBJECT_HANDLE,
    wrapped: *mut CK_BYTE,
    wrapped_length: CK_ULONG,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    associated: *mut CK_BYTE,
    associated_length: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(key) };
        // SAFETY: the contract of this module.
        let read = unsafe { memory::mechanism(mechanism, Function::C_UnwrapKeyAuthenticated) };
        let (mechanism, parameter) = read?;
        let too_long = CkRv::WRAPPED_KEY_LEN_RANGE;
        // SAFETY: the contract of this module.
        let wrapped = unsafe { memory::input(wrapped, wrapped_length, too_long) }?;
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        // SAFETY: the contract of this module.
        let associated = unsafe { memory::input(associated, associated_length, TOO_LONG) }?;
        let (session, with) = (session_handle(session), object_handle(unwrapping_key));
        let made = ask!(
            library,
            C_UnwrapKeyAuthenticated(session, mechanism, with, wrapped, template, associated),
            place.nulls()
        )?;
        put_key(made, &parameter, place)
    })
}
