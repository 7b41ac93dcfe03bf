//! Exports the 68 functions of PKCS#11 v2.20, and nothing else.
//!
//! Each function turns the application's pointers into slices and values with the help of
//! `memory`, sends a call through the `Library` and writes the result. Pointers go no further
//! than this folder. The functions stand in one file for each section of the standard (`slots`,
//! `sessions`, `objects`, `operations`, `keys`); this file has what they share, the general
//! functions of section 11.4, and one macro for each shape of arguments that several functions have.
//!
//! Every function first asks whether the library is initialised, then checks its arguments, then
//! calls. It writes outputs on CKR_OK only, apart from lengths, for which the standard says more.
//!
//! All functions have one contract, PKCS#11's own (v2.20, section 11): a pointer that is not null
//! points to what its type and length say, for the length of the call. The SAFETY comments below
//! call it "the contract of this module".

#![allow(non_snake_case)] // the standard's names
#![allow(clippy::missing_safety_doc)] // one contract for all, above
#![allow(clippy::too_many_arguments)] // the standard's signatures

use std::panic::{AssertUnwindSafe, catch_unwind};

use cryptoki_sys::{
    CK_C_INITIALIZE_ARGS, CK_FUNCTION_LIST, CK_INFO, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE,
    CK_SLOT_ID, CK_ULONG, CK_VOID_PTR,
};
use xdr::{CkRv, Cryptoki, ObjectHandle, SessionHandle, SlotId};

use crate::instance;
use crate::library::Library;
use crate::remote::ask;
use crate::settings::Environment;
use crate::structures;
use memory::Place;
use xdr::word_size::{narrow, wide};

/// Functions that fill one structure: their arguments, and the function that makes the structure.
macro_rules! information {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty => $value:expr),*)
        -> $structure:ty = $make:expr;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type,)* place: *mut $structure) -> CK_RV {
            enter(|library| {
                // SAFETY: the contract of this module.
                let place = unsafe { Place::new(place) }?;
                let result = ask!(library, $name($($value),*))?;
                place.put($make(&result));
                Ok(())
            })
        }
    )*};
}

/// Functions whose only argument is a session.
macro_rules! of_session {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(session: CK_SESSION_HANDLE) -> CK_RV {
            enter(|library| library.only(Call::$name(session_handle(session))))
        }
    )*};
}

/// Functions that begin an operation with a key.
macro_rules! beginning_with_key {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            session: CK_SESSION_HANDLE,
            mechanism: *mut CK_MECHANISM,
            key: CK_OBJECT_HANDLE,
        ) -> CK_RV {
            enter(|library| {
                // SAFETY: the contract of this module.
                let mechanism = unsafe { memory::mechanism(mechanism) }?;
                let (session, key) = (session_handle(session), object_handle(key));
                library.operate(session, Call::$name(session, mechanism, key))
            })
        }
    )*};
}

/// Functions of a session that take bytes and return bytes.
macro_rules! bytes_to_bytes {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            session: CK_SESSION_HANDLE,
            input: *mut CK_BYTE,
            input_length: CK_ULONG,
            output: *mut CK_BYTE,
            output_length: *mut CK_ULONG,
        ) -> CK_RV {
            enter(|library| {
                // SAFETY: the contract of this module.
                let places = unsafe { Places::new(output, output_length) }?;
                // SAFETY: the contract of this module; output is written when it is no longer used.
                let input = unsafe { memory::bytes(input, input_length, TOO_LONG) };
                let session = session_handle(session);
                let input = library.checked(session, Function::$name, input)?;
                let call = Call::$name(session, input);
                let answer = library.two_phase(session, call, input, places.room())?;
                places.put(answer)
            })
        }
    )*};
}

/// Functions of a session that take no input and return bytes.
macro_rules! to_bytes {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            session: CK_SESSION_HANDLE,
            output: *mut CK_BYTE,
            output_length: *mut CK_ULONG,
        ) -> CK_RV {
            enter(|library| {
                // SAFETY: the contract of this module.
                let places = unsafe { Places::new(output, output_length) }?;
                let session = session_handle(session);
                let call = Call::$name(session);
                places.put(library.two_phase(session, call, &[], places.room())?)
            })
        }
    )*};
}

