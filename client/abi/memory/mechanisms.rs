//! Reads mechanisms with their parameters from the application's memory, and writes into them what the module wrote.
//!
//! `xdr` knows the structures: it says what is to be read, and where a module writes. This file only accesses the
//! memory.

use std::ffi::c_void;
use std::ptr;

use cryptoki_sys::{CK_MECHANISM, CK_ULONG};
use xdr::mechanism::{Change, Memory, OutputPlace};
use xdr::word_size::wide;
use xdr::{CkRv, Function, Mechanism, MechanismType, SessionHandle, Written};

use super::{copied, copy};
use crate::library::{Library, NO_MECHANISM};
use crate::mechanism::{is_parameterless, log_refused};

/// The memory of the application, for the length of one call.
struct Application(());

impl Application {
    /// # Safety
    /// While this lives, what is read of it is what pointers of the application refer to, and can be read as far as
    /// the structures that hold the pointers say.
    unsafe fn new() -> Application {
        Application(())
    }
}

impl Memory for Application {
    fn read(&self, address: usize, length: usize) -> Result<Vec<u8>, CkRv> {
        let first: *const c_void = ptr::with_exposed_provenance(address);
        // SAFETY: `address` is not null, and whoever made this has vouched for the rest.
        unsafe { copied(first, length as CK_ULONG) }
    }
}

/// Where a module writes into the parameter of a mechanism.
pub(in crate::abi) struct ParameterPlaces(Vec<OutputPlace>);

impl ParameterPlaces {
    const NONE: ParameterPlaces = ParameterPlaces(Vec::new());

    /// Writes what the module wrote. CKR_DEVICE_ERROR if it does not fit the parameter; nothing is written then.
    pub fn put(&self, written: &Written) -> Result<(), CkRv> {
        // SAFETY: whoever found the places has vouched for them.
        let memory = unsafe { Application::new() };
        let changes = written.changes(&self.0, &memory);
        for Change { address, bytes } in changes.map_err(|_| CkRv::DEVICE_ERROR)? {
            let place: *mut u8 = ptr::with_exposed_provenance_mut(address);
            // SAFETY: one of the places that were found in the application's parameter, and no longer than that; the
            // application says by its parameter that it can be written.
            unsafe { copy(&bytes, place) };
        }
        Ok(())
    }
}

/// A mechanism with its parameter for a call of `function`, and where the module writes into it. `None` if it is NULL.
///
/// # Safety
/// Unless null, `mechanism` can be read as a CK_MECHANISM until the places are written, its parameter as it says, and
/// what pointers in the parameter refer to can be read and written as PKCS#11 says.
pub(in crate::abi) unsafe fn mechanism(
    mechanism: *const CK_MECHANISM,
    function: Function,
) -> Result<(Option<Mechanism>, ParameterPlaces), CkRv> {
    if mechanism.is_null() {
        return Ok((None, ParameterPlaces::NONE));
    }
    // SAFETY: not null, so readable by the caller's word.
    let mechanism = unsafe { mechanism.read_unaligned() };
    let mechanism_type = MechanismType(wide(mechanism.mechanism));
    let parameter = mechanism.pParameter.cast_const();
    if is_parameterless(mechanism_type) {
        // Some applications pass garbage there: a pointer that nobody has followed yet, or to secrets.
        let length = match parameter.is_null() {
            true => Err(wide(mechanism.ulParameterLen)),
            false => Ok(wide(mechanism.ulParameterLen)),
        };
        let mechanism = Mechanism::unseen(mechanism_type, length);
        return Ok((Some(mechanism), ParameterPlaces::NONE));
    }
    // SAFETY: the caller's word.
    let read = unsafe {
        read(
            mechanism_type,
            parameter,
            mechanism.ulParameterLen,
            function,
        )
    };
    read.map(|(mechanism, places)| (Some(mechanism), places))
}

/// The parameter of one message in this session. Its structure is that of the mechanism that C_Message*Init was called
/// with; without one it is not looked at.
///
/// # Safety
/// As [`mechanism`] for its parameter.
pub(in crate::abi) unsafe fn message_parameter(
    library: &Library,
    session: SessionHandle,
    function: Function,
    parameter: *const c_void,
    length: CK_ULONG,
) -> Result<(Mechanism, ParameterPlaces), CkRv> {
    let mechanism_type = library.message_mechanism(session, function);
    if mechanism_type == NO_MECHANISM {
        return Ok((Mechanism::bare(mechanism_type), ParameterPlaces::NONE));
    }
    // SAFETY: the caller's word.
    unsafe { read(mechanism_type, parameter, length, function) }
}

/// Reads a parameter. Logs why it is refused.
///
/// # Safety
/// As [`mechanism`] for its parameter.
unsafe fn read(
    mechanism_type: MechanismType,
    parameter: *const c_void,
    length: CK_ULONG,
    function: Function,
) -> Result<(Mechanism, ParameterPlaces), CkRv> {
    // SAFETY: the caller's word.
    let memory = unsafe { Application::new() };
    let address = parameter.expose_provenance();
    let usage = function.parameter_use();
    let read = match usize::try_from(length) {
        Ok(length) => Mechanism::from_memory(mechanism_type, address, length, usage, &memory),
        Err(_) => Err(CkRv::DATA_LEN_RANGE),
    };
    let read = read.inspect_err(|rv| log_refused(function, mechanism_type, *rv));
    read.map(|(mechanism, places)| (mechanism, ParameterPlaces(places)))
}
