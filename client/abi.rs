//! Exports the functions of PKCS#11 v3.2, and nothing else.
//!
//! Each function turns the application's pointers into slices and values with the help of `memory`, sends a call
//! through the `Library` and writes the result. Pointers go no further than this folder. There is one file for each
//! section of the standard (`interfaces`, `slots`, `sessions`, `objects`, `operations`, `messages`, `keys`,
//! `asynchronous`). This file has what they share, the general functions of section 5.4, and one macro for each shape
//! of arguments that several functions have.
//!
//! Every function first checks that the library is initialised, then turns its arguments into a call, makes the call,
//! and writes what the reply contains. The module checks the arguments, NULL pointers
//! included, except what cannot be sent: a NULL template with a count, a reserved pointer that is not NULL, and lists and
//! parameters that are too long.
//!
//! All functions have one contract, PKCS#11's own (v2.20, section 11): a pointer that is not null is valid, for the
//! type and length that belong to it, until the call returns. The SAFETY comments below call it "the contract of this
//! module".

#![allow(non_snake_case)] // the standard's names
#![allow(clippy::missing_safety_doc)] // one contract for all, above
#![allow(clippy::too_many_arguments)] // the standard's signatures

use std::panic::{AssertUnwindSafe, catch_unwind};

use cryptoki_sys::{
    CK_BYTE, CK_C_INITIALIZE_ARGS, CK_INFO, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID,
    CK_VOID_PTR, CKF_LIBRARY_CANT_CREATE_OS_THREADS, CKF_OS_LOCKING_OK, CKR_GENERAL_ERROR,
    CKR_HOST_MEMORY,
};
use xdr::word_size::wide;
use xdr::{CkRv, Data, Function, ObjectHandle, OutputResult, SessionHandle, SlotId, Ulong};

use crate::instance;
use crate::landing::Landing;
use crate::library::Library;
use crate::remote::{ask, result};
use crate::settings::Environment;
use crate::socket::OwnThreads;
use crate::structures;
use cancellation::Uncancelled;
use memory::{Place, Places};

/// Defines functions that fill one structure, each from its arguments and the function that builds the structure.
macro_rules! information {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty => $value:expr),*)
        -> $structure:ty = $make:expr;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type,)* place: *mut $structure) -> CK_RV {
            enter(|library| {
                // SAFETY: the contract of this module.
                let place = unsafe { Place::new(place) };
                let answer = ask!(library, $name($($value),*), place.nulls())?;
                result(answer.rv)?;
                place.put($make(&answer)?);
                Ok(())
            })
        }
    )*};
}

/// Defines functions whose only argument is a session.
macro_rules! of_session {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(session: CK_SESSION_HANDLE) -> CK_RV {
            enter(|library| library.only(Call::$name(session_handle(session))))
        }
    )*};
}

/// Defines functions that begin an operation with a key.
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
                let read = unsafe { memory::mechanism(mechanism, Function::$name) };
                let (mechanism, parameter) = read?;
                let (session, key) = (session_handle(session), object_handle(key));
                let answer = ask!(library, $name(session, mechanism, key))?;
                parameter.put(&answer.written)?;
                result(answer.rv)
            })
        }
    )*};
}

/// Defines functions that take a session and bytes, and return bytes.
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
                let places = unsafe { Places::new(output, output_length) };
                // SAFETY: the contract of this module. Output is written only when the input is no longer used, or
                // while the input is known to lie elsewhere.
                let input = unsafe { memory::input(input, input_length, TOO_LONG) };
                let session = session_handle(session);
                let input = library.checked(session, Function::$name, input)?;
                // SAFETY: the contract of this module; nothing else uses the output meanwhile.
                let mut landing = unsafe { places.landing(input.bytes()) };
                let call = ask!(library, $name(session, input, places.room()), into &mut landing);
                put_output(places, Function::$name, call?, &landing)
            })
        }
    )*};
}

/// Defines functions that take only a session, and return bytes.
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
                let places = unsafe { Places::new(output, output_length) };
                // SAFETY: the contract of this module; nothing else uses the output meanwhile.
                let mut landing = unsafe { places.landing(&[]) };
                let session = session_handle(session);
                let call = ask!(library, $name(session, places.room()), into &mut landing);
                put_output(places, Function::$name, call?, &landing)
            })
        }
    )*};
}