/// Functions of a session that take bytes.
macro_rules! taking_bytes {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            session: CK_SESSION_HANDLE,
            input: *mut CK_BYTE,
            length: CK_ULONG,
        ) -> CK_RV {
            enter(|library| {
                // SAFETY: the contract of this module.
                let input = unsafe { memory::bytes(input, length, TOO_LONG) };
                let session = session_handle(session);
                let input = library.checked(session, Function::$name, input)?;
                library.operate(session, Call::$name(session, input))
            })
        }
    )*};
}

mod function_list;
mod keys;
mod memory;
mod objects;
mod operations;
mod sessions;
mod slots;
mod unload;

/// Runs the body of a C function. Catches panics, so that none unwinds into the application.
fn guard(body: impl FnOnce() -> Result<(), CkRv>) -> CK_RV {
    let rv = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => CkRv::OK,
        Ok(Err(rv)) => rv,
        Err(_) => CkRv::GENERAL_ERROR,
    };
    narrow(rv.0)
}

/// Runs the body of a function that needs C_Initialize first.
fn enter(body: impl FnOnce(&Library) -> Result<(), CkRv>) -> CK_RV {
    guard(|| body(&*instance().library()?))
}

fn session_handle(session: CK_SESSION_HANDLE) -> SessionHandle {
    SessionHandle(wide(session))
}

fn object_handle(object: CK_OBJECT_HANDLE) -> ObjectHandle {
    ObjectHandle(wide(object))
}

fn slot_id(slot: CK_SLOT_ID) -> SlotId {
    SlotId(wide(slot))
}

fn numbers(numbers: impl Iterator<Item = u64>) -> Vec<CK_ULONG> {
    numbers.map(narrow).collect()
}

/// Initialises the library: connects, and initialises the module behind the daemon.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Initialize(arguments: CK_VOID_PTR) -> CK_RV {
    guard(|| {
        let arguments = arguments.cast::<CK_C_INITIALIZE_ARGS>();
        if !arguments.is_null() {
            // SAFETY: not null, so a CK_C_INITIALIZE_ARGS by the contract of this module.
            let arguments = unsafe { arguments.read_unaligned() };
            check_arguments(&arguments)?;
        }
        instance().initialize(&Environment::process())
    })
}

/// Refuses some mutex functions without the others, and a pReserved that is not null.
///
/// This library uses the system's locks whatever the flags say: it never calls the application's
/// mutex functions, and it starts no thread.
fn check_arguments(arguments: &CK_C_INITIALIZE_ARGS) -> Result<(), CkRv> {
    let mutex_functions = [
        arguments.CreateMutex.is_some(),
        arguments.DestroyMutex.is_some(),
        arguments.LockMutex.is_some(),
        arguments.UnlockMutex.is_some(),
    ];
    let alike = mutex_functions
        .iter()
        .all(|given| *given == mutex_functions[0]);
    if alike && arguments.pReserved.is_null() {
        Ok(())
    } else {
        Err(CkRv::ARGUMENTS_BAD)
    }
}

/// Finalises the module and disconnects.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Finalize(reserved: CK_VOID_PTR) -> CK_RV {
    guard(|| {
        let instance = instance();
        instance.library()?;
        if !reserved.is_null() {
            return Err(CkRv::ARGUMENTS_BAD);
        }
        instance.finalize()
    })
}

/// Hands out the one function list. Needs no connection and no C_Initialize.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    guard(|| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(list) }?;
        place.put((&raw const function_list::FUNCTION_LIST).cast_mut());
        Ok(())
    })
}

information! {
    /// Which module answers, and its version.
    C_GetInfo() -> CK_INFO = |result: &xdr::InfoResult| structures::info(&result.info);
}
