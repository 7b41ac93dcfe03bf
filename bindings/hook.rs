//! Calls the function C_Daemonize of a shared object, once.
//!
//! The original can be built with such a function; `-daemonize-param` gives its parameter. Here the administrator names
//! a shared object that has it. The object stays loaded.

use std::ffi::{c_uchar, c_ulong};
use std::path::Path;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use xdr::CkRv;
use xdr::word_size::wide;

/// `CK_RV C_Daemonize(const CK_BYTE *param, CK_ULONG length)`.
type Daemonize = unsafe extern "C" fn(*const c_uchar, c_ulong) -> c_ulong;

/// Why C_Daemonize was not called, or failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The shared object cannot be loaded, or has no such function.
    #[error("{0}")]
    Unusable(libloading::Error),
    /// The function returned an error.
    #[error("C_Daemonize returned {0}")]
    Failed(CkRv),
}

/// Loads `file` and calls its function.
pub fn daemonize(file: &Path, parameter: &[u8]) -> Result<(), HookError> {
    // SAFETY: the object's constructors run. The administrator who names it answers for them, as for the daemon itself.
    let library = unsafe { Library::open(Some(file), RTLD_NOW | RTLD_LOCAL) };
    let library = std::mem::ManuallyDrop::new(library.map_err(HookError::Unusable)?);
    // SAFETY: the documentation of `daemonize_hook` gives the function this type.
    let daemonize = unsafe { library.get::<Daemonize>(b"C_Daemonize\0") };
    let daemonize = daemonize.map_err(HookError::Unusable)?;
    let length = c_ulong::try_from(parameter.len()).unwrap_or(c_ulong::MAX);
    // SAFETY: the function reads that many bytes, and the object stays loaded.
    let value = unsafe { daemonize(parameter.as_ptr(), length) };
    match CkRv(wide(value)) {
        CkRv::OK => Ok(()),
        failed => Err(HookError::Failed(failed)),
    }
}