/// Defines functions that take a session and bytes, and return none.
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
                let input = unsafe { memory::input(input, length, TOO_LONG) };
                let session = session_handle(session);
                let input = library.checked(session, Function::$name, input)?;
                library.only(Call::$name(session, input))
            })
        }
    )*};
}

mod asynchronous;
mod cancellation;
mod function_list;
mod interfaces;
mod keys;
mod memory;
mod messages;
mod objects;
mod operations;
mod reserve;
mod sessions;
mod slots;
mod unload;

/// Runs the body of a C function. Catches panics, so that none unwinds into the application, and disables cancellation
/// of the thread meanwhile.
fn guard(body: impl FnOnce() -> Result<(), CkRv>) -> CK_RV {
    let _uncancelled = Uncancelled::new();
    let rv = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => CkRv::OK,
        Ok(Err(rv)) => rv,
        Err(_) => CkRv::GENERAL_ERROR,
    };
    // A CK_RV that does not fit into this host's CK_RV must not become CKR_OK.
    structures::number(rv.0).unwrap_or(CKR_GENERAL_ERROR)
}

/// Runs the body of a function that needs an initialised library and memory.
fn enter(body: impl FnOnce(&Library) -> Result<(), CkRv>) -> CK_RV {
    guard_with_memory(|| body(&*instance().library()?))
}

/// Runs the body of a C function if there is memory left. (C_Finalize needs none.)
fn guard_with_memory(body: impl FnOnce() -> Result<(), CkRv>) -> CK_RV {
    match reserve::is_low() {
        true => CKR_HOST_MEMORY,
        false => guard(body),
    }
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

/// Writes the result of a call, whose bytes may have been received where they belong.
fn put_output(
    places: Places<CK_BYTE>,
    function: Function,
    result: OutputResult,
    landing: &Landing<'_>,
) -> Result<(), CkRv> {
    match landing.landed() {
        Some(count) => places.put_count(result.rv, result.length.0, count),
        None => put_bytes(places, function, result.rv, result.length, result.data),
    }
}

/// Writes the bytes of a reply, and wipes them if they may be secret.
fn put_bytes(
    places: Places<CK_BYTE>,
    function: Function,
    rv: CkRv,
    length: Ulong,
    mut data: Data,
) -> Result<(), CkRv> {
    let written = places.put(rv, length.0, &data);
    if function.hands_out_secrets() {
        data.wipe();
    }
    written
}

/// Initialises the library: connects, and initialises the module behind the daemon.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Initialize(arguments: CK_VOID_PTR) -> CK_RV {
    guard_with_memory(|| {
        unload::watch_exit();
        let arguments = arguments.cast::<CK_C_INITIALIZE_ARGS>();
        let mut environment = Environment::process();
        let threads = if arguments.is_null() {
            false
        } else {
            // SAFETY: not null, so a CK_C_INITIALIZE_ARGS by the contract of this module.
            let arguments = unsafe { arguments.read_unaligned() };
            if arguments.flags & CKF_LIBRARY_CANT_CREATE_OS_THREADS != 0 {
                environment.threads = OwnThreads::Forbidden;
            }
            allows_threads(&arguments)?
        };
        instance().initialize(&environment, threads)
    })
}

/// Returns whether the application may call from several threads. Fails if only some of the mutex functions are given,
/// or if pReserved is not null.
///
/// This library uses the system's locks whatever the flags say: it never calls the application's mutex functions.
fn allows_threads(arguments: &CK_C_INITIALIZE_ARGS) -> Result<bool, CkRv> {
    let mutex_functions = [
        arguments.CreateMutex.is_some(),
        arguments.DestroyMutex.is_some(),
        arguments.LockMutex.is_some(),
        arguments.UnlockMutex.is_some(),
    ];
    let any = mutex_functions.contains(&true);
    let all = !mutex_functions.contains(&false);
    if any != all || !arguments.pReserved.is_null() {
        return Err(CkRv::ARGUMENTS_BAD);
    }
    Ok(all || arguments.flags & CKF_OS_LOCKING_OK != 0)
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

information! {
    /// Returns the version of PKCS#11 and the manufacturer and version of the module.
    C_GetInfo() -> CK_INFO = |answer: &xdr::InfoResult| structures::info(&answer.info);
}
