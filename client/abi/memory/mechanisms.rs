//! Reads mechanisms with their parameters from the application's memory, and writes the module's output into them.
//!
//! `xdr` knows the structures: it says what to read, and where a module writes. This file only accesses the memory.

use std::ffi::c_void;
use std::ptr;

use cryptoki_sys::{CK_MECHANISM, CK_ULONG};
use xdr::facts::Family;
use xdr::mechanism::{Change, Memory, OutputPlace};
use xdr::word_size::wide;
use xdr::{CkRv, Function, Mechanism, MechanismType, SessionHandle, Written};

use super::{copied, copy};
use crate::library::{Library, NO_MECHANISM};
use crate::mechanism::{is_parameterless, log_refused};

/// Access to the application's memory, for the length of one call.
struct Application(());

impl Application {
    /// # Safety
    /// While this lives, only memory is read to which pointers of the application refer. That memory can be read as far
    /// as the structures that contain the pointers say.
    unsafe fn new() -> Application {
        Application(())
    }
}

impl Memory for Application {
    fn read(&self, address: usize, length: usize) -> Result<Vec<u8>, CkRv> {
        let first: *const c_void = ptr::with_exposed_provenance(address);
        // SAFETY: `address` is not null; the creator of this value guaranteed the rest.
        unsafe { copied(first, length as CK_ULONG) }
    }
}

/// The places in a mechanism's parameter where a module writes.
pub(in crate::abi) struct ParameterPlaces {
    places: Vec<OutputPlace>,
    /// Whether the function has a parameter of inputs only. Then the places may be constants of the application.
    is_input: bool,
}

impl ParameterPlaces {
    const NONE: ParameterPlaces = ParameterPlaces {
        places: Vec::new(),
        is_input: false,
    };

    /// Writes the module's output. If it does not fit the parameter, writes nothing and returns CKR_DEVICE_ERROR.
    /// Writes nothing either if the function only reads its parameter.
    pub fn put(&self, written: &Written) -> Result<(), CkRv> {
        if self.is_input {
            return Ok(());
        }
        // SAFETY: the places were found in memory that the caller guaranteed.
        let memory = unsafe { Application::new() };
        let changes = written.changes(&self.places, &memory);
        for Change { address, bytes } in changes.map_err(|_| CkRv::DEVICE_ERROR)? {
            let place: *mut u8 = ptr::with_exposed_provenance_mut(address);
            // SAFETY: this is one of the places that were found in the application's parameter, and no longer than
            // that. PKCS#11 lets a module write there, in a function that may make an IV or a key.
            unsafe { copy(&bytes, place) };
        }
        Ok(())
    }
}

/// Reads a mechanism with its parameter for a call of `function`. Returns it, or `None` if it is NULL, and the places
/// where the module writes into it.
///
/// # Safety
/// Unless null, `mechanism` can be read as a CK_MECHANISM until the places are written, and its parameter with the
/// length it states. Memory to which pointers in the parameter refer can be read and written as PKCS#11 says.
pub(in crate::abi) unsafe fn mechanism(
    mechanism: *const CK_MECHANISM,
    function: Function,
) -> Result<(Option<Mechanism>, ParameterPlaces), CkRv> {
    if mechanism.is_null() {
        return Ok((None, ParameterPlaces::NONE));
    }
    // SAFETY: not null, so readable as the caller guarantees.
    let mechanism = unsafe { mechanism.read_unaligned() };
    let mechanism_type = MechanismType(wide(mechanism.mechanism));
    let parameter = mechanism.pParameter.cast_const();
    if is_parameterless(mechanism_type) {
        // Some applications pass garbage there: a pointer that was never followed so far, or one to secrets.
        let length = match parameter.is_null() {
            true => Err(wide(mechanism.ulParameterLen)),
            false => Ok(wide(mechanism.ulParameterLen)),
        };
        let mechanism = Mechanism::unseen(mechanism_type, length);
        return Ok((Some(mechanism), ParameterPlaces::NONE));
    }
    // SAFETY: guaranteed by the caller.
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

/// Reads the parameter of a message. Its structure depends on the mechanism that was passed to C_Message*Init in this
/// session. If C_Message*Init was not called, the parameter is not read.
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
    // SAFETY: guaranteed by the caller.
    unsafe { read(mechanism_type, parameter, length, function) }
}

/// Reads a parameter. If it is refused, logs why.
///
/// # Safety
/// As [`mechanism`] for its parameter.
unsafe fn read(
    mechanism_type: MechanismType,
    parameter: *const c_void,
    length: CK_ULONG,
    function: Function,
) -> Result<(Mechanism, ParameterPlaces), CkRv> {
    // SAFETY: guaranteed by the caller.
    let memory = unsafe { Application::new() };
    let address = parameter.expose_provenance();
    let usage = function.parameter_use();
    let read = match usize::try_from(length) {
        Ok(length) => Mechanism::from_memory(mechanism_type, address, length, usage, &memory),
        Err(_) => Err(CkRv::DATA_LEN_RANGE),
    };
    let read = read.inspect_err(|rv| log_refused(function, mechanism_type, *rv));
    let is_input = only_reads(function);
    read.map(|(mechanism, places)| (mechanism, ParameterPlaces { places, is_input }))
}

/// Whether nothing in a parameter of this function is the module's to write: it gets the IVs that encrypting, signing or
/// wrapping has made.
fn only_reads(function: Function) -> bool {
    let reads = [
        Family::Decrypt,
        Family::Verify,
        Family::VerifyRecover,
        Family::Unwrap,
        Family::Digest,
    ];
    let families = function.facts().families;
    !families.is_empty() && families.iter().all(|family| reads.contains(family))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_inputs_are_never_written() {
        use Function::*;
        for (function, reads) in [
            (C_DecryptInit, true),
            (C_DecryptMessage, true),
            (C_VerifyInit, true),
            (C_UnwrapKey, true),
            (C_DigestInit, true),
            (C_EncryptInit, false),
            (C_EncryptMessage, false),
            (C_SignInit, false),
            (C_WrapKey, false),
            (C_DeriveKey, false),
            (C_GenerateKey, false),
            (C_EncapsulateKey, false),
        ] {
            assert_eq!(only_reads(function), reads, "{}", function.name());
        }
    }
}
